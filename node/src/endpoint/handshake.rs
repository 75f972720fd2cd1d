//! The first words on a connection: [`Hello`] from the dialling end, [`Welcome`] or a refusal from the other.

use super::Carrier;
use super::path::{self, Paths};
use crate::clock::unix_seconds;
use crate::control::{self, CloseCode, CodecError, Control, Hello, LENGTH, Refusal, VERSION, Welcome};
use crate::greeting::{self, FEATURES, Renewal, Unwelcome, printable};
use crate::ports::{Closed, Peer};
use crate::rate::RateHandle;
use crate::trust::{Identified, Role, Standing, Verifier, peer_identity};
use bytes::Bytes;
use quinn::{Connection, ConnectionError, ReadExactError, RecvStream, SendStream, VarInt, WriteError};
use rustls_pki_types::CertificateDer;
use std::sync::Arc;
use std::time::Duration;
use topology::NodeName;

/// How long a refused peer has to read why.
const LAST_WORD: Duration = Duration::from_secs(1);

/// A neighbour that has passed the handshake, not yet given to a [`crate::Host`].
#[derive(Debug)]
pub struct Session {
    /// Who it is.
    pub peer: Peer,
    /// Its [`Hello`] where it dialled; ours where we did.
    pub hello: Hello,
    /// Features that both ends have.
    pub features: u64,
    /// The other end's program and version.
    pub agent: String,
    pub(crate) wire: Wire,
}

/// A connection with its control stream.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) connection: Connection,
    /// The thread that the connection is on, where that is another one.
    pub(crate) carrier: Option<Arc<Carrier>>,
    pub(crate) send: SendStream,
    pub(crate) receive: RecvStream,
    pub(crate) rate: RateHandle,
    /// Where to note that the path has become small; `None` where the size of the path is not ours to find out.
    pub(crate) paths: Option<Arc<Paths>>,
    /// Datagrams that came before there was a link to take them.
    pub(crate) early: Vec<Bytes>,
    /// By what the other end came: when that is revoked, it goes.
    pub(crate) standing: Standing,
    /// What checks other tokens that it shows later; `None` where it was dialled, and has shown none.
    pub(crate) renewal: Option<Renewal>,
}

impl Wire {
    fn new(
        connection: Connection,
        send: SendStream,
        receive: RecvStream,
        rate: RateHandle,
        standing: Standing,
    ) -> Wire {
        Wire { connection, carrier: None, send, receive, rate, paths: None, early: Vec::new(), standing, renewal: None }
    }
}

impl Session {
    /// Turns the peer away after all, with a reason that it gets to read.
    pub async fn refuse(mut self, refusal: Refusal) {
        refuse(&self.wire.connection, &mut self.wire.send, &refusal).await;
    }
}

/// Why a handshake failed.
#[derive(Debug)]
pub(super) enum Failed {
    /// The connection went first.
    Lost(ConnectionError),
    /// What the peer said is not acceptable.
    Unacceptable(Refusal),
    /// The peer refused us.
    Refused(Refusal),
}

/// The answering end, whose name is `own`. `nth` counts the peers of the endpoint.
pub(super) async fn answer(
    connection: Connection,
    own: &NodeName,
    verifier: &Verifier,
    nth: u64,
) -> Result<Session, Failed> {
    let (mut send, mut receive) = connection.accept_bi().await.map_err(Failed::Lost)?;
    match greeted(&connection, &mut receive, verifier, nth).await {
        Ok((peer, hello, rate, standing)) => {
            path::answer_questions(&connection);
            let features = hello.features & FEATURES;
            let welcome = Welcome { version: VERSION, features, name: own.clone(), agent: crate::AGENT.to_owned() };
            say(&connection, &mut send, &Control::Welcome(welcome)).await?;
            let agent = printable(&hello.agent);
            let by_token_alone = certificate(&connection).is_none();
            let renewal = Some(Renewal::new(verifier.clone(), peer.role, by_token_alone));
            let wire = Wire { renewal, ..Wire::new(connection, send, receive, rate, standing) };
            Ok(Session { peer, hello, features, agent, wire })
        }
        Err(Failed::Unacceptable(refusal)) => {
            refuse(&connection, &mut send, &refusal).await;
            Err(Failed::Unacceptable(refusal))
        }
        Err(other) => Err(other),
    }
}

/// The dialling end.
pub(super) async fn introduce(
    connection: Connection,
    expected: Option<&NodeName>,
    hello: Hello,
    verifier: &Verifier,
) -> Result<Session, Failed> {
    // TLS has checked that it is a relay of this overlay.
    let shown = certificate(&connection);
    let (name, role) = shown
        .as_ref()
        .and_then(|certificate| peer_identity(certificate).ok())
        .ok_or_else(|| unacceptable(CloseCode::Unauthenticated, "it showed no certificate".to_owned()))?;
    if let Some(expected) = expected.filter(|expected| **expected != name) {
        let refusal =
            unacceptable(CloseCode::Unauthenticated, format!("the relay there is {name}, expected {expected}"));
        return Err(turned_away(&connection, refusal));
    }
    // Before a word is said: a relay that is no longer believed must not get to see our tokens.
    let who = Identified { name, role, grants: Vec::new() };
    let standing = verifier.standing(shown.as_ref(), &who);
    standing.check().map_err(|refusal| turned_away(&connection, Failed::Unacceptable(refusal)))?;
    let Identified { name, role, grants } = who;
    let (mut send, mut receive) = connection.open_bi().await.map_err(Failed::Lost)?;
    say(&connection, &mut send, &Control::Hello(hello.clone())).await?;
    let said = first(&connection, &mut receive).await.map_err(|failed| turned_away(&connection, failed))?;
    let welcome = greeting::welcome(said).map_err(|unwelcome| match unwelcome {
        Unwelcome::Refused(refusal) => {
            connection.close(code(CloseCode::Done), b"");
            Failed::Refused(refusal)
        }
        Unwelcome::Unacceptable(refusal) => turned_away(&connection, Failed::Unacceptable(refusal)),
    })?;
    let features = hello.features & FEATURES & welcome.features;
    let link =
        greeting::link(&hello, features).map_err(|refusal| turned_away(&connection, Failed::Unacceptable(refusal)))?;
    let rate = ready_for_media(&connection)?;
    let address = canonical(&connection);
    let peer = Peer { name, role, grants, address, dialled: true, features, link };
    let agent = printable(&welcome.agent);
    Ok(Session { peer, hello, features, agent, wire: Wire::new(connection, send, receive, rate, standing) })
}

async fn greeted(
    connection: &Connection,
    receive: &mut RecvStream,
    verifier: &Verifier,
    nth: u64,
) -> Result<(Peer, Hello, RateHandle, Standing), Failed> {
    let hello = greeting::hello(first(connection, receive).await?).map_err(Failed::Unacceptable)?;
    let certificate = certificate(connection);
    let caller = greeting::caller(&hello, certificate.as_ref(), verifier, nth, unix_seconds());
    let caller = caller.map_err(Failed::Unacceptable)?;
    let standing = verifier.standing(certificate.as_ref(), &caller);
    let peer = Peer {
        name: caller.name,
        role: caller.role,
        grants: caller.grants,
        address: canonical(connection),
        dialled: false,
        features: hello.features & FEATURES,
        link: hello.link.clone().filter(|_| caller.role == Role::Relay),
    };
    let rate = ready_for_media(connection)?;
    Ok((peer, hello, rate, standing))
}

/// A peer must take datagrams, and our own controller must hold the connection's rate.
fn ready_for_media(connection: &Connection) -> Result<RateHandle, Failed> {
    if connection.max_datagram_size().is_none() {
        return Err(unacceptable(CloseCode::Protocol, "it takes no QUIC datagrams (RFC 9221)".to_owned()));
    }
    RateHandle::of(connection).ok_or_else(|| {
        unacceptable(CloseCode::Protocol, "the connection has a foreign congestion controller".to_owned())
    })
}

/// The first message from the other end.
async fn first(connection: &Connection, receive: &mut RecvStream) -> Result<Control, Failed> {
    let mut length = [0; LENGTH];
    receive.read_exact(&mut length).await.map_err(|e| cut_short(connection, e))?;
    let mut body = vec![0; greeting::first_size(length).map_err(Failed::Unacceptable)?];
    receive.read_exact(&mut body).await.map_err(|e| cut_short(connection, e))?;
    greeting::first(&body).map_err(Failed::Unacceptable)
}

async fn say(connection: &Connection, send: &mut SendStream, message: &Control) -> Result<(), Failed> {
    let mut bytes = Vec::new();
    let encoded: Result<(), CodecError> = control::encode(message, &mut bytes);
    encoded.map_err(|error| unacceptable(CloseCode::Protocol, error.to_string()))?;
    send.write_all(&bytes).await.map_err(|error| match error {
        WriteError::ConnectionLost(error) => Failed::Lost(error),
        _ => Failed::Lost(connection.close_reason().unwrap_or(ConnectionError::Reset)),
    })
}

/// Tells a peer why it is refused, and closes when it has read it or has had the time to.
async fn refuse(connection: &Connection, send: &mut SendStream, refusal: &Refusal) {
    if say(connection, send, &Control::Refused(refusal.clone())).await.is_ok() && send.finish().is_ok() {
        let _ = tokio::time::timeout(LAST_WORD, send.stopped()).await;
    }
    connection.close(code(refusal.code), refusal.reason.as_bytes());
}

/// Closes a connection to a relay that is not what it should be.
fn turned_away(connection: &Connection, failed: Failed) -> Failed {
    if let Failed::Unacceptable(refusal) = &failed {
        connection.close(code(refusal.code), refusal.reason.as_bytes());
    }
    failed
}

fn unacceptable(code: CloseCode, reason: String) -> Failed {
    Failed::Unacceptable(Refusal { code, reason })
}

fn cut_short(connection: &Connection, error: ReadExactError) -> Failed {
    match (error, connection.close_reason()) {
        (_, Some(closed)) => Failed::Lost(closed),
        (ReadExactError::ReadError(quinn::ReadError::ConnectionLost(closed)), None) => Failed::Lost(closed),
        _ => unacceptable(CloseCode::Protocol, "the control stream ended before the first message".to_owned()),
    }
}

fn certificate(connection: &Connection) -> Option<CertificateDer<'static>> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    chain.first().cloned()
}

/// IPv4 addresses as such, also on a socket that takes both.
fn canonical(connection: &Connection) -> std::net::SocketAddr {
    let address = connection.remote_address();
    (address.ip().to_canonical(), address.port()).into()
}

fn code(code: CloseCode) -> VarInt {
    VarInt::from_u32(code.to_wire())
}

/// What the end of a connection means.
pub(crate) fn closed_by(error: &ConnectionError) -> Closed {
    let (code, reason) = match error {
        ConnectionError::ApplicationClosed(close) => {
            let reason = printable(&String::from_utf8_lossy(&close.reason));
            (CloseCode::from_wire(close.error_code.into_inner()), reason)
        }
        ConnectionError::TimedOut => {
            (CloseCode::Lost, format!("nothing heard for {:?}", super::transport::IDLE_TIMEOUT))
        }
        ConnectionError::Reset => (CloseCode::Lost, "the other end has restarted".to_owned()),
        ConnectionError::LocallyClosed => (CloseCode::Done, "closed by this end".to_owned()),
        ConnectionError::VersionMismatch => (CloseCode::Version, "it speaks another version of QUIC".to_owned()),
        ConnectionError::ConnectionClosed(close) => {
            let reason = printable(&close.to_string());
            let code = if is_crypto(close.error_code) { CloseCode::Unauthenticated } else { CloseCode::Lost };
            // REFUSED of RFC 9000: a bound on handshakes or connections.
            if u64::from(close.error_code) == 0x2 {
                (CloseCode::Overload, "it is too busy".to_owned())
            } else {
                (code, reason)
            }
        }
        ConnectionError::TransportError(error) => {
            let code = if is_crypto(error.code) { CloseCode::Unauthenticated } else { CloseCode::Protocol };
            (code, printable(&error.to_string()))
        }
        ConnectionError::CidsExhausted => (CloseCode::Overload, error.to_string()),
    };
    Closed { code, reason }
}

/// Whether a QUIC error is an alert of TLS (RFC 9001 section 4.8).
fn is_crypto(code: quinn::TransportErrorCode) -> bool {
    (0x100..0x200).contains(&u64::from(code))
}
