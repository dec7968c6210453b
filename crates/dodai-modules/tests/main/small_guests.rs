//! Guests that misbehave in ways that no compiler makes, written as text.

use std::sync::Arc;
use std::time::Duration;

use dodai_core::failure::Kind;
use dodai_core::snapshot::ModuleSpec;
use dodai_modules::{Error, Module};

use crate::fixture::*;

/// A component with the entry for calls; `core` is the body of its core module, which exports `handle`.
fn guest(core: &str) -> Vec<u8> {
    guest_beside("", core)
}

/// The same with more `parts` of the component beside it.
fn guest_beside(parts: &str, core: &str) -> Vec<u8> {
    let text = format!(
        r#"(component
            {parts}
            (import "wasi:http/types@0.2.0" (instance $types
                (export "incoming-request" (type (sub resource)))
                (export "response-outparam" (type (sub resource)))))
            (alias export $types "incoming-request" (type $request))
            (alias export $types "response-outparam" (type $out))
            (core module $code {core})
            (core instance $made (instantiate $code))
            (func $handle (param "request" (own $request)) (param "response-out" (own $out))
                (canon lift (core func $made "handle")))
            (instance $entry (export "handle" (func $handle)))
            (export "wasi:http/incoming-handler@0.2.0" (instance $entry)))"#
    );
    wat::parse_str(text).expect("valid text")
}

async fn install_text(core: &str, spec: ModuleSpec) -> Result<Arc<Module>, Error> {
    install_bytes(&guest(core), spec).await
}

async fn install_bytes(wasm: &[u8], spec: ModuleSpec) -> Result<Arc<Module>, Error> {
    let artifact = host().artifacts().put(wasm).expect("stored");
    let world = Arc::new(World::default());
    host().install(new_instance(), app(), ModuleSpec { artifact, ..spec }, world.seams()).await
}

#[tokio::test]
async fn a_guest_that_says_nothing_is_a_clear_failure() {
    let module =
        install_text(r#"(func (export "handle") (param i32 i32))"#, spec()).await.expect("installed");
    let failure = get(&module, "/").await.expect_err("no response");
    assert_eq!(failure.to_string(), "protocol: hello returned without a response");
    assert_eq!(failure.kind.http_status(), 502);
    assert_eq!(module.metrics().incomplete, 1);
}

#[tokio::test]
async fn a_guest_that_traps_names_the_trap() {
    let module = install_text(r#"(func (export "handle") (param i32 i32) unreachable)"#, spec()).await;
    let failure = get(&module.expect("installed"), "/").await.expect_err("a trap");
    assert_eq!(
        failure.to_string(),
        "trap: hello trapped: wasm trap: wasm `unreachable` instruction executed"
    );
}

#[tokio::test]
async fn a_guest_that_overflows_its_stack_hurts_nobody() {
    let core = r#"(func $deep (export "handle") (param i32 i32) (call $deep (i32.const 0) (i32.const 0)))"#;
    let module = install_text(core, spec()).await.expect("installed");
    let failure = get(&module, "/").await.expect_err("a trap");
    assert_eq!(failure.kind, Kind::Trap);
    assert!(failure.detail.contains("call stack exhausted"), "{failure}");
}

#[tokio::test]
async fn a_guest_that_never_starts_is_not_installed() {
    let core = r#"(func (export "handle") (param i32 i32)) (func $spin (loop (br 0))) (start $spin)"#;
    let short = ModuleSpec { cpu_time: Duration::from_millis(40), ..spec() };
    let error = install_text(core, short).await.err().expect("refused");
    assert_eq!(error.to_string(), "hello does not start: hello used more than 40ms of CPU time");
}

/// What a composed component is: `count` parts, each with a memory and a table of its own.
fn composed(count: usize) -> Vec<u8> {
    let part = "(core module $part (memory (export \"memory\") 1) (table 4 funcref))";
    let made: String =
        (0..count).map(|at| format!("(core instance $part{at} (instantiate $part))")).collect();
    guest_beside(&format!("{part}{made}"), r#"(memory 1) (func (export "handle") (param i32 i32))"#)
}

#[tokio::test]
async fn a_composed_component_has_several_memories() {
    // The last two do not fit the pool: they are allocated on demand.
    for count in [1, 5, 20, 100] {
        let module = install_bytes(&composed(count), spec()).await.unwrap_or_else(|error| {
            panic!("{count} parts: {error}");
        });
        let failure = get(&module, "/").await.expect_err("no response");
        assert_eq!(failure.to_string(), "protocol: hello returned without a response");
        assert_eq!(module.metrics().memory_peak, (count as u64 + 1) << 16);
        assert_eq!(module.drain(PATIENCE).await.cut, 0);
        assert_eq!(module.metrics().instances, 0);
    }
    assert!(host().engine().is_pooled());
}

#[tokio::test]
async fn the_limits_hold_for_what_does_not_fit_the_pool() {
    let parts = "(core module $part (memory (export \"memory\") 1))".to_owned()
        + &(0..20).map(|at| format!("(core instance $part{at} (instantiate $part))")).collect::<String>();
    let spin = r#"(func (export "handle") (param i32 i32) (loop (br 0)))"#;
    let short = ModuleSpec { cpu_time: Duration::from_millis(40), ..spec() };
    let module = install_bytes(&guest_beside(&parts, spin), short).await.expect("installed");
    let failure = get(&module, "/").await.expect_err("too long");
    assert_eq!(failure.to_string(), "quota: hello used more than 40ms of CPU time");
    let small = ModuleSpec { memory: 10 << 16, ..spec() };
    let error = install_bytes(&guest_beside(&parts, spin), small).await.err().expect("refused");
    assert_eq!(error.to_string(), "hello does not start: hello used more than 640 KiB");
}

/// A guest that makes `count` lists of fields and gives none back.
fn hoarding(count: u32) -> Vec<u8> {
    let text = format!(
        r#"(component
            (import "wasi:http/types@0.2.0" (instance $types
                (export "incoming-request" (type (sub resource)))
                (export "response-outparam" (type (sub resource)))
                (export "fields" (type $fields (sub resource)))
                (export "[constructor]fields" (func (result (own $fields))))))
            (alias export $types "incoming-request" (type $request))
            (alias export $types "response-outparam" (type $out))
            (core func $make (canon lower (func $types "[constructor]fields")))
            (core module $code
                (import "host" "make" (func $make (result i32)))
                (func (export "handle") (param i32 i32)
                    (local $left i32)
                    (local.set $left (i32.const {count}))
                    (loop $again
                        (drop (call $make))
                        (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))))
            (core instance $made (instantiate $code
                (with "host" (instance (export "make" (func $make))))))
            (func $handle (param "request" (own $request)) (param "response-out" (own $out))
                (canon lift (core func $made "handle")))
            (instance $entry (export "handle" (func $handle)))
            (export "wasi:http/incoming-handler@0.2.0" (instance $entry)))"#
    );
    wat::parse_str(text).expect("valid text")
}

#[tokio::test]
async fn a_guest_holds_so_many_handles_and_no_more() {
    // The request and the place for its response are the first two.
    let module = install_bytes(&hoarding(9_998), spec()).await.expect("installed");
    let failure = get(&module, "/").await.expect_err("no response");
    assert_eq!(failure.to_string(), "protocol: hello returned without a response");
    let module = install_bytes(&hoarding(9_999), spec()).await.expect("installed");
    let failure = get(&module, "/").await.expect_err("too many");
    let told = "quota: hello held 10000 handles (bodies, streams, fields, buckets) at once";
    assert_eq!(failure.to_string(), told);
}
