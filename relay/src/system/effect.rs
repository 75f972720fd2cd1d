//! What repair on a link to a relay costs and brings, lately.

use crate::report::RepairEffect;
use link::Instant;
use link::stats::LinkStats;
use std::collections::VecDeque;
use std::time::Duration;

/// Time between two marks.
const STEP: Duration = Duration::from_secs(1);

/// Marks kept: ten seconds of them.
const MARKS: usize = 11;

/// A link's counters at moments of the last ten seconds, none of them before its policy changed.
#[derive(Debug, Default)]
pub(super) struct Trail {
    marks: VecDeque<(Instant, LinkStats)>,
}

impl Trail {
    /// Forgets what was: from now on the link has another policy.
    pub(super) fn restart(&mut self, now: Instant, stats: LinkStats) {
        self.marks.clear();
        self.marks.push_back((now, stats));
    }

    /// To be called more often than once a second; whether a second is over.
    pub(super) fn mark(&mut self, now: Instant, stats: impl FnOnce() -> LinkStats) -> bool {
        if self.marks.back().is_some_and(|(at, _)| now.saturating_since(*at) < STEP) {
            return false;
        }
        if self.marks.len() == MARKS {
            self.marks.pop_front();
        }
        self.marks.push_back((now, stats()));
        true
    }

    /// What came of it up to now.
    pub(super) fn effect(&self, now: Instant, stats: &LinkStats) -> RepairEffect {
        match self.marks.front() {
            Some((at, then)) => effect(now.saturating_since(*at), &stats.since(then)),
            None => RepairEffect::default(),
        }
    }
}

/// What these counters say of repair.
pub(super) fn effect(over: Duration, stats: &LinkStats) -> RepairEffect {
    let saved = stats.recovered_by_arq + stats.recovered_by_fec;
    let due = stats.media_packets_received + saved + stats.unrecovered;
    RepairEffect {
        over_s: over.as_secs_f64(),
        media_packets_sent: stats.media_packets_sent,
        cost_arq: super::report::share(stats.arq_bytes_sent, stats.media_bytes_sent),
        cost_fec: super::report::share(stats.fec_bytes_sent, stats.media_bytes_sent),
        suppressed: stats.repair_suppressed,
        media_packets_due: due,
        saved: super::report::share(saved, due),
        left: super::report::share(stats.unrecovered, due),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_speaks_of_ten_seconds_and_of_the_policy_in_force_alone() {
        let at = |tenths: u64| Instant::ORIGIN + Duration::from_millis(100 * tenths);
        let stats = |tenths: u64| LinkStats {
            media_bytes_sent: 1000 * tenths,
            fec_bytes_sent: 100 * tenths,
            media_packets_received: 90 * tenths,
            recovered_by_arq: 9 * tenths,
            unrecovered: tenths,
            ..LinkStats::default()
        };
        let mut trail = Trail::default();
        for tenths in 0..300 {
            trail.mark(at(tenths), || stats(tenths));
        }
        let effect = trail.effect(at(300), &stats(300));
        assert!((9.0..=11.1).contains(&effect.over_s), "{effect:?}");
        assert!((effect.cost_fec - 0.1).abs() < 1e-9 && effect.cost_arq == 0.0);
        assert!((effect.saved - 0.09).abs() < 1e-9 && (effect.left - 0.01).abs() < 1e-9);
        trail.restart(at(300), stats(300));
        assert_eq!(trail.effect(at(300), &stats(300)), RepairEffect::default());
        assert!((trail.effect(at(305), &stats(305)).over_s - 0.5).abs() < 1e-9);
    }
}
