//! Whether and how the payloads of a stream may be used: opened, taken as they are, or dropped. Pure.
//!
//! | | announced as sealed | announced as clear |
//! |---|---|---|
//! | a key | opened, or dropped | opened, or dropped; taken as they are where clear streams are allowed |
//! | no key | dropped, and the stream is refused | taken as they are |
//!
//! The announcement comes from relays, and is believed only where it makes this sink stricter.

use crate::playout::Arrival;
use crate::report::Counters;
use link::Instant;
use node::control::Content;
use node::payload::{Marks, NotOpened, Opener, StreamKeys};
use std::fmt;
use std::time::Duration;
use topology::StreamName;
use topology::lsdb::Incarnation;

/// The same trouble is told again after so long …
const TELL_AGAIN: Duration = Duration::from_secs(10);
/// … and another one not sooner than this: a peer that makes things up fills no log.
const TELL_NEXT: Duration = Duration::from_secs(1);

/// What stands between a stream's packets and its playout.
#[derive(Debug, Default)]
pub(super) struct Payloads {
    opener: Option<Opener>,
    allow_clear: bool,
    counts: Counters,
    trouble: Option<Trouble>,
    told: Option<(Instant, Trouble)>,
}

/// Why packets cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Sealed, and there is no key at all.
    NoKey,
    /// In the clear, and there is a key.
    Clear,
    /// Sealed with an epoch that is not in the key file; what is.
    Epoch { epoch: u8, held: Vec<u8> },
    /// Changed, or sealed with another secret.
    Tampered,
    /// A recording.
    Replayed,
}

/// A packet that may not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dropped {
    /// Whether that is news.
    pub(super) news: bool,
}

impl Payloads {
    /// For a stream that has, or may have, a key.
    pub(super) fn new(keys: StreamKeys, name: StreamName, allow_clear: bool) -> Payloads {
        Payloads { opener: Some(Opener::new(keys, name)), allow_clear, ..Payloads::default() }
    }

    /// Opens with these from now on.
    pub(super) fn set_keys(&mut self, keys: StreamKeys) {
        if let Some(opener) = &mut self.opener {
            opener.set_keys(keys);
        }
    }

    /// Whether a stream announced like this can be played.
    pub(super) fn announced(&mut self, sealed: bool) -> Result<(), Trouble> {
        match sealed && self.opener.is_none() {
            true => Err(Trouble::NoKey),
            false => Ok(()),
        }
    }

    /// Makes of a packet what its source sent; says what it carries where the packet does.
    pub(super) fn admit(
        &mut self,
        now: Instant,
        (incarnation, sealed): (Incarnation, bool),
        arrival: &mut Arrival,
    ) -> Result<Option<Content>, Dropped> {
        let Some(opener) = &mut self.opener else {
            return if sealed { Err(self.drop(now, Trouble::NoKey)) } else { Ok(None) };
        };
        if !sealed && self.allow_clear {
            return Ok(None);
        }
        let marks = Marks { seq: arrival.seq, media_time: arrival.media_time, flags: arrival.flags };
        match opener.open(incarnation, &marks, std::mem::take(&mut arrival.payload)) {
            Ok((content, payload)) => {
                arrival.payload = payload;
                self.trouble = None;
                Ok(Some(content))
            }
            Err(NotOpened::Duplicate) => {
                self.counts.received += 1;
                self.counts.duplicates += 1;
                Err(Dropped { news: false })
            }
            Err(why) => {
                let trouble = match why {
                    _ if !sealed && !opener.knows(incarnation) => Trouble::Clear,
                    NotOpened::UnknownEpoch(epoch) => Trouble::Epoch { epoch, held: opener.keys().epochs().collect() },
                    NotOpened::Replayed => Trouble::Replayed,
                    _ => Trouble::Tampered,
                };
                Err(self.drop(now, trouble))
            }
        }
    }

    /// Why the packets that come last cannot be used.
    pub(super) fn trouble(&self) -> Option<&Trouble> {
        self.trouble.as_ref()
    }

    /// Adds what never came to the playout.
    pub(super) fn count(&self, mut counters: Counters) -> Counters {
        counters.received += self.counts.received;
        counters.duplicates += self.counts.duplicates;
        counters.tampered += self.counts.tampered;
        counters.no_key += self.counts.no_key;
        counters.clear += self.counts.clear;
        counters.replayed += self.counts.replayed;
        counters
    }

    fn drop(&mut self, now: Instant, trouble: Trouble) -> Dropped {
        self.counts.received += 1;
        *match &trouble {
            Trouble::NoKey | Trouble::Epoch { .. } => &mut self.counts.no_key,
            Trouble::Clear => &mut self.counts.clear,
            Trouble::Tampered => &mut self.counts.tampered,
            Trouble::Replayed => &mut self.counts.replayed,
        } += 1;
        let news = self.told.as_ref().is_none_or(|(at, told)| {
            now.saturating_since(*at) >= if *told == trouble { TELL_AGAIN } else { TELL_NEXT }
        });
        if news {
            self.told = Some((now, trouble.clone()));
        }
        self.trouble = Some(trouble);
        Dropped { news }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::NoKey => {
                f.write_str("sealed from source to sink, and this sink has no payload key (--payload-key FILE)")
            }
            Trouble::Clear => f.write_str(
                "in the clear, and this sink has a payload key for it: \
                 its source has lost the key, or somebody takes its place (--allow-clear plays it all the same)",
            ),
            Trouble::Epoch { epoch, held } => write!(
                f,
                "sealed with payload key epoch {epoch}, and the key file here holds {held:?}: copy the newer file here"
            ),
            Trouble::Tampered => f.write_str(
                "changed on the way, or sealed with another key of the same epoch \
                 (`anabranch-relay keys inspect FILE` at both ends shows the fingerprints)",
            ),
            Trouble::Replayed => f.write_str("played from a recording of what was sent before"),
        }
    }
}
