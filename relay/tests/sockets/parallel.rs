//! Two links between two relays over real sockets, from two addresses of one machine.

use crate::api::{ask, get};
use crate::clients::{Source, ms};
use crate::net::{Net, until};
use crate::on_local;
use anabranch_relay::Neighbour;
use link::policy::RepairMode;
use node::trust::Role;
use std::net::SocketAddr;

fn links(net: &Net, relay: &str) -> Vec<String> {
    let report = net.report(relay);
    let relays = report.links.iter().filter(|link| link.role == Role::Relay);
    let mut links: Vec<String> = relays.map(|link| link.peer.to_string()).collect();
    links.sort();
    links
}

/// `a`, and `b`, which dials it twice.
async fn pair() -> (Net, SocketAddr) {
    let mut net = Net::new();
    let a = net.start("a", &[]).await;
    let fibre = Neighbour {
        name: Some("a".parse().expect("valid")),
        link: Some("fibre".parse().expect("valid")),
        bind: Some([127, 0, 0, 2].into()),
        repair: RepairMode::Hybrid,
        ..Neighbour::at(a.to_string())
    };
    net.start_with("b", |config| {
        config.ops = Some(([127, 0, 0, 1], 0).into());
        config.neighbours = vec![Neighbour::at(a.to_string()), fibre];
    })
    .await;
    net.linked(4).await;
    (net, a)
}

#[test]
fn each_has_its_connection_its_address_and_its_policy() {
    on_local(async {
        let (mut net, _) = pair().await;
        assert_eq!(
            (links(&net, "a"), links(&net, "b")),
            (vec!["b".into(), "b~fibre".into()], vec!["a".into(), "a~fibre".into()])
        );
        let from = |link: &str| {
            let report = net.report("a");
            report
                .links
                .iter()
                .find(|known| known.peer.to_string() == link)
                .expect("it stands")
                .address
                .ip()
                .to_string()
        };
        assert_eq!((from("b"), from("b~fibre")), ("127.0.0.1".into(), "127.0.0.2".into()));
        let ops = net.report("b").ops.expect("bound");
        let mode = async |link: &str| {
            let answer = get(ops, &format!("/api/v1/links/b/{link}")).await.json();
            assert_eq!((answer["to"].as_str(), answer["up"].as_bool()), (Some(link), Some(true)));
            answer["policy"]["mode"].as_str().expect("a mode").to_owned()
        };
        assert_eq!((mode("a").await, mode("a~fibre").await), ("auto".into(), "hybrid".into()));
        let json = "Content-Type: application/json\r\n";
        let set = ask(ops, "PUT", "/api/v1/links/b/a~fibre", json, r#"{"mode":"duplicate"}"#).await;
        assert_eq!(set.status, 200, "{}", set.body);
        assert_eq!((mode("a").await, mode("a~fibre").await), ("auto".into(), "duplicate".into()));
        let none = get(ops, "/api/v1/links/b/a~sat").await;
        assert!(none.status == 404 && none.body.contains("a~fibre"), "{}", none.body);
        let metrics = get(ops, "/metrics").await.body;
        for label in ["peer=\"a\"", "peer=\"a~fibre\"", "neighbour=\"a~fibre\""] {
            assert!(metrics.contains(label), "{label}");
        }
        net.stop_all().await;
    });
}

#[test]
fn a_stream_stays_whole_while_links_come_and_go() {
    on_local(async {
        let (mut net, a) = pair().await;
        let sink = net.sink("b", "viewer").await;
        let source = net.source("a", "camera", Source::new(3)).await;
        sink.ready().await;
        let changes = async {
            let both = net.config("b").neighbours;
            for kept in [&both[..1], &both[..], &both[1..], &both[..]] {
                net.reload("b", anabranch_relay::Config { neighbours: kept.to_vec(), ..net.config("b") }).await;
                let wanted: Vec<String> = kept
                    .iter()
                    .map(|entry| entry.link.as_ref().map_or_else(|| "a".into(), |link| format!("a~{link}")))
                    .collect();
                until("the links are those of the configuration", || links(&net, "b") == wanted).await;
                tokio::time::sleep(ms(300)).await;
            }
        };
        tokio::join!(changes, source.send(6000));
        sink.have(3, 6000).await;
        sink.with(|sink| sink.assert_whole(3, 0..6000));
        assert_eq!(net.report("a").listen[0], a);
        net.stop_all().await;
    });
}

#[test]
fn a_link_whose_address_is_not_there_says_so_and_the_other_stands() {
    on_local(async {
        let mut net = Net::new();
        let a = net.start("a", &[]).await;
        // For documentation (RFC 5737): no machine has it.
        let bind = Some([192, 0, 2, 7].into());
        let (name, link) = (Some("a".parse().expect("valid")), Some("sat".parse().expect("valid")));
        let sat = Neighbour { name, link, bind, ..Neighbour::at(a.to_string()) };
        let both = vec![Neighbour::at(a.to_string()), sat];
        net.start_with("b", |config| config.neighbours = both).await;
        net.linked(2).await;
        until("it says why", || {
            let error = net.report("b").neighbours[1].last_error.clone().unwrap_or_default();
            error.contains("192.0.2.7")
        })
        .await;
        assert_eq!(links(&net, "b"), ["a"]);
        let mut config = net.config("b");
        config.neighbours[1].bind = None;
        net.reload("b", config).await;
        net.linked(4).await;
        net.stop_all().await;
    });
}
