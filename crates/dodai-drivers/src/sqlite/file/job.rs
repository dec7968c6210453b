//! Jobs for a file's threads, and the loops that work them off.

use std::panic::{AssertUnwindSafe, catch_unwind};

use dodai_capability::fault::{Fault, Kind};
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::{BATCH, Durability, Failure, fault};

/// Something to do on a connection. First it runs, then, when it is clear whether that stays, it answers.
pub trait Job: Send {
    /// How durable it must be.
    fn durability(&self) -> Durability;
    /// Whether anybody still wants it.
    fn is_wanted(&self) -> bool;
    /// Does it; returns whether what it did is to stay.
    fn run(&mut self, file: &str, connection: &Connection) -> bool;
    /// Answers: what it found itself, or why what it did has not stayed.
    fn finish(self: Box<Self>, undone: Option<Undone<'_>>);
}

/// Why the work of a whole batch was undone.
pub struct Undone<'a> {
    file: &'a str,
    error: &'a rusqlite::Error,
}

/// A job made of a closure and the caller's end of the line.
pub struct Task<T, E, F> {
    what: String,
    durability: Durability,
    work: Option<F>,
    outcome: Option<Result<T, E>>,
    reply: oneshot::Sender<Result<T, E>>,
}

impl<T, E, F> Task<T, E, F> {
    /// A job that has not run.
    pub fn new(
        what: String,
        durability: Durability,
        work: F,
        reply: oneshot::Sender<Result<T, E>>,
    ) -> Task<T, E, F> {
        Task { what, durability, work: Some(work), outcome: None, reply }
    }
}

impl<T, E, F> Job for Task<T, E, F>
where
    T: Send,
    E: From<Fault> + Send,
    F: FnOnce(&Connection) -> Result<T, Failure<E>> + Send,
{
    fn durability(&self) -> Durability {
        self.durability
    }

    fn is_wanted(&self) -> bool {
        !self.reply.is_closed()
    }

    fn run(&mut self, file: &str, connection: &Connection) -> bool {
        let Some(work) = self.work.take() else { return false };
        // One broken job must not end the thread that serves all others.
        let outcome = match catch_unwind(AssertUnwindSafe(|| work(connection))) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(Failure::Refused(error))) => Err(error),
            Ok(Err(Failure::Sql(error))) => Err(fault(file, &self.what, &error).into()),
            Err(_) => {
                let what = format!("sqlite {file}: {} failed: our code broke off", self.what);
                Err(Fault::new(Kind::Corrupt, what).into())
            }
        };
        let stays = outcome.is_ok();
        self.outcome = Some(outcome);
        stays
    }

    fn finish(self: Box<Self>, undone: Option<Undone<'_>>) {
        let outcome = match (undone, self.outcome) {
            (None | Some(_), Some(Err(error))) => Err(error),
            (Some(undone), _) => Err(fault(undone.file, &self.what, undone.error).into()),
            (None, Some(Ok(value))) => Ok(value),
            (None, None) => return,
        };
        // The caller may have given up waiting.
        let _gone = self.reply.send(outcome);
    }
}

/// Reads until the last handle is gone.
pub fn read_loop(file: &str, connection: &Connection, mut queue: mpsc::Receiver<Box<dyn Job>>) {
    while let Some(mut job) = queue.blocking_recv() {
        if job.is_wanted() {
            job.run(file, connection);
            job.finish(None);
        }
    }
}

/// Writes until the last handle is gone, as many together as wait.
pub fn write_loop(file: &str, connection: &Connection, mut queue: mpsc::Receiver<Box<dyn Job>>) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut synced = Durability::Power;
    while queue.blocking_recv_many(&mut batch, BATCH) > 0 {
        batch.retain(|job| job.is_wanted());
        let needed = if batch.iter().any(|job| job.durability() == Durability::Power) {
            Durability::Power
        } else {
            Durability::Process
        };
        if needed != synced && !batch.is_empty() {
            let level = if needed == Durability::Power { "FULL" } else { "NORMAL" };
            // If this fails the level stays as it is, and the commit below is the one to tell.
            if connection.pragma_update(None, "synchronous", level).is_ok() {
                synced = needed;
            }
        }
        while !batch.is_empty() {
            let rest = commit(file, connection, std::mem::take(&mut batch));
            batch = rest;
        }
    }
}

/// Commits a batch; returns what it did not get to, because SQLite undid the transaction half-way.
fn commit(file: &str, connection: &Connection, batch: Vec<Box<dyn Job>>) -> Vec<Box<dyn Job>> {
    let mut done = Vec::with_capacity(batch.len());
    let mut rest = batch.into_iter();
    let outcome = run(file, connection, &mut rest, &mut done);
    match outcome {
        Ok(()) => done.into_iter().for_each(|job| job.finish(None)),
        Err(error) => {
            if !connection.is_autocommit() {
                // Nothing can be done if even this fails: the next BEGIN will say so.
                let _told_later = connection.execute_batch("ROLLBACK");
            }
            let is_first = done.is_empty();
            done.into_iter().for_each(|job| job.finish(Some(Undone { file, error: &error })));
            if is_first {
                // Not even begun: the same would happen to all others now.
                rest.by_ref().for_each(|job| job.finish(Some(Undone { file, error: &error })));
            }
        }
    }
    rest.collect()
}

fn run(
    file: &str,
    connection: &Connection,
    rest: &mut impl Iterator<Item = Box<dyn Job>>,
    done: &mut Vec<Box<dyn Job>>,
) -> rusqlite::Result<()> {
    connection.prepare_cached("BEGIN IMMEDIATE")?.execute(())?;
    for mut job in rest {
        connection.prepare_cached("SAVEPOINT job")?.execute(())?;
        let stays = job.run(file, connection);
        done.push(job);
        if connection.is_autocommit() {
            // A full disk or an I/O error makes SQLite undo everything at once, the jobs before this one too.
            return Err(rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ABORT_ROLLBACK),
                Some("a write in the same transaction failed, all were undone".to_owned()),
            ));
        }
        if !stays {
            connection.prepare_cached("ROLLBACK TO job")?.execute(())?;
        }
        connection.prepare_cached("RELEASE job")?.execute(())?;
    }
    connection.prepare_cached("COMMIT")?.execute(())?;
    Ok(())
}
