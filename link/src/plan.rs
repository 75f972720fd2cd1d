//! How many copies, how far apart: the arithmetic behind the rule of repair.

/// Most transmissions planned for one set of losses.
pub(crate) const MAX_PLANNED: usize = 48;

/// Smallest number of transmissions of which at least `needed` arrive, but for a share of `target` of all cases.
///
/// Losses of successive transmissions form a two-state chain: `loss` is the share lost, `after_loss` the share lost among those that
/// follow a lost one at the distance at which they will be sent.
pub(crate) fn transmissions(needed: usize, loss: f64, after_loss: f64, target: f64) -> usize {
    // `max` before `min` also turns what is no number into a number.
    let loss = loss.clamp(1e-6, 0.9);
    let after_loss = after_loss.max(loss).min(0.99);
    let after_arrival = (loss * (1.0 - after_loss) / (1.0 - loss)).min(1.0);
    let most = MAX_PLANNED.max(needed);
    // arrived[k].0 and .1: probability that k arrived and the last one did, or was lost. From `needed` on they are one.
    let mut arrived = [(0.0, 0.0); MAX_PLANNED + 1];
    let cap = needed.min(MAX_PLANNED);
    arrived[0] = (1.0 - loss, loss);
    // Before the first transmission the chain is in its stationary state.
    for sent in 1..=most {
        let mut next = [(0.0, 0.0); MAX_PLANNED + 1];
        for k in 0..=cap {
            let (came, lost) = arrived[k];
            let loses = if sent == 1 { loss * (came + lost) } else { came * after_arrival + lost * after_loss };
            let comes = came + lost - loses;
            next[k].1 += loses;
            next[(k + 1).min(cap)].0 += comes;
        }
        arrived = next;
        let short: f64 = arrived[..cap].iter().map(|(came, lost)| came + lost).sum();
        if sent >= cap && short <= target {
            return sent;
        }
    }
    most
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
    fn copies_back_to_back_need_more() {
        assert!(transmissions(1, 0.05, 0.66, 1e-4) > 2 * transmissions(1, 0.05, 0.05, 1e-4));
    }

    #[test]
    fn stays_within_bounds_for_any_input() {
        for needed in [0, 1, MAX_PLANNED, 2 * MAX_PLANNED] {
            for loss in [0.0, 0.5, 1.0, f64::NAN] {
                let planned = transmissions(needed, loss, 1.0, 0.0);
                assert!(planned >= needed.min(MAX_PLANNED) && planned <= MAX_PLANNED.max(needed));
            }
        }
        assert!(code_rate(0.0, 0.0, 0.0, 1e-9).is_finite());
    }
}
