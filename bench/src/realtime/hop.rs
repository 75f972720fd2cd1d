//! Our own programs over one emulated hop: source, lossy link, relay, and a sink beside the relay.

use crate::channel::ChannelConfig;
use crate::emulator::{LinkPlan, LinkSnapshot, Snapshot};
use crate::media::MediaSocket;
use crate::rig::{PATIENCE, Rig, RigError, RigPlan, Running};
use link::stats::LinkStats;
use node::control::Dissemination;
use node::exit::{Exit, Failure};
use node::trust::Role;
use std::net::SocketAddr;
use std::time::Duration;
use topology::StreamName;

/// One hop, and what is carried over it.
#[derive(Clone, Debug)]
pub struct HopPlan {
    /// Seed of the link's draws.
    pub seed: u64,
    /// Towards the relay.
    pub forward: ChannelConfig,
    /// Back to the source; as forward unless given.
    pub backward: Option<ChannelConfig>,
    /// One-way deadline from the source's input to the sink's output.
    pub deadline: Duration,
}

/// Name of the emulated link, alike for whatever is carried over it: equal seeds and names draw equal fates.
pub(crate) const HOP: &str = "hop";
/// UDP payload of an Ethernet path with IPv6, which the path is known to carry: a packet of seven transport stream
/// packets travels whole.
pub(crate) const PATH_MTU: u16 = 1452;
const STREAM: &str = "bench/hop";
const RELAY: &str = "relay";

/// The programs, running.
#[derive(Debug)]
pub struct OwnHop {
    source: Running<source::Report>,
    sink: Running<sink::Report>,
    rig: Rig,
    input: SocketAddr,
}

/// What both ends of the hop have counted, and the sink behind it.
#[derive(Clone, Copy, Debug, Default)]
pub struct HopStats {
    /// The source's end.
    pub sender: LinkStats,
    /// The relay's end.
    pub receiver: LinkStats,
    /// Packets that reached the relay after their deadline.
    pub late_at_relay: u64,
    /// Packets the kernel dropped before the source read them.
    pub input_dropped: u64,
    /// The sink's stream.
    pub sink: sink::report::Counters,
}

impl OwnHop {
    /// Starts all; what comes out goes to `output`.
    pub fn start(plan: &HopPlan, output: SocketAddr) -> Result<OwnHop, RigError> {
        let rig = Rig::start_tuned(&RigPlan::new(plan.seed, &[RELAY], &[]), |_, config| {
            config.path_mtu = Some(PATH_MTU);
        })?;
        let target = Some(rig.relay_address(RELAY)?);
        let link = LinkPlan { backward: plan.backward.clone(), ..LinkPlan::new(HOP, target, plan.forward.clone()) };
        let door = rig.emulator().add(link)?.to_string();
        let stream: StreamName = STREAM.parse().expect("it is a stream name");

        let sink = rig.sink("sink", sink_config(&rig, &stream, output)?)?;
        let input = free_port()?;
        let source = rig.source("source", source_config(door, &stream, input, plan.deadline)?)?;
        let is_live = |state: Option<&source::report::StreamReport>| {
            state.is_some_and(|stream| stream.state == source::report::StreamState::Live)
        };
        source.wait_for("publication", PATIENCE, |report| is_live(report.streams.first()))?;
        Ok(OwnHop { source, sink, rig, input })
    }

    /// Where media goes in.
    pub fn input(&self) -> SocketAddr {
        self.input
    }

    /// The emulated link, and the emulator's own lateness with it.
    pub fn wire(&self) -> Result<(LinkSnapshot, Snapshot), RigError> {
        let snapshot = self.rig.emulator().snapshot()?;
        Ok((snapshot.link(HOP).cloned().unwrap_or_default(), snapshot))
    }

    /// A program that has ended and should not have.
    pub fn ended(&self) -> Option<&str> {
        let source = self.source.ended().then(|| self.source.name());
        source.or_else(|| self.sink.ended().then(|| self.sink.name()))
    }

    /// What has been counted, as of the programs' last reports.
    pub fn stats(&self) -> HopStats {
        let (source, sink) = (self.source.report(), self.sink.report());
        let relay = self.rig.relay(RELAY).map(Running::report).unwrap_or_default();
        let link = relay.links.iter().find(|link| link.role == Role::Source);
        HopStats {
            sender: source.link.map(|link| link.stats).unwrap_or_default(),
            receiver: link.map(|link| link.stats).unwrap_or_default(),
            late_at_relay: relay.streams.first().map_or(0, |stream| stream.counters.late),
            input_dropped: source.streams.first().map_or(0, |stream| stream.input_counters.kernel_dropped),
            sink: sink.streams.first().map(|stream| stream.packets).unwrap_or_default(),
        }
    }
}

fn sink_config(rig: &Rig, stream: &StreamName, to: SocketAddr) -> Result<sink::Config, RigError> {
    let output = format!("udp://{to}").parse().map_err(|error: sink::output::SpecError| defect("sink", &error))?;
    Ok(sink::Config {
        relays: vec![rig.relay_address(RELAY)?.to_string()],
        streams: vec![sink::StreamConfig::new(stream.clone(), vec![output])],
        wait: PATIENCE,
        path_mtu: Some(PATH_MTU),
        report_interval: REPORT,
        ..sink::Config::default()
    })
}

fn source_config(
    door: String,
    stream: &StreamName,
    input: SocketAddr,
    deadline: Duration,
) -> Result<source::Config, RigError> {
    let url = format!("udp://{input}").parse().map_err(|error: source::url::InputError| defect("source", &error))?;
    Ok(source::Config {
        relays: vec![door],
        deadline,
        mode: Dissemination::Tree,
        path_mtu: Some(PATH_MTU),
        streams: vec![source::Stream::new(stream.clone(), url)],
        report_interval: REPORT,
        ..source::Config::default()
    })
}

/// Counters are as old as this at most.
const REPORT: Duration = Duration::from_millis(50);

/// A port that was free a moment ago; a program takes it next.
pub(crate) fn free_port() -> Result<SocketAddr, RigError> {
    let socket = MediaSocket::bind().map_err(|error| RigError::Program {
        program: "bench".into(),
        failure: Failure::new(Exit::Unavailable, format!("cannot open a UDP port on loopback: {error}")),
    })?;
    Ok(socket.address())
}

fn defect(program: &str, error: &impl ToString) -> RigError {
    RigError::Program { program: program.into(), failure: Failure::new(Exit::Software, error.to_string()) }
}
