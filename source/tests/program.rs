//! The program as a script sees it: exit codes and messages.

use assert_cmd::Command;
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
    let now = node::clock::unix_seconds();
    let authority = Authority::trial(now).unwrap();
    authority.save(directory.path()).unwrap();
    let day = Duration::from_secs(86_400);
    authority.issue(&"studio".parse().unwrap(), Role::Source, now, day).unwrap().save(directory.path()).unwrap();
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
