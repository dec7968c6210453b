//! One connection: its settings, windows, tables and streams. [`super::receive`] reads, [`super::send`] writes.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use super::budget::Budget;
use super::encode::Encoder;
use super::frame::{self, FIRST_WINDOW, Header};
use super::hpack::Decoder;
use super::outbox::Outbox;
use super::receive::{Fragments, Reading};
use super::stream::{Cut, Streams};
use super::{PREFACE, Reason};
use crate::limits::{H2_IDLE_FRAMES, H2_IDLE_FRAMES_PER_SECOND, H2_RESETS, H2_RESETS_PER_SECOND};

/// Streams that ended are remembered, to tell late frames from wrong ones; the oldest is forgotten first.
const REMEMBERED: usize = 256;

/// Which side we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We open streams.
    Client,
    /// The other side opens streams.
    Server,
}

/// What we grant the other side.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Bytes of one stream that it may send before we take them.
    pub stream_window: u32,
    /// Bytes of all streams together.
    pub connection_window: u32,
    /// Streams that it may have open.
    pub streams: u32,
    /// Bytes of one head or of trailers.
    pub list_bytes: usize,
}

/// What the other side grants us.
pub(super) struct Granted {
    /// Whether it takes CONNECT with a protocol (RFC 8441).
    pub connect: bool,
    pub streams: usize,
    pub stream_window: i64,
    pub frame: usize,
}

/// How a stream ended that is remembered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Past {
    /// Both sides ended it.
    Ended,
    /// We reset it; the other side may not have heard.
    ResetByUs,
    /// The other side reset it.
    ResetByThem,
}

/// A connection without its socket.
pub struct Connection {
    pub(super) role: Role,
    pub(super) settings: Settings,
    pub(super) granted: Granted,
    pub(super) decoder: Decoder,
    pub(super) encoder: Encoder,
    pub(super) streams: Streams,
    pub(super) out: Outbox,
    pub(super) reading: Reading,
    pub(super) fragments: Option<Fragments>,
    /// What the other side may still send, and what we owe it of that.
    pub(super) window_in: i64,
    pub(super) owed: u32,
    pub(super) window_out: i64,
    /// The number of the next stream that we open.
    pub(super) next_id: u32,
    /// The highest number of a stream that the other side opened.
    pub(super) last_id: u32,
    pub(super) past: VecDeque<(u32, Past)>,
    /// Streams that the other side opened and nobody took yet.
    pub(super) arrived: VecDeque<(usize, u32)>,
    /// Streams whose sender waits for room in the outbox or in the connection's window.
    pub(super) blocked: VecDeque<usize>,
    pub(super) resets: Budget,
    pub(super) idle_frames: Budget,
    /// Whether the other side has sent its settings.
    pub(super) greeted: bool,
    /// Who waits for that, or for the answer to a ping.
    listening: Vec<Waker>,
    /// Whether the other side opens no further streams, or takes none.
    pub(super) leaving: bool,
    pub(super) closing: Closing,
    /// Our pings, and answers to them.
    pub(super) pings: u64,
    pub(super) pongs: u64,
    /// Why the connection is over.
    pub(super) failed: Option<Reason>,
    /// What the other side began with instead of its settings.
    pub(super) strange: Vec<u8>,
    driver: Option<Waker>,
}

/// How far a server is with its leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closing {
    No,
    /// The other side was told, and a ping tells when it heard.
    Told,
    /// Streams that it opens now are not looked at any more.
    Done,
}

impl Connection {
    /// A new connection, with its greeting in the outbox.
    pub fn new(role: Role, settings: Settings) -> Connection {
        let mut connection = Connection {
            role,
            settings,
            granted: Granted {
                connect: false,
                streams: 100,
                stream_window: i64::from(FIRST_WINDOW),
                frame: frame::LARGEST,
            },
            decoder: Decoder::default(),
            encoder: Encoder::new(role == Role::Server),
            streams: Streams::default(),
            out: Outbox::default(),
            reading: if role == Role::Server { Reading::Preface } else { Reading::Frame },
            fragments: None,
            window_in: i64::from(FIRST_WINDOW.max(settings.connection_window)),
            owed: 0,
            window_out: i64::from(FIRST_WINDOW),
            next_id: 1,
            last_id: 0,
            past: VecDeque::new(),
            arrived: VecDeque::new(),
            blocked: VecDeque::new(),
            resets: Budget::new(H2_RESETS, H2_RESETS_PER_SECOND),
            idle_frames: Budget::new(H2_IDLE_FRAMES, H2_IDLE_FRAMES_PER_SECOND),
            greeted: false,
            listening: Vec::new(),
            leaving: false,
            closing: Closing::No,
            pings: 0,
            pongs: 0,
            failed: None,
            strange: Vec::new(),
            driver: None,
        };
        connection.greet();
        connection
    }

    fn greet(&mut self) {
        let mut payload = Vec::with_capacity(32);
        let mut put = |id: u16, value: u32| {
            payload.extend_from_slice(&id.to_be_bytes());
            payload.extend_from_slice(&value.to_be_bytes());
        };
        match self.role {
            Role::Client => put(frame::ENABLE_PUSH, 0),
            Role::Server => {
                put(frame::MAX_CONCURRENT_STREAMS, self.settings.streams);
                put(frame::ENABLE_CONNECT_PROTOCOL, 1);
            }
        }
        put(frame::INITIAL_WINDOW_SIZE, self.settings.stream_window);
        put(frame::MAX_HEADER_LIST_SIZE, u32::try_from(self.settings.list_bytes).unwrap_or(u32::MAX));
        if self.role == Role::Client {
            self.out.small().extend_from_slice(PREFACE);
        }
        let header = Header { length: payload.len(), kind: frame::SETTINGS, flags: 0, stream: 0 };
        self.out.frame(header, &payload);
        let more = self.settings.connection_window.saturating_sub(FIRST_WINDOW);
        if more > 0 {
            self.window_update(0, more);
        }
    }

    /// What the other side may send on a new stream. It may not have heard of a smaller window than the first one.
    pub(super) fn stream_window(&self) -> u32 {
        self.settings.stream_window.max(FIRST_WINDOW)
    }

    /// What is to be written.
    pub fn outbox(&mut self) -> &mut Outbox {
        &mut self.out
    }

    /// Why the connection is over, if it is: what is in the outbox says so to the other side.
    pub fn failed(&self) -> Option<Reason> {
        self.failed
    }

    /// The first bytes of the other side, if they are no HTTP/2.
    pub fn strange(&self) -> Option<&[u8]> {
        (!self.strange.is_empty()).then_some(&self.strange)
    }

    /// Whether the other side has said what it grants.
    pub fn is_greeted(&self) -> bool {
        self.greeted
    }

    /// Whether the other side takes CONNECT with a protocol, once it has said what it grants; `None` if the connection
    /// ended before. Cancel safe.
    pub fn poll_takes_connect(&mut self, cx: &Context<'_>) -> Poll<Option<bool>> {
        if self.greeted {
            return Poll::Ready(Some(self.granted.connect));
        }
        if self.failed.is_some() {
            return Poll::Ready(None);
        }
        self.listen(cx)
    }

    /// Asks whether the other side is there, unless it has been asked; says what [`Connection::poll_pong`] waits for.
    pub fn ask(&mut self) -> u64 {
        if self.pings <= self.pongs {
            self.ping();
        }
        self.pongs + 1
    }

    /// Whether the other side has answered so many pings; no if the connection ended before. Cancel safe.
    pub fn poll_pong(&mut self, pongs: u64, cx: &Context<'_>) -> Poll<bool> {
        if self.pongs >= pongs {
            return Poll::Ready(true);
        }
        if self.failed.is_some() {
            return Poll::Ready(false);
        }
        self.listen(cx)
    }

    fn listen<T>(&mut self, cx: &Context<'_>) -> Poll<T> {
        if !self.listening.iter().any(|known| known.will_wake(cx.waker())) {
            self.listening.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// The other side has said what it grants or answered a ping, or never will.
    pub(super) fn tell_listening(&mut self) {
        self.listening.drain(..).for_each(Waker::wake);
    }

    /// Whether no more streams can be opened, or will be.
    pub fn is_leaving(&self) -> bool {
        self.leaving || self.failed.is_some() || self.next_id > 0x7fff_ffff
    }

    /// Streams in which something may still pass.
    pub fn live(&self) -> usize {
        self.streams.live()
    }

    /// How many more streams may be opened at this moment.
    pub fn room(&self) -> usize {
        self.granted.streams.saturating_sub(self.streams.live())
    }

    /// How many of our pings were answered.
    pub fn pongs(&self) -> u64 {
        self.pongs
    }

    /// Whether all was said and done. A client that takes leave closes by itself.
    pub fn is_finished(&self) -> bool {
        let left = self.closing == Closing::Done || (self.leaving && self.role == Role::Client);
        let over = self.failed.is_some() || (left && self.streams.live() == 0);
        over && self.out.is_empty()
    }

    /// Who writes what is in the outbox.
    pub fn set_driver(&mut self, waker: &Waker) {
        match &mut self.driver {
            Some(known) if known.will_wake(waker) => {}
            driver => *driver = Some(waker.clone()),
        }
    }

    /// Something is in the outbox.
    pub(super) fn wake_driver(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }

    /// The connection is over: nothing more is read, and all streams end.
    pub(super) fn fail(&mut self, reason: Reason) {
        if self.failed.is_none() {
            self.failed = Some(reason);
            self.goaway(self.last_id, reason);
            self.lose(Cut::Lost);
        }
    }

    /// The socket is closed.
    pub fn lost(&mut self) {
        self.failed.get_or_insert(Reason::NO_ERROR);
        self.lose(Cut::Lost);
    }

    fn lose(&mut self, why: Cut) {
        self.tell_listening();
        let mut keys = Vec::new();
        for stream in self.streams.iter_mut() {
            if !stream.is_done() {
                stream.cut(why);
                keys.push(stream.id);
            }
        }
        for id in keys {
            if let Some(key) = self.streams.key(id) {
                self.streams.settle(key);
            }
        }
        self.wake_driver();
    }

    /// Remembers how a stream ended.
    pub(super) fn remember(&mut self, id: u32, how: Past) {
        if self.past.len() >= REMEMBERED {
            self.past.pop_front();
        }
        self.past.push_back((id, how));
    }

    pub(super) fn past(&self, id: u32) -> Option<Past> {
        self.past.iter().rev().find(|(past, _)| *past == id).map(|(_, how)| *how)
    }

    /// A stream that the other side opened, if there is one: its slot.
    pub(super) fn next_arrived(&mut self) -> Option<usize> {
        loop {
            let (key, id) = self.arrived.pop_front()?;
            // One that was given up in between has no number any more.
            if self.streams.key(id) == Some(key) {
                return Some(key);
            }
        }
    }
}
