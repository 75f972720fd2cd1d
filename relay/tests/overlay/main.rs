//! Whole overlays of relays in virtual time: what must hold for streams, whatever happens to links, relays and sources.

mod admission;
mod again;
mod auto;
#[path = "../common/clients.rs"]
mod clients;
mod clocks;
mod crowded;
mod failures;
mod fairness;
mod forgery;
mod harness;
mod health;
mod hostile;
mod lies;
mod line;
mod parallel;
mod rescue;
mod shares;
mod sla;
mod start;
mod trace;

use anabranch_relay::system::RelaySystem;
use harness::{Overlay, STREAM, Source, all, ms, peer, right};
use link::LinkConfig;
use node::control::{CloseCode, Control, Dissemination};
use node::testing::{Delay, Join};
use node::trust::{Direction, Role};

fn line() -> Overlay {
    Overlay::with_links(&[("a", "b", 10), ("b", "c", 20)])
}

fn diamond() -> Overlay {
    Overlay::with_links(&[("a", "b", 10), ("b", "d", 10), ("a", "c", 15), ("c", "d", 15)])
}

#[test]
fn a_line_of_three_carries_a_stream_to_all_its_sinks() {
    let mut overlay = line();
    let sinks = [("a", "s1"), ("c", "s2"), ("c", "s3")].map(|(relay, name)| overlay.sink(relay, name));
    let source = overlay.source("a", "camera", Source::new(7));
    overlay.run(500);
    overlay.send(source, true);
    overlay.run(2000);
    let sent = overlay.send(source, false);
    overlay.run(500);
    for (sink, way) in sinks.into_iter().zip([10, 40, 40]) {
        overlay.of_sink(sink, |sink| {
            sink.assert_whole(7, 0..sent);
            assert_eq!(sink.opens, 1);
            for (_, age) in sink.got.values() {
                let off = age.abs_diff(ms(way));
                assert!(off < ms(3), "an age of {age:?} on a way of {way} ms");
            }
        });
    }
    let report = overlay.report("b");
    assert_eq!(report.streams.len(), 1);
    assert_eq!(report.streams[0].counters.forwarded, u64::from(sent), "one copy to c for both its sinks");
    assert_eq!(report.streams[0].ingress.as_str(), "a");
}

#[test]
fn relays_off_the_way_carry_nothing() {
    let mut overlay = Overlay::with_links(&[("a", "b", 10), ("b", "c", 10), ("b", "x", 10), ("a", "x", 50)]);
    overlay.sink("c", "s");
    let source = overlay.source("a", "camera", Source::new(1));
    overlay.send(source, true);
    overlay.run(2000);
    // It may know the stream, as part of a second way; no packet passes.
    assert!(overlay.report("x").streams.iter().all(|stream| stream.counters.received == 0));
    assert_eq!(overlay.report("b").streams[0].outputs.len(), 1);
}

#[test]
fn the_first_packets_wait_for_their_announcement() {
    let mut overlay = line();
    // Control messages take 100 ms longer than media on each link made from here on.
    overlay.control_lag = ms(100);
    overlay.start("d");
    overlay.link("a", "d", 10);
    overlay.run(1000);
    let source = overlay.source("a", "camera", Source::new(1));
    let sink = overlay.sink("d", "s");
    overlay.run(50);
    overlay.send(source, true);
    overlay.run(2000);
    let first = overlay.of_sink(sink, |sink| sink.got.keys().next().map(|(_, seq)| *seq)).expect("media came");
    let sent = overlay.send(source, false);
    overlay.run(1000);
    // From the first one that was sent on its way, nothing is missing; what waited is older, and no less in time.
    overlay.of_sink(sink, |sink| sink.assert_whole(1, first..sent));
    assert_eq!(overlay.report("d").refused.unknown_handle, 0);
}

#[test]
fn a_sink_may_come_before_its_stream() {
    let mut overlay = line();
    let sink = overlay.sink("c", "s");
    overlay.run(500);
    overlay.of_sink(sink, |sink| assert_eq!(sink.subscribed, [false]));
    overlay.source("a", "camera", Source::new(1));
    overlay.run(500);
    let late = overlay.sink("c", "late");
    overlay.run(100);
    overlay.of_sink(late, |sink| assert_eq!((&sink.subscribed[..], sink.opens), (&[true][..], 1)));
    overlay.of_sink(sink, |sink| assert_eq!(sink.opens, 1));
}

#[test]
fn two_disjoint_ways_bring_each_packet_once_and_survive_the_loss_of_one() {
    let mut overlay = diamond();
    let sink = overlay.sink("d", "s");
    let source = overlay.source("a", "camera", Source::new(3).mode(Dissemination::Disjoint));
    overlay.run(500);
    overlay.send(source, true);
    overlay.run(1000);
    let counters = overlay.report("d").streams[0].counters;
    assert!(counters.duplicates > 900 && counters.unique > 900, "both ways carry: {counters:?}");
    overlay.kill("b");
    overlay.run(1000);
    overlay.start("b");
    overlay.link("a", "b", 10);
    overlay.link("b", "d", 10);
    overlay.run(1000);
    overlay.kill("c");
    overlay.run(1000);
    let sent = overlay.send(source, false);
    overlay.run(500);
    overlay.of_sink(sink, |sink| {
        sink.assert_whole(3, 0..sent);
        assert_eq!(sink.opens, 1, "the sink noticed nothing");
    });
}

#[test]
fn a_middle_relay_that_comes_back_carries_on() {
    let mut overlay = line();
    let sink = overlay.sink("c", "s");
    let source = overlay.source("a", "camera", Source::new(3));
    overlay.run(500);
    overlay.send(source, true);
    overlay.run(1000);
    overlay.kill("b");
    overlay.run(3000);
    overlay.start("b");
    overlay.link("a", "b", 10);
    overlay.link("b", "c", 20);
    let back = overlay.of_source(source, |source| source.next_seq);
    overlay.run(2000);
    let sent = overlay.send(source, false);
    overlay.run(500);
    overlay.of_sink(sink, |sink| {
        sink.assert_once();
        let first = sink.got.range((3, back)..).next().map(|((_, seq), _)| *seq).expect("it resumed");
        assert!(first - back < 300, "resumed after {} ms", first - back);
        sink.assert_whole(3, first..sent);
        assert_eq!(sink.opens, 1, "the sink only sees a gap");
    });
}

#[test]
fn an_ingress_relay_that_comes_back_is_believed_even_with_its_clock_set_back() {
    for boot in [u64::MAX / 2, 1] {
        let mut overlay = Overlay::new(&["b", "c"]);
        overlay.start_at("a", 1_000_000);
        overlay.link("a", "b", 10);
        overlay.link("b", "c", 10);
        overlay.run(500);
        let sink = overlay.sink("c", "s");
        let source = overlay.source("a", "camera", Source::new(3));
        overlay.send(source, true);
        overlay.run(1000);
        overlay.kill("a");
        overlay.run(500);
        overlay.start_at("a", boot);
        overlay.link("a", "b", 10);
        overlay.connect_source("a", "camera", source, all(Direction::Publish));
        overlay.run(1000);
        let from = overlay.of_source(source, |source| source.next_seq);
        overlay.run(1000);
        let sent = overlay.send(source, false);
        overlay.run(500);
        overlay.of_sink(sink, |sink| sink.assert_whole(3, from..sent));
    }
}

#[test]
fn a_better_way_is_taken_without_losing_a_packet() {
    let mut overlay = Overlay::with_links(&[("a", "b", 30), ("b", "d", 30), ("c", "d", 10)]);
    let sink = overlay.sink("d", "s");
    let source = overlay.source("a", "camera", Source::new(3));
    overlay.run(500);
    overlay.send(source, true);
    overlay.run(1000);
    overlay.link("a", "c", 10);
    overlay.run(3000);
    let sent = overlay.send(source, false);
    overlay.run(500);
    overlay.of_sink(sink, |sink| {
        sink.assert_whole(3, 0..sent);
        let fast = sink.got.values().filter(|(_, age)| *age < ms(40)).count();
        assert!(fast > 2000, "{fast} packets took the new way");
    });
    let source_again = overlay.send(source, true);
    assert!(source_again >= sent);
    overlay.run(5000);
    let before = overlay.report("b").streams[0].counters;
    overlay.run(1000);
    assert_eq!(overlay.report("b").streams[0].counters, before, "the old way is given up");
}

#[test]
fn a_tree_whose_branch_is_cut_grows_another_at_once() {
    let mut overlay = Overlay::with_links(&[("a", "b", 10), ("b", "d", 10), ("a", "c", 20), ("c", "d", 20)]);
    let sink = overlay.sink("d", "s");
    let source = overlay.source("a", "camera", Source::new(3));
    overlay.run(500);
    overlay.send(source, true);
    overlay.run(1000);
    overlay.cut("b", "d");
    let cut = overlay.of_source(source, |source| source.next_seq);
    overlay.run(1000);
    let sent = overlay.send(source, false);
    overlay.run(500);
    overlay.of_sink(sink, |sink| {
        let missing = (0..sent).filter(|n| !sink.got.contains_key(&(3, *n))).collect::<Vec<_>>();
        // On their way to b or d when the link went, or sent before the news was at a: 20 ms; and as long as
        // the advertisements of that moment gather.
        assert!(missing.len() < 80, "{} missing", missing.len());
        sink.assert_whole(3, cut + 80..sent);
    });
}

#[test]
fn a_source_that_restarts_takes_over_its_name() {
    let mut overlay = line();
    let sink = overlay.sink("c", "s");
    let old = overlay.source("a", "camera", Source::new(1));
    overlay.send(old, true);
    overlay.run(1000);
    let new = overlay.source("a", "camera", Source::new(2));
    overlay.send(new, true);
    overlay.run(1000);
    overlay.of_source(old, |source| assert_eq!(source.refused, [CloseCode::Replaced]));
    overlay.of_source(new, |source| assert!(source.refused.is_empty()));
    let sent = overlay.send(new, false);
    overlay.run(1000);
    overlay.of_sink(sink, |sink| {
        let first = sink.got.range((2, 0)..).next().map(|((_, seq), _)| *seq).expect("the new life came");
        sink.assert_whole(2, first..sent);
        assert_eq!((sink.opens, &sink.closes[..]), (2, &[false][..]), "the old life was closed, not ended");
    });
    assert_eq!(overlay.report("b").streams.len(), 1);
}

#[test]
fn a_source_that_reconnects_goes_on_where_it_was() {
    let mut overlay = line();
    let sink = overlay.sink("c", "s");
    let source = overlay.source("a", "camera", Source::new(1));
    overlay.run(300);
    overlay.send(source, true);
    overlay.run(1000);
    // The relay does not know yet that the old connection is dead: the source comes from another address.
    let again = overlay.connect_source("a", "camera", source, all(Direction::Publish));
    overlay.run(1000);
    overlay.world.sever(again);
    overlay.run(500);
    overlay.connect_source("a", "camera", source, all(Direction::Publish));
    overlay.run(1000);
    overlay.of_sink(sink, |sink| {
        sink.assert_once();
        assert_eq!((sink.opens, sink.closes.len()), (1, 0));
        assert!(sink.count(1) > 2900, "{} packets", sink.count(1));
    });
}

#[test]
fn a_name_belongs_to_who_publishes_it() {
    let mut overlay = line();
    let owner = overlay.source("a", "camera", Source::new(1));
    overlay.run(200);
    let thief = overlay.source("a", "thief", Source::new(2));
    let elsewhere = overlay.source("c", "thief", Source::new(3));
    overlay.run(200);
    for other in [thief, elsewhere] {
        overlay.of_source(other, |source| assert_eq!(source.refused, [CloseCode::NameTaken]));
    }
    overlay.of_source(owner, |source| assert!(source.refused.is_empty() && source.handle.is_some()));
}

#[test]
fn rights_are_checked_and_end() {
    let mut overlay = line();
    let other_tenant = overlay.sink_with("c", "s1", right(Direction::Subscribe, "other/**", 3600));
    let wrong_way = overlay.sink_with("c", "s2", right(Direction::Publish, "**", 3600));
    let expired = overlay.sink_with("c", "s3", right(Direction::Subscribe, "**", 0));
    let short = overlay.sink_with("c", "s4", right(Direction::Subscribe, "tenant/*", 10));
    let source = overlay.source("a", "camera", Source::new(1));
    overlay.send(source, true);
    overlay.run(5000);
    for (sink, expected) in [
        (other_tenant, &[CloseCode::Forbidden][..]),
        (wrong_way, &[CloseCode::Forbidden]),
        (expired, &[CloseCode::Expired]),
        (short, &[]),
    ] {
        overlay.of_sink(sink, |sink| assert_eq!(sink.refused, expected));
    }
    overlay.run(10_000);
    overlay.of_sink(short, |sink| assert_eq!(sink.refused, [CloseCode::Expired]));
    let before = overlay.of_sink(short, |sink| sink.count(1));
    overlay.run(1000);
    assert_eq!(overlay.of_sink(short, |sink| sink.count(1)), before, "nothing more comes");
}

#[test]
fn the_end_of_a_stream_reaches_its_sinks_after_its_last_packet() {
    let mut overlay = line();
    let sink = overlay.sink("c", "s");
    let source = overlay.source("a", "camera", Source::new(1));
    overlay.run(300);
    overlay.send(source, true);
    overlay.run(1000);
    overlay.world.with(source, |now, source: &mut Source, ports| source.unpublish(now, ports));
    let sent = overlay.of_source(source, |source| source.next_seq);
    overlay.run(1000);
    overlay.of_sink(sink, |sink| {
        sink.assert_whole(1, 0..sent);
        assert_eq!(sink.closes, [true]);
    });
    for relay in ["a", "b", "c"] {
        assert!(overlay.report(relay).streams.is_empty(), "{relay} still carries it");
        assert_eq!(overlay.report(relay).overlay.streams, 0);
    }
}

#[test]
fn a_source_that_vanishes_keeps_its_stream_for_a_while() {
    let mut overlay = line();
    let sink = overlay.sink("c", "s");
    let node = overlay.source("a", "camera", Source::new(1));
    overlay.run(300);
    let again = overlay.connect_source("a", "camera", node, all(Direction::Publish));
    overlay.run(300);
    overlay.world.sever(again);
    overlay.run(8_000);
    assert_eq!(overlay.report("a").streams.len(), 1);
    overlay.run(4_000);
    assert!(overlay.report("a").streams.is_empty());
    overlay.run(12_000);
    overlay.of_sink(sink, |sink| assert_eq!(sink.closes, [false], "closed, but not ended"));
}

#[test]
fn nothing_flows_where_nobody_watches_any_more() {
    let mut overlay = line();
    let sink = overlay.sink("c", "s");
    let source = overlay.source("a", "camera", Source::new(1));
    overlay.send(source, true);
    overlay.run(2000);
    let name = STREAM.parse().expect("valid");
    overlay.world.with(sink, |_, sink: &mut harness::Sink, ports| {
        ports.control(sink.port.expect("connected"), Control::Unsubscribe { name });
    });
    overlay.run(10_000);
    let forwarded = |overlay: &mut Overlay| overlay.report("a").streams[0].counters.forwarded;
    let before = forwarded(&mut overlay);
    overlay.run(1000);
    assert_eq!(forwarded(&mut overlay), before);
    overlay.run(12_000);
    assert!(overlay.report("b").streams.is_empty());
}

#[test]
fn of_two_connections_between_a_pair_one_survives_at_both_ends() {
    let mut overlay = Overlay::new(&["a", "b"]);
    overlay.link("a", "b", 10);
    overlay.link("b", "a", 10);
    overlay.run(1000);
    let links: Vec<Vec<(bool, u64)>> =
        ["a", "b"].map(|name| overlay.report(name).links.iter().map(|link| (link.dialled, link.port)).collect()).into();
    assert_eq!(links[0].len(), 1, "{links:?}");
    assert_eq!(links[1].len(), 1, "{links:?}");
    assert!(links[0][0].0 && !links[1][0].0, "the one that a dialled");
    assert_eq!(overlay.report("a").overlay.links, 2);
}

#[test]
fn a_peer_that_restarts_is_not_shut_out_by_its_old_connection() {
    let mut overlay = Overlay::new(&["a", "b"]);
    let old = overlay.link("a", "b", 10);
    overlay.run(10_000);
    // b dies without a word: nothing comes back from it any more, but the connection stands at a.
    overlay.world.set_path(old, |_, _: &[u8]| None::<link::Instant>);
    overlay.start("b");
    overlay.run(100);
    overlay.link("b", "a", 10);
    overlay.run(1000);
    let report = overlay.report("a");
    assert_eq!(report.links.len(), 1);
    assert!(!report.links[0].dialled, "the new connection, which b dialled");
}

#[test]
fn delays_are_measured_where_nobody_tells_them() {
    let mut overlay = Overlay::new(&["a", "b", "c", "d"]);
    for (a, b, delay) in [("a", "b", 10), ("b", "d", 10), ("a", "c", 30), ("c", "d", 30)] {
        overlay.link_measured(a, b, delay);
    }
    overlay.run(2000);
    let sink = overlay.sink("d", "s");
    let source = overlay.source("a", "camera", Source::new(1));
    overlay.run(1000);
    overlay.send(source, true);
    overlay.run(1000);
    let idle = overlay.report("c").streams.iter().all(|stream| stream.counters.received == 0);
    assert!(idle, "the slow way is not taken");
    let sent = overlay.send(source, false);
    overlay.run(500);
    overlay.of_sink(sink, |sink| sink.assert_whole(1, 0..sent));
}

#[test]
fn a_silent_link_is_routed_around() {
    let mut overlay = diamond();
    let sink = overlay.sink("d", "s");
    let source = overlay.source("a", "camera", Source::new(1));
    overlay.send(source, true);
    overlay.run(1000);
    // Both directions of a black hole; the connection stands.
    for (a, b) in [("a", "b"), ("b", "a")] {
        let end = overlay.relay(a, |_, system: &mut RelaySystem, _| system.relay(&b.parse().expect("valid")));
        overlay.black_hole(a, end.expect("linked"));
    }
    overlay.run(1500);
    let from = overlay.of_source(source, |source| source.next_seq);
    overlay.run(1000);
    let sent = overlay.send(source, false);
    overlay.run(500);
    overlay.of_sink(sink, |sink| sink.assert_whole(1, from..sent));
}

#[test]
fn a_draining_relay_hands_its_streams_on_without_losing_a_packet() {
    let mut overlay = diamond();
    let sink = overlay.sink("d", "s");
    let source = overlay.source("a", "camera", Source::new(1));
    overlay.run(300);
    overlay.send(source, true);
    overlay.run(1000);
    overlay.relay("b", |now, system, ports| system.drain(now, ports));
    overlay.run(1000);
    overlay.kill("b");
    overlay.run(1000);
    let sent = overlay.send(source, false);
    overlay.run(500);
    overlay.of_sink(sink, |sink| sink.assert_whole(1, 0..sent));
}

#[test]
fn a_drained_link_is_left_without_losing_a_packet_and_taken_again() {
    for mode in [Dissemination::Tree, Dissemination::Auto] {
        let mut overlay = diamond();
        let sink = overlay.sink("d", "s");
        let source = overlay.source("a", "camera", Source::new(1).mode(mode));
        overlay.run(300);
        overlay.send(source, true);
        overlay.run(1000);
        let d = "d".parse().expect("valid");
        assert!(overlay.relay("b", |now, system, ports| system.drain_link(now, &d, true, ports)));
        overlay.run(1000);
        let before = overlay.report("b").streams.first().map(|stream| stream.counters.forwarded);
        overlay.run(1000);
        let after = overlay.report("b").streams.first().map(|stream| stream.counters.forwarded);
        assert_eq!(before, after, "nothing passes b any more");
        assert!(overlay.relay("b", |now, system, ports| system.drain_link(now, &d, false, ports)));
        overlay.run(3000);
        let sent = overlay.send(source, false);
        overlay.run(500);
        overlay.of_sink(sink, |sink| {
            sink.assert_whole(1, 0..sent);
            let fast = sink.got.values().filter(|(_, age)| *age < ms(40)).count();
            assert!(fast > 2000, "{fast} packets took the short way");
        });
    }
}

#[test]
fn what_the_protocol_does_not_allow_closes_the_port_and_nothing_else() {
    let mut overlay = line();
    let sink = overlay.sink("c", "s");
    let source = overlay.source("a", "camera", Source::new(1));
    overlay.run(300);
    overlay.send(source, true);
    let bad = overlay.sink("c", "bad");
    overlay.run(300);
    overlay.world.with(bad, |_, sink: &mut harness::Sink, ports| {
        ports.control(sink.port.expect("connected"), Control::StreamClose { handle: 0, ended: true });
    });
    overlay.run(300);
    let report = overlay.report("c");
    assert_eq!(report.refused.protocol, 1);
    assert!(report.links.iter().all(|link| link.peer.relay.as_str() != "bad"));
    let sent = overlay.send(source, false);
    overlay.run(500);
    overlay.of_sink(sink, |sink| sink.assert_whole(1, 0..sent));
}

#[test]
fn a_relay_with_our_own_name_is_refused() {
    let mut overlay = Overlay::new(&["a"]);
    let impostor = overlay.relay_node("a");
    overlay.start("a");
    let join = |node, dialled| Join {
        node,
        peer: peer("a", Role::Relay, dialled, Vec::new()),
        config: LinkConfig::default(),
        path: Box::new(Delay(ms(1))),
        control_delay: ms(1),
    };
    let real = overlay.relay_node("a");
    overlay.world.join(join(impostor, true), join(real, false));
    overlay.run(100);
    assert!(overlay.report("a").links.is_empty());
}

/// A mesh whose links and relays fail and return at random while two streams flow: nothing comes twice, and a quiet
/// second after the last failure everything flows again.
#[test]
fn whatever_fails_and_returns_streams_come_back_and_nothing_comes_twice() {
    use rand::{RngExt, SeedableRng};
    for seed in 0..12 {
        let mut random = rand::rngs::StdRng::seed_from_u64(seed);
        let links: Vec<(&str, &str, u64)> = vec![
            ("a", "b", 10),
            ("b", "c", 12),
            ("c", "d", 9),
            ("d", "e", 14),
            ("e", "a", 11),
            ("a", "c", 17),
            ("b", "e", 8),
        ];
        let mut overlay = Overlay::with_links(&links);
        let mode = [Dissemination::Tree, Dissemination::Disjoint][seed as usize % 2];
        let source = overlay.source("a", "camera", Source::new(1).mode(mode));
        let sinks = ["c", "d", "e"].map(|relay| overlay.sink(relay, &format!("at-{relay}")));
        overlay.send(source, true);
        let mut down: Vec<usize> = Vec::new();
        for _ in 0..25 {
            let at = random.random_range(0..links.len());
            let (a, b, delay) = links[at];
            match down.iter().position(|n| *n == at) {
                Some(n) => {
                    down.remove(n);
                    overlay.link(a, b, delay);
                }
                None => {
                    down.push(at);
                    overlay.cut(a, b);
                }
            }
            overlay.run(random.random_range(1..600));
        }
        for at in down {
            let (a, b, delay) = links[at];
            overlay.link(a, b, delay);
        }
        overlay.run(1000);
        let from = overlay.of_source(source, |source| source.next_seq);
        overlay.run(1000);
        let sent = overlay.send(source, false);
        overlay.run(500);
        for sink in sinks {
            overlay.of_sink(sink, |sink| sink.assert_whole(1, from..sent));
        }
    }
}

#[test]
fn a_deadline_that_cannot_be_is_refused() {
    let mut overlay = line();
    let mut source = Source::new(1);
    source.publish.deadline_us = 0;
    let source = overlay.source("a", "camera", source);
    overlay.run(100);
    overlay.of_source(source, |source| assert_eq!(source.refused, [CloseCode::Protocol]));
}

#[test]
fn a_stream_that_is_unpublished_and_published_again_flows_again() {
    let mut overlay = line();
    let sink = overlay.sink("c", "s");
    let node = overlay.source("a", "camera", Source::new(1));
    overlay.run(300);
    overlay.world.with(node, |now, source: &mut Source, ports| source.unpublish(now, ports));
    overlay.run(400);
    // The same life again: relays below may not have let go of it yet.
    overlay.connect_source("a", "camera", node, all(Direction::Publish));
    overlay.run(3000);
    let from = overlay.send(node, true);
    overlay.run(500);
    let sent = overlay.send(node, false);
    overlay.run(500);
    overlay.of_sink(sink, |sink| sink.assert_whole(1, from..sent));
}

#[test]
fn a_source_that_restarts_in_a_loop_uses_up_nothing() {
    let mut overlay = line();
    overlay.sink("c", "s");
    for life in 0..50 {
        overlay.source("a", "camera", Source::new(life));
        overlay.run(20);
    }
    for relay in ["a", "b", "c"] {
        let carried = overlay.report(relay).streams.len();
        assert!(carried <= 40, "{relay} carries {carried} lives");
    }
    assert!(overlay.report("a").streams.len() <= 2);
    overlay.run(2000);
    for relay in ["a", "b", "c"] {
        assert_eq!(overlay.report(relay).streams.len(), 1);
    }
}
