//! What is published, sent, kept for a reconnection, and given up. Pure.
//!
//! Each packet gets its number when it comes in, whether or not a relay is there. It is kept until its deadline has
//! passed; so a relay that comes back within that time, or another in its place, is sent what the lost connection may have
//! swallowed. The overlay drops the copies, since life and numbers of the stream go on.

use crate::report::{InputCounters, StreamCounters, StreamReport, StreamState};
use crate::ts::{self, Continuity};
use bytes::Bytes;
use link::{Flags, Instant, Label, Link, MediaTime, Packet, SendError, StreamHandle, StreamSeq};
use node::control::{CloseCode, Content, Control, Dissemination, Publish, Refusal};
use node::{Closed, EndSystem, Peer, PortId, Ports};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;
use topology::StreamName;
use topology::lsdb::Incarnation;

/// How long a stream whose content is not known waits for its first packet before it is published as what most are.
const GUESS_AFTER: Duration = Duration::from_secs(1);

/// How soon a refused stream is asked for again; twice as long each time, up to [`ASK_AGAIN_MOST`].
const ASK_AGAIN: Duration = Duration::from_secs(2);
const ASK_AGAIN_MOST: Duration = Duration::from_secs(30);

/// Most bytes of one stream kept for a reconnection.
const KEEP_AT_MOST: usize = 64 << 20;

/// A stream to publish.
#[derive(Clone, Debug)]
pub struct StreamOptions {
    /// Its name.
    pub name: StreamName,
    /// Its first life, chosen at random.
    pub incarnation: Incarnation,
    /// One-way deadline.
    pub deadline: Duration,
    /// Before others where there is too much.
    pub high_priority: bool,
    /// How it shall be spread.
    pub mode: Dissemination,
    /// What it carries, where that is known before its first packet.
    pub content: Option<Content>,
    /// Where it comes from, for people.
    pub input: String,
    /// Where its input listens, if it is a socket.
    pub listen: Option<SocketAddr>,
}

/// A place in the list of streams, as given to [`SourceSystem::new`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamIndex(pub usize);

/// Why a payload was not taken. Counted in the stream's report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// It holds nothing.
    #[error("an empty datagram")]
    Empty,
    /// No link carries it.
    #[error("a datagram of {0} bytes; at most {most} can be carried", most = Link::MAX_PAYLOAD)]
    TooLarge(usize),
    /// The stream has ended.
    #[error("the stream has ended")]
    Ended,
}

/// The decisions of a source: one relay at a time, any number of streams.
#[derive(Debug)]
pub struct SourceSystem {
    streams: Vec<Outgoing>,
    relay: Option<PortId>,
    /// What the relay said last about the connection as a whole.
    farewell: Option<Refusal>,
}

impl SourceSystem {
    /// With what is to be published. Nothing is sent before a port opens.
    pub fn new(streams: Vec<StreamOptions>) -> SourceSystem {
        let streams = streams.into_iter().map(Outgoing::new).collect();
        SourceSystem { streams, relay: None, farewell: None }
    }

    /// Takes a payload that arrived at `arrival`, the source's media time of it. Arrivals of one stream never go back:
    /// an earlier one counts as the latest.
    pub fn ingest(
        &mut self,
        now: Instant,
        stream: StreamIndex,
        arrival: Instant,
        payload: Bytes,
        ports: &mut Ports,
    ) -> Result<(), NotTaken> {
        let relay = self.relay;
        let stream = &mut self.streams[stream.0];
        stream.check(&payload)?;
        stream.look(now, &payload, relay, ports);
        stream.push(now, arrival, payload, false, relay, ports);
        Ok(())
    }

    /// The input has ended: the stream ends for everybody once what is under way has arrived.
    pub fn end(&mut self, now: Instant, stream: StreamIndex, ports: &mut Ports) {
        let relay = self.relay;
        let stream = &mut self.streams[stream.0];
        if stream.finish_at.is_none() && stream.state != State::Ended {
            stream.push(now, now, Bytes::new(), true, relay, ports);
            // The word that it ended must not overtake the repair of its last packets.
            stream.finish_at = Some(now + stream.options.deadline);
        }
    }

    /// The counters that the input of a stream keeps itself.
    pub fn input_counters(&mut self, stream: StreamIndex) -> &mut InputCounters {
        &mut self.streams[stream.0].input
    }

    /// Says why an input gives nothing, or that it does again.
    pub fn set_trouble(&mut self, stream: StreamIndex, trouble: Option<String>) {
        self.streams[stream.0].trouble = trouble;
    }

    /// Whether a stream has been accepted by a relay at least once.
    pub fn was_live(&self, stream: StreamIndex) -> bool {
        self.streams[stream.0].was_live
    }

    /// Whether every stream has ended.
    pub fn is_done(&self) -> bool {
        self.streams.iter().all(|stream| stream.state == State::Ended)
    }

    /// The refusal to stop for: no stream has ever been accepted, and all are refused.
    pub fn hopeless(&self) -> Option<(&StreamName, &Refusal)> {
        let refusal = |stream: &Outgoing| !stream.was_live && matches!(stream.state, State::Refused { .. });
        if !self.streams.iter().all(refusal) {
            return None;
        }
        self.streams.iter().find_map(|stream| match &stream.state {
            State::Refused { refusal, .. } => Some((&stream.options.name, refusal)),
            _ => None,
        })
    }

    /// What the relay said when it last closed in its own words.
    pub fn farewell(&self) -> Option<&Refusal> {
        self.farewell.as_ref()
    }

    /// Packets that did not leave in time, all streams together.
    pub fn lost(&self) -> u64 {
        self.streams.iter().map(|stream| stream.counters.late + stream.counters.queue_full).sum()
    }

    /// The port of the relay that serves.
    pub fn relay(&self) -> Option<PortId> {
        self.relay
    }

    /// The streams' reports; rates are of the time since the last call, or a longer one where that was a moment ago.
    pub fn report(&mut self, now: Instant) -> Vec<StreamReport> {
        self.streams.iter_mut().map(|stream| stream.report(now)).collect()
    }

    /// Ends all streams at once, for a source that stops.
    pub fn stop(&mut self, ports: &mut Ports) {
        for stream in &mut self.streams {
            stream.unpublish(self.relay, ports);
        }
    }

    fn find(&mut self, name: &StreamName) -> Option<&mut Outgoing> {
        self.streams.iter_mut().find(|stream| stream.options.name == *name)
    }
}

impl EndSystem for SourceSystem {
    fn handle_opened(&mut self, now: Instant, port: PortId, ports: &mut Ports) {
        if let Some(older) = self.relay.replace(port) {
            ports.close(older, CloseCode::Replaced, "another relay serves");
        }
        self.farewell = None;
        for stream in &mut self.streams {
            stream.disconnected();
            stream.connected(now, port, ports);
        }
    }

    fn handle_delivery(&mut self, _: Instant, _: PortId, _: link::Delivery, _: &mut Ports) {
        // Nobody sends media to a source; what comes all the same is dropped.
    }

    fn handle_control(&mut self, now: Instant, port: PortId, message: Control, ports: &mut Ports) {
        if self.relay != Some(port) {
            return;
        }
        match message {
            Control::Published { name, handle } => {
                if let Some(stream) = self.find(&name) {
                    stream.published(now, StreamHandle(handle), port, ports);
                }
            }
            Control::StreamRefused { name, refusal } => {
                if let Some(stream) = self.find(&name) {
                    stream.refused(now, refusal);
                }
            }
            Control::Refused(refusal) => self.farewell = Some(refusal),
            Control::Goodbye { reason } => self.farewell = Some(Refusal { code: CloseCode::Stopping, reason }),
            // Nothing else concerns a source; a relay of a later minor version may say more.
            _ => {}
        }
    }

    fn handle_closed(&mut self, _: Instant, port: PortId, _: &Peer, _: &Closed, _: &mut Ports) {
        if self.relay == Some(port) {
            self.relay = None;
            self.streams.iter_mut().for_each(Outgoing::disconnected);
        }
    }

    fn handle_timeout(&mut self, now: Instant, ports: &mut Ports) {
        for stream in &mut self.streams {
            stream.handle_timeout(now, self.relay, ports);
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.streams.iter().filter_map(Outgoing::poll_timeout).min()
    }
}

/// How a stream stands with the relay.
#[derive(Clone, Debug, PartialEq)]
enum State {
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
    payload: Bytes,
    fate: Fate,
}

/// One stream.
#[derive(Debug)]
struct Outgoing {
    options: StreamOptions,
    content: Option<Content>,
    state: State,
    /// Requests to publish that the relay has not answered.
    unanswered: u32,
    refusals: u32,
    was_live: bool,
    /// When content that is still unknown is guessed.
    guess_at: Option<Instant>,
    /// When the end is told, after the last packet.
    finish_at: Option<Instant>,
    next: StreamSeq,
    latest: Instant,
    held: VecDeque<Held>,
    held_bytes: usize,
    continuity: Continuity,
    input: InputCounters,
    counters: StreamCounters,
    trouble: Option<String>,
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
    fn new(options: StreamOptions) -> Outgoing {
        Outgoing {
            content: options.content,
            options,
            state: State::Idle,
            unanswered: 0,
            refusals: 0,
            was_live: false,
            guess_at: None,
            finish_at: None,
            next: StreamSeq(0),
            latest: Instant::ORIGIN,
            held: VecDeque::new(),
            held_bytes: 0,
            continuity: Continuity::default(),
            input: InputCounters::default(),
            counters: StreamCounters::default(),
            trouble: None,
            last_input: None,
            rates: Rates::default(),
        }
    }

    fn check(&mut self, payload: &[u8]) -> Result<(), NotTaken> {
        if self.finish_at.is_some() || self.state == State::Ended {
            return Err(NotTaken::Ended);
        }
        if payload.is_empty() {
            self.input.empty += 1;
            return Err(NotTaken::Empty);
        }
        if payload.len() > Link::MAX_PAYLOAD {
            self.input.oversized += 1;
            return Err(NotTaken::TooLarge(payload.len()));
        }
        Ok(())
    }

    /// Learns from a payload what the stream carries, and counts what is wrong with it.
    fn look(&mut self, now: Instant, payload: &[u8], relay: Option<PortId>, ports: &mut Ports) {
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
                self.state = State::Idle;
            }
            if let (Some(port), State::Idle) = (relay, &self.state) {
                self.ask(port, ports);
            }
        }
        if whole {
            self.input.ts_discontinuities += self.continuity.gaps(payload);
        } else if self.content == Some(Content::Ts) {
            self.input.ts_garbage_bytes += payload.len() as u64;
        }
    }

    fn push(
        &mut self,
        now: Instant,
        arrival: Instant,
        payload: Bytes,
        end: bool,
        relay: Option<PortId>,
        ports: &mut Ports,
    ) {
        self.latest = self.latest.max(arrival);
        let flags = Flags { high_priority: self.options.high_priority, end };
        let seq = self.next;
        self.next = self.next.plus(1);
        self.held_bytes += payload.len();
        self.held.push_back(Held { seq, arrival: self.latest, flags, payload, fate: Fate::Waiting });
        if let (State::Live(handle), Some(port)) = (&self.state, relay) {
            let handle = *handle;
            self.send(now, self.held.len() - 1, handle, port, ports);
        }
        self.expire(now);
    }

    /// Hands one of the held packets to the relay's link.
    fn send(&mut self, now: Instant, index: usize, handle: StreamHandle, port: PortId, ports: &mut Ports) {
        let held = &mut self.held[index];
        let packet = Packet {
            stream: handle,
            seq: held.seq,
            media_time: MediaTime(held.arrival.as_micros() as u32),
            age: now.saturating_since(held.arrival),
            label: Label(0),
            flags: held.flags,
            payload: held.payload.clone(),
            recover_until: held.arrival + self.options.deadline,
        };
        let again = held.fate == Fate::Sent;
        held.fate = Fate::Dropped;
        // The mark at the end is no packet of the stream's content.
        let counted = !held.payload.is_empty();
        match ports.send(now, port, packet) {
            Ok(()) => {
                held.fate = Fate::Sent;
                match again {
                    _ if !counted => {}
                    true => self.counters.resent += 1,
                    false => {
                        self.counters.sent += 1;
                        self.counters.sent_bytes += held.payload.len() as u64;
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
            self.counters.late += u64::from(oldest.fate == Fate::Waiting && !oldest.payload.is_empty());
            self.held.pop_front();
        }
    }

    fn connected(&mut self, now: Instant, port: PortId, ports: &mut Ports) {
        match self.content {
            _ if self.state == State::Ended => {}
            Some(_) => self.ask(port, ports),
            None => self.guess_at = Some(now + GUESS_AFTER),
        }
    }

    fn disconnected(&mut self) {
        if self.state != State::Ended {
            self.state = State::Idle;
        }
        self.unanswered = 0;
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
            content: self.content.unwrap_or_default(),
        };
        ports.control(port, Control::Publish(publish));
    }

    /// The relay accepts, under this handle. An answer to any request but the last is of a life that is over.
    fn published(&mut self, now: Instant, handle: StreamHandle, port: PortId, ports: &mut Ports) {
        self.unanswered = self.unanswered.saturating_sub(1);
        if self.unanswered > 0 || self.state != State::Asked {
            return;
        }
        tracing::info!(stream = %self.options.name, "published");
        (self.was_live, self.refusals) = (true, 0);
        self.state = State::Live(handle);
        self.expire(now);
        for index in 0..self.held.len() {
            if self.held[index].fate != Fate::Dropped {
                self.send(now, index, handle, port, ports);
            }
        }
    }

    /// The relay refuses; or withdraws what it had accepted.
    fn refused(&mut self, now: Instant, refusal: Refusal) {
        self.unanswered = self.unanswered.saturating_sub(1);
        if self.unanswered > 0 || self.state == State::Ended {
            return;
        }
        tracing::warn!(stream = %self.options.name, code = ?refusal.code, reason = refusal.reason, "refused");
        let wait = (ASK_AGAIN * (1 << self.refusals.min(8))).min(ASK_AGAIN_MOST);
        self.refusals += 1;
        self.state = State::Refused { refusal, again: now + wait };
    }

    fn unpublish(&mut self, relay: Option<PortId>, ports: &mut Ports) {
        let asked = matches!(self.state, State::Asked | State::Live(_));
        if let (Some(port), true) = (relay, asked) {
            ports.control(port, Control::Unpublish { name: self.options.name.clone() });
        }
        self.state = State::Ended;
        (self.finish_at, self.guess_at) = (None, None);
    }

    fn handle_timeout(&mut self, now: Instant, relay: Option<PortId>, ports: &mut Ports) {
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

    fn poll_timeout(&self) -> Option<Instant> {
        let again = match self.state {
            State::Refused { again, .. } => Some(again),
            _ => None,
        };
        [self.finish_at, self.guess_at, again].into_iter().flatten().min()
    }

    fn report(&mut self, now: Instant) -> StreamReport {
        self.expire(now);
        let (state, refusal) = match &self.state {
            State::Idle | State::Asked => (StreamState::Waiting, None),
            State::Live(_) => (StreamState::Live, None),
            State::Refused { refusal, .. } => (StreamState::Refused, Some(refusal.reason.clone())),
            State::Ended => (StreamState::Ended, None),
        };
        self.rates.update(now, (self.input.bytes, self.counters.sent_bytes));
        StreamReport {
            name: self.options.name.clone(),
            input: self.options.input.clone(),
            listen: self.options.listen,
            state,
            trouble: refusal.or_else(|| self.trouble.clone()),
            incarnation: self.options.incarnation.0,
            content: self.content.unwrap_or_default(),
            mode: self.options.mode,
            deadline_ms: self.options.deadline.as_secs_f64() * 1e3,
            input_bps: self.rates.input_bps,
            sent_bps: self.rates.sent_bps,
            silent_s: self.last_input.map(|last| now.saturating_since(last).as_secs_f64()),
            input_counters: self.input,
            counters: self.counters,
        }
    }
}
