//! The program as a receiver's scripts see it: messages and exit codes where no relay is needed.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use assert_cmd::Command;
use node::clock::unix_seconds;
use node::trust::{Authority, Claims, Direction, Role, init, issue_node, issue_token};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(86_400);

/// Keys of an overlay, with a token to watch demo/*.
fn keys() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let now = unix_seconds();
    init(directory.path(), "test", now, DAY).unwrap();
    let claims = Claims {
        id: "watcher".into(),
        streams: "demo/*".parse().unwrap(),
        direction: Direction::Subscribe,
        max_rate: None,
        expires: now + 3_600,
    };
    let token = issue_token(directory.path(), &claims).unwrap();
    std::fs::write(directory.path().join("watch.token"), token).unwrap();
    directory
}

/// Runs the program; gives its exit code, standard output and standard error.
fn run(directory: &Path, arguments: &str) -> (i32, String, String) {
    let mut command = Command::cargo_bin("anabranch-sink").unwrap();
    command.current_dir(directory).args(arguments.split_whitespace()).env_remove("ANABRANCH_TOKEN");
    let output = command.timeout(Duration::from_secs(60)).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

#[track_caller]
fn fails(directory: &Path, arguments: &str, code: i32, expected: &str) {
    let (exit, _, error) = run(directory, arguments);
    assert!(error.contains(expected), "{arguments}: {error}");
    assert_eq!(exit, code, "{arguments}: {error}");
}

#[test]
fn help_and_version_are_no_errors() {
    let directory = tempfile::tempdir().unwrap();
    let (code, help, _) = run(directory.path(), "--help");
    assert_eq!(code, 0);
    for part in ["--stream", "udp://", "Exit codes", "Examples"] {
        assert!(help.contains(part), "{part} is not in the help");
    }
    let (code, version, _) = run(directory.path(), "--version");
    assert_eq!((code, version.starts_with("anabranch-sink ")), (0, true));
}

#[test]
fn a_wrong_command_line_is_64() {
    let keys = keys();
    let at = keys.path();
    fails(at, "--bogus", 64, "--bogus");
    fails(at, "", 64, "relays");
    fails(at, "-r h:1 -", 64, "which stream?");
    fails(at, "-r h:1 -s demo/a", 64, "demo/a has no output");
    fails(at, "-r h:1 -s nameless -", 64, "tenant/channel");
    fails(at, "-r h:1 -s demo/a srt://h:1", 64, "expected udp://");
    fails(at, "-r h:1 -s demo/a udp://h:1?foo=1", 64, "not known");
    fails(at, "-r h:1 -s demo/a - --wait soon", 64, "--wait");
    fails(at, "-r h:1 -s demo/a - --log nonsense=x=y -k .", 64, "log filter");
}

#[test]
fn a_wrong_configuration_is_78_and_names_the_field() {
    let keys = keys();
    let at = keys.path();
    let write = |text: &str| std::fs::write(at.join("sink.toml"), text).unwrap();
    write("relay = \"h:1\"");
    fails(at, "--config sink.toml", 78, "did you mean `relays`?");
    write("wait = [1]");
    fails(at, "--config sink.toml", 78, "wait");
    write("relays = [\"h:1\"]");
    fails(at, "--config sink.toml", 78, "streams: expected at least one");
    write("relays = [");
    fails(at, "--config sink.toml", 78, "line 1");
    fails(at, "--config none.toml", 78, "none.toml");
}

#[test]
fn wrong_keys_and_tokens_are_78() {
    let keys = keys();
    let at = keys.path();
    let stream = "-r 127.0.0.1:1 -s demo/a -";
    fails(at, stream, 78, "--keys DIR");
    fails(at, &format!("{stream} -k none"), 78, "none/authority.crt");
    fails(at, &format!("{stream} -k ."), 78, "ANABRANCH_TOKEN");
    fails(at, &format!("{stream} -k . --token-file none.token"), 78, "none.token");
    fails(at, &format!("{stream} -k . --name nobody"), 78, "nobody.crt");
    issue_node(at, &"encoder".parse().unwrap(), Role::Source, unix_seconds(), DAY).unwrap();
    fails(at, &format!("{stream} -k . --name encoder"), 78, "expected one of a sink");
    std::fs::write(at.join("authority.crt"), "nonsense").unwrap();
    fails(at, &format!("{stream} -k . --token-file watch.token"), 78, "authority.crt");
    assert!(Authority::load(at).is_err());
}

#[test]
fn an_output_that_cannot_be_made_is_named() {
    let keys = keys();
    let at = keys.path();
    let base = "-r 127.0.0.1:1 -k . --token-file watch.token -s demo/a";
    fails(at, &format!("{base} file:none/x.ts"), 73, "cannot create output file:none/x.ts");
    fails(at, &format!("{base} file:."), 73, "file:.");
    fails(at, &format!("{base} udp://no-such-host.invalid:5000"), 73, "no-such-host.invalid");
    fails(at, &format!("{base} udp://239.1.1.1:5000?iface=none0"), 73, "iface=none0");
    let taken = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = taken.local_addr().unwrap();
    fails(at, &format!("{base} http://{address}/x.ts"), 69, &format!("http://{address}"));
    fails(at, &format!("{base} http://127.0.0.1:0/player.js"), 64, "the player page's own");
}

#[test]
fn a_relay_that_does_not_answer_is_69() {
    let keys = keys();
    let base = "-k . --token-file watch.token -s demo/a file:x.ts --wait 1s";
    fails(keys.path(), &format!("-r 127.0.0.1:9 {base}"), 69, "127.0.0.1:9");
    fails(keys.path(), &format!("-r no-such-host.invalid:4400 {base}"), 69, "no-such-host.invalid");
}
