//! The management API of a running `up` or `base`: what it needs of control, the base and the store, its
//! listener, and `admin.json`, by which other commands find it.

mod calls;
mod inside;
mod jobs;
mod measures;
mod seams;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use dodai_admin::api::{self, About, Metrics, Parts};
use dodai_admin::gate::Gate;
use dodai_admin::joining::Joining;
use dodai_admin::live::Live;
use dodai_admin::seam::{self, NotReady};
use dodai_admin::server;
use dodai_admin::session::Sessions;
use dodai_base::node::{Base, component_types};
use dodai_base::telemetry::collect::Collector;
use dodai_base::telemetry::metrics::{Format, Source, render};
use dodai_control::control::Control;
use dodai_core::call::Door;
use dodai_core::task::{Kind, Tasks};
use dodai_modules::Host;
use dodai_transport::token::{Purpose, Token};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::client::connection::{AdminFile, FILE};
use crate::output::Output;
use crate::telemetry::Telemetry;
pub use measures::{add, answered, begun, crossed, usages};
use seams::{Artefacts, StoreLedger};
pub use seams::{Node, latest};

/// The port that is taken if it is free.
const DEFAULT_PORT: u16 = 7070;
/// How soon `admin.json` is tried again when it could not be written.
const REWRITE: std::time::Duration = std::time::Duration::from_secs(5);

/// Where the management API is reached.
#[derive(Args, Clone, Debug, Default)]
#[group(skip)]
pub struct Flags {
    /// Where the management API listens; default: port 7070 of loopback, or a free one.
    #[arg(long, value_name = "ADDRESS")]
    pub admin: Option<SocketAddr>,
    /// A name under which the management API is reached, beside IP addresses and `localhost` (repeat).
    #[arg(long = "admin-host", value_name = "NAME")]
    pub admin_hosts: Vec<String>,
}

/// What is administered.
pub struct Subject<'a> {
    /// Control.
    pub control: &'a Control,
    /// The base.
    pub base: &'a Base,
    /// What it tells about its calls.
    pub telemetry: &'a Telemetry,
    /// The project folder.
    pub folder: &'a Path,
    /// The data folder.
    pub data: &'a Path,
    /// Where it is reached.
    pub flags: &'a Flags,
}

/// What the API works on, wherever it is.
pub struct Works<'a> {
    /// Control.
    pub control: &'a Control,
    /// Answers for what runs.
    pub node: Arc<dyn seam::Node>,
    /// Where artefacts are kept.
    pub modules: Arc<Host>,
    /// The way for calls.
    pub door: Arc<dyn Door>,
    /// The metrics page.
    pub metrics: Metrics,
    /// How bases join, if they can.
    pub joining: Option<Joining>,
    /// The roots that bases are known by, if it signs for any.
    pub roots: Option<Arc<dyn seam::Roots>>,
    /// The folder whose files it can read, if any.
    pub folder: Option<&'a Path>,
    /// The data folder.
    pub data: &'a Path,
    /// Where it is reached.
    pub flags: &'a Flags,
}

/// The running API. Dropping it removes `admin.json`; its connections end with the tasks.
pub struct Admin {
    file: PathBuf,
    settled: watch::Sender<Option<Vec<NotReady>>>,
    stop: watch::Receiver<bool>,
    /// Where it listens.
    pub address: SocketAddr,
    /// What opens the console in a browser. It holds the token.
    pub link: String,
}

/// What opens the console of a server in a browser: what follows `#` stays in the browser.
pub fn link(address: impl std::fmt::Display, token: &str) -> String {
    format!("http://{address}/#token={token}")
}

impl Subject<'_> {
    /// The page of its metrics.
    pub fn metrics(&self) -> Metrics {
        page_of(self.base, self.telemetry)
    }
}

/// The page of a base's metrics.
pub fn page_of(base: &Base, telemetry: &Telemetry) -> Metrics {
    let collector = Collector::new(base.parts().clone(), env!("CARGO_PKG_VERSION"), telemetry.readings());
    Arc::new(move |accept| {
        let format = Format::negotiate(accept);
        (format.content_type(), render(&collector.read(), format))
    })
}

impl Admin {
    /// Serves what a base in this process is and does.
    pub async fn start(subject: Subject<'_>, output: &Output, tasks: &Tasks) -> anyhow::Result<Admin> {
        let parts = subject.base.parts();
        let works = Works {
            control: subject.control,
            node: Arc::new(Node { base: parts.clone(), ring: subject.telemetry.ring().clone() }),
            modules: parts.modules.clone(),
            door: Arc::new(parts.plane.door()),
            metrics: subject.metrics(),
            joining: None,
            roots: None,
            folder: Some(subject.folder),
            data: subject.data,
            flags: subject.flags,
        };
        Admin::serve(works, output, tasks).await
    }

    /// Opens the listener and serves.
    pub async fn serve(works: Works<'_>, output: &Output, tasks: &Tasks) -> anyhow::Result<Admin> {
        let listener = listen(works.flags.admin).await?;
        let address = listener.local_addr().context("the management API has no address")?;
        if !address.ip().is_loopback() {
            output.warn(&format!(
                "the management API on {address} is plain HTTP: whoever sees the traffic reads its token; use it in networks that you trust, or behind a tunnel"
            ));
        }
        let token = Token::generate(Purpose::Api)?;
        let (settled, is_settled) = watch::channel(None);
        let (stop, asked) = watch::channel(false);
        let hash = token.hash();
        let check =
            move |text: &str| Token::parse(text, Purpose::Api).is_ok_and(|token| hash.matches(&token));
        let about = About {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            folder: works.folder.map(Path::to_owned),
            data: works.data.to_owned(),
            component_types: component_types(),
        };
        let parts = Parts {
            control: works.control.clone(),
            live: Live::start(works.control.clone(), works.node.clone(), tasks),
            sessions: Sessions::default(),
            node: works.node,
            ledger: Arc::new(StoreLedger(works.control.documents().store().clone())),
            artifacts: Arc::new(Artefacts(works.modules)),
            door: works.door,
            gate: Gate::new(Arc::new(check), works.flags.admin_hosts.clone()),
            about,
            metrics: works.metrics,
            joining: works.joining,
            roots: works.roots,
            stop,
            settled: is_settled,
            tasks: tasks.clone(),
        };
        server::serve(listener, api::router(Arc::new(parts)), tasks);
        let file = works.data.join(FILE);
        let content = AdminFile {
            address: reached_at(address).to_string(),
            token: token.reveal(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let content = serde_json::to_vec_pretty(&content)?;
        if let Err(error) = write_private(&file, &content) {
            // A full disk must not keep apps and traffic down.
            output.warn(&format!("{error:#}; commands do not find this process until it can be written"));
            tasks.spawn(Kind::Loop, write_later(file.clone(), content, tasks.clone()));
        }
        let link = link(reached_at(address), &token.reveal());
        Ok(Admin { file, settled, stop: asked, address, link })
    }

    /// Tells that everything that was started first is ready, or has had its time; and what of it is not ready.
    pub fn settled(&self, not_ready: Vec<NotReady>) {
        self.settled.send_replace(Some(not_ready));
    }

    /// Ends when somebody asks the server to stop. Cancel safe.
    pub async fn asked_to_stop(&self) {
        let mut stop = self.stop.clone();
        if stop.wait_for(|stop| *stop).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        let _gone = std::fs::remove_file(&self.file);
    }
}

/// Where commands on this machine reach a listener: one on every address is reached on loopback.
fn reached_at(address: SocketAddr) -> SocketAddr {
    let loopback = match address.ip() {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    let ip = if address.ip().is_unspecified() { loopback } else { address.ip() };
    SocketAddr::new(ip, address.port())
}

async fn listen(address: Option<SocketAddr>) -> anyhow::Result<TcpListener> {
    if let Some(address) = address {
        return TcpListener::bind(address).await.with_context(|| {
            format!("the management API cannot listen on {address}; choose another with --admin")
        });
    }
    let usual = SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_PORT));
    match TcpListener::bind(usual).await {
        Ok(listener) => Ok(listener),
        Err(_taken) => {
            let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            TcpListener::bind(any).await.context("the management API finds no free port on 127.0.0.1")
        }
    }
}

/// Tries again until the file is there.
async fn write_later(file: PathBuf, content: Vec<u8>, tasks: Tasks) {
    loop {
        tokio::select! {
            // Both only wait.
            () = tasks.closing() => return,
            () = tokio::time::sleep(REWRITE) => {}
        }
        if write_private(&file, &content).is_ok() {
            return;
        }
    }
}

/// Writes a file whole that only its owner can read.
fn write_private(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let partial = path.with_extension("json.partial");
    let failed = || format!("cannot write {}", path.display());
    let _left = std::fs::remove_file(&partial);
    let mut file = std::fs::OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(&partial)
        .with_context(failed)?;
    file.write_all(content).with_context(failed)?;
    std::fs::rename(&partial, path).with_context(failed)
}
