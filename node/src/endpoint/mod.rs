//! QUIC endpoints: binding, dialling, answering, and the handshake of the overlay.

mod admission;
mod allowance;
mod answer;
mod complaints;
mod dial;
mod handshake;
mod path;
mod reset;
mod segments;
mod socket;
mod steer;
mod threads;
mod transport;
mod udp;

pub use handshake::Session;
pub(crate) use handshake::closed_by;
pub(crate) use path::Paths;
pub use segments::retain_datagrams;
pub(crate) use threads::{Carrier, Far, Letter, weight};
pub use threads::{MOST_THREADS, Threads};
pub(crate) use transport::DATAGRAM_BUFFER;

use crate::control::{CloseCode, Hello};
use crate::trust::{Credentials, KeyChanges, Verifier};
use futures_util::future::{join_all, select_all};
use quinn::{AsyncUdpSocket, EndpointConfig, Incoming, Runtime, ServerConfig, TokioRuntime, TransportConfig, VarInt};
use socket::Sharing;
use std::fmt;
use std::io::{Error, ErrorKind};
use std::net::{Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use steer::{Division, Exchange, SteeredSocket};
use threads::OnCarrier;
use topology::NodeName;
use udp::UdpSocket;

/// How an endpoint is made.
#[derive(Clone, Debug)]
pub struct EndpointOptions {
    /// Where to bind; port 0 picks one. A dialling end binds the unspecified address.
    pub listen: SocketAddr,
    /// Largest UDP payload that every path of this endpoint is known to carry; `None`: found out for each connection.
    pub udp_payload: Option<u16>,
    /// Generic segmentation offload; some NICs fail with it.
    pub segmentation_offload: bool,
    /// Over which its connections are divided, one socket each; none but this by default.
    pub threads: Threads,
}

impl Default for EndpointOptions {
    /// For dialling: any port, IPv6 and IPv4, paths of unknown size.
    fn default() -> Self {
        let listen = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        EndpointOptions { listen, udp_payload: None, segmentation_offload: true, threads: Threads::default() }
    }
}

/// A UDP port with QUIC on it: one socket, or one for each of several threads. All copies are the same.
#[derive(Clone)]
pub struct Endpoint {
    inner: Arc<Inner>,
}

struct Inner {
    /// At least one.
    places: Vec<Place>,
    /// Counts what was dialled, to spread it over the places.
    dialled: AtomicUsize,
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

/// One socket of an endpoint, and the thread that its connections are on; `None`: whoever uses the endpoint.
struct Place {
    quinn: quinn::Endpoint,
    carrier: Option<Arc<Carrier>>,
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
        Endpoint::bind_over(options, credentials, |socket| socket)
    }

    /// As [`Endpoint::bind`], over sockets that the caller has put something before: one that loses datagrams, say.
    pub fn bind_over(
        options: &EndpointOptions,
        credentials: Credentials,
        over: impl Fn(Arc<dyn AsyncUdpSocket>) -> Arc<dyn AsyncUdpSocket>,
    ) -> Result<Endpoint, Error> {
        let known = options.udp_payload;
        if let Some(payload) = known.filter(|payload| !(path::LEAST..=path::MOST).contains(payload)) {
            let reason = format!("a UDP payload of {payload} bytes: expected {} to {}", path::LEAST, path::MOST);
            return Err(Error::new(ErrorKind::InvalidInput, reason));
        }
        let server = match credentials.identity() {
            Some((_, crate::trust::Role::Relay)) => Some(server_config(&credentials)?),
            _ => None,
        };
        let places = bind_places(options, &credentials, server.as_ref(), over)?;
        let (local, changes) = (places[0].quinn.local_addr()?, credentials.changes());
        credentials.follow();
        let inner = Inner {
            places,
            dialled: AtomicUsize::new(0),
            credentials,
            known_payload: known,
            segmentation_offload: options.segmentation_offload,
            server: server.map(|config| Mutex::new(Server { config, changes })),
            paths: Arc::new(Paths::new()),
            local,
            answering: answer::Answering::new(),
        };
        Ok(Endpoint { inner: Arc::new(inner) })
    }

    /// Where it is bound.
    pub fn local_address(&self) -> SocketAddr {
        self.inner.places[0].quinn.local_addr().unwrap_or(self.inner.local)
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

    /// Handshakes that were not answered, because more than may are under way, or have failed.
    pub fn handshakes_put_off(&self) -> u64 {
        self.inner.answering.put_off.load(Ordering::Relaxed)
    }

    /// Moves to another local address; connections go on from there (RFC 9000 section 9). For endpoints of one thread.
    pub fn rebind(&self, address: SocketAddr) -> Result<(), Error> {
        let [Place { quinn, .. }] = &self.inner.places[..] else {
            return Err(Error::new(ErrorKind::Unsupported, "an endpoint of several threads stays where it is"));
        };
        quinn.rebind_abstract(Arc::new(UdpSocket::new(socket::bind(address, Sharing::Alone)?)?))
    }

    /// Closes every connection and waits until the peers had a chance to hear of it, for a second at most.
    pub async fn close(&self, code: CloseCode, reason: &str) {
        let places = self.inner.places.iter();
        let idle = places.map(|Place { quinn, .. }| {
            quinn.close(VarInt::from_u32(code.to_wire()), reason.as_bytes());
            quinn.wait_idle()
        });
        let _ = tokio::time::timeout(Duration::from_secs(1), join_all(idle)).await;
    }
}

impl Inner {
    /// The next dialler, and the place that it has come to. May be dropped and called again without losing anybody.
    async fn incoming(&self) -> Option<(Incoming, usize)> {
        if let [Place { quinn, .. }] = &self.places[..] {
            return Some((quinn.accept().await?, 0));
        }
        let accepting = self.places.iter().map(|Place { quinn, .. }| Box::pin(quinn.accept()));
        let (incoming, place, _) = pin!(select_all(accepting)).await;
        Some((incoming?, place))
    }

    /// Where the next connection that is dialled shall live.
    fn next_place(&self) -> &Place {
        let nth = self.dialled.fetch_add(1, Ordering::Relaxed);
        // A multiplier without common factor with 256 spreads what is counted up over all ids.
        let id = (nth.wrapping_mul(97) % 256) as u8;
        &self.places[Division::new(self.places.len()).place(id)]
    }

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

/// A socket for each place. Where there are several and diallers choose, all of them are on one port, and each connection's id tells its place.
fn bind_places(
    options: &EndpointOptions,
    credentials: &Credentials,
    server: Option<&ServerConfig>,
    over: impl Fn(Arc<dyn AsyncUdpSocket>) -> Arc<dyn AsyncUdpSocket>,
) -> Result<Vec<Place>, Error> {
    let carriers: Vec<Option<Arc<Carrier>>> = options.threads.places().collect();
    let division = Division::new(carriers.len());
    let shared = carriers.len() > 1 && server.is_some();
    let exchange = shared.then(|| Arc::new(Exchange::new(division)));
    let mut listen = options.listen;
    let mut places = Vec::new();
    for (place, carrier) in carriers.into_iter().enumerate() {
        let sharing = match (shared, place) {
            (false, _) => Sharing::Alone,
            (true, 0) => Sharing::First,
            (true, _) => Sharing::Next,
        };
        let socket = socket::bind(listen, sharing)?;
        let bound = socket.local_addr()?.as_socket().unwrap_or(listen);
        if shared {
            listen = bound;
        }
        let mut config = EndpointConfig::default();
        if let Some(secret) = credentials.derived_secret(&format!("stateless reset of {bound}")) {
            reset::configure(&mut config, secret, shared.then_some((division, place)));
        }
        config.max_udp_payload_size(options.udp_payload.unwrap_or(0).max(1472)).map_err(Error::other)?;
        let runtime: Arc<dyn Runtime> = match &carrier {
            Some(carrier) => Arc::new(OnCarrier(carrier.clone())),
            None => Arc::new(TokioRuntime),
        };
        let entered = carrier.as_ref().map(|carrier| carrier.runtime().enter());
        let mut socket = over(Arc::new(UdpSocket::new(socket)?));
        drop(entered);
        if let Some(exchange) = &exchange {
            socket = Arc::new(SteeredSocket { socket, exchange: exchange.clone(), place });
        }
        let quinn = quinn::Endpoint::new_with_abstract_socket(config, server.cloned(), socket, runtime)?;
        places.push(Place { quinn, carrier });
    }
    Ok(places)
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
