//! The start of a stream: its first packet is worth as much as any other.

use crate::harness::{Overlay, Source, ms};
use link::Instant;
use node::control::Dissemination;
use node::testing::End;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const LOSS: f64 = 0.05;

/// From now on a link loses 5 % of its datagrams each way, and control messages are late as the segments of a
/// reliable stream are whose losses are found by timeout: one and a half round trips and 25 ms (RFC 9002), doubled each time.
fn make_lossy(overlay: &mut Overlay, end: End, delay: u64, seed: u64) {
    let ends = [Some(end), overlay.world.other_end(end)];
    for (side, end) in ends.into_iter().flatten().enumerate() {
        let mut media = StdRng::seed_from_u64(seed * 4 + side as u64);
        let mut control = StdRng::seed_from_u64(seed * 4 + 2 + side as u64);
        overlay.world.set_path(end, move |now: Instant, _: &[u8]| (!media.random_bool(LOSS)).then(|| now + ms(delay)));
        overlay.world.set_control_delay(end, move |_| {
            let mut took = ms(delay);
            let mut timeout = ms(delay * 3 + 25);
            while control.random_bool(LOSS) {
                took += timeout;
                timeout *= 2;
            }
            took
        });
    }
}

/// Five relays in a row, four hops of 15 ms, all lossy.
fn lossy_line(seed: u64) -> Overlay {
    let mut overlay = Overlay::new(&["a", "b", "c", "d", "e"]);
    for (at, (a, b)) in [("a", "b"), ("b", "c"), ("c", "d"), ("d", "e")].into_iter().enumerate() {
        let end = overlay.link(a, b, 15);
        make_lossy(&mut overlay, end, 15, seed * 8 + at as u64);
    }
    overlay.run(2000);
    overlay
}

#[test]
fn a_stream_is_whole_from_its_very_first_packet() {
    for seed in 0..40 {
        let mut overlay = lossy_line(seed);
        let sink = overlay.sink("e", "s");
        overlay.run(1500);
        let mode = [Dissemination::Tree, Dissemination::Auto][seed as usize % 2];
        let source = overlay.source("a", "camera", Source::new(1).mode(mode));
        // Sends from the moment on in which it hears that it may.
        while overlay.of_source(source, |source| source.handle.is_none()) {
            overlay.run(1);
        }
        overlay.send(source, true);
        overlay.run(1500);
        let sent = overlay.send(source, false);
        overlay.run(500);
        overlay.of_sink(sink, |sink| sink.assert_whole(1, 0..sent));
    }
}

#[test]
fn a_sink_that_joins_with_its_stream_misses_only_what_could_not_be_in_time() {
    for seed in 0..20 {
        let mut overlay = lossy_line(100 + seed);
        let source = overlay.source("a", "camera", Source::new(1));
        while overlay.of_source(source, |source| source.handle.is_none()) {
            overlay.run(1);
        }
        // The wish needs some 60 ms to the ingress, and the media as long back: they are still in time.
        let sink = overlay.sink("e", "s");
        overlay.run(seed * 2);
        overlay.send(source, true);
        overlay.run(1500);
        let sent = overlay.send(source, false);
        overlay.run(500);
        overlay.of_sink(sink, |sink| {
            sink.assert_once();
            let missing = (0..sent).filter(|n| !sink.got.contains_key(&(1, *n))).collect::<Vec<_>>();
            // Gathering (50 ms), 65 ms of wish, 65 ms of media, and what repair and lost segments of the wish take.
            assert!(missing.iter().all(|n| *n < 150), "seed {seed}: {missing:?}");
        });
    }
}

#[test]
fn egresses_that_join_one_after_the_other_at_the_start_all_get_the_beginning() {
    let mut overlay = Overlay::with_links(&[("a", "b", 10), ("b", "c", 10), ("b", "d", 10), ("a", "e", 15)]);
    let source = overlay.source("a", "camera", Source::new(1));
    overlay.run(20);
    overlay.send(source, true);
    let sinks = ["c", "d", "e", "a"].map(|relay| {
        overlay.run(8);
        overlay.sink(relay, &format!("at-{relay}"))
    });
    overlay.run(1000);
    let sent = overlay.send(source, false);
    overlay.run(500);
    for sink in sinks {
        overlay.of_sink(sink, |sink| sink.assert_whole(1, 0..sent));
    }
}

/// Last miles count: what the first hop spends of them on repair, the last one lacks.
#[test]
fn a_source_hears_how_far_it_is_to_the_farthest_sink() {
    let mut overlay = Overlay::with_links(&[("a", "b", 10), ("b", "c", 10)]);
    let source = overlay.source("a", "camera", Source::new(1));
    let rest = |overlay: &mut Overlay| {
        overlay.run(2000);
        overlay.of_source(source, |source| source.rest)
    };
    overlay.sink("a", "near");
    assert_eq!(rest(&mut overlay), ms(5), "its own relay's sinks have a last mile too");
    overlay.sink("c", "far");
    assert_eq!(rest(&mut overlay), ms(25));
}
