//! Jobs: what an app wants to be told of at times to come, and where that is kept.
//!
//! A [`Record`] is a job and how far it is. Its times are points of the wall clock, so it means the same after a restart;
//! [`Record::after`] says what becomes of it when a run has ended, as a pure function. Always holds: ticks that passed
//! while nobody ran are one late run. A [`Store`] keeps records; whoever runs the jobs of an app holds them meanwhile.

mod memory;
mod time;

use std::any::Any;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use crate::answer::Answer;
use crate::fault::Fault;
use crate::schedule::{Bad, Schedule};

pub use memory::Memory;

/// The longest name, in bytes. Names stand in paths, so no control characters and none of `/ \ # ?` are in them.
pub const MAX_NAME: usize = 512;
/// The most data of one job, in bytes.
pub const MAX_DATA: usize = 1 << 20;
/// The longest URL of a type, in bytes.
const MAX_TYPE_URL: usize = 1 << 10;
/// The longest schedule, due time or time to live, in bytes.
const MAX_TEXT: usize = 256;
/// The shortest pause before a run is tried again, so that no policy makes a storm.
const MIN_RETRY: Duration = Duration::from_millis(100);
/// The shortest period of `@every`, in milliseconds, so that no schedule makes one either. Dapr goes down to one
/// millisecond (dapr/kit cron/constantdelay.go).
const MIN_PERIOD_MS: i64 = 1_000;
/// A clock that goes back further, in milliseconds, was wrong before: then also times of a calendar are reckoned anew.
const WRONG_MS: i64 = 86_400_000;
/// How much of an app's refusal is kept.
const MAX_PROBLEM: usize = 300;

/// What a job brings to its app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// A JSON value, as it was written.
    Json(String),
    /// A message of Protocol Buffers and the URL of its type, or any bytes.
    Any {
        /// The type, which may be empty.
        type_url: String,
        /// Its bytes.
        value: Bytes,
    },
}

impl Data {
    /// How long it is.
    pub fn len(&self) -> usize {
        match self {
            Data::Json(text) => text.len(),
            Data::Any { type_url, value } => type_url.len() + value.len(),
        }
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What happens when an app does not take a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailurePolicy {
    /// The run is given up.
    Drop,
    /// It is tried again.
    Constant {
        /// The pause before that.
        interval: Duration,
        /// How often at most; `None` for no bound.
        retries: Option<u32>,
    },
}

impl Default for FailurePolicy {
    /// That of Dapr's scheduler: three times more, a second apart.
    fn default() -> FailurePolicy {
        FailurePolicy::Constant { interval: Duration::from_secs(1), retries: Some(3) }
    }
}

/// A job as an app asked for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Job {
    /// Its name, unique in its app.
    pub name: String,
    /// When it runs again and again.
    pub schedule: Option<String>,
    /// When it runs first, or once.
    pub due_time: Option<String>,
    /// When it ends, reckoned from its due time or else from now.
    pub ttl: Option<String>,
    /// How often it runs.
    pub repeats: Option<u32>,
    /// What it brings.
    pub data: Option<Data>,
    /// What happens when the app does not take it.
    pub policy: FailurePolicy,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The app took it.
    Taken,
    /// The app did not, and never will.
    Refused(String),
    /// The app did not, or did not answer.
    Failed(String),
}

/// The last run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Last {
    /// When it ended, in milliseconds since 1970.
    pub at_ms: i64,
    /// Why the app did not take it; `None` if it did.
    pub problem: Option<String>,
}

/// How far a job is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The tick that runs next, by its schedule, in milliseconds since 1970.
    pub tick_ms: i64,
    /// When it runs: later than the tick if it is tried again.
    pub due_ms: i64,
    /// Ticks that are over.
    pub ticks: u32,
    /// Failed runs of this tick.
    pub failures: u32,
    /// The last run.
    pub last: Option<Last>,
}

impl Progress {
    /// Whether this is the same try of the same tick.
    pub fn is_at(&self, other: &Progress) -> bool {
        (self.tick_ms, self.ticks, self.failures) == (other.tick_ms, other.ticks, other.failures)
    }
}

/// A job and how far it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Which making of the job it is: one that is written over is another.
    pub id: String,
    /// The job.
    pub job: Job,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: i64,
    /// Ticks after this do not run, in milliseconds since 1970.
    pub expires_ms: Option<i64>,
    /// How far it is.
    pub progress: Progress,
}

/// Why a job is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Its name cannot be used.
    #[error(
        "the name of a job has 1 to {MAX_NAME} bytes, no control characters, no blanks at its ends and none of / \\ # ?"
    )]
    Name,
    /// Its schedule is none.
    #[error(transparent)]
    Schedule(#[from] Bad),
    /// The schedule never comes, or only after the job has ended.
    #[error("it would never run: {0}")]
    Never(&'static str),
    /// A time is none.
    #[error(
        "{what} `{text}` is no time; write one such as 2030-01-31T12:00:00Z, 1h30m or P1DT12H, without repetitions"
    )]
    Time {
        /// Which one.
        what: &'static str,
        /// What was written.
        text: String,
    },
    /// Parts that do not go together.
    #[error("{0}")]
    Parts(&'static str),
    /// Too much of something.
    #[error("{what} has {given} bytes, at most {most} are kept")]
    TooLong {
        /// Of what.
        what: &'static str,
        /// How much.
        given: usize,
        /// The bound.
        most: usize,
    },
}

impl Job {
    /// How long all its texts and data are.
    pub(crate) fn len(&self) -> usize {
        let texts = [&self.schedule, &self.due_time, &self.ttl].into_iter().flatten().map(String::len);
        self.name.len() + texts.sum::<usize>() + self.data.as_ref().map_or(0, Data::len)
    }

    /// The job with its first tick, as of `now_ms`.
    ///
    /// # Errors
    /// It is no job that could run; the error says what is wrong with it.
    pub fn start(self, id: String, now_ms: i64) -> Result<Record, Invalid> {
        self.check()?;
        let due = self.due_time.as_deref().map(|text| point("dueTime", text, now_ms)).transpose()?;
        let ttl = |text: &str| point("ttl", text, due.unwrap_or(now_ms));
        let expires_ms = self.ttl.as_deref().map(ttl).transpose()?;
        let schedule = self.schedule()?;
        if schedule.as_ref().and_then(Schedule::period).is_some_and(|period| period < MIN_PERIOD_MS) {
            return Err(Invalid::Parts("`@every` of a job is 1s or more"));
        }
        let first = match (due, schedule) {
            (Some(due), _) => due,
            (None, Some(schedule)) => {
                let next = schedule.upcoming(now_ms, now_ms);
                next.ok_or(Invalid::Never("its schedule has no time in the years to come"))?
            }
            (None, None) => return Err(Invalid::Parts("it needs a schedule, a dueTime or both")),
        };
        if expires_ms.is_some_and(|end| first > end) {
            return Err(Invalid::Never("its ttl ends before its first run"));
        }
        let progress = Progress { tick_ms: first, due_ms: first, ..Progress::default() };
        Ok(Record { id, job: self, created_ms: now_ms, expires_ms, progress })
    }

    fn check(&self) -> Result<(), Invalid> {
        let banned = |c: char| c.is_control() || matches!(c, '/' | '\\' | '#' | '?');
        if self.name.is_empty() || self.name.len() > MAX_NAME || self.name.contains(banned) {
            return Err(Invalid::Name);
        }
        // As a segment of a path these would lead elsewhere; blanks at the ends get lost on the way.
        if matches!(self.name.as_str(), "." | "..") || self.name.trim() != self.name {
            return Err(Invalid::Name);
        }
        let texts = [("schedule", &self.schedule), ("dueTime", &self.due_time), ("ttl", &self.ttl)];
        let texts = texts.map(|(what, text)| (what, text.as_ref().map_or(0, String::len), MAX_TEXT));
        let data = ("data", self.data.as_ref().map_or(0, Data::len), MAX_DATA);
        let type_url = match &self.data {
            Some(Data::Any { type_url, .. }) => type_url.len(),
            Some(Data::Json(_)) | None => 0,
        };
        let type_url = ("the URL of the type of data", type_url, MAX_TYPE_URL);
        for (what, given, most) in texts.into_iter().chain([data, type_url]) {
            if given > most {
                return Err(Invalid::TooLong { what, given, most });
            }
        }
        match (&self.schedule, self.repeats, &self.ttl) {
            (_, Some(0), _) => Err(Invalid::Parts("repeats must be 1 or more")),
            (None, Some(2..), _) => Err(Invalid::Parts("repeats needs a schedule")),
            (None, _, Some(_)) => Err(Invalid::Parts("ttl needs a schedule")),
            _ => Ok(()),
        }
    }

    fn schedule(&self) -> Result<Option<Schedule>, Bad> {
        self.schedule.as_deref().map(Schedule::parse).transpose()
    }
}

fn point(what: &'static str, text: &str, from_ms: i64) -> Result<i64, Invalid> {
    time::point(text, from_ms).ok_or_else(|| Invalid::Time { what, text: text.to_owned() })
}

impl Record {
    /// How far it is once a run has ended so; `None` if that was the last. Ticks that are past by then are left out.
    pub fn after(&self, outcome: Outcome, now_ms: i64) -> Option<Progress> {
        let (problem, again) = match outcome {
            Outcome::Taken => (None, false),
            Outcome::Refused(problem) => (Some(problem), false),
            Outcome::Failed(problem) => (Some(problem), true),
        };
        let problem = problem.map(|problem| problem.chars().take(MAX_PROBLEM).collect());
        let last = Some(Last { at_ms: now_ms, problem });
        let before = &self.progress;
        if again
            && let Some(due_ms) = self.retry().map(|pause| now_ms.saturating_add(pause))
            && self.expires_ms.is_none_or(|end| due_ms <= end)
        {
            let failures = before.failures.saturating_add(1);
            return Some(Progress { due_ms, failures, last, ..*before });
        }
        let ticks = before.ticks.saturating_add(1);
        if self.job.repeats.is_some_and(|most| ticks >= most) {
            return None;
        }
        // A schedule was read when the job was made; one that cannot be read any more has no next time.
        let schedule = self.job.schedule().ok()??;
        let is_wrong = before.tick_ms.saturating_sub(now_ms) > WRONG_MS;
        let next = schedule.upcoming(if is_wrong { now_ms } else { before.tick_ms }, now_ms)?;
        // A tick that lies ahead is one of before the clock was set back.
        let next = schedule.period().map_or(next, |period| next.min(now_ms.saturating_add(period)));
        if self.expires_ms.is_some_and(|end| next > end) {
            return None;
        }
        Some(Progress { tick_ms: next, due_ms: next, ticks, failures: 0, last })
    }

    /// The pause before this tick is tried again, if it is.
    fn retry(&self) -> Option<i64> {
        match self.job.policy {
            FailurePolicy::Constant { interval, retries }
                if retries.is_none_or(|most| self.progress.failures < most) =>
            {
                Some(pause(interval))
            }
            FailurePolicy::Constant { .. } | FailurePolicy::Drop => None,
        }
    }

    /// What it becomes when the clock has been set back to `now_ms`; `None` if that changes nothing. What is reckoned
    /// from a moment that has not come yet by the new clock (`@every`, a retry, how long until the first run) does not wait
    /// longer than it would have. Times of a calendar stay, so that none runs twice, but for those of a clock that was
    /// wrong; moments stay always.
    pub fn set_back(&self, now_ms: i64) -> Option<Progress> {
        let before = &self.progress;
        let schedule = self.job.schedule().ok().flatten();
        let period = schedule.as_ref().and_then(Schedule::period);
        let seen_ms = before.last.as_ref().map_or(self.created_ms, |last| last.at_ms);
        let first = self.job.due_time.as_deref().filter(|_| before.ticks == 0);
        let due_ms = match (self.job.policy, first, schedule) {
            (FailurePolicy::Constant { interval, .. }, _, _) if before.failures > 0 => {
                now_ms.saturating_add(pause(interval))
            }
            (_, Some(first), _) if self.created_ms > now_ms => time::point(first, now_ms)?,
            (_, None, Some(_)) if period.is_some() => now_ms.saturating_add(period?),
            (_, None, Some(calendar)) if seen_ms.saturating_sub(now_ms) > WRONG_MS => {
                calendar.upcoming(now_ms, now_ms)?
            }
            (_, Some(_), _) | (_, None, _) => return None,
        };
        let tick_ms = if before.failures > 0 && period.is_none() { before.tick_ms } else { due_ms };
        (before.due_ms > due_ms).then(|| Progress { tick_ms, due_ms, ..before.clone() })
    }
}

fn pause(interval: Duration) -> i64 {
    i64::try_from(interval.max(MIN_RETRY).as_millis()).unwrap_or(i64::MAX)
}

/// What is due, and when the next will be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// Those whose time has come, the longest due first.
    pub now: Vec<Record>,
    /// When the first of all others is due, in milliseconds since 1970.
    pub next_ms: Option<i64>,
}

/// Which jobs of an app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// That of a name.
    Name(String),
    /// Those whose names begin so; all with an empty text.
    Prefix(String),
}

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is one of that name.
    #[error("job `{0}` exists already; set overwrite to replace it")]
    Exists(String),
    /// The app has as many as it may.
    #[error("the app has {0} jobs, as many as are kept; delete some")]
    Full(usize),
    /// What was asked for is too much for one answer.
    #[error("the jobs of the app have more than {0} bytes; get them by name")]
    TooLarge(usize),
    /// The store failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// The right to run the jobs of an app, until it is dropped.
pub struct Hold(#[expect(dead_code, reason = "it is held, not read")] Box<dyn Any + Send + Sync>);

impl Hold {
    /// The same right, and with it `what`, until it is dropped.
    pub fn with(self, what: impl Any + Send + Sync) -> Hold {
        // What is asked for last goes first.
        Hold(Box::new((what, self)))
    }
}

/// The rights to run jobs within one process: one for each app.
#[derive(Clone, Default)]
pub struct Holds(Arc<Mutex<HashSet<String>>>);

/// A right that is in use.
struct Held {
    holds: Holds,
    app: String,
}

impl Holds {
    fn held(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The right to run the jobs of an app; `None` while somebody has it.
    pub fn take(&self, app: &str) -> Option<Hold> {
        let is_free = self.held().insert(app.to_owned());
        is_free.then(|| Hold(Box::new(Held { holds: self.clone(), app: app.to_owned() })))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.holds.held().remove(&self.app);
    }
}

/// Keeps the jobs of apps. What it acknowledged survives a crash, if it is durable at all. `app` is the namespace and
/// name of an app, `namespace/name`.
pub trait Store: Send + Sync {
    /// Keeps a job. An app has at most `most`.
    fn put(&self, app: &str, record: Record, overwrite: bool, most: usize) -> Answer<'_, Result<(), Error>>;

    /// One job.
    fn get(&self, app: &str, name: &str) -> Answer<'_, Result<Option<Record>, Fault>>;

    /// All jobs of an app by name: with their data if jobs and data are no more than so many bytes, or without any.
    fn list(&self, app: &str, data: Option<usize>) -> Answer<'_, Result<Vec<Record>, Error>>;

    /// The apps that have jobs, in the order of their texts.
    fn apps(&self) -> Answer<'_, Result<Vec<String>, Fault>>;

    /// Forgets jobs; those that are not there are forgotten already.
    fn delete(&self, app: &str, which: Which) -> Answer<'_, Result<(), Fault>>;

    /// What is due at `now_ms`, at most `most`, without those of the names `but`, which run already.
    fn due(&self, app: &str, now_ms: i64, most: usize, but: Vec<String>) -> Answer<'_, Result<Due, Fault>>;

    /// Keeps how far a job is, or forgets it; not if another of its name has taken its place, or if it is not any more
    /// where `record` saw it.
    fn settle(&self, app: &str, record: &Record, progress: Option<Progress>)
    -> Answer<'_, Result<(), Fault>>;

    /// The right to run the jobs of an app; `None` while somebody else has it, here or in another process, or there are
    /// none.
    fn hold(&self, app: &str) -> Answer<'_, Result<Option<Hold>, Fault>>;

    /// Whether other processes may write, so that one has to look now and then.
    fn is_shared(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests;
