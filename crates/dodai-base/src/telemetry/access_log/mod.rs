//! The access log: one line per call that the filter lets through, to standard output or a file.
//!
//! Data-plane threads put records into a bounded queue; one thread makes lines of them and writes. When the
//! queue is full the record is dropped and counted: a slow disk costs lines, never latency. A thread and not
//! a task, because writing blocks. Lines are flushed whenever the queue runs empty.

mod file;

use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use dodai_core::failure::Kind;
use dodai_core::record::{Record, Sink};
use dodai_core::trace::Span;
use thiserror::Error;

use self::file::File;
use super::line::Line;
use super::{Meter, SinkReading};

/// How many records may wait for the writer when nothing else is said.
pub const QUEUE: usize = 2048;

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Standard output.
    Stdout,
    /// A file, appended to. It is opened again when it was moved or removed, and turned over by size.
    File {
        /// The file.
        path: PathBuf,
        /// It is turned over before it grows larger than this many bytes.
        max_bytes: u64,
        /// How many older files (`NAME.1`, ...) are kept.
        keep: u32,
    },
}

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// One JSON object per line.
    #[default]
    Json,
    /// Words, for people.
    Text,
}

/// Which calls are logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Filter {
    /// All.
    #[default]
    All,
    /// Those the base answered itself, those whose status is 500 or more, and those whose caller left.
    Failures,
    /// Those whose status is at least this, and those whose caller left.
    Status(u16),
    /// Those of sampled traces.
    Sampled,
}

/// Text that names no filter.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "`{0}` is no access log filter; use all, failures, status>=400 (any status from 100 to 599) or sampled"
)]
pub struct BadFilter(String);

impl FromStr for Filter {
    type Err = BadFilter;

    fn from_str(text: &str) -> Result<Filter, BadFilter> {
        match text {
            "all" => Ok(Filter::All),
            "failures" => Ok(Filter::Failures),
            "sampled" => Ok(Filter::Sampled),
            _ => {
                let status = text.strip_prefix("status>=").and_then(|status| status.parse().ok());
                let status = status.filter(|status| (100..600).contains(status));
                status.map(Filter::Status).ok_or_else(|| BadFilter(text.to_owned()))
            }
        }
    }
}

impl Filter {
    fn lets(self, span: &Span, status: u16, failure: Option<Kind>) -> bool {
        match self {
            Filter::All => true,
            Filter::Failures => failure.is_some() || status >= 500 || status == 0,
            Filter::Status(least) => status >= least || status == 0,
            Filter::Sampled => span.sampled,
        }
    }
}

/// How the log is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where lines go.
    pub output: Output,
    /// How they look.
    pub format: Format,
    /// Which calls are logged.
    pub filter: Filter,
    /// How many records may wait for the writer.
    pub queue: usize,
}

impl Config {
    /// Every call as JSON to `output`.
    pub fn to(output: Output) -> Config {
        Config { output, format: Format::default(), filter: Filter::default(), queue: QUEUE }
    }
}

/// Why the log cannot be opened.
#[derive(Debug, Error)]
pub enum Error {
    /// The file cannot be opened.
    #[error("cannot open the access log {}: {source}; choose a file that the base may write", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The writer has no thread.
    #[error("cannot start the access log's writer: {0}")]
    Thread(io::Error),
}

/// An open access log. Close it after the data plane has drained, or the last lines are missing.
pub struct AccessLog {
    filter: Filter,
    capacity: usize,
    /// `None` once closed. Taken for writing only then, so that readers never wait.
    queue: RwLock<Option<SyncSender<Arc<Record>>>>,
    writer: Mutex<Option<Writer>>,
    meter: Arc<Meter>,
}

struct Writer {
    thread: JoinHandle<()>,
    /// Ends when the thread does.
    ended: Receiver<()>,
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLog").field("filter", &self.filter).finish_non_exhaustive()
    }
}

impl AccessLog {
    /// Opens the output and starts the writer.
    pub fn open(config: Config) -> Result<AccessLog, Error> {
        let target: Box<dyn Target> = match config.output {
            Output::Stdout => Box::new(io::stdout()),
            Output::File { path, max_bytes, keep } => {
                let opened = File::open(path.clone(), max_bytes, keep);
                Box::new(opened.map_err(|source| Error::Open { path, source })?)
            }
        };
        AccessLog::over(target, config.format, config.filter, config.queue)
    }

    fn over(
        mut target: Box<dyn Target>,
        format: Format,
        filter: Filter,
        queue: usize,
    ) -> Result<AccessLog, Error> {
        let capacity = queue.max(1);
        let (sender, records) = sync_channel(capacity);
        let (alive, ended) = sync_channel(0);
        let meter = Arc::new(Meter::default());
        let counts = meter.clone();
        let thread = std::thread::Builder::new().name("access-log".into()).spawn(move || {
            let _alive: SyncSender<()> = alive;
            write_all(target.as_mut(), format, &records, &counts);
        });
        let writer = Writer { thread: thread.map_err(Error::Thread)?, ended };
        Ok(AccessLog {
            filter,
            capacity,
            queue: RwLock::new(Some(sender)),
            writer: Mutex::new(Some(writer)),
            meter,
        })
    }

    /// What it did.
    pub fn reading(&self) -> SinkReading {
        self.meter.read("access_log", self.capacity)
    }

    /// Takes no more records, writes those that wait, and ends the writer. Blocks for at most `deadline`;
    /// `false` if the writer was still stuck in a write then and was left behind.
    pub fn close(&self, deadline: Duration) -> bool {
        drop(self.queue.write().unwrap_or_else(PoisonError::into_inner).take());
        let Some(writer) = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return true;
        };
        if let Err(RecvTimeoutError::Timeout) = writer.ended.recv_timeout(deadline) {
            tracing::warn!("the access log cannot be written; its last lines are lost");
            return false;
        }
        if writer.thread.join().is_err() {
            tracing::error!("the access log's writer panicked; its last lines are lost");
        }
        true
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.close(Duration::from_secs(1));
    }
}

impl Sink for AccessLog {
    fn wants(&self, span: &Span, status: u16, failure: Option<Kind>) -> bool {
        self.filter.lets(span, status, failure)
    }

    fn record(&self, record: &Arc<Record>) {
        let queue = self.queue.read().unwrap_or_else(PoisonError::into_inner);
        // Counted before it is queued: the writer may be done with it before `try_send` returns.
        self.meter.entering();
        let queued = queue.as_ref().is_some_and(|queue| queue.try_send(record.clone()).is_ok());
        if !queued {
            self.meter.refused();
        }
    }
}

/// Something lines are written to.
trait Target: Send {
    /// Writes whole lines.
    fn write(&mut self, lines: &[u8]) -> io::Result<()>;
}

impl Target for io::Stdout {
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let mut out = self.lock();
        out.write_all(lines)?;
        out.flush()
    }
}

/// Lines are handed over when so many bytes have come together, or when the queue is empty.
const CHUNK: usize = 32 * 1024;

/// The writer's life: until the queue is closed and empty.
fn write_all(target: &mut dyn Target, format: Format, records: &Receiver<Arc<Record>>, meter: &Meter) {
    let mut lines = Vec::with_capacity(CHUNK);
    let mut failing = false;
    while let Ok(record) = records.recv() {
        let mut count = 1;
        render(&mut lines, format, &record);
        while lines.len() < CHUNK {
            match records.try_recv() {
                Ok(record) => render(&mut lines, format, &record),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
            count += 1;
        }
        match target.write(&lines) {
            Ok(()) => {
                meter.wrote(count);
                failing = false;
            }
            Err(error) => {
                meter.lost(count);
                if !failing {
                    tracing::warn!(%error, "the access log cannot be written; lines are dropped until it can");
                }
                failing = true;
            }
        }
        lines.clear();
    }
}

fn render(lines: &mut Vec<u8>, format: Format, record: &Record) {
    let line = Line::from(record);
    let start = lines.len();
    let rendered = match format {
        Format::Json => serde_json::to_writer(&mut *lines, &line).map_err(io::Error::from),
        Format::Text => write!(lines, "{line}"),
    };
    match rendered {
        Ok(()) => lines.push(b'\n'),
        // Plain values into memory: it does not happen, and half a line must not stay if it does.
        Err(_) => lines.truncate(start),
    }
}

#[cfg(test)]
mod tests;
