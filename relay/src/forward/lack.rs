//! What an egress lacks of a stream, and when to ask for it.
//!
//! A number that others have overtaken is asked for when it is [`NOTICE`] later than packets usually are, or as late as
//! leaves time for two attempts: on its own hop it is being repaired all the while. It is asked for along the two disjoint ways, and where they do
//! not bring it, twice along the targeted graphs. When nothing newer comes at all, for
//! longer than the stream usually pauses, all that is newer is asked for. A pause that ends on the way on which it began was
//! one of the stream, or of that way, and is to be expected again.

use super::window::Window;
use link::{Delivery, Instant, StreamSeq};
use node::PortId;
use std::collections::VecDeque;
use std::time::Duration;

/// Later than usual by this much is missing.
pub const NOTICE: Duration = Duration::from_millis(10);

/// What was asked for and has not come after so long is asked for again.
pub const RETRY: Duration = Duration::from_millis(45);

/// What finding and answering takes beside the way.
const ANSWER: Duration = Duration::from_millis(20);

/// Longest pause between two questions into a silence.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// A pause of the stream counts for at most this much.
const MOST_PAUSE: Duration = Duration::from_millis(60);

/// Runs of missing numbers that are kept in mind; of more, the oldest are given up.
const MOST_HOLES: usize = 256;

/// Numbers in one run; beyond it the stream has jumped.
const MOST_RUN: i32 = 4_096;

/// Runs in one question.
const MOST_ASKED: usize = 64;

/// What is missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// All that is newer than this.
    pub after: Option<StreamSeq>,
    /// Runs of numbers.
    pub missing: Vec<(StreamSeq, u16)>,
    /// Along which ways.
    pub along: Along,
}

/// Along which ways a question goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Along {
    /// The two disjoint ways.
    #[default]
    Disjoint,
    /// Those, and all of the graphs around ingress and egresses: both ways have failed to bring it.
    Targeted,
}

/// What is missing of one stream at an egress.
#[derive(Debug, Default)]
pub struct Lack {
    newest: Option<StreamSeq>,
    heard: Instant,
    /// Where the newest came from.
    from: Option<PortId>,
    ages: Extreme,
    pauses: Extreme,
    holes: VecDeque<Hole>,
    /// Questions into the present silence, and when the next is due.
    asked: u32,
    again: Instant,
    ended: bool,
}

#[derive(Clone, Copy, Debug)]
struct Hole {
    first: StreamSeq,
    count: u16,
    due: Instant,
    late: Instant,
    /// Along which ways it was last asked for.
    asked: Option<Along>,
}

/// The least age, or the longest pause, of the last one to two seconds.
#[derive(Clone, Copy, Debug, Default)]
struct Extreme {
    began: Instant,
    now: Option<Duration>,
    before: Option<Duration>,
}

impl Extreme {
    #[inline]
    fn note(&mut self, now: Instant, value: Duration, better: fn(Duration, Duration) -> Duration) {
        if now.saturating_since(self.began) > Duration::from_secs(1) {
            (self.began, self.before, self.now) = (now, self.now, None);
        }
        self.now = Some(self.now.map_or(value, |known| better(known, value)));
    }

    fn get(&self, better: fn(Duration, Duration) -> Duration) -> Option<Duration> {
        self.now.into_iter().chain(self.before).reduce(better)
    }
}

impl Ask {
    /// Whether nothing is missing.
    pub fn is_empty(&self) -> bool {
        self.after.is_none() && self.missing.is_empty()
    }
}

impl Lack {
    /// Notes the first copy of a packet. Nothing is allocated once the stream has run for a while.
    #[inline]
    pub fn note(&mut self, now: Instant, from: PortId, delivery: &Delivery, deadline: Duration) {
        let (seq, age, end) = (delivery.seq, delivery.age, delivery.flags.end);
        self.ages.note(now, age, Duration::min);
        let Some(newest) = self.newest else {
            (self.newest, self.heard, self.from, self.ended) = (Some(seq), now, Some(from), end);
            return;
        };
        let ahead = seq.distance(newest);
        // Far behind is an older life of the numbers that came to its end, or a true jump back.
        if ahead <= 0 && ahead > -MOST_RUN {
            return;
        }
        if ahead > 1 && ahead <= MOST_RUN {
            self.open_hole(now, newest.plus(1), (ahead - 1) as u16, age, deadline);
        }
        if self.asked == 0 || self.from == Some(from) {
            self.pauses.note(now, now.saturating_since(self.heard).min(MOST_PAUSE), Duration::max);
        }
        (self.newest, self.heard, self.asked, self.ended) = (Some(seq), now, 0, end);
        self.from = Some(from);
    }

    fn open_hole(&mut self, now: Instant, first: StreamSeq, count: u16, age: Duration, deadline: Duration) {
        let usual = self.ages.get(Duration::min).unwrap_or(age);
        let born = now.saturating_sub(age);
        // The second way is taken to be half as long again as the first, and 10 ms.
        let fetch = usual * 3 + NOTICE * 2 + ANSWER;
        let latest = deadline.saturating_sub(fetch + RETRY);
        let due = born + (usual + NOTICE).max(latest);
        if self.holes.len() >= MOST_HOLES {
            self.holes.pop_front();
        }
        self.holes.push_back(Hole { first, count, due: due.max(now), late: born + deadline, asked: None });
    }

    /// A question for all that is newer than the newest, though nothing is missing.
    pub fn all_newer(&self) -> Option<Ask> {
        let newest = self.newest.filter(|_| !self.ended)?;
        Some(Ask { after: Some(newest), ..Ask::default() })
    }

    /// What to ask for at `now`. `seen` says what has come, and `along` which ways are to be asked along at least: where the two
    /// have come to be not enough, what was asked for along them is asked for again at once.
    pub fn due(&mut self, now: Instant, seen: &Window, along: Along) -> Option<Ask> {
        let mut ask = Ask { along, ..Ask::default() };
        self.holes.retain_mut(|hole| {
            let hurried = along == Along::Targeted && hole.asked == Some(Along::Disjoint);
            if hole.due > now && !hurried {
                return true;
            }
            if hole.late <= now || ask.missing.len() >= MOST_ASKED {
                return hole.late > now;
            }
            let before = ask.missing.len();
            missing(hole, seen, &mut ask.missing);
            let (found, is_last) = (ask.missing.len() > before, hole.asked == Some(Along::Targeted));
            if found && hole.asked.is_some() {
                ask.along = Along::Targeted;
            }
            (hole.asked, hole.due) = (Some(if hole.asked.is_some() { Along::Targeted } else { along }), now + RETRY);
            found && !is_last
        });
        ask.missing.truncate(MOST_ASKED);
        if self.is_silent(now) {
            ask.after = self.newest;
            if self.asked > 0 {
                ask.along = Along::Targeted;
            }
            self.asked += 1;
            self.again = now + (RETRY * self.asked).min(LONGEST_PAUSE);
        }
        (!ask.is_empty()).then_some(ask)
    }

    fn is_silent(&self, now: Instant) -> bool {
        if self.newest.is_none() || self.ended {
            return false;
        }
        let pause = self.pauses.get(Duration::max).unwrap_or(MOST_PAUSE);
        let quiet = pause + pause / 4 + NOTICE;
        now.saturating_since(self.heard) > quiet && (self.asked == 0 || now >= self.again)
    }
}

/// Appends the runs of a hole that have not come.
fn missing(hole: &Hole, seen: &Window, runs: &mut Vec<(StreamSeq, u16)>) {
    let mut open = false;
    for n in 0..u32::from(hole.count) {
        let seq = hole.first.plus(n);
        if seen.contains(seq) {
            open = false;
        } else if let Some((_, count)) = runs.last_mut().filter(|_| open) {
            *count += 1;
        } else {
            runs.push((seq, 1));
            open = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use link::{Flags, Label, MediaTime, Recovery, StreamHandle};

    const DEADLINE: Duration = Duration::from_millis(200);
    const USUAL: PortId = PortId(1);

    fn note(lack: &mut Lack, now: Instant, from: PortId, seq: u32, age_ms: u64, end: bool) {
        let delivery = Delivery {
            stream: StreamHandle(1),
            seq: StreamSeq(seq),
            media_time: MediaTime(0),
            age: Duration::from_millis(age_ms),
            label: Label(0),
            flags: Flags { end, ..Flags::default() },
            payload: Bytes::new(),
            recovery: Recovery::None,
        };
        lack.note(now, from, &delivery, DEADLINE);
    }

    fn at(ms: u64) -> Instant {
        Instant::from_micros(10_000_000 + ms * 1000)
    }

    /// A packet a millisecond, 40 ms old, but for those in `lost`.
    fn run(lost: impl Fn(u32) -> bool, until: u64) -> (Lack, Window) {
        let (mut lack, mut seen) = (Lack::default(), Window::new());
        for n in (0..until as u32).filter(|n| !lost(*n)) {
            seen.insert(StreamSeq(n));
            note(&mut lack, at(u64::from(n)), USUAL, n, 40, false);
        }
        (lack, seen)
    }

    #[test]
    fn a_hole_is_asked_for_ten_milliseconds_later_and_once_more() {
        let (mut lack, mut seen) = run(|n| (50..53).contains(&n), 55);
        assert_eq!(lack.due(at(57), &seen, Along::Disjoint), None);
        let ask = lack.due(at(63), &seen, Along::Disjoint).expect("something is missing");
        assert_eq!((ask.missing, ask.along), (vec![(StreamSeq(50), 3)], Along::Disjoint));
        seen.insert(StreamSeq(51));
        for n in 55..108 {
            note(&mut lack, at(u64::from(n)), USUAL, n, 40, false);
            seen.insert(StreamSeq(n));
        }
        let ask = lack.due(at(108), &seen, Along::Disjoint).expect("some is still missing");
        assert_eq!((ask.missing, ask.after), (vec![(StreamSeq(50), 1), (StreamSeq(52), 1)], None));
        assert_eq!(ask.along, Along::Targeted, "the two ways have not brought it");
        assert_eq!(lack.due(at(109), &seen, Along::Disjoint), None);
        let last = lack.due(at(153), &seen, Along::Disjoint).expect("some is still missing");
        assert_eq!(last.missing, [(StreamSeq(50), 1), (StreamSeq(52), 1)]);
        assert!(lack.holes.is_empty(), "asked for three times");
    }

    #[test]
    fn where_two_ways_are_not_enough_what_was_asked_for_is_asked_for_again_at_once() {
        let (mut lack, seen) = run(|n| (50..53).contains(&n), 65);
        assert_eq!(lack.due(at(65), &seen, Along::Disjoint).map(|ask| ask.along), Some(Along::Disjoint));
        assert_eq!(lack.due(at(66), &seen, Along::Disjoint), None);
        let again = lack.due(at(67), &seen, Along::Targeted).expect("more ways");
        assert_eq!((again.missing, again.along), (vec![(StreamSeq(50), 3)], Along::Targeted));
        assert_eq!(lack.due(at(68), &seen, Along::Targeted), None, "once");
    }

    #[test]
    fn silence_is_asked_into_at_growing_pauses() {
        let (mut lack, seen) = run(|_| false, 100);
        assert_eq!(lack.due(at(109), &seen, Along::Disjoint), None);
        let asked = (110..2000).filter_map(|ms| Some((ms, lack.due(at(ms), &seen, Along::Disjoint)?.along)));
        let (asked, along): (Vec<u64>, Vec<Along>) = asked.unzip();
        assert_eq!(asked[..4], [111, 156, 246, 381]);
        assert_eq!(along[..3], [Along::Disjoint, Along::Targeted, Along::Targeted]);
        assert!(asked.len() < 13, "{asked:?}");
    }

    #[test]
    fn a_pause_that_ends_where_it_began_is_expected_again() {
        for (ends_on, asked_again) in [(USUAL, false), (PortId(2), true)] {
            let (mut lack, seen) = run(|_| false, 100);
            assert!(lack.due(at(129), &seen, Along::Disjoint).is_some());
            for n in 0..20 {
                note(&mut lack, at(130 + u64::from(n)), ends_on, 100 + n, 40, false);
            }
            assert_eq!(lack.due(at(149 + 30), &seen, Along::Disjoint).is_some(), asked_again);
        }
    }

    #[test]
    fn the_end_is_no_silence() {
        let (mut lack, seen) = run(|_| false, 100);
        note(&mut lack, at(100), USUAL, 100, 40, true);
        assert_eq!(lack.due(at(500), &seen, Along::Disjoint), None);
    }

    #[test]
    fn a_stream_in_bursts_is_not_taken_for_silent() {
        let (lack, seen) = (&mut Lack::default(), Window::new());
        for frame in 0..50u32 {
            for n in 0..20 {
                note(lack, at(u64::from(frame) * 40), USUAL, frame * 20 + n, 40, false);
            }
            // Until it has paused once, a pause is nothing to expect.
            if frame > 0 {
                assert_eq!(lack.due(at(u64::from(frame) * 40 + 39), &seen, Along::Disjoint), None);
            }
        }
    }

    #[test]
    fn holes_are_bounded() {
        let mut lack = Lack::default();
        for n in 0..10_000 {
            note(&mut lack, at(0), USUAL, n * 2, 0, false);
        }
        assert_eq!(lack.holes.len(), MOST_HOLES);
        let ask = lack.due(at(190), &Window::new(), Along::Disjoint).expect("much is missing");
        assert!(ask.missing.len() <= MOST_ASKED);
    }
}
