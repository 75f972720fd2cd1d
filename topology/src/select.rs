//! Which modules a packet is stamped with: the rule that grows redundancy where trouble is reported.
//!
//! *Select among graphs computed ahead; do not optimise in the reaction path.* For each egress the base is *lean* (one
//! way, and what is missing is fetched) where the deadline leaves room to notice and fetch, and *hedged* (two disjoint
//! ways) otherwise or while the one way is in doubt. Where two or more links into an egress are in trouble, its
//! destination graph is added; where two or more out of the ingress are, the source graph. Where that, or both ways,
//! meet trouble elsewhere, too, the robust graph is. The packet travels on the union.

use crate::dissemination::Ways;
use crate::graph::{EdgeIx, Graph, NodeIx};
use crate::module::Demand;
use crate::sets::EdgeSet;
use crate::trouble::Condition;
use std::time::Duration;

/// How long a module stays selected after the trouble that called for it is over.
pub const LINGER: Duration = Duration::from_secs(5);

/// Time to notice that something is missing, in microseconds.
pub const NOTICE_US: u64 = 10_000;

/// Time to answer a pull at a relay that holds what is missing, and for jitter on the way, in microseconds.
pub const ANSWER_US: u64 = 20_000;

/// So many bits of a label name modules.
pub const SLOTS: usize = 16;

/// A set of modules: bit i stands for the module in slot i. The low half of a label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Modules(pub u16);

impl Modules {
    /// The quiet base: one way to every egress whose slack allows a pull, two to the others.
    pub const BASE: Modules = Modules(1 << 0);
    /// Two disjoint ways to every egress.
    pub const DISJOINT: Modules = Modules(1 << 1);
    /// The source graphs of all egresses.
    pub const SOURCE: Modules = Modules(1 << 2);
    /// All of the above, every destination graph, and detours of all kinds: for trouble in the middle that the others do
    /// not survive.
    pub const ROBUST: Modules = Modules(1 << 3);

    /// First slot of destination graphs.
    pub const FIRST_DESTINATION: usize = 4;

    /// The destination graph of the egress at `place` of a demand. Beyond twelve egresses, several share a slot, whose
    /// module is the union of theirs.
    pub fn destination(place: usize) -> Modules {
        Modules(1 << (Self::FIRST_DESTINATION + place % (SLOTS - Self::FIRST_DESTINATION)))
    }

    /// Both.
    #[must_use]
    pub fn with(self, other: Modules) -> Modules {
        Modules(self.0 | other.0)
    }

    /// Whether all of `other` is in it.
    pub fn has(self, other: Modules) -> bool {
        self.0 & other.0 == other.0
    }

    /// The slots in it, in order.
    pub fn slots(self) -> impl Iterator<Item = usize> {
        (0..SLOTS).filter(move |slot| self.0 >> slot & 1 == 1)
    }
}

/// Whether a deadline leaves room to notice a loss at the egress and fetch it over the second way:
/// L1 + 10 ms + 2·L2 + 20 ms ≤ `budget`, the deadline without the last mile, in microseconds.
pub fn has_time_to_pull(shortest_us: u64, second_us: u64, budget: u64) -> bool {
    let pulled = shortest_us.saturating_add(NOTICE_US).saturating_add(second_us.saturating_mul(2));
    pulled.saturating_add(ANSWER_US) <= budget
}

/// What one egress needs to be watched for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// Whether its base is lean.
    pub lean: bool,
    /// The edges of its one way in the lean base.
    pub first: EdgeSet,
    /// Its two disjoint ways.
    pub ways: [EdgeSet; 2],
    /// Links into it.
    pub into: Vec<EdgeIx>,
    /// Edges of its two ways, its destination graph and its source graph.
    pub around: EdgeSet,
    /// Its destination graph.
    pub destination: Modules,
}

/// What a selection depends on: a demand and the modules computed for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Each egress but one that is the ingress.
    pub egresses: Vec<Watched>,
    /// Links out of the ingress.
    pub out_of_ingress: Vec<EdgeIx>,
}

impl Plan {
    /// The plan of `demand`, `base` being the lean tree and `ways` what each egress gets. Without `pull` nothing is lean.
    pub fn new(graph: &Graph, demand: &Demand, base: &EdgeSet, ways: &[Ways], pull: bool) -> Self {
        let egresses = ways.iter().enumerate().map(|(place, ways)| {
            let budget = ways.egress.budget_us(demand.deadline_us);
            Watched {
                lean: pull && ways.second_us.is_some_and(|second| has_time_to_pull(ways.shortest_us, second, budget)),
                first: way_in_tree(graph, base, ways.egress.node),
                ways: ways.edges.clone(),
                into: graph.incoming(ways.egress.node).collect(),
                around: ways.both(),
                destination: Modules::destination(place),
            }
        });
        Plan { egresses: egresses.collect(), out_of_ingress: graph.outgoing(demand.ingress).collect() }
    }

    /// The modules for links in the given conditions.
    pub fn choose(&self, condition: impl Fn(EdgeIx) -> Condition) -> Modules {
        let in_trouble = |edge: EdgeIx| condition(edge).is_troubled();
        let several = |edges: &[EdgeIx]| edges.iter().filter(|edge| in_trouble(**edge)).count() >= 2;
        let source = !self.egresses.is_empty() && several(&self.out_of_ingress);
        let mut chosen = if source { Modules::BASE.with(Modules::SOURCE) } else { Modules::BASE };
        for egress in &self.egresses {
            if egress.lean && egress.first.iter().any(|edge| condition(edge).is_doubtful()) {
                chosen = chosen.with(Modules::DISJOINT);
            }
            let destination = several(&egress.into);
            if destination {
                chosen = chosen.with(egress.destination);
            }
            let excused = |edge: EdgeIx| {
                destination && egress.into.contains(&edge) || source && self.out_of_ingress.contains(&edge)
            };
            let elsewhere = || egress.around.iter().any(|edge| in_trouble(edge) && !excused(edge));
            let both = || egress.ways.iter().all(|way| way.iter().any(in_trouble));
            if (source || destination || both()) && elsewhere() {
                chosen = chosen.with(Modules::ROBUST);
            }
        }
        chosen
    }
}

/// Selects for one stream at its ingress. What is wanted is added at once, and stays for [`LINGER`] after its reason is gone, because
/// trouble that goes often comes back: so no slot comes and goes more than once in that time, however much conditions change.
#[derive(Clone, Debug, Default)]
pub struct Selector {
    /// What the rule wanted when last asked.
    wanted: Modules,
    /// Until when each slot stays that the rule no longer wants.
    lingering: [Option<Duration>; SLOTS],
}

impl Selector {
    /// What the next packet is to be stamped with. To be asked when a condition or the plan has changed and when
    /// [`Selector::due`] has come.
    pub fn select(&mut self, now: Duration, plan: &Plan, condition: impl Fn(EdgeIx) -> Condition) -> Modules {
        let wanted = plan.choose(condition);
        let mut selected = wanted;
        for (slot, until) in self.lingering.iter_mut().enumerate() {
            let module = Modules(1 << slot);
            *until = match (wanted.has(module), self.wanted.has(module)) {
                (true, _) => None,
                (false, true) => Some(now + LINGER),
                (false, false) => until.filter(|until| now < *until),
            };
            selected = if until.is_some() { selected.with(module) } else { selected };
        }
        self.wanted = wanted;
        selected
    }

    /// When to ask again though nothing has changed: a module has lingered long enough.
    pub fn due(&self) -> Option<Duration> {
        self.lingering.iter().copied().flatten().min()
    }
}

/// The way to `egress` in a tree.
fn way_in_tree(graph: &Graph, tree: &EdgeSet, egress: NodeIx) -> EdgeSet {
    let mut way = EdgeSet::new();
    let mut at = egress;
    while let Some(edge) = graph.incoming(at).find(|edge| tree.contains(*edge)).filter(|edge| way.insert(*edge)) {
        at = graph[edge].from;
    }
    way
}
