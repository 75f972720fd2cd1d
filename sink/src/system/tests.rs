//! The sink against a stub relay in virtual time.

use super::*;
use crate::report::StreamState;
use bytes::Bytes;
use link::{Flags, Label, LinkConfig, MediaTime, Packet, StreamSeq};
use node::control::{Content, RECEIPTS};
use node::testing::{Delay, End, Join, NodeId, World};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const DEADLINE: Duration = Duration::from_millis(200);
const TRANSIT: Duration = Duration::from_millis(20);

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Notes what comes out, and when.
#[derive(Debug, Default)]
struct Recorder {
    released: Vec<(usize, Release)>,
    changes: Vec<usize>,
}

impl Outlets for Recorder {
    fn release(&mut self, stream: usize, release: Release) {
        self.released.push((stream, release));
    }
    fn changed(&mut self, stream: usize) {
        self.changes.push(stream);
    }
}

/// A relay that does what the test says, and notes what it hears.
#[derive(Debug, Default)]
struct StubRelay {
    heard: Vec<Control>,
    ports: Vec<PortId>,
    closed: Vec<Closed>,
}

impl EndSystem for StubRelay {
    fn handle_opened(&mut self, _now: Instant, port: PortId, _ports: &mut Ports) {
        self.ports.push(port);
    }
    fn handle_delivery(&mut self, _: Instant, _: PortId, _: Delivery, _: &mut Ports) {}
    fn handle_control(&mut self, _: Instant, _: PortId, message: Control, _: &mut Ports) {
        self.heard.push(message);
    }
    fn handle_closed(&mut self, _: Instant, _: PortId, _: &Peer, closed: &Closed, _: &mut Ports) {
        self.closed.push(closed.clone());
    }
    fn handle_timeout(&mut self, _: Instant, _: &mut Ports) {}
    fn poll_timeout(&self) -> Option<Instant> {
        None
    }
}

type Sink = SinkSystem<Recorder>;

struct Scene {
    world: World,
    sink: NodeId,
    relay: NodeId,
    ends: (End, End),
    /// The next packet to send.
    index: u32,
}

fn peer(name: &str, role: Role, dialled: bool) -> Peer {
    Peer {
        name: name.parse().unwrap(),
        role,
        grants: Vec::new(),
        address: ([127, 0, 0, 1], 4400).into(),
        dialled,
        features: RECEIPTS,
        link: None,
    }
}

fn scene(names: &[&str]) -> Scene {
    let mut world = World::new();
    let streams = names.iter().map(|name| (name.parse().unwrap(), PlayoutConfig::default()));
    let sink = world.add(SinkSystem::new(streams, Recorder::default()), ms(12_345_678));
    let relay = world.add(StubRelay::default(), ms(0));
    let ends = join(&mut world, sink, relay, Role::Relay);
    let mut scene = Scene { world, sink, relay, ends, index: 0 };
    scene.world.run_for(ms(200));
    scene
}

fn join(world: &mut World, sink: NodeId, relay: NodeId, role: Role) -> (End, End) {
    let end = |node, peer, seed| Join {
        node,
        peer,
        config: LinkConfig { seed, ..LinkConfig::default() },
        path: Box::new(Delay(TRANSIT)),
        control_delay: TRANSIT,
    };
    world.join(end(sink, peer("watcher", Role::Sink, false), 1), end(relay, peer("relay-1", role, true), 2))
}

impl Scene {
    fn say(&mut self, message: Control) {
        let port = self.ends.1.port;
        self.world.with(self.relay, |_, _: &mut StubRelay, ports| ports.control(port, message));
    }

    fn open(&mut self, handle: u16, name: &str, life: u64) {
        self.say(Control::StreamOpen(StreamOpen {
            handle,
            name: name.parse().unwrap(),
            incarnation: Incarnation(life),
            ingress: "relay-1".parse().unwrap(),
            deadline_us: DEADLINE.as_micros() as u32,
            content: Content::Datagrams,
            sealed: false,
            target_ppb: 0,
        }));
    }

    /// Sends `count` packets, one a millisecond.
    fn send(&mut self, handle: u16, count: u32) {
        for _ in 0..count {
            let index = self.index;
            self.index += 1;
            let payload = Bytes::copy_from_slice(&index.to_be_bytes());
            self.send_one(handle, index, payload, Flags::default());
            self.world.run_for(ms(1));
        }
    }

    fn send_one(&mut self, handle: u16, index: u32, payload: Bytes, flags: Flags) {
        let port = self.ends.1.port;
        self.world.with(self.relay, |now, _: &mut StubRelay, ports| {
            let packet = Packet {
                target: None,
                stream: StreamHandle(handle),
                seq: StreamSeq(index),
                media_time: MediaTime(now.as_micros() as u32),
                age: Duration::ZERO,
                label: Label(0),
                flags,
                payload,
                recover_until: now + DEADLINE,
            };
            ports.send(now, port, packet).unwrap();
        });
    }

    fn sink<R>(&mut self, act: impl FnOnce(&mut Sink) -> R) -> R {
        self.world.with(self.sink, |_, sink: &mut Sink, _| act(sink))
    }

    fn released(&mut self) -> Vec<u32> {
        self.sink(|sink| {
            let number = |(_, release): &(usize, Release)| u32::from_be_bytes(release.payload[..].try_into().unwrap());
            sink.outlets().released.iter().map(number).collect()
        })
    }

    fn state(&mut self, index: usize) -> StreamState {
        self.world.with(self.sink, |now, sink: &mut Sink, _| sink.state(now, index).unwrap())
    }
}

#[test]
fn it_subscribes_and_plays_out_in_order_at_the_deadline() {
    let mut scene = scene(&["demo/clip"]);
    let heard = scene.world.with(scene.relay, |_, relay: &mut StubRelay, _| relay.heard.clone());
    assert_eq!(heard, [Control::Subscribe { name: "demo/clip".parse().unwrap() }]);
    assert_eq!(scene.state(0), StreamState::Waiting);
    scene.say(Control::Subscribed { name: "demo/clip".parse().unwrap(), live: true });
    scene.open(3, "demo/clip", 1);
    scene.send(3, 500);
    assert_eq!(scene.state(0), StreamState::Live);
    scene.world.run_for(ms(300));
    assert_eq!(scene.released(), (0..500).collect::<Vec<_>>());
    let report = scene.world.with(scene.sink, |now, sink: &mut Sink, _| sink.reports(now).remove(0));
    assert_eq!(report.packets.on_time, 500);
    assert_eq!(report.on_time_share, 1.0);
    assert!((report.release.p50_ms - 200.0).abs() < 5.0, "{:?}", report.release);
    assert!((report.arrival.p50_ms - 20.0).abs() < 5.0, "{:?}", report.arrival);
    scene.world.run_for(ms(2_000));
    assert_eq!(scene.state(0), StreamState::Silent);
}

#[test]
fn what_overtakes_its_opening_is_kept() {
    let mut scene = scene(&["demo/clip"]);
    scene.send(9, 100);
    scene.open(9, "demo/clip", 1);
    scene.send(9, 100);
    scene.world.run_for(ms(300));
    assert_eq!(scene.released(), (0..200).collect::<Vec<_>>());
    scene.send(77, 400);
    assert!(scene.released().len() == 200);
    scene.world.run_for(ms(300));
    scene.open(77, "demo/clip", 2);
    scene.world.run_for(ms(300));
    assert_eq!(scene.released().len(), 200, "too old to be kept");
    assert_eq!(scene.sink(|sink| sink.unclaimed()), 400);
}

#[test]
fn losses_on_the_last_hop_are_repaired_and_told() {
    let mut scene = scene(&["demo/clip"]);
    scene.open(1, "demo/clip", 1);
    let mut random = StdRng::seed_from_u64(5);
    scene
        .world
        .set_path(scene.ends.1, move |now: Instant, _: &[u8]| (!random.random_bool(0.05)).then_some(now + TRANSIT));
    scene.send(1, 3_000);
    scene.world.run_for(ms(300));
    assert_eq!(scene.released(), (0..3_000).collect::<Vec<_>>());
    let packets = scene.world.with(scene.sink, |now, sink: &mut Sink, _| sink.reports(now).remove(0).packets);
    assert!(packets.recovered_arq + packets.recovered_fec > 100, "{packets:?}");
    assert_eq!((packets.late, packets.missing), (0, 0));
}

#[test]
fn a_lost_relay_leaves_the_playout_running_and_a_new_one_is_asked_again() {
    let mut scene = scene(&["demo/clip"]);
    scene.open(1, "demo/clip", 1);
    scene.send(1, 300);
    // The last packets are on the wire; they are lost with it.
    scene.world.sever(scene.ends.0);
    scene.world.run_for(ms(300));
    assert_eq!(scene.released(), (0..281).collect::<Vec<_>>());
    scene.ends = join(&mut scene.world, scene.sink, scene.relay, Role::Relay);
    scene.world.run_for(ms(100));
    let subscriptions = scene.world.with(scene.relay, |_, relay: &mut StubRelay, _| {
        relay.heard.iter().filter(|message| matches!(message, Control::Subscribe { .. })).count()
    });
    assert_eq!(subscriptions, 2);
    scene.world.run_for(ms(1_100));
    let missing = |message: &Control| match message {
        Control::Receipt(receipt) => receipt.missing,
        _ => 0,
    };
    let told =
        scene.world.with(scene.relay, |_, relay: &mut StubRelay, _| relay.heard.iter().map(missing).sum::<i64>());
    assert_eq!(told, 0, "what is gone with the connection is not missed before the stream goes on");
    scene.index = 400;
    scene.open(5, "demo/clip", 1);
    scene.send(5, 100);
    scene.world.run_for(ms(300));
    assert_eq!(scene.released(), (0..281).chain(400..500).collect::<Vec<_>>());
    let packets = scene.world.with(scene.sink, |now, sink: &mut Sink, _| sink.reports(now).remove(0).packets);
    assert_eq!((packets.missing, packets.lives), (119, 1));
}

#[test]
fn a_handle_that_is_given_another_meaning_has_it() {
    let mut scene = scene(&["demo/a", "demo/b"]);
    scene.open(1, "demo/a", 1);
    scene.send(1, 50);
    scene.world.run_for(ms(50));
    scene.say(Control::StreamClose { handle: 1, ended: false });
    scene.open(1, "demo/b", 1);
    scene.world.run_for(ms(50));
    scene.send(1, 50);
    scene.world.run_for(ms(300));
    let counts = scene.sink(|sink| {
        let of = |index| sink.outlets().released.iter().filter(|(stream, _)| *stream == index).count();
        (of(0), of(1))
    });
    assert_eq!(counts, (50, 50));
}

#[test]
fn the_end_is_told_once_everything_is_out() {
    for marker in [true, false] {
        let mut scene = scene(&["demo/clip"]);
        scene.open(1, "demo/clip", 1);
        scene.send(1, 100);
        if marker {
            let index = scene.index;
            scene.send_one(1, index, Bytes::new(), Flags { end: true, ..Flags::default() });
        }
        scene.say(Control::StreamClose { handle: 1, ended: true });
        scene.world.run_for(ms(100));
        assert_eq!(scene.state(0), StreamState::Live);
        scene.world.run_for(ms(200));
        assert_eq!(scene.state(0), StreamState::Ended, "marker: {marker}");
        assert_eq!(scene.released().len(), 100);
        assert!(scene.sink(|sink| sink.is_drained()));
        // Its source comes back.
        scene.open(2, "demo/clip", 2);
        scene.index = 0;
        scene.send(2, 10);
        scene.world.run_for(ms(300));
        assert_eq!(scene.released().len(), 110);
        assert_eq!(scene.state(0), StreamState::Live);
    }
}

#[test]
fn a_refusal_is_of_one_stream_only() {
    let mut scene = scene(&["demo/a", "demo/b"]);
    let refusal = Refusal { code: CloseCode::Forbidden, reason: "the token is for other streams".into() };
    scene.say(Control::StreamRefused { name: "demo/a".parse().unwrap(), refusal: refusal.clone() });
    scene.open(1, "demo/b", 1);
    scene.world.run_for(ms(50));
    scene.send(1, 10);
    scene.world.run_for(ms(50));
    assert_eq!((scene.state(0), scene.state(1)), (StreamState::Refused, StreamState::Live));
    assert_eq!(scene.sink(|sink| sink.refusal(0).cloned()), Some(refusal));
    assert!(scene.sink(|sink| sink.outlets().changes.contains(&0)));
}

#[test]
fn what_is_refused_is_asked_for_again_less_and_less_often() {
    let mut scene = scene(&["demo/a", "demo/b"]);
    let asked = |scene: &mut Scene| {
        scene.world.with(scene.relay, |_, relay: &mut StubRelay, _| {
            let of_a = |message: &&Control| matches!(message, Control::Subscribe { name } if name.as_str() == "demo/a");
            relay.heard.iter().filter(of_a).count()
        })
    };
    let no_room = Refusal { code: CloseCode::Overload, reason: "the link is full".into() };
    let refuse = |scene: &mut Scene| {
        scene.say(Control::StreamRefused { name: "demo/a".parse().unwrap(), refusal: no_room.clone() });
        scene.world.run_for(ms(100));
    };
    refuse(&mut scene);
    assert!(scene.sink(|sink| sink.may_be_served(0)));
    assert_eq!((scene.state(0), asked(&mut scene)), (StreamState::Refused, 1));
    scene.world.run_for(ms(2_100));
    assert_eq!(asked(&mut scene), 2);
    refuse(&mut scene);
    scene.world.run_for(ms(3_000));
    assert_eq!(asked(&mut scene), 2, "twice as long as before");
    scene.world.run_for(ms(1_100));
    assert_eq!(asked(&mut scene), 3);
    refuse(&mut scene);
    // Other tokens are a reason to ask at once; for a stream that plays they are none.
    scene.open(1, "demo/b", 1);
    scene.world.run_for(ms(50));
    scene.world.with(scene.sink, |now, sink: &mut Sink, ports| sink.ask_again(now, ports));
    scene.world.run_for(ms(50));
    assert_eq!(asked(&mut scene), 4);
    scene.open(2, "demo/a", 1);
    scene.world.run_for(ms(60_000));
    assert_eq!((asked(&mut scene), scene.state(0)), (4, StreamState::Waiting));
    let forbidden = Refusal { code: CloseCode::Forbidden, reason: "the token is for other streams".into() };
    scene.say(Control::StreamRefused { name: "demo/a".parse().unwrap(), refusal: forbidden });
    scene.world.run_for(ms(50));
    assert!(!scene.sink(|sink| sink.may_be_served(0)));
}

#[test]
fn a_stream_that_is_gone_says_for_how_long() {
    let mut scene = scene(&["demo/clip"]);
    let absent =
        |scene: &mut Scene| scene.world.with(scene.sink, |now, sink: &mut Sink, _| sink.absent_for(now, 0).as_millis());
    scene.open(1, "demo/clip", 1);
    scene.send(1, 10);
    assert_eq!(absent(&mut scene), 0);
    for _ in 0..2 {
        scene.say(Control::Subscribed { name: "demo/clip".parse().unwrap(), live: false });
        scene.world.run_for(ms(1_020));
    }
    assert_eq!(absent(&mut scene), 2_020);
    scene.open(2, "demo/clip", 2);
    scene.world.run_for(ms(50));
    assert_eq!(absent(&mut scene), 0);
}

#[test]
fn only_relays_are_received_from() {
    let mut world = World::new();
    let streams = [("demo/clip".parse().unwrap(), PlayoutConfig::default())];
    let sink = world.add(SinkSystem::new(streams, Recorder::default()), ms(0));
    let other = world.add(StubRelay::default(), ms(0));
    join(&mut world, sink, other, Role::Source);
    world.run_for(ms(100));
    let closed = world.with(other, |_, relay: &mut StubRelay, _| relay.closed.clone());
    assert_eq!(closed.len(), 1);
    assert_eq!(closed[0].code, CloseCode::Protocol);
}

#[test]
fn a_relay_that_says_nonsense_changes_nothing() {
    let mut scene = scene(&["demo/clip"]);
    scene.open(1, "demo/clip", 1);
    for handle in 100..200 {
        scene.open(handle, "demo/clip", 1);
    }
    scene.open(2, "demo/other", 1);
    scene.say(Control::StreamClose { handle: 999, ended: true });
    scene.say(Control::Subscribed { name: "demo/other".parse().unwrap(), live: true });
    scene.say(Control::Publish(node::control::Publish {
        name: "demo/clip".parse().unwrap(),
        incarnation: Incarnation(3),
        deadline_us: 1,
        high_priority: false,
        mode: Default::default(),
        content: Content::Ts,
        sealed: false,
        wants: node::control::Wants::default(),
    }));
    scene.world.run_for(ms(100));
    scene.send(199, 10);
    scene.world.run_for(ms(300));
    assert_eq!(scene.released().len(), 10);
    let handles = scene.sink(|sink| sink.handles.len());
    assert!(handles <= MAX_HANDLES, "{handles} handles of one stream");
}
