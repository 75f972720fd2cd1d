//! One kind in one round: started, fed, measured, ended.

use super::clients::Clients;
use super::cpu::Used;
use super::feed::{WARMUP, feed};
use super::process::{NAME, NodeKind};
use super::report::{Idle, Round};
use super::sinks::{QuinnSinks, Tally, UdpSink};
use super::{SIZE, Traffic};
use crate::media::MediaSocket;
use crate::rig::Trial;
use node::clock::{Clock, unix_seconds};
use node::exit::{Exit, Failure};
use node::trust::Role;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use topology::NodeName;

/// The process that is measured. It is killed, by its id, where it is dropped.
struct Node {
    child: Child,
    address: SocketAddr,
}

/// After the last packet, until all that is on its way has arrived.
const AFTER: Duration = Duration::from_millis(500);
const DAY: Duration = Duration::from_secs(86_400);

/// A plain forwarder.
pub(super) fn udp(traffic: Traffic) -> Result<Round, Failure> {
    let tally = Tally::new(Clock::start());
    let sink = UdpSink::start(tally.clone()).map_err(|error| failed(&error))?;
    let arguments = ["--to".to_owned(), sink.address.to_string(), "--sinks".into(), traffic.fan_out.to_string()];
    let node = Node::start(NodeKind::Udp, &arguments)?;
    let socket = MediaSocket::bind().map_err(|error| failed(&error))?;
    let idle = Used::of(node.child.id());
    let to = node.address;
    counted(traffic, node.child.id(), idle, &tally, |packet| _ = socket.send(to, packet))
}

/// A bare quinn forwarder.
pub(super) fn quinn(traffic: Traffic) -> Result<Round, Failure> {
    let (trial, keys) = keys()?;
    let node = Node::start(NodeKind::Quinn, &["--keys".into(), keys.path().display().to_string()])?;
    let idle = Used::of(node.child.id());
    let tally = Tally::new(Clock::start());
    let sinks = QuinnSinks::start(&trial, node.address, traffic.fan_out, &tally).map_err(|error| failed(&error))?;
    let send = |packet: &[u8]| _ = sinks.publisher.send_datagram(bytes::Bytes::copy_from_slice(packet));
    counted(traffic, node.child.id(), idle, &tally, send)
}

/// Feeds for the warm-up and for the round, and counts over the round.
pub(super) fn counted(
    traffic: Traffic,
    process: u32,
    idle: Used,
    tally: &Tally,
    mut send: impl FnMut(&[u8]),
) -> Result<Round, Failure> {
    // Packets say when they were sent by the clock that whoever receives them reads.
    let clock = tally.clock();
    let joined = Used::of(process);
    feed(clock, traffic, WARMUP, &mut send);
    std::thread::sleep(AFTER);
    tally.forget();
    let (before, received) = (Used::of(process), tally.packets());
    let sent = feed(clock, traffic, traffic.duration, &mut send);
    std::thread::sleep(AFTER);
    let (after, received) = (Used::of(process), tally.packets() - received);
    let [p50, p99] = tally.delays_us();
    Ok(Round {
        cpu_us: micros_each(after.cpu.saturating_sub(before.cpu), received),
        delivered: received as f64 / traffic.out_of(sent).max(1.0),
        memory_per_sink: per_sink(joined.memory, idle.memory, traffic.fan_out),
        memory_loaded: after.memory,
        delay_p50_us: p50 as f64,
        delay_p99_us: p99 as f64,
    })
}

/// Our relay, with a source and sinks as a relay sees them.
pub(super) fn anabranch(traffic: Traffic) -> Result<Round, Failure> {
    let (trial, keys) = keys()?;
    let node = Node::start(NodeKind::Relay, &["--keys".into(), keys.path().display().to_string()])?;
    let process = node.child.id();
    let idle = Used::of(process);
    let tally = Tally::new(Clock::start());
    let mut clients = Clients::start(&trial, node.address, traffic, &tally)?;
    std::thread::sleep(AFTER);
    counted(traffic, process, idle, &tally, |packet| clients.send(packet))
}

/// After the last word of media or control, until links count as idle.
const COME_TO_REST: Duration = Duration::from_secs(5);

/// Our relay with sinks that nothing is sent to.
pub(super) fn idle(traffic: Traffic) -> Result<Idle, Failure> {
    let clock = Clock::start();
    let (trial, keys) = keys()?;
    let starting = clock.now();
    let node = Node::start(NodeKind::Relay, &["--keys".into(), keys.path().display().to_string()])?;
    let (process, ready) = (node.child.id(), clock.now());
    let empty = Used::of(process);
    let _clients = Clients::start(&trial, node.address, traffic, &Tally::new(clock))?;
    let joined = clock.now();
    std::thread::sleep(COME_TO_REST);
    let (from, before) = (clock.now(), Used::of(process));
    std::thread::sleep(traffic.duration);
    let after = Used::of(process);
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

/// An authority, and a folder with the keys of the process that is measured.
fn keys() -> Result<(Trial, tempfile::TempDir), Failure> {
    let (trial, folder) =
        (Trial::new().map_err(|error| failed(&error))?, tempfile::tempdir().map_err(|error| failed(&error))?);
    trial.authority().save(folder.path()).map_err(|error| failed(&error))?;
    let name: NodeName = NAME.parse().map_err(|error| failed(&error))?;
    let identity = trial.authority().issue(&name, Role::Relay, unix_seconds(), DAY).map_err(|error| failed(&error))?;
    identity.save(folder.path()).map_err(|error| failed(&error))?;
    Ok((trial, folder))
}

impl Node {
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
        let mut node = Node { child, address: SocketAddr::from(([0, 0, 0, 0], 0)) };
        node.address =
            address.map_err(|_| failed(&format!("the {} node said {line:?}: expected an address", kind.as_str())))?;
        Ok(node)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(super) fn failed(error: &impl ToString) -> Failure {
    Failure::new(Exit::Unavailable, error.to_string())
}

/// What a packet out carries, for rates.
pub(super) const BITS: f64 = SIZE as f64 * 8.0;
