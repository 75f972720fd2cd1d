//! How the transport stream in a stream is at this relay, by the checks of ETSI TR 101 290.
//!
//! Packets pass a relay in any order, and nobody waits. So they are looked at afterwards, where they are kept: in the order of
//! their numbers, when whatever comes before them and in time must have come, off the way of the packets, and at most so many in one turn. Time
//! is that of a packet's birth at its source, for that is by what sinks release it: what the network does to the intervals is no fault of the stream.

use super::history::History;
use super::window::WINDOW;
use link::{Instant, Label, StreamSeq};
use node::ts::{TsHealth, TsMeter};
use std::collections::VecDeque;
use std::time::Duration;

/// How far ages may be wrong.
const ERROR: Duration = Duration::from_millis(20);

/// Of a stream with a longer deadline, what comes later than this is not waited for: it would not be kept much longer either.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where longer than this is missing over a change of graph, this relay was not on the way of what is missing: no label is in force for so short a time.
const OFF_THE_WAY: Duration = Duration::from_millis(250);

/// The transport stream in one stream.
#[derive(Debug, Default)]
pub struct Health {
    meter: TsMeter,
    /// What is kept and has not been looked at, in the order of numbers. No more than is kept.
    waiting: VecDeque<Waiting>,
    /// The place in the history of what is taken up next.
    next: u64,
    last: Option<Looked>,
    /// What was before the next packet was not looked at.
    skipped: bool,
    unlooked: u64,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    seq: StreamSeq,
    place: u64,
    born: Instant,
}

/// What was looked at last.
#[derive(Clone, Copy, Debug)]
struct Looked {
    seq: StreamSeq,
    born: Instant,
    label: Label,
}

impl Health {
    /// Looks at what is due at `now`, at most at `room` packets, which it takes off. `is_ours` says of a label whether its graph leads here:
    /// what comes otherwise is a part of the stream only, and is not judged.
    pub fn look(
        &mut self,
        now: Instant,
        history: &History,
        deadline: Duration,
        room: &mut usize,
        mut is_ours: impl FnMut(Label) -> bool,
    ) {
        self.take_up(history);
        let mut known: Option<(Label, bool)> = None;
        let lag = deadline.min(PATIENCE) + ERROR;
        while *room > 0
            && let Some(next) = self.waiting.front().filter(|next| next.born + lag <= now).copied()
        {
            self.waiting.pop_front();
            let Some(kept) = history.at(next.place) else {
                self.pass_over(1);
                continue;
            };
            let label = kept.label;
            let (_, ours) = *known.filter(|(of, _)| *of == label).get_or_insert_with(|| (label, is_ours(label)));
            known = Some((label, ours));
            *room -= 1;
            if !ours {
                self.pass_over(1);
                continue;
            }
            self.feed(Looked { seq: next.seq, born: next.born, label }, kept.payload());
        }
    }

    /// What has been found, and how many packets were not looked at.
    pub fn found(&self) -> (TsHealth, u64) {
        (self.meter.health(), self.unlooked)
    }

    fn feed(&mut self, mut looked: Looked, payload: &[u8]) {
        if let Some(last) = self.last {
            let span = looked.born.saturating_since(last.born);
            let is_gap = looked.seq.distance(last.seq) > 1;
            self.skipped |= is_gap && looked.label != last.label && span > OFF_THE_WAY;
            // Ages are estimates: two of them may be the wrong way round.
            looked.born = looked.born.max(last.born);
        }
        if std::mem::take(&mut self.skipped) {
            self.meter.skip(looked.born);
        }
        self.meter.feed(looked.born, payload);
        self.last = Some(looked);
    }

    fn pass_over(&mut self, count: u64) {
        self.unlooked += count;
        self.skipped |= count > 0;
    }

    /// Puts what has come since the last time where it belongs.
    fn take_up(&mut self, history: &History) {
        let places = history.places();
        self.pass_over(places.start.saturating_sub(self.next));
        for place in self.next.max(places.start)..places.end {
            let Some(kept) = history.at(place) else { continue };
            let (seq, born) = (kept.seq, kept.born);
            let newest = self.waiting.back().map(|waiting| waiting.seq).or(self.last.map(|last| last.seq));
            if newest.is_some_and(|newest| seq.distance(newest).unsigned_abs() > WINDOW) {
                // The stream goes on elsewhere in its numbers.
                self.unlooked += self.waiting.len() as u64;
                self.skipped = true;
                self.waiting.clear();
                self.last = None;
            }
            if self.last.is_some_and(|last| seq.distance(last.seq) <= 0) {
                self.unlooked += 1;
                continue;
            }
            let after = |waiting: &Waiting| waiting.seq.distance(seq) < 0;
            let at = self.waiting.iter().rposition(after).map_or(0, |before| before + 1);
            self.waiting.insert(at, Waiting { seq, place, born });
        }
        self.next = places.end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use link::{Delivery, Flags, MediaTime, Recovery, StreamHandle};
    use node::PortId;
    use node::ts::testing::packet;

    const DEADLINE: Duration = Duration::from_millis(200);

    fn at(ms: u64) -> Instant {
        Instant::from_micros(5_000_000 + ms * 1000)
    }

    /// A stream of a packet each 10 ms, and what is found of it.
    struct Stage {
        history: History,
        health: Health,
        room: usize,
    }

    impl Stage {
        fn new(most: usize) -> Stage {
            Stage { history: History::new(most), health: Health::default(), room: usize::MAX }
        }

        /// The packet `n` comes `late` ms after its birth, on a graph.
        fn come(&mut self, n: u32, late: u64, label: u32) {
            let delivery = Delivery {
                stream: StreamHandle(1),
                seq: StreamSeq(n.wrapping_sub(3)),
                media_time: MediaTime(0),
                age: Duration::from_millis(late),
                label: Label(label),
                flags: Flags::default(),
                payload: Bytes::copy_from_slice(&packet(0x100, n as u8, None)),
                recovery: Recovery::None,
            };
            self.history.push(at(u64::from(n) * 10 + late), PortId(1), Label(label), &delivery);
        }

        fn look(&mut self, ms: u64) -> (u64, u64, u64) {
            let mut room = self.room;
            self.health.look(at(ms), &self.history, DEADLINE, &mut room, |label| label != Label(99));
            let (health, unlooked) = self.health.found();
            (health.packets, health.continuity_errors, unlooked)
        }
    }

    #[test]
    fn what_comes_in_any_order_is_looked_at_in_its_own() {
        let mut stage = Stage::new(usize::MAX);
        for n in [0, 2, 1, 5, 4, 3] {
            stage.come(n, 100, 1);
        }
        assert_eq!(stage.look(219), (0, 0, 0), "the first may still be preceded");
        assert_eq!(stage.look(220), (1, 0, 0));
        // One comes as late as it may, long after those that follow it.
        stage.come(7, 20, 1);
        assert_eq!(stage.look(265), (5, 0, 0));
        stage.come(6, 195, 1);
        assert_eq!(stage.look(400), (8, 0, 0));
    }

    #[test]
    fn what_is_lost_is_an_error_and_what_was_not_looked_at_is_none() {
        let mut stage = Stage::new(usize::MAX);
        for n in (0..100).filter(|n| *n != 40) {
            stage.come(n, 30, 1);
        }
        assert_eq!(stage.look(2000), (99, 1, 0));
        // So little is kept that most goes before anybody looks.
        let mut stage = Stage::new(6_000);
        for n in 0..100 {
            stage.come(n, 30, 1);
        }
        let kept = stage.history.len() as u64;
        assert!(kept > 5 && kept < 50, "{kept}");
        assert_eq!(stage.look(2000), (kept, 0, 100 - kept));
    }

    #[test]
    fn each_turn_is_bounded_and_the_rest_waits() {
        let mut stage = Stage::new(usize::MAX);
        stage.room = 30;
        for n in 0..100 {
            stage.come(n, 30, 1);
        }
        assert_eq!([(); 5].map(|()| stage.look(2000).0), [30, 60, 90, 100, 100]);
        assert_eq!(stage.look(2000), (100, 0, 0));
    }

    #[test]
    fn a_relay_that_was_not_on_the_way_judges_nothing_of_what_it_missed() {
        let mut stage = Stage::new(usize::MAX);
        for n in 0..10 {
            stage.come(n, 30, 1);
        }
        // Answers to questions of others pass here, on a graph that does not lead here; then a graph that does is in force again.
        for n in [20, 25, 31] {
            stage.come(n, 90, 99);
        }
        for n in 50..60 {
            stage.come(n, 30, 2);
        }
        // A loss at the onset of trouble counts, though the graph is another from then on.
        for n in 63..70 {
            stage.come(n, 30, 3);
        }
        assert_eq!(stage.look(2000), (27, 1, 3));
    }

    #[test]
    fn a_stream_that_goes_on_elsewhere_in_its_numbers_is_followed() {
        let mut stage = Stage::new(usize::MAX);
        for n in 0..10 {
            stage.come(n, 30, 1);
        }
        assert_eq!(stage.look(1000), (10, 0, 0));
        let mut leap = Stage::new(usize::MAX);
        std::mem::swap(&mut stage.health, &mut leap.health);
        leap.health.next = 0;
        for n in 100_000..100_010 {
            leap.come(n, 30, 1);
        }
        assert_eq!(leap.look(2_000_000), (20, 0, 0));
    }
}
