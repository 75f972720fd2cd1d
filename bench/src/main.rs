//! The program `anabranch-bench`.

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = anabranch_bench::cli::Cli::parse();
    node::exit::finish("anabranch-bench", cli.run())
}
