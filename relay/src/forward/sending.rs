//! A packet on its way out.

use super::Egress;
use super::epoch::Rest;
use super::history::Ways;
use super::stream::Output;
use link::{Delivery, Instant, Label, Packet, Residual, SendError, StreamHandle};
use std::time::Duration;

/// A packet on its way out.
pub(super) struct Sending {
    pub(super) now: Instant,
    pub(super) slack: Duration,
    target: Option<Residual>,
    pub(super) label: Label,
    pub(super) delivery: Delivery,
    pub(super) sent: u32,
    /// The ways by which it has left.
    pub(super) left: Ways,
}

impl Sending {
    #[inline]
    pub(super) fn new(
        now: Instant,
        slack: Duration,
        target: Option<Residual>,
        label: Label,
        delivery: Delivery,
    ) -> Sending {
        Sending { now, slack, target, label, delivery, sent: 0, left: Ways::default() }
    }

    /// Payload bytes that have left, all copies together.
    #[inline]
    pub(super) fn bytes(&self) -> u64 {
        u64::from(self.sent) * self.delivery.payload.len() as u64
    }

    /// Sends one copy. The hop may spend what the packet has left less the bare transit of the farthest rest of its
    /// way; where that is past, of the nearest; where that is past too, all that is left: a one-way delay is half of a round trip that may
    /// just have been measured, so only zero is a bound, and what may still be in time is not dropped.
    #[inline]
    pub(super) fn send(&mut self, output: &mut Output, rest: Rest, egress: &mut impl Egress) {
        for rest_us in [rest.max_us, rest.min_us, 0] {
            let Some(hop) = self.slack.checked_sub(Duration::from_micros(u64::from(rest_us))) else { continue };
            match egress.send(self.now, output.port, self.packet(output.handle, hop)) {
                Ok(()) => {
                    self.sent += 1;
                    self.left.add(output.way);
                    output.again.note();
                    output.counters.forwarded += 1;
                    output.counters.forwarded_bytes += self.delivery.payload.len() as u64;
                    return;
                }
                Err(SendError::TooLate) => {}
                Err(SendError::QueueFull) => {
                    output.counters.queue_full += 1;
                    return;
                }
                Err(SendError::TooLarge { .. }) => {
                    output.counters.too_large += 1;
                    return;
                }
            }
        }
        output.counters.late += 1;
    }

    #[inline]
    fn packet(&self, handle: StreamHandle, hop: Duration) -> Packet {
        Packet {
            stream: handle,
            seq: self.delivery.seq,
            media_time: self.delivery.media_time,
            age: self.delivery.age,
            label: self.label,
            flags: self.delivery.flags,
            payload: self.delivery.payload.clone(),
            recover_until: self.now + hop,
            target: self.target,
        }
    }
}
