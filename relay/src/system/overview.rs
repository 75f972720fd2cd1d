//! What an operator is shown of the overlay, and of the past of a link.

use super::carried::Carried;
use super::{Kind, RelaySystem, past};
use crate::view::{LinkPast, Overview};
use link::Instant;
use node::Ports;
use std::collections::BTreeMap;
use topology::{LinkEnd, StreamName};

impl RelaySystem {
    /// The overlay at this moment; the shell adds what it alone knows. Computed when somebody looks, never before.
    pub fn overview(&self, now: Instant, ports: &Ports) -> Overview {
        // Of several lives of a stream the one that began last is told of.
        let mut carried: BTreeMap<&StreamName, &Carried> = BTreeMap::new();
        for (id, life) in &self.carried {
            let shown = carried.entry(&id.name).or_insert(life);
            if life.since > shown.since {
                *shown = life;
            }
        }
        let mut streams = self.directory.stream_views();
        for stream in &mut streams {
            let found = carried.get(&stream.name);
            (stream.carried, stream.ts) = (found.is_some(), found.map(|carried| self.ts_report(carried)));
        }
        let mut overview = Overview {
            name: self.name().clone(),
            uptime_s: 0.0,
            draining: self.draining,
            clients: self.clients(),
            relays: self.directory.relay_views(),
            links: self.directory.link_views(now),
            streams,
            neighbours: Vec::new(),
        };
        self.freshen(now, ports, &mut overview);
        overview
    }

    /// Of its own links this relay knows more than it last told.
    fn freshen(&self, now: Instant, ports: &Ports, overview: &mut Overview) {
        for link in overview.links.iter_mut().filter(|link| link.gone_s.is_none()) {
            let sends = link.from == *self.name();
            if !sends && link.to.relay != *self.name() {
                continue;
            }
            let end = if sends { link.to.clone() } else { link.to.from_other_end(&link.from) };
            let Some(port) = self.link(&end) else { continue };
            let (Some(Kind::Relay(relay)), Some(state)) =
                (self.ports.get(&port).map(|port| &port.kind), ports.link(port))
            else {
                continue;
            };
            let effect = relay.trail.effect(now, &state.stats());
            if sends {
                link.rate = Some(state.quality(now).media_rate.as_bps());
                link.overhead = Some(effect.cost_arq + effect.cost_fec);
            } else {
                (link.saved, link.residual) = (Some(effect.saved), Some(effect.left));
            }
        }
    }

    /// What the link to a neighbour was like.
    pub fn link_past(&self, now: Instant, peer: &LinkEnd) -> LinkPast {
        let points = self.pasts.get(peer).map(|past| past.points(now)).unwrap_or_default();
        LinkPast { from: self.name().clone(), to: peer.clone(), step_s: past::STEP.as_secs_f64(), points }
    }
}
