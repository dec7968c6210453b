//! `configuration.redis`: a text `value||version` under each key, as Dapr's component reads it; what else is known of a
//! value stands behind a second `||`, which Dapr passes over.
//!
//! Followers are told by notifications of the key space. When their connection breaks, what they follow is read again
//! and compared with what was seen, so no change is lost. Every text of the database counts as configuration, as with
//! Dapr; what is no UTF-8 is not, and is passed over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dodai_capability::component::{Context, Error as Refusal, Lifecycle, Reader};
use dodai_capability::configuration::{Change, Error, Feeds, Item, Store, Subscription, Writer};
use dodai_capability::fault::{Fault, Kind};
use dodai_capability::{Answer, Metadata};
use dodai_core::task::{self, Tasks};
use redis::{AsyncConnectionConfig, ProtocolVersion, PushInfo, PushKind};
use tokio::sync::{Notify, OnceCell};

use super::link::{Again, Link, Open};

/// What parts a value from its version.
const SEPARATOR: &str = "||";
/// Keys that a scan looks at in one go, and that are read in one exchange.
const SCAN: usize = 500;
/// How often a connection that only listens is asked whether it is there.
const PULSE: Duration = Duration::from_secs(5);

/// Sets a value, its version one more than before; answers the version.
const SET: &str = "\
local version = 0
if redis.call('TYPE', KEYS[1]).ok == 'string' then
  version = tonumber(string.match(redis.call('GET', KEYS[1]), '^.-||(%d+)')) or 0
end
version = string.format('%.0f', version + 1)
redis.call('SET', KEYS[1], ARGV[1] .. '||' .. version .. ARGV[2])
return version";

/// What a user may set.
pub struct Options {
    limit: usize,
}

impl Options {
    /// Reads `maxItems`: a store with more keys is not read as a whole.
    ///
    /// # Errors
    /// It is no whole number.
    pub fn read(read: &mut Reader<'_>) -> Result<Options, Refusal> {
        Ok(Options { limit: usize::try_from(read.number(&["maxItems"], 10_000)?).unwrap_or(usize::MAX) })
    }
}

struct Shared {
    link: Arc<Link>,
    limit: usize,
    feeds: Feeds,
    tasks: Tasks,
    /// Set once somebody follows.
    following: OnceCell<()>,
    /// What was seen last of the keys that are followed. Locked while what it says is compared with the server.
    seen: tokio::sync::Mutex<Raw>,
    touched: Mutex<Touched>,
    arrived: Notify,
}

/// What notifications have told of keys that are followed, since the last look.
#[derive(Default)]
struct Touched {
    keys: BTreeSet<String>,
    /// There were too many of them.
    all: bool,
}

/// A configuration store in a Redis.
pub struct Redis(Arc<Shared>);

/// Raw texts by key.
type Raw = BTreeMap<String, String>;

impl Redis {
    /// Over this connection.
    ///
    /// # Errors
    /// It cannot be reached.
    pub async fn open(link: Arc<Link>, options: Options, context: &Context) -> Result<Redis, Fault> {
        link.greet().await?;
        let shared = Shared {
            link,
            limit: options.limit,
            feeds: Feeds::default(),
            tasks: context.tasks.clone(),
            following: OnceCell::new(),
            seen: tokio::sync::Mutex::default(),
            touched: Mutex::default(),
            arrived: Notify::new(),
        };
        Ok(Redis(Arc::new(shared)))
    }
}

fn item(raw: &str) -> Item {
    let mut parts = raw.splitn(3, SEPARATOR);
    let value = parts.next().unwrap_or_default().to_owned();
    let version = parts.next().unwrap_or_default().to_owned();
    // Written by us below; what somebody else wrote there counts as none.
    let metadata = parts.next().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    Item { value, version, metadata }
}

impl Shared {
    async fn read(&self, keys: &[String]) -> Result<Raw, Fault> {
        let mut found = Raw::new();
        for chunk in keys.chunks(SCAN) {
            // Keys that hold something else than a string answer nothing.
            let mut pipe = redis::pipe();
            pipe.cmd("MGET").arg(chunk);
            let what = || format!("reading {} keys of configuration", chunk.len());
            let (values,): (Vec<Option<Vec<u8>>>,) = self.link.ask(&what, &pipe, Again::Harmless).await?;
            let pairs = chunk.iter().zip(values);
            found.extend(
                pairs.filter_map(|(key, value)| Some((key.clone(), String::from_utf8(value?).ok()?))),
            );
        }
        Ok(found)
    }

    async fn read_all(&self) -> Result<Raw, Fault> {
        let (mut cursor, mut keys) = ("0".to_owned(), BTreeSet::new());
        loop {
            let mut pipe = redis::pipe();
            pipe.cmd("SCAN").arg(&cursor).arg("COUNT").arg(SCAN).arg("TYPE").arg("string");
            let what = || "listing the keys of configuration".to_owned();
            let ((next, some),): ((String, Vec<Vec<u8>>),) =
                self.link.ask(&what, &pipe, Again::Harmless).await?;
            keys.extend(some.into_iter().filter_map(|key| String::from_utf8(key).ok()));
            if keys.len() > self.limit {
                let what = format!(
                    "component `{}`: the database has more than {} texts; ask for keys by name, keep configuration in a database of its own (redisDB), or raise maxItems",
                    self.link.component(),
                    self.limit
                );
                return Err(Fault::new(Kind::Full, what));
            }
            cursor = next;
            if cursor == "0" {
                break;
            }
        }
        self.read(&keys.into_iter().collect::<Vec<_>>()).await
    }

    fn touch(&self, key: &str) {
        if !self.feeds.follow(key) {
            return;
        }
        let mut touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
        if touched.keys.len() >= self.limit {
            touched.all = true;
            touched.keys.clear();
        }
        if !touched.all {
            touched.keys.insert(key.to_owned());
        }
        drop(touched);
        self.arrived.notify_one();
    }

    /// A connection that is told of every change of the key space.
    async fn listen(self: &Arc<Self>) -> Result<Open, Fault> {
        self.switch_notifications_on().await?;
        let settings = self.link.settings();
        let prefix = format!("__keyspace@{}__:", settings.database);
        let (shared, start) = (Arc::downgrade(self), prefix.clone());
        let told = move |push: PushInfo| -> Result<(), std::convert::Infallible> {
            if push.kind == PushKind::PMessage
                && let Some(redis::Value::BulkString(channel)) = push.data.get(1)
                && let Some(key) =
                    std::str::from_utf8(channel).ok().and_then(|text| text.strip_prefix(&start))
                && let Some(shared) = shared.upgrade()
            {
                shared.touch(key);
            }
            Ok(())
        };
        let login = settings.login.clone().set_protocol(ProtocolVersion::RESP3);
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(Some(settings.answer_timeout))
            .set_push_sender(told);
        let unavailable = |why: String| {
            let (component, place) = (self.link.component(), &self.link.settings().place);
            let what = format!(
                "component `{component}`, Redis at {place}: changes of configuration cannot be followed: {why}"
            );
            Fault::new(Kind::Unavailable, what)
        };
        let mut open = self.link.dial(&login, config).await.map_err(unavailable)?;
        open.psubscribe(&format!("{prefix}*")).await.map_err(|error| unavailable(error.to_string()))?;
        Ok(open)
    }

    /// Adds what is needed to what the server tells already.
    async fn switch_notifications_on(&self) -> Result<(), Fault> {
        const SETTING: &str = "notify-keyspace-events";
        let mut pipe = redis::pipe();
        pipe.cmd("CONFIG").arg("GET").arg(SETTING);
        let what = || format!("reading the server's `{SETTING}`");
        let refused = |fault: Fault| {
            let hint = format!("{fault}; set `{SETTING}` to `KA` on the server if this user may not");
            Fault::new(fault.kind(), hint)
        };
        let (found,): (Vec<String>,) = match self.link.ask(&what, &pipe, Again::Harmless).await {
            Ok(found) => found,
            // A server that keeps CONFIG to itself may tell all the same.
            Err(fault) if fault.kind() == Kind::Invalid || fault.to_string().contains("NOPERM") => {
                tracing::warn!("{}", refused(fault));
                return Ok(());
            }
            Err(fault) => return Err(fault),
        };
        let now = found.get(1).map_or("", String::as_str);
        if now.contains('K') && now.contains('A') {
            return Ok(());
        }
        let wanted: String =
            now.chars().filter(|letter| !"KA".contains(*letter)).chain("KA".chars()).collect();
        let mut pipe = redis::pipe();
        pipe.cmd("CONFIG").arg("SET").arg(SETTING).arg(&wanted).ignore();
        let what = || format!("setting the server's `{SETTING}` to `{wanted}`");
        self.link.ask::<()>(&what, &pipe, Again::Harmless).await.map_err(refused)
    }

    /// Starts to follow, once; when it returns every later change is told.
    async fn follow(self: &Arc<Self>) -> Result<(), Fault> {
        let started = self.following.get_or_try_init(|| async {
            let open = self.listen().await?;
            let (shared, tasks) = (Arc::downgrade(self), self.tasks.clone());
            self.tasks.spawn(task::Kind::Loop, async move {
                let mut open = Some(open);
                let mut failures = 0;
                // Only a weak handle: the look-out must not keep a store alive that nobody uses.
                while let Some(shared) = shared.upgrade().filter(|shared| !shared.link.is_closed()) {
                    let pause = match shared.look(&mut open).await {
                        Ok(()) => {
                            failures = 0;
                            PULSE
                        }
                        Err(fault) => {
                            if failures == 0 {
                                tracing::warn!("{fault}; changes are told when it is there again");
                            }
                            failures += 1;
                            open = None;
                            shared.link.pause(failures)
                        }
                    };
                    // Nothing is lost between branches: what was touched is kept.
                    tokio::select! {
                        () = tasks.closing() => return,
                        () = shared.link.closing() => return,
                        () = shared.arrived.notified() => {}
                        () = tokio::time::sleep(pause) => {}
                    }
                }
            });
            Ok(())
        });
        started.await.map(|_| ())
    }

    /// A feed that begins with the next change of these keys, or of all if there are none.
    async fn feed(&self, keys: &[String]) -> Result<Subscription, Fault> {
        let mut seen = self.seen.lock().await;
        let before = self.feeds.followed();
        // It is there before the keys are read, so what changes from then on is noted; it is told after the lock.
        let feed = self.feeds.subscribe(keys);
        let now = if keys.is_empty() { self.read_all().await? } else { self.read(keys).await? };
        // What others follow may have changed without their having been told yet.
        seen.retain(|key, _| before.has(key));
        seen.extend(now.into_iter().filter(|(key, _)| !before.has(key)));
        Ok(feed)
    }

    /// All that is followed, as it is now.
    async fn read_followed(&self, seen: &Raw) -> Result<Raw, Fault> {
        let followed = self.feeds.followed();
        if !followed.all {
            return self.read(&followed.keys.into_iter().collect::<Vec<_>>()).await;
        }
        match self.read_all().await {
            Err(fault) if fault.kind() == Kind::Full => {
                tracing::warn!("{fault}; only keys that were there before are compared with what was seen");
                let keys = followed.keys.into_iter().chain(seen.keys().cloned());
                self.read(&keys.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()).await
            }
            other => other,
        }
    }

    /// Reads what was touched and tells what differs from what was seen.
    async fn look(self: &Arc<Self>, open: &mut Option<Open>) -> Result<(), Fault> {
        let anew = match open {
            Some(open) if open.is_alive() => {
                let mut pipe = redis::pipe();
                pipe.cmd("PING").ignore();
                // A connection that died without a word shows here.
                open.query::<()>(&pipe).await.is_err()
            }
            Some(_) | None => true,
        };
        if anew {
            *open = Some(self.listen().await?);
        }
        let mut seen = self.seen.lock().await;
        let touched = std::mem::take(&mut *self.touched.lock().unwrap_or_else(PoisonError::into_inner));
        if anew || touched.all {
            let now = match self.read_followed(&seen).await {
                Ok(now) => now,
                Err(fault) => {
                    self.touched.lock().unwrap_or_else(PoisonError::into_inner).all = true;
                    return Err(fault);
                }
            };
            let gone: Vec<String> = seen.keys().filter(|key| !now.contains_key(*key)).cloned().collect();
            gone.into_iter().for_each(|key| self.tell(&mut seen, key, None));
            now.into_iter().for_each(|(key, raw)| self.tell(&mut seen, key, Some(raw)));
            return Ok(());
        }
        let keys: Vec<String> = touched.keys.into_iter().collect();
        let mut now = match self.read(&keys).await {
            Ok(now) => now,
            Err(fault) => {
                keys.iter().for_each(|key| self.touch(key));
                return Err(fault);
            }
        };
        for key in keys {
            let raw = now.remove(&key);
            self.tell(&mut seen, key, raw);
        }
        Ok(())
    }

    fn tell(&self, seen: &mut Raw, key: String, raw: Option<String>) {
        if seen.get(&key) == raw.as_ref() {
            return;
        }
        self.feeds.tell(&Change { key: key.clone(), item: raw.as_deref().map(item) });
        match raw {
            Some(raw) => seen.insert(key, raw),
            None => seen.remove(&key),
        };
    }
}

impl Store for Redis {
    fn get<'a>(
        &'a self,
        keys: &'a [String],
        _: &'a Metadata,
    ) -> Answer<'a, Result<BTreeMap<String, Item>, Error>> {
        Answer::later(async move {
            let found = if keys.is_empty() { self.0.read_all().await? } else { self.0.read(keys).await? };
            Ok(found.into_iter().map(|(key, raw)| (key, item(&raw))).collect())
        })
    }

    fn subscribe<'a>(
        &'a self,
        keys: &'a [String],
        _: &'a Metadata,
    ) -> Answer<'a, Result<Subscription, Error>> {
        Answer::later(async move {
            if self.0.link.is_closed() {
                return Err(Fault::new(Kind::Closed, "the configuration store has been closed").into());
            }
            self.0.follow().await?;
            Ok(self.0.feed(keys).await?)
        })
    }
}

impl Writer for Redis {
    fn set<'a>(
        &'a self,
        key: &'a str,
        value: &'a str,
        metadata: Metadata,
    ) -> Answer<'a, Result<Item, Error>> {
        Answer::later(async move {
            if value.contains(SEPARATOR) {
                let what = format!(
                    "`{key}` was not set: its value has `||` in it, which parts values from versions there"
                );
                return Err(Fault::new(Kind::Invalid, what).into());
            }
            let more = if metadata.is_empty() {
                String::new()
            } else {
                let json = serde_json::to_string(&metadata).expect("a map of texts is JSON");
                format!("{SEPARATOR}{json}")
            };
            let mut pipe = redis::pipe();
            pipe.cmd("EVAL").arg(SET).arg(1).arg(key).arg(value).arg(more);
            let (version,): (String,) =
                self.0.link.ask(&|| format!("setting `{key}`"), &pipe, Again::Unsent).await?;
            Ok(Item { value: value.to_owned(), version, metadata })
        })
    }

    fn delete<'a>(&'a self, key: &'a str) -> Answer<'a, Result<bool, Error>> {
        Answer::later(async move {
            let mut pipe = redis::pipe();
            pipe.cmd("DEL").arg(key);
            let (gone,): (u64,) =
                self.0.link.ask(&|| format!("deleting `{key}`"), &pipe, Again::Unsent).await?;
            Ok(gone > 0)
        })
    }
}

impl Lifecycle for Redis {
    fn ping(&self) -> Answer<'_, Result<(), Fault>> {
        Answer::later(self.0.link.ping())
    }

    fn close(&self) -> Answer<'_, ()> {
        Answer::later(async move {
            self.0.link.close().await;
            self.0.feeds.end();
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_as_they_are_kept() {
        let check = |raw: &str, value: &str, version: &str, metadata: usize| {
            let item = item(raw);
            let seen = (item.value.as_str(), item.version.as_str(), item.metadata.len());
            assert_eq!(seen, (value, version, metadata), "{raw}");
        };
        check("green||3", "green", "3", 0);
        check("green", "green", "", 0);
        check("", "", "", 0);
        check(r#"green||3||{"owner":"shop"}"#, "green", "3", 1);
        check("green||3||whatever", "green", "3", 0);
    }
}
