//! `anabranch-bench peers`: SRT, RIST, a plain UDP forwarder and our own programs through the same emulated link.
//!
//! In each cell of the plan every carrier gets an emulated link of its own that does the same to it: same delay, same loss model, same
//! seed, so that the n-th datagram on each link meets the same fate. One sender gives each the same datagrams at the same
//! moments; receivers that differ in nothing compare what comes out byte by byte. All run side by side, and so suffer alike from whatever else the machine does.

mod carrier;
mod cell;
mod compare;
mod forwarder;
mod plan;
mod program;
mod report;

pub use carrier::CarrierError;
pub use plan::{CarrierKind, CarrierPlan, CellPlan, PeersPlan, PlanError};
pub use program::NotInstalled;
pub use report::{CarrierReport, CellReport, Measured, Own};

use node::exit::{Exit, Failure};
pub(crate) use program::Tool;
use std::path::PathBuf;

/// Which cells, and how they are told of.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The plan: carriers and cells (TOML)
    #[arg(default_value = "bench/plans/peers.toml")]
    plan: PathBuf,
    /// Run only the cells whose name contains this
    #[arg(long, value_name = "TEXT")]
    cell: Option<String>,
    /// Count so many datagrams per cell instead of what the plan says
    #[arg(long, value_name = "COUNT")]
    packets: Option<u64>,
    /// Use this seed instead of the plan's
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// Run the carriers of a cell one after another instead of side by side
    #[arg(long)]
    one_by_one: bool,
    /// Print one JSON object per cell instead of text
    #[arg(long)]
    json: bool,
}

/// Runs the cells and tells of each. Fails with [`Exit::Unavailable`] where a carrier could not take part.
pub fn run(args: &Args) -> Result<(), Failure> {
    let mut plan = PeersPlan::load(&args.plan).map_err(|error| {
        let exit = if matches!(error, PlanError::Read { .. }) { Exit::NoInput } else { Exit::Config };
        Failure::new(exit, error.to_string())
    })?;
    plan.packets = args.packets.unwrap_or(plan.packets);
    plan.seed = args.seed.unwrap_or(plan.seed);
    if let Some(wanted) = &args.cell {
        plan.cells.retain(|cell| cell.name.contains(wanted.as_str()));
    }
    if plan.cells.is_empty() {
        return Err(Failure::new(Exit::Usage, format!("--cell: {} has no such cell", args.plan.display())));
    }
    let missing = missing(&plan);
    missing.iter().for_each(|missing| eprintln!("{missing}"));
    if !args.json {
        println!("{}\n{}", plan.title, CellReport::header());
    }
    let mut reports = Vec::new();
    for cell in &plan.cells {
        let report = cell::run(&plan, cell, !args.one_by_one)?;
        if args.json {
            println!("{}", serde_json::json!(report));
        } else {
            println!("{report}");
        }
        reports.push(report);
    }
    if !args.json {
        compare::compare(&reports).iter().for_each(|line| println!("{line}"));
    }
    let failed: Vec<String> = reports.iter().flat_map(CellReport::failures).collect();
    if failed.is_empty() { Ok(()) } else { Err(Failure::new(Exit::Unavailable, failed.join("; "))) }
}

/// What is not installed, a line each, with the package that has it.
fn missing(plan: &PeersPlan) -> Vec<String> {
    let tools = plan.carriers.iter().flat_map(|carrier| carrier.kind.tools());
    let mut missing: Vec<String> =
        tools.filter_map(|tool| Tool::find(*tool).err()).map(|error| error.to_string()).collect();
    missing.dedup();
    missing
}

#[cfg(test)]
mod tests;
