//! How endpoints are judged: by what calls show, by asking them, and what follows for where calls go.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Caps per endpoint of a service, and when a failing one is left alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Breaker {
    /// After so many failures in a row the endpoint is left alone; 0 switches that off.
    pub consecutive_failures: u32,
    /// For how long.
    pub open_for: Duration,
    /// Whether calls are refused when all endpoints are left alone, as who asks for a breaker wants it. Otherwise they
    /// are called all the same: a service of one endpoint is not taken away by a few failures.
    pub refuses: bool,
    /// Whether an answer that is no success, of 400 and above, is a failure too, as it is to Dapr's breakers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub counts_answers: bool,
    /// Open connections of this base to one endpoint at most; each data-plane thread and calling app may have one in any
    /// case.
    pub max_connections: u32,
    /// Calls of this base that wait for a connection to one endpoint at most.
    pub max_pending: u32,
    /// Calls of this base under way to the whole service at most; `None` is no limit.
    pub max_requests: Option<u32>,
    /// After about this age a connection takes no further call; at most 12 hours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connection_age: Option<Duration>,
}

impl Default for Breaker {
    fn default() -> Breaker {
        Breaker {
            consecutive_failures: 5,
            open_for: Duration::from_secs(5),
            refuses: false,
            counts_answers: false,
            max_connections: 1024,
            max_pending: 1024,
            max_requests: None,
            max_connection_age: None,
        }
    }
}

/// How the endpoints of a service are judged, and what that changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Leaves endpoints alone that do worse than they should.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outliers: Option<Outliers>,
    /// Asks endpoints outside the mesh and processes whether they are well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<HealthCheck>,
    /// When fewer than this many of a hundred endpoints are well, all get calls; 0 is never.
    #[serde(default)]
    pub panic_percent: u32,
    /// How long a new endpoint takes to get its whole share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<Duration>,
    /// When fewer than this many of a hundred endpoints of a tier are well, some of its calls go to the next tier; 0 is
    /// the default, [`Health::SPILL_BELOW`].
    #[serde(default)]
    pub spill_below_percent: u32,
}

impl Health {
    /// When calls spill over unless something else is said.
    pub const SPILL_BELOW: u32 = 70;

    /// Whether nothing is said.
    pub fn is_default(&self) -> bool {
        *self == Health::default()
    }
}

/// When an endpoint is left alone for what its calls show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outliers {
    /// After so many answers of 500 and above in a row, broken connections among them; 0 is never.
    pub consecutive_5xx: u32,
    /// After so many 502, 503, 504 and broken connections in a row; 0 is never.
    pub consecutive_gateway: u32,
    /// When its share of good answers is far below the others'.
    pub success_rate: Option<SuccessRate>,
    /// When too many of its answers are failures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_percentage: Option<FailurePercentage>,
    /// How often shares are compared.
    pub interval: Duration,
    /// How long it is left alone the first time; each further time adds as much.
    pub ejection: Duration,
    /// The longest.
    pub max_ejection: Duration,
    /// Of a hundred endpoints, the most that are left alone at once; one always may be.
    pub max_ejected_percent: u32,
}

/// When a share of good answers is too far below the others'.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuccessRate {
    /// Below the mean by so many hundredths of the standard deviation.
    pub deviations_hundredths: u32,
    /// With fewer endpoints that had enough calls nothing is compared.
    pub min_endpoints: u32,
    /// Calls in an interval that are enough.
    pub min_calls: u32,
}

/// When too many of an endpoint's answers are failures, whatever the others do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailurePercentage {
    /// From so many failures of a hundred calls on.
    pub threshold: u32,
    /// With fewer endpoints that had enough calls nothing is looked at.
    pub min_endpoints: u32,
    /// Calls in an interval that are enough.
    pub min_calls: u32,
}

/// How endpoints are asked whether they are well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// The question.
    pub asks: Question,
    /// How often it is asked.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Good answers in a row until an endpoint counts as well again.
    pub healthy_after: u32,
    /// Bad answers in a row until it no longer does.
    pub unhealthy_after: u32,
    /// After so long without a call to the service nothing is asked.
    pub idle_after: Duration,
}

/// What an endpoint is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// A GET of this path; good are these statuses, from the first to the second.
    Http {
        /// The path.
        path: String,
        /// The host, if not the endpoint's name.
        host: Option<String>,
        /// The good statuses.
        statuses: (u16, u16),
    },
    /// gRPC's health protocol, for this service; empty for the whole server.
    Grpc {
        /// The service.
        service: String,
    },
    /// A connection.
    Tcp,
}
