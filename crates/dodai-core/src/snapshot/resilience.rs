//! How calls are tried, and tested: conditions of retries, faults made on purpose.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::routing::ValueMatch;
use crate::failure::Kind;

/// What a failed call is made again for. All that is given counts together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryOn {
    /// There was no connection.
    ConnectFailure,
    /// The endpoint refused the stream without acting on it.
    RefusedStream,
    /// The connection broke before the head of an answer.
    Reset,
    /// One try took too long.
    Timeout,
    /// 502, 503 or 504.
    GatewayError,
    /// Any status from 500.
    ServerError,
    /// One of the policy's `statuses`.
    Statuses,
    /// This gRPC status, where the answer is that and nothing else. Whoever names it knows that the method may be called
    /// twice.
    Grpc(u8),
}

impl RetryOn {
    /// Whether a failure of ours is of this sort.
    pub fn covers(self, kind: Kind) -> bool {
        let unreached = [Kind::Connect, Kind::Tls, Kind::NoEndpoint, Kind::QueueFull];
        match self {
            RetryOn::ConnectFailure => unreached.contains(&kind),
            RetryOn::RefusedStream => matches!(kind, Kind::Refused | Kind::Draining),
            RetryOn::Reset => matches!(kind, Kind::Reset | Kind::Stale | Kind::Protocol),
            RetryOn::Timeout => kind == Kind::Timeout,
            RetryOn::GatewayError => (502..=504).contains(&kind.http_status()),
            RetryOn::ServerError => kind.http_status() >= 500,
            RetryOn::Statuses => false,
            RetryOn::Grpc(status) => kind.grpc_status() == status,
        }
    }

    /// Whether an answer of this status is of this sort; `listed` are the policy's own.
    pub fn covers_status(self, status: u16, listed: &[u16]) -> bool {
        match self {
            RetryOn::GatewayError => (502..=504).contains(&status),
            RetryOn::ServerError => status >= 500,
            RetryOn::Statuses => listed.contains(&status),
            RetryOn::ConnectFailure
            | RetryOn::RefusedStream
            | RetryOn::Reset
            | RetryOn::Timeout
            | RetryOn::Grpc(_) => false,
        }
    }
}

/// When and how often a call is tried again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// Tries after the first.
    pub attempts: u32,
    /// Response statuses that are tried again (idempotent methods only).
    pub statuses: Vec<u16>,
    /// What else is tried again, and nothing beside it; `None` is every failure where that is safe, and `statuses`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<Vec<RetryOn>>,
    /// The wait before the first retry; doubles, with jitter, unless it is `constant`.
    pub backoff: Duration,
    /// Whether every wait is just `backoff`.
    #[serde(default)]
    pub constant: bool,
    /// The longest wait where waits grow; `None` means the default, 5 s.
    #[serde(default)]
    pub max_backoff: Option<Duration>,
    /// Retries may add at most this share of the calls, in percent.
    pub budget_percent: u32,
    /// Retries per second that are always allowed.
    pub min_per_second: u32,
}

impl RetryPolicy {
    /// The longest wait where nothing else is said.
    pub const LONGEST: Duration = Duration::from_secs(5);

    /// Whether a failure of ours is one that is tried again, where that is safe.
    pub fn covers(&self, kind: Kind) -> bool {
        self.on.as_ref().is_none_or(|on| on.iter().any(|on| on.covers(kind)))
    }

    /// Whether an answer of this status is one that is tried again, where that is safe.
    pub fn covers_status(&self, status: u16) -> bool {
        match &self.on {
            Some(on) => on.iter().any(|on| on.covers_status(status, &self.statuses)),
            None => self.statuses.contains(&status),
        }
    }

    /// Whether an answer that is nothing but this gRPC status is tried again.
    pub fn covers_grpc(&self, status: u8) -> bool {
        self.on.as_ref().is_some_and(|on| on.contains(&RetryOn::Grpc(status)))
    }

    /// The longest wait, also where an endpoint asks for one.
    pub fn longest(&self) -> Duration {
        self.max_backoff.unwrap_or(Self::LONGEST)
    }

    /// The wait after `retries` retries, before jitter.
    pub fn pause(&self, retries: u32) -> Duration {
        if self.constant {
            return self.backoff;
        }
        self.backoff.saturating_mul(1 << retries.min(16)).min(self.longest())
    }
}

/// How a call gets a further try beside one that is slow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hedge {
    /// How long a try may take first; `None` is what 95 of 100 answers of the service keep.
    pub delay: Option<Duration>,
    /// Further tries at most, each after the same delay.
    pub attempts: u32,
    /// Whether that holds for calls of any method; otherwise only for those that are idempotent by their method.
    #[serde(default)]
    pub any_method: bool,
}

/// How many calls to a service may be under way from one base.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Concurrency {
    /// The most.
    pub limit: Option<u32>,
    /// Whether it is found by how quick answers come, up to `limit`.
    pub adaptive: bool,
    /// The request header that says how much a call matters.
    pub priority_header: Option<String>,
}

/// How much calls matter when too many come: less goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Shed first.
    Low,
    /// Like most.
    Normal,
    /// Shed last.
    High,
}

/// Faults made on purpose. Shares are of 10,000 calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Calls that wait so long first.
    pub delay: Option<(Duration, u16)>,
    /// Calls that are answered so at once.
    pub abort: Option<(FaultAbort, u16)>,
    /// Calls whose connection or stream is cut.
    pub reset: Option<u16>,
    /// Calls whose answer comes at most so fast, in bytes a second.
    pub throttle: Option<(u64, u16)>,
    /// Only calls with all of these headers.
    pub headers: Vec<ValueMatch>,
}

/// What a call is answered with at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultAbort {
    /// An HTTP status.
    Http(u16),
    /// A gRPC status, for callers of gRPC; others get 503.
    Grpc(u8),
}
