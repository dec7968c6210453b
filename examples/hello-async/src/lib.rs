//! The smallest module for WASI 0.3: one path for each thing that such a module does by waiting.
//!
//! | path | what it does |
//! |---|---|
//! | `/` | `hello from 0.3` |
//! | `/echo` | streams the request body back, chunk by chunk, with its trailers |
//! | `/pass` | hands the request body on without touching it |
//! | `/stream?n=3&size=16` | streams n chunks |
//! | `/sleep?ms=10` | waits, then answers |
//! | `/behind?ms=10` | answers, then works on behind the caller's back |
//! | `/both?a=http://app/x&b=http://app/y` | makes two requests at once and joins their answers |
//! | `/call?url=http://app/path` | makes a request and streams its answer back |
//! | `/send?url=http://app/path` | makes a request with the body of its own and streams the answer back |
//! | `/config?key=k`, `/count?key=k&store=s` | a configuration value, a counter |
//! | `/burn`, `/grow`, `/panic`, `/fail` | never end, eat all memory, trap, answer with an error |

mod outside;

#[allow(missing_docs, reason = "generated from the WIT files, which are documented")]
mod bindings {
    wasip3::wit_bindgen::generate!({
        inline: "package dodai:hello-async;
            world beside {
                import wasi:config/store@0.2.0-rc.1;
                import wasi:keyvalue/store@0.2.0-draft;
                import wasi:keyvalue/atomics@0.2.0-draft;
            }",
        path: ["../shop/wit/deps/config", "../shop/wit/deps/keyvalue"],
        runtime_path: "wasip3::wit_bindgen::rt",
        generate_all,
    });
}

use std::hint::black_box;

use wasip3::clocks::monotonic_clock;
use wasip3::http::types::{ErrorCode, Fields, Request, Response, Trailers};
use wasip3::wit_bindgen::{self, FutureReader, StreamReader, StreamResult};
use wasip3::{wit_future, wit_stream};

const CHUNK: usize = 64 * 1024;

/// What comes behind a body.
pub(crate) type End = FutureReader<Result<Option<Trailers>, ErrorCode>>;

struct Hello;

wasip3::http::service::export!(Hello);

impl wasip3::exports::http::handler::Guest for Hello {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_else(|| "/".into());
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        match path {
            "/" => Ok(text(200, "hello from 0.3\n".into())),
            "/echo" => Ok(echo(request)),
            "/pass" => {
                let (body, end) = body_of(request);
                Ok(answer(200, &[], Some(body), end))
            }
            "/stream" => Ok(stream(number(query, "n", 3), number(query, "size", 16))),
            "/sleep" => {
                let milliseconds = number(query, "ms", 10);
                sleep(milliseconds).await;
                Ok(text(200, format!("slept {milliseconds} ms\n")))
            }
            "/behind" => {
                let milliseconds = number(query, "ms", 10);
                wit_bindgen::spawn_local(async move {
                    sleep(milliseconds).await;
                    println!("worked {milliseconds} ms behind the caller's back");
                });
                Ok(text(200, "answered\n".into()))
            }
            "/both" => Ok(outside::both(query).await),
            "/call" => outside::call(&parameter(query, "url").unwrap_or_default(), None).await,
            "/send" => {
                let (body, end) = body_of(request);
                let (body, end) = copied(body, end);
                outside::call(&parameter(query, "url").unwrap_or_default(), Some((body, end))).await
            }
            "/config" => Ok(outside::config(&parameter(query, "key").unwrap_or_default())),
            "/count" => Ok(outside::count(query)),
            "/burn" => burn(),
            "/grow" => grow(),
            "/panic" => panic!("hello was asked to panic"),
            "/fail" => Err(ErrorCode::InternalError(Some("hello was asked to fail".into()))),
            _ => Ok(text(404, format!("hello has nothing at {path}\n"))),
        }
    }
}

/// An answer whose body is `body` and then `end`.
pub(crate) fn answer(
    status: u16,
    headers: &[(&str, &[u8])],
    body: Option<StreamReader<u8>>,
    end: End,
) -> Response {
    let fields = Fields::new();
    for (name, value) in headers {
        let _ = fields.append(name, value);
    }
    let (response, _sent) = Response::new(fields, body, end);
    let _ = response.set_status_code(status);
    response
}

/// A whole answer of plain text.
pub(crate) fn text(status: u16, text: String) -> Response {
    let (mut writer, body) = wit_stream::new();
    let (_, end) = wit_future::new(|| Ok(None));
    let length = text.len().to_string();
    let headers =
        [("content-type", b"text/plain; charset=utf-8".as_slice()), ("content-length", length.as_bytes())];
    wit_bindgen::spawn_local(async move {
        writer.write_all(text.into_bytes()).await;
    });
    answer(status, &headers, Some(body), end)
}

/// The body of a request and what comes behind it.
fn body_of(request: Request) -> (StreamReader<u8>, End) {
    let (_, read) = wit_future::new(|| Ok(()));
    Request::consume_body(request, read)
}

/// Passes a body on chunk by chunk.
pub(crate) fn copied(mut from: StreamReader<u8>, from_end: End) -> (StreamReader<u8>, End) {
    let (mut writer, body) = wit_stream::new();
    let (end_writer, end) = wit_future::new(|| Ok(None));
    wit_bindgen::spawn_local(async move {
        let mut buffer = Vec::with_capacity(CHUNK);
        loop {
            let (result, chunk) = from.read(buffer).await;
            let rest = writer.write_all(chunk).await;
            if !rest.is_empty() || matches!(result, StreamResult::Dropped | StreamResult::Cancelled) {
                break;
            }
            buffer = rest;
            buffer.reserve(CHUNK);
        }
        drop(writer);
        let _ = end_writer.write(from_end.await).await;
    });
    (body, end)
}

fn echo(request: Request) -> Response {
    let (body, end) = body_of(request);
    let (body, end) = copied(body, end);
    answer(200, &[("content-type", b"application/octet-stream")], Some(body), end)
}

fn stream(chunks: u64, size: u64) -> Response {
    let (mut writer, body) = wit_stream::new();
    let (_, end) = wit_future::new(|| Ok(None));
    let size = usize::try_from(size.clamp(1, 1 << 20)).unwrap_or(1);
    wit_bindgen::spawn_local(async move {
        for at in 0..chunks {
            let mut chunk = at.to_string().into_bytes();
            chunk.resize(size, b'.');
            if !writer.write_all(chunk).await.is_empty() {
                return;
            }
        }
    });
    answer(200, &[("content-type", b"text/plain; charset=utf-8")], Some(body), end)
}

pub(crate) async fn sleep(milliseconds: u64) {
    monotonic_clock::wait_for(milliseconds.saturating_mul(1_000_000)).await;
}

/// Never answers and never waits: only the host can end it.
fn burn() -> ! {
    let mut spins = 0u64;
    loop {
        spins = black_box(spins.wrapping_add(1));
    }
}

/// Touches every page it is given until it is given no more.
fn grow() -> ! {
    let mut kept: Vec<Vec<u8>> = Vec::new();
    loop {
        kept.push(black_box(vec![1u8; 1 << 20]));
    }
}

fn number(query: &str, name: &str, default: u64) -> u64 {
    parameter(query, name).and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A query parameter, as it stands.
pub(crate) fn parameter(query: &str, name: &str) -> Option<String> {
    let pair = query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name)?;
    Some(pair.1.to_owned())
}
