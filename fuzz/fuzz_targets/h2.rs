//! Hands the fuzzer's bytes to `dodai_fuzz::h2`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dodai_fuzz::h2::target(data));
