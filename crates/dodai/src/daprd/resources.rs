//! Dapr's resources as sidecars read them: the documents right in a folder, and files of their own.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use dodai_api::{Code, Document, Located, Problem, Read, Source};
use dodai_core::id::Name;

use crate::exit::Failed;
use crate::output::Output;
use crate::validate::{self, File};

/// The documents of Dapr's kinds in these files. Problems are printed.
///
/// # Errors
/// A document is not valid.
pub fn read(files: &[File], output: &Output) -> anyhow::Result<Vec<Located<Document>>> {
    files.iter().for_each(warn_of_broken);
    let mut project = validate::read(files);
    pass_over_unknown_kinds(&mut project.read);
    project.read.warnings.retain(|problem| !is_beside_the_point(problem));
    validate::report(&project, files, output);
    if !project.read.errors.is_empty() {
        bail!(Failed::Invalid);
    }
    Ok(of_dapr(project.read.documents))
}

/// The same, each document by itself, with all problems.
pub fn read_each(files: &[File]) -> (Vec<Located<Document>>, Vec<Problem>) {
    let mut all = Read::default();
    for file in files.iter().filter(|file| dodai_api::mentions_us(&file.bytes)) {
        let one = dodai_api::read(&Source { name: &file.name, bytes: &file.bytes });
        all.documents.extend(one.documents);
        all.errors.extend(one.errors);
        all.warnings.extend(one.warnings);
    }
    pass_over_unknown_kinds(&mut all);
    (of_dapr(all.documents), all.errors.into_iter().chain(all.warnings).collect())
}

/// A file that is no YAML and names no kind of ours may have been meant as one: it is passed over, but not in silence.
fn warn_of_broken(file: &File) {
    if dodai_api::mentions_us(&file.bytes) {
        return;
    }
    let read = dodai_api::read(&Source { name: &file.name, bytes: &file.bytes });
    if let Some(problem) = read.errors.iter().find(|problem| problem.code == Code::Syntax) {
        tracing::warn!(file = %file.name, "the file cannot be read as YAML and is passed over: {problem}");
    }
}

fn of_dapr(mut documents: Vec<Located<Document>>) -> Vec<Located<Document>> {
    documents.retain(|one| {
        let kind = one.value.kind();
        if kind.is_strict() {
            tracing::warn!(file = %one.file, "a {kind} is no document of a sidecar and is left out; use `dodai up`");
        }
        !kind.is_strict()
    });
    documents
}

/// The YAML files right in a folder, in name order, as daprd reads them.
pub fn add_folder(folder: &Path, files: &mut Vec<File>) -> anyhow::Result<()> {
    files_in(folder)?.iter().try_for_each(|path| add_file(path, files))
}

/// Which files these are.
pub fn files_in(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if path.is_file() && dodai_api::is_document_path(&name) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// One file.
pub fn add_file(path: &Path, files: &mut Vec<File>) -> anyhow::Result<()> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    files.push(File { name: path.display().to_string(), bytes });
    Ok(())
}

/// An app's name, given by this setting: a label of host names here; Dapr takes any text without dots.
///
/// # Errors
/// It is none. One that would do is named.
pub fn app_name(setting: &str, id: &str) -> anyhow::Result<Name> {
    Name::new(id).with_context(|| {
        let label: String = id
            .to_ascii_lowercase()
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect();
        let label = label.trim_matches('-');
        let remedy = match Name::new(label) {
            Ok(label) => format!("; write {setting} {label}, and invoke it by that name"),
            Err(_) => String::new(),
        };
        format!("{setting} {id}: an app's name stands in host names here{remedy}")
    })
}

/// Dapr has kinds that do not exist here; a folder that holds one is not wrong for that.
fn pass_over_unknown_kinds(read: &mut Read) {
    let (unknown, errors): (Vec<Problem>, _) =
        std::mem::take(&mut read.errors).into_iter().partition(|one| one.code == Code::UnknownKind);
    read.errors = errors;
    read.warnings.extend(unknown.into_iter().map(Problem::warning));
}

/// What is said of a whole project, and not of one sidecar's part of it: other apps have sidecars of their own,
/// which are not known here. A component that does not come up is told when it does not.
fn is_beside_the_point(problem: &Problem) -> bool {
    let of_others = ["scopes[", "spec.targets.apps", "spec.type"];
    problem.code == Code::UnknownReference && of_others.iter().any(|path| problem.path.starts_with(path))
}
