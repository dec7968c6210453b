//! The paths of the API and what their answers are made from.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post, put};
use bytes::Bytes;
use dodai_control::control::Control;
use dodai_core::call::Door;
use dodai_core::task::Tasks;
use futures_util::StreamExt;
use http::{StatusCode, header};
use http_body_util::{BodyExt, Limited};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::gate::Gate;
use crate::joining::{self, Joining};
use crate::live::Live;
use crate::seam::{Artifacts, Ledger, Node, NotReady, Roots};
use crate::session::{self, Sessions, Visit};
use crate::{
    Refusal, apps, backup, components, console, debug, documents, externals, inside, jobs, live, node, roots,
};

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
    /// Who has come in with a console.
    pub sessions: Sessions,
    /// What is new, for consoles.
    pub live: Live,
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

/// The API and the console.
pub fn router(parts: Arc<Parts>) -> Router {
    routes()
        .into_iter()
        .fold(Router::new(), |router, (path, methods)| router.route(path, methods))
        .fallback(otherwise)
        .method_not_allowed_fallback(|| async {
            Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method", "this path does not take this method")
        })
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(parts.clone(), admit))
        .with_state(parts)
}

type Methods = MethodRouter<Arc<Parts>>;

/// Every path of the API with its methods; `schema/management.openapi.json` describes them.
pub fn routes() -> Vec<(&'static str, Methods)> {
    vec![
        ("/healthz", get(|| async { "ok\n" })),
        ("/metrics", get(node::metrics)),
        ("/v1/status", get(node::status)),
        ("/v1/shutdown", post(node::shutdown)),
        ("/v1/documents", get(documents::list).post(documents::apply)),
        ("/v1/documents/{kind}/{namespace}/{name}", get(documents::get).delete(documents::delete)),
        ("/v1/watch", get(documents::watch)),
        ("/v1/events", get(node::events)),
        ("/v1/changes", get(node::changes)),
        ("/v1/instances", get(apps::instances)),
        ("/v1/externals", get(externals::list)),
        ("/v1/artifacts", post(apps::upload)),
        ("/v1/artifacts/{digest}/prepare", post(apps::prepare)),
        ("/v1/apps/{namespace}/{name}/deploy", post(apps::deploy)),
        ("/v1/apps/{namespace}/{name}/restart", post(apps::restart)),
        ("/v1/apps/{namespace}/{name}/rollback", post(apps::rollback)),
        ("/v1/apps/{namespace}/{name}/logs", get(apps::logs)),
        ("/v1/call", post(apps::call)),
        ("/v1/calls", get(node::calls)),
        ("/debug/{view}", get(debug::look)),
        ("/v1/config/{store}/{key}", put(node::config_set).get(node::config_get).delete(node::config_delete)),
        ("/v1/publish/{pubsub}/{topic}", post(node::publish)),
        ("/v1/topics/{pubsub}", get(inside::topics)),
        ("/v1/topics/{pubsub}/{topic}", get(inside::peek)),
        ("/v1/topics/{pubsub}/{topic}/replay", post(inside::replay)),
        ("/v1/locks/{store}", get(inside::locks)),
        ("/v1/locks/{store}/{*resource}", delete(inside::unlock)),
        ("/v1/jobs", get(jobs::list)),
        ("/v1/jobs/{namespace}/{app}/{job}", delete(jobs::delete)),
        ("/v1/tokens", post(joining::create)),
        ("/v1/ca", get(roots::show)),
        ("/v1/ca/steps/{step}", post(roots::step)),
        ("/v1/ca/revoked/{*whose}", put(roots::revoke).delete(roots::reinstate)),
        ("/v1/store", get(node::store)),
        ("/v1/store/backup", post(backup::backup)),
        ("/v1/session", get(session::show).post(session::begin).delete(session::end)),
        ("/v1/live", get(live::live)),
        ("/v1/traffic", get(live::traffic)),
        ("/v1/bases", get(node::bases)),
        ("/v1/kinds", get(documents::kinds)),
        ("/v1/schema/{kind}", get(documents::schema)),
        ("/v1/history/{kind}/{namespace}/{name}", get(documents::history)),
        ("/v1/components", get(components::list)),
        ("/v1/apps/{namespace}/{name}/state/{store}", get(components::keys)),
        ("/v1/apps/{namespace}/{name}/state/{store}/{*key}", get(components::kept)),
    ]
}

/// What is no path of the API: a file or page of the console, or nothing.
async fn otherwise(request: Request) -> Response {
    let path = request.uri().path();
    if console::is_page(request.method(), path, request.headers()) {
        return console::serve(path, request.headers());
    }
    Refusal::not_found("there is no such path in the management API").into_response()
}

/// Lets in who may come in; answers are not for caches or for pages to guess types from.
async fn admit(State(parts): Shared, request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    let mut response = match parts.gate.admit(&head, &parts.sessions) {
        Ok(None) => next.run(Request::from_parts(head, body)).await,
        Ok(Some(visit)) => {
            let response = next.run(Request::from_parts(head, body)).await;
            of_session(response, &parts.sessions, visit)
        }
        Err(refusal) => refusal.into_response(),
    };
    let headers = response.headers_mut();
    // Files of the console say themselves how long they may be kept.
    headers.entry(header::CACHE_CONTROL).or_insert(http::HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, http::HeaderValue::from_static("nosniff"));
    response
}

/// An answer within a session: it brings the cookie anew, and one without end ends with the session.
fn of_session(mut response: Response, sessions: &Sessions, visit: Visit) -> Response {
    if let (None, Some(cookie)) = (response.headers().get(header::SET_COOKIE), &visit.renewed) {
        response.headers_mut().insert(header::SET_COOKIE, cookie.clone());
    }
    let kind = response.headers().get(header::CONTENT_TYPE);
    if kind.is_none_or(|kind| kind != "text/event-stream") {
        return response;
    }
    let ended = sessions.clone().ended(visit);
    response.map(|body| Body::from_stream(body.into_data_stream().take_until(ended)))
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
