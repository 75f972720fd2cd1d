//! The connections of the operations port: so many at once, and each only for as long as it is used. It runs on the thread that forwards, so
//! what one client can make it hold is bounded, and who is slow is let go.

use super::guard::Local;
use super::tally::Tally;
use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Sleep;

/// Most connections at once.
const MOST: usize = 128;

/// Of these, from one address: whoever takes all of them leaves some to others.
const MOST_OF_ONE: usize = 32;

/// How long a head may take to come, counted from the end of what was before it: an idle connection is closed then too.
const HEAD: Duration = Duration::from_secs(20);

/// How long who is answered may read nothing.
const UNREAD: Duration = Duration::from_secs(20);

/// The longest head, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// Pause where the system has no more sockets to give.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// Serves what a [`guarded`](super::guarded) router answers until it is dropped; connections end with it.
pub async fn serve(listener: TcpListener, router: Router, tally: Arc<Tally>) -> io::Result<()> {
    let open = Arc::new(Open::default());
    let mut tasks = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, from)) => match open.admit(from.ip()) {
                    Some(place) => drop(tasks.spawn(connection(stream, router.clone(), tally.clone(), place))),
                    None => Tally::add(&tally.connections),
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

async fn connection(stream: TcpStream, router: Router, tally: Arc<Tally>, _place: Place) {
    let Ok(local) = stream.local_addr() else { return };
    // Small answers are not to wait for an acknowledgement.
    let _ = stream.set_nodelay(true);
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Local(local));
        router.call(request)
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(MAX_HEAD);
    let served = http.serve_connection(TokioIo::new(Patient::new(stream, UNREAD)), service).await;
    if let Err(error) = served
        && (error.is_timeout() || is_unread(&error))
    {
        Tally::add(&tally.slow);
    }
}

fn is_unread(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<io::Error>());
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::TimedOut)
}

/// Places for connections.
#[derive(Debug, Default)]
struct Open(Mutex<HashMap<IpAddr, usize>>);

impl Open {
    /// A place for one more from this address, where there is one.
    fn admit(self: &Arc<Self>, from: IpAddr) -> Option<Place> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let from = from.to_canonical();
        let all: usize = open.values().sum();
        if all >= MOST || open.get(&from).is_some_and(|of_one| *of_one >= MOST_OF_ONE) {
            return None;
        }
        *open.entry(from).or_default() += 1;
        Some(Place { open: self.clone(), from })
    }
}

/// The place of one connection; free again when it is dropped.
#[derive(Debug)]
struct Place {
    open: Arc<Open>,
    from: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.open.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_one) = open.get_mut(&self.from) {
            *of_one -= 1;
            if *of_one == 0 {
                open.remove(&self.from);
            }
        }
    }
}

/// A stream that fails where what is written is not taken for too long.
struct Patient<S> {
    stream: S,
    patience: Duration,
    /// While something waits to be taken.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    fn new(stream: S, patience: Duration) -> Patient<S> {
        Patient { stream, patience, waiting: None }
    }

    /// What became of an attempt to write, unless that has waited too long.
    fn judge<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let patience = self.patience;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(waiting.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.judge(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.judge(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.judge(context, shut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[test]
    fn places_are_bounded_in_all_and_for_each_address_and_come_free_again() {
        let open = Arc::new(Open::default());
        let address = |host: u8| IpAddr::from([192, 0, 2, host]);
        let mut places: Vec<Place> = (0..MOST_OF_ONE).map(|_| open.admit(address(1)).expect("a place")).collect();
        assert!(open.admit(address(1)).is_none(), "one address has all that it may");
        assert!(open.admit("::ffff:192.0.2.1".parse().expect("an address")).is_none(), "the same in other words");
        for host in 2.. {
            match open.admit(address(host)) {
                Some(place) => places.push(place),
                None => break,
            }
            while let Some(place) = open.admit(address(host)) {
                places.push(place);
            }
        }
        assert_eq!(places.len(), MOST);
        places.clear();
        assert!(open.0.lock().expect("nobody panics with it").is_empty());
    }

    #[tokio::test]
    async fn who_reads_nothing_is_let_go_and_who_reads_a_little_is_served() {
        let (ours, theirs) = tokio::io::duplex(64);
        let mut ours = Patient::new(ours, Duration::from_millis(50));
        ours.write_all(&[1; 64]).await.expect("it fits");
        let why = ours.write_all(&[2]).await.expect_err("nobody reads");
        assert_eq!(why.kind(), io::ErrorKind::TimedOut);
        drop(theirs);

        let (ours, mut theirs) = tokio::io::duplex(8);
        let mut ours = Patient::new(ours, Duration::from_secs(60));
        let writing = async {
            for _ in 0..20 {
                ours.write_all(&[3; 8]).await.expect("it is read in time");
            }
            assert!(ours.waiting.is_none(), "what was waited for does not count for what comes later");
        };
        let reading = async {
            let mut some = [0; 8];
            for _ in 0..20 {
                tokio::task::yield_now().await;
                theirs.read_exact(&mut some).await.expect("it was written");
            }
        };
        tokio::join!(writing, reading);
    }
}
