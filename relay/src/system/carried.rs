//! A stream carried here, as the slow path knows it: its names and its graphs. Pure.

use super::admission::Links;
use crate::forward::lack::{Along, Ask};
use crate::forward::{EPOCHS, Hop, Rest, Service, StreamKey, label};
use crate::report::Usage;
use crate::sla::LossHop;
use link::{Instant, Label, Residual};
use node::PortId;
use node::control::{Content, Control, Edge, Install, Module, Publish, StreamOpen};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Deref;
use std::rc::Rc;
use std::time::Duration;
use topology::lsdb::Incarnation;
use topology::select::Modules;
use topology::terms::Need;
use topology::{LinkEnd, NodeName, StreamName};

/// The same question, come by another way, is not asked on within this time: less than who asked waits to ask again.
const SAME: Duration = Duration::from_millis(40);

/// So many questions are remembered.
const MOST_ASKED: usize = 16;

/// Longest deadline of a stream, in microseconds.
pub(super) const MAX_DEADLINE_US: u32 = 60_000_000;

/// An epoch that a newer one has replaced is kept at least this long, and four deadlines.
const RETIRE_AFTER: Duration = Duration::from_secs(2);

/// One life of a stream, entering the overlay at one relay.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId {
    /// Its name.
    pub name: StreamName,
    /// Its life.
    pub incarnation: Incarnation,
    /// Where its source publishes.
    pub ingress: NodeName,
}

/// What is announced of a stream.
#[derive(Clone, Copy, Debug)]
pub struct Announced {
    /// What is promised of it.
    pub service: Service,
    /// What it carries.
    pub content: Content,
    /// Whether its payloads are sealed from source to sink.
    pub sealed: bool,
}

impl Announced {
    /// Packets of a relay's own, which show what the links do by their policies.
    pub fn test(deadline_us: u32) -> Announced {
        Announced::new(deadline_us, 0, Content::Datagrams, false)
    }

    fn new(deadline_us: u32, target_ppb: u32, content: Content, sealed: bool) -> Announced {
        let deadline = Duration::from_micros(u64::from(deadline_us.min(MAX_DEADLINE_US)));
        Announced { service: Service { deadline, target: Residual::ppb(target_ppb) }, content, sealed }
    }
}

impl From<&Publish> for Announced {
    fn from(publish: &Publish) -> Announced {
        Announced::new(publish.deadline_us, publish.wants.target_ppb, publish.content, publish.sealed)
    }
}

impl From<&StreamOpen> for Announced {
    fn from(open: &StreamOpen) -> Announced {
        Announced::new(open.deadline_us, open.target_ppb, open.content, open.sealed)
    }
}

impl From<&Install> for Announced {
    fn from(install: &Install) -> Announced {
        Announced::new(install.deadline_us, install.target_ppb, install.content, install.sealed)
    }
}

impl Carried {
    /// Whether it is announced as this.
    pub fn is_announced_as(&self, announced: &Announced) -> bool {
        let Announced { service, content, sealed } = announced;
        (self.service, self.content, self.sealed) == (*service, *content, *sealed)
    }
}

/// A stream carried here.
#[derive(Debug)]
pub struct Carried {
    /// Since when it is carried.
    pub since: Instant,
    /// Its place in the forwarder.
    pub key: StreamKey,
    /// The relay on whose account it is.
    pub payer: NodeName,
    /// What is promised of it.
    pub service: Service,
    /// What it carries.
    pub content: Content,
    /// Whether its payloads are sealed from source to sink.
    pub sealed: bool,
    /// Since when nothing brings it here, or its ingress does not advertise it.
    pub orphan_since: Option<Instant>,
    /// What was lately asked on for relays below, and when, the newest last.
    asked: VecDeque<(Instant, Ask)>,
    /// When all that is newer was last asked for though nothing was missing.
    pub renewed: Instant,
    /// When a neighbour said that it has ended, against its ingress.
    pub said_to_end: Option<Instant>,
    /// On which hop packets were lost that did not come here, as far as other relays have said.
    pub lost: BTreeMap<u32, LossHop>,
    /// What it had used of this relay before its present publisher's account began.
    pub used_before: Usage,
    /// Since when it asks for room on each link.
    requested: BTreeMap<LinkEnd, Instant>,
    boot: u64,
    /// Graphs went: outputs that only they had are to be closed.
    untidy: bool,
    /// By age of the epoch, the newest last; never more than [`EPOCHS`].
    graphs: Vec<Graph>,
}

#[derive(Debug)]
struct Graph {
    install: Rc<Installed>,
    replaced: Option<Instant>,
}

/// An installation, and what it came as: it is passed on as it is.
#[derive(Clone, Debug)]
pub struct Installed {
    /// What it says.
    pub install: Install,
    /// As which message.
    pub message: Rc<Control>,
}

impl Deref for Installed {
    type Target = Install;
    fn deref(&self) -> &Install {
        &self.install
    }
}

impl Installed {
    /// What it takes to keep, about: as many bytes as it came in.
    pub fn bytes(&self) -> usize {
        match &*self.message {
            Control::Signed(signed) => signed.body.len() + signed.certificate.len(),
            plain => node::control::encoded_size(plain).unwrap_or_default(),
        }
    }
}

/// Most bytes of graphs that are kept of the streams of one ingress: a thousand streams over a hundred links each.
const MOST_OF_ONE: usize = 8 << 20;

/// Most bytes of graphs that are kept.
const MOST_OF_ALL: usize = 64 << 20;

/// Whether a graph of so many bytes is kept beside those that are, each by its ingress and size.
pub fn has_room<'a>(kept: impl Iterator<Item = (&'a NodeName, usize)>, ingress: &NodeName, more: usize) -> bool {
    let (mut of_one, mut of_all) = (more, more);
    for (from, bytes) in kept {
        of_all += bytes;
        of_one += if from == ingress { bytes } else { 0 };
    }
    of_one <= MOST_OF_ONE && of_all <= MOST_OF_ALL
}

/// What an installation is to a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adopted {
    /// News: to be passed on.
    New,
    /// News of a later boot of the ingress: all older epochs are void.
    NewBoot,
    /// Known, or too old.
    Old,
}

impl Carried {
    /// A stream without graphs.
    pub fn new(since: Instant, key: StreamKey, payer: NodeName, announced: Announced) -> Carried {
        let Announced { service, content, sealed } = announced;
        Carried {
            since,
            key,
            payer,
            service,
            content,
            sealed,
            orphan_since: None,
            asked: VecDeque::new(),
            renewed: Instant::ORIGIN,
            said_to_end: None,
            lost: BTreeMap::new(),
            used_before: Usage::default(),
            requested: BTreeMap::new(),
            boot: 0,
            untidy: false,
            graphs: Vec::new(),
        }
    }

    /// Notes on which hop these packets were lost. What was lost long ago is forgotten.
    pub fn note_lost(&mut self, numbers: &BTreeSet<u32>, hop: &LossHop) {
        self.lost.extend(numbers.iter().map(|seq| (*seq, hop.clone())));
        while self.lost.len() > super::blame::MOST_ANSWERS {
            self.lost.pop_first();
        }
    }

    /// Its deadline.
    pub fn deadline(&self) -> Duration {
        self.service.deadline
    }

    /// Its deadline in microseconds, as messages say it.
    pub fn deadline_us(&self) -> u32 {
        u32::try_from(self.service.deadline.as_micros()).unwrap_or(u32::MAX)
    }

    /// Its target in parts per billion, as messages say it.
    pub fn target_ppb(&self) -> u32 {
        self.service.target.map_or(0, Residual::as_ppb)
    }

    /// Takes a graph in, once per epoch.
    pub fn adopt(&mut self, now: Instant, install: Rc<Installed>) -> Adopted {
        if install.boot < self.boot {
            return Adopted::Old;
        }
        let new_boot = install.boot > self.boot && !self.graphs.is_empty();
        self.boot = install.boot;
        if new_boot {
            self.graphs.clear();
            self.untidy = true;
        }
        let epoch = install.epoch;
        if self.graphs.iter().any(|graph| graph.install.epoch == epoch) {
            return Adopted::Old;
        }
        let later = |graph: &Graph| label::later(graph.install.epoch, epoch);
        let at = self.graphs.iter().position(later).unwrap_or(self.graphs.len());
        if at == 0 && self.graphs.len() == EPOCHS {
            return Adopted::Old;
        }
        let replaced = (at < self.graphs.len()).then_some(now);
        self.graphs.insert(at, Graph { install, replaced });
        if self.graphs.len() > EPOCHS {
            self.graphs.remove(0);
            self.untidy = true;
        }
        let older = self.graphs.len() - 1;
        for graph in &mut self.graphs[..older] {
            graph.replaced.get_or_insert(now);
        }
        if new_boot { Adopted::NewBoot } else { Adopted::New }
    }

    /// Takes out the epochs that were replaced long enough ago that no packet travels on them.
    pub fn retire(&mut self, now: Instant) -> Vec<u16> {
        let after = RETIRE_AFTER.max(4 * self.deadline());
        let mut retired = Vec::new();
        self.graphs.retain(|graph| {
            let keep = graph.replaced.is_none_or(|since| now.saturating_since(since) < after);
            if !keep {
                retired.push(graph.install.epoch);
            }
            keep
        });
        self.untidy |= !retired.is_empty();
        retired
    }

    /// Whether graphs have gone since this was last asked.
    pub fn take_untidy(&mut self) -> bool {
        std::mem::take(&mut self.untidy)
    }

    /// The graphs kept, oldest first.
    pub fn graphs(&self) -> impl DoubleEndedIterator<Item = &Rc<Installed>> {
        self.graphs.iter().map(|graph| &graph.install)
    }

    /// The newest graph.
    pub fn newest(&self) -> Option<&Rc<Installed>> {
        self.graphs.last().map(|graph| &graph.install)
    }

    /// The links on which it asks for room, by its newest graph.
    pub fn reserved(&self) -> Links {
        let Some(install) = self.newest().filter(|install| install.reserve.need.rate_kbps > 0) else {
            return Links::new();
        };
        let asked = |slot: &usize| install.reserve.modules >> slot & 1 == 1;
        let slots = (0..install.modules.len().min(label::MAX_MODULES)).filter(asked);
        let edges = slots.flat_map(|slot| &install.modules[slot].edges);
        edges.map(|edge| (edge.from.clone(), edge.to.clone())).collect()
    }

    /// The links of `me` on which it asks for room: which, since when, and how much.
    pub fn requests(&mut self, now: Instant, me: &NodeName) -> Vec<(LinkEnd, Instant, Need)> {
        let need = self.newest().map(|install| install.reserve.need).unwrap_or_default();
        let to: BTreeSet<LinkEnd> =
            self.reserved().into_iter().filter(|(from, _)| from == me).map(|(_, to)| to).collect();
        self.requested.retain(|link, _| to.contains(link));
        let since = |link: &LinkEnd| *self.requested.entry(link.clone()).or_insert(now);
        to.iter().map(since).zip(&to).map(|(since, link)| (link.clone(), since, need)).collect::<Vec<_>>()
    }

    /// The links by which `me` has the stream in two disjoint ways, and in the targeted graphs where they are asked along, in the
    /// newest graph that has such.
    pub fn upstream(&self, me: &NodeName, along: Along) -> Vec<LinkEnd> {
        let asked = |slot: usize| match along {
            Along::Disjoint => Modules::DISJOINT.has(Modules(1 << slot)),
            Along::Targeted => !Modules::ROBUST.has(Modules(1 << slot)),
        };
        let into = |install: &Rc<Installed>| {
            let modules = install.modules.iter().take(label::MAX_MODULES).enumerate().filter(|(slot, _)| asked(*slot));
            let edges = modules.flat_map(|(_, module)| &module.edges).filter(|edge| edge.to.relay == *me);
            let mut from: Vec<LinkEnd> = edges.map(Edge::at_receiver).collect();
            from.sort();
            from.dedup();
            from
        };
        self.graphs().rev().map(into).find(|from| !from.is_empty()).unwrap_or_default()
    }

    /// Notes a question that is to be asked on. Whether it is news: the same one, come by another way, is not asked on again so soon.
    pub fn note_asked(&mut self, now: Instant, ask: &Ask) -> bool {
        self.asked.retain(|(at, _)| now.saturating_since(*at) < SAME);
        let is_new = self.asked.iter().all(|(_, asked)| asked != ask);
        if is_new {
            if self.asked.len() >= MOST_ASKED {
                self.asked.pop_front();
            }
            self.asked.push_back((now, ask.clone()));
        }
        is_new
    }

    /// Whether a packet of this label comes to `me` over the link `from` by its graph; so where the graph is not known.
    pub fn brings(&self, label: Label, from: &LinkEnd, me: &NodeName) -> bool {
        let Some(install) = self.graphs().find(|install| install.epoch == label::epoch(label)) else { return true };
        used(install, label)
            .flat_map(|module| &module.edges)
            .any(|edge| edge.to.relay == *me && edge.from == from.relay && edge.to.link == from.link)
    }

    /// Whether packets of this label come to `me` by their graph, as all do to the ingress; so where the graph is not known.
    pub fn passes(&self, label: Label, me: &NodeName) -> bool {
        let Some(install) = self.graphs().find(|install| install.epoch == label::epoch(label)) else { return true };
        install.ingress == *me || used(install, label).flat_map(|module| &module.edges).any(|edge| edge.to.relay == *me)
    }

    /// The links over which packets of this label should come to `me` by their graph, each once: not from such as have them from here. None where
    /// the graph is not known.
    pub fn expected_from(&self, label: Label, me: &NodeName) -> BTreeSet<LinkEnd> {
        let Some(install) = self.graphs().find(|install| install.epoch == label::epoch(label)) else {
            return BTreeSet::new();
        };
        let edges = || used(install, label).flat_map(|module| &module.edges);
        let goes_there = |relay: &NodeName| edges().any(|edge| edge.from == *me && edge.to.relay == *relay);
        edges().filter(|edge| edge.to.relay == *me && !goes_there(&edge.from)).map(Edge::at_receiver).collect()
    }

    /// The links by which it comes to `me` in any graph kept.
    pub fn links_above<'a>(&'a self, me: &'a NodeName) -> impl Iterator<Item = LinkEnd> + 'a {
        let edges = self.graphs().flat_map(|install| &install.modules).flat_map(|module| &module.edges);
        edges.filter(move |edge| edge.to.relay == *me).map(Edge::at_receiver)
    }

    /// The links by which it leaves `me` in any graph kept.
    pub fn next_links(&self, me: &NodeName) -> BTreeSet<&LinkEnd> {
        let edges = self.graphs().flat_map(|install| &install.modules).flat_map(|module| &module.edges);
        edges.filter(|edge| edge.from == *me).map(|edge| &edge.to).collect()
    }
}

/// The modules by which packets of a label travel. As when they are forwarded, the first one stands in for those that the epoch does not have.
fn used(install: &Install, label: Label) -> impl Iterator<Item = &Module> {
    let named = move |slot: usize| label::modules(label) >> slot & 1 == 1;
    let known = (0..install.modules.len().min(label::MAX_MODULES)).any(named);
    let is_used = move |slot: usize| if known { named(slot) } else { slot == 0 };
    install.modules.iter().enumerate().filter(move |(slot, _)| is_used(*slot)).map(|(_, module)| module)
}

/// The hops of `me` in a graph, per module, over the ports that are open.
pub fn hops(install: &Install, me: &NodeName, ports: &BTreeMap<LinkEnd, PortId>) -> Vec<Vec<Hop>> {
    let module = |module: &Module| {
        let own = module.edges.iter().filter(|edge| edge.from == *me);
        own.filter_map(|edge| {
            let rest = Rest { min_us: edge.rest_min_us, max_us: edge.rest_max_us };
            Some(Hop { port: *ports.get(&edge.to)?, rest })
        })
        .collect()
    };
    install.modules.iter().map(module).collect()
}

impl From<&Install> for StreamId {
    fn from(install: &Install) -> StreamId {
        StreamId { name: install.name.clone(), incarnation: install.incarnation, ingress: install.ingress.clone() }
    }
}

impl From<&StreamOpen> for StreamId {
    fn from(open: &StreamOpen) -> StreamId {
        StreamId { name: open.name.clone(), incarnation: open.incarnation, ingress: open.ingress.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::Forwarder;

    fn install(boot: u64, epoch: u16) -> Rc<Installed> {
        let install = Install {
            name: "t/c".parse().expect("valid"),
            incarnation: Incarnation(1),
            ingress: "a".parse().expect("valid"),
            boot,
            epoch,
            deadline_us: 200_000,
            content: Content::Datagrams,
            modules: Vec::new(),
            sealed: false,
            reserve: node::control::Reserve::default(),
            target_ppb: 0,
        };
        Rc::new(Installed { message: Rc::new(Control::Install(install.clone())), install })
    }

    fn carried() -> Carried {
        let key = Forwarder::new(0).add_stream(Duration::from_millis(200));
        Carried::new(Instant::ORIGIN, key, "a".parse().expect("valid"), Announced::test(200_000))
    }

    fn epochs(carried: &Carried) -> Vec<u16> {
        carried.graphs().map(|install| install.epoch).collect()
    }

    #[test]
    fn graphs_of_one_ingress_and_of_all_are_bounded() {
        let names: Vec<NodeName> = (0..20).map(|nth| format!("r{nth}").parse().expect("valid")).collect();
        let one = [(&names[0], MOST_OF_ONE - 100)];
        assert!(has_room(one.into_iter(), &names[0], 100) && has_room(one.into_iter(), &names[1], MOST_OF_ONE));
        assert!(!has_room(one.into_iter(), &names[0], 101));
        let all = || names.iter().map(|name| (name, MOST_OF_ALL / names.len()));
        let new = "new".parse().expect("valid");
        assert!(!has_room(all(), &new, 1000) && has_room(all().skip(1), &new, 1000));
    }

    #[test]
    fn each_epoch_once_and_in_order_whatever_way_it_came() {
        let mut stream = carried();
        let now = Instant::from_micros(0);
        for epoch in [65_534, 0, 65_535, 1] {
            assert_eq!(stream.adopt(now, install(1, epoch)), Adopted::New);
            assert_eq!(stream.adopt(now, install(1, epoch)), Adopted::Old);
        }
        assert_eq!(epochs(&stream), [65_534, 65_535, 0, 1]);
        assert_eq!(stream.adopt(now, install(1, 65_000)), Adopted::Old);
        assert_eq!(stream.adopt(now, install(1, 2)), Adopted::New);
        assert_eq!(epochs(&stream), [65_535, 0, 1, 2]);
    }

    #[test]
    fn a_later_boot_of_the_ingress_begins_anew() {
        let mut stream = carried();
        let now = Instant::from_micros(0);
        stream.adopt(now, install(5, 40));
        assert_eq!(stream.adopt(now, install(4, 41)), Adopted::Old);
        assert_eq!(stream.adopt(now, install(6, 1)), Adopted::NewBoot);
        assert_eq!(epochs(&stream), [1]);
    }

    #[test]
    fn replaced_epochs_retire_and_the_newest_stays() {
        let mut stream = carried();
        let at = |ms: u64| Instant::from_micros(ms * 1000);
        stream.adopt(at(0), install(1, 1));
        stream.adopt(at(1000), install(1, 2));
        assert_eq!(stream.retire(at(2999)), [0u16; 0]);
        assert_eq!(stream.retire(at(3000)), [1]);
        assert_eq!(stream.retire(at(100_000)), [0u16; 0]);
        assert_eq!(epochs(&stream), [2]);
    }
}
