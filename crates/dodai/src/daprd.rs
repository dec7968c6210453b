//! `dodai daprd`: one stand-alone sidecar with daprd's flags, environment and ports.
//!
//! It is a base like any other. Flags and folders become documents, control makes the snapshot, the base
//! serves it; what is its own here is the reading of flags, how sidecars of one machine find each other, and
//! when the app beside it is there.

mod channel;
mod documents;
mod flags;
mod options;
mod peers;
mod ports;
pub mod resources;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use dodai_base::node::{self, Base};
use dodai_base::process::Ports;
use dodai_control::control::{Control, Settings};
use dodai_control::documents::{Apply, FieldOwner};
use dodai_control::snapshot::BaseSettings;
use dodai_core::id::{AppId, BaseId};
use dodai_core::status::Wants;
use dodai_core::task::Tasks;
use dodai_dataplane::limits::Limits;
use dodai_runtime::{AppConnection, AppHealth, DAPR_LEVEL};
use dodai_store::MemoryStore;
use tokio::sync::watch;

use crate::environment::{self, Environment};
use crate::exit;
use crate::local::executable;
use crate::output::Output;
use crate::signals::Signals;
use crate::telemetry::{self, Telemetry};

use channel::{Follower, State};
use documents::{Given, Way};
use flags::Asked;
use options::{LogStyle, Options};
use peers::{Registered, Registry};

/// How long the listeners may take to open.
const OPEN_WITHIN: Duration = Duration::from_secs(10);
/// How long the app's host name may take to get an address.
const NAME_WITHIN: Duration = Duration::from_secs(30);
/// How often other sidecars are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A call may take so long, and a stream stand still, unless a Resiliency document says otherwise: daprd
/// itself has no bound.
const PATIENCE: Duration = Duration::from_secs(3600);
/// How the folders of running sidecars are named, and the file in them that is locked.
const SCRATCH: &str = "daprd-";
const LOCK: &str = "lock";
/// Where the app of a sidecar without one is said to be; nothing calls it.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9);

/// The arguments of a sidecar, if the program is asked to be one: as `dodai daprd ...`, or by a name of its
/// own, as launchers call the file `daprd`.
pub fn arguments(mut all: impl Iterator<Item = OsString>) -> Option<Vec<OsString>> {
    let program = all.next()?;
    let is_daprd = Path::new(&program).file_name().is_some_and(|name| name == "daprd");
    if is_daprd {
        return Some(all.collect());
    }
    (all.next()? == "daprd").then(|| all.collect())
}

/// The command from its arguments to its exit code.
pub async fn run(arguments: Vec<OsString>, environment: &Environment) -> ExitCode {
    let arguments = arguments.iter().map(|argument| argument.to_string_lossy().into_owned());
    let given = match flags::parse(arguments) {
        Ok(Asked::Help) => return print(&flags::help()),
        Ok(Asked::Run(given)) => given,
        Err(error) => return wrong(&error.into()),
    };
    if given.truth("version").unwrap_or(false) {
        return print(&format!("{DAPR_LEVEL}\n"));
    }
    if given.truth("build-info").unwrap_or(false) {
        return print(&format!("Version: {DAPR_LEVEL}\nDodai: {}\n", env!("CARGO_PKG_VERSION")));
    }
    let read = LogStyle::read(&given).and_then(|style| Ok((style, Options::read(&given, environment)?)));
    let (style, options) = match read {
        Ok(read) => read,
        Err(error) => return wrong(&error),
    };
    environment::log_to_stderr(&style.filter, style.json, environment);
    for (flag, why) in given.without_effect() {
        tracing::info!("--{flag} has no effect: {why}");
    }
    dodai_transport::tls::install_provider();
    let output = Output::plain(environment);
    match serve(&options, environment, &output).await {
        Ok(code) => code,
        Err(error) => {
            output.error(&error);
            exit::code_of(&error)
        }
    }
}

fn print(text: &str) -> ExitCode {
    use std::io::Write;
    // Whoever closed the pipe has read enough.
    let _closed = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn wrong(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    ExitCode::from(2)
}

async fn serve(options: &Options, environment: &Environment, output: &Output) -> anyhow::Result<ExitCode> {
    let start = Instant::now();
    let mut signals = Signals::listen()?;
    let given = Given::read(options, output)?;
    let runtime_folder = peers::runtime_folder(environment)?;
    let registry = Registry::open(&runtime_folder)?;
    let way = way(options).await?;
    let tasks = Tasks::new();
    let data = Scratch::make(&runtime_folder)?;
    let mut sidecar =
        Sidecar::start(options, given, way, &registry, &data, (environment, output), &tasks).await?;
    let (http, grpc) = sidecar.opened(options).await?;
    let parts = sidecar.base.parts();
    let ports = ports::open(options, parts, sidecar.telemetry.readings(), &tasks).await?;
    for (name, address) in &ports {
        tracing::info!("{name}: http://{address}");
    }
    let protocol = options.channel.as_ref().map_or_else(Default::default, |channel| channel.protocol);
    let register = |address| registry.register(&options.app, address, protocol);
    let registered = sidecar.way.peers.map(register).transpose()?;
    let (state, app) = watch::channel(State::Unseen);
    let follower = options.channel.as_ref().map(|channel| Follower {
        parts: parts.clone(),
        app: options.app.clone(),
        address: sidecar.way.app,
        protocol: channel.protocol,
        health: channel.health.clone(),
        state,
    });
    tracing::info!("Dapr HTTP API: http://{http}, app id {}", options.app.name);
    tracing::info!("Dapr gRPC API: {grpc}");
    // Launchers look for these words.
    tracing::info!("dapr initialized. Status: Running. Init Elapsed {}ms", start.elapsed().as_millis());
    let mut asked = sidecar.asked.clone();
    let mut followed = std::pin::pin!(follow_app(follower));
    tokio::select! {
        // The first two only wait; the others never end, and what they are cut at is made good by the next start.
        () = signals.next() => {}
        _asked = asked.wait_for(|asked| *asked) => {}
        () = &mut followed => {}
        () = sidecar.follow_peers(options, &registry, registered) => {}
    }
    tracing::info!(
        "stopping: finishing calls, for at most {:?}; one more signal stops at once",
        options.drain
    );
    // The app is followed on: an API that stays for its sake ends when it does.
    tokio::select! {
        code = signals.unless_hurried(sidecar.stop(options, app, &tasks), output) => Ok(code),
        () = followed => Ok(ExitCode::SUCCESS),
    }
}

async fn follow_app(follower: Option<Follower>) {
    match follower {
        Some(follower) => follower.run().await,
        None => std::future::pending().await,
    }
}

/// Where the app is and where other sidecars come in for it.
async fn way(options: &Options) -> anyhow::Result<Way> {
    let Some(channel) = &options.channel else { return Ok(Way { app: NOWHERE, peers: None }) };
    let app = resolve(&channel.host, channel.port).await?;
    let port = match options.peer_port {
        Some(port) => port,
        // One that no listener on "any port" is given and no connection goes out from before it is bound.
        None => Ports::default()
            .free_port(Ipv4Addr::LOCALHOST.into())
            .context("no way in for other sidecars; name a port with --dapr-internal-grpc-port")?
            .number(),
    };
    Ok(Way { app, peers: Some(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)) })
}

/// The address of the app's host; a name is waited for, since in a composed system it may appear late.
async fn resolve(host: &str, port: u16) -> anyhow::Result<SocketAddr> {
    let end = Instant::now() + NAME_WITHIN;
    loop {
        let name = (host.to_owned(), port);
        let found = tokio::task::spawn_blocking(move || name.to_socket_addrs()).await?;
        let problem = match found.map(|addresses| addresses.collect::<Vec<_>>()) {
            // An app that listens on `localhost` mostly means the older protocol.
            Ok(found) if !found.is_empty() => {
                return Ok(found.iter().copied().find(SocketAddr::is_ipv4).unwrap_or(found[0]));
            }
            Ok(_) => "it has no address".to_owned(),
            Err(error) => error.to_string(),
        };
        if Instant::now() >= end {
            bail!("--app-channel-address {host}: {problem}; write an address, or a name this machine knows");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// A folder for what lives as long as the process. Its lock is held until then, so that a folder nobody locks
/// is one that a killed sidecar left.
struct Scratch {
    path: PathBuf,
    _lock: File,
}

impl Scratch {
    fn make(runtime: &Path) -> anyhow::Result<Scratch> {
        sweep(runtime);
        let path = runtime.join(format!("{SCRATCH}{}", std::process::id()));
        peers::make_private(&path)?;
        let lock = path.join(LOCK);
        let failed = || format!("cannot lock {}; set DODAI_RUNTIME_DIR to another folder", lock.display());
        let file = File::create(&lock).with_context(failed)?;
        file.try_lock().with_context(failed)?;
        Ok(Scratch { path, _lock: file })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _left = std::fs::remove_dir_all(&self.path);
        if let Some(runtime) = self.path.parent() {
            sweep(runtime);
        }
    }
}

/// Removes the folders of sidecars that are gone.
fn sweep(runtime: &Path) {
    for entry in std::fs::read_dir(runtime).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(SCRATCH)
            && File::open(entry.path().join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok())
        {
            let _gone = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Control and a base in one process.
struct Sidecar {
    control: Control,
    base: Base,
    given: Given,
    way: Way,
    telemetry: Telemetry,
    /// The listener that is named for gRPC.
    grpc_listener: String,
    /// Becomes true when somebody asks the API for a shutdown.
    asked: watch::Receiver<bool>,
}

impl Sidecar {
    async fn start(
        options: &Options,
        given: Given,
        way: Way,
        registry: &Registry,
        data: &Scratch,
        (environment, output): (&Environment, &Output),
        tasks: &Tasks,
    ) -> anyhow::Result<Sidecar> {
        let control = Control::start(Arc::new(MemoryStore::new(tasks)), Settings::default(), tasks).await?;
        let (ask, asked) = watch::channel(false);
        let here = std::env::current_dir().context("the working directory is gone; start from another")?;
        let base = BaseId::new(format!("daprd-{}", std::process::id()));
        let log = if options.log_calls { "-" } else { "off" };
        let flags = telemetry::Flags { access_log: Some(log.to_owned()), ..telemetry::Flags::default() };
        let told = (&base, data.path.as_path());
        let telemetry = Telemetry::start(&flags, environment, &given.project(), told, output, tasks)?;
        let limits = Limits::default();
        let config = node::Config {
            base: base.clone(),
            data_dir: data.path.clone(),
            project_dir: here.clone(),
            executable: vec![executable()?],
            threads: threads(options),
            limits: Limits {
                call_timeout: PATIENCE,
                idle_timeout: PATIENCE,
                head_bytes: limits.head_bytes.max(options.max_head.unwrap_or(0)),
                ..limits
            },
            sinks: telemetry.sinks(),
            sample_per_ten_thousand: telemetry.sample_per_ten_thousand,
            environment: environment.0.clone(),
            wants: Wants::All,
            membership: None,
            artifacts: None,
            runtime: dodai_runtime::Settings {
                jobs: Some(node::shared_jobs(&lasting_folder(environment, &options.app, &here))),
                ..runtime_settings(options, ask)
            },
            components_dir: Some(here.clone()),
        };
        let (http, grpc) = api_addresses(options);
        // Listeners of one app are told apart by their place; the first has none.
        let grpc_listener = match http.len() {
            places if grpc.is_empty() || places == 0 => format!("api/{}", options.app),
            place => format!("api/{}/{place}", options.app),
        };
        let settings = BaseSettings {
            project: Some(here),
            api: BTreeMap::from([(options.app.clone(), [http.as_slice(), &grpc].concat())]),
            api_token: options.api_token.clone(),
            attached: [options.app.clone()].into(),
            ..BaseSettings::default()
        };
        // The documents come first, so that the first snapshot is whole.
        let documents = given.with(options, &way, &registry.peers())?;
        apply(&control, &documents).await?;
        let base = Base::start(config, control.link(base, settings).await?, tasks).await?;
        Ok(Sidecar { control, base, given, way, telemetry, grpc_listener, asked })
    }

    /// Waits until the listeners are open. The addresses of the API over HTTP and gRPC.
    async fn opened(&mut self, options: &Options) -> anyhow::Result<(SocketAddr, SocketAddr)> {
        let mut status = self.base.parts().status.subscribe();
        let name = format!("api/{}", options.app);
        let known = status.wait_for(|status| {
            let are_open =
                [&name, &self.grpc_listener].iter().all(|name| status.listeners.contains_key(*name));
            status.refused.is_some() || !status.not_open.is_empty() || are_open
        });
        let known =
            tokio::time::timeout(OPEN_WITHIN, known).await.context("the API did not open in time")??;
        let not_open = known.not_open.iter().map(|(name, why)| format!("listener {name}: {why}")).next();
        if let Some(why) = known.refused.as_ref().map(|refused| refused.reason.clone()).or(not_open) {
            bail!("the sidecar cannot start: {}", ports::in_flags(&why, &options.app, &self.grpc_listener));
        }
        Ok((known.listeners[&name], known.listeners[&self.grpc_listener]))
    }

    /// Keeps the apps that others' sidecars stand beside up to date. Never ends.
    async fn follow_peers(&self, options: &Options, registry: &Registry, mut own: Option<Registered>) {
        let mut known = registry.peers();
        let mut applied = None;
        loop {
            if applied.as_ref() != Some(&known) {
                tracing::debug!(?known, "other sidecars");
                let documents = self.given.with(options, &self.way, &known);
                let done = match documents {
                    Ok(documents) => apply(&self.control, &documents).await,
                    Err(error) => Err(error),
                };
                match done {
                    Ok(()) => applied = Some(known.clone()),
                    Err(error) => tracing::warn!("other sidecars cannot be taken over: {error:#}"),
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
            if let Some(Err(error)) = own.as_mut().map(Registered::renew) {
                tracing::warn!("other sidecars may not find this one: {error:#}");
            }
            known = registry.peers();
        }
    }

    /// No new messages, then for a while the API alone, then nothing.
    async fn stop(self, options: &Options, mut app: watch::Receiver<State>, tasks: &Tasks) {
        self.base.parts().runtime.app_ready(&options.app, false);
        if !options.block_shutdown.is_zero() && *app.borrow() == State::Healthy {
            tracing::info!("the API stays for {:?}, or until the app is not healthy", options.block_shutdown);
            let gone = app.wait_for(|state| *state == State::Unhealthy);
            // Either is reason enough to go on.
            let _waited = tokio::time::timeout(options.block_shutdown, gone).await;
        }
        self.base.stop(options.drain).await;
        drop(self.control);
        let cut = tasks.drain(options.drain.max(Duration::from_secs(1))).await;
        if !cut.is_empty() {
            tracing::warn!(cut = ?cut.0, "some tasks did not end by themselves");
        }
        self.telemetry.close().await;
    }
}

/// Writes all documents of the sidecar; those it wrote earlier and does not write now go.
async fn apply(
    control: &Control,
    documents: &[dodai_api::Located<dodai_api::Document>],
) -> anyhow::Result<()> {
    let apply =
        Apply { documents, actor: "daprd", owner: FieldOwner::File, prune: Some("daprd"), dry_run: false };
    control.apply(&apply).await?;
    Ok(())
}

/// One thread keeps a cap on calls at once exact, since connections are counted per thread.
fn threads(options: &Options) -> usize {
    let capped = options.channel.as_ref().is_some_and(|channel| channel.max_concurrency.is_some());
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    if capped { 1 } else { cores.min(2) }
}

/// Where what outlives a sidecar is kept: in the user's folder for data, and without any in the working directory, as
/// components' files are.
fn lasting_folder(environment: &Environment, app: &AppId, here: &Path) -> PathBuf {
    let folder = |name| environment.get(name).map(Path::new).filter(|path| path.is_absolute());
    let home = || folder("HOME").map(|home| home.join(".local/share"));
    let data = folder("XDG_DATA_HOME").map(Path::to_path_buf).or_else(home);
    let own = data.map_or_else(|| here.join(".dodai"), |data| data.join("dodai"));
    own.join("daprd").join(app.namespace.as_str()).join(app.name.as_str())
}

fn runtime_settings(options: &Options, ask: watch::Sender<bool>) -> dodai_runtime::Settings {
    let connection = options.channel.as_ref().map(|channel| AppConnection {
        port: channel.port,
        protocol: channel.protocol.as_str().to_owned(),
        address: channel.host.clone(),
        max_concurrency: channel.max_concurrency,
        health: channel.health.as_ref().map(|check| AppHealth {
            path: check.path.clone(),
            interval: check.interval,
            timeout: check.timeout,
            threshold: check.threshold,
        }),
    });
    dodai_runtime::Settings {
        max_body: options.max_body,
        sidecar_of: Some(options.app.clone()),
        connection,
        origins: options.origins.clone(),
        asks_subscriptions: options.asks_subscriptions,
        shutdown: Arc::new(move |app: &AppId| {
            tracing::info!(%app, "the app asked for a shutdown");
            ask.send_replace(true);
        }),
        ..dodai_runtime::Settings::default()
    }
}

/// Where the API listens: at the port of HTTP, then at that of gRPC. Of the addresses nobody asked for, those the
/// machine has.
fn api_addresses(options: &Options) -> (Vec<SocketAddr>, Vec<SocketAddr>) {
    let has = |address: &IpAddr| !options.listen.is_default || TcpListener::bind((*address, 0)).is_ok();
    let own: Vec<IpAddr> = options.listen.addresses.iter().copied().filter(has).collect();
    let at = |port: u16| {
        // A free port is one port, so it can have one address only.
        let most = if port == 0 { 1 } else { own.len() };
        own.iter().take(most).map(|address| SocketAddr::new(*address, port)).collect()
    };
    let is_same = options.grpc_port == options.http_port && options.grpc_port != 0;
    (at(options.http_port), if is_same { Vec::new() } else { at(options.grpc_port) })
}
