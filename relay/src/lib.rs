//! The relay: forwarding by label, the directory of streams and links, the operations port; the program
//! `anabranch-relay`.
//!
//! | module | what it decides | holds |
//! |---|---|---|
//! | [`forward`] | where each packet goes, and until when it is worth repairing | pure |
//! | [`system`] | who may publish and watch what; what is said to whom | pure |
//! | [`directory`] | what this relay knows of the overlay and says of itself; the graphs of its streams | pure |
//! | [`events`] | what an operator is told of as it changes | pure |
//! | [`line`](mod@line) | the line test from one relay to another: what it is asked, and what it says | pure |
//! | [`sla`] | what each sink had of its streams, and where it lost | pure |
//! | [`view`] | what an operator is shown of the overlay and of the past of a link | pure |
//! | `server` | sockets, neighbours, signals, reports | the shell |
//! | [`overrides`] | what the operator sets of links while the relay runs, and where that is kept | a file |
//! | [`ops`] | the operations port | the shell |
//!
//! [`run`] is the whole program but its command line. It must be awaited on a [`tokio::runtime::LocalRuntime`],
//! so that one process can hold several relays, each on its own thread.

pub mod cli;
pub mod config;
pub mod directory;
pub mod events;
pub mod forward;
pub mod line;
pub mod metrics;
pub mod ops;
pub mod overrides;
pub mod report;
pub mod server;
pub mod sla;
pub mod system;
pub mod view;

pub use config::{Config, Identity, Limits, Location, Neighbour};
pub use report::Report;
pub use server::run;
