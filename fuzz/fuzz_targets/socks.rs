//! Hands the fuzzer's bytes to `dodai_fuzz::socks`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dodai_fuzz::socks::target(data));
