//! The link-state database: what every relay says of itself, flooded, sequence-numbered and expiring.

use crate::about::About;
use crate::names::{LinkEnd, NodeName, StreamName};
use crate::terms::{LinkTerms, Terms};
use crate::trouble::{Condition, Level};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A life of a stream: chosen at random each time a source publishes it, so that a restarted source is a new life
/// with its own sequence numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Incarnation(pub u64);

/// All that one relay says of itself. A newer one replaces an older one of the same origin whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Advertisement {
    /// Who says it.
    pub origin: NodeName,
    /// A restart of the origin counts as newer than all before: microseconds of its wall clock at start.
    pub boot: u64,
    /// Counts up within a boot.
    pub seq: u64,
    /// Its links towards neighbours, as it sends on them.
    pub links: Vec<LinkState>,
    /// Streams whose sources publish here.
    pub streams: Vec<StreamState>,
    /// Streams that someone here watches.
    pub subscriptions: Vec<Subscription>,
    /// No stream shall pass through it, though those that begin or end here may: it is about to stop.
    pub draining: bool,
    /// For people to see. Since 1.2 of the protocol; what says nothing where it is left out or cannot be read.
    #[serde(default, deserialize_with = "appended")]
    pub about: About,
    /// What routes and admission follow beyond what is measured. Since 1.3 of the protocol; as `about` is.
    #[serde(default, deserialize_with = "appended")]
    pub terms: Terms,
}

/// A field at the end of a message that a relay of an older minor version does not send.
fn appended<'de, T: Deserialize<'de> + Default, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    Ok(T::deserialize(from).unwrap_or_default())
}

/// One direction of a link, as its sending end knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinkState {
    /// The other end.
    pub peer: LinkEnd,
    /// One-way delay in microseconds.
    pub delay_us: u32,
    /// Share of transmissions lost, in parts per million.
    pub loss_ppm: u32,
    /// What the operator says it costs, relative to others.
    pub cost: u32,
}

/// A stream at its ingress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamState {
    /// Its name.
    pub name: StreamName,
    /// Its life.
    pub incarnation: Incarnation,
    /// One-way deadline in microseconds.
    pub deadline_us: u32,
}

/// A stream wanted at an egress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscription {
    /// Its name.
    pub name: StreamName,
    /// The longest one-way delay from the egress to one of its sinks, in microseconds.
    pub last_mile_us: u32,
}

/// What a relay says of the links that lead into it, as their receiving end: short, and flooded at once on every change of a
/// level. A newer one replaces an older one of the same origin whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TroubleReport {
    /// Who says it.
    pub origin: NodeName,
    /// As [`Advertisement::boot`].
    pub boot: u64,
    /// Counts up within a boot, apart from [`Advertisement::seq`].
    pub seq: u64,
    /// The links that are not as usual; all others are.
    pub links: Vec<LinkTrouble>,
}

/// A link in trouble.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkTrouble {
    /// The other end, which sends on it.
    pub peer: LinkEnd,
    /// Share of transmissions lost, in parts per million; counts as the highest of [`crate::trouble::LEVELS_PPM`] that it reaches.
    pub loss_ppm: u32,
    /// Whether its delay stands above what is usual.
    pub late: bool,
}

impl LinkTrouble {
    /// The condition that it tells of.
    pub fn condition(&self) -> Condition {
        Condition { level: Level::of(self.loss_ppm), late: self.late }
    }
}

/// How often a relay says again what has not changed.
pub const REFRESH: Duration = Duration::from_secs(30);

/// How long an advertisement stands without being refreshed: three refreshes.
pub const EXPIRY: Duration = Duration::from_secs(90);

/// How long an expired advertisement is remembered, so that a late copy of it cannot come back to life.
pub const MEMORY: Duration = Duration::from_secs(600);

/// Most links that join two relays.
pub const MOST_PARALLEL: usize = 8;

/// What a database holds at most. A peer that goes beyond is refused, never served in part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Relays, this one included.
    pub origins: usize,
    /// Links in one advertisement.
    pub links: usize,
    /// Streams in one advertisement.
    pub streams: usize,
    /// Subscriptions in one advertisement.
    pub subscriptions: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { origins: 1024, links: 256, streams: 2048, subscriptions: 8192 }
    }
}

/// What to do with an advertisement that came in.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It is news: flood it on to every neighbour but the one it came from.
    Newer,
    /// It is known, or known to have expired: do nothing.
    Same,
    /// It is out of date: send this one back to who sent it.
    Older(Arc<Advertisement>),
    /// It claims to be our own and is newer than what we last said: an earlier life of ours whose clock was ahead.
    /// Announce ourselves again at once; [`Database::announce`] goes above it.
    Overtaken,
}

/// What to do with a report of trouble that came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TroubleOutcome {
    /// It is news: flood it on to every neighbour but the one it came from.
    Newer(Arc<TroubleReport>),
    /// It is known: do nothing.
    Same,
    /// It is out of date: send this one back to who sent it.
    Older(Arc<TroubleReport>),
    /// It claims to be our own and is newer than what we last said: say ours again.
    Overtaken,
}

/// Why an advertisement is refused. The peer that sent it is broken or hostile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No room for another relay.
    #[error("advertisement of {origin}: {most} relays are known, the most there may be")]
    TooManyOrigins {
        /// Who was to be added.
        origin: NodeName,
        /// The bound.
        most: usize,
    },
    /// A list is longer than its bound.
    #[error("advertisement of {origin}: {found} {what}, at most {most} are allowed")]
    TooMany {
        /// Whose it is.
        origin: NodeName,
        /// What there is too much of.
        what: &'static str,
        /// How many it has.
        found: usize,
        /// The bound.
        most: usize,
    },
    /// A link from a relay to itself.
    #[error("advertisement of {origin}: a link to itself")]
    Loop {
        /// Whose it is.
        origin: NodeName,
    },
}

/// What a relay says of itself, before it is numbered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statement {
    /// As [`Advertisement::links`].
    pub links: Vec<LinkState>,
    /// As [`Advertisement::streams`].
    pub streams: Vec<StreamState>,
    /// As [`Advertisement::subscriptions`].
    pub subscriptions: Vec<Subscription>,
    /// As [`Advertisement::draining`].
    pub draining: bool,
    /// As [`Advertisement::about`].
    pub about: About,
    /// As [`Advertisement::terms`].
    pub terms: Terms,
}

/// A link as both its ends see it: it is there because each end advertises the other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkView<'a> {
    /// The end that sends.
    pub from: &'a NodeName,
    /// The link as the sending end calls it.
    pub to: &'a LinkEnd,
    /// The sender's word on this direction.
    pub state: &'a LinkState,
    /// The sender's terms for it, where it has any.
    pub terms: Option<&'a LinkTerms>,
}

impl LinkView<'_> {
    /// Whether what the other end tells of as `back` is this link in the other direction.
    pub fn is_way_back(&self, back: &LinkEnd) -> bool {
        back.relay == *self.from && back.link == self.to.link
    }
}

/// Where a stream enters the overlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ingress<'a> {
    /// The relay.
    pub node: &'a NodeName,
    /// What it says of the stream.
    pub state: &'a StreamState,
}

/// The link-state database of one relay.
///
/// A state machine without clock or socket: `now` is time on any monotonic clock of this node, messages come in by
/// [`Database::apply`], and what it returns is to be done. Of each origin the advertisement with the highest
/// `(boot, seq)` stands, so that databases that have heard the same set of advertisements are equal, whatever the order,
/// repetition or loss of all but the newest.
#[derive(Clone, Debug)]
pub struct Database {
    own: NodeName,
    limits: Limits,
    /// Number of our next announcement.
    next: (u64, u64),
    entries: BTreeMap<NodeName, Entry>,
    expired: BTreeMap<NodeName, Tombstone>,
    published: BTreeMap<StreamName, BTreeMap<NodeName, StreamState>>,
    watched: BTreeMap<StreamName, BTreeMap<NodeName, u32>>,
    /// By the relay that the links lead into.
    troubles: BTreeMap<NodeName, Trouble>,
    /// Number of our next report of trouble.
    next_trouble: (u64, u64),
    generation: u64,
    /// How many of the changes that `generation` counts were of conditions alone.
    condition_changes: u64,
}

#[derive(Clone, Debug)]
struct Trouble {
    report: Arc<TroubleReport>,
    conditions: BTreeMap<LinkEnd, Condition>,
    heard: Duration,
}

#[derive(Clone, Debug)]
struct Entry {
    advertisement: Arc<Advertisement>,
    heard: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Tombstone {
    number: (u64, u64),
    since: Duration,
}

impl Database {
    /// An empty database of relay `own`, which started at `boot` (microseconds of its wall clock).
    pub fn new(own: NodeName, boot: u64, limits: Limits) -> Self {
        Database {
            own,
            limits,
            next: (boot, 1),
            entries: BTreeMap::new(),
            expired: BTreeMap::new(),
            published: BTreeMap::new(),
            watched: BTreeMap::new(),
            troubles: BTreeMap::new(),
            next_trouble: (boot, 1),
            generation: 0,
            condition_changes: 0,
        }
    }

    /// Whose database it is.
    pub fn own(&self) -> &NodeName {
        &self.own
    }

    /// Counts changes that may matter to routing: links, metrics, streams, subscriptions, draining, relays that come and
    /// go. A mere refresh does not change it, so whoever computed from a generation need not compute again until it moves.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// As [`Database::generation`], without the changes of what a relay reports of the links into it; its first report counts, and that
    /// its last one expires.
    pub fn topology_generation(&self) -> u64 {
        self.generation - self.condition_changes
    }

    /// Says something of ourselves: numbers it, stores it, and returns what to flood to every neighbour. To be called on
    /// every change and when [`Database::refresh_due`] has come.
    pub fn announce(&mut self, now: Duration, statement: Statement) -> Arc<Advertisement> {
        let (boot, seq) = self.next;
        self.next = (boot, seq.saturating_add(1));
        let Statement { links, streams, subscriptions, draining, about, terms } = statement;
        let origin = self.own.clone();
        let advertisement =
            Arc::new(Advertisement { origin, boot, seq, links, streams, subscriptions, draining, about, terms });
        self.store(now, advertisement.clone());
        advertisement
    }

    /// When our own advertisement is to be said again; `None` before the first [`Database::announce`].
    pub fn refresh_due(&self) -> Option<Duration> {
        self.entries.get(&self.own).map(|entry| entry.heard + REFRESH)
    }

    /// Takes in an advertisement from a neighbour, its own or passed on.
    ///
    /// # Errors
    /// [`Refused`] where it is out of bounds; the database is unchanged then.
    pub fn apply(&mut self, now: Duration, advertisement: Advertisement) -> Result<Outcome, Refused> {
        self.check(&advertisement)?;
        let number = advertisement.number();
        if let Some(entry) = self.entries.get(&advertisement.origin) {
            let known = entry.advertisement.number();
            if number == known {
                return Ok(Outcome::Same);
            }
            if number < known {
                return Ok(Outcome::Older(entry.advertisement.clone()));
            }
        }
        if advertisement.origin == self.own {
            if number >= self.next {
                self.next = (number.0, number.1.saturating_add(1));
            }
            return Ok(Outcome::Overtaken);
        }
        if self.expired.get(&advertisement.origin).is_some_and(|dead| number <= dead.number) {
            return Ok(Outcome::Same);
        }
        if !self.has_place(&self.entries, &advertisement.origin) {
            return Err(Refused::TooManyOrigins { origin: advertisement.origin, most: self.limits.origins });
        }
        self.store(now, Arc::new(advertisement));
        Ok(Outcome::Newer)
    }

    /// Whether another node's word may be kept. One place is this node's own, which speaks when it likes.
    fn has_place<T>(&self, kept: &BTreeMap<NodeName, T>, origin: &NodeName) -> bool {
        let others = kept.len() - usize::from(kept.contains_key(&self.own));
        kept.contains_key(origin) || others + 1 < self.limits.origins
    }

    /// Says of the links into us which are in trouble; returns what to flood. To be called on every change, and when our
    /// own advertisement is refreshed.
    pub fn announce_trouble(&mut self, now: Duration, links: Vec<LinkTrouble>) -> Arc<TroubleReport> {
        let (boot, seq) = self.next_trouble;
        self.next_trouble = (boot, seq.saturating_add(1));
        let report = Arc::new(TroubleReport { origin: self.own.clone(), boot, seq, links });
        self.store_trouble(now, report.clone());
        report
    }

    /// Takes in what a relay says of the links into it.
    ///
    /// # Errors
    /// [`Refused`] where it is out of bounds; the database is unchanged then.
    pub fn apply_trouble(&mut self, now: Duration, report: TroubleReport) -> Result<TroubleOutcome, Refused> {
        let (found, most) = (report.links.len(), self.limits.links);
        if found > most {
            return Err(Refused::TooMany { origin: report.origin, what: "links in trouble", found, most });
        }
        let number = (report.boot, report.seq);
        if let Some(known) = self.troubles.get(&report.origin) {
            let known_number = (known.report.boot, known.report.seq);
            if number == known_number {
                return Ok(TroubleOutcome::Same);
            }
            if number < known_number {
                return Ok(TroubleOutcome::Older(known.report.clone()));
            }
        }
        if report.origin == self.own {
            if number >= self.next_trouble {
                self.next_trouble = (number.0, number.1.saturating_add(1));
            }
            return Ok(TroubleOutcome::Overtaken);
        }
        if !self.has_place(&self.troubles, &report.origin) {
            return Err(Refused::TooManyOrigins { origin: report.origin, most: self.limits.origins });
        }
        let report = Arc::new(report);
        self.store_trouble(now, report.clone());
        Ok(TroubleOutcome::Newer(report))
    }

    /// All reports of trouble, for a neighbour that has just joined.
    pub fn troubles(&self) -> impl Iterator<Item = &Arc<TroubleReport>> {
        self.troubles.values().map(|trouble| &trouble.report)
    }

    /// What a relay last said of the links into it.
    pub fn trouble(&self, origin: &NodeName) -> Option<&Arc<TroubleReport>> {
        self.troubles.get(origin).map(|trouble| &trouble.report)
    }

    /// What its receiving end says of the link `to` of `from`; `None` where that has never said anything.
    pub fn condition(&self, from: &NodeName, to: &LinkEnd) -> Option<Condition> {
        let trouble = self.troubles.get(&to.relay)?;
        if trouble.conditions.is_empty() {
            return Some(Condition::default());
        }
        Some(trouble.conditions.get(&to.from_other_end(from)).copied().unwrap_or_default())
    }

    fn store_trouble(&mut self, now: Duration, report: Arc<TroubleReport>) {
        let condition =
            |link: &LinkTrouble| (link.peer.clone(), Condition { level: Level::of(link.loss_ppm), late: link.late });
        let conditions: BTreeMap<LinkEnd, Condition> = report.links.iter().map(condition).collect();
        let origin = report.origin.clone();
        let before = self.troubles.insert(origin, Trouble { report, conditions: conditions.clone(), heard: now });
        // A first report takes the place of what the senders believed, of all links into this relay.
        self.condition_changes += u64::from(before.as_ref().is_some_and(|before| before.conditions != conditions));
        self.generation += u64::from(before.is_none_or(|before| before.conditions != conditions));
    }

    /// Drops what has not been refreshed for [`EXPIRY`], and returns whose it was. Our own never expires.
    pub fn expire(&mut self, now: Duration) -> Vec<NodeName> {
        self.expired.retain(|_, dead| now.saturating_sub(dead.since) < MEMORY);
        let own = &self.own;
        let stale = |(name, entry): (&NodeName, &Entry)| {
            (name != own && now.saturating_sub(entry.heard) >= EXPIRY).then(|| name.clone())
        };
        let gone: Vec<NodeName> = self.entries.iter().filter_map(stale).collect();
        for name in &gone {
            self.bury(now, name);
        }
        let own = &self.own;
        let reports = self.troubles.len();
        self.troubles.retain(|name, trouble| name == own || now.saturating_sub(trouble.heard) < EXPIRY);
        // What the senders believe counts again, of all links into those relays.
        self.generation += (reports - self.troubles.len()) as u64;
        gone
    }

    /// When the next advertisement expires, if none is refreshed before.
    pub fn next_expiry(&self) -> Option<Duration> {
        let others = self.entries.iter().filter(|(name, _)| **name != self.own);
        others.map(|(_, entry)| entry.heard + EXPIRY).min()
    }

    /// All that stands, by name of origin.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Advertisement>> {
        self.entries.values().map(|entry| &entry.advertisement)
    }

    /// What a neighbour that has just joined is told: everything, our own first, so that it can use us at once.
    pub fn snapshot(&self) -> Vec<Arc<Advertisement>> {
        let ours = self.get(&self.own).cloned();
        ours.into_iter().chain(self.iter().filter(|ad| ad.origin != self.own).cloned()).collect()
    }

    /// What `origin` says of itself.
    pub fn get(&self, origin: &NodeName) -> Option<&Arc<Advertisement>> {
        self.entries.get(origin).map(|entry| &entry.advertisement)
    }

    /// Directed links that are there, by (from, to): each end advertises the other. Two relays joined by several links
    /// yield each of them.
    pub fn links(&self) -> impl Iterator<Item = LinkView<'_>> {
        self.iter().flat_map(move |ad| {
            let known = ad.links.iter().enumerate().filter(|(_, link)| self.links_back(&ad.origin, link));
            let mut links: Vec<(usize, &LinkState)> = known.collect();
            links.sort_by(|(_, a), (_, b)| a.peer.cmp(&b.peer));
            links.into_iter().map(move |(at, state)| LinkView {
                from: &ad.origin,
                to: &state.peer,
                state,
                terms: ad.terms.links.get(at),
            })
        })
    }

    /// Where a stream enters. Where two relays claim it (a source that moved faster than the news of it), the first by
    /// name counts, so that every relay decides alike.
    pub fn ingress(&self, stream: &StreamName) -> Option<Ingress<'_>> {
        let (node, state) = self.published.get(stream)?.first_key_value()?;
        Some(Ingress { node, state })
    }

    /// Every relay that claims to be the ingress of a stream, by name.
    pub fn claims(&self, stream: &StreamName) -> impl Iterator<Item = Ingress<'_>> {
        self.published.get(stream).into_iter().flatten().map(|(node, state)| Ingress { node, state })
    }

    /// The relays at which a stream is watched, by name, each with the longest last mile there in microseconds.
    pub fn egresses(&self, stream: &StreamName) -> impl Iterator<Item = (&NodeName, u32)> {
        self.watched.get(stream).into_iter().flatten().map(|(node, last_mile)| (node, *last_mile))
    }

    /// All streams published anywhere, by name.
    pub fn streams(&self) -> impl Iterator<Item = &StreamName> {
        self.published.keys()
    }

    fn links_back(&self, origin: &NodeName, link: &LinkState) -> bool {
        self.get(&link.peer.relay).is_some_and(|ad| {
            ad.links.iter().any(|back| back.peer.relay == *origin && back.peer.link == link.peer.link)
        })
    }

    fn check(&self, ad: &Advertisement) -> Result<(), Refused> {
        let lists = [
            ("links", ad.links.len(), self.limits.links),
            ("flows", ad.about.flows.len(), self.limits.links),
            ("terms of links", ad.terms.links.len(), self.limits.links),
            ("streams", ad.streams.len(), self.limits.streams),
            ("subscriptions", ad.subscriptions.len(), self.limits.subscriptions),
        ];
        for (what, found, most) in lists {
            if found > most {
                return Err(Refused::TooMany { origin: ad.origin.clone(), what, found, most });
            }
        }
        if let Some((what, found, most)) = ad.terms.excess() {
            return Err(Refused::TooMany { origin: ad.origin.clone(), what, found, most });
        }
        let mut parallel: BTreeMap<&NodeName, usize> = BTreeMap::new();
        ad.links.iter().for_each(|link| *parallel.entry(&link.peer.relay).or_default() += 1);
        if let Some(found) = parallel.into_values().find(|found| *found > MOST_PARALLEL) {
            let (origin, what, most) = (ad.origin.clone(), "links to one relay", MOST_PARALLEL);
            return Err(Refused::TooMany { origin, what, found, most });
        }
        if ad.links.iter().any(|link| link.peer.relay == ad.origin) {
            return Err(Refused::Loop { origin: ad.origin.clone() });
        }
        Ok(())
    }

    fn store(&mut self, now: Duration, advertisement: Arc<Advertisement>) {
        self.expired.remove(&advertisement.origin);
        let entry = Entry { advertisement: advertisement.clone(), heard: now };
        let before = self.entries.insert(advertisement.origin.clone(), entry).map(|entry| entry.advertisement);
        if before.as_ref().is_some_and(|before| before.says_the_same(&advertisement)) {
            return;
        }
        if let Some(before) = before {
            self.unindex(&before);
        }
        self.index(&advertisement);
        self.generation += 1;
    }

    fn bury(&mut self, now: Duration, name: &NodeName) {
        let Some(entry) = self.entries.remove(name) else { return };
        self.unindex(&entry.advertisement);
        self.generation += 1;
        if self.expired.len() >= self.limits.origins {
            let oldest = self.expired.iter().min_by_key(|(_, dead)| dead.since).map(|(name, _)| name.clone());
            oldest.map(|name| self.expired.remove(&name));
        }
        self.expired.insert(name.clone(), Tombstone { number: entry.advertisement.number(), since: now });
    }

    fn index(&mut self, ad: &Advertisement) {
        for stream in &ad.streams {
            self.published.entry(stream.name.clone()).or_default().insert(ad.origin.clone(), stream.clone());
        }
        for wish in &ad.subscriptions {
            let last_mile = self.watched.entry(wish.name.clone()).or_default().entry(ad.origin.clone()).or_default();
            *last_mile = wish.last_mile_us.max(*last_mile);
        }
    }

    fn unindex(&mut self, ad: &Advertisement) {
        remove_all(&mut self.published, &ad.origin, ad.streams.iter().map(|stream| &stream.name));
        remove_all(&mut self.watched, &ad.origin, ad.subscriptions.iter().map(|wish| &wish.name));
    }
}

impl Advertisement {
    /// What orders advertisements of one origin: the higher one is newer.
    pub fn number(&self) -> (u64, u64) {
        (self.boot, self.seq)
    }

    /// Whether it differs from `other` in its number, and in what it says for people to see, at most.
    pub fn says_the_same(&self, other: &Advertisement) -> bool {
        self.links == other.links
            && self.streams == other.streams
            && self.subscriptions == other.subscriptions
            && self.draining == other.draining
            && self.terms == other.terms
    }
}

fn remove_all<'a, T>(
    index: &mut BTreeMap<StreamName, BTreeMap<NodeName, T>>,
    origin: &NodeName,
    names: impl Iterator<Item = &'a StreamName>,
) {
    for name in names {
        if let Some(by_origin) = index.get_mut(name) {
            by_origin.remove(origin);
            if by_origin.is_empty() {
                index.remove(name);
            }
        }
    }
}
