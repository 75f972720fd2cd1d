//! Our congestion controller for quinn: a link follows its rate, not its losses.
//!
//! quinn asks its controller one thing: how many bytes may be in flight. The stock answers halve that at every loss, and a live
//! feed starves at half a percent of random loss. Here the window is what the link's rate needs, wide enough that neither
//! acknowledgements that come late nor an outage of a quarter of a second stop the flow, and random loss does not touch it. The
//! pace of sending is the link's own ([`link::Link::poll_transmit`]); quinn's pacer, which runs at 1.25 windows per round trip,
//! stays far above it.
//!
//! What does touch it is overload: congestion marks (RFC 3168), three quarters of what is sent being lost round after round, losses while
//! the round trip has grown by a standing queue, and persistent congestion (RFC 9002 section 7.6). Each shrinks the window by a factor per
//! round, down to a 32nd; a round without trouble widens it again. A circuit breaker in the sense of RFC 8083, not a
//! search for the path's rate: that is the link's own estimate, which arrives here by [`RateHandle::set`].

use link::Bitrate;
use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics};
use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Assumed until the link knows better.
pub const INITIAL_RATE: Bitrate = Bitrate::mbps(50);
const INITIAL_RTT: Duration = Duration::from_millis(100);

/// Beyond the round trip: acknowledgements may be held back by 25 ms, timers are coarse, and an outage shorter than this
/// shall not stop the flow.
const RESERVE: Duration = Duration::from_millis(250);

/// Least and most bytes in flight, whatever the rate. The upper bound keeps a peer that acknowledges nothing from holding
/// more than this until the idle timeout.
const LEAST: u64 = 32 * 1200;
const MOST: u64 = 1 << 28;

/// Judgement is passed once per round: a round trip, but no less than this.
const ROUND: Duration = Duration::from_millis(100);

/// Bytes a round needs for its loss to mean anything.
const ENOUGH: u64 = 20 * 1200;

/// Rounds in a row that lose more than this are the mark of a path that carries next to nothing of what is sent. A link that loses half by chance
/// loses a few percent more in every other round, and repairs all of it: it must not come near.
const MOST_LOST: f64 = 0.75;
const BAD_ROUNDS: u32 = 3;

/// The factor on the window: its unit and its least.
const WHOLE: f64 = 1.0;
const LEAST_FACTOR: f64 = 1.0 / 32.0;

/// Sets the rate of one connection while it runs. All copies mean the same connection.
#[derive(Clone, Debug)]
pub struct RateHandle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    bits_per_second: AtomicU64,
    rtt_us: AtomicU64,
    rtt_min_us: AtomicU64,
    /// The full window, which quinn asks for several times a packet.
    window: AtomicU64,
    /// The factor on the window, in millionths, for the logs.
    factor_ppm: AtomicU32,
}

impl RateHandle {
    fn new(rate: Bitrate) -> RateHandle {
        let rtt = micros(INITIAL_RTT);
        RateHandle(Arc::new(Shared {
            bits_per_second: AtomicU64::new(rate.as_bps()),
            rtt_us: AtomicU64::new(rtt),
            rtt_min_us: AtomicU64::new(rtt),
            window: AtomicU64::new(window(rate, INITIAL_RTT)),
            factor_ppm: AtomicU32::new(1_000_000),
        }))
    }

    /// The controller of a connection, if it is ours.
    pub fn of(connection: &quinn::Connection) -> Option<RateHandle> {
        let controller = connection.congestion_state().into_any().downcast::<LinkController>().ok()?;
        Some(controller.shared)
    }

    /// What the link may send from the next acknowledgement on, its round-trip time, and the smallest one seen.
    pub fn set(&self, rate: Bitrate, rtt: Duration, rtt_min: Duration) {
        self.0.bits_per_second.store(rate.as_bps(), Ordering::Relaxed);
        self.0.rtt_us.store(micros(rtt), Ordering::Relaxed);
        self.0.rtt_min_us.store(micros(rtt_min), Ordering::Relaxed);
        self.0.window.store(window(rate, rtt), Ordering::Relaxed);
    }

    /// The rate in force.
    pub fn rate(&self) -> Bitrate {
        Bitrate::bps(self.0.bits_per_second.load(Ordering::Relaxed))
    }

    /// The share of the full window that overload has left, 1 where there is none.
    pub fn backoff(&self) -> f64 {
        f64::from(self.0.factor_ppm.load(Ordering::Relaxed)) / 1e6
    }

    fn rtt(&self) -> Duration {
        Duration::from_micros(self.0.rtt_us.load(Ordering::Relaxed))
    }

    /// Whether the round trip has grown so far above its least that a queue must be standing.
    fn queueing(&self) -> bool {
        let rtt_min = Duration::from_micros(self.0.rtt_min_us.load(Ordering::Relaxed));
        self.rtt() > rtt_min * 2 + Duration::from_millis(50)
    }

    fn window(&self) -> u64 {
        self.0.window.load(Ordering::Relaxed)
    }
}

/// Two round trips and the reserve, at the rate.
fn window(rate: Bitrate, rtt: Duration) -> u64 {
    rate.bytes_in(rtt.saturating_mul(2).saturating_add(RESERVE)).clamp(LEAST, MOST)
}

/// Makes a [`LinkController`] for each path of a connection.
#[derive(Clone, Copy, Debug)]
pub struct LinkControllerFactory {
    /// The rate until it is set.
    pub initial: Bitrate,
}

impl ControllerFactory for LinkControllerFactory {
    fn build(self: Arc<Self>, now: Instant, _current_mtu: u16) -> Box<dyn Controller> {
        Box::new(LinkController::new(now, self.initial))
    }
}

/// The controller of one path.
#[derive(Clone, Debug)]
pub struct LinkController {
    shared: RateHandle,
    factor: f64,
    round: Round,
    bad_rounds: u32,
}

/// What happened since the last judgement.
#[derive(Clone, Copy, Debug)]
struct Round {
    since: Instant,
    sent: u64,
    lost: u64,
    marked: bool,
    persistent: bool,
}

impl Round {
    fn new(since: Instant) -> Round {
        Round { since, sent: 0, lost: 0, marked: false, persistent: false }
    }
}

impl LinkController {
    /// A controller at `rate`.
    pub fn new(now: Instant, rate: Bitrate) -> LinkController {
        LinkController { shared: RateHandle::new(rate), factor: WHOLE, round: Round::new(now), bad_rounds: 0 }
    }

    /// Sets the rate of this controller and of its clones.
    pub fn handle(&self) -> RateHandle {
        self.shared.clone()
    }

    /// Ends a round, where it has lasted long enough, and draws the consequence.
    fn judge(&mut self, now: Instant) {
        if now.saturating_duration_since(self.round.since) < self.shared.rtt().max(ROUND) {
            return;
        }
        let Round { sent, lost, marked, persistent, .. } = self.round;
        let loss = if sent >= ENOUGH { (lost as f64 / sent as f64).min(1.0) } else { 0.0 };
        self.bad_rounds = if loss > MOST_LOST { self.bad_rounds + 1 } else { 0 };
        let shrink = if persistent {
            0.5
        } else if self.bad_rounds >= BAD_ROUNDS {
            0.7
        } else if marked || (loss > 0.1 && self.shared.queueing()) {
            0.85
        } else {
            1.25
        };
        self.factor = (self.factor * shrink).clamp(LEAST_FACTOR, WHOLE);
        self.shared.0.factor_ppm.store((self.factor * 1e6) as u32, Ordering::Relaxed);
        self.round = Round::new(now);
    }
}

impl Controller for LinkController {
    fn on_sent(&mut self, now: Instant, bytes: u64, _last_packet_number: u64) {
        self.round.sent += bytes;
        self.judge(now);
    }

    fn on_congestion_event(&mut self, now: Instant, _sent: Instant, is_persistent_congestion: bool, lost_bytes: u64) {
        // quinn reports congestion marks as an event without lost bytes.
        self.round.marked |= lost_bytes == 0;
        self.round.persistent |= is_persistent_congestion;
        self.round.lost += lost_bytes;
        self.judge(now);
    }

    fn on_mtu_update(&mut self, _new_mtu: u16) {}

    fn window(&self) -> u64 {
        ((self.shared.window() as f64 * self.factor) as u64).max(LEAST)
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = ControllerMetrics::default();
        metrics.congestion_window = self.window();
        metrics.pacing_rate = Some(self.shared.rate().as_bps());
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    struct Bed {
        now: Instant,
        controller: LinkController,
    }

    impl Bed {
        #[expect(
            clippy::disallowed_methods,
            reason = "quinn's controllers are handed std instants, which have no other origin"
        )]
        fn new() -> Bed {
            let now = Instant::now();
            let controller = LinkController::new(now, Bitrate::mbps(20));
            controller.handle().set(Bitrate::mbps(20), 40 * MS, 40 * MS);
            Bed { now, controller }
        }

        /// Sends at 20 Mbit/s for `rounds` of 100 ms, of which a share is lost.
        fn run(&mut self, rounds: u32, loss: f64, persistent: bool) -> f64 {
            for _ in 0..rounds * 100 {
                self.now += MS;
                self.controller.on_sent(self.now, 2500, 0);
                if loss > 0.0 {
                    let lost = (2500.0 * loss) as u64;
                    self.controller.on_congestion_event(self.now, self.now, persistent, lost);
                }
            }
            self.controller.handle().backoff()
        }
    }

    #[test]
    fn the_window_is_what_the_rate_needs_and_follows_it() {
        let bed = Bed::new();
        let needed = Bitrate::mbps(20).bytes_in(330 * MS);
        assert_eq!(bed.controller.window(), needed);
        bed.controller.handle().set(Bitrate::mbps(40), 40 * MS, 40 * MS);
        assert_eq!(bed.controller.window(), 2 * needed);
        bed.controller.handle().set(Bitrate::ZERO, 40 * MS, 40 * MS);
        assert_eq!(bed.controller.window(), LEAST);
    }

    #[test]
    fn random_loss_does_not_shrink_it() {
        for loss in [0.005, 0.05, 0.1, 0.4] {
            assert_eq!(Bed::new().run(50, loss, false), 1.0, "at a loss of {loss}");
        }
    }

    /// A shrunk window holds media back in a queue of our own, which the link then takes for one of the path.
    #[test]
    fn half_of_all_lost_by_chance_does_not_shrink_it() {
        let mut bed = Bed::new();
        for round in 0..50 {
            assert_eq!(bed.run(1, [0.45, 0.6, 0.55, 0.65, 0.52][round % 5], false), 1.0, "round {round}");
        }
    }

    #[test]
    fn losing_most_of_what_is_sent_backs_off_and_recovers() {
        let mut bed = Bed::new();
        assert_eq!(bed.run(2, 0.8, false), 1.0);
        assert!(bed.run(30, 0.8, false) < 0.05);
        assert!(bed.controller.window() >= LEAST);
        assert_eq!(bed.run(20, 0.0, false), 1.0);
    }

    #[test]
    fn loss_with_a_standing_queue_backs_off() {
        let mut bed = Bed::new();
        bed.controller.handle().set(Bitrate::mbps(20), 200 * MS, 40 * MS);
        assert!(bed.run(20, 0.15, false) < 0.5);
    }

    #[test]
    fn persistent_congestion_backs_off_once_a_round() {
        let mut bed = Bed::new();
        let after = bed.run(2, 0.3, true);
        assert!((0.2..0.6).contains(&after), "{after}");
    }

    #[test]
    fn congestion_marks_back_off() {
        let mut bed = Bed::new();
        for _ in 0..300 {
            bed.now += MS;
            bed.controller.on_sent(bed.now, 2500, 0);
            bed.controller.on_congestion_event(bed.now, bed.now, false, 0);
        }
        assert!(bed.controller.handle().backoff() < 0.9);
    }

    #[test]
    fn a_clone_follows_the_same_handle() {
        let bed = Bed::new();
        let clone = bed.controller.clone_box();
        bed.controller.handle().set(Bitrate::mbps(100), 40 * MS, 40 * MS);
        assert_eq!(clone.window(), bed.controller.window());
    }
}
