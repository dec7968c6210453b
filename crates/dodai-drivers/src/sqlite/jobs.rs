//! Jobs of apps in a file of their own, which is made with the first job and not before.
//!
//! The file is the truth: nothing of it is kept in memory, so several sidecars of one app may share it. Of these the one
//! that holds the lock file beside it runs the jobs; the system lets go of the lock when a process is killed.

use std::fs::{DirBuilder, File as Plain, Permissions, TryLockError};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use dodai_capability::Answer;
use dodai_capability::fault::{Fault, Kind};
use dodai_capability::jobs::{
    Data, Due, Error, FailurePolicy, Hold, Holds, Job, Last, Progress, Record, Store, Which,
};
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use tokio::sync::OnceCell;

use super::file::{Access, Durability, Failure, Files, Place, Tuning};

/// How the tables look; a file of a later version is not touched.
const VERSION: i64 = 2;
const TUNING: Tuning = Tuning { busy_timeout: Duration::from_secs(2), wal: true };
const TIMEOUT: Duration = Duration::from_secs(20);
/// What a mode allows to others than the owner.
const FOR_OTHERS: u32 = 0o077;

const COLUMNS: &str = "id, name, schedule, due_time, ttl, repeats, retry_ms, retries, json, type_url, data, \
    expires_ms, tick_ms, due_ms, ticks, failures, last_ms, problem, created_ms";
/// The same without what a job brings.
const BARE: &str = "id, name, schedule, due_time, ttl, repeats, retry_ms, retries, NULL, NULL, NULL, \
    expires_ms, tick_ms, due_ms, ticks, failures, last_ms, problem, created_ms";

/// Jobs in a file.
pub struct Jobs {
    path: PathBuf,
    is_shared: bool,
    files: Files,
    access: OnceCell<Access>,
    holds: Holds,
}

impl Jobs {
    /// Jobs in the file `path`. Nothing is opened yet. With `is_shared` other processes may use it too; otherwise
    /// its folder is this process' alone.
    pub fn new(path: PathBuf, is_shared: bool) -> Jobs {
        Jobs { path, is_shared, files: Files::default(), access: OnceCell::new(), holds: Holds::default() }
    }

    async fn open(&self) -> Result<&Access, Fault> {
        self.access
            .get_or_try_init(|| async {
                if let Some(folder) = self.path.parent() {
                    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
                    made.map_err(|error| self.fault("making its folder", error))?;
                }
                // SQLite gives the files beside it the same mode.
                let made = Plain::options().create(true).append(true).mode(0o600).open(&self.path);
                made.map_err(|error| self.fault("making the file", error))?;
                for beside in ["", "-wal", "-shm"] {
                    let mut path = self.path.clone().into_os_string();
                    path.push(beside);
                    make_private(path.as_ref());
                }
                let file = self.files.open(&Place::File(self.path.clone()), TUNING).await?;
                let access = Access::new(file, TIMEOUT);
                let name = self.path.display().to_string();
                access
                    .write("making the tables of jobs", Durability::Power, move |connection| {
                        prepare(connection, &name)
                    })
                    .await?;
                Ok(access)
            })
            .await
    }

    /// The file, if there are jobs.
    async fn existing(&self) -> Result<Option<&Access>, Fault> {
        // A look at a folder of ours: as short as the answer of the file itself.
        if self.access.get().is_none() && !self.path.exists() {
            return Ok(None);
        }
        self.open().await.map(Some)
    }

    fn take(&self, app: &str) -> Result<Option<Hold>, Fault> {
        if !self.is_shared {
            return Ok(self.holds.take(app));
        }
        // Without jobs nothing is made, not even a lock.
        if !self.path.exists() {
            return Ok(None);
        }
        let Some(hold) = self.holds.take(app) else { return Ok(None) };
        let path = self.path.with_extension("lock");
        let opened = Plain::options().create(true).truncate(false).write(true).mode(0o600).open(path);
        let file = opened.map_err(|error| self.fault("opening its lock", error))?;
        make_private(&self.path.with_extension("lock"));
        match file.try_lock() {
            Ok(()) => Ok(Some(hold.with(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(self.fault("locking it", error)),
        }
    }

    fn fault(&self, what: &str, error: std::io::Error) -> Fault {
        let what =
            format!("jobs in {}: {what} failed; see that this user may write there", self.path.display());
        Fault::new(Kind::Unavailable, what).because(error)
    }
}

/// Takes from others what they may do with a file, which may be older than this rule. Where that is somebody else's to
/// say it stays, with a warning.
fn make_private(path: &Path) {
    let Ok(about) = std::fs::metadata(path) else { return };
    let mode = about.permissions().mode();
    if mode & FOR_OTHERS == 0 {
        return;
    }
    if let Err(error) = std::fs::set_permissions(path, Permissions::from_mode(mode & !FOR_OTHERS)) {
        let path = path.display();
        tracing::warn!("others may look at the jobs in {path}, and that cannot be changed: {error}");
    }
}

fn prepare(connection: &Connection, name: &str) -> Result<(), Failure<Fault>> {
    let version: i64 = connection.query_row("PRAGMA user_version", (), |row| row.get(0))?;
    if version > VERSION {
        let what =
            format!("{name} was written by a later version of Dodai; use that one, or move the file away");
        return Err(Failure::Refused(Fault::new(Kind::Unsupported, what)));
    }
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS jobs (
             app TEXT NOT NULL,
             name TEXT NOT NULL,
             id TEXT NOT NULL,
             schedule TEXT,
             due_time TEXT,
             ttl TEXT,
             repeats INTEGER,
             retry_ms INTEGER,
             retries INTEGER,
             json TEXT,
             type_url TEXT,
             data BLOB,
             expires_ms INTEGER,
             tick_ms INTEGER NOT NULL,
             due_ms INTEGER NOT NULL,
             ticks INTEGER NOT NULL,
             failures INTEGER NOT NULL,
             last_ms INTEGER,
             problem TEXT,
             created_ms INTEGER NOT NULL DEFAULT 0,
             PRIMARY KEY (app, name)
         );",
    )?;
    if version == 1 {
        connection.execute_batch(
            "ALTER TABLE jobs ADD COLUMN created_ms INTEGER NOT NULL DEFAULT 0; DROP INDEX jobs_due;",
        )?;
    }
    // All that looking for what is due needs, without the data of jobs.
    connection.execute_batch(
        "CREATE INDEX IF NOT EXISTS jobs_due ON jobs (app, due_ms, name); PRAGMA user_version = 2;",
    )?;
    Ok(())
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

fn read(row: &Row<'_>) -> rusqlite::Result<Record> {
    let retry: Option<i64> = row.get(6)?;
    let policy = retry.map_or(Ok(FailurePolicy::Drop), |retry| {
        let interval = Duration::from_millis(u64::try_from(retry).unwrap_or(0));
        row.get(7).map(|retries| FailurePolicy::Constant { interval, retries })
    })?;
    let (json, type_url, value): (Option<String>, Option<String>, Option<Vec<u8>>) =
        (row.get(8)?, row.get(9)?, row.get(10)?);
    let any = type_url.map(|type_url| Data::Any { type_url, value: Bytes::from(value.unwrap_or_default()) });
    let last_ms: Option<i64> = row.get(16)?;
    let last = last_ms.map(|at_ms| row.get(17).map(|problem| Last { at_ms, problem })).transpose()?;
    Ok(Record {
        id: row.get(0)?,
        job: Job {
            name: row.get(1)?,
            schedule: row.get(2)?,
            due_time: row.get(3)?,
            ttl: row.get(4)?,
            repeats: row.get(5)?,
            policy,
            data: json.map(Data::Json).or(any),
        },
        expires_ms: row.get(11)?,
        progress: Progress {
            tick_ms: row.get(12)?,
            due_ms: row.get(13)?,
            ticks: row.get(14)?,
            failures: row.get(15)?,
            last,
        },
        created_ms: row.get(18)?,
    })
}

fn insert(connection: &Connection, app: &str, record: &Record) -> rusqlite::Result<()> {
    let Record { id, job, created_ms, expires_ms, progress } = record;
    let (retry_ms, retries) = match job.policy {
        FailurePolicy::Drop => (None, None),
        FailurePolicy::Constant { interval, retries } => (Some(millis(interval)), retries),
    };
    let (json, type_url, data) = match &job.data {
        None => (None, None, None),
        Some(Data::Json(text)) => (Some(text), None, None),
        Some(Data::Any { type_url, value }) => (None, Some(type_url), Some(&value[..])),
    };
    let sql = format!(
        "INSERT OR REPLACE INTO jobs (app, {COLUMNS}) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, NULL, NULL, ?18)"
    );
    connection.prepare_cached(&sql)?.execute(params![
        app,
        id,
        job.name,
        job.schedule,
        job.due_time,
        job.ttl,
        job.repeats,
        retry_ms,
        retries,
        json,
        type_url,
        data,
        expires_ms,
        progress.tick_ms,
        progress.due_ms,
        progress.ticks,
        progress.failures,
        created_ms,
    ])?;
    Ok(())
}

/// Texts of SQLite are compared byte by byte, so what begins with a prefix lies together.
fn delete(connection: &Connection, app: &str, which: &Which) -> rusqlite::Result<()> {
    let (sql, text) = match which {
        Which::Name(name) => ("DELETE FROM jobs WHERE app = ?1 AND name = ?2", name),
        Which::Prefix(prefix) => {
            ("DELETE FROM jobs WHERE app = ?1 AND substr(name, 1, length(?2)) = ?2", prefix)
        }
    };
    connection.prepare_cached(sql)?.execute((app, text))?;
    Ok(())
}

impl Store for Jobs {
    fn put(&self, app: &str, record: Record, overwrite: bool, most: usize) -> Answer<'_, Result<(), Error>> {
        let app = app.to_owned();
        let work = move |connection: &Connection| -> Result<(), Failure<Error>> {
            let name = &record.job.name;
            let is_there = connection
                .prepare_cached("SELECT 1 FROM jobs WHERE app = ?1 AND name = ?2")?
                .exists((&app, name))?;
            if is_there && !overwrite {
                return Err(Failure::Refused(Error::Exists(name.clone())));
            }
            let count = "SELECT count(*) FROM jobs WHERE app = ?1";
            let count: i64 = connection.prepare_cached(count)?.query_row([&app], |row| row.get(0))?;
            if !is_there && usize::try_from(count).is_ok_and(|count| count >= most) {
                return Err(Failure::Refused(Error::Full(most)));
            }
            Ok(insert(connection, &app, &record)?)
        };
        Answer::later(async move { self.open().await?.write("keeping a job", Durability::Power, work).await })
    }

    fn get(&self, app: &str, name: &str) -> Answer<'_, Result<Option<Record>, Fault>> {
        let (app, name) = (app.to_owned(), name.to_owned());
        let work = move |connection: &Connection| -> Result<Option<Record>, Failure<Fault>> {
            let sql = format!("SELECT {COLUMNS} FROM jobs WHERE app = ?1 AND name = ?2");
            Ok(connection.prepare_cached(&sql)?.query_row((app, name), read).optional()?)
        };
        Answer::later(async move {
            match self.existing().await? {
                Some(access) => access.read("reading a job", work).await,
                None => Ok(None),
            }
        })
    }

    fn list(&self, app: &str, data: Option<usize>) -> Answer<'_, Result<Vec<Record>, Error>> {
        let app = app.to_owned();
        let work = move |connection: &Connection| -> Result<Vec<Record>, Failure<Error>> {
            if let Some(most) = data {
                // Of a text that is the length in bytes.
                let sum = ["name", "schedule", "due_time", "ttl", "json", "type_url", "data"]
                    .map(|column| format!("total(length(CAST({column} AS BLOB)))"))
                    .join(" + ");
                let sum = &format!("SELECT {sum} FROM jobs WHERE app = ?1");
                let sum: f64 = connection.prepare_cached(sum)?.query_row([&app], |row| row.get(0))?;
                if sum > most as f64 {
                    return Err(Failure::Refused(Error::TooLarge(most)));
                }
            }
            let columns = if data.is_some() { COLUMNS } else { BARE };
            let sql = format!("SELECT {columns} FROM jobs WHERE app = ?1 ORDER BY name");
            Ok(connection.prepare_cached(&sql)?.query_map([app], read)?.collect::<Result<_, _>>()?)
        };
        Answer::later(async move {
            match self.existing().await? {
                Some(access) => access.read("listing jobs", work).await,
                None => Ok(Vec::new()),
            }
        })
    }

    fn apps(&self) -> Answer<'_, Result<Vec<String>, Fault>> {
        let work = |connection: &Connection| -> Result<Vec<String>, Failure<Fault>> {
            let mut apps = connection.prepare_cached("SELECT DISTINCT app FROM jobs ORDER BY app")?;
            Ok(apps.query_map((), |row| row.get(0))?.collect::<Result<_, _>>()?)
        };
        Answer::later(async move {
            match self.existing().await? {
                Some(access) => access.read("listing apps with jobs", work).await,
                None => Ok(Vec::new()),
            }
        })
    }

    fn delete(&self, app: &str, which: Which) -> Answer<'_, Result<(), Fault>> {
        let app = app.to_owned();
        let work = move |connection: &Connection| -> Result<(), Failure<Fault>> {
            Ok(delete(connection, &app, &which)?)
        };
        Answer::later(async move {
            match self.existing().await? {
                Some(access) => access.write("deleting jobs", Durability::Power, work).await,
                None => Ok(()),
            }
        })
    }

    fn due(&self, app: &str, now_ms: i64, most: usize, but: Vec<String>) -> Answer<'_, Result<Due, Fault>> {
        let app = app.to_owned();
        let work = move |connection: &Connection| -> Result<Due, Failure<Fault>> {
            let sql =
                "SELECT rowid, name FROM jobs WHERE app = ?1 AND due_ms <= ?2 ORDER BY due_ms, name LIMIT ?3";
            let limit = i64::try_from(most.saturating_add(but.len())).unwrap_or(i64::MAX);
            let mut due = connection.prepare_cached(sql)?;
            let due = due.query_map((&app, now_ms, limit), |row| Ok((row.get(0)?, row.get(1)?)))?;
            let due = due.collect::<Result<Vec<(i64, String)>, _>>()?;
            let mut whole =
                connection.prepare_cached(&format!("SELECT {COLUMNS} FROM jobs WHERE rowid = ?1"))?;
            let starts = due.into_iter().filter(|(_, name)| !but.contains(name)).take(most);
            let now = starts.map(|(row, _)| whole.query_row([row], read)).collect::<Result<_, _>>()?;
            let next = "SELECT min(due_ms) FROM jobs WHERE app = ?1 AND due_ms > ?2";
            let next_ms = connection.prepare_cached(next)?.query_row((&app, now_ms), |row| row.get(0))?;
            Ok(Due { now, next_ms })
        };
        Answer::later(async move {
            match self.existing().await? {
                Some(access) => access.read("looking for jobs that are due", work).await,
                None => Ok(Due::default()),
            }
        })
    }

    fn settle(
        &self,
        app: &str,
        record: &Record,
        progress: Option<Progress>,
    ) -> Answer<'_, Result<(), Fault>> {
        let (app, name, id) = (app.to_owned(), record.job.name.clone(), record.id.clone());
        let Progress { tick_ms: tick, ticks: over, failures: failed, .. } = record.progress;
        let work = move |connection: &Connection| -> Result<(), Failure<Fault>> {
            let same = "app = ?1 AND name = ?2 AND id = ?3 AND tick_ms = ?4 AND ticks = ?5 AND failures = ?6";
            let Some(Progress { tick_ms, due_ms, ticks, failures, last }) = progress else {
                let sql = format!("DELETE FROM jobs WHERE {same}");
                connection.prepare_cached(&sql)?.execute((app, name, id, tick, over, failed))?;
                return Ok(());
            };
            let (last_ms, problem) = last.map(|last| (last.at_ms, last.problem)).unzip();
            let problem = problem.flatten();
            let sql = format!(
                "UPDATE jobs SET tick_ms = ?7, due_ms = ?8, ticks = ?9, failures = ?10, last_ms = ?11, \
                 problem = ?12 WHERE {same}"
            );
            let now = params![
                app, name, id, tick, over, failed, tick_ms, due_ms, ticks, failures, last_ms, problem
            ];
            connection.prepare_cached(&sql)?.execute(now)?;
            Ok(())
        };
        Answer::later(async move {
            match self.existing().await? {
                Some(access) => access.write("settling a job", Durability::Power, work).await,
                None => Ok(()),
            }
        })
    }

    fn hold(&self, app: &str) -> Answer<'_, Result<Option<Hold>, Fault>> {
        Answer::ready(self.take(app))
    }

    fn is_shared(&self) -> bool {
        self.is_shared
    }
}
