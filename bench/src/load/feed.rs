//! What is fed: packets in bursts, each with its number and the time of sending.

use super::{SIZE, Traffic};
use link::Instant;
use node::clock::Clock;
use std::time::Duration;

/// What was fed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fed {
    /// How many packets.
    pub(super) packets: u64,
    /// The farthest that a burst left after its time: nobody but the machine holds the feeder up.
    pub(super) latest: Duration,
}

/// Feeds `send` for `span`.
pub(super) fn feed(clock: Clock, traffic: Traffic, span: Duration, mut send: impl FnMut(&[u8])) -> Fed {
    let step = Duration::from_secs_f64(traffic.burst as f64 / traffic.rate);
    let mut packet = [0x47; SIZE];
    let (start, mut bursts) = (clock.now(), 0);
    let mut fed = Fed { packets: 0, latest: Duration::ZERO };
    loop {
        let due = start + step * bursts;
        if due >= start + span {
            return fed;
        }
        std::thread::sleep(due - clock.now());
        fed.latest = fed.latest.max(clock.now() - due);
        for _ in 0..traffic.burst {
            packet[..8].copy_from_slice(&clock.now().as_micros().to_le_bytes());
            send(&packet);
            fed.packets += 1;
        }
        bursts += 1;
    }
}

/// When a packet was sent, by what it says.
pub(super) fn stamp(packet: &[u8]) -> Option<Instant> {
    Some(Instant::from_micros(u64::from_le_bytes(*packet.first_chunk()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_come_in_whole_bursts_at_their_rate() {
        let clock = Clock::start();
        let traffic = Traffic { rate: 1000.0, ..Traffic::of_one_sink() };
        let mut stamps = Vec::new();
        let fed = feed(clock, traffic, Duration::from_millis(100), |packet| stamps.push(stamp(packet).unwrap()));
        assert_eq!((fed.packets, stamps.len()), (100, 100));
        assert!(stamps.windows(2).all(|pair| pair[0] <= pair[1]) && stamps[99] <= clock.now());
        assert_eq!(stamp(&[1, 2]), None);
    }
}
