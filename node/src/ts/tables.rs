//! Whether the tables by which a receiver finds the programmes of a transport stream come as often as they must (ISO/IEC 13818-1, 2.4.4). Pure.

use super::{NULL_PID, has_payload, pid};
use link::Instant;
use std::time::Duration;

/// A table is due so long after its last coming (TR 101 290, 1.3 and 1.5).
const DUE_AFTER: Duration = Duration::from_millis(500);

/// Programmes that are watched: the first so many.
const MOST_PROGRAMMES: usize = 32;

const ASSOCIATION: u8 = 0x00;
const MAP: u8 = 0x02;

/// When each table last came.
#[derive(Clone, Debug, Default)]
pub(super) struct Tables {
    /// The association table; before it first came, the start.
    association: Option<Instant>,
    /// The map of each programme that it names, by PID; before it first came, since it is named.
    maps: Vec<(u16, Instant)>,
}

impl Tables {
    /// Looks at a packet.
    pub(super) fn note(&mut self, at: Instant, packet: &[u8]) {
        self.association.get_or_insert(at);
        let pid = pid(packet);
        if pid != 0 && !self.maps.iter().any(|(map, _)| *map == pid) {
            return;
        }
        let Some(section) = section(packet) else { return };
        match (pid, section[0]) {
            (0, ASSOCIATION) => {
                self.association = Some(at);
                self.learn(at, section);
            }
            (_, MAP) => self.maps.iter_mut().filter(|(map, _)| *map == pid).for_each(|(_, last)| *last = at),
            _ => {}
        }
    }

    /// How many tables have been away for another half second at `at`: of association, and maps.
    pub(super) fn overdue(&mut self, at: Instant) -> (u64, u64) {
        let away = |last: &mut Instant| {
            let is_due = at.saturating_since(*last) > DUE_AFTER;
            if is_due {
                *last = at;
            }
            u64::from(is_due)
        };
        (self.association.as_mut().map_or(0, away), self.maps.iter_mut().map(|(_, last)| away(last)).sum())
    }

    /// What came before `at` was not looked at: nothing is overdue for it.
    pub(super) fn skip(&mut self, at: Instant) {
        self.association = self.association.map(|_| at);
        self.maps.iter_mut().for_each(|(_, last)| *last = at);
    }

    /// The programmes that an association table names, as far as it is in one packet.
    fn learn(&mut self, at: Instant, section: &[u8]) {
        let length = usize::from(u16::from_be_bytes([section[1], section[2]]) & 0x0fff);
        // Eight bytes stand before the programmes, four of a checksum behind them.
        let Some(programmes) = section.get(8..(3 + length).saturating_sub(4).min(section.len())) else { return };
        let map = |entry: &[u8]| u16::from_be_bytes([entry[2], entry[3]]) & 0x1fff;
        // Programme 0 is the network's, and has no map.
        let named =
            || programmes.chunks_exact(4).filter(|entry| entry[..2] != [0, 0]).map(map).filter(|pid| *pid != NULL_PID);
        self.maps.retain(|(pid, _)| named().any(|other| other == *pid));
        for pid in named() {
            if self.maps.len() < MOST_PROGRAMMES && !self.maps.iter().any(|(map, _)| *map == pid) {
                self.maps.push((pid, at));
            }
        }
    }
}

/// The section that begins in a packet, its head at least.
fn section(packet: &[u8]) -> Option<&[u8]> {
    let starts = packet[1] & 0x40 != 0;
    if !starts || !has_payload(packet) {
        return None;
    }
    let at = if packet[3] & 0x20 != 0 { 5 + usize::from(packet[4]) } else { 4 };
    let pointer = usize::from(*packet.get(at)?);
    packet.get(at + 1 + pointer..).filter(|section| section.len() >= 8)
}
