//! What a source says of itself: `--json` prints it as one line per interval.

use link::stats::{LinkQuality, LinkStats};
use node::control::{Content, Dissemination};
use node::ts::TsHealth;
use serde::Serialize;
use std::net::SocketAddr;
use topology::{NodeName, StreamName};

/// The state and the counters of a source at one moment. Counters run since the start.
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
    /// The link to the relay, while there is one.
    pub link: Option<LinkReport>,
    /// The streams, in the order of the configuration.
    pub streams: Vec<StreamReport>,
}

/// How it stands with the relays.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ConnectionReport {
    /// The state.
    pub state: ConnectionState,
    /// The address of the relay that serves, or that is being dialled, as configured.
    pub address: Option<String>,
    /// The name of the relay that serves.
    pub relay: Option<NodeName>,
    /// Seconds since the state was entered.
    pub since_s: f64,
    /// Connections there have been.
    pub connections: u64,
    /// Why the last attempt failed or the last connection ended.
    pub last_error: Option<String>,
}

/// Whether a relay serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ConnectionState {
    /// None has yet.
    #[default]
    Connecting,
    /// One does.
    Connected,
    /// One did, and is dialled again.
    Reconnecting,
    /// The source has stopped.
    Closed,
}

/// The link to the relay.
#[derive(Clone, Debug, Serialize)]
pub struct LinkReport {
    /// Where the relay is.
    pub address: SocketAddr,
    /// Seconds since the link came up.
    pub up_s: f64,
    /// Share of our transmissions lost on the wire, recently.
    pub wire_loss_sent: f64,
    /// Repair bytes sent as a share of media bytes sent, since the link came up.
    pub overhead_sent: f64,
    /// What is measured of the path.
    pub quality: LinkQuality,
    /// The link's counters.
    pub stats: LinkStats,
}

/// One stream.
#[derive(Clone, Debug, Serialize)]
pub struct StreamReport {
    /// Its name.
    pub name: StreamName,
    /// Where it comes from.
    pub input: String,
    /// Where it listens, if it is a socket, with the port that was picked.
    pub listen: Option<SocketAddr>,
    /// Whether it flows.
    pub state: StreamState,
    /// Why the relay refuses it, or why the input fails.
    pub trouble: Option<String>,
    /// Its life, as published.
    pub incarnation: u64,
    /// What it carries.
    pub content: Content,
    /// The epoch its payloads are sealed with from source to sink; `None`: they travel in the clear.
    pub payload_epoch: Option<u8>,
    /// How it is spread.
    pub mode: Dissemination,
    /// One-way deadline in milliseconds.
    pub deadline_ms: f64,
    /// What came in during the last interval, in bits per second of payload.
    pub input_bps: u64,
    /// What was sent during the last interval, in bits per second of payload.
    pub sent_bps: u64,
    /// Seconds since anything came in; `None` before the first.
    pub silent_s: Option<f64>,
    /// The input's counters.
    pub input_counters: InputCounters,
    /// How the transport stream is that came in; `None` where it is none.
    pub ts: Option<TsHealth>,
    /// The stream's counters.
    pub counters: StreamCounters,
}

/// Whether a stream flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StreamState {
    /// Not published at the moment: no relay, or no answer yet.
    #[default]
    Waiting,
    /// Published.
    Live,
    /// The relay refuses it; asked again from time to time.
    Refused,
    /// It ended.
    Ended,
}

/// What is counted of an input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct InputCounters {
    /// Payloads taken in.
    pub packets: u64,
    /// Bytes taken in.
    pub bytes: u64,
    /// Datagrams larger than the 2048 bytes that a packet carries: refused.
    pub oversized: u64,
    /// Datagrams without content: ignored.
    pub empty: u64,
    /// Datagrams the kernel threw away because its receive buffer was full.
    pub kernel_dropped: u64,
    /// Packets missing from the RTP numbering of the input: lost before they came here.
    pub rtp_lost: u64,
    /// Packets put back in order by their RTP number.
    pub rtp_reordered: u64,
    /// Copies, and packets too late to be put back in order, thrown away.
    pub rtp_dropped: u64,
    /// Gaps in the continuity counters of the transport stream: lost before it came here.
    pub ts_discontinuities: u64,
    /// Bytes between transport stream packets that are none; passed on as they are.
    pub ts_garbage_bytes: u64,
    /// Times a file has been played from its beginning again.
    pub loops: u64,
}

/// What is counted of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StreamCounters {
    /// Packets handed to the link; each one once.
    pub sent: u64,
    /// Payload bytes handed to the link.
    pub sent_bytes: u64,
    /// Packets handed to the link again after a reconnection, in case the first did not arrive.
    pub resent: u64,
    /// Packets that came in before a relay first accepted the stream, and could not wait for it.
    pub early: u64,
    /// Packets that could not leave within their deadline: no relay, or a link too slow.
    pub late: u64,
    /// Packets refused by the link's full queue.
    pub queue_full: u64,
}
