//! Two ends joined by a modelled path, in virtual time.

use super::*;
use crate::frame::Body;
use crate::ids::LinkSeq;
use crate::policy::RepairMode;
use rand::RngExt;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};

mod busy;
mod targets;
mod work;

/// What one direction of the path does.
#[derive(Clone, Debug)]
struct Weather {
    delay: Duration,
    jitter: Duration,
    loss: f64,
    after_loss: f64,
    duplicate: f64,
    mtu: usize,
}

impl Default for Weather {
    fn default() -> Self {
        Weather {
            delay: Duration::from_millis(15),
            jitter: Duration::ZERO,
            loss: 0.0,
            after_loss: 0.66,
            duplicate: 0.0,
            mtu: 1414,
        }
    }
}

struct Way {
    weather: Weather,
    random: StdRng,
    lost: bool,
}

impl Way {
    fn arrivals(&mut self, now: Instant, size: usize) -> Vec<Instant> {
        assert!(size <= self.weather.mtu, "{size} bytes on a path of {}", self.weather.mtu);
        let Weather { loss, after_loss, .. } = self.weather;
        let chance = if self.lost { after_loss.max(loss) } else { loss * (1.0 - after_loss.max(loss)) / (1.0 - loss) };
        self.lost = self.random.random_bool(chance);
        let mut arrivals = Vec::new();
        if !self.lost {
            arrivals.push(self.arrival(now));
            if self.random.random_bool(self.weather.duplicate) {
                arrivals.push(self.arrival(now));
            }
        }
        arrivals
    }

    fn arrival(&mut self, now: Instant) -> Instant {
        let jitter = self.random.random_range(0..=self.weather.jitter.as_micros() as u64);
        now + self.weather.delay + Duration::from_micros(jitter)
    }
}

/// Arrival, tie-break, receiving end, datagram.
type Flight = (Instant, u64, usize, Vec<u8>);

struct World {
    now: Instant,
    links: [Link; 2],
    ways: [Way; 2],
    air: BinaryHeap<Reverse<Flight>>,
    serial: u64,
    /// How many times each (receiving end, stream, seq) was delivered.
    delivered: BTreeMap<(usize, u16, u32), u32>,
    /// The greatest age of a packet that came as it was first sent.
    worst_first: Duration,
    /// Until when packets of the first end may be recovered, by stream and number, and the packets of its symbols.
    until: HashMap<(u16, u32), Instant>,
    symbols: HashMap<u32, (u16, u32)>,
    due: Duration,
    target: Option<Residual>,
    /// The longest round trip of the recent past, where it was longer than now's.
    before: Duration,
    /// Until then the first word after a long sleep, itself late, may be all that is known of the clocks.
    settled: Instant,
}

/// Clock of the second end, ahead of the first one's by an hour and a bit, near the wrap of its stamps.
const AHEAD: u64 = 3_600_000_000 + 0xffff_0000;

fn payload(seq: u32, size: usize) -> Bytes {
    Bytes::from_iter((0..size).map(|at| (seq as usize * 7 + at * 13 + at / 256) as u8))
}

impl World {
    fn new(seed: u64, config: LinkConfig, weather: [Weather; 2]) -> World {
        let now = Instant::from_micros(10_000_000);
        // Both number spaces wrap within the first packets.
        let first = [u32::MAX - seed as u32 % 200, u32::MAX - 20];
        let numbered = |end: u64| {
            let now = now + Duration::from_micros(end * AHEAD);
            Link::with_first_numbers(now, LinkConfig { seed: seed ^ end, ..config }, first)
        };
        let links = [numbered(0), numbered(1)];
        let mut direction = 0;
        let ways = weather.map(|weather| {
            direction += 1;
            Way { weather, random: StdRng::seed_from_u64(seed * 2 + direction), lost: false }
        });
        World {
            now,
            links,
            ways,
            air: BinaryHeap::new(),
            serial: 0,
            delivered: BTreeMap::new(),
            worst_first: Duration::ZERO,
            until: HashMap::new(),
            symbols: HashMap::new(),
            due: Duration::from_millis(200),
            target: None,
            before: Duration::ZERO,
            settled: Instant::ORIGIN,
        }
    }

    fn local(&self, end: usize) -> Instant {
        self.now + Duration::from_micros(end as u64 * AHEAD)
    }

    fn send(&mut self, end: usize, stream: u16, seq: u32, size: usize) -> Result<(), SendError> {
        let now = self.local(end);
        let packet = Packet {
            target: self.target,
            stream: StreamHandle(stream),
            seq: StreamSeq(seq),
            media_time: MediaTime(self.now.as_micros() as u32),
            age: Duration::from_millis(1),
            label: Label(7),
            flags: Flags { high_priority: stream == 0, end: false },
            payload: payload(seq, size),
            recover_until: now + self.due,
        };
        if end == 0 {
            self.until.insert((stream, seq), self.now + self.due);
        }
        let sent = self.links[end].send(now, packet);
        self.drain();
        sent
    }

    fn run_until(&mut self, until: Instant) {
        loop {
            let timers = [0, 1].map(|end| {
                self.links[end]
                    .poll_timeout()
                    .map(|(due, _)| due.saturating_sub(Duration::from_micros(end as u64 * AHEAD)))
            });
            let arrival = self.air.peek().map(|Reverse((at, ..))| *at);
            let next = timers.into_iter().chain([arrival]).flatten().min().filter(|next| *next <= until);
            let Some(next) = next else { break };
            self.now = self.now.max(next);
            if arrival == Some(next) {
                let Some(Reverse((_, _, end, datagram))) = self.air.pop() else { unreachable!() };
                let now = self.local(end);
                self.links[end].handle_datagram(now, Bytes::from(datagram));
            } else {
                for end in [0, 1] {
                    let now = self.local(end);
                    self.links[end].handle_timeout(now);
                }
            }
            self.drain();
        }
        self.now = until;
    }

    fn drain(&mut self) {
        for end in [0, 1] {
            let now = self.local(end);
            while let Some(delivery) = self.links[end].poll_delivery() {
                assert_eq!(delivery.payload, payload(delivery.seq.0, delivery.payload.len()), "spliced or damaged");
                assert_eq!(delivery.label, Label(7));
                let transit =
                    Duration::from_micros((self.now.as_micros() as u32).wrapping_sub(delivery.media_time.0).into());
                if delivery.recovery == Recovery::None {
                    self.worst_first = self.worst_first.max(delivery.age);
                }
                let off = delivery.age.abs_diff(transit + Duration::from_millis(1));
                // No clock tells how a round trip divides into its two ways.
                let bound: Duration = self.ways.iter().map(|way| way.weather.delay + way.weather.jitter).sum();
                let bound = bound.max(self.before);
                assert!(off <= bound || self.now < self.settled, "age {:?} for {:?}", delivery.age, transit);
                *self.delivered.entry((end, delivery.stream.0, delivery.seq.0)).or_default() += 1;
            }
            let mut out = BytesMut::new();
            while let Some(length) = self.links[end].poll_transmit(now, &mut out) {
                let datagram = out.split();
                assert_eq!(datagram.len(), length);
                if end == 0 {
                    self.watch(&datagram);
                }
                for at in self.ways[end].arrivals(self.now, length) {
                    self.serial += 1;
                    self.air.push(Reverse((at, self.serial, 1 - end, datagram.to_vec())));
                }
            }
        }
    }

    /// Checks a datagram of the first end: no repair is of what it can bring too late only.
    fn watch(&mut self, datagram: &[u8]) {
        match frame::decode(datagram) {
            Ok(Frame::Media(media)) => {
                let body = Body::decode(media.body).expect("its own");
                self.symbols.insert(media.symbol, (body.stream.0, body.seq.0));
            }
            Ok(Frame::Repair(repair)) => {
                for offset in repair.symbols.offsets() {
                    let until = self.until[&self.symbols[&repair.symbols.base().wrapping_add(offset)]];
                    assert!(self.now <= until, "repaired at {:?}, of use until {until:?}", self.now);
                }
            }
            _ => {}
        }
    }

    /// Sends `count` packets, one every `gap`, and runs on until nothing is in the air.
    fn stream(&mut self, count: u32, gap: Duration, size: impl Fn(u32) -> usize) {
        for seq in 0..count {
            self.send(0, 1, seq, size(seq)).expect("an idle link takes packets");
            self.run_until(self.now + gap);
        }
        self.run_until(self.now + Duration::from_secs(1));
    }

    fn missed(&self, count: u32) -> usize {
        self.missing(count).len()
    }

    fn missing(&self, count: u32) -> Vec<u32> {
        (0..count).filter(|seq| !self.delivered.contains_key(&(1, 1, *seq))).collect()
    }
}

fn config(mode: RepairMode) -> LinkConfig {
    LinkConfig { max_frame: 1414, policy: Policy { mode, ..Policy::default() }, ..LinkConfig::default() }
}

const PACE: Duration = Duration::from_micros(1053);

fn lossy() -> Weather {
    Weather { loss: 0.05, ..Weather::default() }
}

#[test]
fn everything_arrives_once_over_a_lossy_path() {
    for seed in 0..4 {
        let mut world = World::new(seed, config(RepairMode::Auto), [lossy(), lossy()]);
        world.stream(10_000, PACE, |_| 1316);
        assert_eq!(world.missed(10_000), 0, "seed {seed}");
        assert!(world.delivered.values().all(|times| *times == 1));
        let stats = world.links[0].stats();
        let overhead = (stats.arq_bytes_sent + stats.fec_bytes_sent) as f64 / stats.media_bytes_sent as f64;
        assert!(overhead < 0.08, "seed {seed}: overhead {overhead}, {stats:?}");
        let received = world.links[1].stats();
        assert_eq!(received.unrecovered, 0);
        assert!(received.recovered_by_arq > 200, "{received:?}");
        assert_eq!(received.malformed, 0);
        let back = received.feedback_bytes_sent as f64 / stats.media_bytes_sent as f64;
        assert!(back < 0.015, "feedback {back}");
    }
}

/// More runs of losses are under repair at a time than a report has room for.
#[test]
fn a_quick_lossy_link_hears_of_each_loss_in_time() {
    for mbps in [200, 600] {
        let weather = Weather { delay: Duration::from_millis(40), ..lossy() };
        let mut world = World::new(mbps, config(RepairMode::Auto), [weather.clone(), weather]);
        let count = 100 * mbps as u32;
        world.stream(count, Duration::from_micros(8 * 1316 / mbps), |_| 1316);
        assert_eq!(world.missed(count), 0, "{mbps} Mbit/s");
        let stats = world.links[0].stats();
        let overhead = (stats.arq_bytes_sent + stats.fec_bytes_sent) as f64 / stats.media_bytes_sent as f64;
        assert!(overhead < 0.12, "{mbps} Mbit/s: overhead {overhead}, {stats:?}");
    }
}

#[test]
fn without_repair_what_is_lost_is_counted() {
    let mut world = World::new(3, config(RepairMode::Off), [lossy(), lossy()]);
    world.stream(5_000, PACE, |_| 1316);
    let missed = world.missed(5_000);
    assert!((100..500).contains(&missed), "{missed}");
    assert_eq!(world.links[1].stats().unrecovered, missed as u64);
    assert_eq!(world.links[0].stats().arq_packets_sent + world.links[0].stats().fec_packets_sent, 0);
}

#[test]
fn every_mode_repairs() {
    for mode in [RepairMode::Arq, RepairMode::Fec, RepairMode::Hybrid, RepairMode::Duplicate] {
        let mut world = World::new(11, config(mode), [lossy(), lossy()]);
        world.stream(4_000, PACE, |_| 1316);
        // A second copy is lost as often as any packet; the rest must do better.
        let most = if mode == RepairMode::Duplicate { 30 } else { 4 };
        assert!(world.missed(4_000) <= most, "{mode:?}: {:?}", world.missing(4_000));
    }
}

#[test]
fn large_packets_go_in_halves_and_never_splice() {
    let small = || Weather { mtu: 1162, jitter: Duration::from_millis(2), duplicate: 0.05, ..lossy() };
    let config = LinkConfig { max_frame: 1162, ..config(RepairMode::Auto) };
    let mut world = World::new(5, config, [small(), small()]);
    world.stream(4_000, PACE, |seq| [1316, 1, 1400, 2048, 0, 700][seq as usize % 6]);
    assert_eq!(world.missing(4_000), []);
    assert!(world.delivered.values().all(|times| *times == 1));
}

#[test]
fn a_code_covers_what_cannot_be_asked_for() {
    let mut world = World::new(6, config(RepairMode::Auto), [lossy(), lossy()]);
    world.due = Duration::from_millis(60);
    for way in &mut world.ways {
        way.weather.delay = Duration::from_millis(25);
    }
    world.stream(10_000, PACE, |_| 1316);
    assert!(world.missed(10_000) <= 3, "{}", world.missed(10_000));
    let stats = world.links[0].stats();
    assert!(stats.fec_packets_sent > 1_000, "{stats:?}");
}

#[test]
fn measures_the_path_while_idle_and_tells_silence() {
    let mut world = World::new(1, config(RepairMode::Auto), [Weather::default(), Weather::default()]);
    world.run_until(world.now + Duration::from_secs(2));
    let quality = world.links[0].quality(world.local(0));
    assert_eq!(quality.rtt_min, Duration::from_millis(30));
    assert_eq!(quality.transit, Duration::from_millis(15));
    assert!(quality.silent_for < Duration::from_millis(50));
    assert!(world.links[0].stats().probe_packets_sent < 100);
    for way in &mut world.ways {
        (way.weather.after_loss, way.lost) = (1.0, true);
    }
    let since = world.now;
    world.run_until(world.now + Duration::from_secs(1));
    assert!(world.links[0].quality(world.local(0)).silent_for > world.now - since - Duration::from_millis(100));
}

#[test]
fn a_question_without_an_answer_wakes_nobody_for_ever() {
    let mut world = World::new(1, config(RepairMode::Auto), [Weather::default(), Weather::default()]);
    world.run_until(world.now + Duration::from_secs(1));
    for way in &mut world.ways {
        (way.weather.after_loss, way.lost) = (1.0, true);
    }
    let now = world.local(0);
    world.links[0].prove_path(now);
    world.drain();
    world.run_until(world.now + Duration::from_millis(999));
    world.now += Duration::from_millis(1);
    let now = world.local(0);
    world.links[0].handle_timeout(now);
    world.drain();
    assert_eq!(world.links[0].path_verdict(world.local(0)), Some(Verdict::Silent));
    assert!(world.links[0].poll_timeout().is_some_and(|(due, _)| due > world.local(0)));
}

#[test]
fn between_bursts_a_lossy_link_is_probed_only_where_turns_are_few() {
    for (delay, least, most) in [(1, 0.0, 0.5), (35, 2.5, 3.5)] {
        let weather = Weather { delay: Duration::from_millis(delay), ..lossy() };
        let mut world = World::new(delay, config(RepairMode::Auto), [weather.clone(), weather]);
        let bursts = 2_000;
        for burst in 0..bursts {
            (burst * 10..burst * 10 + 10)
                .for_each(|seq| world.send(0, 1, seq, 1316).expect("an idle link takes packets"));
            world.run_until(world.now + Duration::from_millis(5));
        }
        world.run_until(world.now + Duration::from_secs(1));
        assert_eq!(world.missed(bursts * 10), 0, "{delay} ms");
        let probes = world.links[0].stats().probe_packets_sent as f64 / f64::from(bursts);
        assert!((least..most).contains(&probes), "{delay} ms: {probes} probes a burst");
    }
}

#[test]
fn what_probes_lose_by_chance_bounds_no_link() {
    for seed in 0..4 {
        let weather = Weather { loss: 0.1, ..Weather::default() };
        let mut world = World::new(seed, config(RepairMode::Auto), [weather.clone(), weather]);
        world.before = Duration::from_millis(90);
        for round in 0..60 {
            // The path is longer for a while, as if a queue stood on it.
            for way in &mut world.ways {
                way.weather.delay = Duration::from_millis(if round % 2 == 0 { 15 } else { 45 });
            }
            for _ in 0..10 {
                world.run_until(world.now + Duration::from_millis(500));
                let capacity = [0, 1].map(|end| world.links[end].quality(world.local(end)).capacity);
                assert_eq!(capacity, [None, None], "seed {seed}, round {round}");
            }
        }
    }
}

#[test]
fn refuses_what_it_cannot_carry() {
    let mut world = World::new(1, config(RepairMode::Auto), [Weather::default(), Weather::default()]);
    assert!(matches!(world.send(0, 1, 0, 2049), Err(SendError::TooLarge { size: 2049, most: 2048 })));
    world.run_until(world.now + Duration::from_secs(1));
    world.due = Duration::from_millis(14);
    assert_eq!(world.send(0, 1, 0, 100), Err(SendError::TooLate));
    assert_eq!(world.links[0].stats().dropped_late, 1);
}

#[test]
fn keeps_to_its_capacity_and_drops_in_order() {
    let policy = Policy { capacity: Some(crate::Bitrate::mbps(4)), ..Policy::default() };
    let config = LinkConfig { policy, ..config(RepairMode::Auto) };
    let mut world = World::new(2, config, [lossy(), lossy()]);
    for seq in 0..4_000 {
        let stream = if seq % 4 == 0 { 0 } else { 1 };
        let _ = world.send(0, stream, seq, 1316);
        world.run_until(world.now + PACE);
    }
    world.run_until(world.now + Duration::from_secs(1));
    let stats = world.links[0].stats();
    let sent = stats.media_bytes_sent + stats.arq_bytes_sent + stats.fec_bytes_sent + stats.feedback_bytes_sent;
    assert!(sent <= 4_000_000 / 8 * 45 / 10, "{sent}");
    assert!(sent >= 4_000_000 / 8 * 4, "{sent}");
    let high = world.delivered.keys().filter(|(end, stream, _)| (*end, *stream) == (1, 0)).count();
    assert_eq!(high, 1000, "high priority suffers first");
    assert!(stats.dropped() > 1000, "{stats:?}");
}

#[test]
fn a_hostile_peer_gains_nothing() {
    let mut random = StdRng::seed_from_u64(9);
    let mut link = Link::new(Instant::ORIGIN, config(RepairMode::Auto));
    let mut out = BytesMut::new();
    for tick in 0..20_000u64 {
        let now = Instant::from_micros(tick * 200);
        let mut bytes = BytesMut::new();
        let seq = if random.random_bool(0.5) { tick as u32 } else { random.random() };
        let wild = |random: &mut StdRng| -> u32 {
            if random.random_bool(0.5) { tick as u32 + random.random_range(0..300) } else { random.random() }
        };
        let horizon = frame::Horizon { next_symbol: wild(&mut random), kept: random.random() };
        match random.random_range(0..4) {
            0 => {
                let runs: Vec<u32> = (0..40).map(|_| wild(&mut random)).collect();
                let gaps: Vec<(u32, u32)> = (0..40).map(|_| (random.random_range(0..3), wild(&mut random))).collect();
                let echo = Echo { stamp: wild(&mut random), arrived: wild(&mut random) };
                let settled = LinkSeq(wild(&mut random));
                let known = (wild(&mut random), random.random());
                frame::Feedback::put(&mut bytes, LinkSeq(seq), 1, horizon, echo, 9, settled, &runs, known, &gaps);
            }
            1 => {
                let base = wild(&mut random);
                frame::Repair::put_window(&mut bytes, LinkSeq(seq), 5, base, random.random(), 512);
                bytes.extend_from_slice(&[3; 300]);
            }
            2 => Probe { link_seq: LinkSeq(seq), sent: random.random(), horizon }.put(&mut bytes),
            _ => {
                frame::Media::put_prefix(&mut bytes, LinkSeq(seq), wild(&mut random), random.random());
                bytes.extend_from_slice(&[random.random_range(0..12); 60]);
            }
        }
        link.handle_datagram(now, bytes.freeze());
        let _ = link.send(
            now,
            Packet {
                target: None,
                stream: StreamHandle(1),
                seq: StreamSeq(tick as u32),
                media_time: MediaTime(0),
                age: Duration::ZERO,
                label: Label(0),
                flags: Flags::default(),
                payload: payload(1, 1000),
                recover_until: now + Duration::from_millis(100),
            },
        );
        link.handle_timeout(now);
        while link.poll_delivery().is_some() {}
        while link.poll_transmit(now, &mut out).is_some() {
            out.clear();
        }
        let _ = link.quality(now);
    }
    let stats = link.stats();
    let repair = stats.arq_bytes_sent + stats.fec_bytes_sent;
    assert!(repair as f64 <= 1.5 * stats.media_bytes_sent as f64 + 300_000.0, "a storm of repair: {stats:?}");
    assert!(stats.feedback_packets_sent < 10_000, "{stats:?}");
}

#[test]
fn a_peer_whose_numbers_fall_is_not_followed() {
    const STEP: u32 = 4096;
    for kind in 0..3 {
        let mut link = Link::new(Instant::ORIGIN, config(RepairMode::Auto));
        for tick in 0..200u32 {
            let (number, at, mut bytes) = (LinkSeq(tick), u32::MAX / 2 - tick * STEP, BytesMut::new());
            match kind {
                0 => {
                    let horizon = frame::Horizon { next_symbol: at, kept: STEP as u16 };
                    Probe { link_seq: number, sent: tick, horizon }.put(&mut bytes);
                }
                1 => {
                    frame::Media::put_prefix(&mut bytes, number, at, tick);
                    bytes.extend_from_slice(&[0; 60]);
                }
                _ => {
                    frame::Repair::put_window(&mut bytes, number, tick, at, 0, 2);
                    bytes.extend_from_slice(&[3; 60]);
                }
            }
            let now = Instant::from_micros(u64::from(tick) * 100);
            link.handle_datagram(now, bytes.freeze());
            link.handle_timeout(now);
        }
        let held = link.receiver.symbols.held();
        assert!(held <= 4 * STEP as usize + 10, "{held} things held of kind {kind}");
    }
}

/// What a run must hold whatever the path and the policy: the reference is a set of what was sent.
mod any_path {
    use super::*;
    use proptest::prelude::*;

    fn weather() -> impl Strategy<Value = Weather> {
        let shares = (0.0..0.3f64, 0.3..0.9f64, 0.0..0.2f64);
        (1u64..60, 0u64..8, shares, 1162usize..1500).prop_map(|(delay, jitter, (loss, after_loss, duplicate), mtu)| {
            Weather {
                delay: Duration::from_millis(delay),
                jitter: Duration::from_millis(jitter),
                loss,
                after_loss,
                duplicate,
                mtu,
            }
        })
    }

    fn policy() -> impl Strategy<Value = Policy> {
        let mode = prop_oneof![
            Just(RepairMode::Auto),
            Just(RepairMode::Off),
            Just(RepairMode::Arq),
            Just(RepairMode::Fec),
            Just(RepairMode::Hybrid),
            Just(RepairMode::Duplicate),
        ];
        (mode, 0.0..2.0f64, proptest::option::of(2u64..40)).prop_map(|(mode, max_overhead, capacity)| Policy {
            mode,
            max_overhead,
            capacity: capacity.map(crate::Bitrate::mbps),
            ..Policy::default()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn holds(
            seed: u64, there in weather(), back in weather(),
            policies in proptest::collection::vec(policy(), 1..4),
            due in 20u64..400, sizes in proptest::collection::vec(0usize..=2048, 1..8),
        ) {
            let count = 600;
            let config = LinkConfig {
                max_frame: there.mtu.min(back.mtu),
                policy: policies[0],
                ..LinkConfig::default()
            };
            let limit = there.delay.max(back.delay) + there.jitter + back.jitter;
            let mut world = World::new(seed % 100_000, config, [there, back]);
            world.due = Duration::from_millis(due);
            let mut accepted = 0u64;
            for seq in 0..count {
                if seq % 200 == 199 {
                    let now = world.local(0);
                    let policy = policies[(seq / 200) as usize % policies.len()];
                    world.links[0].set_policy(now, policy);
                }
                accepted += u64::from(world.send(0, 1, seq, sizes[seq as usize % sizes.len()]).is_ok());
                world.run_until(world.now + PACE);
            }
            world.run_until(world.now + Duration::from_secs(2));
            prop_assert!(world.delivered.values().all(|times| *times == 1), "delivered twice");
            prop_assert!(world.delivered.keys().all(|(end, stream, seq)| *end == 1 && *stream == 1 && *seq < count));
            prop_assert!(world.delivered.len() as u64 <= accepted);
            prop_assert_eq!(world.links[1].stats().malformed, 0);
            // That no repair is sent in vain, the world watches. When the last unknown of an equation is told is up to what comes later:
            // an older one that it tells as well has its age, by which whoever it is for may judge.
            // Packets are a millisecond old when they are sent; a stamp is rounded.
            let latest = Duration::from_millis(due) + limit + Duration::from_millis(2);
            prop_assert!(world.worst_first <= latest, "{:?} old, {latest:?} allowed", world.worst_first);
            let stats = world.links[0].stats();
            let dropped = stats.dropped();
            prop_assert!(dropped + stats.media_packets_sent >= u64::from(count), "{stats:?}");
        }
    }
}

#[test]
fn a_policy_changed_live_loses_nothing() {
    let mut world = World::new(8, config(RepairMode::Auto), [lossy(), lossy()]);
    let modes = [RepairMode::Hybrid, RepairMode::Auto, RepairMode::Fec, RepairMode::Auto, RepairMode::Arq];
    for seq in 0..5_000 {
        if seq % 1_000 == 0 {
            let policy = Policy { mode: modes[seq as usize / 1_000], ..Policy::default() };
            let now = world.local(0);
            world.links[0].set_policy(now, policy);
            assert_eq!(world.links[0].policy(), policy);
        }
        world.send(0, 1, seq, 1316).expect("an idle link takes packets");
        world.run_until(world.now + PACE);
    }
    world.run_until(world.now + Duration::from_secs(1));
    assert_eq!(world.missing(5_000), []);
}

#[test]
fn an_outage_both_ways_shorter_than_the_slack_loses_nothing() {
    for seed in 0..4 {
        let mut world = World::new(seed, config(RepairMode::Auto), [Weather::default(), Weather::default()]);
        for seq in 0..3_000 {
            let dead = (1_000..1_140).contains(&seq) || (2_000..2_140).contains(&seq);
            for way in &mut world.ways {
                (way.weather.loss, way.weather.after_loss, way.lost) = (0.0, if dead { 1.0 } else { 0.0 }, dead);
            }
            world.send(0, 1, seq, 1316).expect("an idle link takes packets");
            world.run_until(world.now + PACE);
        }
        world.run_until(world.now + Duration::from_secs(1));
        assert_eq!(world.missing(3_000), [], "seed {seed}");
    }
}

#[test]
fn both_ends_learn_of_an_outage_of_many_packets() {
    let mut world = World::new(4, config(RepairMode::Off), [Weather::default(), Weather::default()]);
    let gap = Duration::from_micros(200);
    for seq in 0..6_000 {
        if seq == 2_000 || seq == 5_000 {
            let dead = seq == 2_000;
            let way = &mut world.ways[0];
            (way.weather.after_loss, way.lost) = (if dead { 1.0 } else { 0.0 }, dead);
        }
        world.send(0, 1, seq, 100).expect("an idle link takes packets");
        world.run_until(world.now + gap);
        if seq == 5_500 {
            let (sent, received) = (world.links[0].quality(world.local(0)), world.links[1].quality(world.local(1)));
            assert!(sent.loss_sent > 0.4, "{sent:?}");
            assert!(received.loss_received > 0.5, "{received:?}");
            assert!(world.links[1].stats().wire_lost >= 3_000);
        }
    }
}

#[test]
fn a_stall_of_the_path_does_not_end_repair() {
    let mut world = World::new(21, config(RepairMode::Auto), [lossy(), lossy()]);
    let stream = |world: &mut World, from: u32, to: u32| {
        for seq in from..to {
            world.send(0, 1, seq, 1316).expect("an idle link takes packets");
            world.run_until(world.now + PACE);
        }
    };
    stream(&mut world, 0, 1000);
    // Half a second in which everything arrives 180 ms late, as when a machine on the way is not scheduled.
    for way in &mut world.ways {
        way.weather.delay += Duration::from_millis(180);
    }
    stream(&mut world, 1000, 1500);
    for way in &mut world.ways {
        way.weather.delay -= Duration::from_millis(180);
    }
    stream(&mut world, 1500, 6000);
    world.run_until(world.now + Duration::from_secs(1));
    // What was sent after the stall had passed, and the path was as before.
    let missing: Vec<u32> = world.missing(6000).into_iter().filter(|seq| *seq >= 2500).collect();
    assert_eq!(missing, []);
}

/// Random episodes of weather, outages and jumps of the clock on a thin stream, with all numbers and stamps wrapping. What was sent in
/// fair weather arrives, and nothing piles up.
fn weather_for(span: Duration, seed: u64) {
    const GAP: Duration = Duration::from_millis(40);
    let mut random = StdRng::seed_from_u64(seed);
    let mut world = World::new(seed, config(RepairMode::Auto), [Weather::default(), Weather::default()]);
    world.before = Duration::from_millis(140);
    let end = world.now + span;
    let (mut seq, mut held) = (0u32, Vec::new());
    while world.now < end {
        let foul = random.random_range(0..4) > 0;
        let weather = Weather {
            delay: Duration::from_millis(random.random_range(5..60)),
            jitter: Duration::from_millis(if foul { random.random_range(0..10) } else { 0 }),
            loss: if foul { random.random_range(0.0..0.2) } else { 0.0 },
            duplicate: if foul { 0.01 } else { 0.0 },
            ..Weather::default()
        };
        for way in &mut world.ways {
            (way.weather, way.lost) = (weather.clone(), false);
        }
        if random.random_range(0..20) == 0 {
            // As when the machine slept: what was in the air comes late, and both clocks have gone on.
            world.now += Duration::from_secs(random.random_range(1..900));
            world.settled = world.now + Duration::from_secs(1);
        }
        // A stall of more than the slack may cost what was under way: the path counts as settled after some seconds.
        let settled = seq + (Duration::from_secs(12).as_millis() / GAP.as_millis()) as u32;
        for _ in 0..random.random_range(10u32..60) * 25 {
            let _ = world.send(0, 1, seq, 1000);
            seq += 1;
            world.run_until(world.now + GAP);
        }
        world.run_until(world.now + Duration::from_secs(1));
        assert!(world.delivered.values().all(|times| *times == 1), "delivered twice");
        if !foul {
            let lost: Vec<u32> = (settled..seq).filter(|seq| !world.delivered.contains_key(&(1, 1, *seq))).collect();
            assert_eq!(lost, [], "in fair weather, at {:?}", world.now);
        }
        world.delivered.clear();
        held.push(world.links[0].sender.held() + world.links[1].receiver.symbols.held());
    }
    let half = held.len() / 2;
    let most = |held: &[usize]| held.iter().max().copied().unwrap_or(0);
    let (early, late) = (most(&held[..half]), most(&held[half..]));
    assert!(late <= 2 * early + 500, "things held: {early}, later {late}");
}

#[test]
fn some_hours_of_weather() {
    weather_for(Duration::from_secs(2 * 3600), 5);
}

#[test]
#[ignore = "a day of virtual time takes a minute"]
fn a_day_of_weather() {
    weather_for(Duration::from_secs(24 * 3600), 6);
}

#[test]
fn an_idle_link_to_a_leaf_is_probed_seldom_until_one_is_lost() {
    let LinkConfig { probe_interval, idle_probe_interval, .. } = LinkConfig::leaf();
    let leaf = LinkConfig { probe_interval, idle_probe_interval, ..config(RepairMode::Auto) };
    let mut world = World::new(1, leaf, [Weather::default(), Weather::default()]);
    let sent = |world: &World| {
        let stats = [world.links[0].stats(), world.links[1].stats()];
        stats.map(|stats| stats.probe_packets_sent + stats.feedback_packets_sent)
    };
    world.run_until(world.now + Duration::from_secs(4));
    let before = sent(&world);
    world.run_until(world.now + Duration::from_secs(10));
    let after = sent(&world);
    for (before, after) in before.iter().zip(after) {
        assert!((10..=16).contains(&(after - before)), "{} in ten seconds", after - before);
    }
    let quality = world.links[0].quality(world.local(0));
    assert_eq!(quality.heard_every, idle_probe_interval);
    assert!(quality.silent_for < idle_probe_interval + quality.rtt * 2, "{quality:?}");
    assert!(quality.delivered_ago < idle_probe_interval * 2, "{quality:?}");
    for way in &mut world.ways {
        (way.weather.after_loss, way.lost) = (1.0, true);
    }
    let before = sent(&world)[0];
    world.run_until(world.now + 3 * idle_probe_interval);
    assert!(sent(&world)[0] - before >= 6, "{} into the silence", sent(&world)[0] - before);
}
