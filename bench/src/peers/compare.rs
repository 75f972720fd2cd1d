//! Ours against each peer, cell by cell, in words. Pure.

use super::plan::CarrierKind;
use super::report::{CarrierReport, CellReport, Measured};
use std::cmp::Ordering;
use std::time::Duration;

/// A line per cell and peer: better, equal or worse on what is missing, on all bytes sent forward, and on those beyond the headers.
///
/// Headers are what the kind of carrier, without options, costs over a link of the same delay that loses nothing.
pub(super) fn compare(cells: &[CellReport]) -> Vec<String> {
    let mut lines = Vec::new();
    for cell in cells.iter().filter(|cell| !cell.lossless) {
        let Some((ours, us)) = of(cell, |kind| kind == CarrierKind::Anabranch).next() else { continue };
        for (theirs, they) in of(cell, |kind| matches!(kind, CarrierKind::Srt | CarrierKind::Rist)) {
            let residual = [us.outcome.residual, they.outcome.residual];
            let missed = [us, they]
                .map(|m| format!("{} lost and {} late of {}", m.outcome.lost, m.outcome.late, m.outcome.packets));
            let wire = [us.forward.bytes, they.forward.bytes];
            let mut line = format!(
                "{}: {} against {}: missing {} ({} against {}); wire {}",
                cell.cell,
                ours.name,
                theirs.name,
                verdict(residual),
                missed[0],
                missed[1],
                shares(wire)
            );
            let base = [ours, theirs].map(|carrier| headers(cells, cell.delay, carrier.kind));
            if let [Some(our_base), Some(their_base)] = base {
                line += &format!("; beyond headers {}", shares([wire[0] - our_base, wire[1] - their_base]));
            }
            lines.push(line);
        }
    }
    lines
}

fn of(cell: &CellReport, wanted: impl Fn(CarrierKind) -> bool) -> impl Iterator<Item = (&CarrierReport, &Measured)> {
    let carriers = cell.carriers.iter().filter(move |carrier| wanted(carrier.kind));
    carriers.filter_map(|carrier| Some((carrier, carrier.measured.as_ref()?)))
}

fn headers(cells: &[CellReport], delay: Duration, kind: CarrierKind) -> Option<f64> {
    let clean = cells.iter().find(|cell| cell.lossless && cell.delay == delay)?;
    of(clean, |other| other == kind).map(|(_, measured)| measured.forward.bytes).min_by(f64::total_cmp)
}

fn shares(values: [f64; 2]) -> String {
    format!("{} ({:.2} % against {:.2} %)", verdict(values), values[0] * 100.0, values[1] * 100.0)
}

fn verdict([ours, theirs]: [f64; 2]) -> &'static str {
    match ours.partial_cmp(&theirs) {
        Some(Ordering::Less) => "better",
        Some(Ordering::Equal) => "equal",
        _ => "WORSE",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::realtime::{Outcome, WireCost};

    fn carrier(name: &str, kind: CarrierKind, lost: u64, bytes: f64) -> CarrierReport {
        let outcome = Outcome { packets: 1000, lost, residual: lost as f64 / 1000.0, ..Outcome::default() };
        let measured = Measured {
            outcome,
            forward: WireCost { bytes, ..WireCost::default() },
            backward: WireCost::default(),
            own: None,
            emulator_lag_p99_ms: 0.0,
            emulator_lag_max_ms: 0.0,
            sender_lag_p99_ms: 0.0,
            sender_lag_max_ms: 0.0,
            kernel_dropped: 0,
        };
        CarrierReport { name: name.into(), kind, failed: None, measured: Some(measured) }
    }

    fn cell(name: &str, lossless: bool, carriers: Vec<CarrierReport>) -> CellReport {
        CellReport { cell: name.into(), seed: 1, delay: Duration::from_millis(20), lossless, carriers }
    }

    #[test]
    fn better_equal_and_worse_are_said_with_their_figures() {
        let (srt, ours) = (CarrierKind::Srt, CarrierKind::Anabranch);
        let clean = vec![carrier("SRT, FEC", srt, 0, 0.34), carrier("SRT", srt, 0, 0.03), carrier("us", ours, 0, 0.07)];
        let clean = cell("clean", true, clean);
        let lossy = cell("5 %", false, vec![carrier("SRT", srt, 3, 0.1), carrier("us", ours, 0, 0.12)]);
        assert_eq!(
            compare(&[clean, lossy.clone()]),
            [
                "5 %: us against SRT: missing better (0 lost and 0 late of 1000 against 3 lost and 0 late of 1000); wire WORSE (12.00 % against 10.00 %); \
              beyond headers better (5.00 % against 7.00 %)"
            ]
        );
        let alone = compare(std::slice::from_ref(&lossy));
        assert!(alone[0].ends_with("wire WORSE (12.00 % against 10.00 %)"), "without a lossless cell: {alone:?}");
    }

    #[test]
    fn who_took_no_part_is_not_compared() {
        let failed = CarrierReport { measured: None, ..carrier("SRT", CarrierKind::Srt, 0, 0.0) };
        let report = cell("5 %", false, vec![failed, carrier("us", CarrierKind::Anabranch, 0, 0.1)]);
        assert!(compare(&[report]).is_empty());
    }
}
