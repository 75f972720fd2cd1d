//! A newtype per role; sequence numbers wrap explicitly.

use serde::{Deserialize, Serialize};

/// Number of a transmission on one link and direction; media, repair and feedback share one space, so that a gap
/// shows at the next transmission of any kind. Wraps; compare by [`LinkSeq::distance`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LinkSeq(pub u32);

/// A stream on one link and direction, as agreed on the link's control stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StreamHandle(pub u16);

/// Number of a packet in its stream, given by the source. Wraps; compare by [`StreamSeq::distance`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StreamSeq(pub u32);

/// When the source received a packet, in microseconds of the source's own clock. Wraps every 71.6 minutes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MediaTime(pub u32);

/// The dissemination graph a packet travels on: an epoch and a set of modules. The link carries it unread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Label(pub u32);

macro_rules! wrapping {
    ($name:ident) => {
        impl $name {
            /// How far `self` lies after `earlier`: negative where it lies before. Exact while the two are less than
            /// 2^31 apart (serial number arithmetic, RFC 1982).
            pub const fn distance(self, earlier: $name) -> i32 {
                self.0.wrapping_sub(earlier.0) as i32
            }

            /// The number `n` after this one.
            pub const fn plus(self, n: u32) -> $name {
                $name(self.0.wrapping_add(n))
            }
        }
    };
}
wrapping!(LinkSeq);
wrapping!(StreamSeq);
wrapping!(MediaTime);

/// Marks of a packet that travel with it end to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags {
    /// Sent before, and dropped after, packets without it where there is too much to send.
    pub high_priority: bool,
    /// The last packet of its stream.
    pub end: bool,
}
