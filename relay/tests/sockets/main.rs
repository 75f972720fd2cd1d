//! Relays over real sockets on loopback, several in one process.

mod api;
mod auto;
#[path = "../common/clients.rs"]
mod clients;
mod events;
mod myself;
mod net;
mod parallel;
mod reload;

use anabranch_relay::report::NeighbourState;
use anabranch_relay::{Neighbour, Report};
use clients::{Source, ms};
use net::{Net, until};
use node::control::{CloseCode, Dissemination};
use node::exit::Exit;
use node::trust::{Direction, Revoked, revoke};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn on_local(test: impl Future<Output = ()>) {
    let done = node::host::block_on_local(async {
        test.await;
        Ok(())
    });
    done.expect("the runtime starts");
}

#[test]
fn a_line_of_three_carries_a_stream_whole() {
    on_local(async {
        let mut net = Net::line().await;
        let sinks = [net.sink("c", "one").await, net.sink("c", "two").await];
        let source = net.source("a", "camera", Source::new(5)).await;
        for sink in &sinks {
            sink.ready().await;
        }
        source.send(1000).await;
        for sink in &sinks {
            sink.have(5, 1000).await;
            sink.with(|sink| sink.assert_whole(5, 0..1000));
        }
        until("the report is of now", || net.report("b").streams[0].counters.unique == 1000).await;
        let report = net.report("b");
        assert_eq!(report.streams[0].counters.forwarded, 1000, "one copy for both");
        assert_eq!((report.overlay.relays.len(), report.overlay.links), (3, 4));
        net.stop_all().await;
    });
}

#[test]
fn relays_on_several_threads_carry_a_stream_whole_to_many() {
    on_local(async {
        let mut net = Net::new();
        let mut before: Option<std::net::SocketAddr> = None;
        for name in ["a", "b", "c"] {
            let dial = before.map(|address| Neighbour::at(address.to_string()));
            let started = net.start_with(name, |config| {
                config.threads = 3;
                config.neighbours.extend(dial);
            });
            before = Some(started.await);
        }
        net.linked(4).await;
        let mut sinks = Vec::new();
        for nth in 0..12 {
            sinks.push(net.sink("c", &format!("sink-{nth}")).await);
        }
        let source = net.source("a", "camera", Source::new(5)).await;
        for sink in &sinks {
            sink.ready().await;
        }
        source.send(1000).await;
        for sink in &sinks {
            sink.have(5, 1000).await;
            sink.with(|sink| sink.assert_whole(5, 0..1000));
        }
        // Whoever is on another thread is let go as well.
        net.stop_all().await;
    });
}

#[test]
fn two_disjoint_ways_lose_nothing_when_one_dies() {
    on_local(async {
        let mut net = Net::new();
        net.start("a", &[]).await;
        net.start("b", &["a"]).await;
        net.start("c", &["a"]).await;
        net.start("d", &["b", "c"]).await;
        net.linked(8).await;
        let sink = net.sink("d", "viewer").await;
        let source = net.source("a", "camera", Source::new(1).mode(Dissemination::Disjoint)).await;
        sink.ready().await;
        until("both ways carry", || net.report("d").streams.first().is_some_and(|s| s.inputs.len() == 2)).await;
        source.send(500).await;
        net.kill("b");
        source.send(1000).await;
        sink.have(1, 1500).await;
        sink.with(|sink| {
            sink.assert_whole(1, 0..1500);
            assert_eq!(sink.opens, 1, "the sink noticed nothing");
        });
        let counters = net.report("d").streams[0].counters;
        assert!(counters.duplicates > 0, "{counters:?}");
        net.stop_all().await;
    });
}

#[test]
fn a_middle_relay_that_is_killed_and_restarted_carries_on() {
    on_local(async {
        let mut net = Net::line().await;
        let sink = net.sink("c", "viewer").await;
        let source = net.source("a", "camera", Source::new(1)).await;
        sink.ready().await;
        source.send(300).await;
        sink.have(1, 300).await;
        net.kill("b");
        tokio::time::sleep(ms(700)).await;
        net.restart("b").await;
        net.linked(4).await;
        until("the way is back", || net.report("c").streams.first().is_some_and(|s| !s.inputs.is_empty())).await;
        // The switch to the new graph takes its time; then everything comes again.
        tokio::time::sleep(ms(300)).await;
        let from = source.next();
        source.send(300).await;
        sink.have(1, 600).await;
        sink.with(|sink| sink.assert_whole(1, from..from + 300));
        net.stop_all().await;
    });
}

#[test]
fn names_rights_and_absence() {
    on_local(async {
        let mut net = Net::line().await;
        let early = net.sink("c", "early").await;
        until("the early sink was told", || early.with(|sink| sink.subscribed == [false])).await;
        let owner = net.source("a", "camera", Source::new(1)).await;
        early.ready().await;
        let thief = net.source("a", "thief", Source::new(2)).await;
        until("the thief is refused", || thief.with(|source| source.refused == [CloseCode::NameTaken])).await;
        let again = net.source("a", "camera", Source::new(3)).await;
        until("the restarted source takes over", || again.with(|source| source.handle.is_some())).await;
        until("the old one is told", || owner.with(|source| source.refused == [CloseCode::Replaced])).await;
        again.send(200).await;
        early.have(3, 200).await;
        again.unpublish();
        until("the end is told", || early.with(|sink| sink.closes.contains(&true))).await;
        let barred = net.client("c", "barred", Direction::Subscribe, "other/*", clients::Sink::default()).await;
        until("no right", || barred.with(|sink| sink.refused == [CloseCode::Forbidden])).await;
        net.stop_all().await;
    });
}

#[test]
fn two_relays_that_dial_each_other_have_one_link() {
    on_local(async {
        let mut net = Net::new();
        let (a, b) = (net.reserve("a").await, net.reserve("b").await);
        net.start_with("a", |config| config.neighbours = vec![Neighbour::at(b.to_string())]).await;
        net.start_with("b", |config| config.neighbours = vec![Neighbour::at(a.to_string())]).await;
        until("one link at each end", || {
            ["a", "b"].iter().all(|name| {
                let report = net.report(name);
                report.links.len() == 1 && report.neighbours.iter().all(|n| n.state == NeighbourState::Up)
            })
        })
        .await;
        tokio::time::sleep(ms(1500)).await;
        for name in ["a", "b"] {
            let report = net.report(name);
            assert_eq!((report.links.len(), report.overlay.links), (1, 2), "{name}");
            assert!(report.neighbours[0].connections <= 2, "{name} dialled on: {:?}", report.neighbours);
        }
        net.stop_all().await;
    });
}

#[test]
fn a_neighbour_that_is_not_who_it_should_be_is_refused() {
    on_local(async {
        let mut net = Net::new();
        let a = net.start("a", &[]).await;
        net.start_with("b", |config| {
            let name = Some("z".parse().expect("valid"));
            config.neighbours = vec![Neighbour { name, ..Neighbour::at(a.to_string()) }];
        })
        .await;
        until("refused", || net.report("b").neighbours[0].state == NeighbourState::Refused).await;
        let why = net.report("b").neighbours[0].last_error.clone().expect("a reason");
        assert!(why.contains('z') && why.contains('a'), "{why}");
        let foreign = Net::new();
        let mut stranger = foreign;
        stranger.start_with("s", |config| config.neighbours = vec![Neighbour::at(a.to_string())]).await;
        until("a stranger is refused", || stranger.report("s").neighbours[0].state == NeighbourState::Refused).await;
        assert!(net.report("a").links.is_empty());
        stranger.stop_all().await;
        net.stop_all().await;
    });
}

#[test]
fn a_reload_changes_the_policy_of_a_link_and_adds_neighbours() {
    on_local(async {
        let mut net = Net::new();
        let a = net.start("a", &[]).await;
        let c = net.start("c", &[]).await;
        net.start("b", &["a"]).await;
        net.linked_between("b", "a").await;
        let mut config = net.config("b");
        config.neighbours = vec![
            Neighbour { repair: link::policy::RepairMode::Duplicate, ..Neighbour::at(a.to_string()) },
            Neighbour::at(c.to_string()),
        ];
        net.reload("b", config).await;
        until("the new policy is in force", || {
            let report = net.report("b");
            report
                .links
                .iter()
                .any(|l| l.peer.relay.as_str() == "a" && l.policy.mode == link::policy::RepairMode::Duplicate)
        })
        .await;
        net.linked_between("b", "c").await;
        assert_eq!(net.report("b").neighbours[0].connections, 1, "the link to a was not touched");
        net.kill("a");
        net.restart("a").await;
        until("the link is back", || net.report("b").neighbours[0].connections == 2).await;
        until("and its policy is the new one", || {
            let report = net.report("b");
            report
                .links
                .iter()
                .any(|l| l.peer.relay.as_str() == "a" && l.policy.mode == link::policy::RepairMode::Duplicate)
        })
        .await;
        net.stop_all().await;
    });
}

#[test]
fn the_operations_port_answers() {
    on_local(async {
        let mut net = Net::new();
        net.start_with("a", |config| config.ops = Some(([127, 0, 0, 1], 0).into())).await;
        let ops = net.report("a").ops.expect("bound");
        let get = async |path: &str| {
            let mut stream = TcpStream::connect(ops).await.expect("it listens");
            let request = format!("GET {path} HTTP/1.0\r\n\r\n");
            stream.write_all(request.as_bytes()).await.expect("it reads");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.expect("it answers");
            answer
        };
        assert!(get("/healthz").await.contains("200 OK"));
        assert!(get("/readyz").await.contains("200 OK"));
        assert!(get("/metrics").await.contains("anabranch_relay_ready 1\n"));
        let status = get("/api/v1/status").await;
        let body = status.split_once("\r\n\r\n").expect("a body").1;
        let value: serde_json::Value = serde_json::from_str(body).expect("JSON");
        assert_eq!(value["name"], "a");
        assert!(get("/nothing").await.contains("404"));
        let stopping = net.begin_stop("a");
        until("it drains", || net.report("a").draining).await;
        assert!(get("/readyz").await.contains("503"));
        let last: Report = stopping.await.expect("no panic").expect("in good order");
        assert!(last.draining);
    });
}

#[test]
fn what_cannot_be_bound_is_said() {
    on_local(async {
        let mut net = Net::new();
        let a = net.start("a", &[]).await;
        let config = anabranch_relay::Config { listen: vec![a], ..net.fresh("b") };
        let failure = net.fail(config).await;
        assert_eq!(failure.exit, Exit::Unavailable);
        assert!(failure.message.contains(&a.to_string()), "{failure}");
        let nobody = anabranch_relay::Config { identity: None, ..net.fresh("b") };
        assert_eq!(net.fail(nobody).await.exit, Exit::Config);
        net.stop_all().await;
    });
}

#[test]
fn who_is_revoked_is_cut_off_within_seconds_and_nobody_else() {
    on_local(async {
        let mut net = Net::new();
        let directory = tempfile::tempdir().expect("a directory");
        let keys = directory.path();
        net.keys_in(keys, "a");
        net.keys_in(keys, "b");
        let from_files = |config: &mut anabranch_relay::Config, name: &str| {
            config.identity = None;
            (config.keys, config.name) = (Some(keys.to_owned()), Some(name.parse().expect("valid")));
        };
        let a = net.start_with("a", |config| from_files(config, "a")).await;
        net.start_with("b", |config| {
            from_files(config, "b");
            config.neighbours = vec![Neighbour::at(a.to_string())];
        })
        .await;
        net.linked(2).await;
        let (stays, goes) = (net.sink("a", "stays").await, net.sink("a", "goes").await);
        let source = net.source("a", "camera", Source::new(1)).await;
        stays.ready().await;
        goes.ready().await;
        source.send(100).await;
        goes.have(1, 100).await;

        let cut = std::time::Duration::from_secs(5);
        revoke(keys, &[Revoked::Token("goes".to_owned())]).expect("the authority is there");
        let gone = until("the sink is cut off", || goes.with(|sink| sink.open.is_empty()));
        tokio::time::timeout(cut, gone).await.expect("within seconds");
        source.send(100).await;
        stays.have(1, 200).await;
        stays.with(|sink| sink.assert_whole(1, 0..200));
        assert_eq!(goes.with(|sink| sink.count(1)), 100, "nothing comes after");

        let linked = |net: &Net| net.report("a").links.iter().any(|link| link.peer.relay.as_str() == "b");
        assert!(linked(&net));
        revoke(keys, &[Revoked::File(keys.join("b.crt"))]).expect("the authority is there");
        let gone = until("the relay is cut off", || !linked(&net));
        tokio::time::timeout(cut, gone).await.expect("within seconds");
        source.send(100).await;
        stays.have(1, 300).await;
        tokio::time::sleep(ms(500)).await;
        assert!(!linked(&net), "and does not come back");
        net.stop_all().await;
    });
}
