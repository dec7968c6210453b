//! The API of jobs over HTTP. Fields may be written as in JSON or as in Protocol Buffers (`dueTime`, `due_time`).

use std::time::Duration;

use dodai_capability::jobs::{Data, FailurePolicy, Job, Which};
use dodai_core::call::Call;
use http::StatusCode;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::object::Object;
use super::reply::{Outcome, empty, encoded};
use crate::api::Api;
use crate::api::refusal::Refusal;
use crate::jobs::as_json;

#[derive(Deserialize)]
struct Asked<'a> {
    name: Option<String>,
    schedule: Option<String>,
    #[serde(alias = "dueTime")]
    due_time: Option<String>,
    ttl: Option<String>,
    repeats: Option<u32>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    overwrite: Option<bool>,
    #[serde(alias = "failurePolicy")]
    failure_policy: Option<AskedPolicy>,
}

/// One that says nothing is the default.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct AskedPolicy {
    drop: Option<Nothing>,
    constant: Option<Constant>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum Policy {
    Drop(Nothing),
    Constant(Constant),
}

#[derive(Deserialize, Serialize, Default)]
struct Nothing {}

#[derive(Deserialize, Serialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Constant {
    #[serde(deserialize_with = "interval", skip_serializing_if = "Option::is_none")]
    interval: Option<String>,
    #[serde(alias = "max_retries", skip_serializing_if = "Option::is_none")]
    max_retries: Option<u32>,
}

/// Seconds with `s` behind them, as JSON of Protocol Buffers has durations.
fn interval<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    match text.as_deref().map(seconds) {
        Some(None) => Err(serde::de::Error::custom("interval is no duration; write one such as 3s or 0.5s")),
        Some(Some(_)) | None => Ok(text),
    }
}

fn seconds(text: &str) -> Option<Duration> {
    let seconds: f64 = text.strip_suffix('s')?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// A job as JSON of Protocol Buffers.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    schedule: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repeats: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    due_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
    failure_policy: Policy,
}

impl AskedPolicy {
    fn read(self) -> Result<FailurePolicy, Refusal> {
        match (self.drop, self.constant) {
            (None, None) => Ok(FailurePolicy::default()),
            (Some(Nothing {}), None) => Ok(FailurePolicy::Drop),
            (None, Some(Constant { interval, max_retries })) => {
                let interval = interval.as_deref().and_then(seconds).unwrap_or_default();
                Ok(FailurePolicy::Constant { interval, retries: max_retries })
            }
            (Some(_), Some(_)) => {
                let both = "failurePolicy is drop or constant, not both";
                Err(Refusal::malformed(&serde::de::Error::custom(both)))
            }
        }
    }
}

impl From<FailurePolicy> for Policy {
    fn from(policy: FailurePolicy) -> Policy {
        match policy {
            FailurePolicy::Drop => Policy::Drop(Nothing {}),
            FailurePolicy::Constant { interval, retries } => {
                let interval = Some(format!("{}s", interval.as_secs_f64()));
                Policy::Constant(Constant { interval, max_retries: retries })
            }
        }
    }
}

impl Api {
    pub(super) async fn http_schedule_job(&self, name: &str, call: Call) -> Outcome {
        let body = self.body(call.body).await?;
        let Object(asked): Object<Asked<'_>> =
            serde_json::from_slice(&body).map_err(|error| Refusal::malformed(&error))?;
        if asked.name.is_some_and(|name| !name.is_empty()) {
            let message = "Set the job name in the url only";
            return Err(self.job_refusal("DAPR_SCHEDULER_JOB_NAME", StatusCode::BAD_REQUEST, message));
        }
        // What cannot be held as a value could not be told again, nor brought to an app that speaks gRPC.
        if let Some(data) = asked.data {
            serde_json::from_str::<Value>(data.get()).map_err(|error| Refusal::malformed(&error))?;
        }
        let job = Job {
            name: name.to_owned(),
            schedule: asked.schedule,
            due_time: asked.due_time,
            ttl: asked.ttl,
            repeats: asked.repeats,
            data: asked.data.map(|data| Data::Json(data.get().to_owned())),
            policy: asked.failure_policy.unwrap_or_default().read()?,
        };
        self.schedule_job(job, asked.overwrite.unwrap_or(false)).await?;
        Ok(empty())
    }

    pub(super) async fn http_get_job(&self, name: &str) -> Outcome {
        let Job { name, schedule, due_time, ttl, repeats, data, policy } = self.get_job(name).await?;
        let data = data.as_ref().map(as_json);
        let failure_policy = policy.into();
        encoded(StatusCode::OK, &Told { name, schedule, repeats, due_time, ttl, data, failure_policy })
    }

    pub(super) async fn http_delete_job(&self, name: String) -> Outcome {
        self.delete_jobs(Which::Name(name)).await?;
        Ok(empty())
    }
}
