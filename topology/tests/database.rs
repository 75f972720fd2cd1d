//! The link-state database: what stands, what is said on, and that all relays come to agree.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use anabranch_topology::about::About;
use anabranch_topology::{LinkEnd, NodeName};

use anabranch_topology::graph::Graph;
use anabranch_topology::lsdb::*;
use anabranch_topology::terms::{LinkTerms, Room, Terms};
use common::name;
use proptest::prelude::*;
use std::time::Duration;

fn link(to: usize, ms: u32) -> LinkState {
    LinkState { peer: name(to).into(), delay_us: ms * 1000, loss_ppm: 0, cost: 1 }
}

fn end(to: usize, link: &str) -> LinkEnd {
    LinkEnd { relay: name(to), link: Some(link.parse().unwrap()) }
}

fn said(origin: usize, boot: u64, seq: u64, links: &[LinkState]) -> Advertisement {
    let (streams, subscriptions) = (Vec::new(), Vec::new());
    Advertisement {
        origin: name(origin),
        boot,
        seq,
        links: links.to_vec(),
        streams,
        subscriptions,
        draining: false,
        about: About::default(),
        terms: Terms::default(),
    }
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn database() -> Database {
    Database::new(name(0), 1, Limits::default())
}

#[test]
fn newer_replaces_older_and_older_is_answered() {
    let mut db = database();
    assert_eq!(db.apply(at(0), said(1, 5, 7, &[])), Ok(Outcome::Newer));
    assert_eq!(db.apply(at(0), said(1, 5, 7, &[])), Ok(Outcome::Same));
    let Ok(Outcome::Older(standing)) = db.apply(at(0), said(1, 4, 900, &[])) else { panic!("an old boot is older") };
    assert_eq!(standing.number(), (5, 7));
    assert_eq!(db.apply(at(0), said(1, 6, 1, &[])), Ok(Outcome::Newer));
}

#[test]
fn a_link_counts_when_both_ends_say_so() {
    let mut db = database();
    db.apply(at(0), said(1, 1, 1, &[link(2, 10)])).unwrap();
    assert_eq!(db.links().count(), 0);
    db.apply(at(0), said(2, 1, 1, &[link(1, 20)])).unwrap();
    let delays: Vec<u32> = db.links().map(|link| link.state.delay_us / 1000).collect();
    assert_eq!(delays, [10, 20]);
    db.apply(at(0), said(2, 1, 2, &[])).unwrap();
    assert_eq!(db.links().count(), 0);
}

#[test]
fn a_refresh_is_no_change() {
    let mut db = database();
    db.apply(at(0), said(1, 1, 1, &[link(2, 10)])).unwrap();
    let before = db.generation();
    assert_eq!(db.apply(at(30), said(1, 1, 2, &[link(2, 10)])), Ok(Outcome::Newer));
    assert_eq!(db.generation(), before);
    db.apply(at(30), said(1, 1, 3, &[link(2, 11)])).unwrap();
    assert_ne!(db.generation(), before);
}

#[test]
fn what_is_not_refreshed_expires_and_stays_dead() {
    let mut db = database();
    db.announce(at(0), Statement::default());
    db.apply(at(0), said(1, 1, 1, &[])).unwrap();
    db.apply(at(10), said(2, 1, 1, &[])).unwrap();
    assert_eq!(db.next_expiry(), Some(at(90)));
    assert_eq!(db.expire(at(89)), []);
    assert_eq!(db.expire(at(90)), [name(1)]);
    assert_eq!(db.apply(at(91), said(1, 1, 1, &[])), Ok(Outcome::Same), "a copy of the dead one stays dead");
    assert_eq!(db.apply(at(92), said(1, 1, 2, &[])), Ok(Outcome::Newer), "a sign of life counts");
    assert_eq!(db.expire(at(1000)), [name(1), name(2)]);
    assert!(db.get(&name(0)).is_some(), "our own never expires");
}

#[test]
fn an_earlier_life_of_ours_is_overtaken() {
    let mut db = database();
    db.announce(at(0), Statement::default());
    assert_eq!(db.apply(at(1), said(0, 99, 5, &[link(3, 1)])), Ok(Outcome::Overtaken));
    assert!(db.announce(at(1), Statement::default()).number() > (99, 5));
    let Ok(Outcome::Older(ours)) = db.apply(at(2), said(0, 99, 5, &[])) else { panic!("ours is newer") };
    assert!(ours.links.is_empty());
}

#[test]
fn absurd_sizes_are_refused_and_change_nothing() {
    let limits = Limits { origins: 3, links: 2, streams: 1, subscriptions: 1 };
    let mut db = Database::new(name(0), 1, limits);
    let many: Vec<LinkState> = (1..4).map(|to| link(to, 1)).collect();
    assert!(matches!(db.apply(at(0), said(9, 1, 1, &many)), Err(Refused::TooMany { what: "links", found: 3, .. })));
    assert!(matches!(db.apply(at(0), said(9, 1, 1, &[link(9, 1)])), Err(Refused::Loop { .. })));
    db.apply(at(0), said(1, 1, 1, &[])).unwrap();
    db.apply(at(0), said(2, 1, 1, &[])).unwrap();
    assert!(matches!(db.apply(at(0), said(3, 1, 1, &[])), Err(Refused::TooManyOrigins { most: 3, .. })));
    assert_eq!(db.apply(at(0), said(2, 1, 2, &[])), Ok(Outcome::Newer), "who is known may go on");
    db.announce(at(0), Statement::default());
    assert_eq!(db.iter().count(), 3, "one place was this node's own");
    for origin in [1, 2, 3] {
        let refused = db.apply_trouble(at(0), reported(origin, 1, 7)).is_err();
        assert_eq!(refused, origin == 3);
    }
    db.announce_trouble(at(0), Vec::new());
    assert_eq!(db.troubles().count(), 3);
}

#[test]
fn streams_are_found_where_they_enter_and_leave() {
    let mut db = database();
    let stream = |deadline_us| StreamState { name: "t/c".parse().unwrap(), incarnation: Incarnation(4), deadline_us };
    let wish = |last_mile_us| Subscription { name: "t/c".parse().unwrap(), last_mile_us };
    let (name_of, mut first) = ("t/c".parse().unwrap(), said(2, 1, 1, &[]));
    first.streams = vec![stream(200_000)];
    first.subscriptions = vec![wish(3), wish(8)];
    let mut second = said(1, 1, 1, &[]);
    second.streams = vec![stream(65_000)];
    db.apply(at(0), first).unwrap();
    assert_eq!(db.ingress(&name_of).map(|ingress| ingress.node), Some(&name(2)));
    db.apply(at(0), second).unwrap();
    assert_eq!(db.ingress(&name_of).map(|ingress| ingress.node), Some(&name(1)), "the first by name of two");
    assert_eq!(db.claims(&name_of).count(), 2);
    assert_eq!(db.egresses(&name_of).collect::<Vec<_>>(), [(&name(2), 8)]);
    db.expire(at(90));
    assert_eq!((db.streams().count(), db.egresses(&name_of).count()), (0, 0));
}

fn reported(origin: usize, seq: u64, loss_ppm: u32) -> TroubleReport {
    let links =
        if loss_ppm == 0 { Vec::new() } else { vec![LinkTrouble { peer: name(2).into(), loss_ppm, late: false }] };
    TroubleReport { origin: name(origin), boot: 1, seq, links }
}

#[test]
fn the_receiving_end_says_what_a_link_loses() {
    let mut db = database();
    db.apply(at(0), said(1, 1, 1, &[link(2, 10)])).unwrap();
    db.apply(at(0), said(2, 1, 1, &[LinkState { loss_ppm: 70_000, ..link(1, 20) }])).unwrap();
    let loss = |db: &Database| {
        let graph = Graph::from_database(db);
        let edge = graph.find_edge(&name(2), &name(1).into()).unwrap();
        graph[edge].metric.loss_ppm
    };
    assert_eq!(loss(&db), 70_000, "the sender's word, while there is no other");
    assert!(matches!(db.apply_trouble(at(0), reported(1, 1, 240_000)), Ok(TroubleOutcome::Newer(_))));
    assert_eq!(loss(&db), 200_000, "a level");
    assert_eq!(db.apply_trouble(at(0), reported(1, 1, 240_000)), Ok(TroubleOutcome::Same));
    db.apply_trouble(at(0), reported(1, 2, 0)).unwrap();
    assert_eq!(loss(&db), 0);
    assert!(matches!(db.apply_trouble(at(0), reported(1, 1, 240_000)), Ok(TroubleOutcome::Older(_))));
    assert_eq!(db.apply_trouble(at(0), reported(0, 9, 0)), Ok(TroubleOutcome::Overtaken));
    assert_eq!(db.announce_trouble(at(0), Vec::new()).seq, 10);
}

#[test]
fn a_change_of_condition_is_no_change_of_topology() {
    let mut db = database();
    db.apply(at(0), said(1, 1, 1, &[link(2, 10)])).unwrap();
    db.apply(at(0), said(2, 1, 1, &[link(1, 20)])).unwrap();
    let counts = |db: &Database| (db.generation(), db.topology_generation());
    let before = counts(&db);
    db.apply_trouble(at(0), reported(1, 1, 0)).unwrap();
    assert_eq!(counts(&db), (before.0 + 1, before.1 + 1), "from now on its word stands for the sender's");
    db.apply_trouble(at(0), reported(1, 2, 240_000)).unwrap();
    assert_eq!(counts(&db), (before.0 + 2, before.1 + 1));
    db.apply_trouble(at(0), reported(1, 3, 240_000)).unwrap();
    assert_eq!(counts(&db), (before.0 + 2, before.1 + 1), "the same again");
    db.apply(at(0), said(2, 1, 2, &[link(1, 30)])).unwrap();
    assert_eq!(counts(&db), (before.0 + 3, before.1 + 2));
}

proptest! {
    /// Whatever the order and repetition in which reports come, what stands of each relay is its newest.
    #[test]
    fn reports_of_trouble_agree_whatever_their_order(
        reports in prop::collection::vec((1usize..5, 1u64..20), 1..60),
        swaps in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..60),
    ) {
        // What a relay said under a number is always the same.
        let report = |(origin, seq): &(usize, u64)| reported(*origin, *seq, (*seq as u32 % 4) * 100_000);
        let mut other = reports.clone();
        for (one, two) in swaps {
            let (one, two) = (one.index(other.len()), two.index(other.len()));
            other.swap(one, two);
        }
        let (mut a, mut b) = (database(), database());
        reports.iter().for_each(|said| drop(a.apply_trouble(at(0), report(said))));
        other.iter().for_each(|said| drop(b.apply_trouble(at(0), report(said))));
        let stands = |db: &Database| db.troubles().cloned().collect::<Vec<_>>();
        prop_assert_eq!(stands(&a), stands(&b));
        for origin in 1..5 {
            prop_assert_eq!(a.condition(&name(2), &name(origin).into()), b.condition(&name(2), &name(origin).into()));
        }
    }
}

#[test]
fn a_report_that_expires_is_a_change() {
    let mut db = database();
    db.apply(at(0), said(1, 1, 1, &[link(2, 10)])).unwrap();
    db.apply(at(0), said(2, 1, 1, &[link(1, 20)])).unwrap();
    db.apply_trouble(at(0), reported(1, 1, 240_000)).unwrap();
    db.apply(at(30), said(1, 1, 2, &[link(2, 10)])).unwrap();
    db.apply(at(30), said(2, 1, 2, &[link(1, 20)])).unwrap();
    let counts = |db: &Database| (db.generation(), db.topology_generation());
    let before = counts(&db);
    assert_eq!((db.expire(at(89)), counts(&db)), (vec![], before));
    assert_eq!((db.expire(at(90)), counts(&db)), (vec![], (before.0 + 1, before.1 + 1)));
    assert_eq!(db.condition(&name(2), &name(1).into()), None);
    assert_eq!((db.expire(at(91)), counts(&db)), (vec![], (before.0 + 1, before.1 + 1)));
}

#[test]
fn links_of_other_names_are_links_of_their_own() {
    let by = |to: usize, name: &str, ms: u32| LinkState { peer: end(to, name), ..link(to, ms) };
    let mut db = database();
    let mut ad = said(1, 1, 1, &[by(2, "sat", 300), link(2, 10), by(2, "fibre", 20), by(2, "gone", 1)]);
    let tagged = LinkTerms { tags: vec!["carrier:sky".parse().unwrap()], ..LinkTerms::default() };
    ad.terms.links = vec![tagged.clone()];
    db.apply(at(0), ad).unwrap();
    db.apply(at(0), said(2, 1, 1, &[link(1, 11), by(1, "fibre", 21), by(1, "sat", 310)])).unwrap();
    let losing = LinkTrouble { peer: end(1, "fibre"), loss_ppm: 240_000, late: false };
    db.apply_trouble(at(0), TroubleReport { origin: name(2), boot: 1, seq: 1, links: vec![losing] }).unwrap();
    let graph = Graph::from_database(&db);
    let there: Vec<(String, u32, u32)> = graph
        .edges()
        .map(|edge| (edge, graph[edge].metric))
        .map(|(edge, metric)| (graph.far_end(edge).to_string(), metric.delay_us / 1000, metric.loss_ppm))
        .collect();
    let told = |end: &str, ms: u32, loss_ppm: u32| (end.to_owned(), ms, loss_ppm);
    let from_1 = [told("n002", 10, 0), told("n002~fibre", 20, 200_000), told("n002~sat", 300, 0)];
    let from_2 = [told("n001", 11, 0), told("n001~fibre", 21, 0), told("n001~sat", 310, 0)];
    assert_eq!(there, [from_1, from_2].concat(), "a link that one end alone tells of is none");
    let sat = graph.find_edge(&name(1), &end(2, "sat")).unwrap();
    assert_eq!(graph.edge_tags(sat), tagged.tags);
    assert!(graph.edges().filter(|edge| *edge != sat).all(|edge| graph.edge_tags(edge).is_empty()));
}

#[test]
fn of_a_link_told_of_twice_the_best_stands_with_its_terms() {
    let room = |ms: u32| Some(Room { most_kbps: ms, ..Room::default() });
    for (order, others) in [([10, 40], [20, 90]), ([40, 10], [90, 20])] {
        let mut db = database();
        let mut ad = said(1, 1, 1, &order.map(|ms| link(2, ms)));
        ad.terms.links = order.map(|ms| LinkTerms { room: room(ms), ..LinkTerms::default() }).to_vec();
        db.apply(at(0), ad).unwrap();
        db.apply(at(0), said(2, 1, 1, &others.map(|ms| link(1, ms)))).unwrap();
        let graph = Graph::from_database(&db);
        let edge = graph.find_edge(&name(1), &name(2).into()).unwrap();
        assert_eq!(graph[edge].metric.delay_us, 10_000, "half of the shortest way back, and no less");
        assert_eq!(graph.room(edge), room(10));
    }
}

#[test]
fn no_two_relays_make_the_graph_large_by_links_between_them() {
    let links = |count: usize| (0..count).map(|nth| LinkState { peer: end(2, &format!("l{nth}")), ..link(2, 10) });
    let mut db = database();
    assert_eq!(db.apply(at(0), said(1, 1, 1, &links(8).collect::<Vec<_>>())), Ok(Outcome::Newer));
    let refused = db.apply(at(0), said(1, 1, 2, &links(9).collect::<Vec<_>>()));
    assert!(matches!(refused, Err(Refused::TooMany { what: "links to one relay", found: 9, most: 8, .. })));
}

#[test]
fn a_draining_relay_is_no_transit() {
    let mut db = database();
    let mut draining = said(1, 1, 1, &[]);
    draining.draining = true;
    db.apply(at(0), draining).unwrap();
    db.apply(at(0), said(2, 1, 1, &[])).unwrap();
    let graph = Graph::from_database(&db);
    let transit = |at: usize| graph.transit(graph.find(&name(at)).unwrap());
    assert_eq!((transit(1), transit(2)), (false, true));
}

/// A network of databases whose messages are lost, repeated and reordered as `rolls` say.
struct Net {
    databases: Vec<Database>,
    flying: Vec<(usize, usize, Advertisement)>,
    neighbours: Vec<(usize, usize)>,
}

impl Net {
    fn say(&mut self, now: Duration, who: usize, ms: u32) {
        let links = self.neighbours.iter().filter(|(from, _)| *from == who).map(|(_, to)| link(*to, ms)).collect();
        let ad = self.databases[who].announce(now, Statement { links, ..Statement::default() });
        self.flood(who, usize::MAX, &ad);
    }

    fn flood(&mut self, from: usize, but: usize, ad: &Advertisement) {
        let to = self.neighbours.iter().filter(|(end, to)| *end == from && *to != but);
        self.flying.extend(to.map(|(_, to)| (from, *to, ad.clone())));
    }

    /// Delivers one message, chosen by `roll`; it may be lost or come again, too.
    fn step(&mut self, now: Duration, roll: u64, lossy: bool) {
        let at = roll as usize % self.flying.len();
        let (from, to, ad) = self.flying.swap_remove(at);
        match (roll >> 32) % 10 {
            0..=2 if lossy => return,
            3..=4 if lossy => self.flying.push((from, to, ad.clone())),
            _ => {}
        }
        match self.databases[to].apply(now, ad.clone()).unwrap() {
            Outcome::Newer => self.flood(to, from, &ad),
            Outcome::Older(standing) => self.flying.push((to, from, (*standing).clone())),
            Outcome::Same | Outcome::Overtaken => {}
        }
    }
}

proptest! {
    #![proptest_config(common::cases(100))]

    #[test]
    fn databases_agree_whatever_happened_to_the_messages(
        nodes in 2usize..7,
        chords in prop::collection::vec((0usize..7, 0usize..7), 0..6),
        changes in prop::collection::vec((0usize..7, 1u32..50), 1..20),
        rolls in prop::collection::vec(any::<u64>(), 200),
    ) {
        let ring = (0..nodes).map(|at| (at, (at + 1) % nodes));
        let chords = chords.into_iter().map(|(a, b)| (a % nodes, b % nodes));
        let pairs = ring.chain(chords).filter(|(a, b)| a != b);
        let neighbours: std::collections::BTreeSet<_> = pairs.flat_map(|(a, b)| [(a, b), (b, a)]).collect();
        let databases = (0..nodes).map(|at| Database::new(name(at), 1, Limits::default())).collect();
        let mut net = Net { databases, flying: Vec::new(), neighbours: neighbours.into_iter().collect() };
        let mut rolls = rolls.into_iter().cycle();
        for (who, ms) in changes {
            net.say(at(1), who % nodes, ms);
            for _ in 0..5 {
                if !net.flying.is_empty() {
                    net.step(at(1), rolls.next().unwrap(), true);
                }
            }
        }
        // One refresh of everybody that arrives repairs all that was lost before.
        for who in 0..nodes {
            net.say(at(30), who, 7);
        }
        let mut steps = 0;
        while !net.flying.is_empty() {
            net.step(at(30), rolls.next().unwrap(), false);
            steps += 1;
            prop_assert!(steps < 20_000, "the flood does not end");
        }
        let all = |db: &Database| db.iter().cloned().collect::<Vec<_>>();
        for db in &net.databases {
            prop_assert_eq!(all(db), all(&net.databases[0]));
            prop_assert_eq!(db.links().count(), net.neighbours.len());
        }
    }

    #[test]
    fn a_joining_neighbour_is_up_to_date_in_one_exchange(
        heard in prop::collection::vec((1usize..6, 0u64..3, 0u64..5, 1u32..9), 0..40),
    ) {
        let mut old = database();
        old.announce(at(0), Statement::default());
        for (origin, boot, seq, ms) in heard {
            old.apply(at(0), said(origin, boot, seq, &[link(0, ms)])).unwrap();
        }
        let mut new = Database::new(name(7), 1, Limits::default());
        for ad in old.snapshot() {
            prop_assert_eq!(new.apply(at(1), (*ad).clone()), Ok(Outcome::Newer));
        }
        let known = |db: &Database, but: NodeName| db.iter().filter(|ad| ad.origin != but).cloned().collect::<Vec<_>>();
        prop_assert_eq!(known(&new, name(7)), known(&old, name(7)));
    }
}
