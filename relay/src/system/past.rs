//! What a link to a relay was like over the last fifteen minutes: a few kilobytes for each.

use super::report::share;
use crate::view::PastPoint;
use link::Instant;
use link::stats::{LinkQuality, LinkStats};
use std::collections::VecDeque;
use std::time::Duration;
use topology::about::Flow;

/// Time that one point stands for.
pub(super) const STEP: Duration = Duration::from_secs(5);

/// How far back it goes.
pub(super) const SPAN: Duration = Duration::from_secs(15 * 60);

/// Links remembered, those included that are down; of more, the one that was heard least recently gives way.
pub(super) const MOST_LINKS: usize = 1024;

/// Points of one link, and what its counters were at the last.
#[derive(Debug, Default)]
pub(super) struct Past {
    points: VecDeque<(Instant, PastPoint)>,
    counted: Option<(Instant, LinkStats)>,
}

impl Past {
    /// The link has a new connection, whose counters begin anew.
    pub(super) fn begin(&mut self, now: Instant, stats: LinkStats) {
        self.counted = Some((now, stats));
    }

    /// To be called more often than once a step. `theirs` is what the neighbour tells of the link.
    pub(super) fn mark(&mut self, now: Instant, stats: LinkStats, quality: &LinkQuality, theirs: Option<Flow>) {
        let Some((at, then)) = &self.counted else { return self.begin(now, stats) };
        let over = now.saturating_since(*at);
        if over < STEP {
            return;
        }
        let new = stats.since(then);
        let due = new.media_packets_received + new.recovered_by_arq + new.recovered_by_fec + new.unrecovered;
        let point = PastPoint {
            ago_s: 0.0,
            rtt_ms: quality.rtt.as_secs_f64() * 1e3,
            loss_sent: quality.loss_sent,
            loss_received: share(new.wire_lost, new.wire_lost + new.wire_received),
            residual_sent: theirs.map(|flow| f64::from(flow.left_ppm) / 1e6),
            residual_received: share(new.unrecovered, due),
            overhead_sent: share(new.arq_bytes_sent + new.fec_bytes_sent, new.media_bytes_sent),
            rate_sent: (new.media_bytes_sent as f64 * 8.0 / over.as_secs_f64()) as u64,
        };
        self.forget(now);
        self.points.push_back((now, point));
        self.counted = Some((now, stats));
    }

    /// Forgets what is too old.
    fn forget(&mut self, now: Instant) {
        while self.points.front().is_some_and(|(at, _)| now.saturating_since(*at) >= SPAN) {
            self.points.pop_front();
        }
    }

    /// When it was last heard of.
    pub(super) fn last(&self) -> Instant {
        let counted = self.counted.as_ref().map(|(at, _)| *at);
        self.points.back().map(|(at, _)| *at).max(counted).unwrap_or(Instant::ORIGIN)
    }

    /// The points that are not too old, the oldest first.
    pub(super) fn points(&self, now: Instant) -> Vec<PastPoint> {
        let aged = |(at, point): &(Instant, PastPoint)| {
            let ago = now.saturating_since(*at);
            (ago < SPAN).then_some(PastPoint { ago_s: ago.as_secs_f64(), ..*point })
        };
        self.points.iter().filter_map(aged).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(tenths: u64) -> Instant {
        Instant::ORIGIN + Duration::from_millis(100 * tenths)
    }

    fn stats(tenths: u64) -> LinkStats {
        LinkStats {
            media_bytes_sent: 1000 * tenths,
            arq_bytes_sent: 50 * tenths,
            media_packets_received: 99 * tenths,
            unrecovered: tenths,
            wire_received: 80 * tenths,
            wire_lost: 20 * tenths,
            ..LinkStats::default()
        }
    }

    #[test]
    fn fifteen_minutes_are_kept_and_no_more() {
        let (mut past, quality) = (Past::default(), LinkQuality::default());
        for tenths in 0..20_000 {
            past.mark(at(tenths), stats(tenths), &quality, Some(Flow { left_ppm: 500, ..Flow::default() }));
        }
        let points = past.points(at(20_000));
        assert!((179..=180).contains(&points.len()) && past.points.len() <= 181, "{}", points.len());
        // As docs/dashboard.md has it.
        assert!(past.points.capacity() * size_of::<(Instant, PastPoint)>() <= 24 * 1024);
        let last = points[points.len() - 1];
        let near = |value: f64, wanted: f64| assert!((value - wanted).abs() < 1e-6, "{last:?}");
        near(last.overhead_sent, 0.05);
        near(last.residual_received, 0.01);
        near(last.loss_received, 0.2);
        near(last.residual_sent.unwrap_or_default(), 0.0005);
        assert_eq!(last.rate_sent, 80_000);
        assert!(points[0].ago_s < 900.0 && points[0].ago_s > 890.0);
        assert!(past.points(at(40_000)).is_empty());
    }

    #[test]
    fn a_new_connection_begins_to_count_anew() {
        let (mut past, quality) = (Past::default(), LinkQuality::default());
        past.begin(at(0), stats(0));
        past.mark(at(50), stats(50), &quality, None);
        past.begin(at(300), stats(0));
        past.mark(at(350), stats(50), &quality, None);
        let points = past.points(at(350));
        let shown: Vec<_> = points.iter().map(|point| (point.ago_s, point.rate_sent, point.residual_sent)).collect();
        assert_eq!(shown, [(30.0, 80_000, None), (0.0, 80_000, None)]);
        assert_eq!(past.last(), at(350));
    }
}
