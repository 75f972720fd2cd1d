//! Writing what is due: copies and combinations.

use super::agenda::{Cause, Task};
use super::{PATIENCE, Sender};
use crate::frame::{self, Repair};
use crate::ids::LinkSeq;
use crate::policy::RepairMode;
use crate::time::Instant;
use crate::timing::stamp;
use bytes::{BufMut, BytesMut};
use std::time::Duration;

impl Sender {
    pub(super) fn poll_task(&mut self, now: Instant, out: &mut BytesMut) -> Option<usize> {
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

    pub(super) fn write_copy(&mut self, now: Instant, out: &mut BytesMut, symbol: u64, cause: Cause) -> Option<usize> {
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
    pub(super) fn write_repair(
        &mut self,
        now: Instant,
        out: &mut BytesMut,
        symbols: &[u64],
        cause: Cause,
    ) -> Option<usize> {
        let start = out.len();
        let first = *symbols.first()?;
        let coded = self.history.coded_len(symbols.iter().copied());
        let gaps: usize = symbols.windows(2).map(|pair| frame::gap_len(pair[1] - pair[0])).sum();
        let size = frame::SET_PREFIX + gaps + coded;
        if size > self.max_frame || self.is_crowded() && cause != Cause::Answer || !self.budget.spend(size) {
            self.stats.repair_suppressed += 1;
            return None;
        }
        let number = self.number(now);
        let ahead = (self.history.next() - 1 - first).min(u64::from(u16::MAX)) as u16;
        let set = symbols.iter().map(|symbol| *symbol as u32);
        Repair::put_set(out, number, stamp(now), cause != Cause::Answer, ahead, set);
        debug_assert_eq!(out.len() - start + coded, size);
        self.finish_repair(out, start, number, symbols.iter().copied(), coded, cause)
    }

    /// Appends the coded part, and counts.
    pub(super) fn finish_repair(
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
        self.probes = 0;
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
    pub(super) fn is_crowded(&self) -> bool {
        self.pacer.rate().is_some_and(|rate| self.queue.bytes() as u64 > rate.bytes_in(Duration::from_millis(10)))
    }
}
