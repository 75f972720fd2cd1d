//! Playout, outputs; the program anabranch-sink.
