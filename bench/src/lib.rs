//! The simulator, the link emulator, the demo and the benches.

pub mod channel;
