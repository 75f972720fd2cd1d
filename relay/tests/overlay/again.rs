//! Sources that publish again and again: neither the rate that they were granted nor what relays hold gives way by that.

use crate::harness::{Overlay, STREAM, Source, UNIX, all, ms, peer, right};
use anabranch_relay::Limits;
use link::Bitrate;
use node::control::{CloseCode, Control, Publish};
use node::testing::NodeId;
use node::trust::{Direction, Grant, Role};
use topology::lsdb::Incarnation;

const OTHER: &str = "tenant/other";

fn named(incarnation: u64, stream: &str) -> Source {
    let mut source = Source::new(incarnation);
    source.publish.name = stream.parse().expect("valid");
    source
}

fn limit(overlay: &mut Overlay, relay: &str, change: impl FnOnce(&mut Limits)) {
    let mut limits = Limits::default();
    change(&mut limits);
    overlay.relay(relay, |_, system, _| system.set_limits(limits, ms(10_000)));
}

/// Publishes once more over the connection that stands, as another life where `life` is given.
fn again(overlay: &mut Overlay, source: NodeId, life: Option<u64>) {
    overlay.world.with(source, |_, source: &mut Source, ports| {
        if let Some(life) = life {
            source.publish.incarnation = Incarnation(life);
        }
        ports.control(source.port.expect("connected"), Control::Publish(source.publish.clone()));
    });
}

#[test]
fn lives_without_end_are_refused_and_cost_others_nothing() {
    let mut overlay = Overlay::with_links(&[("a", "b", 10)]);
    let sink = overlay.sink("b", "s");
    overlay.sink_of("b", "other", OTHER);
    let good = overlay.source("a", "camera", Source::new(1));
    let mut grants = all(Direction::Publish);
    grants[0].id = "greedy".into();
    let greedy = overlay.idle_source(named(1, OTHER));
    overlay.connect_source("a", "greedy", greedy, grants);
    overlay.run(500);
    overlay.send(good, true);
    for life in 2..2_000 {
        again(&mut overlay, greedy, Some(life));
    }
    overlay.run(5_000);
    let refused = overlay.of_source(greedy, |source| {
        assert!(source.refused.iter().all(|code| *code == CloseCode::Overload), "{:?}", source.refused);
        assert!(source.reasons[0].contains("by token greedy too often"), "{}", source.reasons[0]);
        source.refused.len()
    });
    let at_once = Limits::default().max_streams_per_token;
    assert!((1_998 - at_once..=2_000 - at_once).contains(&refused), "{refused}");
    // Its allowance grows by two a second.
    overlay.run(10_000);
    for life in 2_000..2_040 {
        again(&mut overlay, greedy, Some(life));
    }
    overlay.run(1_000);
    let later = 40 - (overlay.of_source(greedy, |source| source.refused.len()) - refused);
    assert!((28..=32).contains(&later), "{later} in fifteen seconds");
    let sent = overlay.send(good, false);
    overlay.run(500);
    overlay.of_sink(sink, |sink| sink.assert_whole(1, 0..sent));
    let report = overlay.report("b");
    assert_eq!(report.links.iter().filter(|link| link.peer.relay.as_str() == "a").count(), 1);
    assert!(report.streams.len() <= 3, "{} lives are carried", report.streams.len());
}

/// Publishes 11 Mbit/s by a right to one, once more every so often; returns what was let in, in kbit/s, beyond one burst.
fn let_in(next_life: impl Fn(u64) -> Option<u64>) -> f64 {
    let mut overlay = Overlay::with_links(&[("a", "b", 10)]);
    overlay.sink("b", "s");
    let mut grants = all(Direction::Publish);
    grants[0].max_rate = Some(Bitrate::mbps(1));
    let source = overlay.idle_source(Source::new(1));
    overlay.connect_source("a", "camera", source, grants);
    overlay.run(300);
    overlay.send(source, true);
    for round in 0..200 {
        again(&mut overlay, source, next_life(round));
        overlay.run(50);
    }
    let usage = overlay.report("a").usage;
    let bytes: u64 = usage.iter().map(|usage| usage.usage.bytes).sum();
    (bytes as f64 * 8.0 - 500_000.0) / 10.0 / 1000.0
}

#[test]
fn publishing_again_brings_no_second_burst() {
    let same = let_in(|_| None);
    assert!((900.0..1_050.0).contains(&same), "{same} kbit/s");
    let lives = let_in(|round| Some(2 + round));
    // For a moment packets of two lives are under way.
    assert!((700.0..1_300.0).contains(&lives), "{lives} kbit/s");
}

#[test]
fn a_rate_ends_with_its_token_though_another_lasts() {
    let mut overlay = Overlay::with_links(&[("a", "b", 10)]);
    let grant = |id: &str, rate, seconds| Grant {
        id: id.to_owned(),
        max_rate: Some(Bitrate::mbps(rate)),
        expires: UNIX + seconds,
        ..right(Direction::Publish, "**", seconds).remove(0)
    };
    let source = overlay.idle_source(Source::new(1));
    overlay.connect_source("a", "camera", source, vec![grant("long", 1, 3600), grant("short", 100, 5)]);
    overlay.run(300);
    overlay.send(source, true);
    overlay.run(4_000);
    let policed = |overlay: &mut Overlay| overlay.report("a").streams[0].counters.policed;
    assert_eq!(policed(&mut overlay), 0);
    overlay.run(4_000);
    let after = policed(&mut overlay);
    assert!(after > 1_500, "{after}: of 1000 packets a second nine in ten are too many");
    overlay.of_source(source, |source| assert_eq!(source.refused, [], "it goes on"));
}

/// Whoever says again and again that its stream ends does not keep it by that.
#[test]
fn an_end_that_is_said_again_comes_no_later() {
    let mut overlay = Overlay::with_links(&[("a", "b", 10)]);
    overlay.sink("b", "s");
    let source = overlay.source("a", "camera", Source::new(1));
    overlay.run(300);
    overlay.send(source, true);
    for _ in 0..20 {
        overlay.world.with(source, |_, source: &mut Source, ports| {
            let name = source.publish.name.clone();
            ports.control(source.port.expect("connected"), Control::Unpublish { name });
        });
        overlay.run(100);
    }
    assert!(overlay.report("a").streams.is_empty(), "200 ms of deadline, and a tenth of a second");
}

#[test]
fn nothing_comes_in_by_a_right_that_has_expired() {
    let mut overlay = Overlay::with_links(&[("a", "b", 10)]);
    let sink = overlay.sink("b", "s");
    let source = Source { publish: Publish { deadline_us: 60_000_000, ..Source::new(1).publish }, ..Source::new(1) };
    let source = overlay.idle_source(source);
    overlay.connect_source("a", "camera", source, right(Direction::Publish, "**", 5));
    overlay.run(300);
    let handle = overlay.of_source(source, |source| source.handle);
    overlay.send(source, true);
    overlay.run(6_500);
    // It goes on all the same.
    overlay.of_source(source, |source| {
        assert_eq!(source.refused, [CloseCode::Expired]);
        source.handle = handle;
    });
    overlay.run(3_500);
    let came = overlay.of_sink(sink, |sink| sink.count(1));
    assert!((3_000..6_500).contains(&came), "{came}: a packet a millisecond, for five or six seconds");
}

/// A new life where there is no room for both takes the place of the one before, and a name that nobody publishes comes free.
#[test]
fn at_a_full_relay_a_source_restarts_and_its_name_comes_free_when_it_is_gone() {
    let mut overlay = Overlay::with_links(&[("a", "b", 10)]);
    limit(&mut overlay, "a", |limits| limits.max_streams = 1);
    let sink = overlay.sink("b", "s");
    let old = overlay.idle_source(Source::new(1));
    let old_end = overlay.connect_source("a", "camera", old, all(Direction::Publish));
    overlay.run(300);
    let other = overlay.source("a", "other", named(1, OTHER));
    overlay.run(300);
    overlay.of_source(other, |source| assert_eq!(source.refused, [CloseCode::Overload]));
    let new = overlay.idle_source(Source::new(2));
    let new_end = overlay.connect_source("a", "camera", new, all(Direction::Publish));
    overlay.run(300);
    overlay
        .of_source(new, |source| assert!(source.handle.is_some() && source.refused.is_empty(), "{:?}", source.reasons));
    overlay.of_source(old, |source| assert_eq!(source.refused, [CloseCode::Replaced]));
    overlay.send(new, true);
    overlay.run(500);
    let sent = overlay.send(new, false);
    overlay.run(500);
    overlay.of_sink(sink, |sink| sink.assert_whole(2, 0..sent));
    overlay.world.sever(old_end);
    overlay.world.sever(new_end);
    overlay.run(15_000);
    assert!(overlay.report("a").streams.is_empty());
    let next = overlay.idle_source(Source::new(3));
    overlay.connect("a", next, peer("next", Role::Source, false, all(Direction::Publish)));
    overlay.run(300);
    overlay.of_source(next, |source| assert!(source.handle.is_some(), "{:?}", source.reasons));
}

/// Handles of a connection are used up by publishing again; what is refused then leaves nothing behind.
#[test]
fn without_a_handle_nothing_is_begun() {
    let mut overlay = Overlay::with_links(&[("a", "b", 10)]);
    let source = overlay.idle_source(Source::new(1));
    let end = overlay.connect_source("a", "camera", source, all(Direction::Publish));
    overlay.run(300);
    // All of them within the time that a handle rests.
    overlay.world.with(source, |_, source: &mut Source, ports| {
        let port = source.port.expect("connected");
        for _ in 0..4_000 {
            ports.control(port, Control::Publish(source.publish.clone()));
        }
    });
    for _ in 0..17 {
        overlay.run(20);
        overlay.world.with(source, |_, source: &mut Source, ports| {
            let port = source.port.expect("connected");
            for _ in 0..4_000 {
                ports.control(port, Control::Publish(source.publish.clone()));
            }
        });
    }
    overlay.run(100);
    overlay.of_source(source, |source| {
        assert!(
            source.reasons.last().is_some_and(|reason| reason.contains("no free handle")),
            "{:?}",
            source.reasons.last()
        );
    });
    for life in 2..12 {
        let publish =
            Publish { incarnation: Incarnation(life), name: STREAM.parse().expect("valid"), ..Source::new(1).publish };
        overlay.world.with(source, |_, source: &mut Source, ports| {
            ports.control(source.port.expect("connected"), Control::Publish(publish));
        });
    }
    overlay.run(200);
    overlay.world.sever(end);
    overlay.run(15_000);
    assert!(overlay.report("a").streams.is_empty(), "{:?}", overlay.report("a").streams.len());
}
