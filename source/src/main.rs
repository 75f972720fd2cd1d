//! The program `anabranch-source`.

fn main() -> std::process::ExitCode {
    anabranch_source::cli::main()
}
