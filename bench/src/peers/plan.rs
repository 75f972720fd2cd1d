//! What is compared, as data.

use super::program::Tool;
use crate::channel::ChannelConfig;
use link::Bitrate;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Carriers, and the cells that each of them is run in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeersPlan {
    /// What the plan shows.
    pub title: String,
    /// Decides every fate on every emulated link.
    #[serde(default = "one")]
    pub seed: u64,
    /// Datagrams that count, per cell.
    pub packets: u64,
    /// Bytes of a datagram.
    #[serde(default = "ts_payload")]
    pub size: usize,
    /// Rate of their bytes, in bits per second.
    pub rate: Bitrate,
    /// Time at the beginning that does not count.
    #[serde(with = "humantime_serde")]
    pub warmup: Duration,
    /// From sending to coming out. A peer adds the hop's delay to the latency it is told, so it is told the deadline less that delay.
    #[serde(with = "humantime_serde")]
    pub deadline: Duration,
    /// Beyond the deadline before a datagram is late: all release *at* the deadline, and some wake only every few milliseconds.
    #[serde(with = "humantime_serde")]
    pub tolerance: Duration,
    /// What carries.
    #[serde(rename = "carrier")]
    pub carriers: Vec<CarrierPlan>,
    /// What it is carried over.
    #[serde(rename = "cell")]
    pub cells: Vec<CellPlan>,
}

/// One carrier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CarrierPlan {
    /// What it is called in the report.
    pub name: String,
    /// What it is.
    pub kind: CarrierKind,
    /// Added to the SRT or RIST URLs of both its ends, such as `packetfilter=fec,cols:10,rows:5`.
    #[serde(default)]
    pub options: String,
}

/// What carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CarrierKind {
    /// A plain forwarder: each datagram once, as it comes.
    Udp,
    /// srt-live-transmit at both ends.
    Srt,
    /// ristsender and ristreceiver, main profile.
    Rist,
    /// Our source, and our relay with a sink beside it.
    Anabranch,
}

/// One emulated link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CellPlan {
    /// What tells it from the others.
    pub name: String,
    /// Towards the receiver.
    pub forward: ChannelConfig,
    /// Towards the sender; as forward unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backward: Option<ChannelConfig>,
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

impl CarrierKind {
    /// The programs it needs.
    pub(super) fn tools(self) -> &'static [Tool] {
        match self {
            CarrierKind::Udp | CarrierKind::Anabranch => &[],
            CarrierKind::Srt => &[Tool::SrtLiveTransmit],
            CarrierKind::Rist => &[Tool::RistSender, Tool::RistReceiver],
        }
    }
}

impl PeersPlan {
    /// Reads and checks a plan file.
    pub fn load(path: &Path) -> Result<PeersPlan, PlanError> {
        let text = std::fs::read_to_string(path).map_err(|error| PlanError::Read { path: path.to_owned(), error })?;
        let plan: PeersPlan =
            toml::from_str(&text).map_err(|error| PlanError::Syntax { path: path.to_owned(), error })?;
        plan.check().map_err(|reason| PlanError::Nonsense { path: path.to_owned(), reason })?;
        Ok(plan)
    }

    /// Time between datagrams.
    pub fn interval(&self) -> Duration {
        self.rate.time_for(self.size as u64)
    }

    /// Datagrams of the warm-up.
    pub fn warmup_packets(&self) -> u64 {
        (self.warmup.as_nanos() / self.interval().as_nanos().max(1)) as u64
    }

    fn check(&self) -> Result<(), String> {
        if self.rate == Bitrate::ZERO {
            return Err("rate: expected more than 0 bits per second".into());
        }
        if !(16..=1316).contains(&self.size) {
            return Err(format!("size is {}: expected 16 to 1316 bytes, which every carrier takes whole", self.size));
        }
        if self.carriers.is_empty() || self.cells.is_empty() {
            return Err("expected at least one [[carrier]] and one [[cell]]".into());
        }
        let mut names: Vec<&str> = self.carriers.iter().map(|carrier| carrier.name.as_str()).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("carrier: there are two named {:?}", twice[0]));
        }
        self.cells.iter().try_for_each(|cell| {
            if cell.forward.delay >= self.deadline {
                return Err(format!("cell {:?}: forward.delay: expected less than the deadline", cell.name));
            }
            let mut channels = std::iter::once(&cell.forward).chain(&cell.backward);
            channels.try_for_each(|c| c.validate().map_err(|error| format!("cell {:?}: {error}", cell.name)))
        })
    }
}

impl CellPlan {
    /// The latency that a peer is told so that all of it together is `deadline`.
    pub(super) fn peer_latency(&self, deadline: Duration) -> Duration {
        deadline.saturating_sub(self.forward.delay)
    }
}

fn one() -> u64 {
    1
}

fn ts_payload() -> usize {
    1316
}
