//! Handles of streams on one link: giving them out, and looking them up.

use link::{Instant, StreamHandle};
use std::collections::VecDeque;
use std::time::Duration;

/// A handle that was given back rests this long, so that a packet of its last stream that is still being repaired is not
/// taken for one of its next.
const REST: Duration = Duration::from_secs(10);

/// The handles that this end gives out on one link.
#[derive(Debug, Default)]
pub struct HandleSpace {
    next: u16,
    freed: VecDeque<(Instant, StreamHandle)>,
}

impl HandleSpace {
    /// A handle that no stream has used lately; `None` where all are in use or at rest.
    pub fn take(&mut self, now: Instant) -> Option<StreamHandle> {
        if let Some((freed, handle)) = self.freed.front().copied()
            && now.saturating_since(freed) >= REST
        {
            self.freed.pop_front();
            return Some(handle);
        }
        let handle = StreamHandle(self.next);
        self.next = self.next.checked_add(1)?;
        Some(handle)
    }

    /// Whether there is one to take.
    pub fn has(&self, now: Instant) -> bool {
        let rested = self.freed.front().is_some_and(|(freed, _)| now.saturating_since(*freed) >= REST);
        rested || self.next < u16::MAX
    }

    /// Gives a handle back.
    pub fn give_back(&mut self, now: Instant, handle: StreamHandle) {
        self.freed.push_back((now, handle));
    }
}

/// Where the packets of a handle belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Index of the stream.
    pub(super) stream: u32,
    /// Index of the input in the stream.
    pub(super) input: u32,
}

/// The handles in use by the sender at the other end of one link. At worst (a peer that uses the handle 65535) it is
/// 512 KiB.
#[derive(Debug, Default)]
pub(super) struct HandleTable {
    slots: Vec<Option<Target>>,
    used: usize,
}

impl HandleTable {
    #[inline]
    pub(super) fn get(&self, handle: StreamHandle) -> Option<Target> {
        self.slots.get(usize::from(handle.0)).copied().flatten()
    }

    pub(super) fn set(&mut self, handle: StreamHandle, target: Target) {
        let at = usize::from(handle.0);
        if self.slots.len() <= at {
            self.slots.resize(at + 1, None);
        }
        self.used += usize::from(self.slots[at].is_none());
        self.slots[at] = Some(target);
    }

    pub(super) fn clear(&mut self, handle: StreamHandle) -> Option<Target> {
        let old = self.slots.get_mut(usize::from(handle.0))?.take();
        self.used -= usize::from(old.is_some());
        old
    }

    pub(super) fn used(&self) -> usize {
        self.used
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (StreamHandle, Target)> + '_ {
        let handle = |at: usize| StreamHandle(at as u16);
        self.slots.iter().enumerate().filter_map(move |(at, target)| target.map(|target| (handle(at), target)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_rests_before_it_is_used_again() {
        let mut space = HandleSpace::default();
        let start = Instant::from_micros(0);
        assert_eq!(space.take(start), Some(StreamHandle(0)));
        assert_eq!(space.take(start), Some(StreamHandle(1)));
        space.give_back(start, StreamHandle(0));
        assert_eq!(space.take(start + Duration::from_secs(9)), Some(StreamHandle(2)));
        assert_eq!(space.take(start + Duration::from_secs(10)), Some(StreamHandle(0)));
    }

    #[test]
    fn the_space_ends() {
        let mut space = HandleSpace::default();
        let given = std::iter::from_fn(|| space.take(Instant::ORIGIN)).count();
        assert_eq!(given, 65_535);
    }

    #[test]
    fn a_table_finds_what_was_set() {
        let mut table = HandleTable::default();
        let target = Target { stream: 3, input: 1 };
        table.set(StreamHandle(900), target);
        assert_eq!(table.get(StreamHandle(900)), Some(target));
        assert_eq!(table.get(StreamHandle(901)), None);
        assert_eq!(table.used(), 1);
        assert_eq!(table.clear(StreamHandle(900)), Some(target));
        assert_eq!((table.get(StreamHandle(900)), table.used()), (None, 0));
    }
}
