//! Jobs as apps ask for them: what is refused, and in whose words.

use dodai_capability::Fault;
use dodai_capability::jobs::{Error, Invalid, Job, Which};
use http::StatusCode;
use prost::Message as _;

use super::Api;
use super::refusal::Refusal;
use crate::jobs::as_any;

const SCHEDULE: &str = "DAPR_SCHEDULER_SCHEDULE_JOB";
const GET: &str = "DAPR_SCHEDULER_GET_JOB";
const LIST: &str = "DAPR_SCHEDULER_LIST_JOBS";
const DELETE: &str = "DAPR_SCHEDULER_DELETE_JOB";

impl Api {
    /// Keeps a job.
    pub(super) async fn schedule_job(&self, job: Job, overwrite: bool) -> Result<(), Refusal> {
        if job.name.trim().is_empty() {
            return Err(self.unnamed_job());
        }
        if job.schedule.is_none() && job.due_time.is_none() {
            return Err(self.job_refusal(
                "DAPR_SCHEDULER_SCHEDULE_EMPTY",
                StatusCode::BAD_REQUEST,
                "Schedule is empty",
            ));
        }
        let failed = |status, why: &dyn std::fmt::Display| {
            self.job_refusal(SCHEDULE, status, format!("failed to schedule job due to: {why}"))
        };
        let id = uuid::Uuid::new_v4().to_string();
        let started = job.start(id, self.shared.jobs.now_ms());
        let record = started.map_err(|invalid: Invalid| failed(StatusCode::BAD_REQUEST, &invalid))?;
        let most = self.shared.settings.max_body;
        if self.shared.jobs.speaks_grpc(&self.app)
            && let Some(length) = record.job.data.as_ref().map(|data| as_any(data).encoded_len())
            && length > most
        {
            let why = format!("its data have {length} bytes as a message, at most {most} reach the app");
            return Err(failed(StatusCode::BAD_REQUEST, &why));
        }
        self.shared.jobs.put(&self.app, record, overwrite).await.map_err(|error| {
            let status = match &error {
                Error::Exists(_) => StatusCode::CONFLICT,
                Error::Full(_) | Error::TooLarge(_) => StatusCode::TOO_MANY_REQUESTS,
                Error::Fault(_) => StatusCode::INTERNAL_SERVER_ERROR,
            };
            failed(status, &error)
        })
    }

    /// A job as it was asked for.
    pub(super) async fn get_job(&self, name: &str) -> Result<Job, Refusal> {
        if name.is_empty() {
            return Err(self.unnamed_job());
        }
        let failed = |why: String| {
            let message = format!("failed to get job due to: {why}");
            self.job_refusal(GET, StatusCode::INTERNAL_SERVER_ERROR, message)
        };
        let found = self.shared.jobs.get(&self.app, name).await;
        let found = found.map_err(|fault: Fault| failed(fault.to_string()))?;
        found.map(|record| record.job).ok_or_else(|| failed(format!("job not found: {name}")))
    }

    /// All jobs of the app by name.
    pub(super) async fn list_jobs(&self) -> Result<Vec<Job>, Refusal> {
        let listed = self.shared.jobs.list(&self.app).await.map_err(|error| self.unlisted_jobs(&error))?;
        Ok(listed.into_iter().map(|record| record.job).collect())
    }

    /// Why jobs were not listed.
    pub(super) fn unlisted_jobs(&self, error: &Error) -> Refusal {
        let status = match error {
            Error::TooLarge(_) | Error::Full(_) => StatusCode::TOO_MANY_REQUESTS,
            Error::Exists(_) | Error::Fault(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        self.job_refusal(LIST, status, format!("failed to list jobs due to: {error}"))
    }

    /// Forgets jobs; one that is not there is none to forget.
    pub(super) async fn delete_jobs(&self, which: Which) -> Result<(), Refusal> {
        if which == Which::Name(String::new()) {
            return Err(self.unnamed_job());
        }
        self.shared.jobs.delete(&self.app, which).await.map_err(|fault| {
            let message = format!("failed to delete job due to: {fault}");
            self.job_refusal(DELETE, StatusCode::INTERNAL_SERVER_ERROR, message)
        })
    }

    pub(super) fn job_refusal(
        &self,
        code: &'static str,
        status: StatusCode,
        message: impl Into<String>,
    ) -> Refusal {
        let about = [("appID", self.app.name.as_str()), ("namespace", self.app.namespace.as_str())];
        Refusal::new(status, code, message).with_info(code, &about)
    }

    fn unnamed_job(&self) -> Refusal {
        self.job_refusal("DAPR_SCHEDULER_JOB_NAME_EMPTY", StatusCode::BAD_REQUEST, "Name is empty")
    }
}
