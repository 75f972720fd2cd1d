//! Statistical properties with their tolerances, and exact determinism.

use super::*;
use link::Bitrate;

const PACKET: usize = 1350;

/// 950 packets a second, as 10 Mbit/s of media makes.
fn slot(i: u64) -> Instant {
    Instant::from_micros(i * 1_000_000 / 950)
}

fn fates(config: &ChannelConfig, seed: u64, n: u64) -> Vec<Fate> {
    let mut channel = Channel::new(config.clone(), seed);
    (0..n).map(|i| channel.offer(slot(i), PACKET)).collect()
}

fn lost(config: &ChannelConfig, seed: u64, n: u64) -> Vec<bool> {
    fates(config, seed, n).iter().map(|fate| matches!(fate, Fate::Dropped(DropReason::Loss))).collect()
}

fn share(of: impl IntoIterator<Item = bool>) -> f64 {
    let (mut yes, mut all) = (0u64, 0u64);
    for it in of {
        yes += u64::from(it);
        all += 1;
    }
    yes as f64 / all as f64
}

fn delays(config: &ChannelConfig, n: u64) -> Vec<f64> {
    fates(config, 5, n)
        .iter()
        .enumerate()
        .filter_map(|(i, fate)| fate.arrivals().next().map(|at| (at - slot(i as u64)).as_secs_f64()))
        .collect()
}

fn mean(of: &[f64]) -> f64 {
    of.iter().sum::<f64>() / of.len() as f64
}

fn near(value: f64, wanted: f64, relative: f64) {
    assert!((value - wanted).abs() <= wanted * relative, "{value} is not within {relative} of {wanted}");
}

#[test]
fn a_perfect_path_delivers_at_once() {
    let config = ChannelConfig::default();
    assert!(fates(&config, 1, 100).iter().enumerate().all(|(i, f)| *f == Fate::Delivered(slot(i as u64))));
}

#[test]
fn bernoulli_loses_its_share_without_memory() {
    let config = ChannelConfig { loss: Loss::Bernoulli { mean: 0.05 }, ..Default::default() };
    let lost = lost(&config, 1, 1_000_000);
    // Standard error 0.00022, relative 0.0044: three of them.
    near(share(lost.iter().copied()), 0.05, 0.015);
    near(share(lost.windows(2).filter(|w| w[0]).map(|w| w[1])), 0.05, 0.06);
}

#[test]
fn gilbert_has_its_mean_and_its_memory() {
    for (mean, burst) in [(0.02, 0.66), (0.05, 0.66), (0.10, 0.5)] {
        let config = ChannelConfig { loss: Loss::Gilbert { mean, burst }, ..Default::default() };
        let lost = lost(&config, 3, 2_000_000);
        near(share(lost.iter().copied()), mean, 0.03);
        near(share(lost.windows(2).filter(|w| w[0]).map(|w| w[1])), burst, 0.01);
    }
}

#[test]
fn bursts_last_as_long_as_they_say_at_any_rate() {
    let (good, bad) = (Duration::from_millis(980), Duration::from_millis(20));
    let config = ChannelConfig { loss: Loss::Bursts { good, bad, inside: 1.0, outside: 0.0 }, ..Default::default() };
    assert!((config.loss.mean() - 0.02).abs() < 1e-12);
    for packets_per_second in [200, 5_000] {
        let mut channel = Channel::new(config.clone(), 11);
        let step = 1_000_000 / packets_per_second;
        let n = 8_000 * packets_per_second;
        let lost: Vec<bool> =
            (0..n).map(|i| matches!(channel.offer(Instant::from_micros(i * step), PACKET), Fate::Dropped(_))).collect();
        // 8,000 bursts: relative error of the mean about 1.6 %.
        near(share(lost.iter().copied()), 0.02, 0.06);
        // A run seen at this rate ends in a slot where a memoryless burst has ended: P(stays bad over one step).
        let stays = (-(step as f64) / 20_000.0 - (step as f64) / 980_000.0).exp();
        let expected = 0.02 + 0.98 * stays;
        near(share(lost.windows(2).filter(|w| w[0]).map(|w| w[1])), expected, 0.02);
    }
}

#[test]
fn losses_inside_and_outside_bursts_are_told_apart() {
    let half = Duration::from_millis(50);
    let loss = Loss::Bursts { good: half, bad: half, inside: 0.5, outside: 0.1 };
    near(loss.mean(), 0.3, 1e-9);
    let config = ChannelConfig { loss, ..Default::default() };
    near(share(lost(&config, 2, 1_000_000)), 0.3, 0.03);
}

#[test]
fn a_trace_is_followed_to_the_packet() {
    let config = ChannelConfig { loss: Loss::Trace { runs: vec![3, 2, 0, 1] }, ..Default::default() };
    let lost: String = lost(&config, 1, 12).into_iter().map(|l| if l { 'x' } else { '.' }).collect();
    assert_eq!(lost, "...xxx...xxx");
    assert_eq!(config.loss.mean(), 0.5);
}

#[test]
fn outages_come_at_their_time_and_again() {
    let outage = |every| Outage { at: Duration::from_secs(1), lasts: Duration::from_millis(150), every };
    let config = ChannelConfig { outages: vec![outage(None)], ..Default::default() };
    let mut channel = Channel::new(config, 1);
    let mut passes = |ms: u64| matches!(channel.offer(Instant::from_micros(ms * 1000), PACKET), Fate::Delivered(_));
    assert_eq!([passes(999), passes(1000), passes(1149), passes(1150), passes(2050)], [true, false, false, true, true]);

    let config = ChannelConfig { outages: vec![outage(Some(Duration::from_secs(1)))], ..Default::default() };
    let mut channel = Channel::new(config, 1);
    let mut passes = |ms: u64| matches!(channel.offer(Instant::from_micros(ms * 1000), PACKET), Fate::Delivered(_));
    assert_eq!([passes(999), passes(1100), passes(1200), passes(2100), passes(2150)], [true, false, true, false, true]);
}

#[test]
fn jitter_has_its_mean_and_its_spread() {
    let delay = Duration::from_millis(20);
    let spread = Duration::from_millis(2);
    let with = |jitter| ChannelConfig { delay, jitter, ..Default::default() };

    let exponential = delays(&with(Jitter::Exponential { mean: spread }), 200_000);
    near(mean(&exponential), 0.022, 0.01);
    near(share(exponential.iter().map(|&d| d > 0.026)), (-3.0f64).exp(), 0.05);

    let uniform = delays(&with(Jitter::Uniform { most: spread }), 200_000);
    near(mean(&uniform), 0.021, 0.01);
    assert!(uniform.iter().all(|d| (0.020..=0.022).contains(d)));

    let normal = delays(&with(Jitter::Normal { sigma: spread }), 200_000);
    near(mean(&normal), 0.020, 0.01);
    near(share(normal.iter().map(|&d| (d - 0.020).abs() > 0.004)), 0.0455, 0.08);
}

#[test]
fn order_is_kept_where_asked_and_only_there() {
    let ordered = |in_order| {
        let config = ChannelConfig {
            delay: Duration::from_millis(20),
            jitter: Jitter::Exponential { mean: Duration::from_millis(2) },
            in_order,
            ..Default::default()
        };
        let at: Vec<Instant> = fates(&config, 1, 10_000).into_iter().flat_map(Fate::arrivals).collect();
        at.is_sorted()
    };
    assert!(ordered(true));
    assert!(!ordered(false));
}

#[test]
fn some_are_held_back_and_some_come_twice() {
    let config = ChannelConfig {
        reordering: Some(Reordering { share: 0.02, by: Duration::from_millis(5) }),
        duplicate: 0.01,
        ..Default::default()
    };
    let fates = fates(&config, 1, 500_000);
    near(share(fates.iter().map(|f| matches!(f, Fate::Duplicated(..)))), 0.01, 0.06);
    let late = |(i, f): (usize, &Fate)| f.arrivals().next() != Some(slot(i as u64));
    near(share(fates.iter().enumerate().map(late)), 0.02, 0.05);
}

#[test]
fn a_bottleneck_serves_at_its_rate_and_drops_at_the_tail() {
    let rate = Rate { bitrate: Bitrate::mbps(8), queue: Queue::Bytes(10_000) };
    let mut channel = Channel::new(ChannelConfig { rate: Some(rate), ..Default::default() }, 1);
    // One millisecond each: ten fit, the rest find the queue full.
    let at: Vec<Instant> = (0..20).flat_map(|_| channel.offer(Instant::ORIGIN, 1000).arrivals()).collect();
    assert_eq!(at, (1..=10).map(|ms| Instant::from_micros(ms * 1000)).collect::<Vec<_>>());
    assert_eq!(channel.counters().queue, 10);
    assert_eq!(channel.backlog(Instant::from_micros(4_000)), 6_000);

    // Twice the rate: what waits is served twice as fast.
    let rate = Rate { bitrate: Bitrate::mbps(16), queue: Queue::Time(Duration::from_millis(20)) };
    channel.set_config(Instant::from_micros(4_000), ChannelConfig { rate: Some(rate), ..Default::default() });
    assert_eq!(channel.offer(Instant::from_micros(4_000), 1000), Fate::Delivered(Instant::from_micros(7_500)));

    // Offered at twice the rate for a second, half arrives.
    let rate = Rate { bitrate: Bitrate::mbps(10), queue: Queue::Time(Duration::from_millis(50)) };
    let mut channel = Channel::new(ChannelConfig { rate: Some(rate), ..Default::default() }, 1);
    for i in 0..20_000u64 {
        channel.offer(Instant::from_micros(i * 500), 1250);
    }
    near(1.0 - channel.counters().loss(), 0.5, 0.01);
}

#[test]
fn what_is_too_large_vanishes() {
    let mut channel = Channel::new(ChannelConfig { mtu: Some(1252), ..Default::default() }, 1);
    assert_eq!(channel.offer(Instant::ORIGIN, 1253), Fate::Dropped(DropReason::Mtu));
    assert_eq!(channel.offer(Instant::ORIGIN, 1252), Fate::Delivered(Instant::ORIGIN));
    assert_eq!(channel.counters().mtu, 1);
}

#[test]
fn a_cut_is_live_and_keeps_the_loss_model_where_it_was() {
    let config = ChannelConfig { loss: Loss::Gilbert { mean: 0.1, burst: 0.66 }, ..Default::default() };
    let mut cut = Channel::new(config.clone(), 4);
    let mut plain = Channel::new(config.clone(), 4);
    let now = slot(0);
    for _ in 0..100 {
        assert_eq!(cut.offer(now, PACKET), plain.offer(now, PACKET));
    }
    cut.set_config(now, ChannelConfig { cut: true, ..config.clone() });
    assert_eq!(cut.offer(now, PACKET), Fate::Dropped(DropReason::Outage));
    cut.set_config(now, config);
    for _ in 0..100 {
        assert_eq!(cut.offer(now, PACKET), plain.offer(now, PACKET));
    }
}

#[test]
fn equal_seeds_give_equal_fates_and_concerns_do_not_mix() {
    let full = ChannelConfig {
        delay: Duration::from_millis(15),
        jitter: Jitter::Exponential { mean: Duration::from_millis(1) },
        loss: Loss::Gilbert { mean: 0.05, burst: 0.66 },
        reordering: Some(Reordering { share: 0.01, by: Duration::from_millis(3) }),
        duplicate: 0.01,
        ..Default::default()
    };
    assert_eq!(fates(&full, 9, 10_000), fates(&full, 9, 10_000));
    assert_ne!(fates(&full, 9, 10_000), fates(&full, 10, 10_000));
    let plain = ChannelConfig { loss: full.loss.clone(), ..Default::default() };
    assert_eq!(lost(&full, 9, 10_000), lost(&plain, 9, 10_000));
}

#[test]
fn each_link_and_direction_has_a_seed_of_its_own() {
    let seeds = [("a-b", Direction::Forward), ("a-b", Direction::Backward), ("a-c", Direction::Forward)];
    let seeds = seeds.map(|(link, direction)| seed_for(1, link, direction));
    assert!(seeds[0] != seeds[1] && seeds[0] != seeds[2] && seeds[1] != seeds[2]);
    // Published figures name a seed: this value must never change.
    assert_eq!(seeds[0], 3_377_955_362_212_549_560);
}

#[test]
fn counters_add_up() {
    let config = ChannelConfig {
        loss: Loss::Bernoulli { mean: 0.3 },
        duplicate: 0.2,
        mtu: Some(1400),
        outages: vec![Outage { at: Duration::from_secs(1), lasts: Duration::from_secs(1), every: None }],
        ..Default::default()
    };
    let mut channel = Channel::new(config, 1);
    for i in 0..5_000u64 {
        channel.offer(slot(i), if i % 7 == 0 { 1401 } else { PACKET });
    }
    let c = channel.counters();
    assert_eq!(c.offered, 5_000);
    assert_eq!(c.delivered + c.dropped(), c.offered);
    assert_eq!(c.delivered_bytes, c.delivered * PACKET as u64);
    assert!(c.mtu > 0 && c.outage > 0 && c.lost > 0 && c.duplicated > 0);
    assert_eq!(c.since(&c), ChannelCounters::default());
}

#[test]
fn configuration_reads_from_toml_and_refuses_what_it_does_not_know() {
    let text = r#"
        delay = "15ms"
        jitter = { distribution = "exponential", mean = "1ms" }
        loss = { model = "gilbert", mean = 0.05, burst = 0.66 }
        rate = { bitrate = 50000000, queue = { time = "50ms" } }
        outages = [{ at = "10s", lasts = "150ms", every = "30s" }]
        mtu = 1280
    "#;
    let config: ChannelConfig = toml::from_str(text).unwrap();
    assert_eq!(config.delay, Duration::from_millis(15));
    assert_eq!(config.loss, Loss::Gilbert { mean: 0.05, burst: 0.66 });
    assert_eq!(config.rate.unwrap().queue, Queue::Time(Duration::from_millis(50)));
    config.validate().unwrap();
    let again: ChannelConfig = toml::from_str(&toml::to_string(&config).unwrap()).unwrap();
    assert_eq!(again, config);

    for wrong in [
        "dealy = '15ms'",
        "loss = { model = 'gilbert', mean = 0.05, burst = 0.66, extra = 1 }",
        "loss = { model = 'gibbert' }",
        "rate = { bitrate = 1, queue = { packets = 3 } }",
        "delay = 15",
    ] {
        assert!(toml::from_str::<ChannelConfig>(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn nonsense_is_named() {
    let message = |text: &str| toml::from_str::<ChannelConfig>(text).unwrap().validate().unwrap_err().to_string();
    assert_eq!(message("duplicate = 1.5"), "duplicate is 1.5: expected a share from 0 to 1");
    assert!(message("loss = { model = 'gilbert', mean = 0.9, burst = 0.1 }").starts_with("loss.burst is 0.1"));
    assert!(message("outages = [{ at = '1s', lasts = '2s', every = '1s' }]").contains("longer than lasts"));
    assert!(message("rate = { bitrate = 0, queue = { bytes = 1 } }").contains("rate.bitrate"));
}

/// Not a property but a measurement: `cargo test --release -p anabranch-bench -- --ignored --nocapture offers_per_second`.
#[test]
#[ignore = "long: measures speed"]
#[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
fn offers_per_second() {
    let config = ChannelConfig {
        delay: Duration::from_millis(15),
        loss: Loss::Gilbert { mean: 0.05, burst: 0.66 },
        rate: Some(Rate { bitrate: Bitrate::mbps(50), queue: Queue::Time(Duration::from_millis(50)) }),
        ..Default::default()
    };
    let mut channel = Channel::new(config, 1);
    let start = std::time::Instant::now();
    for i in 0..20_000_000 {
        channel.offer(slot(i), PACKET);
    }
    let rate = 20.0 / start.elapsed().as_secs_f64();
    println!("{rate:.1} million offers per second");
    assert!(rate > 2.0, "{rate}");
}
