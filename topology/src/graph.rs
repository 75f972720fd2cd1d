//! The overlay as a compact directed graph: indices instead of names, in an order that every relay computes alike.

use crate::lsdb::{Database, Incarnation, LinkView};
use crate::names::{LinkEnd, LinkName, NodeName};
use crate::terms::{LinkTerms, Room, Tag};
use std::collections::BTreeMap;
use std::ops::Index;
use std::sync::Arc;

/// A node of one [`Graph`]: its place in the order of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeIx(pub u32);

/// A directed edge of one [`Graph`]: its place in the order of (from, to, name of the link).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EdgeIx(pub u32);

/// What is known of one direction of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Metric {
    /// One-way delay in microseconds.
    pub delay_us: u32,
    /// Share of transmissions lost, in parts per million.
    pub loss_ppm: u32,
    /// What the operator says it costs, relative to others.
    pub cost: u32,
}

/// A directed edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge {
    /// The node that sends.
    pub from: NodeIx,
    /// The node that receives.
    pub to: NodeIx,
    /// What is known of it.
    pub metric: Metric,
}

/// A directed graph without loops, with nodes in the order of their names. Two relays may be joined by several links, told apart by their
/// names: each has an edge in both directions, and two ways that take different ones share no link.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    names: Arc<[NodeName]>,
    transit: Vec<bool>,
    edges: Vec<Edge>,
    /// By edge; most links have none.
    link_names: Vec<Option<LinkName>>,
    first_out: Vec<u32>,
    incoming: Vec<EdgeIx>,
    first_in: Vec<u32>,
    /// What relays say of nodes and edges beyond their metrics; `None` where nobody says anything.
    notes: Option<Arc<Notes>>,
}

/// By node, and by edge.
#[derive(Clone, Debug, Default)]
struct Notes {
    nodes: Vec<Vec<Tag>>,
    edges: Vec<EdgeNotes>,
}

#[derive(Clone, Debug, Default)]
struct EdgeNotes {
    tags: Vec<Tag>,
    room: Option<Room>,
    declined: Vec<Incarnation>,
}

impl Graph {
    /// The graph of all relays in `database` and of the links whose two ends both advertise them. A link loses what its
    /// receiving end reports; what its sender believes where that has never reported. Its delay is what its sender says, but no less than half of
    /// what the other end says of the way back: nobody draws streams to itself by saying that it is near to all.
    pub fn from_database(database: &Database) -> Self {
        let nodes = database.iter().map(|ad| (ad.origin.clone(), !ad.draining));
        let metric = |link: LinkView<'_>| {
            let state = link.state;
            let reported = database.condition(link.from, link.to).map(|condition| condition.level.ppm());
            let loss_ppm = reported.unwrap_or(state.loss_ppm);
            let back = database.get(&link.to.relay).into_iter().flat_map(|ad| &ad.links);
            let back_us = back.filter(|back| link.is_way_back(&back.peer)).map(|back| back.delay_us).min();
            let least_us = back_us.map_or(0, |back_us| back_us / 2);
            Metric { delay_us: state.delay_us.max(least_us), loss_ppm, cost: state.cost }
        };
        let links = database.links().map(|link| (link.from.clone(), link.to.clone(), metric(link)));
        let mut graph = Graph::new(nodes, links);
        for ad in database.iter().filter(|ad| !ad.terms.tags.is_empty()) {
            graph.tag_node(&ad.origin, &ad.terms.tags);
        }
        // Mostly nobody has any, and who asks for the links asks each of both its ends.
        let any = database.iter().any(|ad| !ad.terms.links.is_empty());
        let mut noted: Option<(&NodeName, &LinkEnd)> = None;
        for link in any.then(|| database.links()).into_iter().flatten() {
            // Of a link that its sender tells of more than once what was taken, the first where others say the same.
            let ends = (link.from, link.to);
            let taken = graph.find_edge(link.from, link.to).map(|edge| graph[edge].metric);
            if noted == Some(ends) || taken != Some(metric(link)) {
                continue;
            }
            noted = Some(ends);
            if let Some(terms) = link.terms.filter(|terms| **terms != LinkTerms::default()) {
                graph.note(link.from, link.to, terms);
            }
        }
        graph
    }

    /// Marks a node. One that is not in the graph is passed over.
    pub fn tag_node(&mut self, name: &NodeName, tags: &[Tag]) {
        if let Some(node) = self.find(name) {
            self.notes_mut().nodes[node.0 as usize] = tags.to_vec();
        }
    }

    /// Takes in the terms of an edge. One that is not in the graph is passed over.
    pub fn note(&mut self, from: &NodeName, to: &LinkEnd, terms: &LinkTerms) {
        let LinkTerms { tags, room, declined } = terms.clone();
        if let Some(edge) = self.find_edge(from, to) {
            self.notes_mut().edges[edge.0 as usize] = EdgeNotes { tags, room, declined };
        }
    }

    fn notes_mut(&mut self) -> &mut Notes {
        let (nodes, edges) = (self.names.len(), self.edges.len());
        let blank = || Arc::new(Notes { nodes: vec![Vec::new(); nodes], edges: vec![EdgeNotes::default(); edges] });
        Arc::make_mut(self.notes.get_or_insert_with(blank))
    }

    /// What a node is marked with.
    pub fn node_tags(&self, node: NodeIx) -> &[Tag] {
        self.notes.as_ref().map_or(&[], |notes| &notes.nodes[node.0 as usize])
    }

    /// What an edge is marked with.
    pub fn edge_tags(&self, edge: EdgeIx) -> &[Tag] {
        self.notes.as_ref().map_or(&[], |notes| &notes.edges[edge.0 as usize].tags)
    }

    /// What may be admitted to an edge, and is; `None` where nothing bounds it.
    pub fn room(&self, edge: EdgeIx) -> Option<Room> {
        self.notes.as_ref()?.edges[edge.0 as usize].room
    }

    /// Whether the sending end of an edge says that this life of a stream does not fit.
    pub fn declines(&self, edge: EdgeIx, life: Incarnation) -> bool {
        self.notes.as_ref().is_some_and(|notes| notes.edges[edge.0 as usize].declined.contains(&life))
    }

    /// Whether anything is marked, or bounded.
    pub fn has_notes(&self) -> bool {
        self.notes.is_some()
    }

    /// The same nodes, with those edges for which `keep` says so. Nodes keep their indices, edges do not.
    pub fn narrowed(&self, keep: impl Fn(EdgeIx) -> bool) -> Graph {
        let kept: Vec<EdgeIx> = self.edges().filter(|edge| keep(*edge)).collect();
        let edges = kept.iter().map(|edge| (self[*edge], self.link_name(*edge).cloned())).collect();
        let mut graph = Graph::of(self.names.clone(), self.transit.clone(), edges);
        graph.notes = self.notes.as_ref().map(|notes| {
            let edges = kept.iter().map(|edge| notes.edges[edge.0 as usize].clone()).collect();
            Arc::new(Notes { nodes: notes.nodes.clone(), edges })
        });
        graph
    }

    /// A graph of `nodes` (name, and whether streams may pass through it) and directed `links` among them. Links to
    /// nodes that are not listed and links from a node to itself are left out; of a link that is named more than once the best counts (least
    /// delay, then loss, then cost).
    pub fn new<End: Into<LinkEnd>>(
        nodes: impl IntoIterator<Item = (NodeName, bool)>,
        links: impl IntoIterator<Item = (NodeName, End, Metric)>,
    ) -> Self {
        let nodes: BTreeMap<NodeName, bool> = nodes.into_iter().collect();
        let (names, transit): (Vec<_>, Vec<_>) = nodes.into_iter().unzip();
        let find = |name: &NodeName| names.binary_search(name).ok().map(|at| NodeIx(at as u32));
        let mut best: BTreeMap<(NodeIx, NodeIx, Option<LinkName>), Metric> = BTreeMap::new();
        for (from, end, metric) in links {
            let LinkEnd { relay, link } = end.into();
            let (Some(from), Some(to)) = (find(&from), find(&relay)) else { continue };
            if from != to {
                best.entry((from, to, link)).and_modify(|known| *known = metric.min(*known)).or_insert(metric);
            }
        }
        let edges = best.into_iter().map(|((from, to, link), metric)| (Edge { from, to, metric }, link)).collect();
        Graph::of(names.into(), transit, edges)
    }

    /// The same nodes with every edge turned round, without tags and room. Nodes keep their indices, edges do not.
    pub fn reversed(&self) -> Graph {
        // Those that enter are by node and by where they come from, which is the order of those that leave, turned round.
        let turned = |edge: &EdgeIx| {
            let Edge { from, to, metric } = self[*edge];
            (Edge { from: to, to: from, metric }, self.link_name(*edge).cloned())
        };
        Graph::of(self.names.clone(), self.transit.clone(), self.incoming.iter().map(turned).collect())
    }

    /// The same graph with the metric of every edge as `measured` gives it.
    pub fn with_metrics(&self, mut measured: impl FnMut(EdgeIx, Metric) -> Metric) -> Graph {
        let mut graph = self.clone();
        for (at, edge) in graph.edges.iter_mut().enumerate() {
            edge.metric = measured(EdgeIx(at as u32), edge.metric);
        }
        graph
    }

    /// How many nodes there are.
    pub fn node_count(&self) -> usize {
        self.names.len()
    }

    /// How many directed edges there are.
    pub fn edge_count(&self) -> usize {
        self.edges.len()
    }

    /// All nodes.
    pub fn nodes(&self) -> impl DoubleEndedIterator<Item = NodeIx> + use<> {
        (0..self.names.len() as u32).map(NodeIx)
    }

    /// All edges, by (from, to, name of the link).
    pub fn edges(&self) -> impl DoubleEndedIterator<Item = EdgeIx> + use<> {
        (0..self.edges.len() as u32).map(EdgeIx)
    }

    /// The node of that name.
    pub fn find(&self, name: &NodeName) -> Option<NodeIx> {
        self.names.binary_search(name).ok().map(|at| NodeIx(at as u32))
    }

    /// The edges from one node to another, one for each link that joins them.
    pub fn between(&self, from: NodeIx, to: NodeIx) -> impl ExactSizeIterator<Item = EdgeIx> + use<> {
        let (start, end) = (self.first_out[from.0 as usize], self.first_out[from.0 as usize + 1]);
        let leaving = &self.edges[start as usize..end as usize];
        let first = start + leaving.partition_point(|edge| edge.to < to) as u32;
        let beyond = start + leaving.partition_point(|edge| edge.to <= to) as u32;
        (first..beyond).map(EdgeIx)
    }

    /// The edge that leaves `from` over the link `to`.
    pub fn find_edge(&self, from: &NodeName, to: &LinkEnd) -> Option<EdgeIx> {
        let mut parallel = self.between(self.find(from)?, self.find(&to.relay)?);
        parallel.find(|edge| self.link_name(*edge) == to.link.as_ref())
    }

    /// The name of the link that an edge is a direction of, where it has one.
    pub fn link_name(&self, edge: EdgeIx) -> Option<&LinkName> {
        self.link_names[edge.0 as usize].as_ref()
    }

    /// The link that an edge is a direction of, as the node calls it that sends on it.
    pub fn far_end(&self, edge: EdgeIx) -> LinkEnd {
        LinkEnd { relay: self.name(self[edge].to).clone(), link: self.link_name(edge).cloned() }
    }

    /// The name of a node.
    pub fn name(&self, node: NodeIx) -> &NodeName {
        &self.names[node.0 as usize]
    }

    /// Whether streams may pass through a node that neither begin nor end there.
    pub fn transit(&self, node: NodeIx) -> bool {
        self.transit[node.0 as usize]
    }

    /// Edges that leave a node, by the node they lead to and the name of the link.
    pub fn outgoing(&self, node: NodeIx) -> impl ExactSizeIterator<Item = EdgeIx> + use<> {
        (self.first_out[node.0 as usize]..self.first_out[node.0 as usize + 1]).map(EdgeIx)
    }

    /// Edges that enter a node, by the node they come from and the name of the link.
    pub fn incoming(&self, node: NodeIx) -> impl ExactSizeIterator<Item = EdgeIx> + '_ {
        let range = self.first_in[node.0 as usize] as usize..self.first_in[node.0 as usize + 1] as usize;
        self.incoming[range].iter().copied()
    }

    /// `edges` are in the order of (from, to, name).
    fn of(names: Arc<[NodeName]>, transit: Vec<bool>, edges: Vec<(Edge, Option<LinkName>)>) -> Graph {
        let (edges, link_names): (Vec<Edge>, Vec<_>) = edges.into_iter().unzip();
        let first_out = starts(names.len(), edges.iter().map(|edge| edge.from));
        let first_in = starts(names.len(), edges.iter().map(|edge| edge.to));
        let mut incoming = vec![EdgeIx(0); edges.len()];
        let mut next = first_in.clone();
        for (at, edge) in edges.iter().enumerate() {
            let place = &mut next[edge.to.0 as usize];
            incoming[*place as usize] = EdgeIx(at as u32);
            *place += 1;
        }
        Graph { names, transit, edges, link_names, first_out, incoming, first_in, notes: None }
    }
}

impl Index<EdgeIx> for Graph {
    type Output = Edge;
    fn index(&self, edge: EdgeIx) -> &Edge {
        &self.edges[edge.0 as usize]
    }
}

/// Where each node's share begins in a list sorted by node, and where the last one ends.
fn starts(nodes: usize, ends: impl Iterator<Item = NodeIx>) -> Vec<u32> {
    let mut first = vec![0; nodes + 1];
    for node in ends {
        first[node.0 as usize + 1] += 1;
    }
    for at in 0..nodes {
        first[at + 1] += first[at];
    }
    first
}
