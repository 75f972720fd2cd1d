//! What fails in an overlay of six real relays while streams of every mode flow at 10 Mbit/s, and what of them is lost with 200 ms to the deadline.
//! Nobody is told of a failure; relays find out from what arrives. Each case is exact in virtual time (`relay/tests/overlay/failures.rs`); here
//! it is real: processes, sockets, clocks, and a machine that stalls.

use anabranch_tests::six::{RELAYS, Six, Tally};
use anabranch_tests::{allowance, strict};
use bench::emulator::Action;
use link::Bitrate;
use node::control::Dissemination::{self, Auto, Disjoint, Flood, Targeted, Tree};
use std::time::Duration;

/// Of each stream.
const RATE: Bitrate = Bitrate::mbps(10);

/// What every link loses all the while, and either way.
const LOSS: f64 = 0.01;

/// What comes after this is not the failure's doing any more: the deadline, and what reports need.
const SETTLED: Duration = Duration::from_millis(350);

/// After a failure is over: levels of trouble fall, modules that lingered go, streams are back on their way.
const CALM: Duration = Duration::from_secs(6);

/// The same for modes in which nothing lingers.
const SOON: Duration = Duration::from_secs(3);

/// A failure.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    /// Whether one thing fails: then two disjoint ways lose nothing.
    single: bool,
    fail: fn(&mut Six),
    mend: fn(&mut Six),
}

fn wait(millis: u64) {
    std::thread::sleep(Duration::from_millis(millis));
}

fn cut(six: &mut Six, link: (&str, &str), one_way: bool) {
    six.act(link, one_way, Action::Cut);
    wait(3000);
}

const CASES: [Case; 8] = [
    Case { name: "nothing fails", single: true, fail: |_| wait(3000), mend: |_| {} },
    Case { name: "b-d cut", single: true, fail: |six| cut(six, ("b", "d"), false), mend: |six| six.mend() },
    Case { name: "b to d cut", single: true, fail: |six| cut(six, ("b", "d"), true), mend: |six| six.mend() },
    Case { name: "d to b cut", single: true, fail: |six| cut(six, ("d", "b"), true), mend: |six| six.mend() },
    Case {
        name: "b killed -9",
        single: true,
        fail: |six| {
            six.kill("b");
            wait(3000);
        },
        mend: |six| six.launch("b"),
    },
    Case {
        name: "d frozen",
        single: true,
        fail: |six| {
            six.freeze("d");
            wait(3000);
        },
        mend: |six| six.thaw("d"),
    },
    Case {
        name: "b-d flaps",
        single: true,
        fail: |six| {
            for _ in 0..2 {
                six.act(("b", "d"), false, Action::Cut);
                wait(2000);
                six.mend();
                wait(2000);
            }
        },
        mend: |_| {},
    },
    Case {
        name: "20 % lost on both ways",
        single: false,
        fail: |six| {
            for link in [("b", "d"), ("c", "e")] {
                six.lose(link, 0.2);
            }
            wait(3000);
        },
        mend: |six| six.mend(),
    },
];

const ONSET: [Case; 1] = [Case {
    name: "50 % lost on all links into x",
    single: false,
    fail: |six| {
        for link in [("d", "x"), ("e", "x")] {
            six.lose(link, 0.5);
        }
        wait(3000);
    },
    mend: |six| six.mend(),
}];

/// What one case cost one stream: while it lasted, and when it was over.
struct Row {
    case: &'static Case,
    during: Tally,
    after: Tally,
}

/// Everything that `cases` do to streams of 10 Mbit/s in these modes over the same overlay.
fn run(six: &mut Six, modes: &[Dissemination], calm: Duration, cases: &'static [Case]) -> Vec<Row> {
    let mut streams = six.streams(("a", "x"), RATE, modes);
    let mut rows = Vec::new();
    for case in cases {
        for hop in [("a", "b"), ("b", "d"), ("d", "x")] {
            six.wait_until_carried(hop, &streams);
        }
        streams.take();
        (case.fail)(six);
        (case.mend)(six);
        std::thread::sleep(SETTLED);
        let during = streams.take();
        std::thread::sleep(calm);
        let tallies = during.into_iter().zip(streams.take());
        rows.extend(tallies.map(|(during, after)| Row { case, during, after }));
    }
    assert!(streams.undisturbed(), "source or sink lost its relay");
    for (mode, sent, seen) in streams.finish() {
        assert_eq!(seen.compared.foreign, 0, "{mode:?}: damaged, doubled or out of order of {sent}: {seen:?}");
    }
    rows
}

fn print(rows: &[Row]) {
    println!("| failure | mode | packets | lost | late | worst gap, ms | lost at return | late at return |");
    println!("|---|---|---|---|---|---|---|---|");
    for Row { case, during, after } in rows {
        let (mode, gap) = (format!("{:?}", during.mode).to_lowercase(), during.gap.as_millis());
        let (due, lost, late) = (during.due, during.lost, during.late);
        println!("| {} | `{mode}` | {due} | {lost} | {late} | {gap} | {} | {} |", case.name, after.lost, after.late);
    }
}

/// What may be lost where a failure is one and a stream travels on one way: what had to be fetched (until the ingress has heard of the failure, 0.3 s)
/// has no time left for an answer when one of its three hops loses it once more. A link that flaps twice fails twice. Where half of all is lost, the last hop
/// of a single way may not spend enough on repair, and what is asked for comes by a hop that is no better.
fn unsaved(case: &Case, tally: &Tally) -> u64 {
    let fetched = RATE.bytes_in(Duration::from_millis(300)) / 1316;
    match (case.single, tally.mode) {
        (true, Tree | Auto) => 2 * (fetched as f64 * 3.0 * LOSS).ceil() as u64,
        (true, _) => 0,
        (false, Tree) => tally.due / 10,
        (false, _) => tally.due / 100,
    }
}

fn judge(six: &Six, rows: &[Row]) {
    print(rows);
    let links = six.snapshot();
    println!("emulator: lag p99 {:?}, worst {:?}, strict {}", links.lag_p99, links.lag_max, strict());
    assert_eq!(links.kernel_dropped, 0, "the kernel lost what no plan says");
    for Row { case, during, after } in rows {
        let what = format!("{}, {:?}: {during:?}, then {after:?}", case.name, during.mode);
        assert!(after.missed() <= allowance(after.due), "lost at the return: {what}");
        assert!(during.missed() <= allowance(during.due).max(unsaved(case, during)), "{what}");
    }
    for relay in RELAYS {
        assert_eq!(six.status(relay)["refused"]["forged"], 0, "{relay}");
    }
    assert!(!six.log().contains("panicked"), "{}", six.log());
}

#[test]
fn a_cut_and_a_kill_cost_nothing() {
    const SHORT: [Case; 2] = [CASES[1], CASES[4]];
    let mut six = Six::start(1, LOSS);
    let rows = run(&mut six, &[Tree, Targeted], SOON, &SHORT);
    judge(&six, &rows);
}

#[test]
#[ignore = "long: a minute and a half"]
fn every_failure_on_one_way_and_on_two() {
    let mut six = Six::start(2, LOSS);
    let rows = run(&mut six, &[Tree, Targeted], SOON, &CASES);
    judge(&six, &rows);
}

#[test]
#[ignore = "long: two minutes"]
fn every_failure_where_the_overlay_chooses_and_where_ways_are_fixed() {
    let mut six = Six::start(3, LOSS);
    let rows = run(&mut six, &[Auto, Disjoint], CALM, &CASES);
    judge(&six, &rows);
}

/// Half of all is lost on every link into the egress: each mode by itself, because every copy needs as many again to be repaired, and all
/// of them together are more than these links and this machine are to carry. And `flood`, which has nothing to grow.
#[test]
#[ignore = "long: a minute and a half"]
fn an_egress_that_loses_half_and_flooding() {
    const SOME: [Case; 3] = [CASES[1], CASES[4], CASES[5]];
    let mut six = Six::start(4, LOSS);
    let mut rows = Vec::new();
    for mode in [Tree, Disjoint, Targeted, Auto, Flood] {
        rows.extend(run(&mut six, &[mode], SOON, &ONSET));
    }
    rows.extend(run(&mut six, &[Flood], SOON, &SOME));
    judge(&six, &rows);
}
