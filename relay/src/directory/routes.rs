//! The graphs of a stream, from the state of the overlay.

use super::Graphs;
use super::known::Known;
use node::control::{Edge, Module};
use std::collections::{BTreeMap, BTreeSet};
use topology::{NodeName, StreamName};

pub(super) fn graphs(known: &Known, ingress: &NodeName, name: &StreamName) -> Graphs {
    // Dijkstra, O(n²).
    let mut best: BTreeMap<NodeName, (u64, Option<NodeName>)> = BTreeMap::from([(ingress.clone(), (0, None))]);
    let mut done = BTreeSet::new();
    while let Some((at, cost)) = best
        .iter()
        .filter(|(relay, _)| !done.contains(*relay))
        .min_by_key(|(_, (d, _))| *d)
        .map(|(r, (d, _))| (r.clone(), *d))
    {
        done.insert(at.clone());
        let Some(ad) = known.get(&at) else { continue };
        for link in &ad.links {
            if known.link(&at, &link.peer).is_none() {
                continue;
            }
            let through = cost + u64::from(link.delay_us);
            let entry = best.entry(link.peer.clone()).or_insert((u64::MAX, None));
            if through < entry.0 {
                *entry = (through, Some(at.clone()));
            }
        }
    }
    let mut egresses = Vec::new();
    let mut edges: BTreeMap<(NodeName, NodeName), (u32, u32)> = BTreeMap::new();
    for ad in known.iter().filter(|ad| ad.origin != *ingress && best.contains_key(&ad.origin)) {
        let Some(wish) = ad.subscriptions.iter().find(|wish| wish.name == *name) else { continue };
        egresses.push(ad.origin.clone());
        let total = best[&ad.origin].0;
        let mut at = ad.origin.clone();
        while let Some((_, Some(before))) = best.get(&at).cloned() {
            let rest = (total - best[&at].0) as u32 + wish.last_mile_us;
            let (min, max) = edges.entry((before.clone(), at)).or_insert((rest, rest));
            *min = (*min).min(rest);
            *max = (*max).max(rest);
            at = before;
        }
    }
    let edge = |((from, to), (min, max))| Edge { from, to, rest_min_us: min, rest_max_us: max };
    Graphs { modules: vec![Module { edges: edges.into_iter().map(edge).collect() }], egresses }
}
