//! Control messages of a relay with a valid certificate, as large as they may be.

use node::clock::unix_micros;
use node::control::{Content, Control, HopState, Install, Pull, Signed, StreamOpen, Survey, Surveyed, Whence};
use node::trust::Seal;
use topology::lsdb::{Advertisement, Incarnation, StreamState};

fn long_name(nth: u64, kind: &str) -> String {
    format!("{:t<63}/{:c<63}/{kind}-{nth}", "t", "c")
}

/// An advertisement as large as one may be.
pub(crate) fn advertisement(seal: &Seal, nth: u64) -> Control {
    let streams = (0..1200).map(|stream| StreamState {
        name: long_name(stream, "s").parse().unwrap(),
        incarnation: Incarnation(nth),
        deadline_us: 200_000,
    });
    let ad = Advertisement {
        origin: "flood".parse().unwrap(),
        boot: unix_micros(),
        seq: nth,
        links: Vec::new(),
        streams: streams.collect(),
        subscriptions: Vec::new(),
        draining: false,
        about: Default::default(),
        terms: Default::default(),
    };
    Control::Signed(seal.sign(&Control::Advertise(ad)).unwrap())
}

/// The graph of a stream of its own, another with each, with modules as large as a message may be.
pub(crate) fn install(seal: &Seal, nth: u64) -> Control {
    let edge = |from: u64, to: u64| node::control::Edge {
        from: format!("r{from:056}").parse().unwrap(),
        to: format!("r{to:056}").parse().unwrap(),
        rest_min_us: 1,
        rest_max_us: 2,
    };
    let modules =
        (0..16).map(|module| node::control::Module { edges: (0..120).map(|at| edge(module, at + 20)).collect() });
    let install = Install {
        name: long_name(nth, "i").parse().unwrap(),
        incarnation: Incarnation(nth),
        ingress: "flood".parse().unwrap(),
        boot: 1,
        epoch: nth as u16,
        deadline_us: 200_000,
        content: Content::Datagrams,
        modules: modules.collect(),
        sealed: false,
        reserve: Default::default(),
        target_ppb: 0,
    };
    Control::Signed(seal.sign(&Control::Install(install)).unwrap())
}

/// What nobody signed.
pub(crate) fn forged(_: &Seal, nth: u64) -> Control {
    Control::Signed(Signed { body: vec![nth as u8; 250_000], certificate: vec![7; 4000], signature: vec![1; 64] })
}

/// The announcement of a stream, another with each.
pub(crate) fn open(_: &Seal, nth: u64) -> Control {
    Control::StreamOpen(StreamOpen {
        handle: (nth % 60_000) as u16,
        name: long_name(nth, "o").parse().unwrap(),
        incarnation: Incarnation(nth),
        ingress: "flood".parse().unwrap(),
        deadline_us: 200_000,
        content: Content::Datagrams,
        sealed: false,
        target_ppb: 0,
    })
}

/// Questions and answers, each as large as one may be.
pub(crate) fn question(_: &Seal, nth: u64) -> Control {
    let runs = || (0..30_000).map(|run| (run * 70_000, u16::MAX)).collect::<Vec<(u32, u16)>>();
    let (handle, hops, asker) = (nth as u16, 127, "flood".parse().unwrap());
    match nth % 4 {
        0 => Control::Pull(Pull { handle, after: Some(0), missing: runs(), hops }),
        1 => Control::Whence(Whence { id: nth as u32, handle, missing: runs(), hops }),
        2 => {
            let name = "test/news".parse().unwrap();
            Control::Survey(Survey { id: nth as u32, asker, name, incarnation: Incarnation(nth), hops })
        }
        _ => {
            let hop = |from: u32| HopState {
                from: format!("r{from}").parse().unwrap(),
                transit_us: 1,
                bound_us: 1,
                loss_ppm: 1,
                received: 1,
                repaired: 1,
                duplicates: 1,
                late: 1,
                age_us: None,
            };
            let relay = "other".parse().unwrap();
            Control::Surveyed(Surveyed { id: nth as u32, asker, relay, hops: (0..15_000).map(hop).collect() })
        }
    }
}
