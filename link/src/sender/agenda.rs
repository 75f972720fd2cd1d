//! What is to be sent at a later time, in the order of time.

use crate::time::Instant;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// Why a repair is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cause {
    /// On request.
    Answer,
    /// A copy ahead of loss.
    Ahead,
    /// Nothing was heard of the packet, and its time runs out.
    FailSafe,
    /// The window code.
    Code,
}

/// Something to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Task {
    /// Send a symbol again.
    Copy { symbol: u64, cause: Cause },
    /// Send a symbol again unless it is known to have arrived.
    FailSafe { symbol: u64 },
    /// See whether anything was heard of an answer, sent as the transmission of this number.
    Recheck { symbol: u64, number: u64 },
    /// Send the next combination of a pool.
    Pool { id: u32 },
    /// Go on coding where no media has followed the symbol `after - 1`.
    Tail { after: u64 },
}

/// Tasks by their time; equal times in the order in which they were added.
///
/// Nearly all tasks are fail-safe copies, one for each packet, and come in the order of their times: a line serves them, and a heap the rest.
#[derive(Debug, Default)]
pub(crate) struct Agenda {
    line: VecDeque<Entry>,
    heap: BinaryHeap<Reverse<Entry>>,
    added: u64,
}

type Entry = (Instant, u64, Task);

impl Agenda {
    pub(crate) fn add(&mut self, due: Instant, task: Task) {
        self.added += 1;
        let entry = (due, self.added, task);
        let in_line = matches!(task, Task::FailSafe { .. }) && self.line.back().is_none_or(|last| last.0 <= due);
        if in_line {
            self.line.push_back(entry);
        } else {
            self.heap.push(Reverse(entry));
        }
    }

    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<Task> {
        let (first, in_line) = self.first()?;
        if first.0 > now {
            return None;
        }
        let entry = if in_line { self.line.pop_front() } else { self.heap.pop().map(|Reverse(entry)| entry) };
        entry.map(|(_, _, task)| task)
    }

    /// Takes out, from the first on, fail-safe copies of symbols that need none, so that their time wakes nobody.
    pub(crate) fn skip(&mut self, needless: impl Fn(u64) -> bool) {
        while let Some((_, _, Task::FailSafe { symbol })) = self.line.front()
            && needless(*symbol)
        {
            self.line.pop_front();
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.line.len() + self.heap.len()
    }

    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.first().map(|(entry, _)| entry.0)
    }

    /// The task whose turn it is, and whether it stands in the line.
    fn first(&self) -> Option<(Entry, bool)> {
        let heap = self.heap.peek().map(|Reverse(entry)| *entry);
        match (self.line.front().copied(), heap) {
            (Some(line), Some(heap)) => Some(if line < heap { (line, true) } else { (heap, false) }),
            (Some(line), None) => Some((line, true)),
            (None, heap) => heap.map(|entry| (entry, false)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_come_by_their_time_and_then_by_their_turn() {
        let at = |millis: u64| Instant::from_micros(millis * 1000);
        let mut agenda = Agenda::default();
        for (due, symbol) in [(5, 1), (7, 2), (6, 3), (7, 4)] {
            agenda.add(at(due), Task::FailSafe { symbol });
        }
        agenda.add(at(7), Task::Tail { after: 9 });
        agenda.add(at(1), Task::Pool { id: 8 });
        assert_eq!((agenda.next_due(), agenda.len()), (Some(at(1)), 6));
        assert_eq!(agenda.pop_due(at(0)), None);
        let order: Vec<Task> = std::iter::from_fn(|| agenda.pop_due(at(7))).collect();
        let copy = |symbol| Task::FailSafe { symbol };
        assert_eq!(order, [Task::Pool { id: 8 }, copy(1), copy(3), copy(2), copy(4), Task::Tail { after: 9 }]);
    }

    #[test]
    fn copies_of_what_has_arrived_wake_nobody() {
        let mut agenda = Agenda::default();
        for symbol in 1..4 {
            agenda.add(Instant::from_micros(symbol), Task::FailSafe { symbol });
        }
        agenda.skip(|symbol| symbol != 3);
        assert_eq!((agenda.next_due(), agenda.len()), (Some(Instant::from_micros(3)), 1));
    }
}
