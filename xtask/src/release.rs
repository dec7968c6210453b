//! `cargo xtask release`: the binary that users build, where cmake, clang, protoc and node cannot be found, and the
//! end-to-end tests of the main jobs against it.
//!
//! Users build with a Rust toolchain and a C compiler only; a dependency that quietly wants more is caught here.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::ci::Outcome;
use crate::packages;
use crate::process::{Tool, search_path};
use crate::workspace::Workspace;

/// Programs that no build of ours may need.
const HIDDEN: &[&str] = &["cmake", "clang", "clang++", "protoc", "node", "npm", "go", "nodejs"];

#[derive(Clone, Copy, PartialEq)]
pub enum Tests {
    Run,
    Skip,
}

pub fn run(workspace: &Workspace, tests: Tests) -> Result<()> {
    let binary = build(workspace)?;
    let size = std::fs::metadata(&binary).context("the release binary is not where cargo puts it")?.len();
    println!("release binary: {} ({:.1} MB)", binary.display(), size as f64 / 1e6);
    if tests == Tests::Run { end_to_end(workspace, &binary) } else { Ok(()) }
}

pub fn check(workspace: &Workspace) -> Result<Outcome> {
    run(workspace, Tests::Run).map(|()| Outcome::Passed)
}

fn build(workspace: &Workspace) -> Result<PathBuf> {
    let path = narrowed_path(&workspace.target.join("release-path"))?;
    for program in HIDDEN {
        if path.iter().any(|folder| folder.join(program).exists()) {
            bail!("{program} is still found on the narrowed PATH; xtask/src/release.rs did not hide it");
        }
    }
    Tool::new("cargo", &workspace.root)
        .args(["build", "--release", "--locked", "--package", "dodai", "--bin", "dodai"])
        .env("PATH", std::env::join_paths(&path).context("joining PATH")?)
        .without_env("CMAKE")
        .without_env("PROTOC")
        .hint("if a build script asks for a hidden tool, switch off the feature that wants it or take another crate")
        .run()?;
    Ok(workspace.target.join("release/dodai"))
}

/// The main jobs, once more against the binary that users build: the shop in each of the ways to run it, `up` and its
/// relatives, bare components, a Dapr sidecar. Every end-to-end test has run against the debug binary by then.
const MAIN_JOBS: &[&str] = &["shop::", "running::", "serve::", "daprd::"];

/// Tests that take a binary instead of building one: `DODAI_BINARY` names it.
fn end_to_end(workspace: &Workspace, binary: &Path) -> Result<()> {
    packages::ensure_tests(workspace)?;
    Tool::new("cargo", &workspace.root)
        // By the name of the target and not of the package: then dependencies have the features that they have in
        // the tests of the whole workspace, and nothing is compiled a second time.
        .args(["test", "--locked", "--workspace", "--test", "end_to_end", "--"])
        .args(MAIN_JOBS)
        .env("DODAI_BINARY", binary)
        .hint("the same tests against the debug binary: `cargo test -p dodai`")
        .run()
}

/// `PATH` without the hidden programs: a folder that holds one is replaced by a folder of links to all its others.
fn narrowed_path(links: &Path) -> Result<Vec<PathBuf>> {
    if links.exists() {
        std::fs::remove_dir_all(links).with_context(|| format!("removing {}", links.display()))?;
    }
    let mut narrowed = Vec::new();
    for (number, folder) in search_path().into_iter().enumerate() {
        if !folder.is_dir() {
            continue;
        }
        if !HIDDEN.iter().any(|program| folder.join(program).exists()) {
            narrowed.push(folder);
            continue;
        }
        let copy = links.join(number.to_string());
        std::fs::create_dir_all(&copy).with_context(|| format!("creating {}", copy.display()))?;
        for entry in std::fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
            let entry = entry.with_context(|| format!("reading {}", folder.display()))?;
            if !is_hidden(&entry.file_name().to_string_lossy()) {
                let link = copy.join(entry.file_name());
                symlink(entry.path(), &link).with_context(|| format!("linking {}", link.display()))?;
            }
        }
        narrowed.push(copy);
    }
    Ok(narrowed)
}

/// The program itself or one of its versioned names (`clang-14`).
fn is_hidden(name: &str) -> bool {
    HIDDEN.iter().any(|program| {
        name.strip_prefix(program).is_some_and(|rest| {
            rest.is_empty()
                || rest
                    .strip_prefix('-')
                    .is_some_and(|version| version.starts_with(|c: char| c.is_ascii_digit()))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_narrowed_path_hides_tools_and_still_compiles() {
        let links = std::env::temp_dir().join(format!("dodai-narrowed-{}", std::process::id()));
        let path = narrowed_path(&links).expect("a path");
        for program in HIDDEN {
            assert!(path.iter().all(|folder| !folder.join(program).exists()), "{program} is still there");
        }
        let source = links.join("one.c");
        std::fs::create_dir_all(&links).expect("a folder");
        std::fs::write(&source, "int main(void) { return 0; }").expect("a source");
        let compiled = Tool::new("cc", &links)
            .args(["one.c", "-o", "one"])
            .env("PATH", std::env::join_paths(&path).expect("a path"))
            .output();
        std::fs::remove_dir_all(&links).expect("removed");
        assert!(compiled.is_ok(), "{compiled:?}");
    }

    #[test]
    fn versioned_names_are_hidden_and_neighbours_are_not() {
        for name in ["cmake", "clang", "clang-14", "protoc", "node"] {
            assert!(is_hidden(name), "{name}");
        }
        for name in ["cc", "gcc", "g++", "nodejs-doc", "clangd-old", "protoc-gen-x"] {
            assert!(!is_hidden(name), "{name}");
        }
    }
}
