//! What the API tells about itself: metadata, health, and the wish to shut down.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;

use dodai_core::call::Call;
use http::StatusCode;
use serde::Serialize;

use super::refusal::{Outcome, Refusal, empty, encoded};
use super::{Api, query};
use crate::delivery::Described;
use crate::settings::{DAPR_LEVEL, Settings};

/// Metadata entries an app may add, and the longest of their values in bytes.
const MAX_EXTENDED: usize = 128;
const MAX_EXTENDED_VALUE: usize = 64 << 10;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    id: String,
    runtime_version: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    components: Vec<Registered>,
    extended: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    subscriptions: Vec<Described>,
    app_connection_properties: Connection,
    actor_runtime: ActorRuntime,
}

#[derive(Serialize)]
struct Registered {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    version: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    capabilities: Vec<&'static str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Connection {
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    protocol: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel_address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_concurrency: Option<u32>,
}

impl Connection {
    fn of(settings: &Settings) -> Connection {
        let Some(known) = &settings.connection else {
            let protocol = "http".to_owned();
            return Connection { port: None, protocol, channel_address: None, max_concurrency: None };
        };
        Connection {
            port: Some(known.port),
            protocol: known.protocol.clone(),
            channel_address: Some(known.address.clone()),
            max_concurrency: known.max_concurrency,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ActorRuntime {
    runtime_status: &'static str,
    host_ready: bool,
}

impl Api {
    pub(super) fn metadata(&self) -> Outcome {
        let mut extended = self.extended.lock().unwrap_or_else(PoisonError::into_inner).clone();
        extended.insert("daprRuntimeVersion".into(), DAPR_LEVEL.into());
        extended.insert("dodaiVersion".into(), env!("CARGO_PKG_VERSION").into());
        let components = self.shared.components.of_app(&self.app);
        let components = components.iter().filter_map(|slot| slot.live()).map(|live| Registered {
            name: live.name().to_owned(),
            kind: live.component.spec.kind.clone(),
            version: live.component.spec.version.clone(),
            capabilities: live.component.features(),
        });
        let metadata = Metadata {
            id: self.app.name.to_string(),
            runtime_version: DAPR_LEVEL,
            components: components.collect(),
            extended,
            subscriptions: self.shared.deliveries.describe(&self.app),
            app_connection_properties: Connection::of(&self.shared.settings),
            actor_runtime: ActorRuntime { runtime_status: "DISABLED", host_ready: false },
        };
        encoded(StatusCode::OK, &metadata)
    }

    pub(super) async fn set_metadata(&self, key: String, call: Call) -> Outcome {
        let value = self.body(call.body).await?;
        let value = String::from_utf8_lossy(&value).into_owned();
        let mut extended = self.extended.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = !extended.contains_key(&key);
        if value.len() > MAX_EXTENDED_VALUE || (is_new && extended.len() >= MAX_EXTENDED) {
            let message = format!(
                "invalid request: at most {MAX_EXTENDED} metadata entries of {MAX_EXTENDED_VALUE} bytes are kept"
            );
            return Err(Refusal::bad_request("ERR_BAD_REQUEST", message));
        }
        extended.insert(key, value);
        Ok(empty())
    }

    /// Ready once every component that the app depends on has come up.
    pub(super) fn health(&self, call: &Call) -> Outcome {
        let mut missing = Vec::new();
        if self.shared.closing.load(Relaxed) {
            missing.push("the base is shutting down".to_owned());
        }
        for slot in self.shared.components.of_app(&self.app) {
            let health = slot.health();
            let tolerated = slot.wanted().is_none_or(|wanted| wanted.ignore_errors);
            if !health.ready && !tolerated {
                missing.push(format!("component {}: {}", slot.name(), health.reason));
            }
        }
        if !missing.is_empty() {
            let message = format!("dapr is not ready: [{}]", missing.join(" "));
            return Err(Refusal::internal("ERR_HEALTH_NOT_READY", message));
        }
        match query::first(call.head.uri.query(), "appid") {
            Some(wanted) if wanted != self.app.name.as_str() => {
                Err(Refusal::internal("ERR_HEALTH_APPID_NOT_MATCH", "dapr app-id does not match"))
            }
            Some(_) | None => Ok(empty()),
        }
    }

    /// Ready before the app is: SDKs wait for this when they start.
    pub(super) fn outbound_health(&self) -> Outcome {
        if self.shared.closing.load(Relaxed) {
            return Err(Refusal::internal("ERR_OUTBOUND_HEALTH_NOT_READY", "dapr outbound is not ready"));
        }
        Ok(empty())
    }

    pub(super) fn shutdown(&self) -> Outcome {
        (self.shared.settings.shutdown)(&self.app);
        Ok(empty())
    }
}
