//! Sources and sinks: rights, names, bounds; the plans of the streams that enter here.

use super::carried::{Announced, Installed, MAX_DEADLINE_US, StreamId};
use super::line::HERE;
use super::plan::{Choice, Plan};
use super::rights::Right;
use super::{Kind, Port, RelaySystem, refusal};
use crate::directory::Asked;
use crate::directory::own::delay_moved;
use crate::events::What;
use crate::forward::police::Police;
use crate::forward::{StreamKey, label};
use link::{Bitrate, Instant, StreamHandle};
use node::control::{CloseCode, Control, Dissemination, Install, Publish, Refusal, Reserve, Wants};
use node::trust::Direction;
use node::{Peer, PortId, Ports};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use topology::lsdb::{Incarnation, StreamState};
use topology::terms::{Full, Need};
use topology::{LinkEnd, NodeName, StreamName};

/// Shortest deadline of a stream, in microseconds.
const MIN_DEADLINE_US: u32 = 1_000;

/// A stream that ended goes on this much longer than its deadline, for its last packets.
const LAST_PACKETS: Duration = Duration::from_millis(100);

/// A wish that nobody has any more is kept this long: a sink that restarts finds its stream at once.
const WISH_FOR: Duration = Duration::from_secs(2);

/// What the last mile is taken for until it is measured, in microseconds.
const LAST_MILE_US: u32 = 5_000;

/// A stream that enters the overlay here.
#[derive(Debug)]
pub(super) struct Published {
    pub(super) id: StreamId,
    pub(super) publisher: NodeName,
    pub(super) mode: Dissemination,
    /// Where its source is; `None` while it is away.
    port: Option<PortId>,
    gone_since: Option<Instant>,
    /// Unpublished: let go at that time.
    ending: Option<Instant>,
    pub(super) plan: Plan,
    /// How long packets take from the source to here, in microseconds.
    first_mile_us: u32,
    /// What its source was told of the way from here on, in microseconds.
    told_rest_us: u32,
    /// The token that allows it, by its id.
    pub(super) token: String,
    /// What it needs of each link.
    pub(super) need: Need,
    /// What its source asks for.
    pub(super) wants: Wants,
    /// Egresses that it is not carried to for want of room, each with a link that has none.
    pub(super) unserved: Vec<(NodeName, Full)>,
    /// Why its graphs are not what delays alone would make them.
    pub(super) why: Vec<String>,
}

impl Published {
    /// Whether it is not carried to an egress for want of room.
    pub(super) fn lacks(&self, egress: &NodeName) -> bool {
        self.unserved.iter().any(|(known, _)| known == egress)
    }

    /// Whether its source has ended it, or been away for longer than `grace`.
    fn is_over(&self, now: Instant, grace: Duration) -> bool {
        let gone = self.gone_since.is_some_and(|since| now.saturating_since(since) > grace);
        self.ending.map_or(gone, |at| at <= now)
    }
}

/// A stream that is wanted here.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    pub(super) sinks: BTreeSet<PortId>,
    /// The token by which it was asked for first.
    pub(super) token: String,
    unwanted_since: Option<Instant>,
    /// The link that is too full for it, as sinks were told.
    pub(super) full: Option<(NodeName, LinkEnd)>,
}

impl RelaySystem {
    pub(super) fn open_client(&mut self, now: Instant, port: PortId, peer: Peer, ports: &mut Ports) {
        if self.draining {
            ports.close(port, CloseCode::Stopping, "this relay is stopping");
        } else if let Err(reason) = self.check_client_share(&peer) {
            self.refused.clients += 1;
            ports.close(port, CloseCode::Overload, &reason);
        } else {
            self.note_connected(now, &peer);
            self.ports.insert(port, Port { peer, opened: now, kind: Kind::Client(BTreeMap::new()) });
        }
    }

    pub(super) fn publish(&mut self, now: Instant, port: PortId, publish: Publish, ports: &mut Ports) {
        let name = publish.name.clone();
        let answer = match self.try_publish(now, port, publish, ports) {
            Ok(handle) => {
                self.note_asked(Direction::Publish, None);
                ports.control(port, Control::Published { name: name.clone(), handle });
                // Known where its graphs stand from before.
                if let Some(rest_us) =
                    self.published.get(&name).map(|published| published.told_rest_us).filter(|rest| *rest > 0)
                {
                    ports.control(port, Control::Rest { name, rest_us });
                }
                return;
            }
            Err(refusal) => {
                self.refused.publish += 1;
                self.note_asked(Direction::Publish, Some(refusal.code));
                Control::StreamRefused { name, refusal }
            }
        };
        ports.control(port, answer);
    }

    fn try_publish(&mut self, now: Instant, port: PortId, publish: Publish, ports: &mut Ports) -> Result<u16, Refusal> {
        let right = self.right(now, port, Direction::Publish, &publish.name)?;
        self.check_publish(port, &publish)?;
        self.check_published_share(&right.token, &publish.name)?;
        self.check_service(&publish, right.max_rate)?;
        let (rate, need) = self.granted(&publish.wants, publish.high_priority, right.max_rate);
        self.check_last_mile(port, &publish.name, need.rate_kbps)?;
        let (name, ingress) = (publish.name.clone(), self.name().clone());
        let id = StreamId { name: name.clone(), incarnation: publish.incarnation, ingress };
        // To say again what stands is cheap, and costs nothing; all else is computed for, and has its bound.
        let stands = self.stands(&id, &publish, need);
        if !stands {
            self.check_search(now, &right.token)?;
            self.check_room(&id, &publish, need)?;
        }
        let no_handle = || refusal(CloseCode::Overload, "no free handle on this connection");
        if !self.forward.has_free_handle(now, port) {
            return Err(no_handle());
        }
        self.check_life(now, &right.token, &id)?;
        let publisher = self.ports[&port].peer.name.clone();
        let before = self.published.get(&name).and_then(|old| self.carried.get(&old.id));
        let before = before.and_then(|carried| self.forward.police(carried.key));
        let key = self.carry_published(now, &id, Announced::from(&publish), ports)?;
        self.take_over(now, port, &id, ports);
        self.closing.retain(|(_, closing, _)| *closing != id);
        self.ended.remove(&id);
        let handle = self.forward.open_source(now, key, port).ok_or_else(no_handle)?;
        self.forward.set_police(key, policed(before, rate));
        self.forward.set_may_go_first(key, publish.high_priority);
        let (incarnation, deadline_us) = (publish.incarnation, publish.deadline_us);
        self.directory.own().publish(StreamState { name: name.clone(), incarnation, deadline_us });
        let mut first_mile_us = first_mile_us(now, port, ports);
        let mut told_rest_us = 0;
        if let Some((old, token)) = self.published.get(&name).map(|old| (old.id.clone(), old.token.clone())) {
            self.close_account(&old, &token);
        }
        let (unserved, why);
        let plan = match self.published.remove(&name) {
            Some(old) if old.id == id => {
                let mut plan = old.plan;
                if stands {
                    // What has changed of the first mile since is seen when it is measured.
                    (first_mile_us, told_rest_us) = (old.first_mile_us, old.told_rest_us);
                } else {
                    plan.renew();
                }
                (unserved, why) = (old.unserved, old.why);
                plan
            }
            old => {
                (unserved, why) = Default::default();
                old.map_or_else(|| Plan::new(self.last_epoch), |old| old.plan.of_next_life(self.last_epoch))
            }
        };
        let mode = publish.mode;
        let (source, port, gone_since, ending) = (port, Some(port), None, None);
        let (wants, token) = (publish.wants, right.token);
        self.note_token(&token);
        let published = Published {
            id,
            publisher,
            mode,
            port,
            gone_since,
            ending,
            plan,
            first_mile_us,
            told_rest_us,
            token,
            need,
            wants,
            unserved,
            why,
        };
        self.published.insert(name.clone(), published);
        self.note(source, name, right.until);
        self.plan_due = Some(now);
        Ok(handle.0)
    }

    /// Whether a stream is published here just so.
    fn stands(&self, id: &StreamId, publish: &Publish, need: Need) -> bool {
        let published =
            self.published.get(&id.name).filter(|published| published.id == *id && published.ending.is_none());
        published.is_some_and(|published| {
            let asks = (published.mode, published.need) == (publish.mode, need) && published.wants == publish.wants;
            asks && self.carried.get(id).is_some_and(|carried| carried.is_announced_as(&Announced::from(publish)))
        })
    }

    /// Publishes a stream of this relay's own, beyond all clients' reach.
    pub(super) fn publish_here(
        &mut self,
        now: Instant,
        name: StreamName,
        deadline: Duration,
        ports: &mut Ports,
    ) -> Option<(StreamId, StreamKey, StreamHandle)> {
        if let Some(old) = self.published.remove(&name) {
            self.directory.own().unpublish(&name, old.id.incarnation);
            self.closing.push((now, old.id, false));
        }
        if self.draining || !self.directory.own_ref().can_publish(&name) || !self.forward.has_free_handle(now, HERE) {
            return None;
        }
        let incarnation = Incarnation(self.options.boot.wrapping_add(now.as_micros()));
        let id = StreamId { name: name.clone(), incarnation, ingress: self.name().clone() };
        let deadline_us = deadline.as_micros().min(u128::from(MAX_DEADLINE_US)) as u32;
        let key = self.carry(now, &id, Announced::test(deadline_us), (None, true), ports)?;
        let handle = self.forward.open_source(now, key, HERE)?;
        self.forward.set_may_go_first(key, true);
        self.directory.own().publish(StreamState { name: name.clone(), incarnation, deadline_us });
        let published = Published {
            id: id.clone(),
            publisher: self.name().clone(),
            mode: Dissemination::Auto,
            port: None,
            gone_since: None,
            ending: None,
            plan: Plan::new(self.last_epoch),
            first_mile_us: 0,
            told_rest_us: 0,
            token: String::new(),
            // It is refused nothing: it is to show what the links carry.
            need: Need::default(),
            wants: Wants::default(),
            unserved: Vec::new(),
            why: Vec::new(),
        };
        self.published.insert(name, published);
        self.plan_due = Some(now);
        Some((id, key, handle))
    }

    /// Ends a stream of this relay's own once its last packets have arrived.
    pub(super) fn unpublish_here(&mut self, now: Instant, id: &StreamId) {
        let deadline = self.carried.get(id).map(|carried| carried.deadline()).unwrap_or_default();
        if let Some(published) = self.published.get_mut(&id.name).filter(|published| published.id == *id) {
            published.ending.get_or_insert(now + deadline + LAST_PACKETS);
        }
    }

    /// Watches a stream here, as a sink would.
    pub(super) fn watch_here(&mut self, now: Instant, name: &StreamName, ports: &mut Ports) {
        let wanted = self.wanted.entry(name.clone()).or_default();
        wanted.sinks.insert(HERE);
        wanted.unwanted_since = None;
        self.directory.own().subscribe(name, 0);
        for id in self.lives_of(now, name) {
            self.open_to(now, &id, HERE, true, ports);
        }
    }

    /// Watches it no more.
    pub(super) fn unwatch_here(&mut self, now: Instant, name: &StreamName, ports: &mut Ports) {
        let me = self.name().clone();
        self.unwant(now, HERE, &me, name);
        self.unsubscribe(now, HERE, name, ports);
    }

    /// Name, deadline and bounds.
    fn check_publish(&self, port: PortId, publish: &Publish) -> Result<(), Refusal> {
        let name = &publish.name;
        let Port { peer, kind, .. } = &self.ports[&port];
        if self.draining {
            return Err(refusal(CloseCode::Stopping, "this relay is stopping"));
        }
        if !(MIN_DEADLINE_US..=MAX_DEADLINE_US).contains(&publish.deadline_us) {
            let reason = format!("a deadline of {} µs; expected 1 ms to 60 s", publish.deadline_us);
            return Err(refusal(CloseCode::Protocol, reason));
        }
        let held = self.published.get(name).filter(|held| held.port.is_some() && held.publisher != peer.name);
        if held.is_some() {
            return Err(refusal(CloseCode::NameTaken, format!("{name} is being published here by another source")));
        }
        if let Some(relay) = self.directory.taken_elsewhere(name, publish.incarnation) {
            return Err(refusal(CloseCode::NameTaken, format!("{name} is being published at relay {relay}")));
        }
        let Kind::Client(streams) = kind else {
            return Err(refusal(CloseCode::Protocol, "only a source publishes"));
        };
        self.check_bound(streams, name)?;
        if !self.published.contains_key(name) && !self.directory.own_ref().can_publish(name) {
            return Err(refusal(CloseCode::Overload, "this relay advertises as many streams as it can"));
        }
        Ok(())
    }

    fn check_bound(&self, streams: &BTreeMap<StreamName, u64>, name: &StreamName) -> Result<(), Refusal> {
        let most = self.options.limits.max_streams_per_client;
        if streams.len() >= most && !streams.contains_key(name) {
            return Err(refusal(CloseCode::Overload, format!("more than {most} streams over one connection")));
        }
        Ok(())
    }

    /// The place of a stream that is published here. Where there is none left, the life that it follows gives its own up at once, last packets
    /// and all; where it follows none, nothing has changed.
    fn carry_published(
        &mut self,
        now: Instant,
        id: &StreamId,
        announced: Announced,
        ports: &mut Ports,
    ) -> Result<StreamKey, Refusal> {
        // One earlier life of a name at a time: a source that restarts in a loop must not use up the bounds.
        let earlier = |(_, closing, _): &(Instant, StreamId, bool)| closing.name == id.name && closing != id;
        let (done, others) = std::mem::take(&mut self.closing).into_iter().partition(earlier);
        self.closing = others;
        let done: Vec<(Instant, StreamId, bool)> = done;
        for (_, closing, ended) in done {
            self.finish(now, &closing, ended, ports);
        }
        if let Some(key) = self.carry(now, id, announced, (None, true), ports) {
            return Ok(key);
        }
        let followed = self.published.get(&id.name).map(|old| (old.id.clone(), old.token.clone()));
        let freed = followed.filter(|(old, _)| self.carried.contains_key(old)).and_then(|(old, token)| {
            self.close_account(&old, &token);
            self.finish(now, &old, false, ports);
            self.carry(now, id, announced, (None, true), ports)
        });
        freed.ok_or_else(|| refusal(CloseCode::Overload, "this relay carries as many streams as it may"))
    }

    /// Ends what the name stood for so far: the same source on an older connection, or an earlier life of its stream.
    fn take_over(&mut self, now: Instant, port: PortId, id: &StreamId, ports: &mut Ports) {
        let Some(old) = self.published.get(&id.name) else { return };
        let (old_id, old_port) = (old.id.clone(), old.port);
        if let Some(old_port) = old_port.filter(|old_port| *old_port != port) {
            self.unnote(old_port, &id.name);
            let reason = format!("{} was published again over another connection", id.name);
            let refusal = refusal(CloseCode::Replaced, reason);
            ports.control(old_port, Control::StreamRefused { name: id.name.clone(), refusal });
        }
        let Some(carried) = self.carried.get(&old_id) else { return };
        let (key, until) = (carried.key, now + carried.deadline() + LAST_PACKETS);
        if old_id != *id {
            self.closing.push((until, old_id, false));
        } else if let Some(old_port) = old_port {
            self.forward.close_source(now, key, old_port);
        }
    }

    pub(super) fn unpublish(&mut self, now: Instant, port: PortId, name: &StreamName) {
        self.unnote(port, name);
        let Some(published) = self.published.get_mut(name).filter(|published| published.port == Some(port)) else {
            return;
        };
        let deadline = self.carried.get(&published.id).map(|carried| carried.deadline()).unwrap_or_default();
        // Said again and again, it ends no later.
        published.ending.get_or_insert(now + deadline + LAST_PACKETS);
    }

    /// The connection of a source is gone without a word.
    pub(super) fn source_lost(&mut self, now: Instant, port: PortId, name: &StreamName) {
        if let Some(published) = self.published.get_mut(name).filter(|published| published.port == Some(port)) {
            published.port = None;
            published.gone_since = Some(now);
        }
    }

    /// Streams that were unpublished, or whose source has been away for too long.
    pub(super) fn let_go_of_published(&mut self, now: Instant) {
        let grace = self.options.source_grace;
        let known = self.published.len();
        for (id, token) in self.published.values().map(|old| (old.id.clone(), old.token.clone())).collect::<Vec<_>>() {
            if self.published.get(&id.name).is_some_and(|published| published.is_over(now, grace)) {
                self.close_account(&id, &token);
            }
        }
        let (directory, closing) = (&mut self.directory, &mut self.closing);
        self.published.retain(|name, published| {
            if published.is_over(now, grace) {
                let ended = published.ending.is_some_and(|at| at <= now);
                directory.own().unpublish(name, published.id.incarnation);
                closing.push((now, published.id.clone(), ended));
                return false;
            }
            true
        });
        if self.published.len() < known {
            self.tell_unserved();
        }
    }

    pub(super) fn subscribe(&mut self, now: Instant, port: PortId, name: StreamName, ports: &mut Ports) {
        match self.check_subscribe(now, port, &name) {
            Ok(right) => {
                self.note_asked(Direction::Subscribe, None);
                self.note(port, name.clone(), right.until);
                let new_wish = || Wanted { token: right.token, ..Wanted::default() };
                let wanted = self.wanted.entry(name.clone()).or_insert_with(new_wish);
                let new = wanted.sinks.insert(port);
                wanted.unwanted_since = None;
                if new {
                    let (stream, sink) = (name.clone(), self.ports[&port].peer.name.clone());
                    self.log.note(now, What::Subscribed { stream, sink });
                }
                let last_mile_us = self.last_mile_us(now, &name, ports);
                self.directory.own().subscribe(&name, last_mile_us);
                let live = self.directory.is_live(&name) || self.published.contains_key(&name);
                ports.control(port, Control::Subscribed { name: name.clone(), live });
                self.tell_whether_refused(port, &name, ports);
                for id in self.lives_of(now, &name) {
                    self.open_to(now, &id, port, true, ports);
                }
            }
            Err(refusal) => {
                self.refused.subscribe += 1;
                self.note_asked(Direction::Subscribe, Some(refusal.code));
                ports.control(port, Control::StreamRefused { name, refusal });
            }
        }
    }

    fn check_subscribe(&self, now: Instant, port: PortId, name: &StreamName) -> Result<Right, Refusal> {
        let right = self.right(now, port, Direction::Subscribe, name)?;
        if let Kind::Client(streams) = &self.ports[&port].kind {
            self.check_bound(streams, name)?;
        }
        let watchers = self.wanted.get(name).map_or(0, |wanted| wanted.sinks.len());
        if watchers >= self.options.limits.max_subscribers {
            return Err(refusal(CloseCode::Overload, format!("{name} has as many sinks here as it may")));
        }
        self.check_watched_share(&right.token, name)?;
        self.check_last_mile(port, name, self.admitted_kbps(name))?;
        if !self.wanted.contains_key(name) && !self.directory.own_ref().has_room_for(name) {
            return Err(refusal(CloseCode::Overload, "this relay advertises as many streams as it can"));
        }
        Ok(right)
    }

    pub(super) fn unsubscribe(&mut self, now: Instant, port: PortId, name: &StreamName, ports: &mut Ports) {
        self.unnote(port, name);
        if let Some(sink) = self.ports.get(&port).map(|port| port.peer.name.clone()) {
            self.unwant(now, port, &sink, name);
        }
        let of_name = self.carried.iter().filter(|(id, _)| id.name == *name);
        for (_, carried) in of_name {
            if let Some(handle) = self.forward.close_output(now, carried.key, port) {
                ports.control(port, Control::StreamClose { handle: handle.0, ended: false });
            }
        }
    }

    /// A sink no longer wants a stream.
    pub(super) fn unwant(&mut self, now: Instant, port: PortId, sink: &NodeName, name: &StreamName) {
        if let Some(wanted) = self.wanted.get_mut(name) {
            if wanted.sinks.remove(&port) {
                self.log.note(now, What::Unsubscribed { stream: name.clone(), sink: sink.clone() });
            }
            if wanted.sinks.is_empty() {
                wanted.unwanted_since.get_or_insert(now);
            }
        }
    }

    pub(super) fn let_go_of_wishes(&mut self, now: Instant) {
        let directory = &mut self.directory;
        self.wanted.retain(|name, wanted| {
            let over = wanted.unwanted_since.is_some_and(|since| now.saturating_since(since) > WISH_FOR);
            if over {
                directory.own().unsubscribe(name);
            }
            !over
        });
    }

    /// The longest way from here to one of the stream's sinks.
    fn last_mile_us(&self, now: Instant, name: &StreamName, ports: &Ports) -> u32 {
        let sinks = self.wanted.get(name).into_iter().flat_map(|wanted| &wanted.sinks);
        let transit = |port: &PortId| {
            if *port == HERE {
                return Some(Duration::ZERO);
            }
            let quality = ports.link(*port)?.quality(now);
            (quality.rtt_min > Duration::ZERO).then_some(quality.transit)
        };
        let longest = sinks.filter_map(transit).max();
        longest.map_or(LAST_MILE_US, |longest| longest.as_micros().min(10_000_000) as u32)
    }

    pub(super) fn measure_last_miles(&mut self, now: Instant, ports: &Ports) {
        for published in self.published.values_mut() {
            let Some(port) = published.port else { continue };
            let measured = first_mile_us(now, port, ports);
            if delay_moved(published.first_mile_us, measured) {
                published.first_mile_us = measured;
                published.plan.outdate();
                self.plan_due = Some(now);
            }
        }
        let names: Vec<StreamName> =
            self.wanted.iter().filter(|(_, wanted)| !wanted.sinks.is_empty()).map(|(name, _)| name.clone()).collect();
        for name in names {
            let last_mile_us = self.last_mile_us(now, &name, ports);
            self.directory.own().subscribe(&name, last_mile_us);
        }
    }

    /// Computes graphs where the overlay or the stream has changed, and stamps the labels in force.
    pub(super) fn follow_plans(&mut self, now: Instant, ports: &mut Ports) {
        let generation = self.directory.generation();
        self.planned = generation;
        if self.planned_boot != self.directory.boot() {
            self.planned_boot = self.directory.boot();
            self.published.values_mut().for_each(|published| published.plan.renew());
        }
        // What is installed already can be selected at once; computing may take its time.
        self.stamp_labels(now, generation);
        // One at a time, the one that waits longest: in a large overlay each takes a while, and packets wait for it.
        let due = self.published.iter().filter_map(|(name, published)| {
            let due = published.plan.compute_due(generation).filter(|due| *due <= now)?;
            Some((due, name.clone()))
        });
        if let Some((_, name)) = due.min_by_key(|(due, _)| *due) {
            self.compute(now, generation, &name, ports);
        }
        self.stamp_labels(now, generation);
    }

    /// Stamps what the rule selects from the graphs in force.
    fn stamp_labels(&mut self, now: Instant, generation: u64) {
        let (troubled, topology) = (self.directory.troubled(), self.directory.topology());
        let mut next: Option<Instant> = None;
        for published in self.published.values_mut() {
            published.plan.follow(generation, topology, &troubled);
            if let (Some(label), Some(carried)) =
                (published.plan.label(now, &troubled), self.carried.get(&published.id))
            {
                self.forward.set_stamp(carried.key, label);
            }
            let wakes = [published.plan.compute_due(generation), published.plan.switch_due(now)];
            next = next.into_iter().chain(wakes.into_iter().flatten()).min();
        }
        self.plan_due = next;
    }

    fn compute(&mut self, now: Instant, generation: u64, name: &StreamName, ports: &mut Ports) {
        let has = self.room_held(name);
        let Some(published) = self.published.get_mut(name) else { return };
        let Some(carried) = self.carried.get(&published.id) else {
            published.plan.skip(generation);
            return;
        };
        let deadline_us = carried.deadline_us().saturating_sub(published.first_mile_us);
        let (mode, life, need, max_cost) =
            (published.mode, published.id.incarnation, published.need, published.wants.max_cost);
        let asked = Asked { deadline_us, mode, life, need, max_cost, has: &has };
        let mut graphs = self.directory.graphs(name, &asked);
        published.why = std::mem::take(&mut graphs.why);
        let unserved = std::mem::take(&mut graphs.unserved);
        let rest_us = graphs.rest.as_micros().min(u128::from(carried.deadline_us())) as u32;
        if let Some(port) = published.port
            && rest_us != published.told_rest_us
        {
            published.told_rest_us = rest_us;
            ports.control(port, Control::Rest { name: name.clone(), rest_us });
        }
        let choice = Choice {
            ingress: self.directory.me(),
            is_up: &|from, to| self.directory.is_up(from, to),
            young: self.forward.is_young(carried.key),
            topology: self.directory.topology(),
            troubled: &self.directory.troubled(),
        };
        let Some(epoch) = published.plan.adopt(now, generation, &graphs, &choice) else {
            self.note_unserved(now, name, unserved);
            return;
        };
        if label::later(epoch, self.last_epoch) {
            self.last_epoch = epoch;
        }
        let id = &published.id;
        let install = Install {
            name: id.name.clone(),
            incarnation: id.incarnation,
            ingress: id.ingress.clone(),
            boot: self.directory.boot(),
            epoch,
            deadline_us: carried.deadline_us(),
            content: carried.content,
            modules: published.plan.modules().to_vec(),
            sealed: carried.sealed,
            target_ppb: carried.target_ppb(),
            reserve: Reserve { need, modules: graphs.reserved.0 },
        };
        let message = self.directory.sealed(Control::Install(install.clone()));
        self.install(now, None, Installed { install, message }, ports);
        self.note_unserved(now, name, unserved);
    }
}

/// What holds a stream to its rate, where it was held to one before: the bucket goes on as full as it is, so that publishing again brings no new burst.
pub(super) fn policed(before: Option<Police>, rate: Option<Bitrate>) -> Option<Police> {
    let rate = rate?;
    Some(before.map_or_else(|| Police::new(rate), |police| police.at(rate)))
}

/// How long packets take from a source to here.
fn first_mile_us(now: Instant, port: PortId, ports: &Ports) -> u32 {
    let quality = ports.link(port).map(|link| link.quality(now));
    let measured = quality.filter(|quality| quality.rtt_min > Duration::ZERO);
    measured.map_or(LAST_MILE_US, |quality| (quality.rtt_min / 2).as_micros().min(10_000_000) as u32)
}
