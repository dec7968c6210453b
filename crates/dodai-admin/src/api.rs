//! The paths of the API and what their answers are made from.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use bytes::Bytes;
use dodai_control::control::Control;
use dodai_core::call::Door;
use dodai_core::task::Tasks;
use http::{StatusCode, header};
use http_body_util::{BodyExt, Limited};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::gate::Gate;
use crate::joining::{self, Joining};
use crate::seam::{Artifacts, Ledger, Node, NotReady, Roots};
use crate::{Refusal, apps, backup, debug, documents, externals, node, roots};

/// The most bytes of documents in one request.
pub const MAX_DOCUMENTS_BYTES: usize = 16 << 20;
/// The most bytes of one artefact.
pub const MAX_ARTIFACT_BYTES: usize = 256 << 20;
/// The most bytes of a message or a configuration value.
pub const MAX_VALUE_BYTES: usize = 1 << 20;

/// What the server is.
#[derive(Clone, Debug)]
pub struct About {
    /// The version of the program.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// The project folder whose artefacts it can read.
    pub folder: Option<PathBuf>,
    /// Where its data is.
    pub data: PathBuf,
    /// The types of components that drivers of this build serve.
    pub component_types: Vec<String>,
}

/// The metrics page in the format that an `Accept` header asks for: its content type and its text.
pub type Metrics = Arc<dyn Fn(Option<&str>) -> (&'static str, String) + Send + Sync>;

/// What the API works on.
pub struct Parts {
    /// Documents, instances, events.
    pub control: Control,
    /// The running node.
    pub node: Arc<dyn Node>,
    /// The store.
    pub ledger: Arc<dyn Ledger>,
    /// Artefacts.
    pub artifacts: Arc<dyn Artifacts>,
    /// The way for calls.
    pub door: Arc<dyn Door>,
    /// How bases join, where they can.
    pub joining: Option<Joining>,
    /// The roots that bases are known by, where there are any.
    pub roots: Option<Arc<dyn Roots>>,
    /// Who may come in.
    pub gate: Gate,
    /// What the server is.
    pub about: About,
    /// The metrics page.
    pub metrics: Metrics,
    /// Set when somebody asks the server to stop.
    pub stop: watch::Sender<bool>,
    /// What of that which was started first is not ready; `None` as long as that is waited for.
    pub settled: watch::Receiver<Option<Vec<NotReady>>>,
    /// When they close, answers without end are ended.
    pub tasks: Tasks,
}

/// What handlers share.
pub(crate) type Shared = State<Arc<Parts>>;
/// What handlers answer.
pub(crate) type Answer = Result<Response, Refusal>;

/// The API.
pub fn router(parts: Arc<Parts>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/metrics", get(node::metrics))
        .route("/v1/status", get(node::status))
        .route("/v1/shutdown", post(node::shutdown))
        .route("/v1/documents", get(documents::list).post(documents::apply))
        .route("/v1/documents/{kind}/{namespace}/{name}", get(documents::get).delete(documents::delete))
        .route("/v1/watch", get(documents::watch))
        .route("/v1/events", get(node::events))
        .route("/v1/changes", get(node::changes))
        .route("/v1/instances", get(apps::instances))
        .route("/v1/externals", get(externals::list))
        .route("/v1/artifacts", post(apps::upload))
        .route("/v1/artifacts/{digest}/prepare", post(apps::prepare))
        .route("/v1/apps/{namespace}/{name}/deploy", post(apps::deploy))
        .route("/v1/apps/{namespace}/{name}/restart", post(apps::restart))
        .route("/v1/apps/{namespace}/{name}/rollback", post(apps::rollback))
        .route("/v1/apps/{namespace}/{name}/logs", get(apps::logs))
        .route("/v1/call", post(apps::call))
        .route("/v1/calls", get(node::calls))
        .route("/debug/{view}", get(debug::look))
        .route(
            "/v1/config/{store}/{key}",
            put(node::config_set).get(node::config_get).delete(node::config_delete),
        )
        .route("/v1/publish/{pubsub}/{topic}", post(node::publish))
        .route("/v1/tokens", post(joining::create))
        .route("/v1/ca", get(roots::show))
        .route("/v1/ca/steps/{step}", post(roots::step))
        .route("/v1/ca/revoked/{*whose}", put(roots::revoke).delete(roots::reinstate))
        .route("/v1/store", get(node::store))
        .route("/v1/store/backup", post(backup::backup))
        .fallback(|| async { Refusal::not_found("there is no such path in the management API") })
        .method_not_allowed_fallback(|| async {
            Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method", "this path does not take this method")
        })
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(parts.clone(), admit))
        .with_state(parts)
}

/// Lets in who may come in; answers are not for caches or for pages to guess types from.
async fn admit(State(parts): Shared, request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    let mut response = match parts.gate.admit(&head) {
        Ok(()) => next.run(Request::from_parts(head, body)).await,
        Err(refusal) => refusal.into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, http::HeaderValue::from_static("nosniff"));
    response
}

/// A JSON answer.
pub(crate) fn json(value: &impl Serialize) -> Answer {
    let body = serde_json::to_vec(value).map_err(|error| Refusal::internal(error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// The whole body, within a limit.
pub(crate) async fn read(body: axum::body::Body, limit: usize) -> Result<Bytes, Refusal> {
    match Limited::new(body, limit).collect().await {
        Ok(all) => Ok(all.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            let text = format!("the body is larger than {limit} bytes");
            Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", text))
        }
        Err(error) => Err(Refusal::bad_request(format!("the body broke off: {error}"))),
    }
}

/// Reads the query of a request.
pub(crate) fn query<T: DeserializeOwned>(uri: &http::Uri) -> Result<T, Refusal> {
    let found = axum::extract::Query::<T>::try_from_uri(uri);
    found
        .map(|query| query.0)
        .map_err(|error| Refusal::bad_request(format!("the query: {}", error.body_text())))
}
