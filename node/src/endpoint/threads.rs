//! Threads that carry connections, beside the one that decides.
//!
//! The end system stays on one thread, with its links: numbering, repair and forwarding cost a fifth of what a packet costs. The rest is QUIC's:
//! encryption, acknowledgements, the kernel. That part of a connection lives on one of these threads for all its life. What passes
//! between the two goes by a list under a lock that is held for as long as two pointers take to be exchanged: a burst is one
//! exchange and one waking, and QUIC gets it whole, so that it still leaves in batches.

use crate::host::lag;
use bytes::Bytes;
use quinn::{AsyncTimer, AsyncUdpSocket, Connection, Runtime, SendDatagramError, TokioRuntime};
use std::fmt;
use std::future::Future;
use std::io::{Error, ErrorKind};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};

/// Most threads: a relay that decides on one is full long before it has this many others to serve.
pub const MOST_THREADS: usize = 32;

/// The threads that endpoints may use. All copies mean the same ones; they end with the last.
#[derive(Clone, Debug, Default)]
pub struct Threads {
    carriers: Arc<[Arc<Carrier>]>,
}

impl Threads {
    /// `count` threads, the caller's own among them: with one, nothing is started.
    pub fn start(count: usize) -> Result<Threads, Error> {
        if !(1..=MOST_THREADS).contains(&count) {
            let reason = format!("{count} threads: expected 1 to {MOST_THREADS}");
            return Err(Error::new(ErrorKind::InvalidInput, reason));
        }
        let carriers: Result<Vec<Arc<Carrier>>, Error> = (1..count).map(Carrier::start).collect();
        Ok(Threads { carriers: carriers?.into() })
    }

    /// One place for the connections of this thread, and one for those of each other.
    pub(super) fn places(&self) -> impl Iterator<Item = Option<Arc<Carrier>>> {
        std::iter::once(None).chain(self.carriers.iter().cloned().map(Some))
    }
}

/// One thread that carries connections.
pub(crate) struct Carrier {
    runtime: Handle,
    post: Arc<Post>,
    /// The thread ends when this is dropped.
    _stop: oneshot::Sender<()>,
}

impl Carrier {
    fn start(nth: usize) -> Result<Arc<Carrier>, Error> {
        let runtime = lag::noted(tokio::runtime::Builder::new_current_thread().enable_all()).build()?;
        let (handle, post) = (runtime.handle().clone(), Arc::<Post>::default());
        let (stop, stopped) = oneshot::channel();
        let letters = post.clone();
        std::thread::Builder::new().name(format!("carrier-{nth}")).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = letters.deliver() => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Arc::new(Carrier { runtime: handle, post, _stop: stop }))
    }

    /// Where tasks of this thread are started.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Has letters passed on, in their order; leaves the list empty.
    pub(crate) fn post(&self, letters: &mut Vec<Letter>) {
        let mut waiting = self.post.letters.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.is_empty() {
            std::mem::swap(&mut *waiting, letters);
        } else {
            waiting.append(letters);
        }
        drop(waiting);
        self.post.wanted.notify_one();
    }
}

/// What is on its way to connections of one thread.
pub(crate) enum Letter {
    /// The datagrams that follow are for this one.
    To(Arc<Far>),
    /// To whom the last [`Letter::To`] named.
    Datagram(Bytes),
}

/// A connection on another thread, as both see it.
pub(crate) struct Far {
    connection: Connection,
    /// Bytes of datagrams passed on to quinn, with what they cost beside their content.
    passed: AtomicU64,
    too_large: AtomicU64,
}

impl Far {
    pub(crate) fn new(connection: Connection) -> Far {
        Far { connection, passed: AtomicU64::new(0), too_large: AtomicU64::new(0) }
    }

    /// Bytes that have come to quinn since the beginning, counted as [`weight`] does.
    pub(crate) fn passed(&self) -> u64 {
        self.passed.load(Ordering::Acquire)
    }

    /// Datagrams that did not fit the path, because it had just shrunk.
    pub(crate) fn too_large(&self) -> u64 {
        self.too_large.load(Ordering::Relaxed)
    }
}

/// What a datagram takes of a queue.
pub(crate) fn weight(datagram: &Bytes) -> usize {
    datagram.len() + size_of::<Bytes>()
}

#[derive(Default)]
struct Post {
    letters: Mutex<Vec<Letter>>,
    wanted: Notify,
}

impl Post {
    /// Passes letters on, for ever. All that waits goes to quinn before its connections get their turn.
    async fn deliver(&self) {
        let mut letters = Vec::new();
        loop {
            self.wanted.notified().await;
            std::mem::swap(&mut *self.letters.lock().unwrap_or_else(PoisonError::into_inner), &mut letters);
            let mut to: Option<Arc<Far>> = None;
            for letter in letters.drain(..) {
                match (letter, &to) {
                    (Letter::To(far), _) => to = Some(far),
                    (Letter::Datagram(datagram), Some(far)) => far.send(datagram),
                    (Letter::Datagram(_), None) => {}
                }
            }
        }
    }
}

impl Far {
    fn send(&self, datagram: Bytes) {
        let weight = weight(&datagram) as u64;
        // Of a lost connection its reader hears.
        if let Err(SendDatagramError::TooLarge) = self.connection.send_datagram(datagram) {
            self.too_large.fetch_add(1, Ordering::Relaxed);
        }
        self.passed.fetch_add(weight, Ordering::Release);
    }
}

/// Has quinn run its tasks, timers and sockets on another thread.
#[derive(Debug)]
pub(super) struct OnCarrier(pub(super) Arc<Carrier>);

impl Runtime for OnCarrier {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        let _entered = self.0.runtime.enter();
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.0.runtime.spawn(future);
    }

    #[expect(clippy::disallowed_types, reason = "quinn's interface has it; it was opened through socket2")]
    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> Result<Arc<dyn AsyncUdpSocket>, Error> {
        let _entered = self.0.runtime.enter();
        TokioRuntime.wrap_udp_socket(socket)
    }
}

impl fmt::Debug for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Carrier").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_places_as_threads_and_they_end_with_the_last_copy() {
        for wrong in [0, MOST_THREADS + 1] {
            let error = Threads::start(wrong).unwrap_err().to_string();
            assert_eq!(error, format!("{wrong} threads: expected 1 to 32"));
        }
        assert_eq!(Threads::start(1).unwrap().places().count(), 1);
        let threads = Threads::start(3).unwrap();
        let places: Vec<Option<Arc<Carrier>>> = threads.places().collect();
        assert!(places[0].is_none() && places[1].is_some() && places[2].is_some());
        let carrier = places[1].clone().unwrap();
        let (said, heard) = std::sync::mpsc::channel();
        carrier.runtime().spawn(async move {
            said.send(std::thread::current().name().map(str::to_owned)).unwrap();
            std::future::pending::<()>().await;
        });
        assert_eq!(heard.recv().unwrap().as_deref(), Some("carrier-1"));
        drop((threads, places, carrier));
        assert!(heard.recv().is_err(), "its tasks are gone with it");
    }
}
