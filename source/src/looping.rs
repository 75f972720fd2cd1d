//! How a file plays again and again as one endless stream. Pure.
//!
//! The first pass goes out as it is, and is learnt from: clock references, the times of the pictures, the counters. On
//! every later pass all clocks (PCR, PTS, DTS) are moved on by the length of what has played, and the continuity counter
//! of each packet identifier goes on where it stopped. A decoder sees one programme without a seam.
//!
//! Not changed: times inside private sections (SCTE-35 splice times), and headers of PES packets that run over two
//! transport packets or are scrambled.

use crate::pacing::LARGEST_STEP;
use crate::pacing::NoClock;
use node::ts::{self, NULL_PID, PIDS, Pcr, PesTimes, Pts};

/// Rewrites the packets of a file for endless play.
///
/// Call [`Looper::rewrite`] on every packet in order, [`Looper::garbage`] for bytes between packets, and
/// [`Looper::next_pass`] each time the file has come to its end.
#[derive(Debug)]
pub struct Looper {
    passes: u64,
    /// What is added to every clock, in ticks of 27 MHz; a multiple of 300, so that 90 kHz times move alike.
    offset: u64,
    clock: Clock,
    pictures: Option<Pictures>,
    /// Of each packet identifier: the last counter that went out.
    counters: Box<[u8; PIDS]>,
    /// Of each packet identifier: what is added to its counter in this pass; [`UNSET`] until its first packet.
    shifts: Box<[u8; PIDS]>,
}

const UNSET: u8 = 0xff;

/// The clock references of one pass.
#[derive(Debug, Default)]
struct Clock {
    /// The programme whose clock counts: the first with a reference.
    pid: Option<u16>,
    first: Option<Pcr>,
    last: Option<Pcr>,
    /// Ticks from the first to the last, where nothing jumped.
    span: u64,
    jumped: bool,
    /// Bytes of the pass, before its first reference, and since its last.
    bytes: u64,
    before: u64,
    since: u64,
}

/// The presentation times of the first pass on one video stream.
#[derive(Debug)]
struct Pictures {
    pid: u16,
    first: Pts,
    earliest: i64,
    latest: i64,
    count: i64,
}

impl Default for Looper {
    fn default() -> Self {
        Looper {
            passes: 0,
            offset: 0,
            clock: Clock::default(),
            pictures: None,
            counters: Box::new([UNSET; PIDS]),
            shifts: Box::new([UNSET; PIDS]),
        }
    }
}

impl Looper {
    /// Takes the next packet of the file, and makes it the next packet of the stream.
    pub fn rewrite(&mut self, packet: &mut [u8]) {
        let pid = ts::pid(packet);
        let times = PesTimes::find(packet);
        if let Some(times) = times.filter(|times| (0xe0..=0xef).contains(&times.stream_id) && self.passes == 0) {
            Pictures::note(&mut self.pictures, pid, times.pts(packet));
        }
        let pcr = ts::pcr(packet);
        self.clock.note(pid, pcr, ts::discontinuity(packet));
        if self.offset != 0 {
            if let Some(pcr) = pcr {
                ts::set_pcr(packet, pcr.plus(self.offset));
            }
            if let Some(times) = times {
                times.delay(packet, self.offset / 300);
            }
        }
        if pid != NULL_PID {
            self.count(usize::from(pid), packet);
        }
    }

    /// Takes bytes of the file that belong to no packet: they play a part in its length.
    pub fn garbage(&mut self, bytes: usize) {
        self.clock.advance(bytes as u64);
    }

    /// The file begins again.
    pub fn next_pass(&mut self) -> Result<(), NoClock> {
        self.offset = (self.offset + self.period()?) % Pcr::MODULUS;
        let pid = self.clock.pid;
        self.clock = Clock { pid, ..Clock::default() };
        self.shifts.fill(UNSET);
        self.passes += 1;
        Ok(())
    }

    /// Times the file has begun again.
    pub fn passes(&self) -> u64 {
        self.passes
    }

    fn count(&mut self, pid: usize, packet: &mut [u8]) {
        let counter = ts::continuity(packet);
        if self.shifts[pid] == UNSET {
            let last = self.counters[pid];
            // A packet without payload repeats the counter before it (2.4.3.3).
            let wanted = if ts::has_payload(packet) { last.wrapping_add(1) } else { last };
            self.shifts[pid] = if last == UNSET { 0 } else { wanted.wrapping_sub(counter) & 0x0f };
        }
        let counter = counter.wrapping_add(self.shifts[pid]) & 0x0f;
        ts::set_continuity(packet, counter);
        self.counters[pid] = counter;
    }

    /// Ticks from the beginning of this pass to the beginning of the next; a multiple of 300.
    fn period(&self) -> Result<u64, NoClock> {
        let (clock, none) = (&self.clock, NoClock);
        let (first, last) = (clock.first.ok_or(none)?, clock.last.ok_or(none)?);
        let between = clock.bytes - clock.before - clock.since;
        if clock.span == 0 || between == 0 {
            return Err(none);
        }
        // From the last reference over the seam to the first one, at the mean rate.
        let seam = (u128::from(clock.span) * u128::from(clock.before + clock.since) / u128::from(between)) as u64;
        let by_bytes = last.since(first) + seam.max(1);
        let by_pictures = self.pictures.as_ref().and_then(Pictures::period).filter(|period| {
            // Whole pictures give a loop without a gap, where the clock need not run back for it.
            !clock.jumped && *period > clock.span && period.abs_diff(by_bytes) < Pcr::HZ / 2
        });
        // Rounded up: the clock must not run back by a tick.
        Ok(by_pictures.unwrap_or(by_bytes).div_ceil(300) * 300 % Pcr::MODULUS)
    }
}

impl Clock {
    fn note(&mut self, pid: u16, pcr: Option<Pcr>, jump: bool) {
        if let Some(pcr) = pcr
            && *self.pid.get_or_insert(pid) == pid
        {
            match self.last {
                None => {
                    self.first = Some(pcr);
                    self.before = self.bytes;
                }
                Some(last) if jump || pcr.since(last) > LARGEST_STEP => self.jumped = true,
                Some(last) => self.span += pcr.since(last),
            }
            self.last = Some(pcr);
            self.since = 0;
        }
        self.advance(ts::PACKET as u64);
    }

    fn advance(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.since += if self.last.is_some() { bytes } else { 0 };
    }
}

impl Pictures {
    fn note(pictures: &mut Option<Pictures>, pid: u16, pts: Pts) {
        let pictures = pictures.get_or_insert(Pictures { pid, first: pts, earliest: 0, latest: 0, count: 0 });
        if pictures.pid == pid {
            let at = pts.distance(pictures.first);
            pictures.earliest = pictures.earliest.min(at);
            pictures.latest = pictures.latest.max(at);
            pictures.count += 1;
        }
    }

    /// Ticks of 27 MHz that all pictures take, the last one included.
    fn period(&self) -> Option<u64> {
        let span = self.latest - self.earliest;
        let ticks = (self.count > 1).then(|| span * self.count / (self.count - 1))?;
        u64::try_from(ticks).ok().map(|ticks| ticks * (Pcr::HZ / Pts::HZ))
    }
}
