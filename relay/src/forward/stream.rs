//! One stream at this relay: what has been seen of it, where it goes, what was counted.

use super::health::Health;
use super::history::{History, Ways};
use super::label::{self, MAX_MODULES};
use super::lack::Lack;
use super::police::Police;
use super::pull::Interest;
use super::rescue::{Came, Rescue};
use super::window::{Seen, Window};
use super::{Egress, Verdict};
use crate::report::{InputCounters, OutputCounters, StreamCounters};
use link::{Delivery, Instant, Label, Packet, Recovery, Residual, SendError, StreamHandle, StreamSeq};
use node::PortId;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// Epochs a relay remembers.
pub const EPOCHS: usize = 4;

/// Bare transit of what remains of the way beyond the next hop, the last mile included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rest {
    /// To the nearest egress below, in microseconds.
    pub min_us: u32,
    /// To the farthest.
    pub max_us: u32,
}

/// One out-edge of a module at this relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The port towards the next relay; an output of the stream.
    pub port: PortId,
    /// What remains beyond it.
    pub rest: Rest,
}

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
    /// Oldest first; never more than [`EPOCHS`].
    pub(super) epochs: Vec<Epoch>,
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
}

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
    pub(super) counters: InputCounters,
}

impl Input {
    pub(super) fn new(port: PortId, handle: StreamHandle, source: bool) -> Input {
        Input { port, handle, source, way: u32::MAX, counters: InputCounters::default() }
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
    fn note(&mut self) {
        self.0 = (self.0 + 1).min(Self::EACH * Self::MOST);
    }

    pub(super) fn take(&mut self) -> bool {
        let left = self.0.checked_sub(Self::EACH);
        self.0 = left.unwrap_or(self.0);
        left.is_some()
    }
}

#[derive(Debug)]
pub(super) struct Epoch {
    number: u16,
    modules: usize,
    branches: Vec<Branch>,
    /// `rests[branch * modules + module]`.
    rests: Vec<Rest>,
}

/// One output with the modules it belongs to.
#[derive(Debug)]
struct Branch {
    output: u32,
    modules: u16,
}

impl Stream {
    pub(super) fn new(service: Service) -> Stream {
        Stream {
            service,
            seen: Window::new(),
            epochs: Vec::with_capacity(EPOCHS + 1),
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
        let Some(epoch) = epoch_for(&self.epochs, sending.label) else { return };
        let modules = epoch.known(label::modules(sending.label));
        for (at, branch) in epoch.branches.iter().enumerate() {
            let shared = branch.modules & modules;
            if shared == 0 {
                continue;
            }
            if let Some(output) = self.outputs[branch.output as usize].as_mut()
                && output.port != from
            {
                sending.send(output, epoch.rest(at, shared), egress);
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
        let newest = self.epochs.last().map(|epoch| epoch.number);
        let mut total = 0;
        for kept in self.history.lately(now, self.service.deadline).filter(|kept| kept.from != port) {
            let delivery = kept.delivery(now);
            let slack = self.service.deadline.saturating_sub(delivery.age);
            let label = self.stamp.unwrap_or(delivery.label);
            let label = newest.map_or(label, |epoch| label::label(epoch, label::modules(label)));
            let rest = if output.local { Some(Rest::default()) } else { rest_of(&self.epochs, label, slot as u32) };
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
        let kept = self.history.iter().filter(|kept| numbers.contains(&kept.seq.0));
        let labels: BTreeMap<u32, Label> = kept.map(|kept| (kept.seq.0, kept.label)).collect();
        let was_to_leave = |seq: &u32| match (labels.get(seq), slot) {
            _ if local => true,
            (Some(label), Some(slot)) => rest_of(&self.epochs, *label, slot as u32).is_some(),
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

    pub(super) fn set_police(&mut self, police: Option<Police>) {
        self.police = police;
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
        for epoch in &mut self.epochs {
            epoch.remove(slot as u32);
        }
        self.outputs[slot].take()
    }

    /// Installs an epoch or replaces it; hops over ports that are no output are left out. Too old a one is ignored.
    pub(super) fn install(&mut self, number: u16, modules: &[Vec<Hop>]) {
        let epoch = self.epoch_of(number, modules);
        if let Some(same) = self.epochs.iter_mut().find(|epoch| epoch.number == number) {
            *same = epoch;
            return;
        }
        let at = self.epochs.iter().position(|other| label::later(other.number, number)).unwrap_or(self.epochs.len());
        self.epochs.insert(at, epoch);
        if self.epochs.len() > EPOCHS {
            self.epochs.remove(0);
        }
    }

    /// Forgets an epoch.
    pub(super) fn retire(&mut self, number: u16) {
        self.epochs.retain(|epoch| epoch.number != number);
    }

    /// The epochs known, oldest first.
    pub(super) fn epochs(&self) -> impl Iterator<Item = u16> {
        self.epochs.iter().map(|epoch| epoch.number)
    }

    fn epoch_of(&self, number: u16, modules: &[Vec<Hop>]) -> Epoch {
        let count = modules.len().min(MAX_MODULES);
        let mut epoch = Epoch { number, modules: count, branches: Vec::new(), rests: Vec::new() };
        for (module, hop) in modules[..count].iter().enumerate().flat_map(|(i, hops)| hops.iter().map(move |h| (i, h)))
        {
            let slot = self.outputs.iter().position(|output| output.as_ref().is_some_and(|o| o.port == hop.port));
            if let Some(slot) = slot {
                epoch.add(slot as u32, module, hop.rest);
            }
        }
        epoch
    }
}

/// A packet on its way out.
pub(super) struct Sending {
    pub(super) now: Instant,
    pub(super) slack: Duration,
    target: Option<Residual>,
    pub(super) label: Label,
    pub(super) delivery: Delivery,
    pub(super) sent: u32,
    /// The ways by which it has left.
    pub(super) left: Ways,
}

impl Sending {
    #[inline]
    pub(super) fn new(
        now: Instant,
        slack: Duration,
        target: Option<Residual>,
        label: Label,
        delivery: Delivery,
    ) -> Sending {
        Sending { now, slack, target, label, delivery, sent: 0, left: Ways::default() }
    }

    /// Payload bytes that have left, all copies together.
    #[inline]
    pub(super) fn bytes(&self) -> u64 {
        u64::from(self.sent) * self.delivery.payload.len() as u64
    }

    /// Sends one copy. The hop may spend what the packet has left less the bare transit of the farthest rest of its
    /// way; where that is past, of the nearest; where that is past too, all that is left: a one-way delay is half of a round trip that may
    /// just have been measured, so only zero is a bound, and what may still be in time is not dropped.
    #[inline]
    pub(super) fn send(&mut self, output: &mut Output, rest: Rest, egress: &mut impl Egress) {
        for rest_us in [rest.max_us, rest.min_us, 0] {
            let Some(hop) = self.slack.checked_sub(Duration::from_micros(u64::from(rest_us))) else { continue };
            match egress.send(self.now, output.port, self.packet(output.handle, hop)) {
                Ok(()) => {
                    self.sent += 1;
                    self.left.add(output.way);
                    output.again.note();
                    output.counters.forwarded += 1;
                    output.counters.forwarded_bytes += self.delivery.payload.len() as u64;
                    return;
                }
                Err(SendError::TooLate) => {}
                Err(SendError::QueueFull) => {
                    output.counters.queue_full += 1;
                    return;
                }
                Err(SendError::TooLarge { .. }) => {
                    output.counters.too_large += 1;
                    return;
                }
            }
        }
        output.counters.late += 1;
    }

    #[inline]
    fn packet(&self, handle: StreamHandle, hop: Duration) -> Packet {
        Packet {
            stream: handle,
            seq: self.delivery.seq,
            media_time: self.delivery.media_time,
            age: self.delivery.age,
            label: self.label,
            flags: self.delivery.flags,
            payload: self.delivery.payload.clone(),
            recover_until: self.now + hop,
            target: self.target,
        }
    }
}

impl Epoch {
    /// The modules of `wanted` that this epoch has; its first one where it has none of them.
    #[inline]
    fn known(&self, wanted: u16) -> u16 {
        let all = u16::MAX.checked_shr(16 - self.modules as u32).unwrap_or(0);
        if wanted & all == 0 { 1 } else { wanted & all }
    }

    /// The rest of the way beyond a branch over all `modules`, of which there is at least one.
    #[inline]
    fn rest(&self, branch: usize, mut modules: u16) -> Rest {
        let mut out = Rest { min_us: u32::MAX, max_us: 0 };
        while modules != 0 {
            let rest = self.rests[branch * self.modules + modules.trailing_zeros() as usize];
            out.min_us = out.min_us.min(rest.min_us);
            out.max_us = out.max_us.max(rest.max_us);
            modules &= modules - 1;
        }
        out
    }

    fn add(&mut self, output: u32, module: usize, rest: Rest) {
        let at = self.branches.iter().position(|branch| branch.output == output).unwrap_or_else(|| {
            self.branches.push(Branch { output, modules: 0 });
            self.rests.resize(self.branches.len() * self.modules, Rest::default());
            self.branches.len() - 1
        });
        self.branches[at].modules |= 1 << module;
        self.rests[at * self.modules + module] = rest;
    }

    fn remove(&mut self, output: u32) {
        if let Some(at) = self.branches.iter().position(|branch| branch.output == output) {
            self.branches.remove(at);
            self.rests.drain(at * self.modules..(at + 1) * self.modules);
        }
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

/// The epoch that a label names; the newest, where that is not known.
#[inline]
fn epoch_for(epochs: &[Epoch], label: Label) -> Option<&Epoch> {
    let wanted = label::epoch(label);
    epochs.iter().rev().find(|epoch| epoch.number == wanted).or(epochs.last())
}

/// The rest of the way beyond an output on which a packet of this label leaves; `None` where it does not.
pub(super) fn rest_of(epochs: &[Epoch], label: Label, output: u32) -> Option<Rest> {
    let epoch = epoch_for(epochs, label)?;
    let at = epoch.branches.iter().position(|branch| branch.output == output)?;
    let shared = epoch.branches[at].modules & epoch.known(label::modules(label));
    (shared != 0).then(|| epoch.rest(at, shared))
}

/// The rest of the way beyond an output by whatever module of the newest epoch that has it; nothing, where none does.
pub(super) fn rest_below(epochs: &[Epoch], output: u32) -> Rest {
    let found = epochs.iter().rev().find_map(|epoch| {
        let at = epoch.branches.iter().position(|branch| branch.output == output)?;
        Some(epoch.rest(at, epoch.branches[at].modules))
    });
    found.unwrap_or_default()
}

fn place<T>(slots: &mut Vec<Option<T>>, value: T) -> u32 {
    let at = slots.iter().position(Option::is_none).unwrap_or_else(|| {
        slots.push(None);
        slots.len() - 1
    });
    slots[at] = Some(value);
    at as u32
}
