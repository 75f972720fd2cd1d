//! Transport stream packets: where they begin, and what their clocks and counters say (ISO/IEC 13818-1, 2.4.3).
//!
//! Only what pacing, looping, counting and [`health`] need. Functions on a packet take the slice of its [`PACKET`] bytes and answer
//! `None` where it does not hold what is asked for; none panics on any content.

pub mod health;
mod tables;
pub mod testing;
#[cfg(test)]
mod tests;

pub use health::{TsHealth, TsMeter};

/// Bytes of a packet.
pub const PACKET: usize = 188;
/// First byte of every packet.
pub const SYNC: u8 = 0x47;
/// Packets in a full payload: seven fit an Ethernet frame, as everybody sends them.
pub const PACKETS_PER_PAYLOAD: usize = 7;
/// The packet identifier of stuffing; its counter means nothing.
pub const NULL_PID: u16 = 0x1fff;
/// Number of packet identifiers.
pub const PIDS: usize = 0x2000;

/// A programme clock reference: ticks of 27 MHz, modulo [`Pcr::MODULUS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pcr(pub u64);

/// A presentation or decoding time: ticks of 90 kHz, modulo 2^33.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pts(pub u64);

impl Pcr {
    /// Ticks in a second.
    pub const HZ: u64 = 27_000_000;
    /// The clock starts again after this many ticks, 26.5 hours.
    pub const MODULUS: u64 = (1 << 33) * 300;

    /// Ticks from `earlier` to this one, over the wrap.
    pub fn since(self, earlier: Pcr) -> u64 {
        (self.0 + Pcr::MODULUS - earlier.0) % Pcr::MODULUS
    }

    /// The reference `ticks` later.
    pub fn plus(self, ticks: u64) -> Pcr {
        Pcr((self.0 + ticks % Pcr::MODULUS) % Pcr::MODULUS)
    }
}

impl Pts {
    /// Ticks in a second.
    pub const HZ: u64 = 90_000;
    const MODULUS: u64 = 1 << 33;

    /// Signed ticks from `other` to this one: exact while they are less than 13 hours apart.
    pub fn distance(self, other: Pts) -> i64 {
        let ahead = self.0.wrapping_sub(other.0) % Pts::MODULUS;
        if ahead < Pts::MODULUS / 2 { ahead as i64 } else { ahead as i64 - Pts::MODULUS as i64 }
    }

    /// The time `ticks` later.
    pub fn plus(self, ticks: u64) -> Pts {
        Pts((self.0 + ticks % Pts::MODULUS) % Pts::MODULUS)
    }
}

/// Whether `payload` is a whole number of packets, at least one, each with its sync byte.
pub fn is_whole(payload: &[u8]) -> bool {
    !payload.is_empty()
        && payload.len().is_multiple_of(PACKET)
        && payload.chunks_exact(PACKET).all(|packet| packet[0] == SYNC)
}

/// The packet identifier.
pub fn pid(packet: &[u8]) -> u16 {
    u16::from_be_bytes([packet[1] & 0x1f, packet[2]])
}

/// Whether the packet is marked as damaged before it came here.
pub fn transport_error(packet: &[u8]) -> bool {
    packet[1] & 0x80 != 0
}

/// Whether the packet carries payload, not only an adaptation field.
pub fn has_payload(packet: &[u8]) -> bool {
    packet[3] & 0x10 != 0
}

/// The continuity counter.
pub fn continuity(packet: &[u8]) -> u8 {
    packet[3] & 0x0f
}

/// Sets the continuity counter.
pub fn set_continuity(packet: &mut [u8], counter: u8) {
    packet[3] = packet[3] & 0xf0 | counter & 0x0f;
}

/// Whether the packet says that clock or counter jump here.
pub fn discontinuity(packet: &[u8]) -> bool {
    adaptation(packet).is_some_and(|field| field[0] & 0x80 != 0)
}

/// The programme clock reference.
pub fn pcr(packet: &[u8]) -> Option<Pcr> {
    let field = adaptation(packet).filter(|field| field[0] & 0x10 != 0 && field.len() >= 7)?;
    let base = u64::from(u32::from_be_bytes([field[1], field[2], field[3], field[4]])) << 1 | u64::from(field[5] >> 7);
    let extension = u64::from(field[5] & 1) << 8 | u64::from(field[6]);
    Some(Pcr((base * 300 + extension) % Pcr::MODULUS))
}

/// Sets the programme clock reference of a packet that has one.
pub fn set_pcr(packet: &mut [u8], pcr: Pcr) {
    if self::pcr(packet).is_none() {
        return;
    }
    let (base, extension) = (pcr.0 / 300, pcr.0 % 300);
    packet[6..10].copy_from_slice(&((base >> 1) as u32).to_be_bytes());
    packet[10] = (base as u8 & 1) << 7 | 0x7e | (extension >> 8) as u8;
    packet[11] = extension as u8;
}

/// The adaptation field without its length, where there is one that is not empty.
fn adaptation(packet: &[u8]) -> Option<&[u8]> {
    if packet[3] & 0x20 == 0 || packet[4] == 0 {
        return None;
    }
    packet.get(5..5 + usize::from(packet[4]))
}

/// The times of a PES packet that begins in this packet, by their position in it. A PES header that runs over into the
/// next packet, or that is scrambled, is not seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PesTimes {
    /// The elementary stream's identifier: 0xE0 to 0xEF is video.
    pub stream_id: u8,
    pts_at: usize,
    dts_at: Option<usize>,
}

impl PesTimes {
    /// Finds the times in a packet.
    pub fn find(packet: &[u8]) -> Option<PesTimes> {
        let (starts, scrambled) = (packet[1] & 0x40 != 0, packet[3] & 0xc0 != 0);
        if !starts || scrambled || !has_payload(packet) {
            return None;
        }
        let at = if packet[3] & 0x20 != 0 { 5 + usize::from(packet[4]) } else { 4 };
        let pes = packet.get(at..)?;
        let header = pes.get(..9)?;
        // The marker bits '10' tell a header with flags from the streams that have none (table 2-21).
        if header[..3] != [0, 0, 1] || header[6] & 0xc0 != 0x80 {
            return None;
        }
        let flags = header[7] >> 6;
        let (has_pts, has_dts) = (flags & 2 != 0, flags == 3);
        let needed = if has_dts { 10 } else { 5 };
        if !has_pts || usize::from(header[8]) < needed || pes.len() < 9 + needed {
            return None;
        }
        Some(PesTimes { stream_id: header[3], pts_at: at + 9, dts_at: has_dts.then_some(at + 14) })
    }

    /// The presentation time.
    pub fn pts(&self, packet: &[u8]) -> Pts {
        read_time(&packet[self.pts_at..])
    }

    /// The decoding time, where it differs from the presentation time.
    pub fn dts(&self, packet: &[u8]) -> Option<Pts> {
        self.dts_at.map(|at| read_time(&packet[at..]))
    }

    /// Moves both times later.
    pub fn delay(&self, packet: &mut [u8], ticks: u64) {
        for at in [Some(self.pts_at), self.dts_at].into_iter().flatten() {
            let later = read_time(&packet[at..]).plus(ticks);
            write_time(&mut packet[at..], later);
        }
    }
}

fn read_time(b: &[u8]) -> Pts {
    let bits = |byte: u8, shift: u32| u64::from(byte) << shift;
    Pts(bits(b[0] >> 1 & 7, 30) | bits(b[1], 22) | bits(b[2] >> 1, 15) | bits(b[3], 7) | bits(b[4] >> 1, 0))
}

fn write_time(b: &mut [u8], time: Pts) {
    let t = time.0;
    b[0] = b[0] & 0xf0 | (t >> 29) as u8 & 0x0e | 1;
    b[1] = (t >> 22) as u8;
    b[2] = (t >> 14) as u8 | 1;
    b[3] = (t >> 7) as u8;
    b[4] = (t << 1) as u8 | 1;
}

/// Watches the continuity counters of a transport stream: a gap means that packets were lost before they came here.
#[derive(Clone)]
pub struct Continuity {
    /// The last counter of each packet identifier; [`UNSEEN`] before the first.
    last: Box<[u8; PIDS]>,
}

const UNSEEN: u8 = 0xff;

impl Default for Continuity {
    fn default() -> Self {
        Continuity { last: Box::new([UNSEEN; PIDS]) }
    }
}

impl std::fmt::Debug for Continuity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Continuity").finish_non_exhaustive()
    }
}

impl Continuity {
    /// Takes the next packet; false where packets are missing before it. A packet may be sent twice (2.4.3.3).
    pub fn follows(&mut self, packet: &[u8]) -> bool {
        let pid = pid(packet);
        if pid == NULL_PID {
            return true;
        }
        let (last, counter) = (self.last[usize::from(pid)], continuity(packet));
        self.last[usize::from(pid)] = counter;
        let expected = if has_payload(packet) { last.wrapping_add(1) & 0x0f } else { last };
        last == UNSEEN || counter == expected || counter == last || discontinuity(packet)
    }
}
