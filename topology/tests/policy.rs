//! Which links a stream may use, and how far apart its ways are: room, avoid, prefer, cost, carriers and sites.

use anabranch_topology::NodeName;
use anabranch_topology::disjoint;
use anabranch_topology::dissemination::ways;
use anabranch_topology::graph::{EdgeIx, Graph, Metric};
use anabranch_topology::lsdb::Incarnation;
use anabranch_topology::module::{Demand, Egress};
use anabranch_topology::sets::EdgeSet;
use anabranch_topology::sieve::{Claim, Policy, Sieved, Why, sieve};
use anabranch_topology::terms::{LinkTerms, Need, Room, Tag};
use std::collections::BTreeSet;
use std::rc::Rc;

fn name(text: &str) -> NodeName {
    text.parse().expect("valid")
}

fn tags(text: &str) -> Vec<Tag> {
    text.split_whitespace().map(|tag| tag.parse().expect("valid")).collect()
}

/// Links both ways: ends, delay in milliseconds, cost, tags.
fn graph(links: &[(&str, &str, u32, u32, &str)]) -> Graph {
    let nodes: BTreeSet<NodeName> = links.iter().flat_map(|(a, b, ..)| [name(a), name(b)]).collect();
    let both = links.iter().flat_map(|(a, b, ms, cost, tags)| [(a, b, ms, cost, tags), (b, a, ms, cost, tags)]);
    let metric = |ms: &u32, cost: &u32| Metric { delay_us: ms * 1000, loss_ppm: 0, cost: *cost };
    let edges = both.clone().map(|(a, b, ms, cost, _)| (name(a), name(b), metric(ms, cost)));
    let mut graph = Graph::new(nodes.into_iter().map(|node| (node, true)), edges);
    for (a, b, _, _, text) in both.filter(|(.., text)| !text.is_empty()) {
        graph.note(&name(a), &name(b).into(), &LinkTerms { tags: tags(text), ..LinkTerms::default() });
    }
    graph
}

fn demand(graph: &Graph, to: &[&str], ms: u32) -> Demand {
    let node = |text: &str| graph.find(&name(text)).expect("there");
    let egresses = to.iter().map(|to| Egress { node: node(to), last_mile_us: 0 }).collect();
    Demand { ingress: node("a"), egresses, deadline_us: ms * 1000 }
}

fn edge(graph: &Graph, from: &str, to: &str) -> Option<EdgeIx> {
    graph.find_edge(&name(from), &name(to).into())
}

fn sieved(graph: &Graph, demand: &Demand, policy: &Policy, need: Need) -> Sieved {
    sieve(&Rc::new(graph.clone()), demand, policy, &Claim { life: Incarnation(7), need, has: EdgeSet::new() })
}

fn full(graph: &mut Graph, from: &str, to: &str, room: Room) {
    graph.note(&name(from), &name(to).into(), &LinkTerms { room: Some(room), ..LinkTerms::default() });
}

const DIAMOND: [(&str, &str, u32, u32, &str); 4] =
    [("a", "b", 10, 10, ""), ("b", "d", 10, 10, ""), ("a", "c", 15, 10, ""), ("c", "d", 15, 10, "")];

fn megabits(rate: u32, high_priority: bool) -> Need {
    Need { rate_kbps: rate * 1000, high_priority }
}

fn room(most: u32, high: u32, normal: u32) -> Room {
    Room { most_kbps: most * 1000, high_kbps: high * 1000, normal_kbps: normal * 1000 }
}

#[test]
fn nothing_said_is_nothing_left_out() {
    let graph = graph(&DIAMOND);
    let left = sieved(&graph, &demand(&graph, &["d"], 200), &Policy::default(), megabits(1000, false));
    assert_eq!((left.graph.edge_count(), left.why.len(), left.unserved.len()), (8, 0, 0));
}

#[test]
fn a_full_link_is_passed_by_and_one_way_is_left() {
    let mut graph = graph(&DIAMOND);
    full(&mut graph, "b", "d", room(20, 0, 15));
    let demand = demand(&graph, &["d"], 200);
    let left = sieved(&graph, &demand, &Policy::default(), megabits(8, false));
    assert_eq!((&left.why[..], left.unserved.len()), (&[Why::Full(1)][..], 0));
    let found = ways(&left.graph, &demand);
    assert_eq!((found[0].shortest_us, found[0].second_us), (30_000, None), "by c alone");
    assert!(sieved(&graph, &demand, &Policy::default(), megabits(5, false)).why.is_empty(), "5 of 20 are left");
    assert!(sieved(&graph, &demand, &Policy::default(), megabits(8, true)).why.is_empty(), "normal ones give way");
}

#[test]
fn without_any_way_the_link_is_named_with_what_it_can_carry() {
    let mut graph = graph(&DIAMOND);
    full(&mut graph, "b", "d", room(20, 0, 15));
    full(&mut graph, "c", "d", room(10, 9, 0));
    let demand = demand(&graph, &["b", "d"], 200);
    let left = sieved(&graph, &demand, &Policy::default(), megabits(8, false));
    assert_eq!(left.unserved.len(), 1, "b is reached");
    let text = left.unserved[0].1.to_string();
    for part in ["b -> d", "20 Mbit/s", "15 Mbit/s", "8 Mbit/s", "normal"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let high = sieved(&graph, &demand, &Policy::default(), megabits(8, true));
    assert_eq!(high.unserved.len(), 0);
}

#[test]
fn a_way_that_would_be_late_is_no_way() {
    let mut graph = graph(&DIAMOND);
    full(&mut graph, "b", "d", room(20, 0, 15));
    let left = sieved(&graph, &demand(&graph, &["d"], 25), &Policy::default(), megabits(8, false));
    assert_eq!(left.unserved.len(), 1);
}

#[test]
fn what_it_has_it_keeps_unless_the_sender_declines() {
    let mut graph = graph(&DIAMOND);
    full(&mut graph, "b", "d", room(10, 0, 8));
    let demand = demand(&graph, &["d"], 200);
    let held = edge(&graph, "b", "d");
    let keep = |graph: &Graph, life: u64| {
        let claim = Claim { life: Incarnation(life), need: megabits(8, false), has: held.into_iter().collect() };
        sieve(&Rc::new(graph.clone()), &demand, &Policy::default(), &claim).why
    };
    assert!(keep(&graph, 7).is_empty());
    let terms = LinkTerms { room: Some(room(10, 8, 0)), declined: vec![Incarnation(7)], ..LinkTerms::default() };
    graph.note(&name("b"), &name("d").into(), &terms);
    assert_eq!(keep(&graph, 7), [Why::Full(1)]);
    assert!(keep(&graph, 8).is_empty(), "another life is not meant");
}

#[test]
fn what_is_to_be_avoided_is_where_nothing_is_lost_by_it() {
    let mut links = DIAMOND.to_vec();
    links.extend([("a", "e", 20, 10, ""), ("e", "d", 20, 10, "")]);
    links[0].4 = "carrier:acme";
    let graph = graph(&links);
    let policy = Policy { avoid: tags("carrier:acme"), ..Policy::default() };
    let left = sieved(&graph, &demand(&graph, &["d"], 200), &policy, Need::default());
    assert_eq!(left.why, [Why::Avoided]);
    assert!(edge(&left.graph, "a", "b").is_none());
    let late = sieved(&graph, &demand(&graph, &["d"], 35), &policy, Need::default());
    assert_eq!(late.why, [Why::Unavoidable], "by e it would be late: two ways in time are worth more");
    let by_b = sieved(&graph, &demand(&graph, &["b"], 12), &policy, Need::default());
    assert_eq!(by_b.why, [Why::Unavoidable]);
}

#[test]
fn a_relay_to_be_avoided_may_still_be_where_a_stream_ends() {
    let mut graph = graph(&DIAMOND);
    graph.tag_node(&name("b"), &tags("site:attic"));
    let policy = Policy { avoid: tags("site:attic"), ..Policy::default() };
    let to_b = sieved(&graph, &demand(&graph, &["b"], 200), &policy, Need::default());
    assert!(edge(&to_b.graph, "a", "b").is_some());
}

#[test]
fn the_preferred_carrier_is_taken_where_it_is_as_good() {
    let links = [
        ("a", "b", 10, 10, "carrier:acme"),
        ("b", "d", 10, 10, "carrier:acme"),
        ("a", "c", 15, 10, "carrier:acme"),
        ("c", "d", 15, 10, "carrier:acme"),
        ("a", "d", 12, 10, "carrier:other"),
    ];
    let graph = graph(&links);
    let policy = Policy { prefer: tags("carrier:acme"), ..Policy::default() };
    let left = sieved(&graph, &demand(&graph, &["d"], 200), &policy, Need::default());
    assert_eq!(left.why, [Why::Preferred]);
    assert!(edge(&left.graph, "a", "d").is_none());
    let soon = sieved(&graph, &demand(&graph, &["d"], 15), &policy, Need::default());
    assert!(edge(&soon.graph, "a", "d").is_some(), "only the other carrier is in time");
}

#[test]
fn dear_links_are_for_what_cannot_do_without() {
    let mut links = DIAMOND.to_vec();
    links.push(("a", "d", 12, 50, ""));
    let graph = graph(&links);
    let left = sieved(&graph, &demand(&graph, &["d"], 200), &Policy::default(), Need::default());
    assert_eq!(left.why, [Why::Dear(10)]);
    let soon = sieved(&graph, &demand(&graph, &["d"], 25), &Policy::default(), Need::default());
    assert!(soon.why.is_empty(), "with 25 ms the second way is the dear one");
}

#[test]
fn a_dear_link_comes_back_when_a_cheap_one_is_in_trouble() {
    let mut links = DIAMOND.to_vec();
    links.push(("a", "d", 12, 50, ""));
    let graph = graph(&links);
    let cut = edge(&graph, "b", "d");
    let graph =
        graph.with_metrics(|at, metric| Metric { loss_ppm: if Some(at) == cut { 200_000 } else { 0 }, ..metric });
    let left = sieved(&graph, &demand(&graph, &["d"], 200), &Policy::default(), Need::default());
    assert!(left.why.is_empty() && edge(&left.graph, "a", "d").is_some());
}

#[test]
fn two_ways_share_no_carrier_where_that_can_be() {
    let links = [
        ("a", "b", 10, 10, "carrier:acme"),
        ("b", "d", 10, 10, ""),
        ("a", "c", 12, 10, "carrier:acme"),
        ("c", "d", 12, 10, ""),
        ("a", "e", 30, 10, "carrier:other"),
        ("e", "d", 30, 10, ""),
    ];
    let graph = graph(&links);
    let apart = ways(&graph, &demand(&graph, &["d"], 200));
    assert_eq!((apart[0].second_us, apart[0].shared_risks.len()), (Some(60_000), 0));
    let soon = ways(&graph, &demand(&graph, &["d"], 50));
    assert_eq!((soon[0].second_us, &soon[0].shared_risks[..]), (Some(24_000), &tags("carrier:acme")[..]));
}

#[test]
fn two_ways_share_no_site_where_that_can_be_and_their_ends_do_not_count() {
    let mut links = DIAMOND.to_vec();
    links.extend([("a", "e", 30, 10, ""), ("e", "d", 30, 10, "")]);
    let mut graph = graph(&links);
    for (node, site) in [("a", "site:one"), ("b", "site:two"), ("c", "site:two"), ("e", "site:one"), ("d", "site:one")]
    {
        graph.tag_node(&name(node), &tags(site));
    }
    let (from, to) = (graph.find(&name("a")).expect("there"), graph.find(&name("d")).expect("there"));
    let delays = anabranch_topology::weight::Weights::delay(&graph);
    let pair = disjoint::pair_apart(&graph, &delays, from, to, |_| true).expect("joined");
    assert!(disjoint::shared_risks(&graph, &pair).is_empty());
    assert_eq!(delays.total(pair.second.expect("two ways")), 60_000);
}
