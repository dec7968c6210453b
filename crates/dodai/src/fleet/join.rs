//! `dodai base --join`: a base that is told by a server what it should be.
//!
//! It proves itself once with a token, then with the certificate that it got for it. What it was told last is
//! on its disk: it starts and serves whether or not there is a server.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use dodai_base::brought::Brought;
use dodai_base::membership::{self, Issuer, Membership};
use dodai_base::node::{self, Base, Source};
use dodai_control::stream::{self, Introduction, Remote, RemoteError, Standing};
use dodai_core::id::{AppId, BaseId, Digest};
use dodai_core::status::Wants;
use dodai_core::task::{Kind, Tasks};
use dodai_dataplane::limits::Limits;
use dodai_transport::ca::Svid;
use dodai_transport::identity::TrustDomain;
use dodai_transport::network::Network;
use dodai_transport::pem;
use dodai_transport::tls::Clock;
use dodai_transport::tls::mesh::LiveSvid;
use dodai_transport::tls::pinned::Pin;
use dodai_transport::token::{Purpose, Token};
use dodai_transport::trust::Trust;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::questions::Local;
use crate::admin::{Node, page_of};
use crate::cli;
use crate::environment::Environment;
use crate::exit::Failed;
use crate::local::executable;
use crate::metrics;
use crate::output::Output;
use crate::signals::Signals;
use crate::telemetry::Telemetry;
use crate::up::{default_threads, make_private};

/// The folder of keys and certificates in the data folder.
const IDENTITY: &str = "identity";
/// Who the base is.
const NAME: &str = "name";
/// What its apps send to the runtime API.
const API_TOKEN: &str = "api-token";
/// What it was told last.
const SNAPSHOT: &str = "snapshot.json";
/// What shows that a process runs on the data folder.
const LOCK: &str = "base.lock";

/// Runs the command.
pub async fn run(
    arguments: &cli::Base,
    server: &str,
    environment: &Environment,
    output: &Output,
) -> anyhow::Result<ExitCode> {
    let (host, port) = server_address(server)?;
    let (data, name) = places(arguments)?;
    let _lock = lock(&data)?;
    let base = BaseId::new(&name);
    let domain = TrustDomain::new(&arguments.trust_domain)?;
    let (own, trust) = identity(arguments, &data, (&host, port), &base, &domain, output).await?;
    let clock = Clock::system();
    let remote = Remote::new(
        Network::system(),
        (&host, port),
        base.clone(),
        own.clone(),
        trust.clone(),
        clock.clone(),
    );
    let server = Arc::new(FromServer(remote.clone()));
    let membership = Membership::new(membership::Settings {
        base: base.clone(),
        own,
        trust,
        issuer: server.clone(),
        folder: data.join(IDENTITY),
        advertise: advertised(arguments)?,
        clock,
    });
    let tasks = Tasks::new();
    let documents = dodai_api::Project::default();
    let telemetry =
        Telemetry::start(&arguments.telemetry, environment, &documents, (&base, &data), output, &tasks)?;
    let project = arguments.project.clone().unwrap_or_else(|| data.clone());
    let project = project.canonicalize().with_context(|| {
        format!("there is no folder {}; choose another with --project", project.display())
    })?;
    let config = node::Config {
        base: base.clone(),
        data_dir: data.clone(),
        project_dir: project,
        executable: vec![executable()?],
        threads: arguments.threads.unwrap_or_else(default_threads),
        limits: Limits::default(),
        sinks: telemetry.sinks(),
        sample_per_ten_thousand: telemetry.sample_per_ten_thousand,
        environment: environment.0.clone(),
        wants: Wants::default(),
        membership: Some(membership.clone()),
        artifacts: Some(server),
        runtime: dodai_runtime::Settings::default(),
        components_dir: None,
    };
    let scraped = arguments.metrics.listener(Some(metrics::BASE_PORT), output).await?;
    let mut signals = Signals::listen()?;
    let introduction = Introduction { mesh: Some(arguments.mesh), api_token: Some(api_token(&data)?) };
    let answers = Local::default();
    let known = last(&data, &base, output);
    let (link, standing) = remote.connect(known, introduction, Arc::new(answers.clone()), &tasks);
    tasks.spawn(Kind::Loop, expect(membership.brought().clone(), standing.clone(), tasks.clone()));
    stream::keep(data.join(SNAPSHOT), link.snapshots.clone(), link.status.subscribe(), &tasks);
    let running = Base::start(config, link, &tasks).await?;
    answers.begin(Node { base: running.parts().clone(), ring: telemetry.ring().clone() });
    if let Some(listener) = scraped {
        metrics::serve(listener, page_of(&running, &telemetry), output, &tasks)?;
    }
    tokio::select! {
        // Both only wait.
        () = signals.next() => {}
        () = tell(&remote, standing, output) => {}
    }
    output.say("stopping: finishing calls, then the apps; once more to stop at once");
    let stop = async {
        running.stop(Duration::from_secs(arguments.drain)).await;
        let cut = tasks.drain(Duration::from_secs(5)).await;
        if !cut.is_empty() {
            tracing::warn!(cut = ?cut.0, "some tasks did not end by themselves");
        }
        telemetry.close().await;
    };
    Ok(signals.unless_hurried(stop, output).await)
}

/// Tells those who wait for what the server brings whether there is one.
async fn expect(brought: Brought, mut standing: watch::Receiver<Standing>, tasks: Tasks) {
    loop {
        match &*standing.borrow_and_update() {
            Standing::Connecting => {}
            Standing::Connected => brought.connected(true),
            Standing::Away(_) | Standing::Refused(_) => brought.connected(false),
        }
        tokio::select! {
            // Both only wait.
            changed = standing.changed() => if changed.is_err() { return },
            () = tasks.closing() => return,
        }
    }
}

/// Says how it stands with the server, whenever that changes.
async fn tell(remote: &Remote, mut standing: watch::Receiver<Standing>, output: &Output) {
    loop {
        let now = standing.borrow_and_update().clone();
        match now {
            Standing::Connecting => {}
            Standing::Connected => {
                output.say(&format!("base {}: connected to {}", remote.base(), remote.server()));
            }
            Standing::Away(why) => {
                output.say(&format!("base {}: no server, going on without ({why})", remote.base()));
            }
            Standing::Refused(why) => {
                output.warn(&format!(
                    "base {}: the server does not let it in, going on without: {why}",
                    remote.base()
                ));
            }
        }
        let before = std::mem::discriminant(&*standing.borrow());
        let other = standing.wait_for(|now| std::mem::discriminant(now) != before).await.is_ok();
        if !other {
            std::future::pending::<()>().await;
        }
    }
}

/// `host:port`, the host perhaps an IPv6 address in brackets.
fn server_address(text: &str) -> anyhow::Result<(String, u16)> {
    let parsed = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
    let (host, port) = parsed.with_context(|| format!("`{text}` is no server; write --join HOST:PORT"))?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    anyhow::ensure!(!host.is_empty(), "`{text}` is no server; write --join HOST:PORT");
    Ok((host.to_owned(), port))
}

/// Where others reach this base, as far as it was said.
fn advertised(arguments: &cli::Base) -> anyhow::Result<Option<SocketAddr>> {
    anyhow::ensure!(
        arguments.advertise.is_some() || !arguments.mesh.ip().is_unspecified(),
        "{} is no address that other bases can call; say with --advertise where they reach this one, such as 10.0.0.5:0",
        arguments.mesh.ip()
    );
    Ok(arguments.advertise)
}

/// The data folder and the base's name: as said, as known there, or after the machine.
fn places(arguments: &cli::Base) -> anyhow::Result<(PathBuf, String)> {
    let known = |data: &Path| std::fs::read_to_string(data.join(IDENTITY).join(NAME)).ok();
    let machine = || host_name().context("this machine has no name; choose one for the base with --name");
    let (data, name) = match (&arguments.data, &arguments.name) {
        (Some(data), Some(name)) => (data.clone(), name.clone()),
        (Some(data), None) => (data.clone(), known(data).map_or_else(machine, Ok)?),
        (None, name) => {
            let name = name.clone().map_or_else(machine, Ok)?;
            (Path::new(".dodai").join("bases").join(&name), name)
        }
    };
    name.parse::<dodai_api::Name>().map_err(|error| {
        anyhow::anyhow!("`{name}` cannot be a base's name: {error}; choose another with --name")
    })?;
    make_private(&data)?;
    make_private(&data.join(IDENTITY))?;
    let data = data.canonicalize().with_context(|| format!("cannot find {}", data.display()))?;
    if let Some(known) = known(&data).filter(|known| *known != name) {
        anyhow::bail!(
            "{} belongs to base {known}; start with --name {known}, or choose another folder with --data",
            data.display()
        );
    }
    Ok((data, name))
}

/// The machine's name, as a name of ours.
pub fn host_name() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .or_else(|_| std::fs::read_to_string("/etc/hostname"))
        .ok()?;
    let first = text.trim().split('.').next().unwrap_or_default().to_ascii_lowercase();
    let kept: String =
        first.chars().map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' }).collect();
    Some(kept.trim_matches('-').to_owned()).filter(|name| !name.is_empty())
}

/// Refuses a second process on one data folder.
fn lock(data: &Path) -> anyhow::Result<File> {
    let path = data.join(LOCK);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(_) => anyhow::bail!(
            "another base runs on {}; stop it, or choose another folder with --data",
            data.display()
        ),
    }
}

/// The identity on disk, or the one that joining gives.
async fn identity(
    arguments: &cli::Base,
    data: &Path,
    (host, port): (&str, u16),
    base: &BaseId,
    domain: &TrustDomain,
    output: &Output,
) -> anyhow::Result<(LiveSvid, Trust)> {
    let folder = data.join(IDENTITY);
    let clock = Clock::system();
    if let Some((own, trust)) = membership::load(&folder, domain)? {
        // Who gives a token and another pin has a new server in mind.
        let pin = arguments.pin.as_deref().and_then(|pin| Pin::parse(pin).ok());
        let is_known = |pin| trust.bundle().roots().iter().any(|root| Pin::of(root) == pin);
        let moves = arguments.token.is_some() && pin.is_some_and(|pin| !is_known(pin));
        let is_valid = own.load().not_after() > clock.now();
        if is_valid && !moves && !is_stranger(arguments, (host, port), base, &own, &trust).await {
            return Ok((own, trust));
        }
        anyhow::ensure!(
            is_valid || arguments.token.is_some(),
            "the certificate of base {base} has expired: it was without a server for too long; get a token with `dodai token create --base {base}` there and start once with --token and --pin"
        );
    }
    let token = arguments.token.as_deref().with_context(|| {
        format!(
            "base {base} has not joined yet ({} holds no certificate); get a token with `dodai token create` on the server and start once with --token and --pin",
            folder.display()
        )
    })?;
    let pin = arguments.pin.as_deref().context(
        "--pin is needed beside --token, or anybody could answer for the server; `dodai token create` prints both",
    )?;
    let pin = Pin::parse(pin)?;
    let joined = stream::join(&Network::system(), (host, port), pin, domain, base, token, clock).await;
    let joined = joined.map_err(|error| {
        let gone = matches!(error, RemoteError::Unreachable { .. });
        let error = anyhow::Error::new(error);
        if gone { error.context(Failed::Unreachable) } else { error }
            .context(format!("base {base} cannot join {host}:{port}"))
    })?;
    let kept = membership::keep(&folder, &joined.svid, &joined.bundle)
        .and_then(|()| pem::write_public(&folder.join(NAME), base.as_str()));
    kept.with_context(|| format!("cannot write to {}", folder.display()))?;
    output.say(&format!("base {base}: joined {host}:{port}; its key is in {}", folder.display()));
    let trust = Trust::new(joined.domain, joined.bundle);
    Ok((LiveSvid::new(joined.svid)?, trust))
}

/// Whether the server does not know this base by its certificate any more. Asked only with a token at hand: without
/// one the base goes on with what it was told.
async fn is_stranger(
    arguments: &cli::Base,
    at: (&str, u16),
    base: &BaseId,
    own: &LiveSvid,
    trust: &Trust,
) -> bool {
    if arguments.token.is_none() || arguments.pin.is_none() {
        return false;
    }
    let remote =
        Remote::new(Network::system(), at, base.clone(), own.clone(), trust.clone(), Clock::system());
    remote.renew(None).await.is_err_and(|error| error.asks_to_join())
}

/// What apps here send to the runtime API: made at the first start.
fn api_token(data: &Path) -> anyhow::Result<String> {
    let path = data.join(IDENTITY).join(API_TOKEN);
    match std::fs::read_to_string(&path) {
        Ok(known) if Token::parse(&known, Purpose::Api).is_ok() => return Ok(known.trim().to_owned()),
        Ok(_) | Err(_) => {}
    }
    let fresh = Token::generate(Purpose::Api)?.reveal();
    pem::write_secret(&path, &fresh).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(fresh)
}

/// What the base was told last.
fn last(data: &Path, base: &BaseId, output: &Output) -> Option<dodai_core::snapshot::Snapshot> {
    match stream::load(&data.join(SNAPSHOT)) {
        Ok(found) => {
            if let Some(snapshot) = &found {
                let count = snapshot.workloads().count();
                output.say(&format!("base {base}: starting {count} instances as it was told last"));
            }
            found
        }
        Err(error) => {
            output.warn(&error.to_string());
            None
        }
    }
}

/// Certificates and artefacts from the server.
struct FromServer(Remote);

impl Issuer for FromServer {
    fn issue(&self, name: Option<AppId>) -> BoxFuture<'static, Result<Svid, String>> {
        let remote = self.0.clone();
        Box::pin(async move { remote.renew(name.as_ref()).await.map_err(|error| error.to_string()) })
    }
}

impl Source for FromServer {
    fn fetch(&self, digest: Digest, file: PathBuf) -> BoxFuture<'static, Result<(), String>> {
        let remote = self.0.clone();
        Box::pin(async move { remote.artifact(&digest, &file).await.map_err(|error| error.to_string()) })
    }
}
