//! Nobody reads what the programs print: live media goes on.

use anabranch_tests::flow::{Check, Feed, Media, free_port};
use anabranch_tests::programs::Program;
use bench::rig::Trial;
use link::Bitrate;
use node::trust::{Direction, Role};
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

/// A relay, a source and a sink as processes, each printing statistics every 10 ms and a log in full detail.
struct Lab {
    children: Vec<(&'static str, Child)>,
    input: SocketAddr,
    _files: anabranch_tests::programs::Files,
}

impl Lab {
    /// Nothing of what they print is read.
    fn start(output: SocketAddr) -> Lab {
        let trial = Trial::new().unwrap();
        let files = anabranch_tests::programs::Files::new(&trial);
        for (name, role) in [("fra", Role::Relay), ("studio", Role::Source), ("hall", Role::Sink)] {
            files.node(&trial, name, role);
        }
        let publish = files.token(&trial, "publish", "test/*", Direction::Publish);
        let watch = files.token(&trial, "watch", "test/*", Direction::Subscribe);
        let (at, input) = (free_port().to_string(), free_port());
        let (keys, from, to) =
            (files.path().display().to_string(), format!("udp://{input}"), format!("udp://{output}"));
        let start = |program: Program, arguments: &[&str]| {
            let loud = ["--keys", &keys, "--json", "--interval", "10ms", "--log", "trace"];
            spawn(program.command().args(arguments).args(loud))
        };
        let client = |name: &'static str, token: &str| {
            ["--relay", &at, "--name", name, "--token-file", token, "--stream", "test/news"].map(str::to_owned)
        };
        let started = |program, name, token: &str, last: &str| {
            let arguments = client(name, token);
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain([last]).collect();
            start(program, &arguments)
        };
        let relay = start(Program::Relay, &["run", "--name", "fra", "--listen", &at]);
        let sink = started(Program::Sink, "hall", &watch, &to);
        let source = started(Program::Source, "studio", &publish, &from);
        Lab { children: vec![("relay", relay), ("sink", sink), ("source", source)], input, _files: files }
    }

    fn all_run(&mut self) {
        for (name, child) in &mut self.children {
            assert!(matches!(child.try_wait(), Ok(None)), "{name} has ended");
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for (_, child) in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn spawn(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// How many bytes wait in a pipe, as far as one read tells.
fn first_read(pipe: &mut impl Read) -> usize {
    let mut room = vec![0; 1 << 20];
    pipe.read(&mut room).unwrap()
}

#[test]
fn media_flows_on_while_nobody_reads_what_the_programs_print() {
    let media = Media { rate: Bitrate::mbps(2), ..Media::video(1) };
    let check = Check::start(&media);
    let mut lab = Lab::start(check.address);
    let feed = Feed::start(lab.input, &media);
    check.wait_for(200, PATIENCE);
    // A pipe holds 64 KiB, the queue before it four times as much: in this time each program has printed more than both.
    std::thread::sleep(Duration::from_secs(8));
    check.reset_gap();
    check.wait_for(500, PATIENCE);
    let seen = check.seen();
    assert!(seen.longest_gap < Duration::from_secs(1), "{seen:?}");
    drop(feed);
    lab.all_run();
    for (name, child) in &mut lab.children {
        // What comes out now begins with the first line and holds whole lines only.
        let mut out = child.stdout.take().unwrap();
        let waited = first_read(&mut out);
        println!("{name}: {waited} bytes waited in its pipe");
        // Of 16 pages, each at least half full: a line that does not fit what is left of one begins another.
        assert!(waited > 32_768, "{name}: its standard output was never full: {waited}");
        let mut lines = BufReader::new(out).lines().skip(1);
        for _ in 0..20 {
            let line = lines.next().unwrap().unwrap();
            let report: serde_json::Value =
                serde_json::from_str(&line).unwrap_or_else(|e| panic!("{name}: {e}: {line}"));
            assert!(report.is_object());
        }
        if *name == "relay" {
            let reports = lines.map(|line| serde_json::from_str::<serde_json::Value>(&line.unwrap()).unwrap());
            let told =
                reports.take(5000).find_map(|report| report["lines_dropped"].as_u64().filter(|lines| *lines > 0));
            assert!(told.is_some(), "what was thrown away is counted");
        }
    }
}

#[test]
fn a_closed_pipe_ends_no_program() {
    let media = Media { rate: Bitrate::mbps(2), ..Media::video(2) };
    let check = Check::start(&media);
    let mut lab = Lab::start(check.address);
    let feed = Feed::start(lab.input, &media);
    check.wait_for(50, PATIENCE);
    for (_, child) in &mut lab.children {
        drop((child.stdout.take(), child.stderr.take()));
    }
    std::thread::sleep(Duration::from_millis(300));
    check.wait_for(500, PATIENCE);
    lab.all_run();
    drop(feed);
    for (name, child) in lab.children.iter_mut().rev() {
        let told = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
        assert!(told.success());
        let status = child.wait().unwrap();
        assert_eq!(status.code(), Some(0), "{name}: {status}");
    }
}
