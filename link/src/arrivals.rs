//! Which transmissions of the peer arrived: gaps, reordering and loss.

use crate::ids::LinkSeq;
use crate::seq;
use crate::time::Instant;
use crate::timing::Lateness;
use std::collections::VecDeque;
use std::time::Duration;

/// Transmissions remembered.
const KEPT: usize = 1024;
/// How long a transmission may be late and still not count as lost.
const NEVER: Duration = Duration::from_millis(300);
/// Longest a gap waits before it counts as loss.
const MAX_GUARD: Duration = Duration::from_millis(20);
/// How many reports tell of the same transmission, so that losing some of them loses nothing.
const TOLD: usize = 6;

/// The transmissions of one direction, as they arrive.
///
/// A transmission that overtook others shows a gap. It becomes a loss when the *reorder guard* has passed: the span within
/// which all but a small share of those overtaken still come.
#[derive(Debug)]
pub(crate) struct Arrivals {
    /// State of the transmissions from `first` on.
    slots: VecDeque<Slot>,
    first: u64,
    /// Everything up to this one has arrived or is a loss.
    settled: u64,
    /// Everything before this one is in the counters.
    counted: u64,
    gaps: VecDeque<Gap>,
    told: VecDeque<u64>,
    overtaken: Lateness,
    guard: Duration,
    until_guard: u32,
    loss_fast: f64,
    loss_slow: f64,
    reordering: u32,
    counters: Counters,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    pub(crate) received: u64,
    pub(crate) lost: u64,
}

#[derive(Clone, Copy, Debug)]
enum Slot {
    Arrived,
    /// Known to be missing since then.
    Missing(Instant),
}

#[derive(Clone, Copy, Debug)]
struct Gap {
    /// The transmission that showed it.
    before: u64,
    settles: Instant,
}

/// What an arrival was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// The first of this number.
    New,
    /// Its number came before.
    Duplicate,
}

impl Arrivals {
    pub(crate) fn new() -> Arrivals {
        Arrivals {
            slots: VecDeque::new(),
            first: 0,
            settled: 0,
            counted: 0,
            gaps: VecDeque::new(),
            told: VecDeque::new(),
            overtaken: Lateness::default(),
            guard: Duration::ZERO,
            until_guard: 64,
            loss_fast: 0.0,
            loss_slow: 0.0,
            reordering: 0,
            counters: Counters::default(),
        }
    }

    /// Notes the arrival of a transmission.
    pub(crate) fn on_arrival(&mut self, now: Instant, wire: LinkSeq) -> Arrival {
        if self.slots.is_empty() {
            self.restart(seq::first(wire.0));
            return Arrival::New;
        }
        let next = self.first + self.slots.len() as u64;
        let number = seq::extend(wire.0, next);
        if number < next {
            return self.on_overtaken(now, number);
        }
        let missing = number - next;
        if missing > KEPT as u64 {
            // Whatever lies between is beyond what can be told apart: all of it is lost.
            self.counters.lost += missing + self.uncounted_losses();
            self.restart(number);
            return Arrival::New;
        }
        for _ in 0..missing {
            self.slots.push_back(Slot::Missing(now));
        }
        self.slots.push_back(Slot::Arrived);
        self.counters.received += 1;
        if missing > 0 {
            self.gaps.push_back(Gap { before: number, settles: now + self.guard });
        }
        self.overtaken.add(0);
        self.settle(now);
        Arrival::New
    }

    /// Moves on to what counts as settled at `now`. Returns whether gaps were found to be losses.
    pub(crate) fn settle(&mut self, now: Instant) -> bool {
        let mut found = false;
        while let Some(gap) = self.gaps.front().filter(|gap| gap.settles <= now).copied() {
            self.gaps.pop_front();
            while self.settled + 1 < gap.before {
                found |= self.settle_one();
            }
        }
        while let Some(Slot::Arrived) = self.slot(self.settled + 1) {
            self.settle_one();
        }
        self.count(now);
        self.update_guard();
        found
    }

    /// When the next gap will count as loss.
    pub(crate) fn next_settling(&self) -> Option<Instant> {
        self.gaps.front().map(|gap| gap.settles)
    }

    /// How long a gap waits before it counts as loss.
    pub(crate) fn guard(&self) -> Duration {
        self.guard
    }

    /// Share of transmissions lost: over about the last 50, and over about the last 2000.
    pub(crate) fn loss(&self) -> (f64, f64) {
        (self.loss_fast, self.loss_slow)
    }

    /// Deepest reordering of late.
    pub(crate) fn reordering(&self) -> u32 {
        self.reordering
    }

    /// What was counted.
    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }

    /// The highest settled transmission, `None` before the first arrival.
    pub(crate) fn settled(&self) -> Option<LinkSeq> {
        (!self.slots.is_empty()).then_some(LinkSeq(self.settled as u32))
    }

    /// Writes the lengths of runs of transmissions, arrived and lost by turns, from the settled one down, as far as the
    /// last few reports did not tell them.
    pub(crate) fn tell(&mut self, runs: &mut Vec<u32>, most: usize) {
        runs.clear();
        if self.slots.is_empty() {
            return;
        }
        let until = if self.told.len() < TOLD { self.first } else { self.told[0] }.max(self.first);
        let (mut arrived, mut length) = (true, 0u32);
        let mut number = self.settled + 1;
        while number > until {
            number -= 1;
            let is = matches!(self.slot(number), Some(Slot::Arrived));
            if is == arrived {
                length += 1;
                continue;
            }
            if runs.len() + 1 >= most {
                break;
            }
            runs.push(length);
            (arrived, length) = (is, 1);
        }
        runs.push(length);
        if self.told.len() == TOLD {
            self.told.pop_front();
        }
        self.told.push_back(self.settled + 1);
    }

    fn restart(&mut self, number: u64) {
        self.slots.clear();
        self.gaps.clear();
        self.told.clear();
        self.slots.push_back(Slot::Arrived);
        self.first = number;
        self.settled = number;
        self.counted = number + 1;
        self.counters.received += 1;
    }

    fn on_overtaken(&mut self, now: Instant, number: u64) -> Arrival {
        let depth = self.first + self.slots.len() as u64 - 1 - number;
        let Some(place) = number.checked_sub(self.first).and_then(|place| usize::try_from(place).ok()) else {
            return Arrival::Duplicate;
        };
        match self.slots.get(place).copied() {
            Some(Slot::Missing(since)) => {
                self.slots[place] = Slot::Arrived;
                self.overtaken.add((now - since).as_micros().min(1_000_000) as u32 + 250);
                self.reordering = self.reordering.max(depth as u32);
                self.counters.received += 1;
                if number < self.counted {
                    self.counters.lost = self.counters.lost.saturating_sub(1);
                }
                self.settle(now);
                Arrival::New
            }
            _ => Arrival::Duplicate,
        }
    }

    fn slot(&self, number: u64) -> Option<Slot> {
        let place = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.slots.get(place).copied()
    }

    /// Settles the next transmission; returns whether it is a loss.
    fn settle_one(&mut self) -> bool {
        self.settled += 1;
        let lost = matches!(self.slot(self.settled), Some(Slot::Missing(_)));
        let value = f64::from(u8::from(lost));
        self.loss_fast += (value - self.loss_fast) / 50.0;
        self.loss_slow += (value - self.loss_slow) / 2000.0;
        lost
    }

    fn count(&mut self, now: Instant) {
        while self.counted <= self.settled {
            match self.slot(self.counted) {
                Some(Slot::Missing(since)) if now - since < NEVER && self.slots.len() <= KEPT => break,
                Some(Slot::Missing(_)) => self.counters.lost += 1,
                Some(Slot::Arrived) | None => {}
            }
            self.counted += 1;
        }
        while self.slots.len() > KEPT && self.first < self.counted {
            self.slots.pop_front();
            self.first += 1;
        }
    }

    fn uncounted_losses(&self) -> u64 {
        let from = self.counted.saturating_sub(self.first) as usize;
        self.slots.iter().skip(from).filter(|slot| matches!(slot, Slot::Missing(_))).count() as u64
    }

    fn update_guard(&mut self) {
        self.until_guard = self.until_guard.saturating_sub(1);
        if self.until_guard > 0 {
            return;
        }
        self.until_guard = 256;
        self.reordering -= self.reordering / 8;
        // A false alarm costs a copy; so few that they weigh little beside the true ones.
        let tail = (0.075 * self.loss_slow).max(0.001);
        self.guard = self.overtaken.quantile(tail).min(MAX_GUARD);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(millis: u64) -> Instant {
        Instant::from_micros(millis * 1000)
    }

    fn told(arrivals: &mut Arrivals) -> Vec<u32> {
        let mut runs = Vec::new();
        arrivals.tell(&mut runs, 16);
        runs
    }

    #[test]
    fn a_gap_is_told_at_once_where_nothing_is_reordered() {
        let mut arrivals = Arrivals::new();
        for number in [u32::MAX - 1, u32::MAX, 2, 3] {
            arrivals.on_arrival(at(1), LinkSeq(number));
        }
        assert_eq!(arrivals.settled(), Some(LinkSeq(3)));
        assert_eq!(told(&mut arrivals), [2, 2, 2]);
        assert_eq!(arrivals.counters().lost, 0);
        arrivals.settle(at(400));
        assert_eq!(arrivals.counters().lost, 2);
        assert_eq!(arrivals.counters().received, 4);
    }

    #[test]
    fn the_guard_learns_from_reordering() {
        let mut arrivals = Arrivals::new();
        for pair in 0..500u32 {
            let now = at(u64::from(pair) * 10);
            arrivals.on_arrival(now, LinkSeq(pair * 2 + 1));
            arrivals.on_arrival(now + Duration::from_millis(3), LinkSeq(pair * 2));
        }
        assert!(arrivals.guard() >= Duration::from_millis(3), "{:?}", arrivals.guard());
        assert!(arrivals.guard() <= Duration::from_millis(4), "{:?}", arrivals.guard());
        let now = at(10_000);
        arrivals.on_arrival(now, LinkSeq(1001));
        assert_eq!(arrivals.settled(), Some(LinkSeq(999)));
        assert_eq!(arrivals.next_settling(), Some(now + arrivals.guard()));
        assert!(arrivals.settle(now + arrivals.guard()));
        assert_eq!(arrivals.settled(), Some(LinkSeq(1001)));
    }

    proptest! {
        /// Whatever arrives, nothing panics, memory stays bounded and each number is new once.
        #[test]
        fn survives_any_numbers(numbers in proptest::collection::vec(any::<u32>(), 1..200), near: bool) {
            let mut arrivals = Arrivals::new();
            let mut runs = Vec::new();
            for (tick, number) in numbers.iter().enumerate() {
                let number = if near { number % 300 } else { *number };
                arrivals.on_arrival(at(tick as u64), LinkSeq(number));
                prop_assert_eq!(arrivals.on_arrival(at(tick as u64), LinkSeq(number)), Arrival::Duplicate);
                arrivals.tell(&mut runs, 16);
                prop_assert!(runs.len() <= 16);
                prop_assert!(arrivals.slots.len() <= 2 * KEPT + 2);
            }
        }
    }
}
