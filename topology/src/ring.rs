//! Neighbours that keep an overlay whole: a ring in the order of names, and what holds a graph together.
//!
//! An overlay of which every relay keeps a link to the one before it and the one after it, by name, is a cycle: no relay
//! that dies takes it apart, and who comes next is known to all alike from the same database. What is near is added to it by
//! measurement; the ring alone is what must not break.

use crate::graph::{Graph, NodeIx};
use crate::names::NodeName;
use std::collections::BTreeSet;

/// The neighbours of `me` in the ring of `names`: the one before and the one after, one where there are but two, none where
/// it is alone. `me` counts as one of `names`.
pub fn beside(names: &BTreeSet<NodeName>, me: &NodeName) -> BTreeSet<NodeName> {
    let others = || names.iter().filter(|name| *name != me);
    let after = others().find(|name| *name > me).or_else(|| others().next());
    let before = others().rfind(|name| *name < me).or_else(|| others().next_back());
    after.into_iter().chain(before).cloned().collect()
}

/// Relays without which the others are no longer all joined (articulation points: J. Hopcroft, R. Tarjan, *Algorithm 447*,
/// Communications of the ACM 16, 1973), in the order of the graph; links count whatever their direction.
pub fn cut_relays(graph: &Graph) -> Vec<NodeIx> {
    let is_whole_without = |gone: NodeIx| {
        let mut left: Vec<NodeIx> = graph.nodes().filter(|node| *node != gone).collect();
        let Some(start) = left.pop() else { return true };
        let (mut seen, mut frontier) = (BTreeSet::from([start]), vec![start]);
        while let Some(node) = frontier.pop() {
            let out = graph.outgoing(node).map(|edge| graph[edge].to);
            let next = out.chain(graph.incoming(node).map(|edge| graph[edge].from)).filter(|node| *node != gone);
            frontier.extend(next.filter(|node| seen.insert(*node)));
        }
        seen.len() == left.len() + 1
    };
    graph.nodes().filter(|node| !is_whole_without(*node)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Metric;

    fn names(text: &str) -> BTreeSet<NodeName> {
        text.split_whitespace().map(|name| name.parse().expect("valid")).collect()
    }

    fn graph(links: &[(&str, &str)]) -> Graph {
        let name = |text: &str| -> NodeName { text.parse().expect("valid") };
        let nodes: BTreeSet<NodeName> = links.iter().flat_map(|(a, b)| [name(a), name(b)]).collect();
        let both = links.iter().flat_map(|(a, b)| [(a, b), (b, a)]);
        Graph::new(nodes.into_iter().map(|n| (n, true)), both.map(|(a, b)| (name(a), name(b), Metric::default())))
    }

    #[test]
    fn the_ring_closes() {
        let all = names("a c e");
        let beside = |me: &str| beside(&all, &me.parse().expect("valid"));
        assert_eq!(beside("a"), names("c e"));
        assert_eq!(beside("e"), names("a c"));
        assert_eq!(beside("d"), names("c e"), "one that is to join");
        assert_eq!(super::beside(&names("a b"), &"b".parse().expect("valid")), names("a"));
        assert!(super::beside(&names("a"), &"a".parse().expect("valid")).is_empty());
    }

    #[test]
    fn a_ring_has_no_cut_relay_and_a_line_has() {
        assert!(cut_relays(&graph(&[("a", "b"), ("b", "c"), ("c", "a")])).is_empty());
        let line = graph(&[("a", "b"), ("b", "c")]);
        assert_eq!(cut_relays(&line), [line.find(&"b".parse().expect("valid")).expect("there")]);
        let apart = graph(&[("a", "b"), ("c", "d")]);
        assert_eq!(cut_relays(&apart).len(), 4);
    }
}
