//! Reloads under load, by the operations port and by push, as SIGHUP does: nothing is lost, no link is touched, mistakes are refused and named.

use crate::clients::{Source, ms};
use crate::net::{Net, until};
use crate::on_local;
use anabranch_relay::server::Loader;
use anabranch_relay::{Config, Neighbour};
use link::policy::RepairMode;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Reads the file as the program does, with the identity and addresses of the running relay.
fn loader(file: PathBuf, base: Config) -> Loader {
    Box::new(move || {
        let read = Config::load(&file)?;
        Ok(Config {
            listen: base.listen.clone(),
            ops: base.ops,
            identity: base.identity.clone(),
            report_interval: base.report_interval,
            drain: base.drain,
            ..read
        })
    })
}

pub(crate) async fn post(ops: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(ops).await.expect("it listens");
    let request = format!("POST {path} HTTP/1.0\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("it answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
    (head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status"), body.to_owned())
}

/// Broken files, and what must be said of each beside the file: field and expectation.
const BROKEN: [(&str, [&str; 2]); 5] = [
    ("listen = \"here\"", ["listen", "0.0.0.0:4400"]),
    ("[[neighbours]]\naddress = \"lon\"", ["neighbours[0].address", "host:port"]),
    ("[limits]\nmax_streems = 5", ["max_streems", "max_streams"]),
    ("[[neighbours]]\nname = \"x\"\nmax_overhead = 50.0", ["neighbours[0].max_overhead", "0 to 10"]),
    ("source_grace = ", ["source_grace", "value"]),
];

/// A right file: the policy towards `a` changes each time, and a neighbour that nobody answers for comes and goes.
fn right(a: SocketAddr, n: usize) -> String {
    let mode = ["auto", "hybrid", "duplicate", "arq"][n % 4];
    let stray = if n.is_multiple_of(2) { "[[neighbours]]\naddress = \"127.0.0.1:9\"\n" } else { "" };
    format!(
        "source_grace = \"{}s\"\n[limits]\nmax_subscribers = {}\n[[neighbours]]\naddress = \"{a}\"\nrepair = \"{mode}\"\ncost = {}\n{stray}",
        10 + n % 3,
        1000 + n,
        10 + n % 2,
    )
}

async fn storm(reloads: usize, span: Duration) {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("relay.toml");
    let mut net = Net::new();
    let a = net.start("a", &[]).await;
    let base = Config {
        ops: Some(([127, 0, 0, 1], 0).into()),
        neighbours: vec![Neighbour::at(a.to_string())],
        ..net.fresh("b")
    };
    net.start_loading("b", base.clone(), loader(file.clone(), base)).await;
    net.start("c", &["b"]).await;
    net.linked(4).await;
    let sink = net.sink("c", "viewer").await;
    let source = net.source("a", "camera", Source::new(1)).await;
    sink.ready().await;
    let ops = net.report("b").ops.expect("bound");
    let storm = async {
        let mut ticks = tokio::time::interval(span / reloads as u32);
        for n in 0..reloads {
            ticks.tick().await;
            if n % 2 == 0 {
                write(&file, &right(a, n / 2));
                let (status, answer) = post(ops, "/api/v1/reload").await;
                assert_eq!(status, 200, "{answer}");
            } else {
                let (text, parts) = BROKEN[n / 2 % BROKEN.len()];
                write(&file, text);
                let (status, why) = post(ops, "/api/v1/reload").await;
                assert_eq!(status, 422, "{text}: {why}");
                for part in ["relay.toml"].iter().chain(&parts) {
                    assert!(why.contains(part), "{text}: {why} lacks {part}");
                }
            }
        }
    };
    let packets = span.as_millis() as u32;
    tokio::join!(storm, source.send(packets));
    sink.have(1, packets as usize).await;
    sink.with(|sink| {
        sink.assert_whole(1, 0..packets);
        assert_eq!(sink.opens, 1, "the sink noticed nothing");
    });
    until("the report is of now", || net.report("b").reloads.done + net.report("b").reloads.refused == reloads as u64)
        .await;
    let report = net.report("b");
    assert_eq!(report.reloads.refused as usize, reloads / 2);
    assert_eq!(report.neighbours[0].connections, 1, "the link to a was not touched");
    let mode = report.links.iter().find(|link| link.peer.relay.as_str() == "a").expect("it stands").policy.mode;
    let last = (reloads - 1) / 2 % 4;
    assert_eq!(mode, [RepairMode::Auto, RepairMode::Hybrid, RepairMode::Duplicate, RepairMode::Arq][last]);
    println!("{reloads} reloads in {span:?}, half of them broken: {packets} packets of 1316 bytes, all there");
    net.stop_all().await;
}

fn write(file: &Path, text: &str) {
    std::fs::write(file, text).expect("it can be written");
}

#[test]
fn reloads_under_load_lose_nothing() {
    on_local(storm(12, Duration::from_secs(2)));
}

#[test]
fn a_neighbour_that_is_gone_from_the_configuration_is_let_go_without_loss() {
    on_local(async {
        let mut net = Net::new();
        let a = net.start("a", &[]).await;
        net.start("c", &[]).await;
        net.start("b", &["a", "c"]).await;
        net.linked(4).await;
        let mut config = net.config("b");
        config.neighbours.truncate(1);
        assert_eq!(config.neighbours[0].address.as_deref(), Some(a.to_string().as_str()));
        net.reload("b", config.clone()).await;
        until("the link is closed", || net.report("b").links.len() == 1).await;
        until("all know", || net.report("a").overlay.links == 2).await;
        tokio::time::sleep(ms(300)).await;
        assert_eq!((net.report("b").links.len(), net.report("b").neighbours.len()), (1, 1));
        config.neighbours.push(Neighbour::at(net.report("c").listen[0].to_string()));
        net.reload("b", config).await;
        net.linked(4).await;
        net.stop_all().await;
    });
}

#[test]
fn a_neighbour_whose_link_was_drained_is_let_go_as_well() {
    on_local(async {
        let mut net = Net::new();
        net.start("a", &[]).await;
        let c = net.start("c", &[]).await;
        let to_c = Neighbour::at(c.to_string());
        net.start_with("b", |config| {
            config.ops = Some(([127, 0, 0, 1], 0).into());
            config.neighbours = vec![to_c];
        })
        .await;
        net.linked_between("b", "c").await;
        let (status, answer) = post(net.report("b").ops.expect("bound"), "/api/v1/drain?link=c").await;
        assert_eq!(status, 200, "{answer}");
        let mut config = net.config("b");
        config.neighbours.clear();
        net.reload("b", config.clone()).await;
        until("the link is closed", || net.report("b").links.is_empty()).await;
        config.neighbours.push(Neighbour::at(c.to_string()));
        net.reload("b", config).await;
        until("nothing of the drain is left", || net.report("b").overlay.links == 2).await;
        net.stop_all().await;
    });
}

#[test]
fn each_entry_of_a_new_configuration_has_a_place_of_its_own() {
    on_local(async {
        let mut net = Net::new();
        let a = net.start("a", &[]).await.to_string();
        let named = |address: &str| Neighbour { name: Some("a".parse().expect("valid")), ..Neighbour::at(address) };
        let before = named(&a);
        net.start_with("b", |config| config.neighbours = vec![before]).await;
        net.linked(2).await;
        let mut config = net.config("b");
        config.neighbours = vec![Neighbour::at(a.as_str()), named("127.0.0.1:9")];
        net.reload("b", config).await;
        until("it is read", || net.report("b").reloads.done == 1).await;
        let addresses: Vec<_> = net.report("b").neighbours.into_iter().filter_map(|known| known.address).collect();
        assert_eq!(addresses, [a, "127.0.0.1:9".to_owned()]);
        net.stop_all().await;
    });
}
