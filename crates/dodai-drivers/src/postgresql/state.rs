//! `state.postgresql`: a row per value, in the tables of Dapr's components.
//!
//! Version 1 keeps `jsonb` with the row's `xmin` as etag, version 2 `bytea` with a random one. `jsonb` does not keep what
//! was written letter by letter, so version 1 keeps as JSON only what comes back the same, and the rest as base64, which
//! Dapr reads too: version 2 is the better one.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use dodai_capability::component::{Context, Error as Refusal, Lifecycle, Reader};
use dodai_capability::fault::{Fault, Kind};
use dodai_capability::state::{
    Concurrency, Delete, Error, Etag, Features, Get, Item, List, Operation, Page, Set, Store, wanted,
};
use dodai_capability::{Answer, Metadata};
use dodai_core::task;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{GenericClient, Row};

use super::pool::Pool;

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

/// Tries of a transaction that another one got in the way of.
const TRIES: u32 = 5;
/// Rows removed in one statement of the sweep.
const SWEEP: i64 = 1_000;

/// The tables of one version of Dapr's component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Version 1.
    Json,
    /// Version 2.
    Bytes,
}

/// What a user may set.
pub struct Options {
    layout: Layout,
    table: String,
    metadata_table: String,
    /// Under which key of that table the level of migrations is.
    migrations: String,
    cleanup: Duration,
}

impl Options {
    /// Reads `tableName` (version 1) or `tablePrefix` (version 2), `metadataTableName` and `cleanupInterval`.
    ///
    /// # Errors
    /// A value cannot be read.
    pub fn read(read: &mut Reader<'_>, layout: Layout) -> Result<Options, Refusal> {
        let (table, migrations) = match layout {
            Layout::Json => (super::table(read, "tableName", "state")?, "migrations".to_owned()),
            Layout::Bytes => {
                let prefix = match read.text(&["tablePrefix"]) {
                    None => String::new(),
                    Some(text) => {
                        super::table(read, "tablePrefix", "")?;
                        text.to_owned()
                    }
                };
                (format!("{prefix}state"), format!("migrations-state-v2-{prefix}"))
            }
        };
        let cleanup = ["cleanupInterval", "cleanupIntervalInSeconds"];
        let never = read.typed(&cleanup, false, "", |text| Some(text.starts_with('-')))?;
        Ok(Options {
            layout,
            table,
            metadata_table: super::table(read, "metadataTableName", "dapr_metadata")?,
            migrations,
            cleanup: if never { Duration::ZERO } else { read.duration(&cleanup, Duration::from_secs(3600))? },
        })
    }

    /// Tables as Dapr makes them, with the level of migrations that it then takes them to have.
    fn create(&self) -> String {
        let Options { table, metadata_table, migrations, .. } = self;
        let level = match self.layout {
            Layout::Json => 2,
            Layout::Bytes => 1,
        };
        let own = match self.layout {
            Layout::Json => format!(
                "CREATE TABLE IF NOT EXISTS {table} (
                     key text NOT NULL PRIMARY KEY,
                     value jsonb NOT NULL,
                     isbinary boolean NOT NULL,
                     insertdate timestamp with time zone NOT NULL DEFAULT now(),
                     updatedate timestamp with time zone NULL
                 );
                 ALTER TABLE {table} ADD COLUMN IF NOT EXISTS expiredate timestamp with time zone;"
            ),
            Layout::Bytes => format!(
                "CREATE TABLE IF NOT EXISTS {table} (
                     key text NOT NULL PRIMARY KEY,
                     value bytea NOT NULL,
                     etag uuid NOT NULL DEFAULT gen_random_uuid(),
                     created_at timestamp with time zone NOT NULL DEFAULT now(),
                     updated_at timestamp with time zone,
                     expires_at timestamp with time zone
                 );
                 CREATE INDEX IF NOT EXISTS {index}_expires_at_idx ON {table} (expires_at);",
                index = table.rsplit('.').next().unwrap_or(table)
            ),
        };
        // The lock keeps two that start at once from making one table twice.
        format!(
            "BEGIN;
             SELECT pg_advisory_xact_lock(hashtext('{table}'));
             CREATE TABLE IF NOT EXISTS {metadata_table} (key text NOT NULL PRIMARY KEY, value text NOT NULL);
             {own}
             INSERT INTO {metadata_table} AS m (key, value) VALUES ('{migrations}', '{level}')
                 ON CONFLICT (key) DO UPDATE SET value = excluded.value WHERE m.value::int < {level};
             COMMIT;"
        )
    }
}

/// Statements of one layout. `$1` is the key wherever there is one.
struct Statements {
    get: String,
    get_many: String,
    put: String,
    create: String,
    replace: String,
    delete: String,
    delete_this: String,
    exists: String,
    list: String,
    sweep: String,
}

impl Statements {
    fn new(layout: Layout, table: &str) -> Statements {
        let (value, etag, expires) = match layout {
            Layout::Json => ("value::text, isbinary", "xmin::text", "expiredate"),
            Layout::Bytes => ("value", "etag::text", "expires_at"),
        };
        let live = format!("({expires} IS NULL OR {expires} > now())");
        let columns = format!("key, {etag}, (extract(epoch from {expires}) * 1000)::bigint, {value}");
        let until = "now() + make_interval(secs => $3)";
        // `$2` is the value, `$3` seconds to live or nothing, and of JSON `$4` whether it is base64.
        let this = match layout {
            Layout::Json => "$5",
            Layout::Bytes => "$4",
        };
        let (insert, update) = match layout {
            Layout::Json => {
                let columns = "key, value, isbinary, expiredate";
                (
                    format!("INSERT INTO {table} AS t ({columns}) VALUES ($1, $2::text::jsonb, $4, {until})"),
                    format!(
                        "value = $2::text::jsonb, isbinary = $4, updatedate = now(), expiredate = {until}"
                    ),
                )
            }
            Layout::Bytes => (
                format!("INSERT INTO {table} AS t (key, value, expires_at) VALUES ($1, $2, {until})"),
                format!("value = $2, etag = gen_random_uuid(), updated_at = now(), expires_at = {until}"),
            ),
        };
        let conflict = format!("{insert} ON CONFLICT (key) DO UPDATE SET {update}");
        Statements {
            get: format!("SELECT {columns} FROM {table} WHERE key = $1 AND {live}"),
            get_many: format!("SELECT {columns} FROM {table} WHERE key = ANY($1) AND {live}"),
            put: conflict.clone(),
            create: format!("{conflict} WHERE t.{expires} <= now()"),
            replace: format!("UPDATE {table} SET {update} WHERE key = $1 AND {etag} = {this} AND {live}"),
            delete: format!("DELETE FROM {table} WHERE key = $1"),
            delete_this: format!("DELETE FROM {table} WHERE key = $1 AND {etag} = $2 AND {live}"),
            exists: format!("SELECT 1 FROM {table} WHERE key = $1 AND {live} FOR UPDATE"),
            list: format!(
                "SELECT key FROM {table} WHERE starts_with(key, $1) AND key COLLATE \"C\" > $2 AND {live} \
                 ORDER BY key COLLATE \"C\" LIMIT $3"
            ),
            sweep: format!(
                "DELETE FROM {table} WHERE key IN (SELECT key FROM {table} WHERE {expires} <= now() LIMIT {SWEEP})"
            ),
        }
    }
}

/// A state store in a table.
pub struct Postgresql {
    pool: Arc<Pool>,
    layout: Layout,
    sql: Arc<Statements>,
}

/// Why a statement did not do what it should.
enum Failure {
    Refused(Error),
    Sql(tokio_postgres::Error),
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Failure {
        Failure::Sql(error)
    }
}

impl Postgresql {
    /// Makes the tables if they are not there, and starts removing what expires.
    ///
    /// # Errors
    /// The database cannot be reached, or the tables cannot be made.
    pub async fn open(pool: Arc<Pool>, options: Options, context: &Context) -> Result<Postgresql, Fault> {
        let create = options.create();
        let what = format!("making table {}", options.table);
        pool.run(&what, true, |held| {
            let create = &create;
            async move { held.batch_execute(create).await }
        })
        .await?;
        let sql = Arc::new(Statements::new(options.layout, &options.table));
        let store = Postgresql { pool, layout: options.layout, sql };
        if !options.cleanup.is_zero() {
            store.spawn_sweep(options.cleanup, context);
        }
        Ok(store)
    }

    fn spawn_sweep(&self, every: Duration, context: &Context) {
        let (tasks, clock) = (context.tasks.clone(), context.clock.clone());
        let (weak, sql, pool) = (Arc::downgrade(&self.pool), self.sql.clone(), self.pool.clone());
        let closing = async move { pool.closing().await };
        context.tasks.spawn(task::Kind::Loop, async move {
            tokio::pin!(closing);
            loop {
                tokio::select! {
                    () = tasks.closing() => return,
                    () = &mut closing => return,
                    () = clock.sleep(every) => {}
                }
                let Some(pool) = weak.upgrade() else { return };
                let work = |held: super::pool::Held| {
                    let sweep = &sql.sweep;
                    async move { held.execute_typed(sweep, &[]).await }
                };
                while let Ok(gone) = pool.run("removing expired values", true, work).await {
                    if gone < SWEEP.unsigned_abs() {
                        break;
                    }
                }
            }
        });
    }

    /// Checks an etag's form, which the server would take for an error of ours.
    fn check(&self, key: &str, etag: &Option<Etag>) -> Result<(), Error> {
        let Some(etag) = wanted(etag) else { return Ok(()) };
        let right = match self.layout {
            Layout::Json => etag.as_str().parse::<u32>().is_ok(),
            Layout::Bytes => uuid::Uuid::try_parse(etag.as_str()).is_ok(),
        };
        if right { Ok(()) } else { Err(Error::EtagMalformed { key: key.to_owned(), etag: etag.to_string() }) }
    }

    fn check_all(&self, operations: &[Operation]) -> Result<(), Error> {
        operations.iter().try_for_each(|operation| match operation {
            Operation::Upsert(set) => self.check(&set.key, &set.etag),
            Operation::Delete(delete) => self.check(&delete.key, &delete.etag),
        })
    }

    async fn apply(&self, what: &str, operations: &[Operation]) -> Result<(), Error> {
        self.check_all(operations)?;
        let mut tries = 0;
        loop {
            let outcome = self.pool.run(what, false, |mut held| {
                let (sql, layout) = (&*self.sql, self.layout);
                async move {
                    let work = async {
                        if let [one] = operations
                            && !needs_transaction(one)
                        {
                            return step(&*held, sql, layout, one).await;
                        }
                        let transaction = held.transaction().await?;
                        for operation in operations {
                            step(&transaction, sql, layout, operation).await?;
                        }
                        Ok(transaction.commit().await?)
                    };
                    match work.await {
                        Ok(()) => Ok(Ok(())),
                        Err(Failure::Refused(error)) => Ok(Err(error)),
                        Err(Failure::Sql(error)) => Err(error),
                    }
                }
            });
            match outcome.await {
                Ok(outcome) => return outcome,
                // It was undone because another got in its way.
                Err(fault) if fault.kind() == Kind::Busy && tries < TRIES => tries += 1,
                Err(fault) => return Err(fault.into()),
            }
        }
    }

    async fn apply_each(&self, operations: Vec<Operation>) -> Vec<Result<(), Error>> {
        let one = |operation: Operation| async move {
            let (Operation::Upsert(Set { key, .. }) | Operation::Delete(Delete { key, .. })) = &operation;
            let what = format!("writing key `{key}`");
            self.apply(&what, std::slice::from_ref(&operation)).await
        };
        let mut outcomes = Vec::with_capacity(operations.len());
        for operation in operations {
            outcomes.push(one(operation).await);
        }
        outcomes
    }

    fn item(&self, row: &Row) -> Result<Item, Error> {
        let key: String = row.get(0);
        let etag: String = row.get(1);
        let expires: Option<i64> = row.get(2);
        let since = expires.and_then(|millis| u64::try_from(millis).ok()).map(Duration::from_millis);
        let value = match self.layout {
            Layout::Bytes => Bytes::from(row.get::<_, Vec<u8>>(3)),
            Layout::Json if row.get(4) => {
                let text: &str = row.get(3);
                let inner: Option<String> = serde_json::from_str(text).ok();
                let bytes = inner.and_then(|inner| BASE64.decode(inner).ok());
                let broken = || {
                    let what = format!("state key `{key}`: its value is marked as base64 and is none");
                    Fault::new(Kind::Corrupt, what)
                };
                Bytes::from(bytes.ok_or_else(broken)?)
            }
            Layout::Json => Bytes::from(row.get::<_, String>(3)),
        };
        Ok(Item {
            value,
            etag: Some(etag.into()),
            content_type: None,
            expires: since.map(|since| SystemTime::UNIX_EPOCH + since),
        })
    }

    async fn read(
        &self,
        what: &str,
        sql: &str,
        param: (&(dyn ToSql + Sync), Type),
    ) -> Result<Vec<Row>, Fault> {
        let param = &param;
        self.pool
            .run(what, true, |held| async move { held.query_typed(sql, &[(param.0, param.1.clone())]).await })
            .await
    }
}

/// Whether one operation takes two statements.
fn needs_transaction(operation: &Operation) -> bool {
    matches!(operation, Operation::Delete(delete) if delete.concurrency == Concurrency::FirstWrite)
}

/// The text that `jsonb` is to keep, and whether it is base64.
async fn json<C: GenericClient>(client: &C, value: &Bytes) -> Result<(String, bool), tokio_postgres::Error> {
    if let Ok(text) = std::str::from_utf8(value)
        && !text.contains("\\u0000")
        && serde_json::from_slice::<&serde_json::value::RawValue>(value).is_ok()
    {
        // The server alone knows how it writes JSON down.
        let asked = "SELECT $1::text::jsonb::text";
        let row = client.query_typed_one(asked, &[(&text, Type::TEXT)]).await;
        match row {
            Ok(row) if row.get::<_, &str>(0) == text => return Ok((text.to_owned(), false)),
            Ok(_) => {}
            Err(error) => return Err(error),
        }
    }
    Ok((format!("\"{}\"", BASE64.encode(value)), true))
}

/// Does one operation.
async fn step<C: GenericClient>(
    client: &C,
    sql: &Statements,
    layout: Layout,
    operation: &Operation,
) -> Result<(), Failure> {
    let mismatch = |key: &str| Failure::Refused(Error::EtagMismatch { key: key.to_owned() });
    match operation {
        Operation::Upsert(set) => {
            let seconds = set.ttl.limit().map(|limit| limit.as_secs_f64());
            let etag = wanted(&set.etag).map(Etag::as_str);
            let statement = match (etag, set.concurrency) {
                (Some(_), _) => &sql.replace,
                (None, Concurrency::FirstWrite) => &sql.create,
                (None, Concurrency::LastWrite) => &sql.put,
            };
            let etag = etag.unwrap_or_default();
            let bytes = &*set.value;
            let text;
            let mut params: Vec<(&(dyn ToSql + Sync), Type)> = vec![(&set.key, Type::TEXT)];
            match layout {
                Layout::Bytes => {
                    params.extend([(&bytes as &(dyn ToSql + Sync), Type::BYTEA), (&seconds, Type::FLOAT8)]);
                }
                Layout::Json => {
                    text = json(client, &set.value).await?;
                    params.extend([(&text.0 as &(dyn ToSql + Sync), Type::TEXT), (&seconds, Type::FLOAT8)]);
                    params.push((&text.1, Type::BOOL));
                }
            }
            if !etag.is_empty() {
                params.push((&etag, Type::TEXT));
            }
            let written = client.execute_typed(statement, &params).await?;
            if written == 1 { Ok(()) } else { Err(mismatch(&set.key)) }
        }
        Operation::Delete(delete) => {
            let key = (&delete.key as &(dyn ToSql + Sync), Type::TEXT);
            if let Some(etag) = wanted(&delete.etag) {
                let etag = etag.as_str();
                let gone = client.execute_typed(&sql.delete_this, &[key, (&etag, Type::TEXT)]).await?;
                return if gone == 1 { Ok(()) } else { Err(mismatch(&delete.key)) };
            }
            if delete.concurrency == Concurrency::FirstWrite
                && client.query_typed_opt(&sql.exists, std::slice::from_ref(&key)).await?.is_some()
            {
                return Err(mismatch(&delete.key));
            }
            client.execute_typed(&sql.delete, &[key]).await?;
            Ok(())
        }
    }
}

impl Store for Postgresql {
    fn features(&self) -> Features {
        FEATURES
    }

    fn get<'a>(&'a self, request: &'a Get) -> Answer<'a, Result<Option<Item>, Error>> {
        Answer::later(async move {
            let what = format!("reading key `{}`", request.key);
            let rows = self.read(&what, &self.sql.get, (&request.key, Type::TEXT)).await?;
            rows.first().map(|row| self.item(row)).transpose()
        })
    }

    fn get_many<'a>(&'a self, requests: &'a [Get], _: usize) -> Answer<'a, Vec<Result<Option<Item>, Error>>> {
        Answer::later(async move {
            let keys: Vec<&str> = requests.iter().map(|request| request.key.as_str()).collect();
            let what = format!("reading {} keys", keys.len());
            let rows = match self.read(&what, &self.sql.get_many, (&keys, Type::TEXT_ARRAY)).await {
                Ok(rows) => rows,
                // It failed as a whole; each key is told so.
                Err(fault) => {
                    let one = |_| Err(Fault::new(fault.kind(), fault.to_string()).into());
                    return requests.iter().map(one).collect();
                }
            };
            let found: std::collections::HashMap<&str, &Row> =
                rows.iter().map(|row| (row.get(0), row)).collect();
            keys.iter().map(|key| found.get(key).map(|row| self.item(row)).transpose()).collect()
        })
    }

    fn set(&self, request: Set) -> Answer<'_, Result<(), Error>> {
        Answer::later(async move {
            let what = format!("writing key `{}`", request.key);
            self.apply(&what, &[Operation::Upsert(request)]).await
        })
    }

    fn delete(&self, request: Delete) -> Answer<'_, Result<(), Error>> {
        Answer::later(async move {
            let what = format!("deleting key `{}`", request.key);
            self.apply(&what, &[Operation::Delete(request)]).await
        })
    }

    fn set_many(&self, requests: Vec<Set>) -> Answer<'_, Vec<Result<(), Error>>> {
        Answer::later(self.apply_each(requests.into_iter().map(Operation::Upsert).collect()))
    }

    fn delete_many(&self, requests: Vec<Delete>) -> Answer<'_, Vec<Result<(), Error>>> {
        Answer::later(self.apply_each(requests.into_iter().map(Operation::Delete).collect()))
    }

    fn transact(&self, operations: Vec<Operation>, _: Metadata) -> Answer<'_, Result<(), Error>> {
        Answer::later(async move {
            let what = format!("a transaction of {} operations", operations.len());
            if operations.is_empty() { Ok(()) } else { self.apply(&what, &operations).await }
        })
    }

    fn list<'a>(&'a self, request: &'a List) -> Answer<'a, Result<Page, Error>> {
        Answer::later(async move {
            let what = format!("listing keys that begin with `{}`", request.prefix);
            let after = request.after.clone().unwrap_or_default();
            let most = i64::try_from(request.limit).unwrap_or(i64::MAX - 1).saturating_add(1);
            let rows = self.pool.run(&what, true, |held| {
                let (after, most) = (&after, &most);
                async move {
                    let params: [(&(dyn ToSql + Sync), Type); 3] =
                        [(&request.prefix, Type::TEXT), (after, Type::TEXT), (most, Type::INT8)];
                    held.query_typed(&self.sql.list, &params).await
                }
            });
            let mut keys: Vec<String> = rows.await?.iter().map(|row| row.get(0)).collect();
            let more = keys.len() > request.limit;
            keys.truncate(request.limit);
            Ok(Page { next: keys.last().filter(|_| more).cloned(), keys })
        })
    }
}

impl Lifecycle for Postgresql {
    fn ping(&self) -> Answer<'_, Result<(), Fault>> {
        Answer::later(self.pool.ping())
    }

    fn close(&self) -> Answer<'_, ()> {
        self.pool.close();
        Answer::ready(())
    }
}
