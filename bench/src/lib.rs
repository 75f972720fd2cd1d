//! The simulator, the link emulator, the demo and the benches.
//!
//! | module | what it is | holds |
//! |---|---|---|
//! | `channel` | one direction of a path: delay, loss, rate, and the rest | pure |
//! | `emulator` | such paths between real sockets, without root | the shell |
//! | `rig` | a whole overlay in this process: relays, sources and sinks on threads of their own, emulated links between them | the shell |
//! | `overlay` | dissemination graphs on twelve sites through weeks of trouble | pure |
//! | `sim` | links in virtual time: one hop or a chain of them, from plans | pure, but for reading its plans |
//! | `realtime` | one sender and equal receivers about whatever carries datagrams over an emulated hop | the shell |
//! | `peers` | SRT, RIST and our own programs through the same emulated link | the shell |
//! | `bottleneck` | more offered than a link carries: shares, queue, drops by their reason | the shell |
//! | `cost` | what the code on the way of a packet costs, without sockets | pure, but for its clock and files |
//! | `load` | what a packet out costs a relay, beside other forwarders | the shell |
//! | `wire` | cases of the simulator with real programs over real sockets | the shell |
//! | `plan_file` | plans, read and checked | the shell |
//! | `demo`, `emulate`, `pacing` | subcommands of `anabranch-bench` | the shell |

pub mod bottleneck;
pub mod channel;
pub mod cli;
pub mod cost;
pub mod demo;
pub mod emulate;
pub mod emulator;
pub mod load;
pub mod media;
pub mod overlay;
pub mod pacing;
pub mod peers;
pub mod plan_file;
pub mod realtime;
pub mod rig;
pub mod sim;
pub mod tscheck;
pub mod wait;
pub mod wire;
