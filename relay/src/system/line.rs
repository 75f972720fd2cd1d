//! Line tests: one from here at a time, and one to here. [`crate::line`] says how they work.

mod meter;

use super::RelaySystem;
use super::carried::StreamId;
use crate::forward::{Egress, StreamKey};
use crate::line::{self, Ask, DelayFigures, Delivered, LineTest, Pace, Stage, TestedHop};
use crate::ops::Refused;
use crate::sla::{HopMisses, LossHop};
use bytes::Bytes;
use link::{Delivery, Flags, Instant, Label, MediaTime, Packet, Recovery, SendError, StreamHandle, StreamSeq};
use meter::{Account, Meter};
use node::ages::Ages;
use node::{PortId, Ports};
use std::time::Duration;
use topology::lsdb::Ingress;
use topology::{LinkEnd, NodeName, StreamName};

/// Where packets leave that are for this relay itself: no connection has this port.
pub(super) const HERE: PortId = PortId(u64::MAX);

/// How long the other end may take to be there.
const PATIENCE: Duration = Duration::from_secs(5);

/// The last account is waited for so long after the last packet could arrive.
const LAST_ACCOUNT: Duration = Duration::from_millis(1500);

/// How often the other end tells what it got, and by when that must arrive.
const ACCOUNT_EVERY: Duration = Duration::from_millis(250);
const ACCOUNT_DEADLINE: Duration = Duration::from_secs(1);

/// Packets, of whatever stream, that this relay's links may drop before a test gives way.
const MOST_DROPPED: u64 = 50;

/// A test whose sender has not spoken of it for so long is over.
const GONE_FOR: Duration = Duration::from_secs(2);

/// The tests of a relay.
#[derive(Debug, Default)]
pub(super) struct Lines {
    sending: Option<Box<Sending>>,
    serving: Option<Box<Serving>>,
    /// The state of the overlay in which tests were last looked for.
    looked: Option<u64>,
}

/// A test from here; kept when it is over, for who asks what came of it.
#[derive(Debug)]
struct Sending {
    ask: Ask,
    id: StreamId,
    key: StreamKey,
    /// Under which packets enter the forwarder.
    handle: StreamHandle,
    payload: Bytes,
    stage: Stage,
    /// Since when it has been in that stage.
    since: Instant,
    /// What it ends as, once the last packets have arrived.
    ends_as: Stage,
    reason: Option<String>,
    pace: Option<Pace>,
    began: Instant,
    elapsed: Duration,
    sent: u32,
    not_sent: u64,
    /// What the links it leaves on had dropped before.
    dropped: Vec<(PortId, u64)>,
    accounts: StreamName,
    accounts_handle: Option<StreamHandle>,
    account: Option<Account>,
    hops: Vec<TestedHop>,
}

/// A test to here.
#[derive(Debug)]
struct Serving {
    test: StreamId,
    handle: Option<StreamHandle>,
    deadline: Duration,
    meter: Meter,
    accounts: StreamId,
    accounts_handle: StreamHandle,
    told: u32,
    next_account: Instant,
    since: Instant,
    /// When its sender last spoke of it.
    heard: Instant,
}

/// The links of a relay, and beside them what is for itself.
pub(super) struct Tap<'a> {
    ports: &'a mut Ports,
    lines: &'a mut Lines,
}

impl Egress for Tap<'_> {
    #[inline]
    fn send(&mut self, now: Instant, port: PortId, packet: Packet) -> Result<(), SendError> {
        if port != HERE {
            return self.ports.send(now, port, packet);
        }
        self.lines.take(now, &packet);
        Ok(())
    }
}

impl Lines {
    /// Whether nothing is for this relay itself.
    #[inline]
    pub(super) fn is_idle(&self) -> bool {
        self.serving.is_none() && self.sending.as_ref().is_none_or(|test| test.stage.is_over())
    }

    pub(super) fn tap<'a>(&'a mut self, ports: &'a mut Ports) -> Tap<'a> {
        Tap { ports, lines: self }
    }

    /// When the next packet of a test is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.sending.as_ref()?.pace.as_ref()?.due()
    }

    /// A stream that this relay watches itself comes out under this handle.
    pub(super) fn opened(&mut self, id: &StreamId, handle: StreamHandle) {
        if let Some(test) = self.serving.as_mut().filter(|test| test.test == *id) {
            test.handle = Some(handle);
        }
        let accounts = |test: &&mut Box<Sending>| test.accounts == id.name && test.ask.to == id.ingress;
        if let Some(test) = self.sending.as_mut().filter(accounts) {
            test.accounts_handle = Some(handle);
        }
    }

    /// So many packets of the test to here were lost on this hop.
    pub(super) fn blame(&mut self, id: &StreamId, hop: &LossHop, packets: u64) {
        if let Some(test) = self.serving.as_mut().filter(|test| test.test == *id) {
            test.meter.blame(hop, packets);
        }
    }

    fn take(&mut self, now: Instant, packet: &Packet) {
        if let Some(test) = self.serving.as_mut().filter(|test| test.handle == Some(packet.stream)) {
            test.meter.take(now, packet.seq, packet.age, !packet.payload.is_empty());
        } else if let Some(test) = self.sending.as_mut().filter(|test| test.accounts_handle == Some(packet.stream))
            && let Some(account) = Account::decode(&packet.payload)
            && account.incarnation == test.id.incarnation.0
            && test.account.as_ref().is_none_or(|known| known.number < account.number)
        {
            test.account = Some(account);
        }
    }
}

impl RelaySystem {
    /// Begins a line test.
    pub fn start_test(&mut self, now: Instant, ask: Ask, ports: &mut Ports) -> Result<LineTest, Refused> {
        ask.check().map_err(Refused::Wrong)?;
        let me = self.name().clone();
        if ask.to == me {
            return Err(Refused::Wrong(format!("to: {me} is this relay; expected another one")));
        }
        if let Some(test) = self.line.sending.as_ref().filter(|test| !test.stage.is_over()) {
            return Err(Refused::Busy(format!("a line test to {} is under way: one at a time", test.ask.to)));
        }
        if self.draining {
            return Err(Refused::Busy("this relay is draining".to_owned()));
        }
        if !self.directory.relay_views().iter().any(|relay| relay.name == ask.to) {
            return Err(Refused::Unknown(format!(
                "relay {me} knows of no relay {}; /api/v1/overlay lists them",
                ask.to
            )));
        }
        let names = line::test_stream(&me, &ask.to).zip(line::account_stream(&me, &ask.to));
        let (test, accounts) = names.ok_or_else(|| Refused::Wrong("to: not a name of a relay".to_owned()))?;
        let full = || Refused::Busy("this relay carries or advertises as many streams as it may".to_owned());
        let (id, key, handle) = self.publish_here(now, test, ask.deadline, ports).ok_or_else(full)?;
        tracing::info!(to = %ask.to, rate = ask.rate.as_bps(), duration = ?ask.duration, "a line test begins");
        let payload = Bytes::from(vec![0x47; usize::from(ask.packet_size)]);
        self.line.sending = Some(Box::new(Sending {
            ask,
            id,
            key,
            handle,
            payload,
            stage: Stage::Starting,
            since: now,
            ends_as: Stage::Done,
            reason: None,
            pace: None,
            began: now,
            elapsed: Duration::ZERO,
            sent: 0,
            not_sent: 0,
            dropped: Vec::new(),
            accounts: accounts.clone(),
            accounts_handle: None,
            account: None,
            hops: Vec::new(),
        }));
        self.watch_here(now, &accounts, ports);
        self.settle(now, ports);
        self.line_test().ok_or_else(full)
    }

    /// Ends the line test that is under way, if one is; what came of the last one, if there was one.
    pub fn stop_test(&mut self, now: Instant, ports: &mut Ports) -> Option<LineTest> {
        match self.line.sending.as_ref()?.stage {
            Stage::Starting => self.conclude(now, Stage::Stopped, ports),
            Stage::Running => self.wind_down(now, Stage::Stopped, None, ports),
            _ => {}
        }
        self.settle(now, ports);
        self.line_test()
    }

    /// How the line test from here goes, or what came of the last one.
    pub fn line_test(&self) -> Option<LineTest> {
        Some(self.line.sending.as_ref()?.report(self.name()))
    }

    /// Sends what is due of a test.
    pub(super) fn send_test(&mut self, now: Instant, ports: &mut Ports) {
        let Some(test) = self.line.sending.as_mut() else { return };
        let Some(pace) = test.pace.as_mut().filter(|pace| pace.due().is_some_and(|due| due <= now)) else { return };
        let (packets, skipped) = pace.take(now);
        let first = test.sent;
        test.sent += packets;
        test.not_sent += skipped;
        test.elapsed = now.saturating_since(test.began);
        let (handle, payload) = (test.handle, test.payload.clone());
        for seq in first..first + packets {
            self.enter(now, handle, seq, payload.clone(), Flags::default(), ports);
        }
    }

    /// Puts a packet of this relay's own on its way.
    fn enter(&mut self, now: Instant, stream: StreamHandle, seq: u32, payload: Bytes, flags: Flags, ports: &mut Ports) {
        let delivery = Delivery {
            stream,
            seq: StreamSeq(seq),
            media_time: MediaTime(now.as_micros() as u32),
            age: Duration::ZERO,
            label: Label(0),
            flags,
            payload,
            recovery: Recovery::None,
        };
        // The stream is this relay's own: where it is gone, so is the packet.
        let _ = self.forward.forward(now, HERE, delivery, &mut self.line.tap(ports));
    }

    /// To be called ten times a second.
    pub(super) fn tick_line(&mut self, now: Instant, ports: &mut Ports) {
        self.look_for_test(now, ports);
        self.serve_test(now, ports);
        let Some(test) = self.line.sending.as_ref() else { return };
        let (stage, waited) = (test.stage, now.saturating_since(test.since));
        match stage {
            Stage::Starting => self.begin_test(now, waited, ports),
            Stage::Running => {
                let over = test.pace.as_ref().is_none_or(|pace| pace.due().is_none());
                if let Some(why) = self.crowded(ports) {
                    self.wind_down(now, Stage::Failed, Some(why), ports);
                } else if over {
                    self.wind_down(now, Stage::Done, None, ports);
                }
                if self.ticks.is_multiple_of(10) {
                    self.look_at_hops(now, ports);
                }
            }
            Stage::Finishing if waited > test.ask.deadline + LAST_ACCOUNT => {
                let ends_as = test.ends_as;
                self.conclude(now, ends_as, ports);
            }
            _ => {}
        }
    }

    /// The other end is there, or has not come in time.
    fn begin_test(&mut self, now: Instant, waited: Duration, ports: &mut Ports) {
        let Some(test) = self.line.sending.as_ref() else { return };
        let (to, rate, heard) = (test.ask.to.clone(), test.ask.rate, test.account.is_some());
        let out = self.links_of_test();
        if !heard || out.is_empty() {
            if waited > PATIENCE {
                let why = format!(
                    "{to} does not answer: no way leads there and back, another test ends there, or it runs a version without line tests"
                );
                self.fail(now, why, ports);
            }
            return;
        }
        for (peer, port) in &out {
            let Some(link) = ports.link(*port) else { continue };
            let quality = link.quality(now);
            let used = quality.media_rate;
            if let Some(capacity) = quality.capacity
                && capacity.as_bps() < used.as_bps().saturating_add(rate.as_bps())
            {
                let mbps = |rate: link::Bitrate| rate.as_bps() as f64 / 1e6;
                let why = format!(
                    "rate: the link to {peer} carries {:.1} Mbit/s, of which {:.1} are in use; {:.1} more were asked for",
                    mbps(capacity),
                    mbps(used),
                    mbps(rate)
                );
                self.fail(now, why, ports);
                return;
            }
        }
        let dropped = |(_, port): &(LinkEnd, PortId)| Some((*port, ports.link(*port)?.stats().dropped()));
        let dropped = out.iter().filter_map(dropped).collect();
        if let Some(test) = self.line.sending.as_mut() {
            (test.stage, test.since, test.began) = (Stage::Running, now, now);
            test.pace = Some(Pace::new(now, &test.ask));
            test.dropped = dropped;
        }
    }

    /// The links of this relay on which the test leaves.
    fn links_of_test(&self) -> Vec<(LinkEnd, PortId)> {
        let Some(test) = self.line.sending.as_ref() else { return Vec::new() };
        let feeds = |(_, port): &(&LinkEnd, &PortId)| self.forward.feeds(test.key, **port);
        self.relays.iter().filter(feeds).map(|(name, port)| (name.clone(), *port)).collect()
    }

    /// Why the test must give way to the streams that there are.
    fn crowded(&self, ports: &Ports) -> Option<String> {
        let test = self.line.sending.as_ref()?;
        let over = test.dropped.iter().find_map(|(port, before)| {
            let more = ports.link(*port)?.stats().dropped().saturating_sub(*before);
            Some((*port, more)).filter(|(_, more)| *more > MOST_DROPPED)
        });
        let (port, dropped) = over?;
        let peer = self.ports.get(&port).map(|port| port.peer.link_end().to_string()).unwrap_or_default();
        Some(format!(
            "given up to spare the streams there are: the link to {peer} has no room for it, and dropped {dropped} packets"
        ))
    }

    fn look_at_hops(&mut self, now: Instant, ports: &Ports) {
        let Some(name) = self.line.sending.as_ref().map(|test| test.id.name.clone()) else { return };
        let Some(published) = self.published.get(&name) else { return };
        let selected = published.plan.selected();
        let mut edges: Vec<(NodeName, LinkEnd, bool)> = Vec::new();
        for (slot, module) in published.plan.modules().iter().enumerate() {
            let used = selected.slots().any(|used| used == slot);
            for edge in &module.edges {
                match edges.iter_mut().find(|(from, to, _)| *from == edge.from && *to == edge.to) {
                    Some((_, _, known)) => *known |= used,
                    None => edges.push((edge.from.clone(), edge.to.clone(), used)),
                }
            }
        }
        let links = self.overview(now, ports).links;
        let hop = |(from, to, used): (NodeName, LinkEnd, bool)| {
            let link = links.iter().find(|link| link.from == from && link.to == to && link.gone_s.is_none())?;
            let lost = link.saved.zip(link.residual).map(|(saved, left)| saved + left);
            let (delay_ms, left, overhead) = (link.delay_ms, link.residual, link.overhead);
            Some(TestedHop { from, to, used, delay_ms, lost, left, overhead })
        };
        let hops = edges.into_iter().filter_map(hop).collect();
        if let Some(test) = self.line.sending.as_mut() {
            test.hops = hops;
        }
    }

    /// Sends no more, and waits for what is on its way.
    fn wind_down(&mut self, now: Instant, ends_as: Stage, reason: Option<String>, ports: &mut Ports) {
        self.look_at_hops(now, ports);
        let Some(test) = self.line.sending.as_mut() else { return };
        (test.stage, test.since, test.ends_as, test.reason) = (Stage::Finishing, now, ends_as, reason);
        test.pace = None;
        test.elapsed = now.saturating_since(test.began).min(test.ask.duration);
        let (handle, seq) = (test.handle, test.sent);
        self.enter(now, handle, seq, Bytes::new(), Flags { end: true, ..Flags::default() }, ports);
    }

    fn fail(&mut self, now: Instant, why: String, ports: &mut Ports) {
        if let Some(test) = self.line.sending.as_mut() {
            test.reason = Some(why);
        }
        self.conclude(now, Stage::Failed, ports);
    }

    /// The test is over; what it took is given back.
    fn conclude(&mut self, now: Instant, stage: Stage, ports: &mut Ports) {
        let Some(test) = self.line.sending.as_mut() else { return };
        (test.stage, test.since, test.pace, test.payload) = (stage, now, None, Bytes::new());
        let (id, accounts) = (test.id.clone(), test.accounts.clone());
        tracing::info!(to = %test.ask.to, ?stage, reason = test.reason.as_deref(), sent = test.sent, "the line test is over");
        self.unpublish_here(now, &id);
        self.unwatch_here(now, &accounts, ports);
    }

    /// Whether another relay has begun a test that ends here.
    fn look_for_test(&mut self, now: Instant, ports: &mut Ports) {
        let generation = self.directory.generation();
        if self.line.serving.is_some() || self.line.looked == Some(generation) {
            return;
        }
        self.line.looked = Some(generation);
        let me = self.name().clone();
        let is_test = |claim: &Ingress<'_>| {
            line::tester(&claim.state.name, &me).is_some_and(|from| from == *claim.node && from != me)
        };
        let Some((from, state)) = self.directory.find(is_test) else { return };
        let deadline = Duration::from_micros(u64::from(state.deadline_us));
        let test = StreamId { name: state.name, incarnation: state.incarnation, ingress: from.clone() };
        let accounts = line::account_stream(&from, &me);
        let Some((accounts, _, accounts_handle)) =
            accounts.and_then(|name| self.publish_here(now, name, ACCOUNT_DEADLINE, ports))
        else {
            return;
        };
        tracing::info!(%from, "a line test ends here");
        let (handle, meter) = (None, Meter::new(test.incarnation.0));
        let (told, next_account, since, heard) = (0, now, now, now);
        let name = test.name.clone();
        self.line.serving = Some(Box::new(Serving {
            test,
            handle,
            deadline,
            meter,
            accounts,
            accounts_handle,
            told,
            next_account,
            since,
            heard,
        }));
        self.watch_here(now, &name, ports);
    }

    /// Keeps account of the test that ends here, tells its sender, and lets it go when it is over.
    fn serve_test(&mut self, now: Instant, ports: &mut Ports) {
        let Some(test) = self.line.serving.as_mut() else { return };
        let StreamId { name, incarnation, ingress } = &test.test;
        if self.directory.advertises(ingress, name, *incarnation) {
            test.heard = now;
        }
        let longest = line::MOST_DURATION + PATIENCE + LAST_ACCOUNT + Duration::from_secs(30);
        if now.saturating_since(test.heard) > GONE_FOR || now.saturating_since(test.since) > longest {
            let (name, accounts) = (test.test.name.clone(), test.accounts.clone());
            self.line.serving = None;
            self.line.looked = None;
            self.unwatch_here(now, &name, ports);
            self.unpublish_here(now, &accounts);
            return;
        }
        let missing = test.meter.settle(now, test.deadline);
        let id = test.test.clone();
        self.trace_test(now, &id, missing, ports);
        let Some(test) = self.line.serving.as_mut().filter(|test| test.next_account <= now) else { return };
        test.next_account = now + ACCOUNT_EVERY;
        let (handle, seq) = (test.accounts_handle, test.told);
        test.told += 1;
        if let Some(account) = test.meter.account(seq).encode() {
            self.enter(now, handle, seq, account, Flags { high_priority: true, end: false }, ports);
        }
    }
}

impl Sending {
    fn report(&self, me: &NodeName) -> LineTest {
        let account = self.account.clone().unwrap_or_default();
        let sent = u64::from(self.sent);
        let received = account.received.min(sent);
        let settled = matches!(self.stage, Stage::Done | Stage::Stopped | Stage::Failed);
        // A peer says what it likes: never more than there was.
        let missing = if settled { sent - received } else { account.missing.min(sent - received) };
        let due = received + missing;
        let share = |packets: u64| (due > 0).then(|| packets as f64 / due as f64);
        let deadline_ms = self.ask.deadline.as_secs_f64() * 1e3;
        let shorter = Ages::heard(&account.ages);
        let mut delivered: Vec<Delivered> = shorter
            .within()
            .map(|(bound, packets)| (f64::from(bound), packets.min(received)))
            .filter(|(bound, _)| *bound < deadline_ms)
            .map(|(deadline_ms, packets)| Delivered { deadline_ms, packets, share: share(packets) })
            .collect();
        delivered.push(Delivered { deadline_ms, packets: received, share: share(received) });
        let lost: Vec<HopMisses> = account
            .lost
            .iter()
            .map(|(from, to, packets)| HopMisses { from: from.clone(), to: to.clone(), packets: *packets })
            .collect();
        let known = lost.iter().fold(0u64, |sum, hop| sum.saturating_add(hop.packets));
        let per_hop = self.hops.iter().filter(|hop| hop.used).map(|hop| 1.0 + hop.overhead.unwrap_or(0.0));
        LineTest {
            from: me.clone(),
            to: self.ask.to.clone(),
            stage: self.stage,
            reason: self.reason.clone(),
            rate: self.ask.rate.as_bps(),
            duration_s: self.ask.duration.as_secs_f64(),
            deadline_ms,
            packet_size: self.ask.packet_size,
            elapsed_s: self.elapsed.as_secs_f64(),
            sent,
            not_sent: self.not_sent,
            received,
            missing,
            delivered,
            delay: figures(&account),
            hops: self.hops.clone(),
            lost,
            lost_unknown: missing.saturating_sub(known),
            transmissions_per_packet: per_hop.sum(),
        }
    }
}

fn figures(account: &Account) -> DelayFigures {
    let ms = |us: u32| f64::from(us) / 1e3;
    let [least, p50, p99, p999, most, jitter] = account.delay_us.map(ms);
    DelayFigures { least_ms: least, p50_ms: p50, p99_ms: p99, p999_ms: p999, most_ms: most, jitter_ms: jitter }
}
