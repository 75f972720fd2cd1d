//! The one place where clocks are read.
#![expect(clippy::disallowed_methods, reason = "this module is where time enters")]

use link::Instant;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How far the origin lies before the start, so that "a second ago" is a point on the clock from the beginning.
const HEAD_START: Duration = Duration::from_secs(3600);

/// This node's monotonic clock; all copies share one origin.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// When [`Clock::start`] was called: `HEAD_START` after the origin.
    started: std::time::Instant,
}

impl Clock {
    /// A clock whose origin lies a little in the past.
    pub fn start() -> Clock {
        Clock { started: std::time::Instant::now() }
    }

    /// Now.
    pub fn now(&self) -> Instant {
        Instant::from_micros(micros(HEAD_START + self.started.elapsed()))
    }

    /// The point on this clock of a moment that [`monotonic`] has told; the start of the clock for an earlier one.
    pub(crate) fn at(&self, moment: std::time::Instant) -> Instant {
        Instant::from_micros(micros(HEAD_START + moment.saturating_duration_since(self.started)))
    }

    /// The runtime's instant for `at`, to sleep until.
    pub fn to_tokio(&self, at: Instant) -> tokio::time::Instant {
        let since_start = at.as_micros().saturating_sub(micros(HEAD_START));
        // A point years ahead is as good as never; the runtime's arithmetic must not overflow on it.
        let bounded = since_start.min(micros(Duration::from_secs(86_400 * 365)));
        tokio::time::Instant::from_std(self.started + Duration::from_micros(bounded))
    }
}

/// This moment, on the clock that all of the process share.
pub(crate) fn monotonic() -> std::time::Instant {
    std::time::Instant::now()
}

/// Seconds since 1970-01-01T00:00:00Z, for expiry dates only; never for media time.
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Microseconds since 1970-01-01T00:00:00Z, to tell one start of a node from the next.
pub fn unix_micros() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, micros)
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_survives_the_way_to_the_runtime_and_back() {
        let clock = Clock::start();
        let now = clock.now();
        assert!(now.as_micros() >= micros(HEAD_START));
        let later = clock.to_tokio(now + Duration::from_secs(5));
        let sooner = clock.to_tokio(now);
        assert_eq!(later - sooner, Duration::from_secs(5));
        assert_eq!(clock.at(clock.to_tokio(now).into_std()), now);
    }

    #[test]
    fn never_is_far_away_but_representable() {
        let clock = Clock::start();
        assert!(clock.to_tokio(Instant::from_micros(u64::MAX)) > clock.to_tokio(clock.now()));
    }
}
