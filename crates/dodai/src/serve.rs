//! `dodai serve`: one bare component behind one port, with the same data plane and module host as a base.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use dodai_core::id::{AppId, BaseId, Digest, InstanceId, Name, RevisionId, ServiceId};
use dodai_core::snapshot::{
    Breaker, Endpoint, Endpoints, Listener, ModuleSpec, Protocol, Resource, Role, Routes, Rule, Service,
    Snapshot, Target, VirtualHost,
};
use dodai_core::task::Tasks;
use dodai_dataplane::limits::Limits;
use dodai_dataplane::local::Way;
use dodai_dataplane::plane::{self, DataPlane};
use dodai_modules::{Child, Compiler, Host, HostOptions, LogSink, MeshNames, NoKeyValue, Seams, Stream};
use dodai_transport::network::Network;
use dodai_transport::tls::public::RootsFrom;
use tempfile::TempDir;

use crate::cli::Serve;
use crate::environment::Environment;
use crate::local::{MAX_ARTIFACT_BYTES, executable};
use crate::output::Output;
use crate::signals::Signals;

/// How long calls may take to finish at the end.
const DRAIN: Duration = Duration::from_secs(10);

/// What a shell says of a command that was interrupted.
const INTERRUPTED: u8 = 130;

/// Runs the command.
pub async fn run(arguments: Serve, environment: &Environment, output: &Output) -> anyhow::Result<ExitCode> {
    let wasm = dodai_core::file::read(&arguments.component, MAX_ARTIFACT_BYTES)
        .with_context(|| format!("cannot read {}", arguments.component.display()))?;
    let tasks = Tasks::new();
    // From here on no signal ends the process by itself, which would leave the folder behind.
    let mut signals = Signals::listen()?;
    let folder = Folder::open(arguments.data.clone(), environment)?;
    let serving = tokio::select! {
        // A start that is cut leaves nothing but its folder, which goes with this function.
        serving = Serving::start(&arguments, &wasm, &folder, environment, &tasks) => serving?,
        () = signals.next() => return Ok(ExitCode::from(INTERRUPTED)),
    };
    let url = format!("http://{}", serving.address);
    writeln!(std::io::stderr(), "{url}")?;
    output.json(&serde_json::json!({ "url": url }));
    signals.next().await;
    Ok(signals.unless_hurried(serving.stop(&tasks), output).await)
}

/// A component that takes calls.
struct Serving {
    plane: DataPlane,
    host: Host,
    address: SocketAddr,
}

impl Serving {
    async fn start(
        arguments: &Serve,
        wasm: &[u8],
        folder: &Folder,
        environment: &Environment,
        tasks: &Tasks,
    ) -> anyhow::Result<Serving> {
        let mut options = HostOptions::new(folder.path());
        let mut command = vec![executable()?];
        command.push("compile-module".into());
        options.compiler = Compiler::Child(Child::new(command));
        let host = Host::open(options, tasks)?;
        let artifact = host.artifacts().put(wasm)?;
        let app = AppId::new(Name::new("default")?, app_name(&arguments.component)?);
        let plane = DataPlane::start(plane::Config {
            base: BaseId::new("local"),
            limits: Limits::default(),
            network: Network::system(),
            threads: arguments.threads.max(1),
            sinks: Vec::new(),
            sample_per_ten_thousand: 0,
            mesh: None,
            demand: None,
            data_dir: folder.path().to_owned(),
            roots: RootsFrom::environment(|name| environment.get(name).map(str::to_owned)),
        })
        .context("cannot start the data plane")?;
        let seams = Seams {
            door: Arc::new(plane.door()),
            names: Arc::new(NoNames),
            config: Arc::new(config_values(&arguments.config)?),
            keyvalue: Arc::new(NoKeyValue),
            logs: Arc::new(Stderr),
            environment: Vec::new(),
        };
        let instance = InstanceId::new(format!("{}-1", app.name));
        let module = host.install(instance.clone(), app.clone(), spec(arguments, artifact), seams).await?;
        // The plane keeps it for as long as the endpoint is in its table.
        let local = plane.locals().get(&instance);
        local.set(Way::Serve(module));
        let applied = plane.apply(&snapshot(&app, &instance, arguments.addr)?).await?;
        let address = applied.all_open()?.get("serve").copied().unwrap_or(arguments.addr);
        Ok(Serving { plane, host, address })
    }

    async fn stop(&self, tasks: &Tasks) {
        self.plane.drain(DRAIN).await;
        self.host.shutdown(DRAIN).await;
        let _cut = tasks.drain(DRAIN).await;
    }
}

/// The limits of a single module that has the machine to itself; docs/defaults.md has them too.
fn spec(arguments: &Serve, artifact: Digest) -> ModuleSpec {
    ModuleSpec {
        artifact,
        reuse: arguments.reuse,
        max_concurrency: 1000,
        memory: 256 << 20,
        wall_time: Duration::from_secs(60),
        cpu_time: Duration::from_secs(30),
        allowed_hosts: arguments.allow_hosts.clone(),
        config: Vec::new(),
        keyvalue: BTreeMap::new(),
    }
}

/// One listener, one route, one service, one instance.
fn snapshot(app: &AppId, instance: &InstanceId, address: SocketAddr) -> anyhow::Result<Snapshot> {
    let service = ServiceId { owner: app.clone(), port: Name::new("http")? };
    let revision = RevisionId::new("1");
    let rule = Rule::forward("serve", service.clone());
    let host = VirtualHost { names: vec!["*".to_owned()], rules: vec![rule] };
    let target = Target::Instance { instance: instance.clone(), base: BaseId::new("local"), mesh: None };
    Ok(Snapshot::of(
        1,
        [
            Resource::Service(Service {
                breaker: Breaker { consecutive_failures: 0, ..Breaker::default() },
                ..Service::new(service.clone())
            }),
            Resource::Endpoints(Endpoints { service, list: vec![Endpoint::new(revision, target)] }),
            Resource::Routes(Routes { name: "serve".to_owned(), hosts: vec![host], trusted: false }),
            Resource::Listener(Listener::new(
                "serve",
                address,
                Protocol::Http,
                Role::Gateway { routes: "serve".to_owned() },
            )),
        ],
    ))
}

/// The app's name, from the file's.
fn app_name(path: &Path) -> anyhow::Result<Name> {
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().to_lowercase()).unwrap_or_default();
    let clean: String = stem.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let clean = clean.trim_matches('-');
    Ok(Name::new(if clean.is_empty() { "component" } else { &clean[..clean.len().min(63)] })?)
}

fn config_values(pairs: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    let split = |pair: &String| {
        let (key, value) =
            pair.split_once('=').with_context(|| format!("--config {pair}: write KEY=VALUE"))?;
        Ok((key.to_owned(), value.to_owned()))
    };
    pairs.iter().map(split).collect()
}

/// A folder for compiled code that is removed at the end unless it was named. What is in it gets run, so a
/// temporary one has a name that nobody can guess, did not exist before, and is ours alone.
enum Folder {
    Named(PathBuf),
    Temporary(TempDir),
}

impl Folder {
    fn open(named: Option<PathBuf>, environment: &Environment) -> anyhow::Result<Folder> {
        if let Some(path) = named {
            return Ok(Folder::Named(path));
        }
        let base = environment.get("TMPDIR").unwrap_or("/tmp");
        let made = tempfile::Builder::new()
            .prefix("dodai-serve-")
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(base);
        let made = made.with_context(|| {
            format!("cannot make a folder for compiled code in {base}; name one with --data")
        })?;
        Ok(Folder::Temporary(made))
    }

    fn path(&self) -> &Path {
        match self {
            Folder::Named(path) => path,
            Folder::Temporary(folder) => folder.path(),
        }
    }
}

struct NoNames;

impl MeshNames for NoNames {
    fn is_mesh_name<'a>(&'a self, _app: &'a AppId, _host: &'a str) -> dodai_modules::Known<'a> {
        Box::pin(std::future::ready(false))
    }
}

struct Stderr;

impl LogSink for Stderr {
    fn line(&self, _stream: Stream, line: &str) {
        let _gone = writeln!(std::io::stderr(), "{line}");
    }
}
