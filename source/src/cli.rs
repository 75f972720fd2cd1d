//! The command line of `anabranch-source`.

use crate::config::{Config, Priority, Stream};
use crate::report::{ConnectionState, Report, StreamReport, StreamState};
use crate::screen;
use bytesize::ByteSize;
use clap::{CommandFactory, Parser};
use node::config::Layers;
use node::control::Dissemination;
use node::exit::{Exit, Failure};
use node::lines;
use node::telemetry::LogFormat;
use node::terminal::{Follow, Live, ViewChoice};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use topology::{NodeName, StreamName};

const EXAMPLES: &str = "\
INPUTS:
  udp://@239.1.1.1:5000?iface=eth1  join a multicast group, IPv4 or IPv6, on an interface
                                    (its name or its address)
  udp://10.0.0.7@232.1.1.1:5000     the same, of one sender only (source-specific multicast)
  udp://:5000                       what is sent to port 5000 of this machine
  rtp://…                           as udp; the RTP header of a transport stream is taken off
                                    and its order restored (?header=keep leaves all as it is,
                                    ?reorder=20ms waits longer for what is out of order)
  file:PATH                         a transport stream, paced by its PCR; --loop: for ever
  -                                 a transport stream on the standard input, paced as it
                                    arrives (pipe:?pace=pcr: by its PCR)

  Datagrams of 1 to 2048 bytes pass byte-exact with their boundaries, whatever they hold.
  For the options that may follow the ?, misspell one: the message lists them.

EXAMPLES:
  An encoder that sends to this machine, published at the relay in London:
    anabranch-source --relay lon.example.net:4400 --keys keys --name studio \\
      news/main=udp://:5000

  ffmpeg through a pipe:
    ffmpeg -re -i in.mp4 -c copy -f mpegts - | anabranch-source \\
      --relay lon.example.net:4400 --keys keys --name studio --stream news/main -

  Two channels from multicast, a second relay should the first fail, half a second end to end:
    anabranch-source -r lon.example.net:4400 -r ams.example.net:4400 \\
      --keys keys --token-file token --deadline 500ms \\
      news/main=udp://@239.1.1.1:5000?iface=eth1 news/sign=udp://@239.1.1.2:5000?iface=eth1

EXIT CODES:
   0 done or stopped                            70 a defect of this program
   1 the inputs ended, and something did not    74 reading failed
     leave in time                              77 refused: certificate, token, right or
  64 wrong command line                            stream name
  66 input missing, or no transport stream      78 wrong configuration, keys or token file
  69 no relay reached in time, address taken";

/// Publishes live media to an Anabranch overlay.
///
/// Takes one or several inputs, and sends each as a stream to a relay, which carries it to every sink that watches it,
/// within the deadline. Reconnects by itself, to the next relay where the first is gone.
#[derive(Debug, Parser)]
#[command(name = "anabranch-source", version, after_help = EXAMPLES, max_term_width = 100)]
struct Arguments {
    /// What to publish, each as STREAM=URL, such as news/main=udp://@239.1.1.1:5000 (see INPUTS below)
    #[arg(value_name = "INPUT")]
    inputs: Vec<String>,

    /// Relay to publish at; give several in order of preference
    #[arg(short, long = "relay", value_name = "HOST:PORT", value_delimiter = ',')]
    relays: Vec<String>,

    /// Name of the stream, where there is one INPUT and it does not say it
    #[arg(short, long, value_name = "NAME")]
    stream: Option<StreamName>,

    /// Play files again and again, as one endless stream (continuous PCR, PTS, DTS and continuity counters)
    #[arg(short = 'l', long = "loop")]
    endless: bool,

    /// Time from arrival here to playout at every sink [default: 200ms]
    #[arg(short, long, value_name = "TIME", value_parser = humantime::parse_duration)]
    deadline: Option<Duration>,

    /// Which streams go first where a link has too much to send [default: normal]
    #[arg(long)]
    priority: Option<Priority>,

    /// How the streams are spread: auto, tree (one way), disjoint (two ways at once), targeted (two, and more where there is trouble) or flood [default: auto]
    #[arg(long, value_parser = parse_mode)]
    mode: Option<Dissemination>,

    /// Highest rate of each stream's payloads, such as "8 Mbit/s": links are asked for so much, and it is held to it [default: what its token allows]
    #[arg(long, value_name = "RATE", value_parser = node::config::parse_rate)]
    rate: Option<link::Bitrate>,

    /// At most so many times the links of the cheapest tree, for each packet; 1 is no redundancy at all [default: no ceiling]
    #[arg(long, value_name = "TIMES")]
    max_cost: Option<f64>,

    /// What share of packets each hop may leave missing, such as 1e-6: the less, the more repair [default: as each link's policy says]
    #[arg(long, value_name = "SHARE")]
    target_residual: Option<f64>,

    /// Directory with authority.crt and this source's certificate, as made by `anabranch-relay keys`
    #[arg(short, long, value_name = "DIR")]
    keys: Option<PathBuf>,

    /// Which certificate in the directory of keys: NAME.crt and NAME.key
    #[arg(short, long, value_name = "NAME")]
    name: Option<NodeName>,

    /// File with a stream token; the environment variable ANABRANCH_TOKEN may hold it instead
    #[arg(short, long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// File of payload keys (`anabranch-relay keys stream-key`): seals the streams from source to sink
    #[arg(long, value_name = "FILE")]
    payload_key: Option<PathBuf>,

    /// Address of this machine to send from
    #[arg(long, value_name = "ADDRESS")]
    bind: Option<IpAddr>,

    /// Largest UDP payload that the path to the relays is known to carry; found out without it
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(1200..))]
    path_mtu: Option<u16>,

    /// How long to try to reach a relay at the first start [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    connect_timeout: Option<Duration>,

    /// How long a file or the standard input waits, once published, before it begins [default: 500ms]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    start_delay: Option<Duration>,

    /// Configuration file (TOML); flags override it, and INPUTs add to its streams
    #[arg(short, long, value_name = "FILE", env = "ANABRANCH_CONFIG")]
    config: Option<PathBuf>,

    /// Print the statistics as one line of JSON per interval on the standard output
    #[arg(long)]
    json: bool,

    /// Interval of the statistics [default: 1s]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    interval: Option<Duration>,

    /// Serve metrics, health and the report over HTTP at this address, or at this port of this machine for itself
    #[arg(long, value_name = "ADDRESS", value_parser = node::ops::address)]
    metrics: Option<SocketAddr>,

    /// File with the token that requests for metrics must bring (`anabranch-relay keys ops-token`); needed beyond loopback, unless certificates of clients are taken
    #[arg(long, value_name = "FILE")]
    metrics_token_file: Option<PathBuf>,

    /// What is shown on the terminal: all of it live, a line, or nothing. By default all of it where neither input nor
    /// output is piped, else a line
    #[arg(long, value_name = "WHAT", conflicts_with = "json")]
    view: Option<ViewChoice>,

    /// The same as --view none
    #[arg(short, long, conflicts_with = "view")]
    quiet: bool,

    /// What to log on the standard error: error, warn, info, debug, trace, or target=level,…
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log: String,

    /// How log lines look
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
}

/// The whole program: reads the command line, runs, and gives the exit code.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(Exit::Usage as u8) } else { ExitCode::SUCCESS };
        }
    };
    node::exit::finish("anabranch-source", start(&arguments))
}

fn start(arguments: &Arguments) -> Result<(), Failure> {
    let config = configure(arguments)?;
    node::telemetry::init_logs(arguments.log_format, &arguments.log)?;
    let asked = if arguments.quiet { Some(ViewChoice::None) } else { arguments.view };
    let style = match arguments.json {
        true => Style::Json,
        false => Style::View(ViewChoice::decide(asked)?),
    };
    let interval = arguments.interval.unwrap_or(config.report_interval);
    node::host::block_on_local(supervise(config, style, interval))
}

/// Defaults, file, environment, flags.
fn configure(arguments: &Arguments) -> Result<Config, Failure> {
    let file = arguments.config.as_deref();
    let layers = Layers { file, prefix: "ANABRANCH_SOURCE", ..Layers::default() };
    let mut config: Config = layers.load()?;
    apply(arguments, &mut config)?;
    // What is missing or wrong without a file was missing or wrong on the command line.
    config.check().map_err(|failure| match file {
        Some(file) => Failure::new(Exit::Config, format!("configuration {}: {failure}", file.display())),
        None => Failure::new(Exit::Usage, failure.message + "; see --help"),
    })?;
    Ok(config)
}

fn apply(arguments: &Arguments, config: &mut Config) -> Result<(), Failure> {
    fn set<T: Clone>(field: &mut T, flag: &Option<T>) {
        if let Some(value) = flag {
            *field = value.clone();
        }
    }
    fn set_option<T: Clone>(field: &mut Option<T>, flag: &Option<T>) {
        *field = flag.clone().or(field.take());
    }
    if !arguments.relays.is_empty() {
        config.relays.clone_from(&arguments.relays);
    }
    set(&mut config.deadline, &arguments.deadline);
    set(&mut config.priority, &arguments.priority);
    set(&mut config.mode, &arguments.mode);
    set_option(&mut config.rate, &arguments.rate);
    set_option(&mut config.max_cost, &arguments.max_cost);
    set_option(&mut config.target_residual, &arguments.target_residual);
    set(&mut config.connect_timeout, &arguments.connect_timeout);
    set(&mut config.start_delay, &arguments.start_delay);
    // What is served over HTTP is as fresh as configured, however seldom a line is printed.
    config.report_interval =
        arguments.interval.map_or(config.report_interval, |shown| shown.min(config.report_interval));
    set_option(&mut config.keys, &arguments.keys);
    set_option(&mut config.name, &arguments.name);
    set_option(&mut config.token_file, &arguments.token_file);
    set_option(&mut config.payload_key, &arguments.payload_key);
    set_option(&mut config.bind, &arguments.bind);
    set_option(&mut config.path_mtu, &arguments.path_mtu);
    set_option(&mut config.metrics.listen, &arguments.metrics);
    set_option(&mut config.metrics.token_file, &arguments.metrics_token_file);
    add_inputs(arguments, config)
}

fn add_inputs(arguments: &Arguments, config: &mut Config) -> Result<(), Failure> {
    let usage = |message: String| Failure::new(Exit::Usage, message);
    if arguments.stream.is_some() && arguments.inputs.len() != 1 {
        let message = "--stream names the stream of one INPUT; with several, write STREAM=URL for each";
        return Err(usage(message.into()));
    }
    let added = config.streams.len();
    for input in &arguments.inputs {
        let stream = Stream::parse(input, arguments.stream.as_ref()).map_err(|error| usage(error.to_string()))?;
        config.streams.push(stream);
    }
    if arguments.endless {
        let files = config.streams[added..].iter_mut().filter(|stream| stream.input.is_file());
        if files.map(|stream| stream.endless = true).count() == 0 {
            return Err(usage("--loop: there is no file among the INPUTs to play again".into()));
        }
    }
    Ok(())
}

fn parse_mode(text: &str) -> Result<Dissemination, String> {
    match text {
        "auto" => Ok(Dissemination::Auto),
        "targeted" => Ok(Dissemination::Targeted),
        "flood" => Ok(Dissemination::Flood),
        "tree" => Ok(Dissemination::Tree),
        "disjoint" => Ok(Dissemination::Disjoint),
        _ => Err("expected auto, tree, disjoint, targeted or flood".into()),
    }
}

/// How the statistics are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Json,
    View(ViewChoice),
}

/// Runs the source, stops it on the first signal, shows its reports.
async fn supervise(config: Config, style: Style, interval: Duration) -> Result<(), Failure> {
    let (stop, shutdown) = watch::channel(false);
    let (sender, reports) = watch::channel(Report::default());
    let asked = Arc::new(Notify::new());
    let live = match style {
        Style::View(ViewChoice::Screen) => {
            let view = Follow::new(reports.clone(), asked.clone(), |report: Report| screen::page(&report));
            let failed = |error| Failure::new(Exit::Io, format!("the terminal: {error}"));
            Some(Live::start(view, interval).map_err(failed)?)
        }
        _ => None,
    };
    let signals = tokio::task::spawn_local(async move {
        stopped(&asked).await;
        tracing::info!("stopping: the streams end for their sinks; once more to stop at once");
        stop.send_replace(true);
        stopped(&asked).await;
        node::exit::at_once();
    });
    let shown = tokio::task::spawn_local(show(reports.clone(), interval, style));
    let result = crate::run(config, shutdown, sender).await;
    signals.abort();
    shown.abort();
    drop(live);
    // However it ended, once it had begun.
    let last = reports.borrow().clone();
    if result.is_ok() || last.uptime_s > 0.0 {
        match style {
            // What was on the screen is gone; how it ended stays.
            Style::View(ViewChoice::Screen) => lines::stderr().put(line(&last) + "\n"),
            _ => print(&last, style),
        }
    }
    if style == Style::View(ViewChoice::Line) {
        lines::stderr().put("\n");
    }
    result.map(|_| ())
}

/// A signal, or a key.
async fn stopped(asked: &Notify) {
    use tokio::signal::unix::{SignalKind, signal};
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => {
                terminate.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = terminated => {}
        () = asked.notified() => {}
    }
}

async fn show(reports: watch::Receiver<Report>, interval: Duration, style: Style) {
    let mut tick = tokio::time::interval(interval);
    tick.tick().await;
    loop {
        tick.tick().await;
        let report = reports.borrow().clone();
        print(&report, style);
    }
}

fn print(report: &Report, style: Style) {
    match style {
        Style::View(ViewChoice::None | ViewChoice::Screen) => {}
        Style::View(ViewChoice::Line) => {
            // Written over the line before, cut where the terminal ends, and left so that a line of the log overwrites it.
            lines::stderr().put(format!("\r\x1b[?7l{}\x1b[?7h\x1b[K\r", line(report)));
        }
        Style::Json => {
            if let Ok(text) = serde_json::to_string(report) {
                lines::stdout().put(text + "\n");
            }
        }
    }
}

/// One line that says how it goes.
fn line(report: &Report) -> String {
    let connection = &report.connection;
    let mut line = match (&connection.state, &connection.relay) {
        (ConnectionState::Connected, Some(relay)) => format!("{relay}"),
        (ConnectionState::Closed, _) => "stopped".into(),
        (state, _) => format!("{state:?} {}", connection.address.as_deref().unwrap_or("")).to_lowercase(),
    };
    if let Some(link) = &report.link {
        let _ = write!(
            line,
            "  rtt {:.1} ms  loss {:.2} %  repair {:.1} %",
            link.quality.rtt.as_secs_f64() * 1e3,
            link.wire_loss_sent * 100.0,
            link.overhead_sent * 100.0
        );
    }
    for stream in &report.streams {
        let _ = write!(line, "  |  {}", stream_text(stream));
    }
    line
}

fn stream_text(stream: &StreamReport) -> String {
    let state = match (&stream.state, &stream.trouble) {
        (StreamState::Live, None) if stream.input_bps == 0 => " no input".to_owned(),
        (StreamState::Live, None) => String::new(),
        (_, Some(trouble)) => format!(" {trouble}"),
        (state, None) => format!(" {state:?}").to_lowercase(),
    };
    let dropped = stream.counters.late + stream.counters.queue_full;
    let dropped = if dropped > 0 { format!(" {dropped} LOST HERE") } else { String::new() };
    format!(
        "{}{state} {:.2} Mbit/s {} sent{dropped}",
        stream.name,
        stream.input_bps as f64 / 1e6,
        ByteSize(stream.counters.sent_bytes)
    )
}

/// The command, for the tests of its own soundness and for manuals made from it.
pub fn command() -> clap::Command {
    Arguments::command()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configured(arguments: &[&str]) -> Result<Config, (u8, String)> {
        let arguments = ["anabranch-source"].iter().chain(arguments);
        let arguments = Arguments::try_parse_from(arguments).map_err(|error| (64, error.to_string()))?;
        configure(&arguments).map_err(|failure| (failure.exit as u8, failure.message))
    }

    #[test]
    fn the_command_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn flags_become_configuration() {
        let config = configured(&[
            "-r",
            "a:1,b:2",
            "-r",
            "c:3",
            "--deadline",
            "65ms",
            "--mode",
            "disjoint",
            "--priority",
            "high",
            "--loop",
            "--keys",
            "k",
            "--name",
            "studio",
            "--path-mtu",
            "1400",
            "a/b=file:x.ts",
            "a/c=udp://:5000",
        ])
        .unwrap();
        assert_eq!(config.relays, ["a:1", "b:2", "c:3"]);
        assert_eq!((config.deadline, config.mode), (Duration::from_millis(65), Dissemination::Disjoint));
        assert_eq!((config.priority, config.path_mtu), (Priority::High, Some(1400)));
        let streams: Vec<_> = config.streams.iter().map(|stream| (stream.name.as_str(), stream.endless)).collect();
        assert_eq!(streams, [("a/b", true), ("a/c", false)]);
    }

    #[test]
    fn a_single_input_may_be_named_by_a_flag() {
        let config = configured(&["-r", "a:1", "--stream", "news/main", "-"]).unwrap();
        assert_eq!(config.streams[0].name.as_str(), "news/main");
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (arguments, expected) in [
            (&["--bogus"][..], "--bogus"),
            (&["-r", "a:1"], "streams: expected at least one"),
            (&["a/b=-"], "relays: expected at least one"),
            (&["-r", "a", "a/b=-"], "not host:port"),
            (&["-r", "a:1", "-"], "which stream?"),
            (&["-r", "a:1", "main=-"], "tenant/channel"),
            (&["-r", "a:1", "a/b=clip.ts"], "a file needs file:"),
            (&["-r", "a:1", "a/b=udp://:5000", "a/b=udp://:5001"], "published twice"),
            (&["-r", "a:1", "a/b=-", "a/c=-"], "only one standard input"),
            (&["-r", "a:1", "--stream", "a/b", "-", "udp://:5000"], "STREAM=URL"),
            (&["-r", "a:1", "--loop", "a/b=-"], "no file"),
            (&["-r", "a:1", "--deadline", "1ms", "a/b=-"], "expected 5ms to 60s"),
            (&["-r", "a:1", "--deadline", "soon", "a/b=-"], "deadline"),
            (&["-r", "a:1", "--mode", "wide", "a/b=-"], "auto, tree, disjoint, targeted or flood"),
        ] {
            let (exit, message) = configured(arguments).unwrap_err();
            assert_eq!(exit, 64, "{arguments:?}: {message}");
            assert!(message.contains(expected), "{arguments:?}: {message}");
        }
    }
}
