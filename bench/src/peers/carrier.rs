//! One carrier over its own emulated link: started, watched, measured.

use super::forwarder::Forwarder;
use super::plan::{CarrierKind, CarrierPlan, CellPlan, PeersPlan};
use super::program::{External, NotInstalled, Tool};
use crate::emulator::{Emulator, EmulatorError, LinkPlan, LinkSnapshot, Plan, Snapshot};
use crate::realtime::{HOP, HopPlan, HopStats, OwnHop};
use crate::rig::RigError;
use std::net::SocketAddr;
use std::time::Duration;

/// A carrier that runs.
#[derive(Debug)]
pub(super) struct Carrier {
    input: SocketAddr,
    way: Way,
}

#[derive(Debug)]
enum Way {
    /// Other people's programs, or the forwarder; they stop before the link does.
    Theirs { programs: Vec<External>, _forwarder: Option<Forwarder>, emulator: Emulator },
    /// Our own.
    Ours(Box<OwnHop>),
}

/// Why a carrier took no part, or stopped doing so.
#[derive(Debug, thiserror::Error)]
pub enum CarrierError {
    /// Its program is not there.
    #[error(transparent)]
    NotInstalled(#[from] NotInstalled),
    /// Its program did not start, or a socket did not open.
    #[error("{what}: {error}")]
    Start {
        /// What.
        what: String,
        /// Why.
        error: std::io::Error,
    },
    /// Its program ended before the run did.
    #[error("{program} ended by itself ({status}); its last words: {said}")]
    Ended {
        /// Which.
        program: String,
        /// Its exit status.
        status: String,
        /// The end of its output.
        said: String,
    },
    /// Nothing came through.
    #[error("nothing came through within {patience:?}; last words: {said}")]
    Silent {
        /// How long it was waited for.
        patience: Duration,
        /// The end of each program's output.
        said: String,
    },
    /// The emulated link.
    #[error(transparent)]
    Emulator(#[from] EmulatorError),
    /// Our own programs.
    #[error(transparent)]
    Rig(#[from] RigError),
}

impl Carrier {
    /// Starts a carrier over the link of a cell; what comes out goes to `output`.
    pub(super) fn start(
        plan: &PeersPlan,
        cell: &CellPlan,
        carrier: &CarrierPlan,
        output: SocketAddr,
    ) -> Result<Carrier, CarrierError> {
        carrier.kind.tools().iter().try_for_each(|tool| tool.find().map(drop))?;
        let latency = cell.peer_latency(plan.deadline).as_millis();
        match carrier.kind {
            CarrierKind::Udp => {
                let (emulator, link) = emulate(plan, cell, output)?;
                let forwarder = Forwarder::start(link).map_err(|error| start_error("the forwarder's socket", error))?;
                let input = forwarder.input();
                let way = Way::Theirs { programs: Vec::new(), _forwarder: Some(forwarder), emulator };
                Ok(Carrier { input, way })
            }
            CarrierKind::Srt => Carrier::pair(plan, cell, |input, link, far| {
                let options = and(&carrier.options);
                let srt = |from: String, to: String| {
                    (
                        Tool::SrtLiveTransmit,
                        ["-q", "-chunk:1316"].map(String::from).into_iter().chain([from, to]).collect(),
                    )
                };
                [
                    srt(format!("srt://{far}?mode=listener&latency={latency}{options}"), format!("udp://{output}")),
                    srt(format!("udp://{input}"), format!("srt://{link}?mode=caller&latency={latency}{options}")),
                ]
            }),
            CarrierKind::Rist => Carrier::pair(plan, cell, |input, link, far| {
                let options = and(&carrier.options);
                let rist = |tool, from: String, to: String| {
                    let profile = ["-p", "1", "-S", "0", "-i"].map(String::from);
                    (tool, profile.into_iter().chain([from, "-o".into(), to]).collect())
                };
                let (from, to) = (format!("udp://{input}"), format!("rist://{link}?buffer={latency}{options}"));
                let far = format!("rist://@{far}?buffer={latency}{options}");
                [rist(Tool::RistReceiver, far, format!("udp://{output}")), rist(Tool::RistSender, from, to)]
            }),
            CarrierKind::Anabranch => {
                let hop = HopPlan {
                    seed: plan.seed,
                    forward: cell.forward.clone(),
                    backward: cell.backward.clone(),
                    deadline: plan.deadline,
                };
                let hop = OwnHop::start(&hop, output)?;
                Ok(Carrier { input: hop.input(), way: Way::Ours(Box::new(hop)) })
            }
        }
    }

    /// Two programs with the emulated link between them. `commands` is given the sender's input, the link's near end, and the port it leads to.
    fn pair(
        plan: &PeersPlan,
        cell: &CellPlan,
        commands: impl FnOnce(SocketAddr, SocketAddr, SocketAddr) -> [(Tool, Vec<String>); 2],
    ) -> Result<Carrier, CarrierError> {
        let (input, far) = (free_port()?, free_port()?);
        let (emulator, link) = emulate(plan, cell, far)?;
        let mut programs = Vec::new();
        for (tool, arguments) in commands(input, link, far) {
            programs.push(tool.start(&arguments).map_err(|error| start_error(tool.program(), error))?);
        }
        Ok(Carrier { input, way: Way::Theirs { programs, _forwarder: None, emulator } })
    }

    /// Where media goes in.
    pub(super) fn input(&self) -> SocketAddr {
        self.input
    }

    /// The emulated link now, and the emulator's own lateness with it.
    pub(super) fn wire(&self) -> Result<(LinkSnapshot, Snapshot), CarrierError> {
        match &self.way {
            Way::Ours(hop) => Ok(hop.wire()?),
            Way::Theirs { emulator, .. } => {
                let snapshot = emulator.snapshot()?;
                Ok((snapshot.link(HOP).cloned().unwrap_or_default(), snapshot))
            }
        }
    }

    /// What our own programs count.
    pub(super) fn own(&self) -> Option<HopStats> {
        if let Way::Ours(hop) = &self.way { Some(hop.stats()) } else { None }
    }

    /// Whether everything still runs. Both peers end with status 0, or not at all, where a connection is refused.
    pub(super) fn check(&mut self) -> Result<(), CarrierError> {
        match &mut self.way {
            Way::Ours(hop) => match hop.ended() {
                Some(program) => {
                    let (program, status) = (program.to_owned(), "see its message above".to_owned());
                    Err(CarrierError::Ended { program, status, said: "nothing".into() })
                }
                None => Ok(()),
            },
            Way::Theirs { programs, .. } => programs.iter_mut().try_for_each(|program| match program.ended() {
                Some(status) => {
                    Err(CarrierError::Ended { program: program.name().into(), status, said: program.said() })
                }
                None => Ok(()),
            }),
        }
    }

    /// The error for a carrier that lets nothing through.
    pub(super) fn silent(&mut self, patience: Duration) -> CarrierError {
        let said = match &mut self.way {
            Way::Ours(_) => "nothing".into(),
            Way::Theirs { programs, .. } => {
                let said = programs.iter_mut().map(|program| format!("{}: {}", program.name(), program.said()));
                said.collect::<Vec<_>>().join("; ")
            }
        };
        CarrierError::Silent { patience, said }
    }
}

/// The link of a cell, on an emulator of its own.
fn emulate(plan: &PeersPlan, cell: &CellPlan, to: SocketAddr) -> Result<(Emulator, SocketAddr), CarrierError> {
    let link = LinkPlan { backward: cell.backward.clone(), ..LinkPlan::new(HOP, Some(to), cell.forward.clone()) };
    let emulator = Emulator::start(&Plan { seed: plan.seed, links: vec![link], events: Vec::new() })?;
    let address = emulator.address(HOP)?;
    Ok((emulator, address))
}

fn free_port() -> Result<SocketAddr, CarrierError> {
    Ok(crate::realtime::free_port()?)
}

fn and(options: &str) -> String {
    if options.is_empty() { String::new() } else { format!("&{options}") }
}

fn start_error(what: &str, error: std::io::Error) -> CarrierError {
    CarrierError::Start { what: what.into(), error }
}
