//! Relays, sources and sinks in virtual time.

pub(crate) use crate::clients::{STREAM, Sink, Source, ms};
use crate::hostile::{Hostile, Vice};
use anabranch_relay::Report;
use anabranch_relay::config::Limits;
use anabranch_relay::system::{LinkOptions, Options, RelaySystem};
use link::{Instant, LinkConfig};
use node::control::{NAMED_LINKS, RECEIPTS, SURVEYS};
use node::testing::{Delay, End, Join, NodeId, World};
use node::trust::{Authority, Direction, Grant, Role, Seal};
use node::{EndSystem, Peer, PortId, Ports};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sink::playout::PlayoutConfig;
use sink::system::{Outlets, SinkSystem};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use topology::{LinkEnd, NodeName};

/// The wall clock of every node at the beginning, in seconds since 1970.
pub(crate) const UNIX: u64 = 1_800_000_000;

/// Relays by name, and the clients at them. Each node's clock runs an hour and more ahead of the one before.
pub(crate) struct Overlay {
    pub(crate) world: World,
    relays: BTreeMap<String, NodeId>,
    links: BTreeMap<(String, String), End>,
    lives: u64,
    nodes: u64,
    /// How much longer control messages take than media.
    pub(crate) control_lag: Duration,
    /// Of links between relays made from here on.
    pub(crate) config: LinkConfig,
    /// How much further ahead the clocks of nodes added from here on are.
    pub(crate) ahead: Duration,
    /// Signs the certificates of relays that are started from here on; without it nothing is signed.
    pub(crate) authority: Option<Authority>,
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
            config: LinkConfig::default(),
            ahead: Duration::ZERO,
            authority: None,
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
        let apart = Duration::from_secs(3600 * self.nodes) + Duration::from_micros(self.nodes * 777);
        self.world.add(system, apart + self.ahead)
    }

    /// Starts a relay, or starts it again.
    pub(crate) fn start(&mut self, name: &str) {
        self.lives += 1;
        self.start_at(name, self.lives * 1_000_000);
    }

    /// Starts a relay whose wall clock shows `boot`.
    pub(crate) fn start_at(&mut self, name: &str, boot: u64) {
        let node: NodeName = name.parse().expect("valid");
        let now = self.world.now() + Duration::from_secs(3600 * (self.nodes + 1)) + self.ahead;
        let options = Options {
            name: node,
            boot,
            limits: Limits::default(),
            source_grace: Duration::from_secs(10),
            links: BTreeMap::new(),
            seal: self.seal_of(name),
            unix: (now, UNIX),
        };
        let id = self.add(Hostile::honest(RelaySystem::new(options)));
        self.relays.insert(name.to_string(), id);
    }

    fn seal_of(&self, name: &str) -> Option<Rc<Seal>> {
        let authority = self.authority.as_ref()?;
        let name: NodeName = name.parse().expect("valid");
        let identity = authority.issue(&name, Role::Relay, UNIX, Duration::from_secs(86_400)).expect("issued");
        let credentials = authority.credentials(Some(&identity)).expect("made");
        credentials.seal().expect("readable").map(Rc::new)
    }

    /// Kills a relay: its connections are lost. What its neighbours do about it is up to them.
    pub(crate) fn kill(&mut self, name: &str) {
        let ends_there = |b: &str| end(b).relay.as_str() == name;
        let gone: Vec<_> = self.links.keys().filter(|(a, b)| a == name || ends_there(b)).cloned().collect();
        for key in gone {
            if let Some(end) = self.links.remove(&key) {
                self.world.sever(end);
            }
        }
        self.relays.remove(name);
    }

    /// A link of this delay, in milliseconds, dialled by `a`; `b` may name the link, as in `b~fibre`.
    pub(crate) fn link(&mut self, a: &str, b: &str, delay: u64) -> End {
        let end = self.link_measured(a, b, delay);
        let configured = LinkOptions { delay: Some(ms(delay)), cost: 10, ..LinkOptions::default() };
        let there = self::end(b);
        let back = there.from_other_end(&a.parse().expect("valid"));
        for (own, other) in [(a.to_owned(), there.clone()), (there.relay.to_string(), back)] {
            let options = configured.clone();
            self.relay(&own, |now, system, ports| system.set_link_options(now, other, options, ports));
        }
        end
    }

    /// A link of which no end is told the delay.
    pub(crate) fn link_measured(&mut self, a: &str, b: &str, delay: u64) -> End {
        let config = self.config;
        let LinkEnd { relay: other, link } = self::end(b);
        let b_node = self.relays[other.as_str()];
        let join = |name: &str, node, dialled: bool, control_delay| Join {
            node,
            peer: Peer { link: link.clone(), ..peer(name, Role::Relay, !dialled, Vec::new()) },
            config,
            path: Box::new(Delay(ms(delay))),
            control_delay,
        };
        let lag = ms(delay) + self.control_lag;
        let (end, _) = self.world.join(join(a, self.relays[a], true, lag), join(other.as_str(), b_node, false, lag));
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
        let node = self.idle_source(source);
        self.connect_source(relay, name, node, all(Direction::Publish));
        node
    }

    /// A source that is not connected yet.
    pub(crate) fn idle_source(&mut self, source: Source) -> NodeId {
        self.add(source)
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

    /// A sink of another stream.
    pub(crate) fn sink_of(&mut self, relay: &str, name: &str, stream: &'static str) -> NodeId {
        let node = self.add(Sink::default());
        self.of_sink(node, |sink| sink.other = Some(stream));
        self.connect(relay, node, peer(name, Role::Sink, false, all(Direction::Subscribe)));
        node
    }

    /// A real sink at a relay, and the relay's end of its link.
    pub(crate) fn real_sink<O: Outlets + 'static>(&mut self, relay: &str, name: &str, outlets: O) -> (NodeId, End) {
        let stream = (STREAM.parse().expect("valid"), PlayoutConfig::default());
        let node = self.add(SinkSystem::new([stream], outlets));
        let end = self.connect(relay, node, peer(name, Role::Sink, false, all(Direction::Subscribe)));
        let port =
            self.relay(relay, |_, _, ports| ports.iter().map(|(port, _, _)| port).max()).expect("just connected");
        debug_assert_eq!(end.node, node);
        (node, End { node: self.relays[relay], port })
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
        self.world.with(self.relays[name], |now, relay: &mut Hostile, ports| act(now, &mut relay.system, ports))
    }

    /// From now on a relay does what it should not, or again what it should.
    pub(crate) fn corrupt(&mut self, name: &str, vice: Option<Vice>) {
        self.world.with(self.relays[name], |now, relay: &mut Hostile, _| relay.corrupt(now, vice));
    }

    pub(crate) fn is_running(&self, name: &str) -> bool {
        self.relays.contains_key(name)
    }

    pub(crate) fn relay_node(&self, name: &str) -> NodeId {
        self.relays[name]
    }

    /// For so many milliseconds nothing gets from `a` to its neighbour `b`: neither media nor control messages, which come
    /// when it is over. Nobody is told.
    pub(crate) fn outage(&mut self, a: &str, b: &str, delay: u64, millis: u64) {
        self.lossy(a, b, delay, millis, 1.0, 0);
    }

    /// For so many milliseconds this share of what leaves `a` for `b` is lost.
    pub(crate) fn lossy(&mut self, a: &str, b: &str, delay: u64, millis: u64, share: f64, seed: u64) {
        let port = self.relay(a, |_, system, _| system.link(&self::end(b))).expect("linked");
        let end = End { node: self.relays[a], port };
        let until = self.world.now() + ms(millis);
        let mut random = StdRng::seed_from_u64(seed);
        self.world.set_path(end, move |now: Instant, _: &[u8]| {
            (now >= until || !random.random_bool(share)).then(|| now + ms(delay))
        });
        let mut random = StdRng::seed_from_u64(seed + 1);
        self.world.set_control_delay(end, move |now| {
            // A segment that is lost is sent again when a probe timeout has passed (RFC 9002).
            let mut at = now;
            let mut timeout = ms(delay * 3 + 25);
            while at < until && random.random_bool(share) {
                at += timeout;
                timeout *= 2;
            }
            at.saturating_since(now) + ms(delay)
        });
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

/// A link, as in `b` or `b~fibre`.
pub(crate) fn end(text: &str) -> LinkEnd {
    text.parse().expect("it names a link")
}

pub(crate) fn peer(name: &str, role: Role, dialled: bool, grants: Vec<Grant>) -> Peer {
    let address = ([127, 0, 0, 1], 9).into();
    Peer {
        name: name.parse().expect("valid"),
        role,
        grants,
        address,
        dialled,
        features: RECEIPTS | SURVEYS | NAMED_LINKS,
        link: None,
    }
}

/// A right to all streams for an hour.
pub(crate) fn all(direction: Direction) -> Vec<Grant> {
    right(direction, "**", 3600)
}

pub(crate) fn right(direction: Direction, streams: &str, seconds: u64) -> Vec<Grant> {
    let streams = streams.parse().expect("valid");
    vec![Grant { id: "test".into(), streams, direction, max_rate: None, expires: UNIX + seconds }]
}
