//! `anabranch-bench cost`: what the code on the way of a packet costs, piece by piece, without sockets: in time, and in instructions,
//! which are the same on a busy machine and show a change of a few percent.

mod baseline;
mod fan;
mod instructions;
mod pair;
mod parts;

use baseline::Baseline;
use bytes::{Bytes, BytesMut};
use link::{Flags, Instant, Label, MediaTime, Packet, StreamHandle, StreamSeq};
use node::clock::Clock;
use node::exit::{Exit, Failure};
use serde::Serialize;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// What is measured, and what is done with it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only cases whose name contains this
    #[arg(long)]
    case: Option<String>,
    /// Count instructions as well, with valgrind
    #[arg(long)]
    instructions: bool,
    /// Compare instructions with those of this file, and fail where a case takes more than its margin
    #[arg(long, conflicts_with = "write")]
    check: Option<PathBuf>,
    /// Write instructions to this file, as the ones to compare with
    #[arg(long)]
    write: Option<PathBuf>,
    /// Print one JSON object per case instead of text
    #[arg(long)]
    json: bool,
}

/// One case, run for so many items: the process whose instructions are counted.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// Its name
    case: String,
    /// How many items
    items: u64,
}

/// Something to be repeated.
struct Case {
    name: &'static str,
    /// What one repetition is about.
    item: &'static str,
    /// Items of a run that is measured.
    items: u64,
    /// Makes it, warm.
    make: fn() -> Box<dyn FnMut(u64)>,
}

/// What one case costs.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Cost {
    case: &'static str,
    item: &'static str,
    /// Nanoseconds per item, the quickest of some runs.
    nanoseconds: f64,
    /// Instructions per item.
    instructions: Option<f64>,
}

/// Runs of which the quickest counts.
const RUNS: u32 = 5;

/// Everything that is measured.
const CASES: [Case; 12] = [
    case("link", "packet", 20_000, || over(pair::Pair::losing(0), pair::Pair::run)),
    case("link, 5 % lost", "packet", 20_000, || over(pair::Pair::losing(20), pair::Pair::run)),
    case("link, 8 streams of twice its capacity", "packet", 20_000, || {
        over(pair::Pair::overloaded(8), pair::Pair::run)
    }),
    case("forward to 1", "packet in", 100_000, || over(parts::Forward::new(1), parts::Forward::run)),
    case("forward to 64", "packet in", 5_000, || over(parts::Forward::new(64), parts::Forward::run)),
    case("relay to 1", "packet in", 20_000, || over(fan::Fan::new(1), fan::Fan::run)),
    case("relay to 64", "packet in", 1_000, || over(fan::Fan::new(64), fan::Fan::run)),
    case("copies told apart", "packet", 400_000, || over(parts::Copies::default(), parts::Copies::run)),
    case("combination of 32", "repair", 2_000, || over(parts::Coding::new(32), parts::Coding::run)),
    case("graphs, 12 relays", "stream", 400, || over(parts::Graphs::new(12), parts::Graphs::run)),
    case("graphs, 50 relays", "stream", 100, || over(parts::Graphs::new(50), parts::Graphs::run)),
    case("graphs, 200 relays", "stream", 20, || over(parts::Graphs::new(200), parts::Graphs::run)),
];

const fn case(name: &'static str, item: &'static str, items: u64, make: fn() -> Box<dyn FnMut(u64)>) -> Case {
    Case { name, item, items, make }
}

fn over<T: 'static>(mut state: T, run: fn(&mut T, u64)) -> Box<dyn FnMut(u64)> {
    Box::new(move |items| run(&mut state, items))
}

/// Measures, prints, and compares.
pub fn run(args: &Args) -> Result<(), Failure> {
    if cfg!(debug_assertions) && args.check.is_none() && args.write.is_none() {
        eprintln!("this is not a release build: times are too long (cargo run --release -p anabranch-bench -- cost)");
    }
    let baseline = args.check.as_deref().map(Baseline::read).transpose()?;
    let counted = args.instructions || args.check.is_some() || args.write.is_some();
    let wanted = |case: &&Case| args.case.as_deref().is_none_or(|text| case.name.contains(text));
    let mut costs = Vec::new();
    for case in CASES.iter().filter(wanted) {
        let cost = case.measure(counted)?;
        if args.json {
            println!("{}", serde_json::json!(cost));
        } else {
            println!("{cost}");
        }
        costs.push(cost);
    }
    if costs.is_empty() {
        return Err(Failure::new(Exit::Usage, "--case: no case has that in its name"));
    }
    if let Some(file) = &args.write {
        Baseline::of(&costs).write(file)?;
    }
    baseline.map_or(Ok(()), |baseline| baseline.compare(&costs))
}

/// Runs one case for so many items.
pub fn run_case(args: &RunArgs) -> Result<(), Failure> {
    let case = CASES.iter().find(|case| case.name == args.case);
    let case = case.ok_or_else(|| Failure::new(Exit::Usage, format!("there is no case {:?}", args.case)))?;
    (case.make)()(args.items);
    Ok(())
}

/// A packet of media that has 200 ms from now on.
fn packet(now: Instant, stream: StreamHandle, seq: u32, payload: Bytes) -> Packet {
    Packet {
        target: None,
        stream,
        seq: StreamSeq(seq),
        media_time: MediaTime(0),
        age: Duration::ZERO,
        label: Label(0),
        flags: Flags::default(),
        payload,
        recover_until: now + Duration::from_millis(200),
    }
}

/// Room for frames.
const ARENA: usize = 1 << 16;

/// Takes out the frame that was just written; the room is renewed where it runs out.
fn frame(out: &mut BytesMut, length: usize) -> Bytes {
    let frame = out.split_to(length).freeze();
    if out.capacity() < 2048 {
        *out = BytesMut::with_capacity(ARENA);
    }
    frame
}

impl Case {
    fn measure(&self, counted: bool) -> Result<Cost, Failure> {
        let (clock, mut run) = (Clock::start(), (self.make)());
        let nanoseconds = (0..RUNS).map(|_| {
            let start = clock.now();
            run(self.items);
            (clock.now() - start).as_secs_f64() * 1e9 / self.items as f64
        });
        let nanoseconds = nanoseconds.fold(f64::INFINITY, f64::min);
        let instructions = counted.then(|| instructions::per_item(self.name, self.items)).transpose()?;
        Ok(Cost { case: self.name, item: self.item, nanoseconds, instructions })
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<40} {:>12.1} ns", self.case, self.nanoseconds)?;
        if let Some(instructions) = self.instructions {
            write!(f, " {instructions:>12.0} instructions")?;
        }
        write!(f, " a {}", self.item)
    }
}
