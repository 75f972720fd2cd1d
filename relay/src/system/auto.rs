//! A relay that chooses its neighbours by itself: the two beside it in the ring of names ([`topology::ring`]), which keep
//! the overlay whole whoever dies, and a few near ones, found by measurement.
//!
//! | link to | kept |
//! |---|---|
//! | a neighbour of the configuration | always; never touched from here |
//! | the relay before and the one after, by name, among those that can be reached | while it is so |
//! | a near relay, chosen by this one | until one is found that is clearly nearer |
//! | a relay that has chosen this one | as long as it wants, and is not the farthest where places are short |
//! | a relay that joins through this one | until it has its own |
//!
//! Two places are left for who joins, or is measured. Who dialled a link lets go of it, a while after neither end has reason for it,
//! and who has too many of the farthest: streams are taken off first. Every change but in the ring makes a link nearer than it
//! was, so that it comes to an end. Relays that cannot
//! be reached any more are remembered and tried now and then, so that an overlay that fell apart finds itself again.

use super::{Kind, RelaySystem};
use crate::events::What;
use link::Instant;
use node::control::CloseCode;
use node::{PortId, Ports};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use topology::{LinkEnd, NodeName, ring};

/// How often neighbours are thought about.
const STEP: Duration = Duration::from_millis(500);

/// A relay that should be dialled by the other end is dialled from here after this time all the same.
const COURTESY: Duration = Duration::from_secs(2);

/// A dialling that has not led to a link by then has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// A relay that could not be reached, or refused, is not dialled again for this long.
const AGAIN_AFTER: Duration = Duration::from_secs(30);

/// One that has no place for this relay is left alone for this long: others are nearer to it.
const REFUSED_FOR: Duration = Duration::from_secs(900);

/// The same as [`AGAIN_AFTER`] for one beside this relay in the ring.
const RING_AGAIN_AFTER: Duration = Duration::from_secs(3);

/// A link of the ring that nobody has reason for any more is kept this long: reasons come back.
const HOLD: Duration = Duration::from_secs(15);

/// How long streams have to leave a link.
const LEAVE: Duration = Duration::from_secs(2);

/// How long a link is measured before it is judged.
const MEASURE: Duration = Duration::from_secs(2);

/// For how long a measurement counts.
const REMEMBER: Duration = Duration::from_secs(3600);

/// Places kept for relays that join through this one.
const GUESTS: usize = 2;

/// The relays that look nearest are measured, so many for each that is chosen.
const TRIED: usize = 4;

/// Addresses remembered of relays that can be reached no more.
const MOST_STRAYS: usize = 256;

/// How often one of them is tried.
const STRAY_EVERY: Duration = Duration::from_secs(10);

/// What the shell is to dial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dial {
    /// Any relay that the configuration names for joining.
    Join,
    /// This one, whose certificate must show the name.
    Relay {
        /// Its name.
        name: NodeName,
        /// Where it says it is.
        address: String,
    },
}

/// The choice of neighbours in the making.
#[derive(Debug)]
pub(super) struct Auto {
    degree: usize,
    due: Instant,
    dials: Vec<Dial>,
    dialling: BTreeMap<NodeName, Instant>,
    /// Who should dial this relay, and since when it has been waited for.
    awaited: BTreeMap<NodeName, Instant>,
    /// Not to be dialled before.
    failed: BTreeMap<NodeName, Instant>,
    /// Near relays that are kept.
    chosen: BTreeSet<NodeName>,
    /// The one that is measured.
    trial: Option<NodeName>,
    /// One-way delays in microseconds, and when they were measured.
    measured: BTreeMap<NodeName, (Instant, u32)>,
    idle: BTreeMap<NodeName, Instant>,
    /// Neighbours that were beside this relay in the ring, and may be again.
    once_beside: BTreeSet<NodeName>,
    addresses: BTreeMap<NodeName, String>,
    strays_due: Instant,
    last_stray: Option<NodeName>,
}

impl Auto {
    pub(super) fn new(degree: usize) -> Auto {
        Auto {
            degree,
            due: Instant::ORIGIN,
            dials: Vec::new(),
            dialling: BTreeMap::new(),
            awaited: BTreeMap::new(),
            failed: BTreeMap::new(),
            chosen: BTreeSet::new(),
            trial: None,
            measured: BTreeMap::new(),
            idle: BTreeMap::new(),
            once_beside: BTreeSet::new(),
            addresses: BTreeMap::new(),
            strays_due: Instant::ORIGIN,
            last_stray: None,
        }
    }

    /// Near relays that this one keeps: what the ring and those who join leave, half of it for those who choose this one.
    fn near(&self) -> usize {
        self.degree.saturating_sub(2 + GUESTS) / 2
    }

    fn may_dial(&self, now: Instant, name: &NodeName) -> bool {
        !self.dialling.contains_key(name) && self.failed.get(name).is_none_or(|until| *until <= now)
    }

    fn dial(&mut self, now: Instant, name: &NodeName) {
        let Some(address) = self.addresses.get(name).cloned().filter(|_| self.may_dial(now, name)) else { return };
        self.dialling.insert(name.clone(), now);
        self.dials.push(Dial::Relay { name: name.clone(), address });
    }

    fn fail(&mut self, now: Instant, name: &NodeName, again_after: Duration) {
        self.dialling.remove(name);
        self.failed.insert(name.clone(), now + again_after);
        if self.trial.as_ref() == Some(name) {
            self.trial = None;
        }
    }
}

/// Where this relay stands among those that can be reached.
struct Standing {
    members: BTreeSet<NodeName>,
    beside: BTreeSet<NodeName>,
}

impl RelaySystem {
    /// Chooses neighbours from now on, of at most so many links; or leaves that to the operator.
    pub(super) fn set_auto(&mut self, degree: Option<usize>) {
        match (&mut self.auto, degree) {
            (Some(auto), Some(degree)) => auto.degree = degree,
            (auto, degree) => *auto = degree.map(Auto::new),
        }
        if degree.is_none() {
            self.leaving.clear();
        }
    }

    /// What is to be dialled since the last time.
    pub fn take_dials(&mut self) -> Vec<Dial> {
        self.auto.as_mut().map(|auto| std::mem::take(&mut auto.dials)).unwrap_or_default()
    }

    /// A relay of [`RelaySystem::take_dials`] could not be reached, or refused.
    pub fn dial_failed(&mut self, now: Instant, name: &NodeName) {
        let beside = self.standing().beside.contains(name);
        if let Some(auto) = &mut self.auto {
            auto.fail(now, name, if beside { RING_AGAIN_AFTER } else { AGAIN_AFTER });
        }
    }

    /// Whether the configuration names a link.
    fn is_configured(&self, link: &LinkEnd) -> bool {
        self.options.links.get(link).is_some_and(|options| options.configured)
    }

    /// Whether the configuration names a neighbour, by whatever link.
    fn is_wanted(&self, name: &NodeName) -> bool {
        let mut entries = self.options.links.range(LinkEnd::from(name.clone())..);
        entries.by_ref().take_while(|(end, _)| end.relay == *name).any(|(_, options)| options.configured)
    }

    /// Whether a link to a relay stands.
    fn is_joined(&self, name: &NodeName) -> bool {
        self.relay(name).is_some()
    }

    /// The links that this relay may have chosen, each the only one to its relay: those with a name are the operator's on either side, and so
    /// is what stands beside them.
    fn nameless(&self) -> impl Iterator<Item = (&NodeName, PortId)> {
        let may_go = |end: &LinkEnd| end.link.is_none() && self.links_to(&end.relay) == 1;
        self.relays.iter().filter(move |(end, _)| may_go(end)).map(|(end, port)| (&end.relay, *port))
    }

    /// Whether a relay that has just connected may stay; makes room for one beside this relay in the ring. More links to a relay that is joined take no
    /// place of others.
    pub(super) fn welcomes(&mut self, now: Instant, link: &LinkEnd, dialled: bool, ports: &mut Ports) -> bool {
        let Some(degree) = self.auto.as_ref().map(|auto| auto.degree) else { return true };
        let Standing { beside, .. } = self.standing();
        if self.is_configured(link) || self.is_joined(&link.relay) || dialled && self.joined() < degree {
            return true;
        }
        if beside.contains(&link.relay) {
            return self.joined() < degree || self.make_room(now, &beside, ports);
        }
        self.joined() < degree && link.link.is_none()
    }

    /// Lets go at once of the link that is missed least.
    fn make_room(&mut self, now: Instant, beside: &BTreeSet<NodeName>, ports: &mut Ports) -> bool {
        let delay = |name: &NodeName| self.own_delay(now, name, ports);
        let can_go = |(name, _): &(&NodeName, PortId)| !beside.contains(*name) && !self.is_wanted(name);
        let missed_least = self.nameless().filter(can_go).max_by_key(|(name, _)| delay(name));
        let Some((name, port)) = missed_least.map(|(name, port)| (name.clone(), port)) else { return false };
        self.detach(now, port);
        ports.close(port, CloseCode::Overload, "its place is needed for a relay beside this one");
        if let Some(auto) = &mut self.auto {
            auto.chosen.remove(&name);
            auto.fail(now, &name, AGAIN_AFTER);
        }
        true
    }

    /// A link to a relay is gone, and why.
    pub(super) fn note_parted(&mut self, now: Instant, link: &LinkEnd, code: CloseCode) {
        let LinkEnd { relay: name, link: None } = link else { return };
        let beside = self.standing().beside.contains(name);
        if let Some(auto) = self.auto.as_mut().filter(|_| code == CloseCode::Overload) {
            auto.chosen.remove(name);
            auto.fail(now, name, if beside { RING_AGAIN_AFTER } else { REFUSED_FOR });
        }
    }

    /// Those that can be reached and choose their neighbours, this one included, and who is beside it.
    fn standing(&self) -> Standing {
        let me = self.directory.me();
        let mut members = self.directory.reachable();
        members.retain(|name| self.directory.chooses_neighbours(name));
        members.insert(me.clone());
        Standing { beside: ring::beside(&members, me), members }
    }

    /// Thinks about neighbours, where it is time to.
    pub(super) fn choose_neighbours(&mut self, now: Instant, ports: &mut Ports) {
        let Some(mut auto) = self.auto.take_if(|auto| auto.due <= now) else { return };
        auto.due = now + STEP;
        auto.addresses.extend(self.directory.addresses());
        let standing = self.standing();
        while auto.addresses.len() > MOST_STRAYS.max(standing.members.len()) {
            let stray = auto.addresses.keys().find(|name| !standing.members.contains(*name)).cloned();
            stray.map(|name| auto.addresses.remove(&name));
        }
        self.forget_what_is_over(now, &mut auto);
        self.keep_ring(now, &standing, &mut auto);
        self.judge_trial(now, &mut auto, ports);
        self.try_another(now, &standing, &mut auto);
        self.let_go_of_idle(now, &standing, &mut auto, ports);
        self.let_go_of_farthest(now, &standing, &mut auto, ports);
        self.look_for_strays(now, &standing, &mut auto);
        self.auto = Some(auto);
        self.finish_leaving(now, ports);
    }

    fn forget_what_is_over(&self, now: Instant, auto: &mut Auto) {
        auto.dialling.retain(|name, _| !self.is_joined(name));
        let late = |since: &Instant| now.saturating_since(*since) >= PATIENCE;
        let lost: Vec<NodeName> =
            auto.dialling.iter().filter(|(_, since)| late(since)).map(|(name, _)| name.clone()).collect();
        lost.iter().for_each(|name| auto.fail(now, name, RING_AGAIN_AFTER));
        auto.failed.retain(|_, until| *until > now);
        auto.measured.retain(|_, (at, _)| now.saturating_since(*at) < REMEMBER);
        auto.chosen.retain(|name| self.is_joined(name));
        auto.idle.retain(|name, _| self.is_joined(name));
    }

    fn keep_ring(&self, now: Instant, standing: &Standing, auto: &mut Auto) {
        auto.once_beside.extend(standing.beside.iter().cloned());
        auto.once_beside.retain(|name| self.is_joined(name));
        auto.awaited.retain(|name, _| standing.beside.contains(name) && !self.is_joined(name));
        for name in standing.beside.iter().filter(|name| !self.is_joined(name)) {
            let since = *auto.awaited.entry(name.clone()).or_insert(now);
            if self.directory.me() < name || now.saturating_since(since) >= COURTESY {
                auto.dial(now, name);
            }
        }
    }

    /// The delay of the link to a neighbour in microseconds, once it is measured.
    fn own_delay(&self, now: Instant, name: &NodeName, ports: &Ports) -> Option<u32> {
        let quality = ports.link(self.relay(name)?)?.quality(now);
        (quality.rtt_min > Duration::ZERO).then(|| (quality.rtt_min / 2).as_micros().min(10_000_000) as u32)
    }

    fn judge_trial(&self, now: Instant, auto: &mut Auto, ports: &Ports) {
        let Some(name) = auto.trial.clone() else { return };
        let Some(port) = self.relay(&name) else {
            auto.trial = auto.trial.take().filter(|name| auto.dialling.contains_key(name));
            return;
        };
        let lasted = self.ports.get(&port).map_or(Duration::ZERO, |port| now.saturating_since(port.opened));
        let Some(delay) = self.own_delay(now, &name, ports).filter(|_| lasted >= MEASURE) else { return };
        auto.trial = None;
        auto.measured.insert(name.clone(), (now, delay));
        if auto.chosen.len() < auto.near() {
            auto.chosen.insert(name);
            return;
        }
        let known = |name: &NodeName| auto.measured.get(name).map_or(u32::MAX, |(_, delay)| *delay);
        let Some(farthest) = auto.chosen.iter().max_by_key(|name| known(name)).cloned() else { return };
        let farther = u64::from(known(&farthest));
        if u64::from(delay) + (u64::from(delay) / 5).max(2_000) < farther {
            auto.chosen.remove(&farthest);
            auto.chosen.insert(name);
        }
    }

    /// Measures the next of the relays that look nearest through the overlay.
    fn try_another(&self, now: Instant, standing: &Standing, auto: &mut Auto) {
        let whole = standing.beside.iter().all(|name| self.is_joined(name));
        let degree = auto.degree.saturating_sub(GUESTS);
        if auto.trial.is_some() || !whole || standing.beside.is_empty() || self.joined() >= degree {
            return;
        }
        let nearest = self.directory.by_distance();
        let eligible = nearest.iter().filter(|name| {
            standing.members.contains(*name) && !standing.beside.contains(*name) && !self.is_wanted(name)
        });
        let next = eligible.take(TRIED * auto.near()).find(|name| {
            !self.is_joined(name)
                && !auto.measured.contains_key(*name)
                && auto.may_dial(now, name)
                && auto.addresses.contains_key(*name)
        });
        if let Some(next) = next.cloned() {
            auto.dial(now, &next);
            auto.trial = Some(next);
        }
    }

    /// Links that this relay dialled and that neither it nor the ring has reason for.
    fn let_go_of_idle(&mut self, now: Instant, standing: &Standing, auto: &mut Auto, ports: &mut Ports) {
        let whole = standing.beside.iter().all(|name| self.is_joined(name));
        let dialled = |port: PortId| {
            self.ports.get(&port).is_some_and(|port| port.peer.dialled && matches!(port.kind, Kind::Relay(_)))
        };
        let has_reason = |name: &NodeName| {
            !whole
                || standing.beside.contains(name)
                || auto.chosen.contains(name)
                || auto.trial.as_ref() == Some(name)
                || self.is_wanted(name)
                || !standing.members.contains(name)
        };
        let ours: Vec<NodeName> =
            self.nameless().filter(|(_, port)| dialled(*port)).map(|(name, _)| name.clone()).collect();
        let mut turns = Vec::new();
        for name in ours {
            if has_reason(&name) {
                auto.idle.remove(&name);
                turns.push((name, false));
                continue;
            }
            // One that was only measured, or joined through, has served.
            let served = auto.measured.contains_key(&name);
            let hold = match auto.once_beside.contains(&name) {
                true => HOLD,
                false if served => Duration::ZERO,
                false => LEAVE,
            };
            let since = *auto.idle.entry(name.clone()).or_insert(now);
            if now.saturating_since(since) >= hold {
                turns.push((name, true));
            }
        }
        for (name, leave) in turns {
            self.leave(now, &name, leave, ports);
        }
    }

    /// Takes streams off a link before it is let go, or lets them on again.
    fn leave(&mut self, now: Instant, name: &NodeName, leave: bool, ports: &mut Ports) {
        let end = LinkEnd::from(name.clone());
        if leave == self.leaving.contains_key(&end) {
            return;
        }
        let link = Some(end.clone());
        if leave {
            self.leaving.insert(end, now);
            self.log.note(now, What::Draining { link });
        } else {
            self.leaving.remove(&end);
            self.log.note(now, What::Resumed { link });
        }
        self.watch_links(now, ports);
        self.settle(now, ports);
    }

    /// Where the places of who joins are taken: the farthest of the links that others have made, once they are measured. One whose
    /// relay would be left with less than two is not among them.
    fn let_go_of_farthest(&mut self, now: Instant, standing: &Standing, auto: &mut Auto, ports: &mut Ports) {
        let staying = self.joined() - self.leaving.len();
        if staying <= auto.degree.saturating_sub(GUESTS) {
            return;
        }
        let mut farthest: Option<(u32, NodeName)> = None;
        for (name, port) in self.nameless() {
            let Some(known) = self.ports.get(&port) else { continue };
            let kept = standing.beside.contains(name) || self.is_wanted(name);
            let leaves = self.leaving.contains_key(&LinkEnd::from(name.clone()));
            if known.peer.dialled || kept || leaves || self.directory.degree(name) <= 2 {
                continue;
            }
            // Who cannot be judged yet is waited for.
            let measured = now.saturating_since(known.opened) >= MEASURE;
            let Some(delay) = self.own_delay(now, name, ports).filter(|_| measured) else { return };
            farthest = farthest.max(Some((delay, name.clone())));
        }
        if let Some((_, name)) = farthest {
            self.leave(now, &name, true, ports);
        }
    }

    fn finish_leaving(&mut self, now: Instant, ports: &mut Ports) {
        let over = |since: &Instant| now.saturating_since(*since) >= LEAVE;
        let gone: Vec<LinkEnd> =
            self.leaving.iter().filter(|(_, since)| over(since)).map(|(end, _)| end.clone()).collect();
        for end in gone {
            if let Some(auto) = &mut self.auto {
                auto.idle.remove(&end.relay);
            }
            if let Some(port) = self.link(&end) {
                let dialled = self.ports.get(&port).is_some_and(|port| port.peer.dialled);
                // Who had dialled shall look for another.
                let code = if dialled { CloseCode::Done } else { CloseCode::Overload };
                self.detach(now, port);
                ports.close(port, code, "this relay has nearer neighbours");
            }
        }
    }

    /// Without any link, or while some that were known cannot be reached: looks for them.
    fn look_for_strays(&self, now: Instant, standing: &Standing, auto: &mut Auto) {
        let alone = self.relays.is_empty();
        if now < auto.strays_due {
            return;
        }
        auto.strays_due = now + if alone { COURTESY } else { STRAY_EVERY };
        if alone {
            auto.dials.push(Dial::Join);
        }
        let is_stray = |name: &&NodeName| !standing.members.contains(*name) && *name != self.directory.me();
        let after = auto.last_stray.clone();
        let beyond = |name: &&NodeName| after.as_ref().is_none_or(|after| *name > after);
        let strays = || auto.addresses.keys().filter(is_stray);
        if let Some(stray) = strays().find(beyond).or_else(|| strays().next()).cloned() {
            auto.last_stray = Some(stray.clone());
            auto.dial(now, &stray);
        }
    }
}
