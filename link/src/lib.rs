//! One hop of the overlay, as a pure state machine.
//!
//! A [`Link`] is one end of the connection between two neighbours. It numbers what it sends, tells the other
//! end what arrived, repairs what did not, and measures the path while doing so. It holds no socket, task, clock, thread
//! or global: time, bytes and the seed of its random generator come in as arguments, and what is to be done comes out as
//! return values.
//!
//! # The run loop
//!
//! 1. Feed one thing: [`Link::send`], [`Link::handle_datagram`] or [`Link::handle_timeout`].
//! 2. Drain to quiet: [`Link::poll_delivery`] until `None`, then [`Link::poll_transmit`] until `None`.
//! 3. Sleep until [`Link::poll_timeout`], or until there is something to feed.
//!
//! # How a loss is repaired
//!
//! *Spend redundancy ahead of loss only on the last transmission that feedback can no longer correct; earlier rounds carry one plain
//! copy.* Each transmission has a number ([`LinkSeq`]), repairs too, so a loss shows at the next one. The receiver reports at
//! once on a gap, every few milliseconds while something is missing, and otherwise as a share of what it receives allows. The
//! sender decides everything. Notation, with times in seconds and shares from 0 to 1:
//!
//! | | |
//! |---|---|
//! | p | share of our transmissions lost, rounded up by a standard error |
//! | c(τ) | share lost among transmissions sent τ after a lost one, counted from the reports at 14 distances from 1 to 110 ms |
//! | σ | the smallest τ with c(τ) ≤ 1.5 p: the spacing beyond a burst |
//! | L | time left until the last useful moment to send: the deadline less transit and a reserve for jitter |
//! | T | a turn of feedback: round trip, jitter, the time until the next transmission shows the loss, 1 ms |
//! | ε | misses allowed among packets at their last chance: the target over the share of packets that come to it |
//!
//! A loss reported with L left is answered by one copy where another turn is worth waiting for, and for the last time otherwise:
//! whichever costs less in copies, a miss costing 1/ε. Last answers are random linear combinations over GF(256) of *all* losses
//! that are at their last answer, at even distances over the time there is. How many it takes is computed
//! from what may have arrived so far, with losses as a two-state chain of step c (Gilbert 1960). A packet that has no time even for one
//! answer joins them when it is first sent; where many are so (a quarter), a sliding window code covers all packets that still have
//! time, at an overhead fitted to simulations. A packet of which nothing is heard is sent up to four times more before its last moment
//! (the fail-safe copies), for reports may be lost as well.
//!
//! A loss shows only when something is sent after it, and a burst of packets ends only by what is sent. So while the peer is not known
//! to have what was sent last, probes follow it: the first after 1 ms (or 5/4 of the interval between packets), each gap 1.2 times the one
//! before; on a path without loss after 3 ms, doubling. They carry how much is still unacknowledged, so the report that said
//! otherwise is repeated if it was lost. Where nothing is lost either way, reports come every 20 ms unless a probe asks, and the first probe
//! has a quarter of the time in which a loss can still be mended, 25 ms at most.
//!
//! # What a path can carry
//!
//! Where nobody says it, the capacity is estimated from delay and from what arrives (the module `capacity` has the law): random loss and
//! jitter never slow a link; a queue of its own does until it has drained; one that others fill (TCP) does not, but holds the repair of
//! [`policy::RepairMode::Auto`] to a tenth of the media. While a rate is in force, high priority goes first, streams of a priority take turns,
//! and where a stream's queue stands its head is dropped, so that what is sent still has time to be repaired.
//!
//! The estimates begin from a path that loses 5 % in bursts of 2.5, so that the first packets are repaired as on a bad path.
//!
//! Sources: feedback that numbers every transmission, as QUIC (RFC 9002, section 2); round trips after RFC 6298; deficit round robin
//! of streams (Shreedhar and Varghese 1995); queues kept short from the head (RFC 8289, RFC 8290); increase and decrease of the estimated capacity (Chiu and Jain 1989);
//! delay that means nothing beside flows that fill the queue (Arun and Balakrishnan 2018).
//!
//! # What can go wrong
//!
//! [`SendError`] says why a packet was not taken; what was taken and is dropped before it is sent is counted with
//! its reason in [`stats::LinkStats`]. Datagrams that are no frames are counted and change nothing. Memory is bounded by
//! [`LinkConfig::max_history`] in each direction and by fixed tables; what a peer can make this end do, by allowances that time and media earn
//! (the module `allowance`): symbols that show as missing, work of the decoder, symbols looked through for a report.

pub mod frame;
pub mod policy;
pub mod proof;
pub mod stats;
pub mod time;
pub mod units;

mod allowance;
mod arrivals;
mod capacity;
pub mod codec;
mod endpoint;
mod history;
mod ids;
mod pacer;
mod path;
mod plan;
mod queue;
mod receiver;
mod sender;
mod seq;
mod symbols;
mod timing;

pub use endpoint::{Delivery, Link, LinkConfig, Packet, Recovery, SendError, TimeoutReason};
pub use ids::{Flags, Label, LinkSeq, MediaTime, StreamHandle, StreamSeq};
pub use time::Instant;
pub use units::{Bitrate, Residual};
