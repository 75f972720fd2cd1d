//! When the bytes of a file are due, by its clock references. Pure.
//!
//! Between two references the rate is constant by definition (ISO/IEC 13818-1, D.0.9): a byte between them is due in
//! proportion. So nothing can be said of a byte before the reference after it has been read. References that jump, as
//! where a recording was cut, are not followed: the bytes over the jump are due at the rate before it.

use crate::packetize::PAYLOAD;
use bytes::{Bytes, BytesMut};
use node::ts::{self, Pcr};
use std::collections::VecDeque;
use std::time::Duration;

/// A payload and when it is due, counted from the first one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// When.
    pub at: Duration,
    /// What.
    pub payload: Bytes,
}

/// There are not two clock references in what was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no clock references (PCR) to pace it by")]
pub struct NoClock;

/// A step between references beyond this is a jump. The standard asks for at most 100 ms; some files have a second.
pub const LARGEST_STEP: u64 = 2 * Pcr::HZ;

/// Most bytes held for want of a reference: a second and a half at 20 Mbit/s.
const LARGEST_GAP: u64 = 4 << 20;

/// A place in the stream whose time is known.
#[derive(Clone, Copy, Debug)]
struct Anchor {
    offset: u64,
    ticks: f64,
    pcr: Pcr,
}

/// Cuts a transport stream into payloads and gives each its time. Push, then poll until `None`.
#[derive(Debug, Default)]
pub struct Pacer {
    /// The programme whose clock is followed: the first with a reference.
    clock: Option<u16>,
    anchor: Option<Anchor>,
    /// Ticks per byte between the last two references.
    slope: Option<f64>,
    /// Bytes taken.
    offset: u64,
    /// The payload that is not yet full, and where it begins.
    partial: BytesMut,
    partial_at: u64,
    /// The time of that payload, where it is known before the payload is full.
    partial_ticks: Option<f64>,
    /// Full payloads that wait for a reference.
    waiting: VecDeque<(u64, Bytes)>,
    ready: VecDeque<Due>,
    /// Time of the first payload, and the latest given: times never go back.
    origin: Option<f64>,
    latest: Duration,
}

impl Pacer {
    /// Takes the next packet.
    pub fn push(&mut self, packet: &[u8]) {
        if let Some(pcr) = ts::pcr(packet) {
            let pid = ts::pid(packet);
            if *self.clock.get_or_insert(pid) == pid {
                self.reference(pcr, ts::discontinuity(packet));
            }
        }
        self.append(packet);
        if self.partial.len() == PAYLOAD {
            self.cut();
        }
    }

    /// Takes bytes that belong to no packet; they travel apart.
    pub fn push_garbage(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(PAYLOAD) {
            self.cut();
            self.append(piece);
        }
        self.cut();
    }

    /// The next payload whose time is known.
    pub fn poll(&mut self) -> Option<Due> {
        self.ready.pop_front()
    }

    /// Whether so much waits for two references in a row that none will come: bytes beyond reason since the first that waits, whether there
    /// are no references, or all of them are jumps.
    pub fn is_stuck(&self) -> bool {
        let first = self.waiting.front().map_or(self.partial_at, |(offset, _)| *offset);
        self.slope.is_none() && self.offset - first > LARGEST_GAP
    }

    /// Gives everything its time: no more will come. All waiting payloads are lost where there was no clock.
    pub fn finish(&mut self) -> Result<(), NoClock> {
        self.cut();
        let (Some(anchor), Some(slope)) = (self.anchor, self.slope) else {
            return if self.waiting.is_empty() { Ok(()) } else { Err(NoClock) };
        };
        self.settle(anchor, slope, self.offset);
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) {
        if self.partial.is_empty() {
            self.partial = BytesMut::with_capacity(PAYLOAD);
            self.partial_at = self.offset;
        }
        self.partial.extend_from_slice(bytes);
        self.offset += bytes.len() as u64;
        if let (Some(anchor), Some(slope)) = (self.anchor, self.slope)
            && self.offset - anchor.offset > LARGEST_GAP
        {
            self.settle(anchor, slope, self.offset);
        }
    }

    /// Closes the payload that is not yet full.
    fn cut(&mut self) {
        if self.partial.is_empty() {
            return;
        }
        let payload = std::mem::take(&mut self.partial).freeze();
        match self.partial_ticks.take() {
            Some(ticks) => self.give(ticks, payload),
            None => self.waiting.push_back((self.partial_at, payload)),
        }
    }

    /// The byte that comes next is due at `pcr`.
    fn reference(&mut self, pcr: Pcr, jump: bool) {
        let here = self.offset;
        let Some(last) = self.anchor else {
            self.anchor = Some(Anchor { offset: here, ticks: 0.0, pcr });
            return;
        };
        let step = pcr.since(last.pcr);
        let bytes = (here - last.offset) as f64;
        if bytes == 0.0 {
            return;
        }
        let jump = jump || step == 0 || step > LARGEST_STEP;
        let slope = if jump { self.slope } else { Some(step as f64 / bytes) };
        let Some(slope) = slope else {
            // A jump before any rate is known: begin anew, and give what waits the rate to come.
            self.anchor = Some(Anchor { offset: here, ticks: 0.0, pcr });
            return;
        };
        self.slope = Some(slope);
        self.settle(last, slope, here);
        self.anchor = Some(Anchor { offset: here, ticks: last.ticks + slope * bytes, pcr });
    }

    /// Gives every payload that begins before `end` its time.
    fn settle(&mut self, anchor: Anchor, slope: f64, end: u64) {
        let ticks = |offset: u64| anchor.ticks + slope * (offset as f64 - anchor.offset as f64);
        while let Some((offset, payload)) = self.waiting.pop_front_if(|(offset, _)| *offset < end) {
            self.give(ticks(offset), payload);
        }
        if !self.partial.is_empty() && self.partial_at < end && self.partial_ticks.is_none() {
            self.partial_ticks = Some(ticks(self.partial_at));
        }
    }

    fn give(&mut self, ticks: f64, payload: Bytes) {
        let origin = *self.origin.get_or_insert(ticks);
        let nanos = (ticks - origin).max(0.0) * (1e9 / Pcr::HZ as f64);
        self.latest = self.latest.max(Duration::from_nanos(nanos as u64));
        self.ready.push_back(Due { at: self.latest, payload });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use node::ts::PACKET;
    use node::ts::testing::packet;
    use proptest::prelude::*;

    /// Ticks that one packet takes at 1.504 Mbit/s: exactly one millisecond.
    const MS: u64 = Pcr::HZ / 1000;

    /// `count` packets at one a millisecond with a reference every `every`, the first at `first`.
    fn feed(pacer: &mut Pacer, range: std::ops::Range<u64>, first: usize, every: usize, pcr: impl Fn(u64) -> Pcr) {
        for n in range {
            let has = n as usize >= first && (n as usize - first).is_multiple_of(every);
            pacer.push(&packet(0x100, n as u8, has.then(|| pcr(n))));
        }
    }

    fn drain(pacer: &mut Pacer) -> Vec<Due> {
        std::iter::from_fn(|| pacer.poll()).collect()
    }

    fn assert_even(dues: &[Due]) {
        for (n, due) in dues.iter().enumerate() {
            let expected = Duration::from_millis(7 * n as u64);
            let off = due.at.abs_diff(expected);
            assert!(off < Duration::from_micros(2), "payload {n} at {:?}, expected {expected:?}", due.at);
        }
    }

    proptest! {
        #[test]
        fn a_constant_rate_gives_even_payloads(first in 0..60usize, every in 1..90usize, start in 0..Pcr::MODULUS) {
            let mut pacer = Pacer::default();
            feed(&mut pacer, 0..700, first, every, |n| Pcr(start).plus(n * MS));
            pacer.finish().unwrap();
            let dues = drain(&mut pacer);
            prop_assert_eq!(dues.len(), 100);
            assert_even(&dues);
        }

        #[test]
        fn nothing_is_lost_and_time_never_goes_back(
            items in proptest::collection::vec((any::<bool>(), 0..Pcr::MODULUS, 1..4000usize), 2..200),
        ) {
            let mut pacer = Pacer::default();
            let mut bytes = Vec::new();
            // Two references to have a clock; then anything.
            for (n, (garbage, pcr, len)) in items.into_iter().enumerate() {
                if n >= 2 && garbage {
                    pacer.push_garbage(&vec![n as u8; len]);
                    bytes.extend(vec![n as u8; len]);
                } else {
                    let pcr = if n < 2 { Pcr(n as u64 * MS) } else { Pcr(pcr) };
                    let packet = packet(0x100, n as u8, (n < 2 || len % 2 == 0).then_some(pcr));
                    pacer.push(&packet);
                    bytes.extend(packet);
                }
            }
            pacer.finish().unwrap();
            let dues = drain(&mut pacer);
            prop_assert!(dues.is_sorted_by_key(|due| due.at));
            prop_assert!(dues.iter().all(|due| due.payload.len() <= PAYLOAD));
            prop_assert_eq!(dues.iter().flat_map(|due| due.payload.to_vec()).collect::<Vec<_>>(), bytes);
        }
    }

    #[test]
    fn a_jump_of_the_clock_is_crossed_at_the_rate_before_it() {
        for (jump, flag) in [(3600 * Pcr::HZ, false), (Pcr::MODULUS - 5 * Pcr::HZ, false), (Pcr::HZ, true)] {
            let mut pacer = Pacer::default();
            feed(&mut pacer, 0..350, 0, 20, |n| Pcr(n * MS));
            let mut cut = packet(0x100, 0, Some(Pcr(350 * MS + jump % Pcr::MODULUS)));
            cut[5] |= if flag { 0x80 } else { 0 };
            pacer.push(&cut);
            feed(&mut pacer, 351..700, 0, 20, |n| Pcr(n * MS).plus(jump));
            pacer.finish().unwrap();
            assert_even(&drain(&mut pacer));
        }
    }

    #[test]
    fn a_rate_that_changes_is_followed() {
        let mut pacer = Pacer::default();
        // 70 packets in 70 ms, then 70 in 35 ms, then 70 in 70 ms again.
        let time = |n: u64| {
            if n < 70 {
                n * MS
            } else if n < 140 {
                70 * MS + (n - 70) * MS / 2
            } else {
                (n - 35) * MS
            }
        };
        feed(&mut pacer, 0..211, 0, 70, |n| Pcr(time(n)));
        pacer.finish().unwrap();
        let dues = drain(&mut pacer);
        for (n, due) in dues.iter().enumerate() {
            let expected = Duration::from_nanos(time(7 * n as u64) * 1000 / 27);
            assert!(due.at.abs_diff(expected) < Duration::from_micros(2), "payload {n}: {:?} {expected:?}", due.at);
        }
    }

    #[test]
    fn the_clock_of_one_programme_is_followed() {
        let mut pacer = Pacer::default();
        for n in 0..700u64 {
            let pcr = match n % 20 {
                0 => Some((0x100, Pcr(n * MS))),
                7 => Some((0x200, Pcr(n * 17 + 4_000_000))),
                _ => None,
            };
            let (pid, pcr) = pcr.map_or((0x300, None), |(pid, pcr)| (pid, Some(pcr)));
            pacer.push(&packet(pid, 0, pcr));
        }
        pacer.finish().unwrap();
        assert_even(&drain(&mut pacer));
    }

    #[test]
    fn without_a_clock_it_says_so() {
        let mut pacer = Pacer::default();
        feed(&mut pacer, 0..100, 0, 1000, |_| Pcr(0));
        assert_eq!(pacer.finish(), Err(NoClock));
        let mut pacer = Pacer::default();
        feed(&mut pacer, 0..LARGEST_GAP / PACKET as u64 + 2, 1 << 30, 1, |_| Pcr(0));
        assert!(pacer.is_stuck());
        let mut frozen = Pacer::default();
        feed(&mut frozen, 0..LARGEST_GAP / PACKET as u64 + 2, 0, 20, |_| Pcr(7 * MS));
        assert!(frozen.is_stuck());
    }

    #[test]
    fn a_clock_that_stops_is_replaced_by_the_last_rate() {
        let mut pacer = Pacer::default();
        feed(&mut pacer, 0..21, 0, 20, |n| Pcr(n * MS));
        let long = 2 * LARGEST_GAP / PACKET as u64;
        feed(&mut pacer, 21..long, 1 << 30, 1, |_| Pcr(0));
        assert!(drain(&mut pacer).len() as u64 > long / 7 / 3, "released before the end");
        assert!(!pacer.is_stuck());
    }
}
