//! The graphs of one stream at its ingress: when they are computed, under which label packets travel. Pure.

use crate::forward::label;
use link::{Instant, Label};
use node::control::{Dissemination, Module};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use topology::NodeName;

/// The module that is a shortest-path tree.
pub const TREE: usize = 0;

/// The module that is two node-disjoint ways to each egress.
pub const DISJOINT: usize = 1;

/// Added to twice the longest way before a new label is stamped: time for the installation to be worked off at each relay.
const SWITCH_MARGIN: Duration = Duration::from_millis(50);

/// Graphs of a stream are not computed more often than this.
const COMPUTE_EVERY: Duration = Duration::from_millis(50);

/// A stream with less time than this is hedged where the overlay allows it and its source leaves the choice.
const HEDGE_BELOW: Duration = Duration::from_millis(150);

/// What the ingress of a stream has decided about its way.
#[derive(Debug)]
pub struct Plan {
    epoch: u16,
    modules: Vec<Module>,
    /// Labels decided, each with the time from which it is stamped; in that order. The first is in force.
    labels: Vec<(Instant, Label)>,
    computed: Option<Instant>,
    generation: Option<u64>,
    /// The next graphs are a new epoch even where they are the same.
    renew: bool,
}

impl Plan {
    /// No graph yet. The first epoch comes after `last`: a stream that is published again while other relays still know it
    /// must go on counting.
    pub fn new(last: u16) -> Plan {
        Plan { epoch: last, modules: Vec::new(), labels: Vec::new(), computed: None, generation: None, renew: false }
    }

    /// When the graphs are to be computed for the state of the overlay that `generation` counts; `None` where they are.
    pub fn compute_due(&self, generation: u64) -> Option<Instant> {
        match (self.generation, self.computed) {
            (Some(known), _) if known == generation => None,
            (_, Some(at)) => Some(at + COMPUTE_EVERY),
            (_, None) => Some(Instant::ORIGIN),
        }
    }

    /// Asks for the graphs to be computed again, though the overlay has not changed: the stream has.
    pub fn outdate(&mut self) {
        self.generation = None;
    }

    /// Asks for a new epoch in any case: the old one was not believed.
    pub fn renew(&mut self) {
        self.generation = None;
        self.renew = true;
    }

    /// The next epoch, for graphs computed at `now`; `None` where they are the same as before. The first label is in
    /// force at once, and so is one that replaces a broken way or one of a stream at its start, whose relays still have all
    /// of it for who joins; any other when the installation has had time to arrive.
    pub fn adopt(&mut self, now: Instant, generation: u64, modules: Vec<Module>, choice: Choice<'_>) -> Option<u16> {
        self.computed = Some(now);
        self.generation = Some(generation);
        let bits = choice.bits(&modules);
        let same = !self.labels.is_empty() && modules == self.modules && !std::mem::take(&mut self.renew);
        if same && self.labels.last().map(|(_, last)| label::modules(*last)) == Some(bits) {
            return None;
        }
        let at_once = self.labels.is_empty() || choice.young || self.is_broken(&choice);
        let from = if at_once { now } else { now + 2 * choice.longest + SWITCH_MARGIN };
        if !same {
            self.epoch = self.epoch.wrapping_add(1);
            self.modules = modules;
        }
        self.labels.retain(|(at, _)| *at < from);
        self.labels.push((from, label::label(self.epoch, bits)));
        (!same).then_some(self.epoch)
    }

    /// The label to stamp at `now`.
    pub fn label(&mut self, now: Instant) -> Option<Label> {
        let passed = self.labels.iter().rposition(|(from, _)| *from <= now)?;
        self.labels.drain(..passed);
        Some(self.labels[0].1)
    }

    /// When [`Plan::label`] changes.
    pub fn switch_due(&self) -> Option<Instant> {
        self.labels.get(1).map(|(from, _)| *from)
    }

    /// The graphs of the newest epoch.
    pub fn modules(&self) -> &[Module] {
        &self.modules
    }

    /// Whether the way in force no longer reaches every egress that can be reached at all.
    fn is_broken(&self, choice: &Choice<'_>) -> bool {
        let Some((_, in_force)) = self.labels.first() else { return true };
        // An older epoch than the newest may be in force; its edges are not kept, and it gives way soon enough.
        if label::epoch(*in_force) != self.epoch {
            return false;
        }
        let bits = label::modules(*in_force);
        let used = self.modules.iter().enumerate().filter(|(i, _)| bits >> i & 1 == 1).flat_map(|(_, m)| &m.edges);
        let mut next: BTreeMap<&NodeName, Vec<&NodeName>> = BTreeMap::new();
        let mut served: BTreeSet<&NodeName> = BTreeSet::new();
        for edge in used {
            served.insert(&edge.to);
            if (choice.is_up)(&edge.from, &edge.to) {
                next.entry(&edge.from).or_default().push(&edge.to);
            }
        }
        let mut reached = BTreeSet::new();
        let mut frontier = vec![choice.ingress];
        while let Some(relay) = frontier.pop() {
            if reached.insert(relay) {
                frontier.extend(next.get(relay).into_iter().flatten().copied());
            }
        }
        // An egress that was not on the way before is a new one: its joining breaks nothing.
        choice.egresses.iter().any(|egress| served.contains(egress) && !reached.contains(egress))
    }
}

/// What a label is chosen by.
pub struct Choice<'a> {
    /// How the source wants its stream spread.
    pub mode: Dissemination,
    /// The stream's one-way deadline.
    pub deadline: Duration,
    /// This relay.
    pub ingress: &'a NodeName,
    /// The egresses that can be reached.
    pub egresses: &'a [NodeName],
    /// Whether the overlay has a working link from one relay to another.
    pub is_up: &'a dyn Fn(&NodeName, &NodeName) -> bool,
    /// How long the installation takes to the last relay.
    pub longest: Duration,
    /// Whether the stream is at its start.
    pub young: bool,
}

impl Choice<'_> {
    /// The modules to use.
    fn bits(&self, modules: &[Module]) -> u16 {
        let disjoint = modules.len() > DISJOINT && !modules[DISJOINT].edges.is_empty();
        let hedged = match self.mode {
            Dissemination::Tree => false,
            Dissemination::Disjoint => true,
            Dissemination::Auto => self.deadline < HEDGE_BELOW,
        };
        if hedged && disjoint { 1 << DISJOINT } else { 1 << TREE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use node::control::Edge;

    fn name(text: &str) -> NodeName {
        text.parse().expect("a valid name")
    }

    fn module(edges: &[(&str, &str, u32)]) -> Module {
        let edge = |(from, to, rest): &(&str, &str, u32)| Edge {
            from: name(from),
            to: name(to),
            rest_min_us: *rest,
            rest_max_us: *rest,
        };
        Module { edges: edges.iter().map(edge).collect() }
    }

    fn at(ms: u64) -> Instant {
        Instant::from_micros(1_000_000 + ms * 1000)
    }

    /// Every link works but those named; the longest way takes 20 ms.
    fn adopt(
        plan: &mut Plan,
        now: Instant,
        modules: Vec<Module>,
        dead: &[(&str, &str)],
        mode: Dissemination,
    ) -> Option<u16> {
        let is_up = |from: &NodeName, to: &NodeName| !dead.contains(&(from.as_str(), to.as_str()));
        let (ingress, egresses) = (name("a"), [name("d")]);
        let deadline = Duration::from_millis(200);
        let longest = Duration::from_millis(20);
        let choice =
            Choice { mode, deadline, ingress: &ingress, egresses: &egresses, is_up: &is_up, longest, young: false };
        plan.adopt(now, now.as_micros(), modules, choice)
    }

    fn over_b() -> Vec<Module> {
        vec![module(&[("a", "b", 10_000), ("b", "d", 0)])]
    }

    fn over_c() -> Vec<Module> {
        vec![module(&[("a", "c", 10_000), ("c", "d", 0)])]
    }

    #[test]
    fn the_first_label_is_in_force_at_once() {
        let mut plan = Plan::new(0);
        assert_eq!(plan.label(at(0)), None);
        assert_eq!(adopt(&mut plan, at(0), over_b(), &[], Dissemination::Tree), Some(1));
        assert_eq!(plan.label(at(0)), Some(label::label(1, 1)));
    }

    #[test]
    fn a_better_way_waits_until_it_is_installed() {
        let mut plan = Plan::new(0);
        adopt(&mut plan, at(0), over_b(), &[], Dissemination::Tree);
        assert_eq!(adopt(&mut plan, at(1000), over_c(), &[], Dissemination::Tree), Some(2));
        // Twice 20 ms of way, and 50 ms.
        assert_eq!(plan.switch_due(), Some(at(1090)));
        assert_eq!(plan.label(at(1089)), Some(label::label(1, 1)));
        assert_eq!(plan.label(at(1090)), Some(label::label(2, 1)));
        assert_eq!(plan.switch_due(), None);
    }

    #[test]
    fn a_broken_way_is_left_at_once() {
        let mut plan = Plan::new(0);
        adopt(&mut plan, at(0), over_b(), &[], Dissemination::Tree);
        assert_eq!(adopt(&mut plan, at(1000), over_c(), &[("b", "d")], Dissemination::Tree), Some(2));
        assert_eq!(plan.label(at(1000)), Some(label::label(2, 1)));
    }

    #[test]
    fn the_same_graphs_are_no_new_epoch() {
        let mut plan = Plan::new(0);
        adopt(&mut plan, at(0), over_b(), &[], Dissemination::Tree);
        assert_eq!(adopt(&mut plan, at(1000), over_b(), &[], Dissemination::Tree), None);
        assert_eq!(plan.label(at(2000)), Some(label::label(1, 1)));
    }

    #[test]
    fn another_choice_among_the_same_graphs_is_a_label_of_the_same_epoch() {
        let mut plan = Plan::new(0);
        let modules = || {
            vec![over_b().remove(0), module(&[("a", "b", 10_000), ("b", "d", 0), ("a", "c", 10_000), ("c", "d", 0)])]
        };
        adopt(&mut plan, at(0), modules(), &[], Dissemination::Tree);
        assert_eq!(adopt(&mut plan, at(1000), modules(), &[], Dissemination::Disjoint), None);
        assert_eq!(plan.label(at(3000)), Some(label::label(1, 2)));
    }

    #[test]
    fn changes_close_together_do_not_put_the_switch_off_for_ever() {
        let mut plan = Plan::new(0);
        adopt(&mut plan, at(0), over_b(), &[], Dissemination::Tree);
        for round in 1..20 {
            let modules = if round % 2 == 0 { over_b() } else { over_c() };
            adopt(&mut plan, at(round * 60), modules, &[], Dissemination::Tree);
        }
        assert!(plan.label(at(1140)).map(label::epoch) > Some(10));
    }

    #[test]
    fn computed_when_the_overlay_or_the_stream_changes_but_not_too_often() {
        let mut plan = Plan::new(0);
        assert_eq!(plan.compute_due(7), Some(Instant::ORIGIN));
        adopt(&mut plan, at(0), over_b(), &[], Dissemination::Tree);
        assert_eq!(plan.compute_due(at(0).as_micros()), None);
        assert_eq!(plan.compute_due(8), Some(at(50)));
        plan.outdate();
        assert_eq!(plan.compute_due(at(0).as_micros()), Some(at(50)));
    }
}
