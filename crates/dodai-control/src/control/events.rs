//! What happened, newest last, in a bounded ring.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::watch;

use crate::records::Millis;

/// How many events are kept.
pub const EVENTS_KEPT: usize = 1000;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Event {
    /// Grows by one from event to event.
    pub sequence: u64,
    /// When, in milliseconds since 1970.
    pub at: Millis,
    /// What it happened to: an app as `namespace/name`, a base or an instance by its name, a document as
    /// `Kind/namespace/name`.
    pub object: String,
    /// One word, for machines.
    pub reason: &'static str,
    /// A sentence, for people.
    pub message: String,
}

/// The ring.
pub(super) struct Events {
    ring: Mutex<VecDeque<Event>>,
    last: watch::Sender<u64>,
}

impl Events {
    pub(super) fn new() -> Events {
        Events { ring: Mutex::default(), last: watch::Sender::new(0) }
    }

    pub(super) fn add(&self, at: Millis, object: String, reason: &'static str, message: String) {
        tracing::info!(%object, reason, "{message}");
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let sequence = *self.last.borrow() + 1;
        if ring.len() == EVENTS_KEPT {
            ring.pop_front();
        }
        ring.push_back(Event { sequence, at, object, reason, message });
        self.last.send_replace(sequence);
    }

    pub(super) fn after(&self, sequence: u64) -> Vec<Event> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.iter().filter(|event| event.sequence > sequence).cloned().collect()
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.last.subscribe()
    }
}
