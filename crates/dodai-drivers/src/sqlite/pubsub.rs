//! `pubsub.sqlite`: a durable broker in three tables: groups, messages, and what each group has yet to settle.
//!
//! A lease is a row with a time and a random mark, so consumers in several processes compete for one group. Leases
//! and verdicts survive a crash of the process; a loss of power may bring a settled message once more. Published
//! messages survive both.

mod tables;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use dodai_capability::Answer;
use dodai_capability::clock::Clock;
use dodai_capability::component::{Context, Error as Refusal, Lifecycle, Reader};
use dodai_capability::fault::{Fault, Kind};
use dodai_capability::pubsub::{
    Broker, Delivery, Error, Features, Peek, Peeked, Publish, Receipt, Replay, Replayed, Source, Standing,
    Subscribe, Subscription, Verdict,
};
use futures_core::future::BoxFuture;
use tokio::sync::Notify;

use self::tables::{Claim, Held, Tables};
use super::file::{Access, BATCH, Durability, all};
use super::settings;

/// What it can do.
pub(super) const FEATURES: Features =
    Features { ttl: true, ordered: true, durable: true, bulk_publish: true };

/// What a user may set.
pub struct Options {
    table: String,
    limit: u64,
    retention: Duration,
    poll: Duration,
}

impl Options {
    /// Reads `tableName`, `maxMessages`, `retention` and `pollInterval`.
    ///
    /// # Errors
    /// A value cannot be read.
    pub fn read(read: &mut Reader<'_>) -> Result<Options, Refusal> {
        Ok(Options {
            table: settings::table(read, &["tableName"], "pubsub")?,
            limit: read.number(&["maxMessages"], 100_000)?,
            retention: read.duration(&["retention"], Duration::from_secs(7 * 24 * 3600))?,
            poll: read.duration(&["pollInterval"], Duration::from_secs(1))?.max(Duration::from_millis(10)),
        })
    }
}

/// Those who wait for messages of a group, by topic and group.
type Waiting = HashMap<(String, String), Weak<Notify>>;

struct Shared {
    access: Access,
    clock: Clock,
    tables: Arc<Tables>,
    limit: u64,
    retention: Duration,
    poll: Duration,
    waiting: Mutex<Waiting>,
    closed: AtomicBool,
}

/// A durable broker in a file.
pub struct Sqlite(Arc<Shared>);

impl Sqlite {
    /// Makes the tables if they are not there.
    ///
    /// # Errors
    /// The tables cannot be made.
    pub async fn open(access: Access, options: Options, context: &Context) -> Result<Sqlite, Fault> {
        let tables = Arc::new(Tables::new(&options.table));
        let create = tables.clone();
        let what = format!("making the tables of {}", options.table);
        access
            .write::<_, Fault, _>(what, Durability::Power, move |connection| create.create(connection))
            .await?;
        Ok(Sqlite(Arc::new(Shared {
            access,
            clock: context.clock.clone(),
            tables,
            limit: options.limit,
            retention: options.retention,
            poll: options.poll,
            waiting: Mutex::default(),
            closed: AtomicBool::new(false),
        })))
    }
}

impl Shared {
    fn open_still(&self) -> Result<(), Error> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Fault::new(Kind::Closed, "the broker has been closed").into());
        }
        Ok(())
    }

    fn arrived(&self, topic: &str, group: &str) -> Arc<Notify> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|_, notify| notify.strong_count() > 0);
        let key = (topic.to_owned(), group.to_owned());
        if let Some(notify) = waiting.get(&key).and_then(Weak::upgrade) {
            return notify;
        }
        let notify = Arc::new(Notify::new());
        waiting.insert(key, Arc::downgrade(&notify));
        notify
    }

    /// Wakes one consumer of each of these groups.
    fn wake(&self, topic: &str, groups: &[String]) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        for group in groups {
            if let Some(notify) = waiting.get(&(topic.to_owned(), group.clone())).and_then(Weak::upgrade) {
                notify.notify_one();
            }
        }
    }

    fn claim(self: &Arc<Self>, wanted: &Subscribe) -> BoxFuture<'static, Result<Claim, Error>> {
        let (tables, clock, wanted) = (self.tables.clone(), self.clock.clone(), wanted.clone());
        let what = format!("taking a message of topic `{}`", wanted.topic);
        Box::pin(self.access.write(what, Durability::Process, move |connection| {
            tables.claim(connection, &wanted, clock.now_ms())
        }))
    }
}

struct Member {
    shared: Arc<Shared>,
    wanted: Subscribe,
    arrived: Arc<Notify>,
    // A claim whose caller was cancelled goes on here, or its message would wait for the end of its lease.
    claim: Option<BoxFuture<'static, Result<Claim, Error>>>,
}

impl Member {
    async fn take(&mut self) -> Option<Result<Delivery, Error>> {
        loop {
            if self.shared.closed.load(Ordering::Acquire) {
                // A wake-up reaches one waiter only: pass the bad news on.
                self.arrived.notify_one();
                return None;
            }
            let claim = self.claim.get_or_insert_with(|| self.shared.claim(&self.wanted));
            let outcome = claim.await;
            self.claim = None;
            let wait = match outcome {
                Err(error) => return Some(Err(error)),
                Ok(Claim::NoGroup) => {
                    self.arrived.notify_one();
                    return None;
                }
                Ok(Claim::Taken { message, attempt, held, more }) => {
                    // One wake-up may stand for several messages: whoever takes one wakes the next.
                    if more {
                        self.arrived.notify_one();
                    }
                    let hold = Hold { shared: self.shared.clone(), wanted: self.wanted.clone(), held };
                    return Some(Ok(Delivery::new(message, attempt, Box::new(hold))));
                }
                Ok(Claim::Nothing { due_in: None }) => self.shared.poll,
                Ok(Claim::Nothing { due_in: Some(due_in) }) => due_in.min(self.shared.poll),
            };
            // Nothing is taken here, so nothing is lost when the caller is cancelled. The poll is by real time:
            // it finds what other processes publish.
            tokio::select! {
                () = self.arrived.notified() => {}
                () = self.shared.clock.sleep(wait) => {}
                () = tokio::time::sleep(self.shared.poll) => {}
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
        self.arrived.notify_one();
    }
}

struct Hold {
    shared: Arc<Shared>,
    wanted: Subscribe,
    held: Held,
}

impl Hold {
    fn lost(&self) -> Error {
        Error::LeaseLost { topic: self.wanted.topic.clone(), id: self.held.message.to_string() }
    }
}

impl Receipt for Hold {
    fn settle(self: Box<Self>, verdict: Verdict) -> Answer<'static, Result<(), Error>> {
        let (tables, clock, held) = (self.shared.tables.clone(), self.shared.clock.clone(), self.held);
        let what = format!("settling message {} of topic `{}`", held.message, self.wanted.topic);
        let settled = self.shared.access.write(what, Durability::Process, move |connection| {
            tables.settle(connection, held, verdict, clock.now_ms())
        });
        Answer::later(async move {
            if !settled.await? {
                return Err(self.lost());
            }
            if let Verdict::Retry { .. } = verdict {
                self.shared.wake(&self.wanted.topic, std::slice::from_ref(&self.wanted.group));
            }
            Ok(())
        })
    }

    fn extend(&self, lease: Duration) -> Answer<'_, Result<(), Error>> {
        let (tables, clock, held) = (self.shared.tables.clone(), self.shared.clock.clone(), self.held);
        let what = format!("extending the lease of message {}", held.message);
        let extended = self.shared.access.write(what, Durability::Process, move |connection| {
            tables.extend(connection, held, lease, clock.now_ms())
        });
        Answer::later(async move { if extended.await? { Ok(()) } else { Err(self.lost()) } })
    }
}

impl Broker for Sqlite {
    fn features(&self) -> Features {
        FEATURES
    }

    fn publish(&self, message: Publish) -> Answer<'_, Result<(), Error>> {
        if let Err(error) = self.0.open_still() {
            return Answer::ready(Err(error));
        }
        let (tables, clock) = (self.0.tables.clone(), self.0.clock.clone());
        let (limit, retention, topic) = (self.0.limit, self.0.retention, message.topic.clone());
        let published = self.0.access.write(
            format!("publishing to topic `{topic}`"),
            Durability::Power,
            move |connection| tables.publish(connection, &message, limit, retention, clock.now_ms()),
        );
        Answer::later(async move {
            let groups = published.await?;
            self.0.wake(&topic, &groups);
            Ok(())
        })
    }

    fn publish_many(&self, messages: Vec<Publish>) -> Answer<'_, Vec<Result<(), Error>>> {
        // A chunk is put into the queue in order before its first is awaited, so it shares one commit.
        Answer::later(async move {
            let mut outcomes = Vec::with_capacity(messages.len());
            let mut messages = messages.into_iter().peekable();
            while messages.peek().is_some() {
                let chunk: Vec<_> =
                    messages.by_ref().take(BATCH).map(|message| self.publish(message)).collect();
                outcomes.extend(all(chunk).await);
            }
            outcomes
        })
    }

    fn subscribe(&self, request: Subscribe) -> Answer<'_, Result<Subscription, Error>> {
        if let Err(error) = self.0.open_still() {
            return Answer::ready(Err(error));
        }
        let (tables, wanted) = (self.0.tables.clone(), request.clone());
        let what = format!("joining group `{}` of topic `{}`", request.group, request.topic);
        let joined = self.0.access.write::<_, Error, _>(what, Durability::Power, move |connection| {
            tables.join(connection, &wanted.topic, &wanted.group)
        });
        Answer::later(async move {
            joined.await?;
            let arrived = self.0.arrived(&request.topic, &request.group);
            Ok(Subscription::new(Member { shared: self.0.clone(), wanted: request, arrived, claim: None }))
        })
    }

    fn forget<'a>(&'a self, topic: &'a str, group: &'a str) -> Answer<'a, Result<(), Error>> {
        let (tables, name) = (self.0.tables.clone(), (topic.to_owned(), group.to_owned()));
        let what = format!("forgetting group `{group}` of topic `{topic}`");
        let forgotten = self.0.access.write::<_, Error, _>(what, Durability::Power, move |connection| {
            tables.forget(connection, &name.0, &name.1)
        });
        Answer::later(async move {
            forgotten.await?;
            self.0.wake(topic, &[group.to_owned()]);
            Ok(())
        })
    }

    fn peek(&self, wanted: Peek) -> Answer<'_, Result<Vec<Peeked>, Error>> {
        let (tables, now_ms) = (self.0.tables.clone(), self.0.clock.now_ms());
        let what = format!("looking at messages of topic `{}`", wanted.topic);
        self.0.access.read(what, move |connection| tables.peek(connection, &wanted, now_ms))
    }

    fn replay(&self, wanted: Replay) -> Answer<'_, Result<Replayed, Error>> {
        if let Err(error) = self.0.open_still() {
            return Answer::ready(Err(error));
        }
        let (tables, clock, to) = (self.0.tables.clone(), self.0.clock.clone(), wanted.to.clone());
        let (limit, retention) = (self.0.limit, self.0.retention);
        let what = format!("moving message {} of topic `{}` to `{to}`", wanted.id, wanted.topic);
        let moved = self.0.access.write(what, Durability::Power, move |connection| {
            tables.replay(connection, wanted, limit, retention, clock.now_ms())
        });
        Answer::later(async move {
            let (replayed, groups) = moved.await?;
            self.0.wake(&to, &groups);
            Ok(replayed)
        })
    }

    fn standings(&self) -> Answer<'_, Result<Vec<Standing>, Error>> {
        let (tables, now_ms) = (self.0.tables.clone(), self.0.clock.now_ms());
        self.0.access.read("counting messages", move |connection| tables.standings(connection, now_ms))
    }
}

impl Lifecycle for Sqlite {
    fn ping(&self) -> Answer<'_, Result<(), Fault>> {
        self.0.access.ping()
    }

    fn close(&self) -> Answer<'_, ()> {
        self.0.closed.store(true, Ordering::Release);
        let waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        for notify in waiting.values().filter_map(Weak::upgrade) {
            notify.notify_one();
        }
        Answer::ready(())
    }
}
