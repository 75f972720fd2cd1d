//! A bulk transfer under CUBIC (RFC 9438) in virtual time: what a TCP flow does to a queue that a link of ours shares.

use link::Instant;
use std::collections::BTreeMap;
use std::time::Duration;

/// Bytes of an IP packet of the transfer.
pub(super) const SEGMENT: usize = 1350;

/// Share of the window that is left after a loss, and the factor of the cubic (RFC 9438, sections 4.6 and 5.1).
const BETA: f64 = 0.7;
const CUBIC: f64 = 0.4;
/// Later packets acknowledged after which one counts as lost (RFC 9002, section 6.1.1).
const REORDERING: u64 = 3;
/// Pace, as a multiple of window over round-trip time, so that the window and not the pace bounds it.
const PACE: f64 = 1.25;
/// Without a word for so long everything on the way counts as lost (RFC 6298, rule 2.4).
const TIMEOUT: Duration = Duration::from_secs(1);
/// Window at the start, in segments (RFC 6928).
const INITIAL: f64 = 10.0;

/// The sender of an endless transfer. Each packet sent is to be acknowledged by `acknowledge` when it and its acknowledgement
/// have crossed the path.
pub(super) struct Bulk {
    /// In segments, as all windows here.
    window: f64,
    threshold: f64,
    /// The window when it was last reduced, and when that was.
    most: f64,
    epoch: Option<Instant>,
    /// Packets on the way, and when they left.
    flight: BTreeMap<u64, Instant>,
    next: u64,
    /// Losses of packets before this one belong to the last reduction.
    recovered_at: u64,
    round_trip: Duration,
    ready: Instant,
    heard: Instant,
}

impl Bulk {
    pub(super) fn new(start: Instant, round_trip: Duration) -> Bulk {
        Bulk {
            window: INITIAL,
            threshold: f64::INFINITY,
            most: 0.0,
            epoch: None,
            flight: BTreeMap::new(),
            next: 0,
            recovered_at: 0,
            round_trip,
            ready: start,
            heard: start,
        }
    }

    /// The number of the packet that may leave at `now`.
    pub(super) fn poll(&mut self, now: Instant) -> Option<u64> {
        if now < self.ready {
            return None;
        }
        if now - self.heard > TIMEOUT && !self.flight.is_empty() {
            self.flight.clear();
            (self.threshold, self.window) = ((self.window * BETA).max(2.0), 1.0);
            (self.epoch, self.recovered_at, self.heard) = (None, self.next, now);
        }
        if self.flight.len() as f64 >= self.window {
            return None;
        }
        self.ready =
            self.ready.max(now.saturating_sub(Duration::from_millis(2))) + self.round_trip.div_f64(PACE * self.window);
        self.flight.insert(self.next, now);
        self.next += 1;
        Some(self.next - 1)
    }

    pub(super) fn acknowledge(&mut self, now: Instant, number: u64) {
        let Some(sent) = self.flight.remove(&number) else { return };
        self.heard = now;
        self.round_trip = (self.round_trip * 7 + (now - sent)) / 8;
        let lost: Vec<u64> = self.flight.range(..number.saturating_sub(REORDERING)).map(|(lost, _)| *lost).collect();
        let fresh = lost.iter().any(|lost| *lost >= self.recovered_at);
        for lost in lost {
            self.flight.remove(&lost);
        }
        if fresh {
            self.most = self.window;
            self.window = (self.window * BETA).max(2.0);
            self.threshold = self.window;
            self.epoch = Some(now);
            self.recovered_at = self.next;
        } else if number >= self.recovered_at {
            self.grow(now);
        }
    }

    fn grow(&mut self, now: Instant) {
        let Some(epoch) = self.epoch.filter(|_| self.window >= self.threshold) else {
            self.window += 1.0;
            return;
        };
        let shift = (self.most * (1.0 - BETA) / CUBIC).cbrt();
        let since = (now - epoch + self.round_trip).as_secs_f64();
        let cubic = CUBIC * (since - shift).powi(3) + self.most;
        let reno = self.most * BETA + 3.0 * (1.0 - BETA) / (1.0 + BETA) * since / self.round_trip.as_secs_f64();
        let target = cubic.max(reno).min(1.5 * self.window);
        self.window += (target - self.window).max(0.0) / self.window;
    }
}
