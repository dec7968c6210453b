//! The store's reads as SQL, on one connection, within whatever transaction the caller has open.

use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use rusqlite::{OptionalExtension, Row, params, types::Type};

use super::db::{Db, SCHEMA_VERSION};
use crate::change::{Action, Cause, Change, Changes};
use crate::error::{Error, Result};
use crate::feed::Stretch;
use crate::key_value::{KeyValue, LeaseId, Page, Range, Revision, Status};
use crate::plan::{View, check_readable};
use crate::watch::Event;

/// The name of this back end in [`Status`].
pub(crate) const BACKEND: &str = "sqlite";

const CURRENT: &str = "SELECT h.key, h.value, h.create_revision, h.revision, h.version, h.lease
    FROM present p JOIN history h ON h.id = p.history_id WHERE p.key = ?1";

const CURRENT_RANGE: &str = "SELECT h.key, h.value, h.create_revision, h.revision, h.version, h.lease
    FROM present p JOIN history h ON h.id = p.history_id
    WHERE p.key >= ?1 AND p.key < ?2 ORDER BY p.key LIMIT ?3";

const PAST_RANGE: &str = "SELECT h.key, h.value, h.create_revision, h.revision, h.version, h.lease
    FROM history h WHERE h.key >= ?1 AND h.key < ?2 AND h.value IS NOT NULL AND h.revision =
        (SELECT max(o.revision) FROM history o WHERE o.key = h.key AND o.revision <= ?4)
    ORDER BY h.key LIMIT ?3";

const ATTACHED: &str = "SELECT h.key, h.value, h.create_revision, h.revision, h.version, h.lease
    FROM present p JOIN history h ON h.id = p.history_id WHERE p.lease = ?1 ORDER BY p.key";

/// The revision of the first event that a page of ?4 events has no room for.
const FIRST_OVER: &str = "SELECT revision FROM history WHERE revision >= ?1 AND key >= ?2 AND key < ?3
    ORDER BY revision LIMIT 1 OFFSET ?4";

const LAST_BEFORE: &str = "SELECT revision FROM history WHERE revision >= ?1 AND key >= ?2 AND key < ?3
    AND revision < ?4 ORDER BY revision DESC LIMIT 1";

const EVENTS: &str = "SELECT h.key, h.value, h.create_revision, h.revision, h.version, h.lease,
        o.key, o.value, o.create_revision, o.revision, o.version, o.lease
    FROM history h LEFT JOIN history o ON o.key = h.key AND o.revision =
        (SELECT max(x.revision) FROM history x WHERE x.key = h.key AND x.revision < h.revision)
    WHERE h.revision >= ?1 AND h.key >= ?2 AND h.key < ?3 AND h.revision <= ?4
    ORDER BY h.revision, h.id";

const CHANGES: &str = "SELECT revision, key, action, actor, reason, at_ms FROM changes
    WHERE revision > ?1 AND key >= ?2 AND key < ?3 AND revision <= ?4 ORDER BY revision, id";

const CHANGES_OF: &str = "SELECT revision, key, action, actor, reason, at_ms FROM changes
    WHERE key = ?1 ORDER BY revision DESC, id DESC LIMIT ?2";

/// As `FIRST_OVER`, in the change log.
const CHANGES_FIRST_OVER: &str = "SELECT revision FROM changes WHERE revision > ?1 AND key >= ?2 AND key < ?3
    ORDER BY revision LIMIT 1 OFFSET ?4";

const CHANGES_LAST_BEFORE: &str =
    "SELECT revision FROM changes WHERE revision > ?1 AND key >= ?2 AND key < ?3
    AND revision < ?4 ORDER BY revision DESC LIMIT 1";

impl View for Db {
    fn current(&self, key: &str) -> Result<Option<KeyValue>> {
        self.key_values(CURRENT, params![key.as_bytes()]).map(|mut found| found.pop())
    }

    fn under(&self, prefix: &str) -> Result<Vec<KeyValue>> {
        self.key_values(CURRENT_RANGE, params![prefix.as_bytes(), prefix_end(prefix), -1])
    }

    fn has_lease(&self, lease: LeaseId) -> Result<bool> {
        let found = self
            .conn
            .prepare_cached("SELECT 1 FROM leases WHERE id = ?1")
            .and_then(|mut statement| statement.exists([number(lease.0)]));
        found.map_err(self.explain("read a lease"))
    }

    fn attached(&self, lease: LeaseId) -> Result<Vec<KeyValue>> {
        self.key_values(ATTACHED, [number(lease.0)])
    }
}

impl Db {
    /// One of the store's numbers.
    pub(crate) fn meta(&self, name: &str) -> Result<u64> {
        self.conn
            .prepare_cached("SELECT value FROM meta WHERE name = ?1")
            .and_then(|mut statement| statement.query_row([name], |row| unsigned(row, 0)))
            .map_err(self.explain("read the store's state"))
    }

    pub(crate) fn revision(&self) -> Result<Revision> {
        self.meta("revision").map(Revision)
    }

    pub(crate) fn compacted(&self) -> Result<Revision> {
        self.meta("compacted").map(Revision)
    }

    pub(crate) fn range(&self, range: &Range) -> Result<Page> {
        let current = self.revision()?;
        let revision = range.at.unwrap_or(current);
        check_readable(revision, self.compacted()?, current)?;
        let mut start = range.prefix.clone().into_bytes();
        if let Some(after) = &range.after {
            // No key contains NUL, so this is where the keys after that one start.
            start = start.max([after.as_bytes(), b"\0"].concat());
        }
        let end = prefix_end(&range.prefix);
        let limit = range.limit.max(1);
        let one_more = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
        let mut items = if revision == current {
            self.key_values(CURRENT_RANGE, params![start, end, one_more])?
        } else {
            self.key_values(PAST_RANGE, params![start, end, one_more, number(revision.0)])?
        };
        let has_more = items.len() > limit;
        items.truncate(limit);
        let more = items.last().filter(|_| has_more).map(|kv| kv.key.clone());
        Ok(Page { items, revision, more })
    }

    pub(crate) fn stretch(&self, prefix: &str, from: Revision, limit: usize) -> Result<Stretch> {
        let compacted = self.compacted()?;
        if from < compacted {
            return Err(Error::Compacted { requested: from, compacted });
        }
        let current = self.revision()?;
        let bounds = [FIRST_OVER, LAST_BEFORE];
        let through = self.page_end(bounds, from.0, prefix, limit)?.unwrap_or(current);
        let read = || {
            let mut statement = self.conn.prepare_cached(EVENTS)?;
            let arguments = params![number(from.0), prefix.as_bytes(), prefix_end(prefix), number(through.0)];
            statement.query_map(arguments, event)?.collect::<rusqlite::Result<Vec<_>>>()
        };
        Ok(Stretch { events: read().map_err(self.explain("read history"))?, through })
    }

    pub(crate) fn changes(&self, changes: &Changes) -> Result<Vec<Change>> {
        let (after, prefix) = (changes.after.0, changes.prefix.as_str());
        let bounds = [CHANGES_FIRST_OVER, CHANGES_LAST_BEFORE];
        let through = self.page_end(bounds, after, prefix, changes.limit)?.unwrap_or(Revision(u64::MAX));
        let read = || {
            let mut statement = self.conn.prepare_cached(CHANGES)?;
            let arguments = params![number(after), prefix.as_bytes(), prefix_end(prefix), number(through.0)];
            statement.query_map(arguments, change)?.collect::<rusqlite::Result<Vec<_>>>()
        };
        read().map_err(self.explain("read the change log"))
    }

    pub(crate) fn changes_of(&self, key: &str, limit: usize) -> Result<Vec<Change>> {
        let read = || {
            let mut statement = self.conn.prepare_cached(CHANGES_OF)?;
            let arguments = params![key.as_bytes(), number(limit as u64)];
            statement.query_map(arguments, change)?.collect::<rusqlite::Result<Vec<_>>>()
        };
        read().map_err(self.explain("read the change log"))
    }

    /// The last revision of a page of about `limit` rows that splits no revision; `None` if all rows fit.
    fn page_end(
        &self,
        [first_over, last_before]: [&str; 2],
        start: u64,
        prefix: &str,
        limit: usize,
    ) -> Result<Option<Revision>> {
        let end = prefix_end(prefix);
        let find = |sql: &str, last: u64| -> rusqlite::Result<Option<u64>> {
            let mut statement = self.conn.prepare_cached(sql)?;
            let arguments = params![number(start), prefix.as_bytes(), end, number(last)];
            statement.query_row(arguments, |row| unsigned(row, 0)).optional()
        };
        let page_end = || {
            let Some(over) = find(first_over, limit.max(1) as u64)? else { return Ok(None) };
            // If the first revision alone is longer than a page, it makes a page of its own.
            Ok(Some(Revision(find(last_before, over)?.unwrap_or(over))))
        };
        page_end().map_err(self.explain("read history"))
    }

    /// What the file knows of its status.
    pub(crate) fn status(&self) -> Result<Status> {
        let keys = self.conn.query_row("SELECT count(*) FROM present", [], |row| unsigned(row, 0));
        Ok(Status {
            backend: BACKEND,
            revision: self.revision()?,
            compacted: self.compacted()?,
            keys: keys.map_err(self.explain("count keys"))?,
            size_bytes: self.size_bytes()?,
            schema_version: SCHEMA_VERSION,
            queued_writes: 0,
        })
    }

    /// All leases, with what remained of them at the last orderly stop.
    pub(crate) fn leases(&self) -> Result<Vec<(LeaseId, Duration, Option<Duration>)>> {
        let read = || {
            let mut statement = self.conn.prepare("SELECT id, ttl_ms, rest_ms FROM leases")?;
            let lease = |row: &Row<'_>| {
                let rest = row.get::<_, Option<i64>>(2)?.map(i64::unsigned_abs).map(Duration::from_millis);
                Ok((LeaseId(unsigned(row, 0)?), Duration::from_millis(unsigned(row, 1)?), rest))
            };
            statement.query_map([], lease)?.collect::<rusqlite::Result<Vec<_>>>()
        };
        read().map_err(self.explain("read leases"))
    }

    fn key_values(&self, sql: &str, arguments: impl rusqlite::Params) -> Result<Vec<KeyValue>> {
        let read = || {
            let mut statement = self.conn.prepare_cached(sql)?;
            let rows = statement.query_map(arguments, |row| key_value(row, 0))?;
            rows.filter_map(rusqlite::Result::transpose).collect::<rusqlite::Result<Vec<_>>>()
        };
        read().map_err(self.explain("read keys"))
    }
}

/// Where the keys under a prefix end: 0xFF is in no UTF-8 text.
fn prefix_end(prefix: &str) -> Vec<u8> {
    [prefix.as_bytes(), &[0xFF]].concat()
}

/// SQLite's integers are signed; what does not fit lies beyond everything that is stored.
pub(crate) fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, value))
}

fn text(row: &Row<'_>, column: usize) -> rusqlite::Result<String> {
    String::from_utf8(row.get(column)?)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Blob, Box::new(error)))
}

/// Six columns from `first` on; `None` for a tombstone, or a row that is not there.
fn key_value(row: &Row<'_>, first: usize) -> rusqlite::Result<Option<KeyValue>> {
    let Some(value) = row.get::<_, Option<Vec<u8>>>(first + 1)? else { return Ok(None) };
    Ok(Some(KeyValue {
        key: text(row, first)?,
        value: Bytes::from(value),
        create_revision: Revision(unsigned(row, first + 2)?),
        mod_revision: Revision(unsigned(row, first + 3)?),
        version: unsigned(row, first + 4)?,
        lease: row.get::<_, Option<i64>>(first + 5)?.map(|id| LeaseId(id.unsigned_abs())),
    }))
}

fn event(row: &Row<'_>) -> rusqlite::Result<Event> {
    let prev = key_value(row, 6)?;
    Ok(match key_value(row, 0)? {
        Some(kv) => Event::Put { kv, prev },
        None => Event::Delete { key: text(row, 0)?, prev, mod_revision: Revision(unsigned(row, 3)?) },
    })
}

fn change(row: &Row<'_>) -> rusqlite::Result<Change> {
    let action = match row.get::<_, i64>(2)? {
        0 => Action::Create,
        1 => Action::Update,
        2 => Action::Delete,
        other => return Err(rusqlite::Error::IntegralValueOutOfRange(2, other)),
    };
    Ok(Change {
        revision: Revision(unsigned(row, 0)?),
        key: text(row, 1)?,
        action,
        cause: Cause { actor: row.get(3)?, reason: row.get(4)? },
        at: UNIX_EPOCH + Duration::from_millis(unsigned(row, 5)?),
    })
}
