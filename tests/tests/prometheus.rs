//! A real Prometheus with the configuration, the alert rules and the dashboard as they are shipped, and three relays that carry a stream over a lossy path.

use anabranch_tests::flow::{Flow, Media, assert_intact, free_port};
use anabranch_tests::lossy;
use anabranch_tests::programs::Process;
use bench::rig::{Rig, RigPlan};
use link::Bitrate;
use node::clock::Clock;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const CONFIG: &str = include_str!("../../deploy/prometheus/prometheus.yml");
const RULES: &str = include_str!("../../deploy/prometheus/alerts.yml");
const DASHBOARD: &str = include_str!("../../deploy/grafana/anabranch.json");
const PAGE: &str = include_str!("../../docs/metrics.md");

/// How long Prometheus may take to have enough of everything: rates need two scrapes, and the machine is shared.
const PATIENCE: Duration = Duration::from_secs(90);

/// Rules that a healthy overlay on a busy machine may meet for a moment, because a machine that stalls looks like a path that does.
const OF_A_STALL: [&str; 5] =
    ["LinkLeavesLosses", "LinkRepairAtItsCeiling", "LinkRepairCostly", "LinkOverloaded", "StreamLate"];

/// Those that the keys of a trial, which are good for a day, are reason enough for.
const OF_A_TRIAL: [&str; 2] = ["CertificateExpiresSoon", "AuthorityExpiresSoon"];

/// `prometheus` or `promtool`: where `.ci/run install` puts them, or on the path.
fn tool(name: &str) -> PathBuf {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/prometheus/usr/bin").join(name);
    let places = [place, name.into()];
    let there = |program: &PathBuf| Command::new(program).arg("--version").output().is_ok_and(|it| it.status.success());
    places.into_iter().find(there).unwrap_or_else(|| {
        panic!("{name} is not there: `.ci/run install` unpacks Debian's package `prometheus` under target/tools")
    })
}

fn check(arguments: &[&str], file: &Path) {
    let output = Command::new(tool("promtool")).args(arguments).arg(file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    println!("{said}");
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
}

/// A Prometheus that scrapes these operations ports.
struct Prometheus {
    process: Process,
    listen: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    fn start(targets: &[SocketAddr]) -> Prometheus {
        let folder = tempfile::tempdir().unwrap();
        let (config, rules) = (folder.path().join("prometheus.yml"), folder.path().join("alerts.yml"));
        let targets = format!("targets: {}", json!(targets));
        let here = CONFIG.replace("targets: [\"lon:4480\", \"fra:4480\", \"ams:4480\"]", &targets);
        // Relays on loopback ask for no token: any will do.
        let token = folder.path().join("token");
        std::fs::write(&token, "any").unwrap();
        let here = here.replace("/etc/anabranch/token", &token.display().to_string());
        let here = here.replace("interval: 5s", "interval: 1s");
        assert!(here.contains(&targets) && here.contains(&*token.display().to_string()));
        assert!(here.matches("interval: 1s").count() == 2, "the file is another:\n{CONFIG}");
        std::fs::write(&config, here).unwrap();
        std::fs::write(&rules, RULES).unwrap();
        check(&["check", "config"], &config);
        check(&["check", "rules"], &rules);
        let listen = free_port();
        let mut command = Command::new(tool("prometheus"));
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()));
        command.arg(format!("--web.listen-address={listen}"));
        let mut process = Process::start(&mut command);
        process.wait_for("Server is ready to receive web requests", PATIENCE);
        Prometheus { process, listen, _folder: folder }
    }

    /// One question to its API: what stands under `data` of the answer.
    fn ask(&self, path: &str, parameters: &[String]) -> Value {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--get", "--max-time", "30"]);
        for parameter in parameters {
            command.args(["--data-urlencode", parameter]);
        }
        let output = command.arg(format!("http://{}/api/v1/{path}", self.listen)).output().unwrap();
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            let said = String::from_utf8_lossy(&output.stderr);
            panic!("{path} {parameters:?}: {error}: {said}\n{}", self.process.stderr())
        });
        assert_eq!(answer["status"], "success", "{path} {parameters:?}: {answer}");
        answer["data"].clone()
    }

    /// Samples that an expression gives now; it must be one that Prometheus understands.
    fn samples(&self, expression: &str) -> usize {
        let data = self.ask("query", &[format!("query={expression}")]);
        data["result"].as_array().expect("a vector").len()
    }

    /// Waits until every one of these expressions gives data.
    fn wait_for(&self, expressions: &[String]) {
        let clock = Clock::start();
        let end = clock.now() + PATIENCE;
        loop {
            let empty: Vec<_> = expressions.iter().filter(|expression| self.samples(expression) == 0).collect();
            if empty.is_empty() {
                return;
            }
            assert!(clock.now() < end, "no data within {PATIENCE:?}: {empty:#?}\n{}", self.process.stderr());
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// The alert rules as it has read them: name and expression. None of them failed.
    fn rules(&self) -> BTreeMap<String, String> {
        let groups = self.ask("rules", &[])["groups"].clone();
        let rules = groups.as_array().expect("groups").iter().flat_map(|group| group["rules"].as_array().cloned());
        let rule = |rule: Value| {
            assert_eq!((&rule["health"], &rule["lastError"]), (&json!("ok"), &Value::Null), "{rule}");
            let text = |field: &str| rule[field].as_str().expect("a text").to_owned();
            (text("name"), text("query"))
        };
        rules.flatten().map(rule).collect()
    }
}

/// The rows of the tables of the page: by name, type and meaning.
fn documented() -> BTreeMap<String, (String, String)> {
    let rows = PAGE.lines().filter(|line| line.starts_with("| `anabranch_"));
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [name, kind, _, meaning] = cells[..] else { panic!("four columns: {line}") };
        (name.trim_matches('`').to_owned(), (kind.to_owned(), meaning.to_owned()))
    };
    rows.map(row).collect()
}

/// What the panels of the dashboard ask, with all relays chosen.
fn panels() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("it is JSON");
    let panels = dashboard["panels"].as_array().expect("panels").clone();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().cloned().unwrap_or_default());
    let asked: Vec<String> =
        targets.map(|target| target["expr"].as_str().expect("an expression").replace("$relay", ".*")).collect();
    assert!(asked.len() > 15 && asked.iter().all(|expression| !expression.contains('$')), "{asked:#?}");
    asked
}

/// The same expression with its comparisons answered by 0 or 1 instead of leaving samples out: it gives data wherever what it compares is there.
fn undecided(expression: &str) -> String {
    [" == ", " > ", " < "].iter().fold(expression.to_owned(), |text, sign| text.replace(sign, &format!("{sign}bool ")))
}

/// One order to a relay's operations port, by the operator's means.
fn order(ops: SocketAddr, method: &str, path: &str, body: &Value) -> u16 {
    anabranch_tests::http::ask(ops, method, path, body).unwrap().0
}

#[test]
#[ignore = "long: a real Prometheus, from Debian's package"]
fn prometheus_has_every_metric_and_every_question_is_answered() {
    let channel = lossy(10, 2.0);
    let links = [("lon", "fra", channel.clone()), ("fra", "ams", channel.clone())];
    let relays = ["lon", "fra", "ams"];
    let plan = RigPlan::new(11, &relays, &links);
    let mut rig = Rig::start_tuned(&plan, |_, config| config.ops = Some(([127, 0, 0, 1], 0).into())).unwrap();
    let ops = relays.map(|relay| rig.relay(relay).unwrap().report().ops.unwrap());
    let media = Media { rate: Bitrate::mbps(5), ..Media::video(11) };
    let mut flow = Flow::start(&rig, "live", ("lon", "ams"), &channel, media);
    flow.feed();
    let source =
        flow.source.as_ref().and_then(|source| source.report().metrics).expect("the source serves its metrics");
    let sink = flow.sink.as_ref().and_then(|sink| sink.report().metrics).expect("the sink serves its metrics");
    let prometheus = Prometheus::start(&[&ops[..], &[source, sink]].concat());

    // Every row of the page, by name, type and meaning; and nothing that has no row.
    let documented = documented();
    prometheus.wait_for(&["count(up{job=\"anabranch\"} == 1) == 5".to_owned()]);
    prometheus.wait_for(&documented.keys().cloned().collect::<Vec<_>>());
    let names = prometheus.ask("label/__name__/values", &["match[]={job=\"anabranch\"}".to_owned()]);
    let names: BTreeSet<&str> = names.as_array().unwrap().iter().filter_map(Value::as_str).collect();
    // Prometheus adds to each target what it knows of the scrape itself, and of alerts.
    let ours: BTreeSet<&str> = names
        .into_iter()
        .filter(|name| *name != "up" && !["scrape_", "ALERTS"].iter().any(|of| name.starts_with(of)))
        .collect();
    assert_eq!(ours, documented.keys().map(String::as_str).collect());
    let metadata = prometheus.ask("metadata", &[]);
    for (name, (kind, meaning)) in &documented {
        let known = &metadata[name][0];
        let help = known["help"].as_str().map(|help| help.trim_end_matches('.'));
        assert_eq!((&known["type"], help), (&json!(kind), Some(meaning.as_str())), "{name}");
    }

    // Every panel shows something, and its list of relays too.
    let panels = panels();
    prometheus.wait_for(&panels);
    let relays = prometheus.ask("label/instance/values", &["match[]=anabranch_relay_ready".to_owned()]);
    assert_eq!(relays.as_array().unwrap().len(), 3, "{relays}");

    // Every alert is about something that is there, and is silent while all is well.
    let rules = prometheus.rules();
    assert_eq!(rules.len(), RULES.matches("- alert:").count());
    prometheus.wait_for(&rules.values().map(|expression| undecided(expression)).collect::<Vec<_>>());
    let apart = |name: &str| OF_A_STALL.contains(&name) || OF_A_TRIAL.contains(&name);
    for (name, expression) in rules.iter().filter(|(name, _)| !apart(name)) {
        assert_eq!(prometheus.samples(expression), 0, "{name} in a healthy overlay: {expression}");
    }
    prometheus.wait_for(&OF_A_TRIAL.map(|name| rules[name].clone()));
    println!("{} metrics, {} panels' queries, {} alerts", documented.len(), panels.len(), rules.len());
    let result = flow.finish();
    assert_intact(&rig, &flow, result);

    // What an operator does, and what breaks, is seen.
    let [lon, fra, _] = ops;
    assert_eq!(order(lon, "PUT", "/api/v1/links/lon/fra", &json!({"mode": "arq"})), 200);
    prometheus.wait_for(&[rules["LinkRepairOverridden"].clone()]);
    assert!(order(lon, "POST", "/api/v1/reload", &Value::Null) >= 400, "it has no file to read");
    prometheus.wait_for(&[rules["ReloadRefused"].clone()]);
    rig.emulator().act("lon-fra", None, bench::emulator::Action::Cut).unwrap();
    prometheus.wait_for(&[rules["NeighbourDown"].clone()]);
    rig.emulator().act("lon-fra", None, bench::emulator::Action::Mend).unwrap();
    assert_eq!(order(fra, "POST", "/api/v1/drain", &Value::Null), 200);
    prometheus.wait_for(&[rules["RelayDrainedForLong"].clone()]);
    rig.kill_relay("ams").unwrap();
    prometheus.wait_for(&[rules["RelayUnreachable"].clone(), rules["OverlaySplit"].clone()]);
}
