//! A relay among its own neighbours: one list for all relays.

use crate::net::{Net, until};
use crate::on_local;
use anabranch_relay::Neighbour;
use anabranch_relay::report::NeighbourState;
use std::time::Duration;

#[test]
fn a_relay_that_is_told_to_dial_itself_leaves_itself_alone() {
    on_local(async {
        let mut net = Net::new();
        let list = [net.reserve("a").await, net.reserve("b").await].map(|address| Neighbour::at(address.to_string()));
        for name in ["a", "b"] {
            net.start_with(name, |config| config.neighbours = list.to_vec()).await;
        }
        let entry = |relay: &str, of: usize| net.report(relay).neighbours[of].clone();
        let is_itself = |relay, of| entry(relay, of).state == NeighbourState::Itself;
        until("each has seen whom it dials", || is_itself("a", 0) && is_itself("b", 1)).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        for (relay, itself) in [("a", 0), ("b", 1)] {
            let (own, other) = (entry(relay, itself), entry(relay, 1 - itself));
            assert_eq!((own.state, own.connections, own.last_error), (NeighbourState::Itself, 0, None));
            let metrics = anabranch_relay::metrics::render(&net.report(relay));
            assert!(!metrics.contains(&format!("neighbour=\"{relay}\"")), "no alert for itself: {metrics}");
            assert_eq!(other.state, NeighbourState::Up, "the others in the list are dialled as ever");
            assert_eq!(net.report(relay).links.len(), 1);
        }
        net.stop_all().await;
    });
}
