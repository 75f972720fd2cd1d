//! Round trips, the offset between the two clocks, and lateness.
//!
//! Every transmission carries its sender's clock; every report echoes the stamp of the last transmission that came and says
//! when it came. Of the four stamps, `arrived − stamp` is the way there plus the offset, and `now − sent` the way back less the
//! offset. Their smallest values over some seconds bound the offset: a way takes no negative time.
//! Stamps are 32 bits of microseconds and wrap; only differences are ever used.

use crate::time::Instant;
use std::time::Duration;

/// Longest round trip believed; a longer one is taken for a wild stamp.
const MAX_RTT: u32 = 30_000_000;
/// How long the smallest value counts at least; twice that at most.
const MIN_SPAN: Duration = Duration::from_secs(5);

/// By so many microseconds more, a way is another way.
const LONGER: i32 = 3_000;

/// What the stamps tell.
#[derive(Debug)]
pub(crate) struct Timing {
    there: WindowedMin,
    back: WindowedMin,
    /// How much longer than the quickest the last way there was that was told of.
    delay: Duration,
    rtt: Option<Rtt>,
    lateness: Lateness,
    /// This end reads late what has come: the time of reading says nothing about the path.
    behind: bool,
}

#[derive(Clone, Copy, Debug)]
struct Rtt {
    smoothed: u32,
    variation: u32,
}

impl Timing {
    pub(crate) fn new() -> Timing {
        Timing {
            there: WindowedMin::default(),
            back: WindowedMin::default(),
            delay: Duration::ZERO,
            rtt: None,
            lateness: Lateness::default(),
            behind: false,
        }
    }

    /// Takes whether this end is behind with reading what has come.
    pub(crate) fn set_behind(&mut self, behind: bool) {
        self.behind = behind;
    }

    /// A transmission stamped `sent` by the peer has arrived.
    pub(crate) fn on_arrival(&mut self, now: Instant, sent: u32) {
        if self.behind && self.back.get().is_some() {
            return;
        }
        let back = stamp(now).wrapping_sub(sent);
        let before = self.back.get();
        self.back.offer(now, back);
        if let Some(least) = self.back.get() {
            if before.is_some_and(|before| least.wrapping_sub(before) as i32 > LONGER) {
                // The quickest way is another one: what was late by the old one says nothing.
                self.lateness = Lateness::default();
            }
            self.lateness.add(back.wrapping_sub(least));
        }
    }

    /// The peer told when a transmission of ours, stamped `stamp`, reached it, in a report it sent at `sent`.
    pub(crate) fn on_echo(&mut self, now: Instant, echoed: u32, arrived: u32, sent: u32) {
        let away = stamp(now).wrapping_sub(echoed) as i32;
        let held = sent.wrapping_sub(arrived) as i32;
        let rtt = away.wrapping_sub(held);
        if held < 0 || away < 0 || rtt > MAX_RTT as i32 {
            return;
        }
        // Both clocks count whole microseconds, so the difference may fall one short of zero.
        let rtt = rtt.max(0) as u32;
        let there = arrived.wrapping_sub(echoed);
        self.there.offer(now, there);
        let least = self.there.get().unwrap_or(there);
        self.delay = Duration::from_micros((there.wrapping_sub(least) as i32).max(0) as u64);
        if self.behind && self.rtt.is_some() {
            return;
        }
        self.rtt = Some(match self.rtt {
            None => Rtt { smoothed: rtt, variation: rtt / 2 },
            // RFC 6298, section 2.
            Some(old) => Rtt {
                smoothed: ((u64::from(old.smoothed) * 7 + u64::from(rtt)) / 8) as u32,
                variation: ((u64::from(old.variation) * 3 + u64::from(old.smoothed.abs_diff(rtt))) / 4) as u32,
            },
        });
    }

    /// How much longer than the quickest the last way there was that the peer told of.
    pub(crate) fn delay_there(&self) -> Duration {
        self.delay
    }

    /// Whether a round trip has been measured.
    pub(crate) fn is_measured(&self) -> bool {
        self.rtt.is_some()
    }

    /// Smoothed round-trip time and its mean deviation; zero before the first measurement.
    pub(crate) fn rtt(&self) -> (Duration, Duration) {
        let rtt = self.rtt.unwrap_or(Rtt { smoothed: 0, variation: 0 });
        (Duration::from_micros(rtt.smoothed.into()), Duration::from_micros(rtt.variation.into()))
    }

    /// The smallest round-trip time of the recent past: the quickest way there and the quickest way back.
    pub(crate) fn rtt_min(&self) -> Duration {
        Duration::from_micros(self.rtt_min_us().into())
    }

    /// What to add to a stamp of ours to get the peer's clock. Wrong by at most half of [`Timing::rtt_min`] either way, and clock
    /// drift over some seconds.
    fn offset(&self) -> u32 {
        match (self.there.get(), self.back.get()) {
            (Some(there), _) => there.wrapping_sub(self.rtt_min_us() / 2),
            (None, Some(back)) => 0u32.wrapping_sub(back),
            (None, None) => 0,
        }
    }

    fn rtt_min_us(&self) -> u32 {
        let (Some(there), Some(back)) = (self.there.get(), self.back.get()) else { return 0 };
        (there.wrapping_add(back) as i32).max(0) as u32
    }

    /// Time passed since the moment that the peer stamped `birth`.
    pub(crate) fn age(&self, now: Instant, birth: u32) -> Duration {
        let age = stamp(now).wrapping_add(self.offset()).wrapping_sub(birth) as i32;
        Duration::from_micros(age.max(0) as u64)
    }

    /// The lateness that all but `tail` of the recent arrivals keep below.
    pub(crate) fn lateness(&self, tail: f64) -> Duration {
        self.lateness.quantile(tail)
    }
}

/// The stamp of a moment on this end's clock.
pub(crate) fn stamp(now: Instant) -> u32 {
    now.as_micros() as u32
}

/// How long ago a stamp of ours was made; zero for one that lies ahead.
pub(crate) fn stamp_age(now: Instant, made: u32) -> Duration {
    Duration::from_micros((stamp(now).wrapping_sub(made) as i32).max(0) as u64)
}

/// The smallest of the recent values of a wrapping difference.
#[derive(Debug, Default)]
struct WindowedMin {
    current: Option<u32>,
    previous: Option<u32>,
    since: Instant,
}

impl WindowedMin {
    fn offer(&mut self, now: Instant, value: u32) {
        if self.current.is_none() || now - self.since > MIN_SPAN {
            self.previous = self.current.filter(|_| now - self.since <= 2 * MIN_SPAN);
            self.current = Some(value);
            self.since = now;
        }
        self.current = self.current.map(|least| lesser(least, value));
    }

    fn get(&self) -> Option<u32> {
        match (self.current, self.previous) {
            (Some(current), Some(previous)) => Some(lesser(current, previous)),
            (current, _) => current,
        }
    }
}

fn lesser(a: u32, b: u32) -> u32 {
    if (a.wrapping_sub(b) as i32) < 0 { a } else { b }
}

/// Counts of lateness in buckets of 250 µs up to 16 ms and of 4 ms up to 256 ms, halved as they fill.
#[derive(Debug)]
pub(crate) struct Lateness {
    buckets: [u32; 128],
    total: u32,
}

impl Default for Lateness {
    fn default() -> Self {
        Lateness { buckets: [0; 128], total: 0 }
    }
}

impl Lateness {
    const FULL: u32 = 20_000;

    /// Counts one value, in microseconds.
    pub(crate) fn add(&mut self, micros: u32) {
        let bucket = if micros < 16_000 { micros / 250 } else { 64 + (micros - 16_000) / 4_000 };
        self.buckets[(bucket as usize).min(127)] += 1;
        self.total += 1;
        if self.total >= Self::FULL {
            self.total = 0;
            for bucket in &mut self.buckets {
                *bucket /= 2;
                self.total += *bucket;
            }
        }
    }

    /// Upper edge of the lowest bucket that leaves at most a share of `tail` above it; zero where the first one does.
    pub(crate) fn quantile(&self, tail: f64) -> Duration {
        let allowed = (f64::from(self.total) * tail) as u32;
        let mut above = 0;
        for bucket in (1..self.buckets.len()).rev() {
            above += self.buckets[bucket];
            if above > allowed {
                let bucket = bucket as u64;
                let edge = if bucket < 64 { (bucket + 1) * 250 } else { 16_000 + (bucket - 63) * 4_000 };
                return Duration::from_micros(edge);
            }
        }
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> Instant {
        Instant::from_micros(micros)
    }

    /// Exchanges stamps over a path of `there` and `back` microseconds with the peer's clock ahead by `offset`.
    fn exchange(timing: &mut Timing, now: u64, there: u64, back: u64, offset: u32) -> Instant {
        let echoed = now as u32;
        let arrived = (now + there) as u32;
        let sent = arrived.wrapping_add(1000);
        let end = at(now + there + 1000 + back);
        timing.on_arrival(end, sent.wrapping_add(offset));
        timing.on_echo(end, echoed, arrived.wrapping_add(offset), sent.wrapping_add(offset));
        end
    }

    #[test]
    fn measures_through_any_offset_and_wrap() {
        for offset in [0, 5, u32::MAX, 0x8000_0000, 3_600_000_000] {
            let mut timing = Timing::new();
            let start = u64::from(u32::MAX) - 100_000;
            let end = exchange(&mut timing, start, 15_000, 15_000, offset);
            assert_eq!(timing.rtt().0, Duration::from_millis(30));
            assert_eq!(timing.rtt_min(), Duration::from_millis(30));
            let birth = stamp(end).wrapping_add(offset).wrapping_sub(40_000);
            assert_eq!(timing.age(end, birth), Duration::from_millis(40));
        }
    }

    #[test]
    fn wild_stamps_do_not_measure() {
        let mut timing = Timing::new();
        timing.on_echo(at(1_000_000), 2_000_000, 0, 0);
        timing.on_echo(at(1_000_000), 0, 10, 5);
        assert!(!timing.is_measured());
        let mut late = Timing::new();
        late.on_echo(at(60_000_000), 1, 5, 5);
        assert!(!late.is_measured());
    }

    #[test]
    fn the_quickest_way_fades_after_some_seconds() {
        let mut timing = Timing::new();
        let mut now = exchange(&mut timing, 0, 5_000, 5_000, 7).as_micros();
        for _ in 0..1_500 {
            now = exchange(&mut timing, now, 20_000, 20_000, 7).as_micros();
        }
        assert_eq!(timing.rtt_min(), Duration::from_millis(40));
    }

    #[test]
    fn lateness_quantiles() {
        let mut lateness = Lateness::default();
        for late in 0..1000 {
            lateness.add(if late < 10 { 5_100 } else { 0 });
        }
        assert_eq!(lateness.quantile(0.02), Duration::ZERO);
        assert_eq!(lateness.quantile(0.001), Duration::from_micros(5_250));
    }
}
