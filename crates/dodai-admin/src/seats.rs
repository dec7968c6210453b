//! Who is connected: a bounded number of seats, and which of them has been silent the longest.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// The seats of a listener.
pub(crate) struct Seats {
    most: usize,
    taken: Mutex<Taken>,
    changed: Notify,
    /// For answers without end.
    streams: Arc<Semaphore>,
}

#[derive(Default)]
struct Taken {
    next: u64,
    seats: BTreeMap<u64, State>,
}

struct State {
    /// Since when nothing is asked for; `None` while an answer is under way.
    silent: Option<Instant>,
    /// Told when somebody else needs the seat.
    wanted: Arc<Notify>,
    leaving: bool,
}

impl Seats {
    /// So many seats, and so many of them for answers without end.
    pub fn new(most: usize, streams: usize) -> Seats {
        let streams = Arc::new(Semaphore::new(streams));
        Seats { most, taken: Mutex::default(), changed: Notify::new(), streams }
    }

    /// A seat; when all are taken, that of the connection that has been silent the longest. Waits while every
    /// one has an answer under way. Cancel safe.
    pub async fn take(self: &Arc<Seats>) -> Seat {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(seat) = self.try_take() {
                return seat;
            }
            changed.await;
        }
    }

    fn try_take(self: &Arc<Seats>) -> Option<Seat> {
        let mut taken = self.taken();
        if taken.seats.len() >= self.most {
            taken.ask_one_to_leave();
            return None;
        }
        taken.next += 1;
        let (number, wanted) = (taken.next, Arc::new(Notify::new()));
        let state = State { silent: Some(Instant::now()), wanted: wanted.clone(), leaving: false };
        taken.seats.insert(number, state);
        Some(Seat { seats: self.clone(), number, wanted })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// One at a time: whoever comes waits for that one.
    fn ask_one_to_leave(&mut self) {
        if self.seats.values().any(|seat| seat.leaving && seat.silent.is_some()) {
            return;
        }
        let staying = self.seats.values_mut().filter(|seat| !seat.leaving && seat.silent.is_some());
        if let Some(longest) = staying.min_by_key(|seat| seat.silent) {
            longest.leaving = true;
            longest.wanted.notify_one();
        }
    }
}

/// A taken seat; free again when it is dropped.
pub(crate) struct Seat {
    seats: Arc<Seats>,
    number: u64,
    wanted: Arc<Notify>,
}

impl Seat {
    /// Ends when somebody else needs the seat. Cancel safe.
    pub async fn is_wanted(&self) {
        self.wanted.notified().await;
    }

    /// Whether no answer is under way.
    pub fn is_silent(&self) -> bool {
        self.seats.taken().seats.get(&self.number).is_some_and(|seat| seat.silent.is_some())
    }

    /// An answer is under way as long as the result lives.
    pub fn answering(self: Arc<Seat>) -> Answering {
        self.set(None);
        Answering { seat: self, stream: None }
    }

    fn set(&self, silent: Option<Instant>) {
        if let Some(seat) = self.seats.taken().seats.get_mut(&self.number) {
            seat.silent = silent;
        }
        self.seats.changed.notify_waiters();
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.taken().seats.remove(&self.number);
        self.seats.changed.notify_waiters();
    }
}

/// An answer that is under way.
pub(crate) struct Answering {
    seat: Arc<Seat>,
    stream: Option<OwnedSemaphorePermit>,
}

impl Answering {
    /// The same for an answer without end, if there may be one more.
    pub fn for_long(mut self) -> Result<Answering, Answering> {
        match self.seat.seats.streams.clone().try_acquire_owned() {
            Ok(permit) => {
                self.stream = Some(permit);
                Ok(self)
            }
            Err(_none_left) => Err(self),
        }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.seat.set(Some(Instant::now()));
    }
}

/// The body of an answer, which is under way until it ends.
pub(crate) struct Answer {
    body: Body,
    _under_way: Answering,
}

impl Answer {
    /// This body, of this answer.
    pub fn new(body: Body, under_way: Answering) -> Answer {
        Answer { body, _under_way: under_way }
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn is_told(seat: &Seat) -> bool {
        tokio::time::timeout(std::time::Duration::ZERO, seat.is_wanted()).await.is_ok()
    }

    #[tokio::test]
    async fn the_longest_silent_seat_is_given_up_and_a_busy_one_never() {
        let seats = Arc::new(Seats::new(3, 3));
        let (busy, first, second) = (seats.take().await, seats.take().await, seats.take().await);
        let busy = Arc::new(busy);
        let answering = busy.clone().answering();
        assert!(seats.try_take().is_none() && seats.try_take().is_none());
        assert!(is_told(&first).await && !is_told(&second).await && !is_told(&busy).await, "one at a time");
        drop(first);
        let third = seats.take().await;
        assert!(seats.try_take().is_none());
        assert!(is_told(&second).await);
        // It had just begun to ask: somebody else must leave.
        let second = Arc::new(second);
        let second_answering = second.clone().answering();
        assert!(seats.try_take().is_none());
        assert!(is_told(&third).await && !is_told(&busy).await);
        drop((answering, second_answering));
        assert!(busy.is_silent() && second.is_silent());
        drop(third);
        assert!(seats.try_take().is_some());
    }
}
