//! The link's state machine; see the crate documentation for the order of calls.

use crate::ids::{Flags, Label, MediaTime, StreamHandle, StreamSeq};
use crate::policy::Policy;
use crate::stats::{LinkQuality, LinkStats};
use crate::time::Instant;
use bytes::{Bytes, BytesMut};
use std::time::Duration;

/// A media packet on its way out on this link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The stream, by this link's handle for it.
    pub stream: StreamHandle,
    /// The packet's number in the stream.
    pub seq: StreamSeq,
    /// When the source received it.
    pub media_time: MediaTime,
    /// Time since the source received it, at the moment of [`Link::send`].
    pub age: Duration,
    /// The graph it travels on.
    pub label: Label,
    /// Its marks.
    pub flags: Flags,
    /// What it carries; at most [`Link::MAX_PAYLOAD`] bytes. Shared, never copied, between links.
    pub payload: Bytes,
    /// When it must have *arrived* at the peer to be of use, on this end's clock: repair goes on until then.
    pub recover_until: Instant,
}

/// How a delivered packet came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Recovery {
    /// As first sent.
    None,
    /// By retransmission, plain or coded, on request.
    Arq,
    /// By code, a fail-safe copy or a duplicate sent ahead of any request.
    Fec,
}

/// A media packet that arrived, in whatever order it did; each one once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The stream, by the peer's handle for it.
    pub stream: StreamHandle,
    /// The packet's number in the stream.
    pub seq: StreamSeq,
    /// When the source received it.
    pub media_time: MediaTime,
    /// Time since the source received it, now: the peer's account plus this hop's transit, repair included.
    pub age: Duration,
    /// The graph it travels on.
    pub label: Label,
    /// Its marks.
    pub flags: Flags,
    /// What it carries.
    pub payload: Bytes,
    /// How it came.
    pub recovery: Recovery,
}

/// Why [`Link::send`] refused a packet; nothing of it was kept. Counted in [`LinkStats`] as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The payload is larger than two frames hold.
    #[error("payload of {size} bytes; a link carries at most {most}")]
    TooLarge {
        /// Bytes offered.
        size: usize,
        /// Bytes that fit.
        most: usize,
    },
    /// Even if sent now it would arrive after `recover_until`.
    #[error("the packet can no longer arrive in time")]
    TooLate,
    /// The queue is full of packets that go before this one.
    #[error("the sending queue is full")]
    QueueFull,
}

/// Why a link asks to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimeoutReason {
    /// The next queued transmission may leave by the pacing law.
    Pacing,
    /// Feedback is due.
    Feedback,
    /// A repair or a fail-safe copy is due.
    Repair,
    /// Nothing was sent for a while: a probe is due.
    Probe,
    /// State grew old.
    Expiry,
}

/// What is fixed when a link is made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkConfig {
    /// Largest frame the path carries, header included: quinn's `max_datagram_size()`. Larger packets are split in two
    /// frames and rejoined at the peer. Follow changes by [`Link::set_max_frame`].
    pub max_frame: usize,
    /// The repair policy at start; change it by [`Link::set_policy`].
    pub policy: Policy,
    /// Seed of the code's random coefficients. Give each link its own.
    pub seed: u64,
    /// How long a probe may be put off where nothing else is sent.
    pub probe_interval: Duration,
    /// Most bytes of media kept for repair, and again for decoding.
    pub max_history: usize,
}

impl Default for LinkConfig {
    fn default() -> Self {
        LinkConfig {
            max_frame: 1162,
            policy: Policy::default(),
            seed: 0,
            probe_interval: Duration::from_millis(25),
            max_history: 16 << 20,
        }
    }
}

/// One end of a link: sender and receiver of media in both directions.
#[derive(Debug)]
pub struct Link {}

impl Link {
    /// Largest payload of a [`Packet`]; two frames on the smallest legal QUIC path (1200 bytes) hold it.
    pub const MAX_PAYLOAD: usize = 2048;

    /// A link at rest.
    pub fn new(now: Instant, config: LinkConfig) -> Link {
        let _ = (now, config);
        todo!()
    }

    /// Takes a packet for the peer. It leaves by [`Link::poll_transmit`].
    pub fn send(&mut self, now: Instant, packet: Packet) -> Result<(), SendError> {
        let _ = (now, packet);
        todo!()
    }

    /// Takes a datagram that came from the peer. Bytes that are no frame are counted as malformed and change nothing.
    ///
    /// The link keeps slices of `datagram` for decoding; hand in a copy where it is a slice of a large receive buffer.
    pub fn handle_datagram(&mut self, now: Instant, datagram: Bytes) {
        let _ = (now, datagram);
        todo!()
    }

    /// Does what has come due by `now`. Calling it early or late is harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        let _ = now;
        todo!()
    }

    /// The next packet that arrived.
    pub fn poll_delivery(&mut self) -> Option<Delivery> {
        todo!()
    }

    /// Appends the next datagram to send to `out` and returns its length, or `None` when nothing may be sent at `now`.
    pub fn poll_transmit(&mut self, now: Instant, out: &mut BytesMut) -> Option<usize> {
        let _ = (now, out);
        todo!()
    }

    /// When to call [`Link::handle_timeout`] at the latest, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, TimeoutReason)> {
        todo!()
    }

    /// Changes the repair policy from the next packet on.
    pub fn set_policy(&mut self, now: Instant, policy: Policy) {
        let _ = (now, policy);
        todo!()
    }

    /// The repair policy in force.
    pub fn policy(&self) -> Policy {
        todo!()
    }

    /// Changes the largest frame the path carries.
    pub fn set_max_frame(&mut self, max_frame: usize) {
        let _ = max_frame;
        todo!()
    }

    /// Counters since the start.
    pub fn stats(&self) -> LinkStats {
        todo!()
    }

    /// What is known of the path at `now`.
    pub fn quality(&self, now: Instant) -> LinkQuality {
        let _ = now;
        todo!()
    }
}
