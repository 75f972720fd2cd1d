//! The program against a stub relay over real sockets.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod stub;

use anabranch_sink::report::{ConnectionState, StreamState};
use anabranch_sink::{Config, Identity, Report, StreamConfig};
use node::control::Content;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use stub::{Overlay, Script, everything};
use tokio::sync::watch;

const SHORT: Script = Script { packets: 1_000, first: 0, content: Content::Datagrams };
const ENDLESS: Script = Script { packets: u32::MAX, first: 0, content: Content::Datagrams };
const ANY: ([u8; 4], u16) = ([127, 0, 0, 1], 0);

/// An overlay with one relay, and a directory with what a sink needs.
struct Scene {
    overlay: Overlay,
    relay: stub::StubRelay,
    directory: tempfile::TempDir,
}

fn scene(script: Script) -> Scene {
    let overlay = Overlay::new();
    let directory = tempfile::tempdir().unwrap();
    overlay.save(directory.path(), 3_600);
    Scene { relay: overlay.relay(ANY.into(), script), overlay, directory }
}

impl Scene {
    fn spawn(&self, arguments: &str) -> Child {
        let relay = self.relay.address.to_string();
        Command::new(env!("CARGO_BIN_EXE_anabranch-sink"))
            .current_dir(self.directory.path())
            .args(["-r", &relay, "-k", ".", "--token-file", "watch.token"])
            .args(arguments.split_whitespace())
            .env_remove("ANABRANCH_TOKEN")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Runs the program to its end; gives exit code, standard output and standard error.
    fn run(&self, arguments: &str) -> (i32, Vec<u8>, String) {
        let output = self.spawn(arguments).wait_with_output().unwrap();
        (output.status.code().unwrap_or(-1), output.stdout, String::from_utf8(output.stderr).unwrap())
    }

    fn file(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.directory.path().join(name)).unwrap()
    }
}

#[test]
fn a_stream_is_written_whole_and_the_end_is_an_end() {
    let scene = scene(SHORT);
    let (code, stdout, stderr) =
        scene.run("-s demo/clip file:x.bin file:y.bin?framing=length --until-end --json --interval 100ms");
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(scene.file("x.bin"), everything(SHORT));
    assert_eq!(scene.file("y.bin").len(), everything(SHORT).len() + 4 * SHORT.packets as usize);
    let lines: Vec<&str> = std::str::from_utf8(&stdout).unwrap().lines().collect();
    assert!(lines.len() > 5, "{} lines of statistics", lines.len());
    let last: serde_json::Value = serde_json::from_str(lines.last().unwrap()).unwrap();
    let stream = &last["streams"][0];
    assert_eq!(stream["packets"]["on_time"], 1_000, "{stream}");
    assert_eq!(stream["state"], "ended");
    assert_eq!(last["connection"]["state"], "stopped");
    assert_eq!(stream["outputs"][0]["packets"], 1_000);
}

#[test]
fn standard_output_carries_the_stream_and_nothing_else() {
    let scene = scene(SHORT);
    let (code, stdout, stderr) = scene.run("-s demo/clip - --until-end --json");
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout == everything(SHORT), "{} bytes", stdout.len());
    assert!(stderr.contains("\"on_time\""), "statistics go to standard error");
}

#[test]
fn a_full_disk_is_74_and_leaves_the_other_output_alone() {
    let scene = scene(SHORT);
    let (code, _, stderr) = scene.run("-s demo/clip file:/dev/full");
    assert_eq!(code, 74, "{stderr}");
    assert!(stderr.contains("file:/dev/full") && stderr.contains("the disk is full"), "{stderr}");
    let (code, _, stderr) = scene.run("-s demo/clip file:/dev/full file:x.bin --until-end");
    assert_eq!(code, 74, "{stderr}");
    assert_eq!(scene.file("x.bin"), everything(SHORT));
}

#[test]
fn a_reader_that_has_enough_ends_the_program_well() {
    let scene = scene(ENDLESS);
    let mut child = scene.spawn("-s demo/clip -");
    let mut some = [0; 50_000];
    child.stdout.take().unwrap().read_exact(&mut some).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_signal_stops_it_and_what_it_holds_is_written() {
    let scene = scene(ENDLESS);
    let child = scene.spawn("-s demo/clip file:x.bin");
    let path = scene.directory.path().join("x.bin");
    while std::fs::metadata(&path).map_or(0, |file| file.len()) < 100_000 {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let first = u32::from_be_bytes(scene.file("x.bin")[..4].try_into().unwrap());
    let expected = everything(Script { packets: 1_000_000, first, ..ENDLESS });
    assert!(expected.starts_with(&scene.file("x.bin")));
}

#[test]
fn what_is_refused_is_77() {
    let scene = scene(SHORT);
    let refused = |arguments: &str, expected: &str| {
        let (code, _, stderr) = scene.run(arguments);
        assert_eq!(code, 77, "{arguments}: {stderr}");
        assert!(stderr.contains(expected), "{arguments}: {stderr}");
    };
    refused("-s demo/nobody file:x.bin --wait 1s", "unknown stream demo/nobody");
    refused("-s demo/forbidden file:x.bin", "not for you");
    refused("-s demo/clip file:x.bin -s demo/forbidden file:y.bin --until-end", "demo/forbidden refused");
    assert_eq!(scene.file("x.bin"), everything(SHORT), "the other stream is not disturbed");
    scene.overlay.save_token(scene.directory.path(), -60);
    refused("-s demo/clip file:x.bin", "expired");
    Overlay::new().save_token(scene.directory.path(), 3_600);
    refused("-s demo/clip file:x.bin", "not signed by this overlay");
    std::fs::write(scene.directory.path().join("watch.token"), "nonsense").unwrap();
    refused("-s demo/clip file:x.bin", "token");
    for name in ["authority.crt", "authority.key"] {
        std::fs::remove_file(scene.directory.path().join(name)).unwrap();
    }
    Overlay::new().save(scene.directory.path(), 3_600);
    refused("-s demo/clip file:x.bin", "certificate");
}

/// Runs a sink in this process until `done` says so; gives its last report.
fn watch_until(config: Config, mut step: impl FnMut(&Report) -> bool) -> Report {
    let (stop, stopped) = watch::channel(false);
    let (report, mut reports) = watch::channel(Report::default());
    let running = async {
        let sink = tokio::task::spawn_local(anabranch_sink::run(config, stopped, report));
        let watching = async {
            while reports.changed().await.is_ok() {
                if step(&reports.borrow_and_update()) {
                    break;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), watching).await.expect("it came to what was waited for");
        stop.send_replace(true);
        sink.await.unwrap()
    };
    node::host::block_on_local(running).unwrap()
}

fn config(overlay: &Overlay, relays: Vec<String>, output: &Path) -> Config {
    let output = format!("file:{}", output.display()).parse().unwrap();
    Config {
        relays,
        streams: vec![StreamConfig::new("demo/clip".parse().unwrap(), vec![output])],
        report_interval: Duration::from_millis(20),
        identity: Some(Identity { credentials: overlay.bare(), tokens: vec![overlay.token(3_600)] }),
        ..Config::default()
    }
}

#[test]
fn a_relay_that_restarts_is_found_again() {
    let Scene { overlay, relay, directory } = scene(ENDLESS);
    let address = relay.address;
    let config = config(&overlay, vec![address.to_string()], &directory.path().join("x.bin"));
    let mut relay = Some(relay);
    let last = watch_until(config, |report| {
        let on_time = report.streams[0].packets.on_time;
        if on_time > 200 && report.connection.connections == 1 {
            relay.take();
        }
        if report.connection.state == ConnectionState::Connecting
            && report.connection.connections == 1
            && relay.is_none()
        {
            relay = Some(overlay.relay(address, Script { first: 1_000_000, ..ENDLESS }));
        }
        report.connection.connections >= 2 && report.streams[0].state == StreamState::Live && on_time > 1_000
    });
    assert!(last.connection.last_error.is_some());
    assert_eq!(last.streams[0].packets.lives, 1);
}

/// What one relay says of a right need not be so: it may have been broken into, or the sink itself may believe it no more.
#[test]
fn a_relay_that_cuts_it_off_is_left_for_the_next() {
    let Scene { overlay, relay, directory } = scene(ENDLESS);
    let next = overlay.relay(([127, 0, 0, 1], 0).into(), Script { first: 1_000_000, ..ENDLESS });
    let relays = [relay.address, next.address].map(|address| address.to_string()).to_vec();
    let mut relay = Some(relay);
    let last = watch_until(config(&overlay, relays, &directory.path().join("x.bin")), |report| {
        let on_time = report.streams[0].packets.on_time;
        if on_time > 200
            && let Some(relay) = relay.take()
        {
            relay.cut_off();
        }
        report.connection.connections >= 2 && report.streams[0].state == StreamState::Live && on_time > 1_000
    });
    assert_eq!(last.connection.relay, Some(next.address.to_string()));
}

#[test]
fn the_second_relay_serves_where_the_first_does_not() {
    let scene = scene(ENDLESS);
    let relays = vec!["127.0.0.1:9".to_owned(), scene.relay.address.to_string()];
    let mut config = config(&scene.overlay, relays, &scene.directory.path().join("x.bin"));
    config.wait = Duration::from_secs(20);
    let last = watch_until(config, |report| report.streams[0].packets.on_time > 100);
    assert_eq!(last.connection.relay, Some(scene.relay.address.to_string()));
    assert_eq!(last.connection.state, ConnectionState::Stopped);
    let link = last.streams[0].packets;
    assert_eq!((link.late, link.missing), (0, 0), "{last:?}");
}
