//! Payloads sealed from source to sink: relays repair and forward what they cannot read.
//!
//! Each payload is sealed at the source by AES-256-GCM-SIV (RFC 8452) just before it becomes a packet of its stream, and opened at the sink
//! before playout. A sealed payload is
//!
//! ```text
//! ciphertext (as long as the payload) | tag (16) | turn (1) | epoch (1) | form (1)
//! ```
//!
//! *form* holds the version in its high four bits and what the payload is ([`Content`]) in its low four. *epoch* says which key of the
//! [`StreamKeys`] it is sealed with. *turn* counts how often the 32 bits of the stream's sequence have run through.
//!
//! **Key.** HKDF-SHA-256 (RFC 5869) of the epoch's secret, with no salt, and as info `anabranch payload key v1`, a zero byte, epoch, turn,
//! incarnation (8 bytes, big endian) and the stream's name. So each life of each stream has keys of its own, and what was sealed for one
//! opens for no other.
//!
//! **Nonce.** The stream sequence (4 bytes, big endian) after eight zeros. It never repeats under a key: within a turn the sequence only
//! grows ([`Sealer::seal`] refuses anything else), a new turn is another key, and a packet that is sent again was sealed once and is kept
//! sealed. Another life is another key; lives are told apart by 64 random bits. Should two draw the same (a machine that was copied while it
//! ran), GCM-SIV gives away whether two payloads of the same number were equal, and nothing else.
//!
//! **Additional data.** Trailer, sequence, media time and flags: nobody on the way can give a payload another number, time or mark, nor a
//! life, stream or epoch, which are in the key.
//!
//! **Replay.** An [`Opener`] takes each number of a life once, and none that lies more than [`WINDOW`] behind the highest (RFC 4303 §3.4.3).

mod keys;
mod replay;
#[cfg(test)]
mod tests;

pub use crate::trust::stream_keys::{KeyFiles, StreamKeys};
pub use keys::Secret;

use crate::control::Content;
use aws_lc_rs::aead::{Aad, LessSafeKey, NONCE_LEN, Nonce};
use bytes::{Bytes, BytesMut};
use keys::Context;
use link::{Flags, MediaTime, StreamSeq};
use replay::{Seen, Window};
use std::collections::VecDeque;
use topology::StreamName;
use topology::lsdb::Incarnation;

pub use replay::WINDOW;

/// Bytes that sealing adds to a payload.
pub const OVERHEAD: usize = TAG + TRAILER;

const TAG: usize = 16;
const TRAILER: usize = 3;

/// The version of the format, in the high four bits of the form.
const VERSION: u8 = 1 << 4;

/// Lives of one stream that a sink tells apart; the oldest of more can no longer be opened.
const LIVES: usize = 4;

/// Lives that are known to be over. Of more the oldest are forgotten.
const PAST: usize = 1024;

/// Keys in use within one life: two epochs around a rotation, two turns around the end of the sequence.
const KEYS: usize = 4;

/// What of a packet is authenticated beside its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// Its number in the stream.
    pub seq: StreamSeq,
    /// When the source received it, on the source's clock.
    pub media_time: MediaTime,
    /// Its marks.
    pub flags: Flags,
}

/// Why a payload cannot be sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSealed {
    /// Its number is not after the one before it, or the last of all numbers (2^40) is used up.
    #[error("the number of a payload to be sealed was used before; start the source anew for a new life of the stream")]
    NumberUsed,
    /// The library refused.
    #[error("the payload cannot be sealed")]
    Library,
}

/// Why a payload is not opened. None of it is ever delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotOpened {
    /// It is no sealed payload.
    #[error("not sealed")]
    Clear,
    /// It is sealed with a key that is not at hand.
    #[error("sealed with epoch {0}, which the key file does not hold")]
    UnknownEpoch(u8),
    /// It was changed, relabelled, or sealed with another key of the same epoch.
    #[error("changed on the way, or sealed with another key")]
    Tampered,
    /// It was opened before: a copy.
    #[error("opened before")]
    Duplicate,
    /// It lies far behind others of its life, or its life is over: somebody plays a recording.
    #[error("a replay")]
    Replayed,
}

/// A key of one life, epoch and turn.
struct Derived {
    epoch: u8,
    turn: u8,
    key: LessSafeKey,
}

/// Seals the payloads of one life of a stream.
pub struct Sealer {
    stream: StreamName,
    incarnation: Incarnation,
    keys: StreamKeys,
    current: Option<Derived>,
    turn: u8,
    last: Option<StreamSeq>,
}

impl Sealer {
    /// Seals with the epoch of `keys` that is in use.
    pub fn new(keys: StreamKeys, stream: StreamName, incarnation: Incarnation) -> Sealer {
        Sealer { stream, incarnation, keys, current: None, turn: 0, last: None }
    }

    /// Seals with these from the next payload on.
    pub fn set_keys(&mut self, keys: StreamKeys) {
        self.keys = keys;
        self.current = None;
    }

    /// For another life, of which nothing has been sealed.
    pub fn begin_life(&mut self, incarnation: Incarnation) {
        (self.incarnation, self.current, self.turn, self.last) = (incarnation, None, 0, None);
    }

    /// The epoch it seals with.
    pub fn epoch(&self) -> u8 {
        self.keys.in_use()
    }

    /// Seals a payload, in place where it is not shared and has [`OVERHEAD`] bytes of room. Numbers must grow from call to call; they may wrap.
    pub fn seal(&mut self, content: Content, marks: &Marks, payload: Bytes) -> Result<Bytes, NotSealed> {
        self.advance(marks.seq)?;
        let (epoch, turn) = (self.keys.in_use(), self.turn);
        let stale = |current: &Derived| (current.epoch, current.turn) != (epoch, turn);
        if self.current.as_ref().is_none_or(stale) {
            let context = Context { stream: &self.stream, incarnation: self.incarnation, epoch, turn };
            let key = keys::derive(self.keys.secret_in_use(), &context).map_err(|_| NotSealed::Library)?;
            self.current = Some(Derived { epoch, turn, key });
        }
        let Some(Derived { key, .. }) = &self.current else { return Err(NotSealed::Library) };
        let trailer = [turn, epoch, VERSION | number(content)];
        let mut payload = own(payload, OVERHEAD);
        let tag = key
            .seal_in_place_separate_tag(nonce(marks.seq), Aad::from(additional(trailer, marks)), &mut payload)
            .map_err(|_| NotSealed::Library)?;
        payload.extend_from_slice(tag.as_ref());
        payload.extend_from_slice(&trailer);
        Ok(payload.freeze())
    }

    fn advance(&mut self, seq: StreamSeq) -> Result<(), NotSealed> {
        if let Some(last) = self.last {
            if seq.distance(last) <= 0 {
                return Err(NotSealed::NumberUsed);
            }
            if seq.0 < last.0 {
                self.turn = self.turn.checked_add(1).ok_or(NotSealed::NumberUsed)?;
            }
        }
        self.last = Some(seq);
        Ok(())
    }
}

/// Opens the payloads of a stream, through all its lives.
pub struct Opener {
    stream: StreamName,
    keys: StreamKeys,
    /// Lives of which something was opened, the latest to begin last.
    lives: VecDeque<Life>,
    past: VecDeque<Incarnation>,
}

struct Life {
    incarnation: Incarnation,
    window: Window,
    keys: VecDeque<Derived>,
}

impl Opener {
    /// Opens what is sealed with any epoch of `keys`.
    pub fn new(keys: StreamKeys, stream: StreamName) -> Opener {
        Opener { stream, keys, lives: VecDeque::new(), past: VecDeque::new() }
    }

    /// Opens with these from now on.
    pub fn set_keys(&mut self, keys: StreamKeys) {
        // An epoch may have gone, or hold another secret.
        self.lives.iter_mut().for_each(|life| life.keys.clear());
        self.keys = keys;
    }

    /// The keys it opens with.
    pub fn keys(&self) -> &StreamKeys {
        &self.keys
    }

    /// Whether something of a life has been opened.
    pub fn knows(&self, incarnation: Incarnation) -> bool {
        self.lives.iter().any(|life| life.incarnation == incarnation)
    }

    /// The payload, and what it is; in place where nobody shares it. Never panics, whatever the bytes.
    pub fn open(
        &mut self,
        incarnation: Incarnation,
        marks: &Marks,
        payload: Bytes,
    ) -> Result<(Content, Bytes), NotOpened> {
        let (turn, epoch, content) = read_trailer(&payload)?;
        let number = u64::from(turn) << 32 | u64::from(marks.seq.0);
        let known = self.lives.iter().position(|life| life.incarnation == incarnation);
        match known.map(|at| self.lives[at].window.look(number)) {
            Some(Seen::Before) => return Err(NotOpened::Duplicate),
            Some(Seen::TooOld) => return Err(NotOpened::Replayed),
            None if self.past.contains(&incarnation) => return Err(NotOpened::Replayed),
            Some(Seen::New) | None => {}
        }
        let context = Context { stream: &self.stream, incarnation, epoch, turn };
        let cached = known
            .and_then(|at| self.lives[at].keys.iter().find(|derived| (derived.epoch, derived.turn) == (epoch, turn)));
        let (payload, fresh) = match cached {
            Some(derived) => (unseal(&derived.key, marks, payload)?, None),
            None => {
                let secret = self.keys.secret(epoch).ok_or(NotOpened::UnknownEpoch(epoch))?;
                let key = keys::derive(secret, &context).map_err(|_| NotOpened::Tampered)?;
                (unseal(&key, marks, payload)?, Some(Derived { epoch, turn, key }))
            }
        };
        // Only what is authentic leaves a trace: a peer that makes things up fills nothing and pushes nothing out.
        let at = known.unwrap_or_else(|| self.begin(incarnation));
        let life = &mut self.lives[at];
        life.window.mark(number);
        if let Some(derived) = fresh {
            if life.keys.len() == KEYS {
                life.keys.pop_front();
            }
            life.keys.push_back(derived);
        }
        Ok((content, payload))
    }

    fn begin(&mut self, incarnation: Incarnation) -> usize {
        if self.lives.len() == LIVES
            && let Some(over) = self.lives.pop_front()
        {
            if self.past.len() == PAST {
                self.past.pop_front();
            }
            self.past.push_back(over.incarnation);
        }
        self.lives.push_back(Life { incarnation, window: Window::default(), keys: VecDeque::new() });
        self.lives.len() - 1
    }
}

fn unseal(key: &LessSafeKey, marks: &Marks, payload: Bytes) -> Result<Bytes, NotOpened> {
    let mut payload = own(payload, 0);
    let trailer = *payload.last_chunk::<TRAILER>().ok_or(NotOpened::Clear)?;
    payload.truncate(payload.len() - TRAILER);
    let aad = Aad::from(additional(trailer, marks));
    let length = key.open_in_place(nonce(marks.seq), aad, &mut payload).map_err(|_| NotOpened::Tampered)?.len();
    payload.truncate(length);
    Ok(payload.freeze())
}

/// Turn, epoch and content of what looks like a sealed payload.
fn read_trailer(payload: &[u8]) -> Result<(u8, u8, Content), NotOpened> {
    let Some([turn, epoch, form]) = payload.last_chunk::<TRAILER>().filter(|_| payload.len() >= OVERHEAD) else {
        return Err(NotOpened::Clear);
    };
    let content = match form.wrapping_sub(VERSION) {
        0 => Content::Datagrams,
        1 => Content::Ts,
        _ => return Err(NotOpened::Clear),
    };
    Ok((*turn, *epoch, content))
}

fn number(content: Content) -> u8 {
    match content {
        Content::Datagrams => 0,
        Content::Ts => 1,
    }
}

fn nonce(seq: StreamSeq) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[NONCE_LEN - 4..].copy_from_slice(&seq.0.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

fn additional(trailer: [u8; TRAILER], marks: &Marks) -> [u8; TRAILER + 9] {
    let mut data = [0; TRAILER + 9];
    data[..3].copy_from_slice(&trailer);
    data[3..7].copy_from_slice(&marks.seq.0.to_be_bytes());
    data[7..11].copy_from_slice(&marks.media_time.0.to_be_bytes());
    data[11] = u8::from(marks.flags.high_priority) | u8::from(marks.flags.end) << 1;
    data
}

/// The bytes, to be changed: the same memory where nobody else has it and `room` bytes are free behind them, else a copy.
fn own(payload: Bytes, room: usize) -> BytesMut {
    match payload.try_into_mut() {
        Ok(own) if own.capacity() - own.len() >= room => own,
        Ok(own) => copy(&own, room),
        Err(shared) => copy(&shared, room),
    }
}

fn copy(bytes: &[u8], room: usize) -> BytesMut {
    let mut copy = BytesMut::with_capacity(bytes.len() + room);
    copy.extend_from_slice(bytes);
    copy
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealer").field("stream", &self.stream).field("keys", &self.keys).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opener").field("stream", &self.stream).field("keys", &self.keys).finish_non_exhaustive()
    }
}
