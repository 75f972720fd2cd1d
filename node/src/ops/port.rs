//! The connections of the operations port: so many at once, and each only for as long as it is used. It runs on the thread that forwards, so
//! what one client can make it hold is bounded, and who is slow is let go.

use super::guard::{Came, Guard};
use super::problem::Problem;
use super::tally::Tally;
use super::tls::{Opening, Turns, open};
use crate::connections::{Bounds, EXHAUSTED, Ended, Place, Places, speak};
use axum::Router;
use axum::http::{Extensions, StatusCode};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What all clients together, and those of one address, may take.
const BOUNDS: Bounds = Bounds::new(128, 32);

/// How long it may take to come to TLS.
const HANDSHAKE: Duration = Duration::from_secs(20);

/// Serves what a [`guarded`](super::guarded) router answers until it is dropped; connections end with it. Where the guard has TLS, connections that
/// come from then on speak it.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    guard: watch::Receiver<Guard>,
    tally: Arc<Tally>,
) -> io::Result<()> {
    let places = Places::new(BOUNDS);
    let server = Server { router, guard, tally, turns: Arc::new(Turns::new()) };
    let mut tasks = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, from)) => match places.admit(from.ip()) {
                    Some(place) => drop(tasks.spawn(server.clone().connection(stream, place))),
                    None => Tally::add(&server.tally.connections),
                },
                Err(error) => {
                    tracing::warn!(%error, "the operations port takes no connection");
                    tokio::time::sleep(EXHAUSTED).await;
                }
            },
            Some(_) = tasks.join_next() => {}
        }
    }
}

/// What each connection is served from.
#[derive(Clone)]
struct Server {
    router: Router,
    guard: watch::Receiver<Guard>,
    tally: Arc<Tally>,
    turns: Arc<Turns>,
}

impl Server {
    async fn connection(mut self, stream: TcpStream, _place: Place) {
        let Ok(to) = stream.local_addr() else { return };
        // Small answers are not to wait for an acknowledgement.
        let _ = stream.set_nodelay(true);
        let tls = self.guard.borrow_and_update().tls.clone();
        let Some(tls) = tls else {
            return self.speak(stream, Came { to, certified: false }).await;
        };
        match tokio::time::timeout(HANDSHAKE, open(&tls, &self.turns, stream)).await {
            Ok(Ok(Opening::Agreed { stream, certified })) => self.speak(*stream, Came { to, certified }).await,
            Ok(Ok(Opening::Nothing)) => {}
            Ok(Ok(Opening::InClear(stream))) => {
                Tally::add(&self.tally.tls);
                let refusing = Server { router: Router::new().fallback(wants_tls), ..self };
                refusing.speak(stream, Came { to, certified: false }).await;
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "no TLS at the operations port");
                Tally::add(&self.tally.tls);
            }
            Err(_) => Tally::add(&self.tally.slow),
        }
    }

    /// Serves requests until the connection ends. Where who may come changes, it ends with what is being answered.
    async fn speak<S: AsyncRead + AsyncWrite + Unpin>(self, stream: S, came: Came) {
        let Server { router, mut guard, tally, .. } = self;
        let note = move |request: &mut Extensions| {
            request.insert(came);
        };
        let changed = async move {
            let _ = guard.changed().await;
        };
        if speak(stream, &BOUNDS, router, note, changed).await == Ended::Slow {
            Tally::add(&tally.slow);
        }
    }
}

/// What is answered in clear where TLS is spoken. Nothing of what was asked is done.
async fn wants_tls() -> Problem {
    let what = "this port speaks TLS: https://…, and `anabranch-relay ctl … --ops-tls-authority FILE`";
    Problem::new(StatusCode::BAD_REQUEST, what)
}
