//! The overlay experiment: which graph to send on, judged on twelve sites through weeks of trouble.
//!
//! After the experiment of Babay et al., ICDCS 2017, with a generator of trouble in place of their traces. Detection and
//! graphs are those of `topology`; packets are not drawn one by one, their chances are computed ([`fate`]). Idealised:
//! every link sees one packet a millisecond, reports are never lost and take 20 ms to handle, and the load of our
//! own redundancy is not modelled. Absolute losses have heavy tails and vary with the seed; the order of schemes does not.
//!
//! | module | what it is |
//! |---|---|
//! | `map` | sites, links, flows and groups |
//! | `episodes` | what goes wrong, drawn from a seed |
//! | `fate` | the chance that a packet is lost |
//! | `schemes` | which graph each scheme sends on |
//! | `world` | streams through trouble |
//! | `onset` | what is lost in the first seconds of a fault |
//! | `scale` | what a relay of a large overlay pays |
//! | `goals` | what is to be reached, and whether it is |

pub mod episodes;
pub mod fate;
mod goals;
pub mod map;
pub mod onset;
pub mod scale;
pub mod schemes;
pub mod world;

use crate::channel::{Draws, derive};
use episodes::WEEK_MS;
use fate::{Net, Repair};
use map::EDGES;
pub(crate) use scale::random_overlay;
use schemes::{Scheme, Stream};
use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering};
use topology::graph::Graph;
use topology::module::Demand;
use world::{Run, Tally};

/// Options of `anabranch-bench overlay`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Simulate so many weeks.
    #[arg(long, default_value_t = 8, value_name = "COUNT")]
    pub weeks: u64,
    /// The seed of everything drawn.
    #[arg(long, default_value_t = 1, value_name = "SEED")]
    pub seed: u64,
    /// Use so many threads.
    #[arg(long, default_value_t = 2, value_name = "COUNT")]
    pub threads: usize,
    /// Only the settings whose name contains this; `onset` and `scale` are two more.
    #[arg(long, value_name = "TEXT")]
    pub setting: Option<String>,
    /// Print one JSON object per row instead of tables.
    #[arg(long)]
    pub json: bool,
}

/// What is simulated under one heading.
#[derive(Clone, Debug)]
pub struct Setting {
    name: &'static str,
    deadline_us: u32,
    repair: Repair,
    /// Egresses of each group; `None` for the sixteen flows.
    egresses: Option<usize>,
}

/// One row of the tables.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Under which heading.
    pub setting: &'static str,
    /// Which scheme.
    pub scheme: &'static str,
    /// Lost or late, per million packets wanted.
    pub loss_ppm: f64,
    /// Standard error of that over weeks.
    pub error_ppm: f64,
    /// Share of the way from one path to flooding, in percent.
    pub gap_percent: f64,
    /// Packets on links per packet of a source.
    pub links: f64,
    /// The same as a multiple of the first scheme's.
    pub cost: f64,
}

/// The settings of GRAPHS.md's tables.
const SETTINGS: [Setting; 7] = [
    setting("unicast 65 ms, one strike", 65, Repair::Strike, None),
    setting("unicast 65 ms, full repair", 65, Repair::Rounds, None),
    setting("unicast 200 ms, full repair", 200, Repair::Rounds, None),
    setting("multicast 1 to 6, 65 ms, one strike", 65, Repair::Strike, Some(6)),
    setting("multicast 1 to 6, 200 ms, full repair", 200, Repair::Rounds, Some(6)),
    setting("multicast 1 to 11, 65 ms, one strike", 65, Repair::Strike, Some(11)),
    setting("multicast 1 to 11, 200 ms, full repair", 200, Repair::Rounds, Some(11)),
];

/// Runs the experiment and prints its tables.
pub fn run(args: &Args) {
    let graph = map::graph();
    let wanted = |setting: &&Setting| args.setting.as_ref().is_none_or(|text| setting.name.contains(text.as_str()));
    for setting in SETTINGS.iter().filter(wanted) {
        let weeks = weeks(&graph, setting, args);
        let rows = rows(setting.name, &weeks);
        if args.json {
            rows.iter().for_each(|row| println!("{}", serde_json::to_string(row).expect("a row is plain data")));
        } else {
            print_rows(setting.name, args, &rows);
            goals::print(&goals::of_setting(&graph, setting, &rows, args.seed));
        }
    }
    onset::run(&graph, args);
    scale::run(args);
}

const fn setting(name: &'static str, ms: u32, repair: Repair, egresses: Option<usize>) -> Setting {
    Setting { name, deadline_us: ms * 1000, repair, egresses }
}

impl Setting {
    fn demands(&self, graph: &Graph, seed: u64) -> Vec<Demand> {
        match self.egresses {
            None => map::flows(graph, self.deadline_us),
            Some(egresses) => map::groups(graph, egresses, self.deadline_us, seed),
        }
    }
}

type Tallies = [Tally; Scheme::ALL.len()];

/// Every week's tallies, weeks shared out among threads.
fn weeks(graph: &Graph, setting: &Setting, args: &Args) -> Vec<Tallies> {
    let next = AtomicU64::new(0);
    let worker = || {
        let net = Net::new(graph);
        let demands = setting.demands(graph, args.seed);
        let mut streams: Vec<Stream<'_>> = demands.into_iter().map(|demand| Stream::new(graph, demand)).collect();
        let mut done = Vec::new();
        loop {
            let week = next.fetch_add(1, Ordering::Relaxed);
            if week >= args.weeks {
                return done;
            }
            done.push((week, one_week(graph, &net, &mut streams, setting, args.seed, week)));
        }
    };
    let mut all: Vec<(u64, Tallies)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..args.threads.max(1)).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a worker does not panic")).collect()
    });
    all.sort_by_key(|(week, _)| *week);
    all.into_iter().map(|(_, tallies)| tallies).collect()
}

fn one_week(graph: &Graph, net: &Net, streams: &mut [Stream<'_>], setting: &Setting, seed: u64, week: u64) -> Tallies {
    let stretches = episodes::week(graph, seed, week);
    let mut tallies = [Tally::default(); Scheme::ALL.len()];
    let mut troubled_ticks = 0;
    for (at, stretch) in stretches.iter().enumerate() {
        troubled_ticks += stretch.ticks;
        let mut draws = Draws::new(derive(seed, &["seen", &week.to_string(), &at.to_string()]));
        let seen = world::watch(net, stretch, || draws.unit());
        let chances = world::chances(net, stretch, setting.repair, setting.deadline_us);
        for stream in streams.iter_mut() {
            let mut run = Run { net, stretch, seen: &seen, chances: &chances, stream, counted: 0..stretch.ticks };
            let added = run.run(graph);
            tallies.iter_mut().zip(&added).for_each(|(tally, more)| tally.add(more));
            stream.forget();
        }
    }
    let quiet_ms = WEEK_MS.saturating_sub(troubled_ticks as u64 * episodes::TICK_MS) as f64;
    let background = episodes::background(seed, week);
    for stream in streams.iter_mut() {
        quiet(net, stream, setting, &background, quiet_ms, &mut tallies);
    }
    tallies
}

/// The quiet rest of a week: nothing changes, and only the background loses.
fn quiet(
    net: &Net,
    stream: &mut Stream<'_>,
    setting: &Setting,
    background: &[f64; EDGES],
    ms: f64,
    tallies: &mut Tallies,
) {
    let masks = world::quiet_masks(stream);
    for (mask, tally) in masks.into_iter().zip(tallies) {
        tally.sent += ms;
        tally.carried += ms * f64::from(mask.count_ones());
        for egress in &stream.demand.egresses {
            let demand = (stream.demand.ingress, egress.node, setting.deadline_us);
            tally.wanted += ms;
            tally.lost += ms * fate::quiet(net, mask, demand, background, setting.repair);
        }
    }
}

fn rows(setting: &'static str, weeks: &[Tallies]) -> Vec<Row> {
    let mean = |at: usize| {
        let mut sum = Tally::default();
        weeks.iter().for_each(|week| sum.add(&week[at]));
        sum
    };
    let ppm = |tally: &Tally| tally.lost / tally.wanted.max(1.0) * 1e6;
    let place = |scheme| Scheme::ALL.iter().position(|other| *other == scheme).expect("every scheme is in ALL");
    let (first, flood) = (mean(place(Scheme::OnePath)), mean(place(Scheme::Flood)));
    let row = |(at, scheme): (usize, &Scheme)| {
        let (tally, count) = (mean(at), weeks.len() as f64);
        let squares: f64 = weeks.iter().map(|week| (ppm(&week[at]) - ppm(&tally)).powi(2)).sum();
        let links = tally.carried / tally.sent.max(1.0);
        Row {
            setting,
            scheme: scheme.name(),
            loss_ppm: ppm(&tally),
            error_ppm: (squares / (count * (count - 1.0).max(1.0))).sqrt(),
            gap_percent: (ppm(&first) - ppm(&tally)) / (ppm(&first) - ppm(&flood)).max(1e-12) * 100.0,
            links,
            cost: links / (first.carried / first.sent.max(1.0)),
        }
    };
    Scheme::ALL.iter().enumerate().map(row).collect()
}

fn print_rows(setting: &str, args: &Args, rows: &[Row]) {
    println!("{setting} ({} weeks, seed {})", args.weeks, args.seed);
    println!("{:<34} {:>22} {:>9} {:>8} {:>7}", "scheme", "lost per million", "gap %", "links", "cost");
    for row in rows {
        let loss = format!("{:.4} ± {:.4}", row.loss_ppm, row.error_ppm);
        println!("{:<34} {loss:>22} {:>9.2} {:>8.3} {:>7.3}", row.scheme, row.gap_percent, row.links, row.cost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_week_keeps_the_order_of_schemes() {
        let args = Args { weeks: 1, seed: 3, threads: 1, setting: None, json: false };
        let graph = map::graph();
        let rows = rows("test", &weeks(&graph, &SETTINGS[0], &args));
        let loss =
            |scheme: Scheme| rows.iter().find(|row| row.scheme == scheme.name()).map_or(f64::NAN, |row| row.loss_ppm);
        assert!(loss(Scheme::Flood) <= loss(Scheme::Rule));
        assert!(loss(Scheme::Rule) < loss(Scheme::TwoDynamic));
        assert!(loss(Scheme::TwoStatic) < loss(Scheme::OnePath));
        assert!(loss(Scheme::RulePull) <= loss(Scheme::Rule));
    }
}
