//! What is lost in the three seconds after a fault: a link cut, a relay killed, half lost on all links into the egress.

use super::episodes::{self, Stretch, TICK_MS};
use super::fate::{Net, Repair};
use super::schemes::{Scheme, Stream};
use super::world::{self, PER_TICK, Run};
use super::{Args, goals, map};
use crate::channel::{Draws, derive};
use serde::Serialize;
use topology::graph::{EdgeIx, Graph, NodeIx};
use topology::module::Demand;

/// Milliseconds after the fault that are looked at.
const WINDOW_MS: u64 = 3_000;

/// Sent so long before the fault, a packet may still meet it.
const AHEAD_MS: u64 = 60;

/// Milliseconds lost, mean over flows and places of the fault.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The deadline in milliseconds.
    pub deadline_ms: u32,
    /// Which scheme.
    pub scheme: &'static str,
    /// After a link of the first way was cut, both ways.
    pub cut_ms: f64,
    /// After a relay of the first way died.
    pub killed_ms: f64,
    /// After every link into the egress began to lose half.
    pub half_ms: f64,
}

/// Prints what is lost after faults, by deadline and scheme.
pub fn run(graph: &Graph, args: &Args) {
    if args.setting.as_ref().is_some_and(|text| !"onset".contains(text.as_str())) {
        return;
    }
    for (deadline_ms, repair) in [(65, Repair::Strike), (150, Repair::Rounds), (200, Repair::Rounds)] {
        let rows = rows(graph, deadline_ms, repair, args.seed);
        if args.json {
            rows.iter().for_each(|row| println!("{}", serde_json::to_string(row).expect("a row is plain data")));
            continue;
        }
        println!("milliseconds lost in {WINDOW_MS} ms after an onset, {deadline_ms} ms deadline (seed {})", args.seed);
        println!("{:<34} {:>10} {:>12} {:>18}", "scheme", "link cut", "relay killed", "50 % at the egress");
        for row in &rows {
            println!("{:<34} {:>10.2} {:>12.2} {:>18.2}", row.scheme, row.cut_ms, row.killed_ms, row.half_ms);
        }
        goals::print(&goals::of_onset(deadline_ms, &rows));
    }
}

/// The rows of one deadline.
pub fn rows(graph: &Graph, deadline_ms: u32, repair: Repair, seed: u64) -> Vec<Row> {
    let net = Net::new(graph);
    let mut sums = [[0.0; 3]; Scheme::ALL.len()];
    let mut counts = [0.0f64; 3];
    for demand in map::flows(graph, deadline_ms * 1000) {
        for (kind, stretch) in faults(graph, &net, &demand) {
            counts[kind] += 1.0;
            let lost = lost_ms(graph, &net, &demand, &stretch, repair, seed);
            sums.iter_mut().zip(lost).for_each(|(sum, lost)| sum[kind] += lost);
        }
    }
    let row = |(at, scheme): (usize, &Scheme)| {
        let mean = |kind: usize| sums[at][kind] / counts[kind].max(1.0);
        Row { deadline_ms, scheme: scheme.name(), cut_ms: mean(0), killed_ms: mean(1), half_ms: mean(2) }
    };
    Scheme::ALL.iter().enumerate().map(row).collect()
}

/// The faults of a flow, by kind: each link and each relay of its shortest way, and the links into its egress.
fn faults(graph: &Graph, net: &Net, demand: &Demand) -> Vec<(usize, Stretch)> {
    let way = topology::shortest::from(
        graph,
        &topology::weight::Weights::delay(graph),
        demand.ingress,
        &topology::sets::NodeSet::new(),
    );
    let egress = demand.egresses[0].node;
    let path = way.path(graph, egress).unwrap_or_default();
    let span = WINDOW_MS + 500;
    let cut = |edge: &EdgeIx| {
        let back = EdgeIx(u32::from(net.back[edge.0 as usize]));
        (0, episodes::onset([*edge, back], 1.0, span, None))
    };
    let killed = |node: NodeIx| {
        let edges = graph.incoming(node).chain(graph.outgoing(node));
        (1, episodes::onset(edges.collect::<Vec<_>>(), 1.0, span, Some(node)))
    };
    let half = (2, episodes::onset(graph.incoming(egress).collect::<Vec<_>>(), 0.5, span, None));
    let relays = path.iter().skip(1).map(|edge| graph[*edge].from);
    path.iter().map(cut).chain(relays.map(killed)).chain([half]).collect()
}

fn lost_ms(
    graph: &Graph,
    net: &Net,
    demand: &Demand,
    stretch: &Stretch,
    repair: Repair,
    seed: u64,
) -> [f64; Scheme::ALL.len()] {
    let mut draws = Draws::new(derive(seed, &["onset"]));
    let seen = world::watch(net, stretch, || draws.unit());
    let chances = world::chances(net, stretch, repair, demand.deadline_us);
    let mut stream = Stream::new(graph, demand.clone());
    let counted = episodes::ONSET - (AHEAD_MS / TICK_MS) as usize..episodes::ONSET + (WINDOW_MS / TICK_MS) as usize;
    let mut run = Run { net, stretch, seen: &seen, chances: &chances, stream: &mut stream, counted };
    run.run(graph).map(|tally| tally.lost * (TICK_MS as f64 / PER_TICK))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hedged_and_lean_streams_survive_a_cut_and_a_death() {
        let graph = map::graph();
        let find = |rows: &[Row], scheme: Scheme| rows.iter().find(|row| row.scheme == scheme.name()).cloned();
        let interactive = find(&rows(&graph, 65, Repair::Strike, 1), Scheme::Rule).expect("the rule is run");
        assert!(interactive.cut_ms <= 1.0 && interactive.killed_ms <= 1.0, "{interactive:?}");
        let broadcast = find(&rows(&graph, 200, Repair::Rounds, 1), Scheme::RulePull).expect("the rule is run");
        assert!(broadcast.cut_ms < 0.01 && broadcast.killed_ms < 0.01, "{broadcast:?}");
    }
}
