//! Who may do what: the overlay's authority, certificates with roles, tokens for streams.

use link::Bitrate;
use serde::{Deserialize, Serialize};
use topology::StreamPattern;

/// What a certificate or a token makes its holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Forwards.
    Relay,
    /// Publishes.
    Source,
    /// Watches.
    Sink,
}

/// Publishing or watching.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// The right to publish.
    Publish,
    /// The right to watch.
    Subscribe,
}

/// What a checked token allows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Which token, for logs and revocation.
    pub id: String,
    /// Which streams.
    pub streams: StreamPattern,
    /// To do what.
    pub direction: Direction,
    /// At most at this rate, where it says so.
    pub max_rate: Option<Bitrate>,
    /// Until then: seconds since 1970-01-01T00:00:00Z.
    pub expires: u64,
}

/// What an endpoint shows and whom it trusts: the authority's certificate and, where it has one, its own certificate and key.
#[derive(Clone, Debug)]
pub struct Credentials {}

/// Checks what a dialling peer brings: certificate role, tokens, overlay. Cheap to share; replaced whole on reload.
#[derive(Clone, Debug)]
pub struct Verifier {}
