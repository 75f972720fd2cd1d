//! The command line of `anabranch-bench`.

use crate::{bottleneck, cost, demo, emulate, load, overlay, pacing, peers, sim, wire};
use clap::{Parser, Subcommand};
use node::exit::{Exit, Failure};

/// The demo, the link emulator and the benches of Anabranch
#[derive(Debug, Parser)]
#[command(name = "anabranch-bench", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Watch live video cross a lossy overlay of five relays on this machine
    Demo(demo::Args),
    /// Put lossy links between real programs on this machine, as a plan says
    Emulate(emulate::Args),
    /// Measure how evenly a sink plays out what its source took in
    Pacing(pacing::Args),
    /// Offer more than a link carries: shares, queue, and what is dropped why
    Bottleneck(bottleneck::Args),
    /// Measure what the code on the way of a packet costs, without sockets
    Cost(cost::Args),
    /// One case of `cost`
    #[command(hide = true)]
    CostRun(cost::RunArgs),
    /// Measure what a packet out costs a relay, beside other forwarders
    Load(load::Args),
    /// Measure how a relay's cost grows with packets, sinks, streams, relays and loss
    Growth(load::growth::Args),
    /// Keep a relay at a share of what it can do, with loss and with sinks that come and go
    Soak(load::soak::Args),
    /// The process that `load` and `soak` measure
    #[command(hide = true)]
    LoadNode(load::NodeArgs),
    /// Compare SRT, RIST and plain forwarding with Anabranch over the same emulated link
    Peers(peers::Args),
    /// Compare ways of spreading streams over twelve sites through weeks of trouble
    Overlay(overlay::Args),
    /// Simulate links in virtual time, as plans say
    Sim(sim::Args),
    /// Run simulated cases with real programs over real sockets as well, and compare
    Wire(wire::Args),
}

impl Cli {
    /// Does what was asked.
    pub fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::Demo(args) => demo::run(&args),
            Command::Emulate(args) => emulate::run(&args),
            Command::Pacing(args) => pacing::run(&args),
            Command::Bottleneck(args) => bottleneck::run(&args),
            Command::Cost(args) => cost::run(&args),
            Command::CostRun(args) => cost::run_case(&args),
            Command::Load(args) => load::run(&args),
            Command::Growth(args) => load::growth::run(&args),
            Command::Soak(args) => load::soak::run(&args),
            Command::LoadNode(args) => load::run_node(&args),
            Command::Peers(args) => peers::run(&args),
            Command::Overlay(args) => {
                overlay::run(&args);
                Ok(())
            }
            Command::Sim(args) => simulate(&args),
            Command::Wire(args) => wire::run(&args),
        }
    }
}

fn simulate(args: &sim::Args) -> Result<(), Failure> {
    match sim::run_args(args) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Failure::new(Exit::Incomplete, "a case came out worse than its plan expects")),
        Err(error) => Err(Failure::new(Exit::Config, error.to_string())),
    }
}
