//! The overlay as data: names, the link-state database, metrics, trees, disjoint paths and dissemination graphs.
//!
//! Everything here is a pure function of its arguments, or a state machine that takes `now` and messages and returns
//! what to do. It holds no socket, task, clock, thread or global, and knows nothing of `link`.
#![forbid(unsafe_code)]

pub mod about;
pub mod disjoint;
pub mod dissemination;
pub mod graph;
pub mod lsdb;
pub mod module;
pub mod names;
pub mod ring;
pub mod select;
pub mod sets;
pub mod shortest;
pub mod sieve;
pub mod targeted;
pub mod terms;
pub mod tree;
pub mod trouble;
pub mod weight;

pub use names::{LinkEnd, LinkName, NodeName, StreamName, StreamPattern};
