//! Everything that can be wrong gets a clear message and an exit code of its own, and disturbs nothing else.

use anabranch_tests::clean;
use anabranch_tests::flow::{Flow, Media, Publishing, assert_intact, free_port};
use anabranch_tests::programs::{Ended, Files, Program};
use bench::channel::{ChannelConfig, Draws};
use bench::media::MediaSocket;
use bench::rig::{Rig, RigPlan, Trial};
use node::control::Dissemination;
use node::exit::Exit;
use node::trust::{Direction, Role};
use std::time::Duration;

/// What a program is given, and what it must say and return.
struct Case<'a> {
    what: &'a str,
    program: Program,
    arguments: Vec<&'a str>,
    exit: Exit,
    /// Every one of these is part of the message.
    says: &'a [&'a str],
}

impl Case<'_> {
    fn check(&self) {
        let ended = self.program.run(&self.arguments);
        self.judge(&ended);
    }

    fn judge(&self, ended: &Ended) {
        let Case { what, program, arguments, exit, says } = self;
        let told = format!("{what}: {program:?} {arguments:?} ended with {:?} and said:\n{}", ended.code, ended.stderr);
        assert_eq!(ended.code, Some(*exit as i32), "{told}");
        for text in *says {
            assert!(ended.stderr.to_lowercase().contains(&text.to_lowercase()), "no word of {text:?}: {told}");
        }
        assert!(!ended.stderr.contains("panicked"), "{told}");
        println!("{what}: exit {}: {}", *exit as i32, ended.stderr.lines().last().unwrap_or_default());
    }
}

/// What it is, the program, its arguments, how it must end, what its message must hold.
type Refused = (&'static str, Program, Vec<String>, Exit, &'static [&'static str]);

#[test]
fn wrong_command_lines_are_explained() {
    for program in [Program::Relay, Program::Source, Program::Sink] {
        let case = |what, arguments: &[&'static str], says| {
            Case { what, program, arguments: arguments.to_vec(), exit: Exit::Usage, says }.check();
        };
        case("unknown flag", &["--frobnicate"], &["--frobnicate"]);
    }
    let case = |what, program, arguments: &[&'static str], says| {
        Case { what, program, arguments: arguments.to_vec(), exit: Exit::Usage, says }.check();
    };
    case("unknown subcommand", Program::Relay, &["dance"], &["dance"]);
    case("no such output", Program::Sink, &["--stream", "a/b", "srt://host:1"], &["srt://host:1", "udp://"]);
    case("no such input", Program::Source, &["a/b=srt://host:1"], &["srt://host:1", "udp://"]);
    case("a name that is none", Program::Sink, &["--stream", "nope", "-"], &["nope", "tenant/channel"]);
}

#[test]
fn wrong_configurations_name_file_and_field() {
    let trial = Trial::new().unwrap();
    let files = Files::new(&trial);
    let unknown = files.write("unknown.toml", "frobnicate = 1\n");
    let wrong = files.write("wrong.toml", "report_interval = 5\n");
    let garbled = files.write("garbled.toml", "listen = [\n");
    for (program, start) in [(Program::Relay, vec!["run"]), (Program::Source, vec![]), (Program::Sink, vec![])] {
        for (what, file, says) in [
            ("unknown field", &unknown, &["unknown.toml", "frobnicate"]),
            ("wrong type", &wrong, &["wrong.toml", "report_interval"]),
            ("not TOML", &garbled, &["garbled.toml", ""]),
        ] {
            let arguments = start.iter().copied().chain(["--config", file]).collect();
            Case { what, program, arguments, exit: Exit::Config, says }.check();
        }
        let absent = files.text("absent.toml");
        let arguments = start.iter().copied().chain(["--config", &absent]).collect();
        let case = Case { what: "no such file", program, arguments, exit: Exit::Config, says: &["absent.toml"] };
        case.check();
    }
}

/// An overlay of one relay with a stream through it, and everything wrong that a neighbour can do meanwhile.
struct Disturbed {
    rig: Rig,
    flow: Flow,
    files: Files,
    relay: String,
}

impl Disturbed {
    fn start() -> Disturbed {
        let rig = Rig::start(&RigPlan::new(1, &["a"], &[])).unwrap();
        let mut flow = Flow::start(&rig, "bystander", ("a", "a"), &clean(5), Media::video(1));
        let files = Files::new(rig.trial());
        files.node(rig.trial(), "studio", Role::Source);
        files.node(rig.trial(), "viewer", Role::Sink);
        files.token(rig.trial(), "publish.token", "test/*", Direction::Publish);
        files.token(rig.trial(), "watch.token", "test/*", Direction::Subscribe);
        let relay = rig.relay_address("a").unwrap().to_string();
        flow.feed();
        Disturbed { rig, flow, files, relay }
    }

    fn finish(mut self) {
        let result = self.flow.finish();
        assert!(result.0 > 100);
        assert_intact(&self.rig, &self.flow, result);
    }
}

#[test]
fn refusals_say_why_and_disturb_nobody() {
    let disturbed = Disturbed::start();
    let Disturbed { rig, files, relay, .. } = &disturbed;
    let (trial, keys) = (rig.trial(), files.path().display().to_string());
    let foreign_trial = Trial::new().unwrap();
    let foreign = Files::new(&foreign_trial);
    foreign.node(&foreign_trial, "studio", Role::Source);
    let foreign_keys = foreign.path().display().to_string();
    let (publish, watch) = (files.text("publish.token"), files.text("watch.token"));
    let other = files.token(trial, "other.token", "elsewhere/*", Direction::Publish);
    let forged = files.token(&foreign_trial, "forged.token", "test/*", Direction::Publish);
    let garbled = files.write("garbled.token", "abt1.nonsense");
    let expired = trial.token("test/*", Direction::Publish, Duration::ZERO).unwrap();
    let expired = files.write("expired.token", expired);
    std::thread::sleep(Duration::from_millis(1100));
    let input = format!("test/mine=udp://{}", free_port());
    let taken = format!("test/bystander=udp://{}", free_port());

    let source = |keys: &str, token: &str, input: &str| -> Vec<String> {
        ["--relay", relay, "--keys", keys, "--token-file", token, "--connect-timeout", "5s", input]
            .map(str::to_owned)
            .to_vec()
    };
    let sink = |token: &str, stream: &str| -> Vec<String> {
        let arguments = ["--relay", relay, "--keys", &keys, "--token-file", token, "--wait", "2s", "--stream", stream];
        arguments.iter().chain(&["udp://127.0.0.1:9"]).map(|text| (*text).to_owned()).collect()
    };
    let named = |mut arguments: Vec<String>| {
        arguments.extend(["--name".into(), "studio".into()]);
        arguments
    };
    let cases: Vec<Refused> = vec![
        (
            "another authority's relay",
            Program::Source,
            source(&foreign_keys, &publish, &input),
            Exit::Refused,
            &["certificate"],
        ),
        (
            "another authority's source",
            Program::Source,
            named(source(&foreign_keys, &publish, &input)),
            Exit::Refused,
            &["certificate"],
        ),
        ("expired token", Program::Source, source(&keys, &expired, &input), Exit::Refused, &["expired"]),
        ("forged token", Program::Source, source(&keys, &forged, &input), Exit::Refused, &["token"]),
        ("token of other streams", Program::Source, source(&keys, &other, &input), Exit::Refused, &["test/mine"]),
        (
            "token to watch, used to publish",
            Program::Source,
            source(&keys, &watch, &input),
            Exit::Refused,
            &["publish"],
        ),
        ("name taken", Program::Source, source(&keys, &publish, &taken), Exit::Refused, &["test/bystander"]),
        ("unknown stream", Program::Sink, sink(&watch, "test/nowhere"), Exit::Refused, &["test/nowhere"]),
        (
            "token to publish, used to watch",
            Program::Sink,
            sink(&publish, "test/bystander"),
            Exit::Refused,
            &["subscribe"],
        ),
        ("garbled token", Program::Source, source(&keys, &garbled, &input), Exit::Refused, &["token"]),
    ];
    for (what, program, arguments, exit, says) in &cases {
        let arguments = arguments.iter().map(String::as_str).collect();
        Case { what, program: *program, arguments, exit: *exit, says }.check();
    }
    disturbed.finish();
}

fn check(what: &str, program: Program, start: &[&str], rest: &[&str], exit: Exit, says: &[&str]) {
    Case { what, program, arguments: [start, rest].concat(), exit, says }.check();
}

#[test]
fn what_is_not_there_is_named() {
    let disturbed = Disturbed::start();
    let Disturbed { files, relay, .. } = &disturbed;
    let keys = files.path().display().to_string();
    let (publish, watch) = (files.text("publish.token"), files.text("watch.token"));
    let nowhere = free_port().to_string();
    let taken = MediaSocket::bind().unwrap();
    let taken_input = format!("test/mine=udp://{}", taken.address());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken_output = format!("http://{}/x.ts", listener.local_addr().unwrap());

    let source = ["--relay", relay, "--keys", &keys, "--token-file", &publish];
    let sink = ["--relay", relay, "--keys", &keys, "--token-file", &watch, "--stream", "test/bystander"];
    let lonely_source = ["--relay", &nowhere, "--keys", &keys, "--token-file", &publish, "--connect-timeout", "2s"];
    let lonely_sink = ["--relay", &nowhere, "--keys", &keys, "--token-file", &watch, "--wait", "2s", "--stream", "a/b"];
    check(
        "unreachable relay",
        Program::Source,
        &lonely_source,
        &["a/b=udp://:0"],
        Exit::Unavailable,
        &[nowhere.as_str()],
    );
    check("unreachable relay", Program::Sink, &lonely_sink, &["udp://127.0.0.1:9"], Exit::Unavailable, &[&nowhere]);
    check("no such file", Program::Source, &source, &["test/mine=file:/no/such.ts"], Exit::NoInput, &["/no/such.ts"]);
    check(
        "a taken input",
        Program::Source,
        &source,
        &[&taken_input],
        Exit::Unavailable,
        &[&taken.address().to_string()],
    );
    check("a taken output", Program::Sink, &sink, &[&taken_output], Exit::Unavailable, &["in use"]);
    check("no such folder", Program::Sink, &sink, &["file:/no/such/out.ts"], Exit::CannotCreate, &["/no/such/out.ts"]);
    check("a full disk", Program::Sink, &sink, &["file:/dev/full"], Exit::Io, &["/dev/full", "space"]);
    disturbed.finish();
}

#[test]
fn a_relay_without_its_port_or_its_keys_says_so() {
    let trial = Trial::new().unwrap();
    let files = Files::new(&trial);
    files.node(&trial, "lon", Role::Relay);
    let keys = files.path().display().to_string();
    let taken = MediaSocket::bind().unwrap();
    let config = |name: &str, listen: &str| format!("name = {name:?}\nkeys = {keys:?}\nlisten = {listen:?}\n");
    let port = files.write("port.toml", config("lon", &taken.address().to_string()));
    let nobody = files.write("nobody.toml", config("par", "127.0.0.1:0"));
    let check = |what, file: &str, exit, says: &[&str]| {
        Case { what, program: Program::Relay, arguments: vec!["run", "--config", file], exit, says }.check();
    };
    check("port taken", &port, Exit::Unavailable, &[&taken.address().to_string(), "taken"]);
    check("no certificate of that name", &nobody, Exit::Config, &["par.crt"]);
}

/// Whatever arrives at its port that is not of its neighbours, a relay goes on.
#[test]
fn garbage_at_the_port_disturbs_nobody() {
    let disturbed = Disturbed::start();
    let target = disturbed.rig.relay_address("a").unwrap();
    let stranger = MediaSocket::bind().unwrap();
    let mut draws = Draws::new(1);
    for round in 0..20_000u32 {
        let size = (draws.bits() % 1400) as usize;
        let mut garbage: Vec<u8> = (0..size).map(|_| draws.bits() as u8).collect();
        // Some look like QUIC: long headers with the version in place, short headers with the fixed bit.
        match (round % 3, garbage.get_mut(..5)) {
            (0, Some(head)) => head.copy_from_slice(&[0xC3, 0, 0, 0, 1]),
            (1, Some(head)) => head[0] = 0x40 | head[0] & 0x3F,
            _ => {}
        }
        stranger.send(target, &garbage).unwrap();
        if round % 20 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    disturbed.finish();
}

/// A path that cuts some datagrams short and changes others: QUIC throws them away, the link repairs what is lost.
#[test]
fn truncated_datagrams_are_no_more_than_losses() {
    let rig = Rig::start(&RigPlan::new(1, &["a", "b"], &[("a", "b", clean(10))])).unwrap();
    let media = Media::video(1);
    let check = anabranch_tests::flow::Check::start(&media);
    let damaged = Damage::start(rig.relay_address("a").unwrap());
    let input = free_port();
    let publishing = Publishing {
        name: "source",
        stream: "test/damaged",
        at: "a",
        channel: ChannelConfig::default(),
        input: format!("udp://{input}"),
        deadline: Duration::from_millis(200),
        mode: Dissemination::Tree,
    };
    let sink = anabranch_tests::flow::Watching {
        name: "sink",
        stream: "test/damaged",
        at: "b",
        channel: clean(10),
        outputs: vec![format!("udp://{}", check.address)],
    }
    .start(&rig);
    let config = source::Config { relays: vec![damaged.address.to_string()], ..publishing.config(&rig) };
    let source = rig.source("source", config).unwrap();
    anabranch_tests::flow::wait_until_live(&source);
    std::thread::sleep(Duration::from_millis(700));
    let feed = anabranch_tests::flow::Feed::start(input, &media);
    std::thread::sleep(Duration::from_secs(3));
    let sent = feed.stop();
    let seen = check.wait_until_quiet();
    assert!(damaged.changed() > 20);
    assert_eq!((seen.compared.intact, seen.compared.foreign), (sent, 0), "{:?}", sink.report());
}

/// Passes datagrams on both ways, and damages one in fifty of those towards the target.
struct Damage {
    address: std::net::SocketAddr,
    changed: std::sync::Arc<std::sync::atomic::AtomicU64>,
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Damage {
    fn start(target: std::net::SocketAddr) -> Damage {
        use std::sync::atomic::Ordering::Relaxed;
        use std::sync::{Arc, Mutex};
        let (front, back) = (Arc::new(MediaSocket::bind().unwrap()), Arc::new(MediaSocket::bind().unwrap()));
        let (changed, stop): (Arc<std::sync::atomic::AtomicU64>, Arc<std::sync::atomic::AtomicBool>) =
            Default::default();
        let client = Arc::new(Mutex::new(None));
        let address = front.address();
        let there = {
            let (front, back, client) = (front.clone(), back.clone(), client.clone());
            let (changed, stop) = (changed.clone(), stop.clone());
            std::thread::spawn(move || {
                let (mut room, mut draws) = (vec![0; 65536], Draws::new(7));
                while !stop.load(Relaxed) {
                    let Some((from, datagram)) = front.receive_from(Duration::from_millis(50), &mut room) else {
                        continue;
                    };
                    *client.lock().unwrap() = Some(from);
                    let mut datagram = datagram.to_vec();
                    if draws.chance(0.02) {
                        let at = (draws.bits() as usize) % datagram.len();
                        if draws.chance(0.5) {
                            datagram.truncate(at);
                        } else {
                            datagram[at] ^= 1 << (draws.bits() % 8);
                        }
                        changed.fetch_add(1, Relaxed);
                    }
                    back.send(target, &datagram).unwrap();
                }
            })
        };
        let stopped = stop.clone();
        let again = std::thread::spawn(move || {
            let mut room = vec![0; 65536];
            while !stopped.load(Relaxed) {
                let Some(datagram) = back.receive(Duration::from_millis(50), &mut room) else { continue };
                let to = *client.lock().unwrap();
                if let Some(to) = to {
                    front.send(to, datagram).unwrap();
                }
            }
        });
        Damage { address, changed, stop, threads: vec![there, again] }
    }

    fn changed(&self) -> u64 {
        self.changed.load(std::sync::atomic::Ordering::Relaxed)
    }
}

impl Drop for Damage {
    fn drop(&mut self) {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
