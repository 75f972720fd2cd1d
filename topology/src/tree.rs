//! Trees with few edges in which no target is farther than its bound.
//!
//! The fewer edges, the less a multicast costs; the bound keeps what is cheap from being late. Trees that balance the
//! two are called shallow-light: S. Khuller, B. Raghavachari, N. Young, *Balancing minimum spanning trees and
//! shortest-path trees*, Algorithmica 14, 1995. Theirs bounds every node by a factor; here every target has a bound of
//! its own, which makes the least tree NP-hard: it is searched exhaustively on small graphs and grown greedily on others.
//!
//! Both rest on one observation: a tree with the fewest edges is one with the fewest nodes, and of the trees on a given
//! set of nodes the shortest-path tree of the graph they induce keeps every bound that any of them keeps. So the search
//! is over sets of nodes.

use crate::graph::{EdgeIx, Graph, NodeIx};
use crate::sets::{EdgeSet, NodeSet};
use crate::shortest::{self, Distances};
use crate::weight::Weights;

/// Graphs of at most so many relays are searched exhaustively, as far as [`MOST_SETS`] allows.
pub const EXHAUSTIVE: usize = 16;

/// Most sets of nodes that are tried: all there are where no more than ten relays may be left out, as in any graph of twelve; some
/// milliseconds of work.
pub const MOST_SETS: u64 = 1 << 10;

/// A node that a tree shall reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The node.
    pub node: NodeIx,
    /// How far from the root it may be. Where no way is that short, its shortest way is what counts.
    pub bound: u64,
}

/// A tree from `root` to all of `targets` that can be reached, never through `avoid`: with the fewest edges that keep
/// every bound in a graph of up to [`EXHAUSTIVE`] relays where that takes no more than [`MOST_SETS`] trials, with few in others.
/// Among equals the one whose targets are nearest in sum.
pub fn least_edges(graph: &Graph, delays: &Weights, root: NodeIx, targets: &[Target], avoid: &NodeSet) -> EdgeSet {
    let away = shortest::from(graph, delays, root, avoid);
    let reached = targets.iter().filter(|target| target.node != root);
    let attainable = |target: &Target| {
        let shortest = away.to(target.node)?;
        Some(Target { node: target.node, bound: target.bound.max(shortest) })
    };
    let targets: Vec<Target> = reached.filter_map(attainable).collect();
    let search = Search { graph, delays, root, targets: &targets, avoid };
    let least = if graph.node_count() <= EXHAUSTIVE { search.exhaustive(&away) } else { None };
    let nodes = least.unwrap_or_else(|| search.grown(&away));
    search.edges(&search.inside(&nodes))
}

/// The part of the shortest-path tree `away` that leads to `targets`, those that can be reached.
pub fn shortest_paths(graph: &Graph, away: &Distances, targets: &[Target]) -> EdgeSet {
    targets.iter().filter_map(|target| away.path(graph, target.node)).flatten().collect()
}

struct Search<'a> {
    graph: &'a Graph,
    delays: &'a Weights,
    root: NodeIx,
    targets: &'a [Target],
    avoid: &'a NodeSet,
}

impl Search<'_> {
    /// The smallest set of nodes whose shortest-path tree keeps every bound; `None` where too many would have to be tried.
    fn exhaustive(&self, away: &Distances) -> Option<NodeSet> {
        let needed: NodeSet = self.targets.iter().map(|target| target.node).chain([self.root]).collect();
        let optional =
            |node: &NodeIx| !needed.contains(*node) && !self.avoid.contains(*node) && away.to(*node).is_some();
        let optional: Vec<NodeIx> = self.graph.nodes().filter(optional).collect();
        let of = optional.len() as u32;
        let (mut sets, mut tried) = (1, 0);
        for size in 0..=of {
            tried += sets;
            if tried > MOST_SETS {
                return None;
            }
            sets = sets * u64::from(of - size) / u64::from(size + 1);
            let chosen = subsets(of, size).filter_map(|bits| {
                let extra = optional.iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1).map(|(_, node)| *node);
                let nodes: NodeSet = needed.iter().chain(extra).collect();
                self.sum(&self.inside(&nodes)).map(|sum| (sum, nodes))
            });
            if let Some((_, nodes)) = chosen.min_by_key(|(sum, _)| *sum) {
                return Some(nodes);
            }
        }
        Some(self.nodes_of(&self.edges(away)))
    }

    /// A small set, grown by the target that takes the fewest new relays, then thinned of those that are not missed.
    fn grown(&self, away: &Distances) -> NodeSet {
        let mut nodes = NodeSet::from_iter([self.root]);
        let mut left: Vec<Target> = self.targets.to_vec();
        while !left.is_empty() {
            let tree = self.inside(&nodes);
            let layers = self.layers(&nodes, &tree, &left);
            let ways = left.iter().enumerate().map(|(at, target)| {
                let way = layers.way(self.graph, *target).or_else(|| away.path(self.graph, target.node));
                (at, way.unwrap_or_default())
            });
            let Some((at, way)) = ways.min_by_key(|(at, way)| (way.len(), left[*at].node)) else { break };
            nodes.extend(way.iter().map(|edge| self.graph[*edge].to).chain(way.first().map(|e| self.graph[*e].from)));
            left.swap_remove(at);
        }
        self.thinned(nodes, &self.nodes_of(&self.edges(away)))
    }

    /// The smaller of two sets after nodes that no bound needs are taken out of both.
    fn thinned(&self, one: NodeSet, other: &NodeSet) -> NodeSet {
        let thin = |set: &NodeSet| {
            let mut nodes = self.nodes_of(&self.edges(&self.inside(set)));
            for node in set.iter().filter(|node| *node != self.root) {
                if self.targets.iter().any(|target| target.node == node) || !nodes.remove(node) {
                    continue;
                }
                if self.sum(&self.inside(&nodes)).is_none() {
                    nodes.insert(node);
                }
            }
            nodes
        };
        let (one, other) = (thin(&one), thin(other));
        if other.len() < one.len() { other } else { one }
    }

    /// Shortest ways among `nodes` only.
    fn inside(&self, nodes: &NodeSet) -> Distances {
        let outside: NodeSet =
            self.graph.nodes().filter(|node| !nodes.contains(*node) || self.avoid.contains(*node)).collect();
        shortest::from(self.graph, self.delays, self.root, &outside)
    }

    /// Sum of the targets' distances, if each keeps its bound.
    fn sum(&self, tree: &Distances) -> Option<u64> {
        self.targets.iter().try_fold(0u64, |sum, target| {
            let distance = tree.to(target.node).filter(|distance| *distance <= target.bound)?;
            Some(sum.saturating_add(distance))
        })
    }

    fn edges(&self, tree: &Distances) -> EdgeSet {
        shortest_paths(self.graph, tree, self.targets)
    }

    fn nodes_of(&self, edges: &EdgeSet) -> NodeSet {
        edges.iter().map(|edge| self.graph[edge].to).chain([self.root]).collect()
    }

    /// Ways out of a tree, by number of hops: the least delay for each number, where no smaller number has a lesser one; up to
    /// the number by which all of `left` are within their bounds.
    fn layers(&self, nodes: &NodeSet, tree: &Distances, left: &[Target]) -> Layers {
        let mut last: Vec<Option<u64>> = self.graph.nodes().map(|node| tree.to(node)).collect();
        let mut least = vec![u64::MAX; last.len()];
        let mut steps: Vec<Vec<Option<(u64, EdgeIx)>>> = Vec::new();
        while left.iter().any(|target| least[target.node.0 as usize] > target.bound) {
            let mut next: Vec<Option<(u64, EdgeIx)>> = vec![None; last.len()];
            for edge in self.graph.edges().filter(|edge| self.delays[*edge] != Weights::UNUSABLE) {
                let (from, to) = (self.graph[edge].from, self.graph[edge].to);
                let passes = from == self.root || self.graph.transit(from);
                let Some(before) = last[from.0 as usize].filter(|_| passes) else { continue };
                let reached = before.saturating_add(self.delays[edge]);
                let better = reached < least[to.0 as usize];
                if better && !nodes.contains(to) && !self.avoid.contains(to) {
                    least[to.0 as usize] = reached;
                    next[to.0 as usize] = Some((reached, edge));
                }
            }
            if next.iter().all(Option::is_none) {
                break;
            }
            last = next.iter().map(|step| step.map(|(reached, _)| reached)).collect();
            steps.push(next);
        }
        Layers { steps }
    }
}

/// `steps[h][v]`: the least delay at v with h + 1 new edges, and the last of them, if fewer do not do as well.
struct Layers {
    steps: Vec<Vec<Option<(u64, EdgeIx)>>>,
}

impl Layers {
    /// The way with the fewest new edges that keeps the bound of `target`.
    fn way(&self, graph: &Graph, target: Target) -> Option<Vec<EdgeIx>> {
        let keeps =
            |step: &Vec<Option<(u64, EdgeIx)>>| step[target.node.0 as usize].is_some_and(|s| s.0 <= target.bound);
        let hops = self.steps.iter().position(keeps)?;
        let mut node = target.node;
        let mut way = Vec::new();
        for step in self.steps[..=hops].iter().rev() {
            let (_, edge) = step[node.0 as usize]?;
            way.push(edge);
            node = graph[edge].from;
        }
        way.reverse();
        Some(way)
    }
}

/// All sets of `size` out of `of` places, as bits, in ascending order (Gosper's way from one to the next).
fn subsets(of: u32, size: u32) -> impl Iterator<Item = u64> {
    let first = (1u64 << size) - 1;
    std::iter::successors(Some(first), |bits| {
        let low = bits & bits.wrapping_neg();
        let up = bits + low;
        (low != 0).then(|| up | (((bits ^ up) >> 2) / low))
    })
    .take_while(move |bits| bits >> of == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Metric;
    use crate::names::NodeName;

    /// What an exhaustive search finds from the first relay of a ring to the one on the other side.
    fn across_a_ring(relays: u32) -> (Option<usize>, usize) {
        let name = |at: u32| -> NodeName { format!("n{:03}", at % relays).parse().expect("a name") };
        let metric = Metric { delay_us: 1000, loss_ppm: 0, cost: 1 };
        let both = |at: u32| [(name(at), name(at + 1), metric), (name(at + 1), name(at), metric)];
        let graph = Graph::new((0..relays).map(|at| (name(at), true)), (0..relays).flat_map(both));
        let (delays, avoid) = (Weights::delay(&graph), NodeSet::new());
        let targets = [Target { node: NodeIx(relays / 2), bound: u64::from(relays) * 1000 }];
        let search = Search { graph: &graph, delays: &delays, root: NodeIx(0), targets: &targets, avoid: &avoid };
        let exact = search.exhaustive(&shortest::from(&graph, &delays, NodeIx(0), &avoid));
        (exact.map(|nodes| nodes.len() - 1), least_edges(&graph, &delays, NodeIx(0), &targets, &avoid).len())
    }

    #[test]
    fn no_more_sets_are_tried_than_there_is_time_for() {
        assert_eq!(across_a_ring(12), (Some(6), 6));
        assert_eq!(across_a_ring(16), (None, 8));
    }
}
