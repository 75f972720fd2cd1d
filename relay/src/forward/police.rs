//! The rate a publisher may send at.

use link::{Bitrate, Instant};
use std::time::Duration;

/// How far a stream may run ahead of its rate: a key frame of a stream that keeps its rate on average passes.
const BURST: Duration = Duration::from_millis(500);

/// Every packet counts for at least this much, so that a flood of empty ones is not free.
const LEAST: u64 = 64;

/// A token bucket, in the form of the generic cell rate algorithm (ITU-T I.371, virtual scheduling): one time stamp,
/// exact at every rate.
#[derive(Clone, Copy, Debug)]
pub struct Police {
    rate: Bitrate,
    /// Nanoseconds since the origin of the clock at which the bucket will be full again.
    full_at: u128,
}

impl Police {
    /// A full bucket. `rate` counts payload bytes.
    pub fn new(rate: Bitrate) -> Police {
        Police { rate, full_at: 0 }
    }

    /// The same bucket, as full as it is, at another rate: who asks for a rate again gets no second burst by that.
    pub fn at(self, rate: Bitrate) -> Police {
        Police { rate, ..self }
    }

    /// Whether a packet of `bytes` may pass at `now`; takes its tokens if so.
    #[inline]
    pub fn admit(&mut self, now: Instant, bytes: usize) -> bool {
        let now = u128::from(now.as_micros()) * 1000;
        let start = self.full_at.max(now);
        if start - now > BURST.as_nanos() {
            return false;
        }
        self.full_at = start + self.rate.time_for((bytes as u64).max(LEAST)).as_nanos();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(rate: Bitrate, every: Duration, bytes: usize, packets: usize) -> usize {
        let mut police = Police::new(rate);
        let mut now = Instant::from_micros(7);
        (0..packets)
            .filter(|_| {
                now += every;
                police.admit(now, bytes)
            })
            .count()
    }

    #[test]
    fn a_stream_at_its_rate_passes_whole() {
        // 1250 bytes a millisecond are 10 Mbit/s.
        assert_eq!(passed(Bitrate::mbps(10), Duration::from_millis(1), 1250, 10_000), 10_000);
    }

    #[test]
    fn twice_the_rate_is_cut_to_the_rate() {
        let passed = passed(Bitrate::mbps(5), Duration::from_millis(1), 1250, 10_000);
        // Half of ten seconds' packets, and the burst of half a second at 5 Mbit/s: 250 packets.
        assert!((5_240..=5_260).contains(&passed), "{passed}");
    }

    #[test]
    fn a_key_frame_passes() {
        assert_eq!(passed(Bitrate::mbps(8), Duration::from_micros(1), 1316, 300), 300);
    }

    #[test]
    fn a_flood_of_empty_packets_is_cut() {
        let passed = passed(Bitrate::mbps(1), Duration::from_micros(10), 0, 100_000);
        assert!(passed < 3_500, "{passed}");
    }

    #[test]
    fn another_rate_brings_no_new_burst() {
        let now = Instant::from_micros(7);
        let mut police = Police::new(Bitrate::mbps(1));
        while police.admit(now, 1250) {}
        assert!(!police.at(Bitrate::mbps(100)).admit(now, 1250));
        assert!(police.at(Bitrate::mbps(100)).admit(now + Duration::from_millis(11), 1250));
    }

    #[test]
    fn rate_zero_lets_next_to_nothing_pass() {
        assert_eq!(passed(Bitrate::ZERO, Duration::from_millis(1), 100, 10_000), 1);
    }
}
