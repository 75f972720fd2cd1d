//! Dialling: all addresses of a name, one started a moment after the other, the first that answers wins (RFC 8305).

use super::handshake::{self, Failed, Session, closed_by};
use super::{ConnectError, Inner};
use crate::control::{CloseCode, Hello};
use quinn::{ClientConfig, Connection, ConnectionError};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use topology::NodeName;

/// From the name to the welcome.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// The head start of each address over the next.
const STAGGER: Duration = Duration::from_millis(250);

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
    let addresses = match tokio::time::timeout(TIME_LIMIT, resolve(address, endpoint.local.is_ipv6())).await {
        Ok(resolved) => resolved?,
        Err(_) => return Err(unresolved(address, format!("no answer from the resolver in {TIME_LIMIT:?}"))),
    };
    let config = client_config(endpoint).map_err(|reason| refused(address, CloseCode::Unauthenticated, reason))?;
    let shake = async {
        let connection = race(endpoint, &config, &addresses).await?;
        handshake::introduce(connection, expected, hello).await
    };
    match tokio::time::timeout(TIME_LIMIT, shake).await {
        Ok(Ok(session)) => {
            let (peer, agent) = (&session.peer, &session.agent);
            tracing::info!(address, peer = %peer.name, %agent, "connected");
            Ok(session)
        }
        Ok(Err(failed)) => Err(explained(address, &addresses, failed)),
        Err(_) => Err(unreachable(address, &addresses)),
    }
}

/// The addresses of `host:port` that a socket of this family can reach.
async fn resolve(address: &str, ipv6: bool) -> Result<Vec<SocketAddr>, ConnectError> {
    let found = tokio::net::lookup_host(address).await.map_err(|error| {
        let expected = if address.rsplit_once(':').is_none() { "; expected host:port" } else { "" };
        unresolved(address, format!("{error}{expected}"))
    })?;
    let all: Vec<SocketAddr> = found.collect();
    // A socket of IPv6 that is bound to all addresses reaches IPv4 as well.
    let usable = all.iter().filter(|found| ipv6 || found.is_ipv4());
    let usable: Vec<SocketAddr> = usable.copied().take(MAX_ADDRESSES).collect();
    match (usable.is_empty(), all.first()) {
        (false, _) => Ok(usable),
        (true, None) => Err(unresolved(address, "the name has no address".to_owned())),
        (true, Some(other)) => {
            Err(unresolved(address, format!("{} cannot be reached from an IPv4 socket", other.ip())))
        }
    }
}

fn client_config(endpoint: &Inner) -> Result<ClientConfig, String> {
    let mut tls = endpoint.credentials.client_tls().map_err(|error| error.to_string())?;
    // Every connection shows its certificate anew, so that an expired one is noticed.
    tls.resumption = quinn::rustls::client::Resumption::disabled();
    let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls).map_err(|error| error.to_string())?;
    let mut config = ClientConfig::new(Arc::new(tls));
    config.transport_config(endpoint.transport.clone());
    Ok(config)
}

/// The first connection that stands; the other attempts are dropped, and quinn closes what nobody holds.
async fn race(endpoint: &Inner, config: &ClientConfig, addresses: &[SocketAddr]) -> Result<Connection, Failed> {
    let mut attempts: JoinSet<Result<Connection, ConnectionError>> = JoinSet::new();
    let mut waiting = addresses.iter();
    let mut last = ConnectionError::TimedOut;
    loop {
        match waiting.next() {
            Some(address) => match endpoint.quinn.connect_with(config.clone(), *address, SERVER_NAME) {
                Ok(connecting) => drop(attempts.spawn(connecting)),
                Err(error) => {
                    let refusal = crate::control::Refusal { code: CloseCode::Lost, reason: error.to_string() };
                    return Err(Failed::Unacceptable(refusal));
                }
            },
            None if attempts.is_empty() => return Err(Failed::Lost(last)),
            None => {}
        }
        let more = !waiting.as_slice().is_empty();
        tokio::select! {
            Some(done) = attempts.join_next() => match done {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => last = error,
                Err(_) => {}
            },
            () = tokio::time::sleep(STAGGER), if more => {}
        }
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
