//! Playout in virtual time: properties over random arrivals, and the cases that have a name.

use super::*;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeSet;

const DEADLINE: Duration = Duration::from_millis(200);
const LIFE: Incarnation = Incarnation(1);

/// A packet on its way: when it arrives, of which life, and as what.
#[derive(Clone, Debug)]
struct Incoming {
    at: Instant,
    life: Incarnation,
    arrival: Arrival,
}

/// What came out, and when it was handed over.
#[derive(Clone, Debug)]
struct Outcome {
    handed: Instant,
    event: Event,
}

impl Outcome {
    fn release(&self) -> Option<&Release> {
        match &self.event {
            Event::Release(release) => Some(release),
            Event::Ended => None,
        }
    }
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn at_ms(millis: u64) -> Instant {
    Instant::from_micros(millis * 1_000)
}

/// The number of a packet, written into its payload.
fn number(payload: &Bytes) -> u64 {
    u64::from_be_bytes(payload[..8].try_into().unwrap())
}

/// Packet `index` of a stream of one packet per millisecond that begins at `start_ms`, on its way for `transit`.
fn packet(index: u64, start_ms: u64, transit: Duration) -> Incoming {
    let born = at_ms(start_ms + index);
    Incoming {
        at: born + transit,
        life: LIFE,
        arrival: Arrival {
            seq: StreamSeq(index as u32),
            media_time: MediaTime((index * 1_000) as u32),
            age: transit,
            flags: Flags::default(),
            payload: Bytes::copy_from_slice(&index.to_be_bytes()),
            recovery: Recovery::None,
        },
    }
}

/// Feeds `packets` in order of arrival and polls exactly when asked to.
fn play(playout: &mut Playout, mut packets: Vec<Incoming>) -> Vec<Outcome> {
    packets.sort_by_key(|packet| packet.at);
    let mut outcomes = Vec::new();
    for packet in packets {
        drain_until(playout, packet.at, &mut outcomes);
        playout.insert(packet.at, packet.life, packet.arrival);
        drain(playout, packet.at, &mut outcomes);
    }
    drain_until(playout, Instant::from_micros(u64::MAX / 4), &mut outcomes);
    outcomes
}

fn drain(playout: &mut Playout, now: Instant, outcomes: &mut Vec<Outcome>) {
    while let Some(event) = playout.poll(now) {
        outcomes.push(Outcome { handed: now, event });
    }
}

fn drain_until(playout: &mut Playout, end: Instant, outcomes: &mut Vec<Outcome>) {
    let mut idle = 0;
    while let Some(at) = playout.poll_timeout().filter(|at| *at < end) {
        let before = outcomes.len();
        drain(playout, at, outcomes);
        idle = if outcomes.len() == before { idle + 1 } else { 0 };
        assert!(idle < 100, "the playout asks to be woken at {at:?} and does nothing");
    }
}

fn opened(config: PlayoutConfig) -> Playout {
    let mut playout = Playout::new(config);
    playout.open(Instant::ORIGIN, LIFE, DEADLINE, Content::Datagrams);
    playout
}

fn numbers(outcomes: &[Outcome]) -> Vec<u64> {
    outcomes.iter().filter_map(Outcome::release).map(|release| number(&release.payload)).collect()
}

/// A way that loses, delays, repeats and misjudges.
#[derive(Clone, Debug)]
struct Way {
    seed: u64,
    packets: u64,
    loss: f64,
    duplicate: f64,
    jitter_us: u64,
    noise_us: i64,
    drift_ppm: i64,
    first_seq: u32,
    first_media: u32,
}

fn ways() -> impl Strategy<Value = Way> {
    (
        any::<u64>(),
        1..1_500u64,
        0.0..0.4,
        0.0..0.4,
        0..260_000u64,
        0..2_000i64,
        -200..=200i64,
        any::<u32>(),
        any::<u32>(),
    )
        .prop_map(|(seed, packets, loss, duplicate, jitter_us, noise_us, drift_ppm, first_seq, first_media)| Way {
            seed,
            packets,
            loss,
            duplicate,
            jitter_us,
            noise_us,
            drift_ppm,
            first_seq,
            first_media,
        })
}

/// The packets that a way delivers, and for each number its earliest arrival and its birth.
fn deliver(way: &Way) -> (Vec<Incoming>, Vec<(Option<Instant>, Instant)>) {
    let mut random = StdRng::seed_from_u64(way.seed);
    let (mut incoming, mut truth) = (Vec::new(), Vec::new());
    for index in 0..way.packets {
        let born = Instant::from_micros(10_000_000 + index * 1_000);
        let media = (index * 1_000) as i64 * (1_000_000 + way.drift_ppm) / 1_000_000;
        let mut earliest = None;
        if !random.random_bool(way.loss) {
            let copies = if random.random_bool(way.duplicate) { 2 } else { 1 };
            for _ in 0..copies {
                let transit = 10_000 + random.random_range(0..=way.jitter_us);
                let seen = (transit as i64 + random.random_range(-way.noise_us..=way.noise_us)) as u64;
                let at = born + Duration::from_micros(transit);
                earliest = Some(earliest.map_or(at, |other: Instant| other.min(at)));
                let mut packet = packet(index, 0, Duration::ZERO);
                packet.at = at;
                packet.arrival.age = Duration::from_micros(seen);
                packet.arrival.seq = StreamSeq(way.first_seq).plus(index as u32);
                packet.arrival.media_time = MediaTime(way.first_media).plus(media as u32);
                incoming.push(packet);
            }
        }
        truth.push((earliest, born));
    }
    (incoming, truth)
}

proptest! {
    /// Whatever the order, the repetition and the loss: each packet comes out at most once, in order, at its time, and
    /// every packet is accounted for.
    #[test]
    fn every_packet_once_in_order_at_its_time(way in ways()) {
        let config = PlayoutConfig::default();
        let (incoming, truth) = deliver(&way);
        let received = incoming.len() as u64;
        let mut playout = opened(config);
        let outcomes = play(&mut playout, incoming);
        // The map is as good as its noise; drift over the window of its filter and the tolerance of lateness come on top.
        let tolerance = Duration::from_micros(2 * way.noise_us as u64 + 1_000);

        let released = numbers(&outcomes);
        prop_assert!(released.is_sorted_by(|a, b| a < b), "in order, each once");
        for outcome in &outcomes {
            let Some(release) = outcome.release() else { continue };
            let due = truth[number(&release.payload) as usize].1 + DEADLINE;
            prop_assert!(outcome.handed + config.lead >= release.at, "handed over too far ahead");
            prop_assert!(release.at + tolerance >= due, "early: {:?} for {due:?}", release.at);
            prop_assert!(release.at <= due + tolerance, "late: {:?} for {due:?}", release.at);
            prop_assert!(outcome.handed <= due + tolerance + LATE_TOLERANCE, "handed over late");
        }
        let out: BTreeSet<u64> = released.iter().copied().collect();
        for (index, (earliest, born)) in truth.iter().enumerate() {
            let due = *born + DEADLINE;
            let in_time = earliest.is_some_and(|at| at + tolerance < due);
            let after_start = released.first().is_some_and(|first| index as u64 > *first);
            prop_assert!(!in_time || !after_start || out.contains(&(index as u64)), "packet {index} came in time and is gone");
        }
        let c = playout.counters();
        prop_assert_eq!(c.received, received);
        prop_assert_eq!(c.received, c.on_time + c.late + c.duplicates + c.before_start);
        prop_assert_eq!(c.on_time, released.len() as u64);
        prop_assert_eq!((c.overflow, c.strays, c.resets), (0, 0, 0));
        let gaps: u64 = outcomes.iter().filter_map(Outcome::release).map(|release| release.lost_before).sum();
        let after_first = released.last().map_or(0, |last| last - released[0] + 1);
        prop_assert!(gaps >= after_first - released.len() as u64, "what is passed over is told");
        prop_assert!(c.missing <= truth.iter().filter(|(earliest, _)| earliest.is_none()).count() as u64);
        prop_assert!(playout.is_empty());
    }
}

#[test]
fn gaps_are_as_the_source_had_them() {
    let mut playout = opened(PlayoutConfig::default());
    let mut random = StdRng::seed_from_u64(1);
    let jittered = |random: &mut StdRng| Duration::from_micros(random.random_range(20_000..120_000));
    let packets = (0..5_000).map(|index| packet(index, 1_000, jittered(&mut random))).collect();
    let outcomes = play(&mut playout, packets);
    assert_eq!(numbers(&outcomes), (0..5_000).collect::<Vec<_>>());
    let releases: Vec<&Release> = outcomes.iter().filter_map(Outcome::release).collect();
    for pair in releases.windows(2) {
        assert_eq!(pair[1].at.saturating_since(pair[0].at), ms(1));
    }
    assert!(releases[0].restart && !releases[1].restart);
    assert_eq!(playout.counters().on_time_share(), 1.0);
    assert!((playout.release_delays().p50_ms - 200.0).abs() < 1.0);
    assert!(playout.arrival_delays().max_ms <= 120.5);
}

#[test]
fn a_drift_of_200_ppm_for_hours_never_starves_nor_floods() {
    for drift in [-200i64, 200] {
        let mut playout = opened(PlayoutConfig::default());
        let mut outcomes = Vec::new();
        let mut worst = 0u64;
        // Three hours at 50 packets/s; media time wraps twice.
        for index in 0..3 * 3_600 * 50u64 {
            let born = Instant::from_micros(1_000_000 + index * 20_000);
            let now = born + ms(40);
            let media = (index * 20_000) as i64 * (1_000_000 + drift) / 1_000_000;
            let mut incoming = packet(index, 0, ms(40));
            incoming.arrival.media_time = MediaTime(media as u32);
            drain_until(&mut playout, now, &mut outcomes);
            playout.insert(now, LIFE, incoming.arrival);
            drain(&mut playout, now, &mut outcomes);
            for outcome in outcomes.drain(..) {
                let release = outcome.release().unwrap();
                let due = 1_000_000 + number(&release.payload) * 20_000 + 200_000;
                worst = worst.max(release.at.as_micros().abs_diff(due));
            }
        }
        assert!(worst < 1_500, "{drift} ppm: releases off by {worst} us");
        assert_eq!(playout.counters().on_time_share(), 1.0);
        assert_eq!(playout.counters().resets, 0);
    }
}

#[test]
fn missing_late_and_duplicate_are_told_apart() {
    let mut playout = opened(PlayoutConfig::default());
    let mut packets: Vec<Incoming> = (0..500).map(|index| packet(index, 1_000, ms(20))).collect();
    packets.retain(|packet| ![200, 201, 202].contains(&packet.arrival.seq.0));
    let mut late = packet(201, 1_000, ms(230));
    late.arrival.recovery = Recovery::Arq;
    packets.push(late.clone());
    late.at += ms(1);
    packets.push(late);
    packets.push(packet(100, 1_000, ms(30)));
    packets.push(packet(101, 1_000, ms(290)));
    play(&mut playout, packets);
    let c = playout.counters();
    assert_eq!((c.on_time, c.missing, c.late, c.duplicates), (497, 2, 1, 3));
    assert_eq!(c.recovered_arq, 2);
    assert!((c.on_time_share() - 0.994).abs() < 1e-9);
}

#[test]
fn a_packet_that_fills_a_gap_just_in_time_comes_out() {
    let mut playout = opened(PlayoutConfig::default());
    let mut packets: Vec<Incoming> = (0..500).map(|index| packet(index, 1_000, ms(20))).collect();
    packets.retain(|packet| packet.arrival.seq.0 != 300);
    packets.push(packet(300, 1_000, ms(199)));
    let outcomes = play(&mut playout, packets);
    assert_eq!(numbers(&outcomes), (0..500).collect::<Vec<_>>());
}

#[test]
fn what_was_under_way_when_the_sink_joined_is_not_missed() {
    let mut playout = opened(PlayoutConfig::default());
    let mut packets: Vec<Incoming> = (100..500).map(|index| packet(index, 1_000, ms(30))).collect();
    // Repaired on a hop before ours: it left long before we joined, and came at once after.
    packets.push(packet(40, 1_000, ms(91)));
    packets.push(packet(20, 1_000, ms(230)));
    let outcomes = play(&mut playout, packets);
    assert_eq!(numbers(&outcomes).len(), 401);
    let c = playout.counters();
    assert_eq!((c.missing, c.late, c.before_start), (0, 0, 1));
}

#[test]
fn a_stream_that_is_always_too_late_is_not_called_on_time() {
    let mut playout = opened(PlayoutConfig::default());
    let outcomes = play(&mut playout, (0..2_000).map(|index| packet(index, 1_000, ms(250))).collect());
    assert!(outcomes.is_empty());
    let c = playout.counters();
    assert!(c.late > 1_500 && c.on_time_share() < 0.01, "{c:?}");
}

#[test]
fn extra_latency_is_kept() {
    let mut playout = opened(PlayoutConfig { min_latency: ms(500), ..PlayoutConfig::default() });
    let outcomes = play(&mut playout, (0..100).map(|index| packet(index, 1_000, ms(450))).collect());
    assert_eq!(numbers(&outcomes).len(), 100);
    assert_eq!(outcomes[0].release().unwrap().at, at_ms(1_500));
}

#[test]
fn the_end_marker_ends_and_is_not_output() {
    let mut playout = opened(PlayoutConfig::default());
    let mut packets: Vec<Incoming> = (0..10).map(|index| packet(index, 1_000, ms(20))).collect();
    let mut end = packet(10, 1_000, ms(20));
    end.arrival.payload = Bytes::new();
    end.arrival.flags.end = true;
    packets.push(end);
    let outcomes = play(&mut playout, packets);
    assert_eq!(numbers(&outcomes), (0..10).collect::<Vec<_>>());
    assert_eq!(outcomes.last().unwrap().event, Event::Ended);
    assert_eq!(playout.counters().received, 10);
}

#[test]
fn the_end_comes_after_a_last_packet_that_carries_it() {
    let mut playout = opened(PlayoutConfig::default());
    let mut packets: Vec<Incoming> = (0..3).map(|index| packet(index, 1_000, ms(20))).collect();
    packets[2].arrival.flags.end = true;
    let outcomes = play(&mut playout, packets);
    assert_eq!(numbers(&outcomes), [0, 1, 2]);
    assert_eq!(outcomes.len(), 4);
    assert_eq!(outcomes[3].event, Event::Ended);
}

#[test]
fn a_lost_end_marker_is_made_up_for_by_the_relays_word() {
    let mut playout = opened(PlayoutConfig::default());
    let mut outcomes = Vec::new();
    for incoming in (0..10).map(|index| packet(index, 1_000, ms(20))) {
        playout.insert(incoming.at, LIFE, incoming.arrival);
    }
    playout.close(at_ms(1_040), LIFE);
    drain_until(&mut playout, at_ms(10_000), &mut outcomes);
    assert_eq!(numbers(&outcomes), (0..10).collect::<Vec<_>>());
    assert_eq!(outcomes.iter().filter(|outcome| outcome.event == Event::Ended).count(), 1);
    assert_eq!(outcomes.last().unwrap().handed, at_ms(1_240));
}

#[test]
fn a_restarted_source_follows_once_the_old_life_has_drained() {
    let mut playout = opened(PlayoutConfig::default());
    let new = Incarnation(2);
    let mut packets: Vec<Incoming> = (0..100).map(|index| packet(index, 1_000, ms(20))).collect();
    // The new life has its own numbers and its own media clock, and begins before the old one has played out.
    for index in 0..100u64 {
        let mut incoming = packet(index, 1_150, ms(20));
        incoming.life = new;
        incoming.arrival.seq = StreamSeq(7_000 + index as u32);
        incoming.arrival.media_time = MediaTime(3_000_000_000 + index as u32 * 1_000);
        incoming.arrival.payload = Bytes::copy_from_slice(&(1_000 + index).to_be_bytes());
        packets.push(incoming);
    }
    playout.open(at_ms(1_100), new, DEADLINE, Content::Datagrams);
    let outcomes = play(&mut playout, packets);
    assert_eq!(numbers(&outcomes), (0..100).chain(1_000..1_100).collect::<Vec<_>>());
    let restart =
        outcomes.iter().filter_map(Outcome::release).find(|release| number(&release.payload) == 1_000).unwrap();
    assert!(restart.restart);
    assert_eq!((restart.at, restart.lost_before), (at_ms(1_350), 0));
    assert!(outcomes.iter().all(|outcome| outcome.event != Event::Ended), "a restart is no end");
    assert_eq!(playout.counters().lives, 2);
    assert_eq!(playout.counters().missing, 0);
}

/// A source that has guessed wrong what it will carry begins another life before its first packet.
#[test]
fn a_life_of_which_nothing_came_is_none() {
    let mut playout = Playout::new(PlayoutConfig::default());
    playout.open(at_ms(900), Incarnation(6), DEADLINE, Content::Ts);
    playout.open(at_ms(950), LIFE, DEADLINE, Content::Datagrams);
    play(&mut playout, (0..10).map(|index| packet(index, 1_000, ms(20))).collect());
    assert_eq!((playout.counters().lives, playout.counters().on_time), (1, 10));
}

#[test]
fn a_break_of_the_media_clock_resets_the_map() {
    let mut playout = opened(PlayoutConfig::default());
    let packets = (0..1_000u64).map(|index| {
        let mut incoming = packet(index, 1_000, ms(30));
        if index >= 500 {
            incoming.arrival.media_time = incoming.arrival.media_time.plus(1_800_000_000);
        }
        incoming
    });
    let outcomes = play(&mut playout, packets.collect());
    assert_eq!(numbers(&outcomes), (0..1_000).collect::<Vec<_>>());
    let off = outcomes
        .iter()
        .filter_map(Outcome::release)
        .map(|release| release.at.as_micros().abs_diff((1_200 + number(&release.payload)) * 1_000));
    assert!(off.max().unwrap() <= 2);
    assert_eq!(playout.counters().resets, 1);
}

#[test]
fn a_leap_of_the_sequence_is_followed_and_a_stray_is_not() {
    let mut playout = opened(PlayoutConfig::default());
    let packets = (0..1_000u64).map(|index| {
        let mut incoming = packet(index, 1_000, ms(30));
        incoming.arrival.seq = match index {
            250 => StreamSeq(0x7000_0000),
            i if i >= 500 => StreamSeq(0x9000_0000).plus(i as u32),
            i => StreamSeq(i as u32),
        };
        incoming
    });
    let outcomes = play(&mut playout, packets.collect());
    let expected: Vec<u64> = (0..1_000).filter(|index| *index != 250).collect();
    assert_eq!(numbers(&outcomes), expected);
    let c = playout.counters();
    assert_eq!((c.strays, c.resets, c.missing), (1, 1, 1));
    assert_eq!(c.received, c.on_time + c.strays);
}

#[test]
fn what_is_held_is_bounded() {
    let mut playout = opened(PlayoutConfig { max_bytes: 80, ..PlayoutConfig::default() });
    let outcomes = play(&mut playout, (0..50).map(|index| packet(index, 1_000, ms(20))).collect());
    assert_eq!(numbers(&outcomes), (0..10).collect::<Vec<_>>());
    assert_eq!(playout.counters().overflow, 40);

    // Late ones behind one that is still to come are places taken as well.
    let mut playout = opened(PlayoutConfig { max_packets: 10, ..PlayoutConfig::default() });
    play(&mut playout, vec![packet(0, 1_000, ms(20))]);
    let at = at_ms(5_000);
    playout.insert(at, LIFE, packet(1, 4_980, ms(20)).arrival);
    for index in 2..1_001 {
        let mut late = packet(index, 4_980, ms(20)).arrival;
        late.age = DEADLINE + ms(500);
        playout.insert(at, LIFE, late);
    }
    assert_eq!(playout.counters().overflow, 990);
}

#[test]
fn packets_of_a_life_never_opened_are_dropped() {
    let mut playout = opened(PlayoutConfig::default());
    playout.insert(at_ms(1_000), Incarnation(99), packet(0, 980, ms(20)).arrival);
    assert_eq!(playout.counters().late, 1);
    assert_eq!(playout.poll_timeout(), None);
}
