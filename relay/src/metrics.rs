//! The metrics of a relay, in one place: each with its name, its unit and what it means. Written from a [`Report`] in the
//! text format of Prometheus (version 0.0.4), so that several relays in one process keep theirs apart.

use crate::overrides::SetBy;
use crate::report::{
    AdmissionCount, LinkReport, NeighbourReport, NeighbourState, OutputReport, Report, StreamReport, TsState,
};
pub use node::metrics::Metric;
use node::metrics::{Of, counter, escaped, family, flag, gauge};
use node::trust::Direction;

/// Of the relay as a whole.
const RELAY: &[Of<Report>] = &[
    (gauge("anabranch_relay_uptime_seconds", "Seconds since the relay started"), |r| r.uptime_s),
    (
        counter(
            "anabranch_relay_behind_seconds_total",
            "Time in which the relay's own processor was late for what came, by 20 ms or more",
        ),
        |r| r.behind_s,
    ),
    (gauge("anabranch_relay_ready", "1 while the relay serves"), |r| flag(r.ready && !r.draining)),
    (gauge("anabranch_relay_draining", "1 while streams are taken off it: by order, or because it stops"), |r| {
        flag(r.draining)
    }),
    (
        gauge(
            "anabranch_relay_certificate_expiry_timestamp_seconds",
            "When the relay's certificate expires, since 1970; 0 where it has none",
        ),
        |r| r.certificate_expires.unwrap_or(0) as f64,
    ),
    (
        gauge(
            "anabranch_relay_authority_expiry_timestamp_seconds",
            "When the newest authority that the relay believes expires, since 1970",
        ),
        |r| r.authority_expires.unwrap_or(0) as f64,
    ),
    (gauge("anabranch_relay_links", "Links that are up"), |r| r.links.len() as f64),
    (gauge("anabranch_relay_streams", "Streams carried"), |r| r.streams.len() as f64),
    (gauge("anabranch_overlay_relays", "Relays known in the overlay"), |r| r.overlay.relays.len() as f64),
    (gauge("anabranch_overlay_links", "Directed links known in the overlay"), |r| r.overlay.links as f64),
    (gauge("anabranch_overlay_streams", "Streams known in the overlay"), |r| r.overlay.streams as f64),
    (counter("anabranch_overlay_changes_total", "Changes of what is known of the overlay"), |r| {
        r.overlay.generation as f64
    }),
    (counter("anabranch_relay_unknown_handle_packets_total", "Media thrown away: its stream was not announced"), |r| {
        r.refused.unknown_handle as f64
    }),
    (counter("anabranch_relay_forged_statements_total", "Statements not signed by whose they claim to be"), |r| {
        r.refused.forged as f64
    }),
    (
        counter(
            "anabranch_relay_excess_statements_total",
            "Statements of relays thrown away: too often, or overtaken while they waited; and signals beyond bounds",
        ),
        |r| r.refused.excess as f64,
    ),
    (
        counter(
            "anabranch_relay_graphs_refused_total",
            "Graphs of streams beyond what is kept of one ingress, or of all, or may wait",
        ),
        |r| r.refused.graphs as f64,
    ),
    (
        counter(
            "anabranch_relay_control_held_back_total",
            "Control messages read later: they make more work than one sender may ask for",
        ),
        |r| r.refused.held_back as f64,
    ),
    (
        counter(
            "anabranch_relay_handshakes_put_off_total",
            "Handshakes not answered: more than may were under way, or had come to nothing",
        ),
        |r| r.refused.handshakes as f64,
    ),
    (
        counter(
            "anabranch_relay_receipts_refused_total",
            "Receipts of sinks of which no account is kept: as many sinks and streams are as may be",
        ),
        |r| r.refused.receipts as f64,
    ),
    (counter("anabranch_relay_publish_refused_total", "Streams refused to publishers"), |r| r.refused.publish as f64),
    (counter("anabranch_relay_subscribe_refused_total", "Streams refused to watchers"), |r| r.refused.subscribe as f64),
    (counter("anabranch_relay_streams_refused_total", "Streams not carried: too many in all, or of one relay"), |r| {
        r.refused.streams as f64
    }),
    (
        counter(
            "anabranch_relay_clients_refused_total",
            "Sources and sinks turned away: too many in all, or of one address or token",
        ),
        |r| r.refused.clients as f64,
    ),
    (counter("anabranch_relay_reloads_total", "Configurations read anew and taken"), |r| r.reloads.done as f64),
    (
        counter("anabranch_relay_reloads_refused_total", "Configurations read anew and refused; the old one was kept"),
        |r| r.reloads.refused as f64,
    ),
    (counter("anabranch_relay_ops_token_refused_total", "Requests to the operations port without its token"), |r| {
        r.ops_refused.token as f64
    }),
    (
        counter("anabranch_relay_ops_host_refused_total", "Requests to the operations port for a host that it is not"),
        |r| r.ops_refused.host as f64,
    ),
    (
        counter("anabranch_relay_ops_tls_refused_total", "Connections to the operations port that did not come to TLS"),
        |r| r.ops_refused.tls as f64,
    ),
    (counter("anabranch_relay_ops_foreign_refused_total", "Orders that pages of other sites had browsers give"), |r| {
        r.ops_refused.foreign as f64
    }),
    (
        counter(
            "anabranch_relay_ops_connections_refused_total",
            "Connections to the operations port beyond its bounds",
        ),
        |r| r.ops_refused.connections as f64,
    ),
    (
        counter("anabranch_relay_ops_slow_closed_total", "Connections to the operations port closed: slow, or idle"),
        |r| r.ops_refused.slow as f64,
    ),
    (
        counter("anabranch_relay_lines_dropped_total", "Lines of the log and of --json thrown away: nobody read them"),
        |r| r.lines_dropped as f64,
    ),
    (counter("anabranch_relay_protocol_errors_total", "Messages that the protocol does not allow"), |r| {
        r.refused.protocol as f64
    }),
];

/// Labelled with `version`.
const INFO: &[Of<Report>] =
    &[(gauge("anabranch_relay_info", "Always 1; the label version says which program this is"), |_| 1.0)];

/// Of each neighbour that the relay was told of, labelled with `neighbour`.
const NEIGHBOUR: &[Of<NeighbourReport>] = &[
    (gauge("anabranch_neighbour_up", "1 while there is a link to the configured neighbour"), |n| {
        flag(n.state == NeighbourState::Up)
    }),
    (counter("anabranch_neighbour_connections_total", "Links there have been to the configured neighbour"), |n| {
        n.connections as f64
    }),
];

/// Of what was asked, labelled with `act` and `outcome`.
const ADMISSION: &[Of<AdmissionCount>] =
    &[(counter("anabranch_relay_admission_total", "Streams asked for here, by what came of it"), |count| {
        count.times as f64
    })];

/// Of each link, labelled with `peer`, `role` and `port`.
const LINK: &[Of<LinkReport>] = &[
    (gauge("anabranch_link_rtt_seconds", "Round-trip time, smoothed"), |l| l.quality.rtt.as_secs_f64()),
    (gauge("anabranch_link_transit_seconds", "One-way delay towards the peer"), |l| l.quality.transit.as_secs_f64()),
    (gauge("anabranch_link_transit_bound_seconds", "Half-width of what is certain of the one-way delay"), |l| {
        l.quality.transit_bound.as_secs_f64()
    }),
    (gauge("anabranch_link_jitter_p99_seconds", "Lateness of the peer's packets, 99 % quantile"), |l| {
        l.quality.jitter_p99.as_secs_f64()
    }),
    (gauge("anabranch_link_silent_seconds", "Time since anything arrived from the peer"), |l| {
        l.quality.silent_for.as_secs_f64()
    }),
    (gauge("anabranch_link_loss_sent_ratio", "Share of our transmissions lost on the wire, recently"), |l| {
        l.quality.loss_sent
    }),
    (
        gauge("anabranch_link_loss_received_ratio", "Share of the peer's transmissions lost on the wire, recently"),
        |l| l.quality.loss_received,
    ),
    (gauge("anabranch_link_burst_packets", "Mean length of a run of losses of ours"), |l| l.quality.burst_sent),
    (gauge("anabranch_link_media_rate_bits_per_second", "Rate of media sent"), |l| {
        l.quality.media_rate.as_bps() as f64
    }),
    (counter("anabranch_link_media_packets_sent_total", "Media packets sent"), |l| l.stats.media_packets_sent as f64),
    (counter("anabranch_link_media_bytes_sent_total", "Bytes of media frames sent"), |l| {
        l.stats.media_bytes_sent as f64
    }),
    (counter("anabranch_link_arq_bytes_sent_total", "Bytes of repair sent on request"), |l| {
        l.stats.arq_bytes_sent as f64
    }),
    (counter("anabranch_link_fec_bytes_sent_total", "Bytes of repair sent ahead of loss"), |l| {
        l.stats.fec_bytes_sent as f64
    }),
    (counter("anabranch_link_feedback_bytes_sent_total", "Bytes of feedback sent"), |l| {
        l.stats.feedback_bytes_sent as f64
    }),
    (counter("anabranch_link_media_packets_received_total", "Media packets that arrived as first sent"), |l| {
        l.stats.media_packets_received as f64
    }),
    (counter("anabranch_link_wire_received_total", "Transmissions of the peer that arrived"), |l| {
        l.stats.wire_received as f64
    }),
    (counter("anabranch_link_wire_lost_total", "Transmissions of the peer lost on the wire"), |l| {
        l.stats.wire_lost as f64
    }),
    (counter("anabranch_link_recovered_arq_total", "Media packets recovered by repair on request"), |l| {
        l.stats.recovered_by_arq as f64
    }),
    (counter("anabranch_link_recovered_fec_total", "Media packets recovered by repair sent ahead"), |l| {
        l.stats.recovered_by_fec as f64
    }),
    (counter("anabranch_link_unrecovered_total", "Media packets of the peer lost after repair"), |l| {
        l.stats.unrecovered as f64
    }),
    (counter("anabranch_link_dropped_late_total", "Media packets not sent: too late"), |l| l.stats.dropped_late as f64),
    (
        counter("anabranch_link_dropped_standing_total", "Media packets not sent: had waited in a queue that stands"),
        |l| l.stats.dropped_standing as f64,
    ),
    (counter("anabranch_link_dropped_queue_full_total", "Media packets not sent: queue full"), |l| {
        (l.stats.dropped_queue_full + l.stats.dropped_low_priority) as f64
    }),
    (counter("anabranch_link_repair_suppressed_total", "Repair not sent because of capacity or ceiling"), |l| {
        l.stats.repair_suppressed as f64
    }),
    (
        gauge(
            "anabranch_link_repair_target_ratio",
            "Share of packets to the peer that its repair policy lets stay lost",
        ),
        |l| l.policy.target_residual,
    ),
    (
        gauge(
            "anabranch_link_repair_ceiling_ratio",
            "Ceiling of the policy on repair bytes, as a share of media bytes",
        ),
        |l| l.policy.max_overhead,
    ),
    (
        gauge(
            "anabranch_link_capacity_bits_per_second",
            "What the link may carry, set or estimated; 0 while nothing bounds it",
        ),
        |l| l.policy.capacity.or(l.quality.capacity).map_or(0.0, |rate| rate.as_bps() as f64),
    ),
    (
        gauge(
            "anabranch_link_repair_overridden",
            "1 while something set over the operations port is above the configuration",
        ),
        |l| flag(l.set_by != SetBy::Config),
    ),
    (
        gauge(
            "anabranch_link_repair_cost_ratio",
            "Repair bytes sent, as a share of media bytes, over the last ten seconds",
        ),
        |l| l.repair.cost_arq + l.repair.cost_fec,
    ),
    (
        gauge(
            "anabranch_link_repair_saved_ratio",
            "Share of the peer's media packets that repair brought, over the last ten seconds",
        ),
        |l| l.repair.saved,
    ),
    (
        gauge(
            "anabranch_link_repair_left_ratio",
            "Share of the peer's media packets that stayed lost, over the last ten seconds",
        ),
        |l| l.repair.left,
    ),
    (
        counter(
            "anabranch_link_malformed_total",
            "Datagrams that did not decode, or would have made more work than a peer may",
        ),
        |l| l.stats.malformed as f64,
    ),
];

/// Of each link, labelled as above and with `mode`.
const MODE: &[Of<LinkReport>] = &[(
    gauge("anabranch_link_repair_mode", "Always 1; the label mode says how losses of packets to the peer are repaired"),
    |_| 1.0,
)];

/// Of each stream, labelled with `stream`, `incarnation` and `ingress`.
const STREAM: &[Of<StreamReport>] = &[
    (gauge("anabranch_stream_subscribers", "Sinks that watch the stream here"), |s| s.subscribers as f64),
    (
        gauge(
            "anabranch_stream_sealed",
            "1 where payloads are sealed from source to sink: nothing here can look into them",
        ),
        |s| flag(s.sealed),
    ),
    (gauge("anabranch_stream_epoch", "Newest graph installed here"), |s| f64::from(s.epoch.unwrap_or(0))),
    (counter("anabranch_stream_received_packets_total", "Packets that arrived, copies included"), |s| {
        s.counters.received as f64
    }),
    (counter("anabranch_stream_received_bytes_total", "Payload bytes that arrived, copies included"), |s| {
        s.counters.received_bytes as f64
    }),
    (counter("anabranch_stream_unique_packets_total", "Packets that arrived for the first time"), |s| {
        s.counters.unique as f64
    }),
    (counter("anabranch_stream_duplicate_packets_total", "Copies thrown away"), |s| s.counters.duplicates as f64),
    (counter("anabranch_stream_stale_packets_total", "Packets thrown away: too far behind"), |s| {
        s.counters.stale as f64
    }),
    (
        counter(
            "anabranch_stream_beside_packets_total",
            "Packets thrown away: from a relay beside the stream's graphs, while others brought it",
        ),
        |s| s.counters.beside as f64,
    ),
    (counter("anabranch_stream_late_packets_total", "Packets thrown away: after their deadline"), |s| {
        s.counters.late as f64
    }),
    (
        counter(
            "anabranch_stream_recovered_other_way_packets_total",
            "Packets that a way in force did not bring in time, and another way brought",
        ),
        |s| s.counters.recovered_other_way as f64,
    ),
    (counter("anabranch_stream_pulls_total", "Questions sent for what was missing here or below"), |s| {
        s.counters.pulls as f64
    }),
    (counter("anabranch_stream_pulled_packets_total", "Packets sent to relays that had asked for them"), |s| {
        s.counters.pulled as f64
    }),
    (counter("anabranch_stream_policed_packets_total", "Packets thrown away: beyond the publisher's rate"), |s| {
        s.counters.policed as f64
    }),
    (counter("anabranch_stream_forwarded_packets_total", "Packets handed to links, all together"), |s| {
        s.counters.forwarded as f64
    }),
];

/// Of the transport stream in each stream, labelled as the stream.
const TS: &[Of<StreamReport>] = &[
    (gauge("anabranch_stream_ts_checked", "1 where the stream is a transport stream that is looked at here"), |s| {
        flag(s.ts.state == TsState::Checked)
    }),
    (counter("anabranch_stream_ts_unlooked_packets_total", "Packets of the stream that were not looked at"), |s| {
        s.ts.unlooked as f64
    }),
];

/// What was found in it, labelled as the stream.
const TS_FOUND: &[Of<StreamReport>] = node::ts_metrics!("anabranch_stream_ts_", |s: &StreamReport| s.ts.found());

/// Of each link a stream leaves on towards a relay, labelled as the stream and with `peer`. Sinks are not listed one by one.
const OUTPUT: &[Of<OutputReport>] = &[
    (counter("anabranch_stream_output_forwarded_packets_total", "Packets handed to the link"), |o| {
        o.counters.forwarded as f64
    }),
    (counter("anabranch_stream_output_late_packets_total", "Packets not sent: no longer in time below"), |o| {
        o.counters.late as f64
    }),
    (counter("anabranch_stream_output_queue_full_packets_total", "Packets not sent: queue full"), |o| {
        o.counters.queue_full as f64
    }),
];

/// Every metric there is.
pub fn all() -> impl Iterator<Item = Metric> {
    let relay = RELAY.iter().map(|(metric, _)| *metric);
    let link = LINK.iter().map(|(metric, _)| *metric);
    let stream = STREAM.iter().chain(TS).chain(TS_FOUND).map(|(metric, _)| *metric);
    let mode = MODE.iter().map(|(metric, _)| *metric);
    let admission = ADMISSION.iter().map(|(metric, _)| *metric);
    let info = INFO.iter().map(|(metric, _)| *metric);
    let neighbour = NEIGHBOUR.iter().map(|(metric, _)| *metric);
    relay
        .chain(info)
        .chain(neighbour)
        .chain(admission)
        .chain(link)
        .chain(mode)
        .chain(stream)
        .chain(OUTPUT.iter().map(|(metric, _)| *metric))
}

/// The text that a Prometheus server reads.
pub fn render(report: &Report) -> String {
    let mut out = String::with_capacity(16 * 1024);
    family(&mut out, RELAY, &[(String::new(), report)]);
    family(&mut out, INFO, &[(format!("version=\"{}\"", report.version), report)]);
    // An entry that is this relay itself is never up, and nothing is wrong with that.
    let others = report.neighbours.iter().filter(|neighbour| neighbour.state != NeighbourState::Itself);
    let neighbours: Vec<(String, &NeighbourReport)> =
        others.map(|neighbour| (neighbour_labels(neighbour), neighbour)).collect();
    family(&mut out, NEIGHBOUR, &neighbours);
    let admission: Vec<(String, &AdmissionCount)> = report.admission.iter().map(|a| (act_labels(a), a)).collect();
    family(&mut out, ADMISSION, &admission);
    let links: Vec<(String, &LinkReport)> = report.links.iter().map(|link| (link_labels(link), link)).collect();
    family(&mut out, LINK, &links);
    let modes: Vec<(String, &LinkReport)> = report.links.iter().map(|link| (mode_labels(link), link)).collect();
    family(&mut out, MODE, &modes);
    let streams: Vec<(String, &StreamReport)> = report.streams.iter().map(|s| (stream_labels(s), s)).collect();
    family(&mut out, STREAM, &streams);
    family(&mut out, TS, &streams);
    family(&mut out, TS_FOUND, &streams);
    let outputs: Vec<(String, &OutputReport)> = report.streams.iter().flat_map(relay_outputs).collect();
    family(&mut out, OUTPUT, &outputs);
    out
}

/// By its name, once that is known, else by its address.
fn neighbour_labels(neighbour: &NeighbourReport) -> String {
    format!("neighbour=\"{}\"", escaped(&neighbour.title()))
}

fn act_labels(count: &AdmissionCount) -> String {
    let act = if count.act == Direction::Publish { "publish" } else { "subscribe" };
    format!("act=\"{act}\",outcome=\"{}\"", count.outcome())
}

fn relay_outputs(stream: &StreamReport) -> impl Iterator<Item = (String, &OutputReport)> {
    let labels = stream_labels(stream);
    let relays = stream.outputs.iter().filter(|output| !output.local);
    relays.map(move |output| (format!("{labels},peer=\"{}\",port=\"{}\"", output.peer, output.port), output))
}

/// Names of nodes and streams hold no character that the format would want escaped.
fn link_labels(link: &LinkReport) -> String {
    let role = format!("{:?}", link.role).to_lowercase();
    format!("peer=\"{}\",role=\"{role}\",port=\"{}\"", link.peer, link.port)
}

fn mode_labels(link: &LinkReport) -> String {
    let mode = format!("{:?}", link.policy.mode).to_lowercase();
    format!("{},mode=\"{mode}\"", link_labels(link))
}

fn stream_labels(stream: &StreamReport) -> String {
    format!("stream=\"{}\",incarnation=\"{:016x}\",ingress=\"{}\"", stream.name, stream.incarnation, stream.ingress)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{StreamCounters, StreamReport, TsReport};
    use node::control::Content;
    use std::collections::BTreeSet;

    fn report() -> Report {
        let stream = StreamReport {
            name: "t/c".parse().expect("valid"),
            incarnation: 255,
            ingress: "fra".parse().expect("valid"),
            publisher: None,
            content: Content::Ts,
            sealed: false,
            ts: TsReport::default(),
            token: None,
            admitted_rate: None,
            high_priority: false,
            why: Vec::new(),
            unserved: Vec::new(),
            deadline_ms: 200.0,
            mode: None,
            epoch: Some(3),
            label: None,
            spread: Vec::new(),
            graph: Vec::new(),
            subscribers: 2,
            counters: StreamCounters { unique: 41, ..StreamCounters::default() },
            inputs: Vec::new(),
            outputs: Vec::new(),
        };
        Report { uptime_s: 1.5, ready: true, streams: vec![stream], ..Report::default() }
    }

    #[test]
    fn names_are_unique_and_say_what_they_are() {
        let mut seen = BTreeSet::new();
        for metric in all() {
            assert!(seen.insert(metric.name), "{} twice", metric.name);
            assert_eq!(metric.counter, metric.name.ends_with("_total"), "{}", metric.name);
            assert!(!metric.help.is_empty() && !metric.help.ends_with('.'), "{}", metric.name);
        }
    }

    #[test]
    fn writes_what_a_server_reads() {
        let text = render(&report());
        assert!(text.contains("# TYPE anabranch_relay_uptime_seconds gauge\nanabranch_relay_uptime_seconds 1.5\n"));
        let sample = "anabranch_stream_unique_packets_total\
                      {stream=\"t/c\",incarnation=\"00000000000000ff\",ingress=\"fra\"} 41\n";
        assert!(text.contains(sample), "{text}");
        for metric in all() {
            assert_eq!(text.matches(&format!("# TYPE {} ", metric.name)).count(), 1, "{}", metric.name);
        }
    }
}
