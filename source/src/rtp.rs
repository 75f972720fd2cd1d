//! What is taken out of RTP, and in which order. Pure.
//!
//! A transport stream in RTP (RFC 2250; SMPTE ST 2022-2) is published without its RTP headers: a sink writes fresh ones,
//! and every other output has no use for them. With the header goes the order it stands for, so the order is restored
//! here, where the numbers still exist: a packet that came too early waits a little for those before it, copies are
//! dropped (two legs of ST 2022-7 sent to one port merge into one stream, the later of which may be half a second behind),
//! and what is missing is counted.
//!
//! Everything else in RTP needs its header and passes untouched, byte-exact, in the order of arrival.

use crate::report::InputCounters;
use crate::url::{Rtp, RtpHeader};
use bytes::Bytes;
use link::Instant;
use node::ts;
use rtp_types::RtpPacket;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Payload type of a transport stream (RFC 3551, table 5).
const TRANSPORT_STREAM: u8 = 33;

/// A number this far ahead is not waited for: those before it are lost.
const FAR_AHEAD: i16 = 512;

/// A number this far ahead says nothing of those before it: its sender began anew.
const NEW_NUMBERING: i16 = 8192;

/// What is behind is a copy, of a leg that takes longer, while the numbers that are expected come; without them for so long (more than the 450 ms
/// that ST 2022-7 allows two legs to be apart) its sender began anew.
const LEGS_APART: Duration = Duration::from_millis(500);

/// Takes RTP headers off and restores the order they stand for.
///
/// Push, then poll until `None`; call [`Unwrapper::handle_timeout`] when [`Unwrapper::poll_timeout`] says so.
#[derive(Debug)]
pub struct Unwrapper {
    options: Rtp,
    /// The sender and the number that goes out next.
    expected: Option<(u32, u16)>,
    /// Packets that came too early, by their distance in the numbering's own order.
    early: BTreeMap<u64, (Instant, Bytes)>,
    /// `expected`'s number without wrap.
    position: u64,
    ready: VecDeque<(Instant, Bytes)>,
    latest: Instant,
    /// When the last of the numbering went out.
    flowed: Instant,
    counters: InputCounters,
}

impl Unwrapper {
    /// With an input's options.
    pub fn new(options: Rtp) -> Unwrapper {
        Unwrapper {
            options,
            expected: None,
            early: BTreeMap::new(),
            position: 1 << 32,
            ready: VecDeque::new(),
            latest: Instant::ORIGIN,
            flowed: Instant::ORIGIN,
            counters: InputCounters::default(),
        }
    }

    /// Takes a datagram that arrived at `now`. One that is no RTP passes as it is.
    pub fn push(&mut self, now: Instant, datagram: Bytes) {
        match self.unwrap(&datagram) {
            None => self.release(now, datagram),
            Some((ssrc, number, payload)) => self.order(now, ssrc, number, payload),
        }
    }

    /// The next payload, and when it arrived. Times never go back.
    pub fn poll(&mut self) -> Option<(Instant, Bytes)> {
        self.ready.pop_front()
    }

    /// When those before an early packet are given up.
    pub fn poll_timeout(&self) -> Option<Instant> {
        // Arrivals need not be in the order of numbers: the packet that has waited longest decides.
        self.early.values().map(|(arrival, _)| *arrival + self.options.reorder).min()
    }

    /// Gives up what did not come in time.
    pub fn handle_timeout(&mut self, now: Instant) {
        while self.poll_timeout().is_some_and(|at| at <= now) {
            self.skip();
        }
    }

    /// The `rtp_…` counters; the others are zero.
    pub fn counters(&self) -> InputCounters {
        self.counters
    }

    fn unwrap(&self, datagram: &Bytes) -> Option<(u32, u16, Bytes)> {
        if self.options.header == RtpHeader::Keep {
            return None;
        }
        let packet = RtpPacket::parse(datagram).ok()?;
        let (at, len) = (packet.payload_offset(), packet.payload_len());
        let payload = datagram.get(at..at + len)?;
        let transport_stream = packet.payload_type() == TRANSPORT_STREAM && ts::is_whole(payload);
        (transport_stream || self.options.header == RtpHeader::Strip)
            .then(|| (packet.ssrc(), packet.sequence_number(), datagram.slice(at..at + len)))
    }

    fn order(&mut self, now: Instant, ssrc: u32, number: u16, payload: Bytes) {
        let (expected_ssrc, expected) = *self.expected.get_or_insert((ssrc, number));
        let ahead = number.wrapping_sub(expected) as i16;
        let began_anew = match ahead {
            ..0 => ahead < -FAR_AHEAD && now.saturating_since(self.flowed) >= LEGS_APART,
            _ => ahead >= NEW_NUMBERING,
        };
        if ssrc != expected_ssrc || began_anew || ahead >= FAR_AHEAD {
            // What waited of the old numbering goes first.
            while !self.early.is_empty() {
                self.skip();
            }
            if ssrc == expected_ssrc && !began_anew {
                let (_, expected) = self.expected.unwrap_or((ssrc, number));
                self.counters.rtp_lost += u64::from(number.wrapping_sub(expected));
            }
            self.expected = Some((ssrc, number));
            return self.advance(now, payload);
        }
        match ahead {
            0 => {
                self.advance(now, payload);
                self.drain();
            }
            1.. if !self.options.reorder.is_zero() => {
                let place = self.position + ahead as u64;
                match self.early.entry(place) {
                    std::collections::btree_map::Entry::Occupied(_) => self.counters.rtp_dropped += 1,
                    std::collections::btree_map::Entry::Vacant(entry) => {
                        entry.insert((now, payload));
                    }
                }
            }
            1.. => {
                self.counters.rtp_lost += ahead as u64;
                self.jump(ahead as u64);
                self.advance(now, payload);
            }
            _ => self.counters.rtp_dropped += 1,
        }
    }

    /// Lets the expected packet go.
    fn advance(&mut self, arrival: Instant, payload: Bytes) {
        if arrival < self.latest {
            self.counters.rtp_reordered += 1;
        }
        self.flowed = self.flowed.max(arrival);
        self.release(arrival, payload);
        self.jump(1);
    }

    fn release(&mut self, arrival: Instant, payload: Bytes) {
        self.latest = self.latest.max(arrival);
        self.ready.push_back((self.latest, payload));
    }

    fn jump(&mut self, by: u64) {
        self.position += by;
        if let Some((_, number)) = &mut self.expected {
            *number = number.wrapping_add(by as u16);
        }
    }

    /// Gives up what is missing before the first packet that waits.
    fn skip(&mut self) {
        if let Some((place, _)) = self.early.first_key_value() {
            let missing = place - self.position;
            self.counters.rtp_lost += missing;
            self.jump(missing);
            self.drain();
        }
    }

    fn drain(&mut self) {
        while let Some((arrival, payload)) = self.early.remove(&self.position) {
            self.advance(arrival, payload);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use node::ts::testing::packet;
    use proptest::prelude::*;
    use std::time::Duration;

    const HOLD: Duration = Duration::from_millis(10);

    fn unwrapper(header: RtpHeader, reorder: Duration) -> Unwrapper {
        Unwrapper::new(Rtp { header, reorder })
    }

    fn rtp(payload_type: u8, number: u16, payload: &[u8]) -> Bytes {
        let mut header = vec![0x80, payload_type, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
        header[2..4].copy_from_slice(&number.to_be_bytes());
        header.extend(payload);
        header.into()
    }

    /// A transport stream payload that tells its number.
    fn payload(number: u16) -> Bytes {
        let mut bytes = packet(0x100, 0, None);
        bytes[4..6].copy_from_slice(&number.to_be_bytes());
        Bytes::copy_from_slice(&bytes)
    }

    fn at(ms: u64) -> Instant {
        Instant::from_micros(ms * 1000)
    }

    fn numbers(unwrapper: &mut Unwrapper) -> Vec<u16> {
        std::iter::from_fn(|| unwrapper.poll()).map(|(_, p)| u16::from_be_bytes([p[4], p[5]])).collect()
    }

    #[test]
    fn headers_are_taken_off_a_transport_stream_only() {
        let (ts_in_rtp, other) = (rtp(33, 1, &payload(1)), rtp(96, 1, b"h264"));
        for (header, stripped, kept) in [
            (RtpHeader::Auto, payload(1), other.clone()),
            (RtpHeader::Strip, payload(1), Bytes::from_static(b"h264")),
            (RtpHeader::Keep, ts_in_rtp.clone(), other.clone()),
        ] {
            for (given, expected) in [(&ts_in_rtp, stripped), (&other, kept)] {
                let mut unwrapper = unwrapper(header, HOLD);
                unwrapper.push(at(0), given.clone());
                assert_eq!(unwrapper.poll(), Some((at(0), expected)), "{header:?}");
            }
        }
        let mut unwrapper = unwrapper(RtpHeader::Auto, HOLD);
        unwrapper.push(at(0), payload(3));
        assert_eq!(unwrapper.poll(), Some((at(0), payload(3))), "a bare transport stream passes");
    }

    #[test]
    fn padding_and_extensions_are_taken_off_too() {
        let mut datagram = rtp(33, 9, &[]).to_vec();
        datagram[0] |= 0x30;
        datagram.extend([0xbe, 0xde, 0, 1, 1, 2, 3, 4]);
        datagram.extend(payload(9));
        datagram.extend([0, 0, 0, 4]);
        let mut unwrapper = unwrapper(RtpHeader::Auto, HOLD);
        unwrapper.push(at(0), datagram.into());
        assert_eq!(unwrapper.poll(), Some((at(0), payload(9))));
    }

    #[test]
    fn what_is_missing_is_waited_for_and_then_counted() {
        let mut unwrapper = unwrapper(RtpHeader::Auto, HOLD);
        for (ms, number) in [(0, 65534), (1, 0), (2, 65535), (3, 3), (4, 3)] {
            unwrapper.push(at(ms), rtp(33, number, &payload(number)));
        }
        assert_eq!(numbers(&mut unwrapper), [65534, 65535, 0]);
        assert_eq!(unwrapper.poll_timeout(), Some(at(13)));
        unwrapper.handle_timeout(at(12));
        assert!(numbers(&mut unwrapper).is_empty());
        unwrapper.handle_timeout(at(13));
        assert_eq!(numbers(&mut unwrapper), [3]);
        unwrapper.push(at(14), rtp(33, 2, &payload(2)));
        assert!(numbers(&mut unwrapper).is_empty());
        let counters = unwrapper.counters();
        assert_eq!((counters.rtp_lost, counters.rtp_reordered, counters.rtp_dropped), (2, 1, 2));
    }

    #[test]
    fn a_sender_that_begins_anew_is_followed_at_once() {
        let mut unwrapper = unwrapper(RtpHeader::Auto, HOLD);
        for number in [10, 12, 30_000, 30_001] {
            unwrapper.push(at(0), rtp(33, number, &payload(number)));
        }
        assert_eq!(numbers(&mut unwrapper), [10, 12, 30_000, 30_001]);
    }

    #[test]
    fn a_leg_that_is_far_behind_adds_nothing_and_takes_over_where_the_first_ends() {
        let mut unwrapper = unwrapper(RtpHeader::Auto, HOLD);
        // Four packets a millisecond; the second leg is 450 packets, or 1200, behind, and the first ends after 2000.
        for behind in [450u16, 1200] {
            let (ms, begins) = (u64::from(behind) * 100, behind.wrapping_mul(40));
            for n in 0..2100 + behind {
                let mut leg = |n: u16| {
                    let number = begins.wrapping_add(n);
                    unwrapper.push(at(ms + u64::from(n) / 4), rtp(33, number, &payload(number)));
                };
                if n < 2000 {
                    leg(n);
                }
                if n >= behind {
                    leg(n - behind);
                }
            }
            let expected: Vec<u16> = (0..2100).map(|n| begins.wrapping_add(n)).collect();
            assert_eq!(numbers(&mut unwrapper), expected, "{behind} behind");
        }
        assert_eq!((unwrapper.counters().rtp_dropped, unwrapper.counters().rtp_lost), (4000, 0));
    }

    #[test]
    fn a_long_gap_is_lost_and_smaller_numbers_after_a_pause_are_a_new_beginning() {
        let mut unwrapper = unwrapper(RtpHeader::Auto, HOLD);
        let mut came = Vec::new();
        for (ms, number) in [(0, 40_000), (1, 41_001), (2, 41_002), (400, 20_000), (700, 20_001), (701, 20_002)] {
            // What goes by without its numbers being looked at says nothing of them.
            unwrapper.push(at(ms), payload(7));
            assert_eq!(unwrapper.poll().map(|(_, passed)| passed), Some(payload(7)));
            unwrapper.push(at(ms), rtp(33, number, &payload(number)));
            came.extend(numbers(&mut unwrapper));
        }
        assert_eq!(came, [40_000, 41_001, 41_002, 20_001, 20_002]);
        assert_eq!((unwrapper.counters().rtp_lost, unwrapper.counters().rtp_dropped), (1000, 1));
    }

    #[test]
    fn without_reordering_nothing_waits() {
        let mut unwrapper = unwrapper(RtpHeader::Auto, Duration::ZERO);
        for number in [1, 3, 2, 4] {
            unwrapper.push(at(0), rtp(33, number, &payload(number)));
        }
        assert_eq!(numbers(&mut unwrapper), [1, 3, 4]);
        assert_eq!(unwrapper.poll_timeout(), None);
    }

    proptest! {
        #[test]
        fn any_order_within_the_wait_is_restored(
            start: u16,
            order in (2..100usize).prop_flat_map(|n| Just((1..n).collect::<Vec<_>>()).prop_shuffle()),
            copies in proptest::collection::vec(any::<proptest::sample::Index>(), 0..20),
        ) {
            let mut unwrapper = unwrapper(RtpHeader::Auto, HOLD);
            let number = |n: usize| start.wrapping_add(n as u16);
            let mut sent: Vec<u16> = order.iter().map(|n| number(*n)).collect();
            for copy in copies {
                sent.push(sent[copy.index(sent.len())]);
            }
            // The first one tells where the numbering begins.
            unwrapper.push(at(0), rtp(33, start, &payload(start)));
            for number in sent {
                unwrapper.push(at(1), rtp(33, number, &payload(number)));
            }
            let expected: Vec<u16> = (0..=order.len()).map(number).collect();
            prop_assert_eq!(numbers(&mut unwrapper), expected);
            prop_assert_eq!(unwrapper.counters().rtp_lost, 0);
        }

        #[test]
        fn no_datagram_panics(datagrams in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 0..50)) {
            for header in [RtpHeader::Auto, RtpHeader::Strip, RtpHeader::Keep] {
                let mut unwrapper = unwrapper(header, HOLD);
                for (n, datagram) in datagrams.iter().enumerate() {
                    unwrapper.push(at(n as u64), datagram.clone().into());
                    unwrapper.handle_timeout(at(n as u64));
                }
            }
        }
    }
}
