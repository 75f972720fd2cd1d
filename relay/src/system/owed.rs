//! What a neighbouring relay is yet to be told: all there is, where its link is new, and what changes while it takes things slowly. It is told of as
//! its control stream drains, each in the newest form that there is by then: what changes often meanwhile is said once, and however much is known or
//! said by others, no queue is filled by it.

use super::carried::{Carried, StreamId, hops};
use super::statement::Topic;
use super::{Kind, RelaySystem};
use link::Instant;
use node::control::Control;
use node::ports::{MAX_QUEUED_BYTES, MAX_QUEUED_MESSAGES};
use node::{PortId, Ports};
use std::collections::{BTreeSet, VecDeque};
use topology::LinkEnd;

/// Messages and bytes that are queued ahead of what else is owed.
const AHEAD: (usize, usize) = (512, 1 << 20);

/// Messages and bytes that wait beyond which statements are owed: the rest of the queue is for what cannot be said later.
const BEHIND: (usize, usize) = (MAX_QUEUED_MESSAGES / 2, MAX_QUEUED_BYTES / 2);

/// What is owed to one neighbour, in the order in which it came to be.
#[derive(Debug, Default)]
pub(super) struct Owed {
    order: VecDeque<Topic>,
    topics: BTreeSet<Topic>,
}

impl Owed {
    fn add(&mut self, topic: Topic) {
        if self.topics.insert(topic.clone()) {
            self.order.push_back(topic);
        }
    }

    fn pop(&mut self) -> Option<Topic> {
        let topic = self.order.pop_front()?;
        self.topics.remove(&topic);
        Some(topic)
    }
}

impl RelaySystem {
    /// A link to a relay is new: it is told all that is known of others, this relay's own word first, so that it can use it at once; then what goes
    /// over the link by the graphs.
    pub(super) fn owe_all(&mut self, now: Instant, link: &LinkEnd, port: PortId, ports: &mut Ports) {
        let me = self.directory.me();
        let over_it = |(id, carried): (&StreamId, &Carried)| carried.next_links(me).contains(link).then(|| id.clone());
        let graphs: Vec<StreamId> = self.carried.iter().filter_map(over_it).collect();
        let links = self.directory.advertisers().filter(|origin| **origin != link.relay).cloned().map(Topic::Links);
        let troubles = self.directory.reporters().filter(|origin| **origin != link.relay).cloned().map(Topic::Trouble);
        let all: Vec<Topic> = links.chain(troubles).chain(graphs.into_iter().map(Topic::Graph)).collect();
        if let Some(Kind::Relay(neighbour)) = self.ports.get_mut(&port).map(|port| &mut port.kind) {
            all.into_iter().for_each(|topic| neighbour.owed.add(topic));
        }
        self.pay(now, port, ports);
    }

    /// Tells neighbours of what they are owed, as far as their queues have drained.
    pub(super) fn pay_all(&mut self, now: Instant, ports: &mut Ports) {
        let is_owed = |port: &PortId| match self.ports.get(port).map(|port| &port.kind) {
            Some(Kind::Relay(neighbour)) => !neighbour.owed.order.is_empty(),
            _ => false,
        };
        let owed: Vec<PortId> = self.relays.values().copied().filter(is_owed).collect();
        for port in owed {
            self.pay(now, port, ports);
        }
    }

    fn pay(&mut self, now: Instant, port: PortId, ports: &mut Ports) {
        while is_below(ports.queued(port), AHEAD)
            && ports.is_open(port)
            && let Some(topic) = self.next_owed(port)
        {
            match topic {
                Topic::Links(origin) => said(self.directory.advertisement(&origin).as_deref(), port, ports),
                Topic::Trouble(origin) => said(self.directory.trouble_report(&origin).as_deref(), port, ports),
                Topic::Graph(id) => self.tell_graph(now, port, &id, ports),
            }
        }
    }

    fn next_owed(&mut self, port: PortId) -> Option<Topic> {
        match &mut self.ports.get_mut(&port)?.kind {
            Kind::Relay(neighbour) => neighbour.owed.pop(),
            Kind::Client(_) => None,
        }
    }

    /// What goes over a link by the graphs of a stream is announced there.
    fn tell_graph(&mut self, now: Instant, port: PortId, id: &StreamId, ports: &mut Ports) {
        let Some(newest) = self.carried.get(id).and_then(Carried::newest).cloned() else { return };
        self.announce(now, port, (*newest.message).clone(), ports);
        let (Some(carried), Some(to)) = (self.carried.get(id), self.ports.get(&port)) else { return };
        if !carried.next_links(self.directory.me()).contains(&to.peer.link_end()) {
            return;
        }
        self.open_to(now, id, port, false, ports);
        let Some(carried) = self.carried.get(id) else { return };
        for install in carried.graphs() {
            self.forward.install(carried.key, install.epoch, &hops(install, self.directory.me(), &self.relays));
        }
    }

    /// Says something to a neighbour by the control stream: at once, or, of what can be said later and better, when that has drained.
    pub(super) fn pass_on(&mut self, port: PortId, message: &Control, ports: &mut Ports) {
        let is_behind = !is_below(ports.queued(port), BEHIND);
        if let Some(Kind::Relay(neighbour)) = self.ports.get_mut(&port).map(|port| &mut port.kind)
            && (is_behind || !neighbour.owed.order.is_empty())
            && let Some(topic) = Topic::of(message)
            && (is_behind || neighbour.owed.topics.contains(&topic))
        {
            neighbour.owed.add(topic);
        } else {
            ports.control(port, message.clone());
        }
    }
}

fn is_below(queued: (usize, usize), most: (usize, usize)) -> bool {
    queued.0 < most.0 && queued.1 < most.1
}

fn said(message: Option<&Control>, port: PortId, ports: &mut Ports) {
    if let Some(message) = message {
        ports.control(port, message.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_owed_once_in_the_order_in_which_it_came() {
        let topic = |name: &str| Topic::Links(name.parse().expect("valid"));
        let mut owed = Owed::default();
        ["b", "a", "b", "c", "a"].iter().for_each(|name| owed.add(topic(name)));
        assert_eq!(owed.pop(), Some(topic("b")));
        owed.add(topic("b"));
        let rest: Vec<Topic> = std::iter::from_fn(|| owed.pop()).collect();
        assert_eq!(rest, ["a", "c", "b"].map(topic));
        assert!(owed.topics.is_empty());
    }
}
