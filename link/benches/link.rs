//! What a whole link costs per packet: both ends, numbering, reports, repair. Run with `cargo bench -p anabranch-link --bench link`.

use anabranch_link::{Flags, Instant, Label, Link, LinkConfig, MediaTime, Packet, StreamHandle, StreamSeq};
use bytes::{Bytes, BytesMut};
use divan::Bencher;
use divan::counter::ItemsCount;
use std::collections::VecDeque;
use std::time::Duration;

const PACKETS: u32 = 1_000;
const PACE: Duration = Duration::from_micros(200);
const DELAY: Duration = Duration::from_millis(20);

fn main() {
    divan::main();
}

/// Two ends over a path of 20 ms that loses every so-manieth datagram each way.
struct Pair {
    now: Instant,
    ends: [Link; 2],
    air: [VecDeque<(Instant, Bytes)>; 2],
    sent: u32,
    offered: u32,
    lose_every: u32,
    out: BytesMut,
    payload: Bytes,
}

impl Pair {
    fn new(lose_every: u32) -> Pair {
        let now = Instant::from_micros(1_000_000);
        let end = |seed| Link::new(now, LinkConfig { max_frame: 1414, seed, ..LinkConfig::default() });
        let mut pair = Pair {
            now,
            ends: [end(1), end(2)],
            air: [VecDeque::new(), VecDeque::new()],
            sent: 0,
            offered: 0,
            lose_every,
            out: BytesMut::with_capacity(1 << 16),
            payload: Bytes::from(vec![0x47; 1316]),
        };
        // Warm: estimates settled, buffers grown.
        pair.run(20_000);
        pair
    }

    fn run(&mut self, packets: u32) {
        for _ in 0..packets {
            self.now += PACE;
            let packet = Packet {
                stream: StreamHandle(0),
                seq: StreamSeq(self.sent),
                media_time: MediaTime(0),
                age: Duration::ZERO,
                label: Label(0),
                flags: Flags::default(),
                payload: self.payload.clone(),
                recover_until: self.now + Duration::from_millis(200),
            };
            self.sent += 1;
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
            let datagram = self.out.split_to(length).freeze();
            if self.out.capacity() < 2048 {
                self.out = BytesMut::with_capacity(1 << 16);
            }
            self.offered += 1;
            if self.lose_every == 0 || !self.offered.is_multiple_of(self.lose_every) {
                self.air[1 - end].push_back((self.now + DELAY, datagram));
            }
        }
    }
}

/// A thousand packets at 5,000 a second; 0: no loss, 20: 5 %.
#[divan::bench(args = [0, 20])]
fn carry(bencher: Bencher<'_, '_>, lose_every: u32) {
    let mut pair = Pair::new(lose_every);
    bencher.counter(ItemsCount::new(PACKETS)).bench_local(|| pair.run(PACKETS));
}
