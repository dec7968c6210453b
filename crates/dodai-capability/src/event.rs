//! Event envelopes: CloudEvents 1.0 in JSON, with the fields that Dapr's subscribers look for.
//!
//! Pure: times and ids come in as arguments. JSON data passes through as text, so numbers of any size survive.
//! Data that is neither JSON nor text travels as base64, whatever its media type claims.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde_json::value::RawValue;

use crate::metadata::{Metadata, rfc3339};
use crate::pubsub::Message;

/// The media type of an event in JSON.
pub const MEDIA_TYPE: &str = "application/cloudevents+json";

const DEFAULT_SOURCE: &str = "Dapr";
const DEFAULT_TYPE: &str = "com.dapr.event.sent";
const DEFAULT_DATA_TYPE: &str = "text/plain";
const BINARY: &str = "application/octet-stream";

/// An event: named attributes, each a JSON value.
#[derive(Clone, Debug, Default)]
pub struct Event(BTreeMap<String, Box<RawValue>>);

/// The payload of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// A JSON value, as it was written.
    Json(String),
    /// Text.
    Text(String),
    /// Bytes.
    Binary(Vec<u8>),
}

impl Data {
    /// The payload as an app's API gives it out: the bytes that were published.
    pub fn into_bytes(self) -> Bytes {
        match self {
            Data::Json(text) | Data::Text(text) => text.into(),
            Data::Binary(bytes) => bytes.into(),
        }
    }
}

/// Why bytes are no event.
#[derive(Debug, thiserror::Error)]
#[error(
    "the data is published as {MEDIA_TYPE} but is no JSON object: {0}; publish an event, or name the data's own type"
)]
pub struct Malformed(#[from] serde_json::Error);

/// What the runtime knows about a message it publishes.
#[derive(Clone, Debug)]
pub struct Origin<'a> {
    /// The id if the publisher gives none; see [`new_id`].
    pub id: &'a str,
    /// Who publishes: the app's id; empty if unknown.
    pub source: &'a str,
    /// The topic.
    pub topic: &'a str,
    /// The component's name.
    pub pubsub: &'a str,
    /// The data's media type; empty if not given.
    pub content_type: &'a str,
    /// W3C trace context of the publishing call; empty if there is none.
    pub trace_parent: &'a str,
    /// The vendor part of it.
    pub trace_state: &'a str,
    /// The time of publishing.
    pub now: SystemTime,
    /// How long the message is worth delivering.
    pub ttl: Option<Duration>,
    /// Request metadata: `cloudevent.id`, `.source`, `.type`, `.subject`, `.traceid`, `.traceparent` and
    /// `.tracestate` override what is above. Names match without regard to case.
    pub metadata: &'a Metadata,
}

/// A fresh event id.
pub fn new_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// The id of the event that stands for a message without an envelope: the same in every delivery, and no other's, also
/// where a broker that began anew counts from the start again.
pub fn id_of(message: &Message, pubsub: &str) -> String {
    let published = message.published.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut hash = digest::Context::new(&digest::SHA256);
    for part in [pubsub.as_bytes(), message.topic.as_bytes(), message.id.as_bytes()] {
        hash.update(&part.len().to_be_bytes());
        hash.update(part);
    }
    hash.update(&published.as_nanos().to_be_bytes());
    let bytes = hash.finish();
    let first = bytes.as_ref().first_chunk().copied().unwrap_or_default();
    uuid::Builder::from_custom_bytes(first).into_uuid().to_string()
}

/// Whether a media type says that the data is an event already.
pub fn is_event(content_type: &str) -> bool {
    essence(content_type).eq_ignore_ascii_case(MEDIA_TYPE)
}

/// Whether a media type is JSON.
pub fn is_json(content_type: &str) -> bool {
    let essence = essence(content_type);
    essence.eq_ignore_ascii_case("application/json")
        || essence.len() > 5
            && essence.get(essence.len() - 5..).is_some_and(|end| end.eq_ignore_ascii_case("+json"))
}

fn essence(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

impl Event {
    /// Makes the event for what an app publishes: an event of its own is completed, other data is wrapped.
    ///
    /// # Errors
    /// The data should be an event and is no JSON object.
    pub fn publish(data: &[u8], origin: &Origin<'_>) -> Result<Event, Malformed> {
        let mut event = if is_event(origin.content_type) {
            Event::adopt(data, origin)?
        } else {
            Event::wrap(data, origin)
        };
        if let Some(ttl) = origin.ttl {
            event.put("expiration", &rfc3339(origin.now + ttl));
        }
        Ok(event)
    }

    fn wrap(data: &[u8], origin: &Origin<'_>) -> Event {
        let overriding = |name: &str| {
            let mut found = origin.metadata.iter().filter(|(key, value)| {
                let field = key.get(11..).filter(|_| key[..11].eq_ignore_ascii_case("cloudevent."));
                field.is_some_and(|field| field.eq_ignore_ascii_case(name)) && !value.is_empty()
            });
            found.next().map(|(_, value)| value.as_str())
        };
        let or = |text: &'static str, given: &str| {
            if given.is_empty() { text.to_owned() } else { given.to_owned() }
        };
        let data_type = or(DEFAULT_DATA_TYPE, origin.content_type);
        let trace =
            overriding("traceparent").or_else(|| overriding("traceid")).unwrap_or(origin.trace_parent);
        let mut event = Event::default();
        event.put("id", overriding("id").unwrap_or(origin.id));
        event.put("specversion", "1.0");
        event.put("datacontenttype", &data_type);
        event.put("source", overriding("source").unwrap_or(&or(DEFAULT_SOURCE, origin.source)));
        event.put("type", overriding("type").unwrap_or(DEFAULT_TYPE));
        event.put("topic", origin.topic);
        event.put("pubsubname", origin.pubsub);
        event.put("time", &rfc3339(origin.now));
        event.put("traceid", trace);
        event.put("traceparent", trace);
        event.put("tracestate", overriding("tracestate").unwrap_or(origin.trace_state));
        if let Some(subject) = overriding("subject") {
            event.put("subject", subject);
        }
        event.put_data(data, &data_type);
        event
    }

    /// Completes an event that the app made itself. What it says stays, but for the topic and the component.
    fn adopt(data: &[u8], origin: &Origin<'_>) -> Result<Event, Malformed> {
        let mut event = Event::parse(data)?;
        event.put("topic", origin.topic);
        event.put("pubsubname", origin.pubsub);
        event.fill("id", origin.id);
        event.fill("specversion", "1.0");
        event.fill("source", if origin.source.is_empty() { DEFAULT_SOURCE } else { origin.source });
        event.fill("type", DEFAULT_TYPE);
        event.fill("time", &rfc3339(origin.now));
        let trace = event.text("traceparent").unwrap_or_else(|| origin.trace_parent.to_owned());
        event.put("traceparent", &trace);
        event.fill("traceid", &trace);
        event.fill("tracestate", origin.trace_state);
        Ok(event)
    }

    /// The event that a subscriber is shown for a message that was published without an envelope.
    pub fn from_raw(data: &[u8], id: &str, topic: &str, pubsub: &str) -> Event {
        let mut event = Event::default();
        event.put("id", id);
        event.put("specversion", "1.0");
        event.put("datacontenttype", BINARY);
        event.put("source", DEFAULT_SOURCE);
        event.put("type", DEFAULT_TYPE);
        event.put("topic", topic);
        event.put("pubsubname", pubsub);
        event.put_data(data, BINARY);
        event
    }

    /// Reads an event from the bytes of a message.
    ///
    /// # Errors
    /// They are no JSON object.
    pub fn parse(data: &[u8]) -> Result<Event, Malformed> {
        Ok(Event(serde_json::from_slice(data)?))
    }

    /// The event as JSON.
    pub fn to_bytes(&self) -> Bytes {
        serde_json::to_vec(&self.0).expect("a map of texts to JSON texts is JSON").into()
    }

    /// An attribute as text, if it is a text that is not empty.
    pub fn text(&self, name: &str) -> Option<String> {
        serde_json::from_str::<String>(self.0.get(name)?.get()).ok().filter(|text| !text.is_empty())
    }

    /// An attribute as JSON.
    pub fn json(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| value.get())
    }

    /// The names of its attributes.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Its payload; `None` if it has none, or if its base64 is broken.
    pub fn data(&self) -> Option<Data> {
        if let Some(text) =
            self.json("data_base64").and_then(|json| serde_json::from_str::<String>(json).ok())
        {
            return BASE64.decode(text).ok().map(Data::Binary);
        }
        let data = self.json("data")?;
        let is_text = !is_json(&self.text("datacontenttype").unwrap_or_default());
        Some(match serde_json::from_str::<String>(data) {
            Ok(text) if is_text => Data::Text(text),
            Ok(_) | Err(_) => Data::Json(data.to_owned()),
        })
    }

    /// Whether it is past its `expiration`. One that cannot be read does not expire.
    pub fn has_expired(&self, now: SystemTime) -> bool {
        let expiration = self.text("expiration").and_then(|text| text.parse::<jiff::Timestamp>().ok());
        expiration.is_some_and(|at| SystemTime::from(at) < now)
    }

    fn put(&mut self, name: &str, text: &str) {
        let json = serde_json::value::to_raw_value(text).expect("a text is JSON");
        self.0.insert(name.to_owned(), json);
    }

    fn fill(&mut self, name: &str, text: &str) {
        if self.json(name).is_none_or(|value| value == "null" || value == "\"\"") {
            self.put(name, text);
        }
    }

    fn put_data(&mut self, data: &[u8], data_type: &str) {
        if is_json(data_type)
            && let Ok(json) = serde_json::from_slice::<Box<RawValue>>(data)
        {
            self.0.insert("data".to_owned(), json);
            return;
        }
        match std::str::from_utf8(data) {
            Ok(text) if !essence(data_type).eq_ignore_ascii_case(BINARY) => self.put("data", text),
            Ok(_) | Err(_) => self.put("data_base64", &BASE64.encode(data)),
        }
    }
}

#[cfg(test)]
mod tests;
