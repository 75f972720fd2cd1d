//! The one place where clocks are read.

use link::Instant;

/// This node's monotonic clock; all copies share one origin.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: std::time::Instant,
}

impl Clock {
    /// A clock whose origin lies a little in the past.
    pub fn start() -> Clock {
        todo!()
    }

    /// Now.
    pub fn now(&self) -> Instant {
        let _ = self.origin;
        todo!()
    }

    /// The runtime's instant for `at`, to sleep until.
    pub fn to_tokio(&self, at: Instant) -> tokio::time::Instant {
        let _ = at;
        todo!()
    }
}

/// Seconds since 1970-01-01T00:00:00Z, for expiry dates only; never for media time.
pub fn unix_seconds() -> u64 {
    todo!()
}
