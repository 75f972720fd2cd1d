//! Which of the packets passed lately had arrived (pure).

/// How many packets back it is known.
pub(super) const HISTORY: u64 = 1 << 16;

/// A bit per packet passed: set where it had arrived, clear where it was missing.
#[derive(Clone, Debug)]
pub(super) struct History {
    bits: Box<[u64]>,
    /// The packet that follows the last one passed.
    next: u64,
    /// The first packet ever passed.
    first: u64,
}

impl History {
    /// Nothing passed; `first` is the next.
    pub(super) fn new(first: u64) -> History {
        History { bits: vec![0; (HISTORY / 64) as usize].into(), next: first, first }
    }

    /// The packet that follows the last one passed.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Passes up to `seq`, which had arrived; all between had not.
    pub(super) fn pass(&mut self, seq: u64) {
        debug_assert!(seq >= self.next, "packets are passed in order");
        let gap_from = self.next.max(seq.saturating_sub(HISTORY));
        for missing in gap_from..seq {
            self.write(missing, false);
        }
        self.write(seq, true);
        self.next = seq + 1;
    }

    /// Says that nothing before `first` counts as passed.
    pub(super) fn begin_at(&mut self, first: u64) {
        self.first = first;
    }

    /// What is known of `seq`, which lies before [`History::next`].
    pub(super) fn find(&self, seq: u64) -> Past {
        if seq < self.first {
            Past::BeforeFirst
        } else if seq + HISTORY < self.next || self.read(seq) {
            Past::Arrived
        } else {
            Past::Missing
        }
    }

    /// Notes that `seq`, missing until then, arrived.
    pub(super) fn mark(&mut self, seq: u64) {
        self.write(seq, true);
    }

    fn read(&self, seq: u64) -> bool {
        self.bits[(seq % HISTORY / 64) as usize] >> (seq % 64) & 1 == 1
    }

    fn write(&mut self, seq: u64, arrived: bool) {
        let word = &mut self.bits[(seq % HISTORY / 64) as usize];
        let bit = 1 << (seq % 64);
        if arrived { *word |= bit } else { *word &= !bit }
    }
}

/// What is known of a packet that was passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Past {
    /// It is from before this sink began.
    BeforeFirst,
    /// It had arrived, or is too long ago to know.
    Arrived,
    /// It was passed over.
    Missing,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_remembered_for_as_long_as_promised() {
        let mut history = History::new(10);
        history.pass(10);
        history.pass(13);
        assert_eq!(history.find(9), Past::BeforeFirst);
        assert_eq!(history.find(10), Past::Arrived);
        assert_eq!(history.find(11), Past::Missing);
        history.mark(11);
        assert_eq!(history.find(11), Past::Arrived);
        assert_eq!(history.find(12), Past::Missing);
        history.pass(11 + HISTORY);
        assert_eq!(history.find(12), Past::Missing);
        history.pass(14 + 3 * HISTORY);
        assert_eq!(history.find(14 + 2 * HISTORY), Past::Arrived, "too long ago to know");
        assert_eq!(history.find(15 + 2 * HISTORY), Past::Missing);
        assert_eq!(history.find(13 + 3 * HISTORY), Past::Missing);
    }
}
