//! What is to be sent at a later time, in the order of time.

use crate::time::Instant;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

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
#[derive(Debug, Default)]
pub(crate) struct Agenda {
    tasks: BinaryHeap<Reverse<(Instant, u64, Task)>>,
    added: u64,
}

impl Agenda {
    pub(crate) fn add(&mut self, due: Instant, task: Task) {
        self.added += 1;
        self.tasks.push(Reverse((due, self.added, task)));
    }

    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<Task> {
        self.tasks.peek().filter(|Reverse((due, ..))| *due <= now)?;
        self.tasks.pop().map(|Reverse((_, _, task))| task)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.tasks.len()
    }

    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.tasks.peek().map(|Reverse((due, ..))| *due)
    }
}
