//! Hands the fuzzer's bytes to `dodai_fuzz::messages`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dodai_fuzz::messages::target(data));
