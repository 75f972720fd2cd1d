//! Playout, outputs; the program anabranch-sink.
//!
//! A sink takes a stream from a relay, drops duplicates, restores order, and releases each packet at media time +
//! deadline, evenly, as the source received them, to any number of outputs that do not disturb one another.
//! Embed it with [`run`]; the program is [`Config`] and [`run`] behind a command line.

pub mod cli;
pub mod config;
mod connection;
mod fanout;
pub mod metrics;
pub mod output;
pub mod playout;
pub mod report;
pub mod screen;
mod server;
pub mod system;

pub use config::{Config, Identity, StreamConfig};
pub use report::Report;
pub use server::{run, run_reloading};
pub use system::SinkSystem;
