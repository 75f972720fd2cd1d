//! UDP sockets of the emulator: whole batches in, each datagram by itself; runs of equal datagrams out in one call.

use bytes::Bytes;
use quinn::udp::{BATCH_SIZE, EcnCodepoint, RecvMeta, Transmit, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;

/// What is asked of the kernel for each socket: 60 ms at 500 Mbit/s. It may grant less.
const BUFFER: usize = 4 << 20;

/// A UDP socket.
#[derive(Debug)]
pub(super) struct UdpPort {
    socket: Socket,
    state: UdpSocketState,
    local: SocketAddr,
}

/// A datagram that came in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Received<'a> {
    pub(super) from: SocketAddr,
    pub(super) ecn: Option<EcnCodepoint>,
    pub(super) payload: &'a [u8],
}

/// Room to receive one batch.
pub(super) struct Room {
    buffer: Vec<u8>,
    metas: [RecvMeta; BATCH_SIZE],
}

impl Room {
    /// The kernel may put 64 KiB of coalesced datagrams in each slot.
    const SLOT: usize = 64 << 10;

    pub(super) fn new() -> Room {
        Room { buffer: vec![0; Room::SLOT * BATCH_SIZE], metas: [RecvMeta::default(); BATCH_SIZE] }
    }
}

impl UdpPort {
    /// Binds.
    pub(super) fn bind(address: SocketAddr) -> io::Result<UdpPort> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        socket.bind(&address.into())?;
        // Less than asked is no error: a small buffer only matters when this thread is starved.
        let _ = socket.set_recv_buffer_size(BUFFER);
        let _ = socket.set_send_buffer_size(BUFFER);
        let state = UdpSocketState::new((&socket).into())?;
        let local = socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("not an IP socket"))?;
        Ok(UdpPort { socket, state, local })
    }

    pub(super) fn local(&self) -> SocketAddr {
        self.local
    }

    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Receives one batch and hands over each datagram. `Ok(0)`: nothing is there.
    pub(super) fn receive(&self, room: &mut Room, mut take: impl FnMut(Received<'_>)) -> io::Result<usize> {
        let batch = {
            let mut slots: [IoSliceMut<'_>; BATCH_SIZE] = {
                let mut chunks = room.buffer.chunks_mut(Room::SLOT);
                std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()))
            };
            match self.state.recv((&self.socket).into(), &mut slots, &mut room.metas) {
                Ok(batch) => batch,
                // A closed port at the other end answers by ICMP, which shows here: the datagram is lost, no more.
                Err(error) if is_passing(&error) => return Ok(0),
                Err(error) => return Err(error),
            }
        };
        for (slot, meta) in room.buffer.chunks(Room::SLOT).zip(&room.metas[..batch]) {
            let stride = meta.stride.max(1);
            slot[..meta.len]
                .chunks(stride)
                .for_each(|payload| take(Received { from: meta.addr, ecn: meta.ecn, payload }));
        }
        Ok(batch)
    }

    /// How many datagrams of one size may go out in one call.
    pub(super) fn most_at_once(&self) -> usize {
        self.state.max_gso_segments().max(1)
    }

    /// Sends datagrams to one address; all of `size` bytes but the last, which may be shorter. `false` where the kernel
    /// did not take them.
    pub(super) fn send(&self, to: SocketAddr, ecn: Option<EcnCodepoint>, contents: &[u8], size: usize) -> bool {
        let several = contents.len() > size;
        let transmit = Transmit { destination: to, ecn, contents, segment_size: several.then_some(size), src_ip: None };
        if self.state.try_send((&self.socket).into(), &transmit).is_ok() {
            return true;
        }
        // Without segmentation offload they go one by one.
        several
            && contents.chunks(size).all(|contents| {
                let transmit = Transmit { destination: to, ecn, contents, segment_size: None, src_ip: None };
                self.state.try_send((&self.socket).into(), &transmit).is_ok()
            })
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock
            | io::ErrorKind::Interrupted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
    )
}

/// A datagram to send.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    pub(super) to: SocketAddr,
    pub(super) ecn: Option<EcnCodepoint>,
    pub(super) payload: Bytes,
}

/// Bytes of the IP and UDP headers of a datagram to or from `address`.
pub(super) fn headers(address: SocketAddr) -> usize {
    if address.is_ipv4() { 28 } else { 48 }
}
