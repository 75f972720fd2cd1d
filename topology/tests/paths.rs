//! Shortest and disjoint ways, and the modules made of them, against exhaustive search on small graphs.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use anabranch_topology::LinkEnd;
use anabranch_topology::disjoint::{self, Disjointness};
use anabranch_topology::dissemination::Route;
use anabranch_topology::graph::{EdgeIx, Graph, Metric, NodeIx};
use anabranch_topology::module::{Demand, Egress, Module};
use anabranch_topology::sets::{EdgeSet, NodeSet};
use anabranch_topology::shortest::{self, Detour};
use anabranch_topology::weight::Weights;
use common::{demands, graphs, inner, is_way, name, simple_paths, total};
use proptest::prelude::*;

proptest! {
    #![proptest_config(common::cases(400))]

    #[test]
    fn shortest_ways_are_shortest(graph in graphs(7), root in 0u32..7, avoided in 0u32..7) {
        let root = NodeIx(root % graph.node_count() as u32);
        let avoid = NodeSet::from_iter([NodeIx(avoided)].into_iter().filter(|node| *node != root));
        let weights = Weights::delay(&graph);
        let ways = shortest::from(&graph, &weights, root, &avoid);
        let back = shortest::towards(&graph, &weights, root, &avoid);
        let usable = |edge: EdgeIx| !avoid.contains(graph[edge].to) && !avoid.contains(graph[edge].from);
        for node in graph.nodes().filter(|node| *node != root) {
            let best = simple_paths(&graph, root, node, &usable).iter().map(|path| total(&weights, path)).min();
            prop_assert_eq!(ways.to(node), best);
            if let Some(path) = ways.path(&graph, node) {
                prop_assert!(is_way(&graph, root, node, &path));
                prop_assert_eq!(Some(total(&weights, &path)), best);
            }
            let best = simple_paths(&graph, node, root, &usable).iter().map(|path| total(&weights, path)).min();
            prop_assert_eq!(back.to(node), best);
            if let Some(path) = back.path(&graph, node) {
                prop_assert!(is_way(&graph, node, root, &path));
                prop_assert_eq!(Some(total(&weights, &path)), best);
            }
        }
    }

    #[test]
    fn pairs_are_as_disjoint_as_can_be_and_of_least_weight(graph in graphs(7), from in 0u32..7, to in 0u32..7) {
        let nodes = graph.node_count() as u32;
        let (from, to) = (NodeIx(from % nodes), NodeIx((from % nodes + 1 + to % (nodes - 1)) % nodes));
        let weights = Weights::expected(&graph, 100_000);
        let ways = simple_paths(&graph, from, to, &|_| true);
        let best = ways.iter().flat_map(|one| ways.iter().map(move |two| (one, two))).filter(|(one, two)| one != two);
        let best = best.map(|(one, two)| score(&graph, &weights, one, two)).min();
        match disjoint::pair(&graph, &weights, from, to) {
            None => prop_assert!(ways.is_empty()),
            Some(pair) => {
                prop_assert!(is_way(&graph, from, to, &pair.first));
                match &pair.second {
                    None => prop_assert_eq!(ways.len(), 1),
                    Some(second) => {
                        prop_assert!(is_way(&graph, from, to, second));
                        prop_assert!(total(&weights, &pair.first) <= total(&weights, second));
                        let found = score(&graph, &weights, &pair.first, second);
                        prop_assert_eq!(Some(found), best);
                        let claimed = match (found.0, found.1) {
                            (0, 0) => Disjointness::Nodes,
                            (0, shared_nodes) => Disjointness::Links { shared_nodes: shared_nodes as u32 },
                            (shared_links, _) => Disjointness::Partly { shared_links: shared_links as u32 },
                        };
                        prop_assert_eq!(pair.disjoint, claimed);
                    }
                }
            }
        }
    }

    #[test]
    fn modules_hold_what_they_claim((graph, demand) in demands(8, 4)) {
        let route = Route::new(&graph, &demand);
        let delays = Weights::delay(&graph);
        let away = shortest::from(&graph, &delays, demand.ingress, &NodeSet::new());
        for module in [&route.tree, &route.disjoint] {
            check_module(&graph, &demand, module)?;
            let inside = shortest::from(&graph, &delays.only(&module.edge_set()), demand.ingress, &NodeSet::new());
            for egress in &demand.egresses {
                prop_assert_eq!(inside.to(egress.node).is_some(), away.to(egress.node).is_some());
                prop_assert_eq!(route.unreachable.contains(&egress.node), away.to(egress.node).is_none());
                let in_time = |at: Option<u64>| at.is_some_and(|at| at <= egress.budget_us(demand.deadline_us));
                prop_assert_eq!(in_time(inside.to(egress.node)), in_time(away.to(egress.node)));
            }
        }
        for edge in &route.tree.edges {
            prop_assert_eq!(route.tree.edges.iter().filter(|other| other.to == edge.to).count(), 1);
        }
        for ways in &route.ways {
            prop_assert_eq!(Some(ways.shortest_us), away.to(ways.egress.node));
            if ways.disjoint == Disjointness::Nodes && ways.in_time {
                let set = route.disjoint.edge_set();
                let budget = ways.egress.budget_us(demand.deadline_us);
                let mut found = simple_paths(&graph, demand.ingress, ways.egress.node, &|edge| set.contains(edge));
                found.retain(|path| total(&delays, path) <= budget);
                let apart = |one: &Vec<EdgeIx>| found.iter().any(|two| score(&graph, &delays, one, two).0 == 0
                    && score(&graph, &delays, one, two).1 == 0);
                prop_assert!(found.iter().any(apart), "no two ways in time are apart");
            }
        }
    }

    #[test]
    fn pruning_keeps_the_ways_that_matter((graph, demand) in demands(7, 3), bits in any::<u64>()) {
        let edges: EdgeSet = graph.edges().filter(|edge| bits >> (edge.0 % 64) & 1 == 1).collect();
        let module = Module::new(&graph, &demand, &edges);
        // Whether an edge lies on a way without repeated nodes is NP-hard to say of arbitrary edges; that it is on a way
        // from the ingress and on a way to an egress is what is promised of them.
        let inside = module.edge_set();
        for edge in &module.edges {
            prop_assert!(edge.to != demand.ingress && edge.rest_min_us <= edge.rest_max_us);
            prop_assert!(!simple_paths(&graph, demand.ingress, edge.from, &|edge| inside.contains(edge)).is_empty());
            let ends = |egress: &Egress| !simple_paths(&graph, edge.to, egress.node, &|edge| inside.contains(edge)).is_empty();
            prop_assert!(demand.egresses.iter().any(ends));
        }
        let away = |edges: &EdgeSet| {
            shortest::from(&graph, &Weights::delay(&graph).only(edges), demand.ingress, &NodeSet::new())
        };
        for egress in &demand.egresses {
            prop_assert_eq!(away(&edges).to(egress.node), away(&inside).to(egress.node));
        }

    }
}

/// No edge into the ingress, none that serves nobody, and rests as an exhaustive search finds them.
fn check_module(graph: &Graph, demand: &Demand, module: &Module) -> Result<(), TestCaseError> {
    let (set, delays) = (&module.edge_set(), Weights::delay(graph));
    for edge in &module.edges {
        prop_assert!(edge.to != demand.ingress);
        // A way to the edge that was not at its far end before, and one from there that does not come back to where it began.
        let without =
            |node: NodeIx| move |edge: EdgeIx| set.contains(edge) && graph[edge].from != node && graph[edge].to != node;
        let shortest = |from: NodeIx, to: NodeIx, usable: &dyn Fn(EdgeIx) -> bool| {
            simple_paths(graph, from, to, usable).iter().map(|path| total(&delays, path)).min()
        };
        let until = shortest(demand.ingress, edge.from, &without(edge.to)).map(|at| at + delays[edge.edge]);
        let rest = |egress: &Egress| {
            let beyond = shortest(edge.to, egress.node, &without(edge.from)).filter(|_| egress.node != edge.from)?;
            let soonest = shortest(demand.ingress, egress.node, &|edge| set.contains(edge))?;
            let budget = egress.budget_us(demand.deadline_us);
            let in_time = soonest > budget || until? + beyond <= budget;
            in_time.then_some(beyond as u32 + egress.last_mile_us)
        };
        let rests: Vec<u32> = demand.egresses.iter().filter_map(rest).collect();
        let exact = rests.iter().min().copied().zip(rests.iter().max().copied());
        prop_assert_eq!(exact, Some((edge.rest_min_us, edge.rest_max_us)), "{:?}", edge);
    }
    Ok(())
}

/// Shared links, shared nodes, total weight: less is better in this order.
fn score(graph: &Graph, weights: &Weights, one: &Vec<EdgeIx>, two: &Vec<EdgeIx>) -> (usize, usize, u64) {
    let links = one.iter().filter(|edge| two.contains(edge)).count();
    let (a, b) = (inner(graph, one), inner(graph, two));
    let nodes = a.iter().filter(|node| b.contains(node)).count();
    (links, nodes, total(weights, one) + total(weights, two))
}

fn diamond() -> Graph {
    let link = |a: usize, b: usize, ms: u32| (name(a), name(b), Metric { delay_us: ms * 1000, loss_ppm: 0, cost: 1 });
    let one_way = [link(0, 1, 10), link(1, 3, 10), link(0, 2, 15), link(2, 3, 15), link(3, 4, 5), link(1, 2, 1)];
    let back = one_way.clone().into_iter().map(|(a, b, metric)| (b, a, metric));
    Graph::new((0..5).map(|at| (name(at), true)), one_way.clone().into_iter().chain(back))
}

#[test]
fn rests_are_bare_transit_to_the_nearest_and_farthest_egress() {
    let graph = diamond();
    let egress = |node: u32, ms: u32| Egress { node: NodeIx(node), last_mile_us: ms * 1000 };
    let demand = Demand { ingress: NodeIx(0), egresses: vec![egress(3, 2), egress(4, 1)], deadline_us: 200_000 };
    let route = Route::new(&graph, &demand);
    let rests = |module: &Module| -> Vec<(u32, u32, u32, u32)> {
        module.edges.iter().map(|e| (e.from.0, e.to.0, e.rest_min_us / 1000, e.rest_max_us / 1000)).collect()
    };
    assert_eq!(rests(&route.tree), [(0, 1, 12, 16), (1, 3, 2, 6), (3, 4, 1, 1)]);
    assert_eq!(rests(&route.disjoint), [(0, 1, 12, 16), (0, 2, 17, 21), (1, 3, 2, 6), (2, 3, 2, 6), (3, 4, 1, 1)]);
    assert_eq!((route.tree.reach_us, route.tree.rest_us), (25_000, 26_000));
    assert_eq!(route.ways[0].disjoint, Disjointness::Nodes);
    assert_eq!((route.ways[0].shortest_us, route.ways[0].second_us), (20_000, Some(30_000)));
    assert_eq!(route.ways[1].disjoint, Disjointness::Partly { shared_links: 1 });
    assert!(!route.is_disjoint());
}

#[test]
fn a_second_way_that_is_late_is_not_installed() {
    let demand =
        Demand { ingress: NodeIx(0), egresses: vec![Egress { node: NodeIx(3), last_mile_us: 0 }], deadline_us: 25_000 };
    let route = Route::new(&diamond(), &demand);
    assert_eq!(route.disjoint.edge_set(), route.tree.edge_set());
    assert_eq!(route.ways[0].disjoint, Disjointness::Single);
    assert!(route.ways[0].in_time);
}

#[test]
fn an_edge_that_ends_at_an_egress_too_late_is_left_out() {
    let link = |a: usize, b: usize, ms: u32| (name(a), name(b), Metric { delay_us: ms * 1000, loss_ppm: 0, cost: 1 });
    let links = [link(0, 1, 38), link(1, 0, 38), link(2, 1, 1), link(2, 3, 19), link(3, 0, 29)];
    let graph = Graph::new((0..4).map(|at| (name(at), true)), links);
    let egress = |node: u32| Egress { node: NodeIx(node), last_mile_us: 0 };
    // 39 ms if a packet could pass its egress on the way, 86 as it is.
    let demand = Demand { ingress: NodeIx(2), egresses: vec![egress(0), egress(1)], deadline_us: 78_000 };
    let module = Module::new(&graph, &demand, &graph.edges().collect());
    let ends: Vec<(u32, u32)> = module.edges.iter().map(|edge| (edge.from.0, edge.to.0)).collect();
    assert_eq!(ends, [(1, 0), (2, 1), (2, 3), (3, 0)]);
}

#[test]
fn a_draining_relay_is_an_end_but_not_a_way() {
    let link = |a: usize, b: usize, ms: u32| (name(a), name(b), Metric { delay_us: ms * 1000, loss_ppm: 0, cost: 1 });
    let links = [link(0, 1, 1), link(1, 2, 1), link(0, 2, 30)];
    let graph = Graph::new((0..3).map(|at| (name(at), at != 1)), links);
    let demand = |to: u32| Demand {
        ingress: NodeIx(0),
        egresses: vec![Egress { node: NodeIx(to), last_mile_us: 0 }],
        deadline_us: 100_000,
    };
    assert_eq!(Route::new(&graph, &demand(2)).tree.edges.len(), 1);
    assert_eq!(Route::new(&graph, &demand(1)).ways[0].shortest_us, 1000);
}

proptest! {
    #![proptest_config(common::cases(400))]
    /// Searching only behind a node finds what searching all without it does.
    #[test]
    fn ways_around_a_node((graph, demand) in demands(14, 1), at in any::<prop::sample::Index>()) {
        let (weights, root) = (Weights::delay(&graph), demand.ingress);
        let avoided = NodeIx(at.index(graph.node_count()) as u32);
        prop_assume!(avoided != root);
        let (none, without) = (NodeSet::new(), NodeSet::from_iter([avoided]));
        type Find = fn(&Graph, &Weights, NodeIx, &NodeSet) -> shortest::Distances;
        for find in [shortest::from as Find, shortest::towards] {
            let all = find(&graph, &weights, root, &none);
            let (around, plain) = (all.around(&graph, &weights, avoided), find(&graph, &weights, root, &without));
            for node in graph.nodes().filter(|node| *node != avoided) {
                if node != root && all.passes(&graph, node, avoided) {
                    match all.detour(&graph, &weights, node, avoided) {
                        Detour::Is(distance) => prop_assert_eq!(distance, plain.to(node), "{:?} beside {:?}", node, avoided),
                        Detour::AtLeast(least) => prop_assert!(plain.to(node).is_none_or(|distance| distance >= least)),
                    }
                }
                prop_assert_eq!(around.to(node), plain.to(node), "{:?} around {:?}", node, avoided);
            }
        }
    }
}

#[test]
fn two_links_between_two_relays_are_two_disjoint_ways() {
    let metric = |ms: u32| Metric { delay_us: ms * 1000, loss_ppm: 0, cost: 1 };
    let end = |relay: usize, link: &str| LinkEnd { relay: name(relay), link: Some(link.parse().unwrap()) };
    let both = |link: &str, ms: u32| [(name(0), end(1, link), metric(ms)), (name(1), end(0, link), metric(ms))];
    let links = both("fibre", 10).into_iter().chain(both("radio", 14));
    let graph = Graph::new((0..2).map(|at| (name(at), true)), links);
    let demand = Demand {
        ingress: NodeIx(0),
        egresses: vec![Egress { node: NodeIx(1), last_mile_us: 0 }],
        deadline_us: 200_000,
    };
    let route = Route::new(&graph, &demand);
    assert!(route.is_disjoint());
    let rests =
        |module: &Module| module.edges.iter().map(|edge| graph.far_end(edge.edge).to_string()).collect::<Vec<_>>();
    assert_eq!(
        (rests(&route.tree), rests(&route.disjoint)),
        (vec!["n001~fibre".to_owned()], vec!["n001~fibre".to_owned(), "n001~radio".to_owned()])
    );
    assert_eq!(route.ways[0].second_us, Some(14_000));
}
