//! The overlay as people are shown it.

use super::Directory;
use crate::view::{LinkView, LocationView, RelayView, StreamView};
use link::Instant;
use std::collections::BTreeMap;
use topology::about::Flow;
use topology::lsdb::Advertisement;
use topology::{LinkEnd, NodeName};

/// Relays that are named of those at which a stream is watched.
const MOST_EGRESSES: usize = 64;

impl Directory {
    /// What a relay tells of its end of a link.
    pub fn flow(&self, teller: &NodeName, other: &LinkEnd) -> Option<Flow> {
        flows(self.database.get(teller)?).find(|(peer, _)| *peer == other).map(|(_, flow)| flow)
    }

    /// Every relay, by name.
    pub fn relay_views(&self) -> Vec<RelayView> {
        let view = |ad: &Advertisement| RelayView {
            name: ad.origin.clone(),
            location: ad
                .about
                .place
                .map(|place| LocationView { latitude: place.latitude(), longitude: place.longitude() }),
            draining: ad.draining,
            tags: ad.terms.tags.iter().map(ToString::to_string).collect(),
        };
        self.database.iter().map(|ad| view(ad)).collect()
    }

    /// Every direction of every link, then those that went away lately.
    pub fn link_views(&self, now: Instant) -> Vec<LinkView> {
        let told: BTreeMap<(&NodeName, &LinkEnd), Flow> =
            self.database.iter().flat_map(|ad| flows(ad).map(|(peer, flow)| ((&ad.origin, peer), flow))).collect();
        let up = self.graph.edges().map(|edge| {
            let link = self.link_state(edge);
            let sender = told.get(&(&link.from, &link.to));
            let way_back = link.to.from_other_end(&link.from);
            let receiver = told.get(&(&link.to.relay, &way_back));
            LinkView {
                gone_s: None,
                delay_ms: link.delay_ms,
                loss: link.loss,
                late: link.late,
                saved: receiver.map(|flow| f64::from(flow.saved_ppm) / 1e6),
                residual: receiver.map(|flow| f64::from(flow.left_ppm) / 1e6),
                rate: sender.map(|flow| u64::from(flow.rate_kbps) * 1000),
                overhead: sender.map(|flow| f64::from(flow.overhead_permille) / 1e3),
                from: link.from,
                to: link.to,
            }
        });
        let gone = self.gone.iter(now).map(|(from, to, ago, delay_us)| LinkView {
            from: from.clone(),
            to: to.clone(),
            gone_s: Some(ago.as_secs_f64()),
            delay_ms: f64::from(delay_us) / 1e3,
            loss: 1.0,
            late: false,
            saved: None,
            residual: None,
            rate: None,
            overhead: None,
        });
        up.chain(gone).collect()
    }

    /// Every stream, by name; `carried` is left to the caller.
    pub fn stream_views(&self) -> Vec<StreamView> {
        let view = |name| {
            let ingress = self.database.ingress(name)?;
            Some(StreamView {
                name: name.clone(),
                ingress: ingress.node.clone(),
                deadline_ms: f64::from(ingress.state.deadline_us) / 1e3,
                egresses: self.database.egresses(name).take(MOST_EGRESSES).map(|(relay, _)| relay.clone()).collect(),
                carried: false,
                ts: None,
            })
        };
        self.database.streams().filter_map(view).collect()
    }
}

fn flows(ad: &Advertisement) -> impl Iterator<Item = (&LinkEnd, Flow)> {
    ad.links.iter().map(|link| &link.peer).zip(ad.about.flows.iter().copied())
}
