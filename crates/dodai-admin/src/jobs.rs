//! Jobs of apps: when each runs, how its last run ended, and an end to it.

use axum::extract::{Path, State};
use dodai_core::id::AppId;
use http::Uri;
use serde::Deserialize;
use serde_json::json;

use crate::Refusal;
use crate::api::{Answer, Shared, json as answer, query};
use crate::inside::within;
use crate::seam::Jobs;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JobsQuery {
    app: Option<String>,
    base: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

fn app_id(text: &str) -> Result<AppId, Refusal> {
    AppId::parse(text).map_err(|error| Refusal::bad_request(format!("app: {error}")))
}

/// `GET /v1/jobs?app=default/shop&base=one&after=default/shop/report&limit=50`: jobs as they stand, by app and name.
pub(crate) async fn list(State(parts): Shared, uri: Uri) -> Answer {
    let JobsQuery { app, base, after, limit } = query(&uri)?;
    let app = app.as_deref().map(app_id).transpose()?;
    answer(&parts.node.jobs(Jobs { app, base, after, limit: within(limit) }).await?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ForgetQuery {
    base: Option<String>,
}

/// `DELETE /v1/jobs/{namespace}/{app}/{job}?base=one`: forgets a job. A run that is under way goes on.
pub(crate) async fn delete(
    State(parts): Shared,
    Path((namespace, app, job)): Path<(String, String, String)>,
    uri: Uri,
) -> Answer {
    let ForgetQuery { base } = query(&uri)?;
    parts.node.forget_job(app_id(&format!("{namespace}/{app}"))?, job, base).await?;
    answer(&json!({}))
}
