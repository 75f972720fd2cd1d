//! The connection to a relay: one at a time, kept up through the list of relays.

use crate::config::Config;
use crate::fanout::FanOut;
use crate::report::{ConnectionReport, ConnectionState};
use crate::system::SinkSystem;
use link::{Instant, LinkConfig};
use node::backoff::Backoff;
use node::clock::Clock;
use node::control::{CloseCode, Hello, RECEIPTS, TOKENS, VERSION};
use node::endpoint::{ConnectError, Endpoint};
use node::exit::{Exit, Failure};
use node::trust::Role;
use node::{Closed, Host, PortId};
use std::cell::RefCell;
use std::hash::{BuildHasher, Hasher};
use std::rc::Rc;
use std::time::Duration;

/// What the program calls itself in the relay's logs.
const AGENT: &str = concat!("anabranch-sink/", env!("CARGO_PKG_VERSION"));
/// A relay that does not answer within this is passed over.
const DIAL_PATIENCE: Duration = Duration::from_secs(5);
/// Pauses after all relays were tried in vain, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// A connection that ends sooner is as good as none: a relay that drains, or has no place, takes the handshake and closes.
const LASTING: Duration = Duration::from_secs(5);
/// A relay silent for so long is given up, before QUIC does; on an idle link, over which little is heard, it takes three times what lies between
/// two signs of life.
const SILENCE: Duration = Duration::from_millis(1_500);

/// The state of the connection, for the report.
#[derive(Clone, Debug)]
pub(crate) struct Status(Rc<RefCell<Inner>>);

#[derive(Debug)]
struct Inner {
    report: ConnectionReport,
    since: Instant,
    port: Option<PortId>,
    /// When the first connection came about.
    first: Option<Instant>,
}

impl Status {
    pub(crate) fn new(now: Instant) -> Status {
        let report = ConnectionReport::default();
        Status(Rc::new(RefCell::new(Inner { report, since: now, port: None, first: None })))
    }

    /// As it is at `now`.
    pub(crate) fn report(&self, now: Instant) -> ConnectionReport {
        let inner = self.0.borrow();
        ConnectionReport { since_s: now.saturating_since(inner.since).as_secs_f64(), ..inner.report.clone() }
    }

    /// The port in use.
    pub(crate) fn port(&self) -> Option<PortId> {
        self.0.borrow().port
    }

    /// When the first connection came about.
    pub(crate) fn first(&self) -> Option<Instant> {
        self.0.borrow().first
    }

    pub(crate) fn stop(&self, now: Instant) {
        self.enter(now, ConnectionState::Stopped);
    }

    fn dial(&self, now: Instant, relay: &str) {
        self.enter(now, ConnectionState::Connecting);
        let mut inner = self.0.borrow_mut();
        inner.report.relay = Some(relay.to_owned());
        inner.report.name = None;
    }

    fn up(&self, now: Instant, port: PortId, name: &str) {
        self.enter(now, ConnectionState::Up);
        let mut inner = self.0.borrow_mut();
        inner.report.name = Some(name.to_owned());
        inner.report.connections += 1;
        inner.port = Some(port);
        inner.first.get_or_insert(now);
    }

    /// The connection that came about at `up` served nothing: if it was the first, that is still to come.
    fn unserved(&self, up: Instant) {
        let mut inner = self.0.borrow_mut();
        inner.first.take_if(|first| *first == up);
    }

    fn fail(&self, why: &str) {
        let mut inner = self.0.borrow_mut();
        inner.report.last_error = Some(why.to_owned());
        inner.port = None;
    }

    fn enter(&self, now: Instant, state: ConnectionState) {
        let mut inner = self.0.borrow_mut();
        if inner.report.state != state {
            inner.report.state = state;
            inner.since = now;
        }
    }
}

/// Keeps a connection to one of the relays.
#[derive(Debug)]
pub(crate) struct Connector {
    pub(crate) endpoint: Endpoint,
    pub(crate) host: Host<SinkSystem<FanOut>>,
    pub(crate) clock: Clock,
    pub(crate) config: Config,
    pub(crate) tokens: Rc<RefCell<Vec<String>>>,
    pub(crate) status: Status,
}

/// By chance, as far as a table's is.
fn seed() -> u64 {
    std::hash::RandomState::new().build_hasher().finish()
}

impl Connector {
    /// Dials the relays in turn, for ever once one has served; returns when there is no use in going on: at first, or after a connection was cut off
    /// for want of a right, when all of them have refused.
    pub(crate) async fn run(self) -> Failure {
        let relays = &self.config.relays;
        let give_up_at = self.clock.now() + self.config.wait;
        let (mut next, mut in_vain, mut refused, mut struck) = (0, 0, 0, false);
        let mut backoff = Backoff::new(PAUSES.0, PAUSES.1, seed());
        loop {
            let relay = &relays[next % relays.len()];
            next += 1;
            match self.serve(relay).await {
                Served::Lost => {
                    (in_vain, refused, struck) = (0, 0, false);
                    backoff.reset();
                }
                // One relay's word, or what it was itself struck off for: another may serve.
                Served::Struck(failure) => {
                    (in_vain, refused, struck) = (in_vain + 1, refused + 1, true);
                    if refused >= relays.len() {
                        return failure;
                    }
                }
                Served::Failed(failure) => {
                    in_vain += 1;
                    refused = if failure.exit == Exit::Refused { refused + 1 } else { 0 };
                    let first = self.status.first().is_none();
                    let late = first && self.clock.now() >= give_up_at && next >= relays.len();
                    if late || refused >= relays.len() && (first || struck) {
                        return failure;
                    }
                }
            }
            if in_vain >= relays.len() {
                in_vain = 0;
                tokio::time::sleep(backoff.pause()).await;
            }
        }
    }

    /// Dials a relay and stays with it for as long as it lasts.
    async fn serve(&self, relay: &str) -> Served {
        let now = self.clock.now();
        self.status.dial(now, relay);
        let hello = Hello {
            version: VERSION,
            features: RECEIPTS | TOKENS,
            role: Role::Sink,
            tokens: self.tokens.borrow().clone(),
            agent: AGENT.into(),
            link: None,
        };
        let patience = match self.status.first() {
            Some(_) => DIAL_PATIENCE,
            // Each is tried before the first start is given up.
            None => {
                let share = self.config.wait / self.config.relays.len().max(1) as u32;
                share.clamp(Duration::from_millis(500), DIAL_PATIENCE)
            }
        };
        let session = match tokio::time::timeout(patience, self.endpoint.connect(relay, hello)).await {
            Ok(Ok(session)) => session,
            Ok(Err(error)) => return self.not_connected(error),
            Err(_) => {
                let reason = format!("nothing came back within {}", humantime::format_duration(patience));
                return self.not_connected(ConnectError::Unreachable { address: relay.to_owned(), reason });
            }
        };
        let name = session.peer.name.clone();
        let port = self.host.attach(session, LinkConfig { seed: seed(), ..LinkConfig::leaf() });
        let up = self.clock.now();
        self.status.up(up, port, name.as_str());
        tracing::info!(relay, %name, "connected");
        let closed = self.until_closed(port).await;
        self.status.fail(&closed.reason);
        if is_final(closed.code) {
            return Served::Struck(Failure::new(Exit::Refused, format!("{relay} refused: {}", closed.reason)));
        }
        tracing::warn!(relay, %name, code = ?closed.code, "connection lost: {}; connecting again", closed.reason);
        if self.clock.now().saturating_since(up) > LASTING {
            return Served::Lost;
        }
        if !self.host.with(|_, system, _| system.was_any_seen()) {
            self.status.unserved(up);
        }
        Served::Failed(Failure::new(Exit::Unavailable, format!("{relay} closed the connection: {}", closed.reason)))
    }

    /// Waits for the end of a connection, and puts one to an end that has fallen silent.
    async fn until_closed(&self, port: PortId) -> Closed {
        let mut look = tokio::time::interval(SILENCE / 6);
        let closed = self.host.closed(port);
        tokio::pin!(closed);
        loop {
            tokio::select! {
                closed = &mut closed => return closed,
                _ = look.tick() => self.host.with(|now, _, ports| {
                    let quality = ports.link(port).map(|link| link.quality(now));
                    if quality.is_some_and(|quality| quality.silent_for > SILENCE.max(3 * quality.heard_every)) {
                        ports.close(port, CloseCode::Lost, "the relay has fallen silent");
                    }
                }),
            }
        }
    }

    fn not_connected(&self, error: ConnectError) -> Served {
        let again = self.status.report(self.clock.now()).last_error.as_deref() == Some(&error.to_string());
        self.status.fail(&error.to_string());
        if !again {
            tracing::warn!("{error}");
        }
        Served::Failed(error.into())
    }
}

/// Whether asking again would change nothing.
fn is_final(code: CloseCode) -> bool {
    matches!(code, CloseCode::Version | CloseCode::Unauthenticated | CloseCode::Expired | CloseCode::Forbidden)
}

/// How it went with a relay.
enum Served {
    /// It was connected for a while, and is no longer.
    Lost,
    /// It did not answer, refused, or closed at once.
    Failed(Failure),
    /// The connection was put to an end for a reason that asking this relay again does not change.
    Struck(Failure),
}
