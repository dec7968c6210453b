//! Hands the fuzzer's bytes to `dodai_fuzz::tokens`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dodai_fuzz::tokens::target(data));
