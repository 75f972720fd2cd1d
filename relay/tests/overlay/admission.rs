//! Streams are admitted to links that have room for them, by another way where there is one, and refused with the reason.

use crate::harness::{Overlay, STREAM, Source, UNIX, ms};
use anabranch_relay::config::Limits;
use anabranch_relay::system::LinkOptions;
use link::Bitrate;
use link::policy::Policy;
use node::control::{CloseCode, Control, Dissemination, Wants};
use node::testing::NodeId;
use node::trust::{Direction, Grant};
use std::time::Duration;

const OTHER: &str = "tenant/other";

/// A bit more than sources here send: 1316 bytes a millisecond.
const RATE: u32 = 11_000;

/// From now on `from` admits to the link to `to` what makes 80 % of so many megabits per second.
pub(crate) fn bound(overlay: &mut Overlay, from: &str, to: &str, delay: u64, megabits: u64) {
    let policy = Policy { capacity: Some(Bitrate::mbps(megabits)), ..Policy::default() };
    let options = LinkOptions { delay: Some(ms(delay)), policy, ..LinkOptions::default() };
    overlay.relay(from, |now, system, ports| {
        system.set_link_options(now, to.parse().expect("valid"), options, ports);
    });
    overlay.run(200);
}

/// A stream of [`RATE`].
fn source(incarnation: u64, stream: &str) -> Source {
    let mut source = Source::new(incarnation);
    source.publish.name = stream.parse().expect("valid");
    source.publish.wants = Wants { rate_kbps: RATE, ..Wants::default() };
    source
}

fn high(mut source: Source) -> Source {
    source.publish.high_priority = true;
    source
}

/// Publishes, and sends for two seconds; returns how many packets.
fn play(overlay: &mut Overlay, source: NodeId) -> u32 {
    overlay.send(source, true);
    overlay.run(2000);
    let sent = overlay.send(source, false);
    overlay.run(500);
    sent
}

fn line() -> Overlay {
    let mut overlay = Overlay::with_links(&[("a", "b", 10), ("b", "c", 20)]);
    bound(&mut overlay, "b", "c", 20, 20);
    overlay
}

fn diamond() -> Overlay {
    Overlay::with_links(&[("a", "b", 10), ("b", "d", 10), ("a", "c", 15), ("c", "d", 15)])
}

#[test]
fn a_stream_without_room_is_refused_with_the_link_and_what_it_can_carry() {
    let mut overlay = line();
    let sink = overlay.sink("c", "s");
    overlay.sink_of("c", "t", OTHER);
    let first = overlay.source("a", "one", source(1, STREAM));
    overlay.run(500);
    let second = overlay.source("a", "two", source(2, OTHER));
    overlay.run(500);
    overlay.of_source(second, |source| {
        assert_eq!(source.refused, [CloseCode::Overload]);
        for part in [OTHER, "to c", "b -> c", "16 Mbit/s", "11 Mbit/s", "normal priority"] {
            assert!(source.reasons[0].contains(part), "{part}: {}", source.reasons[0]);
        }
    });
    let left = overlay.report("a").capacity;
    assert_eq!(left.len(), 1);
    assert_eq!((left[0].admissible, left[0].admitted_normal, left[0].left), (16_000_000, 11_000_000, 5_000_000));
    let sent = play(&mut overlay, first);
    overlay.of_sink(sink, |sink| sink.assert_whole(1, 0..sent));
}

/// The graph stays as it is, and every relay on it is told of another rate.
#[test]
fn room_is_asked_for_at_the_rate_that_is_granted_now() {
    let mut overlay = line();
    let sink = overlay.sink("c", "s");
    let first = overlay.source("a", "one", source(1, STREAM));
    overlay.run(500);
    let admitted = |overlay: &mut Overlay| overlay.report("a").capacity[0].admitted_normal;
    assert_eq!(admitted(&mut overlay), 11_000_000);
    for rate in [12_000, 2_000, 11_000] {
        overlay.world.with(first, |_, source: &mut Source, ports| {
            source.publish.wants.rate_kbps = rate;
            ports.control(source.port.expect("connected"), Control::Publish(source.publish.clone()));
        });
        overlay.run(500);
        assert_eq!(admitted(&mut overlay), u64::from(rate) * 1000);
    }
    let sent = play(&mut overlay, first);
    overlay.of_sink(sink, |sink| sink.assert_whole(1, 0..sent));
}

/// A source that was killed comes back before its connection is known to be dead.
#[test]
fn a_source_that_begins_anew_has_the_room_of_its_former_life() {
    let mut overlay = line();
    let sink = overlay.sink("c", "s");
    overlay.source("a", "one", source(1, STREAM));
    overlay.run(500);
    let new = overlay.source("a", "one", source(2, STREAM));
    overlay.run(1_000);
    overlay.of_source(new, |source| assert_eq!(source.reasons, [""; 0]));
    let sent = play(&mut overlay, new);
    overlay.of_sink(sink, |sink| sink.assert_whole(2, 0..sent));
}

#[test]
fn a_sink_that_cannot_be_reached_is_told_and_served_when_there_is_room() {
    let mut overlay = line();
    overlay.sink("c", "s");
    let first = overlay.source("a", "one", source(1, STREAM));
    let second = overlay.source("a", "two", source(2, OTHER));
    overlay.run(500);
    let late = overlay.sink_of("c", "t", OTHER);
    overlay.run(500);
    overlay.of_sink(late, |sink| {
        assert_eq!(sink.refused, [CloseCode::Overload]);
        assert!(sink.reasons[0].contains("b -> c"), "{}", sink.reasons[0]);
        assert_eq!(sink.opens, 0);
    });
    let report = overlay.report("a");
    let other = report.streams.iter().find(|stream| stream.name.as_str() == OTHER).expect("published");
    assert!(other.unserved[0].starts_with("c: the link b -> c"), "{:?}", other.unserved);
    overlay.of_source(second, |source| assert!(source.refused.is_empty(), "nobody watched it when it came"));
    overlay.world.with(first, |now, source: &mut Source, ports| source.unpublish(now, ports));
    overlay.run(1500);
    overlay.of_sink(late, |sink| assert_eq!(sink.subscribed.len(), 2, "it is told that it is served"));
    let sent = play(&mut overlay, second);
    overlay.of_sink(late, |sink| sink.assert_whole(2, 0..sent));
}

#[test]
fn another_way_is_better_than_a_refusal() {
    let mut overlay = diamond();
    bound(&mut overlay, "b", "d", 10, 10);
    let sink = overlay.sink("d", "s");
    let source = overlay.source("a", "one", source(1, STREAM).mode(Dissemination::Targeted));
    overlay.run(500);
    let sent = play(&mut overlay, source);
    overlay.of_sink(sink, |sink| sink.assert_whole(1, 0..sent));
    let report = overlay.report("a");
    assert!(report.streams[0].why[0].contains("1 directed links have no room"), "{:?}", report.streams[0].why);
    assert_eq!(overlay.report("d").streams[0].counters.duplicates, 0, "two ways were asked for, one has room");
    assert_eq!(overlay.report("b").streams.iter().map(|stream| stream.counters.received).sum::<u64>(), 0);
}

#[test]
fn high_priority_takes_the_place_of_others_which_go_another_way_whole() {
    let mut overlay = diamond();
    bound(&mut overlay, "b", "d", 10, 20);
    let sink = overlay.sink("d", "s");
    let urgent = overlay.sink_of("d", "t", OTHER);
    let normal = overlay.source("a", "one", source(1, STREAM));
    overlay.run(500);
    overlay.send(normal, true);
    overlay.run(1000);
    let first = overlay.source("a", "two", high(source(2, OTHER)));
    overlay.run(500);
    let sent = play(&mut overlay, first);
    overlay.of_sink(urgent, |sink| sink.assert_whole(2, 0..sent));
    let sent = overlay.send(normal, false);
    overlay.run(500);
    overlay.of_sink(sink, |sink| sink.assert_whole(1, 0..sent));
    let left = overlay.report("d").capacity;
    assert_eq!((left[0].admitted_high, left[0].admitted_normal), (11_000_000, 0));
    assert_eq!(overlay.report("c").streams[0].name.as_str(), STREAM);
}

#[test]
fn without_another_way_the_one_that_gives_way_is_told() {
    let mut overlay = line();
    let sink = overlay.sink("c", "s");
    let urgent = overlay.sink_of("c", "t", OTHER);
    overlay.source("a", "one", source(1, STREAM));
    overlay.run(500);
    overlay.source("a", "two", high(source(2, OTHER)));
    overlay.run(1000);
    overlay.of_sink(sink, |sink| assert_eq!(sink.refused, [CloseCode::Overload]));
    overlay.of_sink(urgent, |sink| assert!(sink.refused.is_empty()));
}

/// Two ingresses that admit at the same moment do not know of each other: the sender of the link does.
#[test]
fn of_two_admitted_at_once_one_stays_and_nothing_flaps() {
    let mut overlay = Overlay::with_links(&[("a", "c", 10), ("b", "c", 10), ("c", "d", 20)]);
    bound(&mut overlay, "c", "d", 20, 20);
    let sinks = [overlay.sink("d", "s"), overlay.sink_of("d", "t", OTHER)];
    overlay.run(500);
    overlay.source("a", "one", source(1, STREAM));
    overlay.source("b", "two", source(2, OTHER));
    overlay.run(1000);
    let refused = |overlay: &mut Overlay| sinks.map(|sink| overlay.of_sink(sink, |sink| sink.refused.len()));
    let after = refused(&mut overlay);
    assert_eq!(after.iter().sum::<usize>(), 1, "{after:?}");
    let epochs = |overlay: &mut Overlay| {
        ["a", "b"].map(|relay| overlay.report(relay).streams.iter().map(|stream| stream.epoch).collect::<Vec<_>>())
    };
    let then = epochs(&mut overlay);
    overlay.run(5000);
    assert_eq!(refused(&mut overlay), after);
    assert_eq!(epochs(&mut overlay), then);
    assert_eq!(overlay.report("c").capacity[0].admitted_normal, 11_000_000);
}

fn grant(max_rate: Option<Bitrate>) -> Vec<Grant> {
    let (streams, direction) = ("**".parse().expect("valid"), Direction::Publish);
    vec![Grant { id: "studio".into(), streams, direction, max_rate, expires: UNIX + 3600 }]
}

#[test]
fn no_more_than_the_token_and_the_operator_allow() {
    let mut overlay = Overlay::with_links(&[("a", "b", 10)]);
    let limits = Limits {
        allow_high_priority: false,
        allow_modes: vec![Dissemination::Auto, Dissemination::Tree],
        min_deadline: Duration::from_millis(100),
        min_target_residual: 1e-6,
        ..Limits::default()
    };
    overlay.relay("a", |_, system, _| system.set_limits(limits, Duration::from_secs(10)));
    let mut refused = |source: Source, token: Option<u64>, expected: &[&str]| {
        let node = overlay.idle_source(source);
        overlay.connect_source("a", "camera", node, grant(token.map(Bitrate::mbps)));
        overlay.run(100);
        overlay.of_source(node, |source| {
            assert_eq!(source.refused, [CloseCode::Forbidden], "{expected:?}");
            for part in expected {
                assert!(source.reasons[0].contains(part), "{part}: {}", source.reasons[0]);
            }
        });
    };
    refused(source(1, STREAM), Some(5), &["11 Mbit/s", "its token allows 5 Mbit/s"]);
    refused(high(source(1, STREAM)), None, &["high priority"]);
    refused(source(1, STREAM).mode(Dissemination::Flood), None, &["mode flood", "auto, tree"]);
    let mut hasty = source(1, STREAM);
    hasty.publish.deadline_us = 65_000;
    refused(hasty, None, &["65 ms", "100ms"]);
    let mut strict = source(1, STREAM);
    strict.publish.wants.target_ppb = 10;
    refused(strict, None, &["1e-8", "1e-6"]);
}

#[test]
fn a_ceiling_on_cost_stands_above_the_hedge() {
    let mut overlay = diamond();
    let sink = overlay.sink("d", "s");
    let mut thrifty = source(1, STREAM).mode(Dissemination::Targeted);
    thrifty.publish.wants.max_cost = 100;
    let source = overlay.source("a", "one", thrifty);
    overlay.run(500);
    let sent = play(&mut overlay, source);
    overlay.of_sink(sink, |sink| sink.assert_whole(1, 0..sent));
    assert_eq!(overlay.report("a").streams[0].counters.forwarded, u64::from(sent), "one way, not two");
}

#[test]
fn what_a_token_used_is_counted_over_the_lives_of_its_streams() {
    let mut overlay = Overlay::with_links(&[("a", "b", 10)]);
    overlay.sink("b", "s");
    let mut total = 0;
    for incarnation in [1, 2] {
        let node = overlay.idle_source(Source::new(incarnation));
        overlay.connect_source("a", "camera", node, grant(None));
        overlay.run(500);
        total += u64::from(play(&mut overlay, node));
        overlay.world.with(node, |now, source: &mut Source, ports| source.unpublish(now, ports));
        overlay.run(1000);
    }
    // Each life ends with a packet without payload that says so.
    let usage = overlay.report("a").usage;
    assert_eq!((usage.len(), usage[0].token.as_str(), usage[0].streams), (1, "studio", 0));
    assert_eq!((usage[0].usage.packets, usage[0].usage.bytes), (total + 2, total * 1316));
    assert_eq!(usage[0].usage.packets_sent, total + 2);
}

/// The target that a source asks for counts on every hop: what may be missing takes less repair.
#[test]
fn the_target_of_a_stream_counts_beyond_its_first_relay() {
    let repair = |target_ppb: u32| {
        let mut overlay = Overlay::with_links(&[("a", "b", 10), ("b", "c", 25)]);
        let sink = overlay.sink("c", "s");
        let mut source = Source::new(1);
        source.publish.deadline_us = 130_000;
        source.publish.wants.target_ppb = target_ppb;
        let node = overlay.source("a", "camera", source);
        overlay.run(500);
        overlay.lossy("b", "c", 25, 60_000, 0.08, 7);
        overlay.send(node, true);
        overlay.run(6000);
        let sent = overlay.send(node, false);
        overlay.run(500);
        let came = overlay.of_sink(sink, |sink| sink.count(1));
        let report = overlay.report("b");
        let link = report.links.iter().find(|link| link.peer.relay.as_str() == "c").expect("b is next to c");
        let stats = &link.stats;
        println!("{target_ppb} ppb: {came} of {sent}, {} repaired", stats.arq_packets_sent + stats.fec_packets_sent);
        assert!(f64::from(sent - came as u32) <= 0.01 * f64::from(sent));
        stats.arq_packets_sent + stats.fec_packets_sent
    };
    let (loose, usual) = (repair(10_000_000), repair(0));
    assert!(loose * 10 < usual * 9, "{loose} and {usual}");
}

#[test]
fn the_last_mile_is_asked_for_room_where_the_operator_says_what_it_carries() {
    let mut overlay = Overlay::with_links(&[("a", "b", 10)]);
    for relay in ["a", "b"] {
        // What is admitted is 80 % of it: one stream, not two.
        let limits = Limits { client_capacity: Some(Bitrate::mbps(20)), ..Limits::default() };
        overlay.relay(relay, |_, system, _| system.set_limits(limits, ms(10_000)));
    }
    let first = overlay.source("a", "one", source(1, STREAM));
    let second = overlay.source("a", "two", source(2, OTHER));
    overlay.run(500);
    for node in [first, second] {
        assert!(overlay.of_source(node, |source| source.handle.is_some()), "each has a link of its own");
    }
    let mut large = source(3, "tenant/large");
    large.publish.wants.rate_kbps = 17_000;
    let third = overlay.source("a", "three", large);
    overlay.sink("b", "s");
    overlay.run(500);
    let reasons = overlay.of_source(third, |source| source.reasons.clone());
    assert_eq!(
        reasons,
        ["tenant/large needs 17 Mbit/s; the link of three is admitted 16 Mbit/s, of which 0 are taken"]
    );

    // One sink that wants both.
    let both = overlay.sink("a", "both");
    overlay.run(300);
    let port = overlay.of_sink(both, |sink| sink.port).expect("connected");
    overlay.world.with(both, |_, _: &mut crate::clients::Sink, ports| {
        ports.control(port, node::control::Control::Subscribe { name: OTHER.parse().expect("valid") });
    });
    overlay.run(300);
    let reasons = overlay.of_sink(both, |sink| sink.reasons.clone());
    assert_eq!(
        reasons,
        [format!("{OTHER} needs 11 Mbit/s; the link of both is admitted 16 Mbit/s, of which 11 are taken")]
    );

    let counted: Vec<_> = overlay.report("a").admission.iter().map(|a| (a.act, a.outcome(), a.times)).collect();
    let (publish, subscribe) = (Direction::Publish, Direction::Subscribe);
    let expected =
        [(publish, "admitted", 2), (publish, "overload", 1), (subscribe, "admitted", 1), (subscribe, "overload", 1)];
    assert_eq!(counted, expected);
}
