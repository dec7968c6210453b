//! Bulk delivery: several messages of one subscription in one call, with a verdict for each.
//!
//! Messages that one call carries go to one path, and several paths are called at once; those that cannot be delivered at
//! all leave the batch first.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use dodai_capability::event::{self, Event};
use dodai_capability::pubsub::{Delivery, Verdict as Settled};
use dodai_capability::{Metadata, pubsub};
use dodai_core::failure::Failure;
use dodai_core::trace::Span;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::{HeaderMap, Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::grpc;
use super::verdict::Verdict;
use super::worker::{Way, Worker};
use crate::callback::{Ask, is_unreachable};

/// The type of the envelope around a batch.
pub(super) const BULK_TYPE: &str = "com.dapr.event.sent.bulk";

#[derive(Serialize)]
struct Envelope<'a> {
    id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    topic: &'a str,
    pubsubname: &'a str,
    metadata: &'a Metadata,
    entries: Vec<Entry<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry<'a> {
    entry_id: &'a str,
    event: Box<RawValue>,
    metadata: &'a Metadata,
    content_type: &'static str,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    statuses: Option<Vec<Status>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    #[serde(default, alias = "entryID", alias = "EntryId", alias = "EntryID", alias = "entryid")]
    entry_id: String,
    #[serde(default)]
    status: Option<String>,
}

/// Paths of one subscription that are brought messages at once.
const MAX_PATHS: usize = 16;

/// Turns of a subscription of which so many deliveries may be under way at once.
pub(super) fn turns(concurrency: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(concurrency.min(MAX_PATHS)))
}

/// Messages for one path, in the order in which they came.
struct Batch {
    deliveries: Vec<Delivery>,
    events: Vec<Event>,
}

impl Worker {
    pub(super) async fn deliver_many(&self, deliveries: Vec<Delivery>, turns: &Semaphore) {
        let mut batches: BTreeMap<String, Batch> = BTreeMap::new();
        for delivery in deliveries {
            let event = match self.event(&delivery.message) {
                Ok(event) => event,
                Err(reason) => {
                    self.give_up(delivery, &reason).await;
                    continue;
                }
            };
            if event.has_expired(std::time::SystemTime::now()) {
                self.give_up(delivery, "it has expired").await;
                continue;
            }
            let Some(path) = self.plan.path(&event).map(str::to_owned) else {
                self.give_up(delivery, "no routing rule matches it").await;
                continue;
            };
            let nothing = Batch { deliveries: Vec::new(), events: Vec::new() };
            let batch = batches.entry(path).or_insert(nothing);
            batch.deliveries.push(delivery);
            batch.events.push(event);
        }
        self.deliver_batches(batches, turns).await;
    }

    /// Brings all paths their messages, as many at once as `turns` lets.
    async fn deliver_batches(&self, batches: BTreeMap<String, Batch>, turns: &Semaphore) {
        let one = |(path, batch): (String, Batch)| async move {
            let _turn = match turns.try_acquire() {
                Ok(turn) => Some(turn),
                Err(_) => self.wait_for_turn(&batch.deliveries, turns).await,
            };
            self.deliver_batch(&path, batch).await;
        };
        let mut running: FuturesUnordered<_> = batches.into_iter().map(one).collect();
        while running.next().await.is_some() {}
    }

    /// Waits until messages may be brought, keeping their leases; what begins late has all its time.
    async fn wait_for_turn<'a>(
        &self,
        deliveries: &[Delivery],
        turns: &'a Semaphore,
    ) -> Option<SemaphorePermit<'a>> {
        let lease = self.lease();
        let mut due = tokio::time::interval_at(Instant::now() + lease / 3, lease / 3);
        let mut turn = std::pin::pin!(turns.acquire());
        loop {
            // Cancel safe: the place in the queue is kept.
            let turn = tokio::select! {
                turn = &mut turn => turn.ok(),
                _ = due.tick() => None,
            };
            self.prolong(deliveries, lease).await;
            if turn.is_some() {
                return turn;
            }
        }
    }

    async fn deliver_batch(&self, path: &str, batch: Batch) {
        let Batch { deliveries, events } = batch;
        let parent = events.first().and_then(|event| event.text("traceparent"));
        let span = parent.and_then(|text| Span::parse(text.as_bytes())).map(|parent| parent.child());
        let span = span.unwrap_or_else(|| Span::root(false));
        let answered = loop {
            match self.ask_of_many(path, &deliveries, &events, span).await {
                Err(failure) if is_unreachable(&failure) => {
                    if !self.wait_for_app(&deliveries).await {
                        for delivery in deliveries {
                            let at_once = Settled::Retry { after: std::time::Duration::ZERO };
                            self.settle(delivery, at_once).await;
                        }
                        return;
                    }
                }
                answered => break answered,
            }
        };
        let verdicts = answered.unwrap_or_else(|failure| {
            deliveries.iter().map(|_| Verdict::Again(failure.detail.to_string())).collect()
        });
        for (delivery, verdict) in deliveries.into_iter().zip(verdicts) {
            match verdict {
                Verdict::Taken => self.settle(delivery, pubsub::Verdict::Ack).await,
                Verdict::Dropped(reason) => self.give_up(delivery, &reason).await,
                Verdict::Again(reason) => self.put_off(delivery, &reason).await,
            }
        }
    }

    async fn ask_of_many(
        &self,
        path: &str,
        deliveries: &[Delivery],
        events: &[Event],
        span: Span,
    ) -> Result<Vec<Verdict>, Failure> {
        let ids: Vec<&str> = deliveries.iter().map(|delivery| delivery.message.id.as_str()).collect();
        if matches!(self.way, Way::Grpc) {
            let timeout = self.hold(deliveries).await;
            let events = grpc::events(&self.plan, path, deliveries, events);
            let answer = self.inner().callbacks.on_bulk_topic_event(&self.app, timeout, span, events);
            return grpc::verdicts(answer.await, &ids);
        }
        let ask = Ask {
            method: Method::POST,
            path,
            content_type: "application/json",
            headers: HeaderMap::new(),
            body: self.envelope(deliveries, events),
            span,
        };
        let (status, body) = self.ask(ask, deliveries).await?;
        Ok(verdicts(status, &body, &ids))
    }

    fn envelope(&self, deliveries: &[Delivery], events: &[Event]) -> Bytes {
        let raw = self.plan.is_raw();
        let entries = deliveries.iter().zip(events).map(|(delivery, event)| Entry {
            entry_id: &delivery.message.id,
            event: if raw { in_base64(event) } else { as_json(event) },
            metadata: &delivery.message.metadata,
            content_type: if raw { "application/octet-stream" } else { event::MEDIA_TYPE },
        });
        let envelope = Envelope {
            id: event::new_id(),
            kind: BULK_TYPE,
            topic: &self.plan.topic,
            pubsubname: &self.plan.pubsub,
            metadata: &self.plan.metadata,
            entries: entries.collect(),
        };
        serde_json::to_vec(&envelope).expect("texts and JSON values are JSON").into()
    }
}

fn as_json(event: &Event) -> Box<RawValue> {
    let text = String::from_utf8_lossy(&event.to_bytes()).into_owned();
    RawValue::from_string(text).expect("an event is JSON")
}

/// A message without an envelope: its bytes in base64, which the event around it has already.
fn in_base64(event: &Event) -> Box<RawValue> {
    let text = event.json("data_base64").unwrap_or("\"\"").to_owned();
    RawValue::from_string(text).expect("an attribute of an event is JSON")
}

/// What an app's answer means for each message: as for single ones, but a message that the answer does not
/// speak of is tried again, and so is every message of an answer that cannot be read.
pub(super) fn verdicts(status: StatusCode, body: &[u8], ids: &[&str]) -> Vec<Verdict> {
    let all = |verdict: Verdict| vec![verdict; ids.len()];
    if status == StatusCode::NOT_FOUND {
        return all(Verdict::Dropped("the app answered 404".into()));
    }
    if !status.is_success() {
        return all(Verdict::Again(format!("the app answered {}", status.as_u16())));
    }
    let answer = match serde_json::from_slice::<Answer>(body) {
        Ok(answer) => answer.statuses.unwrap_or_default(),
        Err(error) => {
            return all(Verdict::Again(format!(
                "the app's answer to a bulk delivery cannot be read: {error}"
            )));
        }
    };
    let told: HashMap<&str, &str> =
        answer.iter().map(|one| (one.entry_id.as_str(), one.status.as_deref().unwrap_or_default())).collect();
    let of_one = |id: &&str| match told.get(id) {
        Some(&"SUCCESS") => Verdict::Taken,
        Some(&"DROP") => Verdict::Dropped("the app answered DROP".into()),
        Some(&("RETRY" | "")) => Verdict::Again("the app answered RETRY".into()),
        Some(other) => Verdict::Again(format!("the app answered with the unknown status `{other}`")),
        None => Verdict::Again("the app's answer does not speak of it".into()),
    };
    ids.iter().map(of_one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(status: u16, body: &str) -> Vec<&'static str> {
        let status = StatusCode::from_u16(status).expect("a status");
        let word = |verdict: &Verdict| match verdict {
            Verdict::Taken => "taken",
            Verdict::Dropped(_) => "dropped",
            Verdict::Again(_) => "again",
        };
        verdicts(status, body.as_bytes(), &["a", "b"]).iter().map(word).collect()
    }

    #[test]
    fn each_message_has_its_verdict() {
        let told = |a: &str, b: &str| {
            format!(
                r#"{{"statuses":[{{"entryId":"b","status":"{b}"}},{{"entryId":"a","status":"{a}"}},{{"entryId":"x"}}]}}"#
            )
        };
        assert_eq!(words(200, &told("SUCCESS", "DROP")), ["taken", "dropped"]);
        assert_eq!(words(200, &told("RETRY", "")), ["again", "again"]);
        assert_eq!(words(200, &told("success", "SUCCESS")), ["again", "taken"]);
        assert_eq!(words(200, r#"{"statuses":[{"entryID":"a","status":"SUCCESS"}]}"#), ["taken", "again"]);
        for body in ["", "OK", "{}", r#"{"statuses":null}"#] {
            assert_eq!(words(200, body), ["again", "again"], "{body}");
        }
        assert_eq!(words(404, &told("SUCCESS", "SUCCESS")), ["dropped", "dropped"]);
        assert_eq!(words(500, &told("SUCCESS", "SUCCESS")), ["again", "again"]);
    }
}
