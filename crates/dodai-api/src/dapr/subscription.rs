//! Subscription: which topic goes to which path of an app. Version v1alpha1 is read as v2alpha1.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::metadata::{Metadata, Status};

/// A declared subscription.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Subscription {
    /// Identity and labels.
    pub metadata: Metadata,
    /// What is subscribed to, and where it goes.
    pub spec: SubscriptionSpec,
    /// The apps that subscribe. Default: all of the namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// What was observed. Written by control, ignored when a user writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
}

/// What is subscribed to, and where it goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SubscriptionSpec {
    /// The pub/sub component.
    pub pubsubname: String,
    /// The topic.
    pub topic: String,
    /// v1alpha1 only: the path events are posted to. Read as `routes.default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// v2alpha1: the paths events are posted to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routes: Option<Routes>,
    /// Where events go that could not be delivered. Default: nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letter_topic: Option<String>,
    /// Delivery in bulk. Default: one by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bulk_subscribe: Option<BulkSubscribe>,
    /// Settings for the component. Default: none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// The paths events are posted to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Routes {
    /// Rules, tried in order. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<RoutingRule>,
    /// Where events go that no rule matches. Default: they are dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RoutingRule {
    /// A CEL expression over `event`. Default: every event.
    #[serde(rename = "match", default, skip_serializing_if = "String::is_empty")]
    pub expression: String,
    /// The path matching events are posted to.
    pub path: String,
}

/// Delivery in bulk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BulkSubscribe {
    /// Whether events are delivered in bulk. Default: false.
    #[serde(default)]
    pub enabled: bool,
    /// Most events at once. Default: 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_messages_count: Option<u32>,
    /// Longest wait for more events, milliseconds. Default: 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_await_duration_ms: Option<u32>,
}

impl SubscriptionSpec {
    /// Puts a v1alpha1 `route` where v2alpha1 has it.
    pub(crate) fn upgrade(&mut self) {
        if let Some(route) = self.route.take() {
            let routes = self.routes.get_or_insert_with(Routes::default);
            routes.default.get_or_insert(route);
        }
    }
}
