//! What one way should have brought and another one brought is counted, exactly.

use crate::harness::{Overlay, Source, ms};
use anabranch_relay::system::LinkOptions;
use link::policy::{Policy, RepairMode};
use node::control::Dissemination;

/// What the relay counts as brought by another way than it should have.
fn rescued(overlay: &mut Overlay, relay: &str) -> u64 {
    overlay.report(relay).streams[0].counters.recovered_other_way
}

/// Copies that came from a neighbour.
fn came(overlay: &mut Overlay, relay: &str, from: &str) -> u64 {
    let report = overlay.report(relay);
    let input = report.streams[0].inputs.iter().find(|input| input.peer.relay.as_str() == from).expect("an input");
    input.counters.received
}

#[test]
fn what_another_way_saved_is_counted_once_and_nothing_else_is() {
    let mut overlay = Overlay::with_links(&[("a", "b", 10), ("b", "d", 10), ("a", "c", 15), ("c", "d", 15)]);
    for (from, delay) in [("b", 10), ("c", 15)] {
        let policy = Policy { mode: RepairMode::Off, ..Policy::default() };
        let options = LinkOptions { delay: Some(ms(delay)), policy, ..LinkOptions::default() };
        let to = || "d".parse().expect("valid");
        overlay.relay(from, |now, system, ports| system.set_link_options(now, to(), options.clone(), ports));
    }
    let sink = overlay.sink("d", "s");
    let source = overlay.source("a", "camera", Source::new(7).mode(Dissemination::Disjoint));
    overlay.run(500);
    overlay.send(source, true);
    overlay.run(2000);
    let relays = ["a", "b", "c", "d"];
    assert_eq!(relays.map(|relay| rescued(&mut overlay, relay)), [0; 4], "nothing was lost");

    // First the slower way loses, whose copies nobody would miss, then the faster one; each by itself.
    let (mut before, mut all) = ([0, 0], 0);
    for (nth, (from, delay)) in [("c", 15), ("b", 10)].into_iter().enumerate() {
        overlay.lossy(from, "d", delay, 1000, 0.05, 11);
        overlay.run(2000);
        overlay.send(source, false);
        overlay.run(500);
        let sent = u64::from(overlay.of_source(source, |source| source.next_seq));
        let lost = sent - came(&mut overlay, "d", from) - before[nth];
        assert!((20..100).contains(&lost), "{from}: {lost} of a thousand");
        before[nth] += lost;
        all += lost;
        assert_eq!(relays.map(|relay| rescued(&mut overlay, relay)), [0, 0, 0, all], "{from}");
        overlay.send(source, true);
    }
    let sent = overlay.send(source, false);
    overlay.run(500);
    overlay.of_sink(sink, |sink| sink.assert_whole(7, 0..sent));
}
