//! `dodai up` and `dodai base --from`: control and one base in this process, over a project folder.
//!
//! `up` keeps its documents in SQLite, so that what was deployed outlives it; `base --from` keeps them in
//! memory, the folder being all it knows.

mod settle;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use dodai_base::node::{self, Base};
use dodai_control::control::{Control, Settings};
use dodai_control::documents::{Apply, FieldOwner};
use dodai_control::snapshot::BaseSettings;
use dodai_core::id::BaseId;
use dodai_core::status::Wants;
use dodai_core::task::Tasks;
use dodai_dataplane::limits::Limits;
use dodai_store::{MemoryStore, Options, SqliteStore, Store};
use dodai_transport::token::{Purpose, Token};
use tokio::net::TcpListener;

use crate::admin::{Admin, Flags as AdminFlags, Subject};
use crate::cli;
use crate::detach;
use crate::environment::Environment;
use crate::local::{FolderArtifacts, Project, executable};
use crate::metrics;
use crate::output::Output;
use crate::signals::Signals;
use crate::telemetry::Telemetry;
use crate::tools;
use crate::watch;

/// What the base of `up` is called.
pub const BASE: &str = "local";

/// Runs `dodai up`.
pub async fn run(arguments: cli::Up, environment: &Environment, output: &Output) -> anyhow::Result<ExitCode> {
    let start = Instant::now();
    let project = Project::open(arguments.path(), environment, output)?;
    let documents = project.read(output)?;
    // The process that does not detach has looked already.
    if !arguments.detached {
        tools::check(&project, &documents, !arguments.no_build, environment, output).await;
    }
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
    let signals = Signals::listen()?;
    let tasks = Tasks::new();
    anyhow::ensure!(
        store_bytes(&data) != Some(0),
        "{} is empty, which no store ever is; put a backup in its place with `dodai store restore FILE --data-folder {}`, \
         or remove it to start anew with the documents of the folder alone",
        data.join(STORE).display(),
        data.display()
    );
    let store = SqliteStore::open(data.join(STORE), Options::default(), &tasks).await?;
    let threads = arguments.threads.unwrap_or_else(default_threads);
    let base = BaseId::new(BASE);
    let telemetry =
        Telemetry::start(&arguments.telemetry, environment, &documents, (&base, &data), output, &tasks)?;
    let metrics = arguments.metrics.listener(None, output).await?;
    let drain = Duration::from_secs(arguments.drain);
    let plan = Plan { project, documents, data, base, threads, telemetry, drain, watch: arguments.watch };
    let system = System::start(&plan, Arc::new(store), environment, &tasks).await?;
    let ports = Ports { admin: arguments.admin, metrics };
    system.live(plan, (start, ports, signals), environment, output, &tasks).await
}

/// Runs `dodai base --from`.
pub async fn run_base(
    arguments: cli::Base,
    environment: &Environment,
    output: &Output,
) -> anyhow::Result<ExitCode> {
    let start = Instant::now();
    let from = arguments.from.as_deref().context("say with --from which folder holds the documents")?;
    let project = Project::open(from, environment, output)?;
    let documents = project.read(output)?;
    let data = arguments.data.clone().unwrap_or_else(|| project.folder.join(".dodai"));
    make_private(&data)?;
    detach::refuse_second(&data)?;
    let signals = Signals::listen()?;
    let tasks = Tasks::new();
    let name = arguments.name.clone().unwrap_or_else(|| BASE.to_owned());
    let threads = arguments.threads.unwrap_or_else(default_threads);
    let base = BaseId::new(name);
    let telemetry =
        Telemetry::start(&arguments.telemetry, environment, &documents, (&base, &data), output, &tasks)?;
    let metrics = arguments.metrics.listener(Some(metrics::BASE_PORT), output).await?;
    let drain = Duration::from_secs(arguments.drain);
    let plan = Plan { project, documents, data, base, threads, telemetry, drain, watch: false };
    let system = System::start(&plan, Arc::new(MemoryStore::new(&tasks)), environment, &tasks).await?;
    let ports = Ports { admin: arguments.admin, metrics };
    system.live(plan, (start, ports, signals), environment, output, &tasks).await
}

/// The documents' store in a data folder.
pub const STORE: &str = "store.db";

/// How large the store of a data folder is; `None` if there is none.
pub fn store_bytes(data: &Path) -> Option<u64> {
    data.join(STORE).metadata().ok().map(|about| about.len())
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

/// What the base of a project is told beside its documents.
fn link(project: &Project, environment: &Environment) -> anyhow::Result<BaseSettings> {
    let mut link = BaseSettings { project: Some(project.folder.clone()), ..BaseSettings::default() };
    match &project.run_file {
        // Programs written for Dapr send a token where the user set one, and only there.
        Some(file) => {
            let ways = file.ways()?;
            (link.api, link.attached) = (ways.api, ways.attached);
            link.api_token =
                environment.get("DAPR_API_TOKEN").filter(|token| !token.is_empty()).map(str::to_owned);
        }
        None => link.api_token = Some(Token::generate(Purpose::Api)?.reveal()),
    }
    Ok(link)
}

/// What is to be run.
struct Plan {
    project: Project,
    documents: dodai_api::Project,
    data: PathBuf,
    base: BaseId,
    threads: usize,
    telemetry: Telemetry,
    /// How long calls may take to finish at the end.
    drain: Duration,
    /// Whether to apply what changes in the folder.
    watch: bool,
}

/// What it listens on for those who run it.
struct Ports {
    admin: AdminFlags,
    metrics: Option<TcpListener>,
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
        let link = link(&plan.project, environment)?;
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
        crate::sweep::spawn(&control, &base.parts().modules, tasks);
        Ok(System { control, base })
    }

    /// Serves until somebody asks for the end, then stops in order; a second signal ends it at once.
    async fn live(
        self,
        plan: Plan,
        (start, ports, mut signals): (Instant, Ports, Signals),
        environment: &Environment,
        output: &Output,
        tasks: &Tasks,
    ) -> anyhow::Result<ExitCode> {
        let subject = Subject {
            control: &self.control,
            base: &self.base,
            telemetry: &plan.telemetry,
            folder: &plan.project.folder,
            data: &plan.data,
            flags: &ports.admin,
        };
        if let Some(listener) = ports.metrics {
            metrics::serve(listener, subject.metrics(), output, tasks)?;
        }
        let admin = Admin::start(subject, output, tasks).await?;
        let live = async {
            let missing = self.settle(&plan, start, output).await;
            output.say(&format!("management API: http://{}", admin.address));
            output.say(&format!("console: {}", admin.link));
            admin.settled(missing);
            if plan.watch {
                let documents = plan.documents.clone();
                watch::run(&plan.project, documents, &self.control, environment, output, tasks).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            // The first two only wait; what a cut watch was doing is done again at the next start.
            () = signals.next() => {}
            () = admin.asked_to_stop() => {}
            () = live => {}
        }
        output.say("stopping: finishing calls, then the apps; once more to stop at once");
        let stop = async {
            self.stop(plan.drain, tasks).await;
            plan.telemetry.close().await;
        };
        Ok(signals.unless_hurried(stop, output).await)
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
