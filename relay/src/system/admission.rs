//! Which streams fit the links that leave here, and which of those that enter here are carried where.
//!
//! The sending end of a link has the last word on it: of the streams whose quiet graph uses the link it counts first those of
//! high priority, then the others, each in the order in which they came, and declines what is beyond the link's share for
//! admission. It tells the overlay both ([`topology::terms`]). The ingress of a stream computes its graphs over links with room;
//! what it cannot reach so it tells, too, and the egress tells its sinks. So two streams that are admitted at once are told apart
//! by the one relay that sees both, and one of high priority takes the place of those that came last.

use super::carried::{Carried, StreamId};
use super::clients::Published;
use super::{Kind, Port, RelaySystem, refusal};
use crate::directory::{Asked, Graphs};
use crate::events::What;
use crate::report::{AdmissionCount, TokenUsage, Usage};
use link::{Bitrate, Instant, Residual};
use node::control::{CloseCode, Control, Publish, Refusal, Wants};
use node::trust::Direction;
use node::{PortId, Ports};
use std::collections::{BTreeMap, BTreeSet};
use topology::lsdb::Incarnation;
use topology::terms::{Full, LinkTerms, MOST_DECLINED, MOST_UNSERVED, Need, Room, Unserved};
use topology::{LinkEnd, NodeName, StreamName};

/// Tokens whose use is told apart; what comes by others is counted together.
const MOST_TOKENS: usize = 1024;

/// What a stream asks of a link that leaves here: those of high priority first, then who came first.
type Request = (bool, Instant, StreamId);

impl RelaySystem {
    /// Counts anew what is admitted to the links that leave here, where streams or links have changed.
    pub(super) fn settle_admission(&mut self, now: Instant) {
        if !std::mem::take(&mut self.admission_stale) {
            return;
        }
        let me = self.directory.me().clone();
        let mut requests: BTreeMap<LinkEnd, BTreeMap<Request, Need>> = BTreeMap::new();
        for (id, carried) in &mut self.carried {
            for (to, since, need) in carried.requests(now, &me) {
                let request = (!need.high_priority, since, id.clone());
                requests.entry(to).or_default().insert(request, need);
            }
        }
        for peer in self.relays.keys().cloned().collect::<Vec<_>>() {
            let terms = self.link_terms(&peer, requests.get(&peer));
            self.directory.own().set_link_terms(&peer, terms);
        }
    }

    fn link_terms(&self, peer: &LinkEnd, requests: Option<&BTreeMap<Request, Need>>) -> LinkTerms {
        let Some(options) = self.options.links.get(peer) else { return LinkTerms::default() };
        let tags = options.tags.clone();
        let Some(capacity) = options.policy.capacity else {
            return LinkTerms { tags, room: None, declined: Vec::new() };
        };
        let share = capacity.as_bps() as f64 * self.options.limits.max_admitted_share;
        let mut room = Room { most_kbps: kbps(share), ..Room::default() };
        let mut declined: Vec<Incarnation> = Vec::new();
        for ((_, _, id), need) in requests.into_iter().flatten() {
            // Those of high priority come first, so that what is left is left for any.
            if need.rate_kbps > room.left_kbps(false) {
                declined.push(id.incarnation);
                continue;
            }
            let taken = if need.high_priority { &mut room.high_kbps } else { &mut room.normal_kbps };
            *taken = taken.saturating_add(need.rate_kbps);
        }
        declined.truncate(MOST_DECLINED);
        LinkTerms { tags, room: Some(room), declined }
    }

    /// The rate that a source is held to and the links are asked for: the least of what it says, its token and the operator
    /// allow.
    pub(super) fn granted(
        &self,
        wants: &Wants,
        high_priority: bool,
        token: Option<Bitrate>,
    ) -> (Option<Bitrate>, Need) {
        let wanted = (wants.rate_kbps > 0).then(|| Bitrate::bps(u64::from(wants.rate_kbps) * 1000));
        let rate = [wanted, token, self.options.limits.max_stream_rate].into_iter().flatten().min();
        let rate_kbps = rate.map_or(0, |rate| kbps(rate.as_bps() as f64));
        (rate, Need { rate_kbps, high_priority })
    }

    /// Whether the operator lets sources ask for this.
    pub(super) fn check_service(&self, publish: &Publish, token: Option<Bitrate>) -> Result<(), Refusal> {
        let limits = &self.options.limits;
        let forbidden = |reason: String| Err(refusal(CloseCode::Forbidden, reason));
        let wanted = u64::from(publish.wants.rate_kbps) * 1000;
        let mbps = |bps: u64| bps as f64 / 1e6;
        for (most, who) in [(token, "its token allows"), (limits.max_stream_rate, "this relay allows")] {
            if let Some(most) = most.filter(|most| wanted > most.as_bps()) {
                let (asked, most) = (mbps(wanted), mbps(most.as_bps()));
                return forbidden(format!("{}: {asked} Mbit/s were asked, {who} {most} Mbit/s", publish.name));
            }
        }
        if publish.high_priority && !limits.allow_high_priority {
            return forbidden(format!("{}: this relay admits no stream at high priority", publish.name));
        }
        if !limits.allow_modes.is_empty() && !limits.allow_modes.contains(&publish.mode) {
            let allowed: Vec<String> =
                limits.allow_modes.iter().map(|mode| format!("{mode:?}").to_lowercase()).collect();
            let mode = format!("{:?}", publish.mode).to_lowercase();
            let allowed = allowed.join(", ");
            return forbidden(format!("{}: mode {mode}; this relay allows {allowed}", publish.name));
        }
        if u128::from(publish.deadline_us) < limits.min_deadline.as_micros() {
            let asked = f64::from(publish.deadline_us) / 1e3;
            let least = limits.min_deadline;
            return forbidden(format!(
                "{}: a deadline of {asked} ms; this relay allows {least:?} and more",
                publish.name
            ));
        }
        if let Some(target) = Residual::ppb(publish.wants.target_ppb).map(Residual::as_share) {
            let least = limits.min_target_residual;
            if target < least {
                let name = &publish.name;
                return forbidden(format!(
                    "{name}: a residual of {target:e} was asked; this relay allows {least:e} and more"
                ));
            }
        }
        Ok(())
    }

    /// Refuses a stream that is watched, and that cannot be carried to any who watches.
    pub(super) fn check_room(&self, id: &StreamId, publish: &Publish, need: Need) -> Result<(), Refusal> {
        if need.rate_kbps == 0 {
            return Ok(());
        }
        let has = self.room_held(&id.name);
        let (deadline_us, mode, max_cost) = (publish.deadline_us, publish.mode, publish.wants.max_cost);
        let asked = Asked { deadline_us, mode, life: id.incarnation, need, max_cost, has: &has };
        let Graphs { egresses, unserved, .. } = self.directory.graphs(&id.name, &asked);
        let watched_here = self.wanted.contains_key(&id.name);
        match unserved.first() {
            Some((egress, full)) if egresses.is_empty() && !watched_here => {
                Err(refusal(CloseCode::Overload, format!("{} is not carried to {egress}: {full}", id.name)))
            }
            _ => Ok(()),
        }
    }

    /// The links on which a stream that enters here has room: a life has that of the one it follows.
    pub(super) fn room_held(&self, name: &StreamName) -> Links {
        let me = self.name();
        let lives = self.carried.iter().filter(|(id, _)| id.name == *name && id.ingress == *me);
        lives.flat_map(|(_, carried)| carried.reserved()).collect()
    }

    /// Refuses a stream for which the link of a source or sink has no room beside what else goes over it, where the operator says what such links
    /// carry. Streams of which nobody says the rate are not counted.
    pub(super) fn check_last_mile(&self, port: PortId, name: &StreamName, rate_kbps: u32) -> Result<(), Refusal> {
        let limits = &self.options.limits;
        let Some(capacity) = limits.client_capacity else { return Ok(()) };
        let Some(Port { peer, kind: Kind::Client(streams), .. }) = self.ports.get(&port) else { return Ok(()) };
        let most = kbps(capacity.as_bps() as f64 * limits.max_admitted_share);
        let others = streams.keys().filter(|other| *other != name).map(|other| self.admitted_kbps(other));
        let held = others.fold(0, u32::saturating_add);
        if rate_kbps > most.saturating_sub(held) {
            let mbps = |kbps: u32| f64::from(kbps) / 1e3;
            let (asked, held, most) = (mbps(rate_kbps), mbps(held), mbps(most));
            let whose = format!("the link of {} is admitted {most} Mbit/s, of which {held} are taken", peer.name);
            return Err(refusal(CloseCode::Overload, format!("{name} needs {asked} Mbit/s; {whose}")));
        }
        Ok(())
    }

    /// What a stream was admitted with, as far as it is known here; of several lives the most.
    pub(super) fn admitted_kbps(&self, name: &StreamName) -> u32 {
        let here = self.published.get(name).map(|published| published.need.rate_kbps);
        let of_name = self.carried.iter().filter(|(id, _)| id.name == *name);
        let carried = of_name.filter_map(|(_, carried)| Some(carried.newest()?.reserve.need.rate_kbps));
        here.into_iter().chain(carried).max().unwrap_or(0)
    }

    /// Counts what came of asking to publish or to watch.
    pub(super) fn note_asked(&mut self, act: Direction, outcome: Option<CloseCode>) {
        match self.asked.iter_mut().find(|count| count.act == act && count.refused == outcome) {
            Some(count) => count.times += 1,
            None => self.asked.push(AdmissionCount { act, refused: outcome, times: 1 }),
        }
    }

    /// What links have refused to streams that enter here; told to the overlay, and to the operator where it is new.
    pub(super) fn note_unserved(&mut self, now: Instant, name: &StreamName, unserved: Vec<(NodeName, Full)>) {
        let Some(published) = self.published.get_mut(name).filter(|published| published.unserved != unserved) else {
            return;
        };
        let new: Vec<_> = unserved.iter().filter(|(egress, _)| !published.lacks(egress)).cloned().collect();
        published.unserved = unserved;
        for (egress, full) in new {
            let (stream, reason) = (name.clone(), full.to_string());
            self.log.note(now, What::NotAdmitted { stream, egress, reason });
        }
        self.tell_unserved();
    }

    /// Tells the overlay where streams that enter here are not carried.
    pub(super) fn tell_unserved(&mut self) {
        let of = |(stream, published): (&StreamName, &Published)| {
            let told = |(egress, full): &(NodeName, Full)| Unserved {
                stream: stream.clone(),
                egress: egress.clone(),
                full: full.clone(),
            };
            published.unserved.iter().map(told).collect::<Vec<_>>()
        };
        let all = self.published.iter().flat_map(of).take(MOST_UNSERVED).collect();
        self.directory.own().set_unserved(all);
    }

    /// Tells sinks here that links are too full for what they watch, once for each change of the link that is; and that they no
    /// longer are.
    pub(super) fn tell_refused(&mut self, ports: &mut Ports) {
        for (name, wanted) in &mut self.wanted {
            let full = self.directory.unserved(name, self.directory.me());
            let ends = full.map(|full| (full.from.clone(), full.to.clone()));
            let told = std::mem::replace(&mut wanted.full, ends.clone());
            if told == ends {
                continue;
            }
            for sink in &wanted.sinks {
                match full {
                    Some(full) => refuse(*sink, name, full, ports),
                    None => ports.control(*sink, Control::Subscribed { name: name.clone(), live: true }),
                }
            }
        }
    }

    /// Tells one sink so, that has just come.
    pub(super) fn tell_whether_refused(&self, sink: node::PortId, name: &StreamName, ports: &mut Ports) {
        if let Some(full) = self.directory.unserved(name, self.directory.me()) {
            refuse(sink, name, full, ports);
        }
    }

    /// What came in by each token.
    pub(super) fn usage(&self) -> Vec<TokenUsage> {
        let mut all: BTreeMap<String, (usize, Usage)> = BTreeMap::new();
        for (token, usage) in &self.used {
            all.entry(token.clone()).or_default().1 = *usage;
        }
        for published in self.published.values() {
            let Some(carried) = self.carried.get(&published.id) else { continue };
            let token = if self.used.contains_key(&published.token) { published.token.clone() } else { String::new() };
            let (streams, usage) = all.entry(token).or_default();
            *streams += 1;
            usage.add(&self.use_of(carried).since(&carried.used_before));
        }
        all.into_iter().map(|(token, (streams, usage))| TokenUsage { token, streams, usage }).collect()
    }

    /// A token publishes here: its use is counted from now on.
    pub(super) fn note_token(&mut self, token: &str) {
        if !self.used.contains_key(token) && self.used.len() < MOST_TOKENS {
            self.used.insert(token.to_owned(), Usage::default());
        }
    }

    /// A stream is published by this token no more: what it used is kept.
    pub(super) fn close_account(&mut self, id: &StreamId, token: &str) {
        let Some(usage) = self.carried.get(id).map(|carried| self.use_of(carried)) else { return };
        let Some(carried) = self.carried.get_mut(id) else { return };
        let new = usage.since(&std::mem::replace(&mut carried.used_before, usage));
        let key = if self.used.contains_key(token) { token } else { "" };
        self.used.entry(key.to_owned()).or_default().add(&new);
    }

    fn use_of(&self, carried: &Carried) -> Usage {
        let counters = self.forward.counters(carried.key);
        Usage {
            packets: counters.unique,
            bytes: counters.unique_bytes,
            packets_sent: counters.forwarded,
            bytes_sent: counters.forwarded_bytes,
            pulled: counters.pulled,
            policed: counters.policed,
            redundant: counters.duplicates,
        }
    }
}

/// Tells a sink that a link is too full.
fn refuse(sink: node::PortId, name: &StreamName, full: &Full, ports: &mut Ports) {
    let refusal = refusal(CloseCode::Overload, format!("{name} is not carried here: {full}"));
    ports.control(sink, Control::StreamRefused { name: name.clone(), refusal });
}

fn kbps(bps: f64) -> u32 {
    (bps / 1e3).ceil().min(f64::from(u32::MAX)) as u32
}

impl Usage {
    fn add(&mut self, more: &Usage) {
        for (sum, more) in self.fields().into_iter().zip(more.clone().fields()) {
            *sum += *more;
        }
    }

    /// What was used since it was `before`.
    fn since(mut self, before: &Usage) -> Usage {
        for (now, before) in self.fields().into_iter().zip(before.clone().fields()) {
            *now = now.saturating_sub(*before);
        }
        self
    }

    fn fields(&mut self) -> [&mut u64; 7] {
        let Usage { packets, bytes, packets_sent, bytes_sent, pulled, policed, redundant } = self;
        [packets, bytes, packets_sent, bytes_sent, pulled, policed, redundant]
    }
}

/// The ends of links.
pub(super) type Links = BTreeSet<(NodeName, LinkEnd)>;
