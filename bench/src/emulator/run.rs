//! The emulator's thread: waits for datagrams, the next due time and commands, all at once.

use super::plan::{Action, Event, LinkPlan, Plan};
use super::socket::{Outgoing, Received, Room, UdpPort, headers};
use super::wire::{Exit, InFlight, Wire};
use super::{DirectionSnapshot, LinkSnapshot, Snapshot};
use crate::channel::{Channel, ChannelConfig, Direction, seed_for};
use bytes::Bytes;
use hdrhistogram::Histogram;
use link::Instant;
use node::clock::Clock;
use rustix::event::{PollFd, PollFlags, Timespec};
use slab::Slab;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io::{self, Read};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

/// What the handle asks of the thread. A link is named by its place in the plan.
#[derive(Debug)]
pub(super) enum Command {
    Act { link: usize, direction: Option<Direction>, action: Action },
    Retarget { link: usize, target: Option<SocketAddr> },
    Add { link: Box<LinkPlan>, reply: mpsc::Sender<io::Result<SocketAddr>> },
    Snapshot { reply: mpsc::Sender<Snapshot> },
    Stop,
}

/// A client unheard of for so long, and not spoken to, is forgotten.
const CLIENT_IDLE: Duration = Duration::from_secs(180);
/// Most clients of one link.
const MAX_CLIENTS: usize = 4096;
/// Batches taken from one socket before the others have their turn.
const ROUNDS: usize = 4;
/// Longest sleep: clients are swept now and then.
const MAX_SLEEP: Duration = Duration::from_secs(5);

/// Everything the thread owns.
pub(super) struct Runner {
    seed: u64,
    clock: ScriptClock,
    links: Vec<EmulatedLink>,
    wire: Wire,
    script: Script,
    commands: mpsc::Receiver<Command>,
    wake: UnixStream,
    /// What the last wait found ready: the waker, then each link's port and its clients' sockets.
    ready: Vec<bool>,
    room: Room,
    batch: Vec<u8>,
    lag: Histogram<u64>,
    kernel_dropped: u64,
    swept: Instant,
}

struct EmulatedLink {
    plan: LinkPlan,
    port: UdpPort,
    target: Option<SocketAddr>,
    clients: Slab<Client>,
    by_address: HashMap<SocketAddr, usize>,
    /// Indexed by [`Direction`]; shared with the links that go through this one.
    ways: [Shared<Way>; 2],
}

/// Held by several links of one thread.
struct Shared<T>(Arc<Mutex<T>>);

impl<T> Shared<T> {
    fn new(value: T) -> Shared<T> {
        Shared(Arc::new(Mutex::new(value)))
    }

    fn lock(&self) -> MutexGuard<'_, T> {
        // One thread uses it, whole calls at a time.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Shared<T> {
        Shared(self.0.clone())
    }
}

/// Someone who sent to a link, and the socket under which the target knows it.
struct Client {
    address: SocketAddr,
    upstream: UdpPort,
    last_used: Instant,
}

struct Way {
    channel: Channel,
    in_flight: u64,
    in_flight_bytes: u64,
}

/// A clock whose origin is the start of the emulator, to which scripts and outages refer.
#[derive(Clone, Copy)]
struct ScriptClock {
    clock: Clock,
    start: Instant,
}

impl ScriptClock {
    fn start() -> ScriptClock {
        let clock = Clock::start();
        ScriptClock { clock, start: clock.now() }
    }

    fn now(&self) -> Instant {
        Instant::ORIGIN + (self.clock.now() - self.start)
    }
}

/// Events to come, and those that have happened.
struct Script {
    events: Vec<Event>,
    due: BinaryHeap<Reverse<(Instant, usize)>>,
    happened: Vec<(Duration, String)>,
}

impl Runner {
    /// Binds every link; nothing runs yet.
    pub(super) fn new(
        plan: &Plan,
        commands: mpsc::Receiver<Command>,
        wake: UnixStream,
    ) -> Result<Runner, (String, io::Error)> {
        let mut links = Vec::with_capacity(plan.links.len());
        for link in &plan.links {
            let bound = EmulatedLink::bind(plan.seed, link, &links);
            links.push(bound.map_err(|e| (format!("{} at {}", link.name, link.listen), e))?);
        }
        Ok(Runner {
            seed: plan.seed,
            swept: Instant::ORIGIN,
            script: Script::new(plan.events.clone()),
            clock: ScriptClock::start(),
            links,
            wire: Wire::default(),
            commands,
            wake,
            ready: Vec::new(),
            room: Room::new(),
            batch: Vec::new(),
            lag: Histogram::new_with_bounds(1, 10_000_000, 3).expect("the bounds are in order"),
            kernel_dropped: 0,
        })
    }

    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.links.iter().map(|link| link.port.local()).collect()
    }

    /// Runs until told to stop.
    pub(super) fn run(mut self) {
        loop {
            let now = self.clock.now();
            while let Some((event, link)) = self.script.next(now, &self.links) {
                self.act(now, link, event.direction, &event.action);
            }
            if !self.take_commands() {
                return;
            }
            self.send_due();
            self.sweep();
            self.wait();
            self.receive();
        }
    }

    fn send_due(&mut self) {
        loop {
            let now = self.clock.now();
            let Some(first) = self.wire.pop(now) else { return };
            self.lag.saturating_record((now - first.due).as_micros() as u64);
            self.send_run(now, first);
        }
    }

    /// Sends a datagram, and with it those that are due, go the same way and have its size.
    fn send_run(&mut self, now: Instant, first: InFlight) {
        let link = &mut self.links[first.exit.link];
        let mut way = link.ways[first.exit.direction as usize].lock();
        let port = match first.exit.direction {
            Direction::Forward => link.clients.get(first.exit.client).map(|client| &client.upstream),
            Direction::Backward => Some(&link.port),
        };
        let (size, to, ecn) = (first.datagram.payload.len(), first.datagram.to, first.datagram.ecn);
        way.landed(size);
        self.batch.clear();
        self.batch.extend_from_slice(&first.datagram.payload);
        let most = port.map_or(1, |port| port.most_at_once()).min(60_000 / size.max(1));
        let mut count = 1;
        while count < most && self.batch.len() == count * size {
            let fits = |next: &InFlight| {
                let datagram = &next.datagram;
                next.due <= now
                    && next.exit == first.exit
                    && (datagram.to, datagram.ecn) == (to, ecn)
                    && (1..=size).contains(&datagram.payload.len())
            };
            let Some(next) = self.wire.pop_if(fits) else { break };
            way.landed(next.datagram.payload.len());
            self.batch.extend_from_slice(&next.datagram.payload);
            count += 1;
        }
        // A client that was forgotten takes its datagrams with it.
        if let Some(port) = port
            && !port.send(to, ecn, &self.batch, size)
        {
            self.kernel_dropped += count as u64;
        }
    }

    fn wait(&mut self) {
        let now = self.clock.now();
        let next = [self.wire.next_due(), self.script.next_due()].into_iter().flatten().min();
        let sleep = next.map_or(MAX_SLEEP, |next| next - now).min(MAX_SLEEP);
        let timeout = Timespec { tv_sec: sleep.as_secs() as i64, tv_nsec: i64::from(sleep.subsec_nanos()) };
        let mut fds = vec![PollFd::new(&self.wake, PollFlags::IN)];
        for link in &self.links {
            fds.push(PollFd::new(link.port.socket(), PollFlags::IN));
            fds.extend(link.clients.iter().map(|(_, client)| PollFd::new(client.upstream.socket(), PollFlags::IN)));
        }
        // An interrupted wait is a short one.
        let _ = rustix::event::poll(&mut fds, Some(&timeout));
        self.ready.clear();
        self.ready.extend(fds.iter().map(|fd| !fd.revents().is_empty()));
    }

    /// Reads what [`Runner::wait`] found ready. Descriptors come in the same order; a client made on the way was not asked for.
    fn receive(&mut self) {
        let Runner { links, wire, room, clock, ready, wake, .. } = self;
        let mut ready = ready.iter().copied();
        let mut is_ready = || ready.next().unwrap_or_default();
        let mut bytes = [0u8; 64];
        if is_ready() {
            while wake.read(&mut bytes).is_ok_and(|n| n > 0) {}
        }
        for (index, link) in links.iter_mut().enumerate() {
            let now = clock.now();
            let port_ready = is_ready();
            link.receive_backward(index, now, room, wire, &mut is_ready);
            if port_ready {
                link.receive_forward(index, now, room, wire);
            }
        }
    }

    /// `false` when the thread is to stop.
    fn take_commands(&mut self) -> bool {
        loop {
            let now = self.clock.now();
            match self.commands.try_recv() {
                Ok(Command::Act { link, direction, action }) => self.act(now, link, direction, &action),
                Ok(Command::Retarget { link, target }) => self.links[link].retarget(target),
                Ok(Command::Add { link, reply }) => {
                    let bound = EmulatedLink::bind(self.seed, &link, &self.links);
                    let _ = reply.send(bound.map(|link| {
                        self.links.push(link);
                        self.links[self.links.len() - 1].port.local()
                    }));
                }
                Ok(Command::Snapshot { reply }) => {
                    let _ = reply.send(self.snapshot(now));
                }
                Ok(Command::Stop) | Err(mpsc::TryRecvError::Disconnected) => return false,
                Err(mpsc::TryRecvError::Empty) => return true,
            }
        }
    }

    fn act(&mut self, now: Instant, link: usize, direction: Option<Direction>, action: &Action) {
        let link = &mut self.links[link];
        if *action == Action::Rebind {
            link.rebind();
        }
        for way in Direction::BOTH.into_iter().filter(|way| direction.is_none_or(|only| only == *way)) {
            let start = link.plan.channel(way).clone();
            let channel = &mut link.ways[way as usize].lock().channel;
            let changed = action.apply(channel.config(), &start);
            channel.set_config(now, changed);
        }
    }

    fn sweep(&mut self) {
        let now = self.clock.now();
        if now - self.swept < CLIENT_IDLE / 4 {
            return;
        }
        self.swept = now;
        for link in &mut self.links {
            let EmulatedLink { clients, by_address, .. } = link;
            clients.retain(|_, client| {
                let stays = now - client.last_used < CLIENT_IDLE;
                if !stays {
                    by_address.remove(&client.address);
                }
                stays
            });
        }
    }

    fn snapshot(&self, now: Instant) -> Snapshot {
        Snapshot {
            at: now - Instant::ORIGIN,
            links: self.links.iter().map(EmulatedLink::snapshot).collect(),
            happened: self.script.happened.clone(),
            lag_p99: Duration::from_micros(self.lag.value_at_quantile(0.99)),
            lag_max: Duration::from_micros(self.lag.max()),
            kernel_dropped: self.kernel_dropped,
        }
    }
}

impl EmulatedLink {
    /// `others` are the links that stand before, one of which the plan may go through.
    fn bind(seed: u64, plan: &LinkPlan, others: &[EmulatedLink]) -> io::Result<EmulatedLink> {
        let way = |direction| {
            let config: ChannelConfig = plan.channel(direction).clone();
            let channel = Channel::new(config, seed_for(seed, &plan.name, direction));
            Shared::new(Way { channel, in_flight: 0, in_flight_bytes: 0 })
        };
        let path = plan.through.as_ref().and_then(|path| others.iter().find(|link| link.plan.name == *path));
        let ways = path.map_or_else(|| Direction::BOTH.map(way), |path| path.ways.clone());
        Ok(EmulatedLink {
            port: UdpPort::bind(plan.listen)?,
            target: plan.target,
            clients: Slab::new(),
            by_address: HashMap::new(),
            ways,
            plan: plan.clone(),
        })
    }

    fn receive_forward(&mut self, link: usize, now: Instant, room: &mut Room, wire: &mut Wire) {
        let EmulatedLink { port, clients, by_address, ways, target, .. } = self;
        let Some(target) = *target else {
            // Nowhere to go yet: what comes is lost, and must not pile up in the socket.
            while matches!(port.receive(room, |_| {}), Ok(1..)) {}
            return;
        };
        let mut way = ways[Direction::Forward as usize].lock();
        for _ in 0..ROUNDS {
            let taken = port.receive(room, |received| {
                let Some(client) = client_of(clients, by_address, received.from, target, now) else { return };
                way.offer(now, target, &received, Exit { link, client, direction: Direction::Forward }, wire);
            });
            if !matches!(taken, Ok(1..)) {
                return;
            }
        }
    }

    fn receive_backward(
        &mut self,
        link: usize,
        now: Instant,
        room: &mut Room,
        wire: &mut Wire,
        is_ready: &mut impl FnMut() -> bool,
    ) {
        let EmulatedLink { clients, ways, target, .. } = self;
        let mut way = ways[Direction::Backward as usize].lock();
        for (index, client) in clients.iter_mut() {
            if !is_ready() {
                continue;
            }
            let Client { address, upstream, last_used } = client;
            for _ in 0..ROUNDS {
                let taken = upstream.receive(room, |received| {
                    if Some(received.from) == *target {
                        *last_used = now;
                        let exit = Exit { link, client: index, direction: Direction::Backward };
                        way.offer(now, *address, &received, exit, wire);
                    }
                });
                if !matches!(taken, Ok(1..)) {
                    break;
                }
            }
        }
    }

    /// Gives every client a new socket towards the target. What is on its way to the old ones is lost, as in life.
    fn rebind(&mut self) {
        for (_, client) in self.clients.iter_mut() {
            let any = unspecified(client.upstream.local());
            if let Ok(upstream) = UdpPort::bind(any) {
                client.upstream = upstream;
            }
        }
    }

    fn retarget(&mut self, target: Option<SocketAddr>) {
        if target.is_some_and(|new| self.target.is_some_and(|old| old.is_ipv4() != new.is_ipv4())) {
            self.clients.clear();
            self.by_address.clear();
        }
        self.target = target;
    }

    fn snapshot(&self) -> LinkSnapshot {
        let way = |direction| {
            let way = self.ways[direction as usize].lock();
            DirectionSnapshot {
                counters: way.channel.counters(),
                in_flight: way.in_flight,
                in_flight_bytes: way.in_flight_bytes,
                cut: way.channel.config().cut,
            }
        };
        LinkSnapshot {
            name: self.plan.name.clone(),
            clients: self.clients.len(),
            forward: way(Direction::Forward),
            backward: way(Direction::Backward),
        }
    }
}

/// The client at `address`, which is made where it is new; `None` where there are too many or no socket is to be had.
fn client_of(
    clients: &mut Slab<Client>,
    by_address: &mut HashMap<SocketAddr, usize>,
    address: SocketAddr,
    target: SocketAddr,
    now: Instant,
) -> Option<usize> {
    if let Some(&client) = by_address.get(&address) {
        clients[client].last_used = now;
        return Some(client);
    }
    if clients.len() >= MAX_CLIENTS {
        return None;
    }
    let upstream = UdpPort::bind(unspecified(target)).ok()?;
    let client = clients.insert(Client { address, upstream, last_used: now });
    by_address.insert(address, client);
    Some(client)
}

fn unspecified(like: SocketAddr) -> SocketAddr {
    if like.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() }
}

impl Way {
    fn offer(&mut self, now: Instant, to: SocketAddr, received: &Received<'_>, exit: Exit, wire: &mut Wire) {
        let fate = self.channel.offer(now, received.payload.len() + headers(to));
        let mut payload = None;
        for due in fate.arrivals() {
            let payload = payload.get_or_insert_with(|| Bytes::copy_from_slice(received.payload)).clone();
            self.in_flight += 1;
            self.in_flight_bytes += payload.len() as u64;
            wire.push(due, exit, Outgoing { to, ecn: received.ecn, payload });
        }
    }

    fn landed(&mut self, bytes: usize) {
        self.in_flight -= 1;
        self.in_flight_bytes -= bytes as u64;
    }
}

impl Script {
    fn new(events: Vec<Event>) -> Script {
        let due = events.iter().enumerate().map(|(index, e)| Reverse((Instant::ORIGIN + e.at, index))).collect();
        Script { events, due, happened: Vec::new() }
    }

    fn next_due(&self) -> Option<Instant> {
        self.due.peek().map(|next| next.0.0)
    }

    /// The next event that has come due, with the place of its link.
    fn next(&mut self, now: Instant, links: &[EmulatedLink]) -> Option<(Event, usize)> {
        let Reverse((at, index)) = *self.due.peek()?;
        if at > now {
            return None;
        }
        self.due.pop();
        let event = self.events[index].clone();
        if let Some(every) = event.every {
            self.due.push(Reverse((at + every, index)));
        }
        if self.happened.len() >= 1000 {
            self.happened.remove(0);
        }
        self.happened.push((at - Instant::ORIGIN, event.to_string()));
        let link = links.iter().position(|link| link.plan.name == event.link)?;
        Some((event, link))
    }
}
