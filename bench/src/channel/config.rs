//! What a path does to what is sent on it, as data.

use link::Bitrate;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// One direction of a path. The default is a perfect one: no delay, no loss, no bound.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChannelConfig {
    /// Propagation: what every datagram takes, jitter aside.
    #[serde(with = "humantime_serde")]
    pub delay: Duration,
    /// Delay that differs from datagram to datagram.
    pub jitter: Jitter,
    /// Datagrams arrive in the order of sending whatever the jitter, as through one queue. Where false, jitter reorders.
    pub in_order: bool,
    /// Datagrams taken out of line.
    pub reordering: Option<Reordering>,
    /// Random loss.
    pub loss: Loss,
    /// Times when nothing passes.
    pub outages: Vec<Outage>,
    /// Nothing passes at all, until the configuration changes.
    pub cut: bool,
    /// A bottleneck with its queue.
    pub rate: Option<Rate>,
    /// Share of delivered datagrams that arrive twice.
    pub duplicate: f64,
    /// Largest datagram that passes, in bytes as offered; larger ones vanish, as on a path without ICMP.
    pub mtu: Option<usize>,
}

/// Delay that is drawn anew for each datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "distribution", rename_all = "lowercase", deny_unknown_fields)]
pub enum Jitter {
    /// None.
    #[default]
    None,
    /// Exponential, on top of the delay.
    Exponential {
        /// Its mean.
        #[serde(with = "humantime_serde")]
        mean: Duration,
    },
    /// Uniform from nothing to `most`, on top of the delay.
    Uniform {
        /// The largest addition.
        #[serde(with = "humantime_serde")]
        most: Duration,
    },
    /// Normal about the delay; cut off where the whole would be negative.
    Normal {
        /// Standard deviation.
        #[serde(with = "humantime_serde")]
        sigma: Duration,
    },
}

/// Datagrams that are overtaken.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reordering {
    /// Share of datagrams held back.
    pub share: f64,
    /// For how long.
    #[serde(with = "humantime_serde")]
    pub by: Duration,
}

/// How losses fall.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "model", rename_all = "lowercase", deny_unknown_fields)]
pub enum Loss {
    /// No loss.
    #[default]
    None,
    /// Each datagram by itself.
    Bernoulli {
        /// Share lost.
        mean: f64,
    },
    /// Two states advanced by each datagram (Gilbert, 1960): runs of losses whose length does not depend on the rate.
    Gilbert {
        /// Share lost in the long run.
        mean: f64,
        /// P(lost | the one before was lost); the mean run is 1 / (1 − burst).
        burst: f64,
    },
    /// Two states advanced by time (Gilbert–Elliott, continuous): a fade takes the longer run of datagrams the higher the rate.
    Bursts {
        /// Mean length of a good time; exponential.
        #[serde(with = "humantime_serde")]
        good: Duration,
        /// Mean length of a bad time; exponential.
        #[serde(with = "humantime_serde")]
        bad: Duration,
        /// Share lost in bad times.
        #[serde(default = "all")]
        inside: f64,
        /// Share lost in good times.
        #[serde(default)]
        outside: f64,
    },
    /// As recorded: numbers of datagrams delivered and lost by turns, beginning with delivered, over and over.
    Trace {
        /// The run lengths.
        runs: Vec<u32>,
    },
}

const fn all() -> f64 {
    1.0
}

/// A time when nothing passes, on the clock given to the channel.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outage {
    /// When it begins, after the origin of the clock.
    #[serde(with = "humantime_serde")]
    pub at: Duration,
    /// How long it lasts.
    #[serde(with = "humantime_serde")]
    pub lasts: Duration,
    /// Whether and when it comes again.
    #[serde(with = "humantime_serde", default, skip_serializing_if = "Option::is_none")]
    pub every: Option<Duration>,
}

/// A bottleneck.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// What it carries, counting bytes as they are offered.
    pub bitrate: Bitrate,
    /// What may wait before it; what finds no room is dropped (tail drop).
    pub queue: Queue,
}

/// Bound of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Queue {
    /// So many bytes.
    Bytes(u64),
    /// So long at the bottleneck's rate.
    Time(#[serde(with = "humantime_serde")] Duration),
}

/// Why a configuration makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value}: expected {expected}")]
pub struct ChannelError {
    field: &'static str,
    value: String,
    expected: &'static str,
}

impl ChannelConfig {
    /// Checks that shares are shares and that models can reach the mean they state.
    pub fn validate(&self) -> Result<(), ChannelError> {
        share("duplicate", self.duplicate)?;
        if let Some(reordering) = &self.reordering {
            share("reordering.share", reordering.share)?;
        }
        if let Some(rate) = &self.rate
            && rate.bitrate == Bitrate::ZERO
        {
            return Err(error("rate.bitrate", 0, "more than 0; for no service at all set cut"));
        }
        for outage in &self.outages {
            if outage.every.is_some_and(|every| every <= outage.lasts) {
                return Err(error("outages.every", humantime::format_duration(outage.lasts), "longer than lasts"));
            }
        }
        self.loss.validate()
    }
}

impl Loss {
    /// Share lost in the long run, where it does not depend on when datagrams are sent.
    pub fn mean(&self) -> f64 {
        match *self {
            Loss::None => 0.0,
            Loss::Bernoulli { mean } | Loss::Gilbert { mean, .. } => mean,
            Loss::Bursts { good, bad, inside, outside } => {
                let (good, bad) = (good.as_secs_f64(), bad.as_secs_f64());
                if good + bad == 0.0 { outside } else { (bad * inside + good * outside) / (good + bad) }
            }
            Loss::Trace { ref runs } => {
                let all: u64 = runs.iter().map(|&n| u64::from(n)).sum();
                let lost: u64 = runs.iter().skip(1).step_by(2).map(|&n| u64::from(n)).sum();
                if all == 0 { 0.0 } else { lost as f64 / all as f64 }
            }
        }
    }

    fn validate(&self) -> Result<(), ChannelError> {
        match *self {
            Loss::None => Ok(()),
            Loss::Bernoulli { mean } => share("loss.mean", mean),
            Loss::Gilbert { mean, burst } => {
                share("loss.mean", mean)?;
                share("loss.burst", burst)?;
                if super::loss::gilbert_entry(mean, burst) > 1.0 {
                    return Err(error(
                        "loss.burst",
                        burst,
                        "large enough that loss.mean can be reached: at least 2 - 1/mean",
                    ));
                }
                Ok(())
            }
            Loss::Bursts { inside, outside, good, bad } => {
                share("loss.inside", inside)?;
                share("loss.outside", outside)?;
                if good.is_zero() || bad.is_zero() {
                    return Err(error("loss.good or loss.bad", "0s", "a duration above zero"));
                }
                Ok(())
            }
            Loss::Trace { ref runs } => {
                if runs.iter().all(|&n| n == 0) {
                    return Err(error("loss.runs", "empty", "at least one run above zero"));
                }
                Ok(())
            }
        }
    }
}

fn share(field: &'static str, value: f64) -> Result<(), ChannelError> {
    if (0.0..=1.0).contains(&value) { Ok(()) } else { Err(error(field, value, "a share from 0 to 1")) }
}

fn error(field: &'static str, value: impl ToString, expected: &'static str) -> ChannelError {
    ChannelError { field, value: value.to_string(), expected }
}
