//! What the emulator does, as data: links, and a script of what happens to them.

use crate::channel::{ChannelConfig, Direction, Jitter, Loss};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

/// A set of links and what happens to them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Plan {
    /// Master seed; every link and direction derives its own from it.
    pub seed: u64,
    /// The links.
    pub links: Vec<LinkPlan>,
    /// The script.
    pub events: Vec<Event>,
}

/// One emulated link: datagrams that come to `listen` go on to `target`, and answers back to whoever sent them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkPlan {
    /// Its name in events and reports; also part of its seeds.
    pub name: String,
    /// Where it listens (UDP); port 0 picks one.
    #[serde(default = "any_loopback")]
    pub listen: SocketAddr,
    /// Where it forwards to. Without it, nowhere until [`super::Emulator::retarget`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<SocketAddr>,
    /// Towards the target. Sizes are those of IP packets: a UDP payload of 1252 bytes is one of 1280 over IPv4.
    #[serde(default)]
    pub forward: ChannelConfig,
    /// From the target; without it, as `forward` (with draws of its own).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backward: Option<ChannelConfig>,
    /// The link whose path this one shares, in both directions: the same bottleneck and queue, the same loss. It must stand before; what this
    /// link says of its own path does not count then, and the path's counters stand at that link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub through: Option<String>,
}

fn any_loopback() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

/// Something that happens to a link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When, after the start.
    #[serde(with = "humantime_serde")]
    pub at: Duration,
    /// Whether and when it happens again.
    #[serde(default, with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub every: Option<Duration>,
    /// To which link.
    pub link: String,
    /// Which way; both where it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
    /// What.
    #[serde(flatten)]
    pub action: Action,
}

/// What can happen to a link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "lowercase")]
pub enum Action {
    /// Nothing passes any more.
    Cut,
    /// It passes again.
    Mend,
    /// Another loss model.
    Loss {
        /// The model.
        loss: Loss,
    },
    /// Another delay.
    Delay {
        /// Propagation.
        #[serde(with = "humantime_serde")]
        delay: Duration,
        /// Jitter, where it changes too.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        jitter: Option<Jitter>,
    },
    /// Another path altogether.
    Set {
        /// What it does.
        channel: ChannelConfig,
    },
    /// As the plan had it at the start.
    Reset,
    /// Every client appears to the target under a new address, as behind a NAT that lost its state.
    Rebind,
}

/// Why a plan cannot run.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The file cannot be read.
    #[error("{file}: {error}")]
    Read {
        /// Which.
        file: String,
        /// Why.
        error: std::io::Error,
    },
    /// It is not TOML, or not a plan.
    #[error("{file}: {error}")]
    Parse {
        /// Which.
        file: String,
        /// Where and what was expected.
        error: String,
    },
    /// It reads, and makes no sense.
    #[error("{0}")]
    Nonsense(String),
}

impl Plan {
    /// Reads and checks a TOML file.
    pub fn load(file: &Path) -> Result<Plan, PlanError> {
        let name = file.display().to_string();
        let text = std::fs::read_to_string(file).map_err(|error| PlanError::Read { file: name.clone(), error })?;
        let plan: Plan = toml::from_str(&text)
            .map_err(|error| PlanError::Parse { file: name.clone(), error: error.to_string().trim_end().into() })?;
        plan.check().map_err(|error| PlanError::Parse { file: name, error: error.to_string() })?;
        Ok(plan)
    }

    /// Checks what types cannot say: names are single and known, models can do what they state.
    pub fn check(&self) -> Result<(), PlanError> {
        let mut names = HashSet::new();
        for link in &self.links {
            if !names.insert(link.name.as_str()) {
                return Err(PlanError::Nonsense(format!("links: there are two links named {:?}", link.name)));
            }
            if let Some(path) = link.through.as_deref().filter(|path| *path == link.name || !names.contains(path)) {
                return Err(PlanError::Nonsense(format!(
                    "link {}: through: no link named {path:?} stands before",
                    link.name
                )));
            }
            let channels = std::iter::once(&link.forward).chain(&link.backward);
            check_channels(&format!("link {}", link.name), channels)?;
        }
        for event in &self.events {
            if !names.contains(event.link.as_str()) {
                return Err(PlanError::Nonsense(format!("events: there is no link named {:?}", event.link)));
            }
            let shares = |link: &LinkPlan| link.name == event.link && link.through.is_some();
            if event.action != Action::Rebind && self.links.iter().any(shares) {
                let what = format!(
                    "events: {:?} goes through another link; what happens to its path happens there",
                    event.link
                );
                return Err(PlanError::Nonsense(what));
            }
            if event.every.is_some_and(|every| every < Duration::from_millis(1)) {
                return Err(PlanError::Nonsense("events.every: expected at least 1ms".into()));
            }
            let changed = match &event.action {
                Action::Set { channel } => Some(channel.clone()),
                Action::Loss { loss } => Some(ChannelConfig { loss: loss.clone(), ..ChannelConfig::default() }),
                _ => None,
            };
            check_channels(&format!("event at {}", humantime::format_duration(event.at)), &changed)?;
        }
        Ok(())
    }
}

fn check_channels<'a>(what: &str, channels: impl IntoIterator<Item = &'a ChannelConfig>) -> Result<(), PlanError> {
    channels
        .into_iter()
        .try_for_each(|channel| channel.validate().map_err(|error| PlanError::Nonsense(format!("{what}: {error}"))))
}

impl LinkPlan {
    /// A link that does to both directions what `channel` says, on a loopback port picked at the start.
    pub fn new(name: impl Into<String>, target: Option<SocketAddr>, channel: ChannelConfig) -> LinkPlan {
        LinkPlan { name: name.into(), listen: any_loopback(), target, forward: channel, backward: None, through: None }
    }

    /// What it does in one direction.
    pub fn channel(&self, direction: Direction) -> &ChannelConfig {
        match direction {
            Direction::Forward => &self.forward,
            Direction::Backward => self.backward.as_ref().unwrap_or(&self.forward),
        }
    }
}

impl Event {
    /// An event in both directions, once.
    pub fn new(at: Duration, link: impl Into<String>, action: Action) -> Event {
        Event { at, every: None, link: link.into(), direction: None, action }
    }

    /// The same, again and again.
    pub fn every(self, every: Duration) -> Event {
        Event { every: Some(every), ..self }
    }
}

impl Action {
    /// What becomes of a channel; `start` is what the plan had.
    pub(super) fn apply(&self, channel: &ChannelConfig, start: &ChannelConfig) -> ChannelConfig {
        let channel = channel.clone();
        match self {
            Action::Cut => ChannelConfig { cut: true, ..channel },
            Action::Mend => ChannelConfig { cut: false, ..channel },
            Action::Loss { loss } => ChannelConfig { loss: loss.clone(), ..channel },
            Action::Delay { delay, jitter } => {
                ChannelConfig { delay: *delay, jitter: jitter.unwrap_or(channel.jitter), ..channel }
            }
            Action::Set { channel } => channel.clone(),
            Action::Reset => start.clone(),
            Action::Rebind => channel,
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let link = &self.link;
        match &self.action {
            Action::Cut => write!(f, "{link} goes dead")?,
            Action::Mend => write!(f, "{link} is back")?,
            Action::Loss { loss } => write!(f, "{link} loses {:.1} %", loss.mean() * 100.0)?,
            Action::Delay { delay, .. } => write!(f, "{link} takes {}", humantime::format_duration(*delay))?,
            Action::Set { .. } => write!(f, "{link} changes")?,
            Action::Reset => write!(f, "{link} is as at the start")?,
            Action::Rebind => write!(f, "{link} gives its clients new addresses")?,
        }
        match self.direction {
            Some(direction) => write!(f, " ({} only)", direction.as_str()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: &str = r#"
        seed = 7
        [[links]]
        name = "a-b"
        listen = "127.0.0.1:7001"
        target = "127.0.0.1:5001"
        forward = { delay = "15ms", loss = { model = "gilbert", mean = 0.05, burst = 0.66 } }
        backward = { delay = "12ms" }
        [[links]]
        name = "b-c"
        target = "[::1]:5002"
        forward = { delay = "10ms" }
        [[events]]
        at = "10s"
        every = "30s"
        link = "a-b"
        direction = "backward"
        action = "cut"
        [[events]]
        at = "12s"
        link = "a-b"
        action = "loss"
        loss = { model = "bernoulli", mean = 0.02 }
    "#;

    #[test]
    fn a_plan_reads_and_writes() {
        let plan: Plan = toml::from_str(PLAN).unwrap();
        plan.check().unwrap();
        assert_eq!(plan.links[1].listen, "127.0.0.1:0".parse().unwrap());
        assert_eq!(plan.links[0].channel(Direction::Backward).delay, Duration::from_millis(12));
        assert_eq!(plan.links[1].channel(Direction::Backward).delay, Duration::from_millis(10));
        assert_eq!(plan.events[0].to_string(), "a-b goes dead (backward only)");
        assert_eq!(plan.events[1].to_string(), "a-b loses 2.0 %");
        assert_eq!(toml::from_str::<Plan>(&toml::to_string(&plan).unwrap()).unwrap(), plan);
    }

    #[test]
    fn the_plan_that_is_shipped_loads() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("plans/emulate.toml");
        assert_eq!(Plan::load(&file).unwrap().events.len(), 4);
    }

    #[test]
    fn a_wrong_plan_says_what_is_wrong() {
        for (from, to, says) in [
            ("seed = 7", "sead = 7", "unknown field `sead`"),
            ("name = \"b-c\"", "name = \"a-b\"", "two links named \"a-b\""),
            ("link = \"a-b\"", "link = \"a-x\"", "no link named \"a-x\""),
            ("target = \"[::1]:5002\"", "through = \"c-d\"", "link b-c: through: no link named \"c-d\" stands before"),
            (
                "listen = \"127.0.0.1:7001\"",
                "target = \"127.0.0.1:9\"\n[[links]]\nname = \"a-c\"\nthrough = \"a-b\"\n[[events]]\nat = \"1s\"\nlink = \"a-c\"\naction = \"cut\"\n[[links]]\nname = \"a-d\"",
                "\"a-c\" goes through another link",
            ),
            ("mean = 0.05", "mean = 5", "link a-b: loss.mean is 5: expected a share from 0 to 1"),
            ("action = \"cut\"", "action = \"chop\"", "unknown variant `chop`"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("plan.toml");
            std::fs::write(&file, PLAN.replace(from, to)).unwrap();
            let error = Plan::load(&file).unwrap_err().to_string();
            assert!(error.contains(says) && error.contains("plan.toml"), "{error}");
        }
    }
}
