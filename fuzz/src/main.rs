//! The fuzzer: one program for all targets, since each would link the same code. `FUZZ_TARGET` names the one to run.
#![no_main]

use std::sync::LazyLock;

#[expect(clippy::disallowed_methods, reason = "libFuzzer owns the arguments; only the environment is left")]
static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let wanted = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let found = fuzz_targets::TARGETS.iter().find(|(name, _)| *name == wanted);
    found.unwrap_or_else(|| panic!("FUZZ_TARGET=`{wanted}` is no target; src/lib.rs lists them")).1
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET(data));
