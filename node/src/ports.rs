//! The pure side of a node: the end system and the ports it acts on.

use crate::control::{self, CloseCode, Control};
use crate::trust::{Grant, Role};
use bytes::{Bytes, BytesMut};
use link::{Delivery, Instant, Link, LinkConfig, Packet, SendError};
use slab::Slab;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;
use topology::{LinkEnd, LinkName, NodeName};

/// Most control messages that wait for one peer; one more and the port is closed.
pub const MAX_QUEUED_MESSAGES: usize = 4096;

/// Most encoded bytes of control messages that wait for one peer.
pub const MAX_QUEUED_BYTES: usize = 8 << 20;

/// One neighbour of this node, for as long as its connection lives. Never reused within a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub u64);

/// Bits of a [`PortId`] that tell its place in the slab; the bits above count up, so that ids are never reused.
const SLOT_BITS: u32 = 24;

impl PortId {
    /// Its place in a table of the ports that are open.
    pub(crate) fn slot(self) -> usize {
        (self.0 & ((1 << SLOT_BITS) - 1)) as usize
    }
}

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
    /// Optional features that both ends have, by bit.
    pub features: u64,
    /// Between relays: which of the links that join them this is.
    pub link: Option<LinkName>,
}

impl Peer {
    /// The link to it, as this end calls it.
    pub fn link_end(&self) -> LinkEnd {
        LinkEnd { relay: self.name.clone(), link: self.link.clone() }
    }
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
    /// A neighbour has shown other tokens, and this is what they allow. Nothing, where nothing is done by tokens.
    fn handle_rights(&mut self, _now: Instant, _port: PortId, _grants: Vec<Grant>, _ports: &mut Ports) {}
    /// The neighbour is gone. `ports` no longer knows the port; `peer` is who it was.
    fn handle_closed(&mut self, now: Instant, port: PortId, peer: &Peer, closed: &Closed, ports: &mut Ports);
    /// Something asked for by [`EndSystem::poll_timeout`] has come due.
    fn handle_timeout(&mut self, now: Instant, ports: &mut Ports);
    /// When [`EndSystem::handle_timeout`] wants to be called.
    fn poll_timeout(&self) -> Option<Instant>;
}

/// The links of a node and what is queued on each, seen from its end system.
#[derive(Debug, Default)]
pub struct Ports {
    slots: Slab<Port>,
    /// Ids of the ports in `slots`, in the order of their opening.
    order: Vec<PortId>,
    opened: u64,
    /// Ports touched since the driver last looked; each at most once (`Port::dirty`).
    dirty: VecDeque<PortId>,
    /// When links want to be woken. An entry is void unless it equals its port's `wake_at`.
    wakes: BinaryHeap<Reverse<(Instant, PortId)>>,
    /// How far behind the driver is.
    lag: Duration,
}

#[derive(Debug)]
struct Port {
    id: PortId,
    peer: Peer,
    link: Link,
    queue: VecDeque<(Control, usize)>,
    queued_bytes: usize,
    closing: Option<Closing>,
    dirty: bool,
    wake_at: Option<Instant>,
}

/// A close that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closing {
    /// What to tell the peer.
    pub closed: Closed,
    /// Whether the queued control messages go first.
    pub flush: bool,
}

impl Ports {
    /// No ports yet.
    pub fn new() -> Ports {
        Ports::default()
    }

    /// Queues a media packet. A port that is gone swallows it: its closing is told by [`EndSystem::handle_closed`].
    pub fn send(&mut self, now: Instant, port: PortId, packet: Packet) -> Result<(), SendError> {
        let Some(entry) = get_mut(&mut self.slots, port).filter(|entry| entry.closing.is_none()) else {
            return Ok(());
        };
        let sent = entry.link.send(now, packet);
        mark(&mut self.dirty, entry);
        sent
    }

    /// Queues a control message, in order, reliably. A peer that does not take its messages is closed when too many wait: as a bound reached, or
    /// as lost where it is a relay, between which `Overload` says that there is no place for one more link.
    pub fn control(&mut self, port: PortId, message: Control) {
        let Some(entry) = get_mut(&mut self.slots, port).filter(|entry| entry.closing.is_none()) else {
            return;
        };
        let size = match control::encoded_size(&message) {
            Ok(size) => size,
            Err(error) => {
                tracing::error!(peer = %entry.peer.name, %error, "a control message is not sent");
                return;
            }
        };
        if entry.queue.len() >= MAX_QUEUED_MESSAGES || entry.queued_bytes + size > MAX_QUEUED_BYTES {
            let reason = format!("{} control messages wait, {} bytes", entry.queue.len(), entry.queued_bytes);
            let code = if entry.peer.role == Role::Relay { CloseCode::Lost } else { CloseCode::Overload };
            entry.shut(Closed { code, reason }, false);
        } else {
            entry.queued_bytes += size;
            entry.queue.push_back((message, size));
        }
        mark(&mut self.dirty, entry);
    }

    /// How many control messages wait for the peer of a port, and how many bytes they are.
    pub fn queued(&self, port: PortId) -> (usize, usize) {
        get(&self.slots, port).map_or((0, 0), |entry| (entry.queue.len(), entry.queued_bytes))
    }

    /// Closes a port after what is queued on its control stream has left. From this call on the port takes nothing more,
    /// and nothing more arrives from it but [`EndSystem::handle_closed`], with this code and reason.
    pub fn close(&mut self, port: PortId, code: CloseCode, reason: &str) {
        let Some(entry) = get_mut(&mut self.slots, port).filter(|entry| entry.closing.is_none()) else {
            return;
        };
        entry.shut(Closed { code, reason: reason.to_owned() }, true);
        mark(&mut self.dirty, entry);
    }

    /// The link of a port, to read its measurements.
    pub fn link(&self, port: PortId) -> Option<&Link> {
        get(&self.slots, port).map(|entry| &entry.link)
    }

    /// The link of a port, to change its policy.
    pub fn link_mut(&mut self, port: PortId) -> Option<&mut Link> {
        let entry = get_mut(&mut self.slots, port)?;
        mark(&mut self.dirty, entry);
        Some(&mut entry.link)
    }

    /// Who is at a port.
    pub fn peer(&self, port: PortId) -> Option<&Peer> {
        get(&self.slots, port).map(|entry| &entry.peer)
    }

    /// All ports, in the order of their opening.
    pub fn iter(&self) -> impl Iterator<Item = (PortId, &Peer, &Link)> {
        self.order.iter().filter_map(|id| get(&self.slots, *id).map(|entry| (*id, &entry.peer, &entry.link)))
    }

    /// How many ports there are.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

/// What follows is for the shell (or the simulator) that drives the ports; [`crate::engine::Engine`] keeps the order.
impl Ports {
    /// Adds a port with a fresh link.
    pub fn open(&mut self, now: Instant, peer: Peer, config: LinkConfig) -> PortId {
        let slot = self.slots.vacant_entry();
        assert!(slot.key() < 1 << SLOT_BITS, "more ports than a PortId can tell apart");
        let id = PortId(self.opened << SLOT_BITS | slot.key() as u64);
        self.opened += 1;
        let entry = slot.insert(Port {
            id,
            peer,
            link: Link::new(now, config),
            queue: VecDeque::new(),
            queued_bytes: 0,
            closing: None,
            dirty: false,
            wake_at: None,
        });
        mark(&mut self.dirty, entry);
        self.order.push(id);
        id
    }

    /// Takes a port out; whatever is queued on it is gone.
    pub fn remove(&mut self, port: PortId) -> Option<Peer> {
        get(&self.slots, port)?;
        self.order.retain(|id| *id != port);
        Some(self.slots.remove(port.slot()).peer)
    }

    /// The next port that was touched since it was last taken: look at its control queue, closing and transmissions.
    pub fn take_dirty(&mut self) -> Option<PortId> {
        loop {
            let port = self.dirty.pop_front()?;
            if let Some(entry) = get_mut(&mut self.slots, port) {
                entry.dirty = false;
                return Some(port);
            }
        }
    }

    /// Has [`Ports::take_dirty`] return a port (again): its driver could not send all that it offered.
    pub fn touch(&mut self, port: PortId) {
        if let Some(entry) = get_mut(&mut self.slots, port) {
            mark(&mut self.dirty, entry);
        }
    }

    /// Takes how far behind the driver is, before it gives and takes anything: links that are touched from now on are told.
    pub fn set_lag(&mut self, lag: Duration) {
        let was = std::mem::replace(&mut self.lag, lag);
        if was >= Link::BEHIND && lag < Link::BEHIND {
            // Also those that are not: for them time goes on.
            for (_, entry) in &mut self.slots {
                entry.link.set_lag(lag);
            }
        }
    }

    /// Gives a datagram from the peer to the link. Drain [`Ports::poll_delivery`] after it.
    pub fn handle_datagram(&mut self, now: Instant, port: PortId, datagram: Bytes) {
        let Some(entry) = get_mut(&mut self.slots, port).filter(|entry| entry.closing.is_none()) else {
            return;
        };
        entry.link.set_lag(self.lag);
        entry.link.handle_datagram(now, datagram);
        mark(&mut self.dirty, entry);
    }

    /// The next packet that arrived at a port.
    pub fn poll_delivery(&mut self, port: PortId) -> Option<Delivery> {
        let entry = get_mut(&mut self.slots, port)?;
        if entry.closing.is_some() {
            return None;
        }
        entry.link.poll_delivery()
    }

    /// Appends the next datagram that the port may send at `now` to `out`, and returns its length.
    pub fn poll_transmit(&mut self, now: Instant, port: PortId, out: &mut BytesMut) -> Option<usize> {
        let entry = get_mut(&mut self.slots, port)?;
        if entry.closing.is_some() {
            return None;
        }
        entry.link.set_lag(self.lag);
        entry.link.poll_transmit(now, out)
    }

    /// The next control message for the peer of a port.
    pub fn poll_control(&mut self, port: PortId) -> Option<Control> {
        let entry = get_mut(&mut self.slots, port)?;
        let (message, size) = entry.queue.pop_front()?;
        entry.queued_bytes -= size;
        Some(message)
    }

    /// Whether control messages wait for the peer of a port.
    pub fn has_control(&self, port: PortId) -> bool {
        get(&self.slots, port).is_some_and(|entry| !entry.queue.is_empty())
    }

    /// Whether the port shall be closed, and how.
    pub fn closing(&self, port: PortId) -> Option<&Closing> {
        get(&self.slots, port)?.closing.as_ref()
    }

    /// Whether events from the peer still go to the end system.
    pub fn is_open(&self, port: PortId) -> bool {
        get(&self.slots, port).is_some_and(|entry| entry.closing.is_none())
    }

    /// Notes when the link of a port wants to be woken: later than `now` in any case, so that time goes on. To be
    /// called when a port has been drained.
    pub fn schedule(&mut self, now: Instant, port: PortId) {
        let Some(entry) = get_mut(&mut self.slots, port) else { return };
        let Some((at, _)) = entry.link.poll_timeout() else { return };
        let at = at.max(now + Duration::from_micros(1));
        // A wake-up that comes early is harmless and sets the next one, so a later time needs no new entry.
        if entry.wake_at.is_none_or(|planned| at < planned) {
            entry.wake_at = Some(at);
            self.wakes.push(Reverse((at, port)));
        }
    }

    /// When the first link wants to be woken.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.wakes.peek().map(|Reverse((at, _))| *at)
    }

    /// Wakes one link whose time has come, and says which; `None` when no other is due. Drain [`Ports::poll_delivery`]
    /// after each.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<PortId> {
        loop {
            let Reverse((at, port)) = *self.wakes.peek()?;
            if at > now {
                return None;
            }
            self.wakes.pop();
            let Some(entry) = get_mut(&mut self.slots, port) else { continue };
            if entry.wake_at != Some(at) {
                continue;
            }
            entry.wake_at = None;
            if entry.closing.is_some() {
                continue;
            }
            entry.link.set_lag(self.lag);
            entry.link.handle_timeout(now);
            mark(&mut self.dirty, entry);
            return Some(port);
        }
    }
}

impl Port {
    fn shut(&mut self, closed: Closed, flush: bool) {
        if !flush {
            self.queue.clear();
            self.queued_bytes = 0;
        }
        self.closing = Some(Closing { closed, flush });
    }
}

fn get(slots: &Slab<Port>, port: PortId) -> Option<&Port> {
    slots.get(port.slot()).filter(|entry| entry.id == port)
}

fn get_mut(slots: &mut Slab<Port>, port: PortId) -> Option<&mut Port> {
    slots.get_mut(port.slot()).filter(|entry| entry.id == port)
}

fn mark(dirty: &mut VecDeque<PortId>, entry: &mut Port) {
    if !entry.dirty {
        entry.dirty = true;
        dirty.push_back(entry.id);
    }
}
