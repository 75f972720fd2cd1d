//! Plans: what is to be simulated, as data.

use crate::channel::{ChannelConfig, Outage};
use link::Bitrate;
use link::policy::Policy;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A list of cases.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// What the plan shows.
    pub title: String,
    /// What each case has unless it says otherwise; merged table by table.
    #[serde(default, skip_serializing)]
    pub defaults: toml::Table,
    /// The cases.
    #[serde(rename = "case")]
    pub cases: Vec<Case>,
}

/// One simulation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What tells it from the others.
    pub name: String,
    /// Each decides every draw of a run; the runs count together.
    #[serde(default = "one")]
    pub seeds: Vec<u64>,
    /// Packets sent, under each seed.
    pub packets: u64,
    /// Payload of a packet, in bytes.
    #[serde(default = "ts_payload")]
    pub size: usize,
    /// Rate of the payload.
    #[serde(default = "ten_mbit")]
    pub rate: Bitrate,
    /// Packets that leave together: 1 is an even flow; an encoder sends a picture's at once.
    #[serde(default = "evenly")]
    pub together: u64,
    /// From source to sink, one way.
    #[serde(with = "humantime_serde")]
    pub deadline: Duration,
    /// Time at the beginning that does not count: estimates begin from guesses.
    #[serde(with = "humantime_serde", default)]
    pub warmup: Duration,
    /// What repairs.
    #[serde(default)]
    pub mechanism: Mechanism,
    /// The policy of every link.
    #[serde(default)]
    pub policy: Policy,
    /// Largest frame of every link.
    #[serde(default = "frame")]
    pub max_frame: usize,
    /// The hops, from the source to the sink; at least one.
    #[serde(rename = "hop")]
    pub hops: Vec<Hop>,
    /// What becomes different on the way, on every hop and in both directions.
    #[serde(default, rename = "change")]
    pub changes: Vec<Change>,
    /// What it should come to.
    #[serde(default)]
    pub expect: Expectation,
}

/// A step, or a ramp, from what was to something else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Change {
    /// When it begins, after the first packet.
    #[serde(with = "humantime_serde")]
    pub at: Duration,
    /// How long it takes; a step where zero.
    #[serde(with = "humantime_serde")]
    pub over: Duration,
    /// The delay of each direction from then on.
    #[serde(with = "humantime_serde")]
    pub delay: Option<Duration>,
    /// The mean loss from then on, of a Gilbert model.
    pub loss: Option<f64>,
    /// The rate of the media from then on.
    pub rate: Option<Bitrate>,
}

/// Hops of one kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hop {
    /// How many in a row.
    #[serde(default = "single")]
    pub count: usize,
    /// Towards the sink.
    pub forward: ChannelConfig,
    /// Towards the source; the same as forward unless given.
    #[serde(default)]
    pub backward: Option<ChannelConfig>,
}

/// What repairs losses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mechanism {
    /// The real thing: [`link::Link`].
    #[default]
    Link,
    /// Reference: a lost packet is asked for when its loss is seen, and again every round trip; one copy per request.
    PlainArq,
    /// Reference: up to three requests spaced over the time there is, each answered by three spaced copies.
    NmStrikes,
}

/// The most that may come out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expectation {
    /// Share of packets lost or late.
    pub residual: Option<f64>,
    /// Repair bytes over media bytes, on the worst hop.
    pub overhead: Option<f64>,
    /// Feedback bytes over media bytes, on the worst hop.
    pub feedback: Option<f64>,
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
    /// A case makes no sense.
    #[error("{path}: case {case}: {reason}")]
    Case {
        /// The file.
        path: PathBuf,
        /// The case's name.
        case: String,
        /// What is wrong.
        reason: String,
    },
}

impl Plan {
    /// Reads and checks a plan file.
    pub fn load(path: &Path) -> Result<Plan, PlanError> {
        let text = std::fs::read_to_string(path).map_err(|error| PlanError::Read { path: path.to_owned(), error })?;
        let plan = Plan::parse(&text).map_err(|error| PlanError::Syntax { path: path.to_owned(), error })?;
        for case in &plan.cases {
            case.check().map_err(|reason| PlanError::Case {
                path: path.to_owned(),
                case: case.name.clone(),
                reason,
            })?;
        }
        Ok(plan)
    }

    /// Reads a plan.
    pub fn parse(text: &str) -> Result<Plan, toml::de::Error> {
        let mut table: toml::Table = text.parse()?;
        let defaults = match table.get("defaults") {
            Some(toml::Value::Table(defaults)) => defaults.clone(),
            _ => toml::Table::new(),
        };
        if let Some(toml::Value::Array(cases)) = table.get_mut("case") {
            for case in cases.iter_mut().filter_map(toml::Value::as_table_mut) {
                let mut merged = defaults.clone();
                merge(&mut merged, std::mem::take(case));
                *case = merged;
            }
        }
        table.try_into()
    }
}

impl Case {
    /// Mean time between packets.
    pub fn interval(&self) -> Duration {
        self.rate.time_for(self.size as u64)
    }

    /// Overhead of a repair that sends again just what is lost, where the loss of the worst hop has a mean.
    pub fn floor(&self) -> Option<f64> {
        let mean = |channel: &ChannelConfig| {
            let share =
                |outage: &Outage| outage.every.map_or(0.0, |every| outage.lasts.as_secs_f64() / every.as_secs_f64());
            channel.loss.mean() + channel.outages.iter().map(share).sum::<f64>()
        };
        let worst = self.channels().map(|[forward, _]| mean(forward)).fold(0.0, f64::max);
        (self.changes.is_empty() && worst < 1.0).then(|| worst / (1.0 - worst))
    }

    /// Each hop's channels, forward and backward.
    pub fn channels(&self) -> impl Iterator<Item = [&ChannelConfig; 2]> {
        self.hops.iter().flat_map(|hop| {
            let backward = hop.backward.as_ref().unwrap_or(&hop.forward);
            std::iter::repeat_n([&hop.forward, backward], hop.count)
        })
    }

    fn check(&self) -> Result<(), String> {
        if self.channels().next().is_none() {
            return Err("it has no hop".into());
        }
        if self.seeds.is_empty() {
            return Err("it has no seed".into());
        }
        if self.rate == Bitrate::ZERO || self.size == 0 {
            return Err("rate and size must be more than 0".into());
        }
        if self.together == 0 {
            return Err("together: expected 1 packet or more".into());
        }
        self.channels().flatten().try_for_each(|channel| channel.validate().map_err(|error| error.to_string()))
    }
}

/// Lays `over` on `under`, table by table.
fn merge(under: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(above)) => merge(below, above),
            (_, value) => {
                under.insert(key, value);
            }
        }
    }
}

fn one() -> Vec<u64> {
    vec![1]
}

fn single() -> usize {
    1
}

fn ts_payload() -> usize {
    1316
}

fn evenly() -> u64 {
    1
}

fn ten_mbit() -> Bitrate {
    Bitrate::mbps(10)
}

fn frame() -> usize {
    1414
}
