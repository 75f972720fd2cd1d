//! The state of a loss model.

use super::config::Loss;
use super::draws::Draws;
use link::Instant;
use std::time::Duration;

/// A loss model on its way.
#[derive(Clone, Debug)]
pub(super) struct LossState {
    draws: Draws,
    model: Model,
}

#[derive(Clone, Debug)]
enum Model {
    None,
    Bernoulli { mean: f64 },
    Gilbert { enter: f64, burst: f64, lost: bool },
    Bursts(Fades),
    Trace { runs: Box<[u32]>, run: usize, left: u32 },
}

#[derive(Clone, Debug)]
struct Fades {
    mean_good: f64,
    mean_bad: f64,
    inside: f64,
    outside: f64,
    bad: bool,
    /// When the state changes next; `None` before the first datagram.
    until: Option<Instant>,
}

/// P(lost | the one before was not) that gives a Gilbert model its mean, from the balance of its two states.
pub(crate) fn gilbert_entry(mean: f64, burst: f64) -> f64 {
    if mean <= 0.0 { 0.0 } else { mean * (1.0 - burst) / (1.0 - mean) }
}

impl LossState {
    /// The model in its stationary state.
    pub(super) fn new(loss: &Loss, mut draws: Draws) -> LossState {
        let model = match *loss {
            Loss::None => Model::None,
            Loss::Bernoulli { mean } => Model::Bernoulli { mean },
            // A model that always loses has no balance to compute.
            Loss::Gilbert { mean, .. } if mean >= 1.0 => Model::Bernoulli { mean },
            Loss::Gilbert { mean, burst } => {
                Model::Gilbert { enter: gilbert_entry(mean, burst), burst, lost: draws.chance(mean) }
            }
            Loss::Bursts { good, bad, inside, outside } => {
                let (mean_good, mean_bad) = (good.as_secs_f64(), bad.as_secs_f64());
                let bad = draws.chance(mean_bad / (mean_good + mean_bad));
                Model::Bursts(Fades { mean_good, mean_bad, inside, outside, bad, until: None })
            }
            Loss::Trace { ref runs } if runs.iter().all(|&n| n == 0) => Model::None,
            Loss::Trace { ref runs } => Model::Trace { left: runs[0], runs: runs.clone().into(), run: 0 },
        };
        LossState { draws, model }
    }

    /// The same generator under another model.
    pub(super) fn replace(&mut self, loss: &Loss) {
        *self = LossState::new(loss, self.draws.clone());
    }

    /// Whether the datagram that leaves at `now` is lost. `now` must not go back.
    #[inline]
    pub(super) fn lose(&mut self, now: Instant) -> bool {
        let draws = &mut self.draws;
        match &mut self.model {
            Model::None => false,
            Model::Bernoulli { mean } => draws.chance(*mean),
            Model::Gilbert { enter, burst, lost } => {
                *lost = draws.chance(if *lost { *burst } else { *enter });
                *lost
            }
            Model::Bursts(fades) => fades.lose(now, draws),
            Model::Trace { runs, run, left } => {
                while *left == 0 {
                    *run = (*run + 1) % runs.len();
                    *left = runs[*run];
                }
                *left -= 1;
                *run % 2 == 1
            }
        }
    }
}

impl Fades {
    fn lose(&mut self, now: Instant, draws: &mut Draws) -> bool {
        // The exponential has no memory, so the first stretch seen may begin with the first datagram.
        let mut until = self.until.unwrap_or_else(|| now + self.stretch(draws));
        while until <= now {
            self.bad = !self.bad;
            until += self.stretch(draws);
        }
        self.until = Some(until);
        draws.chance(if self.bad { self.inside } else { self.outside })
    }

    fn stretch(&self, draws: &mut Draws) -> Duration {
        let mean = if self.bad { self.mean_bad } else { self.mean_good };
        // At least a microsecond, the grain of the clock: time goes on whatever is drawn.
        Duration::from_secs_f64(draws.exponential(mean).clamp(1e-6, 1e9))
    }
}
