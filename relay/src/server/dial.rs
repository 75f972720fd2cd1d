//! Keeping a link to one neighbour.

use super::{REFUSED_EVERY, Shared};
use crate::report::NeighbourState;
use node::Closed;
use node::control::{Hello, VERSION};
use node::endpoint::{ConnectError, Endpoint, Session};
use node::trust::Role;
use std::rc::Rc;
use std::time::Duration;
use topology::NodeName;

/// A connection that lasted for so long ends a row of failures.
const LASTING: Duration = Duration::from_secs(5);

pub(super) struct Dialler {
    pub(super) shared: Rc<Shared>,
    pub(super) index: usize,
    pub(super) address: String,
    pub(super) expected: Option<NodeName>,
    /// Who was found there before.
    pub(super) found: Option<NodeName>,
    pub(super) endpoint: Endpoint,
}

impl Dialler {
    /// Dials whenever there is no link to the neighbour, whoever dialled the last one.
    pub(super) async fn run(self) {
        let mut backoff = Backoff::new(self.shared.boot.wrapping_add(self.index as u64));
        let mut name = self.expected.clone().or(self.found.clone());
        loop {
            if let Some(port) = name.as_ref().and_then(|name| self.shared.host.with(|_, system, _| system.relay(name)))
            {
                let up_since = self.shared.clock.now();
                self.shared.update(self.index, |neighbour| neighbour.state = NeighbourState::Up);
                let closed = self.shared.host.closed(port).await;
                self.lost(&closed);
                if self.shared.clock.now().saturating_since(up_since) > LASTING {
                    backoff.reset();
                }
                tokio::time::sleep(backoff.next()).await;
                continue;
            }
            match self.connect(&mut backoff).await {
                Ok(session) => name = Some(self.attach(session)),
                Err(pause) => tokio::time::sleep(pause).await,
            }
        }
    }

    /// One attempt; on failure says how long to wait for the next.
    async fn connect(&self, backoff: &mut Backoff) -> Result<Session, Duration> {
        let patience = backoff.patience();
        let attempt = async {
            match &self.expected {
                Some(expected) => self.endpoint.connect_to(&self.address, expected, self.hello()).await,
                None => self.endpoint.connect(&self.address, self.hello()).await,
            }
        };
        let error = match tokio::time::timeout(patience, attempt).await {
            Ok(Ok(session)) => return Ok(session),
            Ok(Err(error)) => error,
            Err(_) => {
                ConnectError::Unreachable { address: self.address.clone(), reason: "nothing heard from it".to_owned() }
            }
        };
        let refused = matches!(error, ConnectError::Refused { .. });
        self.failed(&error.to_string(), refused);
        Err(if refused { REFUSED_EVERY } else { backoff.next() })
    }

    /// Gives the connection to the relay.
    fn attach(&self, session: Session) -> NodeName {
        let found = session.peer.name.clone();
        self.shared.update(self.index, |neighbour| neighbour.name = Some(found.clone()));
        self.shared.renew(&found);
        self.shared.attach(session);
        self.shared.update(self.index, |neighbour| {
            neighbour.state = NeighbourState::Up;
            neighbour.connections += 1;
        });
        found
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

    fn hello(&self) -> Hello {
        Hello {
            version: VERSION,
            features: 0,
            role: Role::Relay,
            tokens: Vec::new(),
            agent: concat!("anabranch-relay ", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// Pauses that double from 100 ms to 3 s, each with up to a quarter of chance in it, so that two ends that dial each other
/// do not go on meeting half way.
struct Backoff {
    failures: u32,
    random: u64,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(3);

    fn new(seed: u64) -> Backoff {
        Backoff { failures: 0, random: seed | 1 }
    }

    fn next(&mut self) -> Duration {
        let pause = (Self::FIRST * (1 << self.failures.min(10))).min(Self::LONGEST);
        self.failures += 1;
        // A linear congruential generator (Knuth, TAOCP 2, 3.3.4): chance enough for a pause.
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        pause + pause / 4 * (self.random >> 48) as u32 / 65_536
    }

    /// How long to wait for an answer. Short at first: a relay that was just started answers the next attempt at once,
    /// while QUIC's own retransmissions of a first packet grow apart.
    fn patience(&self) -> Duration {
        Duration::from_secs(u64::from(2 + self.failures.min(8)))
    }

    fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_start_over() {
        let mut backoff = Backoff::new(7);
        let pauses: Vec<Duration> = (0..20).map(|_| backoff.next()).collect();
        assert!(pauses[0] < Duration::from_millis(130) && pauses[3] >= Duration::from_millis(800));
        assert!(pauses.iter().all(|pause| *pause <= Duration::from_millis(3750)));
        assert!(pauses[19] >= Duration::from_secs(3));
        backoff.reset();
        assert!(backoff.next() < Duration::from_millis(130));
    }
}
