//! A chain of hops in virtual time.

use super::changes::{Now, grain};
use super::plan::Case;
use super::report::{Outcome, Tally};
use crate::channel::{Channel, Direction, derive, seed_for};
use bytes::{Bytes, BytesMut};
use link::stats::LinkStats;
use link::{Delivery, Flags, Instant, Label, Link, LinkConfig, MediaTime, Packet, StreamHandle, StreamSeq};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// When the first packet leaves; links have exchanged probes by then.
const START: Duration = Duration::from_secs(1);
/// How long the world runs on after the last packet's deadline.
const AFTER: Duration = Duration::from_secs(1);

/// One hop: a link and a channel at either end. End 0 is the one nearer to the source.
#[derive(Debug)]
struct HopState {
    links: [Link; 2],
    channels: [Channel; 2],
    /// When each link wants to be woken, in world time.
    wake: [Instant; 2],
    /// Bare transit of the hops that follow.
    rest: Duration,
}

/// A datagram on its way; ordered by time, then by when it was sent.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct InFlight {
    at: Instant,
    serial: u64,
    hop: usize,
    end: usize,
    datagram: Bytes,
}

/// A case on its way.
#[derive(Debug)]
pub(super) struct World<'a> {
    case: &'a Case,
    hops: Vec<HopState>,
    /// How far each node's clock is ahead of the world's.
    clocks: Vec<Duration>,
    air: BinaryHeap<Reverse<InFlight>>,
    serial: u64,
    now: Instant,
    payload: Bytes,
    scratch: BytesMut,
    tally: Tally,
    /// Grains of time that changes have been applied for.
    grains: u64,
    interval: Duration,
    /// Bytes of media and repair that seconds before the current one are charged with.
    charged: [u64; 2],
}

impl<'a> World<'a> {
    pub(super) fn new(case: &'a Case, seed: u64) -> World<'a> {
        let transits: Vec<Duration> = case.channels().map(|[forward, _]| forward.delay).collect();
        let clocks: Vec<Duration> = (0..=transits.len())
            .map(|node| Duration::from_micros(derive(seed, &["clock", &node.to_string()]) >> 24))
            .collect();
        let hops = case
            .channels()
            .enumerate()
            .map(|(place, configs)| {
                let name = place.to_string();
                let mut directions = configs.into_iter().zip(Direction::BOTH);
                let mut channel = || {
                    let (config, direction) = directions.next().expect("there are two");
                    Channel::new(config.clone(), seed_for(seed, &name, direction))
                };
                let channels = [channel(), channel()];
                let links = [0, 1].map(|end| {
                    let seed = derive(seed, &["link", &name, Direction::BOTH[end].as_str()]);
                    let config =
                        LinkConfig { max_frame: case.max_frame, policy: case.policy, seed, ..LinkConfig::default() };
                    Link::new(Instant::ORIGIN + clocks[place + end], config)
                });
                let rest = transits[place + 1..].iter().sum();
                HopState { links, channels, wake: [Instant::ORIGIN; 2], rest }
            })
            .collect();
        World {
            case,
            hops,
            clocks,
            air: BinaryHeap::new(),
            serial: 0,
            now: Instant::ORIGIN,
            payload: Bytes::from(vec![0x47; case.size]),
            scratch: BytesMut::with_capacity(1 << 16),
            tally: Tally::new(case),
            grains: 0,
            interval: case.interval(),
            charged: [0; 2],
        }
    }

    pub(super) fn run(mut self) -> Outcome {
        let mut before = Vec::new();
        let mut number = 0;
        // In nanoseconds, so that the pace is right in the long run.
        let mut next_nanos = START.as_nanos() as u64;
        let mut end = None;
        loop {
            let arrival = self.air.peek().map(|Reverse(flight)| flight.at);
            let wake = self.hops.iter().flat_map(|hop| hop.wake).min();
            let next_packet = Instant::from_micros(next_nanos / 1000);
            let due = (number < self.case.packets).then_some(next_packet);
            let soonest = [arrival, wake, due].into_iter().flatten().min();
            let Some(next) = soonest.filter(|next| end.is_none_or(|end| *next <= end)) else { break };
            self.now = self.now.max(next);
            if arrival == Some(next) {
                self.deliver();
            } else if due == Some(next) {
                if number == self.tally.first() {
                    before = self.stats();
                }
                self.change();
                self.publish(number);
                number += 1;
                if number.is_multiple_of(self.case.together) {
                    next_nanos += self.interval.as_nanos() as u64 * self.case.together;
                }
                end = (number == self.case.packets).then_some(self.now + self.case.deadline + AFTER);
            } else {
                self.wake();
            }
        }
        let after = self.stats();
        let counted = after.iter().zip(&before).map(|(after, before)| [0, 1].map(|end| after[end].since(&before[end])));
        self.tally.finish(counted.collect())
    }

    /// Makes paths and rate what they are at this time, and tells seconds apart, where a case changes on the way.
    fn change(&mut self) {
        if self.case.changes.is_empty() {
            return;
        }
        let since = self.now - (Instant::ORIGIN + START);
        let second = since.as_secs() as u32;
        if grain(since) >= self.grains {
            self.grains = grain(since) + 1;
            let now = Now::of(self.case, since);
            self.interval = now.rate.time_for(self.case.size as u64);
            for (hop, configs) in self.hops.iter_mut().zip(self.case.channels()) {
                for (channel, config) in hop.channels.iter_mut().zip(configs) {
                    channel.set_config(self.now, now.applied(config));
                }
            }
            let [media, repair] = self.hops.iter().fold([0, 0], |[media, repair], hop| {
                let stats = hop.links[0].stats();
                [media + stats.media_bytes_sent, repair + stats.arq_bytes_sent + stats.fec_bytes_sent]
            });
            let charge = self.tally.second(second);
            charge.media_bytes += media - self.charged[0];
            charge.repair_bytes += repair - self.charged[1];
            self.charged = [media, repair];
        }
        self.tally.born(second);
    }

    fn stats(&self) -> Vec<[LinkStats; 2]> {
        self.hops.iter().map(|hop| [hop.links[0].stats(), hop.links[1].stats()]).collect()
    }

    fn local(&self, node: usize) -> Instant {
        self.now + self.clocks[node]
    }

    fn publish(&mut self, number: u64) {
        let packet = Packet {
            target: None,
            stream: StreamHandle(0),
            seq: StreamSeq(number as u32),
            media_time: MediaTime(self.now.as_micros() as u32),
            age: Duration::ZERO,
            label: Label(0),
            flags: Flags::default(),
            payload: self.payload.clone(),
            recover_until: self.local(0) + self.case.deadline.saturating_sub(self.hops[0].rest),
        };
        let now = self.local(0);
        // A packet that is refused is missed, and the tally finds it so.
        let _ = self.hops[0].links[0].send(now, packet);
        self.drain(0, 0);
    }

    fn deliver(&mut self) {
        let Some(Reverse(flight)) = self.air.pop() else { return };
        let InFlight { hop, end, datagram, .. } = flight;
        let now = self.local(hop + end);
        self.hops[hop].links[end].handle_datagram(now, datagram);
        self.drain(hop, end);
    }

    fn wake(&mut self) {
        for hop in 0..self.hops.len() {
            for end in [0, 1] {
                if self.hops[hop].wake[end] <= self.now {
                    let now = self.local(hop + end);
                    self.hops[hop].links[end].handle_timeout(now);
                    self.drain(hop, end);
                }
            }
        }
    }

    /// Moves on what one link has to give.
    fn drain(&mut self, hop: usize, end: usize) {
        let now = self.local(hop + end);
        while let Some(delivery) = self.hops[hop].links[end].poll_delivery() {
            self.forward(hop + 1, delivery);
        }
        let state = &mut self.hops[hop];
        while let Some(length) = state.links[end].poll_transmit(now, &mut self.scratch) {
            let datagram = self.scratch.split_to(length).freeze();
            if self.scratch.capacity() < 2048 {
                self.scratch = BytesMut::with_capacity(1 << 16);
            }
            for at in state.channels[end].offer(self.now, length).arrivals() {
                self.serial += 1;
                let datagram = datagram.clone();
                self.air.push(Reverse(InFlight { at, serial: self.serial, hop, end: 1 - end, datagram }));
            }
        }
        let ahead = self.clocks[hop + end];
        state.wake[end] = state.links[end].poll_timeout().map_or(Instant::from_micros(u64::MAX), |(due, _)| {
            due.saturating_sub(ahead).max(self.now + Duration::from_micros(1))
        });
    }

    fn forward(&mut self, node: usize, delivery: Delivery) {
        let now = self.local(node);
        let Some(next) = self.hops.get_mut(node) else {
            let latency = (self.now.as_micros() as u32).wrapping_sub(delivery.media_time.0);
            self.tally.arrived(u64::from(delivery.seq.0), Duration::from_micros(latency.into()));
            return;
        };
        let packet = Packet {
            target: None,
            stream: delivery.stream,
            seq: delivery.seq,
            media_time: delivery.media_time,
            age: delivery.age,
            label: delivery.label,
            flags: delivery.flags,
            payload: delivery.payload,
            recover_until: now + self.case.deadline.saturating_sub(delivery.age).saturating_sub(next.rest),
        };
        let _ = next.links[0].send(now, packet);
        self.drain(node, 0);
    }
}
