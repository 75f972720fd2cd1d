//! Which hop lost what a sink missed. Each relay knows for a while what it had of a stream, so a question that travels against the
//! direction of the media finds the last relay on the way that had a packet: it was lost on the hop from there.

use super::carried::StreamId;
use super::line::HERE;
use super::{Kind, RelaySystem};
use crate::sla::LossHop;
use link::{Instant, StreamHandle};
use node::control::{Control, Lost, NAMED_LINKS, RECEIPTS, Receipt, Whence};
use node::trust::Role;
use node::{PortId, Ports};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use topology::{LinkEnd, NodeName};

/// Most questions open at a relay; what else is missed is counted as unknown.
const MOST_QUESTIONS: usize = 256;

/// Of these, most that are open for one neighbour or sink.
const MOST_OF_ONE: usize = MOST_QUESTIONS / 4;

/// Most numbers in one question.
const MOST_NUMBERS: usize = 4096;

/// How far a question travels at most, in hops.
const MOST_HOPS: u8 = 12;

/// A question that is not answered within this time is not any more.
const PATIENCE: Duration = Duration::from_secs(10);

/// Answers kept for each stream: other sinks mostly miss the same.
pub(super) const MOST_ANSWERS: usize = 4096;

/// A question to the relay above.
#[derive(Debug)]
pub(super) struct Question {
    at: Instant,
    /// Where it was asked.
    port: PortId,
    stream: StreamId,
    open: BTreeSet<u32>,
    asker: Asker,
}

/// Who wants to know.
#[derive(Clone, Debug)]
enum Asker {
    Sink(NodeName, PortId),
    Relay {
        port: PortId,
        link: LinkEnd,
        id: u32,
        hops: u8,
    },
    /// The line test that ends here.
    Test(NodeName),
}

impl Asker {
    /// Whether it is on the same account: all links of a relay are on one. What this relay asks itself is on none.
    fn is_one_with(&self, other: &Asker) -> bool {
        match (self, other) {
            (Asker::Sink(_, port), Asker::Sink(_, other)) => port == other,
            (Asker::Relay { link, .. }, Asker::Relay { link: other, .. }) => link.relay == other.relay,
            _ => false,
        }
    }
}

impl RelaySystem {
    /// A sink says what became of a stream.
    pub(super) fn take_receipt(&mut self, now: Instant, port: PortId, receipt: &Receipt, ports: &mut Ports) {
        let Some(client) = self.ports.get(&port) else { return };
        // After it is no longer watched, one more may come.
        let watched = matches!(&client.kind, Kind::Client(streams) if streams.contains_key(&receipt.name));
        if !watched {
            return;
        }
        let Some(numbers) = numbers(&receipt.missed) else {
            self.refused.protocol += 1;
            return;
        };
        let sink = client.peer.name.clone();
        self.accounts.take(now, &sink, receipt);
        let is_it = |id: &&StreamId| id.name == receipt.name && id.incarnation == receipt.incarnation;
        if let Some(id) = self.carried.keys().find(is_it).cloned() {
            self.trace(now, &id, numbers, Asker::Sink(sink, port), ports);
        }
    }

    /// A relay below asks.
    pub(super) fn asked_whence(&mut self, now: Instant, port: PortId, whence: &Whence, ports: &mut Ports) {
        let (Some(numbers), Some(from)) = (numbers(&whence.missing), self.ports.get(&port)) else {
            self.refused.protocol += 1;
            return;
        };
        let link = from.peer.link_end();
        let asker = Asker::Relay { port, link, id: whence.id, hops: whence.hops.min(MOST_HOPS) };
        let id = self.forward.leaves(port, StreamHandle(whence.handle)).and_then(|key| self.stream_of(key));
        match id {
            Some(id) => self.trace(now, &id, numbers, asker, ports),
            // It was closed meanwhile.
            None => answer(&asker, &numbers, None, ports),
        }
    }

    /// The relay above has found out, or part of it.
    pub(super) fn take_lost(&mut self, now: Instant, port: PortId, lost: &Lost, ports: &mut Ports) {
        let Some(question) = self.questions.get_mut(&lost.id).filter(|question| question.port == port) else { return };
        let Some(told) = numbers(&lost.missing) else {
            self.refused.protocol += 1;
            return;
        };
        let answered: BTreeSet<u32> = question.open.intersection(&told).copied().collect();
        question.open.retain(|seq| !answered.contains(seq));
        let (asker, id, done) = (question.asker.clone(), question.stream.clone(), question.open.is_empty());
        if done {
            self.questions.remove(&lost.id);
        }
        if let (Some(hop), Some(carried)) = (&lost.hop, self.carried.get_mut(&id)) {
            carried.note_lost(&answered, hop);
        }
        self.told(now, &id, &asker, &answered, lost.hop.as_ref(), ports);
    }

    /// Finds out on which hop packets of a line test were lost that ends here.
    pub(super) fn trace_test(&mut self, now: Instant, id: &StreamId, missing: BTreeSet<u32>, ports: &mut Ports) {
        let me = self.directory.me().clone();
        self.trace(now, id, missing, Asker::Test(me), ports);
    }

    /// Finds out on which hop packets were lost that did not reach the asker.
    fn trace(&mut self, now: Instant, id: &StreamId, numbers: BTreeSet<u32>, asker: Asker, ports: &mut Ports) {
        if numbers.is_empty() {
            return;
        }
        let Some(carried) = self.carried.get(id) else { return };
        let me = self.directory.me().clone();
        let (port, to, hops) = match &asker {
            Asker::Sink(name, port) => (*port, name.clone().into(), MOST_HOPS),
            Asker::Relay { port, link, hops, .. } => (*port, link.clone(), *hops),
            Asker::Test(me) => (HERE, me.clone().into(), MOST_HOPS),
        };
        let trace = self.forward.trace(carried.key, port, &numbers);
        let mut known: BTreeMap<&LossHop, BTreeSet<u32>> = BTreeMap::new();
        let mut absent = BTreeSet::new();
        for seq in trace.absent {
            match carried.lost.get(&seq) {
                Some(hop) => drop(known.entry(hop).or_default().insert(seq)),
                None => drop(absent.insert(seq)),
            }
        }
        let known: Vec<(LossHop, BTreeSet<u32>)> = known.into_iter().map(|(hop, seqs)| (hop.clone(), seqs)).collect();
        self.told(now, id, &asker, &trace.had, Some(&(me, to)), ports);
        self.told(now, id, &asker, &trace.unknown, None, ports);
        for (hop, numbers) in known {
            self.told(now, id, &asker, &numbers, Some(&hop), ports);
        }
        if !absent.is_empty() {
            self.ask_above(now, id, absent, asker, hops, ports);
        }
    }

    /// Asks on about packets that never came here.
    fn ask_above(
        &mut self,
        now: Instant,
        id: &StreamId,
        numbers: BTreeSet<u32>,
        asker: Asker,
        hops: u8,
        ports: &mut Ports,
    ) {
        if id.ingress == *self.directory.me() {
            let first = self.first_hop(id);
            self.told(now, id, &asker, &numbers, first.as_ref(), ports);
            return;
        }
        let room = self.questions.len() < MOST_QUESTIONS && self.open_for(&asker) < MOST_OF_ONE;
        let above = self.above(id).filter(|_| hops > 0 && room);
        let Some((port, handle)) = above else {
            self.told(now, id, &asker, &numbers, None, ports);
            return;
        };
        self.next_question = self.next_question.wrapping_add(1);
        let whence = Whence { id: self.next_question, handle: handle.0, missing: runs(&numbers), hops: hops - 1 };
        ports.control(port, Control::Whence(whence));
        let question = Question { at: now, port, stream: id.clone(), open: numbers, asker };
        self.questions.insert(self.next_question, question);
    }

    /// Questions that are open because of what one has asked.
    fn open_for(&self, asker: &Asker) -> usize {
        self.questions.values().filter(|question| question.asker.is_one_with(asker)).count()
    }

    /// The hop from the source of a stream that enters here. What exceeds its rate did come, and is thrown away.
    fn first_hop(&self, id: &StreamId) -> Option<LossHop> {
        let published = self.published.get(&id.name).filter(|published| published.id == *id)?;
        let policed = self.forward.counters(self.carried.get(id)?.key).policed;
        (policed == 0).then(|| (published.publisher.clone(), self.directory.me().clone().into()))
    }

    /// The relay that sends a stream here by the newest graph, or any that does.
    fn above(&self, id: &StreamId) -> Option<(PortId, StreamHandle)> {
        let carried = self.carried.get(id)?;
        let inputs: Vec<(PortId, StreamHandle)> = self.forward.input_handles(carried.key).collect();
        let edges = carried.newest().into_iter().flat_map(|install| &install.modules).flat_map(|module| &module.edges);
        let by_graph = edges.filter(|edge| edge.to.relay == *self.directory.me()).filter_map(|edge| {
            let port = self.relays.get(&edge.at_receiver())?;
            inputs.iter().find(|(at, _)| at == port).copied()
        });
        let is_relay = |(at, _): &(PortId, StreamHandle)| {
            let peer = self.ports.get(at).map(|port| &port.peer);
            peer.is_some_and(|peer| peer.role == Role::Relay && peer.features & RECEIPTS != 0)
        };
        by_graph.chain(inputs.iter().copied()).find(is_relay)
    }

    /// Tells who asked.
    fn told(
        &mut self,
        now: Instant,
        id: &StreamId,
        asker: &Asker,
        numbers: &BTreeSet<u32>,
        hop: Option<&LossHop>,
        ports: &mut Ports,
    ) {
        if numbers.is_empty() {
            return;
        }
        match (asker, hop) {
            (Asker::Sink(sink, _), Some(hop)) => {
                self.accounts.blame(now, &id.name, sink, hop, numbers.len() as u64);
            }
            (Asker::Test(_), Some(hop)) => self.line.blame(id, hop, numbers.len() as u64),
            // What no hop accounts for is unknown.
            (Asker::Sink(..) | Asker::Test(_), None) => {}
            (Asker::Relay { .. }, hop) => answer(asker, numbers, hop, ports),
        }
    }

    pub(super) fn expire_questions(&mut self, now: Instant) {
        self.questions.retain(|_, question| now.saturating_since(question.at) < PATIENCE);
    }
}

/// The numbers of runs; `None` where there are too many.
fn numbers(runs: &[(u32, u16)]) -> Option<BTreeSet<u32>> {
    let count: usize = runs.iter().map(|(_, count)| usize::from(*count)).sum();
    let run = |(first, count): &(u32, u16)| {
        let first = *first;
        (0..u32::from(*count)).map(move |n| first.wrapping_add(n))
    };
    (count <= MOST_NUMBERS && runs.len() <= MOST_NUMBERS).then(|| runs.iter().flat_map(run).collect())
}

fn runs(numbers: &BTreeSet<u32>) -> Vec<(u32, u16)> {
    let mut runs: Vec<(u32, u16)> = Vec::new();
    for seq in numbers {
        match runs.last_mut() {
            Some((first, count)) if first.wrapping_add(u32::from(*count)) == *seq => *count += 1,
            _ => runs.push((*seq, 1)),
        }
    }
    runs
}

fn answer(asker: &Asker, numbers: &BTreeSet<u32>, hop: Option<&LossHop>, ports: &mut Ports) {
    if let Asker::Relay { port, id, .. } = asker {
        let knows_names = ports.peer(*port).is_some_and(|peer| peer.features & NAMED_LINKS != 0);
        let told =
            |(from, to): &LossHop| (from.clone(), if knows_names { to.clone() } else { to.relay.clone().into() });
        ports.control(*port, Control::Lost(Lost { id: *id, missing: runs(numbers), hop: hop.map(told) }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_and_numbers_are_the_same_and_bounded() {
        let all = BTreeSet::from([1, 2, 3, 7, u32::MAX - 1, u32::MAX]);
        assert_eq!(runs(&all), [(1, 3), (7, 1), (u32::MAX - 1, 2)]);
        assert_eq!(numbers(&runs(&all)), Some(all));
        assert_eq!(numbers(&[(u32::MAX, 2)]), Some(BTreeSet::from([0, u32::MAX])));
        assert_eq!(numbers(&[(0, u16::MAX)]), None);
        assert_eq!(numbers(&[(0, 0); MOST_NUMBERS + 1]), None);
    }
}
