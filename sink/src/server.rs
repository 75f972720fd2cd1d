//! The shell around the sink: sockets, relays, outputs, reports.

mod reload;

use crate::config::{Config, Identity};
use crate::connection::{Connector, Status};
use crate::fanout::{FanOut, wait_until};
use crate::output::Outputs;
use crate::playout::PlayoutConfig;
use crate::report::{LinkReport, ReloadReport, Report, StreamState};
use crate::system::SinkSystem;
use link::Instant;
use node::Host;
use node::clock::Clock;
use node::control::CloseCode;
use node::endpoint::{Endpoint, EndpointOptions};
use node::exit::{Exit, Failure};
use node::ops::Watched;
use node::payload::KeyFiles;
use node::trust::{Credentials, Role, TokenFile, TrustError};
use std::cell::RefCell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};

/// How long outputs may take at the end to write what they hold: a pipe that nobody reads must not hold up the exit.
const FLUSH_PATIENCE: Duration = Duration::from_secs(10);

/// Runs a sink until `shutdown` turns true, until it can do no more, or, with [`Config::until_end`], until its streams
/// have ended; then plays out what it holds, flushes its outputs, and returns its last report. While it runs, `report`
/// is renewed every [`Config::report_interval`].
///
/// The failure says why it stopped: [`Exit::Unavailable`] no relay answered, or an address to listen at was taken;
/// [`Exit::Refused`] the relay refuses this sink, or all of its streams for good or before they were ever served, or does not know them; [`Exit::CannotCreate`] an
/// output could not be made; [`Exit::Io`] writing failed on an output. One output that fails stops the sink only when no
/// other is left; the failure is returned all the same, at the end.
///
/// Must be awaited on a [`tokio::runtime::LocalRuntime`]. Dropping the future stops the sink at
/// once; what its outputs have accepted is still written.
pub async fn run(
    config: Config,
    shutdown: watch::Receiver<bool>,
    report: watch::Sender<Report>,
) -> Result<Report, Failure> {
    let (_, reloads) = mpsc::channel(1);
    run_reloading(config, shutdown, report, reloads).await
}

/// As [`run`], and takes new configurations while it runs, or why there is none. Outputs of its streams are added, taken away and changed; what is not
/// touched loses nothing. All else waits for a restart, and is named in the log. A configuration with a mistake changes nothing.
pub async fn run_reloading(
    config: Config,
    mut shutdown: watch::Receiver<bool>,
    report: watch::Sender<Report>,
    mut reloads: mpsc::Receiver<Result<Config, Failure>>,
) -> Result<Report, Failure> {
    let served = config.metrics.serve(report.subscribe()).await?;
    let (sink, mut payload_keys, mut tokens) = Sink::start(config, served)?;
    let renewing = sink.renew(&mut tokens);
    tokio::pin!(renewing);
    let following = sink.follow(&mut payload_keys);
    tokio::pin!(following);
    let rereading = sink.reread(&mut reloads, &report);
    tokio::pin!(rereading);
    let connecting = sink.connector()?.run();
    tokio::pin!(connecting);
    let mut tick = tokio::time::interval(sink.config.report_interval);
    let verdict = loop {
        tokio::select! {
            _ = shutdown.wait_for(|stop| *stop) => break Ok(()),
            failure = &mut connecting => break Err(failure),
            never = &mut following => match never {},
            never = &mut renewing => match never {},
            () = sink.changed.notified() => {}
            () = sink.waited() => {}
            never = &mut rereading => match never {},
            _ = tick.tick() => {
                report.send_replace(sink.report());
            }
        }
        if let Some(verdict) = sink.verdict() {
            break verdict;
        }
    };
    // The connection goes on while what is held plays out: repairs may still come.
    let playing_out = sink.play_out();
    tokio::pin!(playing_out);
    if verdict.is_err() {
        playing_out.await;
    } else {
        tokio::select! {
            () = &mut playing_out => {}
            _ = &mut connecting => playing_out.await,
        }
    }
    let verdict = sink.finish(verdict).await;
    let last = sink.report();
    report.send_replace(last.clone());
    verdict.map(|()| last)
}

struct Sink {
    config: Config,
    clock: Clock,
    started: Instant,
    /// The port of the metrics, if there is one.
    served: Watched,
    /// What it shows to relays.
    tokens: Rc<RefCell<Vec<String>>>,
    endpoint: Endpoint,
    host: Host<SinkSystem<FanOut>>,
    status: Status,
    /// Makes outputs, and keeps the servers for players running.
    outputs: Arc<Mutex<Outputs>>,
    reloads: RefCell<ReloadReport>,
    /// Notified when a stream or an output changes its state.
    changed: Arc<Notify>,
}

impl Sink {
    /// Everything is made before anything is sent: a sink that cannot do its work says so at once.
    fn start(config: Config, served: Watched) -> Result<(Sink, KeyFiles, TokenFile), Failure> {
        config.check().map_err(|what| Failure::new(Exit::Config, what))?;
        let (credentials, tokens) = identity(&config)?;
        let clock = Clock::start();
        let changed = Arc::new(Notify::new());
        let endpoint = bind(&config, &credentials)?;
        let mut outputs = Outputs::new(clock, changed.clone());
        let fanout = FanOut::open(&config.streams, &mut outputs, changed.clone())?;
        let streams = config.streams.iter().map(|stream| {
            let min_latency = stream.latency.unwrap_or_default();
            (stream.name.clone(), PlayoutConfig { min_latency, ..PlayoutConfig::default() })
        });
        let mut system = SinkSystem::new(streams, fanout);
        let mut payload_keys = KeyFiles::default();
        for (index, stream) in config.streams.iter().enumerate() {
            let Some(file) = config.payload_key_of(stream) else { continue };
            let keys = payload_keys.add(index, file);
            let keys = keys.map_err(|error| Failure::new(Exit::Config, format!("payload_key: {error}")))?;
            system.seal(index, keys, config.allow_clear);
        }
        let host = Host::new(clock, system);
        let started = clock.now();
        let sink = Sink {
            config,
            clock,
            started,
            served,
            tokens: Rc::new(RefCell::new(tokens.tokens().to_vec())),
            endpoint,
            host,
            status: Status::new(started),
            outputs: Arc::new(Mutex::new(outputs)),
            reloads: RefCell::default(),
            changed,
        };
        Ok((sink, payload_keys, tokens))
    }

    /// Opens with the keys that the key files hold, from the next packet after a change on.
    async fn follow(&self, files: &mut KeyFiles) -> Infallible {
        loop {
            for (stream, keys) in files.changed().await {
                self.host.with(|_, system, _| system.set_payload_keys(stream, keys));
            }
        }
    }

    /// Shows other tokens, to the relay that serves and at every connection from then on, once the token file holds them.
    async fn renew(&self, file: &mut TokenFile) -> Infallible {
        loop {
            let tokens = file.changed().await;
            if self.host.show_tokens(&tokens) > 0 {
                tracing::warn!("the relay is of an older version: it is shown the new tokens at the next connection");
            }
            *self.tokens.borrow_mut() = tokens;
            self.host.with(|now, system, ports| system.ask_again(now, ports));
        }
    }

    fn connector(&self) -> Result<Connector, Failure> {
        Ok(Connector {
            endpoint: self.endpoint.clone(),
            host: self.host.clone(),
            clock: self.clock,
            config: self.config.clone(),
            tokens: self.tokens.clone(),
            status: self.status.clone(),
        })
    }

    /// Returns when streams that were never seen have been waited for long enough; never where none is waited for.
    async fn waited(&self) {
        let pending = self.host.with(|_, system, _| self.indices().any(|index| !system.was_seen(index)));
        match self.wait_ends().filter(|at| pending && *at > self.clock.now()) {
            Some(at) => tokio::time::sleep_until(self.clock.to_tokio(at)).await,
            None => std::future::pending().await,
        }
    }

    /// Until when a stream is waited for that was never seen; `None` before there is a relay.
    fn wait_ends(&self) -> Option<Instant> {
        self.status.first().map(|first| first + self.config.wait)
    }

    fn indices(&self) -> std::ops::Range<usize> {
        0..self.config.streams.len()
    }

    /// Whether the sink has come to its end, and to which.
    fn verdict(&self) -> Option<Result<(), Failure>> {
        self.host.with(|now, system, _| {
            if system.outlets().all_stopped() {
                return Some(Ok(()));
            }
            let waited = self.wait_ends().is_some_and(|at| at <= now);
            let fates: Vec<Fate> = self.indices().map(|index| self.fate(system, now, index, waited)).collect();
            if fates.iter().all(|fate| matches!(fate, Fate::Refused | Fate::Unknown)) {
                return Some(Ok(()));
            }
            let over = |fate: &Fate| *fate != Fate::Open;
            (self.config.until_end && fates.iter().all(over) && system.is_drained()).then_some(Ok(()))
        })
    }

    /// Asks for no more, and waits until what is held is released.
    async fn play_out(&self) {
        self.host.with(|_, system, ports| system.unsubscribe(ports));
        let longest = self.host.with(|now, system, _| {
            let latencies = system.reports(now).into_iter().map(|stream| stream.latency_ms);
            latencies.fold(0.0, f64::max)
        });
        let patience = Duration::from_secs_f64(longest / 1e3) + Duration::from_millis(100);
        wait_until(patience, || self.host.with(|_, system, _| system.is_drained())).await;
    }

    /// Flushes and closes everything; adds to the verdict what went wrong with streams and outputs.
    async fn finish(&self, verdict: Result<(), Failure>) -> Result<(), Failure> {
        let refused = self.refusals();
        self.host.with(|_, system, _| system.outlets_mut().close());
        let flushed = || self.host.with(|_, system, _| system.outlets().unfinished().is_empty());
        wait_until(FLUSH_PATIENCE, flushed).await;
        let (mut failures, stuck) =
            self.host.with(|_, system, _| (system.outlets().failures(), system.outlets().unfinished()));
        failures.extend(stuck.iter().map(|name| format!("output {name}: what was left for it could not be written")));
        self.status.stop(self.clock.now());
        self.host.close_all(CloseCode::Done, "the sink is stopping").await;
        self.endpoint.close(CloseCode::Done, "the sink is stopping").await;
        verdict?;
        match (failures.is_empty(), refused.is_empty()) {
            (true, true) => Ok(()),
            (false, _) => Err(Failure::new(Exit::Io, failures.join("; "))),
            (true, false) => Err(Failure::new(Exit::Refused, refused.join("; "))),
        }
    }

    /// What is to be said of streams that were refused or never came.
    fn refusals(&self) -> Vec<String> {
        let wait = humantime::format_duration(self.config.wait);
        self.host.with(|now, system, _| {
            let waited = self.wait_ends().is_some_and(|at| at <= now);
            let say = |index: usize| {
                let name = &self.config.streams[index].name;
                match self.fate(system, now, index, waited) {
                    Fate::Refused => {
                        let reason = system.refusal(index).map_or("", |refusal| refusal.reason.as_str());
                        Some(format!("stream {name} refused: {reason}"))
                    }
                    Fate::Unknown => Some(system.trouble(index).map_or_else(
                        || format!("unknown stream {name}: no packet of it within {wait}; is its source publishing?"),
                        |trouble| format!("stream {name}: no packet of it could be used within {wait}: {trouble}"),
                    )),
                    Fate::Open | Fate::Ended => None,
                }
            };
            self.indices().filter_map(say).collect()
        })
    }

    fn fate(&self, system: &SinkSystem<FanOut>, now: Instant, index: usize, waited: bool) -> Fate {
        let seen = system.was_seen(index);
        match system.state(now, index) {
            // What was served may be again.
            Some(StreamState::Refused) if system.may_be_served(index) && (seen || !waited) => Fate::Open,
            Some(StreamState::Refused) => Fate::Refused,
            Some(StreamState::Ended) => Fate::Ended,
            // It ended while no relay was there to say so.
            Some(StreamState::Silent) if system.absent_for(now, index) >= self.config.wait => Fate::Ended,
            Some(StreamState::Waiting) if waited => Fate::Unknown,
            _ => Fate::Open,
        }
    }

    fn report(&self) -> Report {
        let connection = |now| self.status.report(now);
        let port = self.status.port();
        let behind_s = self.host.time_behind().as_secs_f64();
        self.host.with(|now, system, ports| {
            let mut streams = system.reports(now);
            for (index, stream) in streams.iter_mut().enumerate() {
                stream.outputs = system.outlets().reports(index);
            }
            let link = port.and_then(|port| ports.link(port));
            Report {
                uptime_s: now.saturating_since(self.started).as_secs_f64(),
                behind_s,
                metrics: self.served.address(),
                connection: connection(now),
                streams,
                unclaimed: system.unclaimed(),
                reloads: self.reloads.borrow().clone(),
                link: link.map(|link| LinkReport::new(&link.stats(), &link.quality(now))),
            }
        })
    }
}

/// What is to be expected of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Open,
    Ended,
    Refused,
    /// It was waited for long enough.
    Unknown,
}

fn bind(config: &Config, credentials: &Credentials) -> Result<Endpoint, Failure> {
    let bind_to = |listen: SocketAddr| {
        let options = EndpointOptions { listen, udp_payload: config.path_mtu, ..EndpointOptions::default() };
        Endpoint::bind(&options, credentials.clone())
    };
    // A dual-stack socket reaches relays of both kinds; without IPv6 on the machine, IPv4 must do.
    let any_v6 = SocketAddr::from(([0u16; 8], 0));
    let any_v4 = SocketAddr::from(([0u8; 4], 0));
    bind_to(any_v6)
        .or_else(|_| bind_to(any_v4))
        .map_err(|error| Failure::new(Exit::Unavailable, format!("cannot open a UDP socket: {error}")))
}

/// Who the sink is: as given, or from files and the environment.
fn identity(config: &Config) -> Result<(Credentials, TokenFile), Failure> {
    let unread = |error: TrustError| Failure::new(Exit::Config, format!("token_file {error}"));
    if let Some(Identity { credentials, tokens }) = config.identity.clone() {
        return Ok((credentials, TokenFile::open(None, tokens).map_err(unread)?));
    }
    let refused = |error: &dyn std::fmt::Display| Failure::new(Exit::Config, format!("keys: {error}"));
    let keys = config.keys.as_deref().ok_or_else(|| {
        refused(&"expected the directory with authority.crt, as `anabranch-relay keys` makes it (--keys DIR)")
    })?;
    let credentials = Credentials::load(keys, config.name.as_ref()).map_err(|error| refused(&error))?;
    if let Some((name, role)) = credentials.identity().filter(|(_, role)| *role != Role::Sink) {
        return Err(refused(&format!("the certificate of {name} is one of a {role}; expected one of a sink")));
    }
    let tokens = TokenFile::open(config.token_file.as_deref(), std::env::var("ANABRANCH_TOKEN")).map_err(unread)?;
    if tokens.tokens().is_empty() && config.name.is_none() {
        let expected = "neither a certificate (name) nor a token (token_file, or ANABRANCH_TOKEN): \
                        a relay would not know what this sink may watch";
        return Err(Failure::new(Exit::Config, expected));
    }
    Ok((credentials, tokens))
}
