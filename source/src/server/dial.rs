//! Finding a relay that serves.

use super::random;
use crate::config::Config;
use link::LinkConfig;
use node::backoff::Backoff;
use node::control::{CloseCode, Hello, TOKENS, VERSION};
use node::endpoint::{ConnectError, Endpoint, EndpointOptions, Session};
use node::exit::Failure;
use node::trust::{Credentials, Role, TokenFile};
use std::cell::RefCell;
use std::net::SocketAddr;
use std::time::Duration;

/// How long one relay may take to answer before the next is tried.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// Pauses between rounds over all relays, at first and at most: short enough for a live stream, long enough for a relay that starts.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Dials the configured relays.
pub(super) struct Dialler {
    relays: Vec<String>,
    hello: RefCell<Hello>,
    credentials: Credentials,
    options: EndpointOptions,
    /// Bound when first needed.
    endpoint: RefCell<Option<Endpoint>>,
    seed: u64,
}

/// A relay that serves.
pub(super) struct Dialled {
    pub(super) session: Session,
    pub(super) address: String,
    pub(super) link: LinkConfig,
}

/// Why none does.
#[derive(Debug)]
pub(super) struct NotDialled {
    /// Whether every relay answered, and refused for good.
    pub(super) refused: bool,
    pub(super) message: String,
}

impl Dialler {
    /// With it come the tokens it shows, which are to be followed.
    pub(super) fn new(config: &Config) -> Result<(Dialler, TokenFile), Failure> {
        let (credentials, tokens) = (config.credentials()?, config.tokens()?);
        let hello = Hello {
            version: VERSION,
            features: TOKENS,
            role: Role::Source,
            tokens: tokens.tokens().to_vec(),
            agent: concat!("anabranch-source/", env!("CARGO_PKG_VERSION")).into(),
            link: None,
        };
        let any = EndpointOptions::default().listen;
        let options = EndpointOptions {
            listen: config.bind.map_or(any, |ip| SocketAddr::new(ip, 0)),
            udp_payload: config.path_mtu,
            segmentation_offload: config.segmentation_offload,
            ..EndpointOptions::default()
        };
        let dialler = Dialler {
            relays: config.relays.clone(),
            hello: RefCell::new(hello),
            credentials,
            options,
            endpoint: RefCell::default(),
            seed: random()?,
        };
        Ok((dialler, tokens))
    }

    /// Shows these tokens from the next connection on.
    pub(super) fn show(&self, tokens: Vec<String>) {
        self.hello.borrow_mut().tokens = tokens;
    }

    /// Tries every relay once, in order of preference. `trying` hears of each.
    pub(super) async fn dial(&self, trying: impl Fn(&str)) -> Result<Dialled, NotDialled> {
        let (mut refused, mut messages) = (true, Vec::new());
        for address in &self.relays {
            trying(address);
            match self.dial_one(address).await {
                Ok(session) => {
                    let link = LinkConfig { seed: self.seed, ..LinkConfig::leaf() };
                    return Ok(Dialled { session, address: address.clone(), link });
                }
                Err(error) => {
                    refused &= !error.is_transient();
                    messages.push(error.to_string());
                }
            }
        }
        Err(NotDialled { refused, message: messages.join("; ") })
    }

    /// The pauses between rounds without success.
    pub(super) fn backoff(&self) -> Backoff {
        Backoff::new(PAUSES.0, PAUSES.1, self.seed)
    }

    /// Closes the socket, the peer told.
    pub(super) async fn close(&self) {
        let endpoint = self.endpoint.borrow_mut().take();
        if let Some(endpoint) = endpoint {
            endpoint.close(CloseCode::Done, "the source has stopped").await;
        }
    }

    async fn dial_one(&self, address: &str) -> Result<Session, ConnectError> {
        let endpoint = self.endpoint().map_err(|reason| unreachable(address, reason))?;
        // Shorter than the endpoint's own patience: the next relay may answer at once.
        let hello = self.hello.borrow().clone();
        match tokio::time::timeout(ANSWER_WITHIN, endpoint.connect(address, hello)).await {
            Ok(answer) => answer,
            Err(_) => {
                Err(unreachable(address, format!("nothing within {}", humantime::format_duration(ANSWER_WITHIN))))
            }
        }
    }

    fn endpoint(&self) -> Result<Endpoint, String> {
        let mut slot = self.endpoint.borrow_mut();
        if let Some(endpoint) = &*slot {
            return Ok(endpoint.clone());
        }
        let endpoint = Endpoint::bind(&self.options, self.credentials.clone());
        let endpoint = endpoint.map_err(|error| format!("cannot send from {}: {error}", self.options.listen.ip()))?;
        *slot = Some(endpoint.clone());
        Ok(endpoint)
    }
}

fn unreachable(address: &str, reason: String) -> ConnectError {
    ConnectError::Unreachable { address: address.into(), reason }
}
