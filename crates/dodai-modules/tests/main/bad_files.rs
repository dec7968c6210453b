//! What a user is told about a file that is no module of this base.

use std::path::Path;
use std::sync::Arc;

use dodai_core::snapshot::ModuleSpec;
use dodai_modules::{Child, Compiler, HostOptions};

use crate::fixture::*;

fn binary(text: &str) -> Vec<u8> {
    wat::parse_str(text).expect("valid text")
}

fn files() -> Vec<(&'static str, Vec<u8>)> {
    let hello = hello();
    vec![
        ("empty", Vec::new()),
        ("an image", b"\x89PNG\r\n\x1a\n0123".to_vec()),
        ("text", b"(module)".to_vec()),
        ("compiled code", b"\x7fELF\x02\x01\x01".to_vec()),
        ("a core module", binary("(module)")),
        ("a later version", b"\0asm\x0e\0\x01\0".to_vec()),
        ("cut in the header", hello[..6].to_vec()),
        ("cut in the middle", hello[..hello.len() / 2].to_vec()),
        ("damaged inside", [&hello[..1000], &[0xff; 64][..], &hello[1064..]].concat()),
        ("without an entry", binary("(component)")),
        (
            "with an unknown import",
            binary(
                r#"(component (import "wasi:nn/graph@0.2.0" (instance)) (import "my:own/thing" (instance)))"#,
            ),
        ),
        (
            "with an empty 0.3 entry",
            binary(r#"(component (instance $i) (export "wasi:http/handler@0.3.0" (instance $i)))"#),
        ),
        (
            "built for a draft of 0.3",
            binary(r#"(component (import "wasi:http/types@0.3.0-rc-2026-01-06" (instance)))"#),
        ),
        (
            "with another type",
            binary(
                r#"(component (import "wasi:random/random@0.2.0" (instance (export "get-random-u64" (func (result string))))) (instance $i) (export "wasi:http/incoming-handler@0.2.0" (instance $i)))"#,
            ),
        ),
        (
            "with an empty entry",
            binary(r#"(component (instance $i) (export "wasi:http/incoming-handler@0.2.0" (instance $i)))"#),
        ),
    ]
}

async fn told(options: HostOptions) -> String {
    let host = dodai_modules::Host::open(options, &dodai_core::task::Tasks::new()).expect("a host");
    let world = Arc::new(World::default());
    let mut table = String::new();
    for (what, bytes) in files() {
        let artifact = host.artifacts().put(&bytes).expect("stored");
        let spec = ModuleSpec { artifact, ..spec() };
        let refused = host.install(new_instance(), app(), spec, world.seams()).await;
        let error = refused.err().unwrap_or_else(|| panic!("{what} was installed"));
        table.push_str(&format!("{what}:\n    {error}\n"));
    }
    host.shutdown(PATIENCE).await;
    table
}

#[tokio::test]
async fn bad_files_get_clear_errors_from_either_compiler() {
    let folder = tempfile::tempdir().expect("a folder");
    let in_process = told(HostOptions::new(folder.path().join("in"))).await;
    insta::assert_snapshot!(in_process);
    let child = Child::new(vec![compiler().into_os_string()]);
    let options =
        HostOptions { compiler: Compiler::Child(child), ..HostOptions::new(folder.path().join("child")) };
    assert_eq!(told(options).await, in_process);
}

/// The example that is the compiling child; cargo builds examples with the tests.
pub fn compiler() -> std::path::PathBuf {
    let tests = std::env::current_exe().expect("a path");
    let target = tests.parent().and_then(Path::parent).expect("target/<profile>/deps");
    let compiler = target.join("examples/compile");
    assert!(compiler.exists(), "{} is missing: run the tests with `cargo test`", compiler.display());
    compiler
}
