//! The state API: save, get, delete, bulk get, transactions.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use dodai_capability::keys::Prefix;
use dodai_capability::metadata::{self, CONTENT_TYPE as CONTENT_TYPE_KEY, TTL_EXPIRE_TIME, Ttl};
use dodai_capability::state::{
    Concurrency, Consistency, Delete, Error, Etag, Get, Item, Operation, Set, Store,
};
use dodai_capability::{Metadata, fault};
use dodai_core::call::{Call, Reply};
use http::header::{ETAG, IF_MATCH};
use http::{HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::object::Object;
use super::refusal::{Outcome, Refusal, empty, encoded, json_reply};
use super::{Api, patience, query};
use crate::components::{Block, Live};

#[derive(Deserialize)]
struct Upsert {
    #[serde(default)]
    key: String,
    value: Option<Box<RawValue>>,
    #[serde(default)]
    etag: Option<String>,
    #[serde(default)]
    metadata: Option<Metadata>,
    #[serde(default)]
    options: Option<Object<Options>>,
}

#[derive(Deserialize)]
struct Removal {
    #[serde(default)]
    key: String,
    #[serde(default)]
    etag: Option<String>,
    #[serde(default)]
    metadata: Option<Metadata>,
    #[serde(default)]
    options: Option<Object<Options>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Options {
    concurrency: String,
    consistency: String,
}

#[derive(Deserialize)]
struct BulkGet {
    #[serde(default)]
    keys: Option<Vec<String>>,
    #[serde(default)]
    parallelism: Option<i64>,
    #[serde(default)]
    metadata: Option<Metadata>,
}

#[derive(Serialize)]
struct BulkItem<'a> {
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    etag: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Metadata>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Deserialize)]
struct Transaction {
    #[serde(default)]
    operations: Option<Vec<Object<Step>>>,
    #[serde(default)]
    metadata: Option<Metadata>,
}

#[derive(Deserialize)]
struct Step {
    #[serde(default)]
    operation: String,
    #[serde(default)]
    request: Option<Box<RawValue>>,
}

/// A state store as one app sees it.
struct Mine {
    _live: Arc<Live>,
    store: Arc<dyn Store>,
    prefix: Prefix,
    name: String,
}

impl Mine {
    fn key(&self, key: &str) -> Result<String, Refusal> {
        self.prefix.apply(key).map_err(|_| {
            let message = format!("input key/keyPrefix '{key}' can't contain '||'");
            Refusal::bad_request("ERR_MALFORMED_REQUEST", message)
                .with_violation(key)
                .with_resource("state", &self.name, "")
                .with_info("DAPR_STATE_ILLEGAL_KEY", &[])
        })
    }

    fn set(
        &self,
        upsert: Upsert,
        extra: &Metadata,
        failed: fn(&Mine, &Error) -> Refusal,
    ) -> Result<Set, Refusal> {
        let metadata = merged(upsert.metadata, extra);
        let ttl = Ttl::from_metadata(&metadata).map_err(|fault| failed(self, &fault.into()))?;
        let options = upsert.options.unwrap_or_default().0;
        let (concurrency, consistency) = words(&options).map_err(|fault| failed(self, &fault.into()))?;
        let value = upsert
            .value
            .map_or(Bytes::from_static(b"null"), |raw| Bytes::from(String::from(Box::<str>::from(raw))));
        Ok(Set {
            key: self.key(&upsert.key)?,
            value,
            etag: upsert.etag.map(Etag::from),
            concurrency,
            consistency,
            ttl,
            content_type: metadata::lookup(&metadata, CONTENT_TYPE_KEY).map(Arc::from),
            metadata,
        })
    }

    fn removal(
        &self,
        removal: Removal,
        extra: &Metadata,
        failed: fn(&Mine, &Error) -> Refusal,
    ) -> Result<Delete, Refusal> {
        let options = removal.options.unwrap_or_default().0;
        let (concurrency, consistency) = words(&options).map_err(|fault| failed(self, &fault.into()))?;
        Ok(Delete {
            key: self.key(&removal.key)?,
            etag: removal.etag.map(Etag::from),
            concurrency,
            consistency,
            metadata: merged(removal.metadata, extra),
        })
    }
}

fn words(options: &Options) -> Result<(Concurrency, Consistency), fault::Fault> {
    let unknown = |what: &str, text: &str, known: &str| {
        fault::Fault::new(
            fault::Kind::Invalid,
            format!("unrecognized {what} option '{text}'; give {known} or nothing"),
        )
    };
    let concurrency = Concurrency::parse(&options.concurrency)
        .ok_or_else(|| unknown("concurrency", &options.concurrency, "first-write, last-write"))?;
    let consistency = Consistency::parse(&options.consistency)
        .ok_or_else(|| unknown("consistency", &options.consistency, "strong, eventual"))?;
    Ok((concurrency, consistency))
}

/// Parameters of the request win over what its body says.
fn merged(own: Option<Metadata>, extra: &Metadata) -> Metadata {
    let mut own = own.unwrap_or_default();
    own.extend(extra.iter().map(|(name, value)| (name.clone(), value.clone())));
    own
}

/// Status and words for a store's error, as daprd gives them.
fn told(error: &Error) -> (StatusCode, String) {
    match error {
        Error::EtagMismatch { .. } => {
            (StatusCode::CONFLICT, format!("possible etag mismatch. error from state store: {error}"))
        }
        Error::EtagMalformed { .. } => (StatusCode::BAD_REQUEST, format!("invalid etag value: {error}")),
        Error::Fault(fault) if fault.kind() == fault::Kind::Invalid => {
            (StatusCode::BAD_REQUEST, error.to_string())
        }
        Error::TooManyOperations { .. } | Error::Fault(_) => {
            (StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
        }
    }
}

fn not_saved(mine: &Mine, error: &Error) -> Refusal {
    let (status, words) = told(error);
    let message = format!("failed saving state in state store {}: {words}", mine.name);
    Refusal::new(status, "ERR_STATE_SAVE", message)
}

fn not_transacted(_: &Mine, error: &Error) -> Refusal {
    Refusal::internal("ERR_STATE_TRANSACTION", format!("error while executing state transaction: {error}"))
}

fn too_many(mine: &Mine, given: usize, limit: usize) -> Refusal {
    let message = format!(
        "the transaction contains {given} operations, which is more than what the state store supports: {limit}"
    );
    Refusal::bad_request("ERR_STATE_STORE_TOO_MANY_TRANSACTIONS", message)
        .with_resource("state", &mine.name, "")
        .with_info(
            "DAPR_STATE_TOO_MANY_TRANSACTIONS",
            &[("currentOpsTransaction", &given.to_string()), ("maxOpsPerTransaction", &limit.to_string())],
        )
}

fn expiry(item: &Item) -> Option<(&'static str, String)> {
    item.expires.map(|at| (TTL_EXPIRE_TIME, metadata::rfc3339(at)))
}

impl Api {
    fn state(&self, name: String) -> Result<Mine, Refusal> {
        let (live, store) = self.component(Block::State, &name, |all| all.state.clone())?;
        let prefix = live
            .prefix(&self.app)
            .map_err(|error| Refusal::internal("ERR_STATE_STORE_NOT_CONFIGURED", error.to_string()))?;
        Ok(Mine { _live: live, store, prefix, name })
    }

    pub(super) async fn save_state(&self, store: String, call: Call) -> Outcome {
        let mine = self.state(store)?;
        let body = self.body(call.body).await?;
        // Null counts as an empty list, as in daprd.
        let upserts: Option<Vec<Object<Upsert>>> = serde_json::from_slice(&body)
            .map_err(|error| Refusal::bad_request("ERR_MALFORMED_REQUEST", error.to_string()))?;
        let extra = query::metadata(call.head.uri.query());
        let mut sets = Vec::new();
        for Object(upsert) in upserts.unwrap_or_default() {
            must_be_named(&upsert.key)?;
            sets.push(mine.set(upsert, &extra, not_saved)?);
        }
        let wanted = self.wanted(&mine.name);
        let patience = wanted.as_deref().map(|wanted| &wanted.outbound);
        let outcomes = match sets.len() {
            0 => return Ok(empty()),
            1 => vec![patience::ask(patience, &mine.name, sets.remove(0), |one| mine.store.set(one)).await],
            _ => mine.store.set_many(sets).await,
        };
        // Of several failures one about etags tells the caller most.
        let mut errors: Vec<Error> = outcomes.into_iter().filter_map(Result::err).collect();
        errors
            .sort_by_key(|error| !matches!(error, Error::EtagMismatch { .. } | Error::EtagMalformed { .. }));
        errors.first().map_or_else(|| Ok(empty()), |error| Err(not_saved(&mine, error)))
    }

    pub(super) async fn get_state(&self, store: String, key: &str, call: Call) -> Outcome {
        let mine = self.state(store)?;
        let query = call.head.uri.query();
        let failed = |status, words: String| {
            let message = format!("fail to get {key} from state store {}: {words}", mine.name);
            Refusal::new(status, "ERR_STATE_GET", message)
        };
        let options = Options {
            consistency: query::first(query, "consistency").unwrap_or_default(),
            ..Options::default()
        };
        let (_, consistency) =
            words(&options).map_err(|fault| failed(StatusCode::BAD_REQUEST, fault.to_string()))?;
        let request = Get { key: mine.key(key)?, consistency, metadata: query::metadata(query) };
        let wanted = self.wanted(&mine.name);
        let patience = wanted.as_deref().map(|wanted| &wanted.outbound);
        let item = patience::ask(patience, &mine.name, &request, |one| mine.store.get(one)).await;
        let item = item.map_err(|error| {
            let (status, words) = told(&error);
            failed(status, words)
        })?;
        Ok(item.map_or_else(empty, |item| value_reply(&item)))
    }

    pub(super) async fn delete_state(&self, store: String, key: &str, call: Call) -> Outcome {
        let mine = self.state(store)?;
        let query = call.head.uri.query();
        let failed = |error: &Error| {
            let (status, words) = told(error);
            let message = format!("failed deleting state with key {key}: {words}");
            Refusal::new(status, "ERR_STATE_DELETE", message)
        };
        let options = Options {
            concurrency: query::first(query, "concurrency").unwrap_or_default(),
            consistency: query::first(query, "consistency").unwrap_or_default(),
        };
        let (concurrency, consistency) = words(&options).map_err(|fault| failed(&fault.into()))?;
        let etag = call.head.headers.get(IF_MATCH).and_then(|etag| etag.to_str().ok()).map(Etag::from);
        let metadata = query::metadata(query);
        let delete = Delete { key: mine.key(key)?, etag, concurrency, consistency, metadata };
        let wanted = self.wanted(&mine.name);
        let patience = wanted.as_deref().map(|wanted| &wanted.outbound);
        let done = patience::ask(patience, &mine.name, delete, |one| mine.store.delete(one)).await;
        done.map_err(|error| failed(&error))?;
        Ok(empty())
    }

    pub(super) async fn bulk_get_state(&self, store: String, call: Call) -> Outcome {
        let mine = self.state(store)?;
        let body = self.body(call.body).await?;
        let Object(request): Object<BulkGet> =
            serde_json::from_slice(&body).map_err(|error| Refusal::malformed(&error))?;
        let metadata = merged(request.metadata, &query::metadata(call.head.uri.query()));
        let keys = request.keys.unwrap_or_default();
        let mut gets = Vec::with_capacity(keys.len());
        for key in &keys {
            gets.push(Get { key: mine.key(key)?, metadata: metadata.clone(), ..Get::default() });
        }
        let parallelism =
            request.parallelism.and_then(|wish| usize::try_from(wish).ok()).unwrap_or(0).min(256);
        let items = mine.store.get_many(&gets, parallelism).await;
        let items: Vec<BulkItem<'_>> =
            keys.iter().zip(items).map(|(key, item)| bulk_item(key, item)).collect();
        encoded(StatusCode::OK, &items)
    }

    pub(super) async fn transact(&self, store: String, call: Call) -> Outcome {
        let mine = self.state(store)?;
        let features = mine.store.features();
        if !features.transaction {
            let message = format!("state store {} doesn't support transactions", mine.name);
            return Err(Refusal::internal("ERR_STATE_STORE_NOT_SUPPORTED", message)
                .with_help(
                    "https://docs.dapr.io/reference/components-reference/supported-state-stores/",
                    "Check the list of state stores and the features they support",
                )
                .with_resource("state", &mine.name, "")
                .with_info("DAPR_STATE_TRANSACTIONS_NOT_SUPPORTED", &[]));
        }
        let body = self.body(call.body).await?;
        let Object(transaction): Object<Transaction> =
            serde_json::from_slice(&body).map_err(|error| Refusal::malformed(&error))?;
        let extra = query::metadata(call.head.uri.query());
        let mut operations = Vec::new();
        for Object(step) in transaction.operations.unwrap_or_default() {
            operations.push(operation(&mine, &step, &extra)?);
        }
        if operations.is_empty() {
            return Ok(empty());
        }
        if let Some(limit) = features.max_operations.filter(|limit| operations.len() > *limit) {
            return Err(too_many(&mine, operations.len(), limit));
        }
        let wanted = self.wanted(&mine.name);
        let patience = wanted.as_deref().map(|wanted| &wanted.outbound);
        let whole = (operations, merged(transaction.metadata, &extra));
        let done = patience::ask(patience, &mine.name, whole, |(operations, metadata)| {
            mine.store.transact(operations, metadata)
        })
        .await;
        match done {
            Ok(()) => Ok(empty()),
            Err(Error::TooManyOperations { given, limit }) => Err(too_many(&mine, given, limit)),
            Err(error) => Err(not_transacted(&mine, &error)),
        }
    }

    pub(super) fn query_state(&self, store: String) -> Outcome {
        let mine = self.state(store)?;
        Err(Refusal::internal("ERR_STATE_STORE_NOT_SUPPORTED", "state store does not support querying")
            .with_resource("state", &mine.name, "")
            .with_info("DAPR_STATE_QUERYING_NOT_SUPPORTED", &[]))
    }
}

fn must_be_named(key: &str) -> Result<(), Refusal> {
    match key.is_empty() {
        true => Err(Refusal::bad_request("ERR_MALFORMED_REQUEST", "\"key\" is a required field")),
        false => Ok(()),
    }
}

fn operation(mine: &Mine, step: &Step, extra: &Metadata) -> Result<Operation, Refusal> {
    let request = step.request.as_ref().map_or("{}", |raw| raw.get());
    let malformed = |error| Refusal::malformed(&error);
    match step.operation.as_str() {
        "upsert" => {
            let Object(upsert): Object<Upsert> = serde_json::from_str(request).map_err(malformed)?;
            must_be_named(&upsert.key)?;
            Ok(Operation::Upsert(mine.set(upsert, extra, not_transacted)?))
        }
        "delete" => {
            let Object(removal): Object<Removal> = serde_json::from_str(request).map_err(malformed)?;
            must_be_named(&removal.key)?;
            Ok(Operation::Delete(mine.removal(removal, extra, not_transacted)?))
        }
        other => {
            let message = format!("operation type {other} not supported");
            Err(Refusal::bad_request("ERR_NOT_SUPPORTED_STATE_OPERATION", message))
        }
    }
}

fn value_reply(item: &Item) -> Reply {
    let mut reply = json_reply(StatusCode::OK, item.value.clone());
    let headers = &mut reply.head.headers;
    if let Some(etag) = item.etag.as_ref().and_then(|etag| HeaderValue::from_str(etag.as_str()).ok()) {
        headers.insert(ETAG, etag);
    }
    if let Some((name, value)) = expiry(item) {
        let name = HeaderName::try_from(format!("metadata.{name}"));
        if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value)) {
            headers.insert(name, value);
        }
    }
    reply
}

fn bulk_item<'a>(key: &'a str, item: Result<Option<Item>, Error>) -> BulkItem<'a> {
    let nothing = BulkItem { key, data: None, etag: None, metadata: None, error: None };
    match item {
        Err(error) => BulkItem { error: Some(error.to_string()), ..nothing },
        Ok(None) => nothing,
        Ok(Some(item)) => {
            let etag = item.etag.as_ref().map(|etag| etag.as_str().to_owned());
            let metadata = expiry(&item).map(|(name, value)| BTreeMap::from([(name.to_owned(), value)]));
            match as_json(&item.value) {
                Ok(data) => BulkItem { data: Some(data), etag, metadata, ..nothing },
                Err(error) => BulkItem { error: Some(error), ..nothing },
            }
        }
    }
}

/// Values written through this API are JSON; those written by others may not be.
fn as_json(value: &Bytes) -> Result<Box<RawValue>, String> {
    serde_json::from_slice(value).map_err(|_| {
        "the value is no JSON, so it cannot stand in this answer; get the key by itself".to_owned()
    })
}
