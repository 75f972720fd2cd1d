//! Known datagrams through a source, the overlay and sinks, compared byte by byte.
//!
//! A [`Feed`] sends to the source's UDP input, a [`Check`] listens at the sink's UDP output. Both outlive the programs between
//! them, so that these can be killed and started again in the middle.

use bench::channel::ChannelConfig;
use bench::media::{Compared, Comparison, Datagrams, MediaSocket};
use bench::rig::{PATIENCE, Rig, Running};
use link::{Bitrate, Instant};
use node::clock::Clock;
use node::control::Dissemination;
use std::net::{SocketAddr, TcpListener};
use std::ops::{Range, RangeInclusive};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Datagrams whose content follows from a seed.
#[derive(Clone, Debug)]
pub struct Media {
    /// The seed.
    pub seed: u64,
    /// Their sizes.
    pub sizes: RangeInclusive<usize>,
    /// Their rate, all sizes together.
    pub rate: Bitrate,
}

impl Media {
    /// 1316 bytes each, 10 Mbit/s.
    pub fn video(seed: u64) -> Media {
        Media { seed, sizes: 1316..=1316, rate: Bitrate::mbps(10) }
    }

    fn datagrams(&self) -> Datagrams {
        Datagrams::new(self.seed, self.sizes.clone(), u64::MAX)
    }
}

/// A port of loopback that is free, of UDP and of TCP, and that nobody gets who does not ask for it by number: it lies below the ports that the system
/// hands out. (Of those, one that was just let go may be the near end of whoever tries to reach it before it is taken.)
#[expect(clippy::disallowed_types, reason = "nothing is sent by it")]
pub fn free_port() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    const PORTS: Range<u32> = 10_000..32_000;
    // Programs that run at the same time begin at different places.
    let begin = std::process::id().wrapping_mul(97);
    let port = |nth: u32| PORTS.start + begin.wrapping_add(nth) % (PORTS.end - PORTS.start);
    let tries = PORTS.map(|_| port(NEXT.fetch_add(1, Ordering::Relaxed)));
    let is_free = |at: &SocketAddr| std::net::UdpSocket::bind(at).is_ok() && TcpListener::bind(at).is_ok();
    let at = |port: u32| SocketAddr::from(([127, 0, 0, 1], port as u16));
    tries.map(at).find(is_free).expect("loopback has a free port")
}

/// Sends media until stopped.
#[derive(Debug)]
pub struct Feed {
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Feed {
    /// Sends to `to` from now on.
    pub fn start(to: SocketAddr, media: &Media) -> Feed {
        let (sent, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, told, media) = (sent.clone(), stop.clone(), media.clone());
        let socket = MediaSocket::bind().expect("loopback has a free port");
        let thread = std::thread::spawn(move || {
            let clock = Clock::start();
            let mut due = clock.now();
            for datagram in media.datagrams() {
                std::thread::sleep(due - clock.now());
                if told.load(Ordering::Relaxed) {
                    return;
                }
                socket.send(to, &datagram).expect("loopback takes a datagram");
                count.fetch_add(1, Ordering::Relaxed);
                due += media.rate.time_for(datagram.len() as u64);
            }
        });
        Feed { sent, stop, thread: Some(thread) }
    }

    /// Datagrams sent up to here.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Stops, and says how many datagrams it sent.
    pub fn stop(mut self) -> u64 {
        self.halt();
        self.sent()
    }

    fn halt(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.halt();
    }
}

/// Compares what arrives with what a [`Feed`] of the same media sends.
#[derive(Debug)]
pub struct Check {
    /// Where it listens.
    pub address: SocketAddr,
    clock: Clock,
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// What a [`Check`] has seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// How it compares.
    pub compared: Compared,
    /// Datagrams, whatever they were.
    pub arrived: u64,
    /// When the last one came, on the check's clock.
    pub last: Instant,
    /// The longest time between two of them.
    pub longest_gap: Duration,
    /// Where datagrams are missing: the number of the first, and how many in a row.
    pub holes: Vec<(u64, u64)>,
}

impl Check {
    /// Listens on a free port.
    pub fn start(media: &Media) -> Check {
        let socket = MediaSocket::bind().expect("loopback has a free port");
        let (seen, stop) = (Arc::new(Mutex::new(Seen::default())), Arc::new(AtomicBool::new(false)));
        let (address, clock) = (socket.address(), Clock::start());
        let (shared, told) = (seen.clone(), stop.clone());
        let mut comparison = Comparison::new(media.datagrams());
        let thread = std::thread::spawn(move || {
            let mut room = vec![0; 65536];
            while !told.load(Ordering::Relaxed) {
                let Some(datagram) = socket.receive(Duration::from_millis(50), &mut room) else { continue };
                let now = clock.now();
                comparison.feed(datagram);
                let mut seen = shared.lock().expect("no test thread panics with it");
                if seen.arrived > 0 {
                    seen.longest_gap = seen.longest_gap.max(now - seen.last);
                }
                (seen.compared, seen.last) = (comparison.result(), now);
                if seen.holes.len() < comparison.holes().len() {
                    seen.holes = comparison.holes().to_vec();
                }
                seen.arrived += 1;
            }
        });
        Check { address, clock, seen, stop, thread: Some(thread) }
    }

    /// What has been seen up to here.
    pub fn seen(&self) -> Seen {
        self.seen.lock().expect("no test thread panics with it").clone()
    }

    /// Forgets the longest gap.
    pub fn reset_gap(&self) {
        self.seen.lock().expect("no test thread panics with it").longest_gap = Duration::ZERO;
    }

    /// Waits until `n` more datagrams have come, and says how long it took. Panics where they do not.
    pub fn wait_for(&self, n: u64, patience: Duration) -> Duration {
        let (start, before) = (self.clock.now(), self.seen().arrived);
        while self.seen().arrived < before + n {
            assert!(self.clock.now() - start < patience, "{n} datagrams did not come within {patience:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
        self.clock.now() - start
    }

    /// Waits until nothing has come for half a second.
    pub fn wait_until_quiet(&self) -> Seen {
        loop {
            let seen = self.seen();
            if self.clock.now() - seen.last > Duration::from_millis(500) {
                return seen;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Check {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// How a stream is published.
#[derive(Clone, Debug)]
pub struct Publishing<'a> {
    /// The source's name.
    pub name: &'a str,
    /// The stream's.
    pub stream: &'a str,
    /// The relay to publish at, and the way there.
    pub at: &'a str,
    /// What the way does.
    pub channel: ChannelConfig,
    /// What is published: a URL.
    pub input: String,
    /// One-way deadline.
    pub deadline: Duration,
    /// How it is spread.
    pub mode: Dissemination,
}

impl Publishing<'_> {
    /// The configuration of such a source; opens the emulated way to its relay, which is named `NAME-RELAY`.
    pub fn config(&self, rig: &Rig) -> source::Config {
        let door = rig.door(&format!("{}-{}", self.name, self.at), self.at, self.channel.clone()).unwrap();
        source::Config {
            relays: vec![door],
            deadline: self.deadline,
            mode: self.mode,
            streams: vec![source::Stream::new(self.stream.parse().unwrap(), self.input.parse().unwrap())],
            report_interval: Duration::from_millis(50),
            metrics: node::ops::Metrics { listen: Some(([127, 0, 0, 1], 0).into()), ..Default::default() },
            ..source::Config::default()
        }
    }

    /// Starts it, and waits until it publishes.
    pub fn start(&self, rig: &Rig) -> Running<source::Report> {
        let source = rig.source(self.name, self.config(rig)).unwrap();
        wait_until_live(&source);
        source
    }
}

/// Waits until all streams of a source are published.
pub fn wait_until_live(source: &Running<source::Report>) {
    let live = |report: &source::Report| {
        !report.streams.is_empty()
            && report.streams.iter().all(|stream| stream.state == source::report::StreamState::Live)
    };
    source.wait_for("publication", PATIENCE, live).unwrap();
}

/// How a stream is watched.
#[derive(Clone, Debug)]
pub struct Watching<'a> {
    /// The sink's name.
    pub name: &'a str,
    /// The stream's.
    pub stream: &'a str,
    /// The relay to receive from, and the way there.
    pub at: &'a str,
    /// What the way does.
    pub channel: ChannelConfig,
    /// Where it goes: URLs.
    pub outputs: Vec<String>,
}

impl Watching<'_> {
    /// The configuration of such a sink; opens the emulated way to its relay, which is named `NAME-RELAY`.
    pub fn config(&self, rig: &Rig) -> sink::Config {
        let door = rig.door(&format!("{}-{}", self.name, self.at), self.at, self.channel.clone()).unwrap();
        let outputs = self.outputs.iter().map(|output| output.parse().unwrap()).collect();
        sink::Config {
            relays: vec![door],
            streams: vec![sink::StreamConfig::new(self.stream.parse().unwrap(), outputs)],
            wait: PATIENCE,
            report_interval: Duration::from_millis(50),
            metrics: node::ops::Metrics { listen: Some(([127, 0, 0, 1], 0).into()), ..Default::default() },
            ..sink::Config::default()
        }
    }

    /// Starts it, and waits until its relay knows of it.
    pub fn start(&self, rig: &Rig) -> Running<sink::Report> {
        let sink = rig.sink(self.name, self.config(rig)).unwrap();
        wait_until_up(&sink);
        sink
    }
}

/// Waits until a sink has its relay.
pub fn wait_until_up(sink: &Running<sink::Report>) {
    sink.wait_for("a relay", PATIENCE, |report| report.connection.state == sink::report::ConnectionState::Up).unwrap();
}

/// A feed through one source to one sink.
#[derive(Debug)]
pub struct Flow {
    /// What is sent.
    pub media: Media,
    /// Where the source listens.
    pub input: SocketAddr,
    /// The source, while it runs.
    pub source: Option<Running<source::Report>>,
    /// The sink, while it runs.
    pub sink: Option<Running<sink::Report>>,
    /// What compares.
    pub check: Check,
    /// What sends; `None` before and after.
    pub feed: Option<Feed>,
}

impl Flow {
    /// A flow named `name` from the relay `from` to the relay `to`, with the same path at both ends. The feed does not run yet.
    pub fn start(rig: &Rig, name: &str, ends: (&str, &str), channel: &ChannelConfig, media: Media) -> Flow {
        let deadline = Duration::from_millis(200);
        Flow::start_with(rig, name, ends, channel, media, deadline, Dissemination::Tree)
    }

    /// The same with its deadline and mode.
    pub fn start_with(
        rig: &Rig,
        name: &str,
        (from, to): (&str, &str),
        channel: &ChannelConfig,
        media: Media,
        deadline: Duration,
        mode: Dissemination,
    ) -> Flow {
        let (check, input) = (Check::start(&media), free_port());
        let stream = format!("test/{name}");
        let watching = Watching {
            name: &format!("sink-{name}"),
            stream: &stream,
            at: to,
            channel: channel.clone(),
            outputs: vec![format!("udp://{}", check.address)],
        };
        let sink = watching.start(rig);
        let publishing = Publishing {
            name: &format!("source-{name}"),
            stream: &stream,
            at: from,
            channel: channel.clone(),
            input: format!("udp://{input}"),
            deadline,
            mode,
        };
        let source = publishing.start(rig);
        // The word of the stream travels to the egress, and the graph back: half a second on any path tested here.
        std::thread::sleep(Duration::from_millis(700));
        Flow { media, input, source: Some(source), sink: Some(sink), check, feed: None }
    }

    /// Begins to send.
    pub fn feed(&mut self) {
        self.feed = Some(Feed::start(self.input, &self.media));
    }

    /// Sends for so long, waits until everything is through, and returns what was sent and what was seen.
    pub fn run(&mut self, span: Duration) -> (u64, Seen) {
        self.feed();
        std::thread::sleep(span);
        self.finish()
    }

    /// Stops sending, waits until everything is through, and returns what was sent and what was seen.
    pub fn finish(&mut self) -> (u64, Seen) {
        let sent = self.feed.take().map_or(0, Feed::stop);
        let seen = self.check.wait_until_quiet();
        (sent, seen)
    }

    /// What its source reports.
    pub fn source_report(&self) -> source::Report {
        self.source.as_ref().map(Running::report).unwrap_or_default()
    }

    /// What its sink reports of its stream.
    pub fn sink_report(&self) -> sink::Report {
        self.sink.as_ref().map(Running::report).unwrap_or_default()
    }
}

/// Panics, with all that is known of the way, where anything arrived damaged or out of order, or more is missing than a
/// shared machine explains ([`crate::allowance`]).
pub fn assert_intact(rig: &Rig, flow: &Flow, (sent, seen): (u64, Seen)) {
    assert_eq!(seen.compared.foreign, 0, "damaged, doubled or out of order: {seen:?}\n{}", account(rig, flow));
    crate::assert_complete(sent, seen.compared.intact, || format!("{seen:?}\n{}", account(rig, flow)));
}

/// As [`assert_intact`], of a source and a sink by themselves.
pub fn assert_intact_of(rig: &Rig, (source, sink): (&source::Report, &sink::Report), (sent, seen): (u64, Seen)) {
    let account = || format!("{seen:?}\n{}", account_of(rig, [source], [sink]));
    assert_eq!(seen.compared.foreign, 0, "damaged, doubled or out of order: {}", account());
    crate::assert_complete(sent, seen.compared.intact, account);
}

/// Where packets went, hop by hop, for the message of a failed test.
pub fn account(rig: &Rig, flow: &Flow) -> String {
    let (source, sink) = (flow.source_report(), flow.sink_report());
    account_of(rig, [&source], [&sink])
}

/// As [`account`], of several sources and sinks.
pub fn account_of<'a>(
    rig: &Rig,
    sources: impl IntoIterator<Item = &'a source::Report>,
    sinks: impl IntoIterator<Item = &'a sink::Report>,
) -> String {
    let mut text = String::new();
    let mut line = |label: String| text.push_str(&(label + "\n"));
    for source in sources {
        for stream in &source.streams {
            line(format!("source: in {:?} out {:?}", stream.input_counters, stream.counters));
        }
        if let Some(link) = &source.link {
            line(format!("source link: {:?}\n    {:?}", link.stats, link.quality));
        }
    }
    for (name, relay) in rig.relays() {
        let report = relay.report();
        for link in &report.links {
            line(format!("{name} to {}: {:?}\n    {:?}", link.peer, link.stats, link.quality));
        }
        for stream in &report.streams {
            line(format!("{name} stream {}: {:?} {:?}", stream.name, stream.counters, stream.outputs));
        }
    }
    for sink in sinks {
        for stream in &sink.streams {
            line(format!("sink: {} {:?} arrival {:?}", stream.name, stream.packets, stream.arrival));
        }
        line(format!("sink link: {:?}", sink.link));
    }
    if let Ok(snapshot) = rig.emulator().snapshot() {
        line(format!(
            "emulator: lag p99 {:?} max {:?} kernel dropped {}",
            snapshot.lag_p99, snapshot.lag_max, snapshot.kernel_dropped
        ));
        for link in snapshot.links {
            line(format!("wire {}: {:?} {:?}", link.name, link.forward.counters, link.backward.counters));
        }
    }
    text
}

/// Repair bytes as a share of media bytes on every hop of a flow, by name; the hops that carry none of it left out.
pub fn overheads(rig: &Rig, flow: &Flow) -> Vec<(String, f64)> {
    let mut overheads = Vec::new();
    // What relays tell each other travels as media too, in small numbers.
    let enough = flow.source_report().link.map_or(0, |link| link.stats.media_packets_sent / 2);
    let mut hop = |name: String, stats: &link::stats::LinkStats| {
        if stats.media_packets_sent > enough {
            let repair = stats.arq_bytes_sent + stats.fec_bytes_sent;
            overheads.push((name, repair as f64 / stats.media_bytes_sent as f64));
        }
    };
    if let Some(link) = flow.source_report().link {
        hop("source".into(), &link.stats);
    }
    for (name, relay) in rig.relays() {
        for link in relay.report().links {
            hop(format!("{name} to {}", link.peer), &link.stats);
        }
    }
    overheads
}
