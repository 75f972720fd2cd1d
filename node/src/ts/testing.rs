//! Packets for tests.

use super::{PACKET, Pcr, Pts, SYNC, set_pcr, write_time};

/// A packet of a PID with a counter, a reference if asked, and filler.
pub fn packet(pid: u16, counter: u8, pcr: Option<Pcr>) -> [u8; PACKET] {
    let mut packet = [0xaa; PACKET];
    packet[..4].copy_from_slice(&[SYNC, (pid >> 8) as u8, pid as u8, 0x10 | counter & 0x0f]);
    if let Some(pcr) = pcr {
        packet[3] |= 0x20;
        packet[4..12].copy_from_slice(&[7, 0x10, 0, 0, 0, 0, 0, 0]);
        set_pcr(&mut packet, pcr);
    }
    packet
}

/// The same with a PES packet of a video stream that begins in it.
pub fn pes_packet(pid: u16, counter: u8, pcr: Option<Pcr>, pts: Pts, dts: Option<Pts>) -> [u8; PACKET] {
    let mut packet = packet(pid, counter, pcr);
    packet[1] |= 0x40;
    let at = if pcr.is_some() { 12 } else { 4 };
    let (flags, length) = if dts.is_some() { (0xc0, 10) } else { (0x80, 5) };
    packet[at..at + 9].copy_from_slice(&[0, 0, 1, 0xe0, 0, 0, 0x80, flags, length]);
    packet[at + 9] = if dts.is_some() { 0x30 } else { 0x20 };
    write_time(&mut packet[at + 9..], pts);
    if let Some(dts) = dts {
        packet[at + 14] = 0x10;
        write_time(&mut packet[at + 14..], dts);
    }
    packet
}

/// A packet that is a programme association table of these programmes: number, and PID of the map.
pub fn association(counter: u8, programmes: &[(u16, u16)]) -> [u8; PACKET] {
    let mut packet = section(0, counter, 0x00, 9 + 4 * programmes.len());
    for (nth, (number, pid)) in programmes.iter().enumerate() {
        let at = 13 + 4 * nth;
        packet[at..at + 2].copy_from_slice(&number.to_be_bytes());
        packet[at + 2..at + 4].copy_from_slice(&(0xe000 | pid).to_be_bytes());
    }
    packet
}

/// A packet that is the map of a programme, empty.
pub fn map(pid: u16, counter: u8) -> [u8; PACKET] {
    section(pid, counter, 0x02, 13)
}

/// A packet in which a section of so many bytes after its length begins.
fn section(pid: u16, counter: u8, table: u8, length: usize) -> [u8; PACKET] {
    let mut packet = packet(pid, counter, None);
    packet[1] |= 0x40;
    packet[4..13].copy_from_slice(&[0, table, 0xb0, length as u8, 0, 1, 0xc1, 0, 0]);
    packet
}
