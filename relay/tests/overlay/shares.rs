//! No peer takes all there is for itself, whatever it says and however often it comes; the others find room.

use crate::harness::{Overlay, STREAM, Source, all, ms, peer};
use anabranch_relay::Limits;
use link::Instant;
use node::control::{Content, Control, StreamOpen};
use node::trust::{Authority, Direction, Grant, Role};
use topology::lsdb::Incarnation;

const OTHER: &str = "tenant/other";

fn limit(overlay: &mut Overlay, relay: &str, change: impl FnOnce(&mut Limits)) {
    let mut limits = Limits::default();
    change(&mut limits);
    overlay.relay(relay, |_, system, _| system.set_limits(limits, ms(10_000)));
}

/// A source of `stream` with these rights, from this address.
fn publish(
    overlay: &mut Overlay,
    name: &str,
    stream: &str,
    grants: Vec<Grant>,
    address: &str,
) -> node::testing::NodeId {
    let mut source = Source::new(1);
    source.publish.name = stream.parse().expect("valid");
    let node = overlay.idle_source(source);
    let mut client = peer(name, Role::Source, false, grants);
    client.address = (address.parse::<std::net::IpAddr>().expect("valid"), 9).into();
    overlay.connect("a", node, client);
    overlay.run(200);
    node
}

/// The rights of `all`, by a token of this id.
fn token(id: &str, direction: Direction) -> Vec<Grant> {
    all(direction).into_iter().map(|grant| Grant { id: id.to_owned(), ..grant }).collect()
}

/// x tells b of forty streams more than it may bring; then a's source comes.
fn crowded_by(ingress: impl Fn(u32) -> String) {
    let mut overlay = Overlay::new(&[]);
    overlay.authority = Some(Authority::trial(crate::harness::UNIX).expect("made"));
    for name in ["a", "b", "x"] {
        overlay.start(name);
    }
    for (from, to) in [("a", "b"), ("b", "x")] {
        overlay.link(from, to, 10);
    }
    overlay.run(500);
    limit(&mut overlay, "b", |limits| (limits.max_streams, limits.max_streams_per_relay) = (20, 12));
    let sink = overlay.sink("b", "s");
    let tell = |overlay: &mut Overlay| {
        overlay.relay("x", |_: Instant, system, ports| {
            let to_b = system.relay(&"b".parse().expect("valid")).expect("linked");
            for i in 0..52 {
                ports.control(to_b, Control::StreamOpen(made_up(i, &ingress(i))));
            }
        });
        overlay.run(300);
    };
    tell(&mut overlay);
    let report = overlay.report("b");
    assert_eq!(report.streams.len(), 12, "what one relay may bring");
    assert_eq!(report.refused.streams, 40);

    let source = overlay.source("a", "one", Source::new(1));
    overlay.run(300);
    overlay.send(source, true);
    for _ in 0..8 {
        tell(&mut overlay);
    }
    let sent = overlay.send(source, false);
    overlay.run(500);
    overlay.of_sink(sink, |sink| sink.assert_whole(1, 0..sent));
    assert!(sent > 2_000, "{sent}");
    assert!(overlay.report("b").streams.len() <= 13);
}

fn made_up(i: u32, ingress: &str) -> StreamOpen {
    StreamOpen {
        handle: 100 + i as u16,
        name: format!("made/up-{i}").parse().expect("valid"),
        incarnation: Incarnation(9),
        ingress: ingress.parse().expect("valid"),
        deadline_us: 200_000,
        content: Content::Datagrams,
        sealed: false,
        target_ppb: 0,
    }
}

#[test]
fn a_relay_that_makes_up_ingresses_leaves_room_for_the_streams_of_others() {
    crowded_by(|i| format!("nobody-{i}"));
}

#[test]
fn a_relay_that_publishes_without_end_leaves_room_for_the_streams_of_others() {
    crowded_by(|_| "x".to_owned());
}

#[test]
fn one_token_takes_a_share_of_the_streams_and_the_next_finds_room() {
    let mut overlay = Overlay::with_links(&[("a", "b", 10)]);
    limit(&mut overlay, "a", |limits| (limits.max_streams, limits.max_streams_per_token) = (4, 2));
    let greedy: Vec<_> = (0..4)
        .map(|i| {
            publish(&mut overlay, &format!("g{i}"), &format!("g/{i}"), token("greedy", Direction::Publish), "192.0.2.1")
        })
        .collect();
    let refused: Vec<_> = greedy.iter().map(|node| overlay.of_source(*node, |source| source.reasons.clone())).collect();
    assert!(refused[0].is_empty() && refused[1].is_empty());
    let reason = "2 streams are published here by token greedy already; one token may have 2";
    assert_eq!((refused[2].as_slice(), refused[3].as_slice()), (&[reason.to_owned()][..], &[reason.to_owned()][..]));
    let other = publish(&mut overlay, "other", STREAM, token("other", Direction::Publish), "192.0.2.1");
    assert!(overlay.of_source(other, |source| source.handle.is_some()), "another token finds room");
    // Who is here already may come back, over another connection, with what it had.
    let again = publish(&mut overlay, "g0", "g/0", token("greedy", Direction::Publish), "192.0.2.1");
    assert!(overlay.of_source(again, |source| source.handle.is_some()));
}

#[test]
fn one_token_asks_for_a_share_of_the_streams_and_what_others_watch_costs_it_nothing() {
    let mut overlay = Overlay::with_links(&[("a", "b", 10)]);
    limit(&mut overlay, "a", |limits| limits.max_streams_per_token = 1);
    let first = overlay.sink_with("a", "first", token("one", Direction::Subscribe));
    overlay.run(200);
    let sink = |overlay: &mut Overlay, name: &str, id: &str, stream| {
        let node = overlay.sink_of("b", name, stream);
        overlay.connect("a", node, peer(name, Role::Sink, false, token(id, Direction::Subscribe)));
        overlay.run(200);
        overlay.of_sink(node, |sink| sink.reasons.clone())
    };
    let reason = "1 streams are watched here by token one already; one token may have 1";
    assert_eq!(sink(&mut overlay, "second", "one", OTHER), [reason]);
    assert_eq!(sink(&mut overlay, "third", "two", OTHER), [""; 0], "another token");
    assert_eq!(sink(&mut overlay, "fourth", "one", OTHER), [""; 0], "what is watched here already");
    assert!(overlay.of_sink(first, |sink| sink.refused.is_empty()));
}

#[test]
fn one_address_and_one_token_take_a_share_of_the_places() {
    let mut overlay = Overlay::with_links(&[("a", "b", 10)]);
    limit(&mut overlay, "a", |limits| (limits.max_clients_per_address, limits.max_clients_per_token) = (2, 3));
    let mut come = |name: &str, id: &str, address: &str| {
        let node = publish(&mut overlay, name, &format!("s/{name}"), token(id, Direction::Publish), address);
        let here = overlay.of_source(node, |source| source.port.is_some());
        (here, overlay.report("a").refused.clients)
    };
    assert_eq!(come("a1", "one", "192.0.2.1"), (true, 0));
    assert_eq!(come("a2", "two", "192.0.2.1"), (true, 0));
    assert_eq!(come("a3", "three", "192.0.2.1"), (false, 1), "a third from one address");
    assert_eq!(come("b1", "one", "2001:db8::1"), (true, 1));
    assert_eq!(come("b2", "two", "2001:db8::ffff"), (true, 1));
    assert_eq!(come("b3", "three", "2001:db8::7:1"), (false, 2), "a third from one network");
    assert_eq!(come("c1", "one", "2001:db8:1::1"), (true, 2));
    assert_eq!(come("d1", "one", "2001:db8:2::1"), (false, 3), "a fourth by one token");
    assert_eq!(come("e1", "four", "2001:db8:3::1"), (true, 3));
}
