//! Which failed handshakes are told in the log: strangers must not fill it. Pure.

use super::allowance::{Allowance, Terms};
use link::Instant;
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

/// Of one IPv4 address or IPv6 network of 64 bits: a few at once, because several nodes of a site may fail for reasons of their own.
const OF_NETWORK: Terms = Terms { at_once: 8, apart: Duration::from_secs(5) };

/// Of all together.
const OF_ALL: Terms = Terms { at_once: 64, apart: Duration::from_secs(1) };

/// What was told lately.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    of_all: Allowance,
    /// Those of which something was told lately, which the allowance of all bounds: a hundred or so.
    networks: HashMap<IpAddr, Allowance>,
    left_out: u64,
}

impl Complaints {
    /// How many were left out before this one; `None` where it is left out itself.
    pub(super) fn next(&mut self, now: Instant, network: IpAddr) -> Option<u64> {
        let of_network = self.networks.get(&network).copied().unwrap_or_default();
        if !of_network.has(now, OF_NETWORK) || !self.of_all.has(now, OF_ALL) {
            self.left_out += 1;
            return None;
        }
        self.networks.retain(|_, told| !told.is_whole(now));
        self.networks.entry(network).or_default().take(now, OF_NETWORK);
        self.of_all.take(now, OF_ALL);
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_do_not_fill_the_log_and_what_is_left_out_is_counted() {
        let (mut complaints, mut now) = (Complaints::default(), Instant::ORIGIN);
        let (mut told, mut counted) = (0, 0);
        for _ in 0..60_000 {
            now += Duration::from_millis(1);
            if let Some(left_out) = complaints.next(now, [192, 0, 2, 66].into()) {
                (told, counted) = (told + 1, counted + left_out + 1);
            }
        }
        assert!((19..=20).contains(&told), "{told} in a minute");
        assert_eq!(counted + complaints.left_out, 60_000);
        assert!(complaints.next(now, [192, 0, 2, 1].into()).is_some(), "others are told of");

        let (mut complaints, mut told, mut most) = (Complaints::default(), 0, 0);
        for nth in 0..60_000u32 {
            now += Duration::from_millis(1);
            told += usize::from(complaints.next(now, std::net::Ipv4Addr::from(nth).into()).is_some());
            most = most.max(complaints.networks.len());
        }
        assert!((123..=124).contains(&told), "{told} of as many addresses in a minute");
        assert!(most <= 128, "{most}");
    }
}
