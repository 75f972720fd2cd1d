//! Forwarding by label, the directory, the operations port; the program anabranch-relay.
