//! What this relay says of itself.

use link::Instant;
use std::collections::BTreeMap;
use std::time::Duration;
use topology::about::{About, Flow, Place};
use topology::lsdb::{Incarnation, Limits, LinkState, REFRESH, Statement, StreamState, Subscription};
use topology::terms::{LinkTerms, Tag, Terms, Unserved};
use topology::{LinkEnd, StreamName};

/// Changes nearer to each other than this travel together, but for the first.
const GATHER: Duration = Duration::from_millis(50);

/// Most bytes of an advertisement, estimated from above; a control message holds it with room to spare.
const MOST_BYTES: usize = 200_000;

/// How soon what goes over the links is told anew for its own sake.
const FLOWS: Duration = Duration::from_secs(5);

/// Bytes of an entry beside its names, from above.
const ENTRY: usize = 40;

/// Loss in parts per million at which a link's advertised level changes (GRAPHS.md, "Detect").
const LOSS_LEVELS: [u32; 8] = [20_000, 50_000, 100_000, 200_000, 350_000, 500_000, 700_000, 930_000];

/// How long a lower level of loss must last before it is believed.
const LOSS_HOLD: Duration = Duration::from_secs(2);

/// This relay's own advertisement in the making.
#[derive(Debug, Default)]
pub struct Own {
    links: BTreeMap<LinkEnd, OwnLink>,
    streams: BTreeMap<StreamName, StreamState>,
    subscriptions: BTreeMap<StreamName, u32>,
    draining: bool,
    place: Option<Place>,
    tags: Vec<Tag>,
    address: Option<String>,
    auto: bool,
    unserved: Vec<Unserved>,
    changed: bool,
    /// Whether what goes over a link is no longer as it was told.
    flowed: bool,
    told: Option<Instant>,
}

#[derive(Debug)]
struct OwnLink {
    delay_us: u32,
    loss_ppm: u32,
    cost: u32,
    flow: Flow,
    told_flow: Flow,
    terms: LinkTerms,
    /// Since when the loss has been on a lower level.
    calmer_since: Option<Instant>,
}

impl Own {
    /// Nothing to tell yet.
    pub fn new() -> Own {
        Own::default()
    }

    /// Tells all again, though nothing has changed.
    pub fn repeat(&mut self) {
        self.changed = true;
    }

    /// A link is up with these measurements. Its delay is told anew when it has moved by more than a quarter and 2 ms,
    /// its loss when it reaches a higher level, or has been on a lower one for two seconds.
    pub fn set_link(&mut self, now: Instant, peer: &LinkEnd, delay_us: u32, loss_ppm: u32, cost: u32) {
        let level = loss_level(loss_ppm);
        let Some(link) = self.links.get_mut(peer) else {
            let (flow, told_flow) = (Flow::default(), Flow::default());
            let (terms, calmer_since) = (LinkTerms::default(), None);
            let link = OwnLink { delay_us, loss_ppm: level, cost, flow, told_flow, terms, calmer_since };
            self.links.insert(peer.clone(), link);
            self.changed = true;
            return;
        };
        if delay_moved(link.delay_us, delay_us) {
            link.delay_us = delay_us;
            self.changed = true;
        }
        if link.cost != cost {
            link.cost = cost;
            self.changed = true;
        }
        if level >= link.loss_ppm {
            link.calmer_since = None;
        }
        let calm = level < link.loss_ppm && now.saturating_since(*link.calmer_since.get_or_insert(now)) >= LOSS_HOLD;
        if level > link.loss_ppm || calm {
            link.loss_ppm = level;
            link.calmer_since = None;
            self.changed = true;
        }
    }

    /// What goes over a link lately; told with the next change, or by itself within five seconds where it has moved.
    pub fn set_flow(&mut self, peer: &LinkEnd, flow: Flow) {
        if let Some(link) = self.links.get_mut(peer) {
            link.flow = flow;
            self.flowed |= flow.moved(&link.told_flow);
        }
    }

    /// Where this relay stands.
    pub fn set_place(&mut self, place: Option<Place>) {
        self.changed |= self.place != place;
        self.place = place;
    }

    /// What the relay is marked with, where it can be dialled, and whether it chooses its neighbours.
    pub fn set_traits(&mut self, tags: Vec<Tag>, address: Option<String>, auto: bool) {
        self.changed |= self.tags != tags || self.address != address || self.auto != auto;
        (self.tags, self.address, self.auto) = (tags, address, auto);
    }

    /// The terms of a link that is told of.
    pub fn set_link_terms(&mut self, peer: &LinkEnd, terms: LinkTerms) {
        if let Some(link) = self.links.get_mut(peer).filter(|link| link.terms != terms) {
            link.terms = terms;
            self.changed = true;
        }
    }

    /// The terms of a link, as told or to be told next.
    pub fn link_terms(&self, peer: &LinkEnd) -> Option<&LinkTerms> {
        self.links.get(peer).map(|link| &link.terms)
    }

    /// Where streams that enter here are not carried for want of room.
    pub fn set_unserved(&mut self, unserved: Vec<Unserved>) {
        self.changed |= self.unserved != unserved;
        self.unserved = unserved;
    }

    /// Whether a link is told of.
    pub fn has_link(&self, peer: &LinkEnd) -> bool {
        self.links.contains_key(peer)
    }

    /// A link is down.
    pub fn remove_link(&mut self, peer: &LinkEnd) {
        self.changed |= self.links.remove(peer).is_some();
    }

    /// A stream is published here.
    pub fn publish(&mut self, stream: StreamState) {
        if self.streams.get(&stream.name) != Some(&stream) {
            self.streams.insert(stream.name.clone(), stream);
            self.changed = true;
        }
    }

    /// A stream is no longer published here, where it still is this life of it.
    pub fn unpublish(&mut self, name: &StreamName, incarnation: Incarnation) {
        if self.streams.get(name).is_some_and(|stream| stream.incarnation == incarnation) {
            self.streams.remove(name);
            self.changed = true;
        }
    }

    /// A stream is wanted here, over a last mile of `last_mile_us`; told anew as a link's delay is.
    pub fn subscribe(&mut self, name: &StreamName, last_mile_us: u32) {
        match self.subscriptions.get_mut(name) {
            Some(told) if !delay_moved(*told, last_mile_us) => {}
            Some(told) => {
                *told = last_mile_us;
                self.changed = true;
            }
            None => {
                self.subscriptions.insert(name.clone(), last_mile_us);
                self.changed = true;
            }
        }
    }

    /// A stream is no longer wanted here.
    pub fn unsubscribe(&mut self, name: &StreamName) {
        self.changed |= self.subscriptions.remove(name).is_some();
    }

    /// Whether streams shall no longer pass through this relay.
    pub fn set_draining(&mut self, draining: bool) {
        self.changed |= self.draining != draining;
        self.draining = draining;
    }

    /// Whether another stream or subscription under `name` would still fit the advertisement.
    pub fn has_room_for(&self, name: &StreamName) -> bool {
        let links: usize = self.links.keys().map(|peer| text_len(peer) + ENTRY).sum();
        let names = self.streams.keys().chain(self.subscriptions.keys()).chain([name]);
        links + names.map(|name| name.as_str().len() + ENTRY).sum::<usize>() <= MOST_BYTES
    }

    /// Whether another stream under `name` may be published: an advertisement of more is refused whole by all others.
    pub fn can_publish(&self, name: &StreamName) -> bool {
        self.streams.len() < Limits::default().streams && self.has_room_for(name)
    }

    /// When [`Own::statement`] has something to tell.
    pub fn due(&self) -> Instant {
        match (self.told, self.changed) {
            (None, _) => Instant::ORIGIN,
            (Some(told), true) => told + GATHER,
            (Some(told), false) if self.flowed => told + FLOWS,
            (Some(told), false) => told + REFRESH,
        }
    }

    /// What to tell, where that is due.
    pub fn statement(&mut self, now: Instant) -> Option<Statement> {
        if now < self.due() {
            return None;
        }
        self.told = Some(now);
        (self.changed, self.flowed) = (false, false);
        self.links.values_mut().for_each(|link| link.told_flow = link.flow);
        let flows = self.links.values().map(|link| link.flow).collect();
        let link = |(peer, link): (&LinkEnd, &OwnLink)| LinkState {
            peer: peer.clone(),
            delay_us: link.delay_us,
            loss_ppm: link.loss_ppm,
            cost: link.cost,
        };
        let wish = |(name, last_mile_us): (&StreamName, &u32)| Subscription {
            name: name.clone(),
            last_mile_us: *last_mile_us,
        };
        Some(Statement {
            links: self.links.iter().map(link).collect(),
            streams: self.streams.values().cloned().collect(),
            subscriptions: self.subscriptions.iter().map(wish).collect(),
            draining: self.draining,
            about: About { place: self.place, flows },
            terms: self.terms(),
        })
    }

    fn terms(&self) -> Terms {
        let mut links: Vec<LinkTerms> = self.links.values().map(|link| link.terms.clone()).collect();
        while links.pop_if(|last| *last == LinkTerms::default()).is_some() {}
        let (tags, address, unserved) = (self.tags.clone(), self.address.clone(), self.unserved.clone());
        Terms { tags, address, auto: self.auto, links, unserved }
    }
}

/// Bytes of a link's text, with the mark before its name.
fn text_len(link: &LinkEnd) -> usize {
    link.relay.as_str().len() + link.link.as_ref().map_or(0, |name| 1 + name.as_str().len())
}

/// Whether a delay is so far from the one told that it must be told anew.
pub(crate) fn delay_moved(told_us: u32, now_us: u32) -> bool {
    let by = told_us.abs_diff(now_us);
    by > 2_000 && by > told_us / 4
}

/// The highest level that a loss reaches.
fn loss_level(loss_ppm: u32) -> u32 {
    LOSS_LEVELS.iter().rev().copied().find(|level| loss_ppm >= *level).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> LinkEnd {
        text.parse().expect("a valid name")
    }

    fn at(ms: u64) -> Instant {
        Instant::from_micros(ms * 1000)
    }

    fn delays(own: &mut Own, now: Instant) -> Option<Vec<(u32, u32)>> {
        own.statement(now).map(|ad| ad.links.iter().map(|link| (link.delay_us, link.loss_ppm)).collect())
    }

    #[test]
    fn tells_at_once_then_gathers_then_refreshes() {
        let mut own = Own::new();
        assert!(own.statement(at(0)).is_some());
        own.set_link(at(1), &name("b"), 10_000, 0, 1);
        assert_eq!(own.due(), at(50));
        assert_eq!(own.statement(at(49)), None);
        assert_eq!(own.statement(at(50)).map(|ad| ad.links.len()), Some(1));
        assert_eq!(own.due(), at(50) + REFRESH);
        own.remove_link(&name("b"));
        assert_eq!(own.due(), at(100), "long quiet: at once");
    }

    #[test]
    fn small_moves_of_the_delay_are_kept_to_itself() {
        let mut own = Own::new();
        own.set_link(at(0), &name("b"), 10_000, 0, 1);
        own.statement(at(0));
        own.set_link(at(100), &name("b"), 12_400, 0, 1);
        assert_eq!(delays(&mut own, at(100)), None);
        own.set_link(at(200), &name("b"), 12_600, 0, 1);
        assert_eq!(delays(&mut own, at(200)), Some(vec![(12_600, 0)]));
        own.set_link(at(300), &name("c"), 1_000, 0, 1);
        own.statement(at(300));
        own.set_link(at(400), &name("c"), 2_900, 0, 1);
        assert_eq!(delays(&mut own, at(400)), None, "less than 2 ms");
    }

    #[test]
    fn loss_rises_at_once_and_falls_slowly() {
        let mut own = Own::new();
        own.set_link(at(0), &name("b"), 10_000, 60_000, 1);
        assert_eq!(delays(&mut own, at(0)), Some(vec![(10_000, 50_000)]));
        own.set_link(at(100), &name("b"), 10_000, 400_000, 1);
        assert_eq!(delays(&mut own, at(100)), Some(vec![(10_000, 350_000)]));
        own.set_link(at(1_000), &name("b"), 10_000, 0, 1);
        own.set_link(at(2_900), &name("b"), 10_000, 0, 1);
        assert_eq!(delays(&mut own, at(2_900)), None);
        own.set_link(at(3_000), &name("b"), 10_000, 0, 1);
        assert_eq!(delays(&mut own, at(3_000)), Some(vec![(10_000, 0)]));
    }

    #[test]
    fn what_goes_over_the_links_is_told_seldom() {
        let mut own = Own::new();
        own.set_link(at(0), &name("b"), 10_000, 0, 1);
        own.statement(at(0));
        own.set_flow(&name("b"), Flow { rate_kbps: 50, ..Flow::default() });
        assert_eq!(own.due(), at(0) + REFRESH, "hardly anything");
        let flow = Flow { rate_kbps: 5_000, ..Flow::default() };
        own.set_flow(&name("b"), flow);
        own.set_flow(&name("unknown"), flow);
        assert_eq!(own.due(), at(5_000));
        assert_eq!(own.statement(at(5_000)).map(|told| told.about.flows), Some(vec![flow]));
        assert_eq!(own.due(), at(5_000) + REFRESH);
    }

    #[test]
    fn no_more_streams_are_told_of_than_others_take() {
        let mut own = Own::new();
        let stream = |n: usize| format!("t/{n}").parse::<StreamName>().expect("valid");
        let told = (0..5000)
            .take_while(|n| {
                let can = own.can_publish(&stream(*n));
                own.publish(StreamState { name: stream(*n), incarnation: Incarnation(1), deadline_us: 1 });
                can
            })
            .count();
        assert_eq!(told, Limits::default().streams);
    }

    #[test]
    fn an_advertisement_has_an_end() {
        let mut own = Own::new();
        let long = "x".repeat(63);
        let fits = (0..2000)
            .map(|n| format!("{long}/{long}/{n}").parse::<StreamName>().expect("valid"))
            .take_while(|name| {
                let room = own.has_room_for(name);
                own.subscribe(name, 1);
                room
            })
            .count();
        assert!((1000..2000).contains(&fits), "{fits}");
    }
}
