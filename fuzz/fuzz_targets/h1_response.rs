//! Hands the fuzzer's bytes to `dodai_fuzz::h1_response`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dodai_fuzz::h1_response::target(data));
