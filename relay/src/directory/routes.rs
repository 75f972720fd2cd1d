//! The graphs of a stream, from the state of the overlay.

use super::Graphs;
use node::control::{Dissemination, Edge, Module};
use std::collections::BTreeSet;
use std::time::Duration;
use topology::dissemination::Route;
use topology::graph::{Graph, NodeIx};
use topology::lsdb::Database;
use topology::module::{self, Demand, Egress};
use topology::{NodeName, StreamName};

/// The graphs of a stream that enters at `ingress`, in the order of [`crate::system::plan`].
pub(super) fn graphs(
    database: &Database,
    graph: &Graph,
    ingress: &NodeName,
    name: &StreamName,
    deadline_us: u32,
    mode: Dissemination,
) -> Graphs {
    let Some(at) = graph.find(ingress) else { return Graphs::default() };
    let egress = |(relay, last_mile_us): (&NodeName, u32)| {
        let node = graph.find(relay).filter(|node| *node != at)?;
        Some(Egress { node, last_mile_us })
    };
    let demand = Demand { ingress: at, egresses: database.egresses(name).filter_map(egress).collect(), deadline_us };
    let route = Route::new(graph, &demand);
    // What may never be used is not installed.
    let modules: &[&module::Module] =
        if mode == Dissemination::Tree { &[&route.tree] } else { &[&route.tree, &route.disjoint] };
    let reach_us = modules.iter().map(|module| module.reach_us).max().unwrap_or(0);
    Graphs {
        modules: modules.iter().map(|module| named(graph, module)).collect(),
        egresses: route.ways.iter().map(|ways| graph.name(ways.egress.node).clone()).collect(),
        longest: Duration::from_micros(reach_us),
    }
}

fn named(graph: &Graph, module: &module::Module) -> Module {
    let edge = |edge: &module::ModuleEdge| Edge {
        from: graph.name(edge.from).clone(),
        to: graph.name(edge.to).clone(),
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
