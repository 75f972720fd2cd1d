//! Graphs that grow redundancy where the trouble is: around the destination, around the source, or everywhere in time.
//!
//! After A. Babay, E. Wagner, M. Dinitz, Y. Amir, *Timely, Reliable, and Cost-Effective Internet Transport Service Using
//! Dissemination Graphs*, ICDCS 2017: nearly all trouble that two disjoint ways do not survive sits at an end of the
//! flow, where a packet needs as many last (or first) hops as there are.

use crate::graph::{EdgeIx, Graph, NodeIx};
use crate::module::{Demand, Egress};
use crate::sets::{EdgeSet, NodeSet};
use crate::shortest::{self, Distances};
use crate::tree::{self, Target};
use crate::weight::{REPAIR_US, Weights};

/// Links that lose so much, in parts per million, are kept out of the trees of targeted graphs where that can be.
pub const TROUBLED_PPM: u32 = 50_000;

/// The destination graph: every neighbour of `to` by which a packet can be in time, joined by a tree from `from` that
/// avoids `to`. Each neighbour is reached early enough for its own hop to be repaired once (within `budget` − (3T + Δ), T
/// being the delay of that hop) if it can be, else early enough for the hop alone. `budget` is the deadline without
/// the last mile, in microseconds. Empty where no neighbour is in time.
///
/// The tree keeps to links that lose less than [`TROUBLED_PPM`]. Neighbours that cannot be reached in time on those
/// are joined by ways over any link.
pub fn destination(graph: &Graph, from: NodeIx, to: NodeIx, budget: u64) -> EdgeSet {
    let delays = Weights::delay(graph);
    let is_sound = |edge: &EdgeIx| graph[*edge].metric.loss_ppm < TROUBLED_PPM;
    let sound = delays.only(&graph.edges().filter(is_sound).collect());
    let avoid = NodeSet::from_iter([to]);
    let away = |weights| (weights, shortest::from(graph, weights, from, &avoid));
    // Where nothing is in trouble the one way of looking at it is as good as the other.
    let second = (!graph.edges().all(|edge| is_sound(&edge))).then(|| away(&delays));
    let ways: Vec<(&Weights, Distances)> = [away(&sound)].into_iter().chain(second).collect();
    let mut targets = [Vec::new(), Vec::new()];
    let mut edges = EdgeSet::new();
    for last in graph.incoming(to) {
        let node = graph[last].from;
        // Where the trouble is, a last hop that loses nearly everything still adds its share: its bare delay counts.
        let hop = u64::from(graph[last].metric.delay_us);
        let distance =
            |(_, away): &(&Weights, Distances)| away.to(node).filter(|distance| distance.saturating_add(hop) <= budget);
        let found = ways.iter().enumerate().find_map(|(at, ways)| Some((at, distance(ways)?)));
        let Some((at, distance)) = found.filter(|_| node == from || graph.transit(node)) else { continue };
        let repaired = budget.saturating_sub(3 * hop + REPAIR_US);
        let bound = if distance <= repaired { repaired } else { budget - hop };
        targets[at].push(Target { node, bound });
        edges.insert(last);
    }
    let small = graph.node_count() <= tree::EXHAUSTIVE;
    for ((weights, away), targets) in ways.iter().zip(&targets) {
        let joined = if small {
            tree::least_edges(graph, weights, from, targets, &avoid)
        } else {
            tree::shortest_paths(graph, away, targets)
        };
        edges.union_with(&joined);
    }
    edges
}

/// The source graph: the mirror of [`destination`]. Every neighbour of `from` by which a packet can be in time, and a tree
/// of ways from them that ends at `to` and avoids `from`. `mirror` is the graph [reversed](Graph::reversed).
pub fn source(graph: &Graph, mirror: &Graph, from: NodeIx, to: NodeIx, budget: u64) -> EdgeSet {
    let turned = |edge: EdgeIx| {
        // Links that join the same two relays are in the order of their names in both graphs.
        let (from, to) = (mirror[edge].from, mirror[edge].to);
        let nth = mirror.between(from, to).position(|parallel| parallel == edge)?;
        graph.between(to, from).nth(nth)
    };
    destination(mirror, to, from, budget).iter().filter_map(turned).collect()
}

/// Every edge by which a packet can still be in time at some egress: time-constrained flooding, the upper bound of
/// what any graph delivers. Without edges into the ingress.
pub fn flood(graph: &Graph, demand: &Demand) -> EdgeSet {
    in_time(graph, demand).flatten().map(|(edge, _)| edge).collect()
}

/// For each egress but the ingress: every edge by which a packet can be in time there, and how soon it is there by the fastest way over the
/// edge. Such a way, and every shortest way to its edges, takes no other edges than these.
fn in_time<'a>(graph: &'a Graph, demand: &'a Demand) -> impl Iterator<Item = Vec<(EdgeIx, u64)>> + 'a {
    let delays = Weights::delay(graph);
    let away = shortest::from(graph, &delays, demand.ingress, &NodeSet::new());
    let egresses = demand.egresses.iter().filter(|egress| egress.node != demand.ingress);
    egresses.map(move |egress| in_time_at(graph, &delays, demand, egress, &away))
}

fn in_time_at(
    graph: &Graph,
    delays: &Weights,
    demand: &Demand,
    egress: &Egress,
    away: &Distances,
) -> Vec<(EdgeIx, u64)> {
    let budget = egress.budget_us(demand.deadline_us);
    let back = shortest::towards(graph, delays, egress.node, &NodeSet::new());
    let (away, back) = (away.around(graph, delays, egress.node), back.around(graph, delays, demand.ingress));
    let by = |edge: EdgeIx| {
        let (from, to) = (graph[edge].from, graph[edge].to);
        if !(from == demand.ingress || graph.transit(from)) || !(to == egress.node || graph.transit(to)) {
            return None;
        }
        let (a, b) = away.to(from).zip(back.to(to))?;
        Some((edge, a.saturating_add(delays[edge]).saturating_add(b))).filter(|(_, soonest)| *soonest <= budget)
    };
    graph.edges().filter_map(by).collect()
}

/// The robust graph: the edges of [`flood`] whose fastest way in time is the least detour, at most about `most` of
/// them; all of them where there are no more. Detour is measured against the shortest way to the same egress, so that
/// every edge taken comes with a whole way.
pub fn robust(graph: &Graph, demand: &Demand, most: usize) -> EdgeSet {
    let mut detours: Vec<Option<u64>> = vec![None; graph.edge_count()];
    for edges in in_time(graph, demand) {
        let direct = edges.iter().map(|(_, soonest)| *soonest).min().unwrap_or(0).max(1);
        for (edge, soonest) in edges {
            let slot = &mut detours[edge.0 as usize];
            *slot = [*slot, Some(soonest.saturating_mul(1000) / direct)].into_iter().flatten().min();
        }
    }
    let mut sorted: Vec<u64> = detours.iter().copied().flatten().collect();
    sorted.sort_unstable();
    let bound = sorted.get(most.saturating_sub(1)).or(sorted.last()).copied().unwrap_or(0);
    graph.edges().filter(|edge| detours[edge.0 as usize].is_some_and(|detour| detour <= bound)).collect()
}
