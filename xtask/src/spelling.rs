//! `cargo xtask typos`: the spelling checker, pinned by version and digest and kept in the cache.

use std::path::PathBuf;

use anyhow::Result;

use crate::packages;
use crate::process::Tool;
use crate::workspace::Workspace;

/// The version in `xtask/tools/typos.lock.txt`; the cache is keyed by it.
const VERSION: &str = "1.52.0";

pub fn run(workspace: &Workspace) -> Result<()> {
    let program = ensure(workspace)?;
    Tool::new(program, &workspace.root)
        .args(["--config", "typos.toml"])
        .hint("mend the word, or allow it in typos.toml with the reason")
        .run()
}

fn ensure(workspace: &Workspace) -> Result<PathBuf> {
    let home = workspace.tools().join(format!("typos-{VERSION}"));
    let program = home.join("bin/typos");
    if program.is_file() {
        return Ok(program);
    }
    packages::ensure_python_venv(workspace)?;
    Tool::new("python3", &workspace.root).args(["-m", "venv", "--clear"]).args([&home]).run()?;
    Tool::new(home.join("bin/python3"), &workspace.root)
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--require-hashes",
        ])
        .args(["--only-binary", ":all:", "-r", "xtask/tools/typos.lock.txt"])
        .hint("the checker comes from Python's package index: is it reachable?")
        .run()?;
    Ok(program)
}
