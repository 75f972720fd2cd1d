//! The program `anabranch-relay`.

fn main() -> std::process::ExitCode {
    anabranch_relay::cli::main()
}
