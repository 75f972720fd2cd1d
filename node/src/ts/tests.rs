use super::testing::{packet, pes_packet};
use super::*;
use mpeg2ts_reader::packet::Packet;
use proptest::prelude::*;

proptest! {
    #[test]
    fn clock_references_are_read_as_the_reference_reader_does(ticks in 0..Pcr::MODULUS, counter in 0u8..16) {
        let bytes = packet(0x100, counter, Some(Pcr(ticks)));
        prop_assert_eq!(pcr(&bytes), Some(Pcr(ticks)));
        let reader = Packet::new(&bytes);
        let reference = reader.adaptation_field().unwrap().pcr().unwrap();
        prop_assert_eq!(u64::from(reference), ticks);
        prop_assert_eq!(u16::from(reader.pid()), pid(&bytes));
        prop_assert_eq!(reader.continuity_counter().count(), counter);
    }

    #[test]
    fn times_are_moved_and_nothing_else(pts in 0..1u64 << 33, dts in proptest::option::of(0..1u64 << 33), later: u64) {
        let before = pes_packet(0x100, 3, Some(Pcr(1)), Pts(pts), dts.map(Pts));
        let times = PesTimes::find(&before).unwrap();
        prop_assert_eq!((times.pts(&before), times.dts(&before)), (Pts(pts), dts.map(Pts)));
        let mut after = before;
        times.delay(&mut after, later);
        let expected = pes_packet(0x100, 3, Some(Pcr(1)), Pts(pts).plus(later), dts.map(|dts| Pts(dts).plus(later)));
        prop_assert_eq!(after, expected);
    }

    #[test]
    fn no_content_panics(bytes in proptest::collection::vec(any::<u8>(), PACKET)) {
        let mut bytes = bytes;
        set_pcr(&mut bytes, Pcr(1));
        let _ = (pcr(&bytes), discontinuity(&bytes), Continuity::default().follows(&bytes));
        bytes[0] = SYNC;
        TsMeter::default().feed(link::Instant::ORIGIN, &bytes);
        bytes[1..3].copy_from_slice(&[0x40, 0]);
        TsMeter::default().feed(link::Instant::ORIGIN, &bytes);
        if let Some(times) = PesTimes::find(&bytes) {
            times.delay(&mut bytes, 1);
        }
    }
}

#[test]
fn differences_reach_over_the_wrap() {
    let late = Pcr(Pcr::MODULUS - 10);
    assert_eq!(late.plus(25), Pcr(15));
    assert_eq!(Pcr(15).since(late), 25);
    assert_eq!(Pts(5).distance(Pts((1 << 33) - 5)), 10);
    assert_eq!(Pts((1 << 33) - 5).distance(Pts(5)), -10);
}

#[test]
fn gaps_in_the_counters_are_seen_and_repeats_are_not_gaps() {
    let mut continuity = Continuity::default();
    let mut follows = |counter: u8| continuity.follows(&packet(0x100, counter, None));
    assert!(follows(14) && follows(15) && follows(0) && follows(0) && follows(1));
    assert!(!follows(3));
    assert!(follows(4));
    let mut adaptation_only = packet(0x100, 4, Some(Pcr(0)));
    adaptation_only[3] &= !0x10;
    assert!(continuity.follows(&adaptation_only));
    let mut jump = packet(0x100, 9, Some(Pcr(0)));
    jump[5] |= 0x80;
    assert!(continuity.follows(&jump));
}
