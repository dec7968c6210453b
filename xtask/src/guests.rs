//! `cargo xtask guests`: the example modules, rebuilt, or compared with what is committed; and the tests of the examples,
//! which are workspaces of their own.
//!
//! Artefacts are committed so that `dodai up` works where no WASM target can be had. Each recipe is the `build.sh` that
//! its example names to users; `artifacts.json` beside the artefacts records the compiler, the digest of the sources and
//! of each artefact. Another compiler makes other bytes: then the check builds, and says what it cannot compare.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::ci::Outcome;
use crate::process::Tool;
use crate::workspace::Workspace;

/// A recipe, and the folder of what it makes.
const RECIPES: &[(&str, &str)] = &[
    ("examples/shop/modules/build.sh", "examples/shop/artifacts"),
    ("examples/hello/build.sh", "examples/hello/artifacts"),
    ("examples/hello-async/build.sh", "examples/hello-async/artifacts"),
];
/// Workspaces of examples that have tests; they run as native programs.
const TESTED: &[&str] = &["examples/shop/apps/orders", "examples/shop/modules", "examples/hello"];
/// What `dodai new --template module` writes, `NAME` to be replaced.
const TEMPLATE: &[(&str, &str)] = &[("Cargo.toml.txt", "Cargo.toml"), ("lib.rs.txt", "src/lib.rs")];
const RECORD: &str = "artifacts.json";
const TARGET: &str = "wasm32-wasip2";

#[derive(Clone, Copy)]
pub enum Mode {
    Write,
    Check,
}

pub fn run(workspace: &Workspace, mode: Mode) -> Result<()> {
    match mode {
        Mode::Write => {
            add_target(workspace)?;
            RECIPES
                .iter()
                .try_for_each(|(recipe, folder)| build(workspace, recipe, &workspace.root.join(folder)))
        }
        Mode::Check => match check(workspace)? {
            Outcome::Passed => Ok(()),
            Outcome::Skipped(reason) => {
                println!("guests: SKIPPED: {reason}");
                Ok(())
            }
        },
    }
}

/// The examples' tests pass; committed files match their record; and where the target can be had, a rebuild matches both and
/// the project that `dodai new` writes builds.
pub fn check(workspace: &Workspace) -> Result<Outcome> {
    for folder in TESTED {
        Tool::new("cargo", &workspace.root.join(folder))
            .args(["test", "--workspace", "--locked"])
            .env("CARGO_TARGET_DIR", workspace.target.join("guests"))
            .run()?;
    }
    for (_, folder) in RECIPES {
        let folder = workspace.root.join(folder);
        let record = read_record(&folder)?;
        for name in names(&record)? {
            compare(name, "the committed file", &sha256(workspace, &folder, name)?, &record)?;
        }
    }
    if let Err(error) = add_target(workspace) {
        return Ok(Outcome::Skipped(format!("not rebuilt, {TARGET} cannot be had here: {error:#}")));
    }
    template(workspace)?;
    let mut other_compilers = Vec::new();
    for (number, (recipe, folder)) in RECIPES.iter().enumerate() {
        let fresh = workspace.target.join("guests").join(format!("artifacts-{number}"));
        build(workspace, recipe, &fresh)?;
        let (committed, rebuilt) = (read_record(&workspace.root.join(folder))?, read_record(&fresh)?);
        other_compilers.extend(differ(&committed, &rebuilt)?);
    }
    if other_compilers.is_empty() {
        println!("guests: rebuilt to the same bytes");
        return Ok(Outcome::Passed);
    }
    Ok(Outcome::Skipped(format!("built but not compared: {}", other_compilers.join(", "))))
}

/// Fails if two records of the same recipe differ in what must be equal; tells if their compilers differ.
fn differ(committed: &Value, rebuilt: &Value) -> Result<Option<String>> {
    if committed["sources"] != rebuilt["sources"] {
        bail!(
            "the sources changed after the artefacts were made\n  to mend it: `cargo xtask guests`, then commit both"
        );
    }
    if committed["compiler"] != rebuilt["compiler"] {
        return Ok(Some(format!("committed by {}, this is {}", committed["compiler"], rebuilt["compiler"])));
    }
    for name in names(committed)? {
        compare(name, "a rebuild", rebuilt["sha256"][name].as_str().unwrap_or("nothing"), committed)?;
    }
    Ok(None)
}

fn compare(name: &str, what: &str, digest: &str, record: &Value) -> Result<()> {
    let expect = record["sha256"][name].as_str().unwrap_or("nothing");
    if digest == expect {
        return Ok(());
    }
    bail!(
        "{name}: {what} has sha256 {digest}, {RECORD} says {expect}\n  to mend it: `cargo xtask guests`, then commit"
    )
}

fn names(record: &Value) -> Result<Vec<&str>> {
    let digests = record["sha256"].as_object().filter(|digests| !digests.is_empty());
    Ok(digests.with_context(|| format!("{RECORD} names no artefact"))?.keys().map(String::as_str).collect())
}

fn read_record(folder: &Path) -> Result<Value> {
    let path = folder.join(RECORD);
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("reading {}; `cargo xtask guests` writes it", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))
}

fn build(workspace: &Workspace, recipe: &str, artifacts: &Path) -> Result<()> {
    Tool::new("sh", &workspace.root)
        .args([recipe])
        .env("CARGO_TARGET_DIR", workspace.target.join("guests"))
        .env("DODAI_ARTIFACTS", artifacts)
        .hint(format!("the example modules do not build for {TARGET}"))
        .run()
}

/// Builds the module that `dodai new` writes.
fn template(workspace: &Workspace) -> Result<()> {
    let folder = workspace.target.join("guests/template");
    std::fs::create_dir_all(folder.join("src")).with_context(|| format!("creating {}", folder.display()))?;
    for (from, to) in TEMPLATE {
        let from = workspace.root.join("crates/dodai/src/client/templates").join(from);
        let text = std::fs::read_to_string(&from).with_context(|| format!("reading {}", from.display()))?;
        std::fs::write(folder.join(to), text.replace("NAME", "written"))
            .with_context(|| format!("writing {to} of the template"))?;
    }
    Tool::new("cargo", &folder)
        .args(["build", "--release", "--target", TARGET])
        .env("CARGO_TARGET_DIR", workspace.target.join("guests"))
        .hint("mend the template under crates/dodai/src/client/templates")
        .run()
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

fn sha256(workspace: &Workspace, folder: &Path, name: &str) -> Result<String> {
    let file = folder.join(format!("{name}.wasm"));
    let text = Tool::new("sha256sum", &workspace.root).args([file]).output()?;
    let digest = text.split_whitespace().next().context("sha256sum printed nothing")?;
    Ok(digest.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn another_digest_is_a_failure() {
        let record = json!({"sha256": {"cart": "aa"}});
        assert!(compare("cart", "a rebuild", "aa", &record).is_ok());
        assert!(compare("cart", "a rebuild", "bb", &record).is_err());
        assert!(compare("till", "a rebuild", "aa", &record).is_err());
    }

    #[test]
    fn records_are_compared_as_far_as_they_can_be() {
        let record = |sources: &str, compiler: &str, digest: &str| json!({"sources": sources, "compiler": compiler, "sha256": {"cart": digest}});
        let ours = record("s", "1.95", "aa");
        assert_eq!(differ(&ours, &ours).expect("equal"), None);
        assert!(differ(&ours, &record("t", "1.95", "aa")).is_err(), "sources changed");
        assert!(differ(&ours, &record("s", "1.95", "bb")).is_err(), "other bytes");
        assert!(differ(&ours, &record("s", "1.96", "bb")).expect("told").is_some(), "another compiler");
        assert!(names(&json!({})).is_err(), "a record of nothing checks nothing");
    }
}
