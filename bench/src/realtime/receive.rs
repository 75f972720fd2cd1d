//! The receiver: what came, byte by byte as sent or not, and when.

use super::datagram::{Numbered, Seen};
use crate::media::MediaSocket;
use link::Instant;
use node::clock::Clock;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// What arrived.
#[derive(Clone, Debug, Default)]
pub struct Arrivals {
    /// Numbers and times, in the order of arrival; repeats included.
    pub times: Vec<(u64, Instant)>,
    /// Datagrams that are none of those sent.
    pub foreign: u64,
}

/// Listens on a thread of its own.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    greetings: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Arrivals>>,
}

impl Receiver {
    /// Listens on a free port.
    pub fn start(clock: Clock, datagrams: Numbered) -> io::Result<Receiver> {
        let socket = MediaSocket::bind()?;
        let address = socket.address();
        let (greetings, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, told) = (greetings.clone(), stop.clone());
        let thread = std::thread::Builder::new()
            .name("receiver".into())
            .spawn(move || run(clock, &socket, datagrams, &count, &told))?;
        Ok(Receiver { address, greetings, stop, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many greetings have come.
    pub fn greetings(&self) -> u64 {
        self.greetings.load(Ordering::Relaxed)
    }

    /// Stops, and returns all that came.
    pub fn stop(mut self) -> Arrivals {
        self.halt()
    }

    fn halt(&mut self) -> Arrivals {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.halt();
    }
}

fn run(clock: Clock, socket: &MediaSocket, datagrams: Numbered, greetings: &AtomicU64, stop: &AtomicBool) -> Arrivals {
    let mut arrivals = Arrivals::default();
    let mut room = vec![0; 65536];
    while !stop.load(Ordering::Relaxed) {
        let Some(datagram) = socket.receive(Duration::from_millis(50), &mut room) else { continue };
        let now = clock.now();
        match datagrams.read(datagram) {
            Seen::Number(number) => arrivals.times.push((number, now)),
            Seen::Greeting => _ = greetings.fetch_add(1, Ordering::Relaxed),
            Seen::Foreign => arrivals.foreign += 1,
        }
    }
    arrivals
}
