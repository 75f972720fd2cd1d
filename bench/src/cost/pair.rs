//! A whole link: both ends, numbering, reports, repair.

use super::{ARENA, frame, packet};
use bytes::{Bytes, BytesMut};
use link::policy::Policy;
use link::{Bitrate, Instant, Link, LinkConfig, StreamHandle};
use std::collections::VecDeque;
use std::time::Duration;

/// Between packets: 5,000 a second.
const PACE: Duration = Duration::from_micros(200);
const DELAY: Duration = Duration::from_millis(20);
/// Packets after which estimates have settled and buffers have grown.
const WARM: u64 = 20_000;

/// Two ends over a path of 20 ms.
pub(super) struct Pair {
    now: Instant,
    ends: [Link; 2],
    air: [VecDeque<(Instant, Bytes)>; 2],
    streams: u32,
    sent: u32,
    offered: u32,
    lose_every: u32,
    out: BytesMut,
    payload: Bytes,
}

impl Pair {
    /// A path that loses every so-manieth datagram each way; none where that is 0.
    pub(super) fn losing(lose_every: u32) -> Pair {
        Pair::new(lose_every, 1, None)
    }

    /// A link of half the capacity that is offered, by so many streams: it queues, takes turns, and drops.
    pub(super) fn overloaded(streams: u32) -> Pair {
        Pair::new(0, streams, Some(Bitrate::mbps(27)))
    }

    fn new(lose_every: u32, streams: u32, capacity: Option<Bitrate>) -> Pair {
        let now = Instant::from_micros(1_000_000);
        let policy = Policy { capacity, ..Policy::default() };
        let end = |seed| Link::new(now, LinkConfig { max_frame: 1414, seed, policy, ..LinkConfig::default() });
        let mut pair = Pair {
            now,
            ends: [end(1), end(2)],
            air: [VecDeque::new(), VecDeque::new()],
            streams,
            sent: 0,
            offered: 0,
            lose_every,
            out: BytesMut::with_capacity(ARENA),
            payload: Bytes::from(vec![0x47; 1316]),
        };
        pair.run(WARM);
        pair
    }

    /// So many packets from one end to the other.
    pub(super) fn run(&mut self, packets: u64) {
        for _ in 0..packets {
            self.now += PACE;
            let stream = StreamHandle((self.sent % self.streams) as u16);
            let packet = packet(self.now, stream, self.sent / self.streams, self.payload.clone());
            self.sent += 1;
            // A link that is overloaded may refuse it.
            let _ = self.ends[0].send(self.now, packet);
            for end in [0, 1] {
                self.step(end);
            }
        }
    }

    fn step(&mut self, end: usize) {
        let link = &mut self.ends[end];
        while self.air[end].front().is_some_and(|(at, _)| *at <= self.now) {
            let Some((_, datagram)) = self.air[end].pop_front() else { break };
            link.handle_datagram(self.now, datagram);
        }
        link.handle_timeout(self.now);
        while link.poll_delivery().is_some() {}
        while let Some(length) = link.poll_transmit(self.now, &mut self.out) {
            let datagram = frame(&mut self.out, length);
            self.offered += 1;
            if self.lose_every == 0 || !self.offered.is_multiple_of(self.lose_every) {
                self.air[1 - end].push_back((self.now + DELAY, datagram));
            }
        }
    }
}
