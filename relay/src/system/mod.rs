//! The relay as an end system: who may publish and watch what, what is said to whom, and when. Pure.
//!
//! | file | what it decides |
//! |---|---|
//! | `neighbours` | links to relays: which connection of a pair survives, when a link counts as up, link state |
//! | `clients` | sources and sinks: rights, names, bounds |
//! | `streams` | what is carried: announcements, graphs, the end of a stream |
//! | `admission` | which streams fit the links, and what tokens use |
//! | `auto` | which relays are neighbours, where the operator leaves that to the relay |
//! | `blame` | which hop lost what a sink missed |
//! | `pull` | what is missing is asked for, and answered |
//! | `survey` | how a stream is at every relay of its graph |
//! | `health` | what is looked for in packets that have passed: how transport streams are, what other ways have saved |
//! | `watch` | trouble on the links into this relay |
//! | `line` | line tests from here and to here |
//! | `doubt` | a way whose links are well and on which nothing comes |
//! | `effect` | what repair on a link costs and brings |
//! | `past` | what a link was like over the last fifteen minutes |
//! | `overview` | what an operator is shown of the overlay |
//! | `shares` | how much of what there is for all one peer may take up |
//! | `paced` | how much a relay may say to all others |
//! | `owed` | what a neighbour is yet to be told |
//! | `signals` | what travels among the media, so that it arrives before them |
//! | [`plan`] | at the ingress: when graphs are computed and labels switched |
//! | [`carried`] | the graphs of one stream |

pub use auto::Dial;
pub use survey::{PATIENCE, Tracing};

pub mod carried;
pub mod plan;

mod admission;
mod allowance;
mod auto;
mod blame;
mod clients;
mod doubt;
mod effect;
mod health;
mod line;
mod neighbours;
mod overview;
mod owed;
mod paced;
mod past;
mod pull;
mod report;
mod rights;
mod shares;
mod signals;
mod statement;
mod streams;
mod survey;
mod watch;

use crate::config::{Limits, Neighbour};
use crate::directory::{Directory, Flood, Recipients};
use crate::events::{Log, What};
use crate::forward::signal::SIGNAL;
use crate::forward::{Forwarder, StreamKey};
use crate::report::{AdmissionCount, RefusalCounters, Usage};
use crate::sla::{Accounts, Sla};
use auto::Auto;
use blame::Question;
use carried::{Carried, StreamId};
use clients::{Published, Wanted};
use line::Lines;
use link::policy::Policy;
use link::{Delivery, Instant};
use node::control::{CloseCode, Control, NAMED_LINKS, Refusal};
use node::trust::{Grant, Role, Seal};
use node::{Closed, EndSystem, Peer, PortId, Ports};
use paced::{Paced, Statement};
use past::Past;
use shares::Shares;
use signals::{Echo, Neighbour as RelayPort, Taken};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;
use survey::Inquiry;
use topology::about::Place;
use topology::terms::Tag;
use topology::{LinkEnd, NodeName, StreamName};

/// How often links are looked at and what grew old is let go.
const TICK: Duration = Duration::from_millis(100);

/// How often the links to relays are listened to.
const LISTEN: Duration = Duration::from_millis(10);

/// How often streams that sinks watch here are looked through for what is missing.
const LOOK: Duration = Duration::from_millis(2);

/// How a relay is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its name, as in its certificate.
    pub name: NodeName,
    /// Its wall clock at start, in microseconds since 1970: orders its lives, nothing else.
    pub boot: u64,
    /// Bounds on what peers can make it hold.
    pub limits: Limits,
    /// How long a stream whose source vanished is kept for it to return.
    pub source_grace: Duration,
    /// What the operator says of links.
    pub links: BTreeMap<LinkEnd, LinkOptions>,
    /// Its key, and by what those of others are judged. Without it (in simulations) nothing is signed, and all is believed.
    pub seal: Option<Rc<Seal>>,
    /// A moment on the node's clock and the same in seconds since 1970: the expiry of rights is told from it.
    pub unix: (Instant, u64),
}

/// What the operator says of one link.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkOptions {
    /// One-way delay; measured where it is not given.
    pub delay: Option<Duration>,
    /// Cost relative to other links.
    pub cost: u32,
    /// Repair of what this relay sends.
    pub policy: Policy,
    /// What the link is marked with.
    pub tags: Vec<Tag>,
    /// Whether the configuration names the neighbour: such a link is never let go of by choice. What is set over the operations port
    /// does not make it so.
    pub configured: bool,
}

impl Default for LinkOptions {
    /// Of a link that no configuration speaks of.
    fn default() -> LinkOptions {
        let (cost, policy) = (crate::config::default_cost(), Policy::default());
        LinkOptions { delay: None, cost, policy, tags: Vec::new(), configured: false }
    }
}

impl From<&Neighbour> for LinkOptions {
    fn from(neighbour: &Neighbour) -> LinkOptions {
        let (policy, tags) = (neighbour.policy(), neighbour.tags.clone());
        LinkOptions { delay: neighbour.delay, cost: neighbour.cost, policy, tags, configured: true }
    }
}

/// What a relay tells of itself for routes to follow, and what its own streams would rather use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traits {
    /// What it is marked with.
    pub tags: Vec<Tag>,
    /// Where others can dial it.
    pub address: Option<String>,
    /// Whether it chooses its neighbours by itself, and how many links it has at most.
    pub auto: Option<usize>,
    /// What streams that enter there would rather use.
    pub policy: topology::sieve::Policy,
}

/// A relay without sockets, tasks or clocks; [`node::Host`] or the simulator runs it.
#[derive(Debug)]
pub struct RelaySystem {
    options: Options,
    forward: Forwarder,
    directory: Directory,
    ports: BTreeMap<PortId, Port>,
    /// The port of each link to a neighbouring relay, of which there may be several to one.
    relays: BTreeMap<LinkEnd, PortId>,
    carried: BTreeMap<StreamId, Carried>,
    /// On whose account they are.
    shares: Shares,
    /// How much each relay has said to all others.
    paced: Paced,
    /// When it last took a connection of a relay that has its own name.
    met_itself: Option<Instant>,
    /// What was taken of each relay's signals.
    taken: BTreeMap<NodeName, Taken>,
    published: BTreeMap<StreamName, Published>,
    /// What is admitted to the links must be counted anew.
    admission_stale: bool,
    /// What came in by tokens, streams that enter now left out.
    used: BTreeMap<String, Usage>,
    wanted: BTreeMap<StreamName, Wanted>,
    /// Streams to be let go, and whether they ended.
    closing: Vec<(Instant, StreamId, bool)>,
    /// Streams that ended lately: what still comes of them by other ways does not bring them back.
    ended: BTreeMap<StreamId, Ended>,
    /// Outputs that have just been opened.
    fresh: Vec<(StreamKey, PortId)>,
    /// Announcements to be repeated, by how often they were.
    echoes: [VecDeque<Echo>; 2],
    refused: RefusalCounters,
    /// What came of asking to publish or to watch.
    asked: Vec<AdmissionCount>,
    /// What the operator is to be told of.
    log: Log,
    /// What the links to neighbours were like.
    pasts: BTreeMap<LinkEnd, Past>,
    /// Links by which things come badly, and since when.
    troubled: BTreeMap<LinkEnd, Instant>,
    /// What each sink had of its streams.
    accounts: Accounts,
    /// Questions to other relays that are open.
    questions: BTreeMap<u32, Question>,
    next_question: u32,
    /// How streams are all along their graphs: who asks, by the asker and its number.
    inquiries: BTreeMap<(NodeName, u32), Inquiry>,
    next_inquiry: u32,
    /// Line tests.
    line: Lines,
    draining: bool,
    /// How neighbours are chosen, where that is left to this relay.
    auto: Option<Auto>,
    /// Links that are to carry nothing: the operator's word, which outlasts the connection.
    drained: BTreeSet<LinkEnd>,
    /// Links that this relay lets go of by itself, and since when streams are taken off them. Forgotten with the connection.
    leaving: BTreeMap<LinkEnd, Instant>,
    next_tick: Instant,
    ticks: u64,
    /// When links are next listened to.
    next_listening: Instant,
    /// When streams are next looked through for what is missing.
    next_look: Instant,
    /// Whether transport streams are looked at.
    looks_at_ts: bool,
    /// When packets that have passed are next looked at, and how often they were.
    next_looking: Instant,
    looks: usize,
    /// When a graph is to be computed or a label switched.
    plan_due: Option<Instant>,
    planned: u64,
    planned_boot: u64,
    /// The highest epoch of any stream that entered here.
    last_epoch: u16,
}

#[derive(Debug)]
struct Ended {
    at: Instant,
    /// Boot and epoch of its last graph.
    last: Option<(u64, u16)>,
}

#[derive(Debug)]
struct Port {
    peer: Peer,
    opened: Instant,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Relay(Box<RelayPort>),
    /// What it publishes or watches, and until when in seconds since 1970 it may.
    Client(BTreeMap<StreamName, u64>),
}

impl RelaySystem {
    /// A relay without neighbours.
    pub fn new(options: Options) -> RelaySystem {
        RelaySystem {
            forward: Forwarder::new(options.limits.max_stream_history),
            directory: Directory::new(options.name.clone(), options.boot, &options.limits, options.seal.clone()),
            options,
            ports: BTreeMap::new(),
            relays: BTreeMap::new(),
            carried: BTreeMap::new(),
            shares: Shares::default(),
            paced: Paced::default(),
            met_itself: None,
            taken: BTreeMap::new(),
            published: BTreeMap::new(),
            admission_stale: false,
            used: BTreeMap::new(),
            wanted: BTreeMap::new(),
            closing: Vec::new(),
            ended: BTreeMap::new(),
            fresh: Vec::new(),
            echoes: Default::default(),
            refused: RefusalCounters::default(),
            asked: Vec::new(),
            log: Log::default(),
            pasts: BTreeMap::new(),
            troubled: BTreeMap::new(),
            accounts: Accounts::default(),
            questions: BTreeMap::new(),
            next_question: 0,
            inquiries: BTreeMap::new(),
            next_inquiry: 0,
            line: Lines::default(),
            draining: false,
            auto: None,
            drained: BTreeSet::new(),
            leaving: BTreeMap::new(),
            next_tick: Instant::ORIGIN,
            next_listening: Instant::ORIGIN,
            next_look: Instant::ORIGIN,
            looks_at_ts: true,
            next_looking: Instant::ORIGIN,
            looks: 0,
            ticks: 0,
            plan_due: None,
            planned: u64::MAX,
            planned_boot: 0,
            last_epoch: 0,
        }
    }

    /// Its name.
    pub fn name(&self) -> &NodeName {
        self.directory.me()
    }

    /// When it last took a connection of a relay that has its own name: it has dialled itself, unless another has that name.
    pub fn met_itself(&self) -> Option<Instant> {
        self.met_itself
    }

    /// The port of a neighbouring relay, where a link to it stands; of several links the first, by their names.
    pub fn relay(&self, name: &NodeName) -> Option<PortId> {
        let mut from = self.relays.range(LinkEnd::from(name.clone())..);
        from.next().filter(|(end, _)| end.relay == *name).map(|(_, port)| *port)
    }

    /// Whether a relay keeps links by their names; `None` where no link to it stands.
    pub fn keeps_named_links(&self, name: &NodeName) -> Option<bool> {
        Some(self.ports.get(&self.relay(name)?)?.peer.features & NAMED_LINKS != 0)
    }

    /// The port of a link, where it stands.
    pub fn link(&self, end: &LinkEnd) -> Option<PortId> {
        self.relays.get(end).copied()
    }

    /// The links to relays that stand.
    pub fn links(&self) -> impl Iterator<Item = &LinkEnd> {
        self.relays.keys()
    }

    /// Changes what the operator says of a link; in force at once.
    pub fn set_link_options(&mut self, now: Instant, peer: LinkEnd, options: LinkOptions, ports: &mut Ports) {
        if let Some(port) = self.link(&peer)
            && let Some(link) = ports.link_mut(port)
            && link.policy() != options.policy
        {
            link.set_policy(now, options.policy);
            let stats = link.stats();
            self.log.note(now, What::PolicyChanged { peer: peer.clone(), policy: options.policy });
            if let Some(trail) = self.trail(port) {
                trail.restart(now, stats);
            }
        }
        match options == LinkOptions::default() {
            true => self.options.links.remove(&peer),
            false => self.options.links.insert(peer, options),
        };
        self.admission_stale = true;
        self.watch_links(now, ports);
        self.settle(now, ports);
    }

    /// This relay's key or certificate is another one: all that it has said is said again under it, for the day when the old one is believed no
    /// more.
    pub fn sign_anew(&mut self, now: Instant, ports: &mut Ports) {
        self.directory.sign_anew();
        self.published.values_mut().for_each(|published| published.plan.renew());
        self.plan_due = Some(now);
        self.settle(now, ports);
    }

    /// Changes what peers can make this relay hold, and how long it waits for a source that vanished. What is held already stays; the
    /// bounds on relays and on the history of streams are those of the start.
    pub fn set_limits(&mut self, limits: Limits, source_grace: Duration) {
        self.options.limits = limits;
        self.admission_stale = true;
        self.options.source_grace = source_grace;
    }

    /// Where this relay stands; the overlay is told.
    pub fn set_place(&mut self, place: Option<Place>) {
        self.directory.own().set_place(place);
    }

    /// What this relay is marked with, where it can be dialled, and what streams that enter here would rather use.
    pub fn set_traits(&mut self, now: Instant, traits: Traits, ports: &mut Ports) {
        let Traits { tags, address, auto, policy } = traits;
        self.directory.own().set_traits(tags, address, auto.is_some());
        self.set_auto(auto);
        if self.directory.set_policy(policy) {
            self.published.values_mut().for_each(|published| published.plan.outdate());
            self.plan_due = Some(now);
        }
        self.settle(now, ports);
    }

    /// Prepares to stop: the overlay is asked to route around this relay, new sources and sinks are refused.
    pub fn drain(&mut self, now: Instant, ports: &mut Ports) {
        if !std::mem::replace(&mut self.draining, true) {
            self.log.note(now, What::Draining { link: None });
        }
        self.directory.own().set_draining(true);
        self.settle(now, ports);
    }

    /// Takes streams off the link to a neighbour, or lets them on again. The link stands, and what is on its way over it
    /// arrives; the overlay is told that it is not there. Returns whether that changed anything: a link that is drained already stays so, and
    /// what is no neighbour cannot be drained.
    pub fn drain_link(&mut self, now: Instant, peer: &LinkEnd, drain: bool, ports: &mut Ports) -> bool {
        if drain && !self.relays.contains_key(peer) {
            return false;
        }
        let changed = if drain { self.drained.insert(peer.clone()) } else { self.drained.remove(peer) };
        if changed {
            let link = Some(peer.clone());
            self.log.note(now, if drain { What::Draining { link } } else { What::Resumed { link } });
        }
        self.watch_links(now, ports);
        self.settle(now, ports);
        changed
    }

    /// Ends what [`RelaySystem::drain`] began: streams may pass through this relay again.
    pub fn resume(&mut self, now: Instant, ports: &mut Ports) {
        if std::mem::replace(&mut self.draining, false) {
            self.log.note(now, What::Resumed { link: None });
        }
        self.directory.own().set_draining(false);
        self.settle(now, ports);
    }

    /// What the sinks of a stream here had of it; `None` where none has reported in the last day.
    pub fn sla(&self, now: Instant, stream: &StreamName) -> Option<Sla> {
        self.accounts.of(now, self.directory.me(), stream)
    }

    /// Notes what the shell does, among what the operator is told of.
    pub fn tell(&mut self, now: Instant, what: What) {
        self.log.note(now, what);
    }

    /// What the operator is to be told of since the last time, with its age.
    pub fn take_events(&mut self, now: Instant) -> Vec<(Duration, What)> {
        self.log.take(now)
    }

    /// Tells anew which moment on the node's clock is which time of day, after the wall clock was set.
    pub fn set_unix(&mut self, now: Instant, unix_seconds: u64) {
        self.options.unix = (now, unix_seconds);
    }

    fn unix(&self, now: Instant) -> u64 {
        self.options.unix.1 + now.saturating_since(self.options.unix.0).as_secs()
    }

    /// A message that the protocol does not allow from this peer: it is closed.
    fn violation(&mut self, port: PortId, what: &str, ports: &mut Ports) {
        self.refused.protocol += 1;
        ports.close(port, CloseCode::Protocol, what);
    }

    /// Follows what has changed: tells the neighbours, computes graphs, switches labels.
    fn settle(&mut self, now: Instant, ports: &mut Ports) {
        self.settle_admission(now);
        self.directory.handle_timeout(now);
        while let Some(Flood { news, to }) = self.directory.next_flood() {
            let mut wanted_by = Vec::new();
            for (end, port) in &self.relays {
                let wanted = match to {
                    Recipients::All => end.relay != news.origin,
                    Recipients::AllBut(from) => *port != from && end.relay != news.origin,
                    Recipients::Only(only) => *port == only,
                };
                if wanted {
                    wanted_by.push(*port);
                }
            }
            for port in wanted_by {
                self.signal(now, port, &news.message, ports);
                self.pass_on(port, &news.message, ports);
            }
        }
        let stale = self.planned != self.directory.generation() || self.planned_boot != self.directory.boot();
        if stale || self.plan_due.is_some_and(|due| due <= now) {
            if self.planned != self.directory.generation() {
                self.tell_refused(ports);
            }
            self.follow_plans(now, ports);
        }
        self.replay_to_fresh(now, ports);
    }

    /// Sends what has lately come of a stream to where it has begun to leave.
    fn replay_to_fresh(&mut self, now: Instant, ports: &mut Ports) {
        for (key, port) in std::mem::take(&mut self.fresh) {
            self.forward.replay(now, key, port, &mut self.line.tap(ports));
        }
    }

    fn tick(&mut self, now: Instant, ports: &mut Ports) {
        self.next_tick = now + TICK;
        self.ticks += 1;
        self.watch_links(now, ports);
        self.expire_held(now);
        self.take_waiting(now, ports);
        self.let_go(now, ports);
        self.ask_on(now, ports);
        self.choose_neighbours(now, ports);
        self.tick_line(now, ports);
        if self.ticks.is_multiple_of(10) {
            self.forward.expire_history(now);
            self.measure_last_miles(now, ports);
            self.expire_questions(now);
            self.expire_inquiries(now);
            self.accounts.expire(now);
            self.paced.expire(now);
            self.taken.retain(|_, taken| !taken.is_whole(now));
            self.expire_rights(now, ports);
        }
    }
}

impl EndSystem for RelaySystem {
    fn handle_opened(&mut self, now: Instant, port: PortId, ports: &mut Ports) {
        let Some(peer) = ports.peer(port).cloned() else { return };
        match peer.role {
            Role::Relay => self.open_relay(now, port, peer, ports),
            Role::Source | Role::Sink => self.open_client(now, port, peer, ports),
        }
        self.settle(now, ports);
    }

    #[inline]
    fn handle_delivery(&mut self, now: Instant, port: PortId, delivery: Delivery, ports: &mut Ports) {
        let forwarded = match self.line.is_idle() {
            true => self.forward.forward(now, port, delivery, ports),
            false => self.forward.forward(now, port, delivery, &mut self.line.tap(ports)),
        };
        if let Err(delivery) = forwarded {
            if delivery.stream == SIGNAL {
                self.take_signal(now, port, &delivery, ports);
            } else {
                self.hold(now, port, delivery);
            }
        }
    }

    fn handle_rights(&mut self, now: Instant, port: PortId, grants: Vec<Grant>, ports: &mut Ports) {
        self.renew_rights(now, port, grants, ports);
    }

    fn handle_control(&mut self, now: Instant, port: PortId, message: Control, ports: &mut Ports) {
        let Some(from) = self.ports.get(&port) else { return };
        match (from.peer.role, message) {
            (Role::Source, Control::Publish(publish)) => self.publish(now, port, publish, ports),
            (Role::Source, Control::Unpublish { name }) => self.unpublish(now, port, &name),
            (Role::Sink, Control::Subscribe { name }) => self.subscribe(now, port, name, ports),
            (Role::Sink, Control::Receipt(receipt)) => self.take_receipt(now, port, &receipt, ports),
            (Role::Sink, Control::Unsubscribe { name }) => self.unsubscribe(now, port, &name, ports),
            (
                Role::Relay,
                message @ (Control::StreamOpen(_)
                | Control::StreamClose { .. }
                | Control::Advertise(_)
                | Control::Trouble(_)
                | Control::Pull(_)
                | Control::Whence(_)
                | Control::Lost(_)
                | Control::Survey(_)
                | Control::Surveyed(_)
                | Control::Signed(_)
                | Control::Install(_)),
            ) => self.take_from_relay(now, port, message, ports),
            (_, Control::Goodbye { .. } | Control::Hello(_) | Control::Welcome(_) | Control::Refused(_)) => {}
            (role, _) => self.violation(port, &format!("a message that a {role:?} does not send"), ports),
        }
        self.settle(now, ports);
    }

    fn handle_closed(&mut self, now: Instant, port: PortId, peer: &Peer, closed: &Closed, ports: &mut Ports) {
        if self.ports.contains_key(&port) {
            let (peer, role, reason) = (peer.link_end(), peer.role, closed.reason.clone());
            if role == Role::Relay {
                self.note_parted(now, &peer, closed.code);
            }
            self.log.note(now, What::PeerGone { peer, role, reason });
        }
        self.detach(now, port);
        self.settle(now, ports);
    }

    fn handle_timeout(&mut self, now: Instant, ports: &mut Ports) {
        if now >= self.next_tick {
            self.tick(now, ports);
        }
        self.repeat_signals(now, ports);
        self.send_test(now, ports);
        if now >= self.next_listening {
            self.next_listening = now + LISTEN;
            self.listen(now, ports);
            self.pay_all(now, ports);
        }
        if now >= self.next_look {
            self.next_look = now + LOOK;
            self.ask_for_missing(now, ports);
        }
        if now >= self.next_looking {
            self.look_at_passed(now);
        }
        self.settle(now, ports);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let next = self.next_tick.min(self.directory.poll_timeout());
        let listening = (!self.relays.is_empty()).then_some(self.next_listening);
        let look = (listening.is_some() && !self.wanted.is_empty()).then_some(self.next_look);
        let due = [self.plan_due, self.repeat_due(), self.line.due(), self.looking_due(), listening, look];
        due.into_iter().flatten().chain([next]).min()
    }
}

impl RelaySystem {
    /// What only relays tell each other.
    fn take_from_relay(&mut self, now: Instant, port: PortId, message: Control, ports: &mut Ports) {
        match message {
            Control::StreamOpen(open) => self.stream_open(now, port, open, ports),
            Control::StreamClose { handle, ended } => self.stream_close(now, port, handle, ended, ports),
            Control::Pull(pull) => self.pulled(now, port, &pull, ports),
            Control::Whence(whence) => self.asked_whence(now, port, &whence, ports),
            Control::Lost(lost) => self.take_lost(now, port, &lost, ports),
            message @ (Control::Survey(_) | Control::Surveyed(_)) => self.take_survey(now, port, message, ports),
            statement => self.take_statement(now, port, statement, ports),
        }
    }

    /// What a relay says to all others, from itself or passed on.
    fn take_statement(&mut self, now: Instant, port: PortId, message: Control, ports: &mut Ports) {
        let opened = match self.directory.opened(&message, self.unix(now)) {
            Ok(opened) => opened,
            Err(why) => {
                self.refused.forged += 1;
                if let Some(Port { peer, kind: Kind::Relay(neighbour), .. }) = self.ports.get_mut(&port)
                    && neighbour.complains(now)
                {
                    tracing::warn!(from = %peer.name, why, "a statement is not believed; more of them are only counted");
                }
                return;
            }
        };
        let statement = Statement { from: port, said: opened, message: Rc::new(message) };
        let taken = self.take_at_pace(now, statement, ports);
        self.refused.protocol += u64::from(!taken);
    }
}

fn refusal(code: CloseCode, reason: impl Into<String>) -> Refusal {
    Refusal { code, reason: reason.into() }
}
