//! Hands the fuzzer's bytes to `dodai_fuzz::h1_request`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dodai_fuzz::h1_request::target(data));
