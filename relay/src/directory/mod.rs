//! What this relay knows of the overlay, and says of itself: link state, streams and subscriptions, flooded. Pure.

pub mod own;

mod known;
mod routes;

use crate::report::OverlayReport;
use known::{Known, News};
use link::Instant;
use node::PortId;
use node::control::Module;
use own::Own;
use std::collections::VecDeque;
use std::time::Duration;
use topology::lsdb::{Advertisement, Incarnation, StreamState};
use topology::{NodeName, StreamName};

/// Link state of a relay that is not repeated for so long is forgotten.
pub const EXPIRE: Duration = Duration::from_secs(90);

/// An advertisement to be sent to every neighbouring relay.
#[derive(Clone, Debug)]
pub struct Flood {
    /// What.
    pub advertisement: Advertisement,
    /// The port it came from, which has it.
    pub except: Option<PortId>,
}

/// The state of the overlay as this relay knows it. After each call, drain [`Directory::next_flood`].
#[derive(Debug)]
pub struct Directory {
    own: Own,
    known: Known,
    floods: VecDeque<Flood>,
    next_expiry: Instant,
}

impl Directory {
    /// Nothing known. `boot` is the node's wall clock at start in microseconds, used only to order the relay's lives.
    pub fn new(name: NodeName, boot: u64, max_relays: usize) -> Directory {
        Directory {
            own: Own::new(name, boot),
            known: Known::new(max_relays),
            floods: VecDeque::new(),
            next_expiry: Instant::ORIGIN,
        }
    }

    /// This relay.
    pub fn me(&self) -> &NodeName {
        self.own.name()
    }

    /// This start of the relay.
    pub fn boot(&self) -> u64 {
        self.own.boot()
    }

    /// What this relay says of itself; changes are told by [`Directory::handle_timeout`].
    pub fn own(&mut self) -> &mut Own {
        &mut self.own
    }

    /// What this relay says of itself.
    pub fn own_ref(&self) -> &Own {
        &self.own
    }

    /// Takes in what a neighbour says or passes on. Whether it was worth its bytes.
    pub fn receive(&mut self, now: Instant, from: PortId, advertisement: Advertisement) -> bool {
        if advertisement.origin == *self.own.name() {
            self.own.outbid(advertisement.boot, advertisement.seq);
            return true;
        }
        match self.known.insert(now, advertisement.clone()) {
            News::Fresh => {
                self.floods.push_back(Flood { advertisement, except: Some(from) });
                true
            }
            News::Known => true,
            News::Refused => false,
        }
    }

    /// Tells what has changed here, repeats what has not, forgets what is no longer repeated.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Some(advertisement) = self.own.advertise(now) {
            self.known.insert(now, advertisement.clone());
            self.floods.push_back(Flood { advertisement, except: None });
        }
        if now >= self.next_expiry {
            self.next_expiry = now + Duration::from_secs(1);
            self.known.expire(now, EXPIRE, self.own.name());
        }
    }

    /// When [`Directory::handle_timeout`] has something to do; expiry alone does not count, the next call sees to it.
    pub fn poll_timeout(&self) -> Instant {
        self.own.due()
    }

    /// The next advertisement to send.
    pub fn next_flood(&mut self) -> Option<Flood> {
        self.floods.pop_front()
    }

    /// All that is known, for a neighbour that is new.
    pub fn all(&self) -> impl Iterator<Item = &Advertisement> {
        self.known.iter()
    }

    /// Counts up whenever what is known changes; a mere repetition is no change.
    pub fn generation(&self) -> u64 {
        self.known.generation()
    }

    /// Whether a stream is published anywhere that can be reached.
    pub fn is_live(&self, name: &StreamName) -> bool {
        self.publishers(name).next().is_some()
    }

    /// Where else a stream is published, other than this life of it.
    pub fn taken_elsewhere(&self, name: &StreamName, incarnation: Incarnation) -> Option<&NodeName> {
        self.publishers(name)
            .find(|(relay, stream)| *relay != self.me() && stream.incarnation != incarnation)
            .map(|(relay, _)| relay)
    }

    /// Whether a relay says that this life of a stream is published there. A relay that is not known yet may.
    pub fn may_publish(&self, ingress: &NodeName, name: &StreamName, incarnation: Incarnation) -> bool {
        match self.known.get(ingress) {
            None => true,
            Some(ad) => ad.streams.iter().any(|stream| stream.name == *name && stream.incarnation == incarnation),
        }
    }

    /// The delay of the link from one relay to another, where both say that they have it.
    pub fn delay(&self, from: &NodeName, to: &NodeName) -> Option<Duration> {
        self.known.link(from, to).map(|link| Duration::from_micros(u64::from(link.delay_us)))
    }

    /// The graphs of a stream published here, and the egresses they reach.
    pub fn graphs(&self, name: &StreamName) -> Graphs {
        routes::graphs(&self.known, self.me(), name)
    }

    /// For the report.
    pub fn report(&self) -> OverlayReport {
        let mut streams: Vec<&StreamName> = self.known.iter().flat_map(|ad| &ad.streams).map(|s| &s.name).collect();
        streams.sort_unstable();
        streams.dedup();
        OverlayReport {
            relays: self.known.iter().map(|ad| ad.origin.clone()).collect(),
            links: self.known.iter().map(|ad| ad.links.len()).sum(),
            streams: streams.len(),
            generation: self.generation(),
        }
    }

    fn publishers(&self, name: &StreamName) -> impl Iterator<Item = (&NodeName, &StreamState)> {
        let reachable = self.known.reachable(self.me());
        self.known.iter().filter(move |ad| reachable.contains(&ad.origin)).flat_map(move |ad| {
            ad.streams.iter().filter(move |stream| stream.name == *name).map(|stream| (&ad.origin, stream))
        })
    }
}

/// The graphs of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Graphs {
    /// In the order of [`crate::system::plan`]: tree, then disjoint.
    pub modules: Vec<Module>,
    /// The egresses that are reached, this relay left out.
    pub egresses: Vec<NodeName>,
}
