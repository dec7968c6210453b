//! An HTTP/1 client's call as a parsed message, and the reply written back: for modules, APIs and HTTP/2
//! endpoints.

use bytes::Bytes;
use dodai_core::body::{Body, CREDIT, Writer, pipe};
use dodai_core::call::{Call, Context, Reply, Serve};
use dodai_core::failure::{Failure, Kind};
use dodai_core::head::{Edits, RequestHead};
use dodai_core::snapshot::Role;
use std::cell::Cell;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use tokio::time::Instant;

use crate::attempt::{Sent, Terms};
use crate::h1::{self, Flow, Framing};
use crate::h2_upgrade;
use crate::limits::KEPT_BODY;
use crate::message;
use crate::reach::Reach;
use crate::refused::{Refused, retry_after};
use crate::relay::{Again, Ended};
use crate::replay::Replay;
use crate::request::Request;
use crate::serve_h1::{self, Client, Next};
use crate::spine::{self, Forward, Outcome};
use crate::timer::Patience;
use crate::trailers::is_forbidden;
use crate::tries::Asked;
use crate::wire::Broken;

/// One try at an endpoint that is not relayed to.
#[expect(clippy::too_many_arguments, reason = "one call's parts")]
pub async fn once(
    client: &Client,
    request: &mut Request,
    forward: &Forward,
    reach: Reach,
    terms: &Terms<'_>,
    deadline: Instant,
    again: Again<'_>,
    outcome: &mut Outcome,
) -> Ended {
    let reach = match reach {
        Reach::Http2(target) if request.upgrade => {
            return h2_upgrade::once(client, request, forward, &target, terms, again, outcome).await;
        }
        Reach::Serve(..) if request.upgrade => {
            let failure = Failure::new(Kind::NotImplemented, "this endpoint cannot take over a connection");
            return Ended::Failed(failure, Sent::NOTHING);
        }
        reach @ (Reach::Http1(_) | Reach::Http2(_) | Reach::Serve(..)) => reach,
    };
    let answer = |call| message::carry(&client.worker, reach, call, &forward.service.spec.breaker);
    let mut edits = Edits::new();
    request.response_edits(Some(forward), outcome.endpoint.as_deref(), &mut edits);
    let edit = |reply: &mut Reply| {
        edits.apply_to(&mut reply.head.headers);
        forward.slow(reply);
    };
    let bounds = Bounds { forward: Some(forward), deadline, patience: terms.patience, max: terms.max_body };
    converse(client, request, answer, edit, again, bounds, outcome).await
}

/// Writes a reply to a client whose request has arrived whole.
pub async fn write(
    client: &Client,
    request: &Request,
    forward: &Forward,
    reply: Reply,
    patience: Patience,
    outcome: &mut Outcome,
) -> Ended {
    let progress = Progress { started: Cell::new(false), fed: Cell::new(true) };
    let forward = Some(forward);
    Writing { client, request, forward, progress: &progress, patience }.reply(reply, &mut outcome.sent).await
}

/// A call to the runtime API of the app that the listener belongs to.
pub async fn to_api(client: &Client, request: &mut Request, outcome: &mut Outcome) -> Next {
    let limits = &client.worker.shared.limits;
    let Role::Api { app } = &client.side.listener.role else { return Next::Close };
    let Some(api) = client.worker.shared.apis.load().get(app).cloned() else {
        let failure = Failure::new(Kind::NoEndpoint, format!("the runtime API of {app} is not up"));
        return client.failed(request, failure, outcome).await;
    };
    let deadline = Instant::now() + limits.call_timeout;
    client.deadline.set_at(deadline);
    let answer = |call| async move { serve_shared(api, call).await };
    let patience = Patience { idle: limits.idle_timeout, end: None };
    let bounds = Bounds { forward: None, deadline, patience, max: None };
    let ended = converse(client, request, answer, |_| {}, &|_, _| None, bounds, outcome).await;
    conclude(client, request, ended, outcome).await
}

/// A call whose tries are made side by side, for which it must be a parsed message.
pub async fn hedged(
    client: &Client,
    request: &mut Request,
    forward: &Forward,
    outcome: &mut Outcome,
) -> Next {
    let limits = &client.worker.shared.limits;
    let start = request.lap.start;
    let terms = forward.terms(start, limits);
    if let Some(failure) = serve_h1::over_limit(request, terms.max_body) {
        return client.failed(request, failure, outcome).await;
    }
    let deadline = start + terms.timeout;
    client.deadline.set_at(deadline);
    let mut inner = Outcome::default();
    let told = &mut inner;
    let answer = move |call: Call| async move {
        let Call { head, body, context } = call;
        let body = Replay::new(body, KEPT_BODY, None);
        let asked = Asked { head: &head, body: &body, context: &context, start };
        message::send_on(&client.worker, &client.side, forward, asked, told).await
    };
    let bounds = Bounds { forward: Some(forward), deadline, patience: terms.patience, max: terms.max_body };
    let conversation = converse(client, request, answer, |_| {}, &|_, _| None, bounds, outcome);
    let ended = Box::pin(conversation).await;
    (outcome.retries, outcome.endpoint) = (inner.retries, inner.endpoint);
    outcome.failure = inner.failure;
    conclude(client, request, ended, outcome).await
}

/// What becomes of the connection after a conversation without another try.
async fn conclude(client: &Client, request: &Request, ended: Ended, outcome: &mut Outcome) -> Next {
    match ended {
        Ended::Answered(next) => next,
        Ended::Failed(failure, _) => client.failed(request, failure, outcome).await,
        Ended::Cut(failure) => {
            outcome.failure = Some(failure);
            Next::Close
        }
        Ended::ClientGone | Ended::Again(..) => {
            outcome.failure = Some(Failure::new(Kind::ClientGone, "the client went away"));
            Next::Close
        }
    }
}

async fn serve_shared(api: Arc<dyn Serve>, call: Call) -> Result<Reply, Failure> {
    api.serve(call).await
}

/// What a conversation may cost.
#[derive(Clone, Copy)]
struct Bounds<'a> {
    /// How the call is sent on, if by a route: it may be allowed no more.
    forward: Option<&'a Forward>,
    /// When the head of the reply must be there.
    deadline: Instant,
    /// How its bodies must move.
    patience: Patience,
    /// The largest request body.
    max: Option<u64>,
}

/// Where a conversation stands, for both of its directions.
#[derive(Default)]
struct Progress {
    /// Whether a byte of the reply may have reached the client.
    started: Cell<bool>,
    /// Whether the request body has arrived whole.
    fed: Cell<bool>,
}

/// Turns the request into a call, gives it to `answer`, and writes the reply.
async fn converse<F: Future<Output = Result<Reply, Failure>>>(
    client: &Client,
    request: &mut Request,
    answer: impl FnOnce(Call) -> F,
    edit: impl FnOnce(&mut Reply),
    again: Again<'_>,
    bounds: Bounds<'_>,
    outcome: &mut Outcome,
) -> Ended {
    let head = match request.parts() {
        Ok(head) => head,
        Err(failure) => return Ended::Failed(failure, Sent::NOTHING),
    };
    let mut upload = std::mem::replace(&mut request.upload, Flow::Done);
    let Started { body, writer, trailers } = match start_body(request, &upload, client) {
        Ok(started) => started,
        Err(failure) => {
            request.upload = upload;
            return Ended::Failed(failure, Sent::NOTHING);
        }
    };
    let mut context = Context::new(client.side.caller.clone(), request.lap.span);
    context.deadline = Some(bounds.deadline.into_std());
    context.hops = spine::hops(&RequestHead::Map(&head));
    let streaming = writer.is_some();
    let progress = Progress { started: Cell::new(false), fed: Cell::new(!streaming) };
    let sent = if streaming { Sent::BODY } else { Sent::HEAD };
    let exchange = async {
        let mut reply = match client.deadline.bound(answer(Call { head, body, context })).await {
            Some(Ok(reply)) => reply,
            Some(Err(failure)) => return Ended::Failed(failure, sent),
            None => return Ended::Failed(Failure::new(Kind::Timeout, "no answer in time"), sent),
        };
        if let Err(failure) = request.review(client, bounds.forward) {
            return Ended::Failed(failure, sent);
        }
        let status = reply.head.status.as_u16();
        if let Some(wait) = again(Refused::of(status, || retry_after(&reply.head.headers)), sent) {
            return Ended::Again(status, wait);
        }
        edit(&mut reply);
        outcome.answered(&request.lap, Instant::now());
        request
            .lap
            .note(&client.worker, |name| reply.head.headers.get(name).map(http::HeaderValue::as_bytes));
        outcome.status = reply.head.status.as_u16();
        let Bounds { forward, patience, .. } = bounds;
        Writing { client, request, forward, progress: &progress, patience }
            .reply(reply, &mut outcome.sent)
            .await
    };
    let mut received = (request.bytes.len() - request.head_len) as u64;
    let ended = match writer {
        None => watch_client(client, exchange).await,
        Some(writer) => {
            client.upload.set_at(bounds.patience.due());
            let feed = feed(client, request, &mut upload, writer, trailers, bounds, &mut received);
            let ended = with_upload(client, exchange, feed, &progress).await;
            client.upload.clear();
            ended
        }
    };
    outcome.received = received;
    let unread = !upload.is_done();
    request.upload = upload;
    if unread && matches!(ended, Ended::Answered(Next::Keep)) { Ended::Answered(Next::Linger) } else { ended }
}

/// The body of a call, and its writer if more is to come, with the bytes of trailers that came already.
struct Started {
    body: Body,
    writer: Option<Writer>,
    trailers: Vec<u8>,
}

fn start_body(request: &Request, upload: &Flow, client: &Client) -> Result<Started, Failure> {
    let bad = |bad: h1::BadChunk| Failure::new(Kind::BadRequest, bad.0);
    let initial = &request.bytes[request.head_len..];
    let (mut content, mut trailers) = (Vec::new(), Vec::new());
    // This decoder sees what `upload` has seen, so afterwards both stand at the same place.
    let mut decoder = Flow::new(request.framing, &client.worker.shared.limits);
    decoder
        .decode_with(initial, |run| content.extend_from_slice(run), |byte| trailers.push(byte))
        .map_err(bad)?;
    if upload.is_done() && trailers.len() <= 2 {
        return Ok(Started { body: Body::full(content), writer: None, trailers });
    }
    let length = match request.framing {
        Framing::Length(length) => Some(length),
        Framing::Empty | Framing::Chunked | Framing::UntilClose => None,
    };
    let (mut writer, body) = pipe(CREDIT, length);
    let _first = writer.push(Bytes::from(content));
    if upload.is_done() {
        writer.finish(h1::parse_trailers(&trailers));
        return Ok(Started { body, writer: None, trailers });
    }
    Ok(Started { body, writer: Some(writer), trailers })
}

/// Runs the exchange while watching for a client that leaves.
async fn watch_client(client: &Client, exchange: impl Future<Output = Ended>) -> Ended {
    let mut exchange = std::pin::pin!(exchange);
    poll_fn(|cx| {
        if let Poll::Ready(ended) = exchange.as_mut().poll(cx) {
            return Poll::Ready(ended);
        }
        if client.is_gone(cx) { Poll::Ready(Ended::ClientGone) } else { Poll::Pending }
    })
    .await
}

/// Runs the exchange beside the upload; only a client that fails or leaves ends the exchange.
async fn with_upload(
    client: &Client,
    exchange: impl Future<Output = Ended>,
    feed: impl Future<Output = Result<(), Option<Failure>>>,
    progress: &Progress,
) -> Ended {
    let mut exchange = std::pin::pin!(exchange);
    let mut feed = std::pin::pin!(feed);
    let mut feeding = true;
    poll_fn(|cx| {
        if feeding && let Poll::Ready(fed) = feed.as_mut().poll(cx) {
            feeding = false;
            match fed {
                Ok(()) => progress.fed.set(true),
                Err(Some(failure)) if progress.started.get() => return Poll::Ready(Ended::Cut(failure)),
                Err(Some(failure)) => return Poll::Ready(Ended::Failed(failure, Sent::BODY)),
                Err(None) => return Poll::Ready(Ended::ClientGone),
            }
        }
        if let Poll::Ready(ended) = exchange.as_mut().poll(cx) {
            return Poll::Ready(ended);
        }
        if !feeding && client.is_gone(cx) { Poll::Ready(Ended::ClientGone) } else { Poll::Pending }
    })
    .await
}

/// Feeds the rest of the request body to the call. Ends early when nobody wants it any more.
async fn feed(
    client: &Client,
    request: &Request,
    upload: &mut Flow,
    mut writer: Writer,
    mut trailers: Vec<u8>,
    bounds: Bounds<'_>,
    received: &mut u64,
) -> Result<(), Option<Failure>> {
    if request.expect_continue && request.bytes.len() == request.head_len {
        client.wire.write_all(b"HTTP/1.1 100 Continue\r\n\r\n", &client.upload).await.map_err(|_| None)?;
        client.wire.flush(&client.upload).await.map_err(|_| None)?;
    }
    while !upload.is_done() {
        if poll_fn(|cx| writer.poll_ready(cx)).await.is_err() {
            return Ok(());
        }
        client.upload.set_at(bounds.patience.due());
        let got = match client.wire.read(&client.worker, &client.upload).await {
            Ok(0) | Err(Broken::Io(_)) => return Err(None),
            Ok(got) => got,
            Err(Broken::TimedOut) => {
                let text = "the request body stood still for too long";
                return Err(Some(bounds.patience.late(Kind::ClientTimeout, text)));
            }
        };
        if let Err(failure) = request.review(client, bounds.forward) {
            writer.fail(failure.clone());
            return Err(Some(failure));
        }
        let mut content = Vec::new();
        {
            let scratch = client.worker.scratch.borrow();
            let used = upload
                .decode_with(
                    &scratch[..got],
                    |run| content.extend_from_slice(run),
                    |byte| trailers.push(byte),
                )
                .map_err(|bad| Some(Failure::new(Kind::BadRequest, bad.0)))?;
            client.carry.borrow_mut().extend_from_slice(&scratch[used..got]);
            *received += used as u64;
        }
        if bounds.max.is_some_and(|max| *received - upload.coding() > max) {
            let failure = Failure::new(Kind::BodyTooLarge, "the body is larger than this route allows");
            writer.fail(failure.clone());
            return Err(Some(failure));
        }
        if writer.push(Bytes::from(content)).is_err() {
            return Ok(());
        }
    }
    writer.finish(h1::parse_trailers(&trailers));
    Ok(())
}

/// Writes one reply.
struct Writing<'a> {
    client: &'a Client,
    request: &'a Request,
    forward: Option<&'a Forward>,
    progress: &'a Progress,
    patience: Patience,
}

impl Writing<'_> {
    async fn reply(&self, mut reply: Reply, sent: &mut u64) -> Ended {
        let Writing { client, request, .. } = *self;
        let status = reply.head.status.as_u16();
        let no_body = request.is_head || status == 204 || status == 304;
        let framing = match reply.body.exact_length() {
            _ if no_body => Framing::Empty,
            Some(length) => Framing::Length(length),
            None if request.http10 => Framing::UntilClose,
            None => Framing::Chunked,
        };
        let close = !request.keep_alive || request.http10 || !self.progress.fed.get() || client.is_ending();
        let mut out = client.worker.buffer();
        // Without a body, a length still says what a GET would bring.
        let announced = crate::h2_body::announced(&reply.head.headers).filter(|_| no_body && status != 204);
        h1::write_map_response(&mut out, &reply.head, announced.map_or(framing, Framing::Length), close);
        let mut left = match framing {
            Framing::Length(length) => Some(length),
            Framing::Empty | Framing::Chunked | Framing::UntilClose => None,
        };
        if no_body {
            return self.flush(out, close).await;
        }
        let until_close = framing == Framing::UntilClose;
        if until_close {
            // The body is whole when the connection ends in order, so it may not before.
            client.wire.with(|stream| stream.set_abrupt(true));
        }
        loop {
            let frame = match self.next_frame(&mut reply.body, &mut out).await {
                None => break,
                Some(Ok(frame)) => frame,
                Some(Err(Lost::Client)) => return Ended::ClientGone,
                Some(Err(Lost::Endpoint(failure))) => return self.lost(failure),
            };
            match frame.into_data() {
                Ok(data) => {
                    if let Some(left) = &mut left {
                        let Some(rest) = left.checked_sub(data.len() as u64) else {
                            return self
                                .lost(Failure::new(Kind::Protocol, "the body is longer than announced"));
                        };
                        *left = rest;
                    }
                    *sent += data.len() as u64;
                    push_data(&mut out, &data, framing);
                }
                Err(frame) => {
                    if let (Framing::Chunked, Ok(trailers)) = (framing, frame.into_trailers()) {
                        push_end(&mut out, Some(&trailers));
                        return self.flush(out, close).await;
                    }
                }
            }
            if out.len() >= 32 * 1024 && self.write(&mut out).await.is_err() {
                return Ended::ClientGone;
            }
        }
        if left.is_some_and(|left| left > 0) {
            return self.lost(Failure::new(Kind::Protocol, "the body is shorter than announced"));
        }
        if framing == Framing::Chunked {
            push_end(&mut out, None);
        }
        let ended = self.flush(out, close).await;
        if until_close && matches!(ended, Ended::Answered(_)) {
            client.wire.with(|stream| stream.set_abrupt(false));
        }
        ended
    }

    /// What it means that the body ended early: another answer is possible as long as nothing went out.
    fn lost(&self, failure: Failure) -> Ended {
        if self.progress.started.get() { Ended::Cut(failure) } else { Ended::Failed(failure, Sent::BODY) }
    }

    /// Writes what there is, and empties it.
    async fn write(&self, out: &mut Vec<u8>) -> Result<(), Broken> {
        self.progress.started.set(true);
        self.client.deadline.set_at(self.patience.due());
        self.client.wire.write_all(out, &self.client.deadline).await?;
        out.clear();
        Ok(())
    }

    async fn flush(&self, mut out: Vec<u8>, close: bool) -> Ended {
        let written = self.write(&mut out).await;
        self.client.worker.recycle(out);
        if written.is_err() || self.client.wire.flush(&self.client.deadline).await.is_err() {
            return Ended::ClientGone;
        }
        Ended::Answered(if close { Next::Linger } else { Next::Keep })
    }

    /// The next frame; while there is none, what is written so far goes out.
    async fn next_frame(
        &self,
        body: &mut Body,
        out: &mut Vec<u8>,
    ) -> Option<Result<http_body::Frame<Bytes>, Lost>> {
        let ready =
            poll_fn(|cx| Poll::Ready(http_body::Body::poll_frame(std::pin::Pin::new(body), cx))).await;
        let frame = match ready {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                let deadline = &self.client.deadline;
                if !out.is_empty()
                    && (self.write(out).await.is_err() || self.client.wire.flush(deadline).await.is_err())
                {
                    return Some(Err(Lost::Client));
                }
                deadline.set_at(self.patience.due());
                match deadline.bound(body.frame()).await {
                    Some(frame) => frame,
                    None => Some(Err(self
                        .patience
                        .late(Kind::Idle, "the response body stood still for too long"))),
                }
            }
        };
        let frame = frame?.and_then(|frame| self.request.review(self.client, self.forward).map(|()| frame));
        Some(frame.map_err(Lost::Endpoint))
    }
}

enum Lost {
    Client,
    Endpoint(Failure),
}

/// One piece of a body in its framing.
pub fn push_data(out: &mut Vec<u8>, data: &[u8], framing: Framing) {
    if framing == Framing::Chunked {
        if data.is_empty() {
            return;
        }
        out.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
        out.extend_from_slice(data);
        out.extend_from_slice(b"\r\n");
    } else {
        out.extend_from_slice(data);
    }
}

/// The last chunk, with trailers if there are any.
pub fn push_end(out: &mut Vec<u8>, trailers: Option<&http::HeaderMap>) {
    out.extend_from_slice(b"0\r\n");
    let fields = trailers.into_iter().flatten();
    for (name, value) in fields.filter(|(name, _)| !is_forbidden(name.as_str().as_bytes())) {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}
