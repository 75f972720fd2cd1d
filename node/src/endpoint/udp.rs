//! A UDP socket for quinn that wakes its thread only for what arrives.
//!
//! The kernel tells whoever waits for a socket to become writable after every datagram that has left, and a socket that is registered for both, as
//! tokio's are, looks at its events once more for each burst it sends. Here the socket waits to be readable alone, and a copy of it, the same for
//! all connections, waits to be writable for as long as its buffer is full. A receive that brings less than it had room for is also taken for the last one of
//! its waking, so that the kernel is not asked another time: what comes later makes a new event. For single packets that halves the calls.

use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, UdpPoller};
use socket2::Socket;
use std::borrow::Borrow;
use std::fmt;
use std::io::{Error, ErrorKind, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// When room is looked for again where the runtime cannot watch for it.
const RETRY: Duration = Duration::from_millis(1);

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct UdpSocket {
    socket: AsyncFd<Socket>,
    /// The same under another descriptor, made at once: when it is needed there may be none left.
    copy: Arc<Socket>,
    /// That copy, for as long as somebody waits for room.
    watched: Mutex<Weak<AsyncFd<Arc<Socket>>>>,
    state: UdpSocketState,
    local: SocketAddr,
    /// The kernel's buffer was full at the last attempt.
    full: AtomicBool,
}

impl UdpSocket {
    /// A socket that is bound and does not block. Must be called inside the runtime whose thread it shall wake.
    pub(super) fn new(socket: Socket) -> Result<UdpSocket, Error> {
        let not_ip = || Error::new(ErrorKind::InvalidInput, "not an IP socket");
        let local = socket.local_addr()?.as_socket().ok_or_else(not_ip)?;
        let state = UdpSocketState::new((&socket).into())?;
        let copy = Arc::new(socket.try_clone()?);
        let socket = registered(socket, Interest::READABLE)?;
        Ok(UdpSocket { socket, copy, watched: Mutex::default(), state, local, full: AtomicBool::new(false) })
    }

    /// Its copy, watched for room.
    fn watched(&self) -> Result<Arc<AsyncFd<Arc<Socket>>>, Error> {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watched) = watched.upgrade() {
            return Ok(watched);
        }
        let new = Arc::new(registered(self.copy.clone(), Interest::WRITABLE)?);
        *watched = Arc::downgrade(&new);
        Ok(new)
    }

    /// Returns when there may be room again. An error only where the runtime ends: quinn gives up a connection at any, without telling it.
    async fn room(self: Arc<UdpSocket>) -> Result<(), Error> {
        match self.watched() {
            // What has been told is used up. The flag goes with it: who finds the buffer full again waits for what the kernel tells next.
            Ok(watched) => watched.writable().await?.clear_ready(),
            Err(_) => tokio::time::sleep(RETRY).await,
        }
        self.full.store(false, Ordering::Relaxed);
        Ok(())
    }
}

/// Has the runtime watch a socket.
#[expect(
    unsafe_code,
    reason = "tokio cannot know of every type that its descriptor stays what it is; of this one we do"
)]
fn registered<S: Borrow<Socket> + AsRawFd>(socket: S, interest: Interest) -> Result<AsyncFd<S>, Error> {
    // SAFETY: a `Socket` owns its descriptor, never exchanges it, and closes it only when it is dropped, which the `AsyncFd` that
    // holds it, alone or with others, from here on does after it is no longer watched.
    Ok(unsafe { AsyncFd::register_with_interest(socket, interest) }?)
}

impl AsyncUdpSocket for UdpSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable { socket: self, waiting: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> Result<(), Error> {
        let sent = self.state.send(self.socket.get_ref().into(), transmit);
        if sent.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock) {
            self.full.store(true, Ordering::Relaxed);
        }
        sent
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<Result<usize, Error>> {
        loop {
            let mut ready = ready!(self.socket.poll_read_ready(context))?;
            match self.state.recv(self.socket.get_ref().into(), buffers, metas) {
                Ok(count) => {
                    if count < buffers.len() {
                        ready.clear_ready();
                    }
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn local_addr(&self) -> Result<SocketAddr, Error> {
        Ok(self.local)
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }
}

/// Room in the kernel's buffer, waited for ([`UdpSocket::room`]).
trait Room: Future<Output = Result<(), Error>> + Send + Sync {}

impl<F: Future<Output = Result<(), Error>> + Send + Sync> Room for F {}

/// Waits for room in the kernel's buffer.
struct Writable {
    socket: Arc<UdpSocket>,
    waiting: Option<Pin<Box<dyn Room>>>,
}

impl UdpPoller for Writable {
    fn poll_writable(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let Writable { socket, waiting } = &mut *self;
        // quinn asks before it sends, every time.
        if waiting.is_none() && !socket.full.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        let room = waiting.get_or_insert_with(|| Box::pin(socket.clone().room()));
        let found = ready!(room.as_mut().poll(context));
        *waiting = None;
        Poll::Ready(found)
    }
}

impl fmt::Debug for Writable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writable").field("waits", &self.waiting.is_some()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::socket::{Sharing, bind};
    use super::*;
    use crate::host::block_on_local;
    use std::future::poll_fn;
    use std::time::Duration;

    fn socket() -> Arc<UdpSocket> {
        Arc::new(UdpSocket::new(bind(([127, 0, 0, 1], 0).into(), Sharing::Alone).unwrap()).unwrap())
    }

    async fn receive(socket: &UdpSocket) -> usize {
        let mut room = [[0; 2048]; 4];
        let mut buffers: Vec<IoSliceMut<'_>> = room.iter_mut().map(|room| IoSliceMut::new(room)).collect();
        let mut metas = [RecvMeta::default(); 4];
        let receiving = poll_fn(|context| socket.poll_recv(context, &mut buffers, &mut metas));
        let count = tokio::time::timeout(Duration::from_secs(5), receiving).await.expect("woken").unwrap();
        metas[..count].iter().map(|meta| meta.len / meta.stride.max(1)).sum()
    }

    fn transmit(to: &UdpSocket) -> Transmit<'static> {
        let destination = to.local;
        Transmit { destination, ecn: None, contents: &[7; 100], segment_size: None, src_ip: None }
    }

    #[test]
    fn every_datagram_wakes_also_those_that_come_after_a_short_receive() {
        let test = async {
            let (from, to) = (socket(), socket());
            for burst in [1, 2, 3, 4, 9, 1] {
                for _ in 0..burst {
                    from.try_send(&transmit(&to)).unwrap();
                }
                let mut received = 0;
                while received < burst {
                    received += receive(&to).await;
                }
                assert_eq!(received, burst);
            }
            Ok(())
        };
        block_on_local(test).unwrap();
    }

    #[test]
    fn a_full_buffer_is_waited_for() {
        let test = async {
            let (from, to) = (socket(), socket());
            let mut poller = from.clone().create_io_poller();
            for full in [false, true, false, true] {
                // There is room after all, as is told by the kernel where it is asked.
                from.full.store(full, Ordering::Relaxed);
                poll_fn(|context| poller.as_mut().poll_writable(context)).await.unwrap();
                assert!(!from.full.load(Ordering::Relaxed));
                from.try_send(&transmit(&to)).unwrap();
            }
            assert_eq!(receive(&to).await, 4);
            Ok(())
        };
        block_on_local(test).unwrap();
    }

    #[test]
    fn all_who_wait_for_room_watch_one_descriptor_and_all_are_woken() {
        let test = async {
            let from = socket();
            for _ in 0..3 {
                from.full.store(true, Ordering::Relaxed);
                let mut pollers: Vec<_> = (0..100).map(|_| from.clone().create_io_poller()).collect();
                let watched = || from.watched.lock().unwrap().strong_count();
                poll_fn(|context| {
                    for poller in &mut pollers {
                        assert!(poller.as_mut().poll_writable(context).is_pending());
                    }
                    Poll::Ready(())
                })
                .await;
                assert_eq!(watched(), 100, "of one and the same");
                for poller in &mut pollers {
                    let writable = poll_fn(|context| poller.as_mut().poll_writable(context));
                    tokio::time::timeout(Duration::from_secs(5), writable).await.expect("woken").unwrap();
                }
                assert_eq!(watched(), 0, "nobody watches where nobody waits");
            }
            Ok(())
        };
        block_on_local(test).unwrap();
    }
}
