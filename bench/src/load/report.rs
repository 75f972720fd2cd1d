//! What a packet out cost, kind by kind.

use super::Traffic;
use super::round::BITS;
use node::exit::Failure;
use serde::Serialize;
use std::fmt;

/// What forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A plain UDP forwarder, packet by packet.
    Udp,
    /// A bare quinn forwarder.
    Quinn,
    /// srt-live-transmit, one to one.
    Srt,
    /// Our relay.
    Anabranch,
}

/// One kind in one round, or the medians of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Round {
    /// CPU time of all threads of the process per packet delivered, in microseconds.
    pub cpu_us: f64,
    /// That of its busiest thread alone: what bounds the rate where there are cores enough.
    pub busiest_us: f64,
    /// Packets delivered, as a share of packets fed times sinks.
    pub delivered: f64,
    /// Memory that the process took with its sinks connected and before any media, per sink, in bytes.
    pub memory_per_sink: u64,
    /// Memory of the process at the end, in bytes.
    pub memory_loaded: u64,
    /// From feeding to arrival at the sink, in microseconds: half are below.
    pub delay_p50_us: f64,
    /// 99 % are below.
    pub delay_p99_us: f64,
    /// 99.9 % are below.
    pub delay_p999_us: f64,
}

/// Our relay with connected sinks and no media.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Idle {
    /// How many.
    pub sinks: u32,
    /// From the start of the process to its readiness, in milliseconds.
    pub ready_ms: f64,
    /// From there until all sinks are connected, one after the other.
    pub connected_ms: f64,
    /// CPU time as a share of one core.
    pub cpu_share: f64,
    /// Memory of the process without any sink, in bytes.
    pub memory: u64,
    /// What each sink adds.
    pub memory_per_sink: u64,
}

/// All kinds at one fan-out.
#[derive(Clone, Debug, Serialize)]
pub struct LoadReport {
    /// Number of sinks.
    pub fan_out: u32,
    /// Number of streams they share.
    pub streams: u32,
    /// Relays of ours on the way.
    pub hops: u32,
    /// Threads of each.
    pub threads: u32,
    /// Mean loss before each sink.
    pub loss: f64,
    /// Packets per second to all sinks together.
    pub out_rate: u64,
    /// Packets fed back to back.
    pub burst: u64,
    /// Whether the programs were built with optimisation.
    pub release: bool,
    /// The kinds.
    pub kinds: Vec<KindReport>,
}

/// One kind at one fan-out.
#[derive(Clone, Debug, Serialize)]
pub struct KindReport {
    /// Which.
    pub kind: Kind,
    /// Packets per second to all sinks together, of this kind.
    pub out_rate: u64,
    /// Its rounds.
    pub rounds: Vec<Round>,
    /// Why a round failed.
    pub failures: Vec<String>,
    /// Medians, each by itself; `None` where no round came about.
    pub median: Option<Round>,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 4] = [Kind::Udp, Kind::Quinn, Kind::Srt, Kind::Anabranch];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Kind::Udp => "plain UDP",
            Kind::Quinn => "bare quinn",
            Kind::Srt => "srt-live-transmit",
            Kind::Anabranch => "Anabranch",
        })
    }
}

impl LoadReport {
    pub(super) fn new(traffic: Traffic, out_rate: u64) -> LoadReport {
        let Traffic { fan_out, streams, hops, threads, loss, burst, .. } = traffic;
        let release = !cfg!(debug_assertions);
        LoadReport { fan_out, streams, hops, threads, loss, out_rate, burst, release, kinds: Vec::new() }
    }

    pub(super) fn add(&mut self, kind: Kind, round: Result<Round, Failure>) {
        let report = self.of(kind);
        match round {
            Ok(round) => report.rounds.push(round),
            Err(failure) => report.failures.push(failure.to_string()),
        }
    }

    /// Takes the rate of one kind, where each has its own.
    pub(super) fn set_rate(&mut self, kind: Kind, out_rate: u64) {
        self.of(kind).out_rate = out_rate;
    }

    fn of(&mut self, kind: Kind) -> &mut KindReport {
        let known = self.kinds.iter().position(|report| report.kind == kind);
        let place = known.unwrap_or_else(|| {
            let out_rate = self.out_rate;
            self.kinds.push(KindReport { kind, out_rate, rounds: Vec::new(), failures: Vec::new(), median: None });
            self.kinds.len() - 1
        });
        &mut self.kinds[place]
    }

    pub(super) fn finish(&mut self) {
        self.kinds.iter_mut().for_each(|report| report.median = Round::median(&report.rounds));
    }

    /// What did not come about, in words.
    pub fn failures(&self) -> Vec<String> {
        let mut failures: Vec<String> = self.kinds.iter().flat_map(|report| report.failures.clone()).collect();
        failures.dedup();
        failures
    }

    /// Cost of a kind over our own: more than 1 where ours is cheaper.
    pub fn times_cheaper_than(&self, kind: Kind) -> Option<f64> {
        let cost = |kind| Some(self.kinds.iter().find(|report| report.kind == kind)?.median?.cpu_us);
        Some(cost(kind)? / cost(Kind::Anabranch)?)
    }
}

impl Round {
    /// The median of each figure by itself.
    fn median(rounds: &[Round]) -> Option<Round> {
        let median = |of: fn(&Round) -> f64| {
            let mut values: Vec<f64> = rounds.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied()
        };
        Some(Round {
            cpu_us: median(|round| round.cpu_us)?,
            busiest_us: median(|round| round.busiest_us)?,
            delivered: median(|round| round.delivered)?,
            memory_per_sink: median(|round| round.memory_per_sink as f64)? as u64,
            memory_loaded: median(|round| round.memory_loaded as f64)? as u64,
            delay_p50_us: median(|round| round.delay_p50_us)?,
            delay_p99_us: median(|round| round.delay_p99_us)?,
            delay_p999_us: median(|round| round.delay_p999_us)?,
        })
    }

    /// Payload that one core could send at this cost, in Gbit/s.
    pub fn gbps_per_core(&self) -> f64 {
        if self.cpu_us > 0.0 { BITS / self.cpu_us / 1e3 } else { 0.0 }
    }
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} sinks of {} streams, {} packets/s out, bursts of {}",
            self.fan_out, self.streams, self.out_rate, self.burst
        )?;
        if self.hops > 1 {
            write!(f, ", {} relays", self.hops)?;
        }
        if self.threads > 1 {
            write!(f, ", {} threads", self.threads)?;
        }
        if self.loss > 0.0 {
            write!(f, ", {} % lost before each sink", self.loss * 100.0)?;
        }
        for report in &self.kinds {
            let name = report.kind;
            let Some(median) = &report.median else {
                let why = report.failures.first().map_or("no round", String::as_str);
                write!(f, "\n  {name:18} NOT MEASURED: {why}")?;
                continue;
            };
            write!(f, "\n  {name:18} {median}")?;
            if report.out_rate != self.out_rate {
                write!(f, "  at {} packets/s out", report.out_rate)?;
            }
            let ratio = self.times_cheaper_than(report.kind).filter(|_| report.kind != Kind::Anabranch);
            ratio.map_or(Ok(()), |ratio| write!(f, "  ours x {ratio:.2}"))?;
        }
        Ok(())
    }
}

impl fmt::Display for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} idle sinks: ready after {:.0} ms, all connected after {:.0} ms more, {:.2} % of a core, {} kB and {} kB a sink",
            self.sinks,
            self.ready_ms,
            self.connected_ms,
            self.cpu_share * 100.0,
            self.memory / 1024,
            self.memory_per_sink / 1024
        )
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:7.2} us/packet ({:.2} on the busiest thread) {:6.2} Gbit/s a core {:9.4} % delivered {:6} kB a sink {:7} kB loaded  delay p50 {:7.0} p99 {:7.0} p99.9 {:7.0} us",
            self.cpu_us,
            self.busiest_us,
            self.gbps_per_core(),
            self.delivered * 100.0,
            self.memory_per_sink / 1024,
            self.memory_loaded / 1024,
            self.delay_p50_us,
            self.delay_p99_us,
            self.delay_p999_us
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use node::exit::Exit;

    fn round(cpu_us: f64) -> Result<Round, Failure> {
        Ok(Round { cpu_us, delivered: 1.0, ..Round::default() })
    }

    #[test]
    fn medians_are_compared() {
        let mut report = LoadReport::new(Traffic { fan_out: 8, ..Traffic::of_one_sink() }, 1000);
        [6.0, 50.0, 5.0].into_iter().for_each(|cost| report.add(Kind::Udp, round(cost)));
        [2.0, 3.0, 1.0].into_iter().for_each(|cost| report.add(Kind::Anabranch, round(cost)));
        report.add(Kind::Srt, Err(Failure::new(Exit::Unavailable, "not installed")));
        report.finish();
        assert_eq!(report.times_cheaper_than(Kind::Udp), Some(3.0));
        assert_eq!(report.times_cheaper_than(Kind::Srt), None);
        assert_eq!(report.failures(), ["not installed"]);
        let text = report.to_string();
        assert!(text.contains("ours x 3.00") && text.contains("NOT MEASURED: not installed"), "{text}");
        let ours = report.kinds.iter().find(|kind| kind.kind == Kind::Anabranch).unwrap().median.unwrap();
        assert!((ours.gbps_per_core() - 5.264).abs() < 1e-9);
    }
}
