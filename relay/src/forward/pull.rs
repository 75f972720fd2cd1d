//! Answering relays below that lack something of a stream: from the history at once, and as it comes.
//!
//! A packet leaves by each output once: what has been sent there already, by its label or to answer, is in the hands of that
//! hop, which repairs it for as long as that makes sense. Only what is asked for by number leaves again, and of four
//! that leave at most one: a hop that loses most of what it carries may not spend enough on repair. So however often and for whatever
//! reason is asked, a link carries at most four thirds of a stream, and questions cannot bring down what is only slow.

use super::Egress;
use super::history::Ways;
use super::lack::{Along, Ask};
use super::sending::Sending;
use super::stream::Stream;
use link::{Delivery, Instant, StreamSeq};
use node::PortId;
use std::time::Duration;

/// How long a relay that asked gets what it asked for as it comes. Enough for the ingress to hear of the trouble and to
/// send by another way, and for the next question where it does not.
pub(super) const INTEREST: Duration = Duration::from_millis(500);

/// Interests in one stream: one for each relay below that is told apart.
const MOST_INTERESTS: usize = Ways::MOST;

/// What a relay below lacks.
#[derive(Debug)]
pub(super) struct Interest {
    output: u32,
    until: Instant,
    after: Option<StreamSeq>,
    missing: Vec<(StreamSeq, u16)>,
}

impl Interest {
    /// Whether it is of this output.
    pub(super) fn is_of(&self, output: u32) -> bool {
        self.output == output
    }

    fn wants(&self, seq: StreamSeq) -> bool {
        self.after.is_some_and(|after| seq.distance(after) > 0) || self.lists(seq)
    }

    fn lists(&self, seq: StreamSeq) -> bool {
        self.missing.iter().any(|(first, count)| (0..i32::from(*count)).contains(&seq.distance(*first)))
    }
}

impl Stream {
    /// Answers a question that came by the output in slot `slot`, and returns what is to be asked further up.
    pub(super) fn pull(&mut self, now: Instant, slot: u32, ask: Ask, egress: &mut impl Egress) -> Option<Ask> {
        let along = ask.along;
        self.note_interest(now, slot, ask);
        let interest = self.interests.iter_mut().find(|interest| interest.output == slot)?;
        let output = self.outputs.get_mut(slot as usize)?.as_mut()?;
        let rest = self.epochs.rest_below(slot);
        let mut newer = interest.after.is_none();
        let mut found = Vec::new();
        let mut sent = 0;
        for kept in self.history.lately(now, self.service.deadline).filter(|kept| interest.wants(kept.seq)) {
            newer |= interest.after.is_some_and(|after| kept.seq.distance(after) > 0);
            found.push(kept.seq);
            let delivery = kept.delivery(now);
            let slack = self.service.deadline.saturating_sub(delivery.age);
            if kept.from == output.port || output.way.is_none() || slack.is_zero() {
                continue;
            }
            if kept.has_left(output.way) && !(interest.lists(kept.seq) && output.again.take()) {
                continue;
            }
            let label = self.stamp.unwrap_or(delivery.label);
            let mut sending = Sending::new(now, slack, self.service.target, label, delivery);
            sending.send(output, rest, egress);
            kept.note_left(sending.left);
            sent += sending.sent;
            self.counters.forwarded_bytes += sending.bytes();
        }
        self.counters.forwarded += u64::from(sent);
        self.counters.pulled += u64::from(sent);
        let mut runs = interest.missing.clone();
        runs.extend(interest.after.and_then(|after| run_between(after, &found)));
        let missing = still_missing(&runs, &mut found);
        let mut further = Ask { after: interest.after.filter(|_| !newer), missing, along };
        further.missing.truncate(MOST_RUNS);
        (!further.is_empty()).then_some(further)
    }

    fn note_interest(&mut self, now: Instant, slot: u32, ask: Ask) {
        self.interests.retain(|interest| interest.until > now || interest.output == slot);
        let at = self.interests.iter().position(|interest| interest.output == slot);
        let Ask { after, missing, .. } = ask;
        match at {
            Some(at) => {
                let interest = &mut self.interests[at];
                // A question about single numbers leaves an open one standing.
                if after.is_some() || interest.until <= now {
                    (interest.after, interest.until) = (after, now + INTEREST);
                }
                interest.missing = missing;
            }
            None if self.interests.len() < MOST_INTERESTS => {
                let until = now + INTEREST;
                self.interests.push(Interest { output: slot, until, after, missing });
            }
            None => {}
        }
    }

    /// Sends a packet that has just come to those who lack it and do not get it by its label.
    #[cold]
    pub(super) fn serve(&mut self, from: PortId, sending: &mut Sending, egress: &mut impl Egress) {
        let (now, label) = (sending.now, sending.label);
        let before = sending.sent;
        self.interests.retain(|interest| interest.until > now);
        for interest in &self.interests {
            if !interest.wants(sending.delivery.seq) || self.epochs.rest_of(label, interest.output).is_some() {
                continue;
            }
            if let Some(output) = self.outputs.get_mut(interest.output as usize).and_then(Option::as_mut)
                && output.port != from
            {
                sending.send(output, self.epochs.rest_below(interest.output), egress);
            }
        }
        self.counters.pulled += u64::from(sending.sent - before);
    }

    /// Notes a first copy at an egress.
    #[inline]
    pub(super) fn note_lack(&mut self, now: Instant, from: PortId, delivery: &Delivery) {
        if !self.locals.is_empty() {
            self.lack.note(now, from, delivery, self.service.deadline);
        }
    }

    /// A question for all that is newer than what is here, where sinks watch the stream here.
    pub(super) fn all_newer(&self) -> Option<Ask> {
        if self.locals.is_empty() { None } else { self.lack.all_newer() }
    }

    /// Whether packets that enter here leave by `port` by their label.
    pub(super) fn feeds(&self, port: PortId) -> bool {
        let slot = self.outputs.iter().position(|output| output.as_ref().is_some_and(|output| output.port == port));
        let fed = |slot| self.stamp.and_then(|label| self.epochs.rest_of(label, slot as u32));
        slot.and_then(fed).is_some()
    }

    /// What to ask for, and along which ways at least, where sinks watch the stream here.
    pub(super) fn lacks(&mut self, now: Instant, along: Along) -> Option<Ask> {
        if self.locals.is_empty() { None } else { self.lack.due(now, &self.seen, along) }
    }
}

/// The numbers after `after` up to the newest found: who holds something newer may still lack what lies between.
fn run_between(after: StreamSeq, found: &[StreamSeq]) -> Option<(StreamSeq, u16)> {
    let newest = found.iter().map(|seq| seq.distance(after)).max().filter(|ahead| *ahead > 0)?;
    Some((after.plus(1), u16::try_from(newest).unwrap_or(u16::MAX).min(MOST_RUN)))
}

/// What of `runs` is not among `found`.
fn still_missing(runs: &[(StreamSeq, u16)], found: &mut [StreamSeq]) -> Vec<(StreamSeq, u16)> {
    found.sort_unstable_by_key(|seq| seq.0);
    let mut out: Vec<(StreamSeq, u16)> = Vec::new();
    for (first, count) in runs {
        let mut open = false;
        for seq in (0..u32::from(*count)).map(|n| first.plus(n)) {
            if found.binary_search_by_key(&seq.0, |seq| seq.0).is_ok() {
                open = false;
            } else if let Some((_, count)) = out.last_mut().filter(|_| open) {
                *count += 1;
            } else {
                out.push((seq, 1));
                open = true;
            }
        }
    }
    out
}

/// What a question may contain at most, in runs and in numbers.
const MOST_RUNS: usize = 64;
const MOST_RUN: u16 = 4_096;
const MOST_NUMBERS: usize = 8_192;

/// Set in the hops of a message where it goes along the targeted graphs. Who does not know it takes it for very many hops, and
/// asks along two ways.
const TARGETED: u8 = 0x80;

impl Ask {
    /// From a message; `None` where it is out of bounds.
    pub fn from_message(pull: &node::control::Pull) -> Option<Ask> {
        let numbers: usize = pull.missing.iter().map(|(_, count)| usize::from(*count)).sum();
        if pull.missing.len() > MOST_RUNS || numbers > MOST_NUMBERS {
            return None;
        }
        let missing = pull.missing.iter().map(|(first, count)| (StreamSeq(*first), *count)).collect();
        let along = if pull.hops & TARGETED == 0 { Along::Disjoint } else { Along::Targeted };
        Some(Ask { after: pull.after.map(StreamSeq), missing, along })
    }

    /// How many more relays may ask on.
    pub fn hops(pull: &node::control::Pull) -> u8 {
        pull.hops & !TARGETED
    }

    /// As a message about the stream that comes under `handle`.
    pub fn message(&self, handle: u16, hops: u8) -> node::control::Pull {
        let hops = if self.along == Along::Targeted { hops | TARGETED } else { hops };
        let missing = self.missing.iter().map(|(first, count)| (first.0, *count)).collect();
        node::control::Pull { handle, after: self.after.map(|after| after.0), missing, hops }
    }
}
