//! A relay broken into on the first way of a stream (`b` of a-b-d-x): what each thing that it may do costs until it is contained or routed around.
//!
//! Relays believe what they see for themselves (what comes, what is asked for, the word of a stream's ingress) before what a neighbour says.
//! `cargo test -p anabranch-relay --test overlay lies -- --nocapture` prints the table of `docs/security.md`.

use crate::failures::Stage;
use crate::harness::{Overlay, STREAM, Source, ms};
use crate::hostile::{CLAIMED, MADE_UP, Vice};
use anabranch_relay::system::LinkOptions;
use node::control::Control;
use node::control::Dissemination::{self, Auto, Targeted, Tree};
use std::time::Duration;
use topology::lsdb::{Advertisement, Incarnation, LinkState, StreamState};
use topology::select::Modules;

/// What a relay broken into has cost.
struct Cost {
    /// Packets that did not come, or came later than 200 ms by the clocks of source and sink, by their number after the onset.
    lost: Vec<u32>,
    /// Packets that the sink got more than once, and such as nobody sent.
    twice: usize,
    foreign: usize,
    stage: Stage,
}

/// Bare transit of the first way, last miles included.
const WAY: Duration = Duration::from_millis(55);

/// A packet a millisecond for five seconds from the moment on at which `b` turns.
fn cost(what: &str, mode: Dissemination, vice: &Vice) -> Cost {
    let mut stage = Stage::new(mode);
    stage.run(1000);
    let from = stage.overlay.of_source(stage.source, |source| source.next_seq);
    stage.overlay.corrupt("b", Some(vice.clone()));
    stage.run(5_000);
    let sent = stage.overlay.send(stage.source, false);
    stage.overlay.run(500);
    let (lost, twice, foreign) = stage.overlay.of_sink(stage.sink, |sink| {
        // Until the onset all came by the first way: so long it takes, and that far are the clocks apart.
        let usual = *sink.took.range(..from - 300).map(|(_, took)| took).min().expect("some came");
        let in_time = |n: &u32| {
            let took = sink.got.contains_key(&(1, *n)).then(|| sink.took[n].wrapping_sub(usual));
            took.is_some_and(|more| Duration::from_micros(more.into()) + WAY <= ms(200))
        };
        let lost = (from..sent).filter(|n| !in_time(n)).map(|n| n - from).collect::<Vec<u32>>();
        let twice = sink.got.iter().filter(|((life, n), (times, _))| (*life, *n < sent) == (1, true) && *times > 1);
        let foreign = sink.got.keys().filter(|(life, n)| *life != 1 || *n >= sent).count();
        (lost, twice.count(), foreign)
    });
    let (mode, count) = (format!("{mode:?}").to_lowercase(), lost.len());
    println!("| {what} | `{mode}` | {count} | {} | {:.1} |", lost.last().unwrap_or(&0), stage.links_used());
    Cost { lost, twice, foreign, stage }
}

/// Nothing of it is lost, comes twice, or is not the stream's.
fn costs_nothing(what: &str, vice: &Vice) {
    for mode in [Auto, Targeted, Tree] {
        let cost = cost(what, mode, vice);
        assert!(cost.lost.is_empty(), "{what}, {mode:?}: {} lost: {:?}…", cost.lost.len(), &cost.lost[..9]);
        assert_eq!((cost.twice, cost.foreign), (0, 0), "{what}, {mode:?}");
    }
}

fn links_to(peers: &[&str]) -> Vec<LinkState> {
    let link = |peer: &&str| LinkState { peer: peer.parse().expect("valid"), delay_us: 15_000, loss_ppm: 0, cost: 10 };
    peers.iter().map(link).collect()
}

/// What `b` says of itself, with a number above all that it says honestly.
fn own_word(streams: Vec<StreamState>) -> Advertisement {
    Advertisement {
        origin: "b".parse().expect("valid"),
        boot: u64::MAX / 2,
        seq: 1,
        links: links_to(&["a", "d", "e"]),
        streams,
        subscriptions: Vec::new(),
        draining: false,
        about: topology::about::About::default(),
        terms: topology::terms::Terms::default(),
    }
}

/// Links, probes and reports of `b` are as they should be, and no packet passes it.
#[test]
fn lies_of_a_relay_that_acknowledges_everything_and_passes_nothing_on() {
    costs_nothing("drops everything", &Vice::Drop);
    let mut cost = cost("drops everything", Auto, &Vice::Drop);
    let label = cost.stage.overlay.report("a").streams[0].label.expect("it enters here");
    assert!(Modules(label as u16).has(Modules::DISJOINT), "two ways are used, though no link is in trouble: {label:x}");
    // Nobody need ask any more.
    let pulls = |cost: &mut Cost| cost.stage.overlay.report("x").streams[0].counters.pulls;
    cost.stage.overlay.send(cost.stage.source, true);
    cost.stage.run(500);
    let before = pulls(&mut cost);
    cost.stage.run(3000);
    assert!(pulls(&mut cost) <= before + 2, "{} questions more", pulls(&mut cost) - before);
}

/// The stream returns to one way after half a minute, finds the relay as it was, and loses nothing by that either.
#[test]
fn lies_that_go_on_cost_nothing_when_one_way_is_tried_again() {
    let mut stage = Stage::new(Auto);
    stage.overlay.corrupt("b", Some(Vice::Drop));
    stage.run(33_000);
    let lost = stage.lost();
    assert!(lost.is_empty(), "{} lost: {:?}…", lost.len(), &lost[..lost.len().min(9)]);
    // And when it is mended, one way is enough again.
    stage.overlay.corrupt("b", None);
    stage.run(70_000);
    let label = stage.overlay.report("a").streams[0].label.expect("it enters here");
    assert_eq!(Modules(label as u16), Modules::BASE);
}

/// Packets that were held back are said to be as young as they came: relays cannot see it in their age.
#[test]
fn lies_about_time() {
    for held in [120, 145, 150, 160, 180, 250, 500] {
        costs_nothing(&format!("holds all back for {held} ms, unsaid"), &Vice::Delay(ms(held)));
    }
    costs_nothing("holds every other back for 60 ms, unsaid", &Vice::Reorder(ms(60)));
}

#[test]
fn lies_by_saying_it_again() {
    costs_nothing("sends everything four times", &Vice::Duplicate(3));
    costs_nothing("sends all of a second ago again, as if new", &Vice::Replay(ms(1000)));
}

/// In the clear what it makes up reaches sinks, as what it changes does: only a sealed stream is safe from that. What is the stream's own comes
/// all the same.
#[test]
fn lies_that_are_made_up_cost_nothing_of_the_stream() {
    for mode in [Auto, Targeted] {
        let cost = cost("makes up packets with numbers far ahead", mode, &Vice::Invent);
        assert!(cost.lost.is_empty(), "{mode:?}: {:?}", cost.lost);
        assert!(cost.foreign > 0, "in the clear nobody can tell");
    }
}

#[test]
fn lies_about_the_end_of_a_stream() {
    costs_nothing("says that the stream has ended", &Vice::End);
    let mut cost = cost("says that the stream has ended", Auto, &Vice::End);
    cost.stage.overlay.of_sink(cost.stage.sink, |sink| assert_eq!((sink.opens, sink.closes.len()), (1, 0)));
}

#[test]
fn lies_by_the_thousand() {
    let vice = Vice::Flood(own_word(Vec::new()), 1);
    costs_nothing("a thousand statements a second", &vice);
    let mut cost = cost("a thousand statements a second", Auto, &vice);
    for relay in ["a", "d", "e"] {
        let excess = cost.stage.overlay.report(relay).refused.excess;
        assert!(excess > 4_000, "{relay} took in all but {excess} of 5,000");
    }
    // Only what its neighbours take in goes on to others: a hundred at once, and forty a second.
    assert_eq!(cost.stage.overlay.report("x").refused.excess, 0);
}

#[test]
fn lies_about_whose_stream_it_is() {
    let claim = StreamState { name: STREAM.parse().expect("valid"), incarnation: CLAIMED, deadline_us: 200_000 };
    costs_nothing("says that the stream enters there", &Vice::Claim(own_word(vec![claim])));
}

/// A relay beside the stream's way says that the stream enters there as well, in the same life, as it would where a source has moved to it, and sends
/// something else under the numbers that are next. With how much of that comes to the sink, and what of the stream does.
fn impersonated(at: &str, mode: Dissemination) -> (usize, u32) {
    let mut stage = Stage::new(mode);
    stage.run(1000);
    let from = stage.overlay.of_source(stage.source, |source| source.next_seq);
    let claim = StreamState { name: STREAM.parse().expect("valid"), incarnation: Incarnation(1), deadline_us: 200_000 };
    let links = match at {
        "b" => ["a", "d", "e"],
        _ => ["b", "c", "x"],
    };
    let ad = Advertisement { origin: at.parse().expect("valid"), links: links_to(&links), ..own_word(vec![claim]) };
    stage.overlay.corrupt(at, Some(Vice::Impersonate(ad, from + 100)));
    stage.run(5000);
    // Of a stream that falls silent it is taken for the next publisher.
    let made_up = stage.overlay.of_sink(stage.sink, |sink| sink.payloads.get(&MADE_UP).copied().unwrap_or_default());
    let sent = stage.overlay.send(stage.source, false);
    stage.overlay.run(500);
    let missing =
        stage.overlay.of_sink(stage.sink, |sink| (from..sent).filter(|n| !sink.got.contains_key(&(1, *n))).count());
    (missing, made_up)
}

#[test]
fn lies_about_whose_stream_it_is_in_the_same_life() {
    for at in ["b", "e"] {
        for mode in [Auto, Targeted, Tree] {
            let (missing, made_up) = impersonated(at, mode);
            println!("{at} says that the stream enters there too, {mode:?}: {missing} missing, {made_up} made up");
            assert_eq!((missing, made_up), (0, 0), "{at}, {mode:?}");
        }
    }
}

/// A relay that no way of the stream leads over, a neighbour of the sink's, says that it brings it from its true ingress, and is ahead of it with something
/// else under its numbers.
#[test]
fn lies_about_bringing_the_stream() {
    for mode in [Auto, Targeted, Tree] {
        let mut stage = Stage::new(mode);
        stage.overlay.start("y");
        stage.overlay.link("y", "x", 5);
        stage.run(1000);
        let from = stage.overlay.of_source(stage.source, |source| source.next_seq);
        stage.overlay.corrupt("y", Some(Vice::Usurp(from + 20)));
        stage.run(5000);
        let sent = stage.overlay.send(stage.source, false);
        stage.overlay.run(500);
        let (missing, made_up) = stage.overlay.of_sink(stage.sink, |sink| {
            let missing = (from..sent).filter(|n| !sink.got.contains_key(&(1, *n))).count();
            // After the stream has fallen silent nobody else brings it.
            (missing, (from..sent).filter(|n| sink.got.get(&(1, *n)).is_some_and(|(times, _)| *times > 1)).count())
        });
        let beside = stage.overlay.report("x").streams[0].counters.beside;
        println!("y says that it brings the stream, {mode:?}: {missing} missing, {beside} thrown away");
        assert_eq!((missing, made_up), (0, 0), "{mode:?}");
        assert!(beside > 4_000, "{mode:?}: {beside}");
        let payloads = stage.overlay.of_sink(stage.sink, |sink| sink.payloads.get(&MADE_UP).copied().unwrap_or(0));
        assert!(payloads < 600, "{mode:?}: {payloads} are made up, after the stream's end");
    }
}

/// A neighbour of the sink's relay says that the source has begun another life, and another, at its true ingress: a sink that was told of each would take
/// the true one for long over.
#[test]
fn lies_about_other_lives_of_the_stream() {
    /// Begins a life over the connection that stands; the number of its first packet.
    fn begin(stage: &mut Stage, life: u64) -> u32 {
        stage.overlay.world.with(stage.source, |_, source: &mut Source, ports| {
            source.publish.incarnation = Incarnation(life);
            ports.control(source.port.expect("connected"), Control::Publish(source.publish.clone()));
        });
        stage.run(100);
        stage.overlay.of_source(stage.source, |source| source.next_seq)
    }
    const TRUE: u64 = 1 << 40;
    for mode in [Auto, Targeted, Tree] {
        // Before the true ones in order, and behind them.
        for made_up in [99, TRUE + 99] {
            let mut stage = Stage::new(mode);
            stage.overlay.start("y");
            stage.overlay.link("y", "x", 5);
            let from = begin(&mut stage, TRUE);
            stage.run(1000);
            stage.overlay.corrupt("y", Some(Vice::Lives(made_up)));
            stage.run(4000);
            let until = stage.overlay.of_source(stage.source, |source| source.next_seq);
            let again = begin(&mut stage, TRUE + 1);
            stage.run(2000);
            let sent = stage.overlay.send(stage.source, false);
            stage.overlay.run(500);
            let (opens, missing) = stage.overlay.of_sink(stage.sink, |sink| {
                let lacks = |life: u64, numbers: std::ops::Range<u32>| {
                    numbers.filter(|n| !sink.got.contains_key(&(life, *n))).count()
                };
                (sink.opens, (lacks(TRUE, from..until), lacks(TRUE + 1, again..sent)))
            });
            println!("y says that other lives have begun, {mode:?}: {missing:?} missing");
            assert_eq!((opens, missing), (3, (0, 0)), "{mode:?}, {made_up}");
        }
    }
}

/// Where the stream itself does not come for a while, its impostor is taken for a source that has moved; when the stream is back, that ends.
#[test]
fn lies_about_whose_stream_it_is_end_when_the_stream_is_back() {
    let mut stage = Stage::new(Auto);
    stage.run(1000);
    stage.overlay.send(stage.source, false);
    let from = stage.overlay.of_source(stage.source, |source| source.next_seq);
    let claim = StreamState { name: STREAM.parse().expect("valid"), incarnation: Incarnation(1), deadline_us: 200_000 };
    let ad = Advertisement {
        origin: "e".parse().expect("valid"),
        links: links_to(&["b", "c", "x"]),
        ..own_word(vec![claim])
    };
    stage.overlay.corrupt("e", Some(Vice::Impersonate(ad, 1_000_000)));
    stage.run(2000);
    let made_up = |stage: &mut Stage| {
        stage.overlay.of_sink(stage.sink, |sink| sink.payloads.get(&MADE_UP).copied().unwrap_or_default())
    };
    assert!(made_up(&mut stage) > 1000, "nobody else publishes it");
    stage.overlay.send(stage.source, true);
    stage.run(1000);
    let before = made_up(&mut stage);
    stage.run(3000);
    assert_eq!(made_up(&mut stage), before, "the name is its owner's again");
    let sent = stage.overlay.send(stage.source, false);
    stage.overlay.run(500);
    stage.overlay.of_sink(stage.sink, |sink| {
        assert!((from..sent).all(|n| sink.got.contains_key(&(1, n))), "and nothing of the stream is lost by it");
    });
}

/// A sink at a neighbour of the relay that claims its stream: nothing stands between.
#[test]
fn lies_about_whose_stream_it_is_next_door() {
    let mut stage = Stage::new(Auto);
    let near = stage.overlay.sink("d", "near");
    stage.run(1000);
    let claim = StreamState { name: STREAM.parse().expect("valid"), incarnation: CLAIMED, deadline_us: 200_000 };
    let from = stage.overlay.of_source(stage.source, |source| source.next_seq);
    stage.overlay.corrupt("b", Some(Vice::Claim(own_word(vec![claim]))));
    stage.run(3000);
    let sent = stage.overlay.send(stage.source, false);
    stage.overlay.run(500);
    stage.overlay.of_sink(near, |sink| {
        sink.assert_whole(1, from..sent);
        assert_eq!(sink.opens, 1, "it is told of the stream that it watches alone");
    });
    assert!(stage.lost().is_empty());
}

/// `b` is far from `d`, says that it is next to it, and drops what that brings it.
#[test]
fn lies_about_links() {
    for mode in [Auto, Tree] {
        let mut overlay = Overlay::with_links(&[("a", "b", 10), ("b", "d", 100), ("a", "c", 15), ("c", "d", 15)]);
        let sink = overlay.sink("d", "s");
        let source = overlay.source("a", "camera", Source::new(1).mode(mode));
        overlay.run(500);
        overlay.send(source, true);
        overlay.run(1000);
        overlay.corrupt("b", Some(Vice::Drop));
        let near = LinkOptions { delay: Some(Duration::ZERO), ..LinkOptions::default() };
        for peer in ["a", "d"] {
            let (peer, near) = (peer.parse().expect("valid"), near.clone());
            overlay.relay("b", |now, system, ports| system.set_link_options(now, peer, near, ports));
        }
        overlay.run(5000);
        let sent = overlay.send(source, false);
        overlay.run(500);
        overlay.of_sink(sink, |sink| sink.assert_whole(1, 0..sent));
        let passed = overlay.report("b").streams.iter().map(|stream| stream.counters.received).sum::<u64>();
        // `auto` has used it as its second way from the beginning.
        assert!(mode == Auto || passed == 0, "{passed} packets were drawn there");
    }
}
