//! What the API tells about itself: metadata, health, and the wish to shut down.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use dodai_core::id::AppId;
use dodai_core::snapshot::{Endpoints, Filter, Snapshot};
use serde::Serialize;

use super::Api;
use super::refusal::Refusal;
use crate::delivery::Described;
use crate::settings::{AppHealth, DAPR_LEVEL, Settings};

/// Metadata entries an app may add, and the longest of their values in bytes.
const MAX_EXTENDED: usize = 128;
const MAX_EXTENDED_VALUE: usize = 64 << 10;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metadata {
    pub id: String,
    pub runtime_version: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub components: Vec<Registered>,
    pub extended: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subscriptions: Vec<Described>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub http_endpoints: Vec<Named>,
    pub app_connection_properties: Connection,
    pub actor_runtime: ActorRuntime,
    pub workflows: Workflows,
}

#[derive(Serialize)]
pub(super) struct Named {
    pub name: String,
}

/// Workers of workflows, of which there are none; `enabledFeatures` and `scheduler` are left out by daprd too when it
/// has nothing to say there.
#[derive(Serialize)]
pub(super) struct Workflows {}

/// A host outside that apps call by name.
pub(crate) struct Endpoint {
    id: AppId,
    /// The apps that may; none: all of the namespace.
    scopes: Vec<AppId>,
}

/// What control makes of HTTPEndpoints: services with a revision of this name.
const OUTSIDE: &str = "outside";

/// The hosts outside that a snapshot names.
pub(crate) fn endpoints(snapshot: &Snapshot) -> Vec<Endpoint> {
    let of_outside = |one: &&Endpoints| one.list.iter().any(|one| one.revision.as_str() == OUTSIDE);
    let ids = snapshot.endpoints().filter(of_outside).map(|one| &one.service);
    let services: BTreeMap<_, _> = snapshot.services().map(|service| (&service.id, service)).collect();
    let scopes = |id| {
        let filters =
            services.get(id).into_iter().flat_map(|service| &service.rules).flat_map(|rule| &rule.filters);
        let access = filters.filter_map(|filter| {
            let Filter::Access(access) = filter else { return None };
            Some(access.rules.iter().flat_map(|rule| rule.apps.iter().cloned()))
        });
        access.flatten().collect()
    };
    ids.map(|id| Endpoint { id: id.owner.clone(), scopes: scopes(id) }).collect()
}

#[derive(Serialize)]
pub(super) struct Registered {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub version: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<&'static str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Connection {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    pub protocol: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel_address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrency: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Health {
    pub health_check_path: String,
    pub health_probe_interval: String,
    pub health_probe_timeout: String,
    pub health_threshold: u32,
}

impl Health {
    fn of(known: &AppHealth) -> Health {
        Health {
            health_check_path: known.path.clone(),
            health_probe_interval: spelled(known.interval),
            health_probe_timeout: spelled(known.timeout),
            health_threshold: known.threshold,
        }
    }
}

/// A duration as daprd writes it: `500ms`, `1.5s`, `1m30s`, `1h0m0s`.
fn spelled(span: Duration) -> String {
    let seconds = span.as_secs();
    if seconds == 0 && !span.is_zero() {
        return format!("{}ms", span.as_secs_f64() * 1000.0);
    }
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let rest = span.as_secs_f64() - Duration::from_secs(seconds / 60 * 60).as_secs_f64();
    match (hours, minutes) {
        (0, 0) => format!("{rest}s"),
        (0, minutes) => format!("{minutes}m{rest}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{rest}s"),
    }
}

impl Connection {
    fn of(settings: &Settings) -> Connection {
        let Some(known) = &settings.connection else {
            let protocol = "http".to_owned();
            return Connection {
                port: None,
                protocol,
                channel_address: None,
                max_concurrency: None,
                health: None,
            };
        };
        Connection {
            port: Some(known.port),
            protocol: known.protocol.clone(),
            channel_address: Some(known.address.clone()),
            max_concurrency: known.max_concurrency,
            health: known.health.as_ref().map(Health::of),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ActorRuntime {
    pub runtime_status: &'static str,
    pub host_ready: bool,
}

impl Api {
    /// What the metadata API tells of this app and its base.
    pub(super) fn metadata(&self) -> Metadata {
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
        let endpoints = self.shared.endpoints.load();
        let http_endpoints = endpoints.iter().filter(|one| {
            one.id.namespace == self.app.namespace
                && (one.scopes.is_empty() || one.scopes.contains(&self.app))
        });
        Metadata {
            id: self.app.name.to_string(),
            runtime_version: DAPR_LEVEL,
            components: components.collect(),
            extended,
            subscriptions: self.shared.deliveries.describe(&self.app),
            http_endpoints: http_endpoints.map(|one| Named { name: one.id.name.to_string() }).collect(),
            app_connection_properties: Connection::of(&self.shared.settings),
            actor_runtime: ActorRuntime { runtime_status: "DISABLED", host_ready: false },
            workflows: Workflows {},
        }
    }

    pub(super) fn set_metadata(&self, key: String, value: String) -> Result<(), Refusal> {
        let mut extended = self.extended.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = !extended.contains_key(&key);
        if value.len() > MAX_EXTENDED_VALUE || (is_new && extended.len() >= MAX_EXTENDED) {
            let message = format!(
                "invalid request: at most {MAX_EXTENDED} metadata entries of {MAX_EXTENDED_VALUE} bytes are kept"
            );
            return Err(Refusal::bad_request("ERR_BAD_REQUEST", message));
        }
        extended.insert(key, value);
        Ok(())
    }

    /// Ready once every component that the app depends on has come up.
    pub(super) fn health(&self) -> Result<(), Refusal> {
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
        Ok(())
    }

    /// Ready before the app is: SDKs wait for this when they start.
    pub(super) fn outbound_health(&self) -> Result<(), Refusal> {
        if self.shared.closing.load(Relaxed) {
            return Err(Refusal::internal("ERR_OUTBOUND_HEALTH_NOT_READY", "dapr outbound is not ready"));
        }
        Ok(())
    }

    pub(super) fn shutdown(&self) {
        (self.shared.settings.shutdown)(&self.app);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_spelled_as_daprd_does() {
        for (millis, expect) in [
            (0, "0s"),
            (500, "500ms"),
            (5000, "5s"),
            (1500, "1.5s"),
            (90_000, "1m30s"),
            (3_600_000, "1h0m0s"),
        ] {
            assert_eq!(spelled(Duration::from_millis(millis)), expect);
        }
    }
}
