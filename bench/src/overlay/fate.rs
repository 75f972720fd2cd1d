//! The chance that a packet is lost or late, computed instead of drawn.
//!
//! Each troubled edge of a graph lets a packet through at one of a few delays (at once, or after so many rounds of
//! repair) or not at all, independently of the others. The chance that no way is in time is found by *factoring*: take the
//! fastest way if all that is undecided went well; if even that is late, the packet is; if it needs nothing undecided, it
//! is not; else decide the first undecided edge on it, each way in turn. Exact but for branches less likely than
//! `NEGLIGIBLE`. That replaces millions of packets per figure and leaves no sampling noise but that of the episodes.

use super::episodes::{Stretch, TICK_MS};
use super::map::{EDGES, Mask, bits};
use topology::graph::{Graph, NodeIx};

const NODES: usize = 12;
const NEVER: u32 = u32::MAX;

/// Branches less likely than this are dropped.
const NEGLIGIBLE: f64 = 1e-8;

/// Time from learning what is wanted to sending it, for a relay that answers a pull, in microseconds.
const ANSWER_US: u32 = 5_000;

/// An unanswered pull is repeated once after so long, in microseconds.
pub const ASK_AGAIN_US: u32 = 45_000;

/// How a hop repairs losses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// One retransmission, as in the paper.
    Strike,
    /// Rounds of repair as long as the deadline allows, three copies in the last.
    Rounds,
}

/// One way in which an edge may let a packet through.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// After how long.
    pub delay_us: u32,
    /// How likely.
    pub chance: f64,
}

/// What an edge may do to a packet, earliest first; what is missing to 1 is loss.
pub type Outcomes = Vec<Outcome>;

/// The map in arrays.
#[derive(Clone, Debug)]
pub struct Net {
    /// From, to.
    pub ends: [(u8, u8); EDGES],
    /// The edge that leads back.
    pub back: [u8; EDGES],
    /// Delay in quiet.
    pub delay_us: [u32; EDGES],
    out: [Mask; NODES],
}

impl Net {
    /// From the graph of the map.
    pub fn new(graph: &Graph) -> Net {
        let mut net = Net { ends: [(0, 0); EDGES], back: [0; EDGES], delay_us: [0; EDGES], out: [0; NODES] };
        for edge in graph.edges() {
            let (at, ends) = (edge.0 as usize, &graph[edge]);
            net.ends[at] = (ends.from.0 as u8, ends.to.0 as u8);
            net.delay_us[at] = ends.metric.delay_us;
            net.out[ends.from.0 as usize] |= 1 << at;
            let back = graph.between(ends.to, ends.from).next().expect("links of the map lead both ways");
            net.back[at] = back.0 as u8;
        }
        net
    }

    /// Distances from `source` along `mask`.
    pub fn distances(&self, mask: Mask, source: NodeIx) -> [u32; NODES] {
        self.search(mask, source.0 as usize, &self.delay_us, None).0
    }

    fn search(
        &self,
        mask: Mask,
        source: usize,
        weight: &[u32; EDGES],
        goal: Option<usize>,
    ) -> ([u32; NODES], [u8; NODES]) {
        let (mut distance, mut by) = ([NEVER; NODES], [0u8; NODES]);
        let mut left: u16 = (1 << NODES) - 1;
        distance[source] = 0;
        loop {
            let mut node = NODES;
            let mut nearest = NEVER;
            for (at, reached) in distance.iter().enumerate() {
                if left >> at & 1 == 1 && *reached < nearest {
                    (node, nearest) = (at, *reached);
                }
            }
            if node == NODES || Some(node) == goal {
                return (distance, by);
            }
            left &= !(1 << node);
            let mut out = self.out[node] & mask;
            while out != 0 {
                let edge = out.trailing_zeros() as usize;
                out &= out - 1;
                let (to, reached) = (usize::from(self.ends[edge].1), nearest.saturating_add(weight[edge]));
                if reached < distance[to] {
                    (distance[to], by[to]) = (reached, edge as u8);
                }
            }
        }
    }
}

/// What a packet that crosses an edge at `tick` may meet, given the loss on the edge and on the one that leads back.
pub fn outcomes(net: &Net, stretch: &Stretch, edge: usize, tick: usize, repair: Repair, deadline_us: u32) -> Outcomes {
    let factor = stretch.track_of[edge].map_or(1.0, |at| stretch.tracks[usize::from(at)].stretch[tick]);
    let delay = (net.delay_us[edge] as f32 * factor) as u32;
    let round = 2 * delay + topology::weight::REPAIR_US as u32;
    let rounds = match repair {
        Repair::Strike => 1,
        Repair::Rounds => (deadline_us.saturating_sub(delay) / round).min(8),
    };
    let mut found = Outcomes::new();
    let mut left = 1.0;
    for attempt in 0..=rounds {
        let at = tick + (u64::from(attempt * round) / (TICK_MS * 1000)) as usize;
        let asked = tick + (u64::from((attempt * round).saturating_sub(delay)) / (TICK_MS * 1000)) as usize;
        let (loss, back) =
            (f64::from(stretch.loss(edge, at)), f64::from(stretch.loss(usize::from(net.back[edge]), asked)));
        let chance = match (attempt, repair) {
            (0, _) => 1.0 - loss,
            (_, Repair::Strike) => (1.0 - back) * (1.0 - loss),
            // Reports are repeated every few milliseconds while something is missing.
            (_, Repair::Rounds) => (1.0 - back * back) * (1.0 - loss.powi(if attempt == rounds { 3 } else { 1 })),
        };
        if chance > 0.0 {
            found.push(Outcome { delay_us: delay + attempt * round, chance: left * chance });
        }
        left *= 1.0 - chance;
        if left < 1e-12 {
            break;
        }
    }
    found
}

/// The edges of a way, in the order in which a packet takes them.
pub type Way = Vec<u8>;

/// How an egress fetches what did not come.
#[derive(Clone, Copy, Debug)]
pub struct Pull<'a> {
    /// Along which ways it asks back at first.
    pub first: &'a [Way],
    /// Along which ways it asks again.
    pub again: &'a [Way],
    /// When it asks, after the source sent, in microseconds.
    pub ask_us: u32,
}

impl Pull<'_> {
    /// Packets on links for one that `fate` tells of: as if each way that is asked along brought it all the way from the source.
    pub fn cost(&self, fate: &Fate) -> f64 {
        let edges = |ways: &[Way]| ways.iter().map(Vec::len).sum::<usize>() as f64;
        fate.missed * edges(self.first) + fate.again * edges(self.again)
    }
}

/// The chance to miss the deadline.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Fate {
    /// On the graph alone.
    pub missed: f64,
    /// When it was first asked for, too.
    pub again: f64,
    /// When it was asked for again, too.
    pub lost: f64,
}

/// One question: a packet that `source` sends at `tick` on `mask` to `egress`.
pub struct Question<'a> {
    /// The map.
    pub net: &'a Net,
    /// What is wrong.
    pub stretch: &'a Stretch,
    /// When.
    pub tick: usize,
    /// On which graph.
    pub mask: Mask,
    /// From where.
    pub source: NodeIx,
    /// To where.
    pub egress: NodeIx,
    /// By when, after sending.
    pub deadline_us: u32,
    /// What may happen on the troubled edges of the graph.
    pub troubled: &'a [(usize, &'a [Outcome])],
    /// Whether the egress fetches what is missing.
    pub pull: Option<Pull<'a>>,
}

impl Question<'_> {
    /// The answer.
    pub fn answer(&self) -> Fate {
        let mut weight = self.net.delay_us;
        let (mut mask, mut open) = (self.mask, 0);
        for (edge, outcomes) in self.troubled {
            match outcomes.first() {
                Some(first) => {
                    weight[*edge] = first.delay_us;
                    open |= 1 << *edge;
                }
                None => mask &= !(1 << *edge),
            }
        }
        self.factor(&mut weight, mask, open, 1.0)
    }

    /// The chances from here on, given that what is decided has come to pass, which is `so_far` likely.
    fn factor(&self, weight: &mut [u32; EDGES], mask: Mask, open: Mask, so_far: f64) -> Fate {
        let (source, egress) = (self.source.0 as usize, self.egress.0 as usize);
        let (distance, by) = self.net.search(mask, source, weight, Some(egress));
        if distance[egress] > self.deadline_us {
            return self.pulled(weight, mask & !open);
        }
        let mut first = None;
        let mut at = egress;
        while at != source {
            let edge = usize::from(by[at]);
            if open >> edge & 1 == 1 {
                first = Some(edge);
            }
            at = usize::from(self.net.ends[edge].0);
        }
        let Some(edge) = first else { return Fate::default() };
        let decided = self.net.search(mask & !open, source, weight, Some(egress)).0;
        if decided[egress] <= self.deadline_us {
            return Fate::default();
        }
        self.decide(edge, weight, mask, open & !(1 << edge), so_far)
    }

    fn decide(&self, edge: usize, weight: &mut [u32; EDGES], mask: Mask, open: Mask, so_far: f64) -> Fate {
        let outcomes = self.troubled.iter().find(|(at, _)| *at == edge).map_or(&[][..], |(_, outcomes)| outcomes);
        let (before, mut left, mut fate) = (weight[edge], 1.0, Fate::default());
        let mut add = |chance: f64, part: Fate| {
            fate.missed += chance * part.missed;
            fate.again += chance * part.again;
            fate.lost += chance * part.lost;
        };
        for outcome in outcomes {
            left -= outcome.chance;
            if so_far * outcome.chance > NEGLIGIBLE {
                weight[edge] = outcome.delay_us;
                add(outcome.chance, self.factor(weight, mask, open, so_far * outcome.chance));
            }
        }
        weight[edge] = before;
        if so_far * left > NEGLIGIBLE {
            add(left, self.factor(weight, mask & !(1 << edge), open, so_far * left));
        }
        fate
    }

    /// What fetching brings of a packet that the graph did not, given which relays hold it.
    fn pulled(&self, weight: &[u32; EDGES], mask: Mask) -> Fate {
        let Some(pull) = self.pull else { return Fate { missed: 1.0, again: 1.0, lost: 1.0 } };
        let held = self.net.search(mask, self.source.0 as usize, weight, None).0;
        let failed =
            |ways: &[Way], ask_us| ways.iter().map(|way| 1.0 - self.fetched(&held, way, ask_us)).product::<f64>();
        let again = failed(pull.first, pull.ask_us);
        Fate { missed: 1.0, again, lost: again * failed(pull.again, pull.ask_us + ASK_AGAIN_US) }
    }

    /// The chance that a request at `ask_us` back along `way` brings the packet in time.
    fn fetched(&self, held: &[u32; NODES], way: &[u8], ask_us: u32) -> f64 {
        let mut at_us = ask_us;
        let mut asked = 0;
        for edge in way.iter().rev() {
            at_us += self.net.delay_us[usize::from(*edge)];
            asked += 1;
            if held[usize::from(self.net.ends[usize::from(*edge)].0)] <= at_us {
                break;
            }
        }
        let hops = &way[way.len() - asked..];
        let there_us = at_us + ANSWER_US + hops.iter().map(|edge| self.net.delay_us[usize::from(*edge)]).sum::<u32>();
        if there_us > self.deadline_us || hops.is_empty() {
            return 0.0;
        }
        let (mut chance, slack) = (1.0, self.deadline_us - there_us);
        for edge in hops.iter().map(|edge| usize::from(*edge)) {
            let repairable = 2 * self.net.delay_us[edge] + topology::weight::REPAIR_US as u32 <= slack;
            for (edge, at_us) in [(usize::from(self.net.back[edge]), ask_us), (edge, at_us)] {
                let tick = self.tick + (u64::from(at_us) / (TICK_MS * 1000)) as usize;
                let loss = f64::from(self.stretch.loss(edge, tick));
                chance *= 1.0 - if repairable { loss * loss } else { loss };
            }
        }
        chance
    }
}

/// The chance of a loss in quiet, to first order: that one edge fails and no other.
pub fn quiet(net: &Net, mask: Mask, demand: (NodeIx, NodeIx, u32), background: &[f64; EDGES], repair: Repair) -> f64 {
    let (source, egress, deadline_us) = demand;
    let stretch = Stretch { ticks: 1, tracks: Vec::new(), track_of: [None; EDGES], dead: Vec::new() };
    let miss = |edge: usize| {
        let (delay, loss) = (net.delay_us[edge], background[edge]);
        let again = delay + 2 * delay + topology::weight::REPAIR_US as u32;
        let residual = if repair == Repair::Strike { 2.0 * loss * loss } else { loss.powi(4) };
        let once = Outcome { delay_us: delay, chance: 1.0 - loss };
        let troubled = [(edge, &[once, Outcome { delay_us: again, chance: loss - residual }][..])];
        let pull = None;
        Question { net, stretch: &stretch, tick: 0, mask, source, egress, deadline_us, troubled: &troubled, pull }
            .answer()
            .lost
    };
    bits(mask).map(miss).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overlay::map;

    /// The chance by going through every combination of outcomes.
    fn exhaustive(question: &Question<'_>, weight: &mut [u32; EDGES], mask: Mask, left: &[(usize, &[Outcome])]) -> f64 {
        let Some(((edge, outcomes), rest)) = left.split_first() else {
            let (distance, _) = question.net.search(mask, question.source.0 as usize, weight, None);
            return f64::from(distance[question.egress.0 as usize] > question.deadline_us);
        };
        let mut sum = 0.0;
        for outcome in *outcomes {
            weight[*edge] = outcome.delay_us;
            sum += outcome.chance * exhaustive(question, weight, mask, rest);
        }
        let gone = 1.0 - outcomes.iter().map(|outcome| outcome.chance).sum::<f64>();
        sum + gone * exhaustive(question, weight, mask & !(1 << edge), rest)
    }

    #[test]
    fn factoring_agrees_with_every_combination() {
        let graph = map::graph();
        let net = Net::new(&graph);
        let stretch = Stretch { ticks: 1, tracks: Vec::new(), track_of: [None; EDGES], dead: Vec::new() };
        let mut draws = crate::channel::Draws::new(5);
        for demand in map::flows(&graph, 65_000) {
            let mask = map::mask(topology::targeted::flood(&graph, &demand).iter());
            let lists: Vec<(usize, Outcomes)> = (0..7)
                .map(|_| (draws.unit() * EDGES as f64) as usize)
                .collect::<std::collections::BTreeSet<_>>()
                .into_iter()
                .map(|edge| {
                    let (t, p) = (net.delay_us[edge], draws.unit());
                    let second = Outcome { delay_us: 3 * t + 3000, chance: p * (1.0 - p) * (1.0 - p) };
                    (edge, vec![Outcome { delay_us: t, chance: 1.0 - p }, second])
                })
                .collect();
            let troubled: Vec<(usize, &[Outcome])> = lists.iter().map(|(edge, list)| (*edge, &list[..])).collect();
            for mask in [mask, mask & draws.bits()] {
                let (source, egress, deadline_us) = (demand.ingress, demand.egresses[0].node, demand.deadline_us);
                let question = Question {
                    net: &net,
                    stretch: &stretch,
                    tick: 0,
                    mask,
                    source,
                    egress,
                    deadline_us,
                    troubled: &troubled,
                    pull: None,
                };
                let expected = exhaustive(&question, &mut net.delay_us.clone(), mask, &troubled);
                assert!((question.answer().lost - expected).abs() < 1e-6, "{} {expected}", question.answer().lost);
            }
        }
    }
}
