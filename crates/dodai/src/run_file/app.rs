//! One app of a run file, as documents.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use dodai_api::{Code, Document, Located, Problem, RunFile, RunSettings};
use dodai_core::id::AppId;
use serde_json::{Value, json};

use super::Checked;

/// Calls that may wait for an app that takes few at once.
const MAX_PENDING: u32 = 100_000;
/// Where an app that nobody calls is said to be.
const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9);
/// How apps are asked if they are well, unless the file says otherwise: the defaults of daprd.
const HEALTH: (&str, u32, u32, u32) = ("/healthz", 5, 500, 3);
/// Which keys of the file parts of an App come from.
const KEYS: [(&str, &str); 4] = [
    ("spec.process.command", "command"),
    ("spec.env", "env"),
    ("spec.probes", "appHealthCheckPath"),
    ("spec.services", "appPort"),
];

/// One app of the file.
pub(super) struct AskedApp {
    pub id: AppId,
    /// Where it stands in the file: `apps[0]`.
    pub place: String,
    pub folder: PathBuf,
    pub settings: RunSettings,
}

impl AskedApp {
    pub fn command(&self) -> Option<&[String]> {
        self.settings.command.as_deref().filter(|command| !command.is_empty())
    }

    fn protocol(&self) -> &'static str {
        match self.settings.app_protocol.as_deref() {
            Some("grpc") => "grpc",
            Some("h2c") => "http2",
            _ => "http",
        }
    }

    /// The app and the policy of calls of it; problems are those of the keys that they come from.
    pub fn documents(
        &self,
        configuration: Option<&str>,
        file: &RunFile,
        found: &mut Checked,
    ) -> Vec<Located<Document>> {
        let name = self.id.name.as_str();
        let mut made = vec![("App", self.app(configuration))];
        if self.settings.app_port.is_some() {
            made.push(("Policy", self.policy()));
        }
        self.unused(file).into_iter().for_each(|problem| found.add(problem));
        let mut all = Vec::new();
        for (kind, spec) in made {
            let value = json!({
                "apiVersion": "dodai.dev/v1", "kind": kind, "metadata": { "name": name }, "spec": spec,
            });
            match Document::from_value(&value) {
                Ok(document) => {
                    dodai_api::validate(&document)
                        .into_iter()
                        .for_each(|one| found.add(self.placed(one, file)));
                    all.push(Located::nowhere(document));
                }
                Err(problems) => problems.into_iter().for_each(|one| found.add(self.placed(one, file))),
            }
        }
        all
    }

    /// A problem of a document that was made, as one of the file.
    fn placed(&self, problem: Problem, file: &RunFile) -> Problem {
        let key = KEYS.iter().find_map(|(part, key)| problem.path.strip_prefix(part).map(|rest| (key, rest)));
        let path = match key {
            Some((&"command", rest)) => format!("{}.command{rest}", self.place),
            Some((key, _)) => format!("{}.{key}", self.place),
            None => self.place.clone(),
        };
        let Problem { code, message, remedy, severity, .. } = problem;
        Problem { remedy, severity, ..file.problem(code, path, message) }
    }

    /// What the app says that nothing comes of.
    fn unused(&self, file: &RunFile) -> Vec<Problem> {
        let no_effect = |key: &str, message: String, remedy| {
            let path = format!("{}.{key}", self.place);
            file.problem(Code::NoEffect, path, message).remedy(remedy).warning()
        };
        let mut found = Vec::new();
        if self.settings.env.iter().flatten().any(|(name, _)| name == "APP_API_TOKEN") {
            let message = "calls of the app bring no token: the program has the variable, and that is all";
            let remedy = "let the app take calls without one, or run it with `dodai daprd`, which sends it";
            found.push(no_effect("env", message.to_owned(), remedy));
        }
        let why = match (self.settings.enable_app_health_check, self.command(), self.protocol()) {
            (Some(true), None, _) => "an app that somebody else starts is not asked",
            (Some(true), Some(_), protocol) if protocol != "http" => {
                "an app that does not speak `http` is asked by a connection"
            }
            _ => return found,
        };
        found.push(no_effect("enableAppHealthCheck", format!("this has no effect: {why}"), "leave it out"));
        found
    }

    fn app(&self, configuration: Option<&str>) -> Value {
        let mut dapr = json!({ "enabled": true });
        if let Some(configuration) = configuration {
            dapr["configuration"] = json!(configuration);
        }
        let mut spec = json!({ "dapr": dapr });
        if let Some(port) = self.settings.app_port {
            spec["services"] = json!([{ "name": "http", "port": port, "protocol": self.protocol() }]);
        }
        if let Some(command) = self.command() {
            let mut command = command.to_vec();
            // A program that is named by a path is looked for from the folder that it runs in.
            if command[0].contains('/') {
                command[0] = self.folder.join(&command[0]).display().to_string();
            }
            spec["process"] = json!({
                "command": command,
                "workingDirectory": self.folder.display().to_string(),
                // The program knows nothing of names that are called without Dapr, and one that ends well has ended.
                "proxyEnv": false,
                "restart": { "policy": "on-failure" },
            });
            spec["env"] = self.env();
            if let Some(probes) = self.probes() {
                spec["probes"] = probes;
            }
        } else {
            let port = self.settings.app_port;
            let there = port.map_or(NOWHERE, |port| SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port));
            spec["external"] = json!({ "addresses": [there] });
        }
        spec
    }

    fn env(&self) -> Value {
        let protocol = self.settings.app_protocol.as_deref().unwrap_or("http");
        let own = json!({ "name": "APP_PROTOCOL", "value": protocol });
        let of_file = self.settings.env.iter().flatten();
        let of_file = of_file.map(|(name, value)| json!({ "name": name, "value": value }));
        std::iter::once(own).chain(of_file).collect()
    }

    fn probes(&self) -> Option<Value> {
        let settings = &self.settings;
        let is_asked = settings.enable_app_health_check == Some(true) && self.protocol() == "http";
        if !is_asked || settings.app_port.is_none() {
            return None;
        }
        let (path, interval, timeout, threshold) = HEALTH;
        let above_zero =
            |given: Option<u32>, otherwise| given.filter(|given| *given > 0).unwrap_or(otherwise);
        let path = settings.app_health_check_path.as_deref().unwrap_or(path);
        Some(json!({ "readiness": {
            "httpGet": { "path": format!("/{}", path.trim_start_matches('/')) },
            "period": format!("{}s", above_zero(settings.app_health_probe_interval, interval)),
            "timeout": format!("{}ms", above_zero(settings.app_health_probe_timeout, timeout)),
            "failureThreshold": above_zero(settings.app_health_threshold, threshold),
        }}))
    }

    /// daprd puts no breaker before its own app, and lets calls wait for one that takes few at once.
    fn policy(&self) -> Value {
        let mut breaker = json!({ "consecutiveFailures": 0 });
        if let Some(most) = self.settings.app_max_concurrency.filter(|most| *most > 0) {
            breaker["maxConnections"] = json!(most);
            breaker["maxPending"] = json!(MAX_PENDING);
        }
        json!({ "targetRefs": [{ "kind": "App", "name": self.id.name.as_str() }], "circuitBreaker": breaker })
    }
}
