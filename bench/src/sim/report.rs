//! What a simulation came to.

use super::plan::{Case, Expectation, Mechanism};
use hdrhistogram::Histogram;
use link::stats::LinkStats;
use serde::Serialize;
use std::fmt;
use std::path::Path;
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
    /// What repaired.
    pub mechanism: Mechanism,
    /// Overhead of a repair that sends just what is lost, p / (1 − p), where the loss has a mean.
    pub floor: Option<f64>,
    /// What was expected.
    pub expect: Expectation,
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
    /// Second by second, where the case changes as it goes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub seconds: Vec<Second>,
    /// Whether it is what the plan expects.
    pub verdict: Verdict,
}

/// One second of a case, over all of its runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Second {
    /// Packets born in it.
    pub packets: u64,
    /// Those of them that were lost or late.
    pub missed: u64,
    /// Bytes of media and of repair sent in it on all hops.
    pub media_bytes: u64,
    /// See above.
    pub repair_bytes: u64,
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

/// Writes reports in each of their forms.
pub(super) fn write(directory: &Path, reports: &[Report]) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let mut text = String::new();
    let mut table = String::new();
    for report in reports {
        text += &format!("{}\n{}\n", report.title, CaseReport::header());
        table += &format!("### {}\n\n{}\n", report.title, CaseReport::markdown_header());
        for case in &report.cases {
            text += &format!("{case}\n");
            table += &format!("{}\n", case.markdown());
        }
        text.push('\n');
        table.push('\n');
    }
    let json = serde_json::to_string_pretty(reports).expect("a report is plain data");
    let cases = reports.iter().flat_map(|report| &report.cases);
    std::fs::write(directory.join("report.txt"), text)?;
    std::fs::write(directory.join("report.md"), table)?;
    std::fs::write(directory.join("report.json"), json + "\n")?;
    std::fs::write(directory.join("report.svg"), super::plot::draw("Residual against overhead", cases))
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
    /// The second in which each packet was born, where seconds are told apart.
    births: Vec<u32>,
    seconds: Vec<Second>,
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
            births: Vec::new(),
            seconds: Vec::new(),
        }
    }

    /// The next packet is born in this second.
    pub(super) fn born(&mut self, second: u32) {
        self.births.push(second);
        self.second(second).packets += 1;
    }

    /// The figures of a second.
    pub(super) fn second(&mut self, second: u32) -> &mut Second {
        let second = second as usize;
        if self.seconds.len() <= second {
            self.seconds.resize(second + 1, Second::default());
        }
        &mut self.seconds[second]
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
    pub(super) fn finish(mut self, hops: Vec<[LinkStats; 2]>) -> Outcome {
        for (born, _) in self.births.iter().zip(&self.on_time).filter(|(_, on_time)| !**on_time) {
            self.seconds[*born as usize].missed += 1;
        }
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
        Outcome {
            packets,
            missed,
            late: self.late.min(missed),
            independent,
            latency: self.latency,
            hops,
            seconds: self.seconds,
        }
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
    seconds: Vec<Second>,
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
        self.seconds.resize(self.seconds.len().max(other.seconds.len()), Second::default());
        for (second, other) in self.seconds.iter_mut().zip(&other.seconds) {
            second.packets += other.packets;
            second.missed += other.missed;
            second.media_bytes += other.media_bytes;
            second.repair_bytes += other.repair_bytes;
        }
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
            mechanism: case.mechanism,
            floor: case.floor(),
            expect: case.expect,
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
            seconds: self.seconds.clone(),
            verdict: Verdict::None,
        };
        report.judge(case);
        report
    }
}

impl CaseReport {
    /// The name, with the policy where it is not ours.
    fn shown_name(&self) -> String {
        match self.mechanism {
            Mechanism::Link => self.name.clone(),
            Mechanism::PlainArq => "– the same, plain ARQ".into(),
            Mechanism::NmStrikes => "– the same, NM-strikes".into(),
        }
    }

    /// Overhead of the hop where it is highest.
    pub fn worst_overhead(&self) -> f64 {
        self.overhead.iter().copied().fold(0.0, f64::max)
    }

    /// The largest residual that the count supports with 95 % confidence where misses come one by one: 3 over the number
    /// of packets where none was seen.
    pub fn bound(&self) -> f64 {
        // One-sided limits of a Poisson mean; beyond ten events the normal approximation will do.
        const LIMITS: [f64; 11] = [3.0, 4.74, 6.3, 7.75, 9.15, 10.51, 11.84, 13.15, 14.43, 15.71, 16.96];
        let events = self.independent_misses as f64;
        let limit =
            LIMITS.get(self.independent_misses as usize).copied().unwrap_or(events + 1.645 * events.sqrt() + 2.0);
        let each = (self.lost + self.late).max(1) as f64 / events.max(1.0);
        limit * each / self.packets.max(1) as f64
    }

    /// The heading of the rows that [`CaseReport::markdown`] writes.
    pub fn markdown_header() -> &'static str {
        "| setting | goal | missed (independent) of packets | residual, 95 % bound | overhead | feedback | p50 / p99 / p99.9 ms | met |\n\
         |---|---|---|---|---|---|---|---|"
    }

    /// A row of a table.
    pub fn markdown(&self) -> String {
        let percent = |share: f64| format!("{:.2} %", 100.0 * share);
        let goal = match (self.expect.residual, self.expect.overhead) {
            (None, None) => "–".to_owned(),
            (residual, overhead) => {
                let residual = residual.map(|most| if most == 0.0 { "0".to_owned() } else { format!("{most:.0e}") });
                let overhead = overhead.map(percent);
                [residual, overhead].into_iter().flatten().collect::<Vec<_>>().join(" @ ")
            }
        };
        let [p50, p99, p999, _] = self.latency_ms;
        format!(
            "| {} | {goal} | {} ({}) of {:.2e} | {:.1e}, < {:.1e} | {} | {} | {p50:.0} / {p99:.0} / {p999:.0} | {} |",
            self.shown_name(),
            self.lost + self.late,
            self.independent_misses,
            self.packets as f64,
            self.residual,
            self.bound(),
            percent(self.worst_overhead()),
            percent(self.feedback.iter().copied().fold(0.0, f64::max)),
            match self.verdict {
                Verdict::None => "–",
                Verdict::Met => "yes",
                Verdict::Missed => "**no**",
            }
        )
    }

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
            self.shown_name(),
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
