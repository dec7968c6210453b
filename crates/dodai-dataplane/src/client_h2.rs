//! Parsed calls over shared HTTP/2 connections to endpoints: one connection per endpoint and thread, more
//! when its streams are used up.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::Poll;

use bytes::Bytes;
use dodai_core::call::{Call, Reply};
use dodai_core::failure::{Blame, Failure, Kind};
use dodai_core::task;
use h2::client::SendRequest;
use http::Request;
use http::uri::Scheme;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::bodies::guarded;
use crate::cork::{Corked, cork};
use crate::endpoint::Key;
use crate::h2_body;
use crate::reach::{Target, dial};
use crate::serve_h2::clean;
use crate::worker::Worker;

/// Connections per endpoint and thread at most.
const MAX_CONNECTIONS: usize = 8;

/// The HTTP/2 connections of one thread.
#[derive(Default)]
pub struct Connections(RefCell<HashMap<Key, Rc<Pool>>>);

/// The connections to one endpoint.
#[derive(Default)]
struct Pool {
    live: RefCell<Vec<Shared>>,
    /// Whether somebody is opening one; whoever else needs it waits for that.
    opening: Cell<bool>,
    opened: Notify,
}

struct Shared {
    sender: SendRequest<Bytes>,
    used: Cell<Instant>,
    streams: Arc<AtomicUsize>,
    closed: Rc<Cell<bool>>,
}

/// A stream under way on a connection.
struct Stream(Arc<AtomicUsize>);

impl Stream {
    fn new(count: &Arc<AtomicUsize>) -> Stream {
        count.fetch_add(1, Relaxed);
        Stream(count.clone())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Connections {
    /// Closes what was not used since `oldest`. Dropping the last sender lets a connection end once its
    /// streams have.
    pub fn sweep(&self, oldest: Instant) {
        self.0.borrow_mut().retain(|_, pool| {
            let mut live = pool.live.borrow_mut();
            live.retain(|one| {
                !one.closed.get() && (one.streams.load(Relaxed) > 0 || one.used.get() > oldest)
            });
            !live.is_empty() || pool.opening.get()
        });
    }

    /// Lets every connection end once its streams have.
    pub fn close(&self) {
        self.0.borrow_mut().clear();
    }

    /// Open connections, all endpoints together.
    pub fn count(&self) -> usize {
        self.0.borrow().values().map(|pool| pool.live.borrow().len()).sum()
    }

    fn pool(&self, key: &Key) -> Rc<Pool> {
        if let Some(pool) = self.0.borrow().get(key) {
            return pool.clone();
        }
        self.0.borrow_mut().entry(key.clone()).or_default().clone()
    }
}

impl Pool {
    /// The connection with the fewest streams, if it has room or there can be no other.
    fn take(&self) -> Option<(SendRequest<Bytes>, Stream)> {
        let mut live = self.live.borrow_mut();
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        // A connection that was told to go away says so here.
        live.retain_mut(|one| {
            !one.closed.get() && !matches!(one.sender.poll_ready(&mut cx), Poll::Ready(Err(_)))
        });
        let full = live.len() >= MAX_CONNECTIONS;
        let best = live.iter().min_by_key(|one| one.streams.load(Relaxed))?;
        if best.streams.load(Relaxed) >= best.sender.current_max_send_streams() && !full {
            return None;
        }
        best.used.set(Instant::now());
        Some((best.sender.clone(), Stream::new(&best.streams)))
    }
}

/// While it lives, one caller opens a connection and the others wait.
struct Opening(Rc<Pool>);

impl Drop for Opening {
    fn drop(&mut self) {
        self.0.opening.set(false);
        self.0.opened.notify_waiters();
    }
}

/// A sender for one stream, over an open connection or a new one.
async fn sender(worker: &Rc<Worker>, target: &Target) -> Result<(SendRequest<Bytes>, Stream, bool), Failure> {
    let pool = worker.h2.pool(&target.key);
    loop {
        if let Some((sender, stream)) = pool.take() {
            return Ok((sender, stream, false));
        }
        if pool.opening.get() {
            pool.opened.notified().await;
            continue;
        }
        pool.opening.set(true);
        let _opening = Opening(pool.clone());
        let shared = connect(worker, target).await?;
        let (sender, stream) = (shared.sender.clone(), Stream::new(&shared.streams));
        pool.live.borrow_mut().push(shared);
        return Ok((sender, stream, true));
    }
}

/// Sends a call and waits for the head of the reply. The caller bounds the wait.
pub async fn send(worker: &Rc<Worker>, target: Target, call: Call) -> Result<Reply, Failure> {
    let (sender, under_way, fresh) = sender(worker, &target).await?;
    let unsent = |error: &h2::Error| {
        let kind = if fresh { Kind::Connect } else { Kind::Refused };
        Failure::new(kind, format!("{} takes no new stream: {error}", target.key.address))
    };
    let mut sender = sender.ready().await.map_err(|error| unsent(&error))?;
    let Call { mut head, body, .. } = call;
    clean(&mut head.headers);
    head.version = http::Version::HTTP_2;
    complete_uri(&mut head, target.key.tls.is_some());
    let ended = http_body::Body::is_end_stream(&body);
    let request = Request::from_parts(head, ());
    let (response, stream) = sender.send_request(request, ended).map_err(|error| unsent(&error))?;
    // The upload ends with the call: this sender is dropped with the wait for the head, or with the reply.
    let (wanted, unwanted) = oneshot::channel::<()>();
    let cut = Rc::new(RefCell::new(None));
    if !ended {
        let (cut, deadline, idle) =
            (cut.clone(), worker.deadlines.register(), worker.shared.limits.idle_timeout);
        worker.tasks.spawn_local(task::Kind::Call, async move {
            tokio::select! {
                // Dropping the upload resets the stream.
                sent = h2_body::send(stream, body, &deadline, idle) => *cut.borrow_mut() = sent.err(),
                _ = unwanted => {}
            }
        });
    }
    let response = response.await.map_err(|error| {
        // A request body that failed by itself (too large, client gone) is the real reason for the reset.
        let of_body =
            cut.borrow_mut().take().filter(|failure: &Failure| failure.kind.blame() == Blame::Client);
        of_body
            .filter(|failure| failure.kind != Kind::ClientGone)
            .unwrap_or_else(|| answer_failure(&error, &target))
    })?;
    let (head, stream) = response.into_parts();
    let length = h2_body::announced(&head.headers);
    let reply = Reply { head, body: h2_body::received(stream, length) };
    Ok(guarded(reply, Some((under_way, wanted))))
}

/// An HTTP/2 request carries scheme and authority; the `Host` header becomes the authority.
fn complete_uri(head: &mut http::request::Parts, secure: bool) {
    let host = head.headers.remove(http::header::HOST);
    let mut uri = std::mem::take(&mut head.uri).into_parts();
    if uri.authority.is_none() {
        uri.authority = host.and_then(|host| host.as_bytes().try_into().ok());
    }
    if uri.authority.is_some() {
        let said = uri.scheme.take().unwrap_or(Scheme::HTTP);
        uri.scheme = Some(if secure { Scheme::HTTPS } else { said });
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
async fn connect(worker: &Rc<Worker>, target: &Target) -> Result<Shared, Failure> {
    let limits = &worker.shared.limits;
    let (io, cork) = cork(dial(worker, target).await?, Vec::new());
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
    let failed = |error: h2::Error| {
        Failure::new(Kind::Connect, format!("{} does not speak HTTP/2: {error}", target.key.address))
    };
    let (sender, mut connection) = shaken.await.map_err(failed)?;
    let closed = Rc::new(Cell::new(false));
    let shared =
        Shared { sender, used: Cell::new(Instant::now()), streams: Arc::default(), closed: closed.clone() };
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
    Ok(shared)
}
