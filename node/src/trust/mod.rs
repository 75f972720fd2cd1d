//! Who may do what: the overlay's authority, certificates with roles, tokens for streams.
//!
//! An overlay is what one [`Authority`] vouches for. It signs a certificate with a name and a [`Role`] for every node, and the key that
//! signs tokens. `authority.crt` is all that anyone needs to check both, offline.
//!
//! Files, in one directory (`anabranch-relay keys` makes them; keys are readable by their owner alone):
//!
//! | file | what | who needs it |
//! |---|---|---|
//! | `authority.crt` | the authority's certificate; while another takes its place both, the newer first | everyone |
//! | `authority.key` | its key | nobody but `keys`: keep it off the network |
//! | `token.key` | the key that signs tokens, with the authority's word for it | who issues tokens |
//! | any, by choice | payload keys of streams ([`stream_keys`]) | the sources and sinks of these streams, no relay |
//! | any, by choice | the token of operations ports ([`OpsToken`]) | relays that ask for it, who may ask them |
//! | any, by choice, made by other tools | certificate and key of an operations port ([`WebServer`]) | the node whose port it is |
//! | `revoked.list` | what the authority has revoked, where it has; public | everyone |
//! | `NAME.crt`, `NAME.key` | certificate and key of a node | that node |

mod authorities;
mod authority;
mod bearer;
mod certificate;
mod credentials;
mod files;
mod keys;
mod ops_token;
mod revocation;
mod seal;
pub mod stream_keys;
mod token;
mod verifier;
mod web;

pub use authority::{Authority, Identity};
pub use bearer::TokenFile;
pub use certificate::peer_identity;
pub use credentials::{ALPN, Credentials, KeyChanges, LOOK_EVERY};
pub use keys::{
    Revoked, finish_authority, init, inspect, issue_node, issue_token, revoke, rotate_authority, rotate_node,
    rotate_token_key,
};
pub use ops_token::{OpsToken, create_ops_token};
pub(crate) use revocation::Standing;
pub use revocation::{FILE as REVOCATIONS, RevocationList};
pub use seal::Seal;
pub use token::{Claims, TokenIssuer};
pub use verifier::{Identified, Verifier};
pub use web::{WebServer, web_client};

use link::Bitrate;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
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

impl Role {
    /// As it is written in certificates and on command lines.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Relay => "relay",
            Role::Source => "source",
            Role::Sink => "sink",
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Role {
    type Err = TrustError;
    fn from_str(text: &str) -> Result<Role, TrustError> {
        match text {
            "relay" => Ok(Role::Relay),
            "source" => Ok(Role::Source),
            "sink" => Ok(Role::Sink),
            _ => Err(TrustError::Malformed { what: "role", reason: "expected relay, source or sink".to_owned() }),
        }
    }
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

/// Why keys, certificates or tokens cannot be made, read or believed. Never holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A file cannot be read or written.
    #[error("{path}: {cause}")]
    File {
        /// Which file.
        path: PathBuf,
        /// By the operating system.
        cause: std::io::Error,
    },
    /// A file is there that must not be overwritten.
    #[error("{0} exists; it is never overwritten: move it away, or choose another directory or name")]
    Exists(PathBuf),
    /// A file does not hold what its name says.
    #[error("{path}: expected {expected}: {reason}")]
    Content {
        /// Which file.
        path: PathBuf,
        /// What should be in it.
        expected: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Two files are wrong, each in its own way.
    #[error("{0}; {1}")]
    Both(Box<TrustError>, Box<TrustError>),
    /// Something received or typed is not what it claims to be.
    #[error("not a {what}: {reason}")]
    Malformed {
        /// What it should be.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// It is well-formed, but this overlay's authority did not sign it.
    #[error("the {0} was not signed by this overlay's authority")]
    Foreign(&'static str),
    /// Its time is over.
    #[error("the {what} expired at {at} (seconds since 1970, UTC)")]
    Expired {
        /// What expired.
        what: &'static str,
        /// When.
        at: u64,
    },
    /// The authority has taken it back.
    #[error("the {0} was revoked")]
    Revoked(String),
    /// The TLS or certificate library refused.
    #[error("{0}")]
    Library(String),
}

/// As fingerprints are written.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
