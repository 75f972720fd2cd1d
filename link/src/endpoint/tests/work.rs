//! What a peer that holds to no rule can make this end do, counted in steps: tiny frames make little work, however many there are.

use super::*;

/// Frames come so far apart, for so long.
const APART: Duration = Duration::from_micros(10);
const FRAMES: u32 = 100_000;
/// A window as long as a decoder has equations.
const WINDOW: u16 = 256;
/// More symbols than any end keeps.
const LEAP: u32 = 1 << 15;

fn start() -> (Instant, Link) {
    let now = Instant::from_micros(10_000_000);
    (now, Link::new(now, config(RepairMode::Auto)))
}

fn probe(number: u32, next_symbol: u32, kept: u16) -> Bytes {
    let mut out = BytesMut::new();
    Probe { link_seq: LinkSeq(number), sent: 0, horizon: frame::Horizon { next_symbol, kept } }.put(&mut out);
    out.freeze()
}

fn media(number: u32, symbol: u32) -> Bytes {
    let mut out = BytesMut::new();
    frame::Media::put_prefix(&mut out, LinkSeq(number), symbol, 0);
    out.extend_from_slice(&[0; frame::BODY_HEADER]);
    out.freeze()
}

fn window(number: u32, base: u32) -> Bytes {
    let mut out = BytesMut::new();
    frame::Repair::put_window(&mut out, LinkSeq(number), 0, base, WINDOW - 1, WINDOW);
    out.extend_from_slice(&[3; 2 + frame::BODY_HEADER]);
    out.freeze()
}

/// Feeds `FRAMES` frames; returns how many of them were refused.
fn flood(now: &mut Instant, link: &mut Link, frame: impl Fn(u32) -> Bytes) -> u64 {
    for number in 0..FRAMES {
        *now += APART;
        link.handle_datagram(*now, frame(number));
        link.handle_timeout(*now);
        while link.poll_delivery().is_some() {}
    }
    link.stats().malformed
}

/// Whether media that comes in order is taken.
fn takes_media(now: Instant, link: &mut Link, symbol: u32) -> bool {
    (0..10).for_each(|next| link.handle_datagram(now, media(FRAMES + next, symbol + next)));
    std::iter::from_fn(|| link.poll_delivery()).count() == 10
}

#[test]
fn a_leap_over_symbols_that_nobody_keeps_costs_nothing() {
    for kept in [0, 2] {
        let (mut now, mut link) = start();
        assert_eq!(flood(&mut now, &mut link, |number| probe(number, number * LEAP, kept)), 0);
        assert_eq!(link.receiver.symbols.held(), 2 * usize::from(kept));
        assert_eq!(link.stats().unrecovered, u64::from(FRAMES - 1) * u64::from(LEAP));
        let (shown, _) = link.receiver.symbols.work();
        assert!(shown <= u64::from(FRAMES) * u64::from(kept), "{shown} symbols of {kept} each");
        assert!(takes_media(now, &mut link, (FRAMES - 1) * LEAP));
    }
}

#[test]
fn leaps_show_no_more_symbols_than_time_allows() {
    let leap = |number: u32| number.wrapping_mul(LEAP);
    let frames: [&dyn Fn(u32) -> Bytes; 4] = [
        &|number| probe(number, leap(number), LEAP as u16),
        &|number| probe(number, leap(number), u16::MAX),
        &|number| media(number, leap(number)),
        &|number| window(number, leap(number)),
    ];
    for (kind, frame) in frames.into_iter().enumerate() {
        let (mut now, mut link) = start();
        let refused = flood(&mut now, &mut link, frame);
        assert!(refused > u64::from(FRAMES) / 2, "{refused} refused of kind {kind}");
        let (shown, _) = link.receiver.symbols.work();
        assert!(shown <= 2 * u64::from(LEAP) + 250_000, "{shown} symbols of kind {kind}");
        now += Duration::from_secs(1);
        assert!(takes_media(now, &mut link, leap(FRAMES)), "kind {kind}");
    }
}

#[test]
fn equations_that_never_solve_take_no_more_work_than_time_allows() {
    let (mut now, mut link) = start();
    let refused = flood(&mut now, &mut link, |number| window(number, 1000));
    assert!(refused > u64::from(FRAMES) / 2, "{refused} refused");
    let (_, work) = link.receiver.symbols.work();
    assert!(work < 50_000_000, "{work} steps");
    assert!(takes_media(now, &mut link, 1000 + u32::from(WINDOW)));
}

#[test]
fn what_was_overtaken_by_more_than_is_remembered_still_counts_once() {
    const OTHERS: u32 = 3_000;
    let (mut now, mut link) = start();
    // Symbol 2 is late, and so is the repair of symbol 3, which is lost.
    let repair = |number: u32, symbol: u32| {
        let mut out = BytesMut::new();
        frame::Repair::put_set(&mut out, LinkSeq(number), 0, true, 0, [symbol].into_iter());
        out.extend_from_slice(&(frame::BODY_HEADER as u16).to_be_bytes());
        out.extend_from_slice(&[0; frame::BODY_HEADER]);
        out.freeze()
    };
    let late = [media(2, 2), repair(5, 3)];
    let mut came = 0;
    for number in (0..OTHERS).filter(|number| ![2, 3, 5].contains(number)) {
        now += APART;
        link.handle_datagram(now, media(number, number - u32::from(number > 5)));
        came += std::iter::from_fn(|| link.poll_delivery()).count();
    }
    assert_eq!(came as u32, OTHERS - 3);
    let (received, quality) = (link.stats().wire_received, link.quality(now));
    let mut old = |frame: &Bytes| {
        link.handle_datagram(now, frame.clone());
        std::iter::from_fn(|| link.poll_delivery()).count()
    };
    assert_eq!(late.each_ref().map(&mut old), [1, 1]);
    for number in 0..OTHERS {
        assert_eq!(old(&media(number, number)) + old(&window(number, number)), 0);
    }
    assert_eq!(late.each_ref().map(&mut old), [0, 0]);
    let (shown, work) = link.receiver.symbols.work();
    assert_eq!((shown, work), (2, 0), "what is known makes no work");
    assert_eq!((link.stats().wire_received, link.quality(now)), (received, quality));
}

#[test]
fn reports_of_nothing_but_losses_are_read_no_more_than_time_allows() {
    const PACKETS: u32 = 1 << 15;
    let (mut now, mut link) = start();
    let mut out = BytesMut::new();
    let mut next_symbol = 0;
    for seq in 0..PACKETS {
        let packet = Packet {
            target: None,
            stream: StreamHandle(1),
            seq: StreamSeq(seq),
            media_time: MediaTime(0),
            age: Duration::ZERO,
            label: Label(0),
            flags: Flags::default(),
            payload: Bytes::new(),
            recover_until: now + Duration::from_secs(60),
        };
        link.send(now, packet).expect("an idle link takes packets");
        while link.poll_transmit(now, &mut out).is_some() {
            if let Ok(Frame::Media(media)) = frame::decode(&out) {
                next_symbol = media.symbol.wrapping_add(1);
            }
            out.clear();
        }
    }
    let refused = flood(&mut now, &mut link, |number| {
        let mut out = BytesMut::new();
        let (horizon, known) = (frame::Horizon::default(), (next_symbol, PACKETS as u16));
        let echo = Echo { stamp: 0, arrived: 0 };
        frame::Feedback::put(&mut out, LinkSeq(number), 0, horizon, echo, 0, LinkSeq(0), &[], known, &[(0, PACKETS)]);
        out.freeze()
    });
    assert!(refused > u64::from(FRAMES) / 2, "{refused} refused");
    let work = link.sender.work();
    assert!(work < 10_000_000, "{work} symbols looked at");
}

#[test]
fn media_of_a_peer_that_has_none_to_send_are_not_looked_at() {
    let now = Instant::from_micros(10_000_000);
    let mut link = Link::new(now, LinkConfig { takes_media: false, ..config(RepairMode::Auto) });
    let frames = [probe(1, 5, 5), media(2, 5), window(3, 6)];
    frames.into_iter().for_each(|frame| link.handle_datagram(now, frame));
    assert_eq!((link.receiver.symbols.held(), link.stats().malformed), (0, 2));
    assert!(link.poll_delivery().is_none());
}
