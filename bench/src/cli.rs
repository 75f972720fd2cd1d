//! The command line of `anabranch-bench`.

use crate::{demo, emulate, pacing};
use clap::{Parser, Subcommand};
use node::exit::Failure;

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
}

impl Cli {
    /// Does what was asked.
    pub fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::Demo(args) => demo::run(&args),
            Command::Emulate(args) => emulate::run(&args),
            Command::Pacing(args) => pacing::run(&args),
        }
    }
}
