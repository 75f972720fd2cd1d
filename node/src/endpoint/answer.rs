//! Answering: handshakes side by side, bounded in number, time, per address, and in how many may fail.

use super::admission::{Admission, Verdict};
use super::complaints::Complaints;
use super::handshake::{self, Failed, Session, closed_by};
use super::{Inner, path};
use crate::clock::Clock;
use crate::control::{CloseCode, Refusal};
use crate::network::network;
use crate::ports::Closed;
use crate::trust::Verifier;
use quinn::{Connecting, Connection, Incoming, VarInt};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;
use topology::NodeName;

/// Most handshakes at a time. What comes on top waits with its sender, which repeats itself.
pub(super) const MAX_HANDSHAKES: usize = 256;

/// From the first datagram to the welcome.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// The handshakes of an endpoint that are under way.
pub(super) struct Answering {
    handshakes: tokio::sync::Mutex<JoinSet<Option<Session>>>,
    clock: Clock,
    admission: Admission,
    complaints: Arc<Mutex<Complaints>>,
    /// Counts those that were begun.
    pub(super) begun: AtomicU64,
    /// Counts those that were not answered, because more than may are under way or have failed.
    pub(super) put_off: AtomicU64,
}

impl Answering {
    pub(super) fn new() -> Answering {
        let (handshakes, complaints) = (tokio::sync::Mutex::default(), Arc::default());
        let (admission, begun, put_off) = (Admission::default(), AtomicU64::new(0), AtomicU64::new(0));
        Answering { handshakes, clock: Clock::start(), admission, complaints, begun, put_off }
    }

    /// The next session, or `None` when the endpoint is closed. Loses nothing when dropped half-way.
    pub(super) async fn next(&self, endpoint: &Inner, own: &NodeName, verifier: &Verifier) -> Option<Session> {
        let mut handshakes = self.handshakes.lock().await;
        loop {
            let full = handshakes.len() >= MAX_HANDSHAKES;
            tokio::select! {
                Some(done) = handshakes.join_next() => {
                    if let Ok(Some(session)) = done {
                        return Some(session);
                    }
                }
                incoming = endpoint.incoming(), if !full => {
                    let (incoming, place) = incoming?;
                    self.start(endpoint, incoming, place, own, verifier, &mut handshakes);
                }
            }
        }
    }

    fn start(
        &self,
        endpoint: &Inner,
        incoming: Incoming,
        place: usize,
        own: &NodeName,
        verifier: &Verifier,
        handshakes: &mut JoinSet<Option<Session>>,
    ) {
        let address = incoming.remote_address();
        let address = SocketAddr::from((address.ip().to_canonical(), address.port()));
        let begun = match self.admission.judge(self.clock.now(), network(address.ip()), !incoming.may_retry()) {
            Verdict::Begin(begun) => begun,
            Verdict::Prove => {
                // It fails only where a retry was sent already, which was asked just now.
                let _ = incoming.retry();
                return;
            }
            Verdict::PutOff(why) => {
                incoming.ignore();
                self.put_off.fetch_add(1, Ordering::Relaxed);
                let failure = Failure { what: "handshake put off", code: CloseCode::Overload, reason: why.to_owned() };
                self.telling(address).tell(&failure);
                return;
            }
        };
        let Some(config) = endpoint.answer_at(path::announced(&incoming.orig_dst_cid())) else {
            incoming.refuse();
            return;
        };
        let connecting = match incoming.accept_with(config) {
            Ok(connecting) => connecting,
            Err(error) => {
                tracing::debug!(%address, %error, "what came is no handshake");
                return;
            }
        };
        let (nth, telling) = (self.begun.fetch_add(1, Ordering::Relaxed), self.telling(address));
        let (own, verifier, carrier) = (own.clone(), verifier.clone(), endpoint.places[place].carrier.clone());
        handshakes.spawn(async move {
            match answer(connecting, &own, &verifier, nth).await {
                Ok(mut session) => {
                    begun.succeeded();
                    let (peer, agent) = (&session.peer, &session.agent);
                    tracing::info!(%address, peer = %peer.name, role = %peer.role, %agent, "connected");
                    session.wire.carrier = carrier;
                    Some(session)
                }
                Err(failure) => {
                    telling.tell(&failure);
                    None
                }
            }
        });
    }

    fn telling(&self, address: SocketAddr) -> Telling {
        Telling { complaints: self.complaints.clone(), clock: self.clock, address }
    }
}

/// Why there is no session with who dialled.
struct Failure {
    what: &'static str,
    code: CloseCode,
    reason: String,
}

/// Tells of failures in the log, as often as may be.
struct Telling {
    complaints: Arc<Mutex<Complaints>>,
    clock: Clock,
    address: SocketAddr,
}

impl Telling {
    fn tell(&self, failure: &Failure) {
        let (Failure { what, code, reason }, address) = (failure, self.address);
        let mut complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        match complaints.next(self.clock.now(), network(address.ip())) {
            Some(0) => tracing::warn!(%address, ?code, %reason, "{what}"),
            Some(left_out) => tracing::warn!(%address, ?code, %reason, left_out, "{what}"),
            None => tracing::debug!(%address, ?code, %reason, "{what}"),
        }
    }
}

/// One handshake.
async fn answer(connecting: Connecting, own: &NodeName, verifier: &Verifier, nth: u64) -> Result<Session, Failure> {
    let mut connected: Option<Connection> = None;
    let shake = async {
        let connection = connecting.await.map_err(Failed::Lost)?;
        connected = Some(connection.clone());
        handshake::answer(connection, own, verifier, nth).await
    };
    match tokio::time::timeout(TIME_LIMIT, shake).await {
        Ok(Ok(session)) => Ok(session),
        Ok(Err(Failed::Unacceptable(Refusal { code, reason }))) => Err(Failure { what: "peer refused", code, reason }),
        Ok(Err(Failed::Refused(Refusal { code, reason }))) => {
            Err(Failure { what: "the peer refuses this relay", code, reason })
        }
        Ok(Err(Failed::Lost(error))) => {
            let Closed { code, reason } = closed_by(&error);
            Err(Failure { what: "handshake failed", code, reason })
        }
        Err(_) => {
            let code = CloseCode::Protocol;
            if let Some(connection) = connected {
                connection.close(VarInt::from_u32(code.to_wire()), b"no hello in time");
            }
            Err(Failure { what: "handshake failed", code, reason: format!("not done in {TIME_LIMIT:?}") })
        }
    }
}
