//! Numbers, and messages made of them, drawn from the fuzzer's bytes.

use link::{Bitrate, StreamSeq};
use node::control::{
    CloseCode, Content, Control, Dissemination, Edge, HopState, Install, Lost, Module, Publish, Pull, Receipt, Refusal,
    Reserve, StreamOpen, Survey, Surveyed, Wants, Whence,
};
use node::trust::{Direction, Grant};
use topology::lsdb::{Advertisement, Incarnation, LinkState, LinkTrouble, StreamState, Subscription, TroubleReport};
use topology::terms::{Full, LinkTerms, Need, Room, Terms, Unserved};
use topology::{LinkEnd, NodeName, StreamName};

/// Seconds since 1970 when what is fuzzed begins.
pub(crate) const UNIX: u64 = 1_800_000_000;

/// Takes numbers off the front of the fuzzer's bytes; zeros when they are used up.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn bytes(&mut self, n: usize) -> &'a [u8] {
        let (front, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        front
    }

    pub(crate) fn u8(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or_default()
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from(self.u8()) << 8 | u16::from(self.u8())
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from(self.u16()) << 16 | u32::from(self.u16())
    }
}

pub(crate) fn node(pick: u8) -> NodeName {
    ["lon", "ams", "par", "fra", "nyc", "syd", "tok", "sao"][usize::from(pick % 8)].parse().expect("a name")
}

/// Mostly the link without a name.
pub(crate) fn end(pick: u8) -> LinkEnd {
    let link = ["fibre", "sat"].get(usize::from(pick / 8 % 4)).map(|name| name.parse().expect("a name"));
    LinkEnd { relay: node(pick), link }
}

pub(crate) fn stream(pick: u8) -> StreamName {
    ["a/1", "a/2", "a/3", "b/1", "b/2", "b/3", "c/1", "line-test/lon/ams"][usize::from(pick % 8)]
        .parse()
        .expect("a name")
}

pub(crate) fn seq(data: &mut Reader<'_>) -> StreamSeq {
    let near = data.u8();
    StreamSeq(if near < 240 { u32::from(near) } else { data.u32() })
}

/// Rights to publish and to watch, of which some are bounded in rate or over soon.
pub(crate) fn grants(choice: u8) -> Vec<Grant> {
    let streams = if choice & 1 == 0 { "**" } else { "a/*" };
    let grant = |direction| Grant {
        id: format!("t{}", choice % 4),
        streams: streams.parse().expect("a pattern"),
        direction,
        max_rate: (choice & 2 != 0).then_some(Bitrate::bps(64_000)),
        expires: UNIX + if choice & 4 != 0 { 3 } else { 1 << 30 },
    };
    vec![grant(Direction::Publish), grant(Direction::Subscribe)]
}

fn few<T>(data: &mut Reader<'_>, most: u8, mut make: impl FnMut(&mut Reader<'_>) -> T) -> Vec<T> {
    let count = data.u8() % (most + 1);
    (0..count).map(|_| make(data)).collect()
}

fn life(data: &mut Reader<'_>) -> Incarnation {
    Incarnation(u64::from(data.u8() % 4))
}

/// Deadlines within the bounds and at their ends.
fn micros(data: &mut Reader<'_>) -> u32 {
    match data.u8() {
        0 => 0,
        255 => u32::MAX,
        some => u32::from(some) * 4_000,
    }
}

fn content(data: &mut Reader<'_>) -> Content {
    if data.u8() & 1 == 0 { Content::Datagrams } else { Content::Ts }
}

fn runs(data: &mut Reader<'_>) -> Vec<(u32, u16)> {
    few(data, 4, |data| (seq(data).0, data.u16()))
}

fn need(data: &mut Reader<'_>) -> Need {
    Need { rate_kbps: u32::from(data.u16()), high_priority: data.u8() & 1 != 0 }
}

fn room(data: &mut Reader<'_>) -> Room {
    Room { most_kbps: data.u16().into(), high_kbps: data.u16().into(), normal_kbps: data.u16().into() }
}

fn refusal(data: &mut Reader<'_>) -> Option<Refusal> {
    (data.u8() & 1 != 0).then(|| Refusal { code: CloseCode::Forbidden, reason: "fuzzed".to_owned() })
}

pub(crate) fn message(data: &mut Reader<'_>) -> Control {
    match data.u8() % 20 {
        0 | 1 => Control::Advertise(advertisement(data)),
        2 => Control::Trouble(trouble(data)),
        3 => Control::Install(install(data)),
        4 => Control::StreamOpen(StreamOpen {
            handle: u16::from(data.u8() % 8),
            name: stream(data.u8()),
            incarnation: life(data),
            ingress: node(data.u8()),
            deadline_us: micros(data),
            content: content(data),
            sealed: data.u8() & 1 != 0,
            target_ppb: data.u32(),
        }),
        5 => Control::StreamClose { handle: u16::from(data.u8() % 8), ended: data.u8() & 1 != 0 },
        6 => Control::Pull(Pull {
            handle: u16::from(data.u8() % 8),
            after: (data.u8() & 1 != 0).then(|| seq(data).0),
            missing: runs(data),
            hops: data.u8(),
        }),
        7 => Control::Whence(Whence {
            id: u32::from(data.u8()),
            handle: u16::from(data.u8() % 8),
            missing: runs(data),
            hops: data.u8(),
        }),
        8 => Control::Lost(Lost {
            id: u32::from(data.u8()),
            missing: runs(data),
            hop: (data.u8() & 1 != 0).then(|| (node(data.u8()), end(data.u8()))),
        }),
        9 => Control::Survey(Survey {
            id: u32::from(data.u8()),
            asker: node(data.u8()),
            name: stream(data.u8()),
            incarnation: life(data),
            hops: data.u8(),
        }),
        10 => Control::Surveyed(Surveyed {
            id: u32::from(data.u8()),
            asker: node(data.u8()),
            relay: node(data.u8()),
            hops: few(data, 3, hop),
        }),
        11 | 12 => Control::Publish(publish(data)),
        13 => Control::Unpublish { name: stream(data.u8()) },
        14 | 15 => Control::Subscribe { name: stream(data.u8()) },
        16 => Control::Unsubscribe { name: stream(data.u8()) },
        17 => Control::Receipt(Receipt {
            name: stream(data.u8()),
            incarnation: life(data),
            on_time: data.u32().into(),
            late: data.u32().into(),
            missing: i64::from(data.u32()) - i64::from(u32::MAX / 2),
            overflow: data.u16().into(),
            missed: runs(data),
            ages: few(data, 4, |data| (data.u8(), data.u32())),
        }),
        18 => Control::Tokens { tokens: few(data, 2, |_| "abt1.AAAA".to_owned()) },
        _ => Control::Renewed { refusal: refusal(data) },
    }
}

fn hop(data: &mut Reader<'_>) -> HopState {
    HopState {
        from: end(data.u8()),
        transit_us: data.u32(),
        bound_us: data.u32(),
        loss_ppm: data.u32(),
        received: data.u32().into(),
        repaired: data.u32().into(),
        duplicates: data.u32().into(),
        late: data.u32().into(),
        age_us: (data.u8() & 1 != 0).then(|| (data.u32(), data.u32())),
    }
}

fn publish(data: &mut Reader<'_>) -> Publish {
    use Dissemination::{Auto, Disjoint, Flood, Targeted, Tree};
    Publish {
        name: stream(data.u8()),
        incarnation: life(data),
        deadline_us: micros(data),
        high_priority: data.u8() & 1 != 0,
        mode: [Auto, Tree, Disjoint, Targeted, Flood][usize::from(data.u8() % 5)],
        content: content(data),
        sealed: data.u8() & 1 != 0,
        wants: Wants { rate_kbps: data.u16().into(), max_cost: data.u16(), target_ppb: data.u32() },
    }
}

fn install(data: &mut Reader<'_>) -> Install {
    let edge = |data: &mut Reader<'_>| Edge {
        from: node(data.u8()),
        to: end(data.u8()),
        rest_min_us: micros(data),
        rest_max_us: micros(data),
    };
    Install {
        name: stream(data.u8()),
        incarnation: life(data),
        ingress: node(data.u8()),
        boot: u64::from(data.u8() % 8),
        epoch: u16::from(data.u8()).wrapping_sub(8),
        deadline_us: micros(data),
        content: content(data),
        modules: few(data, 17, |data| Module { edges: few(data, 6, edge) }),
        sealed: data.u8() & 1 != 0,
        reserve: Reserve { need: need(data), modules: data.u16() },
        target_ppb: data.u32(),
    }
}

pub(crate) fn advertisement(data: &mut Reader<'_>) -> Advertisement {
    let link = |data: &mut Reader<'_>| LinkState {
        peer: end(data.u8()),
        delay_us: micros(data),
        loss_ppm: data.u32(),
        cost: data.u8().into(),
    };
    Advertisement {
        origin: node(data.u8()),
        boot: number(data),
        seq: number(data),
        links: few(data, 6, link),
        streams: few(data, 4, |data| StreamState {
            name: stream(data.u8()),
            incarnation: life(data),
            deadline_us: micros(data),
        }),
        subscriptions: few(data, 4, |data| Subscription { name: stream(data.u8()), last_mile_us: micros(data) }),
        draining: data.u8() & 1 != 0,
        about: Default::default(),
        terms: terms(data),
    }
}

/// Boots and numbers: few, so that old meets new, and the last there is.
fn number(data: &mut Reader<'_>) -> u64 {
    match data.u8() {
        255 => u64::MAX,
        some => u64::from(some % 16),
    }
}

fn terms(data: &mut Reader<'_>) -> Terms {
    let some = data.u8();
    if some & 1 == 0 {
        return Terms::default();
    }
    Terms {
        tags: Vec::new(),
        address: (some & 2 != 0).then(|| "192.0.2.1:4400".to_owned()),
        auto: some & 4 != 0,
        links: few(data, 6, |data| LinkTerms {
            tags: if data.u8() & 1 == 0 { Vec::new() } else { vec!["carrier:acme".parse().expect("a tag")] },
            room: (data.u8() & 1 != 0).then(|| room(data)),
            declined: few(data, 3, life),
        }),
        unserved: few(data, 3, |data| Unserved {
            stream: stream(data.u8()),
            egress: node(data.u8()),
            full: Full { from: node(data.u8()), to: end(data.u8()), room: room(data), need: need(data) },
        }),
    }
}

pub(crate) fn trouble(data: &mut Reader<'_>) -> TroubleReport {
    TroubleReport {
        origin: node(data.u8()),
        boot: number(data),
        seq: number(data),
        links: few(data, 6, |data| LinkTrouble {
            peer: end(data.u8()),
            loss_ppm: data.u32(),
            late: data.u8() & 1 != 0,
        }),
    }
}
