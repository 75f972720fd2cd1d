//! Detection and selection in virtual time.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use anabranch_topology::dissemination::Repertoire;
use anabranch_topology::graph::{EdgeIx, Graph, Metric, NodeIx};
use anabranch_topology::module::{Demand, Egress};
use anabranch_topology::select::{Modules, Selector};
use anabranch_topology::trouble::*;
use common::{lossy, name};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use std::time::Duration;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Feeds one packet a millisecond, lost where `lost` says so; the condition after each.
fn run(watch: &mut Watch, span: std::ops::Range<u64>, mut lost: impl FnMut(u64) -> bool) -> Vec<(u64, Condition)> {
    let step = |at: u64| {
        let gone = lost(at);
        watch.observe(ms(at), u32::from(!gone), u32::from(gone));
        (at, watch.condition(ms(at)))
    };
    span.map(step).collect()
}

fn first_at(seen: &[(u64, Condition)], loss_ppm: u32) -> Option<u64> {
    seen.iter().find(|(_, condition)| condition.level >= Level::of(loss_ppm)).map(|(at, _)| *at)
}

#[test]
fn half_lost_is_said_within_fifty_milliseconds() {
    let mut watch = Watch::new(ms(0), 10_000);
    run(&mut watch, 0..5000, |_| false);
    let seen = run(&mut watch, 5000..6000, |at| at % 2 == 0);
    let onset = first_at(&seen, 50_000).unwrap();
    assert!(onset <= 5010, "onset said at {onset}");
    let full = first_at(&seen, 350_000).unwrap();
    assert!(full <= 5050, "level said at {full}");
}

#[test]
fn background_loss_is_no_trouble() {
    let mut rng = StdRng::seed_from_u64(7);
    let mut watch = Watch::new(ms(0), 10_000);
    let seen = run(&mut watch, 0..600_000, |_| rng.random_bool(0.000_1));
    assert!(seen.iter().all(|(_, condition)| !condition.is_troubled()));
    let said = seen.iter().filter(|(_, condition)| condition.is_doubtful()).count();
    assert_eq!(said, 0);
}

#[test]
fn steady_loss_does_not_flap() {
    let mut rng = StdRng::seed_from_u64(8);
    let mut watch = Watch::new(ms(0), 10_000);
    let seen = run(&mut watch, 0..120_000, |_| rng.random_bool(0.06));
    let changes = seen[3000..].windows(2).filter(|pair| pair[0].1 != pair[1].1).count();
    assert!(changes <= 24, "{changes} changes in two minutes");
    assert!(seen[3000..].iter().all(|(_, condition)| condition.is_doubtful()));
}

#[test]
fn a_level_stands_a_second_after_a_fast_trigger() {
    let mut watch = Watch::new(ms(0), 10_000);
    run(&mut watch, 0..2000, |_| false);
    let seen = run(&mut watch, 2000..7000, |at| at < 2030);
    let until = seen.iter().rev().find(|(_, condition)| condition.is_troubled()).unwrap().0;
    assert!((3000..=3200).contains(&until), "trouble said until {until}");
    assert_eq!(seen.last().unwrap().1, Condition::default());
}

#[test]
fn silence_is_total_loss_within_a_tenth_of_a_second() {
    let mut watch = Watch::new(ms(0), 10_000);
    run(&mut watch, 0..1000, |_| false);
    assert_eq!(watch.condition(ms(1098)).level, Level::NONE);
    assert_eq!(watch.condition(ms(1099)).level, Level::ALL);
    watch.condition(ms(1499));
    let seen = run(&mut watch, 1500..2600, |_| false);
    let until = seen.iter().rev().find(|(_, condition)| condition.level == Level::ALL).map(|(at, _)| *at);
    assert_eq!(until, Some(2498), "held for a second, though it sounds again");
    assert_eq!(watch.condition(ms(2600)).level, Level::NONE);
}

#[test]
fn probes_alone_show_trouble() {
    let mut watch = Watch::new(ms(0), 10_000);
    for at in (0..3000).step_by(25) {
        let gone = at > 1000 && at % 50 == 0;
        watch.observe(ms(at), u32::from(!gone), u32::from(gone));
    }
    assert!(watch.condition(ms(3000)).is_troubled());
}

#[test]
fn delay_that_stays_up_is_late_and_jitter_is_not() {
    let mut watch = Watch::new(ms(0), 20_000);
    let late = |watch: &mut Watch, span: std::ops::Range<u64>, delay: fn(u64) -> u32| {
        let step = |at| {
            watch.observe(ms(at), 1, 0);
            watch.observe_delay(delay(at));
            watch.condition(ms(at)).late
        };
        span.map(step).filter(|late| *late).count()
    };
    assert_eq!(late(&mut watch, 0..1000, |at| if at % 20 == 0 { 20_000 } else { 60_000 }), 0);
    assert!(late(&mut watch, 1000..2000, |_| 26_000) > 850);
}

#[test]
fn levels_round_down_and_keep_their_order() {
    for (at, begins) in LEVELS_PPM.iter().enumerate() {
        assert_eq!(Level::of(*begins).ppm(), *begins);
        assert_eq!(Level::of(begins + 1).ppm(), *begins);
        assert!(at == 0 || Level::of(begins - 1) < Level::of(*begins));
    }
    assert_eq!(Level::of(1_000_000), Level::ALL);
}

/// Two relays in the middle of three ways from n000 to n004: n001 (10 + 10), n002 (12 + 12), n003 (15 + 15).
fn three_ways() -> (Graph, Demand) {
    let both = |a: usize, b: usize, ms: u32| {
        let metric = Metric { delay_us: ms * 1000, loss_ppm: 10, cost: 1 };
        [(name(a), name(b), metric), (name(b), name(a), metric)]
    };
    let links = [both(0, 1, 10), both(1, 4, 10), both(0, 2, 12), both(2, 4, 12), both(0, 3, 15), both(3, 4, 15)];
    let graph = Graph::new((0..5).map(|at| (name(at), true)), links.into_iter().flatten());
    let egresses = vec![Egress { node: NodeIx(4), last_mile_us: 0 }];
    (graph, Demand { ingress: NodeIx(0), egresses, deadline_us: 200_000 })
}

fn edge(graph: &Graph, from: u32, to: u32) -> EdgeIx {
    graph.between(NodeIx(from), NodeIx(to)).next().unwrap()
}

#[test]
fn the_rule_grows_redundancy_just_where_the_trouble_is() {
    let (graph, mut demand) = three_ways();
    let bad = |edges: Vec<EdgeIx>, ppm: u32| move |edge: EdgeIx| lossy(if edges.contains(&edge) { ppm } else { 0 });
    let into = vec![edge(&graph, 1, 4), edge(&graph, 2, 4)];
    let out_of = vec![edge(&graph, 0, 2), edge(&graph, 0, 3)];
    let lean = Repertoire::new(&graph, &demand, true);
    let sizes = |repertoire: &Repertoire, modules: Modules| repertoire.edges(modules).len();
    assert_eq!(sizes(&lean, lean.plan.choose(|_| lossy(0))), 2, "quiet: one way");
    assert_eq!(lean.plan.choose(bad(vec![edge(&graph, 1, 4)], 20_000)), Modules::BASE.with(Modules::DISJOINT));
    assert_eq!(lean.plan.choose(bad(vec![edge(&graph, 2, 4)], 900_000)), Modules::BASE, "not on the one way");
    let destination = lean.plan.choose(bad(into.clone(), 50_000));
    assert!(destination.has(Modules::destination(0)) && !destination.has(Modules::SOURCE));
    assert_eq!(sizes(&lean, destination), 6);
    assert!(lean.plan.choose(bad(out_of, 50_000)).has(Modules::SOURCE));
    let middle = vec![edge(&graph, 1, 4), edge(&graph, 0, 2)];
    assert!(lean.plan.choose(bad(middle, 500_000)).has(Modules::ROBUST));

    demand.deadline_us = 65_000;
    let hedged = Repertoire::new(&graph, &demand, true);
    assert!(!hedged.plan.egresses[0].lean);
    assert_eq!(sizes(&hedged, hedged.plan.choose(|_| lossy(0))), 4, "no time to fetch: two ways");
    demand.deadline_us = 200_000;
    assert_eq!(sizes(&Repertoire::new(&graph, &demand, false), Modules::BASE), 4, "nothing to fetch from: two ways");
}

#[test]
fn what_is_wanted_is_added_at_once_and_the_way_back_is_slow() {
    let (graph, demand) = three_ways();
    let plan = Repertoire::new(&graph, &demand, true).plan;
    let mut selector = Selector::default();
    let trouble = |from: u32, to: u32| {
        let bad = edge(&graph, from, to);
        move |edge: EdgeIx| lossy(if edge == bad { 500_000 } else { 0 })
    };
    assert_eq!(selector.select(ms(0), &plan, |_| lossy(0)), Modules::BASE);
    let both = Modules::BASE.with(Modules::DISJOINT);
    assert_eq!(selector.select(ms(1), &plan, trouble(1, 4)), both);
    let into = [edge(&graph, 1, 4), edge(&graph, 2, 4)];
    let worse = |edge: EdgeIx| lossy(if into.contains(&edge) { 500_000 } else { 0 });
    let all = selector.select(ms(2), &plan, worse);
    assert!(all.has(both.with(Modules::destination(0))));
    assert_eq!(selector.select(ms(2000), &plan, |_| lossy(0)), all, "what was added lingers");
    assert_eq!(selector.due(), Some(ms(7000)));
    assert_eq!(selector.select(ms(6999), &plan, |_| lossy(0)), all);
    assert_eq!(selector.select(ms(7000), &plan, |_| lossy(0)), Modules::BASE);
    assert_eq!(selector.due(), None);
}

#[test]
fn beyond_twelve_egresses_slots_are_shared() {
    assert_eq!(Modules::destination(0), Modules::destination(12));
    assert_ne!(Modules::destination(0), Modules::destination(11));
    assert_eq!(Modules::destination(11).0, 1 << 15);
}
