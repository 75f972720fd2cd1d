//! Random graphs, and slow but plain answers to check the fast ones against.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its share")]
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use anabranch_topology::graph::{EdgeIx, Graph, Metric, NodeIx};
use anabranch_topology::module::{Demand, Egress};
use anabranch_topology::shortest::Path;
use anabranch_topology::trouble::{Condition, Level};
use anabranch_topology::weight::Weights;
use anabranch_topology::{LinkEnd, NodeName};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

/// At least `cases` cases, more where `PROPTEST_CASES` says so; failing seeds are pinned beside the test.
pub fn cases(cases: u32) -> ProptestConfig {
    let failure_persistence = Some(Box::new(FileFailurePersistence::WithSource("regressions")) as _);
    let asked = ProptestConfig::default();
    let cases = if asked.cases > 256 { asked.cases } else { cases };
    ProptestConfig { cases, failure_persistence, ..asked }
}

/// A name for a number, in the order of numbers.
pub fn name(number: usize) -> NodeName {
    format!("n{number:03}").parse().unwrap()
}

/// Directed graphs of up to `most` nodes; half of the links go both ways alike, delays are 1 to 40 ms. Some join two nodes beside others.
pub fn graphs(most: usize) -> impl Strategy<Value = Graph> {
    (2..=most).prop_flat_map(|nodes| {
        let name_of_link = prop_oneof![3 => Just(None), 1 => Just(Some("fibre")), 1 => Just(Some("sat"))];
        let link = (0..nodes, 0..nodes, name_of_link, 1u32..40, 0u32..100_000, any::<bool>());
        let links = prop::collection::vec(link, 0..nodes * 3);
        let drained = prop::collection::vec(prop::bool::weighted(0.05), nodes);
        (drained, links).prop_map(move |(drained, links)| {
            let nodes = drained.iter().enumerate().map(|(at, drained)| (name(at), !drained));
            let directed = links.into_iter().flat_map(|(a, b, link, ms, loss_ppm, both)| {
                let metric = Metric { delay_us: ms * 1000, loss_ppm, cost: 1 };
                let end = |relay| LinkEnd { relay: name(relay), link: link.map(|link| link.parse().unwrap()) };
                [Some((name(a), end(b), metric)), both.then(|| (name(b), end(a), metric))]
            });
            Graph::new(nodes, directed.flatten())
        })
    })
}

/// A graph and a demand on it with up to `egresses` egresses and a deadline that some ways meet and others do not.
pub fn demands(most: usize, egresses: usize) -> impl Strategy<Value = (Graph, Demand)> {
    let wanted = prop::collection::vec((any::<prop::sample::Index>(), 0u32..10), 1..=egresses);
    (graphs(most), any::<prop::sample::Index>(), wanted, 20u32..150).prop_map(|(graph, ingress, wanted, ms)| {
        let node = |index: prop::sample::Index| NodeIx(index.index(graph.node_count()) as u32);
        let ingress = node(ingress);
        let mut egresses: Vec<Egress> =
            wanted.into_iter().map(|(at, ms)| Egress { node: node(at), last_mile_us: ms * 1000 }).collect();
        egresses.sort_by_key(|egress| egress.node);
        egresses.dedup_by_key(|egress| egress.node);
        (graph, Demand { ingress, egresses, deadline_us: ms * 1000 })
    })
}

/// As [`demands`], with one egress that is not the ingress.
pub fn flows(most: usize) -> impl Strategy<Value = (Graph, Demand)> {
    demands(most, 1).prop_map(|(graph, mut demand)| {
        let (nodes, egress) = (graph.node_count() as u32, demand.egresses[0].node.0);
        if egress == demand.ingress.0 {
            demand.egresses[0].node = NodeIx((egress + 1) % nodes);
        }
        (graph, demand)
    })
}

/// Every way without repeated nodes from `from` to `to` along edges that `usable` allows.
pub fn simple_paths(graph: &Graph, from: NodeIx, to: NodeIx, usable: &dyn Fn(EdgeIx) -> bool) -> Vec<Path> {
    let mut found = Vec::new();
    extend(graph, to, usable, &mut vec![from], &mut Path::new(), &mut found);
    found
}

fn extend(
    graph: &Graph,
    to: NodeIx,
    usable: &dyn Fn(EdgeIx) -> bool,
    nodes: &mut Vec<NodeIx>,
    path: &mut Path,
    found: &mut Vec<Path>,
) {
    let at = nodes[nodes.len() - 1];
    if at == to {
        found.push(path.clone());
        return;
    }
    if nodes.len() > 1 && !graph.transit(at) {
        return;
    }
    for edge in graph.outgoing(at).filter(|edge| usable(*edge)) {
        let next = graph[edge].to;
        if !nodes.contains(&next) {
            nodes.push(next);
            path.push(edge);
            extend(graph, to, usable, nodes, path, found);
            path.pop();
            nodes.pop();
        }
    }
}

/// Nodes of a way but its ends.
pub fn inner(graph: &Graph, path: &Path) -> Vec<NodeIx> {
    path.iter().skip(1).map(|edge| graph[*edge].from).collect()
}

/// Whether `path` is a way from `from` to `to` without repeated nodes that passes only where it may.
pub fn is_way(graph: &Graph, from: NodeIx, to: NodeIx, path: &Path) -> bool {
    let mut nodes = vec![from];
    for edge in path {
        if graph[*edge].from != nodes[nodes.len() - 1] || nodes.contains(&graph[*edge].to) {
            return false;
        }
        nodes.push(graph[*edge].to);
    }
    nodes[nodes.len() - 1] == to && inner(graph, path).iter().all(|node| graph.transit(*node))
}

/// Sum of weights over a way.
pub fn total(weights: &Weights, path: &Path) -> u64 {
    weights.total(path.iter().copied())
}

/// The condition of a link that loses so much.
pub fn lossy(loss_ppm: u32) -> Condition {
    Condition { level: Level::of(loss_ppm), late: false }
}
