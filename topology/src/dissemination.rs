//! The graphs of a stream, computed ahead by its ingress.

use crate::disjoint::{self, Disjointness, Pair};
use crate::graph::{EdgeIx, Graph, NodeIx};
use crate::module::{Demand, Egress, Module};
use crate::select::{ANSWER_US, Modules, NOTICE_US, Plan, SLOTS};
use crate::sets::{EdgeSet, NodeSet};
use crate::shortest::{self, Distances};
use crate::targeted;
use crate::terms::Tag;
use crate::tree::{self, Target};
use crate::weight::Weights;

/// The routes of one stream: a tree and a pair of disjoint ways for every egress.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// The shortest-path tree.
    pub tree: Module,
    /// The union, over egresses, of two ways that are node-disjoint where the graph allows.
    pub disjoint: Module,
    /// What each egress gets, in the order of the demand; without those that are the ingress itself.
    pub ways: Vec<Ways>,
    /// Egresses to which no way leads.
    pub unreachable: Vec<NodeIx>,
}

/// What one egress gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ways {
    /// The egress.
    pub egress: Egress,
    /// Delay of the shortest way, without the last mile, in microseconds: L1.
    pub shortest_us: u64,
    /// Delay of the later of the two disjoint ways: L2. `None` where there is one way only, or where no second one is in
    /// time.
    pub second_us: Option<u64>,
    /// How far the two are apart.
    pub disjoint: Disjointness,
    /// Whether the shortest way is within the deadline, last mile included.
    pub in_time: bool,
    /// The edges of the shortest way.
    pub shortest: EdgeSet,
    /// The edges of the two disjoint ways; the same twice where there is one.
    pub edges: [EdgeSet; 2],
    /// Carriers and sites that both depend on.
    pub shared_risks: Vec<Tag>,
}

impl Route {
    /// Computes the routes of `demand`.
    pub fn new(graph: &Graph, demand: &Demand) -> Self {
        let ways = ways(graph, demand);
        let union = |of: fn(&Ways) -> EdgeSet| {
            ways.iter().fold(EdgeSet::new(), |mut all, ways| {
                all.union_with(&of(ways));
                all
            })
        };
        let tree = Module::new(graph, demand, &union(|ways| ways.shortest.clone()));
        let disjoint = Module::new(graph, demand, &union(Ways::both));
        let found = |egress: &Egress| ways.iter().any(|ways| ways.egress.node == egress.node);
        let lost = demand.egresses.iter().filter(|egress| egress.node != demand.ingress && !found(egress));
        let unreachable = lost.map(|egress| egress.node).collect();
        Route { tree, disjoint, ways, unreachable }
    }

    /// Whether every egress has two ways in time that share no relay.
    pub fn is_disjoint(&self) -> bool {
        self.unreachable.is_empty() && self.ways.iter().all(|ways| ways.disjoint == Disjointness::Nodes)
    }
}

/// The robust graph has about so many times the edges of all other modules together, if there are as many in time.
pub const ROBUST_FACTOR: usize = 4;

/// What each egress of `demand` gets, in its order; without the ingress itself and egresses that no way leads to.
pub fn ways(graph: &Graph, demand: &Demand) -> Vec<Ways> {
    let search = Pairs::new(graph, demand.ingress, demand.deadline_us);
    let of = |egress: &Egress| {
        let (shortest_us, shortest) = (search.away.to(egress.node)?, search.away.path(graph, egress.node)?);
        let budget = egress.budget_us(demand.deadline_us);
        let in_time = shortest_us <= budget;
        let pair = search.in_time(egress.node, budget)?;
        let second_us = second_us(&search.delays, &pair).filter(|later| !in_time || *later <= budget);
        let disjoint = if second_us.is_some() { pair.disjoint } else { Disjointness::Single };
        let shared_risks = disjoint::shared_risks(graph, &pair);
        let first: EdgeSet = pair.first.iter().copied().collect();
        let second = pair.second.map_or_else(|| first.clone(), |way| way.into_iter().collect());
        let (shortest, edges) = (shortest.into_iter().collect(), [first, second]);
        Some(Ways { egress: *egress, shortest_us, second_us, disjoint, in_time, shortest, edges, shared_risks })
    };
    demand.egresses.iter().filter(|egress| egress.node != demand.ingress).filter_map(of).collect()
}

impl Ways {
    /// The edges of both disjoint ways.
    pub fn both(&self) -> EdgeSet {
        let mut both = self.edges[0].clone();
        both.union_with(&self.edges[1]);
        both
    }
}

/// All that a stream may travel on, computed ahead, as sets of edges, and the plan by which they are selected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repertoire {
    /// Sets of edges, in the slots that [`Modules`] names. A slot without edges adds nothing where it is selected.
    pub sets: Vec<EdgeSet>,
    /// What the selection depends on.
    pub plan: Plan,
    /// What each egress gets.
    pub ways: Vec<Ways>,
}

impl Repertoire {
    /// Computes all modules of `demand`. Without `pull` (an overlay in which relays keep no history) every egress is hedged.
    pub fn new(graph: &Graph, demand: &Demand, pull: bool) -> Self {
        let ways = ways(graph, demand);
        let lean_tree = lean_tree(graph, demand, &ways);
        let mirror = graph.reversed();
        let mut plan = Plan::new(graph, demand, &lean_tree, &ways, pull);
        let mut sets = vec![EdgeSet::new(); SLOTS];
        for (ways, watched) in ways.iter().zip(&mut plan.egresses) {
            let (to, budget) = (ways.egress.node, ways.egress.budget_us(demand.deadline_us));
            let both = ways.both();
            sets[slot(Modules::BASE)].union_with(if watched.lean { &watched.first } else { &both });
            sets[slot(Modules::DISJOINT)].union_with(&both);
            let source = targeted::source(graph, &mirror, demand.ingress, to, budget);
            let destination = targeted::destination(graph, demand.ingress, to, budget);
            watched.around.union_with(&source);
            watched.around.union_with(&destination);
            sets[slot(Modules::SOURCE)].union_with(&source);
            sets[slot(watched.destination)].union_with(&destination);
        }
        let mut all = sets.iter().fold(EdgeSet::new(), |mut all, set| {
            all.union_with(set);
            all
        });
        all.union_with(&targeted::robust(graph, demand, all.len() * ROBUST_FACTOR));
        sets[slot(Modules::ROBUST)] = all;
        Repertoire { sets, plan, ways }
    }

    /// Puts the lean tree in place of a base that has more than `max_cost` hundredths of its edges: a ceiling on cost stands above
    /// the hedge.
    pub fn hold_base(&mut self, graph: &Graph, demand: &Demand, max_cost: u16) {
        let tree = lean_tree(graph, demand, &self.ways);
        let base = &mut self.sets[slot(Modules::BASE)];
        if base.len() * 100 > tree.len() * usize::from(max_cost) {
            *base = tree;
        }
    }

    /// The modules to install, by slot.
    pub fn modules(&self, graph: &Graph, demand: &Demand) -> Vec<Module> {
        self.sets.iter().map(|set| Module::new(graph, demand, set)).collect()
    }

    /// The edges on which a packet with these modules travels.
    pub fn edges(&self, modules: Modules) -> EdgeSet {
        modules.slots().filter_map(|slot| self.sets.get(slot)).flat_map(EdgeSet::iter).collect()
    }
}

/// The tree of the lean base: the fewest edges with every egress within 0.6 of its deadline, last mile included, and
/// early enough to notice a loss and fetch over the second way where there is time for that; or by its shortest way
/// where none is that near.
pub fn lean_tree(graph: &Graph, demand: &Demand, ways: &[Ways]) -> EdgeSet {
    let target = |ways: &Ways| {
        let (budget, last_mile_us) = (ways.egress.budget_us(demand.deadline_us), u64::from(ways.egress.last_mile_us));
        let share = (u64::from(demand.deadline_us) * 3 / 5).saturating_sub(last_mile_us);
        let fetch = ways.second_us.map_or(0, |second| NOTICE_US + 2 * second + ANSWER_US);
        let bound = budget.checked_sub(fetch).filter(|left| *left >= ways.shortest_us).unwrap_or(share);
        Target { node: ways.egress.node, bound: bound.min(share) }
    };
    let targets: Vec<Target> = ways.iter().map(target).collect();
    tree::least_edges(graph, &Weights::delay(graph), demand.ingress, &targets, &NodeSet::new())
}

/// The slot of a single module.
fn slot(module: Modules) -> usize {
    module.0.trailing_zeros() as usize
}

/// Looks for two ways from one node to others.
struct Pairs<'a> {
    graph: &'a Graph,
    from: NodeIx,
    delays: Weights,
    expected: Weights,
    /// Shortest ways by delay.
    away: Distances,
}

impl<'a> Pairs<'a> {
    fn new(graph: &'a Graph, from: NodeIx, deadline_us: u32) -> Self {
        let (delays, expected) = (Weights::delay(graph), Weights::expected(graph, u64::from(deadline_us)));
        let away = shortest::from(graph, &delays, from, &NodeSet::new());
        Pairs { graph, from, delays, expected, away }
    }

    /// Two ways to `to` of least expected latency among the edges that lie on some way of at most `budget` microseconds; among all
    /// edges where there is none. Where it can be had in time, they share no carrier and no site. The later of the two may still be
    /// late: which pair has the earliest second way is NP-hard to say (Li, McCormick, Simchi-Levi, 1990).
    fn in_time(&self, to: NodeIx, budget: u64) -> Option<Pair> {
        let (graph, delays, from) = (self.graph, &self.delays, self.from);
        let late = |pair: &Pair| pair.second.iter().any(|way| delays.total(way.iter().copied()) > budget);
        let back = shortest::towards(graph, delays, to, &NodeSet::new());
        // No way that is in time loses an edge by it.
        let is_on_time = |edge: EdgeIx| {
            let ends = self.away.to(graph[edge].from).zip(back.to(graph[edge].to));
            ends.is_some_and(|(a, b)| a.saturating_add(delays[edge]).saturating_add(b) <= budget)
        };
        let found = disjoint::pair_apart(graph, &self.expected.kept(is_on_time), from, to, |pair| !late(pair));
        let by_delay = |found: Pair| {
            // The pair of least total delay keeps the deadline more often than that of least expected latency.
            let other = disjoint::pair(graph, &delays.kept(is_on_time), from, to);
            other.filter(|other| !late(other) && other.disjoint == found.disjoint).unwrap_or(found)
        };
        let in_time = found.map(|found| if late(&found) { by_delay(found) } else { found });
        in_time.or_else(|| disjoint::pair(graph, &self.expected, from, to))
    }
}

fn second_us(delays: &Weights, pair: &Pair) -> Option<u64> {
    let second = pair.second.as_ref()?;
    Some(delays.total(second.iter().copied()).max(delays.total(pair.first.iter().copied())))
}
