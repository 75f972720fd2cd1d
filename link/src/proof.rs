//! Whether a path carries frames of a certain size, found out by asking.
//!
//! Datagram path MTU discovery (RFC 8899) with a single candidate: the largest frame that a connection is made for. A question of that
//! size is answered by the peer at the same size, so one answer proves both directions. Questions are repeated, since a single one may
//! be lost like any other datagram, and each goes with a small one beside it: a path that answers small questions for a second and
//! none of the large ones does not carry the size, while one that answers neither, or few of either, is down or bad. What follows for the connection is for its
//! owner to decide.

use crate::frame::PathProbe;
use crate::time::Instant;
use bytes::BytesMut;
use std::time::Duration;

/// Time between two questions. A burst of loss rarely takes more than one.
const ASK_EVERY: Duration = Duration::from_millis(60);
/// Most questions of one proof.
const MAX_QUESTIONS: u32 = 12;
/// Bytes of a small question.
const SMALL: usize = 64;
/// Small answers without which a no is no no: where each way loses half, three of twelve are answered, and none of the large ones once in thirty
/// times by chance alone. With half of the small ones answered that happens once in four thousand.
const ENOUGH_SMALL: u32 = MAX_QUESTIONS / 2;
/// Time from the first question until the answer is no: the questions, and a round trip over half the world for the last.
const GIVE_UP: Duration = Duration::from_secs(1);

/// What has been found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not answered yet.
    Pending,
    /// Frames of the size pass, both ways.
    Carried,
    /// They do not; small ones do.
    NotCarried,
    /// Nothing passes, or so little that this says nothing about sizes.
    Silent,
}

/// A question under way.
#[derive(Clone, Copy, Debug)]
pub struct PathProof {
    size: usize,
    token: u32,
    questions: u32,
    /// The small question of the current pair has gone.
    halfway: bool,
    next: Instant,
    give_up: Instant,
    small_answers: u32,
    answered: bool,
    /// The time is up: what is known then is the verdict, and nobody need be woken for it.
    over: bool,
}

impl PathProof {
    /// Asks whether frames of `size` bytes pass, from `now` on. The token tells the answers from those to an earlier proof.
    pub fn new(now: Instant, size: usize, token: u32) -> PathProof {
        PathProof {
            size,
            token,
            questions: 0,
            halfway: false,
            next: now,
            give_up: now + GIVE_UP,
            small_answers: 0,
            answered: false,
            over: false,
        }
    }

    /// Appends a question to `out` where one is due, and returns its length. To be called whenever [`PathProof::poll_timeout`] has come.
    pub fn poll_transmit(&mut self, now: Instant, out: &mut BytesMut) -> Option<usize> {
        self.over |= now >= self.give_up;
        if self.answered || self.over || self.questions == MAX_QUESTIONS || now < self.next {
            return None;
        }
        self.halfway = !self.halfway;
        if !self.halfway {
            self.questions += 1;
            self.next = now + ASK_EVERY;
        }
        let size = if self.halfway { SMALL } else { self.size };
        Some(PathProbe { answer: false, token: self.token }.put(out, size))
    }

    /// Takes an answer of `size` bytes in. One that is larger than a small question answers the large one, though it be cut to
    /// what the peer's own path allows.
    pub fn handle_answer(&mut self, probe: PathProbe, size: usize) {
        if probe.answer && probe.token == self.token {
            self.answered |= size > SMALL;
            self.small_answers += u32::from(size <= SMALL);
        }
    }

    /// What is known by `now`.
    pub fn verdict(&self, now: Instant) -> Verdict {
        match self.answered {
            true => Verdict::Carried,
            false if now >= self.give_up && self.small_answers >= ENOUGH_SMALL => Verdict::NotCarried,
            false if now >= self.give_up => Verdict::Silent,
            false => Verdict::Pending,
        }
    }

    /// When the next question or the verdict is due; `None` when there is a verdict.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let next = if self.questions < MAX_QUESTIONS { self.next.min(self.give_up) } else { self.give_up };
        (!self.answered && !self.over).then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{self, Frame};

    fn at(ms: u64) -> Instant {
        Instant::from_micros(1_000_000 + ms * 1000)
    }

    fn question(proof: &mut PathProof, now: Instant) -> Option<(PathProbe, usize)> {
        let mut out = BytesMut::new();
        let length = proof.poll_transmit(now, &mut out)?;
        assert_eq!(length, out.len());
        let Ok(Frame::Path(probe)) = frame::decode(&out) else { panic!("not a path probe: {out:?}") };
        Some((probe, length))
    }

    #[test]
    fn asks_until_it_is_answered() {
        let mut proof = PathProof::new(at(0), 1414, 7);
        for size in [SMALL, 1414] {
            let asked = question(&mut proof, at(0)).expect("the first pair goes at once");
            assert_eq!(asked, (PathProbe { answer: false, token: 7 }, size));
        }
        assert!(question(&mut proof, at(59)).is_none());
        assert!(question(&mut proof, at(60)).is_some());
        proof.handle_answer(PathProbe { answer: true, token: 6 }, 1414);
        proof.handle_answer(PathProbe { answer: false, token: 7 }, 1414);
        proof.handle_answer(PathProbe { answer: true, token: 7 }, SMALL);
        assert_eq!(proof.verdict(at(61)), Verdict::Pending);
        proof.handle_answer(PathProbe { answer: true, token: 7 }, 1414);
        assert_eq!(proof.verdict(at(61)), Verdict::Carried);
        assert_eq!(proof.poll_timeout(), None);
        assert!(question(&mut proof, at(200)).is_none());
    }

    #[test]
    fn gives_up_after_a_second() {
        for (answers, expected) in [
            (MAX_QUESTIONS, Verdict::NotCarried),
            (ENOUGH_SMALL, Verdict::NotCarried),
            // Of large ones as few might be answered, and none by chance.
            (ENOUGH_SMALL - 1, Verdict::Silent),
            (0, Verdict::Silent),
        ] {
            let mut proof = PathProof::new(at(0), 1414, 7);
            let mut asked = 0;
            let mut answered = 0;
            let mut now = at(0);
            while let Some(due) = proof.poll_timeout() {
                assert_eq!(proof.verdict(now), Verdict::Pending, "there is nothing to be woken for");
                now = due;
                while let Some((probe, size)) = question(&mut proof, now) {
                    asked += 1;
                    if answered < answers && size == SMALL {
                        answered += 1;
                        proof.handle_answer(PathProbe { answer: true, ..probe }, size);
                    }
                }
            }
            assert_eq!((asked, now), (2 * MAX_QUESTIONS, at(1000)));
            assert_eq!(proof.verdict(now), expected);
        }
    }
}
