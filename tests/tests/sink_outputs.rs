//! One output of a sink is changed, and the others do not notice.

use anabranch_tests::flow::{Check, Feed, Media, free_port};
use anabranch_tests::programs::{Files, Process, Program};
use bench::rig::Trial;
use link::Bitrate;
use node::trust::{Direction, Role};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

/// What the sink's configuration says, with these outputs of its stream.
fn config(outputs: &[String]) -> String {
    format!("report_interval = \"100ms\"\n[[streams]]\nname = \"test/news\"\noutputs = {outputs:?}\n")
}

/// Writes a configuration and has it read; waits for the words about it.
fn reload(sink: &mut Process, file: &std::path::Path, text: &str, words: &str) {
    std::fs::write(file, text).unwrap();
    sink.signal("HUP");
    sink.wait_for(words, PATIENCE);
}

#[test]
fn outputs_come_change_and_go_while_another_loses_nothing() {
    let trial = Trial::new().unwrap();
    let files = Files::new(&trial);
    for (name, role) in [("fra", Role::Relay), ("studio", Role::Source), ("hall", Role::Sink)] {
        files.node(&trial, name, role);
    }
    let publish = files.token(&trial, "publish", "test/*", Direction::Publish);
    let watch = files.token(&trial, "watch", "test/*", Direction::Subscribe);
    let media = Media { rate: Bitrate::mbps(8), ..Media::video(3) };
    let [first, second, third] = [(); 3].map(|()| Check::start(&media));
    let to = |check: &Check| format!("udp://{}", check.address);
    let (at, input, keys) = (free_port().to_string(), free_port(), files.path().display().to_string());
    let file = files.path().join("sink.toml");
    std::fs::write(&file, config(&[to(&first)])).unwrap();
    let _relay = Program::Relay.start(&["run", "--name", "fra", "--listen", &at, "--keys", &keys]);
    let sink_arguments = ["--relay", &at, "--name", "hall", "--token-file", &watch, "--keys", &keys, "--json"];
    let file_text = file.display().to_string();
    let mut sink = Program::Sink.start(&[&sink_arguments[..], &["--config", &file_text]].concat());
    let from = format!("udp://{input}");
    let source_arguments = ["--relay", &at, "--name", "studio", "--token-file", &publish, "--keys", &keys];
    let mut source =
        Program::Source.start(&[&source_arguments[..], &["--json", "--stream", "test/news", &from]].concat());
    source.wait_for("\"state\":\"live\"", PATIENCE);
    let feed = Feed::start(input, &media);
    first.wait_for(500, PATIENCE);

    // One comes, another one takes its place, a server for players comes and goes and comes; then the first is alone again.
    reload(&mut sink, &file, &config(&[to(&first), to(&second)]), &format!("{} added", to(&second)));
    second.wait_for(500, PATIENCE);
    let players = free_port();
    let server = format!("http://{players}/live.ts");
    let record = format!("file:{}", files.path().join("record.ts").display());
    let recorded = || std::fs::read(files.path().join("record.ts")).unwrap_or_default();
    reload(
        &mut sink,
        &file,
        &config(&[to(&third), server.clone(), record.clone(), to(&first)]),
        &format!("{} taken away", to(&second)),
    );
    third.wait_for(500, PATIENCE);
    // The path goes from one output to the next, and what is recorded is kept while another way of recording takes over.
    let [server, anew] = [format!("{server}?start=now"), format!("{record}?start=now")];
    let before = recorded();
    reload(&mut sink, &file, &config(&[to(&first), server.clone(), anew.clone()]), "\"done\":3");
    assert!(std::net::TcpStream::connect(players).is_ok());
    let beside = config(&[to(&first), server, "file:/nonexistent/x.ts".into(), record]);
    reload(&mut sink, &file, &beside, "\"refused\":1");
    reload(&mut sink, &file, &config(&[to(&first), anew]), "\"done\":4");
    let clock = node::clock::Clock::start();
    let end = clock.now() + PATIENCE;
    while std::net::TcpStream::connect(players).is_ok() || recorded().len() <= before.len() {
        assert!(clock.now() < end, "the server is still there, or nothing more is recorded");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!before.is_empty() && recorded().starts_with(&before));

    // Broken ones change nothing: neither of these, nor what is in force.
    for (text, parts) in [
        ("outputs = 5".to_owned(), vec!["sink.toml", "outputs"]),
        (config(&[to(&first), "srt://h:1".into()]), vec!["sink.toml", "expected udp://"]),
        (config(&[]), vec!["sink.toml", "has no output"]),
        (config(&[to(&first), "file:/nonexistent/x.ts".into()]), vec!["file:/nonexistent/x.ts", "cannot create"]),
        (config(&[to(&first)]).replace("test/news", "test/other"), vec!["streams", "restart"]),
        ("wiat = \"1s\"".to_owned(), vec!["sink.toml", "wiat", "wait"]),
    ] {
        let before = sink.stderr().len();
        reload(&mut sink, &file, &text, "is refused");
        let clock = node::clock::Clock::start();
        let end = clock.now() + PATIENCE;
        while !parts.iter().all(|part| sink.stderr()[before..].contains(part)) {
            assert!(clock.now() < end, "{parts:?}: {}", &sink.stderr()[before..]);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    sink.wait_for("\"refused\":7", PATIENCE);
    first.wait_for(500, PATIENCE);

    let sent = feed.stop();
    std::thread::sleep(Duration::from_secs(1));
    let seen = first.seen();
    assert_eq!((seen.compared.intact, seen.compared.skipped, seen.compared.foreign), (sent, 0, 0), "{seen:?}");
    println!("{sent} datagrams, none lost at the output that was not touched");
}
