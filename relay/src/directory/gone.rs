//! Links of the overlay that went away lately: for people, who would otherwise not see what failed.

use link::Instant;
use std::collections::BTreeMap;
use std::time::Duration;
use topology::graph::{EdgeIx, Graph};
use topology::{LinkEnd, NodeName};

/// How long they are remembered.
const MEMORY: Duration = Duration::from_secs(15 * 60);

/// Most of them; of more, those that went first are forgotten.
const MOST: usize = 1024;

/// By the sending end and the link, since when, and the one-way delay in microseconds.
#[derive(Debug, Default)]
pub(super) struct Gone(BTreeMap<(NodeName, LinkEnd), (Instant, u32)>);

impl Gone {
    /// The overlay was like `old`, and is like `new`.
    pub(super) fn follow(&mut self, now: Instant, old: &Graph, new: &Graph) {
        for edge in new.edges() {
            self.0.remove(&ends(new, edge));
        }
        for edge in old.edges() {
            let ends = ends(old, edge);
            if new.find_edge(&ends.0, &ends.1).is_none() {
                self.0.insert(ends, (now, old[edge].metric.delay_us));
            }
        }
        self.0.retain(|_, (since, _)| now.saturating_since(*since) < MEMORY);
        while self.0.len() > MOST {
            let first = self.0.iter().min_by_key(|(_, (since, _))| *since).map(|(ends, _)| ends.clone());
            first.map(|ends| self.0.remove(&ends));
        }
    }

    /// Each with the time since it went, and its one-way delay in microseconds.
    pub(super) fn iter(&self, now: Instant) -> impl Iterator<Item = (&NodeName, &LinkEnd, Duration, u32)> {
        let ago = move |since: &Instant| now.saturating_since(*since);
        let all = self.0.iter().map(move |((from, to), (since, delay))| (from, to, ago(since), *delay));
        all.filter(|(_, _, ago, _)| *ago < MEMORY)
    }
}

fn ends(graph: &Graph, edge: EdgeIx) -> (NodeName, LinkEnd) {
    (graph.name(graph[edge].from).clone(), graph.far_end(edge))
}
