//! `anabranch-bench soak`: whether a relay stays what it is: its memory, its delays, and that nothing is lost, for as long as one likes.
//!
//! With loss before every sink, and one more sink that comes every second and goes half a second later, first the rate is found that all of
//! this carries here, relay, sinks and what they share of the machine: from the one given up in steps of a quarter, each for some seconds, until
//! something is missing twice. Of that rate a share is then fed, at first for as long as a step of the search without being counted: the search ends in
//! more than is carried, and what waits then must go, and what the links think of their paths.

use super::clients::Clients;
use super::feed::{Fed, feed};
use super::round::{AFTER, chain, ends, failed, ids, used};
use super::sinks::Tally;
use super::{SIZE, Traffic, highest_rate, print, share};
use crate::rig::Trial;
use node::clock::Clock;
use node::exit::{Exit, Failure};
use serde::Serialize;
use std::fmt;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long, with how much.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Sinks that stay
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=2000))]
    fan_out: u32,
    /// Packets per second sent to all sinks together from which the search begins
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(100..=2_000_000))]
    out_rate: u64,
    /// Of the highest rate at which nothing is missing, what is fed
    #[arg(long, default_value_t = 0.8)]
    share: f64,
    /// Mean loss between the relay and each sink, in bursts of three, in either direction
    #[arg(long, default_value_t = 0.01, value_parser = share)]
    loss: f64,
    /// Threads of the relay that carry connections
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=32))]
    threads: u32,
    /// Packets fed back to back
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=64))]
    burst: u64,
    /// How long each rate of the search is fed
    #[arg(long, value_parser = humantime::parse_duration, default_value = "30s")]
    step: Duration,
    /// How long the share is
    #[arg(long, value_parser = humantime::parse_duration, default_value = "60m")]
    duration: Duration,
    /// How often it is told of
    #[arg(long, value_parser = humantime::parse_duration, default_value = "1m")]
    every: Duration,
    /// Print one JSON object per line instead of text
    #[arg(long)]
    json: bool,
}

/// What happened between two reports.
#[derive(Clone, Copy, Debug, Serialize)]
struct Span {
    /// Since the beginning, in seconds.
    at_s: f64,
    /// Packets that were to be delivered.
    due: u64,
    /// Of these, those that were not.
    missing: u64,
    /// Sinks that came and went.
    guests: u64,
    /// Of the relay, resident, in bytes.
    memory: u64,
    /// CPU time per packet delivered, in microseconds.
    cpu_us: f64,
    /// From feeding to arrival, in microseconds.
    delay_p50_us: u64,
    delay_p99_us: u64,
    /// The longest that the machine held the feeder up, in microseconds: it holds up the relay as well.
    stalled_us: u64,
}

/// All of it in short.
#[derive(Clone, Copy, Debug, Serialize)]
struct Summary {
    /// The highest rate at which nothing was missing, in packets per second out, and what was fed.
    capacity: u64,
    fed: u64,
    due: u64,
    missing: u64,
    guests: u64,
    /// Memory after the first span, and at the end, in bytes.
    memory_first: u64,
    memory_last: u64,
    /// Smallest and largest of all spans, in microseconds.
    delay_p99_us: [u64; 2],
}

/// Finds the rate, feeds, and tells. Fails where something was missing.
pub fn run(args: &Args) -> Result<(), Failure> {
    let trial = Trial::new().map_err(|error| failed(&error))?;
    let mut traffic = Traffic {
        fan_out: args.fan_out,
        streams: 1,
        hops: 1,
        threads: args.threads,
        loss: args.loss,
        rate: 0.0,
        burst: args.burst,
        warm_up: Duration::ZERO,
        duration: args.every,
    };
    let nodes = chain(&trial, traffic)?;
    let processes = ids(&nodes);
    let tally = Tally::new(Clock::start());
    let mut clients = Clients::start(&trial, ends(&nodes), traffic, &tally)?;
    let churn = clients.churn.clone();
    churn.wanted.store(true, Ordering::Relaxed);
    std::thread::sleep(AFTER);
    let mut fed = |rate: f64, span| {
        traffic.rate = rate / f64::from(args.fan_out);
        let before = tally.packets();
        tally.forget();
        let Fed { packets, latest } = feed(tally.clock(), traffic, span, |packet| clients.send(packet));
        std::thread::sleep(AFTER);
        let due = packets * u64::from(args.fan_out);
        (due, due.saturating_sub(tally.packets() - before), latest)
    };
    let capacity = highest_rate(args.out_rate as f64, |rate| fed(rate, args.step).1 == 0)
        .ok_or_else(|| failed(&format!("something is missing at {} packets a second already", args.out_rate)))?;
    let rate = capacity * args.share;
    if !args.json {
        let mbps = rate * SIZE as f64 * 8.0 / 1e6;
        println!("{capacity:.0} packets/s out are carried here; feeding {rate:.0}, which is {mbps:.0} Mbit/s");
    }
    let (due, missing, _) = fed(rate, args.step);
    if !args.json {
        println!(
            "not counted, the first {} after the search: {missing} of {due} missing",
            humantime::format_duration(args.step)
        );
    }
    let start = tally.clock().now();
    let mut spans: Vec<Span> = Vec::new();
    while tally.clock().now() - start < args.duration {
        let (before, came) = (used(&processes), churn.came.load(Ordering::Relaxed));
        let (due, missing, stalled) = fed(rate, args.every);
        let after = used(&processes);
        let [delay_p50_us, delay_p99_us, _] = tally.delays_us();
        let cpu = after.cpu.saturating_sub(before.cpu).as_secs_f64() * 1e6;
        let span = Span {
            at_s: (tally.clock().now() - start).as_secs_f64(),
            due,
            missing,
            guests: churn.came.load(Ordering::Relaxed) - came,
            memory: after.memory,
            cpu_us: cpu / (due - missing).max(1) as f64,
            delay_p50_us,
            delay_p99_us,
            stalled_us: stalled.as_micros() as u64,
        };
        print(&span, args.json);
        spans.push(span);
    }
    let summary = Summary::of(capacity as u64, rate as u64, &spans);
    print(&summary, args.json);
    if summary.missing > 0 {
        let what = format!("{} of {} packets are missing", summary.missing, summary.due);
        return Err(Failure::new(Exit::Incomplete, what));
    }
    Ok(())
}

impl Summary {
    fn of(capacity: u64, fed: u64, spans: &[Span]) -> Summary {
        let sum = |of: fn(&Span) -> u64| spans.iter().map(of).sum();
        let p99 = || spans.iter().map(|span| span.delay_p99_us);
        Summary {
            capacity,
            fed,
            due: sum(|span| span.due),
            missing: sum(|span| span.missing),
            guests: sum(|span| span.guests),
            memory_first: spans.first().map_or(0, |span| span.memory),
            memory_last: spans.last().map_or(0, |span| span.memory),
            delay_p99_us: [p99().min().unwrap_or(0), p99().max().unwrap_or(0)],
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:6.0} s {:12} due {:6} missing {:4} guests {:8} kB {:6.2} us/packet  delay p50 {:6} p99 {:6} us  stalled {:7} us",
            self.at_s,
            self.due,
            self.missing,
            self.guests,
            self.memory / 1024,
            self.cpu_us,
            self.delay_p50_us,
            self.delay_p99_us,
            self.stalled_us
        )
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [least, most] = self.delay_p99_us;
        write!(
            f,
            "fed {} of {} packets/s: {} of {} missing, {} guests, memory {} kB at first, {} kB at last, p99 of delays {least} to {most} us",
            self.fed,
            self.capacity,
            self.missing,
            self.due,
            self.guests,
            self.memory_first / 1024,
            self.memory_last / 1024
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_adds_up() {
        let span = |missing, delay_p99_us, memory| Span {
            at_s: 0.0,
            due: 100,
            missing,
            guests: 2,
            memory,
            cpu_us: 1.0,
            delay_p50_us: 1,
            delay_p99_us,
            stalled_us: 0,
        };
        let summary = Summary::of(10, 8, &[span(0, 700, 5 << 20), span(3, 500, 6 << 20)]);
        let expected = "fed 8 of 10 packets/s: 3 of 200 missing, 4 guests, memory 5120 kB at first, 6144 kB at last, \
                        p99 of delays 500 to 700 us";
        assert_eq!(summary.to_string(), expected);
    }
}
