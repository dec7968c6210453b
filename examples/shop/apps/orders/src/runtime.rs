//! The runtime beside this app, over its Dapr-compatible HTTP API on loopback.

use crate::reply::Refusal;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::time::Duration;

const STATE: &str = "shop-state";
const PUBSUB: &str = "shop-pubsub";
const SECRETS: &str = "shop-secrets";
const CONFIG: &str = "shop-config";

/// How long one call of the runtime may take, retries by its policies included.
const PATIENCE: Duration = Duration::from_secs(10);
const ANSWER_LIMIT: usize = 4 * 1024 * 1024;
/// How often a change is tried again when another request changed the same value first.
const RACES: u32 = 12;
/// Headers that make one request of several hops.
const TRACE_HEADERS: [&str; 3] = ["traceparent", "tracestate", "baggage"];

/// A handle on the runtime; calls share its connections.
pub struct Runtime {
    client: Client<HttpConnector, Full<Bytes>>,
    port: u16,
    token: Option<HeaderValue>,
}

/// The trace that calls belong to: the headers of the request they are made for.
#[derive(Clone, Default)]
pub struct Trace(HeaderMap);

impl Trace {
    /// The trace of a request.
    pub fn of(headers: &HeaderMap) -> Trace {
        let mut kept = HeaderMap::new();
        for name in TRACE_HEADERS {
            if let Some(value) = headers.get(name) {
                kept.insert(HeaderName::from_static(name), value.clone());
            }
        }
        Trace(kept)
    }
}

/// What the runtime answered.
pub struct Answer {
    /// The status code.
    pub status: StatusCode,
    etag: Option<String>,
    body: Bytes,
}

impl Answer {
    /// The body as JSON.
    pub fn json<T: DeserializeOwned>(&self, what: &str) -> Result<T, Refusal> {
        serde_json::from_slice(&self.body).map_err(|error| Refusal::unavailable(what, error))
    }

    fn expect_success(self, what: &str) -> Result<Answer, Refusal> {
        if self.status.is_success() {
            return Ok(self);
        }
        let text = String::from_utf8_lossy(&self.body);
        Err(Refusal::unavailable(what, format_args!("the runtime answered {}: {text}", self.status)))
    }
}

impl Runtime {
    /// The runtime that listens on this loopback port.
    pub fn new(port: u16, token: Option<String>) -> Runtime {
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(20))
            .build_http();
        let token = token.and_then(|token| HeaderValue::try_from(token).ok()).map(|mut token| {
            token.set_sensitive(true);
            token
        });
        Runtime { client, port, token }
    }

    /// Calls another app through the mesh.
    pub async fn invoke(
        &self,
        trace: &Trace,
        app: &str,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, Refusal> {
        self.call(trace, method, &format!("/v1.0/invoke/{app}/method/{path}"), body).await
    }

    /// Publishes an event under an id of the caller's: what hears it can tell a second copy from a second event.
    pub async fn publish(&self, trace: &Trace, topic: &str, id: &str, event: &Value) -> Result<(), Refusal> {
        let path = format!("/v1.0/publish/{PUBSUB}/{topic}?metadata.cloudevent.id={id}");
        self.call(trace, Method::POST, &path, Some(event))
            .await?
            .expect_success("publishing the event")
            .map(drop)
    }

    /// The value of a secret.
    pub async fn secret(&self, trace: &Trace, name: &str) -> Result<String, Refusal> {
        let what = format!("the secret {name}");
        let answer = self.call(trace, Method::GET, &format!("/v1.0/secrets/{SECRETS}/{name}"), None).await?;
        let mut values: Value = answer.expect_success(&what)?.json(&what)?;
        match values[name].take() {
            Value::String(value) => Ok(value),
            _ => Err(Refusal::unavailable(&what, "it is not in the secret store")),
        }
    }

    /// The value of a configuration key; `None` if it is not set.
    pub async fn config(&self, trace: &Trace, key: &str) -> Result<Option<String>, Refusal> {
        let what = format!("the configuration key {key}");
        let answer =
            self.call(trace, Method::GET, &format!("/v1.0/configuration/{CONFIG}?key={key}"), None).await?;
        let items: Value = answer.expect_success(&what)?.json(&what)?;
        Ok(items[key]["value"].as_str().map(str::to_owned))
    }

    /// The state under `key`.
    pub async fn state<T: DeserializeOwned>(&self, trace: &Trace, key: &str) -> Result<Option<T>, Refusal> {
        Ok(self.versioned(trace, key).await?.map(|(value, _)| value))
    }

    /// Puts `value` under `key` unless something is there already; whether it did.
    pub async fn create(&self, trace: &Trace, key: &str, value: &impl Serialize) -> Result<bool, Refusal> {
        self.put(trace, key, value, None).await
    }

    /// Changes the state under `key` by a pure function, again if another change came first.
    pub async fn change<T: DeserializeOwned + Serialize + Default>(
        &self,
        trace: &Trace,
        key: &str,
        mut change: impl FnMut(&mut T),
    ) -> Result<T, Refusal> {
        for _ in 0..RACES {
            let (mut value, etag) = match self.versioned(trace, key).await? {
                Some((value, etag)) => (value, Some(etag)),
                None => (T::default(), None),
            };
            change(&mut value);
            if self.put(trace, key, &value, etag.as_deref()).await? {
                return Ok(value);
            }
        }
        Err(Refusal::new(
            StatusCode::CONFLICT,
            "busy",
            format!("{key} is being changed by many requests; try again"),
        ))
    }

    /// Removes the state under `key`.
    pub async fn delete(&self, trace: &Trace, key: &str) -> Result<(), Refusal> {
        let path = format!("/v1.0/state/{STATE}/{key}");
        self.call(trace, Method::DELETE, &path, None).await?.expect_success("deleting state").map(drop)
    }

    async fn versioned<T: DeserializeOwned>(
        &self,
        trace: &Trace,
        key: &str,
    ) -> Result<Option<(T, String)>, Refusal> {
        let answer = self.call(trace, Method::GET, &format!("/v1.0/state/{STATE}/{key}"), None).await?;
        if answer.status == StatusCode::NO_CONTENT {
            return Ok(None);
        }
        let answer = answer.expect_success("reading state")?;
        Ok(Some((answer.json("reading state")?, answer.etag.clone().unwrap_or_default())))
    }

    /// Writes if the state still has this ETag, or, without one, if there is none yet. `false`: somebody was faster.
    async fn put(
        &self,
        trace: &Trace,
        key: &str,
        value: &impl Serialize,
        etag: Option<&str>,
    ) -> Result<bool, Refusal> {
        let mut item = json!({ "key": key, "value": value, "options": { "concurrency": "first-write" } });
        if let Some(etag) = etag {
            item["etag"] = etag.into();
        }
        let answer =
            self.call(trace, Method::POST, &format!("/v1.0/state/{STATE}"), Some(&json!([item]))).await?;
        if answer.status == StatusCode::CONFLICT {
            return Ok(false);
        }
        answer.expect_success("writing state").map(|_| true)
    }

    async fn call(
        &self,
        trace: &Trace,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, Refusal> {
        let mut request =
            Request::builder().method(method).uri(format!("http://127.0.0.1:{}{path}", self.port));
        if let Some(headers) = request.headers_mut() {
            headers.extend(trace.0.clone());
            if body.is_some() {
                headers.insert("content-type", HeaderValue::from_static("application/json"));
            }
            if let Some(token) = &self.token {
                headers.insert("dapr-api-token", token.clone());
            }
        }
        let bytes = body.map(|value| Bytes::from(value.to_string())).unwrap_or_default();
        let request =
            request.body(Full::new(bytes)).map_err(|error| Refusal::unavailable("the call", error))?;
        let answer = async {
            let response = self.client.request(request).await.map_err(|error| error.to_string())?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, ANSWER_LIMIT)
                .collect()
                .await
                .map_err(|error| error.to_string())?
                .to_bytes();
            let etag = head.headers.get("etag").and_then(|etag| etag.to_str().ok()).map(str::to_owned);
            Ok::<_, String>(Answer { status: head.status, etag, body })
        };
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(answer) => answer.map_err(|reason| Refusal::unavailable("the runtime", reason)),
            Err(_) => Err(Refusal::unavailable(
                "the runtime",
                format_args!("no answer in {} s", PATIENCE.as_secs()),
            )),
        }
    }
}
