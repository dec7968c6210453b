//! `cargo xtask bench`: builds what is measured and runs the comparisons under `bench/`, one script each, in turn.
//! Never part of CI: speed is not timed there.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use crate::dist;
use crate::packages;
use crate::process::{Tool, environment};
use crate::workspace::Workspace;

/// How much is measured.
#[derive(Clone, Copy, PartialEq)]
pub enum Length {
    /// What is written down: several rounds.
    Full,
    /// One short round each, to see that everything still runs.
    Quick,
}

/// A program that a comparison needs beside the product: an example of a crate.
const EXAMPLES: &[(&str, &str, &str)] =
    &[("activation", "dodai-base", "activation"), ("routes", "dodai-dataplane", "routes")];

/// Parts of the scripts, not comparisons.
const PARTS: &[&str] = &["harness", "management"];

pub fn run(workspace: &Workspace, names: &[String], length: Length, extra: &[String]) -> Result<()> {
    let scripts = scripts(workspace)?;
    if let Some(unknown) = names.iter().find(|name| !scripts.iter().any(|(script, _)| script == *name)) {
        let known: Vec<&str> = scripts.iter().map(|(name, _)| name.as_str()).collect();
        bail!("there is no comparison `{unknown}`; bench/ has: {}", known.join(", "));
    }
    let chosen: Vec<&(String, PathBuf)> =
        scripts.iter().filter(|(script, _)| names.is_empty() || names.contains(script)).collect();
    let envoy = packages::ensure_benches(workspace)?;
    build(workspace, &chosen)?;
    let mut failed = Vec::new();
    for (name, script) in chosen {
        println!("\n## {name}");
        let mut tool = Tool::new(script, &workspace.root)
            .args(extra)
            .env("CARGO_TARGET_DIR", &workspace.target)
            .env("QUICK", if length == Length::Quick { "1" } else { "0" })
            .hint("the script's first lines say what it compares and what the bar is");
        if let Some(envoy) = &envoy {
            tool = tool.env("ENVOY", envoy);
        }
        if let Err(error) = tool.run() {
            eprintln!("{error:#}");
            failed.push(name.as_str());
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("missed or failed: {}", failed.join(", ")) }
}

/// Builds the binary as it is shipped, unless one is given, and the examples that are asked for.
fn build(workspace: &Workspace, chosen: &[&(String, PathBuf)]) -> Result<()> {
    match environment("DODAI_BINARY") {
        Some(given) => println!("measuring {given}"),
        None => drop(dist::run(workspace)?),
    }
    for (_, package, example) in EXAMPLES.iter().filter(|(name, ..)| chosen.iter().any(|one| one.0 == *name))
    {
        Tool::new("cargo", &workspace.root)
            .args(["build", "--profile", "dist", "--locked", "--package", package, "--example", example])
            .run()?;
    }
    Ok(())
}

/// Scripts directly under `bench/`, by name without ending.
fn scripts(workspace: &Workspace) -> Result<Vec<(String, PathBuf)>> {
    let mut scripts = Vec::new();
    for entry in std::fs::read_dir(workspace.root.join("bench")).context("reading bench/")? {
        let path = entry.context("reading bench/")?.path();
        let is_script = path.extension().is_some_and(|ending| ending == "sh" || ending == "py");
        if let Some(stem) = path.file_stem().filter(|_| is_script) {
            let name = stem.to_string_lossy().into_owned();
            if !PARTS.contains(&name.as_str()) {
                scripts.push((name, path));
            }
        }
    }
    scripts.sort();
    Ok(scripts)
}
