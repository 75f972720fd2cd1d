//! What the relay says of itself to its operator.

use super::carried::{Carried, StreamId};
use super::{Kind, Port, RelaySystem};
use crate::report::{InputReport, LinkReport, OutputReport, Report, StreamReport};
use link::stats::LinkStats;
use link::{Instant, Link};
use node::{PortId, Ports};
use topology::NodeName;

impl RelaySystem {
    /// Fills in what the end system knows; the shell adds addresses and neighbours.
    pub fn report(&self, now: Instant, ports: &Ports) -> Report {
        let link = |(id, port): (&PortId, &Port)| Some(link_report(now, *id, port, ports.link(*id)?));
        Report {
            name: self.name().to_string(),
            draining: self.draining,
            links: self.ports.iter().filter_map(link).collect(),
            streams: self.carried.iter().map(|(id, carried)| self.stream_report(id, carried)).collect(),
            overlay: self.directory.report(),
            refused: self.refused,
            ..Report::default()
        }
    }

    fn stream_report(&self, id: &StreamId, carried: &Carried) -> StreamReport {
        let published = self.published.get(&id.name).filter(|published| published.id == *id);
        let key = carried.key;
        StreamReport {
            name: id.name.clone(),
            incarnation: id.incarnation.0,
            ingress: id.ingress.clone(),
            publisher: published.map(|published| published.publisher.clone()),
            content: carried.content,
            deadline_ms: f64::from(carried.deadline_us) / 1000.0,
            mode: published.map(|published| published.mode),
            epoch: carried.newest().map(|install| install.epoch),
            label: self.forward.stamp(key).map(|label| label.0),
            subscribers: self.forward.locals(key),
            counters: self.forward.counters(key),
            inputs: self
                .forward
                .inputs(key)
                .filter_map(|(port, counters)| {
                    Some(InputReport { port: port.0, peer: self.peer_name(port)?, counters })
                })
                .collect(),
            outputs: self
                .forward
                .outputs(key)
                .filter_map(|(port, local, counters)| {
                    Some(OutputReport { port: port.0, peer: self.peer_name(port)?, local, counters })
                })
                .collect(),
        }
    }

    fn peer_name(&self, port: PortId) -> Option<NodeName> {
        Some(self.ports.get(&port)?.peer.name.clone())
    }

    /// Sources and sinks connected.
    pub fn clients(&self) -> usize {
        self.ports.values().filter(|port| matches!(port.kind, Kind::Client(_))).count()
    }
}

fn link_report(now: Instant, id: PortId, port: &Port, link: &Link) -> LinkReport {
    let (stats, quality) = (link.stats(), link.quality(now));
    LinkReport {
        port: id.0,
        peer: port.peer.name.clone(),
        role: port.peer.role,
        address: port.peer.address,
        dialled: port.peer.dialled,
        up_s: now.saturating_since(port.opened).as_secs_f64(),
        wire_loss_sent: quality.loss_sent,
        wire_loss_received: share(stats.wire_lost, stats.wire_lost + stats.wire_received),
        residual_received: share(stats.unrecovered, media_due(&stats)),
        overhead_sent: share(stats.arq_bytes_sent + stats.fec_bytes_sent, stats.media_bytes_sent),
        policy: link.policy(),
        quality,
        stats,
    }
}

/// Media packets that the peer sent us, as far as is known here.
fn media_due(stats: &LinkStats) -> u64 {
    stats.media_packets_received + stats.recovered_by_arq + stats.recovered_by_fec + stats.unrecovered
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
