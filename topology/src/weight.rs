//! What an edge weighs in a search.

use crate::graph::{EdgeIx, Graph};
use crate::sets::EdgeSet;
use std::ops::Index;

/// What a repaired hop needs beyond three times its delay: detection and processing, in microseconds.
pub const REPAIR_US: u64 = 3_000;

/// An edge that loses so much carries nothing.
pub const DEAD_PPM: u32 = 930_000;

/// What a dead edge weighs beyond its delay, in microseconds: it is taken where nothing else is left.
pub const DEAD_US: u64 = 10_000_000;

/// The weight of every edge of a graph, in microseconds unless its maker says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weights(Vec<u64>);

impl Weights {
    /// An edge of this weight is not there.
    pub const UNUSABLE: u64 = u64::MAX;

    /// The bare one-way delay. An edge that loses [`DEAD_PPM`] or more weighs [`DEAD_US`] beyond it, so that no way in time
    /// depends on it and a failing path stops being fed.
    pub fn delay(graph: &Graph) -> Self {
        Weights::by(graph, |edge| {
            let metric = graph[edge].metric;
            u64::from(metric.delay_us) + if metric.loss_ppm >= DEAD_PPM { DEAD_US } else { 0 }
        })
    }

    /// The delay to be expected of a packet on an edge that repairs a loss once, where one that is lost for good counts
    /// as `deadline_us` late: with T the delay, p the loss and Δ = [`REPAIR_US`],
    /// (1−p)·T + (p − 2p² + p³)(3T + Δ) + (2p² − p³)·Tmax.
    ///
    /// The metric of Babay et al., *Timely, Reliable, and Cost-Effective Internet Transport Service Using Dissemination
    /// Graphs*, ICDCS 2017.
    pub fn expected(graph: &Graph, deadline_us: u64) -> Self {
        Weights::by(graph, |edge| {
            let metric = graph[edge].metric;
            expected(u64::from(metric.delay_us), f64::from(metric.loss_ppm) / 1e6, deadline_us)
        })
    }

    /// Weights as `weigh` says, by edge.
    pub fn by(graph: &Graph, weigh: impl FnMut(EdgeIx) -> u64) -> Self {
        Weights(graph.edges().map(weigh).collect())
    }

    /// The same, with only the edges of `kept` left.
    pub fn only(&self, kept: &EdgeSet) -> Self {
        self.kept(|edge| kept.contains(edge))
    }

    /// The same, with those edges left for which `keep` says so.
    pub fn kept(&self, mut keep: impl FnMut(EdgeIx) -> bool) -> Self {
        let weigh = |(at, weight): (usize, &u64)| if keep(EdgeIx(at as u32)) { *weight } else { Self::UNUSABLE };
        Weights(self.0.iter().enumerate().map(weigh).collect())
    }

    /// The sum over `edges`.
    pub fn total(&self, edges: impl IntoIterator<Item = EdgeIx>) -> u64 {
        edges.into_iter().fold(0, |sum, edge| sum.saturating_add(self[edge]))
    }
}

impl Index<EdgeIx> for Weights {
    type Output = u64;
    fn index(&self, edge: EdgeIx) -> &u64 {
        &self.0[edge.0 as usize]
    }
}

/// As [`Weights::expected`], of one edge of `delay_us` and a share `loss` lost.
pub fn expected(delay_us: u64, loss: f64, deadline_us: u64) -> u64 {
    let (t, p, worst) = (delay_us as f64, loss.clamp(0.0, 1.0), deadline_us as f64);
    let (p2, p3) = (p * p, p * p * p);
    let repaired = 3.0 * t + REPAIR_US as f64;
    let weight = (1.0 - p) * t + (p - 2.0 * p2 + p3) * repaired + (2.0 * p2 - p3) * worst.max(repaired);
    weight.max(0.0).round() as u64
}
