//! Hands the fuzzer's bytes to `dodai_fuzz::chunks`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dodai_fuzz::chunks::target(data));
