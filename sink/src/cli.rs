//! The command line of `anabranch-sink`.

mod signals;

use crate::config::{Config, StreamConfig};
use crate::output::{OutputSpec, Start, Target};
use crate::report::{ConnectionState, Report, StreamReport};
use crate::screen::Screen;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser};
use node::clock::Clock;
use node::exit::{Exit, Failure};
use node::lines;
use node::telemetry::{LogFormat, init_logs};
use node::terminal::{Follow, Live, ViewChoice};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use topology::{NodeName, StreamName};

const PROGRAM: &str = "anabranch-sink";

const USAGE: &str = "anabranch-sink [OPTIONS] --relay HOST:PORT --stream NAME OUTPUT...";

const EXAMPLES: &str = "\
Outputs:
  udp://HOST:PORT           datagrams, unicast or multicast           ?iface=eth1&ttl=4
  rtp://HOST:PORT           RTP; payload type 33 for TS, else 96      ?iface=eth1&ttl=4&pt=98
  file:PATH                 a file; replaced by the first packet      ?append=true&framing=length
  -                         standard output                           ?framing=length
  http://ADDR:PORT/NAME.ts  a server for any number of players; the page at / plays it in a browser
  Any of them takes ?start=now or ?start=decodable (see --start).
  udp and rtp send each packet of the stream as one datagram. Files and pipes get packets one after the other, which
  is what a transport stream wants; ?framing=length keeps them apart, each behind its length (4 bytes, big-endian).
  Several outputs run side by side; a slow or broken one never disturbs the others.

Examples:
  Into a decoder or a playout server:
    anabranch-sink --relay relay1.example.net:4400 --keys keys --token-file watch.token \\
        --stream news/main udp://239.1.1.1:5000?iface=eth1
  For VLC, ffplay or a browser, and a recording at the same time:
    anabranch-sink … --stream news/main http://0.0.0.0:8080/main.ts file:main.ts
  Straight into a player:
    anabranch-sink … --stream news/main - | ffplay -
  Two streams, each with the outputs that follow it:
    anabranch-sink … --stream news/main udp://10.0.0.7:5000 --stream news/aux udp://10.0.0.7:5002

Exit codes:
  0   stopped as asked, or, with --until-end, every stream ended and everything is written
  64  the command line is wrong           73  an output cannot be created
  69  no relay answered, or the address   74  writing to an output failed: the disk is full
      of an http output is taken          77  refused, no such stream, or no key for it
  78  configuration, certificate or token file wrong
  When one output fails and others are left, the sink goes on, and exits with 74 at the end.";

/// Receives live streams from an Anabranch overlay: complete, in order, on time, evenly paced.
///
/// Names a relay, a stream, and where the stream shall go. Every packet leaves at the time it came to the source, plus
/// the stream's deadline; what the network lost on the way is repaired until then.
#[derive(Clone, Debug, Parser)]
#[command(name = PROGRAM, version, override_usage = USAGE, after_help = EXAMPLES, max_term_width = 110)]
pub struct Cli {
    /// Where the stream goes; several are possible (see below)
    #[arg(value_name = "OUTPUT")]
    pub outputs: Vec<OutputSpec>,

    /// The stream to receive, as tenant/channel; outputs belong to the stream named before them
    #[arg(short, long = "stream", value_name = "NAME")]
    pub streams: Vec<StreamName>,

    /// A relay to receive from, as host:port; several in order of preference
    #[arg(short, long = "relay", value_name = "HOST:PORT")]
    pub relays: Vec<String>,

    /// Directory with authority.crt, as `anabranch-relay keys` makes it
    #[arg(short, long, value_name = "DIR")]
    pub keys: Option<PathBuf>,

    /// Show the certificate NAME.crt in the directory of keys; without it a token is needed
    #[arg(long, value_name = "NAME")]
    pub name: Option<NodeName>,

    /// File with the token that allows to watch; or set ANABRANCH_TOKEN to the token itself
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// File of payload keys (`anabranch-relay keys stream-key`), for streams that are sealed from source to sink
    #[arg(long, value_name = "FILE")]
    pub payload_key: Option<PathBuf>,

    /// Play a stream in the clear too for which there is a payload key
    #[arg(long)]
    pub allow_clear: bool,

    /// Release packets this long after the source received them, where that is more than the stream's deadline
    #[arg(short, long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub latency: Option<Duration>,

    /// Where outputs begin: `decodable` waits for program tables and a picture that needs no other. By default players
    /// (http:) begin there, all other outputs with the first packet
    #[arg(long, value_name = "WHERE", value_parser = parse_start)]
    pub start: Option<Start>,

    /// How long to wait for a relay, and for the first packet of a stream [default: 10s]
    #[arg(short, long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub wait: Option<Duration>,

    /// Stop with exit code 0 when every stream has ended, instead of waiting for it to return
    #[arg(long)]
    pub until_end: bool,

    /// Largest UDP payload that the path to the relay is known to carry; found out without it
    #[arg(long, value_name = "BYTES")]
    pub path_mtu: Option<u16>,

    /// Configuration file (TOML); the command line goes before it
    #[arg(short, long, value_name = "FILE", env = "ANABRANCH_CONFIG")]
    pub config: Option<PathBuf>,

    /// Print the statistics as one line of JSON at every interval: to standard output, or to standard error where the
    /// stream itself goes to standard output
    #[arg(long)]
    pub json: bool,

    /// How often statistics are shown [default: 1s]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub interval: Option<Duration>,

    /// Serve metrics, health and the report over HTTP at this address, or at this port of this machine for itself
    #[arg(long, value_name = "ADDRESS", value_parser = node::ops::address)]
    pub metrics: Option<SocketAddr>,

    /// File with the token that requests for metrics must bring (`anabranch-relay keys ops-token`); needed beyond loopback, unless certificates of clients are taken
    #[arg(long, value_name = "FILE")]
    pub metrics_token_file: Option<PathBuf>,

    /// What is shown on the terminal: all of it live, a line, or nothing. By default all of it where neither input nor
    /// output is piped, else a line
    #[arg(long, value_name = "WHAT", conflicts_with = "json")]
    pub view: Option<ViewChoice>,

    /// The same as --view none
    #[arg(short, long, conflicts_with = "view")]
    pub quiet: bool,

    /// What to log: error, warn, info, debug, trace, or a list of target=level
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub log: String,

    /// How log lines look
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,
}

/// The command line, as completions and manual pages are made from it.
pub fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// Parses, loads, runs; the exit code of the program.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let matches = match Cli::command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => {
            // A closed terminal is no reason for another exit code.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(Exit::Usage as u8) } else { ExitCode::SUCCESS };
        }
    };
    node::exit::finish(PROGRAM, start(&matches))
}

fn start(matches: &ArgMatches) -> Result<(), Failure> {
    let cli = Cli::from_arg_matches(matches).map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
    init_logs(cli.log_format, &cli.log)?;
    let config = cli.configure(matches)?;
    let show = Show::new(&cli, &config)?;
    let interval = cli.interval.unwrap_or(config.report_interval);
    let matches = matches.clone();
    let load = move || cli.configure(&matches);
    node::host::block_on_local(run(config, show, interval, load))
}

async fn run(
    config: Config,
    show: Show,
    interval: Duration,
    load: impl Fn() -> Result<Config, Failure> + 'static,
) -> Result<(), Failure> {
    let (stop, stopped) = watch::channel(false);
    let (report, reports) = watch::channel(Report::default());
    let asked = Arc::new(Notify::new());
    let live = show.live(&reports, &asked, interval)?;
    let shower = tokio::task::spawn_local(show.follow(reports, interval, config.report_interval));
    let signals = tokio::task::spawn_local(signals::stop(stop, asked));
    let (read, reloads) = mpsc::channel(1);
    let hangups = tokio::task::spawn_local(signals::reload(read, load));
    let result = crate::server::run_reloading(config, stopped, report, reloads).await;
    signals.abort();
    hangups.abort();
    drop(live);
    // The sender is gone: the follower shows the last report and ends.
    let _ = shower.await;
    result.map(|_| ())
}

impl Cli {
    /// The configuration: file and environment, and over them what the command line says.
    fn configure(&self, matches: &ArgMatches) -> Result<Config, Failure> {
        let mut config = Config::load(self.config.as_deref())?;
        if !self.relays.is_empty() {
            config.relays = self.relays.clone();
        }
        if !self.streams.is_empty() || !self.outputs.is_empty() {
            config.streams = self.pair(matches, &config.streams)?;
        }
        config.keys = self.keys.clone().or(config.keys);
        config.name = self.name.clone().or(config.name);
        config.token_file = self.token_file.clone().or(config.token_file);
        config.payload_key = self.payload_key.clone().or(config.payload_key);
        config.allow_clear |= self.allow_clear;
        config.path_mtu = self.path_mtu.or(config.path_mtu);
        config.wait = self.wait.unwrap_or(config.wait);
        config.until_end |= self.until_end;
        // What is served over HTTP is as fresh as configured, however seldom a line is printed.
        config.report_interval =
            self.interval.map_or(config.report_interval, |shown| shown.min(config.report_interval));
        config.metrics.listen = self.metrics.or(config.metrics.listen);
        config.metrics.token_file = self.metrics_token_file.clone().or(config.metrics.token_file);
        for stream in &mut config.streams {
            stream.latency = self.latency.or(stream.latency);
            stream.start = self.start.or(stream.start);
        }
        // Whose mistake it is decides the exit code.
        let exit = if self.config.is_some() { Exit::Config } else { Exit::Usage };
        let place = self.config.as_ref().map(|file| format!("configuration {}: ", file.display())).unwrap_or_default();
        config.check().map_err(|what| Failure::new(exit, format!("{place}{what} (--help shows how)")))?;
        Ok(config)
    }

    /// Gives each output to the stream named before it; a single stream gets them all.
    fn pair(&self, matches: &ArgMatches, configured: &[StreamConfig]) -> Result<Vec<StreamConfig>, Failure> {
        let usage = |what: &str| Err(Failure::new(Exit::Usage, what));
        let indices = |id: &str| matches.indices_of(id).into_iter().flatten().collect::<Vec<usize>>();
        let at: Vec<usize> = indices("streams");
        let mut streams: Vec<StreamConfig> = match (self.streams.is_empty(), configured) {
            (false, _) => self.streams.iter().map(|name| StreamConfig::new(name.clone(), Vec::new())).collect(),
            (true, [one]) => vec![StreamConfig { outputs: Vec::new(), ..one.clone() }],
            (true, []) => return usage("which stream? Name it: --stream tenant/channel OUTPUT"),
            (true, _) => {
                return usage("which stream shall these outputs be of? Name it before them: --stream NAME OUTPUT");
            }
        };
        for (output, index) in self.outputs.iter().zip(indices("outputs")) {
            let before = at.iter().filter(|stream| **stream < index).count();
            if before == 0 && streams.len() > 1 {
                return usage(&format!("{output} stands before the first --stream; outputs follow their stream"));
            }
            streams[before.saturating_sub(1)].outputs.push(output.clone());
        }
        Ok(streams)
    }
}

fn parse_start(text: &str) -> Result<Start, String> {
    match text {
        "now" => Ok(Start::Now),
        "decodable" => Ok(Start::Decodable),
        _ => Err("expected now or decodable".into()),
    }
}

/// How the statistics are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Show {
    Nothing,
    /// The whole terminal.
    Screen,
    /// A line on the terminal, ever anew.
    Line,
    JsonToStdout,
    JsonToStderr,
}

impl Show {
    fn new(cli: &Cli, config: &Config) -> Result<Show, Failure> {
        let mut outputs = config.streams.iter().flat_map(|stream| &stream.outputs);
        let media_on_stdout = outputs.any(|output| matches!(output.target, Target::Stdout { .. }));
        let asked = if cli.quiet { Some(ViewChoice::None) } else { cli.view };
        Ok(match (cli.json, media_on_stdout) {
            (true, true) => Show::JsonToStderr,
            (true, false) => Show::JsonToStdout,
            (false, _) => match ViewChoice::decide(asked)? {
                ViewChoice::Screen => Show::Screen,
                ViewChoice::Line => Show::Line,
                ViewChoice::None => Show::Nothing,
            },
        })
    }

    /// Takes the terminal, where that is asked for.
    fn live(
        self,
        reports: &watch::Receiver<Report>,
        asked: &Arc<Notify>,
        interval: Duration,
    ) -> Result<Option<Live>, Failure> {
        if self != Show::Screen {
            return Ok(None);
        }
        let mut screen = Screen::default();
        let page = move |report| {
            screen.take(report);
            screen.page()
        };
        let live = Live::start(Follow::new(reports.clone(), asked.clone(), page), interval);
        live.map(Some).map_err(|error| Failure::new(Exit::Io, format!("the terminal: {error}")))
    }

    /// Shows a report at every `interval`, of those that come each `renewal`, and the last one.
    async fn follow(self, mut reports: watch::Receiver<Report>, interval: Duration, renewal: Duration) {
        let clock = Clock::start();
        let (mut due, mut told) = (clock.now(), true);
        while reports.changed().await.is_ok() {
            let now = clock.now();
            told = now + renewal / 2 >= due;
            if told {
                self.show(&reports.borrow_and_update());
                due = (due + interval).max(now);
            }
        }
        if !told {
            self.show(&reports.borrow());
        }
        match self {
            Show::Line => lines::stderr().put("\n"),
            // What was on the screen is gone; how it ended stays.
            Show::Screen => lines::stderr().put(line(&reports.borrow()) + "\n"),
            _ => {}
        }
    }

    fn show(self, report: &Report) {
        let json = || serde_json::to_string(report).unwrap_or_default() + "\n";
        match self {
            Show::Nothing | Show::Screen => {}
            Show::JsonToStdout => lines::stdout().put(json()),
            Show::JsonToStderr => lines::stderr().put(json()),
            // Back to the start of the line, and clear what is left of the one before.
            Show::Line => lines::stderr().put(format!("\r{}\x1b[K", line(report))),
        }
    }
}

/// One line for the terminal.
fn line(report: &Report) -> String {
    let connection = &report.connection;
    let relay = connection.name.as_ref().or(connection.relay.as_ref()).map_or("", String::as_str);
    let mut parts = vec![match connection.state {
        ConnectionState::Up => relay.to_owned(),
        ConnectionState::Connecting => format!("connecting to {relay}"),
        ConnectionState::Stopped => "stopped".to_owned(),
    }];
    parts.extend(report.streams.iter().map(stream_line));
    if let Some(link) = &report.link {
        parts.push(format!("loss {:.1} %, rtt {:.0} ms", link.loss * 100.0, link.rtt_ms));
    }
    parts.join(" | ")
}

fn stream_line(stream: &StreamReport) -> String {
    let packets = &stream.packets;
    let mut text = format!("{} {:?}", stream.name, stream.state).to_lowercase();
    if packets.received > 0 {
        let share = share(stream.on_time_share);
        text += &format!(", on time {share}, arrival p99 {:.0} of {:.0} ms", stream.arrival.p99_ms, stream.latency_ms);
        text += &format!(", repaired {}+{}", packets.recovered_arq, packets.recovered_fec);
    }
    if let Some(trouble) = &stream.trouble {
        text += &format!(", {trouble}");
    }
    if packets.late + packets.missing > 0 {
        text += &format!(", late {}, missing {}", packets.late, packets.missing);
    }
    let dropped: u64 = stream.outputs.iter().map(|output| output.dropped).sum();
    if dropped > 0 {
        text += &format!(", dropped at outputs {dropped}");
    }
    let players: u64 = stream.outputs.iter().map(|output| output.clients).sum();
    if players > 0 {
        text += &format!(", players {players}");
    }
    text
}

/// A share in per cent; 100 % only where it is all.
fn share(share: f64) -> String {
    if share >= 1.0 { "100 %".into() } else { format!("{:.4} %", (share * 1e6).floor() / 1e4) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configured(arguments: &str) -> Result<Config, Failure> {
        let arguments = std::iter::once(PROGRAM).chain(arguments.split_whitespace());
        let matches =
            Cli::command().try_get_matches_from(arguments).map_err(|e| Failure::new(Exit::Usage, e.to_string()))?;
        Cli::from_arg_matches(&matches).unwrap().configure(&matches)
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn outputs_follow_their_stream() {
        let outputs = |config: &Config, index: usize| {
            config.streams[index].outputs.iter().map(|output| output.as_str().to_owned()).collect::<Vec<_>>()
        };
        let one = configured("- file:x --stream a/b udp://h:1 -r h:1").unwrap();
        assert_eq!(outputs(&one, 0), ["-", "file:x", "udp://h:1"]);
        let two = configured("-r h:1 -s a/b udp://h:1 file:x -s a/c udp://h:2 --latency 500ms").unwrap();
        assert_eq!(
            (outputs(&two, 0), outputs(&two, 1)),
            (vec!["udp://h:1".into(), "file:x".into()], vec!["udp://h:2".into()])
        );
        assert!(two.streams.iter().all(|stream| stream.latency == Some(Duration::from_millis(500))));
        let failure = configured("-r h:1 udp://h:1 -s a/b -s a/c udp://h:2").unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.message.contains("before the first --stream"));
    }

    #[test]
    fn what_is_missing_is_asked_for() {
        for (arguments, expected) in [
            ("-r h:1 udp://h:1", "which stream?"),
            ("-s a/b udp://h:1", "relays: expected at least one"),
            ("-r h:1 -s a/b", "a/b has no output"),
            ("-r h -s a/b -", "not host:port"),
            ("-r h:1 -s a -", "tenant/channel"),
            ("-r h:1 -s a/b srt://x:1", "expected udp://"),
            ("-r h:1 -s a/b - --start later", "now or decodable"),
            ("-r h:1 -s a/b - --frobnicate", "--frobnicate"),
        ] {
            let failure = configured(arguments).unwrap_err();
            assert_eq!(failure.exit, Exit::Usage, "{arguments}");
            assert!(failure.message.contains(expected), "{arguments}: {failure}");
        }
    }

    #[test]
    fn the_line_says_what_a_receiver_wants_to_know() {
        let name: StreamName = "demo/clip".parse().unwrap();
        let mut report = Report::default();
        report.connection.relay = Some("h:1".into());
        assert_eq!(line(&report), "connecting to h:1");
        report.connection.state = ConnectionState::Up;
        let packets = crate::report::Counters { received: 10, on_time: 9, missing: 1, ..Default::default() };
        report.streams.push(StreamReport {
            name,
            state: crate::report::StreamState::Live,
            content: None,
            latency_ms: 200.0,
            packets,
            on_time_share: packets.on_time_share(),
            release: Default::default(),
            arrival: Default::default(),
            sealed: None,
            trouble: None,
            ts: None,
            outputs: Vec::new(),
        });
        let shown = line(&report);
        assert!(shown.starts_with("h:1 | demo/clip live, on time 90.0000 %"), "{shown}");
        assert!(shown.ends_with("late 0, missing 1"), "{shown}");
        assert_eq!((share(1.0), share(0.9999999)), ("100 %".into(), "99.9999 %".into()));
    }
}
