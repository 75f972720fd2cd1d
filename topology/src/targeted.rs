//! Graphs that grow redundancy where the trouble is: around the destination, around the source, or everywhere in time.
//!
//! After A. Babay, E. Wagner, M. Dinitz, Y. Amir, *Timely, Reliable, and Cost-Effective Internet Transport Service Using
//! Dissemination Graphs*, ICDCS 2017: nearly all trouble that two disjoint ways do not survive sits at an end of the
//! flow, where a packet needs as many last (or first) hops as there are.

use crate::graph::{EdgeIx, Graph, NodeIx};
use crate::module::Demand;
use crate::sets::{EdgeSet, NodeSet};
use crate::shortest;
use crate::tree::{self, Target};
use crate::weight::{REPAIR_US, Weights};

/// The destination graph: every neighbour of `to` by which a packet can be in time, joined by a tree from `from` that
/// avoids `to`. Each neighbour is reached early enough for its own hop to be repaired once (within `budget` − (3T + Δ), T
/// being the delay of that hop) if it can be, else early enough for the hop alone. `budget` is the deadline without
/// the last mile, in microseconds. Empty where no neighbour is in time.
pub fn destination(graph: &Graph, from: NodeIx, to: NodeIx, budget: u64) -> EdgeSet {
    let delays = Weights::delay(graph);
    let avoid = NodeSet::from_iter([to]);
    let away = shortest::from(graph, &delays, from, &avoid);
    let mut targets = Vec::new();
    let mut edges = EdgeSet::new();
    for last in graph.incoming(to) {
        let node = graph[last].from;
        let (hop, passes) = (delays[last], node == from || graph.transit(node));
        let Some(distance) = away.to(node).filter(|distance| passes && distance.saturating_add(hop) <= budget) else {
            continue;
        };
        let repaired = budget.saturating_sub(3 * hop + REPAIR_US);
        let bound = if distance <= repaired { repaired } else { budget - hop };
        targets.push(Target { node, bound });
        edges.insert(last);
    }
    let joined = if graph.node_count() <= tree::EXHAUSTIVE {
        tree::least_edges(graph, &delays, from, &targets, &avoid)
    } else {
        tree::shortest_paths(graph, &delays, from, &targets, &avoid)
    };
    edges.union_with(&joined);
    edges
}

/// The source graph: the mirror of [`destination`]. Every neighbour of `from` by which a packet can be in time, and a tree
/// of ways from them that ends at `to` and avoids `from`.
pub fn source(graph: &Graph, from: NodeIx, to: NodeIx, budget: u64) -> EdgeSet {
    let mirror = graph.reversed();
    let mirrored = destination(&mirror, to, from, budget);
    mirrored.iter().filter_map(|edge| graph.between(mirror[edge].to, mirror[edge].from)).collect()
}

/// Every edge by which a packet can still be in time at some egress: time-constrained flooding, the upper bound of
/// what any graph delivers. Without edges into the ingress.
pub fn flood(graph: &Graph, demand: &Demand) -> EdgeSet {
    let (delays, mut edges) = (Weights::delay(graph), EdgeSet::new());
    for egress in demand.egresses.iter().filter(|egress| egress.node != demand.ingress) {
        let budget = egress.budget_us(demand.deadline_us);
        let away = shortest::from(graph, &delays, demand.ingress, &NodeSet::from_iter([egress.node]));
        let back = shortest::towards(graph, &delays, egress.node, &NodeSet::from_iter([demand.ingress]));
        let in_time = |edge: &EdgeIx| {
            let (from, to) = (graph[*edge].from, graph[*edge].to);
            if !(from == demand.ingress || graph.transit(from)) || !(to == egress.node || graph.transit(to)) {
                return false;
            }
            let ends = away.to(from).zip(back.to(to));
            ends.is_some_and(|(a, b)| a.saturating_add(delays[*edge]).saturating_add(b) <= budget)
        };
        edges.extend(graph.edges().filter(in_time));
    }
    edges
}
