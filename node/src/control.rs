//! Control messages: what neighbours tell each other on the reliable stream of a link.
//!
//! A message is a length (u32, big endian, at most [`MAX_MESSAGE`]) and a postcard encoding of [`Control`]. Postcard
//! numbers the variants: only append, never reorder; the same holds for the fields of a message, where a newer minor version
//! appends: what follows the fields this build knows is ignored. Decoding never panics, whatever the bytes, and what it
//! allocates is bounded: a small multiple of the message's size, and a mebibyte on the way to finding a length that lies.

use crate::trust::Role;
use serde::{Deserialize, Serialize};
use std::fmt;
use topology::lsdb::{Advertisement, Incarnation, TroubleReport};
use topology::terms::Need;
use topology::{LinkEnd, LinkName, NodeName, StreamName};

/// Most bytes of one message.
pub const MAX_MESSAGE: usize = 256 * 1024;

/// The protocol this build speaks. Peers of the same major version understand each other.
pub const VERSION: Version = Version { major: 1, minor: 4 };

/// A feature of [`Hello`]: understands [`Control::Receipt`], [`Control::Whence`] and [`Control::Lost`], which are sent to no other.
pub const RECEIPTS: u64 = 1;

/// A feature of [`Hello`]: understands [`Control::Survey`] and [`Control::Surveyed`], which are sent to no other.
pub const SURVEYS: u64 = 2;

/// A feature of [`Hello`]: understands [`Control::Tokens`] and [`Control::Renewed`], which are sent to no other.
pub const TOKENS: u64 = 4;

/// A feature of [`Hello`]: understands links by their names, of which there may be several between two relays. To a relay that does not, only
/// the one without a name is kept.
pub const NAMED_LINKS: u64 = 8;

/// A protocol version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Another major version is refused.
    pub major: u16,
    /// A newer minor version adds, never changes.
    pub minor: u16,
}

/// A message between neighbours.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Control {
    /// First message of the dialling end.
    Hello(Hello),
    /// First message of the answering end.
    Welcome(Welcome),
    /// Instead of a welcome, or before closing: why not.
    Refused(Refusal),

    /// Source → relay: I publish this.
    Publish(Publish),
    /// Relay → source: go on, under this handle.
    Published {
        /// Which stream.
        name: StreamName,
        /// The handle for media on this link.
        handle: u16,
    },
    /// Source → relay: no more of it.
    Unpublish {
        /// Which stream.
        name: StreamName,
    },
    /// Sink → relay: I want this.
    Subscribe {
        /// Which stream.
        name: StreamName,
    },
    /// Relay → sink: the wish is known; media follows when the stream is there ([`Control::StreamOpen`]).
    Subscribed {
        /// Which stream.
        name: StreamName,
        /// Whether the overlay has the stream now.
        live: bool,
    },
    /// Sink → relay: no longer wanted.
    Unsubscribe {
        /// Which stream.
        name: StreamName,
    },
    /// Relay → source or sink: this stream is refused, the others are not.
    StreamRefused {
        /// Which stream.
        name: StreamName,
        /// Why.
        refusal: Refusal,
    },

    /// Sender of media → receiver: from now on this handle means this stream.
    StreamOpen(StreamOpen),
    /// Sender of media → receiver: the handle is free again.
    StreamClose {
        /// The handle.
        handle: u16,
        /// Whether the stream ended, or only its way changed.
        ended: bool,
    },

    /// Relay → relay: link state, its own or passed on.
    Advertise(Advertisement),
    /// Relay → relay: a dissemination graph, from the ingress down its own edges.
    Install(Install),
    /// Before closing in good order.
    Goodbye {
        /// Why.
        reason: String,
    },
    /// Relay → source: bare transit from here to the farthest sink of the stream, so that the first hop does not spend on
    /// repair what the others need. Zero where it is not known.
    Rest {
        /// Which stream.
        name: StreamName,
        /// The transit in microseconds.
        rest_us: u32,
    },
    /// Relay → relay: links in trouble, flooded. Since 1.1.
    Trouble(TroubleReport),
    /// Relay → relay, against the direction of the media: send again what I lack. Since 1.1.
    Pull(Pull),
    /// Relay → relay: an `Advertise`, `Trouble` or `Install`, signed by the relay that says it and passed on as it is.
    /// Since 1.1.
    Signed(Signed),
    /// Sink → relay: what became of a stream since the last receipt. Since 1.2.
    Receipt(Receipt),
    /// Relay → relay, against the direction of the media: on which hop was this lost? Since 1.2.
    Whence(Whence),
    /// Relay → relay, the answer to a `Whence`, or to a part of it. Since 1.2.
    Lost(Lost),
    /// Relay → relay, along the graph of a stream: how is it where you are, and below? Since 1.3.
    Survey(Survey),
    /// Relay → relay, the answer of one relay to a `Survey`, passed back the way it came. Since 1.3.
    Surveyed(Surveyed),
    /// Dialler → answerer: these tokens in place of those of the hello. Since 1.3.
    Tokens {
        /// In their text form.
        tokens: Vec<String>,
    },
    /// The answer to `Tokens`. Since 1.3.
    Renewed {
        /// Why those before stay, where one of the new ones does not hold.
        refusal: Option<Refusal>,
    },
}

/// Who dials, and what it brings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// What it speaks.
    pub version: Version,
    /// Optional features it has, by bit.
    pub features: u64,
    /// What it is.
    pub role: Role,
    /// Tokens, in their text form.
    pub tokens: Vec<String>,
    /// The program and its version, for the logs.
    pub agent: String,
    /// Between relays: which of the links that join them this is; `None` is the one without a name. Since 1.4.
    #[serde(default, deserialize_with = "appended_name")]
    pub link: Option<LinkName>,
}

/// The answer to a [`Hello`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Welcome {
    /// What it speaks.
    pub version: Version,
    /// Features both have.
    pub features: u64,
    /// Who answers.
    pub name: NodeName,
    /// The program and its version, for the logs.
    pub agent: String,
}

/// What a source says of its stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Publish {
    /// Its name.
    pub name: StreamName,
    /// Its life; the same when the source reconnects without having stopped.
    pub incarnation: Incarnation,
    /// One-way deadline in microseconds.
    pub deadline_us: u32,
    /// Before others where there is too much.
    pub high_priority: bool,
    /// How it shall be spread.
    pub mode: Dissemination,
    /// What it carries; of a sealed stream [`Content::Datagrams`], for that is all that anybody on the way can see.
    pub content: Content,
    /// Whether its payloads are sealed from source to sink ([`crate::payload`]). Since 1.2.
    #[serde(default, deserialize_with = "appended")]
    pub sealed: bool,
    /// What else its source asks for. Since 1.3.
    #[serde(default, deserialize_with = "appended")]
    pub wants: Wants,
}

/// What a source asks for beyond deadline, priority and mode. Nothing of it is more than its token and the operator allow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wants {
    /// The highest rate of its payloads in kilobits per second: links are asked for so much, and it is held to it. 0: what
    /// its token allows.
    pub rate_kbps: u32,
    /// At most so many links a packet, in hundredths of those of the cheapest tree; 0: no ceiling.
    pub max_cost: u16,
    /// What share of its packets each hop may leave missing, in parts per billion; 0: what each link's own policy says.
    pub target_ppb: u32,
}

/// How a stream is spread over the overlay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dissemination {
    /// The overlay chooses.
    #[default]
    Auto,
    /// One shortest-path tree.
    Tree,
    /// Two node-disjoint ways to every egress.
    Disjoint,
    /// Two node-disjoint ways, and more where there is trouble. Since 1.1.
    Targeted,
    /// Every link by which a packet can be in time. Since 1.1.
    Flood,
}

/// What a stream carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Content {
    /// Datagrams, boundaries kept, content unread.
    #[default]
    Datagrams,
    /// MPEG transport stream: every payload a whole number of 188-byte packets, but for what its input had damaged.
    Ts,
}

/// A stream at the start of its media on a link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StreamOpen {
    /// The handle for media on this link and direction.
    pub handle: u16,
    /// Its name.
    pub name: StreamName,
    /// Its life.
    pub incarnation: Incarnation,
    /// The relay its source publishes at.
    pub ingress: NodeName,
    /// One-way deadline in microseconds.
    pub deadline_us: u32,
    /// What it carries.
    pub content: Content,
    /// Whether its payloads are sealed from source to sink. Since 1.2; a relay of 1.1 does not pass it on.
    #[serde(default, deserialize_with = "appended")]
    pub sealed: bool,
    /// What share of its packets each hop may leave missing, in parts per billion; 0: what each link's own policy says. Since 1.3.
    #[serde(default, deserialize_with = "appended")]
    pub target_ppb: u32,
}

/// The graphs of one stream, computed by its ingress. Modules are sets of directed edges; the label of a packet names
/// the epoch and the modules on whose union it travels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Install {
    /// Which stream.
    pub name: StreamName,
    /// Its life.
    pub incarnation: Incarnation,
    /// The relay that computed it.
    pub ingress: NodeName,
    /// The boot of the ingress, as in its advertisement: epochs of a later boot replace all of an earlier one.
    pub boot: u64,
    /// Counts up with every new computation within a boot.
    pub epoch: u16,
    /// One-way deadline in microseconds.
    pub deadline_us: u32,
    /// What the stream carries.
    pub content: Content,
    /// Module `i` is bit `i` of a label's module set.
    pub modules: Vec<Module>,
    /// Whether the stream's payloads are sealed from source to sink. Since 1.2.
    #[serde(default, deserialize_with = "appended")]
    pub sealed: bool,
    /// What the stream needs of the links. Since 1.3.
    #[serde(default, deserialize_with = "appended")]
    pub reserve: Reserve,
    /// What share of its packets each hop may leave missing, in parts per billion; 0: what each link's own policy says. Since 1.3.
    #[serde(default, deserialize_with = "appended")]
    pub target_ppb: u32,
}

/// What a stream needs of links, and of which.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserve {
    /// Of each.
    pub need: Need,
    /// The modules whose edges they are, by bit: those on which packets travel while nothing is wrong.
    pub modules: u16,
}

/// A field at the end of a message that a peer of an older minor version does not send.
fn appended<'de, T: Deserialize<'de> + Default, D: serde::Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    Ok(T::deserialize(from).unwrap_or_default())
}

/// As [`appended`]; but what is there and is no name is an error: it must not be taken for the link without one.
fn appended_name<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<LinkName>, D::Error> {
    let text: Option<String> = appended(from)?;
    text.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
}

/// One module of a graph.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Module {
    /// Its edges.
    pub edges: Vec<Edge>,
}

/// One directed edge of a module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edge {
    /// The relay that sends.
    pub from: NodeName,
    /// The relay that receives, and over which link where several join the two.
    pub to: LinkEnd,
    /// Bare transit from `to` on to the nearest egress below, its last mile included, in microseconds.
    pub rest_min_us: u32,
    /// The same to the farthest egress.
    pub rest_max_us: u32,
}

impl Edge {
    /// The link as the receiving relay calls it.
    pub fn at_receiver(&self) -> LinkEnd {
        self.to.from_other_end(&self.from)
    }
}

/// A statement of a relay, signed ([`crate::trust::Seal`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    /// The encoded message.
    pub body: Vec<u8>,
    /// The relay's certificate, in DER.
    pub certificate: Vec<u8>,
    /// Ed25519 signature (RFC 8032) of a text that names its purpose, and the body.
    pub signature: Vec<u8>,
}

/// What a relay lacks of a stream. Who holds it sends it; who does not asks on, and passes it on when it comes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pull {
    /// The handle under which the asked relay sends the stream to the asking one.
    pub handle: u16,
    /// All that is newer than this number, now and for a while: nothing comes any more.
    pub after: Option<u32>,
    /// Numbers that are missing in between: the first of a run, and how many.
    pub missing: Vec<(u32, u16)>,
    /// How many more relays may ask on, in the low seven bits. The highest: along all ways of the graphs around ingress and egresses, not
    /// along the two disjoint ways alone.
    pub hops: u8,
}

/// What became of a stream at a sink since its last receipt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Which stream.
    pub name: StreamName,
    /// The life that `missed` is about.
    pub incarnation: Incarnation,
    /// Packets released on time.
    pub on_time: u64,
    /// Packets that came too late.
    pub late: u64,
    /// Packets passed over that have not come; less than nothing where more of them came late after all.
    pub missing: i64,
    /// Packets dropped because the buffer was full.
    pub overflow: u64,
    /// Of those missing, the numbers of as many as fit: the first of a run, and how many.
    pub missed: Vec<(u32, u16)>,
    /// How old packets were when they came first, late ones too: by class of [`crate::ages`], and how many. Since 1.3.
    #[serde(default, deserialize_with = "appended")]
    pub ages: Vec<(u8, u32)>,
}

/// On which hop were these packets lost? Who had them answers that it was the hop to the asker; who had not asks on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whence {
    /// The asker's, for the answers.
    pub id: u32,
    /// The handle under which the asked relay sends the stream to the asking one.
    pub handle: u16,
    /// Numbers: the first of a run, and how many.
    pub missing: Vec<(u32, u16)>,
    /// How many more relays may ask on.
    pub hops: u8,
}

/// On which hop packets were lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// As the question has it.
    pub id: u32,
    /// Numbers: the first of a run, and how many.
    pub missing: Vec<(u32, u16)>,
    /// The last node on the way that had them and the first that had not; `None` where it cannot be told.
    pub hop: Option<(NodeName, LinkEnd)>,
}

/// How is a stream at each relay of its graph? Each answers for itself, and asks the relays below.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survey {
    /// The asker's, for the answers.
    pub id: u32,
    /// Who began to ask; with `id`, the same question come by two ways is known.
    pub asker: NodeName,
    /// Which stream.
    pub name: StreamName,
    /// Its life.
    pub incarnation: Incarnation,
    /// How many more relays may ask on.
    pub hops: u8,
}

/// How a stream is at one relay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Surveyed {
    /// As the question has it.
    pub id: u32,
    /// As the question has it.
    pub asker: NodeName,
    /// The relay that answers.
    pub relay: NodeName,
    /// Each way by which the stream comes to it.
    pub hops: Vec<HopState>,
}

/// How a stream comes over one hop, as the receiving relay has measured it; times in microseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HopState {
    /// Who sends, a relay or the source, and over which link where several join the two.
    pub from: LinkEnd,
    /// One-way delay, bare transit.
    pub transit_us: u32,
    /// Half-width of the interval that holds it for certain.
    pub bound_us: u32,
    /// Share of transmissions lost on the wire over some seconds, in parts per million.
    pub loss_ppm: u32,
    /// Packets of the stream that came over the hop, since it comes that way.
    pub received: u64,
    /// Of these, brought by repair.
    pub repaired: u64,
    /// Of these, copies of what had come another way.
    pub duplicates: u64,
    /// Of these, after the deadline.
    pub late: u64,
    /// Of the packets of the last two seconds that came here first over this hop: their age on arrival, median and largest.
    /// `None` where there was none.
    pub age_us: Option<(u32, u32)>,
}

/// Why something was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// For programs.
    pub code: CloseCode,
    /// For people: what, where, and what was expected.
    pub reason: String,
}

/// Reasons, as QUIC application error codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CloseCode {
    /// Closed in good order.
    Done,
    /// The protocol version is not served.
    Version,
    /// No certificate or token that this node accepts.
    Unauthenticated,
    /// The token has expired.
    Expired,
    /// The token or role does not allow this.
    Forbidden,
    /// No such stream.
    UnknownStream,
    /// Another source publishes under this name.
    NameTaken,
    /// A message that the protocol does not allow here.
    Protocol,
    /// A bound was reached.
    Overload,
    /// The same peer connected again; the older connection gives way.
    Replaced,
    /// The node is stopping.
    Stopping,
    /// The connection was lost.
    Lost,
}

/// Why bytes are no message, or a message does not become bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// It is larger than [`MAX_MESSAGE`].
    #[error("a control message of {size} bytes; at most {MAX_MESSAGE} are allowed")]
    TooLarge {
        /// Bytes announced or needed.
        size: usize,
    },
    /// The bytes are no encoding of a message.
    #[error("not a control message: {0}")]
    Malformed(#[from] postcard::Error),
}

/// Decodes the body of one message: what follows its length. Bytes beyond the last known field are ignored.
pub fn decode(body: &[u8]) -> Result<Control, CodecError> {
    if body.len() > MAX_MESSAGE {
        return Err(CodecError::TooLarge { size: body.len() });
    }
    Ok(postcard::from_bytes(body)?)
}

/// Appends a message, its length first, to `out`. On an error `out` is as it was.
pub fn encode(message: &Control, out: &mut Vec<u8>) -> Result<(), CodecError> {
    let start = out.len();
    out.extend_from_slice(&[0; LENGTH]);
    let encoded = postcard::to_extend(message, Appender(out)).map(drop);
    let size = out.len() - start - LENGTH;
    let result = match encoded {
        Ok(()) if size <= MAX_MESSAGE => Ok(()),
        Ok(()) => Err(CodecError::TooLarge { size }),
        Err(error) => Err(error.into()),
    };
    match result {
        // The bound on a message fits four bytes.
        Ok(()) => out[start..start + LENGTH].copy_from_slice(&(size as u32).to_be_bytes()),
        Err(_) => out.truncate(start),
    }
    result
}

/// Bytes that [`encode`] would append.
pub fn encoded_size(message: &Control) -> Result<usize, CodecError> {
    let size = postcard::experimental::serialized_size(message)?;
    if size > MAX_MESSAGE { Err(CodecError::TooLarge { size }) } else { Ok(size + LENGTH) }
}

/// The size of the body that a message's first four bytes announce.
pub fn body_size(length: [u8; LENGTH]) -> Result<usize, CodecError> {
    let size = u32::from_be_bytes(length) as usize;
    if size > MAX_MESSAGE { Err(CodecError::TooLarge { size }) } else { Ok(size) }
}

/// The version that a [`Hello`] or [`Welcome`] begins with, even where another major version has changed the rest.
pub fn peek_version(body: &[u8]) -> Option<Version> {
    let (variant, version) = postcard::from_bytes::<(u32, Version)>(body).ok()?;
    (variant <= 1).then_some(version)
}

/// Bytes of the length before each message.
pub const LENGTH: usize = 4;

/// Lets postcard append to a borrowed buffer.
struct Appender<'a>(&'a mut Vec<u8>);

impl Extend<u8> for Appender<'_> {
    fn extend<T: IntoIterator<Item = u8>>(&mut self, bytes: T) {
        self.0.extend(bytes);
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl CloseCode {
    /// Every code with its number on the wire.
    const NUMBERS: [(CloseCode, u32); 12] = [
        (CloseCode::Done, 0),
        (CloseCode::Version, 1),
        (CloseCode::Unauthenticated, 2),
        (CloseCode::Expired, 3),
        (CloseCode::Forbidden, 4),
        (CloseCode::UnknownStream, 5),
        (CloseCode::NameTaken, 6),
        (CloseCode::Protocol, 7),
        (CloseCode::Overload, 8),
        (CloseCode::Replaced, 9),
        (CloseCode::Stopping, 10),
        (CloseCode::Lost, 11),
    ];

    /// What it is called in metrics and reports.
    pub fn name(self) -> &'static str {
        match self {
            CloseCode::Done => "done",
            CloseCode::Version => "version",
            CloseCode::Unauthenticated => "unauthenticated",
            CloseCode::Expired => "expired",
            CloseCode::Forbidden => "forbidden",
            CloseCode::UnknownStream => "unknown_stream",
            CloseCode::NameTaken => "name_taken",
            CloseCode::Protocol => "protocol",
            CloseCode::Overload => "overload",
            CloseCode::Replaced => "replaced",
            CloseCode::Stopping => "stopping",
            CloseCode::Lost => "lost",
        }
    }

    /// The QUIC application error code.
    pub fn to_wire(self) -> u32 {
        CloseCode::NUMBERS.iter().find(|(code, _)| *code == self).map_or(7, |(_, number)| *number)
    }

    /// The reason behind a QUIC application error code; one that this build does not know is a breach of protocol.
    pub fn from_wire(number: u64) -> CloseCode {
        CloseCode::NUMBERS.iter().find(|(_, n)| u64::from(*n) == number).map_or(CloseCode::Protocol, |(code, _)| *code)
    }
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
