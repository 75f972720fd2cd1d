//! Several sockets on one port, and what comes to the wrong one.
//!
//! The kernel spreads what arrives over the sockets of a port (`SO_REUSEPORT`) by addresses, which change when a peer moves. A connection lives on one
//! thread, so its id names the place: by its first byte, of which each place has a range. The id that a dialler chooses for its first
//! packet is random, which spreads new connections over the places; those that a place gives out are of its own range. A datagram
//! that comes to another place's socket is handed over, which costs a copy.

use super::segments::retain_datagrams;
use bytes::Bytes;
use futures_util::task::AtomicWaker;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use std::collections::VecDeque;
use std::fmt;
use std::io::{Error, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

/// Most bytes that wait to be taken over by one place, what keeping them costs included. What does not fit is lost as in a full buffer of the
/// kernel.
const MOST_WAITING: usize = 4 << 20;

/// What a datagram that waits costs beside its content: strangers choose how small it is.
const ENTRY: usize = size_of::<(RecvMeta, Bytes)>();

/// No packet of QUIC is shorter: its first byte, and what the protection of its header reads (RFC 9001, section 5.4.2).
const LEAST: usize = 1 + 4 + 16;

/// A list with room for more datagrams gives that back once it is hardly used.
const ROOM_KEPT: usize = 1024;

/// How the ids of connections are divided among the places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Division {
    places: usize,
}

impl Division {
    pub(super) fn new(places: usize) -> Division {
        Division { places }
    }

    /// The place of an id that begins with this byte. The first, on whose thread all is decided, has half as many as any other.
    pub(super) fn place(self, first: u8) -> usize {
        let others = self.places - 1;
        let of_first = 256 / (2 * others + 1);
        match usize::from(first).checked_sub(of_first) {
            Some(rest) if others > 0 => 1 + rest * others / (256 - of_first),
            _ => 0,
        }
    }

    /// The place of a datagram, where its header tells one (RFC 8999).
    fn of(self, datagram: &[u8]) -> Option<usize> {
        let first = match datagram {
            [form, rest @ ..] if form & 0x80 == 0 => rest.first(),
            [_, _, _, _, _, length, id @ ..] if *length > 0 => id.first(),
            _ => None,
        };
        first.map(|first| self.place(*first))
    }
}

/// What is handed over between the sockets of one port.
pub(super) struct Exchange {
    division: Division,
    trays: Box<[Tray]>,
}

#[derive(Default)]
struct Tray {
    waiting: Mutex<Waiting>,
    taker: AtomicWaker,
}

#[derive(Default)]
struct Waiting {
    datagrams: VecDeque<(RecvMeta, Bytes)>,
    bytes: usize,
}

impl Waiting {
    /// Halves the room where a quarter would do, so that a flood leaves nothing behind and a burst does not have it made anew each time.
    fn give_back(&mut self) {
        let room = self.datagrams.capacity();
        if room > ROOM_KEPT && self.datagrams.len() < room / 4 {
            self.datagrams.shrink_to(room / 2);
        }
    }
}

impl Exchange {
    pub(super) fn new(division: Division) -> Exchange {
        Exchange { division, trays: (0..division.places).map(|_| Tray::default()).collect() }
    }

    fn hand_over(&self, place: usize, meta: &RecvMeta, datagram: &[u8]) {
        if datagram.len() < LEAST {
            return;
        }
        let tray = &self.trays[place];
        let mut waiting = tray.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.bytes + ENTRY + datagram.len() > MOST_WAITING {
            return;
        }
        waiting.bytes += ENTRY + datagram.len();
        let meta = RecvMeta { len: datagram.len(), stride: datagram.len(), ..*meta };
        waiting.datagrams.push_back((meta, Bytes::copy_from_slice(datagram)));
        drop(waiting);
        tray.taker.wake();
    }

    /// Fills buffers with what was handed over to a place; returns how many.
    fn take(&self, place: usize, buffers: &mut [IoSliceMut<'_>], metas: &mut [RecvMeta]) -> usize {
        let mut waiting = self.trays[place].waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = 0;
        for (buffer, meta) in buffers.iter_mut().zip(metas) {
            let Some((described, datagram)) = waiting.datagrams.pop_front() else { break };
            waiting.bytes -= ENTRY + datagram.len();
            *meta = described;
            // Larger than any buffer of quinn's it can not be: it came out of one.
            meta.len = datagram.len().min(buffer.len());
            buffer[..meta.len].copy_from_slice(&datagram[..meta.len]);
            taken += 1;
        }
        waiting.give_back();
        taken
    }

    /// Keeps of a receive buffer, which may hold several datagrams of one sender, those of `place`, and hands the others over.
    fn sort(&self, place: usize, buffer: &mut [u8], meta: &mut RecvMeta) {
        let described = *meta;
        retain_datagrams(buffer, meta, |datagram| match self.division.of(datagram) {
            Some(other) if other != place => {
                self.hand_over(other, &described, datagram);
                false
            }
            _ => true,
        });
    }
}

/// One of several sockets of a port: takes what is meant for its place, from whichever socket it came.
pub(super) struct SteeredSocket {
    pub(super) socket: Arc<dyn AsyncUdpSocket>,
    pub(super) exchange: Arc<Exchange>,
    pub(super) place: usize,
}

impl AsyncUdpSocket for SteeredSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.socket.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> Result<(), Error> {
        self.socket.try_send(transmit)
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<Result<usize, Error>> {
        self.exchange.trays[self.place].taker.register(context.waker());
        let taken = self.exchange.take(self.place, buffers, metas);
        if taken > 0 {
            return Poll::Ready(Ok(taken));
        }
        loop {
            let count = ready!(self.socket.poll_recv(context, buffers, metas))?;
            for (buffer, meta) in buffers.iter_mut().zip(metas.iter_mut()).take(count) {
                self.exchange.sort(self.place, buffer, meta);
            }
            if metas[..count].iter().any(|meta| meta.len > 0) {
                return Poll::Ready(Ok(count));
            }
        }
    }

    fn local_addr(&self) -> Result<SocketAddr, Error> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}

impl fmt::Debug for SteeredSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SteeredSocket").field("place", &self.place).field("socket", &self.socket).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_has_its_share_and_the_first_half_of_one() {
        assert!((0..=255).all(|first| Division::new(1).place(first) == 0));
        for places in 2..=32 {
            let mut counts = vec![0_usize; places];
            (0..=255).for_each(|first| counts[Division::new(places).place(first)] += 1);
            let (first, others) = (counts[0], &counts[1..]);
            let (least, most) = (*others.iter().min().unwrap(), *others.iter().max().unwrap());
            assert!(most - least <= 1 && first > 0, "{counts:?}");
            assert!((2 * first).abs_diff(most) <= 3, "{counts:?}");
        }
    }

    #[test]
    fn what_is_of_others_is_handed_over_and_the_rest_closes_up() {
        let division = Division::new(2);
        let (ours, theirs) = (0, 255);
        let exchange = Exchange::new(division);
        let short = |first: u8, mark: u8| {
            let mut datagram = [mark; LEAST];
            (datagram[0], datagram[1]) = (0x40, first);
            datagram
        };
        let mut long = [7; LEAST];
        long[..7].copy_from_slice(&[0xC0, 0, 0, 0, 1, 2, theirs]);
        let mut buffer: Vec<u8> =
            [short(ours, 1), short(theirs, 2), long, short(ours, 3)].concat().into_iter().chain([0x40, 9]).collect();
        let mut meta = meta(buffer.len(), LEAST);
        exchange.sort(0, &mut buffer, &mut meta);
        let kept = [&short(ours, 1)[..], &short(ours, 3)[..], &[0x40, 9]].concat();
        assert_eq!(
            buffer[..meta.len],
            kept,
            "two of ours, and the short one at the end, which is of the first byte's place"
        );

        let mut room = [[0; 1500]; 4];
        let mut buffers: Vec<IoSliceMut<'_>> = room.iter_mut().map(|room| IoSliceMut::new(room)).collect();
        let mut metas = [RecvMeta::default(); 4];
        assert_eq!(exchange.take(0, &mut buffers, &mut metas), 0);
        assert_eq!(exchange.take(1, &mut buffers, &mut metas), 2);
        assert_eq!((metas[0].len, metas[0].stride, metas[0].addr), (LEAST, LEAST, meta.addr));
        assert_eq!((&buffers[0][..LEAST], &buffers[1][..LEAST]), (&short(theirs, 2)[..], &long[..]));
    }

    #[test]
    fn whatever_comes_is_sorted_and_what_waits_is_bounded() {
        let exchange = Exchange::new(Division::new(3));
        let (mut buffer, mut described) = (Vec::new(), meta(0, 0));
        exchange.sort(0, &mut buffer, &mut described);
        for datagram in [&[0x80][..], &[0xFF; 5], &[0xFF; 6], &[0], &[0xC0, 0, 0, 0, 1, 0, 1, 1]] {
            let mut buffer = datagram.to_vec();
            let mut meta = meta(buffer.len(), buffer.len());
            exchange.sort(0, &mut buffer, &mut meta);
            assert_eq!(meta.len, datagram.len(), "no id: it stays where it came");
        }
        // Of another place, more than fits: what waits then, how many and room for how many.
        let flood = |size: usize| {
            let mut datagram = vec![0xFF; size];
            (datagram[0], datagram[1]) = (0x40, 255);
            for _ in 0..2 * MOST_WAITING / size {
                let mut meta = meta(size, size);
                exchange.sort(0, &mut datagram.clone(), &mut meta);
                assert_eq!(meta.len, 0);
            }
            let waiting = exchange.trays[2].waiting.lock().unwrap();
            (waiting.datagrams.len(), waiting.datagrams.capacity())
        };
        let mut room = [[0; 64]; 32];
        let mut buffers: Vec<IoSliceMut<'_>> = room.iter_mut().map(|room| IoSliceMut::new(room)).collect();
        let mut metas = [RecvMeta::default(); 32];
        assert_eq!(flood(2), (0, 0), "no packet of QUIC: nothing is kept of it");
        for size in [LEAST, 60_000] {
            let (datagrams, room) = flood(size);
            assert_eq!(datagrams, MOST_WAITING / (ENTRY + size));
            assert!(room * ENTRY <= 2 * MOST_WAITING, "{room}");
            while exchange.take(2, &mut buffers, &mut metas) > 0 {}
            let waiting = exchange.trays[2].waiting.lock().unwrap();
            assert_eq!((waiting.datagrams.len(), waiting.bytes), (0, 0));
            assert!(waiting.datagrams.capacity() <= ROOM_KEPT, "{}", waiting.datagrams.capacity());
        }
    }

    fn meta(len: usize, stride: usize) -> RecvMeta {
        RecvMeta { len, stride, addr: ([192, 0, 2, 1], 5).into(), ..RecvMeta::default() }
    }
}
