//! What this relay knows of the overlay, and says of itself: link state, streams and subscriptions, flooded. Pure.

pub mod own;

mod routes;

use crate::config::Limits;
use crate::report::OverlayReport;
use link::Instant;
use node::PortId;
use node::control::{Dissemination, Module};
use own::Own;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use topology::graph::Graph;
use topology::lsdb::{self, Advertisement, Database, Incarnation, Ingress, Outcome};
use topology::{NodeName, StreamName};

/// How often what is no longer repeated is looked for.
const EXPIRE_EVERY: Duration = Duration::from_secs(1);

/// An advertisement to be sent.
#[derive(Clone, Debug)]
pub struct Flood {
    /// What.
    pub advertisement: Arc<Advertisement>,
    /// To whom.
    pub to: Recipients,
}

/// Who is sent an advertisement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipients {
    /// Every neighbouring relay.
    All,
    /// Every one but this, whom it came from.
    AllBut(PortId),
    /// This one alone, which knows less.
    Only(PortId),
}

/// The graphs of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Graphs {
    /// In the order of [`crate::system::plan`]: tree, then disjoint where that may be used.
    pub modules: Vec<Module>,
    /// The egresses that are reached, this relay left out.
    pub egresses: Vec<NodeName>,
    /// How long the news of them takes to the last of their relays.
    pub longest: Duration,
}

/// The state of the overlay as this relay knows it. After each call, drain [`Directory::next_flood`].
#[derive(Debug)]
pub struct Directory {
    own: Own,
    database: Database,
    /// The database as a graph, as of [`Directory::generation`].
    graph: Graph,
    graph_of: u64,
    floods: VecDeque<Flood>,
    next_expiry: Instant,
}

impl Directory {
    /// Nothing known. `boot` is the node's wall clock at start in microseconds, used only to order the relay's lives.
    pub fn new(name: NodeName, boot: u64, limits: &Limits) -> Directory {
        let limits = lsdb::Limits { origins: limits.max_relays, ..lsdb::Limits::default() };
        Directory {
            own: Own::new(),
            database: Database::new(name, boot, limits),
            graph: Graph::default(),
            graph_of: 0,
            floods: VecDeque::new(),
            next_expiry: Instant::ORIGIN,
        }
    }

    /// This relay.
    pub fn me(&self) -> &NodeName {
        self.database.own()
    }

    /// The life of this relay as others know it: the boot in its last advertisement.
    pub fn boot(&self) -> u64 {
        self.database.get(self.database.own()).map_or(0, |own| own.boot)
    }

    /// What this relay says of itself; changes are told by [`Directory::handle_timeout`].
    pub fn own(&mut self) -> &mut Own {
        &mut self.own
    }

    /// What this relay says of itself.
    pub fn own_ref(&self) -> &Own {
        &self.own
    }

    /// Takes in what a neighbour says or passes on. `false` where it was out of bounds.
    pub fn receive(&mut self, now: Instant, from: PortId, advertisement: Advertisement) -> bool {
        let origin = advertisement.origin.clone();
        match self.database.apply(since_origin(now), advertisement) {
            Ok(Outcome::Newer) => {
                let stored = self.database.get(&origin).cloned();
                let to = Recipients::AllBut(from);
                self.floods.extend(stored.map(|advertisement| Flood { advertisement, to }));
            }
            Ok(Outcome::Older(advertisement)) => {
                self.floods.push_back(Flood { advertisement, to: Recipients::Only(from) });
            }
            Ok(Outcome::Overtaken) => self.own.repeat(),
            Ok(Outcome::Same) => {}
            Err(refused) => {
                tracing::warn!(%refused, "link state is not taken in");
                return false;
            }
        }
        true
    }

    /// Tells what has changed here, repeats what has not, forgets what is no longer repeated.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Some(statement) = self.own.statement(now) {
            let advertisement = self.database.announce(since_origin(now), statement);
            self.floods.push_back(Flood { advertisement, to: Recipients::All });
        }
        if now >= self.next_expiry {
            self.next_expiry = now + EXPIRE_EVERY;
            for relay in self.database.expire(since_origin(now)) {
                tracing::info!(%relay, "no longer heard of");
            }
        }
        if self.graph_of != self.database.generation() {
            self.graph_of = self.database.generation();
            self.graph = Graph::from_database(&self.database);
        }
    }

    /// When [`Directory::handle_timeout`] has something to tell; expiry alone does not count, the next call sees to it.
    pub fn poll_timeout(&self) -> Instant {
        self.own.due()
    }

    /// The next advertisement to send.
    pub fn next_flood(&mut self) -> Option<Flood> {
        self.floods.pop_front()
    }

    /// All that is known, for a neighbour that is new.
    pub fn snapshot(&self) -> Vec<Arc<Advertisement>> {
        self.database.snapshot()
    }

    /// Counts up whenever what is known changes; a mere repetition is no change.
    pub fn generation(&self) -> u64 {
        self.graph_of
    }

    /// Whether a stream is published anywhere that can be reached.
    pub fn is_live(&self, name: &StreamName) -> bool {
        !self.publishers(name).is_empty()
    }

    /// Where else a stream is published, other than this life of it.
    pub fn taken_elsewhere(&self, name: &StreamName, incarnation: Incarnation) -> Option<&NodeName> {
        let others = self.publishers(name).into_iter();
        let mut others = others.filter(|claim| claim.node != self.me() && claim.state.incarnation != incarnation);
        others.next().map(|claim| claim.node)
    }

    /// Whether a relay says that this life of a stream is published there. A relay that is not known yet may.
    pub fn may_publish(&self, ingress: &NodeName, name: &StreamName, incarnation: Incarnation) -> bool {
        let mut claims = self.database.claims(name);
        self.database.get(ingress).is_none()
            || claims.any(|claim| claim.node == ingress && claim.state.incarnation == incarnation)
    }

    /// Whether the overlay has a working link from one relay to another.
    pub fn is_up(&self, from: &NodeName, to: &NodeName) -> bool {
        let ends = self.graph.find(from).zip(self.graph.find(to));
        ends.is_some_and(|(from, to)| self.graph.between(from, to).is_some())
    }

    /// The graphs of a stream published here, and the egresses they reach.
    pub fn graphs(&self, name: &StreamName, deadline_us: u32, mode: Dissemination) -> Graphs {
        routes::graphs(&self.database, &self.graph, self.me(), name, deadline_us, mode)
    }

    /// For the report.
    pub fn report(&self) -> OverlayReport {
        OverlayReport {
            relays: self.database.iter().map(|ad| ad.origin.clone()).collect(),
            links: self.graph.edge_count(),
            streams: self.database.streams().count(),
            generation: self.generation(),
        }
    }

    fn publishers(&self, name: &StreamName) -> Vec<Ingress<'_>> {
        let reachable = routes::reachable(&self.graph, self.me());
        self.database.claims(name).filter(|claim| reachable.contains(claim.node)).collect()
    }
}

/// The database measures time from the origin of this node's clock.
fn since_origin(now: Instant) -> Duration {
    now.saturating_since(Instant::ORIGIN)
}
