//! What a peer may make this end do.

use crate::time::Instant;

/// Steps of work, of whatever kind: so many at once, and so many for each second. Work begins where any are left, and is paid for when it is
/// done: what it took too much is waited for.
#[derive(Debug)]
pub(crate) struct Allowance {
    most: f64,
    per_second: f64,
    left: f64,
    /// Until when time has been counted.
    counted: Instant,
    #[cfg(test)]
    taken: u64,
}

impl Allowance {
    pub(crate) fn new(most: u32, per_second: u32) -> Allowance {
        Allowance {
            most: most.into(),
            per_second: per_second.into(),
            left: most.into(),
            counted: Instant::ORIGIN,
            #[cfg(test)]
            taken: 0,
        }
    }

    /// Whether work may begin at `now`.
    pub(crate) fn is_open(&mut self, now: Instant) -> bool {
        self.left = (self.left + (now - self.counted).as_secs_f64() * self.per_second).min(self.most);
        self.counted = self.counted.max(now);
        self.left > 0.0
    }

    /// Work has been done.
    pub(crate) fn take(&mut self, steps: usize) {
        self.left -= steps as f64;
        #[cfg(test)]
        {
            self.taken += steps as u64;
        }
    }

    /// Something came that is worth so much work.
    pub(crate) fn earn(&mut self, steps: u32) {
        self.left = (self.left + f64::from(steps)).min(self.most);
    }

    /// Steps taken since the start.
    #[cfg(test)]
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_beyond_what_was_left_is_waited_for() {
        let at = |millis: u64| Instant::from_micros(millis * 1000);
        let mut allowance = Allowance::new(100, 1000);
        assert!(allowance.is_open(at(0)));
        allowance.take(150);
        assert!(!allowance.is_open(at(50)));
        assert!(allowance.is_open(at(51)));
        allowance.take(2);
        allowance.earn(5);
        assert!(allowance.is_open(at(51)));
        assert!(allowance.is_open(at(60_000)));
        allowance.take(100);
        assert!(!allowance.is_open(at(60_000)), "no more is saved up than at the start");
        assert_eq!(allowance.taken(), 252);
    }
}
