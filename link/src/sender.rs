//! The sending side: first transmissions, answers to reports, copies ahead of loss.
//!
//! The receiver reports what it lacks; everything else is decided here, by the rule of repair: *redundancy ahead
//! of loss goes only into the last transmission that feedback can no longer correct*. For a packet with `left` until the last
//! useful moment to send, and a turn of feedback taking `turn`, there are `left / turn` rounds. All but the last are one plain
//! copy per loss; the last is as many combinations of all that is missing as it takes, spaced beyond a burst. A packet
//! without even one round is covered by a sliding window code, or, where such packets are rare, by copies of its own.

mod agenda;
mod choice;
mod code;
mod pool;

use crate::capacity::{Capacity, Sample};
use crate::endpoint::{Packet, SendError};
use crate::frame::{self, BODY_HEADER, Body, Feedback, Horizon, Media, Part, Repair};
use crate::history::{History, Sent};
use crate::ids::LinkSeq;
use crate::pacer::{Budget, Pacer};
use crate::path::Path;
use crate::plan;
use crate::policy::{Policy, RepairMode};
use crate::queue::{Overflow, Queue, Waiting};
use crate::seq;
use crate::stats::LinkStats;
use crate::time::Instant;
use crate::timing::stamp;
use crate::units::Bitrate;
use agenda::{Agenda, Cause, Task};
use bytes::{BufMut, BytesMut};
use choice::Ahead;
use code::Code;
use pool::Pools;
use std::collections::VecDeque;
use std::time::Duration;

/// What a repair frame may need beyond the body it carries: the longest prefix with a set of some members, and the length.
const REPAIR_ROOM: usize = 48;
/// Shortest time before the last useful moment in which a packet that is not known to have arrived is sent again.
const SHORTEST_FAIL_SAFE: Duration = Duration::from_millis(6);
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
    second_half: Option<(Body, bytes::Bytes, Instant)>,
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
    /// Mean bytes of a transmission.
    mean_size: f64,
    budget: Budget,
    way: Option<Way>,
    /// Lateness that the peer reports.
    lateness: Duration,
    /// Share of hurried packets among the last few.
    hurried: f64,
    /// Shares of packets that need particular care: the rarer, the less it may cost and the less sure it must be.
    critical_share: Share,
    fail_safe_share: Share,
    rate: Rate,
    last_sent: Instant,
    last_report: Instant,
    /// When the next answer to a report may leave: a burst is not repaired by a burst.
    next_answer: Instant,
    missing: Vec<u64>,
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
            mean_size: 0.0,
            budget: Budget::new(policy.max_overhead),
            way: None,
            lateness: Duration::ZERO,
            hurried: 0.0,
            critical_share: Share::new(0.01),
            fail_safe_share: Share::new(0.01),
            rate: Rate::new(now),
            last_sent: now,
            last_report: now,
            next_answer: now,
            missing: Vec::new(),
            stats: LinkStats::default(),
        }
    }

    pub(crate) fn policy(&self) -> Policy {
        self.policy
    }

    pub(crate) fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
        self.pacer.set_rate(policy.capacity.or(self.capacity.rate()));
        self.budget.set_share(policy.max_overhead);
    }

    pub(crate) fn set_max_frame(&mut self, max_frame: usize) {
        self.max_frame = max_frame;
    }

    pub(crate) fn set_way(&mut self, way: Way) {
        self.way = Some(way);
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

    /// When anything was last sent.
    pub(crate) fn last_sent(&self) -> Instant {
        self.last_sent
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
        match self.queue.push(Waiting { packet, birth }, self.queue_limit()) {
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

    /// Takes the peer's report.
    pub(crate) fn on_feedback(&mut self, now: Instant, feedback: &Feedback<'_>) {
        self.last_report = now;
        self.lateness = Duration::from_micros(u64::from(feedback.lateness) * 10);
        let settled = seq::extend(feedback.settled.0, self.path.next());
        let arrived = self.path.on_report(settled, feedback.runs);
        self.follow_capacity(now, arrived);
        let up_to = seq::extend(feedback.known_up_to, self.history.next());
        if up_to > self.history.next() {
            return;
        }
        self.read_missing(up_to, feedback);
        self.acknowledge(up_to - u64::from(feedback.known_span), up_to);
        let missing = std::mem::take(&mut self.missing);
        for symbol in missing.iter().rev() {
            self.answer(now, *symbol, settled);
        }
        self.plan_pools(now);
        self.missing = missing;
        self.history.trim(now, !self.uses_code());
    }

    /// Keeps to what the path can carry, as far as nobody has said it.
    fn follow_capacity(&mut self, now: Instant, arrived: u64) {
        let Some(way) = self.way else { return };
        let arrived = (arrived as f64 * self.mean_size) as u64;
        let limited = std::mem::take(&mut self.limited);
        self.capacity.on_report(now, Sample { delay: way.delay, arrived, rtt: way.rtt, limited });
        if self.policy.capacity.is_none() {
            self.pacer.set_rate(self.capacity.rate());
        }
    }

    fn count_sent(&mut self, now: Instant, bytes: usize) {
        self.mean_size += (bytes as f64 - self.mean_size) / 64.0;
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

    /// Whether symbols are kept.
    pub(crate) fn is_idle(&self) -> bool {
        self.history.next() == self.history.first()
    }

    /// Numbers a transmission that leaves now; returns its number on the wire.
    pub(crate) fn number(&mut self, now: Instant) -> LinkSeq {
        self.last_sent = now;
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

    fn drop_late(&mut self, now: Instant) {
        let transit = self.transit();
        self.stats.dropped_late += self.queue.drop_late(now + transit);
    }

    fn uses_code(&self) -> bool {
        match self.policy.mode {
            RepairMode::Fec | RepairMode::Hybrid => true,
            RepairMode::Auto => self.hurried > MANY_HURRIED,
            RepairMode::Off | RepairMode::Arq | RepairMode::Duplicate => false,
        }
    }

    fn read_missing(&mut self, up_to: u64, feedback: &Feedback<'_>) {
        self.missing.clear();
        let mut above = up_to;
        let mut runs = feedback.missing;
        while let (Some(skip), Some(length)) = (runs.next(), runs.next()) {
            above = above.saturating_sub(skip.into());
            let from = above.saturating_sub(length.into()).max(self.history.first());
            self.missing.extend((from..above).rev());
            if from == self.history.first() {
                break;
            }
            above = from;
        }
    }

    /// Marks what the peer knows: everything in the range that is not in `missing`, which is in falling order.
    fn acknowledge(&mut self, from: u64, up_to: u64) {
        let mut missing = self.missing.iter().rev().copied().peekable();
        let mut still = 0;
        let mut looked = 0;
        while let Some(symbol) = self.unacked.get(looked).copied().filter(|symbol| *symbol < up_to) {
            looked += 1;
            while missing.next_if(|missing| *missing < symbol).is_some() {}
            if symbol < from || missing.next_if(|missing| *missing == symbol).is_some() {
                self.unacked[still] = symbol;
                still += 1;
            } else if let Some(sent) = self.history.get_mut(symbol) {
                sent.acked = true;
            }
        }
        self.unacked.drain(still..looked);
    }

    /// Decides what to do about a symbol that the peer reports missing, having settled everything up to `settled`.
    fn answer(&mut self, now: Instant, symbol: u64, settled: u64) {
        if matches!(self.policy.mode, RepairMode::Off | RepairMode::Fec | RepairMode::Duplicate) {
            return;
        }
        let Some(sent) = self.history.get(symbol) else { return };
        let latest = self.latest(now, sent.until);
        let under_way = sent.repaired_by > settled;
        if sent.acked || sent.planned || under_way || latest < now || sent.answers >= MAX_ANSWERS {
            return;
        }
        if sent.hurried && self.uses_code() && self.policy.mode == RepairMode::Auto {
            return;
        }
        let left = latest - now;
        let again = self.policy.mode == RepairMode::Arq || self.can_ask_again(left);
        if again {
            let due = self.next_answer.max(now);
            self.next_answer = due + self.answer_pace();
            self.agenda.add(due, Task::Copy { symbol, cause: Cause::Answer });
        } else {
            self.pool(now, symbol, latest, false);
        }
        if let Some(sent) = self.history.get_mut(symbol) {
            sent.planned = true;
            sent.answers = sent.answers.saturating_add(1);
        }
    }

    /// Time between answers: half of that between media packets, and no more than keeps a burst's repair quick.
    fn answer_pace(&self) -> Duration {
        (self.rate.interval() / 2).min(Duration::from_micros(400))
    }

    fn poll_task(&mut self, now: Instant, out: &mut BytesMut) -> Option<usize> {
        while let Some(task) = self.agenda.pop_due(now) {
            let written = match task {
                Task::Copy { symbol, cause } => self.write_copy(now, out, symbol, cause),
                Task::FailSafe { symbol } => self.write_fail_safe(now, out, symbol),
                Task::Pool { id } => self.write_pooled(now, out, id),
                Task::Recheck { symbol, number } => {
                    self.recheck(now, symbol, number);
                    self.plan_pools(now);
                    None
                }
                Task::Tail { after } => {
                    self.code_tail(now, after);
                    None
                }
            };
            if written.is_some() {
                return written;
            }
        }
        None
    }

    fn write_copy(&mut self, now: Instant, out: &mut BytesMut, symbol: u64, cause: Cause) -> Option<usize> {
        let sent = self.history.get_mut(symbol)?;
        if cause == Cause::Answer {
            sent.planned = false;
        }
        if sent.acked {
            return None;
        }
        let until = sent.until;
        if now > until.saturating_sub(self.transit()) {
            return None;
        }
        let written = self.write_repair(now, out, &[symbol], cause)?;
        if cause == Cause::Answer && self.policy.mode != RepairMode::Arq {
            let number = self.path.next() - 1;
            self.agenda.add(now + self.turn() + PATIENCE, Task::Recheck { symbol, number });
        }
        Some(written)
    }

    /// Writes a combination of the symbols given in rising order.
    fn write_repair(&mut self, now: Instant, out: &mut BytesMut, symbols: &[u64], cause: Cause) -> Option<usize> {
        let start = out.len();
        let first = *symbols.first()?;
        let coded = self.history.coded_len(symbols.iter().copied());
        let estimate = frame::COPY_PREFIX + symbols.len() - 1 + coded;
        if estimate > self.max_frame || self.is_crowded() && cause != Cause::Answer || !self.budget.spend(estimate) {
            self.stats.repair_suppressed += 1;
            return None;
        }
        let number = self.number(now);
        let ahead = (self.history.next() - 1 - first).min(u64::from(u16::MAX)) as u16;
        let set = symbols.iter().map(|symbol| *symbol as u32);
        Repair::put_set(out, number, stamp(now), cause != Cause::Answer, ahead, set);
        self.finish_repair(out, start, number, symbols.iter().copied(), coded, cause)
    }

    /// Appends the coded part, and counts.
    fn finish_repair(
        &mut self,
        out: &mut BytesMut,
        start: usize,
        number: LinkSeq,
        symbols: impl ExactSizeIterator<Item = u64> + Clone,
        coded: usize,
        cause: Cause,
    ) -> Option<usize> {
        let from = out.len();
        out.put_bytes(0, coded);
        self.history.combine(number.0, symbols.clone(), &mut out[from..]);
        let transmission = self.path.next() - 1;
        if cause != Cause::Code {
            for symbol in symbols {
                if let Some(sent) = self.history.get_mut(symbol) {
                    sent.repaired_by = transmission;
                }
            }
        }
        let written = out.len() - start;
        let (packets, bytes) = match cause {
            Cause::Answer => (&mut self.stats.arq_packets_sent, &mut self.stats.arq_bytes_sent),
            _ => (&mut self.stats.fec_packets_sent, &mut self.stats.fec_bytes_sent),
        };
        *packets += 1;
        *bytes += written as u64;
        Some(written)
    }

    /// Whether so much media waits that redundancy must stand back.
    fn is_crowded(&self) -> bool {
        self.pacer.rate().is_some_and(|rate| self.queue.bytes() as u64 > rate.bytes_in(Duration::from_millis(10)))
    }

    fn poll_media(&mut self, now: Instant, out: &mut BytesMut) -> Option<usize> {
        if let Some((body, payload, until)) = self.second_half.take() {
            return Some(self.write_media(now, out, body, payload, until));
        }
        if self.pacer.rate().is_some() && !self.queue.is_empty() {
            self.drop_late(now);
        }
        let Waiting { packet, birth } = self.queue.pop()?;
        let mut body = Body {
            flags: packet.flags,
            part: Part::Whole,
            birth,
            stream: packet.stream,
            seq: packet.seq,
            media_time: packet.media_time,
            label: packet.label,
        };
        let mut payload = packet.payload;
        if payload.len() > self.half_limit() {
            let second = payload.split_off(payload.len().div_ceil(2));
            self.second_half = Some((Body { part: Part::Second, ..body }, second, packet.recover_until));
            body.part = Part::First;
        }
        Some(self.write_media(now, out, body, payload, packet.recover_until))
    }

    fn write_media(
        &mut self,
        now: Instant,
        out: &mut BytesMut,
        body: Body,
        payload: bytes::Bytes,
        until: Instant,
    ) -> usize {
        let start = out.len();
        let header = body.encode();
        let left = self.latest(now, until) - now;
        let ahead = self.choose_ahead(left);
        let hurried = ahead != Ahead::Nothing;
        let written = frame::MEDIA_PREFIX + header.len() + payload.len();
        let number = self.number(now);
        let sent = Sent {
            header,
            payload: payload.clone(),
            until,
            acked: false,
            planned: false,
            assured: false,
            hurried,
            answers: 0,
            repaired_by: 0,
        };
        let symbol = self.history.push(sent);
        Media::put_prefix(out, number, symbol as u32, stamp(now));
        out.extend_from_slice(&header);
        out.extend_from_slice(&payload);
        debug_assert_eq!(out.len() - start, written);
        self.unacked.push_back(symbol);
        self.rate.add(now, written);
        self.budget.earn(written, self.rate.get(now));
        self.stats.media_packets_sent += 1;
        self.stats.media_bytes_sent += written as u64;
        self.critical_share.pass();
        self.hurried += (f64::from(u8::from(hurried)) - self.hurried) / 64.0;
        self.plan_ahead(now, symbol, left, ahead);
        written
    }

    /// Plans what a packet gets ahead of any report.
    fn plan_ahead(&mut self, now: Instant, symbol: u64, left: Duration, ahead: Ahead) {
        if self.uses_code() {
            self.code_media(now);
        }
        match self.policy.mode {
            RepairMode::Off | RepairMode::Arq | RepairMode::Fec => return,
            RepairMode::Duplicate => {
                let due = now + self.path.spacing().min(left);
                self.agenda.add(due, Task::Copy { symbol, cause: Cause::Ahead });
                return;
            }
            RepairMode::Auto | RepairMode::Hybrid => {}
        }
        if ahead != Ahead::Nothing && self.uses_code() {
            return;
        }
        if ahead != Ahead::Spread {
            self.fail_safe_share.pass();
            self.agenda.add(now + left.saturating_sub(self.fail_safe_time(left)), Task::FailSafe { symbol });
        }
        match ahead {
            Ahead::Nothing => {}
            Ahead::Once(apart) => {
                self.critical_share.add(self.path.loss());
                self.agenda.add(now + apart, Task::Copy { symbol, cause: Cause::Ahead });
            }
            Ahead::Spread => {
                self.pool(now, symbol, now + left, true);
                self.plan_pools(now);
            }
        }
    }

    /// How many copies beside the first transmission, and how far apart, bring the packets of a kind that is so rare within the
    /// target.
    fn plan_copies(&self, time: Duration, rarity: f64, most: u32) -> (u32, Duration) {
        let target = self.target_among(rarity);
        let (mut copies, mut apart) = (1, time);
        for _ in 0..3 {
            let planned = plan::transmissions(1, self.path.loss_planned(), self.path.after_loss_at(apart), target);
            copies = (planned as u32).saturating_sub(1).clamp(1, most);
            apart = time / copies;
        }
        (copies, apart)
    }

    /// The residual that may be left among packets of a kind that makes up such a share of all.
    fn target_among(&self, share: f64) -> f64 {
        (self.policy.target_residual / share.max(1e-6)).clamp(1e-6, 1e-2)
    }

    /// How long before the last useful moment a packet first sent with `left` until then gets its fail-safe copy.
    fn fail_safe_time(&self, left: Duration) -> Duration {
        self.path.spacing().min(left / 6).max(SHORTEST_FAIL_SAFE)
    }

    /// Answers once more where nothing was heard of the answer sent as transmission `number`: the reports may be lost.
    fn recheck(&mut self, now: Instant, symbol: u64, number: u64) {
        let last_from = self.turn() + self.spread();
        let Some(sent) = self.history.get(symbol) else { return };
        if sent.repaired_by != number || sent.acked {
            return;
        }
        let left = self.latest(now, sent.until) - now;
        if left > last_from {
            // There is time to wait for a report.
            self.agenda.add(now + (left - last_from) + Duration::from_millis(1), Task::Recheck { symbol, number });
        } else {
            self.answer(now, symbol, number);
        }
    }

    /// Sends a packet again that is not known to have arrived: reports may be lost as well.
    fn write_fail_safe(&mut self, now: Instant, out: &mut BytesMut, symbol: u64) -> Option<usize> {
        let sent = self.history.get(symbol)?;
        if sent.acked || sent.assured || sent.planned {
            return None;
        }
        let last_chance = self.latest(now, sent.until).saturating_sub(LAST_CHANCE);
        if let Some(answered) = self.path.sent_at(sent.repaired_by) {
            // An answer is under way; by then its arrival should be known.
            let due = (answered + self.turn()).min(last_chance);
            if due > now {
                self.agenda.add(due, Task::FailSafe { symbol });
                return None;
            }
        }
        self.fail_safe_share.add(1.0);
        let left = last_chance - now;
        let silent = now - self.last_report > SILENT;
        let (copies, _) = self.plan_copies(left, self.fail_safe_share.get(), 3);
        // Where the path may be dead for the moment, a single copy may die with it.
        let copies = if silent { copies.max(2) } else { copies };
        for copy in 1..copies {
            let due = now + left * copy / (copies - 1);
            self.agenda.add(due, Task::Copy { symbol, cause: Cause::FailSafe });
        }
        self.write_copy(now, out, symbol, Cause::FailSafe)
    }
}

/// The share of packets that are of a kind, over some thousands.
#[derive(Debug)]
struct Share {
    value: f64,
}

impl Share {
    /// How many packets back it looks.
    const SPAN: f64 = 4096.0;

    fn new(guess: f64) -> Share {
        Share { value: guess }
    }

    /// Counts a packet, of whatever kind.
    fn pass(&mut self) {
        self.value -= self.value / Self::SPAN;
    }

    /// Counts a packet that is of the kind with such a probability.
    fn add(&mut self, probability: f64) {
        self.value = (self.value + probability / Self::SPAN).min(1.0);
    }

    fn get(&self) -> f64 {
        self.value
    }
}

/// The rate of media, over about a second.
#[derive(Debug)]
struct Rate {
    since: Instant,
    bytes: u64,
    packets: u32,
    rate: Bitrate,
    interval: Duration,
}

impl Rate {
    const SPAN: Duration = Duration::from_millis(500);

    fn new(now: Instant) -> Rate {
        Rate { since: now, bytes: 0, packets: 0, rate: Bitrate::ZERO, interval: Duration::from_millis(1) }
    }

    fn add(&mut self, now: Instant, bytes: usize) {
        let span = now - self.since;
        if span >= Self::SPAN {
            self.rate = Bitrate::bps((self.bytes as f64 * 8.0 / span.as_secs_f64()) as u64);
            self.interval = span / self.packets.max(1);
            (self.since, self.bytes, self.packets) = (now, 0, 0);
        }
        self.bytes += bytes as u64;
        self.packets += 1;
    }

    fn get(&self, now: Instant) -> Bitrate {
        if now - self.since > 2 * Self::SPAN { Bitrate::ZERO } else { self.rate }
    }

    /// Mean time between packets.
    fn interval(&self) -> Duration {
        self.interval
    }
}
