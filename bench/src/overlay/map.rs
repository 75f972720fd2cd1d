//! The map of the experiment: twelve sites, thirty-two links, and who sends to whom.

use crate::channel::{Draws, derive};
use topology::NodeName;
use topology::graph::{EdgeIx, Graph, Metric, NodeIx};
use topology::module::{Demand, Egress};

/// How many directed edges the map has: a graph on it is a mask of so many bits.
pub const EDGES: usize = 64;

/// A graph on the map: bit i is edge i.
pub type Mask = u64;

/// Site, latitude, longitude.
const SITES: [(&str, f64, f64); 12] = [
    ("nyc", 40.71, -74.01),
    ("bos", 42.36, -71.06),
    ("jhu", 39.33, -76.62),
    ("was", 38.91, -77.04),
    ("chi", 41.88, -87.63),
    ("atl", 33.75, -84.39),
    ("mia", 25.76, -80.19),
    ("dfw", 32.78, -96.80),
    ("den", 39.74, -104.99),
    ("sea", 47.61, -122.33),
    ("sjc", 37.34, -121.89),
    ("lax", 34.05, -118.24),
];

/// Each link once.
const LINKS: [(&str, &[&str]); 11] = [
    ("nyc", &["bos", "jhu", "was", "chi", "atl"]),
    ("bos", &["chi", "was"]),
    ("jhu", &["was", "chi", "atl", "dfw"]),
    ("was", &["atl", "chi", "dfw", "mia"]),
    ("atl", &["dfw", "mia", "chi", "den"]),
    ("mia", &["dfw"]),
    ("chi", &["den", "dfw", "sea"]),
    ("dfw", &["den", "lax", "sjc"]),
    ("den", &["sjc", "lax", "sea"]),
    ("sea", &["sjc", "lax"]),
    ("lax", &["sjc"]),
];

/// The twelve sites as a graph without loss. Delay of a link: great-circle km / 200 × 1.5 + 0.3 ms.
pub fn graph() -> Graph {
    let name = |text: &str| text.parse::<NodeName>().expect("site names are node names");
    let site = |text: &str| SITES.iter().find(|site| site.0 == text).expect("links join sites");
    let link = |a: &str, b: &str| {
        let delay_us = ((distance_km(site(a), site(b)) / 200.0 * 1.5 + 0.3) * 1000.0).round() as u32;
        (name(a), name(b), Metric { delay_us, loss_ppm: 0, cost: 1 })
    };
    let pairs = LINKS.iter().flat_map(|(a, others)| others.iter().map(move |b| (*a, *b)));
    let both = pairs.flat_map(|(a, b)| [link(a, b), link(b, a)]);
    Graph::new(SITES.iter().map(|site| (name(site.0), true)), both)
}

/// Sixteen transcontinental flows: four sites of the East and two of the West, each way.
pub fn flows(graph: &Graph, deadline_us: u32) -> Vec<Demand> {
    let node = |text: &str| graph.nodes().find(|node| graph.name(*node).as_str() == text).expect("a site of the map");
    let pairs = ["nyc", "jhu", "was", "atl"].into_iter().flat_map(|east| ["lax", "sjc"].map(|west| (east, west)));
    let ends = pairs.flat_map(|(east, west)| [(east, west), (west, east)]);
    ends.map(|(from, to)| demand(node(from), [node(to)], deadline_us)).collect()
}

/// Multicast groups: every third site sends to `egresses` others, drawn by `seed`.
pub fn groups(graph: &Graph, egresses: usize, deadline_us: u32, seed: u64) -> Vec<Demand> {
    let group = |source: NodeIx| {
        let mut draws = Draws::new(derive(seed, &["group", graph.name(source).as_str()]));
        let mut others: Vec<(u64, NodeIx)> =
            graph.nodes().filter(|node| *node != source).map(|node| (draws.bits(), node)).collect();
        others.sort();
        let mut chosen: Vec<NodeIx> = others.into_iter().take(egresses).map(|(_, node)| node).collect();
        chosen.sort();
        demand(source, chosen, deadline_us)
    };
    graph.nodes().step_by(3).map(group).collect()
}

/// The mask of a set of edges.
pub fn mask(edges: impl IntoIterator<Item = EdgeIx>) -> Mask {
    edges.into_iter().fold(0, |mask, edge| mask | 1 << edge.0)
}

/// The edges of a mask, by place.
pub fn bits(mask: Mask) -> impl Iterator<Item = usize> {
    (0..EDGES).filter(move |bit| mask >> bit & 1 == 1)
}

fn demand(ingress: NodeIx, egresses: impl IntoIterator<Item = NodeIx>, deadline_us: u32) -> Demand {
    let egresses = egresses.into_iter().map(|node| Egress { node, last_mile_us: 0 }).collect();
    Demand { ingress, egresses, deadline_us }
}

fn distance_km(a: &(&str, f64, f64), b: &(&str, f64, f64)) -> f64 {
    let (lat_a, lat_b) = (a.1.to_radians(), b.1.to_radians());
    let (d_lat, d_lon) = (lat_b - lat_a, (b.2 - a.2).to_radians());
    let h = (d_lat / 2.0).sin().powi(2) + lat_a.cos() * lat_b.cos() * (d_lon / 2.0).sin().powi(2);
    2.0 * 6371.0 * h.sqrt().asin()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_is_the_one_of_the_experiment() {
        let graph = graph();
        assert_eq!((graph.node_count(), graph.edge_count()), (12, EDGES));
        let delays: Vec<u32> = graph.edges().map(|edge| graph[edge].metric.delay_us).collect();
        assert!(delays.iter().all(|delay| (500..25_000).contains(delay)), "{delays:?}");
        assert_eq!(flows(&graph, 65_000).len(), 16);
        assert!(groups(&graph, 6, 65_000, 1).iter().all(|group| group.egresses.len() == 6));
    }
}
