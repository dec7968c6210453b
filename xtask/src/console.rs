//! `cargo xtask console`: the web console, rebuilt into `console/dist`, or compared with what is committed there; and
//! `cargo xtask console --try`: the pages driven in a browser against a running shop.
//!
//! What is built is committed, so that building the binary needs no Node. The lock file pins every package by digest.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::ci::Outcome;
use crate::packages;
use crate::process::{Tool, find_program};
use crate::workspace::Workspace;

const FOLDER: &str = "console";
/// The first major version that the tools of the console run on.
const NODE: u32 = 20;

/// Writes `console/dist` and the client's types from the sources.
pub fn write(workspace: &Workspace) -> Result<()> {
    let folder = install(workspace)?;
    npm(&folder, &["run", "client"])?;
    npm(&folder, &["run", "check"])?;
    npm(&folder, &["run", "build"])?;
    npm(&folder, &["run", "weigh"])
}

/// The sources pass their checks, the client's types are those of the API, and a rebuild makes the committed files.
pub fn check(workspace: &Workspace) -> Result<Outcome> {
    if let Some(reason) = missing(workspace) {
        return Ok(Outcome::Skipped(reason));
    }
    let folder = install(workspace)?;
    npm(&folder, &["run", "client", "--", "--check"])?;
    npm(&folder, &["run", "check"])?;
    let fresh = workspace.target.join("console-dist");
    npm(&folder, &["run", "build", "--", "--outDir", &fresh.to_string_lossy(), "--emptyOutDir"])?;
    compare(&read(&folder.join("dist"))?, &read(&fresh)?)?;
    npm(&folder, &["run", "weigh"])?;
    Ok(Outcome::Passed)
}

/// Every page works in a browser.
pub fn browse(workspace: &Workspace) -> Result<Outcome> {
    if let Some(reason) = missing(workspace) {
        return Ok(Outcome::Skipped(reason));
    }
    if let Err(error) = packages::ensure_browser(workspace) {
        return Ok(Outcome::Skipped(format!("no browser can be had here: {error:#}")));
    }
    drive(workspace, &[]).map(|()| Outcome::Passed)
}

/// Tries every page, and how quick the topology is drawn: speed is no matter of CI. `shots` says where pictures go.
pub fn try_out(workspace: &Workspace, shots: Option<&str>) -> Result<()> {
    let shots = shots.map(|shots| ("SHOTS", workspace.root.join(shots).to_string_lossy().into_owned()));
    let settings: Vec<_> = shots.into_iter().chain([("BARS", "1".to_owned())]).collect();
    drive(workspace, &settings)
}

/// Drives every page in a browser against the shop under load.
fn drive(workspace: &Workspace, settings: &[(&str, String)]) -> Result<()> {
    packages::ensure_browser(workspace)?;
    let folder = install(workspace)?;
    Tool::new("cargo", &workspace.root).args(["build", "--workspace", "--bins", "--locked"]).run()?;
    let mut tool = Tool::new("node", &folder)
        .args(["e2e/run.mjs"])
        .env("DODAI", workspace.target.join("debug/dodai"))
        .hint("the console's pages must work in Chromium");
    for (name, value) in settings {
        tool = tool.env(name, value);
    }
    tool.run()
}

/// Why nothing can be built here.
fn missing(workspace: &Workspace) -> Option<String> {
    for program in ["node", "npm"] {
        if find_program(program).is_none() {
            return Some(format!("there is no {program} here"));
        }
    }
    let version = Tool::new("node", &workspace.root).args(["--version"]).output().ok()?;
    let major: u32 = version.trim().trim_start_matches('v').split('.').next()?.parse().ok()?;
    (major < NODE).then(|| format!("Node {} is too old: {NODE} or later is needed", version.trim()))
}

fn install(workspace: &Workspace) -> Result<std::path::PathBuf> {
    let folder = workspace.root.join(FOLDER);
    npm(&folder, &["ci", "--no-audit", "--no-fund"])?;
    Ok(folder)
}

fn npm(folder: &Path, args: &[&str]) -> Result<()> {
    Tool::new("npm", folder).args(args).hint("run it in console/ to see more").run()
}

/// Every file below a folder, by its path in it.
fn read(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    let mut waiting = vec![folder.to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in std::fs::read_dir(&next).with_context(|| format!("reading {}", next.display()))? {
            let path = entry.with_context(|| format!("reading {}", next.display()))?.path();
            if path.is_dir() {
                waiting.push(path);
                continue;
            }
            let name = path.strip_prefix(folder).unwrap_or(&path).to_string_lossy().into_owned();
            let content = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            files.insert(name, content);
        }
    }
    Ok(files)
}

fn compare(committed: &BTreeMap<String, Vec<u8>>, fresh: &BTreeMap<String, Vec<u8>>) -> Result<()> {
    if fresh.is_empty() {
        bail!("nothing was built");
    }
    let names: std::collections::BTreeSet<&String> = committed.keys().chain(fresh.keys()).collect();
    let differs: Vec<&str> = names
        .into_iter()
        .filter(|name| committed.get(*name) != fresh.get(*name))
        .map(String::as_str)
        .collect();
    if differs.is_empty() {
        println!("console: {} files are those of the sources", fresh.len());
        return Ok(());
    }
    bail!(
        "console/dist is not what the sources make: {}\n  to mend it: `cargo xtask console`, then commit",
        differs.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_difference_is_told() {
        let folder = |files: &[(&str, &str)]| -> BTreeMap<String, Vec<u8>> {
            files.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())).collect()
        };
        let built = folder(&[("index.html", "a"), ("assets/a.js", "b")]);
        assert!(compare(&built, &built).is_ok());
        assert!(compare(&folder(&[("index.html", "a"), ("assets/a.js", "c")]), &built).is_err());
        assert!(compare(&folder(&[("index.html", "a")]), &built).is_err());
        assert!(compare(&built, &folder(&[("index.html", "a")])).is_err());
        assert!(compare(&folder(&[]), &folder(&[])).is_err());
    }
}
