//! The program `anabranch-relay`, built with the tests that run it.

fn main() -> std::process::ExitCode {
    relay::cli::main()
}
