//! How a stream of bytes becomes payloads. Pure.
//!
//! A transport stream is cut into seven packets of 188 bytes, so that every payload begins with a packet and decodes
//! by itself. Whatever else the bytes hold, all of them come out, in order: bytes between packets travel in payloads of
//! their own.

use bytes::{Bytes, BytesMut};
use link::Instant;
use node::ts::{PACKET, PACKETS_PER_PAYLOAD, SYNC};
use std::collections::VecDeque;
use std::time::Duration;

/// Bytes of a full payload.
pub const PAYLOAD: usize = PACKETS_PER_PAYLOAD * PACKET;

/// Packets in a row that must have their sync byte before it is believed: by chance once in 2^32 positions.
const CONFIRM: usize = 4;

/// How long a payload waits to become full, so that a slow stream is not late before it has left.
const PATIENCE: Duration = Duration::from_millis(5);

/// A stretch of a transport stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Whole packets, one or several.
    Packets(Bytes),
    /// Bytes that belong to no packet.
    Garbage(Bytes),
}

/// Finds the packets in a stream of bytes. Push, then poll until `None`.
#[derive(Debug, Default)]
pub struct Framer {
    buffer: BytesMut,
    /// Whether the buffer begins where a packet should.
    locked: bool,
}

impl Framer {
    /// Takes the next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next stretch that is certain.
    pub fn poll(&mut self) -> Option<Unit> {
        self.next(CONFIRM)
    }

    /// The next stretch where no more bytes will come: what is left is told apart as well as can be.
    pub fn finish(&mut self) -> Option<Unit> {
        // At the end one sync byte must do where the bytes for more of them do not exist.
        let certain = self.next(CONFIRM);
        certain.or_else(|| self.next(1)).or_else(|| {
            let rest = self.buffer.split().freeze();
            (!rest.is_empty()).then_some(Unit::Garbage(rest))
        })
    }

    fn next(&mut self, confirm: usize) -> Option<Unit> {
        if self.locked {
            let packets = self.buffer.chunks_exact(PACKET).take_while(|packet| packet[0] == SYNC).count();
            if packets > 0 {
                return Some(Unit::Packets(self.buffer.split_to(packets * PACKET).freeze()));
            }
            if self.buffer.first().is_none_or(|first| *first == SYNC) {
                return None;
            }
            self.locked = false;
        }
        let garbage = self.search(confirm);
        if garbage > 0 {
            return Some(Unit::Garbage(self.buffer.split_to(garbage).freeze()));
        }
        if self.locked { self.next(confirm) } else { None }
    }

    /// Number of bytes at the front in which no packet can begin; locks where one is confirmed after them.
    fn search(&mut self, confirm: usize) -> usize {
        let buffer = &self.buffer;
        for at in 0..buffer.len() {
            let mut syncs = (0..confirm).map(|n| buffer.get(at + n * PACKET));
            if syncs.clone().all(|byte| byte == Some(&SYNC)) && buffer.len() - at >= PACKET {
                self.locked = true;
                return at;
            }
            // Undecided: all that is there fits, and more must come to tell.
            if confirm > 1 && syncs.all(|byte| byte.is_none_or(|byte| *byte == SYNC)) {
                return at;
            }
        }
        if confirm > 1 { buffer.len() } else { 0 }
    }
}

/// What the beginning of some bytes looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recognition {
    /// A transport stream, perhaps with some bytes before its first packet.
    TransportStream,
    /// Too few bytes to tell.
    Undecided,
    /// Something else: what, where it is known.
    Other(&'static str),
}

/// Most bytes that are searched for a transport stream.
pub const RECOGNISE_WITHIN: usize = 64 << 10;

/// Looks for a transport stream. `end`: no more bytes will come.
pub fn recognise(bytes: &[u8], end: bool) -> Recognition {
    let confirmed = |stride: usize, wanted: usize| {
        (0..bytes.len()).any(|at| (0..wanted).all(|n| bytes.get(at + n * stride) == Some(&SYNC)))
    };
    let whole = node::ts::is_whole(&bytes[..bytes.len() - bytes.len() % PACKET]);
    if confirmed(PACKET, CONFIRM + 1) || (end && whole) {
        return Recognition::TransportStream;
    }
    if bytes.len() < RECOGNISE_WITHIN && !end {
        return Recognition::Undecided;
    }
    Recognition::Other(match bytes {
        _ if confirmed(192, CONFIRM + 1) => "a transport stream of 192-byte packets (M2TS)",
        _ if confirmed(204, CONFIRM + 1) => "a transport stream of 204-byte packets (with Reed-Solomon code)",
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => "an MP4 file",
        [0x1a, 0x45, 0xdf, 0xa3, ..] => "a Matroska or WebM file",
        [b'F', b'L', b'V', ..] => "an FLV file",
        [] => "empty",
        _ => "no transport stream",
    })
}

/// Cuts a stream of bytes into payloads as it arrives.
///
/// Push, then poll until `None`; call [`Packetizer::handle_timeout`] when [`Packetizer::poll_timeout`] says so, and
/// [`Packetizer::finish`] at the end.
#[derive(Debug)]
pub struct Packetizer {
    /// `None` where packets are not looked for.
    framer: Option<Framer>,
    /// The payload that is not yet full.
    partial: BytesMut,
    /// When the payload that is not yet full was begun.
    since: Option<Instant>,
    ready: VecDeque<Bytes>,
}

impl Packetizer {
    /// For a transport stream.
    pub fn transport_stream() -> Packetizer {
        let framer = Some(Framer::default());
        Packetizer { framer, partial: BytesMut::new(), since: None, ready: VecDeque::new() }
    }

    /// For any bytes; the boundaries of payloads mean nothing.
    pub fn bytes() -> Packetizer {
        Packetizer { framer: None, ..Packetizer::transport_stream() }
    }

    /// Takes the next bytes, arrived at `now`.
    pub fn push(&mut self, now: Instant, bytes: &[u8]) {
        let Some(framer) = &mut self.framer else {
            append(bytes, &mut self.partial, &mut self.ready);
            self.keep_time(now);
            return;
        };
        framer.push(bytes);
        while let Some(unit) = self.framer.as_mut().and_then(Framer::poll) {
            self.take(unit);
        }
        self.keep_time(now);
    }

    /// The next payload.
    pub fn poll(&mut self) -> Option<Bytes> {
        self.ready.pop_front()
    }

    /// When a payload that is not yet full shall leave nevertheless.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.since.map(|since| since + PATIENCE)
    }

    /// Lets a payload go that has waited long enough. A packet of which only a part has arrived waits on.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_some_and(|at| at <= now) {
            self.flush();
            self.since = None;
        }
    }

    /// Lets everything go: no more bytes will come.
    pub fn finish(&mut self) {
        while let Some(unit) = self.framer.as_mut().and_then(Framer::finish) {
            self.take(unit);
        }
        self.flush();
        self.since = None;
    }

    fn take(&mut self, unit: Unit) {
        match unit {
            Unit::Packets(packets) => append(&packets, &mut self.partial, &mut self.ready),
            Unit::Garbage(bytes) => {
                self.flush();
                append(&bytes, &mut self.partial, &mut self.ready);
                self.flush();
            }
        }
    }

    fn flush(&mut self) {
        if !self.partial.is_empty() {
            self.ready.push_back(self.partial.split().freeze());
        }
    }

    fn keep_time(&mut self, now: Instant) {
        match self.partial.is_empty() {
            true => self.since = None,
            // What is pending was begun by these bytes where any payload was filled by them.
            false if self.since.is_none() || !self.ready.is_empty() => self.since = Some(now),
            false => {}
        }
    }
}

/// Appends bytes to the partial payload, moving each that becomes full to `ready`.
fn append(mut bytes: &[u8], partial: &mut BytesMut, ready: &mut VecDeque<Bytes>) {
    while !bytes.is_empty() {
        if partial.is_empty() {
            // A payload of its own memory: it lives as long as its packet, not as long as its neighbours.
            // With room to seal it where it is.
            *partial = BytesMut::with_capacity(PAYLOAD + node::payload::OVERHEAD);
        }
        let (now, later) = bytes.split_at(bytes.len().min(PAYLOAD - partial.len()));
        partial.extend_from_slice(now);
        bytes = later;
        if partial.len() == PAYLOAD {
            ready.push_back(std::mem::take(partial).freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use node::ts::is_whole;
    use node::ts::testing::packet;
    use proptest::prelude::*;

    fn at(ms: u64) -> Instant {
        Instant::from_micros(ms * 1000)
    }

    fn stream(packets: usize) -> Vec<u8> {
        (0..packets).flat_map(|n| packet(0x100 + (n % 7) as u16, n as u8, None)).collect()
    }

    /// Pushes `bytes` cut at `cuts`, and gives all payloads.
    fn packetize(mut packetizer: Packetizer, bytes: &[u8], cuts: &[usize]) -> Vec<Bytes> {
        let mut payloads = Vec::new();
        let mut rest = bytes;
        for cut in cuts.iter().chain([&usize::MAX]) {
            let (now, later) = rest.split_at((*cut).min(rest.len()));
            packetizer.push(at(0), now);
            payloads.extend(std::iter::from_fn(|| packetizer.poll()));
            rest = later;
        }
        packetizer.finish();
        payloads.extend(std::iter::from_fn(|| packetizer.poll()));
        payloads
    }

    #[derive(Clone, Debug)]
    enum Piece {
        Packets(usize),
        Noise(Vec<u8>),
    }

    fn piece() -> impl Strategy<Value = Piece> {
        let noise = proptest::collection::vec(prop_oneof![3 => any::<u8>(), 1 => Just(SYNC)], 0..700);
        prop_oneof![3 => (1..40usize).prop_map(Piece::Packets), 1 => noise.prop_map(Piece::Noise)]
    }

    fn assemble(pieces: &[Piece]) -> Vec<u8> {
        let bytes = |piece: &Piece| match piece {
            Piece::Packets(count) => stream(*count),
            Piece::Noise(noise) => noise.clone(),
        };
        pieces.iter().flat_map(bytes).collect()
    }

    proptest! {
        #[test]
        fn every_byte_comes_out_in_order(
            pieces in proptest::collection::vec(piece(), 0..12),
            cuts in proptest::collection::vec(0..2000usize, 0..40),
        ) {
            let bytes = assemble(&pieces);
            for packetizer in [Packetizer::transport_stream(), Packetizer::bytes()] {
                let payloads = packetize(packetizer, &bytes, &cuts);
                prop_assert!(payloads.iter().all(|payload| (1..=PAYLOAD).contains(&payload.len())));
                prop_assert_eq!(payloads.concat(), bytes.clone());
            }
        }

        #[test]
        fn a_clean_stream_is_cut_in_sevens_however_it_arrives(
            packets in 5..200usize,
            cuts in proptest::collection::vec(0..3000usize, 0..60),
        ) {
            let payloads = packetize(Packetizer::transport_stream(), &stream(packets), &cuts);
            prop_assert!(payloads.iter().all(|payload| is_whole(payload)));
            prop_assert!(payloads.iter().rev().skip(1).all(|payload| payload.len() == PAYLOAD));
        }

        #[test]
        fn the_same_bytes_give_the_same_payloads_however_they_arrive(
            pieces in proptest::collection::vec(piece(), 0..8),
            cuts in proptest::collection::vec(0..2000usize, 0..40),
        ) {
            let bytes = assemble(&pieces);
            let cut = packetize(Packetizer::transport_stream(), &bytes, &cuts);
            let whole: Vec<Bytes> = packetize(Packetizer::transport_stream(), &bytes, &[]);
            let packets = |payloads: &[Bytes]| payloads.iter().filter(|p| is_whole(p)).map(|p| p.len()).sum::<usize>();
            prop_assert_eq!(packets(&cut), packets(&whole));
        }
    }

    #[test]
    fn packets_are_found_again_after_noise() {
        // A byte too many, as a broken demodulator inserts it, and a packet cut short.
        let clean = stream(20);
        let bytes = [&clean[..], &[0x00], &clean[..], &clean[..100], &clean[..]].concat();
        let payloads = packetize(Packetizer::transport_stream(), &bytes, &[]);
        let whole: usize = payloads.iter().filter(|payload| is_whole(payload)).map(Bytes::len).sum();
        assert_eq!(payloads.concat(), bytes);
        // The packet cut short takes 88 bytes of the next one with it.
        assert_eq!(whole, 60 * PACKET);
    }

    #[test]
    fn a_slow_stream_does_not_wait_for_a_full_payload() {
        let mut packetizer = Packetizer::transport_stream();
        packetizer.push(at(0), &stream(7));
        assert_eq!(packetizer.poll().map(|p| p.len()), Some(PAYLOAD));
        assert_eq!(packetizer.poll_timeout(), None);
        packetizer.push(at(10), &stream(2));
        packetizer.push(at(12), &stream(1)[..100]);
        assert_eq!((packetizer.poll(), packetizer.poll_timeout()), (None, Some(at(15))));
        packetizer.handle_timeout(at(14));
        assert_eq!(packetizer.poll(), None);
        packetizer.handle_timeout(at(15));
        assert_eq!(packetizer.poll().map(|p| p.len()), Some(2 * PACKET));
        assert_eq!(packetizer.poll_timeout(), None, "half a packet waits for its other half");
        packetizer.push(at(20), &stream(1)[100..]);
        packetizer.handle_timeout(at(25));
        assert_eq!(packetizer.poll().map(|p| p.len()), Some(PACKET));
    }

    #[test]
    fn what_is_no_transport_stream_is_named() {
        let strided = |stride: usize| -> Vec<u8> {
            (0..600).flat_map(|_| std::iter::once(SYNC).chain(std::iter::repeat_n(0, stride - 1))).collect()
        };
        assert_eq!(recognise(&strided(188), false), Recognition::TransportStream);
        assert_eq!(recognise(&[&[1, 2, 3], &strided(188)[..]].concat(), false), Recognition::TransportStream);
        assert_eq!(recognise(&stream(1), true), Recognition::TransportStream);
        assert_eq!(recognise(&stream(3), false), Recognition::Undecided);
        assert!(matches!(recognise(&strided(192), true), Recognition::Other(what) if what.contains("192")));
        assert!(matches!(recognise(&strided(204), true), Recognition::Other(what) if what.contains("204")));
        assert!(matches!(recognise(b"\0\0\0\x20ftypisom", true), Recognition::Other("an MP4 file")));
        assert!(matches!(recognise(&[0; RECOGNISE_WITHIN], false), Recognition::Other(_)));
        assert_eq!(recognise(&[], true), Recognition::Other("empty"));
    }
}
