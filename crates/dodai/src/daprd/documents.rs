//! The documents one sidecar is made of: those of its folders, and those that stand for its app, its way in
//! for other sidecars, and the apps these stand beside.
//!
//! From here on a sidecar is a base like any other: control turns documents into a snapshot, the base runs it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, bail};
use dodai_api::dapr::ComponentsSpec;
use dodai_api::{Document, Located, Project, Read};
use dodai_core::id::AppId;
use serde_json::{Value, json};

use super::options::{Channel, Options};
use super::peers::Peer;
use super::resources;
use crate::output::Output;

/// The header by which an app knows its sidecar.
const TOKEN_HEADER: &str = "dapr-api-token";
/// Calls that may wait for an app that takes few at once.
const MAX_PENDING: u32 = 100_000;

/// The documents of the folders, all of one namespace.
pub struct Given {
    documents: Vec<Located<Document>>,
    /// The name of the Configuration, if there is one.
    configuration: Option<String>,
}

impl Given {
    /// Reads the folders and files.
    ///
    /// # Errors
    /// A document is not valid (the problems have been printed), or a component is of a forbidden type.
    pub fn read(options: &Options, output: &Output) -> anyhow::Result<Given> {
        let mut files = Vec::new();
        for folder in &options.resources {
            resources::add_folder(folder, &mut files).with_context(|| {
                format!("--resources-path {}: cannot be read; name a folder of YAML files", folder.display())
            })?;
        }
        for path in &options.configurations {
            resources::add_file(path, &mut files).context("--config")?;
        }
        Given::of(resources::read(&files, output)?, options)
    }

    fn of(all: Vec<Located<Document>>, options: &Options) -> anyhow::Result<Given> {
        let own = &options.app.namespace;
        let default = dodai_api::Name::default_namespace();
        let mut documents = Vec::new();
        let mut configuration: Option<(String, String)> = None;
        for mut one in all {
            let (kind, file) = (one.value.kind(), one.file.to_string());
            let metadata = one.value.metadata_mut();
            // A document without a namespace is of the sidecar's own, as everywhere in Dapr.
            if metadata.namespace == default {
                metadata.namespace = own.as_str().parse()?;
            }
            if metadata.namespace.as_str() != own.as_str() {
                let (name, namespace) = (metadata.name.as_str(), metadata.namespace.as_str());
                tracing::info!(file, name, namespace, "a {kind} of another namespace is left out");
                continue;
            }
            if let Document::Configuration(found) = &one.value {
                let name = found.metadata.name.to_string();
                if let Some((other, _)) = configuration.as_ref().filter(|(other, _)| *other != name) {
                    bail!(
                        "{file}: a second Configuration `{name}` beside `{other}`; put both into one document"
                    );
                }
                configuration = Some((name, file));
            }
            documents.push(one);
        }
        let found = documents.iter().find_map(|one| {
            let Document::Configuration(found) = &one.value else { return None };
            Some(found.spec.clone())
        });
        if let Some(rules) = found.and_then(|spec| spec.components) {
            refuse_denied(&documents, &rules)?;
        }
        Ok(Given { documents, configuration: configuration.map(|(name, _)| name) })
    }

    /// The documents as a project, for whoever reads settings from them.
    pub fn project(&self) -> Project {
        let read = Read { documents: self.documents.clone(), ..Read::default() };
        Project { read, skipped: Vec::new() }
    }

    /// Everything that is to be applied.
    ///
    /// # Errors
    /// Never for options and peers that were checked; a document we made that is none is a bug that is told.
    pub fn with(
        &self,
        options: &Options,
        way: &Way,
        peers: &BTreeMap<AppId, Peer>,
    ) -> anyhow::Result<Vec<Located<Document>>> {
        let mut all = self.documents.clone();
        let mut made = own_app(options, way, self.configuration.as_deref());
        made.extend(peers.iter().filter(|(app, _)| **app != options.app).map(|(app, peer)| {
            let addresses = &peer.addresses;
            let services = json!([{ "name": "http", "protocol": peer.protocol.of_service() }]);
            document("App", app, app.name.as_str(), json!({
                "external": { "addresses": addresses, "start": format!("dodai daprd --app-id {}", app.name) },
                "services": services,
                "dapr": { "enabled": false },
            }))
        }));
        for value in made {
            let document = Document::from_value(&value).map_err(|problems| {
                let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
                anyhow::anyhow!("a document of the sidecar itself is not valid: {}", told.join("; "))
            })?;
            all.push(Located::nowhere(document));
        }
        Ok(all)
    }
}

/// Where the app is, and where other sidecars come in for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// The app's own address; one that is never called for an app that only calls.
    pub app: SocketAddr,
    /// The way in for others, which an app that only calls has not.
    pub peers: Option<SocketAddr>,
}

fn document(kind: &str, app: &AppId, name: &str, spec: Value) -> Value {
    let metadata = json!({ "name": name, "namespace": app.namespace.as_str() });
    json!({ "apiVersion": "dodai.dev/v1", "kind": kind, "metadata": metadata, "spec": spec })
}

/// The app, how it is called, and the way in for other sidecars.
fn own_app(options: &Options, way: &Way, configuration: Option<&str>) -> Vec<Value> {
    let app = &options.app;
    let id = app.name.as_str();
    let mut dapr = json!({ "enabled": true });
    if let Some(name) = configuration {
        dapr["configuration"] = json!(name);
    }
    let mut spec = json!({ "external": { "addresses": [way.app] }, "dapr": dapr });
    let Some(channel) = &options.channel else { return vec![document("App", app, id, spec)] };
    spec["services"] = json!([{ "name": "http", "protocol": channel.protocol.of_service() }]);
    let mut all = vec![document("App", app, id, spec), document("Policy", app, id, policy(id, channel))];
    let filters: Vec<Value> = options.app_token.iter().map(|token| token_filter(token)).collect();
    let rule = json!({ "filters": filters, "backendRefs": [{ "kind": "App", "name": id }] });
    if options.app_token.is_some() {
        let parent = json!([{ "kind": "Service", "name": id }]);
        all.push(document("Route", app, "app-token", json!({ "parentRefs": parent, "rules": [rule] })));
    }
    if let Some(peers) = way.peers {
        let listener = json!({
            "name": "peers", "address": peers.ip(), "port": peers.port(), "protocol": "HTTP",
            // Sidecars of one machine believe each other, as daprd's do without mutual TLS.
            "identityHeaders": "Keep",
        });
        all.push(document("Gateway", app, "peers", json!({ "listeners": [listener] })));
        let parent = json!([{ "name": "peers" }]);
        all.push(document("Route", app, "peers", json!({ "parentRefs": parent, "rules": [rule] })));
    }
    all
}

/// daprd puts no breaker before its own app, and lets calls wait for one that takes few at once.
fn policy(id: &str, channel: &Channel) -> Value {
    let mut breaker = json!({ "consecutiveFailures": 0 });
    if let Some(most) = channel.max_concurrency {
        breaker["maxConnections"] = json!(most);
        breaker["maxPending"] = json!(MAX_PENDING);
    }
    json!({ "targetRefs": [{ "kind": "App", "name": id }], "circuitBreaker": breaker })
}

fn token_filter(token: &str) -> Value {
    json!({
        "type": "RequestHeaderModifier",
        "requestHeaderModifier": { "set": [{ "name": TOKEN_HEADER, "value": token }] },
    })
}

/// A sidecar does not start with a component that its Configuration forbids.
fn refuse_denied(documents: &[Located<Document>], rules: &ComponentsSpec) -> anyhow::Result<()> {
    for one in documents {
        let Document::Component(component) = &one.value else { continue };
        let (kind, version) = (component.spec.kind.as_str(), component.spec.version.as_str());
        if rules.denies(kind, version) {
            let (file, name) = (&one.file, &component.metadata.name);
            bail!(
                "{file}: Component `{name}` is of type {kind}/{version}, which spec.components.deny forbids"
            );
        }
    }
    Ok(())
}
