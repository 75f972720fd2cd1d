//! Answering: handshakes side by side, bounded in number, time and per address.

use super::handshake::{self, Failed, Session, closed_by};
use super::{Inner, path};
use crate::control::CloseCode;
use crate::network::network;
use crate::trust::Verifier;
use quinn::{Connecting, Connection, Incoming, VarInt};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;
use topology::NodeName;

/// Most handshakes at a time. What comes on top waits with its sender, which repeats itself.
pub(super) const MAX_HANDSHAKES: usize = 256;

/// From here on a dialler must first show that it can be reached at its address (Retry, RFC 9000 section 8.1).
const RETRY_ABOVE: usize = 32;

/// Most handshakes at a time of one IPv4 address, or one IPv6 network of 64 bits.
pub(super) const MAX_PER_NETWORK: usize = 64;

/// From the first datagram to the welcome.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// The handshakes of an endpoint that are under way.
#[derive(Default)]
pub(super) struct Answering {
    handshakes: tokio::sync::Mutex<JoinSet<Option<Session>>>,
    networks: Arc<Networks>,
    peers: AtomicU64,
}

impl Answering {
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
        if handshakes.len() >= RETRY_ABOVE && incoming.may_retry() {
            // It fails only where a retry was sent already, which was asked just now.
            let _ = incoming.retry();
            return;
        }
        let Some(counted) = Networks::enter(&self.networks, address) else {
            tracing::debug!(%address, "handshake put off: {MAX_PER_NETWORK} from this network are under way");
            incoming.ignore();
            return;
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
        let nth = self.peers.fetch_add(1, Ordering::Relaxed);
        let (own, verifier, carrier) = (own.clone(), verifier.clone(), endpoint.places[place].carrier.clone());
        handshakes.spawn(async move {
            let _counted = counted;
            let mut session = answer(connecting, address, &own, &verifier, nth).await?;
            session.wire.carrier = carrier;
            Some(session)
        });
    }
}

/// One handshake; a failure is logged with its reason.
async fn answer(
    connecting: Connecting,
    address: SocketAddr,
    own: &NodeName,
    verifier: &Verifier,
    nth: u64,
) -> Option<Session> {
    let address = SocketAddr::from((address.ip().to_canonical(), address.port()));
    let mut connected: Option<Connection> = None;
    let shake = async {
        let connection = connecting.await.map_err(Failed::Lost)?;
        connected = Some(connection.clone());
        handshake::answer(connection, own, verifier, nth).await
    };
    match tokio::time::timeout(TIME_LIMIT, shake).await {
        Ok(Ok(session)) => {
            let (peer, agent) = (&session.peer, &session.agent);
            tracing::info!(%address, peer = %peer.name, role = %peer.role, %agent, "connected");
            return Some(session);
        }
        Ok(Err(Failed::Unacceptable(refusal))) => {
            tracing::warn!(%address, code = ?refusal.code, reason = %refusal.reason, "peer refused");
        }
        Ok(Err(Failed::Refused(refusal))) => {
            tracing::warn!(%address, reason = %refusal.reason, "the peer refuses this relay");
        }
        Ok(Err(Failed::Lost(error))) => {
            let closed = closed_by(&error);
            tracing::warn!(%address, code = ?closed.code, reason = %closed.reason, "handshake failed");
        }
        Err(_) => {
            if let Some(connection) = connected {
                let code = VarInt::from_u32(CloseCode::Protocol.to_wire());
                connection.close(code, b"no hello in time");
            }
            tracing::warn!(%address, "handshake failed: not done in {TIME_LIMIT:?}");
        }
    }
    None
}

/// How many handshakes each network has under way.
#[derive(Default)]
struct Networks(Mutex<HashMap<IpAddr, usize>>);

/// A handshake in the count, given back when it is dropped.
struct Counted {
    networks: Arc<Networks>,
    network: IpAddr,
}

impl Networks {
    fn enter(networks: &Arc<Networks>, address: SocketAddr) -> Option<Counted> {
        let network = network(address.ip());
        let mut counts = networks.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(network).or_default();
        if *count >= MAX_PER_NETWORK {
            return None;
        }
        *count += 1;
        Some(Counted { networks: networks.clone(), network })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.networks.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_network_cannot_take_all_places() {
        let networks = Arc::<Networks>::default();
        let from = |text: &str| Networks::enter(&networks, text.parse().unwrap());
        let places: Vec<Counted> = (0..MAX_PER_NETWORK).filter_map(|_| from("[2001:db8::1]:1")).collect();
        assert_eq!(places.len(), MAX_PER_NETWORK);
        assert!(from("[2001:db8::ffff:2]:9").is_none());
        assert!(from("[2001:db8:0:1::1]:1").is_some());
        assert!(from("192.0.2.1:1").is_some());
        drop(places);
        assert!(from("[2001:db8::ffff:2]:9").is_some());
        assert!(networks.0.lock().unwrap().is_empty());
    }
}
