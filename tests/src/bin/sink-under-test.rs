//! The program `anabranch-sink`, built with the tests that run it.

fn main() -> std::process::ExitCode {
    sink::cli::main(std::env::args_os())
}
