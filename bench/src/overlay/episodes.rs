//! What goes wrong in a week, drawn from a seed, and what each edge is like at every moment of it.

use super::map::{EDGES, Mask};
use crate::channel::{Draws, derive};
use topology::graph::{EdgeIx, Graph, NodeIx};

/// The grain of the experiment in milliseconds: an edge does not change within.
pub const TICK_MS: u64 = 5;

/// Milliseconds in a week.
pub const WEEK_MS: u64 = 7 * 86_400_000;

/// Quiet time simulated before the first trouble of a stretch: a detector's slow window.
const BEFORE_MS: u64 = 1_200;

/// Quiet time simulated after the last: until every level has been taken back and no module lingers.
const AFTER_MS: u64 = 8_000;

/// One thing that is wrong with one edge for a while.
#[derive(Clone, Copy, Debug)]
struct Impact {
    edge: usize,
    from_ms: u64,
    until_ms: u64,
    /// Share lost.
    loss: f32,
    /// Factor on the delay.
    stretch: f32,
}

/// Trouble around one place.
#[derive(Clone, Debug, Default)]
pub struct Episode {
    impacts: Vec<Impact>,
    /// A node that is dead, and when: nothing is asked of flows that end there.
    dead: Option<(NodeIx, u64, u64)>,
}

/// A stretch of time with trouble in it, quiet at both ends.
#[derive(Clone, Debug)]
pub struct Stretch {
    /// How many ticks it lasts.
    pub ticks: usize,
    /// Edges with trouble somewhere in it.
    pub tracks: Vec<Track>,
    /// Place in `tracks` by edge.
    pub track_of: [Option<u8>; EDGES],
    /// Dead nodes and the ticks between which they are.
    pub dead: Vec<(NodeIx, usize, usize)>,
}

/// One edge through a stretch.
#[derive(Clone, Debug)]
pub struct Track {
    /// Which edge.
    pub edge: usize,
    /// Share lost, by tick.
    pub loss: Vec<f32>,
    /// Factor on the delay, by tick.
    pub stretch: Vec<f32>,
}

impl Stretch {
    /// Share lost on an edge at a tick; nothing where there is no trouble.
    pub fn loss(&self, edge: usize, tick: usize) -> f32 {
        let track = self.track_of[edge].map(|at| &self.tracks[usize::from(at)]);
        track.map_or(0.0, |track| track.loss[tick.min(self.ticks - 1)])
    }

    /// The edges with trouble somewhere in it.
    pub fn mask(&self) -> Mask {
        self.tracks.iter().fold(0, |mask, track| mask | 1 << track.edge)
    }
}

/// Background loss of every edge in a week: log-uniform from 1e-5 to 1e-4.
pub fn background(seed: u64, week: u64) -> [f64; EDGES] {
    let mut draws = Draws::new(derive(seed, &["background", &week.to_string()]));
    std::array::from_fn(|_| 10f64.powf(-5.0 + draws.unit()))
}

/// The stretches of trouble of a week.
pub fn week(graph: &Graph, seed: u64, week: u64) -> Vec<Stretch> {
    let mut maker = Maker { graph, draws: Draws::new(derive(seed, &["episodes", &week.to_string()])) };
    let mut episodes = maker.week();
    episodes.retain(|episode| !episode.impacts.is_empty());
    episodes.sort_by_key(Episode::start);
    let mut stretches: Vec<Vec<Episode>> = Vec::new();
    let mut until = 0;
    for episode in episodes {
        let (start, end) = (episode.start(), episode.end());
        match stretches.last_mut() {
            Some(last) if start < until + BEFORE_MS + AFTER_MS => last.push(episode),
            _ => stretches.push(vec![episode]),
        }
        until = until.max(end);
    }
    stretches.iter().map(|episodes| stretch(episodes)).collect()
}

/// A stretch that holds just this: `edges` lose `loss` for `span_ms`; `dead` if they do because a node died.
pub fn onset(edges: impl IntoIterator<Item = EdgeIx>, loss: f32, span_ms: u64, dead: Option<NodeIx>) -> Stretch {
    let impact = |edge: EdgeIx| Impact { edge: edge.0 as usize, from_ms: 0, until_ms: span_ms, loss, stretch: 1.0 };
    let dead = dead.map(|node| (node, 0, span_ms));
    stretch(&[Episode { impacts: edges.into_iter().map(impact).collect(), dead }])
}

/// When the first trouble of a stretch begins, in ticks.
pub const ONSET: usize = (BEFORE_MS / TICK_MS) as usize;

fn stretch(episodes: &[Episode]) -> Stretch {
    let origin = episodes.iter().map(Episode::start).min().unwrap_or(0);
    let end = episodes.iter().map(Episode::end).max().unwrap_or(0);
    let tick = |ms: u64| ((ms + BEFORE_MS - origin) / TICK_MS) as usize;
    let ticks = tick(end + AFTER_MS);
    let mut stretch = Stretch { ticks, tracks: Vec::new(), track_of: [None; EDGES], dead: Vec::new() };
    for episode in episodes {
        for impact in &episode.impacts {
            let at = *stretch.track_of[impact.edge].get_or_insert(stretch.tracks.len() as u8);
            if usize::from(at) == stretch.tracks.len() {
                let (loss, factor) = (vec![0.0; ticks], vec![1.0; ticks]);
                stretch.tracks.push(Track { edge: impact.edge, loss, stretch: factor });
            }
            let track = &mut stretch.tracks[usize::from(at)];
            let span = tick(impact.from_ms)..tick(impact.until_ms).max(tick(impact.from_ms) + 1);
            track.loss[span.clone()].iter_mut().for_each(|loss| *loss = 1.0 - (1.0 - *loss) * (1.0 - impact.loss));
            track.stretch[span].iter_mut().for_each(|factor| *factor = factor.max(impact.stretch));
        }
        stretch.dead.extend(episode.dead.map(|(node, from, until)| (node, tick(from), tick(until))));
    }
    stretch
}

impl Episode {
    fn start(&self) -> u64 {
        self.impacts.iter().map(|impact| impact.from_ms).min().unwrap_or(0)
    }

    fn end(&self) -> u64 {
        self.impacts.iter().map(|impact| impact.until_ms).max().unwrap_or(0)
    }
}

struct Maker<'a> {
    graph: &'a Graph,
    draws: Draws,
}

/// Makes one episode of a kind.
type Make<'a> = fn(&mut Maker<'a>) -> Episode;

impl Maker<'_> {
    fn week(&mut self) -> Vec<Episode> {
        let kinds: [(f64, Make<'_>); 9] = [
            (21.9, |maker| maker.around(|maker| vec![maker.node()], true, false)),
            (17.5, |maker| maker.around(|maker| vec![maker.node()], false, true)),
            (7.7, |maker| maker.around(|maker| vec![maker.node()], true, true)),
            (1.3, |maker| maker.around(|maker| vec![maker.node(), maker.node()], true, true)),
            (0.9, |maker| maker.around(Self::neighbours, true, true)),
            (43.8, Self::lossy_link),
            (21.9, Self::slow_link),
            (13.1, Self::cut),
            (3.3, Self::killed),
        ];
        let mut episodes = Vec::new();
        for (mean, make) in kinds {
            for _ in 0..self.poisson(mean) {
                episodes.push(make(self));
            }
        }
        for _ in 0..self.poisson(438.0) {
            episodes.push(self.burst());
        }
        episodes
    }

    /// Loss on the links of nodes, uneven by link and from one half second to the next; half of the time on and off.
    fn around(&mut self, nodes: fn(&mut Self) -> Vec<NodeIx>, inward: bool, outward: bool) -> Episode {
        let nodes = nodes(self);
        let (from_ms, until_ms) = self.span(12.0, 1.0, 120.0);
        let base = self.between(0.05, 0.70);
        let everywhere = self.draws.chance(0.8);
        let mut edges: Vec<EdgeIx> = Vec::new();
        for node in nodes {
            edges.extend(self.graph.incoming(node).filter(|_| inward));
            edges.extend(self.graph.outgoing(node).filter(|_| outward));
        }
        edges.sort();
        edges.dedup();
        let hit: Vec<(usize, f64)> = edges
            .into_iter()
            .map(|edge| (edge.0 as usize, everywhere || self.draws.chance(0.75), self.between(0.6, 1.4)))
            .filter_map(|(edge, hit, factor)| hit.then_some((edge, factor)))
            .collect();
        let phases = self.phases(from_ms, until_ms);
        let mut impacts = Vec::new();
        for (start, end) in phases {
            let mut at = start;
            while at < end {
                let next = end.min(at + 500);
                for (edge, factor) in &hit {
                    let loss = (base * factor * self.between(0.6, 1.4)).min(0.95) as f32;
                    impacts.push(Impact { edge: *edge, from_ms: at, until_ms: next, loss, stretch: 1.0 });
                }
                at = next;
            }
        }
        Episode { impacts, dead: None }
    }

    /// The whole span, or by chance of a half 0.5–5 s on and 0.2–3 s off in turn.
    fn phases(&mut self, from_ms: u64, until_ms: u64) -> Vec<(u64, u64)> {
        if self.draws.chance(0.5) {
            return vec![(from_ms, until_ms)];
        }
        let mut phases = Vec::new();
        let mut at = from_ms;
        while at < until_ms {
            let on = self.between(500.0, 5000.0) as u64;
            phases.push((at, until_ms.min(at + on)));
            at += on + self.between(200.0, 3000.0) as u64;
        }
        phases
    }

    fn lossy_link(&mut self) -> Episode {
        let (from_ms, until_ms) = self.span(10.0, 1.0, 120.0);
        let loss = self.between(0.05, 0.95) as f32;
        let edges = self.link(0.3);
        self.even(edges, from_ms, until_ms, loss, 1.0)
    }

    fn slow_link(&mut self) -> Episode {
        let (from_ms, until_ms) = self.span(10.0, 1.0, 120.0);
        let stretch = self.between(1.25, 2.5) as f32;
        let edges = self.link(0.0);
        self.even(edges, from_ms, until_ms, 0.0, stretch)
    }

    fn cut(&mut self) -> Episode {
        let (from_ms, until_ms) = self.span(12.0, 0.8, 60.0);
        let edges = self.link(1.0);
        self.even(edges, from_ms, until_ms, 1.0, 1.0)
    }

    fn killed(&mut self) -> Episode {
        let (from_ms, until_ms) = self.span(15.0, 0.8, 120.0);
        let node = self.node();
        let edges = self.graph.incoming(node).chain(self.graph.outgoing(node)).collect();
        let episode = self.even(edges, from_ms, until_ms, 1.0, 1.0);
        Episode { dead: Some((node, from_ms, until_ms)), ..episode }
    }

    fn burst(&mut self) -> Episode {
        let from_ms = self.start();
        let until_ms = from_ms + self.between(10.0, 100.0) as u64;
        let loss = self.between(0.3, 1.0) as f32;
        let edges = self.link(0.0);
        self.even(edges, from_ms, until_ms, loss, 1.0)
    }

    fn even(&self, edges: Vec<EdgeIx>, from_ms: u64, until_ms: u64, loss: f32, stretch: f32) -> Episode {
        let impact = |edge: EdgeIx| Impact { edge: edge.0 as usize, from_ms, until_ms, loss, stretch };
        Episode { impacts: edges.into_iter().map(impact).collect(), dead: None }
    }

    /// An edge, and by this chance the one that leads back, too.
    fn link(&mut self, both: f64) -> Vec<EdgeIx> {
        let edge = EdgeIx((self.draws.unit() * EDGES as f64) as u32);
        let back = self.graph.between(self.graph[edge].to, self.graph[edge].from).next();
        let both = self.draws.chance(both);
        [Some(edge), back.filter(|_| both)].into_iter().flatten().collect()
    }

    fn node(&mut self) -> NodeIx {
        NodeIx((self.draws.unit() * self.graph.node_count() as f64) as u32)
    }

    fn neighbours(&mut self) -> Vec<NodeIx> {
        let edge = self.link(0.0)[0];
        vec![self.graph[edge].from, self.graph[edge].to]
    }

    fn start(&mut self) -> u64 {
        (self.draws.unit() * WEEK_MS as f64) as u64
    }

    /// A beginning, and an end a lognormal time later: median and cap in seconds, at least one.
    fn span(&mut self, median: f64, sigma: f64, cap: f64) -> (u64, u64) {
        let start = self.start();
        let seconds = (median * (sigma * self.draws.normal()).exp()).clamp(1.0, cap);
        (start, start + (seconds * 1000.0) as u64)
    }

    fn between(&mut self, least: f64, most: f64) -> f64 {
        least + (most - least) * self.draws.unit()
    }

    /// How many events of a Poisson process there are in one unit, by its exponential gaps.
    fn poisson(&mut self, mean: f64) -> u32 {
        let mut count = 0;
        let mut at = self.draws.exponential(1.0 / mean);
        while at < 1.0 {
            count += 1;
            at += self.draws.exponential(1.0 / mean);
        }
        count
    }
}
