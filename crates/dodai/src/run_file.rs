//! `dodai up` and `dodai validate` on a `dapr.yaml`: its apps and their resources as documents, and the ports that it fixes.
//!
//! Where things are looked for, and what wins, is as in dapr/cli 1.16 (`pkg/runfileconfig`). What is one folder of
//! resources for each sidecar there is one project here, so a document holds for the apps whose folder it lies in.

mod app;
mod scoped;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::Context;
use dodai_api::{Code, Document, Name, Problem, Project, Read, RunFile, RunSettings, Severity, Source};
use dodai_core::id::{AppId, Name as Label};

use crate::daprd::resources::{self, app_name};
use crate::environment::Environment;
use crate::exit::Failed;
use crate::output::Output;
use crate::validate::{self, File};
use app::AskedApp;
use scoped::Scoped;

/// A run file, and where what it leaves out is looked for.
#[derive(Clone, Debug)]
pub struct RunPath {
    /// The file.
    pub file: PathBuf,
    /// The user's home folder.
    pub home: Option<PathBuf>,
    /// The folder that holds `.dapr` in place of the home folder: `DAPR_RUNTIME_PATH`.
    pub runtime: Option<PathBuf>,
}

/// What a run file fixes that no document says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ways {
    /// Addresses of the API by app: over HTTP, then over gRPC. Either serves both.
    pub api: BTreeMap<AppId, Vec<SocketAddr>>,
    /// Apps without a command: somebody else starts them.
    pub attached: BTreeSet<AppId>,
}

/// What a run file and all that it names come to.
#[derive(Default)]
pub struct Checked {
    /// The documents, with every problem.
    pub read: Read,
    /// The files that were read.
    pub files: Vec<File>,
}

/// What the file asks for.
struct Asked {
    file: RunFile,
    apps: Vec<AskedApp>,
}

/// Something that an app uses: where it is, and which key of the file names it, if one does.
struct Named {
    path: PathBuf,
    key: Option<String>,
}

impl Checked {
    /// Each problem is told once, however many apps have it.
    fn add(&mut self, problem: Problem) {
        let all = match problem.severity {
            Severity::Error => &mut self.read.errors,
            Severity::Warning => &mut self.read.warnings,
        };
        if !all.contains(&problem) {
            all.push(problem);
        }
    }

    /// How many documents there are for a user: the policies of apps are nobody's.
    pub fn count(&self) -> usize {
        let is_policy = |document: &Document| matches!(document, Document::Policy(_));
        self.read.documents.iter().filter(|one| !is_policy(&one.value)).count()
    }
}

impl RunPath {
    /// A run file of whoever has this environment.
    pub fn new(file: PathBuf, environment: &Environment) -> RunPath {
        let named = |name: &str| {
            environment.get(name).map(str::trim).filter(|path| !path.is_empty()).map(PathBuf::from)
        };
        RunPath { file, home: named("HOME"), runtime: named("DAPR_RUNTIME_PATH") }
    }

    /// The file's apps and resources as a project's documents. Problems are printed.
    ///
    /// # Errors
    /// The file or a resource is not valid, or two resources of one name are not the same.
    pub fn read(&self, output: &Output) -> anyhow::Result<Project> {
        let Checked { read, files } = self.check()?;
        let project = Project { read, skipped: Vec::new() };
        validate::report(&project, &files, output);
        anyhow::ensure!(project.read.errors.is_empty(), Failed::Invalid);
        Ok(project)
    }

    /// The same, with every problem of the file, of the resources, and of what each app gets of them together.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn check(&self) -> anyhow::Result<Checked> {
        let mut found = Checked::default();
        if let Some(asked) = self.asked(&mut found)? {
            self.check_asked(&asked, &mut found);
        }
        let own = self.file.display().to_string();
        for all in [&mut found.read.errors, &mut found.read.warnings] {
            all.sort_by_cached_key(|one| (one.file != own, one.file.clone(), one.line, one.column));
        }
        Ok(found)
    }

    /// Reads what the file names, and makes the documents of it.
    fn check_asked(&self, asked: &Asked, found: &mut Checked) {
        let mut scoped = Scoped::default();
        for (folder, users) in self.folders(asked, found) {
            let mut files = Vec::new();
            match resources::add_folder(&folder.path, &mut files) {
                Ok(()) => scoped.add(self.resources(files, found), &users, found),
                Err(error) => found.add(self.unreadable(asked, &folder, &error)),
            }
        }
        let mut documents = Vec::new();
        for app in &asked.apps {
            let mut configuration = None;
            if let Some(file) = self.configuration(app, asked, found) {
                let mut files = Vec::new();
                if let Err(error) = resources::add_file(&file.path, &mut files) {
                    found.add(self.unreadable(asked, &file, &error));
                }
                let all = self.resources(files, found);
                let named = all.iter().find(|one| matches!(one.value, Document::Configuration(_)));
                configuration = named.map(|one| one.value.metadata().name.to_string());
                scoped.add(all, &[app.id.clone()].into(), found);
            }
            documents.extend(app.documents(configuration.as_deref(), &asked.file, found));
        }
        // What is missing because it could not be read would be told twice.
        if found.read.errors.is_empty() {
            scoped.check_together(&documents, found);
        }
        let folders = asked.apps.iter().map(|app| (app.id.clone(), app.folder.as_path())).collect();
        documents.extend(scoped.into_documents(&folders, self.folder(), found));
        found.read.documents = documents;
    }

    /// The ports that the file fixes.
    ///
    /// # Errors
    /// The file is not valid.
    pub fn ways(&self) -> anyhow::Result<Ways> {
        let mut ways = Ways::default();
        let asked = self.asked(&mut Checked::default())?.context(Failed::Invalid)?;
        for app in asked.apps {
            let at = |port: Option<u16>| SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port.unwrap_or(0));
            let (http, grpc) = (app.settings.dapr_http_port, app.settings.dapr_grpc_port);
            let addresses = match grpc {
                Some(_) => vec![at(http), at(grpc)],
                None => vec![at(http)],
            };
            if http.or(grpc).is_some() {
                ways.api.insert(app.id.clone(), addresses);
            }
            if app.command().is_none() {
                ways.attached.insert(app.id);
            }
        }
        Ok(ways)
    }

    /// What it is made of: itself, resources and Configurations, and the folders that they lie in, where more may come.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files = vec![self.file.clone()];
        let mut found = Checked::default();
        let Ok(Some(asked)) = self.asked(&mut found) else { return files };
        for (folder, _) in self.folders(&asked, &mut found) {
            files.extend(resources::files_in(&folder.path).unwrap_or_default());
        }
        for app in &asked.apps {
            files.extend(self.configuration(app, &asked, &mut found).map(|file| file.path));
        }
        files
    }

    /// What the file asks for, but for apps that are not valid.
    fn asked(&self, found: &mut Checked) -> anyhow::Result<Option<Asked>> {
        let name = self.file.display().to_string();
        let bytes = std::fs::read(&self.file).with_context(|| format!("cannot read {name}"))?;
        let (file, read) = RunFile::read(&Source { name: &name, bytes: &bytes });
        found.files.push(File { name, bytes });
        read.errors.into_iter().chain(read.warnings).for_each(|problem| found.add(problem));
        let Some(file) = file else { return Ok(None) };
        let namespace = Label::new(Name::default_namespace().as_str())?;
        let mut apps: Vec<AskedApp> = Vec::new();
        for (place, settings) in file.settled() {
            let folder = self.path(self.folder(), settings.app_dir_path.as_deref().unwrap_or("."));
            if !folder.is_dir() {
                let message = format!("there is no folder {}", folder.display());
                let problem = file.problem(Code::InvalidValue, format!("{place}.appDirPath"), message);
                found.add(problem.remedy("write its path from the folder of this file"));
                continue;
            }
            let of_folder = || folder.canonicalize().ok()?.file_name()?.to_str().map(str::to_owned);
            let id = settings.app_id.clone().or_else(of_folder).unwrap_or_default();
            let path = format!("{place}.appID");
            let id = match app_name("appID", &id) {
                Ok(id) => id,
                Err(error) => {
                    found.add(file.problem(Code::InvalidValue, path, error.to_string()));
                    continue;
                }
            };
            if let Some(first) = apps.iter().find(|app| app.id.name == id) {
                let message = format!("there are two apps `{id}`, the first is `{}`", first.place);
                let problem = file.problem(Code::Conflict, path, message);
                found.add(problem.remedy("give one another `appID`"));
                continue;
            }
            apps.push(AskedApp { id: AppId::new(namespace.clone(), id), place, folder, settings });
        }
        Ok(Some(Asked { file, apps }))
    }

    /// The documents of files, each by itself.
    fn resources(&self, files: Vec<File>, found: &mut Checked) -> Vec<dodai_api::Located<Document>> {
        let (documents, problems) = resources::read_each(&files);
        problems.into_iter().for_each(|problem| found.add(problem));
        found.files.extend(files);
        documents
    }

    fn unreadable(&self, asked: &Asked, named: &Named, error: &anyhow::Error) -> Problem {
        let key = named.key.as_deref().unwrap_or_default();
        asked.file.problem(Code::InvalidValue, key, format!("{error:#}")).remedy("make it readable")
    }

    /// The folder of the file.
    fn folder(&self) -> &Path {
        match self.file.parent() {
            Some(folder) if folder == Path::new("") => Path::new("."),
            Some(folder) => folder,
            None => Path::new("/"),
        }
    }

    /// A path of the file; `~` is the home folder.
    fn path(&self, base: &Path, text: &str) -> PathBuf {
        match (text.strip_prefix('~').map(|rest| rest.trim_start_matches('/')), &self.home) {
            (Some(rest), Some(home)) => home.join(rest),
            _ => base.join(text.strip_prefix("./").unwrap_or(text)),
        }
    }

    /// What `dapr init` made for the user, or the file says in its place.
    fn of_user(&self, app: &AskedApp, asked: &Asked, name: &str) -> Option<PathBuf> {
        let named = |settings: &RunSettings, base: &Path| {
            settings.runtime_path.as_deref().map(|path| self.path(base, path.trim()))
        };
        let own = named(&app.settings, &app.folder).or_else(|| named(&asked.file.common, self.folder()));
        let found = own.or_else(|| self.runtime.clone()).or_else(|| self.home.clone());
        Some(found?.join(".dapr").join(name))
    }

    /// Folders of resources with the apps that read them.
    fn folders(&self, asked: &Asked, found: &mut Checked) -> Vec<(Named, BTreeSet<AppId>)> {
        let mut all: BTreeMap<PathBuf, (Named, BTreeSet<AppId>)> = BTreeMap::new();
        for app in &asked.apps {
            let folders = self.folders_of(app, asked);
            if folders.is_empty() {
                let message = "this app has no components: there is neither `.dapr/resources` in its folder nor \
                               `~/.dapr/components`";
                let problem = asked.file.problem(Code::UnknownReference, &app.place, message);
                found.add(problem.remedy("name a folder in `resourcesPaths`").warning());
            }
            for Named { path, key } in folders {
                let Ok(real) = path.canonicalize() else {
                    let message = format!("there is no folder {}", path.display());
                    let key = key.unwrap_or_default();
                    let begins = if key.starts_with("common") { "this file" } else { "the app" };
                    let problem = asked.file.problem(Code::InvalidValue, key, message);
                    found.add(problem.remedy(format!("write its path from the folder of {begins}")));
                    continue;
                };
                let entry = all.entry(real.clone());
                let entry = entry.or_insert_with(|| (Named { path: real, key }, BTreeSet::new()));
                entry.1.insert(app.id.clone());
            }
        }
        all.into_values().collect()
    }

    /// The folders of resources that an app reads.
    fn folders_of(&self, app: &AskedApp, asked: &Asked) -> Vec<Named> {
        let own = self.named(&app.place, &app.settings, &app.folder);
        if !own.is_empty() {
            return own;
        }
        let unnamed = |path: PathBuf| path.is_dir().then_some(vec![Named { path, key: None }]);
        let of_all = || self.named("common", &asked.file.common, self.folder());
        unnamed(app.folder.join(".dapr/resources"))
            .or_else(|| Some(of_all()).filter(|all| !all.is_empty()))
            .or_else(|| self.of_user(app, asked, "components").and_then(unnamed))
            .unwrap_or_default()
    }

    /// Folders of resources that settings name.
    fn named(&self, place: &str, settings: &RunSettings, base: &Path) -> Vec<Named> {
        let lists = settings.resources_paths.iter().flatten().enumerate();
        let lists = lists.map(|(i, list)| (format!("{place}.resourcesPaths[{i}]"), list));
        let one = settings.resources_path.iter().map(|list| (format!("{place}.resourcesPath"), list));
        let mut found = Vec::new();
        for (key, list) in lists.chain(one) {
            for path in list.split(',').map(str::trim).filter(|path| !path.is_empty()) {
                found.push(Named { path: self.path(base, path), key: Some(key.clone()) });
            }
        }
        found
    }

    /// The file of an app's Configuration.
    fn configuration(&self, app: &AskedApp, asked: &Asked, found: &mut Checked) -> Option<Named> {
        let named = |place: &str, settings: &RunSettings, base: &Path| {
            let path = self.path(base, settings.config_file_path.as_deref()?);
            Some(Named { path, key: Some(format!("{place}.configFilePath")) })
        };
        let unnamed = |path: PathBuf| path.is_file().then_some(Named { path, key: None });
        let file = named(&app.place, &app.settings, &app.folder)
            .or_else(|| unnamed(app.folder.join(".dapr/config.yaml")))
            .or_else(|| named("common", &asked.file.common, self.folder()))
            .or_else(|| self.of_user(app, asked, "config.yaml").and_then(unnamed))?;
        if !file.path.is_file() {
            let message = format!("there is no file {}", file.path.display());
            let key = file.key.unwrap_or_default();
            found.add(asked.file.problem(Code::InvalidValue, key, message));
            return None;
        }
        Some(file)
    }
}

#[cfg(test)]
mod tests;
