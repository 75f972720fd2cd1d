//! The simulator, the link emulator, the demo and the benches.

pub mod channel;
pub mod emulator;
