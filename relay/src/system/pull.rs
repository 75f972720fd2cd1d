//! What is missing of a stream is asked for along its two disjoint ways, against their direction: the first relay that
//! holds it answers, else the ingress. So a stream on one way survives its failure where the deadline leaves time. Where
//! the two have not brought it, or several links into the egress are in trouble, it is asked for along the targeted graphs as well.

use super::RelaySystem;
use super::carried::{Carried, StreamId};
use crate::forward::StreamKey;
use crate::forward::lack::{Along, Ask};
use link::{Instant, StreamHandle};
use node::control::{Control, Pull};
use node::{PortId, Ports};
use std::time::Duration;

/// How far a question travels at most, in hops.
const MOST_HOPS: u8 = 12;

/// A stream that comes by a way that is not its graph's, only because it was asked for, is asked for again so often: before the relays that answer
/// lose interest.
const RENEW: Duration = Duration::from_millis(200);

impl RelaySystem {
    /// Goes on asking for streams that nobody brings by their graph, though every link of it may be well: a relay on the way takes what it gets
    /// and passes nothing on. The ingress comes to know it from that the questions go on.
    pub(super) fn ask_on(&mut self, now: Instant, ports: &mut Ports) {
        let me = self.directory.me().clone();
        let is_due = |(id, carried): &(&StreamId, &Carried)| {
            now.saturating_since(carried.renewed) >= RENEW
                && carried.upstream(&me, Along::Disjoint).len() >= 2
                && self.is_fetched(now, id, carried)
        };
        let asked = |(id, carried): (&StreamId, &Carried)| Some((id.clone(), self.forward.all_newer(carried.key)?));
        let due: Vec<(StreamId, Ask)> = self.carried.iter().filter(is_due).filter_map(asked).collect();
        for (id, ask) in due {
            if let Some(carried) = self.carried.get_mut(&id) {
                carried.renewed = now;
            }
            self.ask(now, &id, &ask, MOST_HOPS, None, ports);
        }
    }

    /// Whether what comes of a stream comes only because it was asked for: not by the graph that it travels on.
    fn is_fetched(&self, now: Instant, id: &StreamId, carried: &Carried) -> bool {
        let Some((port, label)) = self.forward.newest_from(carried.key, now) else { return false };
        let from = self.ports.get(&port).map(|port| port.peer.link_end());
        let me = self.directory.me();
        id.ingress != *me && from.is_some_and(|from| !carried.brings(label, &from, me))
    }

    /// Asks for what is missing of the streams that sinks watch here.
    pub(super) fn ask_for_missing(&mut self, now: Instant, ports: &mut Ports) {
        // What is wrong is right here: the ingress, too, will send over every link there is, once it knows.
        let along = if self.directory.own_in_trouble() >= 2 { Along::Targeted } else { Along::Disjoint };
        for (key, ask) in self.forward.lacking(now, along) {
            let found = self.carried.iter().find(|(_, carried)| carried.key == key);
            let Some((id, carried)) = found else { continue };
            // With one way only, the hops of that way are all there is, and they repair what they can.
            let me = self.directory.me();
            if id.ingress == *me || carried.upstream(me, Along::Disjoint).len() < 2 {
                continue;
            }
            let id = id.clone();
            self.ask(now, &id, &ask, MOST_HOPS, None, ports);
        }
    }

    /// A relay below asks.
    pub(super) fn pulled(&mut self, now: Instant, port: PortId, pull: &Pull, ports: &mut Ports) {
        let Some(ask) = Ask::from_message(pull) else {
            self.refused.protocol += 1;
            return;
        };
        let (after, along) = (ask.after, ask.along);
        let Some((key, mut further)) = self.forward.pull(now, port, StreamHandle(pull.handle), ask, ports) else {
            return;
        };
        let Some(id) = self.stream_of(key) else { return };
        if after.is_some() && further.as_ref().is_none_or(|further| further.after.is_none()) {
            self.doubt(now, &id, key, port);
            // What is passed on comes here by asking, too.
            if self.carried.get(&id).is_some_and(|carried| self.is_fetched(now, &id, carried)) {
                further.get_or_insert(Ask { along, ..Ask::default() }).after = after;
            }
        }
        let (Some(further), Some(hops)) = (further, Ask::hops(pull).min(MOST_HOPS).checked_sub(1)) else { return };
        let Some(carried) = self.carried.get_mut(&id) else { return };
        if id.ingress == *self.directory.me() || !carried.note_asked(now, &further) {
            return;
        }
        self.ask(now, &id, &further, hops, Some(port), ports);
    }

    /// Where a stream enters: somebody gets nothing of what has long left here by another port.
    fn doubt(&mut self, now: Instant, id: &StreamId, key: StreamKey, port: PortId) {
        if self.forward.feeds(key, port) {
            return;
        }
        let published = self.published.get_mut(&id.name).filter(|published| published.id == *id);
        if published.is_some_and(|published| published.plan.doubt(now)) {
            self.plan_due = Some(now);
        }
    }

    fn ask(&mut self, now: Instant, id: &StreamId, ask: &Ask, hops: u8, except: Option<PortId>, ports: &mut Ports) {
        let Some(carried) = self.carried.get(id) else { return };
        let key = carried.key;
        let upstream = carried.upstream(self.directory.me(), ask.along);
        let mut asked = 0;
        for link in upstream {
            let Some(port) = self.relays.get(&link).copied().filter(|port| Some(*port) != except) else { continue };
            let handle = self.forward.input_handles(key).find(|(at, _)| *at == port).map(|(_, handle)| handle);
            let Some(handle) = handle else { continue };
            let message = Control::Pull(ask.message(handle.0, hops));
            self.signal_often(now, port, &message, ports);
            asked += 1;
        }
        self.forward.count_pulls(key, asked);
    }

    pub(super) fn stream_of(&self, key: StreamKey) -> Option<StreamId> {
        self.carried.iter().find(|(_, carried)| carried.key == key).map(|(id, _)| id.clone())
    }
}
