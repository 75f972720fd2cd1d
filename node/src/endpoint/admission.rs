//! Which handshakes are begun. Pure.
//!
//! Each takes the thread that forwards media for an exchange of keys and a signature, whoever asks for it, and who closes as soon as it is answered
//! frees its place at once. So handshakes have a bound not only in how many are under way, but in how many come to nothing: each takes from
//! an allowance of its network and from that of all, and one that ends in a session gives back what it took, and as much again: who has not heard
//! for a second dials a second time beside it, with smaller packets, and drops the attempt that comes second. A crowd that has the right to come
//! is not slowed by it, however large, and however busy the node.
//!
//! What is beyond is not answered: that costs nothing, tells nothing to an address that may not be the sender's, and who works asks again within a
//! second by itself (RFC 9002 section 6.2), while a refusal would end its attempt.

use super::allowance::{Allowance, Terms};
use link::Instant;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// From here on a dialler must first show that it can be reached at its address (Retry, RFC 9000 section 8.1).
const RETRY_ABOVE: usize = 32;

/// Most handshakes at a time of one IPv4 address, or one IPv6 network of 64 bits.
pub(super) const MAX_PER_NETWORK: usize = 64;

/// Failures of one network: twice of what it may have under way, then some 2 % of the thread's time.
const OF_NETWORK: Terms = Terms { at_once: 128, apart: Duration::from_millis(20) };

/// Failures of all networks: some 10 % of the thread's time.
const OF_ALL: Terms = Terms { at_once: 512, apart: Duration::from_millis(5) };

/// What of that is there for networks of which some failed lately; the rest is kept for those of which none did.
const OF_SUSPECTS: Terms = Terms { at_once: OF_ALL.at_once / 2, apart: OF_ALL.apart };

/// Failures of addresses that nobody has shown to be real: they are on nobody's account, because anybody may write another's address on a
/// packet. Once these are used up, addresses have to be shown.
const OF_UNPROVEN: Terms = Terms { at_once: 64, apart: Duration::from_millis(50) };

/// How long a failure of a network is remembered.
const LATELY: Duration = Duration::from_secs(10);

/// Networks in the table before those are looked for that can go.
const TIDY_ABOVE: usize = 256;

/// What becomes of a handshake that is asked for.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It is begun.
    Begin(Begun),
    /// The address is to be shown to be real first.
    Prove,
    /// It is not answered, for this reason.
    PutOff(&'static str),
}

/// Who shakes hands, and of whom that came to nothing. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Admission(Arc<Mutex<Accounts>>);

#[derive(Debug, Default)]
struct Accounts {
    /// Of the newest verdict.
    now: Instant,
    under_way: usize,
    of_all: Allowance,
    of_unproven: Allowance,
    /// Of those without a handshake under way only such as had failures lately: how many that can be, the allowance of all says as well.
    networks: HashMap<IpAddr, Account>,
    tidy_above: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Account {
    under_way: usize,
    failures: Allowance,
    failed: Option<Instant>,
}

impl Account {
    fn is_suspect(&self, now: Instant) -> bool {
        self.failed.is_some_and(|at| now.saturating_since(at) < LATELY)
    }
}

impl Admission {
    /// What becomes of a handshake of this network, whose address may have been shown to be real.
    pub(super) fn judge(&self, now: Instant, network: IpAddr, proven: bool) -> Verdict {
        let mut accounts = self.lock();
        accounts.now = now;
        if !proven && (accounts.under_way >= RETRY_ABOVE || !accounts.of_unproven.has(now, OF_UNPROVEN)) {
            return Verdict::Prove;
        }
        let account = accounts.networks.get(&network).copied().unwrap_or_default();
        if account.under_way >= MAX_PER_NETWORK {
            return Verdict::PutOff("as many of this network are under way as may be");
        }
        if proven && !account.failures.has(now, OF_NETWORK) {
            return Verdict::PutOff("too many of this network come to nothing");
        }
        let of_all = if account.is_suspect(now) { OF_SUSPECTS } else { OF_ALL };
        if !accounts.of_all.has(now, of_all) {
            return Verdict::PutOff("too many come to nothing, of all networks together");
        }
        accounts.begin(now, network, proven);
        Verdict::Begin(Begun { admission: self.clone(), network, proven, succeeded: false })
    }

    fn lock(&self) -> MutexGuard<'_, Accounts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Accounts {
    fn begin(&mut self, now: Instant, network: IpAddr, proven: bool) {
        if self.networks.len() >= self.tidy_above.max(TIDY_ABOVE) {
            self.networks.retain(|_, account| account.under_way > 0 || account.is_suspect(now));
            self.tidy_above = 2 * self.networks.len();
        }
        self.under_way += 1;
        self.of_all.take(now, OF_ALL);
        let account = self.networks.entry(network).or_default();
        account.under_way += 1;
        if proven {
            account.failures.take(now, OF_NETWORK);
        } else {
            self.of_unproven.take(now, OF_UNPROVEN);
        }
    }
}

/// A handshake under way. When it is dropped its place is free again, and it has failed unless it was said to have succeeded.
#[derive(Debug)]
pub(super) struct Begun {
    admission: Admission,
    network: IpAddr,
    proven: bool,
    succeeded: bool,
}

impl Begun {
    /// It has ended in a session.
    pub(super) fn succeeded(mut self) {
        self.succeeded = true;
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let mut accounts = self.admission.lock();
        let accounts = &mut *accounts;
        accounts.under_way -= 1;
        let Some(account) = accounts.networks.get_mut(&self.network) else { return };
        account.under_way -= 1;
        if self.succeeded {
            let own = u32::from(self.proven);
            account.failures.give_back(own, OF_NETWORK);
            accounts.of_unproven.give_back(1 - own, OF_UNPROVEN);
            // Of an attempt beside it, where one of its network has failed.
            let beside = u32::from(!account.failures.is_whole(accounts.now));
            account.failures.give_back(beside, OF_NETWORK);
            accounts.of_all.give_back(1 + beside, OF_ALL);
        } else if self.proven {
            account.failed = Some(accounts.now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::network;

    const SECOND: Duration = Duration::from_secs(1);
    const MS: Duration = Duration::from_millis(1);

    fn start() -> Instant {
        Instant::ORIGIN + 5 * SECOND
    }

    fn of(text: &str) -> IpAddr {
        network(text.parse().unwrap())
    }

    fn begun(verdict: Verdict) -> Option<Begun> {
        match verdict {
            Verdict::Begin(begun) => Some(begun),
            _ => None,
        }
    }

    #[test]
    fn one_network_cannot_take_all_places() {
        let admission = Admission::default();
        let from = |text: &str| begun(admission.judge(start(), of(text), true));
        let places: Vec<Begun> = (0..MAX_PER_NETWORK).filter_map(|_| from("2001:db8::1")).collect();
        assert_eq!(places.len(), MAX_PER_NETWORK);
        assert!(from("2001:db8::ffff:2").is_none());
        assert!(from("2001:db8:0:1::1").is_some());
        assert!(from("192.0.2.1").is_some());
        drop(places);
        assert!(from("2001:db8::ffff:2").is_some());
    }

    #[test]
    fn handshakes_that_fail_at_once_are_held_to_a_rate_and_others_succeed_meanwhile() {
        let (admission, mut now) = (Admission::default(), start());
        let (mut failed, mut succeeded) = (0, 0);
        for _ in 0..10_000 {
            now += MS;
            // As fast as it can, and what is begun fails before the next.
            failed += (0..3).filter(|_| begun(admission.judge(now, of("192.0.2.66"), true)).is_some()).count();
            let other = begun(admission.judge(now, of("198.51.100.1"), true));
            succeeded += other.map_or(0, |begun| {
                begun.succeeded();
                1
            });
        }
        assert!((620..=630).contains(&failed), "{failed}: 128 at once, and 50 a second for ten seconds");
        assert_eq!(succeeded, 10_000);
    }

    #[test]
    fn a_crowd_of_one_network_that_has_the_right_to_come_is_not_slowed() {
        let (admission, now) = (Admission::default(), start());
        for _ in 0..1_000 {
            let side_by_side: Vec<Begun> = (0..MAX_PER_NETWORK)
                .map(|_| begun(admission.judge(now, of("127.0.0.1"), true)).expect("it is begun"))
                .collect();
            // Half of them are the second attempts of the others.
            for (nth, begun) in side_by_side.into_iter().enumerate() {
                match nth < MAX_PER_NETWORK / 2 {
                    true => drop(begun),
                    false => begun.succeeded(),
                }
            }
        }
        assert!(admission.lock().of_all.is_whole(now));
    }

    #[test]
    fn many_networks_that_fail_leave_room_to_those_that_did_not() {
        let (admission, mut now) = (Admission::default(), start());
        let mut failed = 0;
        for nth in 0..20_000u32 {
            now += MS / 2;
            let network = IpAddr::V4((0x0a00_0000 + nth % 8).into());
            failed += usize::from(begun(admission.judge(now, network, true)).is_some());
        }
        assert!((2_000..=256 + 10 * 200 + 8).contains(&failed), "{failed} in ten seconds");
        assert!(begun(admission.judge(now, of("198.51.100.1"), true)).is_some(), "there is room for who did not fail");
    }

    #[test]
    fn who_writes_another_ones_address_on_its_packets_takes_nothing_from_it() {
        let (admission, now) = (Admission::default(), start());
        let victim = of("192.0.2.1");
        let spoofed = (0..1_000).filter(|_| begun(admission.judge(now, victim, false)).is_some()).count();
        assert_eq!(spoofed, 64);
        assert!(matches!(admission.judge(now, victim, false), Verdict::Prove), "from now on it is to be shown");
        let own = (0..1_000).filter(|_| begun(admission.judge(now, victim, true)).is_some()).count();
        assert_eq!(own, 128, "all that it may");
    }

    #[test]
    fn above_some_under_way_addresses_are_to_be_shown() {
        let (admission, now) = (Admission::default(), start());
        let under_way: Vec<Begun> =
            (0..RETRY_ABOVE).filter_map(|_| begun(admission.judge(now, of("192.0.2.1"), false))).collect();
        assert_eq!(under_way.len(), RETRY_ABOVE);
        assert!(matches!(admission.judge(now, of("192.0.2.2"), false), Verdict::Prove));
        assert!(matches!(admission.judge(now, of("192.0.2.2"), true), Verdict::Begin(_)));
        drop(under_way);
        assert!(matches!(admission.judge(now, of("192.0.2.2"), false), Verdict::Begin(_)));
    }

    #[test]
    fn networks_that_come_once_each_are_not_remembered() {
        let (admission, mut now, mut most) = (Admission::default(), start(), 0);
        for nth in 0..200_000u128 {
            now += MS / 10;
            let verdict = admission.judge(now, IpAddr::V6((0x2001_0db8 << 96 | nth << 64).into()), true);
            // Every other one has the right to come.
            if let (Some(begun), 0) = (begun(verdict), nth % 2) {
                begun.succeeded();
            }
            most = most.max(admission.lock().networks.len());
        }
        assert!(most <= 6_000, "{most}");
    }
}
