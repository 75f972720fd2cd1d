//! The wire format of a link's datagrams.
