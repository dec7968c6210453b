//! `configuration.postgresql`: the rows of a table with the columns key, value, version and metadata, as Dapr's component
//! reads it.
//!
//! Changes are told by notifications: those that Dapr's users send by a trigger, on the channel that they named, and
//! those of our own writes. A notification is a hint to read the table again and compare; so is the pulse, which finds
//! what nobody tells and a connection that has died. So a broken connection loses no change.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dodai_capability::component::{Context, Error as Refusal, Lifecycle, Reader};
use dodai_capability::configuration::{Change, Error, Feeds, Item, Store, Subscription, Writer};
use dodai_capability::fault::{Fault, Kind};
use dodai_capability::metadata::lookup;
use dodai_capability::{Answer, Metadata};
use dodai_core::task;
use tokio::sync::{Notify, OnceCell};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use super::pool::Pool;

/// The longest notification that the server takes is 8,000 bytes.
const LONGEST: usize = 7_900;
/// Channels that one component listens to at most.
const CHANNELS: usize = 64;

/// What a user may set.
pub struct Options {
    table: String,
    channel: Option<String>,
    limit: usize,
    pulse: Duration,
}

impl Options {
    /// Reads `table`, `notifyChannel`, `maxItems` and `pollInterval`.
    ///
    /// # Errors
    /// The table is not named, or a value cannot be read.
    pub fn read(read: &mut Reader<'_>) -> Result<Options, Refusal> {
        read.required(&["table"])?;
        let pulse = read.duration(&["pollInterval"], Duration::from_secs(10))?;
        Ok(Options {
            table: super::table(read, "table", "")?,
            channel: read.text(&["notifyChannel"]).map(str::to_owned),
            limit: usize::try_from(read.number(&["maxItems"], 10_000)?).unwrap_or(usize::MAX),
            pulse: pulse.max(Duration::from_millis(100)),
        })
    }
}

struct Shared {
    pool: Arc<Pool>,
    options: Options,
    feeds: Feeds,
    /// Set once somebody follows.
    following: OnceCell<()>,
    /// Channels to listen to.
    channels: Mutex<Vec<String>>,
    touched: Arc<Notify>,
}

/// A configuration store in a table.
pub struct Postgresql(Arc<Shared>);

type Items = BTreeMap<String, Item>;

impl Postgresql {
    /// Makes the table if it is not there.
    ///
    /// # Errors
    /// The database cannot be reached, or the table cannot be made.
    pub async fn open(pool: Arc<Pool>, options: Options, _: &Context) -> Result<Postgresql, Fault> {
        let table = &options.table;
        let create = format!(
            "BEGIN;
             SELECT pg_advisory_xact_lock(hashtext('{table}'));
             CREATE TABLE IF NOT EXISTS {table} (
                 key varchar NOT NULL PRIMARY KEY,
                 value varchar NOT NULL,
                 version varchar NOT NULL,
                 metadata json
             );
             COMMIT;"
        );
        let work = |held: super::pool::Held| {
            let create = &create;
            async move { held.batch_execute(create).await }
        };
        pool.run(&format!("making table {table}"), true, work).await?;
        let own = format!("dodai_{}", table.replace('.', "_"));
        let channels = options.channel.iter().cloned().chain([own]).collect();
        let shared = Shared {
            pool,
            options,
            feeds: Feeds::default(),
            following: OnceCell::new(),
            channels: Mutex::new(channels),
            touched: Arc::default(),
        };
        Ok(Postgresql(Arc::new(shared)))
    }
}

fn item(row: &Row) -> (String, Item) {
    let metadata: Option<&str> = row.get(3);
    let item = Item {
        value: row.get(1),
        version: row.get(2),
        // What is no map of texts counts as none.
        metadata: metadata.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default(),
    };
    (row.get(0), item)
}

/// A version by which rows of one key are told apart; one that is no number is before all others.
fn number(version: &str) -> Option<i64> {
    version.parse().ok()
}

impl Shared {
    async fn read(&self, keys: &[String]) -> Result<Items, Fault> {
        let Options { table, limit, .. } = &self.options;
        let columns = "key::text, value::text, version::text, metadata::text";
        let most = i64::try_from(*limit).unwrap_or(i64::MAX - 1).saturating_add(1);
        let (sql, all) = if keys.is_empty() {
            (format!("SELECT {columns} FROM {table} LIMIT $1"), true)
        } else {
            (format!("SELECT {columns} FROM {table} WHERE key = ANY($1)"), false)
        };
        let work = |held: super::pool::Held| {
            let (sql, most) = (&sql, &most);
            async move {
                let param: (&(dyn ToSql + Sync), Type) =
                    if all { (most, Type::INT8) } else { (&keys, Type::TEXT_ARRAY) };
                held.query_typed(sql, &[param]).await
            }
        };
        let rows = self.pool.run("reading configuration", true, work).await?;
        if rows.len() > *limit {
            let why =
                format!("table {table} has more than {limit} rows; ask for keys by name or raise maxItems");
            return Err(self.pool.fault(Kind::Full, "reading configuration", &why));
        }
        let mut found = Items::new();
        for (key, item) in rows.iter().map(item) {
            // Of several versions the latest counts, as with Dapr.
            if found.get(&key).is_none_or(|other| number(&other.version) < number(&item.version)) {
                found.insert(key, item);
            }
        }
        Ok(found)
    }

    /// A connection that is told of changes.
    async fn listen(&self) -> Result<(Client, Vec<String>), Fault> {
        let what = "following configuration";
        let touched = self.touched.clone();
        let client = self.pool.dial(move || touched.notify_one()).await;
        let client = client.map_err(|why| self.pool.fault(Kind::Unavailable, what, &why))?;
        let channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for channel in &channels {
            let listen = format!("LISTEN {}", quoted(channel));
            let listening = tokio::time::timeout(self.pool.timeout(), client.batch_execute(&listen)).await;
            let late = |_| self.pool.fault(Kind::Timeout, what, &"no answer in time");
            listening.map_err(late)?.map_err(|error| self.pool.failed(what, &error))?;
        }
        Ok((client, channels))
    }

    /// Starts to follow, once; when it returns every later change is told.
    async fn follow(self: &Arc<Self>) -> Result<(), Fault> {
        let started = self.following.get_or_try_init(|| async {
            let mut open = Some(self.listen().await?);
            let mut seen = self.read(&[]).await?;
            let (weak, pool, pulse) = (Arc::downgrade(self), self.pool.clone(), self.options.pulse);
            let (touched, tasks) = (self.touched.clone(), self.pool.tasks().clone());
            self.pool.tasks().spawn(task::Kind::Loop, async move {
                let mut is_well = true;
                loop {
                    // Nothing is lost between branches: a look finds all that has changed.
                    tokio::select! {
                        () = tasks.closing() => return,
                        () = pool.closing() => return,
                        () = touched.notified() => {}
                        () = tokio::time::sleep(pulse) => {}
                    }
                    // Only a weak handle: the look-out must not keep a store alive that nobody uses.
                    let Some(shared) = weak.upgrade() else { return };
                    let looked = tokio::select! {
                        () = pool.closing() => return,
                        looked = shared.look(&mut open, &mut seen) => looked,
                    };
                    match looked {
                        Ok(()) => is_well = true,
                        Err(fault) => {
                            open = None;
                            if std::mem::take(&mut is_well) {
                                tracing::warn!("{fault}; changes are told when it is there again");
                            }
                        }
                    }
                }
            });
            Ok(())
        });
        started.await.map(|_| ())
    }

    /// Reads the table and tells what differs from what was seen.
    async fn look(&self, open: &mut Option<(Client, Vec<String>)>, seen: &mut Items) -> Result<(), Fault> {
        let wanted = self.channels.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if open.as_ref().is_none_or(|(client, channels)| client.is_closed() || *channels != wanted) {
            *open = Some(self.listen().await?);
        }
        let now = self.read(&[]).await?;
        let gone = seen.keys().filter(|key| !now.contains_key(*key));
        gone.for_each(|key| self.feeds.tell(&Change { key: key.clone(), item: None }));
        for (key, item) in &now {
            if seen.get(key) != Some(item) {
                self.feeds.tell(&Change { key: key.clone(), item: Some(item.clone()) });
            }
        }
        *seen = now;
        Ok(())
    }

    /// Listens to a channel that a follower named.
    fn listen_to(&self, channel: &str) -> Result<(), Fault> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if channels.iter().any(|known| known == channel) {
            return Ok(());
        }
        if channels.len() >= CHANNELS {
            let what = format!("channel `{channel}` is one more than the {CHANNELS} that are listened to");
            return Err(Fault::new(Kind::Full, what));
        }
        channels.push(channel.to_owned());
        drop(channels);
        self.touched.notify_one();
        Ok(())
    }

    /// Changes a row and tells of it, in one transaction. Nothing: the row goes.
    async fn write(&self, key: &str, item: Option<(&str, &Metadata)>) -> Result<Option<String>, Fault> {
        let (table, channels) =
            (&self.options.table, self.channels.lock().unwrap_or_else(PoisonError::into_inner).clone());
        let what = format!("{} `{key}`", if item.is_some() { "setting" } else { "deleting" });
        self.pool
            .run(&what, false, |mut held| {
                let channels = &channels;
                async move {
                    let transaction = held.transaction().await?;
                    // The table may have no unique key, so writers of one key stand in a row.
                    let lock = "SELECT pg_advisory_xact_lock(hashtext($1), hashtext($2))";
                    let name = table.as_str();
                    transaction.query_typed(lock, &[(&name, Type::TEXT), (&key, Type::TEXT)]).await?;
                    let find = format!("SELECT version::text FROM {table} WHERE key = $1");
                    let found = transaction.query_typed(&find, &[(&key, Type::TEXT)]).await?;
                    let versions = found.iter().map(|row| row.get::<_, String>(0));
                    let before = versions.max_by_key(|version| number(version));
                    let version = match item {
                        None => {
                            let delete = format!("DELETE FROM {table} WHERE key = $1");
                            transaction.execute_typed(&delete, &[(&key, Type::TEXT)]).await?;
                            before.clone()
                        }
                        Some((value, metadata)) => {
                            let count = before.as_deref().and_then(number).unwrap_or(0);
                            let version = (count + 1).to_string();
                            let json = serde_json::to_string(metadata).expect("a map of texts is JSON");
                            let mut params: Vec<(&(dyn ToSql + Sync), Type)> =
                                vec![(&key, Type::TEXT), (&value, Type::TEXT), (&version, Type::TEXT), (&json, Type::TEXT)];
                            let statement = if let Some(before) = &before {
                                // Older versions stay as they are.
                                params.push((before, Type::TEXT));
                                format!("UPDATE {table} SET value = $2, version = $3, metadata = $4::text::json WHERE key = $1 AND version = $5")
                            } else {
                                format!("INSERT INTO {table} (key, value, version, metadata) VALUES ($1, $2, $3, $4::text::json)")
                            };
                            transaction.execute_typed(&statement, &params).await?;
                            Some(version)
                        }
                    };
                    let payload = payload(table, key, item, version.as_deref());
                    for channel in channels {
                        let notify = "SELECT pg_notify($1, $2)";
                        transaction.query_typed(notify, &[(channel, Type::TEXT), (&payload, Type::TEXT)]).await?;
                    }
                    transaction.commit().await?;
                    Ok(version)
                }
            })
            .await
    }
}

/// What Dapr's component reads from a notification; a value that is too long for one is left out. It ends its process where
/// value or version is no text, so what is gone has empty ones.
fn payload(table: &str, key: &str, item: Option<(&str, &Metadata)>, version: Option<&str>) -> String {
    let action = if item.is_some() { "UPDATE" } else { "DELETE" };
    let (value, metadata) = item.map_or(("", None), |(value, metadata)| (value, Some(metadata)));
    let version = version.unwrap_or_default();
    let data = serde_json::json!({"key": key, "value": value, "version": version, "metadata": metadata});
    let text = serde_json::json!({"table": table, "action": action, "data": data}).to_string();
    if text.len() <= LONGEST {
        return text;
    }
    serde_json::json!({"table": table, "action": action}).to_string()
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl Store for Postgresql {
    fn get<'a>(
        &'a self,
        keys: &'a [String],
        _: &'a Metadata,
    ) -> Answer<'a, Result<BTreeMap<String, Item>, Error>> {
        Answer::later(async move { Ok(self.0.read(keys).await?) })
    }

    fn subscribe<'a>(
        &'a self,
        keys: &'a [String],
        metadata: &'a Metadata,
    ) -> Answer<'a, Result<Subscription, Error>> {
        Answer::later(async move {
            if self.0.pool.is_closed() {
                return Err(Fault::new(Kind::Closed, "the configuration store has been closed").into());
            }
            if let Some(channel) = lookup(metadata, "pgNotifyChannel") {
                self.0.listen_to(channel)?;
            }
            self.0.follow().await?;
            Ok(self.0.feeds.subscribe(keys))
        })
    }
}

impl Writer for Postgresql {
    fn set<'a>(
        &'a self,
        key: &'a str,
        value: &'a str,
        metadata: Metadata,
    ) -> Answer<'a, Result<Item, Error>> {
        Answer::later(async move {
            let version = self.0.write(key, Some((value, &metadata))).await?.unwrap_or_default();
            Ok(Item { value: value.to_owned(), version, metadata })
        })
    }

    fn delete<'a>(&'a self, key: &'a str) -> Answer<'a, Result<bool, Error>> {
        Answer::later(async move { Ok(self.0.write(key, None).await?.is_some()) })
    }
}

impl Lifecycle for Postgresql {
    fn ping(&self) -> Answer<'_, Result<(), Fault>> {
        Answer::later(self.0.pool.ping())
    }

    fn close(&self) -> Answer<'_, ()> {
        self.0.pool.close();
        self.0.feeds.end();
        Answer::ready(())
    }
}
