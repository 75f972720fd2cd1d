//! The program from outside: what it prints, and the codes it ends with.

use assert_cmd::Command;
use node::exit::Exit;
use serde_json::Value;
use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};
use tempfile::TempDir;

fn relay() -> Command {
    Command::new(env!("CARGO_BIN_EXE_anabranch-relay"))
}

/// Runs to its end; returns what it printed, and what it complained of.
fn run(directory: &Path, arguments: &[&str], exit: Exit) -> (String, String) {
    let output = relay().current_dir(directory).args(arguments).output().expect("it starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(exit as i32), "{arguments:?}: {out}{err}");
    (out, err)
}

/// A directory with the keys of relay `fra`, and its configuration with these lines added.
fn overlay(more: &str) -> TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    run(directory.path(), &["keys", "init"], Exit::Ok);
    run(directory.path(), &["keys", "node", "fra"], Exit::Ok);
    write(directory.path(), "relay.toml", more);
    directory
}

fn write(directory: &Path, file: &str, more: &str) {
    let text = format!(
        "name = \"fra\"\nkeys = \"keys\"\nlisten = \"127.0.0.1:0\"\nreport_interval = \"50ms\"\ndrain = \"100ms\"\n{more}"
    );
    std::fs::write(directory.join(file), text).expect("it can be written");
}

#[test]
fn keys_are_made_in_one_command_each_and_never_overwritten() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = directory.path();
    run(at, &["keys", "init", "--dir", "k", "--overlay", "acme"], Exit::Ok);
    let (_, why) = run(at, &["keys", "init", "--dir", "k"], Exit::CannotCreate);
    assert!(why.contains("authority.key") && why.contains("never overwritten"), "{why}");
    run(at, &["keys", "node", "--dir", "k", "--role", "relay", "fra"], Exit::Ok);
    run(at, &["keys", "node", "--dir", "k", "--role", "relay", "fra"], Exit::CannotCreate);
    let (text, _) = run(at, &["keys", "inspect", "k/fra.crt"], Exit::Ok);
    assert!(text.contains("relay fra"), "{text}");
    let token = ["keys", "token", "--dir", "k", "--publish", "news/*", "--id", "studio-1", "--max-rate", "20 Mbit/s"];
    let (token, _) = run(at, &token, Exit::Ok);
    assert!(token.starts_with("abt1."), "{token}");
    let (text, _) = run(at, &["keys", "inspect", token.trim()], Exit::Ok);
    assert!(text.contains("studio-1") && text.contains("news/*") && text.contains("20000000"), "{text}");
    for id in ["x".repeat(65), "two\nlines".to_owned()] {
        let (_, why) = run(at, &["keys", "token", "--dir", "k", "--id", &id, "--publish", "a/*"], Exit::Config);
        assert!(why.contains("its id") && why.contains("at most 64 bytes"), "{why}");
    }
    for wrong in [
        &["keys", "token", "--dir", "k", "--id", "x"][..],
        &["keys", "token", "--dir", "k", "--id", "x", "--publish", "a/*", "--subscribe", "b/*"],
        &["keys", "token", "--dir", "k", "--id", "x", "--publish", "a//b"],
        &["keys", "token", "--dir", "k", "--id", "x", "--publish", "a/*", "--expires", "soon"],
        &["keys", "node", "--dir", "k", "FRA"],
        &["keys", "node", "--dir", "k", "--role", "king", "fra"],
    ] {
        run(at, wrong, Exit::Usage);
    }
    let (said, _) = run(at, &["keys", "revoke", "--dir", "k", "k/fra.crt", "--token-id", "studio-1"], Exit::Ok);
    assert!(said.contains("issue 1: 1 certificates and 1 tokens") && said.contains("k/revoked.list"), "{said}");
    let (said, _) = run(at, &["keys", "inspect", "k/revoked.list"], Exit::Ok);
    assert!(said.contains("sha256:") && said.contains("studio-1"), "{said}");
    run(at, &["keys", "revoke", "--dir", "k"], Exit::Usage);
    run(at, &["keys", "revoke", "--dir", "k", "k/authority.crt"], Exit::Config);
    run(at, &["keys", "inspect", "nothing.crt"], Exit::NoInput);
    run(at, &["keys", "node", "--dir", "elsewhere", "fra"], Exit::NoInput);
}

#[cfg(unix)]
#[test]
fn secrets_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let directory = overlay("");
    for secret in ["authority.key", "token.key", "fra.key"] {
        let meta = std::fs::metadata(directory.path().join("keys").join(secret)).expect("it was made");
        assert_eq!(meta.permissions().mode() & 0o777, 0o600, "{secret}");
    }
}

#[test]
fn a_wrong_command_line_is_64_and_help_is_not() {
    let directory = tempfile::tempdir().expect("a directory");
    for wrong in [&["run"][..], &["run", "--bogus"], &["fly"], &[], &["ctl", "status", "--ops", "here"]] {
        run(directory.path(), wrong, Exit::Usage);
    }
    let (_, why) = run(directory.path(), &["run", "--json", "--interval", "0s"], Exit::Usage);
    assert!(why.contains("--interval") && why.contains("at least 10ms"), "{why}");
    run(directory.path(), &["run", "--config", "relay.toml", "--interval", "1s"], Exit::Usage);
    let (help, _) = run(directory.path(), &["--help"], Exit::Ok);
    for command in ["run", "check", "example-config", "keys", "ctl"] {
        assert!(help.contains(command), "{help}");
    }
    run(directory.path(), &["--version"], Exit::Ok);
    run(directory.path(), &["run", "--help"], Exit::Ok);
}

#[test]
fn check_tells_a_right_configuration_from_a_wrong_one() {
    let directory = overlay("");
    let at = directory.path();
    let (text, _) = run(at, &["check", "--config", "relay.toml"], Exit::Ok);
    assert!(text.contains("relay fra"), "{text}");
    for (more, parts) in [
        ("nonsense = 1", vec!["bad.toml", "nonsense"]),
        ("path_mtu = 100", vec!["bad.toml", "path_mtu", "1200"]),
        ("ops = \"somewhere\"", vec!["bad.toml", "ops"]),
        ("[[neighbours]]\naddress = \"lon\"", vec!["bad.toml", "neighbours[0].address", "host:port"]),
        ("[limits]\nmax_streams = \"many\"", vec!["bad.toml", "max_streams"]),
        ("source_grace = \"a while\"", vec!["bad.toml", "source_grace", "duration"]),
        ("= 3", vec!["bad.toml"]),
    ] {
        write(at, "bad.toml", more);
        for command in ["check", "run"] {
            let (_, why) = run(at, &[command, "--config", "bad.toml"], Exit::Config);
            assert!(parts.iter().all(|part| why.contains(part)), "{more:?}: {why}");
        }
    }
    let (_, why) = run(at, &["check", "--config", "missing.toml"], Exit::Config);
    assert!(why.contains("missing.toml"), "{why}");
    std::fs::remove_file(at.join("keys/fra.key")).expect("it is there");
    let (_, why) = run(at, &["check", "--config", "relay.toml"], Exit::Config);
    assert!(why.contains("fra.key"), "{why}");
}

#[test]
fn the_environment_overrides_the_file() {
    let directory = overlay("");
    let mut command = relay();
    command.current_dir(directory.path()).args(["check", "--config", "relay.toml"]);
    let output = command.env("ANABRANCH_RELAY_LISTEN", "127.0.0.1:4567").output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.contains("127.0.0.1:4567"), "{text}");
}

#[test]
fn the_example_is_a_configuration() {
    let directory = overlay("");
    let (example, _) = run(directory.path(), &["example-config"], Exit::Ok);
    let example = example.replace("/etc/anabranch/keys", "keys");
    std::fs::write(directory.path().join("example.toml"), example).expect("it can be written");
    run(directory.path(), &["check", "--config", "example.toml"], Exit::Ok);
}

#[test]
fn a_port_that_is_taken_is_69() {
    let directory = overlay("");
    let mut holder = Running::start(directory.path());
    let report = holder.report_where(|report| report["ready"] == true);
    let taken = report["listen"][0].as_str().expect("an address").to_owned();
    let mut command = relay();
    command.current_dir(directory.path()).args(["run", "--config", "relay.toml"]);
    let output = command.env("ANABRANCH_RELAY_LISTEN", &taken).output().expect("it starts");
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(Exit::Unavailable as i32), "{why}");
    assert!(why.contains(&taken) && why.contains("taken"), "{why}");
    run(directory.path(), &["ctl", "status", "--ops", "127.0.0.1:1"], Exit::Unavailable);
}

/// A relay that runs, killed with the test.
struct Running {
    child: Child,
    reports: Lines<BufReader<ChildStdout>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    fn start(directory: &Path) -> Running {
        let child = std::process::Command::new(env!("CARGO_BIN_EXE_anabranch-relay"))
            .current_dir(directory)
            .args(["run", "--config", "relay.toml", "--json", "--interval", "50ms"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut child = child.expect("it starts");
        let reports = BufReader::new(child.stdout.take().expect("piped")).lines();
        Running { child, reports }
    }

    fn signal(&self, name: &str) {
        let status = std::process::Command::new("kill").args([name, &self.child.id().to_string()]).status();
        assert!(status.expect("kill runs").success());
    }

    /// The first report for which something holds, among so many as come in 20 seconds.
    fn report_where(&mut self, holds: impl Fn(&Value) -> bool) -> Value {
        let found = self.reports.by_ref().take(400).find_map(|line| {
            let report: Value = serde_json::from_str(&line.expect("text")).expect("a line of JSON");
            holds(&report).then_some(report)
        });
        found.expect("such a report")
    }
}

#[test]
fn runs_reports_answers_and_drains() {
    let directory = overlay("ops = \"127.0.0.1:0\"\n");
    let mut running = Running::start(directory.path());
    let report = running.report_where(|report| report["ready"] == true);
    assert_eq!(report["name"], "fra");
    let ops = report["ops"].as_str().expect("an address");
    let (text, _) = run(directory.path(), &["ctl", "status", "--ops", ops], Exit::Ok);
    assert!(text.starts_with("relay fra ready"), "{text}");
    let (json, _) = run(directory.path(), &["ctl", "status", "--json", "--ops", ops], Exit::Ok);
    assert!(serde_json::from_str::<Value>(&json).is_ok());
    running.signal("-TERM");
    running.report_where(|report| report["draining"] == true);
    assert_eq!(running.child.wait().expect("it ends").code(), Some(0));
}

#[test]
fn sighup_with_a_wrong_file_changes_nothing() {
    let directory = overlay("");
    let mut running = Running::start(directory.path());
    running.report_where(|report| report["ready"] == true);
    write(directory.path(), "relay.toml", "nonsense = 1");
    running.signal("-HUP");
    running.report_where(|report| report["uptime_s"].as_f64().is_some_and(|up| up > 0.5));
    write(directory.path(), "relay.toml", "[[neighbours]]\naddress = \"127.0.0.1:9\"\n");
    running.signal("-HUP");
    let report = running.report_where(|report| report["neighbours"].as_array().is_some_and(|n| n.len() == 1));
    assert_eq!(report["neighbours"][0]["address"], "127.0.0.1:9");
}

/// The operator's own file is never written to; what is kept stands in a file of its own and above it.
#[test]
fn the_repair_of_a_link_is_set_kept_and_taken_back() {
    let more = "ops = \"127.0.0.1:0\"\nstate = \"state.toml\"\n[[neighbours]]\nname = \"lon\"\nrepair = \"arq\" # mind the lease\n";
    let directory = overlay(more);
    let at = directory.path();
    let mut running = Running::start(at);
    let ops = running.report_where(|report| report["ready"] == true)["ops"].as_str().expect("an address").to_owned();
    let set = ["ctl", "link", "set", "fra", "lon", "--ops", &ops];
    let ask = |more: &[&str], exit| run(at, &[&set[..], more].concat(), exit);
    let (text, _) =
        ask(&["--mode", "hybrid", "--max-overhead", "50%", "--capacity", "20 Mbit/s", "--persist"], Exit::Ok);
    for part in ["fra -> lon (down now): hybrid", "at most 50 %", "20 Mbit/s", "kept for the next start"] {
        assert!(text.contains(part), "{text}");
    }
    let (json, _) = ask(&["--target", "1e-6", "--json"], Exit::Ok);
    let link: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((&link["policy"]["mode"], &link["set_by"]), (&"hybrid".into(), &"live".into()), "{link}");
    for (wrong, exit, parts) in [
        (&["--mode", "magic"][..], Exit::Usage, ["magic", "duplicate"]),
        (&["--max-overhead", "5000%"], Exit::Usage, ["max_overhead", "0 to 10"]),
        (&["--capacity", "fast"], Exit::Usage, ["fast", "20 Mbit/s"]),
        (&[], Exit::Usage, ["--mode", "--capacity"]),
    ] {
        let (_, why) = ask(wrong, exit);
        assert!(parts.iter().all(|part| why.contains(part)), "{why}");
    }
    let (_, why) = run(at, &["ctl", "link", "set", "lon", "fra", "--mode", "arq", "--ops", &ops], Exit::Refused);
    assert!(why.contains("this is relay fra") && why.contains("ask relay lon"), "{why}");
    let (_, why) = run(at, &["ctl", "link", "set", "fra", "rom", "--mode", "arq", "--ops", &ops], Exit::Unavailable);
    assert!(why.contains("no link to rom") && why.contains("it knows: lon"), "{why}");
    let file = std::fs::read_to_string(at.join("relay.toml")).expect("it is there");
    assert!(file.ends_with(more), "the configuration is as its operator wrote it: {file}");
    drop(running);

    let mut running = Running::start(at);
    let ops = running.report_where(|report| report["ready"] == true)["ops"].as_str().expect("an address").to_owned();
    let (json, _) = run(at, &["ctl", "link", "set", "fra", "lon", "--mode", "fec", "--ops", &ops, "--json"], Exit::Ok);
    let link: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(
        (&link["policy"]["max_overhead"], &link["policy"]["capacity"]),
        (&0.5.into(), &20_000_000.into()),
        "{link}"
    );
    let (text, _) = run(at, &["ctl", "link", "reset", "fra", "lon", "--persist", "--ops", &ops], Exit::Ok);
    assert!(text.contains("fra -> lon (down now): arq") && text.contains("as configured"), "{text}");
    let kept = std::fs::read_to_string(at.join("state.toml")).expect("it is there");
    assert!(!kept.contains("[links.lon]"), "{kept}");
    std::fs::write(at.join("state.toml"), "[links.lon]\nmode = \"magic\"\n").expect("it can be written");
    let (_, why) = run(at, &["check", "--config", "relay.toml"], Exit::Config);
    assert!(why.contains("state.toml") && why.contains("magic"), "{why}");
}

#[test]
fn nothing_is_kept_where_no_file_is_named() {
    let directory = overlay("ops = \"127.0.0.1:0\"\n[[neighbours]]\nname = \"lon\"\n");
    let mut running = Running::start(directory.path());
    let ops = running.report_where(|report| report["ready"] == true)["ops"].as_str().expect("an address").to_owned();
    let set = ["ctl", "link", "set", "fra", "lon", "--mode", "off", "--persist", "--ops", &ops];
    let (_, why) = run(directory.path(), &set, Exit::Refused);
    assert!(why.contains("nothing changed") && why.contains("state ="), "{why}");
}

#[test]
fn a_line_test_that_cannot_be_made_says_why() {
    let directory = overlay("ops = \"127.0.0.1:0\"\n[[neighbours]]\nname = \"lon\"\n");
    let at = directory.path();
    let mut running = Running::start(at);
    let ops = running.report_where(|report| report["ready"] == true)["ops"].as_str().expect("an address").to_owned();
    for (line, rate, exit, parts) in [
        (["fra", "rom"], "20M", Exit::Unavailable, ["no relay rom", "/api/v1/overlay"]),
        (["lon", "fra"], "20M", Exit::Refused, ["this is relay fra", "ask relay lon"]),
        (["fra", "lon"], "1 bit/s", Exit::Usage, ["rate", "10 kbit/s to 1 Gbit/s"]),
        (["fra", "lon"], "fast", Exit::Usage, ["fast", "Mbit/s"]),
    ] {
        let (_, why) = run(at, &["ctl", "test", line[0], line[1], "--rate", rate, "--ops", &ops], exit);
        assert!(parts.iter().all(|part| why.contains(part)), "{why}");
    }
}

/// What `deploy/kubernetes` gives every relay: one file for all, and of its own only what the environment says.
#[test]
fn the_configuration_for_kubernetes_is_accepted() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = directory.path();
    let manifests = include_str!("../../deploy/kubernetes/relays.yaml");
    run(at, &["keys", "init", "--dir", "keys"], Exit::Ok);
    run(at, &["keys", "node", "--dir", "keys", "anabranch-0"], Exit::Ok);
    let keys = at.join("keys").display().to_string();
    let own = [("NAME", "anabranch-0"), ("ADDRESS", "anabranch-0.anabranch:4400")];
    let mut check = relay();
    for (field, value) in own {
        let variable = format!("ANABRANCH_RELAY_{field}");
        assert!(manifests.contains(&format!("- name: {variable}\n")), "{variable}");
        check.env(variable, value);
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kubernetes/relay.toml");
    let token = at.join("ops.token").display().to_string();
    run(at, &["keys", "ops-token", &token], Exit::Ok);
    check.env("ANABRANCH_RELAY_KEYS", keys).env("ANABRANCH_RELAY_OPS_TOKEN_FILE", token);
    check.args(["check", "--config"]).arg(file).assert().success();
}

#[test]
fn ctl_reload_says_what_it_changed_and_what_was_wrong() {
    let directory = overlay("ops = \"127.0.0.1:0\"\n");
    let at = directory.path();
    let mut running = Running::start(at);
    let ops = running.report_where(|report| report["ready"] == true)["ops"].as_str().expect("an address").to_owned();
    let reload = ["ctl", "reload", "--ops", &ops];
    let (text, _) = run(at, &reload, Exit::Ok);
    assert_eq!(text, "read, nothing has changed\n");
    write(at, "relay.toml", "ops = \"127.0.0.1:0\"\n[[neighbours]]\naddress = \"lon\"\n");
    let (_, why) = run(at, &reload, Exit::Config);
    for part in ["relay.toml", "neighbours[0].address", "host:port", "the old configuration stays in force"] {
        assert!(why.contains(part), "{why}");
    }
    let report = running.report_where(|report| report["reloads"]["refused"] == 1);
    assert!(report["reloads"]["last_error"].as_str().is_some_and(|why| why.contains("host:port")), "{report}");
    write(
        at,
        "relay.toml",
        "ops = \"127.0.0.1:0\"\npath_mtu = 1400\nsource_grace = \"3s\"\n[[neighbours]]\naddress = \"127.0.0.1:9\"\n",
    );
    let (text, _) = run(at, &reload, Exit::Ok);
    for line in
        ["in force now: source_grace", "in force now: neighbours 127.0.0.1:9: new", "after a restart only: path_mtu"]
    {
        assert!(text.contains(line), "{text}");
    }
    write(
        at,
        "relay.toml",
        "ops = \"127.0.0.1:0\"\npath_mtu = 1400\n[[neighbours]]\naddress = \"127.0.0.1:9\"\ncost = 3\n",
    );
    let (text, _) = run(at, &reload, Exit::Ok);
    assert!(text.contains("neighbours 127.0.0.1:9: cost\n"), "{text}");
    write(at, "relay.toml", "ops = \"127.0.0.1:0\"\n");
    let (text, _) = run(at, &reload, Exit::Ok);
    assert!(text.contains("neighbours 127.0.0.1:9: removed"), "{text}");
    running.report_where(|report| report["neighbours"].as_array().is_some_and(Vec::is_empty));
}

#[test]
fn ctl_events_prints_what_changes_until_the_relay_stops() {
    let directory = overlay("ops = \"127.0.0.1:0\"\n[[neighbours]]\nname = \"lon\"\n");
    let at = directory.path();
    let mut running = Running::start(at);
    let ops = running.report_where(|report| report["ready"] == true)["ops"].as_str().expect("an address").to_owned();
    let events = |more: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_anabranch-relay"));
        command.args(["ctl", "events", "--ops", &ops]).args(more).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("it starts")
    };
    let mut children = [events(&[]), events(&["--json"])];
    let mut lines = children.each_mut().map(|child| BufReader::new(child.stdout.take().expect("piped")).lines());
    // Both may need a while to be there: it is told again and again until both have heard.
    let said = || {
        run(at, &["ctl", "drain", "--ops", &ops], Exit::Ok);
        run(at, &["ctl", "drain", "--undo", "--ops", &ops], Exit::Ok);
    };
    let (told, telling) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        for lines in &mut lines {
            let told = told.clone();
            scope.spawn(move || told.send(lines.next().expect("a line").expect("text")));
        }
        let mut heard = Vec::new();
        while heard.len() < 2 {
            said();
            heard.extend(telling.recv_timeout(std::time::Duration::from_millis(500)));
        }
        heard.sort();
        let [words, json] = &heard[..] else { panic!("{heard:?}") };
        assert!(
            words.contains("streams are taken off this relay") || words.contains("streams may come over"),
            "{words}"
        );
        let event: Value = serde_json::from_str(json).expect("JSON");
        assert!(event["kind"] == "draining" || event["kind"] == "resumed", "{event}");
    });
    let (_, why) = run(at, &["ctl", "sla", "news/none", "--ops", &ops], Exit::Unavailable);
    assert!(why.contains("no sink at this relay has reported of news/none"), "{why}");
    run(at, &["ctl", "sla", "news", "--ops", &ops], Exit::Usage);
    running.signal("-TERM");
    for child in children {
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(output.status.code(), Some(Exit::Unavailable as i32));
        assert!(String::from_utf8_lossy(&output.stderr).contains("it is stopping"));
    }
}

/// Where `.ci/run install` puts it, or anywhere on the path.
fn schemathesis() -> Option<std::ffi::OsString> {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/schemathesis/bin/schemathesis");
    let places = [tools.into_os_string(), "schemathesis".into()];
    places.into_iter().find(|program| {
        let output = std::process::Command::new(program).arg("--version").output();
        output.is_ok_and(|output| output.status.success())
    })
}

/// Requests made up from the document of the operations port, right ones and wrong ones: no answer of any is a defect (5xx), or
/// other than documented.
#[test]
#[ignore = "long, and needs schemathesis: .ci/run install"]
fn the_operations_port_keeps_to_its_document() {
    let Some(schemathesis) = schemathesis() else {
        println!("schemathesis is not installed (.ci/run install does it): nothing was tested");
        return;
    };
    let directory = overlay("ops = \"127.0.0.1:0\"\nstate = \"state.toml\"\n[[neighbours]]\nname = \"lon\"\n");
    let mut running = Running::start(directory.path());
    let ops = running.report_where(|report| report["ready"] == true)["ops"].as_str().expect("an address").to_owned();
    let config = include_str!("schemathesis.toml");
    let Running { child, reports } = &mut running;
    let (done, status) = std::thread::scope(|scope| {
        // Read, so that none of what it prints is thrown away meanwhile.
        scope.spawn(|| reports.by_ref().for_each(drop));
        let done = [
            // With names made up, most of which are of no link, then with those of the link that there is.
            keeps_to_its_document(&schemathesis, directory.path(), &ops, config),
            keeps_to_its_document(
                &schemathesis,
                directory.path(),
                &ops,
                &format!("{config}\n[parameters]\nfrom = \"fra\"\nto = \"lon\"\n"),
            ),
        ];
        let status = relay().args(["ctl", "status", "--ops", &ops]).output();
        child.kill().expect("it runs");
        (done, status)
    });
    assert_eq!(done, [true, true]);
    assert!(status.is_ok_and(|status| status.status.success()), "and it serves on");
}

fn keeps_to_its_document(schemathesis: &std::ffi::OsStr, directory: &Path, ops: &str, config: &str) -> bool {
    std::fs::write(directory.join("st.toml"), config).expect("it can be written");
    let mut run = std::process::Command::new(schemathesis);
    run.current_dir(directory).args(["--no-color", "--config-file", "st.toml", "run", "--seed", "1"]);
    run.args(["--max-examples", "60", "--request-timeout", "10"]);
    let output = run.arg(format!("http://{ops}/api/v1/openapi.json")).output().expect("it starts");
    println!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    output.status.success()
}
