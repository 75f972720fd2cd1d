//! The program `anabranch-source`, built with the tests that run it.

fn main() -> std::process::ExitCode {
    source::cli::main()
}
