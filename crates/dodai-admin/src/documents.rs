//! Documents: list, get, apply with places and dry run, delete, watch.

use std::collections::{BTreeMap, VecDeque};

use axum::extract::{Path, State};
use dodai_api::{Code, Document, DocumentKey, Kind, Located, Problem, Severity, Source};
use dodai_control::control::{Changed, Control};
use dodai_control::documents::{Apply, FieldOwner, Verdict};
use http::{HeaderMap, header};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::api::{MAX_DOCUMENTS_BYTES, Shared};
use crate::feed::Events;
use crate::seam::Change;
use crate::wire::{Actor, Answer, Ask, Json, Or, Query, Sent, Yaml, asked, json};
use crate::{Refusal, mask};

/// What every document has.
#[derive(JsonSchema)]
#[expect(
    dead_code,
    reason = "only its schema is asked for: documents leave as values in which secrets are hidden"
)]
struct AnyDocument {
    /// The version of its form.
    #[serde(rename = "apiVersion")]
    api_version: String,
    /// What it is.
    kind: String,
    /// Its name, and what the server keeps beside it.
    metadata: Map<String, Value>,
    /// What its kind says.
    #[serde(skip_serializing_if = "Option::is_none")]
    spec: Option<Value>,
    /// What the server says of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Value>,
    /// What kinds have beside that.
    #[serde(flatten)]
    more: Map<String, Value>,
}

/// A document of any kind, canonical and without secrets; the schema of its kind is at `/v1/schema/{kind}`.
#[derive(Serialize, JsonSchema)]
#[serde(transparent)]
#[schemars(rename = "Document", with = "AnyDocument")]
pub(crate) struct Shown(Value);

impl From<&Document> for Shown {
    fn from(document: &Document) -> Shown {
        Shown::of(document.to_value())
    }
}

impl Shown {
    fn of(mut value: Value) -> Shown {
        mask::mask(&mut value);
        Shown(value)
    }
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct ListQuery {
    /// Of which kind.
    kind: String,
    /// Only of this namespace.
    namespace: Option<String>,
}

/// Documents of a kind.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Documents {
    /// By namespace and name.
    items: Vec<Shown>,
}

/// `GET /v1/documents?kind=App&namespace=default`.
pub(crate) async fn list(
    State(parts): Shared,
    Query(ListQuery { kind, namespace }): Query<ListQuery>,
) -> Answer<Documents> {
    let kind: Kind = kind.parse().map_err(unreadable)?;
    let namespace = namespace.map(|text| text.parse()).transpose().map_err(unreadable)?;
    let documents = parts.control.list(kind, namespace.as_ref()).await?;
    json(&Documents { items: documents.iter().map(Shown::from).collect() })
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct DocumentPath {
    /// Its kind.
    kind: String,
    /// Its namespace; `default` for kinds that have none.
    namespace: String,
    /// Its name.
    name: String,
}

/// `GET /v1/documents/{kind}/{namespace}/{name}`.
pub(crate) async fn get(State(parts): Shared, Path(path): Path<DocumentPath>) -> Answer<Shown> {
    json(&Shown::from(&parts.control.get(&key(&path)?).await?))
}

/// A document that was removed.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Deleted {
    /// Its key, `kind/namespace/name`.
    deleted: String,
}

/// `DELETE /v1/documents/{kind}/{namespace}/{name}`.
pub(crate) async fn delete(
    State(parts): Shared,
    Path(path): Path<DocumentPath>,
    Actor(actor): Actor,
) -> Answer<Deleted> {
    let key = key(&path)?;
    parts.control.delete(&key, &actor).await?;
    json(&Deleted { deleted: key.to_string() })
}

fn key(DocumentPath { kind, namespace, name }: &DocumentPath) -> Result<DocumentKey, Refusal> {
    Ok(DocumentKey {
        kind: kind.parse().map_err(unreadable)?,
        namespace: namespace.parse().map_err(unreadable)?,
        name: name.parse().map_err(unreadable)?,
    })
}

fn unreadable(error: dodai_api::Invalid) -> Refusal {
    Refusal::bad_request(error.to_string())
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ApplyQuery {
    /// Only say what would change.
    #[serde(default)]
    dry_run: bool,
    /// Remove what this scope no longer has.
    prune: Option<String>,
    /// `cli`, `file` or `console`; `cli` where it is left out.
    owner: Option<String>,
    /// What a YAML body is called in problems.
    file: Option<String>,
    /// Only if the document, which is the only one, is still at this revision.
    if_revision: Option<u64>,
}

/// Documents in files, so that problems name them.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Files {
    /// The files.
    files: Vec<File>,
    /// Digests of artefacts that were uploaded, by `namespace/name` of the app.
    #[serde(default)]
    artifacts: BTreeMap<String, String>,
}

impl Ask for Files {
    const LOOKS: &'static str = r#"{"files": [{"name", "content"}]}"#;
}

/// One file.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    /// What it is called in problems.
    name: String,
    /// Its documents, as YAML or JSON.
    content: String,
}

/// What became of one document.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Written")]
pub(crate) struct Outcome {
    /// Its key, `kind/namespace/name`.
    key: String,
    /// `created`, `configured`, `unchanged` or `pruned`.
    verdict: &'static str,
    /// Its generation; null where it was removed.
    generation: Option<u64>,
    /// What would change; of a dry run only.
    changes: Vec<dodai_api::Change>,
}

/// What became of documents.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Applied {
    /// Whether nothing was written.
    dry_run: bool,
    /// Each of them, and those that were pruned.
    documents: Vec<Outcome>,
    /// What will not do what it seems to.
    warnings: Vec<Problem>,
}

/// `POST /v1/documents`: YAML or JSON documents as the body, or `{"files": [{"name", "content"}]}` with
/// content type `application/json`, so that problems name files and lines. With `ifRevision=7` one document is
/// written only if it is still at that revision.
pub(crate) async fn apply(
    State(parts): Shared,
    Query(ApplyQuery { dry_run, prune, owner, file, if_revision }): Query<ApplyQuery>,
    Actor(actor): Actor,
    headers: HeaderMap,
    body: Sent<Or<Json<Files>, Yaml>>,
) -> Answer<Applied> {
    let body = body.read(MAX_DOCUMENTS_BYTES).await?;
    let json_body = headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    let files = if json_body {
        asked(&body)?
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
    let known: Vec<&str> = parts.about.component_types.iter().map(|one| one.kind.as_str()).collect();
    warnings.extend(dodai_api::unknown_drivers(&documents, &known));
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
    let written = applied.written.iter().map(outcome).collect();
    // What the client has at hand is uploaded before it counts; that it is not here yet says nothing.
    let at_hand = |one: &Problem| {
        one.code == Code::UnknownReference
            && files.artifacts.values().any(|digest| one.message.contains(digest))
    };
    warnings.extend(applied.warnings.into_iter().filter(|one| !at_hand(one)));
    json(&Applied { dry_run, documents: written, warnings })
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
        return dodai_api::diff(&Value::Object(Map::new()), &new);
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

/// A kind of document.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Kind")]
pub(crate) struct KindRow {
    /// Its word.
    kind: &'static str,
    /// The versions that its documents may have.
    api_versions: &'static [&'static str],
    /// Whether its documents are in namespaces.
    namespaced: bool,
    /// The keys of those there are, `kind/namespace/name`.
    documents: Vec<String>,
}

/// Every kind of document.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Kinds {
    /// Each of them.
    items: Vec<KindRow>,
}

/// `GET /v1/kinds`: every kind of document, with how many there are.
pub(crate) async fn kinds(State(parts): Shared) -> Answer<Kinds> {
    let view = parts.control.view();
    let row = |kind: &Kind| KindRow {
        kind: kind.as_str(),
        api_versions: kind.api_versions(),
        namespaced: kind.is_namespaced(),
        documents: view.documents.keys(*kind).map(ToString::to_string).collect(),
    };
    json(&Kinds { items: Kind::ALL.iter().map(row).collect() })
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct KindPath {
    /// The kind.
    kind: String,
}

/// `GET /v1/schema/{kind}`: the JSON schema of a kind.
pub(crate) async fn schema(Path(KindPath { kind }): Path<KindPath>) -> Answer<Value> {
    json(&dodai_api::schema(kind.parse().map_err(unreadable)?))
}

/// How many versions of a document one answer has.
const MAX_VERSIONS: usize = 100;

/// A version of a document.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Version {
    #[serde(flatten)]
    change: Change,
    /// The document; null where it was removed, or where the version is no longer kept.
    document: Option<Shown>,
}

/// The versions of a document, newest first.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Versions {
    /// At most 100.
    items: Vec<Version>,
}

/// `GET /v1/history/{kind}/{namespace}/{name}`: the last versions of a document, newest first, with who made them, also
/// when it is there no more; `document` is null where it was removed or where the version is no longer kept.
pub(crate) async fn history(State(parts): Shared, Path(path): Path<DocumentPath>) -> Answer<Versions> {
    let stored = format!("/{}", key(&path)?);
    let mut items = Vec::new();
    for change in parts.ledger.changes_of(stored.clone(), MAX_VERSIONS).await? {
        let found = parts.ledger.at(stored.clone(), change.revision).await?;
        let document = found.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
        items.push(Version { change, document: document.map(Shown::of) });
    }
    json(&Versions { items })
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct WatchQuery {
    /// Only of this kind.
    kind: Option<String>,
    /// Only of this namespace.
    namespace: Option<String>,
}

/// What a watch tells of a document.
#[derive(Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
#[schemars(rename = "Watched")]
pub(crate) enum Told {
    /// It is there, or is so now.
    Put {
        /// The document.
        document: Shown,
    },
    /// It was removed.
    Deleted {
        /// Its key, `kind/namespace/name`.
        key: String,
    },
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
pub(crate) async fn watch(
    State(parts): Shared,
    Query(WatchQuery { kind, namespace }): Query<WatchQuery>,
) -> Result<Events<Told>, Refusal> {
    let kind = kind.map(|text| text.parse()).transpose().map_err(unreadable)?;
    let filter = Filter { kind, namespace };
    let watch = parts.control.watch();
    let view = parts.control.view();
    let present = view
        .documents
        .iter()
        .filter(|(key, _)| filter.takes(key))
        .filter_map(|(key, _)| Some(Told::Put { document: Shown::from(&view.document(key)?) }));
    let queue: VecDeque<Told> = present.collect();
    let stream =
        futures_util::stream::unfold((watch, queue, filter), |(mut watch, mut queue, filter)| async move {
            loop {
                if let Some(told) = queue.pop_front() {
                    return Some((told, (watch, queue, filter)));
                }
                let told = watch.next().await?.into_iter().filter_map(|changed| match changed {
                    Changed::Put(document) => {
                        filter.takes(&document.key()).then(|| Told::Put { document: Shown::from(&document) })
                    }
                    Changed::Deleted(key) => {
                        filter.takes(&key).then(|| Told::Deleted { key: key.to_string() })
                    }
                });
                queue.extend(told);
            }
        });
    Ok(Events::of(stream, parts.tasks.clone()))
}
