//! What floods do to a relay that carries a stream: its memory, its time on the processor, and what of the stream is lost before, during and
//! after. The figures of `docs/security.md` come from here:
//!
//! `cargo test -p anabranch-tests --test floods -- --ignored --nocapture --test-threads 1`

#[path = "floods/messages.rs"]
mod messages;

use anabranch_tests::assert_complete;
use anabranch_tests::flow::{Check, Feed, Media, free_port};
use anabranch_tests::http::ask;
use anabranch_tests::programs::{Files, Process, Program};
use bench::load::cpu::Used;
use bench::media::MediaSocket;
use bench::rig::Trial;
use link::LinkConfig;
use messages::{advertisement, forged, install, open, question};
use node::clock::Clock;
use node::control::{Control, Hello, VERSION};
use node::endpoint::{Endpoint, EndpointOptions};
use node::trust::{Direction, Role, Seal, web_client};
use node::{Closed, EndSystem, Host, Peer, PortId, Ports};
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::ServerName;
use serde_json::Value;
use std::collections::HashMap;
use std::fs::Permissions;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;

const PATIENCE: Duration = Duration::from_secs(30);

/// Of a measurement without a flood.
const QUIET: Duration = Duration::from_secs(5);

/// Of a flood.
const FLOOD: Duration = Duration::from_secs(15);

/// What a relay may hold more while it is flooded than before: far below what any of the floods would bring it to without bounds.
const MOST_MORE: u64 = 48 << 20;

/// The nth address of loopback that an attacker comes from.
fn elsewhere(nth: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 7, (nth / 250) as u8, (nth % 250 + 1) as u8)
}

/// A relay as a process that carries 10 Mbit/s from a source to a sink, processes as well.
struct Lab {
    relay: Process,
    listen: SocketAddr,
    ops: SocketAddr,
    trial: Trial,
    files: Files,
    feed: Option<Feed>,
    check: Check,
    /// Its operations port speaks TLS.
    tls: bool,
    _ends: [Process; 2],
}

/// What a span of a measurement came to.
struct Span {
    /// Share of a core.
    cpu: f64,
    /// The most that the relay held, in bytes.
    memory: u64,
    /// Datagrams fed, by number.
    fed: std::ops::Range<u64>,
}

impl Lab {
    fn start() -> Lab {
        Lab::start_with(false)
    }

    fn start_with(tls: bool) -> Lab {
        let trial = Trial::new().unwrap();
        let files = Files::new(&trial);
        for (name, role) in
            [("fra", Role::Relay), ("studio", Role::Source), ("hall", Role::Sink), ("asleep", Role::Sink)]
        {
            files.node(&trial, name, role);
        }
        let media = Media::video(6);
        let (listen, ops, input, check) = (free_port(), free_port(), free_port(), Check::start(&media));
        let (at, keys) = (listen.to_string(), files.path().display().to_string());
        let key = KeyPair::generate().unwrap();
        let own = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().self_signed(&key).unwrap();
        files.write("ops.crt", own.pem());
        std::fs::set_permissions(files.write("ops.key", key.serialize_pem()), Permissions::from_mode(0o600)).unwrap();
        let more = if tls {
            format!("ops_tls = {{ certificate = \"{keys}/ops.crt\", key = \"{keys}/ops.key\" }}\n")
        } else {
            String::new()
        };
        let config = files.write(
            "relay.toml",
            format!("name = \"fra\"\nkeys = \"{keys}\"\nlisten = \"{at}\"\nops = \"{ops}\"\n{more}"),
        );
        let mut relay = Program::Relay.start(&["run", "--config", &config]);
        relay.wait_for("ready", PATIENCE);
        let publish = files.token(&trial, "publish", "test/*", Direction::Publish);
        let watch = files.token(&trial, "watch", "test/*", Direction::Subscribe);
        let common = ["--keys", &keys, "--relay", &at, "--stream", "test/news"];
        let start = |program: Program, own: &[&str]| program.start(&[&common[..], own].concat());
        let sink =
            start(Program::Sink, &["--name", "hall", "--token-file", &watch, &format!("udp://{}", check.address)]);
        let source = start(Program::Source, &["--name", "studio", "--token-file", &publish, &format!("udp://{input}")]);
        let feed = Feed::start(input, &media);
        check.wait_for(1000, PATIENCE);
        Lab { relay, listen, ops, trial, files, feed: Some(feed), check, tls, _ends: [source, sink] }
    }

    fn fed(&self) -> u64 {
        self.feed.as_ref().map_or(0, Feed::sent)
    }

    /// Looks at the relay for so long.
    fn watch(&self, span: Duration) -> Span {
        let (clock, begun, from) = (Clock::start(), Used::of(self.relay.id()), self.fed());
        let start = clock.now();
        let mut memory = begun.memory;
        while clock.now() - start < span {
            std::thread::sleep(Duration::from_millis(50));
            memory = memory.max(Used::of(self.relay.id()).memory);
        }
        let cpu = Used::of(self.relay.id()).cpu - begun.cpu;
        Span { cpu: cpu.as_secs_f64() / (clock.now() - start).as_secs_f64(), memory, fed: from..self.fed() }
    }

    fn status(&self) -> Value {
        if self.tls {
            let (ops, authority) = (self.ops.to_string(), self.files.text("ops.crt"));
            let ended =
                Program::Relay.run(&["ctl", "status", "--json", "--ops", &ops, "--ops-tls-authority", &authority]);
            return serde_json::from_str(&ended.stdout).unwrap_or_else(|_| panic!("{ended:?}"));
        }
        let (status, body) = ask(self.ops, "GET", "/api/v1/status", &Value::Null).unwrap();
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Measures before, during and after a flood, which lasts for as long as what `flood` returns; prints and judges.
    fn measure<F>(mut self, what: &str, flood: impl FnOnce(&Lab) -> F, during: impl FnOnce(&Lab, &F)) -> Value {
        let before = self.watch(QUIET);
        let flooding = flood(&self);
        let amid = self.watch(FLOOD);
        during(&self, &flooding);
        drop(flooding);
        let after = self.watch(QUIET);
        let report = self.status();
        let sent = self.feed.take().map_or(0, Feed::stop);
        let seen = self.check.wait_until_quiet();
        let lost = |span: &Span| -> u64 {
            let runs = seen.holes.iter().map(|(first, length)| {
                let end = (first + length).min(span.fed.end);
                end.saturating_sub(*first.max(&span.fed.start))
            });
            runs.sum()
        };
        println!("{what}");
        for (name, span) in [("before", &before), ("during", &amid), ("after", &after)] {
            let (mib, fed) = (span.memory as f64 / f64::from(1 << 20), span.fed.end - span.fed.start);
            println!("  {name:<7} {mib:6.1} MiB  {:5.1} % of a core  {} of {fed} lost", span.cpu * 100.0, lost(span));
        }
        println!("  refused {} {}", report["refused"], report["ops_refused"]);
        assert!(self.relay.runs(), "{}", self.relay.stderr());
        assert!(amid.memory < before.memory + MOST_MORE, "{} bytes, {} before", amid.memory, before.memory);
        assert_eq!(seen.compared.foreign, 0, "damaged, doubled or out of order: {seen:?}");
        assert_complete(sent, seen.compared.intact, || format!("{seen:?}\n{}", self.relay.stderr()));
        report
    }
}

/// Something that goes on in a thread until it is dropped.
struct Going {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Going {
    /// `act` looks at the flag, and counts what it has done.
    fn start(act: impl FnOnce(&AtomicBool, &AtomicU64) + Send + 'static) -> Going {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (told, count) = (stop.clone(), done.clone());
        Going { stop, done, thread: Some(std::thread::spawn(move || act(&told, &count))) }
    }

    fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Runs what needs a `LocalSet` until the flag is set.
fn until_stopped(stop: &AtomicBool, act: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let stopped = async {
            while !stop.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! { () = act => {} () = stopped => {} }
    });
}

/// Numbers that look like chance (Marsaglia, xorshift).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn fill(&mut self, room: &mut [u8]) {
        room.fill_with(|| self.next() as u8);
    }
}

/// A third noise, a third what begins as a first packet of QUIC, a third what begins as a packet of a connection.
fn junk(noise: &mut Noise, room: &mut [u8; 1400]) -> usize {
    noise.fill(room);
    match noise.next() % 3 {
        0 => 1 + noise.next() as usize % 1400,
        1 => {
            // RFC 9000, section 17.2.2: an Initial of version 1, with connection ids of eight bytes, no token, and a length.
            room[..6].copy_from_slice(&[0xc3, 0, 0, 0, 1, 8]);
            room[14] = 8;
            room[23] = 0;
            room[24..26].copy_from_slice(&(0x4000u16 | 1174).to_be_bytes());
            1200
        }
        _ => {
            room[0] = 0x40 | (room[0] & 0x3f);
            30 + noise.next() as usize % 1200
        }
    }
}

#[test]
#[ignore = "long: half a minute, and a flood"]
fn ten_thousand_junk_datagrams_a_second() {
    let lab = Lab::start();
    let clock = Clock::start();
    let begun = clock.now();
    lab.measure(
        "10,000 junk datagrams a second",
        |lab| {
            let to = lab.listen;
            Going::start(move |stop, done| {
                let sockets: Vec<MediaSocket> =
                    (0..64).map(|nth| MediaSocket::bind_at((elsewhere(nth), 0).into()).unwrap()).collect();
                let (clock, mut noise, mut room) = (Clock::start(), Noise(0x9e37_79b9), [0; 1400]);
                let mut due = clock.now();
                while !stop.load(Ordering::Relaxed) {
                    for _ in 0..10 {
                        let length = junk(&mut noise, &mut room);
                        // What the kernel has no room for is lost, as it would be on a wire.
                        let _ = sockets[noise.next() as usize % sockets.len()].send(to, &room[..length]);
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    due += Duration::from_millis(1);
                    std::thread::sleep(due - clock.now());
                }
            })
        },
        |_, flood| {
            let rate = flood.done() as f64 / FLOOD.as_secs_f64();
            println!("{rate:.0} a second, after {:?}", clock.now() - begun);
            assert!(rate > 5000.0, "no flood to speak of: {rate}");
        },
    );
}

/// Dials through doors that let first packets pass, one way, and the relay's requests to show the address (Retry), the other: so each address is proven, and
/// no handshake goes on from there.
async fn half_open(trial: Arc<[node::trust::Credentials]>, to: SocketAddr, dials: usize, done: &AtomicU64) {
    let endpoint = Rc::new(Endpoint::bind(&EndpointOptions::default(), trial[0].clone()).unwrap());
    for nth in 0..dials {
        let front = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let back = tokio::net::UdpSocket::bind((elsewhere(nth), 0)).await.unwrap();
        back.connect(to).await.unwrap();
        let address = front.local_addr().unwrap().to_string();
        let endpoint = endpoint.clone();
        tokio::task::spawn_local(async move {
            let hello = hello(Role::Relay);
            // It is given up by itself.
            let _ = endpoint.connect(&address, hello).await;
        });
        tokio::task::spawn_local(async move {
            let (mut there, mut here) = ([0; 2048], [0; 2048]);
            let mut dialler = None;
            loop {
                tokio::select! {
                    Ok((length, from)) = front.recv_from(&mut there) => {
                        dialler = Some(from);
                        let _ = back.send(&there[..length]).await;
                    }
                    Ok(length) = back.recv(&mut here) => {
                        // RFC 9000, section 17.2: a long header of type 3.
                        if here[0] & 0xb0 == 0xb0 && let Some(dialler) = dialler {
                            let _ = front.send_to(&here[..length], dialler).await;
                        }
                    }
                }
            }
        });
        done.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    std::future::pending().await
}

fn hello(role: Role) -> Hello {
    Hello { version: VERSION, features: 0, role, tokens: Vec::new(), agent: "flood".to_owned(), link: None }
}

#[test]
#[ignore = "long: half a minute, and a flood"]
fn a_thousand_half_open_handshakes() {
    let lab = Lab::start();
    lab.measure(
        "1,000 half-open handshakes from as many addresses",
        |lab| {
            let credentials: Arc<[_]> = [lab.trial.relay(&"flood".parse().unwrap()).unwrap().credentials].into();
            let to = lab.listen;
            Going::start(move |stop, done| until_stopped(stop, half_open(credentials, to, 1000, done)))
        },
        |lab, flood| {
            assert!(flood.done() >= 900, "no flood to speak of: {}", flood.done());
            let log = lab.relay.stderr();
            let told = log.lines().filter(|line| line.contains("not done in")).count();
            let left_out =
                |line: &str| line.split_once("left_out=")?.1.split_whitespace().next()?.parse::<usize>().ok();
            let failed = told + log.lines().filter_map(left_out).sum::<usize>();
            println!(
                "{} dialled, {failed} given up or put off by the relay so far, {told} in words in its log",
                flood.done()
            );
            assert!(failed > 100, "they were half open");
            assert!(told < 100, "they do not fill the log");
        },
    );
}

/// Keeps so many connections to the operations port open, each a byte of a head in a second; opens anew what is closed.
async fn drip(ops: SocketAddr, connections: usize, from: impl Fn(usize) -> Ipv4Addr, done: &AtomicU64) {
    let dripping = (0..connections).map(|nth| {
        let from = from(nth);
        async move {
            loop {
                let socket = TcpSocket::new_v4().unwrap();
                socket.bind((from, 0).into()).unwrap();
                let Ok(mut stream) = socket.connect(ops).await else { continue };
                done.fetch_add(1, Ordering::Relaxed);
                let mut next = "GET /metrics HTTP/1.1\r\nX-Slow: ".bytes().chain(std::iter::repeat(b'x'));
                let mut ended = [0];
                loop {
                    let byte = next.next().unwrap_or(b'x');
                    if tokio::io::AsyncWriteExt::write_all(&mut stream, &[byte]).await.is_err() {
                        break;
                    }
                    let read = tokio::io::AsyncReadExt::read(&mut stream, &mut ended);
                    match tokio::time::timeout(Duration::from_secs(1), read).await {
                        Ok(Ok(1..)) | Err(_) => {}
                        Ok(_) => break,
                    }
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    });
    futures(dripping).await;
}

/// Runs all of them on this thread.
async fn futures(all: impl Iterator<Item = impl Future<Output = ()>>) {
    let mut all: Vec<_> = all.map(Box::pin).collect();
    std::future::poll_fn(|context| {
        // Each is woken with all the others; there are some hundred.
        all.retain_mut(|one| one.as_mut().poll(context).is_pending());
        if all.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

#[test]
#[ignore = "long: half a minute, and a flood"]
fn slow_loris_on_the_operations_port() {
    let report = Lab::start().measure(
        "slow-loris: 300 connections from one address to the operations port",
        |lab| {
            let ops = lab.ops;
            Going::start(move |stop, done| until_stopped(stop, drip(ops, 300, |_| elsewhere(0), done)))
        },
        |lab, flood| {
            // From anywhere else it answers.
            assert_eq!(lab.status()["ready"], true);
            println!("{} connections so far", flood.done());
        },
    );
    assert!(report["ops_refused"]["connections"].as_u64() > Some(200), "{report}");
    // From as many addresses as one likes: all places may be taken, and come free again.
    let report = Lab::start().measure(
        "slow-loris: 300 connections from as many addresses",
        |lab| {
            let ops = lab.ops;
            Going::start(move |stop, done| until_stopped(stop, drip(ops, 300, elsewhere, done)))
        },
        |_, flood| println!("{} connections so far", flood.done()),
    );
    assert!(report["ops_refused"]["connections"].as_u64() > Some(100), "{report}");
}

/// Agrees on keys over and over on so many connections at a time, from as many addresses.
async fn shake(ops: SocketAddr, authority: PathBuf, connections: usize, done: &AtomicU64) {
    let connector = TlsConnector::from(Arc::new(web_client(&authority, None).unwrap()));
    let shaking = (0..connections).map(|nth| {
        let connector = connector.clone();
        async move {
            loop {
                let socket = TcpSocket::new_v4().unwrap();
                socket.bind((elsewhere(nth), 0).into()).unwrap();
                let Ok(stream) = socket.connect(ops).await else { continue };
                match connector.connect(ServerName::IpAddress(ops.ip().into()), stream).await {
                    Ok(_) => drop(done.fetch_add(1, Ordering::Relaxed)),
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        }
    });
    futures(shaking).await;
}

#[test]
#[ignore = "long: half a minute, and a flood"]
fn handshakes_at_the_operations_port_without_end() {
    let report = Lab::start_with(true).measure(
        "handshakes of TLS at the operations port, 100 at a time from as many addresses",
        |lab| {
            let (ops, authority) = (lab.ops, lab.files.file("ops.crt"));
            Going::start(move |stop, done| until_stopped(stop, shake(ops, authority, 100, done)))
        },
        |lab, flood| {
            assert_eq!(lab.status()["ready"], true, "others have their turn");
            let a_second = flood.done() as f64 / FLOOD.as_secs_f64();
            println!("{a_second:.0} handshakes a second");
            assert!(flood.done() > 100 && a_second < 130.0, "{a_second} a second");
        },
    );
    assert_eq!(report["ready"], true);
}

#[test]
#[ignore = "long: half a minute, and a flood"]
fn clients_that_read_nothing() {
    let lab = Lab::start();
    let watch = lab.files.token(&lab.trial, "asleep.token", "test/*", Direction::Subscribe);
    let (at, keys) = (lab.listen.to_string(), lab.files.path().display().to_string());
    lab.measure(
        "clients that read nothing: a sink, 16 listeners, 16 that ask 2,000 times for all metrics",
        |lab| {
            let nowhere = format!("udp://{}", free_port());
            let sink =
                ["--name", "asleep", "--keys", &keys, "--relay", &at, "--stream", "test/news", "--token-file", &watch];
            let sink = Program::Sink.start(&[&sink[..], &[&nowhere]].concat());
            std::thread::sleep(Duration::from_secs(1));
            // Stopped, it neither reads nor acknowledges, and does not go away.
            assert!(Command::new("kill").args(["-STOP", &sink.id().to_string()]).status().unwrap().success());
            let connect = |request: &str, times: usize| {
                let mut stream = TcpStream::connect(lab.ops).unwrap();
                stream.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
                // It may be that no more is taken than fits the buffers.
                let _ = stream
                    .write_all(format!("GET {request} HTTP/1.1\r\nHost: localhost\r\n\r\n").repeat(times).as_bytes());
                stream
            };
            let mut streams: Vec<TcpStream> = (0..16).map(|_| connect("/api/v1/events", 1)).collect();
            streams.extend((0..16).map(|_| connect("/metrics", 2000)));
            (sink, streams)
        },
        |lab, (sink, _)| {
            // All places of this address are taken until who reads nothing is let go; another one is answered.
            let clock = Clock::start();
            let end = clock.now() + 2 * PATIENCE;
            let mut answered = false;
            while !answered && clock.now() < end {
                let mut stream = TcpStream::connect(lab.ops).unwrap();
                let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
                let _ = stream.write_all(b"GET /readyz HTTP/1.0\r\n\r\n");
                answered = matches!(stream.read(&mut [0; 64]), Ok(1..));
                std::thread::sleep(Duration::from_millis(200));
            }
            assert!(answered, "who reads nothing is let go");
            let _ = Command::new("kill").args(["-CONT", &sink.id().to_string()]).status();
        },
    );
}

/// A relay of the overlay that says what it is told to.
#[derive(Default)]
struct Talker {
    port: Option<PortId>,
    closed: Option<Closed>,
}

impl EndSystem for Talker {
    fn handle_opened(&mut self, _: link::Instant, port: PortId, _: &mut Ports) {
        self.port = Some(port);
    }
    fn handle_delivery(&mut self, _: link::Instant, _: PortId, _: link::Delivery, _: &mut Ports) {}
    fn handle_control(&mut self, _: link::Instant, _: PortId, _: Control, _: &mut Ports) {}
    fn handle_closed(&mut self, _: link::Instant, _: PortId, _: &Peer, closed: &Closed, _: &mut Ports) {
        (self.port, self.closed) = (None, Some(closed.clone()));
    }
    fn handle_timeout(&mut self, _: link::Instant, _: &mut Ports) {}
    fn poll_timeout(&self) -> Option<link::Instant> {
        None
    }
}

/// Sends all that `say` makes, as fast as it is taken.
async fn talk(identity: relay::Identity, to: SocketAddr, say: &dyn Fn(&Seal, u64) -> Control, done: &AtomicU64) {
    let seal = identity.credentials.seal().unwrap().unwrap();
    let endpoint = Endpoint::bind(&EndpointOptions::default(), identity.credentials.clone()).unwrap();
    let host = Host::new(Clock::start(), Talker::default());
    let session = endpoint.connect(&to.to_string(), hello(Role::Relay)).await.unwrap();
    host.attach(session, LinkConfig::default());
    let mut nth = 0;
    loop {
        let closed = host.with(|_, talker, ports| {
            let Some(port) = talker.port else { return talker.closed.clone() };
            // So much waits at most, and fewer than a port takes, that the next is always there.
            let (mut bytes, mut messages) = (0, 0);
            let begins = !ports.has_control(port);
            while begins && bytes < 1 << 20 && messages < 1000 {
                let message = say(&seal, nth);
                bytes += node::control::encoded_size(&message).unwrap();
                ports.control(port, message);
                messages += 1;
                (nth, _) = (nth + 1, done.fetch_add(1, Ordering::Relaxed));
            }
            None
        });
        assert!(closed.is_none(), "the relay closed: {closed:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[test]
#[ignore = "long: three minutes, and floods"]
fn control_messages_without_end() {
    type Say = fn(&Seal, u64) -> Control;
    let kinds: [(&str, Say); 5] = [
        ("advertisements of 1,200 streams", advertisement),
        ("graphs of 16 modules, each of another stream", install),
        ("statements that are forged", forged),
        ("streams announced", open),
        ("questions and answers", question),
    ];
    let (mut held_back, mut graphs) = (HashMap::new(), 0);
    for (what, say) in kinds {
        let lab = Lab::start();
        let size = {
            let seal = lab.trial.relay(&"flood".parse().unwrap()).unwrap().credentials.seal().unwrap().unwrap();
            (0..4).map(|nth| node::control::encoded_size(&say(&seal, nth)).unwrap()).max().unwrap_or_default()
        };
        let report = lab.measure(
            &format!("a relay of the overlay that sends without end: {what}, up to {size} bytes each"),
            |lab| {
                let (identity, to) = (lab.trial.relay(&"flood".parse().unwrap()).unwrap(), lab.listen);
                Going::start(move |stop, done| until_stopped(stop, talk(identity, to, &say, done)))
            },
            |_, flood| println!("{:.0} a second were taken", flood.done() as f64 / FLOOD.as_secs_f64()),
        );
        graphs += report["refused"]["graphs"].as_u64().unwrap_or_default();
        held_back.insert(what, report["refused"]["held_back"].as_u64().unwrap_or_default());
    }
    println!("held back: {held_back:?}, {graphs} graphs refused");
    assert!(graphs > 0);
    assert!(held_back.values().all(|times| *times > 0), "{held_back:?}");
}
