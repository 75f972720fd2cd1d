//! TLS at the operations port of a relay that runs: certificates of clients beside the token, renewal by a reload, and who does not come to terms.

use anabranch_tests::flow::free_port;
use anabranch_tests::programs::{Ended, Files, Process, Program};
use bench::rig::Trial;
use node::clock::Clock;
use node::trust::Role;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

/// An authority that an operator made for ports or for people.
struct Authority(Issuer<'static, KeyPair>, String);

impl Authority {
    fn new(name: &str) -> Authority {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        Authority(Issuer::new(params, key), certificate)
    }

    /// Writes NAME.crt and NAME.key for these names.
    fn issue(&self, files: &Files, name: &str, names: &[&str]) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &self.0).unwrap();
        files.write(&format!("{name}.crt"), certificate.pem());
        let path = files.write(&format!("{name}.key"), key.serialize_pem());
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn write(&self, files: &Files, name: &str) {
        files.write(&format!("{name}.crt"), &self.1);
    }
}

/// What the port shows.
const NAMES: [&str; 2] = ["127.0.0.1", "fra.example.net"];

/// A relay whose port speaks TLS, and takes the certificates of one authority.
struct Lab {
    files: Files,
    relay: Process,
    ops: SocketAddr,
}

impl Lab {
    fn start(token: bool) -> Lab {
        let trial = Trial::new().unwrap();
        let files = Files::new(&trial);
        files.node(&trial, "fra", Role::Relay);
        let ops = free_port();
        for (authority, name, names) in
            [("ports", "ops", &NAMES[..]), ("people", "ann", &["ann"]), ("strangers", "eve", &["eve"])]
        {
            let made = Authority::new(authority);
            made.write(&files, authority);
            made.issue(&files, name, names);
        }
        let made = Program::Relay.run(&["keys", "ops-token", &files.text("ops.token")]);
        assert_eq!(made.code, Some(0), "{}", made.stderr);
        let config = configuration(&files, ops, token);
        let mut relay =
            Program::Relay.start(&["run", "--config", &config, "--json", "--interval", "50ms", "--log", "trace"]);
        relay.wait_for("\"ready\":true", PATIENCE);
        Lab { files, relay, ops }
    }

    /// A question by `ctl`; `shown` are names of files that go with flags.
    fn ctl(&self, arguments: &[&str], shown: &[(&str, &str)]) -> Ended {
        let ops = self.ops.to_string();
        let mut all: Vec<String> = ["ctl"].iter().chain(arguments).map(|part| (*part).to_owned()).collect();
        all.extend(["--ops".to_owned(), ops]);
        for (flag, file) in shown {
            all.extend([format!("--ops-{flag}"), self.files.text(file)]);
        }
        Program::Relay.run(&all.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Waits until the report counts so many refusals of a kind.
    fn counts(&self, reason: &str, expected: u64) {
        let clock = Clock::start();
        let end = clock.now() + PATIENCE;
        loop {
            let status = self.ctl(&["status", "--json"], &[BELIEVED, ANN[0], ANN[1]]);
            let report: Value = serde_json::from_str(&status.stdout).unwrap_or_else(|_| panic!("{}", status.stderr));
            if report["ops_refused"][reason] == expected {
                return;
            }
            assert!(clock.now() < end, "{reason}: {} instead of {expected}", report["ops_refused"]);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

const BELIEVED: (&str, &str) = ("tls-authority", "ports.crt");
const ANN: [(&str, &str); 2] = [("tls-certificate", "ann.crt"), ("tls-key", "ann.key")];
const EVE: [(&str, &str); 2] = [("tls-certificate", "eve.crt"), ("tls-key", "eve.key")];
const TOKEN: (&str, &str) = ("token-file", "ops.token");

fn configuration(files: &Files, ops: SocketAddr, token: bool) -> String {
    let keys = files.path().display();
    let port = ops.port();
    let token = if token { format!("ops_token_file = \"{keys}/ops.token\"\n") } else { String::new() };
    files.write(
        "relay.toml",
        format!(
            "name = \"fra\"\nkeys = \"{keys}\"\nlisten = \"127.0.0.1:0\"\ndrain = \"100ms\"\nops = \"0.0.0.0:{port}\"\n{token}\
             ops_tls = {{ certificate = \"{keys}/ops.crt\", key = \"{keys}/ops.key\", clients = \"{keys}/people.crt\" }}\n"
        ),
    )
}

#[test]
fn who_shows_a_certificate_or_the_token_is_answered_and_nobody_else() {
    let lab = Lab::start(true);
    for (shown, code) in [
        (&[BELIEVED, TOKEN][..], 0),
        (&[BELIEVED, ANN[0], ANN[1]], 0),
        (&[BELIEVED], 77),
        // Its handshake fails, and so it gets no answer.
        (&[BELIEVED, EVE[0], EVE[1], TOKEN], 69),
        (&[("tls-authority", "people.crt"), TOKEN], 69),
    ] {
        let ended = lab.ctl(&["status"], shown);
        assert_eq!(ended.code, Some(code), "{shown:?}: {ended:?}");
    }
    lab.counts("token", 1);
    lab.counts("tls", 2);

    let (ops, authority, token) = (lab.ops.to_string(), lab.files.text("ports.crt"), lab.files.text("ops.token"));
    for (name, code) in [("fra.example.net", 0), ("lon.example.net", 69)] {
        let ended = Program::Relay.run(&[
            "ctl",
            "status",
            "--ops",
            &ops,
            "--ops-token-file",
            &token,
            "--ops-tls-authority",
            &authority,
            "--ops-tls-name",
            name,
        ]);
        assert_eq!(ended.code, Some(code), "{name}: {ended:?}");
        assert!(code == 0 || ended.stderr.contains(name), "{}", ended.stderr);
    }
}

#[test]
fn without_a_token_a_certificate_is_the_only_way() {
    let lab = Lab::start(false);
    assert_eq!(lab.ctl(&["drain"], &[BELIEVED, ANN[0], ANN[1]]).code, Some(0));
    let refused = lab.ctl(&["drain", "--undo"], &[BELIEVED]);
    assert_eq!(refused.code, Some(77), "{refused:?}");
    assert!(refused.stderr.contains("ops_tls.clients"), "{}", refused.stderr);
    let ended = lab.ctl(&["status"], &[BELIEVED, ANN[0]]);
    assert!(ended.code == Some(64) && ended.stderr.contains("--ops-tls-key"), "{ended:?}");
}

#[test]
fn in_clear_nothing_is_done_and_it_is_said_why() {
    let lab = Lab::start(true);
    let refused = lab.ctl(&["drain"], &[TOKEN]);
    assert_eq!(refused.code, Some(77), "{refused:?}");
    assert!(
        refused.stderr.contains("speaks TLS") && refused.stderr.contains("--ops-tls-authority"),
        "{}",
        refused.stderr
    );
    let mut stream = TcpStream::connect(lab.ops).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("application/problem+json"), "{answer}");

    // What begins as TLS does, and is none.
    let mut stream = TcpStream::connect(lab.ops).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&[22; 600]).unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    lab.counts("tls", 3);
    assert_eq!(lab.ctl(&["status"], &[BELIEVED, TOKEN]).code, Some(0));
    let key = std::fs::read_to_string(lab.files.file("ops.key")).unwrap();
    let secret = key.lines().nth(1).expect("a line of the key");
    assert!(!lab.relay.stderr().contains(secret));
}

#[test]
fn a_new_certificate_is_shown_from_a_reload_on_and_who_comes_by_the_old_is_let_go() {
    let mut lab = Lab::start(true);
    let listening =
        ["ctl", "events", "--ops", &lab.ops.to_string(), "--ops-tls-authority", &lab.files.text("ports.crt")];
    let own = ["--ops-tls-certificate", &lab.files.text("ann.crt"), "--ops-tls-key", &lab.files.text("ann.key")];
    let mut listener = Program::Relay.start(&[&listening[..], &own].concat());
    // It listens once it tells of something.
    let clock = Clock::start();
    let end = clock.now() + PATIENCE;
    let mut undo = false;
    while listener.stdout().is_empty() {
        let order: &[&str] = if undo { &["drain", "--undo"] } else { &["drain"] };
        assert_eq!(lab.ctl(order, &[BELIEVED, TOKEN]).code, Some(0));
        undo = !undo;
        assert!(clock.now() < end && listener.runs(), "{}", listener.stderr());
        std::thread::sleep(Duration::from_millis(50));
    }

    // A key that does not go with its certificate, one that others can read, and a file that holds none.
    let new = Authority::new("newer");
    let old_key = std::fs::read_to_string(lab.files.file("ops.key")).unwrap();
    let old_certificate = std::fs::read_to_string(lab.files.file("ops.crt")).unwrap();
    let mode =
        |mode| std::fs::set_permissions(lab.files.file("ops.key"), std::fs::Permissions::from_mode(mode)).unwrap();
    new.issue(&lab.files, "other", &NAMES);
    let swapped = || {
        std::fs::copy(lab.files.file("other.crt"), lab.files.file("ops.crt")).unwrap();
    };
    for (break_it, why) in [
        (&swapped as &dyn Fn(), "ops.key"),
        (&|| mode(0o644), "chmod 600"),
        (&|| drop(lab.files.write("ops.crt", "nothing")), "ops.crt"),
    ] {
        break_it();
        let refused = lab.ctl(&["reload"], &[BELIEVED, TOKEN]);
        assert!(refused.code == Some(78), "{refused:?}");
        assert!(refused.stderr.contains("ops_tls") && refused.stderr.contains(why), "{why}: {}", refused.stderr);
        lab.files.write("ops.crt", &old_certificate);
        lab.files.write("ops.key", &old_key);
        mode(0o600);
    }
    assert!(listener.runs(), "what is refused changes nothing");

    new.write(&lab.files, "newer");
    new.issue(&lab.files, "ops", &NAMES);
    let read = lab.ctl(&["reload"], &[BELIEVED, TOKEN]);
    assert!(read.code == Some(0) && read.stdout.contains("who may come to the operations port"), "{read:?}");
    let gone = listener.wait(PATIENCE);
    assert_eq!(gone.code, Some(69), "{gone:?}");
    assert_eq!(lab.ctl(&["status"], &[BELIEVED, TOKEN]).code, Some(69), "the old authority did not sign this one");
    assert_eq!(lab.ctl(&["status"], &[("tls-authority", "newer.crt"), TOKEN]).code, Some(0));
    assert!(lab.relay.runs());
}
