//! What a module needs from its base: the seams that `dodai-base` fills and tests fake.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use dodai_core::call::Door;
use dodai_core::id::AppId;
use thiserror::Error;

/// Everything a module reaches outside of itself.
#[derive(Clone)]
pub struct Seams {
    /// Where its outbound requests enter.
    pub door: Arc<dyn Door>,
    /// Which hosts belong to the mesh.
    pub names: Arc<dyn MeshNames>,
    /// What `wasi:config` answers.
    pub config: Arc<dyn Config>,
    /// What `wasi:keyvalue` stands on.
    pub keyvalue: Arc<dyn KeyValue>,
    /// Where its lines go.
    pub logs: Arc<dyn LogSink>,
    /// Its environment variables.
    pub environment: Vec<(String, String)>,
}

/// The answer of [`MeshNames`].
pub type Known<'a> = Pin<Box<dyn Future<Output = bool> + Send + 'a>>;

/// Tells names of the mesh from hosts outside, which need to be allowed.
pub trait MeshNames: Send + Sync {
    /// Whether `host` (no port) names an app or service that `app` would reach through the mesh. May have to ask for it.
    fn is_mesh_name<'a>(&'a self, app: &'a AppId, host: &'a str) -> Known<'a>;
}

/// The configuration of one module. Asked at every `get`, so that a changed value is seen at once.
pub trait Config: Send + Sync {
    /// The value of `key`.
    fn get(&self, key: &str) -> Option<String>;
    /// All keys and values.
    fn all(&self) -> Vec<(String, String)>;
}

impl Config for BTreeMap<String, String> {
    fn get(&self, key: &str) -> Option<String> {
        BTreeMap::get(self, key).cloned()
    }

    fn all(&self) -> Vec<(String, String)> {
        self.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}

/// Which of its two outputs a guest wrote to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error; traps and their backtraces too.
    Stderr,
}

/// Takes the lines that a guest writes. Called on a module thread: it must not block.
pub trait LogSink: Send + Sync {
    /// One line without its end, at most 8 KiB.
    fn line(&self, stream: Stream, line: &str);
}

/// Some time later.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, KeyValueError>> + Send + 'a>>;

/// Opens buckets.
pub trait KeyValue: Send + Sync {
    /// The bucket that the state component `component` keeps for `app`.
    fn open(&self, app: &AppId, component: &str) -> Pending<'_, Arc<dyn Bucket>>;
}

/// A value and the mark of its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The bytes.
    pub value: Bytes,
    /// Changes with every write.
    pub version: String,
}

/// Some keys of a bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The keys, ascending.
    pub keys: Vec<String>,
    /// What to pass as `after` for the next page; `None` at the end.
    pub next: Option<String>,
}

/// One bucket of keys and values.
pub trait Bucket: Send + Sync {
    /// Reads a value.
    fn get(&self, key: &str) -> Pending<'_, Option<Entry>>;
    /// Writes a value, whatever was there.
    fn set(&self, key: &str, value: Bytes) -> Pending<'_, ()>;
    /// Writes a value if `version` is still the one stored (`None`: if there is none). False if not.
    fn set_if(&self, key: &str, value: Bytes, version: Option<&str>) -> Pending<'_, bool>;
    /// Removes a value; succeeds if there is none.
    fn delete(&self, key: &str) -> Pending<'_, ()>;
    /// Lists at most `limit` keys behind `after`.
    fn keys(&self, after: Option<&str>, limit: usize) -> Pending<'_, Page>;
}

/// Why a key-value request failed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum KeyValueError {
    /// No such bucket.
    #[error("there is no such bucket")]
    NoSuchStore,
    /// The app may not use it.
    #[error("the app may not use this bucket")]
    Denied,
    /// The store failed.
    #[error("{0}")]
    Failed(String),
}

/// The seam of a module that has no buckets.
pub struct NoKeyValue;

impl KeyValue for NoKeyValue {
    fn open(&self, _app: &AppId, _component: &str) -> Pending<'_, Arc<dyn Bucket>> {
        Box::pin(std::future::ready(Err(KeyValueError::NoSuchStore)))
    }
}
