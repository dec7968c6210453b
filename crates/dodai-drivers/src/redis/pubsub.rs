//! `pubsub.redis`: a stream per topic and a consumer group per group, with the fields that Dapr's component writes.
//!
//! A lease is how long a message has been pending: whoever finds one idle for longer takes it. The count of deliveries
//! that the server keeps is the mark by which a late verdict is known. Messages that all groups have settled are
//! removed. Waiting for messages takes none: one connection watches all topics (`watch`), and members take by a script.

mod scripts;
mod watch;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use dodai_capability::component::{Context, Error as Refusal, Lifecycle, Reader};
use dodai_capability::fault::{Fault, Kind};
use dodai_capability::pubsub::{
    Broker, Delivery, Error, Features, Message, Publish, Receipt, Source, Standing, Subscribe, Subscription,
    Verdict, WAITING_FOR_A_GROUP,
};
use dodai_capability::{Answer, Metadata};
use futures_core::future::BoxFuture;
use redis::{Pipeline, Value};
use tokio::sync::Notify;
use tokio::time::Instant;

use self::scripts::{ACK, FORGET, JOIN, LATER, PUBLISH, STANDINGS, SWEEP, TAKE};
use super::link::{Again, Link};

/// Topics whose standings are told at most, and that are remembered.
const TOPICS: usize = 10_000;
/// Messages that travel together at most.
const BATCH: usize = 500;
/// Between two removals of what all groups have settled.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// What a user may set.
pub struct Options {
    lease: Option<Duration>,
    poll: Duration,
    longest: Option<u64>,
    age: Option<Duration>,
    keep: bool,
}

impl Options {
    /// Reads `processingTimeout`, `redeliverInterval`, `maxLenApprox`, `streamTTL` and `keepSettled`.
    ///
    /// # Errors
    /// A value cannot be read.
    pub fn read(read: &mut Reader<'_>) -> Result<Options, Refusal> {
        let some = |duration: Duration| (!duration.is_zero()).then_some(duration);
        let longest = read.number(&["maxLenApprox"], 0)?;
        // How many are in hand at once is the runtime's to say; nothing is kept here beyond one message per member.
        for name in ["queueDepth", "concurrency", "ackOnError"] {
            read.text(&[name]);
        }
        Ok(Options {
            lease: some(read.duration(&["processingTimeout"], Duration::ZERO)?),
            poll: some(read.duration(&["redeliverInterval"], Duration::ZERO)?)
                .unwrap_or(Duration::from_secs(5))
                .max(Duration::from_millis(10)),
            longest: (longest > 0).then_some(longest),
            age: some(read.duration(&["streamTTL"], Duration::ZERO)?),
            keep: read.truth(&["keepSettled"], false)?,
        })
    }
}

/// Those who wait for messages of one group.
#[derive(Default)]
struct Waiters {
    arrived: Notify,
    /// When the next message that was put off may come again.
    due: Mutex<Option<Instant>>,
}

impl Waiters {
    fn due_at(&self, at: Instant) {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        *due = Some(due.map_or(at, |due| due.min(at)));
        drop(due);
        self.arrived.notify_one();
    }

    /// When to look again, at the latest `otherwise`. A time that has come is forgotten.
    fn next_look(&self, otherwise: Instant) -> Instant {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let next = due.filter(|due| *due < otherwise);
        if due.is_some_and(|due| due <= Instant::now()) {
            *due = None;
        }
        next.unwrap_or(otherwise)
    }
}

type Waiting = HashMap<(String, String), Weak<Waiters>>;

struct Shared {
    link: Arc<Link>,
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
        link.ping().await?;
        let shared = Arc::new(Shared {
            link,
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
        eval.arg(group).arg(WAITING_FOR_A_GROUP).arg(u8::from(anew)).ignore();
        let what = || format!("joining group `{group}` of topic `{topic}`");
        self.link.ask::<()>(&what, &pipe, Again::Harmless).await
    }

    /// Takes one message, if there is one.
    async fn claim(&self, wanted: &Subscribe, lease: Duration) -> Result<Option<Taken>, Fault> {
        let mut pipe = redis::pipe();
        let eval = pipe.cmd("EVAL").arg(TAKE).arg(1).arg(&wanted.topic);
        eval.arg(&wanted.group).arg(millis(lease));
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
            let until = self.waiters.next_look(Instant::now() + self.shared.options.poll);
            let claim = self.claim.get_or_insert_with(|| {
                let (shared, wanted, lease) = (self.shared.clone(), self.wanted.clone(), self.lease);
                Box::pin(async move { shared.claim(&wanted, lease).await })
            });
            let outcome = claim.await;
            self.claim = None;
            match outcome {
                Ok(Some((id, attempt, fields))) => {
                    // One wake-up may stand for several messages: whoever takes one wakes the next.
                    self.waiters.arrived.notify_one();
                    let message = message(&self.wanted.topic, &id, fields);
                    let hold = Hold {
                        shared: self.shared.clone(),
                        waiters: self.waiters.clone(),
                        wanted: self.wanted.clone(),
                        lease: self.lease,
                        id,
                        attempt,
                    };
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
                () = tokio::time::sleep_until(until) => {}
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

/// A message in hand.
struct Hold {
    shared: Arc<Shared>,
    waiters: Arc<Waiters>,
    wanted: Subscribe,
    lease: Duration,
    id: String,
    attempt: u32,
}

impl Hold {
    async fn tell(&self, text: &'static str, idle: Option<Duration>, again: Again) -> Result<(), Error> {
        let mut pipe = redis::pipe();
        let eval = pipe.cmd("EVAL").arg(text).arg(1).arg(&self.wanted.topic);
        eval.arg(&self.wanted.group).arg(&self.id).arg(self.attempt);
        idle.into_iter().for_each(|idle| {
            eval.arg(millis(idle));
        });
        let what = || format!("settling message {} of topic `{}`", self.id, self.wanted.topic);
        let (held,): (bool,) = self.shared.link.ask(&what, &pipe, again).await?;
        let lost = || Error::LeaseLost { topic: self.wanted.topic.clone(), id: self.id.clone() };
        if held { Ok(()) } else { Err(lost()) }
    }

    /// Makes it due after `wait`, at most after a whole lease: that is all that the server can note.
    async fn put_off(&self, wait: Duration) -> Result<(), Error> {
        self.tell(LATER, Some(self.lease.saturating_sub(wait)), Again::Harmless).await
    }
}

impl Receipt for Hold {
    fn settle(self: Box<Self>, verdict: Verdict) -> Answer<'static, Result<(), Error>> {
        Answer::later(async move {
            match verdict {
                Verdict::Ack | Verdict::Drop => self.tell(ACK, None, Again::Harmless).await,
                Verdict::Retry { after } => {
                    self.put_off(after).await?;
                    self.waiters.due_at(Instant::now() + after.min(self.lease));
                    Ok(())
                }
            }
        })
    }

    fn extend(&self, lease: Duration) -> Answer<'_, Result<(), Error>> {
        Answer::later(self.put_off(lease))
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
        eval.arg(number(*longest)).arg(number(age.map(millis))).arg(WAITING_FOR_A_GROUP);
    }
}

impl Broker for Redis {
    fn features(&self) -> Features {
        Features { ttl: false, ordered: true, durable: true, bulk_publish: true }
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
                let sent: Result<Vec<Value>, Fault> = self.0.link.ask(&what, &pipe, Again::Unsent).await;
                for message in chunk {
                    self.0.remember(&message.topic);
                    self.0.wake(&message.topic);
                    outcomes.push(match &sent {
                        Ok(_) => Ok(()),
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
            let lease = self.0.options.lease.unwrap_or(request.lease);
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
            pipe.cmd("EVAL").arg(FORGET).arg(1).arg(topic).arg(group).ignore();
            let what = || format!("forgetting group `{group}` of topic `{topic}`");
            let gone = self.0.link.ask::<()>(&what, &pipe, Again::Harmless).await;
            self.0.wake(topic);
            Ok(gone?)
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
