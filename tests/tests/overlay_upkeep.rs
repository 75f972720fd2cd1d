//! Six real relays through what operators do to them, and through a partition: what is not cut off flows on, and what is comes back by itself.

use anabranch_tests::allowance;
use anabranch_tests::six::{Six, Streams, Tally};
use bench::emulator::Action;
use link::Bitrate;
use node::control::Dissemination::{Auto, Disjoint, Targeted, Tree};
use std::time::Duration;

const RATE: Bitrate = Bitrate::mbps(5);

/// Of every link, either way.
const LOSS: f64 = 0.01;

fn say(what: &str, tallies: &[Tally]) {
    for Tally { mode, due, lost, late, gap } in tallies {
        let mode = format!("{mode:?}").to_lowercase();
        println!("| {what} | `{mode}` | {due} | {lost} | {late} | {} |", gap.as_millis());
    }
}

fn assert_whole(what: &str, tallies: &[Tally]) {
    say(what, tallies);
    for tally in tallies {
        assert!(tally.missed() <= allowance(tally.due), "{what}: {tally:?}");
    }
}

fn finish(six: &Six, streams: impl IntoIterator<Item = Streams>) {
    for (mode, sent, seen) in streams.into_iter().flat_map(Streams::finish) {
        assert_eq!(seen.compared.foreign, 0, "{mode:?}: damaged, doubled or out of order of {sent}: {seen:?}");
    }
    assert_eq!(six.snapshot().kernel_dropped, 0, "the kernel lost what no plan says");
    assert!(!six.log().contains("panicked"), "{}", six.log());
}

/// `a`, `b`, `c` apart from `d`, `e`, `x`: longer than connections live, so that links are dialled anew.
#[test]
#[ignore = "long: a minute"]
fn a_partition_of_half_a_minute_leaves_each_side_whole_and_heals() {
    let mut six = Six::start(11, LOSS);
    let mut inside = [six.streams(("a", "c"), RATE, &[Auto]), six.streams(("d", "x"), RATE, &[Auto])];
    // As slow as this: what compares finds no datagram again after more than 4096 that are missing.
    let mut across = six.streams(("b", "x"), Bitrate::mbps(1), &[Auto]);
    std::thread::sleep(Duration::from_secs(3));
    assert_whole("before", &across.take());
    inside.iter_mut().for_each(|streams| drop(streams.take()));
    for link in [("b", "d"), ("c", "e"), ("b", "e"), ("c", "d")] {
        six.act(link, false, Action::Cut);
    }
    std::thread::sleep(Duration::from_secs(30));
    six.mend();
    let resumed = across.wait_until_played();
    println!("healed after 30 s: what crosses plays again after {resumed:?}");
    assert!(resumed < Duration::from_secs(10), "{resumed:?}");
    // What was sent before the first packet came over is lost; then the better way is found.
    std::thread::sleep(Duration::from_secs(2));
    across.take();
    std::thread::sleep(Duration::from_secs(5));
    assert_whole("across, healed", &across.take());
    for streams in &mut inside {
        assert_whole("inside, all the while", &streams.take());
        assert!(streams.undisturbed());
    }
    finish(&six, inside.into_iter().chain([across]));
}

/// Each relay between source and sink is stopped and started again, one after the other: half of them are drained by `ctl drain` first, the
/// others by the signal that stops them.
#[test]
#[ignore = "long: a minute and a half"]
fn a_rolling_upgrade_loses_nothing() {
    let mut six = Six::start(12, LOSS);
    let mut streams = six.streams(("a", "x"), RATE, &[Tree, Auto, Disjoint, Targeted]);
    for (relay, by_hand) in [("b", true), ("c", false), ("d", true), ("e", false)] {
        streams.take();
        if by_hand {
            six.drain(relay);
            std::thread::sleep(Duration::from_secs(2));
        }
        six.stop(relay);
        std::thread::sleep(Duration::from_secs(2));
        six.launch(relay);
        let back = six.wait_until_back(relay);
        std::thread::sleep(Duration::from_secs(6));
        assert_whole(&format!("{relay} upgraded, back after {back:?}"), &streams.take());
        // Whoever stops comes back: its neighbours do not wait for an operator.
        assert!(back < Duration::from_secs(8), "{relay} has its links again only after {back:?}");
    }
    assert!(streams.undisturbed());
    finish(&six, [streams]);
}
