//! Repair ahead of loss where there is no time to ask: a sliding window code.
//!
//! Every media packet earns a share of a repair packet; each repair is a combination of all packets that can still
//! be of use when it arrives. After a loss the receiver needs as many of the next repairs as packets are missing.

use super::Sender;
use super::agenda::{Cause, Task};
use crate::frame::{COPY_PREFIX, MAX_WINDOW, Repair};
use crate::plan;
use crate::policy::RepairMode;
use crate::time::Instant;
use crate::timing::stamp;
use bytes::BytesMut;
use std::time::Duration;

/// State of the window code.
#[derive(Debug, Default)]
pub(crate) struct Code {
    /// Repairs earned and not yet sent.
    credit: f64,
    /// Repairs per media packet.
    rate: f64,
    /// Media packets until the rate is computed again.
    until_rate: u32,
    tail_planned: bool,
}

impl Code {
    /// Whether a repair is due.
    pub(crate) fn is_due(&self) -> bool {
        self.credit >= 1.0
    }
}

impl Sender {
    /// A media packet has been sent under the code.
    pub(super) fn code_media(&mut self, now: Instant) {
        if self.code.until_rate == 0 {
            self.code.until_rate = 16;
            self.code.rate = self.code_rate(now);
        }
        self.code.until_rate -= 1;
        self.code.credit = (self.code.credit + self.code.rate).min(4.0);
        if !self.code.tail_planned {
            self.code.tail_planned = true;
            self.agenda.add(now + self.tail_pause(), Task::Tail { after: self.history.next() });
        }
    }

    /// Looks whether media has stopped; if so, the code goes on as if it had not, until nothing is left to protect.
    pub(super) fn code_tail(&mut self, now: Instant, after: u64) {
        self.code.tail_planned = false;
        if !self.uses_code() || self.code_window(now).1 == 0 {
            return;
        }
        if self.history.next() == after {
            self.code.credit = (self.code.credit + self.code.rate).min(4.0);
        }
        self.code.tail_planned = true;
        self.agenda.add(now + self.tail_pause(), Task::Tail { after: self.history.next() });
    }

    /// Writes a repair of the window where one is due.
    pub(super) fn poll_code(&mut self, now: Instant, out: &mut BytesMut) -> Option<usize> {
        if !self.code.is_due() {
            return None;
        }
        self.code.credit -= 1.0;
        let (first, count) = self.code_window(now);
        if count == 0 || !self.uses_code() {
            return None;
        }
        let window = WindowIter { next: first, left: count };
        let coded = self.history.coded_len(window.clone());
        let size = COPY_PREFIX + 1 + coded;
        if size > self.max_frame || self.is_crowded() || !self.budget.spend(size) {
            self.stats.repair_suppressed += 1;
            return None;
        }
        let start = out.len();
        let number = self.number(now);
        let ahead = (self.history.next() - 1 - first).min(u64::from(u16::MAX)) as u16;
        Repair::put_window(out, number, stamp(now), first as u32, ahead, count as u16);
        self.finish_repair(out, start, number, window, coded, Cause::Code)
    }

    /// First symbol and number of symbols that a repair sent now can still help.
    fn code_window(&self, now: Instant) -> (u64, usize) {
        let mut first = self.history.first();
        let next = self.history.next();
        while first < next && self.history.get(first).is_some_and(|sent| self.latest(now, sent.until) < now) {
            first += 1;
        }
        first = first.max(next.saturating_sub(MAX_WINDOW as u64));
        (first, (next - first) as usize)
    }

    fn code_rate(&self, now: Instant) -> f64 {
        if self.policy.mode == RepairMode::Hybrid && self.hurried < 0.5 {
            // Beside answers on request, a little is enough.
            return 0.05;
        }
        let (first, count) = self.code_window(now);
        let targets =
            (first..first + count as u64).filter_map(|symbol| Some(self.residual(self.history.get(symbol)?.target)));
        let strictest = targets.reduce(f64::min).unwrap_or(self.policy.target_residual);
        let path = &self.path;
        plan::code_rate(count as f64, path.loss_planned(), path.after_loss(), strictest.max(1e-9))
            .min(self.policy.max_overhead)
    }

    /// Time without media after which the code goes on by itself.
    fn tail_pause(&self) -> Duration {
        (2 * self.rate.interval()).clamp(Duration::from_micros(500), Duration::from_millis(20))
    }
}

/// The symbols of a window.
#[derive(Clone, Debug)]
struct WindowIter {
    next: u64,
    left: usize,
}

impl Iterator for WindowIter {
    type Item = u64;
    fn next(&mut self) -> Option<u64> {
        self.left = self.left.checked_sub(1)?;
        self.next += 1;
        Some(self.next - 1)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for WindowIter {}
