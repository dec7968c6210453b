//! Where the tree is and what it holds: `cargo metadata` and the files that git tracks or would track.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::process::{Tool, environment};

/// The project's tree.
pub struct Workspace {
    /// The folder of the root `Cargo.toml`.
    pub root: PathBuf,
    /// Cargo's target directory, as cargo itself resolves it.
    pub target: PathBuf,
    /// `cargo metadata --no-deps`: our own packages with their declared dependencies.
    pub own: Value,
}

impl Workspace {
    pub fn locate() -> Result<Self> {
        // Asked at run time: a shared target directory may hold an xtask that was built in another clone.
        let here = environment("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").to_owned());
        let root = Path::new(&here).parent().context("xtask has no parent folder")?.to_owned();
        let text = Tool::new("cargo", &root)
            .args(["metadata", "--format-version", "1", "--no-deps"])
            .hint("mend the Cargo.toml that cargo names above")
            .output()?;
        let own: Value = serde_json::from_str(&text).context("reading `cargo metadata`")?;
        let target = own["target_directory"].as_str().context("cargo metadata has no target_directory")?;
        Ok(Self { root, target: PathBuf::from(target), own })
    }

    /// Paths, relative to the root, of every file that is tracked or new and not ignored.
    pub fn files(&self) -> Result<Vec<String>> {
        let text = Tool::new("git", &self.root)
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .hint("tidy reads the list of files from git: install it and run inside a clone")
            .output()?;
        let mut files: Vec<String> =
            text.split('\0').filter(|path| self.root.join(path).is_file()).map(str::to_owned).collect();
        files.sort();
        files.dedup();
        Ok(files)
    }

    /// The `Cargo.toml` of every workspace of the tree, the root's first: wherever a lock file is kept.
    pub fn manifests(&self) -> Result<Vec<String>> {
        let locks = self.files()?;
        let mut manifests: Vec<String> = locks
            .iter()
            .filter_map(|path| path.strip_suffix("Cargo.lock"))
            .map(|folder| format!("{folder}Cargo.toml"))
            .collect();
        manifests.sort_by_key(|manifest| (manifest != "Cargo.toml", manifest.clone()));
        Ok(manifests)
    }

    /// Builds an example of one of our packages; where it is. It is built with the features that the whole workspace
    /// gives its dependencies, as the tests are, so that nothing is compiled for it a second time.
    pub fn example(&self, name: &str) -> Result<PathBuf> {
        Tool::new("cargo", &self.root)
            .args(["build", "--quiet", "--locked", "--workspace", "--example", name])
            .hint("the package that has this example must build")
            .run()?;
        Ok(self.target.join("debug/examples").join(name))
    }

    /// Builds the debug binary; where it is. An example is built along, because only then do dependencies have the
    /// features that they have in the tests, and nothing is compiled for it a second time.
    pub fn binary(&self) -> Result<PathBuf> {
        Tool::new("cargo", &self.root)
            .args(["build", "--quiet", "--locked", "--workspace", "--bin", "dodai", "--example", "limits"])
            .run()?;
        Ok(self.target.join("debug/dodai"))
    }

    /// Downloaded tools, kept by version. Beside the target directory's contents, so that one cache holds both.
    pub fn tools(&self) -> PathBuf {
        self.target.join("tools")
    }
}
