//! So much at once, and then so much a second: the generic cell rate algorithm (ITU-T I.371). Pure.

use link::Instant;
use std::time::Duration;

/// How much is allowed, in bytes or in whatever is counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// At once, after a silence.
    pub(super) at_once: u64,
    /// A second after that.
    pub(super) a_second: u64,
}

/// What is left of an allowance: when it will be whole again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Allowance(Instant);

impl Allowance {
    /// Takes so much, where it is there.
    pub(super) fn take(&mut self, now: Instant, much: usize, terms: Terms) -> bool {
        let time = |much: u64| Duration::from_micros(much.saturating_mul(1_000_000) / terms.a_second);
        let whole_at = self.0.max(now) + time(much as u64);
        let has = whole_at.saturating_since(now) <= time(terms.at_once);
        if has {
            self.0 = whole_at;
        }
        has
    }

    /// Whether nothing of it is taken.
    pub(super) fn is_whole(&self, now: Instant) -> bool {
        self.0 <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_a_rate() {
        let terms = Terms { at_once: 100_000, a_second: 10_000 };
        let mut allowance = Allowance::default();
        let mut taken = 0;
        for ms in 0..10_000u64 {
            let now = Instant::from_micros(5_000_000 + ms * 1000);
            taken += (0..5).filter(|_| allowance.take(now, 100, terms)).count() * 100;
        }
        assert!((199_000..=201_000).contains(&taken), "{taken}");
        let later = Instant::from_micros(30_000_000);
        assert!(allowance.is_whole(later) && allowance.take(later, 100_000, terms) && !allowance.take(later, 1, terms));
        assert!(!allowance.is_whole(later));
    }
}
