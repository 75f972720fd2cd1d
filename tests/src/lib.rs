//! End to end: scenarios, real programs, real media, fuzz corpora.
//!
//! | module | what it is |
//! |---|---|
//! | `flow` | known datagrams through source, overlay and sink, compared byte by byte |
//! | `stream` | transport streams through the same, compared packet by packet |
//! | `programs` | the real programs as processes, with their files in a folder of their own |
//! | `fuzz_entry`, `fuzz_seeds` | what the fuzz targets and the corpus replay call |

pub mod flow;
pub mod fuzz_entry;
pub mod fuzz_seeds;
pub mod programs;
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
