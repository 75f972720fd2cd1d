//! More is offered to a link than it carries: who goes first is whole, the others share what is left alike, and who sends more than was admitted is held
//! to that where it enters.

use crate::admission::bound;
use crate::harness::{Overlay, Source};
use std::time::Duration;

/// What a source here sends in a packet.
const BITS: u64 = 1316 * 8;

/// A stream: its name, whether it goes first, what was admitted of it and what it sends, in kbit/s.
type Stream = (&'static str, bool, u32, u64);

/// Eight, which together are 125 % of 20 Mbit/s: one sends three times what was admitted, which counts here.
const STREAMS: [Stream; 8] = [
    ("tenant/high-1", true, 0, 4_000),
    ("tenant/high-2", true, 0, 4_000),
    ("tenant/greedy", false, 3_000, 9_000),
    ("tenant/n-1", false, 0, 2_800),
    ("tenant/n-2", false, 0, 2_800),
    ("tenant/n-3", false, 0, 2_800),
    ("tenant/n-4", false, 0, 2_800),
    ("tenant/n-5", false, 0, 2_800),
];

#[test]
fn a_quarter_more_than_a_link_carries() {
    let mut overlay = Overlay::with_links(&[("a", "b", 15)]);
    bound(&mut overlay, "a", "b", 15, 20);
    let sinks = STREAMS.map(|(stream, ..)| overlay.sink_of("b", &format!("of-{}", &stream[7..]), stream));
    let mut incarnation = 0;
    let sources = STREAMS.map(|(stream, high, admitted, sent)| {
        incarnation += 1;
        let mut source = Source::new(incarnation);
        source.publish.name = stream.parse().expect("valid");
        source.publish.high_priority = high;
        // One that may not go first says it all the same.
        source.marks_high = high || stream == "tenant/n-5";
        source.publish.wants.rate_kbps = admitted;
        source.every = Duration::from_micros(BITS * 1000 / sent);
        overlay.source("a", &format!("from-{}", &stream[7..]), source)
    });
    overlay.run(500);
    for source in sources {
        overlay.send(source, true);
    }
    overlay.run(3_000);
    let count = |overlay: &mut Overlay| -> [(u32, u64); 8] {
        std::array::from_fn(|at| {
            let sent = overlay.of_source(sources[at], |source| source.next_seq);
            (sent, overlay.of_sink(sinks[at], |sink| sink.count(at as u64 + 1)) as u64)
        })
    };
    let before = count(&mut overlay);
    overlay.run(20_000);
    let after = count(&mut overlay);
    let shares: Vec<(&str, f64, f64)> = STREAMS
        .iter()
        .zip(before.iter().zip(&after))
        .map(|((stream, ..), ((sent0, came0), (sent, came)))| {
            let kbps = |packets: u64| (packets * BITS) as f64 / 20.0 / 1e3;
            (*stream, kbps(u64::from(sent - sent0)), kbps(came - came0))
        })
        .collect();
    let link =
        overlay.report("a").links.into_iter().find(|link| link.peer.relay.as_str() == "b").expect("they are linked");
    println!("kbit/s sent and delivered: {shares:?}; {:?}", link.stats);
    for (stream, sent, came) in &shares[..2] {
        assert!((sent - came).abs() <= 2.0 * BITS as f64 / 20e3, "{stream}: {came} of {sent}");
    }
    let others: Vec<f64> = shares[2..].iter().map(|(_, _, came)| *came).collect();
    let mean = others.iter().sum::<f64>() / others.len() as f64;
    assert!(others.iter().all(|came| (came / mean - 1.0).abs() <= 0.05), "{others:?}");
    let carried: f64 = shares.iter().map(|(_, _, came)| came).sum();
    assert!(carried > 0.9 * 20_000.0, "{carried}");
    let report = overlay.report("a");
    let greedy = report.streams.iter().find(|stream| stream.name.as_str() == "tenant/greedy").expect("it is carried");
    let policed = greedy.counters.policed as f64 / f64::from(after[2].0);
    assert!((0.6..0.7).contains(&policed), "two of three packets are policed: {policed}");
    assert!(
        report.streams.iter().all(|stream| stream.counters.policed == 0 || stream.name.as_str() == "tenant/greedy")
    );
}
