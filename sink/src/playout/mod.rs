//! Playout: packets as they come in, the stream as its source had it out (pure).
//!
//! A [`Playout`] drops duplicates, restores order, and releases each packet at the time of its birth at the source plus
//! the stream's deadline. Births are known by [`timeline`]. What comes after its release time is dropped and counted.
//!
//! # The run loop
//!
//! 1. Feed one thing: [`Playout::open`], [`Playout::insert`] or [`Playout::close`].
//! 2. Drain to quiet: [`Playout::poll`] until `None`.
//! 3. Sleep until [`Playout::poll_timeout`], or until there is something to feed.

mod history;
mod life;
#[cfg(test)]
mod tests;
pub mod timeline;

use crate::report::{Counters, Quantiles};
use bytes::Bytes;
use hdrhistogram::Histogram;
use life::{Life, Taken, Turn};
use link::{Flags, Instant, MediaTime, Recovery, StreamSeq};
use node::ages::Ages;
use node::control::Content;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use topology::lsdb::Incarnation;

/// A packet is late when it comes this long after its release time; the measured age is not better than this.
pub const LATE_TOLERANCE: Duration = Duration::from_millis(2);

/// Lives of a stream that can be held at once: one playing and those that wait for it to drain.
const MAX_LIVES: usize = 4;

/// Most missing packets whose numbers are known until they are told.
const MAX_MISSED: usize = 4096;

/// What is fixed when a playout is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlayoutConfig {
    /// Release packets at least this long after their birth, where the stream's deadline is shorter.
    pub min_latency: Duration,
    /// Hand packets over up to this long ahead of their release, for outputs that pace by themselves.
    pub lead: Duration,
    /// Most bytes held.
    pub max_bytes: usize,
    /// Most packets held.
    pub max_packets: usize,
}

impl Default for PlayoutConfig {
    fn default() -> Self {
        PlayoutConfig {
            min_latency: Duration::ZERO,
            lead: Duration::from_millis(4),
            max_bytes: 128 << 20,
            max_packets: 1 << 18,
        }
    }
}

/// A packet that came for a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Its number in the stream.
    pub seq: StreamSeq,
    /// When the source received it, on the source's clock.
    pub media_time: MediaTime,
    /// Time since the source received it.
    pub age: Duration,
    /// Its marks.
    pub flags: Flags,
    /// What it carries; an empty one is a pure end marker.
    pub payload: Bytes,
    /// How it came over the last hop.
    pub recovery: Recovery,
}

impl From<link::Delivery> for Arrival {
    fn from(delivery: link::Delivery) -> Arrival {
        Arrival {
            seq: delivery.seq,
            media_time: delivery.media_time,
            age: delivery.age,
            flags: delivery.flags,
            payload: delivery.payload,
            recovery: delivery.recovery,
        }
    }
}

/// What a playout puts out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A packet, in order.
    Release(Release),
    /// The stream ended, and everything of it is released.
    Ended,
}

/// A packet released.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// When it shall leave: at most [`PlayoutConfig::lead`] ahead of the moment of its handing over.
    pub at: Instant,
    /// What it carries.
    pub payload: Bytes,
    /// Packets between the release before it and this one that were not released: missing or late.
    pub lost_before: u64,
    /// Whether a life of the stream begins with it: its sequence and content are not those of what went before.
    pub restart: bool,
    /// What the stream carries.
    pub content: Content,
}

/// The playout of one stream, through all its lives; see the module for the order of calls.
#[derive(Debug)]
pub struct Playout {
    config: PlayoutConfig,
    /// The front one plays; the others wait until it has drained.
    lives: VecDeque<Life>,
    /// The latest release given out.
    last_at: Instant,
    counters: Counters,
    /// The last packet of the stream was given out; that it was the last is still to be told.
    ending: bool,
    /// Packets passed since the last release without being released.
    passed_over: u64,
    /// Timeline resets of lives that are gone.
    past_resets: u64,
    /// Packets passed over that have not come and are not told of, and when they were passed.
    missed: BTreeMap<(u64, u32), Instant>,
    release: Histogram<u64>,
    arrival: Histogram<u64>,
    /// The same in the classes that relays are told.
    ages: Ages,
}

impl Playout {
    /// A playout of a stream of which nothing is known.
    pub fn new(config: PlayoutConfig) -> Playout {
        Playout {
            config,
            lives: VecDeque::new(),
            last_at: Instant::ORIGIN,
            counters: Counters::default(),
            ending: false,
            passed_over: 0,
            past_resets: 0,
            missed: BTreeMap::new(),
            release: delays(),
            arrival: delays(),
            ages: Ages::default(),
        }
    }

    /// A life of the stream begins, or goes on. Call it before the first packet of that life.
    pub fn open(&mut self, now: Instant, incarnation: Incarnation, deadline: Duration, content: Content) {
        let latency = deadline.max(self.config.min_latency);
        if let Some(life) = self.lives.iter_mut().rev().find(|life| life.incarnation == incarnation) {
            life.latency = latency;
            life.content = content;
            life.reopen();
            return;
        }
        // A life that begins while another was received was missed from its first packet on.
        let joined = (!self.lives.is_empty()).then_some(Instant::ORIGIN);
        for life in &mut self.lives {
            life.close(now);
        }
        self.push(Life::new(incarnation, content, latency, joined));
    }

    /// The relay says that a life of the stream ended. What is held is still played out.
    pub fn close(&mut self, now: Instant, incarnation: Incarnation) {
        for life in self.lives.iter_mut().filter(|life| life.incarnation == incarnation) {
            life.close(now);
        }
    }

    /// Takes a packet of a life that was opened; one of another life is dropped and counted as late.
    pub fn insert(&mut self, now: Instant, incarnation: Incarnation, arrival: Arrival) {
        let marker = arrival.payload.is_empty();
        let (age, recovery, seq) = (arrival.age, arrival.recovery, arrival.seq);
        let taken = self.admit(now, incarnation, arrival);
        if taken == (Taken::Late { was_missing: true }) {
            self.missed.remove(&(incarnation.0, seq.0));
        }
        if !marker {
            self.counters.received += 1;
            self.counters.lives += u64::from(self.is_heard_first(incarnation));
            match recovery {
                Recovery::None => {}
                Recovery::Arq => self.counters.recovered_arq += 1,
                Recovery::Fec => self.counters.recovered_fec += 1,
            }
            if taken != Taken::Duplicate {
                record(&mut self.arrival, age);
                self.ages.note(age);
            }
            self.count(&taken);
        }
        if let Taken::Leap(strays) = taken {
            self.leap(now, incarnation, strays);
        }
    }

    /// What comes out at `now`.
    pub fn poll(&mut self, now: Instant) -> Option<Event> {
        if std::mem::take(&mut self.ending) {
            return Some(Event::Ended);
        }
        loop {
            self.take_turns(now);
            let life = self.lives.front_mut()?;
            if life.ends_at().is_some_and(|at| at <= now) {
                if life.end() && self.lives.len() == 1 {
                    return Some(Event::Ended);
                }
                continue;
            }
            if life.ready_at(self.config.lead, self.last_at).is_none_or(|at| at > now) {
                return None;
            }
            let (content, incarnation, not_before) = (life.content, life.incarnation, self.last_at);
            let turn = life.pass(not_before)?;
            self.last_at = turn.due;
            self.counters.missing += turn.missing;
            let room = MAX_MISSED.saturating_sub(self.missed.len());
            let missed = (turn.seq - turn.missing..turn.seq).take(room);
            self.missed.extend(missed.map(|seq| ((incarnation.0, seq as u32), now)));
            self.passed_over += turn.gap;
            if let Some(event) = self.emit(now, turn, content) {
                return Some(event);
            }
        }
    }

    /// When to call [`Playout::poll`] again at the latest.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let front = self.lives.front()?;
        let playing = front.ready_at(self.config.lead, self.last_at).or_else(|| front.ends_at());
        let next = self.lives.iter().skip(1).find(|life| !life.is_empty()).filter(|_| front.is_empty());
        let next = next.and_then(|life| life.ready_at(self.config.lead, self.last_at));
        playing.into_iter().chain(next).min()
    }

    /// What a life of the stream carries, where its packets say it and not its announcement.
    pub fn learn_content(&mut self, incarnation: Incarnation, content: Content) {
        for life in self.lives.iter_mut().filter(|life| life.incarnation == incarnation) {
            life.content = content;
        }
    }

    /// What came and what became of it.
    pub fn counters(&self) -> Counters {
        let resets = self.lives.iter().map(Life::resets).sum::<u64>();
        Counters { resets: self.counters.resets + self.past_resets + resets, ..self.counters }
    }

    /// Numbers of one life that were passed over at least `grace` ago and have not come, in runs: each is told once.
    pub fn take_missed(&mut self, now: Instant, grace: Duration) -> Option<(Incarnation, Vec<(u32, u16)>)> {
        let due = |at: &Instant| now.saturating_since(*at) >= grace;
        let life = self.missed.iter().find(|(_, at)| due(at)).map(|((life, _), _)| *life)?;
        let mut runs: Vec<(u32, u16)> = Vec::new();
        self.missed.retain(|(of, seq), at| {
            if *of != life || !due(at) {
                return true;
            }
            match runs.last_mut() {
                Some((first, count)) if first.wrapping_add(u32::from(*count)) == *seq && *count < u16::MAX => {
                    *count += 1
                }
                _ => runs.push((*seq, 1)),
            }
            false
        });
        Some((Incarnation(life), runs))
    }

    /// Whether there is something to be told of by [`Playout::take_missed`], now or soon.
    pub fn has_missed(&self) -> bool {
        !self.missed.is_empty()
    }

    /// The latest life that was opened.
    pub fn incarnation(&self) -> Option<Incarnation> {
        self.lives.back().map(|life| life.incarnation)
    }

    /// From the source's receipt to the release.
    pub fn release_delays(&self) -> Quantiles {
        quantiles(&self.release)
    }

    /// How old packets were when they came, in classes.
    pub fn ages(&self) -> Ages {
        self.ages
    }

    /// From the source's receipt to the arrival.
    pub fn arrival_delays(&self) -> Quantiles {
        quantiles(&self.arrival)
    }

    /// Time from the source's receipt to the release that is in force.
    pub fn latency(&self) -> Option<Duration> {
        self.lives.back().map(|life| life.latency)
    }

    /// What the stream carries.
    pub fn content(&self) -> Option<Content> {
        self.lives.back().map(|life| life.content)
    }

    /// Whether nothing is held for release.
    pub fn is_empty(&self) -> bool {
        self.lives.iter().all(Life::is_empty)
    }

    /// Lets the next life play where the front one has drained and the next one's time has come.
    fn take_turns(&mut self, now: Instant) {
        while self.lives.len() > 1 && self.lives[0].is_empty() {
            let next = self.lives.iter().skip(1).position(|life| !life.is_empty());
            let Some(skipped) = next else { return };
            let ready = self.lives[skipped + 1].ready_at(self.config.lead, self.last_at);
            if ready.is_none_or(|at| at > now) {
                return;
            }
            for _ in 0..=skipped {
                self.drop_front();
            }
        }
    }

    /// Whether nothing of this life came before now.
    fn is_heard_first(&mut self, incarnation: Incarnation) -> bool {
        let mut same = self.lives.iter_mut().filter(|life| life.incarnation == incarnation);
        same.next().is_some_and(|life| !std::mem::replace(&mut life.heard, true))
    }

    fn admit(&mut self, now: Instant, incarnation: Incarnation, arrival: Arrival) -> Taken {
        let held = self.lives.iter().map(Life::room_taken).fold((0, 0), |(b, p), (bytes, n)| (b + bytes, p + n));
        let room = (self.config.max_bytes.saturating_sub(held.0), self.config.max_packets.saturating_sub(held.1));
        match self.lives.iter_mut().rev().find(|life| life.incarnation == incarnation) {
            Some(life) => life.insert(now, arrival, room),
            None => Taken::Late { was_missing: false },
        }
    }

    fn emit(&mut self, now: Instant, turn: Turn, content: Content) -> Option<Event> {
        // A life that another one follows did not end the stream.
        let ended = turn.end && self.lives.len() == 1;
        if turn.payload.is_empty() {
            self.passed_over += u64::from(!turn.end);
            return ended.then_some(Event::Ended);
        }
        self.ending = ended;
        self.counters.on_time += 1;
        self.counters.bytes += turn.payload.len() as u64;
        record(&mut self.release, turn.due.max(now).saturating_since(turn.birth));
        let lost_before = std::mem::take(&mut self.passed_over);
        let (at, payload, restart) = (turn.due, turn.payload, turn.first);
        Some(Event::Release(Release { at, payload, lost_before, restart, content }))
    }

    fn count(&mut self, taken: &Taken) {
        let counters = &mut self.counters;
        match taken {
            Taken::Held => {}
            Taken::Duplicate => counters.duplicates += 1,
            Taken::BeforeStart => counters.before_start += 1,
            Taken::Late { was_missing } => {
                counters.late += 1;
                counters.missing -= u64::from(*was_missing);
            }
            Taken::Overflow => counters.overflow += 1,
            Taken::Stray | Taken::Leap(_) => counters.strays += 1,
        }
    }

    /// The stream goes on at another place of its sequence: as another life, so that what is held drains first.
    fn leap(&mut self, now: Instant, incarnation: Incarnation, strays: Vec<Arrival>) {
        let Some(life) = self.lives.iter().rev().find(|life| life.incarnation == incarnation) else { return };
        let mut life = Life::new(incarnation, life.content, life.latency, Some(now));
        life.heard = true;
        self.push(life);
        self.counters.resets += 1;
        for arrival in strays {
            let marker = arrival.payload.is_empty();
            let taken = self.admit(now, incarnation, arrival);
            if !marker {
                self.counters.strays -= 1;
                self.count(&taken);
            }
        }
    }

    fn push(&mut self, life: Life) {
        if self.lives.len() >= MAX_LIVES {
            self.drop_front();
        }
        self.lives.push_back(life);
    }

    fn drop_front(&mut self) {
        if let Some(life) = self.lives.pop_front() {
            self.past_resets += life.resets();
            self.counters.overflow += life.room_taken().1 as u64;
        }
    }
}

/// Delays from 1 µs to 60 s, to three digits.
fn delays() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are in order and three digits are allowed")
}

fn record(histogram: &mut Histogram<u64>, delay: Duration) {
    histogram.saturating_record(u64::try_from(delay.as_micros()).unwrap_or(u64::MAX));
}

fn quantiles(histogram: &Histogram<u64>) -> Quantiles {
    if histogram.is_empty() {
        return Quantiles::default();
    }
    let at = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1e3;
    Quantiles { p50_ms: at(0.5), p99_ms: at(0.99), p999_ms: at(0.999), max_ms: histogram.max() as f64 / 1e3 }
}
