//! A whole overlay on one machine: relays, sources and sinks, each on a thread and runtime of its own with real sockets, and an emulated link
//! between any two that talk. The demo and the end-to-end tests are made of it.

mod program;
mod trial;

pub use program::{Running, WaitError};
pub use trial::Trial;

use crate::channel::ChannelConfig;
use crate::emulator::{Emulator, EmulatorError, Event, LinkPlan, Plan};
use node::exit::Failure;
use node::trust::{Direction, TrustError};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use topology::names::NameError;
use topology::{LinkName, NodeName};

/// What an overlay is made of. Links are named `a-b`, or `a-b~name` where several join the two; `a` dials, and the forward direction is from `a`
/// to `b`.
#[derive(Clone, Debug, Default)]
pub struct RigPlan {
    /// Master seed of all loss.
    pub seed: u64,
    /// Names of the relays.
    pub relays: Vec<String>,
    /// Links between relays.
    pub links: Vec<RigLink>,
    /// What happens to the links.
    pub events: Vec<Event>,
}

/// A link between two relays.
#[derive(Clone, Debug)]
pub struct RigLink {
    /// The relay that dials.
    pub from: String,
    /// The relay that is dialled.
    pub to: String,
    /// Which of the links between the two it is.
    pub link: Option<LinkName>,
    /// What the path does, in either direction.
    pub channel: ChannelConfig,
}

/// A running overlay.
#[derive(Debug)]
pub struct Rig {
    // Programs stop before the links between them do.
    relays: BTreeMap<String, RigRelay>,
    trial: Trial,
    emulator: Emulator,
    links: Vec<RigLink>,
}

#[derive(Debug)]
struct RigRelay {
    running: Option<Running<relay::Report>>,
    config: relay::Config,
    address: SocketAddr,
}

/// Why an overlay did not come up.
#[derive(Debug, thiserror::Error)]
pub enum RigError {
    /// The links.
    #[error(transparent)]
    Emulator(#[from] EmulatorError),
    /// A program did not get so far.
    #[error(transparent)]
    Wait(#[from] WaitError),
    /// A program failed.
    #[error("{program}: {failure}")]
    Program {
        /// Which.
        program: String,
        /// How.
        failure: Failure,
    },
    /// An identity or token cannot be made.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// A name is no node name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// There is no such relay, or it does not run.
    #[error("there is no relay {0:?} running")]
    NoSuchRelay(String),
}

/// How long anything on one machine may take to come up while the machine is busy.
pub const PATIENCE: Duration = Duration::from_secs(20);

impl RigPlan {
    /// Relays and links; each link as `(a, b, what the path does)`, or with `b~name` where several join the two.
    ///
    /// # Panics
    /// Where what stands behind `~` is no name of a link.
    pub fn new(seed: u64, relays: &[&str], links: &[(&str, &str, ChannelConfig)]) -> RigPlan {
        let link = |(from, end, channel): &(&str, &str, ChannelConfig)| {
            let (to, name) = end.split_once('~').map_or((*end, None), |(to, name)| (to, Some(name)));
            let link = name.map(|name| name.parse().expect("it names a link"));
            RigLink { from: (*from).into(), to: to.into(), link, channel: channel.clone() }
        };
        RigPlan {
            seed,
            relays: relays.iter().map(|name| (*name).into()).collect(),
            links: links.iter().map(link).collect(),
            events: Vec::new(),
        }
    }
}

impl Rig {
    /// Starts the links and the relays, and waits until every link between relays is up and every relay knows every other.
    pub fn start(plan: &RigPlan) -> Result<Rig, RigError> {
        Rig::start_tuned(plan, |_, _| {})
    }

    /// The same, after `tune` has had a look at each relay's name and configuration.
    pub fn start_tuned(plan: &RigPlan, tune: impl Fn(&str, &mut relay::Config)) -> Result<Rig, RigError> {
        let links = plan.links.iter().map(|link| LinkPlan::new(link.name(), None, link.channel.clone())).collect();
        let emulator = Emulator::start(&Plan { seed: plan.seed, links, events: plan.events.clone() })?;
        let trial = Trial::new()?;
        let mut rig = Rig { relays: BTreeMap::new(), trial, emulator, links: plan.links.clone() };
        for name in &plan.relays {
            let mut config = rig.relay_config(name)?;
            tune(name, &mut config);
            rig.launch(name, config)?;
        }
        rig.wait_until_joined()?;
        Ok(rig)
    }

    /// The emulated links.
    pub fn emulator(&self) -> &Emulator {
        &self.emulator
    }

    /// The links between relays.
    pub fn links(&self) -> &[RigLink] {
        &self.links
    }

    /// The authority that certifies all.
    pub fn trial(&self) -> &Trial {
        &self.trial
    }

    /// The relays that run, by name.
    pub fn relays(&self) -> impl Iterator<Item = (&str, &Running<relay::Report>)> {
        self.relays.iter().filter_map(|(name, relay)| Some((name.as_str(), relay.running.as_ref()?)))
    }

    /// A relay that runs.
    pub fn relay(&self, name: &str) -> Result<&Running<relay::Report>, RigError> {
        let running = self.relays.get(name).and_then(|relay| relay.running.as_ref());
        running.ok_or_else(|| RigError::NoSuchRelay(name.into()))
    }

    /// Where a relay itself listens, past all emulated links.
    pub fn relay_address(&self, name: &str) -> Result<SocketAddr, RigError> {
        self.relays.get(name).map(|relay| relay.address).ok_or_else(|| RigError::NoSuchRelay(name.into()))
    }

    /// Opens an emulated link named `link` to a relay for a source or sink, and returns the address to dial.
    pub fn door(&self, link: &str, relay: &str, channel: ChannelConfig) -> Result<String, RigError> {
        let target = self.relay_address(relay)?;
        Ok(self.emulator.add(LinkPlan::new(link, Some(target), channel))?.to_string())
    }

    /// Starts a source. Where its configuration has no identity it gets a certificate for `name`.
    pub fn source(&self, name: &str, mut config: source::Config) -> Result<Running<source::Report>, RigError> {
        if config.identity.is_none() {
            config.identity = Some(self.trial.source(&node_name(name)?)?);
            if config.token.is_none() {
                config.token = Some(self.trial.token("**", Direction::Publish, Duration::from_secs(86_400))?);
            }
        }
        Ok(Running::start(name, move |shutdown, report| source::run(config, shutdown, report)))
    }

    /// Starts a sink. Where its configuration has no identity it gets a certificate for `name`.
    pub fn sink(&self, name: &str, mut config: sink::Config) -> Result<Running<sink::Report>, RigError> {
        if config.identity.is_none() {
            config.identity = Some(self.trial.sink(&node_name(name)?)?);
        }
        Ok(Running::start(name, move |shutdown, report| sink::run(config, shutdown, report)))
    }

    /// Ends a relay without a word, as `kill -9` would.
    pub fn kill_relay(&mut self, name: &str) -> Result<(), RigError> {
        let relay = self.relays.get_mut(name).ok_or_else(|| RigError::NoSuchRelay(name.into()))?;
        relay.running.take().ok_or_else(|| RigError::NoSuchRelay(name.into()))?.kill();
        Ok(())
    }

    /// Starts a relay that was killed again, where it was and as it was.
    pub fn restart_relay(&mut self, name: &str) -> Result<(), RigError> {
        let relay = self.relays.get(name).ok_or_else(|| RigError::NoSuchRelay(name.into()))?;
        let config = relay::Config { listen: vec![relay.address], ..relay.config.clone() };
        self.launch(name, config)
    }

    /// Waits until every link between running relays is up in both ends' eyes, and every relay knows every other.
    pub fn wait_until_joined(&self) -> Result<(), RigError> {
        for (name, running) in self.relays() {
            let ends = self.links.iter().filter_map(|link| Some((link.other(name)?, link.link.as_ref())));
            let ends: Vec<(&str, Option<&LinkName>)> = ends.filter(|(peer, _)| self.relay(peer).is_ok()).collect();
            let all = self.relays().count();
            running.wait_for("links to all neighbours and word of all relays", PATIENCE, |report| {
                let up: Vec<_> =
                    report.links.iter().map(|link| (link.peer.relay.as_str(), link.peer.link.as_ref())).collect();
                ends.iter().all(|end| up.contains(end)) && report.overlay.relays.len() >= all
            })?;
        }
        Ok(())
    }

    fn relay_config(&self, name: &str) -> Result<relay::Config, RigError> {
        let mut neighbours = Vec::new();
        for link in self.links.iter().filter(|link| link.from == name) {
            let address = self.emulator.address(&link.name())?;
            let neighbour = relay::Neighbour::at(address.to_string());
            // Of a link with a name it is to be known where it leads.
            let name = link.link.is_some().then(|| node_name(&link.to)).transpose()?;
            neighbours.push(relay::Neighbour { name, link: link.link.clone(), ..neighbour });
        }
        Ok(relay::Config {
            listen: vec![(Ipv4Addr::LOCALHOST, 0).into()],
            neighbours,
            identity: Some(self.trial.relay(&node_name(name)?)?),
            report_interval: Duration::from_millis(100),
            // Whoever stops one relay here stops them all: there is nobody left to route around it.
            drain: Duration::from_millis(100),
            ..relay::Config::default()
        })
    }

    fn launch(&mut self, name: &str, config: relay::Config) -> Result<(), RigError> {
        let run = config.clone();
        let mut running = Running::start(name, move |shutdown, report| relay::run(run, shutdown, report));
        let ready = running.wait_for("readiness", PATIENCE, |report: &relay::Report| !report.listen.is_empty());
        let report = match ready {
            Ok(report) => report,
            Err(WaitError::Ended { .. }) => {
                let failure = running.join().err().unwrap_or_else(|| Failure::new(node::exit::Exit::Ok, "ended"));
                return Err(RigError::Program { program: name.into(), failure });
            }
            Err(error) => return Err(error.into()),
        };
        let address = report.listen[0];
        for link in self.links.iter().filter(|link| link.to == name) {
            self.emulator.retarget(&link.name(), Some(address))?;
        }
        self.relays.insert(name.into(), RigRelay { running: Some(running), config, address });
        Ok(())
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // All at once; each is then waited for.
        self.relays.values().filter_map(|relay| relay.running.as_ref()).for_each(Running::ask_to_stop);
    }
}

fn node_name(name: &str) -> Result<NodeName, RigError> {
    Ok(name.parse::<NodeName>()?)
}

impl RigLink {
    /// Its name in the emulator.
    pub fn name(&self) -> String {
        let name = self.link.as_ref().map_or_else(String::new, |name| format!("~{name}"));
        format!("{}-{}{name}", self.from, self.to)
    }

    /// The end that is not `name`, where `name` is one.
    pub fn other(&self, name: &str) -> Option<&str> {
        if self.from == name { Some(&self.to) } else { (self.to == name).then_some(&self.from) }
    }
}
