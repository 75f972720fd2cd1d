//! A whole relay without its sockets: a datagram of a source comes in, and leaves on the link of every sink.

use super::{ARENA, frame, packet};
use bytes::{Bytes, BytesMut};
use link::{Instant, Link, LinkConfig, StreamHandle};
use node::control::{Content, Control, Dissemination, Publish, Wants};
use node::engine::Engine;
use node::trust::{Direction, Grant, Role};
use node::{Peer, PortId};
use relay::Limits;
use relay::system::{Options, RelaySystem};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use topology::StreamName;
use topology::lsdb::Incarnation;

/// Between bursts of ten: 625 packets a second.
const PACE: Duration = Duration::from_millis(16);
const BURST: u64 = 10;
/// Packets after which links know that their paths lose nothing.
const WARM: u64 = 6_000;
const UNIX: u64 = 1_800_000_000;

/// A relay, its source, and its sinks, each with a link of its own.
pub(super) struct Fan {
    now: Instant,
    engine: Engine<RelaySystem>,
    source: Client,
    handle: StreamHandle,
    sinks: Vec<Client>,
    sent: u32,
    out: BytesMut,
    payload: Bytes,
}

/// Who is at the other end of one of the relay's ports.
struct Client {
    port: PortId,
    link: Link,
    /// What it has sent that has not come in yet.
    air: Vec<Bytes>,
}

impl Fan {
    /// A relay with so many sinks of one stream.
    pub(super) fn new(sinks: usize) -> Fan {
        let now = Instant::from_micros(3_600_000_000);
        let stream: StreamName = "bench/cost".parse().expect("it is a stream name");
        let mut engine = Engine::new(RelaySystem::new(Options {
            name: "relay".parse().expect("it is a node name"),
            boot: 1,
            limits: Limits::default(),
            source_grace: Duration::from_secs(10),
            links: BTreeMap::new(),
            seal: None,
            unix: (now, UNIX),
        }));
        let source = Client::join(now, &mut engine, Role::Source, 0);
        let publish = Publish {
            name: stream.clone(),
            incarnation: Incarnation(1),
            deadline_us: 200_000,
            high_priority: false,
            mode: Dissemination::Tree,
            content: Content::Datagrams,
            sealed: false,
            wants: Wants::default(),
        };
        engine.handle_control(now, source.port, Control::Publish(publish));
        let mut handle = None;
        while let Some(message) = engine.ports.poll_control(source.port) {
            if let Control::Published { handle: given, .. } = message {
                handle = Some(StreamHandle(given));
            }
        }
        let sinks = (1..=sinks)
            .map(|index| {
                let sink = Client::join(now, &mut engine, Role::Sink, index);
                engine.handle_control(now, sink.port, Control::Subscribe { name: stream.clone() });
                sink
            })
            .collect();
        let mut fan = Fan {
            now,
            engine,
            source,
            handle: handle.expect("the stream is new"),
            sinks,
            sent: 0,
            out: BytesMut::with_capacity(ARENA),
            payload: Bytes::from(vec![0x47; 1316]),
        };
        fan.run(WARM);
        fan
    }

    /// So many packets of the source, in bursts.
    pub(super) fn run(&mut self, packets: u64) {
        for _ in 0..packets.div_ceil(BURST) {
            self.now += PACE;
            for _ in 0..BURST {
                let packet = packet(self.now, self.handle, self.sent, self.payload.clone());
                self.sent += 1;
                self.source.link.send(self.now, packet).expect("there is room and time");
            }
            self.source.turn(self.now, &mut self.out);
            for sink in &mut self.sinks {
                sink.turn(self.now, &mut self.out);
            }
            self.relay();
        }
    }

    /// What has come in goes through the relay, and what leaves it arrives at once.
    fn relay(&mut self) {
        let now = self.now;
        for client in std::iter::once(&mut self.source).chain(&mut self.sinks) {
            self.engine.handle_datagrams(now, client.port, client.air.drain(..));
        }
        self.engine.handle_timeout(now);
        while let Some(port) = self.engine.ports.take_dirty() {
            let client = if port == self.source.port {
                &mut self.source
            } else {
                // Ports are opened in the order of the sinks.
                let at = self.sinks.partition_point(|sink| sink.port < port);
                &mut self.sinks[at]
            };
            while let Some(length) = self.engine.ports.poll_transmit(now, port, &mut self.out) {
                client.link.handle_datagram(now, frame(&mut self.out, length));
            }
            while client.link.poll_delivery().is_some() {}
            while self.engine.ports.poll_control(port).is_some() {}
            self.engine.ports.schedule(now, port);
        }
    }
}

impl Client {
    fn join(now: Instant, engine: &mut Engine<RelaySystem>, role: Role, index: usize) -> Client {
        let direction = if role == Role::Source { Direction::Publish } else { Direction::Subscribe };
        let grant = Grant {
            id: "cost".to_owned(),
            streams: "**".parse().expect("it is a pattern"),
            direction,
            max_rate: None,
            expires: UNIX + 1_000_000_000,
        };
        let peer = Peer {
            name: format!("client-{index}").parse().expect("it is a node name"),
            role,
            grants: vec![grant],
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)),
            dialled: false,
            features: 0,
            link: None,
        };
        let config = LinkConfig { max_frame: 1414, seed: index as u64, ..LinkConfig::default() };
        Client { port: engine.open(now, peer, config), link: Link::new(now, config), air: Vec::new() }
    }

    /// Sends what is due.
    fn turn(&mut self, now: Instant, out: &mut BytesMut) {
        self.link.handle_timeout(now);
        while let Some(length) = self.link.poll_transmit(now, out) {
            self.air.push(frame(out, length));
        }
    }
}
