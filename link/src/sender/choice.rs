//! What to do for a packet or a loss that has so much time left: the cheapest of the ways there are.
//!
//! Cost is counted in copies. A miss costs `1 / ε`, where ε is the share of misses allowed among packets that come to their last chance: that
//! prices one more copy right where it takes the misses from just above ε to below it. With p the share lost, c(τ) the share lost
//! at a distance of τ from a loss and T a turn of feedback, a loss known with time L left costs
//!
//! - F(L) = min over k of k + p·c(L/k)^(k−1) / ε, answered for the last time, by k copies spread over L;
//! - V(L) = min(F(L), 1 + p·V'(L − T)), answered by one copy now, and again when that is reported lost;
//! - V'(L) = (1 − q)·V(L) + q·(0.6 V(L − t) + 0.4 V(L − 3t)), as a share q of reports is lost, in bursts that take t on the average; where no
//!   time is left after one, there are the fail-safe copies.
//!
//! A packet first sent with time L left costs, beyond itself, p·V'(L − T) where only answers are relied on; 1 + p·c(σ)·V'(L − T − σ) with one
//! copy ahead, a burst σ after it; and min over k of k + p·c(L/k)^k / ε with k copies spread over L and no answer. (Packets that
//! come in such a hurry come together, and share their copies: see [`super::pool`].)

use super::{MOST_FAIL_SAFE, Sender};
use std::time::Duration;

/// Least time in which a last answer is worth planning on.
const SHORTEST_LAST: Duration = Duration::from_millis(4);
/// Most copies that are considered for one packet.
const MOST_COPIES: u32 = 10;
/// Time between reports while something is missing.
const REPORT_INTERVAL: Duration = Duration::from_millis(2);
/// Rounds of feedback beyond which looking ahead changes nothing.
const MOST_ROUNDS: u32 = 2;

/// What a packet gets ahead of any report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ahead {
    /// Nothing: there is time for answers.
    Nothing,
    /// One copy after a burst; the loss of both still finds an answer.
    Once(Duration),
    /// As for its last answer: there is no time for another.
    Spread,
}

impl Sender {
    /// The cheapest way for a packet first sent with `left` until its last useful moment.
    pub(super) fn choose_ahead(&self, left: Duration, residual: f64) -> Ahead {
        let turn = self.turn();
        if left >= turn + super::LONGEST_SPREAD {
            return Ahead::Nothing;
        }
        let loss = self.path.loss_planned();
        let miss = self.price_of_miss(residual);
        let plain = loss * self.cost_of_loss(left.checked_sub(turn), miss, MOST_ROUNDS);
        let apart = self.path.spacing().min(left);
        let both = loss * self.path.after_loss_at(apart);
        let once = 1.0 + both * self.cost_of_loss(left.checked_sub(turn + apart), miss, MOST_ROUNDS);
        let spread = self.cheapest_spread(left, 0, miss);
        if plain <= once.min(spread) {
            Ahead::Nothing
        } else if once <= spread {
            Ahead::Once(apart)
        } else {
            Ahead::Spread
        }
    }

    /// Whether a loss with `left` until the last useful moment had better be answered by one copy and another report
    /// than for the last time.
    pub(super) fn can_ask_again(&self, left: Duration, residual: f64) -> bool {
        let turn = self.turn();
        if left >= turn + super::LONGEST_SPREAD {
            return true;
        }
        let miss = self.price_of_miss(residual);
        let again = 1.0 + self.path.loss_planned() * self.cost_of_loss(left.checked_sub(turn), miss, MOST_ROUNDS);
        again < self.cheapest_spread(left, 1, miss)
    }

    fn price_of_miss(&self, residual: f64) -> f64 {
        1.0 / self.target_among(self.critical_share.get(), residual)
    }

    /// V' of the module's documentation.
    fn cost_of_loss(&self, left: Option<Duration>, miss: f64, rounds: u32) -> f64 {
        let Some(left) = left.filter(|left| *left >= SHORTEST_LAST) else { return miss };
        let (lost, burst) = (self.reports_lost, self.path.burst());
        let slipped = |reports: f64| match left.checked_sub(REPORT_INTERVAL.mul_f64(reports)) {
            Some(left) if left >= SHORTEST_LAST => self.cost_of_known_loss(left, miss, rounds),
            _ => self.cost_of_silence(miss),
        };
        let known = self.cost_of_known_loss(left, miss, rounds);
        if lost < 1e-4 {
            return known;
        }
        (1.0 - lost) * known + lost * (0.6 * slipped(burst) + 0.4 * slipped(3.0 * burst))
    }

    /// Where no report comes in time, there are the fail-safe copies.
    fn cost_of_silence(&self, miss: f64) -> f64 {
        let chain = self.path.after_loss_at(REPORT_INTERVAL).powi(MOST_FAIL_SAFE as i32 - 1);
        f64::from(MOST_FAIL_SAFE) + self.path.loss_planned() * chain * miss
    }

    /// V of the module's documentation.
    fn cost_of_known_loss(&self, left: Duration, miss: f64, rounds: u32) -> f64 {
        let last = self.cheapest_spread(left, 1, miss);
        match left.checked_sub(self.turn()) {
            Some(rest) if rounds > 0 => {
                last.min(1.0 + self.path.loss_planned() * self.cost_of_loss(Some(rest), miss, rounds - 1))
            }
            _ => last,
        }
    }

    /// The least that copies spread over `time` cost, with the misses they leave. Of the chain of transmissions that must
    /// all be lost for a miss, `known` are known to be lost already where 1, and the first transmission is part of it
    /// where 0.
    fn cheapest_spread(&self, time: Duration, known: u32, miss: f64) -> f64 {
        let loss = self.path.loss_planned();
        let cost = |copies: u32| {
            let chain = self.path.after_loss_at(time / copies).powi((copies - known) as i32);
            f64::from(copies) + loss * chain * miss
        };
        (1..=MOST_COPIES).map(cost).fold(f64::INFINITY, f64::min)
    }
}
