//! Letting packets go at their time.

use link::Instant;
use node::clock::Clock;

/// Sleeps until `at`. The runtime's timers tick once a millisecond; a thread's own sleep ends some tens of microseconds
/// after its time, and always by about as much, so that the gaps between packets come out as they went in.
pub(super) fn wait_until(clock: &Clock, at: Instant) {
    let ahead = at.saturating_since(clock.now());
    if !ahead.is_zero() {
        std::thread::sleep(ahead);
    }
}
