//! First transmissions, and what each packet gets ahead of any report.

use super::Sender;
use super::agenda::{Cause, Task};
use super::choice::Ahead;
use crate::frame::{self, Body, Media, Part};
use crate::history::Sent;
use crate::policy::RepairMode;
use crate::queue::Waiting;
use crate::time::Instant;
use crate::timing::stamp;
use crate::units::Residual;
use bytes::BytesMut;
use std::time::Duration;

impl Sender {
    pub(super) fn poll_media(&mut self, now: Instant, out: &mut BytesMut) -> Option<usize> {
        if let Some((body, payload, until, target)) = self.second_half.take() {
            return Some(self.write_media(now, out, body, payload, until, target));
        }
        if self.pacer.rate().is_some() && !self.queue.is_empty() {
            self.drop_late(now);
            self.stats.dropped_standing += self.queue.drop_standing(now);
        }
        let Waiting { packet, birth, .. } = self.queue.pop()?;
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
            self.second_half = Some((Body { part: Part::Second, ..body }, second, packet.recover_until, packet.target));
            body.part = Part::First;
        }
        Some(self.write_media(now, out, body, payload, packet.recover_until, packet.target))
    }

    pub(super) fn write_media(
        &mut self,
        now: Instant,
        out: &mut BytesMut,
        body: Body,
        payload: bytes::Bytes,
        until: Instant,
        target: Option<Residual>,
    ) -> usize {
        let start = out.len();
        let header = body.encode();
        let left = self.latest(now, until) - now;
        // A packet that is late by this end's own doing gets what it would have got in time.
        let ahead = self.choose_ahead(left + self.lag, self.residual(target));
        let hurried = ahead != Ahead::Nothing;
        let written = frame::MEDIA_PREFIX + header.len() + payload.len();
        let number = self.number(now);
        let sent = Sent {
            header,
            payload: payload.clone(),
            until,
            target,
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
        if self.unacked.is_empty() {
            self.waiting_since = now;
        }
        self.unacked.push_back(symbol);
        self.rate.add(now, written);
        self.budget.earn(written, self.rate.get(now));
        self.probes = 0;
        self.last_until = until;
        self.stats.media_packets_sent += 1;
        self.stats.media_bytes_sent += written as u64;
        self.critical_share.pass();
        self.hurried += (f64::from(u8::from(hurried)) - self.hurried) / 64.0;
        self.plan_ahead(now, symbol, left, ahead);
        written
    }

    /// Plans what a packet gets ahead of any report.
    pub(super) fn plan_ahead(&mut self, now: Instant, symbol: u64, left: Duration, ahead: Ahead) {
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
}
