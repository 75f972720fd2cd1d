//! What becomes of released packets: datagrams, files, pipes, players.

pub mod spec;

pub use spec::{DatagramTarget, Framing, OutputSpec, SpecError, Start, Target};
