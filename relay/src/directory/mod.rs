//! What this relay knows of the overlay, and says of itself: link state, streams and subscriptions, flooded. Pure.

pub mod own;
mod pace;

mod gone;
mod routes;
mod view;

use crate::config::Limits;
use crate::report::{LinkCapacity, OverlayLink, OverlayReport};
use gone::Gone;
use link::Instant;
use node::PortId;
use node::control::{Control, Dissemination, Module};
use node::trust::Seal;
use own::Own;
use pace::Pace;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use topology::graph::{EdgeIx, Graph};
use topology::lsdb::{
    self, Advertisement, Database, Incarnation, Ingress, LinkTrouble, Outcome, StreamState, TroubleOutcome,
    TroubleReport,
};
use topology::select;
use topology::sets::NodeSet;
use topology::shortest;
use topology::sieve::Policy;
use topology::terms::{Full, Need, Room};
use topology::trouble::Condition;
use topology::weight::{DEAD_PPM, Weights};
use topology::{LinkEnd, NodeName, StreamName};

/// How often what is no longer repeated is looked for.
const EXPIRE_EVERY: Duration = Duration::from_secs(1);

/// News to be sent.
#[derive(Clone, Debug)]
pub struct Flood {
    /// What.
    pub news: News,
    /// To whom.
    pub to: Recipients,
}

/// What is flooded: a message, signed by its origin where the overlay has keys, and passed on as it came.
#[derive(Clone, Debug)]
pub struct News {
    /// Who says it.
    pub origin: NodeName,
    /// What it says.
    pub message: Rc<Control>,
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
#[derive(Clone, Debug, Default)]
pub struct Graphs {
    /// By slot, as [`topology::select::Modules`] has them.
    pub modules: Vec<Module>,
    /// By which of them packets travel.
    pub rule: Rule,
    /// The egresses that are reached, this relay left out.
    pub egresses: Vec<NodeName>,
    /// How long the news of them takes to the last of their relays.
    pub longest: Duration,
    /// Bare transit from here to the farthest sink, on the way that is taken where nothing is wrong.
    pub rest: Duration,
    /// Why they are not what delays alone would make them, for people.
    pub why: Vec<String>,
    /// The modules whose links are asked for room: those used while nothing is wrong.
    pub reserved: select::Modules,
    /// Egresses that are left out for want of room.
    pub unserved: Vec<(NodeName, Full)>,
    /// The most links that a packet may take, where there is such a ceiling.
    pub max_edges: Option<usize>,
}

/// What a stream asks of the overlay.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    /// One-way deadline in microseconds, without the first mile.
    pub deadline_us: u32,
    /// How it shall be spread.
    pub mode: Dissemination,
    /// Its life.
    pub life: Incarnation,
    /// What it needs of each link.
    pub need: Need,
    /// Ceiling on its cost, as [`node::control::Wants::max_cost`].
    pub max_cost: u16,
    /// The links that it is admitted to already, by their ends.
    pub has: &'a BTreeSet<(NodeName, LinkEnd)>,
}

/// By which modules packets travel.
#[derive(Clone, Debug)]
pub enum Rule {
    /// By these, whatever happens.
    Fixed(select::Modules),
    /// As the conditions of links demand.
    Watched(Rc<Watched>),
}

impl Rule {
    /// The modules used while nothing is wrong.
    pub fn quiet(&self) -> select::Modules {
        match self {
            Rule::Fixed(modules) => *modules,
            Rule::Watched(_) => select::Modules::BASE,
        }
    }
}

impl Default for Rule {
    fn default() -> Rule {
        Rule::Fixed(select::Modules::BASE)
    }
}

/// What a choice depends on, and the graph whose edges it speaks of.
#[derive(Debug)]
pub struct Watched {
    graph: Rc<Graph>,
    /// The choice.
    pub plan: select::Plan,
}

impl Watched {
    /// What a choice by `plan` depends on, whose edges are those of `graph`.
    pub fn new(graph: Rc<Graph>, plan: select::Plan) -> Watched {
        Watched { graph, plan }
    }

    /// Whether graphs computed while `before` was in trouble are the right ones while `now` is. A link that has come into
    /// trouble where no graph runs changes none; one that was in trouble may have been avoided, and a change of it always
    /// counts.
    pub fn holds(&self, before: &[(EdgeIx, Condition)], now: &[(EdgeIx, Condition)]) -> bool {
        let is_used = |edge: EdgeIx| self.plan.egresses.iter().any(|egress| egress.around.contains(edge));
        before.iter().all(|known| now.contains(known))
            && now.iter().all(|known| before.contains(known) || !is_used(known.0))
    }

    /// The edges of its graph among `troubled`.
    pub fn conditions(&self, troubled: &[Troubled]) -> Vec<(EdgeIx, Condition)> {
        let edge = |(from, to, condition): &Troubled| Some((self.graph.find_edge(from, to)?, *condition));
        troubled.iter().filter_map(edge).collect()
    }
}

/// A link in trouble: who sends on it, the link, and how it is.
pub type Troubled = (NodeName, LinkEnd, Condition);

/// The state of the overlay as this relay knows it. After each call, drain [`Directory::next_flood`].
#[derive(Debug)]
pub struct Directory {
    own: Own,
    database: Database,
    /// The database as a graph, as of [`Directory::generation`].
    graph: Rc<Graph>,
    graph_of: u64,
    floods: VecDeque<Flood>,
    seal: Option<Rc<Seal>>,
    /// What stands, in the form in which it is passed on.
    advertised: BTreeMap<NodeName, Rc<Control>>,
    reported: BTreeMap<NodeName, Rc<Control>>,
    /// What was last said of the links into this relay, and when.
    troubles: Vec<LinkTrouble>,
    troubles_told: Option<Instant>,
    next_expiry: Instant,
    /// How often each relay speaks: advertisements, reports.
    paces: [Pace; 2],
    /// Statements that came too often.
    excess: u64,
    gone: Gone,
    policy: Policy,
}

impl Directory {
    /// Nothing known. `boot` is the node's wall clock at start in microseconds, used only to order the relay's lives.
    pub fn new(name: NodeName, boot: u64, limits: &Limits, seal: Option<Rc<Seal>>) -> Directory {
        let limits = lsdb::Limits { origins: limits.max_relays, ..lsdb::Limits::default() };
        Directory {
            own: Own::new(),
            database: Database::new(name, boot, limits),
            graph: Rc::default(),
            graph_of: 0,
            floods: VecDeque::new(),
            seal,
            advertised: BTreeMap::new(),
            reported: BTreeMap::new(),
            troubles: Vec::new(),
            troubles_told: None,
            next_expiry: Instant::ORIGIN,
            paces: Default::default(),
            excess: 0,
            gone: Gone::default(),
            policy: Policy::default(),
        }
    }

    /// This relay.
    pub fn me(&self) -> &NodeName {
        self.database.own()
    }

    /// Links that it may tell of: an advertisement of more is refused whole by all others.
    pub fn most_links(&self) -> usize {
        lsdb::Limits::default().links
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

    /// Takes in what a neighbour says or passes on; `message` is what it came as. `false` where it was out of bounds.
    pub fn receive(&mut self, now: Instant, from: PortId, ad: Advertisement, message: Rc<Control>) -> bool {
        let origin = ad.origin.clone();
        let newer = self.database.get(&origin).is_none_or(|known| (known.boot, known.seq) < (ad.boot, ad.seq));
        if newer && origin != *self.me() && !self.paces[0].admits(now, &origin) {
            self.excess += 1;
            return true;
        }
        match self.database.apply(since_origin(now), ad) {
            Ok(Outcome::Newer) => {
                self.advertised.insert(origin.clone(), message.clone());
                self.flood(origin, message, Recipients::AllBut(from));
            }
            Ok(Outcome::Older(_)) => {
                if let Some(stands) = self.advertised.get(&origin).cloned() {
                    self.flood(origin, stands, Recipients::Only(from));
                }
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

    /// Takes in what a relay says of the links into it, as [`Directory::receive`] does.
    pub fn receive_trouble(&mut self, now: Instant, from: PortId, report: TroubleReport, message: Rc<Control>) -> bool {
        let origin = report.origin.clone();
        let newer =
            self.database.trouble(&origin).is_none_or(|known| (known.boot, known.seq) < (report.boot, report.seq));
        if newer && origin != *self.me() && !self.paces[1].admits(now, &origin) {
            self.excess += 1;
            return true;
        }
        match self.database.apply_trouble(since_origin(now), report) {
            Ok(TroubleOutcome::Newer(_)) => {
                self.reported.insert(origin.clone(), message.clone());
                self.flood(origin, message, Recipients::AllBut(from));
            }
            Ok(TroubleOutcome::Older(_)) => {
                if let Some(stands) = self.reported.get(&origin).cloned() {
                    self.flood(origin, stands, Recipients::Only(from));
                }
            }
            Ok(TroubleOutcome::Overtaken) => self.troubles_told = None,
            Ok(TroubleOutcome::Same) => {}
            Err(refused) => {
                tracing::warn!(%refused, "a report of trouble is not taken in");
                return false;
            }
        }
        true
    }

    fn flood(&mut self, origin: NodeName, message: Rc<Control>, to: Recipients) {
        self.floods.push_back(Flood { news: News { origin, message }, to });
    }

    /// Says all that this relay says of itself again: its key is another one.
    pub fn sign_anew(&mut self) {
        self.own.repeat();
        self.troubles_told = None;
    }

    /// A message of this relay as it is sent: signed, where there is a key.
    pub fn sealed(&self, message: Control) -> Rc<Control> {
        let signed = self.seal.as_ref().map(|seal| seal.sign(&message));
        Rc::new(match signed {
            Some(Ok(signed)) => Control::Signed(signed),
            Some(Err(error)) => {
                tracing::error!(%error, "a statement cannot be signed");
                message
            }
            None => message,
        })
    }

    /// Who said what came, and what: a signed statement must be its signer's own, and where there is a key only signed ones
    /// are believed.
    pub fn opened(&self, message: &Control, unix: u64) -> Result<Control, String> {
        let (signer, inner) = match (message, &self.seal) {
            (Control::Signed(signed), Some(seal)) => seal.open(signed, unix).map_err(|error| error.to_string())?,
            (Control::Signed(_), None) => return Err("signed, and there is no key to check it by".to_owned()),
            (_, Some(_)) => return Err("it is not signed".to_owned()),
            (plain, None) => return Ok(plain.clone()),
        };
        let origin = match &inner {
            Control::Advertise(ad) => &ad.origin,
            Control::Trouble(report) => &report.origin,
            Control::Install(install) => &install.ingress,
            _ => return Err(format!("{signer} signed what is no statement")),
        };
        if *origin != signer {
            return Err(format!("{signer} signed it in the name of {origin}"));
        }
        Ok(inner)
    }

    /// Says of the links into this relay which are in trouble; told at once where that has changed.
    pub fn set_troubles(&mut self, now: Instant, troubles: Vec<LinkTrouble>) {
        let stale = self.troubles_told.is_none_or(|told| now.saturating_since(told) >= lsdb::REFRESH);
        if !stale && troubles == self.troubles {
            return;
        }
        self.troubles_told = Some(now);
        self.troubles = troubles.clone();
        let report = self.database.announce_trouble(since_origin(now), troubles);
        let message = self.sealed(Control::Trouble((*report).clone()));
        self.reported.insert(report.origin.clone(), message.clone());
        self.flood(report.origin.clone(), message, Recipients::All);
    }

    /// How many of the links into this relay are in trouble.
    pub fn own_in_trouble(&self) -> usize {
        self.troubles.iter().filter(|link| link.condition().is_troubled()).count()
    }

    /// All links in trouble, as far as is known.
    pub fn troubled(&self) -> Vec<Troubled> {
        let of = |report: &Arc<TroubleReport>| {
            let to = &report.origin;
            let link = |link: &LinkTrouble| (link.peer.relay.clone(), link.peer.from_other_end(to), link.condition());
            report.links.iter().map(link).collect::<Vec<_>>()
        };
        self.database.troubles().flat_map(of).collect()
    }

    /// Tells what has changed here, repeats what has not, forgets what is no longer repeated.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Some(statement) = self.own.statement(now) {
            let advertisement = self.database.announce(since_origin(now), statement);
            let message = self.sealed(Control::Advertise((*advertisement).clone()));
            self.advertised.insert(advertisement.origin.clone(), message.clone());
            self.flood(advertisement.origin.clone(), message, Recipients::All);
        }
        if now >= self.next_expiry {
            self.next_expiry = now + EXPIRE_EVERY;
            for relay in self.database.expire(since_origin(now)) {
                tracing::info!(%relay, "no longer heard of");
                self.advertised.remove(&relay);
                self.reported.remove(&relay);
            }
            self.paces.iter_mut().for_each(|pace| pace.expire(now));
        }
        if self.graph_of != self.database.generation() {
            self.graph_of = self.database.generation();
            let graph = Rc::new(Graph::from_database(&self.database));
            self.gone.follow(now, &self.graph, &graph);
            self.graph = graph;
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
    pub fn snapshot(&self) -> Vec<News> {
        // This relay's own first, so that the neighbour can use it at once.
        let me = self.me();
        let own = self.advertised.get_key_value(me);
        let others = self.advertised.iter().filter(|(origin, _)| *origin != me);
        let all = own.into_iter().chain(others).chain(&self.reported);
        all.map(|(origin, message)| News { origin: origin.clone(), message: message.clone() }).collect()
    }

    /// Counts up whenever what is known changes; a mere repetition is no change.
    pub fn generation(&self) -> u64 {
        self.graph_of
    }

    /// As [`Directory::generation`], without the changes of the conditions of links.
    pub fn topology(&self) -> u64 {
        self.database.topology_generation()
    }

    /// Whether a stream is published anywhere that can be reached.
    pub fn is_live(&self, name: &StreamName) -> bool {
        !self.publishers(name).is_empty()
    }

    /// The first stream that fits, of a relay that can be reached: which relay, and what it says of it.
    pub fn find(&self, fits: impl Fn(&Ingress<'_>) -> bool) -> Option<(NodeName, StreamState)> {
        let reachable = routes::reachable(&self.graph, self.me());
        let mut claims = self.database.streams().flat_map(|name| self.database.claims(name));
        let found = claims.find(|claim| fits(claim) && reachable.contains(claim.node))?;
        Some((found.node.clone(), found.state.clone()))
    }

    /// Where else a stream is published, other than this life of it.
    pub fn taken_elsewhere(&self, name: &StreamName, incarnation: Incarnation) -> Option<&NodeName> {
        let others = self.publishers(name).into_iter();
        let mut others = others.filter(|claim| claim.node != self.me() && claim.state.incarnation != incarnation);
        others.next().map(|claim| claim.node)
    }

    /// Whether a relay says that this life of a stream is published there. A relay that is not known yet may.
    pub fn may_publish(&self, ingress: &NodeName, name: &StreamName, incarnation: Incarnation) -> bool {
        self.database.get(ingress).is_none() || self.advertises(ingress, name, incarnation)
    }

    /// Whether a relay says that this life of a stream is published there.
    pub fn advertises(&self, ingress: &NodeName, name: &StreamName, incarnation: Incarnation) -> bool {
        let mut claims = self.database.claims(name);
        claims.any(|claim| claim.node == ingress && claim.state.incarnation == incarnation)
    }

    /// The life of a stream that a relay says is published there.
    pub fn advertised(&self, ingress: &NodeName, name: &StreamName) -> Option<Incarnation> {
        self.database.claims(name).find(|claim| claim.node == ingress).map(|claim| claim.state.incarnation)
    }

    /// As [`Directory::advertises`], of a relay that can be reached.
    pub fn holds(&self, ingress: &NodeName, name: &StreamName, incarnation: Incarnation) -> bool {
        let holds = |claim: &Ingress<'_>| claim.node == ingress && claim.state.incarnation == incarnation;
        self.publishers(name).iter().any(holds)
    }

    /// Whether a link of a relay works: it is there, and does not lose everything.
    pub fn is_up(&self, from: &NodeName, to: &LinkEnd) -> bool {
        let edge = self.graph.find_edge(from, to);
        edge.is_some_and(|edge| self.graph[edge].metric.loss_ppm < DEAD_PPM)
    }

    /// The graphs of a stream published here, and the egresses they reach.
    pub fn graphs(&self, name: &StreamName, asked: &Asked<'_>) -> Graphs {
        routes::graphs(&self.database, &self.graph, self.me(), name, asked, &self.policy)
    }

    /// The relays that can be reached from here, this one included.
    pub fn reachable(&self) -> BTreeSet<NodeName> {
        routes::reachable(&self.graph, self.me())
    }

    /// How many relays a relay has links to.
    pub fn degree(&self, relay: &NodeName) -> usize {
        let Some(relay) = self.graph.find(relay) else { return 0 };
        // In the order of the relays that they lead to.
        let mut joined: Vec<_> = self.graph.outgoing(relay).map(|edge| self.graph[edge].to).collect();
        joined.dedup();
        joined.len()
    }

    /// Whether a relay says that it chooses its neighbours by itself.
    pub fn chooses_neighbours(&self, relay: &NodeName) -> bool {
        self.database.get(relay).is_some_and(|ad| ad.terms.auto)
    }

    /// Where other relays say that they can be dialled.
    pub fn addresses(&self) -> impl Iterator<Item = (NodeName, String)> {
        let others = self.database.iter().filter(|ad| ad.origin != *self.me());
        others.filter_map(|ad| Some((ad.origin.clone(), ad.terms.address.clone()?)))
    }

    /// The other relays that can be reached, the nearest first.
    pub fn by_distance(&self) -> Vec<NodeName> {
        let Some(me) = self.graph.find(self.me()) else { return Vec::new() };
        let ways = shortest::from(&self.graph, &Weights::delay(&self.graph), me, &NodeSet::new());
        let others = self.graph.nodes().filter(|node| *node != me);
        let mut reached: Vec<(u64, NodeName)> =
            others.filter_map(|node| Some((ways.to(node)?, self.graph.name(node).clone()))).collect();
        reached.sort();
        reached.into_iter().map(|(_, name)| name).collect()
    }

    /// What streams that enter here would rather use; whether that is new.
    pub fn set_policy(&mut self, policy: Policy) -> bool {
        std::mem::replace(&mut self.policy, policy) != self.policy
    }

    /// Why a stream is not carried to an egress, where its ingress says that links are full.
    pub fn unserved(&self, name: &StreamName, egress: &NodeName) -> Option<&Full> {
        let ingress = self.database.ingress(name)?.node;
        let told = &self.database.get(ingress)?.terms.unserved;
        told.iter().find(|told| told.stream == *name && told.egress == *egress).map(|told| &told.full)
    }

    /// The links of the overlay that bound what is admitted to them, and what is left.
    pub fn capacities(&self) -> Vec<LinkCapacity> {
        let bounded = self.graph.edges().filter_map(|edge| Some((edge, self.graph.room(edge)?)));
        let view = |(edge, room): (EdgeIx, Room)| {
            let (from, to) = (self.graph.name(self.graph[edge].from), self.graph.far_end(edge));
            let bits = |kbps: u32| u64::from(kbps) * 1000;
            LinkCapacity {
                from: from.clone(),
                used: self.flow(from, &to).map(|flow| bits(flow.rate_kbps)),
                to,
                admissible: bits(room.most_kbps),
                admitted_high: bits(room.high_kbps),
                admitted_normal: bits(room.normal_kbps),
                left: bits(room.left_kbps(false)),
                left_high: bits(room.left_kbps(true)),
            }
        };
        bounded.map(view).collect()
    }

    /// Statements thrown away because their origin speaks too often.
    pub fn excess(&self) -> u64 {
        self.excess
    }

    /// For the report.
    pub fn report(&self) -> OverlayReport {
        OverlayReport {
            relays: self.database.iter().map(|ad| ad.origin.clone()).collect(),
            links: self.graph.edge_count(),
            link_states: self.graph.edges().map(|edge| self.link_state(edge)).collect(),
            streams: self.database.streams().count(),
            generation: self.generation(),
        }
    }

    fn link_state(&self, edge: EdgeIx) -> OverlayLink {
        let tags = self.graph.edge_tags(edge).iter().map(ToString::to_string).collect();
        let to = self.graph.far_end(edge);
        let edge = self.graph[edge];
        let from = self.graph.name(edge.from);
        OverlayLink {
            from: from.clone(),
            delay_ms: f64::from(edge.metric.delay_us) / 1000.0,
            loss: f64::from(edge.metric.loss_ppm) / 1e6,
            late: self.database.condition(from, &to).is_some_and(|condition| condition.late),
            to,
            cost: edge.metric.cost,
            tags,
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
