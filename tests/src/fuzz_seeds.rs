//! Seeds of the fuzz corpora: what honest programs would send.

use bytes::BytesMut;
use link::{Flags, Instant, Label, Link, LinkConfig, MediaTime, Packet, StreamHandle, StreamSeq};
use std::time::Duration;

/// Target, file name and content of every seed.
pub fn seeds() -> Vec<(&'static str, String, Vec<u8>)> {
    let mut seeds = Vec::new();
    for (index, frame) in frames().into_iter().enumerate() {
        // The session reads an operation, a length and that many bytes.
        let mut session = vec![0, (frame.len() >> 8) as u8, frame.len() as u8];
        session.extend_from_slice(&frame);
        session.extend_from_slice(&[4, 0x40, 0]);
        seeds.push(("link_frame", format!("frame-{index}"), frame));
        seeds.push(("link_session", format!("frame-{index}"), session));
    }
    seeds.push(("link_session", "busy".into(), busy_session()));
    for (index, text) in TEXTS.iter().enumerate() {
        seeds.push(("text", format!("text-{index}"), text.as_bytes().to_vec()));
    }
    seeds.push(("packetize", "clip".into(), bench::demo::CLIP[..188 * 20].to_vec()));
    let mut dirty = bench::demo::CLIP[100..188 * 9].to_vec();
    dirty.splice(700..700, *b"garbage");
    seeds.push(("packetize", "dirty".into(), dirty));
    seeds.push(("playout", "steady".into(), steady_playout()));
    seeds
}

const TEXTS: [&str; 12] = [
    "news/main",
    "news/main/1080p",
    "lon-1.example.net",
    "news/*",
    "**",
    "udp://@239.1.1.1:5000?iface=eth0",
    "rtp://[ff15::1]:5000?ttl=3&pt=98",
    "file:/var/media/clip.ts?append=true&framing=length",
    "http://0.0.0.0:8080/live.ts",
    "news/main=udp://127.0.0.1:5000",
    "listen = '0.0.0.0:4400'\n[[neighbours]]\naddress = 'par.example.net:4400'\ndelay = '10ms'\nrepair = 'auto'\n",
    "relays = ['lon:4400']\n[[streams]]\nname = 'news/main'\noutputs = ['udp://127.0.0.1:5000']\n",
];

/// One frame of every kind, from two links of which one loses every third datagram.
fn frames() -> Vec<Vec<u8>> {
    let mut now = Instant::from_micros(5_000_000);
    let config = |seed| LinkConfig { seed, ..LinkConfig::default() };
    let (mut a, mut b) = (Link::new(now, config(1)), Link::new(now, config(2)));
    let mut kept: Vec<Vec<u8>> = Vec::new();
    let mut sent = 0u32;
    for step in 0..400u32 {
        if step % 2 == 0 {
            let packet = Packet {
                stream: StreamHandle(1),
                seq: StreamSeq(step),
                media_time: MediaTime(now.as_micros() as u32),
                age: Duration::from_millis(1),
                label: Label(0x0001_0001),
                flags: Flags::default(),
                payload: vec![step as u8; 20 + step as usize % 1500].into(),
                recover_until: now + Duration::from_millis(150),
            };
            let _ = a.send(now, packet);
        }
        let mut out = BytesMut::new();
        while a.poll_transmit(now, &mut out).is_some() {
            sent += 1;
            let frame = out.split().freeze();
            keep(&mut kept, &frame);
            if sent % 3 != 0 {
                b.handle_datagram(now, frame);
            }
        }
        while b.poll_transmit(now, &mut out).is_some() {
            let frame = out.split().freeze();
            keep(&mut kept, &frame);
            a.handle_datagram(now, frame);
        }
        while b.poll_delivery().is_some() {}
        now += Duration::from_millis(1);
        a.handle_timeout(now);
        b.handle_timeout(now);
    }
    kept
}

/// Keeps two frames of each kind: the first and one from a busy time.
fn keep(kept: &mut Vec<Vec<u8>>, frame: &[u8]) {
    let alike = kept.iter().filter(|other| other[..2] == frame[..2]).count();
    if alike < 2 && frame.len() < 400 {
        kept.push(frame.to_vec());
    }
}

/// Sends from both ends, losses, repeats and changes, with time passing.
fn busy_session() -> Vec<u8> {
    let mut session = Vec::new();
    for i in 0..60u8 {
        session.extend_from_slice(&[1, i % 6, i, i % 4, 3, 180, i % 3]);
        session.extend_from_slice(&[4, 4, i]);
        session.extend_from_slice(&[2, i.wrapping_mul(7)]);
        if i % 5 == 0 {
            session.extend_from_slice(&[3, i, 0, i, 1 << (i % 8)]);
            session.extend_from_slice(&[5, 0, i]);
        }
        if i % 20 == 19 {
            session.extend_from_slice(&[6, i % 6, 0, 20, 0, 0, 1, 128]);
        }
    }
    session
}

fn steady_playout() -> Vec<u8> {
    let mut ops = vec![0, 0, 200, 0, 1];
    for i in 0..40u8 {
        let media = u32::from(i) * 1000;
        ops.extend_from_slice(&[4, 1, 0, i ^ 1]);
        ops.extend_from_slice(&media.to_be_bytes());
        ops.extend_from_slice(&30_000u32.to_be_bytes());
        ops.extend_from_slice(&[0, 100]);
        ops.extend_from_slice(&[3, 4, 0]);
    }
    ops.extend_from_slice(&[1, 1, 2, 0, 0x10, 0, 0]);
    ops
}
