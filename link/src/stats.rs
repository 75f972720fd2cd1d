//! What a link counts and what it has measured.

use crate::units::Bitrate;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Monotonic counters of one end of a link. "Sent" is what this end transmitted, "received" what it got from the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each name says what is counted; bytes are bytes of frames, without QUIC, UDP and IP")]
pub struct LinkStats {
    pub media_packets_sent: u64,
    pub media_bytes_sent: u64,
    /// Plain and coded copies sent on request.
    pub arq_packets_sent: u64,
    pub arq_bytes_sent: u64,
    /// Code sent ahead of loss, fail-safe copies and duplicates included.
    pub fec_packets_sent: u64,
    pub fec_bytes_sent: u64,
    pub feedback_packets_sent: u64,
    pub feedback_bytes_sent: u64,
    pub probe_packets_sent: u64,
    /// Media packets that arrived as first sent.
    pub media_packets_received: u64,
    pub media_bytes_received: u64,
    /// Any transmission whose number never arrived: lost on the wire.
    pub wire_lost: u64,
    /// Transmissions received, of any kind.
    pub wire_received: u64,
    pub recovered_by_arq: u64,
    pub recovered_by_fec: u64,
    /// Media packets given up by the receiving end: lost after repair.
    pub unrecovered: u64,
    /// Repair that arrived and was not needed.
    pub repair_unneeded: u64,
    /// Media packets this end dropped before the first transmission, each with its reason.
    pub dropped_late: u64,
    /// They waited in a queue that stands: more is offered than the link carries.
    pub dropped_standing: u64,
    pub dropped_low_priority: u64,
    pub dropped_queue_full: u64,
    /// Repair not sent because of the capacity or the ceiling on overhead.
    pub repair_suppressed: u64,
    /// Datagrams that did not decode, or would have made more work than a peer may.
    pub malformed: u64,
}

impl LinkStats {
    /// What was counted since `earlier`, an older copy of the same counters.
    pub fn since(&self, earlier: &LinkStats) -> LinkStats {
        self.combined(earlier, u64::wrapping_sub)
    }

    /// The counters of two links, or of two runs, taken together.
    pub fn plus(&self, other: &LinkStats) -> LinkStats {
        self.combined(other, u64::wrapping_add)
    }

    /// Media packets dropped before their first transmission, for whatever reason.
    pub fn dropped(&self) -> u64 {
        self.dropped_late + self.dropped_standing + self.dropped_low_priority + self.dropped_queue_full
    }

    fn combined(&self, other: &LinkStats, combine: fn(u64, u64) -> u64) -> LinkStats {
        macro_rules! each {
            ($($counter:ident)*) => { LinkStats { $($counter: combine(self.$counter, other.$counter)),* } };
        }
        each! {
            media_packets_sent
            media_bytes_sent
            arq_packets_sent
            arq_bytes_sent
            fec_packets_sent
            fec_bytes_sent
            feedback_packets_sent
            feedback_bytes_sent
            probe_packets_sent
            media_packets_received
            media_bytes_received
            wire_lost
            wire_received
            recovered_by_arq
            recovered_by_fec
            unrecovered
            repair_unneeded
            dropped_late
            dropped_standing
            dropped_low_priority
            dropped_queue_full
            repair_suppressed
            malformed
        }
    }
}

/// What a link has measured, from the data itself. Losses and delays are of the direction named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LinkQuality {
    /// Round-trip time: smallest of the recent past. Zero before the first measurement.
    pub rtt_min: Duration,
    /// Round-trip time, smoothed (RFC 6298).
    pub rtt: Duration,
    /// Mean deviation of the round-trip time (RFC 6298).
    pub rtt_variation: Duration,
    /// One-way delay towards the peer, bare transit; half the smallest round trip unless the clocks tell more.
    pub transit: Duration,
    /// Half-width of the interval that holds [`LinkQuality::transit`] for certain.
    pub transit_bound: Duration,
    /// Lateness against the smallest one-way delay: the 99 % quantile, in the receiving direction.
    pub jitter_p99: Duration,
    /// Share of our transmissions lost, over the last 50 ms or 50 packets.
    pub loss_sent_fast: f64,
    /// Share of our transmissions lost, over some seconds.
    pub loss_sent: f64,
    /// Mean length of a run of losses in our direction, in transmissions.
    pub burst_sent: f64,
    /// Share of the peer's transmissions lost, over the last 50 ms or 50 packets.
    pub loss_received_fast: f64,
    /// Share of the peer's transmissions lost, over some seconds.
    pub loss_received: f64,
    /// Deepest reordering seen recently, in transmissions.
    pub reordering: u32,
    /// Rate of media this end sends.
    pub media_rate: Bitrate,
    /// What this end believes the link can carry; `None` while nothing bounds it.
    pub capacity: Option<Bitrate>,
    /// Time since anything arrived from the peer.
    pub silent_for: Duration,
    /// How far apart the signs of life of a peer are at most, as things are, where none is lost.
    pub heard_every: Duration,
    /// Time since we sent what the peer last told to have arrived; since the start where it told nothing yet.
    pub delivered_ago: Duration,
}
