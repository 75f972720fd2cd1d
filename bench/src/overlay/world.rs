//! Streams through stretches of trouble: what is seen, what is told, what is sent on, and what is lost.

use super::episodes::{Stretch, TICK_MS};
use super::fate::{ASK_AGAIN_US, Fate, Net, Outcome, Outcomes, Pull, Question, Repair, outcomes};
use super::map::Mask;
use super::schemes::{Asked, Graphs, Reported, Scheme, Stream};
use std::time::Duration;
use topology::graph::{EdgeIx, Graph, NodeIx};
use topology::select::{NOTICE_US, Selector};
use topology::trouble::{Condition, Watch};

/// Packets a stream sends in one tick: one a millisecond.
pub const PER_TICK: f64 = TICK_MS as f64;

/// Time it takes relays to handle a report, all together.
const HANDLING_US: u64 = 20_000;

/// Time to install new graphs before they are used: twice the longest way and 50 ms.
const INSTALL_TICKS: usize = (110 / TICK_MS) as usize;

/// What one scheme did for one or many streams.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Packets wanted, counted once for each egress.
    pub wanted: f64,
    /// Of these, lost or late.
    pub lost: f64,
    /// Packets of sources.
    pub sent: f64,
    /// Packets on links.
    pub carried: f64,
}

impl Tally {
    /// Adds another.
    pub fn add(&mut self, other: &Tally) {
        self.wanted += other.wanted;
        self.lost += other.lost;
        self.sent += other.sent;
        self.carried += other.carried;
    }
}

/// What the receiving end of each troubled edge says, by tick.
pub struct Seen {
    tracks: Vec<Vec<(Condition, u16)>>,
}

/// Watches every troubled edge, on which one packet a millisecond is seen. `unit` draws uniform numbers.
pub fn watch(net: &Net, stretch: &Stretch, mut unit: impl FnMut() -> f64) -> Seen {
    let tracks = stretch.tracks.iter().map(|track| {
        let usual = net.delay_us[track.edge];
        let mut watch = Watch::new(Duration::ZERO, usual);
        let mut unseen = 0;
        let step = |tick: usize| {
            let now = time(tick);
            let loss = f64::from(track.loss[tick]);
            let lost = if loss == 0.0 { 0 } else { (0..TICK_MS).filter(|_| unit() < loss).count() as u32 };
            let received = TICK_MS as u32 - lost;
            // A gap shows when something comes after it.
            unseen += lost;
            if received > 0 {
                watch.observe(now, received, unseen);
                watch.observe_delay((usual as f32 * track.stretch[tick]) as u32);
                unseen = 0;
            }
            let condition = watch.condition(now);
            let delay = if condition.late { (track.stretch[tick] * 100.0) as u16 } else { 100 };
            (condition, delay.max(100))
        };
        (0..stretch.ticks).map(step).collect()
    });
    Seen { tracks: tracks.collect() }
}

/// What troubled edges do to packets, by tick: numbers of outcomes that stay the same for a while.
pub struct Chances {
    number: Vec<Vec<u32>>,
    lists: Vec<Outcomes>,
}

/// Prepares the outcomes on every troubled edge.
pub fn chances(net: &Net, stretch: &Stretch, repair: Repair, deadline_us: u32) -> Chances {
    let mut lists: Vec<Outcomes> = Vec::new();
    let mut numbers = Vec::new();
    for track in &stretch.tracks {
        let mut last: Option<Outcomes> = None;
        let mut number = Vec::with_capacity(stretch.ticks);
        for tick in 0..stretch.ticks {
            let list = outcomes(net, stretch, track.edge, tick, repair, deadline_us);
            if last.as_ref() != Some(&list) {
                lists.push(list.clone());
                last = Some(list);
            }
            number.push(lists.len() as u32 - 1);
        }
        numbers.push(number);
    }
    Chances { number: numbers, lists }
}

/// One run of a stream through a stretch.
pub struct Run<'a, 'g> {
    /// The map.
    pub net: &'a Net,
    /// The trouble.
    pub stretch: &'a Stretch,
    /// What is seen of it.
    pub seen: &'a Seen,
    /// What it does to packets.
    pub chances: &'a Chances,
    /// The stream.
    pub stream: &'a mut Stream<'g>,
    /// Only packets sent in these ticks count.
    pub counted: std::ops::Range<usize>,
}

/// When things happen at one source.
struct Lags {
    /// Ticks until a packet of the source begins to cross each track's edge.
    there: Vec<usize>,
    /// Ticks until the source knows what each track's receiver says.
    told: Vec<usize>,
    /// Ticks until egresses ask for what is missing.
    asks: [usize; 2],
    /// Ticks until the nearest egress looks at the links into it.
    noticed: usize,
    /// Ticks until the deadline.
    late: usize,
}

/// What one scheme is doing.
#[derive(Clone, Default)]
struct State {
    mask: Mask,
    selector: Selector,
    /// What was last computed, by egress: for which graph and outcomes, and what it costs to fetch.
    known: Vec<(Mask, Vec<u32>, Fate, f64)>,
}

impl Run<'_, '_> {
    /// Runs all schemes.
    pub fn run(&mut self, graph: &Graph) -> [Tally; Scheme::ALL.len()] {
        let lags = self.lags(graph);
        let mut tallies = [Tally::default(); Scheme::ALL.len()];
        let egresses = self.stream.demand.egresses.len();
        let mut states = vec![
            State { known: vec![(0, Vec::new(), Fate::default(), 0.0); egresses], ..State::default() };
            Scheme::ALL.len()
        ];
        let quiet = self.stream.computed(&Reported::new());
        let mut graphs = Graphs { new: quiet.clone(), installed: quiet };
        let mut now = Reported::new();
        let mut tick = self.counted.start;
        while tick < self.counted.end.min(self.stretch.ticks) {
            let mut until = self.next_event(&lags, tick);
            let told = self.reported(&lags, tick);
            if told != now {
                graphs.new = self.stream.computed(&told);
                now = told;
            }
            let before = self.reported(&lags, tick.saturating_sub(INSTALL_TICKS));
            graphs.installed = if before == now { graphs.new.clone() } else { self.stream.computed(&before) };
            for (scheme, state) in Scheme::ALL.iter().zip(&mut states) {
                state.mask = self.stream.graph_of(*scheme, time(tick), &now, &graphs, &mut state.selector);
                let due =
                    state.selector.due().map_or(usize::MAX, |due| (due.as_millis() as u64).div_ceil(TICK_MS) as usize);
                until = until.min(due.max(tick + 1));
            }
            for ((scheme, state), tally) in Scheme::ALL.iter().zip(&mut states).zip(&mut tallies) {
                let asked =
                    matches!(scheme, Scheme::RulePull | Scheme::LeanPull).then_some(&graphs.installed.asked[..]);
                self.count(&lags, state, tick, (until - tick) as f64 * PER_TICK, asked, tally);
            }
            tick = until;
        }
        tallies
    }

    fn lags(&self, graph: &Graph) -> Lags {
        let source = self.stream.demand.ingress;
        let away = self.net.distances(Mask::MAX, source);
        let ticks = |micros: u64| micros.div_ceil(TICK_MS * 1000) as usize;
        let there = |edge: usize| (u64::from(away[usize::from(self.net.ends[edge].0)]) / (TICK_MS * 1000)) as usize;
        // Links lead both ways at one delay, so the way back is as long as the way there.
        let told = |edge: usize| ticks(u64::from(away[graph[EdgeIx(edge as u32)].to.0 as usize]) + HANDLING_US);
        let edges = || self.stretch.tracks.iter().map(|track| track.edge);
        let farthest = self.stream.demand.egresses.iter().map(|egress| away[egress.node.0 as usize]).max().unwrap_or(0);
        let asks = [0, ASK_AGAIN_US].map(|more| ticks(u64::from(farthest + more) + NOTICE_US));
        let nearest = self.stream.demand.egresses.iter().map(|egress| away[egress.node.0 as usize]).min().unwrap_or(0);
        Lags {
            there: edges().map(there).collect(),
            told: edges().map(told).collect(),
            asks,
            noticed: ticks(u64::from(nearest) + NOTICE_US),
            late: ticks(u64::from(self.stream.demand.deadline_us)),
        }
    }

    fn reported(&self, lags: &Lags, tick: usize) -> Reported {
        let mut reported = Reported::new();
        for ((track, seen), lag) in self.stretch.tracks.iter().zip(&self.seen.tracks).zip(&lags.told) {
            let (condition, delay) = tick.checked_sub(*lag).map_or((Condition::default(), 100), |at| seen[at]);
            if condition != Condition::default() {
                reported.push((track.edge as u8, condition, delay));
            }
        }
        reported
    }

    /// The next tick at which anything may be different for this stream.
    fn next_event(&self, lags: &Lags, tick: usize) -> usize {
        let mut next = tick + 1;
        let end = self.counted.end.min(self.stretch.ticks);
        while next < end && !self.differs(lags, tick, next) {
            next += 1;
        }
        next
    }

    fn differs(&self, lags: &Lags, tick: usize, next: usize) -> bool {
        let last = self.stretch.ticks - 1;
        let dead = self.stretch.dead.iter().any(|(_, from, until)| *from == next + lags.late || *until == next);
        let track = |at: usize| {
            let numbers = &self.chances.number[at];
            let crossing = |tick: usize| numbers[(tick + lags.there[at]).min(last)];
            let seen = &self.seen.tracks[at];
            let told = |tick: usize, more: usize| tick.checked_sub(lags.told[at] + more).map(|at| seen[at]);
            crossing(tick) != crossing(next)
                || seen[(tick + lags.noticed).min(last)] != seen[(next + lags.noticed).min(last)]
                || lags.asks.iter().any(|ask| numbers[(tick + ask).min(last)] != numbers[(next + ask).min(last)])
                || told(next - 1, 0) != told(next, 0)
                || told(next - 1, INSTALL_TICKS) != told(next, INSTALL_TICKS)
        };
        dead || (0..self.stretch.tracks.len()).any(track)
    }

    /// Whether a node is dead while a packet sent at `tick` may be on its way: nothing is asked of flows that begin or end there.
    fn is_dead(&self, lags: &Lags, node: NodeIx, tick: usize) -> bool {
        self.stretch.dead.iter().any(|(dead, from, until)| *dead == node && tick < *until && *from <= tick + lags.late)
    }

    fn count(
        &self,
        lags: &Lags,
        state: &mut State,
        tick: usize,
        packets: f64,
        asked: Option<&[Asked]>,
        tally: &mut Tally,
    ) {
        let demand = &self.stream.demand;
        if self.is_dead(lags, demand.ingress, tick) {
            return;
        }
        tally.sent += packets;
        tally.carried += packets * f64::from(state.mask.count_ones());
        let last = self.stretch.ticks - 1;
        let (mut numbers, mut troubled): (Vec<u32>, Vec<(usize, &[Outcome])>) = (Vec::new(), Vec::new());
        for (at, track) in self.stretch.tracks.iter().enumerate().filter(|(_, track)| state.mask >> track.edge & 1 == 1)
        {
            let number = self.chances.number[at][(tick + lags.there[at]).min(last)];
            numbers.push(number);
            let list = &self.chances.lists[number as usize];
            let certain = list
                .first()
                .is_some_and(|first| first.chance == 1.0 && first.delay_us == self.net.delay_us[track.edge]);
            if !certain {
                troubled.push((track.edge, list));
            }
        }
        for (place, egress) in demand.egresses.iter().enumerate() {
            if self.is_dead(lags, egress.node, tick) {
                continue;
            }
            tally.wanted += packets;
            if troubled.is_empty() {
                continue;
            }
            let known = &mut state.known[place];
            // What a pull meets changes with more than the graph's own edges, so it is asked anew.
            if known.0 != state.mask || known.1 != numbers || (asked.is_some() && known.2.missed > 0.0) {
                let asked = asked.and_then(|asked| asked.get(place));
                let (fate, cost) = self.fate(lags, state.mask, tick, place, &troubled, asked);
                *known = (state.mask, numbers.clone(), fate, cost);
            }
            tally.lost += packets * known.2.lost;
            tally.carried += packets * known.3;
        }
    }

    /// What becomes of a packet, and what it costs to fetch.
    fn fate(
        &self,
        lags: &Lags,
        mask: Mask,
        tick: usize,
        place: usize,
        troubled: &[(usize, &[Outcome])],
        asked: Option<&Asked>,
    ) -> (Fate, f64) {
        let demand = &self.stream.demand;
        let (source, egress) = (demand.ingress, demand.egresses[place].node);
        let pull = asked.map(|asked| {
            let first = self.net.distances(mask, source)[egress.0 as usize];
            let ask_us = first.saturating_add(NOTICE_US as u32).min(demand.deadline_us);
            let at_egress = self.in_trouble_at(egress, tick + lags.noticed) >= 2;
            Pull { first: if at_egress { &asked.targeted } else { &asked.disjoint }, again: &asked.targeted, ask_us }
        });
        let (net, stretch, deadline_us) = (self.net, self.stretch, demand.deadline_us);
        let fate = Question { net, stretch, tick, mask, source, egress, deadline_us, troubled, pull }.answer();
        (fate, pull.map_or(0.0, |pull| pull.cost(&fate)))
    }

    /// How many links into `node` it has itself found to be in trouble by `tick`.
    fn in_trouble_at(&self, node: NodeIx, tick: usize) -> usize {
        let tick = tick.min(self.stretch.ticks - 1);
        let tracks = self.stretch.tracks.iter().zip(&self.seen.tracks);
        let into = tracks.filter(|(track, _)| u32::from(self.net.ends[track.edge].1) == node.0);
        into.filter(|(_, seen)| seen[tick].0.is_troubled()).count()
    }
}

/// The graphs on which each scheme sends in quiet.
pub fn quiet_masks(stream: &mut Stream<'_>) -> [Mask; Scheme::ALL.len()] {
    let none = Reported::new();
    let quiet = stream.computed(&none);
    let graphs = Graphs { new: quiet.clone(), installed: quiet };
    Scheme::ALL.map(|scheme| stream.graph_of(scheme, Duration::ZERO, &none, &graphs, &mut Selector::default()))
}

fn time(tick: usize) -> Duration {
    Duration::from_millis(tick as u64 * TICK_MS)
}
