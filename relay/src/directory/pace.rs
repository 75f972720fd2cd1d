//! How often a relay may speak to all others. Pure.
//!
//! What one says is flooded to all: who says something new in every millisecond keeps all of them busy. A relay that works gathers what changes for
//! 50 ms, and its levels of trouble stand for a second, so it stays far below. Of one that does not, every so manieth word is taken in: what it says
//! of itself becomes known late, which is its own loss.

use super::Directory;
use link::Instant;
use node::control::Control;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;
use topology::NodeName;

/// Time that each word takes of what is saved up, at most [`SAVED`].
const EACH: Duration = Duration::from_millis(25);
const SAVED: Duration = Duration::from_millis(2500);

/// Relays kept in mind beyond which all that have been silent for long are forgotten at once.
const MANY: usize = 4096;

/// When each origin will have earned all of [`SAVED`] again.
#[derive(Debug, Default)]
pub(super) struct Pace(HashMap<NodeName, Instant>);

impl Pace {
    /// Whether a new word of `origin` is taken in.
    pub(super) fn admits(&mut self, now: Instant, origin: &NodeName) -> bool {
        if self.0.len() >= MANY && !self.0.contains_key(origin) {
            self.expire(now);
            if self.0.len() >= MANY {
                return false;
            }
        }
        let full = self.0.get(origin).copied().unwrap_or(now).max(now);
        let admits = full.saturating_since(now) + EACH <= SAVED;
        if admits {
            self.0.insert(origin.clone(), full + EACH);
        }
        admits
    }

    /// Forgets who has been silent for long.
    pub(super) fn expire(&mut self, now: Instant) {
        self.0.retain(|_, full| *full > now);
    }
}

/// What stands, for who passes it on or takes it in at a pace of its own.
impl Directory {
    /// Whose links, streams and wishes are known, this relay's own first.
    pub fn advertisers(&self) -> impl Iterator<Item = &NodeName> {
        let me = self.me();
        let others = self.advertised.keys().filter(move |origin| *origin != me);
        self.advertised.get_key_value(me).map(|(me, _)| me).into_iter().chain(others)
    }

    /// Of whose links the trouble is known.
    pub fn reporters(&self) -> impl Iterator<Item = &NodeName> {
        self.reported.keys()
    }

    /// The advertisement of a relay that stands, in the form in which it is passed on.
    pub fn advertisement(&self, origin: &NodeName) -> Option<Rc<Control>> {
        self.advertised.get(origin).cloned()
    }

    /// The report of a relay that stands, in the form in which it is passed on.
    pub fn trouble_report(&self, origin: &NodeName) -> Option<Rc<Control>> {
        self.reported.get(origin).cloned()
    }

    /// Whether an advertisement or a report is newer than what stands, and so would be passed on.
    pub fn is_news(&self, statement: &Control) -> bool {
        match statement {
            Control::Advertise(ad) => {
                let known = self.database.get(&ad.origin);
                ad.origin != *self.me() && known.is_none_or(|known| known.number() < ad.number())
            }
            Control::Trouble(report) => {
                let known = self.database.trouble(&report.origin);
                let is_newer = |known: (u64, u64)| known < (report.boot, report.seq);
                report.origin != *self.me() && known.is_none_or(|known| is_newer((known.boot, known.seq)))
            }
            _ => false,
        }
    }

    /// Counts a statement that is thrown away because its origin says too much.
    pub fn note_excess(&mut self) {
        self.excess += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_a_rate_of_each_by_itself() {
        let mut pace = Pace::default();
        let (loud, calm) = ("loud".parse().expect("valid"), "calm".parse().expect("valid"));
        let mut taken = 0;
        for ms in 0..10_000u64 {
            let now = Instant::from_micros(1_000_000 + ms * 1000);
            taken += u32::from(pace.admits(now, &loud)) + u32::from(pace.admits(now, &loud));
            if ms % 50 == 0 {
                assert!(pace.admits(now, &calm), "at {ms} ms");
            }
        }
        assert!((495..=502).contains(&taken), "100 at once and 40 a second: {taken}");
        pace.expire(Instant::from_micros(60_000_000));
        assert!(pace.0.is_empty());
    }
}
