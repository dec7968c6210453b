//! What the module asks of the base: calls, a configuration value, a stored value.

use wasip3::http::client;
use wasip3::http::types::{ErrorCode, Fields, Method, Request, Response, Scheme};
use wasip3::wit_bindgen::{StreamReader, StreamResult};
use wasip3::wit_future;

use crate::bindings::wasi::config::store as config_store;
use crate::bindings::wasi::keyvalue::{atomics, store};
use crate::{End, answer, copied, parameter, text};

/// Makes a request, with or without a body, and passes its answer on, or says why there is none.
pub async fn call(url: &str, body: Option<(StreamReader<u8>, End)>) -> Result<Response, ErrorCode> {
    let response = match ask(url, body).await {
        Ok(response) => response,
        Err(reason) => return Ok(text(502, format!("no answer from {url}: {reason}\n"))),
    };
    let status = response.get_status_code();
    let (_, read) = wit_future::new(|| Ok(()));
    let (body, end) = Response::consume_body(response, read);
    let (body, end) = copied(body, end);
    Ok(answer(status, &[], Some(body), end))
}

/// Makes two requests at once.
pub async fn both(query: &str) -> Response {
    let of = |name| async move { whole(&parameter(query, name).unwrap_or_default()).await };
    let (a, b) = futures_util::join!(of("a"), of("b"));
    text(200, format!("{a} and {b}\n"))
}

async fn whole(url: &str) -> String {
    let response = match ask(url, None).await {
        Ok(response) => response,
        Err(reason) => return reason,
    };
    let (_, read) = wit_future::new(|| Ok(()));
    let (mut body, _end) = Response::consume_body(response, read);
    let mut all = Vec::new();
    loop {
        let (result, chunk) = body.read(Vec::with_capacity(4096)).await;
        all.extend(chunk);
        if matches!(result, StreamResult::Dropped | StreamResult::Cancelled) {
            return String::from_utf8_lossy(&all).into_owned();
        }
    }
}

async fn ask(url: &str, body: Option<(StreamReader<u8>, End)>) -> Result<Response, String> {
    let rest = url.strip_prefix("http://").ok_or("give url=http://app/path")?;
    let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let (method, body, end) = match body {
        Some((body, end)) => (Method::Post, Some(body), end),
        None => (Method::Get, None, wit_future::new(|| Ok(None)).1),
    };
    let (request, _sent) = Request::new(Fields::new(), body, end, None);
    request
        .set_method(&method)
        .and_then(|()| request.set_scheme(Some(&Scheme::Http)))
        .and_then(|()| request.set_authority(Some(authority)))
        .and_then(|()| request.set_path_with_query(Some(path)))
        .map_err(|()| "that is not a URL".to_owned())?;
    client::send(request).await.map_err(|error| match error {
        ErrorCode::InternalError(Some(text)) => text,
        other => format!("{other:?}"),
    })
}

/// A configuration value.
pub fn config(key: &str) -> Response {
    match config_store::get(key) {
        Ok(Some(value)) => text(200, value),
        Ok(None) => text(404, format!("{key} is not set\n")),
        Err(config_store::Error::Upstream(reason) | config_store::Error::Io(reason)) => {
            text(503, format!("configuration: {reason}\n"))
        }
    }
}

/// Adds one to a counter.
pub fn count(query: &str) -> Response {
    let name = parameter(query, "store").unwrap_or_else(|| "state".into());
    let key = parameter(query, "key").unwrap_or_default();
    match store::open(&name).and_then(|bucket| atomics::increment(&bucket, &key, 1)) {
        Ok(count) => text(200, count.to_string()),
        Err(store::Error::NoSuchStore) => text(503, format!("there is no store {name}\n")),
        Err(store::Error::AccessDenied) => text(403, format!("{name} is not for this app\n")),
        Err(store::Error::Other(reason)) => text(503, format!("{name}: {reason}\n")),
    }
}
