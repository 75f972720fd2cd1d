//! The pure side of a node: the end system and the ports it acts on.

use crate::control::{CloseCode, Control};
use crate::trust::{Grant, Role};
use link::{Delivery, Instant, Link, LinkConfig, Packet, SendError};
use std::net::SocketAddr;
use topology::NodeName;

/// One neighbour of this node, for as long as its connection lives. Never reused within a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub u64);

/// Who is at the other end, as the handshake established it.
#[derive(Clone, Debug)]
pub struct Peer {
    /// From its certificate; for a peer that came with a token alone, made from the token's id.
    pub name: NodeName,
    /// From its certificate or token.
    pub role: Role,
    /// What its tokens allow it; empty for relays.
    pub grants: Vec<Grant>,
    /// Where it was when it connected.
    pub address: SocketAddr,
    /// Whether this end dialled.
    pub dialled: bool,
}

/// Why a port closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// The reason, for programs.
    pub code: CloseCode,
    /// The reason, for people.
    pub reason: String,
}

/// A relay, a source or a sink: the decisions, without sockets, tasks or clocks.
///
/// The same implementation runs in the daemon ([`crate::Host`]) and in the simulator. Every call is followed by a drain
/// of what it did to `ports`, and by a new look at [`EndSystem::poll_timeout`].
pub trait EndSystem {
    /// The handshake with a neighbour is done; its link stands ready.
    fn handle_opened(&mut self, now: Instant, port: PortId, ports: &mut Ports);
    /// A media packet arrived. Called in a run for all that one wake-up brought.
    fn handle_delivery(&mut self, now: Instant, port: PortId, delivery: Delivery, ports: &mut Ports);
    /// A control message arrived.
    fn handle_control(&mut self, now: Instant, port: PortId, message: Control, ports: &mut Ports);
    /// The neighbour is gone. `ports` no longer knows the port; `peer` is who it was.
    fn handle_closed(&mut self, now: Instant, port: PortId, peer: &Peer, closed: &Closed, ports: &mut Ports);
    /// Something asked for by [`EndSystem::poll_timeout`] has come due.
    fn handle_timeout(&mut self, now: Instant, ports: &mut Ports);
    /// When [`EndSystem::handle_timeout`] wants to be called.
    fn poll_timeout(&self) -> Option<Instant>;
}

/// The links of a node and what is queued on each, seen from its end system.
#[derive(Debug, Default)]
pub struct Ports {}

#[expect(unused_variables, reason = "contract only")]
impl Ports {
    /// No ports yet.
    pub fn new() -> Ports {
        todo!()
    }

    /// Queues a media packet. A port that is gone swallows it: its closing is told by [`EndSystem::handle_closed`].
    pub fn send(&mut self, now: Instant, port: PortId, packet: Packet) -> Result<(), SendError> {
        todo!()
    }

    /// Queues a control message, in order, reliably. A peer that does not take its messages is closed when too many wait.
    pub fn control(&mut self, port: PortId, message: Control) {
        todo!()
    }

    /// Closes a port after what is queued on its control stream has left.
    pub fn close(&mut self, port: PortId, code: CloseCode, reason: &str) {
        todo!()
    }

    /// The link of a port, to read its measurements.
    pub fn link(&self, port: PortId) -> Option<&Link> {
        todo!()
    }

    /// The link of a port, to change its policy.
    pub fn link_mut(&mut self, port: PortId) -> Option<&mut Link> {
        todo!()
    }

    /// Who is at a port.
    pub fn peer(&self, port: PortId) -> Option<&Peer> {
        todo!()
    }

    /// All ports, in the order of their opening.
    pub fn iter(&self) -> impl Iterator<Item = (PortId, &Peer, &Link)> {
        std::iter::empty()
    }

    // What follows is for the shell (or the simulator) that drives the ports.

    /// Adds a port with a fresh link.
    pub fn open(&mut self, now: Instant, peer: Peer, config: LinkConfig) -> PortId {
        todo!()
    }
}
