//! How the transport streams that pass here are.

use super::RelaySystem;
use super::carried::Carried;
use crate::report::{TsReport, TsState};
use link::Instant;
use node::control::Content;
use std::time::Duration;

/// How often they are looked at.
pub(super) const TURN: Duration = Duration::from_millis(10);

/// Most packets that one turn looks at, which takes about a tenth of a millisecond: of all streams together half a gigabit per second is seen whole.
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
    pub(super) fn ts_due(&self) -> Option<Instant> {
        let any = self.looks_at_ts && self.carried.values().any(has_ts);
        any.then_some(self.next_ts)
    }

    /// One turn. The one after begins with another stream, so that where there is too much each has its share.
    pub(super) fn look_at_ts(&mut self, now: Instant) {
        self.next_ts = now + TURN;
        if !self.looks_at_ts {
            return;
        }
        self.ts_turn = self.ts_turn.wrapping_add(1);
        let first = self.ts_turn % self.carried.len().max(1);
        let all = || self.carried.values();
        let mut room = MOST;
        for carried in all().skip(first).chain(all().take(first)).filter(|carried| has_ts(carried)) {
            let me = self.directory.me();
            self.forward.look(now, carried.key, &mut room, |label| carried.passes(label, me));
            if room == 0 {
                break;
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
