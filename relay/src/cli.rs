//! The command line of `anabranch-relay`.
