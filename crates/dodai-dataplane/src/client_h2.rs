//! Parsed calls over shared HTTP/2 connections to endpoints: one connection per endpoint and thread, more
//! when its streams are used up.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use dodai_core::call::{Call, Reply};
use dodai_core::failure::{Failure, Kind};
use dodai_core::task;
use h2::client::SendRequest;
use http::Request;
use tokio::time::Instant;

use crate::client_h1::dial;
use crate::cork::{Corked, cork};
use crate::endpoint::Key;
use crate::h2_body;
use crate::reach::Target;
use crate::serve_h2::clean;
use crate::worker::Worker;

/// Connections per endpoint and thread at most.
const MAX_CONNECTIONS: usize = 8;

/// The HTTP/2 connections of one thread.
#[derive(Default)]
pub struct Connections(RefCell<HashMap<Key, Vec<Shared>>>);

struct Shared {
    sender: SendRequest<Bytes>,
    used: Rc<std::cell::Cell<Instant>>,
    closed: Rc<std::cell::Cell<bool>>,
}

impl Connections {
    /// Closes what was not used since `oldest`. Dropping the last sender lets a connection end once its
    /// streams have.
    pub fn sweep(&self, oldest: Instant) {
        self.0.borrow_mut().retain(|_, connections| {
            connections.retain(|connection| !connection.closed.get() && connection.used.get() > oldest);
            !connections.is_empty()
        });
    }

    /// Lets every connection end once its streams have.
    pub fn close(&self) {
        self.0.borrow_mut().clear();
    }

    /// A sender that can open a stream at once, and how many live connections there are.
    fn ready(&self, key: &Key) -> (Option<SendRequest<Bytes>>, usize) {
        let mut all = self.0.borrow_mut();
        let Some(connections) = all.get_mut(key) else { return (None, 0) };
        connections.retain(|connection| !connection.closed.get());
        let found = connections.iter_mut().find_map(|connection| {
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            match connection.sender.poll_ready(&mut cx) {
                Poll::Ready(Ok(())) if connection.sender.current_max_send_streams() > 0 => {
                    connection.used.set(Instant::now());
                    Some(connection.sender.clone())
                }
                Poll::Ready(_) | Poll::Pending => None,
            }
        });
        (found, connections.len())
    }

    /// Any live sender, for waiting on.
    fn any(&self, key: &Key) -> Option<SendRequest<Bytes>> {
        self.0.borrow().get(key)?.first().map(|connection| connection.sender.clone())
    }
}

/// Sends a call and waits for the head of the reply. The caller bounds the wait.
pub async fn send(worker: &Rc<Worker>, target: Target, call: Call) -> Result<Reply, Failure> {
    let (mut sender, fresh) = match worker.h2.ready(&target.key) {
        (Some(sender), _) => (sender, false),
        (None, count) if count >= MAX_CONNECTIONS => match worker.h2.any(&target.key) {
            Some(sender) => (sender, false),
            None => (connect(worker, &target).await?, true),
        },
        (None, _) => (connect(worker, &target).await?, true),
    };
    let unsent = |error: &h2::Error| {
        let kind = if fresh { Kind::Connect } else { Kind::Refused };
        Failure::new(kind, format!("{} takes no new stream: {error}", target.key.address))
    };
    sender = sender.ready().await.map_err(|error| unsent(&error))?;
    let Call { mut head, body, .. } = call;
    clean(&mut head.headers);
    head.version = http::Version::HTTP_2;
    complete_uri(&mut head);
    let ended = http_body::Body::is_end_stream(&body);
    let request = Request::from_parts(head, ());
    let (response, stream) = sender.send_request(request, ended).map_err(|error| unsent(&error))?;
    if !ended {
        worker.tasks.spawn_local(task::Kind::Call, async move {
            let _cut = h2_body::send(stream, body).await;
        });
    }
    let response = response.await.map_err(|error| answer_failure(&error, &target))?;
    let (head, stream) = response.into_parts();
    let length = h2_body::announced(&head.headers);
    Ok(Reply { head, body: h2_body::received(stream, length) })
}

/// An HTTP/2 request carries scheme and authority; the `Host` header becomes the authority.
fn complete_uri(head: &mut http::request::Parts) {
    let host = head.headers.remove(http::header::HOST);
    let mut uri = std::mem::take(&mut head.uri).into_parts();
    if uri.authority.is_none() {
        uri.authority = host.and_then(|host| host.as_bytes().try_into().ok());
    }
    if uri.authority.is_some() && uri.scheme.is_none() {
        uri.scheme = Some(http::uri::Scheme::HTTP);
    }
    if uri.path_and_query.is_none() {
        uri.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
    }
    head.uri = http::Uri::from_parts(uri).unwrap_or_default();
}

fn answer_failure(error: &h2::Error, target: &Target) -> Failure {
    let failure = h2_body::failure(error);
    // GOAWAY without having seen the stream also says that nothing was done.
    let kind = if error.is_go_away() && error.is_remote() { Kind::Refused } else { failure.kind };
    Failure::new(kind, format!("{}: {}", target.key.address, failure.detail))
}

/// Opens a connection and starts its driver.
async fn connect(worker: &Rc<Worker>, target: &Target) -> Result<SendRequest<Bytes>, Failure> {
    let limits = &worker.shared.limits;
    let (io, cork) = cork(dial(worker, &target.address).await?, Vec::new());
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(limits.h2_stream_window)
        .initial_connection_window_size(limits.h2_connection_window)
        .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
        .max_send_buffer_size(256 * 1024)
        .enable_push(false);
    let mut handshake = std::pin::pin!(builder.handshake::<Corked, Bytes>(io));
    let shaken = poll_fn(|cx| {
        let done = handshake.as_mut().poll(cx);
        let _pending = cork.poll_drain(cx);
        done
    });
    let failed = |error: h2::Error| Failure::new(Kind::Connect, format!("{} does not speak HTTP/2: {error}", target.key.address));
    let (sender, mut connection) = shaken.await.map_err(failed)?;
    let closed = Rc::new(std::cell::Cell::new(false));
    let used = Rc::new(std::cell::Cell::new(Instant::now()));
    let shared = Shared { sender: sender.clone(), used, closed: closed.clone() };
    worker.h2.0.borrow_mut().entry(target.key.clone()).or_default().push(shared);
    worker.tasks.spawn_local(task::Kind::OutboundConnection, async move {
        poll_fn(|cx| {
            let ended = std::pin::Pin::new(&mut connection).poll(cx).map(drop);
            match cork.poll_drain(cx) {
                Poll::Ready(Err(_)) => Poll::Ready(()),
                Poll::Ready(Ok(())) | Poll::Pending => ended,
            }
        })
        .await;
        closed.set(true);
    });
    Ok(sender)
}
