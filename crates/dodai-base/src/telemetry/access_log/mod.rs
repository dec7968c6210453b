//! The access log: one line per call that the filter lets through, to standard output or a file.
//!
//! Data-plane threads put records into a bounded queue; one thread makes lines of them and writes. When the
//! queue is full the record is dropped and counted: a slow disk costs lines, never latency. A thread and not
//! a task, because writing blocks. Lines are flushed whenever the queue runs empty.

mod custom;
mod file;
mod filter;

use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use dodai_core::record::{Brief, Heeds, Record, Sink};
use serde::Serialize as _;
use thiserror::Error;

use self::file::File;
use super::line::{Inert, Line};
use super::{Meter, SinkReading};
pub use dodai_log::{Filter, Filters, Format, Headers};

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

/// How the log is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where lines go.
    pub output: Output,
    /// How they look.
    pub format: Format,
    /// Which calls are logged.
    pub filters: Filters,
    /// Headers that JSON lines carry, and that expressions can ask for; those that format and filters name come by
    /// themselves.
    pub headers: Headers,
    /// How many records may wait for the writer.
    pub queue: usize,
}

impl Config {
    /// Every call as JSON to `output`.
    pub fn to(output: Output) -> Config {
        let (format, filters, headers) = (Format::default(), Filter::all().into(), Headers::default());
        Config { output, format, filters, headers, queue: QUEUE }
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
    filters: Filters,
    headers: Headers,
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
        f.debug_struct("AccessLog").field("filters", &self.filters).finish_non_exhaustive()
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
        let Config { format, filters, headers, queue, .. } = config;
        AccessLog::over(target, format, filters, headers, queue)
    }

    fn over(
        mut target: Box<dyn Target>,
        format: Format,
        filters: Filters,
        mut headers: Headers,
        queue: usize,
    ) -> Result<AccessLog, Error> {
        headers.add_named(Some(&format), Some(&filters));
        let capacity = queue.max(1);
        let (sender, records) = sync_channel(capacity);
        let (alive, ended) = sync_channel(0);
        let meter = Arc::new(Meter::default());
        let (counts, wanted, named) = (meter.clone(), filters.clone(), headers.clone());
        let thread = std::thread::Builder::new().name("access-log".into()).spawn(move || {
            let _alive: SyncSender<()> = alive;
            let how = How { format, filters: wanted, headers: named };
            write_all(target.as_mut(), &how, &records, &counts);
        });
        let writer = Writer { thread: thread.map_err(Error::Thread)?, ended };
        Ok(AccessLog {
            filters,
            headers,
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
    fn wants(&self, call: &Brief<'_>) -> bool {
        let own = call.logging.and_then(|logging| logging.filters.as_ref());
        filter::may_let(own.unwrap_or(&self.filters), call)
    }

    fn heeds(&self) -> Heeds {
        Heeds {
            request_headers: !self.headers.request.is_empty(),
            response_headers: !self.headers.response.is_empty(),
            ..Heeds::default()
        }
    }

    fn request_headers(&self, ask: &mut dyn FnMut(&str)) {
        self.headers.request.iter().for_each(|name| ask(name));
    }

    fn response_headers(&self, ask: &mut dyn FnMut(&str)) {
        self.headers.response.iter().for_each(|name| ask(name));
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

/// How lines are written where no document says otherwise.
struct How {
    format: Format,
    filters: Filters,
    headers: Headers,
}

/// Lines are handed over when so many bytes have come together, or when the queue is empty.
const CHUNK: usize = 32 * 1024;

/// The writer's life: until the queue is closed and empty.
fn write_all(target: &mut dyn Target, how: &How, records: &Receiver<Arc<Record>>, meter: &Meter) {
    let mut lines = Vec::with_capacity(CHUNK);
    let mut failing = false;
    while let Ok(record) = records.recv() {
        let (mut written, mut passed) = (0, 0);
        let mut next = Some(record);
        while let Some(record) = next.take() {
            // What needs the whole record is asked here, where it costs no call anything.
            let said = record.logging.as_deref();
            let filters = said.and_then(|said| said.filters.as_ref()).unwrap_or(&how.filters);
            if filter::lets(filters, &record) {
                let format = said.and_then(|said| said.format.as_ref()).unwrap_or(&how.format);
                render(&mut lines, format, &how.headers, &record);
                written += 1;
            } else {
                passed += 1;
            }
            if lines.len() >= CHUNK {
                break;
            }
            next = records.try_recv().ok();
        }
        meter.passed(passed);
        if written == 0 {
            continue;
        }
        match target.write(&lines) {
            Ok(()) => {
                meter.wrote(written);
                failing = false;
            }
            Err(error) => {
                meter.lost(written);
                if !failing {
                    tracing::warn!(%error, "the access log cannot be written; lines are dropped until it can");
                }
                failing = true;
            }
        }
        lines.clear();
    }
}

/// A line has the headers that this log asks for, or what a document says of its access log; others are for other eyes.
fn own<'a>(headers: &Headers, record: &'a Record) -> Line<'a> {
    let said = record.logging.as_deref().map(|said| &said.headers);
    let request =
        |name: &str| headers.request.contains(name) || said.is_some_and(|said| said.request.contains(name));
    let response =
        |name: &str| headers.response.contains(name) || said.is_some_and(|said| said.response.contains(name));
    Line::from(record).only(request, response)
}

fn render(lines: &mut Vec<u8>, format: &Format, headers: &Headers, record: &Record) {
    let start = lines.len();
    let rendered = match format {
        Format::Json => {
            let mut json = serde_json::Serializer::with_formatter(&mut *lines, Inert);
            own(headers, record).serialize(&mut json).map_err(io::Error::from)
        }
        Format::Text => write!(lines, "{}", Line::from(record)),
        Format::Custom(format) => {
            let mut text = String::new();
            let made = custom::write(&mut text, format, record).map_err(io::Error::other);
            made.and_then(|()| lines.write_all(text.as_bytes()))
        }
    };
    match rendered {
        Ok(()) => lines.push(b'\n'),
        // Plain values into memory: it does not happen, and half a line must not stay if it does.
        Err(_) => lines.truncate(start),
    }
}

#[cfg(test)]
mod tests;
