//! Relays, sources and sinks in virtual time.

use anabranch_relay::Report;
use anabranch_relay::config::Limits;
use anabranch_relay::system::{LinkOptions, Options, RelaySystem};
use bytes::Bytes;
use link::{Delivery, Flags, Instant, Label, LinkConfig, MediaTime, Packet, StreamHandle, StreamSeq};
use node::control::{CloseCode, Content, Control, Dissemination, Publish, StreamOpen};
use node::testing::{Delay, End, Join, NodeId, World};
use node::trust::{Direction, Grant, Role};
use node::{Closed, EndSystem, Peer, PortId, Ports};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use topology::NodeName;
use topology::lsdb::Incarnation;

pub(crate) const STREAM: &str = "tenant/channel";
pub(crate) const DEADLINE: Duration = Duration::from_millis(200);

/// The wall clock of every node at the beginning, in seconds since 1970.
pub(crate) const UNIX: u64 = 1_800_000_000;

pub(crate) fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Publishes one stream, and sends a packet a millisecond while it is told to.
pub(crate) struct Source {
    pub(crate) publish: Publish,
    pub(crate) sending: bool,
    pub(crate) next_seq: u32,
    pub(crate) refused: Vec<CloseCode>,
    pub(crate) handle: Option<StreamHandle>,
    port: Option<PortId>,
    due: Instant,
}

impl Source {
    pub(crate) fn new(incarnation: u64) -> Source {
        let publish = Publish {
            name: STREAM.parse().expect("valid"),
            incarnation: Incarnation(incarnation),
            deadline_us: DEADLINE.as_micros() as u32,
            high_priority: false,
            mode: Dissemination::Tree,
            content: Content::Datagrams,
        };
        Source {
            publish,
            sending: false,
            next_seq: 0,
            refused: Vec::new(),
            handle: None,
            port: None,
            due: Instant::ORIGIN,
        }
    }

    pub(crate) fn mode(mut self, mode: Dissemination) -> Source {
        self.publish.mode = mode;
        self
    }

    pub(crate) fn unpublish(&mut self, now: Instant, ports: &mut Ports) {
        self.sending = false;
        self.send(now, Flags { end: true, ..Flags::default() }, Bytes::new(), ports);
        if let Some(port) = self.port {
            ports.control(port, Control::Unpublish { name: self.publish.name.clone() });
        }
    }

    fn send(&mut self, now: Instant, flags: Flags, payload: Bytes, ports: &mut Ports) {
        let (Some(port), Some(stream)) = (self.port, self.handle) else { return };
        let packet = Packet {
            stream,
            seq: StreamSeq(self.next_seq),
            media_time: MediaTime(now.as_micros() as u32),
            age: Duration::ZERO,
            label: Label(0),
            flags,
            payload,
            recover_until: now + Duration::from_micros(u64::from(self.publish.deadline_us)),
        };
        self.next_seq += 1;
        let _ = ports.send(now, port, packet);
    }
}

impl EndSystem for Source {
    fn handle_opened(&mut self, _: Instant, port: PortId, ports: &mut Ports) {
        self.port = Some(port);
        ports.control(port, Control::Publish(self.publish.clone()));
    }
    fn handle_delivery(&mut self, _: Instant, _: PortId, _: Delivery, _: &mut Ports) {}
    fn handle_control(&mut self, _: Instant, _: PortId, message: Control, _: &mut Ports) {
        match message {
            Control::Published { handle, .. } => self.handle = Some(StreamHandle(handle)),
            Control::StreamRefused { refusal, .. } => {
                self.handle = None;
                self.refused.push(refusal.code);
            }
            _ => {}
        }
    }
    fn handle_closed(&mut self, _: Instant, port: PortId, _: &Peer, _: &Closed, _: &mut Ports) {
        if self.port == Some(port) {
            (self.port, self.handle) = (None, None);
        }
    }
    fn handle_timeout(&mut self, now: Instant, ports: &mut Ports) {
        self.due = self.due.max(now) + ms(1);
        self.send(now, Flags::default(), Bytes::from_static(&[7; 1316]), ports);
    }
    fn poll_timeout(&self) -> Option<Instant> {
        self.sending.then_some(self.due)
    }
}

/// Watches one stream, and keeps account of what comes.
#[derive(Default)]
pub(crate) struct Sink {
    pub(crate) open: HashMap<u16, StreamOpen>,
    pub(crate) opens: usize,
    /// By incarnation and number: how often, and how old at the first time.
    pub(crate) got: BTreeMap<(u64, u32), (u32, Duration)>,
    pub(crate) closes: Vec<bool>,
    pub(crate) subscribed: Vec<bool>,
    pub(crate) refused: Vec<CloseCode>,
    early: Vec<Delivery>,
    pub(crate) port: Option<PortId>,
}

impl Sink {
    fn take(&mut self, delivery: Delivery) {
        let Some(open) = self.open.get(&delivery.stream.0) else {
            self.early.push(delivery);
            return;
        };
        let entry = self.got.entry((open.incarnation.0, delivery.seq.0)).or_insert((0, delivery.age));
        entry.0 += 1;
    }

    pub(crate) fn count(&self, incarnation: u64) -> usize {
        self.got.keys().filter(|(life, _)| *life == incarnation).count()
    }

    /// Asserts that every number of a range came, once each, within the deadline.
    pub(crate) fn assert_whole(&self, incarnation: u64, numbers: std::ops::Range<u32>) {
        let missing: Vec<u32> = numbers.clone().filter(|n| !self.got.contains_key(&(incarnation, *n))).collect();
        assert!(
            missing.is_empty(),
            "{} of {} missing: {:?}…",
            missing.len(),
            numbers.len(),
            &missing[..missing.len().min(9)]
        );
        self.assert_once();
        let late = self.got.iter().filter(|(_, (_, age))| *age > DEADLINE).count();
        assert_eq!(late, 0, "late packets");
    }

    /// Asserts that nothing came twice.
    pub(crate) fn assert_once(&self) {
        let twice: Vec<_> = self.got.iter().filter(|(_, (times, _))| *times > 1).map(|(key, _)| key).collect();
        assert!(twice.is_empty(), "more than once: {twice:?}");
    }
}

impl EndSystem for Sink {
    fn handle_opened(&mut self, _: Instant, port: PortId, ports: &mut Ports) {
        self.port = Some(port);
        ports.control(port, Control::Subscribe { name: STREAM.parse().expect("valid") });
    }
    fn handle_delivery(&mut self, _: Instant, _: PortId, delivery: Delivery, _: &mut Ports) {
        self.take(delivery);
    }
    fn handle_control(&mut self, _: Instant, _: PortId, message: Control, _: &mut Ports) {
        match message {
            Control::Subscribed { live, .. } => self.subscribed.push(live),
            Control::StreamRefused { refusal, .. } => self.refused.push(refusal.code),
            Control::StreamOpen(open) => {
                self.opens += 1;
                self.open.insert(open.handle, open);
                let early = std::mem::take(&mut self.early);
                early.into_iter().for_each(|delivery| self.take(delivery));
            }
            Control::StreamClose { handle, ended } => {
                self.open.remove(&handle);
                self.closes.push(ended);
            }
            _ => {}
        }
    }
    fn handle_closed(&mut self, _: Instant, _: PortId, _: &Peer, _: &Closed, _: &mut Ports) {
        self.open.clear();
    }
    fn handle_timeout(&mut self, _: Instant, _: &mut Ports) {}
    fn poll_timeout(&self) -> Option<Instant> {
        None
    }
}

/// Relays by name, and the clients at them. Each node's clock runs an hour and more ahead of the one before.
pub(crate) struct Overlay {
    pub(crate) world: World,
    relays: BTreeMap<String, NodeId>,
    links: BTreeMap<(String, String), End>,
    lives: u64,
    nodes: u64,
    /// How much longer control messages take than media.
    pub(crate) control_lag: Duration,
}

impl Overlay {
    pub(crate) fn new(relays: &[&str]) -> Overlay {
        let mut overlay = Overlay {
            world: World::new(),
            relays: BTreeMap::new(),
            links: BTreeMap::new(),
            lives: 0,
            nodes: 0,
            control_lag: Duration::ZERO,
        };
        for name in relays {
            overlay.start(name);
        }
        overlay
    }

    /// Relays and the links among them, with their delays; half a second to come to rest.
    pub(crate) fn with_links(links: &[(&str, &str, u64)]) -> Overlay {
        let mut names: Vec<&str> = links.iter().flat_map(|(a, b, _)| [*a, *b]).collect();
        names.sort_unstable();
        names.dedup();
        let mut overlay = Overlay::new(&names);
        for (a, b, delay) in links {
            overlay.link(a, b, *delay);
        }
        overlay.world.run_for(ms(500));
        overlay
    }

    fn add(&mut self, system: impl EndSystem + 'static) -> NodeId {
        self.nodes += 1;
        self.world.add(system, Duration::from_secs(3600 * self.nodes) + Duration::from_micros(self.nodes * 777))
    }

    /// Starts a relay, or starts it again.
    pub(crate) fn start(&mut self, name: &str) {
        self.lives += 1;
        self.start_at(name, self.lives * 1_000_000);
    }

    /// Starts a relay whose wall clock shows `boot`.
    pub(crate) fn start_at(&mut self, name: &str, boot: u64) {
        let node: NodeName = name.parse().expect("valid");
        let now = self.world.now() + Duration::from_secs(3600 * (self.nodes + 1));
        let options = Options {
            name: node,
            boot,
            limits: Limits::default(),
            source_grace: Duration::from_secs(10),
            links: BTreeMap::new(),
            unix: (now, UNIX),
        };
        let id = self.add(RelaySystem::new(options));
        self.relays.insert(name.to_string(), id);
    }

    /// Kills a relay: its connections are lost. What its neighbours do about it is up to them.
    pub(crate) fn kill(&mut self, name: &str) {
        let gone: Vec<_> = self.links.keys().filter(|(a, b)| a == name || b == name).cloned().collect();
        for key in gone {
            if let Some(end) = self.links.remove(&key) {
                self.world.sever(end);
            }
        }
        self.relays.remove(name);
    }

    /// A link of this delay, in milliseconds, dialled by `a`.
    pub(crate) fn link(&mut self, a: &str, b: &str, delay: u64) -> End {
        let end = self.link_measured(a, b, delay);
        let configured = LinkOptions { delay: Some(ms(delay)), cost: 10, policy: link::policy::Policy::default() };
        for (own, other) in [(a, b), (b, a)] {
            let (other, options) = (other.parse().expect("valid"), configured.clone());
            self.relay(own, |now, system, ports| system.set_link_options(now, other, options, ports));
        }
        end
    }

    /// A link of which no end is told the delay.
    pub(crate) fn link_measured(&mut self, a: &str, b: &str, delay: u64) -> End {
        let join = |name: &str, node, dialled: bool, control_delay| Join {
            node,
            peer: peer(name, Role::Relay, !dialled, Vec::new()),
            config: LinkConfig::default(),
            path: Box::new(Delay(ms(delay))),
            control_delay,
        };
        let lag = ms(delay) + self.control_lag;
        let (end, _) = self.world.join(join(a, self.relays[a], true, lag), join(b, self.relays[b], false, lag));
        self.links.insert((a.to_string(), b.to_string()), end);
        end
    }

    /// Cuts a link: both ends learn of it.
    pub(crate) fn cut(&mut self, a: &str, b: &str) {
        let end = self.links.remove(&(a.to_string(), b.to_string())).expect("there is such a link");
        self.world.sever(end);
    }

    /// A source at a relay, with the right to publish everything, over a last mile of 5 ms.
    pub(crate) fn source(&mut self, relay: &str, name: &str, source: Source) -> NodeId {
        let node = self.add(source);
        self.connect_source(relay, name, node, all(Direction::Publish));
        node
    }

    pub(crate) fn connect_source(&mut self, relay: &str, name: &str, node: NodeId, grants: Vec<Grant>) -> End {
        self.connect(relay, node, peer(name, Role::Source, false, grants))
    }

    /// A sink at a relay, with the right to watch everything, over a last mile of 5 ms.
    pub(crate) fn sink(&mut self, relay: &str, name: &str) -> NodeId {
        self.sink_with(relay, name, all(Direction::Subscribe))
    }

    pub(crate) fn sink_with(&mut self, relay: &str, name: &str, grants: Vec<Grant>) -> NodeId {
        let node = self.add(Sink::default());
        self.connect(relay, node, peer(name, Role::Sink, false, grants));
        node
    }

    pub(crate) fn connect(&mut self, relay: &str, node: NodeId, client: Peer) -> End {
        let join = |node, peer| Join {
            node,
            peer,
            config: LinkConfig::default(),
            path: Box::new(Delay(ms(5))),
            control_delay: ms(5),
        };
        let relay_peer = peer(relay, Role::Relay, true, Vec::new());
        self.world.join(join(node, client), join(self.relays[relay], relay_peer)).0
    }

    pub(crate) fn relay<R>(&mut self, name: &str, act: impl FnOnce(Instant, &mut RelaySystem, &mut Ports) -> R) -> R {
        self.world.with(self.relays[name], act)
    }

    pub(crate) fn relay_node(&self, name: &str) -> NodeId {
        self.relays[name]
    }

    /// From now on nothing that leaves this end arrives.
    pub(crate) fn black_hole(&mut self, relay: &str, port: PortId) {
        let end = End { node: self.relays[relay], port };
        self.world.set_path(end, |_: Instant, _: &[u8]| None);
    }

    pub(crate) fn report(&mut self, name: &str) -> Report {
        self.relay(name, |now, system, ports| system.report(now, ports))
    }

    pub(crate) fn of_source<R>(&mut self, node: NodeId, act: impl FnOnce(&mut Source) -> R) -> R {
        self.world.with(node, |_, source: &mut Source, _| act(source))
    }

    pub(crate) fn of_sink<R>(&mut self, node: NodeId, act: impl FnOnce(&mut Sink) -> R) -> R {
        self.world.with(node, |_, sink: &mut Sink, _| act(sink))
    }

    pub(crate) fn run(&mut self, millis: u64) {
        self.world.run_for(ms(millis));
    }

    pub(crate) fn send(&mut self, source: NodeId, on: bool) -> u32 {
        self.world.with(source, |now, source: &mut Source, _| {
            source.sending = on;
            source.due = now;
            source.next_seq
        })
    }
}

pub(crate) fn peer(name: &str, role: Role, dialled: bool, grants: Vec<Grant>) -> Peer {
    let address = ([127, 0, 0, 1], 9).into();
    Peer { name: name.parse().expect("valid"), role, grants, address, dialled }
}

/// A right to all streams for an hour.
pub(crate) fn all(direction: Direction) -> Vec<Grant> {
    right(direction, "**", 3600)
}

pub(crate) fn right(direction: Direction, streams: &str, seconds: u64) -> Vec<Grant> {
    let streams = streams.parse().expect("valid");
    vec![Grant { id: "test".into(), streams, direction, max_rate: None, expires: UNIX + seconds }]
}
