//! So many at once, and then one every so often: the generic cell rate algorithm (ITU-T I.371). Pure.

use link::Instant;
use std::time::Duration;

/// How much is allowed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// After a silence.
    pub(super) at_once: u32,
    /// Time from one to the next after that.
    pub(super) apart: Duration,
}

/// What is left of an allowance: when it will be whole again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Allowance(Instant);

impl Allowance {
    /// Whether there is one to take.
    pub(super) fn has(self, now: Instant, terms: Terms) -> bool {
        (self.0.max(now) + terms.apart).saturating_since(now) <= terms.apart * terms.at_once
    }

    /// Takes one, whether it is there or not.
    pub(super) fn take(&mut self, now: Instant, terms: Terms) {
        self.0 = self.0.max(now) + terms.apart;
    }

    /// So many that were taken do not count after all.
    pub(super) fn give_back(&mut self, many: u32, terms: Terms) {
        self.0 = self.0.saturating_sub(terms.apart * many);
    }

    /// Whether nothing of it is taken.
    pub(super) fn is_whole(self, now: Instant) -> bool {
        self.0 <= now
    }
}
