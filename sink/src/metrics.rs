//! The metrics of a sink, in one place: each with its name, its unit and what it means. What a report does not know yet is 0. Pure.

use crate::report::{ConnectionState, LinkReport, OutputReport, Report, StreamReport, StreamState};
use node::metrics::{Metric, Of, counter, escaped, family, flag, gauge};
use node::ts::TsHealth;

/// Of the sink as a whole.
const SINK: &[Of<Report>] = &[
    (gauge("anabranch_sink_uptime_seconds", "Seconds since the sink started"), |r| r.uptime_s),
    (
        counter(
            "anabranch_sink_behind_seconds_total",
            "Time in which the sink's own processor was late for what came, by 20 ms or more",
        ),
        |r| r.behind_s,
    ),
    (gauge("anabranch_sink_connected", "1 while there is a link to a relay"), |r| {
        flag(r.connection.state == ConnectionState::Up)
    }),
    (counter("anabranch_sink_connections_total", "Links to relays there have been"), |r| {
        r.connection.connections as f64
    }),
    (
        counter("anabranch_sink_unclaimed_packets_total", "Packets thrown away: the relay did not say of which stream"),
        |r| r.unclaimed as f64,
    ),
    (counter("anabranch_sink_reloads_total", "Configurations read anew and taken"), |r| r.reloads.done as f64),
    (
        counter("anabranch_sink_reloads_refused_total", "Configurations read anew and refused; the old one was kept"),
        |r| r.reloads.refused as f64,
    ),
];

/// Of the link that is up.
const LINK: &[Of<LinkReport>] = &[
    (gauge("anabranch_sink_link_rtt_seconds", "Round-trip time to the relay, smoothed"), |l| l.rtt_ms / 1e3),
    (gauge("anabranch_sink_link_jitter_p99_seconds", "Lateness of the relay's packets, 99 % quantile"), |l| {
        l.jitter_p99_ms / 1e3
    }),
    (gauge("anabranch_sink_link_loss_ratio", "Share of the relay's transmissions lost on the wire, recently"), |l| {
        l.loss
    }),
    (gauge("anabranch_sink_link_silent_seconds", "Time since anything arrived from the relay"), |l| l.silent_ms / 1e3),
    (counter("anabranch_sink_link_wire_received_total", "Transmissions of the relay that arrived"), |l| {
        l.wire_received as f64
    }),
    (counter("anabranch_sink_link_wire_lost_total", "Transmissions of the relay lost on the wire"), |l| {
        l.wire_lost as f64
    }),
    (counter("anabranch_sink_link_recovered_arq_total", "Media packets recovered by repair on request"), |l| {
        l.recovered_arq as f64
    }),
    (counter("anabranch_sink_link_recovered_fec_total", "Media packets recovered by repair sent ahead"), |l| {
        l.recovered_fec as f64
    }),
    (counter("anabranch_sink_link_unrecovered_total", "Media packets of the relay lost after repair"), |l| {
        l.unrecovered as f64
    }),
];

/// Of each stream, labelled with `stream`.
const STREAM: &[Of<StreamReport>] = &[
    (gauge("anabranch_sink_stream_live", "1 while media of the stream comes"), |s| flag(s.state == StreamState::Live)),
    (gauge("anabranch_sink_stream_refused", "1 where the relay refuses the stream"), |s| {
        flag(s.state == StreamState::Refused)
    }),
    (gauge("anabranch_sink_stream_latency_seconds", "From the source's receipt to the release"), |s| {
        s.latency_ms / 1e3
    }),
    (
        gauge(
            "anabranch_sink_stream_arrival_p99_seconds",
            "Age of packets when they come, 99 % quantile since the start",
        ),
        |s| s.arrival.p99_ms / 1e3,
    ),
    (
        gauge("anabranch_sink_stream_arrival_max_seconds", "Age of the oldest packet when it came, since the start"),
        |s| s.arrival.max_ms / 1e3,
    ),
    (gauge("anabranch_sink_stream_on_time_ratio", "Share of the packets that left on time, since the start"), |s| {
        s.on_time_share
    }),
    (counter("anabranch_sink_stream_received_packets_total", "Packets that came, copies included"), |s| {
        s.packets.received as f64
    }),
    (counter("anabranch_sink_stream_released_bytes_total", "Payload bytes that left on time"), |s| {
        s.packets.bytes as f64
    }),
    (counter("anabranch_sink_stream_on_time_packets_total", "Packets that left on time"), |s| s.packets.on_time as f64),
    (counter("anabranch_sink_stream_late_packets_total", "Packets thrown away: they came after their time"), |s| {
        s.packets.late as f64
    }),
    // One that comes after all is late from then on, so that this may fall.
    (gauge("anabranch_sink_stream_missing_packets", "Packets that have not come at all, since the start"), |s| {
        s.packets.missing as f64
    }),
    (counter("anabranch_sink_stream_duplicate_packets_total", "Copies thrown away"), |s| s.packets.duplicates as f64),
    (counter("anabranch_sink_stream_overflow_packets_total", "Packets thrown away: the buffer was full"), |s| {
        s.packets.overflow as f64
    }),
    (
        counter("anabranch_sink_stream_before_start_packets_total", "Packets of before this sink began, thrown away"),
        |s| s.packets.before_start as f64,
    ),
    (counter("anabranch_sink_stream_stray_packets_total", "Packets thrown away: numbers far from all others"), |s| {
        s.packets.strays as f64
    }),
    (
        counter(
            "anabranch_sink_stream_unusable_packets_total",
            "Packets of a sealed stream changed, replayed, in the clear or without a key",
        ),
        |s| (s.packets.tampered + s.packets.no_key + s.packets.clear + s.packets.replayed) as f64,
    ),
    (
        counter("anabranch_sink_stream_recovered_arq_packets_total", "Packets repaired on the last hop on request"),
        |s| s.packets.recovered_arq as f64,
    ),
    (
        counter(
            "anabranch_sink_stream_recovered_fec_packets_total",
            "Packets repaired on the last hop ahead of any request",
        ),
        |s| s.packets.recovered_fec as f64,
    ),
    (counter("anabranch_sink_stream_lives_total", "Lives of the stream of which something came"), |s| {
        s.packets.lives as f64
    }),
    (counter("anabranch_sink_stream_resets_total", "Breaks in the source's timeline within a life"), |s| {
        s.packets.resets as f64
    }),
];

/// What is found of the transport stream as it is released, labelled as the stream.
const TS: &[Of<StreamReport>] = node::ts_metrics!("anabranch_sink_stream_ts_", released);

fn released(stream: &StreamReport) -> TsHealth {
    stream.ts.unwrap_or_default()
}

/// Of each output, labelled with `stream` and `output`.
const OUTPUT: &[Of<OutputReport>] = &[
    (counter("anabranch_sink_output_packets_total", "Packets written"), |o| o.packets as f64),
    (counter("anabranch_sink_output_bytes_total", "Payload bytes written"), |o| o.bytes as f64),
    (
        counter(
            "anabranch_sink_output_dropped_packets_total",
            "Packets thrown away: the output is slower than the stream",
        ),
        |o| o.dropped as f64,
    ),
    (counter("anabranch_sink_output_errors_total", "Attempts to write that failed"), |o| o.errors as f64),
    (gauge("anabranch_sink_output_stopped", "1 where the output has stopped for good"), |o| flag(o.stopped.is_some())),
    (gauge("anabranch_sink_output_players", "Players connected; servers only"), |o| o.clients as f64),
    (counter("anabranch_sink_output_players_dropped_total", "Players disconnected: too slow; servers only"), |o| {
        o.clients_dropped as f64
    }),
];

/// Every metric there is.
pub fn all() -> impl Iterator<Item = Metric> {
    let sink = SINK.iter().map(|(metric, _)| *metric);
    let link = LINK.iter().map(|(metric, _)| *metric);
    let stream = STREAM.iter().chain(TS).map(|(metric, _)| *metric);
    sink.chain(link).chain(stream).chain(OUTPUT.iter().map(|(metric, _)| *metric))
}

impl node::ops::Report for Report {
    fn metrics(&self) -> String {
        let mut out = String::with_capacity(8 * 1024);
        family(&mut out, SINK, &[(String::new(), self)]);
        let link: Vec<(String, &LinkReport)> = self.link.iter().map(|link| (String::new(), link)).collect();
        family(&mut out, LINK, &link);
        let streams: Vec<(String, &StreamReport)> =
            self.streams.iter().map(|stream| (labels(stream), stream)).collect();
        family(&mut out, STREAM, &streams);
        family(&mut out, TS, &streams);
        let outputs: Vec<(String, &OutputReport)> = self.streams.iter().flat_map(outputs).collect();
        family(&mut out, OUTPUT, &outputs);
        out
    }

    fn ready(&self) -> Result<(), &'static str> {
        match self.connection.state {
            ConnectionState::Up => Ok(()),
            ConnectionState::Connecting => Err("connecting"),
            ConnectionState::Stopped => Err("stopped"),
        }
    }
}

/// Names of streams hold no character that the format would want escaped.
fn labels(stream: &StreamReport) -> String {
    format!("stream=\"{}\"", stream.name)
}

fn outputs(stream: &StreamReport) -> impl Iterator<Item = (String, &OutputReport)> {
    let of = labels(stream);
    stream.outputs.iter().map(move |output| (format!("{of},output=\"{}\"", escaped(&output.output)), output))
}
