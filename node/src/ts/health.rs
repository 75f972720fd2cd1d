//! How a transport stream is, by the checks of ETSI TR 101 290 that need no decoder: those of priority 1 and 2 on packets, counters and clocks. Pure.

use super::{Continuity, PACKET, Pcr, SYNC, discontinuity, pcr, pid, transport_error};
use link::Instant;
use serde::Serialize;
use std::time::Duration;

/// References further apart are an error (TR 101 290, 2.3a).
pub const PCR_INTERVAL: Duration = Duration::from_millis(100);

/// Interval and jitter are the worst of the last one to two of these.
const LATELY: Duration = Duration::from_secs(5);

/// Clocks that are watched: those of the first so many programmes. A stream with more is told of by these.
const MAX_CLOCKS: usize = 32;

/// What has been found of a transport stream. Counters run since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct TsHealth {
    /// Packets seen.
    pub packets: u64,
    /// Packets without their sync byte, and payloads that are no whole number of packets (1.1, 1.2).
    pub sync_errors: u64,
    /// Gaps in continuity counters: packets are missing (1.4).
    pub continuity_errors: u64,
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
    /// Errors of any kind.
    pub fn errors(&self) -> u64 {
        self.sync_errors
            + self.continuity_errors
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
    health: TsHealth,
    /// The worst of the span that runs, of the one before, and when the one that runs began.
    worst: Worst,
    before: Worst,
    since: Instant,
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
        self.health.sync_errors += u64::from(!packets.remainder().is_empty());
        for packet in packets {
            self.packet(at, packet);
        }
    }

    /// The stream begins anew: what comes now does not follow what came before.
    pub fn restart(&mut self) {
        self.counters = Continuity::default();
        self.clocks.clear();
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
            self.health.sync_errors += 1;
            return;
        }
        self.health.packets += 1;
        // What is marked as damaged says nothing that can be relied on.
        if transport_error(packet) {
            self.health.transport_errors += 1;
            return;
        }
        self.health.continuity_errors += u64::from(!self.counters.follows(packet));
        if let Some(pcr) = pcr(packet) {
            self.reference(Clock { pid: pid(packet), at, pcr }, discontinuity(packet));
        }
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
    use super::super::testing::packet;
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_micros(1_000_000 + ms * 1000)
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
        let health = meter.health();
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
        let health = meter.health();
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
        assert_eq!(meter.health().errors(), 0, "{:?}", meter.health());
    }

    #[test]
    fn the_worst_is_forgotten_in_time() {
        let mut meter = TsMeter::default();
        let mut now = 0;
        for n in 0..1000u64 {
            now += if n == 5 { 90 } else { 20 };
            meter.feed(at(now), &reference(n as u8 % 16, now));
        }
        assert_eq!((meter.health().pcr_interval_ms, meter.health().errors()), (Some(20.0), 0));
    }
}
