//! Two disjoint ways between two nodes, of least total weight.
//!
//! J. W. Suurballe, *Disjoint paths in a network*, Networks 4, 1974: the second way is a shortest one in the residual
//! graph, where edges of the first may be taken back. As in R. Bhandari, *Survivable Networks*, 1999, every node is
//! split into an entry and an exit, so that nodes, too, are used once; and where that cannot be, sharing a node or a link
//! is allowed at a price above all weights, so that the pair found is disjoint as far as the graph permits: fewest
//! shared links, then fewest shared nodes, then least weight, then fewest hops.
//!
//! What fails together by more than being the same (one carrier, one site) is told by tags. Two ways that share no such risk
//! and weigh least in sum are NP-hard to find (J. Q. Hu, *Diverse routing in optical mesh networks*, IEEE Transactions on
//! Communications 51, 2003); [`pair_apart`] tries a few first ways, and for each the best second one that shares none.

use crate::graph::{EdgeIx, Graph, NodeIx};
use crate::sets::NodeSet;
use crate::shortest::{self, Path};
use crate::terms::Tag;
use crate::weight::Weights;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

/// How far two ways are apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disjointness {
    /// They share nothing but their ends.
    Nodes,
    /// They share no link, but relays.
    Links {
        /// How many relays both pass.
        shared_nodes: u32,
    },
    /// They share links, and differ elsewhere.
    Partly {
        /// How many links both take.
        shared_links: u32,
    },
    /// There is one way only.
    Single,
}

/// Two ways from one node to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The one of less weight.
    pub first: Path,
    /// The other, unless there is one way only.
    pub second: Option<Path>,
    /// How far they are apart.
    pub disjoint: Disjointness,
}

impl Pair {
    /// The edges of both.
    pub fn edges(&self) -> impl Iterator<Item = EdgeIx> + '_ {
        self.first.iter().chain(self.second.iter().flatten()).copied()
    }
}

/// The pair of ways from `from` to `to` that is disjoint as far as it can be and, so, of least total weight. `None`
/// where there is no way, or the two are one node.
pub fn pair(graph: &Graph, weights: &Weights, from: NodeIx, to: NodeIx) -> Option<Pair> {
    if from == to {
        return None;
    }
    let mut flow = Flow::new(graph, weights, from, to);
    if !flow.augment() {
        return None;
    }
    // Capacities are two, so a second unit always finds a way, if only the same once more.
    flow.augment();
    let mut ways = [flow.take_path(), flow.take_path()];
    ways.sort_by_cached_key(|way| (weights.total(way.iter().copied()), way.len(), way.clone()));
    let [first, second] = ways;
    if first == second {
        return Some(Pair { first, second: None, disjoint: Disjointness::Single });
    }
    let disjoint = apart(graph, &first, &second);
    Some(Pair { first, second: Some(second), disjoint })
}

/// As [`pair`], and of such as are `good`, one that shares no carrier and no site, where one is found that is apart in relays
/// and links as well.
pub fn pair_apart(
    graph: &Graph,
    weights: &Weights,
    from: NodeIx,
    to: NodeIx,
    good: impl Fn(&Pair) -> bool,
) -> Option<Pair> {
    let best = pair(graph, weights, from, to)?;
    let shared = shared_risks(graph, &best);
    if shared.is_empty() || best.disjoint != Disjointness::Nodes {
        return Some(best);
    }
    let detour = |tag: &Tag| {
        let kept = graph.edges().filter(|edge| !meets(graph, *edge, [from, to], |found| found == tag)).collect();
        shortest::from(graph, &weights.only(&kept), from, &NodeSet::new()).path(graph, to)
    };
    let firsts = best.second.iter().chain([&best.first]).cloned().chain(shared.iter().filter_map(detour));
    let found = firsts.filter_map(|first| beside(graph, weights, [from, to], first)).filter(good);
    let least = found.min_by_key(|pair| (weights.total(pair.edges()), pair.edges().count()));
    Some(least.unwrap_or(best))
}

/// Carriers and sites that both ways of a pair depend on, but for those of their ends.
pub fn shared_risks(graph: &Graph, pair: &Pair) -> Vec<Tag> {
    let Some(second) = pair.second.as_ref().filter(|_| graph.has_notes()) else { return Vec::new() };
    let others = risks(graph, second);
    risks(graph, &pair.first).into_iter().filter(|tag| others.contains(tag)).collect()
}

/// The risks that a way takes.
fn risks(graph: &Graph, way: &Path) -> BTreeSet<Tag> {
    let inner = way[1..].iter().flat_map(|edge| graph.node_tags(graph[*edge].from));
    way.iter().flat_map(|edge| graph.edge_tags(*edge)).chain(inner).filter(|tag| tag.is_risk()).cloned().collect()
}

/// `first`, and the best way that shares neither relay nor risk with it.
fn beside(graph: &Graph, weights: &Weights, ends: [NodeIx; 2], first: Path) -> Option<Pair> {
    let taken = risks(graph, &first);
    let avoid: NodeSet = first[1..].iter().map(|edge| graph[*edge].from).collect();
    let kept = graph
        .edges()
        .filter(|edge| !first.contains(edge) && !meets(graph, *edge, ends, |tag| tag.is_risk() && taken.contains(tag)));
    let weights_left = weights.only(&kept.collect());
    let second = shortest::from(graph, &weights_left, ends[0], &avoid).path(graph, ends[1])?;
    let mut ways = [first, second];
    ways.sort_by_cached_key(|way| (weights.total(way.iter().copied()), way.len(), way.clone()));
    let [first, second] = ways;
    Some(Pair { first, second: Some(second), disjoint: Disjointness::Nodes })
}

/// Whether an edge, or a relay on it that is not one of the `ends` of the way, has such a tag.
fn meets(graph: &Graph, edge: EdgeIx, ends: [NodeIx; 2], is_meant: impl Fn(&Tag) -> bool) -> bool {
    let passed = [graph[edge].from, graph[edge].to].into_iter().filter(|node| !ends.contains(node));
    graph.edge_tags(edge).iter().chain(passed.flat_map(|node| graph.node_tags(node))).any(is_meant)
}

fn apart(graph: &Graph, first: &Path, second: &Path) -> Disjointness {
    let shared_links = first.iter().filter(|edge| second.contains(edge)).count() as u32;
    if shared_links > 0 {
        return Disjointness::Partly { shared_links };
    }
    let inner = |path: &Path| path[1..].iter().map(|edge| graph[*edge].from).collect::<Vec<_>>();
    let others = inner(second);
    match inner(first).iter().filter(|node| others.contains(node)).count() as u32 {
        0 => Disjointness::Nodes,
        shared_nodes => Disjointness::Links { shared_nodes },
    }
}

/// A price: shared links above shared nodes above weight above hops, in one number. Sums of as many terms as a graph of
/// 2^15 nodes has stay within their field.
type Price = i128;

const HOP: Price = 1;
const WEIGHT: Price = 1 << 16;
const SHARED_NODE: Price = 1 << 80;
const SHARED_LINK: Price = 1 << 100;

/// Two units of flow at least price on the split graph. Place `2v` is the entry of node v, `2v + 1` its exit.
struct Flow<'a> {
    graph: &'a Graph,
    weights: &'a Weights,
    from: NodeIx,
    to: NodeIx,
    on_edge: Vec<u8>,
    through: Vec<u8>,
    potential: Vec<Price>,
}

/// How a place is reached in the residual graph.
#[derive(Clone, Copy)]
enum Step {
    Take(EdgeIx),
    TakeBack(EdgeIx),
    Pass(NodeIx),
    PassBack(NodeIx),
}

impl<'a> Flow<'a> {
    fn new(graph: &'a Graph, weights: &'a Weights, from: NodeIx, to: NodeIx) -> Self {
        let nodes = graph.node_count();
        let (on_edge, through) = (vec![0; graph.edge_count()], vec![0; nodes]);
        Flow { graph, weights, from, to, on_edge, through, potential: vec![0; 2 * nodes] }
    }

    /// Sends one more unit on the cheapest way of the residual graph; whether there is one. Dijkstra on prices reduced by
    /// the potentials of the unit before, which keeps them from being negative (Suurballe's transformation).
    fn augment(&mut self) -> bool {
        let places = self.potential.len();
        let mut best: Vec<Option<Step>> = vec![None; places];
        let start = exit(self.from);
        let goal = entry(self.to);
        let mut distance = vec![Price::MAX; places];
        distance[start] = 0;
        let mut open = BinaryHeap::from([Reverse((0, start))]);
        while let Some(Reverse((at_distance, place))) = open.pop() {
            // All that is left is as far or farther, and counts as far as the goal below.
            if place == goal {
                break;
            }
            if at_distance > distance[place] {
                continue;
            }
            self.residual(place, |next, price, step| {
                let reached = at_distance + price + self.potential[place] - self.potential[next];
                if next != start && reached < distance[next] {
                    distance[next] = reached;
                    best[next] = Some(step);
                    open.push(Reverse((reached, next)));
                }
            });
        }
        if distance[goal] == Price::MAX {
            return false;
        }
        let farthest = distance[goal];
        for (potential, distance) in self.potential.iter_mut().zip(&distance) {
            *potential += farthest.min(*distance);
        }
        self.apply(&best, start, goal);
        true
    }

    /// Calls `relax` with every place that the residual graph reaches from `place`, the price, and the step.
    fn residual(&self, place: usize, mut relax: impl FnMut(usize, Price, Step)) {
        let node = NodeIx(place as u32 / 2);
        let through = self.through[node.0 as usize];
        if place == exit(node) {
            for edge in self.graph.outgoing(node) {
                let (on, next) = (self.on_edge[edge.0 as usize], self.graph[edge].to);
                if on < 2 && self.weights[edge] != Weights::UNUSABLE && next != self.from {
                    relax(entry(next), self.edge_price(edge, on), Step::Take(edge));
                }
            }
            if through > 0 {
                relax(entry(node), -node_price(through - 1), Step::PassBack(node));
            }
        } else {
            if through < 2 && self.graph.transit(node) {
                relax(exit(node), node_price(through), Step::Pass(node));
            }
            for edge in self.graph.incoming(node) {
                let on = self.on_edge[edge.0 as usize];
                if on > 0 {
                    relax(exit(self.graph[edge].from), -self.edge_price(edge, on - 1), Step::TakeBack(edge));
                }
            }
        }
    }

    fn apply(&mut self, best: &[Option<Step>], start: usize, goal: usize) {
        let mut place = goal;
        while place != start {
            let step = best[place].expect("every place on the way was reached by a step");
            place = match step {
                Step::Take(edge) => {
                    self.on_edge[edge.0 as usize] += 1;
                    exit(self.graph[edge].from)
                }
                Step::TakeBack(edge) => {
                    self.on_edge[edge.0 as usize] -= 1;
                    entry(self.graph[edge].to)
                }
                Step::Pass(node) => {
                    self.through[node.0 as usize] += 1;
                    entry(node)
                }
                Step::PassBack(node) => {
                    self.through[node.0 as usize] -= 1;
                    exit(node)
                }
            };
        }
    }

    /// Price of one more unit on an edge that carries `on` of them.
    fn edge_price(&self, edge: EdgeIx, on: u8) -> Price {
        let bare = HOP + WEIGHT * Price::from(self.weights[edge]);
        if on == 0 { bare } else { bare + SHARED_LINK }
    }

    fn take_path(&mut self) -> Path {
        let mut path = Path::new();
        let mut at = self.from;
        while at != self.to {
            let edge = self.graph.outgoing(at).find(|edge| self.on_edge[edge.0 as usize] > 0);
            let edge = edge.expect("flow that enters a node leaves it");
            self.on_edge[edge.0 as usize] -= 1;
            path.push(edge);
            at = self.graph[edge].to;
        }
        path
    }
}

/// Price of one more unit through a node that `through` of them pass.
fn node_price(through: u8) -> Price {
    if through == 0 { 0 } else { SHARED_NODE }
}

fn entry(node: NodeIx) -> usize {
    2 * node.0 as usize
}

fn exit(node: NodeIx) -> usize {
    2 * node.0 as usize + 1
}
