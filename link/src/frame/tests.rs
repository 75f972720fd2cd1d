use super::*;
use proptest::collection::vec;
use proptest::prelude::*;

fn body() -> impl Strategy<Value = Body> {
    let part = prop_oneof![Just(Part::Whole), Just(Part::First), Just(Part::Second)];
    let ids = (any::<u32>(), any::<u16>(), any::<u32>(), any::<u32>(), any::<u32>());
    (any::<bool>(), any::<bool>(), part, ids).prop_map(|(high_priority, end, part, ids)| Body {
        flags: Flags { high_priority, end },
        part,
        birth: ids.0,
        stream: StreamHandle(ids.1),
        seq: StreamSeq(ids.2),
        media_time: MediaTime(ids.3),
        label: Label(ids.4),
    })
}

proptest! {
    #[test]
    fn any_bytes_decode_or_fail_without_panic(bytes in vec(any::<u8>(), 0..200), kind in 0u8..8) {
        let _ = decode(&bytes);
        let mut framed = vec![VERSION << 4 | kind];
        framed.extend_from_slice(&bytes);
        if let Ok(Frame::Repair(repair)) = decode(&framed) {
            prop_assert_eq!(repair.symbols.offsets().count(), repair.symbols.count());
        }
    }

    #[test]
    fn media_round_trip(body in body(), payload in vec(any::<u8>(), 0..64), seq: u32, symbol: u32, sent: u32) {
        let mut out = BytesMut::new();
        Media::put_prefix(&mut out, LinkSeq(seq), symbol, sent);
        out.extend_from_slice(&body.encode());
        out.extend_from_slice(&payload);
        prop_assert_eq!(out.len(), MEDIA_HEADER + payload.len());
        let Ok(Frame::Media(media)) = decode(&out) else { panic!("no media frame") };
        prop_assert_eq!((media.link_seq, media.symbol, media.sent), (LinkSeq(seq), symbol, sent));
        prop_assert_eq!(Body::decode(media.body), Ok(body));
        prop_assert_eq!(&media.body[BODY_HEADER..], &payload[..]);
    }

    #[test]
    fn set_round_trip(base: u32, gaps in vec(1u32..60_000, 0..MAX_SET - 1), seq: u32, sent: u32, ahead: u16, fec: bool) {
        let mut symbols = vec![base];
        for gap in &gaps {
            symbols.push(symbols[symbols.len() - 1].wrapping_add(*gap));
        }
        let mut out = BytesMut::new();
        Repair::put_set(&mut out, LinkSeq(seq), sent, fec, ahead, symbols.iter().copied());
        let coded = [7u8; 2 + BODY_HEADER];
        out.extend_from_slice(&coded);
        let Ok(Frame::Repair(repair)) = decode(&out) else { panic!("no repair frame") };
        prop_assert_eq!((repair.link_seq, repair.sent, repair.ahead), (LinkSeq(seq), sent, ahead));
        prop_assert_eq!((repair.ahead_of_loss, repair.coded), (fec, &coded[..]));
        let decoded: Vec<u32> = repair.symbols.offsets().map(|offset| base.wrapping_add(offset)).collect();
        prop_assert_eq!(decoded, symbols);
        let gaps: usize = gaps.iter().map(|gap| gap_len(u64::from(*gap))).sum();
        prop_assert_eq!(out.len(), SET_PREFIX + gaps + coded.len());
    }

    #[test]
    fn window_round_trip(base: u32, count in 1u16..=MAX_WINDOW as u16, seq: u32) {
        let mut out = BytesMut::new();
        Repair::put_window(&mut out, LinkSeq(seq), 1, base, 9, count);
        out.extend_from_slice(&[0; 40]);
        let Ok(Frame::Repair(repair)) = decode(&out) else { panic!("no repair frame") };
        prop_assert_eq!(repair.symbols, Symbols::Window { base, count });
        prop_assert!(repair.symbols.offsets().eq(0..u32::from(count)));
    }

    #[test]
    fn feedback_round_trip(
        numbers: [u32; 6], kept: u16, lateness: u16,
        runs in vec(any::<u32>(), 0..=MAX_RUNS), missing in vec(any::<(u32, u32)>(), 0..=MAX_GAPS),
    ) {
        let horizon = Horizon { next_symbol: numbers[0], kept };
        let echo = Echo { stamp: numbers[1], arrived: numbers[2] };
        let mut out = BytesMut::new();
        let (settled, known) = (LinkSeq(numbers[3]), (numbers[4], kept ^ 1));
        Feedback::put(&mut out, LinkSeq(numbers[5]), 5, horizon, echo, lateness, settled, &runs, known, &missing);
        let Ok(Frame::Feedback(feedback)) = decode(&out) else { panic!("no feedback frame") };
        prop_assert_eq!((feedback.horizon, feedback.echo), (horizon, echo));
        prop_assert_eq!((feedback.settled, feedback.lateness), (settled, lateness));
        prop_assert_eq!((feedback.known_up_to, feedback.known_span), known);
        prop_assert!(feedback.runs.eq(runs));
        prop_assert!(feedback.missing.eq(missing.iter().flat_map(|(skip, length)| [*skip, *length])));
        out.put_u8(0);
        prop_assert_eq!(decode(&out), Err(Malformed::Field("trailing bytes")));
    }

    #[test]
    fn probe_round_trip(seq: u32, sent: u32, next_symbol: u32, kept: u16) {
        let probe = Probe { link_seq: LinkSeq(seq), sent, horizon: Horizon { next_symbol, kept } };
        let mut out = BytesMut::new();
        probe.put(&mut out);
        prop_assert_eq!(decode(&out), Ok(Frame::Probe(probe)));
        prop_assert_eq!(decode(&out[..out.len() - 1]), Err(Malformed::Truncated));
    }
}

#[test]
fn a_media_header_is_at_most_32_bytes() {
    const { assert!(MEDIA_HEADER <= 32) }
}

#[test]
fn other_versions_and_kinds_are_refused() {
    assert_eq!(decode(&[0x21]), Err(Malformed::Version(2)));
    assert_eq!(decode(&[0x1f]), Err(Malformed::Kind(15)));
    assert_eq!(decode(&[]), Err(Malformed::Truncated));
}
