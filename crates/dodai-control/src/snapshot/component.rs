//! What apps may use: components, scopes of the runtime API, declared subscriptions.

use std::collections::BTreeSet;
use std::time::Duration;

use dodai_api::{DaprProtocol, Protocol, dapr};
use dodai_core::id::AppId;
use dodai_core::snapshot::{App, BulkDelivery, Component, Scopes, SecretScope, Setting, Subscription, Value};

use super::{Frame, Input, resiliency};
use crate::documents::Documents;
use crate::name;

/// How long a component may take to come up unless it says so itself.
const INIT_TIMEOUT: Duration = Duration::from_secs(5);

/// What a base is told of an app.
pub(super) fn app(input: &Input<'_>, id: &AppId) -> Option<App> {
    let app = input.documents.app(id)?;
    let mut labels = app.metadata.labels.clone();
    labels.extend(app.spec.labels.clone());
    let runtime_api = app.spec.dapr.as_ref().is_none_or(|dapr| dapr.enabled);
    let api_token = input.settings.api_token.clone().filter(|_| runtime_api);
    let scopes = Scopes { secrets: secrets(input, app), api_token };
    let speaks_grpc = app.spec.services.first().is_some_and(|service| service.protocol == Protocol::Grpc);
    let protocol = app.spec.dapr.as_ref().and_then(|dapr| dapr.protocol);
    let grpc_callbacks = protocol.map_or(speaks_grpc, |protocol| protocol == DaprProtocol::Grpc);
    Some(App { id: id.clone(), scopes, labels, runtime_api, grpc_callbacks })
}

fn secrets(input: &Input<'_>, app: &dodai_api::App) -> Vec<SecretScope> {
    let wanted = app.spec.dapr.as_ref().and_then(|dapr| dapr.configuration.as_ref());
    let found = wanted.and_then(|wanted| input.documents.configuration(&app.metadata.namespace, wanted));
    let Some(secrets) = found.and_then(|document| document.spec.secrets.as_ref()) else { return Vec::new() };
    let scope = |scope: &dapr::SecretScope| SecretScope {
        store: scope.store_name.clone(),
        default_allow: !scope.default_access.as_deref().is_some_and(|word| word.eq_ignore_ascii_case("deny")),
        allowed: scope.allowed_secrets.clone(),
        denied: scope.denied_secrets.clone(),
    };
    secrets.scopes.iter().map(scope).collect()
}

/// A component, if apps of this base may use it.
pub(super) fn open(input: &Input<'_>, frame: &Frame, component: &dapr::Component) -> Option<Component> {
    let here = |app: &AppId| {
        app.namespace.as_str() == component.metadata.namespace.as_str()
            && (component.scopes.is_empty() || component.scopes.iter().any(|one| one == app.name.as_str()))
    };
    // A base among others opens only what its own apps use, although it knows all services.
    let all = frame.all && input.settings.mesh.is_none();
    // A secret store serves components whatever apps it is scoped to.
    let needed = component.spec.kind.starts_with("secretstores.")
        && frame.local.iter().any(|app| app.namespace.as_str() == component.metadata.namespace.as_str());
    let seen = all || needed || frame.local.iter().any(here);
    seen.then(|| Some(self::component(input, component, may_use(input.documents, component)?)))?
}

/// The apps that may use a component, after those whose configuration denies its type; empty means all, `None`
/// nobody.
fn may_use(documents: &Documents, component: &dapr::Component) -> Option<Vec<String>> {
    let namespace = &component.metadata.namespace;
    let refuses = |document: &dapr::Configuration| {
        let rules = document.spec.components.as_ref();
        rules.is_some_and(|rules| rules.denies(&component.spec.kind, &component.spec.version))
    };
    // Mostly none denies anything, and then nobody asks which apps there are.
    if !documents.configurations().any(refuses) {
        return Some(component.scopes.clone());
    }
    let denies = |app: &dodai_api::App| {
        let wanted = app.spec.dapr.as_ref().and_then(|dapr| dapr.configuration.as_ref());
        wanted.and_then(|wanted| documents.configuration(namespace, wanted)).is_some_and(refuses)
    };
    let own = || documents.apps().filter(|app| app.metadata.namespace == *namespace);
    let denied: BTreeSet<&str> =
        own().filter(|app| denies(app)).map(|app| app.metadata.name.as_str()).collect();
    if denied.is_empty() {
        return Some(component.scopes.clone());
    }
    let scopes = component.scopes.iter().map(String::as_str);
    let all: Vec<&str> = match component.scopes.is_empty() {
        true => own().map(|app| app.metadata.name.as_str()).collect(),
        false => scopes.collect(),
    };
    let left: Vec<String> = all.into_iter().filter(|app| !denied.contains(app)).map(str::to_owned).collect();
    (!left.is_empty()).then_some(left)
}

fn component(input: &Input<'_>, document: &dapr::Component, scopes: Vec<String>) -> Component {
    let (inbound, outbound) = resiliency::of_component(input, document);
    let store = document.auth.as_ref().map(|auth| auth.secret_store.clone()).unwrap_or_default();
    Component {
        namespace: name::name(&document.metadata.namespace),
        name: document.metadata.name.to_string(),
        driver: document.spec.kind.clone(),
        version: document.spec.version.clone(),
        settings: document.spec.metadata.iter().map(|item| setting(item, &store)).collect(),
        scopes,
        ignore_errors: document.spec.ignore_errors,
        init_timeout: document.spec.init_timeout.map_or(INIT_TIMEOUT, dodai_api::TimeSpan::get),
        inbound,
        outbound,
    }
}

/// A value where it is, which may be a secret store; without one the environment is meant.
pub(super) fn setting(item: &dapr::MetadataItem, store: &str) -> Setting {
    let value = match (&item.secret_key_ref, &item.env_ref) {
        (Some(reference), _) => secret(reference, store),
        (None, Some(variable)) => Value::Environment(variable.clone()),
        (None, None) => Value::Plain(item.text().unwrap_or_default()),
    };
    Setting { name: item.name.clone(), value }
}

pub(super) fn secret(reference: &dapr::SecretKeyRef, store: &str) -> Value {
    Value::Secret {
        store: store.to_owned(),
        name: reference.name.clone(),
        key: reference.key.clone().unwrap_or_else(|| reference.name.clone()),
    }
}

/// Dapr's defaults: up to 100 messages, waiting for a second.
fn bulk(bulk: &dapr::BulkSubscribe) -> BulkDelivery {
    BulkDelivery {
        most: bulk.max_messages_count.filter(|most| *most > 0).unwrap_or(100),
        wait: Duration::from_millis(bulk.max_await_duration_ms.unwrap_or(1000).into()),
    }
}

pub(super) fn subscriptions(input: &Input<'_>, local: &BTreeSet<AppId>) -> Vec<Subscription> {
    let mut all = Vec::new();
    for document in input.documents.subscriptions() {
        let namespace = document.metadata.namespace.as_str();
        let takes = |app: &&AppId| {
            app.namespace.as_str() == namespace
                && (document.scopes.is_empty() || document.scopes.iter().any(|one| one == app.name.as_str()))
        };
        let routes = document.spec.routes.clone().unwrap_or_default();
        for app in local.iter().filter(takes) {
            // A rule without an expression matches every event.
            let always = |expression: &str| {
                if expression.is_empty() { "true".to_owned() } else { expression.to_owned() }
            };
            all.push(Subscription {
                name: format!("{app}/{}", document.metadata.name),
                app: app.clone(),
                pubsub: document.spec.pubsubname.clone(),
                topic: document.spec.topic.clone(),
                rules: routes
                    .rules
                    .iter()
                    .map(|rule| (always(&rule.expression), rule.path.clone()))
                    .collect(),
                path: routes.default.clone(),
                dead_letter_topic: document.spec.dead_letter_topic.clone(),
                bulk: document.spec.bulk_subscribe.as_ref().filter(|bulk| bulk.enabled).map(bulk),
                metadata: document.spec.metadata.clone(),
            });
        }
    }
    all
}
