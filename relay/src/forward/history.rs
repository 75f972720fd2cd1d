//! What a relay keeps of a stream, so that who joins at its start, or lost its way, can still be served.

use bytes::Bytes;
use link::{Delivery, Flags, Instant, Label, MediaTime, Recovery, StreamHandle, StreamSeq};
use node::PortId;
use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

/// How long a packet is kept.
pub const SPAN: Duration = Duration::from_secs(2);

/// What a kept packet counts for beside its payload.
const OVERHEAD: usize = std::mem::size_of::<Kept>();

/// The packets of one stream that came lately, in the order of their arrival, bounded in time and bytes. Payloads are shared
/// with the links, not copied.
#[derive(Debug)]
pub struct History {
    kept: VecDeque<Kept>,
    bytes: usize,
    most: usize,
    /// How many packets were let go.
    gone: u64,
}

/// A packet that was kept.
#[derive(Clone, Debug)]
pub struct Kept {
    /// When its source received it, on this node's clock.
    pub born: Instant,
    /// Where it came from.
    pub from: PortId,
    /// Its number.
    pub seq: StreamSeq,
    pub(super) label: Label,
    media_time: MediaTime,
    flags: Flags,
    payload: Bytes,
    came: Instant,
    /// The ways by which it has left, a bit each.
    ways: Ways,
}

/// A set of the outputs of a stream to relays below.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ways(u64);

impl Ways {
    /// How many ways are told apart.
    pub const MOST: usize = 64;

    /// The first way that is not among these; none where all are taken.
    pub fn free(self) -> Ways {
        Ways(1_u64.checked_shl(self.0.trailing_ones()).unwrap_or(0))
    }

    /// Adds those of `other`.
    #[inline]
    pub fn add(&mut self, other: Ways) {
        self.0 |= other.0;
    }

    /// Whether these share one with `other`.
    #[inline]
    pub fn meet(self, other: Ways) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether there is none.
    pub fn is_none(self) -> bool {
        self.0 == 0
    }
}

impl Kept {
    /// The packet as if it had just come.
    pub fn delivery(&self, now: Instant) -> Delivery {
        Delivery {
            stream: StreamHandle(0),
            seq: self.seq,
            media_time: self.media_time,
            age: now.saturating_since(self.born),
            label: self.label,
            flags: self.flags,
            payload: self.payload.clone(),
            recovery: Recovery::None,
        }
    }

    /// How old it was when it came.
    pub fn age(&self) -> Duration {
        self.came.saturating_since(self.born)
    }

    /// Notes that it has left.
    pub fn note_left(&mut self, ways: Ways) {
        self.ways.add(ways);
    }

    /// Whether it has left by a way already.
    pub fn has_left(&self, way: Ways) -> bool {
        self.ways.meet(way)
    }

    /// What it carries.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    fn bytes(&self) -> usize {
        self.payload.len() + OVERHEAD
    }
}

impl History {
    /// Nothing kept yet, and never more than `most` bytes.
    pub fn new(most: usize) -> History {
        History { kept: VecDeque::new(), bytes: 0, most, gone: 0 }
    }

    /// Changes the bound.
    pub fn set_most(&mut self, most: usize) {
        self.most = most;
    }

    /// What came last, and not before `since`: from where, and on which graph.
    pub fn newest(&self, since: Instant) -> Option<(PortId, Label)> {
        self.kept.back().filter(|kept| kept.came >= since).map(|kept| (kept.from, kept.label))
    }

    /// Keeps a packet that came at `now`. Amortised over packets, nothing is allocated.
    #[inline]
    pub fn push(&mut self, now: Instant, from: PortId, label: Label, delivery: &Delivery) {
        let kept = Kept {
            born: now.saturating_sub(delivery.age),
            from,
            seq: delivery.seq,
            label,
            media_time: delivery.media_time,
            flags: delivery.flags,
            payload: delivery.payload.clone(),
            came: now,
            ways: Ways::default(),
        };
        self.bytes += kept.bytes();
        self.kept.push_back(kept);
        while let Some(oldest) = self.kept.front()
            && (now.saturating_since(oldest.came) > SPAN || self.bytes > self.most)
        {
            self.bytes -= oldest.bytes();
            self.kept.pop_front();
            self.gone += 1;
        }
    }

    /// Notes by which ways the packet that was kept last has left.
    #[inline]
    pub fn note_left(&mut self, ways: Ways) {
        if let Some(newest) = self.kept.back_mut() {
            newest.ways.add(ways);
        }
    }

    /// A way is given to another output, by which nothing has left yet.
    pub fn forget_way(&mut self, way: Ways) {
        for kept in &mut self.kept {
            kept.ways.0 &= !way.0;
        }
    }

    /// What came within `span` before `now`, in the order of its arrival.
    pub fn lately(&mut self, now: Instant, span: Duration) -> impl Iterator<Item = &mut Kept> {
        let first = self.kept.partition_point(|kept| now.saturating_since(kept.came) > span);
        self.kept.range_mut(first..)
    }

    /// Lets go of what has had its time; for streams that have fallen silent.
    pub fn expire(&mut self, now: Instant) {
        while let Some(oldest) = self.kept.front()
            && now.saturating_since(oldest.came) > SPAN
        {
            self.bytes -= oldest.bytes();
            self.kept.pop_front();
            self.gone += 1;
        }
        if self.kept.is_empty() && self.kept.capacity() > 0 {
            self.kept = VecDeque::new();
        }
    }

    /// Whether all that ever came is still here: the stream is at its start.
    pub fn is_whole(&self) -> bool {
        self.gone == 0
    }

    /// The places of what is kept, counted over all that ever came.
    pub fn places(&self) -> Range<u64> {
        self.gone..self.gone + self.kept.len() as u64
    }

    /// What came at a place; `None` where it is not kept any more.
    pub fn at(&self, place: u64) -> Option<&Kept> {
        self.kept.get(usize::try_from(place.checked_sub(self.gone)?).ok()?)
    }

    /// Bytes kept, payloads and what is noted of them.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Packets kept.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// What is kept, in the order of its arrival.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Kept> {
        self.kept.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(history: &mut History, at_ms: u64, seq: u32) {
        let delivery = Delivery {
            stream: StreamHandle(1),
            seq: StreamSeq(seq),
            media_time: MediaTime(0),
            age: Duration::from_millis(5),
            label: Label(0),
            flags: Flags::default(),
            payload: Bytes::from_static(&[0; 1000]),
            recovery: Recovery::None,
        };
        history.push(Instant::from_micros(1_000_000 + at_ms * 1000), PortId(1), Label(7), &delivery);
    }

    fn numbers(history: &History) -> Vec<u32> {
        history.iter().map(|kept| kept.seq.0).collect()
    }

    #[test]
    fn bounded_in_time() {
        let mut history = History::new(usize::MAX);
        for n in 0..5 {
            push(&mut history, u64::from(n) * 600, n);
        }
        assert_eq!(numbers(&history), [1, 2, 3, 4]);
        assert!(!history.is_whole());
        assert_eq!((history.places(), history.at(0).is_none()), (1..5, true));
        assert_eq!(history.at(4).map(|kept| kept.seq), Some(StreamSeq(4)));
        history.expire(Instant::from_micros(10_000_000));
        assert_eq!((numbers(&history).len(), history.bytes()), (0, 0));
    }

    #[test]
    fn bounded_in_bytes() {
        let mut history = History::new(3 * (1000 + OVERHEAD));
        for n in 0..3 {
            push(&mut history, 0, n);
        }
        assert!(history.is_whole());
        push(&mut history, 0, 3);
        assert_eq!(numbers(&history), [1, 2, 3]);
        assert_eq!(history.bytes(), 3 * (1000 + OVERHEAD));
    }

    #[test]
    fn a_kept_packet_ages() {
        let mut history = History::new(usize::MAX);
        push(&mut history, 0, 9);
        let later = Instant::from_micros(1_020_000);
        let again = history.iter().next().map(|kept| kept.delivery(later)).expect("it is kept");
        assert_eq!((again.age, again.label, again.seq), (Duration::from_millis(25), Label(7), StreamSeq(9)));
    }
}
