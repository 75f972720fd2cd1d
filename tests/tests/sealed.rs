//! Payloads sealed from source to sink, through real relays: in virtual time, where one may be hostile, and as programs.

use anabranch_tests::clean;
use anabranch_tests::flow::{Check, Feed, Media, Publishing, Watching, assert_intact_of, free_port, wait_until_live};
use anabranch_tests::programs::{Files, Program};
use bench::rig::{PATIENCE, Rig, RigPlan};
use bytes::Bytes;
use link::{Bitrate, Delivery, Flags, Instant, LinkConfig, MediaTime, StreamSeq};
use node::control::{Content, Control, Dissemination};
use node::exit::Exit;
use node::payload::StreamKeys;
use node::testing::{Join, NodeId, World};
use node::trust::{Direction, Grant, Role, stream_keys};
use node::{Closed, EndSystem, Peer, PortId, Ports};
use relay::config::Limits;
use relay::system::{Options, RelaySystem};
use sink::playout::{PlayoutConfig, Release};
use sink::report::StreamState;
use sink::system::{Outlets, SinkSystem};
use source::system::{SourceSystem, StreamIndex, StreamOptions};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use topology::StreamName;
use topology::lsdb::Incarnation;

const UNIX: u64 = 1_800_000_000;
const MARKER: &[u8; 16] = b"find me, relay! ";
const PACKET: usize = 1316;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn stream() -> StreamName {
    "news/main".parse().unwrap()
}

/// A key file's content: these epochs, each with a secret of its own, and the one in use.
fn keys(epochs: &[u8], in_use: u8) -> StreamKeys {
    // A digit of base64url stands for six bits: each epoch has another secret.
    let line = |epoch: &u8| format!("epoch {epoch} abk1.{}A\n", char::from(b'A' + epoch).to_string().repeat(42));
    StreamKeys::parse(&format!("use {in_use}\n{}", epochs.iter().map(line).collect::<String>())).unwrap()
}

/// What a hostile relay does with a packet: all that it passes on.
type Mischief = Box<dyn FnMut(Delivery) -> Vec<Delivery>>;

/// A relay that is honest but for what it does to the packets it takes in, and to what it hears of streams.
struct Hostile {
    relay: RelaySystem,
    mischief: Mischief,
    /// Tells those below that the stream is not sealed.
    denies: bool,
}

impl EndSystem for Hostile {
    fn handle_opened(&mut self, now: Instant, port: PortId, ports: &mut Ports) {
        self.relay.handle_opened(now, port, ports);
    }
    fn handle_delivery(&mut self, now: Instant, port: PortId, delivery: Delivery, ports: &mut Ports) {
        for delivery in (self.mischief)(delivery) {
            self.relay.handle_delivery(now, port, delivery, ports);
        }
    }
    fn handle_control(&mut self, now: Instant, port: PortId, mut message: Control, ports: &mut Ports) {
        if let (true, Control::Publish(publish)) = (self.denies, &mut message) {
            publish.sealed = false;
        }
        self.relay.handle_control(now, port, message, ports);
    }
    fn handle_closed(&mut self, now: Instant, port: PortId, peer: &Peer, closed: &Closed, ports: &mut Ports) {
        self.relay.handle_closed(now, port, peer, closed, ports);
    }
    fn handle_timeout(&mut self, now: Instant, ports: &mut Ports) {
        self.relay.handle_timeout(now, ports);
    }
    fn poll_timeout(&self) -> Option<Instant> {
        self.relay.poll_timeout()
    }
}

#[derive(Default)]
struct Recorder(Vec<Release>);

impl Outlets for Recorder {
    fn release(&mut self, _: usize, release: Release) {
        self.0.push(release);
    }
    fn changed(&mut self, _: usize) {}
}

/// A source, two relays and a sink in a row, with loss between the relays.
struct Scene {
    world: World,
    source: NodeId,
    sink: NodeId,
    /// The relay at which the sink is.
    b: NodeId,
    sent: u32,
    /// Datagrams that any relay sent or received, and those of them that held the marker.
    seen: Rc<RefCell<(u64, u64)>>,
}

/// How a scene is set up.
struct Setup {
    source_keys: Option<StreamKeys>,
    sink_keys: Option<StreamKeys>,
    allow_clear: bool,
    mischief: Mischief,
    denies: bool,
    loss_one_in: u64,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            source_keys: Some(keys(&[1], 1)),
            sink_keys: Some(keys(&[1], 1)),
            allow_clear: false,
            mischief: Box::new(|delivery| vec![delivery]),
            denies: false,
            loss_one_in: 25,
        }
    }
}

fn peer(name: &str, role: Role, dialled: bool) -> Peer {
    let right = |direction| Grant {
        id: "test".into(),
        streams: "**".parse().unwrap(),
        direction,
        max_rate: None,
        expires: UNIX + 3600,
    };
    let grants = match role {
        Role::Relay => Vec::new(),
        Role::Source => vec![right(Direction::Publish)],
        Role::Sink => vec![right(Direction::Subscribe)],
    };
    Peer {
        name: name.parse().unwrap(),
        role,
        grants,
        address: ([127, 0, 0, 1], 9).into(),
        dialled,
        features: node::control::RECEIPTS,
        link: None,
    }
}

impl Scene {
    fn new(setup: Setup) -> Scene {
        let mut world = World::new();
        let relay = |world: &World, name: &str| {
            RelaySystem::new(Options {
                name: name.parse().unwrap(),
                boot: 1_000_000,
                limits: Limits::default(),
                source_grace: Duration::from_secs(10),
                links: BTreeMap::new(),
                seal: None,
                unix: (world.now(), UNIX),
            })
        };
        let source = world.add(
            SourceSystem::new(vec![StreamOptions {
                name: stream(),
                incarnation: Incarnation(77),
                deadline: ms(200),
                high_priority: false,
                mode: Dissemination::Auto,
                content: Some(Content::Datagrams),
                wants: node::control::Wants::default(),
                payload_keys: setup.source_keys,
                input: "test".into(),
                listen: None,
            }]),
            ms(5_000),
        );
        let first = relay(&world, "a");
        let a = world.add(Hostile { relay: first, mischief: setup.mischief, denies: setup.denies }, ms(0));
        let second = relay(&world, "b");
        let b = world.add(second, ms(0));
        let mut system = SinkSystem::new([(stream(), PlayoutConfig::default())], Recorder::default());
        if let Some(keys) = setup.sink_keys {
            system.seal(0, keys, setup.allow_clear);
        }
        let sink = world.add(system, ms(9_000));
        let mut scene = Scene { world, source, sink, b, sent: 0, seen: Rc::default() };
        scene.join((a, "a", Role::Relay), (b, "b", Role::Relay), 10, setup.loss_one_in);
        scene.world.run_for(ms(300));
        scene.join((sink, "viewer", Role::Sink), (b, "b", Role::Relay), 5, 0);
        scene.join((source, "studio", Role::Source), (a, "a", Role::Relay), 5, 0);
        scene.world.run_for(ms(700));
        scene
    }

    fn join(&mut self, one: (NodeId, &str, Role), other: (NodeId, &str, Role), delay: u64, loss_one_in: u64) {
        let end = |node, (_, name, role): (NodeId, &str, Role), dialled, seed| {
            let (seen, mut count) = (self.seen.clone(), 0u64);
            let path = move |now: Instant, datagram: &[u8]| {
                count += 1;
                let found = datagram.windows(MARKER.len()).any(|window| window == MARKER);
                let (all, marked) = &mut *seen.borrow_mut();
                (*all, *marked) = (*all + 1, *marked + u64::from(found));
                (loss_one_in == 0 || !count.is_multiple_of(loss_one_in)).then_some(now + ms(delay))
            };
            let config = LinkConfig { seed, ..LinkConfig::default() };
            Join { node, peer: peer(name, role, dialled), config, path: Box::new(path), control_delay: ms(delay) }
        };
        let (a, b) = (end(one.0, one, false, 1), end(other.0, other, true, 2));
        self.world.join(a, b);
    }

    /// The payload of that number: its number, the marker, and the number again and again.
    fn payload(number: u32) -> Bytes {
        let mut payload = number.to_be_bytes().to_vec();
        while payload.len() < PACKET {
            payload.extend_from_slice(MARKER);
        }
        payload.truncate(PACKET);
        payload.into()
    }

    /// Sends so many packets, one every `gap`.
    fn send(&mut self, count: u32, gap: Duration) {
        for _ in 0..count {
            let payload = Scene::payload(self.sent);
            self.sent += 1;
            self.world.with(self.source, |now, source: &mut SourceSystem, ports| {
                source.ingest(now, StreamIndex(0), now, payload, ports).unwrap();
            });
            self.world.run_for(gap);
        }
    }

    fn sink<R>(&mut self, act: impl FnOnce(&mut SinkSystem<Recorder>) -> R) -> R {
        self.world.with(self.sink, |_, sink: &mut SinkSystem<Recorder>, _| act(sink))
    }

    /// Packets that were lost between the relays and came back.
    fn repaired(&mut self) -> u64 {
        let report = self.world.with(self.b, |now, relay: &mut RelaySystem, ports| relay.report(now, ports));
        report.links.iter().map(|link| link.stats.recovered_by_arq + link.stats.recovered_by_fec).sum()
    }

    fn set_source_keys(&mut self, keys: StreamKeys) {
        self.world.with(self.source, |_, source: &mut SourceSystem, _| source.set_payload_keys(StreamIndex(0), keys));
    }

    fn set_sink_keys(&mut self, keys: StreamKeys) {
        self.sink(|sink| sink.set_payload_keys(0, keys));
    }

    /// Waits until all is through; the numbers released, each compared with what was sent, and the sink's report.
    fn finish(&mut self) -> (Vec<u32>, sink::report::StreamReport) {
        self.world.run_for(ms(500));
        let report = self.world.with(self.sink, |now, sink: &mut SinkSystem<Recorder>, _| sink.reports(now).remove(0));
        let numbers = self.sink(|sink| {
            let number = |release: &Release| {
                let number = u32::from_be_bytes(release.payload[..4].try_into().unwrap());
                assert_eq!(release.payload, Scene::payload(number), "not what was sent");
                number
            };
            sink.outlets().0.iter().map(number).collect()
        });
        (numbers, report)
    }
}

/// What a relay's memory or disk could hold of a payload it would have got from, or given to, one of its links.
#[test]
fn no_datagram_of_any_relay_holds_what_a_sealed_payload_holds() {
    let mut scene = Scene::new(Setup::default());
    scene.send(2_000, ms(1));
    let (released, report) = scene.finish();
    assert_eq!(released, (0..2_000).collect::<Vec<_>>());
    assert!(report.sealed == Some(true) && scene.repaired() > 20, "losses between the relays were to be repaired");
    assert_eq!((report.packets.tampered, report.packets.missing, report.trouble), (0, 0, None));
    let (all, marked) = *scene.seen.borrow();
    assert!(all > 6_000 && marked == 0, "{marked} of {all} datagrams held it");
    // The same in the clear, to know that the marker would have been found.
    let mut scene = Scene::new(Setup { source_keys: None, sink_keys: None, ..Setup::default() });
    scene.send(200, ms(1));
    assert_eq!(scene.finish().0.len(), 200);
    assert!(scene.seen.borrow().1 > 600);
}

#[test]
fn what_a_relay_changes_is_never_delivered_whichever_byte_it_is() {
    let sealed = PACKET + node::payload::OVERHEAD;
    let mut at = 0;
    // Every second packet, each time another byte, until all have had their turn.
    let mischief = move |mut delivery: Delivery| {
        if delivery.payload.len() == sealed && delivery.seq.0 % 2 == 1 {
            let mut changed = delivery.payload.to_vec();
            changed[at % sealed] ^= 1 << (at % 8);
            at += 1;
            delivery.payload = changed.into();
        }
        vec![delivery]
    };
    let mut scene = Scene::new(Setup { mischief: Box::new(mischief), ..Setup::default() });
    let count = 2 * sealed as u32 + 2;
    scene.send(count, ms(1));
    let (released, report) = scene.finish();
    assert_eq!(released, (0..count).filter(|number| number % 2 == 0).collect::<Vec<_>>());
    let packets = report.packets;
    assert_eq!(packets.tampered + packets.no_key, u64::from(count / 2), "{packets:?}");
    assert!(packets.tampered >= sealed as u64 - 8, "{packets:?}");
    // What was born while the first packet was under way is not missed by a sink that had just joined.
    let missing = u64::from(count / 2) - packets.missing;
    assert!(missing < 25, "{packets:?}");
    assert_eq!(packets.received, packets.on_time + packets.tampered + packets.no_key, "{packets:?}");
}

#[test]
fn what_a_relay_plays_again_or_relabels_is_never_delivered() {
    let mut kept: Vec<Delivery> = Vec::new();
    let mischief = move |delivery: Delivery| {
        kept.push(delivery.clone());
        let old = kept[kept.len() / 2].clone();
        let relabelled = [
            // An old packet under a number to come, a packet with another time, an end that the source never said.
            Delivery { seq: StreamSeq(delivery.seq.0 + 5_000), age: delivery.age, ..old.clone() },
            Delivery { seq: StreamSeq(delivery.seq.0 + 10_000), media_time: MediaTime(1), ..delivery.clone() },
            Delivery {
                seq: StreamSeq(delivery.seq.0 + 15_000),
                flags: Flags { end: true, ..delivery.flags },
                ..delivery.clone()
            },
            Delivery {
                seq: StreamSeq(delivery.seq.0 + 20_000),
                payload: Bytes::new(),
                flags: Flags { end: true, ..delivery.flags },
                ..delivery.clone()
            },
            old,
        ];
        [delivery].into_iter().chain(relabelled).collect()
    };
    let mut scene = Scene::new(Setup { mischief: Box::new(mischief), loss_one_in: 0, ..Setup::default() });
    scene.send(1_000, ms(2));
    let (released, report) = scene.finish();
    assert_eq!(released, (0..1_000).collect::<Vec<_>>());
    assert!(report.packets.tampered >= 3_900 && report.state != StreamState::Ended, "{report:?}");
}

/// 20 Mbit/s: sinks get the new key first, sources switch, the old one goes.
#[test]
fn a_rotation_in_the_middle_of_a_stream_loses_nothing() {
    let mut scene = Scene::new(Setup::default());
    let gap = Duration::from_micros(526);
    scene.send(2_000, gap);
    scene.set_sink_keys(keys(&[1, 2], 1));
    scene.set_source_keys(keys(&[1, 2], 1));
    scene.send(2_000, gap);
    scene.set_source_keys(keys(&[1, 2], 2));
    scene.send(2_000, gap);
    scene.set_sink_keys(keys(&[2], 2));
    scene.send(2_000, gap);
    let (released, report) = scene.finish();
    assert_eq!(released, (0..8_000).collect::<Vec<_>>());
    let packets = report.packets;
    assert_eq!((packets.tampered, packets.no_key, packets.missing, packets.late), (0, 0, 0, 0), "{packets:?}");
}

/// The wrong order: the source switches before the sink has the key. What comes until then is missing, and it is said of what.
#[test]
fn a_key_that_comes_late_is_named_and_the_stream_goes_on_with_it() {
    let mut scene = Scene::new(Setup::default());
    scene.send(500, ms(1));
    scene.set_source_keys(keys(&[1, 2], 2));
    scene.send(500, ms(1));
    scene.world.run_for(ms(300));
    let trouble = scene.sink(|sink| sink.trouble(0)).unwrap();
    assert!(trouble.contains("epoch 2") && trouble.contains("[1]"), "{trouble}");
    scene.set_sink_keys(keys(&[1, 2], 2));
    scene.send(500, ms(1));
    let (released, report) = scene.finish();
    assert_eq!(released, (0..500).chain(1_000..1_500).collect::<Vec<_>>());
    let packets = report.packets;
    assert_eq!((packets.no_key, packets.missing, report.trouble), (500, 500, None), "{packets:?}");
}

#[test]
fn a_sink_without_the_key_puts_out_nothing_and_says_why() {
    let mut scene = Scene::new(Setup { sink_keys: None, ..Setup::default() });
    scene.send(200, ms(1));
    let (released, report) = scene.finish();
    assert_eq!((released.len(), report.state, report.packets.no_key), (0, StreamState::Refused, 200));
    let reason = scene.sink(|sink| sink.refusal(0).unwrap().reason.clone());
    assert!(reason.contains("--payload-key"), "{reason}");
}

#[test]
fn a_sink_with_a_key_does_not_take_the_stream_in_the_clear_unless_told() {
    let mut scene = Scene::new(Setup { source_keys: None, ..Setup::default() });
    scene.send(200, ms(1));
    let (released, report) = scene.finish();
    assert_eq!((released.len(), report.state, report.packets.clear), (0, StreamState::Refused, 200));
    let reason = scene.sink(|sink| sink.refusal(0).unwrap().reason.clone());
    assert!(reason.contains("--allow-clear"), "{reason}");
    let mut scene = Scene::new(Setup { source_keys: None, allow_clear: true, ..Setup::default() });
    scene.send(200, ms(1));
    assert_eq!(scene.finish().0.len(), 200);
}

/// The mark in announcements is relays' word. One that forgets it, being older, or that lies, changes nothing for who has the key.
#[test]
fn a_relay_that_denies_that_a_stream_is_sealed_changes_nothing() {
    let mut scene = Scene::new(Setup { denies: true, ..Setup::default() });
    scene.send(200, ms(1));
    let (released, report) = scene.finish();
    assert_eq!((released.len(), report.sealed), (200, Some(false)));
}

/// The programs, 20 Mbit/s: a rotation by the steps of the operations page, while the stream runs.
#[test]
fn programs_follow_a_rotation_of_their_key_files() {
    let channel = clean(10);
    let rig = Rig::start(&RigPlan::new(3, &["a", "b"], &[("a", "b", channel.clone())])).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let [master, at_source, at_sink] =
        ["master", "source", "sink"].map(|name| folder.path().join(format!("{name}.key")));
    let copy = |to: &std::path::Path| {
        // As an operator does: beside it, then in its place.
        let beside = to.with_extension("copy");
        std::fs::copy(&master, &beside).unwrap();
        std::fs::rename(&beside, to).unwrap();
    };
    stream_keys::create(&master, stream_keys::random_secret).unwrap();
    copy(&at_source);
    copy(&at_sink);
    let media = Media { rate: Bitrate::mbps(20), ..Media::video(9) };
    let (check, input) = (Check::start(&media), free_port());
    let watching = Watching {
        name: "viewer",
        stream: "test/sealed",
        at: "b",
        channel: channel.clone(),
        outputs: vec![format!("udp://{}", check.address)],
    };
    let sink = sink::Config { payload_key: Some(at_sink.clone()), ..watching.config(&rig) };
    let sink = rig.sink("viewer", sink).unwrap();
    let publishing = Publishing {
        name: "studio",
        stream: "test/sealed",
        at: "a",
        channel,
        input: format!("udp://{input}"),
        deadline: ms(300),
        mode: Dissemination::Tree,
    };
    let source = source::Config { payload_key: Some(at_source.clone()), ..publishing.config(&rig) };
    let source = rig.source("studio", source).unwrap();
    wait_until_live(&source);
    std::thread::sleep(ms(700));
    let feed = Feed::start(input, &media);
    check.wait_for(1_000, PATIENCE);
    stream_keys::rotate(&master, stream_keys::random_secret).unwrap();
    copy(&at_sink);
    std::thread::sleep(ms(1_500));
    stream_keys::switch(&master).unwrap();
    copy(&at_source);
    let epoch = |report: &source::Report| report.streams[0].payload_epoch == Some(2);
    source.wait_for("the new epoch in use", PATIENCE, epoch).unwrap();
    check.wait_for(2_000, PATIENCE);
    stream_keys::retire(&master).unwrap();
    copy(&at_sink);
    std::thread::sleep(ms(1_500));
    let sent = feed.stop();
    let seen = check.wait_until_quiet();
    let packets = sink.report().streams[0].packets;
    assert_eq!((packets.tampered, packets.no_key, packets.clear, packets.replayed), (0, 0, 0, 0), "{packets:?}");
    let relay = rig.relay("b").unwrap().report();
    assert!(relay.streams.iter().any(|stream| stream.name.as_str() == "test/sealed" && stream.sealed));
    assert_intact_of(&rig, (&source.report(), &sink.report()), (sent, seen));
}

#[test]
fn programs_say_what_is_wrong_with_keys() {
    let channel = clean(1);
    let rig = Rig::start(&RigPlan::new(4, &["a"], &[])).unwrap();
    let files = Files::new(rig.trial());
    let key = files.text("news.key");
    let made = Program::Relay.run(&["keys", "stream-key", "create", &key]);
    assert_eq!((made.code, made.stdout.contains("epochs 1; 1 in use")), (Some(0), true), "{made:?}");
    let shown = Program::Relay.run(&["keys", "inspect", &key]);
    let secret = std::fs::read_to_string(&key).unwrap().split("abk1.").nth(1).unwrap().trim().to_owned();
    assert!(shown.stdout.contains("epoch 1, in use, fingerprint"), "{shown:?}");
    let input = free_port();
    let publishing = Publishing {
        name: "studio",
        stream: "test/sealed",
        at: "a",
        channel,
        input: format!("udp://{input}"),
        deadline: ms(200),
        mode: Dissemination::Tree,
    };
    let source = source::Config { payload_key: Some(key.clone().into()), ..publishing.config(&rig) };
    let source = rig.source("studio", source).unwrap();
    wait_until_live(&source);
    let _feed = Feed::start(input, &Media { rate: Bitrate::mbps(1), ..Media::video(1) });
    let token = files.token(rig.trial(), "watch.token", "test/*", Direction::Subscribe);
    let (relay, keys) = (rig.relay_address("a").unwrap().to_string(), files.path().display().to_string());
    let out = files.text("out.ts");
    let output = format!("file:{out}");
    let watch = ["--relay", &relay, "--keys", &keys, "--token-file", &token, "--stream", "test/sealed", &output];
    let run = |more: &[&str]| Program::Sink.run(&[&watch[..], more].concat());
    let keyless = run(&[]);
    assert_eq!(keyless.code, Some(Exit::Refused as i32), "{}", keyless.stderr);
    assert!(keyless.stderr.contains("this sink has no payload key"), "{}", keyless.stderr);
    let other = files.text("other.key");
    Program::Relay.run(&["keys", "stream-key", "create", &other]);
    let wrong = run(&["--payload-key", &other, "--wait", "2s"]);
    assert_eq!(wrong.code, Some(Exit::Refused as i32), "{}", wrong.stderr);
    assert!(wrong.stderr.contains("sealed with another key"), "{}", wrong.stderr);
    assert_eq!(std::fs::metadata(&out).map_or(0, |file| file.len()), 0, "sealed bytes were put out");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(&key, open).unwrap();
    for (program, arguments) in [
        (Program::Sink, [&watch[..], &["--payload-key", &key]].concat()),
        (
            Program::Source,
            vec![
                "--relay",
                &relay,
                "--keys",
                &keys,
                "--token-file",
                &token,
                "--payload-key",
                &key,
                "a/b=udp://127.0.0.1:0",
            ],
        ),
    ] {
        let ended = program.run(&arguments);
        assert_eq!(ended.code, Some(Exit::Config as i32), "{}", ended.stderr);
        assert!(ended.stderr.contains("news.key") && ended.stderr.contains("chmod 600"), "{}", ended.stderr);
        assert!(!ended.stderr.contains(&secret), "it shows the key");
    }
    assert!(!shown.stdout.contains(&secret) && !made.stdout.contains(&secret));
}
