//! The sending side: first transmissions, answers to reports, copies ahead of loss.
//!
//! The receiver reports what it lacks; everything else is decided here, by the rule of repair: *redundancy ahead
//! of loss goes only into the last transmission that feedback can no longer correct*. For a packet with `left` until the last
//! useful moment to send, and a turn of feedback taking `turn`, there are `left / turn` rounds. All but the last are one plain
//! copy per loss; the last is as many combinations of all that is missing as it takes, spaced beyond a burst. A packet
//! without even one round is covered by a sliding window code, or, where such packets are rare, by copies of its own.

mod agenda;
mod answer;
mod choice;
mod code;
mod measure;
mod media;
mod pool;
mod repair;

use crate::allowance::Allowance;
use crate::capacity::{Capacity, Sample};
use crate::endpoint::{Packet, SendError};
use crate::frame::{BODY_HEADER, Body, Horizon};
use crate::history::History;
use crate::ids::LinkSeq;
use crate::pacer::{Budget, Pacer};
use crate::path::{News, Path};
use crate::policy::{Policy, RepairMode};
use crate::queue::{Overflow, Queue, Waiting};
use crate::receiver;
use crate::seq;
use crate::stats::LinkStats;
use crate::time::Instant;
use crate::timing::stamp;
use crate::units::{Bitrate, Residual};
use agenda::Agenda;
use bytes::BytesMut;
use code::Code;
use measure::{Rate, Share};
use pool::Pools;
use std::collections::VecDeque;
use std::time::Duration;

/// What a repair frame may need beyond the body it carries: the longest prefix with a set of some members, and the length.
const REPAIR_ROOM: usize = 48;
/// Shortest time before the last useful moment in which a packet that is not known to have arrived is sent again.
const SHORTEST_FAIL_SAFE: Duration = Duration::from_millis(6);
/// Most fail-safe copies of a packet.
const MOST_FAIL_SAFE: u32 = 4;
/// How long after a turn without any word of an answer it is taken for lost.
const PATIENCE: Duration = Duration::from_millis(6);
/// Time without a report after which the path may be dead.
const SILENT: Duration = Duration::from_millis(80);
/// How long before the last useful moment the last copy leaves.
const LAST_CHANCE: Duration = Duration::from_millis(2);
/// Time in a turn of feedback beside the round trip: the report waits for its moment, the answer for its.
const TURN_SLACK: Duration = Duration::from_millis(1);
/// Most lateness that is taken for jitter and reckoned with; beyond it the path has stalled.
const MOST_JITTER: Duration = Duration::from_millis(20);
/// Longest wait for the next transmission to show a loss: when media pauses, probes show it.
const LONGEST_GAP: Duration = Duration::from_millis(25);
/// Time from the last media or repair to the first probe, where media comes more often than that, and from one probe to the next as a
/// multiple of the one before.
const PROBES_LOSSY: (Duration, f64) = (Duration::from_millis(1), 1.2);
const PROBES_CLEAN: (Duration, f64) = (Duration::from_millis(3), 2.0);
/// Turns of feedback that must be left before a probe waits at all where losses are common, and the longest that the first then waits.
const NEEDED_TURNS: u32 = 4;
const MOST_PROBE_WAIT: Duration = Duration::from_millis(5);
/// Probes after which only the regular ones follow.
const MOST_PROBES: u32 = 16;
/// Time between probes while a report is overdue.
const OVERDUE_PROBES: Duration = Duration::from_millis(3);
/// Share of reports lost from which they count as lost.
const LOSSY: f64 = 0.002;
/// Ceiling on repair as a share of media while others fill the queue, where it is ours to choose.
const CONTENDED_OVERHEAD: f64 = 0.1;
/// What a lost report delays an answer by.
const REPORT_SLIP: Duration = Duration::from_millis(2);
/// Bounds of the time kept for spreading the last answer.
const SHORTEST_SPREAD: Duration = Duration::from_millis(8);
const LONGEST_SPREAD: Duration = Duration::from_millis(30);
/// Answers a symbol may get, whatever the peer reports.
const MAX_ANSWERS: u8 = 24;
/// Round-trip time assumed before one is measured.
const UNMEASURED_RTT: Duration = Duration::from_millis(60);
/// Share of packets without time for an answer from which the window code takes over.
const MANY_HURRIED: f64 = 0.25;

/// Symbols looked at for the peer's reports: so many at once (eight full histories), and so many for each second: some
/// ten times what a link of 1 Gbit/s takes that loses a fifth.
const MOST_READ: u32 = 1 << 18;
const READ_PER_SECOND: u32 = 8_000_000;

/// What the sender knows of the way from elsewhere.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    /// Bare transit to the peer.
    pub(crate) transit: Duration,
    /// Smoothed round-trip time.
    pub(crate) rtt: Duration,
    /// How much longer than the quickest the last way there was.
    pub(crate) delay: Duration,
}

/// The sending side of a link.
#[derive(Debug)]
pub(crate) struct Sender {
    policy: Policy,
    max_frame: usize,
    queue: Queue,
    /// The second half of a packet whose first half has left.
    second_half: Option<(Body, bytes::Bytes, Instant, Option<Residual>)>,
    history: History,
    /// Symbols not known to have arrived, in rising order.
    unacked: VecDeque<u64>,
    path: Path,
    agenda: Agenda,
    pools: Pools,
    code: Code,
    pacer: Pacer,
    capacity: Capacity,
    /// Something had to wait for the pace since the last report.
    limited: bool,
    budget: Budget,
    way: Option<Way>,
    /// How far behind this end's host is; zero where that is of no account.
    lag: Duration,
    /// Share of the peer's reports that are lost.
    reports_lost: f64,
    /// Lateness that the peer reports.
    lateness: Duration,
    /// Share of hurried packets among the last few.
    hurried: f64,
    /// Shares of packets that need particular care: the rarer, the less it may cost and the less sure it must be.
    critical_share: Share,
    fail_safe_share: Share,
    rate: Rate,
    last_sent: Instant,
    /// Until when the last media frame may be mended.
    last_until: Instant,
    /// Transmissions sent, and arrived as far as is known, since the start.
    sent: u64,
    arrived: u64,
    /// Probes since media or repair was last sent.
    probes: u32,
    last_report: Instant,
    /// Since when there has been something that is not known to have arrived.
    waiting_since: Instant,
    /// When the next answer to a report may leave: a burst is not repaired by a burst.
    next_answer: Instant,
    missing: Vec<u64>,
    /// Symbols that may be looked at for reports.
    reading: Allowance,
    stats: LinkStats,
}

impl Sender {
    pub(crate) fn new(now: Instant, policy: Policy, max_frame: usize, max_history: usize, first: [u32; 2]) -> Sender {
        Sender {
            policy,
            max_frame,
            queue: Queue::new(),
            second_half: None,
            history: History::new(seq::first(first[0]), max_history),
            unacked: VecDeque::new(),
            path: Path::new(seq::first(first[1])),
            agenda: Agenda::default(),
            pools: Pools::default(),
            code: Code::default(),
            pacer: Pacer::new(policy.capacity),
            capacity: Capacity::new(now),
            limited: false,
            budget: Budget::new(policy.max_overhead),
            way: None,
            lag: Duration::ZERO,
            reports_lost: 0.0,
            lateness: Duration::ZERO,
            hurried: 0.0,
            critical_share: Share::new(0.01),
            fail_safe_share: Share::new(0.01),
            rate: Rate::new(now),
            last_sent: now,
            last_until: now,
            sent: 0,
            arrived: 0,
            probes: u32::MAX,
            last_report: now,
            waiting_since: now,
            next_answer: now,
            missing: Vec::new(),
            reading: Allowance::new(MOST_READ, READ_PER_SECOND),
            stats: LinkStats::default(),
        }
    }

    pub(crate) fn policy(&self) -> Policy {
        self.policy
    }

    pub(crate) fn set_policy(&mut self, now: Instant, policy: Policy) {
        self.policy = policy;
        self.pacer.set_rate(now, policy.capacity.or(self.capacity.rate()));
        self.limit_repair();
    }

    pub(crate) fn set_max_frame(&mut self, max_frame: usize) {
        self.max_frame = max_frame;
    }

    pub(crate) fn set_way(&mut self, way: Way) {
        self.way = Some(way);
    }

    /// Takes how far behind this end's host is; zero where that is of no account.
    pub(crate) fn set_lag(&mut self, lag: Duration) {
        self.lag = lag;
    }

    pub(crate) fn lag(&self) -> Duration {
        self.lag
    }

    /// Whether what is heard, or not heard, is old: see [`crate::Link::set_lag`].
    fn is_behind(&self) -> bool {
        !self.lag.is_zero()
    }

    /// Takes the share lost of what the peer sends.
    pub(crate) fn set_reports_lost(&mut self, share: f64) {
        self.reports_lost = share.clamp(0.0, 1.0);
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn stats(&self) -> LinkStats {
        self.stats
    }

    pub(crate) fn media_rate(&self, now: Instant) -> Bitrate {
        self.rate.get(now)
    }

    pub(crate) fn capacity(&self) -> Option<Bitrate> {
        self.pacer.rate()
    }

    /// When anything was sent last.
    pub(crate) fn last_sent(&self) -> Instant {
        self.last_sent
    }

    /// When the next probe is due, where nothing else is sent before. A loss shows at the next transmission of any kind, so the last ones
    /// before a pause (of a picture, of an answer) are followed by a probe soon (as RFC 8985 section 7.2 does), and by others less and
    /// less often, down to the regular one, until the peer is known to have them. Where bursts are bursts of packets and not of
    /// time, only what is sent ends one: on a lossy path the probes follow each other quickly, so that neither the loss nor its
    /// answer waits for the next picture.
    pub(crate) fn probe_due(&self, regular: Duration) -> Instant {
        if self.unacked.is_empty() || self.is_behind() {
            return self.last_sent + regular;
        }
        let clean = self.path.is_clean();
        let calm = clean && self.reports_lost <= LOSSY;
        let expected = if calm {
            self.last_report.max(self.waiting_since) + self.turn() + receiver::SLOW + PATIENCE
        } else {
            self.last_report + self.turn() + PATIENCE
        };
        let overdue = expected.max(self.last_sent + OVERDUE_PROBES);
        if self.probes >= MOST_PROBES {
            return (self.last_sent + regular).min(overdue);
        }
        let (mut first, growth) = if clean { PROBES_CLEAN } else { PROBES_LOSSY };
        let left = (self.last_until - self.last_sent).saturating_sub(self.turn());
        if calm {
            // Where a loss is rare it may be found late, as long as there is time to mend it.
            first = (left / 4).clamp(first, LONGEST_GAP);
        } else {
            // Where turns are many, a share of the time for them is given for probes that the next media makes needless.
            let spare = left.saturating_sub(self.turn() * NEEDED_TURNS);
            first = (spare / 32).clamp(first, MOST_PROBE_WAIT);
        }
        let first = first.max(self.rate.interval() * 5 / 4);
        (self.last_sent + first.mul_f64(growth.powi(self.probes as i32)).min(regular)).min(overdue)
    }

    /// Numbers a probe that leaves now.
    pub(crate) fn number_probe(&mut self, now: Instant) -> LinkSeq {
        self.probes = self.probes.saturating_add(1);
        self.number(now)
    }

    /// Takes a packet into the queue.
    pub(crate) fn send(&mut self, now: Instant, packet: Packet) -> Result<(), SendError> {
        let most = 2 * self.half_limit();
        let size = packet.payload.len();
        if size > most.min(crate::Link::MAX_PAYLOAD) {
            return Err(SendError::TooLarge { size, most: most.min(crate::Link::MAX_PAYLOAD) });
        }
        if packet.recover_until < now + self.transit() {
            self.stats.dropped_late += 1;
            return Err(SendError::TooLate);
        }
        let birth = stamp(now).wrapping_sub(packet.age.as_micros() as u32);
        if self.queue.bytes() + size > self.queue_limit() {
            self.drop_late(now);
        }
        match self.queue.push(Waiting { packet, birth, since: now }, self.queue_limit()) {
            Overflow::None => Ok(()),
            Overflow::Dropped(count) => {
                self.stats.dropped_low_priority += count as u64;
                Ok(())
            }
            Overflow::Refused => {
                self.stats.dropped_queue_full += 1;
                Err(SendError::QueueFull)
            }
        }
    }

    /// Keeps to what the path can carry, as far as nobody has said it.
    fn follow_capacity(&mut self, now: Instant, news: News) {
        self.arrived += news.arrived;
        let Some(way) = self.way else { return };
        let sample = Sample {
            delay: way.delay,
            arrived: news.bytes,
            sent_in_all: self.sent,
            arrived_in_all: self.arrived,
            loss: self.path.loss(),
            rtt: way.rtt,
            limited: std::mem::take(&mut self.limited),
        };
        let contended = self.capacity.is_contended();
        self.capacity.on_report(now, sample);
        if self.capacity.is_contended() != contended {
            self.limit_repair();
        }
        if self.policy.capacity.is_none() {
            self.pacer.set_rate(now, self.capacity.rate());
        }
    }

    /// What is lost at the tail of a queue that others fill is no reason to send more. Who says the mode, or what the path carries, knows better.
    fn limit_repair(&mut self) {
        let ours = self.policy.mode == RepairMode::Auto && self.policy.capacity.is_none();
        let most = if ours && self.capacity.is_contended() { CONTENDED_OVERHEAD } else { f64::INFINITY };
        self.budget.set_share(self.policy.max_overhead.min(most));
    }

    fn count_sent(&mut self, now: Instant, bytes: usize) {
        self.path.on_written(bytes);
        self.pacer.on_sent(now, bytes);
    }

    /// Writes the next media or repair frame that may leave at `now`.
    pub(crate) fn poll_transmit(&mut self, now: Instant, out: &mut BytesMut) -> Option<usize> {
        if self.pacer.ready_at() > now {
            self.limited |= self.next_due().is_some_and(|(_, waits)| waits);
            return None;
        }
        let written =
            self.poll_task(now, out).or_else(|| self.poll_code(now, out)).or_else(|| self.poll_media(now, out))?;
        self.count_sent(now, written);
        Some(written)
    }

    /// When something will be ready to leave that is not yet, and whether it waits for the pace alone.
    pub(crate) fn next_due(&self) -> Option<(Instant, bool)> {
        let waits = !self.queue.is_empty() || self.second_half.is_some() || self.code.is_due();
        let task = self.agenda.next_due();
        match (waits, task) {
            (true, _) => Some((self.pacer.ready_at(), true)),
            (false, Some(due)) => Some((due.max(self.pacer.ready_at()), false)),
            (false, None) => None,
        }
    }

    /// Drops what has outlived its use.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.history.trim(now, !self.uses_code());
        while self.unacked.front().is_some_and(|symbol| *symbol < self.history.first()) {
            self.unacked.pop_front();
        }
    }

    /// How far the sender has come.
    pub(crate) fn horizon(&self) -> Horizon {
        let kept = self.history.next() - self.history.first();
        Horizon { next_symbol: self.history.next() as u32, kept: kept.min(u64::from(u16::MAX)) as u16 }
    }

    /// Things held, to see that nothing piles up.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        let symbols = (self.history.next() - self.history.first()) as usize;
        symbols + self.unacked.len() + self.agenda.len() + self.path.in_flight() + self.pools.len()
    }

    /// Symbols looked at for the peer's reports.
    #[cfg(test)]
    pub(crate) fn work(&self) -> u64 {
        self.reading.taken()
    }

    /// Whether symbols are kept.
    pub(crate) fn is_idle(&self) -> bool {
        self.history.next() == self.history.first()
    }

    /// Numbers a transmission that leaves now; returns its number on the wire.
    pub(crate) fn number(&mut self, now: Instant) -> LinkSeq {
        self.last_sent = now;
        self.sent += 1;
        LinkSeq(self.path.on_sent(now) as u32)
    }

    /// Counts bytes of a frame written elsewhere against the pace.
    pub(crate) fn on_other_sent(&mut self, now: Instant, bytes: usize) {
        self.count_sent(now, bytes);
    }

    fn transit(&self) -> Duration {
        self.way.map_or(Duration::ZERO, |way| way.transit)
    }

    /// Time from a transmission until the answer to its loss can leave: the loss shows at the next transmission.
    fn turn(&self) -> Duration {
        let rtt = self.way.map_or(UNMEASURED_RTT, |way| way.rtt);
        rtt + self.lateness.min(MOST_JITTER) + self.rate.interval().min(LONGEST_GAP) + TURN_SLACK
    }

    /// Time that the last answer needs beyond a turn, so that its copies do not all share one burst.
    fn spread(&self) -> Duration {
        (self.path.spacing() + REPORT_SLIP).clamp(SHORTEST_SPREAD, LONGEST_SPREAD)
    }

    /// The last moment at which sending a symbol that must arrive by `until` is of use, less a reserve for jitter. The reserve
    /// is never more than a quarter of what is left: after one long stall of the path, the tail of its lateness would
    /// otherwise forbid all repair until the stall is forgotten.
    fn latest(&self, now: Instant, until: Instant) -> Instant {
        let bare = until.saturating_sub(self.transit() + Duration::from_micros(500));
        bare.saturating_sub(self.lateness.min(MOST_JITTER).min((bare - now) / 4))
    }

    /// Largest payload that a symbol may carry whole.
    fn half_limit(&self) -> usize {
        self.max_frame.saturating_sub(BODY_HEADER + REPAIR_ROOM)
    }

    fn queue_limit(&self) -> usize {
        let held = self.pacer.rate().map_or(4 << 20, |rate| rate.bytes_in(Duration::from_millis(200)) as usize);
        held.clamp(64 << 10, 16 << 20)
    }

    /// Drops what would arrive too late: by the bare transit, the queue on the way, and a little, so that what is
    /// sent at the last moment is not sent in vain.
    fn drop_late(&mut self, now: Instant) {
        let delay = self.way.map_or(Duration::ZERO, |way| way.delay.min(MOST_JITTER));
        let transit = self.transit() + delay.max(self.capacity.standing_delay()) + LAST_CHANCE;
        self.stats.dropped_late += self.queue.drop_late(now + transit);
    }

    fn uses_code(&self) -> bool {
        match self.policy.mode {
            RepairMode::Fec | RepairMode::Hybrid => true,
            RepairMode::Auto => self.hurried > MANY_HURRIED,
            RepairMode::Off | RepairMode::Arq | RepairMode::Duplicate => false,
        }
    }

    /// The share of packets that may be left missing, where they have a target of their own or have not.
    fn residual(&self, target: Option<Residual>) -> f64 {
        target.map_or(self.policy.target_residual, Residual::as_share)
    }

    /// The residual that may be left among packets of a kind that makes up such a share of all.
    fn target_among(&self, share: f64, residual: f64) -> f64 {
        (residual / share.max(1e-6)).clamp(1e-6, 1e-2)
    }
}
