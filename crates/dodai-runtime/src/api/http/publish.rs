//! The publish API over HTTP: one message, or many.

use base64::Engine as _;
use bytes::Bytes;
use dodai_capability::Metadata;
use dodai_capability::event;
use dodai_core::call::Call;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::object::Object;
use super::query;
use super::reply::{Outcome, empty, encoded};
use crate::api::Api;
use crate::api::publish::{self, Failed, Target, Trace};

/// daprd reads names without regard to case, so clients spell them in several ways.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(default, alias = "entryID", alias = "EntryId", alias = "EntryID", alias = "entryid")]
    entry_id: String,
    #[serde(alias = "Event")]
    event: Option<Box<RawValue>>,
    #[serde(default, alias = "ContentType", alias = "contenttype")]
    content_type: String,
    #[serde(default)]
    metadata: Option<Metadata>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BulkFailure<'a> {
    failed_entries: Vec<FailedEntry<'a>>,
    error_code: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FailedEntry<'a> {
    entry_id: &'a str,
    error: &'a str,
}

fn trace_of(call: &Call) -> Trace {
    let state = call.head.headers.get("tracestate").and_then(|state| state.to_str().ok());
    Trace::new(&call.context.span, state.unwrap_or_default())
}

impl Api {
    pub(super) async fn http_publish(&self, pubsub: &str, topic: String, call: Call) -> Outcome {
        let target = self.target(pubsub, &topic, &call.context.caller)?;
        let trace = trace_of(&call);
        let data = self.body(call.body).await?;
        let content_type = call.head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let metadata = query::metadata(call.head.uri.query());
        self.publish(&target, data, content_type.unwrap_or_default(), metadata, &trace).await?;
        Ok(empty())
    }

    pub(super) async fn http_bulk_publish(&self, pubsub: &str, topic: &str, call: Call) -> Outcome {
        let target = self.target(pubsub, topic, &call.context.caller)?;
        let request = query::metadata(call.head.uri.query());
        let trace = trace_of(&call);
        let body = self.body(call.body).await?;
        let entries: Vec<Object<Entry>> = serde_json::from_slice(&body).map_err(|error| {
            let message =
                format!("error when unmarshaling the request for topic {topic} pubsub {pubsub}: {error}");
            target.bad_events("DAPR_PUBSUB_UNMARSHAL_EVENTS", message, &error.to_string())
        })?;
        target.check_ids(entries.iter().map(|Object(entry)| entry.entry_id.as_str()))?;
        let mut messages = Vec::with_capacity(entries.len());
        for Object(entry) in entries {
            let data = event_bytes(&entry).map_err(|error| {
                let message = format!(
                    "error when marshalling cloud event envelope for topic {topic} pubsub {pubsub}: {error}"
                );
                target.bad_events("DAPR_PUBSUB_MARSHAL_ENVELOPE", message, &error)
            })?;
            let Entry { entry_id, content_type, metadata, .. } = entry;
            let metadata = metadata.unwrap_or_default();
            messages.push(publish::Entry { id: entry_id, data, content_type, metadata });
        }
        let failed = self.publish_many(&target, messages, &request, &trace).await?;
        if failed.is_empty() { Ok(empty()) } else { partly_failed(&target, &failed) }
    }
}

fn partly_failed(target: &Target<'_>, failed: &[Failed]) -> Outcome {
    let told = target.not_published(failed.first().map_or("", |first| first.error.as_str()));
    let failed_entries =
        failed.iter().map(|one| FailedEntry { entry_id: &one.id, error: &one.error }).collect();
    let mut reply = encoded(told.status, &BulkFailure { failed_entries, error_code: told.code })?;
    if let Ok(error) = HeaderValue::try_from(told.message) {
        reply.head.headers.insert(HeaderName::from_static("metadata.error"), error);
    }
    Ok(reply)
}

/// The bytes of an entry's event by its content type, as daprd turns them: JSON as it is, text without its
/// quotes, binary from base64.
fn event_bytes(entry: &Entry) -> Result<Bytes, String> {
    let json = entry.event.as_ref().map_or("null", |event| event.get());
    let essence = entry.content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if event::is_json(&essence) || event::is_event(&essence) {
        return Ok(Bytes::copy_from_slice(json.as_bytes()));
    }
    let text: Option<String> = serde_json::from_str(json).ok();
    if essence == "application/octet-stream" {
        let bytes = text.and_then(|text| base64::engine::general_purpose::STANDARD.decode(text).ok());
        return bytes
            .map(Bytes::from)
            .ok_or_else(|| "the event is no base64 text, which its contentType asks for".into());
    }
    text.map(Bytes::from).ok_or_else(|| {
        format!(
            "the event is no text, which contentType `{}` asks for; give text, or application/json",
            entry.content_type
        )
    })
}
