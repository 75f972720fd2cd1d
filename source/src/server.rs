//! The shell around the source: relays, reconnection, inputs, reports.

mod dial;

use crate::config::{Config, Priority};
use crate::ingest::{Feed, Opened};
use crate::report::{ConnectionReport, ConnectionState, LinkReport, Report, StreamState};
use crate::system::{SourceSystem, StreamIndex, StreamOptions};
use dial::{Dialled, Dialler, NotDialled};
use link::Instant;
use link::stats::LinkStats;
use node::clock::Clock;
use node::control::CloseCode;
use node::exit::{Exit, Failure};
use node::ops::Watched;
use node::payload::KeyFiles;
use node::trust::TokenFile;
use node::{Host, PortId};
use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use topology::lsdb::Incarnation;

/// How often it is looked whether there is something to say or to stop for.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How long a source that stops waits for the end of its streams to be taken in.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// Runs a source until `shutdown` turns true or every input has ended, and returns its last report. While it runs,
/// `report` is renewed every [`Config::report_interval`], and when a connection or a stream changes its state.
///
/// Fails where no relay answers within [`Config::connect_timeout`] of the start, where the first answer to everything is
/// a refusal, where an input cannot be opened or read, and, with [`Exit::Incomplete`], where every input has ended and
/// some of what they gave did not leave in time.
///
/// Must be awaited on a [`tokio::runtime::LocalRuntime`]. Dropping the future stops the source
/// at once, without a word to its relay.
pub async fn run(
    config: Config,
    mut shutdown: watch::Receiver<bool>,
    report: watch::Sender<Report>,
) -> Result<Report, Failure> {
    config.check()?;
    let (dialler, mut tokens) = Dialler::new(&config)?;
    let served = config.metrics.serve(report.subscribe()).await?;
    let (server, mut payload_keys) = Server::open(&config, report, served)?;
    let mut tasks = JoinSet::new();
    server.feed(&config, &mut tasks);
    let ended = tokio::select! {
        ended = server.serve(&dialler, &config) => ended,
        failed = server.inputs(&mut tasks) => Err(failed),
        failed = server.watch(config.report_interval, config.connect_timeout) => failed,
        never = server.follow(&mut payload_keys) => match never {},
        never = server.renew(&dialler, &mut tokens) => match never {},
        _ = shutdown.wait_for(|stop| *stop) => {
            server.stop().await;
            server.failed_input.take().map_or(Ok(()), Err)
        }
    };
    // The link is measured no more once it is closed: its last figures stay in the last report.
    let link = server.say().link;
    server.part(&dialler).await;
    let last = Report { link, ..server.say() };
    server.report.send_replace(last.clone());
    ended.map(|()| last)
}

/// What the tasks of a source share.
struct Server {
    clock: Clock,
    started: Instant,
    host: Host<SourceSystem>,
    inputs: RefCell<Vec<Option<Opened>>>,
    connection: RefCell<Connection>,
    links: Cell<Links>,
    /// The first failure of an input.
    failed_input: RefCell<Option<Failure>>,
    report: watch::Sender<Report>,
    /// The port of the metrics, if there is one.
    served: Watched,
}

/// What the links to relays have counted, one after the other.
#[derive(Clone, Copy, Debug, Default)]
struct Links {
    past: LinkStats,
    now: Option<(PortId, LinkStats)>,
}

impl Links {
    /// With what is counted by now on the link to the relay that serves.
    fn with(mut self, relay: Option<PortId>, ports: &node::Ports) -> Links {
        let now = relay.and_then(|port| Some((port, ports.link(port)?.stats())));
        if let Some((_, last)) = self.now.filter(|(port, _)| now.is_some_and(|(new, _)| new != *port)) {
            self.past = self.past.plus(&last);
        }
        Links { now: now.or(self.now), ..self }
    }

    fn total(&self) -> LinkStats {
        self.now.map_or(self.past, |(_, stats)| self.past.plus(&stats))
    }
}

/// How it stands with the relays.
#[derive(Debug, Default)]
struct Connection {
    report: ConnectionReport,
    since: Instant,
    /// When the link that serves came up.
    up: Option<Instant>,
}

/// The tasks of the inputs: which stream, and how its input ended.
type InputTasks = JoinSet<(StreamIndex, Result<(), Failure>)>;

impl Server {
    /// Opens the inputs: what is wrong with them is told before a relay is bothered.
    fn open(config: &Config, report: watch::Sender<Report>, served: Watched) -> Result<(Server, KeyFiles), Failure> {
        let (mut inputs, mut streams, mut payload_keys) = (Vec::new(), Vec::new(), KeyFiles::default());
        for (index, stream) in config.streams.iter().enumerate() {
            let keys = config.payload_key_of(stream).map(|file| payload_keys.add(index, file)).transpose();
            let keys = keys.map_err(|error| Failure::new(Exit::Config, format!("payload_key: {error}")))?;
            let opened = Opened::open(&stream.input, stream.endless)?;
            streams.push(StreamOptions {
                name: stream.name.clone(),
                incarnation: Incarnation(random()?),
                deadline: config.deadline_of(stream),
                high_priority: stream.priority.unwrap_or(config.priority) == Priority::High,
                mode: stream.mode.unwrap_or(config.mode),
                wants: config.wants_of(stream),
                content: opened.content(),
                payload_keys: keys,
                input: stream.input.to_string(),
                listen: opened.address(),
            });
            inputs.push(Some(opened));
        }
        let clock = Clock::start();
        let started = clock.now();
        let host = Host::new(clock, SourceSystem::new(streams));
        let connection = Connection { since: started, ..Connection::default() };
        let server = Server {
            clock,
            started,
            host,
            inputs: RefCell::new(inputs),
            connection: RefCell::new(connection),
            links: Cell::default(),
            failed_input: RefCell::default(),
            report,
            served,
        };
        Ok((server, payload_keys))
    }

    /// Seals with the keys that the key files hold, from the next packet after a change on.
    async fn follow(&self, files: &mut KeyFiles) -> Infallible {
        loop {
            for (stream, keys) in files.changed().await {
                self.host.with(|_, system, _| system.set_payload_keys(StreamIndex(stream), keys));
            }
        }
    }

    /// Shows other tokens, to the relay that serves and at every connection from then on, once the token file holds them.
    async fn renew(&self, dialler: &Dialler, file: &mut TokenFile) -> Infallible {
        loop {
            let tokens = file.changed().await;
            if self.host.show_tokens(&tokens) > 0 {
                tracing::warn!("the relay is of an older version: it is shown the new tokens at the next connection");
            }
            dialler.show(tokens);
        }
    }

    /// Starts a task for each input.
    fn feed(&self, config: &Config, tasks: &mut InputTasks) {
        for (index, (input, stream)) in self.inputs.borrow_mut().iter_mut().zip(&config.streams).enumerate() {
            let Some(input) = input.take() else { continue };
            let place = (StreamIndex(index), stream.name.clone());
            let deadline = config.deadline_of(stream);
            let feed = Feed::new(self.host.clone(), self.clock, place, config.start_delay, deadline);
            tasks.spawn_local(async move { (StreamIndex(index), input.run(feed).await) });
        }
    }

    /// Hears how inputs end. One that fails ends its own stream and no other; the program tells it as it ends.
    async fn inputs(&self, tasks: &mut InputTasks) -> Failure {
        while let Some(ended) = tasks.join_next().await {
            match ended {
                Ok((_, Ok(()))) => {}
                Ok((stream, Err(failure))) => {
                    tracing::error!("{failure}");
                    self.host.with(|now, system, ports| {
                        system.set_trouble(stream, Some(failure.message.clone()));
                        system.end(now, stream, ports);
                    });
                    self.failed_input.borrow_mut().get_or_insert(failure);
                }
                Err(error) => return Failure::new(Exit::Software, format!("the task of an input: {error}")),
            }
        }
        std::future::pending().await
    }

    /// Keeps a relay, whatever happens to it. Returns when the first start is hopeless.
    async fn serve(&self, dialler: &Dialler, config: &Config) -> Result<(), Failure> {
        let give_up = self.started + config.connect_timeout;
        let mut backoff = dialler.backoff();
        loop {
            let first = self.connection.borrow().report.connections == 0;
            let dial = dialler.dial(|address| self.dialling(address));
            let dialled = if first {
                tokio::time::timeout_at(self.clock.to_tokio(give_up), dial).await.ok()
            } else {
                Some(dial.await)
            };
            match dialled {
                Some(Ok(dialled)) => {
                    let up = self.clock.now();
                    self.keep(dialled).await?;
                    // One that falls again at once is as good as one that does not answer.
                    if self.clock.now() - up > Duration::from_secs(5) {
                        backoff.reset();
                    }
                }
                Some(Err(why)) => {
                    self.failed(&why);
                    if first && why.refused {
                        return Err(Failure::new(Exit::Refused, why.message));
                    }
                }
                None => {}
            }
            if self.connection.borrow().report.connections > 0 {
                tokio::time::sleep(backoff.pause()).await;
                continue;
            }
            if self.clock.now() >= give_up {
                return Err(self.unreachable(config));
            }
            let again = (self.clock.now() + backoff.pause()).min(give_up);
            tokio::time::sleep_until(self.clock.to_tokio(again)).await;
        }
    }

    /// Serves over one connection until it is lost.
    async fn keep(&self, dialled: Dialled) -> Result<(), Failure> {
        let Dialled { session, address, link } = dialled;
        let relay = session.peer.name.clone();
        let port = self.host.attach(session, link);
        self.change(ConnectionState::Connected, |connection, now| {
            connection.up = Some(now);
            connection.report.relay = Some(relay.clone());
            connection.report.connections += 1;
        });
        let closed = self.host.closed(port).await;
        let farewell = self.host.with(|_, system, _| system.farewell().map(|refusal| refusal.reason.clone()));
        let reason = farewell.unwrap_or(closed.reason);
        tracing::warn!(%relay, address, code = ?closed.code, reason, "the relay is gone; dialling again");
        self.change(ConnectionState::Reconnecting, |connection, _| {
            connection.up = None;
            connection.report.relay = None;
            connection.report.last_error = Some(format!("{address}: {reason}"));
        });
        Ok(())
    }

    fn dialling(&self, address: &str) {
        self.connection.borrow_mut().report.address = Some(address.to_owned());
    }

    fn failed(&self, why: &NotDialled) {
        let mut connection = self.connection.borrow_mut();
        let message = Some(why.message.clone());
        if connection.report.last_error != message {
            tracing::warn!("{}; trying again", why.message);
            connection.report.last_error = message;
        }
    }

    fn unreachable(&self, config: &Config) -> Failure {
        let last = self.connection.borrow().report.last_error.clone();
        let why = last.unwrap_or_else(|| format!("no answer from {}", config.relays.join(", ")));
        let waited = humantime::format_duration(config.connect_timeout);
        Failure::new(Exit::Unavailable, format!("no relay could be reached within {waited}: {why}"))
    }

    fn change(&self, state: ConnectionState, change: impl FnOnce(&mut Connection, Instant)) {
        let now = self.clock.now();
        let mut connection = self.connection.borrow_mut();
        (connection.report.state, connection.since) = (state, now);
        change(&mut connection, now);
    }

    /// Renews the report; returns when all streams have ended, or are refused at the first start.
    async fn watch(&self, interval: Duration, patience: Duration) -> Result<(), Failure> {
        let mut look = tokio::time::interval(LOOK_EVERY.min(interval));
        let (mut said, mut states) = (None::<Instant>, Vec::new());
        loop {
            look.tick().await;
            let now = self.clock.now();
            let patient = now < self.started + patience;
            let (done, hopeless, lost) = self.host.with(|_, system, ports| {
                let hopeless = system.hopeless(patient).map(|(name, refusal)| format!("{name}: {}", refusal.reason));
                let links = self.links.get().with(system.relay(), ports);
                self.links.set(links);
                (system.is_done(), hopeless, system.lost(&links.total()))
            });
            if let Some(message) = hopeless {
                return Err(Failure::new(Exit::Refused, message));
            }
            if done {
                return self.failed_input.take().map_or_else(|| finished(lost), Err);
            }
            let current = self.states();
            if current != states || said.is_none_or(|said| now - said >= interval) {
                (said, states) = (Some(now), current);
                self.say();
            }
        }
    }

    /// What a reader of reports must know at once when it changes.
    fn states(&self) -> Vec<StreamState> {
        let connection = match self.connection.borrow().report.state {
            ConnectionState::Connected => StreamState::Live,
            _ => StreamState::Waiting,
        };
        self.host.with(|_, system, _| std::iter::once(connection).chain(system.states()).collect())
    }

    /// Ends every stream in good order, and waits a little for it to be taken in.
    async fn stop(&self) {
        let streams = self.host.with(|now, system, ports| {
            let streams = system.states().count();
            (0..streams).for_each(|index| system.end(now, StreamIndex(index), ports));
            streams
        });
        let until = self.clock.now() + STOP_WITHIN;
        let reachable = || self.connection.borrow().report.state == ConnectionState::Connected;
        while streams > 0 && reachable() && self.clock.now() < until {
            if self.host.with(|_, system, _| system.is_done()) {
                break;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Says goodbye to the relay.
    async fn part(&self, dialler: &Dialler) {
        self.host.with(|_, system, ports| system.stop(ports));
        self.host.close_all(CloseCode::Done, "the source has stopped").await;
        dialler.close().await;
        self.change(ConnectionState::Closed, |_, _| {});
    }

    /// Renews the report, and returns it.
    fn say(&self) -> Report {
        let now = self.clock.now();
        let (streams, link) = self.host.with(|now, system, ports| {
            let link = system.relay().and_then(|port| link_report(now, port, ports));
            self.links.set(self.links.get().with(system.relay(), ports));
            (system.report(now), link)
        });
        let connection = self.connection.borrow();
        let mut report = Report {
            uptime_s: (now - self.started).as_secs_f64(),
            behind_s: self.host.time_behind().as_secs_f64(),
            metrics: self.served.address(),
            connection: ConnectionReport {
                since_s: (now - connection.since).as_secs_f64(),
                ..connection.report.clone()
            },
            link,
            streams,
        };
        if let (Some(link), Some(up)) = (&mut report.link, connection.up) {
            link.up_s = (now - up).as_secs_f64();
        }
        self.report.send_replace(report.clone());
        report
    }
}

fn link_report(now: Instant, port: PortId, ports: &node::Ports) -> Option<LinkReport> {
    let (link, peer) = (ports.link(port)?, ports.peer(port)?);
    let (quality, stats) = (link.quality(now), link.stats());
    let repair = stats.arq_bytes_sent + stats.fec_bytes_sent;
    Some(LinkReport {
        address: peer.address,
        up_s: 0.0,
        wire_loss_sent: quality.loss_sent,
        overhead_sent: if stats.media_bytes_sent == 0 { 0.0 } else { repair as f64 / stats.media_bytes_sent as f64 },
        quality,
        stats,
    })
}

/// How a source whose inputs have all ended ends itself.
fn finished(lost: u64) -> Result<(), Failure> {
    match lost {
        0 => Ok(()),
        lost => Err(Failure::new(Exit::Incomplete, format!("{lost} packets could not be sent within their deadline"))),
    }
}

fn random() -> Result<u64, Failure> {
    getrandom::u64().map_err(|error| Failure::new(Exit::Software, format!("no randomness: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_link_dropped_after_taking_it_was_lost() {
        let system = SourceSystem::new(Vec::new());
        assert_eq!(system.lost(&LinkStats::default()), 0);
        let one = LinkStats { dropped_low_priority: 1_092, dropped_late: 3, ..LinkStats::default() };
        assert_eq!(system.lost(&one), 1_095);
        let other = LinkStats { dropped_standing: 5, ..LinkStats::default() };
        let links = Links { past: one, now: Some((PortId(2), other)) };
        assert_eq!(system.lost(&links.total()), 1_100);
        assert!(finished(system.lost(&links.total())).is_err());
    }
}
