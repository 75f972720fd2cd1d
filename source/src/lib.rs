//! The source: takes live media in and publishes it to the overlay; the program `anabranch-source`.
//!
//! | module | what it decides | holds |
//! |---|---|---|
//! | `url` | what an input's URL means | pure |
//! | `packetize` | how a stream of bytes becomes payloads | pure |
//! | `pacing` | when the bytes of a file are due, by its clock references | pure |
//! | `looping` | how a file plays again and again as one endless stream | pure |
//! | `rtp` | what is taken out of RTP, and in which order | pure |
//! | `system` | what is published, sent, kept for a reconnection, given up | pure |
//! | `ingest` | sockets, files, the standard input | the shell |
//! | `server` | relays, reconnection, reports | the shell |
//!
//! [`run`] is the whole program but its command line. It must be awaited on a [`tokio::runtime::LocalRuntime`],
//! so that one process can hold several programs, each on its own thread.

pub mod cli;
pub mod config;
mod ingest;
pub mod looping;
pub mod metrics;
pub mod pacing;
pub mod packetize;
pub mod playback;
pub mod report;
pub mod rtp;
pub mod screen;
pub mod server;
pub mod system;
pub mod url;

pub use config::{Config, Stream};
pub use report::Report;
pub use server::run;
