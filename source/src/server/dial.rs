//! Finding a relay that serves.

use super::random;
use crate::config::Config;
use link::LinkConfig;
use node::control::{CloseCode, Hello, VERSION};
use node::endpoint::{ConnectError, Endpoint, EndpointOptions, Session};
use node::exit::Failure;
use node::trust::{Credentials, Role};
use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// How long one relay may take to answer before the next is tried.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// Pauses between rounds over all relays: short enough for a live stream, long enough for a relay that starts.
const PAUSE_LEAST: Duration = Duration::from_millis(100);
const PAUSE_MOST: Duration = Duration::from_secs(5);

/// Dials the configured relays.
pub(super) struct Dialler {
    relays: Vec<String>,
    hello: Hello,
    credentials: Credentials,
    options: EndpointOptions,
    bind: Option<IpAddr>,
    /// One socket for each address family, opened when first needed.
    endpoints: RefCell<[Option<Endpoint>; 2]>,
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
    pub(super) fn new(config: &Config) -> Result<Dialler, Failure> {
        let credentials = config.credentials()?;
        let hello = Hello {
            version: VERSION,
            features: 0,
            role: Role::Source,
            tokens: config.tokens()?,
            agent: concat!("anabranch-source/", env!("CARGO_PKG_VERSION")).into(),
        };
        let options = EndpointOptions {
            listen: SocketAddr::new(config.bind.unwrap_or(Ipv4Addr::UNSPECIFIED.into()), 0),
            udp_payload: config.path_mtu,
            segmentation_offload: config.segmentation_offload,
        };
        Ok(Dialler {
            relays: config.relays.clone(),
            hello,
            credentials,
            options,
            bind: config.bind,
            endpoints: RefCell::default(),
            seed: random()?,
        })
    }

    /// Tries every relay once, in order of preference. `trying` hears of each.
    pub(super) async fn dial(&self, trying: impl Fn(&str)) -> Result<Dialled, NotDialled> {
        let (mut refused, mut messages) = (true, Vec::new());
        for address in &self.relays {
            trying(address);
            match self.dial_one(address).await {
                Ok(session) => {
                    let link = LinkConfig { seed: self.seed, ..LinkConfig::default() };
                    return Ok(Dialled { session, address: address.clone(), link });
                }
                Err(error) => {
                    refused &= is_final(&error);
                    messages.push(error.to_string());
                }
            }
        }
        Err(NotDialled { refused, message: messages.join("; ") })
    }

    /// How long to wait after so many rounds without success. Spread by up to a quarter, so that a thousand sources of a
    /// relay that restarts do not come at once.
    pub(super) fn pause(&self, tries: u32) -> Duration {
        let pause = (PAUSE_LEAST * (1 << tries.min(8))).min(PAUSE_MOST);
        let spread = self.seed.rotate_left(tries * 7) % 256;
        pause + pause / 1024 * spread as u32
    }

    /// Closes the sockets, the peers told.
    pub(super) async fn close(&self) {
        let endpoints = std::mem::take(&mut *self.endpoints.borrow_mut());
        for endpoint in endpoints.into_iter().flatten() {
            endpoint.close(CloseCode::Done, "the source has stopped").await;
        }
    }

    async fn dial_one(&self, address: &str) -> Result<Session, ConnectError> {
        let mut last = None;
        for target in self.resolve(address).await? {
            let endpoint = self.endpoint(target)?;
            let text = target.to_string();
            let connect = endpoint.connect(&text, self.hello.clone());
            let error = match tokio::time::timeout(ANSWER_WITHIN, connect).await {
                Ok(Ok(session)) => return Ok(session),
                Ok(Err(error)) => error,
                Err(_) => unreachable(address, format!("nothing within {}", humantime::format_duration(ANSWER_WITHIN))),
            };
            last = Some(error);
        }
        Err(last.unwrap_or_else(|| unreachable(address, "no address of the family of `bind`".into())))
    }

    /// The first address of each family, in the resolver's order.
    async fn resolve(&self, address: &str) -> Result<Vec<SocketAddr>, ConnectError> {
        let failed =
            |error: std::io::Error| ConnectError::Resolve { address: address.into(), reason: error.to_string() };
        let mut targets: Vec<SocketAddr> = Vec::new();
        for target in tokio::net::lookup_host(address).await.map_err(failed)? {
            let allowed = self.bind.is_none_or(|bind| bind.is_ipv4() == target.is_ipv4());
            if allowed && targets.iter().all(|known| known.is_ipv4() != target.is_ipv4()) {
                targets.push(target);
            }
        }
        Ok(targets)
    }

    fn endpoint(&self, target: SocketAddr) -> Result<Endpoint, ConnectError> {
        let slot = &mut self.endpoints.borrow_mut()[usize::from(target.is_ipv6())];
        if let Some(endpoint) = slot {
            return Ok(endpoint.clone());
        }
        let any = if target.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let listen = SocketAddr::new(self.bind.unwrap_or(any), 0);
        let options = EndpointOptions { listen, ..self.options.clone() };
        let bound = Endpoint::bind(&options, self.credentials.clone());
        let endpoint =
            bound.map_err(|error| unreachable(&target.to_string(), format!("cannot send from {listen}: {error}")))?;
        *slot = Some(endpoint.clone());
        Ok(endpoint)
    }
}

fn unreachable(address: &str, reason: String) -> ConnectError {
    ConnectError::Unreachable { address: address.into(), reason }
}

/// Whether trying again cannot help: what it brings is wrong, not the moment.
fn is_final(error: &ConnectError) -> bool {
    match error {
        ConnectError::Refused { code, .. } => !matches!(
            code,
            CloseCode::Overload | CloseCode::Stopping | CloseCode::Replaced | CloseCode::Lost | CloseCode::Done
        ),
        ConnectError::Resolve { .. } | ConnectError::Unreachable { .. } => false,
    }
}
