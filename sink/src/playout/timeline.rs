//! The map from the source's media time to this node's clock (pure).
//!
//! Every packet brings one observation of it: the packet's birth on the local clock, `now − age`, against its media time.
//! Ages carry the errors of the clock offsets measured on each hop, and the two clocks drift. The map follows the median
//! of the observations of some seconds, at most [`MAX_SLEW_PPM`] fast, so that neither shows in the pacing.

use link::{Instant, MediaTime};
use std::collections::VecDeque;
use std::time::Duration;

/// Fastest change of the map once packets are released by it; above the drift of any two clocks in order (200 ppm).
pub const MAX_SLEW_PPM: i64 = 500;

/// Observations of this long make the median …
const WINDOW: Duration = Duration::from_secs(4);
/// … unless there are fewer than this.
const MIN_SAMPLES: usize = 31;
/// Observations nearer to each other than this add nothing.
const SPACING: Duration = Duration::from_millis(4);
/// How often the median is taken.
const UPDATE: Duration = Duration::from_millis(250);
/// Time constant of the approach to the median, where the slew limit does not bind.
const APPROACH_US: i64 = 1_000_000;
/// So many observations in a row that contradict the map and agree with each other replace it.
const WITNESSES: usize = 8;

/// The map media time → local time of one life of a stream.
#[derive(Clone, Debug)]
pub struct Timeline {
    /// Local time minus media time in nanoseconds; only its value modulo 2^32 µs matters, as media time wraps.
    offset: i64,
    /// What `offset` moves towards.
    target: i64,
    /// Observed offsets and when.
    samples: VecDeque<(Instant, i64)>,
    /// Observed offsets that contradict the map, in a row.
    suspects: VecDeque<i64>,
    /// An observation farther from the map than this contradicts it.
    jump: i64,
    slewed: Instant,
    updated: Instant,
    resets: u64,
}

impl Timeline {
    /// A map through one observation. An observation farther than `jump` from the map is taken for a break in the
    /// source's timeline, once enough of them agree.
    pub fn new(now: Instant, birth: Instant, media: MediaTime, jump: Duration) -> Timeline {
        let offset = nanos(birth.as_micros()) - nanos(u64::from(media.0));
        Timeline {
            offset,
            target: offset,
            samples: VecDeque::from([(now, offset)]),
            suspects: VecDeque::new(),
            jump: nanos(u64::try_from(jump.as_micros()).unwrap_or(u64::MAX)),
            slewed: now,
            updated: now,
            resets: 0,
        }
    }

    /// Takes the observation that a packet of `media` was born at `birth`. As long as nothing was released by the map it
    /// is not `rigid`, and goes to the median at once; then it is slewed.
    pub fn observe(&mut self, now: Instant, birth: Instant, media: MediaTime, rigid: bool) {
        let error = self.error(birth, media);
        if error.abs() > self.jump {
            self.suspect(now, self.offset + error);
            return;
        }
        self.suspects.clear();
        let spaced = self.samples.back().is_none_or(|(at, _)| now.saturating_since(*at) >= SPACING);
        if spaced || (!rigid && self.samples.len() < 4 * MIN_SAMPLES) {
            self.samples.push_back((now, self.offset + error));
        }
        if !rigid {
            self.target = self.median();
            self.offset = self.target;
            self.slewed = now;
            return;
        }
        if now.saturating_since(self.updated) >= UPDATE {
            self.updated = now;
            self.forget(now);
            self.target = self.median();
        }
        self.slew(now);
    }

    /// When a packet was born, on the local clock: by the map, or by its own account `birth` where that contradicts the
    /// map by more than the noise there can be.
    pub fn birth(&self, birth: Instant, media: MediaTime) -> Instant {
        let error = self.error(birth, media);
        if error.abs() > self.jump {
            return birth;
        }
        let micros = birth.as_micros().saturating_add_signed(-error / 1_000);
        Instant::from_micros(micros)
    }

    /// How often the source's timeline broke.
    pub fn resets(&self) -> u64 {
        self.resets
    }

    /// How much later, in nanoseconds, a packet of `media` was born by its own account than by the map.
    fn error(&self, birth: Instant, media: MediaTime) -> i64 {
        // Media time is known modulo 2^32 µs; the nearest representative is meant.
        let mapped = birth.as_micros().wrapping_sub(self.offset.div_euclid(1_000) as u64) as u32;
        let micros = i64::from(mapped.wrapping_sub(media.0) as i32);
        micros * 1_000 - self.offset.rem_euclid(1_000)
    }

    fn suspect(&mut self, now: Instant, offset: i64) {
        self.suspects.push_back(offset);
        if self.suspects.len() < WITNESSES {
            return;
        }
        let (low, high) = self.suspects.iter().fold((i64::MAX, i64::MIN), |(l, h), o| (l.min(*o), h.max(*o)));
        if high - low > self.jump {
            self.suspects.pop_front();
            return;
        }
        self.samples = self.suspects.drain(..).map(|offset| (now, offset)).collect();
        self.target = self.median();
        self.offset = self.target;
        (self.slewed, self.updated) = (now, now);
        self.resets += 1;
    }

    fn forget(&mut self, now: Instant) {
        while self.samples.len() > MIN_SAMPLES
            && self.samples.front().is_some_and(|(at, _)| now.saturating_since(*at) > WINDOW)
        {
            self.samples.pop_front();
        }
    }

    fn median(&self) -> i64 {
        let mut offsets: Vec<i64> = self.samples.iter().map(|(_, offset)| *offset).collect();
        let middle = offsets.len() / 2;
        *offsets.select_nth_unstable(middle).1
    }

    fn slew(&mut self, now: Instant) {
        let passed = i64::try_from(now.saturating_since(self.slewed).as_micros()).unwrap_or(i64::MAX).min(APPROACH_US);
        self.slewed = self.slewed.max(now);
        let most = passed * MAX_SLEW_PPM / 1_000;
        let wanted = i128::from(self.target - self.offset) * i128::from(passed) / i128::from(APPROACH_US);
        self.offset += (wanted as i64).clamp(-most, most);
    }
}

/// Wraps after 292 years; the offset is compared modulo 2^32 µs only.
fn nanos(micros: u64) -> i64 {
    i64::try_from(micros).unwrap_or(i64::MAX / 1_000).saturating_mul(1_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    const JUMP: Duration = Duration::from_millis(50);

    fn at(micros: u64) -> Instant {
        Instant::from_micros(micros)
    }

    /// Feeds `seconds` of 1000 packets/s whose media clock runs `ppm` fast, with noise of ±`noise_us`; returns the
    /// largest errors of (mapped birth − true birth) and of the mapped gaps, in microseconds.
    fn follow(ppm: i64, noise_us: i64, seconds: u64) -> (i64, i64) {
        let mut random = StdRng::seed_from_u64(7);
        let start: u64 = 5_000_000;
        let media0: u32 = u32::MAX - 10_000_000;
        let mut timeline = Timeline::new(at(start), at(start), MediaTime(media0), JUMP);
        let (mut worst, mut worst_gap, mut last) = (0, 0, None);
        for i in 1..seconds * 1_000 {
            let born = start + i * 1_000;
            let media = MediaTime(media0.wrapping_add(((i * 1_000) as i64 * (1_000_000 + ppm) / 1_000_000) as u32));
            let seen = born.saturating_add_signed(random.random_range(-noise_us..=noise_us));
            timeline.observe(at(born + 30_000), at(seen), media, i > 200);
            let mapped = timeline.birth(at(seen), media).as_micros() as i64;
            if i > 10_000 {
                worst = worst.max((mapped - born as i64).abs());
                worst_gap = worst_gap.max(last.map_or(0, |last: i64| (mapped - last - 1_000).abs()));
            }
            last = Some(mapped);
        }
        (worst, worst_gap)
    }

    #[test]
    fn drift_and_noise_do_not_reach_the_pacing() {
        for ppm in [-200, 0, 200] {
            let (worst, gap) = follow(ppm, 5_000, 120);
            assert!(worst < 1_500, "{ppm} ppm: map off by {worst} us");
            assert!(gap <= 3, "{ppm} ppm: gaps off by {gap} us");
        }
    }

    #[test]
    fn a_wild_observation_changes_nothing() {
        let mut timeline = Timeline::new(at(1_000_000), at(1_000_000), MediaTime(0), JUMP);
        for i in 1..1_000u32 {
            let now = 1_000_000 + u64::from(i) * 1_000;
            let wild = if i % 3 == 0 { 500_000 } else { 0 };
            timeline.observe(at(now), at(now - wild), MediaTime(i * 1_000), true);
        }
        assert_eq!(timeline.resets(), 0);
        assert_eq!(timeline.birth(at(2_000_000), MediaTime(1_000_000)), at(2_000_000));
    }

    #[test]
    fn a_break_of_the_timeline_is_followed_at_once() {
        let mut timeline = Timeline::new(at(1_000_000), at(1_000_000), MediaTime(0), JUMP);
        for i in 1..100u32 {
            let now = at(1_000_000 + u64::from(i) * 1_000);
            timeline.observe(now, now, MediaTime(i * 1_000), true);
        }
        let jumped = 3_600_000_000u32;
        for i in 0..20u32 {
            let now = at(1_100_000 + u64::from(i) * 1_000);
            let media = MediaTime(jumped + i * 1_000);
            timeline.observe(now, now, media, true);
            let error = timeline.birth(now, media).as_micros().abs_diff(now.as_micros());
            assert!(error <= 1, "packet {i} of the new timeline is off by {error} us");
        }
        assert_eq!(timeline.resets(), 1);
    }
}
