//! What is offered to a bottleneck, as data.

use crate::channel::{ChannelConfig, Queue, Rate};
use link::Bitrate;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One bottleneck, and what is offered to it by turns.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BottleneckPlan {
    /// What the plan shows.
    pub title: String,
    /// What the bottleneck carries, in bits of IP packets per second; the way back carries everything.
    pub rate: Bitrate,
    /// What may wait before it.
    #[serde(with = "humantime_serde")]
    pub queue: Duration,
    /// Propagation, either way.
    #[serde(with = "humantime_serde")]
    pub delay: Duration,
    /// One-way deadline of every stream.
    #[serde(with = "humantime_serde")]
    pub deadline: Duration,
    /// Time at the beginning of a scenario that does not count.
    #[serde(with = "humantime_serde")]
    pub warmup: Duration,
    /// Time that counts.
    #[serde(with = "humantime_serde")]
    pub duration: Duration,
    /// What is offered.
    #[serde(rename = "scenario")]
    pub scenarios: Vec<Scenario>,
}

/// What shares the bottleneck.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What tells it from the others.
    pub name: String,
    /// Our links.
    #[serde(rename = "link", default)]
    pub links: Vec<LinkOffer>,
    /// Bulk flows beside them, each as fast as it goes.
    #[serde(default)]
    pub bulk: usize,
}

/// One of our links: a source of its own.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkOffer {
    /// What it carries.
    #[serde(rename = "stream")]
    pub streams: Vec<StreamOffer>,
}

/// One stream.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamOffer {
    /// Rate of its payload.
    pub rate: Bitrate,
    /// Before others, or not.
    #[serde(default)]
    pub priority: source::config::Priority,
}

/// Why a plan could not be used.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The file could not be read.
    #[error("{path}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        error: std::io::Error,
    },
    /// It is no plan.
    #[error("{path}: {error}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: toml::de::Error,
    },
    /// It reads, and makes no sense.
    #[error("{path}: {reason}")]
    Nonsense {
        /// The file.
        path: PathBuf,
        /// Which field, and what was expected.
        reason: String,
    },
}

impl BottleneckPlan {
    /// Reads and checks a plan file.
    pub fn load(path: &Path) -> Result<BottleneckPlan, PlanError> {
        let text = std::fs::read_to_string(path).map_err(|error| PlanError::Read { path: path.to_owned(), error })?;
        let plan: BottleneckPlan =
            toml::from_str(&text).map_err(|error| PlanError::Syntax { path: path.to_owned(), error })?;
        plan.check().map_err(|reason| PlanError::Nonsense { path: path.to_owned(), reason })?;
        Ok(plan)
    }

    /// The path through the bottleneck, and the one back.
    pub(super) fn channels(&self) -> [ChannelConfig; 2] {
        let backward = ChannelConfig { delay: self.delay, ..ChannelConfig::default() };
        let rate = Some(Rate { bitrate: self.rate, queue: Queue::Time(self.queue) });
        [ChannelConfig { rate, ..backward.clone() }, backward]
    }

    fn check(&self) -> Result<(), String> {
        if self.rate == Bitrate::ZERO {
            return Err("rate: expected more than 0 bits per second".into());
        }
        if self.duration < Duration::from_secs(1) {
            return Err("duration: expected at least 1s".into());
        }
        self.scenarios.iter().try_for_each(|scenario| {
            let name = &scenario.name;
            let streams = || scenario.links.iter().flat_map(|link| &link.streams);
            if scenario.links.iter().any(|link| link.streams.is_empty()) {
                return Err(format!("scenario {name:?}: link: expected at least one stream"));
            }
            if streams().any(|stream| stream.rate == Bitrate::ZERO) {
                return Err(format!("scenario {name:?}: stream.rate: expected more than 0 bits per second"));
            }
            if scenario.bulk > 16 {
                return Err(format!("scenario {name:?}: bulk is {}: expected 0 to 16", scenario.bulk));
            }
            Ok(())
        })
    }
}

impl Scenario {
    /// Rate of all streams' payload together.
    pub fn offered(&self) -> Bitrate {
        let streams = self.links.iter().flat_map(|link| &link.streams);
        Bitrate::bps(streams.map(|stream| stream.rate.as_bps()).sum())
    }
}
