//! The real programs as processes, with their keys and files in a folder of their own.
//!
//! The binaries are built with this package (`src/bin/`), from the same library code as the programs that are shipped, so
//! that they are never older than what is tested.

use bench::rig::Trial;
use node::clock::{Clock, unix_seconds};
use node::trust::{Direction, Role};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// `anabranch-relay`
    Relay,
    /// `anabranch-source`
    Source,
    /// `anabranch-sink`
    Sink,
}

impl Program {
    /// A command that runs it, with nothing of our own environment that it would read.
    pub fn command(self) -> Command {
        let name = match self {
            Program::Relay => "relay-under-test",
            Program::Source => "source-under-test",
            Program::Sink => "sink-under-test",
        };
        // Tests run from `target/PROFILE/deps`, binaries lie one folder above.
        let tests = std::env::current_exe().expect("a test knows where it is");
        let folder = tests.parent().and_then(Path::parent).expect("it lies two folders deep");
        let mut command = Command::new(folder.join(name));
        for (variable, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ANABRANCH_")) {
            command.env_remove(variable);
        }
        command
    }

    /// Runs it with `arguments` until it ends.
    pub fn run(self, arguments: &[&str]) -> Ended {
        self.start(arguments).wait(Duration::from_secs(60))
    }

    /// Starts it with `arguments`.
    pub fn start(self, arguments: &[&str]) -> Process {
        Process::start(self.command().args(arguments))
    }
}

/// How a process ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Its exit code; `None` where a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to its standard output.
    pub stdout: String,
    /// What it wrote to its standard error.
    pub stderr: String,
}

/// A process whose output is collected. It is killed where it is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    stdout: Collected,
    stderr: Collected,
}

#[derive(Debug)]
struct Collected {
    text: Arc<Mutex<String>>,
    thread: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts it with nothing to read.
    pub fn start(command: &mut Command) -> Process {
        Process::spawn(command.stdin(Stdio::null()))
    }

    /// Starts it, and gives what it reads on its standard input.
    pub fn start_fed(command: &mut Command) -> (Process, ChildStdin) {
        let mut process = Process::spawn(command.stdin(Stdio::piped()));
        let input = process.child.stdin.take().expect("it is piped");
        (process, input)
    }

    fn spawn(command: &mut Command) -> Process {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (out, err): (Option<ChildStdout>, Option<ChildStderr>) = (child.stdout.take(), child.stderr.take());
        Process {
            stdout: Collected::start(out.expect("it is piped")),
            stderr: Collected::start(err.expect("it is piped")),
            child,
        }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// What it has written to its standard error.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// What it has written to its standard output.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// Waits until its standard output or error contains `text`; panics where it does not come.
    pub fn wait_for(&mut self, text: &str, patience: Duration) {
        let clock = Clock::start();
        let end = clock.now() + patience;
        while !self.stdout().contains(text) && !self.stderr().contains(text) {
            let (out, err) = (self.stdout(), self.stderr());
            assert!(self.runs(), "it ended before it said {text:?}:\n{out}\n{err}");
            assert!(clock.now() < end, "it did not say {text:?} within {patience:?}:\n{out}\n{err}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends it a signal, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Ends it as `kill -9` does.
    pub fn kill(mut self) {
        self.child.kill().expect("it is ours");
        let _ = self.child.wait();
    }

    /// Waits until it ends; panics where it does not.
    pub fn wait(mut self, patience: Duration) -> Ended {
        let clock = Clock::start();
        let end = clock.now() + patience;
        let status: ExitStatus = loop {
            if let Some(status) = self.child.try_wait().expect("it is ours") {
                break status;
            }
            if clock.now() >= end {
                panic!("it did not end within {patience:?}:\n{}\n{}", self.stdout(), self.stderr());
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        Ended { code: status.code(), stdout: self.stdout.finish(), stderr: self.stderr.finish() }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Collected {
    fn start(from: impl Read + Send + 'static) -> Collected {
        let text = Arc::new(Mutex::new(String::new()));
        let shared = text.clone();
        let thread = std::thread::spawn(move || {
            let mut from = BufReader::new(from);
            // As it comes, not line by line: what draws on a terminal ends none.
            let mut pending = Vec::new();
            while let Ok(piece) = from.fill_buf()
                && !piece.is_empty()
            {
                let taken = piece.len();
                pending.extend_from_slice(piece);
                from.consume(taken);
                // What is cut in the middle of a character waits for its rest.
                let whole = match std::str::from_utf8(&pending) {
                    Err(error) if error.error_len().is_none() => error.valid_up_to(),
                    _ => pending.len(),
                };
                let text = String::from_utf8_lossy(&pending[..whole]).into_owned();
                shared.lock().expect("nobody panics with it").push_str(&text);
                pending.drain(..whole);
            }
        });
        Collected { text, thread: Some(thread) }
    }

    fn text(&self) -> String {
        self.text.lock().expect("nobody panics with it").clone()
    }

    fn finish(&mut self) -> String {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.text()
    }
}

/// A folder with the keys of an authority, and what its programs write.
#[derive(Debug)]
pub struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    /// A folder with `authority.crt` of a trial's authority.
    pub fn new(trial: &Trial) -> Files {
        let folder = tempfile::tempdir().unwrap();
        trial.authority().save(folder.path()).unwrap();
        Files { folder }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The path of a file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file, and returns its path as text.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        std::fs::write(self.file(name), content).unwrap();
        self.text(name)
    }

    /// The path of a file in it, as text.
    pub fn text(&self, name: &str) -> String {
        self.file(name).display().to_string()
    }

    /// Issues certificate and key of a node.
    pub fn node(&self, trial: &Trial, name: &str, role: Role) {
        let name = name.parse().unwrap();
        let day = Duration::from_secs(86_400);
        trial.authority().issue(&name, role, unix_seconds(), day).unwrap().save(self.path()).unwrap();
    }

    /// Writes a token to a file, and returns its path as text.
    pub fn token(&self, trial: &Trial, file: &str, pattern: &str, direction: Direction) -> String {
        let token = trial.token(pattern, direction, Duration::from_secs(86_400)).unwrap();
        self.write(file, token)
    }
}
