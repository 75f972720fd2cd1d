//! The command line of `anabranch-relay`.

mod ask;
mod ctl;
mod keys;
mod run;
mod service;
mod stream_key;
mod top;

use clap::{Args, Parser, Subcommand};
use node::exit::{self, Exit, Failure};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use topology::NodeName;

/// The relay of Anabranch: carries live streams from sources to sinks over an overlay of relays, in time.
///
/// A relay forwards what it receives at once, repairs losses on each link beside the flow, and finds the ways of streams
/// by itself. Make keys with `keys`, describe the relay in a file (`example-config` prints one), and `run` it.
///
/// Exit codes: 0 stopped in good order, 64 wrong command line, 69 an address cannot be bound, 73 a key exists or cannot be
/// written, 77 refused, 78 wrong configuration or keys.
#[derive(Debug, Parser)]
#[command(name = "anabranch-relay", version, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a relay until SIGTERM or Ctrl-C; a second one stops it at once. SIGHUP reads the
    /// configuration anew
    Run(run::Run),
    /// Check a configuration file and the keys it names, without starting anything
    Check(Configured),
    /// Print a configuration file with every field and what it means
    ExampleConfig,
    /// Make and look into the keys of an overlay: its authority, certificates of nodes, tokens for streams
    #[command(subcommand)]
    Keys(keys::Keys),
    /// Ask a running relay, over its operations port
    #[command(subcommand)]
    Ctl(ctl::Ctl),
    /// Show the overlay as a running relay knows it, live, in this terminal: links with what they lose and what repair costs, streams
    Top(top::Top),
}

/// Where a relay's settings come from; flags override the environment, the environment the file.
#[derive(Clone, Debug, Args)]
struct Configured {
    /// The relay's configuration (TOML). Fields may be overridden by the environment: ANABRANCH_RELAY_LISTEN,
    /// ANABRANCH_RELAY_LIMITS__MAX_STREAMS and so on. Not needed where flags say enough
    #[arg(long, short, value_name = "FILE", env = "ANABRANCH_CONFIG", required_unless_present = "keys")]
    config: Option<PathBuf>,
    /// Directory with authority.crt and this relay's certificate and key
    #[arg(long, short, value_name = "DIR")]
    keys: Option<PathBuf>,
    /// This relay's name: picks NAME.crt and NAME.key
    #[arg(long, short, value_name = "NAME")]
    name: Option<NodeName>,
    /// Where to listen for relays, sources and sinks (UDP); several are possible
    #[arg(long, short, value_name = "ADDRESS")]
    listen: Vec<SocketAddr>,
    /// A relay to keep a link to, added to those of the file; several are possible
    #[arg(long, value_name = "HOST:PORT")]
    neighbour: Vec<String>,
    /// Where the operations port listens (TCP); beyond loopback it needs a token, or certificates of clients
    #[arg(long, value_name = "ADDRESS")]
    ops: Option<SocketAddr>,
    /// File with the token that the operations port asks for
    #[arg(long, value_name = "FILE")]
    ops_token_file: Option<PathBuf>,
    /// A name or address that the operations port is reached by, added to those of the file; several are possible
    #[arg(long, value_name = "HOST")]
    ops_host: Vec<String>,
}

/// The command line, as completions and manual pages are made from it.
pub fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// Parses the command line and does what it says.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let result = match cli.command {
        Command::Run(run) => run.execute(),
        Command::Check(configured) => run::check(&configured),
        Command::ExampleConfig => print(include_str!("../../../deploy/relay.toml")),
        Command::Keys(keys) => keys.execute(),
        Command::Ctl(ctl) => ctl.execute(),
        Command::Top(top) => top.execute(),
    };
    exit::finish("anabranch-relay", result)
}

/// clap's own exit code for a wrong command line is 2; the one of sysexits.h is 64.
fn usage(error: &clap::Error) -> ExitCode {
    // Nothing is left to do where even that cannot be written.
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(Exit::Usage as u8) } else { ExitCode::SUCCESS }
}

/// Writes to standard output. A reader that has gone away (`| head`) is no failure.
fn print(text: &str) -> Result<(), Failure> {
    use std::io::{ErrorKind, Write};
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::new(Exit::Io, format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// A duration as people write it: `30d`, `1s`, `1h 30m`.
fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; expected a duration such as 30d, 12h or 1s"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    /// Whoever asks for help is told what each command and flag is for.
    #[test]
    fn every_command_and_flag_has_its_help() {
        fn check(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for arg in command.get_arguments() {
                assert!(arg.get_help().is_some(), "{} {}", command.get_name(), arg.get_id());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }
}
