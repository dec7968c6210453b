//! An HTTP/1 client's call as a parsed message, and the reply written back: for modules, APIs and HTTP/2
//! endpoints.

use bytes::Bytes;
use dodai_core::body::{Body, CREDIT, Writer, pipe};
use dodai_core::call::{Call, Context, Reply, Serve};
use dodai_core::failure::{Failure, Kind};
use dodai_core::snapshot::Role;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::time::Instant;

use crate::attempt::{Sent, Terms};
use crate::h1::{self, Flow, Framing};
use crate::message;
use crate::reach::Reach;
use crate::relay::Ended;
use crate::request::Request;
use crate::serve_h1::{Client, Next};
use crate::spine::{Forward, Outcome};
use crate::wire::Broken;

/// One try at an endpoint that is not relayed to.
pub async fn once(
    client: &Client,
    request: &mut Request,
    forward: &Forward,
    reach: Reach,
    terms: &Terms<'_>,
    outcome: &mut Outcome,
) -> Ended {
    if request.upgrade && !matches!(reach, Reach::Http1(_)) {
        let failure = Failure::new(Kind::NotImplemented, "this endpoint cannot take over a connection");
        return Ended::Failed(failure, Sent::NOTHING);
    }
    let answer = |call| message::carry(&client.worker, reach, call, &forward.service.spec.breaker);
    let edit = |reply: &mut Reply| forward.effects.response.apply_to(&mut reply.head.headers);
    converse(client, request, answer, edit, terms.idle_timeout, terms.max_body, outcome).await
}

/// A call to the runtime API of the app that the listener belongs to.
pub async fn to_api(client: &Client, request: &mut Request, outcome: &mut Outcome) -> Next {
    let limits = &client.worker.shared.limits;
    let Role::Api { app } = &client.side.listener.role else { return Next::Close };
    let Some(api) = client.worker.shared.apis.load().get(app).cloned() else {
        let failure = Failure::new(Kind::NoEndpoint, format!("the runtime API of {app} is not up"));
        return client.failed(request, failure, outcome).await;
    };
    client.deadline.set(limits.call_timeout);
    let answer = |call| async move { serve_shared(api, call).await };
    match converse(client, request, answer, |_| {}, limits.idle_timeout, None, outcome).await {
        Ended::Answered(next) => next,
        Ended::Failed(failure, _) => client.failed(request, failure, outcome).await,
        Ended::Cut(failure) => {
            outcome.failure = Some(failure);
            Next::Close
        }
        Ended::ClientGone | Ended::Status(..) => Next::Close,
    }
}

async fn serve_shared(api: Arc<dyn Serve>, call: Call) -> Result<Reply, Failure> {
    api.serve(call).await
}

/// Turns the request into a call, gives it to `answer`, and writes the reply.
async fn converse<F: Future<Output = Result<Reply, Failure>>>(
    client: &Client,
    request: &mut Request,
    answer: impl FnOnce(Call) -> F,
    edit: impl FnOnce(&mut Reply),
    idle: Duration,
    max: Option<u64>,
    outcome: &mut Outcome,
) -> Ended {
    let head = match request.parts() {
        Ok(head) => head,
        Err(failure) => return Ended::Failed(failure, Sent::NOTHING),
    };
    let initial = request.bytes[request.head_len..].to_vec();
    let mut upload = std::mem::replace(&mut request.upload, Flow::Done);
    let (body, writer) = match start_body(request, initial, &upload, client) {
        Ok(started) => started,
        Err(failure) => return Ended::Failed(failure, Sent::NOTHING),
    };
    let deadline = client.worker.shared.limits.call_timeout;
    let mut context = Context::new(client.side.caller.clone(), request.lap.span);
    context.deadline = Some((Instant::now() + deadline).into_std());
    let streaming = writer.is_some();
    let exchange = async {
        let reply = match client.deadline.bound(answer(Call { head, body, context })).await {
            Some(Ok(reply)) => reply,
            Some(Err(failure)) => return Ended::Failed(failure, if streaming { Sent::BODY } else { Sent::HEAD }),
            None => {
                let failure = Failure::new(Kind::Timeout, "no answer in time");
                return Ended::Failed(failure, Sent::BODY);
            }
        };
        let mut reply = reply;
        edit(&mut reply);
        outcome.status = reply.head.status.as_u16();
        outcome.first_byte = Some(request.lap.start.elapsed());
        write_reply(client, request, reply, streaming, idle, &mut outcome.sent).await
    };
    let ended = match writer {
        None => watch_client(client, exchange).await,
        Some(writer) => {
            client.upload.set(idle);
            let ended = with_upload(exchange, feed(client, request, &mut upload, writer, idle, max)).await;
            client.upload.clear();
            ended
        }
    };
    let unread = !upload.is_done();
    request.upload = upload;
    match ended {
        Ended::Answered(Next::Keep) if unread => Ended::Answered(Next::Linger),
        ended => ended,
    }
}

/// The body of the call, and its writer if more is to come.
fn start_body(
    request: &Request,
    initial: Vec<u8>,
    upload: &Flow,
    client: &Client,
) -> Result<(Body, Option<Writer>), Failure> {
    let bad = |bad: h1::BadChunk| Failure::new(Kind::BadRequest, bad.0);
    let content = if request.framing == Framing::Chunked {
        let mut content = Vec::new();
        let mut decoder = Flow::new(Framing::Chunked, &client.worker.shared.limits);
        decoder.decode(&initial, |run| content.extend_from_slice(run)).map_err(bad)?;
        content
    } else {
        initial
    };
    if upload.is_done() {
        return Ok((Body::full(content), None));
    }
    let length = match request.framing {
        Framing::Length(length) => Some(length),
        Framing::Empty | Framing::Chunked | Framing::UntilClose => None,
    };
    let (mut writer, body) = pipe(CREDIT, length);
    let _first = writer.push(Bytes::from(content));
    Ok((body, Some(writer)))
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

/// Runs the exchange beside the upload; only a client that fails ends the exchange.
async fn with_upload(exchange: impl Future<Output = Ended>, feed: impl Future<Output = Result<(), Option<Failure>>>) -> Ended {
    let mut exchange = std::pin::pin!(exchange);
    let mut feed = std::pin::pin!(feed);
    let mut feeding = true;
    poll_fn(|cx| {
        if feeding && let Poll::Ready(fed) = feed.as_mut().poll(cx) {
            feeding = false;
            match fed {
                Ok(()) => {}
                Err(Some(failure)) => return Poll::Ready(Ended::Failed(failure, Sent::BODY)),
                Err(None) => return Poll::Ready(Ended::ClientGone),
            }
        }
        exchange.as_mut().poll(cx)
    })
    .await
}

/// Feeds the rest of the request body to the call.
async fn feed(
    client: &Client,
    request: &Request,
    upload: &mut Flow,
    mut writer: Writer,
    idle: Duration,
    max: Option<u64>,
) -> Result<(), Option<Failure>> {
    if request.expect_continue && request.bytes.len() == request.head_len {
        client.wire.write_all(b"HTTP/1.1 100 Continue\r\n\r\n", &client.upload).await.map_err(|_| None)?;
    }
    // The decoder of the first bytes saw the same coding as `upload` did, so both stand at the same place.
    let mut received = (request.bytes.len() - request.head_len) as u64;
    while !upload.is_done() {
        if poll_fn(|cx| writer.poll_ready(cx)).await.is_err() {
            return Ok(());
        }
        client.upload.set(idle);
        let got = match client.wire.read(&client.worker, &client.upload).await {
            Ok(0) | Err(Broken::Io(_)) => return Err(None),
            Ok(got) => got,
            Err(Broken::TimedOut) => {
                return Err(Some(Failure::new(Kind::ClientTimeout, "the request body stood still for too long")));
            }
        };
        let mut content = Vec::new();
        {
            let scratch = client.worker.scratch.borrow();
            let used = upload
                .decode(&scratch[..got], |run| content.extend_from_slice(run))
                .map_err(|bad| Some(Failure::new(Kind::BadRequest, bad.0)))?;
            client.carry.borrow_mut().extend_from_slice(&scratch[used..got]);
        }
        received += content.len() as u64;
        if max.is_some_and(|max| received > max) {
            return Err(Some(Failure::new(Kind::BodyTooLarge, "the body is larger than this route allows")));
        }
        if writer.push(Bytes::from(content)).is_err() {
            return Ok(());
        }
    }
    writer.finish(None);
    Ok(())
}

/// Writes a reply.
async fn write_reply(
    client: &Client,
    request: &Request,
    mut reply: Reply,
    uploading: bool,
    idle: Duration,
    sent: &mut u64,
) -> Ended {
    let status = reply.head.status.as_u16();
    let no_body = request.is_head || status == 204 || status == 304;
    let length = reply.body.exact_length();
    let framing = match length {
        _ if no_body => Framing::Empty,
        Some(length) => Framing::Length(length),
        None if request.http10 => Framing::UntilClose,
        None => Framing::Chunked,
    };
    let close = !request.keep_alive || request.http10 || (uploading && !request.is_whole() && length.is_none())
        || client.worker.tasks.is_closing();
    let mut out = client.worker.buffer();
    let shown = if request.is_head { length.map_or(framing, Framing::Length) } else { framing };
    h1::write_map_response(&mut out, &reply.head, shown, close);
    let mut started = false;
    loop {
        let frame = if no_body { None } else { next_frame(client, &mut reply.body, idle, &mut out, &mut started).await };
        match frame {
            None => break,
            Some(Err(Lost::Client)) => return Ended::ClientGone,
            Some(Err(Lost::Endpoint(failure))) => {
                return if started { Ended::Cut(failure) } else { Ended::Failed(failure, Sent::BODY) };
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    *sent += data.len() as u64;
                    push_data(&mut out, &data, framing);
                }
                Err(frame) => {
                    if let (Framing::Chunked, Ok(trailers)) = (framing, frame.into_trailers()) {
                        push_end(&mut out, Some(&trailers));
                        return flush(client, out, close).await;
                    }
                }
            },
        }
        if out.len() >= 32 * 1024 {
            started = true;
            client.deadline.set(idle);
            if client.wire.write_all(&out, &client.deadline).await.is_err() {
                return Ended::ClientGone;
            }
            out.clear();
        }
    }
    if framing == Framing::Chunked {
        push_end(&mut out, None);
    }
    flush(client, out, close).await
}

enum Lost {
    Client,
    Endpoint(Failure),
}

/// The next frame; while there is none, what is written so far goes out.
async fn next_frame(
    client: &Client,
    body: &mut Body,
    idle: Duration,
    out: &mut Vec<u8>,
    started: &mut bool,
) -> Option<Result<http_body::Frame<Bytes>, Lost>> {
    let ready = poll_fn(|cx| Poll::Ready(http_body::Body::poll_frame(std::pin::Pin::new(body), cx))).await;
    let frame = match ready {
        Poll::Ready(frame) => frame,
        Poll::Pending => {
            if !out.is_empty() {
                *started = true;
                client.deadline.set(idle);
                if client.wire.write_all(out, &client.deadline).await.is_err() || client.wire.flush().await.is_err() {
                    return Some(Err(Lost::Client));
                }
                out.clear();
            }
            client.deadline.set(idle);
            match client.deadline.bound(body.frame()).await {
                Some(frame) => frame,
                None => Some(Err(Failure::new(Kind::Idle, "the response body stood still for too long"))),
            }
        }
    };
    frame.map(|frame| frame.map_err(Lost::Endpoint))
}

fn push_data(out: &mut Vec<u8>, data: &[u8], framing: Framing) {
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
    for (name, value) in trailers.into_iter().flatten() {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

async fn flush(client: &Client, out: Vec<u8>, close: bool) -> Ended {
    client.deadline.set(client.worker.shared.limits.idle_timeout);
    let written = client.wire.write_all(&out, &client.deadline).await;
    client.worker.recycle(out);
    if written.is_err() || client.wire.flush().await.is_err() {
        return Ended::ClientGone;
    }
    Ended::Answered(if close { Next::Linger } else { Next::Keep })
}

