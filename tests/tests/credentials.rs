//! Every credential that is no good, shown at every port that listens: a relay's QUIC port by a relay, a source and a sink, its operations port, and
//! the HTTP output of a sink. Programs as processes; a stream runs through all of it.

use anabranch_tests::assert_complete;
use anabranch_tests::flow::{Check, Feed, Media, free_port};
use anabranch_tests::programs::{Files, Process, Program};
use bench::rig::Trial;
use node::clock::unix_seconds;
use node::trust::{Claims, Direction, Revoked, Role, init, issue_node, issue_token, revoke};
use rcgen::{CertificateParams, KeyPair};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);
const DAY: Duration = Duration::from_secs(86_400);
const STREAM: &str = "news/main";

/// An overlay, whose keys stand in `k`, and another one in `other`.
struct Overlay {
    files: Files,
}

/// What is shown, by whom, and what the one who is refused is told.
struct Shown {
    what: &'static str,
    /// The key directory, and the name in it, where a certificate is shown.
    certificate: Option<(&'static str, &'static str)>,
    token: Option<String>,
    says: &'static str,
    /// Whether it is the node itself that notices, and does not even dial.
    at_home: bool,
}

impl Overlay {
    fn new() -> Overlay {
        let overlay = Overlay { files: Files::new(&Trial::new().unwrap()) };
        for dir in ["k", "other"] {
            init(&overlay.at(dir), dir, unix_seconds() - 3 * DAY.as_secs(), 10 * DAY).unwrap();
        }
        overlay
    }

    fn at(&self, dir: &str) -> PathBuf {
        self.files.file(dir)
    }

    /// A certificate that is good from `ago` on for a day.
    fn node(&self, dir: &str, name: &str, role: Role, ago: Duration) {
        issue_node(&self.at(dir), &name.parse().unwrap(), role, unix_seconds() - ago.as_secs(), DAY).unwrap();
    }

    /// A directory with an authority, and a certificate of `from`.
    fn shows(&self, dir: &str, authority: &str, from: &str, name: &str) {
        fs::create_dir_all(self.at(dir)).unwrap();
        for (from, file) in
            [(authority, "authority.crt"), (from, &*format!("{name}.crt")), (from, &*format!("{name}.key"))]
        {
            fs::copy(self.at(from).join(file), self.at(dir).join(file)).unwrap();
        }
    }

    /// A token, in a file that its owner alone can read.
    fn token(&self, dir: &str, id: &str, streams: &str, direction: Direction, expires: u64) -> String {
        let claims = Claims {
            id: id.to_owned(),
            streams: streams.parse().unwrap(),
            direction,
            max_rate: None,
            expires: unix_seconds() + expires,
        };
        self.secret(&format!("{dir}-{id}.token"), &issue_token(&self.at(dir), &claims).unwrap())
    }

    fn secret(&self, name: &str, text: &str) -> String {
        let path = self.files.write(name, text);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }
}

/// Tokens that are no good for `direction`, but for their names the same for both.
fn tokens(overlay: &Overlay, direction: Direction) -> Vec<Shown> {
    let (way, other) = match direction {
        Direction::Publish => ("publish", Direction::Subscribe),
        Direction::Subscribe => ("watch", Direction::Publish),
    };
    let right = overlay.token("k", &format!("{way}-right"), "news/*", direction, 3600);
    let text = fs::read_to_string(right).unwrap();
    // The last character may hold bits that nobody reads.
    let at = text.len() - 10;
    let changed = format!("{}{}{}", &text[..at], if &text[at..=at] == "A" { "B" } else { "A" }, &text[at + 1..]);
    let token = |what, path, says| Shown { what, certificate: None, token: Some(path), says, at_home: false };
    let id = |what: &str| format!("{way}-{what}");
    vec![
        token("expired token", overlay.token("k", &id("expired"), "news/*", direction, 0), "expired"),
        token("revoked token", overlay.token("k", &id("revoked"), "news/*", direction, 3600), "was revoked"),
        token(
            "token of the other direction",
            overlay.token("k", &id("turned"), "news/*", other, 3600),
            "it brought none",
        ),
        token("token of other streams", overlay.token("k", &id("elsewhere"), "sport/*", direction, 3600), STREAM),
        token(
            "token of another overlay",
            overlay.token("other", &id("other"), "news/*", direction, 3600),
            "not signed by this overlay",
        ),
        token("changed token", overlay.secret(&format!("{way}-changed.token"), &changed), "token"),
        token(
            "nonsense for a token",
            overlay.secret(&format!("{way}-nonsense.token"), "abt1.nonsense-nonsense-nonsense"),
            "token",
        ),
    ]
}

/// Certificates that are no good for a node of this role, with a token that is, where one is needed.
fn certificates(overlay: &Overlay, role: Role, wrong: Role, token: Option<&str>) -> Vec<Shown> {
    let name = |what: &str| -> &'static str { format!("{role}-{what}").leak() };
    let good = Duration::ZERO;
    overlay.node("k", name("expired"), role, 2 * DAY);
    overlay.node("k", name("revoked"), role, good);
    overlay.node("k", name("turned"), wrong, good);
    overlay.node("other", name("other"), role, good);
    let mut shown = Vec::new();
    // A sink and a relay look at their own certificate before they dial; a source is told.
    let (turned, at_home) = match role {
        Role::Source => ("its certificate is that of a sink", false),
        Role::Sink => ("is one of a source", true),
        Role::Relay => ("it is the certificate of source", true),
    };
    for (what, from, name, says, at_home) in [
        ("expired certificate", "k", name("expired"), "certificate expired", false),
        ("revoked certificate", "k", name("revoked"), "was revoked", false),
        ("certificate of another role", "k", name("turned"), turned, at_home),
        ("certificate of another overlay", "other", name("other"), "certificate", false),
        ("certificate of another overlay beside this one's authority", "other", name("other"), "has signed it", true),
    ] {
        let dir: &'static str = format!("shows-{name}-{at_home}").leak();
        // Who believes in another overlay dials by that; otherwise it is the relay alone that finds fault.
        overlay.shows(dir, if at_home { "k" } else { from }, from, name);
        shown.push(Shown { what, certificate: Some((dir, name)), token: token.map(str::to_owned), says, at_home });
    }
    shown
}

/// The relay, a source and a sink of good standing, and the stream between them.
struct Running {
    relay: Process,
    source: Process,
    sink: Process,
    at: SocketAddr,
    ops: SocketAddr,
    http: SocketAddr,
    check: Check,
    feed: Feed,
}

fn start(overlay: &Overlay) -> Running {
    let files = &overlay.files;
    overlay.node("k", "fra", Role::Relay, Duration::ZERO);
    overlay.shows("relay", "k", "k", "fra");
    fs::copy(overlay.at("k").join("revoked.list"), overlay.at("relay").join("revoked.list")).unwrap();
    // For the operations port: a certificate that vouches for itself, and whose certificates it takes: nobody's of the overlay.
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().self_signed(&key).unwrap();
    files.write("ops.crt", own.pem());
    overlay.secret("ops.key", &key.serialize_pem());
    overlay.secret("ops.token", "the-token-of-the-operations-port");
    let [at, ops, http, input] = [free_port(), free_port(), free_port(), free_port()];
    let dir = files.path().display().to_string();
    let config = files.write(
        "relay.toml",
        format!(
            "name = \"fra\"\nkeys = \"{dir}/relay\"\nlisten = \"{at}\"\nops = \"{ops}\"\nops_token_file = \"{dir}/ops.token\"\n\
             ops_tls = {{ certificate = \"{dir}/ops.crt\", key = \"{dir}/ops.key\", clients = \"{dir}/ops.crt\" }}\n"
        ),
    );
    let mut relay =
        Program::Relay.start(&["run", "--config", &config, "--json", "--interval", "50ms", "--log", "trace"]);
    relay.wait_for("\"ready\":true", PATIENCE);
    fs::create_dir_all(overlay.at("public")).unwrap();
    fs::copy(overlay.at("k").join("authority.crt"), overlay.at("public").join("authority.crt")).unwrap();
    let publish = overlay.token("k", "bystander-publish", "news/*", Direction::Publish, 3600);
    let watch = overlay.token("k", "bystander-watch", "news/*", Direction::Subscribe, 3600);
    let media = Media::video(9);
    let check = Check::start(&media);
    let (keys, relay_at) = (overlay.at("public").display().to_string(), at.to_string());
    let who =
        |token| ["--relay", &relay_at, "--keys", &keys, "--token-file", token, "--stream", STREAM].map(str::to_owned);
    let run = |program: Program, token, ends: &[String]| {
        let all = [&who(token)[..], ends].concat();
        let mut process = program.start(&all.iter().map(String::as_str).collect::<Vec<_>>());
        process.wait_for("connected", PATIENCE);
        process
    };
    let source = run(Program::Source, &publish, &[format!("udp://{input}")]);
    let sink = run(Program::Sink, &watch, &[format!("udp://{}", check.address), format!("http://{http}/live.ts")]);
    let feed = Feed::start(input, &media);
    check.wait_for(100, PATIENCE);
    Running { relay, source, sink, at, ops, http, check, feed }
}

#[test]
fn nothing_that_is_no_good_is_taken_at_any_port() {
    let overlay = Overlay::new();
    let publish = overlay.token("k", "good-publish", "news/*", Direction::Publish, 3600);
    let watch = overlay.token("k", "good-watch", "news/*", Direction::Subscribe, 3600);
    let of_sources =
        [tokens(&overlay, Direction::Publish), certificates(&overlay, Role::Source, Role::Sink, Some(&publish))]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>();
    let of_sinks =
        [tokens(&overlay, Direction::Subscribe), certificates(&overlay, Role::Sink, Role::Source, Some(&watch))]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>();
    let of_relays = certificates(&overlay, Role::Relay, Role::Source, None);
    let revoked =
        ["relay", "source", "sink"].map(|role| Revoked::File(overlay.at("k").join(format!("{role}-revoked.crt"))));
    let ids = ["publish-revoked", "watch-revoked"].map(|id| Revoked::Token(id.to_owned()));
    revoke(&overlay.at("k"), &[&revoked[..], &ids].concat()).unwrap();
    // A token that expires when it is made has expired a second later.
    std::thread::sleep(Duration::from_millis(1100));
    let mut running = start(&overlay);

    let mut outputs = Vec::new();
    for (program, all) in [(Program::Source, &of_sources), (Program::Sink, &of_sinks)] {
        for shown in all {
            let (dir, name) = shown.certificate.unwrap_or(("public", ""));
            let (relay, keys) = (running.at.to_string(), overlay.at(dir).display().to_string());
            let mut arguments = vec!["--relay", &relay, "--keys", &keys, "--log", "trace"];
            if !name.is_empty() {
                arguments.extend(["--name", name]);
            }
            arguments.extend(shown.token.iter().flat_map(|token| ["--token-file", token]));
            let input = format!("udp://{}", free_port());
            let ends = match program {
                Program::Source => ["--connect-timeout", "10s", "--stream", STREAM, &input],
                _ => ["--wait", "10s", "--stream", STREAM, "udp://127.0.0.1:9"],
            };
            let ended = program.run(&[&arguments[..], &ends].concat());
            let told = format!("{program:?}, {}: exit {:?}: {}", shown.what, ended.code, ended.stderr);
            assert_eq!(ended.code, Some(if shown.at_home { 78 } else { 77 }), "{told}");
            let last = ended.stderr.lines().last().unwrap_or_default().to_owned();
            assert!(last.contains(shown.says), "no word of {:?}: {told}", shown.says);
            println!("{program:?}, {}: {last}", shown.what);
            outputs.push(ended.stderr);
        }
    }

    for shown in &of_relays {
        let (dir, name) = shown.certificate.expect("relays come by certificates");
        let (keys, to) = (overlay.at(dir).display().to_string(), running.at.to_string());
        let arguments =
            ["run", "--keys", &keys, "--name", name, "--listen", "127.0.0.1:0", "--neighbour", &to, "--log", "debug"];
        if shown.at_home {
            let ended = Program::Relay.run(&arguments);
            assert!(ended.code == Some(78) && ended.stderr.contains(shown.says), "{}: {ended:?}", shown.what);
            continue;
        }
        let mut relay = Program::Relay.start(&arguments);
        relay.wait_for(shown.says, PATIENCE);
        assert!(!relay.stderr().contains("connected"), "{}: {}", shown.what, relay.stderr());
        outputs.push(relay.stderr());
        println!(
            "relay, {}: {}",
            shown.what,
            relay.stderr().lines().find(|line| line.contains(shown.says)).unwrap_or_default()
        );
    }

    // What is good elsewhere, too: the operations port knows none of it.
    let (ops, authority) = (running.ops.to_string(), overlay.files.text("ops.crt"));
    let ask = |more: &[&str]| {
        let status = ["ctl", "status", "--ops", &ops, "--ops-tls-authority", &authority];
        Program::Relay.run(&[&status[..], more].concat())
    };
    assert_eq!(ask(&["--ops-token-file", &overlay.files.text("ops.token")]).code, Some(0));
    for shown in of_sources.iter().chain(&of_sinks).chain(&of_relays) {
        if let Some(token) = &shown.token {
            let ended = ask(&["--ops-token-file", token]);
            // What is too long or too short for such a token is not even sent.
            assert!([Some(77), Some(78)].contains(&ended.code), "{}: {ended:?}", shown.what);
        }
        if let Some((dir, name)) = shown.certificate {
            let file = |end| overlay.at(dir).join(format!("{name}.{end}")).display().to_string();
            let ended = ask(&["--ops-tls-certificate", &file("crt"), "--ops-tls-key", &file("key")]);
            assert_eq!(ended.code, Some(69), "{}: {ended:?}", shown.what);
        }
    }

    // The HTTP output asks for nothing, gives nothing but the stream, and takes nothing.
    for (request, status) in [("GET /api/v1/status", 404), ("POST /live.ts", 405), ("GET /../relay/fra.key", 404)] {
        let token = fs::read_to_string(&publish).unwrap();
        let mut stream = TcpStream::connect(running.http).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = format!("Host: localhost\r\nAuthorization: Bearer {}\r\nContent-Length: 0", token.trim());
        write!(stream, "{request} HTTP/1.1\r\n{head}\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request}: {answer}");
    }

    // Nobody's words hold a secret: no token, no key.
    outputs.extend([running.relay.stderr(), running.relay.stdout(), running.source.stderr(), running.sink.stderr()]);
    for shown in of_sources.iter().chain(&of_sinks) {
        let token = fs::read_to_string(shown.token.as_deref().expect("each comes with one")).unwrap();
        assert!(!outputs.iter().any(|said| said.contains(token.trim())), "the {} was told", shown.what);
    }
    for key in ["relay/fra.key", "ops.key"] {
        let text = fs::read_to_string(overlay.files.file(key)).unwrap();
        let line = text.lines().nth(1).expect("a line of the key");
        assert!(!outputs.iter().any(|said| said.contains(line)), "{key} was told");
    }
    let sent = running.feed.stop();
    let seen = running.check.wait_until_quiet().compared;
    assert_eq!(seen.foreign, 0, "{seen:?}");
    assert_complete(sent, seen.intact, || running.sink.stderr());
    for process in [&mut running.relay, &mut running.source, &mut running.sink] {
        assert!(process.runs(), "{}", process.stderr());
    }
}
