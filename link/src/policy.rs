//! What an operator may ask of one link, live.

use crate::units::Bitrate;
use serde::{Deserialize, Serialize};

/// How a link repairs losses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RepairMode {
    /// Chosen from the slack of each packet and the state of the link, by the rule of LINK.md.
    #[default]
    Auto,
    /// No repair at all.
    Off,
    /// Retransmission on request only: one plain copy per loss reported.
    Arq,
    /// Sliding-window code only, sent ahead of the loss.
    Fec,
    /// Coded repair on request and code ahead of the loss together.
    Hybrid,
    /// Every packet twice, the second spaced beyond a burst.
    Duplicate,
}

/// The repair policy of one link and direction. Changing it loses no packet.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// How losses are repaired.
    pub mode: RepairMode,
    /// Share of packets that may remain lost or late after repair; 1e-7 is one in ten million.
    pub target_residual: f64,
    /// Ceiling on repair bytes sent, as a share of media bytes sent; 0.5 is 50 %.
    pub max_overhead: f64,
    /// What the link may carry, all frames together; `None`: estimated from delay and loss.
    pub capacity: Option<Bitrate>,
}

impl Default for Policy {
    fn default() -> Self {
        Policy { mode: RepairMode::Auto, target_residual: 1e-7, max_overhead: 1.5, capacity: None }
    }
}
