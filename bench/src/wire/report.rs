//! A simulated and a real run of one case, side by side. Pure.

use crate::peers::Own;
use crate::realtime::{Outcome, WireCost};
use crate::sim::CaseReport;
use serde::Serialize;
use std::fmt;

/// How much worse than the simulated run the real one may be.
const RESIDUAL: f64 = 2.0;
const OVERHEAD: f64 = 1.1;
/// Independent misses that a run without any does not exclude (the rule of three: 95 %).
const UNSEEN: f64 = 3.0;

/// One case, run in both ways.
#[derive(Clone, Debug, Serialize)]
pub struct WireReport {
    /// The simulated run.
    pub simulated: CaseReport,
    /// The real run.
    pub real: Real,
    /// Whether the residual is within twice the simulator's; where that saw no miss, within what so many packets can exclude.
    pub residual_met: bool,
    /// Whether repair cost no more than 1.1 times the simulator's.
    pub overhead_met: bool,
}

/// What was measured with real programs.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Real {
    /// What became of the packets, from the source's input to the sink's output.
    pub outcome: Outcome,
    /// Repair, header and feedback, in bytes of link frames.
    pub own: Own,
    /// All bytes of IP packets towards the relay beyond the media.
    pub forward: WireCost,
    /// All bytes of IP packets back.
    pub backward: WireCost,
    /// How much later than due the emulator let datagrams out.
    pub emulator_lag_p99_ms: f64,
    /// The same: the worst.
    pub emulator_lag_max_ms: f64,
    /// How much later than planned the sender sent.
    pub sender_lag_p99_ms: f64,
    /// The same: the worst.
    pub sender_lag_max_ms: f64,
    /// Datagrams that the kernel dropped meanwhile on any UDP socket of the machine.
    pub kernel_dropped: u64,
}

impl WireReport {
    /// Judges the real run by the simulated one.
    pub fn new(simulated: CaseReport, real: Real) -> WireReport {
        let unseen = UNSEEN / (simulated.packets.max(1) as f64);
        let residual_met = real.outcome.residual <= (RESIDUAL * simulated.residual).max(unseen);
        let overhead_met = real.own.repair <= OVERHEAD * overhead(&simulated);
        WireReport { simulated, real, residual_met, overhead_met }
    }

    /// Whether it is as good as the simulated run allows.
    pub fn is_met(&self) -> bool {
        self.residual_met && self.overhead_met
    }

    /// The heading of what [`fmt::Display`] writes.
    pub fn header() -> String {
        format!(
            "{:24} {:10} {:>9} {:>6} {:>6} {:>6} {:>8} {:>8} {:>8} {:>6} {:>7} {:>7} {:>7}",
            "case",
            "run",
            "packets",
            "lost",
            "late",
            "indep",
            "residual",
            "repair %",
            "header %",
            "fb %",
            "p50",
            "p99",
            "max"
        )
    }
}

fn overhead(simulated: &CaseReport) -> f64 {
    simulated.overhead.first().copied().unwrap_or_default()
}

impl fmt::Display for WireReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let WireReport { simulated, real, .. } = self;
        let percent = |share: f64| share * 100.0;
        let [p50, p99, _, max] = simulated.latency_ms;
        writeln!(
            f,
            "{:24} {:10} {:>9} {:>6} {:>6} {:>6} {:>8.1e} {:>8.2} {:>8.2} {:>6.2} {p50:>7.1} {p99:>7.1} {max:>7.1}",
            simulated.name,
            "simulated",
            simulated.packets,
            simulated.lost,
            simulated.late,
            simulated.independent_misses,
            simulated.residual,
            percent(overhead(simulated)),
            percent(simulated.header),
            percent(simulated.feedback.first().copied().unwrap_or_default()),
        )?;
        let (outcome, own) = (&real.outcome, &real.own);
        let latency = outcome.latency_ms;
        writeln!(
            f,
            "{:24} {:10} {:>9} {:>6} {:>6} {:>6} {:>8.1e} {:>8.2} {:>8.2} {:>6.2} {:>7.1} {:>7.1} {:>7.1}",
            "",
            "real",
            outcome.packets,
            outcome.lost,
            outcome.late,
            outcome.independent_misses,
            outcome.residual,
            percent(own.repair),
            percent(own.header),
            percent(own.feedback),
            latency.p50,
            latency.p99,
            latency.max
        )?;
        let met = [self.residual_met, self.overhead_met].map(|met| if met { "met" } else { "MISSED" });
        write!(f, "{:24} residual within 2x: {}, repair within 1.1x: {}; {}", "", met[0], met[1], real.circumstances())
    }
}

impl Real {
    /// What else was counted, and how late the emulator and the sender were.
    fn circumstances(&self) -> String {
        let percent = |share: f64| share * 100.0;
        format!(
            "the hop left {} and {} late, {} foreign; on the wire +{:.2} % forward, {:.2} % back, {:.2} % lost\n{:24} \
             emulator late p99 {:.2} max {:.1} ms, sender late p99 {:.2} max {:.1} ms, the kernel dropped {}, {} of them \
             at the source",
            self.own.hop_unrecovered,
            self.own.hop_late,
            self.outcome.foreign,
            percent(self.forward.bytes),
            percent(self.backward.bytes),
            percent(self.forward.loss),
            "",
            self.emulator_lag_p99_ms,
            self.emulator_lag_max_ms,
            self.sender_lag_p99_ms,
            self.sender_lag_max_ms,
            self.kernel_dropped,
            self.own.input_dropped
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{Plan, run_case};

    fn simulated(packets: u64, residual: f64, overhead: f64) -> CaseReport {
        let plan =
            "title = \"\"\n[[case]]\nname = \"case\"\npackets = 10\ndeadline = \"200ms\"\n[[case.hop]]\nforward = {}";
        let report = run_case(&Plan::parse(plan).unwrap().cases[0]);
        CaseReport { packets, residual, overhead: vec![overhead], ..report }
    }

    fn real(residual: f64, repair: f64) -> Real {
        Real {
            outcome: Outcome { residual, ..Outcome::default() },
            own: Own {
                repair,
                ahead: 0.0,
                header: 0.02,
                feedback: 0.01,
                hop_unrecovered: 0,
                hop_late: 0,
                input_dropped: 0,
            },
            forward: WireCost::default(),
            backward: WireCost::default(),
            emulator_lag_p99_ms: 0.1,
            emulator_lag_max_ms: 1.0,
            sender_lag_p99_ms: 0.1,
            sender_lag_max_ms: 1.0,
            kernel_dropped: 0,
        }
    }

    #[test]
    fn twice_the_residual_and_a_tenth_more_repair_are_allowed() {
        let met = |simulated, real| {
            let report = WireReport::new(simulated, real);
            (report.residual_met, report.overhead_met)
        };
        assert_eq!(met(simulated(1_000_000, 1e-4, 0.05), real(2e-4, 0.055)), (true, true));
        assert_eq!(met(simulated(1_000_000, 1e-4, 0.05), real(2.1e-4, 0.0551)), (false, false));
    }

    #[test]
    fn a_run_without_a_miss_excludes_only_so_much() {
        let report = |missed: f64| WireReport::new(simulated(1_000_000, 0.0, 0.05), real(missed / 1e6, 0.05));
        assert!(report(0.0).is_met() && report(3.0).is_met() && !report(4.0).is_met());
        assert!(report(4.0).to_string().contains("residual within 2x: MISSED, repair within 1.1x: met"));
    }
}
