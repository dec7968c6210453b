//! One HTTP/2 client connection: each stream becomes a call of its own task.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use dodai_core::call::Reply;
use dodai_core::failure::Failure;
use dodai_core::task;
use dodai_transport::stream::Stream;
use http::{HeaderMap, HeaderValue};
use tokio::time::Instant;

use crate::h2_drive::Driver;
use crate::limits::Limits;
use crate::request::Side;
use crate::roll::Speaks;
use crate::worker::Worker;
use crate::{answer, h2, h2_call};

/// What a client is granted.
fn settings(limits: &Limits) -> h2::Settings {
    h2::Settings {
        stream_window: limits.h2_stream_window,
        connection_window: limits.h2_connection_window,
        streams: limits.h2_streams,
        list_bytes: limits.head_bytes,
    }
}

/// Serves a connection until it ends. `early` are bytes that were read already.
pub async fn serve(worker: Rc<Worker>, stream: Stream, side: Side, early: Vec<u8>) {
    let limits = &worker.shared.limits;
    let at = h2::Shared::new(h2::Role::Server, settings(limits));
    let mut driver = Driver::new(stream, at.clone(), early);
    let deadline = worker.deadlines.register();
    deadline.set(limits.head_timeout);
    side.speaks(Speaks::Http2);
    let side = Rc::new(side);
    let live = Rc::new(std::cell::Cell::new(0usize));
    let (mut greeted, mut closing, mut idle) = (false, false, false);
    let now = Instant::now();
    let mut end = side.left(now).map(|left| now + left);
    // A connection without calls rests for a while; one that is too old ends also with some.
    let wait = |rest: Option<Duration>, end: Option<Instant>| match rest.map(|rest| Instant::now() + rest) {
        Some(rest) => deadline.set_at(end.map_or(rest, |end| end.min(rest))),
        None => end.map_or_else(|| deadline.clear(), |end| deadline.set_at(end)),
    };
    loop {
        deadline.set_interruptible(greeted && !closing);
        // A client that is told to go away, and has nothing under way, may take a moment to do so.
        let rest = if closing { limits.linger_timeout } else { limits.client_idle_timeout };
        let next = poll_fn(|cx| {
            let over = driver.poll(&worker, cx).is_ready();
            while let Some((head, receiving, sending)) = at.accept() {
                let (worker, live) = (worker.clone(), Live::new(&live));
                if let Some(facts) = &side.facts {
                    facts.began();
                }
                let call = h2_call::serve(worker.clone(), side.clone(), head, receiving, sending, live);
                // Boxed, because a task is moved several times before it runs, and a call is large.
                worker.tasks.spawn_local(task::Kind::Call, Box::pin(call));
            }
            if let Some(facts) = &side.facts {
                let (received, sent) = driver.passed();
                facts.carried(received, sent, live.get(), worker.ticked());
            }
            if !greeted && at.lock().is_greeted() {
                greeted = true;
                return Poll::Ready(Event::Greeted);
            }
            // Looked at whenever anything moves: a connection with traffic never comes to rest.
            let must_end = worker.tasks.is_closing() || side.is_retired() || driver.is_retiring();
            if greeted && !closing && must_end && !over {
                return Poll::Ready(Event::Close);
            }
            // The connection is polled when a stream ends, so this sees the last one go.
            match (greeted, live.get() == 0, idle) {
                (true, true, false) => wait(Some(rest), end),
                (true, false, true) => wait(None, end),
                (false, ..) | (true, true, true) | (true, false, false) => {}
            }
            idle = greeted && live.get() == 0;
            match over {
                true => Poll::Ready(Event::Ended),
                false if deadline.poll_fired(cx) => Poll::Ready(Event::Close),
                false => Poll::Pending,
            }
        })
        .await;
        match next {
            Event::Greeted => wait(None, end),
            Event::Close if closing || !greeted => return,
            Event::Close => {
                (closing, idle, end) = (true, false, None);
                deadline.clear();
                at.lock().shut_down();
            }
            Event::Ended => return Box::pin(driver.linger(&deadline, limits.linger_timeout)).await,
        }
    }
}

enum Event {
    /// The client has said what it grants.
    Greeted,
    /// It is time to go.
    Close,
    /// The connection is over.
    Ended,
}

/// Counts a stream while its call is under way.
pub struct Live(Rc<std::cell::Cell<usize>>);

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
    let (status, headers, body) = answer::failure_answer(failure);
    let status = http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    let mut reply = Reply::new(status, body);
    let headers = headers.iter().filter_map(|(name, value)| {
        Some((http::HeaderName::from_static(name), HeaderValue::from_str(value).ok()?))
    });
    reply.head.headers.extend(headers);
    reply
        .head
        .headers
        .insert(http::header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    reply
}

/// The answer to a failed gRPC call.
pub fn grpc_failure(failure: &Failure) -> Reply {
    let mut reply = grpc_reply(failure.kind.grpc_status(), &failure.to_string());
    let code = HeaderValue::from_static(failure.kind.code());
    reply.head.headers.insert(dodai_core::call::FAILURE_HEADER, code);
    reply
}

/// An answer to a gRPC call without any message: trailers only.
pub fn grpc_reply(status: u8, message: &str) -> Reply {
    let mut reply = Reply::new(http::StatusCode::OK, "");
    let headers = &mut reply.head.headers;
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from(u16::from(status)));
    if let Ok(message) = HeaderValue::from_str(&crate::answer::grpc_message(message)) {
        headers.insert("grpc-message", message);
    }
    reply
}
