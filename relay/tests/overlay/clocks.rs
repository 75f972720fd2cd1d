//! Clocks that disagree, step and drift: nothing of a stream may depend on them. Nobody is told the delay of a link, so that
//! all there is to route by is measured on those clocks. Any two nodes' clocks are hours apart from the beginning.

use crate::harness::{Overlay, Source, UNIX, ms, right};
use node::testing::NodeId;
use node::trust::Direction;
use std::time::Duration;

const LINKS: [(&str, &str, u64); 5] = [("a", "b", 15), ("b", "d", 15), ("a", "c", 20), ("c", "d", 20), ("b", "c", 10)];
const RELAYS: [&str; 4] = ["a", "b", "c", "d"];
/// Two last miles of 5 ms and the way over `b`.
const WAY: Duration = Duration::from_millis(40);

struct Stage {
    overlay: Overlay,
    source: NodeId,
    sink: NodeId,
}

/// What the ingress has decided about the way: epoch and label.
type Route = (Option<u16>, Option<u32>);

impl Stage {
    /// A stream that has been flowing for three seconds over relays whose clocks are so much further ahead, and gain so many
    /// microseconds a second.
    fn new(ahead_ms: [u64; 4], drift_ppm: [i32; 4]) -> Stage {
        let mut overlay = Overlay::new(&[]);
        for (relay, ahead_ms) in RELAYS.into_iter().zip(ahead_ms) {
            overlay.ahead = ms(ahead_ms);
            overlay.start(relay);
        }
        for (relay, drift_ppm) in RELAYS.into_iter().zip(drift_ppm) {
            let node = overlay.relay_node(relay);
            overlay.world.set_drift(node, drift_ppm);
        }
        for (a, b, delay) in LINKS {
            overlay.link_measured(a, b, delay);
        }
        overlay.run(2000);
        let sink = overlay.sink_with("d", "s", right(Direction::Subscribe, "**", 86_400));
        overlay.run(1500);
        let source = overlay.idle_source(Source::new(1));
        overlay.connect_source("a", "camera", source, right(Direction::Publish, "**", 86_400));
        overlay.run(300);
        overlay.send(source, true);
        overlay.run(3000);
        Stage { overlay, source, sink }
    }

    fn route(&mut self) -> Route {
        let report = self.overlay.report("a");
        (report.streams[0].epoch, report.streams[0].label)
    }

    /// Runs on, looking every 100 ms: the way stays as it is, and links take as long as they do.
    fn runs_calmly(&mut self, millis: u64) {
        let route = self.route();
        assert!(route.0.is_some() && route.1.is_some(), "{route:?}");
        for _ in 0..millis / 100 {
            self.overlay.run(100);
            assert_eq!(self.route(), route, "the way has changed");
            for relay in RELAYS {
                for link in self.overlay.report(relay).overlay.link_states {
                    let between = |a: &str, b: &str| (link.from.as_str(), link.to.relay.as_str()) == (a, b);
                    let known =
                        LINKS.iter().find(|(a, b, _)| between(a, b) || between(b, a)).expect("there is such a link");
                    let off = (link.delay_ms - known.2 as f64).abs();
                    assert!(off <= 1.0, "{} to {} takes {} ms", link.from, link.to, link.delay_ms);
                    assert!(!link.late && link.loss == 0.0, "{} to {} is in trouble", link.from, link.to);
                }
            }
        }
    }

    /// All that was sent came once, in time, and as old as it is.
    fn assert_whole(mut self) {
        let sent = self.overlay.send(self.source, false);
        self.overlay.run(500);
        self.overlay.of_sink(self.sink, |sink| {
            sink.assert_whole(1, 0..sent);
            for (_, age) in sink.got.values() {
                assert!(age.abs_diff(WAY) < ms(3), "an age of {age:?} on a way of {WAY:?}");
            }
        });
    }
}

#[test]
fn clocks_seven_hundred_milliseconds_to_either_side() {
    let mut stage = Stage::new([700, 0, 1400, 0], [0; 4]);
    stage.runs_calmly(5000);
    stage.assert_whole();
}

#[test]
fn clocks_that_drift() {
    let mut stage = Stage::new([0; 4], [200, -200, -200, 200]);
    let (source, sink) = (stage.source, stage.sink);
    stage.overlay.world.set_drift(source, -200);
    stage.overlay.world.set_drift(sink, 200);
    stage.runs_calmly(20_000);
    stage.assert_whole();
}

/// The clock of the wall is set; that by which a node measures is monotonic, and knows nothing of it.
#[test]
fn clocks_of_the_wall_stepped_by_an_hour() {
    let mut stage = Stage::new([0; 4], [0; 4]);
    for step in [3600, -3600] {
        for relay in RELAYS {
            stage.overlay.relay(relay, |now, system, _| system.set_unix(now, UNIX.saturating_add_signed(step)));
            stage.runs_calmly(500);
        }
    }
    stage.assert_whole();
}

/// A relay that starts again an hour before its former life is believed all the same.
#[test]
fn a_relay_that_starts_again_with_its_clock_an_hour_back() {
    let mut stage = Stage::new([0; 4], [0; 4]);
    stage.overlay.kill("c");
    stage.overlay.run(1000);
    stage.overlay.start_at("c", 0);
    for (a, b, delay) in LINKS.iter().filter(|(a, b, _)| *a == "c" || *b == "c") {
        stage.overlay.link_measured(a, b, *delay);
    }
    stage.overlay.run(6000);
    assert_eq!(stage.overlay.report("a").overlay.links, 2 * LINKS.len());
    stage.assert_whole();
}
