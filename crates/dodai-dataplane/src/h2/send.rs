//! Writing: heads, data and the frames that keep a connection going, into the outbox.

use bytes::Bytes;

use super::Reason;
use super::connection::{Closing, Connection, Past, Role};
use super::encode::Encoder;
use super::frame::{self, Header};
use super::stream::{Cut, Stream, Way};
use crate::limits::H2_OUTBOX;

/// Data that does not fit whole waits for at least so much room.
const LEAST: usize = 8 * 1024;
/// Bytes that may wait there whatever they are.
pub(super) const MOST_WAITING: usize = 4 * H2_OUTBOX;

impl Connection {
    /// Opens a stream with the head that `write` encodes. `None` if the other side takes no more streams for now.
    pub(super) fn open(
        &mut self,
        end: bool,
        bodiless: bool,
        write: impl FnOnce(&mut Encoder, &mut Vec<u8>),
    ) -> Option<usize> {
        if self.is_leaving() || self.room() == 0 {
            return None;
        }
        let id = self.next_id;
        self.next_id += 2;
        let mut stream = Stream::new(id, self.stream_window(), self.granted.stream_window);
        stream.bodiless = bodiless;
        let key = self.streams.add(stream);
        self.head(key, end, write);
        Some(key)
    }

    /// Sends a head or trailers on a stream.
    pub(super) fn head(&mut self, key: usize, end: bool, write: impl FnOnce(&mut Encoder, &mut Vec<u8>)) {
        let Some(stream) = self.streams.get_mut(key).filter(|stream| stream.outgoing == Way::Open) else {
            return;
        };
        let id = stream.id;
        let out = self.out.small();
        let start = out.len();
        out.extend_from_slice(&[0; frame::HEADER]);
        self.encoder.begin(out);
        write(&mut self.encoder, out);
        let length = out.len() - start - frame::HEADER;
        let end_flag = if end { frame::END_STREAM } else { 0 };
        if length <= self.granted.frame {
            let flags = end_flag | frame::END_HEADERS;
            let header = Header { length, kind: frame::HEADERS, flags, stream: id };
            out[start..start + frame::HEADER].copy_from_slice(&header.bytes());
        } else {
            let block = out.split_off(start + frame::HEADER);
            out.truncate(start);
            let pieces = block.len().div_ceil(self.granted.frame);
            for (number, piece) in block.chunks(self.granted.frame).enumerate() {
                let kind = if number == 0 { frame::HEADERS } else { frame::CONTINUATION };
                let last = if number + 1 == pieces { frame::END_HEADERS } else { 0 };
                let flags = last | if number == 0 { end_flag } else { 0 };
                self.out.frame(Header { length: piece.len(), kind, flags, stream: id }, piece);
            }
        }
        if end {
            self.end_outgoing(key);
        }
        self.wake_driver();
    }

    /// How many of `wanted` bytes may be sent on a stream now.
    pub(super) fn sendable(&self, stream: &Stream, wanted: usize) -> usize {
        let room = H2_OUTBOX.saturating_sub(self.out.len());
        // Better one large frame in a moment than a small one now.
        if room < wanted && room < LEAST {
            return 0;
        }
        let most = stream.window_out.min(self.window_out).max(0) as usize;
        most.min(room).min(self.granted.frame).min(wanted)
    }

    /// Sends data that is within what is [`Connection::sendable`].
    pub(super) fn data(&mut self, key: usize, data: Bytes, end: bool) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        let length = data.len();
        stream.window_out -= length as i64;
        self.window_out -= length as i64;
        let flags = if end { frame::END_STREAM } else { 0 };
        let header = Header { length, kind: frame::DATA, flags, stream: stream.id };
        self.out.frame_of(header, data);
        if end {
            self.end_outgoing(key);
        }
        self.wake_driver();
    }

    fn end_outgoing(&mut self, key: usize) {
        if let Some(stream) = self.streams.get_mut(key) {
            stream.outgoing = Way::Ended;
        }
        self.settle(key);
    }

    /// A stream may be done.
    pub(super) fn settle(&mut self, key: usize) {
        if let Some(stream) = self.streams.get(key).filter(|stream| stream.is_done()) {
            if stream.cut.is_none() && self.streams.key(stream.id).is_some() {
                let id = stream.id;
                self.remember(id, Past::Ended);
            }
            self.streams.settle(key);
            if self.streams.live() == 0 && (self.leaving || self.closing != Closing::No) {
                self.wake_driver();
            }
        }
    }

    /// Ends a stream at once, because somebody on our side wants that.
    pub(super) fn reset(&mut self, key: usize, reason: Reason) {
        let Some(stream) = self.streams.get_mut(key).filter(|stream| !stream.is_done()) else { return };
        let id = stream.id;
        stream.cut(Cut::Lost);
        self.forget(id, key, reason);
    }

    /// Ends a stream because the other side broke a rule.
    pub(super) fn reset_by_rule(&mut self, id: u32, reason: Reason) {
        match self.streams.key(id) {
            Some(key) => {
                if let Some(stream) = self.streams.get_mut(key) {
                    stream.cut(Cut::Refused(reason));
                }
                self.forget(id, key, reason);
            }
            None => {
                self.write_reset(id, reason);
                self.remember(id, Past::ResetByUs);
            }
        }
    }

    fn forget(&mut self, id: u32, key: usize, reason: Reason) {
        self.write_reset(id, reason);
        self.remember(id, Past::ResetByUs);
        self.settle(key);
    }

    fn write_reset(&mut self, id: u32, reason: Reason) {
        let header = Header { length: 4, kind: frame::RST_STREAM, flags: 0, stream: id };
        self.out.frame(header, &reason.0.to_be_bytes());
        self.wake_driver();
    }

    pub(super) fn window_update(&mut self, stream: u32, more: u32) {
        let header = Header { length: 4, kind: frame::WINDOW_UPDATE, flags: 0, stream };
        self.out.frame(header, &more.to_be_bytes());
        self.wake_driver();
    }

    /// Gives `bytes` back to the other side, of the connection and of a stream. It is told when it is worth a frame.
    pub(super) fn give_back(&mut self, stream: Option<u32>, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.owed += bytes as u32;
        if self.owed >= self.settings.connection_window / 2 {
            let owed = std::mem::take(&mut self.owed);
            self.window_in += i64::from(owed);
            self.window_update(0, owed);
        }
        let half = self.settings.stream_window / 2;
        let Some(stream) = stream.and_then(|id| self.streams.by_id(id)) else { return };
        stream.owed += bytes as u32;
        if stream.owed >= half && stream.incoming == Way::Open {
            let (id, owed) = (stream.id, std::mem::take(&mut stream.owed));
            stream.window_in += i64::from(owed);
            self.window_update(id, owed);
        }
    }

    /// Nobody reads a stream any more.
    pub(super) fn unwanted(&mut self, key: usize) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        stream.unwanted = true;
        let left = stream.inbox.clear();
        self.give_back(None, left);
    }

    /// Wakes the senders that wait for room.
    pub(super) fn wake_blocked(&mut self) {
        while let Some(key) = self.blocked.pop_front() {
            let Some(stream) = self.streams.get_mut(key) else { continue };
            stream.blocked = false;
            if let Some(writer) = stream.writer.take() {
                writer.wake();
            }
        }
    }

    /// Something of the outbox was written.
    pub fn wrote(&mut self, bytes: usize) {
        self.out.advance(bytes);
        if !self.blocked.is_empty() && self.out.len() <= H2_OUTBOX / 2 {
            self.wake_blocked();
        }
    }

    /// Asks whether the other side lives.
    pub fn ping(&mut self) {
        let header = Header { length: 8, kind: frame::PING, flags: 0, stream: 0 };
        self.out.frame(header, b"dodai-up");
        self.pings += 1;
        self.wake_driver();
    }

    pub(super) fn goaway(&mut self, last: u32, reason: Reason) {
        let mut payload = [0; 8];
        payload[..4].copy_from_slice(&last.to_be_bytes());
        payload[4..].copy_from_slice(&reason.0.to_be_bytes());
        self.out.frame(Header { length: 8, kind: frame::GOAWAY, flags: 0, stream: 0 }, &payload);
        self.wake_driver();
    }

    /// Takes leave: the other side is asked to open no more streams. Those that it opened before it heard are served.
    pub fn shut_down(&mut self) {
        if self.role == Role::Server && self.closing == Closing::No && self.failed.is_none() {
            self.closing = Closing::Told;
            self.goaway(0x7fff_ffff, Reason::NO_ERROR);
            self.ping();
        }
    }

    /// A client opens no further streams; the connection ends when the last one has.
    pub fn retire(&mut self) {
        if !self.leaving {
            self.leaving = true;
            self.goaway(0, Reason::NO_ERROR);
        }
    }

    /// The other side has read everything up to our ping.
    pub(super) fn heard(&mut self) {
        if self.closing == Closing::Told {
            self.closing = Closing::Done;
            self.goaway(self.last_id, Reason::NO_ERROR);
        }
    }

    /// The other side went away without having looked at the streams after `last`.
    pub(super) fn unseen(&mut self, last: u32) {
        let ids: Vec<u32> = self.streams.iter_mut().map(|stream| stream.id).filter(|id| *id > last).collect();
        for id in ids {
            if let Some(key) = self.streams.key(id) {
                if let Some(stream) = self.streams.get_mut(key) {
                    stream.cut(Cut::Unseen);
                }
                self.remember(id, Past::ResetByThem);
                self.settle(key);
            }
        }
        self.wake_driver();
    }
}
