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
/// How much may be owed: what does not wait for the pace (reports, probes) may be more than the rate for long, and media is not to wait for
/// all of that once the rate is raised.
const MOST_OWED: Duration = Duration::from_millis(100);

impl Pacer {
    pub(crate) fn new(rate: Option<Bitrate>) -> Pacer {
        Pacer { rate: rate.filter(|rate| *rate > Bitrate::ZERO), clear: Instant::ORIGIN }
    }

    /// Holds frames to another rate from `now` on.
    pub(crate) fn set_rate(&mut self, now: Instant, rate: Option<Bitrate>) {
        let rate = rate.filter(|rate| *rate > Bitrate::ZERO);
        if rate.is_none() {
            self.clear = now;
        } else if rate > self.rate {
            // One frame at the rate before may have taken longer.
            self.clear = self.clear.min(now + MOST_OWED);
        }
        self.rate = rate;
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
            let time = rate.time_for(bytes as u64).min(Duration::from_secs(1));
            // One frame takes what it takes, however low the rate.
            let most = now + BURST + MOST_OWED.max(time);
            self.clear = self.clear.max((self.clear.max(now) + time).min(most));
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
        let sent = sent_alone(&mut pacer, Duration::from_secs(1));
        assert!((1_000_000..1_004_000).contains(&sent), "{sent}");
    }

    /// Sends frames of 1,000 bytes for ten seconds, beside reports of 50 bytes every 5 ms that do not wait; returns the bytes of frames.
    fn sent_beside_reports(pacer: &mut Pacer, start: Instant) -> usize {
        let mut sent = 0;
        for millis in 0..10_000 {
            let now = start + Duration::from_millis(millis);
            if millis % 5 == 0 {
                pacer.on_sent(now, 50);
            }
            while pacer.ready_at() <= now {
                pacer.on_sent(now, 1000);
                sent += 1000;
            }
        }
        sent
    }

    #[test]
    fn what_was_owed_at_a_low_rate_is_soon_forgotten() {
        let at = |seconds: u64| Instant::from_micros(seconds * 1_000_000);
        // Reports take 80 kbit/s.
        for rate in [Bitrate::bps(20_000), Bitrate::bps(70_000)] {
            for after in [None, Some(Bitrate::bps(100_000)), Some(Bitrate::mbps(10))] {
                let mut pacer = Pacer::new(Some(rate));
                (1..400).for_each(|start| assert!(sent_beside_reports(&mut pacer, at(10 * start)) <= 2_000));
                assert!(pacer.ready_at() <= at(4_000) + MOST_OWED);
                pacer.set_rate(at(4_000), after);
                let owed = after.map_or(Duration::ZERO, |_| MOST_OWED);
                assert!(pacer.ready_at() <= at(4_000) + owed, "{rate:?} to {after:?}");
            }
        }
        let mut pacer = Pacer::new(Some(Bitrate::bps(20_000)));
        pacer.on_sent(at(1), 2_000);
        assert_eq!(pacer.ready_at() + BURST, at(1) + Duration::from_millis(800));
        pacer.set_rate(at(1), Some(Bitrate::mbps(10)));
        assert_eq!(pacer.ready_at() + BURST, at(1) + MOST_OWED);
    }

    #[test]
    fn a_frame_that_takes_long_is_waited_for() {
        let mut pacer = Pacer::new(Some(Bitrate::bps(20_000)));
        let sent = sent_alone(&mut pacer, Duration::from_secs(100));
        assert!((250_000..=252_000).contains(&sent), "{sent}");
    }

    /// Sends frames of 1,000 bytes for so long; returns their bytes.
    fn sent_alone(pacer: &mut Pacer, span: Duration) -> usize {
        let start = Instant::from_micros(1_000_000);
        let (mut now, mut sent) = (start, 0);
        while now - start < span {
            if pacer.ready_at() <= now {
                pacer.on_sent(now, 1000);
                sent += 1000;
            } else {
                now = pacer.ready_at();
            }
        }
        sent
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
