//! What a relay says of itself: the JSON of `/api/v1/status` and of `--json`, and what the metrics are made of.

use crate::ops::{OpsRefusals, schema};
use crate::overrides::SetBy;
use link::policy::Policy;
use link::stats::{LinkQuality, LinkStats};
use node::control::{CloseCode, Content, Dissemination};
use node::trust::{Direction, Role};
use node::ts::TsHealth;
use serde::Serialize;
use std::net::SocketAddr;
use topology::{LinkEnd, LinkName, NodeName, StreamName};
use utoipa::ToSchema;

/// The state and the counters of a relay at one moment. Counters run since the start, or since the link or stream began.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct Report {
    /// Its name; empty before it is known.
    pub name: String,
    /// Seconds since it started.
    pub uptime_s: f64,
    /// Seconds of these in which its own processor was late for what came, by 20 ms or more.
    pub behind_s: f64,
    /// Whether it listens and serves.
    pub ready: bool,
    /// Whether streams are taken off it: by order, or because it stops.
    pub draining: bool,
    /// The version of the program.
    pub version: &'static str,
    /// When its certificate expires: seconds since 1970, UTC.
    #[schema(required)]
    pub certificate_expires: Option<u64>,
    /// The same of the newest authority that it believes.
    #[schema(required)]
    pub authority_expires: Option<u64>,
    /// Where it listens, with the ports that were picked.
    #[schema(value_type = Vec<String>)]
    pub listen: Vec<SocketAddr>,
    /// Where the operations port listens.
    #[schema(value_type = Option<String>, required)]
    pub ops: Option<SocketAddr>,
    /// The neighbours it was told of, and how it stands with each.
    pub neighbours: Vec<NeighbourReport>,
    /// Its links to relays, sources and sinks that are up now, in the order of their opening.
    pub links: Vec<LinkReport>,
    /// The streams it carries.
    pub streams: Vec<StreamReport>,
    /// What it knows of the overlay.
    pub overlay: OverlayReport,
    /// The links of the overlay that bound what is admitted to them.
    pub capacity: Vec<LinkCapacity>,
    /// What came in by each token, by its id.
    pub usage: Vec<TokenUsage>,
    /// What came of asking to publish or to watch a stream here, since the start.
    pub admission: Vec<AdmissionCount>,
    /// What it refused or threw away outside any stream.
    pub refused: RefusalCounters,
    /// Configurations read anew since the start.
    pub reloads: ReloadReport,
    /// What its operations port refused.
    pub ops_refused: OpsRefusals,
    /// Lines of the log and of `--json` that the process threw away because nobody read them.
    pub lines_dropped: u64,
}

/// What came of reading the configuration anew.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct ReloadReport {
    /// Times it was taken.
    pub done: u64,
    /// Times it was refused, and the old one kept.
    pub refused: u64,
    /// Why it was refused, where the last one was: file, field, and what was expected.
    #[schema(required)]
    pub last_error: Option<String>,
}

/// What a configuration that was read anew changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Reloaded {
    /// In force now.
    pub applied: Vec<String>,
    /// Changed in the file, in force after a restart only.
    pub restart: Vec<String>,
    /// Changed in the file, and without effect while something set over the operations port stands above it.
    pub covered: Vec<String>,
}

/// A configured neighbour.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct NeighbourReport {
    /// The address it is dialled at.
    #[schema(required)]
    pub address: Option<String>,
    /// Its name, once known.
    #[schema(value_type = Option<schema::NodeName>, required)]
    pub name: Option<NodeName>,
    /// Which of the links to it this is; null for the one without a name.
    #[schema(value_type = Option<schema::LinkName>, required)]
    pub link: Option<LinkName>,
    /// How it stands.
    pub state: NeighbourState,
    /// Why the last attempt or the last connection ended.
    #[schema(required)]
    pub last_error: Option<String>,
    /// Connections there have been.
    pub connections: u64,
}

impl NeighbourReport {
    /// The link, once it is known who is there.
    pub fn end(&self) -> Option<LinkEnd> {
        Some(LinkEnd { relay: self.name.clone()?, link: self.link.clone() })
    }

    /// How people call it: by name, else by address, and by the name of the link where it has one.
    pub fn title(&self) -> String {
        let name = self.name.as_ref().map(|name| name.as_str());
        titled(name.or(self.address.as_deref()), self.link.as_ref())
    }
}

/// As [`LinkEnd`] is written, by whatever the relay at the other end is called.
pub(crate) fn titled(relay: Option<&str>, link: Option<&LinkName>) -> String {
    let link = link.map_or_else(String::new, |link| format!("~{link}"));
    format!("{}{link}", relay.unwrap_or_default())
}

/// How it stands with a neighbour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum NeighbourState {
    /// Being dialled, or waited for.
    #[default]
    Connecting,
    /// Its link is up.
    Up,
    /// It refused, or shows a certificate that is not trusted; dialled again at long intervals.
    Refused,
    /// This relay itself is there: one list may serve all relays.
    Itself,
}

/// One link that is up.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LinkReport {
    /// Number of the port, unique in the life of the process.
    pub port: u64,
    /// Who is at the other end; of a relay also which link to it, where there are several.
    #[schema(value_type = schema::LinkEnd)]
    pub peer: LinkEnd,
    /// What it is.
    #[schema(value_type = schema::Role)]
    pub role: Role,
    /// Where it is.
    #[schema(value_type = String, example = "127.0.0.1:4400")]
    pub address: SocketAddr,
    /// Whether this relay dialled.
    pub dialled: bool,
    /// Seconds since it came up.
    pub up_s: f64,
    /// Share of our transmissions lost on the wire, recently.
    pub wire_loss_sent: f64,
    /// Share of the peer's transmissions lost on the wire, since the link came up.
    pub wire_loss_received: f64,
    /// Share of the media packets towards us that stayed lost after repair, since the link came up.
    pub residual_received: f64,
    /// Repair bytes sent as a share of media bytes sent, since the link came up.
    pub overhead_sent: f64,
    /// The repair policy in force for what this relay sends.
    #[schema(value_type = schema::Policy)]
    pub policy: Policy,
    /// Who had the last word on that policy.
    pub set_by: SetBy,
    /// What repair costs and brings, lately.
    pub repair: RepairEffect,
    /// What is measured of the path.
    #[schema(value_type = schema::LinkQuality)]
    pub quality: LinkQuality,
    /// The link's counters.
    #[schema(value_type = schema::LinkStats)]
    pub stats: LinkStats,
}

/// What repair on a link costs and brings: over the last ten seconds, or since its policy changed where that is less. On links to
/// sources and sinks: since the link came up. The sending end sees the cost, the receiving end what it brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct RepairEffect {
    /// Seconds this is about.
    pub over_s: f64,
    /// Media packets sent.
    pub media_packets_sent: u64,
    /// Repair sent on request: its bytes as a share of media bytes sent.
    pub cost_arq: f64,
    /// Repair sent ahead of loss, duplicates included: its bytes as a share of media bytes sent.
    pub cost_fec: f64,
    /// Repair packets not sent because of the capacity or the ceiling on overhead.
    pub suppressed: u64,
    /// Media packets that the peer sent us.
    pub media_packets_due: u64,
    /// Share of these that was lost on the way and that repair brought in time.
    pub saved: f64,
    /// Share of these that stayed lost.
    pub left: f64,
}

/// The repair of one link of this relay, in the direction away from it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LinkRepair {
    /// This relay.
    pub from: String,
    /// The neighbour, and which link to it where there are several.
    #[schema(value_type = schema::LinkEnd)]
    pub to: LinkEnd,
    /// Whether the link is up.
    pub up: bool,
    /// The policy in force, or in force once the link is up.
    #[schema(value_type = schema::Policy)]
    pub policy: Policy,
    /// Who had the last word on it.
    pub set_by: SetBy,
    /// Share of our transmissions lost on the wire, recently: what the policy works against.
    pub wire_loss_sent: f64,
    /// What repair costs and brings, lately.
    pub repair: RepairEffect,
}

/// One stream carried here.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct StreamReport {
    /// Its name.
    #[schema(value_type = schema::StreamName)]
    pub name: StreamName,
    /// Its life.
    pub incarnation: u64,
    /// The relay its source publishes at.
    #[schema(value_type = schema::NodeName)]
    pub ingress: NodeName,
    /// Who publishes it, where that is here.
    #[schema(value_type = Option<schema::NodeName>, required)]
    pub publisher: Option<NodeName>,
    /// What it carries.
    #[schema(value_type = schema::Content)]
    pub content: Content,
    /// Whether its payloads are sealed from source to sink: what they hold cannot be seen here, nor whether it is well.
    pub sealed: bool,
    /// How the transport stream in it is here.
    pub ts: TsReport,
    /// One-way deadline in milliseconds.
    pub deadline_ms: f64,
    /// How its source asked for it to be spread; known at the ingress.
    #[schema(value_type = Option<schema::Dissemination>, required)]
    pub mode: Option<Dissemination>,
    /// The token that it is published by, where that is here.
    #[schema(required)]
    pub token: Option<String>,
    /// What it needs of each link, in bits per second; null where nobody says, so that no link refuses it.
    #[schema(required)]
    pub admitted_rate: Option<u64>,
    /// Whether it goes before others where there is too much, and was admitted so.
    pub high_priority: bool,
    /// Why its graph is not what delays alone would make it, where this is the ingress.
    pub why: Vec<String>,
    /// Relays to which it is not carried because links are full, and which, where this is the ingress.
    pub unserved: Vec<String>,
    /// The newest graph installed here; `None` before the first.
    #[schema(required)]
    pub epoch: Option<u16>,
    /// The label in force, where this is the ingress.
    #[schema(required)]
    pub label: Option<u32>,
    /// What that label stands for, where this is the ingress: the names of its modules.
    pub spread: Vec<String>,
    /// The edges of the newest graph installed here.
    pub graph: Vec<GraphEdge>,
    /// Sinks that watch it here.
    pub subscribers: usize,
    /// The stream's own counters.
    pub counters: StreamCounters,
    /// Whence it comes.
    pub inputs: Vec<InputReport>,
    /// Where it goes.
    pub outputs: Vec<OutputReport>,
}

/// How the transport stream in a stream is at this relay, by the checks of ETSI TR 101 290 of priority 1 and 2 that need no decoder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct TsReport {
    /// Whether it is looked at, and if not, why.
    pub state: TsState,
    /// What has been found since the stream began to pass here; null before its first packets are looked at, and where they are not.
    #[schema(value_type = Option<schema::TsHealth>, required)]
    pub health: Option<TsHealth>,
    /// Packets of the stream that were not looked at: there were too many, or they passed here as answers to questions of others.
    pub unlooked: u64,
}

/// Whether the transport stream in a stream is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TsState {
    /// It is.
    Checked,
    /// Its payloads are sealed from source to sink.
    Sealed,
    /// It is none: datagrams of another kind.
    #[default]
    NotTs,
    /// The relay is told not to (`ts_health`).
    Off,
}

impl TsReport {
    /// What was found, where something was looked at; else zeros.
    pub(crate) fn found(&self) -> TsHealth {
        self.health.unwrap_or_default()
    }
}

/// One edge of a stream's graph.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct GraphEdge {
    /// The relay that sends.
    #[schema(value_type = schema::NodeName)]
    pub from: NodeName,
    /// The link as that relay calls it: the relay that receives, and the link's name where several join the two.
    #[schema(value_type = schema::LinkEnd)]
    pub to: LinkEnd,
    /// The modules it belongs to, by bit.
    pub modules: u16,
    /// Bare transit from `to` on to the farthest egress below in any of them, in milliseconds.
    pub rest_ms: f64,
}

/// One direction of a link of the overlay, as it is advertised.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct OverlayLink {
    /// The relay that sends.
    #[schema(value_type = schema::NodeName)]
    pub from: NodeName,
    /// The link as that relay calls it: the relay that receives, and the link's name where several join the two.
    #[schema(value_type = schema::LinkEnd)]
    pub to: LinkEnd,
    /// One-way delay in milliseconds: as configured, or half of the smallest round trip, which is right to within itself.
    pub delay_ms: f64,
    /// Share lost, as the receiving end reports it.
    pub loss: f64,
    /// Whether it is later than usual.
    pub late: bool,
    /// What it costs, relative to others.
    pub cost: u32,
    /// What it is marked with: `kind:value`.
    pub tags: Vec<String>,
}

/// One direction of a link of the overlay that bounds what is admitted to it, in bits of payload per second.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct LinkCapacity {
    /// The relay that sends.
    #[schema(value_type = schema::NodeName)]
    pub from: NodeName,
    /// The link as that relay calls it: the relay that receives, and the link's name where several join the two.
    #[schema(value_type = schema::LinkEnd)]
    pub to: LinkEnd,
    /// What streams may have of it, all together.
    pub admissible: u64,
    /// What streams of high priority have.
    pub admitted_high: u64,
    /// What the others have.
    pub admitted_normal: u64,
    /// What is left for a stream of normal priority.
    pub left: u64,
    /// What is left for one of high priority, before which others give way.
    pub left_high: u64,
    /// Media that is sent on it; null where its sender does not tell.
    #[schema(required)]
    pub used: Option<u64>,
}

/// What came in by one token, all its streams together, since the relay started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct TokenUsage {
    /// Its id; empty for what is beyond the number of tokens that are told apart.
    pub token: String,
    /// Streams that it publishes now.
    pub streams: usize,
    /// What they were.
    pub usage: Usage,
}

/// What a stream used of this relay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Usage {
    /// Packets that came for the first time.
    pub packets: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// Packets that left here, over all links and to all sinks.
    pub packets_sent: u64,
    /// Their payload bytes.
    pub bytes_sent: u64,
    /// Of these packets, such as were sent again because relays asked for them.
    pub pulled: u64,
    /// Packets beyond the rate that was granted, thrown away.
    pub policed: u64,
    /// Packets that came once more: copies by other ways, sent for redundancy.
    pub redundant: u64,
}

/// What is counted for a stream as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct StreamCounters {
    /// Packets that arrived, copies included.
    pub received: u64,
    /// Payload bytes that arrived, copies included.
    pub received_bytes: u64,
    /// Packets that arrived for the first time.
    pub unique: u64,
    /// Payload bytes of these.
    pub unique_bytes: u64,
    /// Copies of packets that had arrived by another way.
    pub duplicates: u64,
    /// Packets too far behind the newest to be told from copies, thrown away.
    pub stale: u64,
    /// Packets from relays that no graph of the stream leads here from, thrown away while others brought it.
    pub beside: u64,
    /// Packets that arrived after their deadline, thrown away.
    pub late: u64,
    /// Packets that a way in force should have brought and did not, in time, and that another way brought. Each is counted once, about a
    /// deadline after its birth.
    pub recovered_other_way: u64,
    /// Packets beyond the rate that the publisher's token allows, thrown away.
    pub policed: u64,
    /// Packets handed to links, all outputs together.
    pub forwarded: u64,
    /// Payload bytes handed to links, all outputs together.
    pub forwarded_bytes: u64,
    /// Packets of these, sent to relays that had asked for them because they had not come.
    pub pulled: u64,
    /// Questions sent for what was missing here, or further below.
    pub pulls: u64,
}

/// What is counted for a stream and the link it arrives on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct InputCounters {
    /// Packets that arrived, copies included.
    pub received: u64,
    /// Of these, copies of packets that had arrived by another way.
    pub duplicates: u64,
    /// Of these, after their deadline.
    pub late: u64,
    /// Of these, repaired on this hop by retransmission on request.
    pub recovered_by_arq: u64,
    /// Of these, repaired on this hop by code or copies sent ahead.
    pub recovered_by_fec: u64,
}

/// What is counted for a stream and a link it leaves on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct OutputCounters {
    /// Packets handed to the link.
    pub forwarded: u64,
    /// Payload bytes handed to the link.
    pub forwarded_bytes: u64,
    /// Packets not sent: they could no longer have been in time below.
    pub late: u64,
    /// Packets refused by the link's full queue.
    pub queue_full: u64,
    /// Packets too large for the link.
    pub too_large: u64,
}

/// One link a stream arrives on.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct InputReport {
    /// The port.
    pub port: u64,
    /// Who sends, and over which link where there are several.
    #[schema(value_type = schema::LinkEnd)]
    pub peer: LinkEnd,
    /// The counters.
    pub counters: InputCounters,
}

/// One link a stream leaves on.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct OutputReport {
    /// The port.
    pub port: u64,
    /// Who receives, and over which link where there are several.
    #[schema(value_type = schema::LinkEnd)]
    pub peer: LinkEnd,
    /// Whether it is a sink here, not a relay.
    pub local: bool,
    /// The counters.
    pub counters: OutputCounters,
}

/// What a relay knows of the overlay.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct OverlayReport {
    /// Relays known, this one included.
    #[schema(value_type = Vec<schema::NodeName>)]
    pub relays: Vec<NodeName>,
    /// Directed links known between them.
    pub links: usize,
    /// Each of them.
    pub link_states: Vec<OverlayLink>,
    /// Streams known anywhere.
    pub streams: usize,
    /// Counts up with every change.
    pub generation: u64,
}

/// How often one thing came of asking for streams here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct AdmissionCount {
    /// What was asked for.
    #[schema(value_type = schema::Act)]
    pub act: Direction,
    /// Why it was refused; `null` where it was admitted.
    #[schema(value_type = Option<schema::Refused>, required)]
    #[serde(serialize_with = "in_words")]
    pub refused: Option<CloseCode>,
    /// How often.
    pub times: u64,
}

impl AdmissionCount {
    /// What came of it, as the metrics and the status have it.
    pub fn outcome(&self) -> &'static str {
        self.refused.map_or("admitted", CloseCode::name)
    }
}

fn in_words<S: serde::Serializer>(refused: &Option<CloseCode>, to: S) -> Result<S::Ok, S::Error> {
    refused.map(CloseCode::name).serialize(to)
}

/// What was refused or thrown away outside any stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct RefusalCounters {
    /// Media under a handle that no announcement came for in time.
    pub unknown_handle: u64,
    /// Streams refused to publishers.
    pub publish: u64,
    /// Streams refused to watchers.
    pub subscribe: u64,
    /// Streams not carried: beyond what is carried in all, or of those that one relay brings.
    pub streams: u64,
    /// Sources and sinks turned away: beyond their number, or that of one address or token.
    pub clients: u64,
    /// Messages that the protocol does not allow where they came.
    pub protocol: u64,
    /// Statements of relays that are not signed by who they say they are of.
    pub forged: u64,
    /// Statements of relays that speak more often than one may.
    pub excess: u64,
    /// Graphs of streams beyond what is kept of one ingress, or of all.
    pub graphs: u64,
    /// Times that a peer's next control message was read later, because it sends more of them than one may.
    pub held_back: u64,
    /// Handshakes that were not answered: more than may were under way, or had come to nothing.
    pub handshakes: u64,
    /// Receipts of sinks of which no account is kept: there are as many as there may be.
    pub receipts: u64,
}
