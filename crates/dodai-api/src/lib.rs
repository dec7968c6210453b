//! Every document a user writes: types, JSON schema, validation with remedies.
//!
//! Pure: bytes in, documents and problems out. [`read`] takes a file, [`read_all`] a folder, [`validate_set`] looks at
//! documents together. Nothing here opens a file or a socket, and nothing of ours is below it.

mod app;
mod authorizer;
mod balancing;
mod base;
mod cors;
pub mod dapr;
mod diff;
mod document;
mod fault;
mod folder;
mod gateway;
mod health;
mod identity;
mod interception;
mod jwt;
mod metadata;
mod name;
mod overload;
mod policy;
mod quantity;
mod rate_limit;
mod read;
mod revision;
mod rewrite;
mod route;
mod run_file;
mod schema;
mod service;
mod template;
mod text;
mod validate;
mod workload;

pub use app::{
    AppService, AppSpec, AppStatus, Call, ConfigUse, DaprApp, DaprProtocol, EnvVar, Exec, HttpGet, Limits,
    MTLS_LABEL, MutualTls, Placement, Probe, Probes, Protocol, RevisionChoice, RevisionSpec, RevisionState,
    RevisionTemplate, Run, Scale, StoreRef, TcpSocket, TrafficShare,
};
pub use authorizer::{Authorizer, AuthorizerBackend, AuthorizerProtocol};
pub use balancing::{Algorithm, HashOn, HashedPart, LoadBalancing, Locality, SameSite, Sticky};
pub use base::{BaseSpec, BaseStatus, Capacity};
pub use cors::Cors;
pub use diff::{Change, diff};
pub use document::{
    API_VERSION, App, Base, Document, DocumentKey, Gateway, Kind, Namespace, Policy, Resource, Revision,
    Route, Service,
};
pub use fault::{Fault, FaultAbort, FaultDelay, FaultThrottle};
pub use folder::{MANIFEST, Project, has_own_kinds, is_document_path, mentions_us, read_all};
pub use gateway::{
    CertificateRef, FrontendValidation, FrontendValidationMode, GatewaySpec, IdentityHeaders, Listener,
    ListenerProtocol, ListenerTls, ProxyProtocol, ProxyProtocolMode, ProxyProtocolVersion, RequestId,
    TlsMode, TlsVersion,
};
pub use health::{
    Decimal, FailurePercentage, GrpcCheck, Health, HealthCheck, HttpCheck, Outliers, SuccessRate, TcpCheck,
};
pub use identity::{CertificatePart, certificate_parts, identity_parts};
pub use interception::{
    INBOUND_PORT, InterceptedCaller, InterceptedInbound, InterceptedOutbound, Interception, OUTBOUND_PORT,
};
pub use jwt::{ClaimMatch, ClaimToHeader, Jwt, JwtHeader, JwtIssuer};
pub use metadata::{Condition, Metadata, Status, Truth};
pub use name::{Name, ObjectName, RevisionId};
pub use overload::{Concurrency, Priority};
pub use policy::{
    ACCESS_NAMES, Access, AccessAction, AccessRule, AccessSource, CircuitBreaker, Connection, Hedge,
    PolicyAccessLog, PolicyHeaders, PolicyRetry, PolicySpec, PolicyTimeouts, PolicyTracing, RetryCondition,
    TargetKind, TargetRef,
};
pub use quantity::{ByteSize, Destination, MilliCpu, Port, SocketAddress, TimeSpan, Weight};
pub use rate_limit::{RateLimit, RateLimitKey, RateLimitRedis, RateLimitScope, RateLimitSource, RedisTls};
pub use read::{Code, Located, MAX_DOCUMENT_BYTES, MAX_FILE_BYTES, Problem, Read, Severity, Source, read};
pub use revision::{canonical_json, revision_id};
pub use rewrite::{PathModifier, PathModifierKind, RegexRewrite, Substitution, SubstitutionPart};
pub use route::{
    BackendKind, BackendRef, DirectResponse, EXPRESSION_NAMES, Filter, FilterKind, GrpcMatch, HeaderModifier,
    HeaderValue, Match, ParentKind, ParentRef, PathMatch, PathMatchKind, RequestMirror, RequestRedirect,
    RouteSpec, Rule, RuleRetry, RuleTimeouts, Scheme, SourceMatch, UrlRewrite, ValueMatch, ValueMatchKind,
};
pub use run_file::{RUN_FILE, RunFile, RunSettings, is_run_file};
pub use schema::{combined_schema, schema, schemas, tidy};
pub use service::{ServicePort, ServiceSelector, ServiceSpec};
pub use template::{Segment, Template};
pub use text::Invalid;
pub use validate::{Beside, unknown_drivers, validate, validate_set};
pub use workload::{
    Build, External, ExternalTls, Isolation, Logs, Module, ModuleLimits, Process, Resolve, Restart,
    RestartBackoff, RestartPolicy, Signal, Stop, Workload,
};
