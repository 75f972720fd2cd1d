//! The program as a script sees it: exit codes and messages.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use assert_cmd::Command;
use common::{DAY, Stub, anywhere, authority};
use node::control::CloseCode;
use node::trust::{Authority, Role};
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

const CLIP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../bench/assets/clip.ts");

fn source() -> Command {
    let mut command = Command::cargo_bin("anabranch-source").unwrap();
    command.timeout(Duration::from_secs(20)).env_remove("ANABRANCH_TOKEN");
    command
}

fn fails(command: &mut Command, exit: i32, expected: &str) {
    let output = command.output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(exit), "{message}");
    assert!(message.contains(expected), "expected {expected:?} in: {message}");
}

/// A directory with an authority and a certificate for `studio`.
fn keys() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let authority = authority();
    authority.save(directory.path()).unwrap();
    let now = node::clock::unix_seconds();
    authority.issue(&"studio".parse().unwrap(), Role::Source, now, DAY).unwrap().save(directory.path()).unwrap();
    directory
}

fn with_keys(keys: &Path) -> Command {
    let mut command = source();
    command.arg("--keys").arg(keys).args(["--name", "studio", "--relay", "127.0.0.1:1"]);
    command
}

#[test]
fn help_is_for_broadcasters() {
    let output = source().arg("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    for word in ["udp://@239.1.1.1:5000", "ffmpeg", "multicast", "--deadline", "EXIT CODES", "RTP"] {
        assert!(help.contains(word), "{word} is missing in:\n{help}");
    }
}

#[test]
fn a_wrong_command_line_is_64() {
    fails(source().arg("--bogus"), 64, "--bogus");
    fails(source().args(["-r", "a:1", "news/main=ftp://x"]), 64, "expected udp://");
    fails(source().args(["-r", "a:1", "main=udp://:5000"]), 64, "tenant/channel");
    fails(source().args(["-r", "a:1", "--stream", "ma in", "-"]), 64, "stream name");
    fails(source().args(["news/main=udp://:5000"]), 64, "relays");
    fails(source().args(["-r", "a:1", "news/main=udp://:5000", "--log", "=?"]), 64, "log");
}

#[test]
fn an_input_that_is_not_there_or_no_transport_stream_is_66() {
    let keys = keys();
    fails(with_keys(keys.path()).arg("a/b=file:/nowhere/clip.ts"), 66, "/nowhere/clip.ts");
    let text = keys.path().join("authority.crt");
    fails(with_keys(keys.path()).arg(format!("a/b=file:{}", text.display())), 66, "expected an MPEG transport stream");
    fails(with_keys(keys.path()).arg(format!("a/b=file:{}", keys.path().display())), 66, "directory");
    fails(with_keys(keys.path()).arg("a/b=udp://@239.1.1.1:0?iface=nosuch0"), 66, "no interface \"nosuch0\"");
}

#[test]
fn a_wrong_configuration_is_78() {
    let keys = keys();
    let file = keys.path().join("source.toml");
    std::fs::write(&file, "relay = 1").unwrap();
    fails(source().arg("--config").arg(&file), 78, "did you mean `relays`?");
    fails(source().args(["--config", "/nowhere/source.toml"]), 78, "/nowhere/source.toml");
    fails(source().args(["-r", "127.0.0.1:1", "a/b=udp://127.0.0.1:0"]), 78, "keys");
    fails(source().args(["-r", "127.0.0.1:1", "-k", "/nowhere", "-n", "x", "a/b=udp://127.0.0.1:0"]), 78, "/nowhere");
    let mut without_name = source();
    without_name.args(["-r", "127.0.0.1:1", "a/b=udp://127.0.0.1:0"]).arg("-k").arg(keys.path());
    fails(&mut without_name, 78, "certificate");
}

#[test]
fn an_address_that_is_taken_is_69() {
    let keys = keys();
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let port = socket.local_addr().unwrap().as_socket().unwrap().port();
    fails(with_keys(keys.path()).arg(format!("a/b=udp://127.0.0.1:{port}")), 69, "cannot listen on");
}

#[test]
fn a_relay_that_does_not_answer_is_69() {
    let keys = keys();
    let mut command = with_keys(keys.path());
    command.args(["--connect-timeout", "300ms"]).arg(format!("a/b=file:{CLIP}"));
    fails(&mut command, 69, "no relay could be reached within 300ms");
}

/// The program with a relay that serves it.
fn with_relay(refuse: Option<CloseCode>) -> (Stub, TempDir, Command) {
    let directory = keys();
    let authority = Authority::load(directory.path()).unwrap();
    let relay = Stub::start(&authority, anywhere(), refuse);
    let mut command = source();
    command.arg("--keys").arg(directory.path()).args(["--name", "studio", "--relay", &relay.address.to_string()]);
    (relay, directory, command)
}

/// The first packets of the bundled clip.
fn clip(packets: usize) -> Vec<u8> {
    std::fs::read(CLIP).unwrap()[..packets * 188].to_vec()
}

#[test]
fn a_name_that_is_taken_is_77() {
    let (_relay, _keys, mut command) = with_relay(Some(CloseCode::NameTaken));
    fails(command.arg("a/b=udp://127.0.0.1:0"), 77, "a/b: another has that name");
}

#[test]
fn a_relay_of_another_overlay_is_77() {
    let (relay, _keys, _) = with_relay(None);
    let mut command = source();
    let other = keys();
    command.arg("--keys").arg(other.path()).args(["--name", "studio", "--relay", &relay.address.to_string()]);
    fails(command.arg("a/b=udp://127.0.0.1:0"), 77, "refused");
}

#[test]
fn a_pipe_passes_byte_exact_and_ends() {
    let (relay, _keys, mut command) = with_relay(None);
    // Seven packets do not divide it, and something stands before and in it.
    let media = [&b"garbage"[..], &clip(1000), &[0x47, 1, 2], &clip(501)].concat();
    let output = command.args(["--stream", "a/b", "-"]).write_stdin(media.clone()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let payloads = relay.heard(common::Heard::payloads);
    assert!(payloads.concat() == media, "{} of {} bytes", payloads.concat().len(), media.len());
    assert!(relay.heard(|heard| heard.ended() && heard.unpublished == 1));
}

#[test]
fn a_pipe_may_be_paced_by_its_clock() {
    let (relay, _keys, mut command) = with_relay(None);
    // All at once into the pipe, a second of media: without pacing it would leave at once.
    command.args(["--stream", "a/b", "pipe:?pace=pcr"]).write_stdin(clip(1330));
    assert_eq!(command.output().unwrap().status.code(), Some(0));
    assert!(relay.heard(|heard| heard.payloads().concat() == clip(1330)));
    let media: Vec<u32> = relay.heard(|heard| heard.delivered.iter().map(|d| d.media_time.0).collect());
    let span = media.iter().map(|time| time.wrapping_sub(media[0])).max();
    assert!(span.is_some_and(|span| span > 950_000), "media times span the second that the clip lasts: {span:?}");
}

#[test]
fn a_pipe_that_holds_no_transport_stream_is_66() {
    let (_relay, _keys, mut command) = with_relay(None);
    fails(command.args(["--stream", "a/b", "-"]).write_stdin("text ".repeat(100)), 66, "content=bytes");
    let (relay, _keys, mut command) = with_relay(None);
    let output =
        command.args(["--stream", "a/b", "pipe:?content=bytes"]).write_stdin("text ".repeat(1000)).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(relay.heard(common::Heard::payloads).concat(), "text ".repeat(1000).as_bytes());
}

#[test]
fn an_input_that_fails_takes_no_other_with_it() {
    let (relay, keys, mut command) = with_relay(None);
    let file = keys.path().join("clip.ts");
    std::fs::write(&file, clip(1330)).unwrap();
    command.arg(format!("a/b=file:{}", file.display())).arg("a/c=-").write_stdin("text ".repeat(100));
    fails(&mut command, 66, "the standard input: no transport stream");
    assert!(relay.heard(|heard| heard.payloads().concat() == clip(1330)));
}

#[test]
fn a_file_is_paced_by_its_clock_passes_byte_exact_and_is_reported() {
    let (relay, keys, mut command) = with_relay(None);
    let file = keys.path().join("clip.ts");
    // A second of it: 2 Mbit/s.
    std::fs::write(&file, clip(1330)).unwrap();
    command.arg(format!("a/b=file:{}", file.display())).args(["--json", "--interval", "100ms"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(relay.heard(|heard| heard.payloads().concat() == clip(1330)));
    let times = relay.heard(|heard| {
        heard.delivered.iter().map(|d| (d.seq.0, d.media_time.0)).collect::<std::collections::BTreeMap<_, _>>()
    });
    let steps: Vec<u32> = times.values().zip(times.values().skip(1)).map(|(a, b)| b.wrapping_sub(*a)).collect();
    // 1316 bytes at 2 Mbit/s; the last step is to the mark at the end.
    let uneven = steps[..steps.len() - 1].iter().filter(|step| step.abs_diff(5264) > 2).count();
    assert!(uneven <= 2, "media times a clock's step apart: {steps:?}");
    let lines: Vec<serde_json::Value> = output
        .stdout
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();
    assert!(lines.len() >= 8, "a line every 100 ms for over a second: {}", lines.len());
    let last = &lines[lines.len() - 1];
    assert_eq!(last["streams"][0]["counters"]["sent"], 190);
    assert_eq!(last["streams"][0]["state"], "ended");
    assert_eq!(last["connection"]["state"], "closed");
}

#[test]
fn a_signal_ends_the_stream_in_good_order() {
    let (relay, keys, _) = with_relay(None);
    let mut child = std::process::Command::new(assert_cmd::cargo::cargo_bin("anabranch-source"))
        .args(["--loop", "--name", "studio", "--relay", &relay.address.to_string(), "--keys"])
        .arg(keys.path())
        .arg(format!("a/b=file:{CLIP}"))
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    relay.wait("media", |heard| heard.delivered.len() > 20);
    let interrupted = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(interrupted.success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    relay.wait("the end", |heard| heard.ended() && heard.unpublished == 1);
}
