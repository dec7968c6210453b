//! App: a named unit of business code, and the template its newest revision is made from.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::metadata::Condition;
use crate::name::{Name, ObjectName, RevisionId};
use crate::quantity::{ByteSize, MilliCpu, Port, SocketAddress, TimeSpan, Weight};
use crate::workload::{External, Module, Process, Workload};

/// What is wanted of an app.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AppSpec {
    /// Run as a WASM component inside a base. Exactly one of `module`, `process` and `external` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<Module>,
    /// Run as a native process beside a base. Exactly one of `module`, `process` and `external` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// Runs elsewhere and is reached by address. Exactly one of `module`, `process` and `external` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<External>,
    /// What the app serves; the first is the default one. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<AppService>,
    /// Environment variables of the app. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
    /// Configuration items that a module finds in `wasi:config`, as they are at the moment. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub config: Vec<ConfigUse>,
    /// Apps of the same namespace that must be ready (or, with `run: once`, done) before this one starts. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<Name>,
    /// Apps this one calls. Declared calls are known before the first one is made. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<Call>,
    /// How to tell that an instance is started, ready and alive. Default: a connection to the default service succeeds.
    #[serde(default, skip_serializing_if = "Probes::is_empty")]
    pub probes: Probes,
    /// What one instance may use. Default: no limit.
    #[serde(default, skip_serializing_if = "Limits::is_empty")]
    pub limits: Limits,
    /// How many instances run. Default: one.
    #[serde(default)]
    pub scale: Scale,
    /// Which bases may run it. Default: any.
    #[serde(default, skip_serializing_if = "Placement::is_empty")]
    pub placement: Placement,
    /// Whether the app serves for ever or runs once to its end. Default: `service`.
    #[serde(default)]
    pub run: Run,
    /// Whether callers must speak mutual TLS at the port of the base. Default: what the label `dodai.dev/mtls` of the
    /// namespace says, else `strict`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtls: Option<MutualTls>,
    /// Shares of traffic by revision. Default: all to `latest`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub traffic: Vec<TrafficShare>,
    /// How the Dapr API calls this app back. Default: over HTTP, to the default service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dapr: Option<DaprApp>,
    /// Labels put on every revision and instance of the app. Default: none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// Something an app serves; it makes a service of the app's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AppService {
    /// The service's name, unique in the app.
    pub name: Name,
    /// What is spoken on it. Default: `http`.
    #[serde(default)]
    pub protocol: Protocol,
    /// The port the workload listens on. Default for a process: the base chooses a free one and sets `PORT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Port>,
}

/// What is spoken on a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1, and what it is upgraded to.
    #[default]
    Http,
    /// HTTP/2 without TLS, by prior knowledge.
    Http2,
    /// gRPC over HTTP/2.
    Grpc,
    /// Bytes that are not parsed.
    Tcp,
    /// Datagrams that are not parsed.
    Udp,
}

/// One environment variable: exactly one of `value`, `secretRef` and `configRef` is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EnvVar {
    /// The variable's name.
    pub name: String,
    /// Its value as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Its value from a secret store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<StoreRef>,
    /// Its value from a configuration store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_ref: Option<StoreRef>,
}

/// One item of a secret or configuration store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StoreRef {
    /// The component that is the store.
    pub store: ObjectName,
    /// The item's key in it.
    pub key: String,
}

/// Configuration items an app reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConfigUse {
    /// The component that is the store.
    pub store: ObjectName,
    /// The items' keys. Default: every item of the store.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
}

/// An app this one calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Call {
    /// The app called.
    pub app: Name,
    /// Its namespace. Default: the caller's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Name>,
    /// Which of its services. Default: the one with `port`, or its default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Name>,
    /// The port the caller names. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Port>,
    /// What the caller speaks. Default: what the service speaks. `tcp` gets a listener of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// An address on the caller's host that leads to this app, for callers that cannot name a host. Default: none,
    /// and for `tcp` a free port of 127.0.0.1, told in `DODAI_<APP>_ADDRESS`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddress>,
}

/// How to tell that an instance is started, ready and alive.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probes {
    /// While it fails, the instance gets no calls. Default: a connection to the default service succeeds; a module is
    /// ready once it is installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness: Option<Probe>,
    /// When it fails, the instance is started again. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub liveness: Option<Probe>,
    /// Until it succeeds, the other two are not asked. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup: Option<Probe>,
}

impl Probes {
    /// Whether no probe is given.
    pub fn is_empty(&self) -> bool {
        self.readiness.is_none() && self.liveness.is_none() && self.startup.is_none()
    }
}

/// One probe: exactly one of `httpGet`, `tcpSocket` and `exec` is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probe {
    /// Succeeds when a GET is answered with a status from 200 to 399.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_get: Option<HttpGet>,
    /// Succeeds when a connection is accepted. Not for modules, which have no port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_socket: Option<TcpSocket>,
    /// Succeeds when a command ends with 0. Processes only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<Exec>,
    /// Time between two tries. Default: `10s`.
    #[serde(default = "seconds_10")]
    pub period: TimeSpan,
    /// A try that takes longer has failed. Default: `1s`.
    #[serde(default = "seconds_1")]
    pub timeout: TimeSpan,
    /// Failures in a row until the probe fails. Default: 3.
    #[serde(default = "three")]
    #[schemars(range(min = 1, max = 1000))]
    pub failure_threshold: u32,
    /// Successes in a row until the probe succeeds again. Default: 1.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1000))]
    pub success_threshold: u32,
    /// Time from the start of the instance to the first try. Default: `0s`.
    #[serde(default)]
    pub initial_delay: TimeSpan,
}

fn seconds_10() -> TimeSpan {
    TimeSpan::from_secs(10)
}
fn seconds_1() -> TimeSpan {
    TimeSpan::from_secs(1)
}
fn three() -> u32 {
    3
}
fn one() -> u32 {
    1
}

/// A probe over HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpGet {
    /// The path to GET, with its query. Default: `/`.
    #[serde(default = "root_path")]
    pub path: String,
    /// Which of the app's services to ask. Default: the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Name>,
}

fn root_path() -> String {
    "/".to_owned()
}

/// A probe that only connects.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TcpSocket {
    /// Which of the app's services to connect to. Default: the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Name>,
}

/// A probe that runs a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Exec {
    /// The program and its arguments.
    pub command: Vec<String>,
}

/// What one instance of a process may use; for modules see `module.limits`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limits {
    /// Memory. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<ByteSize>,
    /// Processor share. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<MilliCpu>,
    /// Processes and threads. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub pids: Option<u32>,
    /// Open files. Default: the base's own limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub open_files: Option<u32>,
}

impl Limits {
    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Limits::default()
    }
}

/// How many instances run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Scale {
    /// At least so many. Default: 1. 0 is refused for now: apps do not sleep until they are called yet.
    #[serde(default = "one")]
    #[schemars(range(max = 10000))]
    pub min: u32,
    /// At most so many. Default: `min`, or 1 when that is 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub max: Option<u32>,
}

impl Default for Scale {
    fn default() -> Self {
        Scale { min: 1, max: None }
    }
}

impl Scale {
    /// The most instances that may run.
    pub fn most(&self) -> u32 {
        self.max.unwrap_or(self.min.max(1))
    }
}

/// Which bases may run an app. It holds for instances that are placed from then on; those that run stay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Placement {
    /// Labels that a base must have, all of them, in its `spec.labels` or `metadata.labels`. Default: none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

impl Placement {
    /// Whether every base may run the app.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }
}

/// The label of a namespace that says what `mtls` is for its apps: `strict` or `permissive`.
pub const MTLS_LABEL: &str = "dodai.dev/mtls";

/// Whether callers of an app must speak mutual TLS at the port of the base that runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MutualTls {
    /// Who proves no identity of the mesh is refused.
    Strict,
    /// Plain HTTP is taken too, from whoever reaches the port; such a caller is nobody to access rules.
    Permissive,
}

impl MutualTls {
    /// Reads its word.
    pub fn parse(word: &str) -> Option<MutualTls> {
        match word {
            "strict" => Some(MutualTls::Strict),
            "permissive" => Some(MutualTls::Permissive),
            _ => None,
        }
    }
}

/// Whether an app serves for ever or runs once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Run {
    /// Runs until it is stopped.
    #[default]
    Service,
    /// Runs to its end once per revision, such as a migration; apps that depend on it wait for its success.
    /// Processes only.
    Once,
}

/// The share of traffic of one revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrafficShare {
    /// `latest`, or the id of a revision.
    pub revision: RevisionChoice,
    /// Its share, relative to the sum of all. Default: 1.
    #[serde(default)]
    pub weight: Weight,
}

/// A revision named by id, or the newest ready one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RevisionChoice {
    /// The newest revision.
    Latest,
    /// This revision.
    Id(RevisionId),
}

/// How the Dapr API calls an app back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DaprApp {
    /// Whether the app gets the Dapr API at all. Default: true.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Which of the app's services takes callbacks. Default: the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Name>,
    /// The protocol of callbacks. Default: `grpc` if the service speaks gRPC, `http` otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<DaprProtocol>,
    /// Where the app is asked for its subscriptions over HTTP. Default: `/dapr/subscribe`.
    #[serde(default = "subscribe_path")]
    pub subscribe_path: String,
    /// The `Configuration` document that applies to the app. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<ObjectName>,
}

fn yes() -> bool {
    true
}
fn subscribe_path() -> String {
    "/dapr/subscribe".to_owned()
}

impl Default for DaprApp {
    fn default() -> Self {
        DaprApp {
            enabled: true,
            service: None,
            protocol: None,
            subscribe_path: subscribe_path(),
            configuration: None,
        }
    }
}

/// The protocol of Dapr callbacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DaprProtocol {
    /// HTTP/1.1 callbacks.
    Http,
    /// The gRPC `AppCallback` service.
    Grpc,
}

/// What was observed of an app.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AppStatus {
    /// The `metadata.generation` this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<u64>,
    /// Statements about the app, at most one of each type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// The revision made from the present template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest_revision: Option<RevisionId>,
    /// The newest revision that became ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest_ready_revision: Option<RevisionId>,
    /// The revisions that have instances or traffic.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revisions: Vec<RevisionState>,
}

/// What was observed of one revision of an app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RevisionState {
    /// The revision.
    pub id: RevisionId,
    /// Its share of traffic, relative to the sum of all.
    pub weight: Weight,
    /// Instances wanted.
    pub wanted: u32,
    /// Instances ready.
    pub ready: u32,
}

/// The parts of an app's spec that a revision fixes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RevisionTemplate {
    /// As in the app.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<Module>,
    /// As in the app.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// As in the app.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<External>,
    /// As in the app.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<AppService>,
    /// As in the app: references, not the values they stand for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
    /// As in the app.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub config: Vec<ConfigUse>,
    /// As in the app.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<Call>,
    /// As in the app.
    #[serde(default, skip_serializing_if = "Probes::is_empty")]
    pub probes: Probes,
    /// As in the app.
    #[serde(default, skip_serializing_if = "Limits::is_empty")]
    pub limits: Limits,
    /// As in the app.
    #[serde(default)]
    pub run: Run,
    /// As in the app.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dapr: Option<DaprApp>,
    /// As in the app.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// An immutable version of an app. Written by control only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RevisionSpec {
    /// The app this is a revision of.
    pub app: Name,
    /// Its id, the hash of `template` and `digest`.
    pub id: RevisionId,
    /// What runs, and how.
    pub template: RevisionTemplate,
    /// The artefact's content, `sha256:` and 64 hexadecimal digits. Default: none, for what has no artefact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

impl AppSpec {
    /// What runs, or `None` unless exactly one of `module`, `process` and `external` is given.
    pub fn workload(&self) -> Option<Workload<'_>> {
        Workload::one_of(self.module.as_ref(), self.process.as_ref(), self.external.as_ref())
    }

    /// The parts that the newest revision fixes.
    pub fn template(&self) -> RevisionTemplate {
        RevisionTemplate {
            module: self.module.clone(),
            process: self.process.clone(),
            external: self.external.clone(),
            services: self.services.clone(),
            env: self.env.clone(),
            config: self.config.clone(),
            calls: self.calls.clone(),
            probes: self.probes.clone(),
            limits: self.limits.clone(),
            run: self.run,
            dapr: self.dapr.clone(),
            labels: self.labels.clone(),
        }
    }
}

impl RevisionTemplate {
    /// What runs, or `None` unless exactly one of `module`, `process` and `external` is given.
    pub fn workload(&self) -> Option<Workload<'_>> {
        Workload::one_of(self.module.as_ref(), self.process.as_ref(), self.external.as_ref())
    }
}

impl std::str::FromStr for RevisionChoice {
    type Err = crate::text::Invalid;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "latest" {
            return Ok(RevisionChoice::Latest);
        }
        text.parse().map(RevisionChoice::Id).map_err(|invalid: crate::text::Invalid| {
            crate::text::Invalid::new(invalid.message, format!("write `latest`, or {}", invalid.remedy))
        })
    }
}

impl std::fmt::Display for RevisionChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RevisionChoice::Latest => f.write_str("latest"),
            RevisionChoice::Id(id) => id.fmt(f),
        }
    }
}

crate::text::text_newtype!(
    RevisionChoice,
    "`latest` or a revision's id",
    r"^latest$|^[0-9a-f]{10}$",
    "`latest`, or the id of a revision: ten hexadecimal digits."
);
