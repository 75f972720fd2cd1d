//! Six relays as processes of their own, every link between them and to them emulated: any may be killed, frozen, drained, cut off.
//!
//! From `a` to `x` the first way is a-b-d-x (45 ms), the second a-c-e-x (54 ms), as in `relay/tests/overlay/failures.rs`.

use crate::flow::{Check, Feed, Media, Seen, free_port, wait_until_live, wait_until_up};
use crate::http::ask;
use crate::programs::{Files, Process, Program};
use bench::channel::{ChannelConfig, Direction, Loss};
use bench::emulator::{Action, Emulator, LinkPlan, Plan, Snapshot};
use bench::rig::{Running, Trial};
use link::Bitrate;
use node::clock::Clock;
use node::control::Dissemination;
use node::trust::{Direction as Right, Role};
use serde_json::{Value, json};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

/// The relays.
pub const RELAYS: [&str; 6] = ["a", "b", "c", "d", "e", "x"];

/// Links and their delays in milliseconds; the first end dials.
pub const LINKS: [(&str, &str, u64); 8] = [
    ("a", "b", 15),
    ("a", "c", 18),
    ("b", "d", 15),
    ("c", "e", 18),
    ("b", "e", 20),
    ("c", "d", 20),
    ("d", "x", 15),
    ("e", "x", 18),
];

/// The deadline of every stream.
pub const DEADLINE: Duration = Duration::from_millis(200);

/// Delay of the links to sources and sinks, in milliseconds.
const LAST_MILE: u64 = 5;

const PATIENCE: Duration = Duration::from_secs(30);

/// Six relays, and the links among them.
#[derive(Debug)]
pub struct Six {
    // Programs stop before the links between them do.
    relays: BTreeMap<&'static str, Member>,
    files: Files,
    trial: Trial,
    emulator: Emulator,
    loss: f64,
    doors: Cell<u32>,
}

#[derive(Debug)]
struct Member {
    process: Option<Process>,
    ops: SocketAddr,
}

/// Streams from one source at one relay to one sink at another, each spread in its own mode.
#[derive(Debug)]
pub struct Streams {
    source: Running<source::Report>,
    sink: Running<sink::Report>,
    at: Vec<Stream>,
}

#[derive(Debug)]
struct Stream {
    name: String,
    mode: Dissemination,
    media: Media,
    input: SocketAddr,
    check: Check,
    feed: Option<Feed>,
    before: sink::report::Counters,
}

/// What became of one stream in a while.
#[derive(Clone, Copy, Debug)]
pub struct Tally {
    /// How it is spread.
    pub mode: Dissemination,
    /// Packets whose time to be played came.
    pub due: u64,
    /// Of these, those that never came.
    pub lost: u64,
    /// Of these, those that came after their time.
    pub late: u64,
    /// The longest time between two that were played.
    pub gap: Duration,
}

impl Tally {
    /// Packets that were not played.
    pub fn missed(&self) -> u64 {
        self.lost + self.late
    }
}

impl Six {
    /// Starts links that lose `loss` of all datagrams either way, and the relays; waits until each knows all.
    pub fn start(seed: u64, loss: f64) -> Six {
        let trial = Trial::new().unwrap();
        let files = Files::new(&trial);
        let ports = RELAYS.map(|relay| (relay, free_port())).into_iter().collect::<BTreeMap<_, _>>();
        let link = |(from, to, delay): &(&str, &str, u64)| {
            LinkPlan::new(format!("{from}-{to}"), Some(ports[to]), channel(*delay, loss))
        };
        let links = LINKS.iter().map(link).collect();
        let emulator = Emulator::start(&Plan { seed, links, events: Vec::new() }).unwrap();
        let mut six = Six { relays: BTreeMap::new(), files, trial, emulator, loss, doors: Cell::new(0) };
        for (relay, listen) in ports {
            let ops = free_port();
            six.files.node(&six.trial, relay, Role::Relay);
            six.configure(relay, listen, ops);
            six.relays.insert(relay, Member { process: None, ops });
            six.launch(relay);
        }
        six.wait_until_joined();
        six
    }

    fn configure(&self, relay: &str, listen: SocketAddr, ops: SocketAddr) {
        let keys = self.files.path().display();
        let mut text = format!("name = \"{relay}\"\nkeys = \"{keys}\"\nlisten = \"{listen}\"\nops = \"{ops}\"\n");
        for (from, to, _) in LINKS.iter().filter(|(from, _, _)| *from == relay) {
            let address = self.emulator.address(&format!("{from}-{to}")).unwrap();
            writeln!(text, "[[neighbours]]\naddress = \"{address}\"\nname = \"{to}\"").unwrap();
        }
        self.files.write(&format!("{relay}.toml"), text);
    }

    /// Starts a relay that does not run.
    pub fn launch(&mut self, relay: &str) {
        let process = Program::Relay.start(&["run", "--config", &self.files.text(&format!("{relay}.toml"))]);
        self.relays.get_mut(relay).unwrap().process = Some(process);
    }

    fn wait_until_joined(&mut self) {
        for relay in RELAYS {
            self.wait_until_back(relay);
        }
    }

    /// Waits until something is so; panics where it does not come about.
    pub fn wait_for(&mut self, what: &str, mut is_so: impl FnMut(&mut Six) -> bool) -> Duration {
        let clock = Clock::start();
        let start = clock.now();
        while !is_so(self) {
            let took = clock.now() - start;
            assert!(took < PATIENCE, "{what}: not within {PATIENCE:?}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        clock.now() - start
    }

    /// What a relay reports of itself.
    pub fn status(&self, relay: &str) -> Value {
        let (status, body) = ask(self.relays[relay].ops, "GET", "/api/v1/status", &Value::Null).unwrap();
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    fn try_status(&self, relay: &str) -> Value {
        let answer = ask(self.relays[relay].ops, "GET", "/api/v1/status", &Value::Null);
        answer.ok().and_then(|(_, body)| serde_json::from_str(&body).ok()).unwrap_or_default()
    }

    /// Waits until a relay that was started again has all its links and knows all.
    pub fn wait_until_back(&mut self, relay: &str) -> Duration {
        let links = LINKS.iter().filter(|(from, to, _)| *from == relay || *to == relay).count();
        self.wait_for(&format!("{relay} is back"), |six| {
            let report = six.try_status(relay);
            let up =
                report["links"].as_array().map_or(0, |links| links.iter().filter(|l| l["role"] == "relay").count());
            report["overlay"]["links"] == 2 * LINKS.len() && up >= links
        })
    }

    /// Has a relay drained, as `ctl drain` does.
    pub fn drain(&self, relay: &str) {
        let ops = self.relays[relay].ops.to_string();
        let ended = Program::Relay.run(&["ctl", "drain", "--ops", &ops]);
        assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
    }

    /// Stops a relay as its operator would: it drains, and ends.
    pub fn stop(&mut self, relay: &str) {
        let process = self.relays.get_mut(relay).unwrap().process.take().unwrap();
        process.signal("TERM");
        let ended = process.wait(PATIENCE);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    }

    /// `kill -9`.
    pub fn kill(&mut self, relay: &str) {
        self.relays.get_mut(relay).unwrap().process.take().unwrap().kill();
    }

    /// A relay does nothing any more, and keeps all it has.
    pub fn freeze(&self, relay: &str) {
        self.relays[relay].process.as_ref().unwrap().signal("STOP");
    }

    /// It goes on where it was.
    pub fn thaw(&self, relay: &str) {
        self.relays[relay].process.as_ref().unwrap().signal("CONT");
    }

    /// Does something to a link, in one direction (of two neighbours) or both.
    pub fn act(&self, (from, to): (&str, &str), one_way: bool, action: Action) {
        let forward = LINKS.iter().any(|link| (link.0, link.1) == (from, to));
        let (name, direction) = match forward {
            true => (format!("{from}-{to}"), Direction::Forward),
            false => (format!("{to}-{from}"), Direction::Backward),
        };
        self.emulator.act(&name, one_way.then_some(direction), action).unwrap();
    }

    /// Both directions of a link lose this share.
    pub fn lose(&self, link: (&str, &str), share: f64) {
        self.act(link, false, Action::Loss { loss: Loss::Bernoulli { mean: share } });
    }

    /// Every link is again as it was at the start.
    pub fn mend(&self) {
        LINKS.iter().for_each(|link| self.act((link.0, link.1), false, Action::Reset));
    }

    /// The links.
    pub fn snapshot(&self) -> Snapshot {
        self.emulator.snapshot().unwrap()
    }

    /// What the relays have logged.
    pub fn log(&self) -> String {
        let running = self.relays.iter().filter_map(|(name, member)| Some((name, member.process.as_ref()?)));
        running.map(|(name, process)| format!("--- {name}\n{}", process.stderr())).collect()
    }

    /// Waits until every stream travels over the link from one relay to another.
    pub fn wait_until_carried(&mut self, (from, to): (&str, &str), streams: &Streams) {
        let names: Vec<String> = streams.at.iter().map(|stream| stream.name.clone()).collect();
        let mut before = BTreeMap::new();
        self.wait_for(&format!("{names:?} from {from} to {to}"), |six| {
            std::thread::sleep(Duration::from_millis(200));
            let now = forwarded(&six.status(from), to);
            // Of the 200 ms, half is there at the least.
            let grew = |name: &String| {
                let (new, old) = (now.get(name).copied(), before.get(name).copied());
                new.zip(old).is_some_and(|(new, old): (u64, u64)| new >= old + 50)
            };
            let all = names.iter().all(grew);
            before = now.clone();
            all
        });
    }

    /// Streams of so many bits a second from `from` to `to`, one in each mode; they flow when this returns.
    pub fn streams(&mut self, (from, to): (&str, &str), rate: Bitrate, modes: &[Dissemination]) -> Streams {
        let mut at = Vec::new();
        for (seed, mode) in modes.iter().enumerate() {
            let media = Media { rate, ..Media::video(seed as u64 + 1) };
            let (check, input) = (Check::start(&media), free_port());
            let name = format!("test/{from}{to}-{}", json!(mode).as_str().unwrap());
            at.push(Stream { name, mode: *mode, media, input, check, feed: None, before: Default::default() });
        }
        let sink = self.sink((from, to), &at);
        let source = self.source((from, to), &at);
        // The word of the streams travels to the egress, and the graphs back.
        std::thread::sleep(Duration::from_millis(1500));
        for stream in &mut at {
            stream.feed = Some(Feed::start(stream.input, &stream.media));
        }
        for stream in &at {
            stream.check.wait_for(200, PATIENCE);
        }
        let mut streams = Streams { source, sink, at };
        streams.take();
        streams
    }

    fn door(&self, who: &str, relay: &str) -> String {
        let link = format!("{who}-{relay}-{}", self.doors.replace(self.doors.get() + 1));
        let plan = LinkPlan::new(link, Some(self.listening(relay)), channel(LAST_MILE, self.loss));
        self.emulator.add(plan).unwrap().to_string()
    }

    fn listening(&self, relay: &str) -> SocketAddr {
        self.status(relay)["listen"][0].as_str().unwrap().parse().unwrap()
    }

    fn source(&self, (from, to): (&str, &str), at: &[Stream]) -> Running<source::Report> {
        let who = format!("source-{from}{to}");
        let stream = |stream: &Stream| source::Stream {
            mode: Some(stream.mode),
            ..source::Stream::new(stream.name.parse().unwrap(), format!("udp://{}", stream.input).parse().unwrap())
        };
        let config = source::Config {
            relays: vec![self.door(&who, from)],
            deadline: DEADLINE,
            streams: at.iter().map(stream).collect(),
            report_interval: Duration::from_millis(50),
            identity: Some(self.trial.source(&who.parse().unwrap()).unwrap()),
            token: Some(self.trial.token("**", Right::Publish, Duration::from_secs(86_400)).unwrap()),
            ..source::Config::default()
        };
        let source = Running::start(&*who, move |shutdown, report| source::run(config, shutdown, report));
        wait_until_live(&source);
        source
    }

    fn sink(&self, (from, to): (&str, &str), at: &[Stream]) -> Running<sink::Report> {
        let who = format!("sink-{from}{to}");
        let stream = |stream: &Stream| {
            let output = format!("udp://{}", stream.check.address).parse().unwrap();
            sink::StreamConfig::new(stream.name.parse().unwrap(), vec![output])
        };
        let config = sink::Config {
            relays: vec![self.door(&who, to)],
            streams: at.iter().map(stream).collect(),
            wait: PATIENCE,
            report_interval: Duration::from_millis(50),
            identity: Some(self.trial.sink(&who.parse().unwrap()).unwrap()),
            ..sink::Config::default()
        };
        let sink = Running::start(&*who, move |shutdown, report| sink::run(config, shutdown, report));
        wait_until_up(&sink);
        sink
    }
}

impl Streams {
    /// What became of each stream since this was last asked.
    pub fn take(&mut self) -> Vec<Tally> {
        let report = self.sink.report();
        let tally = |stream: &mut Stream| {
            let is_it = |of: &&sink::report::StreamReport| of.name.as_str() == stream.name;
            let now = report.streams.iter().find(is_it).unwrap().packets;
            let before = std::mem::replace(&mut stream.before, now);
            let gap = stream.check.seen().longest_gap;
            stream.check.reset_gap();
            let all = |of: &sink::report::Counters| of.on_time + of.late + of.missing + of.overflow;
            let lost = |of: &sink::report::Counters| of.missing + of.overflow;
            Tally {
                mode: stream.mode,
                due: all(&now) - all(&before),
                // What comes late after all is no longer counted as missing.
                lost: lost(&now).saturating_sub(lost(&before)),
                late: now.late - before.late,
                gap,
            }
        };
        self.at.iter_mut().map(tally).collect()
    }

    /// Waits until each stream plays again, and says how long the last one took.
    pub fn wait_until_played(&self) -> Duration {
        let clock = Clock::start();
        let start = clock.now();
        for stream in &self.at {
            stream.check.wait_for(1, PATIENCE);
        }
        clock.now() - start
    }

    /// Stops the feeds; what each stream sent and what of it came out, since the start.
    pub fn finish(mut self) -> Vec<(Dissemination, u64, Seen)> {
        let sent: Vec<u64> = self.at.iter_mut().map(|stream| stream.feed.take().map_or(0, Feed::stop)).collect();
        let all = self.at.iter().zip(sent);
        all.map(|(stream, sent)| (stream.mode, sent, stream.check.wait_until_quiet())).collect()
    }

    /// Whether source and sink have had the same connection all the time.
    pub fn undisturbed(&self) -> bool {
        self.source.report().connection.connections == 1 && self.sink.report().connection.connections == 1
    }
}

/// A path with this delay on which each datagram is lost by itself.
fn channel(delay_ms: u64, loss: f64) -> ChannelConfig {
    let loss = if loss > 0.0 { Loss::Bernoulli { mean: loss } } else { Loss::None };
    ChannelConfig { delay: Duration::from_millis(delay_ms), loss, ..ChannelConfig::default() }
}

/// Packets that a relay has handed to its link to another, by stream.
fn forwarded(status: &Value, to: &str) -> BTreeMap<String, u64> {
    let streams = status["streams"].as_array().cloned().unwrap_or_default();
    let of = |stream: &Value| {
        let outputs = stream["outputs"].as_array()?;
        let output = outputs.iter().find(|output| output["peer"] == to)?;
        Some((stream["name"].as_str()?.to_owned(), output["counters"]["forwarded"].as_u64()?))
    };
    streams.iter().filter_map(of).collect()
}
