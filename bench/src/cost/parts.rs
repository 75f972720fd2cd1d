//! Pieces of the way of a packet, each by itself.

use crate::overlay::random_overlay;
use bytes::Bytes;
use link::codec::{BlockCode, Combinations, Native};
use link::{Delivery, Flags, Instant, Label, MediaTime, Packet, Recovery, SendError, StreamHandle, StreamSeq};
use node::PortId;
use relay::forward::window::Window;
use relay::forward::{Egress, Forwarder, Hop, Rest, label};
use std::hint::black_box;
use std::time::Duration;
use topology::dissemination::Repertoire;
use topology::graph::Graph;
use topology::module::Demand;

/// A forwarder with so many out-links, which swallow what they are given.
pub(super) struct Forward {
    forwarder: Forwarder,
    input: (PortId, StreamHandle),
    seq: u32,
    now: Instant,
    payload: Bytes,
}

struct Swallow;

impl Egress for Swallow {
    fn send(&mut self, _: Instant, _: PortId, packet: Packet) -> Result<(), SendError> {
        black_box(packet);
        Ok(())
    }
}

const INPUT: PortId = PortId(0);

impl Forward {
    pub(super) fn new(outputs: u64) -> Forward {
        let now = Instant::from_micros(3_600_000_000);
        let mut forwarder = Forwarder::new(64 << 20);
        let key = forwarder.add_stream(Duration::from_millis(200));
        let handle = forwarder.open_source(now, key, INPUT).expect("handles are free");
        let hops: Vec<Hop> = (1..=outputs)
            .map(|port| {
                forwarder.open_output(now, key, PortId(port), false).expect("handles are free");
                Hop { port: PortId(port), rest: Rest::default() }
            })
            .collect();
        forwarder.install(key, 1, &[hops]);
        forwarder.set_stamp(key, label::label(1, 1));
        Forward { forwarder, input: (INPUT, handle), seq: 0, now, payload: Bytes::from(vec![0x47; 1316]) }
    }

    /// So many packets in.
    pub(super) fn run(&mut self, packets: u64) {
        for _ in 0..packets {
            self.now += Duration::from_micros(100);
            self.seq = self.seq.wrapping_add(1);
            let delivery = Delivery {
                stream: self.input.1,
                seq: StreamSeq(self.seq),
                media_time: MediaTime(0),
                age: Duration::from_millis(1),
                label: Label(0),
                flags: Flags::default(),
                payload: self.payload.clone(),
                recovery: Recovery::None,
            };
            let verdict = self.forwarder.forward(self.now, self.input.0, delivery, &mut Swallow);
            debug_assert!(verdict.is_ok());
        }
    }
}

/// The window that tells copies, given each number twice.
#[derive(Default)]
pub(super) struct Copies {
    window: Window,
    seq: u32,
}

impl Copies {
    pub(super) fn run(&mut self, packets: u64) {
        for _ in 0..packets / 2 {
            self.seq = self.seq.wrapping_add(1);
            black_box(self.window.insert(StreamSeq(self.seq)));
            black_box(self.window.insert(StreamSeq(self.seq.wrapping_sub(20))));
        }
    }
}

/// Combinations of a window of symbols of 1337 bytes.
pub(super) struct Coding {
    code: Combinations<Native>,
    symbols: Vec<Vec<u8>>,
    repairs: Vec<Vec<u8>>,
}

impl Coding {
    const REPAIRS: usize = 4;

    pub(super) fn new(window: usize) -> Coding {
        let symbols = (0..window).map(|place| (0..1337).map(|at| (place * 31 + at * 7) as u8).collect()).collect();
        let code = Combinations::new(window, Coding::REPAIRS).expect("a small block");
        Coding { code, symbols, repairs: vec![vec![0; 1337]; Coding::REPAIRS] }
    }

    /// So many combinations.
    pub(super) fn run(&mut self, repairs: u64) {
        for _ in 0..repairs / Coding::REPAIRS as u64 {
            let coded = self.code.encode(black_box(&self.symbols), &mut self.repairs);
            debug_assert!(coded.is_ok());
        }
    }
}

/// All graphs of streams of five egresses.
pub(super) struct Graphs {
    graph: Graph,
    demands: Vec<Demand>,
    at: usize,
}

impl Graphs {
    pub(super) fn new(relays: usize) -> Graphs {
        let (graph, demands) = random_overlay(relays, 7);
        Graphs { graph, demands, at: 0 }
    }

    pub(super) fn run(&mut self, streams: u64) {
        for _ in 0..streams {
            let demand = &self.demands[self.at % self.demands.len()];
            self.at += 1;
            let repertoire = Repertoire::new(&self.graph, demand, true);
            black_box(repertoire.modules(&self.graph, demand));
        }
    }
}
