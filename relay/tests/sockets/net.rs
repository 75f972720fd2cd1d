//! Relays and clients on loopback, with an authority of their own.

use crate::clients::{Sink, Source, ms};
use anabranch_relay::server::{Loader, Reloads};
use anabranch_relay::{Config, Identity, Neighbour, Report};
use link::LinkConfig;
use node::clock::{Clock, unix_seconds};
use node::control::{Control, Hello, RECEIPTS, Receipt, VERSION};
use node::endpoint::{Endpoint, EndpointOptions};
use node::exit::Failure;
use node::trust::{Authority, Claims, Direction, Role, TokenIssuer};
use node::{EndSystem, Host};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use topology::NodeName;

/// How long anything may take before a test gives up; nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until something holds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(ms(10)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "in vain: {what}");
}

pub(crate) struct Net {
    authority: Authority,
    tokens: TokenIssuer,
    relays: BTreeMap<String, Running>,
    reserved: BTreeMap<String, SocketAddr>,
}

struct Running {
    config: Config,
    stop: watch::Sender<bool>,
    reload: mpsc::Sender<Result<Config, Failure>>,
    reports: watch::Receiver<Report>,
    task: Option<JoinHandle<Result<Report, Failure>>>,
}

impl Net {
    pub(crate) fn new() -> Net {
        let now = unix_seconds();
        let authority = Authority::trial(now).expect("an authority");
        let tokens = authority.token_issuer(now, Duration::from_secs(3600)).expect("a token key");
        Net { authority, tokens, relays: BTreeMap::new(), reserved: BTreeMap::new() }
    }

    /// a – b – c, at rest.
    pub(crate) async fn line() -> Net {
        let mut net = Net::new();
        net.start("a", &[]).await;
        net.start("b", &["a"]).await;
        net.start("c", &["b"]).await;
        net.linked(4).await;
        net
    }

    /// A configuration for a relay that has not been started.
    pub(crate) fn fresh(&self, name: &str) -> Config {
        let name: NodeName = name.parse().expect("valid");
        let day = Duration::from_secs(86_400);
        let identity = self.authority.issue(&name, Role::Relay, unix_seconds(), day).expect("a certificate");
        let credentials = self.authority.credentials(Some(&identity)).expect("credentials");
        let verifier = credentials.verifier();
        Config {
            listen: vec![self.reserved.get(name.as_str()).copied().unwrap_or(([127, 0, 0, 1], 0).into())],
            report_interval: ms(20),
            drain: ms(300),
            identity: Some(Identity { name, credentials, verifier }),
            ..Config::default()
        }
    }

    /// Puts the keys of a relay into a directory, where those of the authority are put as well.
    pub(crate) fn keys_in(&self, directory: &Path, name: &str) {
        let issued = self.authority.issue(&name.parse().expect("valid"), Role::Relay, unix_seconds(), ms(86_400_000));
        issued.and_then(|identity| identity.save(directory)).expect("it can be written");
        if !directory.join("authority.crt").exists() {
            self.authority.save(directory).expect("it can be written");
        }
    }

    /// An address that is free, for a relay of that name.
    pub(crate) async fn reserve(&mut self, name: &str) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
        let address = socket.local_addr().expect("it is bound");
        self.reserved.insert(name.to_string(), address);
        address
    }

    /// Starts a relay that dials others.
    pub(crate) async fn start(&mut self, name: &str, neighbours: &[&str]) -> SocketAddr {
        let addresses: Vec<SocketAddr> = neighbours.iter().map(|other| self.report(other).listen[0]).collect();
        self.start_with(name, |config| {
            config.neighbours = addresses.iter().map(|address| Neighbour::at(address.to_string())).collect();
        })
        .await
    }

    pub(crate) async fn start_with(&mut self, name: &str, tune: impl FnOnce(&mut Config)) -> SocketAddr {
        let mut config = self.fresh(name);
        tune(&mut config);
        self.launch(name, config, None).await
    }

    /// Starts a relay that can read its configuration anew.
    pub(crate) async fn start_loading(&mut self, name: &str, config: Config, load: Loader) -> SocketAddr {
        self.launch(name, config, Some(load)).await
    }

    async fn launch(&mut self, name: &str, config: Config, load: Option<Loader>) -> SocketAddr {
        let (stop, stopping) = watch::channel(false);
        let (reload, reloads) = mpsc::channel(1);
        let (report, mut reports) = watch::channel(Report::default());
        let run =
            anabranch_relay::server::run_reloading(config.clone(), stopping, report, Reloads { pushed: reloads, load });
        let task = Some(tokio::task::spawn_local(run));
        reports.wait_for(|report| report.ready).await.expect("it starts");
        let listen = reports.borrow().listen[0];
        let config = Config { listen: vec![listen], ..config };
        self.relays.insert(name.to_string(), Running { config, stop, reload, reports, task });
        listen
    }

    /// Runs a configuration that must fail.
    pub(crate) async fn fail(&self, config: Config) -> Failure {
        let (_stop, stopping) = watch::channel(false);
        let (report, _reports) = watch::channel(Report::default());
        anabranch_relay::run(config, stopping, report).await.expect_err("it must fail")
    }

    /// Stops a relay in the middle of whatever it does.
    pub(crate) fn kill(&mut self, name: &str) {
        let running = self.relays.get_mut(name).expect("it runs");
        running.task.take().expect("it runs").abort();
    }

    /// Starts a relay again as it was, at the same address, as soon as the system has that free again.
    pub(crate) async fn restart(&mut self, name: &str) {
        let config = self.relays[name].config.clone();
        let free = async {
            while UdpSocket::bind(config.listen[0]).await.is_err() {
                tokio::time::sleep(ms(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, free).await.expect("the address becomes free");
        self.launch(name, config, None).await;
    }

    pub(crate) fn config(&self, name: &str) -> Config {
        self.relays[name].config.clone()
    }

    pub(crate) async fn reload(&self, name: &str, config: Config) {
        self.relays[name].reload.send(Ok(config)).await.expect("it runs");
    }

    pub(crate) fn report(&self, name: &str) -> Report {
        self.relays[name].reports.borrow().clone()
    }

    /// Waits until every relay knows so many directed links.
    pub(crate) async fn linked(&self, links: usize) {
        until("all links are known everywhere", || {
            let alive = self.relays.values().filter(|relay| relay.task.is_some());
            alive.into_iter().all(|relay| relay.reports.borrow().overlay.links == links)
        })
        .await;
    }

    pub(crate) async fn linked_between(&self, a: &str, b: &str) {
        until("the link stands", || self.report(a).links.iter().any(|link| link.peer.relay.as_str() == b)).await;
    }

    pub(crate) fn begin_stop(&mut self, name: &str) -> JoinHandle<Result<Report, Failure>> {
        let running = self.relays.get_mut(name).expect("it runs");
        running.stop.send_replace(true);
        running.task.take().expect("it runs")
    }

    /// Stops every relay in good order.
    pub(crate) async fn stop_all(&mut self) {
        let running = self.relays.values_mut().filter_map(|relay| {
            relay.stop.send_replace(true);
            relay.task.take()
        });
        for task in running.collect::<Vec<_>>() {
            task.await.expect("no panic").expect("in good order");
        }
    }

    /// Its stream has a deadline that a busy machine does not miss.
    pub(crate) async fn source(&self, relay: &str, token: &str, mut source: Source) -> Client<Source> {
        source.publish.deadline_us = 10_000_000;
        self.client(relay, token, Direction::Publish, "**", source).await
    }

    pub(crate) async fn sink(&self, relay: &str, token: &str) -> Client<Sink> {
        self.client(relay, token, Direction::Subscribe, "**", Sink::default()).await
    }

    /// A source or sink at a relay, that comes with a token alone.
    pub(crate) async fn client<S: EndSystem + 'static>(
        &self,
        relay: &str,
        token: &str,
        direction: Direction,
        streams: &str,
        system: S,
    ) -> Client<S> {
        let credentials = self.authority.credentials(None).expect("credentials");
        let endpoint = Endpoint::bind(&EndpointOptions::default(), credentials).expect("a socket");
        let streams = streams.parse().expect("valid");
        let expires = unix_seconds() + 3600;
        let claims = Claims { id: token.to_string(), streams, direction, max_rate: None, expires };
        let hello = Hello {
            version: VERSION,
            features: RECEIPTS,
            role: if direction == Direction::Publish { Role::Source } else { Role::Sink },
            tokens: vec![self.tokens.issue(&claims).expect("a token")],
            agent: "test".to_string(),
            link: None,
        };
        let address = self.report(relay).listen[0].to_string();
        let session = endpoint.connect(&address, hello).await.expect("the relay answers");
        let host = Host::new(Clock::start(), system);
        host.attach(session, LinkConfig::default());
        Client { host, _endpoint: endpoint }
    }
}

/// A client that runs.
pub(crate) struct Client<S> {
    host: Host<S>,
    _endpoint: Endpoint,
}

impl<S: EndSystem + 'static> Client<S> {
    pub(crate) fn with<R>(&self, act: impl FnOnce(&mut S) -> R) -> R {
        self.host.with(|_, system, _| act(system))
    }
}

impl Client<Sink> {
    /// Waits until the stream is open.
    pub(crate) async fn ready(&self) {
        until("the stream is there", || self.with(|sink| !sink.open.is_empty())).await;
        // The label of the graph that has just been installed comes into force.
        tokio::time::sleep(ms(300)).await;
    }

    /// Tells the relay what became of the stream.
    pub(crate) fn report_back(&self, on_time: u64, missing: i64) {
        self.host.with(|_, sink, ports| {
            let (name, incarnation) =
                sink.open.values().map(|open| (open.name.clone(), open.incarnation)).next().expect("open");
            let (late, overflow, missed) = (0, 0, vec![(0, 3)]);
            let ages = vec![(0, 50), (13, 40)];
            let receipt = Receipt { name, incarnation, on_time, late, missing, overflow, missed, ages };
            ports.control(sink.port.expect("connected"), Control::Receipt(receipt));
        });
    }

    /// Waits until so many packets of a life have come.
    pub(crate) async fn have(&self, incarnation: u64, packets: usize) {
        let come = async {
            while self.with(|sink| sink.count(incarnation)) < packets {
                tokio::time::sleep(ms(10)).await;
            }
        };
        let all = tokio::time::timeout(PATIENCE, come).await.is_ok();
        assert!(all, "{} of {packets} packets came", self.with(|sink| sink.count(incarnation)));
    }
}

impl Client<Source> {
    pub(crate) fn next(&self) -> u32 {
        self.with(|source| source.next_seq)
    }

    /// Ends the stream.
    pub(crate) fn unpublish(&self) {
        self.host.with(|now, source, ports| source.unpublish(now, ports));
    }

    /// Sends packets, one a millisecond or so.
    pub(crate) async fn send(&self, packets: u32) {
        until("the relay takes the stream", || self.with(|source| source.handle.is_some())).await;
        let mut ticks = tokio::time::interval(ms(1));
        for _ in 0..packets {
            ticks.tick().await;
            self.host.with(|now, source, ports| source.handle_timeout(now, ports));
        }
    }
}
