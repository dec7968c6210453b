//! Apps as they run: instances, logs, deployments, calls.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use dodai_control::control::Control;
use dodai_core::call::{Call, Caller, Context, FAILURE_HEADER};
use dodai_core::failure::Failure;
use dodai_core::id::{AppId, Digest, InstanceId, RevisionId};
use dodai_core::status::Phase;
use dodai_core::trace::Span;
use futures_util::StreamExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Refusal;
use crate::api::{MAX_ARTIFACT_BYTES, MAX_DOCUMENTS_BYTES, Parts, Shared};
use crate::feed::Events;
use crate::seam::{LogLine, Node};
use crate::wire::{
    Actor, Answer, Ask, Asked, Json, MAX_ASKED_BYTES, Octets, Or, Query, Raw, Sent, Wasm, asked, json,
};

/// Header pairs of a call, both ways: `name: value`.
const CALL_HEADER: HeaderName = HeaderName::from_static("dodai-call-header");
/// The status of the called app's answer.
const CALL_STATUS: HeaderName = HeaderName::from_static("dodai-call-status");
/// The longest that a call may wait for its answer's head.
const CALL_DEADLINE: Duration = Duration::from_secs(60);
/// The most lines of output from the past.
const MAX_TAIL: usize = 100_000;

/// One running copy of a revision, as people see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Instance {
    /// Its id.
    pub id: String,
    /// Its app, `namespace/name`.
    pub app: String,
    /// The revision it runs.
    pub revision: String,
    /// `module`, `process`, `external` or `unknown`.
    #[schemars(extend("enum" = ["module", "process", "external", "unknown"]))]
    pub shape: String,
    /// The base it runs on.
    pub base: String,
    /// Where it stands.
    pub phase: Phase,
    /// Why, when that is not plain.
    pub reason: String,
    /// How often it was started again.
    pub restarts: u32,
    /// Its process id.
    pub pid: Option<u32>,
    /// The ports it listens on, by service.
    pub ports: BTreeMap<String, u16>,
    /// Calls in flight.
    pub in_flight: u32,
    /// When it was placed, in milliseconds since 1970.
    pub created_ms: u64,
    /// Processor time since its start, in milliseconds, where it is measured.
    pub cpu_ms: Option<u64>,
    /// Memory in bytes, where it is measured.
    pub memory_bytes: Option<u64>,
}

/// Every instance.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Instances {
    /// By app and age.
    items: Vec<Instance>,
}

/// `GET /v1/instances`.
pub(crate) async fn instances(State(parts): Shared) -> Answer<Instances> {
    json(&Instances { items: all(&parts.control, parts.node.as_ref()) })
}

/// Every instance, by app and age.
pub(crate) fn all(control: &Control, node: &dyn Node) -> Vec<Instance> {
    let (view, observed, uses) = (control.view(), control.observed(), node.usages());
    let row = |record: &dodai_control::records::InstanceRecord| {
        let away = !record.succeeded && observed.away_since(&record.base).is_some();
        let status = observed.instance(record);
        let usage = uses.get(&record.id).copied().unwrap_or_default();
        let revision = view.documents.revision(&record.app, &record.revision);
        let shape = match revision.and_then(|revision| revision.spec.template.workload()) {
            Some(dodai_api::Workload::Module(_)) => "module",
            Some(dodai_api::Workload::Process(_)) => "process",
            Some(dodai_api::Workload::External(_)) => "external",
            None => "unknown",
        };
        let ports = status.map(|status| &status.ports).into_iter().flatten();
        Instance {
            id: record.id.to_string(),
            app: record.app.to_string(),
            revision: record.revision.to_string(),
            shape: shape.to_owned(),
            base: record.base.to_string(),
            // The base forgets what ran to its end.
            phase: match status {
                _ if record.succeeded => Phase::Succeeded,
                // What it said last may be true no longer.
                _ if away => Phase::Unknown,
                Some(status) => status.phase,
                None => Phase::Waiting,
            },
            reason: match status {
                _ if away => format!("base {} is away", record.base),
                Some(status) => status.reason.clone(),
                None => String::new(),
            },
            restarts: status.map_or(0, |status| status.restarts),
            pid: status.and_then(|status| status.pid),
            ports: ports.map(|(name, port)| (name.to_string(), *port)).collect(),
            in_flight: status.map_or(0, |status| status.in_flight),
            created_ms: record.created,
            cpu_ms: usage.cpu_ms,
            memory_bytes: usage.memory_bytes,
        }
    };
    let mut rows: Vec<Instance> = view.records.instances().map(row).collect();
    rows.sort_by(|a, b| (&a.app, a.created_ms, &a.id).cmp(&(&b.app, b.created_ms, &b.id)));
    rows
}

fn app_id(namespace: &str, name: &str) -> Result<AppId, Refusal> {
    AppId::parse(&format!("{namespace}/{name}")).map_err(|error| Refusal::bad_request(error.to_string()))
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct AppPath {
    /// The namespace of the app.
    namespace: String,
    /// The app.
    name: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LogsQuery {
    /// Whether to go on with what comes, without end.
    #[serde(default)]
    follow: bool,
    /// How many lines of the past: 100 where it is left out, 100,000 at most.
    tail: Option<usize>,
    /// Only of this instance.
    instance: Option<String>,
}

/// `GET /v1/apps/{namespace}/{name}/logs?tail=100&follow=true`: lines as server-sent events.
pub(crate) async fn logs(
    State(parts): Shared,
    Path(AppPath { namespace, name }): Path<AppPath>,
    Query(LogsQuery { follow, tail, instance }): Query<LogsQuery>,
) -> Result<Events<LogLine>, Refusal> {
    let app = app_id(&namespace, &name)?;
    if parts.control.view().documents.app(&app).is_none() {
        return Err(no_app(&app));
    }
    let instance = instance.map(InstanceId::new);
    if let Some(one) = &instance
        && !parts.control.view().records.of(&app).any(|known| known.id == *one)
        && !parts.node.keeps_output_of(&app, one)
    {
        let text = format!("app {app} has no instance `{one}`, and had none whose output is still kept");
        return Err(Refusal::not_found(text).remedy("`dodai ps` lists the instances"));
    }
    let lines = parts.node.logs(&app, instance.as_ref(), tail.unwrap_or(100).min(MAX_TAIL), follow);
    Ok(Events::of(lines, parts.tasks.clone()))
}

/// An artefact that was uploaded.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Digest")]
pub(crate) struct Stored {
    /// Its digest, `sha256:...`.
    digest: String,
}

impl Ask for Stored {
    const LOOKS: &'static str = r#"{"digest": "sha256:..."}"#;
}

/// `POST /v1/artifacts`: a component as the body.
pub(crate) async fn upload(State(parts): Shared, body: Sent<Wasm>) -> Answer<Stored> {
    let digest = keep(&parts, body).await?;
    json(&Stored { digest: digest.to_string() })
}

async fn keep<M>(parts: &Parts, body: Sent<M>) -> Result<Digest, Refusal> {
    let bytes = body.read(MAX_ARTIFACT_BYTES).await?;
    // A component begins like every WASM file, and then says that it is one (layer 1).
    if bytes.get(..4) != Some(b"\0asm") || bytes.get(6..8) != Some(&[1, 0]) {
        let text = "the body is not a WASM component";
        let remedy = "build the module for wasm32-wasip2, or wrap it with `wasm-tools component new`";
        return Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "artifact", text).remedy(remedy));
    }
    parts.artifacts.put(bytes).await
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct ArtifactPath {
    /// The digest of the artefact.
    digest: String,
}

/// `POST /v1/artifacts/{digest}/prepare`: compiles it.
pub(crate) async fn prepare(
    State(parts): Shared,
    Path(ArtifactPath { digest }): Path<ArtifactPath>,
) -> Answer<Stored> {
    parts.artifacts.prepare("the upload", &Digest::new(&digest)).await?;
    json(&Stored { digest })
}

/// An app that got another artefact.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Deployed {
    /// The app, `namespace/name`.
    app: String,
    /// The digest of its artefact.
    digest: String,
    /// The generation of its document.
    generation: Option<u64>,
}

/// `POST /v1/apps/{namespace}/{name}/deploy`: a component as the body, or `{"digest": "sha256:..."}`.
pub(crate) async fn deploy(
    State(parts): Shared,
    Path(AppPath { namespace, name }): Path<AppPath>,
    Actor(actor): Actor,
    headers: HeaderMap,
    body: Sent<Or<Json<Stored>, Wasm>>,
) -> Answer<Deployed> {
    let app = app_id(&namespace, &name)?;
    let digest = if headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json") {
        let stored: Stored = asked(&body.read(MAX_ASKED_BYTES).await?)?;
        Digest::new(&stored.digest)
    } else {
        keep(&parts, body).await?
    };
    // What cannot be compiled never becomes the app's artefact.
    parts.artifacts.prepare(name.as_str(), &digest).await?;
    let document = parts.control.deploy(&app, &digest, &actor).await?;
    let generation = document.metadata().generation;
    json(&Deployed { app: app.to_string(), digest: digest.to_string(), generation })
}

/// An app that is restarted.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Restarted {
    /// The app, `namespace/name`.
    app: String,
    /// The generation of its document.
    generation: Option<u64>,
}

/// `POST /v1/apps/{namespace}/{name}/restart`: new instances beside the old, then in their place.
pub(crate) async fn restart(
    State(parts): Shared,
    Path(AppPath { namespace, name }): Path<AppPath>,
    Actor(actor): Actor,
) -> Answer<Restarted> {
    let app = app_id(&namespace, &name)?;
    let document = parts.control.restart(&app, &actor).await?;
    json(&Restarted { app: app.to_string(), generation: document.metadata().generation })
}

/// Where to go back to.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Rollback")]
pub(crate) struct Back {
    /// The revision; the one that served before where it is left out.
    to: Option<String>,
}

impl Ask for Back {
    const LOOKS: &'static str = r#"{"to": "REVISION"}"#;
}

/// An app that goes back.
#[derive(Serialize, JsonSchema)]
pub(crate) struct RolledBack {
    /// The app, `namespace/name`.
    app: String,
    /// The revision that it goes back to.
    revision: String,
    /// The generation of its document.
    generation: Option<u64>,
}

/// `POST /v1/apps/{namespace}/{name}/rollback` with `{"to": "0123456789"}`; without, to the revision that served
/// before.
pub(crate) async fn rollback(
    State(parts): Shared,
    Path(AppPath { namespace, name }): Path<AppPath>,
    Actor(actor): Actor,
    Asked(Back { to }): Asked<Back>,
) -> Answer<RolledBack> {
    let app = app_id(&namespace, &name)?;
    let to: Option<dodai_api::RevisionId> = to
        .map(|id| id.parse())
        .transpose()
        .map_err(|error: dodai_api::Invalid| Refusal::bad_request(error.message).remedy(error.remedy))?;
    let to = to.map(|id| RevisionId::new(id.as_str()));
    let (document, revision) = parts.control.rollback(&app, to.as_ref(), &actor).await?;
    let generation = document.metadata().generation;
    json(&RolledBack { app: app.to_string(), revision: revision.to_string(), generation })
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct CallQuery {
    /// The app, `namespace/name`.
    app: String,
    /// Path and query of the call.
    path: String,
    /// The method of the call; GET where it is left out.
    method: Option<String>,
}

/// The answer to a call that failed on its way to the app: a refusal, with what its caller would have got beside it.
fn failed(parts: &Parts, app: &AppId, failure: &Failure) -> Result<Response, Refusal> {
    let documents = &parts.control.view().documents;
    let named = documents.endpoints().any(|one| one.metadata.name.as_str() == app.name.as_str());
    // A name that means nothing in the mesh was looked for outside; that answer would only mislead.
    if documents.app(app).is_none() && documents.service(app).is_none() && !named {
        return Err(no_app(app));
    }
    let status = StatusCode::from_u16(failure.kind.http_status()).unwrap_or(StatusCode::BAD_GATEWAY);
    // What an app or the mesh refuses is no refusal of this API: its own codes stay apart.
    let own = if status == StatusCode::UNAUTHORIZED { StatusCode::FORBIDDEN } else { status };
    let refusal = Refusal::new(own, failure.kind.code(), format!("{app}: {}", failure.detail));
    let mut response = refusal.into_response();
    response.headers_mut().insert(CALL_STATUS, HeaderValue::from(status.as_u16()));
    response.headers_mut().insert(FAILURE_HEADER, HeaderValue::from_static(failure.kind.code()));
    Ok(response)
}

/// `POST /v1/call?app=default/shop&path=/&method=GET`: a call through the mesh as somebody outside. Headers
/// travel in `dodai-call-header: name: value`, both ways, so that they never mix with those of this API.
pub(crate) async fn call(
    State(parts): Shared,
    Query(CallQuery { app, path, method }): Query<CallQuery>,
    headers: HeaderMap,
    body: Sent<Octets>,
) -> Result<Raw<Octets>, Refusal> {
    let app = AppId::parse(&app).map_err(|error| Refusal::bad_request(error.to_string()))?;
    if !path.starts_with('/') {
        return Err(Refusal::bad_request(format!("the path `{path}` does not begin with `/`")));
    }
    let target = format!("http://{}.{}{path}", app.name, app.namespace);
    let bad = |error: http::Error| Refusal::bad_request(format!("the call: {error}"));
    let method = method.as_deref().unwrap_or("GET");
    let method: Method = method.parse().map_err(|_| {
        let text = format!("`{method}` is no method of HTTP");
        Refusal::bad_request(text).remedy("use GET, POST, PUT, DELETE, ...")
    })?;
    let mut request = Request::builder().method(method).uri(target);
    for pair in headers.get_all(CALL_HEADER) {
        let text = pair.to_str().unwrap_or_default();
        let (name, value) = text.split_once(':').ok_or_else(|| {
            Refusal::bad_request(format!("`{text}` is no header")).remedy("write `name: value`")
        })?;
        request = request.header(name.trim(), value.trim());
    }
    let (head, ()) = request.body(()).map_err(bad)?.into_parts();
    let body = body.read(MAX_DOCUMENTS_BYTES).await?;
    let mut context = Context::new(Caller::Outside, Span::root(false));
    context.deadline = Some(Instant::now() + CALL_DEADLINE);
    let call = Call { head, body: dodai_core::body::Body::full(body), context };
    let reply = match parts.door.enter(call).await {
        Ok(reply) => reply,
        Err(failure) => return failed(&parts, &app, &failure).map(Raw::new),
    };
    let mut response = http::Response::new(Body::from_stream(frames(reply.body)));
    let out = response.headers_mut();
    out.insert(CALL_STATUS, HeaderValue::from(reply.head.status.as_u16()));
    out.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    for (name, value) in &reply.head.headers {
        let pair = [name.as_str().as_bytes(), b": ", value.as_bytes()].concat();
        if let Ok(pair) = HeaderValue::from_bytes(&pair) {
            out.append(CALL_HEADER, pair);
        }
    }
    Ok(Raw::new(response))
}

fn no_app(app: &AppId) -> Refusal {
    Refusal::not_found(format!("there is no app {app}")).remedy("`dodai get apps -A` lists the apps")
}

fn frames(
    body: dodai_core::body::Body,
) -> impl futures_util::Stream<Item = Result<Bytes, dodai_core::failure::Failure>> {
    body.into_data_stream().boxed()
}
