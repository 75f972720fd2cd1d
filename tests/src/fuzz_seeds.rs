//! Seeds of the fuzz corpora: what honest programs would send.

use bytes::BytesMut;
use link::{Flags, Instant, Label, Link, LinkConfig, MediaTime, Packet, StreamHandle, StreamSeq};
use node::control::{
    CloseCode, Content, Control, Dissemination, Edge, Hello, HopState, Install, Lost, Module, Publish, Pull, Receipt,
    Refusal, Reserve, Signed, StreamOpen, Survey, Surveyed, VERSION, Wants, Welcome, Whence,
};
use node::trust::{Authority, Claims, Direction, RevocationList, Role};
use std::time::Duration;
use topology::about::{About, Flow, Place};
use topology::lsdb::{Advertisement, Incarnation, LinkState, LinkTrouble, StreamState, Subscription, TroubleReport};
use topology::terms::{Full, LinkTerms, Need, Room, Terms, Unserved};
use topology::{LinkEnd, NodeName, StreamName, StreamPattern};

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
    for (index, message) in messages().into_iter().enumerate() {
        let mut encoded = Vec::new();
        if node::control::encode(&message, &mut encoded).is_ok() {
            seeds.push(("control", format!("message-{index}"), encoded[node::control::LENGTH..].to_vec()));
        }
    }
    if let Ok(token) = token() {
        seeds.push(("text", "token".into(), token.into_bytes()));
    }
    for (index, text) in TEXTS.iter().enumerate() {
        seeds.push(("text", format!("text-{index}"), text.as_bytes().to_vec()));
    }
    seeds.push(("packetize", "clip".into(), bench::demo::CLIP[..188 * 20].to_vec()));
    let mut dirty = bench::demo::CLIP[100..188 * 9].to_vec();
    dirty.splice(700..700, *b"garbage");
    seeds.push(("packetize", "dirty".into(), dirty));
    for (index, session) in rtp_sessions().into_iter().enumerate() {
        seeds.push(("rtp", format!("session-{index}"), session));
    }
    for passes in [0, 2] {
        let played = [&[passes], &bench::demo::CLIP[..188 * 40]].concat();
        seeds.push(("transport_stream", format!("clip-{passes}"), played));
    }
    seeds.push(("playout", "steady".into(), steady_playout()));
    seeds.push(("payload", "session".into(), payload_session()));
    seeds.push(("payload", "keys".into(), key_file().into_bytes()));
    for (index, list) in revocation_lists().into_iter().enumerate() {
        seeds.push(("revocations", format!("list-{index}"), list.into_bytes()));
    }
    for (index, session) in relay_sessions().into_iter().enumerate() {
        seeds.push(("relay_session", format!("session-{index}"), session));
    }
    seeds.push(("link_state", "two-relays".into(), link_states()));
    for (index, hello) in hellos().into_iter().enumerate() {
        seeds.push(("handshake", format!("hello-{index}"), hello));
    }
    for (index, statement) in statements().into_iter().enumerate() {
        seeds.push(("certificate", format!("statement-{index}"), statement));
    }
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

/// As `fuzz_ts::rtp` reads them: a transport stream out of order, and other payloads, with headers taken off, and kept.
fn rtp_sessions() -> [Vec<u8>; 3] {
    [0x30, 0x41, 0x02].map(|options| {
        let mut session = vec![options];
        for number in [0_u16, 1, 3, 2, 2, 5, 4, 600, 601] {
            // A pause, a header, a length that a transport packet does not need, the number, and the packet's first bytes.
            session.extend_from_slice(&[10, 1, 0]);
            session.extend_from_slice(&number.to_be_bytes());
            session.extend_from_slice(&[0x01, 0x00, 0x10]);
        }
        // Four bytes of another payload type, of another sender; and four without any header.
        session.extend_from_slice(&[20, 0b1111, 4, 0, 7, 1, 2, 3, 4, 20, 0, 4, 0x80, 33, 0, 9]);
        session
    })
}

/// A token of an authority that nobody trusts.
fn token() -> Result<String, node::trust::TrustError> {
    let day = Duration::from_secs(86_400);
    let claims = Claims {
        id: "seed".into(),
        streams: pattern("news/*"),
        direction: Direction::Publish,
        max_rate: Some(link::Bitrate::mbps(20)),
        expires: 86_400,
    };
    Authority::trial(0)?.token_issuer(0, day)?.issue(&claims)
}

fn pattern(text: &str) -> StreamPattern {
    text.parse().expect("it is a pattern")
}

fn stream(text: &str) -> StreamName {
    text.parse().expect("it is a stream name")
}

fn node(text: &str) -> NodeName {
    text.parse().expect("it is a node name")
}

fn end(text: &str) -> LinkEnd {
    text.parse().expect("it names a link")
}

/// One control message of every kind.
fn messages() -> Vec<Control> {
    let (name, incarnation, ingress) = (stream("news/main"), Incarnation(7), node("lon"));
    let refusal = Refusal { code: CloseCode::Expired, reason: "the token expired yesterday".into() };
    let hello = Hello {
        version: VERSION,
        features: 3,
        role: Role::Source,
        tokens: vec!["abt1.AAAA".into()],
        agent: "anabranch-source 0.1.0".into(),
        link: Some("fibre".parse().expect("valid")),
    };
    let edge = Edge { from: ingress.clone(), to: end("par~fibre"), rest_min_us: 12_000, rest_max_us: 40_000 };
    let link = LinkState { peer: end("par~fibre"), delay_us: 10_000, loss_ppm: 50_000, cost: 10 };
    let advertisement = Advertisement {
        origin: ingress.clone(),
        boot: 1_700_000_000_000_000,
        seq: 4,
        links: vec![link],
        streams: vec![StreamState { name: name.clone(), incarnation, deadline_us: 200_000 }],
        subscriptions: vec![Subscription { name: name.clone(), last_mile_us: 10_000 }],
        draining: false,
        about: About {
            place: Place::degrees(51.5, -0.1).ok(),
            flows: vec![Flow { rate_kbps: 5_000, overhead_permille: 60, saved_ppm: 50_000, left_ppm: 3 }],
        },
        terms: terms(&name),
    };
    let deadline_us = 200_000;
    vec![
        Control::Hello(hello),
        Control::Refused(refusal.clone()),
        Control::Publish(Publish {
            name: name.clone(),
            incarnation,
            deadline_us,
            high_priority: true,
            mode: Dissemination::Disjoint,
            content: Content::Ts,
            sealed: true,
            wants: Wants { rate_kbps: 8_000, max_cost: 250, target_ppb: 100 },
        }),
        Control::Published { name: name.clone(), handle: 5 },
        Control::Unpublish { name: name.clone() },
        Control::Subscribe { name: name.clone() },
        Control::Subscribed { name: name.clone(), live: true },
        Control::StreamRefused { name: name.clone(), refusal },
        Control::StreamOpen(StreamOpen {
            handle: 5,
            name: name.clone(),
            incarnation,
            ingress: ingress.clone(),
            deadline_us,
            content: Content::Ts,
            sealed: true,
            target_ppb: 0,
        }),
        Control::StreamClose { handle: 5, ended: true },
        Control::Advertise(advertisement),
        Control::Install(Install {
            name,
            incarnation,
            ingress,
            boot: 1_700_000_000_000_000,
            epoch: 2,
            deadline_us,
            content: Content::Ts,
            modules: vec![Module { edges: vec![edge.clone()] }, Module { edges: vec![edge] }],
            sealed: false,
            reserve: Reserve { need: Need { rate_kbps: 8_000, high_priority: true }, modules: 1 },
            target_ppb: 100,
        }),
        Control::Goodbye { reason: "stopping".into() },
        Control::Rest { name: stream("news/main"), rest_us: 45_000 },
        Control::Trouble(TroubleReport {
            origin: node("lon"),
            boot: 1_700_000_000_000_000,
            seq: 9,
            links: vec![LinkTrouble { peer: end("par"), loss_ppm: 200_000, late: true }],
        }),
        Control::Pull(Pull { handle: 5, after: Some(700), missing: vec![(650, 3), (690, 1)], hops: 12 }),
        Control::Signed(Signed { body: vec![14, 0], certificate: vec![0x30, 0x82], signature: vec![7; 64] }),
        Control::Survey(Survey { id: 3, asker: node("lon"), name: stream("news/main"), incarnation, hops: 12 }),
        Control::Surveyed(Surveyed { id: 3, asker: node("lon"), relay: node("par"), hops: vec![hop_state()] }),
        Control::Welcome(Welcome { version: VERSION, features: 7, name: node("lon"), agent: "anabranch/0.1.0".into() }),
        Control::Unsubscribe { name: stream("news/main") },
        Control::Receipt(receipt(incarnation)),
        Control::Whence(Whence { id: 4, handle: 5, missing: vec![(650, 3)], hops: 12 }),
        Control::Lost(Lost { id: 4, missing: vec![(650, 3)], hop: Some((node("lon"), end("par~fibre"))) }),
        Control::Tokens { tokens: vec!["abt1.AAAA".into(), "abt1.BBBB".into()] },
        Control::Renewed { refusal: None },
    ]
}

fn receipt(incarnation: Incarnation) -> Receipt {
    let (name, missed, ages) = (stream("news/main"), vec![(650, 3)], vec![(7, 900), (8, 40)]);
    Receipt { name, incarnation, on_time: 1_000, late: 2, missing: 3, overflow: 0, missed, ages }
}

fn hop_state() -> HopState {
    HopState {
        from: end("lon~fibre"),
        transit_us: 10_000,
        bound_us: 40,
        loss_ppm: 20_000,
        received: 9_000,
        repaired: 180,
        duplicates: 3,
        late: 0,
        age_us: Some((12_000, 31_000)),
    }
}

/// What a relay with tags, bounded links and a stream that does not fit says.
fn terms(name: &StreamName) -> Terms {
    let room = Room { most_kbps: 20_000, high_kbps: 8_000, normal_kbps: 5_000 };
    let need = Need { rate_kbps: 9_000, high_priority: false };
    let full = Full { from: node("lon"), to: end("par"), room, need };
    let tags = vec!["carrier:acme".parse().expect("a tag")];
    Terms {
        tags: tags.clone(),
        address: Some("lon.example.net:4400".to_owned()),
        auto: true,
        links: vec![LinkTerms { tags, room: Some(room), declined: vec![Incarnation(4)] }],
        unserved: vec![Unserved { stream: name.clone(), egress: node("par"), full }],
    }
}

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
                target: None,
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
            if !sent.is_multiple_of(3) {
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

/// Payloads of two lives, some of them changed on the way, some made up.
fn payload_session() -> Vec<u8> {
    let mut ops = Vec::new();
    for i in 0..24u8 {
        let choice = (i % 4) | (i % 2) << 2 | u8::from(i % 6 == 5) << 3 | u8::from(i % 5 == 4) << 4;
        ops.extend_from_slice(&[choice, i / 8, 0, 0, i, 0, 20]);
        ops.extend_from_slice(&[i; 20]);
        if choice & 8 == 0 {
            ops.push(i);
            if choice & 16 != 0 {
                ops.push(1 << (i % 8));
            }
            ops.push(i / 2);
        }
    }
    ops
}

/// Two keys that protect nothing.
fn key_file() -> String {
    let secret = "A".repeat(43);
    format!("# seeds\nuse 2\nepoch 1 abk1.{secret}\nepoch 2 abk1.{secret}\n")
}

/// Lists of an authority that nobody trusts: empty, and of both kinds.
fn revocation_lists() -> Vec<String> {
    let list = RevocationList {
        number: 3,
        certificates: [[0x5a; 32], [0xa5; 32]].into(),
        tokens: ["studio-1".to_owned(), "viewers".to_owned()].into(),
    };
    let Ok(authority) = Authority::trial(0) else { return Vec::new() };
    [RevocationList::default(), list].iter().filter_map(|list| authority.sign_revocations(list).ok()).collect()
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

/// What comes to a relay called lon, as [`crate::fuzz_relay::relay_session`] reads it: a source and a sink of one stream; the same between relays, with
/// graphs, questions and losses; and more of everything than there is room for.
fn relay_sessions() -> Vec<Vec<u8>> {
    let publish: &[u8] = &[9, 0, 11, 0, 1, 50, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let receipt: &[u8] = &[9, 1, 17, 0, 1, 0, 0, 0, 9, 0, 0, 0, 0, 0x7F, 0xFF, 0xFF, 0xFF, 0, 0, 1, 3, 0, 2, 0];
    let media = |port: u8, seq: u8| [7, port, 0, seq, 0, seq, 1, 0, 0, 4, 1, 2, 3, 4, 2, 4, 0];
    let mut local = [&[0, 2, 4, 0, 0, 3, 5, 0], publish, &[9, 1, 14, 0, 3, 0, 200]].concat();
    for seq in (0..40).filter(|seq| seq % 7 != 3) {
        local.extend(media(0, seq));
    }
    local.extend([receipt, &[9, 0, 13, 0, 3, 4, 0, 9, 1, 16, 0, 1, 0]].concat());

    // Links of ams and par to lon, which each end must tell of; the stream enters at ams.
    let advertise = |port: u8, origin: u8| {
        let (links, streams) = ([2, 0, 3, 0, 0, 0, 0, 10, 3 - origin, 3, 0, 0, 0, 0, 10], [1, 0, 1, 50]);
        [&[9, port, 0, origin, 1, 1], &links[..], &streams[..], &[1, 0, 2, 0, 0]].concat()
    };
    let install: &[u8] = &[9, 0, 3, 0, 1, 1, 1, 9, 50, 0, 1, 2, 1, 0, 3, 6, 0, 2, 3, 6, 0, 0, 64, 0, 0, 1, 0, 0, 0, 0];
    let open: &[u8] = &[9, 0, 4, 0, 0, 1, 1, 50, 0, 0, 0, 0, 0, 0];
    let trouble: &[u8] = &[9, 1, 2, 2, 1, 1, 1, 0, 0, 3, 0, 0, 1];
    let questions: &[u8] = &[9, 1, 6, 0, 1, 4, 1, 2, 0, 3, 12, 9, 1, 9, 3, 2, 0, 1, 12, 9, 1, 7, 1, 0, 1, 3, 0, 2, 12];
    let mut between = [&[0, 0xF8, 1, 0, 0xFC, 2], &advertise(0, 1)[..], &advertise(1, 2)].concat();
    between.extend([&[3, 2, 0], install, open, &[0, 3, 5, 0, 9, 2, 14, 0]].concat());
    for seq in (0..40).filter(|seq| seq % 7 != 3) {
        between.extend(media(0, seq));
    }
    between.extend([trouble, questions, &[3, 4, 0, 9, 0, 5, 0, 1, 3, 15, 0, 1, 1]].concat());

    let mut crowd = Vec::new();
    for i in 0..12 {
        crowd.extend([0, i % 4, i, 0, 9, i, 11, i, i, 50, 0, 1, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 9, i, 14, i, 2, 1, 0]);
    }
    vec![local, between, crowd]
}

/// Two relays that tell of a link between them and of a stream, again with a newer number, and of trouble; then time passes.
fn link_states() -> Vec<u8> {
    let mut ops = Vec::new();
    for (origin, seq) in [(1, 1), (2, 1), (1, 2), (2, 2), (1, 1)] {
        let link = [1, 3 - origin, 5, 0, 0, 0, 0, 10];
        ops.extend([&[4, origin, 1, seq], &link[..], &[1, 0, 1, 50, 1, 0, 2, 0, 0]].concat());
    }
    ops.extend([2, 1, 1, 1, 1, 2, 0, 3, 0, 0, 1, 0, 0x7F, 0xFF, 1]);
    ops
}

/// What is shown and said at first, as [`crate::fuzz_trust::handshake`] reads it.
fn hellos() -> Vec<Vec<u8>> {
    let (relay, by_token) = (vec![0, 0, 0, 3, 0, 0, 0, 7, 0, 0], vec![0, 4, 0, 3, 0, 0, 0, 7, 2, 1, 3]);
    let renewed = [&by_token[..], &[0, 0, 0, 9], &[0, 1, 1, 3, 0, 0, 40, 1, 4, 0]].concat();
    let (expired, foreign) = (vec![99, 4, 0, 3, 0, 0, 0, 7, 1, 1, 1], vec![0, 4, 0, 3, 0, 0, 0, 7, 1, 1, 2]);
    let written = messages().first().and_then(|hello| {
        let mut encoded = Vec::new();
        node::control::encode(hello, &mut encoded).ok()?;
        Some([&[0, 1, 1], &encoded[node::control::LENGTH..]].concat())
    });
    [relay, by_token, renewed, expired, foreign].into_iter().chain(written).collect()
}

/// Certificates of nodes with each role, in the place of that of a statement; and a genuine statement with one bit changed.
fn statements() -> Vec<Vec<u8>> {
    let certificate = |role| {
        let authority = Authority::trial(0)?;
        let identity = authority.issue(&node("lon-1.example"), role, 0, Duration::from_secs(86_400))?;
        Ok::<_, node::trust::TrustError>([&[5], identity.certificate().as_ref()].concat())
    };
    let shown = [Role::Relay, Role::Source, Role::Sink].into_iter().filter_map(|role| certificate(role).ok());
    shown.chain([vec![8, 1, 0, 40, 3], vec![7]]).collect()
}
