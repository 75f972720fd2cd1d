//! What the receiving end of a line test makes of what comes, and how it tells.

use crate::sla::LossHop;
use bytes::Bytes;
use hdrhistogram::Histogram;
use link::{Instant, StreamSeq};
use node::ages::Ages;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use topology::{LinkEnd, NodeName};

/// Numbers that have been overtaken and may still come; what is beyond is missing at once.
const MOST_GAPS: usize = 16_384;

/// Farthest that a number may be ahead of the others; beyond it, it is none of a test.
const MOST_AHEAD: u32 = 1 << 20;

/// Hops told apart.
const MOST_HOPS: usize = 6;

/// A packet that came within the deadline is told of as missing by no clock: what has been overtaken is given this much longer.
const GRACE: Duration = Duration::from_millis(100);

/// Numbers asked about at a time; relays answer for so many.
const MOST_ASKED: usize = 1024;

/// What came, so far.
#[derive(Debug)]
pub(super) struct Meter {
    incarnation: u64,
    received: u64,
    missing: u64,
    ages: Ages,
    delays: Histogram<u64>,
    /// Microseconds.
    jitter: f64,
    last: Option<Duration>,
    /// The number after the highest.
    next: u32,
    gaps: BTreeMap<u32, Instant>,
    lost: Vec<(LossHop, u64)>,
}

/// What is told to the sending end. A packet holds all of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Account {
    /// The life of the test that it is about.
    pub(super) incarnation: u64,
    /// Counts up.
    pub(super) number: u32,
    pub(super) received: u64,
    pub(super) missing: u64,
    /// As [`Ages::told`] has them.
    pub(super) ages: Vec<(u8, u32)>,
    /// Least, median, 99 %, 99.9 %, most, and the jitter.
    pub(super) delay_us: [u32; 6],
    pub(super) lost: Vec<(NodeName, LinkEnd, u64)>,
}

impl Meter {
    pub(super) fn new(incarnation: u64) -> Meter {
        Meter {
            incarnation,
            received: 0,
            missing: 0,
            ages: Ages::default(),
            delays: Histogram::new_with_bounds(1, 60_000_000, 3)
                .expect("the bounds are in order and three digits are allowed"),
            jitter: 0.0,
            last: None,
            next: 0,
            gaps: BTreeMap::new(),
            lost: Vec::new(),
        }
    }

    /// A packet came, once: copies are dropped before. `counts`: it is not the mark of the end.
    pub(super) fn take(&mut self, now: Instant, seq: StreamSeq, age: Duration, counts: bool) {
        let StreamSeq(seq) = seq;
        if seq >= self.next {
            if seq - self.next > MOST_AHEAD {
                return;
            }
            let room = MOST_GAPS - self.gaps.len();
            let overtaken = self.next..seq;
            self.missing += (overtaken.len() as u64).saturating_sub(room as u64);
            self.gaps.extend(overtaken.take(room).map(|overtaken| (overtaken, now)));
            self.next = seq.saturating_add(1);
        } else {
            self.gaps.remove(&seq);
        }
        if !counts {
            return;
        }
        self.received += 1;
        self.ages.note(age);
        self.delays.saturating_record(u64::try_from(age.as_micros()).unwrap_or(u64::MAX));
        // The sender's clock is in none of it: packets are born evenly by it, and their ages differ by what the way does.
        if let Some(last) = self.last.replace(age) {
            let apart = last.abs_diff(age).as_secs_f64() * 1e6;
            self.jitter += (apart - self.jitter) / 16.0;
        }
    }

    /// Numbers that can no longer come in time, each told once.
    pub(super) fn settle(&mut self, now: Instant, deadline: Duration) -> BTreeSet<u32> {
        let over = |since: &Instant| now.saturating_since(*since) > deadline + GRACE;
        let gone: BTreeSet<u32> =
            self.gaps.iter().filter(|(_, since)| over(since)).map(|(seq, _)| *seq).take(MOST_ASKED).collect();
        self.gaps.retain(|seq, _| !gone.contains(seq));
        self.missing += gone.len() as u64;
        gone
    }

    pub(super) fn blame(&mut self, hop: &LossHop, packets: u64) {
        match self.lost.iter().position(|(known, _)| known == hop) {
            Some(at) => self.lost[at].1 = self.lost[at].1.saturating_add(packets),
            None if self.lost.len() < MOST_HOPS => self.lost.push((hop.clone(), packets)),
            None => {}
        }
    }

    pub(super) fn account(&self, number: u32) -> Account {
        let delays = &self.delays;
        let micros = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        let at = |quantile: f64| micros(delays.value_at_quantile(quantile));
        let delay_us = match delays.is_empty() {
            true => [0; 6],
            false => [micros(delays.min()), at(0.5), at(0.99), at(0.999), micros(delays.max()), self.jitter as u32],
        };
        let mut lost = self.lost.clone();
        lost.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        Account {
            incarnation: self.incarnation,
            number,
            received: self.received,
            missing: self.missing,
            ages: self.ages.told(),
            delay_us,
            lost: lost.into_iter().map(|((from, to), packets)| (from, to, packets)).collect(),
        }
    }
}

impl Account {
    /// `None` where it does not fit a packet, which its bounds exclude.
    pub(super) fn encode(&self) -> Option<Bytes> {
        let bytes = postcard::to_allocvec(self).ok()?;
        (bytes.len() <= link::Link::MAX_PAYLOAD).then(|| Bytes::from(bytes))
    }

    /// What a peer sent; `None` where that is no account.
    pub(super) fn decode(bytes: &[u8]) -> Option<Account> {
        let account: Account = postcard::from_bytes(bytes).ok()?;
        (account.lost.len() <= MOST_HOPS).then_some(account)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(ms: u64) -> Instant {
        Instant::ORIGIN + Duration::from_millis(ms)
    }

    fn name(text: &str) -> NodeName {
        text.parse().expect("valid")
    }

    #[test]
    fn what_is_repaired_counts_and_what_never_comes_is_told_once() {
        let mut meter = Meter::new(7);
        let deadline = Duration::from_millis(200);
        for n in 0..1000u64 {
            // Every tenth comes 50 ms later, every hundredth not at all.
            if n % 10 != 3 {
                meter.take(at(n), StreamSeq(n as u32), Duration::from_millis(20), true);
            }
            if n >= 50 && (n - 50) % 10 == 3 && (n - 50) % 100 != 3 {
                meter.take(at(n), StreamSeq(n as u32 - 50), Duration::from_millis(70), true);
            }
        }
        assert_eq!(meter.settle(at(200), deadline).len(), 0);
        meter.take(at(1000), StreamSeq(1000), Duration::from_millis(20), false);
        let missing = meter.settle(at(5000), deadline);
        let account = meter.account(3);
        assert_eq!((account.received + account.missing, account.missing), (1000, missing.len() as u64));
        assert!((10..=15).contains(&missing.len()) && missing.contains(&3) && missing.contains(&903), "{missing:?}");
        assert_eq!(meter.settle(at(9000), deadline).len(), 0);
        let within: Vec<_> = Ages::heard(&account.ages).within().filter(|(ms, _)| [20, 65, 80].contains(ms)).collect();
        assert_eq!(within[0].1, 900);
        assert_eq!((within[1].1, within[2].1), (900, account.received));
        let [least, p50, p99, _, most, jitter] = account.delay_us;
        assert!(least <= 20_010 && p50 >= 20_000 && p99 >= 70_000 && most >= 70_000, "{account:?}");
        assert!((1_000..40_000).contains(&jitter), "{jitter}");
    }

    #[test]
    fn the_longest_account_fits_a_packet() {
        let mut meter = Meter::new(u64::MAX);
        for n in 0..10_000 {
            meter.take(at(n), StreamSeq(n as u32), Duration::from_millis(n * 2), true);
        }
        for n in 0..100u32 {
            let long = |end: char| name(&format!("{}{n:02}{end}", "x".repeat(60)));
            let link = Some("y".repeat(31).parse().expect("valid"));
            meter.blame(&(long('a'), LinkEnd { relay: long('b'), link }), u64::MAX);
        }
        let account = meter.account(u32::MAX);
        let encoded = account.encode().expect("it fits");
        assert_eq!(Account::decode(&encoded), Some(account));
    }

    #[test]
    fn memory_is_bounded_whatever_numbers_come() {
        let mut meter = Meter::new(1);
        for n in 1..200u32 {
            meter.take(at(1), StreamSeq(n * MOST_AHEAD / 2), Duration::ZERO, true);
        }
        meter.take(at(1), StreamSeq(u32::MAX), Duration::ZERO, true);
        assert!(meter.gaps.len() <= MOST_GAPS);
    }

    proptest! {
        #[test]
        fn whatever_comes_is_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Account::decode(&bytes);
        }
    }
}
