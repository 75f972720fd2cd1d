//! Ingest, packetize; the program anabranch-source.
