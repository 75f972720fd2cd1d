//! The emulator between plain sockets.

use super::*;
use crate::channel::{ChannelConfig, Loss, Queue, Rate};
use socket2::{Domain, Socket, Type};
use std::io::Read;
use std::mem::MaybeUninit;

/// A blocking UDP socket with a time limit.
struct Peer(Socket);

impl Peer {
    fn bind(address: &str) -> Peer {
        let address: SocketAddr = address.parse().unwrap();
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None).unwrap();
        socket.bind(&address.into()).unwrap();
        socket.set_recv_buffer_size(4 << 20).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        Peer(socket)
    }

    fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap().as_socket().unwrap()
    }

    fn send(&self, to: SocketAddr, payload: &[u8]) {
        self.0.send_to(payload, &to.into()).unwrap();
    }

    fn receive(&self) -> Option<(SocketAddr, Vec<u8>)> {
        let mut room = [MaybeUninit::uninit(); 65536];
        let (_, from) = self.0.peek_from(&mut room).ok()?;
        let mut payload = vec![0; 65536];
        let n = (&self.0).read(&mut payload).unwrap();
        payload.truncate(n);
        Some((from.as_socket().unwrap(), payload))
    }
}

fn emulate(target: SocketAddr, channel: ChannelConfig) -> (Emulator, SocketAddr) {
    let plan = Plan { seed: 1, links: vec![LinkPlan::new("a-b", Some(target), channel)], events: Vec::new() };
    let emulator = Emulator::start(&plan).unwrap();
    let address = emulator.address("a-b").unwrap();
    (emulator, address)
}

#[test]
fn datagrams_pass_both_ways_unchanged_for_several_clients() {
    let server = Peer::bind("127.0.0.1:0");
    let (emulator, link) = emulate(server.address(), ChannelConfig::default());
    let clients = [Peer::bind("127.0.0.1:0"), Peer::bind("127.0.0.1:0")];
    let mut seen = Vec::new();
    for (i, client) in clients.iter().enumerate() {
        client.send(link, &vec![i as u8; 1 + i * 1399]);
        let (from, payload) = server.receive().unwrap();
        assert_eq!(payload, vec![i as u8; 1 + i * 1399]);
        server.send(from, &[payload[0], 99]);
        assert_eq!(client.receive().unwrap(), (link, vec![i as u8, 99]));
        seen.push(from);
    }
    assert_ne!(seen[0], seen[1]);
    let snapshot = emulator.snapshot().unwrap();
    let link = snapshot.link("a-b").unwrap();
    assert_eq!((link.clients, link.forward.counters.delivered, link.backward.counters.delivered), (2, 2, 2));
    assert_eq!(link.forward.counters.delivered_bytes, 1 + 1400 + 2 * 28);
    assert_eq!(link.forward.in_flight, 0);
}

#[test]
fn either_end_may_be_ipv6() {
    let server = Peer::bind("[::1]:0");
    let mut plan = LinkPlan::new("a-b", Some(server.address()), ChannelConfig::default());
    for listen in ["127.0.0.1:0", "[::1]:0"] {
        plan.listen = listen.parse().unwrap();
        let emulator = Emulator::start(&Plan { seed: 1, links: vec![plan.clone()], events: Vec::new() }).unwrap();
        let client = Peer::bind(listen);
        client.send(emulator.address("a-b").unwrap(), b"there");
        let (from, payload) = server.receive().unwrap();
        assert_eq!(payload, b"there");
        server.send(from, b"back");
        assert_eq!(client.receive().unwrap().1, b"back");
    }
}

#[test]
fn a_delay_holds_back_what_is_on_the_wire() {
    let server = Peer::bind("127.0.0.1:0");
    let (emulator, link) =
        emulate(server.address(), ChannelConfig { delay: Duration::from_millis(80), ..Default::default() });
    let client = Peer::bind("127.0.0.1:0");
    for i in 0..5 {
        client.send(link, &[i; 100]);
    }
    // Well within the delay the datagrams have been taken and none has come out.
    let taken = (0..50).map(|_| {
        std::thread::sleep(Duration::from_millis(1));
        emulator.snapshot().unwrap().links[0].forward
    });
    let way = taken.into_iter().find(|way| way.in_flight == 5).expect("five datagrams are on the wire at once");
    assert_eq!((way.in_flight_bytes, way.counters.delivered), (500, 5));
    assert_eq!((0..5).map(|_| server.receive().unwrap().1[0]).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
}

#[test]
fn loss_is_that_of_the_channel_to_the_datagram() {
    let server = Peer::bind("127.0.0.1:0");
    let config = ChannelConfig { loss: Loss::Gilbert { mean: 0.1, burst: 0.5 }, ..Default::default() };
    let (emulator, link) = emulate(server.address(), config.clone());
    let client = Peer::bind("127.0.0.1:0");
    let mut model = crate::channel::Channel::new(config, crate::channel::seed_for(1, "a-b", Direction::Forward));
    for i in 0..2000u32 {
        client.send(link, &i.to_be_bytes());
        if model.offer(link::Instant::ORIGIN, 32).arrivals().count() == 1 {
            assert_eq!(server.receive().unwrap().1, i.to_be_bytes());
        }
    }
    assert_eq!(emulator.snapshot().unwrap().links[0].forward.counters, model.counters());
}

#[test]
fn it_can_be_cut_mended_retargeted_and_rebound_while_it_runs() {
    let (server, other) = (Peer::bind("127.0.0.1:0"), Peer::bind("127.0.0.1:0"));
    let (emulator, link) = emulate(server.address(), ChannelConfig::default());
    let client = Peer::bind("127.0.0.1:0");
    client.send(link, b"1");
    let (before, _) = server.receive().unwrap();

    emulator.act("a-b", Some(Direction::Forward), Action::Cut).unwrap();
    assert!(emulator.snapshot().unwrap().links[0].forward.cut);
    client.send(link, b"2");
    assert!(server.receive().is_none());
    server.send(before, b"3");
    assert_eq!(client.receive().unwrap().1, b"3");

    emulator.act("a-b", None, Action::Mend).unwrap();
    emulator.act("a-b", None, Action::Rebind).unwrap();
    emulator.snapshot().unwrap();
    client.send(link, b"4");
    let (after, payload) = server.receive().unwrap();
    assert_eq!(payload, b"4");
    assert_ne!(before, after);

    emulator.retarget("a-b", Some(other.address())).unwrap();
    emulator.snapshot().unwrap();
    client.send(link, b"5");
    assert_eq!(other.receive().unwrap().1, b"5");
    assert!(matches!(emulator.act("x", None, Action::Cut), Err(EmulatorError::NoSuchLink(_))));
}

#[test]
fn the_script_is_played_and_told() {
    let server = Peer::bind("127.0.0.1:0");
    let plan = Plan {
        seed: 1,
        links: vec![LinkPlan::new("a-b", Some(server.address()), ChannelConfig::default())],
        events: vec![
            Event::new(Duration::ZERO, "a-b", Action::Cut),
            Event::new(Duration::from_millis(30), "a-b", Action::Mend).every(Duration::from_millis(30)),
        ],
    };
    let emulator = Emulator::start(&plan).unwrap();
    let snapshots = (0..400).map(|_| {
        std::thread::sleep(Duration::from_millis(5));
        emulator.snapshot().unwrap()
    });
    let told = snapshots.into_iter().find(|s| s.happened.len() >= 3).expect("the script goes on").happened;
    assert_eq!(told[0], (Duration::ZERO, "a-b goes dead".into()));
    assert_eq!(told[1], (Duration::from_millis(30), "a-b is back".into()));
    assert_eq!(told[2].0, Duration::from_millis(60));
}

#[test]
fn a_port_in_use_is_named() {
    let taken = Peer::bind("127.0.0.1:0");
    let mut plan = LinkPlan::new("a-b", None, ChannelConfig::default());
    plan.listen = taken.address();
    let error = Emulator::start(&Plan { seed: 1, links: vec![plan], events: Vec::new() }).unwrap_err().to_string();
    assert!(error.contains("a-b") && error.contains(&taken.address().to_string()), "{error}");
}

/// Five links at 50 Mbit/s each through one emulator on this machine.
#[test]
#[ignore = "long: measures speed"]
fn keeps_up_with_several_links_at_50_mbit() {
    let servers: Vec<Peer> = (0..5).map(|_| Peer::bind("127.0.0.1:0")).collect();
    let channel = ChannelConfig { delay: Duration::from_millis(20), ..Default::default() };
    let links = servers
        .iter()
        .enumerate()
        .map(|(i, server)| LinkPlan::new(format!("link-{i}"), Some(server.address()), channel.clone()))
        .collect();
    let emulator = Emulator::start(&Plan { seed: 1, links, events: Vec::new() }).unwrap();
    let receivers: Vec<_> = servers
        .into_iter()
        .map(|server| std::thread::spawn(move || std::iter::from_fn(|| server.receive()).count()))
        .collect();
    let client = Peer::bind("127.0.0.1:0");
    // 4.63 packets of 1350 bytes a millisecond and link are 50 Mbit/s; three seconds of it.
    let clock = node::clock::Clock::start();
    let start = clock.now();
    let mut sent = 0;
    while sent < 13_890 {
        let owed = (4.63 * (clock.now() - start).as_secs_f64() * 1e3) as usize;
        for _ in sent..owed.min(13_890) {
            for i in 0..5 {
                client.send(emulator.address(&format!("link-{i}")).unwrap(), &[i; 1350]);
            }
        }
        sent = owed.min(13_890).max(sent);
        std::thread::sleep(Duration::from_micros(500));
    }
    let received: Vec<usize> = receivers.into_iter().map(|receiver| receiver.join().unwrap()).collect();
    let snapshot = emulator.snapshot().unwrap();
    println!("received {received:?} of {sent} each; lag p99 {:?}, max {:?}", snapshot.lag_p99, snapshot.lag_max);
    assert_eq!(received, [sent; 5]);
}

#[test]
fn two_links_through_one_path_share_its_bottleneck() {
    let servers = [Peer::bind("127.0.0.1:0"), Peer::bind("127.0.0.1:0")];
    // Room for two datagrams of 1028 bytes and one second for each: the third finds the queue full, whichever link it takes.
    let queue = Queue::Bytes(2100);
    let channel =
        ChannelConfig { rate: Some(Rate { bitrate: link::Bitrate::bps(8 * 1028), queue }), ..ChannelConfig::default() };
    let own = LinkPlan::new("own", Some(servers[0].address()), channel.clone());
    let shared =
        LinkPlan { through: Some("own".into()), ..LinkPlan::new("shared", Some(servers[1].address()), channel) };
    let emulator = Emulator::start(&Plan { seed: 1, links: vec![own, shared.clone()], events: Vec::new() }).unwrap();
    let client = Peer::bind("127.0.0.1:0");
    for link in ["own", "shared", "shared"] {
        client.send(emulator.address(link).unwrap(), &[7; 1000]);
        std::thread::sleep(Duration::from_millis(20));
    }
    let snapshot = emulator.snapshot().unwrap();
    for link in ["own", "shared"] {
        let counters = snapshot.link(link).unwrap().forward.counters;
        assert_eq!((counters.offered, counters.delivered, counters.queue), (3, 2, 1), "{link}");
    }
    let nowhere = LinkPlan { name: "third".into(), through: Some("nowhere".into()), ..shared };
    assert!(matches!(emulator.add(nowhere), Err(EmulatorError::NoSuchLink(name)) if name == "nowhere"));
}
