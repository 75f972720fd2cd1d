//! Relays that lie about others: what they say is refused, counted, and costs no packet.

use crate::harness::{Overlay, Source, UNIX, ms};
use node::PortId;
use node::control::{Control, Install, Module};
use node::trust::Authority;
use std::time::Duration;
use topology::about::About;
use topology::lsdb::{Advertisement, TroubleReport};

/// A diamond in which everything is signed: a-b-d is 20 ms, a-c-d 30 ms.
fn signed_diamond() -> Overlay {
    let mut overlay = Overlay::new(&[]);
    overlay.authority = Some(Authority::trial(UNIX).expect("made"));
    for relay in ["a", "b", "c", "d"] {
        overlay.start(relay);
    }
    for (a, b, delay) in [("a", "b", 10), ("b", "d", 10), ("a", "c", 15), ("c", "d", 15)] {
        overlay.link(a, b, delay);
    }
    overlay.run(1000);
    overlay
}

/// `from` tells `to` something, whatever it is.
fn say(overlay: &mut Overlay, from: &str, to: &str, message: Control) {
    let to = to.parse().expect("valid");
    overlay.relay(from, |_, system, ports| {
        let port: PortId = system.relay(&to).expect("linked");
        ports.control(port, message);
    });
}

fn advertisement(origin: &str, seq: u64) -> Advertisement {
    Advertisement {
        origin: origin.parse().expect("valid"),
        boot: u64::MAX / 2,
        seq,
        links: Vec::new(),
        streams: Vec::new(),
        subscriptions: Vec::new(),
        draining: true,
        about: About::default(),
        terms: topology::terms::Terms::default(),
    }
}

#[test]
fn what_others_did_not_sign_is_refused_and_counted() {
    let mut overlay = signed_diamond();
    let sink = overlay.sink("d", "s");
    let source = overlay.source("a", "camera", Source::new(1));
    overlay.run(500);
    overlay.send(source, true);
    overlay.run(500);
    let name = "tenant/channel".parse().expect("valid");
    // b is broken into: it says that d is gone, that c is, that its links are bad, and that a sends the stream nowhere.
    let forged = [
        Control::Advertise(advertisement("d", 9)),
        Control::Advertise(advertisement("c", 9)),
        Control::Trouble(TroubleReport {
            origin: "d".parse().expect("valid"),
            boot: u64::MAX,
            seq: 1,
            links: Vec::new(),
        }),
        Control::Install(Install {
            name,
            incarnation: topology::lsdb::Incarnation(1),
            ingress: "a".parse().expect("valid"),
            boot: u64::MAX,
            epoch: 99,
            deadline_us: 200_000,
            content: node::control::Content::Datagrams,
            sealed: false,
            reserve: node::control::Reserve::default(),
            target_ppb: 0,
            modules: vec![Module { edges: Vec::new() }],
        }),
    ];
    let count = forged.len() as u64;
    for message in forged {
        say(&mut overlay, "b", "d", message);
    }
    // A statement that b signs itself, in the name of another.
    let identity = Authority::trial(UNIX).expect("made");
    let stranger = identity
        .issue(&"d".parse().expect("valid"), node::trust::Role::Relay, UNIX, Duration::from_secs(3600))
        .and_then(|issued| identity.credentials(Some(&issued)))
        .and_then(|credentials| credentials.seal())
        .expect("made")
        .expect("it has a key");
    let signed = stranger.sign(&Control::Advertise(advertisement("d", 10))).expect("signed");
    say(&mut overlay, "b", "a", Control::Signed(signed));
    overlay.run(1000);
    assert_eq!(overlay.report("d").refused.forged, count);
    assert_eq!(overlay.report("a").refused.forged, 1);
    let sent = overlay.send(source, false);
    overlay.run(500);
    overlay.of_sink(sink, |sink| sink.assert_whole(1, 0..sent));
}

#[test]
fn a_signed_overlay_works_as_any_other() {
    let mut overlay = signed_diamond();
    let sink = overlay.sink("d", "s");
    let source = overlay.source("a", "camera", Source::new(1));
    overlay.run(500);
    overlay.send(source, true);
    overlay.run(1000);
    overlay.kill("b");
    overlay.run(2000);
    let sent = overlay.send(source, false);
    overlay.run(500);
    overlay.of_sink(sink, |sink| {
        sink.assert_whole(1, 0..sent);
        assert!(sink.got.values().all(|(_, age)| *age <= ms(200)));
    });
    for relay in ["a", "c", "d"] {
        assert_eq!(overlay.report(relay).refused.forged, 0);
    }
}

/// What the ingress has signed of its stream stands, whatever a neighbour announces.
#[test]
fn a_neighbour_changes_neither_deadline_nor_target_of_a_stream() {
    let mut overlay = signed_diamond();
    let sink = overlay.sink("d", "s");
    let source = overlay.source("a", "camera", Source::new(1));
    overlay.run(500);
    overlay.send(source, true);
    overlay.run(500);
    for relay in ["b", "c"] {
        let open = node::control::StreamOpen {
            handle: 4_000,
            name: "tenant/channel".parse().expect("valid"),
            incarnation: topology::lsdb::Incarnation(1),
            ingress: "a".parse().expect("valid"),
            deadline_us: 1_000,
            content: node::control::Content::Datagrams,
            sealed: false,
            target_ppb: 1_000_000_000,
        };
        say(&mut overlay, relay, "d", Control::StreamOpen(open));
    }
    overlay.run(500);
    assert_eq!(overlay.report("d").streams[0].deadline_ms, 200.0);
    let sent = overlay.send(source, false);
    overlay.run(500);
    overlay.of_sink(sink, |sink| sink.assert_whole(1, 0..sent));
}
