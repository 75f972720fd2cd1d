//! End to end: scenarios, real programs, real media, fuzz corpora.

pub mod fuzz_entry;
pub mod fuzz_seeds;
