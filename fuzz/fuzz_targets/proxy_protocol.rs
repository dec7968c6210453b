//! Hands the fuzzer's bytes to `dodai_fuzz::proxy_protocol`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dodai_fuzz::proxy_protocol::target(data));
