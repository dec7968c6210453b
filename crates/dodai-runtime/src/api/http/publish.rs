//! The publish API: one message, or many.

use std::collections::BTreeSet;
use std::sync::Arc;

use base64::Engine as _;
use bytes::Bytes;
use dodai_capability::Metadata;
use dodai_capability::event::{self, Event, Origin};
use dodai_capability::metadata::{RAW_PAYLOAD, Ttl, lookup};
use dodai_capability::pubsub::{Broker, Publish};
use dodai_capability::scopes::{Topics, Use};
use dodai_core::call::{Call, Caller};
use dodai_core::trace::Span;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::object::Object;
use super::refusal::{Outcome, Refusal, empty, encoded};
use super::{Api, patience, query};
use crate::components::{Block, Live};

/// Messages in one bulk request at most.
const MAX_ENTRIES: usize = 10_000;

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
    error: String,
}

/// A topic of a broker that the app may publish to.
struct Target<'a> {
    _live: Arc<Live>,
    broker: Arc<dyn Broker>,
    pubsub: &'a str,
    topic: &'a str,
    app: &'a str,
}

/// What all messages of one request share.
struct Trace {
    parent: String,
    state: String,
}

impl Trace {
    fn of(head: &Parts, span: &Span) -> Trace {
        let state = head.headers.get("tracestate").and_then(|state| state.to_str().ok()).unwrap_or_default();
        Trace { parent: String::from_utf8_lossy(&span.traceparent()).into_owned(), state: state.to_owned() }
    }
}

fn pubsub_refusal(
    status: StatusCode,
    code: &'static str,
    reason: &str,
    pubsub: &str,
    message: String,
    metadata: &[(&str, &str)],
) -> Refusal {
    let refusal = Refusal::new(status, code, message.clone());
    refusal.with_resource("pubsub", pubsub, &message).with_info(reason, metadata)
}

impl Target<'_> {
    fn not_published(&self, error: &str) -> Refusal {
        let message =
            format!("error when publishing to topic {} in pubsub {}: {error}", self.topic, self.pubsub);
        pubsub_refusal(
            StatusCode::INTERNAL_SERVER_ERROR,
            "ERR_PUBSUB_PUBLISH_MESSAGE",
            "DAPR_PUBSUB_PUBLISH_MESSAGE",
            self.pubsub,
            message,
            &[("error", error), ("topic", self.topic)],
        )
    }

    fn bad_metadata(&self, error: &str) -> Refusal {
        let message = format!("failed deserializing metadata. Error: {error}");
        let reason = "DAPR_PUBSUB_METADATA_DESERIALIZATION";
        pubsub_refusal(
            StatusCode::BAD_REQUEST,
            "ERR_PUBSUB_REQUEST_METADATA",
            reason,
            self.pubsub,
            message,
            &[],
        )
    }

    fn bad_events(&self, reason: &str, message: String, error: &str) -> Refusal {
        let metadata = [("appID", self.app), ("error", error)];
        pubsub_refusal(
            StatusCode::BAD_REQUEST,
            "ERR_PUBSUB_EVENTS_SER",
            reason,
            self.pubsub,
            message,
            &metadata,
        )
    }

    /// The message for the broker: in an envelope, unless the publisher wants it raw.
    fn message(
        &self,
        data: Bytes,
        content_type: &str,
        metadata: Metadata,
        trace: &Trace,
    ) -> Result<Publish, Refusal> {
        let raw = is_raw(&metadata).map_err(|error| self.bad_metadata(&error))?;
        let ttl =
            Ttl::from_metadata(&metadata).map_err(|fault| self.bad_metadata(&fault.to_string()))?.limit();
        let by_broker = self.broker.features().ttl;
        let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let (data, content_type) = if raw {
            (data, given(content_type))
        } else {
            let origin = Origin {
                id: &event::new_id(),
                source: self.app,
                topic: self.topic,
                pubsub: self.pubsub,
                content_type,
                trace_parent: &trace.parent,
                trace_state: &trace.state,
                now: std::time::SystemTime::now(),
                ttl: ttl.filter(|_| !by_broker),
                metadata: &metadata,
            };
            let event = Event::publish(&data, &origin).map_err(|error| {
                let error = error.to_string();
                let metadata = [("appID", self.app), ("error", error.as_str())];
                pubsub_refusal(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "ERR_PUBSUB_CLOUD_EVENTS_SER",
                    "DAPR_PUBSUB_CLOUD_EVENT_CREATION",
                    self.pubsub,
                    "cannot create cloudevent".to_owned(),
                    &metadata,
                )
            })?;
            (event.to_bytes(), Some(event::MEDIA_TYPE.to_owned()))
        };
        let ttl = ttl.filter(|_| by_broker);
        Ok(Publish { topic: self.topic.to_owned(), data, content_type, ttl, metadata })
    }
}

/// Truth values as Go's `strconv.ParseBool` takes them.
fn is_raw(metadata: &Metadata) -> Result<bool, String> {
    match lookup(metadata, RAW_PAYLOAD).unwrap_or_default() {
        "" | "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        other => Err(format!("rawPayload value must be a valid boolean: actual is '{other}'")),
    }
}

impl Api {
    /// What may be published to. The base itself calls for an operator, to whom scopes of apps do not apply.
    fn target<'a>(&'a self, pubsub: &'a str, topic: &'a str, caller: &Caller) -> Result<Target<'a>, Refusal> {
        let is_operator = *caller == Caller::Base;
        let (live, broker) = if is_operator {
            let own = self
                .shared
                .components
                .own(&self.app.namespace, Block::Pubsub, pubsub, |all| all.pubsub.clone());
            own.map_err(|error| Refusal::bad_request("ERR_PUBSUB_NOT_FOUND", error.to_string()))?
        } else {
            self.component(Block::Pubsub, pubsub, |all| all.pubsub.clone())?
        };
        let not_found = StatusCode::NOT_FOUND;
        if topic.is_empty() {
            let message = format!("topic is empty in pubsub {pubsub}");
            let reason = "DAPR_PUBSUB_TOPIC_NAME_EMPTY";
            return Err(pubsub_refusal(not_found, "ERR_TOPIC_NAME_EMPTY", reason, pubsub, message, &[]));
        }
        let app = self.app.name.as_str();
        let topics = Topics::new(&live.component.spec.properties, app);
        if !is_operator && !topics.allow(Use::Publish, topic) {
            let message = format!("topic {topic} is not allowed for app id {app}");
            let metadata = [("error", message.as_str()), ("topic", topic)];
            let (code, reason) = ("ERR_PUBSUB_FORBIDDEN", "DAPR_PUBSUB_FORBIDDEN");
            return Err(pubsub_refusal(
                StatusCode::FORBIDDEN,
                code,
                reason,
                pubsub,
                message.clone(),
                &metadata,
            ));
        }
        Ok(Target { _live: live, broker, pubsub, topic, app })
    }

    pub(super) async fn publish(&self, pubsub: &str, topic: String, call: Call) -> Outcome {
        let target = self.target(pubsub, &topic, &call.context.caller)?;
        let data = self.body(call.body).await?;
        let trace = Trace::of(&call.head, &call.context.span);
        let content_type = call.head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let metadata = query::metadata(call.head.uri.query());
        let message = target.message(data, content_type.unwrap_or_default(), metadata, &trace)?;
        let wanted = self.wanted(pubsub);
        let patience = wanted.as_deref().map(|wanted| &wanted.outbound);
        let published = patience::ask(patience, pubsub, message, |one| target.broker.publish(one)).await;
        published.map_err(|error| target.not_published(&error.to_string()))?;
        Ok(empty())
    }

    pub(super) async fn bulk_publish(&self, pubsub: &str, topic: &str, call: Call) -> Outcome {
        let target = self.target(pubsub, topic, &call.context.caller)?;
        let request = query::metadata(call.head.uri.query());
        let body = self.body(call.body).await?;
        let entries: Vec<Object<Entry>> = serde_json::from_slice(&body).map_err(|error| {
            let message =
                format!("error when unmarshaling the request for topic {topic} pubsub {pubsub}: {error}");
            target.bad_events("DAPR_PUBSUB_UNMARSHAL_EVENTS", message, &error.to_string())
        })?;
        let trace = Trace::of(&call.head, &call.context.span);
        let marshal = |error: &str| {
            let message =
                format!("error marshaling events to bytes for topic {topic} pubsub {pubsub}. error: {error}");
            target.bad_events("DAPR_PUBSUB_MARSHAL_EVENTS", message, error)
        };
        if entries.len() > MAX_ENTRIES {
            return Err(marshal(&format!(
                "{} entries in one request; send at most {MAX_ENTRIES}",
                entries.len()
            )));
        }
        let mut seen = BTreeSet::new();
        let mut messages = Vec::with_capacity(entries.len());
        for Object(entry) in &entries {
            if entry.entry_id.is_empty() || !seen.insert(entry.entry_id.as_str()) {
                return Err(marshal("entryId is duplicated or not present for entry"));
            }
            let data = event_bytes(entry).map_err(|error| {
                let message = format!(
                    "error when marshalling cloud event envelope for topic {topic} pubsub {pubsub}: {error}"
                );
                target.bad_events("DAPR_PUBSUB_MARSHAL_ENVELOPE", message, &error)
            })?;
            // What an entry says wins over the request's parameters.
            let mut metadata = request.clone();
            metadata.extend(entry.metadata.clone().unwrap_or_default());
            messages.push(target.message(data, &entry.content_type, metadata, &trace)?);
        }
        if messages.is_empty() {
            return Ok(empty());
        }
        let results = target.broker.publish_many(messages).await;
        let failed: Vec<FailedEntry<'_>> = entries
            .iter()
            .zip(results)
            .filter_map(|(Object(entry), result)| {
                result.err().map(|error| FailedEntry { entry_id: &entry.entry_id, error: error.to_string() })
            })
            .collect();
        if failed.is_empty() { Ok(empty()) } else { partly_failed(&target, failed) }
    }
}

fn partly_failed(target: &Target<'_>, failed: Vec<FailedEntry<'_>>) -> Outcome {
    let first = failed.first().map(|entry| entry.error.clone()).unwrap_or_default();
    let told = target.not_published(&first);
    let body = BulkFailure { failed_entries: failed, error_code: told.code };
    let mut reply = encoded(told.status, &body)?;
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
