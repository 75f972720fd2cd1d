//! What is published, sent, kept for a reconnection, and given up. Pure.
//!
//! Each packet gets its number when it comes in, whether or not a relay is there. It is kept until its deadline has
//! passed; so a relay that comes back within that time, or another in its place, is sent what the lost connection may have
//! swallowed. The overlay drops the copies, since life and numbers of the stream go on.

mod outgoing;

use crate::report::{InputCounters, StreamReport, StreamState};
use bytes::Bytes;
use link::stats::LinkStats;
use link::{Instant, Link, StreamHandle};
use node::control::{CloseCode, Content, Control, Dissemination, Refusal, Wants};
use node::payload::{NotSealed, OVERHEAD, StreamKeys};
use node::{Closed, EndSystem, Peer, PortId, Ports};
use outgoing::{Outgoing, State};
use std::net::SocketAddr;
use std::time::Duration;
use topology::StreamName;
use topology::lsdb::Incarnation;

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
    /// What else is asked for.
    pub wants: Wants,
    /// What it carries, where that is known before its first packet.
    pub content: Option<Content>,
    /// With what its payloads are sealed from source to sink, if they are.
    pub payload_keys: Option<StreamKeys>,
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
    #[error("a datagram of {size} bytes; at most {most} can be carried")]
    TooLarge {
        /// Its size.
        size: usize,
        /// The most that can be carried: sealing takes room too.
        most: usize,
    },
    /// The stream has ended.
    #[error("the stream has ended")]
    Ended,
    /// It cannot be sealed.
    #[error(transparent)]
    NotSealed(#[from] NotSealed),
}

/// Most bytes of a payload that can be carried.
pub const fn max_payload(sealed: bool) -> usize {
    if sealed { Link::MAX_PAYLOAD - OVERHEAD } else { Link::MAX_PAYLOAD }
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
        stream.look(now, arrival, &payload, relay, ports);
        Ok(stream.push(now, arrival, payload, false, relay, ports)?)
    }

    /// Seals a stream with these keys from its next packet on. Nothing where it was not to be sealed: a stream in the clear stays so.
    pub fn set_payload_keys(&mut self, stream: StreamIndex, keys: StreamKeys) {
        self.streams[stream.0].set_payload_keys(keys);
    }

    /// The input has ended: the stream ends for everybody once what is under way has arrived.
    pub fn end(&mut self, now: Instant, stream: StreamIndex, ports: &mut Ports) {
        let relay = self.relay;
        let stream = &mut self.streams[stream.0];
        if stream.finish_at.is_none() && stream.state != State::Ended {
            // A stream of which not even the end can be sealed ends all the same, by the word of `Unpublish`.
            let _ = stream.push(now, now, Bytes::new(), true, relay, ports);
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

    /// The refusal to stop for: no stream has ever been accepted, and all are refused. `patient`: not for what can pass by itself, as where a
    /// link has no room now.
    pub fn hopeless(&self, patient: bool) -> Option<(&StreamName, &Refusal)> {
        use CloseCode::{Done, Lost, Overload, Replaced, Stopping};
        let refused = |stream: &Outgoing| match &stream.state {
            State::Refused { refusal, .. } => {
                let passes = matches!(refusal.code, Overload | Stopping | Replaced | Lost | Done);
                !(stream.was_live || patient && passes)
            }
            _ => false,
        };
        if !self.streams.iter().all(refused) {
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

    /// Packets that did not leave in time, all streams together. `links` is what the links to relays have counted: what one had taken it may have
    /// dropped later.
    pub fn lost(&self, links: &LinkStats) -> u64 {
        let late: u64 = self.streams.iter().map(|stream| stream.counters.late).sum();
        let full: u64 = self.streams.iter().map(|stream| stream.counters.queue_full).sum();
        // What a link refuses as late or for want of room it counts, too.
        late.max(links.dropped_late)
            + full.max(links.dropped_queue_full)
            + links.dropped_low_priority
            + links.dropped_standing
    }

    /// The port of the relay that serves.
    pub fn relay(&self) -> Option<PortId> {
        self.relay
    }

    /// The streams' reports; rates are of the time since the last call, or a longer one where that was a moment ago.
    pub fn report(&mut self, now: Instant) -> Vec<StreamReport> {
        self.streams.iter_mut().map(|stream| stream.report(now)).collect()
    }

    /// Whether each flows.
    pub fn states(&self) -> impl Iterator<Item = StreamState> {
        self.streams.iter().map(Outgoing::stream_state)
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
            Control::Rest { name, rest_us } => {
                if let Some(stream) = self.find(&name) {
                    stream.rest = Duration::from_micros(u64::from(rest_us));
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
