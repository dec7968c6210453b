//! Answers without end: server-sent events, one JSON value each, ended when the server stops.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use dodai_core::task::Tasks;
use futures_util::{Stream, StreamExt};
use http::header;
use serde::Serialize;

/// One event.
fn event(value: &impl Serialize) -> Bytes {
    let json = serde_json::to_string(value).expect("events have text keys only, which JSON can always hold");
    Bytes::from(format!("data: {json}\n\n"))
}

/// Answers with every value of a stream as it comes.
pub(crate) fn respond<T: Serialize + Send + 'static>(
    values: impl Stream<Item = T> + Send + 'static,
    tasks: Tasks,
) -> Response {
    let end = async move { tasks.closing().await };
    let events = values.map(|value| Ok::<_, std::convert::Infallible>(event(&value))).take_until(end);
    // The first bytes go out at once, so that the reader knows that it is heard.
    let hello = futures_util::stream::once(async { Ok(Bytes::from_static(b": begins\n\n")) });
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(hello.chain(events))).into_response()
}
