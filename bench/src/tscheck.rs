//! Whether a transport stream is whole: synchronisation and continuity (ISO/IEC 13818-1, 2.4.3). Pure.

use std::collections::HashMap;

/// Bytes of one transport stream packet.
pub const TS_PACKET: usize = 188;

const SYNC: u8 = 0x47;
const NULL_PID: u16 = 0x1FFF;

/// Watches a stream of payloads that hold whole transport stream packets.
#[derive(Clone, Debug, Default)]
pub struct TsCheck {
    counters: HashMap<u16, Continuity>,
    report: TsReport,
}

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct TsReport {
    /// Transport stream packets seen.
    pub packets: u64,
    /// Payloads that are no whole number of packets, and packets without their sync byte.
    pub malformed: u64,
    /// Breaks of a continuity counter that no discontinuity indicator announces.
    pub discontinuities: u64,
}

#[derive(Clone, Copy, Debug)]
struct Continuity {
    counter: u8,
    repeated: bool,
}

impl TsCheck {
    /// Looks at the next payload.
    pub fn feed(&mut self, payload: &[u8]) {
        let packets = payload.chunks_exact(TS_PACKET);
        self.report.malformed += u64::from(!packets.remainder().is_empty());
        packets.for_each(|packet| self.packet(packet));
    }

    /// What has been found up to here.
    pub fn report(&self) -> TsReport {
        self.report
    }

    fn packet(&mut self, packet: &[u8]) {
        if packet[0] != SYNC {
            self.report.malformed += 1;
            return;
        }
        self.report.packets += 1;
        let pid = u16::from_be_bytes([packet[1] & 0x1F, packet[2]]);
        if pid == NULL_PID {
            return;
        }
        let has_payload = packet[3] & 0x10 != 0;
        let announced = packet[3] & 0x20 != 0 && packet[4] > 0 && packet[5] & 0x80 != 0;
        let counter = packet[3] & 0x0F;
        let before = self.counters.insert(pid, Continuity { counter, repeated: false });
        let Some(before) = before else { return };
        if announced {
            return;
        }
        if counter == before.counter {
            // A packet without payload keeps the counter; one with payload may be sent twice, not three times.
            let repeated = has_payload;
            self.report.discontinuities += u64::from(repeated && before.repeated);
            self.counters.insert(pid, Continuity { counter, repeated });
        } else {
            self.report.discontinuities += u64::from(!has_payload || counter != (before.counter + 1) % 16);
        }
    }
}

impl TsReport {
    /// Whether nothing is wrong.
    pub fn is_whole(&self) -> bool {
        self.malformed == 0 && self.discontinuities == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(pid: u16, counter: u8, control: u8) -> [u8; TS_PACKET] {
        let mut packet = [0xFF; TS_PACKET];
        packet[0] = SYNC;
        [packet[1], packet[2]] = pid.to_be_bytes();
        packet[3] = control << 4 | counter;
        packet[4] = 1;
        packet[5] = 0;
        packet
    }

    fn check(packets: &[[u8; TS_PACKET]]) -> TsReport {
        let mut check = TsCheck::default();
        packets.iter().for_each(|packet| check.feed(packet));
        check.report()
    }

    #[test]
    fn the_bundled_clip_is_whole() {
        let mut check = TsCheck::default();
        crate::demo::CLIP.chunks(7 * TS_PACKET).for_each(|payload| check.feed(payload));
        assert!(check.report().is_whole(), "{:?}", check.report());
        assert!(check.report().packets > 1000);
    }

    #[test]
    fn a_gap_is_found_and_a_repeat_allowed_once() {
        assert_eq!(check(&[packet(5, 14, 1), packet(5, 15, 1), packet(5, 0, 1)]).discontinuities, 0);
        assert_eq!(check(&[packet(5, 14, 1), packet(5, 0, 1)]).discontinuities, 1);
        assert_eq!(check(&[packet(5, 1, 1), packet(5, 1, 1), packet(5, 2, 1)]).discontinuities, 0);
        assert_eq!(check(&[packet(5, 1, 1), packet(5, 1, 1), packet(5, 1, 1)]).discontinuities, 1);
        assert_eq!(check(&[packet(5, 1, 1), packet(6, 9, 1), packet(5, 2, 1)]).discontinuities, 0);
        assert_eq!(check(&[packet(5, 1, 1), packet(5, 1, 2), packet(5, 1, 2), packet(5, 2, 1)]).discontinuities, 0);
        assert_eq!(check(&[packet(NULL_PID, 1, 1), packet(NULL_PID, 9, 1)]).discontinuities, 0);
    }

    #[test]
    fn an_announced_break_is_none() {
        let mut announced = packet(5, 9, 3);
        announced[5] = 0x80;
        assert_eq!(check(&[packet(5, 1, 1), announced, packet(5, 10, 1)]).discontinuities, 0);
    }

    #[test]
    fn what_is_no_packet_is_malformed() {
        let mut garbled = packet(5, 1, 1);
        garbled[0] = 0;
        let mut check = TsCheck::default();
        check.feed(&garbled);
        check.feed(&[SYNC; 100]);
        assert_eq!(check.report().malformed, 2);
        assert!(!check.report().is_whole());
    }
}
