//! What the sidecar tells of itself, over gRPC.

use dodai_proto::apps::dapr::proto::runtime::v1::actor_runtime::ActorRuntimeStatus;
use dodai_proto::apps::dapr::proto::runtime::v1::{
    ActorRuntime, AppConnectionHealthProperties, AppConnectionProperties, GetMetadataResponse,
    MetadataHttpEndpoint, MetadataWorkflows, PubsubSubscription, PubsubSubscriptionRule,
    PubsubSubscriptionRules, PubsubSubscriptionType, RegisteredComponents,
};

use crate::api::about::{Connection, Metadata, Registered};
use crate::delivery::{Described, Source};

pub(super) fn told(metadata: Metadata) -> GetMetadataResponse {
    let endpoints = metadata.http_endpoints.into_iter();
    GetMetadataResponse {
        id: metadata.id,
        registered_components: metadata.components.into_iter().map(component).collect(),
        extended_metadata: metadata.extended,
        subscriptions: metadata.subscriptions.into_iter().map(subscription).collect(),
        http_endpoints: endpoints.map(|one| MetadataHttpEndpoint { name: one.name }).collect(),
        app_connection_properties: Some(connection(metadata.app_connection_properties)),
        runtime_version: metadata.runtime_version.to_owned(),
        actor_runtime: Some(ActorRuntime {
            runtime_status: ActorRuntimeStatus::Disabled.into(),
            host_ready: metadata.actor_runtime.host_ready,
            ..ActorRuntime::default()
        }),
        workflows: Some(MetadataWorkflows::default()),
        ..GetMetadataResponse::default()
    }
}

fn component(component: Registered) -> RegisteredComponents {
    let Registered { name, kind, version, capabilities } = component;
    let capabilities = capabilities.into_iter().map(str::to_owned).collect();
    RegisteredComponents { name, r#type: kind, version, capabilities }
}

fn connection(connection: Connection) -> AppConnectionProperties {
    let number = |count: Option<u32>| count.and_then(|count| i32::try_from(count).ok()).unwrap_or_default();
    AppConnectionProperties {
        port: connection.port.map_or(0, i32::from),
        protocol: connection.protocol,
        channel_address: connection.channel_address.unwrap_or_default(),
        max_concurrency: number(connection.max_concurrency),
        health: connection.health.map(|health| AppConnectionHealthProperties {
            health_check_path: health.health_check_path,
            health_probe_interval: health.health_probe_interval,
            health_probe_timeout: health.health_probe_timeout,
            health_threshold: number(Some(health.health_threshold)),
        }),
    }
}

fn subscription(one: Described) -> PubsubSubscription {
    let rule = |(condition, path)| PubsubSubscriptionRule { r#match: condition, path };
    let kind = match one.source {
        Source::Declared => PubsubSubscriptionType::Declarative,
        Source::Told => PubsubSubscriptionType::Programmatic,
        Source::Stream => PubsubSubscriptionType::Streaming,
    };
    PubsubSubscription {
        pubsub_name: one.pubsubname,
        topic: one.topic,
        metadata: one.metadata,
        rules: Some(PubsubSubscriptionRules {
            rules: one.rules.into_iter().map(|rule| (rule.condition, rule.path)).map(rule).collect(),
        }),
        dead_letter_topic: one.dead_letter_topic,
        r#type: kind.into(),
    }
}
