//! End to end: scenarios, real programs, real media, fuzz corpora.
//!
//! | module | what it is |
//! |---|---|
//! | `browser` | a headless Chromium |
//! | `flow` | known datagrams through source, overlay and sink, compared byte by byte |
//! | `stream` | transport streams through the same, compared packet by packet |
//! | `programs` | the real programs as processes, with their files in a folder of their own |
//! | `six` | six relays as processes, every link emulated, to be killed, frozen, drained and cut off |
//! | `hosts` | network namespaces as machines of their own |
//! | `http` | one request |
//! | `fuzz_entry`, `fuzz_relay`, `fuzz_trust`, `fuzz_ts`, `fuzz_drawn`, `fuzz_seeds` | what the fuzz targets and the corpus replay call |

pub mod browser;
pub mod flow;
mod fuzz_drawn;
pub mod fuzz_entry;
pub mod fuzz_relay;
pub mod fuzz_seeds;
pub mod fuzz_trust;
pub mod fuzz_ts;
pub mod hosts;
pub mod http;
pub mod programs;
pub mod six;
pub mod stream;

use bench::channel::{ChannelConfig, Loss};
use std::time::Duration;

/// A path with this delay and mean loss (in percent, Gilbert with P(lost | the one before was lost) = 0.66), either way.
pub fn lossy(delay_ms: u64, loss_percent: f64) -> ChannelConfig {
    ChannelConfig {
        delay: Duration::from_millis(delay_ms),
        loss: Loss::Gilbert { mean: loss_percent / 100.0, burst: 0.66 },
        ..ChannelConfig::default()
    }
}

/// A path with this delay and no loss.
pub fn clean(delay_ms: u64) -> ChannelConfig {
    ChannelConfig { delay: Duration::from_millis(delay_ms), ..ChannelConfig::default() }
}

/// How many of `sent` packets may miss their deadline in a test on real clocks: one in a hundred. A shared machine stalls for longer than the deadline leaves,
/// so completeness in time is asserted in virtual time (`bench::sim`, `relay/tests/overlay`) and here only bounded; that nothing arrives damaged, out of
/// order or twice is asserted without allowance. On a quiet machine `ANABRANCH_STRICT=1` takes the allowance away.
pub fn allowance(sent: u64) -> u64 {
    if strict() { 0 } else { sent.div_ceil(100) }
}

/// Whether the machine is said to be quiet enough for every bound.
pub fn strict() -> bool {
    std::env::var_os("ANABRANCH_STRICT").is_some()
}

/// Asserts that no more than the allowance is missing, and prints what is.
pub fn assert_complete(sent: u64, arrived: u64, account: impl FnOnce() -> String) {
    assert!(arrived <= sent, "{arrived} arrived of {sent}");
    let missing = sent - arrived;
    println!("{arrived} of {sent} arrived in time, {missing} did not");
    assert!(missing <= allowance(sent), "{missing} of {sent} missing, more than {}\n{}", allowance(sent), account());
}
