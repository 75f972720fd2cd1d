//! How a transport stream is, told at every relay that it passes.

use crate::harness::{Overlay, Source, ms};
use anabranch_relay::report::{TsReport, TsState};
use anabranch_relay::system::LinkOptions;
use link::policy::{Policy, RepairMode};
use node::control::{Content, Publish};

/// A source of a transport stream.
fn transport() -> Source {
    let source = Source::new(7);
    let publish = Publish { content: Content::Ts, ..source.publish.clone() };
    Source { publish, transport: Some(0), ..source }
}

fn ts(overlay: &mut Overlay, relay: &str) -> TsReport {
    overlay.report(relay).streams[0].ts
}

#[test]
fn each_relay_tells_what_was_lost_up_to_it_and_nothing_else() {
    let mut overlay = Overlay::with_links(&[("a", "b", 10), ("b", "c", 20)]);
    let sink = overlay.sink("c", "s");
    let mut camera = transport();
    // There is time for the way, and none to ask for anything again.
    camera.publish.deadline_us = 45_000;
    let source = overlay.source("a", "camera", camera);
    overlay.run(500);
    overlay.send(source, true);
    overlay.run(2000);
    for relay in ["a", "b", "c"] {
        let found = ts(&mut overlay, relay);
        let health = found.health.expect("it is looked at");
        assert_eq!((found.state, health.errors(), found.unlooked), (TsState::Checked, 0, 0), "{relay}: {health:?}");
        assert!(health.packets > 1_900 * 7, "{relay}: {health:?}");
        assert!(health.pcr_interval_ms.is_some_and(|interval| interval < 3.0), "{relay}: {health:?}");
    }
    let policy = Policy { mode: RepairMode::Off, ..Policy::default() };
    let unrepaired = LinkOptions { delay: Some(ms(20)), policy, ..LinkOptions::default() };
    overlay
        .relay("b", |now, system, ports| system.set_link_options(now, "c".parse().expect("valid"), unrepaired, ports));
    overlay.lossy("b", "c", 20, 1000, 0.02, 3);
    overlay.run(2000);
    let sent = overlay.send(source, false);
    overlay.run(500);
    let came: Vec<u32> = overlay.of_sink(sink, |sink| sink.got.keys().map(|(_, seq)| *seq).collect());
    let gaps: Vec<u32> = came.windows(2).map(|pair| pair[1] - pair[0]).filter(|step| *step > 1).collect();
    assert!(gaps.len() > 5 && gaps.iter().all(|step| *step < 16), "{gaps:?}");
    let found = ["a", "b", "c"].map(|relay| ts(&mut overlay, relay));
    let health = found.map(|found| found.health.expect("it is looked at"));
    assert_eq!([health[0].errors(), health[1].errors()], [0, 0]);
    // Where tables were lost too, their counters have gaps of their own.
    let errors = health[2].continuity_errors as usize;
    assert!(errors >= gaps.len() && errors <= gaps.len() + 2, "{} gaps, {:?}", gaps.len(), health[2]);
    assert_eq!(health[2].errors() as usize, errors, "{:?}", health[2]);
    assert_eq!(found.map(|found| found.unlooked), [0; 3]);
    assert_eq!(overlay.report("a").streams[0].counters.unique, u64::from(sent));
}

#[test]
fn what_cannot_be_looked_into_is_said_and_it_can_be_switched_off() {
    for (source, state) in [
        (Source::new(7), TsState::NotTs),
        (transport(), TsState::Checked),
        (Source { publish: Publish { sealed: true, ..Source::new(7).publish }, ..transport() }, TsState::Sealed),
    ] {
        let mut overlay = Overlay::with_links(&[("a", "b", 10)]);
        overlay.sink("b", "s");
        let source = overlay.source("a", "camera", source);
        overlay.run(500);
        overlay.send(source, true);
        overlay.run(1000);
        for relay in ["a", "b"] {
            let found = ts(&mut overlay, relay);
            assert_eq!((found.state, found.health.is_some()), (state, state == TsState::Checked), "{relay}");
            overlay.relay(relay, |_, system, _| system.set_ts_health(false));
        }
        overlay.run(1000);
        let found = ts(&mut overlay, "b");
        let off = if state == TsState::Checked { TsState::Off } else { state };
        assert_eq!((found.state, found.health), (off, None));
        overlay.relay("b", |_, system, _| system.set_ts_health(true));
        overlay.run(1000);
        let health = ts(&mut overlay, "b").health;
        assert!(health.is_none_or(|health| health.packets > 1000 && health.errors() == 0), "{health:?}");
    }
}
