//! `dodai validate`: checks documents and prints every problem with its place and remedy.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use dodai_api::{Problem, Project, Source};
use dodai_base::node::component_types;
use serde_json::json;

use crate::cli::Validate;
use crate::environment::Environment;
use crate::exit::Failed;
use crate::local::own_documents;
use crate::output::Output;
use crate::run_file::RunPath;

/// The documents that a command is given.
#[derive(Args, Clone, Debug, Default)]
pub struct Paths {
    /// Files and folders; `-` for standard input. Default: the current folder, if it holds documents.
    #[arg(value_name = "PATH")]
    pub given: Vec<PathBuf>,
    /// The same (repeat).
    #[arg(short = 'f', long = "file", value_name = "PATH")]
    pub files: Vec<PathBuf>,
}

impl Paths {
    /// What was given, or the current folder.
    ///
    /// # Errors
    /// Nothing was, and the current folder holds no documents.
    pub fn resolve(&self) -> anyhow::Result<Vec<PathBuf>> {
        let paths: Vec<PathBuf> = self.given.iter().chain(&self.files).cloned().collect();
        if paths.is_empty() { Ok(vec![here()?]) } else { Ok(paths) }
    }
}

/// The current folder, where it holds documents.
fn here() -> anyhow::Result<PathBuf> {
    let here = PathBuf::from(".");
    let mut files = Vec::new();
    collect(&here, &mut files)?;
    if files.iter().any(holds_documents) {
        return Ok(here);
    }
    let folder = std::env::current_dir().context("the working directory is gone")?;
    let text = format!(
        "no path is given, and {} holds no documents; name a file or a folder, or `-` for standard input",
        folder.display()
    );
    Err(anyhow::Error::new(Failed::Arguments).context(text))
}

/// Whether a file that was found in a folder is of ours.
pub fn holds_documents(file: &File) -> bool {
    let is_manifest = Path::new(&file.name).file_name().is_some_and(|name| name == dodai_api::MANIFEST);
    is_manifest || dodai_api::mentions_us(&file.bytes)
}

/// Runs the command.
pub fn run(arguments: &Validate, environment: &Environment, output: &Output) -> anyhow::Result<ExitCode> {
    let (mut files, mut run_files) = (Vec::new(), Vec::new());
    let nothing_given = arguments.paths.given.is_empty() && arguments.paths.files.is_empty();
    let paths = match nothing_given && Path::new(dodai_api::RUN_FILE).is_file() {
        true => vec![PathBuf::from(".")],
        false => arguments.paths.resolve()?,
    };
    for path in paths {
        match run_file_of(&path)? {
            Some(file) => run_files.push(RunPath::new(file, environment).check()?),
            None => collect(&path, &mut files)?,
        }
    }
    let mut project = read(&files);
    let mut documents = project.read.documents.len();
    for checked in run_files {
        documents += checked.count();
        project.read.errors.extend(checked.read.errors);
        project.read.warnings.extend(checked.read.warnings);
        files.extend(checked.files);
    }
    let value =
        json!({ "documents": documents, "errors": project.read.errors, "warnings": project.read.warnings });
    if !output.value(&value) {
        report(&project, &files, output);
    }
    anyhow::ensure!(project.read.errors.is_empty(), Failed::Invalid);
    output.say(&match documents {
        0 => "there is no document here: files that name neither dodai.dev/ nor dapr.io/ are passed over"
            .to_owned(),
        1 => "1 document is valid".to_owned(),
        more => format!("{more} documents are valid"),
    });
    Ok(ExitCode::SUCCESS)
}

/// Dapr's file of several apps at a path: the file itself, or that of a folder which `up` would run by it.
fn run_file_of(path: &Path) -> anyhow::Result<Option<PathBuf>> {
    if path.is_dir() {
        let file = path.join(dodai_api::RUN_FILE);
        let is_run = file.is_file() && own_documents(path)?.is_none();
        return Ok(is_run.then_some(file));
    }
    // A pipe can be read only once.
    if path == Path::new(STDIN) || !path.is_file() {
        return Ok(None);
    }
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let named = path.file_name().is_some_and(|name| name == dodai_api::RUN_FILE);
    let is_run = dodai_api::is_run_file(&bytes) || (named && !dodai_api::mentions_us(&bytes));
    Ok(is_run.then(|| path.to_owned()))
}

/// A file as read.
pub struct File {
    /// Its path as messages show it.
    pub name: String,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// Reads all files as one project.
pub fn read(files: &[File]) -> Project {
    let sources: Vec<Source<'_>> =
        files.iter().map(|file| Source { name: &file.name, bytes: &file.bytes }).collect();
    let mut project = dodai_api::read_all(&sources);
    let known = component_types();
    let known: Vec<&str> = known.iter().map(|one| one.kind.as_str()).collect();
    let warnings = &mut project.read.warnings;
    warnings.extend(dodai_api::unknown_drivers(&project.read.documents, &known));
    warnings.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
    project
}

/// Prints problems to standard error.
pub fn report(project: &Project, files: &[File], output: &Output) {
    let read = &project.read;
    let texts: BTreeMap<&str, &[u8]> =
        files.iter().map(|file| (file.name.as_str(), file.bytes.as_slice())).collect();
    let show = |problem: &Problem, word: &str| {
        let text =
            texts.get(problem.file.as_str()).map(|bytes| String::from_utf8_lossy(bytes)).unwrap_or_default();
        output.problem(word, &problem.render(&text));
    };
    for problem in &read.warnings {
        show(problem, "warning:");
    }
    for problem in &read.errors {
        show(problem, "error:");
    }
}

/// What stands for standard input where a file is named, and in messages.
pub const STDIN: &str = "-";

/// Reads a document file, every document file below a folder, or standard input.
pub fn collect(path: &Path, files: &mut Vec<File>) -> anyhow::Result<()> {
    if path == Path::new(STDIN) {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).context("cannot read standard input")?;
        files.push(File { name: STDIN.to_owned(), bytes });
        return Ok(());
    }
    if path.is_dir() {
        for file in files_below(path)? {
            add(&file, files)?;
        }
        return Ok(());
    }
    add(path, files)
}

fn add(path: &Path, files: &mut Vec<File>) -> anyhow::Result<()> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    files.push(File { name: path.display().to_string(), bytes });
    Ok(())
}

/// Folders that a walk has been in: each is looked into once, however many links lead to it.
#[derive(Default)]
pub struct Visited(BTreeSet<(u64, u64)>);

impl Visited {
    /// Whether the walk has yet to look into a folder; from now on it has.
    pub fn enter(&mut self, folder: &Path) -> bool {
        // One that is not there any more is told by whoever reads it.
        folder.metadata().map_or(true, |about| self.0.insert((about.dev(), about.ino())))
    }
}

/// Document files below a folder in name order. Hidden folders, build output and dependencies are left out; links
/// are followed, and a folder is read once whatever leads to it.
pub fn files_below(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let (mut folders, mut links) = (vec![root.to_owned()], Vec::new());
    let mut visited = Visited::default();
    // Folders are known by the name that they have; links to them come last.
    while let Some(folder) = folders.pop().or_else(|| links.pop()) {
        if !visited.enter(&folder) {
            continue;
        }
        let entries =
            std::fs::read_dir(&folder).with_context(|| format!("cannot read folder {}", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let skipped =
                name.starts_with('.') || ["target", "node_modules", "artifacts"].contains(&name.as_str());
            if path.is_dir() && !skipped {
                let next = if path.is_symlink() { &mut links } else { &mut folders };
                next.push(path);
            } else if path.is_file() {
                // Where the project itself lies says nothing about its files.
                let below = path.strip_prefix(root).unwrap_or(&path);
                if dodai_api::is_document_path(&below.to_string_lossy()) {
                    found.push(path);
                }
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_may_lie_anywhere() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().join(".hidden/vendor/target/shop");
        for (path, text) in [("dodai.yaml", "a"), ("apps/web.yaml", "b"), ("vendor/c.yaml", "c")] {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            std::fs::write(path, text).expect("written");
        }
        let found = files_below(&root).expect("read");
        assert_eq!(found, [root.join("apps/web.yaml"), root.join("dodai.yaml")]);
    }

    #[test]
    fn links_in_a_circle_lead_to_each_folder_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let (root, beside) = (folder.path().join("shop"), folder.path().join("beside"));
        for path in [root.join("b/apps"), beside.clone()] {
            std::fs::create_dir_all(path).expect("made");
        }
        for path in [root.join("dodai.yaml"), root.join("b/apps/web.yaml"), beside.join("more.yaml")] {
            std::fs::write(path, "").expect("written");
        }
        let link = |to: &str, from: &str| std::os::unix::fs::symlink(to, root.join(from)).expect("linked");
        for (to, from) in
            [(".", "a"), (".", "c"), ("..", "b/up"), ("b/apps", "also"), ("../../beside", "b/z")]
        {
            link(to, from);
        }
        link("nowhere", "d.yaml");
        let found = files_below(&root).expect("read");
        let names = ["b/apps/web.yaml", "b/z/more.yaml", "dodai.yaml"];
        assert_eq!(found, names.map(|name| root.join(name)));
        let product = root.join("none");
        assert!(crate::local::newest(&root, &product).is_some());
    }
}
