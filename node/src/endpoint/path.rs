//! What size of packet a path carries: assumed, asked for, proved, remembered.
//!
//! A connection keeps one size for all its life. quinn's own discovery is not used: its black-hole detection takes bursts of lost
//! packets of several sizes for a path that has become smaller (at 5 % bursty loss every few seconds), and each time throws
//! away what no longer fits. Instead the dialling end *assumes* an ordinary path, tells the answering end the size in the
//! connection id of its first packet, and *proves* it by a question that is answered at the same size ([`link::proof`]). A path that
//! does not carry it is remembered as small, and dialled again with the least that QUIC requires; media larger than a frame then
//! travels in two.

use crate::clock::Clock;
use crate::control::CloseCode;
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use link::Instant;
use link::frame::{self, Frame, PathProbe};
use link::proof::{PathProof, Verdict};
use quinn::{Connection, ConnectionError, ConnectionId};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// UDP payload of a path that nobody knows better: Ethernet's 1500 bytes less IPv6 and UDP.
pub(super) const ASSUMED: u16 = 1452;

/// Least UDP payload of a path that QUIC can use (RFC 9000 section 14).
pub(super) const LEAST: u16 = 1200;

/// Most UDP payload there is.
pub(super) const MOST: u16 = 65527;

/// How long a path counts as small before the assumed size is tried again.
const REMEMBERED: Duration = Duration::from_secs(600);

/// Most paths remembered.
const MAX_REMEMBERED: usize = 1024;

/// Most datagrams that may arrive before the proof is done; a peer sends only probes and reports by then.
const MAX_EARLY: usize = 256;

/// Marks a connection id that tells a size: what a foreign dialler chooses at random rarely ends so.
const MARK: [u8; 4] = *b"mtu ";

/// The token of the questions of a dialling end; links count theirs up from one.
const DIALLING: u32 = 0;

/// Addresses whose path is small.
#[derive(Debug)]
pub(crate) struct Paths {
    clock: Clock,
    small: Mutex<VecDeque<(SocketAddr, Instant)>>,
}

impl Paths {
    pub(super) fn new() -> Paths {
        Paths { clock: Clock::start(), small: Mutex::default() }
    }

    /// Notes that the path to `address` does not carry the assumed size.
    pub(crate) fn remember_small(&self, address: SocketAddr) {
        let address = canonical(address);
        let mut small = self.small.lock().unwrap_or_else(PoisonError::into_inner);
        small.retain(|(other, _)| *other != address);
        if small.len() == MAX_REMEMBERED {
            small.pop_front();
        }
        small.push_back((address, self.clock.now()));
    }

    pub(super) fn is_small(&self, address: SocketAddr) -> bool {
        let (address, now) = (canonical(address), self.clock.now());
        let mut small = self.small.lock().unwrap_or_else(PoisonError::into_inner);
        small.retain(|(_, since)| now - *since < REMEMBERED);
        small.iter().any(|(other, _)| *other == address)
    }
}

/// A socket of both families tells of a peer of IPv4 as `::ffff:a.b.c.d`; it is dialled as `a.b.c.d`.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::from((ip, address.port())),
        IpAddr::V6(_) => address,
    }
}

/// The connection id of a first packet that tells the answering end what UDP payload the connection is made for: 14 random bytes
/// (RFC 9000 section 7.2 requires 8), the mark, the size.
pub(super) fn announce(payload: u16) -> ConnectionId {
    let mut id = [0; 20];
    getrandom::fill(&mut id[..14]).expect("the system's randomness, without which there is no TLS either");
    id[14..18].copy_from_slice(&MARK);
    id[18..].copy_from_slice(&payload.to_be_bytes());
    ConnectionId::new(&id)
}

/// What [`announce`] told; the least where it told nothing.
pub(super) fn announced(id: &ConnectionId) -> u16 {
    match <[u8; 20]>::try_from(&id[..]) {
        Ok(id) if id[14..18] == MARK => u16::from_be_bytes([id[18], id[19]]).max(LEAST),
        _ => LEAST,
    }
}

/// Whether the path carries the largest frame of a connection, both ways. What else arrives meanwhile is kept in `early` for the
/// link. Ends early only with the connection.
///
/// To be polled before the hello is sent, so that the first question travels with it: see [`answer_questions`].
pub(super) async fn prove(connection: &Connection, early: &mut Vec<Bytes>) -> Result<bool, ConnectionError> {
    let Some(size) = connection.max_datagram_size() else { return Ok(false) };
    let clock = Clock::start();
    let mut proof = PathProof::new(clock.now(), size, DIALLING);
    let mut out = BytesMut::new();
    loop {
        let now = clock.now();
        match proof.verdict(now) {
            Verdict::Carried => return Ok(true),
            Verdict::NotCarried => return Ok(false),
            Verdict::Silent => proof = PathProof::new(now, size, DIALLING),
            Verdict::Pending => {}
        }
        while proof.poll_transmit(now, &mut out).is_some() {
            // Where it is lost, or the connection is, the next steps show it.
            let _ = connection.send_datagram(out.split().freeze());
        }
        let due = proof.poll_timeout().unwrap_or(now);
        tokio::select! {
            arrived = connection.read_datagram() => take(&mut proof, arrived?, early),
            () = tokio::time::sleep_until(clock.to_tokio(due)) => {}
        }
    }
}

/// Answers the questions that came with the hello, before the welcome goes out. Later ones are answered by the link.
pub(super) fn answer_questions(connection: &Connection) {
    while let Some(Ok(datagram)) = connection.read_datagram().now_or_never() {
        if let (Ok(Frame::Path(probe)), Some(most)) = (frame::decode(&datagram), connection.max_datagram_size())
            && !probe.answer
        {
            let mut out = BytesMut::new();
            PathProbe { answer: true, ..probe }.put(&mut out, datagram.len().min(most));
            let _ = connection.send_datagram(out.freeze());
        }
    }
}

fn take(proof: &mut PathProof, datagram: Bytes, early: &mut Vec<Bytes>) {
    match frame::decode(&datagram) {
        Ok(Frame::Path(probe)) if probe.answer => proof.handle_answer(probe, datagram.len()),
        _ if early.len() < MAX_EARLY => early.push(datagram),
        _ => {}
    }
}

/// Hangs up on a peer whose path does not carry what the connection was made for.
pub(super) fn abandon(connection: &Connection) {
    connection.close(
        quinn::VarInt::from_u32(CloseCode::Replaced.to_wire()),
        b"the path carries smaller packets; dialling again",
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_id_tells_the_size() {
        for payload in [1200, 1452, 9000, MOST] {
            assert_eq!(announced(&announce(payload)), payload);
        }
        assert_ne!(announce(1452), announce(1452));
        assert_eq!(announced(&announce(3)), LEAST);
        for foreign in [&[][..], &[7; 8], &[7; 20]] {
            assert_eq!(announced(&ConnectionId::new(foreign)), LEAST);
        }
    }

    #[test]
    fn small_paths_are_remembered_and_bounded() {
        let paths = Paths::new();
        let address = |n: u16| SocketAddr::from(([192, 0, 2, 1], n));
        assert!(!paths.is_small(address(1)));
        for n in 1..=MAX_REMEMBERED as u16 + 1 {
            paths.remember_small(address(n));
            paths.remember_small(address(n));
        }
        assert!(!paths.is_small(address(1)), "the oldest gave way");
        assert!(paths.is_small(address(2)) && paths.is_small(address(MAX_REMEMBERED as u16 + 1)));
        assert_eq!(paths.small.lock().unwrap().len(), MAX_REMEMBERED);
        paths.remember_small("[::ffff:198.51.100.1]:7".parse().unwrap());
        assert!(paths.is_small("198.51.100.1:7".parse().unwrap()), "as a socket of both families tells of it");
    }
}
