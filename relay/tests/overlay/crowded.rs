//! More is said than a link between relays takes at once: by many, or by one that says all it can. The link stays, and what is newest comes.

use crate::clients::Sink;
use crate::harness::{Overlay, Source, UNIX, all, ms, peer};
use anabranch_relay::config::Limits;
use anabranch_relay::forward::signal::Signals;
use anabranch_relay::system::{Options, RelaySystem};
use bytes::{Bytes, BytesMut};
use link::{Delivery, Instant, LinkConfig};
use node::control::{self, Content, Control, Edge, Install, Module, Reserve, StreamOpen};
use node::engine::Engine;
use node::trust::{Authority, Direction, Role};
use node::{Closed, EndSystem, Peer, PortId, Ports};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use topology::NodeName;
use topology::about::About;
use topology::lsdb::{Advertisement, Incarnation, LinkState, StreamState, Subscription};

fn name(name: &str) -> NodeName {
    name.parse().expect("valid")
}

/// What a relay says that has these streams and is asked for so many.
fn advertisement(origin: &str, seq: u64, streams: &[String], subscriptions: u32) -> Advertisement {
    let state = |stream: &String| StreamState {
        name: stream.parse().expect("valid"),
        incarnation: Incarnation(1),
        deadline_us: 200_000,
    };
    let wish =
        |nth| Subscription { name: format!("tenant/channel-{nth:05}").parse().expect("valid"), last_mile_us: 5_000 };
    Advertisement {
        origin: name(origin),
        boot: 1,
        seq,
        links: vec![LinkState { peer: name("nobody").into(), delay_us: 1_000, loss_ppm: 0, cost: 10 }],
        streams: streams.iter().map(state).collect(),
        subscriptions: (0..subscriptions).map(wish).collect(),
        draining: false,
        about: About::default(),
        terms: topology::terms::Terms::default(),
    }
}

/// A graph over these links, and so many more that no relay here has.
fn graph(ingress: &str, stream: &str, epoch: u16, links: &[(&str, &str)], more: usize) -> Install {
    let edge = |from: &str, to: &str| Edge { from: name(from), to: name(to).into(), rest_min_us: 1, rest_max_us: 1 };
    let far = (0..more).map(|nth| edge(&format!("far-away-relay-{nth:06}"), &format!("far-away-relay-{:06}", nth + 1)));
    Install {
        name: stream.parse().expect("valid"),
        incarnation: Incarnation(1),
        ingress: name(ingress),
        boot: 1,
        epoch,
        deadline_us: 200_000,
        content: Content::Datagrams,
        modules: vec![Module { edges: links.iter().map(|(from, to)| edge(from, to)).chain(far).collect() }],
        sealed: false,
        reserve: Reserve::default(),
        target_ppb: 0,
    }
}

/// `from` tells `to` something.
fn say(overlay: &mut Overlay, from: &str, to: &str, message: Control) {
    overlay.relay(from, |_, system, ports| {
        let port = system.relay(&name(to)).expect("linked");
        ports.control(port, message);
    });
}

#[test]
fn a_new_link_takes_all_that_is_known_however_much_that_is() {
    let mut overlay = Overlay::with_links(&[("a", "z", 10)]);
    let large = |nth: usize| advertisement(&format!("r{nth:02}"), 1, &[], 7_700);
    let size = control::encoded_size(&Control::Advertise(large(0))).expect("it is a message");
    assert!((165_000..180_000).contains(&size), "{size}");
    for nth in 0..60 {
        say(&mut overlay, "z", "a", Control::Advertise(large(nth)));
        overlay.run(50);
    }
    assert_eq!(overlay.report("a").overlay.relays.len(), 62);
    overlay.start("n");
    overlay.link("a", "n", 10);
    let port = overlay.relay("a", |_, system, _| system.relay(&name("n")));
    // Of one that it is told of last, more is known by then.
    let newer = advertisement("r59", 2, &["tenant/late".to_owned()], 0);
    say(&mut overlay, "z", "a", Control::Advertise(newer));
    overlay.run(2_000);
    assert!(port.is_some());
    assert_eq!(overlay.relay("a", |_, system, _| system.relay(&name("n"))), port, "the link stays");
    let report = overlay.report("n");
    assert_eq!(report.overlay.relays.len(), 63, "and all of it has come");
    assert_eq!(report.overlay.streams, 1, "in its newest form");
}

/// Graphs of 500 streams that enter at a relay that is far away, over a hundred and fifty links each.
#[test]
fn five_hundred_streams_are_planned_anew_and_again() {
    let mut overlay = Overlay::with_links(&[("a", "b", 10), ("b", "c", 10)]);
    let streams: Vec<String> = (0..500).map(|nth| format!("tenant/channel-{nth:03}")).collect();
    say(&mut overlay, "a", "b", Control::Advertise(advertisement("far", 1, &streams, 0)));
    overlay.run(100);
    let tell = |overlay: &mut Overlay, epoch: u16| {
        for stream in &streams {
            let graph = graph("far", stream, epoch, &[("a", "b"), ("b", "c")], 140);
            say(overlay, "a", "b", Control::Install(graph));
        }
    };
    let at = |overlay: &mut Overlay, epoch: u16| {
        let report = overlay.report("c");
        report.streams.iter().filter(|stream| stream.epoch == Some(epoch)).count()
    };
    tell(&mut overlay, 1);
    overlay.run(200);
    assert_eq!(at(&mut overlay, 1), 500, "at once");
    // Another failure, and another: what is overtaken while it waits is not missed.
    tell(&mut overlay, 2);
    overlay.run(100);
    tell(&mut overlay, 3);
    overlay.run(8_000);
    assert_eq!(at(&mut overlay, 3), 500, "after a while");
    let refused = overlay.report("b").refused;
    assert_eq!(refused.graphs, 0);
    assert!((100..500).contains(&refused.excess), "{}: those that were overtaken", refused.excess);
}

/// Graphs of earlier days are signed as well as those of today, and who passes them on may be anybody.
#[test]
fn old_graphs_use_up_the_allowance_of_who_brings_them() {
    let mut overlay = Overlay::with_links(&[("a", "b", 10), ("h", "b", 10), ("b", "c", 10)]);
    let streams: Vec<String> = (0..100).map(|nth| format!("tenant/channel-{nth:03}")).collect();
    say(&mut overlay, "a", "b", Control::Advertise(advertisement("far", 1, &streams, 0)));
    overlay.run(100);
    for round in 0..40 {
        for nth in 0..10 {
            let old = graph("far", &format!("tenant/old-{:03}", round * 10 + nth), 1, &[("a", "b"), ("b", "c")], 600);
            say(&mut overlay, "h", "b", Control::Install(old));
        }
        overlay.run(10);
    }
    for stream in &streams {
        say(&mut overlay, "a", "b", Control::Install(graph("far", stream, 1, &[("a", "b"), ("b", "c")], 140)));
    }
    overlay.run(100);
    let report = overlay.report("c");
    let known = report.streams.iter().filter(|stream| streams.contains(&stream.name.to_string())).count();
    assert_eq!(known, 100);
    assert!(report.streams.len() < 400, "{}: not all of the old", report.streams.len());
}

/// Statements whose signature is not that of their certificate's key, among the media and at the rate of media.
#[test]
fn forged_signals_are_looked_at_no_faster_than_control_messages() {
    let mut overlay = Overlay::new(&[]);
    overlay.authority = Some(Authority::trial(UNIX).expect("made"));
    overlay.start("a");
    overlay.start("b");
    overlay.link("a", "b", 10);
    overlay.run(1_000);
    let authority = overlay.authority.as_ref().expect("made");
    let identity = authority.issue(&name("b"), Role::Relay, UNIX, Duration::from_secs(3600)).expect("issued");
    let seal = authority.credentials(Some(&identity)).and_then(|b| b.seal()).expect("made").expect("it has a key");
    let mut signed = seal.sign(&Control::Advertise(advertisement("b", 1, &[], 5))).expect("signed");
    signed.signature[3] ^= 1;
    let forged = Control::Signed(signed);
    let mut signals = Signals::default();
    for _ in 0..1_000 {
        overlay.relay("b", |now, system, ports| {
            let port = system.relay(&name("a")).expect("linked");
            for part in (0..20).flat_map(|_| signals.pack(&forged)) {
                ports.send(now, port, part.packet(now)).expect("the link takes it");
            }
        });
        overlay.run(1);
    }
    overlay.run(200);
    let refused = overlay.report("a").refused;
    assert!((1_500..2_700).contains(&refused.forged), "{} of 20,000 were looked at", refused.forged);
    // When it is over, what is true is heard by signals as before.
    overlay.run(5_000);
    let before = overlay.report("a").refused;
    let sink = overlay.sink("a", "s");
    let source = overlay.source("b", "camera", Source::new(1));
    overlay.run(500);
    overlay.send(source, true);
    overlay.run(500);
    let sent = overlay.send(source, false);
    overlay.run(500);
    overlay.of_sink(sink, |sink| sink.assert_whole(1, 0..sent));
    assert_eq!(overlay.report("a").refused, before);
}

/// What a relay reads of another in a second (`node::host::control_pace`).
const READ: i64 = 2 << 20;

/// One way takes so long.
const WAY: Duration = Duration::from_millis(5);

/// Nodes in steps of a millisecond. Of each control stream, each end reads [`READ`].
struct Slow {
    now: Instant,
    nodes: Vec<Engine<Actor>>,
    wires: Vec<Wire>,
}

/// One direction of a connection.
struct Wire {
    from: (usize, PortId),
    to: (usize, PortId),
    datagrams: VecDeque<(Instant, Bytes)>,
    control: VecDeque<(Instant, Vec<u8>)>,
    may_send: i64,
    sent: usize,
}

enum Actor {
    Relay(Box<RelaySystem>),
    Source(Source),
    Sink(Sink),
    Flooder(Flooder),
}

/// Says graphs of streams of its own, to its neighbours in turn, as fast as they are read.
#[derive(Default)]
struct Flooder {
    ports: Vec<PortId>,
    advertises: bool,
    epoch: u16,
    due: Instant,
    stops: Option<Instant>,
}

const HOSTILE_STREAMS: u16 = 16;

impl Flooder {
    fn stream(nth: u16) -> String {
        format!("hostile/channel-{nth:02}")
    }

    fn open(handle: u16) -> StreamOpen {
        StreamOpen {
            handle,
            name: Flooder::stream(handle).parse().expect("valid"),
            incarnation: Incarnation(1),
            ingress: name("h"),
            deadline_us: 200_000,
            content: Content::Datagrams,
            sealed: false,
            target_ppb: 0,
        }
    }
}

impl EndSystem for Flooder {
    fn handle_opened(&mut self, _: Instant, port: PortId, ports: &mut Ports) {
        self.ports.push(port);
        let streams: Vec<String> = (0..HOSTILE_STREAMS).map(Flooder::stream).collect();
        if self.advertises {
            ports.control(port, Control::Advertise(advertisement("h", 1, &streams, 0)));
        }
        for handle in 0..HOSTILE_STREAMS {
            ports.control(port, Control::StreamOpen(Flooder::open(handle)));
        }
    }
    fn handle_delivery(&mut self, _: Instant, _: PortId, _: Delivery, _: &mut Ports) {}
    fn handle_control(&mut self, _: Instant, _: PortId, _: Control, _: &mut Ports) {}
    fn handle_closed(&mut self, _: Instant, port: PortId, _: &Peer, _: &Closed, _: &mut Ports) {
        self.ports.retain(|open| *open != port);
    }
    fn handle_timeout(&mut self, now: Instant, ports: &mut Ports) {
        self.due = now + ms(1);
        let links = [("h", "r1"), ("h", "r2"), ("r1", "x"), ("r2", "x"), ("x", "y")];
        while let Some(port) = self.ports.iter().copied().find(|port| ports.queued(*port).1 < 100_000) {
            let stream = Flooder::stream(self.epoch % HOSTILE_STREAMS);
            ports.control(port, Control::Install(graph("h", &stream, self.epoch, &links, 2_000)));
            self.epoch += 1;
            // The next is told to another.
            self.ports.rotate_left(1);
        }
    }
    fn poll_timeout(&self) -> Option<Instant> {
        self.stops.is_none_or(|stops| self.due < stops).then_some(self.due)
    }
}

impl Actor {
    fn as_mut(&mut self) -> &mut dyn EndSystem {
        match self {
            Actor::Relay(relay) => &mut **relay,
            Actor::Source(source) => source,
            Actor::Sink(sink) => sink,
            Actor::Flooder(flooder) => flooder,
        }
    }
}

impl EndSystem for Actor {
    fn handle_opened(&mut self, now: Instant, port: PortId, ports: &mut Ports) {
        self.as_mut().handle_opened(now, port, ports);
    }
    fn handle_delivery(&mut self, now: Instant, port: PortId, delivery: Delivery, ports: &mut Ports) {
        self.as_mut().handle_delivery(now, port, delivery, ports);
    }
    fn handle_control(&mut self, now: Instant, port: PortId, message: Control, ports: &mut Ports) {
        self.as_mut().handle_control(now, port, message, ports);
    }
    fn handle_closed(&mut self, now: Instant, port: PortId, peer: &Peer, closed: &Closed, ports: &mut Ports) {
        self.as_mut().handle_closed(now, port, peer, closed, ports);
    }
    fn handle_timeout(&mut self, now: Instant, ports: &mut Ports) {
        self.as_mut().handle_timeout(now, ports);
    }
    fn poll_timeout(&self) -> Option<Instant> {
        match self {
            Actor::Relay(relay) => relay.poll_timeout(),
            Actor::Source(source) => source.poll_timeout(),
            Actor::Sink(sink) => sink.poll_timeout(),
            Actor::Flooder(flooder) => flooder.poll_timeout(),
        }
    }
}

impl Slow {
    fn new() -> Slow {
        Slow { now: Instant::from_micros(3_600_000_000), nodes: Vec::new(), wires: Vec::new() }
    }

    fn add(&mut self, actor: Actor) -> usize {
        self.nodes.push(Engine::new(actor));
        self.nodes.len() - 1
    }

    fn add_relay(&mut self, relay: &str) -> usize {
        let options = Options {
            name: name(relay),
            boot: 1,
            limits: Limits::default(),
            source_grace: Duration::from_secs(10),
            links: BTreeMap::new(),
            seal: None,
            unix: (self.now, UNIX),
        };
        self.add(Actor::Relay(Box::new(RelaySystem::new(options))))
    }

    /// Joins two nodes, each as the other is to see it.
    fn join(&mut self, (a, as_a): (usize, Peer), (b, as_b): (usize, Peer)) {
        let at_a = self.nodes[a].open(self.now, as_b, LinkConfig::default());
        let at_b = self.nodes[b].open(self.now, as_a, LinkConfig::default());
        for (from, to) in [((a, at_a), (b, at_b)), ((b, at_b), (a, at_a))] {
            let (datagrams, control) = Default::default();
            self.wires.push(Wire { from, to, datagrams, control, may_send: 0, sent: 0 });
        }
    }

    fn run(&mut self, millis: u64) {
        for _ in 0..millis {
            self.step();
        }
    }

    fn step(&mut self) {
        self.now += ms(1);
        let now = self.now;
        for wire in &mut self.wires {
            let engine = &mut self.nodes[wire.to.0];
            while let Some((_, datagram)) = wire.datagrams.pop_front_if(|(due, _)| *due <= now) {
                engine.handle_datagrams(now, wire.to.1, [datagram]);
            }
            while let Some((_, message)) = wire.control.pop_front_if(|(due, _)| *due <= now) {
                let message = control::decode(&message[control::LENGTH..]).expect("encoded here");
                engine.handle_control(now, wire.to.1, message);
            }
        }
        for engine in &mut self.nodes {
            if engine.poll_timeout().is_some_and(|due| due <= now) {
                engine.handle_timeout(now);
            }
        }
        for wire in &mut self.wires {
            let ports = &mut self.nodes[wire.from.0].ports;
            wire.drain(now, ports);
        }
        self.hang_up();
    }

    fn hang_up(&mut self) {
        let closing = |wire: &Wire| {
            let closing = self.nodes[wire.from.0].ports.closing(wire.from.1)?;
            Some((wire.from, wire.to, closing.closed.clone()))
        };
        let closing: Vec<_> = self.wires.iter().filter_map(closing).collect();
        for (from, to, closed) in closing {
            self.wires.retain(|wire| wire.from != from && wire.to != from);
            for (node, port) in [from, to] {
                self.nodes[node].handle_closed(self.now, port, closed.clone());
            }
        }
    }

    fn relay(&self, node: usize) -> &RelaySystem {
        match &self.nodes[node].system {
            Actor::Relay(relay) => relay,
            _ => panic!("no relay"),
        }
    }

    fn epochs(&self, node: usize) -> BTreeMap<String, u16> {
        let report = self.relay(node).report(self.now, &self.nodes[node].ports);
        let hostile = report.streams.into_iter().filter(|stream| stream.ingress == name("h"));
        hostile.filter_map(|stream| Some((stream.name.to_string(), stream.epoch?))).collect()
    }

    fn source(&mut self, node: usize) -> &mut Source {
        match &mut self.nodes[node].system {
            Actor::Source(source) => source,
            _ => panic!("no source"),
        }
    }
}

impl Wire {
    fn drain(&mut self, now: Instant, ports: &mut Ports) {
        let (mut scratch, port) = (BytesMut::new(), self.from.1);
        while let Some(length) = ports.poll_transmit(now, port, &mut scratch) {
            self.datagrams.push_back((now + WAY, scratch.split_to(length).freeze()));
        }
        ports.schedule(now, port);
        self.may_send = (self.may_send + READ / 1000).min(READ / 1000);
        while self.may_send > 0
            && let Some(message) = ports.poll_control(port)
        {
            let mut encoded = Vec::new();
            control::encode(&message, &mut encoded).expect("it was queued");
            self.may_send -= encoded.len() as i64;
            self.sent += encoded.len();
            self.control.push_back((now + WAY, encoded));
        }
    }
}

/// `h` says one half of its graphs to r1 and the other to r2; both lead on over x to y. On the link from x to y runs a stream of others.
fn flooded(advertises: bool) {
    let mut slow = Slow::new();
    let [r1, r2, x, y] = ["r1", "r2", "x", "y"].map(|relay| slow.add_relay(relay));
    let as_relay = |name: &str| peer(name, Role::Relay, true, Vec::new());
    for (a, b) in [((r1, "r1"), (x, "x")), ((r2, "r2"), (x, "x")), ((x, "x"), (y, "y"))] {
        slow.join((a.0, as_relay(a.1)), (b.0, as_relay(b.1)));
    }
    let x_to_y = slow.wires.len() - 2;
    let (port, other_end) = (slow.wires[x_to_y].from.1, slow.wires[x_to_y].to.1);
    let sink = slow.add(Actor::Sink(Sink::default()));
    slow.join((sink, peer("s", Role::Sink, true, all(Direction::Subscribe))), (y, as_relay("y")));
    let source = slow.add(Actor::Source(Source::new(1)));
    slow.join((source, peer("camera", Role::Source, true, all(Direction::Publish))), (x, as_relay("x")));
    slow.run(2_000);
    let now = slow.now;
    (slow.source(source).sending, slow.source(source).due) = (true, now);
    slow.run(500);

    let began = slow.now;
    let h = slow.add(Actor::Flooder(Flooder { advertises, due: began, ..Flooder::default() }));
    for (relay, name) in [(r1, "r1"), (r2, "r2")] {
        slow.join((h, as_relay("h")), (relay, as_relay(name)));
    }
    let before = slow.wires[x_to_y].sent;
    slow.run(8_000);
    assert_eq!(slow.relay(x).relay(&name("y")), Some(port), "the link stays");
    assert_eq!(slow.relay(y).relay(&name("x")), Some(other_end), "at both its ends");
    let passed_on = slow.wires[x_to_y].sent - before;
    if advertises {
        assert!(passed_on < 9 << 20, "{passed_on}: four mebibytes at once, and half of one a second");
    }
    assert!(passed_on > 4 << 20, "{passed_on}: it is no flood");

    // When it is over, the newest of all that was said has come.
    let last = slow.now;
    let Actor::Flooder(flooder) = &mut slow.nodes[h].system else { panic!("it is another") };
    flooder.stops = Some(last);
    let told = flooder.epoch;
    slow.run(8_000);
    assert_eq!(slow.relay(x).relay(&name("y")), Some(port), "the link stays");
    let newest = |nth: u16| (0..told).rev().find(|epoch| epoch % HOSTILE_STREAMS == nth).expect("many were told");
    let expected: BTreeMap<String, u16> = (0..HOSTILE_STREAMS).map(|nth| (Flooder::stream(nth), newest(nth))).collect();
    assert_eq!(slow.epochs(y), expected);

    slow.source(source).sending = false;
    let sent = slow.source(source).next_seq;
    slow.run(500);
    assert!(sent > 15_000);
    let Actor::Sink(sink) = &mut slow.nodes[sink].system else { panic!("it is another") };
    assert_eq!(sink.opens, 1);
    sink.assert_whole(1, 0..sent);
}

#[test]
fn a_flood_of_graphs_by_two_ways_cuts_no_link_and_costs_no_packet() {
    flooded(true);
}

/// The same of streams that nobody is said to publish, which are on the account of each neighbour that brings them.
#[test]
fn a_flood_of_graphs_of_streams_that_are_not_there_cuts_no_link_either() {
    flooded(false);
}

/// A relay that says nothing.
struct Mute;

impl EndSystem for Mute {
    fn handle_opened(&mut self, _: Instant, _: PortId, _: &mut Ports) {}
    fn handle_delivery(&mut self, _: Instant, _: PortId, _: Delivery, _: &mut Ports) {}
    fn handle_control(&mut self, _: Instant, _: PortId, _: Control, _: &mut Ports) {}
    fn handle_closed(&mut self, _: Instant, _: PortId, _: &Peer, _: &Closed, _: &mut Ports) {}
    fn handle_timeout(&mut self, _: Instant, _: &mut Ports) {}
    fn poll_timeout(&self) -> Option<Instant> {
        None
    }
}

#[test]
fn a_relay_has_no_more_neighbours_than_others_take_its_word_for() {
    let mut overlay = Overlay::new(&["a"]);
    let node = overlay.world.add(Mute, Duration::ZERO);
    for n in 0..260 {
        overlay.connect("a", node, peer(&format!("r{n}"), Role::Relay, false, Vec::new()));
    }
    overlay.run(100);
    let most = topology::lsdb::Limits::default().links;
    assert_eq!(overlay.relay("a", |_, system, _| system.links().count()), most);
}
