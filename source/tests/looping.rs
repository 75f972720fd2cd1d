//! The bundled clip, played several times over, as an independent reader of transport streams sees it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use anabranch_source::looping::Looper;
use anabranch_source::pacing::Pacer;
use mpeg2ts_reader::packet::{ContinuityCounter, Packet};
use node::ts::{self, NULL_PID, PACKET, Pcr, PesTimes};
use std::collections::HashMap;
use std::time::Duration;

const CLIP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../bench/assets/clip.ts");
const VIDEO: u16 = 0x100;
const AUDIO: u16 = 0x101;

fn clip() -> Vec<u8> {
    std::fs::read(CLIP).expect("the bundled clip")
}

/// `passes` passes of `file` as one stream.
fn played(file: &[u8], passes: usize) -> Vec<u8> {
    let mut looper = Looper::default();
    let mut out = Vec::new();
    for pass in 0..passes {
        if pass > 0 {
            looper.next_pass().unwrap();
        }
        for packet in file.chunks_exact(PACKET) {
            let mut packet: [u8; PACKET] = packet.try_into().unwrap();
            looper.rewrite(&mut packet);
            out.extend(packet);
        }
    }
    out
}

/// The clip with all its clocks moved by `ticks` of 27 MHz.
fn shifted(file: &[u8], ticks: u64) -> Vec<u8> {
    let mut file = file.to_vec();
    for packet in file.chunks_exact_mut(PACKET) {
        if let Some(pcr) = ts::pcr(packet) {
            ts::set_pcr(packet, pcr.plus(ticks));
        }
        if let Some(times) = PesTimes::find(packet) {
            times.delay(packet, ticks / 300);
        }
    }
    file
}

/// References as the reader sees them, with the number of their packet.
fn references(stream: &[u8]) -> Vec<(usize, Pcr)> {
    let packets = stream.chunks_exact(PACKET).map(Packet::new).enumerate();
    let pcr = |packet: &Packet<'_>| packet.adaptation_field()?.pcr().ok().map(|pcr| Pcr(u64::from(pcr)));
    packets.filter_map(|(n, packet)| Some((n, pcr(&packet)?))).collect()
}

fn assert_counters_follow(stream: &[u8]) {
    let mut last: HashMap<u16, ContinuityCounter> = HashMap::new();
    for (n, packet) in stream.chunks_exact(PACKET).map(Packet::new).enumerate() {
        let (pid, counter) = (u16::from(packet.pid()), packet.continuity_counter());
        if pid == NULL_PID {
            continue;
        }
        if let Some(last) = last.insert(pid, counter) {
            let ok = if packet.adaptation_control().has_payload() {
                counter.follows(last)
            } else {
                counter.count() == last.count()
            };
            assert!(ok, "packet {n} of pid {pid:#x}: {counter:?} after {last:?}");
        }
    }
}

fn picture_times(stream: &[u8], pid: u16) -> Vec<ts::Pts> {
    let packets = stream.chunks_exact(PACKET).filter(|packet| ts::pid(packet) == pid);
    packets.filter_map(|packet| PesTimes::find(packet).map(|times| times.pts(packet))).collect()
}

fn assert_seamless(stream: &[u8]) {
    assert_counters_follow(stream);
    for pair in references(stream).windows(2) {
        let ((_, before), (n, after)) = (pair[0], pair[1]);
        let step = Duration::from_micros(after.since(before) / 27);
        assert!(step > Duration::ZERO && step <= Duration::from_millis(40), "{step:?} before packet {n}");
    }
    for pair in picture_times(stream, VIDEO).windows(2) {
        assert_eq!(pair[1].distance(pair[0]), 3600, "25 pictures a second, over the seam as well");
    }
    for pair in picture_times(stream, AUDIO).windows(2) {
        let frames = pair[1].distance(pair[0]) as f64 / 1920.0;
        assert!(frames.fract() == 0.0 && (1.0..=20.0).contains(&frames), "whole sound frames: {frames}");
    }
}

#[test]
fn the_first_pass_goes_out_as_it_is() {
    let clip = clip();
    assert_eq!(played(&clip, 3)[..clip.len()], clip);
}

#[test]
fn passes_join_without_a_seam() {
    assert_seamless(&played(&clip(), 5));
}

#[test]
fn passes_join_where_the_clocks_wrap() {
    // The wrap falls in the second pass.
    assert_seamless(&played(&shifted(&clip(), Pcr::MODULUS - 12 * Pcr::HZ), 3));
}

#[test]
fn a_file_cut_anywhere_still_runs_forward() {
    let clip = clip();
    for (from, to) in [(0, 3000), (777, 5001), (1234, 9999)] {
        let stream = played(&clip[from * PACKET..to * PACKET], 4);
        assert_counters_follow(&stream);
        for pair in references(&stream).windows(2) {
            let step = Duration::from_micros(pair[1].1.since(pair[0].1) / 27);
            // A cut within a picture can leave its time ahead of the clock: the clock then waits for it.
            assert!(step > Duration::ZERO && step <= Duration::from_millis(540), "{step:?} in {from}..{to}");
        }
    }
}

#[test]
fn a_stream_without_a_clock_cannot_loop() {
    let mut looper = Looper::default();
    for packet in clip().chunks_exact(PACKET).filter(|packet| ts::pcr(packet).is_none()) {
        looper.rewrite(&mut packet.to_vec());
    }
    assert!(looper.next_pass().is_err());
}

#[test]
fn the_clip_is_paced_at_its_own_rate() {
    let stream = played(&clip(), 3);
    let mut pacer = Pacer::default();
    stream.chunks_exact(PACKET).for_each(|packet| pacer.push(packet));
    pacer.finish().unwrap();
    let dues: Vec<_> = std::iter::from_fn(|| pacer.poll()).collect();
    assert_eq!(dues.iter().map(|due| due.payload.len()).sum::<usize>(), stream.len());
    // 1316 bytes at 2 Mbit/s are 5.264 ms; across the seam the rate may differ for the length of one reference period.
    let steps: Vec<f64> = dues.windows(2).map(|pair| (pair[1].at - pair[0].at).as_secs_f64() * 1e3).collect();
    let uneven = steps.iter().filter(|step| (**step - 5.264).abs() > 0.01).count();
    assert!(uneven <= 2 * 6, "{uneven} of {} steps are uneven", steps.len());
    assert!(steps.iter().all(|step| *step < 10.0));
    let length = dues.last().unwrap().at.as_secs_f64();
    assert!((length - 24.0).abs() < 0.02, "{length} s");
}
