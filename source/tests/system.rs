//! A source and a stub relay in virtual time: publication, numbering, reconnection, refusal, end.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use anabranch_source::report::StreamState;
use anabranch_source::system::{NotTaken, SourceSystem, StreamIndex, StreamOptions};
use bytes::Bytes;
use link::{Delivery, Instant, Link, LinkConfig};
use node::control::{CloseCode, Content, Control, Dissemination, Publish, Refusal};
use node::payload::{Marks, OVERHEAD, Opener, Secret, StreamKeys};
use node::testing::{Delay, End, Join, NodeId, World};
use node::trust::Role;
use node::{Closed, EndSystem, Peer, PortId, Ports};
use std::time::Duration;
use topology::StreamName;
use topology::lsdb::Incarnation;

const MS: Duration = Duration::from_millis(1);
const TRANSIT: Duration = Duration::from_millis(10);
const DEADLINE: Duration = Duration::from_millis(200);
const FIRST: StreamIndex = StreamIndex(0);

/// Answers every request to publish, and keeps what comes.
#[derive(Default)]
struct StubRelay {
    answer: Answer,
    published: Vec<Publish>,
    unpublished: Vec<(Instant, StreamName)>,
    delivered: Vec<(Instant, Delivery)>,
}

#[derive(Clone, Copy, Default)]
enum Answer {
    #[default]
    Accept,
    Refuse(CloseCode),
    Silence,
}

impl EndSystem for StubRelay {
    fn handle_opened(&mut self, _: Instant, _: PortId, _: &mut Ports) {}
    fn handle_delivery(&mut self, now: Instant, _: PortId, delivery: Delivery, _: &mut Ports) {
        self.delivered.push((now, delivery));
    }
    fn handle_control(&mut self, now: Instant, port: PortId, message: Control, ports: &mut Ports) {
        match message {
            Control::Publish(publish) => {
                let name = publish.name.clone();
                self.published.push(publish);
                let handle = self.published.len() as u16;
                match self.answer {
                    Answer::Accept => ports.control(port, Control::Published { name, handle }),
                    Answer::Refuse(code) => {
                        let refusal = Refusal { code, reason: "not here".into() };
                        ports.control(port, Control::StreamRefused { name, refusal });
                    }
                    Answer::Silence => {}
                }
            }
            Control::Unpublish { name } => self.unpublished.push((now, name)),
            other => panic!("a source does not say {other:?}"),
        }
    }
    fn handle_closed(&mut self, _: Instant, _: PortId, _: &Peer, _: &Closed, _: &mut Ports) {}
    fn handle_timeout(&mut self, _: Instant, _: &mut Ports) {}
    fn poll_timeout(&self) -> Option<Instant> {
        None
    }
}

struct Scene {
    world: World,
    source: NodeId,
    relay: NodeId,
}

fn options(content: Option<Content>) -> StreamOptions {
    StreamOptions {
        name: "news/main".parse().unwrap(),
        incarnation: Incarnation(1000),
        deadline: DEADLINE,
        high_priority: true,
        mode: Dissemination::Disjoint,
        content,
        wants: node::control::Wants::default(),
        payload_keys: None,
        input: "udp://:5000".into(),
        listen: None,
    }
}

impl Scene {
    fn new(content: Option<Content>, answer: Answer) -> Scene {
        Scene::of(options(content), answer)
    }

    fn of(options: StreamOptions, answer: Answer) -> Scene {
        let mut world = World::new();
        let source = world.add(SourceSystem::new(vec![options]), Duration::from_secs(77));
        let relay = world.add(StubRelay { answer, ..StubRelay::default() }, Duration::from_secs(5));
        Scene { world, source, relay }
    }

    /// Connects; gives the source's end.
    fn connect(&mut self) -> End {
        let join = |node, role, name: &str, dialled| Join {
            node,
            peer: Peer {
                name: name.parse().unwrap(),
                role,
                grants: Vec::new(),
                address: "127.0.0.1:4400".parse().unwrap(),
                dialled,
                features: 0,
                link: None,
            },
            config: LinkConfig { seed: 7, ..LinkConfig::default() },
            path: Box::new(Delay(TRANSIT)),
            control_delay: TRANSIT,
        };
        let source = join(self.source, Role::Source, "studio", false);
        let relay = join(self.relay, Role::Relay, "lon", true);
        self.world.join(source, relay).0
    }

    fn give(&mut self, payload: impl Into<Bytes>) -> Result<(), NotTaken> {
        let payload = payload.into();
        self.world
            .with(self.source, |now, source: &mut SourceSystem, ports| source.ingest(now, FIRST, now, payload, ports))
    }

    /// Gives numbered packets, one each millisecond.
    fn give_numbered(&mut self, numbers: std::ops::Range<u16>) {
        for number in numbers {
            self.give(number.to_be_bytes().to_vec()).unwrap();
            self.world.run_for(MS);
        }
    }

    fn relay<R>(&mut self, look: impl FnOnce(&mut StubRelay) -> R) -> R {
        self.world.with(self.relay, |_, relay: &mut StubRelay, _| look(relay))
    }

    fn report(&mut self) -> anabranch_source::report::StreamReport {
        self.world.with(self.source, |now, source: &mut SourceSystem, _| source.report(now).remove(0))
    }

    fn numbers(&mut self) -> Vec<u16> {
        let number = |delivery: &Delivery| u16::from_be_bytes([delivery.payload[0], delivery.payload[1]]);
        let mut all = self.relay(|relay| relay.delivered.iter().map(|(_, d)| (d.seq.0, number(d))).collect::<Vec<_>>());
        all.sort_unstable();
        assert!(
            all.iter().all(|(seq, number)| *seq == u32::from(*number)),
            "numbers are sequence numbers here: {all:?}"
        );
        all.dedup();
        all.into_iter().map(|(_, number)| number).collect()
    }
}

#[test]
fn a_stream_is_published_as_configured_and_its_packets_are_stamped() {
    let mut scene = Scene::new(Some(Content::Ts), Answer::Accept);
    scene.connect();
    scene.world.run_for(50 * MS);
    assert_eq!(scene.report().state, StreamState::Live);
    let publish = scene.relay(|relay| relay.published.clone()).remove(0);
    assert_eq!((publish.name.as_str(), publish.incarnation), ("news/main", Incarnation(1000)));
    assert_eq!((publish.deadline_us, publish.high_priority), (200_000, true));
    assert_eq!((publish.mode, publish.content), (Dissemination::Disjoint, Content::Ts));

    let taken = scene.world.with(scene.source, |now, source: &mut SourceSystem, ports| {
        // It arrived three milliseconds ago.
        let arrival = now.saturating_sub(3 * MS);
        source.ingest(now, FIRST, arrival, Bytes::from_static(b"media"), ports).unwrap();
        arrival
    });
    scene.world.run_for(30 * MS);
    let (_, delivery) = scene.relay(|relay| relay.delivered.clone()).remove(0);
    assert_eq!((&delivery.payload[..], delivery.seq.0, delivery.stream.0), (&b"media"[..], 0, 1));
    assert_eq!(delivery.media_time.0, taken.as_micros() as u32);
    assert!(delivery.flags.high_priority && !delivery.flags.end);
    let age = delivery.age;
    assert!(age >= 12 * MS && age <= 15 * MS, "3 ms here and 10 ms on the way: {age:?}");
}

#[test]
fn content_is_seen_from_the_first_packet_or_guessed_after_a_second() {
    let transport_stream = [&[0x47][..], &[0; 187]].concat();
    for (payload, seen) in [(transport_stream, Content::Ts), (b"something else".to_vec(), Content::Datagrams)] {
        let mut scene = Scene::new(None, Answer::Accept);
        scene.connect();
        scene.world.run_for(100 * MS);
        assert!(scene.relay(|relay| relay.published.is_empty()), "not before anything is known");
        scene.give(payload.clone()).unwrap();
        scene.world.run_for(100 * MS);
        assert_eq!(scene.relay(|relay| relay.published.iter().map(|p| p.content).collect::<Vec<_>>()), [seen]);
        assert_eq!(scene.relay(|relay| relay.delivered.len()), 1, "the first packet waited for the answer");

        let mut scene = Scene::new(None, Answer::Accept);
        scene.connect();
        scene.world.run_for(Duration::from_secs(2));
        assert_eq!(scene.report().state, StreamState::Live, "published without input");
        scene.give(payload).unwrap();
        scene.world.run_for(100 * MS);
        let lives: Vec<_> = scene.relay(|relay| relay.published.iter().map(|p| (p.incarnation.0, p.content)).collect());
        let corrected = vec![(1000, Content::Ts), (1001, Content::Datagrams)];
        assert_eq!(lives, if seen == Content::Ts { vec![(1000, Content::Ts)] } else { corrected });
        let handles: Vec<u16> = scene.relay(|relay| relay.delivered.iter().map(|(_, d)| d.stream.0).collect());
        assert_eq!(handles, [lives.len() as u16], "under the handle of the life that was announced rightly");
    }
}

#[test]
fn what_a_lost_connection_may_have_swallowed_is_sent_again() {
    let mut scene = Scene::new(Some(Content::Datagrams), Answer::Accept);
    let end = scene.connect();
    scene.world.run_for(50 * MS);
    scene.give_numbered(0..100);
    // The last of these are still on their way, and are lost with the connection.
    scene.world.sever(end);
    scene.give_numbered(100..150);
    assert_eq!(scene.report().state, StreamState::Waiting);
    assert!(scene.numbers().len() < 100);
    scene.connect();
    scene.give_numbered(150..200);
    scene.world.run_for(100 * MS);
    assert_eq!(scene.numbers(), (0..200).collect::<Vec<_>>());
    let lives: Vec<_> = scene.relay(|relay| relay.published.iter().map(|publish| publish.incarnation).collect());
    assert_eq!(lives, [Incarnation(1000), Incarnation(1000)], "the same life goes on");
    let counters = scene.report().counters;
    assert_eq!((counters.sent, counters.late, counters.queue_full), (200, 0, 0));
    assert!(counters.resent >= 10);
}

#[test]
fn what_is_too_late_when_a_relay_returns_is_counted_and_not_sent() {
    let mut scene = Scene::new(Some(Content::Datagrams), Answer::Accept);
    let end = scene.connect();
    scene.world.run_for(50 * MS);
    scene.world.sever(end);
    scene.give_numbered(0..1000);
    scene.connect();
    scene.world.run_for(100 * MS);
    let numbers = scene.numbers();
    // 200 ms of the deadline, less the answer's 20 ms and what the link knows it needs.
    assert!((150..=200).contains(&numbers.len()), "{}", numbers.len());
    assert_eq!(numbers.last(), Some(&999));
    let counters = scene.report().counters;
    assert_eq!((counters.late + counters.sent, counters.early), (1000, 0));
    assert_eq!(counters.sent, numbers.len() as u64);
}

#[test]
fn what_came_before_the_first_relay_is_told_apart_from_what_was_lost() {
    let mut scene = Scene::new(Some(Content::Datagrams), Answer::Accept);
    scene.give_numbered(0..1000);
    scene.connect();
    scene.world.run_for(100 * MS);
    let counters = scene.report().counters;
    assert_eq!((counters.early + counters.sent, counters.late), (1000, 0));
    assert!((150..=200).contains(&counters.sent), "what was young enough is sent: {}", counters.sent);
}

#[test]
fn a_refused_stream_is_asked_for_again_at_growing_intervals() {
    let mut scene = Scene::new(Some(Content::Ts), Answer::Refuse(CloseCode::NameTaken));
    scene.connect();
    scene.world.run_for(100 * MS);
    let report = scene.report();
    assert_eq!((report.state, report.trouble.as_deref()), (StreamState::Refused, Some("not here")));
    let hopeless = scene.world.with(scene.source, |_, source: &mut SourceSystem, _| {
        source.hopeless(true).map(|(name, refusal)| (name.to_string(), refusal.code))
    });
    assert_eq!(hopeless, Some(("news/main".into(), CloseCode::NameTaken)));
    scene.world.run_for(Duration::from_secs(60));
    let asked = scene.relay(|relay| relay.published.len());
    assert!((4..=7).contains(&asked), "asked {asked} times in a minute");
    scene.relay(|relay| relay.answer = Answer::Accept);
    scene.world.run_for(Duration::from_secs(31));
    assert_eq!(scene.report().state, StreamState::Live);
    scene.relay(|relay| relay.answer = Answer::Refuse(CloseCode::NameTaken));
    let hopeless = scene.world.with(scene.source, |_, source: &mut SourceSystem, _| source.hopeless(false).is_some());
    assert!(!hopeless, "accepted once, it is never given up");
}

#[test]
fn a_refusal_that_can_pass_is_waited_for() {
    let mut scene = Scene::new(Some(Content::Ts), Answer::Refuse(CloseCode::Overload));
    scene.connect();
    scene.world.run_for(100 * MS);
    assert_eq!(scene.report().state, StreamState::Refused);
    let hopeless = scene.world.with(scene.source, |_, source: &mut SourceSystem, _| {
        [true, false].map(|patient| source.hopeless(patient).is_some())
    });
    assert_eq!(hopeless, [false, true]);
}

#[test]
fn media_waits_for_an_answer_that_is_slow() {
    let mut scene = Scene::new(Some(Content::Datagrams), Answer::Silence);
    scene.connect();
    scene.give_numbered(0..50);
    assert_eq!(scene.relay(|relay| relay.delivered.len()), 0);
    let name: StreamName = "news/main".parse().unwrap();
    let port = scene.world.with(scene.relay, |_, _: &mut StubRelay, ports| {
        let port = ports.iter().next().map(|(port, ..)| port).unwrap();
        ports.control(port, Control::Published { name, handle: 9 });
        port
    });
    scene.world.run_for(50 * MS);
    assert_eq!(scene.numbers(), (0..50).collect::<Vec<_>>());
    assert!(scene.relay(|relay| relay.delivered.iter().all(|(_, d)| d.stream.0 == 9)), "{port:?}");
}

#[test]
fn the_end_is_marked_and_told_after_everything_has_had_its_time() {
    let mut scene = Scene::new(Some(Content::Datagrams), Answer::Accept);
    scene.connect();
    scene.world.run_for(50 * MS);
    scene.give_numbered(0..20);
    let ended = scene.world.now();
    scene.world.with(scene.source, |now, source: &mut SourceSystem, ports| source.end(now, FIRST, ports));
    assert_eq!(scene.give(&b"more"[..]), Err(NotTaken::Ended));
    scene.world.run_for(DEADLINE - MS);
    assert!(scene.relay(|relay| relay.unpublished.is_empty()));
    scene.world.run_for(50 * MS);
    let (last, unpublished) =
        scene.relay(|relay| (relay.delivered.last().unwrap().1.clone(), relay.unpublished.clone()));
    assert!(last.flags.end && last.payload.is_empty() && last.seq.0 == 20);
    let told = unpublished[0].0 - Instant::from_micros((ended + Duration::from_secs(5)).as_micros());
    assert!(told >= DEADLINE && told <= DEADLINE + 2 * TRANSIT, "{told:?}");
    assert!(scene.world.with(scene.source, |_, source: &mut SourceSystem, _| source.is_done()));
    assert_eq!(scene.report().counters.sent, 20, "the mark is no packet");
}

/// What a relay gets of a sealed stream: it is said to be sealed, of no content, opens with the key alone, the end of it too, and is the same
/// bytes when it is sent again.
#[test]
fn a_sealed_stream_is_sealed_before_anybody_sees_it() {
    let keys = StreamKeys::single(1, Secret::new([1; 32]));
    let options = StreamOptions { payload_keys: Some(keys.clone()), ..options(Some(Content::Ts)) };
    let mut scene = Scene::of(options, Answer::Accept);
    scene.connect();
    scene.world.run_for(50 * MS);
    let most = Link::MAX_PAYLOAD - OVERHEAD;
    assert_eq!(scene.give(vec![0; most + 1]), Err(NotTaken::TooLarge { size: most + 1, most }));
    let payloads = [vec![0x47; 1316], vec![7; most]];
    for payload in &payloads {
        assert_eq!(scene.give(payload.clone()), Ok(()));
    }
    scene.world.with(scene.source, |now, source: &mut SourceSystem, ports| source.end(now, StreamIndex(0), ports));
    // Another connection within the deadline: what the first may have swallowed comes again.
    scene.connect();
    scene.world.run_for(100 * MS);
    let publish = scene.relay(|relay| relay.published[0].clone());
    assert_eq!((publish.sealed, publish.content), (true, Content::Datagrams));
    let report = scene.report();
    assert_eq!((report.content, report.payload_epoch, report.counters.sent), (Content::Ts, Some(1), 2));
    assert_eq!(report.counters.sent_bytes, 1316 + most as u64, "bytes as they came in");
    let delivered: Vec<Delivery> = scene.relay(|relay| relay.delivered.iter().map(|(_, d)| d.clone()).collect());
    let mut opened = Vec::new();
    for delivery in &delivered {
        let same = delivered.iter().filter(|other| other.seq == delivery.seq);
        assert!(same.clone().all(|other| other.payload == delivery.payload));
        let marks = Marks { seq: delivery.seq, media_time: delivery.media_time, flags: delivery.flags };
        let mut opener = Opener::new(keys.clone(), "news/main".parse().unwrap());
        let (content, payload) = opener.open(publish.incarnation, &marks, delivery.payload.clone()).unwrap();
        assert_eq!(content, Content::Ts);
        opened.push((delivery.seq.0, payload));
    }
    opened.sort();
    opened.dedup();
    let expected = payloads.map(Bytes::from).into_iter().chain([Bytes::new()]);
    assert_eq!(opened, (0..).zip(expected).collect::<Vec<_>>());
}

#[test]
fn what_no_link_carries_is_refused_and_counted() {
    let mut scene = Scene::new(Some(Content::Datagrams), Answer::Accept);
    scene.connect();
    scene.world.run_for(50 * MS);
    let most = Link::MAX_PAYLOAD;
    assert_eq!(scene.give(vec![0; most + 1]), Err(NotTaken::TooLarge { size: most + 1, most }));
    assert_eq!(scene.give(vec![]), Err(NotTaken::Empty));
    let sizes = [1, 188, 1316, 1400, most];
    for size in sizes {
        assert_eq!(scene.give(vec![size as u8; size]), Ok(()));
        scene.world.run_for(MS);
    }
    scene.world.run_for(100 * MS);
    let arrived: Vec<_> = scene.relay(|relay| relay.delivered.iter().map(|(_, d)| d.payload.clone()).collect());
    assert_eq!(arrived, sizes.map(|size| Bytes::from(vec![size as u8; size])));
    let input = scene.report().input_counters;
    assert_eq!((input.packets, input.oversized, input.empty), (5, 1, 1));
}

#[test]
fn damage_of_the_input_is_counted_and_passed_on() {
    let mut scene = Scene::new(Some(Content::Ts), Answer::Accept);
    scene.connect();
    scene.world.run_for(50 * MS);
    let packet = |counter: u8| [&[0x47, 0x01, 0x00, 0x10 | counter][..], &[0; 184]].concat();
    let payloads = [packet(0), packet(1), packet(3), b"garbage".to_vec(), packet(4)];
    for payload in &payloads {
        scene.give(payload.clone()).unwrap();
        scene.world.run_for(MS);
    }
    scene.world.run_for(100 * MS);
    let arrived: Vec<_> = scene.relay(|relay| relay.delivered.iter().map(|(_, d)| d.payload.to_vec()).collect());
    assert_eq!(arrived, payloads);
    let input = scene.report().input_counters;
    assert_eq!((input.ts_discontinuities, input.ts_garbage_bytes), (1, 7));
}
