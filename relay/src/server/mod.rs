//! The shell around the relay: sockets, neighbours, signals, reports.

mod dial;

use crate::config::{Config, Identity, Neighbour};
use crate::ops::{self, Order};
use crate::report::{NeighbourReport, NeighbourState, Report};
use crate::system::{LinkOptions, Options, RelaySystem};
use dial::Dialler;
use futures_util::FutureExt;
use link::{Instant, LinkConfig};
use node::clock::{self, Clock};
use node::control::CloseCode;
use node::endpoint::{Endpoint, EndpointOptions, Session};
use node::exit::{Exit, Failure};
use node::trust::{Credentials, Role, Seal, TrustError};
use node::{Host, PortId};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use topology::NodeName;

/// Runs a relay until `shutdown` turns true, drains, and returns its last report. While it runs, `report` is renewed
/// every [`Config::report_interval`]; the first one with `ready` set names the bound addresses.
///
/// Must be awaited inside a [`tokio::task::LocalSet`] on a current-thread runtime. Dropping the future stops the relay
/// at once; to its neighbours its connections are lost.
pub async fn run(
    config: Config,
    shutdown: watch::Receiver<bool>,
    report: watch::Sender<Report>,
) -> Result<Report, Failure> {
    let (_, reloads) = mpsc::channel(1);
    run_reloading(config, shutdown, report, reloads).await
}

/// As [`run`], and takes new configurations while it runs. What a neighbour's entry says of delay, cost and repair is
/// in force at once, without a packet lost; new entries are dialled; all else, and entries that are gone, wait for a
/// restart and are named in the log.
pub async fn run_reloading(
    config: Config,
    mut shutdown: watch::Receiver<bool>,
    report: watch::Sender<Report>,
    mut reloads: mpsc::Receiver<Config>,
) -> Result<Report, Failure> {
    config.check().map_err(|what| Failure::new(Exit::Config, what))?;
    let mut relay = Relay::start(config).await?;
    let mut renew = tokio::time::interval(relay.shared.config.report_interval);
    renew.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let ops = relay.ops.take();
    let (order, mut orders) = mpsc::channel(1);
    let serving = ops.map(|listener| tokio::task::spawn_local(ops::serve(listener, report.subscribe(), order)));
    let _serving = AbortOnDrop(serving);
    tracing::info!(relay = %relay.shared.name, listen = ?relay.listen, ops = ?relay.ops_address, "ready");
    loop {
        tokio::select! {
            _ = renew.tick() => {
                report.send_replace(relay.report());
            }
            Some(config) = reloads.recv() => relay.reload(config),
            Some(order) = orders.recv() => relay.obey(order),
            // A shutdown that nobody can ask for any more is one that is asked for.
            _ = shutdown.wait_for(|stop| *stop) => break,
        }
    }
    relay.drain(&report).await;
    let last = relay.report();
    report.send_replace(last.clone());
    relay.close().await;
    Ok(last)
}

/// What the tasks of one relay share.
struct Shared {
    name: NodeName,
    config: Config,
    clock: Clock,
    host: Host<RelaySystem>,
    boot: u64,
    links_made: Cell<u64>,
    neighbours: RefCell<Vec<NeighbourReport>>,
    /// What the configuration in force says of each of them, in the same order.
    link_options: RefCell<Vec<LinkOptions>>,
}

struct Relay {
    shared: Rc<Shared>,
    endpoints: Vec<Endpoint>,
    listen: Vec<SocketAddr>,
    ops: Option<TcpListener>,
    ops_address: Option<SocketAddr>,
    /// Those that only dial, by the MTU of their paths.
    dialling: BTreeMap<Option<u16>, Endpoint>,
    credentials: Credentials,
    started: Instant,
    draining: bool,
    tasks: JoinSet<()>,
}

impl Relay {
    async fn start(config: Config) -> Result<Relay, Failure> {
        let Identity { name, credentials, verifier } = identity(&config)?;
        let mut endpoints = Vec::new();
        for listen in &config.listen {
            endpoints.push(bind(&config, *listen, config.path_mtu, &credentials)?);
        }
        let listen = endpoints.iter().map(Endpoint::local_address).collect();
        let ops = match config.ops {
            Some(address) => Some(bind_ops(address).await?),
            None => None,
        };
        let ops_address = ops.as_ref().and_then(|listener| listener.local_addr().ok());
        let clock = Clock::start();
        let boot = clock::unix_micros();
        let seal = credentials.seal().map_err(|error| Failure::new(Exit::Config, error.to_string()))?;
        let system = RelaySystem::new(options(&config, &name, boot, clock.now(), seal.map(Rc::new)));
        let shared = Rc::new(Shared {
            name,
            clock,
            host: Host::new(clock, system),
            boot,
            links_made: Cell::new(0),
            neighbours: RefCell::new(Vec::new()),
            link_options: RefCell::new(Vec::new()),
            config,
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
        let started = clock.now();
        let mut relay = Relay {
            shared,
            endpoints,
            listen,
            ops,
            ops_address,
            dialling: BTreeMap::new(),
            credentials,
            started,
            draining: false,
            tasks,
        };
        for neighbour in relay.shared.config.neighbours.clone() {
            relay.keep(&neighbour)?;
        }
        Ok(relay)
    }

    /// Keeps a link to a neighbour from now on.
    fn keep(&mut self, neighbour: &Neighbour) -> Result<(), Failure> {
        let index = self.shared.neighbours.borrow().len();
        self.shared.link_options.borrow_mut().push(LinkOptions::from(neighbour));
        self.shared.neighbours.borrow_mut().push(NeighbourReport {
            address: neighbour.address.clone(),
            name: neighbour.name.clone(),
            state: NeighbourState::Connecting,
            last_error: None,
            connections: 0,
        });
        if let Some(address) = &neighbour.address {
            let path_mtu = neighbour.path_mtu.or(self.shared.config.path_mtu);
            let dialler = Dialler {
                shared: self.shared.clone(),
                index,
                address: address.clone(),
                expected: neighbour.name.clone(),
                endpoint: self.dialling_endpoint(path_mtu)?,
            };
            self.tasks.spawn_local(dialler.run());
        }
        Ok(())
    }

    /// The endpoint to dial from over paths of this MTU.
    fn dialling_endpoint(&mut self, path_mtu: Option<u16>) -> Result<Endpoint, Failure> {
        if let Some(endpoint) = self.dialling.get(&path_mtu) {
            return Ok(endpoint.clone());
        }
        let any = EndpointOptions::default().listen;
        let endpoint = bind(&self.shared.config, any, path_mtu, &self.credentials)?;
        self.dialling.insert(path_mtu, endpoint.clone());
        Ok(endpoint)
    }

    fn reload(&mut self, config: Config) {
        if let Err(what) = config.check() {
            tracing::error!(error = what, "the new configuration is wrong: the old one stays in force");
            return;
        }
        for neighbour in &config.neighbours {
            let known = self.shared.neighbours.borrow().iter().position(|known| {
                (known.address.is_some() && known.address == neighbour.address)
                    || (known.name.is_some() && known.name == neighbour.name)
            });
            match known {
                Some(index) => self.shared.renew(index, neighbour),
                None => {
                    tracing::info!(address = ?neighbour.address, name = ?neighbour.name, "a new neighbour");
                    if let Err(failure) = self.keep(neighbour) {
                        tracing::error!(error = %failure, "the new neighbour cannot be dialled");
                    }
                }
            }
        }
        tracing::info!("configuration reloaded: neighbours are in force, all else waits for a restart");
    }

    /// Takes streams off this relay or one of its links, or lets them on again.
    fn obey(&mut self, Order { link, drain, done }: Order) {
        tracing::info!(?link, drain, "the operator asks");
        let did = self.shared.host.with(|now, system, ports| match &link {
            Some(link) => system.drain_link(now, link, drain, ports),
            None if drain => {
                system.drain(now, ports);
                true
            }
            None => {
                system.resume(now, ports);
                true
            }
        });
        if link.is_none() {
            self.draining = drain;
        }
        // Who asked may have gone away.
        let _ = done.send(did);
    }

    fn report(&self) -> Report {
        let now = self.shared.clock.now();
        let mut report = self.shared.host.with(|now, system, ports| {
            // The wall clock may have been set since.
            system.set_unix(now, clock::unix_seconds());
            system.report(now, ports)
        });
        report.uptime_s = now.saturating_since(self.started).as_secs_f64();
        report.ready = true;
        report.draining = self.draining;
        report.listen = self.listen.clone();
        report.ops = self.ops_address;
        report.neighbours = self.shared.neighbours.borrow().clone();
        for neighbour in &mut report.neighbours {
            let up = |name: &NodeName| report.links.iter().any(|link| link.peer == *name && link.role == Role::Relay);
            if neighbour.name.as_ref().is_some_and(up) {
                neighbour.state = NeighbourState::Up;
            }
        }
        report
    }

    /// Goes on forwarding for a while, so that the overlay can route around this relay.
    async fn drain(&mut self, report: &watch::Sender<Report>) {
        tracing::info!(relay = %self.shared.name, "stopping: draining for {:?}", self.shared.config.drain);
        self.draining = true;
        self.shared.host.with(|now, system, ports| system.drain(now, ports));
        report.send_replace(self.report());
        tokio::time::sleep(self.shared.config.drain).await;
    }

    async fn close(mut self) {
        self.tasks.shutdown().await;
        for endpoint in self.endpoints.iter().chain(self.dialling.values()) {
            endpoint.close(CloseCode::Stopping, "the relay is stopping").await;
        }
    }
}

impl Drop for Relay {
    /// A relay that is dropped before it was closed must not live on in the tasks of its connections.
    fn drop(&mut self) {
        if tokio::runtime::Handle::try_current().is_ok() {
            for endpoint in self.endpoints.iter().chain(self.dialling.values()) {
                // Closing is done at the first poll; what follows would wait for the peers.
                let _ = endpoint.close(CloseCode::Lost, "the relay was stopped at once").now_or_never();
            }
        }
    }
}

impl Shared {
    /// Gives a new connection to the relay.
    fn attach(&self, session: Session) -> PortId {
        let number = self.links_made.get();
        self.links_made.set(number + 1);
        let relay = session.peer.role == Role::Relay;
        let config = LinkConfig {
            idle_probe_interval: if relay { LinkConfig::PROBES } else { LinkConfig::LEAF_IDLE_PROBES },
            // Weyl's sequence: each link of each life of this relay has coefficients of its own.
            seed: self.boot.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            max_history: self.config.limits.max_history,
            ..LinkConfig::default()
        };
        self.host.attach(session, config)
    }

    /// What the configuration says of a known neighbour is in force from now on, and for its next connections.
    fn renew(&self, index: usize, neighbour: &Neighbour) {
        let options = LinkOptions::from(neighbour);
        self.link_options.borrow_mut()[index] = options.clone();
        let known = self.neighbours.borrow()[index].name.clone();
        if let Some(name) = neighbour.name.clone().or(known) {
            self.set_link_options(name, options);
        }
    }

    fn set_link_options(&self, peer: NodeName, options: LinkOptions) {
        self.host.with(|now, system, ports| system.set_link_options(now, peer, options, ports));
    }

    fn update(&self, index: usize, change: impl FnOnce(&mut NeighbourReport)) {
        if let Some(neighbour) = self.neighbours.borrow_mut().get_mut(index) {
            change(neighbour);
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
        Some((found, Role::Relay)) if found == name => name.clone(),
        Some((found, role)) => {
            let what = format!(
                "{}/{name}.crt: it is the certificate of {role} {found}; expected relay {name}",
                keys.display()
            );
            return Err(Failure::new(Exit::Config, what));
        }
        None => return Err(wrong("keys: no certificate of this relay")),
    };
    let verifier = credentials.verifier().map_err(untrusted)?;
    Ok(Identity { name, credentials, verifier })
}

fn bind(
    config: &Config,
    listen: SocketAddr,
    udp_payload: Option<u16>,
    credentials: &Credentials,
) -> Result<Endpoint, Failure> {
    let options = EndpointOptions { listen, udp_payload, segmentation_offload: config.segmentation_offload };
    Endpoint::bind(&options, credentials.clone()).map_err(|error| Failure::new(Exit::Unavailable, error.to_string()))
}

async fn bind_ops(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address)
        .await
        .map_err(|error| Failure::new(Exit::Unavailable, format!("cannot listen on tcp {address} (ops): {error}")))
}

fn options(config: &Config, name: &NodeName, boot: u64, now: Instant, seal: Option<Rc<Seal>>) -> Options {
    let links = config.neighbours.iter();
    let links: BTreeMap<NodeName, LinkOptions> =
        links.filter_map(|neighbour| Some((neighbour.name.clone()?, LinkOptions::from(neighbour)))).collect();
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

/// Time between two attempts to reach a neighbour that refuses: its operator has to act first.
const REFUSED_EVERY: Duration = Duration::from_secs(15);
