use super::*;
use crate::trust::Role;
use link::{Flags, Label, MediaTime, Packet, StreamHandle, StreamSeq};
use std::cell::RefCell;
use std::rc::Rc;

/// What happened at a node, in order.
type Log = Rc<RefCell<Vec<String>>>;

/// Sends a packet every millisecond once it is told to, and notes all that happens to it.
#[derive(Default)]
struct Talker {
    port: Option<PortId>,
    next_at: Option<Instant>,
    left: u32,
    received: Vec<(u32, Duration)>,
    log: Log,
}

impl Talker {
    fn note(&self, what: impl Into<String>) {
        self.log.borrow_mut().push(what.into());
    }
}

impl EndSystem for Talker {
    fn handle_opened(&mut self, _: Instant, port: PortId, ports: &mut Ports) {
        self.port = Some(port);
        self.note(format!("opened {}", ports.peer(port).unwrap().name));
    }
    fn handle_delivery(&mut self, _: Instant, _: PortId, delivery: Delivery, _: &mut Ports) {
        self.received.push((delivery.seq.0, delivery.age));
    }
    fn handle_control(&mut self, _: Instant, _: PortId, message: Control, _: &mut Ports) {
        self.note(format!("{message:?}"));
    }
    fn handle_closed(&mut self, _: Instant, port: PortId, peer: &Peer, closed: &Closed, ports: &mut Ports) {
        assert!(ports.peer(port).is_none());
        self.port = None;
        self.note(format!("closed {} {:?} {}", peer.name, closed.code, closed.reason));
    }
    fn handle_timeout(&mut self, now: Instant, ports: &mut Ports) {
        let Some(port) = self.port else { return };
        self.left -= 1;
        self.next_at = (self.left > 0).then(|| now + Duration::from_millis(1));
        let packet = Packet {
            target: None,
            stream: StreamHandle(1),
            seq: StreamSeq(self.left),
            media_time: MediaTime(0),
            age: Duration::ZERO,
            label: Label(0),
            flags: Flags::default(),
            payload: Bytes::from_static(&[7; 1316]),
            recover_until: now + Duration::from_millis(200),
        };
        ports.send(now, port, packet).unwrap();
    }
    fn poll_timeout(&self) -> Option<Instant> {
        self.next_at
    }
}

fn join(node: NodeId, name: &str, path: impl Path + 'static) -> Join {
    Join {
        node,
        peer: Peer {
            name: name.parse().unwrap(),
            role: Role::Relay,
            grants: Vec::new(),
            address: ([127, 0, 0, 1], 1).into(),
            dialled: false,
            features: 0,
            link: None,
        },
        config: LinkConfig::default(),
        path: Box::new(path),
        control_delay: Duration::from_millis(20),
    }
}

/// Two talkers 20 ms apart whose clocks differ by a day; every 20th datagram from the first is lost.
fn world() -> (World, NodeId, NodeId, End, End, Log, Log) {
    let (log_a, log_b) = (Log::default(), Log::default());
    let mut world = World::new();
    let a = world.add(Talker { log: log_a.clone(), ..Talker::default() }, Duration::from_secs(86_400));
    let b = world.add(Talker { log: log_b.clone(), ..Talker::default() }, Duration::ZERO);
    let mut count = 0;
    let lossy = move |now: Instant, _: &[u8]| {
        count += 1;
        (count % 20 != 0).then(|| now + Duration::from_millis(20))
    };
    let (a_end, b_end) = world.join(join(a, "a", lossy), join(b, "b", Delay(Duration::from_millis(20))));
    (world, a, b, a_end, b_end, log_a, log_b)
}

fn talk(world: &mut World, node: NodeId, packets: u32) {
    world.with(node, |now, talker: &mut Talker, _| {
        talker.left = packets;
        talker.next_at = Some(now);
    });
}

#[test]
fn media_crosses_a_lossy_path_whole_and_in_time() {
    let (mut world, a, b, ..) = world();
    world.run_for(Duration::from_secs(1));
    talk(&mut world, a, 2000);
    world.run_for(Duration::from_secs(3));
    let received = world.with(b, |_, talker: &mut Talker, _| std::mem::take(&mut talker.received));
    let mut numbers: Vec<u32> = received.iter().map(|(seq, _)| *seq).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..2000).collect::<Vec<u32>>());
    for (seq, age) in received {
        assert!(age >= Duration::from_millis(19), "packet {seq} is {age:?} old after 20 ms of path");
        assert!(age <= Duration::from_millis(200), "packet {seq} is {age:?} old");
    }
    assert!(world.with(a, |_, _: &mut Talker, ports| ports.iter().next().unwrap().2.stats().arq_packets_sent) >= 90);
}

#[test]
fn control_arrives_in_order_and_closing_after_it() {
    let (mut world, a, b, a_end, _, log_a, log_b) = world();
    world.with(a, |_, _: &mut Talker, ports| {
        for handle in 0..3 {
            ports.control(a_end.port, Control::StreamClose { handle, ended: false });
        }
        ports.close(a_end.port, CloseCode::Stopping, "for the night");
        ports.control(a_end.port, Control::StreamClose { handle: 9, ended: false });
    });
    world.run_for(Duration::from_millis(19));
    assert_eq!(*log_a.borrow(), ["opened b", "closed b Stopping for the night"]);
    assert_eq!(*log_b.borrow(), ["opened a"]);
    world.run_for(Duration::from_millis(2));
    let expected: Vec<String> =
        (0..3).map(|handle| format!("{:?}", Control::StreamClose { handle, ended: false })).collect();
    assert_eq!(log_b.borrow()[1..4], expected);
    assert_eq!(log_b.borrow()[4..], ["closed a Stopping for the night"]);
    assert!(world.with(b, |_, _: &mut Talker, ports| ports.is_empty()));
}

#[test]
fn a_peer_that_takes_no_messages_is_closed_when_too_many_wait() {
    // Of two relays neither shall take it for a refusal.
    for (role, code) in [(Role::Sink, CloseCode::Overload), (Role::Relay, CloseCode::Lost)] {
        let mut ports = Ports::new();
        let peer = Peer { role, ..join(NodeId(0), "slow", Delay(Duration::ZERO)).peer };
        let port = ports.open(Instant::ORIGIN, peer, LinkConfig::default());
        for _ in 0..crate::ports::MAX_QUEUED_MESSAGES {
            ports.control(port, Control::StreamClose { handle: 1, ended: false });
        }
        let (messages, bytes) = ports.queued(port);
        assert_eq!((messages, bytes), (crate::ports::MAX_QUEUED_MESSAGES, messages * 7));
        assert!(ports.is_open(port));
        ports.control(port, Control::StreamClose { handle: 1, ended: false });
        let closing = ports.closing(port).unwrap();
        assert_eq!(closing.closed.code, code);
        assert!(!closing.flush);
        assert_eq!((ports.poll_control(port), ports.queued(port)), (None, (0, 0)));
    }
}

#[test]
fn a_port_id_is_never_used_again() {
    let mut ports = Ports::new();
    let peer = join(NodeId(0), "x", Delay(Duration::ZERO)).peer;
    let first = ports.open(Instant::ORIGIN, peer.clone(), LinkConfig::default());
    let second = ports.open(Instant::ORIGIN, peer.clone(), LinkConfig::default());
    assert!(ports.remove(first).is_some());
    assert!(ports.remove(first).is_none());
    let third = ports.open(Instant::ORIGIN, peer, LinkConfig::default());
    assert!(first != third && ports.link(first).is_none());
    assert_eq!(ports.iter().map(|(id, ..)| id).collect::<Vec<_>>(), [second, third]);
}

/// A lag that a link is told of is past for all links at once, those that nothing comes from among them: their silence counts.
#[test]
fn a_driver_that_has_caught_up_says_so_to_every_link() {
    let mut ports = Ports::new();
    let peer = join(NodeId(0), "x", Delay(Duration::ZERO)).peer;
    let at = |millis: u64| Instant::ORIGIN + Duration::from_millis(millis);
    let both = [peer.clone(), peer].map(|peer| ports.open(at(0), peer, LinkConfig::default()));
    let silent = |ports: &Ports, now| both.map(|port| ports.link(port).unwrap().quality(now).silent_for.as_millis());
    ports.set_lag(Duration::from_millis(90));
    for port in both {
        ports.poll_transmit(at(100), port, &mut bytes::BytesMut::new());
    }
    assert_eq!(silent(&ports, at(100)), [10, 10]);
    ports.set_lag(Duration::from_millis(19));
    assert_eq!(silent(&ports, at(101)), [101, 101]);
}

#[test]
fn a_severed_connection_is_lost_at_both_ends() {
    let (mut world, a, b, a_end, _, log_a, log_b) = world();
    world.sever(a_end);
    assert_eq!(log_a.borrow()[1..], ["closed b Lost severed"]);
    assert_eq!(log_b.borrow()[1..], ["closed a Lost severed"]);
    talk(&mut world, a, 3);
    talk(&mut world, b, 3);
    world.run_for(Duration::from_millis(10));
}
