//! A whole relay before hostile peers, and the database of link state, without sockets: what comes is of the fuzzer's choosing, in its order and at its times.
//!
//! Names, lives and numbers are drawn from small sets, so that messages meet: what one announces another installs, pulls, claims or ends.

use crate::fuzz_drawn::{Reader, UNIX, advertisement, end, grants, message, node, seq, trouble};
use bytes::{Bytes, BytesMut};
use link::{Delivery, Flags, Instant, Label, LinkConfig, MediaTime, Recovery, StreamHandle};
use node::control::{self, CloseCode};
use node::engine::Engine;
use node::trust::Role;
use node::{Closed, Peer, PortId};
use relay::Limits;
use relay::system::{Options, RelaySystem};
use std::collections::BTreeMap;
use std::time::Duration;
use topology::lsdb::{self, Advertisement, Database};
use topology::{LinkEnd, NodeName};

/// More peers than there is room for, so that each bound is met.
const MOST_PORTS: usize = 12;

/// All that is known or carried is forgotten so long after the last peer is gone: advertisements after 90 s, what is remembered of them after ten
/// minutes.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(720);

fn limits() -> Limits {
    Limits {
        max_clients: 4,
        max_relays: 5,
        max_streams: 6,
        max_streams_per_client: 3,
        max_subscribers: 3,
        max_history: 1 << 18,
        max_stream_history: 1 << 18,
        ..Limits::default()
    }
}

/// A relay whose neighbours, sources and sinks come, say anything, send anything and go. It never holds more than its limits, each call comes to an
/// end, and when all have gone it forgets them.
pub fn relay_session(data: &[u8]) {
    let mut data = Reader(data);
    let mut relay = Relay::new();
    while !data.is_empty() {
        relay.step(&mut data);
    }
    relay.check();
    relay.all_go();
}

struct Relay {
    engine: Engine<RelaySystem>,
    now: Instant,
    ports: Vec<(PortId, Role)>,
}

impl Relay {
    fn new() -> Relay {
        let now = Instant::from_micros(3_600_000_000);
        let options = Options {
            name: node(0),
            boot: 5,
            limits: limits(),
            source_grace: Duration::from_secs(10),
            links: BTreeMap::new(),
            seal: None,
            unix: (now, UNIX),
        };
        Relay { engine: Engine::new(RelaySystem::new(options)), now, ports: Vec::new() }
    }

    fn step(&mut self, data: &mut Reader<'_>) {
        match data.u8() % 16 {
            0 => self.open(data),
            1 => self.close(data),
            2 => self.pass(Duration::from_micros(u64::from(data.u16()))),
            3 => self.pass(Duration::from_millis(u64::from(data.u16() % 4096))),
            4 => self.datagram(data),
            5 => self.encoded(data),
            6 => self.rights(data),
            7 | 8 => self.media(data),
            _ => self.message(data),
        }
        self.drain();
    }

    fn open(&mut self, data: &mut Reader<'_>) {
        if self.ports.len() >= MOST_PORTS {
            return;
        }
        let (choice, who) = (data.u8(), data.u8());
        let role = [Role::Relay, Role::Relay, Role::Source, Role::Sink][usize::from(choice % 4)];
        let address = ([127, 0, 0, 1], 9).into();
        let LinkEnd { relay: name, link } = end(who);
        let peer = Peer {
            name,
            role,
            grants: if role == Role::Relay { Vec::new() } else { grants(data.u8()) },
            address,
            dialled: choice & 4 != 0,
            features: u64::from(choice >> 3),
            link: link.filter(|_| role == Role::Relay),
        };
        let config = LinkConfig { seed: 1, max_history: 1 << 18, ..LinkConfig::default() };
        let port = self.engine.open(self.now, peer, config);
        self.ports.push((port, role));
    }

    fn pick(&self, data: &mut Reader<'_>) -> Option<(PortId, Role)> {
        let pick = usize::from(data.u8());
        self.ports.get(pick % self.ports.len().max(1)).copied()
    }

    fn close(&mut self, data: &mut Reader<'_>) {
        if let Some((port, _)) = self.pick(data) {
            self.gone(port, Closed { code: CloseCode::Lost, reason: "fuzzed".to_owned() });
        }
    }

    fn gone(&mut self, port: PortId, closed: Closed) {
        self.ports.retain(|(known, _)| *known != port);
        self.engine.handle_closed(self.now, port, closed);
    }

    fn pass(&mut self, span: Duration) {
        self.now += span;
        self.engine.handle_timeout(self.now);
    }

    fn datagram(&mut self, data: &mut Reader<'_>) {
        let Some((port, _)) = self.pick(data) else { return };
        let size = usize::from(data.u8());
        self.engine.handle_datagrams(self.now, port, [Bytes::copy_from_slice(data.bytes(size))]);
    }

    /// Bytes of the fuzzer's own making, where they are a message.
    fn encoded(&mut self, data: &mut Reader<'_>) {
        let Some((port, _)) = self.pick(data) else { return };
        let size = usize::from(data.u16() % 2048);
        if let Ok(message) = control::decode(data.bytes(size)) {
            self.engine.handle_control(self.now, port, message);
        }
    }

    fn rights(&mut self, data: &mut Reader<'_>) {
        if let Some((port, role)) = self.pick(data)
            && role != Role::Relay
        {
            self.engine.handle_rights(self.now, port, grants(data.u8()));
        }
    }

    /// A packet as the link hands it up; the link itself is the matter of another target.
    fn media(&mut self, data: &mut Reader<'_>) {
        let Some((port, _)) = self.pick(data) else { return };
        let handle = data.u8();
        let delivery = Delivery {
            // The highest is that of signals.
            stream: StreamHandle(if handle == 255 { u16::MAX } else { u16::from(handle % 8) }),
            seq: seq(data),
            media_time: MediaTime(data.u16().into()),
            age: Duration::from_millis(u64::from(data.u8())),
            label: Label(u32::from(data.u8()) << 16 | u32::from(data.u8())),
            flags: Flags { high_priority: handle & 64 != 0, end: handle & 32 != 0 },
            payload: {
                let size = usize::from(data.u8());
                Bytes::copy_from_slice(data.bytes(size))
            },
            recovery: Recovery::None,
        };
        if self.engine.ports.is_open(port) {
            let Engine { system, ports } = &mut self.engine;
            node::EndSystem::handle_delivery(system, self.now, port, delivery, ports);
        }
    }

    fn message(&mut self, data: &mut Reader<'_>) {
        if let Some((port, _)) = self.pick(data) {
            let message = message(data);
            self.engine.handle_control(self.now, port, message);
        }
    }

    /// Carries away what the relay has to say, as its shell would.
    fn drain(&mut self) {
        let mut patience = 200_000;
        let mut spend = || {
            patience -= 1;
            assert!(patience > 0, "what is to be sent does not come to an end");
        };
        let mut out = BytesMut::new();
        while let Some(port) = self.engine.ports.take_dirty() {
            spend();
            while let Some(message) = self.engine.ports.poll_control(port) {
                spend();
                assert!(control::encoded_size(&message).is_ok(), "a message that cannot be sent");
            }
            while self.engine.ports.poll_transmit(self.now, port, &mut out).is_some() {
                spend();
                out.clear();
            }
            self.engine.ports.schedule(self.now, port);
            if let Some(closing) = self.engine.ports.closing(port) {
                let closed = closing.closed.clone();
                self.gone(port, closed);
            }
        }
    }

    fn check(&mut self) {
        let report = self.engine.system.report(self.now, &self.engine.ports);
        let limits = limits();
        assert!(report.streams.len() <= limits.max_streams, "{} streams", report.streams.len());
        assert!(report.overlay.relays.len() <= limits.max_relays, "{} relays", report.overlay.relays.len());
        assert!(self.engine.system.clients() <= limits.max_clients);
        assert!(report.streams.iter().all(|stream| stream.subscribers <= limits.max_subscribers));
    }

    fn all_go(&mut self) {
        while let Some((port, _)) = self.ports.first().copied() {
            self.gone(port, Closed { code: CloseCode::Done, reason: String::new() });
        }
        let end = self.now + FORGOTTEN_AFTER;
        while self.now < end {
            self.pass(Duration::from_secs(6));
            self.drain();
        }
        let report = self.engine.system.report(self.now, &self.engine.ports);
        assert!(report.streams.is_empty(), "streams of nobody: {:?}", report.streams);
        assert!(report.overlay.relays.len() <= 1, "relays long gone: {:?}", report.overlay.relays);
        assert!(report.links.is_empty());
    }
}

/// The database of link state: whatever comes, it stays within its bounds; and two that have heard the same, one of them the other way round, agree
/// where neither had to refuse anything.
pub fn link_state(data: &[u8]) {
    let mut data = Reader(data);
    let limits = lsdb::Limits { origins: 5, links: 5, streams: 3, subscriptions: 3 };
    let mut database = Database::new(node(0), 5, limits);
    let (mut now, mut heard, mut whole) = (Duration::ZERO, Vec::new(), true);
    while !data.is_empty() {
        match data.u8() % 8 {
            0 => now += Duration::from_millis(u64::from(data.u16()) * 4),
            1 => {
                let gone = database.expire(now);
                whole &= gone.is_empty();
                assert!(gone.iter().all(|origin| database.get(origin).is_none()));
            }
            2 => {
                let report = trouble(&mut data);
                let _ = database.apply_trouble(now, report);
            }
            3 => {
                let statement = advertisement(&mut data);
                let said = database.announce(
                    now,
                    lsdb::Statement { links: statement.links, streams: statement.streams, ..Default::default() },
                );
                assert!(database.get(&node(0)).is_some_and(|known| *known == said));
            }
            _ => {
                let advertisement = advertisement(&mut data);
                let own = advertisement.origin == node(0);
                match database.apply(now, advertisement.clone()) {
                    Ok(_) if !own => heard.push(advertisement),
                    Ok(_) => {}
                    Err(_) => whole = false,
                }
            }
        }
        assert!(database.iter().count() <= limits.origins);
        assert!(database.troubles().count() <= limits.origins);
        let _ = (database.links().count(), database.next_expiry(), database.refresh_due());
    }
    if whole {
        agree(&database, heard, limits, now);
    }
}

fn agree(database: &Database, heard: Vec<Advertisement>, limits: lsdb::Limits, now: Duration) {
    let mut other = Database::new(node(7), 5, lsdb::Limits { origins: limits.origins + 1, ..limits });
    // One number says one thing, else who hears it first decides; an origin that breaks that is out of it.
    let mut said: BTreeMap<(NodeName, u64, u64), Advertisement> = BTreeMap::new();
    let mut liars: Vec<NodeName> = vec![node(0), node(7)];
    for ad in &heard {
        let known = said.entry((ad.origin.clone(), ad.boot, ad.seq)).or_insert_with(|| ad.clone());
        if known != ad {
            liars.push(ad.origin.clone());
        }
    }
    for ad in heard.into_iter().rev() {
        let _ = other.apply(now, ad);
    }
    for ad in database.iter().filter(|ad| !liars.contains(&ad.origin)) {
        assert!(other.get(&ad.origin) == Some(ad), "what was heard last depends on the order");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seeds that the relay refuses at the first step would leave the fuzzer before a wall.
    #[test]
    fn the_seeds_bring_streams_to_sinks() {
        let seeds = crate::fuzz_seeds::seeds();
        for name in ["session-0", "session-1"] {
            let (.., seed) = seeds.iter().find(|(target, n, _)| *target == "relay_session" && n == name).unwrap();
            let (mut data, mut relay, mut passed_on) = (Reader(seed), Relay::new(), 0);
            while !data.is_empty() {
                relay.step(&mut data);
                let report = relay.engine.system.report(relay.now, &relay.engine.ports);
                let outputs = report.streams.iter().flat_map(|stream| &stream.outputs);
                passed_on = outputs.map(|output| output.counters.forwarded).sum::<u64>().max(passed_on);
            }
            assert!(passed_on >= 30, "{name}: {passed_on} packets reach the sink");
        }
    }
}
