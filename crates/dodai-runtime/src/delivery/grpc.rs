//! What apps are brought over gRPC, and what their answers mean.

use std::collections::HashMap;

use dodai_capability::event::{self, Event};
use dodai_capability::pubsub::Delivery;
use dodai_core::failure::Failure;
use dodai_proto::apps::dapr::proto::runtime::v1::topic_event_bulk_request_entry::Event as Entry;
use dodai_proto::apps::dapr::proto::runtime::v1::topic_event_response::TopicEventResponseStatus as Status;
use dodai_proto::apps::dapr::proto::runtime::v1::{
    TopicEventBulkRequest, TopicEventBulkRequestEntry, TopicEventBulkResponse, TopicEventCeRequest,
    TopicEventRequest, TopicEventResponse,
};
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};

use super::bulk::BULK_TYPE;
use super::plan::Plan;
use super::verdict::Verdict;
use crate::callback::Unanswered;

/// Attributes that have fields of their own.
const FIELDS: [&str; 9] =
    ["id", "source", "type", "specversion", "datacontenttype", "data", "data_base64", "topic", "pubsubname"];

/// An event for the app; `path` is that of the rule that matched.
pub(super) fn event(event: &Event, path: &str, plan: &Plan) -> TopicEventRequest {
    let TopicEventCeRequest { id, source, r#type, spec_version, data_content_type, data, extensions } =
        attributes(event);
    TopicEventRequest {
        id,
        source,
        r#type,
        spec_version,
        data_content_type,
        data,
        topic: plan.topic.clone(),
        pubsub_name: plan.pubsub.clone(),
        path: path.to_owned(),
        extensions,
    }
}

fn attributes(event: &Event) -> TopicEventCeRequest {
    let text = |name: &str| event.text(name).unwrap_or_default();
    let others = event.names().filter(|name| !FIELDS.contains(name));
    let fields = others.filter_map(|name| Some((name.to_owned(), value(event.json(name)?))));
    TopicEventCeRequest {
        id: text("id"),
        source: text("source"),
        r#type: text("type"),
        spec_version: text("specversion"),
        data_content_type: text("datacontenttype"),
        data: event.data().map(event::Data::into_bytes).unwrap_or_default(),
        extensions: Some(Struct { fields: fields.collect() }),
    }
}

fn value(json: &str) -> Value {
    serde_json::from_str(json).map_or_else(|_| Value::default(), value_of)
}

/// A JSON value as Protocol Buffers have it.
pub(crate) fn value_of(json: serde_json::Value) -> Value {
    let kind = match json {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(truth) => Kind::BoolValue(truth),
        serde_json::Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        serde_json::Value::String(text) => Kind::StringValue(text),
        serde_json::Value::Array(list) => {
            Kind::ListValue(ListValue { values: list.into_iter().map(value_of).collect() })
        }
        serde_json::Value::Object(pairs) => {
            let fields = pairs.into_iter().map(|(name, json)| (name, value_of(json)));
            Kind::StructValue(Struct { fields: fields.collect() })
        }
    };
    Value { kind: Some(kind) }
}

/// What an app's answer means for one message. An app that does not have the call never will take it.
pub(super) fn verdict(answer: Result<TopicEventResponse, Unanswered>) -> Result<Verdict, Failure> {
    match answer {
        Ok(answer) => Ok(of_status(answer.status)),
        Err(unanswered) => refused(unanswered),
    }
}

fn refused(unanswered: Unanswered) -> Result<Verdict, Failure> {
    if unanswered.is_unimplemented() {
        return Ok(Verdict::Dropped("the app answered UNIMPLEMENTED".into()));
    }
    match unanswered {
        Unanswered::Failed(failure) => Err(failure),
        unanswered @ Unanswered::Refused(_) => Ok(Verdict::Again(unanswered.told())),
    }
}

/// What a status of `TopicEventResponse` means.
pub(super) fn of_status(status: i32) -> Verdict {
    match Status::try_from(status) {
        Ok(Status::Success) => Verdict::Taken,
        Ok(Status::Retry) => Verdict::Again("the app answered RETRY".into()),
        Ok(Status::Drop) => Verdict::Dropped("the app answered DROP".into()),
        Err(_) => Verdict::Again(format!("the app answered with the unknown status {status}")),
    }
}

/// Many events for one path.
pub(super) fn events(
    plan: &Plan,
    path: &str,
    deliveries: &[Delivery],
    events: &[Event],
) -> TopicEventBulkRequest {
    let raw = plan.is_raw();
    let entries = deliveries.iter().zip(events).map(|(delivery, event)| {
        let (content_type, entry) = if raw {
            ("application/octet-stream", Entry::Bytes(delivery.message.data.clone()))
        } else {
            (event::MEDIA_TYPE, Entry::CloudEvent(attributes(event)))
        };
        TopicEventBulkRequestEntry {
            entry_id: delivery.message.id.clone(),
            content_type: content_type.to_owned(),
            metadata: delivery.message.metadata.clone(),
            event: Some(entry),
        }
    });
    TopicEventBulkRequest {
        id: event::new_id(),
        entries: entries.collect(),
        metadata: plan.metadata.clone(),
        topic: plan.topic.clone(),
        pubsub_name: plan.pubsub.clone(),
        r#type: BULK_TYPE.to_owned(),
        path: path.to_owned(),
    }
}

/// What an app's answer means for each of many messages; one that it does not speak of is tried again.
pub(super) fn verdicts(
    answer: Result<TopicEventBulkResponse, Unanswered>,
    ids: &[&str],
) -> Result<Vec<Verdict>, Failure> {
    let answer = match answer {
        Ok(answer) => answer,
        Err(unanswered) => return refused(unanswered).map(|verdict| vec![verdict; ids.len()]),
    };
    let told: HashMap<&str, i32> =
        answer.statuses.iter().map(|one| (one.entry_id.as_str(), one.status)).collect();
    let of_one = |id: &&str| match told.get(id) {
        Some(status) => of_status(*status),
        None => Verdict::Again("the app's answer does not speak of it".into()),
    };
    Ok(ids.iter().map(of_one).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_without_a_field_are_extensions() {
        let event =
            br#"{"id":"1","source":"s","type":"t","specversion":"1.0","datacontenttype":"application/json",
            "data":{"n":1},"traceid":"x","own":{"deep":[1,true,null]}}"#;
        let told = attributes(&Event::parse(event).expect("an event"));
        assert_eq!((told.id.as_str(), &told.data[..]), ("1", &br#"{"n":1}"#[..]));
        let fields = told.extensions.expect("extensions").fields;
        assert_eq!(fields.keys().collect::<Vec<_>>(), ["own", "traceid"]);
    }

    #[test]
    fn statuses_are_verdicts() {
        let one = |status| matches!(of_status(status), Verdict::Taken);
        assert_eq!([0, 1, 2, 9].map(one), [true, false, false, false]);
        let statuses = [("a", 0), ("b", 2)].map(|(id, status)| {
            dodai_proto::apps::dapr::proto::runtime::v1::TopicEventBulkResponseEntry {
                entry_id: id.to_owned(),
                status,
            }
        });
        let answer = TopicEventBulkResponse { statuses: statuses.into() };
        let told = verdicts(Ok(answer), &["b", "a", "c"]).expect("verdicts");
        assert!(matches!(told[..], [Verdict::Dropped(_), Verdict::Taken, Verdict::Again(_)]), "{told:?}");
    }
}
