//! The symbols that come in: which are known, which are missing, and packets made of them.

use crate::allowance::Allowance;
use crate::codec::{Arithmetic, Decoder, Galois, Row, coefficient};
use crate::endpoint::{Delivery, Recovery};
use crate::frame::{BODY_HEADER, Body, Horizon, MAX_GAPS, Media, Part, Repair};
use crate::seq;
use crate::time::Instant;
use crate::timing::Timing;
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::time::Duration;

/// Most symbols remembered, known or missing.
const MAX_SLOTS: usize = 1 << 15;
/// Most symbols believed to be missing at the beginning, and after a jump, before the first that came.
const MAX_EARLIER: u64 = 4096;
/// Most symbols that may show as missing each second, beyond as many as are remembered: more than any link loses, or reorders. What a
/// frame brings itself does not count.
const SHOWN_PER_SECOND: u32 = 250_000;
/// Most missing symbols that a report tells of; the next one goes on.
const MAX_TOLD: usize = 4096;
/// A symbol missing for so long is given up, whatever the peer says.
const MAX_WAIT: Duration = Duration::from_secs(5);
/// A symbol held for so long is forgotten, whatever the peer says: no packet is of use for longer. What it came in may be a slice of
/// something much larger.
const MAX_HELD: Duration = Duration::from_secs(10);
/// How far apart the moments are at which it is noted how far the symbols went.
const MARKS: Duration = Duration::from_secs(1);

/// The symbols of one direction, as they come in.
#[derive(Debug)]
pub(crate) struct Symbols {
    slots: VecDeque<Slot>,
    /// Number of the first slot; 0 before the first contact.
    first: u64,
    /// Unknown ones, in rising order.
    missing: VecDeque<(u64, Instant)>,
    /// The first of those that the last report had no room for.
    untold: Option<u64>,
    /// Bytes of bodies kept.
    kept: usize,
    max_kept: usize,
    /// The lowest number that may still show: symbols sent before the first that came, as long as nothing was dropped from the front.
    earliest: u64,
    /// Where the symbols ended, at some moments of late.
    marks: VecDeque<(u64, Instant)>,
    /// Symbols that may show as missing.
    shown: Allowance,
    decoder: Decoder,
    solved: Vec<Row>,
    deliveries: VecDeque<Delivery>,
    counters: Counters,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    pub(crate) media: u64,
    pub(crate) media_bytes: u64,
    pub(crate) by_arq: u64,
    pub(crate) by_fec: u64,
    pub(crate) unrecovered: u64,
    pub(crate) unneeded: u64,
    pub(crate) malformed: u64,
}

#[derive(Debug)]
enum Slot {
    Missing,
    Known(Bytes, Recovery),
}

impl Symbols {
    pub(crate) fn new(max_kept: usize) -> Symbols {
        Symbols {
            slots: VecDeque::new(),
            first: 0,
            missing: VecDeque::new(),
            untold: None,
            kept: 0,
            max_kept,
            earliest: 0,
            marks: VecDeque::new(),
            shown: Allowance::new(MAX_SLOTS as u32, SHOWN_PER_SECOND),
            decoder: Decoder::default(),
            solved: Vec::new(),
            deliveries: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// The next packet, ready to go on.
    pub(crate) fn poll_delivery(&mut self) -> Option<Delivery> {
        self.deliveries.pop_front()
    }

    /// What was counted.
    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }

    /// Things held, to see that nothing piles up.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.slots.len() + self.missing.len() + self.decoder.len() + self.deliveries.len()
    }

    /// Work that the peer has made: symbols that showed as missing, and steps of the decoder.
    #[cfg(test)]
    pub(crate) fn work(&self) -> (u64, u64) {
        (self.shown.taken(), self.decoder.work())
    }

    /// Whether anything is missing.
    pub(crate) fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }

    /// Takes the first transmission of a symbol; `datagram` is the one that `media` was decoded from.
    pub(crate) fn on_media(&mut self, now: Instant, timing: &Timing, media: &Media<'_>, datagram: &Bytes) {
        let symbol = self.locate(media.symbol);
        self.expect_from(now, symbol);
        if !self.expect_until(now, symbol + 1) {
            return;
        }
        if self.is_missing(symbol) {
            self.decoder.earn();
            self.counters.media += 1;
            self.counters.media_bytes += datagram.len() as u64;
            self.know(now, timing, symbol, datagram.slice_ref(media.body), Recovery::None);
            self.solve(now, timing, Recovery::Fec);
        }
    }

    /// Takes a combination.
    pub(crate) fn on_repair(&mut self, now: Instant, timing: &Timing, repair: &Repair<'_>, datagram: &Bytes) {
        let base = self.locate(repair.symbols.base());
        let last = base + u64::from(repair.symbols.offsets().last().unwrap_or(0));
        self.expect_from(now, base);
        if !self.expect_until(now, (base + 1 + u64::from(repair.ahead)).max(last + 1)) {
            return;
        }
        let recovery = if repair.ahead_of_loss { Recovery::Fec } else { Recovery::Arq };
        if repair.symbols.count() == 1 {
            self.on_copy(now, timing, base, recovery, repair.coded, datagram);
            return;
        }
        if !self.decoder.is_open(now) {
            self.counters.malformed += 1;
            return;
        }
        let mut row = self.decoder.blank();
        row.data.extend_from_slice(repair.coded);
        for offset in repair.symbols.offsets() {
            let symbol = base + u64::from(offset);
            let factor = coefficient(repair.link_seq.0, symbol as u32);
            match self.slot(symbol) {
                // What is forgotten cannot be taken out of the equation.
                None => return self.decoder.recycle(row),
                Some(Slot::Missing) => row.terms.push((symbol, factor)),
                Some(Slot::Known(body, _)) => add_symbol(&mut row.data, factor, body),
            }
        }
        if row.terms.is_empty() || !self.decoder.insert(row, &mut self.solved) {
            self.counters.unneeded += 1;
        }
        self.solve(now, timing, recovery);
    }

    /// Takes what the peer says of how far it has come.
    pub(crate) fn on_horizon(&mut self, now: Instant, horizon: Horizon) {
        let next = self.locate(horizon.next_symbol);
        let floor = next.saturating_sub(horizon.kept.into());
        if horizon.kept == u16::MAX {
            // It keeps more than it can say.
            self.expect_from(now, next);
            self.expect_until(now, next);
            return;
        }
        if self.first > 0 && floor > self.end() {
            // None of what would show could come.
            self.begin_at(floor);
        }
        self.expect_from(now, floor);
        if !self.expect_until(now, next) {
            return;
        }
        // The peer is done with a first half that is here; this end is not while the second is missing.
        let waits = self.is_missing(floor) && self.is_first_half(floor.saturating_sub(1));
        self.forget_before(floor - u64::from(waits));
    }

    /// Gives up what has been missing for far too long, and forgets what has been known for longer still.
    pub(crate) fn expire(&mut self, now: Instant) {
        let given_up = self.missing.iter().take_while(|(_, since)| now - *since >= MAX_WAIT).last();
        if let Some((symbol, _)) = given_up.copied() {
            self.forget_before(symbol + 1);
        }
        if self.marks.back().is_none_or(|(_, marked)| now - *marked >= MARKS) {
            self.marks.push_back((self.end(), now));
        }
        while let Some((end, _)) = self.marks.front().copied().filter(|(_, marked)| now - *marked >= MAX_HELD) {
            self.marks.pop_front();
            self.forget_before(end);
        }
    }

    /// Writes runs of symbols that are missing for at least `guard`, downwards: how many to skip, how many are missing. Returns the number
    /// from which to go down, and how far in all.
    ///
    /// What does not fit is told first by the next report, on a link that is `quick`: if each began with the oldest, nothing would be heard of the newest
    /// for as long as the oldest are under repair. On a slow one so many runs at a time are those of a queue that overflows, and to have
    /// all of it repaired at once would keep it full.
    pub(crate) fn tell(
        &mut self,
        now: Instant,
        guard: Duration,
        quick: bool,
        runs: &mut Vec<(u32, u32)>,
    ) -> (u32, u16) {
        runs.clear();
        let from = self.untold.take().map_or(self.first, |untold| untold.max(self.first));
        let mut up_to = self.end();
        // Rising runs of (start, length).
        let mut rising = [(0u64, 0u64); MAX_GAPS];
        let mut count = 0;
        let most = if quick { MAX_GAPS } else { MAX_GAPS / 2 };
        let place = self.missing.partition_point(|(symbol, _)| *symbol < from);
        for (told, (symbol, since)) in self.missing.range(place..).enumerate() {
            if now - *since < guard {
                up_to = *symbol;
                break;
            }
            let run = rising[..count].last_mut().filter(|(start, length)| *start + *length == *symbol);
            if told == MAX_TOLD || run.is_none() && count == most {
                up_to = *symbol;
                self.untold = (quick || told == MAX_TOLD).then_some(*symbol);
                break;
            }
            if let Some((_, length)) = run {
                *length += 1;
            } else {
                rising[count] = (*symbol, 1);
                count += 1;
            }
        }
        let mut above = up_to;
        for (start, length) in rising[..count].iter().rev() {
            runs.push(((above - start - length) as u32, *length as u32));
            above = *start;
        }
        (up_to as u32, (up_to - from).min(u64::from(u16::MAX)) as u16)
    }

    fn on_copy(
        &mut self,
        now: Instant,
        timing: &Timing,
        symbol: u64,
        recovery: Recovery,
        coded: &[u8],
        datagram: &Bytes,
    ) {
        let Some((length, rest)) = coded.split_first_chunk::<2>() else { return };
        let length = usize::from(u16::from_be_bytes(*length));
        // A longer rest would be held with it, and counted nowhere.
        if length < BODY_HEADER || length != rest.len() {
            self.counters.malformed += 1;
            return;
        }
        if !self.is_missing(symbol) {
            self.counters.unneeded += 1;
            return;
        }
        self.know(now, timing, symbol, datagram.slice_ref(rest), recovery);
        self.solve(now, timing, recovery);
    }

    /// Makes packets of what the decoder has solved, until it solves no more.
    fn solve(&mut self, now: Instant, timing: &Timing, recovery: Recovery) {
        while let Some(row) = self.solved.pop() {
            let Some((symbol, _)) = row.terms.first().copied() else { continue };
            let length = row.data.first_chunk::<2>().map_or(0, |length| usize::from(u16::from_be_bytes(*length)));
            match row.data.get(2..2 + length) {
                Some(body) if Body::decode(body).is_ok() && self.is_missing(symbol) => {
                    let body = Bytes::copy_from_slice(body);
                    self.know(now, timing, symbol, body, recovery);
                }
                Some(_) => {}
                None => self.counters.malformed += 1,
            }
            self.decoder.recycle(row);
        }
    }

    /// A missing symbol has become known.
    fn know(&mut self, now: Instant, timing: &Timing, symbol: u64, body: Bytes, recovery: Recovery) {
        let Ok(header) = Body::decode(&body) else {
            self.counters.malformed += 1;
            return;
        };
        let Some(place) = self.place(symbol) else { return };
        if let Ok(missing) = self.missing.binary_search_by_key(&symbol, |missing| missing.0) {
            self.missing.remove(missing);
        }
        self.kept += body.len();
        self.decoder.learn(symbol, [&(body.len() as u16).to_be_bytes(), &body], &mut self.solved);
        self.slots[place] = Slot::Known(body.clone(), recovery);
        match header.part {
            Part::Whole => self.deliver(now, timing, &header, body.slice(BODY_HEADER..), recovery),
            Part::First => self.rejoin(now, timing, symbol),
            Part::Second => self.rejoin(now, timing, symbol - 1),
        }
        while self.kept > self.max_kept {
            self.forget_before(self.first + 1);
        }
    }

    /// Delivers the packet whose halves are `symbol` and the one after it, when both are there and belong together.
    fn rejoin(&mut self, now: Instant, timing: &Timing, symbol: u64) {
        let (Some(Slot::Known(first, way)), Some(Slot::Known(second, other))) =
            (self.slot(symbol), self.slot(symbol + 1))
        else {
            return;
        };
        let (Ok(head), Ok(tail)) = (Body::decode(first), Body::decode(second)) else { return };
        let belong = head.part == Part::First
            && tail.part == Part::Second
            && (head.stream, head.seq, head.birth) == (tail.stream, tail.seq, tail.birth);
        if !belong {
            self.counters.malformed += 1;
            return;
        }
        let mut payload = BytesMut::with_capacity(first.len() + second.len() - 2 * BODY_HEADER);
        payload.extend_from_slice(&first[BODY_HEADER..]);
        payload.extend_from_slice(&second[BODY_HEADER..]);
        let recovery = match (*way, *other) {
            (Recovery::None, other) => other,
            (way, Recovery::None) => way,
            (Recovery::Fec, Recovery::Fec) => Recovery::Fec,
            _ => Recovery::Arq,
        };
        self.deliver(now, timing, &head, payload.freeze(), recovery);
    }

    fn deliver(&mut self, now: Instant, timing: &Timing, header: &Body, payload: Bytes, recovery: Recovery) {
        match recovery {
            Recovery::None => {}
            Recovery::Arq => self.counters.by_arq += 1,
            Recovery::Fec => self.counters.by_fec += 1,
        }
        self.deliveries.push_back(Delivery {
            stream: header.stream,
            seq: header.seq,
            media_time: header.media_time,
            age: timing.age(now, header.birth),
            label: header.label,
            flags: header.flags,
            payload,
            recovery,
        });
    }

    fn locate(&self, wire: u32) -> u64 {
        if self.first == 0 { seq::first(wire) } else { seq::extend(wire, self.end()) }
    }

    /// Counts symbols from `symbol` on as missing where this is news from before the first contact.
    fn expect_from(&mut self, now: Instant, symbol: u64) {
        if self.first == 0 {
            self.first = symbol;
            self.earliest = symbol.saturating_sub(MAX_EARLIER);
        }
        if symbol < self.earliest {
            return;
        }
        while self.first > symbol {
            self.first -= 1;
            self.slots.push_front(Slot::Missing);
            self.missing.push_front((self.first, now));
        }
    }

    /// Counts symbols before `end` as missing unless they are known. Returns whether it does: a peer whose numbers leap further than any
    /// path loses is not followed for now.
    fn expect_until(&mut self, now: Instant, end: u64) -> bool {
        let next = self.end();
        if end <= next {
            return true;
        }
        let first = if end - next > MAX_SLOTS as u64 { end - MAX_EARLIER } else { next };
        let missing = (end - first - 1) as usize;
        if missing > 0 {
            if !self.shown.is_open(now) {
                self.counters.malformed += 1;
                return false;
            }
            self.shown.take(missing);
        }
        if first > next {
            // Nothing that is here belongs with what is there.
            self.begin_at(first);
        }
        for symbol in first..end {
            self.slots.push_back(Slot::Missing);
            self.missing.push_back((symbol, now));
        }
        if self.slots.len() > MAX_SLOTS {
            self.forget_before(end - MAX_SLOTS as u64);
        }
        true
    }

    /// A new beginning, beyond all that is here.
    fn begin_at(&mut self, first: u64) {
        self.counters.unrecovered += self.missing.len() as u64 + (first - self.end());
        self.slots.clear();
        self.missing.clear();
        self.decoder.forget_before(first);
        self.kept = 0;
        (self.first, self.earliest) = (first, first);
    }

    fn forget_before(&mut self, floor: u64) {
        let floor = floor.min(self.end());
        if floor <= self.first {
            return;
        }
        while self.first < floor {
            match self.slots.pop_front() {
                Some(Slot::Known(body, _)) => self.kept -= body.len(),
                Some(Slot::Missing) => {
                    self.missing.pop_front();
                    self.counters.unrecovered += 1;
                }
                None => {}
            }
            self.first += 1;
        }
        self.earliest = self.first;
        self.decoder.forget_before(floor);
    }

    /// The number after the last that has shown.
    fn end(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    fn is_first_half(&self, symbol: u64) -> bool {
        match self.slot(symbol) {
            Some(Slot::Known(body, _)) => Body::decode(body).is_ok_and(|header| header.part == Part::First),
            _ => false,
        }
    }

    fn is_missing(&self, symbol: u64) -> bool {
        matches!(self.slot(symbol), Some(Slot::Missing))
    }

    fn slot(&self, symbol: u64) -> Option<&Slot> {
        self.place(symbol).and_then(|place| self.slots.get(place))
    }

    fn place(&self, symbol: u64) -> Option<usize> {
        let place = usize::try_from(symbol.checked_sub(self.first)?).ok()?;
        (place < self.slots.len()).then_some(place)
    }
}

/// Adds `factor` times `length, body` of a symbol.
fn add_symbol(data: &mut Vec<u8>, factor: u8, body: &[u8]) {
    if data.len() < 2 + body.len() {
        data.resize(2 + body.len(), 0);
    }
    let (length, rest) = data.split_at_mut(2);
    Galois::add_multiple(factor, &(body.len() as u16).to_be_bytes(), length);
    Galois::add_multiple(factor, body, rest);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{self, Frame};
    use crate::ids::{Flags, Label, LinkSeq, MediaTime, StreamHandle, StreamSeq};

    fn at(millis: u64) -> Instant {
        Instant::from_micros(millis * 1000)
    }

    fn body() -> [u8; BODY_HEADER] {
        let (stream, seq, media_time, label) = (StreamHandle(1), StreamSeq(1), MediaTime(0), Label(0));
        Body { flags: Flags::default(), part: Part::Whole, birth: 0, stream, seq, media_time, label }.encode()
    }

    fn media(symbols: &mut Symbols, now: Instant, symbol: u32) {
        let mut out = BytesMut::new();
        Media::put_prefix(&mut out, LinkSeq(0), symbol, 0);
        out.extend_from_slice(&body());
        let datagram = out.freeze();
        let Ok(Frame::Media(media)) = frame::decode(&datagram) else { panic!("no media: {datagram:?}") };
        symbols.on_media(now, &Timing::new(), &media, &datagram);
    }

    fn copy(symbols: &mut Symbols, now: Instant, symbol: u32, padding: usize) {
        let mut out = BytesMut::new();
        Repair::put_set(&mut out, LinkSeq(0), 0, false, 0, [symbol].into_iter());
        out.extend_from_slice(&(BODY_HEADER as u16).to_be_bytes());
        out.extend_from_slice(&body());
        out.resize(out.len() + padding, 0);
        let datagram = out.freeze();
        let Ok(Frame::Repair(repair)) = frame::decode(&datagram) else { panic!("no repair: {datagram:?}") };
        symbols.on_repair(now, &Timing::new(), &repair, &datagram);
    }

    #[test]
    fn a_copy_in_a_datagram_of_another_length_is_malformed() {
        let mut symbols = Symbols::new(1 << 20);
        copy(&mut symbols, at(0), 7, 1000);
        assert_eq!((symbols.counters().malformed, symbols.kept), (1, 0));
        copy(&mut symbols, at(0), 7, 0);
        assert_eq!((symbols.counters().malformed, symbols.kept), (1, BODY_HEADER));
        assert!(symbols.poll_delivery().is_some());
    }

    #[test]
    fn what_is_known_is_forgotten_though_the_peer_never_says_that_it_is_done() {
        let mut symbols = Symbols::new(1 << 20);
        for symbol in 0..30_000 {
            let now = at(u64::from(symbol));
            media(&mut symbols, now, symbol);
            symbols.expire(now);
            while symbols.poll_delivery().is_some() {}
            let most = (MAX_HELD + MARKS).as_millis() as usize + 1;
            assert!(symbols.slots.len() <= most, "{} held", symbols.slots.len());
            assert!(symbols.slots.len() > (symbol as usize).min(9_000), "{} held at {symbol}", symbols.slots.len());
        }
        symbols.expire(at(29_999) + MARKS);
        symbols.expire(at(29_999) + MARKS + MAX_HELD);
        assert_eq!((symbols.held(), symbols.kept), (0, 0));
        assert_eq!(symbols.counters().unrecovered, 0);
    }

    /// What a report tells: the numbers spoken of, and those of them that are missing.
    fn told(symbols: &mut Symbols, now: Instant) -> (std::ops::Range<u32>, Vec<u32>) {
        let (mut runs, mut missing) = (Vec::new(), Vec::new());
        let (up_to, span) = symbols.tell(now, Duration::ZERO, true, &mut runs);
        let mut above = up_to;
        for (skip, length) in runs {
            above -= skip;
            missing.extend((above - length..above).rev());
            above -= length;
        }
        missing.reverse();
        (up_to - u32::from(span)..up_to, missing)
    }

    #[test]
    fn what_a_report_has_no_room_for_the_next_one_tells() {
        const GAPS: u32 = 2 * MAX_GAPS as u32 + 10;
        let mut symbols = Symbols::new(1 << 20);
        (0..=GAPS).for_each(|gap| media(&mut symbols, at(0), 2 * gap));
        for _ in 0..3 {
            let mut next = 0;
            for gaps in [MAX_GAPS, MAX_GAPS, 10] {
                let (span, missing) = told(&mut symbols, at(1));
                assert_eq!((span.start, missing.len()), (next, gaps));
                assert_eq!(missing, span.clone().filter(|symbol| symbol % 2 == 1).collect::<Vec<u32>>());
                next = span.end;
            }
            assert_eq!(next, 2 * GAPS + 1);
        }
        told(&mut symbols, at(1));
        symbols.forget_before(seq::first(4 * MAX_GAPS as u32));
        let all = told(&mut symbols, at(1));
        assert_eq!((all.0.start, all.1.len()), (4 * MAX_GAPS as u32, 10));
        assert_eq!(told(&mut symbols, at(1)), all, "where there is room for all, each tells all");
    }

    #[test]
    fn a_run_of_losses_too_long_for_a_report_is_told_by_several() {
        let mut symbols = Symbols::new(1 << 20);
        media(&mut symbols, at(0), 0);
        media(&mut symbols, at(0), 10_000);
        let lengths = [(); 4].map(|()| told(&mut symbols, at(1)).1.len());
        assert_eq!(lengths, [MAX_TOLD, MAX_TOLD, 9_999 - 2 * MAX_TOLD, MAX_TOLD]);
    }

    #[test]
    fn a_jump_keeps_what_showed_it() {
        let mut symbols = Symbols::new(1 << 20);
        media(&mut symbols, at(0), 5);
        media(&mut symbols, at(1), 5 + 2 * MAX_SLOTS as u32);
        let came = std::iter::from_fn(|| symbols.poll_delivery()).count();
        assert_eq!(came, 2);
        assert_eq!(symbols.counters().unrecovered, 2 * MAX_SLOTS as u64 - MAX_EARLIER);
        // Those just before it may have been overtaken, or be repaired.
        media(&mut symbols, at(2), 4 + 2 * MAX_SLOTS as u32);
        assert!(symbols.poll_delivery().is_some());
    }
}
