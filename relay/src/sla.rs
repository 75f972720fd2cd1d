//! What each sink of this relay had of each stream: on time or not, over the last minute, hour and day, and on which hop what it
//! missed was lost. Pure.
//!
//! A sink says how many packets it released on time and which it passed over ([`node::control::Receipt`]). Which hop it was, relays
//! find out from each other ([`node::control::Whence`]): the hop between the last relay on the way that had the packet and the first
//! that had not. Where that is not known, it is counted as unknown.

use crate::ops::schema;
use link::Instant;
use node::ages::Ages;
use node::control::Receipt;
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use topology::{LinkEnd, NodeName, StreamName};
use utoipa::ToSchema;

/// Most accounts; beyond it those give way that have been idle for longest, if they have been for [`IDLE`].
const MOST_ACCOUNTS: usize = 2048;

/// Who has not reported for so long watches no more: a sink reports every second.
const IDLE: Duration = Duration::from_secs(60);

/// How often it is looked for idle accounts where there is no room: each look goes through all of them.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Most that give way at once.
const MOST_GIVE_WAY: usize = 64;

/// Most hops told apart in one span of an account; the rest is counted as unknown.
const MOST_HOPS: usize = 8;

/// From one node over a link to the next.
pub type LossHop = (NodeName, LinkEnd);

/// What the sinks of one stream had of it.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Sla {
    /// The stream.
    #[schema(value_type = schema::StreamName)]
    pub stream: StreamName,
    /// This relay; sinks at others are told of there.
    #[schema(value_type = schema::NodeName)]
    pub relay: NodeName,
    /// Each sink that watches the stream here, or did in the last day.
    pub sinks: Vec<SinkSla>,
}

/// What one sink had of a stream.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct SinkSla {
    /// Who.
    #[schema(value_type = schema::NodeName)]
    pub sink: NodeName,
    /// Seconds since it last reported.
    pub reported_ago_s: f64,
    /// Over the last minute.
    pub minute: Span,
    /// Over the last hour.
    pub hour: Span,
    /// Over the last day.
    pub day: Span,
}

/// What came of the packets due in a span of time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct Span {
    /// Packets that were to be released.
    pub due: u64,
    /// Of these, released on time.
    pub on_time: u64,
    /// Of these, come too late.
    pub late: u64,
    /// Of these, never come.
    pub missing: u64,
    /// Of these, dropped because the sink's buffer was full.
    pub overflow: u64,
    /// Share on time; null where nothing was due.
    #[schema(required)]
    pub on_time_share: Option<f64>,
    /// Where they were missed, the worst first.
    pub hops: Vec<HopMisses>,
    /// Packets missed of which the hop is not known: all that came to the sink too late are among them.
    pub unknown: u64,
    /// How old packets were when they came here, late ones too: what is left to the deadline is the margin. Empty where the sink does not tell:
    /// it speaks a protocol before 1.3.
    pub ages: Vec<AgeClass>,
}

/// Packets of an age: from the source's receipt to their arrival at the sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct AgeClass {
    /// The oldest of them, in milliseconds; the youngest are older than the class before. Null: older than all other classes.
    #[schema(required)]
    pub up_to_ms: Option<u16>,
    /// How many.
    pub packets: u64,
}

/// The classes as they are shown; none where nothing was counted.
pub(crate) fn age_classes(ages: &Ages) -> Vec<AgeClass> {
    if ages.is_empty() {
        return Vec::new();
    }
    ages.classes().map(|(up_to_ms, packets)| AgeClass { up_to_ms, packets }).collect()
}

/// Packets lost on one hop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct HopMisses {
    /// The last node on the way that had them.
    #[schema(value_type = schema::NodeName)]
    pub from: NodeName,
    /// The first that had not, and by which link it should have come where several join the two.
    #[schema(value_type = schema::LinkEnd)]
    pub to: LinkEnd,
    /// How many.
    pub packets: u64,
}

#[derive(Clone, Debug, Default)]
struct Counts {
    on_time: u64,
    late: u64,
    /// What was missing may come late after all: then this goes down.
    missing: i64,
    overflow: u64,
    hops: Vec<(LossHop, u64)>,
    /// By class, as [`Ages::told`] has them.
    ages: Vec<(u8, u32)>,
}

impl Counts {
    fn take(&mut self, receipt: &Receipt) {
        self.on_time = self.on_time.saturating_add(receipt.on_time);
        self.late = self.late.saturating_add(receipt.late);
        self.missing = self.missing.saturating_add(receipt.missing);
        self.overflow = self.overflow.saturating_add(receipt.overflow);
        Ages::merge(&mut self.ages, &Ages::heard(&receipt.ages));
    }

    fn blame(&mut self, hop: &LossHop, packets: u64) {
        let known = self.hops.iter().position(|(known, _)| known == hop);
        match known {
            Some(at) => self.hops[at].1 = self.hops[at].1.saturating_add(packets),
            None if self.hops.len() < MOST_HOPS => self.hops.push((hop.clone(), packets)),
            None => {}
        }
    }

    fn add(&mut self, other: &Counts) {
        self.on_time = self.on_time.saturating_add(other.on_time);
        self.late = self.late.saturating_add(other.late);
        self.missing = self.missing.saturating_add(other.missing);
        self.overflow = self.overflow.saturating_add(other.overflow);
        other.hops.iter().for_each(|(hop, packets)| self.blame(hop, *packets));
        Ages::merge(&mut self.ages, &Ages::heard(&other.ages));
    }

    fn span(mut self) -> Span {
        let missing = self.missing.max(0) as u64;
        let missed = self.late.saturating_add(missing).saturating_add(self.overflow);
        let due = self.on_time.saturating_add(missed);
        self.hops.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
        let known: u64 = self.hops.iter().fold(0, |sum, (_, packets)| sum.saturating_add(*packets));
        let of = |((from, to), packets): (LossHop, u64)| HopMisses { from, to, packets };
        Span {
            due,
            on_time: self.on_time,
            late: self.late,
            missing,
            overflow: self.overflow,
            on_time_share: (due > 0).then(|| self.on_time as f64 / due as f64),
            hops: self.hops.into_iter().map(of).collect(),
            unknown: missed.saturating_sub(known),
            ages: age_classes(&Ages::heard(&self.ages)),
        }
    }
}

/// Counts of the last `len` steps of time, each `step` long.
#[derive(Debug)]
struct Ring {
    step: Duration,
    len: u64,
    /// By the number of the step; only those in which something was counted.
    steps: VecDeque<(u64, Counts)>,
}

impl Ring {
    fn new(step: Duration, len: u64) -> Ring {
        Ring { step, len, steps: VecDeque::new() }
    }

    fn number(&self, now: Instant) -> u64 {
        (now.saturating_since(Instant::ORIGIN).as_millis() / self.step.as_millis().max(1)) as u64
    }

    fn at(&mut self, now: Instant) -> &mut Counts {
        let number = self.number(now);
        while self.steps.front().is_some_and(|(at, _)| at + self.len <= number) {
            self.steps.pop_front();
        }
        if self.steps.back().is_none_or(|(at, _)| *at < number) {
            self.steps.push_back((number, Counts::default()));
        }
        let last = self.steps.len() - 1;
        &mut self.steps[last].1
    }

    fn sum(&self, now: Instant) -> Span {
        let number = self.number(now);
        let mut sum = Counts::default();
        self.steps.iter().filter(|(at, _)| at + self.len > number).for_each(|(_, counts)| sum.add(counts));
        sum.span()
    }
}

#[derive(Debug)]
struct Account {
    told: Instant,
    minute: Ring,
    hour: Ring,
    day: Ring,
}

impl Account {
    fn new(now: Instant) -> Account {
        let ring = |seconds, len| Ring::new(Duration::from_secs(seconds), len);
        Account { told: now, minute: ring(1, 60), hour: ring(60, 60), day: ring(3600, 24) }
    }

    fn each(&mut self, now: Instant, count: impl Fn(&mut Counts)) {
        for ring in [&mut self.minute, &mut self.hour, &mut self.day] {
            count(ring.at(now));
        }
    }
}

/// The accounts of a relay: a few kilobytes for each sink and stream, bounded in number. Where there are more, those that are kept stay whole:
/// what gave way to the next receipt would soon tell of nobody.
#[derive(Debug, Default)]
pub struct Accounts {
    all: BTreeMap<(StreamName, NodeName), Account>,
    looked: Option<Instant>,
    refused: u64,
}

impl Accounts {
    /// A sink reports.
    pub fn take(&mut self, now: Instant, sink: &NodeName, receipt: &Receipt) {
        let key = (receipt.name.clone(), sink.clone());
        if !self.all.contains_key(&key) && !self.has_room(now) {
            self.refused += 1;
            return;
        }
        let account = self.all.entry(key).or_insert_with(|| Account::new(now));
        account.told = now;
        account.each(now, |counts| counts.take(receipt));
    }

    /// Receipts of which no account is kept: there are as many as there may be.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Whether there is room for another account; makes some where others are idle.
    fn has_room(&mut self, now: Instant) -> bool {
        let looked = self.looked.is_some_and(|at| now.saturating_since(at) < LOOK_EVERY);
        if self.all.len() >= MOST_ACCOUNTS && !looked {
            self.looked = Some(now);
            let is_idle = |account: &Account| now.saturating_since(account.told) >= IDLE;
            let mut idle: Vec<_> = self.all.iter().filter(|(_, account)| is_idle(account)).collect();
            idle.sort_by_key(|(_, account)| account.told);
            let idle: Vec<_> = idle.into_iter().take(MOST_GIVE_WAY).map(|(key, _)| key.clone()).collect();
            idle.iter().for_each(|key| drop(self.all.remove(key)));
        }
        self.all.len() < MOST_ACCOUNTS
    }

    /// So many packets that a sink missed were lost on this hop.
    pub fn blame(&mut self, now: Instant, stream: &StreamName, sink: &NodeName, hop: &LossHop, packets: u64) {
        if let Some(account) = self.all.get_mut(&(stream.clone(), sink.clone())) {
            account.each(now, |counts| counts.blame(hop, packets));
        }
    }

    /// What the sinks of a stream had of it; `None` where no sink has reported in the last day.
    pub fn of(&self, now: Instant, relay: &NodeName, stream: &StreamName) -> Option<Sla> {
        let of_stream = self.all.iter().filter(|((name, _), _)| name == stream);
        let sink = |((_, sink), account): (&(StreamName, NodeName), &Account)| SinkSla {
            sink: sink.clone(),
            reported_ago_s: now.saturating_since(account.told).as_secs_f64(),
            minute: account.minute.sum(now),
            hour: account.hour.sum(now),
            day: account.day.sum(now),
        };
        let sinks: Vec<SinkSla> = of_stream.map(sink).collect();
        (!sinks.is_empty()).then(|| Sla { stream: stream.clone(), relay: relay.clone(), sinks })
    }

    /// Forgets sinks that have not reported for a day.
    pub fn expire(&mut self, now: Instant) {
        self.all.retain(|_, account| now.saturating_since(account.told) < Duration::from_secs(86_400));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> NodeName {
        text.parse().expect("valid")
    }

    fn receipt(on_time: u64, missing: i64) -> Receipt {
        Receipt {
            name: "t/c".parse().expect("valid"),
            incarnation: topology::lsdb::Incarnation(1),
            on_time,
            late: 0,
            missing,
            overflow: 0,
            missed: Vec::new(),
            ages: vec![(3, on_time as u32)],
        }
    }

    fn at(seconds: u64) -> Instant {
        Instant::ORIGIN + Duration::from_secs(seconds)
    }

    #[test]
    fn a_minute_an_hour_and_a_day_each_forget_in_their_time() {
        let mut accounts = Accounts::default();
        for second in 0..4000 {
            accounts.take(at(second), &name("s"), &receipt(100, i64::from(second < 10)));
        }
        accounts.blame(at(5), &"t/c".parse().expect("valid"), &name("s"), &(name("a"), name("b").into()), 7);
        let of = |now| accounts.of(now, &name("r"), &"t/c".parse().expect("valid")).expect("it reported");
        let sla = of(at(3999));
        let sink = &sla.sinks[0];
        assert_eq!((sink.minute.due, sink.minute.on_time_share), (6000, Some(1.0)));
        assert_eq!((sink.day.due, sink.day.missing), (400_010, 10));
        assert!(sink.hour.due > 350_000 && sink.hour.due <= 360_000, "{}", sink.hour.due);
        let later = of(at(50_000));
        assert_eq!((later.sinks[0].minute.due, later.sinks[0].minute.on_time_share), (0, None));
        assert_eq!(later.sinks[0].day.due, 400_010);
        // Bounds are those of `node::ages`: the receipts are all of the class up to 20 ms.
        let of_20_ms =
            |span: &Span| span.ages.iter().find(|class| class.up_to_ms == Some(20)).map(|class| class.packets);
        assert_eq!((of_20_ms(&sink.minute), of_20_ms(&sink.day)), (Some(6000), Some(400_000)));
        assert!(later.sinks[0].minute.ages.is_empty());
    }

    #[test]
    fn what_no_hop_accounts_for_is_unknown() {
        let mut accounts = Accounts::default();
        accounts.take(at(1), &name("s"), &receipt(90, 10));
        let stream = "t/c".parse().expect("valid");
        accounts.blame(at(1), &stream, &name("s"), &(name("a"), name("b").into()), 3);
        accounts.blame(at(1), &stream, &name("s"), &(name("b"), name("s").into()), 4);
        let sla = accounts.of(at(2), &name("r"), &stream).expect("it reported");
        let span = &sla.sinks[0].day;
        assert_eq!((span.due, span.on_time_share, span.unknown), (100, Some(0.9), 3));
        assert_eq!(span.hops[0], HopMisses { from: name("b"), to: name("s").into(), packets: 4 });
        accounts.take(at(3), &name("s"), &Receipt { late: 2, ..receipt(0, -2) });
        let sla = accounts.of(at(3), &name("r"), &stream).expect("it reported");
        assert_eq!((sla.sinks[0].day.late, sla.sinks[0].day.missing, sla.sinks[0].day.due), (2, 8, 100));
        accounts.expire(at(100_000));
        assert!(accounts.of(at(100_000), &name("r"), &stream).is_none());
    }

    #[test]
    fn more_sinks_than_accounts_leave_those_that_are_kept_whole() {
        let mut accounts = Accounts::default();
        let all = MOST_ACCOUNTS + 100;
        let names: Vec<NodeName> = (0..all).map(|n| name(&format!("s{n}"))).collect();
        for second in 0..10 {
            names.iter().for_each(|sink| accounts.take(at(second), sink, &receipt(10, 0)));
        }
        let of = |accounts: &Accounts, second| {
            let stream = "t/c".parse().expect("valid");
            accounts.of(at(second), &name("r"), &stream).expect("they reported").sinks
        };
        let sinks = of(&accounts, 9);
        assert_eq!((sinks.len(), accounts.refused()), (MOST_ACCOUNTS, 1000));
        assert!(sinks.iter().all(|sink| sink.minute.due == 100), "each reported ten times");
        // The first hundred have gone; the others go on.
        for second in 10..100 {
            names[100..].iter().for_each(|sink| accounts.take(at(second), sink, &receipt(10, 0)));
        }
        let sinks = of(&accounts, 99);
        assert_eq!(sinks.len(), MOST_ACCOUNTS);
        let kept = |sink: &NodeName| sinks.iter().any(|known| known.sink == *sink);
        assert!(names[100..].iter().all(kept), "who is there has the place of who has gone");
    }

    #[test]
    fn the_number_of_accounts_and_hops_is_bounded() {
        let mut accounts = Accounts::default();
        for n in 0..MOST_ACCOUNTS as u64 + 10 {
            accounts.take(at(n), &name(&format!("s{n}")), &receipt(u64::MAX, i64::MAX));
        }
        assert!((MOST_ACCOUNTS - MOST_GIVE_WAY..=MOST_ACCOUNTS).contains(&accounts.all.len()));
        let (stream, sink) = ("t/c".parse().expect("valid"), name(&format!("s{}", MOST_ACCOUNTS + 9)));
        for n in 0..100 {
            accounts.blame(at(9000), &stream, &sink, &(name(&format!("r{n}")), name("x").into()), u64::MAX);
        }
        let day = Ring::sum(&accounts.all[&(stream, sink)].day, at(9000));
        assert_eq!(day.hops.len(), MOST_HOPS);
    }
}
