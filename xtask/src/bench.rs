//! `cargo xtask bench`: runs the comparisons under `bench/`, one script each. Never part of CI: speed is not timed there.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use crate::process::Tool;
use crate::workspace::Workspace;

pub fn run(workspace: &Workspace, name: Option<&str>, extra: &[String]) -> Result<()> {
    let scripts = scripts(workspace)?;
    let chosen: Vec<&(String, PathBuf)> =
        scripts.iter().filter(|(script, _)| name.is_none_or(|name| name == script)).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = scripts.iter().map(|(name, _)| name.as_str()).collect();
        bail!("no such comparison; bench/ has: [{}]", names.join(", "));
    }
    for (_, script) in chosen {
        Tool::new(script, &workspace.root)
            .args(extra)
            .hint("the script's first lines say what it needs")
            .run()?;
    }
    Ok(())
}

/// Executable scripts directly under `bench/`, by name without ending.
fn scripts(workspace: &Workspace) -> Result<Vec<(String, PathBuf)>> {
    let folder = workspace.root.join("bench");
    let mut scripts = Vec::new();
    if !folder.is_dir() {
        return Ok(scripts);
    }
    for entry in std::fs::read_dir(&folder).context("reading bench/")? {
        let path = entry.context("reading bench/")?.path();
        let is_script = path.extension().is_some_and(|ending| ending == "sh" || ending == "py");
        if let Some(stem) = path.file_stem().filter(|_| is_script) {
            scripts.push((stem.to_string_lossy().into_owned(), path));
        }
    }
    scripts.sort();
    Ok(scripts)
}
