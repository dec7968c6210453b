//! Messages: publish to a topic, consume as a member of a group, at least once.
//!
//! Every group gets every message, and within a group each message goes to one consumer at a time. What is
//! published before any group of its topic is there waits for the first one. A delivery is leased: settled in time it is done with, otherwise it comes again. Consumers pull, so nothing piles up
//! between a broker and a slow consumer; a full topic is told to the publisher.

use std::fmt;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
pub use dodai_core::features::Pubsub as Features;
use futures_util::StreamExt;

use crate::answer::Answer;
use crate::fault::{Fault, Kind};
use crate::metadata::Metadata;

/// How long a consumer may keep a delivery unsettled unless it says otherwise.
pub const DEFAULT_LEASE: Duration = Duration::from_secs(60);

/// So many messages of a topic without groups wait for the first group; then the oldest gives way. An app may publish
/// before its listener has started for the first time, and a topic that nobody ever listens to must not fill up.
pub const WAITING_FOR_A_GROUP: u64 = 1_000;

/// Under this name those messages are kept; it is no name of a group that can be joined.
pub const NO_GROUP: &str = "";

/// A message to publish.
#[derive(Clone, Debug, Default)]
pub struct Publish {
    /// Where to.
    pub topic: String,
    /// The bytes, as subscribers will get them.
    pub data: Bytes,
    /// Their media type.
    pub content_type: Option<String>,
    /// How long it stays worth delivering.
    pub ttl: Option<Duration>,
    /// What the broker's driver may read; it travels with the message.
    pub metadata: Metadata,
}

impl Publish {
    /// A plain message.
    pub fn new(topic: impl Into<String>, data: impl Into<Bytes>) -> Publish {
        Publish { topic: topic.into(), data: data.into(), ..Publish::default() }
    }
}

/// A wish to consume a topic.
#[derive(Clone, Debug)]
pub struct Subscribe {
    /// Which topic.
    pub topic: String,
    /// As a member of which group: usually the app's id.
    pub group: String,
    /// How long a delivery may stay unsettled before it comes again.
    pub lease: Duration,
    /// What the broker's driver may read.
    pub metadata: Metadata,
}

impl Subscribe {
    /// A subscription with the default lease.
    pub fn new(topic: impl Into<String>, group: impl Into<String>) -> Subscribe {
        Subscribe {
            topic: topic.into(),
            group: group.into(),
            lease: DEFAULT_LEASE,
            metadata: Metadata::new(),
        }
    }
}

/// A message as it is delivered.
#[derive(Clone, Debug)]
pub struct Message {
    /// The broker's id of it: the same in every delivery.
    pub id: String,
    /// The topic.
    pub topic: String,
    /// The bytes.
    pub data: Bytes,
    /// Their media type.
    pub content_type: Option<String>,
    /// What was given at publishing.
    pub metadata: Metadata,
    /// When it was published.
    pub published: SystemTime,
}

/// What became of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Done: the group has seen it.
    Ack,
    /// Deliver it again, not before this time has passed.
    Retry {
        /// How long to wait at least.
        after: Duration,
    },
    /// Give it up: the group will not see it again. A dead-letter topic is the caller's business.
    Drop,
}

/// One message in the hands of one consumer. Dropped without a verdict it comes again when its lease ends.
pub struct Delivery {
    /// The message.
    pub message: Message,
    /// How many times this group was given it, this time included.
    pub attempt: u32,
    receipt: Box<dyn Receipt>,
}

impl Delivery {
    /// A delivery that `receipt` settles.
    pub fn new(message: Message, attempt: u32, receipt: Box<dyn Receipt>) -> Delivery {
        Delivery { message, attempt, receipt }
    }

    /// Tells the broker what became of it.
    pub async fn settle(self, verdict: Verdict) -> Result<(), Error> {
        self.receipt.settle(verdict).await
    }

    /// Keeps it for `lease` from now on, for work that takes longer than thought.
    pub async fn extend(&self, lease: Duration) -> Result<(), Error> {
        self.receipt.extend(lease).await
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery").field("message", &self.message).field("attempt", &self.attempt).finish()
    }
}

/// A driver's hold on one delivery.
pub trait Receipt: Send + Sync {
    /// Settles it.
    fn settle(self: Box<Self>, verdict: Verdict) -> Answer<'static, Result<(), Error>>;
    /// Prolongs the lease.
    fn extend(&self, lease: Duration) -> Answer<'_, Result<(), Error>>;
}

/// A driver's side of a subscription.
pub trait Source: Send {
    /// Waits for the next message; `None` when the subscription is over. Must be cancel safe: a message
    /// that was taken for a dropped future is given to the next one.
    fn next(&mut self) -> Answer<'_, Option<Result<Delivery, Error>>>;
}

/// A stream of deliveries. Dropping it leaves the group: what it was sent stays for other members, or for
/// later.
pub struct Subscription(Box<dyn Source>);

impl Subscription {
    /// A subscription fed by a driver.
    pub fn new(source: impl Source + 'static) -> Subscription {
        Subscription(Box::new(source))
    }

    /// Waits for the next message; `None` when the component was closed. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<Delivery, Error>> {
        self.0.next().await
    }

    /// Waits for one message, then takes up to `most` that come within `wait`. Empty when the component was
    /// closed. Cancel safe only while nothing has come: taken messages then come again after their lease.
    pub async fn next_many(&mut self, most: usize, wait: Duration) -> Result<Vec<Delivery>, Error> {
        let mut batch = match self.next().await {
            None => return Ok(Vec::new()),
            Some(first) => vec![first?],
        };
        let deadline = tokio::time::sleep(wait);
        tokio::pin!(deadline);
        while batch.len() < most {
            // Both branches are cancel safe; what has come wins over the end of the wait.
            tokio::select! {
                biased;
                delivery = self.0.next() => match delivery {
                    Some(Ok(delivery)) => batch.push(delivery),
                    Some(Err(_)) | None => break,
                },
                () = &mut deadline => break,
            }
        }
        Ok(batch)
    }
}

/// How a group stands, for the console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Which topic.
    pub topic: String,
    /// Which group.
    pub group: String,
    /// Messages it has yet to settle, those in delivery included.
    pub pending: u64,
    /// Messages that consumers hold now.
    pub in_delivery: u64,
}

/// A wish to look at what a group has yet to settle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peek {
    /// Which topic.
    pub topic: String,
    /// Which group; [`NO_GROUP`] for what waits for the first.
    pub group: String,
    /// Only messages after the one with this id.
    pub after: Option<String>,
    /// How many at most.
    pub limit: usize,
    /// The most bytes of each message's data that are shown.
    pub most: usize,
}

/// A message that a group has yet to settle, as it is looked at.
#[derive(Clone, Debug)]
pub struct Peeked {
    /// The message, with so much of its data as was asked for.
    pub message: Message,
    /// How many bytes of data it has.
    pub bytes: usize,
    /// How many times the group was given it.
    pub attempt: u32,
    /// Whether a consumer holds it now.
    pub in_delivery: bool,
}

/// A wish to move a message that a group has yet to settle to another topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// The topic that it is in.
    pub topic: String,
    /// The group; [`NO_GROUP`] for what waits for the first.
    pub group: String,
    /// The message.
    pub id: String,
    /// The topic that it goes to.
    pub to: String,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replayed {
    /// It is in the other topic, for all groups of that, and settled for this group.
    Moved,
    /// The group has settled it, or never had it.
    Gone,
    /// A consumer holds it: what becomes of it is the consumer's to say.
    Held,
}

/// Why a pub/sub request failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A group of the topic lags so far behind that the topic takes no more.
    #[error(
        "topic `{topic}` is full: group `{group}` has {limit} unsettled messages; consume them, forget the group or raise {property}"
    )]
    TopicFull {
        /// Which topic.
        topic: String,
        /// Which group is behind.
        group: String,
        /// The limit that was reached.
        limit: u64,
        /// The property that sets it.
        property: &'static str,
    },
    /// The lease ended before the verdict came; the message has gone or will go to somebody else.
    #[error(
        "topic `{topic}`: the lease of message {id} had ended before it was settled; it is delivered again"
    )]
    LeaseLost {
        /// Which topic.
        topic: String,
        /// Which message.
        id: String,
    },
    /// The driver failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl Error {
    /// A stable word for this error.
    pub fn code(&self) -> &'static str {
        match self {
            Error::TopicFull { .. } => "pubsub_topic_full",
            Error::LeaseLost { .. } => "pubsub_lease_lost",
            Error::Fault(fault) => fault.kind().as_str(),
        }
    }
}

/// A message broker.
pub trait Broker: Send + Sync {
    /// What it can do.
    fn features(&self) -> Features;

    /// Publishes one message. When this returns `Ok`, a durable broker has it on disk.
    fn publish(&self, message: Publish) -> Answer<'_, Result<(), Error>>;

    /// Publishes many, each on its own. Answers in order.
    fn publish_many(&self, messages: Vec<Publish>) -> Answer<'_, Vec<Result<(), Error>>> {
        Answer::later(async move {
            // One after the other: messages of one call keep their order.
            futures_util::stream::iter(messages).then(|message| self.publish(message)).collect().await
        })
    }

    /// Joins a group. From the first time on the group is sent everything that is published to the topic,
    /// whether a member is there or not.
    fn subscribe(&self, request: Subscribe) -> Answer<'_, Result<Subscription, Error>>;

    /// Removes a group and what it has yet to see. Removing one that is not there succeeds.
    fn forget<'a>(&'a self, topic: &'a str, group: &'a str) -> Answer<'a, Result<(), Error>> {
        let what = format!("the broker cannot forget group `{group}` of topic `{topic}`");
        Answer::ready(Err(Fault::new(Kind::Unsupported, what).into()))
    }

    /// Messages that a group has yet to settle, oldest first. Nothing is taken, leased or counted by looking; by the
    /// time of the answer a message may be settled.
    fn peek(&self, _wanted: Peek) -> Answer<'_, Result<Vec<Peeked>, Error>> {
        let what = "the broker cannot show messages without taking them";
        Answer::ready(Err(Fault::new(Kind::Unsupported, what).into()))
    }

    /// Moves a message to another topic in one step: after it, whatever happens, the message is in exactly one of the
    /// two. Its time to live begins anew.
    fn replay(&self, _wanted: Replay) -> Answer<'_, Result<Replayed, Error>> {
        let what = "the broker cannot move a message to another topic in one step";
        Answer::ready(Err(Fault::new(Kind::Unsupported, what).into()))
    }

    /// How the groups stand.
    fn standings(&self) -> Answer<'_, Result<Vec<Standing>, Error>> {
        Answer::ready(
            Err(Fault::new(Kind::Unsupported, "the broker cannot tell how its groups stand").into()),
        )
    }
}
