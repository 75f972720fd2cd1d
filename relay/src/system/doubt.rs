//! Doubt of a way whose links are all well. Pure.
//!
//! A relay that acknowledges what it gets and passes nothing on shows on no link. It shows at the egress: nothing comes by the graph, and what is
//! asked for comes by another way. A question or two is an accident; questions that go on for longer than news of an honest failure takes, are not.
//! Which relay of the way it is, nobody can tell for sure, so none is accused: the stream travels on two disjoint ways for a while, and for longer
//! each time that it was not over.

use link::Instant;
use std::time::Duration;

/// Questions nearer to the first are the same accident. News of an honest failure takes no longer to change the graph.
const GOES_ON: Duration = Duration::from_millis(180);

/// Questions further apart have nothing to do with each other.
const FORGOTTEN: Duration = Duration::from_millis(1500);

/// How long two ways are used the first time, and at most.
const FIRST: Duration = Duration::from_secs(30);
const MOST: Duration = Duration::from_secs(600);

/// Whether one stream travels on two ways for its sake.
#[derive(Debug, Default)]
pub(super) struct Doubt {
    asked: Option<(Instant, Instant)>,
    until: Option<Instant>,
    held: Duration,
}

impl Doubt {
    /// A question came in for what should have come by the way in use; whether that begins to be doubted.
    pub(super) fn note(&mut self, now: Instant) -> bool {
        let first = match self.asked {
            Some((first, last)) if now.saturating_since(last) < FORGOTTEN => first,
            _ => now,
        };
        self.asked = Some((first, now));
        if self.stands(now) || now.saturating_since(first) < GOES_ON {
            return false;
        }
        let again = self.until.is_some_and(|until| now.saturating_since(until) < self.held);
        self.held = if again { (self.held * 2).min(MOST) } else { FIRST };
        self.until = Some(now + self.held);
        true
    }

    /// Whether it is doubted.
    pub(super) fn stands(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// When that may be over, after `now`.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|until| now < *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_micros(1_000_000 + ms * 1000)
    }

    #[test]
    fn one_accident_is_none_and_questions_that_go_on_are() {
        let mut doubt = Doubt::default();
        assert!(!doubt.note(at(0)) && !doubt.note(at(45)) && !doubt.note(at(135)));
        assert!(!doubt.note(at(5_000)), "long after");
        assert!(!doubt.stands(at(5_000)));
        assert!(doubt.note(at(5_200)));
        assert!(doubt.stands(at(5_200)) && doubt.stands(at(35_199)) && !doubt.stands(at(35_200)));
        assert_eq!((doubt.due(at(5_200)), doubt.due(at(35_200))), (Some(at(35_200)), None));
    }

    #[test]
    fn it_lasts_longer_each_time_that_it_was_not_over() {
        let mut doubt = Doubt::default();
        let mut now = 0;
        let mut held = Vec::new();
        for _ in 0..7 {
            doubt.note(at(now));
            assert!(doubt.note(at(now + 200)));
            let until = doubt.due(at(now + 200)).expect("it stands");
            held.push(until.saturating_since(at(now + 200)).as_secs());
            now = until.saturating_since(at(0)).as_millis() as u64 + 100;
        }
        assert_eq!(held, [30, 60, 120, 240, 480, 600, 600]);
        now += 2_000_000;
        doubt.note(at(now));
        assert!(doubt.note(at(now + 200)));
        assert!(!doubt.stands(at(now + 200 + 30_000)), "it was well for long");
    }
}
