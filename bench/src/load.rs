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
        for _ in 0..args.rounds {
            for kind in Kind::ALL {
                // The others know one stream, one hop and no loss; SRT also one sink.
                let plain = hops == 1 && args.streams == 1 && args.loss == 0.0 && !args.only;
                if kind == Kind::Anabranch || plain && (kind != Kind::Srt || fan_out == 1) {
                    report.add(kind, one(kind, traffic));
                }
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

fn one(kind: Kind, traffic: Traffic) -> Result<Round, Failure> {
    match kind {
        Kind::Udp => round::udp(traffic),
        Kind::Quinn => round::quinn(traffic),
        Kind::Srt => srt::round(traffic),
        Kind::Anabranch => round::anabranch(traffic),
    }
}
