//! What the operations port refused, counted by reason.

use crate::metrics::{Of, counter};
use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering};
use utoipa::ToSchema;

/// Counts up while the relay runs. Shared by the tasks of connections and the report.
#[derive(Debug, Default)]
pub struct Tally {
    pub(crate) connections: AtomicU64,
    pub(crate) slow: AtomicU64,
    pub(crate) token: AtomicU64,
    pub(crate) host: AtomicU64,
    pub(crate) foreign: AtomicU64,
    pub(crate) tls: AtomicU64,
}

/// What the operations port refused since the start, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct OpsRefusals {
    /// Connections beyond those that may be open at once.
    pub connections: u64,
    /// Connections closed because their request did not come, or their answer was not read.
    pub slow: u64,
    /// Requests without the token, or with another.
    pub token: u64,
    /// Requests for a host that this port is not.
    pub host: u64,
    /// Orders that a page of another site had a browser give.
    pub foreign: u64,
    /// Connections that spoke no TLS where the port does, or did not come to terms.
    pub tls: u64,
}

/// What the port of a source or a sink refused; a relay's port tells its own among the relay's metrics.
pub(super) const METRICS: &[Of<OpsRefusals>] = &[
    (counter("anabranch_metrics_port_token_refused_total", "Requests to this port without its token"), |r| {
        r.token as f64
    }),
    (counter("anabranch_metrics_port_host_refused_total", "Requests to this port for a host that it is not"), |r| {
        r.host as f64
    }),
    (counter("anabranch_metrics_port_tls_refused_total", "Connections to this port that did not come to TLS"), |r| {
        r.tls as f64
    }),
    (counter("anabranch_metrics_port_connections_refused_total", "Connections to this port beyond its bounds"), |r| {
        r.connections as f64
    }),
    (counter("anabranch_metrics_port_slow_closed_total", "Connections to this port closed: slow, or idle"), |r| {
        r.slow as f64
    }),
];

impl Tally {
    pub(crate) fn add(count: &AtomicU64) {
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// What was counted so far.
    pub fn refusals(&self) -> OpsRefusals {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        OpsRefusals {
            connections: read(&self.connections),
            slow: read(&self.slow),
            token: read(&self.token),
            host: read(&self.host),
            foreign: read(&self.foreign),
            tls: read(&self.tls),
        }
    }
}
