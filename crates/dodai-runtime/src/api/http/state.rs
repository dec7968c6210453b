//! The state API over HTTP: save, get, delete, bulk get, transactions.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use dodai_capability::Metadata;
use dodai_capability::state::{Error, Item};
use dodai_core::call::{Call, Reply};
use http::header::{ETAG, IF_MATCH};
use http::{HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::object::Object;
use super::query;
use super::reply::{Outcome, empty, encoded, json_reply};
use crate::api::Api;
use crate::api::refusal::Refusal;
use crate::api::state::{Options, Removal, Step, Write, expiry, unknown_operation};

/// What is to be written or, without its value, removed.
#[derive(Deserialize)]
struct Wish {
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
    operations: Option<Vec<Object<Operation>>>,
    #[serde(default)]
    metadata: Option<Metadata>,
}

#[derive(Deserialize)]
struct Operation {
    #[serde(default)]
    operation: String,
    #[serde(default)]
    request: Option<Box<RawValue>>,
}

impl Wish {
    fn write(self, extra: &Metadata) -> Write {
        let value = self.value;
        let value =
            value.map_or(Bytes::from_static(b"null"), |raw| Bytes::from(String::from(Box::<str>::from(raw))));
        let options = self.options.unwrap_or_default().0;
        Write { key: self.key, value, etag: self.etag, options, metadata: merged(self.metadata, extra) }
    }

    fn removal(self, extra: &Metadata) -> Removal {
        let options = self.options.unwrap_or_default().0;
        Removal { key: self.key, etag: self.etag, options, metadata: merged(self.metadata, extra) }
    }
}

/// Parameters of the request win over what its body says.
fn merged(own: Option<Metadata>, extra: &Metadata) -> Metadata {
    let mut own = own.unwrap_or_default();
    own.extend(extra.iter().map(|(name, value)| (name.clone(), value.clone())));
    own
}

impl Api {
    pub(super) async fn http_save_state(&self, store: String, call: Call) -> Outcome {
        let mine = self.state(store)?;
        let body = self.body(call.body).await?;
        // Null counts as an empty list, as in daprd.
        let wishes: Option<Vec<Object<Wish>>> = serde_json::from_slice(&body)
            .map_err(|error| Refusal::bad_request("ERR_MALFORMED_REQUEST", error.to_string()))?;
        let extra = query::metadata(call.head.uri.query());
        let writes = wishes.unwrap_or_default().into_iter().map(|Object(wish)| wish.write(&extra));
        self.save_state(&mine, writes.collect()).await?;
        Ok(empty())
    }

    pub(super) async fn http_get_state(&self, store: String, key: &str, call: Call) -> Outcome {
        let mine = self.state(store)?;
        let query = call.head.uri.query();
        let consistency = query::first(query, "consistency").unwrap_or_default();
        let item = self.get_state(&mine, key, Cow::Owned(consistency), query::metadata(query)).await?;
        Ok(item.map_or_else(empty, |item| value_reply(&item)))
    }

    pub(super) async fn http_delete_state(&self, store: String, key: String, call: Call) -> Outcome {
        let mine = self.state(store)?;
        let query = call.head.uri.query();
        let word = |name| Cow::Owned(query::first(query, name).unwrap_or_default());
        let options = Options { concurrency: word("concurrency"), consistency: word("consistency") };
        let etag = call.head.headers.get(IF_MATCH).and_then(|etag| etag.to_str().ok()).map(str::to_owned);
        let removal = Removal { key, etag, options, metadata: query::metadata(query) };
        self.delete_state(&mine, removal).await?;
        Ok(empty())
    }

    pub(super) async fn http_bulk_get_state(&self, store: String, call: Call) -> Outcome {
        let mine = self.state(store)?;
        let body = self.body(call.body).await?;
        let Object(request): Object<BulkGet> =
            serde_json::from_slice(&body).map_err(|error| Refusal::malformed(&error))?;
        let metadata = merged(request.metadata, &query::metadata(call.head.uri.query()));
        let keys = request.keys.unwrap_or_default();
        let items = self.get_states(&mine, &keys, request.parallelism.unwrap_or(0), &metadata).await?;
        let items: Vec<BulkItem<'_>> =
            keys.iter().zip(items).map(|(key, item)| bulk_item(key, item)).collect();
        encoded(StatusCode::OK, &items)
    }

    pub(super) async fn http_transact(&self, store: String, call: Call) -> Outcome {
        let mine = self.transactional_state(store)?;
        let body = self.body(call.body).await?;
        let Object(transaction): Object<Transaction> =
            serde_json::from_slice(&body).map_err(|error| Refusal::malformed(&error))?;
        let extra = query::metadata(call.head.uri.query());
        let operations = transaction.operations.unwrap_or_default();
        let steps: Result<Vec<Step>, Refusal> =
            operations.iter().map(|Object(operation)| step(operation, &extra)).collect();
        self.transact(&mine, steps?, merged(transaction.metadata, &extra)).await?;
        Ok(empty())
    }
}

fn step(operation: &Operation, extra: &Metadata) -> Result<Step, Refusal> {
    let request = operation.request.as_ref().map_or("{}", |raw| raw.get());
    let wish = || {
        let wish: Result<Object<Wish>, _> = serde_json::from_str(request);
        wish.map(|Object(wish)| wish).map_err(|error| Refusal::malformed(&error))
    };
    match operation.operation.as_str() {
        "upsert" => Ok(Step::Upsert(wish()?.write(extra))),
        "delete" => Ok(Step::Delete(wish()?.removal(extra))),
        other => Err(unknown_operation(other)),
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
