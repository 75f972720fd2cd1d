//! `anabranch-bench pacing`: how evenly a sink plays out what its source took in.

use crate::channel::{ChannelConfig, Loss};
use crate::media::MediaSocket;
use crate::rig::{PATIENCE, Rig, RigError, RigPlan};
use hdrhistogram::Histogram;
use link::{Bitrate, Instant};
use node::clock::Clock;
use node::exit::{Exit, Failure};
use serde::Serialize;
use std::net::SocketAddr;
use std::time::Duration;
use topology::StreamName;

/// What is sent, and over what.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// For how long
    #[arg(long, value_parser = humantime::parse_duration, default_value = "20s")]
    duration: Duration,
    /// Media rate in Mbit/s
    #[arg(long, default_value_t = 10)]
    mbps: u64,
    /// Datagrams sent back to back, as encoders send a frame
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    burst: u64,
    /// Mean loss of every hop in percent, in bursts (Gilbert 0.66), both ways
    #[arg(long, default_value_t = 5.0)]
    loss: f64,
    /// One-way delay of every hop
    #[arg(long, value_parser = humantime::parse_duration, default_value = "15ms")]
    delay: Duration,
    /// One-way deadline
    #[arg(long, value_parser = humantime::parse_duration, default_value = "200ms")]
    deadline: Duration,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
struct Pacing {
    sent: u64,
    received: u64,
    /// From sending to the source's input to coming out at the sink.
    delay_p50_us: u64,
    delay_p99_us: u64,
    /// How far each packet's delay lies from the median delay.
    jitter_p50_us: u64,
    jitter_p99_us: u64,
    jitter_max_us: u64,
    /// How far the gap to the packet before differs between output and input.
    gap_p50_us: u64,
    gap_p99_us: u64,
    emulator_lag_p99_us: u64,
}

const PACKET: usize = 1316;
const STREAM: &str = "bench/pacing";

/// Sends numbered datagrams through source, three relays and sink, and compares the times.
pub fn run(args: &Args) -> Result<(), Failure> {
    let channel = ChannelConfig {
        delay: args.delay,
        loss: Loss::Gilbert { mean: args.loss / 100.0, burst: 0.66 },
        ..ChannelConfig::default()
    };
    channel.validate().map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
    let links = [("a", "b", channel.clone()), ("b", "c", channel.clone())];
    let rig = Rig::start(&RigPlan::new(1, &["a", "b", "c"], &links)).map_err(failure)?;
    let (into, out) = (MediaSocket::bind(), MediaSocket::bind());
    let (into, out) =
        into.and_then(|into| Ok((into, out?))).map_err(|e| Failure::new(Exit::Unavailable, e.to_string()))?;

    let stream: StreamName = STREAM.parse().expect("it is a stream name");
    let sink = rig.sink("sink", sink_config(&rig, &stream, out.address(), &channel)?).map_err(failure)?;
    let (config, input) = source_config(&rig, &stream, &channel, args.deadline)?;
    let source = rig.source("source", config).map_err(failure)?;
    source
        .wait_for("publication", PATIENCE, |report| {
            report.streams.first().is_some_and(|s| s.state == source::report::StreamState::Live)
        })
        .map_err(|error| failure(error.into()))?;
    // The graph and the subscription travel; a packet before them would be no measurement.
    std::thread::sleep(Duration::from_secs(1));

    let clock = Clock::start();
    let (duration, rate, burst) = (args.duration, Bitrate::mbps(args.mbps), args.burst);
    let feeder = std::thread::spawn(move || feed(clock, &into, input, duration, rate, burst));
    let times = collect(clock, &out, args.duration + args.deadline + Duration::from_secs(2));
    let sent = feeder.join().map_err(|_| Failure::new(Exit::Software, "the feeder panicked"))?;
    let lag = rig.emulator().snapshot().map(|s| s.lag_p99).unwrap_or_default();
    drop((source, sink));
    let result = evaluate(sent, &times, lag);
    tell(args, &result);
    if result.received < sent {
        let lost = sent - result.received;
        return Err(Failure::new(Exit::Incomplete, format!("{lost} of {sent} datagrams did not come out")));
    }
    Ok(())
}

fn sink_config(
    rig: &Rig,
    stream: &StreamName,
    to: SocketAddr,
    channel: &ChannelConfig,
) -> Result<sink::Config, Failure> {
    let output = format!("udp://{to}").parse().map_err(|e: sink::output::SpecError| usage(&e))?;
    Ok(sink::Config {
        relays: vec![rig.door("c-sink", "c", channel.clone()).map_err(failure)?],
        streams: vec![sink::StreamConfig::new(stream.clone(), vec![output])],
        wait: PATIENCE,
        ..sink::Config::default()
    })
}

fn source_config(
    rig: &Rig,
    stream: &StreamName,
    channel: &ChannelConfig,
    deadline: Duration,
) -> Result<(source::Config, SocketAddr), Failure> {
    // A port that was free a moment ago; the source takes it next.
    let input = MediaSocket::bind().map_err(|e| Failure::new(Exit::Unavailable, e.to_string()))?.address();
    let url = format!("udp://{input}").parse().map_err(|e: source::url::InputError| usage(&e))?;
    let config = source::Config {
        relays: vec![rig.door("source-a", "a", channel.clone()).map_err(failure)?],
        deadline,
        streams: vec![source::Stream::new(stream.clone(), url)],
        ..source::Config::default()
    };
    Ok((config, input))
}

/// Sends numbered datagrams with the time of sending in them, and returns how many.
fn feed(clock: Clock, from: &MediaSocket, to: SocketAddr, duration: Duration, rate: Bitrate, burst: u64) -> u64 {
    let step = rate.time_for(PACKET as u64 * burst);
    let start = clock.now();
    let mut payload = [0u8; PACKET];
    let (mut sent, mut bursts) = (0u64, 0u32);
    while clock.now() - start < duration {
        let due = start + step * bursts;
        std::thread::sleep(due - clock.now());
        for _ in 0..burst {
            payload[..8].copy_from_slice(&sent.to_le_bytes());
            payload[8..16].copy_from_slice(&clock.now().as_micros().to_le_bytes());
            if from.send(to, &payload).is_ok() {
                sent += 1;
            }
        }
        bursts += 1;
    }
    sent
}

/// Times of sending and of coming out, in the order of coming out.
fn collect(clock: Clock, from: &MediaSocket, duration: Duration) -> Vec<(Instant, Instant)> {
    let mut room = vec![0; 65536];
    let mut times = Vec::new();
    let end = clock.now() + duration;
    while clock.now() < end {
        let Some(payload) = from.receive(Duration::from_millis(200), &mut room) else { continue };
        let now = clock.now();
        if let Some(stamp) = payload.get(8..16).and_then(|bytes| bytes.try_into().ok()) {
            times.push((Instant::from_micros(u64::from_le_bytes(stamp)), now));
        }
    }
    times
}

fn evaluate(sent: u64, times: &[(Instant, Instant)], lag: Duration) -> Pacing {
    let micros = |span: Duration| span.as_micros() as u64;
    let delays = quantiles(times.iter().map(|(into, out)| micros(*out - *into)));
    let median = delays.value_at_quantile(0.5);
    let jitter = quantiles(times.iter().map(|(into, out)| micros(*out - *into).abs_diff(median)));
    let gaps = times.windows(2).map(|pair| {
        let ((into, out), (next_into, next_out)) = (pair[0], pair[1]);
        micros(next_out - out).abs_diff(micros(next_into - into))
    });
    let gaps = quantiles(gaps);
    Pacing {
        sent,
        received: times.len() as u64,
        delay_p50_us: median,
        delay_p99_us: delays.value_at_quantile(0.99),
        jitter_p50_us: jitter.value_at_quantile(0.5),
        jitter_p99_us: jitter.value_at_quantile(0.99),
        jitter_max_us: jitter.max(),
        gap_p50_us: gaps.value_at_quantile(0.5),
        gap_p99_us: gaps.value_at_quantile(0.99),
        emulator_lag_p99_us: micros(lag),
    }
}

fn quantiles(values: impl Iterator<Item = u64>) -> Histogram<u64> {
    let mut histogram = Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are in order");
    values.for_each(|value| histogram.saturating_record(value));
    histogram
}

fn tell(args: &Args, result: &Pacing) {
    if args.json {
        println!("{}", serde_json::json!(result));
        return;
    }
    let ms = |us: u64| us as f64 / 1e3;
    println!("{} of {} datagrams came out", result.received, result.sent);
    println!(
        "delay, input to output    p50 {:8.3} ms   p99 {:8.3} ms",
        ms(result.delay_p50_us),
        ms(result.delay_p99_us)
    );
    println!(
        "jitter, against median    p50 {:8.3} ms   p99 {:8.3} ms   max {:.3} ms",
        ms(result.jitter_p50_us),
        ms(result.jitter_p99_us),
        ms(result.jitter_max_us)
    );
    println!("gap, output against input p50 {:8.3} ms   p99 {:8.3} ms", ms(result.gap_p50_us), ms(result.gap_p99_us));
    println!("emulator's own lateness   p99 {:8.3} ms", ms(result.emulator_lag_p99_us));
}

fn usage(error: &impl ToString) -> Failure {
    Failure::new(Exit::Usage, error.to_string())
}

fn failure(error: RigError) -> Failure {
    Failure::new(Exit::Unavailable, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_is_the_distance_from_the_median_delay() {
        let at = Instant::from_micros;
        let times: Vec<_> =
            (0..100u64).map(|i| (at(i * 1000), at(i * 1000 + 200_000 + if i % 10 == 0 { 500 } else { 0 }))).collect();
        let result = evaluate(100, &times, Duration::ZERO);
        assert!(result.delay_p50_us.abs_diff(200_000) < 300);
        assert!(result.jitter_p50_us < 300 && result.jitter_p99_us.abs_diff(500) < 300, "{result:?}");
        assert!(result.gap_p50_us <= 1 && result.gap_p99_us.abs_diff(500) < 10, "{result:?}");
    }
}
