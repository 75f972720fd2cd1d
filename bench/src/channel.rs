//! One direction of a path, as a pure model shared by the simulator and the link emulator.
//!
//! A datagram offered to a [`Channel`] meets, in this order: the largest size that passes, a cut or an outage, the
//! bottleneck and its queue, random loss, and then propagation with jitter, reordering and duplication. Each of these draws from a
//! generator of its own, so that turning one on does not change what another does.

mod config;
mod draws;
mod loss;
#[cfg(test)]
mod tests;

pub use config::{ChannelConfig, ChannelError, Jitter, Loss, Outage, Queue, Rate, Reordering};
pub use draws::{Draws, derive};
pub(crate) use loss::gilbert_entry;

use link::Instant;
use loss::LossState;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Which way along a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From the end named first.
    Forward,
    /// Towards the end named first.
    Backward,
}

impl Direction {
    /// Both, in order.
    pub const BOTH: [Direction; 2] = [Direction::Forward, Direction::Backward];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Direction::Forward => "forward",
            Direction::Backward => "backward",
        }
    }
}

/// The seed of one direction of one link under a master seed. It depends on nothing else, so that adding a link does
/// not move the draws of the others.
pub fn seed_for(master: u64, link: &str, direction: Direction) -> u64 {
    derive(master, &["channel", link, direction.as_str()])
}

/// What becomes of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It arrives.
    Delivered(Instant),
    /// It arrives twice.
    Duplicated(Instant, Instant),
    /// It does not.
    Dropped(DropReason),
}

impl Fate {
    /// When it arrives: not at all, once or twice.
    pub fn arrivals(self) -> impl Iterator<Item = Instant> {
        let (first, second) = match self {
            Fate::Delivered(at) => (Some(at), None),
            Fate::Duplicated(at, again) => (Some(at), Some(again)),
            Fate::Dropped(_) => (None, None),
        };
        first.into_iter().chain(second)
    }
}

/// Why a datagram does not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DropReason {
    /// Random loss.
    Loss,
    /// The path is cut or in an outage.
    Outage,
    /// The queue before the bottleneck is full.
    Queue,
    /// It is larger than the path carries.
    Mtu,
}

/// What a channel has done since it was made. Duplicates count once in `delivered` and once in `duplicated`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each name says what is counted")]
pub struct ChannelCounters {
    pub offered: u64,
    pub offered_bytes: u64,
    pub delivered: u64,
    pub delivered_bytes: u64,
    pub duplicated: u64,
    pub lost: u64,
    pub outage: u64,
    pub queue: u64,
    pub mtu: u64,
}

impl ChannelCounters {
    /// Datagrams that did not arrive, for whatever reason.
    pub fn dropped(&self) -> u64 {
        self.lost + self.outage + self.queue + self.mtu
    }

    /// Share of the datagrams offered that did not arrive.
    pub fn loss(&self) -> f64 {
        if self.offered == 0 { 0.0 } else { self.dropped() as f64 / self.offered as f64 }
    }

    /// What was counted since `earlier`, an older copy of the same counters.
    pub fn since(&self, earlier: &ChannelCounters) -> ChannelCounters {
        ChannelCounters {
            offered: self.offered - earlier.offered,
            offered_bytes: self.offered_bytes - earlier.offered_bytes,
            delivered: self.delivered - earlier.delivered,
            delivered_bytes: self.delivered_bytes - earlier.delivered_bytes,
            duplicated: self.duplicated - earlier.duplicated,
            lost: self.lost - earlier.lost,
            outage: self.outage - earlier.outage,
            queue: self.queue - earlier.queue,
            mtu: self.mtu - earlier.mtu,
        }
    }
}

/// One direction of a path.
///
/// ```
/// use anabranch_bench::channel::{Channel, ChannelConfig, Direction, Fate, Loss, seed_for};
/// use link::Instant;
/// use std::time::Duration;
///
/// let config = ChannelConfig {
///     delay: Duration::from_millis(15),
///     loss: Loss::Gilbert { mean: 0.05, burst: 0.66 },
///     ..ChannelConfig::default()
/// };
/// let mut channel = Channel::new(config, seed_for(1, "a-b", Direction::Forward));
/// let sent = Instant::from_micros(1_000);
/// match channel.offer(sent, 1350) {
///     Fate::Delivered(at) => assert_eq!(at, sent + Duration::from_millis(15)),
///     Fate::Duplicated(..) => unreachable!("none asked for"),
///     Fate::Dropped(why) => println!("{why:?}"),
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Channel {
    config: ChannelConfig,
    loss: LossState,
    jitter: Draws,
    reordering: Draws,
    duplication: Draws,
    /// When the bottleneck has sent what it took, in nanoseconds of the clock: a datagram at 10 Gbit/s takes about one microsecond.
    busy_until: u64,
    last_arrival: Instant,
    counters: ChannelCounters,
}

impl Channel {
    /// A channel at rest. Get the seed by [`seed_for`]. A configuration that fails [`ChannelConfig::validate`] is taken
    /// as it is: a share above one means always.
    pub fn new(config: ChannelConfig, seed: u64) -> Channel {
        let draws = |concern| Draws::new(derive(seed, &[concern]));
        Channel {
            loss: LossState::new(&config.loss, draws("loss")),
            jitter: draws("jitter"),
            reordering: draws("reordering"),
            duplication: draws("duplication"),
            busy_until: 0,
            last_arrival: Instant::ORIGIN,
            counters: ChannelCounters::default(),
            config,
        }
    }

    /// Offers a datagram of so many bytes at `now`, which must not go back from call to call.
    pub fn offer(&mut self, now: Instant, bytes: usize) -> Fate {
        self.counters.offered += 1;
        self.counters.offered_bytes += bytes as u64;
        let fate = self.decide(now, bytes);
        let counter = match fate {
            Fate::Delivered(_) => &mut self.counters.delivered,
            Fate::Duplicated(..) => {
                self.counters.duplicated += 1;
                &mut self.counters.delivered
            }
            Fate::Dropped(DropReason::Loss) => &mut self.counters.lost,
            Fate::Dropped(DropReason::Outage) => &mut self.counters.outage,
            Fate::Dropped(DropReason::Queue) => &mut self.counters.queue,
            Fate::Dropped(DropReason::Mtu) => &mut self.counters.mtu,
        };
        *counter += 1;
        if !matches!(fate, Fate::Dropped(_)) {
            self.counters.delivered_bytes += bytes as u64;
        }
        fate
    }

    /// What the path does, from the next datagram on. What is on its way arrives as decided; what waits at the
    /// bottleneck goes on at the new rate; a loss model that is the same as before keeps its state.
    pub fn set_config(&mut self, now: Instant, config: ChannelConfig) {
        if config.loss != self.config.loss {
            self.loss.replace(&config.loss);
        }
        if let (Some(before), Some(after)) = (&self.config.rate, &config.rate)
            && before.bitrate != after.bitrate
        {
            let waiting = self.backlog(now);
            self.busy_until = nanos(now) + service(waiting, after);
        }
        self.config = config;
    }

    /// What the path does.
    pub fn config(&self) -> &ChannelConfig {
        &self.config
    }

    /// What it has done.
    pub fn counters(&self) -> ChannelCounters {
        self.counters
    }

    /// Bytes that wait before the bottleneck, the one being sent included.
    pub fn backlog(&self, now: Instant) -> u64 {
        let Some(rate) = &self.config.rate else { return 0 };
        let waiting = Duration::from_nanos(self.busy_until.saturating_sub(nanos(now)));
        rate.bitrate.bytes_in(waiting)
    }

    fn decide(&mut self, now: Instant, bytes: usize) -> Fate {
        if self.config.mtu.is_some_and(|mtu| bytes > mtu) {
            return Fate::Dropped(DropReason::Mtu);
        }
        if self.config.cut || self.config.outages.iter().any(|outage| outage.covers(now)) {
            return Fate::Dropped(DropReason::Outage);
        }
        let Some(leaves) = self.pass_bottleneck(now, bytes as u64) else {
            return Fate::Dropped(DropReason::Queue);
        };
        if self.loss.lose(leaves) {
            return Fate::Dropped(DropReason::Loss);
        }
        let at = self.arrival(leaves);
        if self.config.duplicate > 0.0 && self.duplication.chance(self.config.duplicate) {
            return Fate::Duplicated(at, self.arrival(leaves));
        }
        Fate::Delivered(at)
    }

    /// When the datagram has left the bottleneck, or `None` where the queue has no room for it.
    fn pass_bottleneck(&mut self, now: Instant, bytes: u64) -> Option<Instant> {
        let Some(rate) = self.config.rate else { return Some(now) };
        let start = self.busy_until.max(nanos(now));
        let waiting = Duration::from_nanos(start - nanos(now));
        let full = match rate.queue {
            Queue::Bytes(most) => rate.bitrate.bytes_in(waiting) + bytes > most.max(bytes),
            Queue::Time(most) => waiting > most,
        };
        if full {
            return None;
        }
        self.busy_until = start.saturating_add(service(bytes, &rate));
        Some(Instant::from_micros(self.busy_until / 1000))
    }

    fn arrival(&mut self, leaves: Instant) -> Instant {
        let delay = self.config.delay.as_secs_f64();
        let seconds = match self.config.jitter {
            Jitter::None => delay,
            Jitter::Exponential { mean } => delay + self.jitter.exponential(mean.as_secs_f64()),
            Jitter::Uniform { most } => delay + most.as_secs_f64() * self.jitter.unit(),
            Jitter::Normal { sigma } => (delay + sigma.as_secs_f64() * self.jitter.normal()).max(0.0),
        };
        let mut at = leaves + Duration::from_micros((seconds * 1e6).round() as u64);
        if self.config.in_order {
            at = at.max(self.last_arrival);
            self.last_arrival = at;
        }
        match self.config.reordering {
            Some(Reordering { share, by }) if self.reordering.chance(share) => at + by,
            _ => at,
        }
    }
}

impl Outage {
    /// Whether it lasts at `now`.
    pub fn covers(&self, now: Instant) -> bool {
        let now = now - Instant::ORIGIN;
        let Some(into) = now.checked_sub(self.at) else { return false };
        match self.every {
            Some(every) if !every.is_zero() => into.as_micros() % every.as_micros().max(1) < self.lasts.as_micros(),
            _ => into < self.lasts,
        }
    }
}

fn nanos(at: Instant) -> u64 {
    at.as_micros().saturating_mul(1000)
}

fn service(bytes: u64, rate: &Rate) -> u64 {
    u64::try_from(rate.bitrate.time_for(bytes).as_nanos()).unwrap_or(u64::MAX)
}
