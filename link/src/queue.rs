//! Media packets that wait to be sent: by priority, fairly among streams, never beyond their time, and no longer than bursts make them.
//!
//! A queue that only fills up shortens nothing and takes the time that repair needs: where one stands, its head goes
//! (as in CoDel, RFC 8289, per stream as in RFC 8290; all at once, because live media does not slow down when it is told).

use crate::endpoint::Packet;
use crate::time::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// What a stream may send in one turn, in bytes (deficit round robin, Shreedhar and Varghese 1995).
const QUANTUM: usize = 1500;

/// How long a packet may wait where the queue of its stream stands.
const STANDING: Duration = Duration::from_millis(20);
/// How long the head of a queue must have waited longer for the queue to stand: more than a burst of pictures takes.
const LASTING: Duration = Duration::from_millis(250);

/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// A packet that waits.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) packet: Packet,
    /// When its source received it, by this end's clock stamp.
    pub(crate) birth: u32,
    pub(crate) since: Instant,
}

/// The queue of one link.
#[derive(Debug)]
pub(crate) struct Queue {
    high: Level,
    low: Level,
    bytes: usize,
    /// When it was last looked for queues that stand.
    looked: Instant,
}

/// What became of a packet that found the queue full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overflow {
    /// It waits, and nothing had to go.
    None,
    /// It waits; so many of lower priority, or older ones of the stream that holds most, had to go.
    Dropped(usize),
    /// It was refused: all that waits goes before it.
    Refused,
}

#[derive(Debug, Default)]
struct Level {
    /// By place.
    flows: Vec<Flow>,
    /// Places of the streams that have something, in the order of their turns.
    turns: VecDeque<u16>,
}

#[derive(Debug, Default)]
struct Flow {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    deficit: usize,
    /// Since when its head has waited too long at every look.
    slow_since: Option<Instant>,
}

impl Queue {
    pub(crate) fn new() -> Queue {
        Queue { high: Level::default(), low: Level::default(), bytes: 0, looked: Instant::ORIGIN }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.high.turns.is_empty() && self.low.turns.is_empty()
    }

    /// Bytes of payload that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a packet, keeping what waits below `most` bytes.
    pub(crate) fn push(&mut self, waiting: Waiting, most: usize) -> Overflow {
        let size = waiting.packet.payload.len();
        let high = waiting.packet.flags.high_priority;
        let mut dropped = 0;
        while self.bytes + size > most {
            let freed = match self.low.drop_oldest_of_largest() {
                Some(freed) => freed,
                None if high => match self.high.drop_oldest_of_largest() {
                    Some(freed) => freed,
                    None => break,
                },
                None => return Overflow::Refused,
            };
            self.bytes -= freed;
            dropped += 1;
        }
        self.bytes += size;
        if high {
            self.high.push(waiting)
        } else {
            self.low.push(waiting)
        }
        if dropped == 0 { Overflow::None } else { Overflow::Dropped(dropped) }
    }

    /// The packet whose turn it is.
    pub(crate) fn pop(&mut self) -> Option<Waiting> {
        let waiting = self.high.pop().or_else(|| self.low.pop())?;
        self.bytes -= waiting.packet.payload.len();
        Some(waiting)
    }

    /// Drops from the head of each stream what must have arrived before `now`; returns how many.
    pub(crate) fn drop_late(&mut self, now: Instant) -> u64 {
        let (count, bytes) = [&mut self.high, &mut self.low]
            .map(|level| level.drop_late(now))
            .into_iter()
            .fold((0, 0), |(count, bytes), (more, freed)| (count + more, bytes + freed));
        self.bytes -= bytes;
        count
    }

    /// Drops from the head of each stream whose queue stands what has waited too long; returns how many. Looks now and then, however often
    /// it is called.
    pub(crate) fn drop_standing(&mut self, now: Instant) -> u64 {
        if now - self.looked < LOOK {
            return 0;
        }
        self.looked = now;
        let (count, bytes) = [&mut self.high, &mut self.low]
            .map(|level| level.drop_standing(now))
            .into_iter()
            .fold((0, 0), |(count, bytes), (more, freed)| (count + more, bytes + freed));
        self.bytes -= bytes;
        count
    }
}

impl Level {
    fn push(&mut self, waiting: Waiting) {
        // Handles are counted from 65,535 on, which is nobody's and in use on nearly every link.
        let place = waiting.packet.stream.0.wrapping_add(1);
        if self.flows.len() <= place.into() {
            self.flows.resize_with(usize::from(place) + 1, Flow::default);
        }
        let flow = &mut self.flows[usize::from(place)];
        if flow.waiting.is_empty() {
            self.turns.push_back(place);
            flow.deficit = 0;
            flow.slow_since = None;
        }
        flow.bytes += waiting.packet.payload.len();
        flow.waiting.push_back(waiting);
    }

    fn pop(&mut self) -> Option<Waiting> {
        loop {
            let place = *self.turns.front()?;
            let flow = &mut self.flows[usize::from(place)];
            let size = flow.waiting.front().map_or(0, |waiting| waiting.packet.payload.len());
            if size > flow.deficit {
                flow.deficit += QUANTUM;
                self.turns.rotate_left(1);
                continue;
            }
            flow.deficit -= size;
            let waiting = flow.take();
            if flow.waiting.is_empty() {
                self.turns.pop_front();
            }
            return waiting;
        }
    }

    fn drop_oldest_of_largest(&mut self) -> Option<usize> {
        let place = *self.turns.iter().max_by_key(|place| self.flows[usize::from(**place)].bytes)?;
        let flow = &mut self.flows[usize::from(place)];
        let size = flow.take().map_or(0, |waiting| waiting.packet.payload.len());
        if flow.waiting.is_empty() {
            self.turns.retain(|other| *other != place);
        }
        Some(size)
    }

    fn drop_late(&mut self, now: Instant) -> (u64, usize) {
        let (mut count, mut bytes) = (0, 0);
        let flows = &mut self.flows;
        self.turns.retain(|place| {
            let flow = &mut flows[usize::from(*place)];
            while flow.waiting.front().is_some_and(|waiting| waiting.packet.recover_until < now) {
                count += 1;
                bytes += flow.take().map_or(0, |waiting| waiting.packet.payload.len());
            }
            !flow.waiting.is_empty()
        });
        (count, bytes)
    }

    fn drop_standing(&mut self, now: Instant) -> (u64, usize) {
        let (mut count, mut bytes) = (0, 0);
        for place in &self.turns {
            let flow = &mut self.flows[usize::from(*place)];
            let waited = flow.waiting.front().map_or(Duration::ZERO, |waiting| now - waiting.since);
            if waited <= STANDING {
                continue;
            }
            // It stands until it has been empty.
            if now - *flow.slow_since.get_or_insert(now) < LASTING {
                continue;
            }
            while flow.waiting.len() > 1 && flow.waiting.front().is_some_and(|waiting| now - waiting.since > STANDING) {
                count += 1;
                bytes += flow.take().map_or(0, |waiting| waiting.packet.payload.len());
            }
        }
        (count, bytes)
    }
}

impl Flow {
    fn take(&mut self) -> Option<Waiting> {
        let waiting = self.waiting.pop_front()?;
        self.bytes -= waiting.packet.payload.len();
        Some(waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Flags, Label, MediaTime, StreamHandle, StreamSeq};
    use bytes::Bytes;
    use std::time::Duration;

    fn waiting(stream: u16, seq: u32, size: usize, high: bool, until: u64) -> Waiting {
        let packet = Packet {
            target: None,
            stream: StreamHandle(stream),
            seq: StreamSeq(seq),
            media_time: MediaTime(0),
            age: Duration::ZERO,
            label: Label(0),
            flags: Flags { high_priority: high, end: false },
            payload: Bytes::from(vec![0; size]),
            recover_until: Instant::from_micros(until),
        };
        Waiting { packet, birth: 0, since: Instant::ORIGIN }
    }

    fn order(queue: &mut Queue) -> Vec<(u16, u32)> {
        std::iter::from_fn(|| queue.pop()).map(|one| (one.packet.stream.0, one.packet.seq.0)).collect()
    }

    #[test]
    fn high_priority_first_and_streams_take_turns_by_bytes() {
        let mut queue = Queue::new();
        for seq in 0..4 {
            queue.push(waiting(1, seq, 1500, false, 100), usize::MAX);
        }
        for seq in 0..4 {
            queue.push(waiting(2, seq, 750, false, 100), usize::MAX);
        }
        queue.push(waiting(3, 0, 100, true, 100), usize::MAX);
        assert_eq!(order(&mut queue), [(3, 0), (1, 0), (2, 0), (2, 1), (1, 1), (2, 2), (2, 3), (1, 2), (1, 3)]);
        assert_eq!(queue.bytes(), 0);
    }

    #[test]
    fn full_drops_low_priority_of_the_largest_stream_first() {
        let mut queue = Queue::new();
        for seq in 0..3 {
            assert_eq!(queue.push(waiting(1, seq, 1000, false, 100), 4000), Overflow::None);
        }
        assert_eq!(queue.push(waiting(2, 0, 1000, false, 100), 4000), Overflow::None);
        assert_eq!(queue.push(waiting(3, 0, 2000, true, 100), 4000), Overflow::Dropped(2));
        assert_eq!(queue.push(waiting(4, 0, 2000, true, 100), 4000), Overflow::Dropped(2));
        assert_eq!(queue.push(waiting(5, 0, 1, false, 100), 4000), Overflow::Refused);
        assert_eq!(order(&mut queue), [(3, 0), (4, 0)]);
    }

    /// Ten milliseconds a step for two seconds: what arrives, and how many are served. Returns drops, and how long the head waits at the end.
    fn steps(arrive: impl Fn(u64) -> u32, served: impl Fn(u64) -> u32) -> (u64, Duration) {
        let mut queue = Queue::new();
        let (mut dropped, mut now) = (0, Instant::ORIGIN);
        for step in 0..200 {
            now = Instant::from_micros(step * 10_000);
            for seq in 0..arrive(step) {
                queue.push(Waiting { since: now, ..waiting(1, seq, 10, false, u64::MAX) }, usize::MAX);
            }
            dropped += queue.drop_standing(now);
            (0..served(step)).for_each(|_| drop(queue.pop()));
        }
        (dropped, queue.pop().map_or(Duration::ZERO, |head| now - head.since))
    }

    #[test]
    fn the_head_of_a_queue_that_stands_goes() {
        let (dropped, waits) = steps(|_| 3, |_| 2);
        assert!((150..200).contains(&dropped), "{dropped}");
        assert!(waits <= STANDING, "{waits:?}");
    }

    #[test]
    fn a_burst_that_is_served_in_time_stays() {
        assert_eq!(steps(|step| if step % 50 == 0 { 40 } else { 0 }, |_| 2), (0, Duration::ZERO));
    }

    #[test]
    fn handles_at_both_ends_of_their_range_take_little_room() {
        let mut queue = Queue::new();
        for stream in [u16::MAX, 0, 3] {
            for seq in 0..2 {
                queue.push(waiting(stream, seq, 1500, true, 100), usize::MAX);
            }
        }
        assert_eq!((queue.high.flows.len(), queue.low.flows.len()), (5, 0));
        assert_eq!(order(&mut queue), [(u16::MAX, 0), (0, 0), (3, 0), (u16::MAX, 1), (0, 1), (3, 1)]);
        queue.push(waiting(u16::MAX - 1, 0, 10, true, 100), usize::MAX);
        assert_eq!(order(&mut queue), [(u16::MAX - 1, 0)]);
    }

    #[test]
    fn late_packets_go() {
        let mut queue = Queue::new();
        queue.push(waiting(1, 0, 10, false, 5), 1000);
        queue.push(waiting(1, 1, 10, false, 50), 1000);
        queue.push(waiting(2, 0, 10, true, 5), 1000);
        assert_eq!(queue.drop_late(Instant::from_micros(6)), 2);
        assert_eq!(queue.bytes(), 10);
        assert_eq!(order(&mut queue), [(1, 1)]);
        assert!(queue.is_empty());
    }
}
