//! Where a decoder can start in a transport stream (pure; ISO/IEC 13818-1).

use bytes::Bytes;
use link::Instant;
use std::time::Duration;

const PACKET: usize = 188;
/// Longest PSI section (13818-1, 2.4.4).
const MAX_SECTION: usize = 1024;
/// Programs whose tables are kept; a stream with more starts with the first ones.
const MAX_PROGRAMS: usize = 32;
/// The PID of the program association table.
const PAT_PID: u16 = 0;
/// How long to wait for a random access point before making do with the start of any picture: not every encoder marks
/// them, and some send one in ten seconds only.
pub const PATIENCE: Duration = Duration::from_millis(2_500);

/// Finds the points of a transport stream from which a decoder can start: the beginning of a picture that needs no other,
/// once the program tables are known.
#[derive(Debug, Default)]
pub struct EntryFinder {
    pat: Table,
    programs: Vec<Program>,
}

/// How long to wait where no picture is recognised at all: tables that never come, or a codec unknown here. The decoder may know more.
pub const UNKNOWN_PATIENCE: Duration = Duration::from_secs(10);

/// What a payload holds for a decoder that wants to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// From this byte on, a decoder shows pictures at once.
    Decodable(usize),
    /// From this byte on a picture begins, which may need others.
    Picture(usize),
}

#[derive(Debug)]
struct Program {
    pid: u16,
    table: Table,
    /// The first video stream, else the first of any kind.
    leading: Option<Leading>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Leading {
    pid: u16,
    kind: Kind,
}

/// What tells a random access point besides the flag for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Mpeg2,
    H264,
    H265,
    OtherVideo,
    NoVideo,
}

impl Entry {
    /// From which byte on a payload is good enough to start with, for who has waited so long.
    pub fn accepted(found: Option<Entry>, waited: Duration) -> Option<usize> {
        match found {
            Some(Entry::Decodable(from)) => Some(from),
            Some(Entry::Picture(from)) if waited >= PATIENCE => Some(from),
            None if waited >= UNKNOWN_PATIENCE => Some(0),
            Some(Entry::Picture(_)) | None => None,
        }
    }
}

impl EntryFinder {
    /// Reads the payload that follows, and gives the first decodable entry in it, else the first picture, if any.
    pub fn scan(&mut self, payload: &[u8]) -> Option<Entry> {
        let mut found = None;
        for (index, packet) in payload.chunks_exact(PACKET).enumerate() {
            let Some(packet) = Packet::read(packet) else { continue };
            self.learn(&packet);
            let entry = self.entry(&packet).map(|decodable| match decodable {
                true => Entry::Decodable(index * PACKET),
                false => Entry::Picture(index * PACKET),
            });
            match entry {
                Some(Entry::Decodable(_)) if !matches!(found, Some(Entry::Decodable(_))) => found = entry,
                Some(Entry::Picture(_)) if found.is_none() => found = entry,
                _ => {}
            }
        }
        found
    }

    /// The program tables as last sent, packet by packet; empty before they are complete.
    pub fn tables(&self) -> Bytes {
        let tables = std::iter::once(&self.pat).chain(self.programs.iter().map(|program| &program.table));
        tables.flat_map(|table| table.complete.iter().copied()).collect()
    }

    fn learn(&mut self, packet: &Packet<'_>) {
        if packet.pid == PAT_PID {
            if let Some(section) = self.pat.add(packet) {
                self.associate(&section);
            }
        } else if let Some(program) = self.programs.iter_mut().find(|program| program.pid == packet.pid)
            && let Some(section) = program.table.add(packet)
        {
            program.leading = leading(&section);
        }
    }

    /// Takes the program association table (13818-1, 2.4.4.3).
    fn associate(&mut self, section: &[u8]) {
        if section.first() != Some(&0x00) || section.len() < 12 {
            return;
        }
        let entries = section[8..section.len() - 4].chunks_exact(4);
        let pids = entries.filter(|entry| entry[..2] != [0, 0]).map(|entry| pid(entry[2], entry[3]));
        let pids: Vec<u16> = pids.take(MAX_PROGRAMS).collect();
        self.programs.retain(|program| pids.contains(&program.pid));
        for pid in pids {
            if !self.programs.iter().any(|program| program.pid == pid) {
                self.programs.push(Program { pid, table: Table::default(), leading: None });
            }
        }
    }

    /// Whether a picture of the first known program begins in `packet`, and whether it needs no other.
    fn entry(&self, packet: &Packet<'_>) -> Option<bool> {
        if self.pat.complete.is_empty() {
            return None;
        }
        let leading = self.programs.iter().find_map(|program| program.leading)?;
        (packet.pid == leading.pid && packet.starts)
            .then(|| packet.random_access || leading.kind.refreshes(packet.payload))
    }
}

/// Holds a stream back until a decoder can start from it.
#[derive(Debug, Default)]
pub struct Gate {
    finder: EntryFinder,
    waiting_since: Option<Instant>,
    open: bool,
}

impl Gate {
    /// What of `payload`, released at `at`, may pass, with what must go before it; `None` while the gate is shut.
    pub fn pass(&mut self, at: Instant, payload: &Bytes) -> Option<(Bytes, Bytes)> {
        if self.open {
            return Some((Bytes::new(), payload.clone()));
        }
        let waited = at.saturating_since(*self.waiting_since.get_or_insert(at));
        let from = Entry::accepted(self.finder.scan(payload), waited)?;
        self.open = true;
        Some((self.finder.tables(), payload.slice(from..)))
    }
}

/// A program table, collected from its packets.
#[derive(Debug, Default)]
struct Table {
    /// The packets of the table being collected.
    packets: Vec<u8>,
    section: Vec<u8>,
    /// The packets of the last one that was complete.
    complete: Vec<u8>,
}

impl Table {
    /// Adds a packet; gives the section when it is complete.
    fn add(&mut self, packet: &Packet<'_>) -> Option<Vec<u8>> {
        // Adaptation fields alone would be kept for ever by a section that they never complete.
        if packet.payload.is_empty() {
            return None;
        }
        if packet.starts {
            let pointer = usize::from(*packet.payload.first()?);
            self.packets.clear();
            self.section = packet.payload.get(1 + pointer..)?.to_vec();
        } else if self.packets.is_empty() {
            return None;
        } else {
            self.section.extend_from_slice(packet.payload);
        }
        self.packets.extend_from_slice(packet.whole);
        let [_, high, low, ..] = self.section[..] else { return None };
        let length = 3 + usize::from(pid(high & 0x0f, low));
        if length > MAX_SECTION {
            self.packets.clear();
            return None;
        }
        if self.section.len() < length {
            return None;
        }
        self.section.truncate(length);
        self.complete = std::mem::take(&mut self.packets);
        Some(std::mem::take(&mut self.section))
    }
}

/// The stream of a program to start from, by its map (13818-1, 2.4.4.8).
fn leading(section: &[u8]) -> Option<Leading> {
    if section.first() != Some(&0x02) || section.len() < 16 {
        return None;
    }
    let end = section.len() - 4;
    let mut rest = section.get(12 + usize::from(pid(section[10] & 0x0f, section[11]))..end)?;
    let mut first = None;
    while let [stream_type, high, low, info_high, info_low, ..] = *rest {
        let leading = Leading { pid: pid(high, low), kind: Kind::of(stream_type) };
        if leading.kind != Kind::NoVideo {
            return Some(leading);
        }
        first = first.or(Some(leading));
        rest = rest.get(5 + usize::from(pid(info_high & 0x0f, info_low))..).unwrap_or_default();
    }
    first
}

impl Kind {
    /// By the stream types of 13818-1, table 2-34.
    fn of(stream_type: u8) -> Kind {
        match stream_type {
            0x01 | 0x02 => Kind::Mpeg2,
            0x1b => Kind::H264,
            0x24 => Kind::H265,
            0x10 | 0x20 | 0x21 | 0x25 | 0x32 | 0x33 | 0x42 | 0xd1 | 0xd2 | 0xea => Kind::OtherVideo,
            _ => Kind::NoVideo,
        }
    }

    /// Whether the beginning of a picture shows that decoding can start there: parameter sets or a sequence header stand
    /// before it. Sound can start anywhere.
    fn refreshes(self, payload: &[u8]) -> bool {
        let mut codes = payload.windows(4).filter(|window| window[..3] == [0, 0, 1]).map(|window| window[3]);
        match self {
            Kind::Mpeg2 => codes.any(|code| code == 0xb3),
            // NAL unit types: 7 sequence parameter set, 5 IDR slice (H.264, table 7-1). The PES start code has bit 7 set.
            Kind::H264 => codes.any(|code| code & 0x80 == 0 && matches!(code & 0x1f, 5 | 7)),
            // 32 video parameter set, 16 to 21 random access pictures (H.265, table 7-1).
            Kind::H265 => codes.any(|code| code & 0x80 == 0 && matches!(code >> 1 & 0x3f, 16..=21 | 32)),
            Kind::OtherVideo => false,
            Kind::NoVideo => true,
        }
    }
}

/// The parts of a transport packet that matter here (13818-1, 2.4.3.2).
struct Packet<'a> {
    pid: u16,
    starts: bool,
    random_access: bool,
    payload: &'a [u8],
    whole: &'a [u8],
}

impl<'a> Packet<'a> {
    fn read(whole: &'a [u8]) -> Option<Packet<'a>> {
        let [0x47, flags, low, control, adaptation_length, adaptation_flags, ..] = *whole else { return None };
        let (has_adaptation, has_payload) = (control & 0x20 != 0, control & 0x10 != 0);
        let from = if has_adaptation { 5 + usize::from(adaptation_length) } else { 4 };
        let payload = if has_payload { whole.get(from..).unwrap_or_default() } else { &[] };
        Some(Packet {
            pid: pid(flags, low),
            starts: flags & 0x40 != 0,
            random_access: has_adaptation && adaptation_length > 0 && adaptation_flags & 0x40 != 0,
            payload,
            whole,
        })
    }
}

/// A PID, or a section length less its top bits: 13 bits over two bytes.
fn pid(high: u8, low: u8) -> u16 {
    u16::from(high & 0x1f) << 8 | u16::from(low)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) const VIDEO_PID: u16 = 0x101;

    /// A transport packet with its payload, filled up.
    fn packet(pid: u16, starts: bool, random_access: bool, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x47, (u8::from(starts) << 6) | (pid >> 8) as u8, pid as u8];
        if random_access {
            packet.extend([0x30, 1, 0x40]);
        } else {
            packet.push(0x10);
        }
        packet.extend(payload);
        packet.resize(PACKET, 0xff);
        packet
    }

    fn section(table: u8, body: &[u8]) -> Vec<u8> {
        let length = 5 + body.len() + 4;
        let mut section = vec![0, table, 0xb0 | (length >> 8) as u8, length as u8, 0, 1, 0xc1, 0, 0];
        section.extend(body);
        section.extend([0; 4]);
        section
    }

    pub(crate) fn pat() -> Vec<u8> {
        packet(0, true, false, &section(0, &[0, 0, 0xe0, 0x10, 0, 1, 0xe1, 0x00]))
    }

    pub(crate) fn pmt() -> Vec<u8> {
        pmt_of(&[0x0f, 0xe1, 0x02, 0xf0, 0, 0x1b, 0xe1, 0x01, 0xf0, 0])
    }

    fn pmt_of(streams: &[u8]) -> Vec<u8> {
        let mut body = vec![0xe1, 0x01, 0xf0, 0];
        body.extend(streams);
        packet(0x100, true, false, &section(2, &body))
    }

    pub(crate) fn picture(key: bool) -> Vec<u8> {
        packet(VIDEO_PID, true, key, &[0, 0, 1, 0xe0, 0, 0, 0x80, 0, 0, 0, 0, 0, 1, 0x09, 0xf0])
    }

    pub(crate) fn filler() -> Vec<u8> {
        packet(VIDEO_PID, false, false, &[0x55; 184])
    }

    #[test]
    fn a_random_access_point_counts_once_the_tables_are_known() {
        let mut finder = EntryFinder::default();
        assert_eq!(finder.scan(&picture(true)), None);
        assert_eq!(finder.scan(&pat()), None);
        assert_eq!(finder.scan(&picture(true)), None);
        assert!(finder.tables().starts_with(&pat()));
        assert_eq!(finder.scan(&[pmt(), picture(false)].concat()), Some(Entry::Picture(188)));
        assert_eq!(finder.scan(&[filler(), picture(false), picture(true)].concat()), Some(Entry::Decodable(376)));
        assert_eq!(finder.tables(), [pat(), pmt()].concat());
    }

    #[test]
    fn parameter_sets_tell_where_the_flag_is_missing() {
        let mut finder = EntryFinder::default();
        finder.scan(&[pat(), pmt()].concat());
        let sps =
            packet(VIDEO_PID, true, false, &[0, 0, 1, 0xe0, 0, 0, 0x80, 0, 0, 0, 0, 0, 1, 0x09, 0xf0, 0, 0, 1, 0x67]);
        assert_eq!(finder.scan(&sps), Some(Entry::Decodable(0)));
    }

    #[test]
    fn a_program_without_video_starts_at_any_sound() {
        let mut finder = EntryFinder::default();
        finder.scan(&[pat(), pmt_of(&[0x0f, 0xe1, 0x02, 0xf0, 0])].concat());
        assert_eq!(finder.scan(&packet(0x102, true, false, &[0, 0, 1, 0xc0])), Some(Entry::Decodable(0)));
    }

    #[test]
    fn a_table_over_several_packets_is_put_together() {
        let mut streams = vec![0x06, 0xe1, 0x05, 0xf0, 200];
        streams.extend([0xaa; 200]);
        streams.extend([0x24, 0xe1, 0x01, 0xf0, 0]);
        let mut body = vec![0xe1, 0x01, 0xf0, 0];
        body.extend(streams);
        let whole = section(2, &body);
        let (head, tail) = whole.split_at(184);
        let parts = [packet(0x100, true, false, head), packet(0x100, false, false, tail)].concat();
        let mut finder = EntryFinder::default();
        assert_eq!(finder.scan(&[pat(), parts.clone(), picture(true)].concat()), Some(Entry::Decodable(3 * 188)));
        assert_eq!(finder.tables(), [pat(), parts].concat());
    }

    #[test]
    fn packets_without_payload_are_not_kept_for_a_table_that_never_ends() {
        let mut finder = EntryFinder::default();
        finder.scan(&packet(0, true, false, &section(0, &[0; 500])[..184]));
        assert_eq!(finder.pat.packets.len(), PACKET);
        let mut adaptation = vec![0x47, 0, 0, 0x20, 183, 0];
        adaptation.resize(PACKET, 0xff);
        (0..1000).for_each(|_| _ = finder.scan(&adaptation));
        assert_eq!(finder.pat.packets.len(), PACKET);
    }

    #[test]
    fn the_gate_opens_at_the_first_entry_with_the_tables_before_it() {
        let mut gate = Gate::default();
        let at = Instant::from_micros(1_000);
        let first = Bytes::from([picture(true), pat(), pmt(), picture(false)].concat());
        assert_eq!(gate.pass(at, &first), None);
        let entry = Bytes::from([filler(), picture(true), filler()].concat());
        assert_eq!(gate.pass(at, &entry), Some(([pat(), pmt()].concat().into(), entry.slice(188..))));
        assert_eq!(gate.pass(at, &first), Some((Bytes::new(), first)));
    }

    #[test]
    fn the_gate_makes_do_with_any_picture_after_a_while() {
        let mut gate = Gate::default();
        let payload = Bytes::from([pat(), pmt(), picture(false)].concat());
        let at = Instant::from_micros(1_000);
        assert_eq!(gate.pass(at, &payload), None);
        assert!(gate.pass(at + PATIENCE, &payload).is_some());
    }

    proptest! {
        #[test]
        fn nothing_in_a_stream_makes_it_panic(packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..20), aim in any::<bool>()) {
            let mut finder = EntryFinder::default();
            for mut bytes in packets {
                if aim && bytes.len() >= 3 {
                    bytes[0] = 0x47;
                    bytes[1] &= 0x41;
                    bytes[2] = 0;
                }
                bytes.resize(PACKET, 0);
                if let Some(Entry::Decodable(from) | Entry::Picture(from)) = finder.scan(&bytes) {
                    prop_assert!(from < bytes.len());
                }
                prop_assert!(finder.tables().len() <= (MAX_PROGRAMS + 1) * 10 * PACKET);
            }
        }
    }
}
