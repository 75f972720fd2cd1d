//! What is looked for in packets that have passed: how transport streams are, and what only one of several ways has brought.

use super::RelaySystem;
use super::carried::Carried;
use crate::report::{TsReport, TsState};
use link::Instant;
use node::PortId;
use node::control::Content;
use std::time::Duration;

/// How often they are looked at.
pub(super) const TURN: Duration = Duration::from_millis(10);

/// Most packets that one turn looks for among other ways: a bit or two each.
const MOST_RESCUED: usize = 4096;

/// Most transport packets' payloads that one turn looks into, which takes about a tenth of a millisecond: of all streams together half a gigabit per second is seen whole.
const MOST: usize = 512;

impl RelaySystem {
    /// Has transport streams looked at from now on, or looked at no more.
    pub fn set_ts_health(&mut self, on: bool) {
        self.looks_at_ts = on;
        if !on {
            self.forward.forget_health();
        }
    }

    /// When the next turn is, where there is anything to look at.
    pub(super) fn looking_due(&self) -> Option<Instant> {
        (!self.carried.is_empty()).then_some(self.next_looking)
    }

    /// One turn. The one after begins with another stream, so that where there is too much each has its share.
    pub(super) fn look_at_passed(&mut self, now: Instant) {
        self.next_looking = now + TURN;
        self.looks = self.looks.wrapping_add(1);
        let first = self.looks % self.carried.len().max(1);
        let all = || self.carried.values();
        let me = self.directory.me();
        let (mut room, mut room_for_ways) = (MOST, MOST_RESCUED);
        for carried in all().skip(first).chain(all().take(first)) {
            let expected = |label| -> Vec<Option<PortId>> {
                carried.expected_from(label, me).iter().map(|from| self.relays.get(from).copied()).collect()
            };
            self.forward.count_rescued(now, carried.key, &mut room_for_ways, expected);
            if self.looks_at_ts && has_ts(carried) {
                self.forward.look(now, carried.key, &mut room, |label| carried.passes(label, me));
            }
        }
    }

    /// How the transport stream in a stream is.
    pub(super) fn ts_report(&self, carried: &Carried) -> TsReport {
        let state = match carried.content {
            _ if carried.sealed => TsState::Sealed,
            Content::Datagrams => TsState::NotTs,
            Content::Ts if !self.looks_at_ts => TsState::Off,
            Content::Ts => TsState::Checked,
        };
        let found = self.forward.health(carried.key).filter(|_| state == TsState::Checked);
        TsReport { state, unlooked: found.map_or(0, |(_, unlooked)| unlooked), health: found.map(|(health, _)| health) }
    }
}

fn has_ts(carried: &Carried) -> bool {
    carried.content == Content::Ts && !carried.sealed
}
