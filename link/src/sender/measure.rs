//! Shares and rates that the sender keeps of its own traffic.

use crate::time::Instant;
use crate::units::Bitrate;
use std::time::Duration;

/// The share of packets that are of a kind, over some thousands.
#[derive(Debug)]
pub(super) struct Share {
    value: f64,
}

impl Share {
    /// How many packets back it looks.
    const SPAN: f64 = 4096.0;

    pub(super) fn new(guess: f64) -> Share {
        Share { value: guess }
    }

    /// Counts a packet, of whatever kind.
    pub(super) fn pass(&mut self) {
        self.value -= self.value / Self::SPAN;
    }

    /// Counts a packet that is of the kind with such a probability.
    pub(super) fn add(&mut self, probability: f64) {
        self.value = (self.value + probability / Self::SPAN).min(1.0);
    }

    pub(super) fn get(&self) -> f64 {
        self.value
    }
}

/// The rate of media, over about a second.
#[derive(Debug)]
pub(super) struct Rate {
    since: Instant,
    bytes: u64,
    packets: u32,
    rate: Bitrate,
    interval: Duration,
}

impl Rate {
    const SPAN: Duration = Duration::from_millis(500);

    pub(super) fn new(now: Instant) -> Rate {
        Rate { since: now, bytes: 0, packets: 0, rate: Bitrate::ZERO, interval: Duration::from_millis(1) }
    }

    pub(super) fn add(&mut self, now: Instant, bytes: usize) {
        let span = now - self.since;
        if span >= Self::SPAN {
            self.rate = Bitrate::bps((self.bytes as f64 * 8.0 / span.as_secs_f64()) as u64);
            self.interval = span / self.packets.max(1);
            (self.since, self.bytes, self.packets) = (now, 0, 0);
        }
        self.bytes += bytes as u64;
        self.packets += 1;
    }

    pub(super) fn get(&self, now: Instant) -> Bitrate {
        if now - self.since > 2 * Self::SPAN { Bitrate::ZERO } else { self.rate }
    }

    /// Mean time between packets.
    pub(super) fn interval(&self) -> Duration {
        self.interval
    }
}
