//! Hands the fuzzer's bytes to `dodai_fuzz::cel`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dodai_fuzz::cel::target(data));
