//! QUIC endpoints: binding, dialling, answering, and the handshake of the overlay.

use crate::control::{CloseCode, Hello};
use crate::ports::Peer;
use crate::trust::{Credentials, Verifier};
use std::net::SocketAddr;

/// How an endpoint is made.
#[derive(Clone, Debug)]
pub struct EndpointOptions {
    /// Where to bind; port 0 picks one. A dialling end binds the unspecified address.
    pub listen: SocketAddr,
    /// Largest UDP payload that every path of this endpoint is known to carry; `None`: discovered, starting at 1200.
    pub udp_payload: Option<u16>,
    /// Generic segmentation offload; some NICs fail with it.
    pub segmentation_offload: bool,
}

/// A bound UDP socket with QUIC on it.
#[derive(Clone, Debug)]
pub struct Endpoint {}

/// A neighbour that has passed the handshake, not yet given to a [`crate::Host`].
#[derive(Debug)]
pub struct Session {
    /// Who it is.
    pub peer: Peer,
    /// Its [`Hello`] where it dialled; ours where we did.
    pub hello: Hello,
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

#[expect(unused_variables, clippy::unused_async, reason = "contract only")]
impl Endpoint {
    /// Binds. The error names the address and what is wrong with it (taken, not ours, no permission).
    pub fn bind(options: &EndpointOptions, credentials: Credentials) -> Result<Endpoint, std::io::Error> {
        todo!()
    }

    /// Where it is bound.
    pub fn local_address(&self) -> SocketAddr {
        todo!()
    }

    /// Dials `address` (`host:port`), and shakes hands.
    pub async fn connect(&self, address: &str, hello: Hello) -> Result<Session, ConnectError> {
        todo!()
    }

    /// The next neighbour that dialled and passed the handshake. Handshakes run side by side, bounded in number and
    /// time; one that fails is answered with its reason, logged, and not returned. `None` when the endpoint is closed.
    pub async fn accept(&self, verifier: &Verifier) -> Option<Session> {
        todo!()
    }

    /// Closes every connection and waits until the peers had a chance to hear of it.
    pub async fn close(&self, code: CloseCode, reason: &str) {
        todo!()
    }
}
