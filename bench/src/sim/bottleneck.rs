//! Links before a bottleneck that nobody told them of.

use super::bulk::{Bulk, SEGMENT};
use crate::channel::{Channel, ChannelConfig, Direction, Jitter, Loss, Queue, Rate, seed_for};
use bytes::{Bytes, BytesMut};
use link::policy::{Policy, RepairMode};
use link::{Bitrate, Flags, Instant, Label, Link, LinkConfig, MediaTime, Packet, StreamHandle, StreamSeq};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

const SIZE: usize = 1316;
const DEADLINE: Duration = Duration::from_millis(200);

/// A stream on one of the links.
#[derive(Clone, Copy)]
struct Stream {
    link: usize,
    rate: Bitrate,
    high: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Fate {
    offered: u64,
    on_time: u64,
}

/// Arrival, tie-break, what arrives.
type Flight = (Instant, u64, Arrival);

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Arrival {
    /// At the receiving end of a link, or at its sending end.
    Datagram { link: usize, to_receiver: bool, datagram: Bytes },
    /// An acknowledgement of the bulk flow.
    Bulk(u64),
}

/// What came of it, in the second half of the run.
struct Outcome {
    streams: Vec<Fate>,
    /// Queueing delay before the bottleneck, in milliseconds: median and the largest.
    queue: [u64; 2],
    links: Vec<Link>,
    /// Packets of the bulk flow that arrived.
    bulk: u64,
}

impl Outcome {
    fn share(&self, stream: usize) -> f64 {
        self.streams[stream].on_time as f64 / self.streams[stream].offered as f64
    }

    fn rate(&self, stream: usize, span: Duration) -> f64 {
        self.streams[stream].on_time as f64 * SIZE as f64 * 8.0 / span.as_secs_f64()
    }
}

/// Streams on links that share a path for so long, with a bulk flow beside them from the moment `bulk` on.
fn shared(path: &ChannelConfig, streams: &[Stream], bulk: Option<Duration>, span: Duration) -> Outcome {
    shared_under(Policy::default(), path, streams, bulk, span)
}

fn shared_under(
    policy: Policy,
    path: &ChannelConfig,
    streams: &[Stream],
    bulk: Option<Duration>,
    span: Duration,
) -> Outcome {
    let links = 1 + streams.iter().map(|stream| stream.link).max().unwrap_or(0);
    let new = |seed: usize| {
        let config = LinkConfig { max_frame: 1414, policy, seed: seed as u64, ..LinkConfig::default() };
        Link::new(Instant::ORIGIN, config)
    };
    let mut senders: Vec<Link> = (0..links).map(|link| new(2 * link)).collect();
    let mut receivers: Vec<Link> = (0..links).map(|link| new(2 * link + 1)).collect();
    let mut forward = Channel::new(path.clone(), seed_for(1, "shared", Direction::Forward));
    let back = ChannelConfig { delay: path.delay, ..ChannelConfig::default() };
    let mut backward = Channel::new(back, seed_for(1, "shared", Direction::Backward));
    let mut air: BinaryHeap<Reverse<Flight>> = BinaryHeap::new();
    let mut outcome =
        Outcome { streams: vec![Fate::default(); streams.len()], queue: [0; 2], links: Vec::new(), bulk: 0 };
    let mut bulk = bulk.map(|start| Bulk::new(Instant::ORIGIN + start, path.delay * 2));
    let (mut serial, mut next, mut sent) = (0, vec![Duration::ZERO; streams.len()], vec![0u32; streams.len()]);
    let mut queues = Vec::new();
    let payload = Bytes::from(vec![0; SIZE]);
    // The second half counts, but for what may still be on its way at the end.
    let counted = Instant::ORIGIN + span / 2..Instant::ORIGIN + (span - DEADLINE * 2);
    let mut out = BytesMut::new();
    // A clock of a quarter of a millisecond: what is due in between waits for it, as in a program.
    for tick in 0..(span.as_micros() / 250) as u64 {
        let now = Instant::from_micros(tick * 250);
        while air.peek().is_some_and(|Reverse(flight)| flight.0 <= now) {
            match air.pop() {
                Some(Reverse((_, _, Arrival::Datagram { link, to_receiver, datagram }))) => {
                    let end = if to_receiver { &mut receivers[link] } else { &mut senders[link] };
                    end.handle_datagram(now, datagram);
                }
                Some(Reverse((_, _, Arrival::Bulk(number)))) => {
                    outcome.bulk += u64::from(counted.contains(&now));
                    bulk.iter_mut().for_each(|bulk| bulk.acknowledge(now, number));
                }
                None => {}
            }
        }
        while let Some(number) = bulk.as_mut().and_then(|bulk| bulk.poll(now)) {
            for at in forward.offer(now, SEGMENT).arrivals() {
                serial += 1;
                air.push(Reverse((at + path.delay, serial, Arrival::Bulk(number))));
            }
        }
        for (number, stream) in streams.iter().enumerate() {
            while Instant::ORIGIN + next[number] <= now {
                next[number] += stream.rate.time_for(SIZE as u64);
                let packet = Packet {
                    target: None,
                    stream: StreamHandle(number as u16),
                    seq: StreamSeq(sent[number]),
                    media_time: MediaTime(now.as_micros() as u32),
                    age: Duration::ZERO,
                    label: Label(0),
                    flags: Flags { high_priority: stream.high, end: false },
                    payload: payload.clone(),
                    recover_until: now + DEADLINE,
                };
                sent[number] += 1;
                outcome.streams[number].offered += u64::from(counted.contains(&now));
                let _ = senders[stream.link].send(now, packet);
            }
        }
        for link in 0..links {
            let ends = [(&mut senders[link], &mut forward, true), (&mut receivers[link], &mut backward, false)];
            for (end, channel, to_receiver) in ends {
                end.handle_timeout(now);
                while let Some(length) = end.poll_transmit(now, &mut out) {
                    let datagram = out.split_to(length).freeze();
                    for at in channel.offer(now, length).arrivals() {
                        serial += 1;
                        let datagram = datagram.clone();
                        air.push(Reverse((at, serial, Arrival::Datagram { link, to_receiver, datagram })));
                    }
                }
            }
            while let Some(delivery) = receivers[link].poll_delivery() {
                let transit = (now.as_micros() as u32).wrapping_sub(delivery.media_time.0);
                let born = now.saturating_sub(Duration::from_micros(transit.into()));
                let on_time = u128::from(transit) <= DEADLINE.as_micros() && counted.contains(&born);
                outcome.streams[usize::from(delivery.stream.0)].on_time += u64::from(on_time);
            }
        }
        if counted.contains(&now)
            && let Some(rate) = &path.rate
        {
            queues.push(rate.bitrate.time_for(forward.backlog(now)).as_millis() as u64);
        }
    }
    queues.sort_unstable();
    outcome.queue = [queues.get(queues.len() / 2).copied().unwrap_or(0), queues.last().copied().unwrap_or(0)];
    outcome.links = senders;
    outcome
}

fn bottleneck(megabits: u64) -> ChannelConfig {
    before_a_queue(megabits, 300)
}

fn before_a_queue(megabits: u64, queue: u64) -> ChannelConfig {
    ChannelConfig {
        delay: Duration::from_millis(20),
        rate: Some(Rate { bitrate: Bitrate::mbps(megabits), queue: Queue::Time(Duration::from_millis(queue)) }),
        ..ChannelConfig::default()
    }
}

#[test]
fn over_capacity_the_high_priority_is_whole_and_the_rest_shares_fairly() {
    let stream = |megabits, high| Stream { link: 0, rate: Bitrate::mbps(megabits), high };
    let streams = [stream(5, true), stream(8, false), stream(8, false), stream(4, false)];
    let span = Duration::from_secs(30);
    let outcome = shared(&bottleneck(20), &streams, None, span);
    let shares: Vec<f64> = (0..4).map(|number| outcome.share(number)).collect();
    println!("shares on time {shares:?}, queue (median, largest) {:?} ms", outcome.queue);
    assert!(shares[0] > 0.999, "high priority: {shares:?}");
    assert!(shares[3] > 0.9, "a stream within its fair share: {shares:?}");
    assert!((shares[1] / shares[2] - 1.0).abs() < 0.1, "equals: {shares:?}");
    let carried: f64 = (0..4).map(|number| outcome.rate(number, span / 2)).sum();
    assert!(carried > 18e6, "{carried}");
    assert!(outcome.queue[0] < 60, "{:?}", outcome.queue);
    let stats = outcome.links[0].stats();
    assert!(stats.dropped_standing > 1_000, "{stats:?}");
    assert!(stats.repair_suppressed > 0 || stats.fec_packets_sent == 0, "{stats:?}");
}

#[test]
fn two_links_that_share_a_bottleneck_settle() {
    let stream = |link| Stream { link, rate: Bitrate::mbps(15), high: false };
    let span = Duration::from_secs(60);
    let outcome = shared(&bottleneck(20), &[stream(0), stream(1)], None, span);
    let rates: Vec<f64> = (0..2).map(|number| outcome.rate(number, span / 2)).collect();
    println!("on time {rates:?} bit/s, queue (median, largest) {:?} ms", outcome.queue);
    assert!(rates.iter().sum::<f64>() > 14e6, "{rates:?}");
    assert!((0.6..1.67).contains(&(rates[0] / rates[1])), "{rates:?}");
    assert!(outcome.queue[0] < 80, "{:?}", outcome.queue);
}

#[test]
fn neither_random_loss_nor_jitter_slows() {
    let path = ChannelConfig {
        delay: Duration::from_millis(20),
        loss: Loss::Gilbert { mean: 0.1, burst: 0.66 },
        jitter: Jitter::Exponential { mean: Duration::from_millis(3) },
        ..ChannelConfig::default()
    };
    let stream = Stream { link: 0, rate: Bitrate::mbps(10), high: false };
    let outcome = shared(&path, &[stream], None, Duration::from_secs(20));
    assert_eq!(outcome.links[0].quality(Instant::from_micros(20_000_000)).capacity, None);
    assert_eq!(outcome.links[0].stats().dropped_late, 0);
    assert!(outcome.share(0) > 0.9999, "{}", outcome.share(0));
}

#[test]
fn however_many_links_share_a_bottleneck_they_settle() {
    for queue in [100, 300, 600] {
        for rates in [&[12, 20][..], &[11, 11], &[10, 10, 10], &[8, 8, 8, 8], &[25]] {
            let stream = |(link, rate): (usize, &u64)| Stream { link, rate: Bitrate::mbps(*rate), high: false };
            let streams: Vec<Stream> = rates.iter().enumerate().map(stream).collect();
            let span = Duration::from_secs(90);
            let outcome = shared(&before_a_queue(20, queue), &streams, None, span);
            let rates: Vec<f64> = (0..streams.len()).map(|number| outcome.rate(number, span / 2)).collect();
            println!("queue of {queue} ms: on time {rates:.0?} bit/s, queue (median, largest) {:?} ms", outcome.queue);
            assert!(rates.iter().sum::<f64>() > 18e6, "{rates:?}");
            assert!(rates.iter().all(|rate| *rate > 0.75 * 20e6 / rates.len() as f64), "{rates:?}");
            assert!(outcome.queue[0] < 15, "{:?}", outcome.queue);
        }
    }
}

#[test]
fn beside_a_bulk_flow_a_stream_is_not_starved() {
    for megabits in [6, 10, 15] {
        for queue in [50, 100, 150] {
            for start in 0..4 {
                let span = Duration::from_secs(60);
                let start = Duration::from_millis(2000 + start * 740);
                let stream = Stream { link: 0, rate: Bitrate::mbps(megabits), high: true };
                let outcome = shared(&before_a_queue(20, queue), &[stream], Some(start), span);
                let share = outcome.share(0);
                let bulk = outcome.bulk as f64 * SEGMENT as f64 * 8.0 / (span / 2).as_secs_f64();
                println!(
                    "{megabits} Mbit/s, queue of {queue} ms, a bulk flow from {start:?}: {:.2} % on time; bulk {:.1} Mbit/s, queue (median, largest) {:?} ms",
                    100.0 * share,
                    bulk / 1e6,
                    outcome.queue,
                );
                assert!(bulk > 0.5e6, "{megabits} Mbit/s, {queue} ms, {start:?}: {bulk}");
                assert!(share > 0.97, "{megabits} Mbit/s, {queue} ms, {start:?}: {share}");
            }
        }
    }
}

#[test]
fn beside_a_bulk_flow_an_operator_s_choice_of_repair_stands() {
    let capacity = Some(Bitrate::mbps(20));
    let policy = Policy { mode: RepairMode::Duplicate, capacity, ..Policy::default() };
    let stream = Stream { link: 0, rate: Bitrate::mbps(6), high: true };
    let (span, start) = (Duration::from_secs(30), Duration::from_secs(2));
    let outcome = shared_under(policy, &before_a_queue(20, 100), &[stream], Some(start), span);
    let stats = outcome.links[0].stats();
    let copies = stats.fec_packets_sent as f64 / stats.media_packets_sent as f64;
    assert!(copies > 0.95, "{copies} of them went twice: {stats:?}");
}
