//! Listeners, routes and what they lead to: what matches a call and where it can go.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::capture::Capture;
use super::guard::{Access, Authorizer, Cors, Jwt};
use super::rate::RateLimit;
use super::resilience::{Fault, Hedge, Priority, RetryPolicy};
use super::workload::Setting;
use crate::id::{AppId, RevisionId, ServiceId};

/// What is spoken on a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// HTTP/1.1, and HTTP/2 where the client starts with its preface.
    #[default]
    Http,
    /// HTTP/2 only (prior knowledge without TLS).
    Http2,
    /// gRPC: HTTP/2 with its own statuses.
    Grpc,
    /// Bytes that are not parsed.
    Tcp,
    /// Datagrams that are not parsed.
    Udp,
}

/// A socket this base listens on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Listener {
    /// Unique on the base: `gateway/default/shop/http`, `outbound/default/catalog`, ...
    pub name: String,
    /// Where to bind. Port 0 lets the kernel choose; the base reports what it got.
    pub address: SocketAddr,
    /// What is spoken.
    pub protocol: Protocol,
    /// What connections here are for.
    pub role: Role,
    /// What happens to TLS; `None` for a port without.
    pub tls: Option<Tls>,
    /// Whether a proxy in front says whose the connections are; `None` where nobody is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ProxyProtocol>,
    /// The proxies in front that may say by `X-Forwarded-For` whose calls they bring: addresses, or networks like
    /// `10.0.0.0/8`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trusted_proxies: Vec<String>,
    /// Which calls get an `X-Request-Id`; `None` for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<RequestId>,
    /// After about this age a connection that speaks HTTP ends with the calls under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connection_age: Option<Duration>,
}

/// Which calls get an `X-Request-Id` of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestId {
    /// All but those that a trusted proxy has given one.
    Generate,
    /// Those that have none.
    Keep,
}

impl Listener {
    /// A listener without TLS that nobody speaks for.
    pub fn new(name: impl Into<String>, address: SocketAddr, protocol: Protocol, role: Role) -> Listener {
        Listener {
            name: name.into(),
            address,
            protocol,
            role,
            tls: None,
            proxy: None,
            trusted_proxies: Vec::new(),
            request_id: None,
            max_connection_age: None,
        }
    }
}

/// The PROXY protocol ahead of a listener's connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyProtocol {
    /// Whether connections without its header are refused.
    pub required: bool,
    /// The proxies that may say it: addresses, or networks like `10.0.0.0/8`.
    pub trusted: Vec<String>,
}

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// What connections on a listener are for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Users come in; calls are matched against the named [`Routes`].
    Gateway {
        /// The name of the [`Routes`].
        routes: String,
    },
    /// One local app's egress: the authority names the service.
    Outbound {
        /// The app whose calls come here.
        app: AppId,
    },
    /// One local app's way to one service that it declared; the listener's protocol says what it carries.
    Dependency {
        /// The app whose connections come here.
        app: AppId,
        /// Where they go.
        service: ServiceId,
    },
    /// Other bases come in with mutual TLS; SNI or authority names the service.
    Mesh,
    /// The runtime API of one local app.
    Api {
        /// The app whose sidecar this is.
        app: AppId,
    },
    /// Connections whose clients meant another address: the kernel led them here, and knows which one it was.
    Captured(Capture),
}

/// What happens to TLS on a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tls {
    /// For TLS that ends here. The name the client wants chooses; the first answers those who name none.
    pub certificates: Vec<Certificate>,
    /// What happens by the name the client wants: the first that matches decides. Without a match TLS ends
    /// here, if there is a certificate.
    pub names: Vec<TlsName>,
    /// Whether clients must speak TLS 1.3 where it ends here; else 1.2 will do.
    #[serde(default)]
    pub only_newest: bool,
    /// Whose certificates clients show where it ends here; none: none is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clients: Option<ClientAuthorities>,
}

/// Whose certificates clients show. Relative paths begin at the base's data folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientAuthorities {
    /// PEM files with the certificates of authorities. Read again when they change.
    pub files: Vec<String>,
    /// PEM file with their revocation lists.
    pub revoked_file: Option<String>,
    /// Whether clients without a certificate get in.
    pub is_optional: bool,
}

/// What happens to TLS of clients that want a certain host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsName {
    /// An exact name, `*.suffix`, or `*` for all, also for clients that name none.
    pub host: String,
    /// Whether TLS goes through to the endpoint; the name is then matched as a host.
    pub passes: bool,
}

/// Where a certificate is. Relative paths begin at the base's data folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// PEM file with the chain, leaf first. Read again when it changes.
    pub chain_file: String,
    /// PEM file with the private key.
    pub key_file: String,
}

/// What the calls of a gateway listener are matched against: virtual hosts by longest match.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Routes {
    /// The name that listeners refer to.
    pub name: String,
    /// The hosts.
    pub hosts: Vec<VirtualHost>,
    /// Whether callers may say who makes a call, because they alone can be here.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub trusted: bool,
}

/// Rules for some host names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VirtualHost {
    /// Exact names, `*.suffix`, or `*` for all.
    pub names: Vec<String>,
    /// Rules in order of precedence: the first that matches wins.
    pub rules: Vec<Rule>,
}

/// One rule: what it matches, what is done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    /// The route's name in metrics and logs: `default/shop/0`.
    pub name: String,
    /// Any of these; empty matches everything.
    pub matches: Vec<Match>,
    /// Changes to head and flow, in order.
    pub filters: Vec<Filter>,
    /// What happens then.
    pub action: Action,
    /// Limits and retries; fields not set fall back to the service's.
    pub policy: CallPolicy,
}

impl Rule {
    /// A rule that sends every call to one service as it is.
    pub fn forward(name: impl Into<String>, service: ServiceId) -> Rule {
        Rule {
            name: name.into(),
            matches: Vec::new(),
            filters: Vec::new(),
            action: Action::Forward(vec![Backend::new(service)]),
            policy: CallPolicy::default(),
        }
    }
}

/// What a call must look like; all that is set must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Match {
    /// The path.
    pub path: Option<PathMatch>,
    /// The method token.
    pub method: Option<String>,
    /// Headers.
    pub headers: Vec<ValueMatch>,
    /// Query parameters.
    pub query: Vec<ValueMatch>,
    /// Cookies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cookies: Vec<ValueMatch>,
    /// Who calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceMatch>,
    /// An expression over `request` and `source`; one without an answer does not match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cel: Option<String>,
}

/// Where a call comes from. What comes from outside the mesh matches none of these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceMatch {
    /// One of these apps.
    Apps(Vec<AppId>),
    /// Any app of this namespace.
    Namespace(String),
}

/// How a path is matched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathMatch {
    /// The whole path.
    Exact(String),
    /// Whole segments from the start: `/a` matches `/a` and `/a/b`, not `/ab`.
    Prefix(String),
    /// A regular expression over the whole path.
    Regex(String),
    /// Segment by segment.
    Template(Vec<TemplatePart>),
}

/// What one segment of a path must be, or all that are left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TemplatePart {
    /// This text.
    Literal(String),
    /// Anything that ends so and is more than that.
    One(String),
    /// Whatever is left of the path, slashes and all, if it ends so; the last part.
    Rest(String),
}

/// How a named value is matched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValueMatch {
    /// The name of the header or parameter.
    pub name: String,
    /// What its value must be.
    pub value: ValuePattern,
}

/// What a value must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ValuePattern {
    /// Exactly this.
    Exact(String),
    /// A regular expression over the whole value.
    Regex(String),
    /// Anything, as long as it is there.
    Present,
}

/// A filter of a rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// Changes request headers.
    RequestHeaders(HeaderEdits),
    /// Changes response headers.
    ResponseHeaders(HeaderEdits),
    /// Changes host and path before forwarding.
    Rewrite {
        /// The new authority.
        host: Option<String>,
        /// The new path.
        path: Option<PathRewrite>,
    },
    /// Copies requests elsewhere; the copies' answers are dropped.
    Mirror {
        /// Where to.
        to: Backend,
        /// Of 10,000 requests, how many.
        per_ten_thousand: u16,
    },
    /// How many calls are taken: each of these limits must let a call pass, and one that any refuses is taken by none.
    RateLimits(Vec<RateLimit>),
    /// Who may call; a deny rule that matches wins over an allow rule.
    Access(Access),
    /// Which pages of other origins may call.
    Cors(Cors),
    /// Whose tokens count.
    Jwt(Jwt),
    /// Another service decides who may call.
    Authorizer(Authorizer),
    /// Faults made on purpose.
    Fault(Fault),
    /// A filter that is only tried: what it would refuse is counted and told, and goes on.
    Trial {
        /// The policy it is of, `namespace/name`.
        policy: String,
        /// The filter: a guard or a limit.
        filter: Box<Filter>,
    },
}

/// Header changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderEdits {
    /// Replace or add.
    pub set: Vec<(String, String)>,
    /// Add beside what is there.
    pub add: Vec<(String, String)>,
    /// Remove.
    pub remove: Vec<String>,
    /// Replace or add, with values that say something of the call.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub made: Vec<MadeHeader>,
    /// Replace or add, with values that live elsewhere: a base reads them and puts them into `set`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<Setting>,
}

/// A header whose value says something of the call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeHeader {
    /// Its name.
    pub name: String,
    /// Its value with operators as formats of access logs have them; one that is empty for a call removes the header.
    pub value: String,
    /// Whether it is added beside what is there.
    pub adds: bool,
}

/// How a path is rewritten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathRewrite {
    /// The whole path.
    Full(String),
    /// The prefix that the rule matched.
    Prefix(String),
    /// Everything that a regular expression finds.
    Regex {
        /// The expression.
        pattern: String,
        /// What takes the place of what it finds.
        substitution: Vec<SubstitutionPart>,
    },
}

/// What stands at one place of a substitution.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SubstitutionPart {
    /// This text.
    Text(String),
    /// What the group of this number found; 0 is everything. Nothing, if the group took no part.
    Group(usize),
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Sends the call on, to one of these by weight.
    Forward(Vec<Backend>),
    /// Answers with a redirect; parts not set are the request's.
    Redirect {
        /// `http` or `https`.
        scheme: Option<String>,
        /// The host.
        host: Option<String>,
        /// The port.
        port: Option<u16>,
        /// The path.
        path: Option<PathRewrite>,
        /// 301, 302, 303, 307 or 308.
        status: u16,
    },
    /// Answers at once.
    Respond {
        /// The status.
        status: u16,
        /// The body, as text.
        body: String,
    },
}

/// One target of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// The service.
    pub service: ServiceId,
    /// Only this revision, if set.
    pub revision: Option<RevisionId>,
    /// The share among the rule's backends; 0 gets nothing.
    pub weight: u32,
    /// Only endpoints with these labels, if set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Arc<Labels>>,
}

/// Labels: names to values.
pub type Labels = BTreeMap<String, String>;

impl Backend {
    /// All of a service.
    pub fn new(service: ServiceId) -> Backend {
        Backend { service, revision: None, weight: 1, labels: None }
    }
}

/// Limits and retries for one call. `None` means: what the next wider scope says, at last the default table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CallPolicy {
    /// From the request head to the response head, all tries together.
    pub timeout: Option<Duration>,
    /// One try.
    pub try_timeout: Option<Duration>,
    /// From the request head to the last byte of the answer, all tries together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_timeout: Option<Duration>,
    /// How long a stream may stand still.
    pub idle_timeout: Option<Duration>,
    /// Connecting to an endpoint.
    pub connect_timeout: Option<Duration>,
    /// Retries.
    pub retry: Option<RetryPolicy>,
    /// Further tries beside one that is slow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hedge: Option<Hedge>,
    /// The largest request body in bytes.
    pub max_body: Option<u64>,
    /// How much calls matter when too many come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// Of 10,000 traces that start here, how many are sampled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample_per_ten_thousand: Option<u16>,
    /// How calls are logged; `None` for as the base does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_log: Option<AccessLog>,
}

/// How calls are logged, in the words of the operator. What is not said is as the base has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessLog {
    /// How lines look.
    pub format: Option<String>,
    /// Filters of which one lets a call through; none: those of the base.
    pub filters: Vec<String>,
    /// Request headers that lines carry, in small letters.
    pub request_headers: Vec<String>,
    /// Response headers that lines carry, in small letters.
    pub response_headers: Vec<String>,
}
