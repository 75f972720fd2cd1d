//! A plain forwarder: every datagram once, as it comes, without a header of its own.

use crate::media::MediaSocket;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Forwards until it is dropped.
#[derive(Debug)]
pub(super) struct Forwarder {
    input: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Forwarder {
    /// Listens on a free port and sends on to `to`.
    pub(super) fn start(to: SocketAddr) -> io::Result<Forwarder> {
        let (socket, out) = (MediaSocket::bind()?, MediaSocket::bind()?);
        let (input, stop) = (socket.address(), Arc::new(AtomicBool::new(false)));
        let told = stop.clone();
        let thread = std::thread::Builder::new().name("forwarder".into()).spawn(move || {
            let mut room = vec![0; 65536];
            while !told.load(Ordering::Relaxed) {
                if let Some(datagram) = socket.receive(Duration::from_millis(50), &mut room) {
                    // What the kernel does not take is lost, as on any network.
                    let _ = out.send(to, datagram);
                }
            }
        })?;
        Ok(Forwarder { input, stop, thread: Some(thread) })
    }

    /// Where it listens.
    pub(super) fn input(&self) -> SocketAddr {
        self.input
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
