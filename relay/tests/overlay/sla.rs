//! What a sink missed is counted at its relay as at the sink, and laid to the hop that lost it.

use crate::harness::{Overlay, STREAM, Source, ms};
use anabranch_relay::sla::{SinkSla, Span};
use link::Instant;
use node::testing::{End, NodeId};
use sink::playout::Release;
use sink::report::Counters;
use sink::system::{Outlets, SinkSystem};
use std::collections::BTreeMap;

struct Discard;

impl Outlets for Discard {
    fn release(&mut self, _: usize, _: Release) {}
    fn changed(&mut self, _: usize) {}
}

fn counters(overlay: &mut Overlay, node: NodeId) -> Counters {
    overlay.world.with(node, |now, sink: &mut SinkSystem<Discard>, _| sink.reports(now).remove(0).packets)
}

fn account(overlay: &mut Overlay, relay: &str, sink: &str) -> SinkSla {
    let stream = STREAM.parse().expect("valid");
    let sla = overlay.relay(relay, |now, system, _| system.sla(now, &stream)).expect("it reported");
    assert_eq!((sla.relay.as_str(), sla.stream.as_str()), (relay, STREAM));
    sla.sinks.into_iter().find(|of| of.sink.as_str() == sink).expect("it reported")
}

/// Packets by the hop that lost them.
fn hops(span: &Span) -> BTreeMap<String, u64> {
    span.hops.iter().map(|hop| (format!("{}-{}", hop.from, hop.to), hop.packets)).collect()
}

/// For so many milliseconds nothing that leaves this end arrives.
fn silence(overlay: &mut Overlay, end: End, delay: u64, millis: u64) {
    let until = overlay.world.now() + ms(millis);
    overlay.world.set_path(end, move |now: Instant, _: &[u8]| (now >= until).then(|| now + ms(delay)));
}

#[test]
fn three_faults_are_laid_to_the_hops_they_were_on() {
    let mut overlay = Overlay::with_links(&[("a", "b", 15), ("b", "c", 15)]);
    let (near, _) = overlay.real_sink("b", "near", Discard);
    let (far, last_mile) = overlay.real_sink("c", "far", Discard);
    overlay.run(1000);
    let source = overlay.source("a", "camera", Source::new(1));
    overlay.run(500);
    overlay.send(source, true);
    overlay.run(3000);
    let before = counters(&mut overlay, far);
    assert_eq!((before.missing, before.late), (0, 0), "{before:?}");

    let mut lost = Vec::new();
    for fault in ["a-b", "b-c", "c-far"] {
        let missed = counters(&mut overlay, far).missing;
        match fault {
            "a-b" => overlay.outage("a", "b", 15, 400),
            "b-c" => overlay.outage("b", "c", 15, 400),
            _ => silence(&mut overlay, last_mile, 5, 400),
        }
        overlay.run(5000);
        let now = counters(&mut overlay, far).missing;
        assert!(now > missed + 50, "the fault on {fault} cost {} packets", now - missed);
        lost.push((fault.to_owned(), now - missed));
    }
    overlay.send(source, false);
    overlay.run(3000);

    let own = counters(&mut overlay, far);
    let sla = account(&mut overlay, "c", "far");
    for span in [&sla.minute, &sla.hour, &sla.day] {
        assert_eq!((span.on_time, span.late, span.missing), (own.on_time, own.late, own.missing), "{own:?} {span:?}");
        assert_eq!(span.due, own.on_time + own.late + own.missing + own.overflow);
        assert_eq!(span.on_time_share, Some(own.on_time_share()));
        assert_eq!(hops(span), lost.iter().cloned().collect(), "each miss on its hop: {span:?}");
        assert_eq!(span.unknown, own.late, "{span:?}");
    }

    // Who is nearer missed what the first hop lost, and nothing else.
    let own = counters(&mut overlay, near);
    let sla = account(&mut overlay, "b", "near");
    assert_eq!((sla.day.on_time, sla.day.missing), (own.on_time, own.missing));
    assert_eq!(hops(&sla.day).keys().collect::<Vec<_>>(), ["a-b"]);
    assert_eq!(hops(&sla.day)["a-b"] + sla.day.unknown, own.missing + own.late);
}

/// What never entered the overlay was lost on the way from its source.
#[test]
fn what_the_source_lost_is_laid_to_its_hop() {
    let mut overlay = Overlay::with_links(&[("a", "b", 15)]);
    let (node, _) = overlay.real_sink("b", "s", Discard);
    overlay.run(1000);
    let source = overlay.idle_source(Source::new(1));
    let first_mile =
        overlay.connect_source("a", "camera", source, crate::harness::all(node::trust::Direction::Publish));
    overlay.run(500);
    overlay.send(source, true);
    overlay.run(2000);
    silence(&mut overlay, first_mile, 5, 400);
    overlay.run(5000);
    overlay.send(source, false);
    overlay.run(3000);
    let own = counters(&mut overlay, node);
    let sla = account(&mut overlay, "b", "s");
    assert!(own.missing > 50, "{own:?}");
    let blamed = hops(&sla.day);
    assert_eq!(blamed.values().sum::<u64>() + sla.day.unknown, own.missing + own.late);
    // This source leaves nothing for the hops beyond: what it repairs in the last moment is in time here, and too late for the next.
    assert!(blamed["camera-a"] > own.missing * 3 / 4, "{blamed:?} of {own:?}");
}

/// A packet that went another way tells nothing of the way it did not go: what a relay that dies takes with it is unknown, not laid to
/// a hop that stands.
#[test]
fn what_a_dead_relay_took_is_not_laid_to_another() {
    let mut overlay = Overlay::with_links(&[("a", "b", 10), ("b", "d", 10), ("a", "c", 12), ("c", "d", 12)]);
    let (node, _) = overlay.real_sink("d", "s", Discard);
    overlay.run(1000);
    let mut source = Source::new(1);
    // No time to fetch what is lost.
    source.publish.deadline_us = 36_000;
    let source = overlay.source("a", "camera", source);
    overlay.run(500);
    overlay.send(source, true);
    overlay.run(2000);
    overlay.kill("b");
    overlay.run(5000);
    overlay.send(source, false);
    overlay.run(3000);
    let own = counters(&mut overlay, node);
    let sla = account(&mut overlay, "d", "s");
    assert_eq!((sla.day.on_time, sla.day.missing), (own.on_time, own.missing));
    assert!(own.missing > 0, "one way only, and it died: {own:?}");
    let blamed = hops(&sla.day);
    assert!(blamed.keys().all(|hop| hop.contains('b')), "{blamed:?}");
    assert_eq!(blamed.values().sum::<u64>() + sla.day.unknown, own.missing + own.late);
}
