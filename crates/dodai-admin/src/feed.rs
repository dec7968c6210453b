//! Answers without end: server-sent events, one JSON value each, ended when the server stops.

use std::marker::PhantomData;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use dodai_core::task::Tasks;
use futures_util::{Stream, StreamExt};
use http::header;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;

use crate::wire::Media;

/// Events that are a `T` each.
pub(crate) struct Events<T>(Body, PhantomData<fn() -> T>);

impl<T: Serialize + Send + 'static> Events<T> {
    /// Every value of a stream as it comes.
    pub fn of(values: impl Stream<Item = T> + Send + 'static, tasks: Tasks) -> Events<T> {
        // The first bytes go out at once, so that the reader knows that it is heard.
        let hello = futures_util::stream::once(async { Bytes::from_static(b": begins\n\n") });
        Events::written(hello.chain(values.map(|value| event(&value))), tasks)
    }
}

impl<T> Events<T> {
    /// Events that are written already.
    pub fn written(events: impl Stream<Item = Bytes> + Send + 'static, tasks: Tasks) -> Events<T> {
        let end = async move { tasks.closing().await };
        let events = events.map(Ok::<_, std::convert::Infallible>).take_until(end);
        Events(Body::from_stream(events), PhantomData)
    }
}

/// One event.
fn event(value: &impl Serialize) -> Bytes {
    let json = serde_json::to_string(value).expect("events have text keys only, which JSON can always hold");
    Bytes::from(format!("data: {json}\n\n"))
}

const MEDIA_TYPE: &str = "text/event-stream";

/// Whether an answer has no end.
pub(crate) fn is_stream(answer: &Response) -> bool {
    answer.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == MEDIA_TYPE)
}

impl<T> IntoResponse for Events<T> {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, MEDIA_TYPE)], self.0).into_response()
    }
}

impl<T: JsonSchema> Media for Events<T> {
    fn media(generator: &mut SchemaGenerator) -> Vec<(&'static str, Schema)> {
        vec![(MEDIA_TYPE, generator.subschema_for::<T>())]
    }
}
