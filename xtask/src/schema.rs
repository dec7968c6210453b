//! `cargo xtask schema`: the JSON schemas of all documents, written or compared.
//!
//! The work is in `xtask/examples/schema.rs`, which links `dodai-api`; this binary does not, so that it still builds
//! when that crate does not.

use anyhow::Result;

use crate::ci::Outcome;
use crate::process::Tool;
use crate::workspace::Workspace;

#[derive(Clone, Copy)]
pub enum Mode {
    Write,
    Check,
}

pub fn run(workspace: &Workspace, mode: Mode) -> Result<()> {
    let word = match mode {
        Mode::Write => "write",
        Mode::Check => "check",
    };
    Tool::new("cargo", &workspace.root)
        .args([
            "run",
            "--quiet",
            "--locked",
            "--package",
            "xtask",
            "--example",
            "schema",
            "--",
            word,
            "schema",
        ])
        .hint("`cargo xtask schema` writes the files anew; look at the difference and commit it")
        .run()
}

pub fn check(workspace: &Workspace) -> Result<Outcome> {
    run(workspace, Mode::Check).map(|()| Outcome::Passed)
}
