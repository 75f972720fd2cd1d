//! What a cell came to.

use super::plan::CarrierKind;
use crate::realtime::{HopStats, Outcome, WireCost};
use serde::Serialize;
use std::fmt;
use std::time::Duration;

/// One cell.
#[derive(Clone, Debug, Serialize)]
pub struct CellReport {
    /// Its name.
    pub cell: String,
    /// The seed of its links.
    pub seed: u64,
    /// One-way delay of its link.
    #[serde(with = "humantime_serde")]
    pub delay: Duration,
    /// Whether its link loses nothing: what a carrier adds there is its headers.
    pub lossless: bool,
    /// One per carrier, in the order of the plan.
    pub carriers: Vec<CarrierReport>,
}

/// One carrier in one cell.
#[derive(Clone, Debug, Serialize)]
pub struct CarrierReport {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: CarrierKind,
    /// Why it took no part, or not to the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// What was measured, where it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measured: Option<Measured>,
}

/// What was measured of a carrier.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Measured {
    /// What became of the datagrams.
    pub outcome: Outcome,
    /// What the direction of the media cost beyond the media.
    pub forward: WireCost,
    /// What the other direction cost.
    pub backward: WireCost,
    /// Where it is ours: what the cost is made of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub own: Option<Own>,
    /// How much later than due the emulator let datagrams out.
    pub emulator_lag_p99_ms: f64,
    /// The same: the worst.
    pub emulator_lag_max_ms: f64,
    /// How much later than planned the sender sent.
    pub sender_lag_p99_ms: f64,
    /// The same: the worst.
    pub sender_lag_max_ms: f64,
    /// Datagrams that the kernel dropped meanwhile on any UDP socket of the machine; whose they were is not known.
    pub kernel_dropped: u64,
}

/// What our own cost is made of, each as a share of the media's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Own {
    /// Repair on request and ahead.
    pub repair: f64,
    /// Of it, what was sent ahead of any report.
    pub ahead: f64,
    /// Bytes of media frames that are not payload; those of QUIC, UDP and IP are not among them.
    pub header: f64,
    /// Feedback in the other direction, without QUIC, UDP and IP.
    pub feedback: f64,
    /// Packets that the hop did not repair in time, as its receiving end counts them.
    pub hop_unrecovered: u64,
    /// Packets that reached the relay after their deadline.
    pub hop_late: u64,
    /// Packets the kernel dropped before the source read them.
    pub input_dropped: u64,
}

impl Own {
    /// What was counted between two moments, for datagrams of `size` bytes.
    pub(crate) fn new(before: &HopStats, after: &HopStats, size: usize) -> Own {
        let media = (after.sender.media_bytes_sent - before.sender.media_bytes_sent).max(1) as f64;
        let packets = after.sender.media_packets_sent - before.sender.media_packets_sent;
        let arq = after.sender.arq_bytes_sent - before.sender.arq_bytes_sent;
        let fec = after.sender.fec_bytes_sent - before.sender.fec_bytes_sent;
        let feedback = after.receiver.feedback_bytes_sent - before.receiver.feedback_bytes_sent;
        Own {
            repair: (arq + fec) as f64 / media,
            ahead: fec as f64 / media,
            header: media / (packets * size as u64).max(1) as f64 - 1.0,
            feedback: feedback as f64 / media,
            hop_unrecovered: after.receiver.unrecovered - before.receiver.unrecovered,
            hop_late: after.late_at_relay - before.late_at_relay,
            input_dropped: after.input_dropped - before.input_dropped,
        }
    }
}

impl CellReport {
    /// The heading of what [`fmt::Display`] writes.
    pub fn header() -> String {
        format!(
            "{:16} {:16} {:>8} {:>6} {:>6} {:>6} {:>8} {:>7} {:>7} {:>6} {:>6} {:>7} {:>7} {:>7}",
            "cell",
            "carrier",
            "packets",
            "lost",
            "late",
            "indep",
            "residual",
            "wire+%",
            "pkts+%",
            "back%",
            "lost%",
            "p50",
            "p99",
            "max"
        )
    }

    /// What took no part or not to the end, in words.
    pub fn failures(&self) -> Vec<String> {
        let failed =
            |carrier: &CarrierReport| Some(format!("{}, {}: {}", self.cell, carrier.name, carrier.failed.as_ref()?));
        self.carriers.iter().filter_map(failed).collect()
    }
}

impl fmt::Display for CellReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, carrier) in self.carriers.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{:16} {:16} ", self.cell, carrier.name)?;
            match (&carrier.measured, &carrier.failed) {
                (Some(measured), _) => write!(f, "{measured}")?,
                (None, failed) => write!(f, "NOT MEASURED: {}", failed.as_deref().unwrap_or("unknown"))?,
            }
        }
        let measured = self.carriers.iter().filter_map(|carrier| carrier.measured);
        let worst = |of: fn(&Measured) -> f64| measured.clone().map(|m| of(&m)).fold(0.0, f64::max);
        write!(
            f,
            "\n{:33} emulators late p99 {:.2} max {:.1} ms, sender late p99 {:.2} max {:.1} ms, the kernel dropped {}",
            "",
            worst(|m| m.emulator_lag_p99_ms),
            worst(|m| m.emulator_lag_max_ms),
            worst(|m| m.sender_lag_p99_ms),
            worst(|m| m.sender_lag_max_ms),
            worst(|m| m.kernel_dropped as f64),
        )
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Measured { outcome, forward, backward, own, .. } = self;
        let latency = outcome.latency_ms;
        write!(
            f,
            "{:>8} {:>6} {:>6} {:>6} {:>8.1e} {:>7.2} {:>7.2} {:>6.2} {:>6.2} {:>7.1} {:>7.1} {:>7.1}",
            outcome.packets,
            outcome.lost,
            outcome.late,
            outcome.independent_misses,
            outcome.residual,
            forward.bytes * 100.0,
            forward.packets * 100.0,
            backward.bytes * 100.0,
            forward.loss * 100.0,
            latency.p50,
            latency.p99,
            latency.max
        )?;
        if outcome.foreign + outcome.repeated > 0 {
            write!(f, "  {} foreign, {} repeated", outcome.foreign, outcome.repeated)?;
        }
        own.map_or(Ok(()), |own| write!(f, "\n{:33} {own}", ""))
    }
}

impl fmt::Display for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "of it repair {:.2} % ({:.2} % ahead), our header {:.2} %; feedback {:.2} %; the hop left {} and {} late",
            self.repair * 100.0,
            self.ahead * 100.0,
            self.header * 100.0,
            self.feedback * 100.0,
            self.hop_unrecovered,
            self.hop_late
        )
    }
}
