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

/// Where the toolchain links with its own LLD, which takes an order of functions; other linkers do not know the option.
const LLD: &str = "x86_64-unknown-linux-gnu";

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
    let counting = build(workspace, &host, &[format!("-Cprofile-generate={}", counts.display())])?;
    for load in LOADS {
        Tool::new(workspace.root.join(format!("bench/{load}.py")), &workspace.root)
            .env("TRAINING", "1")
            .env("DODAI_BINARY", &counting)
            .hint("the script says what it did not get")
            .run()?;
    }
    merge(workspace, &merger, &counts, &profile)?;
    let mut flags = vec![format!("-Cprofile-use={}", profile.display())];
    if host == LLD {
        let order = folder.join("order.txt");
        std::fs::write(&order, by_use(&shown(workspace, &merger, &profile)?))
            .with_context(|| format!("writing {}", order.display()))?;
        let order = format!("--symbol-ordering-file={},--no-warn-symbol-ordering", order.display());
        flags.push(format!("-Clink-arg=-Wl,{order}"));
    }
    let built = build(workspace, &host, &flags)?;
    let shipped = workspace.target.join("dist/dodai");
    std::fs::create_dir_all(workspace.target.join("dist")).context("making target/dist")?;
    std::fs::copy(&built, &shipped)
        .with_context(|| format!("copying {} to {}", built.display(), shipped.display()))?;
    println!("{}", shipped.display());
    Ok(shipped)
}

/// Builds with `flags` for everything but build scripts, which is why the target is named. Both builds must agree in all
/// else: cargo puts the settings of the profile into the names of functions, by which counts are found again.
fn build(workspace: &Workspace, host: &str, flags: &[String]) -> Result<PathBuf> {
    let flags: Vec<String> = environment("RUSTFLAGS").into_iter().chain(flags.iter().cloned()).collect();
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
        .env("RUSTFLAGS", flags.join(" "))
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

/// The counts of a profile as text.
fn shown(workspace: &Workspace, merger: &Path, profile: &Path) -> Result<String> {
    let asked = [Path::new("show"), Path::new("--all-functions"), Path::new("--counts"), profile];
    Tool::new(merger, &workspace.root).args(asked).output()
}

/// The functions that ran, those that ran most first, for the linker: what works together shares pages, and the pages that
/// only a start needs are not mapped beside those of every call.
///
/// `shown` names each function (`unit;` before the name of one that is not seen outside its unit), and then how often each
/// of its blocks ran.
fn by_use(shown: &str) -> String {
    let mut used: Vec<(u64, &str)> = Vec::new();
    let mut name = "";
    for line in shown.lines().map(str::trim) {
        if let Some(counts) = line.strip_prefix("Block counts: [") {
            let counts = counts.trim_end_matches(']').split(", ").filter_map(|count| count.parse().ok());
            used.extend(counts.max().filter(|&most| most > 0).map(|most| (most, name)));
        } else if let Some(of) = line.strip_suffix(':') {
            name = of.rsplit(';').next().unwrap_or(of);
        }
    }
    // Equal counts in the order of names, so that one profile makes one order.
    used.sort_by_key(|&(most, name)| (std::cmp::Reverse(most), name));
    used.iter().map(|(_, name)| format!("{name}\n")).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ran_most_comes_first_and_what_never_ran_not_at_all() {
        let shown = "\
Counters:
  _ZN1a1a17h0E:
    Hash: 0x0014
    Counters: 2
    Block counts: [0, 3]
  some.f62d-cgu.0;_ZN1b1b17h1E:
    Hash: 0x0ae1
    Counters: 3
    Block counts: [1, 70, 0]
  _ZN1c1c17h2E:
    Hash: 0x04a4
    Counters: 1
    Block counts: [0]
Total functions: 3
Maximum function count: 70
";
        assert_eq!(by_use(shown), "_ZN1b1b17h1E\n_ZN1a1a17h0E\n");
    }
}
