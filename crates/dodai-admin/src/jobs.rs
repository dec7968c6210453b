//! Jobs of apps: when each runs, how its last run ended, and an end to it.

use axum::extract::{Path, State};
use dodai_core::id::AppId;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::Refusal;
use crate::api::Shared;
use crate::inside::within;
use crate::seam::{Done, Jobs, JobsPage};
use crate::wire::{Answer, Query, json, relayed};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct JobsQuery {
    /// Only those of this app, as `namespace/name`.
    app: Option<String>,
    /// Only those that this base keeps.
    base: Option<String>,
    /// Only jobs after this one: what the answer before said.
    after: Option<String>,
    /// How many jobs at most: 50 where it is left out, 500 in any case.
    limit: Option<usize>,
}

fn app_id(text: &str) -> Result<AppId, Refusal> {
    AppId::parse(text).map_err(|error| Refusal::bad_request(format!("app: {error}")))
}

/// `GET /v1/jobs?app=default/shop&base=one&after=default/shop/report&limit=50`: jobs as they stand, by app and name.
pub(crate) async fn list(
    State(parts): Shared,
    Query(JobsQuery { app, base, after, limit }): Query<JobsQuery>,
) -> Answer<JobsPage> {
    let app = app.as_deref().map(app_id).transpose()?;
    relayed(&parts.node.jobs(Jobs { app, base, after, limit: within(limit) }).await?)
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct JobPath {
    /// The namespace of the app.
    namespace: String,
    /// The app.
    app: String,
    /// The job.
    job: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ForgetQuery {
    /// The base that keeps it, where there are several.
    base: Option<String>,
}

/// `DELETE /v1/jobs/{namespace}/{app}/{job}?base=one`: forgets a job. A run that is under way goes on.
pub(crate) async fn delete(
    State(parts): Shared,
    Path(JobPath { namespace, app, job }): Path<JobPath>,
    Query(ForgetQuery { base }): Query<ForgetQuery>,
) -> Answer<Done> {
    parts.node.forget_job(app_id(&format!("{namespace}/{app}"))?, job, base).await?;
    json(&Done {})
}
