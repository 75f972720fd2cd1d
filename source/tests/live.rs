//! A source and a stub relay over real sockets, in one process.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use anabranch_source::report::{ConnectionState, Report, StreamState};
use anabranch_source::{Config, Stream, run};
use common::{DAY, Stub, anywhere, authority};
use link::Instant;
use node::clock::{Clock, unix_seconds};
use node::exit::{Exit, Failure};
use node::trust::{Authority, Role};
use socket2::{Domain, Socket, Type};
use std::net::{Ipv4Addr, SocketAddr};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::watch;

/// A source that runs on a thread of its own.
struct Running {
    stop: watch::Sender<bool>,
    reports: watch::Receiver<Report>,
    thread: JoinHandle<Result<Report, Failure>>,
}

impl Running {
    fn start(authority: &Authority, relays: &[SocketAddr], streams: &[&str]) -> Running {
        let identity = authority.issue(&"studio".parse().unwrap(), Role::Source, unix_seconds(), DAY).unwrap();
        let config = Config {
            relays: relays.iter().map(SocketAddr::to_string).collect(),
            identity: Some(authority.credentials(Some(&identity)).unwrap()),
            streams: streams.iter().map(|stream| Stream::parse(stream, None).unwrap()).collect(),
            report_interval: Duration::from_millis(50),
            start_delay: Duration::from_millis(50),
            ..Config::default()
        };
        let (stop, shutdown) = watch::channel(false);
        let (sender, reports) = watch::channel(Report::default());
        let thread = std::thread::spawn(move || node::host::block_on_local(run(config, shutdown, sender)));
        Running { stop, reports, thread }
    }

    /// Waits for a report of which `wanted` holds.
    fn wait(&self, what: &str, wanted: impl Fn(&Report) -> bool) -> Report {
        let clock = Clock::start();
        let begun: Instant = clock.now();
        loop {
            let report = self.reports.borrow().clone();
            if wanted(&report) {
                return report;
            }
            assert!(clock.now() - begun < Duration::from_secs(20), "waited in vain for {what}: {report:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn live(&self) -> Report {
        self.wait("the stream", |report| {
            report.streams.iter().all(|stream| stream.state == StreamState::Live) && !report.streams.is_empty()
        })
    }

    fn listen(&self) -> SocketAddr {
        self.live().streams[0].listen.unwrap()
    }

    fn stop(self) -> Result<Report, Failure> {
        self.stop.send_replace(true);
        self.thread.join().unwrap()
    }
}

fn socket(domain: Domain) -> Socket {
    Socket::new(domain, Type::DGRAM, None).unwrap()
}

fn send(socket: &Socket, to: SocketAddr, payloads: &[Vec<u8>]) {
    for payload in payloads {
        socket.send_to(payload, &to.into()).unwrap();
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn numbered(count: usize, size: impl Fn(usize) -> usize) -> Vec<Vec<u8>> {
    (0..count).map(|n| (0..size(n)).map(|at| (n * 31 + at * 7) as u8).collect()).collect()
}

#[test]
fn datagrams_of_every_size_pass_byte_exact_with_their_boundaries() {
    let authority = authority();
    let relay = Stub::start(&authority, anywhere(), None);
    let source = Running::start(&authority, &[relay.address], &["a/b=udp://127.0.0.1:0?content=datagrams"]);
    let to = source.listen();
    let payloads = numbered(2048, |n| n + 1);
    let from = socket(Domain::IPV4);
    send(&from, to, &payloads);
    from.send_to(&[0; 2049], &to.into()).unwrap();
    from.send_to(&[], &to.into()).unwrap();
    relay.wait("every datagram", |heard| heard.payloads().len() == payloads.len());
    assert!(relay.heard(|heard| heard.payloads() == payloads));
    let report = source.wait("the refusals", |report| report.streams[0].input_counters.empty == 1);
    assert_eq!(report.streams[0].input_counters.oversized, 1);
    assert_eq!((report.streams[0].counters.sent, report.streams[0].counters.late), (2048, 0));
    assert!(report.link.is_some() && report.connection.relay.is_some());
    let last = source.stop().unwrap();
    assert_eq!((last.connection.state, last.streams[0].state), (ConnectionState::Closed, StreamState::Ended));
    relay.wait("the end", |heard| heard.ended() && heard.unpublished == 1 && heard.closed.len() == 1);
}

#[test]
fn a_source_survives_its_relay_and_its_stream_goes_on() {
    let authority = authority();
    let relay = Stub::start(&authority, anywhere(), None);
    let address = relay.address;
    let source = Running::start(&authority, &[address], &["a/b=udp://127.0.0.1:0?content=datagrams"]);
    let to = source.listen();
    let from = socket(Domain::IPV4);
    send(&from, to, &numbered(50, |_| 100));
    relay.wait("the first", |heard| heard.payloads().len() == 50);
    let first = relay.heard(|heard| heard.published[0].clone());
    drop(relay);
    source.wait("the loss", |report| report.connection.state == ConnectionState::Reconnecting);
    let relay = Stub::start(&authority, address, None);
    source.wait("the return", |report| report.connection.connections == 2);
    source.live();
    send(&from, to, &numbered(50, |_| 100));
    relay.wait("the second", |heard| heard.payloads().len() == 50);
    assert_eq!(relay.heard(|heard| heard.published[0].incarnation), first.incarnation, "the same life");
    assert_eq!(relay.heard(|heard| heard.delivered.iter().map(|d| d.seq.0).min()), Some(50), "numbers go on");
    source.stop().unwrap();
}

#[test]
fn the_next_relay_serves_where_the_first_does_not() {
    let authority = authority();
    // Bound, and silent.
    let silent = socket(Domain::IPV4);
    silent.bind(&anywhere().into()).unwrap();
    let nobody = silent.local_addr().unwrap().as_socket().unwrap();
    let relay = Stub::start(&authority, anywhere(), None);
    let source = Running::start(&authority, &[nobody, relay.address], &["a/b=udp://127.0.0.1:0"]);
    let report = source.live();
    assert_eq!(report.connection.address, Some(relay.address.to_string()));
    source.stop().unwrap();
}

#[test]
fn several_streams_share_a_connection() {
    let authority = authority();
    let relay = Stub::start(&authority, anywhere(), None);
    let inputs = ["a/b=udp://127.0.0.1:0?content=datagrams", "a/c=udp://127.0.0.1:0?content=ts"];
    let source = Running::start(&authority, &[relay.address], &inputs);
    let report = source.live();
    let from = socket(Domain::IPV4);
    for stream in &report.streams {
        send(&from, stream.listen.unwrap(), &numbered(20, |_| 188));
    }
    relay.wait("both", |heard| heard.delivered.len() == 40);
    let handles: std::collections::BTreeSet<u16> =
        relay.heard(|heard| heard.delivered.iter().map(|d| d.stream.0).collect());
    assert_eq!(handles.len(), 2);
    source.stop().unwrap();
}

#[test]
fn a_multicast_group_is_joined_on_its_interface() {
    let authority = authority();
    let relay = Stub::start(&authority, anywhere(), None);
    let source =
        Running::start(&authority, &[relay.address], &["a/b=udp://@239.255.71.7:0?iface=127.0.0.1&content=datagrams"]);
    let to = source.listen();
    assert_eq!(to.ip(), Ipv4Addr::new(239, 255, 71, 7));
    let from = socket(Domain::IPV4);
    from.set_multicast_if_v4(&Ipv4Addr::LOCALHOST).unwrap();
    let payloads = numbered(20, |_| 1316);
    send(&from, to, &payloads);
    // The same port of another group, and of the machine itself, are not the group.
    for other in [Ipv4Addr::new(239, 255, 71, 8), Ipv4Addr::LOCALHOST] {
        let _ = from.send_to(b"stray", &SocketAddr::from((other, to.port())).into());
    }
    relay.wait("the group", |heard| heard.payloads().len() == payloads.len());
    std::thread::sleep(Duration::from_millis(50));
    assert!(relay.heard(|heard| heard.payloads() == payloads));
    source.stop().unwrap();
}

#[test]
fn rtp_is_unwrapped_and_put_in_order() {
    let authority = authority();
    let relay = Stub::start(&authority, anywhere(), None);
    let source = Running::start(&authority, &[relay.address], &["a/b=rtp://127.0.0.1:0?reorder=200ms"]);
    let to = source.listen();
    let packet = |n: u16| [&[0x47, 0, 0, 0x10][..], &n.to_be_bytes(), &[0; 182]].concat();
    let rtp = |n: u16| [&[0x80, 33][..], &n.to_be_bytes(), &[0; 8], &packet(n)].concat();
    let from = socket(Domain::IPV4);
    send(&from, to, &[65534, 0, 65535, 1, 1, 2].map(rtp));
    relay.wait("five packets", |heard| heard.payloads().len() == 5);
    assert_eq!(relay.heard(common::Heard::payloads), [65534, 65535, 0, 1, 2].map(packet));
    let report = source.wait("the counters", |report| report.streams[0].input_counters.rtp_dropped == 1);
    assert_eq!(report.streams[0].input_counters.rtp_reordered, 1);
    source.stop().unwrap();
}

#[test]
fn a_relay_of_another_overlay_is_not_trusted() {
    let relay = Stub::start(&authority(), anywhere(), None);
    let source = Running::start(&authority(), &[relay.address], &["a/b=udp://127.0.0.1:0"]);
    let failure = source.thread.join().unwrap().unwrap_err();
    assert_eq!(failure.exit, Exit::Refused, "{failure}");
}
