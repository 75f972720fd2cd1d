//! When the next frame may leave, and how much repair is allowed.

use crate::time::Instant;
use crate::units::Bitrate;
use std::time::Duration;

/// Holds frames to a rate, with a small burst.
#[derive(Debug)]
pub(crate) struct Pacer {
    rate: Option<Bitrate>,
    /// When what has been sent will have passed at `rate`.
    clear: Instant,
}

/// How far sending may run ahead of the rate: what a driver with a clock of one millisecond needs.
const BURST: Duration = Duration::from_millis(2);

impl Pacer {
    pub(crate) fn new(rate: Option<Bitrate>) -> Pacer {
        Pacer { rate: rate.filter(|rate| *rate > Bitrate::ZERO), clear: Instant::ORIGIN }
    }

    pub(crate) fn set_rate(&mut self, rate: Option<Bitrate>) {
        self.rate = rate.filter(|rate| *rate > Bitrate::ZERO);
    }

    /// The rate held.
    pub(crate) fn rate(&self) -> Option<Bitrate> {
        self.rate
    }

    /// When the next frame may leave.
    pub(crate) fn ready_at(&self) -> Instant {
        self.clear.saturating_sub(BURST)
    }

    /// Notes that a frame has left.
    pub(crate) fn on_sent(&mut self, now: Instant, bytes: usize) {
        if let Some(rate) = self.rate {
            self.clear = self.clear.max(now) + rate.time_for(bytes as u64).min(Duration::from_secs(1));
        }
    }
}

/// Holds repair to a share of the media sent.
#[derive(Debug)]
pub(crate) struct Budget {
    share: f64,
    bytes: f64,
}

/// Repair that may be saved up for losses that come in bursts: so many bytes, or as much as media takes in such a time,
/// whichever is more.
const ALLOWANCE: f64 = 256.0 * 1024.0;
const ALLOWANCE_TIME: Duration = Duration::from_millis(500);

impl Budget {
    pub(crate) fn new(share: f64) -> Budget {
        let mut budget = Budget { share: 0.0, bytes: ALLOWANCE };
        budget.set_share(share);
        budget
    }

    pub(crate) fn set_share(&mut self, share: f64) {
        self.share = if share.is_finite() { share.max(0.0) } else { 0.0 };
        if self.share == 0.0 {
            self.bytes = 0.0;
        }
    }

    /// Media has been sent, at such a rate of late.
    pub(crate) fn earn(&mut self, bytes: usize, rate: Bitrate) {
        if self.share > 0.0 {
            let most = ALLOWANCE.max(rate.bytes_in(ALLOWANCE_TIME) as f64);
            self.bytes = (self.bytes + self.share * bytes as f64).min(most);
        }
    }

    /// Takes so many bytes where they are allowed.
    pub(crate) fn spend(&mut self, bytes: usize) -> bool {
        let allowed = self.bytes >= bytes as f64;
        if allowed {
            self.bytes -= bytes as f64;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paces_to_the_rate() {
        let mut pacer = Pacer::new(Some(Bitrate::mbps(8)));
        let mut now = Instant::from_micros(1_000_000);
        let mut sent = 0;
        while now < Instant::from_micros(2_000_000) {
            if pacer.ready_at() <= now {
                pacer.on_sent(now, 1000);
                sent += 1000;
            } else {
                now = pacer.ready_at();
            }
        }
        assert!((1_000_000..1_004_000).contains(&sent), "{sent}");
    }

    #[test]
    fn a_budget_is_a_share() {
        let mut budget = Budget::new(0.5);
        while budget.spend(1000) {}
        budget.earn(10_000, Bitrate::ZERO);
        let mut spent = 0;
        while budget.spend(100) {
            spent += 100;
        }
        assert!((4_900..=5_900).contains(&spent), "{spent}");
        assert!(!Budget::new(f64::NAN).spend(1));
    }
}
