//! `state.sqlite`: the table layout of Dapr's component of that name, so either can read the other's data.
//!
//! A value that is text is kept as text, other bytes as base64 with `is_binary` set. Times are UTC text that
//! sorts like the times themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use dodai_capability::clock::Clock;
use dodai_capability::component::{Context, Error as Refusal, Lifecycle, Reader};
use dodai_capability::fault::{Fault, Kind};
use dodai_capability::state::{
    Delete, Error, Etag, Features, Get, Item, List, Operation, Page, Set, Store, admit,
};
use dodai_capability::{Answer, Metadata};
use dodai_core::task;
use rusqlite::{Connection, OptionalExtension};
use tokio::sync::Notify;

use super::file::{Access, BATCH, Durability, Failure, all};
use super::settings;

/// What it can do.
pub(super) const FEATURES: Features = Features {
    etag: true,
    first_write: true,
    transaction: true,
    ttl: true,
    list: true,
    content_type: false,
    durable: true,
    max_operations: None,
};

/// How many expired rows are removed in one go, so that writes in between do not wait for long.
const SWEEP: usize = 1000;

/// What a user may set.
pub struct Options {
    table: String,
    metadata_table: String,
    cleanup: Duration,
}

impl Options {
    /// Reads `tableName`, `metadataTableName` and `cleanupInterval`.
    ///
    /// # Errors
    /// A value cannot be read.
    pub fn read(read: &mut Reader<'_>) -> Result<Options, Refusal> {
        Ok(Options {
            table: settings::table(read, &["tableName"], "state")?,
            metadata_table: settings::table(read, &["metadataTableName"], "metadata")?,
            cleanup: read
                .duration(&["cleanupInterval", "cleanupIntervalInSeconds"], Duration::from_secs(3600))?,
        })
    }
}

struct Statements {
    get: String,
    etag: String,
    upsert: String,
    delete: String,
    list: String,
    sweep: String,
}

/// A state store in a table.
pub struct Sqlite {
    access: Access,
    clock: Clock,
    sql: Arc<Statements>,
    closed: AtomicBool,
    // Ends the sweep, which would keep the file open.
    gone: Arc<Notify>,
}

fn statements(table: &str) -> Statements {
    let live = "(expiration_time IS NULL OR expiration_time > ?2)";
    Statements {
        get: format!("SELECT value, is_binary, etag, expiration_time FROM {table} WHERE key = ?1 AND {live}"),
        etag: format!("SELECT etag FROM {table} WHERE key = ?1 AND {live}"),
        upsert: format!(
            "INSERT INTO {table} (key, value, is_binary, etag, update_time, expiration_time) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (key) DO UPDATE SET value = excluded.value, \
             is_binary = excluded.is_binary, etag = excluded.etag, update_time = excluded.update_time, \
             expiration_time = excluded.expiration_time"
        ),
        delete: format!("DELETE FROM {table} WHERE key = ?1"),
        list: format!(
            "SELECT key FROM {table} WHERE key >= ?1 AND key > ?3 AND (?4 IS NULL OR key < ?4) AND {live} \
             ORDER BY key LIMIT ?5"
        ),
        sweep: format!(
            "DELETE FROM {table} WHERE rowid IN \
             (SELECT rowid FROM {table} WHERE expiration_time <= ?1 LIMIT {SWEEP})"
        ),
    }
}

fn create(connection: &Connection, options: &Options) -> Result<(), Failure<Fault>> {
    let Options { table, metadata_table, .. } = options;
    // The level of migrations is Dapr's own note; with it, Dapr takes the table as made by itself.
    connection.execute_batch(&format!(
        "CREATE TABLE IF NOT EXISTS {metadata_table} (key text NOT NULL PRIMARY KEY, value text NOT NULL);
         CREATE TABLE IF NOT EXISTS {table} (
             key TEXT NOT NULL PRIMARY KEY,
             value TEXT NOT NULL,
             is_binary BOOLEAN NOT NULL,
             etag TEXT NOT NULL,
             expiration_time TIMESTAMP DEFAULT NULL,
             update_time TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP
         );
         CREATE INDEX IF NOT EXISTS {table}_expiration ON {table} (expiration_time)
             WHERE expiration_time IS NOT NULL;
         INSERT OR IGNORE INTO {metadata_table} (key, value) VALUES ('migrations', '1');"
    ))?;
    Ok(())
}

/// A time as the table keeps it: `2026-01-31 10:00:00.000`, in UTC.
fn text(time: SystemTime) -> String {
    let time = jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::MAX);
    time.strftime("%Y-%m-%d %H:%M:%S%.3f").to_string()
}

fn time(text: &str) -> Option<SystemTime> {
    // Dapr's rows have whole seconds, and some writers use the form with `T` and `Z`.
    let text = text.trim_end_matches('Z').replace('T', " ");
    let civil: jiff::civil::DateTime = text.parse().ok()?;
    civil.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|zoned| SystemTime::from(zoned.timestamp()))
}

fn get(
    connection: &Connection,
    sql: &Statements,
    key: &str,
    now: &str,
) -> Result<Option<Item>, Failure<Error>> {
    let mut statement = connection.prepare_cached(&sql.get)?;
    let mut rows = statement.query((key, now))?;
    let Some(row) = rows.next()? else { return Ok(None) };
    // Dapr writes text; a blob there was put by somebody else, and its bytes are as good.
    let value = row.get_ref(0)?.as_bytes().map_err(rusqlite::Error::from)?;
    let value = if row.get::<_, bool>(1)? {
        BASE64.decode(value).map(Bytes::from).map_err(|error| {
            let what = format!("state key `{key}`: its value is marked as base64 and is none");
            Failure::Refused(Fault::new(Kind::Corrupt, what).because(error).into())
        })?
    } else {
        Bytes::copy_from_slice(value)
    };
    let expires = row.get_ref(3)?.as_str_or_null().ok().flatten().and_then(time);
    let etag = Some(Etag::from(row.get_ref(2)?.as_str().map_err(rusqlite::Error::from)?));
    Ok(Some(Item { value, etag, content_type: None, expires }))
}

fn apply(
    connection: &Connection,
    sql: &Statements,
    operation: &Operation,
    now: SystemTime,
) -> Result<(), Failure<Error>> {
    let now_text = text(now);
    let etag_now = |key: &str| -> Result<Option<String>, Failure<Error>> {
        let mut statement = connection.prepare_cached(&sql.etag)?;
        Ok(statement.query_row((key, &now_text), |row| row.get(0)).optional()?)
    };
    match operation {
        Operation::Upsert(set) => {
            let current = etag_now(&set.key)?;
            admit(&set.key, &set.etag, set.concurrency, current.as_deref()).map_err(Failure::Refused)?;
            let etag = uuid::Uuid::new_v4().to_string();
            let expires = set.ttl.limit().map(|ttl| text(now + ttl));
            let mut upsert = connection.prepare_cached(&sql.upsert)?;
            match std::str::from_utf8(&set.value) {
                Ok(value) if !value.contains('\0') => {
                    upsert.execute((&set.key, value, false, etag, now_text, expires))?
                }
                Ok(_) | Err(_) => {
                    upsert.execute((&set.key, BASE64.encode(&set.value), true, etag, now_text, expires))?
                }
            };
        }
        Operation::Delete(delete) => {
            let current = etag_now(&delete.key)?;
            admit(&delete.key, &delete.etag, delete.concurrency, current.as_deref())
                .map_err(Failure::Refused)?;
            connection.prepare_cached(&sql.delete)?.execute([&delete.key])?;
        }
    }
    Ok(())
}

/// The first text behind all that begin with `prefix`; `None` if there is none.
fn behind(prefix: &str) -> Option<String> {
    let mut text = prefix.to_owned();
    while let Some(last) = text.pop() {
        let next = (u32::from(last) + 1..=u32::from(char::MAX)).find_map(char::from_u32);
        if let Some(next) = next {
            text.push(next);
            return Some(text);
        }
    }
    None
}

impl Sqlite {
    /// Makes the tables if they are not there, and starts removing what expires.
    ///
    /// # Errors
    /// The tables cannot be made.
    pub async fn open(access: Access, options: Options, context: &Context) -> Result<Sqlite, Fault> {
        let sql = Arc::new(statements(&options.table));
        let cleanup = options.cleanup;
        let what = format!("making table {}", options.table);
        access.write(what, Durability::Power, move |connection| create(connection, &options)).await?;
        let store = Sqlite {
            access,
            clock: context.clock.clone(),
            sql,
            closed: AtomicBool::new(false),
            gone: Arc::default(),
        };
        if !cleanup.is_zero() {
            store.spawn_sweep(cleanup, context);
        }
        Ok(store)
    }

    fn spawn_sweep(&self, every: Duration, context: &Context) {
        let (tasks, clock, gone) = (context.tasks.clone(), self.clock.clone(), self.gone.clone());
        let (access, sql) = (self.access.clone(), self.sql.clone());
        context.tasks.spawn(task::Kind::Loop, async move {
            loop {
                tokio::select! {
                    () = tasks.closing() => return,
                    () = gone.notified() => return,
                    () = clock.sleep(every) => {}
                }
                if let Err(fault) = sweep(&access, &sql, &clock).await {
                    tracing::warn!("{fault}; expired values stay hidden and are removed later");
                }
            }
        });
    }

    fn write<T: Send + 'static>(
        &self,
        what: String,
        work: impl FnOnce(&Connection, &Statements, SystemTime) -> Result<T, Failure<Error>> + Send + 'static,
    ) -> Answer<'static, Result<T, Error>> {
        if self.closed.load(Ordering::Acquire) {
            return Answer::ready(Err(Fault::new(Kind::Closed, "the state store has been closed").into()));
        }
        let (sql, clock) = (self.sql.clone(), self.clock.clone());
        self.access.write(what, Durability::Power, move |connection| work(connection, &sql, clock.now()))
    }
}

async fn sweep(access: &Access, sql: &Arc<Statements>, clock: &Clock) -> Result<(), Fault> {
    loop {
        let (sql, now) = (sql.clone(), text(clock.now()));
        let gone = access
            .write("removing expired values", Durability::Process, move |connection| {
                Ok::<_, Failure<Fault>>(connection.prepare_cached(&sql.sweep)?.execute([now])?)
            })
            .await?;
        if gone < SWEEP {
            return Ok(());
        }
    }
}

/// Makes many writes, each on its own, that share commits.
async fn in_chunks<'a, R>(
    requests: Vec<R>,
    write: impl Fn(R) -> Answer<'a, Result<(), Error>>,
) -> Vec<Result<(), Error>> {
    let mut outcomes = Vec::with_capacity(requests.len());
    let mut requests = requests.into_iter().peekable();
    while requests.peek().is_some() {
        outcomes.extend(all(requests.by_ref().take(BATCH).map(&write).collect()).await);
    }
    outcomes
}

impl Store for Sqlite {
    fn features(&self) -> Features {
        FEATURES
    }

    fn get<'a>(&'a self, request: &'a Get) -> Answer<'a, Result<Option<Item>, Error>> {
        let (sql, key, now) = (self.sql.clone(), request.key.clone(), text(self.clock.now()));
        self.access.read(format!("reading key `{key}`"), move |connection| get(connection, &sql, &key, &now))
    }

    fn get_many<'a>(&'a self, requests: &'a [Get], _: usize) -> Answer<'a, Vec<Result<Option<Item>, Error>>> {
        let keys: Vec<String> = requests.iter().map(|request| request.key.clone()).collect();
        let (sql, now) = (self.sql.clone(), text(self.clock.now()));
        let all = self.access.read(format!("reading {} keys", keys.len()), move |connection| {
            let one = |key: &String| match get(connection, &sql, key, &now) {
                Ok(item) => Ok(Ok(item)),
                Err(Failure::Refused(error)) => Ok(Err(error)),
                Err(Failure::Sql(error)) => Err(Failure::Sql(error)),
            };
            keys.iter().map(one).collect::<Result<Vec<_>, Failure<Error>>>()
        });
        Answer::later(async move {
            match all.await {
                Ok(items) => items,
                // The file failed as a whole; each key is told so.
                Err(error) => {
                    let kind = match &error {
                        Error::Fault(fault) => fault.kind(),
                        Error::EtagMismatch { .. }
                        | Error::EtagMalformed { .. }
                        | Error::TooManyOperations { .. } => Kind::Unavailable,
                    };
                    requests.iter().map(|_| Err(Fault::new(kind, error.to_string()).into())).collect()
                }
            }
        })
    }

    fn set(&self, request: Set) -> Answer<'_, Result<(), Error>> {
        self.write(format!("writing key `{}`", request.key), move |connection, sql, now| {
            apply(connection, sql, &Operation::Upsert(request), now)
        })
    }

    fn delete(&self, request: Delete) -> Answer<'_, Result<(), Error>> {
        self.write(format!("deleting key `{}`", request.key), move |connection, sql, now| {
            apply(connection, sql, &Operation::Delete(request), now)
        })
    }

    fn set_many(&self, requests: Vec<Set>) -> Answer<'_, Vec<Result<(), Error>>> {
        Answer::later(in_chunks(requests, |request| self.set(request)))
    }

    fn delete_many(&self, requests: Vec<Delete>) -> Answer<'_, Vec<Result<(), Error>>> {
        Answer::later(in_chunks(requests, |request| self.delete(request)))
    }

    fn transact(&self, operations: Vec<Operation>, _: Metadata) -> Answer<'_, Result<(), Error>> {
        self.write(
            format!("a transaction of {} operations", operations.len()),
            move |connection, sql, now| {
                operations.iter().try_for_each(|operation| apply(connection, sql, operation, now))
            },
        )
    }

    fn list<'a>(&'a self, request: &'a List) -> Answer<'a, Result<Page, Error>> {
        let (sql, now, List { prefix, after, limit }) =
            (self.sql.clone(), text(self.clock.now()), request.clone());
        self.access.read(format!("listing keys that begin with `{prefix}`"), move |connection| {
            let most = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
            let mut statement = connection.prepare_cached(&sql.list)?;
            // No key is less than the empty text, and no key is empty: without `after` the page begins at the start.
            let rows = statement
                .query_map((&prefix, &now, after.unwrap_or_default(), behind(&prefix), most), |row| {
                    row.get(0)
                })?;
            let mut keys = rows.collect::<rusqlite::Result<Vec<String>>>()?;
            let more = keys.len() > limit;
            keys.truncate(limit);
            Ok(Page { next: keys.last().filter(|_| more).cloned(), keys })
        })
    }
}

impl Lifecycle for Sqlite {
    fn ping(&self) -> Answer<'_, Result<(), Fault>> {
        self.access.ping()
    }

    fn close(&self) -> Answer<'_, ()> {
        self.closed.store(true, Ordering::Release);
        self.gone.notify_one();
        Answer::ready(())
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        self.gone.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_sort_as_text_and_come_back() {
        let at = |millis| SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
        assert_eq!(text(at(61_005)), "1970-01-01 00:01:01.005");
        assert_eq!(time("1970-01-01 00:01:01.005"), Some(at(61_005)));
        assert_eq!(time("1970-01-01 00:01:01"), Some(at(61_000)));
        assert_eq!(time("1970-01-01T00:01:01Z"), Some(at(61_000)));
        assert_eq!(time("soon"), None);
        assert!(text(at(61_000)).as_str() > "1970-01-01 00:01:00");
    }

    #[test]
    fn the_end_of_a_prefix() {
        assert_eq!(behind("app||"), Some("app|}".into()));
        assert_eq!(behind(""), None);
        assert_eq!(behind("a\u{10ffff}"), Some("b".into()));
        assert_eq!(behind("\u{d7ff}"), Some("\u{e000}".into()));
    }
}
