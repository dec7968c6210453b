//! `pubsub.redis`: a stream per topic and a consumer group per group, with the fields that Dapr's component writes.
//!
//! A lease is how long a message has been pending: whoever finds one idle for longer takes it. The count of deliveries
//! that the server keeps is the mark by which a late verdict is known. Messages that all groups have settled are
//! removed. Waiting for messages takes none: one connection watches all topics (`watch`), and members take by a script.
//! A stream that came with a message nobody waited for has a group without a name until somebody joins.

mod hold;
mod scripts;
mod watch;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use dodai_capability::component::{Context, Error as Refusal, Lifecycle, Reader};
use dodai_capability::fault::{Fault, Kind};
use dodai_capability::pubsub::{
    Broker, DEFAULT_LEASE, Delivery, Error, Features, Message, Peek, Peeked, Publish, Replay, Replayed,
    Source, Standing, Subscribe, Subscription, WAITING_FOR_A_GROUP,
};
use dodai_capability::{Answer, Metadata};
use dodai_core::task::Tasks;
use futures_core::future::BoxFuture;
use redis::Pipeline;
use tokio::sync::Notify;
use tokio::time::Instant;

use self::hold::{Hold, Mark, Waiters};
use self::scripts::{FORGET, JOIN, PEEK, PUBLISH, REPLAY, STANDINGS, SWEEP, TAKE};
use super::link::{Again, Link};
use super::settings::duration;

/// What it can do.
pub(super) const FEATURES: Features =
    Features { ttl: false, ordered: true, durable: true, bulk_publish: true };

/// Topics whose standings are told at most, and that are remembered.
const TOPICS: usize = 10_000;
/// Messages that travel together at most.
const BATCH: usize = 500;
/// Between two removals of what all groups have settled.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// Messages of a group that may be given and unsettled; beyond that nothing new is given. Looking through them is what
/// a look for messages that are due costs.
const MOST_PENDING: usize = 5_000;
/// The lease where nothing is given again by itself: the greatest that the server can still note.
const FOREVER: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// What a user may set.
pub struct Options {
    /// The least lease.
    lease: Duration,
    poll: Duration,
    longest: Option<u64>,
    age: Option<Duration>,
    keep: bool,
}

impl Options {
    /// Reads `processingTimeout`, `redeliverInterval`, `maxLenApprox`, `streamTTL` and `keepSettled`. As with Dapr, bare
    /// numbers are milliseconds, and 0 in one of the first two switches redelivery off.
    ///
    /// # Errors
    /// A value cannot be read.
    pub fn read(read: &mut Reader<'_>) -> Result<Options, Refusal> {
        let longest = read.number(&["maxLenApprox"], 0)?;
        // How many are in hand at once is the runtime's to say; nothing is kept here beyond one message per member.
        for name in ["queueDepth", "concurrency", "ackOnError"] {
            read.text(&[name]);
        }
        let lease = duration(read, "processingTimeout")?;
        let poll = duration(read, "redeliverInterval")?;
        let off = [lease, poll].contains(&Some(Duration::ZERO));
        Ok(Options {
            lease: if off { FOREVER } else { lease.unwrap_or_default().min(FOREVER) },
            poll: poll
                .filter(|poll| !poll.is_zero())
                .unwrap_or(Duration::from_secs(5))
                .max(Duration::from_millis(10)),
            longest: (longest > 0).then_some(longest),
            age: duration(read, "streamTTL")?.filter(|age| !age.is_zero()),
            keep: read.truth(&["keepSettled"], false)?,
        })
    }

    /// How many messages of a topic that nobody has joined wait; nothing: all.
    fn waiting(&self) -> String {
        if self.keep { String::new() } else { WAITING_FOR_A_GROUP.to_string() }
    }
}

type Waiting = HashMap<(String, String), Weak<Waiters>>;

struct Shared {
    link: Arc<Link>,
    tasks: Tasks,
    options: Options,
    waiting: Mutex<Waiting>,
    /// Told when a topic is waited for that was not.
    more: Notify,
    forgotten: Mutex<BTreeSet<(String, String)>>,
    topics: Mutex<BTreeSet<String>>,
}

/// A broker in a Redis.
pub struct Redis(Arc<Shared>);

impl Redis {
    /// Over this connection.
    ///
    /// # Errors
    /// It cannot be reached.
    pub async fn open(link: Arc<Link>, options: Options, context: &Context) -> Result<Redis, Fault> {
        link.greet().await?;
        let shared = Arc::new(Shared {
            link,
            tasks: context.tasks.clone(),
            options,
            waiting: Mutex::default(),
            more: Notify::new(),
            forgotten: Mutex::default(),
            topics: Mutex::default(),
        });
        watch::spawn(&shared, &context.tasks);
        Ok(Redis(shared))
    }
}

fn script(text: &'static str, topic: &str) -> Pipeline {
    let mut pipe = redis::pipe();
    pipe.cmd("EVAL").arg(text).arg(1).arg(topic);
    pipe
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).min(i64::MAX.unsigned_abs() / 2)
}

impl Shared {
    fn waiters(&self, topic: &str, group: &str) -> Arc<Waiters> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|_, waiters| waiters.strong_count() > 0);
        let key = (topic.to_owned(), group.to_owned());
        if let Some(waiters) = waiting.get(&key).and_then(Weak::upgrade) {
            return waiters;
        }
        let waiters = Arc::new(Waiters::default());
        waiting.insert(key, Arc::downgrade(&waiters));
        drop(waiting);
        self.more.notify_one();
        waiters
    }

    /// Topics that somebody waits for.
    fn watched(&self) -> BTreeSet<String> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let living = waiting.iter().filter(|(_, waiters)| waiters.strong_count() > 0);
        living.map(|((topic, _), _)| topic.clone()).collect()
    }

    /// Wakes one member of each group of the topic.
    fn wake(&self, topic: &str) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let of_topic = waiting.iter().filter(|((of, _), _)| of == topic);
        of_topic
            .filter_map(|(_, waiters)| waiters.upgrade())
            .for_each(|waiters| waiters.arrived.notify_one());
    }

    fn remember(&self, topic: &str) {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        if topics.len() < TOPICS && !topics.contains(topic) {
            topics.insert(topic.to_owned());
        }
    }

    fn is_forgotten(&self, wanted: &Subscribe) -> bool {
        let forgotten = self.forgotten.lock().unwrap_or_else(PoisonError::into_inner);
        forgotten.contains(&(wanted.topic.clone(), wanted.group.clone()))
    }

    /// Makes the group if it is not there. `anew`: it was there and the server lost it, so it begins at the start.
    async fn join(&self, topic: &str, group: &str, anew: bool) -> Result<(), Fault> {
        let mut pipe = redis::pipe();
        let eval = pipe.cmd("EVAL").arg(JOIN).arg(1).arg(topic);
        eval.arg(group).arg(self.options.waiting()).arg(u8::from(anew)).ignore();
        let what = || format!("joining group `{group}` of topic `{topic}`");
        self.link.ask::<()>(&what, &pipe, Again::Harmless).await
    }

    /// Takes one message, if there is one; if `look`, rather one that was given before and is due again.
    async fn claim(&self, wanted: &Subscribe, lease: Duration, look: bool) -> Result<Option<Taken>, Fault> {
        let mut pipe = redis::pipe();
        let eval = pipe.cmd("EVAL").arg(TAKE).arg(1).arg(&wanted.topic);
        // What is never given again by itself must not keep new messages away.
        let most = if lease < FOREVER { MOST_PENDING } else { usize::MAX };
        eval.arg(&wanted.group).arg(millis(lease)).arg(u8::from(look)).arg(most);
        let what = || format!("taking a message of topic `{}`", wanted.topic);
        let (taken,): (Option<Taken>,) = self.link.ask(&what, &pipe, Again::Unsent).await?;
        Ok(taken)
    }

    async fn sweep(&self, topic: &str) {
        let mut pipe = script(SWEEP, topic);
        pipe.ignore();
        let what = || format!("removing settled messages of topic `{topic}`");
        if let Err(fault) = self.link.ask::<()>(&what, &pipe, Again::Harmless).await {
            tracing::debug!("{fault}; they are removed later");
        }
    }
}

/// Id, count of deliveries, and the fields of a message.
type Taken = (String, u32, Vec<(Bytes, Bytes)>);

fn message(topic: &str, id: &str, fields: Vec<(Bytes, Bytes)>) -> Message {
    let since =
        id.split_once('-').and_then(|(ms, _)| ms.parse().ok()).map_or(Duration::ZERO, Duration::from_millis);
    let mut message = Message {
        id: id.to_owned(),
        topic: topic.to_owned(),
        data: Bytes::new(),
        content_type: None,
        metadata: Metadata::new(),
        published: SystemTime::UNIX_EPOCH + since,
    };
    for (name, value) in fields {
        match &*name {
            b"data" => message.data = value,
            b"contentType" => message.content_type = String::from_utf8(value.to_vec()).ok(),
            // What cannot be read counts as none, as with Dapr.
            b"metadata" => message.metadata = serde_json::from_slice(&value).unwrap_or_default(),
            _ => {}
        }
    }
    message
}

/// What a look answers: id, count of deliveries, whether it is held, and fields.
type Seen = (String, u32, u8, Vec<(Bytes, Bytes)>);

/// Whether a text is an id of a message; the server takes it for a mistake otherwise.
fn is_id(text: &str) -> bool {
    let is_number = |part: &str| part.parse::<u64>().is_ok();
    text.split_once('-').is_some_and(|(ms, sequence)| is_number(ms) && is_number(sequence))
}

type Claim = BoxFuture<'static, Result<Option<Taken>, Fault>>;

struct Member {
    shared: Arc<Shared>,
    wanted: Subscribe,
    lease: Duration,
    waiters: Arc<Waiters>,
    // A claim whose caller was cancelled goes on here, or its message would wait for the end of its lease.
    claim: Option<Claim>,
    swept: Instant,
}

impl Member {
    async fn take(&mut self) -> Option<Result<Delivery, Error>> {
        loop {
            if self.shared.link.is_closed() || self.shared.is_forgotten(&self.wanted) {
                // A wake-up reaches one waiter only: pass the bad news on.
                self.waiters.arrived.notify_one();
                return None;
            }
            let claim = self.claim.get_or_insert_with(|| {
                let (shared, wanted, lease) = (self.shared.clone(), self.wanted.clone(), self.lease);
                let waiters = self.waiters.clone();
                let look = waiters.look(shared.options.poll);
                Box::pin(async move {
                    let taken = shared.claim(&wanted, lease, look).await;
                    let more = match &taken {
                        Ok(taken) => taken.as_ref().is_some_and(|(_, attempt, _)| *attempt > 1),
                        Err(_) => true,
                    };
                    if look && more {
                        waiters.look_again();
                    }
                    taken
                })
            });
            let outcome = claim.await;
            self.claim = None;
            match outcome {
                Ok(Some((id, ..))) if id.is_empty() => self.waiters.is_full(),
                Ok(Some((id, attempt, fields))) => {
                    // One wake-up may stand for several messages: whoever takes one wakes the next.
                    self.waiters.arrived.notify_one();
                    let message = message(&self.wanted.topic, &id, fields);
                    let (shared, wanted) = (self.shared.clone(), self.wanted.clone());
                    let mark = Mark { shared, wanted, lease: self.lease, id, attempt };
                    let hold = Hold::new(mark, self.waiters.clone());
                    return Some(Ok(Delivery::new(message, attempt, Box::new(hold))));
                }
                Ok(None) => {}
                Err(fault) if fault.kind() == Kind::Closed => continue,
                Err(fault) if fault.to_string().contains("NOGROUP") => {
                    if self.shared.is_forgotten(&self.wanted) {
                        continue;
                    }
                    let Subscribe { topic, group, .. } = &self.wanted;
                    tracing::warn!(topic, group, "the Redis has lost the group; it is made anew");
                    if let Err(fault) = self.shared.join(topic, group, true).await {
                        return Some(Err(fault.into()));
                    }
                    continue;
                }
                Err(fault) => return Some(Err(fault.into())),
            }
            if !self.shared.options.keep && self.swept.elapsed() >= SWEEP_EVERY {
                self.swept = Instant::now();
                self.shared.sweep(&self.wanted.topic).await;
            }
            // Nothing is taken here, so nothing is lost when the caller is cancelled.
            tokio::select! {
                () = self.waiters.arrived.notified() => {}
                () = self.shared.link.closing() => {}
                () = tokio::time::sleep_until(self.waiters.next_look()) => {}
            }
        }
    }
}

impl Source for Member {
    fn next(&mut self) -> Answer<'_, Option<Result<Delivery, Error>>> {
        Answer::later(self.take())
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // A wake-up that was meant for this one goes to another.
        self.waiters.arrived.notify_one();
    }
}

impl Redis {
    fn add(&self, pipe: &mut Pipeline, message: &Publish) {
        let Options { longest, age, .. } = &self.0.options;
        let number = |number: Option<u64>| number.map_or_else(String::new, |number| number.to_string());
        let metadata = if message.metadata.is_empty() {
            String::new()
        } else {
            serde_json::to_string(&message.metadata).expect("a map of texts is JSON")
        };
        let eval = pipe.cmd("EVAL").arg(PUBLISH).arg(1).arg(&message.topic).arg(&*message.data).arg(metadata);
        eval.arg(message.content_type.as_deref().unwrap_or_default());
        eval.arg(number(*longest)).arg(number(age.map(millis))).arg(self.0.options.waiting());
    }
}

impl Broker for Redis {
    fn features(&self) -> Features {
        FEATURES
    }

    fn publish(&self, message: Publish) -> Answer<'_, Result<(), Error>> {
        Answer::later(async move {
            let mut pipe = redis::pipe();
            self.add(&mut pipe, &message);
            self.0.remember(&message.topic);
            let what = || format!("publishing to topic `{}`", message.topic);
            let (_id,): (String,) = self.0.link.ask(&what, &pipe, Again::Unsent).await?;
            self.0.wake(&message.topic);
            Ok(())
        })
    }

    fn publish_many(&self, messages: Vec<Publish>) -> Answer<'_, Vec<Result<(), Error>>> {
        Answer::later(async move {
            let mut outcomes = Vec::with_capacity(messages.len());
            for chunk in messages.chunks(BATCH) {
                let mut pipe = redis::pipe();
                chunk.iter().for_each(|message| self.add(&mut pipe, message));
                let what = || format!("publishing {} messages", chunk.len());
                let mut sent = self.0.link.ask_each(&what, &mut pipe).await.map(Vec::into_iter);
                for message in chunk {
                    self.0.remember(&message.topic);
                    self.0.wake(&message.topic);
                    outcomes.push(match &mut sent {
                        Ok(each) => match each.next() {
                            Some(Ok(_id)) => Ok(()),
                            Some(Err(fault)) => Err(fault.into()),
                            None => Err(Fault::new(Kind::Corrupt, "the Redis answered too little").into()),
                        },
                        Err(fault) => Err(Fault::new(fault.kind(), fault.to_string()).into()),
                    });
                }
            }
            outcomes
        })
    }

    fn subscribe(&self, request: Subscribe) -> Answer<'_, Result<Subscription, Error>> {
        Answer::later(async move {
            self.0.join(&request.topic, &request.group, false).await?;
            self.0.remember(&request.topic);
            let key = (request.topic.clone(), request.group.clone());
            self.0.forgotten.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            let waiters = self.0.waiters(&request.topic, &request.group);
            let lease = self.0.options.lease.max(request.lease).min(FOREVER);
            Ok(Subscription::new(Member {
                shared: self.0.clone(),
                wanted: request,
                lease,
                waiters,
                claim: None,
                swept: Instant::now(),
            }))
        })
    }

    fn forget<'a>(&'a self, topic: &'a str, group: &'a str) -> Answer<'a, Result<(), Error>> {
        Answer::later(async move {
            let key = (topic.to_owned(), group.to_owned());
            self.0.forgotten.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
            let mut pipe = redis::pipe();
            pipe.cmd("EVAL").arg(FORGET).arg(1).arg(topic).arg(group).arg(self.0.options.waiting()).ignore();
            let what = || format!("forgetting group `{group}` of topic `{topic}`");
            let gone = self.0.link.ask::<()>(&what, &pipe, Again::Harmless).await;
            self.0.wake(topic);
            Ok(gone?)
        })
    }

    fn peek(&self, wanted: Peek) -> Answer<'_, Result<Vec<Peeked>, Error>> {
        Answer::later(async move {
            let Peek { topic, group, after, limit, most } = wanted;
            let mut pipe = redis::pipe();
            let eval = pipe.cmd("EVAL").arg(PEEK).arg(1).arg(&topic).arg(group);
            eval.arg(after.filter(|after| is_id(after)).unwrap_or_default()).arg(limit);
            eval.arg(millis(self.0.options.lease.max(DEFAULT_LEASE)));
            let what = || format!("looking at messages of topic `{topic}`");
            let (seen,): (Vec<Seen>,) = self.0.link.ask(&what, &pipe, Again::Harmless).await?;
            let shown = |(id, attempt, held, fields): Seen| {
                let mut message = message(&topic, &id, fields);
                let bytes = message.data.len();
                message.data.truncate(most);
                Peeked { message, bytes, attempt, in_delivery: held == 1 }
            };
            Ok(seen.into_iter().map(shown).collect())
        })
    }

    fn replay(&self, wanted: Replay) -> Answer<'_, Result<Replayed, Error>> {
        Answer::later(async move {
            let Replay { topic, group, id, to } = wanted;
            if !is_id(&id) {
                return Ok(Replayed::Gone);
            }
            let mut pipe = redis::pipe();
            let eval = pipe.cmd("EVAL").arg(REPLAY).arg(2).arg(&topic).arg(&to).arg(&group).arg(&id);
            eval.arg(millis(self.0.options.lease.max(DEFAULT_LEASE))).arg(self.0.options.waiting());
            let what = || format!("moving message {id} of topic `{topic}` to `{to}`");
            let (answer,): (String,) = self.0.link.ask(&what, &pipe, Again::Unsent).await?;
            self.0.remember(&to);
            self.0.wake(&to);
            match answer.as_str() {
                "moved" => Ok(Replayed::Moved),
                "held" => Ok(Replayed::Held),
                "shared" => {
                    let what = format!(
                        "message {id} of topic `{topic}` was not moved: group `{group}` has not been given it yet, and a \
                         Redis cannot take it from one group only; try again when it has been delivered"
                    );
                    Err(Fault::new(Kind::Unsupported, what).into())
                }
                _ => Ok(Replayed::Gone),
            }
        })
    }

    fn standings(&self) -> Answer<'_, Result<Vec<Standing>, Error>> {
        Answer::later(async move {
            let topics = self.0.topics.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let mut standings = Vec::new();
            for topic in topics {
                let pipe = script(STANDINGS, &topic);
                let what = || format!("counting messages of topic `{topic}`");
                let (groups,): (Vec<(String, u64, u64)>,) =
                    self.0.link.ask(&what, &pipe, Again::Harmless).await?;
                standings.extend(groups.into_iter().map(|(group, in_delivery, new)| Standing {
                    topic: topic.clone(),
                    group,
                    pending: in_delivery + new,
                    in_delivery,
                }));
            }
            Ok(standings)
        })
    }
}

impl Lifecycle for Redis {
    fn ping(&self) -> Answer<'_, Result<(), Fault>> {
        Answer::later(self.0.link.ping())
    }

    fn close(&self) -> Answer<'_, ()> {
        Answer::later(self.0.link.close())
    }
}
