//! What the path can carry, where nobody says so: estimated from the delay on the way there.
//!
//! A queue before a bottleneck shows as delay above the smallest seen, at *all* times of some round trips: jitter and random loss do
//! not, so neither slows the link. While a queue stands, the rate is taken down below what the peer receives
//! (multiplicatively), until it has drained; while none does and more waits to be sent than may leave, it goes up (additively, by a
//! step that grows with the root of the rate, so that links that share a bottleneck draw level: Chiu and Jain 1989).
//! Delay that stays the same though less is sent than arrived is no queue of ours: the path has become longer, or others fill it.
//!
//! A machine that stalls delays as a queue does. What tells them apart is what arrives while the delay lasts: behind a bottleneck that is
//! offered too much it is less than what is sent, for as long as that goes on; behind a stall, or on a path that has become longer, it is
//! the same again after a moment. So the first queue counts as ours only when it has lasted, and too little arrived, over some hundred
//! transmissions; while a bound is in force, every later one does.

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
/// Transmissions, and time, over which too little must arrive for a queue to be ours, and the time after which it is not.
const ENOUGH: u64 = 100;
const LASTING: Duration = Duration::from_millis(250);
const SETTLED: Duration = Duration::from_millis(1000);
/// Share that may be wanting of what was sent less what is lost as ever; a moment's stall may hold back more.
const WANTING: f64 = 0.04;
const STALL: Duration = Duration::from_millis(30);
/// Growth in a tenth of a second as a share, up to what arrived when the queue was seen first.
const REGROWTH: f64 = 0.05;
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
    /// Transmissions sent, and arrived as far as is known, since the start.
    pub(crate) sent_in_all: u64,
    pub(crate) arrived_in_all: u64,
    /// Share of transmissions that are lost, over some seconds.
    pub(crate) loss: f64,
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
    /// The rate when the last queue was seen first: growth up to there is quick.
    knee: f64,
    standing: Option<Standing>,
    brake: Option<Brake>,
    raised: Instant,
    felt: Instant,
}

/// A queue stands, or what looks like one: what had been sent and had arrived when it began.
#[derive(Clone, Copy, Debug)]
struct Standing {
    since: Instant,
    sent: u64,
    arrived: u64,
    loss: f64,
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
            knee: 0.0,
            standing: None,
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
        // What may become a queue is looked at more often than the growing round trip would have it.
        let period = if self.standing.is_some() { PERIOD } else { PERIOD.max(sample.rtt) };
        let Some(least) = self.least.filter(|_| now - self.period >= period) else { return };
        (self.least, self.period) = (None, now);
        if least + STANDING < self.base {
            // The path is as short as it was.
            self.base = least;
        }
        let queue = least.saturating_sub(self.base);
        if queue <= STANDING {
            (self.standing, self.brake) = (None, None);
            self.speed_up(now, sample.limited);
        } else if self.rate.is_some() || self.is_ours(now, queue, &sample) {
            self.slow_down(now, queue, sample.rtt);
        }
    }

    /// Whether a queue that stands is there because we send more than the path carries.
    fn is_ours(&mut self, now: Instant, queue: Duration, sample: &Sample) -> bool {
        let begins =
            Standing { since: now, sent: sample.sent_in_all, arrived: sample.arrived_in_all, loss: sample.loss };
        let standing = *self.standing.get_or_insert(begins);
        let (span, sent) = (now - standing.since, sample.sent_in_all - standing.sent);
        if span < LASTING || sent < ENOUGH {
            return false;
        }
        let arrived = (sample.arrived_in_all - standing.arrived) as f64;
        let due = (1.0 - standing.loss) * sent as f64;
        let too_little = arrived < (1.0 - WANTING - STALL.div_duration_f64(span)) * due;
        if too_little {
            self.standing = None;
        } else if span > SETTLED {
            // All that is sent arrives: the path is longer than it was.
            self.standing = None;
            self.base += queue;
        }
        too_little
    }

    fn slow_down(&mut self, now: Instant, queue: Duration, rtt: Duration) {
        let Some(brake) = self.brake else {
            // Beyond a moment's stall, the best tenth of the last second tells what the path gives.
            let best = self.bins.iter().max().copied().unwrap_or(0);
            self.brake = Some(Brake { since: now, queue, before: self.rate, firm: false });
            self.knee = GENTLE * per_second(best as f64);
            return self.set(self.knee);
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
            let step = STEP * (rate / 1e6).sqrt();
            self.rate = Some(rate + if rate < self.knee { step.max(REGROWTH * rate) } else { step });
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Reports every 10 ms for a second: so many transmissions sent per report, of which all arrive, with this delay in each.
    fn second(capacity: &mut Capacity, totals: &mut (u64, u64), sent: u64, delay: impl Fn(u64) -> u64) {
        for _ in 0..100 {
            totals.0 += 1;
            totals.1 += sent;
            let sample = Sample {
                delay: Duration::from_millis(delay(totals.0)),
                arrived: sent * 1350,
                sent_in_all: totals.1,
                arrived_in_all: totals.1,
                loss: 0.05,
                rtt: Duration::from_millis(40),
                limited: false,
            };
            capacity.on_report(Instant::from_micros(totals.0 * 10_000), sample);
        }
    }

    #[test]
    fn neither_stalls_nor_a_longer_path_nor_a_quiet_link_slows() {
        let mut totals = (0, 0);
        let mut capacity = Capacity::new(Instant::ORIGIN);
        for _ in 0..20 {
            // 200 ms of 30 ms, three times a second.
            second(&mut capacity, &mut totals, 10, |report| if report % 33 < 20 { 30 } else { 0 });
            assert_eq!(capacity.rate(), None);
        }
        second(&mut capacity, &mut totals, 10, |_| 40);
        second(&mut capacity, &mut totals, 10, |_| 40);
        assert_eq!(capacity.rate(), None);
        let mut quiet = Capacity::new(Instant::ORIGIN);
        second(&mut quiet, &mut totals, 0, |_| 50);
        assert_eq!(quiet.rate(), None);
    }
}
