//! Exports the spans of sampled calls over OTLP (HTTP with protobuf) to a collector.
//!
//! Records wait in a bounded queue; one task makes batches of them, by size or after a delay, and posts
//! each, trying again with growing waits while the collector says it is worth it. A full queue, a refusal
//! and an end without success are counted as dropped. Rejected: the OpenTelemetry SDK's pipeline, which has
//! tasks and clocks of its own.

mod post;
mod settings;
mod span;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dodai_core::id::BaseId;
use dodai_core::record::{Brief, Record, Sink};
use dodai_core::task::{self, Tasks};
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use self::post::{Outcome, post};
pub use self::settings::{BadSettings, SERVICE_NAME, Settings};
use super::{Meter, SinkReading};

/// How often one batch is tried.
const TRIES: u32 = 5;

/// What the last exports may take when the tracker closes.
const LAST_WORD: Duration = Duration::from_secs(3);

/// The sink of an exporter. Its task ends with the tracker it was given, after a last export: give it one
/// that closes after the data plane has drained.
pub struct Exporter {
    queue: mpsc::Sender<Arc<Record>>,
    capacity: usize,
    meter: Arc<Meter>,
}

impl Exporter {
    /// Starts exporting.
    pub fn start(settings: Settings, base: &BaseId, tasks: &Tasks) -> Exporter {
        let capacity = settings.queue.max(1);
        let (queue, records) = mpsc::channel(capacity);
        let meter = Arc::new(Meter::default());
        let base = base.as_str().to_owned();
        let courier = Courier { settings, base, meter: meter.clone(), tasks: tasks.clone(), failing: false };
        tasks.spawn(task::Kind::Loop, courier.run(records));
        Exporter { queue, capacity, meter }
    }

    /// What it did.
    pub fn reading(&self) -> SinkReading {
        self.meter.read("otlp", self.capacity)
    }
}

impl Sink for Exporter {
    fn wants(&self, call: &Brief<'_>) -> bool {
        call.span.sampled
    }

    fn record(&self, record: &Arc<Record>) {
        // Every sink is handed the records that any sink wants.
        if !record.span.sampled {
            return;
        }
        self.meter.entering();
        if self.queue.try_send(record.clone()).is_err() {
            self.meter.refused();
        }
    }
}

/// Carries batches to the collector.
struct Courier {
    settings: Settings,
    base: String,
    meter: Arc<Meter>,
    tasks: Tasks,
    /// Whether the last export failed; a change is logged, not every failure.
    failing: bool,
}

impl Courier {
    async fn run(mut self, mut records: mpsc::Receiver<Arc<Record>>) {
        let tasks = self.tasks.clone();
        loop {
            let mut batch = Vec::new();
            tokio::select! {
                // What was received stays in the batch, so nothing is lost when the tracker closes.
                () = self.collect(&mut records, &mut batch) => {}
                () = tasks.closing() => {}
            }
            if tasks.is_closing() {
                self.finish(records, batch).await;
                return;
            }
            if batch.is_empty() {
                return;
            }
            self.deliver(&batch).await;
        }
    }

    /// Fills a batch: up to its size, or for as long as the first record may wait. Cancel safe: what was
    /// received is in `batch`. Leaves it empty only when there will be no more records.
    async fn collect(&self, records: &mut mpsc::Receiver<Arc<Record>>, batch: &mut Vec<Arc<Record>>) {
        let Some(first) = records.recv().await else { return };
        batch.push(first);
        let deadline = Instant::now() + self.settings.delay;
        while batch.len() < self.settings.batch {
            match timeout_at(deadline, records.recv()).await {
                Ok(Some(record)) => batch.push(record),
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// The last exports, one try each and bounded together.
    async fn finish(&mut self, mut records: mpsc::Receiver<Arc<Record>>, mut batch: Vec<Arc<Record>>) {
        records.close();
        let deadline = Instant::now() + LAST_WORD;
        while let Ok(record) = records.try_recv() {
            batch.push(record);
        }
        for part in batch.chunks(self.settings.batch.max(1)) {
            let message = self.message(part);
            let outcome = match timeout_at(deadline, post(&self.settings, message)).await {
                Ok(outcome) => outcome,
                Err(_) => Outcome::Refused("no time was left at the end".to_owned()),
            };
            self.settle(part.len() as u64, outcome);
        }
    }

    fn message(&self, batch: &[Arc<Record>]) -> Bytes {
        span::request(batch, &self.settings, &self.base).encode_to_vec().into()
    }

    /// Tries to deliver a batch until it is taken, refused, or tried often enough.
    async fn deliver(&mut self, batch: &[Arc<Record>]) {
        let message = self.message(batch);
        let mut wait = self.settings.first_wait;
        for tried in 1.. {
            let outcome = post(&self.settings, message.clone()).await;
            let Outcome::Later { reason, after } = outcome else {
                return self.settle(batch.len() as u64, outcome);
            };
            if tried == TRIES || self.tasks.is_closing() {
                return self.settle(batch.len() as u64, Outcome::Refused(reason));
            }
            // Up to a quarter more, so that bases do not come back all at once.
            let jitter = wait.mul_f64((dodai_core::trace::random() % 256) as f64 / 1024.0);
            // Closing cuts the wait short; the next try is then the last.
            let _closed = timeout(after.unwrap_or(wait).max(wait) + jitter, self.tasks.closing()).await;
            wait *= 2;
        }
    }

    fn settle(&mut self, count: u64, outcome: Outcome) {
        match outcome {
            Outcome::Taken { rejected } => {
                let rejected = rejected.min(count);
                self.meter.wrote(count - rejected);
                self.meter.lost(rejected);
                if rejected > 0 {
                    tracing::warn!(rejected, "the collector rejected spans");
                }
                if std::mem::take(&mut self.failing) {
                    tracing::info!("spans are exported again");
                }
            }
            Outcome::Refused(reason) | Outcome::Later { reason, .. } => {
                self.meter.lost(count);
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(reason, "spans cannot be exported; they are dropped until they can");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
