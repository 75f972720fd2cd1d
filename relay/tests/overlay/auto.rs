//! Relays that choose their neighbours by themselves.

use crate::harness::{Overlay, Source, ms, peer};
use anabranch_relay::events::What;
use anabranch_relay::system::{Dial, LinkOptions, Traits};
use link::LinkConfig;
use node::control::Dissemination;
use node::testing::{Delay, End, Join};
use node::trust::Role;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use topology::NodeName;
use topology::graph::{Graph, Metric};
use topology::ring;

const DEGREE: usize = 8;

/// Relays at random places, joined through one of them.
struct Swarm {
    overlay: Overlay,
    places: BTreeMap<String, (f64, f64)>,
    /// Through whom others join.
    contact: String,
    /// Ends of the connections between relays, by their names.
    wires: BTreeMap<(String, String), End>,
    /// Connections made between relays so far.
    made: usize,
    /// The highest number of links that any relay has had.
    highest: usize,
}

impl Swarm {
    fn new(count: usize, seed: u64) -> Swarm {
        let mut random = StdRng::seed_from_u64(seed);
        let mut overlay = Overlay::new(&[]);
        // What is quiet between two relays need not be simulated so often.
        overlay.config = LinkConfig { idle_probe_interval: ms(100), ..LinkConfig::default() };
        let names: Vec<String> = (0..count).map(|n| format!("r{n:02}")).collect();
        let mut places = BTreeMap::new();
        for name in &names {
            places.insert(name.clone(), (random.random_range(0.0..40.0), random.random_range(0.0..20.0)));
        }
        let contact = names[count / 2].clone();
        let mut swarm = Swarm { overlay, places, contact, wires: BTreeMap::new(), made: 0, highest: 0 };
        let first = swarm.contact.clone();
        swarm.start(&first);
        for name in names.iter().filter(|name| **name != first) {
            swarm.start(name);
            swarm.run(300);
        }
        swarm
    }

    fn start(&mut self, name: &str) {
        self.overlay.start(name);
        let traits = Traits { address: Some(format!("{name}:4400")), auto: Some(DEGREE), ..Traits::default() };
        self.overlay.relay(name, |now, system, ports| system.set_traits(now, traits, ports));
    }

    /// Runs, and does what relays ask of their shells.
    fn run(&mut self, millis: u64) {
        for _ in 0..millis / 100 {
            self.overlay.run(100);
            for name in self.running() {
                for dial in self.overlay.relay(&name, |_, system, _| system.take_dials()) {
                    self.dial(&name, dial);
                }
                let links = self.overlay.relay(&name, |_, system, _| system.links().count());
                self.highest = self.highest.max(links);
            }
        }
    }

    fn dial(&mut self, from: &str, dial: Dial) {
        let to = match dial {
            Dial::Join => self.contact.clone(),
            Dial::Relay { name, address } => {
                assert_eq!(address, format!("{name}:4400"));
                name.to_string()
            }
        };
        if to == from || !self.overlay.is_running(&to) {
            return;
        }
        let (a, b) = (self.places[from], self.places[&to]);
        let delay = ms(1 + (a.0 - b.0).hypot(a.1 - b.1) as u64);
        let config = self.overlay.config;
        let join = |name: &str, node, dialled| Join {
            node,
            peer: peer(name, Role::Relay, dialled, Vec::new()),
            config,
            path: Box::new(Delay(delay)),
            control_delay: delay,
        };
        let ends = [self.overlay.relay_node(from), self.overlay.relay_node(&to)];
        let (end, _) = self.overlay.world.join(join(from, ends[0], false), join(&to, ends[1], true));
        self.wires.insert((from.to_owned(), to), end);
        self.made += 1;
    }

    fn kill(&mut self, name: &str) {
        let gone: Vec<_> = self.wires.keys().filter(|(a, b)| a == name || b == name).cloned().collect();
        for key in gone {
            if let Some(end) = self.wires.remove(&key) {
                self.overlay.world.sever(end);
            }
        }
        self.overlay.kill(name);
    }

    fn running(&self) -> Vec<String> {
        self.places.keys().filter(|name| self.overlay.is_running(name)).cloned().collect()
    }

    /// Links as both their ends have them.
    fn links(&mut self) -> BTreeSet<(NodeName, NodeName)> {
        let mut links = BTreeSet::new();
        for name in self.running() {
            let to: Vec<NodeName> =
                self.overlay.relay(&name, |_, system, _| system.links().map(|end| end.relay.clone()).collect());
            links.extend(to.into_iter().map(|to| (name.parse().expect("valid"), to)));
        }
        let both = links.iter().filter(|(a, b)| links.contains(&(b.clone(), a.clone()))).cloned();
        both.collect()
    }

    /// How many have a link to the relay that is nearest to them.
    fn near(&mut self) -> usize {
        let (links, places) = (self.links(), &self.places);
        let far = |a: &str, b: &str| (places[a].0 - places[b].0).hypot(places[a].1 - places[b].1);
        let is_near = |name: &&String| {
            let others = places.keys().filter(|other| other != name);
            let nearest = others.min_by(|a, b| far(name, a).total_cmp(&far(name, b))).expect("there are others");
            links.contains(&(name.parse().expect("valid"), nearest.parse().expect("valid")))
        };
        places.keys().filter(is_near).count()
    }

    /// Relays whose death would part the others.
    fn cut_relays(&mut self) -> usize {
        let metric = Metric::default();
        let links: Vec<_> = self.links().into_iter().map(|(a, b)| (a, b, metric)).collect();
        let nodes = self.running().into_iter().map(|name| (name.parse().expect("valid"), true));
        ring::cut_relays(&Graph::new(nodes, links)).len()
    }

    fn known(&mut self, name: &str) -> usize {
        self.overlay.report(name).overlay.relays.len()
    }
}

#[test]
#[ignore = "long: twenty relays for minutes of virtual time"]
fn relays_that_know_one_address_become_a_whole_overlay_that_survives_that_one() {
    let mut swarm = Swarm::new(20, 5);
    swarm.run(120_000);
    for name in swarm.running() {
        assert_eq!(swarm.known(&name), 20, "{name}");
    }
    assert_eq!(swarm.cut_relays(), 0);
    assert!(swarm.highest <= DEGREE, "{} links", swarm.highest);

    let near = swarm.near();
    assert!(near >= 15, "{near} of 20 have a link to their nearest");

    let (made, links) = (swarm.made, swarm.links());
    swarm.run(20_000);
    assert_eq!(swarm.made, made, "nothing flaps");
    assert_eq!(swarm.links(), links, "nothing flaps");

    let contact = swarm.contact.clone();
    swarm.kill(&contact);
    swarm.run(10_000);
    assert_eq!(swarm.cut_relays(), 0, "the ring has closed again");
    assert!(swarm.highest <= DEGREE, "{} links", swarm.highest);
    let made = swarm.made;
    swarm.run(20_000);
    assert_eq!(swarm.cut_relays(), 0);
    assert!(swarm.made - made <= 40, "{} links made after one death", swarm.made - made);
}

#[test]
fn a_stream_goes_on_while_relays_find_their_neighbours() {
    let mut swarm = Swarm::new(20, 3);
    swarm.run(15_000);
    let sink = swarm.overlay.sink("r19", "s");
    let source = swarm.overlay.source("r00", "camera", Source::new(1).mode(Dissemination::Auto));
    swarm.run(1_000);
    swarm.overlay.send(source, true);
    swarm.run(12_000);
    let contact = swarm.contact.clone();
    swarm.kill(&contact);
    swarm.run(5_000);
    let sent = swarm.overlay.send(source, false);
    swarm.run(500);
    swarm.overlay.of_sink(sink, |sink| sink.assert_whole(1, 0..sent));
}

#[test]
fn two_halves_that_lost_each_other_find_each_other() {
    let mut swarm = Swarm::new(8, 7);
    swarm.run(20_000);
    let apart: Vec<_> = swarm.wires.iter().filter(|((a, b), _)| (a.as_str() < "r04") != (b.as_str() < "r04")).collect();
    let apart: Vec<End> = apart.into_iter().map(|(_, end)| *end).collect();
    for end in apart {
        swarm.overlay.world.sever(end);
    }
    swarm.run(40_000);
    assert_eq!(swarm.cut_relays(), 0);
}

/// Four relays that choose their neighbours and have those of the ring; none has room for near ones.
fn ring_of_four() -> Overlay {
    let mut overlay = Overlay::new(&["a", "b", "c", "d"]);
    for name in ["a", "b", "c", "d"] {
        let traits = Traits { address: Some(format!("{name}:4400")), auto: Some(5), ..Traits::default() };
        overlay.relay(name, |now, system, ports| system.set_traits(now, traits, ports));
    }
    for (from, to) in [("a", "b"), ("b", "c"), ("c", "d"), ("d", "a")] {
        overlay.link_measured(from, to, 10);
    }
    overlay.run(1_000);
    overlay
}

fn has_link(overlay: &mut Overlay, from: &str, to: &str) -> bool {
    overlay.relay(from, |_, system, _| system.relay(&to.parse().expect("valid")).is_some())
}

#[test]
fn a_link_that_ends_while_it_is_let_go_of_carries_streams_when_it_comes_back() {
    let mut overlay = ring_of_four();
    overlay.link_measured("a", "c", 10);
    overlay.run(3_500);
    let events = overlay.relay("a", |now, system, _| system.take_events(now));
    let left = |what: &What| matches!(what, What::Draining { link: Some(link) } if link.relay.as_str() == "c");
    assert!(events.iter().any(|(_, what)| left(what)) && has_link(&mut overlay, "a", "c"), "{events:?}");
    overlay.cut("a", "c");
    overlay.run(1_000);
    assert_eq!(overlay.report("b").overlay.links, 8);
    overlay.link_measured("a", "c", 10);
    overlay.run(1_000);
    assert_eq!(overlay.report("b").overlay.links, 10, "both ends tell of it");
    overlay.run(5_000);
    assert!(!has_link(&mut overlay, "a", "c"), "it is let go of again");
}

#[test]
fn what_is_set_of_a_link_does_not_make_it_one_of_the_configuration() {
    let mut overlay = ring_of_four();
    let set = |overlay: &mut Overlay, options: LinkOptions| {
        let peer = "c".parse().expect("valid");
        overlay.relay("a", |now, system, ports| system.set_link_options(now, peer, options, ports));
    };
    for (configured, reset) in [(false, true), (false, false), (true, false)] {
        overlay.link_measured("a", "c", 10);
        set(&mut overlay, LinkOptions { cost: 3, configured, ..LinkOptions::default() });
        if reset {
            set(&mut overlay, LinkOptions::default());
        }
        overlay.run(7_000);
        assert_eq!(has_link(&mut overlay, "a", "c"), configured, "reset: {reset}");
    }
}
