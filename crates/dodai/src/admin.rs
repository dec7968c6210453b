//! The management API of a running `up` or `base`: what it needs of control, the base and the store, its
//! listener, and `admin.json`, by which other commands find it.

mod seams;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use dodai_admin::api::{self, About, Parts};
use dodai_admin::gate::Gate;
use dodai_admin::server;
use dodai_base::node::Base;
use dodai_base::telemetry::collect::Collector;
use dodai_base::telemetry::metrics::{Format, Source, render};
use dodai_control::control::Control;
use dodai_core::task::Tasks;
use dodai_transport::token::{Purpose, Token};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::client::connection::{AdminFile, FILE};
use seams::{Artefacts, Node, StoreLedger};

/// The port that is taken if it is free.
const DEFAULT_PORT: u16 = 7070;

/// What is administered.
pub struct Subject<'a> {
    /// Control.
    pub control: &'a Control,
    /// The base.
    pub base: &'a Base,
    /// The project folder.
    pub folder: &'a Path,
    /// The data folder.
    pub data: &'a Path,
    /// Where to listen; `None` for the usual port or any free one.
    pub address: Option<SocketAddr>,
}

/// The running API. Dropping it removes `admin.json`; its connections end with the tasks.
pub struct Admin {
    file: PathBuf,
    settled: watch::Sender<bool>,
    stop: watch::Receiver<bool>,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Admin {
    /// Opens the listener and serves.
    pub async fn start(subject: Subject<'_>, tasks: &Tasks) -> anyhow::Result<Admin> {
        let listener = listen(subject.address).await?;
        let address = listener.local_addr().context("the management API has no address")?;
        let token = Token::generate(Purpose::Api)?;
        let (settled, is_settled) = watch::channel(false);
        let (stop, asked) = watch::channel(false);
        let hash = token.hash();
        let check =
            move |text: &str| Token::parse(text, Purpose::Api).is_ok_and(|token| hash.matches(&token));
        let hosts = if address.ip().is_loopback() { Vec::new() } else { vec![address.ip().to_string()] };
        let parts = subject.base.parts();
        let node = Arc::new(Node { base: parts.clone() });
        let about = About {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            folder: Some(subject.folder.to_owned()),
            data: subject.data.to_owned(),
        };
        let collector = Collector::new(parts.clone(), env!("CARGO_PKG_VERSION"), Vec::new());
        let parts = Parts {
            control: subject.control.clone(),
            node,
            ledger: Arc::new(StoreLedger(subject.control.documents().store().clone())),
            artifacts: Arc::new(Artefacts(parts.modules.clone())),
            door: Arc::new(parts.plane.door()),
            joining: None,
            gate: Gate::new(Arc::new(check), hosts),
            about,
            metrics: Arc::new(move |accept| {
                let format = Format::negotiate(accept);
                (format.content_type(), render(&collector.read(), format))
            }),
            stop,
            settled: is_settled,
            tasks: tasks.clone(),
        };
        server::serve(listener, api::router(Arc::new(parts)), tasks);
        let file = subject.data.join(FILE);
        let content = AdminFile {
            address: address.to_string(),
            token: token.reveal(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        write_private(&file, &serde_json::to_vec_pretty(&content)?)?;
        Ok(Admin { file, settled, stop: asked, address })
    }

    /// Tells that everything that was started first is ready, or has had its time.
    pub fn settled(&self) {
        self.settled.send_replace(true);
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
