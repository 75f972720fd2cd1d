//! Where each packet goes. Pure.
//!
//! The first copy of a packet is sent at once on every out-edge of its label's modules and to every local subscriber,
//! never back to where it came from; later copies are dropped and counted. On the way of a packet there is no name, no
//! allocation and no wait: links and streams are looked up by port and handle, all else is an index.
//!
//! Everything else here is the slow path by which [`crate::system`] sets that up: streams, their inputs (a handle on a
//! link where the stream arrives), their outputs (a handle on a link where it leaves) and their epochs (which outputs
//! belong to which module, and how far it is from there).

pub mod handles;
pub mod health;
pub mod held;
pub mod history;
pub mod label;
pub mod lack;
pub mod police;
pub mod rescue;
pub mod signal;
pub mod window;

mod epoch;
mod pull;
mod sending;
mod stream;

pub use epoch::{EPOCHS, Hop, Rest};
pub use stream::{Service, Trace};

use crate::report::{InputCounters, OutputCounters, StreamCounters};
use handles::{HandleSpace, HandleTable, Target};
use lack::{Along, Ask};
use link::{Delivery, Instant, Label, Packet, SendError, StreamHandle};
use node::ts::TsHealth;
use node::{PortId, Ports};
use police::Police;
use slab::Slab;
use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Duration;
use stream::{Input, Output, Stream};

/// What packets leave by.
pub trait Egress {
    /// Queues a packet on the link of `port`.
    fn send(&mut self, now: Instant, port: PortId, packet: Packet) -> Result<(), SendError>;
}

impl Egress for Ports {
    #[inline]
    fn send(&mut self, now: Instant, port: PortId, packet: Packet) -> Result<(), SendError> {
        Ports::send(self, now, port, packet)
    }
}

/// A stream in a [`Forwarder`]; used again once the stream was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamKey(u32);

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was the first copy, and this many links took it.
    Forwarded(u32),
    /// A copy.
    Duplicate,
    /// Too far behind to be told from a copy.
    Stale,
    /// From a relay beside the stream's graphs, while others bring it.
    Beside,
    /// After its deadline.
    Late,
    /// Beyond its publisher's rate.
    Policed,
}

/// All streams of a relay, by the handles under which they arrive.
#[derive(Debug)]
pub struct Forwarder {
    streams: Slab<Stream>,
    /// Bytes of history for all streams together.
    history: usize,
    ports: HashMap<PortId, PortState, BuildHasherDefault<PortHasher>>,
}

#[derive(Debug, Default)]
struct PortState {
    table: HandleTable,
    handles: HandleSpace,
}

/// However many streams there are, each may keep this many bytes of history.
const LEAST_HISTORY: usize = 64 << 10;

/// A stream of which something came within this time flows.
const FLOWS: Duration = Duration::from_millis(250);

/// However few streams there are, none keeps more than this share of all.
const HISTORY_SHARES: usize = 8;

impl Forwarder {
    /// No streams yet. All of them together keep about `history` bytes of what came lately.
    pub fn new(history: usize) -> Forwarder {
        Forwarder { streams: Slab::new(), history, ports: HashMap::default() }
    }

    /// Takes a packet that arrived at `port` and sends it on. A packet whose handle is not known comes back.
    #[inline]
    pub fn forward(
        &mut self,
        now: Instant,
        port: PortId,
        delivery: Delivery,
        egress: &mut impl Egress,
    ) -> Result<Verdict, Delivery> {
        let Some(target) = self.ports.get(&port).and_then(|state| state.table.get(delivery.stream)) else {
            return Err(delivery);
        };
        match self.streams.get_mut(target.stream as usize) {
            Some(stream) => Ok(stream.forward(now, target.input, delivery, egress)),
            None => Err(delivery),
        }
    }

    /// Adds a stream that goes nowhere yet.
    pub fn add_stream(&mut self, service: impl Into<Service>) -> StreamKey {
        let key = self.streams.insert(Stream::new(service.into()));
        self.share_history();
        StreamKey(key as u32)
    }

    /// Divides the bytes for history among the streams.
    fn share_history(&mut self) {
        let each = (self.history / self.streams.len().max(HISTORY_SHARES)).max(LEAST_HISTORY);
        for (_, stream) in &mut self.streams {
            stream.history.set_most(each);
        }
    }

    /// Lets go of what has been kept long enough, of streams that have fallen silent.
    pub fn expire_history(&mut self, now: Instant) {
        for (_, stream) in &mut self.streams {
            stream.history.expire(now);
        }
    }

    /// Whether a stream is at its start: all that ever came of it is still kept.
    pub fn is_young(&self, key: StreamKey) -> bool {
        self.stream(key).is_some_and(|stream| stream.history.is_whole())
    }

    /// Sends what is kept of a stream that is at its start to an output that has just joined it, by the graph in
    /// force. Returns how many packets that were.
    pub fn replay(&mut self, now: Instant, key: StreamKey, port: PortId, egress: &mut impl Egress) -> u32 {
        self.stream_mut(key).map_or(0, |stream| stream.replay(now, port, egress))
    }

    /// Removes a stream with its inputs and outputs; returns the outputs it had.
    pub fn remove_stream(&mut self, now: Instant, key: StreamKey) -> Vec<(PortId, StreamHandle)> {
        let Some(stream) = self.streams.try_remove(key.0 as usize) else { return Vec::new() };
        self.share_history();
        for input in stream.inputs() {
            if let Some(state) = self.ports.get_mut(&input.port) {
                state.table.clear(input.handle);
                if input.source {
                    state.handles.give_back(now, input.handle);
                }
            }
        }
        let outputs: Vec<_> = stream.outputs().map(|output| (output.port, output.handle)).collect();
        for (port, handle) in &outputs {
            if let Some(state) = self.ports.get_mut(port) {
                state.handles.give_back(now, *handle);
            }
        }
        outputs
    }

    /// Says whether the source of a stream may mark packets to go before others. Where it may not, the mark is taken off them.
    pub fn set_may_go_first(&mut self, key: StreamKey, may: bool) {
        if let Some(stream) = self.streams.get_mut(key.0 as usize) {
            stream.set_may_go_first(may);
        }
    }

    /// Changes what is promised of a stream.
    pub fn set_service(&mut self, key: StreamKey, service: Service) {
        if let Some(stream) = self.stream_mut(key) {
            stream.set_service(service);
        }
    }

    /// From the next packet of the source on, this label is stamped.
    pub fn set_stamp(&mut self, key: StreamKey, label: Label) {
        if let Some(stream) = self.stream_mut(key) {
            stream.set_stamp(label);
        }
    }

    /// The label that is stamped.
    pub fn stamp(&self, key: StreamKey) -> Option<Label> {
        self.stream(key)?.stamp()
    }

    /// Holds the source of a stream to a rate.
    pub fn set_police(&mut self, key: StreamKey, police: Option<Police>) {
        if let Some(stream) = self.stream_mut(key) {
            stream.set_police(police);
        }
    }

    /// What holds the stream to its rate, where anything does.
    pub fn police(&self, key: StreamKey) -> Option<Police> {
        self.stream(key)?.police()
    }

    /// Whether another stream can come or leave by `port`.
    pub fn has_free_handle(&self, now: Instant, port: PortId) -> bool {
        self.ports.get(&port).is_none_or(|port| port.handles.has(now))
    }

    /// Lets a stream arrive at `port` from a relay, under the handle that the relay chose. The same handle may be given
    /// a new meaning.
    pub fn open_input(&mut self, key: StreamKey, port: PortId, handle: StreamHandle) {
        self.close_input(port, handle);
        self.put_input(key, Input::new(port, handle, false));
    }

    /// The stream that a handle means at `port`.
    pub fn input(&self, port: PortId, handle: StreamHandle) -> Option<StreamKey> {
        Some(StreamKey(self.ports.get(&port)?.table.get(handle)?.stream))
    }

    /// Lets a stream arrive at `port` from its source, and chooses the handle. `None` where none is free.
    pub fn open_source(&mut self, now: Instant, key: StreamKey, port: PortId) -> Option<StreamHandle> {
        let handle = self.ports.entry(port).or_default().handles.take(now)?;
        self.put_input(key, Input::new(port, handle, true));
        Some(handle)
    }

    fn put_input(&mut self, key: StreamKey, input: Input) {
        let (port, handle) = (input.port, input.handle);
        let Some(stream) = self.stream_mut(key) else { return };
        let target = Target { stream: key.0, input: stream.add_input(input) };
        self.ports.entry(port).or_default().table.set(handle, target);
    }

    /// Says whose packets of a stream count as long as they come. A relay that no graph leads here from can say that it brings the stream, and be
    /// first with something else under its next numbers; it is heard only while nobody else brings it.
    pub fn expect(&mut self, key: StreamKey, is_expected: impl Fn(PortId) -> bool) {
        if let Some(stream) = self.stream_mut(key) {
            stream.expect(is_expected);
        }
    }

    /// Ends an input; says whose it was.
    pub fn close_input(&mut self, port: PortId, handle: StreamHandle) -> Option<StreamKey> {
        let target = self.ports.get_mut(&port)?.table.clear(handle)?;
        let key = StreamKey(target.stream);
        self.stream_mut(key)?.remove_input(target.input);
        Some(key)
    }

    /// Ends the input of a source at `port`; its handle rests before it is used again.
    pub fn close_source(&mut self, now: Instant, key: StreamKey, port: PortId) {
        let Some(stream) = self.stream(key) else { return };
        let handle = stream.inputs().find(|input| input.port == port && input.source).map(|input| input.handle);
        if let Some(handle) = handle {
            self.close_input(port, handle);
            self.ports.entry(port).or_default().handles.give_back(now, handle);
        }
    }

    /// Lets a stream leave by `port`; the same handle again where it does already. `None` where no handle is free.
    pub fn open_output(&mut self, now: Instant, key: StreamKey, port: PortId, local: bool) -> Option<StreamHandle> {
        let stream = self.streams.get_mut(key.0 as usize)?;
        if let Some(output) = stream.output(port) {
            return Some(output.handle);
        }
        let handle = self.ports.entry(port).or_default().handles.take(now)?;
        stream.add_output(Output::new(port, handle, local));
        Some(handle)
    }

    /// Ends an output, and says which handle it had.
    pub fn close_output(&mut self, now: Instant, key: StreamKey, port: PortId) -> Option<StreamHandle> {
        let output = self.stream_mut(key)?.remove_output(port)?;
        self.ports.entry(port).or_default().handles.give_back(now, output.handle);
        Some(output.handle)
    }

    /// The handle under which a stream leaves by `port`, where it does.
    pub fn output(&self, key: StreamKey, port: PortId) -> Option<StreamHandle> {
        Some(self.stream(key)?.output(port)?.handle)
    }

    /// Installs an epoch, or replaces it: per module, the hops at this relay. Their ports must be outputs of the stream.
    /// Four epochs are kept.
    pub fn install(&mut self, key: StreamKey, epoch: u16, modules: &[Vec<Hop>]) {
        if let Some(stream) = self.stream_mut(key) {
            stream.install(epoch, modules);
        }
    }

    /// Forgets an epoch of a stream.
    pub fn retire(&mut self, key: StreamKey, epoch: u16) {
        if let Some(stream) = self.stream_mut(key) {
            stream.epochs.retire(epoch);
        }
    }

    /// A relay below at `port` asks for what it lacks of the stream that goes there under `handle`: sends what is kept, and
    /// for a while what comes. Returns the stream, and what is to be asked further up.
    pub fn pull(
        &mut self,
        now: Instant,
        port: PortId,
        handle: StreamHandle,
        ask: Ask,
        egress: &mut impl Egress,
    ) -> Option<(StreamKey, Option<Ask>)> {
        let at = self.streams.iter().find_map(|(key, stream)| {
            let is_it = |output: &Option<Output>| output.as_ref().is_some_and(|o| o.port == port && o.handle == handle);
            Some((key, stream.outputs.iter().position(is_it)?))
        });
        let (key, slot) = at?;
        Some((StreamKey(key as u32), self.streams[key].pull(now, slot as u32, ask, egress)))
    }

    /// What is missing of streams that sinks watch here, and is to be asked for.
    pub fn lacking(&mut self, now: Instant, along: Along) -> Vec<(StreamKey, Ask)> {
        let of = |(key, stream): (usize, &mut Stream)| Some((StreamKey(key as u32), stream.lacks(now, along)?));
        self.streams.iter_mut().filter_map(of).collect()
    }

    /// Where the newest packet of a stream came from, and on which graph it travelled, while it flows.
    pub fn newest_from(&self, key: StreamKey, now: Instant) -> Option<(PortId, Label)> {
        self.stream(key)?.history.newest(now.saturating_sub(FLOWS))
    }

    /// A question for all of a stream that is newer than what is here, where sinks watch it here.
    pub fn all_newer(&self, key: StreamKey) -> Option<Ask> {
        self.stream(key)?.all_newer()
    }

    /// Whether what enters here of a stream leaves by `port` by its label.
    pub fn feeds(&self, key: StreamKey, port: PortId) -> bool {
        self.stream(key).is_some_and(|stream| stream.feeds(port))
    }

    /// The stream that leaves by `port` under `handle`.
    pub fn leaves(&self, port: PortId, handle: StreamHandle) -> Option<StreamKey> {
        let is_it = |output: &Output| output.port == port && output.handle == handle;
        let found = self.streams.iter().find(|(_, stream)| stream.outputs().any(is_it));
        found.map(|(key, _)| StreamKey(key as u32))
    }

    /// Tells of packets that did not come by `port` whether they were here in time, and were to leave there.
    pub fn trace(&self, key: StreamKey, port: PortId, numbers: &BTreeSet<u32>) -> Trace {
        self.stream(key).map(|stream| stream.trace(port, numbers)).unwrap_or_default()
    }

    /// Counts questions that were sent about a stream.
    pub fn count_pulls(&mut self, key: StreamKey, count: u64) {
        if let Some(stream) = self.stream_mut(key) {
            stream.counters.pulls += count;
        }
    }

    /// The handles under which a stream arrives.
    pub fn input_handles(&self, key: StreamKey) -> impl Iterator<Item = (PortId, StreamHandle)> {
        self.stream(key).into_iter().flat_map(Stream::inputs).map(|input| (input.port, input.handle))
    }

    /// The epochs of a stream known here, oldest first.
    pub fn epochs(&self, key: StreamKey) -> Vec<u16> {
        self.stream(key).map(|stream| stream.epochs.numbers().collect()).unwrap_or_default()
    }

    /// Forgets a port with all its inputs and outputs; returns the streams that had one there.
    pub fn close_port(&mut self, port: PortId) -> Vec<StreamKey> {
        let mut touched: Vec<StreamKey> = Vec::new();
        if let Some(state) = self.ports.remove(&port) {
            for (_, target) in state.table.iter() {
                touched.push(StreamKey(target.stream));
                if let Some(stream) = self.streams.get_mut(target.stream as usize) {
                    stream.remove_input(target.input);
                }
            }
        }
        for (key, stream) in &mut self.streams {
            if stream.remove_output(port).is_some() {
                touched.push(StreamKey(key as u32));
            }
        }
        touched.sort_unstable();
        touched.dedup();
        touched
    }

    /// Streams carried.
    pub fn len(&self) -> usize {
        self.streams.len()
    }

    /// Whether no stream is carried.
    pub fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// Handles that the peer at `port` has in use.
    pub fn inputs_at(&self, port: PortId) -> usize {
        self.ports.get(&port).map_or(0, |state| state.table.used())
    }

    /// Looks at the transport stream in a stream, as far as it is due; see [`health`].
    pub fn look(&mut self, now: Instant, key: StreamKey, room: &mut usize, is_ours: impl FnMut(Label) -> bool) {
        if let Some(Stream { health, history, service, .. }) = self.stream_mut(key) {
            health.get_or_insert_default().look(now, history, service.deadline, room, is_ours);
        }
    }

    /// Counts what one way should have brought and another one brought, as far as it is due; see [`rescue`].
    pub fn count_rescued(
        &mut self,
        now: Instant,
        key: StreamKey,
        room: &mut usize,
        expected: impl FnMut(Label) -> Vec<Option<PortId>>,
    ) {
        let Some(stream) = self.stream_mut(key) else { return };
        let Stream { rescue, history, came, service, counters, .. } = stream;
        counters.recovered_other_way += rescue.count(now, history, came, service.deadline, room, expected);
    }

    /// Forgets what was found of transport streams; it is looked for no more.
    pub fn forget_health(&mut self) {
        self.streams.iter_mut().for_each(|(_, stream)| stream.health = None);
    }

    /// What has been found of the transport stream in a stream, and how many packets were not looked at.
    pub fn health(&self, key: StreamKey) -> Option<(TsHealth, u64)> {
        Some(self.stream(key)?.health.as_ref()?.found())
    }

    /// The counters of a stream.
    pub fn counters(&self, key: StreamKey) -> StreamCounters {
        self.stream(key).map(|stream| stream.counters).unwrap_or_default()
    }

    /// The inputs of a stream and their counters.
    pub fn inputs(&self, key: StreamKey) -> impl Iterator<Item = (PortId, InputCounters)> {
        self.stream(key).into_iter().flat_map(Stream::inputs).map(|input| (input.port, input.counters))
    }

    /// How old the packets of the last two seconds were that came first by `port`: median, and most.
    pub fn ages(&self, key: StreamKey, port: PortId) -> Option<(Duration, Duration)> {
        let kept = self.stream(key)?.history.iter().filter(|kept| kept.from == port);
        let mut ages: Vec<Duration> = kept.map(history::Kept::age).collect();
        ages.sort_unstable();
        Some((*ages.get(ages.len() / 2)?, *ages.last()?))
    }

    /// The outputs of a stream, whether each is a sink's, and their counters.
    pub fn outputs(&self, key: StreamKey) -> impl Iterator<Item = (PortId, bool, OutputCounters)> {
        self.stream(key)
            .into_iter()
            .flat_map(Stream::outputs)
            .map(|output| (output.port, output.local, output.counters))
    }

    /// Sinks of a stream here.
    pub fn locals(&self, key: StreamKey) -> usize {
        self.stream(key).map_or(0, Stream::locals)
    }

    fn stream(&self, key: StreamKey) -> Option<&Stream> {
        self.streams.get(key.0 as usize)
    }

    fn stream_mut(&mut self, key: StreamKey) -> Option<&mut Stream> {
        self.streams.get_mut(key.0 as usize)
    }
}

/// Spreads port numbers, which this node counts up itself: no peer chooses them, so no keyed hash is needed.
#[derive(Debug, Default)]
struct PortHasher(u64);

impl Hasher for PortHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    #[inline]
    fn write_u64(&mut self, n: u64) {
        // Fibonacci hashing (Knuth, TAOCP 3, 6.4); the rotation brings the well-mixed bits to both ends.
        self.0 = (self.0 ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }
}

#[cfg(test)]
mod tests;
