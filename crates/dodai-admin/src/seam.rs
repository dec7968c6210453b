//! What the API needs of a running node and its store, as traits: the binary implements them, because their
//! crates lie beyond this one's borders.

mod calls;
mod inside;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;

use bytes::Bytes;
use dodai_control::trust::Revocation;
use dodai_core::features::Blocks;
use dodai_core::id::{AppId, Digest, InstanceId};
use dodai_core::snapshot::Whose;
use dodai_core::status::Health;
use futures_util::Stream;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::calls::{Call, CallFilter, Missed, Silent, Stations, Told};
pub use self::inside::{
    Done, Job, Jobs, JobsPage, Lock, Locks, Place, TopicGroup, Topics, Waiting, WaitingPage, Wish,
};
use crate::Refusal;

/// An answer some time later.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, Refusal>> + Send + 'a>>;
/// Answers one after the other; dropping it ends it.
pub type Flow<T> = Pin<Box<dyn Stream<Item = T> + Send>>;

/// What an instance uses, where it is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    /// Processor time since its start, in milliseconds.
    pub cpu_ms: Option<u64>,
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
}

/// A step of exchanging the root of a mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootStep {
    /// Make a new root and make it known.
    Rotate,
    /// Let the new root sign.
    Issue,
    /// Take the old root out.
    Finish,
    /// Call it off.
    Cancel,
}

impl RootStep {
    /// Reads its word.
    pub fn parse(word: &str) -> Option<RootStep> {
        match word {
            "rotate" => Some(RootStep::Rotate),
            "issue" => Some(RootStep::Issue),
            "finish" => Some(RootStep::Finish),
            "cancel" => Some(RootStep::Cancel),
            _ => None,
        }
    }
}

/// The roots of a mesh, and what is revoked.
pub trait Roots: Send + Sync + 'static {
    /// Where things stand.
    fn show(&self) -> Pending<'_, Trust>;
    /// Takes a step of a rotation; `force` passes over bases that have not confirmed the one before.
    fn step(&self, step: RootStep, force: bool, actor: String) -> Pending<'_, Trust>;
    /// Makes certificates void, or takes that back.
    fn revoke(&self, whose: Whose, undo: bool, actor: String) -> Pending<'_, Trust>;
}

/// Whom the bases of a mesh trust, and how far each of them is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Trust {
    /// Where a rotation of the root stands: `steady` where there is none.
    pub phase: String,
    /// The roots that are trusted.
    pub roots: Vec<Root>,
    /// Every base that ever joined.
    pub bases: Vec<Standing>,
    /// Certificates that are void.
    pub revoked: Vec<Revocation>,
}

/// A root of a mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Root {
    /// Its pin.
    pub pin: String,
    /// Whether it signs new certificates.
    pub signs: bool,
    /// When it expires, in milliseconds since 1970.
    pub expires_ms: u64,
}

/// How far one base is in a rotation of the root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Standing {
    /// Its name.
    pub name: String,
    /// Whether it is connected.
    pub connected: bool,
    /// The pins of the roots that it trusts.
    pub trusts: BTreeSet<String>,
    /// How many of its certificates were signed by which root, by pin.
    pub signed_by: BTreeMap<String, u32>,
    /// How many entries of the list of revoked certificates it heeds.
    pub revoked: u32,
    /// Why the next step has to wait for it.
    pub waits_for: Option<String>,
}

/// What a node says of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NodeState {
    /// The version of the snapshot in force.
    pub applied: u64,
    /// Why the newest snapshot was refused, if it was.
    pub refused: Option<String>,
    /// Where each listener listens.
    pub listeners: BTreeMap<String, SocketAddr>,
    /// Listeners that are not as the documents say, with the reason.
    #[serde(default)]
    pub not_open: BTreeMap<String, String>,
    /// How each component is, by namespace and name; on a server with the base before them.
    pub components: BTreeMap<String, Health>,
    /// What each component that is open serves, by the same names.
    #[serde(default)]
    pub blocks: BTreeMap<String, Blocks>,
}

/// Something that was started first and is not ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NotReady {
    /// Such as `app default/shop`.
    pub what: String,
    /// Why.
    pub reason: String,
}

impl std::fmt::Display for NotReady {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.what, self.reason)
    }
}

/// One line of an instance's output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LogLine {
    /// The instance.
    pub instance: String,
    /// When it was read, in milliseconds since 1970.
    pub time_ms: u64,
    /// `stdout`, `stderr` or `note`.
    #[schemars(extend("enum" = ["stdout", "stderr", "note"]))]
    pub stream: String,
    /// The line.
    pub text: String,
}

/// What of a running base somebody looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum View {
    /// The compiled rules, in the order in which calls ask them.
    Table,
    /// Services with their endpoints and how each stands.
    Clusters,
    /// Connections from clients.
    Connections,
    /// Certificates that the base shows others.
    Certificates,
}

/// Which page of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// What is looked at.
    pub view: View,
    /// Where the page begins: what the one before said, or 0.
    pub after: u64,
    /// How many items at most.
    pub limit: usize,
    /// Only of this service, listener or rule.
    pub only: Option<String>,
    /// Only of this app.
    pub app: Option<AppId>,
    /// The base, where there are several.
    pub base: Option<String>,
}

/// A page of what a base is at this moment. What an item is depends on what is looked at, and may change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("additionalProperties" = true))]
pub struct Page {
    /// The items.
    pub items: Vec<Value>,
    /// Where the next page begins, if there is one.
    pub next: Option<u64>,
    /// The base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// The version of the table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
}

/// A message to publish.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// The namespace of the component.
    pub namespace: String,
    /// The pub/sub component.
    pub pubsub: String,
    /// The topic.
    pub topic: String,
    /// The content type of the data.
    pub content_type: String,
    /// The data.
    pub data: Bytes,
}

/// One key of a configuration store.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigKey {
    /// The namespace of the component.
    pub namespace: String,
    /// The configuration store component.
    pub store: String,
    /// The key.
    pub key: String,
}

/// Calls of one caller to one app, counted since the node started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// The caller: an app, `outside` or `base`.
    pub caller: String,
    /// The app, `namespace/name`, or what else is called; empty when no route matched.
    pub app: String,
    /// Calls that ended.
    pub calls: u64,
    /// Those that ended with a status of 500 or more, or whose caller left before a response.
    pub errors: u64,
    /// Calls by how long they took, not cumulated; one more than there are bounds.
    pub buckets: Vec<u64>,
}

/// All calls, by who calls whom.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Traffic {
    /// The upper bounds of the buckets, in seconds.
    pub bounds_s: Vec<f64>,
    /// Each pair of caller and app once.
    pub pairs: Vec<Pair>,
    /// The same calls by the revision that answered them, which stands in the place of the caller. Those that reached
    /// none are in `pairs` alone.
    #[serde(default)]
    pub revisions: Vec<Pair>,
    /// The same calls by the base where they began, in the place of the caller, and the one that answered them, in that of
    /// the app; empty if that is outside of the mesh.
    #[serde(default)]
    pub bases: Vec<Pair>,
}

/// What a base uses itself, the modules in it included.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Own {
    /// The version of its program.
    pub version: String,
    /// Resident memory in bytes.
    pub memory_bytes: u64,
    /// Processor time since its start, in milliseconds.
    pub cpu_ms: u64,
    /// Threads.
    pub threads: u64,
    /// Open file descriptors.
    pub open_files: u64,
    /// When it started, in milliseconds since 1970.
    pub started_ms: u64,
}

/// What an app keeps in a state store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shelf {
    /// The app whose keys they are.
    pub app: AppId,
    /// The component.
    pub store: String,
}

/// Some keys of a shelf.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Keys {
    /// The keys as the app knows them, ascending.
    pub keys: Vec<String>,
    /// What to ask for next, if there are more.
    pub next: Option<String>,
}

/// One value of a state store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Kept {
    /// The value as text, cut after 64 KiB; null if it is no text.
    pub text: Option<String>,
    /// Its whole size in bytes.
    pub bytes: usize,
    /// Its etag, if the store keeps one.
    pub etag: Option<String>,
    /// Its media type, if the store keeps one.
    pub content_type: Option<String>,
}

/// The running node.
pub trait Node: Send + Sync + 'static {
    /// What each instance uses; those of which nothing is known are left out.
    fn usages(&self) -> HashMap<InstanceId, Usage>;
    /// All calls until now, by who calls whom; `None` where that is not known, which is not the same as no calls.
    fn traffic(&self) -> Option<Traffic> {
        None
    }
    /// Bases that are connected and do not say what they measure, so that it is missing in all of the above; sorted.
    fn silent(&self) -> Vec<String> {
        Vec::new()
    }
    /// Subscriptions, such as `default/shop events/order.placed`, with the reason of those that do not run; empty where
    /// that is not known.
    fn subscriptions(&self) -> BTreeMap<String, Option<String>> {
        BTreeMap::new()
    }
    /// What a base uses itself; `None` where that is not measured.
    fn own<'a>(&'a self, base: &'a str) -> Pending<'a, Option<Own>>;
    /// Keys that an app keeps in a state store: those that begin with `prefix`, after one.
    fn keys(&self, shelf: Shelf, prefix: String, after: Option<String>, limit: usize) -> Pending<'_, Keys>;
    /// One value that an app keeps in a state store.
    fn value(&self, shelf: Shelf, key: String) -> Pending<'_, Option<Kept>>;
    /// What the node says of itself.
    fn state(&self) -> NodeState;
    /// Whether output of this instance is kept. One that cannot tell says yes.
    fn keeps_output_of(&self, _app: &AppId, _instance: &InstanceId) -> bool {
        true
    }
    /// The last lines of an app's instances (or of one), oldest first; with `follow` also what comes.
    fn logs(&self, app: &AppId, instance: Option<&InstanceId>, tail: usize, follow: bool) -> Flow<LogLine>;
    /// Calls as they end. Those that ended before somebody listened are not kept.
    fn calls(&self, filter: CallFilter) -> Flow<Told>;
    /// A page of what the base is at this moment: a [`Page`], as the base says it.
    fn look(&self, look: Look) -> Pending<'_, serde_json::Value>;
    /// Looks into a component, or does something in it: what the wish says, as the base says it.
    fn inside(&self, place: Place, wish: Wish) -> Pending<'_, serde_json::Value>;
    /// Jobs of apps in the order of [`Job::place`]: a [`JobsPage`].
    fn jobs(&self, wanted: Jobs) -> Pending<'_, serde_json::Value>;
    /// Forgets a job, on the base of this name or the only one.
    fn forget_job(&self, app: AppId, name: String, base: Option<String>) -> Pending<'_, ()>;
    /// Publishes a message.
    fn publish(&self, message: Message) -> Pending<'_, ()>;
    /// Reads a configuration value.
    fn config_get(&self, key: ConfigKey) -> Pending<'_, Option<String>>;
    /// Writes a configuration value, or removes it. Says whether there was something to remove.
    fn config_set(&self, key: ConfigKey, value: Option<String>) -> Pending<'_, bool>;
}

/// Where artefacts of modules are kept.
pub trait Artifacts: Send + Sync + 'static {
    /// Keeps an artefact; the answer is its digest.
    fn put(&self, bytes: Bytes) -> Pending<'_, Digest>;
    /// Compiles it, so that activating it takes no time. Refuses what is no component.
    fn prepare<'a>(&'a self, name: &'a str, digest: &'a Digest) -> Pending<'a, ()>;
}

/// What the store says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StoreState {
    /// `memory` or `sqlite`.
    pub backend: String,
    /// The last revision.
    pub revision: u64,
    /// The oldest revision that can be read.
    pub compacted: u64,
    /// How many keys exist.
    pub keys: u64,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// The version of its format.
    pub schema_version: i64,
}

/// One line of the change log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Change {
    /// The revision that it made.
    pub revision: u64,
    /// What changed, such as `App/default/shop`.
    pub key: String,
    /// `create`, `update` or `delete`.
    #[schemars(extend("enum" = ["create", "update", "delete"]))]
    pub action: String,
    /// Who.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// When, in milliseconds since 1970.
    pub time_ms: u64,
}

/// The store behind the documents.
pub trait Ledger: Send + Sync + 'static {
    /// What the store says of itself.
    fn state(&self) -> Pending<'_, StoreState>;
    /// What a key of the store held at a revision; `None` if nothing, or if that is no longer kept.
    fn at(&self, key: String, revision: u64) -> Pending<'_, Option<Bytes>>;
    /// Lines of the change log after a revision, oldest first, about `limit` of them.
    fn changes(&self, prefix: String, after: u64, limit: usize) -> Pending<'_, Vec<Change>>;
    /// The last lines of the change log about exactly this key of the store, newest first, at most `limit` of them.
    fn changes_of(&self, key: String, limit: usize) -> Pending<'_, Vec<Change>>;
    /// Writes a copy of the store to a new file, whose folder the server has chosen.
    fn backup(&self, path: PathBuf) -> Pending<'_, ()>;
}
