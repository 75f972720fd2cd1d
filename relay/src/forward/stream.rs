//! One stream at this relay: what has been seen of it, where it goes, what was counted.

use super::epoch::{Epochs, Hop, Rest};
use super::health::Health;
use super::history::{History, Ways};
use super::label;
use super::lack::Lack;
use super::police::Police;
use super::pull::Interest;
use super::rescue::{Came, Rescue};
use super::sending::Sending;
use super::window::{Seen, Window};
use super::{Egress, Verdict};
use crate::report::{InputCounters, OutputCounters, StreamCounters};
use link::{Delivery, Instant, Label, Recovery, Residual, StreamHandle, StreamSeq};
use node::PortId;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// What a relay knows of packets that did not arrive below.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// Were here in time, and were to go there.
    pub had: BTreeSet<u32>,
    /// Never came here, or after the deadline: a relay that stands still for a while gets all of it then.
    pub absent: BTreeSet<u32>,
    /// Went another way, or too long ago to tell.
    pub unknown: BTreeSet<u32>,
}

/// What is promised of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its one-way deadline.
    pub deadline: Duration,
    /// What share of its packets each hop may leave missing; `None`: what each link's policy says.
    pub target: Option<Residual>,
}

impl From<Duration> for Service {
    /// A deadline, and what the links' policies say.
    fn from(deadline: Duration) -> Service {
        Service { deadline, target: None }
    }
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) service: Service,
    pub(super) seen: Window,
    pub(super) epochs: Epochs,
    /// The label of packets that enter the overlay here.
    pub(super) stamp: Option<Label>,
    police: Option<Police>,
    /// Whether its source may mark packets to go first.
    may_go_first: bool,
    /// Slots keep their index while they are in use: handles and epochs point at them.
    inputs: Vec<Option<Input>>,
    pub(super) outputs: Vec<Option<Output>>,
    /// Slots of the outputs to sinks.
    pub(super) locals: Vec<u32>,
    pub(super) history: History,
    /// What came by each way from a relay, and what of it only one brought.
    pub(super) came: Came,
    pub(super) rescue: Rescue,
    /// How the transport stream in it is, where somebody looks.
    pub(super) health: Option<Box<Health>>,
    /// What relays below lack.
    pub(super) interests: Vec<Interest>,
    /// What is missing here, where sinks watch.
    pub(super) lack: Lack,
    pub(super) counters: StreamCounters,
    /// What came after its deadline lately.
    late: VecDeque<StreamSeq>,
    /// When something last came from where it is to come from.
    expected_at: Instant,
}

/// A stream that has come from where it is to come from within this time is not taken from elsewhere.
const FLOWS: Duration = Duration::from_millis(40);

/// Late packets remembered by number.
const LATE: usize = 1024;

#[derive(Debug)]
pub(super) struct Input {
    pub(super) port: PortId,
    pub(super) handle: StreamHandle,
    /// A source's: packets are policed and stamped.
    pub(super) source: bool,
    /// Its place in [`Came`].
    pub(super) way: u32,
    /// Whether a graph leads here from there.
    expected: bool,
    pub(super) counters: InputCounters,
}

impl Input {
    pub(super) fn new(port: PortId, handle: StreamHandle, source: bool) -> Input {
        Input { port, handle, source, way: u32::MAX, expected: true, counters: InputCounters::default() }
    }
}

#[derive(Debug)]
pub(super) struct Output {
    pub(super) port: PortId,
    pub(super) handle: StreamHandle,
    pub(super) local: bool,
    /// Its way, where it leads to a relay and there are not too many of them.
    pub(super) way: Ways,
    pub(super) again: Again,
    pub(super) counters: OutputCounters,
}

impl Output {
    pub(super) fn new(port: PortId, handle: StreamHandle, local: bool) -> Output {
        let (way, again, counters) = Default::default();
        Output { port, handle, local, way, again, counters }
    }
}

/// How many packets may leave once more: one of [`Again::EACH`] that leave, these included, and [`Again::MOST`] at once.
#[derive(Debug, Default)]
pub(super) struct Again(u16);

impl Again {
    const EACH: u16 = 4;
    const MOST: u16 = 64;

    #[inline]
    pub(super) fn note(&mut self) {
        self.0 = (self.0 + 1).min(Self::EACH * Self::MOST);
    }

    pub(super) fn take(&mut self) -> bool {
        let left = self.0.checked_sub(Self::EACH);
        self.0 = left.unwrap_or(self.0);
        left.is_some()
    }
}

impl Stream {
    pub(super) fn new(service: Service) -> Stream {
        Stream {
            service,
            seen: Window::new(),
            epochs: Epochs::new(),
            stamp: None,
            police: None,
            may_go_first: false,
            inputs: Vec::new(),
            outputs: Vec::new(),
            locals: Vec::new(),
            history: History::new(0),
            came: Came::default(),
            rescue: Rescue::default(),
            health: None,
            interests: Vec::new(),
            lack: Lack::default(),
            counters: StreamCounters::default(),
            late: VecDeque::new(),
            expected_at: Instant::ORIGIN,
        }
    }

    /// The fast path: no allocation, no name.
    #[inline]
    pub(super) fn forward(
        &mut self,
        now: Instant,
        input: u32,
        mut delivery: Delivery,
        egress: &mut impl Egress,
    ) -> Verdict {
        let Some(input) = self.inputs.get_mut(input as usize).and_then(Option::as_mut) else {
            return Verdict::Stale;
        };
        self.counters.received += 1;
        self.counters.received_bytes += delivery.payload.len() as u64;
        input.counters.note(&delivery);
        if input.expected {
            self.expected_at = now;
        } else if now.saturating_since(self.expected_at) < FLOWS {
            self.counters.beside += 1;
            return Verdict::Beside;
        }
        let label = if input.source {
            if self.police.as_mut().is_some_and(|police| !police.admit(now, delivery.payload.len())) {
                self.counters.policed += 1;
                return Verdict::Policed;
            }
            delivery.flags.high_priority &= self.may_go_first;
            self.stamp.unwrap_or_default()
        } else {
            delivery.label
        };
        if delivery.age < self.service.deadline
            && let Some(marks) = self.came.marks(input.way)
        {
            marks.mark(delivery.seq);
        }
        match self.seen.insert(delivery.seq) {
            Seen::New => {
                self.counters.unique += 1;
                self.counters.unique_bytes += delivery.payload.len() as u64;
            }
            Seen::Duplicate => {
                self.counters.duplicates += 1;
                input.counters.duplicates += 1;
                return Verdict::Duplicate;
            }
            Seen::Stale => {
                self.counters.stale += 1;
                return Verdict::Stale;
            }
        }
        let slack = self.service.deadline.saturating_sub(delivery.age);
        if slack.is_zero() {
            self.counters.late += 1;
            input.counters.late += 1;
            if self.late.len() == LATE {
                self.late.pop_front();
            }
            self.late.push_back(delivery.seq);
            return Verdict::Late;
        }
        let from = input.port;
        self.note_lack(now, from, &delivery);
        self.history.push(now, from, label, &delivery);
        let mut sending = Sending::new(now, slack, self.service.target, label, delivery);
        self.send_below(from, &mut sending, egress);
        for &slot in &self.locals {
            if let Some(output) = self.outputs[slot as usize].as_mut()
                && output.port != from
            {
                sending.send(output, Rest::default(), egress);
            }
        }
        if !self.interests.is_empty() {
            self.serve(from, &mut sending, egress);
        }
        self.history.note_left(sending.left);
        self.counters.forwarded += u64::from(sending.sent);
        self.counters.forwarded_bytes += sending.bytes();
        Verdict::Forwarded(sending.sent)
    }

    /// Sends on every out-edge of the label's modules, but never back.
    #[inline]
    fn send_below(&mut self, from: PortId, sending: &mut Sending, egress: &mut impl Egress) {
        for (slot, rest) in self.epochs.edges(sending.label) {
            if let Some(output) = self.outputs[slot as usize].as_mut()
                && output.port != from
            {
                sending.send(output, rest, egress);
            }
        }
    }

    /// Sends what is kept to an output that has just joined, where the stream is at its start.
    pub(super) fn replay(&mut self, now: Instant, port: PortId, egress: &mut impl Egress) -> u32 {
        let Some(slot) = self.outputs.iter().position(|output| output.as_ref().is_some_and(|o| o.port == port)) else {
            return 0;
        };
        let Some(output) = self.outputs[slot].as_mut().filter(|_| self.history.is_whole()) else { return 0 };
        // Packets that came before the output was there carry labels by which they would not leave on it.
        let newest = self.epochs.newest();
        let mut total = 0;
        for kept in self.history.lately(now, self.service.deadline).filter(|kept| kept.from != port) {
            let delivery = kept.delivery(now);
            let slack = self.service.deadline.saturating_sub(delivery.age);
            let label = self.stamp.unwrap_or(delivery.label);
            let label = newest.map_or(label, |epoch| label::label(epoch, label::modules(label)));
            let rest = if output.local { Some(Rest::default()) } else { self.epochs.rest_of(label, slot as u32) };
            let Some(rest) = rest.filter(|_| !slack.is_zero()) else { continue };
            let mut sending = Sending::new(now, slack, self.service.target, label, delivery);
            sending.send(output, rest, egress);
            kept.note_left(sending.left);
            total += sending.sent;
            self.counters.forwarded_bytes += sending.bytes();
        }
        self.counters.forwarded += u64::from(total);
        total
    }

    /// Tells of packets that did not come by `port` below whether they were here in time, and were to leave there.
    pub(super) fn trace(&self, port: PortId, numbers: &BTreeSet<u32>) -> Trace {
        let mut trace = Trace::default();
        let slot = self.outputs.iter().position(|output| output.as_ref().is_some_and(|output| output.port == port));
        let local = slot.and_then(|slot| self.outputs[slot].as_ref()).is_some_and(|output| output.local);
        // To a sink everything leaves.
        let kept = self.history.iter().filter(|kept| !local && numbers.contains(&kept.seq.0));
        let labels: BTreeMap<u32, Label> = kept.map(|kept| (kept.seq.0, kept.label)).collect();
        let was_to_leave = |seq: &u32| match (labels.get(seq), slot) {
            _ if local => true,
            (Some(label), Some(slot)) => self.epochs.rest_of(*label, slot as u32).is_some(),
            _ => false,
        };
        for seq in numbers {
            let number = StreamSeq(*seq);
            let to = match self.seen.knows(number) {
                Some(false) => &mut trace.absent,
                Some(true) if self.late.contains(&number) => &mut trace.absent,
                Some(true) if was_to_leave(seq) => &mut trace.had,
                _ => &mut trace.unknown,
            };
            to.insert(*seq);
        }
        trace
    }

    // Configuration: the slow path.

    pub(super) fn set_may_go_first(&mut self, may: bool) {
        self.may_go_first = may;
    }

    pub(super) fn set_service(&mut self, service: Service) {
        self.service = service;
    }

    pub(super) fn set_stamp(&mut self, label: Label) {
        self.stamp = Some(label);
    }

    pub(super) fn stamp(&self) -> Option<Label> {
        self.stamp
    }

    pub(super) fn police(&self) -> Option<Police> {
        self.police
    }

    pub(super) fn set_police(&mut self, police: Option<Police>) {
        self.police = police;
    }

    pub(super) fn expect(&mut self, is_expected: impl Fn(PortId) -> bool) {
        for input in self.inputs.iter_mut().flatten() {
            input.expected = input.source || is_expected(input.port);
        }
    }

    pub(super) fn add_input(&mut self, mut input: Input) -> u32 {
        // A source is the only way to its relay.
        if !input.source {
            let in_use = |port| self.inputs.iter().flatten().any(|input| input.port == port);
            input.way = self.came.way(input.port, in_use);
        }
        place(&mut self.inputs, input)
    }

    pub(super) fn remove_input(&mut self, slot: u32) {
        if let Some(slot) = self.inputs.get_mut(slot as usize) {
            *slot = None;
        }
    }

    pub(super) fn inputs(&self) -> impl Iterator<Item = &Input> {
        self.inputs.iter().flatten()
    }

    pub(super) fn outputs(&self) -> impl Iterator<Item = &Output> {
        self.outputs.iter().flatten()
    }

    pub(super) fn locals(&self) -> usize {
        self.locals.len()
    }

    pub(super) fn output(&self, port: PortId) -> Option<&Output> {
        self.outputs().find(|output| output.port == port)
    }

    pub(super) fn add_output(&mut self, mut output: Output) {
        let local = output.local;
        if !local {
            let mut taken = Ways::default();
            self.outputs().for_each(|output| taken.add(output.way));
            output.way = taken.free();
            self.history.forget_way(output.way);
        }
        let slot = place(&mut self.outputs, output);
        if local {
            self.locals.push(slot);
        }
    }

    /// Takes an output away, from every epoch too.
    pub(super) fn remove_output(&mut self, port: PortId) -> Option<Output> {
        let slot = self.outputs.iter().position(|output| output.as_ref().is_some_and(|o| o.port == port))?;
        self.locals.retain(|local| *local as usize != slot);
        self.interests.retain(|interest| !interest.is_of(slot as u32));
        self.epochs.remove_output(slot as u32);
        self.outputs[slot].take()
    }

    /// Installs an epoch or replaces it; hops over ports that are no output are left out. Too old a one is ignored.
    pub(super) fn install(&mut self, number: u16, modules: &[Vec<Hop>]) {
        let slot_of =
            |port: PortId| self.outputs.iter().position(|output| output.as_ref().is_some_and(|o| o.port == port));
        self.epochs.install(number, modules, |port| slot_of(port).map(|slot| slot as u32));
    }
}

impl InputCounters {
    #[inline]
    fn note(&mut self, delivery: &Delivery) {
        self.received += 1;
        match delivery.recovery {
            Recovery::None => {}
            Recovery::Arq => self.recovered_by_arq += 1,
            Recovery::Fec => self.recovered_by_fec += 1,
        }
    }
}

fn place<T>(slots: &mut Vec<Option<T>>, value: T) -> u32 {
    let at = slots.iter().position(Option::is_none).unwrap_or_else(|| {
        slots.push(None);
        slots.len() - 1
    });
    slots[at] = Some(value);
    at as u32
}
