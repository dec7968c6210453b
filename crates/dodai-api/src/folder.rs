//! A project folder: which of its files are documents, and all of them read together.

use std::collections::BTreeMap;

use crate::read::{Problem, Read, Severity, Source, is_meant_for_us, read};
use crate::run_file::is_run_file;
use crate::validate::validate_set;

/// The file at the root of a project that is always read.
pub const MANIFEST: &str = "dodai.yaml";

/// Folders that are never looked into; folders whose name begins with `.` are not either.
const PASSED_OVER: [&str; 4] = ["node_modules", "target", "vendor", "__pycache__"];

/// Whether a file of a project, named by its path from the project folder, may hold documents.
pub fn is_document_path(path: &str) -> bool {
    let mut parts = path.rsplit(['/', '\\']);
    let Some(file) = parts.next() else { return false };
    let extension =
        [".yaml", ".yml", ".json"].iter().any(|ext| file.len() > ext.len() && file.ends_with(ext));
    let skipped =
        |folder: &str| (folder.starts_with('.') && folder.len() > 2) || PASSED_OVER.contains(&folder);
    extension && !file.starts_with('.') && !parts.any(skipped)
}

/// What a project folder holds.
#[derive(Clone, Debug, Default)]
pub struct Project {
    /// Documents and problems of all files, and of all documents together.
    pub read: Read,
    /// Files that hold no documents of ours: they name neither `dodai.dev/` nor `dapr.io/`, or are run files.
    pub skipped: Vec<String>,
}

/// Reads the files of a project, each with its path, and checks them together.
///
/// The order of the files does not matter. References are checked only when every file could be read: otherwise
/// what is missing would be reported twice.
pub fn read_all(files: &[Source<'_>]) -> Project {
    let mut files: Vec<&Source<'_>> = files.iter().collect();
    files.sort_by_key(|source| source.name);
    let mut project = Project::default();
    for source in files {
        let is_manifest = source.name.rsplit(['/', '\\']).next() == Some(MANIFEST);
        if !is_manifest && !mentions_us(source.bytes) {
            project.skipped.push(source.name.to_owned());
            continue;
        }
        let one = read(source);
        project.read.documents.extend(one.documents);
        project.read.errors.extend(one.errors);
        project.read.warnings.extend(one.warnings);
    }
    if project.read.is_clean() {
        let together: Vec<Problem> = validate_set(&project.read.documents, &BTreeMap::new());
        for problem in together {
            match problem.severity {
                Severity::Error => project.read.errors.push(problem),
                Severity::Warning => project.read.warnings.push(problem),
            }
        }
    }
    project
}

/// Whether a file may hold documents: one that does not belongs to somebody else, or is Dapr's run file. An `apiVersion`
/// of ours that is misspelled is seen too, and text of two bytes per letter, as some editors save it, so that they are
/// refused and not passed over.
pub fn mentions_us(bytes: &[u8]) -> bool {
    let has = |word: &[u8]| {
        let wide: Vec<u8> = word.iter().flat_map(|byte| [*byte, 0]).collect();
        let narrow = || bytes.windows(word.len()).any(|window| window == word);
        narrow() || bytes.windows(wide.len()).any(|window| window == wide)
    };
    (has(b"dodai.dev/") || has(b"dapr.io/") || versions(bytes).any(is_meant_for_us)) && !is_run_file(bytes)
}

/// Whether a file holds documents of Dodai's own kinds, or such whose `apiVersion` is misspelled.
pub fn has_own_kinds(bytes: &[u8]) -> bool {
    versions(bytes).any(|version| version.starts_with("dodai")) && !is_run_file(bytes)
}

/// What follows the word `apiVersion` wherever it stands, in YAML or JSON.
fn versions(bytes: &[u8]) -> impl Iterator<Item = &str> {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    text.split("apiVersion").skip(1).map(|rest| {
        let rest = rest.trim_start_matches(['"', '\'', ':', ' ', '\t']);
        rest.split(['"', '\'', ',', '}', ' ', '\r', '\n']).next().unwrap_or_default()
    })
}
