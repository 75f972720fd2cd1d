//! The playout of one life (incarnation) of a stream (pure).

use super::history::{HISTORY, History, Past};
use super::timeline::Timeline;
use super::{Arrival, LATE_TOLERANCE};
use bytes::Bytes;
use link::{Instant, StreamSeq};
use node::control::Content;
use std::collections::BTreeMap;
use std::time::Duration;
use topology::lsdb::Incarnation;

/// Farthest that a packet's number may lie ahead of the others, in packets; one farther out is a stray.
const MAX_LEAP: i32 = 1 << 26;
/// So many strays in a row, near each other, are the stream at another place of its sequence.
const STRAYS: usize = 8;
/// How near.
const STRAY_SPREAD: u32 = 1024;
/// Sequence numbers are unwrapped from here on, so that earlier ones stay positive.
const SEQ_ORIGIN: u64 = 1 << 32;

/// One life of a stream: what is held of it, and where its playout stands.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) incarnation: Incarnation,
    pub(super) content: Content,
    /// Time from the source's receipt to the release.
    pub(super) latency: Duration,
    timeline: Option<Timeline>,
    held: BTreeMap<u64, Held>,
    held_bytes: usize,
    /// Sequence numbers are unwrapped near this one.
    reference: Option<u64>,
    /// What was passed; `None` before the first release.
    passed: Option<History>,
    /// Packets born before this sink joined may never come, and are not missed.
    joined: Option<Instant>,
    /// When the last packet passed was born.
    last_born: Instant,
    strays: Vec<Arrival>,
    /// Whether anything of it came.
    pub(super) heard: bool,
    /// When the relay said that the stream ended.
    closed: Option<Instant>,
    ended: bool,
    /// Whether anything was released.
    begun: bool,
}

#[derive(Debug)]
struct Held {
    arrival: Arrival,
    /// When it was born by its own account.
    birth: Instant,
    kind: Kind,
}

/// What is done with a packet at its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// It is released.
    Media,
    /// It came too late, or there was no room: it only fills its place.
    Gone,
}

/// What became of a packet that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Held,
    Duplicate,
    BeforeStart,
    /// Too late; `was_missing`: and counted as missing until then.
    Late {
        was_missing: bool,
    },
    Overflow,
    /// Put aside: its number is far from all others.
    Stray,
    /// The stream goes on elsewhere in its sequence, with these packets.
    Leap(Vec<Arrival>),
}

/// A packet at its turn.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) due: Instant,
    pub(super) birth: Instant,
    /// Empty where there is nothing to release.
    pub(super) payload: Bytes,
    /// Its number.
    pub(super) seq: u64,
    /// Packets passed over.
    pub(super) gap: u64,
    /// Of these, the ones that this sink should have had.
    pub(super) missing: u64,
    /// Whether it is the first of its life that is released.
    pub(super) first: bool,
    /// Whether this was the end of the stream.
    pub(super) end: bool,
}

impl Life {
    /// A life of which nothing has come. `joined`: since when it is received; `None`: since the first packet.
    pub(super) fn new(incarnation: Incarnation, content: Content, latency: Duration, joined: Option<Instant>) -> Life {
        Life {
            incarnation,
            content,
            latency,
            timeline: None,
            held: BTreeMap::new(),
            held_bytes: 0,
            reference: None,
            passed: None,
            joined,
            last_born: Instant::ORIGIN,
            strays: Vec::new(),
            heard: false,
            closed: None,
            ended: false,
            begun: false,
        }
    }

    /// Takes a packet. `room`: bytes and packets that there is room for.
    pub(super) fn insert(&mut self, now: Instant, arrival: Arrival, room: (usize, usize)) -> Taken {
        let Some(seq) = self.unwrap_seq(arrival.seq) else { return self.stray(arrival) };
        self.strays.clear();
        let birth = now.saturating_sub(arrival.age);
        let joined = *self.joined.get_or_insert(now);
        if let Some(passed) = self.passed.as_mut().filter(|passed| seq < passed.next()) {
            return match passed.find(seq) {
                Past::BeforeFirst => Taken::BeforeStart,
                Past::Arrived => Taken::Duplicate,
                Past::Missing => {
                    passed.mark(seq);
                    Taken::Late { was_missing: true }
                }
            };
        }
        if self.held.contains_key(&seq) {
            return Taken::Duplicate;
        }
        self.observe(now, birth, &arrival);
        self.reference = Some(self.reference.map_or(seq, |reference| reference.max(seq)));
        if self.due(birth, &arrival) + LATE_TOLERANCE < now {
            if self.passed.is_none() && birth < joined {
                return Taken::BeforeStart;
            }
            if room.1 == 0 {
                return Taken::Overflow;
            }
            self.hold(seq, birth, arrival, Kind::Gone);
            return Taken::Late { was_missing: false };
        }
        let (bytes, packets) = room;
        if packets == 0 {
            return Taken::Overflow;
        }
        if arrival.payload.len() > bytes {
            self.hold(seq, birth, arrival, Kind::Gone);
            return Taken::Overflow;
        }
        self.ended = false;
        self.hold(seq, birth, arrival, Kind::Media);
        Taken::Held
    }

    /// The relay says that the stream ended: nothing new comes.
    pub(super) fn close(&mut self, now: Instant) {
        self.closed.get_or_insert(now);
    }

    /// The relay says that the stream goes on.
    pub(super) fn reopen(&mut self) {
        self.closed = None;
        self.ended = false;
    }

    /// Bytes and packets held.
    pub(super) fn room_taken(&self) -> (usize, usize) {
        (self.held_bytes, self.held.len())
    }

    /// Whether nothing is held.
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// When the next packet may be handed over: up to `lead` ahead of its release where no packet is missing before it,
    /// since nothing can come in between; else not before its release. Never before `not_before`, the release before it.
    pub(super) fn ready_at(&self, lead: Duration, not_before: Instant) -> Option<Instant> {
        let (seq, held) = self.held.first_key_value()?;
        let due = self.due(held.birth, &held.arrival).max(not_before);
        let contiguous = self.passed.as_ref().is_some_and(|passed| passed.next() == *seq);
        Some(if contiguous { due.saturating_sub(lead) } else { due })
    }

    /// Passes the next packet, whether it is time or not.
    pub(super) fn pass(&mut self, not_before: Instant) -> Option<Turn> {
        let (seq, held) = self.held.pop_first()?;
        self.held_bytes -= held.arrival.payload.len();
        let due = self.due(held.birth, &held.arrival).max(not_before);
        let born = self.born(held.birth, &held.arrival);
        let passed = self.passed.get_or_insert_with(|| History::new(seq));
        let gap = seq - passed.next();
        let mut missing = gap;
        if gap > 0 && self.joined.is_some_and(|joined| self.last_born < joined) {
            passed.begin_at(seq);
            missing = 0;
        }
        passed.pass(seq);
        self.last_born = born;
        let end = held.arrival.flags.end;
        self.ended |= end;
        let payload = if held.kind == Kind::Media { held.arrival.payload } else { Bytes::new() };
        let first = !payload.is_empty() && !std::mem::replace(&mut self.begun, true);
        Some(Turn { due, birth: held.birth, payload, seq, gap, missing, first, end })
    }

    /// When the life ends for want of an end marker: closed by the relay, played out, and time for stragglers is over.
    pub(super) fn ends_at(&self) -> Option<Instant> {
        let closed = self.closed.filter(|_| !self.ended && self.held.is_empty())?;
        Some(closed + self.latency)
    }

    /// Ends it; true the first time.
    pub(super) fn end(&mut self) -> bool {
        !std::mem::replace(&mut self.ended, true)
    }

    /// How often the source's timeline broke.
    pub(super) fn resets(&self) -> u64 {
        self.timeline.as_ref().map_or(0, Timeline::resets)
    }

    fn hold(&mut self, seq: u64, birth: Instant, mut arrival: Arrival, kind: Kind) {
        if kind == Kind::Gone {
            arrival.payload = Bytes::new();
        }
        self.held_bytes += arrival.payload.len();
        self.held.insert(seq, Held { arrival, birth, kind });
    }

    fn observe(&mut self, now: Instant, birth: Instant, arrival: &Arrival) {
        let rigid = self.passed.is_some();
        let jump = (self.latency / 2).clamp(Duration::from_millis(10), Duration::from_millis(50));
        match &mut self.timeline {
            Some(timeline) => timeline.observe(now, birth, arrival.media_time, rigid),
            None => self.timeline = Some(Timeline::new(now, birth, arrival.media_time, jump)),
        }
    }

    /// When it was born, by the map.
    fn born(&self, birth: Instant, arrival: &Arrival) -> Instant {
        self.timeline.as_ref().map_or(birth, |timeline| timeline.birth(birth, arrival.media_time))
    }

    fn due(&self, birth: Instant, arrival: &Arrival) -> Instant {
        self.born(birth, arrival) + self.latency
    }

    fn unwrap_seq(&self, seq: StreamSeq) -> Option<u64> {
        let Some(reference) = self.reference else { return Some(SEQ_ORIGIN + u64::from(seq.0)) };
        let distance = seq.distance(StreamSeq(reference as u32));
        let unwrapped = reference.checked_add_signed(i64::from(distance))?;
        let oldest = self.passed.as_ref().map_or(0, |passed| passed.next().saturating_sub(HISTORY));
        (distance <= MAX_LEAP && unwrapped >= oldest).then_some(unwrapped)
    }

    fn stray(&mut self, arrival: Arrival) -> Taken {
        let near = |other: &Arrival| other.seq.distance(arrival.seq).unsigned_abs() <= STRAY_SPREAD;
        if !self.strays.iter().all(near) {
            self.strays.clear();
        }
        if self.strays.iter().any(|other| other.seq == arrival.seq) {
            return Taken::Duplicate;
        }
        self.strays.push(arrival);
        if self.strays.len() < STRAYS {
            return Taken::Stray;
        }
        Taken::Leap(std::mem::take(&mut self.strays))
    }
}
