//! Two relays joined by two carriers, each of which fails in turn while a stream flows: nobody is told, and nothing is missing. One that was silent
//! is relied on again some three seconds after it is back, and the other does not fail before.

use anabranch_tests::flow::{Flow, Media, assert_intact};
use anabranch_tests::{clean, lossy};
use bench::emulator::Action;
use bench::rig::{Rig, RigPlan};
use node::control::Dissemination;
use std::time::Duration;

#[test]
fn either_of_two_carriers_may_fail() {
    let links = [("lon", "fra", lossy(10, 2.0)), ("lon", "fra~globex", clean(18))];
    let rig = Rig::start(&RigPlan::new(5, &["lon", "fra"], &links)).unwrap();
    // A deadline that a busy machine does not miss.
    let (near, deadline) = (clean(2), Duration::from_secs(1));
    let ends = ("lon", "fra");
    let mut flow = Flow::start_with(&rig, "news", ends, &near, Media::video(9), deadline, Dissemination::Disjoint);
    flow.feed();
    for carrier in ["lon-fra", "lon-fra~globex", "lon-fra"] {
        std::thread::sleep(Duration::from_secs(1));
        rig.emulator().act(carrier, None, Action::Cut).unwrap();
        std::thread::sleep(Duration::from_millis(1500));
        rig.emulator().act(carrier, None, Action::Mend).unwrap();
        std::thread::sleep(Duration::from_secs(5));
    }
    let (sent, seen) = flow.finish();
    assert_intact(&rig, &flow, (sent, seen));
    let report = rig.relay("fra").unwrap().report();
    let came = |link: &str| {
        let inputs = report
            .streams
            .iter()
            .filter(|stream| stream.name.as_str() == "test/news")
            .flat_map(|stream| &stream.inputs);
        inputs.filter(|input| input.peer.to_string() == link).map(|input| input.counters.received).sum::<u64>()
    };
    for link in ["lon", "lon~globex"] {
        let share = came(link) as f64 / sent as f64;
        assert!((0.4..0.98).contains(&share), "{link} brought {share} of {sent}");
    }
}
