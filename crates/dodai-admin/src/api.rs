//! The paths of the API and what their answers are made from.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use dodai_control::control::Control;
use dodai_core::call::Door;
use dodai_core::features::Type;
use dodai_core::task::Tasks;
use futures_util::StreamExt;
use http::{StatusCode, header};
use tokio::sync::watch;

use crate::feed;
use crate::gate::Gate;
use crate::joining::Joining;
use crate::live::Live;
use crate::operations::routes;
use crate::seam::{Artifacts, Ledger, Node, NotReady, Roots};
use crate::session::{Sessions, Visit};
use crate::{Refusal, console};

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
    pub component_types: Vec<Type>,
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

/// The API and the console.
pub fn router(parts: Arc<Parts>) -> Router {
    routes()
        .fallback(otherwise)
        .method_not_allowed_fallback(|| async {
            Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method", "this path does not take this method")
        })
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(parts.clone(), admit))
        .with_state(parts)
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
    if !feed::is_stream(&response) {
        return response;
    }
    let ended = sessions.clone().ended(visit);
    response.map(|body| Body::from_stream(body.into_data_stream().take_until(ended)))
}
