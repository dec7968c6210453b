//! `configuration.sqlite`: values in a table, and a look-out for changes by this and other processes.
//!
//! Every change takes the next version, and a deleted key leaves a mark with its version, so a follower asks for
//! all versions behind the last it has seen and misses nothing that happened while it looked away.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dodai_capability::clock::Clock;
use dodai_capability::component::{Context, Error as Refusal, Lifecycle, Reader};
use dodai_capability::configuration::{Change, Error, Feeds, Item, Store, Subscription, Writer};
use dodai_capability::fault::{Fault, Kind};
use dodai_capability::{Answer, Metadata};
use dodai_core::task;
use rusqlite::{Connection, OptionalExtension, Row};
use tokio::sync::Notify;

use super::file::{Access, Durability, Failure};
use super::settings;

/// Marks of deleted keys are kept so long for other processes to see.
const MARKS_KEPT: Duration = Duration::from_secs(24 * 3600);

/// What a user may set.
pub struct Options {
    table: String,
    limit: u64,
    poll: Duration,
}

impl Options {
    /// Reads `tableName`, `maxItems` and `pollInterval`.
    ///
    /// # Errors
    /// A value cannot be read.
    pub fn read(read: &mut Reader<'_>) -> Result<Options, Refusal> {
        Ok(Options {
            table: settings::table(read, &["tableName"], "configuration")?,
            limit: read.number(&["maxItems"], 10_000)?,
            poll: read.duration(&["pollInterval"], Duration::from_secs(1))?.max(Duration::from_millis(10)),
        })
    }
}

struct Shared {
    access: Access,
    clock: Clock,
    table: String,
    limit: u64,
    feeds: Feeds,
    changed: Arc<Notify>,
    closed: AtomicBool,
}

/// A configuration store in a table.
pub struct Sqlite(Arc<Shared>);

/// A key and its item; `None` for the mark of a deleted one.
fn row(row: &Row<'_>) -> rusqlite::Result<(Change, i64)> {
    let version: i64 = row.get(2)?;
    let metadata: String = row.get(3)?;
    let item = Item {
        value: row.get(1)?,
        version: version.to_string(),
        // Written by us below; what somebody else broke counts as none.
        metadata: serde_json::from_str(&metadata).unwrap_or_default(),
    };
    let deleted: bool = row.get(4)?;
    Ok((Change { key: row.get(0)?, item: (!deleted).then_some(item) }, version))
}

const COLUMNS: &str = "key, value, version, metadata, deleted";

fn next_version(connection: &Connection, table: &str) -> rusqlite::Result<i64> {
    let sql = format!("UPDATE {table}_version SET last = last + 1 RETURNING last");
    connection.prepare_cached(&sql)?.query_row((), |row| row.get(0))
}

impl Sqlite {
    /// Makes the tables if they are not there, and starts to look out for changes.
    ///
    /// # Errors
    /// The tables cannot be made.
    pub async fn open(access: Access, options: Options, context: &Context) -> Result<Sqlite, Fault> {
        let Options { table, limit, poll } = options;
        let create = format!(
            "CREATE TABLE IF NOT EXISTS {table} (
                 key TEXT NOT NULL PRIMARY KEY,
                 value TEXT NOT NULL,
                 version INTEGER NOT NULL,
                 metadata TEXT NOT NULL,
                 deleted INTEGER NOT NULL,
                 updated_ms INTEGER NOT NULL
             );
             CREATE INDEX IF NOT EXISTS {table}_by_version ON {table} (version);
             CREATE TABLE IF NOT EXISTS {table}_version (id INTEGER PRIMARY KEY CHECK (id = 1), last INTEGER NOT NULL);
             INSERT OR IGNORE INTO {table}_version (id, last) VALUES (1, 0);"
        );
        let sweep = format!("DELETE FROM {table} WHERE deleted AND updated_ms < ?1");
        let last = format!("SELECT last FROM {table}_version");
        let old = context.clock.now_ms() - i64::try_from(MARKS_KEPT.as_millis()).unwrap_or(i64::MAX);
        let work = move |connection: &Connection| -> Result<i64, Failure<Fault>> {
            connection.execute_batch(&create)?;
            connection.execute(&sweep, [old])?;
            Ok(connection.query_row(&last, (), |row| row.get(0))?)
        };
        let seen = access.write(format!("making table {table}"), Durability::Power, work).await?;
        let (clock, feeds, changed, closed) =
            (context.clock.clone(), Feeds::default(), Arc::new(Notify::new()), AtomicBool::new(false));
        let shared = Arc::new(Shared { access, clock, table, limit, feeds, changed, closed });
        look_out(&shared, seen, poll, context);
        Ok(Sqlite(shared))
    }

    fn open_still(&self) -> Result<(), Error> {
        if self.0.closed.load(Ordering::Acquire) {
            return Err(Fault::new(Kind::Closed, "the configuration store has been closed").into());
        }
        Ok(())
    }
}

/// Tells the feeds what has changed: at once when this process writes, otherwise when it looks next.
fn look_out(shared: &Arc<Shared>, mut seen: i64, poll: Duration, context: &Context) {
    // Only a weak handle: the look-out must not keep a store alive that nobody uses.
    let (changed, shared, tasks) = (shared.changed.clone(), Arc::downgrade(shared), context.tasks.clone());
    context.tasks.spawn(task::Kind::Loop, async move {
        loop {
            let Some(shared) = shared.upgrade().filter(|shared| !shared.closed.load(Ordering::Acquire))
            else {
                return;
            };
            match shared.changes_behind(seen).await {
                Ok(changes) => {
                    for (change, version) in changes {
                        seen = seen.max(version);
                        shared.feeds.tell(&change);
                    }
                }
                Err(error) => tracing::warn!("{error}; changes are told when the file can be read again"),
            }
            drop(shared);
            // Nothing is lost between branches: changes are found by their version.
            tokio::select! {
                () = tasks.closing() => return,
                () = changed.notified() => {}
                () = tokio::time::sleep(poll) => {}
            }
        }
    });
}

impl Shared {
    fn changes_behind(&self, seen: i64) -> Answer<'static, Result<Vec<(Change, i64)>, Error>> {
        let sql = format!("SELECT {COLUMNS} FROM {} WHERE version > ?1 ORDER BY version", self.table);
        self.access.read("looking for changes", move |connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            let rows = statement.query_map([seen], row)?;
            Ok(rows.collect::<rusqlite::Result<Vec<_>>>()?)
        })
    }
}

impl Store for Sqlite {
    fn get<'a>(
        &'a self,
        keys: &'a [String],
        _: &'a Metadata,
    ) -> Answer<'a, Result<BTreeMap<String, Item>, Error>> {
        let table = &self.0.table;
        let one = format!("SELECT {COLUMNS} FROM {table} WHERE NOT deleted AND key = ?1");
        let all = format!("SELECT {COLUMNS} FROM {table} WHERE NOT deleted");
        let keys = keys.to_vec();
        self.0.access.read("reading configuration", move |connection| {
            let mut changes = Vec::new();
            if keys.is_empty() {
                let mut statement = connection.prepare_cached(&all)?;
                for found in statement.query_map((), row)? {
                    changes.push(found?.0);
                }
            }
            for key in &keys {
                let found = connection.prepare_cached(&one)?.query_row([key], row).optional()?;
                changes.extend(found.map(|(change, _)| change));
            }
            Ok(changes.into_iter().filter_map(|change| Some((change.key, change.item?))).collect())
        })
    }

    fn subscribe<'a>(
        &'a self,
        keys: &'a [String],
        _: &'a Metadata,
    ) -> Answer<'a, Result<Subscription, Error>> {
        Answer::ready(self.open_still().map(|()| self.0.feeds.subscribe(keys)))
    }
}

impl Writer for Sqlite {
    fn set<'a>(
        &'a self,
        key: &'a str,
        value: &'a str,
        metadata: Metadata,
    ) -> Answer<'a, Result<Item, Error>> {
        if let Err(error) = self.open_still() {
            return Answer::ready(Err(error));
        }
        let (table, limit, now_ms) = (self.0.table.clone(), self.0.limit, self.0.clock.now_ms());
        let (name, value) = (key.to_owned(), value.to_owned());
        let work = move |connection: &Connection| -> Result<Item, Failure<Error>> {
            let count = format!("SELECT count(*) FROM {table} WHERE NOT deleted AND key <> ?1");
            let others: i64 = connection.prepare_cached(&count)?.query_row([&name], |row| row.get(0))?;
            if others.unsigned_abs() >= limit {
                let what = format!(
                    "`{name}` was not set: the store holds its {limit} keys; delete some or raise maxItems"
                );
                return Err(Failure::Refused(Fault::new(Kind::Full, what).into()));
            }
            let version = next_version(connection, &table)?;
            let upsert = format!(
                "INSERT INTO {table} (key, value, version, metadata, deleted, updated_ms) VALUES (?1, ?2, ?3, ?4, 0, ?5) \
                 ON CONFLICT (key) DO UPDATE SET value = excluded.value, version = excluded.version, \
                 metadata = excluded.metadata, deleted = 0, updated_ms = excluded.updated_ms"
            );
            let json = serde_json::to_string(&metadata).expect("a map of texts is JSON");
            connection.prepare_cached(&upsert)?.execute((name, &value, version, json, now_ms))?;
            Ok(Item { value, version: version.to_string(), metadata })
        };
        let written = self.0.access.write(format!("setting `{key}`"), Durability::Power, work);
        Answer::later(async move {
            let item = written.await?;
            self.0.changed.notify_one();
            Ok(item)
        })
    }

    fn delete<'a>(&'a self, key: &'a str) -> Answer<'a, Result<bool, Error>> {
        if let Err(error) = self.open_still() {
            return Answer::ready(Err(error));
        }
        let (table, name, now_ms) = (self.0.table.clone(), key.to_owned(), self.0.clock.now_ms());
        let work = move |connection: &Connection| -> Result<bool, Failure<Error>> {
            let version = next_version(connection, &table)?;
            let mark = format!(
                "UPDATE {table} SET value = '', metadata = '{{}}', deleted = 1, version = ?2, updated_ms = ?3 \
                 WHERE key = ?1 AND NOT deleted"
            );
            Ok(connection.prepare_cached(&mark)?.execute((name, version, now_ms))? > 0)
        };
        let written = self.0.access.write(format!("deleting `{key}`"), Durability::Power, work);
        Answer::later(async move {
            let found = written.await?;
            self.0.changed.notify_one();
            Ok(found)
        })
    }
}

impl Lifecycle for Sqlite {
    fn ping(&self) -> Answer<'_, Result<(), Fault>> {
        self.0.access.ping()
    }

    fn close(&self) -> Answer<'_, ()> {
        self.0.closed.store(true, Ordering::Release);
        self.0.feeds.end();
        self.0.changed.notify_one();
        Answer::ready(())
    }
}
