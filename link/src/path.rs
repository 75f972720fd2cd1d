//! What becomes of our transmissions, as the peer reports it: loss, bursts, and how losses keep company.

use crate::time::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// Transmissions in the air that are remembered.
const MAX_FLIGHT: usize = 1 << 14;
/// Share lost from which a path counts as lossy.
const LOSSY: f64 = 0.001;
/// Transmissions after which a path on which nothing was lost counts as clean: of a hundredth, in bursts of three, something would have been lost
/// with a chance of three in four.
const ENOUGH_TO_TELL: f64 = 400.0;
/// Distances at which losses are compared, in milliseconds.
const DISTANCES: [usize; 14] = [1, 2, 3, 4, 6, 8, 10, 14, 20, 28, 40, 56, 80, 110];
/// Milliseconds remembered; more than the longest distance.
const HISTORY: usize = 128;

/// Our transmissions and their fate.
#[derive(Debug)]
pub(crate) struct Path {
    /// Each transmission from `first` on.
    flight: VecDeque<Transmission>,
    first: u64,
    next: u64,
    loss_fast: Mean,
    loss: Mean,
    /// As `loss`, without a guess to begin with.
    seen: Mean,
    /// Share of losses among transmissions right after a lost one.
    after_loss: Mean,
    last: Option<bool>,
    company: Company,
}

/// A transmission whose fate is not known.
#[derive(Clone, Copy, Debug)]
struct Transmission {
    at: Instant,
    /// Its size; 0 until it is written.
    bytes: u32,
}

/// What a report had to tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct News {
    /// Transmissions that are news to have arrived.
    pub(crate) arrived: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
}

impl Path {
    /// No transmission yet; the first will have the number `first`.
    pub(crate) fn new(first: u64) -> Path {
        Path {
            flight: VecDeque::new(),
            first,
            next: first,
            loss_fast: Mean::new(50.0, 0.0, 50.0),
            loss: Mean::new(4000.0, 0.05, 100.0),
            seen: Mean::new(4000.0, 0.0, 0.0),
            after_loss: Mean::new(2000.0, 0.6, 20.0),
            last: None,
            company: Company::new(),
        }
    }

    /// Notes a transmission that leaves now; returns its number.
    pub(crate) fn on_sent(&mut self, now: Instant) -> u64 {
        if self.flight.len() == MAX_FLIGHT {
            self.flight.pop_front();
            self.first += 1;
        }
        self.flight.push_back(Transmission { at: now, bytes: 0 });
        self.next += 1;
        self.next - 1
    }

    /// Notes the size of the transmission that was numbered last, unless it is known.
    pub(crate) fn on_written(&mut self, bytes: usize) {
        if let Some(last) = self.flight.back_mut().filter(|last| last.bytes == 0) {
            last.bytes = bytes as u32;
        }
    }

    #[cfg(test)]
    pub(crate) fn in_flight(&self) -> usize {
        self.flight.len()
    }

    /// When a transmission left of which nothing has been reported yet.
    pub(crate) fn sent_at(&self, number: u64) -> Option<Instant> {
        let place = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.flight.get(place).map(|sent| sent.at)
    }

    /// Number of the next transmission.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Takes a report: from `settled` down, runs of transmissions that arrived and that were lost by turns. Returns what
    /// is news to have arrived.
    pub(crate) fn on_report(&mut self, settled: u64, runs: impl Iterator<Item = u32>) -> News {
        let mut news = News::default();
        if settled < self.first || settled >= self.next {
            return news;
        }
        let mut spans = [(0u64, 0u64, false); crate::frame::MAX_RUNS];
        let mut count = 0;
        let (mut above, mut arrived) = (settled + 1, true);
        for (span, length) in spans.iter_mut().zip(runs) {
            let from = above.saturating_sub(length.into()).max(self.first);
            *span = (from, above, arrived);
            count += 1;
            if from == self.first {
                break;
            }
            (above, arrived) = (from, !arrived);
        }
        if count > 0 && spans[count - 1].0 > self.first {
            // What lies before was told by reports that were lost.
            self.last = None;
        }
        for (from, to, arrived) in spans[..count].iter().rev() {
            for number in *from..*to {
                let Some(sent) = self.flight.get((number - self.first) as usize).copied() else { continue };
                self.settle(sent.at, !arrived);
                if *arrived {
                    news.arrived += 1;
                    news.bytes += u64::from(sent.bytes);
                }
            }
        }
        let done = (settled + 1 - self.first) as usize;
        self.flight.drain(..done.min(self.flight.len()));
        self.first = settled + 1;
        news
    }

    /// Share of transmissions lost, over about the last 50.
    pub(crate) fn loss_fast(&self) -> f64 {
        self.loss_fast.value
    }

    /// Share of transmissions lost, over some thousands.
    pub(crate) fn loss(&self) -> f64 {
        self.loss.value
    }

    /// The same for planning: rounded up by one standard error of what was seen, which bursts make larger.
    pub(crate) fn loss_planned(&self) -> f64 {
        let loss = self.loss.value;
        let burst = self.burst();
        (loss + (loss * 2.0 * burst / self.loss.weight).sqrt()).clamp(1e-4, 0.9)
    }

    /// Whether next to nothing is lost, as far as enough has been seen to tell.
    pub(crate) fn is_clean(&self) -> bool {
        self.seen.weight >= ENOUGH_TO_TELL && self.seen.value <= LOSSY
    }

    /// Share lost among transmissions right after a lost one.
    pub(crate) fn after_loss(&self) -> f64 {
        self.after_loss.value.max(self.loss.value)
    }

    /// Mean length of a run of losses.
    pub(crate) fn burst(&self) -> f64 {
        1.0 / (1.0 - self.after_loss.value.min(0.99))
    }

    /// Share lost among transmissions sent `distance` after a lost one, as the step of a chain: never so high that a run of
    /// losses at this distance would last longer than bursts do. (Bursts of one length, say, are over all at once,
    /// where the chain has a tail without end.)
    pub(crate) fn after_loss_at(&self, distance: Duration) -> f64 {
        let millis = distance.as_secs_f64() * 1e3;
        let loss = self.loss_planned();
        if millis < 0.5 {
            return self.after_loss();
        }
        let here = self.company.at(millis, loss, self.after_loss());
        let burst = self.company.spacing(loss).as_secs_f64() * 1e3;
        if millis >= burst {
            return here;
        }
        let end = self.company.at(burst, loss, self.after_loss());
        here.min(end.powf(millis / burst)).max(loss)
    }

    /// Smallest distance at which a transmission hardly suffers from the loss of another.
    pub(crate) fn spacing(&self) -> Duration {
        self.company.spacing(self.loss_planned())
    }

    fn settle(&mut self, at: Instant, lost: bool) {
        let value = f64::from(u8::from(lost));
        self.loss_fast.add(value);
        self.loss.add(value);
        self.seen.add(value);
        if self.last == Some(true) {
            self.after_loss.add(value);
        }
        self.last = Some(lost);
        self.company.add(at, lost);
    }
}

/// A mean over about the last `span` values, beginning from a guess.
#[derive(Clone, Copy, Debug)]
struct Mean {
    value: f64,
    weight: f64,
    span: f64,
}

impl Mean {
    /// `guess` counts as so many values.
    fn new(span: f64, guess: f64, weight: f64) -> Mean {
        Mean { value: guess, weight, span }
    }

    fn add(&mut self, value: f64) {
        self.weight = (self.weight + 1.0).min(self.span);
        self.value += (value - self.value) / self.weight;
    }
}

/// How often a transmission is lost so many milliseconds after a lost one.
#[derive(Debug)]
struct Company {
    millis: [Tally; HISTORY],
    current: u64,
    /// Losses within the history, to pass over quiet times quickly.
    last_loss: u64,
    seen: [Pairs; DISTANCES.len()],
}

#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    lost: u16,
    total: u16,
}

#[derive(Clone, Copy, Debug, Default)]
struct Pairs {
    lost: f64,
    total: f64,
}

impl Company {
    /// Pairs that must have been seen at a distance before it is believed.
    const ENOUGH: f64 = 60.0;
    /// Pairs remembered at a distance.
    const SPAN: f64 = 6000.0;

    fn new() -> Company {
        Company {
            millis: [Tally::default(); HISTORY],
            current: 0,
            last_loss: 0,
            seen: [Pairs::default(); DISTANCES.len()],
        }
    }

    fn add(&mut self, at: Instant, lost: bool) {
        let milli = at.as_micros() / 1000;
        if milli > self.current {
            self.close();
            let from = (self.current + 1).max(milli.saturating_sub(HISTORY as u64 - 1));
            for milli in from..=milli {
                self.millis[milli as usize % HISTORY] = Tally::default();
            }
            self.current = milli;
        }
        let tally = &mut self.millis[self.current as usize % HISTORY];
        tally.total = tally.total.saturating_add(1);
        if lost {
            tally.lost = tally.lost.saturating_add(1);
            self.last_loss = self.current;
        }
    }

    fn close(&mut self) {
        let closed = self.millis[self.current as usize % HISTORY];
        if closed.total == 0 || self.current > self.last_loss + HISTORY as u64 {
            return;
        }
        for (distance, pairs) in DISTANCES.iter().zip(&mut self.seen) {
            let Some(earlier) = self.current.checked_sub(*distance as u64) else { continue };
            let earlier = self.millis[earlier as usize % HISTORY];
            if earlier.lost == 0 {
                continue;
            }
            pairs.total += f64::from(earlier.lost) * f64::from(closed.total);
            pairs.lost += f64::from(earlier.lost) * f64::from(closed.lost);
            if pairs.total > Self::SPAN {
                pairs.total /= 2.0;
                pairs.lost /= 2.0;
            }
        }
    }

    fn spacing(&self, loss: f64) -> Duration {
        for (distance, pairs) in DISTANCES.iter().zip(&self.seen) {
            if pairs.total >= Self::ENOUGH && pairs.lost <= pairs.total * (1.5 * loss).max(0.01) {
                return Duration::from_millis(*distance as u64);
            }
        }
        let seen_any = self.seen.iter().any(|pairs| pairs.total >= Self::ENOUGH);
        Duration::from_millis(if seen_any { DISTANCES[DISTANCES.len() - 1] as u64 } else { 8 })
    }

    /// Share lost `millis` after a loss, between the distances seen; `near` right after it, `far` where nothing was seen.
    fn at(&self, millis: f64, far: f64, near: f64) -> f64 {
        let mut before = (0.0, near);
        for (distance, pairs) in DISTANCES.iter().zip(&self.seen) {
            if pairs.total < Self::ENOUGH {
                continue;
            }
            let here = (*distance as f64, (pairs.lost / pairs.total).max(far));
            if here.0 >= millis {
                let share = (millis - before.0) / (here.0 - before.0);
                return before.1 + share * (here.1 - before.1);
            }
            before = here;
        }
        // Nothing known: as if a burst were over in 8 ms.
        if before.0 > 0.0 { before.1 } else { near + (far - near) * (millis / 8.0).min(1.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    /// Sends `count` transmissions a millisecond apart through a chain and reports each.
    fn gilbert(count: u64, loss: f64, after_loss: f64) -> Path {
        let mut path = Path::new(7);
        let mut random = StdRng::seed_from_u64(5);
        let after_arrival = loss * (1.0 - after_loss) / (1.0 - loss);
        let mut lost = false;
        let mut fates = Vec::new();
        for number in 0..count {
            let sent = path.on_sent(Instant::from_micros(number * 1000));
            lost = random.random_bool(if lost { after_loss } else { after_arrival });
            fates.push(lost);
            if number % 10 == 9 && !lost {
                let mut runs = Vec::new();
                let mut arrived = true;
                let mut length = 0;
                for fate in fates.iter().rev().take(60) {
                    if *fate == arrived {
                        runs.push(length);
                        (arrived, length) = (!arrived, 0);
                    }
                    length += 1;
                }
                runs.push(length);
                path.on_report(sent, runs.into_iter());
            }
        }
        path
    }

    #[test]
    fn measures_a_gilbert_path() {
        let path = gilbert(40_000, 0.05, 0.66);
        assert!((0.035..0.065).contains(&path.loss()), "{}", path.loss());
        assert!((0.58..0.74).contains(&path.after_loss()), "{}", path.after_loss());
        let spacing = path.spacing();
        assert!((Duration::from_millis(6)..Duration::from_millis(15)).contains(&spacing), "{spacing:?}");
        assert!(path.after_loss_at(Duration::from_millis(2)) > 0.3);
        assert!(path.after_loss_at(Duration::from_millis(20)) < 0.1);
    }

    #[test]
    fn absurd_reports_change_nothing() {
        let mut path = gilbert(100, 0.01, 0.5);
        let next = path.next();
        path.on_report(next, [5, u32::MAX].into_iter());
        path.on_report(next + (1 << 40), [u32::MAX].into_iter());
        path.on_report(0, [1].into_iter());
        path.on_report(next - 1, std::iter::repeat(u32::MAX));
        assert_eq!(path.next(), next);
    }
}
