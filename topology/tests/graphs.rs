//! Trees, destination and source graphs, flooding: sound on random graphs, least on small ones.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use anabranch_topology::dissemination::{Repertoire, Route};
use anabranch_topology::graph::{EdgeIx, Graph, Metric, NodeIx};
use anabranch_topology::module::Demand;
use anabranch_topology::select::{Modules, has_time_to_pull};
use anabranch_topology::sets::{EdgeSet, NodeSet};
use anabranch_topology::tree::{Target, least_edges, shortest_paths};
use anabranch_topology::weight::{REPAIR_US, Weights};
use anabranch_topology::{shortest, targeted};
use common::{demands, flows, graphs, simple_paths, total};
use proptest::prelude::*;

fn within(graph: &Graph, root: NodeIx, targets: &[Target], edges: &EdgeSet) -> bool {
    let inside = Weights::delay(graph).only(edges);
    let away = shortest::from(graph, &inside, root, &NodeSet::new());
    targets.iter().all(|target| away.to(target.node).is_some_and(|distance| distance <= target.bound))
}

/// Targets at random nodes, with bounds from their shortest way to twice that; only those that can be reached.
fn targets(graph: &Graph, root: NodeIx, wanted: &[(u32, u64)]) -> Vec<Target> {
    let away = shortest::from(graph, &Weights::delay(graph), root, &NodeSet::new());
    let target = |(node, percent): &(u32, u64)| {
        let node = NodeIx(node % graph.node_count() as u32);
        away.to(node).map(|distance| Target { node, bound: distance * (100 + percent) / 100 })
    };
    let mut targets: Vec<Target> = wanted.iter().filter_map(target).collect();
    targets.sort_by_key(|target| target.node);
    targets.dedup_by_key(|target| target.node);
    targets
}

fn is_tree(graph: &Graph, root: NodeIx, edges: &EdgeSet) -> bool {
    let heads: NodeSet = edges.iter().map(|edge| graph[edge].to).collect();
    heads.len() == edges.len() && !heads.contains(root)
}

proptest! {
    #![proptest_config(common::cases(200))]

    #[test]
    fn small_trees_have_the_fewest_edges(
        graph in graphs(6), root in 0u32..6, wanted in prop::collection::vec((0u32..6, 0u64..100), 1..4),
    ) {
        prop_assume!(graph.edge_count() <= 14);
        let root = NodeIx(root % graph.node_count() as u32);
        let targets = targets(&graph, root, &wanted);
        let tree = least_edges(&graph, &Weights::delay(&graph), root, &targets, &NodeSet::new());
        prop_assert!(is_tree(&graph, root, &tree));
        prop_assert!(within(&graph, root, &targets, &tree));
        let subset = |bits: u32| graph.edges().filter(|edge| bits >> edge.0 & 1 == 1).collect::<EdgeSet>();
        let sizes = (0..1u32 << graph.edge_count()).filter(|bits| (bits.count_ones() as usize) < tree.len());
        for bits in sizes {
            prop_assert!(!within(&graph, root, &targets, &subset(bits)), "fewer edges do: {:?}", subset(bits));
        }
    }

    #[test]
    fn large_trees_keep_their_bounds_at_no_more_edges(
        graph in graphs(40), root in 0u32..40, wanted in prop::collection::vec((0u32..40, 0u64..100), 1..12),
    ) {
        let (root, delays, none) = (NodeIx(root % graph.node_count() as u32), Weights::delay(&graph), NodeSet::new());
        let targets = targets(&graph, root, &wanted);
        let tree = least_edges(&graph, &delays, root, &targets, &none);
        prop_assert!(is_tree(&graph, root, &tree));
        prop_assert!(within(&graph, root, &targets, &tree));
        prop_assert!(tree.len() <= shortest_paths(&graph, &shortest::from(&graph, &delays, root, &none), &targets).len());
    }

    #[test]
    fn destination_graphs_use_every_last_hop_in_time((graph, demand) in flows(9), quiet in any::<bool>()) {
        let calm = |metric: Metric| Metric { loss_ppm: if quiet { 0 } else { metric.loss_ppm }, ..metric };
        let graph = graph.with_metrics(|_, metric| calm(metric));
        let (from, egress) = (demand.ingress, demand.egresses[0]);
        let (delays, budget) = (Weights::delay(&graph), egress.budget_us(demand.deadline_us));
        let edges = targeted::destination(&graph, from, egress.node, budget);
        let outside: NodeSet = NodeSet::from_iter([egress.node]);
        let away = shortest::from(&graph, &delays, from, &outside);
        let inside = shortest::from(&graph, &delays.only(&edges), from, &outside);
        for edge in graph.incoming(egress.node) {
            let node = graph[edge].from;
            let passes = node == from || graph.transit(node);
            let in_time = away.to(node).is_some_and(|at| passes && at + delays[edge] <= budget);
            prop_assert_eq!(edges.contains(edge), in_time);
            if in_time {
                let at = inside.to(node).unwrap();
                prop_assert!(at + delays[edge] <= budget);
                let repairable = |at: u64| at + 3 * delays[edge] + REPAIR_US <= budget;
                prop_assert!(!quiet || repairable(at) == repairable(away.to(node).unwrap()));
                let kept = graph.edges().filter(|edge| graph[*edge].metric.loss_ppm < targeted::TROUBLED_PPM).collect();
                let sound = delays.only(&kept);
                let clean = shortest::from(&graph, &sound, from, &outside).to(node).is_some_and(|at| at + delays[edge] <= budget);
                let inner = shortest::from(&graph, &sound.only(&edges), from, &outside).to(node);
                prop_assert!(!clean || inner.is_some_and(|at| at + delays[edge] <= budget));
            }
        }
        let inner: EdgeSet = edges.iter().filter(|edge| graph[*edge].to != egress.node).collect();
        prop_assert!(!quiet || is_tree(&graph, from, &inner));
        prop_assert!(inner.iter().all(|edge| graph[edge].from != egress.node));
        for edge in edges.iter() {
            let ways = simple_paths(&graph, from, egress.node, &|edge| edges.contains(edge));
            prop_assert!(ways.iter().any(|way| way.contains(&edge)), "a useless edge");
        }
    }

    #[test]
    fn source_graphs_mirror_destination_graphs((graph, demand) in flows(9)) {
        let (from, egress) = (demand.ingress, demand.egresses[0]);
        let budget = egress.budget_us(demand.deadline_us);
        let mirror = graph.reversed();
        let ends = |graph: &Graph, edges: EdgeSet| edges.iter().map(|e| (graph[e].from, graph[e].to)).collect::<Vec<_>>();
        let source = ends(&graph, targeted::source(&graph, &graph.reversed(), from, egress.node, budget));
        let mirrored = ends(&mirror, targeted::destination(&mirror, egress.node, from, budget));
        let mut turned: Vec<_> = mirrored.into_iter().map(|(a, b)| (b, a)).collect();
        turned.sort();
        prop_assert_eq!(source, turned);
    }

    #[test]
    fn flooding_uses_every_edge_that_can_be_in_time((graph, demand) in demands(7, 3)) {
        let edges = targeted::flood(&graph, &demand);
        let delays = Weights::delay(&graph);
        let mut expected = EdgeSet::new();
        for egress in demand.egresses.iter().filter(|egress| egress.node != demand.ingress) {
            let budget = egress.budget_us(demand.deadline_us);
            let ways = simple_paths(&graph, demand.ingress, egress.node, &|_| true);
            expected.extend(ways.into_iter().filter(|way| total(&delays, way) <= budget).flatten());
        }
        prop_assert!(expected.is_subset(&edges));
        prop_assert!(edges.iter().all(|edge| graph[edge].to != demand.ingress));
        prop_assert_eq!(targeted::robust(&graph, &demand, usize::MAX), edges.clone());
        for most in 1..edges.len() {
            let robust = targeted::robust(&graph, &demand, most);
            prop_assert!(robust.is_subset(&edges) && robust.len() >= most);
        }
    }

    #[test]
    fn every_selection_reaches_whom_the_tree_reaches((graph, demand) in demands(9, 5), bits in any::<u64>(), pull in any::<bool>()) {
        let repertoire = Repertoire::new(&graph, &demand, pull);
        let delays = Weights::delay(&graph);
        let bad = |edge: EdgeIx| bits >> (edge.0 % 64) & 1 == 1;
        let chosen = repertoire.plan.choose(|edge| common::lossy(if bad(edge) { 500_000 } else { 0 }));
        prop_assert!(chosen.has(Modules::BASE));
        let edges = repertoire.edges(chosen);
        let inside = shortest::from(&graph, &delays.only(&edges), demand.ingress, &NodeSet::new());
        for (ways, watched) in repertoire.ways.iter().zip(&repertoire.plan.egresses) {
            let budget = ways.egress.budget_us(demand.deadline_us);
            let reached = inside.to(ways.egress.node);
            prop_assert!(reached.is_some());
            prop_assert!(!ways.in_time || reached.unwrap() <= budget);
            if watched.lean {
                prop_assert!(pull && has_time_to_pull(delays.total(watched.first.iter()), ways.second_us.unwrap(), budget));
            }
            // Whenever trouble spares a last hop that is in time, the selection reaches the egress over a good last hop,
            // unless fewer than two are bad.
            let into = &watched.into;
            if into.iter().filter(|edge| bad(**edge)).count() >= 2 {
                let destination = targeted::destination(&graph, demand.ingress, ways.egress.node, budget);
                prop_assert!(destination.is_subset(&edges) || destination.is_empty());
            }
        }
    }
}

#[test]
fn the_repertoire_of_two_hundred_relays_is_quick_enough_to_test_and_deterministic() {
    let name = common::name;
    let metric = |ms: usize| anabranch_topology::graph::Metric {
        delay_us: 1000 + (ms % 17 * 700) as u32,
        loss_ppm: 10,
        cost: 1,
    };
    let link =
        |at: usize, to: usize| [(name(at), name(to), metric(at * 7 + to)), (name(to), name(at), metric(at * 7 + to))];
    let links: Vec<_> = (0..200).flat_map(|at| [1, 7, 31].map(|step| link(at, (at + step) % 200))).flatten().collect();
    let graph = Graph::new((0..200).map(|at| (name(at), true)), links);
    let egress = |node: u32| anabranch_topology::module::Egress { node: NodeIx(node), last_mile_us: 1000 };
    let demand =
        Demand { ingress: NodeIx(0), egresses: (1..200).step_by(17).map(egress).collect(), deadline_us: 200_000 };
    let repertoire = Repertoire::new(&graph, &demand, true);
    assert_eq!(repertoire, Repertoire::new(&graph, &demand, true));
    let modules = repertoire.modules(&graph, &demand);
    assert_eq!(modules.iter().filter(|module| !module.edges.is_empty()).count(), 16);
    for (module, set) in modules.iter().zip(&repertoire.sets) {
        assert!(module.edge_set().is_subset(set));
    }
    assert!(Route::new(&graph, &demand).is_disjoint());
}
