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
    reached: Vec<Reached>,
    direction: Direction,
}

/// What [`Distances::around`] found: how far nodes are on ways that do not pass the avoided one.
#[derive(Clone, Debug)]
pub struct Around(Vec<u64>);

impl Around {
    /// How far a node is without the avoided one; `None` where there is no way.
    pub fn to(&self, node: NodeIx) -> Option<u64> {
        Some(self.0[node.0 as usize]).filter(|distance| *distance != u64::MAX)
    }
}

/// What the neighbours of a node tell of its distance without one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detour {
    /// This is it; `None` where there is no way.
    Is(Option<u64>),
    /// It is this or more: the neighbour that is nearest has its own way through the avoided node.
    AtLeast(u64),
}

/// How a node is reached. Compared in this order: among equals in distance and hops the lower edge index wins, and edges are in the order of
/// their nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Reached {
    /// `u64::MAX` where it is not.
    distance: u64,
    hops: u32,
    /// The edge by which the way arrives here (or, searching backwards, by which it leaves from here); that of the root is none.
    by: EdgeIx,
}

impl Reached {
    const ROOT: Reached = Reached { distance: 0, hops: 0, by: EdgeIx(u32::MAX) };
    const NOT: Reached = Reached { distance: u64::MAX, hops: u32::MAX, by: EdgeIx(u32::MAX) };
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
        Some(self.reached[node.0 as usize].distance).filter(|distance| *distance != u64::MAX)
    }

    /// The edge next to `node` on its way: the one that arrives there, or leaves from there where ways lead to the root.
    pub fn edge_at(&self, node: NodeIx) -> Option<EdgeIx> {
        Some(self.reached[node.0 as usize].by).filter(|by| by.0 != u32::MAX)
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

    /// How far `node` is without `avoided`, as far as its neighbours tell: a way that does not pass the one goes by another, and is as
    /// long as that one's own way, unless that passes the avoided node, too. `graph` and `weights` are those of the search, which must
    /// have avoided nothing.
    pub fn detour(&self, graph: &Graph, weights: &Weights, node: NodeIx, avoided: NodeIx) -> Detour {
        let (mut least, mut certain) = (u64::MAX, u64::MAX);
        let mut look = |edge: EdgeIx, next: NodeIx| {
            let passes = graph.transit(next) || self.is_root(next);
            if next == avoided || weights[edge] == Weights::UNUSABLE || !passes {
                return;
            }
            let Some(distance) = self.to(next).map(|distance| distance.saturating_add(weights[edge])) else { return };
            least = least.min(distance);
            if distance < certain && !self.passes(graph, next, avoided) {
                certain = distance;
            }
        };
        match self.direction {
            Direction::Away => graph.incoming(node).for_each(|edge| look(edge, graph[edge].from)),
            Direction::Towards => graph.outgoing(node).for_each(|edge| look(edge, graph[edge].to)),
        }
        if least == certain { Detour::Is((least != u64::MAX).then_some(least)) } else { Detour::AtLeast(least) }
    }

    fn is_root(&self, node: NodeIx) -> bool {
        self.reached[node.0 as usize].hops == 0
    }

    /// Distances on ways that do not pass `avoided`. `graph` and `weights` are those
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
        let mut distances: Vec<u64> = self.reached.iter().map(|reached| reached.distance).collect();
        nodes.iter().for_each(|node| distances[node.0 as usize] = u64::MAX);
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
    let mut reached = vec![Reached::NOT; graph.node_count()];
    reached[root.0 as usize] = Reached::ROOT;
    let mut open = BinaryHeap::from([Reverse((0, 0, root))]);
    while let Some(Reverse((distance, hops, node))) = open.pop() {
        let settled = &reached[node.0 as usize];
        if (settled.distance, settled.hops) != (distance, hops) || (node != root && !graph.transit(node)) {
            continue;
        }
        let mut relax = |edge: EdgeIx, next: NodeIx| {
            let weight = weights[edge];
            if weight == Weights::UNUSABLE || avoid.contains(next) {
                return;
            }
            let found = Reached { distance: distance.saturating_add(weight), hops: hops + 1, by: edge };
            let known = &mut reached[next.0 as usize];
            if *known <= found {
                return;
            }
            if (found.distance, found.hops) < (known.distance, known.hops) {
                open.push(Reverse((found.distance, found.hops, next)));
            }
            *known = found;
        };
        match direction {
            Direction::Away => graph.outgoing(node).for_each(|edge| relax(edge, graph[edge].to)),
            Direction::Towards => graph.incoming(node).for_each(|edge| relax(edge, graph[edge].from)),
        }
    }
    Distances { reached, direction }
}
