//! TLS at an operations port: how it is configured, and how a connection gets to it.

use crate::exit::{Exit, Failure};
use crate::trust::WebServer;
use serde::Deserialize;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::{Interval, MissedTickBehavior};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Time from one handshake to the next. Each takes the thread that forwards for a signature: some tenths of a millisecond, or some
/// milliseconds with a large key of RSA.
const APART: Duration = Duration::from_millis(10);

/// The first byte of a handshake (RFC 8446, section 5.1).
const HANDSHAKE: u8 = 22;

/// The files of a port that speaks TLS, and of whom it takes certificates instead of the token.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Its certificate in PEM, and after it those between it and the authority that browsers and others know.
    pub certificate: PathBuf,
    /// The private key of that certificate, in PEM. Its owner alone may read it.
    pub key: PathBuf,
    /// Authorities, in PEM, that may have signed the certificate of a client. Who shows one needs no token.
    #[serde(default)]
    pub clients: Option<PathBuf>,
}

impl Tls {
    /// Reads the files; `setting` is where they are named.
    pub(super) fn load(&self, setting: &str) -> Result<WebServer, Failure> {
        WebServer::load(&self.certificate, &self.key, self.clients.as_deref())
            .map_err(|error| Failure::new(Exit::Config, format!("{setting}: {error}")))
    }
}

/// Lets no connection begin to agree on keys soon after another: strangers can ask for that as often as they like.
#[derive(Debug)]
pub(super) struct Turns(Mutex<Interval>);

impl Turns {
    pub(super) fn new() -> Turns {
        let mut turns = tokio::time::interval(APART);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Turns(Mutex::new(turns))
    }

    async fn wait(&self) {
        self.0.lock().await.tick().await;
    }
}

/// How a connection has begun.
pub(super) enum Opening {
    /// By TLS; with a certificate that is taken, or without one.
    Agreed { stream: Box<TlsStream<TcpStream>>, certified: bool },
    /// In clear. Nothing of it is read yet.
    InClear(TcpStream),
    /// Not at all: somebody looked whether the port is there.
    Nothing,
}

/// Agrees on keys with who comes, where they begin as TLS does.
pub(super) async fn open(server: &WebServer, turns: &Turns, stream: TcpStream) -> io::Result<Opening> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 {
        return Ok(Opening::Nothing);
    }
    if first != [HANDSHAKE] {
        return Ok(Opening::InClear(stream));
    }
    turns.wait().await;
    let stream = TlsAcceptor::from(server.config()).accept(stream).await?;
    let certified = stream.get_ref().1.peer_certificates().is_some();
    Ok(Opening::Agreed { stream: Box::new(stream), certified })
}
