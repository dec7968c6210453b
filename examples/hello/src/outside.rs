//! What the module asks of the base: a call, a configuration value, a stored value.

use crate::bindings::wasi::config::store as config_store;
use crate::bindings::wasi::http::outgoing_handler;
use crate::bindings::wasi::http::types::{
    ErrorCode, Fields, IncomingRequest, IncomingResponse, OutgoingBody, OutgoingRequest, ResponseOutparam,
    Scheme,
};
use crate::bindings::wasi::keyvalue::{atomics, store};
use crate::{begin, body, is_method, parameter, text};

/// Makes a GET request and passes its answer on, or says why there is none.
pub fn call(out: ResponseOutparam, url: &str) {
    let Some(rest) = url.strip_prefix("http://") else {
        return text(out, 400, "give url=http://app/path\n");
    };
    let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let response = match get(authority, path) {
        Ok(response) => response,
        Err(reason) => return text(out, 502, &format!("no answer from {authority}: {reason}\n")),
    };
    let fields = response.headers();
    let media_type = fields.get("content-type").into_iter().next().unwrap_or_default();
    let version = fields.get("x-hello-version").into_iter().next().unwrap_or_default();
    drop(fields);
    let headers = [("content-type", media_type.as_slice()), ("x-called-version", version.as_slice())];
    if let (Ok(incoming), Some(outgoing)) = (response.consume(), begin(out, response.status(), &headers)) {
        body::copy(incoming, outgoing);
    }
}

fn get(authority: &str, path: &str) -> Result<IncomingResponse, String> {
    let request = OutgoingRequest::new(Fields::new());
    let parts = request
        .set_scheme(Some(&Scheme::Http))
        .and_then(|()| request.set_authority(Some(authority)))
        .and_then(|()| request.set_path_with_query(Some(path)));
    parts.map_err(|()| "that is not a URL".to_owned())?;
    let sent = request.body().map_err(|()| "the body was taken".to_owned())?;
    let future = outgoing_handler::handle(request, None).map_err(|error| reason(&error))?;
    OutgoingBody::finish(sent, None).map_err(|error| reason(&error))?;
    let ready = future.subscribe();
    loop {
        match future.get() {
            Some(Ok(answer)) => return answer.map_err(|error| reason(&error)),
            Some(Err(())) => return Err("the answer was taken".into()),
            None => ready.block(),
        }
    }
}

fn reason(error: &ErrorCode) -> String {
    match error {
        ErrorCode::InternalError(Some(text)) => text.clone(),
        other => format!("{other:?}"),
    }
}

/// A configuration value.
pub fn config(out: ResponseOutparam, key: &str) {
    match config_store::get(key) {
        Ok(Some(value)) => text(out, 200, &value),
        Ok(None) => text(out, 404, &format!("{key} is not set\n")),
        Err(config_store::Error::Upstream(reason) | config_store::Error::Io(reason)) => {
            text(out, 503, &format!("configuration: {reason}\n"));
        }
    }
}

/// GET reads, PUT writes the body, POST adds one.
pub fn key_value(request: &IncomingRequest, out: ResponseOutparam, query: &str) {
    let name = parameter(query, "store").unwrap_or_else(|| "state".into());
    let key = parameter(query, "key").unwrap_or_default();
    match stored(request, &name, &key) {
        Ok(Some(value)) => crate::answer(out, 200, "application/octet-stream", &value),
        Ok(None) => text(out, 404, &format!("{key} is not in {name}\n")),
        Err(store::Error::NoSuchStore) => text(out, 503, &format!("there is no store {name}\n")),
        Err(store::Error::AccessDenied) => text(out, 403, &format!("{name} is not for this app\n")),
        Err(store::Error::Other(reason)) => text(out, 503, &format!("{name}: {reason}\n")),
    }
}

fn stored(request: &IncomingRequest, name: &str, key: &str) -> Result<Option<Vec<u8>>, store::Error> {
    let bucket = store::open(name)?;
    if is_method(request, "PUT") {
        let mut value = Vec::new();
        let whole = request.consume().is_ok_and(|incoming| body::read(incoming, |chunk| value.extend(chunk)));
        if !whole {
            return Err(store::Error::Other("the body broke off".into()));
        }
        bucket.set(key, &value)?;
        return Ok(Some(value));
    }
    if is_method(request, "POST") {
        return atomics::increment(&bucket, key, 1).map(|count| Some(count.to_string().into_bytes()));
    }
    bucket.get(key)
}
