//! What the overlay is to reach on the experiment, and whether it does. Ours is the rule with pull: the mode `auto`.

use super::map;
use super::onset;
use super::schemes::Scheme;
use super::{Row, Setting};
use topology::graph::Graph;
use topology::module::Demand;
use topology::sets::NodeSet;
use topology::tree::{self, Target};
use topology::weight::Weights;

/// One goal.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Goal {
    what: String,
    met: bool,
}

impl Goal {
    fn at_most(what: &str, found: f64, most: f64) -> Goal {
        Goal { what: format!("{what}: {found:.4}, at most {most:.4}"), met: found <= most }
    }

    fn at_least(what: &str, found: f64, least: f64) -> Goal {
        Goal { what: format!("{what}: {found:.3}, at least {least:.3}"), met: found >= least }
    }
}

/// Prints goals, each with whether it is met.
pub(super) fn print(goals: &[Goal]) {
    for goal in goals {
        println!("goal {}: {}", if goal.met { "met" } else { "NOT met" }, goal.what);
    }
    println!();
}

/// The goals of one setting.
pub(super) fn of_setting(graph: &Graph, setting: &Setting, rows: &[Row], seed: u64) -> Vec<Goal> {
    let row = |scheme: Scheme| rows.iter().find(|row| row.scheme == scheme.name());
    let found = (
        row(Scheme::RulePull),
        row(Scheme::TwoDynamic),
        row(Scheme::Targeted),
        row(Scheme::Flood),
        row(Scheme::OnePath),
    );
    let (Some(ours), Some(two), Some(targeted), Some(flood), Some(one)) = found else { return Vec::new() };
    match (setting.egresses, setting.deadline_us) {
        (None, ..100_000) => vec![
            Goal::at_least("share of the gap, %", ours.gap_percent, 99.8),
            Goal::at_most("cost against two disjoint ways", ours.links / two.links, 1.03),
        ],
        (None, _) => vec![
            Goal::at_least("share of the gap, %", ours.gap_percent, 99.8),
            Goal::at_most("cost against one way", ours.cost, 1.05),
        ],
        (Some(_), ..100_000) => vec![
            Goal::at_most("loss against flooding's, per million", ours.loss_ppm, 1.1 * flood.loss_ppm),
            Goal::at_most("cost against the tree", ours.links / one.links, 2.0),
        ],
        (Some(_), _) => vec![
            Goal::at_most("loss against the targeted graphs', per million", ours.loss_ppm, targeted.loss_ppm),
            Goal::at_most(
                "cost against the smallest tree",
                ours.links / smallest_tree(graph, &setting.demands(graph, seed)),
                1.1,
            ),
        ],
    }
}

/// The goals of the onsets at one deadline.
pub(super) fn of_onset(deadline_ms: u32, rows: &[onset::Row]) -> Vec<Goal> {
    let Some(ours) = rows.iter().find(|row| row.scheme == Scheme::RulePull.name()) else { return Vec::new() };
    let (failure, half) = if deadline_ms < 100 { (1.0, 20.0) } else { (0.005, 0.005) };
    let mut goals = vec![
        Goal::at_most("ms lost after a cut", ours.cut_ms, failure),
        Goal::at_most("ms lost after a relay died", ours.killed_ms, failure),
    ];
    if !(100..200).contains(&deadline_ms) {
        goals.push(Goal::at_most("ms lost after 50 % set in at the egress", ours.half_ms, half));
    }
    goals
}

/// Edges of the smallest tree (Steiner's, by number of edges), mean over demands.
fn smallest_tree(graph: &Graph, demands: &[Demand]) -> f64 {
    let edges = |demand: &Demand| {
        let targets: Vec<Target> =
            demand.egresses.iter().map(|egress| Target { node: egress.node, bound: u64::MAX }).collect();
        tree::least_edges(graph, &Weights::delay(graph), demand.ingress, &targets, &NodeSet::new()).len()
    };
    let total: usize = demands.iter().map(edges).sum();
    debug_assert!(graph.edge_count() <= map::EDGES);
    total as f64 / demands.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_tree_to_all_others_has_an_edge_for_each() {
        let graph = map::graph();
        let demands = map::groups(&graph, 11, 200_000, 1);
        assert!((smallest_tree(&graph, &demands) - 11.0).abs() < 1e-9);
    }

    #[test]
    fn a_goal_says_whether_it_is_met() {
        assert!(Goal::at_most("x", 1.0, 1.0).met);
        assert!(!Goal::at_least("x", 0.9, 1.0).met);
    }
}
