//! A relay with a valid certificate that does not do as it should. An honest one stands inside, so that it goes on saying all that is said to keep up
//! appearances; what passes in and out is the attacker's.

use crate::clients::STREAM;
use anabranch_relay::forward::signal::SIGNAL;
use anabranch_relay::system::RelaySystem;
use bytes::Bytes;
use link::{Delivery, Flags, Instant, Label, MediaTime, Packet, StreamHandle, StreamSeq};
use node::control::{Content, Control, StreamOpen};
use node::trust::Role;
use node::{Closed, EndSystem, Peer, PortId, Ports};
use std::collections::VecDeque;
use std::time::Duration;
use topology::lsdb::{Advertisement, Incarnation};

/// What it does.
#[derive(Clone, Debug)]
pub(crate) enum Vice {
    /// Media that come are acknowledged and go nowhere.
    Drop,
    /// Media wait so long and are said to be as young as they came.
    Delay(Duration),
    /// Every other packet waits so long, and is said to be as young as it came.
    Reorder(Duration),
    /// Every packet leaves so often more, to every neighbour.
    Duplicate(u32),
    /// What passed so long ago leaves once more as if it were new.
    Replay(Duration),
    /// Packets of its own making under the name of the stream, with numbers far ahead.
    Invent,
    /// The neighbours are told that the stream has ended.
    End,
    /// So many statements of its own in every millisecond, each with a new number.
    Flood(Advertisement, u64),
    /// It says that the stream enters the overlay at it, in a life of its own, and sends something under that name.
    Claim(Advertisement),
    /// It says that the stream enters the overlay at it as well, in the life of its true source, and sends something of its own making from this number on, a
    /// packet a millisecond.
    Impersonate(Advertisement, u32),
    /// It says that it brings the stream from its true ingress, and sends something of its own making from this number on, a packet a millisecond.
    Usurp(u32),
    /// It says that the source has begun other lives at the true ingress, twenty more every fifth of a second, from this one on.
    Lives(u64),
}

/// What all payloads of its own making begin with.
pub(crate) const MADE_UP: u8 = 9;

/// The handle under which it sends what is not to be sent.
const OWN: u16 = 40_000;

/// A relay, and what it does that it should not.
pub(crate) struct Hostile {
    pub(crate) system: RelaySystem,
    vice: Option<Vice>,
    waiting: VecDeque<(Instant, PortId, Delivery)>,
    count: u64,
    /// Neighbours that were told of [`OWN`].
    told: Vec<PortId>,
    due: Instant,
}

impl Hostile {
    /// A relay that does as it should.
    pub(crate) fn honest(system: RelaySystem) -> Hostile {
        let (waiting, told) = Default::default();
        Hostile { system, vice: None, waiting, count: 0, told, due: Instant::ORIGIN }
    }

    pub(crate) fn corrupt(&mut self, now: Instant, vice: Option<Vice>) {
        (self.vice, self.due) = (vice, now);
    }

    fn neighbours(ports: &Ports) -> Vec<PortId> {
        ports.iter().filter(|(_, peer, _)| peer.role == Role::Relay).map(|(port, ..)| port).collect()
    }

    fn open(&mut self, port: PortId, ports: &mut Ports) {
        if !self.told.contains(&port) {
            self.told.push(port);
            let claimed = match &self.vice {
                Some(Vice::Claim(ad) | Vice::Impersonate(ad, _)) => Some(ad),
                _ => None,
            };
            ports.control(port, Control::StreamOpen(announcement(claimed)));
        }
    }

    /// Sends a packet under the handle of its own to all neighbours but `from`.
    fn send(&mut self, now: Instant, from: PortId, delivery: &Delivery, seq: StreamSeq, ports: &mut Ports) {
        for port in Self::neighbours(ports) {
            if port == from {
                continue;
            }
            self.open(port, ports);
            let packet = Packet {
                target: None,
                stream: StreamHandle(OWN),
                seq,
                media_time: delivery.media_time,
                age: delivery.age,
                label: delivery.label,
                flags: Flags::default(),
                payload: delivery.payload.clone(),
                recover_until: now + Duration::from_millis(100),
            };
            let _ = ports.send(now, port, packet);
        }
    }

    /// Sends a packet of its own making under this number to all neighbours.
    fn make_up(&mut self, now: Instant, seq: u32, ports: &mut Ports) {
        for port in Self::neighbours(ports) {
            self.open(port, ports);
            let packet = Packet {
                target: None,
                stream: StreamHandle(OWN),
                seq: StreamSeq(seq),
                media_time: MediaTime(now.as_micros() as u32),
                age: Duration::ZERO,
                label: Label(0),
                flags: Flags::default(),
                payload: Bytes::from_static(&[MADE_UP; 1316]),
                recover_until: now + Duration::from_millis(100),
            };
            let _ = ports.send(now, port, packet);
        }
    }

    fn release(&mut self, now: Instant, ports: &mut Ports) {
        while let Some((_, port, delivery)) = self.waiting.pop_front_if(|(due, ..)| *due <= now) {
            match self.vice {
                Some(Vice::Replay(_)) => self.send(now, port, &delivery, delivery.seq, ports),
                _ => self.system.handle_delivery(now, port, delivery, ports),
            }
        }
    }
}

/// The life of the stream that it claims for itself.
pub(crate) const CLAIMED: Incarnation = Incarnation(99);

/// Of the stream as it is, or as it is claimed.
fn announcement(claimed: Option<&Advertisement>) -> StreamOpen {
    let claimed = claimed.map(|ad| (ad.streams[0].incarnation, ad.origin.clone()));
    let (incarnation, ingress) = claimed.unwrap_or_else(|| (Incarnation(1), "a".parse().expect("valid")));
    StreamOpen {
        handle: OWN,
        name: STREAM.parse().expect("valid"),
        incarnation,
        ingress,
        deadline_us: 200_000,
        content: Content::Datagrams,
        sealed: false,
        target_ppb: 0,
    }
}

impl EndSystem for Hostile {
    fn handle_opened(&mut self, now: Instant, port: PortId, ports: &mut Ports) {
        self.system.handle_opened(now, port, ports);
    }

    fn handle_delivery(&mut self, now: Instant, port: PortId, delivery: Delivery, ports: &mut Ports) {
        if delivery.stream == SIGNAL {
            return self.system.handle_delivery(now, port, delivery, ports);
        }
        self.count += 1;
        match self.vice {
            Some(Vice::Drop) => {}
            Some(Vice::Delay(by)) => self.waiting.push_back((now + by, port, delivery)),
            Some(Vice::Reorder(by)) if self.count.is_multiple_of(2) => {
                self.waiting.push_back((now + by, port, delivery));
            }
            Some(Vice::Duplicate(times)) => {
                for _ in 0..times {
                    self.send(now, port, &delivery, delivery.seq, ports);
                }
                self.system.handle_delivery(now, port, delivery, ports);
            }
            Some(Vice::Replay(after)) => {
                self.waiting.push_back((now + after, port, delivery.clone()));
                self.system.handle_delivery(now, port, delivery, ports);
            }
            Some(Vice::Claim(_)) => {
                self.send(now, port, &delivery, delivery.seq, ports);
                self.system.handle_delivery(now, port, delivery, ports);
            }
            Some(Vice::Invent) => {
                if self.count.is_multiple_of(10) {
                    let seq = delivery.seq.plus(1_000_000 + self.count as u32 * 5_000);
                    let invented = Delivery { payload: Bytes::from_static(&[MADE_UP; 1316]), ..delivery.clone() };
                    self.send(now, port, &invented, seq, ports);
                }
                self.system.handle_delivery(now, port, delivery, ports);
            }
            _ => self.system.handle_delivery(now, port, delivery, ports),
        }
    }

    fn handle_control(&mut self, now: Instant, port: PortId, message: Control, ports: &mut Ports) {
        self.system.handle_control(now, port, message, ports);
    }

    fn handle_closed(&mut self, now: Instant, port: PortId, peer: &Peer, closed: &Closed, ports: &mut Ports) {
        self.system.handle_closed(now, port, peer, closed, ports);
    }

    fn handle_timeout(&mut self, now: Instant, ports: &mut Ports) {
        self.release(now, ports);
        if now >= self.due {
            self.due = now + Duration::from_millis(1);
            match self.vice.clone() {
                Some(Vice::End) => {
                    self.due = now + Duration::from_millis(100);
                    for port in Self::neighbours(ports) {
                        self.told.clear();
                        self.open(port, ports);
                        ports.control(port, Control::StreamClose { handle: OWN, ended: true });
                    }
                }
                Some(Vice::Flood(mut advertisement, times)) => {
                    for _ in 0..times {
                        advertisement.seq += 1;
                        for port in Self::neighbours(ports) {
                            ports.control(port, Control::Advertise(advertisement.clone()));
                        }
                    }
                    self.vice = Some(Vice::Flood(advertisement, times));
                }
                Some(Vice::Claim(mut advertisement)) => {
                    self.due = now + Duration::from_millis(200);
                    advertisement.seq += 1;
                    for port in Self::neighbours(ports) {
                        ports.control(port, Control::Advertise(advertisement.clone()));
                    }
                    self.vice = Some(Vice::Claim(advertisement));
                }
                Some(Vice::Impersonate(mut advertisement, seq)) => {
                    self.due = now + Duration::from_millis(1);
                    if seq.is_multiple_of(200) {
                        advertisement.seq += 1;
                        for port in Self::neighbours(ports) {
                            ports.control(port, Control::Advertise(advertisement.clone()));
                        }
                    }
                    self.vice = Some(Vice::Impersonate(advertisement, seq + 1));
                    self.make_up(now, seq, ports);
                }
                Some(Vice::Lives(life)) => {
                    self.due = now + Duration::from_millis(200);
                    self.vice = Some(Vice::Lives(life + 20));
                    for life in life..life + 20 {
                        let (handle, incarnation) = (OWN + (life % 1000) as u16, Incarnation(life));
                        for port in Self::neighbours(ports) {
                            let open = StreamOpen { handle, incarnation, ..announcement(None) };
                            ports.control(port, Control::StreamOpen(open));
                        }
                    }
                }
                Some(Vice::Usurp(seq)) => {
                    self.vice = Some(Vice::Usurp(seq + 1));
                    self.make_up(now, seq, ports);
                }
                _ => {}
            }
        }
        self.system.handle_timeout(now, ports);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let own = matches!(
            self.vice,
            Some(
                Vice::End | Vice::Flood(..) | Vice::Claim(_) | Vice::Impersonate(..) | Vice::Usurp(_) | Vice::Lives(_)
            )
        )
        .then_some(self.due);
        let waiting = self.waiting.front().map(|(due, ..)| *due);
        self.system.poll_timeout().into_iter().chain(own).chain(waiting).min()
    }
}
