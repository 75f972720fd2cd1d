//! The link's state machine; see the crate documentation for the order of calls.

use crate::frame::{self, Echo, Frame, PathProbe, Probe};
use crate::ids::{Flags, Label, MediaTime, StreamHandle, StreamSeq};
use crate::policy::Policy;
use crate::proof::{PathProof, Verdict};
use crate::receiver::{QUIET, Receiver};
use crate::sender::{Sender, Way};
use crate::stats::{LinkQuality, LinkStats};
use crate::time::Instant;
use crate::timing::{Timing, stamp, stamp_age};
use crate::units::Residual;
use bytes::{Bytes, BytesMut};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::time::Duration;

/// A media packet on its way out on this link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The stream, by this link's handle for it.
    pub stream: StreamHandle,
    /// The packet's number in the stream.
    pub seq: StreamSeq,
    /// When the source received it.
    pub media_time: MediaTime,
    /// Time since the source received it, at the moment of [`Link::send`].
    pub age: Duration,
    /// The graph it travels on.
    pub label: Label,
    /// Its marks.
    pub flags: Flags,
    /// What it carries; at most [`Link::MAX_PAYLOAD`] bytes. Shared, never copied, between links.
    pub payload: Bytes,
    /// When it must have *arrived* at the peer to be of use, on this end's clock: repair goes on until then.
    pub recover_until: Instant,
    /// What share of packets like it may be left missing; `None`: what the link's policy says. Repair is shared, so that among several that are
    /// repaired together the strictest counts.
    pub target: Option<Residual>,
}

/// How a delivered packet came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Recovery {
    /// As first sent.
    None,
    /// By retransmission, plain or coded, on request.
    Arq,
    /// By code, a fail-safe copy or a duplicate sent ahead of any request.
    Fec,
}

/// A media packet that arrived, in whatever order it did; each one once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The stream, by the peer's handle for it.
    pub stream: StreamHandle,
    /// The packet's number in the stream.
    pub seq: StreamSeq,
    /// When the source received it.
    pub media_time: MediaTime,
    /// Time since the source received it, now: the peer's account plus this hop's transit, repair included.
    pub age: Duration,
    /// The graph it travels on.
    pub label: Label,
    /// Its marks.
    pub flags: Flags,
    /// What it carries.
    pub payload: Bytes,
    /// How it came.
    pub recovery: Recovery,
}

/// Why [`Link::send`] refused a packet; nothing of it was kept. Counted in [`LinkStats`] as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The payload is larger than two frames hold.
    #[error("payload of {size} bytes; a link carries at most {most}")]
    TooLarge {
        /// Bytes offered.
        size: usize,
        /// Bytes that fit.
        most: usize,
    },
    /// Even if sent now it would arrive after `recover_until`.
    #[error("the packet can no longer arrive in time")]
    TooLate,
    /// The queue is full of packets that go before this one.
    #[error("the sending queue is full")]
    QueueFull,
}

/// Why a link asks to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimeoutReason {
    /// The next queued transmission may leave by the pacing law.
    Pacing,
    /// Feedback is due.
    Feedback,
    /// A repair or a fail-safe copy is due.
    Repair,
    /// Nothing was sent for a while: a probe is due.
    Probe,
    /// A question about the size of the path, or its verdict, is due.
    PathProof,
    /// State grew old.
    Expiry,
}

/// What is fixed when a link is made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkConfig {
    /// Largest frame the path carries, header included: quinn's `max_datagram_size()`. Larger packets are split in two
    /// frames and rejoined at the peer. Follow changes by [`Link::set_max_frame`].
    pub max_frame: usize,
    /// The repair policy at start; change it by [`Link::set_policy`].
    pub policy: Policy,
    /// Seed of the code's random coefficients. Give each link its own.
    pub seed: u64,
    /// How long a probe may be put off where nothing else is sent.
    pub probe_interval: Duration,
    /// The same where no media has come or gone for some seconds and the peer is heard.
    pub idle_probe_interval: Duration,
    /// Most bytes of media kept for repair, and again for decoding.
    pub max_history: usize,
    /// Whether the peer may send media. From one that has none to send they count as malformed, and are not looked at.
    pub takes_media: bool,
}

impl LinkConfig {
    /// Time between probes, unless configured: a silent link between relays is a problem within 100 ms.
    pub const PROBES: Duration = Duration::from_millis(25);

    /// For a link between a relay and an end host, of which a relay has many, and on which no route depends on hearing of trouble at once: probes
    /// are four times as far apart where nothing is lost, and forty times where it is idle.
    pub fn leaf() -> LinkConfig {
        LinkConfig {
            probe_interval: LinkConfig::PROBES * 4,
            idle_probe_interval: LinkConfig::PROBES * 40,
            ..LinkConfig::default()
        }
    }
}

impl Default for LinkConfig {
    fn default() -> Self {
        LinkConfig {
            max_frame: 1162,
            policy: Policy::default(),
            seed: 0,
            probe_interval: LinkConfig::PROBES,
            idle_probe_interval: LinkConfig::PROBES,
            max_history: 16 << 20,
            takes_media: true,
        }
    }
}

/// One end of a link: sender and receiver of media in both directions.
#[derive(Debug)]
pub struct Link {
    sender: Sender,
    receiver: Receiver,
    timing: Timing,
    max_frame: usize,
    /// The peer's last question about the size of the path, until it is answered, and the size.
    asked: Option<(PathProbe, usize)>,
    proof: Option<PathProof>,
    proofs: u32,
    /// Our stamp of the transmission that the peer last told to have arrived.
    delivered: Option<u32>,
    started: Instant,
    probe_interval: Duration,
    idle_probe_interval: Duration,
    /// When media last came or went.
    media_at: Instant,
    next_expiry: Instant,
    malformed: u64,
    feedback_packets_sent: u64,
    feedback_bytes_sent: u64,
    probe_packets_sent: u64,
}

/// How often state is looked over for what grew old.
const EXPIRY: Duration = Duration::from_millis(50);

/// Time without media after which a link is idle.
const IDLE_AFTER: Duration = Duration::from_secs(3);
/// The same for a link that has just been made: enough to measure the path.
const IDLE_AFTER_START: Duration = Duration::from_secs(1);

impl Link {
    /// Lag of the host from which it counts (see [`Link::set_lag`]): more than it takes to deal with a burst of pictures.
    pub const BEHIND: Duration = Duration::from_millis(20);

    /// Largest payload of a [`Packet`]; two frames on the smallest legal QUIC path (1200 bytes) hold it.
    pub const MAX_PAYLOAD: usize = 2048;

    /// A link at rest. Numbers start anywhere: the seed decides.
    pub fn new(now: Instant, config: LinkConfig) -> Link {
        let mut random = StdRng::seed_from_u64(config.seed);
        Link::with_first_numbers(now, config, [random.next_u32(), random.next_u32()])
    }

    /// A link whose first symbol and first transmission have these numbers.
    fn with_first_numbers(now: Instant, config: LinkConfig, first: [u32; 2]) -> Link {
        Link {
            sender: Sender::new(now, config.policy, config.max_frame, config.max_history, first),
            receiver: Receiver::new(now, config.max_history, config.takes_media),
            timing: Timing::new(),
            max_frame: config.max_frame,
            asked: None,
            proof: None,
            proofs: 0,
            delivered: None,
            started: now,
            probe_interval: config.probe_interval,
            idle_probe_interval: config.idle_probe_interval.max(config.probe_interval),
            media_at: now.saturating_sub(IDLE_AFTER - IDLE_AFTER_START),
            next_expiry: now + EXPIRY,
            malformed: 0,
            feedback_packets_sent: 0,
            feedback_bytes_sent: 0,
            probe_packets_sent: 0,
        }
    }

    /// Takes a packet for the peer. It leaves by [`Link::poll_transmit`].
    pub fn send(&mut self, now: Instant, packet: Packet) -> Result<(), SendError> {
        self.media_at = now;
        self.sender.send(now, packet)
    }

    /// Takes a datagram that came from the peer. Bytes that are no frame are counted as malformed and change nothing.
    ///
    /// The link keeps slices of `datagram` for decoding; hand in a copy where it is a slice of a large receive buffer.
    pub fn handle_datagram(&mut self, now: Instant, datagram: Bytes) {
        let Ok(frame) = frame::decode(&datagram) else {
            self.malformed += 1;
            return;
        };
        if let Frame::Path(probe) = frame {
            self.on_path_probe(probe, datagram.len());
            return;
        }
        let is_media = matches!(frame, Frame::Media(_) | Frame::Repair(_));
        if is_media && !self.receiver.takes_media() {
            self.malformed += 1;
            return;
        }
        if !self.receiver.on_frame(now, &mut self.timing, &frame, &datagram) {
            return;
        }
        if is_media {
            self.media_at = now;
        }
        if let Frame::Feedback(feedback) = frame {
            let Echo { stamp, arrived } = feedback.echo;
            self.delivered = Some(stamp);
            self.timing.on_echo(now, stamp, arrived, feedback.sent);
            if self.timing.is_measured() {
                let transit = self.timing.rtt_min() / 2;
                self.sender.set_way(Way { transit, rtt: self.timing.rtt().0, delay: self.timing.delay_there() });
            }
            self.sender.set_reports_lost(self.receiver.arrivals.loss().1);
            self.sender.on_feedback(now, &feedback);
            self.receiver.set_loss_sent(self.sender.path().loss());
        }
    }

    /// Does what has come due by `now`. Calling it early or late is harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.receiver.handle_timeout(now);
        if self.next_expiry <= now {
            self.sender.expire(now);
            self.next_expiry = now + EXPIRY;
        }
    }

    /// Takes how far behind the host of this link is: for how long a datagram that is handed in now may have lain unread, and a packet that
    /// is sent now may have waited for its turn.
    ///
    /// Silence says nothing to a host that is behind: the word that it waits for may lie in its own socket. And time is what it lacks. From
    /// [`Link::BEHIND`] on its link therefore sends no copies and no hasty probes for want of word, takes no delay of the host's for one
    /// of the path, and repairs ahead of loss only what would be in a hurry without the host's own doing. Otherwise a moment without a
    /// processor makes every packet urgent and every report late, and what is sent for that keeps the host behind for good (a metastable
    /// failure, Bronson et al., HotOS 2021).
    pub fn set_lag(&mut self, lag: Duration) {
        let lag = if lag >= Link::BEHIND { lag } else { Duration::ZERO };
        self.sender.set_lag(lag);
        self.timing.set_behind(!lag.is_zero());
    }

    /// The next packet that arrived.
    pub fn poll_delivery(&mut self) -> Option<Delivery> {
        self.receiver.symbols.poll_delivery()
    }

    /// Appends the next datagram to send to `out` and returns its length, or `None` when nothing may be sent at `now`.
    pub fn poll_transmit(&mut self, now: Instant, out: &mut BytesMut) -> Option<usize> {
        if let Some(written) = self.poll_path_probe(now, out) {
            self.sender.on_other_sent(now, written);
            return Some(written);
        }
        let quiet = self.quiet();
        if self.receiver.report_due(&self.timing, quiet).is_some_and(|due| due <= now) {
            self.receiver.handle_timeout(now);
            let number = self.sender.number(now);
            let written = self.receiver.report(now, &self.timing, quiet, number, self.sender.horizon(), out)?;
            self.feedback_packets_sent += 1;
            self.feedback_bytes_sent += written as u64;
            self.sender.on_other_sent(now, written);
            return Some(written);
        }
        if let Some(written) = self.sender.poll_transmit(now, out) {
            return Some(written);
        }
        if self.probe_due() <= now {
            let start = out.len();
            let probe =
                Probe { link_seq: self.sender.number_probe(now), sent: stamp(now), horizon: self.sender.horizon() };
            probe.put(out);
            self.probe_packets_sent += 1;
            self.sender.on_other_sent(now, out.len() - start);
            return Some(out.len() - start);
        }
        None
    }

    /// When to call [`Link::handle_timeout`] at the latest, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, TimeoutReason)> {
        let sender = self
            .sender
            .next_due()
            .map(|(due, pacing)| (due, if pacing { TimeoutReason::Pacing } else { TimeoutReason::Repair }));
        let report = self.receiver.report_due(&self.timing, self.quiet()).map(|due| (due, TimeoutReason::Feedback));
        let expiry = (!self.sender.is_idle()).then_some((self.next_expiry, TimeoutReason::Expiry));
        let probe = Some((self.probe_due(), TimeoutReason::Probe));
        let proof = self.proof.and_then(|proof| Some((proof.poll_timeout()?, TimeoutReason::PathProof)));
        [sender, report, expiry, probe, proof].into_iter().flatten().min_by_key(|(due, _)| *due)
    }

    /// Changes the repair policy from the next packet on.
    pub fn set_policy(&mut self, now: Instant, policy: Policy) {
        self.sender.set_policy(now, policy);
    }

    /// The repair policy in force.
    pub fn policy(&self) -> Policy {
        self.sender.policy()
    }

    /// Changes the largest frame the path carries.
    pub fn set_max_frame(&mut self, max_frame: usize) {
        self.max_frame = max_frame;
        self.sender.set_max_frame(max_frame);
    }

    /// Asks the peer whether the path still carries the largest frame, both ways; see [`Link::path_verdict`].
    pub fn prove_path(&mut self, now: Instant) {
        self.proofs = self.proofs.wrapping_add(1);
        self.proof = Some(PathProof::new(now, self.max_frame, self.proofs));
    }

    /// What the last [`Link::prove_path`] has found out by `now`; `None` where it was never asked.
    pub fn path_verdict(&self, now: Instant) -> Option<Verdict> {
        self.proof.map(|proof| proof.verdict(now))
    }

    /// Counters since the start.
    pub fn stats(&self) -> LinkStats {
        let arrivals = self.receiver.arrivals.counters();
        let symbols = self.receiver.symbols.counters();
        let sender = self.sender.stats();
        LinkStats {
            feedback_packets_sent: self.feedback_packets_sent,
            feedback_bytes_sent: self.feedback_bytes_sent,
            probe_packets_sent: self.probe_packets_sent,
            media_packets_received: symbols.media,
            media_bytes_received: symbols.media_bytes,
            wire_lost: arrivals.lost,
            wire_received: arrivals.received,
            recovered_by_arq: symbols.by_arq,
            recovered_by_fec: symbols.by_fec,
            unrecovered: symbols.unrecovered,
            repair_unneeded: symbols.unneeded,
            malformed: self.malformed + symbols.malformed + sender.malformed,
            ..sender
        }
    }

    /// Bare one-way delay towards the peer, as of now: half the smallest round trip; zero before the first measurement.
    pub fn transit(&self) -> Duration {
        self.timing.rtt_min() / 2
    }

    /// What is known of the path at `now`.
    pub fn quality(&self, now: Instant) -> LinkQuality {
        let (rtt, rtt_variation) = self.timing.rtt();
        let rtt_min = self.timing.rtt_min();
        let path = self.sender.path();
        let (loss_received_fast, loss_received) = self.receiver.arrivals.loss();
        LinkQuality {
            rtt_min,
            rtt,
            rtt_variation,
            transit: rtt_min / 2,
            transit_bound: rtt_min / 2,
            jitter_p99: self.timing.lateness(0.01),
            loss_sent_fast: path.loss_fast(),
            loss_sent: path.loss(),
            burst_sent: path.burst(),
            loss_received_fast,
            loss_received,
            reordering: self.receiver.arrivals.reordering(),
            media_rate: self.sender.media_rate(now),
            capacity: self.sender.capacity(),
            silent_for: (now - self.receiver.last_arrival().unwrap_or(self.started)).saturating_sub(self.sender.lag()),
            heard_every: if self.is_idle() { self.idle_probe_interval } else { self.probe_interval },
            delivered_ago: (now - self.delivered_at(now)).saturating_sub(self.sender.lag()),
        }
    }

    fn on_path_probe(&mut self, probe: PathProbe, size: usize) {
        match &mut self.proof {
            _ if !probe.answer => self.asked = Some((PathProbe { answer: true, ..probe }, size)),
            Some(proof) => proof.handle_answer(probe, size),
            None => {}
        }
    }

    /// The answer to the peer's question, at its size where this end's own path allows it; else a question of our own.
    fn poll_path_probe(&mut self, now: Instant, out: &mut BytesMut) -> Option<usize> {
        match self.asked.take() {
            Some((answer, size)) => Some(answer.put(out, size.min(self.max_frame))),
            None => self.proof.as_mut()?.poll_transmit(now, out),
        }
    }

    /// When what the peer last told to have arrived was sent.
    fn delivered_at(&self, now: Instant) -> Instant {
        self.delivered.map_or(self.started, |sent| now.saturating_sub(stamp_age(now, sent)))
    }

    /// Whether there has been no media for so long that the link is watched less closely, where it may be.
    fn is_idle(&self) -> bool {
        self.sender.last_sent() - self.media_at >= IDLE_AFTER && self.idle_probe_interval > self.probe_interval
    }

    /// Time between reports where nothing but reports and probes comes. On an idle link they are all that there is, each the occasion of the next,
    /// and close enough that neither end misses word of its own before the other's is due.
    fn quiet(&self) -> Duration {
        if self.is_idle() { QUIET.max(self.idle_probe_interval * 3 / 4) } else { QUIET }
    }

    /// An idle link is probed seldom for as long as it is known to carry, both ways, and more often once a probe was lost, so that
    /// silence soon means something.
    fn probe_due(&self) -> Instant {
        let last_sent = self.sender.last_sent();
        if !self.is_idle() {
            // Where something is lost, what is sent last before a pause is to be missed soon.
            let regular = if self.sender.path().is_clean() { self.probe_interval } else { LinkConfig::PROBES };
            return self.sender.probe_due(regular.min(self.probe_interval));
        }
        let due = last_sent + (self.idle_probe_interval / 4).max(LinkConfig::PROBES);
        let heard = self.receiver.last_arrival().unwrap_or(self.started).min(self.delivered_at(last_sent));
        let missed = heard + self.idle_probe_interval + self.timing.rtt().0 + self.idle_probe_interval / 2;
        due.max((last_sent + self.idle_probe_interval).min(missed))
    }
}

#[cfg(test)]
mod tests;
