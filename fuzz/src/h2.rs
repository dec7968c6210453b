//! HTTP/2 connections: any split of the bytes gives the same streams and the same answers, and what is kept is bounded.

use std::io::IoSlice;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use dodai_dataplane::h2::{PREFACE, Piece, Role, Settings, Shared};
use tokio::time::Instant;

const SETTINGS: Settings =
    Settings { stream_window: 65_535, connection_window: 100_000, streams: 8, list_bytes: 2048 };
/// A SETTINGS frame without settings, so that inputs need not find the greeting by themselves.
const HELLO: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

/// The first byte says who we are, the second where the rest is split.
pub fn target(data: &[u8]) {
    let [who, cut, bytes @ ..] = data else { return };
    let cut = usize::from(*cut).min(bytes.len());
    let now = Instant::now();
    let whole = run(*who, &[bytes], now);
    assert_eq!(whole, run(*who, &[&bytes[..cut], &bytes[cut..]], now));
    let each: Vec<_> = bytes.chunks(1).collect();
    assert_eq!(whole, run(*who, &each, now));
}

/// The fields of a stream's head, its body, and how it ended.
type Stream = (Vec<(Vec<u8>, Vec<u8>)>, Vec<u8>, String);

/// What was written, and what came on each stream.
#[derive(Debug, PartialEq)]
struct Seen {
    written: Vec<u8>,
    streams: Vec<Stream>,
    failed: bool,
}

fn run(who: u8, pieces: &[&[u8]], now: Instant) -> Seen {
    let server = who.is_multiple_of(2);
    let shared = Shared::new(if server { Role::Server } else { Role::Client }, SETTINGS);
    let mut opened = Vec::new();
    if !server {
        for _ in 0..3 {
            opened.extend(shared.open(true, false, |_, _| {}));
        }
    }
    let mut input = BytesMut::new();
    if server {
        input.extend_from_slice(PREFACE);
    }
    input.extend_from_slice(&HELLO);
    for piece in [&[][..]].iter().chain(pieces) {
        input.extend_from_slice(piece);
        shared.lock().receive(&mut input, now);
        assert!(input.len() < 20_000, "a frame is never kept twice");
    }
    let mut streams = Vec::new();
    let mut halves = Vec::new();
    while let Some((head, receiving, sending)) = shared.accept() {
        let fields = head.iter().map(|(name, value, _)| (name.to_vec(), value.to_vec())).collect();
        halves.push((fields, receiving, sending));
    }
    halves.extend(opened.into_iter().map(|(receiving, sending)| (Vec::new(), receiving, sending)));
    let cx = Context::from_waker(Waker::noop());
    for (fields, mut receiving, sending) in halves {
        let (mut body, mut rest) = (Vec::new(), String::new());
        loop {
            match receiving.poll_piece(&cx) {
                Poll::Ready(Some(Ok(Piece::Data(data)))) => body.extend_from_slice(&data),
                Poll::Ready(Some(Ok(
                    Piece::Interim(block) | Piece::Head(block) | Piece::Trailers(block),
                ))) => {
                    let fields: Vec<_> = block.iter().collect();
                    rest.push_str(&format!("{fields:?}"));
                }
                Poll::Ready(Some(Err(gone))) => {
                    // How much came before it was cut is chance.
                    body.clear();
                    rest.push_str(&gone.to_string());
                    break;
                }
                Poll::Ready(None) => break,
                Poll::Pending => {
                    rest.push_str("open");
                    break;
                }
            }
        }
        assert!(body.len() <= 70_000, "the window bounds what is kept");
        streams.push((fields, body, rest));
        drop((receiving, sending));
    }
    let failed = shared.lock().failed().is_some();
    Seen { written: without_windows(&written(&shared)), streams, failed }
}

fn written(shared: &Shared) -> Vec<u8> {
    let mut all = Vec::new();
    let mut connection = shared.lock();
    while !connection.outbox().is_empty() {
        let mut slices = [IoSlice::new(&[]); 4];
        let filled = connection.outbox().slices(&mut slices);
        let some: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.iter().copied()).collect();
        connection.wrote(some.len());
        all.extend(some);
    }
    all
}

/// What was written but for the frames that give windows back, which depend on how the bytes were cut.
fn without_windows(mut bytes: &[u8]) -> Vec<u8> {
    let mut rest = Vec::new();
    if let Some(frames) = bytes.strip_prefix(PREFACE) {
        bytes = frames;
    }
    while let [a, b, c, kind, ..] = *bytes {
        let (frame, after) = bytes.split_at(9 + u32::from_be_bytes([0, a, b, c]) as usize);
        if kind != 8 {
            rest.extend_from_slice(frame);
        }
        bytes = after;
    }
    assert!(bytes.is_empty(), "whole frames are written");
    rest
}
