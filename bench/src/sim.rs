//! The simulator: the link's own state machine in virtual time over modelled paths.
//!
//! A [`Plan`] is a list of cases; each case sends packets at an even pace along a chain of hops, every hop a pair of
//! [`link::Link`]s over a [`crate::channel::Channel`] each way. Nodes have clocks of their own; the deadline travels with the packet as it does in the
//! overlay. One seed decides everything.

mod plan;
mod reference;
mod report;
mod world;

pub use plan::{Case, Expectation, Hop, Mechanism, Plan, PlanError};
pub use report::{CaseReport, Report, Verdict};

use report::Outcome;
use std::path::PathBuf;

/// Options of `anabranch-bench sim`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Plan files (TOML); see bench/plans.
    #[arg(required = true, value_name = "PLAN")]
    pub plans: Vec<PathBuf>,
    /// Run only the cases whose name contains this.
    #[arg(long, value_name = "TEXT")]
    pub case: Option<String>,
    /// Send so many packets per case and seed instead of what the plan says.
    #[arg(long, value_name = "COUNT")]
    pub packets: Option<u64>,
    /// Use these seeds instead of the plan's; the packets of all of them count together.
    #[arg(long = "seed", value_name = "SEED", value_delimiter = ',')]
    pub seeds: Vec<u64>,
    /// Print one JSON object per case instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// Runs plans from the command line; returns whether every case met what its plan expects.
pub fn run_args(args: &Args) -> Result<bool, PlanError> {
    let mut met = true;
    for path in &args.plans {
        let mut plan = Plan::load(path)?;
        if let Some(wanted) = &args.case {
            plan.cases.retain(|case| case.name.contains(wanted.as_str()));
        }
        for case in &mut plan.cases {
            case.packets = args.packets.unwrap_or(case.packets);
            if !args.seeds.is_empty() {
                case.seeds.clone_from(&args.seeds);
            }
        }
        if !args.json {
            println!("{}\n{}", plan.title, CaseReport::header());
        }
        for case in &plan.cases {
            let report = run_case(case);
            met &= report.verdict != Verdict::Missed;
            if args.json {
                println!("{}", serde_json::to_string(&report).expect("a report is plain data"));
            } else {
                println!("{report}");
            }
        }
    }
    Ok(met)
}

/// Runs all cases of a plan.
pub fn run(plan: &Plan) -> Report {
    Report { title: plan.title.clone(), cases: plan.cases.iter().map(run_case).collect() }
}

/// Runs one case under each of its seeds.
pub fn run_case(case: &Case) -> CaseReport {
    let mut outcome = Outcome::new(case);
    for seed in &case.seeds {
        outcome.add(match case.mechanism {
            Mechanism::Link => world::World::new(case, *seed).run(),
            Mechanism::PlainArq => reference::run(case, *seed, reference::PLAIN_ARQ),
            Mechanism::NmStrikes => reference::run(case, *seed, reference::NM_STRIKES),
        });
    }
    outcome.report(case)
}

#[cfg(test)]
mod tests;
