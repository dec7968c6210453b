//! One connection to the store's file: opening, the schema and its migrations, and what SQLite's errors
//! mean to us.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::error::{Error, Result};

/// "DODA": marks the file as ours.
const APPLICATION_ID: i64 = 0x444F_4441;
/// How long to wait for another program that has the file open, such as the `sqlite3` shell.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Files up to this size are checked for damage each time they are opened; larger ones by `verify` only.
const CHECK_ON_OPEN_BYTES: u64 = 64 * 1024 * 1024;
/// What the write-ahead log is cut back to after a burst.
const WAL_LIMIT_BYTES: i64 = 16 * 1024 * 1024;
/// The page cache of the writer and of each reader.
const CACHE_KIB: i64 = 1024;

/// Each takes the schema one version further. Never change one that was released.
const MIGRATIONS: &[&str] = &[include_str!("schema-1.sql")];

/// The newest schema that this program knows.
pub(crate) const SCHEMA_VERSION: i64 = MIGRATIONS.len() as i64;

/// A connection that knows which file it is for.
pub(crate) struct Db {
    pub(crate) conn: Connection,
    pub(crate) path: PathBuf,
}

impl Db {
    /// Opens (or creates) the store for writing and brings its schema up to date.
    pub(crate) fn open_writer(path: &Path, max_bytes: Option<u64>) -> Result<Db> {
        create_private(path)?;
        let mut db = Db::connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let found = db.identify()?;
        if found > SCHEMA_VERSION {
            return Err(Error::NewerSchema { path: path.to_owned(), found, known: SCHEMA_VERSION });
        }
        if db.size_bytes()? <= CHECK_ON_OPEN_BYTES {
            db.check("quick_check(1)")?;
        }
        db.configure(max_bytes).map_err(db.explain("open the store"))?;
        migrate(&mut db.conn, MIGRATIONS, found)
            .map_err(|error| explain(path, "upgrade the store", &error))?;
        Ok(db)
    }

    /// Opens an existing, current store for reading.
    pub(crate) fn open_reader(path: &Path) -> Result<Db> {
        let db = Db::connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let set = |name, value: i64| db.conn.pragma_update(None, name, value);
        set("query_only", 1)
            .and_then(|()| set("cache_size", -CACHE_KIB))
            .map_err(db.explain("open the store for reading"))?;
        Ok(db)
    }

    /// Opens a file without any expectation.
    pub(crate) fn connect(path: &Path, flags: OpenFlags) -> Result<Db> {
        let opened = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX);
        let conn = opened.map_err(|error| explain(path, "open the store", &error))?;
        let db = Db { conn, path: path.to_owned() };
        db.conn.busy_timeout(BUSY_TIMEOUT).map_err(db.explain("open the store"))?;
        Ok(db)
    }

    /// Whether the file is ours; returns its schema version, 0 for a new file.
    pub(crate) fn identify(&self) -> Result<i64> {
        let explain = self.explain("open the store");
        let application: i64 =
            self.conn.pragma_query_value(None, "application_id", |row| row.get(0)).map_err(&explain)?;
        let version: i64 =
            self.conn.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(&explain)?;
        let tables: i64 = self
            .conn
            .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
            .map_err(&explain)?;
        if application == APPLICATION_ID || (application == 0 && version == 0 && tables == 0) {
            return Ok(version);
        }
        let detail = "it is a database of another program".to_owned();
        Err(Error::NotAStore { path: self.path.clone(), detail })
    }

    /// Runs one of SQLite's checks; an error tells the first damage found.
    pub(crate) fn check(&self, pragma: &str) -> Result<()> {
        let found: String = self
            .conn
            .query_row(&format!("PRAGMA {pragma}"), [], |row| row.get(0))
            .map_err(self.explain("check the store"))?;
        if found == "ok" {
            return Ok(());
        }
        Err(Error::Corrupt {
            path: self.path.clone(),
            detail: found.lines().take(3).collect::<Vec<_>>().join("; "),
        })
    }

    /// Answered means durable: WAL with a sync of the log at each commit.
    fn configure(&self, max_bytes: Option<u64>) -> rusqlite::Result<()> {
        let conn = &self.conn;
        conn.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
        conn.pragma_update(None, "synchronous", "full")?;
        conn.pragma_update(None, "cache_size", -CACHE_KIB)?;
        conn.pragma_update_and_check(None, "journal_size_limit", WAL_LIMIT_BYTES, |_| Ok(()))?;
        if let Some(max_bytes) = max_bytes {
            let page: i64 = conn.pragma_query_value(None, "page_size", |row| row.get(0))?;
            let pages = i64::try_from(max_bytes).unwrap_or(i64::MAX) / page.max(1);
            conn.pragma_update_and_check(None, "max_page_count", pages.max(1), |_| Ok(()))?;
        }
        Ok(())
    }

    /// The size of the database, without its log.
    pub(crate) fn size_bytes(&self) -> Result<u64> {
        let value = |name| self.conn.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let size = value("page_count").and_then(|pages| Ok(pages * value("page_size")?));
        Ok(size.map_err(self.explain("measure the store"))?.unsigned_abs())
    }

    /// Turns an error of SQLite into ours.
    pub(crate) fn explain(&self, operation: &'static str) -> impl Fn(rusqlite::Error) -> Error + '_ {
        move |error| explain(&self.path, operation, &error)
    }
}

/// Applies the migrations from version `found` on, each in a transaction of its own.
fn migrate(conn: &mut Connection, migrations: &[&str], found: i64) -> rusqlite::Result<()> {
    let done = usize::try_from(found).unwrap_or(0);
    for (index, migration) in migrations.iter().enumerate().skip(done) {
        let transaction = conn.transaction()?;
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", index as i64 + 1)?;
        transaction.commit()?;
    }
    Ok(())
}

/// Says what an error of SQLite means.
pub(crate) fn explain(path: &Path, operation: &'static str, error: &rusqlite::Error) -> Error {
    let path = path.to_owned();
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => Error::Full { operation, path },
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Error::Busy { operation, path },
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            Error::Corrupt { path, detail: error.to_string() }
        }
        Some(_) | None => Error::Storage { operation, path, detail: error.to_string() },
    }
}

/// The store may hold secrets: only its owner reads it. SQLite gives its log the same mode.
pub(crate) fn create_private(path: &Path) -> Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop).map_err(|error| Error::Storage {
        operation: "create the store",
        path: path.to_owned(),
        detail: error.to_string(),
    })
}

/// `store.db` and `lock` make `store.db.lock`.
pub(crate) fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(OsString::from(format!(".{extension}")));
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(conn: &Connection) -> i64 {
        conn.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
    }

    #[test]
    fn migrations_run_once_and_in_order() {
        let mut conn = Connection::open_in_memory().unwrap();
        migrate(&mut conn, &["CREATE TABLE a (x)"], 0).unwrap();
        assert_eq!(version(&conn), 1);
        migrate(&mut conn, &["CREATE TABLE a (x)", "INSERT INTO a VALUES (7)"], 1).unwrap();
        assert_eq!(version(&conn), 2);
        let x: i64 = conn.query_row("SELECT x FROM a", [], |row| row.get(0)).unwrap();
        assert_eq!(x, 7);
    }

    #[test]
    fn a_locked_file_is_told_as_busy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        let (first, second) = (Connection::open(&path).unwrap(), Connection::open(&path).unwrap());
        first.execute_batch("BEGIN EXCLUSIVE").unwrap();
        second.busy_timeout(Duration::ZERO).unwrap();
        let error = second.execute_batch("BEGIN EXCLUSIVE").unwrap_err();
        let expect = Error::Busy { operation: "begin a write", path: path.clone() };
        assert_eq!(explain(&path, "begin a write", &error), expect);
        first.execute_batch("ROLLBACK").unwrap();
        second.execute_batch("BEGIN EXCLUSIVE").unwrap();
    }

    #[test]
    fn a_failed_migration_leaves_the_version_before() {
        let mut conn = Connection::open_in_memory().unwrap();
        migrate(&mut conn, &["CREATE TABLE a (x)", "CREATE TABLE b (x); nonsense"], 0).unwrap_err();
        assert_eq!(version(&conn), 1);
        let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).unwrap();
        assert_eq!(tables, 1);
    }
}
