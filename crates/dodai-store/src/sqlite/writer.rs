//! The one writer. It takes what is queued, runs all of it in one SQLite transaction, commits (and syncs)
//! once, publishes the events, and then answers everyone: group commit.
//!
//! A request is planned by reading before it writes anything, so a refused one leaves no trace and needs
//! no savepoint. If SQLite fails, the whole batch is rolled back; for lack of space each is then tried alone,
//! so that a small write does not fail because of a large neighbour.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::params;
use tokio::sync::{mpsc, oneshot};

use super::db::Db;
use super::rows::number;
use crate::change::{Action, Cause, Retention};
use crate::error::{Error, Result};
use crate::feed::Hub;
use crate::key_value::{LeaseId, Revision};
use crate::lease::Terms;
use crate::plan::{self, check_readable};
use crate::txn::{Txn, TxnOutcome};
use crate::watch::Event;

/// The most requests in one commit.
const MAX_BATCH: usize = 256;
/// How many rows of old history one step of compaction looks at, between two batches.
const SWEEP_ROWS: i64 = 1000;

/// A request to the writer. All are answered with the revision after them.
pub(crate) enum Write {
    Txn(Txn),
    Grant {
        id: LeaseId,
        ttl: Duration,
    },
    /// Takes back the shortened rest of a lease.
    Renew {
        id: LeaseId,
    },
    EndLease {
        id: LeaseId,
        cause: Cause,
    },
    Compact(Revision),
}

/// A request with whom to answer.
pub(crate) struct Job {
    pub(crate) write: Write,
    pub(crate) answer: oneshot::Sender<Result<TxnOutcome>>,
}

/// Where the store stands, as far as this batch has come.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Head {
    revision: Revision,
    compacted: Revision,
    last_lease: u64,
}

/// The removal of compacted history, done in steps.
struct Sweep {
    below: Revision,
    /// Rows up to this one have been looked at.
    after_id: i64,
    /// A step failed; go on after the next commit that succeeds.
    paused: bool,
}

pub(crate) struct Writer {
    db: Db,
    head: Head,
    sweep: Option<Sweep>,
    hub: Arc<Hub>,
    terms: Arc<Terms>,
    retention: Retention,
}

impl Writer {
    pub(crate) fn new(db: Db, hub: Arc<Hub>, terms: Arc<Terms>, retention: Retention) -> Result<Writer> {
        let last_lease = db.meta("last_lease")?;
        let head = Head { revision: db.revision()?, compacted: db.compacted()?, last_lease };
        let unfinished = db.meta("swept")? < head.compacted.0;
        let sweep = unfinished.then_some(Sweep { below: head.compacted, after_id: 0, paused: false });
        Ok(Writer { db, head, sweep, hub, terms, retention })
    }

    /// Serves the queue until nobody can put anything into it any more.
    pub(crate) fn serve(mut self, mut queue: mpsc::Receiver<Job>) {
        loop {
            let first = if self.is_sweeping() {
                match queue.try_recv() {
                    Ok(job) => Some(job),
                    Err(mpsc::error::TryRecvError::Empty) => None,
                    Err(mpsc::error::TryRecvError::Disconnected) => break,
                }
            } else {
                match queue.blocking_recv() {
                    Some(job) => Some(job),
                    None => break,
                }
            };
            let rest = std::iter::from_fn(|| queue.try_recv().ok());
            let jobs = first.into_iter().chain(rest).take(MAX_BATCH);
            let (writes, answers): (Vec<_>, Vec<_>) = jobs.map(|job| (job.write, job.answer)).unzip();
            if !writes.is_empty() {
                for (answer, outcome) in answers.into_iter().zip(self.run(&writes)) {
                    // Whoever asked may have gone; the write stands nevertheless.
                    let _gone = answer.send(outcome);
                }
            }
            self.sweep_step();
        }
        self.finish();
    }

    /// Runs one request, and all of a compaction that it started.
    pub(crate) fn run_now(&mut self, write: Write) -> Result<TxnOutcome> {
        let outcome = self.attempt(&[write]).and_then(single);
        while self.is_sweeping() {
            self.sweep_step();
        }
        outcome
    }

    /// Runs a batch; one answer for each.
    fn run(&mut self, batch: &[Write]) -> Vec<Result<TxnOutcome>> {
        match self.attempt(batch) {
            Ok(answers) => answers,
            Err(Error::Full { .. }) if batch.len() > 1 => {
                let alone = |write| self.attempt(std::slice::from_ref(write)).and_then(single);
                batch.iter().map(alone).collect()
            }
            Err(error) => batch.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    fn attempt(&mut self, batch: &[Write]) -> Result<Vec<Result<TxnOutcome>>> {
        let before = self.head;
        let mut events = Vec::new();
        match self.transact(batch, &mut events) {
            Ok(answers) => {
                self.committed(before, batch, &answers, events);
                Ok(answers)
            }
            Err(error) => {
                self.head = before;
                if !self.db.conn.is_autocommit()
                    && let Err(error) = self.db.conn.execute_batch("ROLLBACK")
                {
                    tracing::warn!(%error, "rolling back a failed write");
                }
                Err(error)
            }
        }
    }

    /// One transaction. The outer error means that none of it happened.
    fn transact(&mut self, batch: &[Write], events: &mut Vec<Event>) -> Result<Vec<Result<TxnOutcome>>> {
        let before = self.head;
        self.execute("BEGIN IMMEDIATE", [], "begin a write")?;
        let mut answers = Vec::with_capacity(batch.len());
        for write in batch {
            match self.apply(write, events) {
                Err(error) if is_storage(&error) => return Err(error),
                answer => answers.push(answer),
            }
        }
        if let Some(target) = self.retention.compact_to(self.head.revision, self.head.compacted) {
            self.head.compacted = target;
        }
        if self.head != before {
            self.write_head()?;
        }
        if !events.is_empty() {
            let keep = number(self.retention.changes);
            let surplus = "DELETE FROM changes WHERE id <= (SELECT max(id) FROM changes) - ?1";
            self.execute(surplus, [keep], "trim the change log")?;
        }
        self.execute("COMMIT", [], "commit a write")?;
        Ok(answers)
    }

    fn apply(&mut self, write: &Write, events: &mut Vec<Event>) -> Result<TxnOutcome> {
        match write {
            Write::Txn(txn) => {
                let plan = plan::plan(&self.db, txn, self.head.revision.next())?;
                self.record(plan.events, &txn.cause, events)?;
                Ok(TxnOutcome { held: plan.held, revision: self.head.revision, results: plan.results })
            }
            Write::Grant { id, ttl } => {
                self.head.last_lease = self.head.last_lease.max(id.0);
                let ttl_ms = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
                let insert = "INSERT INTO leases (id, ttl_ms) VALUES (?1, ?2)";
                self.execute(insert, params![number(id.0), ttl_ms], "grant a lease")?;
                Ok(self.done())
            }
            Write::Renew { id } => {
                let update = "UPDATE leases SET rest_ms = NULL WHERE id = ?1";
                self.execute(update, [number(id.0)], "keep a lease alive")?;
                Ok(self.done())
            }
            Write::EndLease { id, cause } => {
                let ended = plan::plan_end_of_lease(&self.db, *id, self.head.revision.next())?;
                self.record(ended, cause, events)?;
                self.execute("DELETE FROM leases WHERE id = ?1", [number(id.0)], "end a lease")?;
                Ok(self.done())
            }
            Write::Compact(revision) => {
                check_readable(*revision, Revision::ZERO, self.head.revision)?;
                self.head.compacted = self.head.compacted.max(*revision);
                Ok(TxnOutcome { revision: self.head.compacted, ..self.done() })
            }
        }
    }

    fn done(&self) -> TxnOutcome {
        TxnOutcome { held: true, revision: self.head.revision, results: Vec::new() }
    }

    /// Writes the events of one revision.
    fn record(&mut self, new: Vec<Event>, cause: &Cause, events: &mut Vec<Event>) -> Result<()> {
        if new.is_empty() {
            return Ok(());
        }
        self.head.revision = self.head.revision.next();
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at_ms = i64::try_from(at.as_millis()).unwrap_or(i64::MAX);
        for event in &new {
            self.record_event(event)?;
            let action = match plan::action(event) {
                Action::Create => 0,
                Action::Update => 1,
                Action::Delete => 2,
            };
            self.execute(
                "INSERT INTO changes (revision, key, action, actor, reason, at_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![
                    number(event.revision().0),
                    event.key().as_bytes(),
                    action,
                    cause.actor,
                    cause.reason,
                    at_ms
                ],
                "record a change",
            )?;
        }
        events.extend(new);
        Ok(())
    }

    fn record_event(&self, event: &Event) -> Result<()> {
        const INSERT: &str = "INSERT INTO history (revision, key, value, create_revision, version, lease)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        let key = event.key().as_bytes();
        match event {
            Event::Put { kv, .. } => {
                let lease = kv.lease.map(|lease| number(lease.0));
                let (created, version) = (number(kv.create_revision.0), number(kv.version));
                let row = params![number(kv.mod_revision.0), key, kv.value.as_ref(), created, version, lease];
                self.execute(INSERT, row, "write a key")?;
                let present =
                    "INSERT INTO present (key, history_id, lease) VALUES (?1, last_insert_rowid(), ?2)
                    ON CONFLICT (key) DO UPDATE SET history_id = excluded.history_id, lease = excluded.lease";
                self.execute(present, params![key, lease], "write a key")
            }
            Event::Delete { mod_revision, .. } => {
                let row = params![number(mod_revision.0), key, None::<Vec<u8>>, 0, 0, None::<i64>];
                self.execute(INSERT, row, "delete a key")?;
                self.execute("DELETE FROM present WHERE key = ?1", [key], "delete a key")
            }
        }
    }

    fn write_head(&self) -> Result<()> {
        let Head { revision, compacted, last_lease } = self.head;
        for (name, value) in
            [("revision", revision.0), ("compacted", compacted.0), ("last_lease", last_lease)]
        {
            let update = "UPDATE meta SET value = ?2 WHERE name = ?1";
            self.execute(update, params![name, number(value)], "write the store's state")?;
        }
        Ok(())
    }

    /// Tells the clocks and the watchers, in that order: who sees an event finds the clock right.
    fn committed(
        &mut self,
        before: Head,
        batch: &[Write],
        answers: &[Result<TxnOutcome>],
        events: Vec<Event>,
    ) {
        for (write, _) in batch.iter().zip(answers).filter(|(_, answer)| answer.is_ok()) {
            match write {
                Write::Grant { id, ttl } => self.terms.start(*id, *ttl),
                Write::EndLease { id, .. } => self.terms.forget(*id),
                Write::Txn(_) | Write::Renew { .. } | Write::Compact(_) => {}
            }
        }
        let below = self.head.compacted;
        if below > before.compacted {
            self.hub.compact(below);
            self.sweep = Some(Sweep { below, after_id: 0, paused: false });
        }
        if let Some(sweep) = &mut self.sweep {
            sweep.paused = false;
        }
        self.hub.publish(events, self.head.revision);
    }

    fn is_sweeping(&self) -> bool {
        self.sweep.as_ref().is_some_and(|sweep| !sweep.paused)
    }

    /// Removes some of the compacted history.
    fn sweep_step(&mut self) {
        let Some(sweep) = self.sweep.as_ref().filter(|sweep| !sweep.paused) else { return };
        let (below, after_id) = (sweep.below, sweep.after_id);
        match self.sweep_rows(below, after_id) {
            Ok(Some(last_id)) => {
                self.sweep = Some(Sweep { below, after_id: last_id, paused: false });
            }
            Ok(None) => self.sweep = None,
            Err(error) => {
                tracing::warn!(%error, "removing compacted history; going on after the next write");
                self.sweep = Some(Sweep { below, after_id, paused: true });
            }
        }
    }

    /// Looks at the rows after `after_id`; returns the last of them, or none when all have been seen.
    ///
    /// Of each key the state at `below` stays; a tombstone stays only if it is of that very revision, for
    /// the watcher that starts there.
    fn sweep_rows(&self, below: Revision, after_id: i64) -> Result<Option<i64>> {
        const LAST: &str = "SELECT max(id) FROM
            (SELECT id FROM history WHERE id > ?1 AND revision < ?2 ORDER BY id LIMIT ?3)";
        const REMOVE: &str = "DELETE FROM history WHERE id IN (SELECT h.id FROM history h
            WHERE h.id > ?1 AND h.id <= ?3 AND h.revision < ?2 AND (h.value IS NULL OR EXISTS
                (SELECT 1 FROM history n WHERE n.key = h.key AND n.revision > h.revision AND n.revision <= ?2)))";
        let last: Option<i64> = self
            .db
            .conn
            .prepare_cached(LAST)
            .and_then(|mut statement| {
                statement.query_row(params![after_id, number(below.0), SWEEP_ROWS], |row| row.get(0))
            })
            .map_err(self.db.explain("compact history"))?;
        match last {
            Some(last) => {
                self.execute(REMOVE, params![after_id, number(below.0), last], "compact history")?
            }
            None => {
                let done = "UPDATE meta SET value = ?1 WHERE name = 'swept'";
                self.execute(done, [number(below.0)], "compact history")?;
            }
        }
        Ok(last)
    }

    /// Orderly end: what remains of each lease is kept for the next start.
    pub(crate) fn finish(&self) {
        let write = || {
            self.execute("BEGIN IMMEDIATE", [], "store leases")?;
            for (id, rest) in self.terms.rests() {
                let rest_ms = i64::try_from(rest.as_millis()).unwrap_or(i64::MAX);
                let update = "UPDATE leases SET rest_ms = ?2 WHERE id = ?1";
                self.execute(update, params![number(id.0), rest_ms], "store leases")?;
            }
            self.execute("COMMIT", [], "store leases")
        };
        if let Err(error) = write() {
            tracing::warn!(%error, "leases will start their full time to live anew");
        }
    }

    fn execute(&self, sql: &str, arguments: impl rusqlite::Params, operation: &'static str) -> Result<()> {
        self.db
            .conn
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute(arguments))
            .map(drop)
            .map_err(self.db.explain(operation))
    }
}

fn single(answers: Vec<Result<TxnOutcome>>) -> Result<TxnOutcome> {
    answers.into_iter().next().unwrap_or(Err(Error::Closed))
}

/// Whether the error came from below, so that the transaction has to be given up.
fn is_storage(error: &Error) -> bool {
    error.is_temporary() || matches!(error, Error::Corrupt { .. })
}
