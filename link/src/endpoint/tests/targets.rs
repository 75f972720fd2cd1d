//! Packets with a target of their own.

use super::*;
use crate::units::Residual;

/// Repair sent, and packets that did not come, per media packet, on a path that leaves time for one answer.
fn run(target: Option<f64>) -> (f64, f64) {
    let weather = Weather { delay: Duration::from_millis(25), after_loss: 0.3, ..lossy() };
    let mut world = World::new(5, config(RepairMode::Auto), [weather.clone(), weather]);
    (world.due, world.target) = (Duration::from_millis(90), target.map(|share| Residual::share(share).unwrap()));
    let count = 30_000;
    world.stream(count, Duration::from_millis(1), |_| 1000);
    let stats = world.links[0].stats();
    let repair = (stats.arq_packets_sent + stats.fec_packets_sent) as f64 / f64::from(count);
    (repair, f64::from(count - world.delivered.len() as u32) / f64::from(count))
}

#[test]
fn what_may_be_missing_costs_less_and_what_may_not_costs_more() {
    let (loose, usual, strict) = (run(Some(1e-2)), run(None), run(Some(1e-8)));
    println!("repair, missing: {loose:?} at 1e-2, {usual:?} at 1e-7, {strict:?} at 1e-8");
    assert!(loose.0 < usual.0 * 0.9 && usual.0 < strict.0);
    assert!(loose.1 <= 1e-2 && usual.1 < 1e-3);
}

/// A policy says the same of all packets that have no target.
#[test]
fn a_packet_without_a_target_follows_the_policy() {
    let weather = Weather { delay: Duration::from_millis(25), after_loss: 0.3, ..lossy() };
    let spent = |policy: f64, target: Option<f64>| {
        let mut config = config(RepairMode::Auto);
        config.policy.target_residual = policy;
        let mut world = World::new(9, config, [weather.clone(), weather.clone()]);
        (world.due, world.target) = (Duration::from_millis(90), target.map(|share| Residual::share(share).unwrap()));
        world.stream(3_000, Duration::from_millis(1), |_| 1000);
        let stats = world.links[0].stats();
        (stats.arq_packets_sent, stats.fec_packets_sent, world.delivered.len())
    };
    assert_eq!(spent(1e-3, None), spent(1e-7, Some(1e-3)));
}
