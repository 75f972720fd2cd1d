//! The line test: packets of its own from one relay to another over the graph that a stream would take, and what would have been delivered by which
//! deadline. What it is asked, and what it says. Pure.
//!
//! The relay that is asked publishes a stream named for the two relays, in a tenant that no client may use. The other one sees it in
//! the link state that all relays flood, watches it, and sends its account back as a stream of the same kind. So a test needs nothing that a stream does
//! not, relays in between of any version carry it, and both ends are bounded by the same rules as clients are.

use crate::ops::schema;
use crate::sla::HopMisses;
use link::{Bitrate, Instant};
use serde::Serialize;
use std::time::Duration;
use topology::{LinkEnd, NodeName, StreamName};
use utoipa::ToSchema;

/// The tenant of test packets, and of the accounts of them. Refused to sources and sinks.
pub const TENANT: &str = "line-test";
const ACCOUNTS: &str = "line-account";

/// Longest test.
pub const MOST_DURATION: Duration = Duration::from_secs(600);
/// Highest rate.
pub const MOST_RATE: Bitrate = Bitrate::mbps(1_000);
/// Lowest rate: some packets a second, or nothing is told by it.
pub const LEAST_RATE: Bitrate = Bitrate::bps(10_000);

/// What is to be tested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The relay at the other end.
    pub to: NodeName,
    /// Payload, in bits per second.
    pub rate: Bitrate,
    /// For how long.
    pub duration: Duration,
    /// One-way deadline that repair and routes work for.
    pub deadline: Duration,
    /// Bytes of each payload.
    pub packet_size: u16,
}

impl Ask {
    /// The deadline of streams that do not say another.
    pub const DEADLINE: Duration = Duration::from_millis(200);
    /// Seven packets of a transport stream.
    pub const PACKET_SIZE: u16 = 1316;

    /// Whether every value is one that there can be; else the field, and what was expected.
    pub fn check(&self) -> Result<(), String> {
        if !(LEAST_RATE..=MOST_RATE).contains(&self.rate) {
            return Err(format!("rate: {} bit/s; expected 10 kbit/s to 1 Gbit/s", self.rate.as_bps()));
        }
        if !(Duration::from_secs(1)..=MOST_DURATION).contains(&self.duration) {
            return Err(format!("duration: {:?}; expected 1 s to 10 min", self.duration));
        }
        if !(Duration::from_millis(1)..=Duration::from_secs(10)).contains(&self.deadline) {
            return Err(format!("deadline: {:?}; expected 1 ms to 10 s", self.deadline));
        }
        if !(64..=link::Link::MAX_PAYLOAD as u16).contains(&self.packet_size) {
            return Err(format!("packet_size: {}; expected 64 to {}", self.packet_size, link::Link::MAX_PAYLOAD));
        }
        Ok(())
    }

    /// From one packet to the next.
    pub fn spacing(&self) -> Duration {
        self.rate.time_for(u64::from(self.packet_size)).max(Duration::from_micros(1))
    }
}

/// How far a test is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// The other end is asked to watch.
    Starting,
    /// Packets are being sent.
    Running,
    /// All are sent; the last are waited for.
    Finishing,
    /// It came to its end.
    Done,
    /// It was stopped as asked; the figures are of what was sent until then.
    Stopped,
    /// It could not be carried through: `reason` says why.
    Failed,
}

impl Stage {
    /// Whether nothing more will change.
    pub fn is_over(self) -> bool {
        matches!(self, Stage::Done | Stage::Stopped | Stage::Failed)
    }
}

/// How a line test goes, or went.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct LineTest {
    /// This relay, which sends.
    #[schema(value_type = schema::NodeName)]
    pub from: NodeName,
    /// The relay that receives.
    #[schema(value_type = schema::NodeName)]
    pub to: NodeName,
    /// How far it is.
    pub stage: Stage,
    /// Why it failed; null where it did not.
    #[schema(required)]
    pub reason: Option<String>,
    /// Payload asked for, in bits per second.
    pub rate: u64,
    /// Seconds asked for.
    pub duration_s: f64,
    /// The deadline that routes and repair worked for, in milliseconds.
    pub deadline_ms: f64,
    /// Bytes of each payload.
    pub packet_size: u16,
    /// Seconds for which packets have been sent.
    pub elapsed_s: f64,
    /// Packets sent.
    pub sent: u64,
    /// Packets that this machine was too slow to send in their time.
    pub not_sent: u64,
    /// Packets that arrived within the deadline, as far as the other end has told.
    pub received: u64,
    /// Packets that did not. While the test runs: of those that others, sent later, have overtaken for long enough.
    pub missing: u64,
    /// Which share would have been delivered by which deadline. Exact for the deadline asked for; for shorter ones repair and routes might have been
    /// chosen otherwise.
    pub delivered: Vec<Delivered>,
    /// How long packets took.
    pub delay: DelayFigures,
    /// Every link that the packets could take by the graphs in force, as its ends see it over the last ten seconds, other streams included.
    pub hops: Vec<TestedHop>,
    /// Where packets of the test were lost, the worst first.
    pub lost: Vec<HopMisses>,
    /// Packets lost of which the hop is not known.
    pub lost_unknown: u64,
    /// Transmissions, repair included, for each packet sent: what a stream would cost the overlay.
    pub transmissions_per_packet: f64,
}

/// What would have been delivered by a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, ToSchema)]
pub struct Delivered {
    /// The deadline, in milliseconds.
    pub deadline_ms: f64,
    /// Packets that came by then.
    pub packets: u64,
    /// As a share of those sent, while the test runs of those that have come or are missing; null before any.
    #[schema(required)]
    pub share: Option<f64>,
}

/// How long packets took from one relay to the other; zeros before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct DelayFigures {
    /// The fastest, in milliseconds.
    pub least_ms: f64,
    /// Half were faster.
    pub p50_ms: f64,
    /// 99 % were faster.
    pub p99_ms: f64,
    /// 99.9 % were faster.
    pub p999_ms: f64,
    /// The slowest.
    pub most_ms: f64,
    /// Interarrival jitter as RFC 3550 (section 6.4.1) has it, repaired packets included.
    pub jitter_ms: f64,
}

/// A link that a test could use.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct TestedHop {
    /// The relay that sends.
    #[schema(value_type = schema::NodeName)]
    pub from: NodeName,
    /// The link as that relay calls it: the relay that receives, and the link's name where several join the two.
    #[schema(value_type = schema::LinkEnd)]
    pub to: LinkEnd,
    /// Whether packets travelled on it when the test was last looked at; else it stood ready.
    pub used: bool,
    /// One-way delay in milliseconds: as configured, or half of the smallest round trip, which is right to within itself.
    pub delay_ms: f64,
    /// Share of media packets lost on the wire; null where the receiving end does not tell.
    #[schema(required)]
    pub lost: Option<f64>,
    /// Share that stayed lost after repair; null where the receiving end does not tell.
    #[schema(required)]
    pub left: Option<f64>,
    /// Repair bytes as a share of media bytes; null where the sending end does not tell.
    #[schema(required)]
    pub overhead: Option<f64>,
}

/// The name of the test stream between two relays.
pub fn test_stream(from: &NodeName, to: &NodeName) -> Option<StreamName> {
    format!("{TENANT}/{to}/{from}").parse().ok()
}

/// The name of the stream by which `to` tells `from` what it got.
pub fn account_stream(from: &NodeName, to: &NodeName) -> Option<StreamName> {
    format!("{ACCOUNTS}/{from}/{to}").parse().ok()
}

/// Who sends a test to `me`, where a stream is one.
pub fn tester(stream: &StreamName, me: &NodeName) -> Option<NodeName> {
    let mut parts = stream.as_str().split('/');
    let for_me = parts.next() == Some(TENANT) && parts.next() == Some(me.as_str());
    parts.next().filter(|_| for_me)?.parse().ok()
}

/// Whether a stream is one of relays alone, which no source publishes and no sink watches.
pub fn is_reserved(stream: &StreamName) -> bool {
    matches!(stream.tenant(), TENANT | ACCOUNTS)
}

/// Paces the packets of a test.
#[derive(Debug)]
pub(crate) struct Pace {
    spacing: Duration,
    start: Instant,
    ends: Instant,
    /// Packets whose time has come.
    passed: u64,
}

/// Packets sent at one wake-up at most: at rates above what timers resolve they come in groups.
const MOST_AT_ONCE: u32 = 64;

/// A sender that has fallen behind by more than this leaves packets out: what was not sent in time is not made up for by a burst.
const MOST_BEHIND: Duration = Duration::from_millis(50);

impl Pace {
    pub(crate) fn new(now: Instant, ask: &Ask) -> Pace {
        Pace { spacing: ask.spacing(), start: now, ends: now + ask.duration, passed: 0 }
    }

    /// Packets to send at `now`, and those left out.
    pub(crate) fn take(&mut self, now: Instant) -> (u32, u64) {
        let mut skipped = 0;
        let behind = now.min(self.ends).saturating_since(self.next());
        if behind > MOST_BEHIND {
            skipped = ((behind - MOST_BEHIND).as_nanos() / self.spacing.as_nanos().max(1)) as u64;
            self.passed += skipped;
        }
        let mut packets = 0;
        while self.due().is_some_and(|due| due <= now) && packets < MOST_AT_ONCE {
            self.passed += 1;
            packets += 1;
        }
        (packets, skipped)
    }

    /// Counted from the start, so that no rounding adds up.
    fn next(&self) -> Instant {
        let nanos = self.spacing.as_nanos() * u128::from(self.passed);
        self.start + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// When the next is due; `None` after the last.
    pub(crate) fn due(&self) -> Option<Instant> {
        Some(self.next()).filter(|due| *due < self.ends)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask() -> Ask {
        Ask {
            to: "b".parse().expect("valid"),
            rate: Bitrate::mbps(20),
            duration: Duration::from_secs(10),
            deadline: Ask::DEADLINE,
            packet_size: Ask::PACKET_SIZE,
        }
    }

    #[test]
    fn values_that_cannot_be_are_named() {
        assert_eq!(ask().check(), Ok(()));
        for (wrong, field) in [
            (Ask { rate: Bitrate::bps(1), ..ask() }, "rate"),
            (Ask { rate: Bitrate::mbps(2000), ..ask() }, "rate"),
            (Ask { duration: Duration::ZERO, ..ask() }, "duration"),
            (Ask { duration: Duration::from_secs(601), ..ask() }, "duration"),
            (Ask { deadline: Duration::from_secs(11), ..ask() }, "deadline"),
            (Ask { packet_size: 63, ..ask() }, "packet_size"),
            (Ask { packet_size: 2049, ..ask() }, "packet_size"),
        ] {
            assert!(wrong.check().is_err_and(|why| why.starts_with(field) && why.contains("expected")), "{wrong:?}");
        }
    }

    #[test]
    fn packets_leave_at_the_rate_whenever_the_timer_fires() {
        let start = Instant::from_micros(7_000_000);
        let mut pace = Pace::new(start, &ask());
        let (mut sent, mut now) = (0, start);
        while pace.due().is_some() {
            now += Duration::from_millis(1);
            let (packets, skipped) = pace.take(now);
            assert_eq!(skipped, 0);
            sent += packets;
        }
        // 25,000,000 bytes in payloads of 1316.
        assert_eq!(sent, 18_997);
    }

    #[test]
    fn what_a_stalled_machine_did_not_send_is_left_out_and_counted() {
        let start = Instant::from_micros(7_000_000);
        let mut pace = Pace::new(start, &ask());
        let (packets, skipped) = pace.take(start + Duration::from_secs(1));
        assert_eq!(packets, 64);
        assert!((1800..1850).contains(&skipped), "{skipped}");
        let (_, skipped) = pace.take(start + Duration::from_secs(3600));
        assert!((17_000..17_200).contains(&skipped), "{skipped}");
        while pace.due().is_some() {
            pace.take(start + Duration::from_secs(3600));
        }
    }

    #[test]
    fn a_test_is_for_whom_it_names() {
        let [a, b]: [NodeName; 2] = ["a", "b"].map(|name| name.parse().expect("valid"));
        let stream = test_stream(&a, &b).expect("a name");
        assert_eq!((tester(&stream, &b), tester(&stream, &a)), (Some(a.clone()), None));
        assert!(is_reserved(&stream) && is_reserved(&account_stream(&a, &b).expect("a name")));
        let other: StreamName = "line/b/a".parse().expect("valid");
        assert!(tester(&other, &b).is_none() && !is_reserved(&other));
    }
}
