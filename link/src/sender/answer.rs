//! Answers to the peer's reports, and what is done where reports stay away.

use super::agenda::{Cause, Task};
use super::{LAST_CHANCE, MAX_ANSWERS, MOST_FAIL_SAFE, SHORTEST_FAIL_SAFE, SILENT, Sender};
use crate::frame::Feedback;
use crate::plan;
use crate::policy::RepairMode;
use crate::seq;
use crate::time::Instant;
use bytes::BytesMut;
use std::time::Duration;

impl Sender {
    /// Takes the peer's report.
    pub(crate) fn on_feedback(&mut self, now: Instant, feedback: &Feedback<'_>) {
        self.last_report = now;
        self.lateness = Duration::from_micros(u64::from(feedback.lateness) * 10);
        let settled = seq::extend(feedback.settled.0, self.path.next());
        let news = self.path.on_report(settled, feedback.runs);
        self.follow_capacity(now, news);
        let up_to = seq::extend(feedback.known_up_to, self.history.next());
        if up_to > self.history.next() {
            return;
        }
        if !self.reading.is_open(now) {
            self.stats.malformed += 1;
            return;
        }
        self.read_missing(up_to, feedback);
        let looked = self.acknowledge(up_to - u64::from(feedback.known_span), up_to);
        self.reading.take(looked + self.missing.len());
        let missing = std::mem::take(&mut self.missing);
        for symbol in missing.iter().rev() {
            self.answer(now, *symbol, settled);
        }
        self.plan_pools(now);
        self.missing = missing;
        self.history.trim(now, !self.uses_code());
        let history = &self.history;
        self.agenda.skip(|symbol| history.get(symbol).is_none_or(|sent| sent.acked));
    }

    /// Decides what to do about a symbol that the peer reports missing, having settled everything up to `settled`.
    pub(super) fn answer(&mut self, now: Instant, symbol: u64, settled: u64) {
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
        let again = self.policy.mode == RepairMode::Arq || self.can_ask_again(left, self.residual(sent.target));
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

    /// Answers once more where nothing was heard of the answer sent as transmission `number`: the reports may be lost. They may as well lie
    /// unread, where the host is behind.
    pub(super) fn recheck(&mut self, now: Instant, symbol: u64, number: u64) {
        let last_from = self.turn() + self.spread();
        let Some(sent) = self.history.get(symbol) else { return };
        if sent.repaired_by != number || sent.acked {
            return;
        }
        let latest = self.latest(now, sent.until);
        let left = latest - now;
        if self.is_behind() {
            let due = (now + self.lag).min(latest);
            if due > now {
                self.agenda.add(due, Task::Recheck { symbol, number });
            }
        } else if left > last_from {
            // There is time to wait for a report.
            self.agenda.add(now + (left - last_from) + Duration::from_millis(1), Task::Recheck { symbol, number });
        } else {
            self.answer(now, symbol, number);
        }
    }

    /// Sends a packet again that is not known to have arrived: reports may be lost as well.
    pub(super) fn write_fail_safe(&mut self, now: Instant, out: &mut BytesMut, symbol: u64) -> Option<usize> {
        let sent = self.history.get(symbol)?;
        if sent.acked || sent.assured || sent.planned || self.is_behind() {
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
        let residual = self.residual(sent.target);
        self.fail_safe_share.add(1.0);
        let left = last_chance - now;
        let silent = now - self.last_report > SILENT;
        // Where the path may be dead for the moment, a single copy may die with it; but then all packets come to this, and many
        // copies of each take more than there is.
        let (least, most) = if silent { (2, MOST_FAIL_SAFE - 1) } else { (1, MOST_FAIL_SAFE) };
        let (copies, _) = self.plan_copies(left, self.fail_safe_share.get(), residual, most);
        let copies = copies.max(least);
        for copy in 1..copies {
            let due = now + left * copy / (copies - 1);
            self.agenda.add(due, Task::Copy { symbol, cause: Cause::FailSafe });
        }
        self.write_copy(now, out, symbol, Cause::FailSafe)
    }

    /// How long before the last useful moment a packet first sent with `left` until then gets its fail-safe copy.
    pub(super) fn fail_safe_time(&self, left: Duration) -> Duration {
        self.path.spacing().min(left / 6).max(SHORTEST_FAIL_SAFE)
    }

    /// How many copies beside the first transmission, and how far apart, bring the packets of a kind that is so rare within the
    /// target.
    pub(super) fn plan_copies(&self, time: Duration, rarity: f64, residual: f64, most: u32) -> (u32, Duration) {
        let target = self.target_among(rarity, residual);
        let (mut copies, mut apart) = (1, time);
        for _ in 0..3 {
            let planned = plan::transmissions(1, self.path.loss_planned(), self.path.after_loss_at(apart), target);
            copies = (planned as u32).saturating_sub(1).clamp(1, most);
            apart = time / copies;
        }
        (copies, apart)
    }

    /// Time between answers: half of that between media packets, and no more than keeps a burst's repair quick.
    pub(super) fn answer_pace(&self) -> Duration {
        (self.rate.interval() / 2).min(Duration::from_micros(400))
    }

    pub(super) fn read_missing(&mut self, up_to: u64, feedback: &Feedback<'_>) {
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

    /// Marks what the peer knows: everything in the range that is not in `missing`, which is in falling order. Returns how many symbols it
    /// looked at.
    pub(super) fn acknowledge(&mut self, from: u64, up_to: u64) -> usize {
        let mut missing = self.missing.iter().rev().copied().peekable();
        let first = self.unacked.partition_point(|symbol| *symbol < from);
        let (mut still, mut looked) = (first, first);
        while let Some(symbol) = self.unacked.get(looked).copied().filter(|symbol| *symbol < up_to) {
            looked += 1;
            while missing.next_if(|missing| *missing < symbol).is_some() {}
            if missing.next_if(|missing| *missing == symbol).is_some() {
                self.unacked[still] = symbol;
                still += 1;
            } else if let Some(sent) = self.history.get_mut(symbol) {
                sent.acked = true;
            }
        }
        self.unacked.drain(still..looked);
        looked - first
    }
}
