//! `dodai up` on a `dapr.yaml`: its apps and their resources as documents, and the ports that it fixes.
//!
//! Where things are looked for, and what wins, is as in dapr/cli 1.16 (`pkg/runfileconfig`). What is one folder of
//! resources for each sidecar there is one project here, so a document holds for the apps whose folder it lies in.

mod scoped;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use dodai_api::{Document, Located, Name, RunFile, RunSettings, Source};
use dodai_core::id::{AppId, Name as Label};
use serde_json::{Value, json};

use crate::daprd::resources::{self, app_name};
use crate::exit::Failed;
use crate::output::Output;
use crate::validate::{self, File};
use scoped::Scoped;

/// Calls that may wait for an app that takes few at once.
const MAX_PENDING: u32 = 100_000;
/// Where an app that nobody calls is said to be.
const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9);
/// How apps are asked if they are well, unless the file says otherwise: the defaults of daprd.
const HEALTH: (&str, u32, u32, u32) = ("/healthz", 5, 500, 3);

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

/// What the file asks for.
struct Asked {
    /// What all apps share.
    common: RunSettings,
    apps: Vec<AskedApp>,
}

/// One app of the file.
struct AskedApp {
    id: AppId,
    folder: PathBuf,
    settings: RunSettings,
}

impl RunPath {
    /// The file's apps and resources as a project's documents. Problems are printed.
    ///
    /// # Errors
    /// The file or a resource is not valid, or two resources of one name are not the same.
    pub fn read(&self, output: &Output) -> anyhow::Result<dodai_api::Project> {
        let asked = self.asked(Some(output))?;
        let mut scoped = Scoped::default();
        for (folder, users) in self.folders(&asked, Some(output))? {
            let mut files = Vec::new();
            resources::add_folder(&folder, &mut files)
                .with_context(|| format!("cannot read {}", folder.display()))?;
            scoped.add(resources::read(&files, output)?, &users)?;
        }
        let mut documents = Vec::new();
        for app in &asked.apps {
            let mut configuration = None;
            if let Some(file) = self.configuration(app, &asked.common)? {
                let mut files = Vec::new();
                resources::add_file(&file, &mut files)?;
                let found = resources::read(&files, output)?;
                let named = found.iter().find(|one| matches!(one.value, Document::Configuration(_)));
                configuration = named.map(|one| one.value.metadata().name.to_string());
                scoped.add(found, &[app.id.clone()].into())?;
            }
            documents.extend(app.documents(configuration.as_deref(), output)?);
        }
        let folders = asked.apps.iter().map(|app| (app.id.clone(), app.folder.as_path())).collect();
        documents.extend(scoped.into_documents(&folders, self.folder(), output));
        let read = dodai_api::Read { documents, ..dodai_api::Read::default() };
        Ok(dodai_api::Project { read, skipped: Vec::new() })
    }

    /// The ports that the file fixes.
    ///
    /// # Errors
    /// The file is not valid.
    pub fn ways(&self) -> anyhow::Result<Ways> {
        let mut ways = Ways::default();
        for app in self.asked(None)?.apps {
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

    /// The files that it is made of: itself, resources and Configurations; of one that is not valid, itself alone.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files = vec![self.file.clone()];
        let Ok(asked) = self.asked(None) else { return files };
        for folder in self.folders(&asked, None).unwrap_or_default().keys() {
            files.extend(resources::files_in(folder).unwrap_or_default());
        }
        for app in &asked.apps {
            files.extend(self.configuration(app, &asked.common).ok().flatten());
        }
        files
    }

    fn asked(&self, output: Option<&Output>) -> anyhow::Result<Asked> {
        let name = self.file.display().to_string();
        let bytes = std::fs::read(&self.file).with_context(|| format!("cannot read {name}"))?;
        let (found, read) = RunFile::read(&Source { name: &name, bytes: &bytes });
        if let Some(output) = output {
            let files = [File { name: name.clone(), bytes: bytes.clone() }];
            validate::report(&dodai_api::Project { read, skipped: Vec::new() }, &files, output);
        }
        let Some(found) = found else { bail!(Failed::Invalid) };
        let namespace = Label::new(Name::default_namespace().as_str())?;
        let (mut apps, mut names): (Vec<AskedApp>, BTreeSet<Label>) = Default::default();
        for (place, settings) in found.settled() {
            let folder = self.path(self.folder(), settings.app_dir_path.as_deref().unwrap_or("."));
            ensure!(folder.is_dir(), "{name}: {place}.appDirPath: there is no folder {}", folder.display());
            let of_folder = || folder.canonicalize().ok()?.file_name()?.to_str().map(str::to_owned);
            let id = settings.app_id.clone().or_else(of_folder).unwrap_or_default();
            let id = app_name("appID", &id).with_context(|| format!("{name}: {place}"))?;
            ensure!(
                names.insert(id.clone()),
                "{name}: {place}: there are two apps `{id}`; give one another `appID`"
            );
            apps.push(AskedApp { id: AppId::new(namespace.clone(), id), folder, settings });
        }
        Ok(Asked { common: found.common, apps })
    }

    /// The folder of the file.
    fn folder(&self) -> &Path {
        self.file.parent().unwrap_or(Path::new("/"))
    }

    /// A path of the file; `~` is the home folder.
    fn path(&self, base: &Path, text: &str) -> PathBuf {
        match (text.strip_prefix('~').map(|rest| rest.trim_start_matches('/')), &self.home) {
            (Some(rest), Some(home)) => home.join(rest),
            _ => base.join(text.strip_prefix("./").unwrap_or(text)),
        }
    }

    /// What `dapr init` made for the user, or the file says in its place.
    fn of_user(&self, app: &AskedApp, common: &RunSettings, name: &str) -> Option<PathBuf> {
        let named = |settings: &RunSettings, base: &Path| {
            settings.runtime_path.as_deref().map(|path| self.path(base, path.trim()))
        };
        let own = named(&app.settings, &app.folder).or_else(|| named(common, self.folder()));
        let found = own.or_else(|| self.runtime.clone()).or_else(|| self.home.clone());
        Some(found?.join(".dapr").join(name))
    }

    /// Folders of resources with the apps that read them.
    fn folders(
        &self,
        asked: &Asked,
        output: Option<&Output>,
    ) -> anyhow::Result<BTreeMap<PathBuf, BTreeSet<AppId>>> {
        let mut all: BTreeMap<PathBuf, BTreeSet<AppId>> = BTreeMap::new();
        for app in &asked.apps {
            let beside = Some(app.folder.join(".dapr/resources")).filter(|path| path.is_dir());
            let named = self.named(&app.settings, &app.folder);
            let folders = match (named.is_empty(), beside) {
                (false, _) => named,
                (true, Some(beside)) => vec![beside],
                (true, None) => self.named(&asked.common, self.folder()),
            };
            let of_user = self
                .of_user(app, &asked.common, "components")
                .filter(|path| folders.is_empty() && path.is_dir());
            let nothing = folders.is_empty() && of_user.is_none();
            if let Some(output) = output.filter(|_| nothing) {
                output.warn(&format!(
                    "app {} has no components: there is neither .dapr/resources in its folder nor ~/.dapr/components; \
                     name a folder in `resourcesPaths`",
                    app.id.name
                ));
            }
            for folder in folders.into_iter().chain(of_user) {
                let folder = folder.canonicalize().with_context(|| {
                    format!("app {}: resourcesPaths: there is no folder {}", app.id.name, folder.display())
                })?;
                all.entry(folder).or_default().insert(app.id.clone());
            }
        }
        Ok(all)
    }

    /// Folders of resources that settings name.
    fn named(&self, settings: &RunSettings, base: &Path) -> Vec<PathBuf> {
        let named = settings.resources_paths.iter().flatten().chain(&settings.resources_path);
        let named = named.flat_map(|list| list.split(',')).map(str::trim).filter(|path| !path.is_empty());
        named.map(|path| self.path(base, path)).collect()
    }

    /// The file of an app's Configuration.
    fn configuration(&self, app: &AskedApp, common: &RunSettings) -> anyhow::Result<Option<PathBuf>> {
        let named = |settings: &RunSettings, base: &Path| {
            settings.config_file_path.as_deref().map(|path| self.path(base, path))
        };
        let beside = app.folder.join(".dapr/config.yaml");
        let there = |path: PathBuf| path.is_file().then_some(path);
        let own = named(&app.settings, &app.folder);
        let found = own.or_else(|| there(beside)).or_else(|| named(common, self.folder()));
        if let Some(file) = &found {
            let name = &app.id.name;
            ensure!(file.is_file(), "app {name}: configFilePath: there is no file {}", file.display());
        }
        Ok(found.or_else(|| self.of_user(app, common, "config.yaml").and_then(there)))
    }
}

impl AskedApp {
    fn command(&self) -> Option<&[String]> {
        self.settings.command.as_deref().filter(|command| !command.is_empty())
    }

    fn protocol(&self) -> &'static str {
        match self.settings.app_protocol.as_deref() {
            Some("grpc") => "grpc",
            Some("h2c") => "http2",
            _ => "http",
        }
    }

    /// The app and the policy of calls of it.
    fn documents(
        &self,
        configuration: Option<&str>,
        output: &Output,
    ) -> anyhow::Result<Vec<Located<Document>>> {
        let name = self.id.name.as_str();
        let mut dapr = json!({ "enabled": true });
        if let Some(configuration) = configuration {
            dapr["configuration"] = json!(configuration);
        }
        let mut spec = json!({ "dapr": dapr });
        if let Some(port) = self.settings.app_port {
            spec["services"] = json!([{ "name": "http", "port": port, "protocol": self.protocol() }]);
        }
        if let Some(command) = self.command() {
            let mut command = command.to_vec();
            // A program that is named by a path is looked for from the folder that it runs in.
            if command[0].contains('/') {
                command[0] = self.folder.join(&command[0]).display().to_string();
            }
            spec["process"] = json!({
                "command": command,
                "workingDirectory": self.folder.display().to_string(),
                // The program knows nothing of names that are called without Dapr, and one that ends well has ended.
                "proxyEnv": false,
                "restart": { "policy": "on-failure" },
            });
            spec["env"] = self.env();
            if let Some(probes) = self.probes(output) {
                spec["probes"] = probes;
            }
        } else {
            let port = self.settings.app_port;
            let there = port.map_or(NOWHERE, |port| SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port));
            spec["external"] = json!({ "addresses": [there] });
        }
        let mut all = vec![document("App", name, spec)?];
        if self.settings.app_port.is_some() {
            all.push(document("Policy", name, self.policy())?);
        }
        Ok(all)
    }

    fn env(&self) -> Value {
        let protocol = self.settings.app_protocol.as_deref().unwrap_or("http");
        let own = json!({ "name": "APP_PROTOCOL", "value": protocol });
        let of_file = self.settings.env.iter().flatten();
        let of_file = of_file.map(|(name, value)| json!({ "name": name, "value": value }));
        std::iter::once(own).chain(of_file).collect()
    }

    fn probes(&self, output: &Output) -> Option<Value> {
        let settings = &self.settings;
        if settings.enable_app_health_check != Some(true) || settings.app_port.is_none() {
            return None;
        }
        if self.protocol() != "http" {
            output.warn(&format!(
                "app {}: enableAppHealthCheck has no effect: an app that speaks {} is asked by a connection",
                self.id.name,
                self.protocol()
            ));
            return None;
        }
        let (path, interval, timeout, threshold) = HEALTH;
        let above_zero =
            |given: Option<u32>, otherwise| given.filter(|given| *given > 0).unwrap_or(otherwise);
        let path = settings.app_health_check_path.as_deref().unwrap_or(path);
        Some(json!({ "readiness": {
            "httpGet": { "path": format!("/{}", path.trim_start_matches('/')) },
            "period": format!("{}s", above_zero(settings.app_health_probe_interval, interval)),
            "timeout": format!("{}ms", above_zero(settings.app_health_probe_timeout, timeout)),
            "failureThreshold": above_zero(settings.app_health_threshold, threshold),
        }}))
    }

    /// daprd puts no breaker before its own app, and lets calls wait for one that takes few at once.
    fn policy(&self) -> Value {
        let mut breaker = json!({ "consecutiveFailures": 0 });
        if let Some(most) = self.settings.app_max_concurrency.filter(|most| *most > 0) {
            breaker["maxConnections"] = json!(most);
            breaker["maxPending"] = json!(MAX_PENDING);
        }
        json!({ "targetRefs": [{ "kind": "App", "name": self.id.name.as_str() }], "circuitBreaker": breaker })
    }
}

fn document(kind: &str, name: &str, spec: Value) -> anyhow::Result<Located<Document>> {
    let value =
        json!({ "apiVersion": "dodai.dev/v1", "kind": kind, "metadata": { "name": name }, "spec": spec });
    let made = Document::from_value(&value).map_err(|problems| {
        let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("app {name}: {}", told.join("; "))
    })?;
    Ok(Located::nowhere(made))
}

#[cfg(test)]
mod tests;
