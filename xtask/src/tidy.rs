//! `cargo xtask tidy`: the house rules, as checks over `cargo metadata` and the files that git knows.
//!
//! A rule takes names and text and returns findings, so each is tested below itself on a small bad input: a check
//! that cannot fail is a defect. Every finding carries the reason of its rule, because the reader meets it in a log.

mod arrows;
mod documents;
mod errors;
mod layout;
mod rust_text;
mod words;

use anyhow::{Result, bail};

use crate::workspace::Workspace;

/// One breach of a rule.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file (and line) or package.
    pub place: String,
    /// What is wrong, why it matters and what to do.
    pub message: String,
}

impl Finding {
    fn new(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self { place: place.into(), message: message.into() }
    }

    fn at(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self::new(format!("{path}:{line}"), message)
    }
}

/// A file under check.
pub struct File {
    /// Relative to the root, with `/`.
    pub path: String,
    pub text: String,
}

impl File {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Files that a tool wrote say so near their top, and are not held to the rules of form.
    fn is_generated(&self) -> bool {
        // Split, so that this file is not taken for a generated one.
        self.text.lines().take(5).any(|line| line.contains(concat!("@", "generated")))
    }
}

/// Runs every rule and prints all findings.
pub fn run(workspace: &Workspace) -> Result<()> {
    let mut files = Vec::new();
    let mut findings = Vec::new();
    for path in workspace.files()? {
        // Bytes that are not UTF-8 are assets (icons, modules); only text is held to rules.
        if let Ok(text) = std::fs::read_to_string(workspace.root.join(&path)) {
            files.push(File { path, text });
        }
    }
    findings.extend(arrows::check(&workspace.own)?);
    findings.extend(documents::check(&files));
    findings.extend(errors::check(&files));
    for file in &files {
        findings.extend(layout::check(file));
        findings.extend(words::check(file));
    }
    for finding in &findings {
        println!("{}: {}", finding.place, finding.message);
    }
    println!("tidy: {} files, {} findings", files.len(), findings.len());
    if findings.is_empty() {
        return Ok(());
    }
    bail!("tidy has {} findings; each line above names the file, the rule and its reason", findings.len())
}
