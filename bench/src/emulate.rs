//! `anabranch-bench emulate`: the link emulator as a program.

use crate::emulator::{DirectionSnapshot, Emulator, EmulatorError, Plan, PlanError, Snapshot};
use crate::wait::{Interrupt, until_interrupted};
use node::exit::{Exit, Failure};
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

/// What to emulate, and how to tell of it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The plan: links, and a script of what happens to them (TOML)
    plan: PathBuf,
    /// Stop after this long instead of at Ctrl-C
    #[arg(long, value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
    /// How often to print the counters
    #[arg(long, value_parser = humantime::parse_duration, default_value = "1s")]
    interval: Duration,
    /// Print one JSON object per interval instead of text
    #[arg(long)]
    json: bool,
}

/// Runs the plan until told to stop.
pub fn run(args: &Args) -> Result<(), Failure> {
    let plan = Plan::load(&args.plan).map_err(|error| {
        let exit = if matches!(error, PlanError::Read { .. }) { Exit::NoInput } else { Exit::Config };
        Failure::new(exit, error.to_string())
    })?;
    let emulator = Emulator::start(&plan).map_err(failure)?;
    if !args.json {
        for link in &plan.links {
            let address = emulator.address(&link.name).map_err(failure)?;
            let target = link.target.map_or_else(|| "nowhere".into(), |target| target.to_string());
            println!("{}: {address} -> {target}", link.name);
        }
    }
    let mut before = Snapshot::default();
    until_interrupted(args.duration, args.interval, || {
        let now = emulator.snapshot().map_err(failure)?;
        let told = if args.json { tell_json(&now) } else { tell(&now, &before) };
        before = now;
        // A reader that went away wants no more.
        Ok(if told.is_ok() { Interrupt::Continue } else { Interrupt::Stop })
    })
}

fn tell_json(now: &Snapshot) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, now)?;
    writeln!(out)
}

fn tell(now: &Snapshot, before: &Snapshot) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for (at, what) in now.happened.iter().filter(|(at, _)| *at > before.at || before.links.is_empty()) {
        writeln!(out, "{:8.1} s  {what}", at.as_secs_f64())?;
    }
    for (index, link) in now.links.iter().enumerate() {
        let earlier = before.links.get(index).cloned().unwrap_or_default();
        let seconds = (now.at.saturating_sub(before.at)).as_secs_f64().max(1e-3);
        let forward = way(&link.forward, &earlier.forward, seconds);
        let backward = way(&link.backward, &earlier.backward, seconds);
        writeln!(out, "{:8.1} s  {:<12} > {forward}   < {backward}", now.at.as_secs_f64(), link.name)?;
    }
    if now.kernel_dropped > before.kernel_dropped {
        writeln!(out, "the kernel took {} datagrams less than it was given", now.kernel_dropped)?;
    }
    out.flush()
}

fn way(now: &DirectionSnapshot, before: &DirectionSnapshot, seconds: f64) -> String {
    let spent = now.counters.since(&before.counters);
    let rate = spent.delivered_bytes as f64 * 8e-6 / seconds;
    format!("{rate:7.2} Mbit/s {:5.1} % lost", spent.loss() * 100.0)
}

fn failure(error: EmulatorError) -> Failure {
    let exit = match error {
        EmulatorError::Plan(_) => Exit::Config,
        EmulatorError::Bind { .. } => Exit::Unavailable,
        _ => Exit::Software,
    };
    Failure::new(exit, error.to_string())
}
