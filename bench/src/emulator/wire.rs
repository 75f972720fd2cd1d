//! Datagrams on their way, in the order of their arrival. Pure.

use super::socket::Outgoing;
use crate::channel::Direction;
use link::Instant;
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// Where a datagram comes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exit {
    pub(super) link: usize,
    /// Which client of the link.
    pub(super) client: usize,
    pub(super) direction: Direction,
}

/// A datagram that is to come out.
#[derive(Clone, Debug)]
pub(super) struct InFlight {
    pub(super) due: Instant,
    order: u64,
    pub(super) exit: Exit,
    pub(super) datagram: Outgoing,
}

/// Everything on its way on all links.
#[derive(Debug, Default)]
pub(super) struct Wire {
    heap: BinaryHeap<Reverse<InFlight>>,
    pushed: u64,
}

impl Wire {
    /// Puts a datagram on its way. Those due at the same instant come out in the order of coming in.
    pub(super) fn push(&mut self, due: Instant, exit: Exit, datagram: Outgoing) {
        self.pushed += 1;
        self.heap.push(Reverse(InFlight { due, order: self.pushed, exit, datagram }));
    }

    /// When the next one is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.heap.peek().map(|next| next.0.due)
    }

    /// The next one that is due by `now`.
    pub(super) fn pop(&mut self, now: Instant) -> Option<InFlight> {
        self.pop_if(|next| next.due <= now)
    }

    /// The next one, if it is as wanted.
    pub(super) fn pop_if(&mut self, wanted: impl FnOnce(&InFlight) -> bool) -> Option<InFlight> {
        wanted(&self.heap.peek()?.0).then(|| self.heap.pop().map(|Reverse(next)| next))?
    }
}

impl PartialEq for InFlight {
    fn eq(&self, other: &Self) -> bool {
        (self.due, self.order) == (other.due, other.order)
    }
}
impl Eq for InFlight {}
impl PartialOrd for InFlight {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for InFlight {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.due, self.order).cmp(&(other.due, other.order))
    }
}
