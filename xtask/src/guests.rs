//! `cargo xtask guests`: the example modules, rebuilt, or compared with what is committed.
//!
//! Artefacts are committed so that `dodai up` works where no WASM target can be had. Each crate directly under
//! `examples/shop/modules` becomes `examples/shop/artifacts/NAME.wasm`; `artifacts.json` beside them records the
//! compiler and each digest. Another compiler makes other bytes: then the check builds, and says what it cannot compare.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::ci::Outcome;
use crate::process::Tool;
use crate::workspace::Workspace;

const MODULES: &str = "examples/shop/modules";
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
    if let Err(error) = add_target(workspace) {
        bail!("{error:#}");
    }
    let mut digests = BTreeMap::new();
    for module in modules(workspace)? {
        let built = build(workspace, &module)?;
        let file = workspace.root.join(ARTIFACTS).join(format!("{}.wasm", module.name));
        std::fs::create_dir_all(workspace.root.join(ARTIFACTS)).context("creating the artefact folder")?;
        std::fs::copy(&built, &file).with_context(|| format!("writing {}", file.display()))?;
        digests.insert(module.name, sha256(workspace, &file)?);
    }
    let record = json!({ "compiler": compiler(workspace)?, "target": TARGET, "sha256": digests });
    let text = serde_json::to_string_pretty(&record).context("writing artifacts.json")? + "\n";
    std::fs::write(workspace.root.join(ARTIFACTS).join("artifacts.json"), text)
        .context("writing artifacts.json")
}

/// Committed files match their record; and where the target can be had, the record matches the sources.
pub fn check(workspace: &Workspace) -> Result<Outcome> {
    let modules = modules(workspace)?;
    let path = workspace.root.join(ARTIFACTS).join("artifacts.json");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let record: Value = serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))?;
    for module in &modules {
        let file = workspace.root.join(ARTIFACTS).join(format!("{}.wasm", module.name));
        compare(&module.name, "the committed file", &sha256(workspace, &file)?, &record)?;
    }
    if let Err(error) = add_target(workspace) {
        return Ok(Outcome::Skipped(format!("not rebuilt, {TARGET} cannot be had here: {error:#}")));
    }
    let (ours, theirs) = (compiler(workspace)?, record["compiler"].as_str().unwrap_or("?").to_owned());
    for module in &modules {
        let digest = sha256(workspace, &build(workspace, module)?)?;
        if ours == theirs {
            compare(&module.name, "a rebuild", &digest, &record)?;
        }
    }
    if ours == theirs {
        println!("guests: {} rebuilt to the same bytes", modules.len());
        return Ok(Outcome::Passed);
    }
    Ok(Outcome::Skipped(format!(
        "{} rebuilt but not compared: made by {theirs}, this is {ours}",
        modules.len()
    )))
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

struct Module {
    name: String,
    folder: PathBuf,
}

fn modules(workspace: &Workspace) -> Result<Vec<Module>> {
    let root = workspace.root.join(MODULES);
    let mut modules = Vec::new();
    for entry in std::fs::read_dir(&root).with_context(|| format!("reading {}", root.display()))? {
        let folder = entry.with_context(|| format!("reading {}", root.display()))?.path();
        if folder.join("Cargo.toml").is_file() {
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            modules.push(Module { name, folder });
        }
    }
    if modules.is_empty() {
        bail!("{} holds no crate", root.display());
    }
    modules.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(modules)
}

/// Paths of this machine are mapped away, or every machine would make other bytes.
fn build(workspace: &Workspace, module: &Module) -> Result<PathBuf> {
    let target = workspace.target.join("guests");
    let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    let mut flags = vec![remap(&workspace.root, "/dodai")];
    if let Some(home) =
        crate::process::environment("CARGO_HOME").map(PathBuf::from).or_else(default_cargo_home)
    {
        flags.push(remap(&home, "/cargo"));
    }
    Tool::new("cargo", &module.folder)
        .args(["build", "--release", "--locked", "--target", TARGET, "--target-dir"])
        .args([&target])
        .env("RUSTFLAGS", flags.join(" "))
        .hint(format!("the module {} does not build for {TARGET}", module.name))
        .run()?;
    let file = format!("{}.wasm", module.name.replace('-', "_"));
    let folder = target.join(TARGET).join("release");
    // A library crate's artefact has underscores, a binary's has the crate's own name.
    let plain = folder.join(format!("{}.wasm", module.name));
    Ok(if plain.is_file() { plain } else { folder.join(file) })
}

fn default_cargo_home() -> Option<PathBuf> {
    crate::process::environment("HOME").map(|home| Path::new(&home).join(".cargo"))
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

fn sha256(workspace: &Workspace, file: &Path) -> Result<String> {
    let text = Tool::new("sha256sum", &workspace.root).args([file]).output()?;
    let digest = text.split_whitespace().next().context("sha256sum printed nothing")?;
    Ok(digest.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_digest_is_a_failure() {
        let record = json!({"sha256": {"cart": "aa"}});
        assert!(compare("cart", "a rebuild", "aa", &record).is_ok());
        assert!(compare("cart", "a rebuild", "bb", &record).is_err());
        assert!(compare("till", "a rebuild", "aa", &record).is_err());
    }
}
