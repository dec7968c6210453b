//! Compiles `proto/` without protoc.

use std::path::PathBuf;

use prost::Message as _;

/// From the folder of this crate, which is where cargo runs build scripts. Not `env!("CARGO_MANIFEST_DIR")`: a script
/// that was built for one clone is run for another when they share a target directory.
const ROOT: &str = "../../proto";

/// What an app and its base say to each other over gRPC.
const APPS: [&str; 6] = [
    "dapr/proto/runtime/v1/dapr.proto",
    "dapr/proto/runtime/v1/appcallback.proto",
    "google/rpc/error_details.proto",
    "google/rpc/status.proto",
    "grpc/health/v1/health.proto",
    "grpc/reflection/v1/reflection.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed={ROOT}");
    let files = protox::compile(["dodai/control/v1/control.proto"], [ROOT])?;
    tonic_prost_build::configure().build_transport(false).compile_fds(files)?;

    let files = protox::compile(APPS, [ROOT])?;
    #[expect(clippy::disallowed_methods, reason = "cargo tells build scripts so where to write")]
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    std::fs::write(out.join("apps.bin"), files.encode_to_vec())?;
    let all = tonic_prost_build::configure().build_transport(false).bytes(".").btree_map(".");
    all.include_file("apps.rs").compile_fds(files)?;
    Ok(())
}
