//! Dialling: all addresses of a name, one started a moment after the other, the first that answers wins (RFC 8305).

use super::handshake::{self, Failed, Session, closed_by};
use super::{ConnectError, Inner, Place, path};
use crate::clock::Clock;
use crate::control::{CloseCode, Hello};
use crate::trust::Verifier;
use futures_util::TryFutureExt;
use quinn::{ClientConfig, Connection, ConnectionError};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use topology::NodeName;

/// From the name to the welcome.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// The head start of each address over the next.
const STAGGER: Duration = Duration::from_millis(250);

/// How long after the assumed packet size the least one is tried: an ordinary path, on which some packets are lost, shall not end up with it.
const SMALLER_AFTER: Duration = Duration::from_secs(1);
/// Within this a peer that is there answers the first packet.
const AT_ONCE: Duration = Duration::from_millis(500);

/// Most addresses of a name that are tried.
const MAX_ADDRESSES: usize = 8;

/// Asked for in TLS, and checked by nobody: a relay is known by its certificate, not by where it was found.
const SERVER_NAME: &str = "anabranch.invalid";

pub(super) async fn connect(
    endpoint: &Inner,
    address: &str,
    expected: Option<&NodeName>,
    hello: Hello,
) -> Result<Session, ConnectError> {
    let addresses = match tokio::time::timeout(TIME_LIMIT, resolve(address, endpoint.local.ip())).await {
        Ok(resolved) => resolved?,
        Err(_) => return Err(unresolved(address, format!("no answer from the resolver in {TIME_LIMIT:?}"))),
    };
    let untrusted = |reason| refused(address, CloseCode::Unauthenticated, reason);
    let config = client_config(endpoint).map_err(untrusted)?;
    let verifier = endpoint.credentials.verifier();
    match tokio::time::timeout(TIME_LIMIT, shake(endpoint, &config, &addresses, expected, hello, &verifier)).await {
        Ok(Ok(session)) => {
            let (peer, agent) = (&session.peer, &session.agent);
            tracing::info!(address, peer = %peer.name, %agent, "connected");
            Ok(session)
        }
        Ok(Err(failed)) => Err(explained(address, &addresses, failed)),
        Err(_) => Err(unreachable(address, &addresses)),
    }
}

/// Dials until a connection stands whose path carries what it is made for.
async fn shake(
    endpoint: &Inner,
    config: &ClientConfig,
    addresses: &[SocketAddr],
    expected: Option<&NodeName>,
    hello: Hello,
    verifier: &Verifier,
) -> Result<Session, Failed> {
    loop {
        let (place, clock) = (endpoint.next_place(), Clock::start());
        let begun = clock.now();
        let (connection, payload) = race(endpoint, place, config, &attempts(endpoint, addresses)).await?;
        let remote = connection.remote_address();
        if endpoint.known_payload.is_some() || payload == path::LEAST {
            let at_once = clock.now() - begun < SMALLER_AFTER + AT_ONCE;
            if endpoint.known_payload.is_none() && at_once && !endpoint.paths.is_small(remote) {
                // The assumed size had a head start, and did not get through to one who was there: answered at once, this was no peer that came up meanwhile.
                endpoint.paths.remember_small(remote);
            }
            let mut session = handshake::introduce(connection, expected, hello, verifier).await?;
            session.wire.carrier = place.carrier.clone();
            return Ok(session);
        }
        let mut early = Vec::new();
        let proof = path::prove(&connection, &mut early).map_err(Failed::Lost);
        let introduced = handshake::introduce(connection.clone(), expected, hello.clone(), verifier);
        let (carried, mut session) = futures_util::future::try_join(proof, introduced).await?;
        if carried {
            session.wire.paths = Some(endpoint.paths.clone());
            session.wire.early = early;
            session.wire.carrier = place.carrier.clone();
            return Ok(session);
        }
        tracing::info!(%remote, payload, "the path does not carry packets of this size; dialling with the least");
        endpoint.paths.remember_small(remote);
        path::abandon(&connection);
    }
}

/// One way to try: where, with packets of which size, how long after the first.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    address: SocketAddr,
    payload: u16,
    after: Duration,
}

/// What to try, in the order of time. Where the assumed size does not get through a handshake at all, the least one may.
fn attempts(endpoint: &Inner, addresses: &[SocketAddr]) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    for (nth, &address) in addresses.iter().enumerate() {
        let after = STAGGER * nth as u32;
        let small = || if endpoint.paths.is_small(address) { path::LEAST } else { path::ASSUMED };
        let payload = endpoint.known_payload.unwrap_or_else(small);
        attempts.push(Attempt { address, payload, after });
        if endpoint.known_payload.is_none() && payload > path::LEAST {
            attempts.push(Attempt { address, payload: path::LEAST, after: after + SMALLER_AFTER });
        }
    }
    attempts.sort_by_key(|attempt| attempt.after);
    attempts
}

/// The addresses of `host:port` that a socket bound to `local` can reach.
async fn resolve(address: &str, local: IpAddr) -> Result<Vec<SocketAddr>, ConnectError> {
    let found = tokio::net::lookup_host(address).await.map_err(|error| {
        let expected = if address.rsplit_once(':').is_none() { "; expected host:port" } else { "" };
        unresolved(address, format!("{error}{expected}"))
    })?;
    let all: Vec<SocketAddr> = found.collect();
    // A socket of IPv6 that is bound to all addresses reaches IPv4 as well.
    let takes_both = local.is_ipv6() && local.is_unspecified();
    let usable = all.iter().filter(|found| takes_both || found.is_ipv6() == local.is_ipv6());
    let usable: Vec<SocketAddr> = usable.copied().take(MAX_ADDRESSES).collect();
    match (usable.is_empty(), all.first()) {
        (false, _) => Ok(usable),
        (true, None) => Err(unresolved(address, "the name has no address".to_owned())),
        (true, Some(other)) => {
            let family = if local.is_ipv6() { "IPv6" } else { "IPv4" };
            Err(unresolved(address, format!("{} cannot be reached from an {family} socket", other.ip())))
        }
    }
}

fn client_config(endpoint: &Inner) -> Result<ClientConfig, String> {
    let mut tls = endpoint.credentials.client_tls().map_err(|error| error.to_string())?;
    // Every connection shows its certificate anew, so that an expired one is noticed.
    tls.resumption = quinn::rustls::client::Resumption::disabled();
    let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls).map_err(|error| error.to_string())?;
    Ok(ClientConfig::new(Arc::new(tls)))
}

/// The first connection that stands, and the payload it is made for; the other attempts are dropped, and quinn closes what nobody
/// holds.
async fn race(
    endpoint: &Inner,
    place: &Place,
    config: &ClientConfig,
    attempts: &[Attempt],
) -> Result<(Connection, u16), Failed> {
    let mut racing: JoinSet<Result<(Connection, u16), ConnectionError>> = JoinSet::new();
    let mut last = ConnectionError::TimedOut;
    let mut passed = Duration::ZERO;
    for (nth, attempt) in attempts.iter().enumerate() {
        let Attempt { address, payload, after } = *attempt;
        let mut config = config.clone();
        config.transport_config(endpoint.transport(payload));
        config.initial_dst_cid_provider(Arc::new(move || path::announce(payload)));
        let connecting = place.quinn.connect_with(config, address, SERVER_NAME).map_err(|error| {
            Failed::Unacceptable(crate::control::Refusal { code: CloseCode::Lost, reason: error.to_string() })
        })?;
        racing.spawn(async move { connecting.await.map(|connection| (connection, payload)) });
        passed = passed.max(after);
        let head_start = attempts.get(nth + 1).map(|next| next.after - passed);
        match first_of(&mut racing, head_start, &mut last).await {
            Some(stands) => return Ok(stands),
            None => continue,
        }
    }
    Err(Failed::Lost(last))
}

/// The first of the racing that stands, within `wait` where the next attempt is due then. Ends at once where all have failed.
async fn first_of(
    racing: &mut JoinSet<Result<(Connection, u16), ConnectionError>>,
    wait: Option<Duration>,
    last: &mut ConnectionError,
) -> Option<(Connection, u16)> {
    let stands = async {
        while let Some(done) = racing.join_next().await {
            match done {
                Ok(Ok(stands)) => return Some(stands),
                Ok(Err(error)) => *last = error,
                Err(_) => {}
            }
        }
        None
    };
    match wait {
        Some(wait) => tokio::time::timeout(wait, stands).await.unwrap_or(None),
        None => stands.await,
    }
}

fn explained(address: &str, addresses: &[SocketAddr], failed: Failed) -> ConnectError {
    match failed {
        Failed::Lost(ConnectionError::TimedOut | ConnectionError::Reset) => unreachable(address, addresses),
        Failed::Lost(error) => {
            let closed = closed_by(&error);
            let reason = match error {
                ConnectionError::TransportError(_) if closed.code == CloseCode::Unauthenticated => {
                    format!("its certificate is not that of a relay of this overlay ({})", closed.reason)
                }
                ConnectionError::ConnectionClosed(_) if closed.code == CloseCode::Unauthenticated => {
                    format!("it does not accept our certificate ({})", closed.reason)
                }
                _ => closed.reason,
            };
            refused(address, closed.code, reason)
        }
        Failed::Unacceptable(refusal) | Failed::Refused(refusal) => refused(address, refusal.code, refusal.reason),
    }
}

fn refused(address: &str, code: CloseCode, reason: String) -> ConnectError {
    ConnectError::Refused { address: address.to_owned(), code, reason }
}

fn unresolved(address: &str, reason: String) -> ConnectError {
    ConnectError::Resolve { address: address.to_owned(), reason }
}

fn unreachable(address: &str, addresses: &[SocketAddr]) -> ConnectError {
    let tried: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
    let reason = format!("tried {} for {} s", tried.join(", "), TIME_LIMIT.as_secs());
    ConnectError::Unreachable { address: address.to_owned(), reason }
}

impl ConnectError {
    /// The code that the other end gave, where it refused.
    pub fn code(&self) -> Option<CloseCode> {
        match self {
            ConnectError::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Whether another attempt can succeed without anybody changing a configuration.
    pub fn is_transient(&self) -> bool {
        match self.code() {
            None => true,
            Some(code) => matches!(
                code,
                CloseCode::Overload | CloseCode::Stopping | CloseCode::Lost | CloseCode::Replaced | CloseCode::Done
            ),
        }
    }
}

impl From<ConnectError> for crate::exit::Failure {
    fn from(error: ConnectError) -> Self {
        use crate::exit::{Exit, Failure};
        let exit = if error.is_transient() { Exit::Unavailable } else { Exit::Refused };
        Failure::new(exit, error.to_string())
    }
}
