//! Standard output and error of a guest, cut into lines for the log sink.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError};

use crate::metrics::{Counters, up};
use crate::seam::{LogSink, Stream};

/// Longer lines are cut into pieces of this many bytes.
const MAX_LINE: usize = 8 * 1024;

/// How many bytes a guest may write at once.
const WRITE_BUDGET: usize = 64 * 1024;

/// One of the two outputs of one instance.
#[derive(Clone)]
pub(crate) struct Lines(Arc<Mutex<Partial>>);

struct Partial {
    stream: Stream,
    sink: Arc<dyn LogSink>,
    counters: Arc<Counters>,
    line: Vec<u8>,
}

impl Lines {
    pub(crate) fn new(stream: Stream, sink: Arc<dyn LogSink>, counters: Arc<Counters>) -> Lines {
        Lines(Arc::new(Mutex::new(Partial { stream, sink, counters, line: Vec::new() })))
    }

    fn write(&self, bytes: &[u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes);
    }

    /// Hands over a line that has no end yet; called when a call ends.
    pub(crate) fn flush(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).flush();
    }
}

impl Partial {
    fn write(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ended) = piece.strip_suffix(b"\n").map_or((piece, false), |text| (text, true));
            for part in text.chunks(MAX_LINE) {
                if self.line.len() + part.len() > MAX_LINE {
                    self.emit();
                }
                self.line.extend_from_slice(part);
            }
            if ended {
                self.emit();
            }
        }
    }

    fn flush(&mut self) {
        if !self.line.is_empty() {
            self.emit();
        }
    }

    fn emit(&mut self) {
        let line = self.line.strip_suffix(b"\r").unwrap_or(&self.line);
        self.sink.line(self.stream, &String::from_utf8_lossy(line));
        up(&self.counters.log_lines);
        self.line.clear();
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        self.flush();
    }
}

impl IsTerminal for Lines {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Lines {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Lines {
    async fn ready(&mut self) {}
}

impl OutputStream for Lines {
    fn write(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        Lines::write(self, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StreamError> {
        Ok(())
    }

    fn check_write(&mut self) -> Result<usize, StreamError> {
        Ok(WRITE_BUDGET)
    }
}

impl AsyncWrite for Lines {
    fn poll_write(self: Pin<&mut Self>, _cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Lines::write(&self, bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
