//! Everything that an overlay is trusted by is made anew while a stream of 20 Mbit/s runs: the authority, the certificates and keys of all relays, the
//! key that signs tokens, the tokens of source and sink, the payload key. Nothing may be lost, nobody cut off, and who still comes by
//! what was left behind is refused. The programs as processes, by the steps of the operations page.

use anabranch_tests::assert_complete;
use anabranch_tests::flow::{Check, Feed, Media, free_port};
use anabranch_tests::programs::{Process, Program};
use link::Bitrate;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

/// A machine for `keys`, and a key directory for every node.
struct Overlay {
    folder: tempfile::TempDir,
}

impl Overlay {
    fn new() -> Overlay {
        let overlay = Overlay { folder: tempfile::tempdir().unwrap() };
        overlay.keys(&["init", "--overlay", "rotated"]);
        overlay
    }

    fn at(&self, node: &str) -> PathBuf {
        self.folder.path().join(node)
    }

    fn file(&self, node: &str, name: &str) -> String {
        self.at(node).join(name).display().to_string()
    }

    /// Runs `keys`, which must succeed; returns what it printed.
    fn keys(&self, arguments: &[&str]) -> String {
        let dir = self.at("master").display().to_string();
        let dir = if arguments[0] == "stream-key" { vec![] } else { vec!["--dir", &dir] };
        let ended = Program::Relay.run(&[&["keys"], arguments, &dir].concat());
        assert_eq!(ended.code, Some(0), "keys {arguments:?}: {}", ended.stderr);
        ended.stdout
    }

    /// Copies files of the master's directory to those of nodes, as an operator does: beside, then in their place.
    fn copy(&self, files: &[&str], nodes: &[&str]) {
        for node in nodes {
            fs::create_dir_all(self.at(node)).unwrap();
            for file in files.iter().filter(|file| self.at("master").join(file).exists()) {
                put(&self.at("master").join(file), &self.at(node).join(file));
            }
        }
    }

    fn token(&self, id: &str, right: &str, to: &str) {
        let text = self.keys(&["token", right, "news/*", "--id", id]);
        let master = self.at("master").join("new.token");
        fs::write(&master, text).unwrap();
        fs::create_dir_all(self.at(to)).unwrap();
        put(&master, &self.at(to).join("stream.token"));
    }

    fn relay(&self, name: &str, listen: SocketAddr, neighbour: Option<SocketAddr>) -> Process {
        let (keys, listen) = (self.file(name, ""), listen.to_string());
        let neighbour = neighbour.map(|address| address.to_string());
        let mut arguments = vec!["run", "--keys", &keys, "--name", name, "--listen", &listen];
        arguments.extend(neighbour.iter().flat_map(|address| ["--neighbour", address]));
        Program::Relay.start(&arguments)
    }

    fn sink(&self, name: &str, relay: SocketAddr, output: &str) -> Process {
        let (keys, token, key) = (self.file(name, ""), self.file(name, "stream.token"), self.file(name, "payload.key"));
        let relay = relay.to_string();
        let who = ["--relay", &relay, "--keys", &keys, "--token-file", &token, "--stream", "news/main"];
        Program::Sink.start(&[&who[..], &["--payload-key", &key, output]].concat())
    }
}

fn put(from: &Path, to: &Path) {
    let beside = to.with_extension("copy");
    fs::copy(from, &beside).unwrap();
    fs::rename(&beside, to).unwrap();
}

/// Waits until every one of these has said something so often.
fn said(processes: &mut [&mut Process], text: &str, times: usize) {
    let clock = node::clock::Clock::start();
    let end = clock.now() + PATIENCE;
    for process in processes {
        while process.stderr().matches(text).count() < times {
            assert!(process.runs() && clock.now() < end, "{text:?} was not said {times} times:\n{}", process.stderr());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

const IN_FORCE: &str = "the keys have changed";
const TAKEN: &str = "the relay has taken the new tokens";

#[test]
fn everything_is_rotated_while_a_stream_runs() {
    let overlay = Overlay::new();
    let (relays, clients, everyone) = (["a", "b", "c"], ["source", "sink"], ["a", "b", "c", "source", "sink"]);
    for relay in relays {
        overlay.keys(&["node", relay]);
        overlay.copy(&[&format!("{relay}.crt"), &format!("{relay}.key")], &[relay]);
    }
    overlay.copy(&["authority.crt"], &everyone);
    overlay.token("studio", "--publish", "source");
    overlay.token("viewers", "--subscribe", "sink");
    let master_key = overlay.file("master", "payload.key");
    overlay.keys(&["stream-key", "create", &master_key]);
    overlay.copy(&["payload.key"], &clients);

    let [a_at, b_at, c_at] = [free_port(), free_port(), free_port()];
    let mut a = overlay.relay("a", a_at, None);
    let mut b = overlay.relay("b", b_at, Some(a_at));
    let mut c = overlay.relay("c", c_at, Some(b_at));
    let media = Media { rate: Bitrate::mbps(20), ..Media::video(4) };
    let (check, input) = (Check::start(&media), free_port());
    let mut sink = overlay.sink("sink", c_at, &format!("udp://{}", check.address));
    let (keys, token, key) =
        (overlay.file("source", ""), overlay.file("source", "stream.token"), overlay.file("source", "payload.key"));
    let (from, relay) = (format!("udp://{input}"), a_at.to_string());
    let mut source = Program::Source.start(&[
        "--relay",
        &relay,
        "--keys",
        &keys,
        "--token-file",
        &token,
        "--payload-key",
        &key,
        "--deadline",
        "400ms",
        "--mode",
        "tree",
        "--stream",
        "news/main",
        &from,
    ]);
    for process in [&mut source, &mut sink] {
        said(&mut [process], "connected", 1);
    }
    std::thread::sleep(Duration::from_secs(2));
    let feed = Feed::start(input, &media);
    check.wait_for(1_000, PATIENCE);

    // A new authority: both are believed.
    let old_token = fs::read(overlay.at("sink").join("stream.token")).unwrap();
    overlay.copy(&["authority.crt"], &["left-behind"]);
    overlay.keys(&["rotate", "authority"]);
    overlay.copy(&["authority.crt"], &everyone);
    said(&mut [&mut a, &mut b, &mut c, &mut source, &mut sink], IN_FORCE, 1);
    check.wait_for(500, PATIENCE);

    // Certificates and keys by the new one.
    for relay in relays {
        overlay.keys(&["rotate", "node", relay]);
        overlay.copy(&[&format!("{relay}.key"), &format!("{relay}.crt")], &[relay]);
    }
    said(&mut [&mut a, &mut b, &mut c], IN_FORCE, 2);
    check.wait_for(500, PATIENCE);

    // Tokens by a key of the new one; then the old tokens are taken back, and nobody is cut off.
    overlay.keys(&["rotate", "token-key"]);
    overlay.token("studio-2", "--publish", "source");
    overlay.token("viewers-2", "--subscribe", "sink");
    said(&mut [&mut source, &mut sink], TAKEN, 1);
    overlay.keys(&["revoke", "--token-id", "studio", "--token-id", "viewers"]);
    overlay.copy(&["revoked.list"], &everyone);
    said(&mut [&mut a, &mut b, &mut c], "list of revocations in force", 1);
    check.wait_for(500, PATIENCE);

    // The new authority alone.
    overlay.keys(&["rotate", "authority", "--finish"]);
    overlay.copy(&["authority.crt", "revoked.list"], &everyone);
    said(&mut [&mut a, &mut b, &mut c], IN_FORCE, 3);
    said(&mut [&mut source, &mut sink], IN_FORCE, 2);
    check.wait_for(500, PATIENCE);

    // The payload key.
    overlay.keys(&["stream-key", "rotate", &master_key]);
    overlay.copy(&["payload.key"], &["sink"]);
    std::thread::sleep(Duration::from_millis(1_500));
    overlay.keys(&["stream-key", "switch", &master_key]);
    overlay.copy(&["payload.key"], &["source"]);
    std::thread::sleep(Duration::from_millis(1_500));
    check.wait_for(500, PATIENCE);

    // Who comes new, by the new keys alone, finds the overlay and the stream: all that relays say is signed anew.
    overlay.keys(&["node", "d"]);
    overlay.copy(&["authority.crt", "revoked.list", "d.crt", "d.key"], &["d"]);
    let d_at = free_port();
    let mut d = overlay.relay("d", d_at, Some(c_at));
    said(&mut [&mut d], "connected", 1);
    overlay.copy(&["authority.crt", "payload.key"], &["second"]);
    overlay.token("viewers-3", "--subscribe", "second");
    let second = Check::start(&media);
    let mut late = overlay.sink("second", d_at, &format!("udp://{}", second.address));
    second.wait_for(200, PATIENCE);

    // Who was left behind is refused on either side, and told why.
    fs::write(overlay.at("left-behind").join("stream.token"), &old_token).unwrap();
    overlay.copy(&["payload.key"], &["left-behind"]);
    let behind = overlay.sink("left-behind", c_at, "udp://127.0.0.1:9").wait(PATIENCE);
    assert_eq!(behind.code, Some(77), "{}", behind.stderr);
    assert!(behind.stderr.contains("its certificate is not that of a relay of this overlay"), "{}", behind.stderr);
    overlay.copy(&["authority.crt"], &["left-behind"]);
    let behind = overlay.sink("left-behind", c_at, "udp://127.0.0.1:9").wait(PATIENCE);
    assert_eq!(behind.code, Some(77), "{}", behind.stderr);
    assert!(behind.stderr.contains("was not signed by this overlay's authority"), "{}", behind.stderr);

    let sent = feed.stop();
    let seen = check.wait_until_quiet();
    assert_eq!(seen.compared.foreign, 0, "{:?}", seen.compared);
    assert_complete(sent, seen.compared.intact, || {
        format!("{:?}\n{}\n{}", seen.compared, source.stderr(), sink.stderr())
    });
    for process in [&mut source, &mut sink, &mut a, &mut b, &mut c, &mut late] {
        assert!(process.runs(), "{}", process.stderr());
    }
    for process in [&source, &sink] {
        assert_eq!(process.stderr().matches("connected address=").count(), 1, "it reconnected: {}", process.stderr());
    }
}

/// A half-copied or foreign file changes nothing, and is named.
#[test]
fn keys_that_do_not_belong_together_are_named_and_not_taken() {
    let overlay = Overlay::new();
    overlay.keys(&["node", "a"]);
    overlay.copy(&["authority.crt", "a.crt", "a.key"], &["a"]);
    let (a_at, ops) = (free_port(), free_port().to_string());
    let (keys, listen) = (overlay.file("a", ""), a_at.to_string());
    let mut a = Program::Relay.start(&["run", "--keys", &keys, "--name", "a", "--listen", &listen, "--ops", &ops]);
    a.wait_for("ready", PATIENCE);
    overlay.keys(&["rotate", "node", "a"]);
    overlay.copy(&["a.crt"], &["a"]);
    a.wait_for("a.key: expected the key of the certificate beside it: it is another one", PATIENCE);
    let reload = Program::Relay.run(&["ctl", "reload", "--ops", &ops]);
    assert_ne!(reload.code, Some(0));
    assert!(reload.stderr.contains("a.key: expected the key of the certificate beside it"), "{}", reload.stderr);
    overlay.copy(&["a.key"], &["a"]);
    said(&mut [&mut a], IN_FORCE, 1);
    overlay.keys(&["rotate", "authority"]);
    overlay.keys(&["rotate", "authority", "--finish"]);
    overlay.copy(&["authority.crt"], &["a"]);
    a.wait_for("none of the authorities in authority.crt beside it has signed it", PATIENCE);
    let started = overlay.relay("a", free_port(), None).wait(PATIENCE);
    assert_eq!(started.code, Some(78), "{}", started.stderr);
}
