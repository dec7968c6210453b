//! What a running base is at this moment, page by page: `/debug/table`, `/debug/clusters`, `/debug/connections`,
//! `/debug/certificates`.

use axum::extract::{Path, State};
use dodai_core::id::AppId;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::Refusal;
use crate::api::Shared;
use crate::seam::{Look, Page, View};
use crate::wire::{Answer, Query, relayed};

/// How many items a page has where nothing is said.
const USUAL: usize = 100;

#[derive(Deserialize, JsonSchema)]
pub(crate) struct LookPath {
    /// `table`, `clusters`, `connections` or `certificates`.
    view: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LookQuery {
    /// Where the page begins: what the one before said, or 0.
    #[serde(default)]
    after: u64,
    /// How many items at most: 100 where it is left out, 1,000 in any case.
    limit: Option<usize>,
    /// Only of this service, listener or rule.
    only: Option<String>,
    /// Only of this app, `namespace/name`.
    app: Option<String>,
    /// The base, where there are several.
    base: Option<String>,
}

/// `GET /debug/{view}?after=0&limit=100&only=web&app=default/shop&base=one`.
pub(crate) async fn look(
    State(parts): Shared,
    Path(LookPath { view }): Path<LookPath>,
    Query(asked): Query<LookQuery>,
) -> Answer<Page> {
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
    let LookQuery { after, limit, only, app, base } = asked;
    let app = app.map(|app| AppId::parse(&app)).transpose();
    let app = app.map_err(|error| Refusal::bad_request(format!("app: {error}")))?;
    let look = Look { view, after, limit: limit.unwrap_or(USUAL), only, app, base };
    relayed(&parts.node.look(look).await?)
}
