//! `anabranch-bench growth`: how a relay's cost grows along one thing at a time, as a table and, by choice, a drawing.

mod drawing;

use super::{Traffic, round};
use node::exit::{Exit, Failure};
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

/// What is measured is our relay alone, as `load` does.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How long each point is fed
    #[arg(long, value_parser = humantime::parse_duration, default_value = "3s")]
    duration: Duration,
    /// How long it is fed before that, which does not count
    #[arg(long, value_parser = humantime::parse_duration, default_value = "10s")]
    warm_up: Duration,
    /// Rounds, of which the median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// Where to write the drawing (SVG)
    #[arg(long)]
    svg: Option<PathBuf>,
    /// Print one JSON object per axis instead of text
    #[arg(long)]
    json: bool,
}

/// One thing that grows, while all else stays as in [`COMMON`].
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Axis {
    /// What grows.
    what: &'static str,
    /// In which unit its figures are.
    unit: &'static str,
    points: Vec<Point>,
}

/// What it costs at one size.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Point {
    /// Of what grows.
    at: f64,
    /// CPU time per packet out, in microseconds; with several relays, of each.
    cpu_us: f64,
    /// CPU time per second, as a share of a core.
    core: f64,
    /// Packets delivered, as a share.
    delivered: f64,
    /// Resident memory at the end, in bytes.
    memory: u64,
}

/// Packets per second out where it is not what grows.
const RATE: f64 = 40_000.0;
/// What does not grow.
const COMMON: Traffic = Traffic {
    fan_out: 16,
    streams: 1,
    hops: 1,
    threads: 1,
    loss: 0.0,
    rate: 0.0,
    burst: 10,
    warm_up: Duration::ZERO,
    duration: Duration::ZERO,
};

/// All that is measured, without the figures.
fn axes() -> Vec<(Axis, Vec<Traffic>)> {
    let axis = |what, unit, sizes: &[f64], make: fn(f64) -> (Traffic, f64)| {
        let points = sizes.iter().map(|at| Point { at: *at, cpu_us: 0.0, core: 0.0, delivered: 0.0, memory: 0 });
        let traffic = sizes.iter().map(|at| {
            let (traffic, out) = make(*at);
            Traffic { rate: out * f64::from(traffic.streams) / f64::from(traffic.fan_out), ..traffic }
        });
        (Axis { what, unit, points: points.collect() }, traffic.collect())
    };
    vec![
        axis("packets", "a second out, 16 sinks", &[10e3, 20e3, 40e3, 80e3, 120e3], |at| (COMMON, at)),
        axis("sinks", "40,000 packets/s out", &[1.0, 4.0, 16.0, 64.0, 256.0], |at| {
            (Traffic { fan_out: at as u32, ..COMMON }, RATE)
        }),
        axis("streams", "64 sinks, 40,000 packets/s out", &[1.0, 4.0, 16.0, 64.0], |at| {
            (Traffic { fan_out: 64, streams: at as u32, ..COMMON }, RATE)
        }),
        axis("relays", "one after the other, 16 sinks, 10,000 packets/s", &[1.0, 2.0, 3.0, 5.0], |at| {
            (Traffic { hops: at as u32, ..COMMON }, RATE / 4.0)
        }),
        axis("loss", "% before each of 16 sinks, 40,000 packets/s", &[0.0, 1.0, 2.0, 5.0, 10.0], |at| {
            (Traffic { loss: at / 100.0, ..COMMON }, RATE)
        }),
    ]
}

/// Measures every axis, and tells of each.
pub fn run(args: &Args) -> Result<(), Failure> {
    let mut measured = Vec::new();
    for (mut axis, traffic) in axes() {
        for (point, traffic) in axis.points.iter_mut().zip(traffic) {
            let traffic = Traffic { warm_up: args.warm_up, duration: args.duration, ..traffic };
            let mut rounds =
                (0..args.rounds).map(|_| round::anabranch(traffic)).collect::<Result<Vec<_>, Failure>>()?;
            rounds.sort_by(|a, b| a.cpu_us.total_cmp(&b.cpu_us));
            let median = rounds[rounds.len() / 2];
            let out = traffic.rate * f64::from(traffic.fan_out) / f64::from(traffic.streams);
            *point = Point {
                at: point.at,
                cpu_us: median.cpu_us / f64::from(traffic.hops),
                core: median.cpu_us * out * median.delivered / 1e6,
                delivered: median.delivered,
                memory: median.memory_loaded,
            };
        }
        super::print(&axis, args.json);
        measured.push(axis);
    }
    if let Some(file) = &args.svg {
        std::fs::write(file, drawing::draw(&measured)).map_err(|error| {
            Failure::new(Exit::Unavailable, format!("cannot write the drawing to {}: {error}", file.display()))
        })?;
    }
    Ok(())
}

impl std::fmt::Display for Axis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.what, self.unit)?;
        for point in &self.points {
            write!(
                f,
                "\n  {:7}  {:7.2} us/packet  {:6.1} % of a core  {:8.4} % delivered  {:6} kB",
                point.at,
                point.cpu_us,
                point.core * 100.0,
                point.delivered * 100.0,
                point.memory / 1024
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_is_something_that_can_be_fed() {
        for (axis, traffic) in axes() {
            assert_eq!(axis.points.len(), traffic.len());
            assert!(traffic.iter().all(|traffic| traffic.rate > 0.0 && traffic.fan_out % traffic.streams == 0));
            let text = axis.to_string();
            assert_eq!(text.lines().count(), 1 + axis.points.len(), "{text}");
        }
    }
}
