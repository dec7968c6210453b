//! The two halves of a stream, for the tasks of calls. They may be used on any thread.
//!
//! Dropping [`Sending`] before its end resets the stream: half a message must not pass for a whole one. Dropping
//! [`Receiving`] says that nobody reads on; when both are gone, so is the stream.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::Reason;
use super::block::Block;
use super::connection::{Connection, Role, Settings};
use super::encode::Encoder;
use super::stream::{Cut, Piece, Stream, Way};

/// A connection that its streams and its driver share.
#[derive(Clone)]
pub struct Shared(Arc<Mutex<Connection>>);

/// Why nothing more comes on a stream, or goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// The other side reset it.
    Reset(Reason),
    /// The other side broke a rule.
    Broken(Reason),
    /// The other side went away and has not looked at it: it may be tried again.
    Unseen,
    /// The connection ended.
    Lost,
}

impl std::fmt::Display for Gone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Gone::Reset(reason) => write!(f, "it was reset with {reason}"),
            Gone::Broken(reason) => write!(f, "it broke the rules of HTTP/2: {reason}"),
            Gone::Unseen => f.write_str("the other side goes away and has not looked at it"),
            Gone::Lost => f.write_str("the connection was lost"),
        }
    }
}

fn gone(stream: &Stream) -> Gone {
    match stream.cut {
        Some(Cut::Reset(reason)) => Gone::Reset(reason),
        Some(Cut::Refused(reason)) => Gone::Broken(reason),
        Some(Cut::Unseen) => Gone::Unseen,
        Some(Cut::Lost) | None => Gone::Lost,
    }
}

fn wait(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(known) if known.will_wake(cx.waker()) => {}
        slot => *slot = Some(cx.waker().clone()),
    }
}

impl Shared {
    /// A new connection.
    pub fn new(role: Role, settings: Settings) -> Shared {
        Shared(Arc::new(Mutex::new(Connection::new(role, settings))))
    }

    /// The connection.
    pub fn lock(&self) -> MutexGuard<'_, Connection> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream that the other side opened, with its head.
    pub fn accept(&self) -> Option<(Block, Receiving, Sending)> {
        let mut connection = self.lock();
        let key = connection.next_arrived()?;
        let stream = connection.streams.get_mut(key)?;
        let Some(Piece::Head(head)) = stream.inbox.pop() else { return None };
        stream.held = 2;
        Some((head, Receiving { at: self.clone(), key }, Sending { at: self.clone(), key }))
    }

    /// Opens a stream with the head that `write` encodes; `end` if nothing follows it. `bodiless` says that the answer
    /// has no body whatever length it announces. `None` if the other side takes no more streams for now.
    pub fn open(
        &self,
        end: bool,
        bodiless: bool,
        write: impl FnOnce(&mut Encoder, &mut Vec<u8>),
    ) -> Option<(Receiving, Sending)> {
        let mut connection = self.lock();
        let key = connection.open(end, bodiless, write)?;
        connection.streams.get_mut(key)?.held = 2;
        Some((Receiving { at: self.clone(), key }, Sending { at: self.clone(), key }))
    }
}

/// What comes on a stream.
pub struct Receiving {
    at: Shared,
    key: usize,
}

impl Receiving {
    /// The next piece, `None` at the end. Data that is taken may be sent anew by the other side. Cancel safe.
    pub fn poll_piece(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Piece, Gone>>> {
        let mut connection = self.at.lock();
        let Some(stream) = connection.streams.get_mut(self.key) else { return Poll::Ready(None) };
        if let Some(piece) = stream.inbox.pop() {
            if let Piece::Data(data) = &piece {
                let id = stream.id;
                connection.give_back(Some(id), data.len());
            }
            return Poll::Ready(Some(Ok(piece)));
        }
        match stream.incoming {
            Way::Ended => Poll::Ready(None),
            Way::Cut => Poll::Ready(Some(Err(gone(stream)))),
            Way::Open => {
                wait(&mut stream.reader, cx);
                Poll::Pending
            }
        }
    }

    /// Whether everything was read, and it ended well.
    pub fn is_end(&self) -> bool {
        let connection = self.at.lock();
        connection
            .streams
            .get(self.key)
            .is_none_or(|stream| stream.inbox.is_empty() && stream.incoming == Way::Ended)
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        let mut connection = self.at.lock();
        connection.unwanted(self.key);
        connection.let_go(self.key);
    }
}

/// What goes out on a stream.
pub struct Sending {
    at: Shared,
    key: usize,
}

impl Sending {
    /// Sends the head that `write` encodes, or trailers.
    pub fn head(&self, end: bool, write: impl FnOnce(&mut Encoder, &mut Vec<u8>)) {
        self.at.lock().head(self.key, end, write);
    }

    /// Sends `data` as the other side and the outbox have room for it; `end` if nothing follows. What is sent is taken
    /// off the front of `data`, so that it can be called again. Cancel safe.
    pub fn poll_data(&self, cx: &Context<'_>, data: &mut Bytes, end: bool) -> Poll<Result<(), Gone>> {
        let mut connection = self.at.lock();
        loop {
            let Some(stream) = connection.streams.get(self.key) else { return Poll::Ready(Err(Gone::Lost)) };
            if stream.outgoing != Way::Open {
                return Poll::Ready(Err(gone(stream)));
            }
            if data.is_empty() {
                if end {
                    connection.data(self.key, Bytes::new(), true);
                }
                return Poll::Ready(Ok(()));
            }
            let room = connection.sendable(stream, data.len());
            if room == 0 {
                connection.block(self.key);
                if let Some(stream) = connection.streams.get_mut(self.key) {
                    wait(&mut stream.writer, cx);
                }
                return Poll::Pending;
            }
            let piece = data.split_to(room);
            let last = data.is_empty();
            connection.data(self.key, piece, end && last);
            if last {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Ready when nothing more can be sent because the stream was cut. Cancel safe.
    pub fn poll_gone(&self, cx: &Context<'_>) -> Poll<Gone> {
        let mut connection = self.at.lock();
        let Some(stream) = connection.streams.get_mut(self.key) else { return Poll::Ready(Gone::Lost) };
        if stream.cut.is_some() {
            return Poll::Ready(gone(stream));
        }
        wait(&mut stream.writer, cx);
        Poll::Pending
    }

    /// Ends the stream at once.
    pub fn reset(&self, reason: Reason) {
        self.at.lock().reset(self.key, reason);
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let mut connection = self.at.lock();
        let open = |stream: &Stream| stream.outgoing == Way::Open;
        if connection.streams.get(self.key).is_some_and(open) {
            connection.reset(self.key, Reason::CANCEL);
        }
        connection.let_go(self.key);
    }
}

impl Connection {
    /// A half is dropped. The last one ends what is left of the stream.
    fn let_go(&mut self, key: usize) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        stream.held = stream.held.saturating_sub(1);
        if stream.held > 0 {
            return;
        }
        if !stream.is_done() {
            // A server may answer before it has read everything (RFC 9113 section 8.1).
            let answered = self.role == Role::Server && stream.outgoing == Way::Ended;
            self.reset(key, if answered { Reason::NO_ERROR } else { Reason::CANCEL });
        }
        self.streams.settle(key);
    }

    /// A sender waits for room in the outbox or the connection's window.
    fn block(&mut self, key: usize) {
        if let Some(stream) = self.streams.get_mut(key)
            && !std::mem::replace(&mut stream.blocked, true)
        {
            self.blocked.push_back(key);
        }
    }
}
