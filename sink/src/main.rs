//! The program `anabranch-sink`.

fn main() -> std::process::ExitCode {
    anabranch_sink::cli::main(std::env::args_os())
}
