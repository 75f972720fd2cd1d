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

pub mod frame;
pub mod policy;
pub mod proof;
pub mod stats;
pub mod time;
pub mod units;

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
pub use units::Bitrate;
