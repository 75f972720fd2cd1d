//! The document of the operations port, and how what comes from other rooms looks in JSON: they know nothing of OpenAPI. What a relay
//! really answers is compared with it by the tests (`relay/tests/sockets/api.rs`).

#![expect(dead_code, reason = "only the shapes are used")]

use super::problem::documented;
use node::ops::{is_open, is_probe};
use utoipa::openapi::OpenApi as Document31;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::{OpenApi, ToSchema};

/// The head of the document; the routes add the rest.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Anabranch relay, operations port",
        description = "For the operator alone. Where the relay has a token of its operations port, all but the probes and the page ask for it. Errors are problems of RFC 9457."
    ),
    components(schemas(node::ops::problem::Problem, crate::events::Event, Part)),
    tags(
        (name = "health", description = "Is it up, and how is it"),
        (name = "relay", description = "The relay as a whole"),
        (name = "streams", description = "How a stream travels, and what the sinks of this relay had of it"),
        (name = "test", description = "Packets of its own to another relay: what a stream would get"),
        (name = "links", description = "Repair of what this relay sends on its links"),
        (name = "dashboard", description = "The page for people, which asks the other paths")
    )
)]
pub(super) struct Document;

/// The scheme of the token, by this name.
const TOKEN: &str = "token";

/// Adds what stands before every route: the token, where the relay asks for it, and the host that is meant.
pub(super) fn guard(document: &mut Document31) {
    let about = "The token of the relay's `ops_token_file`, where it has one. A client certificate that it takes (`ops_tls.clients`) does as well.";
    let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(about)).build();
    document.components.get_or_insert_default().add_security_scheme(TOKEN, SecurityScheme::Http(scheme));
    for (path, item) in &mut document.paths.paths {
        let methods = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete];
        for operation in methods.into_iter().flatten() {
            let responses = &mut operation.responses.responses;
            responses.insert("408".to_owned(), documented("The request did not come in time."));
            if !is_probe(path) {
                let elsewhere = documented("The host that is meant is not this port.");
                responses.entry("421".to_owned()).or_insert(elsewhere);
            }
            if !is_open(path) {
                let unknown = documented("The relay asks for a token: it is missing, or another.");
                responses.insert("401".to_owned(), unknown);
                let token = SecurityRequirement::new(TOKEN, [""; 0]);
                let without = documented("The relay asks for a client certificate, or a page of another site asks.");
                responses.entry("403".to_owned()).or_insert(without);
                operation.security = Some(vec![token, SecurityRequirement::default()]);
            }
        }
    }
}

/// Name of a node, as in its certificate.
#[derive(ToSchema)]
#[schema(value_type = String, pattern = "^[a-z0-9.-]{1,63}$", example = "fra")]
pub(crate) struct NodeName(String);

/// Name of one of several links between two relays, the same at both ends.
#[derive(ToSchema)]
#[schema(value_type = String, pattern = "^[a-z0-9-]{1,31}$", example = "fibre")]
pub(crate) struct LinkName(String);

/// A link as one of its ends calls it: the relay at the other end and, where several links join the two, the link's name: `relay~link`.
#[derive(ToSchema)]
#[schema(value_type = String, pattern = "^[a-z0-9.-]{1,63}(~[a-z0-9-]{1,31})?$", example = "fra~fibre")]
pub(crate) struct LinkEnd(String);

/// Name of a stream: `tenant/channel` or `tenant/channel/rendition`.
#[derive(ToSchema)]
#[schema(
    value_type = String,
    pattern = "^[A-Za-z0-9._-]{1,63}(/[A-Za-z0-9._-]{1,63}){1,2}$",
    example = "news/studio-1"
)]
pub(crate) struct StreamName(String);

/// A part of the name of a stream.
#[derive(ToSchema)]
#[schema(value_type = String, pattern = "^[A-Za-z0-9._-]{1,63}$", example = "news")]
pub(crate) struct Part(String);

/// A span of time.
#[derive(ToSchema)]
pub(crate) struct Duration {
    /// Whole seconds.
    secs: u64,
    /// What remains, in nanoseconds.
    #[schema(maximum = 999_999_999)]
    nanos: u32,
}

/// What a certificate or a token makes its holder.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(crate) enum Role {
    Relay,
    Source,
    Sink,
}

/// Publishing or watching.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(crate) enum Act {
    Publish,
    Subscribe,
}

/// Why something was refused: `expired`, `forbidden`, `name_taken`, `overload`, `protocol`, `stopping` and others.
#[derive(ToSchema)]
#[schema(value_type = String, pattern = "^[a-z_]+$", example = "forbidden")]
pub(crate) struct Refused(String);

/// What a stream carries: datagrams as they came, or an MPEG transport stream.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(crate) enum Content {
    Datagrams,
    Ts,
}

/// What has been found of a transport stream since it began to pass, by the numbers of ETSI TR 101 290.
#[derive(ToSchema)]
pub(crate) struct TsHealth {
    /// Packets seen.
    packets: u64,
    /// Packets without their sync byte, and payloads that are no whole number of packets (1.1, 1.2).
    sync_errors: u64,
    /// Times that two or more of these came in a row (1.1).
    sync_losses: u64,
    /// Half seconds without a programme association table (1.3).
    pat_errors: u64,
    /// Gaps in continuity counters (1.4).
    continuity_errors: u64,
    /// Half seconds without the map of a programme (1.5).
    pmt_errors: u64,
    /// Packets marked as damaged before they came to the source (2.1).
    transport_errors: u64,
    /// Clock references more than 100 ms apart in time (2.3a).
    pcr_repetition_errors: u64,
    /// Clock references more than 100 ms apart in value, unannounced (2.3b).
    pcr_discontinuities: u64,
    /// The longest time between two references lately; null before two.
    #[schema(required)]
    pcr_interval_ms: Option<f64>,
    /// The farthest that time and clock ran apart between two references lately; null before two.
    #[schema(required)]
    pcr_jitter_ms: Option<f64>,
}

/// How a stream is spread over the overlay.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(crate) enum Dissemination {
    Auto,
    Tree,
    Disjoint,
    Targeted,
    Flood,
}

/// How a link repairs losses.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(crate) enum RepairMode {
    Auto,
    Off,
    Arq,
    Fec,
    Hybrid,
    Duplicate,
}

/// The repair policy of one link and direction.
#[derive(ToSchema)]
pub(crate) struct Policy {
    /// How losses are repaired.
    mode: RepairMode,
    /// Share of packets that may remain lost or late after repair.
    target_residual: f64,
    /// Ceiling on repair bytes sent, as a share of media bytes sent.
    max_overhead: f64,
    /// What the link may carry, all frames together, in bits per second; null: estimated from delay and loss.
    #[schema(required)]
    capacity: Option<u64>,
}

/// Counters of one end of a link, since it came up. "Sent" is what this end transmitted, "received" what it got from the other.
#[derive(ToSchema)]
pub(crate) struct LinkStats {
    media_packets_sent: u64,
    media_bytes_sent: u64,
    /// Plain and coded copies sent on request.
    arq_packets_sent: u64,
    arq_bytes_sent: u64,
    /// Code sent ahead of loss, fail-safe copies and duplicates included.
    fec_packets_sent: u64,
    fec_bytes_sent: u64,
    feedback_packets_sent: u64,
    feedback_bytes_sent: u64,
    probe_packets_sent: u64,
    /// Media packets that arrived as first sent.
    media_packets_received: u64,
    media_bytes_received: u64,
    /// Any transmission whose number never arrived: lost on the wire.
    wire_lost: u64,
    /// Transmissions received, of any kind.
    wire_received: u64,
    recovered_by_arq: u64,
    recovered_by_fec: u64,
    /// Media packets given up by the receiving end: lost after repair.
    unrecovered: u64,
    /// Repair that arrived and was not needed.
    repair_unneeded: u64,
    /// Media packets this end dropped before the first transmission, each with its reason.
    dropped_late: u64,
    /// They waited in a queue that stands: more is offered than the link carries.
    dropped_standing: u64,
    dropped_low_priority: u64,
    dropped_queue_full: u64,
    /// Repair not sent because of the capacity or the ceiling on overhead.
    repair_suppressed: u64,
    /// Datagrams that did not decode, or would have made more work than a peer may.
    malformed: u64,
}

/// What a link has measured, from the data itself. Losses and delays are of the direction named.
#[derive(ToSchema)]
pub(crate) struct LinkQuality {
    /// Round-trip time: smallest of the recent past. Zero before the first measurement.
    rtt_min: Duration,
    /// Round-trip time, smoothed (RFC 6298).
    rtt: Duration,
    /// Mean deviation of the round-trip time (RFC 6298).
    rtt_variation: Duration,
    /// One-way delay towards the peer, bare transit; half the smallest round trip unless the clocks tell more.
    transit: Duration,
    /// Half-width of the interval that holds `transit` for certain.
    transit_bound: Duration,
    /// Lateness against the smallest one-way delay: the 99 % quantile, in the receiving direction.
    jitter_p99: Duration,
    /// Share of our transmissions lost, over the last 50 ms or 50 packets.
    loss_sent_fast: f64,
    /// Share of our transmissions lost, over some seconds.
    loss_sent: f64,
    /// Mean length of a run of losses in our direction, in transmissions.
    burst_sent: f64,
    /// Share of the peer's transmissions lost, over the last 50 ms or 50 packets.
    loss_received_fast: f64,
    /// Share of the peer's transmissions lost, over some seconds.
    loss_received: f64,
    /// Deepest reordering seen recently, in transmissions.
    reordering: u32,
    /// Rate of media this end sends, in bits per second.
    media_rate: u64,
    /// What this end believes the link can carry, in bits per second; null while nothing bounds it.
    #[schema(required)]
    capacity: Option<u64>,
    /// Time since anything arrived from the peer.
    silent_for: Duration,
    /// How far apart the signs of life of a peer are at most, as things are, where none is lost.
    heard_every: Duration,
    /// Time since we sent what the peer last told to have arrived; since the start where it told nothing yet.
    delivered_ago: Duration,
}
