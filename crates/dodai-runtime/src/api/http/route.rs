//! Which request is which: a pure function of method and path.
//!
//! Paths are matched segment by segment, undecoded, after daprd's cleaning: empty segments and `.` count for nothing,
//! `..` takes the one before it away. Names are decoded as daprd decodes them (a query's rules: `+` is a blank).
//! Everything the Dapr HTTP API has is known here, so that what is not served says so.

use http::Method;

use super::query;

/// What a request wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    SaveState {
        store: String,
    },
    GetState {
        store: String,
        key: String,
    },
    DeleteState {
        store: String,
        key: String,
    },
    BulkGetState {
        store: String,
    },
    Transact {
        store: String,
    },
    QueryState {
        store: String,
    },
    Publish {
        pubsub: String,
        topic: String,
    },
    BulkPublish {
        pubsub: String,
        topic: String,
    },
    GetSecret {
        store: String,
        key: String,
    },
    GetBulkSecret {
        store: String,
    },
    GetConfiguration {
        store: String,
    },
    FollowConfiguration {
        store: String,
    },
    UnfollowConfiguration {
        store: String,
        id: String,
    },
    TryLock {
        store: String,
    },
    Unlock {
        store: String,
    },
    InvokeBinding {
        name: String,
    },
    ScheduleJob {
        name: String,
    },
    GetJob {
        name: String,
    },
    DeleteJob {
        name: String,
    },
    GetMetadata,
    SetMetadata {
        key: String,
    },
    Health,
    OutboundHealth,
    Shutdown,
    /// Invocation, or any other path: then a header may name the app.
    Invoke,
    /// The API exists in Dapr and not here; the text says which.
    NotServed(&'static str),
    /// The path exists with other methods.
    WrongMethod(&'static str),
    /// A name in the path is not well-formed.
    Malformed {
        name: &'static str,
    },
}

const WRITE: &str = "POST, PUT";

/// Routes one request. `path` is as it was sent, without query.
pub(super) fn route(method: &Method, path: &str) -> Route {
    let segments = cleaned(path);
    let found = match segments.split_first() {
        Some((&"v1.0", rest)) => stable(method, rest),
        Some((&"v1.0-alpha1", rest)) => alpha(method, rest),
        Some((&("v1.0-alpha2" | "v1.0-beta1"), rest)) => Ok(elsewhere(rest)),
        Some(_) | None => Ok(None),
    };
    match found {
        Ok(Some(route)) => route,
        Ok(None) => Route::Invoke,
        Err(name) => Route::Malformed { name },
    }
}

/// The segments that count. The head's limit bounds how many there are.
fn cleaned(path: &str) -> Vec<&str> {
    let mut segments = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    segments
}

fn stable(method: &Method, rest: &[&str]) -> Result<Option<Route>, &'static str> {
    let write = *method == Method::POST || *method == Method::PUT;
    let get = *method == Method::GET;
    let delete = *method == Method::DELETE;
    Ok(Some(match rest {
        ["invoke", ..] => Route::Invoke,
        ["state", store] if write => Route::SaveState { store: store_name(store)? },
        ["state", _] => Route::WrongMethod(WRITE),
        ["state", store, "bulk"] if write => Route::BulkGetState { store: store_name(store)? },
        ["state", store, "transaction"] if write => Route::Transact { store: store_name(store)? },
        ["state", store, key] if get => Route::GetState { store: store_name(store)?, key: name("key", key)? },
        ["state", store, key] if delete => {
            Route::DeleteState { store: store_name(store)?, key: name("key", key)? }
        }
        ["state", _, _] => Route::WrongMethod("GET, DELETE"),
        ["publish", "bulk", pubsub, topic @ ..] if write => bulk_publish(pubsub, topic)?,
        ["publish", pubsub, topic @ ..] if write => {
            Route::Publish { pubsub: name("pubsubname", pubsub)?, topic: name("*", &topic.join("/"))? }
        }
        ["publish", ..] => Route::WrongMethod(WRITE),
        ["secrets", store, "bulk"] if get => Route::GetBulkSecret { store: name("secretStoreName", store)? },
        ["secrets", store, key] if get => {
            Route::GetSecret { store: name("secretStoreName", store)?, key: name("key", key)? }
        }
        ["secrets", _, _] => Route::WrongMethod("GET"),
        ["configuration", rest @ ..] => return configuration(get, rest),
        ["bindings", binding] if write => Route::InvokeBinding { name: name("name", binding)? },
        ["bindings", _] => Route::WrongMethod(WRITE),
        ["jobs", name] => job(method, name)?,
        ["metadata"] if get => Route::GetMetadata,
        ["metadata"] => Route::WrongMethod("GET"),
        ["metadata", key] if *method == Method::PUT => Route::SetMetadata { key: name("key", key)? },
        ["metadata", _] => Route::WrongMethod("PUT"),
        ["healthz"] if get => Route::Health,
        ["healthz", "outbound"] if get => Route::OutboundHealth,
        ["healthz"] | ["healthz", "outbound"] => Route::WrongMethod("GET"),
        ["shutdown"] if *method == Method::POST => Route::Shutdown,
        ["shutdown"] => Route::WrongMethod("POST"),
        rest => return Ok(elsewhere(rest)),
    }))
}

fn alpha(method: &Method, rest: &[&str]) -> Result<Option<Route>, &'static str> {
    let write = *method == Method::POST || *method == Method::PUT;
    Ok(Some(match rest {
        ["state", store, "query"] if write => Route::QueryState { store: store_name(store)? },
        ["state", _, "query"] => Route::WrongMethod(WRITE),
        ["publish", "bulk", pubsub, topic @ ..] if write => bulk_publish(pubsub, topic)?,
        ["publish", "bulk", ..] => Route::WrongMethod(WRITE),
        ["configuration", rest @ ..] => return configuration(*method == Method::GET, rest),
        ["jobs", name] => job(method, name)?,
        ["lock", store] if *method == Method::POST => Route::TryLock { store: store_name(store)? },
        ["unlock", store] if *method == Method::POST => Route::Unlock { store: store_name(store)? },
        ["lock" | "unlock", _] => Route::WrongMethod("POST"),
        rest => return Ok(elsewhere(rest)),
    }))
}

fn bulk_publish(pubsub: &str, topic: &[&str]) -> Result<Route, &'static str> {
    Ok(Route::BulkPublish { pubsub: name("pubsubname", pubsub)?, topic: name("*", &topic.join("/"))? })
}

/// The paths of 1.18, and those before it was stable.
fn job(method: &Method, text: &str) -> Result<Route, &'static str> {
    Ok(match *method {
        Method::POST => Route::ScheduleJob { name: name("name", text)? },
        Method::GET => Route::GetJob { name: name("name", text)? },
        Method::DELETE => Route::DeleteJob { name: name("name", text)? },
        _ => Route::WrongMethod("GET, POST, DELETE"),
    })
}

fn configuration(get: bool, rest: &[&str]) -> Result<Option<Route>, &'static str> {
    Ok(Some(match rest {
        [_] | [_, "subscribe"] | [_, _, "unsubscribe"] if !get => Route::WrongMethod("GET"),
        [store] => Route::GetConfiguration { store: store_name(store)? },
        [store, "subscribe"] => Route::FollowConfiguration { store: store_name(store)? },
        [store, id, "unsubscribe"] => Route::UnfollowConfiguration {
            store: store_name(store)?,
            id: name("configurationSubscribeID", id)?,
        },
        _ => return Ok(None),
    }))
}

/// APIs that Dapr has and this runtime does not serve.
fn elsewhere(rest: &[&str]) -> Option<Route> {
    let api = match rest {
        ["actors", _, _, ..] => "actors",
        ["workflows", _, _, ..] => "workflows",
        ["crypto", _, _] => "cryptography",
        ["subtlecrypto", _, _] => "subtle cryptography",
        ["conversation", _, _] => "conversation",
        _ => return None,
    };
    Some(Route::NotServed(api))
}

fn store_name(text: &str) -> Result<String, &'static str> {
    name("storeName", text)
}

fn name(what: &'static str, text: &str) -> Result<String, &'static str> {
    query::unescape(text).ok_or(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_methods_lead_to_routes() {
        let text = str::to_owned;
        let key = |key: &str| Route::GetState { store: text("s"), key: text(key) };
        let publish = |topic: &str| Route::Publish { pubsub: text("p"), topic: text(topic) };
        let table = [
            ("GET", "/v1.0/state/s/k", key("k")),
            ("GET", "//v1.0//state/s/k", key("k")),
            ("GET", "/v1.0/state/s/bulk", key("bulk")),
            ("GET", "/v1.0/state/s/a%2Fb+c", key("a/b c")),
            ("GET", "/v1.0/state/s/a%2", Route::Malformed { name: "key" }),
            ("PUT", "/v1.0/state/s/bulk", Route::BulkGetState { store: text("s") }),
            ("PATCH", "/v1.0/state/s", Route::WrongMethod("POST, PUT")),
            ("POST", "/v1.0/publish/p/a/b/c", publish("a/b/c")),
            ("POST", "/v1.0/publish/p//a//b/", publish("a/b")),
            ("POST", "/v1.0/publish/p/a%2F%2Fb%2F", publish("a//b/")),
            ("POST", "/v1.0/publish/p/./a/../b", publish("b")),
            ("GET", "/../v1.0/state/s/k", key("k")),
            ("POST", "/v1.0/publish/p", publish("")),
            ("POST", "/v1.0/publish/bulk/p/t", Route::BulkPublish { pubsub: text("p"), topic: text("t") }),
            (
                "POST",
                "/v1.0-alpha1/publish/bulk/p/t",
                Route::BulkPublish { pubsub: text("p"), topic: text("t") },
            ),
            ("GET", "/v1.0/configuration/c/subscribe", Route::FollowConfiguration { store: text("c") }),
            ("GET", "/v1.0-alpha1/configuration/c", Route::GetConfiguration { store: text("c") }),
            ("POST", "/v1.0-alpha1/lock/l", Route::TryLock { store: text("l") }),
            ("POST", "/v1.0/lock/l", Route::Invoke),
            ("POST", "/v1.0/bindings/b", Route::InvokeBinding { name: text("b") }),
            ("GET", "/v1.0/bindings/b", Route::WrongMethod("POST, PUT")),
            ("POST", "/v1.0/jobs/j", Route::ScheduleJob { name: text("j") }),
            ("GET", "/v1.0-alpha1/jobs/a%20b", Route::GetJob { name: text("a b") }),
            ("DELETE", "/v1.0/jobs/j", Route::DeleteJob { name: text("j") }),
            ("PUT", "/v1.0/jobs/j", Route::WrongMethod("GET, POST, DELETE")),
            ("GET", "/v1.0-beta1/workflows/dapr/1", Route::NotServed("workflows")),
            ("POST", "/v1.0-alpha2/conversation/echo/converse", Route::NotServed("conversation")),
            ("DELETE", "/v1.0/invoke/a/method/m", Route::Invoke),
            ("GET", "/orders/1", Route::Invoke),
            ("GET", "/", Route::Invoke),
            ("GET", "/v1.0/healthz/outbound", Route::OutboundHealth),
        ];
        for (method, path, expect) in table {
            let method = Method::from_bytes(method.as_bytes()).expect("a method");
            assert_eq!(route(&method, path), expect, "{method} {path}");
        }
    }

    #[test]
    fn a_long_topic_is_taken_whole() {
        let topic = vec!["t"; 1000].join("/");
        let found = route(&Method::POST, &format!("/v1.0/publish/p/{topic}"));
        assert_eq!(found, Route::Publish { pubsub: "p".to_owned(), topic });
    }
}
