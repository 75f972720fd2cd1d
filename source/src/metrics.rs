//! The metrics of a source, in one place: each with its name, its unit and what it means. What a report does not know yet is 0. Pure.

use crate::report::{ConnectionState, LinkReport, Report, StreamReport, StreamState};
use node::metrics::{Metric, Of, counter, escaped, family, flag, gauge};
use node::ts::TsHealth;

/// Of the source as a whole.
const SOURCE: &[Of<Report>] = &[
    (gauge("anabranch_source_uptime_seconds", "Seconds since the source started"), |r| r.uptime_s),
    (
        counter(
            "anabranch_source_behind_seconds_total",
            "Time in which the source's own processor was late for what came, by 20 ms or more",
        ),
        |r| r.behind_s,
    ),
    (gauge("anabranch_source_connected", "1 while there is a link to a relay"), |r| {
        flag(r.connection.state == ConnectionState::Connected)
    }),
    (counter("anabranch_source_connections_total", "Links to relays there have been"), |r| {
        r.connection.connections as f64
    }),
];

/// Of the link that is up.
const LINK: &[Of<LinkReport>] = &[
    (gauge("anabranch_source_link_rtt_seconds", "Round-trip time to the relay, smoothed"), |l| {
        l.quality.rtt.as_secs_f64()
    }),
    (gauge("anabranch_source_link_loss_ratio", "Share of our transmissions lost on the wire, recently"), |l| {
        l.wire_loss_sent
    }),
    (
        gauge(
            "anabranch_source_link_capacity_bits_per_second",
            "What the link may carry, as estimated; 0 while nothing bounds it",
        ),
        |l| l.quality.capacity.map_or(0.0, |rate| rate.as_bps() as f64),
    ),
    (counter("anabranch_source_link_media_packets_sent_total", "Media packets sent"), |l| {
        l.stats.media_packets_sent as f64
    }),
    (counter("anabranch_source_link_media_bytes_sent_total", "Bytes of media frames sent"), |l| {
        l.stats.media_bytes_sent as f64
    }),
    (counter("anabranch_source_link_arq_bytes_sent_total", "Bytes of repair sent on request"), |l| {
        l.stats.arq_bytes_sent as f64
    }),
    (counter("anabranch_source_link_fec_bytes_sent_total", "Bytes of repair sent ahead of loss"), |l| {
        l.stats.fec_bytes_sent as f64
    }),
];

/// Of each stream, labelled with `stream` and `input`.
const STREAM: &[Of<StreamReport>] = &[
    (gauge("anabranch_source_stream_live", "1 while the stream is published"), |s| flag(s.state == StreamState::Live)),
    (gauge("anabranch_source_stream_refused", "1 where the relay refuses the stream"), |s| {
        flag(s.state == StreamState::Refused)
    }),
    (gauge("anabranch_source_stream_silent_seconds", "Time since anything came in; 0 before the first"), |s| {
        s.silent_s.unwrap_or(0.0)
    }),
    (counter("anabranch_source_input_packets_total", "Payloads taken in"), |s| s.input_counters.packets as f64),
    (counter("anabranch_source_input_bytes_total", "Payload bytes taken in"), |s| s.input_counters.bytes as f64),
    (counter("anabranch_source_input_oversized_total", "Datagrams refused: larger than a packet carries"), |s| {
        s.input_counters.oversized as f64
    }),
    (
        counter(
            "anabranch_source_input_kernel_dropped_total",
            "Datagrams that the kernel threw away: its buffer was full",
        ),
        |s| s.input_counters.kernel_dropped as f64,
    ),
    (counter("anabranch_source_input_rtp_lost_total", "Packets missing in the RTP numbers of the input"), |s| {
        s.input_counters.rtp_lost as f64
    }),
    (
        counter(
            "anabranch_source_input_rtp_dropped_total",
            "RTP packets thrown away: copies, and too late to be put in order",
        ),
        |s| s.input_counters.rtp_dropped as f64,
    ),
    (
        counter("anabranch_source_input_garbage_bytes_total", "Bytes between transport packets, passed on as they are"),
        |s| s.input_counters.ts_garbage_bytes as f64,
    ),
    (counter("anabranch_source_stream_sent_packets_total", "Packets handed to the link, each once"), |s| {
        s.counters.sent as f64
    }),
    (counter("anabranch_source_stream_sent_bytes_total", "Payload bytes handed to the link"), |s| {
        s.counters.sent_bytes as f64
    }),
    (counter("anabranch_source_stream_resent_packets_total", "Packets handed over again after a reconnection"), |s| {
        s.counters.resent as f64
    }),
    (
        counter("anabranch_source_stream_early_packets_total", "Packets lost: no relay had yet accepted the stream"),
        |s| s.counters.early as f64,
    ),
    (counter("anabranch_source_stream_late_packets_total", "Packets lost: they could not leave in time"), |s| {
        s.counters.late as f64
    }),
    (counter("anabranch_source_stream_queue_full_packets_total", "Packets lost: the link's queue was full"), |s| {
        s.counters.queue_full as f64
    }),
];

/// What is found of the transport stream that comes in, labelled as the stream.
const TS: &[Of<StreamReport>] = node::ts_metrics!("anabranch_source_input_ts_", taken_in);

fn taken_in(stream: &StreamReport) -> TsHealth {
    stream.ts.unwrap_or_default()
}

/// Every metric there is.
pub fn all() -> impl Iterator<Item = Metric> {
    let source = SOURCE.iter().map(|(metric, _)| *metric);
    let link = LINK.iter().map(|(metric, _)| *metric);
    source.chain(link).chain(STREAM.iter().chain(TS).map(|(metric, _)| *metric))
}

impl node::ops::Report for Report {
    fn metrics(&self) -> String {
        let mut out = String::with_capacity(8 * 1024);
        family(&mut out, SOURCE, &[(String::new(), self)]);
        let link: Vec<(String, &LinkReport)> = self.link.iter().map(|link| (String::new(), link)).collect();
        family(&mut out, LINK, &link);
        let streams: Vec<(String, &StreamReport)> =
            self.streams.iter().map(|stream| (labels(stream), stream)).collect();
        family(&mut out, STREAM, &streams);
        family(&mut out, TS, &streams);
        out
    }

    fn ready(&self) -> Result<(), &'static str> {
        match self.connection.state {
            ConnectionState::Connected => Ok(()),
            ConnectionState::Connecting => Err("connecting"),
            ConnectionState::Reconnecting => Err("reconnecting"),
            ConnectionState::Closed => Err("closed"),
        }
    }
}

/// Names of streams hold no character that the format would want escaped; inputs may.
fn labels(stream: &StreamReport) -> String {
    format!("stream=\"{}\",input=\"{}\"", stream.name, escaped(&stream.input))
}
