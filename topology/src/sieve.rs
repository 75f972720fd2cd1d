//! Which links a stream may use: those with room for it, and of these the ones that the operator would rather have.
//!
//! *Room* comes first, and is no wish: a link on which a stream is not admitted carries none of its graphs. What is left is
//! narrowed step by step (without what is to be avoided, with what is preferred, with the cheapest links), and a step
//! is taken only where it costs the stream nothing: every egress is reached in time as before, and by two ways in time
//! where it was. Both are asked of the links that are in order alone as well, so that a way that fails brings back what the
//! operator would rather not use. Carriers and sites that fail together are a matter of the pair of ways ([`crate::disjoint`]).

use crate::dissemination;
use crate::graph::{EdgeIx, Graph, NodeIx};
use crate::lsdb::Incarnation;
use crate::module::Demand;
use crate::sets::{EdgeSet, NodeSet};
use crate::shortest;
use crate::targeted::TROUBLED_PPM;
use crate::terms::{Full, Need, Tag};
use crate::weight::Weights;
use std::collections::BTreeSet;
use std::fmt;
use std::rc::Rc;

/// What an operator would rather have, where a stream is as well off with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Links and relays with one of these tags are passed by.
    pub avoid: Vec<Tag>,
    /// Links and relays with one of these are taken before those that have another tag of the same kind.
    pub prefer: Vec<Tag>,
}

/// What is asked of the links for one stream.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Which life of which stream.
    pub life: Incarnation,
    /// What it needs of each.
    pub need: Need,
    /// The edges that it has been admitted to already.
    pub has: EdgeSet,
}

/// The graph that is left for a stream.
#[derive(Clone, Debug)]
pub struct Sieved {
    /// The same nodes, and the links that it may use.
    pub graph: Rc<Graph>,
    /// Why others were left out.
    pub why: Vec<Why>,
    /// Egresses that it cannot be carried to for want of room, each with a link that has none.
    pub unserved: Vec<(NodeIx, Full)>,
}

/// Why links were left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// They have no room for the stream, so many of them.
    Full(usize),
    /// They, or relays, are to be avoided.
    Avoided,
    /// Others are preferred.
    Preferred,
    /// They cost more than this, and the stream is as well off without.
    Dear(u32),
    /// What is to be avoided is used: without it the stream would be worse off.
    Unavoidable,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Full(links) => write!(f, "{links} directed links have no room for it"),
            Why::Avoided => f.write_str("without what is to be avoided"),
            Why::Preferred => f.write_str("by what is preferred"),
            Why::Dear(cost) => write!(f, "by links that cost at most {cost}: dearer ones would gain nothing"),
            Why::Unavoidable => f.write_str("by what is to be avoided too: without it, receivers would have less"),
        }
    }
}

/// What is left of `graph` for `demand`.
pub fn sieve(graph: &Rc<Graph>, demand: &Demand, policy: &Policy, claim: &Claim) -> Sieved {
    let mut sieved = by_room(graph, demand, claim);
    let served: BTreeSet<NodeIx> = sieved.unserved.iter().map(|(node, _)| *node).collect();
    let egresses = demand.egresses.iter().filter(|egress| !served.contains(&egress.node)).copied().collect();
    let demand = Demand { egresses, ..demand.clone() };
    sieved.by_policy(&demand, policy);
    sieved.by_cost(&demand);
    sieved
}

fn by_room(graph: &Rc<Graph>, demand: &Demand, claim: &Claim) -> Sieved {
    let open = |edge: EdgeIx| {
        let fits = graph.room(edge).is_none_or(|room| claim.has.contains(edge) || room.fits(claim.need));
        fits && !graph.declines(edge, claim.life)
    };
    let mut sieved = Sieved { graph: graph.clone(), why: Vec::new(), unserved: Vec::new() };
    if claim.need.rate_kbps == 0 || !graph.has_notes() || graph.edges().all(open) {
        return sieved;
    }
    let narrowed = graph.narrowed(open);
    sieved.why.push(Why::Full(graph.edge_count() - narrowed.edge_count()));
    sieved.unserved = unserved(graph, &narrowed, demand, claim.need, &open);
    sieved.graph = Rc::new(narrowed);
    sieved
}

/// Egresses that are in time over all links and not over those with room, each with the first link of its shortest way
/// that has none.
fn unserved(
    graph: &Graph,
    narrowed: &Graph,
    demand: &Demand,
    need: Need,
    open: &dyn Fn(EdgeIx) -> bool,
) -> Vec<(NodeIx, Full)> {
    let away = |graph: &Graph| shortest::from(graph, &Weights::delay(graph), demand.ingress, &NodeSet::new());
    let (all, left) = (away(graph), away(narrowed));
    let of = |egress: &crate::module::Egress| {
        let budget = egress.budget_us(demand.deadline_us);
        let best = all.to(egress.node)?;
        let enough = left.to(egress.node).is_some_and(|delay| delay <= budget.max(best));
        let full = all.path(graph, egress.node)?.into_iter().find(|edge| !open(*edge)).filter(|_| !enough)?;
        let (from, to) = (graph.name(graph[full].from).clone(), graph.far_end(full));
        Some((egress.node, Full { from, to, room: graph.room(full).unwrap_or_default(), need }))
    };
    demand.egresses.iter().filter(|egress| egress.node != demand.ingress).filter_map(of).collect()
}

impl Sieved {
    fn by_policy(&mut self, demand: &Demand, policy: &Policy) {
        if !policy.avoid.is_empty() {
            let touched = |graph: &Graph, edge| touches(graph, demand, edge, |tag| policy.avoid.contains(tag));
            let any = self.graph.edges().any(|edge| touched(&self.graph, edge));
            let taken = any && self.try_without(demand, touched);
            self.why.extend(any.then_some(if taken { Why::Avoided } else { Why::Unavoidable }));
        }
        if !policy.prefer.is_empty() {
            let lesser = |tag: &Tag| {
                !policy.prefer.contains(tag) && policy.prefer.iter().any(|preferred| preferred.kind() == tag.kind())
            };
            let touched = |graph: &Graph, edge| touches(graph, demand, edge, lesser);
            if self.graph.edges().any(|edge| touched(&self.graph, edge)) && self.try_without(demand, touched) {
                self.why.push(Why::Preferred);
            }
        }
    }

    /// The lowest ceiling on the cost of a link that costs the stream nothing.
    fn by_cost(&mut self, demand: &Demand) {
        let costs: BTreeSet<u32> = self.graph.edges().map(|edge| self.graph[edge].metric.cost).collect();
        let costs: Vec<u32> = costs.into_iter().collect();
        if costs.len() < 2 {
            return;
        }
        let full = Service::of(&self.graph, demand);
        let under = |most: u32| self.graph.narrowed(|edge| self.graph[edge].metric.cost <= most);
        let (mut low, mut high) = (0, costs.len() - 1);
        while low < high {
            let middle = (low + high) / 2;
            let good = Service::of(&under(costs[middle]), demand).is_as_good(&full);
            if good { high = middle } else { low = middle + 1 }
        }
        if high + 1 < costs.len() {
            self.graph = Rc::new(under(costs[high]));
            self.why.push(Why::Dear(costs[high]));
        }
    }

    /// Leaves edges out, where that costs the stream nothing.
    fn try_without(&mut self, demand: &Demand, out: impl Fn(&Graph, EdgeIx) -> bool) -> bool {
        let narrowed = self.graph.narrowed(|edge| !out(&self.graph, edge));
        let good = Service::of(&narrowed, demand).is_as_good(&Service::of(&self.graph, demand));
        if good {
            self.graph = Rc::new(narrowed);
        }
        good
    }
}

/// Whether an edge, or a relay at one of its ends that a stream passes through, has such a tag.
fn touches(graph: &Graph, demand: &Demand, edge: EdgeIx, is_meant: impl Fn(&Tag) -> bool) -> bool {
    let ends = [graph[edge].from, graph[edge].to].into_iter();
    let is_end = |node: NodeIx| node == demand.ingress || demand.egresses.iter().any(|egress| egress.node == node);
    let passed = ends.filter(|node| !is_end(*node)).flat_map(|node| graph.node_tags(node));
    graph.edge_tags(edge).iter().chain(passed).any(is_meant)
}

/// What each egress gets of a graph: in time, and by two ways in time; over all links, and over those in order.
#[derive(Debug, PartialEq, Eq)]
struct Service(Vec<[bool; 4]>);

impl Service {
    fn of(graph: &Graph, demand: &Demand) -> Service {
        let all = Service::over(graph, demand);
        let is_sound = |edge: EdgeIx| graph[edge].metric.loss_ppm < TROUBLED_PPM;
        let sound =
            if graph.edges().all(is_sound) { all.clone() } else { Service::over(&graph.narrowed(is_sound), demand) };
        Service(all.into_iter().zip(sound).map(|(a, b)| [a[0], a[1], b[0], b[1]]).collect())
    }

    fn over(graph: &Graph, demand: &Demand) -> Vec<[bool; 2]> {
        let ways = dissemination::ways(graph, demand);
        let of = |egress: &crate::module::Egress| {
            let found = ways.iter().find(|ways| ways.egress.node == egress.node);
            found.map_or([false; 2], |ways| [ways.in_time, ways.in_time && ways.second_us.is_some()])
        };
        demand.egresses.iter().map(of).collect()
    }

    fn is_as_good(&self, other: &Service) -> bool {
        self.0.iter().flatten().zip(other.0.iter().flatten()).all(|(here, there)| here >= there)
    }
}
