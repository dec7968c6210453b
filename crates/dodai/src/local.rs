//! A project folder as control sees it: its documents, what they want built, and the artefacts they name.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use anyhow::Context;
use dodai_api::{AppSpec, Build, Document, Workload};
use dodai_core::file;
use dodai_core::id::{AppId, Digest};
use dodai_modules::digest_of;

use crate::environment::Environment;
use crate::exit::Failed;
use crate::output::Output;
use crate::run_file::RunPath;
use crate::tools;
use crate::validate::{self, File};

/// This executable, as children are started from it: the one that runs now, even if the file was replaced.
pub fn executable() -> anyhow::Result<OsString> {
    if Path::new("/proc/self/exe").exists() {
        return Ok("/proc/self/exe".into());
    }
    Ok(std::env::current_exe().context("cannot tell where this program is")?.into())
}

/// The most bytes of a component: what a server takes of one.
pub const MAX_ARTIFACT_BYTES: u64 = dodai_admin::api::MAX_ARTIFACT_BYTES as u64;
/// The most bytes of a program or script of a process, which is only looked at, never sent.
const MAX_PROGRAM_BYTES: u64 = 2 << 30;

/// A project folder.
#[derive(Clone, Debug)]
pub struct Project {
    /// The folder, absolute.
    pub folder: PathBuf,
    /// What its documents are made from, if they are not written.
    pub run_file: Option<RunPath>,
}

impl Project {
    /// Opens a folder, or Dapr's file of several apps: `dapr.yaml`, which a folder may also hold in place of documents
    /// of our own kinds.
    ///
    /// # Errors
    /// There is no such folder or file, or the file is one of documents.
    pub fn open(path: &Path, environment: &Environment, output: &Output) -> anyhow::Result<Project> {
        let path = path.canonicalize().with_context(|| format!("there is no folder {}", path.display()))?;
        let run_file = |file| RunPath::new(file, environment);
        if path.is_dir() {
            let file = Some(path.join(dodai_api::RUN_FILE)).filter(|file| file.is_file());
            let own = if file.is_some() { own_documents(&path)? } else { None };
            if let (Some(file), Some(own)) = (&file, &own) {
                output.note(&format!(
                    "the documents of this folder are taken ({} is one) and not {}; `-f {}` takes that",
                    own.strip_prefix(&path).unwrap_or(own).display(),
                    dodai_api::RUN_FILE,
                    file.display()
                ));
            }
            return Ok(Project { folder: path, run_file: file.filter(|_| own.is_none()).map(run_file) });
        }
        let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        anyhow::ensure!(
            !dodai_api::mentions_us(&bytes),
            "{} is a file of documents; name the folder that it lies in",
            path.display()
        );
        let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
        Ok(Project { folder, run_file: Some(run_file(path)) })
    }

    /// Its name: what its documents are pruned by.
    pub fn name(&self) -> String {
        self.folder.display().to_string()
    }

    /// Reads its documents, printing every problem.
    pub fn read(&self, output: &Output) -> anyhow::Result<dodai_api::Project> {
        if let Some(file) = &self.run_file {
            return file.read(output);
        }
        let mut files: Vec<File> = Vec::new();
        validate::collect(&self.folder, &mut files)?;
        let project = validate::read(&files);
        validate::report(&project, &files, output);
        anyhow::ensure!(project.read.errors.is_empty(), Failed::Invalid);
        anyhow::ensure!(
            !project.read.documents.is_empty(),
            "{} holds no documents; write a {} (see `dodai --help`)",
            self.folder.display(),
            dodai_api::MANIFEST
        );
        Ok(project)
    }

    /// Builds the apps whose product is missing or older than its inputs. The names of those it built.
    ///
    /// # Errors
    /// A build failed, or made nothing.
    pub async fn build(
        &self,
        project: &dodai_api::Project,
        environment: &Environment,
        output: &Output,
    ) -> anyhow::Result<Vec<String>> {
        let mut built = Vec::new();
        for located in &project.read.documents {
            let Document::App(app) = &located.value else { continue };
            let Some((build, product)) = self.product(&app.spec) else { continue };
            if self.is_current(build, &product) {
                continue;
            }
            let name = app.metadata.name.as_str();
            output.say(&format!("building {name}: {}", build.command.join(" ")));
            let start = Instant::now();
            let done = self.run_build(build, environment, output).await;
            done.with_context(|| format!("building app {name} in {}", self.build_folder(build).display()))?;
            anyhow::ensure!(
                product.exists(),
                "the build of app {name} ended well but {} is not there; check its build command",
                product.display()
            );
            output.say(&format!("built {name} in {:.1} s", start.elapsed().as_secs_f64()));
            built.push(name.to_owned());
        }
        Ok(built)
    }

    /// The files that a process runs, as far as its document names them: its program, if by a path, and the script
    /// that a program from outside the project is given (`python3 shop.py`): its first argument that is no flag.
    pub fn programs(&self, process: &dodai_api::Process) -> Vec<PathBuf> {
        let Some((program, arguments)) = process.command.split_first() else { return Vec::new() };
        let program = program.contains('/').then(|| self.folder.join(program));
        // A virtual environment's Python is a link to the system's.
        let real = program.as_ref().and_then(|path| path.canonicalize().ok());
        let is_ours = real.or(program.clone()).is_some_and(|path| path.starts_with(&self.folder));
        let folder = self.folder.join(process.working_directory.as_deref().unwrap_or(""));
        let first = arguments.iter().find(|argument| !argument.starts_with('-')).filter(|_| !is_ours);
        let script = first.map(|script| folder.join(script));
        let is_script = |path: &PathBuf| path.starts_with(&self.folder) && path.is_file();
        program.into_iter().chain(script.filter(is_script)).collect()
    }

    /// What an app builds and where the product is.
    pub fn product<'a>(&self, spec: &'a AppSpec) -> Option<(&'a Build, PathBuf)> {
        let (build, own) = match spec.workload()? {
            Workload::Module(module) => (module.build.as_ref()?, Some(&module.artifact)),
            Workload::Process(process) => {
                (process.build.as_ref()?, process.command.first().filter(|program| program.contains('/')))
            }
            Workload::External(_) => return None,
        };
        Some((build, self.folder.join(build.product.as_ref().or(own)?)))
    }

    fn is_current(&self, build: &Build, product: &Path) -> bool {
        let Ok(built) = product.metadata().and_then(|metadata| metadata.modified()) else { return false };
        let inputs: Vec<PathBuf> = if build.inputs.is_empty() {
            vec![self.build_folder(build)]
        } else {
            build.inputs.iter().map(|input| self.folder.join(input)).collect()
        };
        inputs.iter().all(|input| newest(input, product).is_none_or(|changed| changed <= built))
    }

    /// Where an app is built.
    fn build_folder(&self, build: &Build) -> PathBuf {
        build
            .working_directory
            .as_ref()
            .map_or_else(|| self.folder.clone(), |folder| self.folder.join(folder))
    }

    async fn run_build(
        &self,
        build: &Build,
        environment: &Environment,
        output: &Output,
    ) -> anyhow::Result<()> {
        let (program, arguments) = build.command.split_first().context("the build command is empty")?;
        let folder = self.build_folder(build);
        // Where results go to a program, what a build says is beside them.
        let told = if output.is_structured() {
            std::io::stderr().as_fd().try_clone_to_owned().context("cannot use standard error")?.into()
        } else {
            Stdio::inherit()
        };
        let status = tokio::process::Command::new(program)
            .args(arguments)
            .current_dir(&folder)
            .env_clear()
            .envs(environment.0.iter().filter(|(name, _)| !name.starts_with("CARGO_")))
            .stdin(Stdio::null())
            .stdout(told)
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .status()
            .await
            .map_err(|error| {
                if error.kind() == ErrorKind::NotFound && folder.is_dir() {
                    let remedy = tools::remedy(program, &folder, &self.folder);
                    let otherwise = "or build by hand and start with --no-build";
                    return anyhow::anyhow!("there is no `{program}` in PATH; {remedy}, {otherwise}");
                }
                anyhow::Error::new(error).context(format!("cannot run `{program}`"))
            })?;
        anyhow::ensure!(status.success(), "`{}` ended with {status}", build.command.join(" "));
        Ok(())
    }
}

/// A file of a folder that holds documents of our own kinds.
pub fn own_documents(folder: &Path) -> anyhow::Result<Option<PathBuf>> {
    let mut files: Vec<File> = Vec::new();
    validate::collect(folder, &mut files)?;
    let is_manifest = |file: &File| Path::new(&file.name) == folder.join(dodai_api::MANIFEST);
    let own = files.into_iter().find(|file| is_manifest(file) || dodai_api::has_own_kinds(&file.bytes));
    Ok(own.map(|file| PathBuf::from(file.name)))
}

/// When something at or below `path` last changed, leaving out the product and build folders.
pub fn newest(path: &Path, product: &Path) -> Option<SystemTime> {
    newest_of(path, product, &mut validate::Visited::default())
}

fn newest_of(path: &Path, product: &Path, visited: &mut validate::Visited) -> Option<SystemTime> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if path == product
        || name == "target"
        || name == "node_modules"
        || (name.starts_with('.') && name.len() > 2)
    {
        return None;
    }
    if !path.is_dir() {
        return path.metadata().ok()?.modified().ok();
    }
    if !visited.enter(path) {
        return None;
    }
    let entries = std::fs::read_dir(path).ok()?;
    entries.filter_map(|entry| newest_of(&entry.ok()?.path(), product, visited)).max()
}

/// Resolves what documents say about artefacts against a project folder, keeping modules in a content store.
pub struct FolderArtifacts {
    /// The project.
    pub project: Project,
    /// Where artefacts are kept.
    pub store: Arc<dodai_modules::Artifacts>,
}

impl dodai_control::documents::Artifacts for FolderArtifacts {
    fn module(&self, app: &AppId, artifact: &str) -> Result<Digest, String> {
        if artifact.starts_with("sha256:") {
            let digest = Digest::new(artifact);
            return if self.store.contains(&digest) {
                Ok(digest)
            } else {
                Err(format!(
                    "{app}: the artefact {artifact} is not stored here; deploy it with `dodai deploy`"
                ))
            };
        }
        let path = self.project.folder.join(artifact);
        let bytes = file::read(&path, MAX_ARTIFACT_BYTES)
            .map_err(|error| format!("{app}: cannot read artefact {}: {error}", path.display()))?;
        self.store.put(&bytes).map_err(|error| format!("{app}: {:#}", anyhow::Error::new(error)))
    }

    fn process(&self, _app: &AppId, process: &dodai_api::Process) -> Result<Option<Digest>, String> {
        // A program found through PATH is the system's. A file of the project is ours, and other content a new
        // revision.
        let mut digests = Vec::new();
        for path in self.project.programs(process) {
            let bytes = file::read(&path, MAX_PROGRAM_BYTES).map_err(|error| {
                format!("cannot read the program {}: {error}; build it first", path.display())
            })?;
            digests.push(digest_of(&bytes));
        }
        let all = || digests.iter().map(ToString::to_string).collect::<String>();
        Ok(match digests.as_slice() {
            [] => None,
            [one] => Some(one.clone()),
            _ => Some(digest_of(all().as_bytes())),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_runs_is_its_program_and_its_script() {
        let folder = tempfile::tempdir().unwrap();
        let environment = Environment([].into());
        let project = Project::open(folder.path(), &environment, &Output::plain(&environment)).unwrap();
        std::fs::create_dir(project.folder.join("app")).unwrap();
        for path in ["run", "shop.py", "app/shop.py", "data.db"] {
            std::fs::write(project.folder.join(path), path).unwrap();
        }
        let check = |command: &[&str], folder: Option<&str>, expect: &[&str]| {
            let mut process = serde_json::json!({ "command": command });
            if let Some(folder) = folder {
                process["workingDirectory"] = folder.into();
            }
            let process: dodai_api::Process = serde_json::from_value(process).unwrap();
            let expect: Vec<PathBuf> = expect.iter().map(|path| project.folder.join(path)).collect();
            assert_eq!(project.programs(&process), expect, "{command:?}");
        };
        check(&["./run", "data.db"], None, &["run"]);
        check(&["python3", "-u", "shop.py", "data.db"], None, &["shop.py"]);
        check(&["python3", "shop.py"], Some("app"), &["app/shop.py"]);
        check(&["/usr/bin/env", "shop.py"], None, &["/usr/bin/env", "shop.py"]);
        std::fs::create_dir(project.folder.join("venv")).unwrap();
        std::os::unix::fs::symlink("/bin/sh", project.folder.join("venv/python3")).unwrap();
        check(&["venv/python3", "shop.py"], None, &["venv/python3", "shop.py"]);
        check(&["sleep", "3600"], None, &[]);
        check(&["python3", "-m", "http.server"], None, &[]);
        check(&["cat", "/etc/hostname"], None, &[]);
    }
}
