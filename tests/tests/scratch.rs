//! scratch
use anabranch_tests::six::Six;
use link::Bitrate;
use node::control::Dissemination::{Targeted, Disjoint, Auto};
use std::time::Duration;
#[test]
fn scratch() {
    let mut six = Six::start(4, 0.01);
    for modes in [[Targeted], [Disjoint], [Targeted], [Auto]] {
    let mut streams = six.streams(("a", "x"), Bitrate::mbps(10), &modes);
    std::thread::sleep(Duration::from_secs(2));
    streams.take();
    for link in [("d", "x"), ("e", "x")] { six.lose(link, 0.5); }
    let mut before = serde_json::Value::Null;
    for _ in 0..6 { std::thread::sleep(Duration::from_millis(500));
    println!("{:?}", streams.take());
    let mut now = serde_json::Map::new();
    for r in ["d", "e"] {
        let st = six.status(r);
        for l in st["links"].as_array().unwrap() { if l["peer"] == "x" {
            let s = &l["stats"];
            let q = &l["quality"];
            let f = |k: &str| s[k].as_u64().unwrap() as i64 - before[r][k].as_u64().unwrap_or(0) as i64;
            println!("  {r}: media {} arq {} fec {} suppressed {} late {} full {} cap {} rtt {}/{} jitter {} lossfast {}", f("media_packets_sent"), f("arq_packets_sent"), f("fec_packets_sent"), f("repair_suppressed"), f("dropped_late"), f("dropped_queue_full"), q["capacity"], q["rtt"]["nanos"].as_u64().unwrap()/1000000, q["rtt_min"]["nanos"].as_u64().unwrap()/1000000, q["jitter_p99"]["nanos"].as_u64().unwrap()/1000000, q["loss_sent_fast"]);
            now.insert(r.to_string(), s.clone());
        } }
        for l in six.status("x")["links"].as_array().unwrap() { if l["peer"] == r { println!("  x from {r}: unrec {} recov {} {}", l["stats"]["unrecovered"], l["stats"]["recovered_by_arq"], l["quality"]["rtt"]["nanos"].as_u64().unwrap()/1000000); } }
    }
    before = serde_json::Value::Object(now);
    }
    let s = six.snapshot();
    println!("lag {:?} {:?}", s.lag_p99, s.lag_max);
    six.mend();
    drop(streams);
    std::thread::sleep(Duration::from_secs(3));
    }
}
