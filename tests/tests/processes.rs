//! The real programs as processes: keys from `anabranch-relay keys`, configuration from files, and `kill -9` for each.

use anabranch_tests::clean;
use anabranch_tests::flow::{Check, Feed, Media, free_port};
use anabranch_tests::programs::{Process, Program};
use bench::emulator::{Emulator, LinkPlan, Plan};
use node::clock::Clock;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

/// Three relays in a row, a source at the first and a sink at the last, with every link emulated.
struct Lab {
    folder: tempfile::TempDir,
    emulator: Emulator,
    ports: [SocketAddr; 3],
    relays: Vec<Option<Process>>,
    input: SocketAddr,
}

const RELAYS: [&str; 3] = ["a", "b", "c"];
const LINKS: [(&str, usize); 4] = [("a-b", 1), ("b-c", 2), ("source-a", 0), ("sink-c", 2)];

impl Lab {
    fn start() -> Lab {
        let folder = tempfile::tempdir().unwrap();
        let ports = [free_port(), free_port(), free_port()];
        let links = LINKS.map(|(name, target)| LinkPlan::new(name, Some(ports[target]), clean(10)));
        let emulator = Emulator::start(&Plan { seed: 1, links: links.to_vec(), events: Vec::new() }).unwrap();
        let mut lab = Lab { folder, emulator, ports, relays: Vec::new(), input: free_port() };
        lab.keys(&["init", "--overlay", "lab"]);
        for relay in RELAYS {
            lab.keys(&["node", "--role", "relay", relay]);
        }
        lab.keys(&["node", "--role", "source", "studio"]);
        lab.keys(&["node", "--role", "sink", "viewer"]);
        let publish = lab.keys(&["token", "--publish", "test/*", "--id", "studio-1", "--expires", "1d"]);
        let watch = lab.keys(&["token", "--subscribe", "test/*", "--id", "viewer-1", "--expires", "1d"]);
        std::fs::write(lab.path("publish.token"), publish).unwrap();
        std::fs::write(lab.path("watch.token"), watch).unwrap();
        for index in 0..RELAYS.len() {
            lab.configure(index);
            let relay = lab.launch(index);
            lab.relays.push(Some(relay));
        }
        lab
    }

    fn keys(&self, arguments: &[&str]) -> String {
        let folder = self.folder.path().display().to_string();
        let (command, rest) = arguments.split_first().unwrap();
        let all = [&["keys", *command, "--dir", &folder], rest].concat();
        let ended = Program::Relay.run(&all);
        assert_eq!(ended.code, Some(0), "{all:?}: {}{}", ended.stdout, ended.stderr);
        ended.stdout.trim().to_owned()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn configure(&self, index: usize) {
        let (name, keys, listen) = (RELAYS[index], self.folder.path().display(), self.ports[index]);
        let mut config = format!("name = \"{name}\"\nkeys = \"{keys}\"\nlisten = \"{listen}\"\n");
        if let Some(next) = RELAYS.get(index + 1) {
            let address = self.emulator.address(&format!("{name}-{next}")).unwrap();
            config += &format!("[[neighbours]]\naddress = \"{address}\"\nname = \"{next}\"\n");
        }
        std::fs::write(self.path(&format!("{name}.toml")), config).unwrap();
    }

    fn launch(&self, index: usize) -> Process {
        Program::Relay.start(&["run", "--config", &self.text(&format!("{}.toml", RELAYS[index]))])
    }

    fn source(&self) -> Process {
        let door = self.emulator.address("source-a").unwrap().to_string();
        let keys = self.folder.path().display().to_string();
        let (token, input) = (self.text("publish.token"), format!("test/film=udp://{}", self.input));
        let arguments =
            ["--relay", &door, "--keys", &keys, "--name", "studio", "--token-file", &token, "--mode", "tree"];
        Program::Source.start(&[&arguments[..], &[&input]].concat())
    }

    fn sink(&self, output: SocketAddr) -> Process {
        let door = self.emulator.address("sink-c").unwrap().to_string();
        let keys = self.folder.path().display().to_string();
        let (token, output) = (self.text("watch.token"), format!("udp://{output}"));
        let arguments = ["--relay", &door, "--keys", &keys, "--name", "viewer", "--token-file", &token];
        Program::Sink.start(&[&arguments[..], &["--wait", "20s", "--stream", "test/film", &output]].concat())
    }
}

#[test]
fn every_program_may_be_killed_and_everything_resumes() {
    let mut lab = Lab::start();
    let media = Media::video(1);
    let check = Check::start(&media);
    let mut sink = lab.sink(check.address);
    let mut source = lab.source();
    let feed = Feed::start(lab.input, &media);
    check.wait_for(500, PATIENCE);

    let clock = Clock::start();
    let down = Duration::from_millis(700);
    let resumed = |what: &str, start: link::Instant| {
        check.wait_for(1, PATIENCE);
        println!("{what} killed and started again: plays on after {:?}", clock.now() - start);
        check.wait_for(500, PATIENCE);
    };

    lab.relays[1].take().unwrap().kill();
    std::thread::sleep(down);
    let start = clock.now();
    lab.relays[1] = Some(lab.launch(1));
    resumed("the middle relay", start);
    assert!(source.runs() && sink.runs());

    source.kill();
    std::thread::sleep(down);
    let start = clock.now();
    source = lab.source();
    resumed("the source", start);
    assert!(sink.runs());

    sink.kill();
    std::thread::sleep(down);
    let start = clock.now();
    sink = lab.sink(check.address);
    resumed("the sink", start);
    assert!(source.runs());

    for (index, what) in [(0, "the ingress relay"), (2, "the egress relay")] {
        lab.relays[index].take().unwrap().kill();
        std::thread::sleep(down);
        let start = clock.now();
        lab.relays[index] = Some(lab.launch(index));
        resumed(what, start);
        assert!(source.runs() && sink.runs());
    }
    assert!(lab.relays.iter_mut().flatten().all(Process::runs));
    drop(feed);
    assert_eq!(check.wait_until_quiet().compared.foreign, 0);
    for process in lab.relays.iter().flatten().chain([&source, &sink]) {
        assert!(!process.stderr().contains("panicked"), "{}", process.stderr());
    }
}

#[test]
fn the_programs_carry_a_stream_whole() {
    let lab = Lab::start();
    let media = Media::video(2);
    let check = Check::start(&media);
    let mut sink = lab.sink(check.address);
    let mut source = lab.source();
    // A first packet that is played out says that the way is there.
    let probe = Feed::start(lab.input, &media);
    check.wait_for(1, PATIENCE);
    probe.stop();
    let before = check.wait_until_quiet().arrived;
    assert!(source.runs() && sink.runs());

    let again = Check::start(&media);
    drop(check);
    drop(sink);
    let _sink = lab.sink(again.address);
    std::thread::sleep(Duration::from_secs(2));
    let feed = Feed::start(lab.input, &media);
    std::thread::sleep(Duration::from_secs(3));
    let sent = feed.stop();
    let seen = again.wait_until_quiet();
    assert!(before > 0);
    assert_eq!(seen.compared.foreign, 0, "{}", source.stderr());
    anabranch_tests::assert_complete(sent, seen.compared.intact, || source.stderr().to_owned());
}
