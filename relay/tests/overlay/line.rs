//! The line test: what it says of a line whose loss is known, and what it refuses.

use crate::harness::{Overlay, STREAM, Source, all, ms};
use anabranch_relay::line::{Ask, LineTest, Stage};
use anabranch_relay::ops::Refused;
use anabranch_relay::system::LinkOptions;
use link::Bitrate;
use link::policy::{Policy, RepairMode};
use node::control::{CloseCode, Control};
use node::trust::Direction;
use std::time::Duration;

/// Payloads that fit one frame: the loss of packets is that of frames.
fn ask(to: &str, deadline: u64) -> Ask {
    Ask {
        to: to.parse().expect("valid"),
        rate: Bitrate::mbps(4),
        duration: Duration::from_secs(10),
        deadline: ms(deadline),
        packet_size: 1000,
    }
}

fn begin(overlay: &mut Overlay, relay: &str, ask: Ask) -> Result<LineTest, Refused> {
    overlay.relay(relay, |now, system, ports| system.start_test(now, ask, ports))
}

fn state(overlay: &mut Overlay, relay: &str) -> LineTest {
    overlay.relay(relay, |_, system, _| system.line_test()).expect("one was begun")
}

/// Lets a test come to its end.
fn follow(overlay: &mut Overlay, relay: &str) -> LineTest {
    for _ in 0..40 {
        overlay.run(500);
        let test = state(overlay, relay);
        if test.stage.is_over() {
            return test;
        }
    }
    panic!("it has no end: {:?}", state(overlay, relay));
}

/// The share that would have been delivered by so many milliseconds.
fn share(test: &LineTest, ms: f64) -> f64 {
    let row = test.delivered.iter().find(|row| row.deadline_ms == ms).expect("a deadline that is told of");
    row.share.expect("packets were sent")
}

fn set_policy(overlay: &mut Overlay, from: &str, to: &str, delay: u64, policy: Policy) {
    let to = to.parse().expect("valid");
    let options = LinkOptions { delay: Some(ms(delay)), cost: 10, policy, ..LinkOptions::default() };
    overlay.relay(from, |now, system, ports| system.set_link_options(now, to, options, ports));
}

fn line() -> Overlay {
    let mut overlay = Overlay::with_links(&[("a", "b", 10), ("b", "c", 20)]);
    overlay.run(500);
    overlay
}

#[test]
fn a_line_without_loss_delivers_all_and_gives_back_what_it_took() {
    let mut overlay = line();
    begin(&mut overlay, "a", ask("c", 200)).expect("it begins");
    let test = follow(&mut overlay, "a");
    assert_eq!((test.stage, test.reason.as_deref()), (Stage::Done, None));
    assert_eq!((test.sent, test.received, test.missing, test.not_sent), (5000, 5000, 0, 0));
    assert_eq!((share(&test, 20.0), share(&test, 40.0), share(&test, 200.0)), (0.0, 1.0, 1.0));
    assert!((29.0..33.0).contains(&test.delay.p50_ms) && test.delay.jitter_ms < 2.0, "{:?}", test.delay);
    assert!(test.lost.is_empty() && test.lost_unknown == 0, "{test:?}");
    let used: Vec<_> =
        test.hops.iter().filter(|hop| hop.used).map(|hop| (hop.from.as_str(), hop.to.relay.as_str())).collect();
    assert_eq!(used, [("a", "b"), ("b", "c")]);
    assert!((2.0..2.2).contains(&test.transmissions_per_packet), "{}", test.transmissions_per_packet);
    overlay.run(20_000);
    for relay in ["a", "b", "c"] {
        assert!(overlay.report(relay).streams.is_empty(), "{relay} still carries a test");
    }
    // Another one finds nothing of the last.
    begin(&mut overlay, "a", ask("c", 200)).expect("it begins");
    assert_eq!(follow(&mut overlay, "a").received, 5000);
}

/// No time to ask again, and no code ahead: what the wire loses is missing.
#[test]
fn known_loss_is_told_and_laid_to_its_hop() {
    let mut overlay = line();
    set_policy(&mut overlay, "b", "c", 20, Policy { mode: RepairMode::Off, ..Policy::default() });
    overlay.lossy("b", "c", 20, 60_000, 0.05, 7);
    begin(&mut overlay, "a", ask("c", 45)).expect("it begins");
    let test = follow(&mut overlay, "a");
    assert_eq!(test.stage, Stage::Done);
    assert_eq!((test.sent, test.received + test.missing), (5000, 5000));
    let lost = test.missing as f64 / test.sent as f64;
    assert!((0.035..0.065).contains(&lost), "5 % are lost, and {lost} are missing: {test:?}");
    assert!((share(&test, 45.0) - (1.0 - lost)).abs() < 1e-9);
    let worst = &test.lost[0];
    assert_eq!((worst.from.as_str(), worst.to.relay.as_str()), ("b", "c"), "{test:?}");
    assert!(worst.packets * 10 >= test.missing * 9, "{test:?}");
    let told: u64 = test.lost.iter().map(|hop| hop.packets).sum();
    assert_eq!(told + test.lost_unknown, test.missing);
}

/// With time for repair the same line delivers all but what comes later than a short deadline.
#[test]
fn what_repair_saves_shows_at_the_longer_deadlines() {
    let mut overlay = line();
    overlay.lossy("b", "c", 20, 60_000, 0.05, 7);
    begin(&mut overlay, "a", ask("c", 200)).expect("it begins");
    let test = follow(&mut overlay, "a");
    assert_eq!(test.stage, Stage::Done);
    assert!((0.9..0.975).contains(&share(&test, 40.0)), "{:?}", test.delivered);
    assert!(share(&test, 125.0) > 0.995 && share(&test, 200.0) > 0.999, "{:?}", test.delivered);
    assert!(test.delivered.is_sorted_by(|a, b| a.deadline_ms < b.deadline_ms && a.packets <= b.packets));
    assert!(test.delay.p99_ms > 60.0 && test.delay.p50_ms < 40.0 && test.delay.jitter_ms > 0.5, "{:?}", test.delay);
    let hop = test.hops.iter().find(|hop| hop.from.as_str() == "b" && hop.to.relay.as_str() == "c").expect("told of");
    assert!(hop.lost.is_some_and(|lost| (0.02..0.09).contains(&lost)), "{hop:?}");
    assert!(test.transmissions_per_packet > 2.02, "{}", test.transmissions_per_packet);
}

#[test]
fn what_cannot_be_tested_is_refused_and_says_why() {
    let mut overlay = line();
    assert!(matches!(begin(&mut overlay, "a", ask("x", 200)), Err(Refused::Unknown(why)) if why.contains('x')));
    assert!(matches!(begin(&mut overlay, "a", ask("a", 200)), Err(Refused::Wrong(why)) if why.starts_with("to")));
    let slow = Ask { rate: Bitrate::bps(1), ..ask("c", 200) };
    assert!(matches!(begin(&mut overlay, "a", slow), Err(Refused::Wrong(why)) if why.starts_with("rate")));

    begin(&mut overlay, "a", ask("c", 200)).expect("it begins");
    assert!(matches!(begin(&mut overlay, "a", ask("b", 200)), Err(Refused::Busy(why)) if why.contains('c')));
    overlay.run(3000);
    assert_eq!(state(&mut overlay, "a").stage, Stage::Running);
    // Who is tested to already does not answer another one.
    begin(&mut overlay, "b", ask("c", 200)).expect("it begins");
    let other = follow(&mut overlay, "b");
    assert_eq!((other.stage, other.sent), (Stage::Failed, 0));
    assert!(other.reason.is_some_and(|why| why.contains("does not answer")));

    overlay.relay("a", |now, system, ports| system.stop_test(now, ports));
    let stopped = follow(&mut overlay, "a");
    assert_eq!((stopped.stage, stopped.missing), (Stage::Stopped, 0));
    assert!(stopped.received == stopped.sent && stopped.sent > 500, "{stopped:?}");
}

#[test]
fn a_rate_above_what_the_link_may_carry_is_refused_before_a_packet_is_sent() {
    let mut overlay = line();
    set_policy(&mut overlay, "a", "b", 10, Policy { capacity: Some(Bitrate::mbps(3)), ..Policy::default() });
    begin(&mut overlay, "a", ask("c", 200)).expect("the other end is asked");
    let test = follow(&mut overlay, "a");
    assert_eq!((test.stage, test.sent), (Stage::Failed, 0));
    assert!(test.reason.is_some_and(|why| why.starts_with("rate: the link to b carries 3.0 Mbit/s")));
}

#[test]
fn clients_neither_publish_nor_watch_tests() {
    let mut overlay = line();
    let mut source = Source::new(1);
    source.publish.name = "line-test/c/a".parse().expect("valid");
    let name = source.publish.name.clone();
    let source = overlay.source("a", "camera", source);
    let sink = overlay.sink_with("c", "s", all(Direction::Subscribe));
    overlay.run(500);
    assert_ne!(name.as_str(), STREAM);
    overlay.world.with(sink, |_, sink: &mut crate::harness::Sink, ports| {
        ports.control(sink.port.expect("connected"), Control::Subscribe { name });
    });
    overlay.run(500);
    overlay.of_source(source, |source| {
        assert!(source.refused.contains(&CloseCode::Forbidden), "{:?}", source.refused);
    });
    overlay.of_sink(sink, |sink| {
        assert!(sink.refused.contains(&CloseCode::Forbidden), "{:?}", sink.refused);
    });
}
