//! What a simulation came to.

use super::plan::Case;
use hdrhistogram::Histogram;
use link::stats::LinkStats;
use serde::Serialize;
use std::fmt;
use std::time::Duration;

/// Misses closer than this to each other are taken for one event.
const APART: Duration = Duration::from_millis(100);

/// All cases of a plan.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The plan's title.
    pub title: String,
    /// One report per case, in order.
    pub cases: Vec<CaseReport>,
}

/// One case.
#[derive(Clone, Debug, Serialize)]
pub struct CaseReport {
    /// The case's name.
    pub name: String,
    /// The seeds of its runs.
    pub seeds: Vec<u64>,
    /// Packets that count, over all runs.
    pub packets: u64,
    /// Packets lost, after repair.
    pub lost: u64,
    /// Packets that came after the deadline.
    pub late: u64,
    /// Misses (lost or late) that are not neighbours of another: what the residual's certainty rests on.
    pub independent_misses: u64,
    /// Share of packets lost or late.
    pub residual: f64,
    /// Repair bytes over media bytes, hop by hop.
    pub overhead: Vec<f64>,
    /// The part of it that was sent ahead of any report: code, fail-safe copies, copies of packets in a hurry.
    pub ahead: Vec<f64>,
    /// Share of packets received that were recovered, hop by hop: on request, and by what came ahead.
    pub recovered: Vec<[f64; 2]>,
    /// Repair that was not needed, over packets received, hop by hop.
    pub unneeded: Vec<f64>,
    /// Bytes of media frames that are not payload, over payload.
    pub header: f64,
    /// Feedback bytes in the reverse direction over media bytes, hop by hop.
    pub feedback: Vec<f64>,
    /// Latency from source to sink in milliseconds: 50, 99, 99.9 % and the largest.
    pub latency_ms: [f64; 4],
    /// Whether it is what the plan expects.
    pub verdict: Verdict,
}

/// Whether a case met its expectations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The plan expects nothing.
    None,
    /// As good as expected, or better.
    Met,
    /// Worse.
    Missed,
}

/// Gathers a case's outcome.
#[derive(Debug)]
pub(super) struct Tally {
    latency: Histogram<u64>,
    /// One per packet: whether it came in time.
    on_time: Vec<bool>,
    late: u64,
    first: u64,
    interval: Duration,
    deadline: Duration,
}

impl Tally {
    pub(super) fn new(case: &Case) -> Tally {
        let interval = case.interval();
        Tally {
            latency: Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are valid"),
            on_time: vec![false; case.packets as usize],
            late: 0,
            first: (case.warmup.as_secs_f64() / interval.as_secs_f64()) as u64,
            interval,
            deadline: case.deadline,
        }
    }

    /// Packet `number` has arrived after `latency`.
    pub(super) fn arrived(&mut self, number: u64, latency: Duration) {
        let Some(on_time) = self.on_time.get_mut(number as usize) else { return };
        if number < self.first || *on_time {
            return;
        }
        self.latency.saturating_record(latency.as_micros() as u64);
        if latency <= self.deadline {
            *on_time = true;
        } else {
            self.late += 1;
        }
    }

    /// The first packet that counts.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// What it came to, with what the links of each hop counted meanwhile.
    pub(super) fn finish(self, hops: Vec<[LinkStats; 2]>) -> Outcome {
        let counted = self.on_time.get(self.first as usize..).unwrap_or_default();
        let (mut missed, mut independent) = (0, 0);
        let mut last = None;
        for (number, _) in counted.iter().enumerate().filter(|(_, on_time)| !**on_time) {
            missed += 1;
            let since = last.map_or(Duration::MAX, |last: usize| self.interval * (number - last) as u32);
            independent += u64::from(since > APART);
            last = Some(number);
        }
        let packets = counted.len() as u64;
        Outcome { packets, missed, late: self.late.min(missed), independent, latency: self.latency, hops }
    }
}

/// What runs of a case came to, taken together.
#[derive(Debug)]
pub(super) struct Outcome {
    packets: u64,
    missed: u64,
    late: u64,
    independent: u64,
    latency: Histogram<u64>,
    hops: Vec<[LinkStats; 2]>,
}

impl Outcome {
    /// No run yet.
    pub(super) fn new(case: &Case) -> Outcome {
        let mut none = Tally::new(case).finish(vec![[LinkStats::default(); 2]; case.channels().count()]);
        (none.packets, none.missed, none.independent) = (0, 0, 0);
        none
    }

    /// Adds a run.
    pub(super) fn add(&mut self, other: Outcome) {
        self.packets += other.packets;
        self.missed += other.missed;
        self.late += other.late;
        self.independent += other.independent;
        self.latency.add(&other.latency).expect("all histograms have the same bounds");
        for (hop, other) in self.hops.iter_mut().zip(&other.hops) {
            *hop = [hop[0].plus(&other[0]), hop[1].plus(&other[1])];
        }
    }

    /// The figures.
    pub(super) fn report(&self, case: &Case) -> CaseReport {
        let share = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
        let quantile = |at| self.latency.value_at_quantile(at) as f64 / 1e3;
        let each = |share: &dyn Fn(&LinkStats, &LinkStats) -> f64| {
            self.hops.iter().map(|[up, down]| share(up, down)).collect::<Vec<f64>>()
        };
        let mut report = CaseReport {
            name: case.name.clone(),
            seeds: case.seeds.clone(),
            packets: self.packets,
            lost: self.missed - self.late,
            late: self.late,
            independent_misses: self.independent,
            residual: share(self.missed, self.packets),
            overhead: each(&|up, _| share(up.arq_bytes_sent + up.fec_bytes_sent, up.media_bytes_sent)),
            ahead: each(&|up, _| share(up.fec_bytes_sent, up.media_bytes_sent)),
            recovered: self
                .hops
                .iter()
                .map(|[up, down]| {
                    [down.recovered_by_arq, down.recovered_by_fec].map(|by| share(by, up.media_packets_sent))
                })
                .collect(),
            unneeded: each(&|up, down| share(down.repair_unneeded, up.media_packets_sent)),
            header: self
                .hops
                .first()
                .map_or(0.0, |[up, _]| share(up.media_bytes_sent, up.media_packets_sent * case.size as u64) - 1.0),
            feedback: each(&|up, down| share(down.feedback_bytes_sent, up.media_bytes_sent)),
            latency_ms: [quantile(0.5), quantile(0.99), quantile(0.999), self.latency.max() as f64 / 1e3],
            verdict: Verdict::None,
        };
        report.judge(case);
        report
    }
}

impl CaseReport {
    /// The heading of the lines that [`fmt::Display`] writes.
    pub fn header() -> String {
        format!(
            "{:44} {:>9} {:>6} {:>5} {:>8} {:>7} {:>7} {:>6} {:>6} {:>6} {:>6} {:>7}",
            "case",
            "packets",
            "missed",
            "indep",
            "residual",
            "ovhd %",
            "ahead %",
            "fb %",
            "p50",
            "p99",
            "p99.9",
            "verdict"
        )
    }

    fn judge(&mut self, case: &Case) {
        let expect = &case.expect;
        let worst = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
        let checks = [
            (expect.residual, self.residual),
            (expect.overhead, worst(&self.overhead)),
            (expect.feedback, worst(&self.feedback)),
        ];
        let mut stated = checks.into_iter().filter_map(|(most, is)| most.map(|most| is <= most)).peekable();
        self.verdict = match (stated.peek().is_some(), stated.all(|met| met)) {
            (false, _) => Verdict::None,
            (true, true) => Verdict::Met,
            (true, false) => Verdict::Missed,
        };
    }
}

impl fmt::Display for CaseReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let worst = |values: &[f64]| 100.0 * values.iter().copied().fold(0.0, f64::max);
        let [p50, p99, p999, _] = self.latency_ms;
        write!(
            f,
            "{:44} {:>9} {:>6} {:>5} {:>8.1e} {:>7.2} {:>7.2} {:>6.2} {p50:>6.1} {p99:>6.1} {p999:>6.1} {:>7}",
            self.name,
            self.packets,
            self.lost + self.late,
            self.independent_misses,
            self.residual,
            worst(&self.overhead),
            worst(&self.ahead),
            worst(&self.feedback),
            match self.verdict {
                Verdict::None => "-",
                Verdict::Met => "met",
                Verdict::Missed => "MISSED",
            }
        )
    }
}
