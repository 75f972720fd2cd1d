//! How a stream is at every relay of its graph: a question goes from its ingress, or from where it is asked, down the graph;
//! each relay answers for itself, and passes on what comes back. Who does not answer is told apart by the asker, which knows the graph.

use super::carried::StreamId;
use super::{Kind, RelaySystem};
use crate::view::{TraceHop, TraceRelay, TraceView};
use link::Instant;
use node::control::{Control, Edge, HopState, NAMED_LINKS, SURVEYS, Survey, Surveyed};
use node::trust::Role;
use node::{PortId, Ports};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use topology::{LinkEnd, NodeName, StreamName};

/// How long answers are waited for, and passed on.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// Most questions open at a relay.
const MOST_QUESTIONS: usize = 64;

/// Of these, most that one neighbour has asked or passed on.
const MOST_OF_ONE: usize = MOST_QUESTIONS / 4;

/// How far a question travels at most, in hops.
const MOST_HOPS: u8 = 12;

/// Most hops in one answer: a relay gets a stream over a few links.
const MOST_FROM_ONE: usize = 32;

/// A question that this relay asked, or passed on.
#[derive(Debug)]
pub(super) struct Inquiry {
    at: Instant,
    /// Where it came from; `None` where it began here.
    from: Option<PortId>,
    /// The relays on the graph when it came: no other's answer is taken, since a neighbour may answer in any name.
    on_graph: BTreeSet<NodeName>,
    answers: BTreeMap<NodeName, Vec<HopState>>,
}

/// A trace that was begun.
#[derive(Clone, Debug)]
pub struct Tracing {
    key: (NodeName, u32),
    stream: StreamId,
    /// The relays of its graph, when it was asked.
    on_graph: BTreeSet<NodeName>,
}

impl RelaySystem {
    /// Asks every relay on the graph of a stream how it is there; `None` where it does not pass here. Answers are read by
    /// [`RelaySystem::traced`], within a second.
    pub fn begin_trace(&mut self, now: Instant, stream: &StreamName, ports: &mut Ports) -> Option<Tracing> {
        let of_name = self.carried.iter().filter(|(id, _)| id.name == *stream);
        let newest = of_name.max_by_key(|(_, carried)| carried.newest().map(|install| (install.boot, install.epoch)));
        let id = newest?.0.clone();
        self.next_inquiry = self.next_inquiry.wrapping_add(1);
        let survey = Survey {
            id: self.next_inquiry,
            asker: self.name().clone(),
            name: id.name.clone(),
            incarnation: id.incarnation,
            hops: MOST_HOPS,
        };
        let key = (survey.asker.clone(), survey.id);
        let on_graph = self.on_graph(&id);
        self.survey(now, None, survey, ports);
        Some(Tracing { key, stream: id, on_graph })
    }

    /// The relays on the newest graph of a stream.
    fn on_graph(&self, id: &StreamId) -> BTreeSet<NodeName> {
        let install = self.carried.get(id).and_then(|carried| carried.newest());
        let edges = install.into_iter().flat_map(|install| &install.modules).flat_map(|module| &module.edges);
        let ends = edges.flat_map(|edge| [edge.from.clone(), edge.to.relay.clone()]);
        ends.chain([id.ingress.clone()]).collect()
    }

    /// Lets go of questions that nobody answers any more.
    pub(super) fn expire_inquiries(&mut self, now: Instant) {
        self.inquiries.retain(|_, inquiry| now.saturating_since(inquiry.at) < 2 * PATIENCE);
    }

    fn survey(&mut self, now: Instant, from: Option<PortId>, survey: Survey, ports: &mut Ports) {
        self.expire_inquiries(now);
        let key = (survey.asker.clone(), survey.id);
        if self.inquiries.contains_key(&key) || self.inquiries.len() >= MOST_QUESTIONS {
            return;
        }
        // All links of a neighbour are on one account.
        let relay = |port: Option<PortId>| Some(&self.ports.get(&port?)?.peer.name);
        let of_one =
            |asker: &NodeName| self.inquiries.values().filter(|inquiry| relay(inquiry.from) == Some(asker)).count();
        if relay(from).is_some_and(|asker| of_one(asker) >= MOST_OF_ONE) {
            return;
        }
        let is_it = |id: &&StreamId| id.name == survey.name && id.incarnation == survey.incarnation;
        let Some(id) = self.carried.keys().find(is_it).cloned() else { return };
        let hops = self.hop_states(now, &id, ports);
        let mut on_graph = self.on_graph(&id);
        // It carries the stream, though a newer graph may have left it out.
        on_graph.insert(self.name().clone());
        self.inquiries.insert(key, Inquiry { at: now, from, on_graph, answers: BTreeMap::new() });
        let answer = Surveyed { id: survey.id, asker: survey.asker.clone(), relay: self.name().clone(), hops };
        self.take_surveyed(answer, ports);
        let Some(hops) = survey.hops.checked_sub(1) else { return };
        let onward = Control::Survey(Survey { hops, ..survey });
        for port in self.beside_on(&id) {
            if Some(port) != from {
                ports.control(port, onward.clone());
            }
        }
    }

    /// The neighbours on the newest graph of a stream that understand the question. Against its direction, too: whoever asks need not
    /// be the ingress.
    fn beside_on(&self, id: &StreamId) -> BTreeSet<PortId> {
        let Some(install) = self.carried.get(id).and_then(|carried| carried.newest()) else { return BTreeSet::new() };
        let me = self.directory.me();
        let edges = install.modules.iter().flat_map(|module| &module.edges);
        let beside = edges.filter_map(|edge| match (edge.from == *me, edge.to.relay == *me) {
            (true, _) => Some(edge.to.clone()),
            (_, true) => Some(edge.at_receiver()),
            _ => None,
        });
        let port = |link: LinkEnd| {
            let port = *self.relays.get(&link)?;
            let peer = &self.ports.get(&port)?.peer;
            (peer.role == Role::Relay && peer.features & SURVEYS != 0).then_some(port)
        };
        beside.filter_map(port).collect()
    }

    /// An answer of another relay, or of this one.
    fn take_surveyed(&mut self, mut answer: Surveyed, ports: &mut Ports) {
        let Some(inquiry) = self.inquiries.get_mut(&(answer.asker.clone(), answer.id)) else { return };
        if inquiry.answers.contains_key(&answer.relay) || !inquiry.on_graph.contains(&answer.relay) {
            return;
        }
        answer.hops.truncate(MOST_FROM_ONE);
        match inquiry.from {
            Some(from) => {
                // What was passed on is remembered by name alone.
                inquiry.answers.insert(answer.relay.clone(), Vec::new());
                if ports.peer(from).is_none_or(|peer| peer.features & NAMED_LINKS == 0) {
                    answer.hops.iter_mut().for_each(|hop| hop.from.link = None);
                }
                ports.control(from, Control::Surveyed(answer));
            }
            None => {
                // The room that it came in may be larger.
                answer.hops.shrink_to_fit();
                inquiry.answers.insert(answer.relay, answer.hops);
            }
        }
    }

    /// How a stream comes here, hop by hop.
    fn hop_states(&self, now: Instant, id: &StreamId, ports: &Ports) -> Vec<HopState> {
        let Some(carried) = self.carried.get(id) else { return Vec::new() };
        let hop = |(port, counters): (PortId, crate::report::InputCounters)| {
            let quality = ports.link(port)?.quality(now);
            let micros = |time: Duration| u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
            let from = self.ports.get(&port)?;
            Some(HopState {
                from: from.peer.link_end(),
                // What the round trip leaves beside the way there.
                transit_us: micros(quality.rtt_min.saturating_sub(quality.transit)),
                bound_us: micros(quality.transit_bound),
                loss_ppm: (quality.loss_received * 1e6) as u32,
                received: counters.received,
                repaired: counters.recovered_by_arq + counters.recovered_by_fec,
                duplicates: counters.duplicates,
                late: counters.late,
                age_us: self.forward.ages(carried.key, port).map(|(median, most)| (micros(median), micros(most))),
            })
        };
        let mut hops: Vec<HopState> = self.forward.inputs(carried.key).filter_map(hop).collect();
        hops.truncate(MOST_FROM_ONE);
        hops
    }

    /// Whether every relay of the graph has answered.
    pub fn is_traced(&self, tracing: &Tracing) -> bool {
        self.traced(tracing).is_none_or(|view| view.silent.is_empty())
    }

    /// What relays have answered until now; `None` where the stream does not pass here any more.
    pub fn traced(&self, tracing: &Tracing) -> Option<TraceView> {
        let carried = self.carried.get(&tracing.stream)?;
        let inquiry = self.inquiries.get(&tracing.key)?;
        let install = carried.newest();
        let edges = install.into_iter().flat_map(|install| &install.modules).flat_map(|module| &module.edges);
        let rest = |from: &LinkEnd, to: &NodeName| {
            let is_it = |edge: &&Edge| edge.from == from.relay && edge.to.relay == *to && edge.to.link == from.link;
            let mut known = edges.clone().filter(is_it);
            known.next().map_or(0, |edge| edge.rest_max_us)
        };
        let deadline_us = carried.deadline_us();
        let hop = |to: &NodeName, hop: &HopState| TraceHop {
            from: hop.from.clone(),
            transit_ms: millis(hop.transit_us),
            bound_ms: millis(hop.bound_us),
            loss: f64::from(hop.loss_ppm) / 1e6,
            received: hop.received,
            repaired: hop.repaired,
            duplicates: hop.duplicates,
            late: hop.late,
            age_ms: hop.age_us.map(|(median, _)| millis(median)),
            most_age_ms: hop.age_us.map(|(_, most)| millis(most)),
            slack_ms: hop
                .age_us
                .map(|(_, most)| f64::from(deadline_us) / 1e3 - millis(most) - millis(rest(&hop.from, to))),
        };
        let relays = inquiry.answers.iter().map(|(relay, hops)| TraceRelay {
            relay: relay.clone(),
            hops: hops.iter().map(|known| hop(relay, known)).collect(),
        });
        let silent = tracing.on_graph.iter().filter(|relay| !inquiry.answers.contains_key(*relay)).cloned().collect();
        Some(TraceView {
            stream: tracing.stream.name.clone(),
            ingress: tracing.stream.ingress.clone(),
            deadline_ms: f64::from(deadline_us) / 1e3,
            relays: relays.collect(),
            silent,
        })
    }

    /// What only relays that understand it are asked.
    pub(super) fn take_survey(&mut self, now: Instant, port: PortId, message: Control, ports: &mut Ports) {
        let knows = self.ports.get(&port).is_some_and(|port| matches!(port.kind, Kind::Relay(_)));
        match message {
            Control::Survey(survey) if knows => self.survey(now, Some(port), survey, ports),
            Control::Surveyed(answer) if knows => self.take_surveyed(answer, ports),
            _ => self.refused.protocol += 1,
        }
    }
}

fn millis(micros: u32) -> f64 {
    f64::from(micros) / 1e3
}
