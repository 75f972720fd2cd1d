//! What the path can carry, where nobody says so: estimated from the delay on the way there.
//!
//! A queue before a bottleneck shows as delay above the smallest seen, at *all* times of some round trips: jitter and random loss do
//! not, so neither slows the link. While a queue stands, the rate is taken down below what the peer receives
//! (multiplicatively), until it has drained; while none does and more waits to be sent than may leave, it goes up (additively, by a
//! step that grows with the root of the rate, so that links that share a bottleneck draw level: Chiu and Jain 1989).
//! Delay that stays the same though less is sent than arrived is no queue of ours: the path has become longer, or others fill it.

use crate::time::Instant;
use crate::units::Bitrate;
use std::time::Duration;

/// Delay above the smallest that counts as a queue.
const STANDING: Duration = Duration::from_millis(15);
/// Least time in which the smallest delay is looked for.
const PERIOD: Duration = Duration::from_millis(50);
/// What arrives is counted in bins of this length.
const BIN: Duration = Duration::from_millis(100);
/// Bins remembered.
const BINS: usize = 10;
/// Rate after a queue was seen first, and while it does not shrink, as a share of what the peer received.
const GENTLE: f64 = 0.9;
const FIRM: f64 = 0.85;
/// Change of a queue that is told from noise.
const CHANGE: Duration = Duration::from_millis(3);
/// Growth in a tenth of a second at 1 Mbit/s; it goes with the root of the rate.
const STEP: f64 = 50e3;
/// Rates below this are not taken for an estimate of anything.
const LEAST: f64 = 64e3;
/// A bound that was not felt for so long is lifted.
const LIFTED: Duration = Duration::from_secs(10);

/// What a report tells.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Delay on the way there above the smallest of the recent past.
    pub(crate) delay: Duration,
    /// Bytes of ours that are news to have arrived.
    pub(crate) arrived: u64,
    /// Round-trip time.
    pub(crate) rtt: Duration,
    /// Whether something had to wait for the rate since the last report.
    pub(crate) limited: bool,
}

/// The estimate of one direction of a path.
#[derive(Debug)]
pub(crate) struct Capacity {
    /// Bits per second; `None` while nothing shows a bound.
    rate: Option<f64>,
    bins: [u64; BINS],
    /// Number of the current bin since the origin of the clock.
    bin: u64,
    /// Smallest delay in the current period.
    least: Option<Duration>,
    period: Instant,
    /// Delay that turned out not to be a queue of ours.
    base: Duration,
    brake: Option<Brake>,
    raised: Instant,
    felt: Instant,
}

/// A queue is being drained.
#[derive(Clone, Copy, Debug)]
struct Brake {
    since: Instant,
    /// The queue when the rate was last taken down.
    queue: Duration,
    /// The rate before.
    before: Option<f64>,
    firm: bool,
}

impl Capacity {
    pub(crate) fn new(now: Instant) -> Capacity {
        Capacity {
            rate: None,
            bins: [0; BINS],
            bin: 0,
            least: None,
            period: now,
            base: Duration::ZERO,
            brake: None,
            raised: now,
            felt: now,
        }
    }

    /// The bound, where there is one.
    pub(crate) fn rate(&self) -> Option<Bitrate> {
        self.rate.map(|rate| Bitrate::bps(rate as u64))
    }

    /// Takes a report into account.
    pub(crate) fn on_report(&mut self, now: Instant, sample: Sample) {
        self.count(now, sample.arrived);
        self.least = Some(self.least.map_or(sample.delay, |least| least.min(sample.delay)));
        if sample.limited {
            self.felt = now;
        }
        let Some(least) = self.least.filter(|_| now - self.period >= PERIOD.max(sample.rtt)) else { return };
        (self.least, self.period) = (None, now);
        if least + STANDING < self.base {
            // The path is as short as it was.
            self.base = least;
        }
        let queue = least.saturating_sub(self.base);
        if queue > STANDING {
            self.slow_down(now, queue, sample.rtt);
        } else {
            self.brake = None;
            self.speed_up(now, sample.limited);
        }
    }

    fn slow_down(&mut self, now: Instant, queue: Duration, rtt: Duration) {
        let Some(brake) = self.brake else {
            // Beyond a moment's stall, the best tenth of the last second tells what the path gives.
            let best = self.bins.iter().max().copied().unwrap_or(0);
            self.brake = Some(Brake { since: now, queue, before: self.rate, firm: false });
            return self.set(GENTLE * per_second(best as f64));
        };
        if now - brake.since < 2 * rtt.max(PERIOD) || queue + CHANGE < brake.queue {
            // What was sent before still drains.
            self.brake = Some(Brake { queue: queue.min(brake.queue), ..brake });
            return;
        }
        if brake.firm && queue < brake.queue + CHANGE {
            self.base += queue;
            self.brake = None;
            self.rate = brake.before;
            return;
        }
        self.brake = Some(Brake { since: now, queue, firm: true, ..brake });
        self.set(FIRM * per_second(self.recent()));
    }

    fn speed_up(&mut self, now: Instant, limited: bool) {
        let Some(rate) = self.rate else { return };
        if now - self.felt > LIFTED {
            self.rate = None;
        } else if limited && now - self.raised >= BIN {
            self.raised = now;
            self.rate = Some(rate + STEP * (rate / 1e6).sqrt());
        }
    }

    fn set(&mut self, rate: f64) {
        let rate = rate.max(LEAST);
        self.rate = Some(self.rate.map_or(rate, |before| before.min(rate)));
    }

    fn count(&mut self, now: Instant, bytes: u64) {
        let bin = now.as_micros() / BIN.as_micros() as u64;
        for skipped in (self.bin + 1).max(bin.saturating_sub(BINS as u64 - 1))..=bin {
            self.bins[skipped as usize % BINS] = 0;
        }
        self.bin = self.bin.max(bin);
        self.bins[bin as usize % BINS] += bytes;
    }

    /// Mean of the last two whole bins.
    fn recent(&self) -> f64 {
        let back = |by: u64| self.bins[self.bin.saturating_sub(by) as usize % BINS] as f64;
        (back(1) + back(2)) / 2.0
    }
}

fn per_second(bytes_in_bin: f64) -> f64 {
    8.0 * bytes_in_bin / BIN.as_secs_f64()
}
