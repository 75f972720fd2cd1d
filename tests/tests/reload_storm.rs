//! The middle one of three relays reads its configuration anew a hundred times a minute under 50 Mbit/s, half of the time a broken one.

use anabranch_tests::flow::free_port;
use anabranch_tests::http::ask;
use anabranch_tests::programs::{Files, Process, Program};
use bench::media::Datagrams;
use bench::rig::Trial;
use link::Bitrate;
use node::clock::Clock;
use node::trust::{Direction, Role};
use serde_json::Value;
use std::io::{BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::ChildStdin;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);
const RATE: Bitrate = Bitrate::mbps(50);
const SEED: u64 = 17;

/// Broken files, and what must be said of each beside the file: field and expectation.
const BROKEN: [(&str, [&str; 2]); 6] = [
    ("listen = \"here\"", ["listen", "0.0.0.0:4400"]),
    ("[[neighbours]]\naddress = \"lon\"", ["neighbours[0].address", "host:port"]),
    ("[limits]\nmax_streems = 5", ["max_streems", "max_streams"]),
    ("[[neighbours]]\nname = \"x\"\nmax_overhead = 50.0", ["neighbours[0].max_overhead", "0 to 10"]),
    ("drain = \"soon\"", ["drain", "a duration"]),
    ("source_grace = ", ["source_grace", "value"]),
];

/// What the middle relay's file always says, and what changes: the repair towards `a`, its cost, limits, and a neighbour that nobody answers for.
fn right(fixed: &str, a: SocketAddr, nth: usize) -> String {
    let mode = ["auto", "hybrid", "arq", "fec"][nth % 4];
    let stray = if nth.is_multiple_of(2) { "[[neighbours]]\naddress = \"127.0.0.1:9\"\n" } else { "" };
    format!(
        "{fixed}source_grace = \"{}s\"\n[limits]\nmax_subscribers = {}\n[[neighbours]]\naddress = \"{a}\"\nrepair = \"{mode}\"\ncost = {}\n{stray}",
        10 + nth % 3,
        1000 + nth,
        10 + nth % 2,
    )
}

/// Writes payloads at the rate until told to stop; how many.
fn feed(mut to: ChildStdin, span: Duration) -> u64 {
    let clock = Clock::start();
    let (mut due, end) = (clock.now(), clock.now() + span);
    for (count, payload) in Datagrams::new(SEED, 1316..=1316, u64::MAX).enumerate() {
        if due >= end {
            return count as u64;
        }
        std::thread::sleep(due - clock.now());
        to.write_all(&payload).expect("the source reads");
        due += RATE.time_for(payload.len() as u64);
    }
    unreachable!("there is no end of payloads")
}

/// How many of `sent` payloads the file begins with; panics where it holds anything else.
fn intact(file: &std::path::Path, sent: u64) -> u64 {
    let mut file = BufReader::with_capacity(1 << 20, std::fs::File::open(file).unwrap());
    let mut got = vec![0; 1316];
    for (nth, payload) in Datagrams::new(SEED, 1316..=1316, sent).enumerate() {
        if file.read_exact(&mut got).is_err() {
            return nth as u64;
        }
        assert!(got == payload, "payload {nth} of {sent} is not what follows: something before it is missing");
    }
    assert_eq!(file.read(&mut got).unwrap(), 0, "more came out than went in");
    sent
}

fn storm(reloads: usize, span: Duration) {
    let trial = Trial::new().unwrap();
    let files = Files::new(&trial);
    let names = ["a", "b", "c"];
    let (listen, ops) = (names.map(|_| free_port()), names.map(|_| free_port()));
    let fixed = |nth: usize| {
        let keys = files.path().display();
        format!("name = \"{}\"\nkeys = \"{keys}\"\nlisten = \"{}\"\nops = \"{}\"\n", names[nth], listen[nth], ops[nth])
    };
    files.write("a.toml", fixed(0));
    files.write("b.toml", right(&fixed(1), listen[0], 0));
    files.write("c.toml", fixed(2) + &format!("[[neighbours]]\naddress = \"{}\"\n", listen[1]));
    names.iter().for_each(|name| files.node(&trial, name, Role::Relay));
    files.node(&trial, "studio", Role::Source);
    files.node(&trial, "viewer", Role::Sink);
    let relays: Vec<Process> = names
        .iter()
        .map(|name| Program::Relay.start(&["run", "--config", &files.text(&format!("{name}.toml"))]))
        .collect();
    let report = |nth: usize| -> Value {
        let answer = ask(ops[nth], "GET", "/api/v1/status", &Value::Null);
        answer.ok().and_then(|(_, body)| serde_json::from_str(&body).ok()).unwrap_or_default()
    };
    wait_for("all relays know all", || (0..3).all(|nth| report(nth)["overlay"]["links"] == 4));

    // A second end to end: the machine may stall, the relays may not lose.
    let keys = files.path().display().to_string();
    let publish = files.token(&trial, "publish", "**", Direction::Publish);
    let watch = files.token(&trial, "watch", "**", Direction::Subscribe);
    let (door, output) = (listen[2].to_string(), format!("file:{}", files.text("out")));
    let sink =
        ["--relay", &door, "--keys", &keys, "--name", "viewer", "--token-file", &watch, "--wait", "30s", "--json"];
    let sink = Program::Sink.start(&[&sink[..], &["--until-end", "--stream", "test/storm", &output]].concat());
    wait_for("the sink is there", || {
        report(2)["links"].as_array().is_some_and(|links| links.iter().any(|it| it["role"] == "sink"))
    });
    let door = listen[0].to_string();
    let source = ["--relay", &door, "--keys", &keys, "--name", "studio", "--token-file", &publish, "--mode", "tree"];
    let source = [&source[..], &["--deadline", "1s", "--start-delay", "1s", "test/storm=-?content=bytes"]].concat();
    let (mut source, input) = Process::start_fed(Program::Source.command().args(source));
    // What is written before the stream begins comes at once when it does, faster than any link.
    source.wait_for("published", PATIENCE);
    std::thread::sleep(Duration::from_millis(1500));
    let feeding = std::thread::spawn(move || feed(input, span));
    wait_for("media flows through the middle", || {
        let streams = report(1)["streams"].as_array().cloned().unwrap_or_default();
        streams.iter().any(|stream| stream["counters"]["received"].as_u64().is_some_and(|count| count > 0))
    });

    let clock = Clock::start();
    let begin = clock.now();
    let mut refused = 0;
    for nth in 0..reloads {
        // A little faster than the media lasts, so that it flows under the last one too.
        std::thread::sleep(begin + span.mul_f64(0.95) * nth as u32 / reloads as u32 - clock.now());
        if nth % 2 == 0 {
            files.write("b.toml", right(&fixed(1), listen[0], nth / 2));
            let (status, answer) = ask(ops[1], "POST", "/api/v1/reload", &Value::Null).unwrap();
            assert_eq!(status, 200, "{answer}");
            continue;
        }
        let (text, parts) = BROKEN[nth / 2 % BROKEN.len()];
        files.write("b.toml", text);
        let ended = Program::Relay.run(&["ctl", "reload", "--ops", &ops[1].to_string()]);
        refused += 1;
        assert_eq!(ended.code, Some(78), "{text}: {ended:?}");
        for part in ["b.toml"].iter().chain(&parts) {
            assert!(ended.stderr.contains(part), "{text}: {} lacks {part}", ended.stderr);
        }
    }

    let sent = feeding.join().unwrap();
    let source = source.wait(PATIENCE);
    let sink = sink.wait(PATIENCE);
    let last: Value = serde_json::from_str(sink.stdout.lines().last().expect("its last report")).unwrap();
    println!(
        "{sent} payloads of 1316 bytes in {span:?}, {reloads} reloads, {refused} of them refused: {}",
        last["streams"][0]["packets"]
    );
    let middle = report(1);
    assert_eq!((source.code, sink.code), (Some(0), Some(0)), "{}\n{}", source.stderr, sink.stderr);
    assert_eq!(intact(&files.file("out"), sent), sent, "lost: {last}\n{middle}");
    assert_eq!(middle["reloads"]["refused"], refused);
    assert_eq!(middle["reloads"]["done"], reloads - refused);
    assert_eq!(middle["neighbours"][0]["connections"], 1, "the link to a was not touched: {middle}");
    assert_eq!(last["connection"]["connections"], 1, "the sink noticed nothing");
    drop(relays);
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let clock = Clock::start();
    let end = clock.now() + PATIENCE;
    while !is_so() {
        assert!(clock.now() < end, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn reloads_under_fifty_megabits_lose_nothing() {
    storm(10, Duration::from_secs(5));
}

#[test]
#[ignore = "long: a hundred reloads in a minute"]
fn a_storm_of_reloads_under_fifty_megabits_loses_nothing() {
    storm(100, Duration::from_secs(60));
}
