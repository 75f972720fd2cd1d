use super::*;
use crate::clock::unix_seconds;
use crate::control::{CloseCode, Control, Hello, VERSION};
use crate::endpoint::{Endpoint, EndpointOptions};
use crate::ports::Peer;
use crate::trust::{Authority, Credentials, Role, Verifier};
use bytes::Bytes;
use link::{Delivery, Flags, Label, MediaTime, Packet, StreamHandle, StreamSeq};
use std::net::Ipv4Addr;

/// Notes what happens to it.
#[derive(Default)]
pub(crate) struct Notebook {
    pub(crate) opened: Vec<PortId>,
    pub(crate) received: Vec<(u32, usize)>,
    pub(crate) messages: Vec<Control>,
    pub(crate) closed: Vec<(PortId, Closed)>,
}

impl EndSystem for Notebook {
    fn handle_opened(&mut self, _: Instant, port: PortId, _: &mut Ports) {
        self.opened.push(port);
    }
    fn handle_delivery(&mut self, _: Instant, _: PortId, delivery: Delivery, _: &mut Ports) {
        self.received.push((delivery.seq.0, delivery.payload.len()));
    }
    fn handle_control(&mut self, _: Instant, _: PortId, message: Control, _: &mut Ports) {
        self.messages.push(message);
    }
    fn handle_closed(&mut self, _: Instant, port: PortId, _: &Peer, closed: &Closed, _: &mut Ports) {
        self.closed.push((port, closed.clone()));
    }
    fn handle_timeout(&mut self, _: Instant, _: &mut Ports) {}
    fn poll_timeout(&self) -> Option<Instant> {
        None
    }
}

/// Two relays over loopback, connected.
struct Pair {
    a: Host<Notebook>,
    b: Host<Notebook>,
    a_port: PortId,
    b_port: PortId,
    endpoints: (Endpoint, Endpoint),
    verifier: Verifier,
    /// Where `a` finds `b`.
    address: String,
    /// Datagrams larger than this vanish on the path.
    carried: Rc<Cell<usize>>,
}

pub(super) fn relay(authority: &Authority, name: &str) -> (Credentials, Verifier) {
    let now = unix_seconds();
    let identity = authority.issue(&name.parse().unwrap(), Role::Relay, now, Duration::from_secs(3600)).unwrap();
    let credentials = authority.credentials(Some(&identity)).unwrap();
    let verifier = credentials.verifier();
    (credentials, verifier)
}

pub(super) fn hello(role: Role) -> Hello {
    Hello { version: VERSION, features: 0, role, tokens: Vec::new(), agent: "test".to_owned(), link: None }
}

async fn pair(udp_payload: Option<u16>) -> Pair {
    pair_through(udp_payload, None).await
}

/// Where there is a path, all that passes between the two takes it.
async fn pair_through(udp_payload: Option<u16>, path: Option<Path>) -> Pair {
    let authority = Authority::trial(unix_seconds()).unwrap();
    let options =
        EndpointOptions { listen: (Ipv4Addr::LOCALHOST, 0).into(), udp_payload, ..EndpointOptions::default() };
    let (a, _) = relay(&authority, "a");
    let (b, b_verifier) = relay(&authority, "b");
    let (a_end, b_end) = (Endpoint::bind(&options, a).unwrap(), Endpoint::bind(&options, b).unwrap());
    let (address, carried) = match path {
        None => (b_end.local_address(), Rc::default()),
        Some(path) => forward(b_end.local_address(), path).await,
    };
    let address = address.to_string();
    let (dialled, answered) = tokio::join!(a_end.connect(&address, hello(Role::Relay)), b_end.accept(&b_verifier));
    let (dialled, answered) = (dialled.unwrap(), answered.unwrap());
    assert_eq!((dialled.peer.name.as_str(), dialled.peer.dialled), ("b", true));
    assert_eq!((answered.peer.name.as_str(), answered.peer.dialled), ("a", false));
    let clock = Clock::start();
    let (a, b) = (Host::new(clock, Notebook::default()), Host::new(Clock::start(), Notebook::default()));
    let a_port = a.attach(dialled, LinkConfig { seed: 1, ..LinkConfig::default() });
    let b_port = b.attach(answered, LinkConfig { seed: 2, ..LinkConfig::default() });
    Pair { a, b, a_port, b_port, endpoints: (a_end, b_end), verifier: b_verifier, address, carried }
}

pub(super) fn local(test: impl Future<Output = ()>) {
    let limit = Duration::from_secs(30);
    block_on_local(async {
        tokio::time::timeout(limit, test).await.map_err(|_| Failure::new(Exit::Software, "stuck"))
    })
    .unwrap();
}

pub(super) fn packet(now: Instant, seq: u32, size: usize) -> Packet {
    Packet {
        target: None,
        stream: StreamHandle(1),
        seq: StreamSeq(seq),
        media_time: MediaTime(0),
        age: Duration::ZERO,
        label: Label(0),
        flags: Flags::default(),
        payload: Bytes::from(vec![seq as u8; size]),
        recover_until: now + Duration::from_millis(500),
    }
}

/// Both directions of a path under test.
#[derive(Clone, Copy)]
struct Path {
    delay: Duration,
    /// Of the directions, the share lost on their own, and the chance of another loss after one.
    loss: f64,
    burst: f64,
    /// Larger datagrams vanish.
    payload: usize,
}

/// Carries datagrams between whoever sends first to the address returned, and `server`.
async fn forward(server: std::net::SocketAddr, path: Path) -> (std::net::SocketAddr, Rc<Cell<usize>>) {
    use rand::{RngExt, SeedableRng};
    let front = Rc::new(tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let back = Rc::new(tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap());
    back.connect(server).await.unwrap();
    let address = front.local_addr().unwrap();
    let (client, carried) = (Rc::new(Cell::new(None)), Rc::new(Cell::new(path.payload)));
    for forward in [true, false] {
        let (front, back, client, carried) = (front.clone(), back.clone(), client.clone(), carried.clone());
        let mut draws = rand::rngs::StdRng::seed_from_u64(u64::from(forward));
        let (wire, mut arriving) = tokio::sync::mpsc::unbounded_channel::<(tokio::time::Instant, Vec<u8>)>();
        let (to_front, to_back, to) = (front.clone(), back.clone(), client.clone());
        tokio::task::spawn_local(async move {
            while let Some((at, datagram)) = arriving.recv().await {
                tokio::time::sleep_until(at).await;
                let _ = match (forward, to.get()) {
                    (true, _) => to_back.send(&datagram).await,
                    (false, Some(client)) => to_front.send_to(&datagram, client).await,
                    (false, None) => Ok(0),
                };
            }
        });
        tokio::task::spawn_local(async move {
            let clock = Clock::start();
            let (mut buffer, mut losing) = (vec![0; 65536], false);
            loop {
                let length = if forward {
                    let Ok((length, from)) = front.recv_from(&mut buffer).await else { return };
                    client.set(Some(from));
                    length
                } else {
                    let Ok(length) = back.recv(&mut buffer).await else { return };
                    length
                };
                let begin = path.loss * (1.0 - path.burst) / (1.0 - path.loss);
                losing = draws.random_bool(if losing { path.burst } else { begin });
                if !losing && length <= carried.get() {
                    let at = clock.to_tokio(clock.now() + path.delay);
                    let _ = wire.send((at, buffer[..length].to_vec()));
                }
            }
        });
    }
    (address, carried)
}

const CLEAN: Path = Path { delay: Duration::ZERO, loss: 0.0, burst: 0.0, payload: 65536 };

pub(super) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..10_000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("never: {what}");
}

#[test]
fn control_and_media_cross_a_real_connection_both_ways() {
    local(async {
        let Pair { a, b, a_port, b_port, .. } = pair(Some(1452)).await;
        for (host, port) in [(&a, a_port), (&b, b_port)] {
            host.with(|_, _, ports| {
                for handle in 0..100 {
                    ports.control(port, Control::StreamClose { handle, ended: false });
                }
            });
        }
        for first in (0..1000).step_by(10) {
            for (host, port) in [(&a, a_port), (&b, b_port)] {
                host.with(|now, _, ports| {
                    for seq in first..first + 10 {
                        ports.send(now, port, packet(now, seq, 1316)).unwrap();
                    }
                });
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        for host in [&a, &b] {
            until("all packets", || host.with(|_, notes, _| notes.received.len() == 1000)).await;
            host.with(|_, notes, _| {
                let mut numbers: Vec<u32> = notes.received.iter().map(|(seq, _)| *seq).collect();
                numbers.sort_unstable();
                assert_eq!(numbers, (0..1000).collect::<Vec<u32>>());
                assert!(notes.received.iter().all(|(_, size)| *size == 1316));
                let expected: Vec<Control> =
                    (0..100).map(|handle| Control::StreamClose { handle, ended: false }).collect();
                assert_eq!(notes.messages, expected);
            });
        }
    });
}

#[test]
fn closing_delivers_the_last_messages_and_its_reason() {
    local(async {
        let Pair { a, b, a_port, b_port, .. } = pair(None).await;
        a.with(|_, _, ports| {
            ports.control(a_port, Control::Goodbye { reason: "maintenance".to_owned() });
            ports.close(a_port, CloseCode::Stopping, "for the night");
        });
        let expected = Closed { code: CloseCode::Stopping, reason: "for the night".to_owned() };
        assert_eq!(b.closed(b_port).await, expected);
        assert_eq!(a.closed(a_port).await, expected);
        assert_eq!(a.closed(a_port).await, expected, "also when asked again");
        for (host, port) in [(&a, a_port), (&b, b_port)] {
            host.with(|_, notes, ports| {
                assert_eq!(notes.closed, [(port, expected.clone())]);
                assert!(ports.is_empty());
            });
        }
        b.with(|_, notes, _| assert_eq!(notes.messages, [Control::Goodbye { reason: "maintenance".to_owned() }]));
    });
}

/// Sends a packet of 1316 bytes every `gap`, and returns how many of them arrived.
async fn feed(pair: &Pair, first: u32, packets: u32, gap: Duration) -> usize {
    let Pair { a, b, a_port, .. } = pair;
    let mut ticks = tokio::time::interval(gap);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    for seq in first..first + packets {
        ticks.tick().await;
        a.with(|now, _, ports| ports.send(now, *a_port, packet(now, seq, 1316)).unwrap());
    }
    tokio::time::sleep(Duration::from_millis(600)).await;
    b.with(|_, notes, _| notes.received.iter().filter(|(seq, _)| (first..first + packets).contains(seq)).count())
}

#[test]
fn random_loss_does_not_slow_a_feed_down() {
    local(async {
        let path = Path { delay: Duration::from_millis(20), loss: 0.05, burst: 0.66, ..CLEAN };
        let pair = pair_through(Some(1452), Some(path)).await;
        assert_eq!(feed(&pair, 0, 1500, Duration::from_millis(1)).await, 1500);
        assert_eq!(pair.a.transport(pair.a_port).unwrap().backoff, 1.0);
    });
}

#[test]
fn the_frames_of_a_link_are_as_large_as_the_path_carries() {
    local(async {
        for (known, carried, payload) in
            [(None, 65536, 1452), (None, 1300, 1200), (Some(1300), 1300, 1300), (Some(1452), 1452, 1452)]
        {
            let pair = pair_through(known, Some(Path { payload: carried, ..CLEAN })).await;
            let sent = || pair.a.transport(pair.a_port).unwrap().udp_sent;
            let before = sent();
            assert_eq!(feed(&pair, 0, 300, Duration::from_millis(1)).await, 300);
            let datagrams = sent() - before;
            assert_eq!(payload > 1400, datagrams < 450, "{datagrams} datagrams for 300 packets on a path of {carried}");
            for (host, port) in [(&pair.a, pair.a_port), (&pair.b, pair.b_port)] {
                assert_eq!(host.transport(port).unwrap().path_payload, payload);
            }
        }
    });
}

#[test]
fn a_path_on_which_only_the_least_size_got_through_is_remembered() {
    local(async {
        let pair = pair_through(None, Some(Path { payload: 1210, ..CLEAN })).await;
        assert_eq!(pair.a.transport(pair.a_port).unwrap().path_payload, 1200);
        pair.carried.set(65536);
        let (again, _) = tokio::join!(
            pair.endpoints.0.connect(&pair.address, hello(Role::Relay)),
            pair.endpoints.1.accept(&pair.verifier)
        );
        let host = Host::new(Clock::start(), Notebook::default());
        let port = host.attach(again.unwrap(), LinkConfig::default());
        assert_eq!(host.transport(port).unwrap().path_payload, 1200, "what it carries now is tried later");
    });
}

#[test]
fn a_path_that_becomes_smaller_is_dialled_again_with_smaller_packets() {
    local(async {
        let path = Path { delay: Duration::from_millis(10), ..CLEAN };
        let pair = pair_through(None, Some(path)).await;
        assert_eq!(feed(&pair, 0, 200, Duration::from_millis(1)).await, 200);
        pair.carried.set(1300);
        let _ = feed(&pair, 200, 2500, Duration::from_millis(1)).await;
        let closed = pair.a.closed(pair.a_port).await;
        assert_eq!(closed.code, CloseCode::Lost);
        assert!(closed.reason.contains("no longer carries"), "{}", closed.reason);
        let (again, _) = tokio::join!(
            pair.endpoints.0.connect(&pair.address, hello(Role::Relay)),
            pair.endpoints.1.accept(&pair.verifier)
        );
        let again = again.unwrap();
        let host = Host::new(Clock::start(), Notebook::default());
        let port = host.attach(again, LinkConfig::default());
        assert_eq!(host.transport(port).unwrap().path_payload, 1200);
    });
}

#[test]
fn an_outage_does_not_make_a_path_small() {
    local(async {
        let path = Path { delay: Duration::from_millis(10), ..CLEAN };
        let pair = pair_through(None, Some(path)).await;
        assert_eq!(feed(&pair, 0, 100, Duration::from_millis(1)).await, 100);
        pair.carried.set(0);
        let _ = feed(&pair, 100, 1500, Duration::from_millis(1)).await;
        pair.carried.set(65536);
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(feed(&pair, 2000, 100, Duration::from_millis(1)).await, 100);
        assert_eq!(pair.a.transport(pair.a_port).unwrap().path_payload, 1452);
    });
}

#[test]
fn a_burst_waits_in_the_link_and_is_not_dropped_by_quinn() {
    local(async {
        let Pair { a, b, a_port, .. } = pair(Some(1452)).await;
        let burst = 800;
        a.with(|now, _, ports| {
            for seq in 0..burst {
                let late = now + Duration::from_secs(5);
                ports.send(now, a_port, Packet { recover_until: late, ..packet(now, seq, 1316) }).unwrap();
            }
        });
        until("the whole burst", || b.with(|_, notes, _| notes.received.len() == burst as usize)).await;
        let Transport { held_back, too_large, .. } = a.transport(a_port).unwrap();
        assert!(held_back > 0, "a megabyte at once should have had to wait");
        assert_eq!(too_large, 0);
        let stats = a.with(|_, _, ports| ports.link(a_port).unwrap().stats());
        assert_eq!(stats.arq_packets_sent + stats.fec_packets_sent, 0, "nothing was lost on the way");
    });
}

#[test]
fn a_peer_that_does_not_read_its_control_messages_is_closed() {
    local(async {
        let authority = Authority::trial(unix_seconds()).unwrap();
        let options = EndpointOptions { listen: (Ipv4Addr::LOCALHOST, 0).into(), ..EndpointOptions::default() };
        let (a, _) = relay(&authority, "a");
        let (b, b_verifier) = relay(&authority, "b");
        let (a_end, b_end) = (Endpoint::bind(&options, a).unwrap(), Endpoint::bind(&options, b).unwrap());
        let address = b_end.local_address().to_string();
        let (dialled, answered) = tokio::join!(a_end.connect(&address, hello(Role::Relay)), b_end.accept(&b_verifier));
        // The dialling end holds its session and reads nothing.
        let _unread = dialled.unwrap();
        let host = Host::new(Clock::start(), Notebook::default());
        let port = host.attach(answered.unwrap(), LinkConfig::default());
        let mut sent = 0;
        while host.with(|_, _, ports| ports.is_open(port)) {
            sent += 1;
            assert!(sent < 200, "200 messages of 100 kB wait for a peer that reads none");
            host.with(|_, _, ports| ports.control(port, Control::Goodbye { reason: "x".repeat(100_000) }));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let closed = host.closed(port).await;
        assert_eq!(closed.code, CloseCode::Lost, "{}", closed.reason);
    });
}

#[test]
fn closing_does_not_wait_for_a_peer_that_does_not_read() {
    local(async {
        let Pair { a, a_port, b, b_port, .. } = pair(None).await;
        a.with(|_, _, ports| {
            for _ in 0..20 {
                ports.control(a_port, Control::Goodbye { reason: "x".repeat(100_000) });
            }
            ports.close(a_port, CloseCode::Done, "enough");
        });
        assert_eq!(a.closed(a_port).await.reason, "enough");
        assert_eq!(b.closed(b_port).await.reason, "enough");
    });
}

#[test]
fn control_gets_through_a_link_that_is_offered_more_than_it_carries() {
    local(async {
        let pair = pair_through(Some(1452), Some(Path { delay: Duration::from_millis(5), ..CLEAN })).await;
        let Pair { a, b, a_port, .. } = &pair;
        let policy = link::policy::Policy { capacity: Some(Bitrate::mbps(4)), ..Default::default() };
        a.with(|now, _, ports| ports.link_mut(*a_port).unwrap().set_policy(now, policy));
        let mut ticks = tokio::time::interval(Duration::from_millis(1));
        for seq in 0..2000 {
            ticks.tick().await;
            a.with(|now, _, ports| {
                // 21 Mbit/s; the link drops what comes too late, and says so.
                for i in 0..2 {
                    let _ = ports.send(now, *a_port, packet(now, 2 * seq + i, 1316));
                }
                if seq % 100 == 0 {
                    ports.control(*a_port, Control::StreamClose { handle: seq as u16, ended: false });
                }
            });
        }
        let (messages, packets) = b.with(|_, notes, _| (notes.messages.len(), notes.received.len()));
        assert!(messages >= 15, "of 20 messages, {messages} arrived while the link was saturated");
        assert!(
            (200..3000).contains(&packets),
            "{packets} of 4000 packets crossed a link that carries a fifth of them"
        );
    });
}

#[test]
fn a_breach_of_protocol_closes_the_port_with_its_reason() {
    local(async {
        let Pair { a, a_port, b, b_port, .. } = pair(None).await;
        a.with(|_, _, ports| ports.control(a_port, Control::Hello(hello(Role::Relay))));
        for closed in [b.closed(b_port).await, a.closed(a_port).await] {
            assert_eq!((closed.code, closed.reason.as_str()), (CloseCode::Protocol, "a second handshake"));
        }
    });
}

#[test]
fn media_goes_on_when_the_address_of_an_end_changes() {
    local(async {
        let pair = pair(Some(1452)).await;
        assert_eq!(feed(&pair, 0, 100, Duration::from_millis(1)).await, 100);
        pair.endpoints.0.rebind((Ipv4Addr::new(127, 0, 0, 5), 0).into()).unwrap();
        assert_eq!(feed(&pair, 100, 300, Duration::from_millis(1)).await, 300);
        assert!(pair.b.with(|_, notes, _| notes.closed.is_empty()));
    });
}

/// Names a directory of keys to the process that is going to be killed.
const KEYS: &str = "ANABRANCH_TEST_KEYS";

#[test]
#[ignore = "helper: the process that another test kills"]
fn helper_that_answers_diallers() {
    let Ok(keys) = std::env::var(KEYS) else { return };
    local(async {
        let credentials = Credentials::load(keys.as_ref(), Some(&"b".parse().unwrap())).unwrap();
        let verifier = credentials.verifier();
        let options = EndpointOptions { listen: (Ipv4Addr::LOCALHOST, 0).into(), ..EndpointOptions::default() };
        let endpoint = Endpoint::bind(&options, credentials).unwrap();
        std::fs::write(format!("{keys}/address.new"), endpoint.local_address().to_string()).unwrap();
        std::fs::rename(format!("{keys}/address.new"), format!("{keys}/address")).unwrap();
        let mut sessions = Vec::new();
        while let Some(session) = endpoint.accept(&verifier).await {
            sessions.push(session);
        }
    });
}

/// A process that does not outlive the test, however that ends.
struct Mortal(std::process::Child);

impl Drop for Mortal {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Connects to a process that is then killed, with or without a successor at its address. Returns why the connection
/// ended, and how long after the kill.
fn killed(restarts: bool) -> (Closed, Duration) {
    let authority = Authority::trial(unix_seconds()).unwrap();
    let keys = tempfile::tempdir().unwrap();
    let path = keys.path();
    authority.save(path).unwrap();
    let b = authority.issue(&"b".parse().unwrap(), Role::Relay, unix_seconds(), Duration::from_secs(3600)).unwrap();
    b.save(path).unwrap();
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "host::tests::helper_that_answers_diallers", "--ignored"])
        .env(KEYS, path)
        .stdout(std::process::Stdio::null())
        .spawn();
    let child = Mortal(child.unwrap());
    let mut outcome = None;
    local(async {
        until("the child listens", || path.join("address").exists()).await;
        let address = std::fs::read_to_string(path.join("address")).unwrap();
        let (a, _) = relay(&authority, "a");
        let a_end = Endpoint::bind(&EndpointOptions::default(), a).unwrap();
        // A machine that is busy with other tests may let one attempt time out.
        let session = match a_end.connect(&address, hello(Role::Relay)).await {
            Ok(session) => session,
            Err(_) => a_end.connect(&address, hello(Role::Relay)).await.unwrap(),
        };
        drop(child);
        let host = Host::new(Clock::start(), Notebook::default());
        let (port, lost) = (host.attach(session, LinkConfig::default()), host.now());
        let options = EndpointOptions { listen: address.parse().unwrap(), ..EndpointOptions::default() };
        let again = || Endpoint::bind(&options, authority.credentials(Some(&b)).unwrap()).unwrap();
        let _restarted = restarts.then(again);
        let closed = host.closed(port).await;
        outcome = Some((closed, host.now() - lost));
    });
    outcome.unwrap()
}

#[test]
fn a_connection_to_a_killed_process_is_lost_when_it_has_been_silent_for_long() {
    let (closed, after) = killed(false);
    assert_eq!((closed.code, closed.reason.as_str()), (CloseCode::Lost, "nothing heard for 5s"));
    assert!(after < Duration::from_secs(10), "{after:?}");
}

#[test]
fn a_restarted_process_says_at_once_that_it_knows_nothing_of_its_connections() {
    let (closed, after) = killed(true);
    assert_eq!((closed.code, closed.reason.as_str()), (CloseCode::Lost, "the other end has restarted"));
    assert!(after < Duration::from_secs(2), "{after:?}");
}

/// A node that never catches up is told of as well.
#[test]
fn the_time_behind_grows_while_it_lasts() {
    local_runtime().unwrap().block_on(async {
        let host = Host::new(Clock::start(), Notebook::default());
        tokio::time::sleep(Duration::from_millis(1)).await;
        let mut last = host.time_behind();
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(40));
            host.with(|_, _, _| ());
            assert!(host.time_behind() >= last + Duration::from_millis(40));
            last = host.time_behind();
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        host.with(|_, _, _| ());
        assert!(host.time_behind() >= last, "a counter");
    });
}

#[test]
#[should_panic(expected = "within another one")]
fn a_turn_within_a_turn_is_a_defect_that_says_so() {
    local(async {
        let host = Host::new(Clock::start(), Notebook::default());
        let inner = host.clone();
        host.with(|_, _, _| inner.with(|_, _, _| ()));
    });
}

#[test]
#[ignore = "long: a minute of loss"]
fn long_loss_is_not_mistaken_for_a_smaller_path() {
    let limit = Duration::from_secs(120);
    let test = async {
        let path = Path { delay: Duration::from_millis(75), loss: 0.1, burst: 0.3, ..CLEAN };
        for known in [Some(1452), None] {
            let pair = pair_through(known, Some(path)).await;
            let (mut whole, mut looks) = (0.0, 0.0);
            for second in 0..30 {
                feed(&pair, second * 1000, 400, Duration::from_millis(1)).await;
                looks += 1.0;
                whole += f64::from(u8::from(pair.a.transport(pair.a_port).unwrap().path_payload >= 1400));
            }
            assert_eq!(whole, looks, "known {known:?}: whole frames in {whole} of {looks} seconds");
        }
    };
    block_on_local(async {
        tokio::time::timeout(limit, test).await.map_err(|_| Failure::new(Exit::Software, "stuck"))
    })
    .unwrap();
}

#[test]
fn a_port_does_not_outlast_the_connection_of_a_peer_that_is_held_back() {
    local(async {
        let Pair { a, b, a_port, b_port, .. } = pair(None).await;
        // Each as much work as 64 KiB: half a minute of it.
        let dear = || {
            let whence = crate::control::Whence { id: 1, handle: 1, missing: vec![(7, 4096)], hops: 12 };
            Control::Whence(whence)
        };
        a.with(|_, _, ports| (0..1000).for_each(|_| ports.control(a_port, dear())));
        until("it is held back", || b.control_held_back() > 0).await;
        a.with(|_, _, ports| ports.close(a_port, CloseCode::Done, "enough"));
        a.closed(a_port).await;
        let gone = b.now();
        assert_eq!(b.closed(b_port).await.reason, "enough");
        let outlasted = b.now() - gone;
        assert!(outlasted < Duration::from_secs(5), "{outlasted:?}");
        assert!(b.with(|_, notes, _| notes.messages.len()) < 1000);
    });
}
