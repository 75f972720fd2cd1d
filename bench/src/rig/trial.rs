//! The authority of an overlay that lives in one process.

use node::clock::unix_seconds;
use node::trust::{Authority, Claims, Credentials, Direction, Role, TokenIssuer, TrustError};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use topology::{NodeName, StreamPattern};

/// An authority in memory, and what it issues.
#[derive(Debug)]
pub struct Trial {
    authority: Authority,
    tokens: TokenIssuer,
    issued: AtomicU64,
}

/// How long what is issued is valid.
const LIFETIME: Duration = Duration::from_secs(86_400);

impl Trial {
    /// A fresh authority.
    pub fn new() -> Result<Trial, TrustError> {
        let authority = Authority::trial(unix_seconds())?;
        let tokens = authority.token_issuer(unix_seconds(), LIFETIME)?;
        Ok(Trial { authority, tokens, issued: AtomicU64::new(0) })
    }

    /// The authority itself, to save it for programs that read files.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// What a relay needs to be.
    pub fn relay(&self, name: &NodeName) -> Result<relay::Identity, TrustError> {
        let credentials = self.certified(name, Role::Relay)?;
        Ok(relay::Identity { name: name.clone(), verifier: credentials.verifier(), credentials })
    }

    /// What a source shows.
    pub fn source(&self, name: &NodeName) -> Result<Credentials, TrustError> {
        self.certified(name, Role::Source)
    }

    /// What a sink shows, and a token to watch anything.
    pub fn sink(&self, name: &NodeName) -> Result<sink::Identity, TrustError> {
        let token = self.token("**", Direction::Subscribe, LIFETIME)?;
        Ok(sink::Identity { credentials: self.certified(name, Role::Sink)?, tokens: vec![token] })
    }

    /// A token for the streams of a pattern, valid for `lifetime` from now.
    pub fn token(&self, pattern: &str, direction: Direction, lifetime: Duration) -> Result<String, TrustError> {
        let streams: StreamPattern = pattern.parse().map_err(|error| TrustError::Library(format!("{error}")))?;
        let expires = unix_seconds() + lifetime.as_secs();
        // Whoever comes with a token alone is named after it.
        let id = format!("trial-{}", self.issued.fetch_add(1, Ordering::Relaxed));
        self.tokens.issue(&Claims { id, streams, direction, max_rate: None, expires })
    }

    /// What a node without a certificate trusts.
    pub fn bare(&self) -> Result<Credentials, TrustError> {
        self.authority.credentials(None)
    }

    fn certified(&self, name: &NodeName, role: Role) -> Result<Credentials, TrustError> {
        let identity = self.authority.issue(name, role, unix_seconds(), LIFETIME)?;
        self.authority.credentials(Some(&identity))
    }
}
