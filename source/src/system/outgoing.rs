//! One stream of a source: its state with the relay, its numbers, and what is kept of it.

use super::{NotTaken, StreamOptions, max_payload};
use crate::report::{InputCounters, StreamCounters, StreamReport, StreamState};
use bytes::Bytes;
use link::{Flags, Instant, Label, MediaTime, Packet, Residual, SendError, StreamHandle, StreamSeq};
use node::control::{Content, Control, Publish, Refusal};
use node::payload::{Marks, NotSealed, Sealer, StreamKeys};
use node::ts::{self, TsMeter};
use node::{PortId, Ports};
use std::collections::VecDeque;
use std::time::Duration;
use topology::lsdb::Incarnation;

/// How long a stream whose content is not known waits for its first packet before it is published as what most are.
const GUESS_AFTER: Duration = Duration::from_secs(1);

/// How soon a refused stream is asked for again; twice as long each time, up to [`ASK_AGAIN_MOST`].
const ASK_AGAIN: Duration = Duration::from_secs(2);
const ASK_AGAIN_MOST: Duration = Duration::from_secs(30);

/// Most bytes of one stream kept for a reconnection.
const KEEP_AT_MOST: usize = 64 << 20;

/// How a stream stands with the relay.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum State {
    /// Not asked for: no relay, or the content is not known yet.
    Idle,
    /// Asked for.
    Asked,
    /// Accepted.
    Live(StreamHandle),
    /// Refused.
    Refused { refusal: Refusal, again: Instant },
    /// Over.
    Ended,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It waits for a relay.
    Waiting,
    /// It was handed to the relay's link.
    Sent,
    /// The link would not have it.
    Dropped,
}

/// A packet within its deadline.
#[derive(Debug)]
struct Held {
    seq: StreamSeq,
    arrival: Instant,
    flags: Flags,
    /// As it travels: sealed, where the stream is.
    payload: Bytes,
    /// Bytes of it as they came in.
    content: usize,
    fate: Fate,
}

/// One stream.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) options: StreamOptions,
    content: Option<Content>,
    sealer: Option<Sealer>,
    pub(super) state: State,
    /// Requests to publish that the relay has not answered.
    unanswered: u32,
    refusals: u32,
    pub(super) was_live: bool,
    /// Transit from the relay to the farthest sink, as the relay tells it.
    pub(super) rest: Duration,
    /// When content that is still unknown is guessed.
    guess_at: Option<Instant>,
    /// When the end is told, after the last packet.
    pub(super) finish_at: Option<Instant>,
    next: StreamSeq,
    latest: Instant,
    held: VecDeque<Held>,
    held_bytes: usize,
    meter: TsMeter,
    pub(super) input: InputCounters,
    pub(super) counters: StreamCounters,
    pub(super) trouble: Option<String>,
    last_input: Option<Instant>,
    rates: Rates,
}

/// Rates of the time between two reports.
#[derive(Debug, Default)]
struct Rates {
    /// When, and the bytes taken in and sent until then.
    since: Instant,
    bytes: (u64, u64),
    input_bps: u64,
    sent_bps: u64,
}

/// Over less time than this a rate says nothing.
const RATE_SPAN: Duration = Duration::from_millis(200);

impl Rates {
    fn update(&mut self, now: Instant, bytes: (u64, u64)) {
        let span = now.saturating_since(self.since);
        if span >= RATE_SPAN {
            let rate = |bytes: u64| (bytes as f64 * 8.0 / span.as_secs_f64()) as u64;
            (self.input_bps, self.sent_bps) = (rate(bytes.0 - self.bytes.0), rate(bytes.1 - self.bytes.1));
            (self.since, self.bytes) = (now, bytes);
        }
    }
}

impl Outgoing {
    pub(super) fn new(options: StreamOptions) -> Outgoing {
        Outgoing {
            content: options.content,
            sealer: options
                .payload_keys
                .clone()
                .map(|keys| Sealer::new(keys, options.name.clone(), options.incarnation)),
            options,
            state: State::Idle,
            unanswered: 0,
            refusals: 0,
            was_live: false,
            rest: Duration::ZERO,
            guess_at: None,
            finish_at: None,
            next: StreamSeq(0),
            latest: Instant::ORIGIN,
            held: VecDeque::new(),
            held_bytes: 0,
            meter: TsMeter::default(),
            input: InputCounters::default(),
            counters: StreamCounters::default(),
            trouble: None,
            last_input: None,
            rates: Rates::default(),
        }
    }

    pub(super) fn check(&mut self, payload: &[u8]) -> Result<(), NotTaken> {
        if self.finish_at.is_some() || self.state == State::Ended {
            return Err(NotTaken::Ended);
        }
        if payload.is_empty() {
            self.input.empty += 1;
            return Err(NotTaken::Empty);
        }
        let (size, most) = (payload.len(), max_payload(self.sealer.is_some()));
        if size > most {
            self.input.oversized += 1;
            return Err(NotTaken::TooLarge { size, most });
        }
        Ok(())
    }

    /// Learns from a payload what the stream carries, and counts what is wrong with it.
    pub(super) fn look(
        &mut self,
        now: Instant,
        arrival: Instant,
        payload: &[u8],
        relay: Option<PortId>,
        ports: &mut Ports,
    ) {
        let whole = ts::is_whole(payload);
        let first = self.input.packets == 0;
        self.input.packets += 1;
        self.input.bytes += payload.len() as u64;
        self.last_input = Some(now);
        if first && self.options.content.is_none() {
            let content = if whole { Content::Ts } else { Content::Datagrams };
            let guessed_wrong = self.content.is_some_and(|guess| guess != content);
            self.content = Some(content);
            if guessed_wrong {
                // Nothing has been sent in this life: a new one, rightly announced, takes its place.
                self.options.incarnation = Incarnation(self.options.incarnation.0.wrapping_add(1));
                if let Some(sealer) = &mut self.sealer {
                    sealer.begin_life(self.options.incarnation);
                }
                self.state = State::Idle;
            }
            if let (Some(port), State::Idle) = (relay, &self.state) {
                self.ask(port, ports);
            }
        }
        if whole {
            self.meter.feed(arrival, payload);
            self.input.ts_discontinuities = self.meter.health().continuity_errors;
        } else if self.content == Some(Content::Ts) {
            self.input.ts_garbage_bytes += payload.len() as u64;
        }
    }

    /// Numbers a payload, seals it where the stream is sealed, and sends it as soon as it can. What has been looked at in it
    /// was looked at before: from here on it is the same bytes for everybody on the way, and for every time it is sent.
    pub(super) fn push(
        &mut self,
        now: Instant,
        arrival: Instant,
        payload: Bytes,
        end: bool,
        relay: Option<PortId>,
        ports: &mut Ports,
    ) -> Result<(), NotSealed> {
        self.latest = self.latest.max(arrival);
        let flags = Flags { high_priority: self.options.high_priority, end };
        let (seq, arrival, content) = (self.next, self.latest, payload.len());
        let payload = match &mut self.sealer {
            None => payload,
            Some(sealer) => {
                let marks = Marks { seq, media_time: media_time(arrival), flags };
                sealer.seal(self.content.unwrap_or_default(), &marks, payload)?
            }
        };
        self.next = self.next.plus(1);
        self.held_bytes += payload.len();
        self.held.push_back(Held { seq, arrival, flags, payload, content, fate: Fate::Waiting });
        if let (State::Live(handle), Some(port)) = (&self.state, relay) {
            let handle = *handle;
            self.send(now, self.held.len() - 1, handle, port, ports);
        }
        self.expire(now);
        Ok(())
    }

    /// Hands one of the held packets to the relay's link.
    fn send(&mut self, now: Instant, index: usize, handle: StreamHandle, port: PortId, ports: &mut Ports) {
        let held = &mut self.held[index];
        let deadline = held.arrival + self.options.deadline;
        // What the farthest sink needs of the deadline is not spent on this hop; where it is spent already, a nearer one may
        // still be served, and the relay's word may be half of a round trip that was not measured well.
        let transit = ports.link(port).map_or(Duration::ZERO, |link| link.transit());
        let within = Some(deadline.saturating_sub(self.rest)).filter(|until| *until > now + transit);
        let recover_until = within.unwrap_or(deadline);
        let packet = Packet {
            stream: handle,
            seq: held.seq,
            media_time: media_time(held.arrival),
            age: now.saturating_since(held.arrival),
            label: Label(0),
            flags: held.flags,
            payload: held.payload.clone(),
            recover_until,
            target: Residual::ppb(self.options.wants.target_ppb),
        };
        let again = held.fate == Fate::Sent;
        held.fate = Fate::Dropped;
        // The mark at the end is no packet of the stream's content.
        let counted = held.content > 0;
        match ports.send(now, port, packet) {
            Ok(()) => {
                held.fate = Fate::Sent;
                match again {
                    _ if !counted => {}
                    true => self.counters.resent += 1,
                    false => {
                        self.counters.sent += 1;
                        self.counters.sent_bytes += held.content as u64;
                    }
                }
            }
            Err(_) if again || !counted => {}
            Err(SendError::QueueFull) => self.counters.queue_full += 1,
            Err(SendError::TooLate | SendError::TooLarge { .. }) => self.counters.late += 1,
        }
    }

    /// Lets go of packets whose deadline has passed.
    fn expire(&mut self, now: Instant) {
        while let Some(oldest) = self.held.front()
            && (oldest.arrival + self.options.deadline <= now || self.held_bytes > KEEP_AT_MOST)
        {
            self.held_bytes -= oldest.payload.len();
            let lost = u64::from(oldest.fate == Fate::Waiting && oldest.content > 0);
            let count = if self.was_live { &mut self.counters.late } else { &mut self.counters.early };
            *count += lost;
            self.held.pop_front();
        }
    }

    pub(super) fn connected(&mut self, now: Instant, port: PortId, ports: &mut Ports) {
        match self.content {
            _ if self.state == State::Ended => {}
            Some(_) => self.ask(port, ports),
            None => self.guess_at = Some(now + GUESS_AFTER),
        }
    }

    pub(super) fn disconnected(&mut self) {
        if self.state != State::Ended {
            self.state = State::Idle;
        }
        self.unanswered = 0;
        self.rest = Duration::ZERO;
        self.guess_at = None;
    }

    fn ask(&mut self, port: PortId, ports: &mut Ports) {
        self.guess_at = None;
        self.state = State::Asked;
        self.unanswered += 1;
        let publish = Publish {
            name: self.options.name.clone(),
            incarnation: self.options.incarnation,
            deadline_us: u32::try_from(self.options.deadline.as_micros()).unwrap_or(u32::MAX),
            high_priority: self.options.high_priority,
            mode: self.options.mode,
            // What a sealed stream carries is told inside its payloads.
            content: self.content.filter(|_| self.sealer.is_none()).unwrap_or_default(),
            sealed: self.sealer.is_some(),
            wants: self.options.wants,
        };
        ports.control(port, Control::Publish(publish));
    }

    /// The relay accepts, under this handle. An answer to any request but the last is of a life that is over.
    pub(super) fn published(&mut self, now: Instant, handle: StreamHandle, port: PortId, ports: &mut Ports) {
        self.unanswered = self.unanswered.saturating_sub(1);
        if self.unanswered > 0 || self.state != State::Asked {
            return;
        }
        tracing::info!(stream = %self.options.name, "published");
        self.expire(now);
        (self.was_live, self.refusals) = (true, 0);
        self.state = State::Live(handle);
        for index in 0..self.held.len() {
            if self.held[index].fate != Fate::Dropped {
                self.send(now, index, handle, port, ports);
            }
        }
    }

    /// The relay refuses; or withdraws what it had accepted.
    pub(super) fn refused(&mut self, now: Instant, refusal: Refusal) {
        self.unanswered = self.unanswered.saturating_sub(1);
        if self.unanswered > 0 || self.state == State::Ended {
            return;
        }
        tracing::warn!(stream = %self.options.name, code = ?refusal.code, reason = refusal.reason, "refused");
        let wait = (ASK_AGAIN * (1 << self.refusals.min(8))).min(ASK_AGAIN_MOST);
        self.refusals += 1;
        self.state = State::Refused { refusal, again: now + wait };
    }

    pub(super) fn set_payload_keys(&mut self, keys: StreamKeys) {
        if let Some(sealer) = &mut self.sealer {
            sealer.set_keys(keys);
        }
    }

    pub(super) fn unpublish(&mut self, relay: Option<PortId>, ports: &mut Ports) {
        let asked = matches!(self.state, State::Asked | State::Live(_));
        if let (Some(port), true) = (relay, asked) {
            ports.control(port, Control::Unpublish { name: self.options.name.clone() });
        }
        self.state = State::Ended;
        (self.finish_at, self.guess_at) = (None, None);
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, relay: Option<PortId>, ports: &mut Ports) {
        if self.finish_at.is_some_and(|at| at <= now) {
            self.expire(now);
            self.unpublish(relay, ports);
        }
        let again = matches!(self.state, State::Refused { again, .. } if again <= now);
        if let (Some(port), true) = (relay, again) {
            self.ask(port, ports);
        }
        if self.guess_at.is_some_and(|at| at <= now) {
            self.guess_at = None;
            if let (Some(port), None) = (relay, self.content) {
                self.content = Some(Content::Ts);
                self.ask(port, ports);
            }
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let again = match self.state {
            State::Refused { again, .. } => Some(again),
            _ => None,
        };
        [self.finish_at, self.guess_at, again].into_iter().flatten().min()
    }

    pub(super) fn stream_state(&self) -> StreamState {
        match &self.state {
            State::Idle | State::Asked => StreamState::Waiting,
            State::Live(_) => StreamState::Live,
            State::Refused { .. } => StreamState::Refused,
            State::Ended => StreamState::Ended,
        }
    }

    pub(super) fn report(&mut self, now: Instant) -> StreamReport {
        self.expire(now);
        let refusal = match &self.state {
            State::Refused { refusal, .. } => Some(refusal.reason.clone()),
            _ => None,
        };
        self.rates.update(now, (self.input.bytes, self.counters.sent_bytes));
        StreamReport {
            name: self.options.name.clone(),
            input: self.options.input.clone(),
            listen: self.options.listen,
            state: self.stream_state(),
            trouble: refusal.or_else(|| self.trouble.clone()),
            incarnation: self.options.incarnation.0,
            content: self.content.unwrap_or_default(),
            payload_epoch: self.sealer.as_ref().map(Sealer::epoch),
            mode: self.options.mode,
            deadline_ms: self.options.deadline.as_secs_f64() * 1e3,
            input_bps: self.rates.input_bps,
            sent_bps: self.rates.sent_bps,
            silent_s: self.last_input.map(|last| now.saturating_since(last).as_secs_f64()),
            input_counters: self.input,
            ts: (self.content == Some(Content::Ts)).then(|| self.meter.health()),
            counters: self.counters,
        }
    }
}

/// As it travels: microseconds of the source's clock, of which the low 32 bits do.
fn media_time(arrival: Instant) -> MediaTime {
    MediaTime(arrival.as_micros() as u32)
}
