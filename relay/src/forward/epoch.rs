//! Which outputs belong to which module, and how far it is from there, by epoch: what a label says of a packet stands here.

use super::label::{self, MAX_MODULES};
use link::Label;
use node::PortId;

/// Epochs a relay remembers.
pub const EPOCHS: usize = 4;

/// Bare transit of what remains of the way beyond the next hop, the last mile included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rest {
    /// To the nearest egress below, in microseconds.
    pub min_us: u32,
    /// To the farthest.
    pub max_us: u32,
}

/// One out-edge of a module at this relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The port towards the next relay; an output of the stream.
    pub port: PortId,
    /// What remains beyond it.
    pub rest: Rest,
}

/// What is known of a stream's epochs, oldest first; never more than [`EPOCHS`].
#[derive(Debug)]
pub(super) struct Epochs(Vec<Epoch>);

#[derive(Debug)]
struct Epoch {
    number: u16,
    modules: usize,
    branches: Vec<Branch>,
    /// `rests[branch * modules + module]`.
    rests: Vec<Rest>,
}

/// One output with the modules it belongs to.
#[derive(Debug)]
struct Branch {
    output: u32,
    modules: u16,
}

impl Epochs {
    pub(super) fn new() -> Epochs {
        Epochs(Vec::with_capacity(EPOCHS + 1))
    }

    /// Installs an epoch or replaces it; `output` tells the slot of a port, and hops over ports without one are left out. Too old a one is ignored.
    pub(super) fn install(&mut self, number: u16, modules: &[Vec<Hop>], output: impl Fn(PortId) -> Option<u32>) {
        let count = modules.len().min(MAX_MODULES);
        let mut epoch = Epoch { number, modules: count, branches: Vec::new(), rests: Vec::new() };
        for (module, hops) in modules[..count].iter().enumerate() {
            for hop in hops {
                if let Some(slot) = output(hop.port) {
                    epoch.add(slot, module, hop.rest);
                }
            }
        }
        if let Some(same) = self.0.iter_mut().find(|epoch| epoch.number == number) {
            *same = epoch;
            return;
        }
        let at = self.0.iter().position(|other| label::later(other.number, number)).unwrap_or(self.0.len());
        self.0.insert(at, epoch);
        if self.0.len() > EPOCHS {
            self.0.remove(0);
        }
    }

    /// Forgets an epoch.
    pub(super) fn retire(&mut self, number: u16) {
        self.0.retain(|epoch| epoch.number != number);
    }

    /// Forgets an output.
    pub(super) fn remove_output(&mut self, output: u32) {
        for epoch in &mut self.0 {
            epoch.remove(output);
        }
    }

    /// Their numbers, oldest first.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u16> {
        self.0.iter().map(|epoch| epoch.number)
    }

    /// The newest one's number.
    pub(super) fn newest(&self) -> Option<u16> {
        self.0.last().map(|epoch| epoch.number)
    }

    /// The outputs on which a packet of this label leaves, each with the rest of the way beyond it.
    #[inline]
    pub(super) fn edges(&self, label: Label) -> impl Iterator<Item = (u32, Rest)> {
        self.named(label).into_iter().flat_map(move |epoch| {
            let modules = epoch.known(label::modules(label));
            epoch.branches.iter().enumerate().filter_map(move |(at, branch)| {
                let shared = branch.modules & modules;
                (shared != 0).then(|| (branch.output, epoch.rest(at, shared)))
            })
        })
    }

    /// The rest of the way beyond an output on which a packet of this label leaves; `None` where it does not.
    pub(super) fn rest_of(&self, label: Label, output: u32) -> Option<Rest> {
        let epoch = self.named(label)?;
        let at = epoch.branches.iter().position(|branch| branch.output == output)?;
        let shared = epoch.branches[at].modules & epoch.known(label::modules(label));
        (shared != 0).then(|| epoch.rest(at, shared))
    }

    /// The rest of the way beyond an output by whatever module of the newest epoch that has it; nothing, where none does.
    pub(super) fn rest_below(&self, output: u32) -> Rest {
        let found = self.0.iter().rev().find_map(|epoch| {
            let at = epoch.branches.iter().position(|branch| branch.output == output)?;
            Some(epoch.rest(at, epoch.branches[at].modules))
        });
        found.unwrap_or_default()
    }

    /// The epoch that a label names; the newest, where that is not known.
    #[inline]
    fn named(&self, label: Label) -> Option<&Epoch> {
        let wanted = label::epoch(label);
        self.0.iter().rev().find(|epoch| epoch.number == wanted).or(self.0.last())
    }
}

impl Epoch {
    /// The modules of `wanted` that this epoch has; its first one where it has none of them.
    #[inline]
    fn known(&self, wanted: u16) -> u16 {
        let all = u16::MAX.checked_shr(16 - self.modules as u32).unwrap_or(0);
        if wanted & all == 0 { 1 } else { wanted & all }
    }

    /// The rest of the way beyond a branch over all `modules`, of which there is at least one.
    #[inline]
    fn rest(&self, branch: usize, mut modules: u16) -> Rest {
        let mut out = Rest { min_us: u32::MAX, max_us: 0 };
        while modules != 0 {
            let rest = self.rests[branch * self.modules + modules.trailing_zeros() as usize];
            out.min_us = out.min_us.min(rest.min_us);
            out.max_us = out.max_us.max(rest.max_us);
            modules &= modules - 1;
        }
        out
    }

    fn add(&mut self, output: u32, module: usize, rest: Rest) {
        let at = self.branches.iter().position(|branch| branch.output == output).unwrap_or_else(|| {
            self.branches.push(Branch { output, modules: 0 });
            self.rests.resize(self.branches.len() * self.modules, Rest::default());
            self.branches.len() - 1
        });
        self.branches[at].modules |= 1 << module;
        self.rests[at * self.modules + module] = rest;
    }

    fn remove(&mut self, output: u32) {
        if let Some(at) = self.branches.iter().position(|branch| branch.output == output) {
            self.branches.remove(at);
            self.rests.drain(at * self.modules..(at + 1) * self.modules);
        }
    }
}
