use super::*;
use proptest::prelude::*;

fn name(text: &str) -> StreamName {
    text.parse().unwrap()
}

fn keys(epoch: u8) -> StreamKeys {
    StreamKeys::single(epoch, Secret::new([epoch; 32]))
}

/// Two epochs, `in_use` of them in use.
fn both(in_use: u8) -> StreamKeys {
    use base64::Engine;
    let secret = |byte: u8| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode([byte; 32]);
    StreamKeys::parse(&format!("use {in_use}\nepoch 1 abk1.{}\nepoch 2 abk1.{}\n", secret(1), secret(2))).unwrap()
}

const LIFE: Incarnation = Incarnation(0x0102_0304_0506_0708);

fn sealer() -> Sealer {
    Sealer::new(keys(1), name("news/main"), LIFE)
}

fn opener() -> Opener {
    Opener::new(keys(1), name("news/main"))
}

fn marks(seq: u32) -> Marks {
    Marks { seq: StreamSeq(seq), media_time: MediaTime(seq.wrapping_mul(90)), flags: Flags::default() }
}

fn sealed(seq: u32, payload: &[u8]) -> Bytes {
    sealer().seal(Content::Ts, &marks(seq), Bytes::copy_from_slice(payload)).unwrap()
}

proptest! {
    #[test]
    fn what_is_sealed_opens_to_the_same(
        packets in prop::collection::vec((1u32..1 << 20, any::<u32>(), any::<(bool, bool, bool)>(), prop::collection::vec(any::<u8>(), 0..1400)), 1..20),
        first in any::<u32>(),
    ) {
        let (mut sealer, mut opener, mut seq) = (sealer(), opener(), StreamSeq(first));
        for (step, media_time, (high_priority, end, ts), payload) in packets {
            seq = seq.plus(step);
            let marks = Marks { seq, media_time: MediaTime(media_time), flags: Flags { high_priority, end } };
            let content = if ts { Content::Ts } else { Content::Datagrams };
            let sealed = sealer.seal(content, &marks, payload.clone().into()).unwrap();
            prop_assert_eq!(sealed.len(), payload.len() + OVERHEAD);
            if payload.len() >= 8 {
                prop_assert!(!sealed.windows(8).any(|window| window == &payload[..8]));
            }
            prop_assert_eq!(opener.open(LIFE, &marks, sealed), Ok((content, payload.into())));
        }
    }

    #[test]
    fn any_bytes_are_refused_and_leave_no_trace(bytes in prop::collection::vec(any::<u8>(), 0..200), life in any::<u64>()) {
        let mut opener = opener();
        prop_assert!(opener.open(Incarnation(life), &marks(5), bytes.into()).is_err());
        prop_assert!(opener.lives.is_empty() && opener.past.is_empty());
    }
}

#[test]
fn no_changed_byte_passes() {
    let clean = sealed(7, b"every byte of it counts");
    for at in 0..clean.len() {
        for bit in 0..8 {
            let mut changed = clean.to_vec();
            changed[at] ^= 1 << bit;
            assert!(opener().open(LIFE, &marks(7), changed.into()).is_err(), "byte {at}, bit {bit}");
        }
    }
    for end in 0..clean.len() {
        assert!(opener().open(LIFE, &marks(7), clean.slice(..end)).is_err(), "cut to {end}");
        assert!(opener().open(LIFE, &marks(7), clean.slice(clean.len() - end..)).is_err(), "the last {end}");
    }
    let longer = [&clean[..], &[0]].concat();
    assert!(opener().open(LIFE, &marks(7), longer.into()).is_err());
}

#[test]
fn nothing_can_be_given_another_place_or_mark() {
    let clean = sealed(7, b"payload");
    let flag = |high_priority, end| Marks { flags: Flags { high_priority, end }, ..marks(7) };
    for (what, relabelled) in [
        ("number", Marks { seq: StreamSeq(8), ..marks(7) }),
        ("media time", Marks { media_time: MediaTime(1), ..marks(7) }),
        ("priority", flag(true, false)),
        ("end", flag(false, true)),
    ] {
        assert_eq!(opener().open(LIFE, &relabelled, clean.clone()), Err(NotOpened::Tampered), "{what}");
    }
    assert_eq!(opener().open(Incarnation(1), &marks(7), clean.clone()), Err(NotOpened::Tampered));
    let mut other_stream = Opener::new(keys(1), name("news/other"));
    assert_eq!(other_stream.open(LIFE, &marks(7), clean.clone()), Err(NotOpened::Tampered));
    let mut other_secret = Opener::new(StreamKeys::single(1, Secret::new([9; 32])), name("news/main"));
    assert_eq!(other_secret.open(LIFE, &marks(7), clean.clone()), Err(NotOpened::Tampered));
    // The same bytes under another epoch's number, and as another turn.
    let mut opener = Opener::new(both(1), name("news/main"));
    for (at, with) in [(clean.len() - 2, 2), (clean.len() - 3, 1)] {
        let mut moved = clean.to_vec();
        moved[at] = with;
        assert_eq!(opener.open(LIFE, &marks(7), moved.into()), Err(NotOpened::Tampered));
    }
    assert_eq!(opener.open(LIFE, &marks(7), clean), Ok((Content::Ts, Bytes::from_static(b"payload"))));
}

#[test]
fn a_replay_is_refused_however_old() {
    let (mut sealer, mut opener) = (sealer(), opener());
    let far = WINDOW as u32 + 10;
    let mut recorded = Vec::new();
    for seq in [3, 4, far] {
        let payload = sealer.seal(Content::Ts, &marks(seq), Bytes::from_static(b"x")).unwrap();
        recorded.push((seq, payload));
    }
    for (seq, payload) in &recorded {
        assert!(opener.open(LIFE, &marks(*seq), payload.clone()).is_ok());
    }
    let again: Vec<_> =
        recorded.iter().map(|(seq, payload)| opener.open(LIFE, &marks(*seq), payload.clone())).collect();
    let (old, copy) = (Err(NotOpened::Replayed), Err(NotOpened::Duplicate));
    assert_eq!(again, [old.clone(), old, copy]);
}

#[test]
fn a_life_that_is_over_does_not_come_back() {
    let mut opener = opener();
    let first = sealed(1, b"x");
    assert!(opener.open(LIFE, &marks(1), first.clone()).is_ok());
    for life in 0..LIVES as u64 {
        let mut sealer = Sealer::new(keys(1), name("news/main"), Incarnation(life));
        let payload = sealer.seal(Content::Ts, &marks(1), Bytes::from_static(b"y")).unwrap();
        assert!(opener.open(Incarnation(life), &marks(1), payload).is_ok());
    }
    assert!(!opener.knows(LIFE));
    assert_eq!(opener.open(LIFE, &marks(1), first), Err(NotOpened::Replayed));
}

#[test]
fn no_number_is_sealed_twice() {
    let mut sealer = sealer();
    let mut seal = |seq| sealer.seal(Content::Ts, &marks(seq), Bytes::from_static(b"x")).map(drop);
    assert_eq!(
        (seal(5), seal(6), seal(6), seal(5)),
        (Ok(()), Ok(()), Err(NotSealed::NumberUsed), Err(NotSealed::NumberUsed))
    );
}

#[test]
fn the_sequence_may_run_through_its_32_bits_256_times() {
    let (mut sealer, mut opener) = (sealer(), opener());
    let third = u32::MAX / 3;
    let mut seq = StreamSeq(0);
    for turn in 0..=u8::MAX {
        for step in 0..3 {
            let payload = sealer.seal(Content::Ts, &marks(seq.0), Bytes::from_static(b"x")).unwrap();
            assert_eq!(payload[payload.len() - 3], turn);
            assert!(opener.open(LIFE, &marks(seq.0), payload).is_ok());
            seq = if step == 2 { StreamSeq(0) } else { seq.plus(third) };
        }
    }
    let last = sealer.seal(Content::Ts, &marks(0), Bytes::from_static(b"x"));
    assert_eq!(last, Err(NotSealed::NumberUsed));
}

#[test]
fn a_rotation_is_followed_and_an_epoch_that_is_not_there_is_named() {
    let (mut sealer, mut opener) = (sealer(), opener());
    let mut seal = |keys: Option<StreamKeys>, seq| {
        keys.into_iter().for_each(|keys| sealer.set_keys(keys));
        sealer.seal(Content::Ts, &marks(seq), Bytes::from_static(b"x")).unwrap()
    };
    let (one, two, three) = (seal(None, 1), seal(Some(both(1)), 2), seal(Some(both(2)), 3));
    assert!(opener.open(LIFE, &marks(1), one).is_ok());
    assert_eq!(opener.open(LIFE, &marks(3), three.clone()), Err(NotOpened::UnknownEpoch(2)));
    opener.set_keys(both(1));
    assert!(opener.open(LIFE, &marks(3), three).is_ok(), "the key came, and the stream goes on");
    assert!(opener.open(LIFE, &marks(2), two).is_ok(), "out of order around the rotation");
}

#[test]
fn sealing_and_opening_need_no_memory_where_there_is_room() {
    let mut own = BytesMut::with_capacity(1316 + OVERHEAD);
    own.extend_from_slice(&[7; 1316]);
    let at = own.as_ptr();
    let sealed = sealer().seal(Content::Ts, &marks(1), own.freeze()).unwrap();
    assert_eq!(sealed.as_ptr(), at);
    let (_, opened) = opener().open(LIFE, &marks(1), sealed).unwrap();
    assert_eq!((opened.as_ptr(), opened.len()), (at, 1316));
    // What others hold is left as it is.
    let shared = Bytes::from(vec![7; 1316]);
    let sealed = sealer().seal(Content::Ts, &marks(1), shared.clone()).unwrap();
    assert!(shared.iter().all(|byte| *byte == 7) && sealed[..1316] != shared[..]);
}

/// The format as it is on the wire: what changes it makes old and new programs strangers.
#[test]
fn the_format_stays_as_it_is() {
    let sealed = sealed(7, b"anabranch");
    let hex: String = sealed.iter().map(|byte| format!("{byte:02x}")).collect();
    // Made by another implementation (pyca/cryptography) after the description of this module.
    assert_eq!(hex, "137d3ae949df38d8486b76b39ce4fa5b21f8162518606891b9000111");
}

/// What sealing and opening cost: `cargo test -p anabranch-node payload::tests::cost -- --ignored --nocapture`. Time on the processor, so that
/// what else the machine does matters little.
#[test]
#[ignore = "a measurement"]
fn cost() {
    const ROUND: u32 = 1_000;
    const ROUNDS: u32 = 100;
    let on_cpu = || {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        text.split(' ').next().unwrap().parse::<u64>().unwrap()
    };
    let (mut sealer, mut opener) = (sealer(), opener());
    let (mut sealing, mut opening) = (0, 0);
    for round in 0..ROUNDS {
        let numbers = round * ROUND..(round + 1) * ROUND;
        let clear: Vec<Bytes> =
            numbers.clone().map(|_| own(Bytes::from_static(&[7; 1316]), OVERHEAD).freeze()).collect();
        let start = on_cpu();
        let seal = |(payload, seq)| sealer.seal(Content::Ts, &marks(seq), payload).unwrap();
        let sealed: Vec<Bytes> = clear.into_iter().zip(numbers.clone()).map(seal).collect();
        let between = on_cpu();
        for (payload, seq) in sealed.into_iter().zip(numbers) {
            std::hint::black_box(opener.open(LIFE, &marks(seq), payload).unwrap());
        }
        opening += on_cpu() - between;
        sealing += between - start;
    }
    let each = |total: u64| total / u64::from(ROUND * ROUNDS);
    println!("1316 bytes: {OVERHEAD} more on the wire, {} ns to seal, {} ns to open", each(sealing), each(opening));
}
