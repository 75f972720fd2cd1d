//! `anabranch-bench demo`: live video through a lossy overlay of five relays, on this machine.
//!
//! ```text
//!              10 ms          18 ms
//!        lon ───────── par ──────────── mil ── a sink, and the player's URL
//!   source│             │ 12 ms          │
//!   12 ms │     10 ms   │      15 ms     │
//!        ams ───────── fra ──────────────┘
//!                       └── a sink
//! ```
//!
//! Every link, first and last miles included, loses 2 to 5 % of its packets in bursts, both ways, and `par-mil` goes dead again and again.
//! The stream travels on two node-disjoint ways.

mod collect;
mod screen;

use crate::channel::{ChannelConfig, Loss};
use crate::emulator::{Action, Event};
use crate::media::MediaSocket;
use crate::rig::{PATIENCE, Rig, RigError, RigLink, RigPlan, Running};
use crate::tscheck::{TsCheck, TsReport};
use crate::wait::{Interrupt, until_interrupted};
use collect::{Collector, Frame};
use node::control::Dissemination;
use node::exit::{Exit, Failure};
use screen::Screen;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use topology::StreamName;

/// A few seconds of H.264 and AAC in a transport stream.
pub const CLIP: &[u8] = include_bytes!("../assets/clip.ts");

/// How long, and how it is shown.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Stop after this long, such as 60s, instead of at Ctrl-C
    #[arg(long, value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
    /// Print one JSON object per second and a summary at the end, for scripts
    #[arg(long)]
    json: bool,
    /// Where players fetch the stream: an address and a port
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS:PORT")]
    http: std::net::SocketAddr,
    /// Play this transport stream instead of the bundled clip
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// One-way deadline from source to playout
    #[arg(long, value_parser = humantime::parse_duration, default_value = "200ms")]
    deadline: Duration,
    /// Seed of all loss: equal seeds lose alike
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Runs the demo. Fails with [`Exit::Incomplete`] where anything was lost or late.
pub fn run(args: &Args) -> Result<(), Failure> {
    let demo = Demo::start(args)?;
    let mut screen = Screen::new(args.json);
    let mut collector = Collector::default();
    let interval = if screen.is_live() { Duration::from_millis(250) } else { Duration::from_secs(1) };
    until_interrupted(args.duration, interval, || {
        screen.show(&collector.collect(&demo)?);
        Ok(if demo.broken() { Interrupt::Stop } else { Interrupt::Continue })
    })?;
    let frame = demo.finish(&mut collector)?;
    screen.finish(&frame);
    match frame.trouble() {
        None => Ok(()),
        Some(trouble) => Err(Failure::new(Exit::Incomplete, trouble)),
    }
}

/// Everything that runs.
struct Demo {
    source: Running<source::Report>,
    sinks: Vec<DemoSink>,
    rig: Rig,
    _clip: Option<tempfile::NamedTempFile>,
}

struct DemoSink {
    /// The relay it is at.
    relay: &'static str,
    running: Running<sink::Report>,
    watch: Watch,
}

const RELAYS: [&str; 5] = ["ams", "fra", "lon", "mil", "par"];
const STREAM: &str = "demo/clip";
/// Where sinks are. The first serves players.
const SINKS: [&str; 2] = ["mil", "fra"];
const INGRESS: &str = "lon";

/// Links between relays: ends, delay in milliseconds, loss in percent.
const LINKS: [(&str, &str, u64, f64); 6] = [
    ("lon", "par", 10, 3.0),
    ("par", "mil", 18, 5.0),
    ("lon", "ams", 12, 2.0),
    ("ams", "fra", 10, 4.0),
    ("fra", "mil", 15, 3.0),
    ("par", "fra", 12, 2.0),
];

fn channel(delay_ms: u64, loss_percent: f64) -> ChannelConfig {
    ChannelConfig {
        delay: Duration::from_millis(delay_ms),
        loss: Loss::Gilbert { mean: loss_percent / 100.0, burst: 0.66 },
        ..ChannelConfig::default()
    }
}

/// What happens, over and over: a link dies and comes back.
fn script() -> Vec<Event> {
    let every = Duration::from_secs(20);
    let at = Duration::from_secs;
    vec![
        Event::new(at(10), "par-mil", Action::Cut).every(every),
        Event::new(at(15), "par-mil", Action::Mend).every(every),
    ]
}

impl Demo {
    fn start(args: &Args) -> Result<Demo, Failure> {
        let link = |&(from, to, delay, loss): &(&str, &str, u64, f64)| RigLink {
            from: from.into(),
            to: to.into(),
            link: None,
            channel: channel(delay, loss),
        };
        let plan = RigPlan {
            seed: args.seed,
            relays: RELAYS.map(String::from).to_vec(),
            links: LINKS.iter().map(link).collect(),
            events: script(),
        };
        // Loopback carries what Ethernet does; every hop is known to.
        let rig = Rig::start(&plan).map_err(failure)?;
        let stream: StreamName = STREAM.parse().expect("it is a stream name");
        let sinks = SINKS
            .into_iter()
            .enumerate()
            .map(|(index, relay)| DemoSink::start(&rig, relay, &stream, (index == 0).then_some(args.http)))
            .collect::<Result<Vec<_>, _>>()?;
        let (file, clip) = input(args)?;
        let source = start_source(&rig, &stream, &file, args.deadline)?;
        Ok(Demo { source, sinks, rig, _clip: clip })
    }

    /// Whether a program has ended that should not have.
    fn broken(&self) -> bool {
        self.source.ended() || self.sinks.iter().any(|sink| sink.running.ended())
    }

    /// Ends the stream, lets everything that is on its way arrive, and takes the last look.
    fn finish(self, collector: &mut Collector) -> Result<Frame, Failure> {
        let Demo { source, sinks, rig, _clip } = self;
        let sent = source.stop()?;
        let total: u64 = sent.streams.iter().map(|stream| stream.counters.sent).sum();
        for sink in &sinks {
            // What never comes is told by the counters below; there is nothing to wait for.
            let _ = sink.running.wait_for("the end of the stream", Duration::from_secs(2), |report| {
                report.streams.first().is_some_and(|s| s.packets.on_time >= total)
            });
        }
        collector.last(&sent, &sinks, &rig)
    }
}

impl DemoSink {
    fn start(
        rig: &Rig,
        relay: &'static str,
        stream: &StreamName,
        http: Option<std::net::SocketAddr>,
    ) -> Result<DemoSink, Failure> {
        let watch = Watch::start()?;
        let mut outputs = vec![format!("udp://{}", watch.address)];
        outputs.extend(http.map(|address| format!("http://{}/live.ts", free(address))));
        let outputs = outputs.iter().map(|text| text.parse()).collect::<Result<Vec<_>, sink::output::SpecError>>();
        let outputs = outputs.map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
        let door = rig.door(&format!("{relay}-sink"), relay, channel(10, 3.0)).map_err(failure)?;
        let config = sink::Config {
            relays: vec![door],
            streams: vec![sink::StreamConfig::new(stream.clone(), outputs)],
            wait: PATIENCE,
            report_interval: Duration::from_millis(100),
            ..sink::Config::default()
        };
        let running = rig.sink(&format!("sink-{relay}"), config).map_err(failure)?;
        running
            .wait_for("a relay", PATIENCE, |report| report.connection.state == sink::report::ConnectionState::Up)
            .map_err(|error| failure(error.into()))?;
        Ok(DemoSink { relay, running, watch })
    }
}

fn start_source(
    rig: &Rig,
    stream: &StreamName,
    file: &std::path::Path,
    deadline: Duration,
) -> Result<Running<source::Report>, Failure> {
    let input = format!("file:{}", file.display());
    let input = input.parse().map_err(|error: source::url::InputError| Failure::new(Exit::Usage, error.to_string()))?;
    let door = rig.door(&format!("source-{INGRESS}"), INGRESS, channel(10, 3.0)).map_err(failure)?;
    let config = source::Config {
        relays: vec![door],
        deadline,
        mode: Dissemination::Disjoint,
        streams: vec![source::Stream { endless: true, ..source::Stream::new(stream.clone(), input) }],
        report_interval: Duration::from_millis(100),
        ..source::Config::default()
    };
    let source = rig.source("source", config).map_err(failure)?;
    source
        .wait_for("a relay", PATIENCE, |report| report.connection.state == source::report::ConnectionState::Connected)
        .map_err(|error| failure(error.into()))?;
    Ok(source)
}

/// The file to play; the bundled clip is written to one.
fn input(args: &Args) -> Result<(PathBuf, Option<tempfile::NamedTempFile>), Failure> {
    if let Some(file) = &args.input {
        return Ok((file.clone(), None));
    }
    let write = || -> std::io::Result<tempfile::NamedTempFile> {
        let file = tempfile::Builder::new().prefix("anabranch-clip-").suffix(".ts").tempfile()?;
        std::fs::write(file.path(), CLIP)?;
        Ok(file)
    };
    let file =
        write().map_err(|error| Failure::new(Exit::CannotCreate, format!("cannot write the bundled clip: {error}")))?;
    Ok((file.path().to_owned(), Some(file)))
}

/// The same address where its port is free, else with a port that the system picks.
fn free(address: std::net::SocketAddr) -> std::net::SocketAddr {
    match std::net::TcpListener::bind(address) {
        Ok(_) => address,
        Err(_) => (address.ip(), 0).into(),
    }
}

fn failure(error: RigError) -> Failure {
    match error {
        RigError::Program { program, failure } => Failure::new(failure.exit, format!("{program}: {}", failure.message)),
        other => Failure::new(Exit::Unavailable, other.to_string()),
    }
}

/// Watches a sink's UDP output: is the transport stream whole?
struct Watch {
    address: std::net::SocketAddr,
    found: Arc<Mutex<TsReport>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    fn start() -> Result<Watch, Failure> {
        let socket = MediaSocket::bind()
            .map_err(|error| Failure::new(Exit::Unavailable, format!("cannot open a UDP port: {error}")))?;
        let (found, stop) = (Arc::new(Mutex::new(TsReport::default())), Arc::new(AtomicBool::new(false)));
        let address = socket.address();
        let (shared, told) = (found.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let mut check = TsCheck::default();
            let mut room = vec![0; 65536];
            while !told.load(Ordering::Relaxed) {
                if let Some(payload) = socket.receive(Duration::from_millis(100), &mut room) {
                    check.feed(payload);
                    *shared.lock().unwrap_or_else(PoisonError::into_inner) = check.report();
                }
            }
        });
        Ok(Watch { address, found, stop, thread: Some(thread) })
    }

    fn report(&self) -> TsReport {
        *self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
