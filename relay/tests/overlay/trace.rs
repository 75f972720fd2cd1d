//! A stream is traced hop by hop, from what each relay on its graph has measured.

use crate::harness::{Overlay, STREAM, Source};
use anabranch_relay::view::TraceView;
use node::control::Dissemination;

/// What is known of [`STREAM`] a second after `relay` was asked.
fn traced(overlay: &mut Overlay, relay: &str) -> TraceView {
    let stream = STREAM.parse().expect("valid");
    let begun = overlay.relay(relay, |now, system, ports| system.begin_trace(now, &stream, ports)).expect("carried");
    overlay.run(1000);
    overlay.relay(relay, |_, system, _| system.traced(&begun)).expect("carried")
}

fn flowing(mode: Dissemination) -> Overlay {
    let mut overlay = Overlay::with_links(&[("a", "b", 10), ("b", "d", 10), ("a", "c", 15), ("c", "d", 15)]);
    overlay.sink("d", "s");
    let source = overlay.source("a", "camera", Source::new(1).mode(mode));
    overlay.run(500);
    overlay.send(source, true);
    overlay.run(3000);
    overlay
}

#[test]
fn each_hop_of_a_stream_tells_its_delay_and_what_is_left() {
    let mut overlay = flowing(Dissemination::Targeted);
    for asked in ["a", "d"] {
        let view = traced(&mut overlay, asked);
        assert!(view.silent.is_empty(), "{:?}", view.silent);
        let names: Vec<&str> = view.relays.iter().map(|relay| relay.relay.as_str()).collect();
        assert_eq!(names, ["a", "b", "c", "d"], "asked at {asked}");
        let hops = &view.relays[3].hops;
        let by = |from: &str| hops.iter().find(|hop| hop.from.relay.as_str() == from).expect("two ways");
        let near = |value: f64, wanted: f64| assert!((value - wanted).abs() < 1.5, "{value} for {wanted}");
        let (fast, slow) = (by("b"), by("c"));
        near(fast.transit_ms, 10.0);
        near(slow.transit_ms, 15.0);
        // 5 ms from the source, 10 and 10; 5 to the sink.
        near(fast.age_ms.expect("it brings the first copies"), 25.0);
        near(fast.slack_ms.expect("it brings the first copies"), 200.0 - 25.0 - 5.0);
        assert_eq!((fast.duplicates, slow.age_ms, slow.duplicates), (0, None, slow.received));
    }
}

#[test]
fn a_relay_that_does_not_answer_is_named_and_the_others_are_told_of() {
    let mut overlay = flowing(Dissemination::Tree);
    overlay.outage("c", "a", 15, 5000);
    overlay.outage("c", "d", 15, 5000);
    let view = traced(&mut overlay, "a");
    assert_eq!(view.silent.iter().map(|name| name.as_str()).collect::<Vec<_>>(), ["c"]);
    assert_eq!(view.relays.len(), 3);
}

#[test]
fn lost_and_repaired_packets_show_on_the_hop_they_were_lost_on() {
    let mut overlay = flowing(Dissemination::Tree);
    overlay.lossy("b", "d", 10, 4000, 0.05, 9);
    overlay.run(3000);
    let view = traced(&mut overlay, "a");
    let repaired: Vec<(String, u64)> = view
        .relays
        .iter()
        .flat_map(|relay| relay.hops.iter().map(|hop| (format!("{}>{}", hop.from, relay.relay), hop.repaired)))
        .filter(|(_, repaired)| *repaired > 0)
        .collect();
    assert!(repaired.len() == 1 && repaired[0].0 == "b>d" && repaired[0].1 > 50, "{repaired:?}");
}

#[test]
fn a_stream_that_does_not_pass_is_not_traced() {
    let mut overlay = Overlay::with_links(&[("a", "b", 10)]);
    let stream = STREAM.parse().expect("valid");
    assert!(overlay.relay("a", |now, system, ports| system.begin_trace(now, &stream, ports)).is_none());
}

#[test]
fn a_neighbour_that_asks_without_end_does_not_keep_others_from_asking() {
    use node::control::{Control, Survey};
    use topology::lsdb::Incarnation;
    let mut overlay = flowing(Dissemination::Targeted);
    overlay.relay("c", |_, system, ports| {
        let to_a = system.relay(&"a".parse().expect("valid")).expect("linked");
        for id in 0..500 {
            let name = STREAM.parse().expect("valid");
            let asker = format!("made-up-{id}").parse().expect("valid");
            ports.control(to_a, Control::Survey(Survey { id, asker, name, incarnation: Incarnation(1), hops: 1 }));
        }
    });
    overlay.run(100);
    let view = traced(&mut overlay, "d");
    assert!(view.silent.is_empty(), "{:?}", view.silent);
}

#[test]
fn answers_in_other_names_and_of_any_length_are_not_kept() {
    use node::control::{Control, HopState, Surveyed};
    use topology::NodeName;
    let mut overlay = flowing(Dissemination::Targeted);
    let stream = STREAM.parse().expect("valid");
    let begun = overlay.relay("a", |now, system, ports| system.begin_trace(now, &stream, ports)).expect("carried");
    overlay.relay("c", |_, system, ports| {
        let to_a = system.relay(&"a".parse().expect("valid")).expect("linked");
        let from: NodeName = "x".parse().expect("valid");
        let hop = |received| HopState {
            from: from.clone().into(),
            transit_us: 0,
            bound_us: 0,
            loss_ppm: 0,
            received,
            repaired: 0,
            duplicates: 0,
            late: 0,
            age_us: None,
        };
        for relay in (0..50).map(|n| format!("made-up-{n}")).chain(["d".to_owned()]) {
            let (asker, relay) = ("a".parse().expect("valid"), relay.parse().expect("valid"));
            let hops = (0..1000).map(hop).collect();
            ports.control(to_a, Control::Surveyed(Surveyed { id: 1, asker, relay, hops }));
        }
    });
    overlay.run(1000);
    let view = overlay.relay("a", |_, system, _| system.traced(&begun)).expect("carried");
    let names: Vec<&str> = view.relays.iter().map(|relay| relay.relay.as_str()).collect();
    assert_eq!(names, ["a", "b", "c", "d"]);
    assert_eq!(view.relays[3].hops.len(), 32, "what c says in the name of d came first");
    overlay.run(3000);
    assert!(overlay.relay("a", |_, system, _| system.traced(&begun)).is_none(), "it is not kept");
}
