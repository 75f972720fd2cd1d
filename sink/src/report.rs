//! What a sink says of itself: the JSON of `--json`, the line on the terminal, and what embedding programs watch.

use link::stats::{LinkQuality, LinkStats};
use node::control::Content;
use node::ts::TsHealth;
use serde::Serialize;
use std::net::SocketAddr;
use topology::StreamName;

/// The state and the counters of a sink at one moment. Counters run since the start.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Seconds since it started.
    pub uptime_s: f64,
    /// Seconds of these in which its own processor was late for what came, by 20 ms or more.
    pub behind_s: f64,
    /// Where metrics are served, with the port that was picked.
    pub metrics: Option<SocketAddr>,
    /// How it stands with its relay.
    pub connection: ConnectionReport,
    /// Its streams, in the order of the configuration.
    pub streams: Vec<StreamReport>,
    /// Packets dropped because the relay never said of which stream they are.
    pub unclaimed: u64,
    /// The link from the relay, while there is one.
    pub link: Option<LinkReport>,
    /// Configurations read anew since the start.
    pub reloads: ReloadReport,
}

/// What came of reading the configuration anew.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ReloadReport {
    /// Times it was taken.
    pub done: u64,
    /// Times it was refused, and the old one kept.
    pub refused: u64,
    /// Why it was refused, where the last one was: file, field, and what was expected.
    pub last_error: Option<String>,
}

/// How a sink stands with its relay.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ConnectionReport {
    /// Whether there is a connection.
    pub state: ConnectionState,
    /// The relay in use, or being tried: its address as configured.
    pub relay: Option<String>,
    /// The relay's name, once it answered.
    pub name: Option<String>,
    /// Seconds since the state changed.
    pub since_s: f64,
    /// Connections there have been; reconnections are one less.
    pub connections: u64,
    /// Why the last attempt or the last connection ended.
    pub last_error: Option<String>,
}

/// Whether there is a connection to a relay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ConnectionState {
    /// A relay is being dialled.
    #[default]
    Connecting,
    /// The link is up.
    Up,
    /// The sink has stopped.
    Stopped,
}

/// One stream at this sink.
#[derive(Clone, Debug, Serialize)]
pub struct StreamReport {
    /// Its name.
    pub name: StreamName,
    /// How it stands.
    pub state: StreamState,
    /// What it carries, once known.
    pub content: Option<Content>,
    /// Time from source to release in use, in milliseconds; 0 before it is known.
    pub latency_ms: f64,
    /// What came and what became of it.
    pub packets: Counters,
    /// Packets released on time, as a share of all that should have been; 1 before any.
    pub on_time_share: f64,
    /// From the source's receipt to the release here.
    pub release: Quantiles,
    /// From the source's receipt to the arrival here: what is left to the deadline is the margin.
    pub arrival: Quantiles,
    /// Whether payloads are sealed from source to sink, as its announcement says; `None` before there is any.
    pub sealed: Option<bool>,
    /// Why its packets cannot be used, where they cannot.
    pub trouble: Option<String>,
    /// How the transport stream is as it is released; `None` where it is none.
    pub ts: Option<TsHealth>,
    /// Its outputs.
    pub outputs: Vec<OutputReport>,
}

/// How it stands with a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StreamState {
    /// Asked for, never seen.
    #[default]
    Waiting,
    /// Media comes.
    Live,
    /// It was there, and nothing comes.
    Silent,
    /// Its source ended it; it may return.
    Ended,
    /// The relay refuses it.
    Refused,
}

/// What came of a stream and what became of it. `received` = `on_time` + `late` + `duplicates` + `before_start` +
/// `overflow` + `strays` + `tampered` + `no_key` + `clear` + `replayed` + what still waits for its release. What was never taken for a packet
/// of the stream, the four last, is missing all the same, unless another copy of it came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Packets that arrived, repeats included.
    pub received: u64,
    /// Bytes of payload released.
    pub bytes: u64,
    /// Packets released, each at its time.
    pub on_time: u64,
    /// Packets that arrived after their time, and were dropped.
    pub late: u64,
    /// Packets that were passed over and have not come at all: between two that came. Of what was lost before the first packet of a life that
    /// came, and after the last, a sink does not know.
    pub missing: u64,
    /// Packets that had arrived before, and were dropped.
    pub duplicates: u64,
    /// Packets from before the point where this sink joined, which came after it had begun; dropped.
    pub before_start: u64,
    /// Packets dropped because the buffer was full.
    pub overflow: u64,
    /// Packets whose numbers were far from all others, and which stayed alone; dropped.
    pub strays: u64,
    /// Packets of a sealed stream that were changed, relabelled or made up on the way; dropped.
    pub tampered: u64,
    /// Packets sealed with a key that this sink does not have; dropped.
    pub no_key: u64,
    /// Packets in the clear of a stream for which this sink has a key; dropped.
    pub clear: u64,
    /// Packets of a sealed stream played again from a recording; dropped.
    pub replayed: u64,
    /// Of those received: repaired on the last hop by retransmission on request.
    pub recovered_arq: u64,
    /// Of those received: repaired on the last hop by code or copies sent ahead of any request.
    pub recovered_fec: u64,
    /// Lives of the stream of which something came: 1, and one more with every restart of the source. One that was announced only, because
    /// its source had not yet seen what it carries, is none.
    pub lives: u64,
    /// Breaks in the source's timeline within a life, each resynchronised.
    pub resets: u64,
}

impl Counters {
    /// Packets on time as a share of all that should have been on time; 1 where there was none.
    pub fn on_time_share(&self) -> f64 {
        let all = self.on_time + self.late + self.missing + self.overflow;
        if all == 0 { 1.0 } else { self.on_time as f64 / all as f64 }
    }
}

/// A distribution of delays, in milliseconds; zeros before the first packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Quantiles {
    /// Half are below.
    pub p50_ms: f64,
    /// 99 % are below.
    pub p99_ms: f64,
    /// 99.9 % are below.
    pub p999_ms: f64,
    /// The largest.
    pub max_ms: f64,
}

/// One output of a stream.
#[derive(Clone, Debug, Default, Serialize)]
pub struct OutputReport {
    /// As configured; for a server on port 0, with the port that was picked.
    pub output: String,
    /// Packets written.
    pub packets: u64,
    /// Bytes of payload written.
    pub bytes: u64,
    /// Packets dropped because the output was slower than the stream.
    pub dropped: u64,
    /// Attempts to write that failed.
    pub errors: u64,
    /// Players connected; servers only.
    pub clients: u64,
    /// Players disconnected because they were too slow; servers only.
    pub clients_dropped: u64,
    /// Why the output has stopped, if it has.
    pub stopped: Option<String>,
}

/// The link from the relay.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct LinkReport {
    /// Round-trip time, smoothed, in milliseconds.
    pub rtt_ms: f64,
    /// Share of the relay's transmissions lost on the wire, over some seconds.
    pub loss: f64,
    /// The same over the last 50 ms or 50 packets.
    pub loss_fast: f64,
    /// Lateness against the smallest one-way delay, 99 % quantile, in milliseconds.
    pub jitter_p99_ms: f64,
    /// Any transmission whose number never arrived.
    pub wire_lost: u64,
    /// Transmissions received, of any kind.
    pub wire_received: u64,
    /// Media packets given up by the link: lost after repair.
    pub unrecovered: u64,
    /// Repaired by retransmission on request.
    pub recovered_arq: u64,
    /// Repaired by code or copies sent ahead of any request.
    pub recovered_fec: u64,
    /// Milliseconds since anything arrived.
    pub silent_ms: f64,
}

impl LinkReport {
    /// The receiving side of a link.
    pub fn new(stats: &LinkStats, quality: &LinkQuality) -> LinkReport {
        LinkReport {
            rtt_ms: quality.rtt.as_secs_f64() * 1e3,
            loss: quality.loss_received,
            loss_fast: quality.loss_received_fast,
            jitter_p99_ms: quality.jitter_p99.as_secs_f64() * 1e3,
            wire_lost: stats.wire_lost,
            wire_received: stats.wire_received,
            unrecovered: stats.unrecovered,
            recovered_arq: stats.recovered_by_arq,
            recovered_fec: stats.recovered_by_fec,
            silent_ms: quality.silent_for.as_secs_f64() * 1e3,
        }
    }
}
