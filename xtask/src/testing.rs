//! `cargo xtask test`: what the tests need, then every test of the workspace.

use anyhow::Result;

use crate::packages;
use crate::process::Tool;
use crate::workspace::Workspace;

/// Runs all tests; `extra` goes to `cargo test` as it is (a filter, `-- --nocapture`, ...).
pub fn run(workspace: &Workspace, extra: &[String]) -> Result<()> {
    packages::ensure_tests(workspace)?;
    Tool::new("cargo", &workspace.root)
        .args(["test", "--workspace", "--locked", "--no-fail-fast"])
        .args(extra)
        // A new or changed snapshot is a failure to look at, never a file that a test run leaves behind.
        .env("INSTA_UPDATE", "no")
        .hint("read the first failing test above; run it alone with `cargo test -p CRATE NAME`")
        .run()
}
