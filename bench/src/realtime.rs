//! Numbered datagrams through real programs, in real time: one sender, one receiver, and what was lost or late between them.
//!
//! Everything is sent by [`Sender`] and received by [`Receiver`], whatever carries it: our own programs over one emulated
//! hop ([`OwnHop`]), or somebody else's. What came is compared byte by byte, and [`Judge`] says what of it was in time.

mod datagram;
mod hop;
mod kernel;
pub(crate) mod quic;
mod receive;
mod send;
mod tally;

pub use datagram::{Numbered, Seen};
pub(crate) use hop::{HOP, PATH_MTU, free_port};
pub use hop::{HopPlan, HopStats, OwnHop};
pub use kernel::UdpDrops;
pub use receive::{Arrivals, Receiver};
pub use send::{Schedule, SendLog, Sender};
pub use tally::{Judge, LatencyMs, Outcome};

use crate::channel::ChannelCounters;
use serde::Serialize;

/// Bytes and packets on the wire of one direction, against the media that were sent meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct WireCost {
    /// Bytes of IP packets over bytes of media, less one for the direction that carries the media.
    pub bytes: f64,
    /// Packets over packets of media, less one for the direction that carries the media.
    pub packets: f64,
    /// Share of the packets that the link lost.
    pub loss: f64,
}

impl WireCost {
    /// What the direction that carries the media cost beyond `packets` datagrams of `size` bytes.
    pub fn forward(counted: &ChannelCounters, packets: u64, size: usize) -> WireCost {
        let cost = WireCost::backward(counted, packets, size);
        WireCost { bytes: cost.bytes - 1.0, packets: cost.packets - 1.0, ..cost }
    }

    /// What the other direction cost.
    pub fn backward(counted: &ChannelCounters, packets: u64, size: usize) -> WireCost {
        let media = (packets * size as u64).max(1) as f64;
        WireCost {
            bytes: counted.offered_bytes as f64 / media,
            packets: counted.offered as f64 / packets.max(1) as f64,
            loss: counted.loss(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_is_counted_against_the_media() {
        let counted =
            ChannelCounters { offered: 110, offered_bytes: 110 * 1360, lost: 11, ..ChannelCounters::default() };
        let cost = WireCost::forward(&counted, 100, 1360);
        assert!((cost.bytes - 0.1).abs() < 1e-9 && (cost.packets - 0.1).abs() < 1e-9 && (cost.loss - 0.1).abs() < 1e-9);
        assert!((WireCost::backward(&counted, 100, 1360).bytes - 1.1).abs() < 1e-9);
    }
}
