//! From an instance's pipes to its log. The reader never waits for anything but the pipes; the writer task
//! takes what fits into a bounded queue and writes it in batches off the runtime.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Instant, SystemTime};

use dodai_core::task::{Kind, Tasks};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};

use super::file::{LogFile, OpenFiles};
use super::frame::Framer;
use super::{Line, Logs, Stream};
use crate::process::{Error, LogPolicy};

/// Lines on their way to the disk; beyond this they are dropped and counted.
const QUEUE_LINES: usize = 4096;
/// Bytes of text on their way to the disk; beyond this lines are dropped and counted.
const QUEUE_BYTES: usize = 2 << 20;
/// Lines written at once.
const BATCH_LINES: usize = 512;
/// Bytes read at once.
const CHUNK: usize = 16 << 10;

#[derive(Default)]
struct Pressure {
    queued_bytes: AtomicUsize,
    dropped: AtomicU64,
}

/// The writing end of an instance's log. Dropping every clone ends the writer task.
#[derive(Clone)]
pub(crate) struct Capture {
    logs: Logs,
    queue: mpsc::Sender<Arc<Line>>,
    pressure: Arc<Pressure>,
}

impl Capture {
    /// Opens the log of an instance and spawns its writer. The receiver ends when the last line is on disk.
    pub(in crate::process) fn open(
        policy: &LogPolicy,
        app: &str,
        instance: &str,
        open: OpenFiles,
        tasks: &Tasks,
    ) -> Result<(Capture, oneshot::Receiver<()>), Error> {
        let path: PathBuf = policy.dir.join(app).join(format!("{instance}.log"));
        let file = LogFile::open(policy, &path, open)?;
        let (queue, lines) = mpsc::channel(QUEUE_LINES);
        let pressure = Arc::new(Pressure::default());
        let (done, written) = oneshot::channel();
        let writer = write(file, lines, pressure.clone());
        tasks.spawn(Kind::Process, async move {
            writer.await;
            let _ = done.send(());
        });
        Ok((Capture { logs: Logs::new(policy, path), queue, pressure }, written))
    }

    pub(crate) fn logs(&self) -> &Logs {
        &self.logs
    }

    /// A remark of the base, between the app's lines.
    pub(crate) fn note(&self, text: String) {
        self.put(SystemTime::now(), Stream::Note, text);
    }

    /// Reads both pipes to their end.
    pub(in crate::process) async fn read(self, stdout: pipe::Receiver, stderr: pipe::Receiver) {
        tokio::join!(self.pump(stdout, Stream::Stdout), self.pump(stderr, Stream::Stderr));
    }

    async fn pump(&self, mut from: pipe::Receiver, stream: Stream) {
        let mut framer = Framer::default();
        let mut chunk = Vec::new();
        loop {
            // Allocated when there is something to read: an idle app holds no buffer.
            if from.readable().await.is_err() {
                break;
            }
            chunk.resize(CHUNK, 0);
            match from.read(&mut chunk).await {
                Ok(0) | Err(_) => break,
                Ok(n) => {
                    let now = SystemTime::now();
                    framer.push(&chunk[..n], |text| self.put(now, stream, text));
                    if n < CHUNK {
                        chunk = Vec::new();
                    }
                }
            }
        }
        if let Some(text) = framer.finish() {
            self.put(SystemTime::now(), stream, text);
        }
    }

    /// A line. Never waits: what the disk cannot take is left out of the file and counted there.
    pub(crate) fn put(&self, time: SystemTime, stream: Stream, text: String) {
        let line = self.logs.push(time, stream, text);
        let size = line.text.len();
        let queued = self.pressure.queued_bytes.fetch_add(size, Ordering::Relaxed);
        if queued + size > QUEUE_BYTES || self.queue.try_send(line).is_err() {
            self.pressure.queued_bytes.fetch_sub(size, Ordering::Relaxed);
            self.pressure.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

async fn write(mut file: LogFile, mut lines: mpsc::Receiver<Arc<Line>>, pressure: Arc<Pressure>) {
    let mut batch = Vec::new();
    loop {
        let more = lines.recv_many(&mut batch, BATCH_LINES).await > 0;
        let size = batch.iter().map(|line| line.text.len()).sum();
        let dropped = pressure.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            batch.push(Arc::new(dropped_note(dropped)));
        }
        let full = std::mem::take(&mut batch);
        let written = tokio::task::spawn_blocking(move || {
            file.write(&full, Instant::now());
            file
        });
        // An error is a panic while writing; the app goes on without a file.
        let Ok(back) = written.await else { return };
        file = back;
        pressure.queued_bytes.fetch_sub(size, Ordering::Relaxed);
        if !more {
            return;
        }
    }
}

fn dropped_note(count: u64) -> Line {
    let text = format!("{count} lines dropped: the app writes faster than the disk");
    Line { seq: 0, time: SystemTime::now(), stream: Stream::Note, text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn receiver(from: std::io::PipeReader) -> pipe::Receiver {
        pipe::Receiver::from_owned_fd(from.into()).unwrap()
    }

    #[tokio::test]
    async fn both_streams_reach_memory_and_disk() {
        let folder = tempfile::tempdir().unwrap();
        let tasks = Tasks::new();
        let policy = LogPolicy::under(folder.path());
        let (capture, written) =
            Capture::open(&policy, "shop", "shop-1", OpenFiles::default(), &tasks).unwrap();
        let logs = capture.logs().clone();
        let (out_reader, mut out) = std::io::pipe().unwrap();
        let (err_reader, mut err) = std::io::pipe().unwrap();
        out.write_all(b"one\ntwo\nthree").unwrap();
        err.write_all(b"oops\n").unwrap();
        drop((out, err));
        capture.read(receiver(out_reader), receiver(err_reader)).await;
        written.await.unwrap();
        assert_eq!(logs.tail(10).len(), 4);
        let text = std::fs::read_to_string(folder.path().join("shop/shop-1.log")).unwrap();
        assert!(text.contains(" stdout three\n") && text.contains(" stderr oops\n"), "{text}");
    }

    #[tokio::test]
    async fn a_slow_disk_drops_lines_and_counts_them() {
        let folder = tempfile::tempdir().unwrap();
        let tasks = Tasks::new();
        let policy = LogPolicy::under(folder.path());
        let (capture, written) =
            Capture::open(&policy, "shop", "shop-1", OpenFiles::default(), &tasks).unwrap();
        // On this one thread the writer has not run yet, which is as slow as a disk can be.
        for number in 0..QUEUE_LINES + 7 {
            capture.put(SystemTime::now(), Stream::Stdout, number.to_string());
        }
        drop(capture);
        written.await.unwrap();
        let text = std::fs::read_to_string(folder.path().join("shop/shop-1.log")).unwrap();
        assert!(text.contains(" note 7 lines dropped"), "no note in {} bytes", text.len());
        assert_eq!(text.lines().count(), QUEUE_LINES + 1);
    }
}
