//! Configuration: how the Dapr API behaves for the apps that name the document.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::metadata::{Metadata, Status};
use crate::quantity::TimeSpan;

/// A Dapr configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Configuration {
    /// Identity and labels.
    pub metadata: Metadata,
    /// The settings.
    #[serde(default)]
    pub spec: ConfigurationSpec,
    /// What was observed. Written by control, ignored when a user writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
}

macro_rules! section {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty $(= $rename:literal)?,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "camelCase")]
        pub struct $name {
            $(
                $(#[$field_doc])*
                #[serde(default, skip_serializing_if = "is_default" $(, rename = $rename)?)]
                pub $field: $type,
            )*
        }
    };
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

section! {
    /// The settings. Each is optional; a section that is absent leaves Dapr's default.
    ConfigurationSpec {
        /// Middleware on calls to the app's sidecar API.
        http_pipeline: Option<Pipeline>,
        /// Middleware on calls the app makes to other apps.
        app_http_pipeline: Option<Pipeline>,
        /// Distributed tracing.
        tracing: Option<Tracing>,
        /// Metrics, older spelling of `metrics`.
        metric: Option<Metrics>,
        /// Metrics.
        metrics: Option<Metrics>,
        /// Mutual TLS.
        mtls: Option<Mtls>,
        /// Which secrets apps may read.
        secrets: Option<Secrets>,
        /// Who may invoke the app.
        access_control: Option<AccessControl>,
        /// How apps are found.
        name_resolution: Option<NameResolution>,
        /// Preview features.
        features: Vec<Feature>,
        /// Which APIs are served.
        api: Option<ApiRules>,
        /// Which components may not be loaded.
        components: Option<ComponentsSpec>,
        /// Logging.
        logging: Option<Logging>,
        /// WASM middleware and bindings.
        wasm: Option<Wasm>,
        /// Workflows.
        workflow: Option<WorkflowSettings>,
    }
}

section! {
    /// A chain of middleware.
    Pipeline {
        /// Its links, in order.
        handlers: Vec<Handler>,
    }
}

section! {
    /// One middleware.
    Handler {
        /// The component's name.
        name: String,
        /// The component's type: `middleware.http.ratelimit`, ...
        kind: String = "type",
        /// The component's version.
        version: Option<String>,
        /// Which calls it applies to. Default: all.
        selector: Option<Selector>,
    }
}

section! {
    /// Which calls a middleware applies to.
    Selector {
        /// Fields that must match.
        fields: Vec<SelectorField>,
    }
}

section! {
    /// A field that must match.
    SelectorField {
        /// The field.
        field: String,
        /// Its value.
        value: String,
    }
}

section! {
    /// Distributed tracing.
    Tracing {
        /// The share of calls that are traced, 0 to 1, as text.
        sampling_rate: Option<String>,
        /// Whether traces are written to the log as well.
        stdout: bool,
        /// An OpenTelemetry collector.
        otel: Option<Otel>,
        /// A Zipkin collector.
        zipkin: Option<Zipkin>,
    }
}

section! {
    /// An OpenTelemetry collector.
    Otel {
        /// `http` or `grpc`.
        protocol: Option<String>,
        /// Where it listens, `host:port`.
        endpoint_address: Option<String>,
        /// Whether TLS is spoken. Default: true.
        is_secure: Option<bool>,
        /// Headers put on exports.
        headers: Vec<OtelHeader>,
        /// The time of one export.
        timeout: Option<TimeSpan>,
    }
}

section! {
    /// A header put on exports.
    OtelHeader {
        /// Its name.
        name: String,
        /// Its value.
        value: Option<Value>,
        /// Its value from a secret.
        secret_key_ref: Option<super::SecretKeyRef>,
    }
}

section! {
    /// A Zipkin collector.
    Zipkin {
        /// Its URL.
        endpoint_address: Option<String>,
    }
}

section! {
    /// Metrics.
    Metrics {
        /// Whether metrics are served. Default: true.
        enabled: Option<bool>,
        /// Rewrites of labels.
        rules: Vec<MetricRule>,
        /// Bounds of latency buckets, milliseconds.
        latency_distribution_buckets: Vec<u32>,
        /// HTTP metrics.
        http: Option<MetricsHttp>,
        /// Whether error codes are counted.
        record_error_codes: Option<bool>,
    }
}

section! {
    /// HTTP metrics.
    MetricsHttp {
        /// Whether paths become labels.
        increased_cardinality: Option<bool>,
        /// Patterns that paths are counted by.
        path_matching: Vec<String>,
        /// Whether methods are left out.
        exclude_verbs: Option<bool>,
    }
}

section! {
    /// Rewrites of the labels of one metric.
    MetricRule {
        /// The metric.
        name: String,
        /// Its labels.
        labels: Vec<MetricRuleLabel>,
    }
}

section! {
    /// Rewrites of one label.
    MetricRuleLabel {
        /// The label.
        name: String,
        /// New value to expression.
        regex: std::collections::BTreeMap<String, String>,
    }
}

section! {
    /// Mutual TLS.
    Mtls {
        /// Whether it is on. Default: true; the mesh always speaks it between hosts.
        enabled: Option<bool>,
        /// How long a certificate lasts.
        workload_cert_ttl: Option<TimeSpan> = "workloadCertTTL",
        /// How wrong clocks may be.
        allowed_clock_skew: Option<TimeSpan>,
        /// Where certificates are asked for. Read for compatibility.
        sentry_address: Option<String>,
        /// The trust domain of the control plane. Read for compatibility.
        control_plane_trust_domain: Option<String>,
    }
}

section! {
    /// Which secrets apps may read.
    Secrets {
        /// By secret store.
        scopes: Vec<SecretScope>,
    }
}

section! {
    /// Which secrets of one store apps may read.
    SecretScope {
        /// The secret store component.
        store_name: String,
        /// `allow` or `deny`. Default: `allow`.
        default_access: Option<String>,
        /// Secrets that may be read, and no others.
        allowed_secrets: Vec<String>,
        /// Secrets that may not be read.
        denied_secrets: Vec<String>,
    }
}

section! {
    /// Who may invoke the app.
    AccessControl {
        /// `allow` or `deny`. Default: `allow` without policies, `deny` with.
        default_action: Option<String>,
        /// The trust domain of this app. Default: `public`.
        trust_domain: Option<String>,
        /// By calling app.
        policies: Vec<AppAccess>,
    }
}

section! {
    /// What one calling app may invoke.
    AppAccess {
        /// The calling app's id.
        app_id: String,
        /// `allow` or `deny`, for operations that are not listed.
        default_action: Option<String>,
        /// Its trust domain. Default: `public`.
        trust_domain: Option<String>,
        /// Its namespace. Default: `default`.
        namespace: Option<String>,
        /// By operation.
        operations: Vec<OperationAccess>,
    }
}

section! {
    /// Whether one operation may be invoked.
    OperationAccess {
        /// The path, with `*` and `**`.
        name: String,
        /// Methods. Default: all.
        http_verb: Vec<String>,
        /// `allow` or `deny`.
        action: String,
    }
}

section! {
    /// How apps are found. The mesh finds its own apps whatever is written here.
    NameResolution {
        /// The component.
        component: Option<String>,
        /// Its version.
        version: Option<String>,
        /// Its settings.
        configuration: Option<Value>,
    }
}

section! {
    /// A preview feature.
    Feature {
        /// Its name.
        name: String,
        /// Whether it is on.
        enabled: bool,
    }
}

section! {
    /// Which APIs are served.
    ApiRules {
        /// Only these. Default: all.
        allowed: Vec<ApiRule>,
        /// All but these.
        denied: Vec<ApiRule>,
    }
}

section! {
    /// One API.
    ApiRule {
        /// Its name: `state`, `publish`, ...
        name: String,
        /// Its version: `v1`, `v1.0`, `v1.0-alpha1`.
        version: Option<String>,
        /// `http` or `grpc`. Default: both.
        protocol: Option<String>,
    }
}

section! {
    /// Which components may not be loaded.
    ComponentsSpec {
        /// Types, each with an optional `/version`.
        deny: Vec<String>,
    }
}

impl ComponentsSpec {
    /// Whether components of this type and version may not be used.
    pub fn denies(&self, kind: &str, version: &str) -> bool {
        self.deny.iter().any(|rule| {
            let (of, only) = rule.split_once('/').unwrap_or((rule, ""));
            of.eq_ignore_ascii_case(kind) && (only.is_empty() || only.eq_ignore_ascii_case(version))
        })
    }
}

section! {
    /// Logging.
    Logging {
        /// Of API calls.
        api_logging: Option<ApiLogging>,
    }
}

section! {
    /// Logging of API calls.
    ApiLogging {
        /// Whether they are logged.
        enabled: Option<bool>,
        /// Whether paths are logged as patterns.
        obfuscate_urls: Option<bool> = "obfuscateURLs",
        /// Whether health checks are left out.
        omit_health_checks: Option<bool>,
    }
}

section! {
    /// WASM middleware and bindings.
    Wasm {
        /// Whether clocks and randomness are withheld.
        strict_sandbox: Option<bool>,
    }
}

section! {
    /// Workflows.
    WorkflowSettings {
        /// Workflows one sidecar runs at once. Default: no limit.
        max_concurrent_workflow_invocations: Option<u32>,
        /// Activities one sidecar runs at once. Default: no limit.
        max_concurrent_activity_invocations: Option<u32>,
    }
}
