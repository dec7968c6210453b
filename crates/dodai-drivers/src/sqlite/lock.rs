//! `lock.sqlite`: locks for all processes that share the file, that is, on one machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dodai_capability::Answer;
use dodai_capability::clock::Clock;
use dodai_capability::component::{Context, Lifecycle};
use dodai_capability::fault::{Fault, Kind};
use dodai_capability::lock::{Error, Features, Held, Outcome, Release, Store};
use rusqlite::{Connection, OptionalExtension};

use super::file::{Access, Durability, Failure};

/// What it can do.
pub(super) const FEATURES: Features = Features { list: true };

/// A lock store in a table.
pub struct Sqlite {
    access: Access,
    clock: Clock,
    sql: Arc<Statements>,
    closed: AtomicBool,
}

struct Statements {
    holder: String,
    token: String,
    take: String,
    keep: String,
    give: String,
    sweep: String,
    held: String,
}

fn until(now_ms: i64, expiry: Duration) -> i64 {
    now_ms.saturating_add(i64::try_from(expiry.as_millis()).unwrap_or(i64::MAX))
}

impl Statements {
    fn new(table: &str) -> Statements {
        Statements {
            holder: format!("SELECT owner FROM {table} WHERE resource = ?1 AND until_ms > ?2"),
            token: format!("UPDATE {table}_token SET last = last + 1 RETURNING last"),
            take: format!(
                "INSERT INTO {table} (resource, owner, until_ms) VALUES (?1, ?2, ?3) \
                 ON CONFLICT (resource) DO UPDATE SET owner = excluded.owner, until_ms = excluded.until_ms"
            ),
            keep: format!("UPDATE {table} SET until_ms = ?2 WHERE resource = ?1"),
            give: format!("DELETE FROM {table} WHERE resource = ?1"),
            sweep: format!("DELETE FROM {table} WHERE until_ms <= ?1"),
            held: format!(
                "SELECT resource, owner, until_ms - ?1 FROM {table} WHERE until_ms > ?1 AND resource > ?2 \
                 ORDER BY resource LIMIT ?3"
            ),
        }
    }

    fn holder(
        &self,
        connection: &Connection,
        resource: &str,
        now_ms: i64,
    ) -> rusqlite::Result<Option<String>> {
        connection.prepare_cached(&self.holder)?.query_row((resource, now_ms), |row| row.get(0)).optional()
    }

    /// What `owner` may do with the lock now.
    fn standing(
        &self,
        connection: &Connection,
        resource: &str,
        owner: &str,
        now_ms: i64,
    ) -> rusqlite::Result<Release> {
        Ok(match self.holder(connection, resource, now_ms)? {
            None => Release::DoesNotExist,
            Some(holder) if holder != owner => Release::BelongsToOthers,
            Some(_) => Release::Success,
        })
    }
}

impl Sqlite {
    /// Makes the tables if they are not there; forgets locks whose time is over.
    ///
    /// # Errors
    /// The tables cannot be made.
    pub async fn open(access: Access, table: &str, context: &Context) -> Result<Sqlite, Fault> {
        let sql = Arc::new(Statements::new(table));
        let create = format!(
            "CREATE TABLE IF NOT EXISTS {table} (
                 resource TEXT NOT NULL PRIMARY KEY,
                 owner TEXT NOT NULL,
                 until_ms INTEGER NOT NULL
             );
             CREATE TABLE IF NOT EXISTS {table}_token (id INTEGER PRIMARY KEY CHECK (id = 1), last INTEGER NOT NULL);
             INSERT OR IGNORE INTO {table}_token (id, last) VALUES (1, 0);"
        );
        let (statements, now_ms) = (sql.clone(), context.clock.now_ms());
        let work = move |connection: &Connection| -> Result<(), Failure<Fault>> {
            connection.execute_batch(&create)?;
            connection.execute(&statements.sweep, [now_ms])?;
            Ok(())
        };
        access.write(format!("making table {table}"), Durability::Power, work).await?;
        Ok(Sqlite { access, clock: context.clock.clone(), sql, closed: AtomicBool::new(false) })
    }

    fn write<T: Send + 'static>(
        &self,
        what: String,
        work: impl FnOnce(&Connection, &Statements, i64) -> rusqlite::Result<T> + Send + 'static,
    ) -> Answer<'static, Result<T, Error>> {
        if self.closed.load(Ordering::Acquire) {
            return Answer::ready(Err(Fault::new(Kind::Closed, "the lock store has been closed").into()));
        }
        let (sql, clock) = (self.sql.clone(), self.clock.clone());
        // A grant that a loss of power undoes has lost its owner too.
        self.access
            .write(what, Durability::Process, move |connection| Ok(work(connection, &sql, clock.now_ms())?))
    }
}

impl Store for Sqlite {
    fn features(&self) -> Features {
        FEATURES
    }

    fn try_lock<'a>(
        &'a self,
        resource: &'a str,
        owner: &'a str,
        expiry: Duration,
    ) -> Answer<'a, Result<Outcome, Error>> {
        let (resource, owner) = (resource.to_owned(), owner.to_owned());
        self.write(format!("locking `{resource}`"), move |connection, sql, now_ms| {
            if sql.holder(connection, &resource, now_ms)?.is_some() {
                return Ok(Outcome::Held);
            }
            let token: i64 = connection.prepare_cached(&sql.token)?.query_row((), |row| row.get(0))?;
            connection.prepare_cached(&sql.take)?.execute((resource, owner, until(now_ms, expiry)))?;
            Ok(Outcome::Acquired { token: token.unsigned_abs() })
        })
    }

    fn unlock<'a>(&'a self, resource: &'a str, owner: &'a str) -> Answer<'a, Result<Release, Error>> {
        let (resource, owner) = (resource.to_owned(), owner.to_owned());
        self.write(format!("unlocking `{resource}`"), move |connection, sql, now_ms| {
            let standing = sql.standing(connection, &resource, &owner, now_ms)?;
            if standing == Release::Success {
                connection.prepare_cached(&sql.give)?.execute([resource])?;
            }
            Ok(standing)
        })
    }

    fn held<'a>(&'a self, after: Option<&'a str>, limit: usize) -> Answer<'a, Result<Vec<Held>, Error>> {
        let (sql, now_ms) = (self.sql.clone(), self.clock.now_ms());
        let (after, limit) = (after.unwrap_or_default().to_owned(), i64::try_from(limit).unwrap_or(i64::MAX));
        self.access.read("listing locks", move |connection| {
            let mut statement = connection.prepare_cached(&sql.held)?;
            let rows = statement.query_map((now_ms, after, limit), |row| {
                let left = Duration::from_millis(row.get::<_, i64>(2)?.unsigned_abs());
                Ok(Held { resource: row.get(0)?, owner: row.get(1)?, left })
            })?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
    }

    fn renew<'a>(
        &'a self,
        resource: &'a str,
        owner: &'a str,
        expiry: Duration,
    ) -> Answer<'a, Result<Release, Error>> {
        let (resource, owner) = (resource.to_owned(), owner.to_owned());
        self.write(format!("renewing the lock `{resource}`"), move |connection, sql, now_ms| {
            let standing = sql.standing(connection, &resource, &owner, now_ms)?;
            if standing == Release::Success {
                connection.prepare_cached(&sql.keep)?.execute((resource, until(now_ms, expiry)))?;
            }
            Ok(standing)
        })
    }
}

impl Lifecycle for Sqlite {
    fn ping(&self) -> Answer<'_, Result<(), Fault>> {
        self.access.ping()
    }

    fn close(&self) -> Answer<'_, ()> {
        self.closed.store(true, Ordering::Release);
        Answer::ready(())
    }
}
