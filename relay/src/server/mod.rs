//! The shell around the relay: sockets, neighbours, signals, reports.

mod dial;
mod operator;
mod sockets;
#[cfg(test)]
mod tests;

use crate::config::{Config, Identity, Neighbour};
use crate::events::Event;
use crate::ops::{self, Guard, Tally};
use crate::overrides::{self, Overrides};
use crate::report::{NeighbourReport, NeighbourState, ReloadReport, Report};
use crate::system::{Dial, LinkOptions, Options, RelaySystem};
use crate::view::Overview;
use dial::Dialler;
use futures_util::FutureExt;
use link::{Instant, LinkConfig};
use node::clock::{self, Clock};
use node::control::CloseCode;
use node::endpoint::{Endpoint, EndpointOptions, Session, Threads};
use node::exit::{Exit, Failure};
use node::trust::{Credentials, Role, Seal, TrustError};
use node::{Host, PortId};
use sockets::{From, Sockets};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use topology::{LinkEnd, NodeName};

/// Runs a relay until `shutdown` turns true, drains, and returns its last report. While it runs, `report` is renewed
/// every [`Config::report_interval`]; the first one with `ready` set names the bound addresses.
///
/// Must be awaited on a [`tokio::runtime::LocalRuntime`]. Dropping the future stops the relay
/// at once; to its neighbours its connections are lost.
pub async fn run(
    config: Config,
    shutdown: watch::Receiver<bool>,
    report: watch::Sender<Report>,
) -> Result<Report, Failure> {
    let (_, reloads) = mpsc::channel(1);
    run_reloading(config, shutdown, report, Reloads { pushed: reloads, load: None }).await
}

/// Whence a running relay gets a new configuration.
pub struct Reloads {
    /// Pushed by who runs it: a configuration, or why there is none.
    pub pushed: mpsc::Receiver<Result<Config, Failure>>,
    /// Reads it anew when that is asked for over the operations port; without it such a request is refused.
    pub load: Option<Loader>,
}

/// Reads a configuration.
pub type Loader = Box<dyn Fn() -> Result<Config, Failure>>;

/// As [`run`], and takes new configurations while it runs. What a neighbour's entry says of delay, cost and repair is
/// in force at once, without a packet lost; new entries are dialled; streams are taken off the links of entries that are gone, then these
/// are closed. Limits and times are in force from now on. What is bound to the start (addresses, keys, name) waits for a restart and is
/// named in the log. A configuration with a mistake changes nothing.
pub async fn run_reloading(
    config: Config,
    mut shutdown: watch::Receiver<bool>,
    report: watch::Sender<Report>,
    reloads: Reloads,
) -> Result<Report, Failure> {
    config.check().map_err(|what| Failure::new(Exit::Config, what))?;
    let mut relay = Relay::start(config, reloads.load).await?;
    let ops = relay.ops.take();
    let (order, orders) = mpsc::channel(1);
    let serving = ops.map(|listener| {
        let port = ops::Port {
            report: report.subscribe(),
            orders: order,
            events: relay.events.downgrade(),
            guard: relay.guard.subscribe(),
            tally: relay.tally.clone(),
        };
        tokio::task::spawn_local(ops::serve(listener, port))
    });
    let _serving = AbortOnDrop(serving);
    tracing::info!(relay = %relay.shared.name, listen = ?relay.listen, ops = ?relay.ops_address, "ready");
    let mut asked = Asked { pushed: reloads.pushed, orders };
    // A shutdown that nobody can ask for any more is one that is asked for.
    relay.work(&mut asked, async { drop(shutdown.wait_for(|stop| *stop).await) }, &report).await;
    relay.drain(&mut asked, &report).await;
    let last = relay.report();
    report.send_replace(last.clone());
    relay.close().await;
    Ok(last)
}

/// What a running relay is asked to do.
struct Asked {
    pushed: mpsc::Receiver<Result<Config, Failure>>,
    orders: mpsc::Receiver<ops::Order>,
}

/// What the tasks of one relay share.
struct Shared {
    name: NodeName,
    /// The configuration in force.
    config: RefCell<Config>,
    clock: Clock,
    host: Host<RelaySystem>,
    boot: u64,
    links_made: Cell<u64>,
    /// Those of the configuration in force; places of those that are gone are used again.
    neighbours: RefCell<Vec<Known>>,
    /// What the operator set of links, above the configuration.
    overrides: RefCell<Overrides>,
    /// Of these, what is to outlast a restart.
    kept: RefCell<Overrides>,
    /// Those that only dial.
    sockets: Sockets,
    /// Held by who writes these to their file.
    saving: tokio::sync::Mutex<()>,
}

/// A neighbour this relay was told of.
struct Known {
    configured: Neighbour,
    report: NeighbourReport,
    dialler: Option<AbortHandle>,
    /// Whether the configuration no longer has it.
    gone: bool,
}

struct Relay {
    shared: Rc<Shared>,
    endpoints: Vec<Endpoint>,
    listen: Vec<SocketAddr>,
    ops: Option<TcpListener>,
    ops_address: Option<SocketAddr>,
    /// What requests to the operations port must bring.
    guard: watch::Sender<Guard>,
    tally: Arc<Tally>,
    credentials: Credentials,
    started: Instant,
    draining: bool,
    /// It drains for good.
    stopping: bool,
    tasks: JoinSet<()>,
    loader: Option<Loader>,
    reloads: ReloadReport,
    events: broadcast::Sender<Arc<Event>>,
    /// How often the overlay was to be joined.
    joined: usize,
    /// Events so far.
    told: u64,
}

impl Relay {
    async fn start(config: Config, loader: Option<Loader>) -> Result<Relay, Failure> {
        let Identity { name, credentials, verifier } = identity(&config)?;
        let guard = config.ops_guard()?;
        let kept = config.state.as_deref().map(overrides::load).transpose()?.unwrap_or_default();
        for (peer, link) in &kept {
            tracing::info!(link = %peer, ?link, "set over the operations port earlier, above the configuration");
        }
        let threads = Threads::start(config.threads).map_err(|error| {
            Failure::new(Exit::Software, format!("cannot start {} threads: {error}", config.threads))
        })?;
        let mut endpoints = Vec::new();
        for listen in &config.listen {
            endpoints.push(bind(&config, &threads, *listen, config.path_mtu, &credentials)?);
        }
        let listen = endpoints.iter().map(Endpoint::local_address).collect();
        let ops = match config.ops {
            Some(address) => Some(bind_ops(address).await?),
            None => None,
        };
        if let Some(warning) = config.ops.and_then(|ops| config.access().warning(ops, &guard)) {
            tracing::warn!("{warning}");
        }
        let ops_address = ops.as_ref().and_then(|listener| listener.local_addr().ok());
        let clock = Clock::start();
        let boot = clock::unix_micros();
        let seal = credentials.seal().map_err(|error| Failure::new(Exit::Config, error.to_string()))?;
        let system = RelaySystem::new(options(&config, &kept, &name, boot, clock.now(), seal.map(Rc::new)));
        let shared = Rc::new(Shared {
            name,
            clock,
            host: Host::new(clock, system),
            boot,
            links_made: Cell::new(0),
            neighbours: RefCell::new(Vec::new()),
            overrides: RefCell::new(kept.clone()),
            kept: RefCell::new(kept),
            sockets: Sockets::new(threads, credentials.clone()),
            saving: tokio::sync::Mutex::new(()),
            config: RefCell::new(config),
        });
        let mut tasks = JoinSet::new();
        for endpoint in &endpoints {
            let (shared, endpoint, verifier) = (shared.clone(), endpoint.clone(), verifier.clone());
            tasks.spawn_local(async move {
                while let Some(session) = endpoint.accept(&verifier).await {
                    shared.attach(session);
                }
            });
        }
        let (anew, mut changes) = (shared.clone(), credentials.changes());
        tasks.spawn_local(async move {
            while changes.next().await {
                anew.host.with(|now, system, ports| system.sign_anew(now, ports));
            }
        });
        let (place, traits) = (shared.config.borrow().place(), shared.config.borrow().traits());
        let ts_health = shared.config.borrow().ts_health;
        shared.host.with(|now, system, ports| {
            system.set_ts_health(ts_health);
            system.set_place(place);
            system.set_traits(now, traits, ports);
        });
        let started = clock.now();
        let mut relay = Relay {
            shared,
            endpoints,
            listen,
            ops,
            ops_address,
            guard: watch::Sender::new(guard),
            tally: Arc::default(),
            credentials,
            started,
            draining: false,
            stopping: false,
            tasks,
            loader,
            reloads: ReloadReport::default(),
            events: broadcast::Sender::new(ops::events::KEPT),
            joined: 0,
            told: 0,
        };
        let neighbours = relay.shared.config.borrow().neighbours.clone();
        for neighbour in &neighbours {
            relay.keep(neighbour);
        }
        Ok(relay)
    }

    /// Does what it is asked to, and tells how it is, until then.
    async fn work(&mut self, asked: &mut Asked, until: impl Future<Output = ()>, report: &watch::Sender<Report>) {
        let mut until = pin!(until);
        let mut renew = self.renewals();
        let mut tell = tokio::time::interval(TELL_EVERY);
        tell.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = renew.tick() => {}
                _ = tell.tick() => {
                    self.tell();
                    self.dial_chosen();
                    continue;
                }
                // A task that is done takes room until it is asked for.
                Some(_) = self.tasks.join_next() => continue,
                // Why it was refused is in the log and in the report.
                Some(config) = asked.pushed.recv() => drop(self.reload(config)),
                Some(order) = asked.orders.recv() => self.obey(order),
                () = &mut until => break,
            }
            // Whoever has just changed something sees it at once.
            self.tell();
            report.send_replace(self.report());
            if renew.period() != self.shared.config.borrow().report_interval {
                renew = self.renewals();
            }
        }
    }

    /// When the report is to be renewed.
    fn renewals(&self) -> tokio::time::Interval {
        let mut renew = tokio::time::interval(self.shared.config.borrow().report_interval);
        renew.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        renew
    }

    /// Keeps a link to a neighbour from now on; returns its place.
    fn keep(&mut self, neighbour: &Neighbour) -> usize {
        let known = Known {
            configured: neighbour.clone(),
            report: NeighbourReport {
                address: neighbour.address.clone(),
                name: neighbour.name.clone(),
                link: neighbour.link.clone(),
                state: NeighbourState::Connecting,
                last_error: None,
                connections: 0,
            },
            dialler: None,
            gone: false,
        };
        let index = {
            let mut all = self.shared.neighbours.borrow_mut();
            match all.iter().position(|old| old.gone) {
                Some(free) => {
                    all[free] = known;
                    free
                }
                None => {
                    all.push(known);
                    all.len() - 1
                }
            }
        };
        if let Some(end) = neighbour.end() {
            self.shared.renew(&end);
        }
        self.dial(index);
        index
    }

    /// Dials a neighbour by its entry whenever there is no link to it, in place of whoever dialled it so far.
    fn dial(&mut self, index: usize) {
        let (configured, found) = {
            let mut known = self.shared.neighbours.borrow_mut();
            if let Some(old) = known[index].dialler.take() {
                old.abort();
            }
            (known[index].configured.clone(), known[index].report.name.clone())
        };
        let Some(address) = configured.address else { return };
        let path_mtu = configured.path_mtu.or(self.shared.config.borrow().path_mtu);
        let dialler = Dialler {
            shared: self.shared.clone(),
            index,
            address,
            expected: configured.name,
            found,
            link: configured.link,
            from: From { address: configured.bind, path_mtu },
        };
        let handle = self.tasks.spawn_local(dialler.run());
        self.shared.neighbours.borrow_mut()[index].dialler = Some(handle);
    }

    /// Dials whom the relay has chosen by itself, once each.
    fn dial_chosen(&mut self) {
        for dial in self.shared.host.with(|_, system, _| system.take_dials()) {
            let (address, name) = match dial {
                Dial::Relay { name, address } => (address, Some(name)),
                Dial::Join => {
                    let auto = self.shared.config.borrow().auto.clone();
                    let through = auto.map(|auto| auto.join).unwrap_or_default();
                    let Some(address) = through.get(self.joined % through.len().max(1)).cloned() else { continue };
                    self.joined += 1;
                    (address, None)
                }
            };
            self.tasks.spawn_local(dial::once(self.shared.clone(), address, name));
        }
    }

    /// Tells who listens what has changed.
    fn tell(&mut self) {
        let events = self.shared.host.with(|now, system, _| system.take_events(now));
        let unix_ms = clock::unix_micros() / 1000;
        for (ago, what) in events {
            self.told += 1;
            let unix_ms = unix_ms.saturating_sub(ago.as_millis() as u64);
            let event = Event { number: self.told, unix_ms, words: what.to_string(), what };
            // Nobody need listen.
            let _ = self.events.send(Arc::new(event));
        }
    }

    fn report(&self) -> Report {
        let now = self.shared.clock.now();
        let mut report = self.shared.host.with(|now, system, ports| {
            // The wall clock may have been set since.
            system.set_unix(now, clock::unix_seconds());
            system.report(now, ports)
        });
        report.uptime_s = now.saturating_since(self.started).as_secs_f64();
        report.behind_s = self.shared.host.time_behind().as_secs_f64();
        report.ready = true;
        report.version = env!("CARGO_PKG_VERSION");
        (report.certificate_expires, report.authority_expires) = self.credentials.expiry();
        report.draining = self.draining;
        report.listen = self.listen.clone();
        report.ops = self.ops_address;
        report.reloads = self.reloads.clone();
        report.refused.held_back = self.shared.host.control_held_back();
        report.refused.handshakes = self.endpoints.iter().map(Endpoint::handshakes_put_off).sum();
        report.ops_refused = self.tally.refusals();
        report.lines_dropped = node::lines::dropped();
        for link in report.links.iter_mut().filter(|link| link.role == Role::Relay) {
            link.set_by = self.shared.set_by(&link.peer);
        }
        report.neighbours = self.neighbours();
        report
    }

    /// The neighbours of the configuration, and how it stands with each.
    fn neighbours(&self) -> Vec<NeighbourReport> {
        let known = self.shared.neighbours.borrow();
        let mut neighbours: Vec<NeighbourReport> =
            known.iter().filter(|known| !known.gone).map(|known| known.report.clone()).collect();
        self.shared.host.with(|_, system, _| {
            let up = |end: LinkEnd| system.link(&end).is_some();
            let up = neighbours.iter_mut().filter(|neighbour| neighbour.end().is_some_and(up));
            up.for_each(|neighbour| neighbour.state = NeighbourState::Up);
        });
        neighbours
    }

    /// The overlay as an operator is shown it.
    fn overview(&self) -> Overview {
        let overview = self.shared.host.with(|now, system, ports| system.overview(now, ports));
        let uptime_s = self.shared.clock.now().saturating_since(self.started).as_secs_f64();
        Overview { uptime_s, neighbours: self.neighbours(), ..overview }
    }

    /// Goes on forwarding for a while, and answers as ever, so that the overlay can route around this relay.
    async fn drain(&mut self, asked: &mut Asked, report: &watch::Sender<Report>) {
        let drain = self.shared.config.borrow().drain;
        tracing::info!(relay = %self.shared.name, "stopping: draining for {drain:?}");
        (self.draining, self.stopping) = (true, true);
        self.shared.host.with(|now, system, ports| system.drain(now, ports));
        self.tell();
        report.send_replace(self.report());
        self.work(asked, tokio::time::sleep(drain), report).await;
    }

    async fn close(mut self) {
        self.tasks.shutdown().await;
        for endpoint in self.endpoints.iter().chain(&self.shared.sockets.all()) {
            endpoint.close(CloseCode::Stopping, "the relay is stopping").await;
        }
    }
}

impl Drop for Relay {
    /// A relay that is dropped before it was closed must not live on in the tasks of its connections.
    fn drop(&mut self) {
        if tokio::runtime::Handle::try_current().is_ok() {
            for endpoint in self.endpoints.iter().chain(&self.shared.sockets.all()) {
                // Closing is done at the first poll; what follows would wait for the peers.
                let _ = endpoint.close(CloseCode::Lost, "the relay was stopped at once").now_or_never();
            }
        }
    }
}

impl Shared {
    /// The endpoint to dial from.
    fn dial_from(&self, from: From) -> Result<Endpoint, Failure> {
        self.sockets.endpoint(&self.config.borrow(), from)
    }

    /// Gives a new connection to the relay.
    fn attach(&self, session: Session) -> PortId {
        let number = self.links_made.get();
        self.links_made.set(number + 1);
        let usual = if session.peer.role == Role::Relay { LinkConfig::default() } else { LinkConfig::leaf() };
        let config = LinkConfig {
            // Weyl's sequence: each link of each life of this relay has coefficients of its own.
            seed: self.boot.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            max_history: self.config.borrow().limits.max_history,
            takes_media: session.peer.role != Role::Sink,
            ..usual
        };
        self.host.attach(session, config)
    }

    fn update(&self, index: usize, change: impl FnOnce(&mut NeighbourReport)) {
        if let Some(neighbour) = self.neighbours.borrow_mut().get_mut(index) {
            change(&mut neighbour.report);
        }
    }
}

/// Stops the operations port with the relay.
struct AbortOnDrop(Option<tokio::task::JoinHandle<std::io::Result<()>>>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// Who the relay is: as given, or from its key directory.
pub(crate) fn identity(config: &Config) -> Result<Identity, Failure> {
    if let Some(identity) = &config.identity {
        return Ok(identity.clone());
    }
    let wrong = |what: &str| Failure::new(Exit::Config, what);
    let keys = config.keys.as_ref().ok_or_else(|| wrong("keys: expected the directory with this relay's keys"))?;
    let name =
        config.name.as_ref().ok_or_else(|| wrong("name: expected the name of this relay, as in its certificate"))?;
    let untrusted = |error: TrustError| Failure::new(Exit::Config, error.to_string());
    let credentials = Credentials::load(keys, Some(name)).map_err(untrusted)?;
    let name = match credentials.identity() {
        Some((found, Role::Relay)) if found == *name => found,
        Some((found, role)) => {
            let what = format!(
                "{}/{name}.crt: it is the certificate of {role} {found}; expected relay {name}",
                keys.display()
            );
            return Err(Failure::new(Exit::Config, what));
        }
        None => return Err(wrong("keys: no certificate of this relay")),
    };
    let verifier = credentials.verifier();
    Ok(Identity { name, credentials, verifier })
}

fn bind(
    config: &Config,
    threads: &Threads,
    listen: SocketAddr,
    udp_payload: Option<u16>,
    credentials: &Credentials,
) -> Result<Endpoint, Failure> {
    let (segmentation_offload, threads) = (config.segmentation_offload, threads.clone());
    let options = EndpointOptions { listen, udp_payload, segmentation_offload, threads };
    Endpoint::bind(&options, credentials.clone()).map_err(|error| Failure::new(Exit::Unavailable, error.to_string()))
}

async fn bind_ops(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address)
        .await
        .map_err(|error| Failure::new(Exit::Unavailable, format!("cannot listen on tcp {address} (ops): {error}")))
}

fn options(
    config: &Config,
    kept: &Overrides,
    name: &NodeName,
    boot: u64,
    now: Instant,
    seal: Option<Rc<Seal>>,
) -> Options {
    let named = config.neighbours.iter().filter_map(|neighbour| Some((neighbour.end()?, neighbour.into())));
    let mut links: BTreeMap<LinkEnd, LinkOptions> = named.collect();
    for (peer, link) in kept {
        let options = links.entry(peer.clone()).or_default();
        options.policy = link.apply(options.policy);
    }
    Options {
        name: name.clone(),
        boot,
        limits: config.limits.clone(),
        source_grace: config.source_grace,
        links,
        seal,
        unix: (now, clock::unix_seconds()),
    }
}

/// How often what has changed is told.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// Time between two attempts to reach a neighbour that refuses: its operator has to act first.
const REFUSED_EVERY: Duration = Duration::from_secs(15);
