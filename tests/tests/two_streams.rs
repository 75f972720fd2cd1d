//! Two streams from two sources to overlapping sinks at once, and a player that joins late.

use anabranch_tests::flow::{Check, Feed, Media, Publishing, Watching, account_of, free_port};
use anabranch_tests::{clean, lossy};
use bench::channel::ChannelConfig;
use bench::rig::{Rig, RigPlan, Running};
use node::clock::Clock;
use node::control::Dissemination;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);

/// Five relays, two disjoint ways between any two.
fn ring(channel: &ChannelConfig) -> Rig {
    let names = ["a", "b", "c", "d", "e"];
    let links: Vec<_> = (0..5).map(|i| (names[i], names[(i + 1) % 5], channel.clone())).collect();
    Rig::start(&RigPlan::new(1, &names, &links)).unwrap()
}

fn publish(rig: &Rig, name: &str, at: &str, mode: Dissemination) -> (Running<source::Report>, std::net::SocketAddr) {
    let input = free_port();
    let publishing = Publishing {
        name: &format!("source-{name}"),
        stream: &format!("test/{name}"),
        at,
        channel: lossy(10, 3.0),
        input: format!("udp://{input}"),
        deadline: Duration::from_millis(200),
        mode,
    };
    (publishing.start(rig), input)
}

#[test]
fn two_streams_reach_overlapping_sinks() {
    let rig = ring(&lossy(10, 3.0));
    let (one, two) = (Media::video(1), Media::video(2));
    // One sink watches both streams, two watch one each; all at different relays.
    let checks = [Check::start(&one), Check::start(&two), Check::start(&one), Check::start(&two)];
    let output = |check: &Check| format!("udp://{}", check.address).parse().unwrap();
    let stream = |name: &str, check| sink::StreamConfig::new(name.parse().unwrap(), vec![output(check)]);
    let sinks = [
        ("both", "c", vec![stream("test/one", &checks[0]), stream("test/two", &checks[1])]),
        ("first", "d", vec![stream("test/one", &checks[2])]),
        ("second", "b", vec![stream("test/two", &checks[3])]),
    ];
    let sinks: Vec<_> = sinks
        .into_iter()
        .map(|(name, at, streams)| {
            let door = rig.door(name, at, lossy(10, 3.0)).unwrap();
            let sink = rig.sink(name, sink::Config { relays: vec![door], streams, ..Default::default() }).unwrap();
            anabranch_tests::flow::wait_until_up(&sink);
            sink
        })
        .collect();
    let (source_one, input_one) = publish(&rig, "one", "a", Dissemination::Tree);
    let (source_two, input_two) = publish(&rig, "two", "e", Dissemination::Disjoint);
    std::thread::sleep(Duration::from_millis(800));
    let feeds = [Feed::start(input_one, &one), Feed::start(input_two, &two)];
    std::thread::sleep(Duration::from_secs(5));
    let sent = feeds.map(Feed::stop);
    for (check, sent) in checks.iter().zip([sent[0], sent[1], sent[0], sent[1]]) {
        let seen = check.wait_until_quiet();
        let reports = || {
            let sinks: Vec<_> = sinks.iter().map(Running::report).collect();
            account_of(&rig, &[source_one.report(), source_two.report()], &sinks)
        };
        assert_eq!(seen.compared.foreign, 0, "{}", reports());
        anabranch_tests::assert_complete(sent, seen.compared.intact, reports);
    }
}

/// A player that joins late gets a stream that it can decode from its first packet, within a second.
#[test]
fn a_late_player_starts_within_a_second_at_a_decodable_point() {
    let rig = Rig::start(&RigPlan::new(1, &["a", "b"], &[("a", "b", clean(10))])).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("clip.ts");
    std::fs::write(&file, bench::demo::CLIP).unwrap();
    let sink = Watching {
        name: "sink",
        stream: "test/film",
        at: "b",
        channel: clean(10),
        outputs: vec!["http://127.0.0.1:0/live.ts".into()],
    }
    .start(&rig);
    let publishing = Publishing {
        name: "source",
        stream: "test/film",
        at: "a",
        channel: clean(10),
        input: format!("file:{}", file.display()),
        deadline: Duration::from_millis(200),
        mode: Dissemination::Tree,
    };
    let mut config = publishing.config(&rig);
    config.streams[0].endless = true;
    let source = rig.source("source", config).unwrap();
    let report =
        sink.wait_for("some of the stream", PATIENCE, |report| report.streams[0].packets.on_time > 500).unwrap();
    let url = report.streams[0].outputs[0].output.clone();
    let address = url.strip_prefix("http://").and_then(|rest| rest.split('/').next()).unwrap();

    let clock = Clock::start();
    for round in 0..5 {
        // Anywhere within a group of pictures.
        std::thread::sleep(Duration::from_millis(137 * round));
        let start = clock.now();
        let mut player = TcpStream::connect(address).unwrap();
        player.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        write!(player, "GET /live.ts HTTP/1.1\r\nHost: {address}\r\n\r\n").unwrap();
        let packets = body(&mut player, 188 * 40);
        let took = clock.now() - start;
        println!("player {round}: 40 packets after {took:?}");
        assert!(took < Duration::from_secs(1), "{took:?}");
        assert_decodable(&packets);
    }
    drop(source);
}

/// The first `size` bytes of the body, chunked or not.
fn body(player: &mut TcpStream, size: usize) -> Vec<u8> {
    let mut all = Vec::new();
    let mut room = [0; 4096];
    loop {
        let n = player.read(&mut room).unwrap();
        assert!(n > 0, "the server closed the connection");
        all.extend_from_slice(&room[..n]);
        let Some(end) = all.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&all[..end]).to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 200"), "{head}");
        let body = all[end + 4..].to_vec();
        let body = if head.contains("transfer-encoding: chunked") { unchunk(&body) } else { body };
        if body.len() >= size {
            return body[..size].to_vec();
        }
    }
}

fn unchunk(mut body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(end) = body.windows(2).position(|two| two == b"\r\n") {
        let Ok(size) = usize::from_str_radix(&String::from_utf8_lossy(&body[..end]), 16) else { break };
        let chunk = &body[end + 2..];
        out.extend_from_slice(&chunk[..size.min(chunk.len())]);
        if chunk.len() < size + 2 {
            break;
        }
        body = &chunk[size + 2..];
    }
    out
}

/// Program association, then the program map, then video that begins with a random access point.
fn assert_decodable(packets: &[u8]) {
    let pid = |packet: &[u8]| u16::from_be_bytes([packet[1] & 0x1F, packet[2]]);
    let all: Vec<&[u8]> = packets.chunks(188).collect();
    assert!(all.iter().all(|packet| packet[0] == 0x47));
    let pat = all.iter().position(|packet| pid(packet) == 0).expect("a program association table");
    // ISO/IEC 13818-1, 2.4.4.3: the first program's map PID stands behind header, pointer and 10 bytes of table.
    let at = all[pat];
    let pmt_pid = u16::from_be_bytes([at[15] & 0x1F, at[16]]);
    let pmt = all.iter().position(|packet| pid(packet) == pmt_pid).expect("a program map table");
    let random_access = |packet: &&[u8]| packet[3] & 0x20 != 0 && packet[4] > 0 && packet[5] & 0x40 != 0;
    let first_video = all.iter().position(random_access).expect("a random access point");
    assert!(pat < pmt && pmt < first_video, "tables at {pat} and {pmt}, random access at {first_video}");
    assert!(pat == 0, "something before the tables");
}
