//! `cargo xtask guests`: the example modules, rebuilt, or compared with what is committed.
//!
//! Artefacts are committed so that `dodai up` works where no WASM target can be had. Each component crate of the
//! workspace `examples/shop/modules` becomes `examples/shop/artifacts/NAME.wasm`; `artifacts.json` beside them records
//! the compiler, the digest of the sources and of each artefact. Another compiler makes other bytes: then the check
//! builds, and says what it cannot compare.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::ci::Outcome;
use crate::process::{Tool, environment};
use crate::workspace::Workspace;

const MODULES: &str = "examples/shop/modules";
/// What goes into an artefact; a change under here asks for a rebuild.
const SOURCES: &[&str] = &[MODULES, "examples/shop/wit"];
const ARTIFACTS: &str = "examples/shop/artifacts";
const TARGET: &str = "wasm32-wasip2";

#[derive(Clone, Copy)]
pub enum Mode {
    Write,
    Check,
}

pub fn run(workspace: &Workspace, mode: Mode) -> Result<()> {
    match mode {
        Mode::Write => write(workspace),
        Mode::Check => match check(workspace)? {
            Outcome::Passed => Ok(()),
            Outcome::Skipped(reason) => {
                println!("guests: SKIPPED: {reason}");
                Ok(())
            }
        },
    }
}

fn write(workspace: &Workspace) -> Result<()> {
    add_target(workspace)?;
    let names = modules(workspace)?;
    build(workspace)?;
    let folder = workspace.root.join(ARTIFACTS);
    std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let mut digests = BTreeMap::new();
    for name in names {
        let file = committed(workspace, &name);
        std::fs::copy(built(workspace, &name), &file)
            .with_context(|| format!("writing {}", file.display()))?;
        digests.insert(name, sha256(workspace, &file)?);
    }
    let record = json!({ "compiler": compiler(workspace)?, "target": TARGET, "sources": sources(workspace)?, "sha256": digests });
    let text = serde_json::to_string_pretty(&record).context("writing artifacts.json")? + "\n";
    std::fs::write(folder.join("artifacts.json"), text).context("writing artifacts.json")
}

/// Committed files match their record; and where the target can be had, the record matches the sources.
pub fn check(workspace: &Workspace) -> Result<Outcome> {
    let names = modules(workspace)?;
    let path = workspace.root.join(ARTIFACTS).join("artifacts.json");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("reading {}; `cargo xtask guests` writes it", path.display()))?;
    let record: Value = serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))?;
    // Told even where nothing can be rebuilt.
    if record["sources"].as_str() != Some(sources(workspace)?.as_str()) {
        bail!(
            "the sources changed after the artefacts were made\n  to mend it: `cargo xtask guests`, then commit both"
        );
    }
    for name in &names {
        compare(name, "the committed file", &sha256(workspace, &committed(workspace, name))?, &record)?;
    }
    if let Err(error) = add_target(workspace) {
        return Ok(Outcome::Skipped(format!("not rebuilt, {TARGET} cannot be had here: {error:#}")));
    }
    build(workspace)?;
    let (ours, theirs) = (compiler(workspace)?, record["compiler"].as_str().unwrap_or("?"));
    if ours != theirs {
        return Ok(Outcome::Skipped(format!(
            "built but not compared: committed by {theirs}, this is {ours}"
        )));
    }
    for name in &names {
        compare(name, "a rebuild", &sha256(workspace, &built(workspace, name))?, &record)?;
    }
    println!("guests: {} rebuilt to the same bytes", names.len());
    Ok(Outcome::Passed)
}

fn compare(name: &str, what: &str, digest: &str, record: &Value) -> Result<()> {
    let expect = record["sha256"][name].as_str().unwrap_or("nothing");
    if digest == expect {
        return Ok(());
    }
    bail!(
        "{name}: {what} has sha256 {digest}, artifacts.json says {expect}\n  to mend it: `cargo xtask guests`, then commit"
    )
}

/// Names of the crates that become components; libraries that they share do not.
fn modules(workspace: &Workspace) -> Result<Vec<String>> {
    let text = Tool::new("cargo", &workspace.root.join(MODULES))
        .args(["metadata", "--format-version", "1", "--no-deps", "--locked"])
        .hint(format!("{MODULES} is a workspace of its own: mend its Cargo.toml or its lock file"))
        .output()?;
    let metadata: Value = serde_json::from_str(&text).context("reading `cargo metadata`")?;
    let mut names = components(&metadata);
    if names.is_empty() {
        bail!("{MODULES} holds no crate with crate-type \"cdylib\", so nothing would be built");
    }
    names.sort();
    Ok(names)
}

fn components(metadata: &Value) -> Vec<String> {
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_component = |package: &&Value| {
        let targets = package["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
        targets.iter().any(|target| {
            target["crate_types"].as_array().is_some_and(|kinds| kinds.contains(&json!("cdylib")))
        })
    };
    packages
        .iter()
        .filter(is_component)
        .filter_map(|package| package["name"].as_str())
        .map(str::to_owned)
        .collect()
}

fn committed(workspace: &Workspace, name: &str) -> PathBuf {
    workspace.root.join(ARTIFACTS).join(format!("{name}.wasm"))
}

fn built(workspace: &Workspace, name: &str) -> PathBuf {
    let folder = workspace.target.join("guests").join(TARGET).join("release");
    folder.join(format!("{}.wasm", name.replace('-', "_")))
}

/// Paths of this machine are mapped away, or every machine would make other bytes.
fn build(workspace: &Workspace) -> Result<()> {
    let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    let mut flags = vec![remap(&workspace.root, "/dodai")];
    if let Some(home) = environment("CARGO_HOME").map(PathBuf::from).or_else(default_cargo_home) {
        flags.push(remap(&home, "/cargo"));
    }
    Tool::new("cargo", &workspace.root.join(MODULES))
        .args(["build", "--release", "--locked", "--target", TARGET, "--target-dir"])
        .args([workspace.target.join("guests")])
        .env("RUSTFLAGS", flags.join(" "))
        .hint(format!("the example modules do not build for {TARGET}"))
        .run()
}

fn default_cargo_home() -> Option<PathBuf> {
    environment("HOME").map(|home| Path::new(&home).join(".cargo"))
}

fn add_target(workspace: &Workspace) -> Result<()> {
    let libraries = Tool::new("rustc", &workspace.root)
        .args(["--print", "target-libdir", "--target", TARGET])
        .output()?;
    if Path::new(libraries.trim()).is_dir() {
        return Ok(());
    }
    Tool::new("rustup", &workspace.root)
        .args(["target", "add", TARGET])
        .hint(format!("install the {TARGET} target of the pinned compiler"))
        .output()
        .map(drop)
}

fn compiler(workspace: &Workspace) -> Result<String> {
    Ok(Tool::new("rustc", &workspace.root).args(["--version"]).output()?.trim().to_owned())
}

/// One digest over names and contents of all sources, documents aside.
fn sources(workspace: &Workspace) -> Result<String> {
    let is_source =
        |path: &String| SOURCES.iter().any(|folder| path.starts_with(folder)) && !path.ends_with(".md");
    let files: Vec<String> = workspace.files()?.into_iter().filter(is_source).collect();
    let listing = Tool::new("sha256sum", &workspace.root).args(&files).output()?;
    let file = workspace.target.join("guest-sources");
    std::fs::write(&file, listing).with_context(|| format!("writing {}", file.display()))?;
    sha256(workspace, &file)
}

fn sha256(workspace: &Workspace, file: &Path) -> Result<String> {
    let text = Tool::new("sha256sum", &workspace.root).args([file]).output()?;
    let digest = text.split_whitespace().next().context("sha256sum printed nothing")?;
    Ok(digest.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_components_are_built() {
        let package = |name: &str, kind: &str| json!({"name": name, "targets": [{"crate_types": [kind]}]});
        let metadata = json!({"packages": [package("web", "cdylib"), package("guest", "lib")]});
        assert_eq!(components(&metadata), ["web"]);
    }

    #[test]
    fn another_digest_is_a_failure() {
        let record = json!({"sha256": {"cart": "aa"}});
        assert!(compare("cart", "a rebuild", "aa", &record).is_ok());
        assert!(compare("cart", "a rebuild", "bb", &record).is_err());
        assert!(compare("till", "a rebuild", "aa", &record).is_err());
    }
}
