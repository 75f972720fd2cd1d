//! What a sink decides (pure): which streams to ask for, what a handle means, when a packet is released.

mod payloads;

use crate::playout::{Arrival, Event, Playout, PlayoutConfig, Release};
use crate::report::{Counters, StreamReport, StreamState};
use link::{Delivery, Instant, StreamHandle};
use node::ages::Ages;
use node::control::{CloseCode, Content, Control, RECEIPTS, Receipt, Refusal, StreamOpen};
use node::payload::StreamKeys;
use node::trust::Role;
use node::ts::TsMeter;
use node::{Closed, EndSystem, Peer, PortId, Ports};
use payloads::{Payloads, Trouble};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use topology::StreamName;
use topology::lsdb::Incarnation;

/// Media goes before control on a link: packets of a handle that is not known yet wait this long for its meaning …
const ORPHAN_PATIENCE: Duration = Duration::from_millis(250);
/// … and at most so many.
const MAX_ORPHANS: usize = 256;
/// Handles that one stream may have on one port; a relay that opens more has forgotten to close them.
const MAX_HANDLES: usize = 8;
/// A stream without a packet for so long is called silent.
const SILENT_AFTER: Duration = Duration::from_secs(1);

/// How soon a refused stream is asked for again; twice as long each time, up to [`ASK_AGAIN_MOST`].
const ASK_AGAIN: Duration = Duration::from_secs(2);
const ASK_AGAIN_MOST: Duration = Duration::from_secs(30);

/// How often the relay is told what became of a stream.
const RECEIPT_EVERY: Duration = Duration::from_secs(1);
/// How often, while something is missing: relays do not remember for long what they had.
const RECEIPT_SOON: Duration = Duration::from_millis(250);
/// What is missing may still come late for so long before it is told.
const RECEIPT_GRACE: Duration = Duration::from_millis(100);

/// Where what a sink puts out goes to.
pub trait Outlets {
    /// A packet of the stream at this index leaves, at [`Release::at`] or at once if that has passed.
    fn release(&mut self, stream: usize, release: Release);
    /// The stream at this index came, ended, returned or was refused.
    fn changed(&mut self, stream: usize);
}

/// The sink as an end system: subscribes at whatever relay opens a port, and plays out what comes.
#[derive(Debug)]
pub struct SinkSystem<O> {
    streams: Vec<Stream>,
    handles: BTreeMap<(PortId, StreamHandle), Bound>,
    orphans: VecDeque<Orphan>,
    /// Packets whose handle never got a meaning.
    unclaimed: u64,
    outlets: O,
}

#[derive(Debug)]
struct Stream {
    name: StreamName,
    playout: Playout,
    payloads: Payloads,
    /// Looks at what is released.
    meter: TsMeter,
    /// As it was last announced.
    sealed: Option<bool>,
    /// When the first packet ever and the latest came.
    seen: Option<(Instant, Instant)>,
    ended: bool,
    refusal: Option<Refusal>,
    /// Times that it was refused in a row, and when it is asked for again.
    refusals: u32,
    ask_at: Option<Instant>,
    /// Since when the overlay has not had it, as the relay said when it was asked.
    absent_since: Option<Instant>,
    /// What the relay was told of.
    told: Counters,
    told_ages: Ages,
    /// When it is told next.
    receipt_due: Instant,
}

/// What a handle means.
#[derive(Clone, Copy, Debug)]
struct Bound {
    stream: usize,
    incarnation: Incarnation,
    /// Whether it was announced as sealed from source to sink.
    sealed: bool,
}

#[derive(Debug)]
struct Orphan {
    came: Instant,
    port: PortId,
    delivery: Delivery,
}

impl<O: Outlets> SinkSystem<O> {
    /// A sink of these streams, in this order.
    pub fn new(streams: impl IntoIterator<Item = (StreamName, PlayoutConfig)>, outlets: O) -> SinkSystem<O> {
        let stream = |(name, config)| Stream {
            name,
            playout: Playout::new(config),
            payloads: Payloads::default(),
            meter: TsMeter::default(),
            sealed: None,
            seen: None,
            ended: false,
            refusal: None,
            refusals: 0,
            ask_at: None,
            absent_since: None,
            told: Counters::default(),
            told_ages: Ages::default(),
            receipt_due: Instant::ORIGIN,
        };
        SinkSystem {
            streams: streams.into_iter().map(stream).collect(),
            handles: BTreeMap::new(),
            orphans: VecDeque::new(),
            unclaimed: 0,
            outlets,
        }
    }

    /// The stream at `index` is one sealed from source to sink with these keys. In the clear it is played only where `allow_clear` says so.
    pub fn seal(&mut self, index: usize, keys: StreamKeys, allow_clear: bool) {
        if let Some(stream) = self.streams.get_mut(index) {
            stream.payloads = Payloads::new(keys, stream.name.clone(), allow_clear);
        }
    }

    /// Opens the stream at `index` with these keys from now on, if it was to be sealed.
    pub fn set_payload_keys(&mut self, index: usize, keys: StreamKeys) {
        if let Some(stream) = self.streams.get_mut(index) {
            stream.payloads.set_keys(keys);
        }
    }

    /// Why the packets of the stream at `index` that came last cannot be used, if they cannot.
    pub fn trouble(&self, index: usize) -> Option<String> {
        self.streams.get(index)?.payloads.trouble().map(Trouble::to_string)
    }

    /// Where the packets went.
    pub fn outlets(&self) -> &O {
        &self.outlets
    }

    /// The same, to change it.
    pub fn outlets_mut(&mut self) -> &mut O {
        &mut self.outlets
    }

    /// The state and the counters of each stream; the outputs are for others to fill in.
    pub fn reports(&self, now: Instant) -> Vec<StreamReport> {
        self.streams.iter().map(|stream| stream.report(now)).collect()
    }

    /// How it stands with the stream at `index`.
    pub fn state(&self, now: Instant, index: usize) -> Option<StreamState> {
        self.streams.get(index).map(|stream| stream.state(now))
    }

    /// Why the stream at `index` was refused, if it was.
    pub fn refusal(&self, index: usize) -> Option<&Refusal> {
        self.streams.get(index)?.refusal.as_ref()
    }

    /// Whether the stream at `index` is refused for a reason that can pass without anybody here doing anything: no room, a relay that stops, a
    /// right that ran out and is renewed at its file.
    pub fn may_be_served(&self, index: usize) -> bool {
        self.refusal(index).is_none_or(|refusal| {
            use CloseCode::{Done, Expired, Lost, NameTaken, Overload, Replaced, Stopping};
            matches!(refusal.code, Overload | Stopping | Replaced | Expired | NameTaken | Lost | Done)
        })
    }

    /// How long the overlay has been without the stream at `index`, as far as the relay has said; zero where it has it.
    pub fn absent_for(&self, now: Instant, index: usize) -> Duration {
        let since = self.streams.get(index).and_then(|stream| stream.absent_since);
        since.map_or(Duration::ZERO, |since| now.saturating_since(since))
    }

    /// Asks at once for what is refused: this sink has other tokens to show.
    pub fn ask_again(&mut self, now: Instant, ports: &mut Ports) {
        self.streams.iter_mut().filter(|stream| stream.ask_at.is_some()).for_each(|stream| stream.ask_at = Some(now));
        self.ask(now, ports);
    }

    /// Asks for the refused streams whose time has come.
    fn ask(&mut self, now: Instant, ports: &mut Ports) {
        let all: Vec<PortId> = ports.iter().map(|(port, _, _)| port).collect();
        for stream in self.streams.iter_mut().filter(|stream| stream.ask_at.is_some_and(|at| at <= now)) {
            stream.ask_at = None;
            for port in &all {
                ports.control(*port, Control::Subscribe { name: stream.name.clone() });
            }
        }
    }

    /// Whether a packet of the stream at `index` has ever come.
    pub fn was_seen(&self, index: usize) -> bool {
        self.streams.get(index).is_some_and(|stream| stream.seen.is_some())
    }

    /// Whether a packet of any stream has ever come.
    pub fn was_any_seen(&self) -> bool {
        self.streams.iter().any(|stream| stream.seen.is_some())
    }

    /// Whether nothing waits for its release.
    pub fn is_drained(&self) -> bool {
        self.streams.iter().all(|stream| stream.playout.is_empty())
    }

    /// Packets dropped because the relay never said of which stream they are.
    pub fn unclaimed(&self) -> u64 {
        self.unclaimed
    }

    /// Stops all streams at the relays; what is held is still played out.
    pub fn unsubscribe(&self, ports: &mut Ports) {
        let all: Vec<PortId> = ports.iter().map(|(port, _, _)| port).collect();
        for port in all {
            for stream in &self.streams {
                ports.control(port, Control::Unsubscribe { name: stream.name.clone() });
            }
        }
    }

    /// Tells the relay what became of its streams since the last time.
    fn tell_receipts(&mut self, now: Instant, ports: &mut Ports) {
        for (index, stream) in self.streams.iter_mut().enumerate() {
            if stream.receipt_due > now {
                continue;
            }
            let wants = |port: &PortId| ports.peer(*port).is_some_and(|peer| peer.features & RECEIPTS != 0);
            let ours = self.handles.iter().filter(|(_, bound)| bound.stream == index).map(|((port, _), _)| *port);
            let at = ours.into_iter().find(wants);
            let receipts = at.map(|port| (port, stream.receipts(now)));
            for (port, receipt) in receipts.into_iter().flat_map(|(port, all)| all.into_iter().map(move |r| (port, r)))
            {
                ports.control(port, Control::Receipt(receipt));
            }
            let soon = stream.playout.has_missed();
            stream.receipt_due = now + if soon { RECEIPT_SOON } else { RECEIPT_EVERY };
        }
    }

    fn find(&self, name: &StreamName) -> Option<usize> {
        self.streams.iter().position(|stream| stream.name == *name)
    }

    fn take(&mut self, now: Instant, bound: Bound, delivery: Delivery) {
        let stream = &mut self.streams[bound.stream];
        let mut arrival = Arrival::from(delivery);
        match stream.payloads.admit(now, (bound.incarnation, bound.sealed), &mut arrival) {
            Ok(None) => {}
            Ok(Some(content)) => stream.playout.learn_content(bound.incarnation, content),
            Err(dropped) => return self.not_admitted(bound.stream, dropped.news),
        }
        let first = stream.seen.is_none();
        stream.seen = Some((stream.seen.map_or(now, |(first, _)| first), now));
        stream.playout.insert(now, bound.incarnation, arrival);
        if first {
            self.outlets.changed(bound.stream);
        }
        self.drain(now, bound.stream);
    }

    /// A packet was dropped. Where nothing of the stream was ever played there is no use in waiting for a source that never had the key.
    fn not_admitted(&mut self, index: usize, news: bool) {
        let stream = &mut self.streams[index];
        let Some(trouble) = stream.payloads.trouble().filter(|_| news) else { return };
        tracing::warn!(stream = %stream.name, "packets dropped: {trouble}");
        if *trouble == Trouble::Clear && stream.seen.is_none() {
            stream.refusal = Some(not_for_us(trouble));
        }
        self.outlets.changed(index);
    }

    fn drain(&mut self, now: Instant, index: usize) {
        let stream = &mut self.streams[index];
        while let Some(event) = stream.playout.poll(now) {
            match event {
                Event::Release(release) => {
                    if std::mem::take(&mut stream.ended) {
                        self.outlets.changed(index);
                    }
                    stream.look(&release);
                    self.outlets.release(index, release);
                }
                Event::Ended => {
                    stream.ended = true;
                    self.outlets.changed(index);
                }
            }
        }
    }

    fn open(&mut self, now: Instant, port: PortId, open: StreamOpen) {
        let Some(index) = self.find(&open.name) else {
            tracing::debug!(stream = %open.name, "the relay offers a stream that was not asked for");
            return;
        };
        let handle = StreamHandle(open.handle);
        let same = |((at, _), bound): (&(PortId, StreamHandle), &Bound)| *at == port && bound.stream == index;
        if self.handles.iter().filter(|entry| same(*entry)).count() >= MAX_HANDLES
            && let Some(oldest) = self.handles.iter().find(|entry| same(*entry)).map(|(key, _)| *key)
        {
            self.handles.remove(&oldest);
        }
        let bound = Bound { stream: index, incarnation: open.incarnation, sealed: open.sealed };
        self.handles.insert((port, handle), bound);
        let deadline = Duration::from_micros(u64::from(open.deadline_us)).min(MAX_DEADLINE);
        let stream = &mut self.streams[index];
        (stream.refusal, stream.refusals, stream.ask_at) = (None, 0, None);
        (stream.sealed, stream.absent_since) = (Some(open.sealed), None);
        if let Err(trouble) = stream.payloads.announced(open.sealed) {
            self.refuse(index, not_for_us(&trouble));
            return;
        }
        stream.playout.open(now, open.incarnation, deadline, open.content);
        self.adopt(now, port, handle, bound);
    }

    /// Takes the packets that came before the meaning of their handle.
    fn adopt(&mut self, now: Instant, port: PortId, handle: StreamHandle, bound: Bound) {
        self.forget_orphans(now);
        let orphans = std::mem::take(&mut self.orphans);
        for mut orphan in orphans {
            if orphan.port == port && orphan.delivery.stream == handle {
                orphan.delivery.age += now.saturating_since(orphan.came);
                self.take(now, bound, orphan.delivery);
            } else {
                self.orphans.push_back(orphan);
            }
        }
    }

    fn forget_orphans(&mut self, now: Instant) {
        while self.orphans.front().is_some_and(|orphan| now.saturating_since(orphan.came) > ORPHAN_PATIENCE) {
            self.orphans.pop_front();
            self.unclaimed += 1;
        }
    }

    fn close(&mut self, now: Instant, port: PortId, handle: u16, ended: bool) {
        // The handle keeps its meaning until it is given another: repairs of the last packets may still come.
        let Some(bound) = self.handles.get(&(port, StreamHandle(handle))).copied() else { return };
        if ended {
            self.streams[bound.stream].playout.close(now, bound.incarnation);
            self.drain(now, bound.stream);
        }
    }

    fn refuse(&mut self, index: usize, refusal: Refusal) {
        let stream = &mut self.streams[index];
        tracing::warn!(stream = %stream.name, code = ?refusal.code, "refused: {}", refusal.reason);
        stream.refusal = Some(refusal);
        self.outlets.changed(index);
    }

    /// The relay will not serve it now. It may later, by itself or with other tokens.
    fn refused(&mut self, now: Instant, index: usize, refusal: Refusal) {
        let stream = &mut self.streams[index];
        stream.ask_at = Some(now + (ASK_AGAIN * (1 << stream.refusals.min(8))).min(ASK_AGAIN_MOST));
        stream.refusals += 1;
        self.refuse(index, refusal);
    }
}

fn not_for_us(trouble: &Trouble) -> Refusal {
    Refusal { code: CloseCode::Forbidden, reason: trouble.to_string() }
}

/// A deadline beyond this is taken for this: it bounds what a stream holds in memory.
pub const MAX_DEADLINE: Duration = crate::config::MAX_LATENCY;

impl Stream {
    /// What became of it since the last time: a receipt, and more where packets of several lives are missing.
    fn receipts(&mut self, now: Instant) -> Vec<Receipt> {
        let counters = self.playout.counters();
        let told = std::mem::replace(&mut self.told, counters);
        let all_ages = self.playout.ages();
        let mut ages = all_ages.since(&std::mem::replace(&mut self.told_ages, all_ages)).told();
        let mut counts = (
            counters.on_time - told.on_time,
            counters.late - told.late,
            counters.missing as i64 - told.missing as i64,
            counters.overflow - told.overflow,
        );
        let mut receipts = Vec::new();
        loop {
            let missed = self.playout.take_missed(now, RECEIPT_GRACE);
            if missed.is_none() && counts == (0, 0, 0, 0) && ages.is_empty() {
                return receipts;
            }
            let Some(latest) = self.playout.incarnation() else { return receipts };
            let (incarnation, missed) = missed.unwrap_or((latest, Vec::new()));
            let (on_time, late, missing, overflow) = std::mem::take(&mut counts);
            let name = self.name.clone();
            let ages = std::mem::take(&mut ages);
            receipts.push(Receipt { name, incarnation, on_time, late, missing, overflow, missed, ages });
        }
    }

    fn look(&mut self, release: &Release) {
        if release.content == Content::Ts {
            if release.restart {
                self.meter.restart();
            }
            self.meter.feed(release.at, &release.payload);
        }
    }

    fn state(&self, now: Instant) -> StreamState {
        match (&self.refusal, self.seen) {
            (Some(_), _) => StreamState::Refused,
            (None, None) => StreamState::Waiting,
            (None, Some(_)) if self.ended => StreamState::Ended,
            (None, Some((_, latest))) if now.saturating_since(latest) > SILENT_AFTER => StreamState::Silent,
            (None, Some(_)) => StreamState::Live,
        }
    }

    fn report(&self, now: Instant) -> StreamReport {
        let packets = self.payloads.count(self.playout.counters());
        StreamReport {
            name: self.name.clone(),
            state: self.state(now),
            content: self.playout.content(),
            latency_ms: self.playout.latency().map_or(0.0, |latency| latency.as_secs_f64() * 1e3),
            packets,
            on_time_share: packets.on_time_share(),
            release: self.playout.release_delays(),
            arrival: self.playout.arrival_delays(),
            sealed: self.sealed,
            trouble: self.payloads.trouble().map(Trouble::to_string),
            ts: (self.playout.content() == Some(Content::Ts)).then(|| self.meter.health()),
            outputs: Vec::new(),
        }
    }
}

impl<O: Outlets> EndSystem for SinkSystem<O> {
    fn handle_opened(&mut self, _now: Instant, port: PortId, ports: &mut Ports) {
        if ports.peer(port).is_none_or(|peer| peer.role != Role::Relay) {
            ports.close(port, CloseCode::Protocol, "a sink receives from relays only");
            return;
        }
        for stream in &mut self.streams {
            (stream.ask_at, stream.absent_since) = (None, None);
            ports.control(port, Control::Subscribe { name: stream.name.clone() });
        }
    }

    fn handle_delivery(&mut self, now: Instant, port: PortId, delivery: Delivery, _ports: &mut Ports) {
        if let Some(bound) = self.handles.get(&(port, delivery.stream)).copied() {
            self.take(now, bound, delivery);
            return;
        }
        self.forget_orphans(now);
        if self.orphans.len() >= MAX_ORPHANS {
            self.orphans.pop_front();
            self.unclaimed += 1;
        }
        self.orphans.push_back(Orphan { came: now, port, delivery });
    }

    fn handle_control(&mut self, now: Instant, port: PortId, message: Control, _ports: &mut Ports) {
        match message {
            Control::Subscribed { name, live } => {
                if let Some(index) = self.find(&name) {
                    let stream = &mut self.streams[index];
                    stream.refusal = None;
                    stream.absent_since = (!live).then(|| stream.absent_since.unwrap_or(now));
                    if !live {
                        tracing::info!(stream = %name, "not there yet; waiting for it");
                    }
                }
            }
            Control::StreamRefused { name, refusal } => {
                if let Some(index) = self.find(&name) {
                    self.refused(now, index, refusal);
                }
            }
            Control::StreamOpen(open) => self.open(now, port, open),
            Control::StreamClose { handle, ended } => self.close(now, port, handle, ended),
            Control::Goodbye { reason } => tracing::info!("the relay says goodbye: {reason}"),
            // A newer relay may say more than this sink understands.
            other => tracing::debug!(message = ?std::mem::discriminant(&other), "not for a sink"),
        }
    }

    fn handle_closed(&mut self, _now: Instant, port: PortId, _peer: &Peer, _closed: &Closed, _ports: &mut Ports) {
        self.handles.retain(|(at, _), _| *at != port);
        // At the next relay all are asked for.
        self.streams.iter_mut().for_each(|stream| stream.ask_at = None);
        self.orphans.retain(|orphan| orphan.port != port);
    }

    fn handle_timeout(&mut self, now: Instant, ports: &mut Ports) {
        for index in 0..self.streams.len() {
            self.drain(now, index);
        }
        self.ask(now, ports);
        self.tell_receipts(now, ports);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let releases = self.streams.iter().flat_map(|stream| [stream.playout.poll_timeout(), stream.ask_at]).flatten();
        let receipts = self.streams.iter().filter(|stream| stream.seen.is_some()).map(|stream| stream.receipt_due);
        releases.chain(receipts.filter(|_| !self.handles.is_empty())).min()
    }
}

#[cfg(test)]
mod tests;
