//! Quantities with their units.

use serde::{Deserialize, Serialize};
use std::num::NonZeroU32;
use std::time::Duration;

/// Bits per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Bitrate(u64);

impl Bitrate {
    /// No rate at all.
    pub const ZERO: Bitrate = Bitrate(0);

    /// A rate in bits per second.
    pub const fn bps(bits_per_second: u64) -> Self {
        Bitrate(bits_per_second)
    }

    /// A rate in megabits (10^6 bits) per second.
    pub const fn mbps(megabits_per_second: u64) -> Self {
        Bitrate(megabits_per_second.saturating_mul(1_000_000))
    }

    /// Bits per second.
    pub const fn as_bps(self) -> u64 {
        self.0
    }

    /// Bytes carried in `span` at this rate, rounded down.
    pub fn bytes_in(self, span: Duration) -> u64 {
        // Asked for every packet: nearly always it fits 64 bits, whose division is a tenth of the work.
        let short = u64::try_from(span.as_nanos()).ok().and_then(|nanos| self.0.checked_mul(nanos));
        if let Some(product) = short {
            return product / 8_000_000_000;
        }
        let bits = u128::from(self.0) * span.as_nanos() / 1_000_000_000;
        u64::try_from(bits / 8).unwrap_or(u64::MAX)
    }

    /// Time that `bytes` take at this rate; [`Duration::MAX`] at rate zero.
    pub fn time_for(self, bytes: u64) -> Duration {
        if self.0 == 0 {
            return Duration::MAX;
        }
        let nanos = u128::from(bytes) * 8 * 1_000_000_000 / u128::from(self.0);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// A share of packets that may be left missing, in parts per billion: from 10⁻⁹ to 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Residual(NonZeroU32);

impl Residual {
    const WHOLE: u32 = 1_000_000_000;

    /// From parts per billion, at most all; `None` of 0.
    pub fn ppb(parts: u32) -> Option<Residual> {
        NonZeroU32::new(parts.min(Self::WHOLE)).map(Residual)
    }

    /// From a share, rounded, and up to 10⁻⁹ where it is less; `None` where it is not above 0 or no number.
    pub fn share(share: f64) -> Option<Residual> {
        let parts = (share * f64::from(Self::WHOLE)).clamp(1.0, f64::from(Self::WHOLE)).round() as u32;
        (share > 0.0).then(|| Residual::ppb(parts)).flatten()
    }

    /// As parts per billion.
    pub const fn as_ppb(self) -> u32 {
        self.0.get()
    }

    /// As a share.
    pub fn as_share(self) -> f64 {
        f64::from(self.0.get()) / f64::from(Self::WHOLE)
    }
}
