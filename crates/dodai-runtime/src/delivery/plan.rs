//! What an app subscribes to: declared in documents, or told by the app itself, in one form.
//!
//! Rules choose the path by an attribute of the event: `event.type == "x"`. Other CEL expressions are refused
//! when the subscription is read, never ignored.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dodai_capability::Metadata;
use dodai_capability::event::Event;
use dodai_capability::metadata::{RAW_PAYLOAD, is_true, lookup};
use dodai_core::snapshot;
use serde::{Deserialize, Serialize};

/// Subscriptions one app may tell.
const MAX_TOLD: usize = 1_000;

/// Where a subscription comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Declared,
    Told,
}

/// One subscription of one app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub pubsub: String,
    pub topic: String,
    pub dead_letter: Option<String>,
    pub metadata: Metadata,
    rules: Vec<Rule>,
    source: Source,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    /// As it was written; empty for the default.
    text: String,
    condition: Option<Condition>,
    path: String,
}

/// An attribute of the event has this text.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Condition {
    attribute: String,
    value: String,
}

/// A subscription as the metadata API shows it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Described {
    pubsubname: String,
    topic: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: Metadata,
    rules: Vec<DescribedRule>,
    dead_letter_topic: String,
    #[serde(rename = "type")]
    kind: &'static str,
}

#[derive(Clone, Debug, Serialize)]
struct DescribedRule {
    #[serde(rename = "match", skip_serializing_if = "String::is_empty")]
    condition: String,
    path: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    #[serde(default)]
    pubsubname: String,
    #[serde(default)]
    topic: String,
    #[serde(default)]
    dead_letter_topic: Option<String>,
    #[serde(default)]
    metadata: Option<Metadata>,
    #[serde(default)]
    route: Option<String>,
    #[serde(default)]
    routes: Option<Routes>,
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
        let rules = subscription.rules.iter().map(|(condition, path)| Rule::new(condition, path));
        let default = subscription.path.iter().map(|path| Rule::new("", path));
        Plan {
            pubsub: subscription.pubsub.clone(),
            topic: subscription.topic.clone(),
            dead_letter: subscription.dead_letter_topic.clone().filter(|topic| !topic.is_empty()),
            metadata: subscription.metadata.clone(),
            rules: rules.chain(default).collect::<Result<_, _>>()?,
            source: Source::Declared,
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
            rules: rules.chain(default).collect::<Result<_, _>>()?,
            source: Source::Told,
        }
        .checked()
    }

    fn checked(self) -> Result<Plan, String> {
        for (what, text) in [("pub/sub component", &self.pubsub), ("topic", &self.topic)] {
            if text.is_empty() {
                return Err(format!("the subscription names no {what}"));
            }
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
        let mut matching = self.rules.iter().filter(|rule| match &rule.condition {
            None => true,
            Some(condition) => event.text(&condition.attribute).as_deref() == Some(condition.value.as_str()),
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
            kind: match self.source {
                Source::Declared => "DECLARATIVE",
                Source::Told => "PROGRAMMATIC",
            },
        }
    }
}

impl Rule {
    fn new(condition: &str, path: &str) -> Result<Rule, String> {
        let text = condition.trim();
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        if let Err(error) = http::uri::PathAndQuery::try_from(path.as_str()) {
            return Err(format!("the route `{path}` is no path: {error}"));
        }
        let condition = if text.is_empty() { None } else { Some(Condition::parse(text)?) };
        Ok(Rule { text: text.to_owned(), condition, path })
    }
}

impl Condition {
    /// `event.<attribute> == "<text>"`, with either sort of quotes.
    fn parse(text: &str) -> Result<Condition, String> {
        let refused = || {
            format!(
                "the rule `{text}` is not understood: only `event.<attribute> == \"<text>\"` is served here; choose by one attribute, or route inside the app"
            )
        };
        let (left, right) = text.split_once("==").ok_or_else(refused)?;
        let attribute = left.trim().strip_prefix("event.").ok_or_else(refused)?;
        let right = right.trim();
        let quote = right.chars().next().filter(|quote| matches!(quote, '"' | '\'')).ok_or_else(refused)?;
        let value = right[1..].strip_suffix(quote).ok_or_else(refused)?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if attribute.is_empty() || !attribute.bytes().all(plain) || value.contains([quote, '\\']) {
            return Err(refused());
        }
        Ok(Condition { attribute: attribute.to_owned(), value: value.to_owned() })
    }
}

/// What an app answered to `GET /dapr/subscribe`: its subscriptions, and what is wrong with others.
///
/// # Errors
/// The answer is no list of subscriptions.
pub(super) fn told(body: &[u8]) -> Result<(Vec<Arc<Plan>>, Vec<String>), String> {
    let list: Option<Vec<Told>> = serde_json::from_slice(body)
        .map_err(|error| format!("the answer to GET /dapr/subscribe is no list of subscriptions: {error}"))?;
    let list = list.unwrap_or_default();
    let mut problems = Vec::new();
    if list.len() > MAX_TOLD {
        problems.push(format!("the app tells {} subscriptions; the first {MAX_TOLD} are kept", list.len()));
    }
    let mut plans = Vec::new();
    for told in list.into_iter().take(MAX_TOLD) {
        let name = format!("{}/{}", told.pubsubname, told.topic);
        match Plan::told(told) {
            Ok(plan) => plans.push(Arc::new(plan)),
            Err(error) => problems.push(format!("{name}: {error}")),
        }
    }
    Ok((plans, problems))
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
            {"pubsubname":"p","topic":"v","routes":{"rules":[{"match":"event.data.n > 1","path":"/n"}]}},
            {"pubsubname":"p","topic":"w","route":"/a b"}]"#;
        let (plans, problems) = told(body.as_bytes()).expect("a list");
        assert_eq!(plans.len(), 1);
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(problems[1].contains("event.data.n > 1"), "{problems:?}");
        assert!(told(b"{}").is_err());
        assert_eq!(told(b"null").map(|(plans, _)| plans.len()), Ok(0));
    }

    #[test]
    fn expressions_that_only_look_simple_are_refused() {
        for bad in [
            r#"event.type == "a" || event.type == "b""#,
            r#"event.type == "a\"b""#,
            "event.type == a",
            "event.type == \"",
            "type == \"a\"",
            "event. == \"a\"",
            "event.data.x == \"a\"",
        ] {
            assert!(Condition::parse(bad).is_err(), "{bad}");
        }
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
