//! What was in time, what was late, what never came. Pure.

use super::receive::Arrivals;
use super::send::SendLog;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::time::Duration;

/// Misses closer than this to each other are taken for one event, as in the simulator's reports.
const APART: Duration = Duration::from_millis(100);

/// What counts, and until when it is in time.
#[derive(Clone, Copy, Debug)]
pub struct Judge {
    /// Datagrams at the beginning that do not count: estimates begin from guesses.
    pub warmup: u64,
    /// From sending to coming out.
    pub deadline: Duration,
    /// Beyond the deadline before it is late: receivers release *at* the deadline, and threads wake a little later.
    pub tolerance: Duration,
    /// Time between datagrams.
    pub interval: Duration,
}

/// What became of the datagrams that count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Outcome {
    /// How many there were.
    pub packets: u64,
    /// Never came.
    pub lost: u64,
    /// Came after the deadline and the tolerance.
    pub late: u64,
    /// Misses (lost or late) that are not neighbours of another: what the residual's certainty rests on.
    pub independent_misses: u64,
    /// Share lost or late.
    pub residual: f64,
    /// Came more than once.
    pub repeated: u64,
    /// Came, and are none of those sent: damaged, cut or joined.
    pub foreign: u64,
    /// From sending to coming out.
    pub latency_ms: LatencyMs,
}

/// A distribution of latencies, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[expect(missing_docs, reason = "each name says which quantile it is")]
pub struct LatencyMs {
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

impl Judge {
    /// Judges one run.
    pub fn judge(&self, log: &SendLog, arrivals: &Arrivals) -> Outcome {
        let first = self.warmup.min(log.sent.len() as u64);
        let mut on_time = vec![false; log.sent.len()];
        let mut came = vec![false; log.sent.len()];
        let mut latency = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3).expect("the bounds are in order");
        let mut outcome = Outcome { foreign: arrivals.foreign, ..Outcome::default() };
        for (number, at) in &arrivals.times {
            let Some(sent) = log.sent.get(*number as usize) else {
                outcome.foreign += 1;
                continue;
            };
            if *number < first {
                continue;
            }
            if std::mem::replace(&mut came[*number as usize], true) {
                outcome.repeated += 1;
                continue;
            }
            let took = *at - *sent;
            latency.saturating_record(took.as_micros() as u64);
            on_time[*number as usize] = took <= self.deadline + self.tolerance;
        }
        let (counted, came) = (&on_time[first as usize..], &came[first as usize..]);
        let missed = counted.iter().filter(|on_time| !**on_time).count() as u64;
        outcome.packets = counted.len() as u64;
        outcome.lost = came.iter().filter(|came| !**came).count() as u64;
        outcome.late = missed - outcome.lost;
        outcome.independent_misses = self.independent(counted);
        outcome.residual = missed as f64 / (counted.len() as f64).max(1.0);
        let quantile = |at| latency.value_at_quantile(at) as f64 / 1e3;
        outcome.latency_ms = LatencyMs {
            p50: quantile(0.5),
            p99: quantile(0.99),
            p999: quantile(0.999),
            max: latency.max() as f64 / 1e3,
        };
        outcome
    }

    fn independent(&self, on_time: &[bool]) -> u64 {
        let apart = APART.as_nanos() / self.interval.as_nanos().max(1);
        let missed = on_time.iter().enumerate().filter(|(_, on_time)| !**on_time).map(|(number, _)| number as u128);
        let alone = |last: &mut Option<u128>, number| {
            let before = last.replace(number);
            Some(u64::from(before.is_none_or(|before| number - before > apart)))
        };
        missed.scan(None, alone).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use link::Instant;

    const MS: Duration = Duration::from_millis(1);

    fn judge() -> Judge {
        Judge { warmup: 10, deadline: 200 * MS, tolerance: 10 * MS, interval: MS }
    }

    fn log(count: u64) -> SendLog {
        let sent = (0..count).map(|number| Instant::from_micros(number * 1000)).collect();
        SendLog { sent, lag_p99: Duration::ZERO, lag_max: Duration::ZERO }
    }

    /// Datagram `number` after so many milliseconds.
    fn after(number: u64, millis: u64) -> (u64, Instant) {
        (number, Instant::from_micros((number + millis) * 1000))
    }

    #[test]
    fn lost_late_repeated_and_foreign_are_told_apart() {
        let mut times: Vec<_> = (0..1000).filter(|n| ![5, 20, 21, 500].contains(n)).map(|n| after(n, 200)).collect();
        times[700] = after(times[700].0, 211);
        times.push(after(999, 205));
        times.push(after(1000, 1));
        let outcome = judge().judge(&log(1000), &Arrivals { times, foreign: 2 });
        let expected = (990, 3, 1, 1, 3);
        let got = (outcome.packets, outcome.lost, outcome.late, outcome.repeated, outcome.foreign);
        assert_eq!(got, expected, "the lost one of the warm-up does not count");
        assert_eq!(outcome.independent_misses, 3, "20 and 21 are one event");
        assert!((outcome.residual - 4.0 / 990.0).abs() < 1e-12);
        assert!((outcome.latency_ms.p50 - 200.0).abs() < 0.2 && (outcome.latency_ms.max - 211.0).abs() < 0.2);
    }

    #[test]
    fn what_comes_at_the_deadline_is_in_time() {
        let times = (0..100).map(|n| after(n, if n % 2 == 0 { 200 } else { 210 })).collect();
        assert_eq!(judge().judge(&log(100), &Arrivals { times, foreign: 0 }).residual, 0.0);
    }

    #[test]
    fn nothing_at_all_is_all_lost_and_one_event() {
        let outcome = judge().judge(&log(100), &Arrivals::default());
        assert_eq!((outcome.lost, outcome.late, outcome.independent_misses, outcome.residual), (90, 0, 1, 1.0));
        assert_eq!(judge().judge(&log(3), &Arrivals::default()).packets, 0, "all of it was warm-up");
    }
}
