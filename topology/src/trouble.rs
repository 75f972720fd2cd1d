//! Trouble on a link, as its receiving end sees it: found within 50 to 100 ms, said in few words, and not taken back soon.
//!
//! Two windows watch the loss: f over the last 50 ms, m over the last second. An *onset* is at least three packets lost
//! in the fast window and f ≥ 2m + 5 %; it counts at once with all of f. Otherwise the slow window speaks. What is
//! reported is one of nine levels, so that noise makes no news; a level rises at once and falls only when nothing has
//! justified it for a while (one second after a fast trigger, two after a slow one), so that nothing flaps. Silence is
//! loss: a link on which nothing has come for 100 ms loses everything; where little is sent, or much of it is lost, only when
//! six transmissions in a row are missing, or more than chance would explain. (A link with nothing but a probe every 25 ms is
//! found silent after 150 ms: a shorter run of losses befalls a link that loses half every second.)

use std::time::Duration;

/// Loss at which each level begins, in parts per million; level 0 is none.
pub const LEVELS_PPM: [u32; 9] = [0, 20_000, 50_000, 100_000, 200_000, 350_000, 500_000, 700_000, 930_000];

/// The fast window.
pub const FAST: Duration = Duration::from_millis(50);

/// The slow window.
pub const SLOW: Duration = Duration::from_secs(1);

/// How long a level stands that a fast trigger raised.
pub const HOLD_FAST: Duration = Duration::from_secs(1);

/// How long a level stands that the slow window raised.
pub const HOLD_SLOW: Duration = Duration::from_secs(2);

/// A link that has been silent so long loses everything, if much more than that was to be expected.
pub const SILENCE: Duration = Duration::from_millis(100);

/// No silence is taken for chance that lasts longer.
pub const LONGEST_SILENCE: Duration = Duration::from_millis(600);

/// A silence is one when chance explains it less often than once in ten thousand: the natural logarithm of that.
const SURPRISE: f64 = 9.2;

/// So many transmissions must have failed to come, at the rate of the last second.
const FEWEST_SILENT: f64 = 6.0;

/// Fewer losses than these prove nothing.
const FEWEST: u32 = 3;

const SLOT: Duration = Duration::from_millis(5);
const FAST_SLOTS: u64 = (FAST.as_millis() / SLOT.as_millis()) as u64;
const SLOW_SLOTS: u64 = (SLOW.as_millis() / SLOT.as_millis()) as u64;

/// A level of loss: a place in [`LEVELS_PPM`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Level(u8);

/// What is said of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// Its loss.
    pub level: Level,
    /// Whether its delay stands a quarter or more (and 2 ms or more) above what is usual.
    pub late: bool,
}

/// Watches one direction of one link. `now` is monotonic and never goes back.
#[derive(Clone, Debug)]
pub struct Watch {
    slots: Vec<Slot>,
    /// Number of the slot that is being filled, counted from the origin of the clock.
    slot: u64,
    heard: Duration,
    fast: Held,
    slow: Held,
    delay: DelayWatch,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    received: u32,
    lost: u32,
}

/// A level, and until when it stands.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    level: Level,
    until: Duration,
}

#[derive(Clone, Debug)]
struct DelayWatch {
    usual_us: u32,
    /// Least delay of the fast window that is being filled, and when it began.
    least_us: u32,
    began: Duration,
    late_until: Duration,
}

impl Level {
    /// No loss worth a word.
    pub const NONE: Level = Level(0);

    /// Everything is lost.
    pub const ALL: Level = Level(LEVELS_PPM.len() as u8 - 1);

    /// The level of a share lost.
    pub fn of(loss_ppm: u32) -> Level {
        Level(LEVELS_PPM.iter().rposition(|begins| *begins <= loss_ppm).unwrap_or(0) as u8)
    }

    /// The share lost at which it begins, in parts per million.
    pub fn ppm(self) -> u32 {
        LEVELS_PPM[usize::from(self.0)]
    }
}

impl Condition {
    /// Whether a stream should not depend on the link alone: 2 % lost or more, or late.
    pub fn is_doubtful(self) -> bool {
        self.level.ppm() >= 20_000 || self.late
    }

    /// Whether the link is in trouble: 5 % lost or more, or late.
    pub fn is_troubled(self) -> bool {
        self.level.ppm() >= 50_000 || self.late
    }
}

impl Watch {
    /// Watches a link that came up at `now`, whose delay is usually `usual_us` microseconds.
    pub fn new(now: Duration, usual_us: u32) -> Self {
        let delay = DelayWatch { usual_us, least_us: u32::MAX, began: now, late_until: Duration::ZERO };
        let slots = vec![Slot::default(); SLOW_SLOTS as usize];
        Watch { slots, slot: slot_of(now), heard: now, fast: Held::default(), slow: Held::default(), delay }
    }

    /// Counts packets: `received` of them came, and a gap showed that `lost` did not.
    pub fn observe(&mut self, now: Duration, received: u32, lost: u32) {
        self.turn(now);
        let slot = &mut self.slots[(self.slot % SLOW_SLOTS) as usize];
        slot.received = slot.received.saturating_add(received);
        slot.lost = slot.lost.saturating_add(lost);
        if received > 0 {
            self.heard = now;
        }
    }

    /// Takes in the one-way delay of a packet.
    pub fn observe_delay(&mut self, delay_us: u32) {
        self.delay.least_us = self.delay.least_us.min(delay_us);
    }

    /// Another delay is usual: the route below has changed for good, or the operator said so.
    pub fn set_usual_delay(&mut self, usual_us: u32) {
        self.delay.usual_us = usual_us;
    }

    /// What is to be said of the link. To be asked every 5 to 10 ms; a change is to be flooded.
    pub fn condition(&mut self, now: Duration) -> Condition {
        self.turn(now);
        let silent = now.saturating_sub(self.heard) >= self.silence();
        let (fast, fast_lost) = self.loss_ppm(FAST_SLOTS);
        let (slow, slow_lost) = self.loss_ppm(SLOW_SLOTS);
        let onset = fast_lost >= FEWEST && fast >= slow.saturating_mul(2).saturating_add(50_000);
        if silent {
            self.fast.raise(Level::ALL, now, HOLD_FAST);
        } else if onset {
            self.fast.raise(Level::of(fast), now, HOLD_FAST);
        } else {
            self.fast.keep(Level::of(fast), now, HOLD_FAST);
        }
        let slow = if slow_lost >= FEWEST { Level::of(slow) } else { Level::NONE };
        self.slow.raise(slow, now, HOLD_SLOW);
        Condition { level: self.fast.level.max(self.slow.level), late: self.delay.is_late(now) }
    }

    /// How long a silence must last to count: at the rate and with the loss of the last second, chance hardly explains it.
    fn silence(&self) -> Duration {
        let seen: u32 =
            self.slots.iter().fold(0, |sum, slot| sum.saturating_add(slot.received).saturating_add(slot.lost));
        let lost: u32 = self.slots.iter().fold(0, |sum, slot| sum.saturating_add(slot.lost));
        if seen == 0 {
            return SILENCE;
        }
        let (seen, share) = (f64::from(seen), f64::from(lost) / f64::from(seen));
        let explained = if lost < FEWEST { 0.0 } else { SURPRISE / -share.min(0.99).ln() };
        let surprising = explained.max(FEWEST_SILENT);
        Duration::from_secs_f64((surprising * SLOW.as_secs_f64() / seen).min(1.0)).clamp(SILENCE, LONGEST_SILENCE)
    }

    /// Share lost and number lost over the last `slots` slots.
    fn loss_ppm(&self, slots: u64) -> (u32, u32) {
        let first = (self.slot + 1).saturating_sub(slots);
        let recent = (first..=self.slot).map(|slot| self.slots[(slot % SLOW_SLOTS) as usize]);
        let (received, lost) = recent.fold((0u64, 0u64), |(received, lost), slot| {
            (received + u64::from(slot.received), lost + u64::from(slot.lost))
        });
        ((lost * 1_000_000 / (received + lost).max(1)) as u32, u32::try_from(lost).unwrap_or(u32::MAX))
    }

    /// Clears the slots that time has passed over.
    fn turn(&mut self, now: Duration) {
        let slot = slot_of(now);
        let passed = slot.saturating_sub(self.slot).min(SLOW_SLOTS);
        for back in 0..passed {
            self.slots[((slot - back) % SLOW_SLOTS) as usize] = Slot::default();
        }
        self.slot = self.slot.max(slot);
    }
}

impl Held {
    /// `level` is justified now: at once if it is higher, and the time to stand begins anew if it is not lower.
    fn raise(&mut self, level: Level, now: Duration, hold: Duration) {
        if level >= self.level || now >= self.until {
            *self = Held { level, until: now + hold };
        }
    }

    /// `level` justifies what stands, but raises nothing.
    fn keep(&mut self, level: Level, now: Duration, hold: Duration) {
        if self.level > Level::NONE && level >= self.level {
            self.until = now + hold;
        } else if now >= self.until {
            self.level = Level::NONE;
        }
    }
}

impl DelayWatch {
    /// The least delay of each fast window is compared: one late packet is jitter.
    fn is_late(&mut self, now: Duration) -> bool {
        if now.saturating_sub(self.began) >= FAST {
            let bound = self.usual_us.saturating_add((self.usual_us / 4).max(2_000));
            if self.least_us != u32::MAX && self.least_us >= bound {
                self.late_until = now + HOLD_FAST;
            }
            (self.least_us, self.began) = (u32::MAX, now);
        }
        now < self.late_until
    }
}

fn slot_of(now: Duration) -> u64 {
    (now.as_micros() / SLOT.as_micros()) as u64
}
