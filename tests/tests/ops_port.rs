//! Who may come to the operations port of a relay that runs: by a token, under a host that it has.

use anabranch_tests::browser::Driver;
use anabranch_tests::flow::free_port;
use anabranch_tests::programs::{Ended, Files, Process, Program};
use bench::rig::Trial;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use node::clock::Clock;
use node::trust::Role;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

/// A relay with an operations port on every address of the machine, and what it says in full detail.
struct Lab {
    files: Files,
    relay: Process,
    ops: SocketAddr,
    token: String,
    token_file: String,
}

/// A token in a file as the program makes them; its text and its path.
fn new_token(files: &Files, name: &str) -> (String, String) {
    let path = files.text(name);
    let _ = std::fs::remove_file(&path);
    let made = Program::Relay.run(&["keys", "ops-token", &path]);
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    let token = std::fs::read_to_string(&path).unwrap().trim().to_owned();
    assert!(!made.stdout.contains(&token));
    (token, path)
}

fn configuration(files: &Files, ops: SocketAddr, more: &str) -> String {
    let keys = files.path().display();
    let port = ops.port();
    let text = format!(
        "name = \"fra\"\nkeys = \"{keys}\"\nlisten = \"127.0.0.1:0\"\ndrain = \"100ms\"\nops = \"0.0.0.0:{port}\"\n"
    );
    files.write("relay.toml", text + more)
}

impl Lab {
    fn start() -> Lab {
        let trial = Trial::new().unwrap();
        let files = Files::new(&trial);
        files.node(&trial, "fra", Role::Relay);
        let ops = free_port();
        let (token, token_file) = new_token(&files, "ops.token");
        let more = format!("ops_token_file = \"{token_file}\"\nops_hosts = [\"fra.example.net\"]\n");
        let config = configuration(&files, ops, &more);
        let run = ["run", "--config", &config, "--json", "--interval", "50ms", "--log", "trace"];
        let mut relay = Program::Relay.start(&run);
        relay.wait_for("\"ready\":true", PATIENCE);
        Lab { files, relay, ops, token, token_file }
    }

    /// One request as it is; the status, head and body.
    fn ask(&self, method: &str, path: &str, head: &[&str]) -> (u16, String) {
        let mut stream = TcpStream::connect(self.ops).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head: String = head.iter().map(|line| format!("{line}\r\n")).collect();
        write!(stream, "{method} {path} HTTP/1.1\r\nConnection: close\r\n{head}\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status =
            answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{answer}"));
        (status, answer)
    }

    fn ctl(&self, arguments: &[&str]) -> Ended {
        let ops = self.ops.to_string();
        Program::Relay.run(&[&["ctl"], arguments, &["--ops", &ops]].concat())
    }

    /// Waits until the report counts so many refusals of a kind.
    fn counts(&self, reason: &str, expected: u64) {
        let clock = Clock::start();
        let end = clock.now() + PATIENCE;
        while self.refused()[reason] != expected {
            assert!(clock.now() < end, "{reason}: {} instead of {expected}", self.refused());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn refused(&self) -> Value {
        let status = self.ctl(&["status", "--json", "--ops-token-file", &self.token_file]);
        let report: Value = serde_json::from_str(&status.stdout).unwrap_or_else(|_| panic!("{}", status.stderr));
        report["ops_refused"].clone()
    }
}

#[test]
fn nothing_is_told_or_done_without_the_token_and_no_log_tells_it() {
    let lab = Lab::start();
    let host = format!("Host: {}", lab.ops);
    let right = format!("Authorization: Bearer {}", lab.token);
    let wrong = format!("Authorization: Bearer {}x", &lab.token[1..]);
    let in_clear = format!("Authorization: Basic {}", lab.token);
    for (method, path) in [
        ("GET", "/metrics"),
        ("GET", "/api/v1/status"),
        ("GET", "/api/v1/events"),
        ("GET", "/api/v1/openapi.json"),
        ("POST", "/api/v1/drain"),
        ("POST", "/api/v1/reload"),
        ("PUT", "/api/v1/links/fra/lon"),
        ("GET", "/nothing"),
    ] {
        for shown in [None, Some(&wrong), Some(&in_clear)] {
            let head: Vec<&str> = [Some(&host), shown].into_iter().flatten().map(String::as_str).collect();
            let (status, answer) = lab.ask(method, path, &head);
            assert_eq!(status, 401, "{method} {path} {shown:?}: {answer}");
            assert!(
                answer.contains("application/problem+json") && answer.contains("www-authenticate: Bearer"),
                "{answer}"
            );
        }
    }
    for path in ["/metrics", "/api/v1/status"] {
        let (status, answer) = lab.ask("GET", path, &[&host, &right]);
        assert_eq!(status, 200, "{answer}");
        assert!(!answer.contains(&lab.token));
    }
    for path in ["/healthz", "/readyz", "/", "/dashboard/token.js"] {
        assert_eq!(lab.ask("GET", path, &[&host]).0, 200, "{path}");
    }

    let told = lab.ctl(&["status"]);
    assert_eq!(told.code, Some(77), "{}", told.stderr);
    assert!(told.stderr.contains("--ops-token-file"), "{}", told.stderr);
    assert_eq!(lab.ctl(&["drain", "--ops-token-file", &lab.token_file]).code, Some(0));
    let mut by_environment = Program::Relay.command();
    by_environment.args(["ctl", "drain", "--undo", "--ops", &lab.ops.to_string()]);
    by_environment.env("ANABRANCH_OPS_TOKEN_FILE", &lab.token_file);
    assert_eq!(Process::start(&mut by_environment).wait(PATIENCE).code, Some(0));
    let (_, other) = new_token(&lab.files, "other.token");
    let refused = lab.ctl(&["status", "--ops-token-file", &other]);
    assert_eq!(refused.code, Some(77), "{}", refused.stderr);
    lab.counts("token", 8 * 3 + 2);

    let (out, err) = (lab.relay.stdout(), lab.relay.stderr());
    assert!(err.contains("TRACE") || err.contains("DEBUG"), "it says everything: {err}");
    assert!(!out.contains(&lab.token) && !err.contains(&lab.token), "the token is in what the relay says");
}

#[test]
fn a_name_that_others_may_point_here_is_refused() {
    let lab = Lab::start();
    let right = format!("Authorization: Bearer {}", lab.token);
    let port = lab.ops.port();
    for (host, expected) in [
        (format!("127.0.0.1:{port}"), 200),
        (format!("localhost:{port}"), 200),
        ("FRA.example.net".to_owned(), 200),
        (format!("rebound.example:{port}"), 421),
        ("fra.example.net.rebound.example".to_owned(), 421),
        ("192.0.2.1".to_owned(), 421),
    ] {
        let host = format!("Host: {host}");
        // What a page of that name would be let do: it is of the same site, and its orders say so.
        let origin = host.replace("Host: ", "Origin: http://");
        let (status, answer) = lab.ask("GET", "/api/v1/status", &[&host, &right]);
        assert_eq!(status, expected, "{host}: {answer}");
        let (status, answer) = lab.ask("POST", "/api/v1/resume", &[&host, &origin, &right, "Content-Length: 0"]);
        assert_eq!(status, expected, "{host}: {answer}");
        assert_eq!(lab.ask("GET", "/", &[&host]).0, expected, "the page as well");
        if expected == 421 {
            assert!(answer.contains("application/problem+json") && answer.contains("ops_hosts"), "{answer}");
        }
    }
    lab.counts("host", 9);
}

#[test]
fn a_new_token_is_in_force_with_a_reload_and_the_old_one_ends_what_it_began() {
    let mut lab = Lab::start();
    let mut listening = TcpStream::connect(lab.ops).unwrap();
    listening.set_read_timeout(Some(PATIENCE)).unwrap();
    let old = format!("Authorization: Bearer {}", lab.token);
    write!(listening, "GET /api/v1/events HTTP/1.1\r\nHost: {}\r\n{old}\r\n\r\n", lab.ops).unwrap();
    let mut some = [0; 16];
    listening.read_exact(&mut some).unwrap();
    assert!(some.starts_with(b"HTTP/1.1 200"));

    // A copy by which the old token is still shown.
    let kept = lab.files.write("kept.token", &lab.token);
    std::fs::set_permissions(&kept, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::set_permissions(&lab.token_file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let refused = lab.ctl(&["reload", "--ops-token-file", &kept]);
    assert_eq!(refused.code, Some(78), "{}", refused.stderr);
    assert!(refused.stderr.contains("ops_token_file") && refused.stderr.contains("chmod 600"), "{}", refused.stderr);
    assert_eq!(lab.ctl(&["status", "--ops-token-file", &kept]).code, Some(0), "the old one stays in force");

    let (new, _) = new_token(&lab.files, "ops.token");
    let read = lab.ctl(&["reload", "--ops-token-file", &kept]);
    assert!(read.stdout.contains("who may come to the operations port"), "{}{}", read.stdout, read.stderr);
    assert_eq!(lab.ctl(&["status", "--ops-token-file", &kept]).code, Some(77));
    assert_eq!(lab.ctl(&["status", "--ops-token-file", &lab.token_file]).code, Some(0));
    let mut rest = Vec::new();
    listening.read_to_end(&mut rest).expect("the listener of the old token is let go");
    let said = lab.relay.stderr();
    assert!(!said.contains(&new) && !said.contains(&lab.token));

    // It stays bound where others reach it: a file that asks for no token there is refused.
    for more in ["", "[limits]\nmax_streams = 5\n"] {
        configuration(&lab.files, lab.ops, more);
        let refused = lab.ctl(&["reload", "--ops-token-file", &lab.token_file]);
        assert!(refused.code == Some(78) && refused.stderr.contains("ops_token_file"), "{refused:?}");
    }
    let text = std::fs::read_to_string(lab.files.file("relay.toml")).unwrap();
    lab.files.write("relay.toml", text.replace("0.0.0.0", "127.0.0.1"));
    let refused = lab.ctl(&["reload", "--ops-token-file", &lab.token_file]);
    assert!(refused.code == Some(78) && refused.stderr.contains("ops_token_file"), "{refused:?}");
    assert!(lab.relay.runs());
}

#[test]
fn a_port_for_others_without_a_token_is_refused_before_it_opens() {
    let trial = Trial::new().unwrap();
    let files = Files::new(&trial);
    files.node(&trial, "fra", Role::Relay);
    let config = configuration(&files, free_port(), "");
    for command in ["check", "run"] {
        let refused = Program::Relay.run(&[command, "--config", &config]);
        assert_eq!(refused.code, Some(78), "{refused:?}");
        for part in ["relay.toml", "ops:", "ops_token_file", "ops_without_token"] {
            assert!(refused.stderr.contains(part), "{}", refused.stderr);
        }
    }
    let open = files.write("open.token", "0123456789-0123456789-0123456789");
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o644)).unwrap();
    for command in ["check", "run"] {
        let refused = Program::Relay.run(&[command, "--config", &config, "--ops-token-file", &open]);
        assert!(refused.code == Some(78) && refused.stderr.contains("chmod 600"), "{refused:?}");
        assert!(!refused.stderr.contains("0123456789-"), "{refused:?}");
    }
    let config = configuration(&files, free_port(), "ops_without_token = true\n");
    assert_eq!(Program::Relay.run(&["check", "--config", &config]).code, Some(0));
}

/// What the page shows, when a condition holds.
async fn until(browser: &Client, what: &str, condition: &str) {
    let clock = Clock::start();
    let end = clock.now() + PATIENCE;
    while browser.execute(&format!("return Boolean({condition})"), Vec::new()).await.unwrap() != json!(true) {
        let seen = browser.execute("return document.body.innerText", Vec::new()).await.unwrap();
        assert!(clock.now() < end, "{what}: {condition} did not come about\n{seen}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn give(browser: &Client, token: &str) {
    let input = browser.find(Locator::Css("#ops-token")).await.unwrap();
    input.clear().await.unwrap();
    input.send_keys(token).await.unwrap();
    browser.find(Locator::Css("dialog button")).await.unwrap().click().await.unwrap();
}

#[test]
fn the_dashboard_asks_for_the_token_once() {
    let Some(driver) = Driver::start() else { return };
    let lab = Lab::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut builder = ClientBuilder::new(HttpConnector::new());
        let browser = builder.capabilities(Driver::capabilities()).connect(&driver.url()).await.unwrap();
        browser.goto(&format!("http://127.0.0.1:{}/", lab.ops.port())).await.unwrap();
        until(&browser, "it asks", "document.querySelector('dialog[open] #ops-token')").await;
        give(&browser, "0123456789-0123456789-0123456789").await;
        until(
            &browser,
            "it asks again",
            "document.querySelector('dialog[open] output')?.textContent.includes('another')",
        )
        .await;
        give(&browser, &lab.token).await;
        until(&browser, "it shows the relay", "document.getElementById('name').textContent === 'fra'").await;
        until(&browser, "it listens", "document.getElementById('listening').textContent === 'live'").await;
        until(&browser, "one question is enough", "!document.querySelector('dialog')").await;
        assert_eq!(lab.ctl(&["drain", "--ops-token-file", &lab.token_file]).code, Some(0));
        until(
            &browser,
            "an event comes",
            "document.getElementById('event-list').textContent.includes('taken off this relay')",
        )
        .await;
        browser.refresh().await.unwrap();
        until(&browser, "it is kept", "document.getElementById('name').textContent === 'fra'").await;
        until(&browser, "and not asked for again", "!document.querySelector('dialog')").await;
        browser.close().await.unwrap();
    });
}
