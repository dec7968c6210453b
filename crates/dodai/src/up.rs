//! `dodai up` and `dodai base --from`: control and one base in this process, over a project folder.
//!
//! `up` keeps its documents in SQLite, so that what was deployed outlives it; `base --from` keeps them in
//! memory, the folder being all it knows.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use dodai_base::node::{self, Base};
use dodai_control::control::{Control, Settings};
use dodai_control::documents::{Apply, FieldOwner};
use dodai_control::snapshot::BaseSettings;
use dodai_core::id::{AppId, BaseId};
use dodai_core::status::{Phase, Wants};
use dodai_core::task::Tasks;
use dodai_dataplane::limits::Limits;
use dodai_store::{MemoryStore, Options, SqliteStore, Store};
use dodai_transport::token::{Purpose, Token};
use serde_json::json;

use crate::admin::{Admin, Subject};
use crate::cli;
use crate::detach;
use crate::environment::Environment;
use crate::local::{FolderArtifacts, Project, executable};
use crate::output::Output;
use crate::signals;
use crate::telemetry::Telemetry;
use crate::watch;

/// How long `up` waits for everything to be ready before it says what is not.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// Runs `dodai up`.
pub async fn run(arguments: cli::Up, environment: &Environment, output: &Output) -> anyhow::Result<ExitCode> {
    let start = Instant::now();
    let project = Project::open(&arguments.folder)?;
    let documents = project.read(output)?;
    if !arguments.no_build {
        project.build(&documents, environment, output).await?;
    }
    let data = arguments.data.clone().unwrap_or_else(|| project.folder.join(".dodai"));
    make_private(&data)?;
    if arguments.detach && !arguments.detached {
        return detach::run(&data, environment, output).await;
    }
    if arguments.detached {
        detach::leave_terminal();
    }
    detach::refuse_second(&data)?;
    let tasks = Tasks::new();
    let store = SqliteStore::open(data.join("store.db"), Options::default(), &tasks).await?;
    let threads = arguments.threads.unwrap_or_else(default_threads);
    let base = BaseId::new("local");
    let telemetry =
        Telemetry::start(&arguments.telemetry, environment, &documents, (&base, &data), output, &tasks)?;
    let plan = Plan { project, documents, data, base, threads, telemetry };
    let system = System::start(&plan, Arc::new(store), environment, &tasks).await?;
    let subject = Subject {
        control: &system.control,
        base: &system.base,
        telemetry: &plan.telemetry,
        folder: &plan.project.folder,
        data: &plan.data,
        address: arguments.admin,
    };
    let admin = Admin::start(subject, &tasks).await?;
    let live = async {
        system.settle(&plan, start, output).await;
        output.say(&format!("management API: http://{}", admin.address));
        admin.settled();
        if arguments.watch {
            watch::run(&plan.project, plan.documents.clone(), &system.control, environment, output, &tasks)
                .await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        // The first two only wait; what a cut watch was doing is done again at the next start.
        stopped = signals::asked_to_stop() => stopped?,
        () = admin.asked_to_stop() => {}
        () = live => {}
    }
    output.say("stopping: finishing calls, then the apps");
    system.stop(Duration::from_secs(arguments.drain), &tasks).await;
    plan.telemetry.close().await;
    Ok(ExitCode::SUCCESS)
}

/// Runs `dodai base --from`.
pub async fn run_base(
    arguments: cli::Base,
    environment: &Environment,
    output: &Output,
) -> anyhow::Result<ExitCode> {
    let start = Instant::now();
    let from = arguments.from.as_deref().context("say with --from which folder holds the documents")?;
    let project = Project::open(from)?;
    let documents = project.read(output)?;
    let data = arguments.data.clone().unwrap_or_else(|| project.folder.join(".dodai"));
    make_private(&data)?;
    detach::refuse_second(&data)?;
    let tasks = Tasks::new();
    let name = arguments.name.clone().unwrap_or_else(|| "local".to_owned());
    let threads = arguments.threads.unwrap_or_else(default_threads);
    let base = BaseId::new(name);
    let telemetry =
        Telemetry::start(&arguments.telemetry, environment, &documents, (&base, &data), output, &tasks)?;
    let plan = Plan { project, documents, data, base, threads, telemetry };
    let system = System::start(&plan, Arc::new(MemoryStore::new(&tasks)), environment, &tasks).await?;
    let subject = Subject {
        control: &system.control,
        base: &system.base,
        telemetry: &plan.telemetry,
        folder: &plan.project.folder,
        data: &plan.data,
        address: arguments.admin,
    };
    let admin = Admin::start(subject, &tasks).await?;
    system.settle(&plan, start, output).await;
    output.say(&format!("management API: http://{}", admin.address));
    admin.settled();
    tokio::select! {
        // Both only wait.
        stopped = signals::asked_to_stop() => stopped?,
        () = admin.asked_to_stop() => {}
    }
    system.stop(Duration::from_secs(arguments.drain), &tasks).await;
    plan.telemetry.close().await;
    Ok(ExitCode::SUCCESS)
}

/// One thread per core, at most four.
pub fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().min(4))
}

/// Makes a folder that only its owner can look into: it will hold secrets and data.
pub fn make_private(folder: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).with_context(|| {
        format!("cannot make the data folder {}; choose another with --data", folder.display())
    })
}

/// What is to be run.
struct Plan {
    project: Project,
    documents: dodai_api::Project,
    data: PathBuf,
    base: BaseId,
    threads: usize,
    telemetry: Telemetry,
}

/// Control and a base in one process.
struct System {
    control: Control,
    base: Base,
}

impl System {
    async fn start(
        plan: &Plan,
        store: Arc<dyn Store>,
        environment: &Environment,
        tasks: &Tasks,
    ) -> anyhow::Result<System> {
        let folder = plan.data.join("modules").join("artifacts");
        let artifacts = FolderArtifacts {
            project: plan.project.clone(),
            store: Arc::new(dodai_modules::Artifacts::open(folder)?),
        };
        let settings = Settings { artifacts: Arc::new(artifacts), ..Settings::default() };
        let control = Control::start(store, settings, tasks).await?;
        let config = node::Config {
            base: plan.base.clone(),
            data_dir: plan.data.clone(),
            project_dir: plan.project.folder.clone(),
            executable: vec![executable()?],
            threads: plan.threads,
            limits: Limits::default(),
            sinks: plan.telemetry.sinks(),
            sample_per_ten_thousand: plan.telemetry.sample_per_ten_thousand,
            environment: environment.0.clone(),
            wants: Wants::All,
            membership: None,
            artifacts: None,
            runtime: dodai_runtime::Settings::default(),
            components_dir: None,
        };
        let link = BaseSettings {
            project: Some(plan.project.folder.clone()),
            api_token: Some(Token::generate(Purpose::Api)?.reveal()),
            ..BaseSettings::default()
        };
        let base = Base::start(config, control.link(plan.base.clone(), link).await?, tasks).await?;
        let scope = plan.project.name();
        let apply = Apply {
            documents: &plan.documents.read.documents,
            actor: "up",
            owner: FieldOwner::File,
            prune: Some(&scope),
            dry_run: false,
        };
        control.apply(&apply).await?;
        Ok(System { control, base })
    }

    /// Waits until everything is ready, then prints what there is.
    async fn settle(&self, plan: &Plan, start: Instant, output: &Output) {
        let apps: Vec<String> = plan
            .documents
            .read
            .documents
            .iter()
            .filter_map(|located| {
                let dodai_api::Document::App(app) = &located.value else { return None };
                Some(app)
            })
            .map(|app| format!("{}/{}", app.metadata.namespace, app.metadata.name))
            .collect();
        let has_instances = |located: &&dodai_api::Located<dodai_api::Document>| {
            let dodai_api::Document::App(app) = &located.value else { return false };
            app.spec.external.is_none()
        };
        let expected = plan.documents.read.documents.iter().filter(has_instances).count();
        let mut status = self.base.parts().status.subscribe();
        let all_ready = status.wait_for(|status| {
            let ready = status.applied > 0
                && status.instances.len() >= expected
                && status.instances.values().all(|one| matches!(one.phase, Phase::Ready | Phase::Succeeded));
            // What is refused does not become ready by waiting; the reason is told at once.
            ready || status.refused.is_some()
        });
        let stopped = signals::asked_to_stop();
        tokio::select! {
            // All three only wait.
            _ready = all_ready => {}
            () = tokio::time::sleep(READY_WITHIN) => {}
            _signal = stopped => return,
        }
        self.served(plan).await;
        self.print(&apps, start, output);
    }

    /// Waits a moment until calls would find every app: an instance is ready a little before control has told
    /// the data plane.
    async fn served(&self, plan: &Plan) {
        let called = |located: &dodai_api::Located<dodai_api::Document>| {
            let dodai_api::Document::App(app) = &located.value else { return None };
            let name = format!("{}/{}", app.metadata.namespace, app.metadata.name);
            let waits = app.spec.external.is_none() && !app.spec.services.is_empty();
            AppId::parse(&name).ok().filter(|_| waits)
        };
        let apps: Vec<AppId> = plan.documents.read.documents.iter().filter_map(called).collect();
        let parts = self.base.parts();
        let end = Instant::now() + Duration::from_secs(2);
        while Instant::now() < end && !apps.iter().all(|app| parts.serves(app)) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn print(&self, apps: &[String], start: Instant, output: &Output) {
        let parts = self.base.parts();
        let status = parts.status.borrow().clone();
        let mut rows = Vec::new();
        for (instance, one) in &status.instances {
            let app = parts.app_of(instance).map(|app| app.to_string()).unwrap_or_default();
            let ports: Vec<String> = one.ports.values().map(ToString::to_string).collect();
            let phase = format!("{:?}", one.phase).to_lowercase();
            rows.push(vec![app, instance.to_string(), phase, ports.join(","), one.reason.clone()]);
        }
        let outside: Vec<&String> =
            apps.iter().filter(|app| !rows.iter().any(|row| row[0] == **app)).collect();
        for app in outside {
            rows.push(vec![app.clone(), "-".to_owned(), "external".to_owned(), String::new(), String::new()]);
        }
        output.table(&["APP", "INSTANCE", "STATE", "PORT", "REASON"], &rows);
        for (name, address) in &status.listeners {
            if name.starts_with("gateway/") {
                output.say(&format!("{name}: http://{address}"));
            }
        }
        for (name, health) in status.components.iter().filter(|(_, health)| !health.ready) {
            output.say(&format!("component {name} is not ready: {}", health.reason));
        }
        if let Some(refusal) = &status.refused {
            output.say(&format!("the configuration was refused: {}", refusal.reason));
        }
        output.say(&format!("up after {:.2} s; stop with Ctrl-C", start.elapsed().as_secs_f64()));
        let listeners: BTreeMap<&String, String> =
            status.listeners.iter().map(|(name, address)| (name, address.to_string())).collect();
        output.json(&json!({ "instances": status.instances, "listeners": listeners, "components": status.components }));
    }

    async fn stop(self, deadline: Duration, tasks: &Tasks) {
        self.base.stop(deadline).await;
        drop(self.control);
        let cut = tasks.drain(Duration::from_secs(5)).await;
        if !cut.is_empty() {
            tracing::warn!(cut = ?cut.0, "some tasks did not end by themselves");
        }
    }
}
