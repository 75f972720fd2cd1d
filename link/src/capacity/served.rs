//! What the peer received, by time: in tenths of the last second, and in each of the last seconds.

use crate::time::Instant;
use std::time::Duration;

/// What arrives is counted in bins of this length.
pub(super) const BIN: Duration = Duration::from_millis(100);
/// Bins, and seconds, remembered.
const BINS: usize = 10;
const SECONDS: usize = 10;

#[derive(Debug, Default)]
pub(super) struct Served {
    bins: [u64; BINS],
    seconds: [u64; SECONDS],
    /// Number of the current bin since the origin of the clock.
    bin: u64,
}

impl Served {
    /// Bytes of ours that are news to have arrived.
    pub(super) fn count(&mut self, now: Instant, bytes: u64) {
        let bin = now.as_micros() / BIN.as_micros() as u64;
        let second = bin / BINS as u64;
        clear_between(&mut self.bins, self.bin, bin);
        clear_between(&mut self.seconds, self.bin / BINS as u64, second);
        self.bin = self.bin.max(bin);
        self.bins[bin as usize % BINS] += bytes;
        self.seconds[second as usize % SECONDS] += bytes;
    }

    /// The mean of the last two whole bins, in bits per second.
    pub(super) fn recent(&self) -> f64 {
        let back = |by: u64| self.bins[self.bin.saturating_sub(by) as usize % BINS] as f64;
        per_second((back(1) + back(2)) / 2.0)
    }

    /// The best tenth of the last second, in bits per second: beyond a moment's stall it tells what the path gives.
    pub(super) fn best(&self) -> f64 {
        per_second(self.bins.iter().max().copied().unwrap_or(0) as f64)
    }

    /// The best of the last seconds, in bits per second: what used to pass.
    pub(super) fn sustained(&self) -> f64 {
        8.0 * self.seconds.iter().max().copied().unwrap_or(0) as f64
    }
}

/// Forgets the slots that time has passed over.
fn clear_between<const N: usize>(slots: &mut [u64; N], before: u64, now: u64) {
    for skipped in (before + 1).max(now.saturating_sub(N as u64 - 1))..=now {
        slots[skipped as usize % N] = 0;
    }
}

fn per_second(bytes_in_bin: f64) -> f64 {
    8.0 * bytes_in_bin / BIN.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_old_is_forgotten() {
        let at = |millis: u64| Instant::from_micros(millis * 1000);
        let mut served = Served::default();
        for bin in 0..20 {
            served.count(at(bin * 100), if bin == 3 { 3000 } else { 1000 });
        }
        assert_eq!((served.recent(), served.best(), served.sustained()), (80e3, 80e3, 96e3));
        served.count(at(5000), 500);
        assert_eq!((served.recent(), served.best(), served.sustained()), (0.0, 40e3, 96e3));
        served.count(at(30_000), 500);
        assert_eq!(served.sustained(), 4e3);
    }
}
