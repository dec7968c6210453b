//! Hands the fuzzer's bytes to `dodai_fuzz::line_format`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dodai_fuzz::line_format::target(data));
