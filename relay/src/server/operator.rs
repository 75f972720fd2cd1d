//! What the operator changes while the relay runs: the repair of links, and the configuration read anew.

use super::{Known, Relay, Shared};
use crate::config::{Config, Limits, Neighbour};
use crate::events::What;
use crate::ops::{Change, Order, Refused};
use crate::overrides::{self, LinkOverride, Overrides, SetBy};
use crate::report::{LinkRepair, Reloaded, RepairEffect};
use crate::system::{LinkOptions, PATIENCE};
use crate::view::{LinkPast, TraceView};
use node::control::CloseCode;
use node::exit::Failure;
use std::time::Duration;
use topology::{LinkEnd, StreamName};

/// How often it is looked whether all have answered.
const ASK_EVERY: Duration = Duration::from_millis(20);

/// How often, and how often at most, it is looked whether another entry leads to a neighbour whose entry is gone: five seconds.
const COME_EVERY: Duration = Duration::from_millis(50);
const COMING: usize = 100;

impl Relay {
    /// Does what was asked over the operations port.
    pub(super) fn obey(&mut self, order: Order) {
        // Who asked may have gone away: then nobody hears the answer.
        match order {
            Order::Drain { link, drain, done } => drop(done.send(self.drain_or_resume(link.as_ref(), drain))),
            Order::Link { peer, done } => {
                let known = self.shared.knows(&peer);
                let link = || self.shared.link_repair(&peer);
                drop(done.send(if known { Ok(link()) } else { Err(self.shared.unknown(&peer)) }));
            }
            Order::Overview { done } => drop(done.send(self.overview())),
            Order::Past { peer, done } => drop(done.send(self.shared.link_past(&peer))),
            Order::Sla { stream, done } => {
                drop(done.send(self.shared.host.with(|now, system, _| system.sla(now, &stream))));
            }
            Order::Trace { stream, done } => {
                let shared = self.shared.clone();
                self.tasks.spawn_local(async move { drop(done.send(shared.trace(&stream).await)) });
            }
            Order::StartTest { ask, done } => {
                drop(done.send(self.shared.host.with(|now, system, ports| system.start_test(now, ask, ports))));
            }
            Order::Test { stop, done } => {
                drop(done.send(self.shared.host.with(|now, system, ports| match stop {
                    true => system.stop_test(now, ports),
                    false => system.line_test(),
                })));
            }
            Order::Reload { done } => {
                let config = match &self.loader {
                    Some(load) => load(),
                    None => Err(Failure::new(
                        node::exit::Exit::Config,
                        "this relay was started without a configuration to read anew",
                    )),
                };
                drop(done.send(self.reload(config)));
            }
            Order::Repair { peer, change, persist, done } => match self.set_repair(&peer, change, persist) {
                Ok(new) if persist => {
                    let shared = self.shared.clone();
                    self.tasks.spawn_local(async move {
                        let kept = shared.keep_override(&peer, new).await;
                        drop(done.send(kept.map(|()| shared.link_repair(&peer))));
                    });
                }
                result => drop(done.send(result.map(|_| self.shared.link_repair(&peer)))),
            },
        }
    }

    /// Takes streams off this relay or one of its links, or lets them on again; whether that changed anything.
    fn drain_or_resume(&mut self, link: Option<&LinkEnd>, drain: bool) -> Result<bool, Refused> {
        tracing::info!(?link, drain, "the operator asks");
        let Some(link) = link else {
            if self.stopping && !drain {
                return Err(Refused::Stopping(format!("relay {} is stopping for good", self.shared.name)));
            }
            self.shared.host.with(|now, system, ports| match drain {
                true => system.drain(now, ports),
                false => system.resume(now, ports),
            });
            return Ok(std::mem::replace(&mut self.draining, drain) != drain);
        };
        let stands = self.shared.host.with(|_, system, _| system.link(link).is_some());
        if !stands && (drain || !self.shared.knows(link)) {
            return Err(self.shared.unknown(link));
        }
        Ok(self.shared.host.with(|now, system, ports| system.drain_link(now, link, drain, ports)))
    }

    /// Changes the repair of a link, in force with the next packet. Returns what stands above the configuration now.
    fn set_repair(&mut self, peer: &LinkEnd, change: Change, persist: bool) -> Result<LinkOverride, Refused> {
        let shared = &self.shared;
        if !shared.knows(peer) {
            return Err(shared.unknown(peer));
        }
        if persist && shared.config.borrow().state.is_none() {
            let what = "nothing changed: to persist, the relay's configuration must name a file: state = \"/var/lib/anabranch/relay-state.toml\"";
            return Err(Refused::NoState(what.into()));
        }
        let old = shared.overrides.borrow().get(peer).copied().unwrap_or_default();
        let new = match change {
            Change::Set(set) => set.above(old),
            Change::Reset => LinkOverride::default(),
        };
        new.check().map_err(Refused::Wrong)?;
        put(&mut shared.overrides.borrow_mut(), peer, new);
        shared.renew(peer);
        tracing::info!(link = %peer, policy = ?shared.options_for(peer).policy, persist, "the operator changed the repair of a link");
        Ok(new)
    }

    /// Puts a new configuration in force, as far as a running relay can; a wrong one changes nothing.
    pub(super) fn reload(&mut self, config: Result<Config, Failure>) -> Result<Reloaded, String> {
        let checked = config.map_err(|failure| failure.message).and_then(|config| {
            config.check()?;
            // The port stays where it is until the relay is restarted: it must not be left open there.
            Config { ops: self.shared.config.borrow().ops, ..config.clone() }.check_ops()?;
            let guard = config.ops_guard().map_err(|failure| failure.message)?;
            let renewed = self.credentials.reload().map_err(|error| format!("keys: {error}"))?;
            Ok((config, guard, renewed))
        });
        match checked {
            Ok((config, guard, renewed)) => {
                let mut reloaded = self.apply(config);
                if renewed {
                    reloaded.applied.push("the files in keys".into());
                }
                if self.guard.send_if_modified(|old| std::mem::replace(old, guard.clone()) != guard) {
                    reloaded.applied.push("who may come to the operations port".into());
                }
                self.reloads.done += 1;
                self.reloads.last_error = None;
                let Reloaded { applied, restart, covered } = &reloaded;
                tracing::info!(?applied, "configuration reloaded");
                let what = What::Reloaded { applied: applied.clone(), restart: restart.clone() };
                self.shared.host.with(|now, system, _| system.tell(now, what));
                if !restart.is_empty() || !covered.is_empty() {
                    tracing::warn!(?restart, ?covered, "of the new configuration, not in force");
                }
                Ok(reloaded)
            }
            Err(what) => {
                self.reloads.refused += 1;
                self.reloads.last_error = Some(what.clone());
                let refused = What::ReloadRefused { reason: what.clone() };
                self.shared.host.with(|now, system, _| system.tell(now, refused));
                tracing::error!(error = what, "not reloaded: the old configuration stays in force");
                Err(what)
            }
        }
    }

    fn apply(&mut self, new: Config) -> Reloaded {
        let mut done = Reloaded::default();
        let old = self.shared.config.borrow().clone();
        let Limits { max_relays, max_stream_history, .. } = old.limits;
        for (field, changed) in [
            ("name", new.name != old.name),
            ("keys", new.keys != old.keys),
            ("listen", new.listen != old.listen),
            ("ops", new.ops != old.ops),
            ("path_mtu", new.path_mtu != old.path_mtu),
            ("segmentation_offload", new.segmentation_offload != old.segmentation_offload),
            ("threads", new.threads != old.threads),
            ("state", new.state != old.state),
            ("limits.max_relays", new.limits.max_relays != max_relays),
            ("limits.max_stream_history", new.limits.max_stream_history != max_stream_history),
        ] {
            if changed {
                done.restart.push(field.into());
            }
        }
        let limits = Limits { max_relays, max_stream_history, ..new.limits.clone() };
        for (field, changed) in [
            ("limits", limits != old.limits),
            ("drain", new.drain != old.drain),
            ("source_grace", new.source_grace != old.source_grace),
            ("report_interval", new.report_interval != old.report_interval),
            ("location", new.location != old.location),
            ("tags", new.tags != old.tags),
            ("address", new.address != old.address),
            ("auto", new.auto != old.auto),
            ("routing", new.routing != old.routing),
            ("ts_health", new.ts_health != old.ts_health),
        ] {
            if changed {
                done.applied.push(field.into());
            }
        }
        if limits != old.limits || new.source_grace != old.source_grace {
            let limits = limits.clone();
            self.shared.host.with(|_, system, _| system.set_limits(limits, new.source_grace));
        }
        // What waits for a restart is as it was, so that the next reload tells of it again.
        *self.shared.config.borrow_mut() = Config {
            neighbours: new.neighbours.clone(),
            limits,
            drain: new.drain,
            source_grace: new.source_grace,
            report_interval: new.report_interval,
            location: new.location,
            tags: new.tags.clone(),
            address: new.address.clone(),
            auto: new.auto.clone(),
            routing: new.routing.clone(),
            ts_health: new.ts_health,
            ops_token_file: new.ops_token_file.clone(),
            ops_tls: new.ops_tls.clone(),
            ops_hosts: new.ops_hosts.clone(),
            ops_without_token: new.ops_without_token,
            ..old
        };
        let (place, traits) = (new.place(), new.traits());
        self.shared.host.with(|now, system, ports| {
            system.set_place(place);
            system.set_traits(now, traits, ports);
            system.set_ts_health(new.ts_health);
        });
        self.apply_neighbours(&new.neighbours, &mut done);
        done
    }

    fn apply_neighbours(&mut self, new: &[Neighbour], done: &mut Reloaded) {
        let mut listed = Vec::new();
        for neighbour in new {
            let index = match self.shared.position(neighbour, &listed) {
                Some(index) => {
                    self.change(index, neighbour, done);
                    index
                }
                None => {
                    done.applied.push(format!("neighbours {}: new", neighbour.title()));
                    self.keep(neighbour)
                }
            };
            listed.push(index);
        }
        let gone: Vec<usize> = {
            let known = self.shared.neighbours.borrow();
            (0..known.len()).filter(|index| !known[*index].gone && !listed.contains(index)).collect()
        };
        for index in gone {
            done.applied
                .push(format!("neighbours {}: removed", self.shared.neighbours.borrow()[index].configured.title()));
            self.forget(index);
        }
    }

    /// What the configuration says of a known neighbour has changed, or not.
    fn change(&mut self, index: usize, new: &Neighbour, done: &mut Reloaded) {
        let old = self.shared.neighbours.borrow()[index].configured.clone();
        if old == *new {
            return;
        }
        let fields = differences(&old, new);
        done.applied.push(format!("neighbours {}: {}", new.title(), fields.join(", ")));
        let redial =
            old.address != new.address || old.name != new.name || old.bind != new.bind || old.path_mtu != new.path_mtu;
        let (before, peer) = {
            let mut known = self.shared.neighbours.borrow_mut();
            let known = &mut known[index];
            let before = known.report.end();
            known.configured = new.clone();
            known.report.address.clone_from(&new.address);
            if new.name.is_some() {
                known.report.name.clone_from(&new.name);
            }
            (before, known.report.end())
        };
        if let Some(before) = before.filter(|before| peer.as_ref() != Some(before)) {
            self.shared.renew(&before);
        }
        // The link that stands goes on; the next one is dialled as the new entry says.
        if redial {
            self.dial(index);
        }
        let Some(peer) = peer else { return };
        let above = self.shared.overrides.borrow().get(&peer).copied().unwrap_or_default();
        for field in above.covers(&fields) {
            done.covered.push(format!(
                "neighbours {peer}: {field}; `ctl link reset {} {peer}` lets it in force",
                self.shared.name
            ));
        }
        self.shared.renew(&peer);
    }

    /// No longer keeps a link to a neighbour. Streams are taken off it first, so that nothing is lost.
    fn forget(&mut self, index: usize) {
        let (end, dialler) = {
            let mut known = self.shared.neighbours.borrow_mut();
            let Known { report, dialler, gone, .. } = &mut known[index];
            *gone = true;
            (report.end(), dialler.take())
        };
        if let Some(dialler) = dialler {
            dialler.abort();
        }
        let Some(end) = end else { return };
        let shared = self.shared.clone();
        let grace = shared.config.borrow().drain;
        self.tasks.spawn_local(async move {
            // Another entry may lead to the same relay, by another address or another link: it is given the time to come up.
            let mut patience = tokio::time::interval(COME_EVERY);
            for _ in 0..COMING {
                patience.tick().await;
                if !shared.is_coming(&end) {
                    break;
                }
            }
            shared.renew(&end);
            let Some(port) = shared.host.with(|_, system, _| system.link(&end)) else { return };
            // A link that the neighbour dialled is by its entry, not by ours.
            let ours = shared.host.with(|_, _, ports| ports.peer(port).is_some_and(|peer| peer.dialled));
            if !ours || shared.knows_entry(&end) {
                return;
            }
            let drained = shared.host.with(|now, system, ports| system.drain_link(now, &end, true, ports));
            tokio::time::sleep(grace).await;
            let back = shared.knows_entry(&end);
            shared.host.with(|now, system, ports| {
                if !back {
                    ports.close(port, CloseCode::Done, "no longer a neighbour");
                }
                // What the operator had drained before stays so where the entry has come back.
                if drained || !back {
                    system.drain_link(now, &end, false, ports);
                }
            });
        });
    }
}

fn put(all: &mut Overrides, peer: &LinkEnd, new: LinkOverride) {
    if new.is_empty() {
        all.remove(peer);
    } else {
        all.insert(peer.clone(), new);
    }
}

/// The fields in which two entries differ.
fn differences(old: &Neighbour, new: &Neighbour) -> Vec<&'static str> {
    macro_rules! each {
        ($($field:ident)*) => { [$((stringify!($field), old.$field != new.$field)),*] };
    }
    let fields = each!(address name bind delay cost tags capacity repair target_residual max_overhead path_mtu);
    fields.into_iter().filter_map(|(field, changed)| changed.then_some(field)).collect()
}

impl Shared {
    /// Where a neighbour of a new configuration stands among those known, but those that are taken.
    fn position(&self, new: &Neighbour, taken: &[usize]) -> Option<usize> {
        let same = |(index, known): (usize, &Known)| {
            let (old, new_name) = (&known.configured, &new.name);
            // A name tells most: an entry may move to another address, or be given the name that was found there.
            let named = new_name.is_some() && (old.name == *new_name || known.report.name == *new_name);
            let address = new.address.is_some() && old.address == new.address;
            let same_link = old.link == new.link;
            !known.gone
                && !taken.contains(&index)
                && same_link
                && (named || (address && (old.name.is_none() || new_name.is_none())))
        };
        self.neighbours.borrow().iter().enumerate().position(same)
    }

    /// Whether an entry may yet lead to the relay at the other end of a link: who is there is not known, or the link is not up.
    fn is_coming(&self, end: &LinkEnd) -> bool {
        let known = self.neighbours.borrow();
        let coming = known.iter().filter(|known| !known.gone && known.configured.address.is_some());
        let mut coming = coming.map(|known| known.report.end());
        coming.any(|other| match other {
            None => true,
            Some(other) => other.relay == end.relay && self.host.with(|_, system, _| system.link(&other).is_none()),
        })
    }

    /// Whether the configuration has an entry for a neighbour.
    fn knows_entry(&self, peer: &LinkEnd) -> bool {
        self.neighbours.borrow().iter().any(|known| !known.gone && known.report.end().as_ref() == Some(peer))
    }

    fn knows(&self, peer: &LinkEnd) -> bool {
        self.knows_entry(peer)
            || self.overrides.borrow().contains_key(peer)
            || self.host.with(|_, system, _| system.link(peer).is_some())
    }

    /// What is said of a link that is not there.
    fn unknown(&self, peer: &LinkEnd) -> Refused {
        let why = if self.knows_entry(peer) { " now" } else { ", and no neighbours entry names it" };
        let known = self.names().join(", ");
        Refused::Unknown(format!("relay {} has no link to {peer}{why}; it knows: {known}", self.name))
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.host.with(|_, system, _| system.links().map(ToString::to_string).collect());
        let known = self.neighbours.borrow();
        names
            .extend(known.iter().filter(|known| !known.gone).filter_map(|known| Some(known.report.end()?.to_string())));
        names.sort();
        names.dedup();
        names
    }

    /// What is to be in force on the link to a neighbour: the configuration, and above it what was set over the operations port.
    pub(super) fn options_for(&self, peer: &LinkEnd) -> LinkOptions {
        let known = self.neighbours.borrow();
        let entry = known.iter().find(|known| !known.gone && known.report.end().as_ref() == Some(peer));
        let mut options = entry.map(|known| LinkOptions::from(&known.configured)).unwrap_or_default();
        let above = self.overrides.borrow().get(peer).copied().unwrap_or_default();
        options.policy = above.apply(options.policy);
        options
    }

    /// Puts in force what is said of the link to a neighbour, now and for its next connections.
    pub(super) fn renew(&self, peer: &LinkEnd) {
        let options = self.options_for(peer);
        self.host.with(|now, system, ports| system.set_link_options(now, peer.clone(), options, ports));
    }

    pub(super) fn set_by(&self, peer: &LinkEnd) -> SetBy {
        let now = self.overrides.borrow().get(peer).copied();
        match now {
            None => SetBy::Config,
            kept if kept == self.kept.borrow().get(peer).copied() => SetBy::Kept,
            _ => SetBy::Live,
        }
    }

    /// What the link to a neighbour was like, whether it is up or not.
    fn link_past(&self, peer: &LinkEnd) -> Result<LinkPast, Refused> {
        let past = self.host.with(|now, system, _| system.link_past(now, peer));
        if past.points.is_empty() && !self.knows(peer) { Err(self.unknown(peer)) } else { Ok(past) }
    }

    /// How a stream is at every relay of its graph: who has answered when all have, or when it has been waited long enough.
    async fn trace(&self, stream: &StreamName) -> Option<TraceView> {
        let begun = self.host.with(|now, system, ports| system.begin_trace(now, stream, ports))?;
        let until = self.clock.now() + PATIENCE;
        while self.clock.now() < until && !self.host.with(|_, system, _| system.is_traced(&begun)) {
            tokio::time::sleep(ASK_EVERY).await;
        }
        self.host.with(|_, system, _| system.traced(&begun))
    }

    /// The repair of the link to a neighbour as it is now.
    fn link_repair(&self, peer: &LinkEnd) -> LinkRepair {
        let report = self.host.with(|now, system, ports| system.report(now, ports));
        let link = report.links.iter().find(|link| link.peer == *peer && link.role == node::trust::Role::Relay);
        LinkRepair {
            from: self.name.to_string(),
            to: peer.clone(),
            up: link.is_some(),
            policy: link.map_or_else(|| self.options_for(peer).policy, |link| link.policy),
            set_by: self.set_by(peer),
            wire_loss_sent: link.map_or(0.0, |link| link.wire_loss_sent),
            repair: link.map_or_else(RepairEffect::default, |link| link.repair),
        }
    }

    /// Writes what was set of a link to the file that outlasts a restart, away from the thread that forwards. It counts as kept only once
    /// it is written.
    async fn keep_override(&self, peer: &LinkEnd, new: LinkOverride) -> Result<(), Refused> {
        let _one_at_a_time = self.saving.lock().await;
        let Some(file) = self.config.borrow().state.clone() else { return Ok(()) };
        let mut links = self.kept.borrow().clone();
        put(&mut links, peer, new);
        let place = file.display().to_string();
        let written = tokio::task::spawn_blocking(move || overrides::save(&file, &links).map(|()| links)).await;
        let written = written.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        *self.kept.borrow_mut() = written.map_err(|error| {
            Refused::NotKept(format!("in force, but not kept for the next start: cannot write {place}: {error}"))
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_differ_by_field() {
        let old = Neighbour::at("lon:4400");
        let new = Neighbour { cost: 3, max_overhead: 0.2, ..old.clone() };
        assert_eq!(differences(&old, &new), ["cost", "max_overhead"]);
        assert!(differences(&old, &old).is_empty());
    }
}
