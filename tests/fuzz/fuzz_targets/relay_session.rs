//! See `anabranch_tests::fuzz_relay::relay_session`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| anabranch_tests::fuzz_relay::relay_session(data));
