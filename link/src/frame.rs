//! The wire format of a link's datagrams.
//!
//! Big endian throughout. The first byte holds the version (high four bits) and the kind (low four); the rest depends on the
//! kind. Decoding borrows from the datagram, never allocates and never panics; every length is checked before it is used.
//!
//! ```text
//! media      0x11 | link seq 4 | symbol 4 | sent 4 | body: flags 1, birth 4, stream 2, seq 4, media time 4, label 4, payload
//! repair     0x12 | form 1 | link seq 4 | sent 4 | base 4 | ahead 2 | set or window | coded: length 2, body
//!            set:    count 1, then count - 1 gaps (varint, at least 1); window: count 2
//! feedback   0x13 | link seq 4 | sent 4 | next symbol 4 | kept 2 | echo: stamp 4, arrived 4 | lateness 2 | settled 4
//!                 | runs 1, then that many varints | known up to 4 | known span 2 | gaps 1, then that many pairs of varints
//! probe      0x14 | link seq 4 | sent 4 | next symbol 4 | kept 2
//! path probe 0x15 | form 1 | token 4 | padding, zeros
//! ```
//!
//! A *symbol* is one unit of the code: a media packet or half of one. Symbols have numbers of their own, one after the other,
//! so that the receiver counts exactly what it lacks and a window of the code is two numbers. The coded part
//! of a repair is the linear combination, over GF(256), of its symbols' `length, body`, each padded with zeros; the
//! coefficients follow from the repair's own link sequence number ([`crate::codec::coefficient`]). A repair of one symbol, set or window, has
//! coefficient one: a plain copy, which ends where the body does.

use crate::ids::{Flags, Label, LinkSeq, MediaTime, StreamHandle, StreamSeq};
use bytes::{BufMut, BytesMut};

/// Version of the format; another one does not decode.
pub const VERSION: u8 = 1;
/// Bytes of a media frame before its body.
pub const MEDIA_PREFIX: usize = 13;
/// Bytes of a body before the payload.
pub const BODY_HEADER: usize = 19;
/// Bytes of a media frame that are not payload.
pub const MEDIA_HEADER: usize = MEDIA_PREFIX + BODY_HEADER;
/// Bytes of a repair frame over a set, before the coded part, without the gaps of the set.
pub(crate) const SET_PREFIX: usize = 17;
/// Bytes of a repair frame over a set of one symbol, before the body.
pub const COPY_PREFIX: usize = SET_PREFIX + 2;
/// Most symbols an explicit set may hold.
pub const MAX_SET: usize = 64;
/// Most symbols a window may hold.
pub const MAX_WINDOW: usize = 512;
/// Most run lengths in a feedback frame.
pub const MAX_RUNS: usize = 48;
/// Most pairs of missing symbols in a feedback frame.
pub const MAX_GAPS: usize = 48;

const KIND_MEDIA: u8 = 1;
const KIND_REPAIR: u8 = 2;
const KIND_FEEDBACK: u8 = 3;
const KIND_PROBE: u8 = 4;
const KIND_PATH: u8 = 5;

/// Bytes of a path probe before its padding.
const PATH_PREFIX: usize = 6;

/// A datagram that is no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It ends before it should.
    #[error("frame ends early")]
    Truncated,
    /// A version this code does not speak.
    #[error("unknown version {0}")]
    Version(u8),
    /// A kind this version does not know.
    #[error("unknown kind {0}")]
    Kind(u8),
    /// A field holds what it may not.
    #[error("field out of range: {0}")]
    Field(&'static str),
}

/// A decoded frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// First transmission of a symbol.
    Media(Media<'a>),
    /// A combination of symbols.
    Repair(Repair<'a>),
    /// What the other end got.
    Feedback(Feedback<'a>),
    /// Nothing but numbers and stamps.
    Probe(Probe),
    /// A question whether the path carries frames of its own size, or the answer.
    Path(PathProbe),
}

/// First transmission of a symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Media<'a> {
    /// Number of this transmission.
    pub link_seq: LinkSeq,
    /// Number of the symbol.
    pub symbol: u32,
    /// When this transmission left, in µs of the sender's clock.
    pub sent: u32,
    /// The symbol as the code sees it: [`Body`] and payload, at least [`BODY_HEADER`] bytes.
    pub body: &'a [u8],
}

/// Which part of a packet a symbol holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// All of it.
    Whole,
    /// The first half; the next symbol holds the second.
    First,
    /// The second half.
    Second,
}

/// What stands before the payload in a symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Body {
    /// Marks of the packet.
    pub flags: Flags,
    /// Which part of it this is.
    pub part: Part,
    /// When its source received it, in µs of the sender's clock: the sender's time of sending less the packet's age.
    pub birth: u32,
    /// Its stream on this link.
    pub stream: StreamHandle,
    /// Its number in the stream.
    pub seq: StreamSeq,
    /// The source's time of it.
    pub media_time: MediaTime,
    /// The graph it travels on.
    pub label: Label,
}

/// A combination of symbols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repair<'a> {
    /// Number of this transmission, and seed of the coefficients.
    pub link_seq: LinkSeq,
    /// When it left, in µs of the sender's clock.
    pub sent: u32,
    /// Whether it was sent ahead of any report (code, fail-safe copy, duplicate) and not in answer to one.
    pub ahead_of_loss: bool,
    /// The symbols combined.
    pub symbols: Symbols<'a>,
    /// How many symbols after the first of them have been sent in all; saturates at 65,535.
    pub ahead: u16,
    /// The combination of `length, body`.
    pub coded: &'a [u8],
}

/// Which symbols a repair combines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Symbols<'a> {
    /// A set, by its lowest member and the encoded gaps to the others.
    Set {
        /// The lowest number.
        base: u32,
        /// Encoded gaps, checked.
        gaps: &'a [u8],
        /// How many symbols there are.
        count: u8,
    },
    /// All of a range.
    Window {
        /// The lowest number.
        base: u32,
        /// How many symbols there are.
        count: u16,
    },
}

/// What the other end got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feedback<'a> {
    /// Number of this transmission.
    pub link_seq: LinkSeq,
    /// When it left, in µs of the reporter's clock.
    pub sent: u32,
    /// What the reporter itself sends.
    pub horizon: Horizon,
    /// Stamp of the last transmission that arrived, and the reporter's clock when it did.
    pub echo: Echo,
    /// 99.9 % quantile of the lateness of transmissions against the quickest, in units of 10 µs.
    pub lateness: u16,
    /// Highest transmission about which the reporter will not change its mind: the runs start here and go down.
    pub settled: LinkSeq,
    /// Lengths of runs of transmissions, arrived and lost by turns, down from `settled`.
    pub runs: Varints<'a>,
    /// The reporter speaks of the `known_span` symbols before this one: each has arrived or been decoded, or stands in
    /// `missing`.
    pub known_up_to: u32,
    /// How many symbols the reporter speaks of; saturates at 65,535.
    pub known_span: u16,
    /// Runs of missing symbols, downwards from `known_up_to`: how many to skip, then how many are missing.
    pub missing: Varints<'a>,
}

/// How far a sender of symbols has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Horizon {
    /// Number of the next symbol it will send.
    pub next_symbol: u32,
    /// How many before that it may still repair.
    pub kept: u16,
}

/// Two of the four time stamps of a round trip.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Echo {
    /// The stamp of a transmission, by its sender's clock.
    pub stamp: u32,
    /// When it arrived, by the reporter's clock.
    pub arrived: u32,
}

/// Nothing but numbers and stamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Number of this transmission.
    pub link_seq: LinkSeq,
    /// When it left, in µs of the sender's clock.
    pub sent: u32,
    /// What its sender sends.
    pub horizon: Horizon,
}

/// Asks whether the path carries frames of this one's size, or answers at that size. It has no number: losing it says
/// nothing of the loss that media meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathProbe {
    /// Whether it answers.
    pub answer: bool,
    /// Joins the answer to its question.
    pub token: u32,
}

/// Decodes a datagram. Any input is fine; what is no frame is an error.
pub fn decode(datagram: &[u8]) -> Result<Frame<'_>, Malformed> {
    let mut input = Reader(datagram);
    let first = input.u8()?;
    if first >> 4 != VERSION {
        return Err(Malformed::Version(first >> 4));
    }
    match first & 0x0f {
        KIND_MEDIA => decode_media(input).map(Frame::Media),
        KIND_REPAIR => decode_repair(input).map(Frame::Repair),
        KIND_FEEDBACK => decode_feedback(input).map(Frame::Feedback),
        KIND_PROBE => decode_probe(input).map(Frame::Probe),
        KIND_PATH => decode_path_probe(input).map(Frame::Path),
        kind => Err(Malformed::Kind(kind)),
    }
}

impl Media<'_> {
    /// Writes the prefix of a media frame; the body follows.
    pub fn put_prefix(out: &mut BytesMut, link_seq: LinkSeq, symbol: u32, sent: u32) {
        out.put_u8(VERSION << 4 | KIND_MEDIA);
        out.put_u32(link_seq.0);
        out.put_u32(symbol);
        out.put_u32(sent);
    }
}

impl Body {
    /// The header as it stands in a symbol.
    pub fn encode(&self) -> [u8; BODY_HEADER] {
        let part = match self.part {
            Part::Whole => 0,
            Part::First => 1,
            Part::Second => 2,
        };
        let flags = u8::from(self.flags.high_priority) | u8::from(self.flags.end) << 1 | part << 2;
        let mut bytes = [0; BODY_HEADER];
        bytes[0] = flags;
        bytes[1..5].copy_from_slice(&self.birth.to_be_bytes());
        bytes[5..7].copy_from_slice(&self.stream.0.to_be_bytes());
        bytes[7..11].copy_from_slice(&self.seq.0.to_be_bytes());
        bytes[11..15].copy_from_slice(&self.media_time.0.to_be_bytes());
        bytes[15..19].copy_from_slice(&self.label.0.to_be_bytes());
        bytes
    }

    /// Reads the header of a symbol; the payload follows after [`BODY_HEADER`] bytes.
    pub fn decode(body: &[u8]) -> Result<Body, Malformed> {
        let mut input = Reader(body);
        let flags = input.u8()?;
        let part = match flags >> 2 {
            0 => Part::Whole,
            1 => Part::First,
            2 => Part::Second,
            _ => return Err(Malformed::Field("flags")),
        };
        Ok(Body {
            flags: Flags { high_priority: flags & 1 != 0, end: flags & 2 != 0 },
            part,
            birth: input.u32()?,
            stream: StreamHandle(input.u16()?),
            seq: StreamSeq(input.u32()?),
            media_time: MediaTime(input.u32()?),
            label: Label(input.u32()?),
        })
    }
}

impl Repair<'_> {
    /// Writes the prefix of a repair over a set of symbols, given in rising order and at most [`MAX_SET`]; the coded part follows.
    pub fn put_set(
        out: &mut BytesMut,
        link_seq: LinkSeq,
        sent: u32,
        ahead_of_loss: bool,
        ahead: u16,
        symbols: impl ExactSizeIterator<Item = u32>,
    ) {
        let count = symbols.len();
        debug_assert!((1..=MAX_SET).contains(&count), "{count} symbols");
        let mut last = None;
        for symbol in symbols {
            match last {
                None => {
                    Self::put_common(out, link_seq, sent, u8::from(ahead_of_loss) << 1, symbol, ahead);
                    out.put_u8(count as u8);
                }
                Some(before) => put_varint(out, symbol.wrapping_sub(before)),
            }
            last = Some(symbol);
        }
    }

    /// Writes the prefix of a repair over `count` symbols from `base` on, at most [`MAX_WINDOW`]; the coded part follows.
    pub fn put_window(out: &mut BytesMut, link_seq: LinkSeq, sent: u32, base: u32, ahead: u16, count: u16) {
        debug_assert!((1..=MAX_WINDOW).contains(&usize::from(count)), "{count} symbols");
        Self::put_common(out, link_seq, sent, 0b11, base, ahead);
        out.put_u16(count);
    }

    fn put_common(out: &mut BytesMut, link_seq: LinkSeq, sent: u32, form: u8, base: u32, ahead: u16) {
        out.put_u8(VERSION << 4 | KIND_REPAIR);
        out.put_u8(form);
        out.put_u32(link_seq.0);
        out.put_u32(sent);
        out.put_u32(base);
        out.put_u16(ahead);
    }
}

impl<'a> Symbols<'a> {
    /// The lowest number.
    pub fn base(&self) -> u32 {
        match *self {
            Symbols::Set { base, .. } | Symbols::Window { base, .. } => base,
        }
    }

    /// How many symbols there are; at least one.
    pub fn count(&self) -> usize {
        match *self {
            Symbols::Set { count, .. } => count.into(),
            Symbols::Window { count, .. } => count.into(),
        }
    }

    /// How far each symbol lies after the lowest, in rising order.
    pub fn offsets(&self) -> impl Iterator<Item = u32> + use<'a> {
        let (gaps, window) = match *self {
            Symbols::Set { gaps, .. } => (Varints(gaps), 0..0),
            Symbols::Window { count, .. } => (Varints(&[]), 1..u32::from(count)),
        };
        let set = gaps.scan(0u32, |at, gap| {
            *at = at.saturating_add(gap);
            Some(*at)
        });
        std::iter::once(0).chain(set).chain(window)
    }
}

impl Feedback<'_> {
    /// Writes a feedback frame. `known` is where the symbols spoken of end, and how many they are; `runs` and `missing` hold at most [`MAX_RUNS`] lengths and [`MAX_GAPS`] pairs.
    #[expect(clippy::too_many_arguments, reason = "one per field of the frame; a struct would only name them twice")]
    pub fn put(
        out: &mut BytesMut,
        link_seq: LinkSeq,
        sent: u32,
        horizon: Horizon,
        echo: Echo,
        lateness: u16,
        settled: LinkSeq,
        runs: &[u32],
        known: (u32, u16),
        missing: &[(u32, u32)],
    ) {
        debug_assert!(runs.len() <= MAX_RUNS && missing.len() <= MAX_GAPS);
        out.put_u8(VERSION << 4 | KIND_FEEDBACK);
        out.put_u32(link_seq.0);
        out.put_u32(sent);
        horizon.put(out);
        out.put_u32(echo.stamp);
        out.put_u32(echo.arrived);
        out.put_u16(lateness);
        out.put_u32(settled.0);
        out.put_u8(runs.len() as u8);
        for run in runs {
            put_varint(out, *run);
        }
        out.put_u32(known.0);
        out.put_u16(known.1);
        out.put_u8(missing.len() as u8);
        for (skip, length) in missing {
            put_varint(out, *skip);
            put_varint(out, *length);
        }
    }
}

impl Probe {
    /// Writes a probe.
    pub fn put(&self, out: &mut BytesMut) {
        out.put_u8(VERSION << 4 | KIND_PROBE);
        out.put_u32(self.link_seq.0);
        out.put_u32(self.sent);
        self.horizon.put(out);
    }
}

impl PathProbe {
    /// Writes a path probe of `size` bytes, or the few that it needs where that is more, and returns how many.
    pub fn put(&self, out: &mut BytesMut, size: usize) -> usize {
        out.put_u8(VERSION << 4 | KIND_PATH);
        out.put_u8(self.answer.into());
        out.put_u32(self.token);
        out.put_bytes(0, size.saturating_sub(PATH_PREFIX));
        size.max(PATH_PREFIX)
    }
}

impl Horizon {
    fn put(self, out: &mut BytesMut) {
        out.put_u32(self.next_symbol);
        out.put_u16(self.kept);
    }
}

/// Numbers in seven-bit groups, lowest first (LEB128), checked when the frame was decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Varints<'a>(&'a [u8]);

impl Iterator for Varints<'_> {
    type Item = u32;
    fn next(&mut self) -> Option<u32> {
        let mut input = Reader(self.0);
        let number = input.varint().ok()?;
        self.0 = input.0;
        Some(number)
    }
}

fn decode_media(mut input: Reader<'_>) -> Result<Media<'_>, Malformed> {
    let media = Media { link_seq: LinkSeq(input.u32()?), symbol: input.u32()?, sent: input.u32()?, body: input.0 };
    Body::decode(media.body)?;
    Ok(media)
}

fn decode_repair(mut input: Reader<'_>) -> Result<Repair<'_>, Malformed> {
    let form = input.u8()?;
    if form > 0b11 {
        return Err(Malformed::Field("form"));
    }
    let (link_seq, sent, base, ahead) = (LinkSeq(input.u32()?), input.u32()?, input.u32()?, input.u16()?);
    let symbols = if form & 1 == 0 {
        let count = input.u8()?;
        if !(1..=MAX_SET).contains(&usize::from(count)) {
            return Err(Malformed::Field("set"));
        }
        let gaps = input.varints(usize::from(count) - 1, "gap")?;
        if gaps.into_iter().any(|gap| gap == 0 || gap > u32::from(u16::MAX)) {
            return Err(Malformed::Field("gap"));
        }
        Symbols::Set { base, gaps: gaps.0, count }
    } else {
        let count = input.u16()?;
        if !(1..=MAX_WINDOW).contains(&usize::from(count)) {
            return Err(Malformed::Field("window"));
        }
        Symbols::Window { base, count }
    };
    if input.0.len() < 2 + BODY_HEADER {
        return Err(Malformed::Truncated);
    }
    Ok(Repair { link_seq, sent, ahead_of_loss: form & 2 != 0, symbols, ahead, coded: input.0 })
}

fn decode_feedback(mut input: Reader<'_>) -> Result<Feedback<'_>, Malformed> {
    let (link_seq, sent) = (LinkSeq(input.u32()?), input.u32()?);
    let horizon = input.horizon()?;
    let echo = Echo { stamp: input.u32()?, arrived: input.u32()? };
    let (lateness, settled) = (input.u16()?, LinkSeq(input.u32()?));
    let count = usize::from(input.u8()?);
    if count > MAX_RUNS {
        return Err(Malformed::Field("runs"));
    }
    let runs = input.varints(count, "run")?;
    let (known_up_to, known_span) = (input.u32()?, input.u16()?);
    let count = usize::from(input.u8()?);
    if count > MAX_GAPS {
        return Err(Malformed::Field("missing"));
    }
    let missing = input.varints(2 * count, "missing")?;
    input.end()?;
    Ok(Feedback { link_seq, sent, horizon, echo, lateness, settled, runs, known_up_to, known_span, missing })
}

fn decode_probe(mut input: Reader<'_>) -> Result<Probe, Malformed> {
    let probe = Probe { link_seq: LinkSeq(input.u32()?), sent: input.u32()?, horizon: input.horizon()? };
    input.end()?;
    Ok(probe)
}

fn decode_path_probe(mut input: Reader<'_>) -> Result<PathProbe, Malformed> {
    let form = input.u8()?;
    if form > 1 {
        return Err(Malformed::Field("form"));
    }
    let probe = PathProbe { answer: form == 1, token: input.u32()? };
    if input.0.iter().any(|byte| *byte != 0) {
        return Err(Malformed::Field("padding"));
    }
    Ok(probe)
}

/// Bytes of a gap between two symbols of a set.
pub(crate) fn gap_len(gap: u64) -> usize {
    (u64::BITS - gap.leading_zeros()).max(1).div_ceil(7) as usize
}

fn put_varint(out: &mut BytesMut, mut number: u32) {
    while number >= 0x80 {
        out.put_u8(number as u8 | 0x80);
        number >>= 7;
    }
    out.put_u8(number as u8);
}

#[derive(Clone, Copy)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed::Truncated)?;
        self.0 = rest;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    fn horizon(&mut self) -> Result<Horizon, Malformed> {
        Ok(Horizon { next_symbol: self.u32()?, kept: self.u16()? })
    }

    fn varint(&mut self) -> Result<u32, Malformed> {
        let mut number = 0u32;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.u8()?;
            if shift == 28 && byte > 0x0f {
                break;
            }
            number |= u32::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(Malformed::Field("varint"))
    }

    fn varints(&mut self, count: usize, what: &'static str) -> Result<Varints<'a>, Malformed> {
        let start = self.0;
        for _ in 0..count {
            self.varint().map_err(|error| match error {
                Malformed::Truncated => error,
                _ => Malformed::Field(what),
            })?;
        }
        Ok(Varints(&start[..start.len() - self.0.len()]))
    }

    fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed::Field("trailing bytes")) }
    }
}

#[cfg(test)]
mod tests;
