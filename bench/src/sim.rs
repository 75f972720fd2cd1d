//! The simulator: the link's own state machine in virtual time over modelled paths.
//!
//! A [`Plan`] is a list of cases; each case sends packets at an even pace along a chain of hops, every hop a pair of
//! [`link::Link`]s over a [`crate::channel::Channel`] each way. Nodes have clocks of their own; the deadline travels with the packet as it does in the
//! overlay. One seed decides everything.

mod changes;
mod plan;
mod plot;
mod reference;
mod report;
mod world;

pub use plan::{Case, Change, Expectation, Hop, Mechanism, Plan, PlanError};
pub use report::{CaseReport, Report, Second, Verdict};

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
    /// Run each case of one hop with plain ARQ and NM-strikes as well.
    #[arg(long)]
    pub references: bool,
    /// Write the report here: report.txt, report.json, report.md (a table) and report.svg (residual against overhead).
    #[arg(long, value_name = "DIRECTORY")]
    pub out: Option<PathBuf>,
}

/// Runs plans from the command line; returns whether every case met what its plan expects.
pub fn run_args(args: &Args) -> Result<bool, PlanError> {
    let mut reports = Vec::new();
    for path in &args.plans {
        let mut plan = Plan::load(path)?;
        args.adapt(&mut plan);
        if !args.json {
            println!("{}\n{}", plan.title, CaseReport::header());
        }
        let mut report = Report { title: plan.title.clone(), cases: Vec::new() };
        for case in &plan.cases {
            let done = run_case(case);
            if args.json {
                println!("{}", serde_json::to_string(&done).expect("a report is plain data"));
            } else {
                println!("{done}");
            }
            report.cases.push(done);
        }
        reports.push(report);
    }
    if let Some(directory) = &args.out {
        let write = |error| PlanError::Read { path: directory.clone(), error };
        report::write(directory, &reports).map_err(write)?;
    }
    Ok(reports.iter().flat_map(|report| &report.cases).all(|case| case.verdict != Verdict::Missed))
}

impl Args {
    /// Makes of a plan what the options say.
    fn adapt(&self, plan: &mut Plan) {
        if let Some(wanted) = &self.case {
            plan.cases.retain(|case| case.name.contains(wanted.as_str()));
        }
        for case in &mut plan.cases {
            case.packets = self.packets.unwrap_or(case.packets);
            if !self.seeds.is_empty() {
                case.seeds.clone_from(&self.seeds);
            }
        }
        if self.references {
            let cases = std::mem::take(&mut plan.cases);
            plan.cases = cases.into_iter().flat_map(with_references).collect();
        }
    }
}

/// A case, and the same under the reference policies where they can run it.
fn with_references(case: Case) -> Vec<Case> {
    let others = [Mechanism::PlainArq, Mechanism::NmStrikes].map(|mechanism| {
        let expect = Expectation::default();
        Case { mechanism, expect, ..case.clone() }
    });
    let alone = case.channels().count() == 1 && case.changes.is_empty();
    std::iter::once(case).chain(others.into_iter().filter(|_| alone)).collect()
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
mod bottleneck;
#[cfg(test)]
mod bulk;
#[cfg(test)]
mod tests;
