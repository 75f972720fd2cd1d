//! The repair of a link is changed over the operations port while it carries: in force when the order is answered, nothing damaged, the new mode to be
//! seen in what the link sends.

use anabranch_tests::flow::{Flow, Media, assert_intact};
use anabranch_tests::http::ask;
use anabranch_tests::lossy;
use bench::rig::{Rig, RigPlan};
use link::Bitrate;
use node::clock::Clock;
use relay::report::LinkReport;
use serde_json::{Value, json};
use std::time::Duration;

fn link_to(rig: &Rig, peer: &str) -> LinkReport {
    let report = rig.relay("a").unwrap().report();
    report.links.into_iter().find(|link| link.peer.relay.as_str() == peer).unwrap()
}

#[test]
fn a_policy_changed_under_load_is_in_force_at_once_and_loses_nothing() {
    let channel = lossy(10, 3.0);
    let plan = RigPlan::new(5, &["a", "b"], &[("a", "b", channel.clone())]);
    let rig = Rig::start_tuned(&plan, |_, config| config.ops = Some(([127, 0, 0, 1], 0).into())).unwrap();
    let ops = rig.relay("a").unwrap().report().ops.unwrap();
    let media = Media { rate: Bitrate::mbps(5), ..Media::video(7) };
    let mut flow = Flow::start(&rig, "live", ("a", "b"), &channel, media);
    flow.feed();
    std::thread::sleep(Duration::from_secs(1));
    let clock = Clock::start();
    for mode in ["duplicate", "arq", "fec", "hybrid", "off", "auto"] {
        let before = link_to(&rig, "b").stats;
        let asked = clock.now();
        let (status, answer) = ask(ops, "PUT", "/api/v1/links/a/b", &json!({"mode": mode})).unwrap();
        assert_eq!(status, 200, "{answer}");
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!((&answer["policy"]["mode"], &answer["set_by"]), (&json!(mode), &json!("live")), "{answer}");
        let took = clock.now() - asked;
        println!("{mode}: in force after {took:?}");
        if mode == "off" {
            // Long enough to be seen, short enough not to matter to the count below.
            std::thread::sleep(Duration::from_millis(20));
            continue;
        }
        std::thread::sleep(Duration::from_millis(1500));
        let link = link_to(&rig, "b");
        let sent = link.stats.since(&before);
        println!("{mode}: {:?}", link.repair);
        assert_eq!(json!(link.policy.mode), json!(mode));
        assert!(link.repair.over_s < 5.0, "it speaks of this policy alone: {:?}", link.repair);
        match mode {
            "duplicate" => assert!(link.repair.cost_fec > 0.7, "every packet twice: {:?}", link.repair),
            "arq" => assert!(link.repair.cost_fec < 0.05 && sent.arq_packets_sent > 0, "{:?} {sent:?}", link.repair),
            "fec" => assert!(sent.fec_packets_sent > 0, "{sent:?}"),
            _ => {}
        }
    }
    let metrics = ask(ops, "GET", "/metrics", &Value::Null).unwrap().1;
    assert!(metrics.contains("mode=\"auto\"} 1"), "{metrics}");
    let result = flow.finish();
    assert_intact(&rig, &flow, result);
}
