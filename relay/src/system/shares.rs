//! Who takes up how much of what there is for all: no peer, however many names, streams or connections it comes with, leaves nothing for the others.
//!
//! A stream is on the account of its ingress once that has said so itself, under its signature; until then on that of the neighbour that
//! brought it, which could make up any number of ingresses. What enters here or is watched here is on the account of its token.

use super::allowance::{Allowance, Terms};
use super::carried::StreamId;
use super::{RelaySystem, refusal};
use link::Instant;
use node::control::{CloseCode, Refusal};
use node::network::network;
use node::trust::Role;
use node::{Peer, PortId};
use std::collections::BTreeMap;
use topology::{NodeName, StreamName};

/// Lives of streams that a token may begin a second, in the long run. Each has every relay on its way take in graphs, and may begin with a burst.
const A_SECOND: u64 = 2;

/// Searches for graphs with room that a token may ask for a second, in the long run: each takes milliseconds in a large overlay.
const SEARCHES_A_SECOND: u64 = 20;

/// Lives that a token may begin at once, however few streams it may have.
const LEAST_AT_ONCE: usize = 32;

/// Who takes up how much.
#[derive(Debug, Default)]
pub(super) struct Shares {
    /// How many streams of each relay are carried.
    streams: BTreeMap<NodeName, usize>,
    /// What is left to each token of the lives that it may begin.
    lives: BTreeMap<String, Allowance>,
    /// What is left to each token of the searches for graphs with room that it may ask for.
    searches: BTreeMap<String, Allowance>,
}

impl Shares {
    /// Puts one more on an account, where that has fewer than `most`.
    fn take(&mut self, payer: &NodeName, most: usize) -> bool {
        let held = self.streams.get(payer).copied().unwrap_or(0);
        if held < most {
            self.streams.insert(payer.clone(), held + 1);
        }
        held < most
    }

    /// Counts a life that a token begins, where it may: so many at once, then [`A_SECOND`].
    fn begin(&mut self, now: Instant, token: &str, at_once: usize) -> bool {
        let terms = Terms { at_once: at_once as u64, a_second: A_SECOND };
        self.lives.entry(token.to_owned()).or_default().take(now, 1, terms)
    }

    /// Counts a search that a token asks for, where it may.
    fn search(&mut self, now: Instant, token: &str, at_once: usize) -> bool {
        let terms = Terms { at_once: at_once as u64, a_second: SEARCHES_A_SECOND };
        self.searches.entry(token.to_owned()).or_default().take(now, 1, terms)
    }

    /// Takes one off an account.
    pub(super) fn give_back(&mut self, payer: &NodeName) {
        if let Some(held) = self.streams.get_mut(payer) {
            *held -= 1;
            if *held == 0 {
                self.streams.remove(payer);
            }
        }
    }
}

impl RelaySystem {
    /// On whose account a stream is to be carried that `from` has told of; `None` where there is no room for another, or none on that account.
    pub(super) fn charge(&mut self, id: &StreamId, from: Option<PortId>, signed: bool) -> Option<NodeName> {
        let limits = &self.options.limits;
        let brings = from.and_then(|port| self.ports.get(&port)).map(|port| &port.peer.name);
        let payer = match brings {
            Some(brings) if !signed && !self.directory.advertises(&id.ingress, &id.name, id.incarnation) => brings,
            _ => &id.ingress,
        };
        let room = self.carried.len() < limits.max_streams;
        let payer = payer.clone();
        if room && self.shares.take(&payer, limits.max_streams_per_relay) {
            return Some(payer);
        }
        self.refused.streams += 1;
        None
    }

    /// Streams whose ingress has spoken of them since go over to its account, as far as there is room on it.
    pub(super) fn settle_shares(&mut self, now: Instant) {
        self.shares.lives.retain(|_, lives| !lives.is_whole(now));
        self.shares.searches.retain(|_, searches| !searches.is_whole(now));
        let most = self.options.limits.max_streams_per_relay;
        for (id, carried) in &mut self.carried {
            if carried.payer != id.ingress
                && self.directory.advertises(&id.ingress, &id.name, id.incarnation)
                && self.shares.take(&id.ingress, most)
            {
                self.shares.give_back(&carried.payer);
                carried.payer = id.ingress.clone();
            }
        }
    }

    /// Whether a token may publish another stream here.
    pub(super) fn check_published_share(&self, token: &str, name: &StreamName) -> Result<(), Refusal> {
        let others = self.published.iter().filter(|(other, published)| *other != name && published.token == token);
        self.check_share(others.count(), token, "published")
    }

    /// Whether a token may begin this life of a stream, which counts as begun then.
    pub(super) fn check_life(&mut self, now: Instant, token: &str, id: &StreamId) -> Result<(), Refusal> {
        if self.published.get(&id.name).is_some_and(|published| published.id == *id) {
            return Ok(());
        }
        let at_once = self.options.limits.max_streams_per_token.max(LEAST_AT_ONCE);
        if self.shares.begin(now, token, at_once) {
            return Ok(());
        }
        let reason = format!(
            "streams were begun here by token {token} too often: one may begin {at_once} at once, then two a second"
        );
        Err(refusal(CloseCode::Overload, reason))
    }

    /// Whether a token may have it looked for room again.
    pub(super) fn check_search(&mut self, now: Instant, token: &str) -> Result<(), Refusal> {
        let at_once = self.options.limits.max_streams_per_token.max(LEAST_AT_ONCE);
        if self.shares.search(now, token, at_once) {
            return Ok(());
        }
        let reason = format!(
            "streams were asked for here by token {token} too often: {at_once} at once, then {SEARCHES_A_SECOND} a second"
        );
        Err(refusal(CloseCode::Overload, reason))
    }

    /// Whether a token may ask for another stream that nobody watches here so far.
    pub(super) fn check_watched_share(&self, token: &str, name: &StreamName) -> Result<(), Refusal> {
        if self.wanted.contains_key(name) {
            return Ok(());
        }
        self.check_share(self.wanted.values().filter(|wanted| wanted.token == token).count(), token, "watched")
    }

    fn check_share(&self, held: usize, token: &str, how: &str) -> Result<(), Refusal> {
        let most = self.options.limits.max_streams_per_token;
        if held >= most {
            let reason = format!("{held} streams are {how} here by token {token} already; one token may have {most}");
            return Err(refusal(CloseCode::Overload, reason));
        }
        Ok(())
    }

    /// Whether another source or sink may come, from where it is and by the tokens that it brings.
    pub(super) fn check_client_share(&self, peer: &Peer) -> Result<(), String> {
        let limits = &self.options.limits;
        if self.ports.len() - self.relays.len() >= limits.max_clients {
            return Err("too many sources and sinks here".to_owned());
        }
        let others = || self.ports.values().map(|port| &port.peer).filter(|other| other.role != Role::Relay);
        let from = network(peer.address.ip());
        let here = others().filter(|other| network(other.address.ip()) == from).count();
        if here >= limits.max_clients_per_address {
            return Err(format!("{here} sources and sinks of its address are here already"));
        }
        for grant in &peer.grants {
            let held = others().filter(|other| other.grants.iter().any(|known| known.id == grant.id)).count();
            if held >= limits.max_clients_per_token {
                return Err(format!("{held} sources and sinks are here by token {} already", grant.id));
            }
        }
        Ok(())
    }
}
