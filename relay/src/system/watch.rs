//! Trouble on the links into this relay, told from what arrives on them.

use super::{Kind, RelaySystem};
use crate::events::What;
use link::Instant;
use link::stats::LinkQuality;
use node::Ports;
use std::time::Duration;
use topology::lsdb::LinkTrouble;
use topology::trouble::{Condition, Watch};

/// Transmissions over which a link averages its fast loss, and how much one of them moves the average.
const FAST: f64 = 50.0;

/// How often the usual delay follows the measured one, and what share of the difference it takes.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);
const FOLLOW: u32 = 30;

/// What is heard of one link into this relay.
#[derive(Debug, Default)]
pub(super) struct Ear {
    watch: Option<Watch>,
    received: u64,
    average: f64,
    /// Losses that are not whole yet.
    fraction: f64,
    usual_us: u32,
    followed: Instant,
}

impl Ear {
    /// Listens to what has come since the last time.
    fn listen(&mut self, now: Instant, received: u64, quality: &LinkQuality) -> Condition {
        let time = now.saturating_since(Instant::ORIGIN);
        let came = received.saturating_sub(std::mem::replace(&mut self.received, received));
        let watch = self.watch.get_or_insert_with(|| Watch::new(time, u32::MAX));
        let before = std::mem::replace(&mut self.average, quality.loss_received_fast);
        let lost = losses(before, self.average, came as f64) + self.fraction;
        self.fraction = lost.fract();
        watch.observe(time, came.min(u64::from(u32::MAX)) as u32, lost as u32);
        if quality.rtt_min > Duration::ZERO {
            self.hear_delay(now, quality);
        }
        self.watch.as_mut().map_or(Condition::default(), |watch| watch.condition(time))
    }

    /// Half the round trip stands for the delay: a clock tells nothing here that could be wrong.
    fn hear_delay(&mut self, now: Instant, quality: &LinkQuality) {
        let half = |rtt: Duration| (rtt.as_micros() / 2).min(u128::from(u32::MAX)) as u32;
        let (least, smoothed) = (half(quality.rtt_min), half(quality.rtt));
        if self.usual_us == 0 || least < self.usual_us {
            self.usual_us = least;
        } else if now.saturating_since(self.followed) >= FOLLOW_EVERY {
            self.followed = now;
            self.usual_us += (least - self.usual_us) / FOLLOW;
        }
        if let Some(watch) = &mut self.watch {
            watch.set_usual_delay(self.usual_us);
            watch.observe_delay(smoothed);
        }
    }
}

/// How many were lost, where an exponential average over [`FAST`] transmissions went from `before` to `after` while
/// `came` of them arrived: the losses being spread evenly, n transmissions of which k are lost take the average to
/// before·qⁿ + k/n·(1 − qⁿ), which grows with k.
fn losses(before: f64, after: f64, came: f64) -> f64 {
    if came <= 0.0 || after <= 1e-6 {
        return 0.0;
    }
    let q = 1.0 - 1.0 / FAST;
    let average = |lost: f64| {
        let n = came + lost;
        let kept = q.powf(n);
        before * kept + lost / n * (1.0 - kept)
    };
    let (mut low, mut high) = (0.0, came * 50.0 + FAST);
    for _ in 0..24 {
        let middle = (low + high) / 2.0;
        if average(middle) < after { low = middle } else { high = middle }
    }
    low
}

impl RelaySystem {
    /// Listens to all links into this relay, and says which are in trouble.
    pub(super) fn listen(&mut self, now: Instant, ports: &Ports) {
        let mut troubles: Vec<LinkTrouble> = Vec::new();
        for (end, port) in &self.relays {
            let Some(link) = ports.link(*port) else { continue };
            let Some(Kind::Relay(neighbour)) = self.ports.get_mut(port).map(|port| &mut port.kind) else { continue };
            let condition = neighbour.ear.listen(now, link.stats().wire_received, &link.quality(now));
            if condition != Condition::default() {
                troubles.push(LinkTrouble { peer: end.clone(), loss_ppm: condition.level.ppm(), late: condition.late });
            }
        }
        excuse_lateness(&mut troubles);
        self.note_troubles(now, &troubles);
        self.directory.set_troubles(now, troubles);
    }
}

impl RelaySystem {
    /// Tells the operator of links that have come into trouble or out of it.
    fn note_troubles(&mut self, now: Instant, troubles: &[LinkTrouble]) {
        for LinkTrouble { peer, loss_ppm, late } in troubles {
            if !self.troubled.contains_key(peer) {
                self.troubled.insert(peer.clone(), now);
                let loss = f64::from(*loss_ppm) / 1e6;
                self.log.note(now, What::LinkTroubled { peer: peer.clone(), loss, late: *late });
            }
        }
        let log = &mut self.log;
        self.troubled.retain(|peer, since| {
            let still = troubles.iter().any(|link| link.peer == *peer);
            if !still {
                let after_s = now.saturating_since(*since).as_secs_f64();
                log.note(now, What::LinkRecovered { peer: peer.clone(), after_s });
            }
            still
        });
    }
}

/// Where several links into a relay become late together it may be its own access that is full. To send more there
/// would make it worse, so that lateness is no reason to; that routes follow the measured delays is enough.
fn excuse_lateness(troubles: &mut Vec<LinkTrouble>) {
    if troubles.iter().filter(|link| link.late).count() >= 2 {
        troubles.iter_mut().for_each(|link| link.late = false);
        troubles.retain(|link| link.loss_ppm > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_told_from_the_average() {
        let (mut average, mut told, mut lost) = (0.0f64, 0.0, 0u32);
        let mut before = 0.0;
        let mut came = 0.0;
        for n in 0u32..3000 {
            let is_lost = match n {
                0..1000 => n % 100 == 7,
                1000..2000 => n % 2 == 0,
                _ => n % 20 < 5,
            };
            average += (f64::from(u8::from(is_lost)) - average) / FAST;
            lost += u32::from(is_lost);
            came += f64::from(u8::from(!is_lost));
            if n % 10 == 9 {
                told += losses(before, average, came);
                (before, came) = (average, 0.0);
            }
        }
        assert!((told - f64::from(lost)).abs() < f64::from(lost) * 0.1, "{told} for {lost}");
    }

    #[test]
    fn lateness_of_several_links_at_once_is_no_trouble() {
        let late = |name: &str, loss_ppm| LinkTrouble { peer: name.parse().expect("valid"), loss_ppm, late: true };
        let mut troubles = vec![late("a", 0), late("b", 50_000)];
        excuse_lateness(&mut troubles);
        assert_eq!(troubles.len(), 1);
        let mut troubles = vec![late("a", 0)];
        excuse_lateness(&mut troubles);
        assert_eq!(troubles.len(), 1);
    }
}
