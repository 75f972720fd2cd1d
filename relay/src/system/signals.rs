//! What is said to neighbouring relays among the media, so that it arrives before the media it explains.

use super::effect::Trail;
use super::watch::Ear;
use super::{Kind, RelaySystem};
use crate::forward::held::Held;
use crate::forward::signal::{Signal, Signals};
use link::{Delivery, Instant};
use node::control::Control;
use node::{PortId, Ports};
use std::collections::VecDeque;
use std::time::Duration;

/// An announcement is repeated after these times: it outlasts a burst of losses without waiting for a report of it.
const REPEATS: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(15)];

/// A handle that its sender closed is not opened again by a signal for so long: a signal that was overtaken by the closing
/// opens nothing. Handles rest longer than that before they are used again.
const CLOSED_FOR: Duration = Duration::from_secs(5);

/// What is kept for a neighbouring relay.
#[derive(Debug, Default)]
pub(super) struct Neighbour {
    /// Media that overtook the announcement of its stream.
    pub(super) held: Held,
    signals: Signals,
    /// What is heard of the link into this relay.
    pub(super) ear: Ear,
    /// What repair on the link costs and brings.
    pub(super) trail: Trail,
    /// Handles that it closed lately.
    closed: VecDeque<(Instant, u16)>,
}

/// Signals that are to be sent again.
#[derive(Debug)]
pub(super) struct Echo {
    due: Instant,
    port: PortId,
    parts: Vec<Signal>,
}

impl Neighbour {
    /// Notes that a handle was closed.
    pub(super) fn note_closed(&mut self, now: Instant, handle: u16) {
        while self.closed.front().is_some_and(|(at, _)| now.saturating_since(*at) > CLOSED_FOR) {
            self.closed.pop_front();
        }
        // No sender can have more handles than these at rest.
        if self.closed.len() > usize::from(u16::MAX) {
            self.closed.pop_front();
        }
        self.closed.push_back((now, handle));
    }

    fn was_closed(&self, now: Instant, handle: u16) -> bool {
        let lately = |at: Instant| now.saturating_since(at) <= CLOSED_FOR;
        self.closed.iter().any(|(at, closed)| *closed == handle && lately(*at))
    }
}

impl RelaySystem {
    /// Tells a neighbouring relay something that media depend on: at once among the media, twice more soon after, and by
    /// the control stream.
    pub(super) fn announce(&mut self, now: Instant, port: PortId, message: Control, ports: &mut Ports) {
        self.signal_often(now, port, &message, ports);
        ports.control(port, message);
    }

    /// Sends a message among the media, and twice more soon after.
    pub(super) fn signal_often(&mut self, now: Instant, port: PortId, message: &Control, ports: &mut Ports) {
        let parts = self.signal(now, port, message, ports);
        if !parts.is_empty() {
            self.echoes[0].push_back(Echo { due: now + REPEATS[0], port, parts });
        }
    }

    /// Sends a message among the media, once. Returns its parts, to be sent again; none where it goes by no signal.
    pub(super) fn signal(&mut self, now: Instant, port: PortId, message: &Control, ports: &mut Ports) -> Vec<Signal> {
        let Some(Kind::Relay(neighbour)) = self.ports.get_mut(&port).map(|port| &mut port.kind) else {
            return Vec::new();
        };
        let parts = neighbour.signals.pack(message);
        send(now, port, &parts, ports);
        parts
    }

    /// Sends again what is due.
    pub(super) fn repeat_signals(&mut self, now: Instant, ports: &mut Ports) {
        for round in 0..REPEATS.len() {
            while let Some(echo) = self.echoes[round].pop_front_if(|echo| echo.due <= now) {
                send(now, echo.port, &echo.parts, ports);
                if round + 1 < REPEATS.len() {
                    self.echoes[round + 1].push_back(Echo { due: now + REPEATS[round + 1], ..echo });
                }
            }
        }
    }

    /// When [`RelaySystem::repeat_signals`] has something to do.
    pub(super) fn repeat_due(&self) -> Option<Instant> {
        self.echoes.iter().filter_map(|echoes| echoes.front()).map(|echo| echo.due).min()
    }

    /// Takes a signal in; nothing but what a relay announces travels so.
    pub(super) fn take_signal(&mut self, now: Instant, port: PortId, delivery: &Delivery, ports: &mut Ports) {
        let Some(Kind::Relay(neighbour)) = self.ports.get_mut(&port).map(|port| &mut port.kind) else {
            self.refused.protocol += 1;
            return;
        };
        match neighbour.signals.receive(delivery) {
            Ok(None) => {}
            Ok(Some(Control::StreamOpen(open))) => {
                if !neighbour.was_closed(now, open.handle) {
                    self.stream_open(now, port, open, ports);
                }
            }
            Ok(Some(
                message @ (Control::Install(_)
                | Control::Advertise(_)
                | Control::Trouble(_)
                | Control::Pull(_)
                | Control::Signed(_)),
            )) => {
                self.take_from_relay(now, port, message, ports);
            }
            Ok(Some(_)) | Err(_) => self.refused.protocol += 1,
        }
        self.settle(now, ports);
    }
}

fn send(now: Instant, port: PortId, parts: &[Signal], ports: &mut Ports) {
    for part in parts {
        // What the link does not take goes by the control stream.
        let _ = ports.send(now, port, part.packet(now));
    }
}
