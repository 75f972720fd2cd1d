//! Fuzz targets of what encoders and other people's files bring: RTP, and transport streams as they are paced, looped and looked at.

use crate::fuzz_drawn::Reader;
use bytes::Bytes;
use link::Instant;
use node::ts::health::{TsHealth, TsMeter};
use node::ts::{PACKET, SYNC};
use source::playback::Playback;
use source::rtp::Unwrapper;
use source::url::{Rtp, RtpHeader};
use std::time::Duration;

/// Packets of RTP that can wait for those before them.
const MOST_EARLY: u64 = 512;

/// Datagrams to an RTP input, good and bad, in any order, from two senders, at times of the fuzzer's choosing: each leaves once or is counted as dropped, times never go back, what
/// waits is bounded, and where headers are kept nothing is changed.
pub fn rtp(data: &[u8]) {
    let mut data = Reader(data);
    let options = data.u8();
    let header = [RtpHeader::Auto, RtpHeader::Strip, RtpHeader::Keep][usize::from(options % 3)];
    let reorder = Duration::from_millis(u64::from(options >> 4) * 3);
    let mut unwrapper = Unwrapper::new(Rtp { header, reorder });
    let (mut now, mut last) = (Instant::ORIGIN, Instant::ORIGIN);
    let (mut came, mut left) = (0_u64, 0_u64);
    while !data.is_empty() {
        now += Duration::from_micros(u64::from(data.u8()) * 100);
        let datagram = datagram(&mut data);
        unwrapper.push(now, datagram.clone());
        came += 1;
        if header == RtpHeader::Keep {
            assert_eq!(unwrapper.poll(), Some((now, datagram)));
            (left, last) = (left + 1, now);
        }
        unwrapper.handle_timeout(now);
        left += drained(&mut unwrapper, &mut last);
        assert!(came - left - unwrapper.counters().rtp_dropped <= MOST_EARLY);
    }
    unwrapper.handle_timeout(now + Duration::from_secs(1));
    left += drained(&mut unwrapper, &mut last);
    assert_eq!(left + unwrapper.counters().rtp_dropped, came, "{:?}", unwrapper.counters());
    assert_eq!(unwrapper.poll_timeout(), None);
}

/// How many leave, none before `last`.
fn drained(unwrapper: &mut Unwrapper, last: &mut Instant) -> u64 {
    let mut count = 0;
    while let Some((at, _)) = unwrapper.poll() {
        assert!(at >= *last);
        (*last, count) = (at, count + 1);
    }
    count
}

/// The next datagram: bytes of the fuzzer's, or such behind a header of one of two senders.
fn datagram(data: &mut Reader<'_>) -> Bytes {
    let (kind, length) = (data.u8(), usize::from(data.u8()));
    if kind & 1 == 0 {
        return Bytes::copy_from_slice(data.bytes(length));
    }
    let [high, low] = data.u16().to_be_bytes();
    let mut datagram = vec![0x80, if kind & 2 == 0 { 33 } else { 96 }, high, low, 0, 0, 0, 0, 0, 0, 0, kind >> 2 & 1];
    if kind & 8 == 0 {
        datagram.push(SYNC);
        datagram.extend_from_slice(data.bytes(3));
        datagram.resize(12 + PACKET, 0xFF);
    } else {
        datagram.extend_from_slice(data.bytes(length));
    }
    datagram.into()
}

/// Bytes that are a transport stream or not: looked at as a relay does, and played by their own clock, once or over again. Counts only grow, nothing of what has a clock is lost
/// or becomes longer, and no payload is due before the one ahead of it.
pub fn transport_stream(data: &[u8]) {
    let Some((choice, data)) = data.split_first() else { return };
    let passes = choice & 3;
    look(data, [7 * PACKET, PACKET, 100][usize::from(choice >> 2) % 3]);
    let mut playback = Playback::default();
    let (mut pushed, mut played, mut last) = (0, 0, Duration::ZERO);
    for pass in 0..=passes {
        if pass > 0 && playback.rewind().is_err() {
            return;
        }
        for piece in data.chunks(701) {
            if playback.push(piece).is_err() {
                return;
            }
            pushed += piece.len();
            play(&mut playback, &mut played, &mut last);
        }
        assert_eq!(playback.loops(), u64::from(pass));
    }
    if playback.finish().is_ok() {
        play(&mut playback, &mut played, &mut last);
        assert_eq!(played, pushed);
    }
}

fn play(playback: &mut Playback, played: &mut usize, last: &mut Duration) {
    while let Some(due) = playback.poll() {
        assert!(due.at >= *last && !due.payload.is_empty());
        *last = due.at;
        *played += due.payload.len();
    }
}

/// As payloads of one size, at times that say nothing of their clocks.
fn look(data: &[u8], size: usize) {
    let (mut meter, mut now, mut packets, mut errors) = (TsMeter::default(), Instant::ORIGIN, 0, 0);
    for payload in data.chunks(size) {
        // The first byte is the same in every packet; the last one is the fuzzer's to choose.
        let choice = payload.last().copied().unwrap_or_default();
        now += Duration::from_millis(u64::from(choice));
        meter.feed(now, payload);
        match choice % 64 {
            0 => meter.restart(),
            1 => meter.skip(now),
            _ => {}
        }
        let health: TsHealth = meter.health();
        assert!(health.packets >= packets && health.errors() >= errors);
        (packets, errors) = (health.packets, health.errors());
        let measured = [health.pcr_interval_ms, health.pcr_jitter_ms];
        assert!(measured.into_iter().flatten().all(|ms| ms.is_finite() && ms >= 0.0));
    }
}
