//! Publishing as apps do it: scopes of topics, the envelope around each message, one message or many.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use dodai_capability::Metadata;
use dodai_capability::event::{self, Event, Origin};
use dodai_capability::metadata::{RAW_PAYLOAD, Ttl, lookup};
use dodai_capability::pubsub::{Broker, Publish};
use dodai_capability::scopes::{Topics, Use};
use dodai_core::call::Caller;
use dodai_core::trace::Span;
use http::StatusCode;

use super::refusal::Refusal;
use super::{Api, MAX_TOPIC, patience};
use crate::components::{Block, Live};
use crate::delivery::stream::{Events, NotBegun, Streamed};

/// Messages in one bulk request at most.
const MAX_ENTRIES: usize = 10_000;

/// One of many messages.
pub(super) struct Entry {
    pub id: String,
    pub data: Bytes,
    pub content_type: String,
    /// Wins over what the request says.
    pub metadata: Metadata,
}

/// One of many messages that was not published.
pub(super) struct Failed {
    pub id: String,
    pub error: String,
}

/// A topic of a broker that the app may publish to.
pub(super) struct Target<'a> {
    _live: Arc<Live>,
    broker: Arc<dyn Broker>,
    pubsub: &'a str,
    topic: &'a str,
    app: &'a str,
}

/// What all messages of one request share.
pub(super) struct Trace {
    parent: String,
    state: String,
}

impl Trace {
    /// Of a request that belongs to `span`, with the vendor part of its trace context.
    pub fn new(span: &Span, state: &str) -> Trace {
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

fn topic_empty(pubsub: &str) -> Refusal {
    let message = format!("topic is empty in pubsub {pubsub}");
    let (code, reason) = ("ERR_TOPIC_NAME_EMPTY", "DAPR_PUBSUB_TOPIC_NAME_EMPTY");
    pubsub_refusal(StatusCode::NOT_FOUND, code, reason, pubsub, message, &[])
}

/// Brokers keep names of topics with every message and in keys of their own.
fn topic_too_long(pubsub: &str, topic: &str) -> Refusal {
    let message = format!(
        "the name of the topic has {} bytes, and one has {MAX_TOPIC} at most in pubsub {pubsub}",
        topic.len()
    );
    Refusal::bad_request("ERR_TOPIC_NAME_TOO_LONG", message.clone())
        .with_resource("pubsub", pubsub, &message)
        .with_info("DODAI_PUBSUB_TOPIC_NAME_TOO_LONG", &[])
}

fn topic_forbidden(pubsub: &str, topic: &str, app: &str) -> Refusal {
    let message = format!("topic {topic} is not allowed for app id {app}");
    let metadata = [("error", message.as_str()), ("topic", topic)];
    let (code, reason) = ("ERR_PUBSUB_FORBIDDEN", "DAPR_PUBSUB_FORBIDDEN");
    pubsub_refusal(StatusCode::FORBIDDEN, code, reason, pubsub, message.clone(), &metadata)
}

impl Target<'_> {
    pub fn not_published(&self, error: &str) -> Refusal {
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

    pub fn bad_events(&self, reason: &str, message: String, error: &str) -> Refusal {
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

impl Target<'_> {
    fn not_marshalled(&self, error: &str) -> Refusal {
        let Target { pubsub, topic, .. } = self;
        let message =
            format!("error marshaling events to bytes for topic {topic} pubsub {pubsub}. error: {error}");
        self.bad_events("DAPR_PUBSUB_MARSHAL_EVENTS", message, error)
    }

    /// Refuses more messages than one request may have, and such as cannot be told apart.
    pub fn check_ids<'a>(&self, ids: impl ExactSizeIterator<Item = &'a str>) -> Result<(), Refusal> {
        let many = ids.len();
        if many > MAX_ENTRIES {
            let error = format!("{many} entries in one request; send at most {MAX_ENTRIES}");
            return Err(self.not_marshalled(&error));
        }
        let mut seen = BTreeSet::new();
        for id in ids {
            if id.is_empty() || !seen.insert(id) {
                return Err(self.not_marshalled("entryId is duplicated or not present for entry"));
            }
        }
        Ok(())
    }
}

impl Api {
    /// Starts a subscription that one caller reads as a stream.
    pub(super) async fn stream_topic(&self, wish: Streamed) -> Result<Events, Refusal> {
        let Streamed { pubsub, topic, .. } = &wish;
        let (live, _broker) = self.component(Block::Pubsub, pubsub, |all| all.pubsub.clone())?;
        if topic.is_empty() {
            return Err(topic_empty(pubsub));
        }
        if topic.len() > MAX_TOPIC {
            return Err(topic_too_long(pubsub, topic));
        }
        let app = self.app.name.as_str();
        if !Topics::new(&live.component.spec.properties, app).allow(Use::Subscribe, topic) {
            return Err(topic_forbidden(pubsub, topic, app));
        }
        let about = format!("topic {topic} of pubsub {pubsub}");
        self.shared.deliveries.stream(&self.app, wish).await.map_err(|not_begun| match not_begun {
            NotBegun::TooMany(most) => Refusal::new(
                StatusCode::TOO_MANY_REQUESTS,
                "ERR_PUBSUB_TOO_MANY_STREAMS",
                format!("cannot subscribe to {about}: the app reads {most} streams already; end one first"),
            ),
            NotBegun::NotJoined(problem) => Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "ERR_PUBSUB_SUBSCRIBE",
                format!("cannot subscribe to {about}: {problem}"),
            ),
        })
    }

    /// What may be published to. The base itself calls for an operator, to whom scopes of apps do not apply.
    pub(super) fn target<'a>(
        &'a self,
        pubsub: &'a str,
        topic: &'a str,
        caller: &Caller,
    ) -> Result<Target<'a>, Refusal> {
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
        if topic.is_empty() {
            return Err(topic_empty(pubsub));
        }
        if topic.len() > MAX_TOPIC {
            return Err(topic_too_long(pubsub, topic));
        }
        let app = self.app.name.as_str();
        let topics = Topics::new(&live.component.spec.properties, app);
        if !is_operator && !topics.allow(Use::Publish, topic) {
            return Err(topic_forbidden(pubsub, topic, app));
        }
        Ok(Target { _live: live, broker, pubsub, topic, app })
    }

    pub(super) async fn publish(
        &self,
        target: &Target<'_>,
        data: Bytes,
        content_type: &str,
        metadata: Metadata,
        trace: &Trace,
    ) -> Result<(), Refusal> {
        let message = target.message(data, content_type, metadata, trace)?;
        let wanted = self.wanted(target.pubsub);
        let patience = wanted.as_deref().map(|wanted| &wanted.outbound);
        let published =
            patience::ask(patience, target.pubsub, message, |one| target.broker.publish(one)).await;
        published.map_err(|error| target.not_published(&error.to_string()))
    }

    /// Publishes many messages, whose ids were checked. The answer names those that were not published.
    pub(super) async fn publish_many(
        &self,
        target: &Target<'_>,
        entries: Vec<Entry>,
        request: &Metadata,
        trace: &Trace,
    ) -> Result<Vec<Failed>, Refusal> {
        let mut ids = Vec::with_capacity(entries.len());
        let mut messages = Vec::with_capacity(entries.len());
        for Entry { id, data, content_type, metadata } in entries {
            let mut all = request.clone();
            all.extend(metadata);
            messages.push(target.message(data, &content_type, all, trace)?);
            ids.push(id);
        }
        if messages.is_empty() {
            return Ok(Vec::new());
        }
        let results = target.broker.publish_many(messages).await;
        let failed = ids.into_iter().zip(results).filter_map(|(id, result)| {
            let error = result.err()?.to_string();
            Some(Failed { id, error })
        });
        Ok(failed.collect())
    }
}
