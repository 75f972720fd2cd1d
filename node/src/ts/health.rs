//! How a transport stream is, by the checks of ETSI TR 101 290 that need no decoder: those of priority 1 and 2 on packets, counters and clocks. Pure.

use super::tables::Tables;
use super::{Continuity, PACKET, Pcr, SYNC, discontinuity, pcr, pid, transport_error};
use link::Instant;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// References further apart are an error (TR 101 290, 2.3a).
pub const PCR_INTERVAL: Duration = Duration::from_millis(100);

/// Interval and jitter are the worst of the last one to two of these.
const LATELY: Duration = Duration::from_secs(5);

/// So many sync bytes in a row are wrong where the synchronisation is lost, and right where it is found again (TR 101 290, 1.1).
const LOST_AFTER: u32 = 2;
const FOUND_AFTER: u32 = 5;

/// Clocks that are watched: those of the first so many programmes. A stream with more is told of by these.
const MAX_CLOCKS: usize = 32;

/// What has been found of a transport stream. Counters run since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TsHealth {
    /// Packets seen.
    pub packets: u64,
    /// Packets without their sync byte, and payloads that are no whole number of packets (1.1, 1.2).
    pub sync_errors: u64,
    /// Times that two or more of these came in a row, so that a receiver has to look for the packets anew (1.1).
    pub sync_losses: u64,
    /// Half seconds without a programme association table (1.3).
    pub pat_errors: u64,
    /// Gaps in continuity counters: packets are missing (1.4).
    pub continuity_errors: u64,
    /// Half seconds without the map of a programme that the association table names (1.5).
    pub pmt_errors: u64,
    /// Packets that the sender's own receiver marked as damaged (2.1).
    pub transport_errors: u64,
    /// Clock references more than 100 ms apart in time (2.3a).
    pub pcr_repetition_errors: u64,
    /// Clock references more than 100 ms apart in value where no discontinuity is announced (2.3b).
    pub pcr_discontinuities: u64,
    /// The longest time between two references of one clock lately, in milliseconds; `None` before two.
    pub pcr_interval_ms: Option<f64>,
    /// The farthest that time and clock ran apart between two references lately, in milliseconds; `None` before two.
    pub pcr_jitter_ms: Option<f64>,
}

impl TsHealth {
    /// Errors of any kind; a loss of synchronisation is counted by the packets it is made of.
    pub fn errors(&self) -> u64 {
        self.sync_errors
            + self.pat_errors
            + self.continuity_errors
            + self.pmt_errors
            + self.transport_errors
            + self.pcr_repetition_errors
            + self.pcr_discontinuities
    }
}

/// Watches a transport stream, payload by payload.
#[derive(Clone, Debug, Default)]
pub struct TsMeter {
    counters: Continuity,
    clocks: Vec<Clock>,
    tables: Tables,
    sync: Sync,
    health: TsHealth,
    /// The worst of the span that runs, of the one before, and when the one that runs began.
    worst: Worst,
    before: Worst,
    since: Instant,
}

/// Whether packets are where they should be.
#[derive(Clone, Copy, Debug)]
enum Sync {
    /// They are, but for so many at the end.
    Held { wrong: u32 },
    /// They are not; so many at the end were.
    Lost { right: u32 },
}

impl Default for Sync {
    fn default() -> Sync {
        Sync::Held { wrong: 0 }
    }
}

impl Sync {
    /// Takes the next sync byte; whether the synchronisation is lost by it.
    fn note(&mut self, is_right: bool) -> bool {
        let (next, lost) = match (*self, is_right) {
            (Sync::Held { .. }, true) => (Sync::Held { wrong: 0 }, false),
            (Sync::Held { wrong }, false) if wrong + 1 == LOST_AFTER => (Sync::Lost { right: 0 }, true),
            (Sync::Held { wrong }, false) => (Sync::Held { wrong: wrong + 1 }, false),
            (Sync::Lost { right }, true) if right + 1 == FOUND_AFTER => (Sync::default(), false),
            (Sync::Lost { right }, true) => (Sync::Lost { right: right + 1 }, false),
            (Sync::Lost { .. }, false) => (Sync::Lost { right: 0 }, false),
        };
        *self = next;
        lost
    }
}

/// The references of one programme.
#[derive(Clone, Copy, Debug)]
struct Clock {
    pid: u16,
    at: Instant,
    pcr: Pcr,
}

#[derive(Clone, Copy, Debug, Default)]
struct Worst {
    interval: Option<Duration>,
    jitter: Option<Duration>,
}

impl TsMeter {
    /// Looks at the next payload, which came, or leaves, at `at`.
    pub fn feed(&mut self, at: Instant, payload: &[u8]) {
        let packets = payload.chunks_exact(PACKET);
        let is_whole = packets.remainder().is_empty();
        for packet in packets {
            self.packet(at, packet);
        }
        if !is_whole {
            self.out_of_sync();
        }
        let (pat, pmt) = self.tables.overdue(at);
        self.health.pat_errors += pat;
        self.health.pmt_errors += pmt;
    }

    /// The stream begins anew: what comes now does not follow what came before.
    pub fn restart(&mut self) {
        self.counters = Continuity::default();
        self.clocks.clear();
        self.tables = Tables::default();
        self.sync = Sync::default();
    }

    /// What comes now does not follow what came before, but is of the same stream: what was between was not looked at. Counters and clocks
    /// begin anew, what is known of its programmes stays.
    pub fn skip(&mut self, at: Instant) {
        self.counters = Continuity::default();
        self.clocks.clear();
        self.tables.skip(at);
    }

    /// What has been found up to here.
    pub fn health(&self) -> TsHealth {
        let ms = |of: fn(&Worst) -> Option<Duration>| {
            of(&self.worst).max(of(&self.before)).map(|span| span.as_secs_f64() * 1e3)
        };
        TsHealth { pcr_interval_ms: ms(|worst| worst.interval), pcr_jitter_ms: ms(|worst| worst.jitter), ..self.health }
    }

    fn packet(&mut self, at: Instant, packet: &[u8]) {
        if packet[0] != SYNC {
            self.out_of_sync();
            return;
        }
        self.sync.note(true);
        self.health.packets += 1;
        // What is marked as damaged says nothing that can be relied on.
        if transport_error(packet) {
            self.health.transport_errors += 1;
            return;
        }
        self.health.continuity_errors += u64::from(!self.counters.follows(packet));
        self.tables.note(at, packet);
        if let Some(pcr) = pcr(packet) {
            self.reference(Clock { pid: pid(packet), at, pcr }, discontinuity(packet));
        }
    }

    fn out_of_sync(&mut self) {
        self.health.sync_errors += 1;
        self.health.sync_losses += u64::from(self.sync.note(false));
    }

    fn reference(&mut self, now: Clock, announced: bool) {
        let Some(clock) = self.clocks.iter_mut().find(|clock| clock.pid == now.pid) else {
            if self.clocks.len() < MAX_CLOCKS {
                self.clocks.push(now);
            }
            return;
        };
        let last = std::mem::replace(clock, now);
        let ticks = now.pcr.since(last.pcr);
        if announced {
            return;
        }
        let interval = now.at.saturating_since(last.at);
        self.health.pcr_repetition_errors += u64::from(interval > PCR_INTERVAL);
        let step = Duration::from_nanos((ticks as f64 * 1e9 / Pcr::HZ as f64) as u64);
        // A clock that jumps tells nothing of jitter. One that stands still for long is told by its interval alone.
        let jumped = step > PCR_INTERVAL.max(2 * interval);
        self.health.pcr_discontinuities += u64::from(jumped);
        if now.at.saturating_since(self.since) >= LATELY {
            self.before = std::mem::take(&mut self.worst);
            self.since = now.at;
        }
        self.worst.interval = self.worst.interval.max(Some(interval));
        if !jumped {
            self.worst.jitter = self.worst.jitter.max(Some(interval.abs_diff(step)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{association, map, packet};
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_micros(1_000_000 + ms * 1000)
    }

    /// What has been found that is no want of tables: the packets of most of these tests have none.
    fn found(meter: &TsMeter) -> TsHealth {
        TsHealth { pat_errors: 0, ..meter.health() }
    }

    /// A reference of a clock that is at `ms`.
    fn reference(counter: u8, ms: u64) -> [u8; PACKET] {
        packet(0x100, counter, Some(Pcr(Pcr::HZ / 1000 * ms)))
    }

    #[test]
    fn a_healthy_stream_has_no_error_and_its_interval_is_known() {
        let mut meter = TsMeter::default();
        for n in 0..100u64 {
            let late = u64::from(n == 50) * 3;
            meter.feed(at(n * 40 + late), &reference(n as u8 % 16, n * 40));
        }
        let health = found(&meter);
        assert_eq!((health.packets, health.errors()), (100, 0), "{health:?}");
        assert_eq!((health.pcr_interval_ms, health.pcr_jitter_ms), (Some(43.0), Some(3.0)));
    }

    #[test]
    fn each_error_is_told_apart() {
        let mut meter = TsMeter::default();
        meter.feed(at(0), &reference(0, 0));
        meter.feed(at(150), &reference(1, 150));
        assert_eq!(meter.health().pcr_repetition_errors, 1);
        meter.feed(at(190), &reference(2, 5_000));
        assert_eq!(meter.health().pcr_discontinuities, 1);
        meter.feed(at(230), &reference(9, 5_040));
        assert_eq!(meter.health().continuity_errors, 1);
        let mut broken = reference(10, 5_050);
        broken[1] |= 0x80;
        meter.feed(at(240), &broken);
        broken[0] = 0;
        meter.feed(at(241), &broken[..100]);
        meter.feed(at(241), &broken);
        let health = found(&meter);
        assert_eq!((health.transport_errors, health.sync_errors, health.packets), (1, 2, 5), "{health:?}");
        assert_eq!(health.errors(), 6);
    }

    #[test]
    fn an_announced_jump_and_a_new_life_are_no_errors() {
        let mut meter = TsMeter::default();
        meter.feed(at(0), &reference(0, 0));
        let mut jump = reference(7, 9_000);
        jump[5] |= 0x80;
        meter.feed(at(40), &jump);
        meter.restart();
        meter.feed(at(5_000), &reference(3, 50));
        assert_eq!(found(&meter).errors(), 0, "{:?}", meter.health());
    }

    #[test]
    fn the_worst_is_forgotten_in_time() {
        let mut meter = TsMeter::default();
        let mut now = 0;
        for n in 0..1000u64 {
            now += if n == 5 { 90 } else { 20 };
            meter.feed(at(now), &reference(n as u8 % 16, now));
        }
        assert_eq!((meter.health().pcr_interval_ms, found(&meter).errors()), (Some(20.0), 0));
    }

    #[test]
    fn synchronisation_is_lost_by_two_and_found_by_five() {
        let mut meter = TsMeter::default();
        let mut feed = |right: bool| {
            let mut packet = packet(0x100, 0, None);
            packet[0] = if right { SYNC } else { 0 };
            meter.feed(at(0), &packet);
            meter.health().sync_losses
        };
        assert_eq!([true, false, true, false].map(&mut feed), [0, 0, 0, 0], "one alone is no loss");
        assert_eq!([false, false, true, true, true, true].map(&mut feed), [1; 6]);
        assert_eq!([false, false, true, true, true, true, true].map(&mut feed), [1; 7], "it was not found yet");
        assert_eq!([false, false].map(&mut feed), [1, 2]);
        assert_eq!(meter.health().sync_errors, 8);
    }

    #[test]
    fn tables_that_stay_away_are_counted_by_the_half_second() {
        let mut meter = TsMeter::default();
        for n in 0..20u64 {
            meter.feed(at(n * 100), &association(n as u8, &[(1, 0x1000)]));
            if n < 10 {
                meter.feed(at(n * 100), &map(0x1000, n as u8));
            }
        }
        let health = meter.health();
        assert_eq!((health.pat_errors, health.pmt_errors), (0, 1), "900 ms after 1000 ms: one half second is over");
        for n in 20..40u64 {
            meter.feed(at(n * 100), &packet(0x100, n as u8, None));
        }
        let health = meter.health();
        assert_eq!((health.pat_errors, health.pmt_errors), (3, 5), "{health:?}");
        assert_eq!(health.continuity_errors, 0);
    }
}
