//! A world in virtual time: end systems joined by modelled paths, without sockets, tasks or clocks.
//!
//! Each node reads a clock of its own, offset from the world's, so that nothing can lean on clocks that agree. Datagrams
//! take the way and the time that the [`Path`] of their direction says; control messages are encoded, take a fixed delay,
//! and arrive in order. Two runs with the same calls and seeds are the same, event for event.

use crate::control::{self, CloseCode, Control};
use crate::engine::Engine;
use crate::ports::{Closed, EndSystem, Peer, PortId, Ports};
use bytes::{Bytes, BytesMut};
use link::{Delivery, Instant, LinkConfig};
use std::any::Any;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::fmt;
use std::time::Duration;

/// One direction of a path: when, if at all, a datagram arrives.
pub trait Path {
    /// A datagram leaves at `now`; push each time at which it arrives at the other end: none, once, or more often.
    fn carry(&mut self, now: Instant, datagram: &[u8], arrivals: &mut Vec<Instant>);
}

/// Every datagram arrives, after this time.
#[derive(Clone, Copy, Debug)]
pub struct Delay(pub Duration);

impl Path for Delay {
    fn carry(&mut self, now: Instant, _: &[u8], arrivals: &mut Vec<Instant>) {
        arrivals.push(now + self.0);
    }
}

/// A function is a path: it answers when the datagram arrives, or that it does not.
impl<F: FnMut(Instant, &[u8]) -> Option<Instant>> Path for F {
    fn carry(&mut self, now: Instant, datagram: &[u8], arrivals: &mut Vec<Instant>) {
        arrivals.extend(self(now, datagram));
    }
}

/// A node of a [`World`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(usize);

/// One end of a connection in a [`World`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct End {
    /// Whose end.
    pub node: NodeId,
    /// The port there.
    pub port: PortId,
}

/// How [`World::join`] sees one end of a new connection.
pub struct Join {
    /// Whose end.
    pub node: NodeId,
    /// Who the *other* end takes this node for.
    pub peer: Peer,
    /// The link at this end.
    pub config: LinkConfig,
    /// The direction from this end to the other.
    pub path: Box<dyn Path>,
    /// Time that this end's control messages, and the news of its closing, take to the other.
    pub control_delay: Duration,
}

/// End systems in virtual time.
pub struct World {
    now: Instant,
    nodes: Vec<Node>,
    wires: HashMap<End, Wire>,
    events: BinaryHeap<Reverse<(Instant, u64)>>,
    /// What happens at an event of that number; ties in time go by number.
    pending: BTreeMap<u64, Event>,
    scheduled: u64,
    scratch: BytesMut,
    arrivals: Vec<Instant>,
}

/// An end system of any type, that a test can get back as what it is.
trait AnySystem: EndSystem {
    fn as_any(&mut self) -> &mut dyn Any;
}

impl<S: EndSystem + Any> AnySystem for S {
    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

struct Node {
    engine: Engine<Box<dyn AnySystem>>,
    clock: NodeClock,
    /// The earliest wake-up already scheduled.
    wake_at: Option<Instant>,
}

/// The clock of a node against the world's.
struct NodeClock {
    /// The world's time from which on it runs as it does, and what it showed then.
    since: Instant,
    showed: Instant,
    /// How many microseconds it gains in a second.
    drift_ppm: i32,
}

impl NodeClock {
    fn local(&self, world: Instant) -> Instant {
        let passed = world.saturating_since(self.since).as_micros() * self.rate() / 1_000_000;
        self.showed + Duration::from_micros(passed as u64)
    }

    /// The world's time at which it shows `local`.
    fn world(&self, local: Instant) -> Instant {
        let passed = (local.saturating_since(self.showed).as_micros() * 1_000_000).div_ceil(self.rate());
        self.since + Duration::from_micros(passed as u64)
    }

    /// Its microseconds in a second of the world's.
    fn rate(&self) -> u128 {
        1_000_000u128.saturating_add_signed(self.drift_ppm.into())
    }
}

struct Wire {
    other: End,
    path: Box<dyn Path>,
    control_delay: Box<dyn FnMut(Instant) -> Duration>,
    /// Control messages keep their order even where the delay is changed.
    control_clear_at: Instant,
}

enum Event {
    Datagram(End, Bytes),
    Control(End, Vec<u8>),
    Closed(End, Closed),
    Wake(NodeId),
}

impl EndSystem for Box<dyn AnySystem> {
    fn handle_opened(&mut self, now: Instant, port: PortId, ports: &mut Ports) {
        (**self).handle_opened(now, port, ports);
    }
    fn handle_delivery(&mut self, now: Instant, port: PortId, delivery: Delivery, ports: &mut Ports) {
        (**self).handle_delivery(now, port, delivery, ports);
    }
    fn handle_control(&mut self, now: Instant, port: PortId, message: Control, ports: &mut Ports) {
        (**self).handle_control(now, port, message, ports);
    }
    fn handle_closed(&mut self, now: Instant, port: PortId, peer: &Peer, closed: &Closed, ports: &mut Ports) {
        (**self).handle_closed(now, port, peer, closed, ports);
    }
    fn handle_timeout(&mut self, now: Instant, ports: &mut Ports) {
        (**self).handle_timeout(now, ports);
    }
    fn poll_timeout(&self) -> Option<Instant> {
        (**self).poll_timeout()
    }
}

impl World {
    /// An empty world, one hour after the origin of its clock.
    pub fn new() -> World {
        World {
            now: Instant::from_micros(3_600_000_000),
            nodes: Vec::new(),
            wires: HashMap::new(),
            events: BinaryHeap::new(),
            pending: BTreeMap::new(),
            scheduled: 0,
            scratch: BytesMut::new(),
            arrivals: Vec::new(),
        }
    }

    /// The world's time. Paths are told this one; end systems read it offset by their own.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Adds an end system whose clock runs ahead of the world's by `offset`.
    pub fn add(&mut self, system: impl EndSystem + Any, offset: Duration) -> NodeId {
        let id = NodeId(self.nodes.len());
        let clock = NodeClock { since: self.now, showed: self.now + offset, drift_ppm: 0 };
        self.nodes.push(Node { engine: Engine::new(Box::new(system)), clock, wake_at: None });
        self.drain(id);
        id
    }

    /// From now on a node's clock gains so many microseconds in a second, or loses them.
    pub fn set_drift(&mut self, node: NodeId, drift_ppm: i32) {
        let showed = self.local(node);
        self.nodes[node.0].clock = NodeClock { since: self.now, showed, drift_ppm };
    }

    /// Connects two nodes, as after a handshake.
    pub fn join(&mut self, a: Join, b: Join) -> (End, End) {
        let (a_node, b_node) = (a.node, b.node);
        let a_port = {
            let now = self.local(a_node);
            self.nodes[a_node.0].engine.ports.open(now, b.peer, a.config)
        };
        let b_port = {
            let now = self.local(b_node);
            self.nodes[b_node.0].engine.ports.open(now, a.peer, b.config)
        };
        let (a_end, b_end) = (End { node: a_node, port: a_port }, End { node: b_node, port: b_port });
        for (end, other, path, control_delay) in
            [(a_end, b_end, a.path, a.control_delay), (b_end, a_end, b.path, b.control_delay)]
        {
            let control_delay = Box::new(move |_| control_delay);
            self.wires.insert(end, Wire { other, path, control_delay, control_clear_at: Instant::ORIGIN });
        }
        for end in [a_end, b_end] {
            let now = self.local(end.node);
            let engine = &mut self.nodes[end.node.0].engine;
            engine.system.handle_opened(now, end.port, &mut engine.ports);
            self.drain(end.node);
        }
        (a_end, b_end)
    }

    /// Replaces the path that leaves from `end`.
    pub fn set_path(&mut self, end: End, path: impl Path + 'static) {
        if let Some(wire) = self.wires.get_mut(&end) {
            wire.path = Box::new(path);
        }
    }

    /// Lets each control message that leaves from `end` take the time that `delay` says, for the world's time at which it
    /// does: a loss on a reliable stream is a delay. Messages keep their order.
    pub fn set_control_delay(&mut self, end: End, delay: impl FnMut(Instant) -> Duration + 'static) {
        if let Some(wire) = self.wires.get_mut(&end) {
            wire.control_delay = Box::new(delay);
        }
    }

    /// The end that `end` is joined to.
    pub fn other_end(&self, end: End) -> Option<End> {
        self.wires.get(&end).map(|wire| wire.other)
    }

    /// Breaks a connection: both ends learn of it at once, as of a connection lost.
    pub fn sever(&mut self, end: End) {
        let Some(wire) = self.wires.remove(&end) else { return };
        self.wires.remove(&wire.other);
        let closed = Closed { code: CloseCode::Lost, reason: "severed".to_owned() };
        for end in [end, wire.other] {
            self.closed(end, closed.clone());
        }
    }

    /// Lets `act` use the end system of a node, then drains what it did.
    ///
    /// # Panics
    /// Where the node is not an `S`.
    pub fn with<S: EndSystem + Any, R>(
        &mut self,
        node: NodeId,
        act: impl FnOnce(Instant, &mut S, &mut Ports) -> R,
    ) -> R {
        let now = self.local(node);
        let Engine { system, ports } = &mut self.nodes[node.0].engine;
        let system = (**system).as_any().downcast_mut::<S>().expect("the node is of another type");
        let result = act(now, system, ports);
        self.drain(node);
        result
    }

    /// Lets the world run on for `span`.
    pub fn run_for(&mut self, span: Duration) {
        self.run_until(self.now + span);
    }

    /// Lets the world run until `end`, all that happens at `end` included.
    pub fn run_until(&mut self, end: Instant) {
        while let Some(&Reverse((at, number))) = self.events.peek() {
            if at > end {
                break;
            }
            self.events.pop();
            self.now = self.now.max(at);
            if let Some(event) = self.pending.remove(&number) {
                self.happen(event);
            }
        }
        self.now = self.now.max(end);
    }

    fn local(&self, node: NodeId) -> Instant {
        self.nodes[node.0].clock.local(self.now)
    }

    fn schedule(&mut self, at: Instant, event: Event) {
        self.scheduled += 1;
        self.events.push(Reverse((at.max(self.now), self.scheduled)));
        self.pending.insert(self.scheduled, event);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Datagram(end, datagram) => {
                let now = self.local(end.node);
                self.nodes[end.node.0].engine.handle_datagrams(now, end.port, [datagram]);
                self.drain(end.node);
            }
            Event::Control(end, encoded) => {
                let now = self.local(end.node);
                let message = control::decode(&encoded[control::LENGTH..]).expect("encoded by this world");
                self.nodes[end.node.0].engine.handle_control(now, end.port, message);
                self.drain(end.node);
            }
            Event::Closed(end, closed) => self.closed(end, closed),
            Event::Wake(node) => {
                self.nodes[node.0].wake_at = None;
                let now = self.local(node);
                self.nodes[node.0].engine.handle_timeout(now);
                self.drain(node);
            }
        }
    }

    fn closed(&mut self, end: End, closed: Closed) {
        self.wires.remove(&end);
        let now = self.local(end.node);
        self.nodes[end.node.0].engine.handle_closed(now, end.port, closed);
        self.drain(end.node);
    }

    /// Carries away all that a node has to send, and notes when it wants to be woken.
    fn drain(&mut self, node: NodeId) {
        while let Some(port) = self.nodes[node.0].engine.ports.take_dirty() {
            self.drain_port(End { node, port });
        }
        let floor = self.now + Duration::from_micros(1);
        let entry = &mut self.nodes[node.0];
        let Some(at) = entry.engine.poll_timeout() else { return };
        let at = entry.clock.world(at).max(floor);
        if entry.wake_at.is_none_or(|planned| at < planned) {
            entry.wake_at = Some(at);
            self.schedule(at, Event::Wake(node));
        }
    }

    fn drain_port(&mut self, end: End) {
        let now = self.local(end.node);
        while let Some(message) = self.nodes[end.node.0].engine.ports.poll_control(end.port) {
            self.send_control(end, &message);
        }
        while let Some(length) = {
            let ports = &mut self.nodes[end.node.0].engine.ports;
            ports.poll_transmit(now, end.port, &mut self.scratch)
        } {
            let datagram = self.scratch.split_to(length).freeze();
            self.send_datagram(end, datagram);
        }
        let ports = &mut self.nodes[end.node.0].engine.ports;
        ports.schedule(now, end.port);
        if let Some(closing) = ports.closing(end.port) {
            let closed = closing.closed.clone();
            self.finish(end, closed);
        }
    }

    fn send_datagram(&mut self, end: End, datagram: Bytes) {
        let now = self.now;
        let Some(wire) = self.wires.get_mut(&end) else { return };
        let other = wire.other;
        let mut arrivals = std::mem::take(&mut self.arrivals);
        wire.path.carry(now, &datagram, &mut arrivals);
        for at in arrivals.drain(..) {
            self.schedule(at, Event::Datagram(other, datagram.clone()));
        }
        self.arrivals = arrivals;
    }

    fn send_control(&mut self, end: End, message: &Control) {
        let mut encoded = Vec::new();
        control::encode(message, &mut encoded).expect("its size was checked when it was queued");
        if let Some((at, other)) = self.reliable(end) {
            self.schedule(at, Event::Control(other, encoded));
        }
    }

    /// The port has asked to be closed: this end is done at once, the other hears of it after what was sent before.
    fn finish(&mut self, end: End, closed: Closed) {
        if let Some((at, other)) = self.reliable(end) {
            self.schedule(at, Event::Closed(other, closed.clone()));
        }
        let at = self.now;
        self.schedule(at, Event::Closed(end, closed));
    }

    /// When what is sent reliably from `end` arrives, and where.
    fn reliable(&mut self, end: End) -> Option<(Instant, End)> {
        let wire = self.wires.get_mut(&end)?;
        wire.control_clear_at = wire.control_clear_at.max(self.now + (wire.control_delay)(self.now));
        Some((wire.control_clear_at, wire.other))
    }
}

impl Default for World {
    fn default() -> Self {
        World::new()
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("now", &self.now).field("nodes", &self.nodes.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Join {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Join").field("node", &self.node).field("peer", &self.peer).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "testing_tests.rs"]
mod tests;
