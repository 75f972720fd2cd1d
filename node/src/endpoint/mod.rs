//! QUIC endpoints: binding, dialling, answering, and the handshake of the overlay.

mod answer;
mod dial;
mod handshake;
mod path;
mod reset;
mod socket;
mod transport;

pub use handshake::Session;
pub(crate) use handshake::closed_by;
pub(crate) use path::Paths;
pub(crate) use transport::DATAGRAM_BUFFER;

use crate::control::{CloseCode, Hello};
use crate::trust::{Credentials, KeyChanges, Verifier};
use quinn::{EndpointConfig, ServerConfig, TokioRuntime, TransportConfig, VarInt};
use std::fmt;
use std::io::{Error, ErrorKind};
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use topology::NodeName;

/// How an endpoint is made.
#[derive(Clone, Debug)]
pub struct EndpointOptions {
    /// Where to bind; port 0 picks one. A dialling end binds the unspecified address.
    pub listen: SocketAddr,
    /// Largest UDP payload that every path of this endpoint is known to carry; `None`: found out for each connection.
    pub udp_payload: Option<u16>,
    /// Generic segmentation offload; some NICs fail with it.
    pub segmentation_offload: bool,
}

impl Default for EndpointOptions {
    /// For dialling: any port, IPv6 and IPv4, paths of unknown size.
    fn default() -> Self {
        let listen = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        EndpointOptions { listen, udp_payload: None, segmentation_offload: true }
    }
}

/// A bound UDP socket with QUIC on it. All copies are the same socket.
#[derive(Clone)]
pub struct Endpoint {
    inner: Arc<Inner>,
}

struct Inner {
    quinn: quinn::Endpoint,
    credentials: Credentials,
    /// As in [`EndpointOptions::udp_payload`].
    known_payload: Option<u16>,
    segmentation_offload: bool,
    /// What answers who dials; the transport's settings follow from each dialler's announcement.
    server: Option<Mutex<Server>>,
    paths: Arc<Paths>,
    local: SocketAddr,
    answering: answer::Answering,
}

/// How diallers are answered, as of the newest keys.
struct Server {
    config: ServerConfig,
    changes: KeyChanges,
}

/// Why no session came about.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name does not resolve or the address is no address.
    #[error("cannot resolve {address}: {reason}")]
    Resolve {
        /// As given.
        address: String,
        /// By the resolver.
        reason: String,
    },
    /// Nobody answered in time.
    #[error("no answer from {address}: {reason}")]
    Unreachable {
        /// As given.
        address: String,
        /// What was tried, for how long.
        reason: String,
    },
    /// It answered, and refused, or its certificate is not one of this overlay.
    #[error("{address} refused: {reason}")]
    Refused {
        /// As given.
        address: String,
        /// For programs.
        code: CloseCode,
        /// For people.
        reason: String,
    },
}

impl Endpoint {
    /// Binds. The error names the address and what is wrong with it (taken, not ours, no permission). Credentials of a relay
    /// make an endpoint that can be dialled; with any others it only dials. Must be called inside a runtime.
    pub fn bind(options: &EndpointOptions, credentials: Credentials) -> Result<Endpoint, Error> {
        let known = options.udp_payload;
        if let Some(payload) = known.filter(|payload| !(path::LEAST..=path::MOST).contains(payload)) {
            let reason = format!("a UDP payload of {payload} bytes: expected {} to {}", path::LEAST, path::MOST);
            return Err(Error::new(ErrorKind::InvalidInput, reason));
        }
        let server = match credentials.identity() {
            Some((_, crate::trust::Role::Relay)) => Some(server_config(&credentials)?),
            _ => None,
        };
        let socket = socket::bind(options.listen)?;
        let mut config = EndpointConfig::default();
        let bound = socket.local_addr()?.as_socket().unwrap_or(options.listen);
        if let Some(secret) = credentials.derived_secret(&format!("stateless reset of {bound}")) {
            reset::configure(&mut config, secret);
        }
        config.max_udp_payload_size(known.unwrap_or(0).max(1472)).map_err(Error::other)?;
        let quinn = quinn::Endpoint::new(config, server.clone(), socket.into(), Arc::new(TokioRuntime))?;
        let (local, changes) = (quinn.local_addr()?, credentials.changes());
        credentials.follow();
        let inner = Inner {
            quinn,
            credentials,
            known_payload: known,
            segmentation_offload: options.segmentation_offload,
            server: server.map(|config| Mutex::new(Server { config, changes })),
            paths: Arc::new(Paths::new()),
            local,
            answering: answer::Answering::default(),
        };
        Ok(Endpoint { inner: Arc::new(inner) })
    }

    /// Where it is bound.
    pub fn local_address(&self) -> SocketAddr {
        self.inner.quinn.local_addr().unwrap_or(self.inner.local)
    }

    /// Dials `address` (`host:port`), and shakes hands.
    pub async fn connect(&self, address: &str, hello: Hello) -> Result<Session, ConnectError> {
        dial::connect(&self.inner, address, None, hello).await
    }

    /// As [`Endpoint::connect`], and refuses a relay of another name than `expected`.
    pub async fn connect_to(&self, address: &str, expected: &NodeName, hello: Hello) -> Result<Session, ConnectError> {
        dial::connect(&self.inner, address, Some(expected), hello).await
    }

    /// The next neighbour that dialled and passed the handshake. Handshakes run side by side, bounded in number and
    /// time; one that fails is answered with its reason, logged, and not returned. `None` when the endpoint is closed.
    /// May be dropped and called again without losing anybody.
    pub async fn accept(&self, verifier: &Verifier) -> Option<Session> {
        let (own, _) = self.inner.credentials.identity()?;
        self.inner.answering.next(&self.inner, &own, verifier).await
    }

    /// Moves to another local address; connections go on from there (RFC 9000 section 9).
    pub fn rebind(&self, address: SocketAddr) -> Result<(), Error> {
        self.inner.quinn.rebind(socket::bind(address)?.into())
    }

    /// Closes every connection and waits until the peers had a chance to hear of it, for a second at most.
    pub async fn close(&self, code: CloseCode, reason: &str) {
        self.inner.quinn.close(VarInt::from_u32(code.to_wire()), reason.as_bytes());
        let _ = tokio::time::timeout(Duration::from_secs(1), self.inner.quinn.wait_idle()).await;
    }
}

impl Inner {
    /// The settings of a connection made for this UDP payload.
    fn transport(&self, payload: u16) -> Arc<TransportConfig> {
        Arc::new(transport::config(payload, self.segmentation_offload))
    }

    /// How to answer a dialler that announced this UDP payload.
    fn answer_at(&self, announced: u16) -> Option<Arc<ServerConfig>> {
        let mut server = self.server.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        if server.changes.has_changed() {
            match server_crypto(&self.credentials) {
                Ok(crypto) => server.config.crypto = crypto,
                Err(error) => tracing::error!(%error, "the new keys are not shown: diallers see the old ones"),
            }
        }
        let mut server = server.config.clone();
        server.transport_config(self.transport(announced.min(self.known_payload.unwrap_or(path::ASSUMED))));
        Some(Arc::new(server))
    }
}

fn server_config(credentials: &Credentials) -> Result<ServerConfig, Error> {
    let mut config = ServerConfig::with_crypto(server_crypto(credentials)?);
    config
        .migration(true)
        // What waits to be answered, before any of it is believed: few and small.
        .max_incoming(2 * answer::MAX_HANDSHAKES)
        .incoming_buffer_size(16 * 1024)
        .incoming_buffer_size_total(4 << 20);
    Ok(config)
}

fn server_crypto(credentials: &Credentials) -> Result<Arc<dyn quinn::crypto::ServerConfig>, Error> {
    let tls = credentials.server_tls().map_err(Error::other)?;
    let tls = quinn::crypto::rustls::QuicServerConfig::try_from(tls).map_err(Error::other)?;
    Ok(Arc::new(tls))
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("local", &self.inner.local).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
