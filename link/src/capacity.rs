//! What the path can carry, where nobody says so: estimated from the delay on the way there.
//!
//! A queue before a bottleneck shows as delay above the smallest seen, at *all* times of some round trips: jitter and random loss do
//! not, so neither slows the link. While a queue stands, the rate is taken down below what the peer receives
//! (multiplicatively), until it has drained; while none does and more waits to be sent than may leave, it goes up (additively, by a
//! step that grows with the root of the rate, so that links that share a bottleneck draw level: Chiu and Jain 1989).
//!
//! A machine that stalls delays as a queue does. What tells them apart is what arrives while the delay lasts: behind a bottleneck that is
//! offered too much it is less than what is sent, for as long as that goes on; behind a stall, or on a path that has become longer, it is
//! the same again after a moment. So the first queue counts as ours only when it has lasted, and too little arrived, over some hundred
//! transmissions; while a bound is in force, every later one does.
//!
//! **Others in the queue.** A flow that fills every queue it finds (TCP under CUBIC) cannot be told from a load of our own by looking: before
//! a queue that is served in order, what arrives of ours falls behind in the same way. The answer to our own braking tells: a queue of ours
//! drains at the rate by which less is sent than was served. One that does not, or that comes back though no more is sent than used to
//! pass, is filled by others, and would be at any rate of ours. Then delay says nothing more (as in the competitive mode of Copa, Arun and
//! Balakrishnan 2018): the rate goes back to what it was, and only loss beyond what the path loses without a queue takes it down, until the
//! queue has been empty for a while, or has been the same for so long that it is the path's own length.

mod served;

use crate::time::Instant;
use crate::units::Bitrate;
use served::{BIN, Served};
use std::time::Duration;

/// Delay above the smallest that counts as a queue.
const STANDING: Duration = Duration::from_millis(15);
/// Least time in which the smallest delay is looked for.
const PERIOD: Duration = Duration::from_millis(50);
/// Rate while a queue drains, as a share of what the peer received: after it was seen first, and where that was not enough.
const GENTLE: f64 = 0.9;
const FIRM: f64 = 0.85;
/// After what time, beyond a round trip, a queue of ours must have shrunk.
const JUDGED: Duration = Duration::from_millis(250);
/// Rate as a multiple of what used to pass: above it a queue is the answer to what we sent; and what is tried first beside others, so that
/// what waited does not leave all at once.
const PROVOKED: f64 = 0.9;
const KNOWN_PROVOKED: f64 = 0.95;
const EASE: f64 = 1.1;
/// Times that a queue may fail to shrink while less is sent firmly.
const PATIENCE: u32 = 4;
/// Times in a row that a queue may come back though no more is sent than used to pass.
const UNPROVOKED: u32 = 3;
/// A queue that has not been seen for so long is not filled by others any more.
const CLEAR: Duration = Duration::from_secs(2);
/// After others filled the queue it is soon believed of them again, for so long.
const KNOWN: Duration = Duration::from_secs(60);
/// A queue that has not changed by more than so much in such a time is no queue: the path is longer.
const STEADY: Duration = Duration::from_secs(10);
const STEADY_SPAN: Duration = Duration::from_millis(5);
/// Time over which loss beside others is judged, and the share that may be wanting.
const BESIDE: Duration = Duration::from_millis(500);
const BESIDE_WANTING: f64 = 0.06;
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
/// Where less than this arrives at best, it tells of no capacity: probes alone fill no queue, and are lost by chance.
const THIN: f64 = 4.0 * LEAST;
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
    served: Served,
    /// Smallest delay in the current period.
    least: Option<Duration>,
    period: Instant,
    /// Delay that turned out not to be a queue of ours.
    base: Duration,
    /// The rate when the last queue was seen first: growth up to there is quick.
    knee: f64,
    standing: Option<Standing>,
    brake: Option<Brake>,
    /// Brakes in a row for queues that came though less was sent than used to pass.
    unprovoked: u32,
    /// Others fill the queue: when it was last seen.
    others: Option<Instant>,
    /// When others were last found to fill it.
    others_known: Option<Instant>,
    /// Least and largest queue that others filled since some moment.
    span: (Duration, Duration, Instant),
    /// Share of transmissions lost when no queue stood: what a full queue loses is not taken for the path's.
    usual_loss: f64,
    /// The queue that was seen last, beyond `base`.
    queue: Duration,
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
    queue: Duration,
}

/// A queue is being drained.
#[derive(Clone, Copy, Debug)]
struct Brake {
    since: Instant,
    /// The queue when less began to arrive there.
    queue: Duration,
    /// What is sent, as a share of what arrived.
    share: f64,
    /// How often it has not shrunk as it should.
    failed: u32,
}

impl Capacity {
    pub(crate) fn new(now: Instant) -> Capacity {
        Capacity {
            rate: None,
            served: Served::default(),
            least: None,
            period: now,
            base: Duration::ZERO,
            knee: 0.0,
            standing: None,
            brake: None,
            unprovoked: 0,
            others: None,
            others_known: None,
            span: (Duration::ZERO, Duration::ZERO, now),
            usual_loss: 1.0,
            queue: Duration::ZERO,
            raised: now,
            felt: now,
        }
    }

    /// The bound, where there is one.
    pub(crate) fn rate(&self) -> Option<Bitrate> {
        self.rate.map(|rate| Bitrate::bps(rate as u64))
    }

    /// Whether others fill the queue before the bottleneck.
    pub(crate) fn is_contended(&self) -> bool {
        self.others.is_some()
    }

    /// The delay that everything on the way there met lately, above the smallest of the recent past.
    pub(crate) fn standing_delay(&self) -> Duration {
        self.base + self.queue
    }

    /// Takes a report into account.
    pub(crate) fn on_report(&mut self, now: Instant, sample: Sample) {
        self.served.count(now, sample.arrived);
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
        self.queue = least.saturating_sub(self.base);
        if self.queue <= STANDING {
            self.usual_loss = sample.loss;
        }
        if let Some(seen) = self.others {
            self.beside_others(now, seen, &sample);
        } else if self.queue <= STANDING {
            (self.standing, self.brake) = (None, None);
            self.speed_up(now, sample.limited);
        } else if let Some(brake) = self.brake {
            self.drain(now, brake, sample.rtt);
        } else if self.is_raising(now) || self.is_ours(now, &sample) {
            self.slow_down(now);
        }
    }

    /// Whether a bound is in force that keeps us from sending more, so that it goes up until a queue shows.
    fn is_raising(&self, now: Instant) -> bool {
        self.rate.is_some() && now - self.felt < SETTLED
    }

    /// What a queue that stands has been offered and has let through since it was first seen.
    fn standing(&mut self, now: Instant, sample: &Sample) -> Standing {
        *self.standing.get_or_insert(Standing {
            since: now,
            sent: sample.sent_in_all,
            arrived: sample.arrived_in_all,
            loss: sample.loss.min(self.usual_loss),
            queue: self.queue,
        })
    }

    /// Whether a queue that stands is there because we send more than the path carries.
    fn is_ours(&mut self, now: Instant, sample: &Sample) -> bool {
        let standing = self.standing(now, sample);
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
            self.standing = None;
            if self.others_are_known(now) {
                self.yield_no_more(now);
            } else {
                // All that is sent arrives: the path is longer than it was.
                self.base += self.queue;
            }
        }
        too_little
    }

    fn others_are_known(&self, now: Instant) -> bool {
        self.others_known.is_some_and(|known| now - known < KNOWN)
    }

    /// Whether too little arrives to tell of a capacity: a link of probes alone is so, and a path that carries no more than that.
    fn is_thin(&self) -> bool {
        self.served.best() < THIN
    }

    fn slow_down(&mut self, now: Instant) {
        if self.is_thin() {
            self.standing = None;
            return;
        }
        let known = self.others_are_known(now);
        let (share, most) = if known { (KNOWN_PROVOKED, 1) } else { (PROVOKED, UNPROVOKED) };
        let provoked = self.rate.is_none_or(|rate| rate > share * self.served.sustained());
        self.unprovoked = if provoked { 0 } else { self.unprovoked + 1 };
        if self.unprovoked >= most {
            return self.yield_no_more(now);
        }
        self.brake = Some(Brake { since: now, queue: self.queue, share: GENTLE, failed: 0 });
        self.knee = GENTLE * self.served.best();
        self.set(self.knee);
    }

    /// Watches what a queue does while less is sent than it was served.
    fn drain(&mut self, now: Instant, brake: Brake, rtt: Duration) {
        if self.is_thin() {
            self.brake = None;
            return;
        }
        let since = now - brake.since;
        if since < rtt {
            // What was sent before still arrives.
            self.brake = Some(Brake { queue: self.queue, ..brake });
            return;
        }
        let judged = since - rtt;
        if judged < JUDGED {
            return;
        }
        let due = judged.mul_f64((1.0 - brake.share) / 2.0);
        if self.queue + due <= brake.queue {
            self.brake = Some(Brake { since: now.saturating_sub(rtt), queue: self.queue, ..brake });
        } else if brake.share > FIRM {
            self.brake = Some(Brake { since: now, queue: self.queue, share: FIRM, ..brake });
            self.set(FIRM * self.served.recent());
        } else if brake.failed < PATIENCE {
            // Links like ours that share the path brake within such a time as well.
            self.brake =
                Some(Brake { since: now.saturating_sub(rtt), queue: self.queue, failed: brake.failed + 1, ..brake });
        } else {
            self.yield_no_more(now);
        }
    }

    /// Others fill the queue: takes no delay for a reason to send less.
    fn yield_no_more(&mut self, now: Instant) {
        (self.others, self.others_known) = (Some(now), Some(now));
        self.rate = (!self.is_thin()).then(|| LEAST.max(EASE * self.served.sustained()));
        (self.brake, self.standing, self.unprovoked) = (None, None, 0);
        self.span = (self.queue, self.queue, now);
    }

    /// Whether the delay has been the same for so long that it is the path's: what others fill comes and goes.
    fn is_steady(&mut self, now: Instant) -> bool {
        let (least, most, since) = &mut self.span;
        (*least, *most) = (self.queue.min(*least), self.queue.max(*most));
        let steady = now - *since > STEADY && *most - *least < STEADY_SPAN;
        if now - *since > STEADY {
            self.span = (self.queue, self.queue, now);
        }
        steady
    }

    /// Keeps to what gets through a queue that others fill.
    fn beside_others(&mut self, now: Instant, seen: Instant, sample: &Sample) {
        if self.is_steady(now) {
            self.base += self.queue;
            (self.others, self.others_known, self.standing) = (None, None, None);
            return;
        }
        if self.queue > STANDING {
            self.others = Some(now);
        } else if now - seen > CLEAR {
            if now - self.felt > CLEAR {
                self.rate = None;
            }
            (self.others, self.standing) = (None, None);
            return;
        }
        let standing = self.standing(now, sample);
        let (span, sent) = (now - standing.since, sample.sent_in_all - standing.sent);
        if span < BESIDE || sent < ENOUGH {
            return self.speed_up(now, sample.limited);
        }
        self.standing = None;
        // What a growing queue holds back is not lost.
        let held = self.queue.saturating_sub(standing.queue).div_duration_f64(span);
        let arrived = (sample.arrived_in_all - standing.arrived) as f64;
        let due = (1.0 - standing.loss) * sent as f64 * (1.0 - held);
        if arrived < (1.0 - BESIDE_WANTING) * due && !self.is_thin() {
            // It may be ours after all; what drains tells.
            self.others = None;
            self.knee = FIRM * self.served.recent();
            self.brake = Some(Brake { since: now, queue: self.queue, share: FIRM, failed: 0 });
            self.set(self.knee);
        }
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
