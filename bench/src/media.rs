//! Feeders and checkers: media whose every byte is known beforehand, over plain UDP sockets.

use crate::channel::{Draws, derive};
use socket2::{Domain, Socket, Type};
use std::collections::VecDeque;
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

/// A blocking UDP socket on loopback.
#[derive(Debug)]
pub struct MediaSocket(Socket);

impl MediaSocket {
    /// Binds to a free port.
    pub fn bind() -> io::Result<MediaSocket> {
        MediaSocket::bind_at((Ipv4Addr::LOCALHOST, 0).into())
    }

    /// Binds.
    pub fn bind_at(address: SocketAddr) -> io::Result<MediaSocket> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
        let _ = socket.set_recv_buffer_size(4 << 20);
        socket.bind(&address.into())?;
        Ok(MediaSocket(socket))
    }

    /// Where it is bound.
    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().ok().and_then(|address| address.as_socket()).unwrap_or((Ipv4Addr::UNSPECIFIED, 0).into())
    }

    /// Sends one datagram. A port where nobody listens is no error: it may be opened yet.
    pub fn send(&self, to: SocketAddr, payload: &[u8]) -> io::Result<()> {
        match self.0.send_to(payload, &to.into()) {
            Err(error) if error.kind() != io::ErrorKind::ConnectionRefused => Err(error),
            _ => Ok(()),
        }
    }

    /// The next datagram, or `None` where none comes within `patience`.
    pub fn receive<'a>(&self, patience: Duration, room: &'a mut [u8]) -> Option<&'a [u8]> {
        self.0.set_read_timeout(Some(patience.max(Duration::from_millis(1)))).ok()?;
        let n = (&self.0).read(room).ok()?;
        Some(&room[..n])
    }

    /// The same, with its sender.
    pub fn receive_from<'a>(&self, patience: Duration, room: &'a mut [u8]) -> Option<(SocketAddr, &'a [u8])> {
        self.0.set_read_timeout(Some(patience.max(Duration::from_millis(1)))).ok()?;
        // Only this thread reads from the socket: what is peeked at is what is read next.
        let (_, from) = self.0.peek_from(&mut [std::mem::MaybeUninit::uninit()]).ok()?;
        let n = (&self.0).read(room).ok()?;
        Some((from.as_socket()?, &room[..n]))
    }
}

/// Datagrams of random content and size, the same for every iterator made alike.
#[derive(Clone, Debug)]
pub struct Datagrams {
    draws: Draws,
    sizes: RangeInclusive<usize>,
    left: u64,
}

impl Datagrams {
    /// `count` datagrams with sizes drawn evenly from `sizes`.
    pub fn new(seed: u64, sizes: RangeInclusive<usize>, count: u64) -> Datagrams {
        Datagrams { draws: Draws::new(derive(seed, &["datagrams"])), sizes, left: count }
    }
}

impl Iterator for Datagrams {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        self.left = self.left.checked_sub(1)?;
        let span = self.sizes.end() - self.sizes.start() + 1;
        let size = self.sizes.start() + (self.draws.bits() % span as u64) as usize;
        let mut datagram = Vec::with_capacity(size + 8);
        while datagram.len() < size {
            datagram.extend_from_slice(&self.draws.bits().to_le_bytes());
        }
        datagram.truncate(size);
        Some(datagram)
    }
}

/// Compares what arrives with what was sent: bytes, boundaries, order and number.
#[derive(Debug)]
pub struct Comparison<I> {
    expected: I,
    /// Expected datagrams already drawn, in order.
    ahead: VecDeque<Vec<u8>>,
    result: Compared,
    holes: Vec<(u64, u64)>,
}

/// How what arrived compares with what was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Compared {
    /// Datagrams that arrived as sent, in order.
    pub intact: u64,
    /// Datagrams passed over: the one after them arrived.
    pub skipped: u64,
    /// Datagrams that are none of those sent, or out of order.
    pub foreign: u64,
}

/// How far ahead a datagram is looked for.
const LOOK_AHEAD: usize = 4096;

impl<I: Iterator<Item = Vec<u8>>> Comparison<I> {
    /// Expects these, in this order.
    pub fn new(expected: I) -> Comparison<I> {
        Comparison { expected, ahead: VecDeque::new(), result: Compared::default(), holes: Vec::new() }
    }

    /// Looks at the next datagram that arrived.
    pub fn feed(&mut self, datagram: &[u8]) {
        let mut at = 0;
        loop {
            if at == self.ahead.len() {
                match self.expected.next() {
                    Some(next) if at < LOOK_AHEAD => self.ahead.push_back(next),
                    Some(next) => {
                        self.ahead.push_back(next);
                        self.result.foreign += 1;
                        return;
                    }
                    None => {
                        self.result.foreign += 1;
                        return;
                    }
                }
            }
            if self.ahead[at] == datagram {
                self.ahead.drain(..=at);
                if at > 0 && self.holes.len() < 1000 {
                    self.holes.push((self.result.intact + self.result.skipped, at as u64));
                }
                self.result.skipped += at as u64;
                self.result.intact += 1;
                return;
            }
            at += 1;
        }
    }

    /// Where datagrams were passed over: the number of the first of them, from 0, and how many in a row. The first thousand.
    pub fn holes(&self) -> &[(u64, u64)] {
        &self.holes
    }

    /// How it compares up to here. Datagrams that did not arrive at the end are in no count.
    pub fn result(&self) -> Compared {
        self.result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_are_the_same_every_time_and_of_every_size() {
        let all: Vec<_> = Datagrams::new(1, 1..=20, 1000).collect();
        assert_eq!(all, Datagrams::new(1, 1..=20, 1000).collect::<Vec<_>>());
        assert_ne!(all, Datagrams::new(2, 1..=20, 1000).collect::<Vec<_>>());
        assert!((1..=20).all(|size| all.iter().any(|datagram| datagram.len() == size)));
    }

    #[test]
    fn loss_change_and_reordering_are_told_apart() {
        let sent = || Datagrams::new(1, 100..=200, 100);
        let compare = |arrived: Vec<Vec<u8>>| {
            let mut comparison = Comparison::new(sent());
            arrived.iter().for_each(|datagram| comparison.feed(datagram));
            comparison.result()
        };
        let all: Vec<_> = sent().collect();
        assert_eq!(compare(all.clone()), Compared { intact: 100, ..Default::default() });

        let mut lossy = all.clone();
        lossy.drain(10..13);
        assert_eq!(compare(lossy), Compared { intact: 97, skipped: 3, foreign: 0 });

        let mut changed = all.clone();
        changed[5][50] ^= 1;
        assert_eq!(compare(changed), Compared { intact: 99, skipped: 1, foreign: 1 });

        let mut swapped = all.clone();
        swapped.swap(5, 6);
        assert_eq!(compare(swapped), Compared { intact: 99, skipped: 1, foreign: 1 });

        let mut doubled = all;
        doubled.push(vec![1; 100]);
        assert_eq!(compare(doubled), Compared { intact: 100, skipped: 0, foreign: 1 });
    }
}
