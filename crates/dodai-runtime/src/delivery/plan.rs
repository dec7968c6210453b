//! What an app subscribes to: declared in documents, or told by the app itself, in one form.
//!
//! Rules choose the path by CEL expressions over the event. One that cannot be read is refused together with its
//! subscription, never ignored; one that has no answer for an event does not match it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use dodai_capability::Metadata;
use dodai_capability::event::Event;
use dodai_capability::metadata::{RAW_PAYLOAD, is_true, lookup};
use dodai_cel::{Program, Value};
use dodai_core::snapshot::{self, BulkDelivery};
use dodai_proto::apps::dapr::proto::runtime::v1::{TopicRoutes, TopicSubscription};
use serde::{Deserialize, Serialize};

use super::stream::Streamed;
use crate::api::MAX_TOPIC;

/// Messages of one bulk delivery at most.
const MAX_BULK: u32 = 1_000;

/// How long a message may wait for others at most.
const MAX_BULK_WAIT: Duration = Duration::from_secs(60);

/// Subscriptions one app may tell.
const MAX_TOLD: usize = 10_000;

/// Where a subscription comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Source {
    /// A document.
    #[serde(rename = "DECLARATIVE")]
    Declared,
    /// What the app answered when it was asked.
    #[serde(rename = "PROGRAMMATIC")]
    Told,
    /// A stream that the app reads.
    #[serde(rename = "STREAMING")]
    Stream,
}

/// One subscription of one app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub pubsub: String,
    pub topic: String,
    pub dead_letter: Option<String>,
    pub metadata: Metadata,
    /// Several messages in one delivery.
    pub bulk: Option<BulkDelivery>,
    /// What was wished for and is less than that, in words for the person who wishes for it.
    pub cut: Option<String>,
    rules: Vec<Rule>,
    source: Source,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    /// As it was written; empty for the default.
    text: String,
    condition: Option<Program>,
    path: String,
}

/// A subscription as the metadata API shows it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Described {
    pub pubsubname: String,
    pub topic: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: Metadata,
    pub rules: Vec<DescribedRule>,
    pub dead_letter_topic: String,
    #[serde(rename = "type")]
    pub source: Source,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct DescribedRule {
    #[serde(rename = "match", skip_serializing_if = "String::is_empty")]
    pub condition: String,
    pub path: String,
}

/// A subscription as an app tells it, its names made small.
#[derive(Deserialize)]
struct Told {
    #[serde(default)]
    pubsubname: String,
    #[serde(default)]
    topic: String,
    #[serde(rename = "deadlettertopic", default)]
    dead_letter_topic: Option<String>,
    #[serde(default)]
    metadata: Option<Metadata>,
    #[serde(default)]
    route: Option<String>,
    #[serde(default)]
    routes: Option<Routes>,
    #[serde(rename = "bulksubscribe", default)]
    bulk_subscribe: Option<ToldBulk>,
}

#[derive(Deserialize)]
struct ToldBulk {
    #[serde(default)]
    enabled: bool,
    #[serde(rename = "maxmessagescount", default)]
    max_messages_count: Option<i64>,
    #[serde(rename = "maxawaitdurationms", default)]
    max_await_duration_ms: Option<i64>,
}

impl ToldBulk {
    /// Numbers that are none mean daprd's own: up to 100 messages, waiting for a second.
    fn checked(&self) -> BulkDelivery {
        let most = self.max_messages_count.and_then(|most| u32::try_from(most).ok());
        let wait = self.max_await_duration_ms.and_then(|wait| u32::try_from(wait).ok());
        BulkDelivery {
            most: most.filter(|most| *most > 0).unwrap_or(100),
            wait: Duration::from_millis(wait.filter(|wait| *wait > 0).unwrap_or(1000).into()),
        }
    }
}

#[derive(Default, Deserialize)]
struct Routes {
    #[serde(default)]
    rules: Option<Vec<ToldRule>>,
    #[serde(default)]
    default: Option<String>,
}

#[derive(Deserialize)]
struct ToldRule {
    #[serde(rename = "match", default)]
    condition: String,
    #[serde(default)]
    path: String,
}

impl Plan {
    /// From a document.
    ///
    /// # Errors
    /// A rule or path that cannot be used, in words for the person who wrote it.
    pub fn declared(subscription: &snapshot::Subscription) -> Result<Plan, String> {
        let rules = subscription.rules.iter().map(|(condition, path)| Rule::written(condition, path));
        let default = subscription.path.iter().map(|path| Rule::written("", path));
        Plan {
            pubsub: subscription.pubsub.clone(),
            topic: subscription.topic.clone(),
            dead_letter: subscription.dead_letter_topic.clone().filter(|topic| !topic.is_empty()),
            metadata: subscription.metadata.clone(),
            bulk: subscription.bulk,
            rules: rules.chain(default).collect::<Result<_, _>>()?,
            cut: None,
            source: Source::Declared,
        }
        .checked()
    }

    /// What an app reads as a stream: every event, whatever it says.
    pub fn streamed(wish: Streamed) -> Plan {
        let Streamed { pubsub, topic, dead_letter, metadata } = wish;
        // daprd gives such events the path `/`.
        let rules = vec![Rule { text: String::new(), condition: None, path: "/".to_owned() }];
        let dead_letter = dead_letter.filter(|topic| !topic.is_empty());
        Plan { pubsub, topic, dead_letter, metadata, bulk: None, cut: None, rules, source: Source::Stream }
    }

    /// What an app that serves `AppCallback` told. Its paths are words that it knows, not paths of HTTP.
    fn listed(told: TopicSubscription) -> Result<Plan, String> {
        let TopicRoutes { rules, default } = told.routes.unwrap_or_default();
        let bulk = told.bulk_subscribe.filter(|bulk| bulk.enabled).map(|bulk| ToldBulk {
            enabled: true,
            max_messages_count: Some(bulk.max_messages_count.into()),
            max_await_duration_ms: Some(bulk.max_await_duration_ms.into()),
        });
        let has_rules = !rules.is_empty();
        let rules = rules.into_iter().map(|rule| Rule::named(&rule.r#match, rule.path));
        // Without rules everything goes one way, with rules only what they do not match and the app names a way for.
        let default = (!has_rules || !default.is_empty()).then(|| Rule::named("", default));
        Plan {
            pubsub: told.pubsub_name,
            topic: told.topic,
            dead_letter: Some(told.dead_letter_topic).filter(|topic| !topic.is_empty()),
            metadata: told.metadata,
            bulk: bulk.map(|bulk| bulk.checked()),
            rules: rules.chain(default).collect::<Result<_, _>>()?,
            cut: None,
            source: Source::Told,
        }
        .checked()
    }

    fn told(told: Told) -> Result<Plan, String> {
        let routes = told.routes.unwrap_or_default();
        let default = routes.default.filter(|path| !path.is_empty()).or(told.route);
        let rules = routes.rules.unwrap_or_default();
        let rules = rules.iter().map(|rule| Rule::new(&rule.condition, &rule.path));
        let default = default.filter(|path| !path.is_empty()).map(|path| Rule::new("", &path));
        Plan {
            pubsub: told.pubsubname,
            topic: told.topic,
            dead_letter: told.dead_letter_topic.filter(|topic| !topic.is_empty()),
            metadata: told.metadata.unwrap_or_default(),
            bulk: told.bulk_subscribe.filter(|bulk| bulk.enabled).map(|bulk| bulk.checked()),
            rules: rules.chain(default).collect::<Result<_, _>>()?,
            cut: None,
            source: Source::Told,
        }
        .checked()
    }

    fn checked(mut self) -> Result<Plan, String> {
        if let Some(wish) = self.bulk {
            let bulk =
                BulkDelivery { most: wish.most.clamp(1, MAX_BULK), wait: wish.wait.min(MAX_BULK_WAIT) };
            self.bulk = Some(bulk);
            self.cut = (bulk != wish).then(|| {
                format!(
                    "a bulk delivery carries 1 to {MAX_BULK} messages that wait {MAX_BULK_WAIT:?} at most: {} messages and {:?} of the subscription are taken as {} and {:?}; change maxMessagesCount and maxAwaitDurationMs",
                    wish.most, wish.wait, bulk.most, bulk.wait
                )
            });
        }
        for (what, text) in [("pub/sub component", &self.pubsub), ("topic", &self.topic)] {
            if text.is_empty() {
                return Err(format!("the subscription names no {what}"));
            }
        }
        if self.topic.len() > MAX_TOPIC {
            return Err(format!("the name of the topic has more than {MAX_TOPIC} bytes"));
        }
        if self.rules.is_empty() {
            return Err("the subscription has no route; give a path".to_owned());
        }
        Ok(self)
    }

    /// What makes two subscriptions of one app the same.
    pub fn key(&self) -> (String, String) {
        (self.pubsub.clone(), self.topic.clone())
    }

    /// Whether messages of the topic have no envelope.
    pub fn is_raw(&self) -> bool {
        lookup(&self.metadata, RAW_PAYLOAD).is_some_and(is_true)
    }

    /// Where the app wants an event: the first rule that matches.
    pub fn path(&self, event: &Event) -> Option<&str> {
        let mut seen: Option<Value> = None;
        let mut matching = self.rules.iter().filter(|rule| {
            let Some(condition) = &rule.condition else { return true };
            let held = condition.holds(seen.get_or_insert_with(|| value_of(event)));
            held.unwrap_or_else(|trouble| {
                tracing::debug!(topic = self.topic, rule = rule.text, "a rule does not match: {trouble}");
                false
            })
        });
        matching.next().map(|rule| rule.path.as_str())
    }

    pub fn describe(&self) -> Described {
        let rules = self.rules.iter();
        Described {
            pubsubname: self.pubsub.clone(),
            topic: self.topic.clone(),
            metadata: self.metadata.clone(),
            rules: rules
                .map(|rule| DescribedRule { condition: rule.text.clone(), path: rule.path.clone() })
                .collect(),
            dead_letter_topic: self.dead_letter.clone().unwrap_or_default(),
            source: self.source,
        }
    }
}

impl Rule {
    fn new(condition: &str, path: &str) -> Result<Rule, String> {
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        if let Err(error) = http::uri::PathAndQuery::try_from(path.as_str()) {
            return Err(format!("the route `{path}` is no path: {error}"));
        }
        Rule::named(condition, path)
    }

    /// With the path as it was written: to an app that speaks gRPC it is a word, to others a path.
    fn written(condition: &str, path: &str) -> Result<Rule, String> {
        Ok(Rule { path: path.to_owned(), ..Rule::new(condition, path)? })
    }

    /// The same without a look at the path.
    fn named(condition: &str, path: String) -> Result<Rule, String> {
        let text = condition.trim();
        let condition = if text.is_empty() { None } else { Some(Program::parse(text)) };
        let condition =
            condition.transpose().map_err(|error| format!("the rule `{text}` cannot be read: {error}"))?;
        Ok(Rule { text: text.to_owned(), condition, path })
    }
}

/// The event as rules see it.
fn value_of(event: &Event) -> Value {
    serde_json::from_slice(&event.to_bytes()).map_or(Value::Null, |json| Value::of(&json))
}

/// What an app answered to `GET /dapr/subscribe`: its subscriptions, and what is wrong with others.
///
/// # Errors
/// The answer is no list of subscriptions.
pub(super) fn told(body: &[u8]) -> Result<(Vec<Arc<Plan>>, Vec<String>), String> {
    let unreadable =
        |error| format!("the answer to GET /dapr/subscribe is no list of subscriptions: {error}");
    let mut list: serde_json::Value = serde_json::from_slice(body).map_err(unreadable)?;
    fold_names(&mut list);
    let list: Option<Vec<Told>> = serde_json::from_value(list).map_err(unreadable)?;
    let named = |told: Told| (format!("{}/{}", told.pubsubname, told.topic), Plan::told(told));
    Ok(kept(list.unwrap_or_default(), named))
}

/// What an app answered to `ListTopicSubscriptions`, in the same way.
pub(super) fn listed(list: Vec<TopicSubscription>) -> (Vec<Arc<Plan>>, Vec<String>) {
    kept(list, |told| (format!("{}/{}", told.pubsub_name, told.topic), Plan::listed(told)))
}

/// Subscriptions that can run, and what is wrong with the others. `named` gives a name for whoever wrote them.
fn kept<T>(
    list: Vec<T>,
    named: impl Fn(T) -> (String, Result<Plan, String>),
) -> (Vec<Arc<Plan>>, Vec<String>) {
    let mut problems = Vec::new();
    if list.len() > MAX_TOLD {
        problems.push(format!("the app tells {} subscriptions; the first {MAX_TOLD} are kept", list.len()));
    }
    let mut plans = Vec::new();
    for told in list.into_iter().take(MAX_TOLD) {
        let (name, plan) = named(told);
        match plan {
            Ok(plan) => plans.push(Arc::new(plan)),
            Err(error) => problems.push(format!("{name}: {error}")),
        }
    }
    (plans, problems)
}

/// Makes names small, since daprd reads them without regard to case and SDKs write `pubsubName` or `pubsubname`.
/// What stands in metadata are the app's own names.
fn fold_names(value: &mut serde_json::Value) {
    if let serde_json::Value::Array(list) = value {
        list.iter_mut().for_each(fold_names);
    } else if let serde_json::Value::Object(map) = value {
        for (name, mut value) in std::mem::take(map) {
            let name = name.to_ascii_lowercase();
            if name != "metadata" {
                fold_names(&mut value);
            }
            map.insert(name, value);
        }
    }
}

/// All subscriptions of an app, one per component and topic. What the app tells wins over what is declared, as
/// in daprd; of one source the first one wins.
pub(super) fn merged(told: &[Arc<Plan>], declared: &[Arc<Plan>]) -> Vec<Arc<Plan>> {
    let mut seen = BTreeSet::new();
    told.iter().chain(declared).filter(|plan| seen.insert(plan.key())).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(body: &str) -> Arc<Plan> {
        let (plans, problems) = told(body.as_bytes()).expect("a list");
        assert!(problems.is_empty(), "{problems:?}");
        plans.into_iter().next().expect("one")
    }

    fn event(kind: &str) -> Event {
        Event::parse(format!(r#"{{"type":"{kind}","n":1}}"#).as_bytes()).expect("an event")
    }

    #[test]
    fn the_first_rule_that_matches_chooses_the_path() {
        let plan = plan(
            r#"[{"pubsubname":"p","topic":"t","routes":{"rules":[
                {"match":"event.type == \"a\"","path":"/a"},
                {"match":" event.type=='b' ","path":"b"}],"default":"/other"}}]"#,
        );
        for (kind, path) in [("a", "/a"), ("b", "/b"), ("c", "/other")] {
            assert_eq!(plan.path(&event(kind)), Some(path));
        }
    }

    #[test]
    fn rules_see_the_whole_event_and_a_rule_without_an_answer_is_passed_over() {
        let plan = plan(
            r#"[{"pubsubname":"p","topic":"t","routes":{"rules":[
                {"match":"event.data.missing > 1","path":"/missing"},
                {"match":"event.n + 0 == 1 && event.type.startsWith(\"a\")","path":"/a"},
                {"match":"true","path":"/all"}]}}]"#,
        );
        assert_eq!(plan.path(&event("abc")), Some("/a"));
        assert_eq!(plan.path(&event("xyz")), Some("/all"));
    }

    #[test]
    fn without_a_default_an_event_may_have_no_path() {
        let rules = r#"[{"pubsubname":"p","topic":"t","routes":{"rules":[{"match":"event.type == \"a\"","path":"/a"}]}}]"#;
        assert_eq!(plan(rules).path(&event("b")), None);
        let plain = plan(r#"[{"pubsubname":"p","topic":"t","route":"orders"}]"#);
        assert_eq!(plain.path(&event("b")), Some("/orders"));
    }

    #[test]
    fn what_cannot_be_used_is_told_beside_what_can() {
        let body = r#"[{"pubsubname":"p","topic":"t","route":"/ok"},
            {"pubsubname":"p","topic":"u"},
            {"pubsubname":"p","topic":"v","routes":{"rules":[{"match":"data.n > 1","path":"/n"}]}},
            {"pubsubname":"p","topic":"w","route":"/a b"}]"#;
        let (plans, problems) = told(body.as_bytes()).expect("a list");
        assert_eq!(plans.len(), 1);
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(problems[1].contains("data.n > 1") && problems[1].contains("event.data"), "{problems:?}");
        assert!(told(b"{}").is_err());
        assert_eq!(told(b"null").map(|(plans, _)| plans.len()), Ok(0));
    }

    #[test]
    fn names_are_read_whatever_their_case() {
        let plan = plan(
            r#"[{"pubsubName":"p","Topic":"t","deadLetterTopic":"d","metadata":{"rawPayload":"true","Own":"x"},
                "routes":{"Rules":[{"Match":"event.type == \"a\"","path":"/a"}],"default":"/b"},
                "bulkSubscribe":{"enabled":true,"maxMessagesCount":7,"maxAwaitDurationMs":0}}]"#,
        );
        assert_eq!(plan.key(), ("p".to_owned(), "t".to_owned()));
        assert_eq!(plan.dead_letter.as_deref(), Some("d"));
        assert!(plan.is_raw() && plan.metadata.contains_key("Own"));
        assert_eq!(plan.path(&event("a")), Some("/a"));
        assert_eq!(plan.bulk, Some(BulkDelivery { most: 7, wait: Duration::from_secs(1) }));
    }

    #[test]
    fn bulk_deliveries_have_a_bound() {
        let bulk = |count: u64, wait: u64| {
            let text = format!(
                r#"[{{"pubsubname":"p","topic":"t","route":"/r","bulkSubscribe":{{"enabled":true,"maxMessagesCount":{count},"maxAwaitDurationMs":{wait}}}}}]"#
            );
            let plan = plan(&text);
            (plan.bulk.expect("bulk"), plan.cut.clone())
        };
        let (most, cut) = bulk(4_000_000_000, 4_000_000_000);
        assert_eq!(most, BulkDelivery { most: 1_000, wait: Duration::from_secs(60) });
        assert!(cut.is_some_and(|cut| cut.contains("4000000000") && cut.contains("maxMessagesCount")));
        let (most, cut) = bulk(1_000, 60_000);
        assert_eq!((most, cut), (BulkDelivery { most: 1_000, wait: Duration::from_secs(60) }, None));
    }

    #[test]
    fn told_wins_over_declared() {
        let told = [plan(r#"[{"pubsubname":"p","topic":"t","route":"/told"}]"#)];
        let declared = [
            plan(r#"[{"pubsubname":"p","topic":"t","route":"/declared"}]"#),
            plan(r#"[{"pubsubname":"p","topic":"u","route":"/u"}]"#),
        ];
        let all = merged(&told, &declared);
        assert_eq!(
            all.iter().map(|plan| plan.path(&event("x"))).collect::<Vec<_>>(),
            [Some("/told"), Some("/u")]
        );
    }
}
