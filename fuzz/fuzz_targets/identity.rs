//! Hands the fuzzer's bytes to `dodai_fuzz::identity`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dodai_fuzz::identity::target(data));
