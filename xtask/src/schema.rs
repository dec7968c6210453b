//! `cargo xtask schema`: the JSON schemas of all documents and the description of the management API, written or compared.
//!
//! Examples of `dodai-api` and `dodai-admin` write them; this binary does not link these crates, and so still builds when
//! they do not. The comparison is both ways: a schema of a kind that is gone is told too.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::ci::Outcome;
use crate::process::Tool;
use crate::workspace::Workspace;

const FOLDER: &str = "schema";
/// What writes them.
const EXAMPLES: [&str; 2] = ["write_schemas", "write_description"];

#[derive(Clone, Copy)]
pub enum Mode {
    Write,
    Check,
}

pub fn run(workspace: &Workspace, mode: Mode) -> Result<()> {
    let folder = workspace.root.join(FOLDER);
    match mode {
        Mode::Write => {
            clear(&folder)?;
            write(workspace, &folder)
        }
        Mode::Check => {
            let fresh = workspace.target.join("schema");
            clear(&fresh)?;
            write(workspace, &fresh)?;
            compare(&read(&folder)?, &read(&fresh)?)
        }
    }
}

pub fn check(workspace: &Workspace) -> Result<Outcome> {
    run(workspace, Mode::Check).map(|()| Outcome::Passed)
}

fn write(workspace: &Workspace, folder: &Path) -> Result<()> {
    for example in EXAMPLES {
        Tool::new(workspace.example(example)?, &workspace.root)
            .args([folder])
            .hint("an example of dodai-api or dodai-admin must write them")
            .run()?;
    }
    Ok(())
}

fn compare(committed: &BTreeMap<String, String>, fresh: &BTreeMap<String, String>) -> Result<()> {
    if fresh.is_empty() {
        bail!("no schema was written");
    }
    let mut names: Vec<&String> = committed.keys().chain(fresh.keys()).collect();
    names.sort();
    names.dedup();
    let differs: Vec<&str> = names
        .into_iter()
        .filter(|name| committed.get(*name) != fresh.get(*name))
        .map(String::as_str)
        .collect();
    if differs.is_empty() {
        println!("schema: {} files match the types", fresh.len());
        return Ok(());
    }
    bail!(
        "not what the types say: {}\n  to mend it: `cargo xtask schema` (and `cargo xtask console` for the API), then commit",
        differs.join(", ")
    )
}

/// Leaves the folder there and without schemas.
fn clear(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    for name in read(folder)?.keys() {
        let file = folder.join(name);
        std::fs::remove_file(&file).with_context(|| format!("removing {}", file.display()))?;
    }
    Ok(())
}

/// Name and text of every schema in a folder.
fn read(folder: &Path) -> Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry.with_context(|| format!("reading {}", folder.display()))?.path();
        let Some(name) = path.file_name().map(|name| name.to_string_lossy().into_owned()) else { continue };
        if name.ends_with(".json") {
            let text =
                std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            files.insert(name, text);
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> BTreeMap<String, String> {
        files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn every_kind_of_difference_is_told() {
        let types = folder(&[("app.json", "{}")]);
        assert!(compare(&types, &types).is_ok());
        assert!(compare(&folder(&[("app.json", "{ }")]), &types).is_err());
        assert!(compare(&folder(&[]), &types).is_err());
        assert!(compare(&folder(&[("app.json", "{}"), ("gone.json", "{}")]), &types).is_err());
        assert!(compare(&folder(&[]), &folder(&[])).is_err());
    }
}
