//! Reference policies, idealised, on one hop: no header, perfect knowledge of the delay, loss seen at the next packet.

use super::plan::Case;
use super::report::{Outcome, Tally};
use crate::channel::{Channel, Direction, Fate, seed_for};
use link::Instant;
use link::stats::LinkStats;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// Bytes of a request.
const REQUEST: usize = 24;

/// A policy of requests and copies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Strikes {
    /// Requests per loss, spaced over the time there is.
    pub(super) requests: u32,
    /// Copies per loss, sent on the first request that comes through, spaced over the time there is.
    pub(super) copies: u32,
    /// Whether to request again every round trip, as long as there is time, instead of a fixed number of times.
    pub(super) again: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// The sender's next packet.
    Packet(u64),
    /// A packet or copy arrives.
    Arrives(u64),
    /// The receiver asks for a packet, for the last time at the time given.
    Request(u64, Instant),
    /// The request arrives at the sender.
    Asked(u64),
    /// The sender sends a copy.
    Copy(u64),
}

/// A request for each loss when it is seen, and again every round trip; one copy per request.
pub(super) const PLAIN_ARQ: Strikes = Strikes { requests: 1, copies: 1, again: true };
/// Up to three requests, answered by three copies (Tang et al., "Live streaming over overlay networks: NM-strikes").
pub(super) const NM_STRIKES: Strikes = Strikes { requests: 3, copies: 3, again: false };

/// Simulates a policy over the first hop of a case.
pub(super) fn run(case: &Case, seed: u64, strikes: Strikes) -> Outcome {
    let Some([forward, backward]) = case.channels().next() else { return Outcome::new(case) };
    let mut sim = Sim {
        strikes,
        deadline: case.deadline,
        there: forward.delay,
        turn: forward.delay + backward.delay + Duration::from_millis(2),
        interval: case.interval(),
        size: case.size,
        channels: [
            Channel::new(forward.clone(), seed_for(seed, "0", Direction::Forward)),
            Channel::new(backward.clone(), seed_for(seed, "0", Direction::Backward)),
        ],
        events: BinaryHeap::new(),
        serial: 0,
        expected: 0,
        arrived: vec![false; case.packets as usize],
        answered: vec![false; case.packets as usize],
        stats: [LinkStats::default(); 2],
        tally: Tally::new(case),
    };
    sim.add(Instant::ORIGIN, Event::Packet(0));
    while let Some(Reverse((now, _, event))) = sim.events.pop() {
        sim.handle(now, event);
    }
    sim.tally.finish(vec![sim.stats])
}

struct Sim {
    strikes: Strikes,
    deadline: Duration,
    there: Duration,
    turn: Duration,
    interval: Duration,
    size: usize,
    channels: [Channel; 2],
    events: BinaryHeap<Reverse<(Instant, u64, Event)>>,
    serial: u64,
    expected: u64,
    arrived: Vec<bool>,
    answered: Vec<bool>,
    stats: [LinkStats; 2],
    tally: Tally,
}

impl Sim {
    fn add(&mut self, at: Instant, event: Event) {
        self.serial += 1;
        self.events.push(Reverse((at, self.serial, event)));
    }

    fn born(&self, number: u64) -> Instant {
        Instant::ORIGIN + Duration::from_nanos((self.interval.as_nanos() * u128::from(number)) as u64)
    }

    fn transmit(&mut self, now: Instant, number: u64) {
        if let Fate::Delivered(at) | Fate::Duplicated(at, _) = self.channels[0].offer(now, self.size) {
            self.add(at, Event::Arrives(number));
        }
    }

    fn handle(&mut self, now: Instant, event: Event) {
        match event {
            Event::Packet(number) => {
                self.stats[0].media_bytes_sent += self.size as u64;
                self.transmit(now, number);
                if number + 1 < self.arrived.len() as u64 {
                    self.add(self.born(number + 1), Event::Packet(number + 1));
                }
            }
            Event::Arrives(number) => self.arrives(now, number),
            Event::Request(number, last) => self.request(now, number, last),
            Event::Asked(number) => self.asked(now, number),
            Event::Copy(number) => {
                self.stats[0].arq_bytes_sent += self.size as u64;
                self.transmit(now, number);
            }
        }
    }

    fn arrives(&mut self, now: Instant, number: u64) {
        if !std::mem::replace(&mut self.arrived[number as usize], true) {
            let latency = now - self.born(number);
            self.tally.arrived(number, latency);
        }
        for lost in self.expected..number {
            if !self.arrived[lost as usize] {
                self.plan_requests(now, lost);
            }
        }
        self.expected = self.expected.max(number + 1);
    }

    fn plan_requests(&mut self, now: Instant, number: u64) {
        // The last request must leave time for itself and the copy.
        let last = (self.born(number) + self.deadline).saturating_sub(self.turn);
        if last < now {
            return;
        }
        if self.strikes.again {
            self.add(now, Event::Request(number, last));
            return;
        }
        let time = last - now;
        for strike in 0..self.strikes.requests {
            let at = now + time / self.strikes.requests * strike;
            self.add(at, Event::Request(number, at));
        }
    }

    fn request(&mut self, now: Instant, number: u64, last: Instant) {
        if self.arrived[number as usize] {
            return;
        }
        self.stats[1].feedback_bytes_sent += REQUEST as u64;
        if let Fate::Delivered(at) | Fate::Duplicated(at, _) = self.channels[1].offer(now, REQUEST) {
            self.add(at, Event::Asked(number));
        }
        if now + self.turn <= last {
            self.add(now + self.turn, Event::Request(number, last));
        }
    }

    fn asked(&mut self, now: Instant, number: u64) {
        if self.strikes.again {
            self.add(now, Event::Copy(number));
            return;
        }
        if std::mem::replace(&mut self.answered[number as usize], true) {
            return;
        }
        let time = (self.born(number) + self.deadline).saturating_sub(self.there) - now;
        for copy in 0..self.strikes.copies {
            self.add(now + time / self.strikes.copies * copy, Event::Copy(number));
        }
    }
}
