//! `cargo xtask dist`: the binary that is shipped, laid out by what it does when it works (profile-guided optimisation).
//!
//! It is built twice. The first one counts which way each branch goes while the comparisons of `bench/` load it for a
//! few seconds each; the second one is compiled with these counts. See docs/adr/0017-profile-guided.md.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::packages;
use crate::process::{Tool, environment};
use crate::workspace::Workspace;

/// The comparisons whose loads make the profile.
const LOADS: &[&str] = &["hop", "tls", "h2", "mesh", "invoke", "daprd", "modules"];

/// Builds `target/dist/dodai` and says where it is.
pub fn run(workspace: &Workspace) -> Result<PathBuf> {
    let host = host(workspace)?;
    let merger = merger(workspace, &host)?;
    packages::ensure_benches(workspace)?;
    let folder = workspace.target.join("profile");
    let (counts, profile) = (folder.join("counts"), folder.join("dodai.profdata"));
    if counts.exists() {
        std::fs::remove_dir_all(&counts).with_context(|| format!("removing {}", counts.display()))?;
    }
    let counting = build(workspace, &host, &format!("-Cprofile-generate={}", counts.display()))?;
    for load in LOADS {
        Tool::new(workspace.root.join(format!("bench/{load}.py")), &workspace.root)
            .env("TRAINING", "1")
            .env("DODAI_BINARY", &counting)
            .hint("the script says what it did not get")
            .run()?;
    }
    merge(workspace, &merger, &counts, &profile)?;
    let built = build(workspace, &host, &format!("-Cprofile-use={}", profile.display()))?;
    let shipped = workspace.target.join("dist/dodai");
    std::fs::create_dir_all(workspace.target.join("dist")).context("making target/dist")?;
    std::fs::copy(&built, &shipped)
        .with_context(|| format!("copying {} to {}", built.display(), shipped.display()))?;
    println!("{}", shipped.display());
    Ok(shipped)
}

/// Builds with `flag` for everything but build scripts, which is why the target is named. Both builds must agree in all
/// else: cargo puts the settings of the profile into the names of functions, by which counts are found again.
fn build(workspace: &Workspace, host: &str, flag: &str) -> Result<PathBuf> {
    let flags = environment("RUSTFLAGS").map_or_else(|| flag.to_owned(), |given| format!("{given} {flag}"));
    Tool::new("cargo", &workspace.root)
        .args([
            "build",
            "--profile",
            "dist",
            "--locked",
            "--package",
            "dodai",
            "--bin",
            "dodai",
            "--target",
            host,
        ])
        .env("RUSTFLAGS", flags)
        .run()?;
    Ok(workspace.target.join(host).join("dist/dodai"))
}

fn merge(workspace: &Workspace, merger: &Path, counts: &Path, profile: &Path) -> Result<()> {
    if !counts.is_dir() {
        bail!(
            "no process has written counts into {}: did they end by a signal that cannot be caught?",
            counts.display()
        );
    }
    let output = [Path::new("merge"), Path::new("-o"), profile, counts];
    Tool::new(merger, &workspace.root).args(output).run()
}

/// The machine that this is built on, as Rust names it.
fn host(workspace: &Workspace) -> Result<String> {
    let told = Tool::new("rustc", &workspace.root).args(["-vV"]).output()?;
    let host = told.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("`rustc -vV` names no host")?.to_owned())
}

/// What adds counts up. It must be of the compiler's own version, so it comes with the toolchain.
fn merger(workspace: &Workspace, host: &str) -> Result<PathBuf> {
    let sysroot = Tool::new("rustc", &workspace.root).args(["--print", "sysroot"]).output()?;
    let path = Path::new(sysroot.trim()).join(format!("lib/rustlib/{host}/bin/llvm-profdata"));
    if !path.exists() {
        Tool::new("rustup", &workspace.root)
            .args(["component", "add", "llvm-tools"])
            .hint("llvm-profdata is needed; without it, `cargo build --profile dist` makes a binary that is some 5 % slower")
            .run()?;
    }
    if path.exists() { Ok(path) } else { bail!("the component llvm-tools has no {}", path.display()) }
}
