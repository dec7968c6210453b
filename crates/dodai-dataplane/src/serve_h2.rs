//! One HTTP/2 client connection: each stream becomes a call of its own task.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use dodai_core::call::{Call, Context, Reply};
use dodai_core::failure::{Failure, Kind};
use dodai_core::head::RequestHead;
use dodai_core::snapshot::Role;
use dodai_core::task;
use dodai_transport::stream::Stream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::time::Instant;

use crate::cork::{Corked, cork};
use crate::h2_body;
use crate::limits::{H2_RESET_STREAMS, H2_SEND_BUFFER, MAX_HEADERS};
use crate::message;
use crate::request::Side;
use crate::spine::{self, Lap, Line, Outcome};
use crate::worker::Worker;

/// How a client announces HTTP/2 without TLS (RFC 9113 section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Serves a connection until it ends. `early` are bytes that were read already.
pub async fn serve(worker: Rc<Worker>, stream: Stream, side: Side, early: Vec<u8>) {
    let limits = &worker.shared.limits;
    let (io, cork) = cork(stream, early);
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(limits.h2_stream_window)
        .initial_connection_window_size(limits.h2_connection_window)
        .max_concurrent_streams(limits.h2_streams)
        .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
        .max_concurrent_reset_streams(H2_RESET_STREAMS)
        .max_send_buffer_size(H2_SEND_BUFFER);
    let deadline = worker.deadlines.register();
    deadline.set(limits.head_timeout);
    let mut handshake = std::pin::pin!(builder.handshake::<Corked, Bytes>(io));
    let shaken = deadline.bound(poll_fn(|cx| {
        let done = handshake.as_mut().poll(cx);
        let _pending = cork.poll_drain(cx);
        done
    }));
    let Some(Ok(mut connection)) = shaken.await else { return };
    let side = Rc::new(side);
    let live = Rc::new(std::cell::Cell::new(0usize));
    let (mut closing, mut idle) = (false, false);
    deadline.clear();
    loop {
        if !closing && (worker.tasks.is_closing() || side.retired.get()) {
            closing = true;
            connection.graceful_shutdown();
        }
        deadline.set_interruptible(!closing);
        // A client that is told to go away, and has nothing under way, may take a moment to do so.
        let rest = if closing { limits.linger_timeout } else { limits.client_idle_timeout };
        let next = poll_fn(|cx| {
            let accepted = connection.poll_accept(cx);
            // The connection is polled when a stream ends, so this sees the last one go.
            match (live.get() == 0, idle) {
                (true, false) => deadline.set(rest),
                (false, true) => deadline.clear(),
                (true, true) | (false, false) => {}
            }
            idle = live.get() == 0;
            if let Poll::Ready(Err(_)) = cork.poll_drain(cx) {
                return Poll::Ready(Event::Ended);
            }
            match accepted {
                Poll::Ready(Some(Ok(stream))) => Poll::Ready(Event::Stream(Box::new(stream))),
                Poll::Ready(Some(Err(_)) | None) => Poll::Ready(Event::Ended),
                Poll::Pending if deadline.poll_fired(cx) => Poll::Ready(Event::Close),
                Poll::Pending => Poll::Pending,
            }
        })
        .await;
        match next {
            Event::Stream(stream) => {
                let (request, respond) = *stream;
                let guard = Live::new(&live);
                let call = serve_stream(worker.clone(), side.clone(), request, respond, guard);
                // Boxed, because a task is moved several times before it runs, and a call is large.
                worker.tasks.spawn_local(task::Kind::Call, Box::pin(call));
            }
            Event::Close if closing => return,
            Event::Close => {
                closing = true;
                idle = false;
                deadline.clear();
                connection.graceful_shutdown();
            }
            Event::Ended => {
                let _flushed = poll_fn(|cx| cork.poll_drain(cx)).await;
                return;
            }
        }
    }
}

enum Event {
    Stream(Box<(Request<h2::RecvStream>, SendResponse<Bytes>)>),
    Close,
    Ended,
}

/// Counts a stream while its call is under way.
struct Live(Rc<std::cell::Cell<usize>>);

impl Live {
    fn new(count: &Rc<std::cell::Cell<usize>>) -> Live {
        count.set(count.get() + 1);
        Live(count.clone())
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// One call.
async fn serve_stream(
    worker: Rc<Worker>,
    side: Rc<Side>,
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    live: Live,
) {
    let (head, stream) = request.into_parts();
    let length = h2_body::announced(&head.headers);
    let most = worker.shared.limits.trailer_bytes;
    let body = h2_body::received(stream, length, most, Kind::BadRequest);
    let is_grpc = RequestHead::Map(&head).is_grpc();
    let is_head = head.method == http::Method::HEAD;
    let answer = answer(&worker, &side, head, body, is_grpc);
    let result = tokio::select! {
        // A reset ends the call: dropping `answer` cancels it everywhere.
        result = answer => result,
        _reset = poll_fn(|cx| respond.poll_reset(cx)) => return,
    };
    let reply = match result {
        Ok(reply) => reply,
        Err(failure) if is_grpc => grpc_failure(&failure),
        Err(failure) => http_failure(&failure),
    };
    let Reply { mut head, body } = reply;
    clean(&mut head.headers);
    head.version = http::Version::HTTP_2;
    let empty = is_head || http_body::Body::is_end_stream(&body);
    let Ok(stream) = respond.send_response(Response::from_parts(head, ()), empty) else { return };
    if !empty {
        let deadline = worker.deadlines.register();
        let _cut = h2_body::send(stream, body, &deadline, worker.shared.limits.idle_timeout).await;
    }
    drop(live);
}

async fn answer(
    worker: &Rc<Worker>,
    side: &Side,
    mut head: http::request::Parts,
    body: dodai_core::body::Body,
    is_grpc: bool,
) -> Result<Reply, Failure> {
    clean(&mut head.headers);
    if head.headers.len() > MAX_HEADERS {
        let text = format!("{} headers; at most {MAX_HEADERS} are taken", head.headers.len());
        return Err(Failure::new(Kind::HeadTooLarge, text));
    }
    if head.method == http::Method::CONNECT {
        return Err(Failure::new(Kind::NotImplemented, "CONNECT over HTTP/2 is not served on this listener"));
    }
    let span = spine::span(&RequestHead::Map(&head), worker);
    let mut context = Context::new(side.caller.clone(), span);
    context.hops = spine::hops(&RequestHead::Map(&head));
    let protocol = if is_grpc { "gRPC" } else { "HTTP/2" };
    let Role::Api { app } = &side.listener.role else {
        return message::forward(worker, side, Call { head, body, context }, protocol).await;
    };
    let api = worker.shared.apis.load().get(app).cloned();
    let lap = Lap::new(spine::direction(&side.listener.role), side.label.clone(), span);
    let (method, target) = (head.method.clone(), head.uri.path().to_owned());
    let limits = &worker.shared.limits;
    context.deadline = Some((Instant::now() + limits.call_timeout).into_std());
    let result = match api {
        Some(api) => {
            let call = api.serve(Call { head, body, context });
            let late =
                |_| Failure::new(Kind::Timeout, format!("the runtime API of {app} did not answer in time"));
            tokio::time::timeout(limits.call_timeout, call).await.map_err(late).flatten()
        }
        None => Err(Failure::new(Kind::NoEndpoint, format!("the runtime API of {app} is not up"))),
    };
    let line = Line {
        listener: &side.listener.name,
        method: method.as_str(),
        target: &target,
        authority: "",
        protocol,
    };
    match result {
        Ok(reply) => {
            let first_byte = Some(lap.start.elapsed());
            let outcome = Outcome { status: reply.head.status.as_u16(), first_byte, ..Outcome::default() };
            Ok(lap.finish_later(worker, None, None, outcome, line, None).with(reply))
        }
        Err(failure) => {
            let status = failure.kind.http_status();
            let grpc_status = is_grpc.then(|| failure.kind.grpc_status());
            let outcome =
                Outcome { status, grpc_status, failure: Some(failure.clone()), ..Outcome::default() };
            lap.finish(worker, None, None, &outcome, || line);
            Err(failure)
        }
    }
}

/// Removes what may not stand in an HTTP/2 message (RFC 9113 section 8.2.2).
pub fn clean(headers: &mut HeaderMap) {
    for name in ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"] {
        headers.remove(name);
    }
    if headers.get(http::header::TE).is_some_and(|te| te != "trailers") {
        headers.remove(http::header::TE);
    }
}

/// The answer to a failed call.
pub fn http_failure(failure: &Failure) -> Reply {
    let (status, headers, body) = spine::failure_answer(failure);
    let status = http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    let mut reply = Reply::new(status, body);
    for (name, value) in headers {
        reply.head.headers.insert(http::HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    reply
        .head
        .headers
        .insert(http::header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    reply
}

/// The answer to a failed gRPC call: trailers only.
pub fn grpc_failure(failure: &Failure) -> Reply {
    let mut reply = Reply::new(http::StatusCode::OK, "");
    let headers = &mut reply.head.headers;
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from(u16::from(failure.kind.grpc_status())));
    if let Ok(message) = HeaderValue::from_str(&spine::grpc_message(failure)) {
        headers.insert("grpc-message", message);
    }
    headers.insert(dodai_core::call::FAILURE_HEADER, HeaderValue::from_static(failure.kind.code()));
    reply
}
