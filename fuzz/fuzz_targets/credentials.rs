//! Hands the fuzzer's bytes to `dodai_fuzz::credentials`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dodai_fuzz::credentials::target(data));
