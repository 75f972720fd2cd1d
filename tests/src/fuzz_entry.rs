//! What the fuzz targets of `tests/fuzz` call, and what the corpus replay calls: each takes any bytes, must return, and must not panic.
//!
//! Beyond that each asserts what must hold whatever comes in, so that a finding is more often a wrong answer than a crash.

use crate::fuzz_drawn::Reader;
use bytes::{Bytes, BytesMut};
use link::frame::{self, Frame};
use link::policy::{Policy, RepairMode};
use link::{Flags, Instant, Label, Link, LinkConfig, MediaTime, Packet, Recovery, StreamHandle, StreamSeq};
use node::control::Content;
use node::payload::{Marks, OVERHEAD, Opener, Sealer, Secret, StreamKeys};
use node::trust::{Authority, RevocationList};
use sink::playout::{Arrival, Event, Playout, PlayoutConfig};
use source::packetize::Packetizer;
use std::time::Duration;
use topology::lsdb::Incarnation;
use topology::{NodeName, StreamName, StreamPattern};

/// A target: takes any bytes.
pub type Entry = fn(&[u8]);

/// All targets, by the names of their files and corpora.
pub const ENTRIES: [(&str, Entry); 14] = [
    ("link_frame", link_frame),
    ("link_session", link_session),
    ("control", control),
    ("text", text),
    ("packetize", packetize),
    ("rtp", crate::fuzz_ts::rtp),
    ("transport_stream", crate::fuzz_ts::transport_stream),
    ("playout", playout),
    ("payload", payload),
    ("revocations", revocations),
    ("relay_session", crate::fuzz_relay::relay_session),
    ("link_state", crate::fuzz_relay::link_state),
    ("handshake", crate::fuzz_trust::handshake),
    ("certificate", crate::fuzz_trust::certificate),
];

/// One datagram into the decoder of link frames.
pub fn link_frame(data: &[u8]) {
    let Ok(frame) = frame::decode(data) else { return };
    match frame {
        Frame::Media(media) => {
            let _ = frame::Body::decode(media.body);
        }
        Frame::Repair(repair) => {
            let offsets: Vec<u32> = repair.symbols.offsets().collect();
            assert_eq!(offsets.len(), repair.symbols.count());
            assert!(offsets.is_sorted());
        }
        Frame::Feedback(_) | Frame::Probe(_) | Frame::Path(_) => {}
    }
}

/// A link whose peer is honest but for what the fuzzer does to its datagrams: loses, repeats, changes, and sends others
/// in its name; at times of the fuzzer's choosing.
pub fn link_session(data: &[u8]) {
    let mut data = Reader(data);
    let mut now = Instant::from_micros(1_000_000);
    let config = |seed| LinkConfig { seed, max_history: 1 << 20, ..LinkConfig::default() };
    let (mut victim, mut peer) = (Link::new(now, config(1)), Link::new(now, config(2)));
    let mut on_the_wire: Vec<Bytes> = Vec::new();
    let mut seq = 0;
    while !data.is_empty() {
        match data.u8() % 8 {
            0 => {
                let size = usize::from(data.u16() % 1500);
                victim.handle_datagram(now, Bytes::copy_from_slice(data.bytes(size)));
            }
            1 => {
                seq += 1;
                let packet = some_packet(now, seq, &mut data);
                let link = if data.u8() % 2 == 0 { &mut peer } else { &mut victim };
                let _ = link.send(now, packet);
            }
            2 => {
                // Lost, repeated or out of order: whichever of those on the wire the fuzzer picks.
                let pick = usize::from(data.u8()) % on_the_wire.len().max(1);
                if let Some(datagram) = on_the_wire.get(pick) {
                    victim.handle_datagram(now, datagram.clone());
                }
            }
            3 => {
                let (pick, at, with) = (usize::from(data.u8()), usize::from(data.u16()), data.u8());
                if let Some(datagram) = on_the_wire.get(pick % on_the_wire.len().max(1)) {
                    let mut changed = datagram.to_vec();
                    let at = at % changed.len().max(1);
                    changed[at] ^= with;
                    victim.handle_datagram(now, changed.into());
                }
            }
            4 => now += Duration::from_micros(u64::from(data.u16())),
            5 => now += Duration::from_millis(u64::from(data.u16())),
            6 => victim.set_policy(now, some_policy(&mut data)),
            _ => on_the_wire.clear(),
        }
        for link in [&mut victim, &mut peer] {
            if link.poll_timeout().is_some_and(|(at, _)| at <= now) {
                link.handle_timeout(now);
            }
        }
        drain(&mut victim, now, &mut |_| {});
        drain(&mut peer, now, &mut |datagram| on_the_wire.push(datagram));
        let excess = on_the_wire.len().saturating_sub(64);
        on_the_wire.drain(..excess);
    }
    let _ = (victim.stats(), victim.quality(now));
}

fn some_packet(now: Instant, seq: u32, data: &mut Reader<'_>) -> Packet {
    let size = usize::from(data.u16()) % (Link::MAX_PAYLOAD + 2);
    Packet {
        target: None,
        stream: StreamHandle(u16::from(data.u8() % 4)),
        seq: StreamSeq(seq),
        media_time: MediaTime(now.as_micros() as u32),
        age: Duration::from_millis(u64::from(data.u8())),
        label: Label(0),
        flags: Flags { high_priority: seq.is_multiple_of(2), end: false },
        payload: vec![seq as u8; size].into(),
        recover_until: now + Duration::from_millis(u64::from(data.u8())),
    }
}

fn some_policy(data: &mut Reader<'_>) -> Policy {
    use RepairMode::{Arq, Auto, Duplicate, Fec, Hybrid, Off};
    let mode = [Auto, Off, Arq, Fec, Hybrid, Duplicate][usize::from(data.u8() % 6)];
    let rate = data.u32();
    Policy {
        mode,
        target_residual: f64::from(data.u8()) / 256.0,
        max_overhead: f64::from(data.u8()) / 64.0,
        capacity: (rate > 0).then_some(link::Bitrate::bps(u64::from(rate))),
    }
}

fn drain(link: &mut Link, now: Instant, sent: &mut dyn FnMut(Bytes)) {
    // One mutation can release a whole history, not more.
    let mut patience = 100_000;
    while let Some(delivery) = link.poll_delivery() {
        assert!(delivery.payload.len() <= Link::MAX_PAYLOAD);
        patience -= 1;
        assert!(patience > 0, "deliveries do not come to an end");
    }
    let mut out = BytesMut::new();
    while let Some(size) = link.poll_transmit(now, &mut out) {
        assert_eq!(size, out.len());
        sent(out.split().freeze());
        patience -= 1;
        assert!(patience > 0, "transmissions do not come to an end");
    }
}

/// One control message: what decodes encodes again to what decodes to the same, within the size allowed.
pub fn control(data: &[u8]) {
    if let Some(length) = data.first_chunk() {
        let _ = node::control::body_size(*length);
    }
    let _ = node::control::peek_version(data);
    let Ok(message) = node::control::decode(data) else { return };
    let mut encoded = Vec::new();
    node::control::encode(&message, &mut encoded).expect("what came within the size allowed leaves within it");
    let again = node::control::decode(&encoded[node::control::LENGTH..]).expect("what was encoded decodes");
    assert!(message == again);
}

/// Texts that people or peers write: names, patterns, addresses of inputs and outputs, configurations.
pub fn text(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(name) = text.parse::<StreamName>() {
        assert_eq!(name.as_str(), text);
        assert!("**".parse::<StreamPattern>().is_ok_and(|all| all.matches(&name)));
    }
    if let Ok(name) = text.parse::<NodeName>() {
        assert_eq!(name.as_str(), text);
    }
    if let Ok(pattern) = text.parse::<StreamPattern>() {
        assert_eq!(pattern.as_str(), text);
    }
    if let Ok(output) = text.parse::<sink::output::OutputSpec>() {
        assert_eq!(output.as_str(), text);
    }
    let _ = text.parse::<source::url::Input>();
    let _ = source::url::split_name(text);
    if let Ok(credentials) = authority() {
        assert!(credentials.token(text, 0).is_err(), "a token that nobody signed");
    }
    let _ = node::trust::OpsToken::parse(text);
    let _ = relay::Config::parse(text);
    let _ = sink::Config::parse(text);
}

/// A verifier of an authority that has signed nothing.
fn authority() -> Result<&'static node::trust::Verifier, node::trust::TrustError> {
    static VERIFIER: std::sync::OnceLock<node::trust::Verifier> = std::sync::OnceLock::new();
    if let Some(verifier) = VERIFIER.get() {
        return Ok(verifier);
    }
    let verifier = node::trust::Authority::trial(0)?.credentials(None)?.verifier();
    Ok(VERIFIER.get_or_init(|| verifier))
}

/// Bytes of a file or pipe in pieces: whatever they are, all of them come out, in order.
pub fn packetize(data: &[u8]) {
    for mut packetizer in [Packetizer::transport_stream(), Packetizer::bytes()] {
        let mut now = Instant::ORIGIN;
        let mut out = Vec::new();
        let mut rest = data;
        while !rest.is_empty() {
            let size = 1 + usize::from(rest[0]) * 4;
            let (piece, after) = rest.split_at(size.min(rest.len()));
            rest = after;
            packetizer.push(now, piece);
            now += Duration::from_micros(700);
            packetizer.handle_timeout(now);
            while let Some(payload) = packetizer.poll() {
                assert!((1..=Link::MAX_PAYLOAD).contains(&payload.len()));
                out.extend_from_slice(&payload);
            }
        }
        packetizer.finish();
        while let Some(payload) = packetizer.poll() {
            out.extend_from_slice(&payload);
        }
        assert!(out == data, "the bytes that came out are not those that went in");
    }
}

/// Sealed payloads under any marks, changed or not, and files of keys: what opens is what was sealed, as it was sealed, and once.
pub fn payload(data: &[u8]) {
    if let Ok(keys) = std::str::from_utf8(data).map_err(drop).and_then(|text| StreamKeys::parse(text).map_err(drop)) {
        assert!(keys.epochs().any(|epoch| epoch == keys.in_use()));
    }
    let stream: StreamName = "fuzz/payload".parse().expect("it is a stream name");
    let keys = StreamKeys::single(1, Secret::new([1; 32]));
    let mut opener = Opener::new(keys.clone(), stream.clone());
    let mut sealers =
        [1, 2].map(|life| (Incarnation(life), Sealer::new(keys.clone(), stream.clone(), Incarnation(life))));
    let (mut data, mut seq) = (Reader(data), StreamSeq(u32::MAX - 5));
    let mut opened: Vec<(Incarnation, Bytes)> = Vec::new();
    while !data.is_empty() {
        let (choice, seq_step) = (data.u8(), u32::from(data.u8()));
        let flags = Flags { high_priority: choice & 1 != 0, end: choice & 2 != 0 };
        seq = seq.plus(1 + seq_step);
        let marks = Marks { seq, media_time: MediaTime(data.u32()), flags };
        let length = usize::from(data.u8());
        let payload = Bytes::copy_from_slice(data.bytes(length));
        let (life, sealer) = &mut sealers[usize::from(choice >> 2 & 1)];
        if choice & 8 != 0 {
            // Nobody sealed it, so nobody opens it.
            assert!(opener.open(*life, &marks, payload).is_err());
            continue;
        }
        let sealed =
            sealer.seal(Content::Ts, &marks, payload.clone()).expect("numbers grow, and do not run out so soon");
        assert_eq!(sealed.len(), payload.len() + OVERHEAD);
        let (at, with) = (usize::from(data.u8()), if choice & 16 != 0 { data.u8() } else { 0 });
        let mut changed = sealed.to_vec();
        let at = at % changed.len();
        changed[at] ^= with;
        let came = opener.open(*life, &marks, changed.into());
        assert_eq!(came.is_ok(), with == 0);
        if let Ok((content, clear)) = came {
            assert!(content == Content::Ts && clear == payload);
            assert!(opener.open(*life, &marks, sealed.clone()).is_err(), "opened twice");
            opened.push((*life, sealed));
        }
        let pick = usize::from(data.u8()) % opened.len().max(1);
        if let Some((life, sealed)) = opened.get(pick) {
            let other = Marks { seq: seq.plus(1), ..marks };
            assert!(opener.open(*life, &other, sealed.clone()).is_err(), "opened under another number");
        }
    }
}

/// Lists of revocations: one that nobody signed is never in force, whatever it holds; a signed one survives its own text.
pub fn revocations(data: &[u8]) {
    static AUTHORITY: std::sync::OnceLock<Authority> = std::sync::OnceLock::new();
    let authority = AUTHORITY.get_or_init(|| Authority::trial(0).expect("an authority can be made"));
    let Ok(credentials) = authority.credentials(None) else { return };
    let text = String::from_utf8_lossy(data);
    assert!(credentials.set_revocations(&text).is_err(), "a list that nobody signed");
    let Ok(list) = RevocationList::peek(&text) else { return };
    let signed = authority.sign_revocations(&list).expect("what was decoded can be encoded");
    assert_eq!(RevocationList::peek(&signed).expect("what was encoded decodes"), list);
    credentials.set_revocations(&signed).expect("its own authority signed it");
}

/// Arrivals in any order, at any time, of any age.
pub fn playout(data: &[u8]) {
    let mut data = Reader(data);
    let config = PlayoutConfig { max_packets: 64, max_bytes: 1 << 16, ..PlayoutConfig::default() };
    let mut playout = Playout::new(config);
    let mut now = Instant::from_micros(1_000_000_000);
    let mut last = Instant::ORIGIN;
    while !data.is_empty() {
        match data.u8() % 6 {
            0 => {
                let deadline = Duration::from_millis(u64::from(data.u16()));
                let content = if data.u8() % 2 == 0 { Content::Ts } else { Content::Datagrams };
                playout.open(now, Incarnation(u64::from(data.u8() % 6)), deadline, content);
            }
            1 => playout.close(now, Incarnation(u64::from(data.u8() % 6))),
            2 => now += Duration::from_micros(u64::from(data.u32() % 300_000_000)),
            3 => now += Duration::from_micros(u64::from(data.u16())),
            _ => {
                let incarnation = Incarnation(u64::from(data.u8() % 6));
                let arrival = Arrival {
                    seq: StreamSeq(if data.u8() < 128 { u32::from(data.u8()) } else { data.u32() }),
                    media_time: MediaTime(data.u32()),
                    age: Duration::from_micros(u64::from(data.u32())),
                    flags: Flags { high_priority: false, end: data.u8() > 250 },
                    payload: vec![0; usize::from(data.u8())].into(),
                    recovery: Recovery::None,
                };
                playout.insert(now, incarnation, arrival);
            }
        }
        let mut patience = 10_000;
        while let Some(event) = playout.poll(now) {
            if let Event::Release(release) = event {
                assert!(release.at >= last, "released out of order");
                last = release.at;
            }
            patience -= 1;
            assert!(patience > 0, "releases do not come to an end");
        }
        let _ = playout.poll_timeout();
    }
    let _ = playout.counters();
}
