//! Links to relays: which connection of a pair survives, when a link counts as up, link state.

use super::effect::Trail;
use super::past::{self, Past};
use super::{Kind, Port, RelaySystem};
use crate::events::What;
use crate::report::RepairEffect;
use link::stats::LinkQuality;
use link::{Delivery, Instant, Link};
use node::control::CloseCode;
use node::trust::Role;
use node::{Peer, PortId, Ports};
use std::time::Duration;
use topology::about::Flow;
use topology::lsdb::MOST_PARALLEL;
use topology::{LinkEnd, NodeName};

/// Two connections of a pair that come up within this time are taken for both ends having dialled at once.
const CROSSED: Duration = Duration::from_secs(5);

/// A link that has been silent for longer than this gives way to a new connection of the same pair.
const DOUBTFUL: Duration = Duration::from_millis(150);

/// A link that has been silent for longer than this counts as down, and as up again only once it is heard well.
const SILENT: Duration = Duration::from_millis(500);

impl RelaySystem {
    pub(super) fn open_relay(&mut self, now: Instant, port: PortId, peer: Peer, ports: &mut Ports) {
        if peer.name == *self.name() {
            if !peer.dialled {
                self.met_itself = Some(now);
            }
            ports.close(port, CloseCode::Protocol, "this relay has the same name");
            return;
        }
        let end = peer.link_end();
        if let Some(&old) = self.relays.get(&end) {
            if self.keeps(now, old, &peer, ports) {
                ports.close(port, CloseCode::Replaced, "the other connection between the two relays is kept");
                return;
            }
            self.detach(now, old);
            ports.close(old, CloseCode::Replaced, "a newer connection between the two relays is kept");
        } else if self.has_no_place_for(&peer.name) {
            ports.close(port, CloseCode::Overload, "too many relays");
            return;
        } else if self.links_to(&peer.name) >= MOST_PARALLEL {
            let reason = format!("{MOST_PARALLEL} links join the two relays, the most there may be");
            ports.close(port, CloseCode::Overload, &reason);
            return;
        } else if !self.welcomes(now, &end, peer.dialled, ports) {
            ports.close(port, CloseCode::Overload, "this relay has as many neighbours as it may");
            return;
        }
        if let (Some(options), Some(link)) = (self.options.links.get(&end), ports.link_mut(port)) {
            link.set_policy(now, options.policy);
        }
        let mut kept = Box::<super::RelayPort>::default();
        if let Some(link) = ports.link(port) {
            kept.trail.restart(now, link.stats());
            self.past(&end).begin(now, link.stats());
        }
        self.note_connected(now, &peer);
        self.ports.insert(port, Port { peer, opened: now, kind: Kind::Relay(kept) });
        self.relays.insert(end.clone(), port);
        self.watch_link(now, &end, port, ports);
        self.owe_all(now, &end, port, ports);
    }

    /// Whether a link to this relay would be one too many, or it one relay too many.
    fn has_no_place_for(&self, relay: &NodeName) -> bool {
        let is_new = self.relay(relay).is_none();
        self.relays.len() >= self.directory.most_links() || is_new && self.joined() >= self.options.limits.max_relays
    }

    /// How many relays links stand to.
    pub(super) fn joined(&self) -> usize {
        let mut relays: Vec<&NodeName> = self.relays.keys().map(|end| &end.relay).collect();
        relays.dedup();
        relays.len()
    }

    /// How many links stand to a relay.
    pub(super) fn links_to(&self, relay: &NodeName) -> usize {
        self.relays.range(LinkEnd::from(relay.clone())..).take_while(|(end, _)| end.relay == *relay).count()
    }

    /// Whether the old connection of a pair survives a new one. Both ends must come to the same answer: where both
    /// have just dialled, the connection dialled by the relay with the smaller name stays; else the old one is a
    /// remnant of a peer that restarted, and the new one stays.
    fn keeps(&self, now: Instant, old: PortId, new: &Peer, ports: &Ports) -> bool {
        let Some(port) = self.ports.get(&old) else { return false };
        let silent = ports.link(old).is_none_or(|link| link.quality(now).silent_for > DOUBTFUL);
        let crossed = now.saturating_since(port.opened) < CROSSED && port.peer.dialled != new.dialled && !silent;
        let preferred = *self.name() < new.name;
        crossed && port.peer.dialled == preferred
    }

    /// Forgets a port and all that depends on it.
    pub(super) fn detach(&mut self, now: Instant, port: PortId) {
        let Some(gone) = self.ports.remove(&port) else { return };
        let touched = self.forward.close_port(port);
        match gone.kind {
            Kind::Relay(neighbour) => {
                self.refused.unknown_handle += neighbour.held.len() as u64;
                let end = gone.peer.link_end();
                self.relays.remove(&end);
                self.troubled.remove(&end);
                self.leaving.remove(&end);
                let had = self.directory.own_ref().has_link(&end);
                self.directory.own().remove_link(&end);
                self.note_link(now, &end, had, "its connection is gone");
                self.mark_orphans(now, Some(&touched));
            }
            Kind::Client(streams) => {
                for name in streams.into_keys() {
                    match gone.peer.role {
                        Role::Source => self.source_lost(now, port, &name),
                        _ => self.unwant(now, port, &gone.peer.name, &name),
                    }
                }
            }
        }
    }

    /// Keeps the advertisement in step with the links.
    pub(super) fn watch_links(&mut self, now: Instant, ports: &Ports) {
        let links: Vec<(LinkEnd, PortId)> = self.relays.iter().map(|(end, port)| (end.clone(), *port)).collect();
        for (end, port) in links {
            self.watch_link(now, &end, port, ports);
            let Some(link) = ports.link(port) else { continue };
            let stats = || link.stats();
            if self.trail(port).is_some_and(|trail| trail.mark(now, stats)) {
                self.note_flow(now, &end, port, link);
            }
        }
    }

    /// Once a second: what goes over a link, for people to see.
    fn note_flow(&mut self, now: Instant, end: &LinkEnd, port: PortId, link: &Link) {
        let (stats, quality) = (link.stats(), link.quality(now));
        let Some(effect) = self.trail(port).map(|trail| trail.effect(now, &stats)) else { return };
        self.directory.own().set_flow(end, flow(&effect, &quality));
        let theirs = self.directory.flow(&end.relay, &end.from_other_end(self.name()));
        self.past(end).mark(now, stats, &quality, theirs);
    }

    /// What a link was like, whether it is up or not. Their number is bounded.
    fn past(&mut self, end: &LinkEnd) -> &mut Past {
        if !self.pasts.contains_key(end) {
            // A relay that comes by ever new names takes the places of its own links.
            let own = self.pasts.keys().filter(|known| known.relay == end.relay).count() >= MOST_PARALLEL;
            let may_go = |known: &LinkEnd| !own || known.relay == end.relay;
            let oldest = self.pasts.iter().filter(|(known, _)| may_go(known)).min_by_key(|(_, past)| past.last());
            let full = own || self.pasts.len() >= past::MOST_LINKS;
            if let Some(oldest) = oldest.map(|(known, _)| known.clone()).filter(|_| full) {
                self.pasts.remove(&oldest);
            }
        }
        self.pasts.entry(end.clone()).or_default()
    }

    /// What repair on a link to a relay costs and brings.
    pub(super) fn trail(&mut self, port: PortId) -> Option<&mut Trail> {
        match &mut self.ports.get_mut(&port)?.kind {
            Kind::Relay(relay) => Some(&mut relay.trail),
            Kind::Client(_) => None,
        }
    }

    fn watch_link(&mut self, now: Instant, end: &LinkEnd, port: PortId, ports: &Ports) {
        let Some(quality) = ports.link(port).map(|link| link.quality(now)) else { return };
        let options = self.options.links.get(end);
        let delay = options.and_then(|options| options.delay).or_else(|| measured(&quality));
        let cost = options.map_or(10, |options| options.cost);
        let drained = self.drained.contains(end) || self.leaving.contains_key(end);
        let own = self.directory.own();
        let had = own.has_link(end);
        match delay {
            _ if drained => own.remove_link(end),
            Some(delay) if is_up(&quality, own.has_link(end)) => {
                let loss_ppm = (quality.loss_sent * 1e6) as u32;
                own.set_link(now, end, delay.as_micros().min(10_000_000) as u32, loss_ppm, cost);
                self.admission_stale |= !had;
            }
            // Not measured yet.
            None if quality.silent_for <= SILENT => {}
            _ => own.remove_link(end),
        }
        self.note_link(now, end, had, if drained { "streams are taken off it" } else { "nothing is heard over it" });
    }

    /// Tells the operator where a link has come up or gone down.
    fn note_link(&mut self, now: Instant, end: &LinkEnd, had: bool, why: &str) {
        let (has, peer) = (self.directory.own_ref().has_link(end), end.clone());
        match (had, has) {
            (false, true) => self.log.note(now, What::LinkUp { peer }),
            (true, false) => self.log.note(now, What::LinkDown { peer, reason: why.to_owned() }),
            _ => {}
        }
    }

    pub(super) fn note_connected(&mut self, now: Instant, peer: &Peer) {
        let (end, role, address) = (peer.link_end(), peer.role, peer.address.to_string());
        self.log.note(now, What::PeerConnected { peer: end, role, address });
    }

    /// Keeps media that overtook the announcement of its stream.
    pub(super) fn hold(&mut self, now: Instant, port: PortId, delivery: Delivery) {
        match self.ports.get_mut(&port).map(|port| &mut port.kind) {
            Some(Kind::Relay(neighbour)) => self.refused.unknown_handle += neighbour.held.hold(now, delivery),
            _ => self.refused.unknown_handle += 1,
        }
    }

    pub(super) fn expire_held(&mut self, now: Instant) {
        for port in self.ports.values_mut() {
            if let Kind::Relay(neighbour) = &mut port.kind {
                self.refused.unknown_handle += neighbour.held.expire(now);
            }
        }
    }
}

/// What is told of a link.
fn flow(effect: &RepairEffect, quality: &LinkQuality) -> Flow {
    let ppm = |share: f64| (share * 1e6) as u32;
    Flow {
        rate_kbps: (quality.media_rate.as_bps() / 1000) as u32,
        overhead_permille: ((effect.cost_arq + effect.cost_fec) * 1e3) as u16,
        saved_ppm: ppm(effect.saved),
        left_ppm: ppm(effect.left),
    }
}

/// Whether a link carries streams; `was` it so far.
fn is_up(quality: &LinkQuality, was: bool) -> bool {
    quality.silent_for <= if was { SILENT } else { SILENT / 5 }
}

/// The measured delay, once there is one.
fn measured(quality: &LinkQuality) -> Option<Duration> {
    (quality.rtt_min > Duration::ZERO).then_some(quality.transit)
}
