//! The sockets from which a relay dials: one for each address and size of path, made when it is first needed.

use super::bind;
use crate::config::Config;
use node::endpoint::{Endpoint, EndpointOptions, Threads};
use node::exit::Failure;
use node::trust::Credentials;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// From where to dial, and over which paths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct From {
    /// The address of this machine; any, where it is not given.
    pub(super) address: Option<IpAddr>,
    /// The MTU that the path is known to have.
    pub(super) path_mtu: Option<u16>,
}

pub(super) struct Sockets {
    made: RefCell<BTreeMap<From, Endpoint>>,
    /// Over which all connections are divided.
    threads: Threads,
    credentials: Credentials,
}

impl Sockets {
    pub(super) fn new(threads: Threads, credentials: Credentials) -> Sockets {
        Sockets { made: RefCell::default(), threads, credentials }
    }

    /// The endpoint to dial from. An address that this machine does not have now may come back: who asks again is given it then.
    pub(super) fn endpoint(&self, config: &Config, from: From) -> Result<Endpoint, Failure> {
        if let Some(endpoint) = self.made.borrow().get(&from) {
            return Ok(endpoint.clone());
        }
        let any = EndpointOptions::default().listen;
        let place = from.address.map_or(any, |address| SocketAddr::new(address, 0));
        let endpoint = bind(config, &self.threads, place, from.path_mtu, &self.credentials)?;
        self.made.borrow_mut().insert(from, endpoint.clone());
        Ok(endpoint)
    }

    /// All that there are.
    pub(super) fn all(&self) -> Vec<Endpoint> {
        self.made.borrow().values().cloned().collect()
    }
}
