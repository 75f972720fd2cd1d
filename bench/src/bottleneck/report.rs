//! What became of what was offered.

use super::bulk::Bulk;
use super::plan::StreamOffer;
use crate::channel::ChannelCounters;
use crate::realtime::Outcome;
use hdrhistogram::Histogram;
use link::Bitrate;
use link::stats::LinkStats;
use serde::Serialize;
use source::config::Priority;
use source::report::StreamCounters;
use std::fmt;
use std::time::Duration;

/// One scenario.
#[derive(Clone, Debug, Serialize)]
pub struct ScenarioReport {
    /// Its name.
    pub scenario: String,
    /// Rate of all streams' payload together.
    pub offered: Bitrate,
    /// The bottleneck and its queue.
    pub queue: QueueReport,
    /// Our links.
    pub links: Vec<LinkReport>,
    /// Bulk flows beside them.
    pub bulk: Vec<BulkReport>,
}

/// The bottleneck during the time that counts.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct QueueReport {
    /// What left it, in bits of IP packets per second.
    pub carried_bps: u64,
    /// Time in the queue, sampled: half of the samples are below.
    pub delay_p50_ms: f64,
    /// 99 % are below.
    pub delay_p99_ms: f64,
    /// The longest.
    pub delay_max_ms: f64,
    /// Packets that came to it, whosever they were.
    pub packets: u64,
    /// Packets that found it full.
    pub dropped: u64,
}

/// One of our links.
#[derive(Clone, Debug, Serialize)]
pub struct LinkReport {
    /// Repair bytes sent over media bytes sent.
    pub repair: f64,
    /// What the sending end believes that the link can carry, at the end; `None` where it sees no bound.
    pub capacity_bps: Option<u64>,
    /// Round trip at the end, smoothed.
    pub rtt_ms: f64,
    /// Packets dropped before their first transmission because they could not be in time.
    pub dropped_late: u64,
    /// Because they had waited in a queue that stands.
    pub dropped_standing: u64,
    /// Because of their low priority.
    pub dropped_low_priority: u64,
    /// Because the link's queue was full.
    pub dropped_queue_full: u64,
    /// Repair not sent because of the capacity or the ceiling on overhead.
    pub repair_suppressed: u64,
    /// Its streams.
    pub streams: Vec<StreamReport>,
}

/// One stream.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct StreamReport {
    /// Whether it goes before others.
    pub high_priority: bool,
    /// Rate of its payload as offered.
    pub offered_bps: u64,
    /// Rate of its payload that came out in time.
    pub on_time_bps: u64,
    /// What became of its packets.
    pub outcome: Outcome,
    /// Packets that the source did not hand to the link: no longer in time.
    pub source_late: u64,
    /// Packets that the link's full queue refused.
    pub source_queue_full: u64,
}

/// One bulk flow.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct BulkReport {
    /// Rate of the bytes that its receiver got.
    pub goodput_bps: u64,
    /// Round trip at the end, smoothed.
    pub rtt_ms: f64,
    /// Packets that it found lost.
    pub lost_packets: u64,
}

impl QueueReport {
    pub(super) fn new(delays_us: &Histogram<u64>, counted: &ChannelCounters, span: Duration) -> QueueReport {
        let ms = |us: u64| us as f64 / 1e3;
        QueueReport {
            carried_bps: rate(counted.delivered_bytes, span),
            delay_p50_ms: ms(delays_us.value_at_quantile(0.5)),
            delay_p99_ms: ms(delays_us.value_at_quantile(0.99)),
            delay_max_ms: ms(delays_us.max()),
            packets: counted.offered,
            dropped: counted.queue,
        }
    }
}

impl LinkReport {
    pub(super) fn new(
        before: Option<&source::report::LinkReport>,
        after: Option<&source::report::LinkReport>,
        streams: Vec<StreamReport>,
    ) -> LinkReport {
        let stats = |report: Option<&source::report::LinkReport>| report.map(|link| link.stats).unwrap_or_default();
        let (before, quality, after) = (stats(before), after.map(|link| link.quality), stats(after));
        let since = |of: fn(&LinkStats) -> u64| of(&after).saturating_sub(of(&before));
        let repair = since(|stats| stats.arq_bytes_sent) + since(|stats| stats.fec_bytes_sent);
        LinkReport {
            repair: repair as f64 / since(|stats| stats.media_bytes_sent).max(1) as f64,
            capacity_bps: quality.and_then(|quality| quality.capacity).map(Bitrate::as_bps),
            rtt_ms: quality.unwrap_or_default().rtt.as_secs_f64() * 1e3,
            dropped_late: since(|stats| stats.dropped_late),
            dropped_standing: since(|stats| stats.dropped_standing),
            dropped_low_priority: since(|stats| stats.dropped_low_priority),
            dropped_queue_full: since(|stats| stats.dropped_queue_full),
            repair_suppressed: since(|stats| stats.repair_suppressed),
            streams,
        }
    }
}

impl StreamReport {
    pub(super) fn new(
        offer: StreamOffer,
        size: usize,
        span: Duration,
        outcome: Outcome,
        [before, after]: [StreamCounters; 2],
    ) -> StreamReport {
        let in_time = outcome.packets - outcome.lost - outcome.late;
        StreamReport {
            high_priority: offer.priority == Priority::High,
            offered_bps: offer.rate.as_bps(),
            on_time_bps: rate(in_time * size as u64, span),
            outcome,
            source_late: after.late.saturating_sub(before.late),
            source_queue_full: after.queue_full.saturating_sub(before.queue_full),
        }
    }
}

impl BulkReport {
    pub(super) fn new(span: Duration, flow: &Bulk, (received, lost): (u64, u64)) -> BulkReport {
        let (rtt, lost_now) = flow.path();
        BulkReport {
            goodput_bps: rate(flow.received() - received, span),
            rtt_ms: rtt.as_secs_f64() * 1e3,
            lost_packets: lost_now.saturating_sub(lost),
        }
    }
}

fn rate(bytes: u64, span: Duration) -> u64 {
    (bytes as f64 * 8.0 / span.as_secs_f64().max(1e-9)) as u64
}

fn mbps(bps: u64) -> f64 {
    bps as f64 / 1e6
}

impl fmt::Display for ScenarioReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let queue = &self.queue;
        writeln!(f, "{}: {:.1} Mbit/s of payload offered", self.scenario, mbps(self.offered.as_bps()))?;
        write!(
            f,
            "  bottleneck: {:.2} Mbit/s carried, queue p50 {:.1} p99 {:.1} max {:.1} ms, {} of {} packets found it full",
            mbps(queue.carried_bps),
            queue.delay_p50_ms,
            queue.delay_p99_ms,
            queue.delay_max_ms,
            queue.dropped,
            queue.packets
        )?;
        for (index, link) in self.links.iter().enumerate() {
            write!(f, "\n  link {index}: {link}")?;
        }
        for (index, flow) in self.bulk.iter().enumerate() {
            let BulkReport { goodput_bps, rtt_ms, lost_packets } = flow;
            let rate = mbps(*goodput_bps);
            write!(
                f,
                "\n  bulk flow {index} (CUBIC): {rate:.2} Mbit/s, rtt {rtt_ms:.1} ms, {lost_packets} packets lost"
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for LinkReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let capacity = self.capacity_bps.map_or("unknown".into(), |bps| format!("{:.2} Mbit/s", mbps(bps)));
        write!(
            f,
            "capacity {capacity}, rtt {:.1} ms, repair {:.2} %; dropped: late {}, standing queue {}, low priority {}, queue full {}; repair held back {}",
            self.rtt_ms,
            self.repair * 100.0,
            self.dropped_late,
            self.dropped_standing,
            self.dropped_low_priority,
            self.dropped_queue_full,
            self.repair_suppressed
        )?;
        self.streams.iter().try_for_each(|stream| write!(f, "\n    {stream}"))
    }
}

impl fmt::Display for StreamReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = &self.outcome;
        write!(
            f,
            "{} priority: {:.2} of {:.2} Mbit/s in time ({:.2} %), {} lost and {} late of {}; at the source late {}, queue full {}; latency p50 {:.1} p99 {:.1} max {:.1} ms",
            if self.high_priority { "high" } else { "normal" },
            mbps(self.on_time_bps),
            mbps(self.offered_bps),
            (1.0 - outcome.residual) * 100.0,
            outcome.lost,
            outcome.late,
            outcome.packets,
            self.source_late,
            self.source_queue_full,
            outcome.latency_ms.p50,
            outcome.latency_ms.p99,
            outcome.latency_ms.max
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_tells_what_came_in_time() {
        let offer = StreamOffer { rate: Bitrate::mbps(8), priority: Priority::High };
        let outcome = Outcome { packets: 1000, lost: 90, late: 10, residual: 0.1, ..Outcome::default() };
        let counters = [3, 8].map(|late| StreamCounters { late, ..StreamCounters::default() });
        let report = StreamReport::new(offer, 1000, Duration::from_secs(1), outcome, counters);
        assert_eq!((report.on_time_bps, report.source_late, report.high_priority), (7_200_000, 5, true));
        assert!(report.to_string().starts_with("high priority: 7.20 of 8.00 Mbit/s in time (90.00 %)"), "{report}");
    }

    #[test]
    fn a_queue_tells_its_rate_and_its_drops() {
        let mut delays = Histogram::new_with_bounds(1, 60_000_000, 3).unwrap();
        (0..100u64).for_each(|at| delays.saturating_record(at * 1000));
        let counted =
            ChannelCounters { offered: 100, queue: 7, delivered_bytes: 2_500_000, ..ChannelCounters::default() };
        let queue = QueueReport::new(&delays, &counted, Duration::from_secs(1));
        assert_eq!((queue.carried_bps, queue.dropped, queue.packets), (20_000_000, 7, 100));
        assert!((queue.delay_p50_ms - 49.5).abs() < 1.0 && (queue.delay_max_ms - 99.0).abs() < 0.2, "{queue:?}");
    }
}
