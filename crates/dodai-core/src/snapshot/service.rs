//! Services and their endpoints: what can be called and where it is.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::balancing::{Balance, Sticky};
use super::health::{Breaker, Health};
use super::resilience::Concurrency;
use super::routing::{CallPolicy, Filter, Labels, Protocol, ProxyVersion, Rule};
use super::workload::Value;
use crate::id::{BaseId, InstanceId, Name, RevisionId, ServiceId};

/// Something that can be called: one port of an app, or of a service that selects across apps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// Its id.
    pub id: ServiceId,
    /// What is spoken.
    pub protocol: Protocol,
    /// The port number callers may use beside the name (`http://catalog:8080`).
    pub port: Option<u16>,
    /// The port of the instances behind it; `None` if that has the name of this one.
    #[serde(default)]
    pub target: Option<Name>,
    /// Whether this is the service that a bare app name means.
    pub default: bool,
    /// Rules for calls to this service from inside the mesh; none means straight to the endpoints.
    pub rules: Vec<Rule>,
    /// The shares of the revisions when a backend names none; empty means all endpoints alike.
    pub traffic: Vec<(RevisionId, u32)>,
    /// Shares of revisions that are named and that nobody has: calls of these shares are refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub absent: Vec<(RevisionId, u32)>,
    /// How one endpoint is picked.
    pub balance: Balance,
    /// Whether clients stay where they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sticky: Option<Sticky>,
    /// Limits and retries of callers.
    pub policy: CallPolicy,
    /// When to stop sending.
    pub breaker: Breaker,
    /// How many calls it bears at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<Concurrency>,
    /// How endpoints are judged, beyond that.
    #[serde(default, skip_serializing_if = "Health::is_default")]
    pub health: Health,
    /// Whether callers that do not speak mutual TLS are taken at the port for other bases, as nobody.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub plain: bool,
    /// Whether it is said, and not only the default, that callers must speak mutual TLS: then those that interception
    /// brings must too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub strict: bool,
    /// What is checked on arrival, by the base that runs the instance; for endpoints outside the mesh, and where
    /// headers are edited, by the base that sends the call.
    pub inbound: Vec<Filter>,
}

impl Service {
    /// An HTTP service that an app's name alone means, with nothing changed from the defaults.
    pub fn new(id: ServiceId) -> Service {
        Service {
            id,
            protocol: Protocol::Http,
            port: None,
            target: None,
            default: true,
            rules: Vec::new(),
            traffic: Vec::new(),
            absent: Vec::new(),
            balance: Balance::default(),
            sticky: None,
            policy: CallPolicy::default(),
            breaker: Breaker::default(),
            concurrency: None,
            health: Health::default(),
            plain: false,
            strict: false,
            inbound: Vec::new(),
        }
    }
}

/// Where a service is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Endpoints {
    /// The service.
    pub service: ServiceId,
    /// Its endpoints that should get traffic.
    pub list: Vec<Endpoint>,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The revision it runs.
    pub revision: RevisionId,
    /// How to reach it.
    pub target: Target,
    /// Its share beside the others; at least 1.
    pub weight: u32,
    /// Calls go to the smallest tier as long as it is well.
    #[serde(default, skip_serializing_if = "is_nearest")]
    pub tier: u8,
    /// The labels that rules ask about.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: Labels,
    /// Whether each address of the name that it has is an endpoint of its own, looked up again and again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub each_address: bool,
}

impl Endpoint {
    /// One like the others.
    pub fn new(revision: RevisionId, target: Target) -> Endpoint {
        Endpoint { revision, target, weight: 1, tier: 0, labels: Labels::new(), each_address: false }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_nearest(tier: &u8) -> bool {
    *tier == 0
}

/// How an endpoint is reached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// An instance on a base: in-process or loopback if it is this one, else by mutual TLS.
    Instance {
        /// The instance.
        instance: InstanceId,
        /// The base that runs it.
        base: BaseId,
        /// That base's mesh address; `None` while it is not known.
        mesh: Option<SocketAddr>,
    },
    /// A plain address outside the mesh: `host:port`, resolved when connecting.
    Address(String),
    /// The same, spoken to in TLS.
    Tls {
        /// `host:port`.
        address: String,
        /// Whom it must prove to be, and who we are.
        tls: ClientTls,
    },
    /// Either of the last two, told ahead in the PROXY protocol for whom each connection is.
    Announced {
        /// `host:port`.
        address: String,
        /// Whom it must prove to be, if it is spoken to in TLS.
        tls: Option<ClientTls>,
        /// How it is told.
        version: ProxyVersion,
    },
}

impl Target {
    /// Its `host:port`, if that is outside the mesh.
    pub fn address(&self) -> Option<&str> {
        match self {
            Target::Instance { .. } => None,
            Target::Address(address) | Target::Tls { address, .. } | Target::Announced { address, .. } => {
                Some(address)
            }
        }
    }
}

/// TLS towards an address outside the mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClientTls {
    /// The name that its certificate must be for; `None` for the host of the address.
    pub server_name: Option<String>,
    /// The roots it may come from; `None` for those the machine trusts.
    pub roots: Option<Pem>,
    /// Our certificate and its key, if it wants one.
    pub certificate: Option<(Pem, Pem)>,
}

/// Where a certificate or key is, as PEM.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pem {
    /// In a file, read again when it changes. Relative paths begin at the base's data folder.
    File(String),
    /// Here, or where a base finds it before it uses it.
    Value(Value),
}
