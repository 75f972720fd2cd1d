//! What the relay says of itself to its operator.

use super::carried::{Carried, StreamId};
use super::{Kind, Port, RelaySystem, effect};
use crate::overrides::SetBy;
use crate::report::{GraphEdge, InputReport, LinkReport, OutputReport, RefusalCounters, Report, StreamReport};
use link::stats::LinkStats;
use link::{Instant, Link};
use node::control::Install;
use node::{PortId, Ports};
use std::collections::BTreeMap;
use topology::select::Modules;
use topology::terms::Full;
use topology::{LinkEnd, NodeName};

impl RelaySystem {
    /// Fills in what the end system knows; the shell adds addresses, neighbours, and who set which policy.
    pub fn report(&self, now: Instant, ports: &Ports) -> Report {
        let link = |(id, port): (&PortId, &Port)| Some(link_report(now, *id, port, ports.link(*id)?));
        Report {
            name: self.name().to_string(),
            draining: self.draining,
            links: self.ports.iter().filter_map(link).collect(),
            streams: self.carried.iter().map(|(id, carried)| self.stream_report(id, carried)).collect(),
            overlay: self.directory.report(),
            capacity: self.directory.capacities(),
            usage: self.usage(),
            admission: self.asked.clone(),
            refused: RefusalCounters {
                excess: self.directory.excess(),
                receipts: self.accounts.refused(),
                ..self.refused
            },
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
            sealed: carried.sealed,
            ts: self.ts_report(carried),
            deadline_ms: f64::from(carried.deadline_us()) / 1000.0,
            mode: published.map(|published| published.mode),
            token: published.map(|published| published.token.clone()).filter(|token| !token.is_empty()),
            admitted_rate: carried
                .newest()
                .map(|install| install.reserve.need.rate_kbps)
                .filter(|kbps| *kbps > 0)
                .map(bits),
            high_priority: carried.newest().is_some_and(|install| install.reserve.need.high_priority),
            why: published.map(|published| published.why.clone()).unwrap_or_default(),
            unserved: published.map(|published| unserved(&published.unserved)).unwrap_or_default(),
            epoch: carried.newest().map(|install| install.epoch),
            label: self.forward.stamp(key).map(|label| label.0),
            spread: published.map(|published| spread(published.plan.selected())).unwrap_or_default(),
            graph: carried.newest().map(|install| graph(install)).unwrap_or_default(),
            subscribers: self.forward.locals(key),
            counters: self.forward.counters(key),
            inputs: self
                .forward
                .inputs(key)
                .filter_map(|(port, counters)| Some(InputReport { port: port.0, peer: self.peer_of(port)?, counters }))
                .collect(),
            outputs: self
                .forward
                .outputs(key)
                .filter_map(|(port, local, counters)| {
                    Some(OutputReport { port: port.0, peer: self.peer_of(port)?, local, counters })
                })
                .collect(),
        }
    }

    fn peer_of(&self, port: PortId) -> Option<LinkEnd> {
        Some(self.ports.get(&port)?.peer.link_end())
    }

    /// Sources and sinks connected.
    pub fn clients(&self) -> usize {
        self.ports.values().filter(|port| matches!(port.kind, Kind::Client(_))).count()
    }
}

fn bits(kbps: u32) -> u64 {
    u64::from(kbps) * 1000
}

fn unserved(links: &[(NodeName, Full)]) -> Vec<String> {
    links.iter().map(|(egress, full)| format!("{egress}: {full}")).collect()
}

/// The names of modules.
fn spread(modules: Modules) -> Vec<String> {
    let name = |slot: usize| match slot {
        0 => "base".to_owned(),
        1 => "two disjoint ways".to_owned(),
        2 => "source graph".to_owned(),
        3 => "robust graph".to_owned(),
        _ => format!("destination graph {}", slot - Modules::FIRST_DESTINATION),
    };
    modules.slots().map(name).collect()
}

/// The edges of all modules of a graph, each once.
fn graph(install: &Install) -> Vec<GraphEdge> {
    let mut edges: BTreeMap<(&NodeName, &LinkEnd), (u16, u32)> = BTreeMap::new();
    for (slot, module) in install.modules.iter().enumerate() {
        for edge in &module.edges {
            let (modules, rest) = edges.entry((&edge.from, &edge.to)).or_default();
            *modules |= 1 << slot;
            *rest = edge.rest_max_us.max(*rest);
        }
    }
    let edge = |((from, to), (modules, rest)): ((&NodeName, &LinkEnd), (u16, u32))| {
        let rest_ms = f64::from(rest) / 1000.0;
        GraphEdge { from: from.clone(), to: to.clone(), modules, rest_ms }
    };
    edges.into_iter().map(edge).collect()
}

fn link_report(now: Instant, id: PortId, port: &Port, link: &Link) -> LinkReport {
    let (stats, quality) = (link.stats(), link.quality(now));
    let repair = match &port.kind {
        Kind::Relay(relay) => relay.trail.effect(now, &stats),
        Kind::Client(_) => effect::effect(now.saturating_since(port.opened), &stats),
    };
    LinkReport {
        port: id.0,
        peer: port.peer.link_end(),
        role: port.peer.role,
        address: port.peer.address,
        dialled: port.peer.dialled,
        up_s: now.saturating_since(port.opened).as_secs_f64(),
        wire_loss_sent: quality.loss_sent,
        wire_loss_received: share(stats.wire_lost, stats.wire_lost + stats.wire_received),
        residual_received: share(stats.unrecovered, media_due(&stats)),
        overhead_sent: share(stats.arq_bytes_sent + stats.fec_bytes_sent, stats.media_bytes_sent),
        policy: link.policy(),
        set_by: SetBy::default(),
        repair,
        quality,
        stats,
    }
}

/// Media packets that the peer sent us, as far as is known here.
fn media_due(stats: &LinkStats) -> u64 {
    stats.media_packets_received + stats.recovered_by_arq + stats.recovered_by_fec + stats.unrecovered
}

pub(super) fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
