//! Documents of dapr.io, read as they are. Unknown keys are warnings, because documents written for daprd must keep
//! working; what is known is typed. Facts: the resource specs of the Dapr documentation, version 1.18.

mod component;
mod configuration;
mod http_endpoint;
mod resiliency;
mod subscription;

pub use component::{Component, ComponentAuth, ComponentSpec, MetadataItem, SecretKeyRef};
pub use configuration::{
    AccessControl, ApiLogging, ApiRule, ApiRules, AppAccess, ComponentsSpec, Configuration,
    ConfigurationSpec, Feature, Handler, Logging, MetricRule, MetricRuleLabel, Metrics, MetricsHttp, Mtls,
    NameResolution, OperationAccess, Otel, OtelHeader, Pipeline, SecretScope, Secrets, Selector,
    SelectorField, Tracing, Wasm, WorkflowSettings, Zipkin,
};
pub use http_endpoint::{ClientTls, HttpEndpoint, HttpEndpointSpec, TlsItem};
pub use resiliency::{
    ActorTarget, AppTarget, ComponentTarget, DaprCircuitBreaker, DaprRetry, Policies, PolicyNames,
    Resiliency, ResiliencySpec, RetryKind, RetryMatching, Targets, status_codes,
};
pub use subscription::{BulkSubscribe, Routes, RoutingRule, Subscription, SubscriptionSpec};
