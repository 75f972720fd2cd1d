//! `anabranch-bench wire`: a case of the simulator, with real programs over real sockets, and what both came to.
//!
//! The plan is one of the simulator's ([`crate::sim::Plan`]). Each of its cases is one hop; it is run twice, in virtual time
//! by [`crate::sim::run_case`] and in real time by [`crate::realtime::OwnHop`] through the emulator, with the same link, deadline, rate,
//! size, number of packets and warm-up. The real run must not miss more than twice what the simulated one does, nor spend
//! more than 1.1 times as much on repair. How late the emulator and the sender were stands beside it: a machine that
//! stalls for longer than the deadline leaves makes packets late that no link could have saved.

mod real;
mod report;

pub use report::{Real, WireReport};

use crate::sim::{Case, Mechanism, Plan, PlanError, run_case};
use link::policy::Policy;
use node::exit::{Exit, Failure};
use std::path::PathBuf;

/// Which cases, and how they are told of.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Plan of the simulator whose cases are one hop each (TOML)
    #[arg(default_value = "bench/plans/wire.toml")]
    plan: PathBuf,
    /// Run only the cases whose name contains this
    #[arg(long, value_name = "TEXT")]
    case: Option<String>,
    /// Send so many packets per case instead of what the plan says, in both runs
    #[arg(long, value_name = "COUNT")]
    packets: Option<u64>,
    /// Use this seed instead of the plan's, in both runs
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// Print one JSON object per case instead of text
    #[arg(long)]
    json: bool,
}

/// Runs the cases and tells of each. Fails with [`Exit::Incomplete`] where the real run is worse than the simulated one allows.
pub fn run(args: &Args) -> Result<(), Failure> {
    let mut plan = Plan::load(&args.plan).map_err(|error| {
        let exit = if matches!(error, PlanError::Read { .. }) { Exit::NoInput } else { Exit::Config };
        Failure::new(exit, error.to_string())
    })?;
    if let Some(wanted) = &args.case {
        plan.cases.retain(|case| case.name.contains(wanted.as_str()));
    }
    for case in &mut plan.cases {
        case.packets = args.packets.unwrap_or(case.packets);
        // Real time is spent under one seed, and the simulation that judges it under the same.
        case.seeds.truncate(1);
        case.seeds = args.seed.map_or_else(|| std::mem::take(&mut case.seeds), |seed| vec![seed]);
        let wrong =
            |reason| Failure::new(Exit::Config, format!("{}: case {}: {reason}", args.plan.display(), case.name));
        check(case).map_err(wrong)?;
    }
    if !args.json {
        println!("{}\n{}", plan.title, WireReport::header());
    }
    let mut worse = Vec::new();
    for case in &plan.cases {
        let report = WireReport::new(run_case(case), real::run(case)?);
        if args.json {
            println!("{}", serde_json::json!(report));
        } else {
            println!("{report}");
        }
        if !report.is_met() {
            worse.push(case.name.clone());
        }
    }
    if worse.is_empty() {
        return Ok(());
    }
    Err(Failure::new(Exit::Incomplete, format!("worse than the simulation allows: {}", worse.join(", "))))
}

/// What real programs cannot be told: only one hop, with the policy and the frames they have by default.
fn check(case: &Case) -> Result<(), String> {
    if case.channels().count() != 1 {
        return Err("hop: expected one; real programs are measured over one emulated hop".into());
    }
    if case.mechanism != Mechanism::Link {
        return Err("mechanism: expected \"link\"; the reference policies are only simulated".into());
    }
    if case.policy != Policy::default() {
        return Err("policy: expected none; a source repairs by the default policy".into());
    }
    if case.max_frame != real::MAX_FRAME {
        return Err(format!("max_frame is {}: expected {}, as on an Ethernet path", case.max_frame, real::MAX_FRAME));
    }
    let first = (case.warmup.as_nanos() / case.interval().as_nanos().max(1)) as u64;
    if case.packets <= first {
        return Err(format!("packets is {}: expected more than the {first} of the warm-up", case.packets));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn shipped() -> Plan {
        Plan::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("plans/wire.toml")).unwrap()
    }

    #[test]
    fn the_plan_that_is_shipped_can_be_run_on_real_sockets() {
        let plan = shipped();
        assert_eq!(plan.cases.len(), 3);
        for case in &plan.cases {
            assert_eq!(check(case), Ok(()));
            assert_eq!(case.rate.as_bps(), 50_000_000);
        }
    }

    #[test]
    fn what_real_programs_cannot_be_told_is_refused() {
        let case = shipped().cases.remove(0);
        let refused = |case: Case| check(&case).unwrap_err();
        let mut chain = case.clone();
        chain.hops[0].count = 3;
        assert!(refused(chain).starts_with("hop:"));
        assert!(refused(Case { mechanism: Mechanism::PlainArq, ..case.clone() }).starts_with("mechanism:"));
        let policy = Policy { target_residual: 0.1, ..Policy::default() };
        assert!(refused(Case { policy, ..case.clone() }).starts_with("policy:"));
        assert!(refused(Case { max_frame: 1200, ..case.clone() }).starts_with("max_frame"));
        assert!(refused(Case { packets: 10, ..case }).starts_with("packets is 10"));
    }
}
