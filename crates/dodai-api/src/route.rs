//! Route: where calls go, shaped like the Gateway API's HTTPRoute, with its precedence.
//!
//! Among rules that match, the winner has, in this order: an exact path (or a gRPC service and method), a template, a
//! regular expression, a prefix, of two alike the longer; a method match; the most header matches, query matches,
//! cookie matches; the narrower source; an expression; then the older route, the smaller `namespace/name`, the first
//! rule.

use std::collections::BTreeMap;

use dodai_log::line_format::LineFormat;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::app::RevisionChoice;
use crate::cors::Cors;
use crate::name::Name;
use crate::quantity::{Port, TimeSpan, Weight};
use crate::rewrite::PathModifier;

/// What is wanted of a route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteSpec {
    /// What the route hangs on: listeners of a gateway, or calls to a service within the mesh; at least one.
    pub parent_refs: Vec<ParentRef>,
    /// Hosts it answers for, `*.example.com` for all below a domain. Default: those of its parents.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hostnames: Vec<String>,
    /// Its rules; at least one. Under a `TCP` or `TLS` listener a rule has `backendRefs` only.
    pub rules: Vec<Rule>,
}

/// What a route hangs on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ParentRef {
    /// The parent's kind. Default: `Gateway`.
    #[serde(default)]
    pub kind: ParentKind,
    /// The parent's name.
    pub name: Name,
    /// The parent's namespace. Default: the route's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Name>,
    /// One listener of a gateway, or one port of a service, by name. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section_name: Option<Name>,
    /// Listeners or service ports with this number. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Port>,
}

/// The kinds a route hangs on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ParentKind {
    /// Calls that enter at a gateway.
    #[default]
    Gateway,
    /// Calls to a service from within the mesh.
    Service,
}

/// One rule: when a call matches, how it is changed, where it goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    /// The rule's name, unique in the route. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// The rule applies when one of these matches. Default: every call.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<Match>,
    /// Changes and answers, in order. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<Filter>,
    /// Where calls go, by weight. Default: none, which is right only with a redirect or a direct response.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backend_refs: Vec<BackendRef>,
    /// Bounds on waiting. Default: those of the policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<RuleTimeouts>,
    /// When a failed call is made again. Default: that of the policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RuleRetry>,
}

/// One match: everything given must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Match {
    /// The path. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathMatch>,
    /// The method, in capitals. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Headers, all of which must match. Default: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<ValueMatch>,
    /// Query parameters, all of which must match. Default: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub query_params: Vec<ValueMatch>,
    /// Cookies, all of which must match. Default: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cookies: Vec<ValueMatch>,
    /// A gRPC method: a `POST` to its path. Not together with `path` and `method`. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GrpcMatch>,
    /// Which app calls. What comes in from outside the mesh never matches. Default: anyone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceMatch>,
    /// A CEL expression over `request` (`method`, `path`, `host`, `headers`, `query`) and `source` (`app`,
    /// `namespace`). One that has no answer for a call does not match it. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cel: Option<String>,
}

/// The names that expressions in matches may use.
pub const EXPRESSION_NAMES: [&str; 2] = ["request", "source"];

/// A match of a gRPC method; without a field, any.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcMatch {
    /// The service with its package: `shop.v1.Catalog`. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The method: `GetProduct`. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
}

/// Which app calls: everything given must hold; at least one is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SourceMatch {
    /// This app: `name` in the route's namespace, or `namespace/name`. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// An app of this namespace. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Name>,
    /// An app with these labels. Default: any.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// A match of the path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PathMatch {
    /// How `value` is compared. Default: `PathPrefix`.
    #[serde(rename = "type", default)]
    pub kind: PathMatchKind,
    /// The path, prefix or expression. Default: `/`.
    #[serde(default = "root")]
    pub value: String,
}

fn root() -> String {
    "/".to_owned()
}

/// How a path is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PathMatchKind {
    /// The whole path, to the letter.
    Exact,
    /// The beginning of the path, by whole segments: `/a` matches `/a` and `/a/b`, not `/ab`.
    #[default]
    PathPrefix,
    /// A regular expression that matches the whole path.
    RegularExpression,
    /// Segment by segment, as Envoy's URI templates: `*` and `{name}` are one segment, `**` at the end all that are
    /// left: `/users/{id}/orders/**`.
    Template,
}

/// A match of a header, a query parameter or a cookie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ValueMatch {
    /// How `value` is compared. Default: `Exact`.
    #[serde(rename = "type", default)]
    pub kind: ValueMatchKind,
    /// The header's (whatever its case), parameter's or cookie's name.
    pub name: String,
    /// The value or expression; not given with `Present`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// How the value of a header, query parameter or cookie is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ValueMatchKind {
    /// To the letter.
    #[default]
    Exact,
    /// A regular expression that matches the whole value.
    RegularExpression,
    /// It is there, whatever its value.
    Present,
}

/// One change or answer: the block of the same name as `type` is given, and no other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Filter {
    /// What it does.
    #[serde(rename = "type")]
    pub kind: FilterKind,
    /// For `RequestHeaderModifier`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_header_modifier: Option<HeaderModifier>,
    /// For `ResponseHeaderModifier`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_header_modifier: Option<HeaderModifier>,
    /// For `RequestRedirect`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_redirect: Option<RequestRedirect>,
    /// For `URLRewrite`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url_rewrite: Option<UrlRewrite>,
    /// For `RequestMirror`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_mirror: Option<RequestMirror>,
    /// For `DirectResponse`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direct_response: Option<DirectResponse>,
    /// For `CORS`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cors: Option<Cors>,
}

/// What a filter does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FilterKind {
    /// Changes headers of the call.
    RequestHeaderModifier,
    /// Changes headers of the answer.
    ResponseHeaderModifier,
    /// Answers with a redirect.
    RequestRedirect,
    /// Changes host or path of the call.
    #[serde(rename = "URLRewrite")]
    UrlRewrite,
    /// Sends a copy of the call elsewhere and drops its answer.
    RequestMirror,
    /// Answers by itself.
    DirectResponse,
    /// Says which pages of other origins may call.
    #[serde(rename = "CORS")]
    Cors,
}

impl FilterKind {
    /// The key of the block that goes with this type.
    pub const fn block(self) -> &'static str {
        match self {
            FilterKind::RequestHeaderModifier => "requestHeaderModifier",
            FilterKind::ResponseHeaderModifier => "responseHeaderModifier",
            FilterKind::RequestRedirect => "requestRedirect",
            FilterKind::UrlRewrite => "urlRewrite",
            FilterKind::RequestMirror => "requestMirror",
            FilterKind::DirectResponse => "directResponse",
            FilterKind::Cors => "cors",
        }
    }
}

/// Changes of headers: first `remove`, then `set`, then `add`. A name stands in one of the three.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderModifier {
    /// Headers to set, replacing what is there. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<HeaderValue>,
    /// Headers to add beside what is there. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<HeaderValue>,
    /// Names of headers to remove. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
}

/// A header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderValue {
    /// Its name.
    pub name: String,
    /// Its value. It may say something of the call by operators of access logs, `%DOWNSTREAM_REMOTE_ADDRESS%` or
    /// `%REQ(X-User)%`; the sign itself is `%%`.
    pub value: String,
}

impl HeaderValue {
    /// The value, where it is the same for every call.
    pub fn plain(&self) -> Option<String> {
        LineFormat::parse_value(&self.value).ok()?.plain().map(str::to_owned)
    }
}

/// A redirect; what is not given stays as in the call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RequestRedirect {
    /// The scheme. Default: the call's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<Scheme>,
    /// The host. Default: the call's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The port. Default: the listener's, or the scheme's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Port>,
    /// The path. Default: the call's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathModifier>,
    /// 301, 302, 303, 307 or 308. Default: 302.
    #[serde(default = "found")]
    pub status_code: u16,
}

fn found() -> u16 {
    302
}

/// A scheme of a redirect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS.
    Https,
}

/// A change of host or path of the call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UrlRewrite {
    /// The new host. Default: as it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The new path. Default: as it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathModifier>,
}

/// A copy of the call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RequestMirror {
    /// Where the copy goes.
    pub backend_ref: BackendRef,
    /// The share of calls that is copied, percent. Default: 100.
    #[serde(default = "hundred")]
    #[schemars(range(max = 100))]
    pub percent: u32,
}

fn hundred() -> u32 {
    100
}

/// An answer made by the base itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DirectResponse {
    /// The status code, 200 to 599.
    #[schemars(range(min = 200, max = 599))]
    pub status_code: u16,
    /// The body, text, at most 64 KiB. Default: empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub body: String,
    /// Its type. Default: `text/plain; charset=utf-8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
}

/// Where calls go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendRef {
    /// The kind. Default: `Service`.
    #[serde(default)]
    pub kind: BackendKind,
    /// The name.
    pub name: Name,
    /// The namespace. Default: the route's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Name>,
    /// The port. Default: the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Port>,
    /// Its share of calls, relative to the sum of all. Default: 1.
    #[serde(default)]
    pub weight: Weight,
    /// Only instances with these labels: those of the app, and of the base an instance runs on; the app's win. Default:
    /// all.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// One revision of the app, whatever the app's own `traffic` says. Default: as `traffic` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<RevisionChoice>,
}

/// The kinds calls go to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BackendKind {
    /// A service; every app with services has one of its own name.
    #[default]
    Service,
    /// An app, whatever services select it.
    App,
}

/// Bounds on waiting.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RuleTimeouts {
    /// From the call's arrival to the head of its answer, all tries together. Default: the policy's. `0s`: no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<TimeSpan>,
    /// From the call's arrival to the last byte of its answer, bodies and all tries together. What takes longer is cut; a
    /// WebSocket, or a connection taken over in another way, only counts until it is open. Default: the policy's. `0s`: no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<TimeSpan>,
    /// As `request`, for each try. Default: the policy's. At most `request`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_request: Option<TimeSpan>,
}

/// When a failed call is made again. What it does not say is as a Policy for the route says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RuleRetry {
    /// Tries after the first.
    #[schemars(range(max = 10))]
    pub attempts: u32,
    /// Status codes that count as failures. Default: those of the Policy, else 502, 503 and 504.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub codes: Vec<u16>,
    /// The shortest wait before a retry. Default: that of the Policy, else `25ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<TimeSpan>,
}
