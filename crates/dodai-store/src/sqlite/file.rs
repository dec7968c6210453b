//! The store as a file: backup while it is in use, restore while it is not, and a check of both.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{OpenFlags, backup::Backup, backup::StepResult};

use super::db::{Db, SCHEMA_VERSION, beside};
use super::lock::Lock;
use crate::error::{Error, Result};
use crate::key_value::Status;

/// How far a restored store jumps ahead: further than what was written since the backup. So a revision
/// that somebody still remembers from the lost time is never given out again for something else.
const RESTORE_GAP: u64 = 1_000_000_000;

/// What holds in a sound store, and the sentence for when it does not. Each finds violations.
const INVARIANTS: &[(&str, &str)] = &[
    (
        "SELECT count(*) FROM present p LEFT JOIN history h ON h.id = p.history_id
            WHERE h.value IS NULL OR h.key <> p.key OR h.lease IS NOT p.lease",
        "keys without their last state",
    ),
    (
        "SELECT count(*) FROM history h LEFT JOIN present p ON p.history_id = h.id
            WHERE (p.key IS NULL) = (h.value IS NOT NULL) AND h.revision =
                (SELECT max(o.revision) FROM history o WHERE o.key = h.key)",
        "last states without their key",
    ),
    (
        "SELECT count(*) FROM history WHERE revision > (SELECT value FROM meta WHERE name = 'revision')",
        "states from after the last revision",
    ),
    (
        "SELECT count(*) FROM present WHERE lease IS NOT NULL AND lease NOT IN (SELECT id FROM leases)",
        "keys of leases that do not exist",
    ),
];

/// Checks the store at `path` for damage, page by page and then by its own rules. The store may be in use.
/// Blocks; takes time in proportion to its size.
///
/// # Errors
/// [`Error::Corrupt`] with what was found, [`Error::NotAStore`], [`Error::NewerSchema`].
pub fn verify(path: &Path) -> Result<Status> {
    verified(path).and_then(|db| db.status())
}

fn verified(path: &Path) -> Result<Db> {
    let db = Db::open_reader(path)?;
    let found = db.identify()?;
    if found == 0 {
        return Err(Error::NotAStore { path: path.to_owned(), detail: "it is empty".to_owned() });
    }
    if found > SCHEMA_VERSION {
        return Err(Error::NewerSchema { path: path.to_owned(), found, known: SCHEMA_VERSION });
    }
    db.check("integrity_check(3)")?;
    // An older schema may not have what the rules speak of; opening it for writing will upgrade it.
    if found == SCHEMA_VERSION {
        for (violations, what) in INVARIANTS {
            let count: i64 =
                db.conn.query_row(violations, [], |row| row.get(0)).map_err(db.explain("check the store"))?;
            if count > 0 {
                return Err(Error::Corrupt { path: path.to_owned(), detail: format!("{count} {what}") });
            }
        }
    }
    Ok(db)
}

/// Copies the store behind `source` to a new file at `path`.
pub(crate) fn backup(source: &Db, path: &Path) -> Result<()> {
    if path.exists() {
        return Err(Error::TargetExists { path: path.to_owned() });
    }
    let partial = Partial::copy(source, path, "write the backup", |_| Ok(()))?;
    partial.rename(path, "write the backup")
}

/// Puts the backup `from` in the place of the store `to`, which must not be in use (and need not exist).
/// The store that was there is kept as `<to>.before-restore`. Blocks.
///
/// The restored store's revision jumps ahead and everything before is compacted: every watcher and every
/// reader of pages starts over, and no write can mistake an old revision for a new one.
///
/// # Errors
/// [`Error::InUse`] if a server runs on `to`; as [`verify`] for `from`.
pub fn restore(from: &Path, to: &Path) -> Result<()> {
    const OPERATION: &str = "restore the store";
    let _lock = Lock::acquire(to)?;
    let source = verified(from)?;
    let partial = Partial::copy(&source, to, OPERATION, |copy| {
        let jump = format!(
            "UPDATE meta SET value = (SELECT value FROM meta WHERE name = 'revision') + {RESTORE_GAP}
                WHERE name IN ('compacted', 'revision')"
        );
        copy.conn.execute_batch(&jump).map_err(copy.explain(OPERATION))
    })?;
    if to.exists() {
        set_aside(to).map_err(io_error(OPERATION, to))?;
    }
    partial.rename(to, OPERATION)
}

/// Keeps the old store, and above all takes its log away: SQLite would play it into the restored file.
/// `to` itself stays until it is replaced, so that a crash in between never leaves an empty store.
fn set_aside(to: &Path) -> io::Result<()> {
    // A healthy store takes its log in when it is closed, a damaged one keeps it; either is set aside.
    if let Ok(old) = Db::connect(to, OpenFlags::SQLITE_OPEN_READ_WRITE) {
        let take_in = || {
            // Not worth waiting for: what cannot be taken in is set aside as well.
            old.conn.busy_timeout(Duration::ZERO)?;
            old.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        };
        if let Err(error) = take_in() {
            tracing::warn!(path = %to.display(), %error, "the replaced store is damaged; keeping its log beside it");
        }
    }
    let before = beside(to, "before-restore");
    remove_if_there(&before)?;
    fs::hard_link(to, &before)?;
    let (log, kept_log) = (with_suffix(to, "-wal"), with_suffix(&before, "-wal"));
    remove_if_there(&kept_log)?;
    if log.exists() {
        fs::rename(log, kept_log)?;
    }
    remove_if_there(&with_suffix(to, "-shm"))
}

/// A copy that is not yet in its place; removed if it never gets there.
struct Partial {
    path: PathBuf,
    placed: bool,
}

impl Partial {
    /// Copies `source` to beside `target`, changes the copy, and brings it to disk.
    fn copy(
        source: &Db,
        target: &Path,
        operation: &'static str,
        change: impl FnOnce(&Db) -> Result<()>,
    ) -> Result<Partial> {
        let path = beside(target, "partial");
        remove_if_there(&path).map_err(io_error(operation, &path))?;
        super::db::create_private(&path)?;
        let partial = Partial { path, placed: false };
        let mut copy = Db::connect(&partial.path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let done = Backup::new(&source.conn, &mut copy.conn)
            // All pages in one step: the source's writer is not held up, and the copy is of one moment.
            .and_then(|backup| backup.step(-1))
            .map_err(|error| super::db::explain(&partial.path, operation, &error))?;
        if done != StepResult::Done {
            return Err(Error::Busy { operation, path: source.path.clone() });
        }
        change(&copy)?;
        // One file without a log.
        copy.conn
            .pragma_update_and_check(None, "journal_mode", "delete", |_| Ok(()))
            .map_err(copy.explain(operation))?;
        drop(copy);
        File::open(&partial.path)
            .and_then(|file| file.sync_all())
            .map_err(io_error(operation, &partial.path))?;
        Ok(partial)
    }

    fn rename(mut self, target: &Path, operation: &'static str) -> Result<()> {
        fs::rename(&self.path, target).map_err(io_error(operation, target))?;
        self.placed = true;
        let folder =
            target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(io_error(operation, folder))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.placed
            && let Err(error) = remove_if_there(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "removing an unfinished copy");
        }
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn io_error(operation: &'static str, path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.to_owned();
    move |error| {
        if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            return Error::Full { operation, path: path.clone() };
        }
        Error::Storage { operation, path: path.clone(), detail: error.to_string() }
    }
}
