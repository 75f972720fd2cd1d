//! Media that overtook the announcement of its stream: datagrams leave before stream data.

use link::{Delivery, Instant, StreamHandle};
use std::collections::VecDeque;
use std::time::Duration;

/// Most packets held per link: a second of 20 Mbit/s.
pub const MOST: usize = 2_048;

/// How long a packet is held: an announcement that is lost more than once still finds it, and whether it is still in time
/// is for its stream to say.
pub const LONGEST: Duration = Duration::from_secs(1);

/// Packets of handles that are not known yet.
#[derive(Debug, Default)]
pub struct Held {
    packets: VecDeque<(Instant, Delivery)>,
}

impl Held {
    /// Holds a packet, and says how many older ones had to go for it.
    pub fn hold(&mut self, now: Instant, delivery: Delivery) -> u64 {
        let mut dropped = self.expire(now);
        if self.packets.len() >= MOST {
            self.packets.pop_front();
            dropped += 1;
        }
        self.packets.push_back((now, delivery));
        dropped
    }

    /// Drops what was held too long, and says how many packets that were.
    pub fn expire(&mut self, now: Instant) -> u64 {
        let before = self.packets.len();
        while self.packets.front().is_some_and(|(since, _)| now.saturating_since(*since) > LONGEST) {
            self.packets.pop_front();
        }
        (before - self.packets.len()) as u64
    }

    /// Takes the packets of `handle`, in the order of their arrival, each as old as it is now.
    pub fn release(&mut self, now: Instant, handle: StreamHandle) -> Vec<Delivery> {
        let mut out = Vec::new();
        self.packets.retain_mut(|(since, delivery)| {
            if delivery.stream != handle {
                return true;
            }
            let mut delivery = delivery.clone();
            delivery.age += now.saturating_since(*since);
            out.push(delivery);
            false
        });
        out
    }

    /// Packets held.
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// When [`Held::expire`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.packets.front().map(|(since, _)| *since + LONGEST + Duration::from_micros(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use link::{Flags, Label, MediaTime, Recovery, StreamSeq};

    fn packet(handle: u16, seq: u32) -> Delivery {
        Delivery {
            stream: StreamHandle(handle),
            seq: StreamSeq(seq),
            media_time: MediaTime(0),
            age: Duration::from_millis(5),
            label: Label(0),
            flags: Flags::default(),
            payload: Bytes::new(),
            recovery: Recovery::None,
        }
    }

    #[test]
    fn gives_back_in_order_and_older() {
        let mut held = Held::default();
        let start = Instant::from_micros(1000);
        for seq in 0..3 {
            held.hold(start, packet(1, seq));
            held.hold(start, packet(2, seq));
        }
        let out = held.release(start + Duration::from_millis(20), StreamHandle(2));
        assert_eq!(out.iter().map(|p| p.seq.0).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(out.iter().all(|p| p.age == Duration::from_millis(25)));
        assert_eq!(held.release(start, StreamHandle(1)).len(), 3);
    }

    #[test]
    fn bounded_in_number_and_time() {
        let mut held = Held::default();
        let start = Instant::from_micros(0);
        let dropped: u64 = (0..MOST as u32 + 44).map(|seq| held.hold(start, packet(1, seq))).sum();
        assert_eq!(dropped, 44);
        let due = held.poll_timeout().expect("packets are held");
        assert_eq!(held.expire(start + LONGEST), 0);
        assert_eq!(held.expire(due), MOST as u64);
        assert_eq!(held.poll_timeout(), None);
    }
}
