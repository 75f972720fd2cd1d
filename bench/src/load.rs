//! `anabranch-bench load`: what a packet out costs a relay, beside a plain forwarder, bare QUIC and SRT in the same run.
//!
//! What is measured is a process of its own that takes one stream in and sends it to so many sinks: our relay, a plain UDP forwarder (one
//! `recv` and one `sendto` per packet), a bare quinn forwarder (datagrams, no link layer), or srt-live-transmit (one to one, with
//! AES). Sources and sinks run in this process. Rounds are interleaved: each round starts every kind anew, feeds it in bursts, and reads
//! the CPU time of all its threads (`/proc/PID/task/*/schedstat`) and its memory. The median of the rounds counts.
//!
//! CPU time per packet out depends on how many packets come at once, so the size of the burst and the rate are part of every figure.

mod clients;
pub mod cpu;
mod feed;
pub mod growth;
mod lossy;
mod process;
mod report;
mod round;
mod sinks;
pub mod soak;
mod srt;

pub use process::{Args as NodeArgs, run as run_node};
pub use report::{Idle, Kind, LoadReport, Round};

use node::exit::{Exit, Failure};
use serde::Serialize;
use std::fmt;
use std::time::Duration;

/// How many sinks, how much, and how it is told of.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Numbers of sinks, each a run of its own
    #[arg(long, value_delimiter = ',', default_value = "1,8,64,256", value_parser = clap::value_parser!(u32).range(1..=2000))]
    fan_out: Vec<u32>,
    /// Packets per second sent to all sinks together
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(100..=2_000_000))]
    out_rate: u64,
    /// Streams that the sinks share, each watching one; the other forwarders have only one for all
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    streams: u32,
    /// Threads of our relay that carry connections
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=32))]
    threads: u32,
    /// Relays of ours one after the other, the last of which has the sinks; each number is a run of its own
    #[arg(long, value_delimiter = ',', default_value = "1", value_parser = clap::value_parser!(u32).range(1..=9))]
    hops: Vec<u32>,
    /// Mean loss between our relay and each sink, in bursts of three, in either direction
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    loss: f64,
    /// For each kind the highest rate, from --out-rate on in steps of a quarter, at which nothing is missing; it is measured at that
    #[arg(long, conflicts_with = "idle")]
    highest: bool,
    /// Only our relay, without the other forwarders
    #[arg(long)]
    only: bool,
    /// Packets fed back to back, all of one stream
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=64))]
    burst: u64,
    /// Rounds, of which the median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// How long each kind is fed in a round
    #[arg(long, value_parser = humantime::parse_duration, default_value = "3s")]
    duration: Duration,
    /// How long it is fed before that, which does not count: a link that carries little needs some seconds to learn that its path loses nothing
    #[arg(long, value_parser = humantime::parse_duration, default_value = "10s")]
    warm_up: Duration,
    /// Send nothing: how soon the relay is ready, how long its sinks take to connect, and what it uses while all of them are idle
    #[arg(long)]
    idle: bool,
    /// Print one JSON object per fan-out instead of text
    #[arg(long)]
    json: bool,
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=0.5).contains(share));
    share.ok_or_else(|| "expected a share from 0 to 0.5".to_owned())
}

/// What is sent in one round, through what.
#[derive(Clone, Copy, Debug)]
struct Traffic {
    /// Sinks of all streams together.
    fan_out: u32,
    streams: u32,
    /// Relays of ours on the way.
    hops: u32,
    /// Threads of each.
    threads: u32,
    /// Mean loss before each sink.
    loss: f64,
    /// Packets per second in, of all streams together.
    rate: f64,
    burst: u64,
    warm_up: Duration,
    duration: Duration,
}

impl Traffic {
    #[cfg(test)]
    fn of_one_sink() -> Traffic {
        let (warm_up, duration) = (Duration::ZERO, Duration::ZERO);
        Traffic { fan_out: 1, streams: 1, hops: 1, threads: 1, loss: 0.0, rate: 100.0, burst: 10, warm_up, duration }
    }

    /// Packets that leave where so many come in.
    fn out_of(self, sent: u64) -> f64 {
        sent as f64 * f64::from(self.fan_out) / f64::from(self.streams)
    }
}

/// Bytes of a packet of media.
const SIZE: usize = 1316;

/// Measures every fan-out and tells of each.
pub fn run(args: &Args) -> Result<(), Failure> {
    let mut lacking = Vec::new();
    if cfg!(debug_assertions) {
        eprintln!(
            "this is not a release build: CPU times are too high (cargo run --profile dist -p anabranch-bench -- load)"
        );
    }
    for (fan_out, hops) in args.fan_out.iter().flat_map(|fan_out| args.hops.iter().map(move |hops| (*fan_out, *hops))) {
        if fan_out % args.streams != 0 {
            let what = format!("--fan-out {fan_out} with --streams {}: expected a multiple of it", args.streams);
            return Err(Failure::new(Exit::Usage, what));
        }
        let traffic = Traffic {
            fan_out,
            streams: args.streams,
            hops,
            threads: args.threads,
            loss: args.loss,
            rate: args.out_rate as f64 * f64::from(args.streams) / f64::from(fan_out),
            burst: args.burst,
            warm_up: args.warm_up,
            duration: args.duration,
        };
        if args.idle {
            print(&round::idle(traffic)?, args.json);
            continue;
        }
        let mut report = LoadReport::new(traffic, args.out_rate);
        // The others know one stream, one hop and no loss; SRT also one sink.
        let plain = hops == 1 && args.streams == 1 && args.loss == 0.0 && !args.only;
        let measured = |kind| kind == Kind::Anabranch || plain && (kind != Kind::Srt || fan_out == 1);
        let mut kinds: Vec<(Kind, Traffic)> = Kind::ALL.map(|kind| (kind, traffic)).to_vec();
        kinds.retain(|(kind, _)| measured(*kind));
        if args.highest {
            kinds.retain_mut(|(kind, traffic)| match highest(*kind, *traffic, args.out_rate as f64) {
                Ok(out_rate) => {
                    traffic.rate *= out_rate / args.out_rate as f64;
                    report.set_rate(*kind, out_rate as u64);
                    true
                }
                Err(failure) => {
                    report.add(*kind, Err(failure));
                    false
                }
            });
        }
        for _ in 0..args.rounds {
            for (kind, traffic) in &kinds {
                report.add(*kind, one(*kind, *traffic));
            }
        }
        report.finish();
        print(&report, args.json);
        lacking.extend(report.failures());
    }
    if lacking.is_empty() { Ok(()) } else { Err(Failure::new(Exit::Unavailable, lacking.join("; "))) }
}

fn print<T: Serialize + fmt::Display>(report: &T, json: bool) {
    if json {
        println!("{}", serde_json::json!(report));
    } else {
        println!("{report}");
    }
}

/// The highest rate out at which all packets of two rounds of this kind arrive: one may have had luck.
fn highest(kind: Kind, traffic: Traffic, out_rate: f64) -> Result<f64, Failure> {
    let mut failure = None;
    let mut whole = |rate| match one(kind, Traffic { rate: traffic.rate * rate / out_rate, ..traffic }) {
        Ok(round) => {
            eprintln!("{kind} at {rate:.0} packets/s out: {:.4} % delivered", round.delivered * 100.0);
            round.delivered >= 1.0
        }
        Err(error) => {
            failure = Some(error);
            false
        }
    };
    let found = highest_rate(out_rate, |rate| whole(rate) && whole(rate));
    let missing = || format!("something is missing at {out_rate:.0} packets a second already");
    found.ok_or_else(|| failure.unwrap_or_else(|| Failure::new(Exit::Incomplete, missing())))
}

/// The highest rate, in steps of a quarter from the first, at which `complete` holds. What fails once is tried again: a shared machine hiccups.
fn highest_rate(first: f64, mut complete: impl FnMut(f64) -> bool) -> Option<f64> {
    let mut found = None;
    let mut rate = first;
    while complete(rate) || complete(rate) {
        found = Some(rate);
        rate *= 1.25;
    }
    found
}

fn one(kind: Kind, traffic: Traffic) -> Result<Round, Failure> {
    match kind {
        Kind::Udp => round::udp(traffic),
        Kind::Quinn => round::quinn(traffic),
        Kind::Srt => srt::round(traffic),
        Kind::Anabranch => round::anabranch(traffic),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_rate_is_found_and_one_hiccup_does_not_count() {
        let mut hiccups = 1;
        let found = highest_rate(1000.0, |rate| {
            let hiccup = rate > 1200.0 && std::mem::take(&mut hiccups) > 0;
            rate < 2000.0 && !hiccup
        });
        assert_eq!(found, Some(1953.125));
        assert_eq!(highest_rate(1000.0, |_| false), None);
    }
}
