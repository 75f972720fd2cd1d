//! The shell that every end system shares: the QUIC endpoint, handshake and trust, the driver of a link, the clock,
//! configuration and telemetry.
//!
//! What a relay, a source or a sink *decides* is in an [`EndSystem`], which is pure: it is fed events and acts on [`Ports`].
//! [`Host`] runs one end system over real sockets, on one thread.

pub mod ages;
pub mod backoff;
pub mod clock;
pub mod config;
pub mod connections;
pub mod control;
pub mod endpoint;
pub mod engine;
pub mod exit;
pub mod greeting;
pub mod host;
pub mod lines;
pub mod metrics;
pub mod network;
pub mod ops;
pub mod payload;
pub mod ports;
pub mod rate;
pub mod telemetry;
pub mod terminal;
pub mod testing;
pub mod trust;
pub mod ts;

pub use host::Host;
pub use ports::{Closed, EndSystem, Peer, PortId, Ports};

/// This build, as it calls itself to its peers.
pub(crate) const AGENT: &str = concat!("anabranch/", env!("CARGO_PKG_VERSION"));
