//! The live view on a pseudo terminal (`script`, which every Debian has): it is shown where nothing else is on the terminal, and whatever ends it, the
//! terminal is as it was and what was logged meanwhile stands there.

use anabranch_tests::flow::free_port;
use anabranch_tests::programs::{Files, Process, Program};
use bench::rig::Trial;
use node::trust::Direction;
use std::io::Write;
use std::process::Command;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);
const ENTER: &str = "\x1b[?1049h";
const LEAVE: &str = "\x1b[?1049l";

/// Runs a shell command on a terminal of 150 columns, types `keys` once the view shows `cue`, and returns all that was written to the terminal, what `stty`
/// says of it afterwards included.
fn on_a_terminal(line: &str, cue: Option<&str>, keys: &str) -> String {
    let line = format!("stty cols 150 rows 40; {line}; stty -a");
    let mut command = Command::new("script");
    command.args(["--quiet", "--command", &line, "/dev/null"]).env("TERM", "xterm-256color").env("SHELL", "/bin/sh");
    let (mut process, mut input) = Process::start_fed(&mut command);
    if let Some(cue) = cue {
        process.wait_for(cue, PATIENCE);
        input.write_all(keys.as_bytes()).unwrap();
    }
    let ended = process.wait(PATIENCE);
    drop(input);
    ended.stdout
}

/// The command line of a sink that waits for a relay where none is.
fn sink(files: &Files, trial: &Trial) -> String {
    let token = files.token(trial, "watch", "**", Direction::Subscribe);
    let program = Program::Sink.command().get_program().to_string_lossy().into_owned();
    let keys = files.path().display();
    format!(
        "{program} --relay 127.0.0.1:9 --keys {keys} --token-file {token} --wait 60s --stream a/b udp://127.0.0.1:9"
    )
}

/// The view came and went, and the terminal is in its usual mode.
fn assert_restored(shown: &str) {
    let (_, after) = shown.rsplit_once(LEAVE).unwrap_or_else(|| panic!("the terminal is not given back: {shown:?}"));
    assert!(shown.contains(ENTER) && !after.contains(ENTER), "{shown:?}");
    assert!(after.contains(" icanon") && after.contains(" echo "), "{after:?}");
}

#[test]
fn a_key_or_a_signal_ends_the_view_and_the_terminal_is_as_it_was() {
    let trial = Trial::new().unwrap();
    let files = Files::new(&trial);
    let sink = sink(&files, &trial);
    for (line, keys) in
        [(sink.clone(), "q"), (sink.clone(), "\x03"), (format!("timeout --foreground -s TERM 3 {sink}"), "")]
    {
        let shown = on_a_terminal(&line, Some("q stop"), keys);
        assert_restored(&shown);
        assert!(shown.contains("connecting to"), "{shown:?}");
        let (_, after) = shown.rsplit_once(LEAVE).unwrap();
        assert!(after.contains("stopping; once more to stop at once"), "what was logged: {after:?}");
    }
}

#[test]
fn a_panic_gives_the_terminal_back() {
    let program = Program::Sink.command().get_program().to_string_lossy().replace("sink-under-test", "view-under-test");
    for what in ["view", "main"] {
        let shown = on_a_terminal(&format!("{program} {what}"), None, "");
        assert_restored(&shown);
        let (_, after) = shown.rsplit_once(LEAVE).unwrap();
        assert!(after.contains("on purpose"), "{what}: {after:?}");
    }
}

#[test]
fn what_is_piped_or_asked_to_be_plain_gets_no_view() {
    let trial = Trial::new().unwrap();
    let files = Files::new(&trial);
    let sink = sink(&files, &trial);
    for line in [
        format!("timeout --foreground -s TERM 2 {sink} | cat"),
        format!("timeout --foreground -s TERM 2 {sink} 2>&1 | cat"),
        format!("timeout --foreground -s TERM 2 {sink} --json"),
        format!("timeout --foreground -s TERM 2 {sink} --view line"),
        format!("timeout --foreground -s TERM 2 {sink} --quiet"),
        format!("TERM=dumb timeout --foreground -s TERM 2 {sink}"),
    ] {
        let shown = on_a_terminal(&line, None, "");
        assert!(!shown.contains(ENTER) && shown.contains("stopping; once more"), "{line}: {shown:?}");
    }
}

/// Who watches by a program sees how it stands while there is no relay, line by line.
#[test]
fn json_lines_go_on_while_there_is_no_relay() {
    let trial = Trial::new().unwrap();
    let files = Files::new(&trial);
    let program = Program::Source.command().get_program().to_string_lossy().into_owned();
    let token = files.token(&trial, "publish", "**", Direction::Publish);
    let (keys, input) = (files.path().display(), free_port());
    let source = format!(
        "{program} --relay 127.0.0.1:9 --keys {keys} --token-file {token} --connect-timeout 60s a/b=udp://{input}"
    );
    for (program, last) in [(sink(&files, &trial), "stopped"), (source, "closed")] {
        let line = format!("timeout --foreground -s TERM 4 {program} --json --interval 200ms 2>/dev/null");
        let output = Command::new("sh").args(["-c", &line]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let reports: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(reports.len() >= 5, "{text}");
        let (end, before) = reports.split_last().unwrap();
        assert!(before.iter().all(|report| report["connection"]["state"] == "connecting"), "{text}");
        assert_eq!(end["connection"]["state"], last, "{text}");
    }
}
