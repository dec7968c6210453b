//! `cargo xtask typos`: the spelling checker, pinned by version and digest and kept in the cache.

use anyhow::Result;

use crate::packages;
use crate::process::Tool;
use crate::workspace::Workspace;

/// The version in `xtask/tools/typos.lock.txt`; the cache is keyed by it.
const VERSION: &str = "1.52.0";

pub fn run(workspace: &Workspace) -> Result<()> {
    let program = packages::python_tool(workspace, "typos", VERSION)?;
    Tool::new(program, &workspace.root)
        .args(["--config", "typos.toml"])
        .hint("mend the word, or allow it in typos.toml with the reason")
        .run()
}
