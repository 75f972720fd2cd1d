//! Machines of their own on one machine: network namespaces on a common wire, each with its address, its names and a folder.
//!
//! Needs root and `ip` (Debian: iproute2). Everything lies inside the namespaces made here, and goes when they are dropped.

use crate::programs::Process;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Hosts on one wire.
#[derive(Debug)]
pub struct Hosts {
    /// Tells the namespaces of this process from those of another.
    prefix: String,
    hosts: Vec<Host>,
    folder: tempfile::TempDir,
}

#[derive(Debug)]
struct Host {
    name: String,
    address: String,
}

impl Hosts {
    /// Whether this process may make them; says why not.
    pub fn are_possible() -> bool {
        let made = Command::new("ip").args(["netns", "add", "anabranch-try"]).output();
        match made {
            Ok(output) if output.status.success() => {
                ip(&["netns", "del", "anabranch-try"]);
                true
            }
            Ok(output) => {
                println!("no network namespaces: {}", String::from_utf8_lossy(&output.stderr).trim());
                false
            }
            Err(error) => {
                println!("no network namespaces: ip (Debian: iproute2): {error}");
                false
            }
        }
    }

    /// A wire with these hosts, which know each other as `NAME` and `NAME.example.net`, at addresses of 192.0.2.0/24
    /// (RFC 5737).
    pub fn new(names: &[&str]) -> Hosts {
        let prefix = format!("ab{}", std::process::id());
        let mut hosts = Hosts { prefix, hosts: Vec::new(), folder: tempfile::tempdir().unwrap() };
        let wire = hosts.namespace("wire");
        ip(&["netns", "add", &wire]);
        inside(&wire, &["ip", "link", "add", "wire", "type", "bridge"]);
        inside(&wire, &["ip", "link", "set", "wire", "up"]);
        for (nth, name) in names.iter().enumerate() {
            hosts.add(name, format!("192.0.2.{}", nth + 1), &wire);
        }
        hosts.introduce();
        hosts
    }

    fn namespace(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    fn add(&mut self, name: &str, address: String, wire: &str) {
        let (namespace, port) = (self.namespace(name), format!("to-{name}"));
        ip(&["netns", "add", &namespace]);
        inside(wire, &["ip", "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &namespace]);
        inside(wire, &["ip", "link", "set", &port, "master", "wire", "up"]);
        inside(&namespace, &["ip", "link", "set", "lo", "up"]);
        inside(&namespace, &["ip", "address", "add", &format!("{address}/24"), "dev", "eth0"]);
        inside(&namespace, &["ip", "link", "set", "eth0", "up"]);
        std::fs::create_dir(self.folder_of(name)).unwrap();
        self.hosts.push(Host { name: name.to_owned(), address });
    }

    /// Gives every host the names of all; `ip netns exec` shows these files as those in `/etc`.
    fn introduce(&self) {
        let entry = |host: &Host| format!("{} {} {}.example.net\n", host.address, host.name, host.name);
        let names: String = self.hosts.iter().map(entry).collect();
        for host in &self.hosts {
            let etc = Path::new("/etc/netns").join(self.namespace(&host.name));
            std::fs::create_dir_all(&etc).unwrap();
            std::fs::write(etc.join("hosts"), format!("127.0.0.1 localhost\n{names}")).unwrap();
        }
    }

    /// The folder that a host's commands run in.
    pub fn folder_of(&self, host: &str) -> PathBuf {
        self.folder.path().join(host)
    }

    /// Runs a shell command on a host until it ends; panics where it fails.
    pub fn run(&self, host: &str, line: &str, programs: &Path) -> String {
        let output = self.command(host, line, programs).output().unwrap();
        succeeded(line, &output)
    }

    /// Starts a shell command on a host.
    pub fn start(&self, host: &str, line: &str, programs: &Path) -> Process {
        Process::start(&mut self.command(host, line, programs))
    }

    fn command(&self, host: &str, line: &str, programs: &Path) -> Command {
        let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new("ip");
        // A shell that is killed shall take its pipeline along: the last command takes the shell's place, and an end closes its pipe.
        command.args(["netns", "exec", &self.namespace(host), "sh", "-c", line]);
        command.current_dir(self.folder_of(host)).env("PATH", path);
        command
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        let names = self.hosts.iter().map(|host| host.name.clone()).chain(["wire".to_owned()]);
        for namespace in names.map(|name| self.namespace(&name)) {
            for id in String::from_utf8_lossy(&ip(&["netns", "pids", &namespace]).stdout).split_whitespace() {
                let _ = Command::new("kill").args(["-9", id]).output();
            }
            ip(&["netns", "del", &namespace]);
            let _ = std::fs::remove_dir_all(Path::new("/etc/netns").join(&namespace));
        }
    }
}

fn ip(arguments: &[&str]) -> Output {
    Command::new("ip").args(arguments).output().unwrap_or_else(|error| panic!("ip {arguments:?}: {error}"))
}

fn inside(namespace: &str, command: &[&str]) {
    let output = ip(&[&["netns", "exec", namespace], command].concat());
    succeeded(&format!("{command:?}"), &output);
}

fn succeeded(what: &str, output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{what}: {}\n{out}\n{err}", output.status);
    out.into_owned()
}
