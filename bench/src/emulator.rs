//! The link emulator: lossy paths between real programs over real UDP sockets, on one machine, without root.
//!
//! Each emulated link listens on a UDP port. What comes there passes the link's forward [`crate::channel::Channel`] and goes on to the
//! target; what the target answers passes the backward one. Every client address has a socket of its own towards the target, as
//! behind a NAT, so that any number of connections share a link. Each datagram meets its own fate, whether the kernel handed over one or a
//! batch (GRO); what comes out at the same instant leaves in one call where it can (GSO). Links may share a path ([`LinkPlan::through`]), and with it
//! a bottleneck and its queue.
//!
//! One thread does it all: it sleeps until the next datagram comes or is due, to within the kernel's timer slack (about 50 µs).
//! How late it was is part of the [`Snapshot`]: figures from a run whose `lag_p99` is not small say nothing about the programs.

mod plan;
mod run;
mod socket;
#[cfg(test)]
mod tests;
mod wire;

pub use plan::{Action, Event, LinkPlan, Plan, PlanError};

use crate::channel::{ChannelCounters, Direction};
use run::{Command, Runner};
use serde::Serialize;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

/// Running links. Stops them when dropped.
#[derive(Debug)]
pub struct Emulator {
    /// Names and addresses, by number.
    links: Mutex<Vec<(String, SocketAddr)>>,
    commands: mpsc::Sender<Command>,
    wake: UnixStream,
    thread: Option<JoinHandle<()>>,
}

/// Why an emulator did not start, or does not do as told.
#[derive(Debug, thiserror::Error)]
pub enum EmulatorError {
    /// The plan makes no sense.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A link cannot listen.
    #[error("cannot open link {link}: {error}")]
    Bind {
        /// Its name and where it was to listen.
        link: String,
        /// Why.
        error: std::io::Error,
    },
    /// The thread could not be started.
    #[error("cannot start the emulator: {0}")]
    Thread(std::io::Error),
    /// There is no such link.
    #[error("there is no link named {0:?}")]
    NoSuchLink(String),
    /// The thread is gone.
    #[error("the emulator has stopped")]
    Stopped,
}

/// All links at one moment. Counters run since the start.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Snapshot {
    /// Time since the start.
    #[serde(with = "humantime_serde")]
    pub at: Duration,
    /// The links, in the order of the plan.
    pub links: Vec<LinkSnapshot>,
    /// Scripted events that have happened: when after the start, and what, in words.
    pub happened: Vec<(Duration, String)>,
    /// How much later than due datagrams left: the 99 % quantile.
    #[serde(with = "humantime_serde")]
    pub lag_p99: Duration,
    /// The same: the worst.
    #[serde(with = "humantime_serde")]
    pub lag_max: Duration,
    /// Datagrams the kernel did not take. Anything but 0 is a loss that the plan does not account for.
    pub kernel_dropped: u64,
}

/// One link at one moment.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LinkSnapshot {
    /// Its name.
    pub name: String,
    /// Client addresses known.
    pub clients: usize,
    /// Towards the target.
    pub forward: DirectionSnapshot,
    /// From the target.
    pub backward: DirectionSnapshot,
}

/// One direction of a link at one moment.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct DirectionSnapshot {
    /// What passed and what did not; bytes are those of IP packets.
    pub counters: ChannelCounters,
    /// Datagrams on the wire now.
    pub in_flight: u64,
    /// Their bytes of UDP payload.
    pub in_flight_bytes: u64,
    /// Whether it is cut by the script or by hand.
    pub cut: bool,
}

impl Emulator {
    /// Checks the plan, binds its links and starts.
    pub fn start(plan: &Plan) -> Result<Emulator, EmulatorError> {
        plan.check()?;
        let (commands, receiver) = mpsc::channel();
        let (wake, woken) = UnixStream::pair().map_err(EmulatorError::Thread)?;
        for end in [&wake, &woken] {
            end.set_nonblocking(true).map_err(EmulatorError::Thread)?;
        }
        let runner = Runner::new(plan, receiver, woken).map_err(|(link, error)| EmulatorError::Bind { link, error })?;
        let links = plan.links.iter().map(|link| link.name.clone()).zip(runner.addresses()).collect();
        let thread = std::thread::Builder::new()
            .name("emulator".into())
            .spawn(move || runner.run())
            .map_err(EmulatorError::Thread)?;
        Ok(Emulator { links: Mutex::new(links), commands, wake, thread: Some(thread) })
    }

    /// Opens one more link, and says where it listens.
    pub fn add(&self, link: LinkPlan) -> Result<SocketAddr, EmulatorError> {
        let mut links = self.links();
        if links.iter().any(|(name, _)| *name == link.name) {
            return Err(PlanError::Nonsense(format!("there is already a link named {:?}", link.name)).into());
        }
        if let Some(path) = link.through.as_ref().filter(|path| !links.iter().any(|(name, _)| name == *path)) {
            return Err(EmulatorError::NoSuchLink(path.clone()));
        }
        Plan { links: vec![LinkPlan { through: None, ..link.clone() }], ..Plan::default() }.check()?;
        let name = link.name.clone();
        let (reply, answer) = mpsc::channel();
        self.command(Command::Add { link: Box::new(link), reply })?;
        let address = answer
            .recv()
            .map_err(|_| EmulatorError::Stopped)?
            .map_err(|error| EmulatorError::Bind { link: name.clone(), error })?;
        links.push((name, address));
        Ok(address)
    }

    /// Where a link listens.
    pub fn address(&self, link: &str) -> Result<SocketAddr, EmulatorError> {
        let index = self.index(link)?;
        Ok(self.links()[index].1)
    }

    /// Does something to a link now, in one direction or in both.
    pub fn act(&self, link: &str, direction: Option<Direction>, action: Action) -> Result<(), EmulatorError> {
        let link = self.index(link)?;
        self.command(Command::Act { link, direction, action })
    }

    /// Forwards a link to another target from now on, or nowhere.
    pub fn retarget(&self, link: &str, target: Option<SocketAddr>) -> Result<(), EmulatorError> {
        let link = self.index(link)?;
        self.command(Command::Retarget { link, target })
    }

    /// All links now.
    pub fn snapshot(&self) -> Result<Snapshot, EmulatorError> {
        let (reply, answer) = mpsc::channel();
        self.command(Command::Snapshot { reply })?;
        answer.recv().map_err(|_| EmulatorError::Stopped)
    }

    fn index(&self, link: &str) -> Result<usize, EmulatorError> {
        let found = self.links().iter().position(|(name, _)| name == link);
        found.ok_or_else(|| EmulatorError::NoSuchLink(link.into()))
    }

    fn links(&self) -> MutexGuard<'_, Vec<(String, SocketAddr)>> {
        // The list is pushed to whole or not at all: a panic elsewhere leaves it good.
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn command(&self, command: Command) -> Result<(), EmulatorError> {
        self.commands.send(command).map_err(|_| EmulatorError::Stopped)?;
        // A full pipe wakes the thread as well.
        let _ = (&self.wake).write(&[0]);
        Ok(())
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.command(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Snapshot {
    /// A link by its name.
    pub fn link(&self, name: &str) -> Option<&LinkSnapshot> {
        self.links.iter().find(|link| link.name == name)
    }
}
