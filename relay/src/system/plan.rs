//! The graphs of one stream at its ingress: when they are computed, under which label packets travel. Pure.

use super::doubt::Doubt;
use crate::directory::{Graphs, Rule, Troubled};
use crate::forward::label;
use link::{Instant, Label};
use node::control::Module;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use topology::graph::EdgeIx;
use topology::select::{Modules, Selector};
use topology::trouble::Condition;
use topology::{LinkEnd, NodeName};

/// Added to twice the longest way before a new label is stamped: time for the installation to be worked off at each relay.
const SWITCH_MARGIN: Duration = Duration::from_millis(50);

/// Graphs of a stream are not computed more often than this.
const COMPUTE_EVERY: Duration = Duration::from_millis(50);

/// What the ingress of a stream has decided about its way.
#[derive(Debug)]
pub struct Plan {
    /// The number of the newest epoch.
    epoch: u16,
    /// Those decided, in the order in which they come into force. The first is in force.
    epochs: Vec<Epoch>,
    selector: Selector,
    /// What was last selected.
    selected: Modules,
    /// Whether the way in use is doubted though nothing is wrong with its links.
    doubt: Doubt,
    computed: Option<Instant>,
    generation: Option<u64>,
    /// What counts the changes of the overlay but for conditions of links, when the graphs were computed.
    topology: u64,
    /// The links that were in trouble then.
    conditions: Vec<(EdgeIx, Condition)>,
    /// The next graphs are a new epoch even where they are the same.
    renew: bool,
}

#[derive(Debug)]
struct Epoch {
    number: u16,
    /// From when on it is stamped.
    from: Instant,
    modules: Vec<Module>,
    rule: Rule,
    /// The most links that a packet may take.
    max_edges: Option<usize>,
}

impl Epoch {
    /// Of these modules, those that a packet may have under the ceiling on cost: what answers trouble goes first, the widest
    /// graph before the others.
    fn under_ceiling(&self, mut modules: Modules) -> Modules {
        let Some(most) = self.max_edges else { return modules };
        let edges = |modules: Modules| {
            let of = modules.slots().filter_map(|slot| self.modules.get(slot)).flat_map(|module| &module.edges);
            of.map(|edge| (&edge.from, &edge.to)).collect::<BTreeSet<_>>().len()
        };
        let destinations = (Modules::FIRST_DESTINATION..topology::select::SLOTS).map(|slot| Modules(1 << slot));
        for module in [Modules::ROBUST].into_iter().chain(destinations).chain([Modules::SOURCE, Modules::DISJOINT]) {
            let rest = Modules(modules.0 & !module.0);
            if modules.has(module) && rest != Modules(0) && edges(modules) > most {
                modules = rest;
            }
        }
        modules
    }
}

impl Plan {
    /// No graph yet. The first epoch comes after `last`: a stream that is published again while other relays still know it
    /// must go on counting.
    pub fn new(last: u16) -> Plan {
        Plan {
            epoch: last,
            epochs: Vec::new(),
            selector: Selector::default(),
            selected: Modules::BASE,
            doubt: Doubt::default(),
            computed: None,
            generation: None,
            topology: 0,
            conditions: Vec::new(),
            renew: false,
        }
    }

    /// The same for another life of a stream, whose last was planned like this: begun again and again, it is computed no more often.
    pub fn of_next_life(&self, last: u16) -> Plan {
        Plan { computed: self.computed, ..Plan::new(last) }
    }

    /// When the graphs are to be computed for the state of the overlay that `generation` counts; `None` where they are.
    pub fn compute_due(&self, generation: u64) -> Option<Instant> {
        match (self.generation, self.computed) {
            (Some(known), _) if known == generation => None,
            (_, Some(at)) => Some(at + COMPUTE_EVERY),
            (_, None) => Some(Instant::ORIGIN),
        }
    }

    /// Notes that the state that `generation` counts asks for no new graphs, where that is so: nothing has changed since they
    /// were computed but conditions of links, and those change no graph of this stream.
    pub fn follow(&mut self, generation: u64, topology: u64, troubled: &[Troubled]) {
        let asked = self.generation.is_none_or(|known| known == generation) || self.renew || self.topology != topology;
        let Some(Rule::Watched(watched)) = self.epochs.last().map(|epoch| &epoch.rule) else { return };
        if !asked && watched.holds(&self.conditions, &watched.conditions(troubled)) {
            self.generation = Some(generation);
        }
    }

    /// Asks for the graphs to be computed again, though the overlay has not changed: the stream has.
    pub fn outdate(&mut self) {
        self.generation = None;
    }

    /// Takes the state that `generation` counts for computed: there is nothing to compute for.
    pub fn skip(&mut self, generation: u64) {
        self.generation = Some(generation);
    }

    /// Asks for a new epoch in any case: the old one was not believed, or what relays are told beside the graphs has changed.
    pub fn renew(&mut self) {
        self.generation = None;
        self.renew = true;
    }

    /// The next epoch, for graphs computed at `now`; `None` where they are the same as before. The first epoch is in
    /// force at once, and so is one that replaces a broken way or one of a stream at its start, whose relays still have all
    /// of it for who joins; any other when the installation has had time to arrive.
    pub fn adopt(&mut self, now: Instant, generation: u64, graphs: &Graphs, choice: &Choice<'_>) -> Option<u16> {
        self.computed = Some(now);
        self.generation = Some(generation);
        self.topology = choice.topology;
        self.conditions = match &graphs.rule {
            Rule::Watched(watched) => watched.conditions(choice.troubled),
            Rule::Fixed(_) => Vec::new(),
        };
        let renew = std::mem::take(&mut self.renew);
        if let Some(newest) = self.epochs.last_mut().filter(|newest| newest.modules == graphs.modules && !renew) {
            newest.rule = graphs.rule.clone();
            newest.max_edges = graphs.max_edges;
            return None;
        }
        let at_once = choice.young || self.is_broken(graphs, choice);
        let from = if at_once { now } else { now + 2 * graphs.longest + SWITCH_MARGIN };
        self.epoch = self.epoch.wrapping_add(1);
        self.epochs.retain(|epoch| epoch.from < from);
        let (number, modules, rule) = (self.epoch, graphs.modules.clone(), graphs.rule.clone());
        self.epochs.push(Epoch { number, from, modules, rule, max_edges: graphs.max_edges });
        Some(number)
    }

    /// The label to stamp at `now`, while these links are in trouble.
    pub fn label(&mut self, now: Instant, troubled: &[Troubled]) -> Option<Label> {
        let passed = self.epochs.iter().rposition(|epoch| epoch.from <= now)?;
        self.epochs.drain(..passed);
        let in_force = &self.epochs[0];
        self.selected = match &in_force.rule {
            Rule::Fixed(modules) => {
                // What it has left to switch was that of a rule before.
                self.selector = Selector::default();
                *modules
            }
            Rule::Watched(watched) => {
                let conditions = watched.conditions(troubled);
                let condition = |edge| {
                    let found = conditions.iter().find(|(known, _)| *known == edge);
                    found.map_or(Condition::default(), |(_, condition)| *condition)
                };
                let selected = self.selector.select(now.saturating_since(Instant::ORIGIN), &watched.plan, condition);
                if self.doubt.stands(now) { selected.with(Modules::DISJOINT) } else { selected }
            }
        };
        self.selected = in_force.under_ceiling(self.selected);
        Some(label::label(in_force.number, self.selected.0))
    }

    /// Somebody asked for what should have come by the way in use. Whether that is to be followed by [`Plan::label`].
    pub fn doubt(&mut self, now: Instant) -> bool {
        self.doubt.note(now)
    }

    /// When, after `now`, [`Plan::label`] may change though nothing else has.
    pub fn switch_due(&self, now: Instant) -> Option<Instant> {
        let epoch = self.epochs.get(1).map(|epoch| epoch.from);
        let selector = self.selector.due().map(|due| Instant::ORIGIN + due);
        epoch.into_iter().chain(selector).chain(self.doubt.due(now)).min()
    }

    /// The graphs of the newest epoch.
    pub fn modules(&self) -> &[Module] {
        self.epochs.last().map_or(&[], |epoch| &epoch.modules)
    }

    /// The modules that are used.
    pub fn selected(&self) -> Modules {
        self.selected
    }

    /// Whether the way in force no longer reaches every egress that can be reached at all.
    fn is_broken(&self, graphs: &Graphs, choice: &Choice<'_>) -> bool {
        let Some(in_force) = self.epochs.first() else { return true };
        let used = self.selected.slots().filter_map(|slot| in_force.modules.get(slot)).flat_map(|module| &module.edges);
        let mut next: BTreeMap<&NodeName, Vec<&NodeName>> = BTreeMap::new();
        let mut served: BTreeSet<&NodeName> = BTreeSet::new();
        for edge in used {
            served.insert(&edge.to.relay);
            if (choice.is_up)(&edge.from, &edge.to) {
                next.entry(&edge.from).or_default().push(&edge.to.relay);
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
        graphs.egresses.iter().any(|egress| served.contains(egress) && !reached.contains(egress))
    }
}

/// What a switch is decided by.
pub struct Choice<'a> {
    /// This relay.
    pub ingress: &'a NodeName,
    /// Whether a link of a relay works.
    pub is_up: &'a dyn Fn(&NodeName, &LinkEnd) -> bool,
    /// Whether the stream is at its start.
    pub young: bool,
    /// Counts the changes of the overlay but for conditions of links.
    pub topology: u64,
    /// The links in trouble.
    pub troubled: &'a [Troubled],
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::Watched;
    use node::control::Edge;
    use std::rc::Rc;
    use topology::graph::{Graph, Metric};
    use topology::select;
    use topology::sets::EdgeSet;
    use topology::trouble::Level;

    fn name(text: &str) -> NodeName {
        text.parse().expect("a valid name")
    }

    fn module(edges: &[(&str, &str, u32)]) -> Module {
        let edge = |(from, to, rest): &(&str, &str, u32)| Edge {
            from: name(from),
            to: name(to).into(),
            rest_min_us: *rest,
            rest_max_us: *rest,
        };
        Module { edges: edges.iter().map(edge).collect() }
    }

    fn at(ms: u64) -> Instant {
        Instant::from_micros(1_000_000 + ms * 1000)
    }

    /// Every link works but those named; the longest way takes 20 ms.
    fn adopt(plan: &mut Plan, now: Instant, modules: Vec<Module>, dead: &[(&str, &str)], used: Modules) -> Option<u16> {
        let is_up = |from: &NodeName, to: &LinkEnd| !dead.contains(&(from.as_str(), to.relay.as_str()));
        let ingress = name("a");
        let graphs = Graphs {
            modules,
            rule: Rule::Fixed(used),
            egresses: vec![name("d")],
            longest: Duration::from_millis(20),
            ..Graphs::default()
        };
        let choice = Choice { ingress: &ingress, is_up: &is_up, young: false, topology: 0, troubled: &[] };
        plan.adopt(now, now.as_micros(), &graphs, &choice)
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
        assert_eq!(plan.label(at(0), &[]), None);
        assert_eq!(adopt(&mut plan, at(0), over_b(), &[], Modules::BASE), Some(1));
        assert_eq!(plan.label(at(0), &[]), Some(label::label(1, 1)));
    }

    #[test]
    fn a_better_way_waits_until_it_is_installed() {
        let mut plan = Plan::new(0);
        adopt(&mut plan, at(0), over_b(), &[], Modules::BASE);
        assert_eq!(adopt(&mut plan, at(1000), over_c(), &[], Modules::BASE), Some(2));
        // Twice 20 ms of way, and 50 ms.
        assert_eq!(plan.switch_due(at(1000)), Some(at(1090)));
        assert_eq!(plan.label(at(1089), &[]), Some(label::label(1, 1)));
        assert_eq!(plan.label(at(1090), &[]), Some(label::label(2, 1)));
        assert_eq!(plan.switch_due(at(1090)), None);
    }

    #[test]
    fn a_broken_way_is_left_at_once() {
        let mut plan = Plan::new(0);
        adopt(&mut plan, at(0), over_b(), &[], Modules::BASE);
        assert_eq!(adopt(&mut plan, at(1000), over_c(), &[("b", "d")], Modules::BASE), Some(2));
        assert_eq!(plan.label(at(1000), &[]), Some(label::label(2, 1)));
    }

    #[test]
    fn the_same_graphs_are_no_new_epoch() {
        let mut plan = Plan::new(0);
        adopt(&mut plan, at(0), over_b(), &[], Modules::BASE);
        assert_eq!(adopt(&mut plan, at(1000), over_b(), &[], Modules::BASE), None);
        assert_eq!(plan.label(at(2000), &[]), Some(label::label(1, 1)));
    }

    #[test]
    fn another_choice_among_the_same_graphs_is_a_label_of_the_same_epoch_at_once() {
        let mut plan = Plan::new(0);
        let modules = || {
            vec![over_b().remove(0), module(&[("a", "b", 10_000), ("b", "d", 0), ("a", "c", 10_000), ("c", "d", 0)])]
        };
        adopt(&mut plan, at(0), modules(), &[], Modules::BASE);
        assert_eq!(adopt(&mut plan, at(1000), modules(), &[], Modules::DISJOINT), None);
        assert_eq!(plan.label(at(1000), &[]), Some(label::label(1, 2)));
    }

    #[test]
    fn changes_close_together_do_not_put_the_switch_off_for_ever() {
        let mut plan = Plan::new(0);
        adopt(&mut plan, at(0), over_b(), &[], Modules::BASE);
        for round in 1..20 {
            let modules = if round % 2 == 0 { over_b() } else { over_c() };
            adopt(&mut plan, at(round * 60), modules, &[], Modules::BASE);
        }
        assert!(plan.label(at(1140), &[]).map(label::epoch) > Some(10));
    }

    #[test]
    fn computed_when_the_overlay_or_the_stream_changes_but_not_too_often() {
        let mut plan = Plan::new(0);
        assert_eq!(plan.compute_due(7), Some(Instant::ORIGIN));
        adopt(&mut plan, at(0), over_b(), &[], Modules::BASE);
        assert_eq!(plan.compute_due(at(0).as_micros()), None);
        assert_eq!(plan.compute_due(8), Some(at(50)));
        plan.outdate();
        assert_eq!(plan.compute_due(at(0).as_micros()), Some(at(50)));
    }

    /// A stream over a-b-d, by state 1 of topology 1, while `troubled` was so.
    fn watched(troubled: &[Troubled]) -> Plan {
        let metric = Metric { delay_us: 10_000, loss_ppm: 0, cost: 10 };
        let links = [("a", "b"), ("b", "d"), ("a", "c"), ("c", "d")].map(|(from, to)| (name(from), name(to), metric));
        let graph = Graph::new(["a", "b", "c", "d"].map(|relay| (name(relay), true)), links);
        let edge = |from: &str, to: &str| graph.find_edge(&name(from), &name(to).into()).unwrap();
        let egress = select::Watched {
            lean: true,
            first: EdgeSet::new(),
            ways: [EdgeSet::new(), EdgeSet::new()],
            into: Vec::new(),
            around: [edge("a", "b"), edge("b", "d")].into_iter().collect(),
            destination: Modules::destination(0),
        };
        let choice = select::Plan { egresses: vec![egress], out_of_ingress: Vec::new() };
        let rule = Rule::Watched(Rc::new(Watched::new(Rc::new(graph), choice)));
        let graphs = Graphs {
            modules: over_b(),
            rule,
            egresses: vec![name("d")],
            longest: Duration::from_millis(20),
            ..Graphs::default()
        };
        let ingress = name("a");
        let mut plan = Plan::new(0);
        plan.adopt(
            at(0),
            1,
            &graphs,
            &Choice { ingress: &ingress, is_up: &|_, _| true, young: false, topology: 1, troubled },
        );
        plan
    }

    fn losing(from: &str, to: &str, loss_ppm: u32) -> Troubled {
        (name(from), name(to).into(), Condition { level: Level::of(loss_ppm), late: false })
    }

    /// Whether graphs are computed again when nothing but `now` has come to be known.
    fn is_computed_again(mut plan: Plan, topology: u64, now: &[Troubled]) -> bool {
        plan.follow(2, topology, now);
        plan.compute_due(2).is_some()
    }

    #[test]
    fn trouble_off_the_ways_asks_for_no_new_graphs() {
        assert!(!is_computed_again(watched(&[]), 1, &[]));
        assert!(!is_computed_again(watched(&[]), 1, &[losing("c", "d", 200_000)]));
        assert!(is_computed_again(watched(&[]), 1, &[losing("b", "d", 200_000)]));
        assert!(is_computed_again(watched(&[]), 2, &[]), "another topology");
    }

    #[test]
    fn a_link_that_was_avoided_asks_for_new_graphs_when_it_gets_better() {
        let before = [losing("c", "d", 500_000)];
        assert!(!is_computed_again(watched(&before), 1, &before));
        assert!(is_computed_again(watched(&before), 1, &[]));
        assert!(is_computed_again(watched(&before), 1, &[losing("c", "d", 50_000)]));
    }

    #[test]
    fn what_was_asked_for_is_computed_whatever_the_overlay_says() {
        let mut plan = watched(&[]);
        plan.outdate();
        assert!(is_computed_again(plan, 1, &[]));
        let mut plan = watched(&[]);
        plan.renew();
        assert!(is_computed_again(plan, 1, &[]));
    }
}
