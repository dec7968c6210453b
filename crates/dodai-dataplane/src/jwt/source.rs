//! Where an issuer's keys come from, an address or a file: they are fetched when they are first needed, renewed beside
//! the calls, and kept while the issuer cannot be reached.

use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use dodai_core::body::Body;
use dodai_core::call::{Call, Caller, Context};
use dodai_core::failure::{Failure, Kind};
use dodai_core::task;
use dodai_core::trace::Span;
use tokio::sync::Notify;

use super::keys::KeySet;
use crate::door;
use crate::message;
use crate::service::now_nanos;
use crate::worker::Worker;

/// The longest a call waits for keys.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause between two fetches, whatever calls ask for: a made-up key id must not make us a nuisance to an issuer.
const PAUSE: Duration = Duration::from_secs(10);
/// How soon a file that has changed is read again, while its keys are used.
const FILE_REFRESH: Duration = Duration::from_secs(2);
/// The largest set that is read, in bytes.
const MAX_BYTES: usize = 256 << 10;

/// Where keys are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// At an address.
    Uri(String),
    /// In a file.
    File(PathBuf),
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Origin::Uri(uri) => f.write_str(uri),
            Origin::File(path) => path.display().fmt(f),
        }
    }
}

/// The keys of one place.
#[derive(Debug)]
pub struct Source {
    from: Origin,
    refresh: Duration,
    /// Between two fetches, whatever calls ask for.
    pause: Duration,
    keys: ArcSwapOption<KeySet>,
    /// When they were last fetched and last asked for, on the clock of [`now_nanos`]; 0 is never.
    fetched: AtomicU64,
    tried: AtomicU64,
    used: AtomicBool,
    fetching: AtomicBool,
    done: Notify,
}

/// The key sources of a base, by place.
pub struct Sources {
    folder: PathBuf,
    all: Mutex<HashMap<Origin, Arc<Source>>>,
}

impl Sources {
    /// None yet. Relative paths begin at `folder`.
    pub fn new(folder: PathBuf) -> Sources {
        Sources { folder, all: Mutex::default() }
    }

    /// The source at `uri`, whose keys are renewed every `refresh`; whoever asks first says how often.
    pub fn at(&self, uri: &str, refresh: Duration) -> Arc<Source> {
        self.get(Origin::Uri(uri.to_owned()), refresh, PAUSE)
    }

    /// The source in the file at `path`.
    pub fn file(&self, path: &str) -> Arc<Source> {
        self.get(Origin::File(self.folder.join(path)), FILE_REFRESH, FILE_REFRESH)
    }

    fn get(&self, from: Origin, refresh: Duration, pause: Duration) -> Arc<Source> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || {
            Arc::new(Source {
                from: from.clone(),
                refresh,
                pause,
                keys: ArcSwapOption::empty(),
                fetched: AtomicU64::new(0),
                tried: AtomicU64::new(0),
                used: AtomicBool::new(false),
                fetching: AtomicBool::new(false),
                done: Notify::new(),
            })
        };
        all.entry(from.clone()).or_insert_with(new).clone()
    }

    /// Fetches what was used and is old, and forgets what no rule has any more.
    pub fn renew(&self, worker: &Rc<Worker>) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if all.is_empty() {
            return;
        }
        all.retain(|_, source| Arc::strong_count(source) > 1);
        for source in all.values().filter(|source| source.is_due()) {
            source.start(worker);
        }
    }
}

fn since(at: &AtomicU64) -> Duration {
    Duration::from_nanos(now_nanos().saturating_sub(at.load(Relaxed)))
}

impl Source {
    /// The keys, if they have been fetched.
    pub fn keys(&self) -> Option<Arc<KeySet>> {
        if !self.used.load(Relaxed) {
            self.used.store(true, Relaxed);
        }
        self.keys.load_full()
    }

    /// Whether asking again may bring something new.
    pub fn may_ask(&self) -> bool {
        self.fetching.load(Relaxed) || self.tried.load(Relaxed) == 0 || since(&self.tried) >= self.pause
    }

    fn is_due(&self) -> bool {
        self.used.load(Relaxed)
            && self.fetched.load(Relaxed) != 0
            && since(&self.fetched) >= self.refresh
            && self.may_ask()
    }

    /// Fetches in a task of its own, so that no call that leaves takes the keys of the others along.
    fn start(self: &Arc<Source>, worker: &Rc<Worker>) {
        if self.fetching.swap(true, Relaxed) {
            return;
        }
        self.tried.store(now_nanos(), Relaxed);
        self.used.store(false, Relaxed);
        let (source, with) = (self.clone(), worker.clone());
        let fetch = async move {
            let _ended = Ended(source.clone());
            match tokio::time::timeout(FETCH_TIMEOUT, source.fetch(&with)).await {
                Ok(Ok(keys)) => {
                    // The same keys stay the same set, so that what they proved stays proved.
                    if source.keys.load().as_ref().is_none_or(|known| **known != keys) {
                        source.keys.store(Some(Arc::new(keys)));
                    }
                    source.fetched.store(now_nanos(), Relaxed);
                }
                Ok(Err(reason)) => source.failed(&reason),
                Err(_) => source.failed("no answer in time"),
            }
        };
        worker.tasks.spawn_local(task::Kind::Call, Box::pin(fetch));
    }

    fn failed(&self, reason: &str) {
        let kept = self.keys.load().is_some();
        tracing::warn!(from = %self.from, kept, reason, "the keys of an issuer were not fetched");
    }

    async fn fetch(&self, worker: &Rc<Worker>) -> Result<KeySet, String> {
        match &self.from {
            Origin::Uri(uri) => fetch(worker, uri).await,
            Origin::File(path) => read(path.clone()).await,
        }
    }

    /// Waits until a fetch has ended, if one may bring something new. Cancel safe.
    pub async fn wait(self: &Arc<Source>, worker: &Rc<Worker>) {
        if !self.may_ask() {
            return;
        }
        let done = self.done.notified();
        let mut done = std::pin::pin!(done);
        // Before it is looked whether somebody fetches: the end must not come in between.
        done.as_mut().enable();
        self.start(worker);
        if self.fetching.load(Relaxed) {
            let _late = tokio::time::timeout(FETCH_TIMEOUT, done).await;
        }
    }

    /// Why a token cannot be checked.
    pub fn missing(&self) -> Failure {
        Failure::new(
            Kind::KeysMissing,
            format!("the keys of the token's issuer were not to be had from {}", self.from),
        )
    }
}

async fn fetch(worker: &Rc<Worker>, uri: &str) -> Result<KeySet, String> {
    let request = http::Request::get(uri).header(http::header::ACCEPT, "application/json").body(());
    let (head, ()) = request.map_err(|error| format!("`{uri}` is no address: {error}"))?.into_parts();
    let context = Context::new(Caller::Base, Span::root(false));
    let call = Call { head, body: Body::empty(), context };
    let side = door::side_of(&Caller::Base);
    let reply =
        message::forward(worker, &side, call, "in-process").await.map_err(|failure| failure.to_string())?;
    if !reply.head.status.is_success() {
        return Err(format!("it answered {}", reply.head.status));
    }
    let mut body = reply.body;
    let mut text = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|failure| failure.to_string())?;
        text.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        if text.len() > MAX_BYTES {
            return Err(format!("it is larger than {MAX_BYTES} bytes"));
        }
    }
    KeySet::parse(&text)
}

/// Reads a file, on a thread that may wait for it.
async fn read(path: PathBuf) -> Result<KeySet, String> {
    let work = move || {
        let text = dodai_core::file::read(&path, MAX_BYTES as u64).map_err(|error| error.to_string())?;
        KeySet::parse(&text)
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| "reading it broke off".to_owned())?
}

/// However a fetch ends, those who wait hear of it.
struct Ended(Arc<Source>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.fetching.store(false, Relaxed);
        self.0.done.notify_waiters();
    }
}
