//! How many copies, how far apart: the arithmetic behind the rule of repair.

/// Most transmissions planned for one set of losses.
pub(crate) const MAX_PLANNED: usize = 48;

/// How many of the combinations sent for a set of losses have arrived, as far as the sender can know it without a report.
///
/// Losses of successive transmissions form a two-state chain: `loss` is the share lost, `after_loss` the share lost among those that
/// follow a lost one at the distance at which they are sent.
#[derive(Clone, Debug)]
pub(crate) struct Belief {
    needed: usize,
    /// `arrived[k].0` and `.1`: probability that `k` arrived and the last one did, or was lost. From `needed` on they are one.
    arrived: [(f64, f64); MAX_PLANNED + 1],
    fresh: bool,
}

impl Belief {
    /// Nothing lost, nothing sent.
    pub(crate) fn new() -> Belief {
        let mut arrived = [(0.0, 0.0); MAX_PLANNED + 1];
        arrived[0].0 = 1.0;
        Belief { needed: 0, arrived, fresh: true }
    }

    /// One more loss is to be made good by what is sent from now on. What was sent before helps with the earlier ones
    /// only, as the cap at their number says.
    pub(crate) fn widen(&mut self) {
        self.needed = (self.needed + 1).min(MAX_PLANNED);
    }

    /// So many losses need no repair any more, with as many of the combinations.
    pub(crate) fn narrow(&mut self, by: usize) {
        let by = by.min(self.needed);
        for k in 0..=self.needed {
            let (came, lost) = std::mem::take(&mut self.arrived[k]);
            let to = &mut self.arrived[k.saturating_sub(by)];
            *to = (to.0 + came, to.1 + lost);
        }
        self.needed -= by;
    }

    /// A combination of all of them is sent.
    pub(crate) fn send(&mut self, loss: f64, after_loss: f64) {
        // `max` also turns what is no number into a number.
        let loss = loss.max(1e-6).clamp(1e-6, 0.9);
        let after_loss = after_loss.max(loss).min(0.99);
        let after_arrival = (loss * (1.0 - after_loss) / (1.0 - loss)).min(1.0);
        let mut carry = 0.0;
        for k in 0..=self.needed {
            let (came, lost) = self.arrived[k];
            // Before the first transmission the chain is in its stationary state.
            let loses = if self.fresh { loss * (came + lost) } else { came * after_arrival + lost * after_loss };
            let comes = came + lost - loses;
            self.arrived[k] = (carry, loses);
            carry = comes;
        }
        self.arrived[self.needed].0 += carry;
        self.fresh = false;
    }

    /// Probability that too few have arrived.
    pub(crate) fn short(&self) -> f64 {
        self.arrived[..self.needed].iter().map(|(came, lost)| came + lost).sum()
    }

    /// How many more it takes until too few arrive in a share of at most `target` of all cases.
    pub(crate) fn more(&self, loss: f64, after_loss: f64, target: f64) -> usize {
        let mut ahead = self.clone();
        let mut more = 0;
        while more < MAX_PLANNED {
            if ahead.short() <= target {
                break;
            }
            ahead.send(loss, after_loss);
            more += 1;
        }
        more
    }
}

/// Smallest number of transmissions of which at least `needed` arrive, but for a share of `target` of all cases.
pub(crate) fn transmissions(needed: usize, loss: f64, after_loss: f64, target: f64) -> usize {
    let mut belief = Belief::new();
    (0..needed).for_each(|_| belief.widen());
    belief.more(loss, after_loss, target)
}

/// Share of repair that a sliding window code needs so that all but a share of `target` of the packets arrive.
///
/// `window` is how many packets one repair covers, `loss` the share lost and `after_loss` the share lost right after a loss.
/// The burst that occurs with the target's probability must be covered within the window, beside what is lost on the
/// average. The constants are fitted to simulations of windows from 23 to 211 packets at 5 % loss; where the window is
/// short the burst hits repairs as well as packets, so that the need grows less than in proportion.
pub(crate) fn code_rate(window: f64, loss: f64, after_loss: f64, target: f64) -> f64 {
    let loss = loss.max(1e-5);
    let burst = (loss / target).max(1.0).ln() / (1.0 / after_loss.clamp(0.05, 0.98)).ln();
    0.07 + 1.07 * burst / window.max(1.0) + 2.2 * loss
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of LINK.md, for copies spaced beyond a burst at 5 % loss and a target of 1e-4.
    #[test]
    fn spaced_copies_as_in_the_simulation() {
        let planned: Vec<usize> = [1, 2, 3, 4, 6, 8, 16].map(|m| transmissions(m, 0.05, 0.05, 1e-4) - m).to_vec();
        assert_eq!(planned, [3, 3, 3, 4, 4, 5, 6]);
    }

    #[test]
    fn later_losses_share_what_is_sent() {
        let mut belief = Belief::new();
        (0..3).for_each(|_| belief.widen());
        (0..3).for_each(|_| belief.send(0.05, 0.05));
        (0..3).for_each(|_| belief.widen());
        let more = belief.more(0.05, 0.05, 1e-4);
        assert_eq!(more + 3, transmissions(6, 0.05, 0.05, 1e-4));
        belief.narrow(6);
        assert_eq!(belief.more(0.05, 0.05, 1e-4), 0);
        assert!((belief.arrived.iter().map(|(came, lost)| came + lost).sum::<f64>() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn copies_back_to_back_need_more() {
        assert!(transmissions(1, 0.05, 0.66, 1e-4) > 2 * transmissions(1, 0.05, 0.05, 1e-4));
    }

    #[test]
    fn stays_within_bounds_for_any_input() {
        for needed in [0, 1, MAX_PLANNED, 2 * MAX_PLANNED] {
            for loss in [0.0, 0.5, 1.0, f64::NAN] {
                let planned = transmissions(needed, loss, 1.0, 0.0);
                assert!(planned >= needed.min(MAX_PLANNED) && planned <= MAX_PLANNED);
            }
        }
        assert!(code_rate(0.0, 0.0, 0.0, 1e-9).is_finite());
    }
}
