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
    /// Kept open as long as the test runs.
    _endpoints: (Endpoint, Endpoint),
}

fn relay(authority: &Authority, name: &str) -> (Credentials, Verifier) {
    let now = unix_seconds();
    let identity = authority.issue(&name.parse().unwrap(), Role::Relay, now, Duration::from_secs(3600)).unwrap();
    let credentials = authority.credentials(Some(&identity)).unwrap();
    let verifier = credentials.verifier().unwrap();
    (credentials, verifier)
}

fn hello(role: Role) -> Hello {
    Hello { version: VERSION, features: 0, role, tokens: Vec::new(), agent: "test".to_owned() }
}

async fn pair(udp_payload: Option<u16>) -> Pair {
    let authority = Authority::trial(unix_seconds()).unwrap();
    let options =
        EndpointOptions { listen: (Ipv4Addr::LOCALHOST, 0).into(), udp_payload, ..EndpointOptions::default() };
    let (a, _) = relay(&authority, "a");
    let (b, b_verifier) = relay(&authority, "b");
    let (a_end, b_end) = (Endpoint::bind(&options, a).unwrap(), Endpoint::bind(&options, b).unwrap());
    let address = b_end.local_address().to_string();
    let (dialled, answered) = tokio::join!(a_end.connect(&address, hello(Role::Relay)), b_end.accept(&b_verifier));
    let (dialled, answered) = (dialled.unwrap(), answered.unwrap());
    assert_eq!((dialled.peer.name.as_str(), dialled.peer.dialled), ("b", true));
    assert_eq!((answered.peer.name.as_str(), answered.peer.dialled), ("a", false));
    let clock = Clock::start();
    let (a, b) = (Host::new(clock, Notebook::default()), Host::new(Clock::start(), Notebook::default()));
    let a_port = a.attach(dialled, LinkConfig { seed: 1, ..LinkConfig::default() });
    let b_port = b.attach(answered, LinkConfig { seed: 2, ..LinkConfig::default() });
    Pair { a, b, a_port, b_port, _endpoints: (a_end, b_end) }
}

fn local(test: impl Future<Output = ()>) {
    let limit = Duration::from_secs(30);
    block_on_local(async {
        tokio::time::timeout(limit, test).await.map_err(|_| Failure::new(Exit::Software, "stuck"))
    })
    .unwrap();
}

fn packet(now: Instant, seq: u32, size: usize) -> Packet {
    Packet {
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

async fn until(what: &str, mut done: impl FnMut() -> bool) {
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
