//! What a server asks its bases for the people who ask it: outputs, live records, messages, configuration.
//!
//! The base answers with the same code that answers in `dodai up`; only the way is longer.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dodai_admin::Refusal;
use dodai_admin::seam::{CallFilter, ConfigKey, Jobs, Look, Message, Node as _, Place, Shelf, Wish};
use dodai_control::stream::{Answer, Answers};
use dodai_core::id::{AppId, InstanceId};
use futures_util::StreamExt;
use futures_util::stream::{BoxStream, iter, once};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::measures::measured;
use crate::admin::Node;

/// A question.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// The last lines of an app's instances, and what comes.
    Logs {
        /// The app.
        app: AppId,
        /// Only this instance.
        instance: Option<InstanceId>,
        /// How many lines of the past.
        tail: usize,
        /// Whether to go on.
        follow: bool,
    },
    /// Calls as they end.
    Calls(CallFilter),
    /// A page of what the base is.
    Look(Look),
    /// Publish a message.
    Publish {
        /// The namespace of the component.
        namespace: String,
        /// The component.
        pubsub: String,
        /// The topic.
        topic: String,
        /// What the data is.
        content_type: String,
        /// The data.
        data: Vec<u8>,
    },
    /// A configuration value.
    ConfigGet {
        /// The namespace of the component.
        namespace: String,
        /// The component.
        store: String,
        /// The key.
        key: String,
    },
    /// Write a configuration value, or remove it.
    ConfigSet {
        /// The namespace of the component.
        namespace: String,
        /// The component.
        store: String,
        /// The key.
        key: String,
        /// The value.
        value: Option<String>,
    },
    /// Look into a component, or do something in it.
    Inside {
        /// Which.
        place: Place,
        /// What.
        wish: Wish,
    },
    /// Jobs of apps.
    Jobs(Jobs),
    /// Forget a job.
    ForgetJob {
        /// The app.
        app: AppId,
        /// The job.
        name: String,
    },
    /// What the base uses itself.
    Own,
    /// What it measures, every so many milliseconds until nobody asks any more.
    Measures {
        /// From one answer to the next.
        every_ms: u64,
    },
    /// Keys that an app keeps in a state store.
    Keys {
        /// The app.
        app: AppId,
        /// The component.
        store: String,
        /// What they begin with.
        prefix: String,
        /// Only those after this one.
        after: Option<String>,
        /// How many at most.
        limit: usize,
    },
    /// One value of them.
    Kept {
        /// The app.
        app: AppId,
        /// The component.
        store: String,
        /// The key.
        key: String,
    },
    /// The server has written what it keeps into these configuration stores, `namespace/name`, as they are open.
    ConfigBrought {
        /// The stores.
        stores: BTreeSet<String>,
    },
}

/// Why a base refuses, as it travels.
#[derive(Debug, Serialize, Deserialize)]
struct Refused {
    status: u16,
    message: String,
}

/// A refusal as text for the stream.
fn told(refusal: &Refusal) -> String {
    let refused = Refused { status: refusal.status.as_u16(), message: refusal.to_string() };
    serde_json::to_string(&refused).unwrap_or(refused.message)
}

/// The refusal back, with the base that it comes from.
pub fn refusal(base: &str, text: &str) -> Refusal {
    match serde_json::from_str::<Refused>(text) {
        Ok(refused) => {
            let status = StatusCode::from_u16(refused.status).unwrap_or(StatusCode::BAD_GATEWAY);
            Refusal::new(status, "base", format!("base {base}: {}", refused.message))
        }
        Err(_) => Refusal::new(StatusCode::BAD_GATEWAY, "base", format!("base {base}: {text}")),
    }
}

/// How long a question waits for a base that starts.
const STARTING: Duration = Duration::from_secs(30);

/// Answers on a base, once it runs. The base connects before, and questions come at once.
#[derive(Clone, Default)]
pub struct Local(Arc<watch::Sender<Option<Arc<Node>>>>);

impl Local {
    /// From now on there are answers.
    pub fn begin(&self, node: Node) {
        self.0.send_replace(Some(Arc::new(node)));
    }
}

fn json(value: &impl Serialize) -> Answer {
    serde_json::to_vec(value).map(Bytes::from).map_err(|error| error.to_string())
}

impl Answers for Local {
    fn answer(&self, question: Bytes) -> BoxStream<'static, Answer> {
        let refused = |text: String| iter([Err(text)]).boxed();
        let question = match serde_json::from_slice::<Question>(&question) {
            Ok(question) => question,
            Err(error) => return refused(format!("it is of another version and cannot read this: {error}")),
        };
        let mut running = self.0.subscribe();
        let begun = async move {
            let node = tokio::time::timeout(STARTING, running.wait_for(Option::is_some)).await;
            match node.ok().and_then(Result::ok).and_then(|node| node.clone()) {
                Some(node) => answers(node, question),
                None => refused("it is starting; try again".to_owned()),
            }
        };
        once(begun).flatten().boxed()
    }
}

/// The answers of a base that runs.
fn answers(node: Arc<Node>, question: Question) -> BoxStream<'static, Answer> {
    match question {
        Question::Logs { app, instance, tail, follow } => {
            node.logs(&app, instance.as_ref(), tail, follow).map(|line| json(&line)).boxed()
        }
        Question::Calls(filter) => node.calls(filter).map(|call| json(&call)).boxed(),
        Question::Measures { every_ms } => {
            measured(node, Duration::from_millis(every_ms)).map(|told| json(&told)).boxed()
        }
        Question::ConfigBrought { stores } => {
            if let Some(membership) = &node.base.config.membership {
                membership.brought().mark(stores);
            }
            iter([json(&())]).boxed()
        }
        other @ (Question::Look(_)
        | Question::Inside { .. }
        | Question::Publish { .. }
        | Question::ConfigGet { .. }
        | Question::ConfigSet { .. }
        | Question::Jobs(_)
        | Question::ForgetJob { .. }
        | Question::Own
        | Question::Keys { .. }
        | Question::Kept { .. }) => once(async move { one(&node, other).await }).boxed(),
    }
}

/// The answer to a question that has one.
async fn one(node: &Node, question: Question) -> Answer {
    match question {
        Question::Publish { namespace, pubsub, topic, content_type, data } => {
            let message = Message { namespace, pubsub, topic, content_type, data: data.into() };
            json(&node.publish(message).await.map_err(|refusal| told(&refusal))?)
        }
        Question::ConfigGet { namespace, store, key } => {
            let found = node.config_get(ConfigKey { namespace, store, key }).await;
            json(&found.map_err(|refusal| told(&refusal))?)
        }
        Question::ConfigSet { namespace, store, key, value } => {
            let done = node.config_set(ConfigKey { namespace, store, key }, value).await;
            json(&done.map_err(|refusal| told(&refusal))?)
        }
        Question::Inside { place, wish } => {
            json(&node.inside(place, wish).await.map_err(|refusal| told(&refusal))?)
        }
        Question::Jobs(wanted) => json(&node.jobs(wanted).await.map_err(|refusal| told(&refusal))?),
        Question::ForgetJob { app, name } => {
            json(&node.forget_job(app, name, None).await.map_err(|refusal| told(&refusal))?)
        }
        Question::Own => json(&node.own("").await.map_err(|refusal| told(&refusal))?),
        Question::Keys { app, store, prefix, after, limit } => {
            let found = node.keys(Shelf { app, store }, prefix, after, limit).await;
            json(&found.map_err(|refusal| told(&refusal))?)
        }
        Question::Kept { app, store, key } => {
            let found = node.value(Shelf { app, store }, key).await;
            json(&found.map_err(|refusal| told(&refusal))?)
        }
        Question::Look(look) => json(&node.look(look).await.map_err(|refusal| told(&refusal))?),
        Question::Logs { .. }
        | Question::Calls(_)
        | Question::Measures { .. }
        | Question::ConfigBrought { .. } => Err("its answers have no end".to_owned()),
    }
}
