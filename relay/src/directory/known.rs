//! The link-state database.

use link::Instant;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use topology::NodeName;
use topology::lsdb::{Advertisement, LinkState};

#[derive(Debug)]
pub(super) struct Known {
    relays: BTreeMap<NodeName, Entry>,
    generation: u64,
    most: usize,
}

#[derive(Debug)]
struct Entry {
    advertisement: Advertisement,
    heard: Instant,
}

/// What an advertisement is to the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// Newer than what was known.
    Fresh,
    /// Not newer.
    Known,
    /// Beyond the bound.
    Refused,
}

impl Known {
    pub(super) fn new(most: usize) -> Known {
        Known { relays: BTreeMap::new(), generation: 0, most }
    }

    pub(super) fn insert(&mut self, now: Instant, advertisement: Advertisement) -> News {
        let full = self.relays.len() >= self.most;
        match self.relays.get_mut(&advertisement.origin) {
            Some(entry) => {
                let old = &entry.advertisement;
                if (advertisement.boot, advertisement.seq) <= (old.boot, old.seq) {
                    return News::Known;
                }
                let repeated = Advertisement { boot: old.boot, seq: old.seq, ..advertisement.clone() } == *old;
                self.generation += u64::from(!repeated);
                *entry = Entry { advertisement, heard: now };
            }
            None if full => return News::Refused,
            None => {
                self.relays.insert(advertisement.origin.clone(), Entry { advertisement, heard: now });
                self.generation += 1;
            }
        }
        News::Fresh
    }

    pub(super) fn expire(&mut self, now: Instant, after: Duration, keep: &NodeName) {
        let before = self.relays.len();
        self.relays.retain(|name, entry| name == keep || now.saturating_since(entry.heard) < after);
        self.generation += u64::from(self.relays.len() != before);
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn get(&self, relay: &NodeName) -> Option<&Advertisement> {
        self.relays.get(relay).map(|entry| &entry.advertisement)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Advertisement> {
        self.relays.values().map(|entry| &entry.advertisement)
    }

    pub(super) fn link(&self, from: &NodeName, to: &NodeName) -> Option<&LinkState> {
        self.one_way(to, from)?;
        self.one_way(from, to)
    }

    fn one_way(&self, from: &NodeName, to: &NodeName) -> Option<&LinkState> {
        self.get(from)?.links.iter().find(|link| link.peer == *to)
    }

    /// The relays that `from` can reach, itself included.
    pub(super) fn reachable(&self, from: &NodeName) -> BTreeSet<NodeName> {
        let mut reached = BTreeSet::new();
        let mut frontier = vec![from.clone()];
        while let Some(relay) = frontier.pop() {
            if reached.insert(relay.clone())
                && let Some(ad) = self.get(&relay)
            {
                let both = ad.links.iter().filter(|link| self.one_way(&link.peer, &relay).is_some());
                frontier.extend(both.map(|link| link.peer.clone()));
            }
        }
        reached
    }
}
