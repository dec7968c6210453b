//! The last call records, kept in memory while somebody looks at them: `dodai tap` and the console.
//!
//! While nobody is subscribed the data path builds no record for it, and what it held is freed. Every record
//! has a sequence number without gaps; a subscriber that is too slow learns how many it missed instead of
//! slowing calls down.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use dodai_core::record::{Brief, Heeds, Record, Sink};
use tokio::sync::broadcast;

use super::line::Line;
use super::{Meter, SinkReading};

/// How many records are kept when nothing else is said: at most about 7 MB, as a rule a tenth of that.
pub const CAPACITY: usize = 1000;

/// A record and its place in the order of records.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Counts up by one from 1 for as long as the base lives.
    pub sequence: u64,
    record: Arc<Record>,
}

impl Entry {
    /// The record in words, with secrets masked: the only way to see it. Of headers it has `header`, if that is given:
    /// what others asked for is theirs.
    pub fn line(&self, header: Option<&str>) -> Line<'_> {
        Line::from(self.record.as_ref()).only(|name| header == Some(name), |_| false).masked()
    }

    /// Whether the request had a header, with this value if any is given: secrets can be matched and not seen.
    pub fn has_header(&self, name: &str, wanted: Option<&str>) -> bool {
        let mut found = self.record.request_headers.iter().filter(|(known, _)| **known == *name);
        found.any(|(_, value)| wanted.is_none_or(|wanted| wanted == value))
    }
}

/// What a subscriber gets next.
#[derive(Clone, Debug)]
pub enum Next {
    /// A record.
    Entry(Arc<Entry>),
    /// So many records were passed over because the subscriber was too slow.
    Lost(u64),
    /// The ring is gone; nothing follows.
    Closed,
}

/// Keeps the last records and hands new ones to subscribers. Cheap to clone; clones share one ring.
#[derive(Clone)]
pub struct Ring(Arc<Shared>);

struct Shared {
    capacity: usize,
    /// Read for every call, so not behind the lock.
    subscribers: AtomicUsize,
    /// Request headers that subscribers want to see, with how many of them do.
    headers: RwLock<BTreeMap<String, usize>>,
    state: Mutex<State>,
    meter: Meter,
}

struct State {
    sequence: u64,
    recent: VecDeque<Arc<Entry>>,
    sender: broadcast::Sender<Arc<Entry>>,
}

impl Ring {
    /// A ring of `capacity` records, at least one.
    pub fn new(capacity: usize) -> Ring {
        let capacity = capacity.max(1);
        let (sender, _) = broadcast::channel(capacity);
        let state = State { sequence: 0, recent: VecDeque::new(), sender };
        let subscribers = AtomicUsize::new(0);
        let (state, headers) = (Mutex::new(state), RwLock::default());
        Ring(Arc::new(Shared { capacity, subscribers, headers, state, meter: Meter::default() }))
    }

    /// Starts listening: what is kept already, oldest first, and everything from now on, without a gap
    /// between the two. Records are made from the first call that ends after this.
    pub fn subscribe(&self) -> Subscription {
        self.subscribe_to(None)
    }

    /// Like [`Ring::subscribe`], for somebody who wants to see a request header too; `header` is in small letters.
    pub fn subscribe_to(&self, header: Option<String>) -> Subscription {
        if let Some(name) = &header {
            let mut headers = self.0.headers.write().unwrap_or_else(PoisonError::into_inner);
            *headers.entry(name.clone()).or_default() += 1;
        }
        let state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.subscribers.fetch_add(1, Ordering::SeqCst);
        let recent = state.recent.iter().cloned().collect();
        Subscription { recent, header, receiver: state.sender.subscribe(), shared: self.0.clone() }
    }

    /// How many listen now.
    pub fn subscribers(&self) -> usize {
        self.0.subscribers.load(Ordering::Relaxed)
    }

    /// What it did: `dropped` counts records that a subscriber passed over.
    pub fn reading(&self) -> SinkReading {
        self.0.meter.read("ring", self.0.capacity)
    }
}

impl Sink for Ring {
    fn wants(&self, _call: &Brief<'_>) -> bool {
        self.subscribers() > 0
    }

    fn heeds(&self) -> Heeds {
        let listens = self.subscribers() > 0;
        let headers = listens && !self.0.headers.read().unwrap_or_else(PoisonError::into_inner).is_empty();
        Heeds { stations: listens, request_headers: headers, response_headers: false, openings: listens }
    }

    fn request_headers(&self, ask: &mut dyn FnMut(&str)) {
        if self.subscribers() > 0 {
            let headers = self.0.headers.read().unwrap_or_else(PoisonError::into_inner);
            headers.keys().for_each(|name| ask(name));
        }
    }

    fn record(&self, record: &Arc<Record>) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        if self.subscribers() == 0 {
            return;
        }
        state.sequence += 1;
        let entry = Arc::new(Entry { sequence: state.sequence, record: record.clone() });
        if state.recent.len() == self.0.capacity {
            state.recent.pop_front();
            self.0.meter.wrote(1);
        }
        self.0.meter.entering();
        state.recent.push_back(entry.clone());
        // Sent under the lock, so that every subscriber sees the order of the sequence. It fails only when
        // nobody listens any more.
        let _ = state.sender.send(entry);
    }
}

/// One listener. Dropping it ends the interest; with the last one the ring is emptied.
pub struct Subscription {
    /// What the ring held at the start, oldest first.
    pub recent: Vec<Arc<Entry>>,
    header: Option<String>,
    receiver: broadcast::Receiver<Arc<Entry>>,
    shared: Arc<Shared>,
}

impl Subscription {
    /// The next record. Cancel safe.
    pub async fn next(&mut self) -> Next {
        match self.receiver.recv().await {
            Ok(entry) => Next::Entry(entry),
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                self.shared.meter.dropped.fetch_add(missed, Ordering::Relaxed);
                Next::Lost(missed)
            }
            Err(broadcast::error::RecvError::Closed) => Next::Closed,
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(name) = &self.header {
            let mut headers = self.shared.headers.write().unwrap_or_else(PoisonError::into_inner);
            if let Some(count) = headers.get_mut(name) {
                *count -= 1;
            }
            headers.retain(|_, count| *count > 0);
        }
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        if self.shared.subscribers.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.shared.meter.wrote(state.recent.len() as u64);
            state.recent = VecDeque::new();
            // The channel keeps its last values until they are overwritten; a new one keeps none.
            state.sender = broadcast::channel(self.shared.capacity).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::line::tests::record as plain;

    fn record() -> Arc<Record> {
        Arc::new(plain())
    }

    fn wants(ring: &Ring) -> bool {
        let span = record().span;
        let took = std::time::Duration::ZERO;
        ring.wants(&Brief {
            span: &span,
            effective_status: 200,
            failure: None,
            took,
            caller: "",
            service: "",
            route: "",
            logging: None,
        })
    }

    #[test]
    fn it_asks_for_headers_as_long_as_somebody_wants_them() {
        let ring = Ring::new(4);
        let asked = |ring: &Ring| {
            let mut names = Vec::new();
            ring.request_headers(&mut |name| names.push(name.to_owned()));
            names
        };
        assert_eq!(ring.heeds(), Heeds::default());
        let _plain = ring.subscribe();
        assert!(ring.heeds().stations && !ring.heeds().request_headers);
        let first = ring.subscribe_to(Some("x-lane".to_owned()));
        let second = ring.subscribe_to(Some("x-lane".to_owned()));
        drop(first);
        assert_eq!(asked(&ring), ["x-lane"]);
        assert!(ring.heeds().request_headers);
        drop(second);
        assert!(asked(&ring).is_empty() && !ring.heeds().request_headers);
    }

    #[test]
    fn a_listener_sees_the_header_it_asked_for_and_no_secret() {
        let named = |name: &str, value: &str| (name.into(), value.to_owned());
        let request_headers = vec![named("authorization", "Bearer s3cret"), named("x-lane", "blue")];
        let entry = Entry { sequence: 1, record: Arc::new(Record { request_headers, ..plain() }) };
        let shown = |header| serde_json::to_string(&entry.line(header)).unwrap();
        assert!(!shown(None).contains("headers") && shown(Some("x-lane")).contains("\"x-lane\":\"blue\""));
        let secret = shown(Some("authorization"));
        assert!(secret.contains("\"authorization\":\"***\"") && !secret.contains("s3cret"), "{secret}");
        assert!(entry.has_header("authorization", Some("Bearer s3cret")));
        assert!(!entry.has_header("authorization", Some("***")));
    }

    fn sequence(next: Next) -> u64 {
        match next {
            Next::Entry(entry) => entry.sequence,
            other @ (Next::Lost(_) | Next::Closed) => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn it_wants_records_only_while_somebody_listens() {
        let ring = Ring::new(4);
        assert!(!wants(&ring));
        let mut first = ring.subscribe();
        let second = ring.subscribe();
        assert!(wants(&ring));
        ring.record(&record());
        assert_eq!(sequence(first.next().await), 1);
        drop(first);
        assert!(wants(&ring));
        drop(second);
        assert!(!wants(&ring));
        ring.record(&record());
        assert!(ring.subscribe().recent.is_empty(), "what was held is freed with the last listener");
    }

    #[tokio::test]
    async fn a_late_listener_gets_the_last_records_and_then_the_next_one() {
        let ring = Ring::new(3);
        let _first = ring.subscribe();
        (0..5).for_each(|_| ring.record(&record()));
        let mut late = ring.subscribe();
        assert_eq!(late.recent.iter().map(|entry| entry.sequence).collect::<Vec<_>>(), [3, 4, 5]);
        ring.record(&record());
        assert_eq!(sequence(late.next().await), 6);
        assert_eq!((ring.reading().queued, ring.reading().written), (3, 3));
    }

    #[tokio::test]
    async fn a_slow_listener_is_told_what_it_missed() {
        let ring = Ring::new(4);
        let mut slow = ring.subscribe();
        (0..10).for_each(|_| ring.record(&record()));
        assert!(matches!(slow.next().await, Next::Lost(6)));
        assert_eq!(sequence(slow.next().await), 7);
        assert_eq!(ring.reading().dropped, 6);
    }

    #[test]
    fn listeners_see_no_secrets() {
        let ring = Ring::new(2);
        let _listener = ring.subscribe();
        ring.record(&record());
        let entry = ring.subscribe().recent[0].clone();
        assert_eq!(entry.line(None).target, "/carts/7?token=***&page=2");
        assert!(!format!("{:?}", entry.line(None)).contains("abc&"));
    }
}
