//! The three shapes of an app's revision: module, process, external.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::gateway::ProxyProtocolVersion;
use crate::name::ObjectName;
use crate::quantity::{ByteSize, Destination, TimeSpan, Weight};

/// What a revision runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Workload<'a> {
    /// A WASM component inside a base.
    Module(&'a Module),
    /// A native process beside a base.
    Process(&'a Process),
    /// Something that runs elsewhere.
    External(&'a External),
}

impl<'a> Workload<'a> {
    pub(crate) fn one_of(
        module: Option<&'a Module>,
        process: Option<&'a Process>,
        external: Option<&'a External>,
    ) -> Option<Self> {
        match (module, process, external) {
            (Some(module), None, None) => Some(Workload::Module(module)),
            (None, Some(process), None) => Some(Workload::Process(process)),
            (None, None, Some(external)) => Some(Workload::External(external)),
            _ => None,
        }
    }
}

/// A WASM component inside a base.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Module {
    /// The component: a path from the project folder, or `sha256:` and 64 hexadecimal digits of one the server has.
    pub artifact: String,
    /// How to build the artefact. Default: it is there already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<Build>,
    /// Whether calls share an instance. Default: `per-request`.
    #[serde(default)]
    pub isolation: Isolation,
    /// Calls one base runs at once; more wait, then are shed. Default: the base decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_concurrency: Option<u32>,
    /// What one call may use.
    #[serde(default)]
    pub limits: ModuleLimits,
    /// Hosts outside the mesh it may call: a host, `host:port`, or `*.domain`. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_hosts: Vec<String>,
    /// Key-value buckets it may open, bucket to state component. Default: none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub keyvalue: BTreeMap<String, ObjectName>,
    /// What `wasi:config` gives it. Default: nothing.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub config: BTreeMap<String, String>,
}

/// How a project's artefact is built by `dodai up` and `dodai deploy`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Build {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Where it runs, from the project folder. Default: the project folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_directory: Option<String>,
    /// Files and folders whose change asks for a new build. Default: the working directory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<String>,
    /// A file that the build writes, from the project folder. Default: the artefact of a module, the program of a process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
}

/// Whether calls share an instance of a module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    /// Every call gets a fresh instance: nothing leaks from one to the next.
    #[default]
    PerRequest,
    /// An instance serves many calls: faster, for modules that keep no secrets between them.
    Reuse,
}

/// What one call of a module may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ModuleLimits {
    /// Linear memory of an instance. Default: `64Mi`.
    #[serde(default = "memory")]
    pub memory: ByteSize,
    /// Time from the beginning of a call to its end. Default: `30s`.
    #[serde(default = "wall_time")]
    pub wall_time: TimeSpan,
    /// Processor time of a call. Default: `5s`.
    #[serde(default = "cpu_time")]
    pub cpu_time: TimeSpan,
}

fn memory() -> ByteSize {
    ByteSize::from_mebibytes(64)
}
fn wall_time() -> TimeSpan {
    TimeSpan::from_secs(30)
}
fn cpu_time() -> TimeSpan {
    TimeSpan::from_secs(5)
}

impl Default for ModuleLimits {
    fn default() -> Self {
        ModuleLimits { memory: memory(), wall_time: wall_time(), cpu_time: cpu_time() }
    }
}

/// A native process beside a base.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Process {
    /// The program and its arguments. No shell reads it.
    pub command: Vec<String>,
    /// Where it runs, from the project folder. Default: the project folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_directory: Option<String>,
    /// How to build the program. Default: it is there already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<Build>,
    /// The user it runs as, a name or a number; needs a base that is root. Default: a user of its own if the base
    /// is root, the base's user otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The group it runs as, a name or a number; needs a base that is root. Default: the user's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// How it is asked to stop.
    #[serde(default)]
    pub stop: Stop,
    /// When it is started again.
    #[serde(default)]
    pub restart: Restart,
    /// What is kept of its output.
    #[serde(default)]
    pub logs: Logs,
    /// Whether `HTTP_PROXY` and its kin are set so that its HTTP calls go through the mesh. Default: true.
    #[serde(default = "yes")]
    pub proxy_env: bool,
}

fn yes() -> bool {
    true
}

/// How a process is asked to stop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Stop {
    /// The signal. Default: `SIGTERM`.
    #[serde(default)]
    pub signal: Signal,
    /// Time between the signal and the kill. Default: `10s`.
    #[serde(default = "grace")]
    pub grace: TimeSpan,
}

fn grace() -> TimeSpan {
    TimeSpan::from_secs(10)
}

impl Default for Stop {
    fn default() -> Self {
        Stop { signal: Signal::default(), grace: grace() }
    }
}

/// A signal that asks a process to stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Signal {
    /// Terminate.
    #[default]
    Sigterm,
    /// Interrupt, as from a terminal.
    Sigint,
    /// Quit.
    Sigquit,
    /// Hang up.
    Sighup,
    /// The first user-defined one.
    Sigusr1,
    /// The second user-defined one.
    Sigusr2,
    /// Kill at once; nothing can be drained.
    Sigkill,
}

/// When a process is started again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Restart {
    /// After which ends. Default: `always`.
    #[serde(default)]
    pub policy: RestartPolicy,
    /// The wait before each start, doubled from start to start.
    #[serde(default)]
    pub backoff: RestartBackoff,
}

/// After which ends a process is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// After every end. With `run: once`, after a failure only.
    #[default]
    Always,
    /// After an end with another status than 0.
    OnFailure,
    /// Not at all.
    Never,
}

/// Waits between starts of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RestartBackoff {
    /// The first wait. Default: `500ms`.
    #[serde(default = "backoff_initial")]
    pub initial: TimeSpan,
    /// The longest wait. Default: `30s`.
    #[serde(default = "backoff_max")]
    pub max: TimeSpan,
}

fn backoff_initial() -> TimeSpan {
    TimeSpan::from_millis(500)
}
fn backoff_max() -> TimeSpan {
    TimeSpan::from_secs(30)
}

impl Default for RestartBackoff {
    fn default() -> Self {
        RestartBackoff { initial: backoff_initial(), max: backoff_max() }
    }
}

/// What is kept of a process's output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Logs {
    /// A log file that grows past this is put away. Default: `10Mi`.
    #[serde(default = "log_size")]
    pub max_size: ByteSize,
    /// How many files put away are kept. Default: 5.
    #[serde(default = "log_keep")]
    #[schemars(range(max = 1000))]
    pub keep: u32,
}

fn log_size() -> ByteSize {
    ByteSize::from_mebibytes(10)
}
fn log_keep() -> u32 {
    5
}

impl Default for Logs {
    fn default() -> Self {
        Logs { max_size: log_size(), keep: log_keep() }
    }
}

/// Something that runs elsewhere and is reached by address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct External {
    /// Where it listens, by IP address or name. Calls are balanced over all.
    pub addresses: Vec<Destination>,
    /// Shares of the calls by address, as it stands in `addresses`. Default: 1 each.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub weights: BTreeMap<String, Weight>,
    /// Addresses that get calls only when those of a smaller number fail, by address as it stands in `addresses`.
    /// Default: 0 each.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub priorities: BTreeMap<String, u8>,
    /// How a person starts it, shown when no address answers. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    /// What a name among `addresses` is: `all` its addresses, each an endpoint that is balanced to and judged by itself,
    /// looked up again every 10 to 15 s; or `one` endpoint that is looked up for each connection. Default: `all`.
    #[serde(default, skip_serializing_if = "Resolve::is_default")]
    pub resolve: Resolve,
    /// Speak TLS to it. Default: plain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ExternalTls>,
    /// Tell it at the beginning of each connection, in this version of the PROXY protocol, which client it is for. A
    /// connection then carries the calls of one client. Default: it is not told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocolVersion>,
}

/// What a name that leads to several addresses is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Resolve {
    /// As many endpoints as it has addresses.
    #[default]
    All,
    /// One endpoint; every connection goes to an address that the name has by then.
    One,
}

impl Resolve {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    fn is_default(&self) -> bool {
        *self == Resolve::All
    }
}

/// TLS towards something that runs elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExternalTls {
    /// The name or address its certificate must be for, sent as SNI. Default: the name in `addresses`, or for an IP address
    /// the app's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// A file with the certificates to trust, PEM, as seen by the bases that call the app; relative paths begin at the
    /// project folder. The server's own certificate may be among them. Read again when it changes. Default: those that the
    /// machine trusts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// A file with the certificate that is shown to it and its chain, PEM; found and read again as `ca`. Goes with
    /// `keyFile`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_file: Option<String>,
    /// A file with the private key, PEM. Goes with `certificateFile`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<String>,
}
