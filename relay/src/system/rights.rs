//! What sources and sinks may do by their tokens, for how long, and what becomes of it when they show others.

use super::clients::policed;
use super::{Kind, RelaySystem, refusal};
use crate::line;
use link::{Bitrate, Instant};
use node::control::{CloseCode, Control, Refusal};
use node::trust::{Direction, Grant, Role};
use node::{PortId, Ports};
use topology::StreamName;

/// What a peer may do with a stream.
pub(super) struct Right {
    /// The token that lasts longest, by its id.
    pub(super) token: String,
    /// When one of the tokens that allow it expires, and it is to be asked again what the others do.
    pub(super) until: u64,
    pub(super) max_rate: Option<Bitrate>,
}

impl RelaySystem {
    /// Whether a peer's tokens allow it what it asks for, and until when.
    pub(super) fn right(
        &self,
        now: Instant,
        port: PortId,
        direction: Direction,
        name: &StreamName,
    ) -> Result<Right, Refusal> {
        if line::is_reserved(name) {
            let reason = format!("{name} is a name of line tests, which relays alone publish and watch");
            return Err(refusal(CloseCode::Forbidden, reason));
        }
        let unix = self.unix(now);
        let peer = &self.ports[&port].peer;
        let fitting = peer.grants.iter().filter(|grant| grant.direction == direction && grant.streams.matches(name));
        let (valid, expired): (Vec<_>, Vec<_>) = fitting.partition(|grant| grant.expires > unix);
        let act = if direction == Direction::Publish { "publishing" } else { "watching" };
        match (valid.iter().max_by_key(|grant| grant.expires), expired.first()) {
            (Some(longest), _) => {
                let unlimited = valid.iter().any(|grant| grant.max_rate.is_none());
                let most = valid.iter().filter_map(|grant| grant.max_rate).max();
                let until = valid.iter().map(|grant| grant.expires).min().unwrap_or(longest.expires);
                let (token, max_rate) = (longest.id.clone(), most.filter(|_| !unlimited));
                Ok(Right { token, until, max_rate })
            }
            (None, Some(grant)) => {
                Err(refusal(CloseCode::Expired, format!("token {} for {act} {name} has expired", grant.id)))
            }
            (None, None) => Err(refusal(CloseCode::Forbidden, format!("no token of this peer allows {act} {name}"))),
        }
    }

    /// Notes what a source or sink publishes or watches, and until when it may as it does.
    pub(super) fn note(&mut self, port: PortId, name: StreamName, until: u64) {
        if let Some(Kind::Client(streams)) = self.ports.get_mut(&port).map(|port| &mut port.kind) {
            streams.insert(name, until);
        }
    }

    pub(super) fn unnote(&mut self, port: PortId, name: &StreamName) {
        if let Some(Kind::Client(streams)) = self.ports.get_mut(&port).map(|port| &mut port.kind) {
            streams.remove(name);
        }
    }

    /// Ends what is published or watched by rights that have expired, or goes on by those that have not.
    pub(super) fn expire_rights(&mut self, now: Instant, ports: &mut Ports) {
        let unix = self.unix(now);
        let mut expired: Vec<(PortId, StreamName)> = Vec::new();
        for (port, state) in &self.ports {
            if let Kind::Client(streams) = &state.kind {
                let over = streams.iter().filter(|(_, until)| **until <= unix);
                expired.extend(over.map(|(name, _)| (*port, name.clone())));
            }
        }
        for (port, name) in expired {
            if !self.go_on(now, port, &name) {
                let refusal = refusal(CloseCode::Expired, format!("the right to {name} has expired"));
                self.take_right(now, port, name, refusal, ports);
            }
        }
    }

    /// Whether what a peer publishes or watches goes on by the tokens it has, which then say how.
    fn go_on(&mut self, now: Instant, port: PortId, name: &StreamName) -> bool {
        let direction = self.direction_of(port);
        let Ok(right) = self.right(now, port, direction, name) else { return false };
        self.renew_right(now, port, direction, name, right);
        true
    }

    fn direction_of(&self, port: PortId) -> Direction {
        let publishes = self.ports.get(&port).is_some_and(|state| state.peer.role == Role::Source);
        if publishes { Direction::Publish } else { Direction::Subscribe }
    }

    fn renew_right(&mut self, now: Instant, port: PortId, direction: Direction, name: &StreamName, right: Right) {
        self.note(port, name.clone(), right.until);
        if direction == Direction::Publish {
            self.renew_published(now, name, right);
        }
    }

    /// A peer shows other tokens: what it publishes and watches goes on by them, where they allow it.
    pub(super) fn renew_rights(&mut self, now: Instant, port: PortId, grants: Vec<Grant>, ports: &mut Ports) {
        let Some(state) = self.ports.get_mut(&port) else { return };
        state.peer.grants = grants;
        let Kind::Client(streams) = &state.kind else { return };
        let names: Vec<StreamName> = streams.keys().cloned().collect();
        let direction = self.direction_of(port);
        for name in names {
            match self.right(now, port, direction, &name) {
                Ok(right) => self.renew_right(now, port, direction, &name, right),
                Err(refusal) => self.take_right(now, port, name, refusal, ports),
            }
        }
    }

    /// What is published goes on by another token: its use is on that one's account, and its rate what that one allows.
    fn renew_published(&mut self, now: Instant, name: &StreamName, right: Right) {
        let Some(published) = self.published.get(name) else { return };
        let (id, old) = (published.id.clone(), published.token.clone());
        let (rate, need) = self.granted(&published.wants, published.need.high_priority, right.max_rate);
        if old != right.token {
            self.close_account(&id, &old);
            self.note_token(&right.token);
        }
        let Some(key) = self.carried.get(&id).map(|carried| carried.key) else { return };
        let Some(published) = self.published.get_mut(name) else { return };
        published.token = right.token;
        if published.need != need {
            published.need = need;
            // The links are told even where the graphs stay the same.
            published.plan.renew();
            self.plan_due = Some(now);
            let before = self.forward.police(key);
            self.forward.set_police(key, policed(before, rate));
        }
    }

    fn take_right(&mut self, now: Instant, port: PortId, name: StreamName, refusal: Refusal, ports: &mut Ports) {
        match self.ports.get(&port).map(|state| state.peer.role) {
            Some(Role::Source) => {
                // What is on its way arrives; nothing more comes in.
                let published = self.published.get(&name).and_then(|published| self.carried.get(&published.id));
                if let Some(key) = published.map(|carried| carried.key) {
                    self.forward.close_source(now, key, port);
                }
                self.unpublish(now, port, &name);
            }
            _ => self.unsubscribe(now, port, &name, ports),
        }
        ports.control(port, Control::StreamRefused { name, refusal });
    }
}
