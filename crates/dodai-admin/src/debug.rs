//! What a running base is at this moment, page by page: `/debug/table`, `/debug/clusters`, `/debug/connections`,
//! `/debug/certificates`.

use axum::extract::{Path, State};
use dodai_core::id::AppId;
use http::Uri;
use serde::Deserialize;

use crate::Refusal;
use crate::api::{Answer, Shared, json as answer, query};
use crate::seam::{Look, View};

/// How many items a page has where nothing is said.
const USUAL: usize = 100;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LookQuery {
    #[serde(default)]
    after: u64,
    limit: Option<usize>,
    only: Option<String>,
    app: Option<String>,
    base: Option<String>,
}

/// `GET /debug/{view}?after=0&limit=100&only=web&app=default/shop&base=one`.
pub(crate) async fn look(State(parts): Shared, Path(view): Path<String>, uri: Uri) -> Answer {
    let view = match view.as_str() {
        "table" => View::Table,
        "clusters" => View::Clusters,
        "connections" => View::Connections,
        "certificates" => View::Certificates,
        other => {
            return Err(Refusal::not_found(format!(
                "there is no /debug/{other}; use table, clusters, connections or certificates"
            )));
        }
    };
    let LookQuery { after, limit, only, app, base } = query(&uri)?;
    let app = app.map(|app| AppId::parse(&app)).transpose();
    let app = app.map_err(|error| Refusal::bad_request(format!("app: {error}")))?;
    let look = Look { view, after, limit: limit.unwrap_or(USUAL), only, app, base };
    answer(&parts.node.look(look).await?)
}
