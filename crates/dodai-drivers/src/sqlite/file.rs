//! One database file: a thread that writes, two that read, and bounded queues before them.
//!
//! Writes that wait together are committed together; each runs in its own savepoint, so one that fails takes
//! nothing with it. Callers never block: they await the answer, up to their timeout. Rejected: a pool of blocking
//! tasks, where writers wait for each other inside SQLite and starve the pool.

mod job;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use dodai_capability::Answer;
use dodai_capability::fault::{Fault, Kind};
use rusqlite::{Connection, ErrorCode, OpenFlags};
use tokio::sync::{mpsc, oneshot};

use self::job::{Job, Task};

/// How many requests may wait for one thread; more wait at the caller.
const QUEUE: usize = 1024;
/// How many writes are committed together at most.
pub const BATCH: usize = 256;
/// How many threads read.
const READERS: usize = 2;
/// Our threads call SQLite and little else.
const STACK: usize = 512 << 10;

/// Where a database is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a file.
    File(PathBuf),
    /// In memory, for one component alone.
    Memory,
}

/// How its connections are set up. The first component that opens a file decides.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// How long to wait for another process that writes.
    pub busy_timeout: Duration,
    /// Whether readers go on while somebody writes; not on network file systems.
    pub wal: bool,
}

/// The files that are open, so that components share them.
#[derive(Default)]
pub struct Files(Mutex<HashMap<PathBuf, Weak<File>>>);

/// An open database. Its threads end when the last handle is dropped.
pub struct File {
    name: String,
    writer: mpsc::Sender<Box<dyn Job>>,
    // None for a database in memory: only its own connection sees it.
    readers: Vec<mpsc::Sender<Box<dyn Job>>>,
}

/// Why work on a connection failed.
pub enum Failure<E> {
    /// SQLite says so.
    Sql(rusqlite::Error),
    /// The work itself says so; what it did is undone.
    Refused(E),
}

impl<E> From<rusqlite::Error> for Failure<E> {
    fn from(error: rusqlite::Error) -> Failure<E> {
        Failure::Sql(error)
    }
}

/// How durable a write must be once it is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Survives a crash of the process.
    Process,
    /// Survives a loss of power too.
    Power,
}

impl Files {
    /// Opens a database, or returns it if it is open.
    ///
    /// # Errors
    /// It cannot be opened: the message names the file.
    pub async fn open(&self, place: &Place, tuning: Tuning) -> Result<Arc<File>, Fault> {
        let path = match place {
            Place::Memory => return File::start(place.clone(), tuning).await.map(Arc::new),
            Place::File(path) => {
                let path = path.clone();
                let looked_up = tokio::task::spawn_blocking(move || canonical(&path)).await;
                looked_up
                    .map_err(|error| Fault::new(Kind::Closed, "sqlite: the runtime ends").because(error))??
            }
        };
        if let Some(open) = self.known(&path) {
            return Ok(open);
        }
        let file = Arc::new(File::start(Place::File(path.clone()), tuning).await?);
        // Two may have opened it at once; whoever is second uses what the first has put here.
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        files.retain(|_, file| file.strong_count() > 0);
        if let Some(open) = files.get(&path).and_then(Weak::upgrade) {
            return Ok(open);
        }
        files.insert(path, Arc::downgrade(&file));
        Ok(file)
    }

    fn known(&self, path: &Path) -> Option<Arc<File>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(path).and_then(Weak::upgrade)
    }
}

/// The one name of a file that may not exist yet; makes its folder.
fn canonical(path: &Path) -> Result<PathBuf, Fault> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let wrong = |what: &str, error: std::io::Error| {
        let what =
            format!("sqlite: {what} {} failed; create it, or change connectionString", folder.display());
        Fault::new(Kind::Unavailable, what).because(error)
    };
    std::fs::create_dir_all(folder).map_err(|error| wrong("creating the folder", error))?;
    let folder = folder.canonicalize().map_err(|error| wrong("looking up the folder", error))?;
    let name = path.file_name().ok_or_else(|| {
        Fault::new(Kind::Invalid, format!("sqlite: connectionString `{}` names no file", path.display()))
    })?;
    Ok(folder.join(name))
}

impl File {
    async fn start(place: Place, tuning: Tuning) -> Result<File, Fault> {
        let name = match &place {
            Place::File(path) => path.display().to_string(),
            Place::Memory => ":memory:".to_owned(),
        };
        let writer = spawn("sqlite-write", name.clone(), place.clone(), tuning, Role::Write).await?;
        let mut readers = Vec::new();
        if place != Place::Memory {
            for _ in 0..READERS {
                readers.push(spawn("sqlite-read", name.clone(), place.clone(), tuning, Role::Read).await?);
            }
        }
        Ok(File { name, writer, readers })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Write,
    Read,
}

/// Starts a thread that opens a connection and works off its queue.
async fn spawn(
    thread: &str,
    name: String,
    place: Place,
    tuning: Tuning,
    role: Role,
) -> Result<mpsc::Sender<Box<dyn Job>>, Fault> {
    let (jobs, queue) = mpsc::channel(QUEUE);
    let (opened, outcome) = oneshot::channel();
    let work = move || match connect(&place, tuning, role) {
        Err(error) => {
            // The opener may have given up waiting; then nobody wants to know.
            let _gone = opened.send(Err(fault(&name, "opening the file", &error)));
        }
        Ok(connection) => {
            if opened.send(Ok(())).is_ok() {
                match role {
                    Role::Write => job::write_loop(&name, &connection, queue),
                    Role::Read => job::read_loop(&name, &connection, queue),
                }
            }
        }
    };
    std::thread::Builder::new().name(thread.to_owned()).stack_size(STACK).spawn(work).map_err(|error| {
        Fault::new(Kind::Unavailable, "sqlite: no thread could be started; raise the limit of tasks")
            .because(error)
    })?;
    let ended = || Fault::new(Kind::Unavailable, "sqlite: the thread ended while it opened the file");
    outcome.await.map_err(|_| ended())??;
    Ok(jobs)
}

fn connect(place: &Place, tuning: Tuning, role: Role) -> rusqlite::Result<Connection> {
    let connection = match place {
        Place::Memory => Connection::open_in_memory()?,
        Place::File(path) => {
            let access = match role {
                Role::Write => OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
                Role::Read => OpenFlags::SQLITE_OPEN_READ_ONLY,
            };
            Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?
        }
    };
    connection.busy_timeout(tuning.busy_timeout)?;
    connection.set_prepared_statement_cache_capacity(64);
    if role == Role::Write && *place != Place::Memory {
        let mode = if tuning.wal { "WAL" } else { "DELETE" };
        set_mode(&connection, mode, tuning.busy_timeout)?;
        connection.pragma_update(None, "synchronous", "FULL")?;
    }
    Ok(connection)
}

/// Sets the journal mode. SQLite does not wait here, as it does for writes, for somebody who opens the file at
/// the same time; so we do.
fn set_mode(connection: &Connection, mode: &str, patience: Duration) -> rusqlite::Result<()> {
    let end = Instant::now() + patience;
    loop {
        match connection.pragma_update_and_check(None, "journal_mode", mode, |_| Ok(())) {
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && Instant::now() < end =>
            {
                std::thread::park_timeout(Duration::from_millis(5));
            }
            done => return done,
        }
    }
}

/// What went wrong in SQLite, in the words of a user.
fn fault(file: &str, what: &str, error: &rusqlite::Error) -> Fault {
    let code = error.sqlite_error_code();
    let is = |codes: &[ErrorCode]| code.is_some_and(|code| codes.contains(&code));
    let (kind, remedy) = if is(&[ErrorCode::DatabaseBusy, ErrorCode::DatabaseLocked]) {
        (Kind::Busy, "; another process writes to it: try again, or raise busyTimeout")
    } else if is(&[ErrorCode::DiskFull]) {
        (Kind::Full, "; the disk is full: make room, reads go on meanwhile")
    } else if is(&[ErrorCode::DatabaseCorrupt, ErrorCode::NotADatabase]) {
        (Kind::Corrupt, "; the file is damaged or no database: restore it from a copy")
    } else if is(&[ErrorCode::TooBig]) {
        (Kind::Invalid, "; the value is too large for SQLite")
    } else if is(&[ErrorCode::CannotOpen, ErrorCode::PermissionDenied, ErrorCode::ReadOnly]) {
        (Kind::Unavailable, "; see that the file and its folder may be read and written by this user")
    } else {
        (Kind::Unavailable, "")
    };
    Fault::new(kind, format!("sqlite {file}: {what} failed: {error}{remedy}"))
}

/// A component's way to its file.
#[derive(Clone)]
pub struct Access {
    file: Arc<File>,
    timeout: Duration,
}

impl Access {
    /// Access that waits up to `timeout` for each answer.
    pub fn new(file: Arc<File>, timeout: Duration) -> Access {
        Access { file, timeout }
    }

    /// Does `work` in a transaction on the thread that writes. When the answer is `Ok`, it is committed.
    pub fn write<T, E, F>(
        &self,
        what: impl Into<String>,
        durability: Durability,
        work: F,
    ) -> Answer<'static, Result<T, E>>
    where
        T: Send + 'static,
        E: From<Fault> + Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Failure<E>> + Send + 'static,
    {
        self.ask(self.file.writer.clone(), what.into(), durability, work)
    }

    /// Does `work` on a thread that reads.
    pub fn read<T, E, F>(&self, what: impl Into<String>, work: F) -> Answer<'static, Result<T, E>>
    where
        T: Send + 'static,
        E: From<Fault> + Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Failure<E>> + Send + 'static,
    {
        let freest = self.file.readers.iter().max_by_key(|reader| reader.capacity());
        self.ask(freest.unwrap_or(&self.file.writer).clone(), what.into(), Durability::Process, work)
    }

    fn ask<T, E, F>(
        &self,
        queue: mpsc::Sender<Box<dyn Job>>,
        what: String,
        durability: Durability,
        work: F,
    ) -> Answer<'static, Result<T, E>>
    where
        T: Send + 'static,
        E: From<Fault> + Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Failure<E>> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let task: Box<dyn Job> = Box::new(Task::new(what.clone(), durability, work, reply));
        let access = self.clone();
        Answer::later(async move {
            let name = &access.file.name;
            let asked = async {
                queue.send(task).await.ok()?;
                answer.await.ok()
            };
            match tokio::time::timeout(access.timeout, asked).await {
                Ok(Some(outcome)) => outcome,
                Ok(None) => {
                    Err(Fault::new(Kind::Closed, format!("sqlite {name}: {what}: its thread has ended"))
                        .into())
                }
                Err(_) => {
                    let waited = access.timeout;
                    let what = format!(
                        "sqlite {name}: {what} took longer than {waited:?}; raise timeout if the disk is slow"
                    );
                    Err(Fault::new(Kind::Timeout, what).into())
                }
            }
        })
    }

    /// Whether the file answers.
    pub fn ping(&self) -> Answer<'static, Result<(), Fault>> {
        self.read("asking for a sign of life", |connection| {
            Ok(connection.query_row("SELECT 1", (), |_| Ok(()))?)
        })
    }
}

/// Awaits all, starting them in order: writes among them are committed together.
pub async fn all<T>(answers: Vec<Answer<'_, T>>) -> Vec<T> {
    let mut waiting: Vec<_> = answers.into_iter().map(Some).collect();
    let mut outcomes: Vec<_> = waiting.iter().map(|_| None).collect();
    std::future::poll_fn(|cx| {
        let mut pending = false;
        for (answer, outcome) in waiting.iter_mut().zip(&mut outcomes) {
            let Some(waits) = answer else { continue };
            match std::pin::Pin::new(waits).poll(cx) {
                std::task::Poll::Ready(value) => {
                    *outcome = Some(value);
                    *answer = None;
                }
                std::task::Poll::Pending => pending = true,
            }
        }
        if pending { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
    })
    .await;
    outcomes.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests;
