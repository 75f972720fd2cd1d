//! Relays that choose their neighbours by themselves, over real sockets.

use crate::net::{Net, until};
use crate::on_local;
use anabranch_relay::config::Auto;
use node::trust::Role;

/// Whether a relay has links to all of these.
fn has(net: &Net, relay: &str, others: &[&str]) -> bool {
    let report = net.report(relay);
    let peers = || report.links.iter().filter(|link| link.role == Role::Relay).map(|link| link.peer.relay.as_str());
    others.iter().all(|other| peers().any(|peer| peer == *other))
}

#[test]
fn relays_that_are_told_one_address_make_a_ring_which_closes_without_that_one() {
    on_local(async {
        let mut net = Net::new();
        let mut join = Vec::new();
        for name in ["a", "b", "c", "d"] {
            let address = net.reserve(name).await.to_string();
            net.start_with(name, |config| {
                config.address = Some(address.clone());
                config.auto = Some(Auto { join: join.clone(), degree: 8 });
            })
            .await;
            // The first one is who all others know.
            join = if join.is_empty() { vec![address] } else { join };
        }
        let ring = [("a", ["b", "d"]), ("b", ["a", "c"]), ("c", ["b", "d"]), ("d", ["c", "a"])];
        until("the ring is there", || ring.iter().all(|(relay, others)| has(&net, relay, others))).await;
        net.kill("a");
        until("it has closed again", || has(&net, "b", &["d"]) && has(&net, "d", &["b"])).await;
        net.stop_all().await;
    });
}
