//! `dodai server`: control over SQLite, the certificate authority, the control stream for bases, the management
//! API. It runs no app and carries no call; what it decides lives on in the bases when it is gone.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use dodai_admin::api::Metrics;
use dodai_admin::joining::Joining;
use dodai_api::Process;
use dodai_control::control::{Control, Settings};
use dodai_control::documents::{Artifacts as Resolver, DigestsOnly};
use dodai_control::stream::{Asker, Blobs, Server};
use dodai_core::id::{AppId, Digest};
use dodai_core::task::{Kind, Tasks};
use dodai_modules::{Artifacts, Child, Compiler, Host, HostOptions};
use dodai_store::{Options, SqliteStore};
use dodai_transport::ca::{Authorities, KEY_FILE};
use dodai_transport::identity::TrustDomain;
use dodai_transport::listen;
use dodai_transport::network::Network;
use dodai_transport::tls::mesh::{LiveSvid, open_acceptor};
use dodai_transport::tls::{Alpn, Clock};
use futures_util::future::BoxFuture;
use serde_json::json;

use super::remote::Fleet;
use super::roots::{Signs, Steps, leaf};
use crate::admin::{Admin, Works};
use crate::cli;
use crate::detach;
use crate::local::executable;
use crate::metrics;
use crate::output::Output;
use crate::signals::Signals;
use crate::up::{STORE, make_private, store_bytes};

/// The folder of the certificate authority in the data folder.
pub const AUTHORITY: &str = "ca";
/// How long streams may take to end.
const DRAIN: Duration = Duration::from_secs(5);

/// Runs the command.
pub async fn run(arguments: cli::Server, output: &Output) -> anyhow::Result<ExitCode> {
    let data = arguments.data.clone().unwrap_or_else(|| ".dodai".into());
    make_private(&data)?;
    let data = data.canonicalize().with_context(|| format!("cannot find {}", data.display()))?;
    detach::refuse_second(&data)?;
    let tasks = Tasks::new();
    check_store(&data, arguments.fresh_store)?;
    let authorities = Arc::new(authorities(&data, &arguments.trust_domain)?);
    let store = SqliteStore::open(data.join(STORE), Options::default(), &tasks).await?;
    let modules = Arc::new(modules(&data, &tasks)?);
    let stored = Stored(modules.artifacts().clone());
    let settings = Settings { artifacts: Arc::new(stored.clone()), remote: true, ..Settings::default() };
    let control = Control::start(Arc::new(store), settings, &tasks).await?;
    crate::sweep::spawn(&control, &modules, &tasks);
    let own = LiveSvid::new(leaf(&authorities)?)?;
    let life = arguments.certificate_life.get();
    let signs = Arc::new(Signs::new(authorities.clone(), own.clone(), control.clone(), life)?);
    // Before anybody comes: what is revoked must not get in.
    signs.tell().await?;
    let (address, asker) = listen(&arguments, &control, &authorities, &own, stored, &tasks)?;
    let trust = authorities.trust().clone();
    let fleet = Arc::new(Fleet::new(control.clone(), own, trust, asker, &tasks));
    tasks.spawn(Kind::Loop, fleet.clone().bring_configuration(tasks.clone()));
    tasks.spawn(Kind::Loop, fleet.clone().gather(tasks.clone()));
    tasks.spawn(Kind::Loop, signs.clone().tend(tasks.clone()));
    let joining = Joining {
        address: shown(&arguments, address),
        pin: signs.pin(),
        domain: authorities.domain().to_string(),
    };
    let mut signals = Signals::listen()?;
    let scraped = arguments.metrics.listener(Some(metrics::SERVER_PORT), output).await?;
    let page: Metrics = {
        let fleet = fleet.clone();
        Arc::new(move |_| ("text/plain; version=0.0.4; charset=utf-8", fleet.metrics()))
    };
    if let Some(listener) = scraped {
        metrics::serve(listener, page.clone(), output, &tasks)?;
    }
    let works = Works {
        control: &control,
        node: fleet.clone(),
        modules: modules.clone(),
        metrics: page,
        door: fleet,
        joining: Some(joining.clone()),
        roots: Some(Arc::new(Steps::new(signs, tasks.clone()))),
        folder: None,
        data: &data,
        flags: &arguments.admin,
    };
    let admin = Admin::serve(works, output, &tasks).await?;
    admin.settled(Vec::new());
    let pin = joining.pin.borrow().clone();
    output.say(&format!("control stream: {address}, certificate authority {pin}"));
    output.say(&format!("management API: http://{}", admin.address));
    // What a server prints is kept in journals, which more people read than may have the token.
    let folder = data.display();
    output.say(&format!("console: `dodai console --data-folder {folder}` prints the link that opens it"));
    output.say("bases join with what `dodai token create` prints; stop with Ctrl-C");
    let value = json!({ "server": joining.address, "pin": pin, "admin": admin.address });
    let _for_people = output.value(&value);
    tokio::select! {
        // Both only wait.
        () = signals.next() => {}
        () = admin.asked_to_stop() => {}
    }
    output.say("stopping: the bases go on with what they were told");
    let stop = async {
        drop((control, admin));
        modules.shutdown(DRAIN).await;
        let cut = tasks.drain(DRAIN).await;
        if !cut.is_empty() {
            tracing::warn!(cut = ?cut.0, "some tasks did not end by themselves");
        }
    };
    Ok(signals.unless_hurried(stop, output).await)
}

/// Refuses to start with no documents where there have been some: its bases would be told that there is nothing, and
/// end everything.
fn check_store(data: &Path, fresh: bool) -> anyhow::Result<()> {
    let (folder, store) = (data.display(), data.join(STORE));
    match store_bytes(data) {
        None | Some(0) if fresh || !data.join(AUTHORITY).join(KEY_FILE).exists() => Ok(()),
        None | Some(0) => anyhow::bail!(
            "{folder} is of a server that ran, and its documents are lost: {} is {}; put a backup in its place with \
             `dodai store restore FILE --data-folder {folder}`, or start anew with --fresh-store, upon which every base \
             that joined ends all it runs until documents are applied again",
            store.display(),
            if store.exists() { "empty" } else { "not there" },
        ),
        Some(_) if fresh => anyhow::bail!(
            "--fresh-store is for a server whose store is lost, and {} holds one; leave the flag out, or move the file away",
            store.display()
        ),
        Some(_) => Ok(()),
    }
}

/// The authorities in the data folder; a new one at the first start.
fn authorities(data: &Path, domain: &str) -> anyhow::Result<Authorities> {
    let folder = data.join(AUTHORITY);
    make_private(&folder)?;
    let domain = TrustDomain::new(domain)?;
    let now = Clock::system().now();
    if let Some(known) = Authorities::load(domain.clone(), &folder, now)? {
        return Ok(known);
    }
    anyhow::ensure!(
        !data.join(STORE).exists(),
        "{} holds documents but no {}: if they are of `dodai up`, choose another folder with --data; if the file was lost, restore it from a backup, or no base that joined will know this server",
        data.display(),
        Path::new(AUTHORITY).join(KEY_FILE).display()
    );
    Ok(Authorities::create(domain, &folder, now)?)
}

/// The module host: it compiles what is deployed, and so refuses what no base could run. It runs nothing.
fn modules(data: &Path, tasks: &Tasks) -> anyhow::Result<Host> {
    let mut options = HostOptions::new(data.join("modules"));
    options.compiler = Compiler::Child(Child::new(vec![executable()?, "compile-module".into()]));
    Ok(Host::open(options, tasks)?)
}

/// Opens the control stream.
fn listen(
    arguments: &cli::Server,
    control: &Control,
    authorities: &Arc<Authorities>,
    own: &LiveSvid,
    stored: Stored,
    tasks: &Tasks,
) -> anyhow::Result<(SocketAddr, Asker)> {
    let listener = Network::system().listen(arguments.listen, &listen::Options::named("--listen"))?;
    let address = listener.local_addr().context("the control stream has no address")?;
    let trust = authorities.trust().clone();
    let acceptor = open_acceptor(Arc::new(own.clone()), trust, &[Alpn::H2], Clock::system());
    let validity = arguments.certificate_life.get();
    let server = Server::new(control.clone(), authorities.clone(), Arc::new(stored), tasks);
    server.clone().with_validity(validity).serve(listener, acceptor);
    Ok((address, server.asker()))
}

/// Where bases reach the control stream, as far as that can be told from here.
fn shown(arguments: &cli::Server, address: SocketAddr) -> String {
    if let Some(told) = &arguments.advertise {
        return told.clone();
    }
    if !address.ip().is_unspecified() {
        return address.to_string();
    }
    let host = super::join::host_name().unwrap_or_else(|| "THIS-HOST".to_owned());
    format!("{host}:{}", address.port())
}

/// The artefacts that were uploaded.
#[derive(Clone)]
struct Stored(Artifacts);

impl Resolver for Stored {
    fn module(&self, app: &AppId, artifact: &str) -> Result<Digest, String> {
        let digest = DigestsOnly.module(app, artifact)?;
        if self.0.contains(&digest) {
            return Ok(digest);
        }
        Err(format!(
            "the artefact {artifact} is not stored here; upload it with `dodai deploy` or `dodai apply`"
        ))
    }

    fn process(&self, _app: &AppId, _process: &Process) -> Result<Option<Digest>, String> {
        // Programs are on the machines of the bases.
        Ok(None)
    }
}

impl Blobs for Stored {
    fn read(
        &self,
        digest: &Digest,
        offset: u64,
        most: usize,
    ) -> BoxFuture<'static, Result<Option<Bytes>, String>> {
        let (artifacts, digest) = (self.0.clone(), digest.clone());
        Box::pin(async move {
            let read = tokio::task::spawn_blocking(move || artifacts.piece(&digest, offset, most)).await;
            match read.map_err(|error| error.to_string())? {
                Ok(piece) => Ok(Some(piece.into())),
                Err(dodai_modules::Error::Missing { .. } | dodai_modules::Error::BadDigest(_)) => Ok(None),
                Err(error) => Err(error.to_string()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_lost_its_documents_does_not_start_as_if_there_were_none() {
        let check = |authority: bool, store: Option<&str>, fresh: bool, expect: Option<&str>| {
            let folder = tempfile::tempdir().unwrap();
            if authority {
                std::fs::create_dir(folder.path().join(AUTHORITY)).unwrap();
                std::fs::write(folder.path().join(AUTHORITY).join(KEY_FILE), "key").unwrap();
            }
            if let Some(store) = store {
                std::fs::write(folder.path().join(STORE), store).unwrap();
            }
            let told = check_store(folder.path(), fresh).err().map(|error| error.to_string());
            assert_eq!(told.is_some(), expect.is_some(), "{authority} {store:?} {fresh}: {told:?}");
            assert!(
                told.unwrap_or_default().contains(expect.unwrap_or_default()),
                "{authority} {store:?} {fresh}"
            );
        };
        check(false, None, false, None);
        check(false, None, true, None);
        check(true, Some("documents"), false, None);
        check(true, None, false, Some("is not there; put a backup"));
        check(true, Some(""), false, Some("is empty; put a backup"));
        check(true, None, true, None);
        check(true, Some(""), true, None);
        check(true, Some("documents"), true, Some("holds one; leave the flag out"));
    }
}
