//! The link-state database: what every relay says of itself, flooded, sequence-numbered and expiring.

use crate::names::{NodeName, StreamName};
use serde::{Deserialize, Serialize};

/// A life of a stream: chosen at random each time a source publishes it, so that a restarted source is a new life
/// with its own sequence numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Incarnation(pub u64);

/// All that one relay says of itself. A newer one replaces an older one of the same origin whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Advertisement {
    /// Who says it.
    pub origin: NodeName,
    /// A restart of the origin counts as newer than all before: microseconds of its wall clock at start.
    pub boot: u64,
    /// Counts up within a boot.
    pub seq: u64,
    /// Its links towards neighbours, as it sends on them.
    pub links: Vec<LinkState>,
    /// Streams whose sources publish here.
    pub streams: Vec<StreamState>,
    /// Streams that someone here watches.
    pub subscriptions: Vec<Subscription>,
    /// No stream shall pass through it, though those that begin or end here may: it is about to stop.
    pub draining: bool,
}

/// One direction of a link, as its sending end knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinkState {
    /// The other end.
    pub peer: NodeName,
    /// One-way delay in microseconds.
    pub delay_us: u32,
    /// Share of transmissions lost, in parts per million.
    pub loss_ppm: u32,
    /// What the operator says it costs, relative to others.
    pub cost: u32,
}

/// A stream at its ingress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamState {
    /// Its name.
    pub name: StreamName,
    /// Its life.
    pub incarnation: Incarnation,
    /// One-way deadline in microseconds.
    pub deadline_us: u32,
}

/// A stream wanted at an egress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscription {
    /// Its name.
    pub name: StreamName,
    /// The longest one-way delay from the egress to one of its sinks, in microseconds.
    pub last_mile_us: u32,
}
