use super::*;

fn plan(text: &str) -> Plan {
    Plan::parse(text).expect("a plan")
}

const CHAIN: &str = r#"
title = "a chain"
[defaults]
packets = 20_000
deadline = "200ms"
[[defaults.hop]]
count = 4
forward = { delay = "15ms", loss = { model = "gilbert", mean = 0.05, burst = 0.66 } }
[[case]]
name = "four hops"
"#;

#[test]
fn a_chain_of_lossy_hops_delivers_everything() {
    let report = run(&plan(CHAIN));
    let case = &report.cases[0];
    assert_eq!((case.packets, case.lost, case.late), (20_000, 0, 0), "{case}");
    assert_eq!(case.overhead.len(), 4);
    assert!(case.overhead.iter().all(|overhead| *overhead < 0.07), "{case:?}");
    assert!(case.latency_ms[0] >= 60.0 && case.latency_ms[0] < 61.0, "{case:?}");
}

#[test]
fn one_seed_decides_everything() {
    let mut plan = plan(CHAIN);
    plan.cases[0].packets = 2_000;
    let twice = [run(&plan), run(&plan)].map(|report| format!("{:?}", report.cases));
    assert_eq!(twice[0], twice[1]);
    plan.cases[0].seeds = vec![2];
    assert_ne!(format!("{:?}", run(&plan).cases), twice[0]);
}

#[test]
fn misses_are_found_and_counted() {
    let mut plan = plan(CHAIN);
    plan.cases[0].policy.mode = link::policy::RepairMode::Off;
    plan.cases[0].expect.residual = Some(1e-3);
    let case = &run(&plan).cases[0];
    assert!((0.15..0.24).contains(&case.residual), "{case}");
    assert!(case.independent_misses < case.lost);
    assert_eq!(case.verdict, Verdict::Missed);
}

#[test]
fn the_references_do_what_is_known_of_them() {
    let mut plan = plan(CHAIN);
    let case = &mut plan.cases[0];
    case.packets = 200_000;
    case.hops[0].count = 1;
    case.mechanism = Mechanism::NmStrikes;
    let strikes = run_case(case);
    assert!((0.13..0.17).contains(&strikes.overhead[0]), "{strikes}");
    assert!(strikes.residual < 1e-3, "{strikes}");
    case.mechanism = Mechanism::PlainArq;
    let arq = run_case(case);
    assert!((0.045..0.06).contains(&arq.overhead[0]), "{arq}");
    assert!(arq.residual < 1e-3, "{arq}");
}

#[test]
fn unknown_fields_are_errors() {
    assert!(Plan::parse("title = \"x\"\ncolour = 1\n[[case]]\n").is_err());
}
