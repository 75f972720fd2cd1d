//! One kind in one round: started, fed, measured, ended.

use super::clients::Clients;
use super::cpu::{Used, busiest, threads};
use super::feed::feed;
use super::process::{NAME, NodeKind};
use super::report::{Idle, Round};
use super::sinks::{QuinnSinks, Tally, UdpSink};
use super::{SIZE, Traffic};
use crate::media::MediaSocket;
use crate::rig::Trial;
use node::clock::{Clock, unix_seconds};
use node::exit::{Exit, Failure};
use node::trust::Role;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use topology::NodeName;

/// The process that is measured. It is killed, by its id, where it is dropped.
pub(super) struct Node {
    child: Child,
    pub(super) address: SocketAddr,
    /// The folder with its keys, which it watches.
    keys: Option<TempDir>,
}

/// After the last packet, until all that is on its way has arrived.
pub(super) const AFTER: Duration = Duration::from_millis(500);
/// Until relays that have just started know of each other.
const ACQUAINTED: Duration = Duration::from_secs(2);
const DAY: Duration = Duration::from_secs(86_400);

/// A plain forwarder.
pub(super) fn udp(traffic: Traffic) -> Result<Round, Failure> {
    let tally = Tally::new(Clock::start());
    let sink = UdpSink::start(tally.clone()).map_err(|error| failed(&error))?;
    let arguments = ["--to".to_owned(), sink.address.to_string(), "--sinks".into(), traffic.fan_out.to_string()];
    let node = Node::start(NodeKind::Udp, &arguments)?;
    let socket = MediaSocket::bind().map_err(|error| failed(&error))?;
    let idle = Used::of(node.id());
    let to = node.address;
    counted(traffic, &[node.id()], idle, &tally, |packet| _ = socket.send(to, packet))
}

/// A bare quinn forwarder.
pub(super) fn quinn(traffic: Traffic) -> Result<Round, Failure> {
    let trial = Trial::new().map_err(|error| failed(&error))?;
    let keys = keys(&trial, NAME)?;
    let node = Node::start(NodeKind::Quinn, &["--keys".into(), keys.path().display().to_string()])?;
    let idle = Used::of(node.id());
    let tally = Tally::new(Clock::start());
    let sinks = QuinnSinks::start(&trial, node.address, traffic.fan_out, &tally).map_err(|error| failed(&error))?;
    let send = |packet: &[u8]| _ = sinks.publisher.send_datagram(bytes::Bytes::copy_from_slice(packet));
    counted(traffic, &[node.id()], idle, &tally, send)
}

/// Feeds for the warm-up and for the round, and counts over the round.
pub(super) fn counted(
    traffic: Traffic,
    processes: &[u32],
    idle: Used,
    tally: &Tally,
    mut send: impl FnMut(&[u8]),
) -> Result<Round, Failure> {
    // Packets say when they were sent by the clock that whoever receives them reads.
    let clock = tally.clock();
    let joined = used(processes);
    feed(clock, traffic, traffic.warm_up, &mut send);
    std::thread::sleep(AFTER);
    tally.forget();
    let (before, each, received) = (used(processes), each_thread(processes), tally.packets());
    let sent = feed(clock, traffic, traffic.duration, &mut send).packets;
    std::thread::sleep(AFTER);
    let (after, received) = (used(processes), tally.packets() - received);
    let busiest = each.iter().zip(each_thread(processes)).map(|(before, after)| busiest(before, &after));
    let [p50, p99, p999] = tally.delays_us();
    Ok(Round {
        cpu_us: micros_each(after.cpu.saturating_sub(before.cpu), received),
        busiest_us: micros_each(busiest.max().unwrap_or_default(), received),
        delivered: received as f64 / traffic.out_of(sent).max(1.0),
        memory_per_sink: per_sink(joined.memory, idle.memory, traffic.fan_out),
        memory_loaded: after.memory,
        delay_p50_us: p50 as f64,
        delay_p99_us: p99 as f64,
        delay_p999_us: p999 as f64,
    })
}

/// Our relay, or several one after the other, with a source and sinks as a relay sees them.
pub(super) fn anabranch(traffic: Traffic) -> Result<Round, Failure> {
    let trial = Trial::new().map_err(|error| failed(&error))?;
    let nodes = chain(&trial, traffic)?;
    let idle = used(&ids(&nodes));
    let tally = Tally::new(Clock::start());
    let mut clients = Clients::start(&trial, ends(&nodes), traffic, &tally)?;
    std::thread::sleep(AFTER);
    counted(traffic, &ids(&nodes), idle, &tally, |packet| clients.send(packet))
}

/// Relays of which each dials the next; the first is the last that is started.
pub(super) fn chain(trial: &Trial, traffic: Traffic) -> Result<Vec<Node>, Failure> {
    let mut nodes: Vec<Node> = Vec::new();
    for nth in (0..traffic.hops).rev() {
        let name = if nth == 0 { NAME.to_owned() } else { format!("{NAME}-{nth}") };
        let keys = keys(trial, &name)?;
        let mut arguments = vec!["--keys".to_owned(), keys.path().display().to_string(), "--name".into(), name];
        arguments.extend(["--threads".into(), traffic.threads.to_string()]);
        if let Some(next) = nodes.first() {
            arguments.extend(["--next".into(), next.address.to_string()]);
        }
        let mut node = Node::start(NodeKind::Relay, &arguments)?;
        node.keys = Some(keys);
        nodes.insert(0, node);
    }
    if traffic.hops > 1 {
        std::thread::sleep(ACQUAINTED);
    }
    Ok(nodes)
}

/// Where the source goes, and where the sinks do.
pub(super) fn ends(nodes: &[Node]) -> (SocketAddr, SocketAddr) {
    let address = |node: Option<&Node>| node.map_or(SocketAddr::from(([0, 0, 0, 0], 0)), |node| node.address);
    (address(nodes.first()), address(nodes.last()))
}

/// The processes that are measured.
pub(super) fn ids(nodes: &[Node]) -> Vec<u32> {
    nodes.iter().map(Node::id).collect()
}

/// What processes have used together.
pub(super) fn used(processes: &[u32]) -> Used {
    processes
        .iter()
        .map(|process| Used::of(*process))
        .fold(Used::default(), |all, one| Used { cpu: all.cpu + one.cpu, memory: all.memory + one.memory })
}

fn each_thread(processes: &[u32]) -> Vec<BTreeMap<u32, Duration>> {
    processes.iter().map(|process| threads(*process)).collect()
}

/// After the last word of media or control, until links count as idle.
const COME_TO_REST: Duration = Duration::from_secs(5);

/// Our relay with sinks that nothing is sent to.
pub(super) fn idle(traffic: Traffic) -> Result<Idle, Failure> {
    let clock = Clock::start();
    let trial = Trial::new().map_err(|error| failed(&error))?;
    let starting = clock.now();
    let nodes = chain(&trial, traffic)?;
    let ready = clock.now();
    let empty = used(&ids(&nodes));
    let _clients = Clients::start(&trial, ends(&nodes), traffic, &Tally::new(clock))?;
    let joined = clock.now();
    std::thread::sleep(COME_TO_REST);
    let (from, before) = (clock.now(), used(&ids(&nodes)));
    std::thread::sleep(traffic.duration);
    let after = used(&ids(&nodes));
    Ok(Idle {
        sinks: traffic.fan_out,
        ready_ms: (ready - starting).as_secs_f64() * 1e3,
        connected_ms: (joined - ready).as_secs_f64() * 1e3,
        cpu_share: after.cpu.saturating_sub(before.cpu).as_secs_f64() / (clock.now() - from).as_secs_f64(),
        memory: empty.memory,
        memory_per_sink: per_sink(after.memory, empty.memory, traffic.fan_out),
    })
}

fn micros_each(cpu: Duration, packets: u64) -> f64 {
    cpu.as_secs_f64() * 1e6 / packets.max(1) as f64
}

fn per_sink(joined: u64, idle: u64, sinks: u32) -> u64 {
    joined.saturating_sub(idle) / u64::from(sinks.max(1))
}

/// A folder with the keys of a process that is measured.
fn keys(trial: &Trial, name: &str) -> Result<TempDir, Failure> {
    let folder = tempfile::tempdir().map_err(|error| failed(&error))?;
    trial.authority().save(folder.path()).map_err(|error| failed(&error))?;
    let name: NodeName = name.parse().map_err(|error| failed(&error))?;
    let identity = trial.authority().issue(&name, Role::Relay, unix_seconds(), DAY).map_err(|error| failed(&error))?;
    identity.save(folder.path()).map_err(|error| failed(&error))?;
    Ok(folder)
}

impl Node {
    fn id(&self) -> u32 {
        self.child.id()
    }

    fn start(kind: NodeKind, arguments: &[String]) -> Result<Node, Failure> {
        let program = std::env::current_exe().map_err(|error| failed(&error))?;
        let mut child = Command::new(program)
            .args(["load-node", "--kind", kind.as_str()])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| failed(&format!("cannot start the {} node: {error}", kind.as_str())))?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line).map_err(|error| failed(&error))?;
        }
        let address = line.trim().parse();
        let mut node = Node { child, address: SocketAddr::from(([0, 0, 0, 0], 0)), keys: None };
        node.address =
            address.map_err(|_| failed(&format!("the {} node said {line:?}: expected an address", kind.as_str())))?;
        Ok(node)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        drop(self.keys.take());
    }
}

pub(super) fn failed(error: &impl ToString) -> Failure {
    Failure::new(Exit::Unavailable, error.to_string())
}

/// What a packet out carries, for rates.
pub(super) const BITS: f64 = SIZE as f64 * 8.0;
