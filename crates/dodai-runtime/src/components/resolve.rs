//! Values that live elsewhere: in secret stores, configuration stores and the base's environment.

use std::collections::BTreeMap;

use dodai_capability::Metadata;
use dodai_capability::component::{Properties, Value};
use dodai_capability::secrets::{Secret, Values};
use dodai_core::id::Name;
use dodai_core::snapshot;

use super::{Block, Components};
use crate::error::Error;

/// Templates in settings that daprd fills per app (its `pkg/runtime/meta`), which a shared component cannot.
const PER_APP: [&str; 3] = ["{appID}", "{namespace}", "{podName}"];
/// The environment variable that daprd takes the last of them from.
const POD_NAME: &str = "POD_NAME";

/// Settings that the runtime reads for each app, and fills for each app.
const READ_PER_APP: [&str; 2] = ["consumerID", "keyPrefix"];

/// The properties of a component, references followed.
pub(super) async fn properties(
    components: &Components,
    component: &snapshot::Component,
) -> Result<Properties, Error> {
    let mut properties = Properties::default();
    for setting in &component.settings {
        let name = setting.name.clone();
        let value = match &setting.value {
            snapshot::Value::Plain(text) => Value::Plain(filled(components, &setting.name, text)?),
            snapshot::Value::Config { .. } => {
                Value::Plain(value(components, &component.namespace, &setting.value).await?)
            }
            snapshot::Value::Secret { name: secret, .. } | snapshot::Value::Environment(secret) => {
                let text = value(components, &component.namespace, &setting.value).await?;
                properties.insert_secret(name, secret, Secret::from(text));
                continue;
            }
        };
        properties.insert(name, value);
    }
    Ok(properties)
}

fn filled(components: &Components, setting: &str, text: &str) -> Result<String, Error> {
    if READ_PER_APP.iter().any(|name| name.eq_ignore_ascii_case(setting)) {
        return Ok(text.to_owned());
    }
    let mut text = text.replace("{uuid}", &uuid::Uuid::new_v4().to_string());
    for template in PER_APP {
        if text.contains(template) {
            let Some(app) = &components.shared.only else {
                return Err(Error::Template { setting: setting.to_owned(), template });
            };
            let value = match template {
                "{appID}" => app.name.to_string(),
                // Both of them, as daprd has it.
                "{namespace}" => format!("{}.{}", app.namespace, app.name),
                _ => variable(components, POD_NAME)?,
            };
            text = text.replace(template, &value);
        }
    }
    Ok(text)
}

/// One value.
pub(super) async fn value(
    components: &Components,
    namespace: &Name,
    value: &snapshot::Value,
) -> Result<String, Error> {
    match value {
        snapshot::Value::Plain(text) => Ok(text.clone()),
        snapshot::Value::Environment(name) => variable(components, name),
        snapshot::Value::Secret { store, name, .. } if store.is_empty() => variable(components, name),
        snapshot::Value::Secret { store, name, key } => {
            let (_live, secrets) =
                components.own(namespace, Block::Secrets, store, |all| all.secrets.clone())?;
            let values = secrets.get(name, &Metadata::new()).await;
            let values = values.map_err(|source| Error::Secret {
                store: store.clone(),
                name: name.clone(),
                source,
            })?;
            let secret = pick(&values, name, key);
            secret.map(|secret| secret.reveal().to_owned()).ok_or_else(|| Error::SecretKey {
                store: store.clone(),
                name: name.clone(),
                key: if key.is_empty() { name.clone() } else { key.clone() },
            })
        }
        snapshot::Value::Config { store, key } => {
            let found = configuration(components, namespace, store, key).await?;
            found.ok_or_else(|| Error::ConfigurationKey { store: store.clone(), key: key.clone() })
        }
    }
}

/// One value of a configuration store.
pub(crate) async fn configuration(
    components: &Components,
    namespace: &Name,
    store: &str,
    key: &str,
) -> Result<Option<String>, Error> {
    let pick = |all: &dodai_capability::component::Capabilities| all.configuration.clone();
    let (_live, configuration) = components.own(namespace, Block::Configuration, store, pick)?;
    let found = configuration.get(&[key.to_owned()], &Metadata::new()).await;
    let mut found = found.map_err(|source| Error::Configuration { store: store.to_owned(), source })?;
    Ok(found.remove(key).map(|item| item.value))
}

/// Every value of a configuration store.
pub(crate) async fn configurations(
    components: &Components,
    namespace: &Name,
    store: &str,
) -> Result<BTreeMap<String, String>, Error> {
    let pick = |all: &dodai_capability::component::Capabilities| all.configuration.clone();
    let (_live, configuration) = components.own(namespace, Block::Configuration, store, pick)?;
    let found = configuration.get(&[], &Metadata::new()).await;
    let found = found.map_err(|source| Error::Configuration { store: store.to_owned(), source })?;
    Ok(found.into_iter().map(|(key, item)| (key, item.value)).collect())
}

/// Sets (or, without a value, deletes) one value of a configuration store; whether there was one before a
/// deletion.
pub(crate) async fn write_configuration(
    components: &Components,
    namespace: &Name,
    store: &str,
    key: &str,
    value: Option<&str>,
) -> Result<bool, Error> {
    let pick = |all: &dodai_capability::component::Capabilities| all.configuration_writer.clone();
    let (_live, writer) = components.own(namespace, Block::Configuration, store, pick)?;
    let done = match value {
        Some(value) => writer.set(key, value, Metadata::new()).await.map(|_item| true),
        None => writer.delete(key).await,
    };
    done.map_err(|source| Error::Configuration { store: store.to_owned(), source })
}

/// Without a key the secret's own name, or its only value, is meant.
fn pick<'a>(values: &'a Values, name: &str, key: &str) -> Option<&'a Secret> {
    if !key.is_empty() {
        return values.get(key);
    }
    let only = values.values().next().filter(|_| values.len() == 1);
    values.get(name).or(only)
}

/// The runtime's own variables are never given out: a component's settings can be read back by an app.
fn variable(components: &Components, name: &str) -> Result<String, Error> {
    let refused = name == "APP_API_TOKEN" || name.starts_with("DAPR_") || name.starts_with("DODAI_");
    let problem = |problem| Error::Variable { name: name.to_owned(), problem };
    if refused {
        return Err(problem("belongs to the runtime and is not given out; copy the value to another name"));
    }
    let value = components.shared.environment.get(name).cloned();
    value.ok_or_else(|| problem("is not set where the base was started; set it, or take the reference out"))
}
