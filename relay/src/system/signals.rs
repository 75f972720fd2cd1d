//! What is said to neighbouring relays among the media, so that it arrives before the media it explains.

use super::allowance::{Allowance, Terms};
use super::effect::Trail;
use super::owed::Owed;
use super::watch::Ear;
use super::{Kind, RelaySystem};
use crate::forward::held::Held;
use crate::forward::signal::{Signal, Signals};
use link::{Delivery, Instant};
use node::control::Control;
use node::{PortId, Ports};
use std::collections::BTreeMap;
use std::time::Duration;

/// An announcement is repeated after these times: it outlasts a burst of losses without waiting for a report of it.
const REPEATS: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(15)];

/// A handle that its sender closed is not opened again by a signal for so long: a signal that was overtaken by the closing
/// opens nothing. Handles rest longer than that before they are used again.
const CLOSED_FOR: Duration = Duration::from_secs(5);

/// Parts of signals that are taken of a neighbour: more than the graphs of five hundred streams have, which are announced three times.
const PARTS: Terms = Terms { at_once: 16_384, a_second: 16_384 };

/// Statements among them, whose signatures are checked. The control stream brings them again.
const STATEMENTS: Terms = Terms { at_once: 2_000, a_second: 500 };

/// Streams announced among them: those of two thousand streams, which are announced three times. The control stream brings them again, too.
const OPENS: Terms = Terms { at_once: 6_000, a_second: 2_000 };

/// Questions among them, each counted as [`QUESTION`] and [`NUMBER`] for each number it names: those of thousands of streams that all fail at once.
const QUESTIONS: Terms = Terms { at_once: 8 << 20, a_second: 2 << 20 };
const QUESTION: usize = 512;
const NUMBER: usize = 16;

/// Numbers of one question that are counted at most; what names more is refused unread.
const MOST_NUMBERS: usize = 4096;

/// A neighbour that passes on what is not believed is complained of so often; counted is each.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

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
    /// What it is yet to be told.
    pub(super) owed: Owed,
    /// Handles that it closed, and when last.
    closed: BTreeMap<u16, Instant>,
    /// When those were let go that it had closed long ago.
    swept: Option<Instant>,
    /// Parts of its signals that were taken.
    parts: Allowance,
    complained: Option<Instant>,
}

/// How much of a relay's signals was taken, by whichever of its links, and however often it has dialled.
#[derive(Debug, Default)]
pub(super) struct Taken {
    statements: Allowance,
    questions: Allowance,
    opens: Allowance,
}

impl Taken {
    /// Whether a message that has come whole is taken.
    fn takes(&mut self, now: Instant, message: &Control) -> bool {
        match message {
            Control::Signed(_) | Control::Install(_) | Control::Advertise(_) | Control::Trouble(_) => {
                self.statements.take(now, 1, STATEMENTS)
            }
            Control::Pull(pull) => {
                let numbers: usize = pull.missing.iter().map(|(_, count)| usize::from(*count)).sum();
                self.questions.take(now, QUESTION + NUMBER * numbers.min(MOST_NUMBERS), QUESTIONS)
            }
            Control::StreamOpen(_) => self.opens.take(now, 1, OPENS),
            _ => true,
        }
    }

    /// Whether nothing of it is taken.
    pub(super) fn is_whole(&self, now: Instant) -> bool {
        [&self.statements, &self.questions, &self.opens].iter().all(|allowance| allowance.is_whole(now))
    }
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
        // Seldom: a sender can have tens of thousands of handles at rest.
        if self.swept.is_none_or(|at| now.saturating_since(at) > CLOSED_FOR) {
            self.swept = Some(now);
            self.closed.retain(|_, at| now.saturating_since(*at) <= CLOSED_FOR);
        }
        self.closed.insert(handle, now);
    }

    /// Whether what it passes on and nobody believes is to be complained of again.
    pub(super) fn complains(&mut self, now: Instant) -> bool {
        let complains = self.complained.is_none_or(|at| now.saturating_since(at) >= COMPLAIN_EVERY);
        if complains {
            self.complained = Some(now);
        }
        complains
    }

    fn was_closed(&self, now: Instant, handle: u16) -> bool {
        self.closed.get(&handle).is_some_and(|at| now.saturating_since(*at) <= CLOSED_FOR)
    }
}

impl RelaySystem {
    /// Tells a neighbouring relay something that media depend on: at once among the media, twice more soon after, and by
    /// the control stream.
    pub(super) fn announce(&mut self, now: Instant, port: PortId, message: Control, ports: &mut Ports) {
        self.signal_often(now, port, &message, ports);
        self.pass_on(port, &message, ports);
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

    fn was_closed(&self, now: Instant, port: PortId, handle: u16) -> bool {
        match self.ports.get(&port).map(|port| &port.kind) {
            Some(Kind::Relay(neighbour)) => neighbour.was_closed(now, handle),
            _ => false,
        }
    }

    /// Takes a signal in; nothing but what a relay announces travels so.
    pub(super) fn take_signal(&mut self, now: Instant, port: PortId, delivery: &Delivery, ports: &mut Ports) {
        let Some(Kind::Relay(neighbour)) = self.ports.get_mut(&port).map(|port| &mut port.kind) else {
            self.refused.protocol += 1;
            return;
        };
        if !neighbour.parts.take(now, 1, PARTS) {
            self.directory.note_excess();
            return;
        }
        let message = match neighbour.signals.receive(delivery) {
            Ok(Some(message)) => message,
            Ok(None) => return,
            Err(_) => {
                self.refused.protocol += 1;
                return;
            }
        };
        let Some(name) = self.ports.get(&port).map(|port| port.peer.name.clone()) else { return };
        if !self.taken.entry(name).or_default().takes(now, &message) {
            // Statements are not thrown away: the control stream brings them.
            if matches!(message, Control::Pull(_)) {
                self.directory.note_excess();
            }
            return;
        }
        match message {
            Control::StreamOpen(open) => {
                if !self.was_closed(now, port, open.handle) {
                    self.stream_open(now, port, open, ports);
                }
            }
            message @ (Control::Install(_)
            | Control::Advertise(_)
            | Control::Trouble(_)
            | Control::Pull(_)
            | Control::Signed(_)) => {
                self.take_from_relay(now, port, message, ports);
            }
            _ => {
                self.refused.protocol += 1;
                return;
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_rests_after_its_last_close_and_is_kept_once() {
        let mut neighbour = Neighbour::default();
        let mut now = Instant::from_micros(5);
        for _ in 0..10_000 {
            neighbour.note_closed(now, 7);
            now += Duration::from_millis(1);
        }
        assert_eq!(neighbour.closed.len(), 1);
        neighbour.note_closed(now, 8);
        let rested = now + CLOSED_FOR;
        assert!(neighbour.was_closed(rested, 8) && !neighbour.was_closed(rested + Duration::from_millis(1), 8));
        assert!(!neighbour.was_closed(now, 9));
        for handle in 100..1000 {
            neighbour.note_closed(rested + CLOSED_FOR, handle);
        }
        assert_eq!(neighbour.closed.len(), 900, "those of long ago are let go");
    }
}
