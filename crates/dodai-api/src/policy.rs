//! Policy: limits, retries, breaking, balancing and access for what it targets.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::authorizer::Authorizer;
use crate::balancing::LoadBalancing;
use crate::cors::Cors;
use crate::fault::Fault;
use crate::health::Health;
use crate::jwt::{ClaimMatch, Jwt};
use crate::name::Name;
use crate::overload::{Concurrency, Priority};
use crate::quantity::{ByteSize, TimeSpan};
use crate::rate_limit::RateLimit;
use crate::route::{HeaderModifier, ValueMatch};

/// What is wanted of a policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicySpec {
    /// What it applies to, in the policy's namespace; at least one.
    pub target_refs: Vec<TargetRef>,
    /// Bounds on waiting. Default: those of the base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<PolicyTimeouts>,
    /// When a failed call is made again. Default: that of the base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<PolicyRetry>,
    /// When a call that is slow is made a second time beside. Default: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hedge: Option<Hedge>,
    /// When calls are refused to spare what they go to. Default: that of the base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<CircuitBreaker>,
    /// Bounds on connections to instances, for App and Service. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<Connection>,
    /// How an instance is chosen. Default: `least_latency`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancing: Option<LoadBalancing>,
    /// How instances are judged, beside the circuit breaker. Default: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// Who may call. What holds for an app does so whichever Service leads to it, beside what holds for that
    /// Service. Default: every app of the mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
    /// How many calls are taken: each of these limits must let a call pass, and one that any refuses is taken by none.
    /// Default: no limit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub rate_limits: Vec<RateLimit>,
    /// The largest body of a request; more is answered with 413. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_request_body: Option<ByteSize>,
    /// Changes of headers. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<PolicyHeaders>,
    /// Which pages of other origins may call, for Gateway and Route. Default: what the app says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cors: Option<Cors>,
    /// Whose tokens count. What holds for an app is asked where its instances are, of every caller. Default: none is
    /// asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwt: Option<Jwt>,
    /// A service that decides who may call, after `jwt` and `access`. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ext_authz: Option<Authorizer>,
    /// Faults made on purpose. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// How many calls may be under way at once, for App and Service. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<Concurrency>,
    /// How much calls matter where `concurrency` sheds some, for Gateway and Route; callers may say less by its header,
    /// not more. Default: `normal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// Which calls are traced, for Gateway and Route. Default: what the base samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracing: Option<PolicyTracing>,
    /// Which calls the access log has and how its lines look. What holds for an app or service does so on both sides of a
    /// call, where nothing is said of the route or gateway. Default: what the base logs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_log: Option<PolicyAccessLog>,
    /// Whether `access`, `rateLimits`, `jwt` and `extAuthz` are only tried: what they would refuse is counted and logged, and
    /// let through. Stands beside the policies that hold. Default: `false`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// What a policy applies to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetRef {
    /// The kind of the target.
    pub kind: TargetKind,
    /// The target's name.
    pub name: Name,
    /// One part of it: a service of an app, a port of a service, a listener of a gateway, a rule of a route.
    /// Default: all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section_name: Option<Name>,
}

/// The kinds a policy applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum TargetKind {
    /// Calls to an app, also through a Service that selects it. Where a Service selects several apps, only
    /// `access` of each of them holds.
    App,
    /// Calls to a service.
    Service,
    /// Calls that match a route.
    Route,
    /// Calls that enter at a gateway.
    Gateway,
}

/// Which calls are traced. A caller that has decided is always followed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyTracing {
    /// Of a hundred traces that start here, how many are sampled.
    #[schemars(range(min = 0, max = 100))]
    pub sample_percent: f64,
}

/// Which calls the access log has and how its lines look. What is not said is as the flags of the base say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyAccessLog {
    /// `json`, `text`, `envoy`, or a format string such as `%START_TIME% %RESPONSE_CODE%`. Default: that of the base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// Which calls are logged: conditions joined by `&&`, such as `status>=400`; one of the filters is enough. `none` logs
    /// nothing. Default: those of the base.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<String>,
    /// Request headers that JSON lines carry. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub request_headers: Vec<String>,
    /// Response headers that JSON lines carry. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub response_headers: Vec<String>,
}

/// Bounds on waiting.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyTimeouts {
    /// From the call's arrival to the head of its answer, all tries together. Default: `60s`. `0s`: no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<TimeSpan>,
    /// From the call's arrival to the last byte of its answer, bodies and all tries together. What takes longer is cut; a
    /// WebSocket, or a connection taken over in another way, only counts until it is open. Default: no bound. `0s`: no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<TimeSpan>,
    /// Time a stream may be silent in one direction. Default: `60s`. `0s`: no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<TimeSpan>,
    /// Time to connect. Default: `5s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect: Option<TimeSpan>,
}

/// When a failed call is made again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyRetry {
    /// Tries after the first. Default: 1. 0: none.
    #[serde(default = "attempts")]
    #[schemars(range(max = 10))]
    pub attempts: u32,
    /// Time of each try. Default: what is left of `timeouts.request`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_try: Option<TimeSpan>,
    /// Retries may be at most this share of calls, percent. Default: 20.
    #[serde(default = "budget_percent")]
    #[schemars(range(max = 1000))]
    pub budget_percent: u32,
    /// Retries per second that are allowed whatever the share. Default: 10.
    #[serde(default = "min_retries")]
    pub min_retries_per_second: u32,
    /// Status codes that count as failures. Default: 502, 503 and 504.
    #[serde(default = "retry_codes")]
    pub codes: Vec<u16>,
    /// The shortest wait before a retry, unless the answer asks in `Retry-After` for more, up to `5s`. Default: `25ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<TimeSpan>,
    /// What a call is made again for, and nothing beside it. Default: whatever kept it from the app, or ended it where its
    /// method is idempotent, and `codes`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub on: Vec<RetryCondition>,
}

/// What a call is made again for. The statuses of gRPC count where the answer is that and nothing else, whatever the
/// method: who names one knows that it may be called twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RetryCondition {
    /// There was no connection.
    ConnectFailure,
    /// The app refused the stream without acting on it.
    RefusedStream,
    /// The connection broke before the head of an answer.
    Reset,
    /// A try took longer than `perTry`.
    Timeout,
    /// 502, 503 or 504.
    GatewayError,
    /// Any status from 500.
    #[serde(rename = "5xx")]
    ServerError,
    /// One of `codes`.
    RetriableStatusCodes,
    /// gRPC status 1.
    Cancelled,
    /// gRPC status 4.
    DeadlineExceeded,
    /// gRPC status 8.
    ResourceExhausted,
    /// gRPC status 13.
    Internal,
    /// gRPC status 14.
    Unavailable,
}

impl std::fmt::Display for RetryCondition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            RetryCondition::ConnectFailure => "connect-failure",
            RetryCondition::RefusedStream => "refused-stream",
            RetryCondition::Reset => "reset",
            RetryCondition::Timeout => "timeout",
            RetryCondition::GatewayError => "gateway-error",
            RetryCondition::ServerError => "5xx",
            RetryCondition::RetriableStatusCodes => "retriable-status-codes",
            RetryCondition::Cancelled => "cancelled",
            RetryCondition::DeadlineExceeded => "deadline-exceeded",
            RetryCondition::ResourceExhausted => "resource-exhausted",
            RetryCondition::Internal => "internal",
            RetryCondition::Unavailable => "unavailable",
        })
    }
}

/// When a call that is slow is made a second time beside, to another instance: the first good answer counts, and the other
/// try is cut. Such tries use up the budget of `retry`, and a body that is still on its way is not sent twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Hedge {
    /// How long a try may take before another is made beside it. Default: what 95 of 100 answers keep, as far as this base
    /// has seen them; none is made before 20 were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<TimeSpan>,
    /// Further tries at most, each `delay` after the one before. Default: 1.
    #[serde(default = "attempts")]
    #[schemars(range(min = 1, max = 4))]
    pub attempts: u32,
    /// Whether calls may be made twice whatever their method, as all of gRPC is POST. Default: `false`, only GET, HEAD,
    /// OPTIONS, TRACE, PUT and DELETE.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub any_method: bool,
}

fn attempts() -> u32 {
    1
}
fn budget_percent() -> u32 {
    20
}
fn min_retries() -> u32 {
    10
}
fn retry_codes() -> Vec<u16> {
    vec![502, 503, 504]
}

impl Default for PolicyRetry {
    fn default() -> Self {
        PolicyRetry {
            attempts: attempts(),
            per_try: None,
            budget_percent: budget_percent(),
            min_retries_per_second: min_retries(),
            codes: retry_codes(),
            backoff: None,
            on: Vec::new(),
        }
    }
}

/// When calls are refused to spare what they go to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CircuitBreaker {
    /// Failures of one instance in a row until it is left alone. Default: 5. 0: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consecutive_failures: Option<u32>,
    /// How long it is left alone. Default: `5s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_for: Option<TimeSpan>,
    /// Connections from one base to one instance. Each thread of its data plane (`--threads`) may have one of each calling
    /// app in any case. Default: 1024.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    /// Calls on one base that wait for a connection to one instance; more are shed. Default: 1024.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_pending: Option<u32>,
    /// Calls under way from one base to all instances; more are shed with 503. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<u32>,
}

/// Bounds on connections to instances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Connection {
    /// A connection that is about as old, a tenth less or more, takes no further call and ends with those under way, so
    /// that instances which came later behind the same address get some. From `10s` to `12h`.
    pub max_age: TimeSpan,
}

/// Who may call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Access {
    /// What happens to a call that no rule matches. Default: `deny`.
    #[serde(default = "deny")]
    pub default: AccessAction,
    /// Rules; a matching `deny` wins over a matching `allow`, whatever their order. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<AccessRule>,
}

fn deny() -> AccessAction {
    AccessAction::Deny
}

/// Whether a call is let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AccessAction {
    /// Let it through.
    Allow,
    /// Refuse it with 403.
    Deny,
}

/// One rule of access: it matches when everything given matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AccessRule {
    /// What happens to a call it matches.
    pub action: AccessAction,
    /// Who calls. Default: anyone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<AccessSource>,
    /// HTTP methods. Default: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// Paths: exact, or everything below one that ends in `/*`. Default: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    /// Hosts that are called, `*.example.com` for all below a domain. Default: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// Headers, all of which must match. Default: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<ValueMatch>,
    /// Claims of the call's token, all of which must match; needs `jwt` for the same target. Default: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<ClaimMatch>,
    /// Methods, none of which it may be. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_methods: Vec<String>,
    /// Paths, written as in `paths`, none of which it may be. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_paths: Vec<String>,
    /// Hosts, none of which it may be. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_hosts: Vec<String>,
    /// Headers, none of which may match. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_headers: Vec<ValueMatch>,
    /// Claims, none of which may match. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_claims: Vec<ClaimMatch>,
    /// A CEL expression over `request` and `source`, as in matches of a Route, and `claims` of the call's token. Where it has
    /// no answer for a call, a rule that allows does not match and one that denies does. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
}

/// The names that expressions in rules of access may use.
pub const ACCESS_NAMES: [&str; 3] = ["request", "source", "claims"];

/// Who calls: one of the apps, any app of one of the namespaces, or an app of one of the identities; and from where.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AccessSource {
    /// Apps: `name` in the policy's namespace, or `namespace/name`. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub apps: Vec<String>,
    /// Namespaces. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<Name>,
    /// SPIFFE ids: `spiffe://cluster.local/ns/shop/cart`, with one `*` in the namespace and one in the app. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub identities: Vec<String>,
    /// Networks that the client of a gateway must be in, `10.0.0.0/8` or one address; for Gateway and Route. Default: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// Certificates that the client of a gateway has shown (`frontendValidation`), one of which must match:
    /// `URI=spiffe://partner.example/*`, `DNS=*.partner.example`, `Subject=CN=shop,O=Partner` or `Hash=` with its SHA-256;
    /// one `*` stands for anything. For Gateway and Route. Default: any, or none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<String>,
    /// Apps, none of which it may be; a caller that is no app is none of them. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_apps: Vec<String>,
    /// Namespaces whose apps it may not be. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_namespaces: Vec<Name>,
    /// SPIFFE ids, none of which it may have. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_identities: Vec<String>,
    /// Networks that the client of a gateway must not be in; for Gateway and Route. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_addresses: Vec<String>,
}

/// Changes of headers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyHeaders {
    /// On calls. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<HeaderModifier>,
    /// On answers. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<HeaderModifier>,
}
