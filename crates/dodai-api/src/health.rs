//! How instances are judged: by their answers to calls, by asking them, and what follows for where calls go.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::quantity::TimeSpan;

/// How instances are judged, beside the circuit breaker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Health {
    /// Leaves instances alone whose answers are worse than they should be. Default: no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outliers: Option<Outliers>,
    /// Asks external apps, and processes on the caller's base, whether they are well. Other bases tell by the
    /// `readiness` of what they run. Default: no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<HealthCheck>,
    /// When fewer instances than this share are well, percent, calls go to all of them: too few would only be buried.
    /// Default: 50 with `outliers` or `check`. 0: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100))]
    pub panic_threshold: Option<u32>,
}

/// When an instance is left alone for its answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Outliers {
    /// After so many answers of 500 and above in a row, with broken connections. Default: 5. 0: never.
    #[serde(default = "five")]
    pub consecutive_5xx: u32,
    /// After so many 502, 503, 504 and broken connections in a row. Default: 5. 0: never.
    #[serde(default = "five")]
    pub consecutive_gateway_errors: u32,
    /// When its share of good answers is far below the others'. Default: no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub success_rate: Option<SuccessRate>,
    /// When too many of its answers are failures, whatever the others do. Default: no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_percentage: Option<FailurePercentage>,
    /// How often shares are compared, and bad behaviour is forgotten a little. Default: `10s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<TimeSpan>,
    /// How long it is left alone the first time; each further time is longer by as much. Default: `30s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ejection_time: Option<TimeSpan>,
    /// The longest. Default: `5m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_ejection_time: Option<TimeSpan>,
    /// The most of the instances that are left alone at once, percent; one always may be. Default: 10.
    #[serde(default = "ten")]
    #[schemars(range(max = 100))]
    pub max_ejection_percent: u32,
}

fn five() -> u32 {
    5
}

fn ten() -> u32 {
    10
}

/// When too many of the answers are failures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FailurePercentage {
    /// From this share of failures on, percent. Default: 85.
    #[serde(default = "eighty_five")]
    #[schemars(range(min = 1, max = 100))]
    pub threshold: u32,
    /// With fewer instances that had enough calls nothing is looked at. Default: 5.
    #[serde(default = "five")]
    #[schemars(range(min = 1))]
    pub min_instances: u32,
    /// Calls in one interval that are enough. Default: 50.
    #[serde(default = "fifty")]
    #[schemars(range(min = 1))]
    pub min_calls: u32,
}

fn eighty_five() -> u32 {
    85
}

fn fifty() -> u32 {
    50
}

/// When a share of good answers is far below the others'.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SuccessRate {
    /// Below the mean of all by so many standard deviations. Default: 1.9.
    #[serde(default = "deviations")]
    #[schemars(with = "f64", range(min = 0.1, max = 10.0))]
    pub deviations: Decimal,
    /// With fewer instances that had enough calls nothing is compared. Default: 5.
    #[serde(default = "five")]
    #[schemars(range(min = 2))]
    pub min_instances: u32,
    /// Calls in one interval that are enough. Default: 100.
    #[serde(default = "hundred")]
    #[schemars(range(min = 1))]
    pub min_calls: u32,
}

fn deviations() -> Decimal {
    Decimal(190)
}

fn hundred() -> u32 {
    100
}

/// A number with two digits behind the point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Decimal(
    /// Hundredths.
    pub u32,
);

impl Serialize for Decimal {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(f64::from(self.0) / 100.0)
    }
}

impl<'de> Deserialize<'de> for Decimal {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the range is checked before"
    )]
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Decimal, D::Error> {
        let number = f64::deserialize(deserializer)?;
        if !(0.0..=1_000_000.0).contains(&number) {
            return Err(serde::de::Error::custom(format!(
                "{number} is out of range; write a number such as 1.9"
            )));
        }
        Ok(Decimal((number * 100.0).round() as u32))
    }
}

/// How instances are asked whether they are well: exactly one of `http`, `grpc` and `tcp`. A service that nobody calls
/// is not asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HealthCheck {
    /// By a GET.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpCheck>,
    /// By gRPC's health protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GrpcCheck>,
    /// By connecting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpCheck>,
    /// How often. Default: `10s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<TimeSpan>,
    /// How long an answer may take. Default: `1s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<TimeSpan>,
    /// Good answers in a row until an instance counts as well again. Default: 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub healthy_threshold: Option<u32>,
    /// Bad answers in a row until it no longer does. Default: 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub unhealthy_threshold: Option<u32>,
    /// After so long without a call from a base, that base asks no more. Default: `5m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_after: Option<TimeSpan>,
}

/// A question by HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpCheck {
    /// The path. Default: `/`.
    #[serde(default = "root")]
    pub path: String,
    /// The host that is named. Default: the address that is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The lowest good status. Default: 200.
    #[serde(default = "lowest")]
    #[schemars(range(min = 200, max = 599))]
    pub from_status: u16,
    /// The highest. Default: 399.
    #[serde(default = "highest")]
    #[schemars(range(min = 200, max = 599))]
    pub to_status: u16,
}

fn root() -> String {
    "/".to_owned()
}

fn lowest() -> u16 {
    200
}

fn highest() -> u16 {
    399
}

/// A question by gRPC's health protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcCheck {
    /// The service that is asked about. Default: the whole server.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub service: String,
}

/// A question by connecting.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TcpCheck {}
