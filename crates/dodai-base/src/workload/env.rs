//! The environment of a workload: what its documents say, what the base tells it about itself, and the
//! little that a process inherits.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use dodai_core::id::{Name, ServiceId};
use dodai_core::snapshot::{ProcessSpec, Value};

use super::Context;
use crate::process::{EnvValue, Secret};

/// What a process inherits from the base's own environment.
const INHERITED: &[&str] =
    &["PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR"];

/// Builds the environment of a process that listens on `ports`. The error names the variable that could not
/// be resolved.
pub async fn of_process(
    context: &Context,
    spec: &ProcessSpec,
    ports: &BTreeMap<Name, SocketAddr>,
) -> Result<BTreeMap<String, EnvValue>, String> {
    let parts = &context.parts;
    let own = &parts.config.environment;
    let mut env: BTreeMap<String, EnvValue> = INHERITED
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), EnvValue::Plain(own.get(*name)?.clone()))))
        .collect();
    env.extend(own_names(context));
    let app = &context.workload.app;
    let mut plain = |name: &str, value: String| env.insert(name.to_owned(), EnvValue::Plain(value));
    for service in &context.workload.services {
        let Some(address) = ports.get(&service.name) else { continue };
        let name = service.name.as_str().to_ascii_uppercase().replace('-', "_");
        plain(&format!("PORT_{name}"), address.port().to_string());
    }
    if let Some(first) = context.workload.services.first().and_then(|service| ports.get(&service.name)) {
        plain("PORT", first.port().to_string());
        plain("APP_PORT", first.port().to_string());
    }
    let listeners = parts.status.borrow().listeners.clone();
    if let Some(api) = listeners.get(&format!("api/{app}")) {
        plain("DAPR_HTTP_PORT", api.port().to_string());
        plain("DAPR_HTTP_ENDPOINT", format!("http://{api}"));
        // One port serves both, unless another was asked for.
        let grpc = listeners.get(&format!("api/{app}/1")).unwrap_or(api);
        plain("DAPR_GRPC_PORT", grpc.port().to_string());
        plain("DAPR_GRPC_ENDPOINT", format!("http://{grpc}"));
    }
    if let Some(outbound) = listeners.get(&format!("outbound/{app}")) {
        plain("DODAI_OUTBOUND", format!("http://{outbound}"));
        if spec.proxy_env {
            for name in ["HTTP_PROXY", "http_proxy"] {
                plain(name, format!("http://{outbound}"));
            }
            for name in ["NO_PROXY", "no_proxy"] {
                plain(name, "localhost,127.0.0.1,::1".to_owned());
            }
            // Node.js honours the variables above only if it is asked to.
            plain("NODE_USE_ENV_PROXY", "1".to_owned());
        }
    }
    let declared = format!("dependency/{app}/");
    for (name, address) in &listeners {
        let Some(service) = name.strip_prefix(&declared).and_then(|id| ServiceId::parse(id).ok()) else {
            continue;
        };
        let there = service.owner.name.as_str().to_ascii_uppercase().replace('-', "_");
        plain(&format!("DODAI_{there}_ADDRESS"), address.to_string());
    }
    if let Some(token) = parts.token_of(app) {
        env.insert("DAPR_API_TOKEN".to_owned(), EnvValue::Secret(Secret::new(token)));
    }
    env.extend(from_documents(context).await?);
    Ok(env)
}

/// Builds the environment of a module, which has no ports and inherits nothing. The error names the variable
/// that could not be resolved.
pub async fn of_module(context: &Context) -> Result<Vec<(String, String)>, String> {
    let mut env = own_names(context);
    env.extend(from_documents(context).await?);
    Ok(env.into_iter().map(|(name, value)| (name, value.reveal().to_owned())).collect())
}

/// Who it is: what every workload finds in its environment, whatever its shape.
fn own_names(context: &Context) -> BTreeMap<String, EnvValue> {
    let workload = &context.workload;
    let pair = |name: &str, value: String| (name.to_owned(), EnvValue::Plain(value));
    BTreeMap::from([
        pair("APP_ID", workload.app.name.to_string()),
        pair("NAMESPACE", workload.app.namespace.to_string()),
        pair("DODAI_APP", workload.app.to_string()),
        pair("DODAI_INSTANCE", workload.instance.to_string()),
        pair("DODAI_REVISION", workload.revision.to_string()),
    ])
}

/// What its documents say, with every reference resolved; it wins over the rest.
async fn from_documents(context: &Context) -> Result<BTreeMap<String, EnvValue>, String> {
    let mut env = BTreeMap::new();
    for setting in &context.workload.env {
        let value = resolve(context, &setting.name, &setting.value).await?;
        env.insert(setting.name.clone(), value);
    }
    Ok(env)
}

async fn resolve(context: &Context, name: &str, value: &Value) -> Result<EnvValue, String> {
    let namespace = &context.workload.app.namespace;
    let failed = |error: String| format!("environment variable {name}: {error}");
    match value {
        Value::Plain(text) => Ok(EnvValue::Plain(text.clone())),
        Value::Config { store, .. } => {
            if let Some(membership) = &context.parts.config.membership {
                membership.brought().wait(&format!("{namespace}/{store}")).await;
            }
            let text = context
                .parts
                .runtime
                .secret(namespace, value)
                .await
                .map_err(|error| failed(error.to_string()))?;
            Ok(EnvValue::Plain(text))
        }
        Value::Secret { .. } | Value::Environment(_) => {
            let text = context
                .parts
                .runtime
                .secret(namespace, value)
                .await
                .map_err(|error| failed(error.to_string()))?;
            Ok(EnvValue::Secret(Secret::new(text)))
        }
    }
}
