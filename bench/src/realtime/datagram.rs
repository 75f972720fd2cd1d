//! Datagrams that say their number, and whose every other byte follows from it. Pure.

use crate::channel::{Draws, derive};

/// The datagrams of one run.
#[derive(Clone, Copy, Debug)]
pub struct Numbered {
    seed: u64,
    size: usize,
}

/// What a datagram turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// This one, as it was sent.
    Number(u64),
    /// Sent before the run to see whether anything comes through.
    Greeting,
    /// None that was sent: damaged, cut, joined, or from elsewhere.
    Foreign,
}

const GREETING: u64 = u64::MAX;
/// Bytes of the number.
const HEAD: usize = 8;

impl Numbered {
    /// Datagrams of `size` bytes, of which 16 are needed at least.
    pub fn new(seed: u64, size: usize) -> Numbered {
        Numbered { seed: derive(seed, &["numbered"]), size: size.max(2 * HEAD) }
    }

    /// Bytes of each.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Writes datagram `number` to `room`, in place of what is there.
    pub fn write(&self, number: u64, room: &mut Vec<u8>) {
        room.clear();
        room.extend_from_slice(&number.to_le_bytes());
        self.words(number, |word| room.extend_from_slice(&word));
        room.truncate(self.size);
    }

    /// Writes the greeting to `room`, in place of what is there.
    pub fn greet(&self, room: &mut Vec<u8>) {
        self.write(GREETING, room);
    }

    /// Looks at a datagram that arrived.
    pub fn read(&self, datagram: &[u8]) -> Seen {
        let Some((head, rest)) = datagram.split_first_chunk::<HEAD>() else { return Seen::Foreign };
        if datagram.len() != self.size {
            return Seen::Foreign;
        }
        let number = u64::from_le_bytes(*head);
        let (mut at, mut same) = (0, true);
        self.words(number, |word| {
            let part = &rest[at.min(rest.len())..rest.len().min(at + HEAD)];
            same &= *part == word[..part.len()];
            at += HEAD;
        });
        match (same, number) {
            (false, _) => Seen::Foreign,
            (true, GREETING) => Seen::Greeting,
            (true, number) => Seen::Number(number),
        }
    }

    fn words(&self, number: u64, mut take: impl FnMut([u8; HEAD])) {
        let mut draws = Draws::new(self.seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        for _ in 0..(self.size - HEAD).div_ceil(HEAD) {
            take(draws.bits().to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_tells_its_number_and_every_other_byte_counts() {
        for size in [16, 100, 1316, 1317] {
            let numbered = Numbered::new(7, size);
            let mut datagram = Vec::new();
            for number in [0, 1, 77, 1 << 40] {
                numbered.write(number, &mut datagram);
                assert_eq!((datagram.len(), numbered.read(&datagram)), (size, Seen::Number(number)));
                for at in 0..size {
                    datagram[at] ^= 1;
                    assert_eq!(numbered.read(&datagram), Seen::Foreign, "byte {at} of {size}");
                    datagram[at] ^= 1;
                }
            }
            assert_eq!(numbered.read(&datagram[1..]), Seen::Foreign);
            assert_eq!(numbered.read(&[datagram.clone(), datagram.clone()].concat()), Seen::Foreign);
            numbered.greet(&mut datagram);
            assert_eq!(numbered.read(&datagram), Seen::Greeting);
            assert_eq!(Numbered::new(8, size).read(&datagram), Seen::Foreign);
        }
        assert_eq!(Numbered::new(7, 1316).read(&[]), Seen::Foreign);
    }
}
