//! See `anabranch_tests::fuzz_ts::transport_stream`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| anabranch_tests::fuzz_ts::transport_stream(data));
