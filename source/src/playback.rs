//! A transport stream played by its own clock, once or for ever. Pure.

use crate::looping::Looper;
use crate::pacing::{Due, NoClock, Pacer};
use crate::packetize::{Framer, Unit};
use bytes::BytesMut;
use node::ts::PACKET;

/// Turns the bytes of a file into payloads with their times.
///
/// Push bytes, then poll until `None`; at the end of the file either [`Playback::rewind`] and push it again, or
/// [`Playback::finish`] and poll what is left.
#[derive(Debug, Default)]
pub struct Playback {
    framer: Framer,
    looper: Looper,
    pacer: Pacer,
    packets: BytesMut,
}

impl Playback {
    /// Takes the next bytes. An error says that they have no clock to be played by.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), NoClock> {
        self.framer.push(bytes);
        while let Some(unit) = self.framer.poll() {
            self.take(unit);
        }
        if self.pacer.is_stuck() { Err(NoClock) } else { Ok(()) }
    }

    /// The next payload whose time is known.
    pub fn poll(&mut self) -> Option<Due> {
        self.pacer.poll()
    }

    /// The file begins again.
    pub fn rewind(&mut self) -> Result<(), NoClock> {
        self.drain();
        self.looper.next_pass()
    }

    /// The file has ended.
    pub fn finish(&mut self) -> Result<(), NoClock> {
        self.drain();
        self.pacer.finish()
    }

    /// Times the file has begun again.
    pub fn loops(&self) -> u64 {
        self.looper.passes()
    }

    fn drain(&mut self) {
        while let Some(unit) = self.framer.finish() {
            self.take(unit);
        }
    }

    fn take(&mut self, unit: Unit) {
        match unit {
            Unit::Packets(packets) => {
                self.packets.clear();
                self.packets.extend_from_slice(&packets);
                for packet in self.packets.chunks_exact_mut(PACKET) {
                    self.looper.rewrite(packet);
                    self.pacer.push(packet);
                }
            }
            Unit::Garbage(bytes) => {
                self.looper.garbage(bytes.len());
                self.pacer.push_garbage(&bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use node::ts::Pcr;
    use node::ts::testing::packet;
    use std::time::Duration;

    #[test]
    fn a_file_with_a_torn_end_loops_and_loses_nothing() {
        let file: Vec<u8> = (0..100u64)
            .flat_map(|n| packet(0x100, n as u8, n.is_multiple_of(10).then_some(Pcr(n * Pcr::HZ / 1000))))
            .chain([1, 2, 3])
            .collect();
        let mut playback = Playback::default();
        let mut dues = Vec::new();
        for pass in 0..3 {
            if pass > 0 {
                playback.rewind().unwrap();
            }
            for piece in file.chunks(777) {
                playback.push(piece).unwrap();
                dues.extend(std::iter::from_fn(|| playback.poll()));
            }
        }
        playback.finish().unwrap();
        dues.extend(std::iter::from_fn(|| playback.poll()));
        assert_eq!(dues.iter().map(|due| due.payload.len()).sum::<usize>(), 3 * file.len());
        assert_eq!(playback.loops(), 2);
        let length = dues.last().expect("there are payloads").at;
        assert!(length.abs_diff(Duration::from_millis(300)) < Duration::from_millis(8), "{length:?}");
    }
}
