//! How datagrams get from the thread of a host to a connection, and back: at once, or to and from another thread.

use super::core::ARENA;
use super::lag;
use crate::endpoint::{Carrier, Far, Letter, weight};
use crate::ports::PortId;
use bytes::{Bytes, BytesMut};
use quinn::{Connection, SendDatagramError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Most datagrams from other threads that wait to be taken. What comes on top stays in quinn, which keeps the newest.
const MOST_WAITING: usize = 16 * 1024;

/// How soon a thread that found no room looks again.
const RETRY: Duration = Duration::from_millis(1);

/// The way to one connection.
pub(super) enum Carriage {
    /// It is on this thread.
    Here {
        /// Datagrams that did not fit the path, because it had just shrunk.
        too_large: u64,
    },
    /// It is on another.
    There {
        /// Of its carrier's list in [`Posts`].
        post: usize,
        far: Arc<Far>,
        /// Bytes handed over since the beginning.
        handed: u64,
    },
}

impl Carriage {
    /// Sends one datagram, the `first` of a turn or another one, for which there is room.
    pub(super) fn send(&mut self, connection: &Connection, datagram: Bytes, first: bool, posts: &mut Posts) {
        match self {
            Carriage::Here { too_large } => {
                // Of a lost connection its reader hears.
                if let Err(SendDatagramError::TooLarge) = connection.send_datagram(datagram) {
                    *too_large += 1;
                }
            }
            Carriage::There { post, far, handed } => {
                *handed += weight(&datagram) as u64;
                let letters = &mut posts.0[*post].letters;
                if first {
                    letters.push(Letter::To(far.clone()));
                }
                letters.push(Letter::Datagram(datagram));
            }
        }
    }

    /// Bytes handed over to another thread and not passed on to quinn yet.
    pub(super) fn on_its_way(&self) -> usize {
        match self {
            Carriage::Here { .. } => 0,
            Carriage::There { far, handed, .. } => (handed - far.passed()) as usize,
        }
    }

    pub(super) fn too_large(&self) -> u64 {
        match self {
            Carriage::Here { too_large } => *too_large,
            Carriage::There { far, .. } => far.too_large(),
        }
    }
}

/// What a turn has for the connections of each other thread.
#[derive(Default)]
pub(super) struct Posts(Vec<Post>);

struct Post {
    carrier: Arc<Carrier>,
    letters: Vec<Letter>,
}

impl Posts {
    /// The way to a connection on `carrier`, or on this thread.
    pub(super) fn carriage(&mut self, carrier: Option<Arc<Carrier>>, connection: &Connection) -> Carriage {
        let Some(carrier) = carrier else { return Carriage::Here { too_large: 0 } };
        let known = self.0.iter().position(|post| Arc::ptr_eq(&post.carrier, &carrier));
        let post = known.unwrap_or_else(|| {
            self.0.push(Post { carrier, letters: Vec::new() });
            self.0.len() - 1
        });
        Carriage::There { post, far: Arc::new(Far::new(connection.clone())), handed: 0 }
    }

    /// At the end of a turn.
    pub(super) fn dispatch(&mut self) {
        for Post { carrier, letters } in &mut self.0 {
            if !letters.is_empty() {
                carrier.post(letters);
            }
        }
    }
}

/// Copies what quinn received: its datagrams are slices of a whole receive batch, which a single packet in the history would keep in memory.
#[derive(Default)]
pub(super) struct Copies(BytesMut);

impl Copies {
    pub(super) fn copy(&mut self, datagram: &Bytes) -> Bytes {
        if self.0.capacity() < datagram.len() {
            self.0.reserve(ARENA.max(datagram.len()));
        }
        self.0.extend_from_slice(datagram);
        self.0.split().freeze()
    }
}

/// What other threads have received for a host.
#[derive(Default)]
pub(super) struct Arrivals {
    waiting: Mutex<Waiting>,
    some: Notify,
}

/// What waits.
#[derive(Default)]
pub(super) struct Waiting {
    pub(super) datagrams: Vec<(PortId, Bytes)>,
    /// Up to then, at least, the threads that received them had dealt with all that came to them.
    pub(super) caught_up: Option<Instant>,
}

impl Arrivals {
    /// Adds a batch, which it empties, once there is room.
    pub(super) async fn put(&self, port: PortId, batch: &mut Vec<Bytes>) {
        let caught_up = lag::caught_up();
        loop {
            {
                let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                if waiting.datagrams.len() < MOST_WAITING {
                    waiting.datagrams.extend(batch.drain(..).map(|datagram| (port, datagram)));
                    waiting.caught_up = [waiting.caught_up, caught_up].into_iter().flatten().min();
                    break;
                }
            }
            tokio::time::sleep(RETRY).await;
        }
        self.some.notify_one();
    }

    /// Exchanges an empty list for what has come, once something has.
    pub(super) async fn take(&self, into: &mut Waiting) {
        self.some.notified().await;
        std::mem::swap(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner), into);
    }

    /// Wakes whoever waits for something, with nothing.
    pub(super) fn wake(&self) {
        self.some.notify_one();
    }
}
