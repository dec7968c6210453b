//! The smallest module: answers `hello from v1`, plus one path for each thing a base promises about modules.
//!
//! | path | what it does |
//! |---|---|
//! | `/` | `hello from <version>` |
//! | `/echo` | streams the request body back, chunk by chunk |
//! | `/sum` | reads a body; its length and FNV-1a 64 hash as JSON |
//! | `/stream?n=3&size=16` | streams n chunks |
//! | `/sleep?ms=10` | waits, then answers |
//! | `/call?url=http://app/path` | makes a request and streams its answer back |
//! | `/config?key=k` | a configuration value |
//! | `/kv?key=k&store=s` | GET reads, PUT writes, POST adds one |
//! | `/env?name=n` | an environment variable |
//! | `/burn`, `/grow`, `/panic` | never end, eat all memory, trap |

mod body;
mod outside;

#[allow(missing_docs, reason = "generated from the WIT files, which are documented")]
mod bindings {
    wit_bindgen::generate!({ path: "../shop/wit", world: "service", generate_all });
}

use bindings::exports::wasi::http::incoming_handler::Guest;
use bindings::wasi::clocks::monotonic_clock;
use bindings::wasi::http::types::{
    Fields, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam,
};
use body::Digest;
use std::hint::black_box;

/// Which of the two artefacts this is; the recipe builds both from the same source.
pub(crate) const VERSION: &str = match option_env!("HELLO_VERSION") {
    Some(version) => version,
    None => "v1",
};

struct Hello;

impl Guest for Hello {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_else(|| "/".into());
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        match path {
            "/" => text(out, 200, &format!("hello from {VERSION}\n")),
            "/echo" => echo(&request, out),
            "/sum" => sum(&request, out),
            "/stream" => stream(out, number(query, "n", 3), number(query, "size", 16)),
            "/burn" => burn(),
            "/grow" => grow(),
            "/panic" => panic!("hello was asked to panic"),
            "/sleep" => sleep(out, number(query, "ms", 10)),
            "/call" => outside::call(out, &parameter(query, "url").unwrap_or_default()),
            "/config" => outside::config(out, &parameter(query, "key").unwrap_or_default()),
            "/kv" => outside::key_value(&request, out, query),
            "/env" => environment(out, &parameter(query, "name").unwrap_or_default()),
            _ => text(out, 404, &format!("hello has nothing at {path}\n")),
        }
    }
}

bindings::export!(Hello with_types_in bindings);

/// Begins an answer and gives back its body to write to.
pub(crate) fn begin(out: ResponseOutparam, status: u16, headers: &[(&str, &[u8])]) -> Option<OutgoingBody> {
    let fields = Fields::new();
    let _ = fields.set("x-hello-version", &[VERSION.into()]);
    for (name, value) in headers {
        let _ = fields.set(name, &[value.to_vec()]);
    }
    let response = OutgoingResponse::new(fields);
    let _ = response.set_status_code(status);
    let body = response.body().ok();
    ResponseOutparam::set(out, Ok(response));
    body
}

/// A whole answer.
pub(crate) fn answer(out: ResponseOutparam, status: u16, media_type: &str, bytes: &[u8]) {
    let length = bytes.len().to_string();
    let headers = [("content-type", media_type.as_bytes()), ("content-length", length.as_bytes())];
    if let Some(body) = begin(out, status, &headers) {
        body::write_whole(body, bytes);
    }
}

/// A whole answer of plain text.
pub(crate) fn text(out: ResponseOutparam, status: u16, text: &str) {
    answer(out, status, "text/plain; charset=utf-8", text.as_bytes());
}

fn echo(request: &IncomingRequest, out: ResponseOutparam) {
    let length = request.headers().get("content-length").into_iter().next();
    let mut headers: Vec<(&str, &[u8])> = vec![("content-type", b"application/octet-stream")];
    if let Some(length) = &length {
        headers.push(("content-length", length));
        headers.push(("x-echo-length", length));
    }
    let Ok(incoming) = request.consume() else { return text(out, 400, "the body was taken\n") };
    if let Some(outgoing) = begin(out, 200, &headers) {
        body::copy(incoming, outgoing);
    }
}

fn sum(request: &IncomingRequest, out: ResponseOutparam) {
    let Ok(incoming) = request.consume() else { return text(out, 400, "the body was taken\n") };
    let mut digest = Digest::default();
    if !body::read(incoming, |chunk| digest.add(chunk)) {
        return text(out, 400, "the body broke off\n");
    }
    let json = format!("{{\"length\":{},\"fnv1a64\":\"{:016x}\"}}\n", digest.length, digest.hash);
    answer(out, 200, "application/json", json.as_bytes());
}

fn stream(out: ResponseOutparam, chunks: u64, size: u64) {
    let Some(outgoing) = begin(out, 200, &[("content-type", b"text/plain; charset=utf-8")]) else { return };
    let size = usize::try_from(size.clamp(1, 1 << 20)).unwrap_or(1);
    body::write_chunks(outgoing, (0..chunks).map(|at| body::chunk(at, size)));
}

/// Never answers and never waits: only the host can end it.
fn burn() {
    let mut spins = 0u64;
    loop {
        spins = black_box(spins.wrapping_add(1));
    }
}

/// Touches every page it is given until it is given no more.
fn grow() {
    let mut kept: Vec<Vec<u8>> = Vec::new();
    loop {
        kept.push(black_box(vec![1u8; 1 << 20]));
    }
}

fn sleep(out: ResponseOutparam, milliseconds: u64) {
    monotonic_clock::subscribe_duration(milliseconds.saturating_mul(1_000_000)).block();
    text(out, 200, &format!("slept {milliseconds} ms\n"));
}

#[allow(clippy::disallowed_methods, reason = "a module's environment is what the base hands this instance")]
fn environment(out: ResponseOutparam, name: &str) {
    match std::env::var(name) {
        Ok(value) => text(out, 200, &value),
        Err(_) => text(out, 404, &format!("{name} is not set\n")),
    }
}

pub(crate) fn is_method(request: &IncomingRequest, wanted: &str) -> bool {
    match request.method() {
        Method::Get => wanted == "GET",
        Method::Put => wanted == "PUT",
        Method::Post => wanted == "POST",
        Method::Other(name) => wanted == name,
        Method::Head | Method::Delete | Method::Connect | Method::Options | Method::Trace | Method::Patch => {
            false
        }
    }
}

fn number(query: &str, name: &str, default: u64) -> u64 {
    parameter(query, name).and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A query parameter, percent-decoded.
pub(crate) fn parameter(query: &str, name: &str) -> Option<String> {
    let pair = query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name)?;
    let (mut bytes, mut rest) = (Vec::new(), pair.1.as_bytes());
    while let Some((&first, after)) = rest.split_first() {
        let escaped = after.get(..2).filter(|_| first == b'%');
        match escaped.and_then(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()) {
            Some(byte) => (bytes, rest) = (pushed(bytes, byte), &after[2..]),
            None => (bytes, rest) = (pushed(bytes, if first == b'+' { b' ' } else { first }), after),
        }
    }
    String::from_utf8(bytes).ok()
}

fn pushed(mut bytes: Vec<u8>, byte: u8) -> Vec<u8> {
    bytes.push(byte);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_found_and_decoded() {
        let query = "n=3&url=http%3A%2F%2Fapp%2Fa+b%3Fc%3D1&bad=%zz%4";
        assert_eq!(parameter(query, "url").as_deref(), Some("http://app/a b?c=1"));
        assert_eq!(parameter(query, "bad").as_deref(), Some("%zz%4"));
        assert_eq!((number(query, "n", 9), number(query, "m", 9), number(query, "url", 9)), (3, 9, 9));
    }
}
