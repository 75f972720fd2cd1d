//! Paths and rates that change on the way.

use super::plan::{Case, Change};
use crate::channel::{ChannelConfig, Loss};
use link::Bitrate;
use std::time::Duration;

/// How often a ramp moves on.
const GRAIN: Duration = Duration::from_millis(100);
/// Losses after a loss, of the models that changes set.
const BURST: f64 = 0.66;

/// What holds at a time of a case.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Now {
    pub(super) delay: Option<Duration>,
    pub(super) loss: Option<f64>,
    pub(super) rate: Bitrate,
}

impl Now {
    /// `since` the first packet.
    pub(super) fn of(case: &Case, since: Duration) -> Now {
        let first = case.channels().next().map(|[forward, _]| forward);
        let mut now = Now {
            delay: first.map(|channel| channel.delay),
            loss: first.map(|channel| channel.loss.mean()),
            rate: case.rate,
        };
        for change in case.changes.iter().filter(|change| change.at <= since) {
            let share = change.share(since);
            let between = |from: f64, to: f64| from + (to - from) * share;
            if let (Some(from), Some(to)) = (now.delay, change.delay) {
                now.delay = Some(Duration::from_secs_f64(between(from.as_secs_f64(), to.as_secs_f64())));
            }
            if let (Some(from), Some(to)) = (now.loss, change.loss) {
                now.loss = Some(between(from, to));
            }
            if let Some(to) = change.rate {
                now.rate = Bitrate::bps(between(now.rate.as_bps() as f64, to.as_bps() as f64) as u64);
            }
        }
        now
    }

    /// What a channel of the case is at this time.
    pub(super) fn applied(&self, channel: &ChannelConfig) -> ChannelConfig {
        let mut channel = channel.clone();
        channel.delay = self.delay.unwrap_or(channel.delay);
        if let Some(mean) = self.loss {
            channel.loss = if mean > 0.0 { Loss::Gilbert { mean, burst: BURST } } else { Loss::None };
        }
        channel
    }
}

impl Change {
    /// How much of it has happened.
    fn share(&self, since: Duration) -> f64 {
        let into = (since - self.at).as_secs_f64();
        if self.over.is_zero() { 1.0 } else { (into / self.over.as_secs_f64()).min(1.0) }
    }
}

/// Grains since the first packet, as a count.
pub(super) fn grain(since: Duration) -> u64 {
    (since.as_micros() / GRAIN.as_micros()) as u64
}
