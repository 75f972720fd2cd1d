//! Shortest paths (E. W. Dijkstra, *A note on two problems in connexion with graphs*, 1959).
//!
//! Ties are broken alike everywhere: fewer hops first, then the neighbour that comes first in the graph's order.

use crate::graph::{EdgeIx, Graph, NodeIx};
use crate::sets::NodeSet;
use crate::weight::Weights;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A way through the graph: its edges in the order in which a packet takes them.
pub type Path = Vec<EdgeIx>;

/// Shortest ways from one node to all others, or from all others to one.
#[derive(Clone, Debug)]
pub struct Distances {
    reached: Vec<Option<Reached>>,
    direction: Direction,
}

/// What [`Distances::around`] found: how far the nodes are whose shortest way passes the avoided one.
#[derive(Clone, Debug)]
pub struct Around(Vec<u64>);

impl Around {
    /// How far a node is without the avoided one; `None` where there is no way, or where its shortest way does not pass it anyhow.
    pub fn to(&self, node: NodeIx) -> Option<u64> {
        Some(self.0[node.0 as usize]).filter(|distance| *distance != u64::MAX)
    }
}

#[derive(Clone, Copy, Debug)]
struct Reached {
    distance: u64,
    hops: u32,
    /// The edge by which the way arrives here (or, searching backwards, by which it leaves from here).
    by: Option<EdgeIx>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Away,
    Towards,
}

/// Shortest ways from `root`, never through a node of `avoid`, nor through one that does not allow transit.
pub fn from(graph: &Graph, weights: &Weights, root: NodeIx, avoid: &NodeSet) -> Distances {
    search(graph, weights, root, avoid, Direction::Away)
}

/// Shortest ways to `root`, otherwise as [`from`].
pub fn towards(graph: &Graph, weights: &Weights, root: NodeIx, avoid: &NodeSet) -> Distances {
    search(graph, weights, root, avoid, Direction::Towards)
}

impl Distances {
    /// How far `node` is, or `None` where there is no way.
    pub fn to(&self, node: NodeIx) -> Option<u64> {
        self.reached[node.0 as usize].map(|reached| reached.distance)
    }

    /// The edge next to `node` on its way: the one that arrives there, or leaves from there where ways lead to the root.
    pub fn edge_at(&self, node: NodeIx) -> Option<EdgeIx> {
        self.reached[node.0 as usize].and_then(|reached| reached.by)
    }

    /// Whether the way of `node` passes `through`, or begins or ends there.
    pub fn passes(&self, graph: &Graph, node: NodeIx, through: NodeIx) -> bool {
        let mut at = node;
        while at != through {
            let Some(edge) = self.edge_at(at) else { return false };
            at = self.next(graph, edge);
        }
        true
    }

    /// Distances of the nodes whose way passes `avoided`, on ways that do not: the others' stand. `graph` and `weights` are those
    /// of the search, which must have avoided nothing. Only the nodes behind `avoided` are searched again.
    pub fn around(&self, graph: &Graph, weights: &Weights, avoided: NodeIx) -> Around {
        let mut behind = NodeSet::from_iter([avoided]);
        let mut nodes = vec![avoided];
        let mut at = 0;
        while let Some(node) = nodes.get(at).copied() {
            at += 1;
            let mut follow = |edge: EdgeIx, next: NodeIx| {
                if self.edge_at(next) == Some(edge) && behind.insert(next) {
                    nodes.push(next);
                }
            };
            match self.direction {
                Direction::Away => graph.outgoing(node).for_each(|edge| follow(edge, graph[edge].to)),
                Direction::Towards => graph.incoming(node).for_each(|edge| follow(edge, graph[edge].from)),
            }
        }
        // By place, not hashed: this is asked for every relay of a large module.
        let mut distances = vec![u64::MAX; graph.node_count()];
        let mut open = BinaryHeap::new();
        let passes = |node: NodeIx, distance: u64| distance == 0 && self.edge_at(node).is_none() || graph.transit(node);
        for node in nodes.into_iter().skip(1) {
            let entry = |edge: EdgeIx| {
                let before = self.next(graph, edge);
                let distance =
                    self.to(before).filter(|distance| !behind.contains(before) && passes(before, *distance))?;
                (weights[edge] != Weights::UNUSABLE).then(|| distance.saturating_add(weights[edge]))
            };
            let least = match self.direction {
                Direction::Away => graph.incoming(node).filter_map(entry).min(),
                Direction::Towards => graph.outgoing(node).filter_map(entry).min(),
            };
            if let Some(least) = least {
                distances[node.0 as usize] = least;
                open.push(Reverse((least, node)));
            }
        }
        while let Some(Reverse((distance, node))) = open.pop() {
            if distances[node.0 as usize] != distance || !graph.transit(node) {
                continue;
            }
            let mut relax = |edge: EdgeIx, next: NodeIx| {
                if weights[edge] == Weights::UNUSABLE || next == avoided || !behind.contains(next) {
                    return;
                }
                let found = distance.saturating_add(weights[edge]);
                let best = &mut distances[next.0 as usize];
                if found < *best {
                    *best = found;
                    open.push(Reverse((found, next)));
                }
            };
            match self.direction {
                Direction::Away => graph.outgoing(node).for_each(|edge| relax(edge, graph[edge].to)),
                Direction::Towards => graph.incoming(node).for_each(|edge| relax(edge, graph[edge].from)),
            }
        }
        Around(distances)
    }

    /// The other end of an edge on a way, nearer to the root.
    fn next(&self, graph: &Graph, edge: EdgeIx) -> NodeIx {
        match self.direction {
            Direction::Away => graph[edge].from,
            Direction::Towards => graph[edge].to,
        }
    }

    /// The way from the root to `node`, or from `node` to the root; `None` where there is none.
    pub fn path(&self, graph: &Graph, node: NodeIx) -> Option<Path> {
        self.to(node)?;
        let mut path = Vec::new();
        let mut at = node;
        while let Some(edge) = self.edge_at(at) {
            path.push(edge);
            at = self.next(graph, edge);
        }
        if self.direction == Direction::Away {
            path.reverse();
        }
        Some(path)
    }
}

fn search(graph: &Graph, weights: &Weights, root: NodeIx, avoid: &NodeSet, direction: Direction) -> Distances {
    let mut reached: Vec<Option<Reached>> = vec![None; graph.node_count()];
    reached[root.0 as usize] = Some(Reached { distance: 0, hops: 0, by: None });
    let mut open = BinaryHeap::from([Reverse((0, 0, root))]);
    while let Some(Reverse((distance, hops, node))) = open.pop() {
        let settled = reached[node.0 as usize].map(|best| (best.distance, best.hops));
        if settled != Some((distance, hops)) || (node != root && !graph.transit(node)) {
            continue;
        }
        let mut relax = |edge: EdgeIx, next: NodeIx| {
            let weight = weights[edge];
            if weight == Weights::UNUSABLE || avoid.contains(next) {
                return;
            }
            let found = Reached { distance: distance.saturating_add(weight), hops: hops + 1, by: Some(edge) };
            let slot = &mut reached[next.0 as usize];
            // Among equals the lower edge index wins: edges are in the order of their nodes.
            let key = |way: &Reached| (way.distance, way.hops, way.by);
            if slot.is_some_and(|known| key(&known) <= key(&found)) {
                return;
            }
            let nearer = slot.is_none_or(|known| (found.distance, found.hops) < (known.distance, known.hops));
            *slot = Some(found);
            if nearer {
                open.push(Reverse((found.distance, found.hops, next)));
            }
        };
        match direction {
            Direction::Away => graph.outgoing(node).for_each(|edge| relax(edge, graph[edge].to)),
            Direction::Towards => graph.incoming(node).for_each(|edge| relax(edge, graph[edge].from)),
        }
    }
    Distances { reached, direction }
}
