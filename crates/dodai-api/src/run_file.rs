//! `dapr.yaml`: Dapr's file of several apps, as the Dapr CLI reads it.
//!
//! Its keys are those of dapr/cli 1.16 (`pkg/runfileconfig`, `pkg/standalone/run.go`). It is no document of ours: it is
//! read here, and what it asks for is made into documents by whoever starts it.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use serde_json::Value;

use crate::read::{Code, Problem, Read, Source, Tree, decode_passing_over, parse_one};
use crate::text::{RAW_TEXT, REMEDY_MARK};

/// The file in a folder that is one.
pub const RUN_FILE: &str = "dapr.yaml";

/// The version that is read.
const VERSION: u32 = 1;

/// A run file.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RunFile {
    /// Which form it has: 1.
    pub version: u32,
    /// What all apps share. An app's own settings win.
    #[serde(default)]
    pub common: RunSettings,
    /// The apps.
    #[serde(default)]
    pub apps: Vec<RunSettings>,
    /// What it is called; nothing comes of it, which is told.
    #[serde(default)]
    pub name: Option<String>,
    #[serde(skip)]
    tree: Tree,
    /// The file's name, for messages.
    #[serde(skip)]
    source: String,
}

/// Text as it is written, also without quotes. Nothing is an empty one.
struct RawText(String);

impl<'de> Deserialize<'de> for RawText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RawText, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = RawText;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text or a number")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<RawText, E> {
                Ok(RawText(text.to_owned()))
            }
            fn visit_unit<E: de::Error>(self) -> Result<RawText, E> {
                Ok(RawText(String::new()))
            }
            fn visit_newtype_struct<D: Deserializer<'de>>(
                self,
                deserializer: D,
            ) -> Result<RawText, D::Error> {
                deserializer.deserialize_any(self)
            }
        }
        deserializer.deserialize_newtype_struct(RAW_TEXT, Text)
    }
}

/// Variables are texts, whatever they look like.
fn texts_by_name<'de, D: Deserializer<'de>>(from: D) -> Result<Option<BTreeMap<String, String>>, D::Error> {
    let found = Option::<BTreeMap<String, RawText>>::deserialize(from)?;
    Ok(found.map(|all| all.into_iter().map(|(name, value)| (name, value.0)).collect()))
}

/// So are the arguments of a program.
fn texts<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<String>>, D::Error> {
    let found = Option::<Vec<RawText>>::deserialize(from)?;
    Ok(found.map(|all| all.into_iter().map(|value| value.0).collect()))
}

/// An empty text says nothing.
fn not_empty<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(from)?.filter(|text| !text.trim().is_empty()))
}

fn protocol<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    Ok(not_empty(from)?.map(|text| text.to_ascii_lowercase()))
}

/// Zero and what is below it say that there is none.
fn port<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u16>, D::Error> {
    let found = Option::<i64>::deserialize(from)?.filter(|port| *port > 0);
    let wrong = |port: i64| {
        de::Error::custom(format!(
            "{port} is out of range{REMEDY_MARK}write a port from 1 to 65535, or 0 for none"
        ))
    };
    found.map(|port| u16::try_from(port).map_err(|_| wrong(port))).transpose()
}

macro_rules! settings {
    ($($(#[$about:meta])* $field:ident: $type:ty, $key:literal, $shared:literal;)*) => {
        /// What is said of one app, or of all.
        #[derive(Clone, Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct RunSettings {
            $($(#[$about])* #[serde(default, rename = $key)] pub $field: Option<$type>,)*
        }

        impl RunSettings {
            /// With what all apps share, where it says nothing itself. Variables are put together.
            fn or(&self, common: &RunSettings) -> RunSettings {
                let mut all = RunSettings {
                    $($field: self.$field.clone().or_else(|| common.$field.clone().filter(|_| $shared)),)*
                };
                if let (Some(env), Some(more)) = (&mut all.env, &common.env) {
                    for (name, value) in more {
                        env.entry(name.clone()).or_insert_with(|| value.clone());
                    }
                }
                all
            }

            /// The keys that are given and that one app only may have.
            fn own(&self) -> Vec<&'static str> {
                [$((!$shared && self.$field.is_some()).then_some($key),)*].into_iter().flatten().collect()
            }

            /// Whether a key is given.
            fn has(&self, key: &str) -> bool {
                match key {
                    $($key => self.$field.is_some(),)*
                    _ => false,
                }
            }
        }
    };
}

settings! {
    /// The app's name. Default: that of its folder.
    #[serde(deserialize_with = "not_empty")]
    app_id: String, "appID", false;
    /// Its folder, from that of the file.
    app_dir_path: String, "appDirPath", false;
    /// The program and its arguments, run in that folder.
    #[serde(deserialize_with = "texts")]
    command: Vec<String>, "command", false;
    /// Where it listens.
    #[serde(deserialize_with = "port")]
    app_port: u16, "appPort", false;
    /// What it speaks: `http`, `grpc`, `h2c`.
    #[serde(deserialize_with = "protocol")]
    app_protocol: String, "appProtocol", true;
    /// The host that it listens at.
    app_channel_address: String, "appChannelAddress", false;
    /// The port of its Dapr API.
    #[serde(deserialize_with = "port")]
    dapr_http_port: u16, "daprHTTPPort", false;
    /// The port that is named for gRPC.
    #[serde(deserialize_with = "port")]
    dapr_grpc_port: u16, "daprGRPCPort", false;
    /// Variables of its environment.
    #[serde(deserialize_with = "texts_by_name")]
    env: BTreeMap<String, String>, "env", true;
    /// A folder of resources. Of `common` only where an app has none in its folder, as the two that follow.
    #[serde(deserialize_with = "not_empty")]
    resources_path: String, "resourcesPath", true;
    /// Folders of resources.
    resources_paths: Vec<String>, "resourcesPaths", true;
    /// The file of its Configuration.
    #[serde(deserialize_with = "not_empty")]
    config_file_path: String, "configFilePath", true;
    /// Where the folder `.dapr` is, instead of the home folder.
    #[serde(deserialize_with = "not_empty")]
    runtime_path: String, "runtimePath", true;
    /// Calls that it takes at once.
    app_max_concurrency: i64, "appMaxConcurrency", true;
    /// Whether it is asked if it is well.
    enable_app_health_check: bool, "enableAppHealthCheck", true;
    /// By which path.
    app_health_check_path: String, "appHealthCheckPath", true;
    /// How often, in seconds.
    app_health_probe_interval: u32, "appHealthProbeInterval", true;
    /// How long its answer may take, in milliseconds.
    app_health_probe_timeout: u32, "appHealthProbeTimeout", true;
    /// Failures in a row until it counts as not well.
    app_health_threshold: u32, "appHealthThreshold", true;
    /// Whether it is called with TLS.
    app_ssl: bool, "appSSL", true;
    /// Where the API listens.
    api_listen_addresses: String, "apiListenAddresses", true;
    /// Where logs of sidecars go.
    daprd_log_destination: String, "daprdLogDestination", true;
    /// Where logs of apps go.
    app_log_destination: String, "appLogDestination", true;
    /// What sidecars log.
    log_level: String, "logLevel", true;
    /// Whether calls of the API are logged.
    enable_api_logging: bool, "enableApiLogging", true;
    /// The port of a sidecar's metrics.
    #[serde(deserialize_with = "port")]
    metrics_port: u16, "metricsPort", false;
    /// Whether a sidecar can be profiled.
    enable_profiling: bool, "enableProfiling", true;
    /// By which port.
    #[serde(deserialize_with = "port")]
    profile_port: u16, "profilePort", false;
    /// Where other sidecars come in.
    #[serde(deserialize_with = "port")]
    dapr_internal_grpc_port: u16, "daprInternalGRPCPort", false;
    /// A folder of sockets, in place of ports.
    unix_domain_socket: String, "unixDomainSocket", false;
    /// Where the placement service is.
    placement_host_address: String, "placementHostAddress", true;
    /// Where the scheduler is.
    scheduler_host_address: String, "schedulerHostAddress", true;
    /// The longest body of an API request.
    max_body_size: Value, "maxBodySize", true;
    /// The longest head.
    read_buffer_size: Value, "readBufferSize", true;
    /// What Kubernetes is to run.
    container_image: String, "containerImage", false;
    /// When Kubernetes fetches it.
    container_image_pull_policy: String, "containerImagePullPolicy", false;
    /// Whether Kubernetes gets a service for it.
    create_service: bool, "createService", false;
}

/// Keys without effect: what each does with Dapr, and what there is instead.
const WITHOUT_EFFECT: [(&str, &str, &str); 18] = [
    (
        "appChannelAddress",
        "it says at which host the app is called",
        "a program that is started here is called at 127.0.0.1: let it listen there",
    ),
    (
        "apiListenAddresses",
        "it says where the app's API listens",
        "that is 127.0.0.1; for others a Gateway in a document of Dodai's own kinds",
    ),
    (
        "daprdLogDestination",
        "it says where the log of the sidecar goes",
        "there is one log, that of `dodai up`; `-d` writes it to a file",
    ),
    (
        "appLogDestination",
        "it says where the output of the app goes",
        "it is kept in the data folder; `dodai logs APP -f` shows it",
    ),
    ("logLevel", "it says how much the sidecar logs", "`dodai --log FILTER up` says it for all"),
    ("enableApiLogging", "it writes calls of the API to the log", "`dodai tap` shows calls as they end"),
    (
        "metricsPort",
        "it is the port of the sidecar's metrics",
        "those of all apps are in one place; `dodai up --metrics ADDRESS` says where",
    ),
    ("enableProfiling", "it lets the sidecar be profiled", "leave it out: sidecars are no processes here"),
    (
        "profilePort",
        "it is the port by which the sidecar is profiled",
        "leave it out: sidecars are no processes here",
    ),
    (
        "daprInternalGRPCPort",
        "it is the port by which other sidecars come in",
        "leave it out: apps reach each other within one process",
    ),
    (
        "unixDomainSocket",
        "it puts the API on sockets in a folder",
        "the API listens on ports only: use `DAPR_HTTP_PORT` and `DAPR_GRPC_PORT`",
    ),
    (
        "placementHostAddress",
        "it says where the placement service is",
        "leave it out: nothing here asks for one, and there are no actors",
    ),
    (
        "schedulerHostAddress",
        "it says where the scheduler is",
        "leave it out: jobs are kept and run here, without one",
    ),
    (
        "maxBodySize",
        "it bounds bodies of requests to the API",
        "the API takes 4 MiB, and calls of other apps have no limit",
    ),
    ("readBufferSize", "it bounds heads of requests", "heads are bounded as docs/defaults.md says"),
    ("containerImage", "it says what Kubernetes runs", "leave it out: apps are processes here"),
    (
        "containerImagePullPolicy",
        "it says when Kubernetes fetches the image",
        "leave it out: apps are processes here",
    ),
    (
        "createService",
        "it gives the app a service of Kubernetes",
        "leave it out: apps find each other by their app ids",
    ),
];

/// Whether a file has the form of a run file, valid or not, whatever words it holds: `apps` and no `apiVersion`.
pub fn is_run_file(bytes: &[u8]) -> bool {
    parse_one(bytes).is_ok_and(|tree| tree.get(0, "apps").is_some() && tree.get(0, "apiVersion").is_none())
}

impl RunFile {
    /// Reads a run file, with every error, every key that has no effect and every key that there is not: those are passed
    /// over with a warning, as the Dapr CLI passes over them without one. Nothing is looked up on disk.
    pub fn read(source: &Source<'_>) -> (Option<RunFile>, Read) {
        let mut read = Read::default();
        let in_file = |mut problem: Problem| {
            source.name.clone_into(&mut problem.file);
            problem
        };
        let tree = match parse_one(source.bytes) {
            Ok(tree) => tree,
            Err(problem) => {
                read.add(in_file(*problem));
                return (None, read);
            }
        };
        let (found, problems) = decode_passing_over::<RunFile>(&tree);
        for mut problem in problems {
            if problem.code == Code::UnknownKey {
                "unknown key, which is passed over".clone_into(&mut problem.message);
            }
            read.add(in_file(problem));
        }
        let Some(mut file) = found else { return (None, read) };
        file.tree = tree;
        source.name.clone_into(&mut file.source);
        file.check().into_iter().for_each(|problem| read.add(file.locate(problem)));
        read.warnings.sort_by_key(|problem| (problem.line, problem.column));
        let file = Some(file).filter(|_| read.is_clean());
        (file, read)
    }

    /// The apps with what all share, each with its place in the file: `apps[0]`. Not with the paths that all share, which
    /// begin at the file's folder: what lies in an app's own folder comes before those.
    pub fn settled(&self) -> impl Iterator<Item = (String, RunSettings)> {
        let shared = RunSettings {
            resources_path: None,
            resources_paths: None,
            config_file_path: None,
            runtime_path: None,
            ..self.common.clone()
        };
        let apps = self.apps.iter().enumerate();
        apps.map(move |(i, app)| (format!("apps[{i}]"), app.or(&shared)))
    }

    /// An error at a path of this file, such as `apps[0].appDirPath`, or at the nearest thing around it.
    pub fn problem(&self, code: Code, path: impl Into<String>, message: impl Into<String>) -> Problem {
        self.locate(Problem::new(code, path, message))
    }

    fn locate(&self, mut problem: Problem) -> Problem {
        problem.file.clone_from(&self.source);
        if let Some(mark) = self.tree.place(&problem.path) {
            problem.line = mark.line;
            problem.column = mark.column;
        }
        problem
    }

    fn line(&self, path: &str) -> u32 {
        self.tree.place(path).map_or(0, |mark| mark.line)
    }

    /// What is said of all apps and of each, with its place.
    fn places(&self) -> impl Iterator<Item = (String, &RunSettings)> {
        let apps = self.apps.iter().enumerate().map(|(i, app)| (format!("apps[{i}]"), app));
        std::iter::once(("common".to_owned(), &self.common)).chain(apps)
    }

    fn check(&self) -> Vec<Problem> {
        let mut found = Vec::new();
        if self.version != VERSION {
            let message = format!("version {} is not known", self.version);
            found.push(Problem::new(Code::InvalidValue, "version", message).remedy("write `version: 1`"));
        }
        if self.apps.is_empty() {
            let problem = Problem::new(Code::MissingKey, "apps", "there is no app");
            found.push(problem.remedy("add one: `- {appID: orders, appDirPath: ./orders, command: [...]}`"));
        }
        for key in self.common.own() {
            let message = "this belongs to one app, not to all, and is passed over";
            let problem = Problem::new(Code::Conflict, format!("common.{key}"), message);
            found.push(problem.remedy("move it to an app below `apps`").warning());
        }
        for (place, settings) in self.places() {
            check_one(&place, settings, &mut found);
        }
        for (i, app) in self.apps.iter().enumerate().filter(|(_, app)| app.app_dir_path.is_none()) {
            let name = app.app_id.as_deref().unwrap_or("app");
            let problem = Problem::new(Code::MissingKey, format!("apps[{i}]"), "`appDirPath` is missing");
            found.push(problem.remedy(format!("add the folder of the app: `appDirPath: ./{name}`")));
        }
        found.extend(self.without_effect());
        found.extend(self.ports_that_clash());
        found
    }

    /// Keys that nothing comes of, each told once however many apps have it.
    fn without_effect(&self) -> Vec<Problem> {
        let mut found = Vec::new();
        for (key, dapr, instead) in WITHOUT_EFFECT {
            let has_effect = |settings: &RunSettings| {
                let address = settings.app_channel_address.as_deref();
                key == "appChannelAddress" && matches!(address, Some("127.0.0.1" | "localhost"))
            };
            let own = self.common.own();
            let given = self.places().filter(|(place, settings)| {
                settings.has(key) && !has_effect(settings) && (place != "common" || !own.contains(&key))
            });
            let mut places: Vec<String> = given.map(|(place, _)| format!("{place}.{key}")).collect();
            places.sort_by_key(|place| self.line(place));
            let Some((first, others)) = places.split_first() else { continue };
            let lines: Vec<String> = others.iter().map(|place| self.line(place).to_string()).collect();
            let also = match lines.as_slice() {
                [] => String::new(),
                [one] => format!(" (so has the one in line {one})"),
                _ => format!(" (so have those in lines {})", lines.join(", ")),
            };
            let message = format!("this has no effect{also}; with Dapr {dapr}");
            found.push(Problem::new(Code::NoEffect, first, message).remedy(instead).warning());
        }
        if self.name.is_some() {
            let message = "this has no effect; with Dapr `dapr list` shows it";
            let problem = Problem::new(Code::NoEffect, "name", message);
            found.push(problem.remedy("a project is called after its folder here").warning());
        }
        found
    }

    /// Ports that are named twice: nobody could be reached at the second.
    fn ports_that_clash(&self) -> Vec<Problem> {
        let mut known: BTreeMap<u16, String> = BTreeMap::new();
        let mut found = Vec::new();
        for (i, app) in self.apps.iter().enumerate() {
            let ports = [
                ("appPort", app.app_port),
                ("daprHTTPPort", app.dapr_http_port),
                ("daprGRPCPort", app.dapr_grpc_port),
            ];
            for (key, port) in ports {
                let Some(port) = port else { continue };
                let place = format!("apps[{i}].{key}");
                if let Some(first) = known.get(&port) {
                    let message = format!("port {port} is that of `{first}` already");
                    found.push(Problem::new(Code::PortClash, place, message).remedy("take another port"));
                } else {
                    known.insert(port, place);
                }
            }
        }
        found
    }
}

fn check_one(place: &str, settings: &RunSettings, found: &mut Vec<Problem>) {
    let mut wrong = |key: &str, message: String, remedy: &str| {
        found.push(Problem::new(Code::InvalidValue, format!("{place}.{key}"), message).remedy(remedy));
    };
    match settings.app_protocol.as_deref() {
        Some("http" | "grpc" | "h2c") | None => {}
        Some(other) => wrong(
            "appProtocol",
            format!("`{other}` is not spoken to an app that is started here"),
            "write `http`, `grpc` or `h2c`",
        ),
    }
    if settings.app_ssl == Some(true) {
        let message = "TLS is not spoken to an app that is started here".to_owned();
        wrong("appSSL", message, "leave it out, and let the app listen without TLS on 127.0.0.1");
    }
}
