//! Hands the fuzzer's bytes to `dodai_fuzz::event`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dodai_fuzz::event::target(data));
