//! Several links between two relays, over other carriers: each is a link of its own.

use crate::harness::{Overlay, STREAM, Source, end, ms, peer};
use anabranch_relay::events::What;
use anabranch_relay::system::{LinkOptions, Traits};
use link::policy::{Policy, RepairMode};
use node::Peer;
use node::control::{Dissemination, RECEIPTS};
use node::testing::NodeId;
use node::trust::Role;

/// Two relays on two carriers, the one without a name the slower; a stream from `a` to `b` that has been flowing for two seconds.
struct Pair {
    overlay: Overlay,
    source: NodeId,
    sink: NodeId,
}

impl Pair {
    fn new(mode: Dissemination) -> Pair {
        let mut overlay = Overlay::with_links(&[("a", "b", 20)]);
        overlay.link("a", "b~fibre", 12);
        overlay.run(500);
        let sink = overlay.sink("b", "s");
        overlay.run(1000);
        let source = overlay.source("a", "camera", Source::new(7).mode(mode));
        overlay.run(300);
        overlay.send(source, true);
        overlay.run(2000);
        Pair { overlay, source, sink }
    }

    /// Nothing gets over the fibre for so long, either way, and nobody is told.
    fn cut_fibre(&mut self, millis: u64) {
        self.overlay.outage("a", "b~fibre", 12, millis);
        self.overlay.outage("b", "a~fibre", 12, millis);
    }

    /// Media that came to `b` over each link, the one without a name first.
    fn came(&mut self) -> [u64; 2] {
        let report = self.overlay.report("b");
        ["a", "a~fibre"].map(|name| {
            let input = report.streams[0].inputs.iter().find(|input| input.peer == end(name));
            input.map_or(0, |input| input.counters.received)
        })
    }

    /// All that was sent is there, in time, once.
    fn assert_whole(&mut self) {
        let sent = self.overlay.send(self.source, false);
        self.overlay.run(500);
        self.overlay.of_sink(self.sink, |sink| {
            sink.assert_whole(7, 0..sent);
            sink.assert_once();
            assert!(sink.got.values().all(|(_, age)| *age <= ms(200)));
        });
    }
}

#[test]
fn each_link_is_told_of_and_a_quiet_stream_takes_the_best() {
    let mut pair = Pair::new(Dissemination::Auto);
    let [slow, fibre] = pair.came();
    assert!(slow == 0 && fibre > 900, "{slow} {fibre}");
    let told = pair.overlay.report("a").overlay.link_states;
    let mut told: Vec<String> =
        told.iter().map(|link| format!("{} {} {}", link.from, link.to, link.delay_ms)).collect();
    told.sort();
    assert_eq!(told, ["a b 20", "a b~fibre 12", "b a 20", "b a~fibre 12"]);
    pair.assert_whole();
}

#[test]
fn a_quiet_stream_survives_the_loss_of_its_link() {
    let mut pair = Pair::new(Dissemination::Auto);
    for _ in 0..3 {
        let [slow, _] = pair.came();
        pair.cut_fibre(3000);
        pair.overlay.run(10_000);
        assert!(pair.came()[0] > slow + 500, "the other link has carried it");
    }
    pair.assert_whole();
}

#[test]
fn a_hedged_stream_takes_both_and_misses_nothing() {
    let mut pair = Pair::new(Dissemination::Disjoint);
    let [slow, fibre] = pair.came();
    assert!(slow.min(fibre) > 900, "{slow} {fibre}");
    pair.cut_fibre(3000);
    pair.overlay.run(5000);
    let pulled = pair.overlay.report("b").streams[0].counters.pulls;
    assert_eq!(pulled, 0, "nothing had to be asked for");
    pair.assert_whole();
}

#[test]
fn a_link_that_closes_leaves_the_other_as_it_is() {
    let mut pair = Pair::new(Dissemination::Auto);
    pair.overlay.relay("b", |now, system, _| system.take_events(now));
    pair.overlay.cut("a", "b~fibre");
    pair.overlay.run(2000);
    let events = pair.overlay.relay("b", |now, system, _| system.take_events(now));
    let down: Vec<&What> =
        events.iter().map(|(_, what)| what).filter(|what| matches!(what, What::LinkDown { .. })).collect();
    assert!(matches!(down[..], [What::LinkDown { peer, .. }] if *peer == end("a~fibre")), "{down:?}");
    pair.overlay.link("a", "b~fibre", 12);
    pair.overlay.run(2000);
    let [_, before] = pair.came();
    pair.overlay.run(1000);
    assert!(pair.came()[1] > before + 400, "and the stream is back on it");
    pair.assert_whole();
}

#[test]
fn each_link_has_its_own_policy_and_is_drained_by_itself() {
    let mut pair = Pair::new(Dissemination::Auto);
    let policy = Policy { mode: RepairMode::Duplicate, ..Policy::default() };
    let options = LinkOptions { delay: Some(ms(12)), policy, ..LinkOptions::default() };
    pair.overlay.relay("a", |now, system, ports| system.set_link_options(now, end("b~fibre"), options, ports));
    let links = pair.overlay.report("a").links;
    let mode = |name: &str| links.iter().find(|link| link.peer == end(name)).expect("it stands").policy.mode;
    assert_eq!((mode("b"), mode("b~fibre")), (RepairMode::Auto, RepairMode::Duplicate));

    let drain = |pair: &mut Pair, drain: bool| {
        pair.overlay.relay("a", |now, system, ports| system.drain_link(now, &end("b~fibre"), drain, ports))
    };
    assert!(drain(&mut pair, true));
    pair.overlay.run(1000);
    let [slow, fibre] = pair.came();
    pair.overlay.run(1000);
    let [slow_then, fibre_then] = pair.came();
    assert!(slow_then > slow + 400 && fibre_then == fibre);
    assert!(drain(&mut pair, false));
    pair.overlay.run(2000);
    assert!(pair.came()[1] > fibre + 400);
    pair.assert_whole();
}

#[test]
fn what_is_measured_is_told_of_the_link_that_it_was_on() {
    let mut pair = Pair::new(Dissemination::Disjoint);
    pair.overlay.lossy("a", "b~fibre", 12, 4000, 0.05, 3);
    pair.overlay.run(3000);
    let stream = STREAM.parse().expect("valid");
    let begun = pair.overlay.relay("a", |now, system, ports| system.begin_trace(now, &stream, ports)).expect("carried");
    pair.overlay.run(1000);
    let traced = pair.overlay.relay("a", |_, system, _| system.traced(&begun)).expect("carried");
    let hops = &traced.relays.iter().find(|relay| relay.relay.as_str() == "b").expect("it answers").hops;
    let by = |name: &str| hops.iter().find(|hop| hop.from == end(name)).expect("both links are told of");
    assert!(by("a~fibre").repaired > 30 && by("a").repaired == 0, "{hops:?}");
    assert!(by("a~fibre").transit_ms < 15.0 && by("a").transit_ms > 15.0, "{hops:?}");
    assert!(by("a~fibre").slack_ms.expect("it brings the first copies") > 150.0, "{hops:?}");
    pair.assert_whole();
}

#[test]
fn the_same_link_dialled_again_replaces_itself_alone() {
    let mut pair = Pair::new(Dissemination::Auto);
    pair.overlay.run(6000);
    pair.overlay.link("a", "b~fibre", 12);
    pair.overlay.run(1000);
    let mut links: Vec<String> =
        pair.overlay.relay("a", |_, system, _| system.links().map(ToString::to_string).collect());
    links.sort();
    assert_eq!(links, ["b", "b~fibre"]);
    pair.assert_whole();
}

#[test]
fn no_relay_takes_all_the_places_by_more_and_more_links() {
    let mut overlay = Overlay::with_links(&[("a", "b", 10), ("a", "c", 10)]);
    for nth in 0..20 {
        overlay.link_measured("b", &format!("a~more-{nth}"), 10);
    }
    overlay.run(1000);
    let links: Vec<String> = overlay.relay("a", |_, system, _| system.links().map(ToString::to_string).collect());
    assert_eq!(links.iter().filter(|link| link.starts_with('b')).count(), 8, "{links:?}");
    assert!(links.contains(&"c".to_owned()));
}

#[test]
fn a_relay_that_knows_of_no_names_is_known_as_such() {
    let mut overlay = Overlay::with_links(&[("a", "b", 10)]);
    let older = overlay.idle_source(Source::new(1));
    let peer = Peer { features: RECEIPTS, ..peer("old", Role::Relay, false, Vec::new()) };
    overlay.connect("a", older, peer);
    let keeps = ["b", "old", "nobody"].map(|name| {
        let name = name.parse().expect("valid");
        overlay.relay("a", |_, system, _| system.keeps_named_links(&name))
    });
    assert_eq!(keeps, [Some(true), Some(false), None]);
}

#[test]
fn named_links_take_no_places_of_other_neighbours() {
    let mut overlay = Overlay::with_links(&[("b", "c", 10), ("c", "d", 10)]);
    overlay.start("a");
    let traits = Traits { auto: Some(4), ..Traits::default() };
    overlay.relay("a", |now, system, ports| system.set_traits(now, traits, ports));
    let links = |overlay: &mut Overlay| -> Vec<String> {
        overlay.relay("a", |_, system, _| system.links().map(ToString::to_string).collect())
    };
    overlay.link_measured("d", "a~first", 10);
    assert!(links(&mut overlay).is_empty(), "a link with a name stands beside another, or where an entry names it");
    overlay.link_measured("b", "a", 10);
    for nth in 0..7 {
        overlay.link_measured("b", &format!("a~more-{nth}"), 10);
    }
    overlay.link_measured("c", "a", 10);
    overlay.link_measured("d", "a", 10);
    let links = links(&mut overlay);
    assert_eq!(links.len(), 10, "{links:?}");
    assert!(["b", "c", "d"].iter().all(|relay| links.contains(&(*relay).to_owned())), "{links:?}");
}
