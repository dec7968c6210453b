//! The tables of a broker, and every step on them. Each runs inside a transaction of the thread that writes.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use dodai_capability::pubsub::{
    Error, Message, NO_GROUP, Peek, Peeked, Publish, Replay, Replayed, Standing, Subscribe, Verdict,
    WAITING_FOR_A_GROUP,
};
use rusqlite::{Connection, OptionalExtension};

use crate::sqlite::file::Failure;

/// More bytes than SQLite keeps of anything.
const WHOLE: i64 = 1 << 31;

/// The statements, with the table names filled in.
pub struct Tables {
    table: String,
    groups: String,
    insert_message: String,
    insert_pending: String,
    count_up: String,
    count_down: String,
    first: String,
    rest: String,
    take: String,
    next_due: String,
    is_held: String,
    retry: String,
    remove_pending: String,
    release: String,
}

/// Which delivery of which message a consumer has.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// The message's id.
    pub message: i64,
    /// The group's id.
    pub group: i64,
    mark: i64,
}

/// What a consumer gets when it asks.
pub enum Claim {
    /// The group has been forgotten.
    NoGroup,
    /// Nothing can be given out now; maybe something falls due.
    Nothing { due_in: Option<Duration> },
    /// A message.
    Taken { message: Message, attempt: u32, held: Held, more: bool },
}

struct Row {
    id: i64,
    attempt: u32,
    expires_ms: i64,
    message: Message,
}

/// A message of a topic, from the first seven columns.
fn read(row: &rusqlite::Row<'_>, topic: &str) -> rusqlite::Result<Row> {
    let id: i64 = row.get(0)?;
    let metadata: String = row.get(5)?;
    let published_ms: i64 = row.get(6)?;
    Ok(Row {
        id,
        attempt: row.get(1)?,
        expires_ms: row.get(2)?,
        message: Message {
            id: id.to_string(),
            topic: topic.to_owned(),
            data: Bytes::from(row.get::<_, Vec<u8>>(3)?),
            content_type: row.get(4)?,
            // Written by us; what somebody else broke counts as none.
            metadata: serde_json::from_str(&metadata).unwrap_or_default(),
            published: SystemTime::UNIX_EPOCH + Duration::from_millis(published_ms.unsigned_abs()),
        },
    })
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

impl Tables {
    /// The statements for the tables that begin with `table`.
    pub fn new(table: &str) -> Tables {
        let (groups, messages, pending) =
            (format!("{table}_groups"), format!("{table}_messages"), format!("{table}_pending"));
        Tables {
            table: table.to_owned(),
            groups: format!("SELECT id, name, pending FROM {groups} WHERE topic = ?1"),
            insert_message: format!(
                "INSERT INTO {messages} (topic, data, content_type, metadata, published_ms, expires_ms, waiting) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)"
            ),
            insert_pending: format!(
                "INSERT INTO {pending} (group_id, message_id, attempt, due_ms, mark) VALUES (?1, ?2, 0, 0, 0)"
            ),
            count_up: format!("UPDATE {groups} SET pending = pending + 1 WHERE topic = ?1"),
            count_down: format!("UPDATE {groups} SET pending = pending - 1 WHERE id = ?1"),
            first: format!(
                "SELECT m.id, p.attempt, m.expires_ms, m.data, m.content_type, m.metadata, m.published_ms \
                 FROM {pending} p JOIN {messages} m ON m.id = p.message_id \
                 WHERE p.group_id = ?1 AND p.due_ms <= ?2 ORDER BY p.message_id LIMIT 2"
            ),
            rest: format!(
                "SELECT m.id, p.attempt, m.expires_ms, coalesce(substr(m.data, 1, ?5), x''), m.content_type, m.metadata, \
                 m.published_ms, p.mark <> 0 AND p.due_ms > ?4, length(m.data) FROM {pending} p JOIN {messages} m ON m.id = p.message_id \
                 WHERE p.group_id = ?1 AND p.message_id > ?2 AND m.expires_ms > ?4 \
                 ORDER BY p.message_id LIMIT ?3"
            ),
            take: format!(
                "UPDATE {pending} SET attempt = attempt + 1, due_ms = ?3, mark = ?4 WHERE group_id = ?1 AND message_id = ?2"
            ),
            next_due: format!("SELECT min(due_ms) FROM {pending} WHERE group_id = ?1"),
            is_held: format!(
                "SELECT 1 FROM {pending} WHERE group_id = ?1 AND message_id = ?2 AND mark = ?3 AND due_ms > ?4"
            ),
            retry: format!(
                "UPDATE {pending} SET due_ms = ?3, mark = ?4 WHERE group_id = ?1 AND message_id = ?2"
            ),
            remove_pending: format!("DELETE FROM {pending} WHERE group_id = ?1 AND message_id = ?2"),
            release: format!("UPDATE {messages} SET waiting = waiting - 1 WHERE id = ?1 RETURNING waiting"),
        }
    }

    /// Makes the tables if they are not there.
    pub fn create<E>(&self, connection: &Connection) -> Result<(), Failure<E>> {
        let table = &self.table;
        Ok(connection.execute_batch(&format!(
            "CREATE TABLE IF NOT EXISTS {table}_groups (
                 id INTEGER PRIMARY KEY AUTOINCREMENT,
                 topic TEXT NOT NULL,
                 name TEXT NOT NULL,
                 pending INTEGER NOT NULL DEFAULT 0,
                 UNIQUE (topic, name)
             );
             CREATE TABLE IF NOT EXISTS {table}_messages (
                 id INTEGER PRIMARY KEY AUTOINCREMENT,
                 topic TEXT NOT NULL,
                 data BLOB NOT NULL,
                 content_type TEXT,
                 metadata TEXT NOT NULL,
                 published_ms INTEGER NOT NULL,
                 expires_ms INTEGER NOT NULL,
                 waiting INTEGER NOT NULL
             );
             CREATE TABLE IF NOT EXISTS {table}_pending (
                 group_id INTEGER NOT NULL,
                 message_id INTEGER NOT NULL,
                 attempt INTEGER NOT NULL,
                 due_ms INTEGER NOT NULL,
                 mark INTEGER NOT NULL,
                 PRIMARY KEY (group_id, message_id)
             ) WITHOUT ROWID;"
        ))?)
    }

    /// Adds a group unless it is there. The first group of a topic takes over what waits there.
    pub fn join<E>(&self, connection: &Connection, topic: &str, group: &str) -> Result<(), Failure<E>> {
        let sql = format!("UPDATE {}_groups SET name = ?2 WHERE topic = ?1 AND name = ?3", self.table);
        connection.prepare_cached(&sql)?.execute((topic, group, NO_GROUP))?;
        self.add_group(connection, topic, group)
    }

    fn add_group<E>(&self, connection: &Connection, topic: &str, group: &str) -> Result<(), Failure<E>> {
        let sql = format!("INSERT OR IGNORE INTO {}_groups (topic, name) VALUES (?1, ?2)", self.table);
        connection.prepare_cached(&sql)?.execute((topic, group))?;
        Ok(())
    }

    fn group(&self, connection: &Connection, topic: &str, group: &str) -> rusqlite::Result<Option<i64>> {
        let sql = format!("SELECT id FROM {}_groups WHERE topic = ?1 AND name = ?2", self.table);
        connection.prepare_cached(&sql)?.query_row((topic, group), |row| row.get(0)).optional()
    }

    /// Ids, names and unsettled messages of a topic's groups.
    fn groups_of(&self, connection: &Connection, topic: &str) -> rusqlite::Result<Vec<(i64, String, i64)>> {
        let mut statement = connection.prepare_cached(&self.groups)?;
        let rows = statement.query_map([topic], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        rows.collect()
    }

    /// The oldest of what waits for a first group gives way.
    fn make_room_in_nobodys(
        &self,
        connection: &Connection,
        id: i64,
        pending: i64,
        limit: u64,
    ) -> rusqlite::Result<()> {
        if pending.unsigned_abs() < limit.min(WAITING_FOR_A_GROUP) {
            return Ok(());
        }
        let sql = format!("SELECT min(message_id) FROM {}_pending WHERE group_id = ?1", self.table);
        let oldest: Option<i64> = connection.prepare_cached(&sql)?.query_row([id], |row| row.get(0))?;
        oldest.map_or(Ok(()), |oldest| self.done(connection, id, oldest))
    }

    /// Adds a message for every group of its topic; returns the groups' names.
    pub fn publish(
        &self,
        connection: &Connection,
        message: &Publish,
        limit: u64,
        retention: Duration,
        now_ms: i64,
    ) -> Result<Vec<String>, Failure<Error>> {
        let mut groups = self.groups_of(connection, &message.topic)?;
        if groups.is_empty() {
            self.add_group(connection, &message.topic, NO_GROUP)?;
            groups = self.groups_of(connection, &message.topic)?;
        }
        for (id, group, pending) in &groups {
            if group == NO_GROUP {
                self.make_room_in_nobodys(connection, *id, *pending, limit)?;
                continue;
            }
            let is_full = |pending: i64| pending.unsigned_abs() >= limit;
            if is_full(*pending) && is_full(pending - self.drop_expired(connection, *id, now_ms)?) {
                let (topic, group) = (message.topic.clone(), group.clone());
                return Err(Failure::Refused(Error::TopicFull {
                    topic,
                    group,
                    limit,
                    property: "maxMessages",
                }));
            }
        }
        let metadata = serde_json::to_string(&message.metadata).expect("a map of texts is JSON");
        let expires_ms =
            now_ms.saturating_add(millis(message.ttl.map_or(retention, |ttl| ttl.min(retention))));
        connection.prepare_cached(&self.insert_message)?.execute((
            &message.topic,
            &message.data[..],
            &message.content_type,
            metadata,
            now_ms,
            expires_ms,
            i64::try_from(groups.len()).unwrap_or(i64::MAX),
        ))?;
        let id = connection.last_insert_rowid();
        for (group, _, _) in &groups {
            connection.prepare_cached(&self.insert_pending)?.execute((group, id))?;
        }
        connection.prepare_cached(&self.count_up)?.execute([&message.topic])?;
        Ok(groups.into_iter().map(|(_, name, _)| name).collect())
    }

    /// Gives out the first message of the group that is due.
    pub fn claim(
        &self,
        connection: &Connection,
        wanted: &Subscribe,
        now_ms: i64,
    ) -> Result<Claim, Failure<Error>> {
        let Some(group) = self.group(connection, &wanted.topic, &wanted.group)? else {
            return Ok(Claim::NoGroup);
        };
        loop {
            let mut due = self.due(connection, group, &wanted.topic, now_ms)?.into_iter();
            let Some(row) = due.next() else {
                let next: Option<i64> =
                    connection.prepare_cached(&self.next_due)?.query_row([group], |row| row.get(0))?;
                let due_in = next.map(|next| Duration::from_millis((next - now_ms).max(1).unsigned_abs()));
                return Ok(Claim::Nothing { due_in });
            };
            if row.expires_ms <= now_ms {
                self.done(connection, group, row.id)?;
                continue;
            }
            // Random, so that a delivery of another process or an earlier one is never taken for this one.
            let mark =
                i64::from_le_bytes(uuid::Uuid::new_v4().into_bytes()[..8].try_into().expect("eight bytes"));
            let due_ms = now_ms.saturating_add(millis(wanted.lease));
            connection.prepare_cached(&self.take)?.execute((group, row.id, due_ms, mark))?;
            let held = Held { message: row.id, group, mark };
            let more = due.next().is_some();
            return Ok(Claim::Taken { message: row.message, attempt: row.attempt + 1, held, more });
        }
    }

    fn due(
        &self,
        connection: &Connection,
        group: i64,
        topic: &str,
        now_ms: i64,
    ) -> rusqlite::Result<Vec<Row>> {
        let mut statement = connection.prepare_cached(&self.first)?;
        let rows = statement.query_map((group, now_ms), |row| read(row, topic))?;
        rows.collect()
    }

    /// What a group has yet to settle, without taking it.
    pub fn peek(
        &self,
        connection: &Connection,
        wanted: &Peek,
        now_ms: i64,
    ) -> Result<Vec<Peeked>, Failure<Error>> {
        let Some(group) = self.group(connection, &wanted.topic, &wanted.group)? else {
            return Ok(Vec::new());
        };
        let after = wanted.after.as_deref().and_then(|after| after.parse().ok()).unwrap_or(0_i64);
        let limit = i64::try_from(wanted.limit).unwrap_or(i64::MAX);
        let mut statement = connection.prepare_cached(&self.rest)?;
        let most = i64::try_from(wanted.most).unwrap_or(WHOLE).min(WHOLE);
        let rows = statement.query_map((group, after, limit, now_ms, most), |row| {
            let Row { attempt, message, .. } = read(row, &wanted.topic)?;
            let bytes = usize::try_from(row.get::<_, i64>(8)?).unwrap_or(usize::MAX);
            Ok(Peeked { message, bytes, attempt, in_delivery: row.get(7)? })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Moves a message to another topic, in the transaction that this runs in; the groups to be woken.
    pub fn replay(
        &self,
        connection: &Connection,
        wanted: Replay,
        limit: u64,
        retention: Duration,
        now_ms: i64,
    ) -> Result<(Replayed, Vec<String>), Failure<Error>> {
        let gone = Ok((Replayed::Gone, Vec::new()));
        let Some(group) = self.group(connection, &wanted.topic, &wanted.group)? else { return gone };
        let Ok(id) = wanted.id.parse::<i64>() else { return gone };
        let found =
            connection.prepare_cached(&self.rest)?.query_row((group, id - 1, 1, now_ms, WHOLE), |row| {
                Ok((read(row, &wanted.topic)?, row.get::<_, bool>(7)?))
            });
        let message = match found.optional()? {
            Some((row, _)) if row.id != id => return gone,
            None => return gone,
            Some((_, true)) => return Ok((Replayed::Held, Vec::new())),
            Some((row, false)) => row.message,
        };
        let Message { data, content_type, metadata, .. } = message;
        let copy = Publish { topic: wanted.to, data, content_type, ttl: None, metadata };
        let groups = self.publish(connection, &copy, limit, retention, now_ms)?;
        self.done(connection, group, id)?;
        Ok((Replayed::Moved, groups))
    }

    /// Settles a delivery; returns whether it still had its lease.
    pub fn settle(
        &self,
        connection: &Connection,
        held: Held,
        verdict: Verdict,
        now_ms: i64,
    ) -> Result<bool, Failure<Error>> {
        if !self.is_held(connection, held, now_ms)? {
            return Ok(false);
        }
        match verdict {
            Verdict::Ack | Verdict::Drop => self.done(connection, held.group, held.message)?,
            Verdict::Retry { after } => {
                let due_ms = now_ms.saturating_add(millis(after));
                connection.prepare_cached(&self.retry)?.execute((held.group, held.message, due_ms, 0))?;
            }
        }
        Ok(true)
    }

    /// Prolongs a lease; returns whether there still was one.
    pub fn extend(
        &self,
        connection: &Connection,
        held: Held,
        lease: Duration,
        now_ms: i64,
    ) -> Result<bool, Failure<Error>> {
        if !self.is_held(connection, held, now_ms)? {
            return Ok(false);
        }
        let due_ms = now_ms.saturating_add(millis(lease));
        connection.prepare_cached(&self.retry)?.execute((held.group, held.message, due_ms, held.mark))?;
        Ok(true)
    }

    fn is_held(&self, connection: &Connection, held: Held, now_ms: i64) -> rusqlite::Result<bool> {
        connection.prepare_cached(&self.is_held)?.exists((held.group, held.message, held.mark, now_ms))
    }

    /// A group is done with a message; the last group takes it with it.
    fn done(&self, connection: &Connection, group: i64, message: i64) -> rusqlite::Result<()> {
        if connection.prepare_cached(&self.remove_pending)?.execute((group, message))? == 0 {
            return Ok(());
        }
        connection.prepare_cached(&self.count_down)?.execute([group])?;
        self.released(connection, message)
    }

    fn released(&self, connection: &Connection, message: i64) -> rusqlite::Result<()> {
        let waiting: Option<i64> =
            connection.prepare_cached(&self.release)?.query_row([message], |row| row.get(0)).optional()?;
        if waiting.is_some_and(|waiting| waiting <= 0) {
            let sql = format!("DELETE FROM {}_messages WHERE id = ?1", self.table);
            connection.prepare_cached(&sql)?.execute([message])?;
        }
        Ok(())
    }

    /// Removes what a group has let expire and nobody holds; returns how many there were.
    fn drop_expired(&self, connection: &Connection, group: i64, now_ms: i64) -> rusqlite::Result<i64> {
        let table = &self.table;
        let sql = format!(
            "SELECT p.message_id FROM {table}_pending p JOIN {table}_messages m ON m.id = p.message_id \
             WHERE p.group_id = ?1 AND p.due_ms <= ?2 AND m.expires_ms <= ?2 LIMIT 1000"
        );
        let mut statement = connection.prepare_cached(&sql)?;
        let gone = statement
            .query_map((group, now_ms), |row| row.get(0))?
            .collect::<rusqlite::Result<Vec<i64>>>()?;
        for message in &gone {
            self.done(connection, group, *message)?;
        }
        Ok(i64::try_from(gone.len()).unwrap_or(i64::MAX))
    }

    /// Removes a group and what only it has yet to settle.
    pub fn forget<E>(&self, connection: &Connection, topic: &str, group: &str) -> Result<(), Failure<E>> {
        let Some(id) = self.group(connection, topic, group)? else { return Ok(()) };
        let table = &self.table;
        let steps = [
            format!(
                "UPDATE {table}_messages SET waiting = waiting - 1 \
                 WHERE id IN (SELECT message_id FROM {table}_pending WHERE group_id = ?1)"
            ),
            format!(
                "DELETE FROM {table}_messages WHERE waiting <= 0 \
                 AND id IN (SELECT message_id FROM {table}_pending WHERE group_id = ?1)"
            ),
            format!("DELETE FROM {table}_pending WHERE group_id = ?1"),
            format!("DELETE FROM {table}_groups WHERE id = ?1"),
        ];
        for step in steps {
            connection.execute(&step, [id])?;
        }
        Ok(())
    }

    /// How the groups stand.
    pub fn standings(&self, connection: &Connection, now_ms: i64) -> Result<Vec<Standing>, Failure<Error>> {
        let table = &self.table;
        let sql = format!(
            "SELECT topic, name, pending, (SELECT count(*) FROM {table}_pending p WHERE p.group_id = g.id \
             AND p.mark <> 0 AND p.due_ms > ?1) FROM {table}_groups g ORDER BY topic, name"
        );
        let mut statement = connection.prepare_cached(&sql)?;
        let rows = statement.query_map([now_ms], |row| {
            let count = |index| Ok::<_, rusqlite::Error>(row.get::<_, i64>(index)?.unsigned_abs());
            Ok(Standing {
                topic: row.get(0)?,
                group: row.get(1)?,
                pending: count(2)?,
                in_delivery: count(3)?,
            })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }
}
