//! See `anabranch_tests::fuzz_relay::link_state`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| anabranch_tests::fuzz_relay::link_state(data));
