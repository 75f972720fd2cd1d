//! How fast the control messages of one peer are read. Pure.
//!
//! Reading one takes time of the thread that forwards media. Who sends more than a node that works has to say is read more slowly: what is not
//! read fills the window of its stream (`endpoint::transport`), and then it cannot send. Nothing is lost but its own time.

use crate::control::Control;
use link::Instant;
use std::time::Duration;

/// What may be read of a peer in a second, in bytes: an overlay of a thousand relays says less when all of it changes.
const RATE: u64 = 2 << 20;

/// What may be read at once after a silence: that an overlay of a thousand relays introduces itself.
const BURST: u64 = 8 << 20;

/// What a message costs beyond its bytes: it is a turn of the host.
const EACH: u64 = 64;

/// What a signed one costs beyond that: its signature is checked, which takes as long as a few KiB take to be taken in.
const SIGNATURE: u64 = 4096;

/// When a peer will have earned all of [`BURST`] again: the generic cell rate algorithm (ITU-T I.371).
#[derive(Debug, Default)]
pub(super) struct ControlPace(Option<Instant>);

impl ControlPace {
    /// How long to wait after a message of `size` bytes before the next one is read.
    pub(super) fn after(&mut self, now: Instant, message: &Control, size: usize) -> Duration {
        let signature = if matches!(message, Control::Signed(_)) { SIGNATURE } else { 0 };
        let full = self.0.unwrap_or(now).max(now) + time_for(size as u64 + EACH + signature);
        self.0 = Some(full);
        full.saturating_since(now).saturating_sub(time_for(BURST))
    }
}

fn time_for(bytes: u64) -> Duration {
    Duration::from_micros(bytes.saturating_mul(1_000_000) / RATE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Signed;

    /// What a peer that never pauses gets read in ten seconds.
    fn read(message: &Control, size: usize) -> u64 {
        let (mut pace, mut now) = (ControlPace::default(), Instant::from_micros(5));
        let end = now + Duration::from_secs(10);
        let mut read = 0;
        while now < end {
            now += pace.after(now, message, size);
            read += 1;
        }
        read
    }

    #[test]
    fn a_burst_at_once_and_then_a_rate() {
        let plain = Control::Goodbye { reason: String::new() };
        let all = BURST + 10 * RATE;
        assert_eq!(read(&plain, 256 * 1024), all / (256 * 1024 + EACH) + 1);
        // Time is counted in whole microseconds.
        let about = |read: u64, expected: u64| read.abs_diff(expected) <= expected / 50;
        assert!(about(read(&plain, 50), all / (50 + EACH)), "small ones, some ten thousand a second");
        let signed = Control::Signed(Signed { body: Vec::new(), certificate: Vec::new(), signature: Vec::new() });
        let checked = read(&signed, 700);
        assert!(about(checked, all / (700 + EACH + SIGNATURE)), "signatures take longer: {checked}");
    }

    #[test]
    fn who_says_little_is_never_held_back() {
        let mut pace = ControlPace::default();
        let plain = Control::Goodbye { reason: String::new() };
        for ms in 0..100_000 {
            assert_eq!(pace.after(Instant::from_micros(1000 * ms), &plain, 1500), Duration::ZERO);
        }
    }
}
