//! Connections against frames written by hand, and against each other.

use std::io::IoSlice;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use tokio::time::Instant;

use super::frame::{self, Header};
use super::*;
use crate::limits::{
    H2_FRAGMENTS, H2_IDLE_FRAMES, H2_IDLE_FRAMES_PER_SECOND, H2_OUTBOX, H2_RESETS, H2_RESETS_PER_SECOND,
};

const SETTINGS: Settings =
    Settings { stream_window: 70_000, connection_window: 100_000, streams: 4, list_bytes: 4096 };

fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let header = Header { length: payload.len(), kind, flags, stream };
    [&header.bytes()[..], payload].concat()
}

fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let (mut encoder, mut out) = (Encoder::new(false), Vec::new());
    for (name, value) in fields {
        // Nothing goes into the table, so that blocks can be sent in any order.
        encoder.field(name.as_bytes(), value.as_bytes(), true, &mut out);
    }
    out
}

const GET: [(&str, &str); 4] = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")];

fn get(stream: u32, end: bool) -> Vec<u8> {
    let flags = frame::END_HEADERS | if end { frame::END_STREAM } else { 0 };
    frame(frame::HEADERS, flags, stream, &block(&GET))
}

fn take_out(shared: &Shared) -> Vec<u8> {
    let mut all = Vec::new();
    let mut connection = shared.lock();
    while !connection.outbox().is_empty() {
        let mut slices = [IoSlice::new(&[]); 8];
        let filled = connection.outbox().slices(&mut slices);
        let some: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.iter().copied()).collect();
        connection.wrote(some.len());
        all.extend(some);
    }
    all
}

fn frames(mut bytes: &[u8]) -> Vec<(Header, Vec<u8>)> {
    let mut all = Vec::new();
    while let Some(header) = Header::read(bytes) {
        let end = frame::HEADER + header.length;
        all.push((header, bytes[frame::HEADER..end].to_vec()));
        bytes = &bytes[end..];
    }
    all
}

fn feed(shared: &Shared, bytes: &[u8]) {
    let mut input = BytesMut::from(bytes);
    shared.lock().receive(&mut input, Instant::now());
    assert!(shared.lock().failed().is_some() || input.is_empty(), "{} bytes left", input.len());
}

/// A server whose client has said hello.
fn server() -> Shared {
    let shared = Shared::new(Role::Server, SETTINGS);
    feed(&shared, PREFACE);
    feed(&shared, &frame(frame::SETTINGS, 0, 0, &[]));
    take_out(&shared);
    shared
}

/// How a server takes frames: why the connection ended, or which stream was reset and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    Well,
    Away(Reason),
    Reset(u32, Reason),
}

fn taken(shared: &Shared) -> Taken {
    let mut result = Taken::Well;
    for (header, payload) in frames(&take_out(shared)) {
        let number = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().expect("four bytes"));
        match header.kind {
            frame::GOAWAY => return Taken::Away(Reason(number(4))),
            frame::RST_STREAM => result = Taken::Reset(header.stream, Reason(number(0))),
            _ => {}
        }
    }
    result
}

#[test]
fn broken_rules_have_their_answers() {
    let away = Taken::Away(Reason::PROTOCOL_ERROR);
    let reset = |reason| Taken::Reset(1, reason);
    let check = |what: &str, pieces: &[Vec<u8>], expect: Taken| {
        let shared = server();
        for piece in pieces {
            feed(&shared, piece);
        }
        assert_eq!(taken(&shared), expect, "{what}");
    };
    let headers = |flags: u8, stream: u32, payload: &[u8]| frame(frame::HEADERS, flags, stream, payload);
    let whole = frame::END_HEADERS | frame::END_STREAM;
    check("a call", &[get(1, true)], Taken::Well);
    check("an even stream", &[get(2, true)], away);
    check("a smaller number", &[get(5, true), get(3, true)], away);
    check("a head on stream 0", &[get(0, true)], away);
    check("data on stream 0", &[frame(frame::DATA, 0, 0, b"x")], away);
    check("data on an idle stream", &[frame(frame::DATA, 0, 1, b"x")], away);
    check("a window for an idle stream", &[frame(frame::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])], away);
    check("a reset of an idle stream", &[frame(frame::RST_STREAM, 0, 1, &[0; 4])], away);
    check("a push", &[frame(frame::PUSH_PROMISE, 4, 1, &[0; 8])], away);
    check("a lone continuation", &[frame(frame::CONTINUATION, 4, 1, &[])], away);
    check(
        "a frame between fragments",
        &[headers(0, 1, &block(&GET)), frame(frame::PING, 0, 0, &[0; 8])],
        away,
    );
    check("settings on a stream", &[frame(frame::SETTINGS, 0, 1, &[])], away);
    check("a ping on a stream", &[frame(frame::PING, 0, 1, &[0; 8])], away);
    check("a goaway on a stream", &[frame(frame::GOAWAY, 0, 1, &[0; 8])], away);
    check("priority on stream 0", &[frame(frame::PRIORITY, 0, 0, &[0; 5])], away);
    let size = Taken::Away(Reason::FRAME_SIZE_ERROR);
    check("odd settings", &[frame(frame::SETTINGS, 0, 0, &[0; 5])], size);
    check("an acknowledgement with content", &[frame(frame::SETTINGS, 1, 0, &[0; 6])], size);
    check("a short ping", &[frame(frame::PING, 0, 0, &[0; 7])], size);
    check("a short window", &[get(1, false), frame(frame::WINDOW_UPDATE, 0, 1, &[0; 3])], size);
    check("a long reset", &[get(1, false), frame(frame::RST_STREAM, 0, 1, &[0; 5])], size);
    check("a large frame", &[Header { length: 16_385, kind: 0, flags: 0, stream: 1 }.bytes().to_vec()], size);
    check("a short priority", &[frame(frame::PRIORITY, 0, 1, &[0; 4])], reset(Reason::FRAME_SIZE_ERROR));
    let settings = |id: u16, value: u32| {
        frame(frame::SETTINGS, 0, 0, &[&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
    };
    check("push", &[settings(frame::ENABLE_PUSH, 2)], away);
    check("a small frame size", &[settings(frame::MAX_FRAME_SIZE, 16_383)], away);
    check("a huge frame size", &[settings(frame::MAX_FRAME_SIZE, 1 << 24)], away);
    check("a setting that nobody knows", &[settings(77, 1)], Taken::Well);
    let flow = Taken::Away(Reason::FLOW_CONTROL_ERROR);
    check("a huge window", &[settings(frame::INITIAL_WINDOW_SIZE, 1 << 31)], flow);
    let window = |stream: u32, more: u32| frame(frame::WINDOW_UPDATE, 0, stream, &more.to_be_bytes());
    check("no window", &[window(0, 0)], away);
    check("too much window", &[window(0, 0x7fff_ffff)], flow);
    check("no window of a stream", &[get(1, false), window(1, 0)], reset(Reason::PROTOCOL_ERROR));
    let over = [get(1, false), window(1, 0x7fff_ffff)];
    check("too much window of a stream", &over, reset(Reason::FLOW_CONTROL_ERROR));
    check(
        "data after the end",
        &[get(1, true), frame(frame::DATA, 0, 1, b"x")],
        reset(Reason::STREAM_CLOSED),
    );
    check("a head after the end", &[get(1, true), get(1, true)], reset(Reason::STREAM_CLOSED));
    check("trailers that do not end", &[get(1, false), headers(4, 1, &[])], reset(Reason::PROTOCOL_ERROR));
    check("trailers", &[get(1, false), headers(whole, 1, &block(&[("a", "b")]))], Taken::Well);
    let pseudo = headers(whole, 1, &block(&GET));
    check("pseudo-fields in trailers", &[get(1, false), pseudo], reset(Reason::PROTOCOL_ERROR));
    check("a bad head", &[headers(whole, 1, &block(&GET[..2]))], reset(Reason::PROTOCOL_ERROR));
    check("no field block", &[headers(whole, 1, &[0x80])], Taken::Away(Reason::COMPRESSION_ERROR));
    let on_itself = [&[0, 0, 0, 1, 0][..], &block(&GET)].concat();
    check(
        "a stream that depends on itself",
        &[headers(whole | 32, 1, &on_itself)],
        reset(Reason::PROTOCOL_ERROR),
    );
    let padded = [&[200][..], &block(&GET)].concat();
    check("more padding than there is", &[headers(whole | 8, 1, &padded)], away);
    check("the same of data", &[get(1, false), frame(frame::DATA, 8, 1, &[2, 0])], away);
    let length = |text| headers(4, 1, &block(&[&GET[..], &[("content-length", text)]].concat()));
    let data = |flags, bytes: &[u8]| frame(frame::DATA, flags, 1, bytes);
    check("less than announced", &[length("3"), data(1, b"ab")], reset(Reason::PROTOCOL_ERROR));
    check("more than announced", &[length("3"), data(0, b"abcd")], reset(Reason::PROTOCOL_ERROR));
    check("as announced", &[length("3"), data(0, b"ab"), data(1, b"c")], Taken::Well);
    let many: Vec<_> = (0..5).map(|number| get(number * 2 + 1, false)).collect();
    check("a stream too many", &many, Taken::Reset(9, Reason::REFUSED_STREAM));
    let big = vec![data(0, &[0; 16_000]); 5];
    check("more than the window", &[vec![get(1, false)], big].concat(), reset(Reason::FLOW_CONTROL_ERROR));
    check("a frame that nobody knows", &[frame(99, 0, 7, b"hello")], Taken::Well);
}

/// How many of `pieces` are taken before the one that has the client sent away.
fn taken_before_the_end(shared: &Shared, pieces: impl Iterator<Item = Vec<u8>>) -> u32 {
    let mut count = 0;
    for piece in pieces {
        feed(shared, &piece);
        if let Taken::Away(reason) = taken(shared) {
            assert_eq!(reason, Reason::ENHANCE_YOUR_CALM);
            break;
        }
        count += 1;
    }
    count
}

#[tokio::test(start_paused = true)]
async fn floods_end_the_connection() {
    let check = async |what: &str, piece: fn(u32) -> Vec<u8>, most: u32, per_second: u32| {
        let hello = || {
            let shared = server();
            feed(&shared, &get(1, false));
            shared
        };
        assert_eq!(taken_before_the_end(&hello(), (1..2 * most).map(piece)), most, "{what}");
        let shared = hello();
        assert_eq!(taken_before_the_end(&shared, (1..=most).map(piece)), most, "{what}");
        tokio::time::advance(Duration::from_secs(1)).await;
        let more = taken_before_the_end(&shared, (most + 1..2 * most).map(piece));
        assert_eq!(more, per_second, "{what} a second later");
    };
    let rapid = |number: u32| {
        let stream = number * 2 + 1;
        [get(stream, true), frame(frame::RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
    };
    let provoked = |number: u32| {
        let stream = number * 2 + 1;
        [get(stream, false), frame(frame::WINDOW_UPDATE, 0, stream, &[0; 4])].concat()
    };
    check("streams given up", rapid, H2_RESETS, H2_RESETS_PER_SECOND).await;
    check("streams that break a rule", provoked, H2_RESETS, H2_RESETS_PER_SECOND).await;
    // The SETTINGS that every client begins with are the first.
    let (idle, per_second) = (H2_IDLE_FRAMES - 1, H2_IDLE_FRAMES_PER_SECOND);
    check("PING", |_| frame(frame::PING, 0, 0, &[0; 8]), idle, per_second).await;
    check("SETTINGS", |_| frame(frame::SETTINGS, 0, 0, &[]), idle, per_second).await;
    check("PRIORITY", |_| frame(frame::PRIORITY, 0, 1, &[0; 5]), idle, per_second).await;
    check("empty DATA", |_| frame(frame::DATA, 0, 1, &[]), idle, per_second).await;
    check("what nobody knows", |_| frame(99, 0, 1, &[]), idle, per_second).await;
}

#[test]
fn a_head_has_so_many_pieces_and_no_more() {
    let head = |frames: u32| {
        let shared = server();
        feed(&shared, &frame(frame::HEADERS, frame::END_STREAM, 1, &block(&GET)));
        for _ in 2..frames {
            feed(&shared, &frame(frame::CONTINUATION, 0, 1, &[]));
        }
        feed(&shared, &frame(frame::CONTINUATION, frame::END_HEADERS, 1, &[]));
        (taken(&shared), shared.accept().is_some())
    };
    assert_eq!(head(H2_FRAGMENTS), (Taken::Well, true));
    assert_eq!(head(H2_FRAGMENTS + 1), (Taken::Away(Reason::ENHANCE_YOUR_CALM), false));
}

#[tokio::test(start_paused = true)]
async fn answers_that_the_client_does_not_read_are_bounded() {
    let (shared, ping) = (server(), frame(frame::PING, 0, 0, &[0; 8]));
    for _ in 0..send::MOST_WAITING / ping.len() {
        feed(&shared, &ping);
        // Slowly enough to be no flood.
        tokio::time::advance(Duration::from_millis(10)).await;
    }
    assert_eq!(shared.lock().failed(), None);
    feed(&shared, &ping);
    assert_eq!(taken(&shared), Taken::Away(Reason::ENHANCE_YOUR_CALM));
}

#[test]
fn data_that_nobody_takes_waits_with_its_sender() {
    let shared = server();
    let room = [&frame::INITIAL_WINDOW_SIZE.to_be_bytes()[..], &(1_u32 << 20).to_be_bytes()].concat();
    feed(&shared, &frame(frame::SETTINGS, 0, 0, &room));
    feed(&shared, &frame(frame::WINDOW_UPDATE, 0, 0, &(1_u32 << 20).to_be_bytes()));
    feed(&shared, &get(1, true));
    let (_head, _receiving, sending) = shared.accept().expect("it is there");
    sending.head(false, |encoder, out| write_response(encoder, out, 200, std::iter::empty()));
    take_out(&shared);
    let mut left = Bytes::from(vec![7; 1 << 20]);
    let mut sent = 0;
    while sent < 1 << 20 {
        let done = sending.poll_data(&cx(), &mut left, true).is_ready();
        let waiting = frames(&take_out(&shared));
        let data: usize = waiting.iter().map(|(header, _)| header.length).sum();
        // The headers of the frames come on top.
        assert!(data <= H2_OUTBOX && (done || data > H2_OUTBOX / 2), "{data} bytes wait");
        sent += data;
    }
    assert!(left.is_empty());
}

#[test]
fn a_head_that_is_too_large_is_cut_and_still_answered() {
    let shared = server();
    let long = "x".repeat(5000);
    let fields = [&GET[..], &[("x-long", long.as_str()), ("x-short", "1")]].concat();
    let coded = block(&fields);
    feed(&shared, &frame(frame::HEADERS, 1, 1, &coded[..4000]));
    feed(&shared, &frame(frame::CONTINUATION, 4, 1, &coded[4000..]));
    let (head, _receiving, sending) = shared.accept().expect("it is there");
    assert!(head.is_oversized() && head.get(b"x-long").is_none() && head.get(b"x-short").is_some());
    sending.head(true, |encoder, out| write_response(encoder, out, 431, std::iter::empty()));
    assert_eq!(frames(&take_out(&shared)).len(), 1);
    assert_eq!(shared.lock().live(), 0);
}

#[test]
fn windows_open_as_data_is_taken() {
    let shared = server();
    feed(&shared, &get(1, false));
    let (_, mut receiving, sending) = shared.accept().expect("it is there");
    let mut total = 0;
    for _ in 0..100 {
        feed(&shared, &frame(frame::DATA, 0, 1, &[7; 10_000]));
        let Poll::Ready(Some(Ok(Piece::Data(data)))) = receiving.poll_piece(&cx()) else { panic!("data") };
        total += data.len();
        let updates = frames(&take_out(&shared));
        assert!(updates.iter().all(|(header, _)| header.kind == frame::WINDOW_UPDATE));
    }
    assert_eq!(total, 1_000_000);
    // What nobody reads is given back to the connection only.
    drop(receiving);
    for _ in 0..7 {
        feed(&shared, &frame(frame::DATA, 0, 1, &[7; 10_000]));
    }
    feed(&shared, &get(3, true));
    assert!(shared.accept().is_some());
    drop(sending);
    assert_eq!(taken(&shared), Taken::Reset(1, Reason::CANCEL));
}

/// Everything that waits on a stream, and whether it ended.
fn waiting(receiving: &mut Receiving) -> (Vec<Bytes>, bool) {
    let mut pieces = Vec::new();
    loop {
        match receiving.poll_piece(&cx()) {
            Poll::Ready(Some(Ok(Piece::Data(data)))) => pieces.push(data),
            Poll::Ready(None) => return (pieces, true),
            Poll::Pending => return (pieces, false),
            Poll::Ready(other) => panic!("{other:?}"),
        }
    }
}

#[test]
fn small_frames_that_wait_are_gathered() {
    let check = |what: &str, sizes: &[usize], most: usize| {
        let shared = server();
        feed(&shared, &get(1, false));
        let (_, mut receiving, _sending) = shared.accept().expect("it is there");
        let sent: Vec<u8> = (0..sizes.iter().sum()).map(|at| (at % 251) as u8).collect();
        let mut rest = &sent[..];
        for size in sizes {
            let (data, after) = rest.split_at(*size);
            feed(&shared, &frame(frame::DATA, 0, 1, data));
            rest = after;
        }
        assert_eq!(taken(&shared), Taken::Well, "{what}: no number of them is a flood");
        let (pieces, ended) = waiting(&mut receiving);
        assert!(!ended && pieces.concat() == sent, "{what}");
        assert!(pieces.len() <= most, "{what}: {} pieces", pieces.len());
        assert!(pieces.iter().all(|piece| piece.len() <= frame::LARGEST), "{what}: more than a frame");
    };
    check("a byte each", &[1; 65_000], 4);
    check("twenty bytes each", &[20; 3000], 4);
    // Two in a row are more than what is gathered.
    check("small ones between others", &[513, 1].repeat(120), 240);
    check("large ones", &[10_000; 6], 6);
}

#[test]
fn leaving_waits_for_what_is_under_way() {
    let shared = server();
    feed(&shared, &get(1, true));
    let (_, receiving, mut sending) = shared.accept().expect("it is there");
    shared.lock().shut_down();
    let told = frames(&take_out(&shared));
    assert_eq!(told.iter().map(|(header, _)| header.kind).collect::<Vec<_>>(), [frame::GOAWAY, frame::PING]);
    // It was on its way when the client heard.
    feed(&shared, &get(3, true));
    feed(&shared, &frame(frame::PING, frame::ACK, 0, &told[1].1));
    feed(&shared, &get(5, true));
    let last = frames(&take_out(&shared));
    assert_eq!((last[0].0.kind, &last[0].1[..4]), (frame::GOAWAY, &[0, 0, 0, 3][..]));
    let (_, other, mut second) = shared.accept().expect("the one on its way");
    assert!(shared.accept().is_none());
    for sending in [&mut sending, &mut second] {
        assert!(!shared.lock().is_finished());
        sending.head(true, |encoder, out| write_response(encoder, out, 200, std::iter::empty()));
        take_out(&shared);
    }
    drop((receiving, other));
    assert!(shared.lock().is_finished());
}

#[test]
fn a_client_tries_unseen_streams_elsewhere() {
    let shared = Shared::new(Role::Client, SETTINGS);
    feed(&shared, &frame(frame::SETTINGS, 0, 0, &[]));
    let open = || {
        let head = Pseudo { method: "GET", scheme: "http", authority: "a", path: "/", protocol: None };
        shared.open(true, false, |encoder, out| write_request(encoder, out, &head, std::iter::empty()))
    };
    let (mut first, _) = open().expect("room");
    let (mut second, _) = open().expect("room");
    feed(&shared, &frame(frame::GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]));
    assert_eq!(
        second.poll_piece(&cx()).map(|piece| piece.expect("an end").err()),
        Poll::Ready(Some(Gone::Unseen))
    );
    assert!(open().is_none() && shared.lock().is_leaving());
    feed(&shared, &frame(frame::HEADERS, 5, 1, &block(&[(":status", "204")])));
    assert!(matches!(first.poll_piece(&cx()), Poll::Ready(Some(Ok(Piece::Head(_))))));
    assert!(matches!(first.poll_piece(&cx()), Poll::Ready(None)));
}

#[tokio::test(start_paused = true)]
async fn resets_over_time_are_allowed() {
    let shared = server();
    for number in 0..5000u32 {
        let stream = number * 2 + 1;
        let reset = frame(frame::RST_STREAM, 0, stream, &[0, 0, 0, 8]);
        feed(&shared, &[get(stream, true), reset].concat());
        tokio::time::advance(Duration::from_millis(10)).await;
    }
    assert_eq!(taken(&shared), Taken::Well);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Frames of any size, taken at any moment, over a wire that cuts bytes anywhere.
    #[test]
    fn gathering_changes_no_byte_no_end_and_no_window(
        sizes in proptest::collection::vec(prop_oneof![0usize..40, 500usize..520, 0usize..9000], 0..14),
        takes in proptest::collection::vec(0usize..4, 1..20),
        steps in proptest::collection::vec(1usize..3000, 1..20),
        with_trailers in any::<bool>(),
    ) {
        let settings = Settings { stream_window: 140_000, connection_window: 140_000, ..SETTINGS };
        let shared = Shared::new(Role::Server, settings);
        feed(&shared, &[PREFACE, &frame(frame::SETTINGS, 0, 0, &[])[..], &get(1, false)].concat());
        let (_, mut receiving, _sending) = shared.accept().expect("it is there");
        take_out(&shared);
        let sent: Vec<u8> = (0..sizes.iter().sum()).map(|at| (at % 251) as u8).collect();
        let (mut wire, mut rest) = (Vec::new(), &sent[..]);
        for size in &sizes {
            let (data, after) = rest.split_at(*size);
            wire.extend(frame(frame::DATA, 0, 1, data));
            rest = after;
        }
        wire.extend(match with_trailers {
            true => frame(frame::HEADERS, frame::END_HEADERS | frame::END_STREAM, 1, &block(&[("a", "b")])),
            false => frame(frame::DATA, frame::END_STREAM, 1, &[]),
        });
        let (mut takes, mut steps) = (takes.into_iter().cycle(), steps.into_iter().cycle());
        let (mut input, mut wire) = (BytesMut::new(), &wire[..]);
        let (mut got, mut trailers, mut ended) = (Vec::new(), false, false);
        while !ended {
            let (some, after) = wire.split_at(steps.next().expect("endless").min(wire.len()));
            input.extend_from_slice(some);
            wire = after;
            shared.lock().receive(&mut input, Instant::now());
            for _ in 0..takes.next().expect("endless") + usize::from(wire.is_empty()) {
                match receiving.poll_piece(&cx()) {
                    Poll::Ready(Some(Ok(Piece::Data(data)))) => {
                        prop_assert!(!trailers && !data.is_empty());
                        got.extend_from_slice(&data);
                    }
                    Poll::Ready(Some(Ok(Piece::Trailers(_)))) => trailers = true,
                    Poll::Ready(None) => { ended = true; break }
                    Poll::Pending => break,
                    Poll::Ready(other) => panic!("{other:?}"),
                }
            }
            prop_assert!(!ended || receiving.is_end());
        }
        prop_assert!(got == sent && trailers == with_trailers, "{} of {} bytes", got.len(), sent.len());
        let connection = shared.lock();
        prop_assert_eq!(connection.window_in + i64::from(connection.owed), 140_000, "all was given back");
    }
}

/// Moves bytes from one connection to the other in pieces.
fn carry(from: &Shared, to: &Shared, rest: &mut BytesMut, steps: &mut impl Iterator<Item = usize>) {
    let bytes = take_out(from);
    let mut at = 0;
    while at < bytes.len() {
        let end = bytes.len().min(at + steps.next().expect("endless"));
        rest.extend_from_slice(&bytes[at..end]);
        to.lock().receive(rest, Instant::now());
        at = end;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// A client and a server that echoes, over a wire that cuts bytes anywhere.
    #[test]
    fn bodies_arrive_whole(
        bodies in proptest::collection::vec(0usize..150_000, 1..3),
        steps in proptest::collection::vec(1usize..30_000, 1..20),
    ) {
        let (client, server) = (Shared::new(Role::Client, SETTINGS), Shared::new(Role::Server, SETTINGS));
        let mut steps = steps.into_iter().cycle();
        let (mut up, mut down) = (BytesMut::new(), BytesMut::new());
        for size in bodies {
            let wanted: Bytes = (0..size).map(|at| (at % 251) as u8).collect::<Vec<u8>>().into();
            let head = Pseudo { method: "POST", scheme: "http", authority: "a", path: "/", protocol: None };
            let (mut answer, sending) = client
                .open(false, false, |encoder, out| write_request(encoder, out, &head, std::iter::empty()))
                .expect("room");
            let mut left = wanted.clone();
            let (mut got, mut echo, mut pending, mut ended) = (Vec::new(), None, Bytes::new(), false);
            let mut sent = false;
            for round in 0.. {
                prop_assert!(round < 1000, "it stands still at {} of {size}", got.len());
                sent = sent || sending.poll_data(&cx(), &mut left, true).is_ready();
                carry(&client, &server, &mut up, &mut steps);
                if let Some((_, receiving, sending)) = server.accept() {
                    sending.head(false, |encoder, out| write_response(encoder, out, 200, std::iter::empty()));
                    echo = Some((receiving, sending));
                }
                while let Some((receiving, sending)) = &mut echo {
                    if !pending.is_empty() {
                        if sending.poll_data(&cx(), &mut pending, false).is_pending() { break }
                        continue;
                    }
                    match receiving.poll_piece(&cx()) {
                        Poll::Ready(Some(Ok(Piece::Data(data)))) => pending = data,
                        Poll::Ready(None) => {
                            sending.head(true, |encoder, out| {
                                write_fields(encoder, out, [(&b"sum"[..], &b"1"[..], false)].into_iter());
                            });
                            echo = None;
                        }
                        Poll::Ready(other) => panic!("{other:?}"),
                        Poll::Pending => break,
                    }
                }
                carry(&server, &client, &mut down, &mut steps);
                while let Poll::Ready(piece) = answer.poll_piece(&cx()) {
                    match piece.transpose().expect("no reset") {
                        Some(Piece::Data(data)) => got.extend_from_slice(&data),
                        Some(Piece::Trailers(block)) => prop_assert_eq!(block.get(b"sum"), Some(&b"1"[..])),
                        Some(Piece::Interim(_) | Piece::Head(_)) => {}
                        None => { ended = true; break }
                    }
                }
                if ended { break }
            }
            prop_assert!(got == wanted, "{} of {size} bytes", got.len());
            drop((answer, sending));
            prop_assert_eq!((client.lock().live(), server.lock().live()), (0, 0));
        }
    }
}
