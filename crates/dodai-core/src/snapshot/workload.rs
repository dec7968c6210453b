//! Apps, components and workloads: what a base runs and what it may use.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Protocol, RetryPolicy};
use crate::id::{AppId, Digest, InstanceId, Name, RevisionId};

/// What a base knows of an app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct App {
    /// Its id.
    pub id: AppId,
    /// What it may use of the runtime API.
    pub scopes: Scopes,
    /// Labels, for humans and selectors.
    pub labels: BTreeMap<String, String>,
    /// Whether it has the runtime API, and so is called back by it.
    #[serde(default = "yes")]
    pub runtime_api: bool,
    /// It is called back by gRPC (`AppCallback`) instead of HTTP.
    #[serde(default)]
    pub grpc_callbacks: bool,
}

impl App {
    /// An app without restrictions.
    pub fn new(id: AppId) -> App {
        let (scopes, labels) = (Scopes::default(), BTreeMap::new());
        App { id, scopes, labels, runtime_api: true, grpc_callbacks: false }
    }
}

fn yes() -> bool {
    true
}

/// What an app may use of the runtime API.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scopes {
    /// Rules for secret stores; none means every key of every store in scope.
    pub secrets: Vec<SecretScope>,
    /// The token the app must send as `dapr-api-token`; `None` means no token.
    pub api_token: Option<String>,
}

/// Which secrets of one store an app may read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretScope {
    /// The store.
    pub store: String,
    /// Whether keys that are not listed are allowed.
    pub default_allow: bool,
    /// Allowed keys.
    pub allowed: Vec<String>,
    /// Denied keys; they win.
    pub denied: Vec<String>,
}

/// A configured component.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Component {
    /// The namespace it lives in.
    pub namespace: Name,
    /// The name that apps use.
    pub name: String,
    /// The kind of component: `state.sqlite`.
    pub driver: String,
    /// The version of that kind: `v1`.
    pub version: String,
    /// Its settings.
    pub settings: Vec<Setting>,
    /// The apps that may use it; empty means all of the namespace.
    pub scopes: Vec<String>,
    /// Whether a component that does not come up is only reported.
    pub ignore_errors: bool,
    /// How long it may take to come up.
    pub init_timeout: Duration,
    /// How long an app may take for what it delivers, and when that is delivered again.
    #[serde(default)]
    pub inbound: Patience,
    /// How long it may take for what apps ask of it, and when they ask again.
    #[serde(default)]
    pub outbound: Patience,
}

/// How long one try may take and when there is another; nothing given is what the base does anyway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Patience {
    /// One try.
    pub timeout: Option<Duration>,
    /// Further tries.
    pub retry: Option<RetryPolicy>,
}

impl Component {
    /// The key in a snapshot: `namespace/name`.
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// One setting of a component.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: Value,
}

/// A value that may live elsewhere.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    /// As written.
    Plain(String),
    /// In a secret store.
    Secret {
        /// The store's name; empty means the component's default (the environment).
        store: String,
        /// The secret.
        name: String,
        /// The key within it.
        key: String,
    },
    /// In a configuration store.
    Config {
        /// The store's name.
        store: String,
        /// The key.
        key: String,
    },
    /// In the base's environment.
    Environment(String),
}

impl fmt::Debug for Value {
    /// A plain setting may hold a password, so it is not printed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Plain(_) => f.write_str("Plain(..)"),
            Value::Secret { store, name, key } => write!(f, "Secret({store}/{name}/{key})"),
            Value::Config { store, key } => write!(f, "Config({store}/{key})"),
            Value::Environment(name) => write!(f, "Environment({name})"),
        }
    }
}

/// A declared subscription.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscription {
    /// Unique name: `namespace/app/document`.
    pub name: String,
    /// The app that gets the messages.
    pub app: AppId,
    /// The pub/sub component.
    pub pubsub: String,
    /// The topic.
    pub topic: String,
    /// Rules by which a path is chosen: `(CEL expression, path)`; first match wins.
    pub rules: Vec<(String, String)>,
    /// The path when no rule matches.
    pub path: Option<String>,
    /// Where messages go that could not be delivered.
    pub dead_letter_topic: Option<String>,
    /// Several messages in one delivery.
    #[serde(default)]
    pub bulk: Option<BulkDelivery>,
    /// Settings such as `rawPayload`.
    pub metadata: BTreeMap<String, String>,
}

/// Several messages in one delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BulkDelivery {
    /// Messages at most.
    pub most: u32,
    /// How long the first of them waits for more.
    pub wait: Duration,
}

/// An instance this base must run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// The instance.
    pub instance: InstanceId,
    /// The app.
    pub app: AppId,
    /// The revision.
    pub revision: RevisionId,
    /// Module or process.
    pub shape: Shape,
    /// The ports it serves, first one the default.
    pub services: Vec<ServicePort>,
    /// Its environment (process) beside what the base injects.
    pub env: Vec<Setting>,
    /// Health checks.
    pub probes: Probes,
    /// Upper bounds enforced by the kernel (process).
    pub limits: Limits,
    /// Apps that must be ready (or, for one-shot apps, have succeeded) before this one starts.
    pub depends_on: Vec<AppId>,
    /// Whether it runs once and then is done.
    pub once: bool,
    /// Whether it should end: no new calls, drain, stop. The instance leaves the snapshot afterwards.
    pub draining: bool,
}

/// One port of a workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// The name.
    pub name: Name,
    /// What is spoken.
    pub protocol: Protocol,
    /// The port the workload listens on; `None` lets the base choose one and pass it as `PORT`.
    pub port: Option<u16>,
}

/// What kind of thing a workload is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// A WASM component inside the base.
    Module(ModuleSpec),
    /// A native process beside it.
    Process(ProcessSpec),
}

/// How a module runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleSpec {
    /// The artefact.
    pub artifact: Digest,
    /// A new instance per call, or instances that are used again.
    pub reuse: bool,
    /// Calls at once at most; more wait in a bounded queue.
    pub max_concurrency: u32,
    /// Linear memory in bytes, per instance.
    pub memory: u64,
    /// Wall-clock time per call.
    pub wall_time: Duration,
    /// CPU time per call.
    pub cpu_time: Duration,
    /// Hosts outside the mesh it may call.
    pub allowed_hosts: Vec<String>,
    /// What `wasi:config` answers.
    pub config: Vec<Setting>,
    /// Which component answers `wasi:keyvalue` for which bucket; the empty name is the default bucket.
    pub keyvalue: BTreeMap<String, String>,
}

/// How a process runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessSpec {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Where it starts; relative to the base's project folder unless absolute.
    pub working_directory: Option<String>,
    /// The user it runs as (root only).
    pub user: Option<String>,
    /// The group it runs as (root only).
    pub group: Option<String>,
    /// The signal that asks it to stop.
    pub stop_signal: String,
    /// How long it gets between that signal and SIGKILL.
    pub stop_grace: Duration,
    /// Whether it is started again when it ends.
    pub restart: Restart,
    /// The first wait before a restart; doubles up to `backoff_max`.
    pub backoff_initial: Duration,
    /// The longest wait before a restart.
    pub backoff_max: Duration,
    /// The size in bytes at which a log file is rotated.
    pub log_max_size: u64,
    /// How many rotated log files are kept.
    pub log_keep: u32,
    /// Whether `HTTP_PROXY` points at the app's outbound listener.
    pub proxy_env: bool,
}

/// When a process that ended is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Restart {
    /// Always.
    #[default]
    Always,
    /// When it ended with a failure.
    OnFailure,
    /// Never.
    Never,
}

/// The health checks of a workload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probes {
    /// Whether it should get calls.
    pub readiness: Option<Probe>,
    /// Whether it should be restarted.
    pub liveness: Option<Probe>,
    /// Whether it has started; the others wait for it.
    pub startup: Option<Probe>,
}

/// One health check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// What is done.
    pub check: Check,
    /// The time between two checks.
    pub period: Duration,
    /// How long one check may take.
    pub timeout: Duration,
    /// So many failures in a row mean bad.
    pub failure_threshold: u32,
    /// So many successes in a row mean good.
    pub success_threshold: u32,
    /// The wait before the first check.
    pub initial_delay: Duration,
}

/// What a probe does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// `GET path` on a service; 200 to 399 is good.
    Http {
        /// The path.
        path: String,
        /// The service's name; `None` means the first.
        service: Option<Name>,
    },
    /// A connection to a service.
    Tcp {
        /// The service's name; `None` means the first.
        service: Option<Name>,
    },
    /// A command in the workload's environment; exit code 0 is good.
    Exec(Vec<String>),
}

/// Upper bounds that the kernel enforces on a process. `None` means no bound.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory in bytes.
    pub memory: Option<u64>,
    /// CPU in thousandths of a core.
    pub cpu_millis: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Open files.
    pub open_files: Option<u64>,
}
