//! `pubsub.in-memory`: topics with a queue per group.
//!
//! One lock guards all; nothing under it waits. A message is kept once and shared by the groups. What a topic
//! without groups is given waits in a group without a name, which the first that joins takes over. A group without members keeps collecting until it has been idle for long or is full.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::answer::Answer;
use crate::component::Lifecycle;
use crate::fault::{Fault, Kind};
use crate::pubsub::{
    Broker, Delivery, Error, Features, Message, NO_GROUP, Peek, Peeked, Publish, Receipt, Replay, Replayed,
    Source, Standing, Subscribe, Subscription, Verdict, WAITING_FOR_A_GROUP,
};

/// What it can do.
pub(super) const FEATURES: Features =
    Features { ttl: true, ordered: true, durable: false, bulk_publish: false };

/// What a message costs beside its data.
const OVERHEAD: u64 = 256;
/// A consumer looks again at least this often, whatever wakes it.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// How much a broker holds.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Unsettled messages of one group of one topic: `maxMessages`.
    pub messages: u64,
    /// Bytes of all messages that some group has yet to settle: `maxBytes`.
    pub bytes: u64,
    /// How long a group without members goes on collecting: `groupIdleTimeout`.
    pub idle_group: Duration,
}

struct Stored {
    message: Message,
    expires: Option<Instant>,
    cost: u64,
}

struct Pending {
    stored: Arc<Stored>,
    attempt: u32,
    /// Not to be given out before; while in delivery, the end of the lease.
    due: Option<Instant>,
    /// Which delivery holds it; a verdict of another one comes too late.
    lease: Option<u64>,
}

struct Group {
    /// Tells a group from a later one of the same name.
    id: u64,
    pending: BTreeMap<u64, Pending>,
    members: usize,
    idle_since: Instant,
    arrived: Arc<Notify>,
}

/// What a walk over a group's messages finds.
struct Pick {
    /// The first that may be given out.
    ready: Option<u64>,
    /// Whether there is another one behind it.
    more: bool,
    /// When the next of those passed over is due.
    until: Instant,
    /// Those passed over that nobody needs any more.
    expired: Vec<u64>,
}

impl Group {
    fn new(id: u64) -> Group {
        let (pending, arrived) = (BTreeMap::new(), Arc::default());
        Group { id, pending, members: 0, idle_since: Instant::now(), arrived }
    }

    fn pick(&self, now: Instant) -> Pick {
        let mut pick = Pick { ready: None, more: false, until: now + LOOK_AGAIN, expired: Vec::new() };
        for (sequence, pending) in &self.pending {
            match pending.due {
                Some(due) if due > now => pick.until = pick.until.min(due),
                Some(_) | None if pending.stored.expires.is_some_and(|at| at <= now) => {
                    pick.expired.push(*sequence)
                }
                Some(_) | None if pick.ready.is_none() => pick.ready = Some(*sequence),
                Some(_) | None => {
                    pick.more = true;
                    break;
                }
            }
        }
        pick
    }
}

#[derive(Default)]
struct Topics {
    groups: HashMap<String, BTreeMap<String, Group>>,
    sequence: u64,
    leases: u64,
    bytes: u64,
    closed: bool,
}

struct Shared {
    topics: Mutex<Topics>,
    limits: Limits,
}

/// A broker in memory.
pub struct Memory(Arc<Shared>);

fn closed() -> Error {
    Fault::new(Kind::Closed, "the broker has been closed").into()
}

impl Topics {
    fn group(&mut self, topic: &str, group: &str) -> Option<&mut Group> {
        self.groups.get_mut(topic)?.get_mut(group)
    }

    /// Gives back the room of a message that one group is done with.
    fn released(&mut self, pending: Pending) {
        if let Some(stored) = Arc::into_inner(pending.stored) {
            self.bytes -= stored.cost;
        }
    }

    fn forget(&mut self, topic: &str, group: &str) {
        let Some(groups) = self.groups.get_mut(topic) else { return };
        let gone = groups.remove(group);
        if groups.is_empty() {
            self.groups.remove(topic);
        }
        if let Some(gone) = gone {
            gone.arrived.notify_one();
            for pending in gone.pending.into_values() {
                self.released(pending);
            }
        }
    }

    /// Forgets groups that have had no member for long, and messages that have expired.
    fn sweep(&mut self, topic: &str, limits: &Limits, now: Instant) {
        let Some(groups) = self.groups.get(topic) else { return };
        let idle: Vec<String> = groups
            .iter()
            .filter(|(_, group)| {
                group.members == 0 && now.duration_since(group.idle_since) >= limits.idle_group
            })
            .map(|(name, _)| name.clone())
            .collect();
        for group in idle {
            tracing::info!(topic, group, "an in-memory group without members for long was forgotten");
            self.forget(topic, &group);
        }
    }

    fn drop_expired(&mut self, topic: &str, group: &str, now: Instant) {
        let Some(found) = self.group(topic, group) else { return };
        let expired = |pending: &Pending| {
            pending.stored.expires.is_some_and(|at| at <= now)
                && (pending.lease.is_none() || pending.due <= Some(now))
        };
        let gone: Vec<Pending> =
            found.pending.extract_if(.., |_, pending| expired(pending)).map(|(_, p)| p).collect();
        for pending in gone {
            self.released(pending);
        }
    }

    /// The first group of a topic takes over what waits there.
    fn join(&mut self, topic: &str, name: &str) -> &mut Group {
        self.sequence += 1;
        let id = self.sequence;
        let groups = self.groups.entry(topic.to_owned()).or_default();
        let waiting = groups.remove(NO_GROUP);
        groups.entry(name.to_owned()).or_insert_with(|| waiting.unwrap_or_else(|| Group::new(id)))
    }

    /// What waits for a first group takes no room from what a group has yet to settle.
    fn forget_nobodys(&mut self) {
        let all = self.groups.values_mut().filter_map(|groups| groups.remove(NO_GROUP));
        let pending: Vec<Pending> = all.flat_map(|group| group.pending.into_values()).collect();
        pending.into_iter().for_each(|one| self.released(one));
        self.groups.retain(|_, groups| !groups.is_empty());
    }

    fn make_room_in_nobodys(&mut self, topic: &str, limits: &Limits) {
        let Some(nobodys) = self.group(topic, NO_GROUP) else { return };
        if nobodys.pending.len() as u64 >= limits.messages.min(WAITING_FOR_A_GROUP)
            && let Some((_, oldest)) = nobodys.pending.pop_first()
        {
            self.released(oldest);
        }
    }

    fn publish(&mut self, publish: Publish, limits: &Limits) -> Result<(), Error> {
        let now = Instant::now();
        self.sweep(&publish.topic, limits, now);
        let cost = publish.data.len() as u64 + OVERHEAD;
        if self.bytes + cost > limits.bytes {
            self.forget_nobodys();
        }
        self.add(publish, limits, now)
    }

    /// Gives a message to every group of its topic, if there is room; what others wait for stays.
    fn add(&mut self, publish: Publish, limits: &Limits, now: Instant) -> Result<(), Error> {
        let cost = publish.data.len() as u64 + OVERHEAD;
        self.make_room_in_nobodys(&publish.topic, limits);
        self.sequence += 1;
        let sequence = self.sequence;
        let groups = self.groups.entry(publish.topic.clone()).or_default();
        if groups.is_empty() {
            groups.insert(NO_GROUP.to_owned(), Group::new(sequence));
        }
        let full = |group: &Group| group.pending.len() as u64 >= limits.messages;
        let names: Vec<String> =
            groups.iter().filter(|(_, group)| full(group)).map(|(name, _)| name.clone()).collect();
        for group in names {
            self.drop_expired(&publish.topic, &group, now);
            if self.group(&publish.topic, &group).is_some_and(|group| full(group)) {
                let topic = publish.topic;
                return Err(Error::TopicFull {
                    topic,
                    group,
                    limit: limits.messages,
                    property: "maxMessages",
                });
            }
        }
        if self.bytes + cost > limits.bytes {
            let what = format!(
                "topic `{}` takes no message: the broker holds its {} bytes; consume messages or raise maxBytes",
                publish.topic, limits.bytes
            );
            return Err(Fault::new(Kind::Full, what).into());
        }
        let stored = Arc::new(Stored {
            expires: publish.ttl.map(|ttl| now + ttl),
            cost,
            message: Message {
                id: sequence.to_string(),
                topic: publish.topic.clone(),
                data: publish.data,
                content_type: publish.content_type,
                metadata: publish.metadata,
                published: SystemTime::now(),
            },
        });
        self.bytes += cost;
        for group in self.groups.get_mut(&publish.topic).into_iter().flat_map(BTreeMap::values_mut) {
            group
                .pending
                .insert(sequence, Pending { stored: stored.clone(), attempt: 0, due: None, lease: None });
            group.arrived.notify_one();
        }
        Ok(())
    }
}

impl Topics {
    fn peek(&self, wanted: &Peek, now: Instant) -> Vec<Peeked> {
        let group = self.groups.get(&wanted.topic).and_then(|groups| groups.get(&wanted.group));
        let after = wanted.after.as_deref().and_then(|after| after.parse::<u64>().ok());
        let rest = group.into_iter().flat_map(|group| group.pending.range(after.map_or(0, |at| at + 1)..));
        let fresh = rest.map(|(_, one)| one).filter(|one| one.stored.expires.is_none_or(|at| at > now));
        let cut = |mut message: Message| {
            message.data.truncate(wanted.most);
            message
        };
        let shown = |one: &Pending| Peeked {
            message: cut(one.stored.message.clone()),
            bytes: one.stored.message.data.len(),
            attempt: one.attempt,
            in_delivery: one.is_held(now),
        };
        fresh.take(wanted.limit).map(shown).collect()
    }

    fn replay(&mut self, wanted: Replay, limits: &Limits) -> Result<Replayed, Error> {
        let now = Instant::now();
        let Replay { topic, group, id, to } = wanted;
        let Ok(sequence) = id.parse::<u64>() else { return Ok(Replayed::Gone) };
        self.sweep(&to, limits, now);
        let Some(found) = self.group(&topic, &group) else { return Ok(Replayed::Gone) };
        match found.pending.get(&sequence) {
            Some(pending) if pending.is_held(now) => return Ok(Replayed::Held),
            Some(_) | None => {}
        }
        let Some(pending) = found.pending.remove(&sequence) else { return Ok(Replayed::Gone) };
        let Message { data, content_type, metadata, .. } = pending.stored.message.clone();
        // It makes room for itself, unless another group keeps it: nothing else has to go for a move.
        let freed = if Arc::strong_count(&pending.stored) == 1 { pending.stored.cost } else { 0 };
        self.bytes -= freed;
        let moved = self.add(Publish { topic: to, data, content_type, ttl: None, metadata }, limits, now);
        if let Err(error) = moved {
            self.bytes += freed;
            if let Some(group) = self.group(&topic, &group) {
                group.pending.insert(sequence, pending);
            }
            return Err(error);
        }
        Ok(Replayed::Moved)
    }
}

impl Pending {
    /// Whether a consumer holds it.
    fn is_held(&self, now: Instant) -> bool {
        self.lease.is_some() && self.due > Some(now)
    }
}

/// What a consumer finds when it looks.
enum Look {
    Found(Delivery),
    Wait { until: Instant },
    Over,
}

impl Shared {
    fn locked(&self) -> std::sync::MutexGuard<'_, Topics> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(self: &Arc<Self>, member: &Member) -> Look {
        let now = Instant::now();
        let wanted = &member.wanted;
        let mut topics = self.locked();
        topics.leases += 1;
        let lease = topics.leases;
        let is_open = !topics.closed;
        let group =
            topics.group(&wanted.topic, &wanted.group).filter(|group| is_open && group.id == member.group);
        let Some(group) = group else {
            // A wake-up reaches one waiter only: pass the bad news on.
            member.arrived.notify_one();
            return Look::Over;
        };
        let pick = group.pick(now);
        let expired: Vec<Pending> = pick.expired.iter().filter_map(|at| group.pending.remove(at)).collect();
        let found = pick.ready.and_then(|sequence| Some((sequence, group.pending.get_mut(&sequence)?)));
        let look = match found {
            None => Look::Wait { until: pick.until },
            Some((sequence, pending)) => {
                pending.attempt += 1;
                pending.due = Some(now + wanted.lease);
                pending.lease = Some(lease);
                let (shared, topic, group) = (self.clone(), wanted.topic.clone(), wanted.group.clone());
                let receipt = Held { shared, topic, group, sequence, lease };
                Look::Found(Delivery::new(pending.stored.message.clone(), pending.attempt, Box::new(receipt)))
            }
        };
        // One wake-up may stand for several messages: whoever takes one wakes the next.
        if pick.more {
            group.arrived.notify_one();
        }
        for pending in expired {
            topics.released(pending);
        }
        look
    }
}

struct Held {
    shared: Arc<Shared>,
    topic: String,
    group: String,
    sequence: u64,
    lease: u64,
}

impl Held {
    /// Does `work` on the group if this delivery still holds its message.
    fn while_held(&self, work: impl FnOnce(&mut Topics)) -> Result<(), Error> {
        let mut topics = self.shared.locked();
        let now = Instant::now();
        let pending =
            topics.group(&self.topic, &self.group).and_then(|group| group.pending.get(&self.sequence));
        match pending {
            Some(pending) if pending.lease == Some(self.lease) && pending.due > Some(now) => {
                work(&mut topics);
                Ok(())
            }
            Some(_) | None => {
                Err(Error::LeaseLost { topic: self.topic.clone(), id: self.sequence.to_string() })
            }
        }
    }
}

impl Receipt for Held {
    fn settle(self: Box<Self>, verdict: Verdict) -> Answer<'static, Result<(), Error>> {
        Answer::ready(self.while_held(|topics| {
            let Some(group) = topics.group(&self.topic, &self.group) else { return };
            match verdict {
                Verdict::Ack | Verdict::Drop => {
                    if let Some(pending) = group.pending.remove(&self.sequence) {
                        topics.released(pending);
                    }
                }
                Verdict::Retry { after } => {
                    if let Some(pending) = group.pending.get_mut(&self.sequence) {
                        pending.lease = None;
                        pending.due = Some(Instant::now() + after);
                    }
                    group.arrived.notify_one();
                }
            }
        }))
    }

    fn extend(&self, lease: Duration) -> Answer<'_, Result<(), Error>> {
        Answer::ready(self.while_held(|topics| {
            let pending = topics
                .group(&self.topic, &self.group)
                .and_then(|group| group.pending.get_mut(&self.sequence));
            if let Some(pending) = pending {
                pending.due = Some(Instant::now() + lease);
            }
        }))
    }
}

struct Member {
    shared: Arc<Shared>,
    wanted: Subscribe,
    group: u64,
    arrived: Arc<Notify>,
}

impl Source for Member {
    fn next(&mut self) -> Answer<'_, Option<Result<Delivery, Error>>> {
        let mut until = match self.shared.look(self) {
            Look::Found(delivery) => return Answer::ready(Some(Ok(delivery))),
            Look::Over => return Answer::ready(None),
            Look::Wait { until } => until,
        };
        Answer::later(async move {
            loop {
                // Cancel safe: a message is only taken by `look`, which does not wait. `notify_one` keeps a permit
                // for a waiter that comes late, and a permit lost to a cancelled waiter is passed on.
                tokio::select! {
                    () = self.arrived.notified() => {}
                    () = tokio::time::sleep_until(until) => {}
                }
                match self.shared.look(self) {
                    Look::Found(delivery) => return Some(Ok(delivery)),
                    Look::Over => return None,
                    Look::Wait { until: later } => until = later,
                }
            }
        })
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut topics = self.shared.locked();
        let group =
            topics.group(&self.wanted.topic, &self.wanted.group).filter(|group| group.id == self.group);
        if let Some(group) = group {
            group.members -= 1;
            group.idle_since = Instant::now();
            group.arrived.notify_one();
        }
    }
}

impl Memory {
    /// An empty broker.
    pub fn new(limits: Limits) -> Memory {
        Memory(Arc::new(Shared { topics: Mutex::default(), limits }))
    }
}

impl Broker for Memory {
    fn features(&self) -> Features {
        FEATURES
    }

    fn publish(&self, message: Publish) -> Answer<'_, Result<(), Error>> {
        let mut topics = self.0.locked();
        if topics.closed {
            return Answer::ready(Err(closed()));
        }
        Answer::ready(topics.publish(message, &self.0.limits))
    }

    fn subscribe(&self, request: Subscribe) -> Answer<'_, Result<Subscription, Error>> {
        let mut topics = self.0.locked();
        if topics.closed {
            return Answer::ready(Err(closed()));
        }
        let group = topics.join(&request.topic, &request.group);
        group.members += 1;
        let (group, arrived) = (group.id, group.arrived.clone());
        Answer::ready(Ok(Subscription::new(Member {
            shared: self.0.clone(),
            wanted: request,
            group,
            arrived,
        })))
    }

    fn forget<'a>(&'a self, topic: &'a str, group: &'a str) -> Answer<'a, Result<(), Error>> {
        self.0.locked().forget(topic, group);
        Answer::ready(Ok(()))
    }

    fn peek(&self, wanted: Peek) -> Answer<'_, Result<Vec<Peeked>, Error>> {
        Answer::ready(Ok(self.0.locked().peek(&wanted, Instant::now())))
    }

    fn replay(&self, wanted: Replay) -> Answer<'_, Result<Replayed, Error>> {
        let mut topics = self.0.locked();
        if topics.closed {
            return Answer::ready(Err(closed()));
        }
        Answer::ready(topics.replay(wanted, &self.0.limits))
    }

    fn standings(&self) -> Answer<'_, Result<Vec<Standing>, Error>> {
        let now = Instant::now();
        let topics = self.0.locked();
        let mut standings: Vec<Standing> = topics
            .groups
            .iter()
            .flat_map(|(topic, groups)| groups.iter().map(move |(name, group)| (topic, name, group)))
            .map(|(topic, name, group)| Standing {
                topic: topic.clone(),
                group: name.clone(),
                pending: group.pending.len() as u64,
                in_delivery: group.pending.values().filter(|one| one.is_held(now)).count() as u64,
            })
            .collect();
        standings.sort_by(|a, b| (&a.topic, &a.group).cmp(&(&b.topic, &b.group)));
        Answer::ready(Ok(standings))
    }
}

impl Lifecycle for Memory {
    fn close(&self) -> Answer<'_, ()> {
        let mut topics = self.0.locked();
        topics.closed = true;
        for group in topics.groups.values().flat_map(BTreeMap::values) {
            group.arrived.notify_one();
        }
        Answer::ready(())
    }
}

#[cfg(test)]
mod tests;
