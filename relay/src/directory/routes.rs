//! The graphs of a stream, from the state of the overlay.

use super::{Asked, Graphs, Rule, Watched};
use node::control::{Dissemination, Edge, Module};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;
use topology::dissemination::{self, Repertoire, Route, Ways};
use topology::graph::{Graph, NodeIx};
use topology::lsdb::Database;
use topology::module::{self, Demand, Egress};
use topology::select::Modules;
use topology::sieve::{Claim, Policy, Sieved, sieve};
use topology::targeted;
use topology::{NodeName, StreamName};

/// The graphs of a stream that enters at `ingress`.
pub(super) fn graphs(
    database: &Database,
    graph: &Rc<Graph>,
    ingress: &NodeName,
    name: &StreamName,
    asked: &Asked<'_>,
    policy: &Policy,
) -> Graphs {
    let Asked { deadline_us, mode, .. } = *asked;
    let Some(at) = graph.find(ingress) else { return Graphs::default() };
    let egress = |(relay, last_mile_us): (&NodeName, u32)| {
        let node = graph.find(relay).filter(|node| *node != at)?;
        Some(Egress { node, last_mile_us })
    };
    let here = database.egresses(name).find(|(relay, _)| *relay == ingress).map_or(0, |(_, last_mile_us)| last_mile_us);
    let all = Demand { ingress: at, egresses: database.egresses(name).filter_map(egress).collect(), deadline_us };
    let has = asked.has.iter().filter_map(|(from, to)| graph.find_edge(from, to)).collect();
    let Sieved { graph, why, unserved } =
        sieve(graph, &all, policy, &Claim { life: asked.life, need: asked.need, has });
    let is_served = |egress: &&Egress| unserved.iter().all(|(node, _)| *node != egress.node);
    let demand = Demand { egresses: all.egresses.iter().filter(is_served).copied().collect(), ..all.clone() };
    let graph = &graph;
    let (modules, rule, ways) = spread(graph, &demand, mode, asked.max_cost);
    let mut why: Vec<String> = why.iter().map(ToString::to_string).collect();
    why.extend(ways.iter().filter_map(|ways| kinship(graph, ways)));
    let reach_us = modules.iter().map(|module| module.reach_us).max().unwrap_or(0);
    let rest_us = modules.first().map_or(0, |base| base.rest_us).max(here.into());
    Graphs {
        modules: modules.iter().map(|module| named(graph, module)).collect(),
        egresses: ways.iter().map(|ways| graph.name(ways.egress.node).clone()).collect(),
        longest: Duration::from_micros(reach_us),
        rest: Duration::from_micros(rest_us),
        why,
        reserved: rule.quiet(),
        unserved: unserved.into_iter().map(|(node, full)| (graph.name(node).clone(), full)).collect(),
        rule,
        max_edges: max_edges(graph, &demand, &ways, asked.max_cost),
    }
}

/// That both ways to an egress fail together, where they do.
fn kinship(graph: &Graph, ways: &Ways) -> Option<String> {
    let shared: Vec<&str> = ways.shared_risks.iter().map(|tag| tag.as_str()).collect();
    let to = graph.name(ways.egress.node);
    (!shared.is_empty()).then(|| format!("both ways to {to} depend on {}: no others are in time", shared.join(", ")))
}

/// The most links that a packet may take, where its source says so: a multiple of the tree with the fewest.
fn max_edges(graph: &Graph, demand: &Demand, ways: &[Ways], max_cost: u16) -> Option<usize> {
    let tree = || dissemination::lean_tree(graph, demand, ways).len();
    (max_cost > 0).then(|| (tree() * usize::from(max_cost) / 100).max(1))
}

/// The modules of a demand, by which of them packets travel, and what each egress gets. Two disjoint ways are there in
/// every mode: what is missing is asked for along them.
fn spread(
    graph: &Rc<Graph>,
    demand: &Demand,
    mode: Dissemination,
    max_cost: u16,
) -> (Vec<module::Module>, Rule, Vec<Ways>) {
    let pull = match mode {
        Dissemination::Auto => true,
        Dissemination::Targeted => false,
        Dissemination::Tree | Dissemination::Disjoint | Dissemination::Flood => {
            let route = Route::new(graph, demand);
            let hedged = mode == Dissemination::Disjoint && !route.disjoint.edges.is_empty();
            let first = match mode {
                Dissemination::Flood => module::Module::new(graph, demand, &targeted::flood(graph, demand)),
                _ => route.tree,
            };
            let used = if hedged { Modules::DISJOINT } else { Modules::BASE };
            return (vec![first, route.disjoint], Rule::Fixed(used), route.ways);
        }
    };
    let mut repertoire = Repertoire::new(graph, demand, pull);
    if max_cost > 0 {
        repertoire.hold_base(graph, demand, max_cost);
    }
    let modules = repertoire.modules(graph, demand);
    let watched = Watched::new(graph.clone(), repertoire.plan);
    (modules, Rule::Watched(Rc::new(watched)), repertoire.ways)
}

fn named(graph: &Graph, module: &module::Module) -> Module {
    let edge = |edge: &module::ModuleEdge| Edge {
        from: graph.name(edge.from).clone(),
        to: graph.far_end(edge.edge),
        rest_min_us: edge.rest_min_us,
        rest_max_us: edge.rest_max_us,
    };
    Module { edges: module.edges.iter().map(edge).collect() }
}

/// The relays that can be reached from `from`, itself included.
pub(super) fn reachable(graph: &Graph, from: &NodeName) -> BTreeSet<NodeName> {
    let mut seen: BTreeSet<NodeIx> = BTreeSet::new();
    let mut frontier: Vec<NodeIx> = graph.find(from).into_iter().collect();
    while let Some(node) = frontier.pop() {
        if seen.insert(node) {
            frontier.extend(graph.outgoing(node).map(|edge| graph[edge].to));
        }
    }
    seen.into_iter().map(|node| graph.name(node).clone()).collect()
}
