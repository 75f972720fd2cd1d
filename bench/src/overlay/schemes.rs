//! The schemes that are compared: which graph each of them sends on, given what is reported.

use super::fate::Way;
use super::map::{EDGES, Mask, mask};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;
use topology::dissemination::Repertoire;
use topology::graph::{EdgeIx, Graph, NodeIx};
use topology::module::Demand;
use topology::select::{Plan, Selector};
use topology::sets::{EdgeSet, NodeSet};
use topology::trouble::{Condition, Level};
use topology::weight::Weights;
use topology::{dissemination, shortest, targeted};

/// A way of choosing graphs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// The shortest way (or tree) by expected latency, computed anew on every report.
    OnePath,
    /// Two disjoint ways, computed once.
    TwoStatic,
    /// Two disjoint ways by expected latency, computed anew on every report.
    TwoDynamic,
    /// The paper's: two static ways, and with them the source, the destination or both graphs while there is trouble at an end.
    Targeted,
    /// Every edge that can be in time.
    Flood,
    /// Our rule, hedged always.
    Rule,
    /// Our rule with pull: lean where there is time.
    RulePull,
    /// One way and pull, whether there is time or not, and grown as the rule says.
    LeanPull,
}

impl Scheme {
    /// All of them, in the order of the tables.
    pub const ALL: [Scheme; 8] = [
        Scheme::OnePath,
        Scheme::TwoStatic,
        Scheme::TwoDynamic,
        Scheme::Targeted,
        Scheme::Flood,
        Scheme::Rule,
        Scheme::RulePull,
        Scheme::LeanPull,
    ];

    /// Its name in the tables.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::OnePath => "one path (tree), dynamic",
            Scheme::TwoStatic => "two disjoint, static",
            Scheme::TwoDynamic => "two disjoint, dynamic",
            Scheme::Targeted => "the paper's targeted redundancy",
            Scheme::Flood => "flooding, time-constrained",
            Scheme::Rule => "the rule",
            Scheme::RulePull => "the rule + pull",
            Scheme::LeanPull => "lean + pull",
        }
    }
}

/// What a source has been told: the edges that are not as usual, with level and delay as a percentage of the usual.
pub type Reported = Vec<(u8, Condition, u16)>;

/// Graphs as of one report.
#[derive(Debug)]
pub struct Computed {
    one_path: Mask,
    two: Mask,
    hedged: (Vec<Mask>, Plan),
    lean: (Vec<Mask>, Plan),
    forced: (Vec<Mask>, Plan),
    /// For each egress: along which ways it asks for what is missing.
    pub asked: Vec<Asked>,
}

/// Along which ways an egress may ask.
#[derive(Debug)]
pub struct Asked {
    /// The two disjoint ones.
    pub disjoint: Vec<Way>,
    /// Those, and the ways of the graphs around source and egress.
    pub targeted: Vec<Way>,
}

/// The graphs at one moment.
pub struct Graphs {
    /// Computed from all that is reported.
    pub new: Rc<Computed>,
    /// Installed in the relays, make before break.
    pub installed: Rc<Computed>,
}

/// One stream and the graphs computed for it so far.
pub struct Stream<'a> {
    graph: &'a Graph,
    /// Its demand.
    pub demand: Demand,
    two_static: Mask,
    flood: Mask,
    source: Mask,
    destinations: Vec<Mask>,
    into: Vec<Vec<EdgeIx>>,
    out_of: Vec<EdgeIx>,
    computed: HashMap<Vec<(u8, u32, u16)>, Rc<Computed>>,
}

impl<'a> Stream<'a> {
    /// Computes what does not depend on reports.
    pub fn new(graph: &'a Graph, demand: Demand) -> Self {
        let from = demand.ingress;
        let budget = u64::from(demand.deadline_us);
        let egresses: Vec<NodeIx> = demand.egresses.iter().map(|egress| egress.node).collect();
        let mirror = graph.reversed();
        let source = egresses.iter().map(|to| mask(targeted::source(graph, &mirror, from, *to, budget).iter()));
        let destinations = egresses.iter().map(|to| mask(targeted::destination(graph, from, *to, budget).iter()));
        let ways = dissemination::ways(graph, &demand);
        Stream {
            two_static: ways.iter().fold(0, |all, ways| all | mask(ways.both().iter())),
            flood: mask(targeted::flood(graph, &demand).iter()),
            source: source.fold(0, |all, one| all | one),
            destinations: destinations.collect(),
            into: egresses.iter().map(|to| graph.incoming(*to).collect()).collect(),
            out_of: graph.outgoing(from).collect(),
            computed: HashMap::new(),
            graph,
            demand,
        }
    }

    /// The graphs for what is reported.
    pub fn computed(&mut self, reported: &Reported) -> Rc<Computed> {
        let key: Vec<_> =
            reported.iter().map(|(edge, condition, delay)| (*edge, condition.level.ppm(), *delay)).collect();
        if let Some(known) = self.computed.get(&key) {
            return known.clone();
        }
        let computed = Rc::new(self.compute(reported));
        self.computed.insert(key, computed.clone());
        computed
    }

    /// Forgets graphs computed for reports.
    pub fn forget(&mut self) {
        self.computed.clear();
    }

    /// The graph on which `scheme` sends at `time`: `now` is what is reported, `graphs` what was computed,
    /// `selector` the state of our rule.
    pub fn graph_of(
        &self,
        scheme: Scheme,
        time: Duration,
        now: &Reported,
        graphs: &Graphs,
        selector: &mut Selector,
    ) -> Mask {
        let mut ours = |(masks, plan): &(Vec<Mask>, Plan)| {
            let modules = selector.select(time, plan, |edge| condition(now, edge));
            modules.slots().fold(0, |all, slot| all | masks[slot])
        };
        match scheme {
            Scheme::OnePath => graphs.new.one_path,
            Scheme::TwoStatic => self.two_static,
            Scheme::TwoDynamic => graphs.new.two,
            Scheme::Targeted => self.targeted(now),
            Scheme::Flood => self.flood,
            Scheme::Rule => ours(&graphs.installed.hedged),
            Scheme::RulePull => ours(&graphs.installed.lean),
            Scheme::LeanPull => ours(&graphs.installed.forced),
        }
    }

    fn targeted(&self, now: &Reported) -> Mask {
        let troubled = |edges: &[EdgeIx]| edges.iter().filter(|edge| condition(now, **edge).is_troubled()).count() >= 2;
        let source = if troubled(&self.out_of) { self.source } else { 0 };
        let destinations = self.into.iter().zip(&self.destinations).filter(|(into, _)| troubled(into));
        destinations.fold(self.two_static | source, |all, (_, destination)| all | destination)
    }

    fn compute(&self, reported: &Reported) -> Computed {
        let mut at: [Option<(Condition, u16)>; EDGES] = [None; EDGES];
        for (edge, condition, delay) in reported {
            at[usize::from(*edge)] = Some((*condition, *delay));
        }
        let measured = self.graph.with_metrics(|edge, mut metric| {
            if let Some((condition, delay)) = at[edge.0 as usize] {
                metric.loss_ppm = condition.level.ppm();
                metric.delay_us = (u64::from(metric.delay_us) * u64::from(delay) / 100) as u32;
            }
            metric
        });
        let lean = Repertoire::new(&measured, &self.demand, true);
        let hedged = hedged(&lean);
        let forced = forced(&lean);
        let weights = Weights::expected(&measured, u64::from(self.demand.deadline_us));
        let away = shortest::from(&measured, &weights, self.demand.ingress, &NodeSet::new());
        let paths = self.demand.egresses.iter().filter_map(|egress| away.path(&measured, egress.node)).flatten();
        let mirror = measured.reversed();
        let asked = lean.ways.iter().map(|ways| {
            let (from, to) = (self.demand.ingress, ways.egress.node);
            let budget = ways.egress.budget_us(self.demand.deadline_us);
            let disjoint: Vec<Way> = ways.edges.iter().map(|way| ordered(&measured, way, from, to)).collect();
            let destination = targeted::destination(&measured, from, to, budget);
            let source = targeted::source(&measured, &mirror, from, to, budget);
            let into = measured.incoming(to).filter(|edge| destination.contains(*edge));
            let out = measured.outgoing(from).filter(|edge| source.contains(*edge));
            let around = into.filter_map(|last| back_to(&measured, &destination, from, last));
            let around = around.chain(out.filter_map(|first| onward_to(&measured, &source, first, to)));
            let mut targeted: Vec<Way> = disjoint.iter().cloned().chain(around).collect();
            targeted.sort();
            targeted.dedup();
            Asked { disjoint, targeted }
        });
        Computed {
            one_path: mask(paths),
            two: mask(lean.sets[1].iter()),
            asked: asked.collect(),
            hedged: masks(hedged),
            forced: masks(forced),
            lean: masks(lean),
        }
    }
}

fn condition(reported: &Reported, edge: EdgeIx) -> Condition {
    let found = reported.iter().find(|(at, _, _)| u32::from(*at) == edge.0);
    found.map_or(Condition { level: Level::NONE, late: false }, |(_, condition, _)| *condition)
}

fn masks(repertoire: Repertoire) -> (Vec<Mask>, Plan) {
    (repertoire.sets.iter().map(|set| mask(set.iter())).collect(), repertoire.plan)
}

/// The same repertoire with every egress hedged.
fn hedged(lean: &Repertoire) -> Repertoire {
    let mut hedged = lean.clone();
    hedged.plan.egresses.iter_mut().for_each(|egress| egress.lean = false);
    hedged.sets[0] = hedged.sets[1].clone();
    hedged
}

/// The same repertoire with every egress lean.
fn forced(lean: &Repertoire) -> Repertoire {
    let mut forced = lean.clone();
    forced.plan.egresses.iter_mut().for_each(|egress| egress.lean = true);
    let first = |egress: &topology::select::Watched| egress.first.iter().collect::<Vec<_>>();
    forced.sets[0] = forced.plan.egresses.iter().flat_map(first).collect();
    forced
}

/// The way of a destination graph, from `from`, that ends with the edge `last`.
fn back_to(graph: &Graph, tree: &EdgeSet, from: NodeIx, last: EdgeIx) -> Option<Way> {
    let mut way = vec![last.0 as u8];
    let mut at = graph[last].from;
    while at != from && way.len() < EDGES {
        let edge = graph.incoming(at).find(|edge| tree.contains(*edge))?;
        way.push(edge.0 as u8);
        at = graph[edge].from;
    }
    way.reverse();
    (at == from).then_some(way)
}

/// The way of a source graph, to `to`, that begins with the edge `first`.
fn onward_to(graph: &Graph, tree: &EdgeSet, first: EdgeIx, to: NodeIx) -> Option<Way> {
    let mut way = vec![first.0 as u8];
    let mut at = graph[first].to;
    while at != to && way.len() < EDGES {
        let edge = graph.outgoing(at).find(|edge| tree.contains(*edge))?;
        way.push(edge.0 as u8);
        at = graph[edge].to;
    }
    (at == to).then_some(way)
}

/// The edges of a way in the order in which a packet takes them.
fn ordered(graph: &Graph, way: &EdgeSet, from: NodeIx, to: NodeIx) -> Way {
    let mut edges = Vec::new();
    let mut at = from;
    while at != to {
        let Some(edge) = graph.outgoing(at).find(|edge| way.contains(*edge)) else { break };
        edges.push(edge.0 as u8);
        at = graph[edge].to;
    }
    edges
}
