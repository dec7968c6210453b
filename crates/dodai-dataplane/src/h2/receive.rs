//! Reading: frames to pieces in the inboxes of streams (RFC 9113 sections 5 and 6).

use bytes::{Buf, BytesMut};
use tokio::time::Instant;

use super::block::Block;
use super::connection::{Closing, Connection, Past, Role};
use super::frame::{self, Header};
use super::inbox::Data;
use super::message;
use super::stream::{Cut, Piece, Stream, Way};
use super::{PREFACE, Reason};
use crate::limits::H2_FRAGMENTS;

/// Payloads from this size on stay in the buffer that they were read into.
const LARGE: usize = 8192;

/// Bytes that are kept of an other side that speaks something else.
const STRANGE: usize = 16;

/// Informational responses that wait to be taken.
const MOST_INTERIM: usize = 4;

/// What comes next.
pub(super) enum Reading {
    Preface,
    Frame,
    Data(Payload),
}

/// The payload of a DATA frame of which some is still to come.
#[derive(Clone, Copy)]
pub(super) struct Payload {
    /// The stream, unless nobody wants it.
    id: Option<u32>,
    left: usize,
    padding: usize,
    end: bool,
}

/// A field block of which some is still to come.
pub(super) struct Fragments {
    id: u32,
    end: bool,
    bad: Option<Reason>,
    frames: u32,
    coded: Vec<u8>,
}

/// What is wrong with a frame.
enum Fault {
    Connection(Reason),
    Stream(u32, Reason),
}

fn broken<T>() -> Result<T, Fault> {
    Err(Fault::Connection(Reason::PROTOCOL_ERROR))
}

fn wrong_size<T>() -> Result<T, Fault> {
    Err(Fault::Connection(Reason::FRAME_SIZE_ERROR))
}

impl Connection {
    /// Takes what can be taken of `input`, which arrived at `now`. When it breaks the rules, the connection has failed.
    pub fn receive(&mut self, input: &mut BytesMut, now: Instant) {
        let mut at = 0;
        while self.failed().is_none() {
            let bytes = &input[at..];
            match self.reading {
                Reading::Preface => {
                    let count = bytes.len().min(PREFACE.len());
                    if bytes[..count] != PREFACE[..count] {
                        self.fail(Reason::PROTOCOL_ERROR);
                    } else if count < PREFACE.len() {
                        break;
                    } else {
                        at += count;
                        self.reading = Reading::Frame;
                    }
                }
                Reading::Frame => {
                    let Some(header) = Header::read(bytes) else { break };
                    match self.take_frame(header, bytes, now) {
                        Ok(0) => break,
                        Ok(used) => at += used,
                        Err(fault) => {
                            if !self.greeted {
                                self.strange = bytes[..bytes.len().min(STRANGE)].to_vec();
                            }
                            at += (frame::HEADER + header.length).min(bytes.len());
                            self.punish(fault, now);
                        }
                    }
                }
                Reading::Data(payload) => {
                    if bytes.is_empty() && payload.left + payload.padding > 0 {
                        break;
                    }
                    let count = payload.left.min(bytes.len());
                    let padding = payload.padding.min(bytes.len() - count);
                    if count >= LARGE {
                        input.advance(at);
                        at = 0;
                        let data = Data::Own(input.split_to(count).freeze());
                        self.take_data(payload, data, padding, now);
                    } else {
                        self.take_data(payload, Data::Lent(&bytes[..count]), padding, now);
                        at += count;
                    }
                    at += padding;
                }
            }
        }
        input.advance(at);
    }

    fn punish(&mut self, fault: Fault, now: Instant) {
        match fault {
            Fault::Connection(reason) => self.fail(reason),
            Fault::Stream(id, reason) => {
                // Making us reset streams is as cheap as resetting them.
                if !self.resets.take(now) {
                    return self.fail(Reason::ENHANCE_YOUR_CALM);
                }
                self.reset_by_rule(id, reason);
            }
        }
    }

    /// Takes one frame, or the beginning of one with data; says how many bytes that were, 0 if it is not there yet.
    fn take_frame(&mut self, header: Header, bytes: &[u8], now: Instant) -> Result<usize, Fault> {
        if header.length > frame::LARGEST {
            return wrong_size();
        }
        let whole = frame::HEADER + header.length;
        if let Some(fragments) = &self.fragments
            && (header.kind != frame::CONTINUATION || header.stream != fragments.id)
        {
            return broken();
        }
        if !self.greeted && (header.kind != frame::SETTINGS || header.has(frame::ACK)) {
            return broken();
        }
        if header.kind == frame::DATA {
            return self.begin_data(header, bytes, now);
        }
        let Some(payload) = bytes.get(frame::HEADER..whole) else { return Ok(0) };
        match header.kind {
            frame::HEADERS => self.headers(header, payload)?,
            frame::CONTINUATION => self.continuation(header, payload)?,
            frame::WINDOW_UPDATE => self.window_update_came(header, payload)?,
            frame::RST_STREAM => self.reset_came(header, payload, now)?,
            frame::SETTINGS => self.settings_came(header, payload, now)?,
            frame::PING => self.ping_came(header, payload, now)?,
            frame::GOAWAY => self.goaway_came(header, payload)?,
            frame::PRIORITY => self.priority_came(header, payload, now)?,
            frame::PUSH_PROMISE => return broken(),
            _ => self.useless(now)?,
        }
        Ok(whole)
    }

    /// Counts a frame that does nothing.
    fn useless(&mut self, now: Instant) -> Result<(), Fault> {
        if self.idle_frames.take(now) { Ok(()) } else { Err(Fault::Connection(Reason::ENHANCE_YOUR_CALM)) }
    }

    /// Whether nobody has opened this stream yet.
    fn is_idle(&self, id: u32) -> bool {
        let ours = (id % 2 == 1) == (self.role == Role::Client);
        if ours { id >= self.next_id } else { id > self.last_id }
    }

    fn begin_data(&mut self, header: Header, bytes: &[u8], now: Instant) -> Result<usize, Fault> {
        let padded = header.has(frame::PADDED);
        let used = frame::HEADER + usize::from(padded);
        if bytes.len() < used && header.length > 0 {
            return Ok(0);
        }
        if header.stream == 0 || self.is_idle(header.stream) {
            return broken();
        }
        let padding = if padded { usize::from(*bytes.get(frame::HEADER).unwrap_or(&0)) } else { 0 };
        let Some(left) = header.length.checked_sub(usize::from(padded) + padding) else { return broken() };
        self.window_in -= header.length as i64;
        if self.window_in < 0 {
            return Err(Fault::Connection(Reason::FLOW_CONTROL_ERROR));
        }
        let end = header.has(frame::END_STREAM);
        if left == 0 && !end {
            self.useless(now)?;
        }
        let id = header.stream;
        let late = self.streams.key(id).is_none() && self.past(id) == Some(Past::ResetByUs);
        let fault = match self.streams.by_id(id) {
            Some(stream) if stream.incoming == Way::Open && stream.headed => {
                stream.window_in -= header.length as i64;
                (stream.window_in < 0).then_some(Reason::FLOW_CONTROL_ERROR)
            }
            Some(stream) if stream.incoming == Way::Open => Some(Reason::PROTOCOL_ERROR),
            Some(_) => Some(Reason::STREAM_CLOSED),
            // It may not have heard yet.
            None if late => None,
            None => Some(Reason::STREAM_CLOSED),
        };
        let wanted = fault.is_none() && self.streams.key(id).is_some();
        let payload = Payload { id: wanted.then_some(id), left, padding, end };
        self.give_back(wanted.then_some(id), usize::from(padded));
        self.reading = Reading::Data(payload);
        if let Some(reason) = fault {
            self.punish(Fault::Stream(id, reason), now);
        }
        Ok(used)
    }

    /// Takes a part of a payload, and `padding` bytes behind it.
    fn take_data(&mut self, payload: Payload, data: Data<'_>, padding: usize, now: Instant) {
        let size = data.len();
        let rest = Payload { left: payload.left - size, padding: payload.padding - padding, ..payload };
        let over = rest.left == 0 && rest.padding == 0;
        self.reading = if over { Reading::Frame } else { Reading::Data(rest) };
        self.give_back(payload.id, padding);
        let end = payload.end && over;
        let Some((id, stream)) = payload.id.and_then(|id| Some((id, self.streams.by_id(id)?))) else {
            return self.give_back(None, size);
        };
        let short = stream.expected.is_some_and(|expected| expected < size as u64);
        stream.expected = stream.expected.map(|expected| expected.saturating_sub(size as u64));
        if short || (end && stream.expected.is_some_and(|expected| expected > 0)) {
            self.give_back(None, size);
            return self.punish(Fault::Stream(id, Reason::PROTOCOL_ERROR), now);
        }
        if stream.unwanted {
            // The connection goes on; the stream stands still when its window is full.
            self.give_back(None, size);
        } else if size > 0 {
            stream.inbox.data(data);
            stream.wake_reader();
        }
        if end {
            self.end_incoming(id);
        }
    }

    fn end_incoming(&mut self, id: u32) {
        let Some(key) = self.streams.key(id) else { return };
        if let Some(stream) = self.streams.get_mut(key) {
            stream.incoming = Way::Ended;
            stream.wake_reader();
        }
        self.settle(key);
    }

    fn headers(&mut self, header: Header, payload: &[u8]) -> Result<(), Fault> {
        if header.stream == 0 {
            return broken();
        }
        let mut coded = frame::unpadded(header, payload).map_err(Fault::Connection)?;
        let mut bad = None;
        if header.has(frame::WITH_PRIORITY) {
            let Some((depends_on, rest)) = frame::number(coded) else { return wrong_size() };
            let Some((_weight, rest)) = rest.split_first() else { return wrong_size() };
            coded = rest;
            bad = (depends_on == header.stream).then_some(Reason::PROTOCOL_ERROR);
        }
        let (id, end) = (header.stream, header.has(frame::END_STREAM));
        if header.has(frame::END_HEADERS) {
            return self.fields(id, end, bad, coded);
        }
        self.fragments = Some(Fragments { id, end, bad, frames: 1, coded: coded.to_vec() });
        Ok(())
    }

    fn continuation(&mut self, header: Header, payload: &[u8]) -> Result<(), Fault> {
        let Some(mut fragments) = self.fragments.take() else { return broken() };
        fragments.frames += 1;
        fragments.coded.extend_from_slice(payload);
        let most = 2 * self.settings.list_bytes + frame::LARGEST;
        if fragments.coded.len() > most || fragments.frames > H2_FRAGMENTS {
            return Err(Fault::Connection(Reason::ENHANCE_YOUR_CALM));
        }
        if !header.has(frame::END_HEADERS) {
            self.fragments = Some(fragments);
            return Ok(());
        }
        let Fragments { id, end, bad, coded, .. } = fragments;
        self.fields(id, end, bad, &coded)
    }

    /// A whole field block: a head or trailers. Whatever becomes of it, it is decoded, or the table would be lost.
    fn fields(&mut self, id: u32, end: bool, bad: Option<Reason>, coded: &[u8]) -> Result<(), Fault> {
        let mut block = Block::with_room_for(coded.len());
        self.decoder
            .decode(coded, &mut block, self.settings.list_bytes)
            .map_err(|_| Fault::Connection(Reason::COMPRESSION_ERROR))?;
        if let Some(reason) = bad {
            if self.role == Role::Server && self.is_idle(id) {
                self.last_id = id;
            }
            return Err(Fault::Stream(id, reason));
        }
        let idle = self.is_idle(id);
        match self.streams.by_id(id) {
            Some(stream) if stream.incoming != Way::Open => Err(Fault::Stream(id, Reason::STREAM_CLOSED)),
            Some(stream) if stream.headed => self.trailers(id, end, block),
            Some(_) => self.response(id, end, block),
            None if self.role == Role::Server => self.request(id, end, block),
            None if idle => broken(),
            None => Ok(()),
        }
    }

    fn trailers(&mut self, id: u32, end: bool, block: Block) -> Result<(), Fault> {
        let Some(stream) = self.streams.by_id(id) else { return Ok(()) };
        let whole = stream.expected.is_none_or(|expected| expected == 0);
        if !end || !whole || message::check_trailers(&block).is_err() {
            return Err(Fault::Stream(id, Reason::PROTOCOL_ERROR));
        }
        if !stream.unwanted {
            stream.inbox.push(Piece::Trailers(block));
        }
        self.end_incoming(id);
        Ok(())
    }

    fn response(&mut self, id: u32, end: bool, block: Block) -> Result<(), Fault> {
        let Some(stream) = self.streams.by_id(id) else { return Ok(()) };
        let fault = Err(Fault::Stream(id, Reason::PROTOCOL_ERROR));
        let Ok(status) = message::check_response(&block) else { return fault };
        if (100..200).contains(&status) {
            if end || status == 101 {
                return fault;
            }
            // They are hints: those that nobody takes in time are dropped.
            if stream.inbox.len() < MOST_INTERIM {
                stream.inbox.push(Piece::Interim(block));
                stream.wake_reader();
            }
            return Ok(());
        }
        stream.headed = true;
        stream.expected = match stream.bodiless || matches!(status, 204 | 304) {
            true => None,
            false => message::length(&block),
        };
        if end && stream.expected.is_some_and(|expected| expected > 0) {
            return fault;
        }
        stream.inbox.push(Piece::Head(block));
        stream.wake_reader();
        if end {
            self.end_incoming(id);
        }
        Ok(())
    }

    /// A stream that the other side opens.
    fn request(&mut self, id: u32, end: bool, block: Block) -> Result<(), Fault> {
        if id.is_multiple_of(2) {
            return broken();
        }
        if id <= self.last_id {
            return match self.past(id) {
                Some(Past::ResetByUs) => Ok(()),
                Some(Past::ResetByThem) => Err(Fault::Stream(id, Reason::STREAM_CLOSED)),
                Some(Past::Ended) => Err(Fault::Connection(Reason::STREAM_CLOSED)),
                None => broken(),
            };
        }
        self.last_id = id;
        if self.closing == Closing::Done {
            return Ok(());
        }
        if self.streams.live() >= self.settings.streams as usize {
            return Err(Fault::Stream(id, Reason::REFUSED_STREAM));
        }
        let fault = Err(Fault::Stream(id, Reason::PROTOCOL_ERROR));
        // One that is too large was cut, and is answered with the reason.
        if !block.is_oversized() && message::check_request(&block).is_err() {
            return fault;
        }
        let expected = message::length(&block);
        if end && expected.is_some_and(|expected| expected > 0) {
            return fault;
        }
        let mut stream = Stream::new(id, self.stream_window(), self.granted.stream_window);
        stream.headed = true;
        stream.expected = expected;
        stream.inbox.push(Piece::Head(block));
        if end {
            stream.incoming = Way::Ended;
        }
        let key = self.streams.add(stream);
        self.arrived.push_back((key, id));
        Ok(())
    }

    fn window_update_came(&mut self, header: Header, payload: &[u8]) -> Result<(), Fault> {
        let Some((more, [])) = frame::number(payload) else { return wrong_size() };
        let id = header.stream;
        if id == 0 {
            self.window_out += i64::from(more);
            if more == 0 {
                return broken();
            }
            if self.window_out > frame::MAX_WINDOW {
                return Err(Fault::Connection(Reason::FLOW_CONTROL_ERROR));
            }
            self.wake_blocked();
            return Ok(());
        }
        if self.is_idle(id) {
            return broken();
        }
        if more == 0 {
            return Err(Fault::Stream(id, Reason::PROTOCOL_ERROR));
        }
        let Some(stream) = self.streams.by_id(id) else { return Ok(()) };
        stream.window_out += i64::from(more);
        if stream.window_out > frame::MAX_WINDOW {
            return Err(Fault::Stream(id, Reason::FLOW_CONTROL_ERROR));
        }
        if let Some(writer) = stream.writer.take() {
            writer.wake();
        }
        Ok(())
    }

    fn reset_came(&mut self, header: Header, payload: &[u8], now: Instant) -> Result<(), Fault> {
        let [r0, r1, r2, r3] = *payload else { return wrong_size() };
        let id = header.stream;
        if id == 0 || self.is_idle(id) {
            return broken();
        }
        if self.role == Role::Server && !self.resets.take(now) {
            return Err(Fault::Connection(Reason::ENHANCE_YOUR_CALM));
        }
        if let Some(key) = self.streams.key(id) {
            if let Some(stream) = self.streams.get_mut(key) {
                stream.cut(Cut::Reset(Reason(u32::from_be_bytes([r0, r1, r2, r3]))));
            }
            self.remember(id, Past::ResetByThem);
            self.settle(key);
        }
        Ok(())
    }

    fn settings_came(&mut self, header: Header, payload: &[u8], now: Instant) -> Result<(), Fault> {
        if header.stream != 0 {
            return broken();
        }
        if header.has(frame::ACK) {
            return if payload.is_empty() { Ok(()) } else { wrong_size() };
        }
        if !payload.len().is_multiple_of(6) {
            return wrong_size();
        }
        self.useless(now)?;
        for (id, value) in frame::settings(payload) {
            match id {
                frame::HEADER_TABLE_SIZE => self.encoder.resize(value as usize),
                frame::ENABLE_PUSH if value > 1 || (value == 1 && self.role == Role::Client) => {
                    return broken();
                }
                frame::MAX_CONCURRENT_STREAMS => self.granted.streams = value as usize,
                frame::INITIAL_WINDOW_SIZE => self.window_changed(value)?,
                frame::MAX_FRAME_SIZE if !(frame::LARGEST..1 << 24).contains(&(value as usize)) => {
                    return broken();
                }
                frame::MAX_FRAME_SIZE => self.granted.frame = value as usize,
                frame::ENABLE_CONNECT_PROTOCOL => self.granted.connect = value == 1,
                _ => {}
            }
        }
        if !self.greeted {
            self.greeted = true;
            self.tell_listening();
        }
        self.out.frame(Header { length: 0, kind: frame::SETTINGS, flags: frame::ACK, stream: 0 }, &[]);
        self.bound_answers()
    }

    /// The window of all streams changes, also of those that are under way.
    fn window_changed(&mut self, value: u32) -> Result<(), Fault> {
        let value = i64::from(value);
        if value > frame::MAX_WINDOW {
            return Err(Fault::Connection(Reason::FLOW_CONTROL_ERROR));
        }
        let change = value - self.granted.stream_window;
        self.granted.stream_window = value;
        for stream in self.streams.iter_mut() {
            stream.window_out += change;
            if stream.window_out > frame::MAX_WINDOW {
                return Err(Fault::Connection(Reason::FLOW_CONTROL_ERROR));
            }
            if change > 0
                && let Some(writer) = stream.writer.take()
            {
                writer.wake();
            }
        }
        Ok(())
    }

    fn ping_came(&mut self, header: Header, payload: &[u8], now: Instant) -> Result<(), Fault> {
        if header.stream != 0 {
            return broken();
        }
        if payload.len() != 8 {
            return wrong_size();
        }
        if header.has(frame::ACK) {
            self.pongs += 1;
            self.tell_listening();
            self.heard();
            return Ok(());
        }
        self.useless(now)?;
        self.out.frame(Header { length: 8, kind: frame::PING, flags: frame::ACK, stream: 0 }, payload);
        self.bound_answers()
    }

    fn goaway_came(&mut self, header: Header, payload: &[u8]) -> Result<(), Fault> {
        if header.stream != 0 {
            return broken();
        }
        let Some((last, rest)) = frame::number(payload) else { return wrong_size() };
        if rest.len() < 4 {
            return wrong_size();
        }
        self.leaving = true;
        if self.role == Role::Client {
            self.unseen(last);
        }
        Ok(())
    }

    fn priority_came(&mut self, header: Header, payload: &[u8], now: Instant) -> Result<(), Fault> {
        if header.stream == 0 {
            return broken();
        }
        let (Some((depends_on, _)), 5) = (frame::number(payload), payload.len()) else {
            return Err(Fault::Stream(header.stream, Reason::FRAME_SIZE_ERROR));
        };
        if depends_on == header.stream {
            return Err(Fault::Stream(header.stream, Reason::PROTOCOL_ERROR));
        }
        self.useless(now)
    }

    /// Answers that nobody reads must not pile up.
    fn bound_answers(&mut self) -> Result<(), Fault> {
        if self.out.len() > super::send::MOST_WAITING {
            return Err(Fault::Connection(Reason::ENHANCE_YOUR_CALM));
        }
        Ok(())
    }
}
