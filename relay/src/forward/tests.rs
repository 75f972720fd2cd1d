//! Forwarding against a reference model.

use super::*;
use bytes::Bytes;
use link::{Flags, MediaTime, Recovery, StreamSeq};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const DEADLINE: Duration = Duration::from_millis(200);

/// Takes everything, and remembers it; may refuse what leaves less than `transit` for the hop.
#[derive(Default)]
struct Sent {
    packets: Vec<(PortId, Packet)>,
    transit: Duration,
}

impl Egress for Sent {
    fn send(&mut self, now: Instant, port: PortId, packet: Packet) -> Result<(), SendError> {
        if packet.recover_until < now + self.transit {
            return Err(SendError::TooLate);
        }
        self.packets.push((port, packet));
        Ok(())
    }
}

fn now() -> Instant {
    Instant::from_micros(5_000_000)
}

fn packet(handle: StreamHandle, seq: u32, label: Label) -> Delivery {
    Delivery {
        stream: handle,
        seq: StreamSeq(seq),
        media_time: MediaTime(seq),
        age: Duration::from_millis(30),
        label,
        flags: Flags::default(),
        payload: Bytes::from_static(b"x"),
        recovery: Recovery::None,
    }
}

fn hop(port: u64, min_us: u32, max_us: u32) -> Hop {
    Hop { port: PortId(port), rest: Rest { min_us, max_us } }
}

/// A stream from relay port 1 to relay ports 2 and 3 and sink port 9; module 0 leaves by 2, module 1 by 2 and 3.
fn transit_relay() -> (Forwarder, StreamKey) {
    let mut forwarder = Forwarder::new(1 << 20);
    let key = forwarder.add_stream(DEADLINE);
    forwarder.open_input(key, PortId(1), StreamHandle(70));
    for (port, local) in [(2, false), (3, false), (9, true)] {
        forwarder.open_output(now(), key, PortId(port), local).expect("a fresh port has handles");
    }
    forwarder.install(key, 1, &[vec![hop(2, 20_000, 40_000)], vec![hop(2, 10_000, 30_000), hop(3, 5_000, 5_000)]]);
    (forwarder, key)
}

fn targets(forwarder: &mut Forwarder, delivery: Delivery) -> Vec<u64> {
    let mut sent = Sent::default();
    forwarder.forward(now(), PortId(1), delivery, &mut sent).expect("the handle is known");
    sent.packets.iter().map(|(port, _)| port.0).collect()
}

#[test]
fn a_label_chooses_the_out_edges() {
    let (mut forwarder, _) = transit_relay();
    let handle = StreamHandle(70);
    assert_eq!(targets(&mut forwarder, packet(handle, 1, label::label(1, 1))), [2, 9]);
    assert_eq!(targets(&mut forwarder, packet(handle, 2, label::label(1, 2))), [2, 3, 9]);
    assert_eq!(targets(&mut forwarder, packet(handle, 3, label::label(1, 3))), [2, 3, 9]);
    assert_eq!(targets(&mut forwarder, packet(handle, 4, label::label(7, 2))), [2, 3, 9], "unknown epoch: the newest");
    assert_eq!(targets(&mut forwarder, packet(handle, 5, label::label(1, 0x100))), [2, 9], "unknown module: the first");
    assert_eq!(targets(&mut forwarder, packet(handle, 5, label::label(1, 1))), [0u64; 0], "a copy");
}

#[test]
fn a_hop_may_spend_all_slack_but_the_bare_rest() {
    let (mut forwarder, _) = transit_relay();
    let mut sent = Sent::default();
    let delivery = packet(StreamHandle(70), 1, label::label(1, 3));
    forwarder.forward(now(), PortId(1), delivery, &mut sent).expect("known");
    let until: BTreeMap<u64, Duration> =
        sent.packets.iter().map(|(port, p)| (port.0, p.recover_until - now())).collect();
    let millis = |ms| Duration::from_millis(ms);
    assert_eq!(until, BTreeMap::from([(2, millis(170 - 40)), (3, millis(170 - 5)), (9, millis(170))]));
}

#[test]
fn what_misses_the_farthest_may_still_reach_the_nearest() {
    let (mut forwarder, key) = transit_relay();
    let mut sent = Sent { transit: Duration::from_millis(10), ..Sent::default() };
    let mut delivery = packet(StreamHandle(70), 1, label::label(1, 1));
    delivery.age = Duration::from_millis(155);
    forwarder.forward(now(), PortId(1), delivery, &mut sent).expect("known");
    let (port, packet_out) = &sent.packets[0];
    assert_eq!((port.0, packet_out.recover_until - now()), (2, Duration::from_millis(25)));
    let mut delivery = packet(StreamHandle(70), 2, label::label(1, 1));
    delivery.age = Duration::from_millis(175);
    let verdict = forwarder.forward(now(), PortId(1), delivery, &mut sent);
    assert_eq!(verdict, Ok(Verdict::Forwarded(2)), "what the rest of the way takes is not known for certain");
    let mut delivery = packet(StreamHandle(70), 3, label::label(1, 1));
    delivery.age = Duration::from_millis(195);
    let verdict = forwarder.forward(now(), PortId(1), delivery, &mut sent);
    assert_eq!(verdict, Ok(Verdict::Forwarded(0)), "not even the next hop can be reached in time");
    let late: Vec<u64> = forwarder.outputs(key).map(|(_, _, counters)| counters.late).collect();
    assert_eq!(late.iter().sum::<u64>(), 2);
}

#[test]
fn late_packets_go_nowhere() {
    let (mut forwarder, key) = transit_relay();
    let mut delivery = packet(StreamHandle(70), 1, label::label(1, 1));
    delivery.age = DEADLINE;
    assert_eq!(forwarder.forward(now(), PortId(1), delivery, &mut Sent::default()), Ok(Verdict::Late));
    assert_eq!(forwarder.counters(key).late, 1);
}

#[test]
fn unknown_handles_and_ports_come_back() {
    let (mut forwarder, _) = transit_relay();
    for (port, handle) in [(1, 71), (2, 70), (500, 0)] {
        let delivery = packet(StreamHandle(handle), 1, Label(0));
        assert_eq!(forwarder.forward(now(), PortId(port), delivery.clone(), &mut Sent::default()), Err(delivery));
    }
}

/// However often a relay asks, and for whatever: a packet leaves once by its label or to answer, and a third as many again
/// where they are asked for by number.
#[test]
fn answers_to_questions_are_bounded() {
    let (mut forwarder, key) = transit_relay();
    let below = forwarder.output(key, PortId(3)).expect("it is an output");
    let by_label = |seq: u32| seq.is_multiple_of(2);
    for seq in 0..300 {
        let label = label::label(1, if by_label(seq) { 2 } else { 1 });
        assert_eq!(targets(&mut forwarder, packet(StreamHandle(70), seq, label)).contains(&3), by_label(seq));
    }
    let mut ask = |ask: Ask| {
        let mut sent = Sent::default();
        let (_, further) = forwarder.pull(now(), PortId(3), below, ask, &mut sent).expect("the stream is known");
        assert_eq!(further, None, "all of it is kept here");
        assert!(sent.packets.iter().all(|(port, _)| *port == PortId(3)));
        sent.packets.len()
    };
    let newer = Ask { after: Some(StreamSeq(199)), ..Ask::default() };
    assert_eq!([ask(newer.clone()), ask(newer.clone()), ask(newer)], [50, 0, 0]);
    let all = Ask { missing: vec![(StreamSeq(0), 300)], ..Ask::default() };
    let answers = [ask(all.clone()), ask(all.clone()), ask(all)];
    assert!(answers[0] >= 100 && answers.iter().sum::<usize>() <= 100 + 300 / 3, "{answers:?}");
}

#[test]
fn a_source_is_stamped_and_policed() {
    let mut forwarder = Forwarder::new(1 << 20);
    let key = forwarder.add_stream(DEADLINE);
    let handle = forwarder.open_source(now(), key, PortId(1)).expect("free");
    forwarder.open_output(now(), key, PortId(2), false).expect("free");
    forwarder.install(key, 9, &[vec![hop(2, 0, 0)]]);
    forwarder.set_stamp(key, label::label(9, 1));
    forwarder.set_police(key, Some(Police::new(link::Bitrate::bps(8_000))));
    let mut sent = Sent::default();
    for seq in 0..1000 {
        forwarder.forward(now(), PortId(1), packet(handle, seq, Label(0)), &mut sent).expect("known");
    }
    assert!(sent.packets.iter().all(|(_, p)| p.label == label::label(9, 1)));
    assert_eq!(forwarder.counters(key).policed + sent.packets.len() as u64, 1000);
    assert!((1..20).contains(&sent.packets.len()), "{}", sent.packets.len());
}

#[test]
fn four_epochs_are_kept_in_order_across_the_wrap() {
    let (mut forwarder, key) = transit_relay();
    for epoch in [65_534, 65_535, 1, 0, 2] {
        forwarder.install(key, epoch, &[vec![]]);
    }
    assert_eq!(forwarder.epochs(key), [65_535, 0, 1, 2]);
    forwarder.retire(key, 0);
    assert_eq!(forwarder.epochs(key), [65_535, 1, 2]);
}

#[test]
fn a_closed_port_takes_its_inputs_and_outputs_along() {
    let (mut forwarder, key) = transit_relay();
    assert_eq!(forwarder.close_port(PortId(2)), [key]);
    assert_eq!(targets(&mut forwarder, packet(StreamHandle(70), 1, label::label(1, 3))), [3, 9]);
    assert_eq!(forwarder.close_port(PortId(1)), [key]);
    assert_eq!(forwarder.inputs(key).count(), 0);
    forwarder.open_input(key, PortId(4), StreamHandle(0));
    let mut sent = Sent::default();
    let delivery = packet(StreamHandle(0), 1, label::label(1, 1));
    assert_eq!(
        forwarder.forward(now(), PortId(4), delivery, &mut sent),
        Ok(Verdict::Duplicate),
        "seen by the old port"
    );
}

#[test]
fn a_removed_stream_leaves_nothing() {
    let (mut forwarder, key) = transit_relay();
    assert_eq!(forwarder.remove_stream(now(), key).len(), 3);
    let next = forwarder.add_stream(DEADLINE);
    assert_eq!(next, key, "the place is used again");
    let delivery = packet(StreamHandle(70), 1, Label(0));
    assert_eq!(forwarder.forward(now(), PortId(1), delivery.clone(), &mut Sent::default()), Err(delivery));
    assert_eq!(forwarder.open_output(now(), next, PortId(2), false), Some(StreamHandle(1)), "handle 0 rests");
}

/// The relay in the plainest words: for each stream a set of numbers seen, and per module a set of ports.
#[derive(Default)]
struct Model {
    seen: BTreeSet<u32>,
    modules: BTreeMap<u16, Vec<BTreeSet<u64>>>,
    sinks: BTreeSet<u64>,
}

impl Model {
    fn targets(&mut self, from: u64, seq: u32, label: Label) -> BTreeSet<u64> {
        if !self.seen.insert(seq) {
            return BTreeSet::new();
        }
        let (epoch, bits) = (label::epoch(label), label::modules(label));
        let newest = self.modules.keys().next_back();
        let Some(epoch) = self.modules.get(&epoch).or(newest.and_then(|newest| self.modules.get(newest))) else {
            return self.sinks.clone();
        };
        let chosen: Vec<_> =
            epoch.iter().enumerate().filter(|(i, _)| bits >> i & 1 == 1).map(|(_, ports)| ports).collect();
        let union = if chosen.is_empty() { epoch[0].clone() } else { chosen.into_iter().flatten().copied().collect() };
        union.union(&self.sinks).copied().filter(|port| *port != from).collect()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Packet { from: u64, seq: u32, epoch: u16, modules: u16 },
    Install { modules: Vec<BTreeSet<u64>> },
    Subscribe(u64),
    Unsubscribe(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let ports = prop::collection::btree_set(0u64..6, 0..5);
    let step = prop_oneof![
        12 => (0u64..6, 0u32..300, 0u16..8, 0u16..8)
            .prop_map(|(from, seq, epoch, modules)| Step::Packet { from, seq, epoch, modules }),
        1 => prop::collection::vec(ports, 1..4).prop_map(|modules| Step::Install { modules }),
        1 => (10u64..14).prop_map(Step::Subscribe),
        1 => (10u64..14).prop_map(Step::Unsubscribe),
    ];
    prop::collection::vec(step, 1..300)
}

proptest! {
    /// Each packet goes exactly once to exactly the ports that the plain words name, and never back, whatever changes
    /// in between and wherever the numbers wrap.
    #[test]
    fn forwards_as_the_model_does(start: u32, steps in steps()) {
        let mut forwarder = Forwarder::new(1 << 20);
        let key = forwarder.add_stream(DEADLINE);
        for port in 0..6 {
            forwarder.open_input(key, PortId(port), StreamHandle(port as u16 + 100));
            forwarder.open_output(now(), key, PortId(port), false).expect("free");
        }
        let mut model = Model::default();
        let mut epoch = 0;
        for step in steps {
            match step {
                Step::Packet { from, seq, epoch, modules } => {
                    let (seq, label) = (start.wrapping_add(seq), label::label(epoch, modules));
                    let mut sent = Sent::default();
                    let delivery = packet(StreamHandle(from as u16 + 100), seq, label);
                    forwarder.forward(now(), PortId(from), delivery, &mut sent).expect("known");
                    let got: Vec<u64> = sent.packets.iter().map(|(port, _)| port.0).collect();
                    let expected = model.targets(from, seq, label);
                    prop_assert_eq!(got.len(), expected.len(), "each once: {:?} for {:?}", &got, &expected);
                    prop_assert_eq!(got.into_iter().collect::<BTreeSet<_>>(), expected);
                }
                Step::Install { modules } => {
                    epoch += 1;
                    let hops: Vec<Vec<Hop>> = modules.iter().map(|m| m.iter().map(|p| hop(*p, 0, 0)).collect()).collect();
                    forwarder.install(key, epoch, &hops);
                    model.modules.insert(epoch, modules);
                    while model.modules.len() > EPOCHS {
                        model.modules.pop_first();
                    }
                }
                Step::Subscribe(port) => {
                    forwarder.open_output(now(), key, PortId(port), true).expect("free");
                    model.sinks.insert(port);
                }
                Step::Unsubscribe(port) => {
                    forwarder.close_output(now(), key, PortId(port));
                    model.sinks.remove(&port);
                }
            }
        }
    }
}
