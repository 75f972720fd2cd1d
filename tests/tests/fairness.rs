//! More is offered to a link than it carries, with real programs: who goes first is whole, the others have equal shares of what is left, and who sends more
//! than was admitted is held to that where it enters. `relay/tests/overlay/fairness.rs` has the same in virtual time.

#![expect(clippy::disallowed_types, reason = "the player and the encoder of a test, outside the overlay")]

use anabranch_tests::flow::free_port;
use anabranch_tests::http::ask;
use anabranch_tests::programs::{Files, Process, Program};
use bench::channel::{ChannelConfig, Queue, Rate};
use bench::emulator::{Emulator, LinkPlan, Plan};
use bench::rig::Trial;
use link::Bitrate;
use node::clock::Clock;
use node::trust::{Direction, Role};
use serde_json::{Value, json};
use std::fmt::Write;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

const PAYLOAD: usize = 1316;
const WARM_UP: Duration = Duration::from_secs(5);
const SPAN: Duration = Duration::from_secs(20);

/// What the relay at the sending end is told that the link carries, headers and all.
const CAPACITY_MBPS: u64 = 20;

/// A stream: its name, whether it goes first, what is admitted of it (0: what its token allows, which is all) and what it sends, in kbit/s.
type Stream = (&'static str, bool, u64, u64);

/// Eight, which after the policing of the greedy one are 125 % of the link.
const STREAMS: [Stream; 8] = [
    ("tenant/high-1", true, 0, 4_000),
    ("tenant/high-2", true, 0, 4_000),
    ("tenant/greedy", false, 3_000, 9_000),
    ("tenant/n-1", false, 0, 2_800),
    ("tenant/n-2", false, 0, 2_800),
    ("tenant/n-3", false, 0, 2_800),
    ("tenant/n-4", false, 0, 2_800),
    ("tenant/n-5", false, 0, 2_800),
];

/// One stream outside the overlay: what is sent into its source, and what comes out of its sink.
struct Tap {
    input: SocketAddr,
    output: UdpSocket,
    sent: Arc<AtomicU64>,
    came: Arc<AtomicU64>,
}

impl Tap {
    fn new() -> Tap {
        let output = UdpSocket::bind("127.0.0.1:0").unwrap();
        output.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        Tap { input: free_port(), output, sent: Arc::default(), came: Arc::default() }
    }

    fn counts(&self) -> (u64, u64) {
        (self.sent.load(Relaxed), self.came.load(Relaxed))
    }

    /// Counts what comes out, until told to stop.
    fn listen(&self, stop: &Arc<AtomicBool>) -> JoinHandle<()> {
        let (socket, came, stop) = (self.output.try_clone().unwrap(), self.came.clone(), stop.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !stop.load(Relaxed) {
                came.fetch_add(u64::from(socket.recv(&mut buffer).is_ok()), Relaxed);
            }
        })
    }

    /// Sends evenly at a rate, until told to stop.
    fn send(&self, kbps: u64, stop: &Arc<AtomicBool>) -> JoinHandle<()> {
        let (to, sent, stop) = (self.input, self.sent.clone(), stop.clone());
        std::thread::spawn(move || {
            let (socket, clock) = (UdpSocket::bind("127.0.0.1:0").unwrap(), Clock::start());
            let (start, each) = (clock.now(), Duration::from_micros(PAYLOAD as u64 * 8 * 1000 / kbps));
            for nth in 1.. {
                let _ = socket.send_to(&[7; PAYLOAD], to);
                sent.fetch_add(1, Relaxed);
                std::thread::sleep((start + each * nth).saturating_since(clock.now()));
                if stop.load(Relaxed) {
                    return;
                }
            }
        })
    }
}

/// Two relays with the link between them, a source and a sink of all streams.
struct Programs {
    source: Process,
    sink: Process,
    _relays: [Process; 2],
    _emulator: Emulator,
    _files: Files,
    ops: SocketAddr,
}

impl Programs {
    fn start(taps: &[Tap; 8]) -> Programs {
        let trial = Trial::new().unwrap();
        let files = Files::new(&trial);
        let [a, b, ops] = [free_port(), free_port(), free_port()];
        let bitrate = Bitrate::mbps(CAPACITY_MBPS + 1);
        let rate = Some(Rate { bitrate, queue: Queue::Bytes(64 << 10) });
        let channel = ChannelConfig { delay: Duration::from_millis(15), rate, ..ChannelConfig::default() };
        let links = vec![LinkPlan::new("a-b".to_owned(), Some(b), channel)];
        let emulator = Emulator::start(&Plan { seed: 1, links, events: Vec::new() }).unwrap();
        let to_b = emulator.address("a-b").unwrap();
        for relay in ["a", "b"] {
            files.node(&trial, relay, Role::Relay);
        }
        let keys = files.path().display().to_string();
        let relay = |name: &str, listen: SocketAddr, more: String| {
            let text = format!("name = \"{name}\"\nkeys = \"{keys}\"\nlisten = \"{listen}\"\n{more}");
            Program::Relay.start(&["run", "--config", &files.write(&format!("{name}.toml"), text)])
        };
        let neighbour =
            format!("[[neighbours]]\naddress = \"{to_b}\"\nname = \"b\"\ncapacity = \"{CAPACITY_MBPS} Mbit/s\"\n");
        let relays = [relay("b", b, String::new()), relay("a", a, format!("ops = \"{ops}\"\n{neighbour}"))];
        let token = |file: &str, direction| files.token(&trial, file, "tenant/*", direction);
        let client = |relay: SocketAddr, token: String| {
            format!("relays = \"{relay}\"\nkeys = \"{keys}\"\ntoken_file = \"{token}\"\n")
        };
        let mut source =
            client(a, token("publish.token", Direction::Publish)) + "mode = \"tree\"\ndeadline = \"200ms\"\n";
        let mut sink = client(b, token("watch.token", Direction::Subscribe));
        for ((name, high, admitted, _), tap) in STREAMS.iter().zip(taps) {
            writeln!(source, "[[streams]]\nname = \"{name}\"\ninput = \"udp://{}\"", tap.input).unwrap();
            if *high {
                source += "priority = \"high\"\n";
            }
            if *admitted > 0 {
                writeln!(source, "rate = \"{admitted} kbit/s\"").unwrap();
            }
            let output = tap.output.local_addr().unwrap();
            writeln!(sink, "[[streams]]\nname = \"{name}\"\noutputs = [\"udp://{output}\"]").unwrap();
        }
        let sink = Program::Sink.start(&["--config", &files.write("sink.toml", sink)]);
        let source = Program::Source.start(&["--config", &files.write("source.toml", source)]);
        Programs { source, sink, _relays: relays, _emulator: emulator, _files: files, ops }
    }

    /// Packets of each stream that were policed where it enters.
    fn policed(&self) -> Vec<(String, u64)> {
        let (status, body) = ask(self.ops, "GET", "/api/v1/status", &json!({})).unwrap();
        assert_eq!(status, 200, "{body}");
        let report: Value = serde_json::from_str(&body).unwrap();
        let of = |stream: &Value| {
            (stream["name"].as_str().unwrap().to_owned(), stream["counters"]["policed"].as_u64().unwrap())
        };
        report["streams"].as_array().unwrap().iter().map(of).collect()
    }
}

#[test]
#[ignore = "long: half a minute of eight streams through real programs"]
fn a_quarter_more_than_a_link_carries_through_real_programs() {
    let taps: [Tap; 8] = std::array::from_fn(|_| Tap::new());
    let mut programs = Programs::start(&taps);
    programs.sink.wait_for("connected", Duration::from_secs(30));
    programs.source.wait_for("connected", Duration::from_secs(30));
    std::thread::sleep(Duration::from_secs(2));
    let stop = Arc::new(AtomicBool::new(false));
    let listeners = taps.iter().map(|tap| tap.listen(&stop));
    let mut threads: Vec<JoinHandle<()>> = listeners.collect();
    threads.extend(STREAMS.iter().zip(&taps).map(|((.., kbps), tap)| tap.send(*kbps, &stop)));
    std::thread::sleep(WARM_UP);
    let before = taps.each_ref().map(Tap::counts);
    std::thread::sleep(SPAN);
    let after = taps.each_ref().map(Tap::counts);
    let policed = programs.policed();
    stop.store(true, Relaxed);
    threads.into_iter().for_each(|thread| thread.join().unwrap());

    let kbps = |packets: u64| (packets * PAYLOAD as u64 * 8) as f64 / SPAN.as_secs_f64() / 1e3;
    let shares: Vec<(&str, f64, f64)> =
        (0..8).map(|at| (STREAMS[at].0, kbps(after[at].0 - before[at].0), kbps(after[at].1 - before[at].1))).collect();
    for (stream, sent, came) in &shares {
        println!("{stream:16} sends {sent:6.0} kbit/s, is delivered {came:6.0}");
    }
    println!("policed: {policed:?}");
    let came: f64 = shares.iter().map(|(.., came)| came).sum();
    assert!(came > 0.8 * CAPACITY_MBPS as f64 * 1e3, "the link is used: {came} kbit/s");
    for (stream, sent, came) in &shares[..2] {
        assert!(*came >= 0.99 * sent, "{stream}: {came} of {sent}");
    }
    let others: Vec<f64> = shares[2..].iter().map(|(.., came)| *came).collect();
    let mean = others.iter().sum::<f64>() / others.len() as f64;
    assert!(others.iter().all(|came| (came / mean - 1.0).abs() <= 0.05), "mean {mean}: {others:?}");
    for (stream, policed) in policed {
        assert_eq!(policed > 0, stream == "tenant/greedy", "{stream}: {policed}");
    }
}
