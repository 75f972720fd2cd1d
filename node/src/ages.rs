//! How old packets are when they come, counted in classes: bounded, added up over any span of time, and exact at the deadlines that people
//! ask about. Pure.

use std::time::Duration;

/// Upper bounds of the classes in milliseconds, the bound included. What is older than the last is in a class of its own. Part of the protocol:
/// a sink reports by the place in this list, so bounds are only appended.
pub const BOUNDS_MS: [u16; 24] = [
    5, 10, 15, 20, 30, 40, 50, 65, 80, 100, 125, 150, 175, 200, 250, 300, 400, 500, 750, 1000, 1500, 2000, 5000, 10_000,
];

/// Classes there are.
pub const CLASSES: usize = BOUNDS_MS.len() + 1;

/// Packets by their age.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ages([u64; CLASSES]);

impl Ages {
    /// A packet came at this age.
    #[inline]
    pub fn note(&mut self, age: Duration) {
        let class = BOUNDS_MS.partition_point(|bound| Duration::from_millis(u64::from(*bound)) < age);
        self.0[class] = self.0[class].saturating_add(1);
    }

    /// Packets counted.
    pub fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum, packets| sum.saturating_add(*packets))
    }

    /// Whether none was counted.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|packets| *packets == 0)
    }

    /// Adds what another has counted.
    pub fn add(&mut self, other: &Ages) {
        for (own, other) in self.0.iter_mut().zip(other.0) {
            *own = own.saturating_add(other);
        }
    }

    /// What was counted since `earlier`, an older copy of the same counts.
    pub fn since(&self, earlier: &Ages) -> Ages {
        let mut since = *self;
        since.0.iter_mut().zip(earlier.0).for_each(|(now, then)| *now = now.saturating_sub(then));
        since
    }

    /// Every class: its bound in milliseconds (`None`: older than all bounds), and its packets.
    pub fn classes(&self) -> impl Iterator<Item = (Option<u16>, u64)> {
        BOUNDS_MS.iter().copied().map(Some).chain([None]).zip(self.0)
    }

    /// Packets that were no older than each bound.
    pub fn within(&self) -> impl Iterator<Item = (u16, u64)> {
        let mut sum = 0u64;
        BOUNDS_MS.into_iter().zip(self.0).map(move |(bound, packets)| {
            sum = sum.saturating_add(packets);
            (bound, sum)
        })
    }

    /// The classes in which there is something, as they are told: place and packets.
    pub fn told(&self) -> Vec<(u8, u32)> {
        let told = |(class, packets): (usize, &u64)| (class as u8, u32::try_from(*packets).unwrap_or(u32::MAX));
        self.0.iter().enumerate().filter(|(_, packets)| **packets > 0).map(told).collect()
    }

    /// Adds to what was told, in place: of the classes there are, a live stream uses few.
    pub fn merge(told: &mut Vec<(u8, u32)>, more: &Ages) {
        for (class, packets) in more.told() {
            match told.iter_mut().find(|(known, _)| *known == class) {
                Some((_, sum)) => *sum = sum.saturating_add(packets),
                None => told.push((class, packets)),
            }
        }
    }

    /// What a peer told. Classes that this build does not know are older than all it knows.
    pub fn heard(told: &[(u8, u32)]) -> Ages {
        let mut ages = Ages::default();
        // An honest peer tells each class once.
        for (class, packets) in told.iter().take(CLASSES) {
            let class = usize::from(*class).min(CLASSES - 1);
            ages.0[class] = ages.0[class].saturating_add(u64::from(*packets));
        }
        ages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_class() {
        let mut ages = Ages::default();
        for us in [0, 5_000, 5_001, 200_000, 200_001, 10_000_000, 10_000_001, u64::MAX] {
            ages.note(Duration::from_micros(us));
        }
        assert!(BOUNDS_MS.is_sorted());
        let within = |ms| ages.within().find(|(bound, _)| *bound == ms).map(|(_, packets)| packets);
        assert_eq!((within(5), within(200), within(250), within(10_000)), (Some(2), Some(4), Some(5), Some(6)));
        assert_eq!((ages.total(), ages.classes().last()), (8, Some((None, 2))));
    }

    #[test]
    fn what_is_told_is_heard_whatever_a_peer_makes_up() {
        let mut ages = Ages::default();
        (0..3000).for_each(|n| ages.note(Duration::from_millis(n * 7)));
        assert_eq!(Ages::heard(&ages.told()), ages);
        let mut told = ages.told();
        Ages::merge(&mut told, &ages);
        assert_eq!(Ages::heard(&told).total(), 2 * ages.total());
        assert_eq!(Ages::heard(&vec![(200, u32::MAX); 1000]).total(), CLASSES as u64 * u64::from(u32::MAX));
        let mut later = ages;
        later.note(Duration::from_millis(1));
        assert_eq!(later.since(&ages).told(), [(0, 1)]);
        assert!(ages.since(&later).is_empty());
    }
}
