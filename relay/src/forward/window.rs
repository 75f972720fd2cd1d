//! Which packets of a stream have been seen.

use link::StreamSeq;

/// Numbers told apart around the newest one. At 95,000 packets/s (1 Gbit/s of 1316 bytes) it is a third of a second.
pub const WINDOW: u32 = 32_768;

/// Packets in a row that the spare island must see before it counts as the place where the stream is.
const PROMOTE: u32 = 16;

/// Packets in a row from behind both islands that are taken for a stream that really jumped back.
const BELIEVE: u32 = 64;

const WORDS: usize = (WINDOW / 64) as usize;

/// What a number is to a [`Window`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Never seen: the packet is the first of its number.
    New,
    /// Seen before.
    Duplicate,
    /// So far behind that it cannot be told from a copy.
    Stale,
}

/// The numbers seen of one stream: a bitmap around the newest, and a second one for a number that lies far ahead.
///
/// One stray number must not move the window away from where the stream is (RFC 3550, appendix A.1, has the same care
/// for RTP): a number beyond the window opens the spare bitmap, and only when packets keep coming there does that
/// become the main one. Both tell copies apart all the while, so that neither a stray nor a true jump (a source that
/// was cut off for a minute) costs a packet or lets a copy through.
#[derive(Debug)]
pub struct Window {
    main: Island,
    spare: Island,
    stale_run: u32,
}

impl Default for Window {
    fn default() -> Self {
        Window::new()
    }
}

impl Window {
    /// Nothing seen yet.
    pub fn new() -> Window {
        Window { main: Island::new(), spare: Island::new(), stale_run: 0 }
    }

    /// Notes `seq` and says whether it was seen before. Constant time but for the clearing of what is skipped.
    #[inline]
    pub fn insert(&mut self, seq: StreamSeq) -> Seen {
        match self.main.place(seq) {
            Place::Inside => {
                let new = self.main.mark(seq);
                if new {
                    self.spare.run = 0;
                    self.stale_run = 0;
                }
                verdict(new)
            }
            place => self.insert_far(seq, place),
        }
    }

    /// Whether `seq` was seen; `false` where it cannot be told any more.
    pub fn contains(&self, seq: StreamSeq) -> bool {
        self.main.contains(seq) || self.spare.contains(seq)
    }

    /// Whether `seq` was seen; `None` where it cannot be told any more.
    pub fn knows(&self, seq: StreamSeq) -> Option<bool> {
        let seen = self.contains(seq);
        (seen || self.main.place(seq) == Place::Inside).then_some(seen)
    }

    #[cold]
    fn insert_far(&mut self, seq: StreamSeq, place: Place) -> Seen {
        if place == Place::Empty {
            self.main.start(seq);
            return Seen::New;
        }
        if self.spare.place(seq) == Place::Inside {
            let new = self.spare.mark(seq);
            self.spare.run += u32::from(new);
            if self.spare.run >= PROMOTE {
                self.spare.run = 0;
                std::mem::swap(&mut self.main, &mut self.spare);
            }
            return verdict(new);
        }
        if place == Place::Behind {
            self.stale_run += 1;
            if self.stale_run < BELIEVE {
                return Seen::Stale;
            }
        }
        self.stale_run = 0;
        self.spare.start(seq);
        Seen::New
    }
}

fn verdict(new: bool) -> Seen {
    if new { Seen::New } else { Seen::Duplicate }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Empty,
    Inside,
    Ahead,
    Behind,
}

/// The numbers that came in one way; of those behind the newest by a window or more nothing is known.
#[derive(Debug)]
pub struct Marks(Island);

impl Default for Marks {
    fn default() -> Marks {
        Marks(Island::new())
    }
}

impl Marks {
    /// Notes that `seq` came.
    #[inline]
    pub fn mark(&mut self, seq: StreamSeq) {
        match self.0.place(seq) {
            Place::Inside => {
                self.0.mark(seq);
            }
            Place::Empty | Place::Ahead => self.0.start(seq),
            Place::Behind => {}
        }
    }

    /// Whether `seq` came.
    pub fn contains(&self, seq: StreamSeq) -> bool {
        self.0.contains(seq)
    }
}

/// A bitmap over the numbers `newest - WINDOW + 1 ..= newest`. `WINDOW` divides 2^32, so a number's bit does not depend
/// on how often the numbers have wrapped.
#[derive(Debug)]
struct Island {
    started: bool,
    newest: StreamSeq,
    run: u32,
    bits: Box<[u64; WORDS]>,
}

impl Island {
    fn new() -> Island {
        Island { started: false, newest: StreamSeq(0), run: 0, bits: Box::new([0; WORDS]) }
    }

    fn start(&mut self, seq: StreamSeq) {
        self.started = true;
        self.newest = seq;
        self.run = 1;
        self.bits.fill(0);
        self.mark(seq);
    }

    #[inline]
    fn place(&self, seq: StreamSeq) -> Place {
        if !self.started {
            return Place::Empty;
        }
        let distance = seq.distance(self.newest);
        if distance > WINDOW as i32 {
            Place::Ahead
        } else if distance > -(WINDOW as i32) {
            Place::Inside
        } else {
            Place::Behind
        }
    }

    fn contains(&self, seq: StreamSeq) -> bool {
        let at = seq.0 % WINDOW;
        let is_within = self.place(seq) == Place::Inside && seq.distance(self.newest) <= 0;
        is_within && self.bits[(at / 64) as usize] >> (at % 64) & 1 == 1
    }

    /// Marks a number that is `Inside`, moving the window up where it is the newest. Whether it was unmarked.
    #[inline]
    fn mark(&mut self, seq: StreamSeq) -> bool {
        let ahead = seq.distance(self.newest);
        if ahead > 0 {
            self.clear_after(self.newest, ahead as u32);
            self.newest = seq;
        }
        let at = seq.0 % WINDOW;
        let (word, bit) = ((at / 64) as usize, 1u64 << (at % 64));
        let new = self.bits[word] & bit == 0;
        self.bits[word] |= bit;
        new
    }

    /// Clears the bits of the `count` numbers after `seq`.
    #[inline]
    fn clear_after(&mut self, seq: StreamSeq, count: u32) {
        if count >= WINDOW {
            self.bits.fill(0);
            return;
        }
        let mut at = seq.plus(1).0 % WINDOW;
        let mut left = count;
        while left > 0 {
            let offset = at % 64;
            let here = left.min(64 - offset);
            let mask = if here == 64 { u64::MAX } else { ((1u64 << here) - 1) << offset };
            self.bits[(at / 64) as usize] &= !mask;
            at = (at + here) % WINDOW;
            left -= here;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn tells_copies_apart_across_the_wrap() {
        let mut window = Window::new();
        let start = StreamSeq(u32::MAX - 100);
        for n in 0..200 {
            assert_eq!(window.insert(start.plus(n)), Seen::New, "{n}");
        }
        for n in 0..200 {
            assert_eq!(window.insert(start.plus(n)), Seen::Duplicate, "{n}");
        }
    }

    #[test]
    fn numbers_before_the_first_one_seen_are_new() {
        let mut window = Window::new();
        assert_eq!(window.insert(StreamSeq(5)), Seen::New);
        assert_eq!(window.insert(StreamSeq(3)), Seen::New);
        assert_eq!(window.insert(StreamSeq(u32::MAX)), Seen::New);
        assert_eq!(window.insert(StreamSeq(3)), Seen::Duplicate);
    }

    #[test]
    fn strays_far_ahead_cost_nothing() {
        let mut window = Window::new();
        for n in 0..10_000u32 {
            assert_eq!(window.insert(StreamSeq(n)), Seen::New, "{n}");
            if n % 10 == 0 {
                window.insert(StreamSeq(n.wrapping_mul(2_654_435_761) | 0x2000_0000));
            }
            assert_eq!(window.insert(StreamSeq(n)), Seen::Duplicate, "{n}");
        }
    }

    #[test]
    fn a_true_jump_loses_nothing_and_lets_no_copy_through() {
        let mut window = Window::new();
        for n in 0..100 {
            window.insert(StreamSeq(n));
        }
        for n in 600_000..600_200 {
            assert_eq!(window.insert(StreamSeq(n)), Seen::New, "{n}");
            assert_eq!(window.insert(StreamSeq(n)), Seen::Duplicate, "{n}");
        }
        assert_eq!(window.insert(StreamSeq(99)), Seen::Duplicate, "a late copy of the time before the jump");
    }

    #[test]
    fn far_behind_is_stale_until_the_stream_is_really_there() {
        let mut window = Window::new();
        for n in 1_000_000..1_000_100 {
            window.insert(StreamSeq(n));
        }
        let believed = (0..200).map(|n| window.insert(StreamSeq(n))).filter(|seen| *seen == Seen::New).count();
        assert_eq!(believed, 200 - (BELIEVE as usize - 1));
        assert_eq!(window.insert(StreamSeq(199)), Seen::Duplicate);
        assert_eq!(window.insert(StreamSeq(1_000_099)), Seen::Duplicate, "the place it came from is not forgotten");
    }

    proptest! {
        /// Against a set of all numbers ever inserted: while every number lies within the window of the newest, the
        /// window and the set agree, wherever the numbers start.
        #[test]
        fn agrees_with_a_set(start: u32, steps in prop::collection::vec((0u32..2000, 0u32..8000), 1..400)) {
            let mut window = Window::new();
            let mut model = HashSet::new();
            let mut newest = StreamSeq(start);
            for (forward, back) in steps {
                newest = newest.plus(forward);
                for seq in [newest, StreamSeq(newest.0.wrapping_sub(back))] {
                    let expected = if model.insert(seq.0) { Seen::New } else { Seen::Duplicate };
                    prop_assert_eq!(window.insert(seq), expected);
                }
            }
        }

        /// Whatever comes, a number that was new is a copy when it comes again at once.
        #[test]
        fn never_new_twice_in_a_row(numbers in prop::collection::vec(any::<u32>(), 1..500)) {
            let mut window = Window::new();
            for n in numbers {
                if window.insert(StreamSeq(n)) == Seen::New {
                    prop_assert_eq!(window.insert(StreamSeq(n)), Seen::Duplicate);
                }
            }
        }
    }
}
