//! Documents: list, get, apply with places and dry run, delete, watch.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use dodai_api::{Code, Document, DocumentKey, Kind, Located, Problem, Severity, Source};
use dodai_control::control::{Changed, Control};
use dodai_control::documents::{Apply, FieldOwner, Verdict};
use http::{HeaderMap, Uri, header};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::api::{Answer, MAX_DOCUMENTS_BYTES, Shared, json as answer, query, read};
use crate::{Refusal, feed, mask};

#[derive(Deserialize)]
struct ListQuery {
    kind: String,
    namespace: Option<String>,
}

/// `GET /v1/documents?kind=App&namespace=default`.
pub(crate) async fn list(State(parts): Shared, uri: Uri) -> Answer {
    let ListQuery { kind, namespace } = query(&uri)?;
    let kind: Kind = kind.parse().map_err(unreadable)?;
    let namespace = namespace.map(|text| text.parse()).transpose().map_err(unreadable)?;
    let documents = parts.control.list(kind, namespace.as_ref()).await?;
    answer(&json!({ "items": documents.iter().map(shown).collect::<Vec<_>>() }))
}

/// `GET /v1/documents/{kind}/{namespace}/{name}`.
pub(crate) async fn get(State(parts): Shared, Path(path): Path<(String, String, String)>) -> Answer {
    answer(&shown(&parts.control.get(&key(&path)?).await?))
}

/// `DELETE /v1/documents/{kind}/{namespace}/{name}`.
pub(crate) async fn delete(
    State(parts): Shared,
    headers: HeaderMap,
    Path(path): Path<(String, String, String)>,
) -> Answer {
    let key = key(&path)?;
    parts.control.delete(&key, &actor(&headers)).await?;
    answer(&json!({ "deleted": key.to_string() }))
}

fn key((kind, namespace, name): &(String, String, String)) -> Result<DocumentKey, Refusal> {
    Ok(DocumentKey {
        kind: kind.parse().map_err(unreadable)?,
        namespace: namespace.parse().map_err(unreadable)?,
        name: name.parse().map_err(unreadable)?,
    })
}

fn unreadable(error: dodai_api::Invalid) -> Refusal {
    Refusal::bad_request(error.to_string())
}

/// A document as it leaves: canonical, without secrets.
fn shown(document: &Document) -> Value {
    let mut value = document.to_value();
    mask::mask(&mut value);
    value
}

/// Who writes, for the change log: what the client says of itself.
pub(crate) fn actor(headers: &HeaderMap) -> String {
    let name = headers.get("dodai-actor").and_then(|value| value.to_str().ok()).unwrap_or("api");
    name.chars().take(64).collect()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ApplyQuery {
    #[serde(default)]
    dry_run: bool,
    prune: Option<String>,
    owner: Option<String>,
    file: Option<String>,
    if_revision: Option<u64>,
}

/// Several files in one request.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Files {
    files: Vec<File>,
    /// Digests of artefacts that were uploaded, by `namespace/name` of the app.
    #[serde(default)]
    artifacts: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    content: String,
}

#[derive(Serialize)]
struct Outcome {
    key: String,
    verdict: &'static str,
    generation: Option<u64>,
    changes: Vec<dodai_api::Change>,
}

/// `POST /v1/documents`: YAML or JSON documents as the body, or `{"files": [{"name", "content"}]}` with
/// content type `application/json`, so that problems name files and lines. With `ifRevision=7` one document is
/// written only if it is still at that revision.
pub(crate) async fn apply(State(parts): Shared, uri: Uri, headers: HeaderMap, body: Body) -> Answer {
    let ApplyQuery { dry_run, prune, owner, file, if_revision } = query(&uri)?;
    let body = read(body, MAX_DOCUMENTS_BYTES).await?;
    let json_body = headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    let files = if json_body {
        serde_json::from_slice::<Files>(&body).map_err(|error| {
            Refusal::bad_request(format!("the body: {error}"))
                .remedy("send `{\"files\": [{\"name\", \"content\"}]}`")
        })?
    } else {
        let content = String::from_utf8_lossy(&body).into_owned();
        Files { files: vec![File { name: file.unwrap_or_default(), content }], artifacts: BTreeMap::new() }
    };
    let owner = match owner.as_deref() {
        None | Some("cli") => FieldOwner::Cli,
        Some("file") => FieldOwner::File,
        Some("console") => FieldOwner::Console,
        Some(other) => {
            return Err(Refusal::bad_request(format!(
                "`{other}` is no owner; owners are cli, file, console"
            )));
        }
    };
    let (mut documents, mut warnings) = parse(&files, &parts.control).await?;
    if let Some(revision) = if_revision {
        let [one] = documents.as_mut_slice() else {
            return Err(Refusal::bad_request("`ifRevision` is for one document, and there are several"));
        };
        one.value.metadata_mut().revision = Some(revision);
    }
    let known: Vec<&str> = parts.about.component_types.iter().map(String::as_str).collect();
    warnings.extend(dodai_api::unknown_drivers(&documents, &known));
    let actor = actor(&headers);
    let mut before = BTreeMap::new();
    if dry_run {
        for document in &documents {
            let key = document.value.key();
            before.insert(key.to_string(), stored(&parts.control, &key).await?);
        }
    }
    let apply = Apply { documents: &documents, actor: &actor, owner, prune: prune.as_deref(), dry_run };
    let applied = parts.control.apply(&apply).await?;
    let after: BTreeMap<String, &Document> =
        documents.iter().map(|located| (located.value.key().to_string(), &located.value)).collect();
    let outcome = |written: &dodai_control::documents::Written| {
        let key = written.key.to_string();
        let changed = matches!(written.verdict, Verdict::Created | Verdict::Configured);
        let changes = match (before.get(&key), after.get(&key)) {
            (Some(old), Some(new)) if changed => difference(old.as_ref(), new),
            _ => Vec::new(),
        };
        Outcome { key, verdict: written.verdict.as_str(), generation: written.generation, changes }
    };
    let written: Vec<Outcome> = applied.written.iter().map(outcome).collect();
    // What the client has at hand is uploaded before it counts; that it is not here yet says nothing.
    let at_hand = |one: &Problem| {
        one.code == Code::UnknownReference
            && files.artifacts.values().any(|digest| one.message.contains(digest))
    };
    warnings.extend(applied.warnings.into_iter().filter(|one| !at_hand(one)));
    answer(&json!({ "dryRun": dry_run, "documents": written, "warnings": warnings }))
}

async fn stored(control: &Control, key: &DocumentKey) -> Result<Option<Document>, Refusal> {
    match control.get(key).await {
        Ok(document) => Ok(Some(document)),
        Err(dodai_control::error::Error::NotFound(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

type Parsed = (Vec<Located<Document>>, Vec<Problem>);

/// Documents of all files, or every problem in them.
async fn parse(files: &Files, control: &Control) -> Result<Parsed, Refusal> {
    let (mut documents, mut errors, mut warnings) = (Vec::new(), Vec::new(), Vec::new());
    for file in &files.files {
        let read = dodai_api::read(&Source { name: &file.name, bytes: file.content.as_bytes() });
        documents.extend(read.documents);
        errors.extend(read.errors);
        warnings.extend(read.warnings);
    }
    for located in &mut documents {
        if mask::has_hidden(&located.value) {
            errors.extend(unhide(located, control).await?);
        }
        if let Document::App(app) = &mut located.value {
            let id = format!("{}/{}", app.metadata.namespace, app.metadata.name);
            if let (Some(module), Some(digest)) = (&mut app.spec.module, files.artifacts.get(&id)) {
                module.artifact.clone_from(digest);
                // What was built is uploaded: nothing is left to build here.
                module.build = None;
            }
        }
    }
    if !errors.is_empty() {
        return Err(Refusal::invalid(errors));
    }
    if documents.is_empty() {
        let notes: String = warnings.iter().map(|note| format!("; {note}")).collect();
        return Err(Refusal::bad_request(format!("there are no documents in the request{notes}")));
    }
    Ok((documents, warnings))
}

/// Puts the stored secrets into a document that was printed by `get` and lost them there.
async fn unhide(located: &mut Located<Document>, control: &Control) -> Result<Vec<Problem>, Refusal> {
    let stored = stored(control, &located.value.key()).await?.map(|document| document.to_value());
    let mut value = located.value.to_value();
    let missing = mask::restore(&mut value, stored.as_ref());
    if missing.is_empty() {
        match Document::from_value(&value) {
            Ok(whole) => located.value = whole,
            Err(problems) => return Ok(problems),
        }
    }
    Ok(missing.iter().map(|name| hidden(located, name)).collect())
}

/// A value that was not shown and for which none is stored.
fn hidden(located: &Located<Document>, name: &str) -> Problem {
    let (line, column) = located.place("").unwrap_or_default();
    Problem {
        file: located.file.to_string(),
        document: located.index,
        line,
        column,
        path: String::new(),
        message: format!(
            "the value of `{name}` is `{}`, which stands for the stored one, and none is stored at this place",
            mask::HIDDEN
        ),
        remedy: Some("write the real value, or a reference to a secret store".to_owned()),
        code: Code::InvalidValue,
        severity: Severity::Error,
    }
}

/// What would change, without what the server keeps in documents and without secrets.
fn difference(old: Option<&Document>, new: &Document) -> Vec<dodai_api::Change> {
    let mut old = old.map_or(Value::Null, plain);
    let mut new = plain(new);
    if old.is_null() {
        mask::mask(&mut new);
        return dodai_api::diff(&json!({}), &new);
    }
    mask::mask_pair(&mut old, &mut new);
    dodai_api::diff(&old, &new)
}

fn plain(document: &Document) -> Value {
    let mut value = document.to_value();
    if let Value::Object(map) = &mut value {
        map.remove("status");
    }
    let Some(Value::Object(metadata)) = value.get_mut("metadata") else { return value };
    for key in ["uid", "generation", "revision", "creationTimestamp", "ownerApp", "fieldOwners"] {
        metadata.remove(key);
    }
    if let Some(Value::Object(notes)) = metadata.get_mut("annotations") {
        notes.retain(|key, _| !key.starts_with("dodai.dev/"));
        if notes.is_empty() {
            metadata.remove("annotations");
        }
    }
    value
}

/// `GET /v1/kinds`: every kind of document, with how many there are.
pub(crate) async fn kinds(State(parts): Shared) -> Answer {
    let view = parts.control.view();
    let row = |kind: &Kind| {
        json!({
            "kind": kind.as_str(),
            "apiVersions": kind.api_versions(),
            "namespaced": kind.is_namespaced(),
            "documents": view.documents.keys(*kind).map(ToString::to_string).collect::<Vec<_>>(),
        })
    };
    answer(&json!({ "items": Kind::ALL.iter().map(row).collect::<Vec<_>>() }))
}

/// `GET /v1/schema/{kind}`: the JSON schema of a kind.
pub(crate) async fn schema(Path(kind): Path<String>) -> Answer {
    answer(&dodai_api::schema(kind.parse().map_err(unreadable)?))
}

/// How many versions of a document one answer has.
const MAX_VERSIONS: usize = 100;

/// `GET /v1/history/{kind}/{namespace}/{name}`: the last versions of a document, newest first, with who made them, also
/// when it is there no more; `document` is null where it was removed or where the version is no longer kept.
pub(crate) async fn history(State(parts): Shared, Path(path): Path<(String, String, String)>) -> Answer {
    let stored = format!("/{}", key(&path)?);
    let mut versions = Vec::new();
    for change in parts.ledger.changes_of(stored.clone(), MAX_VERSIONS).await? {
        let found = parts.ledger.at(stored.clone(), change.revision).await?;
        let document = found.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
        let document = document.map(|mut value| {
            mask::mask(&mut value);
            value
        });
        let mut version =
            serde_json::to_value(&change).map_err(|error| Refusal::internal(error.to_string()))?;
        version["document"] = document.unwrap_or_default();
        versions.push(version);
    }
    answer(&json!({ "items": versions }))
}

#[derive(Deserialize)]
struct WatchQuery {
    kind: Option<String>,
    namespace: Option<String>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Told {
    Put { document: Value },
    Deleted { key: String },
}

/// Which documents a watcher wants.
struct Filter {
    kind: Option<Kind>,
    namespace: Option<String>,
}

impl Filter {
    fn takes(&self, key: &DocumentKey) -> bool {
        self.kind.is_none_or(|kind| kind == key.kind)
            && self.namespace.as_ref().is_none_or(|namespace| namespace == key.namespace.as_str())
    }
}

/// `GET /v1/watch?kind=App&namespace=default`: what there is, then every change, as server-sent events.
pub(crate) async fn watch(State(parts): Shared, uri: Uri) -> Answer {
    let WatchQuery { kind, namespace } = query(&uri)?;
    let kind = kind.map(|text| text.parse()).transpose().map_err(unreadable)?;
    let filter = Filter { kind, namespace };
    let watch = parts.control.watch();
    let view = parts.control.view();
    let present = view
        .documents
        .iter()
        .filter(|(key, _)| filter.takes(key))
        .filter_map(|(key, _)| Some(Told::Put { document: shown(&view.document(key)?) }));
    let queue: VecDeque<Told> = present.collect();
    let stream =
        futures_util::stream::unfold((watch, queue, filter), |(mut watch, mut queue, filter)| async move {
            loop {
                if let Some(told) = queue.pop_front() {
                    return Some((told, (watch, queue, filter)));
                }
                let told = watch.next().await?.into_iter().filter_map(|changed| match changed {
                    Changed::Put(document) => {
                        filter.takes(&document.key()).then(|| Told::Put { document: shown(&document) })
                    }
                    Changed::Deleted(key) => {
                        filter.takes(&key).then(|| Told::Deleted { key: key.to_string() })
                    }
                });
                queue.extend(told);
            }
        });
    Ok(feed::respond(stream, Arc::clone(&parts).tasks.clone()))
}
