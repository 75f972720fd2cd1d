//! What a host holds: the engine, and for each port the connection that carries it.

use super::Transport;
use super::carriage::{Carriage, Copies, Posts};
use super::path_watch::PathWatch;
use crate::control::CloseCode;
use crate::endpoint::{Carrier, DATAGRAM_BUFFER, Paths, weight};
use crate::engine::Engine;
use crate::ports::{Closed, EndSystem, PortId, Ports};
use crate::rate::{INITIAL_RATE, RateHandle};
use bytes::{Bytes, BytesMut};
use link::{Bitrate, Instant, Link};
use quinn::{Connection, VarInt};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// Of the link's rate, this much may wait in quinn.
const HELD: Duration = Duration::from_millis(25);

/// The least that may wait in quinn: a burst of 44 packets, as one GSO batch or a few.
const LEAST_HELD: usize = 64 * 1024;

/// What quinn counts for a queued datagram beyond its bytes.
const OVERHEAD: usize = size_of::<Bytes>();

/// Packets are cut from arenas of this size: one allocation for dozens, and what history keeps of one link lies together.
pub(super) const ARENA: usize = 32 * 1024;

/// Room in the arena below which it is renewed before a datagram is written: more than any frame.
const FRAME_ROOM: usize = 2048;

/// How long a closing port may take to have its last control messages read.
const LAST_WORD: Duration = Duration::from_millis(500);

pub(super) struct Core<S> {
    pub(super) engine: Engine<S>,
    /// By the slot of the port's id.
    wires: Vec<Option<Wire>>,
    incoming: Copies,
    outgoing: BytesMut,
    posts: Posts,
    /// Ports that had more to send than quinn may hold.
    stuck: Vec<PortId>,
    /// Until when the time is counted for which this thread has been behind, while it is.
    behind_until: Option<Instant>,
    time_behind: Duration,
}

struct Wire {
    port: PortId,
    connection: Connection,
    carriage: Carriage,
    rate: RateHandle,
    /// Where the size of the path is ours to watch.
    watch: Option<PathWatch>,
    /// Wakes the task that writes control messages.
    writer: Rc<Notify>,
    max_frame: usize,
    address: SocketAddr,
    /// Most bytes that may wait in quinn.
    limit: usize,
    /// At least so many more may be queued: counted down here, asked of quinn when it runs out.
    room: usize,
    stuck: bool,
    /// Control messages wait behind datagrams: no more of these until quinn has sent all that it holds.
    control_first: bool,
    close_by: Option<Instant>,
    held_back: u64,
}

impl<S: EndSystem> Core<S> {
    pub(super) fn new(system: S) -> Core<S> {
        Core {
            engine: Engine::new(system),
            wires: Vec::new(),
            incoming: Copies::default(),
            outgoing: BytesMut::new(),
            posts: Posts::default(),
            stuck: Vec::new(),
            behind_until: None,
            time_behind: Duration::ZERO,
        }
    }

    /// Takes how far behind this thread is, before each turn.
    pub(super) fn set_lag(&mut self, now: Instant, lag: Duration) {
        self.engine.ports.set_lag(lag);
        let behind = lag >= Link::BEHIND;
        if behind {
            self.time_behind += now - self.behind_until.unwrap_or(now.saturating_sub(lag));
        }
        self.behind_until = behind.then_some(now);
    }

    /// How long this thread has been behind, up to the last turn.
    pub(super) fn time_behind(&self) -> Duration {
        self.time_behind
    }

    /// Joins a port that was just opened with its connection.
    pub(super) fn attach(
        &mut self,
        port: PortId,
        (connection, carrier): (Connection, Option<Arc<Carrier>>),
        rate: RateHandle,
        paths: Option<Arc<Paths>>,
        max_frame: usize,
        writer: Rc<Notify>,
    ) {
        let slot = port.slot();
        if self.wires.len() <= slot {
            self.wires.resize_with(slot + 1, || None);
        }
        let address = connection.remote_address();
        let mut wire = Wire {
            port,
            carriage: self.posts.carriage(carrier, &connection),
            connection,
            rate,
            watch: paths.map(PathWatch::new),
            writer,
            max_frame,
            address,
            limit: LEAST_HELD,
            room: 0,
            stuck: false,
            control_first: false,
            close_by: None,
            held_back: 0,
        };
        wire.follow_rate(INITIAL_RATE, wire.connection.rtt(), wire.connection.min_rtt());
        self.wires[slot] = Some(wire);
    }

    pub(super) fn opened(&mut self, now: Instant, port: PortId) {
        let Engine { system, ports } = &mut self.engine;
        system.handle_opened(now, port, ports);
    }

    /// Takes datagrams that quinn received on this thread, all of one wake-up.
    pub(super) fn receive(&mut self, now: Instant, port: PortId, batch: &mut Vec<Bytes>) {
        let Core { engine, incoming, .. } = self;
        engine.handle_datagrams(now, port, batch.drain(..).map(|datagram| incoming.copy(&datagram)));
    }

    /// Takes datagrams that another thread has received, and copied.
    pub(super) fn receive_from_afar(&mut self, now: Instant, batch: impl Iterator<Item = (PortId, Bytes)>) {
        for (port, datagram) in batch {
            self.engine.handle_datagrams(now, port, [datagram]);
        }
    }

    /// The connection of a port is gone.
    pub(super) fn closed(&mut self, now: Instant, port: PortId, closed: Closed) -> Closed {
        if self.wire(port).is_some() {
            self.wires[port.slot()] = None;
        }
        self.engine.handle_closed(now, port, closed.clone()).unwrap_or(closed)
    }

    /// Hands to quinn what the ports have to send.
    pub(super) fn drain(&mut self, now: Instant) {
        while let Some(port) = self.engine.ports.take_dirty() {
            self.drain_port(now, port);
        }
        self.posts.dispatch();
    }

    pub(super) fn has_stuck(&self) -> bool {
        !self.stuck.is_empty()
    }

    /// Tries again where quinn had no room.
    pub(super) fn retry(&mut self) {
        for port in std::mem::take(&mut self.stuck) {
            if let Some(wire) = self.wire(port) {
                wire.stuck = false;
                self.engine.ports.touch(port);
            }
        }
    }

    fn drain_port(&mut self, now: Instant, port: PortId) {
        let Core { engine, wires, outgoing, stuck, posts, .. } = self;
        let ports = &mut engine.ports;
        let Some(wire) = wires.get_mut(port.slot()).and_then(Option::as_mut).filter(|wire| wire.port == port) else {
            return;
        };
        if let Some(closing) = ports.closing(port) {
            wire.close(now, &closing.closed, closing.flush);
            return;
        }
        if ports.has_control(port) {
            wire.writer.notify_one();
        }
        let mut first = true;
        while wire.has_room(wire.max_frame + OVERHEAD) {
            if outgoing.capacity() < FRAME_ROOM.max(wire.max_frame) {
                outgoing.reserve(ARENA.max(wire.max_frame));
            }
            let Some(length) = ports.poll_transmit(now, port, outgoing) else {
                ports.schedule(now, port);
                return;
            };
            let datagram = outgoing.split_to(length).freeze();
            wire.room = wire.room.saturating_sub(weight(&datagram));
            wire.carriage.send(&wire.connection, datagram, std::mem::take(&mut first), posts);
        }
        ports.schedule(now, port);
        if !wire.stuck {
            wire.stuck = true;
            wire.held_back += 1;
            stuck.push(port);
        }
    }

    /// What is looked at now and then rather than at every packet: path MTU, rates, moved peers, closings that take too long.
    pub(super) fn housekeeping(&mut self, now: Instant) {
        for wire in self.wires.iter_mut().flatten() {
            let ports = &mut self.engine.ports;
            if wire.close_by.is_some_and(|by| by <= now) {
                if let Some(closing) = ports.closing(wire.port) {
                    wire.hang_up(&closing.closed);
                }
                continue;
            }
            wire.follow_address();
            if wire.watch.as_mut().is_some_and(|watch| watch.finds_small(now, wire.port, ports)) {
                wire.give_way(ports);
                continue;
            }
            // The link is only touched where something changed, so that idle ones are not woken.
            if let Some(max_frame) = wire.connection.max_datagram_size()
                && max_frame != wire.max_frame
            {
                tracing::debug!(was = wire.max_frame, now = max_frame, "the path carries frames of another size");
                wire.max_frame = max_frame;
                if let Some(link) = ports.link_mut(wire.port) {
                    link.set_max_frame(max_frame);
                }
            }
            if let Some(link) = ports.link(wire.port) {
                let quality = link.quality(now);
                let rate = rate_for(link.policy().capacity, quality.capacity, quality.media_rate);
                let rtt = wire.connection.rtt().max(quality.rtt);
                let rtt_min = if quality.rtt_min.is_zero() { rtt } else { quality.rtt_min };
                wire.follow_rate(rate, rtt, rtt_min);
            }
        }
    }

    /// Notes that control messages were written to a port's stream; see [`Wire::control_first`].
    pub(super) fn control_written(&mut self, port: PortId) {
        if let Some(wire) = self.wire(port) {
            wire.control_first = wire.queued() > 0;
        }
    }

    pub(super) fn transport(&self, port: PortId) -> Option<Transport> {
        let wire = self.wires.get(port.slot())?.as_ref().filter(|wire| wire.port == port)?;
        let stats = wire.connection.stats();
        Some(Transport {
            rtt: stats.path.rtt,
            path_payload: stats.path.current_mtu,
            udp_sent_bytes: stats.udp_tx.bytes,
            udp_received_bytes: stats.udp_rx.bytes,
            udp_sent: stats.udp_tx.datagrams,
            udp_received: stats.udp_rx.datagrams,
            rate: wire.rate.rate(),
            backoff: wire.rate.backoff(),
            too_large: wire.carriage.too_large(),
            held_back: wire.held_back,
        })
    }

    fn wire(&mut self, port: PortId) -> Option<&mut Wire> {
        self.wires.get_mut(port.slot())?.as_mut().filter(|wire| wire.port == port)
    }
}

/// The rate that a connection's window is made for: what the operator or the link says, else room for a feed to grow.
fn rate_for(configured: Option<Bitrate>, estimated: Option<Bitrate>, media: Bitrate) -> Bitrate {
    configured.or(estimated).unwrap_or_else(|| Bitrate::bps(media.as_bps().saturating_mul(4)).max(INITIAL_RATE))
}

impl Wire {
    fn has_room(&mut self, bytes: usize) -> bool {
        if self.room < bytes || self.control_first {
            let queued = self.queued();
            self.control_first &= queued > 0;
            self.room = if self.control_first { 0 } else { self.limit.saturating_sub(queued) };
        }
        self.room >= bytes
    }

    /// Bytes of datagrams that quinn holds, or that are on their way to it.
    fn queued(&self) -> usize {
        // In this order: what is passed on meanwhile counts twice rather than not at all.
        let on_its_way = self.carriage.on_its_way();
        let space = self.connection.datagram_send_buffer_space();
        DATAGRAM_BUFFER.saturating_sub(OVERHEAD).saturating_sub(space) + on_its_way
    }

    fn follow_rate(&mut self, rate: Bitrate, rtt: Duration, rtt_min: Duration) {
        self.rate.set(rate, rtt, rtt_min);
        let held = usize::try_from(rate.bytes_in(HELD)).unwrap_or(usize::MAX);
        self.limit = held.clamp(LEAST_HELD, DATAGRAM_BUFFER / 2);
    }

    /// The path has become smaller than the connection is made for: whoever dialled dials again, with the least.
    fn give_way(&mut self, ports: &mut Ports) {
        if let Some(watch) = &self.watch {
            watch.remember(self.address);
        }
        let reason = "the path no longer carries packets of the size that it did; dialling again with smaller ones";
        ports.close(self.port, CloseCode::Lost, reason);
    }

    /// A peer that has moved gets a new controller from quinn.
    fn follow_address(&mut self) {
        let address = self.connection.remote_address();
        if address != self.address {
            tracing::info!(from = %self.address, to = %address, "a peer has moved");
            self.address = address;
            if let Some(rate) = RateHandle::of(&self.connection) {
                self.rate = rate;
            }
        }
    }

    /// With `flush` the writer closes the connection when the last control messages were read.
    fn close(&mut self, now: Instant, closed: &Closed, flush: bool) {
        if !flush {
            self.hang_up(closed);
        } else if self.close_by.is_none() {
            self.close_by = Some(now + LAST_WORD);
            self.writer.notify_one();
        }
    }

    fn hang_up(&self, closed: &Closed) {
        self.connection.close(VarInt::from_u32(closed.code.to_wire()), closed.reason.as_bytes());
    }
}
