//! Jobs over gRPC.

use std::time::Duration;

use dodai_capability::jobs::{Data, Error, FailurePolicy, Job};
use dodai_proto::apps::dapr::proto::common::v1::job_failure_policy::Policy;
use dodai_proto::apps::dapr::proto::common::v1::{
    JobFailurePolicy, JobFailurePolicyConstant, JobFailurePolicyDrop,
};
use dodai_proto::apps::dapr::proto::runtime::v1::{self as proto, ScheduleJobRequest, ScheduleJobResponse};
use http::StatusCode;
use prost::encoding::message::encoded_len;

use crate::api::Api;
use crate::api::refusal::Refusal;
use crate::jobs::as_any;

/// A policy that says nothing is the default; an interval that is none or negative is no pause.
fn policy(given: Option<JobFailurePolicy>) -> FailurePolicy {
    match given.and_then(|given| given.policy) {
        None => FailurePolicy::default(),
        Some(Policy::Drop(JobFailurePolicyDrop {})) => FailurePolicy::Drop,
        Some(Policy::Constant(JobFailurePolicyConstant { interval, max_retries })) => {
            let interval = interval.and_then(|interval| Duration::try_from(interval).ok());
            FailurePolicy::Constant { interval: interval.unwrap_or_default(), retries: max_retries }
        }
    }
}

fn told_policy(policy: FailurePolicy) -> JobFailurePolicy {
    let policy = match policy {
        FailurePolicy::Drop => Policy::Drop(JobFailurePolicyDrop {}),
        FailurePolicy::Constant { interval, retries } => Policy::Constant(JobFailurePolicyConstant {
            interval: prost_types::Duration::try_from(interval).ok(),
            max_retries: retries,
        }),
    };
    JobFailurePolicy { policy: Some(policy) }
}

/// A job as apps read it.
pub(super) fn told(job: Job) -> proto::Job {
    let Job { name, schedule, due_time, ttl, repeats, data, policy } = job;
    let failure_policy = Some(told_policy(policy));
    proto::Job { name, schedule, repeats, due_time, ttl, data: data.as_ref().map(as_any), failure_policy }
}

/// All jobs of the app, if one message may hold them: as one, some are far longer than they are kept.
pub(super) async fn list(api: &Api) -> Result<Vec<proto::Job>, Refusal> {
    let most = api.shared.settings.max_body;
    let (mut all, mut length) = (Vec::new(), 0_usize);
    for job in api.list_jobs().await? {
        let job = told(job);
        length += encoded_len(1, &job);
        if length > most {
            return Err(api.unlisted_jobs(&Error::TooLarge(most)));
        }
        all.push(job);
    }
    Ok(all)
}

pub(super) async fn schedule(api: &Api, asked: ScheduleJobRequest) -> Result<ScheduleJobResponse, Refusal> {
    let Some(job) = asked.job else {
        return Err(api.job_refusal("DAPR_SCHEDULER_EMPTY", StatusCode::BAD_REQUEST, "Job is empty"));
    };
    let proto::Job { name, schedule, repeats, due_time, ttl, data, failure_policy } = job;
    let data = data.map(|any| Data::Any { type_url: any.type_url, value: any.value.into() });
    let policy = policy(failure_policy);
    let job = Job { name, schedule, due_time, ttl, repeats, data, policy };
    api.schedule_job(job, asked.overwrite).await?;
    Ok(ScheduleJobResponse {})
}
