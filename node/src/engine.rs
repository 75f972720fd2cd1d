//! An end system, its ports, and the order in which the two are called: what the shell and the simulator have in common.

use crate::control::Control;
use crate::ports::{Closed, EndSystem, Peer, PortId, Ports};
use crate::trust::Grant;
use bytes::Bytes;
use link::{Instant, LinkConfig};

/// An end system with its ports. After each call the driver takes the dirty ports and drains them, then sleeps until
/// [`Engine::poll_timeout`].
#[derive(Debug)]
pub struct Engine<S> {
    /// The decisions.
    pub system: S,
    /// The links.
    pub ports: Ports,
}

impl<S: EndSystem> Engine<S> {
    /// `system` without any port.
    pub fn new(system: S) -> Engine<S> {
        Engine { system, ports: Ports::new() }
    }

    /// A neighbour has passed the handshake.
    pub fn open(&mut self, now: Instant, peer: Peer, config: LinkConfig) -> PortId {
        let port = self.ports.open(now, peer, config);
        self.system.handle_opened(now, port, &mut self.ports);
        port
    }

    /// Datagrams arrived, all of one wake-up.
    pub fn handle_datagrams(&mut self, now: Instant, port: PortId, datagrams: impl IntoIterator<Item = Bytes>) {
        for datagram in datagrams {
            self.ports.handle_datagram(now, port, datagram);
            self.deliver(now, port);
        }
    }

    /// A control message arrived.
    pub fn handle_control(&mut self, now: Instant, port: PortId, message: Control) {
        if self.ports.is_open(port) {
            self.system.handle_control(now, port, message, &mut self.ports);
        }
    }

    /// A neighbour has shown other tokens.
    pub fn handle_rights(&mut self, now: Instant, port: PortId, grants: Vec<Grant>) {
        if self.ports.is_open(port) {
            self.system.handle_rights(now, port, grants, &mut self.ports);
        }
    }

    /// The connection is gone, or the driver has closed it as asked. A close that was asked for is what the end system
    /// hears of, whatever the connection says.
    pub fn handle_closed(&mut self, now: Instant, port: PortId, closed: Closed) -> Option<Closed> {
        let closed = self.ports.closing(port).map_or(closed, |closing| closing.closed.clone());
        let peer = self.ports.remove(port)?;
        self.system.handle_closed(now, port, &peer, &closed, &mut self.ports);
        Some(closed)
    }

    /// Does what has come due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(port) = self.ports.handle_timeout(now) {
            self.deliver(now, port);
        }
        if self.system.poll_timeout().is_some_and(|at| at <= now) {
            self.system.handle_timeout(now, &mut self.ports);
        }
    }

    /// When [`Engine::handle_timeout`] is to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let (links, system) = (self.ports.poll_timeout(), self.system.poll_timeout());
        links.into_iter().chain(system).min()
    }

    fn deliver(&mut self, now: Instant, port: PortId) {
        while let Some(delivery) = self.ports.poll_delivery(port) {
            self.system.handle_delivery(now, port, delivery, &mut self.ports);
        }
    }
}
