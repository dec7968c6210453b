//! Hands the fuzzer's bytes to `dodai_fuzz::template`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dodai_fuzz::template::target(data));
