//! Modules: sets of edges on which copies of a packet travel, as they are installed in relays.

use crate::graph::{EdgeIx, Graph, NodeIx};
use crate::sets::{EdgeSet, NodeSet};
use crate::shortest::{self, Around, Detour, Distances};
use crate::weight::Weights;
use std::collections::HashMap;

/// A stream to be spread: where it enters, who wants it, and by when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    /// The relay it enters at.
    pub ingress: NodeIx,
    /// The relays it is watched at.
    pub egresses: Vec<Egress>,
    /// One-way deadline in microseconds.
    pub deadline_us: u32,
}

/// A relay at which a stream is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Egress {
    /// The relay.
    pub node: NodeIx,
    /// The longest one-way delay from there to a sink, in microseconds.
    pub last_mile_us: u32,
}

/// A module: directed edges, each of which serves an egress, none of which leads into the ingress.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Module {
    /// Its edges, by (from, to).
    pub edges: Vec<ModuleEdge>,
    /// How long the news of it takes from the ingress to the last of its relays, along its own edges, in microseconds.
    pub reach_us: u64,
    /// Bare transit from the ingress to the farthest egress, its last mile included, in microseconds.
    pub rest_us: u64,
}

/// A directed edge of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModuleEdge {
    /// Which edge of the graph.
    pub edge: EdgeIx,
    /// The relay that sends.
    pub from: NodeIx,
    /// The relay that receives.
    pub to: NodeIx,
    /// Bare transit from `to` on to the nearest egress below that this edge serves, its last mile included, in
    /// microseconds.
    pub rest_min_us: u32,
    /// The same to the farthest such egress.
    pub rest_max_us: u32,
}

impl Egress {
    /// What is left of `deadline_us` for the overlay.
    pub fn budget_us(&self, deadline_us: u32) -> u64 {
        u64::from(deadline_us.saturating_sub(self.last_mile_us))
    }
}

impl Module {
    /// The module of `edges` for `demand`. Edges that serve no egress are left out.
    ///
    /// An edge serves an egress if a packet that takes it can still get there in time, inside the module, without coming
    /// back to where the edge began. (Whether a way through an edge repeats no other relay is NP-hard to say; unions of
    /// ways, which is what modules are made of, have no edge that could only be used so.) An egress that no way of the module reaches in time is served by every way there is:
    /// late is for the sink to judge.
    pub fn new(graph: &Graph, demand: &Demand, edges: &EdgeSet) -> Self {
        let mut kept = edges.clone();
        for edge in graph.incoming(demand.ingress) {
            kept.remove(edge);
        }
        if kept.is_empty() {
            return Module::default();
        }
        loop {
            let mut survey = Survey::new(graph, demand, &kept);
            let edges: Vec<ModuleEdge> = kept.iter().filter_map(|edge| survey.serve(edge)).collect();
            if edges.len() == kept.len() {
                return Module { edges, reach_us: survey.reach_us(), rest_us: survey.rest_us() };
            }
            kept = edges.iter().map(|edge| edge.edge).collect();
        }
    }

    /// The set of its edges.
    pub fn edge_set(&self) -> EdgeSet {
        self.edges.iter().map(|edge| edge.edge).collect()
    }
}

/// Distances inside one set of edges, by bare delay.
struct Survey<'a> {
    graph: &'a Graph,
    demand: &'a Demand,
    delays: Weights,
    from_ingress: Distances,
    /// Of every egress: the ways to it, and how late a way may be to count.
    to_egress: Vec<(Distances, u64)>,
    /// Ways from the ingress that avoid a node, and ways to the egress at a place that avoid one: the same for all its edges.
    around_head: HashMap<NodeIx, Around>,
    around_tail: HashMap<(usize, NodeIx), Around>,
}

impl<'a> Survey<'a> {
    fn new(graph: &'a Graph, demand: &'a Demand, edges: &EdgeSet) -> Self {
        let (delays, none) = (Weights::delay(graph).only(edges), NodeSet::new());
        let from_ingress = shortest::from(graph, &delays, demand.ingress, &none);
        let ways = |egress: &Egress| {
            let ways = shortest::towards(graph, &delays, egress.node, &none);
            let budget = egress.budget_us(demand.deadline_us);
            let in_time = ways.to(demand.ingress).is_some_and(|distance| distance <= budget);
            (ways, if in_time { budget } else { u64::MAX })
        };
        let to_egress = demand.egresses.iter().map(ways).collect();
        let (around_head, around_tail) = (HashMap::new(), HashMap::new());
        Survey { graph, demand, delays, from_ingress, to_egress, around_head, around_tail }
    }

    fn reach_us(&self) -> u64 {
        self.graph.nodes().filter_map(|node| self.from_ingress.to(node)).max().unwrap_or(0)
    }

    fn rest_us(&self) -> u64 {
        let rest = |egress: &Egress| Some(self.from_ingress.to(egress.node)? + u64::from(egress.last_mile_us));
        self.demand.egresses.iter().filter_map(rest).max().unwrap_or(0)
    }

    /// The edge with its rests, or `None` if it serves no egress.
    fn serve(&mut self, edge: EdgeIx) -> Option<ModuleEdge> {
        let (from, to) = (self.graph[edge].from, self.graph[edge].to);
        // Ways may come back to where they began: what is late even so is late for certain.
        let soonest = self.from_ingress.to(from)?.saturating_add(self.delays[edge]);
        let hopeful = |(ways, budget): &(Distances, u64)| {
            ways.to(to).is_some_and(|beyond| soonest.saturating_add(beyond) <= *budget)
        };
        if !self.to_egress.iter().any(hopeful) {
            return None;
        }
        let until = self.until(edge)?;
        let mut rests: Option<(u64, u64)> = None;
        for (place, egress) in self.demand.egresses.iter().enumerate() {
            if !hopeful(&self.to_egress[place]) {
                continue;
            }
            let Some(most) = self.to_egress[place].1.checked_sub(until) else { continue };
            let Some(beyond) = self.beyond(place, from, to, most).filter(|beyond| *beyond <= most) else { continue };
            let rest = beyond + u64::from(egress.last_mile_us);
            rests = Some(rests.map_or((rest, rest), |(min, max)| (min.min(rest), max.max(rest))));
        }
        let (min, max) = rests?;
        let short = |micros: u64| u32::try_from(micros).unwrap_or(u32::MAX);
        Some(ModuleEdge { edge, from, to, rest_min_us: short(min), rest_max_us: short(max) })
    }

    /// When a packet is at the far end of `edge` at the earliest, not having been there before.
    fn until(&mut self, edge: EdgeIx) -> Option<u64> {
        let (from, to) = (self.graph[edge].from, self.graph[edge].to);
        let (graph, delays, from_ingress) = (self.graph, &self.delays, &self.from_ingress);
        let at_start = if !from_ingress.passes(graph, from, to) {
            from_ingress.to(from)?
        } else if let Detour::Is(distance) = from_ingress.detour(graph, delays, from, to) {
            distance?
        } else {
            self.around_head.entry(to).or_insert_with(|| from_ingress.around(graph, delays, to)).to(from)?
        };
        Some(at_start.saturating_add(self.delays[edge]))
    }

    /// The shortest way from `to` to an egress that does not come back to `from`; `None` as well where it is longer than `most`
    /// and that is seen at once.
    fn beyond(&mut self, place: usize, from: NodeIx, to: NodeIx, most: u64) -> Option<u64> {
        if from == self.demand.egresses[place].node {
            return None;
        }
        let (graph, delays, ways) = (self.graph, &self.delays, &self.to_egress[place].0);
        if !ways.passes(graph, to, from) {
            return ways.to(to);
        }
        match ways.detour(graph, delays, to, from) {
            Detour::Is(distance) => distance,
            Detour::AtLeast(least) if least > most => None,
            Detour::AtLeast(_) => {
                self.around_tail.entry((place, from)).or_insert_with(|| ways.around(graph, delays, from)).to(to)
            }
        }
    }
}
