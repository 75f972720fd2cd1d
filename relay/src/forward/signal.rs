//! Signals: control messages that travel among the media of a link, as packets of a handle that no stream has.
//!
//! What announces a stream must not wait behind a lost segment of the control stream while media passes it: as packets
//! of the link, announcements have its repair against a deadline, and they are sent ahead and more than once. All of them
//! also go, or can wait to go, by the control stream: a signal that is lost costs time, never truth. A peer of an older
//! minor version drops them as media of an unknown handle.
//!
//! A message is cut into parts of at most [`MOST_PART`] bytes. A part is a packet whose number is the message's, and whose
//! payload begins with its place and the count of parts (a byte each). What a peer can make us hold is [`MOST_PARTIAL`]
//! messages of [`MOST_PARTS`] parts.

use bytes::{BufMut, Bytes, BytesMut};
use link::{Delivery, Flags, Instant, Label, MediaTime, Packet, StreamHandle, StreamSeq};
use node::control::{self, Control};
use std::collections::VecDeque;
use std::time::Duration;

/// The handle under which signals travel: the one that [`super::handles::HandleSpace`] never gives out.
pub const SIGNAL: StreamHandle = StreamHandle(u16::MAX);

/// Most bytes of a message in one part: with all headers it fits the smallest path whole.
pub const MOST_PART: usize = 1_050;

/// Most parts of a message; a larger one has no signal.
pub const MOST_PARTS: usize = 16;

/// Messages of one peer of which some parts are missing; one more and the oldest is given up.
pub const MOST_PARTIAL: usize = 32;

/// Numbers of complete messages that are remembered, so that a repetition is known.
const REMEMBERED: usize = 128;

/// How long the link repairs a signal.
const WORTH: Duration = Duration::from_millis(250);

/// The signals of one link.
#[derive(Debug, Default)]
pub struct Signals {
    next: u32,
    partial: VecDeque<Partial>,
    complete: VecDeque<u32>,
}

#[derive(Debug)]
struct Partial {
    number: u32,
    parts: Vec<Option<Bytes>>,
}

impl Signals {
    /// The packets of a message, none where it is too large. The same packets may be sent again later.
    pub fn pack(&mut self, message: &Control) -> Vec<Signal> {
        let mut encoded = Vec::new();
        if control::encode(message, &mut encoded).is_err() || encoded.len() > MOST_PART * MOST_PARTS {
            return Vec::new();
        }
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        let chunks = encoded[control::LENGTH..].chunks(MOST_PART);
        let count = chunks.len() as u8;
        let part = |(at, chunk): (usize, &[u8])| {
            let mut payload = BytesMut::with_capacity(chunk.len() + 2);
            payload.put_u8(at as u8);
            payload.put_u8(count);
            payload.put_slice(chunk);
            Signal { number, payload: payload.freeze() }
        };
        chunks.enumerate().map(part).collect()
    }

    /// Takes a packet of [`SIGNAL`] in; the message, when it is complete for the first time. What is no signal is `Err`.
    pub fn receive(&mut self, delivery: &Delivery) -> Result<Option<Control>, Malformed> {
        let [place, count, chunk @ ..] = &delivery.payload[..] else { return Err(Malformed) };
        let (place, count, number) = (usize::from(*place), usize::from(*count), delivery.seq.0);
        if place >= count || count > MOST_PARTS || chunk.len() > MOST_PART {
            return Err(Malformed);
        }
        if self.complete.contains(&number) {
            return Ok(None);
        }
        let at = self.partial.iter().position(|partial| partial.number == number).unwrap_or_else(|| {
            if self.partial.len() >= MOST_PARTIAL {
                self.partial.pop_front();
            }
            self.partial.push_back(Partial { number, parts: vec![None; count] });
            self.partial.len() - 1
        });
        let partial = &mut self.partial[at];
        *partial.parts.get_mut(place).ok_or(Malformed)? = Some(delivery.payload.slice(2..));
        if partial.parts.iter().any(Option::is_none) {
            return Ok(None);
        }
        let whole: Vec<u8> = partial.parts.iter().flatten().flatten().copied().collect();
        self.partial.remove(at);
        if self.complete.len() >= REMEMBERED {
            self.complete.pop_front();
        }
        self.complete.push_back(number);
        control::decode(&whole).map(Some).map_err(|_| Malformed)
    }
}

/// Bytes that are no signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a signal")]
pub struct Malformed;

/// One part of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signal {
    number: u32,
    payload: Bytes,
}

impl Signal {
    /// The packet to send at `now`.
    pub fn packet(&self, now: Instant) -> Packet {
        Packet {
            target: None,
            stream: SIGNAL,
            seq: StreamSeq(self.number),
            media_time: MediaTime(0),
            age: Duration::ZERO,
            label: Label(0),
            flags: Flags { high_priority: true, end: false },
            payload: self.payload.clone(),
            recover_until: now + WORTH,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use link::Recovery;
    use proptest::prelude::*;

    fn message(bytes: usize) -> Control {
        Control::Goodbye { reason: "x".repeat(bytes) }
    }

    fn delivery(signal: &Signal) -> Delivery {
        let packet = signal.packet(Instant::ORIGIN);
        Delivery {
            stream: packet.stream,
            seq: packet.seq,
            media_time: packet.media_time,
            age: packet.age,
            label: packet.label,
            flags: packet.flags,
            payload: packet.payload,
            recovery: Recovery::None,
        }
    }

    #[test]
    fn comes_once_whatever_the_order_and_repetition_of_its_parts() {
        for size in [0, 1, 1_040, 1_060, 5_000, 16_000] {
            let (mut sender, mut receiver) = (Signals::default(), Signals::default());
            let mut parts = sender.pack(&message(size));
            let again = parts.clone();
            parts.reverse();
            parts.extend(again);
            let came: Vec<Control> =
                parts.iter().filter_map(|part| receiver.receive(&delivery(part)).expect("well formed")).collect();
            assert_eq!(came, [message(size)]);
        }
    }

    #[test]
    fn what_is_too_large_has_no_signal() {
        assert!(Signals::default().pack(&message(MOST_PART * MOST_PARTS)).is_empty());
    }

    #[test]
    fn parts_that_never_end_are_bounded() {
        let mut receiver = Signals::default();
        for number in 0..10_000 {
            let payload = Bytes::from(vec![0, MOST_PARTS as u8, 1]);
            let part = delivery(&Signal { number, payload });
            assert_eq!(receiver.receive(&part), Ok(None));
        }
        assert_eq!(receiver.partial.len(), MOST_PARTIAL);
    }

    proptest! {
        #[test]
        fn never_panics(packets in prop::collection::vec((0u32..4, prop::collection::vec(any::<u8>(), 0..40)), 0..60)) {
            let mut receiver = Signals::default();
            for (number, payload) in packets {
                let _ = receiver.receive(&delivery(&Signal { number, payload: payload.into() }));
            }
        }
    }
}
