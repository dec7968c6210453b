//! Compiles `proto/` without protoc.

/// From the folder of this crate, which is where cargo runs build scripts. Not `env!("CARGO_MANIFEST_DIR")`: a script
/// that was built for one clone is run for another when they share a target directory.
const ROOT: &str = "../../proto";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed={ROOT}");
    let files = protox::compile(["dodai/control/v1/control.proto"], [ROOT])?;
    tonic_prost_build::configure().build_transport(false).compile_fds(files)?;
    Ok(())
}
