//! Connections of those who come by TCP: so many at once, and each only for as long as it is used. What one client can make a node hold is
//! bounded, and who is slow is let go. For [operations ports](crate::ops), and for a sink's server for players.

use crate::network::network;
use axum::Router;
use axum::http::Extensions;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// The longest head, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// Pause before the next connection where the system has no more sockets to give.
pub const EXHAUSTED: Duration = Duration::from_millis(100);

/// What clients may take of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Most connections at once.
    pub most: usize,
    /// Of these, from one IPv4 address or one IPv6 network of 64 bits: whoever takes all of them leaves some to others.
    pub most_of_one: usize,
    /// How long a head may take to come, counted from the end of what was before it: an idle connection is closed then too.
    pub head: Duration,
    /// How long who is answered may read nothing.
    pub unread: Duration,
}

impl Bounds {
    /// So many connections, each with time enough for any client that works.
    pub const fn new(most: usize, most_of_one: usize) -> Bounds {
        Bounds { most, most_of_one, head: Duration::from_secs(20), unread: Duration::from_secs(20) }
    }
}

/// Places for connections.
#[derive(Debug)]
pub struct Places {
    bounds: Bounds,
    taken: Mutex<HashMap<IpAddr, usize>>,
}

impl Places {
    /// All of them free.
    pub fn new(bounds: Bounds) -> Arc<Places> {
        Arc::new(Places { bounds, taken: Mutex::default() })
    }

    /// A place for one more from this address, where there is one; of IPv6 all addresses of a network are one.
    pub fn admit(self: &Arc<Self>, from: IpAddr) -> Option<Place> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let from = network(from);
        let all: usize = taken.values().sum();
        if all >= self.bounds.most || taken.get(&from).is_some_and(|of_one| *of_one >= self.bounds.most_of_one) {
            return None;
        }
        *taken.entry(from).or_default() += 1;
        Some(Place { places: self.clone(), from })
    }
}

/// The place of one connection; free again when it is dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    from: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_one) = taken.get_mut(&self.from) {
            *of_one -= 1;
            if *of_one == 0 {
                taken.remove(&self.from);
            }
        }
    }
}

/// How a connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// In good order, or by the client.
    Over,
    /// Because a request did not come, or an answer was not read, for too long.
    Slow,
}

/// Serves requests on a connection until it ends, or has been idle or unread for too long. Each request is given what `note` puts into it.
/// Once `over` is done, the connection ends with what is being answered.
pub async fn speak<S>(
    stream: S,
    bounds: &Bounds,
    router: Router,
    note: impl Fn(&mut Extensions),
    over: impl Future<Output = ()>,
) -> Ended
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        note(request.extensions_mut());
        router.call(request)
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(bounds.head).max_buf_size(MAX_HEAD);
    let mut served = pin!(http.serve_connection(TokioIo::new(Patient::new(stream, bounds.unread)), service));
    let ended = tokio::select! {
        // First: what has come since is not answered by what was over before.
        biased;
        () = over => {
            served.as_mut().graceful_shutdown();
            served.await
        }
        ended = &mut served => ended,
    };
    match ended {
        Err(error) if error.is_timeout() || is_unread(&error) => Ended::Slow,
        _ => Ended::Over,
    }
}

fn is_unread(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<io::Error>());
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::TimedOut)
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

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.judge(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
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
        const BOUNDS: Bounds = Bounds::new(128, 32);
        let all = Places::new(BOUNDS);
        let address = |host: u8| IpAddr::from([192, 0, 2, host]);
        let mut places: Vec<Place> = (0..BOUNDS.most_of_one).map(|_| all.admit(address(1)).expect("a place")).collect();
        assert!(all.admit(address(1)).is_none(), "one address has all that it may");
        assert!(all.admit("::ffff:192.0.2.1".parse().expect("an address")).is_none(), "the same in other words");
        let networks = Places::new(BOUNDS);
        let of_one: Vec<Place> = (0..BOUNDS.most as u128)
            .filter_map(|host| networks.admit(IpAddr::V6((0x2001_0db8 << 96 | host).into())))
            .collect();
        assert_eq!(of_one.len(), BOUNDS.most_of_one, "one network has all that it may");
        for host in 2.. {
            match all.admit(address(host)) {
                Some(place) => places.push(place),
                None => break,
            }
            while let Some(place) = all.admit(address(host)) {
                places.push(place);
            }
        }
        assert_eq!(places.len(), BOUNDS.most);
        places.clear();
        assert!(all.taken.lock().expect("nobody panics with it").is_empty());
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
