//! What is asked about the inside of components and what is answered: topics, locks, and jobs of apps.

use std::collections::BTreeMap;

use dodai_core::id::AppId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A component where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// On which base, where there are several.
    pub base: Option<String>,
}

/// What somebody wants of the inside of a component, and what is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    /// How the groups of its topics stand: [`Topics`].
    Topics,
    /// Messages that a group has yet to settle, without taking them: [`WaitingPage`].
    Peek {
        /// The topic.
        topic: String,
        /// The group; empty for what waits for the first.
        group: String,
        /// Only those after this one.
        after: Option<String>,
        /// How many at most.
        limit: usize,
    },
    /// Move a message to another topic, in one step: [`Done`].
    Replay {
        /// The topic.
        topic: String,
        /// The group.
        group: String,
        /// The message.
        id: String,
        /// The topic that it goes to.
        to: String,
    },
    /// Locks that are held: [`Locks`].
    Locks {
        /// Only those after this one.
        after: Option<String>,
        /// How many at most.
        limit: usize,
    },
    /// Take a lock away from its owner: [`Done`].
    Unlock {
        /// What is locked.
        resource: String,
        /// By whom.
        owner: String,
    },
}

impl Wish {
    /// Whether the answers of several bases are put together.
    pub fn is_list(&self) -> bool {
        matches!(self, Wish::Topics | Wish::Locks { .. })
    }
}

/// How the groups of a component's topics stand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("additionalProperties" = true))]
pub struct Topics {
    /// Each of them.
    pub items: Vec<TopicGroup>,
    /// Bases that failed to answer, with the reason.
    pub failed: BTreeMap<String, String>,
}

/// Messages that a group has yet to settle, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("additionalProperties" = true))]
pub struct WaitingPage {
    /// Some of them.
    pub items: Vec<Waiting>,
    /// What to ask for next, if there are more.
    pub next: Option<String>,
}

/// Locks that are held.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("additionalProperties" = true))]
pub struct Locks {
    /// Some of them.
    pub items: Vec<Lock>,
    /// What to ask for next, if there are more.
    pub next: Option<String>,
    /// Bases that failed to answer, with the reason.
    pub failed: BTreeMap<String, String>,
}

/// It was done; there is nothing more to say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Done {}

/// How a group of a topic stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TopicGroup {
    /// The base that says so, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// The topic.
    pub topic: String,
    /// The group; empty for what waits for the first.
    pub group: String,
    /// Messages that it has yet to settle.
    pub pending: u64,
    /// Those of them that consumers hold.
    pub in_delivery: u64,
    /// The topics whose messages come here when they are given up, as far as subscriptions of its base say so.
    #[serde(default)]
    pub dead_letters_of: Vec<String>,
}

/// A message that a group has yet to settle.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "WaitingMessage")]
pub struct Waiting {
    /// Its id.
    pub id: String,
    /// Its data as text, cut after 64 KiB; null if it is no text.
    pub text: Option<String>,
    /// The whole size of its data in bytes.
    pub bytes: usize,
    /// What its data is.
    pub content_type: Option<String>,
    /// What was given at publishing.
    pub metadata: BTreeMap<String, String>,
    /// When it was published, in milliseconds since 1970.
    pub published_ms: u64,
    /// How often the group was given it.
    pub attempt: u32,
    /// Whether a consumer holds it.
    pub in_delivery: bool,
}

/// A lock that somebody holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "HeldLock")]
pub struct Lock {
    /// The base that says so, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// What is locked, with the prefix that its app has in the store.
    pub resource: String,
    /// By whom.
    pub owner: String,
    /// For how many milliseconds yet.
    pub left_ms: u64,
}

/// Which jobs of apps somebody looks at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jobs {
    /// Only those of this app.
    pub app: Option<AppId>,
    /// Only those that this base keeps.
    pub base: Option<String>,
    /// Only those after this one, by [`Job::place`].
    pub after: Option<String>,
    /// How many at most.
    pub limit: usize,
}

/// Jobs of apps, by app and name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("additionalProperties" = true))]
pub struct JobsPage {
    /// Some of them.
    pub items: Vec<Job>,
    /// What to ask for next, if there are more.
    pub next: Option<String>,
    /// Bases that failed to answer, with the reason.
    pub failed: BTreeMap<String, String>,
}

/// A job of an app, as it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Job {
    /// The base that keeps it, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// Whose it is.
    pub app: String,
    /// Its name.
    pub name: String,
    /// When it runs again and again.
    pub schedule: Option<String>,
    /// When it runs first, as the app wrote it.
    pub due_time: Option<String>,
    /// When it runs next, in milliseconds since 1970; past where it waits for its app.
    pub next_ms: u64,
    /// Ticks that are over.
    pub ticks: u32,
    /// How many ticks it has in all; `None` without a bound.
    pub repeats: Option<u32>,
    /// Failed runs of the tick that is due.
    pub failures: u32,
    /// When the last run ended, in milliseconds since 1970.
    pub last_ms: Option<u64>,
    /// Why the app did not take that run; `None` if it did, or if there was none.
    pub problem: Option<String>,
}

impl Job {
    /// Where a job stands among all: names have no `/`.
    pub fn place(app: &str, name: &str) -> String {
        format!("{app}/{name}")
    }
}
