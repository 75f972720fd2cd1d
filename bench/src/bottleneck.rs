//! `anabranch-bench bottleneck`: more offered than a link carries.
//!
//! Every scenario of the plan has one emulated bottleneck with a tail-drop queue, and behind it one relay with a sink on a
//! clean path. Each of our links of a scenario is a source of its own with its streams; all of them, and any bulk flow, share the one
//! bottleneck and its queue ([`crate::emulator::LinkPlan::through`]). A bulk flow is a QUIC stream as fast as it goes, under
//! quinn's CUBIC (RFC 9438), which competes as TCP does: it stands here for TCP, which the emulator does not carry.
//!
//! Reported are each stream's and flow's share, what came in time, how long the queue was, and what was dropped, by who
//! dropped it and why.

mod bulk;
mod plan;
mod report;
mod scenario;

pub use plan::{BottleneckPlan, LinkOffer, PlanError, Scenario, StreamOffer};
pub use report::{BulkReport, LinkReport, QueueReport, ScenarioReport, StreamReport};

use node::exit::{Exit, Failure};
use std::path::PathBuf;
use std::time::Duration;

/// Which scenarios, and how they are told of.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The plan: a bottleneck and what is offered to it (TOML)
    #[arg(default_value = "bench/plans/bottleneck.toml")]
    plan: PathBuf,
    /// Run only the scenarios whose name contains this
    #[arg(long, value_name = "TEXT")]
    scenario: Option<String>,
    /// Measure for so long instead of what the plan says
    #[arg(long, value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
    /// Print one JSON object per scenario instead of text
    #[arg(long)]
    json: bool,
}

/// Runs the scenarios and tells of each.
pub fn run(args: &Args) -> Result<(), Failure> {
    let mut plan = BottleneckPlan::load(&args.plan).map_err(|error| {
        let exit = if matches!(error, PlanError::Read { .. }) { Exit::NoInput } else { Exit::Config };
        Failure::new(exit, error.to_string())
    })?;
    plan.duration = args.duration.unwrap_or(plan.duration);
    if let Some(wanted) = &args.scenario {
        plan.scenarios.retain(|scenario| scenario.name.contains(wanted.as_str()));
    }
    if !args.json {
        println!("{}", plan.title);
    }
    for scenario in &plan.scenarios {
        let report = scenario::run(&plan, scenario)?;
        if args.json {
            println!("{}", serde_json::json!(report));
        } else {
            println!("{report}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn shipped() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("plans/bottleneck.toml")
    }

    #[test]
    fn the_plan_that_is_shipped_loads() {
        let plan = BottleneckPlan::load(&shipped()).unwrap();
        let shape: Vec<_> = plan.scenarios.iter().map(|s| (s.links.len(), s.bulk)).collect();
        assert_eq!(shape, [(1, 0), (2, 0), (1, 1), (1, 0)]);
        assert_eq!(plan.scenarios[0].offered().as_bps(), 25_000_000);
    }

    #[test]
    fn a_wrong_plan_says_what_is_wrong() {
        let text = std::fs::read_to_string(shipped()).unwrap();
        for (from, to, says) in [
            ("queue = \"100ms\"", "cue = \"100ms\"", "unknown field `cue`"),
            ("rate = 20_000_000", "rate = 0", "rate: expected more than 0"),
            ("priority = \"high\"", "priority = \"urgent\"", "unknown variant `urgent`"),
            ("bulk = 1", "bulk = 100", "bulk is 100: expected 0 to 16"),
        ] {
            assert!(text.contains(from), "{from}");
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("plan.toml");
            std::fs::write(&file, text.replace(from, to)).unwrap();
            let error = BottleneckPlan::load(&file).unwrap_err().to_string();
            assert!(error.contains(says) && error.contains("plan.toml"), "{error}");
        }
    }
}
