//! What handlers take and answer, as types that also say what they are: the description of the API is read off the
//! handlers' signatures. Of JSON it cannot say anything else than what is sent; what a body of other bytes is
//! ([`Sent`], [`Raw`]) is said by hand.

use std::marker::PhantomData;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Path, Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request};
use http_body_util::{BodyExt, Limited};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::Refusal;
use crate::description::{Entry, Place};

/// The most bytes of a request's JSON, where it is no document.
pub(crate) const MAX_ASKED_BYTES: usize = 4096;

/// Something that a handler takes out of a request.
pub(crate) trait Takes {
    /// What the description says of it; nothing where callers need not know.
    fn describe(_entry: &mut Entry<'_>) {}
}

/// Something that a body may be: media types, each with the schema of what is in it.
pub(crate) trait Media {
    /// Which.
    fn media(generator: &mut SchemaGenerator) -> Vec<(&'static str, Schema)>;
}

/// A handler, by what it takes and answers.
pub trait Described<Arguments> {
    /// Says it.
    fn describe(entry: &mut Entry<'_>);
}

macro_rules! described {
    ($($argument:ident),*) => {
        impl<Run, Done, Answer, $($argument: Takes,)*> Described<($($argument,)*)> for Run
        where
            Run: Fn($($argument),*) -> Done,
            Done: Future<Output = Answer>,
            Answer: Media,
        {
            fn describe(entry: &mut Entry<'_>) {
                $($argument::describe(entry);)*
                entry.answer::<Answer>();
            }
        }
    };
}

described!();
described!(A);
described!(A, B);
described!(A, B, C);
described!(A, B, C, D);
described!(A, B, C, D, E);

impl<S> Takes for State<S> {}
impl Takes for HeaderMap {}

impl<T: JsonSchema> Takes for Path<T> {
    fn describe(entry: &mut Entry<'_>) {
        entry.parameters::<T>(Place::Path);
    }
}

/// The query of a request.
pub(crate) struct Query<T>(pub T);

impl<T: JsonSchema> Takes for Query<T> {
    fn describe(entry: &mut Entry<'_>) {
        entry.parameters::<T>(Place::Query);
    }
}

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Refusal;

    async fn from_request_parts(head: &mut request::Parts, _state: &S) -> Result<Query<T>, Refusal> {
        let found = axum::extract::Query::<T>::try_from_uri(&head.uri);
        found
            .map(|query| Query(query.0))
            .map_err(|error| Refusal::bad_request(format!("the query: {}", error.body_text())))
    }
}

/// Who writes, for the change log: what the client says of itself.
pub(crate) struct Actor(pub String);

const ACTOR: HeaderName = HeaderName::from_static("dodai-actor");

impl Takes for Actor {
    fn describe(entry: &mut Entry<'_>) {
        entry.header(
            &ACTOR,
            "Who writes, for the change log; at most 64 characters, `api` where it is left out.",
        );
    }
}

impl<S: Sync> FromRequestParts<S> for Actor {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(head: &mut request::Parts, _state: &S) -> Result<Actor, Self::Rejection> {
        let name = head.headers.get(ACTOR).and_then(|value| value.to_str().ok()).unwrap_or("api");
        Ok(Actor(name.chars().take(64).collect()))
    }
}

/// What the JSON of a small request is.
pub(crate) trait Ask: DeserializeOwned + JsonSchema {
    /// How it looks, for those who wrote something else.
    const LOOKS: &'static str;
}

/// The JSON of a small request; an empty body is as good as `{}`.
pub(crate) struct Asked<T>(pub T);

impl<T: Ask> Takes for Asked<T> {
    fn describe(entry: &mut Entry<'_>) {
        entry.body::<Json<T>>(T::deserialize(Value::Object(serde_json::Map::new())).is_err());
    }
}

impl<T: Ask, S: Sync> FromRequest<S> for Asked<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _state: &S) -> Result<Asked<T>, Refusal> {
        let body = read(request.into_body(), MAX_ASKED_BYTES).await?;
        asked(if body.is_empty() { b"{}" } else { &body }).map(Asked)
    }
}

/// Reads the JSON of a request.
pub(crate) fn asked<T: Ask>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| {
        Refusal::bad_request(format!("the body: {error}")).remedy(format!("send `{}`", T::LOOKS))
    })
}

/// The body of a request as it is, said to be an `M`.
pub(crate) struct Sent<M>(Body, PhantomData<fn() -> M>);

impl<M> Sent<M> {
    /// The whole of it, within a limit in bytes.
    pub async fn read(self, limit: usize) -> Result<Bytes, Refusal> {
        read(self.0, limit).await
    }
}

impl<M: Media> Takes for Sent<M> {
    fn describe(entry: &mut Entry<'_>) {
        entry.body::<M>(true);
    }
}

impl<M, S: Sync> FromRequest<S> for Sent<M> {
    type Rejection = std::convert::Infallible;

    async fn from_request(request: Request, _state: &S) -> Result<Sent<M>, Self::Rejection> {
        Ok(Sent(request.into_body(), PhantomData))
    }
}

async fn read(body: Body, limit: usize) -> Result<Bytes, Refusal> {
    match Limited::new(body, limit).collect().await {
        Ok(all) => Ok(all.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            let text = format!("the body is larger than {limit} bytes");
            Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", text))
        }
        Err(error) => Err(Refusal::bad_request(format!("the body broke off: {error}"))),
    }
}

/// JSON that is a `T`.
pub(crate) struct Json<T>(Vec<u8>, PhantomData<fn() -> T>);

/// What handlers answer with most of the time.
pub(crate) type Answer<T> = Result<Json<T>, Refusal>;

/// A JSON answer.
pub(crate) fn json<T: Serialize>(value: &T) -> Answer<T> {
    let body = serde_json::to_vec(value).map_err(|error| Refusal::internal(error.to_string()))?;
    Ok(Json(body, PhantomData))
}

/// The JSON that a base answered, as it said it: one of a later version may say more than is known here of a `T`.
pub(crate) fn relayed<T: DeserializeOwned>(value: &Value) -> Answer<T> {
    T::deserialize(value)
        .map_err(|error| Refusal::internal(format!("the base answered something else: {error}")))?;
    Ok(Json(value.to_string().into_bytes(), PhantomData))
}

impl<T> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, "application/json")], self.0).into_response()
    }
}

impl<T: JsonSchema> Media for Json<T> {
    fn media(generator: &mut SchemaGenerator) -> Vec<(&'static str, Schema)> {
        vec![("application/json", generator.subschema_for::<T>())]
    }
}

/// An answer whose bytes are no JSON, said to be an `M`.
pub(crate) struct Raw<M>(Response, PhantomData<fn() -> M>);

impl<M> Raw<M> {
    /// This one.
    pub fn new(response: Response) -> Raw<M> {
        Raw(response, PhantomData)
    }
}

impl<M> IntoResponse for Raw<M> {
    fn into_response(self) -> Response {
        self.0
    }
}

impl<M: Media> Media for Raw<M> {
    fn media(generator: &mut SchemaGenerator) -> Vec<(&'static str, Schema)> {
        M::media(generator)
    }
}

/// One or the other.
pub(crate) enum Or<A, B> {
    /// The one.
    One(A),
    /// The other.
    Other(B),
}

impl<A: IntoResponse, B: IntoResponse> IntoResponse for Or<A, B> {
    fn into_response(self) -> Response {
        match self {
            Or::One(one) => one.into_response(),
            Or::Other(other) => other.into_response(),
        }
    }
}

impl<A: Media, B: Media> Media for Or<A, B> {
    fn media(generator: &mut SchemaGenerator) -> Vec<(&'static str, Schema)> {
        [A::media(generator), B::media(generator)].concat()
    }
}

/// An answer with a header of its own.
impl<A: Media> Media for ([(HeaderName, HeaderValue); 1], A) {
    fn media(generator: &mut SchemaGenerator) -> Vec<(&'static str, Schema)> {
        A::media(generator)
    }
}

impl<A: Media> Media for Result<A, Refusal> {
    fn media(generator: &mut SchemaGenerator) -> Vec<(&'static str, Schema)> {
        A::media(generator)
    }
}

/// Nothing.
pub(crate) struct Nothing;
/// Text.
pub(crate) struct Text;
/// Metrics in either of the formats of Prometheus.
pub(crate) struct MetricsPage;
/// Documents as YAML.
pub(crate) struct Yaml;
/// A WASM component.
pub(crate) struct Wasm;
/// Any bytes.
pub(crate) struct Octets;

impl Media for Nothing {
    fn media(_generator: &mut SchemaGenerator) -> Vec<(&'static str, Schema)> {
        Vec::new()
    }
}

impl Media for Text {
    fn media(_generator: &mut SchemaGenerator) -> Vec<(&'static str, Schema)> {
        vec![("text/plain", json_schema!({ "type": "string" }))]
    }
}

impl Media for MetricsPage {
    fn media(_generator: &mut SchemaGenerator) -> Vec<(&'static str, Schema)> {
        let kinds = ["text/plain", "application/openmetrics-text"];
        kinds.into_iter().map(|kind| (kind, json_schema!({ "type": "string" }))).collect()
    }
}

impl Media for Yaml {
    fn media(_generator: &mut SchemaGenerator) -> Vec<(&'static str, Schema)> {
        vec![("application/yaml", json_schema!({ "type": "string" }))]
    }
}

impl Media for Wasm {
    fn media(_generator: &mut SchemaGenerator) -> Vec<(&'static str, Schema)> {
        vec![("application/wasm", binary())]
    }
}

impl Media for Octets {
    fn media(_generator: &mut SchemaGenerator) -> Vec<(&'static str, Schema)> {
        vec![("application/octet-stream", binary())]
    }
}

fn binary() -> Schema {
    json_schema!({ "type": "string", "format": "binary" })
}
