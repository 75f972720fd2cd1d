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
/// Transmissions over which the share lost is taken.
const FAST: f64 = 50.0;
const SLOW: f64 = 2000.0;

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
    /// A run of losses too long for the slots: the transmission that showed it, and how many were lost before.
    long_run: (u64, u32),
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
    /// Its number lies before all that are remembered: whether it came before cannot be told.
    Old,
}

impl Arrivals {
    pub(crate) fn new() -> Arrivals {
        Arrivals {
            slots: VecDeque::new(),
            first: 0,
            settled: 0,
            counted: 0,
            long_run: (0, 0),
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
        let next = self.next();
        let number = seq::extend(wire.0, next);
        if number < next {
            return self.on_overtaken(now, number);
        }
        let missing = number - next;
        if missing > KEPT as u64 {
            // Whatever lies between is beyond what can be told apart: all of it is lost.
            self.settle_all(now);
            self.counters.lost += missing + self.uncounted_losses();
            for (loss, span) in [(&mut self.loss_fast, FAST), (&mut self.loss_slow, SLOW)] {
                *loss = 1.0 - (1.0 - *loss) * (1.0 - 1.0 / span).powf(missing as f64);
            }
            self.restart(number);
            self.long_run = (number, u32::try_from(missing).unwrap_or(u32::MAX));
            return Arrival::New;
        }
        if self.slots.len() + missing as usize >= 2 * KEPT {
            // Nothing waits out its guard at the price of more memory.
            self.settle_all(now);
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

    /// Settles everything that has shown, whatever its guard.
    fn settle_all(&mut self, now: Instant) {
        self.gaps.clear();
        while self.settled + 1 < self.next() {
            self.settle_one();
        }
        self.count(now);
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

    /// What was counted. What was counted as lost and comes all the same counts as both.
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
        if number == self.long_run.0 && runs.len() < most {
            runs.push(self.long_run.1);
        }
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
        let depth = self.next() - 1 - number;
        let Some(place) = number.checked_sub(self.first).and_then(|place| usize::try_from(place).ok()) else {
            return Arrival::Old;
        };
        match self.slots.get(place).copied() {
            Some(Slot::Missing(since)) => {
                self.slots[place] = Slot::Arrived;
                self.overtaken.add((now - since).as_micros().min(1_000_000) as u32 + 250);
                self.reordering = self.reordering.max(depth as u32);
                self.counters.received += 1;
                self.settle(now);
                Arrival::New
            }
            _ => Arrival::Duplicate,
        }
    }

    /// The next transmission beyond those that have shown.
    fn next(&self) -> u64 {
        self.first + self.slots.len() as u64
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
        self.loss_fast += (value - self.loss_fast) / FAST;
        self.loss_slow += (value - self.loss_slow) / SLOW;
        lost
    }

    fn count(&mut self, now: Instant) {
        let next = self.next();
        while self.counted <= self.settled {
            match self.slot(self.counted) {
                // It may still come, as long as it is remembered.
                Some(Slot::Missing(since)) if now - since < NEVER && next - self.counted <= KEPT as u64 => break,
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
        self.reordering -= self.reordering.div_ceil(8);
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

    /// `count` transmissions from `from` on, each millisecond one.
    fn arrive(arrivals: &mut Arrivals, from: u32, count: u32) {
        for number in from..from + count {
            arrivals.on_arrival(at(number.into()), LinkSeq(number));
        }
    }

    #[test]
    fn what_is_late_is_no_loss_however_much_came_before() {
        let mut arrivals = Arrivals::new();
        arrive(&mut arrivals, 0, 3000);
        arrive(&mut arrivals, 3001, 299);
        assert_eq!(arrivals.counters(), Counters { received: 3299, lost: 0 });
        assert_eq!(arrivals.on_arrival(at(3299), LinkSeq(3000)), Arrival::New);
        assert_eq!(arrivals.counters(), Counters { received: 3300, lost: 0 });
        arrive(&mut arrivals, 3301, 301);
        assert_eq!(arrivals.counters().lost, 1);
        assert_eq!(arrivals.on_arrival(at(3602), LinkSeq(3300)), Arrival::New);
        assert_eq!(arrivals.counters().lost, 1, "no counter goes down");
    }

    #[test]
    fn what_is_forgotten_is_counted_though_it_may_be_late() {
        let mut arrivals = Arrivals::new();
        for number in (0..4 * KEPT as u32).filter(|number| number % 4 != 3) {
            arrivals.on_arrival(at(1), LinkSeq(number));
            assert!(arrivals.slots.len() <= KEPT + 1);
        }
        let Counters { received, lost } = arrivals.counters();
        assert_eq!(received, 3 * KEPT as u64);
        assert!((lost as usize).abs_diff(3 * KEPT / 4) <= 1, "{lost}");
    }

    #[test]
    fn a_run_of_losses_beyond_the_table_is_learnt_and_told() {
        for beyond in [1, 5000] {
            let missing = KEPT as u32 + beyond;
            let mut arrivals = Arrivals::new();
            arrive(&mut arrivals, 0, 100);
            arrive(&mut arrivals, 100 + missing, 3);
            let (fast, slow) = arrivals.loss();
            let expected = 1.0 - (1.0 - 1.0 / SLOW).powi(missing as i32);
            assert!(fast > 0.9, "{fast} of {missing}");
            assert!((slow - expected).abs() < 0.005, "{slow} of {missing}, {expected} expected");
            for _ in 0..TOLD {
                assert_eq!(told(&mut arrivals)[..2], [3, missing]);
            }
            assert_eq!(told(&mut arrivals), [0]);
        }
    }

    #[test]
    fn what_waits_out_its_guard_is_bounded() {
        let mut arrivals = Arrivals::new();
        arrivals.guard = MAX_GUARD;
        for number in (0..100_000).step_by(2) {
            arrivals.on_arrival(at(1), LinkSeq(number));
            assert!(arrivals.slots.len() <= 2 * KEPT + 2, "{}", arrivals.slots.len());
            assert!(arrivals.gaps.len() <= 2 * KEPT + 2, "{}", arrivals.gaps.len());
        }
        assert!(arrivals.loss().1 > 0.45, "{:?}", arrivals.loss());
    }

    #[test]
    fn what_lies_before_all_that_is_remembered_is_old_and_measured_nowhere() {
        let mut arrivals = Arrivals::new();
        arrive(&mut arrivals, 5000, 2 * KEPT as u32);
        let (counters, reordering) = (arrivals.counters(), arrivals.reordering());
        for number in [4999, 5000, 5000 + KEPT as u32 - 1] {
            assert_eq!(arrivals.on_arrival(at(1), LinkSeq(number)), Arrival::Old);
        }
        assert_eq!(arrivals.on_arrival(at(1), LinkSeq(5000 + KEPT as u32)), Arrival::Duplicate);
        assert_eq!((arrivals.counters(), arrivals.reordering()), (counters, reordering));
    }

    #[test]
    fn reordering_that_is_over_is_forgotten() {
        let mut arrivals = Arrivals::new();
        arrive(&mut arrivals, 0, 10);
        arrive(&mut arrivals, 11, 7);
        arrivals.on_arrival(at(18), LinkSeq(10));
        assert_eq!(arrivals.reordering(), 7);
        arrive(&mut arrivals, 18, 5000);
        assert_eq!(arrivals.reordering(), 0);
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
                prop_assert_ne!(arrivals.on_arrival(at(tick as u64), LinkSeq(number)), Arrival::New);
                arrivals.tell(&mut runs, 16);
                prop_assert!(runs.len() <= 16);
                prop_assert!(arrivals.slots.len() <= 2 * KEPT + 2);
            }
        }
    }
}
