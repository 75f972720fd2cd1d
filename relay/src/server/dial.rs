//! Keeping a link to one neighbour.

use super::sockets::From;
use super::{REFUSED_EVERY, Shared};
use crate::report::NeighbourState;
use node::backoff::Backoff;
use node::control::{CloseCode, Hello, NAMED_LINKS, RECEIPTS, SURVEYS, VERSION};
use node::endpoint::{ConnectError, Session};
use node::trust::Role;
use node::{Closed, PortId};
use std::rc::Rc;
use std::time::Duration;
use topology::{LinkEnd, LinkName, NodeName};

/// A connection that lasted for so long ends a row of failures.
const LASTING: Duration = Duration::from_secs(5);

/// Pauses between attempts, at first and at most. The chance in them keeps two ends that dial each other from meeting half-way for ever.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));

/// Within this the two ends of a connection to oneself have both been seen.
const MEETING: Duration = Duration::from_millis(500);

/// How long a relay that was chosen may take to answer.
const ONCE: Duration = Duration::from_secs(5);

pub(super) struct Dialler {
    pub(super) shared: Rc<Shared>,
    pub(super) index: usize,
    pub(super) address: String,
    pub(super) expected: Option<NodeName>,
    /// Who was found there before.
    pub(super) found: Option<NodeName>,
    /// Which of the links to it this is.
    pub(super) link: Option<LinkName>,
    pub(super) from: From,
}

impl Dialler {
    /// Dials whenever there is no link to the neighbour, whoever dialled the last one.
    pub(super) async fn run(self) {
        let mut backoff = Backoff::new(PAUSES.0, PAUSES.1, self.shared.boot.wrapping_add(self.index as u64));
        let mut name = self.expected.clone().or(self.found.clone());
        loop {
            let stands = |end: &LinkEnd| self.shared.host.with(|_, system, _| system.link(end));
            let end = name.clone().map(|relay| LinkEnd { relay, link: self.link.clone() });
            if let Some(port) = end.as_ref().and_then(stands) {
                let up_since = self.shared.clock.now();
                self.shared.update(self.index, |neighbour| neighbour.state = NeighbourState::Up);
                let closed = self.shared.host.closed(port).await;
                self.lost(&closed);
                if self.shared.clock.now().saturating_since(up_since) > LASTING {
                    backoff.reset();
                }
                tokio::time::sleep(backoff.pause()).await;
                continue;
            }
            match self.connect(name.as_ref(), &backoff).await {
                Ok(session) => {
                    let (found, port) = self.attach(session);
                    if self.has_met_itself(&found.relay).await {
                        self.shared.update(self.index, |neighbour| neighbour.state = NeighbourState::Itself);
                        // The address may become another's.
                        tokio::time::sleep(REFUSED_EVERY).await;
                    } else if stands(&found).is_none() {
                        // There is no place for it, or another relay has the name of this one.
                        let Closed { code, reason } = self.shared.host.closed(port).await;
                        let error = ConnectError::Refused { address: self.address.clone(), code, reason };
                        tokio::time::sleep(self.pause_after(&error, &mut backoff)).await;
                    }
                    name = Some(found.relay);
                }
                Err(error) => tokio::time::sleep(self.pause_after(&error, &mut backoff)).await,
            }
        }
    }

    /// One attempt to reach a relay of this name, where it is known.
    async fn connect(&self, name: Option<&NodeName>, backoff: &Backoff) -> Result<Session, ConnectError> {
        let takes_names = name.and_then(|name| self.shared.host.with(|_, system, _| system.keeps_named_links(name)));
        if self.link.is_some() && takes_names == Some(false) {
            // It would take the connection for the link that stands, and let go of that.
            let reason = "it speaks a protocol before 1.4, and keeps one link to each relay".to_owned();
            return Err(ConnectError::Refused { address: self.address.clone(), code: CloseCode::Protocol, reason });
        }
        // Short at first: a relay that was just started answers the next attempt at once, while QUIC's own retransmissions of a
        // first packet grow apart.
        let patience = Duration::from_secs(u64::from(2 + backoff.failures().min(8)));
        let unreachable = |reason: String| ConnectError::Unreachable { address: self.address.clone(), reason };
        let endpoint = self.shared.dial_from(self.from).map_err(|failure| unreachable(failure.message))?;
        let hello = hello(self.link.clone());
        let attempt = async {
            match &self.expected {
                Some(expected) => endpoint.connect_to(&self.address, expected, hello).await,
                None => endpoint.connect(&self.address, hello).await,
            }
        };
        let silent = || Err(unreachable("nothing heard from it".to_owned()));
        tokio::time::timeout(patience, attempt).await.unwrap_or_else(|_| silent())
    }

    /// Tells of an attempt that led to no link; how long to wait for the next.
    fn pause_after(&self, error: &ConnectError, backoff: &mut Backoff) -> Duration {
        // Who stops comes back by itself; whatever else it refuses for, an operator has to act first.
        let refused = !error.is_transient();
        self.failed(&error.to_string(), refused);
        if refused { REFUSED_EVERY } else { backoff.pause() }
    }

    /// Gives the connection to the relay; who is there, and at which port.
    fn attach(&self, session: Session) -> (LinkEnd, PortId) {
        let found = session.peer.link_end();
        let mut before = None;
        self.shared.update(self.index, |neighbour| {
            before = neighbour.end();
            neighbour.name = Some(found.relay.clone());
        });
        // Another relay may answer there than did: the entry is no longer that one's.
        before.into_iter().filter(|before| *before != found).for_each(|before| self.shared.renew(&before));
        self.shared.renew(&found);
        let port = self.shared.attach(session);
        let links = u64::from(!self.is_itself(&found.relay));
        self.shared.update(self.index, |neighbour| neighbour.connections += links);
        (found, port)
    }

    /// Whether a relay of this name can be this one alone, or one that bears its name.
    fn is_itself(&self, name: &NodeName) -> bool {
        self.shared.host.with(|_, system, _| system.name() == name)
    }

    /// Whether this relay has come to the other end of the connection that it has just dialled.
    async fn has_met_itself(&self, name: &NodeName) -> bool {
        if !self.is_itself(name) {
            return false;
        }
        let dialled = self.shared.clock.now();
        tokio::time::sleep(MEETING).await;
        let met = self.shared.host.with(|_, system, _| system.met_itself());
        met.is_some_and(|met| met + MEETING >= dialled)
    }

    /// Tells of a failure, once for each change of its reason.
    fn failed(&self, reason: &str, refused: bool) {
        self.shared.update(self.index, |neighbour| {
            if neighbour.last_error.as_deref() != Some(reason) {
                tracing::warn!(address = self.address, reason, "no link to the neighbour; trying on");
            }
            neighbour.last_error = Some(reason.to_owned());
            neighbour.state = if refused { NeighbourState::Refused } else { NeighbourState::Connecting };
        });
    }

    fn lost(&self, closed: &Closed) {
        tracing::info!(address = self.address, code = ?closed.code, reason = closed.reason, "link closed");
        self.shared.update(self.index, |neighbour| {
            neighbour.state = NeighbourState::Connecting;
            neighbour.last_error = Some(closed.reason.clone());
        });
    }
}

/// Dials a relay that was chosen, or any at an address to join through, once.
pub(super) async fn once(shared: Rc<Shared>, address: String, name: Option<NodeName>) {
    let from = From { address: None, path_mtu: shared.config.borrow().path_mtu };
    let endpoint = match shared.dial_from(from) {
        Ok(endpoint) => endpoint,
        Err(failure) => {
            tracing::error!(error = %failure, "a relay that was chosen cannot be dialled");
            return;
        }
    };
    let attempt = async {
        match &name {
            Some(name) => endpoint.connect_to(&address, name, hello(None)).await,
            None => endpoint.connect(&address, hello(None)).await,
        }
    };
    let reason = match tokio::time::timeout(ONCE, attempt).await {
        Ok(Ok(session)) => {
            shared.attach(session);
            return;
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => "nothing heard from it".to_owned(),
    };
    tracing::info!(address, name = ?name, reason, "a relay that was chosen is not reached");
    if let Some(name) = name {
        shared.host.with(|now, system, _| system.dial_failed(now, &name));
    }
}

fn hello(link: Option<LinkName>) -> Hello {
    Hello {
        version: VERSION,
        features: RECEIPTS | SURVEYS | NAMED_LINKS,
        role: Role::Relay,
        tokens: Vec::new(),
        agent: concat!("anabranch-relay ", env!("CARGO_PKG_VERSION")).to_owned(),
        link,
    }
}
