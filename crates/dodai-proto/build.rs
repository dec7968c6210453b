//! Compiles `proto/` without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto");
    println!("cargo::rerun-if-changed={root}");
    let files = protox::compile(["dodai/control/v1/control.proto"], [root])?;
    tonic_prost_build::configure().build_transport(false).compile_fds(files)?;
    Ok(())
}
