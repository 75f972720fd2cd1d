//! What is carried: announcements, graphs, the end of a stream.

use super::carried::{Adopted, Announced, Carried, Installed, StreamId, has_room, hops};
use super::line::HERE;
use super::{Ended, Kind, RelaySystem};
use crate::events::What;
use crate::forward::signal::SIGNAL;
use crate::forward::{StreamKey, label};
use link::{Instant, StreamHandle};
use node::control::{Control, Install, StreamOpen};
use node::{PortId, Ports};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;
use topology::StreamName;

/// A stream that nothing brings here, or that its ingress does not advertise, is kept this long: a link that comes back, or
/// link state that is late, costs its watchers nothing.
const ORPHAN_FOR: Duration = Duration::from_secs(10);

/// The same where both hold: the stream is gone, or has begun another life.
const GONE_FOR: Duration = Duration::from_millis(500);

/// How long the word of a neighbour that a stream has ended waits to be confirmed by its ingress.
const BELIEVED_FOR: Duration = Duration::from_secs(2);

/// How long a stream that ended stays known as such.
const ENDED_FOR: Duration = Duration::from_secs(2);

/// Most of them that are known; of those beyond, what is late may bring one back for a moment.
const MOST_ENDED: usize = 8_192;

/// Most edges in all modules of an installation.
const MAX_EDGES: usize = 8_192;

/// Whether a graph is no larger than any may be.
pub(super) fn is_bounded(install: &Install) -> bool {
    let edges: usize = install.modules.iter().map(|module| module.edges.len()).sum();
    install.modules.len() <= label::MAX_MODULES && edges <= MAX_EDGES
}

impl RelaySystem {
    /// The place of a stream in the forwarder; made where it is new. `None` beyond the bounds. Told of by `from`, or here; `signed` where its
    /// ingress itself says so.
    pub(super) fn carry(
        &mut self,
        now: Instant,
        id: &StreamId,
        announced: Announced,
        (from, signed): (Option<PortId>, bool),
        ports: &mut Ports,
    ) -> Option<StreamKey> {
        if let Some(carried) = self.carried.get_mut(id) {
            // A relay of version 1.1 on the way forgets the mark; nobody but the ingress takes it off.
            carried.sealed = announced.sealed || carried.sealed && !signed;
            if carried.service != announced.service {
                carried.service = announced.service;
                self.forward.set_service(carried.key, carried.service);
            }
            return Some(carried.key);
        }
        let payer = self.charge(id, from, signed)?;
        let key = self.forward.add_stream(announced.service);
        let (stream, incarnation, ingress) = (id.name.clone(), id.incarnation.0, id.ingress.clone());
        self.log.note(now, What::StreamStarted { stream, incarnation, ingress });
        self.carried.insert(id.clone(), Carried::new(now, key, payer, announced));
        self.open_to_sinks(now, &id.name, ports);
        Some(key)
    }

    /// The lives of a stream that sinks here are to have; see [`RelaySystem::gives_way`].
    pub(super) fn lives_of(&self, now: Instant, name: &StreamName) -> Vec<StreamId> {
        let of_name = self.carried.iter().filter(|(id, _)| id.name == *name);
        of_name.filter(|(id, carried)| !self.gives_way(now, id, carried)).map(|(id, _)| id.clone()).collect()
    }

    /// Whether what is said to enter elsewhere is nobody's. A name belongs to who has it: while one relay says that a life enters there and it does
    /// come here, another life gives way (an honest relay refuses to publish it), and so does the same life, as long as it flows from there: a source that
    /// has moved publishes at one relay at a time. And where the ingress advertises one life that does come here, another of the same ingress that it
    /// has signed nothing of is a neighbour's invention.
    fn gives_way(&self, now: Instant, id: &StreamId, carried: &Carried) -> bool {
        if id.ingress != *self.name() && carried.newest().is_none() && self.has_genuine_life(id) {
            return true;
        }
        let elsewhere = self.carried.iter().filter(|(elder, _)| elder.name == id.name && elder.ingress != id.ingress);
        let mut elders = elsewhere.filter(|(_, known)| known.since < carried.since);
        elders.any(|(elder, known)| {
            let comes = match elder.incarnation == id.incarnation {
                true => self.forward.newest_from(known.key, now).is_some(),
                false => known.orphan_since.is_none(),
            };
            comes && self.directory.holds(&elder.ingress, &elder.name, elder.incarnation)
        })
    }

    /// Whether the ingress advertises another life of a stream than this one, and that one is carried here.
    fn has_genuine_life(&self, id: &StreamId) -> bool {
        let advertised = self.directory.advertised(&id.ingress, &id.name).filter(|life| *life != id.incarnation);
        let genuine = advertised.and_then(|incarnation| self.carried.get(&StreamId { incarnation, ..id.clone() }));
        genuine.is_some_and(|carried| carried.orphan_since.is_none())
    }

    /// Takes from sinks what gives way again: its elder was silent for a while, and is back.
    fn take_back(&mut self, now: Instant, name: &StreamName, ports: &mut Ports) {
        let of_name = self.carried.iter().filter(|(id, _)| id.name == *name);
        let back = of_name.filter(|(id, carried)| self.gives_way(now, id, carried)).map(|(_, carried)| carried.key);
        for key in back.collect::<Vec<_>>() {
            let local = self.forward.outputs(key).filter(|(port, local, _)| *local && *port != HERE);
            for port in local.map(|(port, ..)| port).collect::<Vec<_>>() {
                if let Some(handle) = self.forward.close_output(now, key, port) {
                    ports.control(port, Control::StreamClose { handle: handle.0, ended: false });
                }
            }
        }
    }

    fn open_to_sinks(&mut self, now: Instant, name: &StreamName, ports: &mut Ports) {
        let sinks: Vec<PortId> = self.wanted.get(name).into_iter().flat_map(|w| &w.sinks).copied().collect();
        if sinks.is_empty() {
            return;
        }
        for id in self.lives_of(now, name) {
            for sink in &sinks {
                self.open_to(now, &id, *sink, true, ports);
            }
        }
    }

    /// Lets a stream leave by `port`, and announces it there where it did not.
    pub(super) fn open_to(&mut self, now: Instant, id: &StreamId, port: PortId, local: bool, ports: &mut Ports) {
        let Some(carried) = self.carried.get(id) else { return };
        if self.forward.output(carried.key, port).is_some() {
            return;
        }
        let Some(handle) = self.forward.open_output(now, carried.key, port, local) else {
            self.refused.subscribe += 1;
            return;
        };
        let open = StreamOpen {
            handle: handle.0,
            name: id.name.clone(),
            incarnation: id.incarnation,
            ingress: id.ingress.clone(),
            deadline_us: carried.deadline_us(),
            content: carried.content,
            sealed: carried.sealed,
            target_ppb: carried.target_ppb(),
        };
        self.fresh.push((carried.key, port));
        if port == HERE {
            self.line.opened(id, handle);
            return;
        }
        self.announce(now, port, Control::StreamOpen(open), ports);
    }

    pub(super) fn stream_open(&mut self, now: Instant, port: PortId, open: StreamOpen, ports: &mut Ports) {
        let id = StreamId::from(&open);
        let stray = id.ingress == *self.name() && !self.carried.contains_key(&id);
        if stray
            || open.handle == SIGNAL.0
            || self.has_ended(&id)
            || self.forward.inputs_at(port) >= self.options.limits.max_streams
        {
            return;
        }
        // What its ingress has signed stands, whatever a neighbour says.
        let signed = self.carried.get(&id).and_then(Carried::newest).map(|install| Announced::from(&***install));
        let announced = signed.unwrap_or_else(|| Announced::from(&open));
        let Some(key) = self.carry(now, &id, announced, (Some(port), false), ports) else { return };
        let handle = StreamHandle(open.handle);
        if self.forward.input(port, handle) == Some(key) {
            return;
        }
        self.forward.open_input(key, port, handle);
        self.expect_inputs(&id);
        // What follows leaves by these outputs of itself.
        self.replay_to_fresh(now, ports);
        let Some(Kind::Relay(neighbour)) = self.ports.get_mut(&port).map(|port| &mut port.kind) else { return };
        self.refused.unknown_handle += neighbour.held.expire(now);
        for delivery in neighbour.held.release(now, handle) {
            // The handle was just opened: the packet cannot come back.
            let _ = self.forward.forward(now, port, delivery, &mut self.line.tap(ports));
        }
    }

    pub(super) fn stream_close(&mut self, now: Instant, port: PortId, handle: u16, ended: bool, ports: &mut Ports) {
        if let Some(Kind::Relay(neighbour)) = self.ports.get_mut(&port).map(|port| &mut port.kind) {
            neighbour.note_closed(now, handle);
        }
        let Some(key) = self.forward.close_input(port, StreamHandle(handle)) else { return };
        if !ended {
            self.mark_orphans(now, Some(&[key]));
            return;
        }
        let Some(id) = self.stream_of(key).filter(|id| id.ingress != *self.name()) else { return };
        if !self.directory.advertises(&id.ingress, &id.name, id.incarnation) {
            self.finish(now, &id, true, ports);
        } else if let Some(carried) = self.carried.get_mut(&id) {
            // One neighbour's word against that of the ingress, whose own follows within moments where it is true.
            carried.said_to_end = Some(now);
            self.mark_orphans(now, Some(&[key]));
        }
    }

    /// Streams whose end is confirmed: their ingress does not speak of them any more.
    fn ended_by_all(&self, now: Instant) -> Vec<StreamId> {
        let is_over = |(id, carried): &(&StreamId, &Carried)| {
            carried.said_to_end.is_some_and(|said| now.saturating_since(said) < BELIEVED_FOR)
                && !self.directory.advertises(&id.ingress, &id.name, id.incarnation)
        };
        self.carried.iter().filter(is_over).map(|(id, _)| id.clone()).collect()
    }

    /// Lets a stream go, and says so to all it went to.
    pub(super) fn finish(&mut self, now: Instant, id: &StreamId, ended: bool, ports: &mut Ports) {
        let Some(carried) = self.carried.remove(id) else { return };
        self.shares.give_back(&carried.payer);
        let (stream, incarnation) = (id.name.clone(), id.incarnation.0);
        self.log.note(now, What::StreamEnded { stream, incarnation, ended });
        for (port, handle) in self.forward.remove_stream(now, carried.key) {
            ports.control(port, Control::StreamClose { handle: handle.0, ended });
        }
        let last = carried.newest().map(|install| (install.boot, install.epoch));
        if ended && self.ended.len() < MOST_ENDED {
            self.ended.insert(id.clone(), Ended { at: now, last });
        }
        // Without a graph it asked nothing of links.
        self.admission_stale |= last.is_some();
        self.open_to_sinks(now, &id.name, ports);
    }

    fn has_ended(&self, id: &StreamId) -> bool {
        self.ended.contains_key(id)
    }

    /// A graph computed after the end of a stream: it is published again.
    fn revive(&mut self, id: &StreamId, boot: u64, epoch: u16) {
        let newer = |last: Option<(u64, u16)>| {
            last.is_some_and(|(known, last)| boot > known || (boot == known && label::later(epoch, last)))
        };
        if self.ended.get(id).is_some_and(|ended| newer(ended.last)) {
            self.ended.remove(id);
        }
    }

    /// Takes a graph in, from a neighbour or (`None`) of this relay's own making; passes it on along its own edges
    /// and along those it replaces, so that those who are left out hear of it too.
    pub(super) fn install(&mut self, now: Instant, from: Option<PortId>, install: Installed, ports: &mut Ports) {
        let id = StreamId::from(&*install);
        if !is_bounded(&install) {
            self.refused.protocol += 1;
            return;
        }
        if from.is_some() && !self.can_keep(&install) {
            self.refused.graphs += 1;
            return;
        }
        self.revive(&id, install.boot, install.epoch);
        if from.is_some() && (id.ingress == *self.name() || self.has_ended(&id)) {
            return;
        }
        let Some(key) = self.carry(now, &id, Announced::from(&*install), (from, true), ports) else { return };
        let Some(carried) = self.carried.get_mut(&id) else { return };
        let install = Rc::new(install);
        match carried.adopt(now, install.clone()) {
            Adopted::Old => return,
            Adopted::New => {}
            Adopted::NewBoot => {
                for epoch in self.forward.epochs(key) {
                    self.forward.retire(key, epoch);
                }
            }
        }
        self.admission_stale = true;
        // A life that nobody had vouched for until now.
        self.open_to_sinks(now, &id.name, ports);
        for port in self.below(&id) {
            if Some(port) != from {
                self.announce(now, port, (*install.message).clone(), ports);
            }
            self.open_to(now, &id, port, false, ports);
        }
        self.forward.install(key, install.epoch, &hops(&install, self.directory.me(), &self.relays));
        self.expect_inputs(&id);
        self.mark_orphans(now, Some(&[key]));
    }

    /// Tells whose packets of a stream count: those of the relays that its graphs lead here from; without a graph, of all.
    fn expect_inputs(&mut self, id: &StreamId) {
        let Some(carried) = self.carried.get(id) else { return };
        let above = carried.links_above(self.directory.me());
        let ports: BTreeSet<PortId> = above.filter_map(|link| self.relays.get(&link).copied()).collect();
        let is_known = carried.newest().is_some();
        self.forward.expect(carried.key, |port| !is_known || ports.contains(&port));
    }

    /// Whether there is room for a graph of others.
    fn can_keep(&self, install: &Installed) -> bool {
        let sizes = |carried: &Carried| carried.graphs().map(|graph| graph.bytes()).sum::<usize>();
        let kept = self.carried.iter().map(|(id, carried)| (&id.ingress, sizes(carried)));
        has_room(kept, &install.ingress, install.bytes())
    }

    /// The links below in any graph kept, of those that stand.
    fn below(&self, id: &StreamId) -> Vec<PortId> {
        let Some(carried) = self.carried.get(id) else { return Vec::new() };
        let next = carried.next_links(self.directory.me());
        next.into_iter().filter_map(|link| self.relays.get(link).copied()).collect()
    }

    /// Notes which streams (of those given, or all) nothing brings here, or their ingress does not know.
    pub(super) fn mark_orphans(&mut self, now: Instant, keys: Option<&[StreamKey]>) {
        for (id, carried) in &mut self.carried {
            if keys.is_some_and(|keys| !keys.contains(&carried.key)) || id.ingress == *self.directory.me() {
                continue;
            }
            let brought = self.forward.inputs(carried.key).next().is_some();
            if brought && self.directory.may_publish(&id.ingress, &id.name, id.incarnation) {
                carried.orphan_since = None;
            } else {
                carried.orphan_since.get_or_insert(now);
            }
        }
    }

    /// Lets go what has had its time: streams that ended or lost their way, epochs that were replaced, wishes that
    /// nobody has any more.
    pub(super) fn let_go(&mut self, now: Instant, ports: &mut Ports) {
        self.mark_orphans(now, None);
        self.settle_shares(now);
        self.ended.retain(|_, ended| now.saturating_since(ended.at) < ENDED_FOR);
        self.let_go_of_published(now);
        let (due, later) = std::mem::take(&mut self.closing).into_iter().partition(|(at, ..)| *at <= now);
        self.closing = later;
        let due: Vec<(Instant, StreamId, bool)> = due;
        for (_, id, ended) in due {
            self.finish(now, &id, ended, ports);
        }
        for id in self.ended_by_all(now) {
            self.finish(now, &id, true, ports);
        }
        let lost = |(id, carried): (&StreamId, &Carried)| {
            let orphan_for = now.saturating_since(carried.orphan_since?);
            let gone = self.forward.inputs(carried.key).next().is_none()
                && !self.directory.may_publish(&id.ingress, &id.name, id.incarnation);
            (orphan_for > if gone { GONE_FOR } else { ORPHAN_FOR }).then(|| id.clone())
        };
        let orphans: Vec<StreamId> = self.carried.iter().filter_map(lost).collect();
        for id in orphans {
            self.finish(now, &id, false, ports);
        }
        // Of several lives of a name, one may have given way until now.
        let next = self.carried.keys().skip(1);
        let again = self.carried.keys().zip(next).filter(|(id, next)| id.name == next.name);
        let mut names: Vec<StreamName> = again.map(|(id, _)| id.name.clone()).collect();
        names.dedup();
        for name in names {
            self.take_back(now, &name, ports);
            self.open_to_sinks(now, &name, ports);
        }
        self.retire_epochs(now, ports);
        self.let_go_of_wishes(now);
    }

    /// Forgets epochs that were replaced, and closes the outputs that only they had.
    fn retire_epochs(&mut self, now: Instant, ports: &mut Ports) {
        for carried in self.carried.values_mut() {
            for epoch in carried.retire(now) {
                self.forward.retire(carried.key, epoch);
            }
            if !carried.take_untidy() {
                continue;
            }
            let below: Vec<PortId> = carried
                .next_links(self.directory.me())
                .into_iter()
                .filter_map(|link| self.relays.get(link).copied())
                .collect();
            let outputs: Vec<PortId> = self
                .forward
                .outputs(carried.key)
                .filter(|(port, local, _)| !local && !below.contains(port))
                .map(|(port, ..)| port)
                .collect();
            for port in outputs {
                if let Some(handle) = self.forward.close_output(now, carried.key, port) {
                    ports.control(port, Control::StreamClose { handle: handle.0, ended: false });
                }
            }
        }
    }
}
