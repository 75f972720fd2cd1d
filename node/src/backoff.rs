//! Pauses between attempts that fail.

use std::time::Duration;

/// Pauses that double from the least to the most, each longer by up to a quarter of chance: so that the thousand peers of
/// a relay that restarts do not come at once, and two ends that dial each other do not go on meeting half-way.
///
/// ```
/// use anabranch_node::backoff::Backoff;
/// use std::time::Duration;
///
/// let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(3), 42);
/// assert!(backoff.pause() < Duration::from_millis(126));
/// assert!(backoff.pause() >= Duration::from_millis(200));
/// backoff.reset();
/// assert!(backoff.pause() < Duration::from_millis(126));
/// ```
#[derive(Clone, Debug)]
pub struct Backoff {
    least: Duration,
    most: Duration,
    failures: u32,
    random: u64,
}

impl Backoff {
    /// `seed` should differ from peer to peer.
    pub fn new(least: Duration, most: Duration, seed: u64) -> Backoff {
        Backoff { least, most, failures: 0, random: seed }
    }

    /// How long to wait after one more failure.
    pub fn pause(&mut self) -> Duration {
        let doubled = self.least.saturating_mul(1 << self.failures.min(20));
        let pause = doubled.min(self.most);
        self.failures = self.failures.saturating_add(1);
        // Chance enough for a pause: the step and finaliser of SplitMix64 (Steele, Lea, Flood, 2014).
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let share = (mixed >> 48) as u32;
        pause + pause / 4 / 65_536 * share
    }

    /// Failures since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// After a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_most_and_are_spread() {
        let (least, most) = (Duration::from_millis(100), Duration::from_secs(3));
        let mut firsts = Vec::new();
        for seed in 0..1000 {
            let mut backoff = Backoff::new(least, most, seed);
            let pauses: Vec<Duration> = (0..100).map(|_| backoff.pause()).collect();
            firsts.push(pauses[0]);
            for (i, pause) in pauses.iter().enumerate() {
                let base = (least * (1 << i.min(10))).min(most);
                assert!((base..base + base / 4).contains(pause), "pause {i} is {pause:?}");
            }
        }
        firsts.sort_unstable();
        assert!(firsts[999] - firsts[0] > Duration::from_millis(20), "a thousand peers come at once");
    }
}
